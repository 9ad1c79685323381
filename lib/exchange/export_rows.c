/* export_rows.c - JSON lines and CSV: a row at a time.
 *
 * A JSON line has the row's id and split, then each column: a number, a list, lists of lists. Numbers are
 * written with as many digits as bring them back to the bit. Sparse columns are lists of {"id", "logprob"}
 * (or "weight" where the codec samples), one list a position, with the tail mass beside them: what kd-store
 * import reads again. CSV has one field a number, for columns of fixed shape that are not too wide.
 */
#include "exchange_private.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define CSV_MOST 4096 /* fields of one column */

/* One number. JSON has no NaN and no infinity. */
static kd_status put_number(kd__export *x, const kd__view *v, size_t i, uint64_t row, bool json, kd_err *err)
{
    const uint8_t *p = v->data + i * kd_dtype_size(v->dtype);
    double d;
    float f;
    switch (v->dtype) {
    case KD_U8: fprintf(x->f, "%u", *p); return KD_OK;
    case KD_I8: fprintf(x->f, "%d", *(const int8_t *)p); return KD_OK;
    case KD_U16: fprintf(x->f, "%u", *(const uint16_t *)(const void *)p); return KD_OK;
    case KD_I16: fprintf(x->f, "%d", *(const int16_t *)(const void *)p); return KD_OK;
    case KD_U32: fprintf(x->f, "%" PRIu32, *(const uint32_t *)(const void *)p); return KD_OK;
    case KD_I32: fprintf(x->f, "%" PRId32, *(const int32_t *)(const void *)p); return KD_OK;
    case KD_U64: fprintf(x->f, "%" PRIu64, *(const uint64_t *)(const void *)p); return KD_OK;
    case KD_I64: fprintf(x->f, "%" PRId64, *(const int64_t *)(const void *)p); return KD_OK;
    case KD_F64: memcpy(&d, p, sizeof d); break;
    default: kd_to_f32(&f, p, v->dtype, 1); d = (double)f;
    }
    if (!isfinite(d) && json)
        return kd_fail(err, KD_ENUMERIC, "%s: row %llu is %g, which JSON cannot say; export it as .npy",
                       v->c->name, (unsigned long long)row, d);
    // %.9g of 1 is an integer in JSON: what is real stays real.
    if (!json || d != floor(d) || fabs(d) >= 1e9)
        fprintf(x->f, v->dtype == KD_F64 ? "%.17g" : "%.9g", d);
    else
        fprintf(x->f, "%.1f", d);
    return KD_OK;
}

/* The numbers of `positions` outer elements below axis `axis`, as nested lists. */
static kd_status put_list(kd__export *x, const kd__view *v, int axis, size_t n, size_t *at, uint64_t row,
                          kd_err *err)
{
    kd_status st = KD_OK;
    putc('[', x->f);
    for (size_t i = 0; i < n && !st; i++) {
        if (i) putc(',', x->f);
        st = axis + 1 == v->c->ndims ? put_number(x, v, (*at)++, row, true, err)
                                     : put_list(x, v, axis + 1, (size_t)v->c->dims[axis + 1], at, row, err);
    }
    putc(']', x->f);
    return st;
}

static void put_entries(kd__export *x, const kd__view *v, size_t position)
{
    const kd_sparse *s = &v->top;
    const bool head = kd_codec_find(v->c->encoding)->serves & KD_SERVES_HEAD;
    putc('[', x->f);
    for (uint64_t i = s->offset[position]; i < s->offset[position + 1]; i++)
        fprintf(x->f, "%s{\"id\":%" PRIu32 ",\"%s\":%.9g%s}", i > s->offset[position] ? "," : "", s->id[i],
                head ? "logprob" : "weight", (double)s->value[i],
                head || s->exact[i] ? "" : ",\"sampled\":true");
    putc(']', x->f);
}

/* Tail mass at T = 1 (or the first temperature), beside the entries. */
static void put_beside(kd__export *x, const kd__view *v, const char *end, const float *from, size_t first,
                       size_t n, bool list)
{
    const size_t temperatures = (size_t)v->top.temperatures;
    size_t t = 0;
    for (size_t i = 0; i < temperatures; i++)
        if (v->top.temperature[i] == 1) t = i;
    if (!temperatures || v->top.temperature[t] != 1) return;
    fprintf(x->f, ",\"%s%s\":%s", v->c->name, end, list ? "[" : "");
    for (size_t i = 0; i < n; i++)
        fprintf(x->f, "%s%.9g", i ? "," : "", (double)from[(first + i) * temperatures + t]);
    if (list) putc(']', x->f);
}

/* at: the row's first position in the chunk; n: how many it has. */
static void put_sparse(kd__export *x, const kd__view *v, size_t at, size_t n)
{
    const bool list = v->c->ndims > 1;
    if (list) putc('[', x->f);
    for (size_t i = 0; i < n; i++) {
        if (i) putc(',', x->f);
        put_entries(x, v, at + i);
    }
    if (list) putc(']', x->f);
    put_beside(x, v, ".tail", v->top.tail, at, n, list);
    put_beside(x, v, ".logz", v->top.logz, at, n, list);
}

static kd_status put_value(kd__export *x, const kd__view *v, size_t at, size_t n, uint64_t row, kd_err *err)
{
    size_t i = at * v->width;
    if (v->sparse) put_sparse(x, v, at, n);
    if (v->sparse) return KD_OK;
    if (!v->c->ndims) return put_number(x, v, i, row, true, err);
    return put_list(x, v, 0, v->ragged ? n / v->each : (size_t)v->c->dims[0], &i, row, err);
}

static void put_id(kd__export *x, uint32_t r)
{
    kd_id id;
    char hex[33];
    memcpy(id.b, x->id.data + (size_t)r * 16, 16);
    kd_id_hex(id, hex);
    fputs(hex, x->f);
}

static bool said_anyway(const kd__view *v) { return v->c->role == KD_ROLE_ID || v->c->role == KD_ROLE_SPLIT; }

/* Positions of row r of a column, and where the next row's begin. */
static size_t advance(const kd__view *v, uint32_t r, size_t *at)
{
    const size_t n = (v->ragged ? v->lengths[r] : 1) * v->each;
    *at += n;
    return n;
}

static kd_status read_all(kd__export *x, uint32_t chunk, kd_err *err)
{
    kd_status st = kd__view_read(x, &x->id, chunk, true, err);
    for (size_t i = 0; i < x->n && !st; i++) st = kd__view_read(x, &x->view[i], chunk, true, err);
    return st;
}

kd_status kd__export_jsonl(kd__export *x, kd_err *err)
{
    kd__walk w = {0};
    kd_status st = KD_OK;
    while (!st && kd__export_next(x, &w)) {
        const kd_chunk_info *ci = kd_store_chunk(x->s, w.chunk);
        size_t at[KD_STORE_MAX_COLUMNS] = {0};
        st = read_all(x, w.chunk, err);
        for (uint32_t r = 0; r < w.rows && !st; r++) {
            fputs("{\"id\":\"", x->f);
            put_id(x, r);
            fprintf(x->f, "\",\"split\":\"%s\"", kd_split_name(ci->split));
            for (size_t i = 0; i < x->n && !st; i++) {
                const kd__view *v = &x->view[i];
                const size_t first = at[i], n = advance(v, r, &at[i]);
                if (said_anyway(v)) continue;
                fprintf(x->f, ",\"%s\":", v->c->name);
                st = put_value(x, v, first, n, ci->first + r, err);
            }
            fputs("}\n", x->f);
        }
        if (!st) st = kd__export_step(x, w.rows, err);
    }
    return st;
}

static kd_status csv_heading(kd__export *x, kd_err *err)
{
    fputs("id", x->f);
    for (size_t i = 0; i < x->n; i++) {
        const kd__view *v = &x->view[i];
        const size_t n = v->each * v->width;
        if (v->c->role == KD_ROLE_ID) continue;
        if (v->ragged || v->sparse)
            return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s is %s, which CSV cannot hold; use .jsonl",
                           x->path, v->c->name, v->ragged ? "ragged" : "sparse");
        if (n > CSV_MOST)
            return kd_fail(err, KD_EUNSUPPORTED,
                           "%s: column %s has %zu numbers a row, CSV takes %d; use .npy", x->path, v->c->name,
                           n, CSV_MOST);
        if (!v->c->ndims) fprintf(x->f, ",%s", v->c->name);
        for (size_t k = 0; v->c->ndims && k < n; k++) fprintf(x->f, ",%s.%zu", v->c->name, k);
    }
    putc('\n', x->f);
    return KD_OK;
}

kd_status kd__export_csv(kd__export *x, kd_err *err)
{
    kd__walk w = {0};
    kd_status st = csv_heading(x, err);
    while (!st && kd__export_next(x, &w)) {
        st = read_all(x, w.chunk, err);
        for (uint32_t r = 0; r < w.rows && !st; r++) {
            put_id(x, r);
            for (size_t i = 0; i < x->n && !st; i++) {
                const kd__view *v = &x->view[i];
                const size_t n = v->each * v->width;
                if (v->c->role == KD_ROLE_ID) continue;
                for (size_t k = 0; k < n && !st; k++) {
                    putc(',', x->f);
                    st = put_number(x, v, r * n + k, 0, false, err);
                }
            }
            putc('\n', x->f);
        }
        if (!st) st = kd__export_step(x, w.rows, err);
    }
    return st;
}
