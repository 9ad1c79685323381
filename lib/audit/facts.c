/* facts.c - what an audit knows of each row: id, split, label, and the teacher's probabilities.
 *
 * With teachers of several folds a training row is judged by the one that left its fold out, and any other
 * row by the mean of all, none of which saw it. Whether a teacher really left out what its place in the list
 * says shows in its hits: a model is better on rows that it was trained on.
 */
#include "audit_private.h"

#include "kd/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void kd__facts_release(kd__facts *r)
{
    free(r->id);
    free(r->split);
    free(r->source);
    free(r->label);
    free(r->p);
    *r = (kd__facts){0};
}

uint32_t kd__audit_most_rows(const kd_store *s)
{
    uint32_t most = 0;
    for (uint32_t k = 0; k < kd_store_chunks(s); k++)
        if (kd_store_chunk(s, k)->rows > most) most = kd_store_chunk(s, k)->rows;
    return most;
}

uint32_t kd__facts_top(const kd__facts *r, uint64_t row)
{
    const float *p = r->p + row * (size_t)r->classes;
    uint32_t best = 0;
    for (uint32_t k = 1; k < (uint32_t)r->classes; k++)
        if (p[k] > p[best]) best = k;
    return best;
}

/* ---- labels ------------------------------------------------------------------------------- */

static kd_status read_labels(kd__facts *r, kd_cursor *cursor, int column, uint32_t chunk, void *raw,
                             kd_err *err)
{
    const kd_column *c = kd_store_column(r->s, (size_t)column);
    const kd_chunk_info *info = kd_store_chunk(r->s, chunk);
    double y = 0;
    kd_status st = kd_cursor_read(cursor, column, chunk, raw, info->rows * kd_dtype_size(c->dtype), err);
    for (uint32_t i = 0; i < info->rows && !st; i++) {
        switch (c->dtype) {
        case KD_U8: y = ((const uint8_t *)raw)[i]; break;
        case KD_I8: y = ((const int8_t *)raw)[i]; break;
        case KD_U16: y = ((const uint16_t *)raw)[i]; break;
        case KD_I16: y = ((const int16_t *)raw)[i]; break;
        case KD_U32: y = ((const uint32_t *)raw)[i]; break;
        case KD_I32: y = ((const int32_t *)raw)[i]; break;
        default: y = (double)((const int64_t *)raw)[i];
        }
        if (y >= INT32_MAX || (r->classes && y >= (double)r->classes))
            return kd_fail(err, KD_ECORRUPT, "%s: column %s, row %llu: label %.0f, there are %lld classes",
                           kd_store_path(r->s), c->name, (unsigned long long)(info->first + i), y,
                           (long long)r->classes);
        r->label[info->first + i] = y < 0 ? -1 : (int32_t)y;
    }
    return st;
}

static kd_status check_label(const kd_store *s, const kd_column *c, kd_err *err)
{
    if (!c->ndims && c->dtype != KD_U64 && !kd_dtype_is_float(c->dtype)) return KD_OK;
    return kd_fail(err, KD_EMISMATCH, "%s: column %s is no whole number a row, as labels are",
                   kd_store_path(s), c->name);
}

/* ---- probabilities ------------------------------------------------------------------------ */

/* p: (classes) receives the softmax of z, or adds share times it. */
static void add_softmax(float *p, const float *z, size_t classes, float share)
{
    double top = (double)z[0], sum = 0;
    for (size_t k = 1; k < classes; k++)
        if ((double)z[k] > top) top = (double)z[k];
    for (size_t k = 0; k < classes; k++) sum += exp((double)z[k] - top);
    for (size_t k = 0; k < classes; k++) p[k] += share * (float)(exp((double)z[k] - top) / sum);
}

/* The logits of one teacher for a chunk; number: among those of the folds. */
static void take_logits(kd__facts *r, const float *z, const kd_chunk_info *info, uint32_t number)
{
    const size_t classes = (size_t)r->classes;
    for (uint32_t i = 0; i < info->rows; i++, z += classes) {
        const uint64_t row = info->first + i;
        const bool training = info->split == KD_TRAIN;
        const uint32_t fold = r->folds && training ? kd_fold_of(r->id[row], r->folds) : 0;
        if (!r->folds || !training)
            add_softmax(r->p + row * classes, z, classes, r->folds ? 1 / (float)r->folds : 1);
        else if (fold == number)
            add_softmax(r->p + row * classes, z, classes, 1);
        if (!r->folds || !training || !r->label || r->label[row] < 0) continue;
        size_t best = 0;
        for (size_t k = 1; k < classes; k++)
            if (z[k] > z[best]) best = k;
        r->hits[number][fold] += (int32_t)best == r->label[row];
        r->seen[fold] += !number;
    }
}

static kd_status read_logits(kd__facts *r, kd_cursor *cursor, int column, uint32_t number, kd_err *err)
{
    const kd_column *c = kd_store_column(r->s, (size_t)column);
    float *z = NULL;
    kd_status st = KD_OK;
    for (uint32_t k = 0; k < kd_store_chunks(r->s) && !st; k++) {
        const kd_chunk_info *info = kd_store_chunk(r->s, k);
        const size_t n = info->rows * (size_t)r->classes;
        float *grown = realloc(z, n * sizeof(*z));
        if (!grown) {
            st = kd_fail(err, KD_ENOMEM, "no memory for the logits of %u rows", info->rows);
            break;
        }
        z = grown;
        if ((st = kd_cursor_read_f32(cursor, column, k, z, info->rows, err))) break;
        for (size_t i = 0; i < n && !st; i++)
            if (!isfinite(z[i]))
                st =
                    kd_fail(err, KD_ENUMERIC, "%s: column %s, row %llu: a logit is not finite; dump it again",
                            kd_store_path(r->s), c->name,
                            (unsigned long long)(info->first + i / (size_t)r->classes));
        if (!st) take_logits(r, z, info, number);
    }
    free(z);
    return st;
}

static kd_status find_logits(const kd_store *s, const char *teacher, int64_t *classes, int *column,
                             kd_err *err)
{
    const char *path = kd_store_path(s);
    if ((*column = kd_eval_logits(s, teacher)) < 0) {
        if (!teacher) return KD_OK;
        return kd_fail(err, KD_ENOTFOUND,
                       "%s: no logits of a teacher named %s that keep all classes; see: kd-store stat %s",
                       path, teacher, path);
    }
    const kd_column *c = kd_store_column(s, (size_t)*column);
    if (c->ndims != 1 || (*classes && *classes != c->dims[0]))
        return kd_fail(err, KD_EMISMATCH, "%s: column %s has %lld classes a row, expected %lld", path,
                       c->name, (long long)kd_column_width(c), (long long)*classes);
    *classes = c->dims[0];
    return KD_OK;
}

/* Teachers' columns in *column (KD_AUDIT_FOLDS); *n 0: none. */
static kd_status find_teachers(kd__facts *r, const kd_audit_params *p, int *column, uint32_t *n, kd_err *err)
{
    kd_status st = KD_OK;
    *n = 0;
    if (p->ncross == 1 || p->ncross > KD_AUDIT_FOLDS)
        return kd_fail(err, KD_EUSAGE, "%zu teachers of folds; expected 2 to %d", p->ncross, KD_AUDIT_FOLDS);
    for (size_t i = 0; i < (p->ncross ? p->ncross : 1) && !st; i++) {
        st = find_logits(r->s, p->ncross ? p->cross[i] : p->teacher, &r->classes, &column[i], err);
        *n += !st && column[i] >= 0;
        for (size_t j = 0; j < i && !st; j++)
            if (column[j] == column[i])
                st = kd_fail(err, KD_EUSAGE, "teacher %s stands for two folds", p->cross[i]);
    }
    r->folds = (uint32_t)p->ncross;
    return st;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static kd_status allocate(kd__facts *r, bool labels, bool source, bool teacher, kd_err *err)
{
    r->id = malloc((r->n + 1) * sizeof(*r->id));
    r->split = malloc(r->n + 1);
    if (source) r->source = malloc((r->n + 1) * sizeof(*r->source));
    if (labels) r->label = malloc((r->n + 1) * sizeof(*r->label));
    if (teacher) r->p = kd_alloc_aligned(r->n, (size_t)r->classes * sizeof(float));
    if (r->id && r->split && (r->label || !labels) && (r->source || !source) && (r->p || !teacher))
        return KD_OK;
    return kd_fail(err, KD_ENOMEM, "%s: no memory for what the teacher said of %llu rows",
                   kd_store_path(r->s), (unsigned long long)r->n);
}

static kd_status read_base(kd__facts *r, kd_cursor *cursor, int id, int label, int source, kd_err *err)
{
    uint64_t *raw = malloc(kd__audit_most_rows(r->s) * sizeof(*raw));
    kd_status st = raw ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint32_t k = 0; k < kd_store_chunks(r->s) && !st; k++) {
        const kd_chunk_info *info = kd_store_chunk(r->s, k);
        memset(r->split + info->first, (int)info->split, info->rows);
        st = kd_cursor_read(cursor, id, k, r->id + info->first, info->rows * sizeof(*r->id), err);
        if (!st && source >= 0)
            st = kd_cursor_read(cursor, source, k, r->source + info->first, info->rows * sizeof(*r->source),
                                err);
        if (!st && label >= 0) st = read_labels(r, cursor, label, k, raw, err);
    }
    free(raw);
    return st;
}

static int find_source(const kd_store *s)
{
    const int i = kd_store_find_role(s, KD_ROLE_SOURCE, NULL);
    const kd_column *c = i < 0 ? NULL : kd_store_column(s, (size_t)i);
    return c && c->dtype == KD_U64 && !c->ndims ? i : -1;
}

kd_status kd__facts_read(kd__facts *r, kd_store *s, const kd_audit_params *p, kd_err *err)
{
    const int id = kd_store_find_role(s, KD_ROLE_ID, NULL),
              label = kd_store_find_role(s, KD_ROLE_LABEL, NULL);
    const int source = find_source(s);
    int column[KD_AUDIT_FOLDS];
    uint32_t n = 0;
    kd_cursor *cursor = NULL;
    *r = (kd__facts){.s = s, .n = kd_store_rows(s)};
    if (id < 0) return kd_fail(err, KD_EMISMATCH, "%s: no column of ids", kd_store_path(s));
    if (label >= 0) {
        const kd_column *y = kd_store_column(s, (size_t)label);
        kd_status st = check_label(s, y, err);
        if (st) return st;
        const json_t *k = json_object_get(y->params, "classes");
        if (json_is_integer(k)) r->classes = json_integer_value(k);
    }
    kd_status st = p ? find_teachers(r, p, column, &n, err) : KD_OK;
    if (st || (st = allocate(r, label >= 0, source >= 0, n > 0, err)) ||
        (st = kd_cursor_open(&cursor, s, err)))
        goto out;
    st = read_base(r, cursor, id, label, source, err);
    for (uint64_t i = 0; label >= 0 && !n && !st && i < r->n; i++) // nobody else says how many there are
        if (r->label[i] >= r->classes) r->classes = r->label[i] + 1;
    for (uint32_t i = 0; i < n && !st; i++) st = read_logits(r, cursor, column[i], i, err);
out:
    kd_cursor_close(cursor);
    if (st) kd__facts_release(r);
    return st;
}
