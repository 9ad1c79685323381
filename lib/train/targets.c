/* targets.c - the teacher's logits as a store may keep them, and what a loss makes of them.
 *
 * A column of logits is dense, of a dense codec, or of a sparse one. The first two give all classes' values
 * (int8) or log-probabilities (log8): the softmax at any temperature. A sparse codec that serves
 * expectations keeps weights whose mean is the teacher's softmax at the temperature of the dump. They are
 * scattered into z = T log p of a whole row, with classes that are not kept so low that their softmax is
 * exactly 0: then the fused kernel sees softmax(z / T) = p, and forward KL and cross-entropy are what they
 * are with dense targets. That takes rows x classes floats a batch, as dense logits do.
 *
 * Top-k targets say what the classes beyond k amount to, not which they are: nothing here can serve them.
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

kd_status kd__logits_check(const kd_trainer *t, const kd_column *z, double temperature, const char *where,
                           kd_err *err)
{
    const char *store = kd_store_path(t->store);
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    char serves[160];
    if (z->ndims != (z->role == KD_ROLE_VIEW ? 2 : 1) || z->dims[0] < 1 || !kd_dtype_is_float(z->dtype) ||
        (!codec && strcmp(z->encoding, "dense")))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s (%s of %s) is not one vector of logits a row",
                       store, z->name, z->encoding, kd_dtype_name(z->dtype));
    if (!codec || codec->serves & KD_SERVES_SOFTMAX) return KD_OK;
    kd_serves_text(codec->serves, serves, sizeof(serves));
    if (!(codec->serves & KD_SERVES_EXPECTED))
        return kd_fail(
            err, KD_EUNSUPPORTED,
            "%s: column %s (%s) serves %s; loss.kd needs soft targets of all classes: dump again with "
            "kd-dump --encoding log8",
            store, z->name, z->encoding, serves);
    if (temperature_of(z) == temperature) return KD_OK;
    return kd_fail(
        err, KD_EMISMATCH,
        "%s: column %s (%s) serves %s, which is %g; loss.temperature is %g: set %g in %s, or dump again "
        "with kd-dump --encoding %s:temperature=%g",
        store, z->name, z->encoding, serves, temperature_of(z), temperature, temperature_of(z), where,
        z->encoding, temperature);
}

void kd__logits_scatter(float *z, const kd_column *c, const kd_sparse *s, uint32_t rows, size_t classes,
                        const uint32_t *view)
{
    const size_t each = kd_column_each(c);
    double T = temperature_of(c);
    for (size_t i = 0; i < (size_t)rows * classes; i++) z[i] = NOT_KEPT * (float)T;
    for (uint32_t r = 0; r < rows; r++, z += classes) { // (rows, classes)
        const size_t at = r * each + (view ? view[r] : 0);
        for (uint64_t e = s->offset[at]; e < s->offset[at + 1]; e++)
            if (s->value[e] > 0) z[s->id[e]] = (float)(T * kd_codec_log(s->value[e]));
    }
}
