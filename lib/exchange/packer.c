/* packer.c - one column of a teacher's outputs on its way into a store.
 *
 * What the file has decides the shape, what the caller says decides the encoding. Dense columns keep the
 * file's type unless another is asked for (f64 is kept as f32: nobody trains on more); encoded ones go
 * through f32. Top-k entries are kept by the codec topk alone: every other one needs all classes.
 */
#include "import_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Positions that a codebook is made of. Those of a language model (49,152 classes) need a few thousand: 340
 * leave a position 0.3 bytes longer than 2,000 do, of 15. The rows of the first chunk are in memory anyway.
 */
#define LEARN_MOST 4096

/* ---- the column --------------------------------------------------------------------------------- */

/* Where the store says how many classes there are: its labels, or another teacher's logits. */
static int64_t classes_of(const kd_store *s)
{
    const int label = s ? kd_store_find_role(s, KD_ROLE_LABEL, NULL) : -1;
    const int logits = s ? kd_store_find_role(s, KD_ROLE_LOGITS, NULL) : -1;
    int64_t n = 0;
    if (label >= 0)
        n = json_integer_value(json_object_get(kd_store_column(s, (size_t)label)->params, "classes"));
    if (n < 1 && logits >= 0) n = (int64_t)kd_column_width(kd_store_column(s, (size_t)logits));
    return n;
}

static kd_status set_classes(kd_column *c, const kd_store *s, const kd_import_params *p, uint32_t largest,
                             const char *what, kd_err *err)
{
    const int64_t n = p->classes ? p->classes : classes_of(s);
    if (n < 1)
        return kd_fail(err, KD_EUSAGE,
                       "%s: top-k entries do not say how many classes there are; say --classes N", what);
    if (n > KD_CODEC_MAX_WIDTH)
        return kd_fail(err, KD_ELIMIT, "%lld classes, the limit is %d", (long long)n, KD_CODEC_MAX_WIDTH);
    if (largest >= n)
        return kd_fail(err, KD_EMISMATCH, "%s: class %u, and there are %lld (%s); another tokenizer?", what,
                       largest, (long long)n, p->classes ? "--classes" : "the store says so");
    c->dims[c->ndims - 1] = n;
    return KD_OK;
}

static kd_status set_name(kd_column *c, const kd__in_column *in, const char *name, kd_err *err)
{
    const char *end = in->role == KD_ROLE_LOGITS ? "logits" : in->role == KD_ROLE_SCORE ? "score" : "feat";
    const bool layer =
        in->role == KD_ROLE_FEATURE && in->tap[0]; // logits have one name whatever node they are of
    const int n =
        snprintf(c->name, sizeof c->name, "%s/%s%s%s", name, end, layer ? "." : "", layer ? in->tap : "");
    if (n < 0 || (size_t)n >= sizeof c->name)
        return kd_fail(err, KD_EUSAGE, "'%.70s/%s.%.70s' is too long for a column; give a shorter --name",
                       name, end, in->tap);
    snprintf(c->teacher, sizeof c->teacher, "%s", name);
    snprintf(c->tap, sizeof c->tap, "%s", in->tap);
    return KD_OK;
}

/* Of a dense column. */
static kd_status set_dtype(kd_column *c, kd_dtype from, const char *asked, kd_err *err)
{
    c->dtype = asked ? kd_dtype_parse(asked) : from == KD_F64 ? KD_F32 : from;
    if (!c->dtype || (asked && !kd_dtype_is_float(c->dtype)))
        return kd_fail(err, KD_EUSAGE, "dtype '%.40s'; expected f16, bf16, f32 or f64",
                       asked ? asked : "none");
    return KD_OK;
}

static kd_status set_codec(kd__packer *k, kd_column *c, const kd__in_column *in, const char *text,
                           kd_err *err)
{
    char name[16];
    json_t *params;
    kd_status st = kd_codec_parse(text, name, &params, err);
    if (st) return st;
    if (!strcmp(name, "dense")) {
        json_decref(params);
        return KD_OK;
    }
    c->dtype = KD_F32;
    snprintf(c->encoding, sizeof c->encoding, "%s", name);
    st = kd_codec_open(&k->codec, name, (int64_t)kd_column_width(c), params, NULL, 0, err);
    json_decref(params);
    if (st) return st;
    const kd_codec_info *info = kd_codec_describe(k->codec);
    if (in->role == KD_ROLE_FEATURE && info->sparse)
        return kd_fail(err, KD_EUSAGE, "encoding %s keeps the largest classes, features have none", name);
    k->learns = info->book;
    k->params = json_pack("{s:O}", "codec", kd_codec_params(k->codec));
    c->params = k->params;
    return k->params ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
}

kd_status kd__packer_open(kd__packer *k, kd_column *c, const kd__in_column *in, const kd_store *s,
                          const kd_import_params *p, uint32_t most, uint32_t largest, const char *what,
                          kd_err *err)
{
    char topk[32];
    const char *text = in->role == KD_ROLE_FEATURE ? p->feature_encoding : p->encoding;
    kd_status st;
    if (p->tap && in->role != KD_ROLE_FEATURE)
        return kd_fail(err, KD_EUSAGE, "--tap %s: names the layer of a feature, say --role feature", p->tap);
    *c = (kd_column){.role = in->role, .ndims = in->ndims, .encoding = "dense"};
    memcpy(c->dims, in->dims, sizeof c->dims);
    k->from = in->dtype;
    k->sparse = in->sparse;
    k->what = what;
    if ((st = set_name(c, in, p->name, err)) || (st = set_dtype(c, in->dtype, p->dtype, err))) return st;
    if (in->sparse) {
        snprintf(topk, sizeof topk, "topk:k=%u", most);
        if (!text) text = topk;
        if (strncmp(text, "topk", 4))
            return kd_fail(err, KD_EUSAGE,
                           "%s: its top-k entries can be kept as topk alone; '%.40s' needs all classes", what,
                           text);
        if ((st = set_classes(c, s, p, largest, what, err))) return st;
    }
    return text ? set_codec(k, c, in, text, err) : KD_OK;
}

void kd__packer_close(kd__packer *k)
{
    kd_codec_close(k->codec);
    json_decref(k->params);
    free(k->book);
    free(k->packed);
    kd_buf_release(&k->bytes);
    kd__rows_release(&k->rows);
    *k = (kd__packer){0};
}

/* ---- codebooks ---------------------------------------------------------------------------------- */

/* The mean probabilities of n top-k positions, as the logits of one to learn from: classes that a position
 * does not list share its tail. */
static float *mean_of(const kd_sparse *s, size_t n, size_t width)
{
    double *mean = calloc(width, sizeof *mean), rest = 0;
    float *v = malloc(width * sizeof *v);
    for (size_t p = 0; mean && v && p < n; p++) {
        const size_t listed = (size_t)(s->offset[p + 1] - s->offset[p]);
        const double share = width > listed ? (double)s->tail[p] / (double)(width - listed) : 0;
        rest += share;
        for (uint64_t i = s->offset[p]; i < s->offset[p + 1]; i++)
            mean[s->id[i]] += kd_codec_exp(fmin((double)s->value[i], 0)) - share;
    }
    for (size_t i = 0; mean && v && i < width; i++) {
        const double p = (mean[i] + rest) / (double)n;
        v[i] = p > 1e-30 ? (float)kd_codec_log(p) : -70.0f;
    }
    if (!mean) free(v), v = NULL;
    free(mean);
    return v;
}

kd_status kd__packer_learn(kd__packer *k, kd_column *c, kd_err *err)
{
    const size_t width = kd_column_width(c);
    const size_t each = k->sparse ? 1 : kd_column_each(c);
    const size_t n = kd_min_size(k->rows.positions * each, LEARN_MOST);
    float *made = k->sparse && n ? mean_of(&k->rows.top, n, width) : NULL;
    k->learns = false;
    if (!n) return KD_OK;
    if (k->sparse && !made) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd_codec_learn(c->encoding, (int64_t)width, kd_codec_params(k->codec),
                                  made ? made : k->rows.values, made ? 1 : n, &k->book, &k->book_bytes, err);
    free(made);
    if (st || !k->book) return st;
    c->book = k->book;
    c->book_bytes = k->book_bytes;
    json_t *params = json_deep_copy(kd_codec_params(k->codec));
    kd_codec_close(k->codec);
    k->codec = NULL;
    st = kd_codec_open(&k->codec, c->encoding, (int64_t)width, params, k->book, k->book_bytes, err);
    json_decref(params);
    return st;
}

/* ---- packing ------------------------------------------------------------------------------------ */

/* Names the row of the store whose number at index i is not finite. */
static kd_status not_finite(const kd__packer *k, const kd_column *c, const kd_chunk_info *ci, size_t i,
                            const char *why, kd_err *err)
{
    const size_t width = kd_column_width(c), each = kd_column_each(c);
    size_t position = i / width;
    uint32_t row = 0;
    if (c->ndims && c->dims[0] == -1) {
        position /= each;
        while (position >= k->rows.lengths[row]) position -= k->rows.lengths[row++];
    } else {
        row = (uint32_t)(position / each);
        position %= each;
    }
    return kd_fail(err, KD_ENUMERIC, "%s: %s of row %llu of the store, position %zu, class %zu: %g %s",
                   k->what, c->name, (unsigned long long)(ci->first + row), position, i % width,
                   (double)k->rows.values[i], why);
}

static kd_status check_finite(const kd__packer *k, const kd_column *c, const kd_chunk_info *ci, size_t n,
                              kd_err *err)
{
    float bad = 0; // x - x is 0 for finite numbers and NaN else
    for (size_t i = 0; i < n; i++) bad += k->rows.values[i] - k->rows.values[i];
    if (bad == 0) return KD_OK;
    size_t i = 0;
    while (i + 1 < n && isfinite(k->rows.values[i])) i++;
    return not_finite(k, c, ci, i, "is not a finite number", err);
}

static kd_status pack_dense(kd__packer *k, const kd_column *c, const kd_chunk_info *ci, size_t n,
                            kd_block *out, kd_err *err)
{
    const size_t bytes = n * kd_dtype_size(c->dtype);
    kd_status st;
    out->bytes = bytes;
    if (k->from == c->dtype && k->rows.raw) {
        out->data = k->rows.raw;
        return KD_OK;
    }
    if (c->dtype == KD_F32) {
        out->data = k->rows.values;
        return KD_OK;
    }
    if ((st = kd__room(&k->packed, &k->packed_cap, bytes + 1, err)) ||
        (st = kd_from_f32(k->packed, c->dtype, k->rows.values, n)))
        return st;
    out->data = k->packed;
    for (size_t i = 0; c->dtype == KD_F16 && i < n; i++)
        if ((((const uint16_t *)k->packed)[i] & 0x7C00u) == 0x7C00u)
            return not_finite(k, c, ci, i, "does not fit into f16; import it with --dtype f32", err);
    return KD_OK;
}

typedef struct ranked {
    uint32_t at;
    float value;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value ? 1 : -1) : (x->at > y->at) - (x->at < y->at);
}

/* Keeps the k largest entries of every position, ids still rising; what goes is added to the tail. */
static kd_status trim(kd_sparse *s, size_t most, uint64_t *dropped, kd_err *err)
{
    ranked *r = NULL;
    size_t cap = 0;
    uint64_t from = s->offset[0], to = 0;
    for (size_t p = 0; p < s->positions; p++) {
        const uint64_t end = s->offset[p + 1];
        const size_t n = (size_t)(end - from);
        double tail = (double)s->tail[p];
        kd_status st = kd__room(&r, &cap, (n + 1) * sizeof *r, err);
        if (st) {
            free(r);
            return st;
        }
        for (size_t i = 0; i < n; i++) r[i] = (ranked){(uint32_t)i, s->value[from + i]};
        if (n > most) qsort(r, n, sizeof *r, by_rank);
        for (size_t i = most; i < n; i++, (*dropped)++) {
            tail += kd_codec_exp((double)r[i].value);
            s->exact[from + r[i].at] = 0; // marked as not kept
        }
        for (uint64_t i = from; i < end; i++)
            if (s->exact[i]) s->id[to] = s->id[i], s->value[to] = s->value[i], s->exact[to++] = 1;
        s->tail[p] = tail < 1 ? (float)tail : 1;
        s->offset[p + 1] = to;
        from = end;
    }
    s->entries = (size_t)to;
    free(r);
    return KD_OK;
}

static kd_status encode(kd__packer *k, const kd_column *c, const kd_chunk_info *ci, const kd_id *ids,
                        int threads, kd_import_report *report, kd_err *err)
{
    const bool ragged = c->ndims && c->dims[0] == -1;
    const json_t *most = json_object_get(kd_codec_params(k->codec), "k");
    k->bytes.len = 0;
    if (k->sparse) {
        kd_status st = trim(&k->rows.top, (size_t)json_integer_value(most), &report->dropped, err);
        return st ? st : kd_codec_encode_sparse(k->codec, &k->rows.top, &k->bytes, err);
    }
    const kd_codec_block b = {.values = k->rows.values,
                              .rows = ci->rows,
                              .lengths = ragged ? k->rows.lengths : NULL,
                              .each = (uint32_t)kd_column_each(c),
                              .ids = ids};
    return kd_codec_encode(k->codec, &b, threads, &k->bytes, err);
}

kd_status kd__packer_pack(kd__packer *k, const kd_column *c, const kd_chunk_info *ci, const kd_id *ids,
                          int threads, kd_block *out, kd_import_report *report, kd_err *err)
{
    const size_t each = k->sparse ? 1 : kd_column_each(c), n = k->rows.positions * each * kd_column_width(c);
    kd_status st = k->sparse ? KD_OK : check_finite(k, c, ci, n, err);
    *out = (kd_block){.lengths = c->ndims && c->dims[0] == -1 ? k->rows.lengths : NULL};
    report->positions += k->rows.positions * each;
    if (st || !k->codec) return st ? st : pack_dense(k, c, ci, n, out, err);
    if ((st = encode(k, c, ci, ids, threads, report, err))) return st;
    out->data = k->bytes.text;
    out->bytes = k->bytes.len;
    return KD_OK;
}
