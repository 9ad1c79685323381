/* targets.c - what a loss makes of a teacher's logits as a store keeps them, and of those of several
 * teachers.
 *
 * A column of logits is dense, of a dense codec, or of a sparse one. The first two give all classes' values
 * (int8) or log-probabilities (log8): the softmax at any temperature. A sparse codec that serves
 * expectations keeps weights whose mean is the teacher's softmax at the temperature of the dump. They are
 * scattered into z = T log p of a whole row, with classes that are not kept so low that their softmax is
 * exactly 0: then the fused kernel sees softmax(z / T) = p, and forward KL and cross-entropy are what they
 * are with dense targets. That takes rows x classes floats a batch, as dense logits do.
 *
 * Top-k targets say what the classes beyond k amount to, not which they are: only sparse objectives read
 * them.
 *
 * Several teachers come to one row of logits: the weighted mean of their logits; T log of the weighted mean
 * of their probabilities at T, whose softmax at T is that mean; or the row of the one whose cross-entropy
 * with the label is least. Or they take turns, an epoch each; in validation the first stands for all, so that
 * epochs compare.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NOT_KEPT (-1000.0f) /* in units of T: exp gives 0 */

/* The temperature that a codec's parameters name. */
static double temperature_of(const kd_column *z)
{
    const json_t *codec = json_object_get(z->params, "codec");
    return json_number_value(json_object_get(codec, "temperature"));
}

void kd__logits_scatter_at(float *z, const kd_column *c, const kd_sparse *s, uint64_t at, size_t classes)
{
    const double T = temperature_of(c);
    for (size_t i = 0; i < classes; i++) z[i] = NOT_KEPT * (float)T;
    for (uint64_t e = s->offset[at]; e < s->offset[at + 1]; e++)
        if (s->value[e] > 0) z[s->id[e]] = (float)(T * kd_codec_log(s->value[e]));
}

void kd__logits_scatter(float *z, const kd_column *c, const kd_sparse *s, uint32_t rows, size_t classes,
                        const uint32_t *view)
{
    const size_t each = kd_column_each(c);
    for (uint32_t r = 0; r < rows; r++, z += classes) // (rows, classes)
        kd__logits_scatter_at(z, c, s, r * each + (view ? view[r] : 0), classes);
}

int kd__source_slot(const kd__source *s, const kd__state *at, bool training)
{
    return s->slot[s->how == KD__TURNS && training ? at->epoch % (uint64_t)s->n : 0];
}

kd_loss_sparse kd__sparse_rows(const kd_sparse *s, size_t first)
{
    size_t listed = first * (size_t)s->temperatures;
    return (kd_loss_sparse){.offset = s->offset + first,
                            .id = s->id,
                            .value = s->value,
                            .temperatures = s->temperatures,
                            .temperature = s->temperature,
                            .tail = s->tail + listed,
                            .logz = s->logz + listed};
}

/* log sum exp(z / T) */
static double log_sum(const float *z, size_t n, double T)
{
    double max = z[0], sum = 0;
    for (size_t c = 1; c < n; c++) max = fmax(max, z[c]);
    for (size_t c = 0; c < n; c++) sum += exp((z[c] - max) / T);
    return max / T + log(sum);
}

/* The teacher that gives the label most; the first one where there is no label. */
static int best_of(const kd__source *s, const kd__targets *g, size_t row, size_t classes)
{
    int best = 0;
    double least = INFINITY;
    if (!g->labels || g->labels[row] < 0) return 0;
    for (int k = 0; k < s->n; k++) {
        const float *z = g->values[s->slot[k]] + row * classes;
        double ce = log_sum(z, classes, 1) - z[g->labels[row]];
        if (ce < least) best = k, least = ce;
    }
    return best;
}

void kd__targets_join(const kd__source *s, const kd__targets *g, size_t row, size_t classes, double T,
                      float *out)
{
    double norm[KD__TEACHERS];
    const float *z[KD__TEACHERS]; // (classes) each
    for (int k = 0; k < s->n; k++) z[k] = g->values[s->slot[k]] + row * classes;
    if (s->how == KD__BEST) {
        memcpy(out, z[best_of(s, g, row, classes)], classes * sizeof(*out));
        return;
    }
    for (int k = 0; k < s->n && s->how == KD__MEAN_PROBABILITIES; k++) norm[k] = log_sum(z[k], classes, T);
    for (size_t c = 0; c < classes; c++) {
        double sum = 0;
        for (int k = 0; k < s->n; k++)
            sum += s->share[k] * (s->how == KD__MEAN_LOGITS ? z[k][c] : exp(z[k][c] / T - norm[k]));
        out[c] = (float)(s->how == KD__MEAN_LOGITS ? sum : sum > 0 ? T * log(sum) : NOT_KEPT * T);
    }
}
