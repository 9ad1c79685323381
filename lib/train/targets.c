/* targets.c - the teacher's logits as a store may keep them, and what a loss makes of them.
 *
 * A column of logits is dense, of a dense codec, or of a sparse one. The first two give all classes' values
 * (int8) or log-probabilities (log8): the softmax at any temperature. A sparse codec that serves
 * expectations keeps weights whose mean is the teacher's softmax at the temperature of the dump. They are
 * scattered into z = T log p of a whole row, with classes that are not kept so low that their softmax is
 * exactly 0: then the fused kernel sees softmax(z / T) = p, and forward KL and cross-entropy are what they
 * are with dense targets. That takes rows x classes floats a batch, as dense logits do.
 *
 * Top-k targets say what the classes beyond k amount to, not which they are: they serve the objectives of
 * sparse targets only. Those take a sparse column as it is; its scattered form then says which class the
 * teacher puts first.
 */
#include "train_private.h"

#include <stdlib.h>
#include <string.h>

#define NOT_KEPT (-1000.0f) /* in units of T: exp gives 0 */

/* The temperature that a codec's parameters name. */
static double temperature_of(const kd_column *z)
{
    const json_t *codec = json_object_get(z->params, "codec");
    return json_number_value(json_object_get(codec, "temperature"));
}

/* One term against a column of a codec. */
static kd_status check_term(const kd_trainer *t, const kd_column *z, const kd_codec_info *codec,
                            const kd_loss_term *term, const char *where, kd_err *err)
{
    const char *store = kd_store_path(t->store);
    char serves[160];
    if ((codec->serves & term->serves) == term->serves) return KD_OK;
    kd_serves_text(codec->serves, serves, sizeof(serves));
    if (!(codec->serves & KD_SERVES_EXPECTED) || !term->linear)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: column %s (%s) serves %s; %s needs %s: dump again with kd-dump --encoding %s",
                       store, z->name, z->encoding, serves, term->label,
                       term->serves & KD_SERVES_VALUES ? "the logits themselves"
                                                       : "soft targets of all classes",
                       term->serves & KD_SERVES_VALUES ? "int8" : "log8");
    if (temperature_of(z) == term->temperature) return KD_OK;
    return kd_fail(
        err, KD_EMISMATCH,
        "%s: column %s (%s) serves %s, which is %g; the temperature of %s is %g: set %g in %s, or dump again "
        "with kd-dump --encoding %s:temperature=%g",
        store, z->name, z->encoding, serves, temperature_of(z), term->label, term->temperature,
        temperature_of(z), where, z->encoding, term->temperature);
}

/* A term of sparse targets: kept classes with their tail mass, or weights that are right on average. */
static kd_status check_sparse(const kd_trainer *t, const kd_column *z, const kd_codec_info *codec,
                              const kd_loss_term *term, const char *where, kd_err *err)
{
    const char *store = kd_store_path(t->store);
    bool weights = term->serves & KD_SERVES_EXPECTED;
    if (!codec || !codec->sparse || (codec->serves & term->serves) != term->serves)
        return kd_fail(
            err, KD_EUNSUPPORTED,
            "%s: column %s (%s) does not hold what %s needs, %s: dump again with kd-dump --encoding %s",
            store, z->name, z->encoding, term->label,
            weights ? "weights that are right on average" : "the largest classes and their tail mass",
            weights ? "head-tail" : "topk:k=64");
    double T = weights ? temperature_of(z) : 1;
    if (term->dump_temperature == T) return KD_OK;
    return kd_fail(err, KD_EMISMATCH,
                   "%s: column %s (%s) was dumped at temperature %g; dump_temperature of %s is %g: set "
                   "%g in %s",
                   store, z->name, z->encoding, T, term->label, term->dump_temperature, T, where);
}

int kd__logits_temperatures(const kd_column *z, double out[KD_CODEC_MAX_TEMPERATURES])
{
    const json_t *list = json_object_get(json_object_get(z->params, "codec"), "temperatures");
    int n = 0;
    for (size_t i = 0; i < json_array_size(list) && n < KD_CODEC_MAX_TEMPERATURES; i++)
        out[n++] = json_number_value(json_array_get(list, i));
    return n;
}

kd_status kd__logits_check(const kd_trainer *t, const kd_column *z, const kd_loss *l, const char *where,
                           kd_err *err)
{
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    kd_status st = KD_OK;
    if (z->ndims != 1 || z->dims[0] < 1 || !kd_dtype_is_float(z->dtype) ||
        (!codec && strcmp(z->encoding, "dense")))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s (%s of %s) is not one vector of logits a row",
                       kd_store_path(t->store), z->name, z->encoding, kd_dtype_name(z->dtype));
    for (int i = 0; i < kd_loss_count(l) && !st; i++) {
        kd_loss_term term = kd_loss_term_at(l, i);
        if (codec && term.needs & KD_NEEDS_LOGITS) st = check_term(t, z, codec, &term, where, err);
        if (term.needs & KD_NEEDS_SPARSE) st = check_sparse(t, z, codec, &term, where, err);
    }
    return st;
}

void kd__logits_scatter(float *z, const kd_column *c, const kd_sparse *s, uint32_t rows, size_t classes)
{
    const bool kept = kd_codec_find(c->encoding)->serves & KD_SERVES_HEAD; // log-probabilities, at T = 1
    double T = kept ? 1 : temperature_of(c);
    for (size_t i = 0; i < (size_t)rows * classes; i++) z[i] = NOT_KEPT * (float)T;
    for (uint32_t r = 0; r < rows; r++, z += classes) // (rows, classes)
        for (uint64_t e = s->offset[r]; e < s->offset[r + 1]; e++)
            if (kept)
                z[s->id[e]] = s->value[e];
            else if (s->value[e] > 0)
                z[s->id[e]] = (float)(T * kd_codec_log(s->value[e]));
}
