/* export_arrays.c - .npy and safetensors: a header that knows all sizes, then values by column.
 *
 * An .npy file is one column of fixed shape. A safetensors file has a tensor per column, named like it, the
 * row ids as the tensor `ids`, and in its metadata whose outputs these are (identity.c) and what each tensor
 * is. A ragged column X is X (positions) and X.lengths; a sparse one is in parts: X.offsets, X.ids, X.values,
 * X.exact, X.tail, X.logz. Sizes that differ by row are counted in a pass before.
 */
#include "exchange_private.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are written as they are");

/* ---- .npy --------------------------------------------------------------------------------------- */

static const char *npy_code(kd_dtype t)
{
    switch (t) {
    case KD_U8: return "|u1";
    case KD_I8: return "|i1";
    case KD_U16: return "<u2";
    case KD_I16: return "<i2";
    case KD_U32: return "<u4";
    case KD_I32: return "<i4";
    case KD_U64: return "<u8";
    case KD_I64: return "<i8";
    case KD_F16: return "<f2";
    case KD_F64: return "<f8";
    default: return "<f4"; // f32, and bf16, which NumPy has not
    }
}

/* Version 1.0, padded so that the values begin at a multiple of 64. */
static kd_status npy_header(kd__export *x, const kd__view *v, kd_err *err)
{
    kd_buf b = {0};
    kd_buf_printf(&b, "{'descr': '%s', 'fortran_order': False, 'shape': (%llu,",
                  npy_code(kd_codec_find(v->c->encoding) ? KD_F32 : v->c->dtype),
                  (unsigned long long)x->rows);
    for (int i = 0; i < v->c->ndims; i++)
        kd_buf_printf(&b, "%s%lld", i ? ", " : " ", (long long)v->c->dims[i]);
    kd_buf_puts(&b, "), }");
    while (!b.failed && (10 + b.len + 1) % 64) kd_buf_puts(&b, " ");
    kd_buf_puts(&b, "\n");
    const bool failed = b.failed;
    if (!failed) {
        const uint8_t head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)b.len, (uint8_t)(b.len >> 8)};
        fwrite(head, 1, sizeof head, x->f);
        fwrite(b.text, 1, b.len, x->f);
    }
    kd_buf_release(&b);
    return failed ? kd_fail(err, KD_ENOMEM, "out of memory") : KD_OK;
}

kd_status kd__export_npy(kd__export *x, kd_err *err)
{
    kd__view *v = &x->view[0];
    kd__walk w = {0};
    if (x->n != 1)
        return kd_fail(err, KD_EUSAGE, "%s: an .npy file is one column; %zu fit into .safetensors", x->path,
                       x->n);
    if (v->ragged || v->sparse)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "%s: column %s is %s, an .npy array is neither; use .safetensors or "
                       ".jsonl",
                       x->path, v->c->name, v->ragged ? "ragged" : "sparse");
    kd_status st = npy_header(x, v, err);
    while (!st && kd__export_next(x, &w)) {
        if ((st = kd__view_read(x, v, w.chunk, true, err))) break;
        fwrite(v->data, kd_dtype_size(v->dtype), kd__view_positions(v, w.rows) * v->width, x->f);
        st = kd__export_step(x, w.rows, err);
    }
    return st;
}

/* ---- safetensors -------------------------------------------------------------------------------- */

typedef enum part { VALUES, LENGTHS, OFFSETS, IDS, WEIGHTS, EXACT, TAIL, LOGZ, PARTS } part;
static const char *const part_names[PARTS] = {"",        ".lengths", ".offsets", ".ids",
                                              ".values", ".exact",   ".tail",    ".logz"};

typedef struct tensor {
    kd__view *v;
    part part;
    kd_tensor t; /* without data */
    char name[KD_STORE_NAME_MAX + 16];
} tensor;

typedef struct count { /* of a column over all exported rows */
    uint64_t positions, entries;
    int temperatures;
} count;

static kd_status count_column(kd__export *x, kd__view *v, count *n, kd_err *err)
{
    kd__walk w = {0};
    kd_status st;
    *n = (count){.positions = x->rows * v->each};
    if (!v->ragged && !v->sparse) return KD_OK;
    x->total += x->rows;
    n->positions = 0;
    while (kd__export_next(x, &w)) {
        if ((st = kd__view_read(x, v, w.chunk, false, err))) return st;
        const size_t k = kd__view_positions(v, w.rows);
        n->positions += k;
        if (v->sparse) n->entries += v->top.offset[k], n->temperatures = v->top.temperatures;
        if ((st = kd__export_step(x, w.rows, err))) return st;
    }
    return KD_OK;
}

static void add(tensor *list, size_t *n, kd__view *v, part p, kd_dtype dtype, int ndims, const int64_t *dims)
{
    tensor *t = &list[(*n)++];
    t->v = v;
    t->part = p;
    snprintf(t->name, sizeof t->name, "%s%s", v->c->role == KD_ROLE_ID ? "ids" : v->c->name, part_names[p]);
    t->t = (kd_tensor){.name = t->name, .dtype = dtype, .ndims = ndims};
    t->t.bytes = kd_dtype_size(dtype);
    for (int i = 0; i < ndims; i++) t->t.dims[i] = dims[i], t->t.bytes *= (size_t)dims[i];
}

/* The tensors of one column. */
static kd_status plan_column(kd__export *x, kd__view *v, tensor *list, size_t *n, kd_err *err)
{
    count k;
    kd_status st = count_column(x, v, &k, err);
    if (st) return st;
    const int64_t rows = (int64_t)x->rows, positions = (int64_t)k.positions, entries = (int64_t)k.entries;
    int64_t dims[8] = {v->ragged ? positions / (int64_t)v->each : rows};
    if (v->ragged) add(list, n, v, LENGTHS, KD_U32, 1, &rows);
    if (!v->sparse) {
        const int skip = v->ragged ? 1 : 0; // the ragged axis is the first one already
        for (int i = skip; i < v->c->ndims; i++) dims[i + 1 - skip] = v->c->dims[i];
        add(list, n, v, VALUES, v->dtype, v->c->ndims + 1 - skip, dims);
        return KD_OK;
    }
    const int64_t offsets = positions + 1, table[2] = {positions, k.temperatures};
    add(list, n, v, OFFSETS, KD_U64, 1, &offsets);
    add(list, n, v, IDS, KD_U32, 1, &entries);
    add(list, n, v, WEIGHTS, KD_F32, 1, &entries);
    add(list, n, v, EXACT, KD_U8, 1, &entries);
    if (k.temperatures) {
        add(list, n, v, TAIL, KD_F32, 2, table);
        add(list, n, v, LOGZ, KD_F32, 2, table);
    }
    return KD_OK;
}

static int by_alignment(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    const size_t sx = kd_dtype_size(x->t.dtype), sy = kd_dtype_size(y->t.dtype);
    return sx != sy ? (sx > sy ? -1 : 1) : strcmp(x->name, y->name);
}

/* The values of one chunk of one tensor. *entries: of the chunks before. */
static void write_part(kd__export *x, const tensor *t, uint32_t rows, uint64_t *entries)
{
    const kd__view *v = t->v;
    const size_t k = kd__view_positions(v, rows), e = v->sparse ? (size_t)v->top.offset[k] : 0;
    const size_t temperatures = v->sparse ? (size_t)v->top.temperatures : 0;
    switch (t->part) {
    case VALUES: fwrite(v->data, kd_dtype_size(v->dtype), k * v->width, x->f); break;
    case LENGTHS: fwrite(v->lengths, 4, rows, x->f); break;
    case OFFSETS:
        if (!*entries) fwrite(entries, 8, 1, x->f);
        for (size_t i = 1; i <= k; i++) {
            const uint64_t at = *entries + v->top.offset[i];
            fwrite(&at, 8, 1, x->f);
        }
        break;
    case IDS: fwrite(v->top.id, 4, e, x->f); break;
    case WEIGHTS: fwrite(v->top.value, 4, e, x->f); break;
    case EXACT: fwrite(v->top.exact, 1, e, x->f); break;
    case TAIL: fwrite(v->top.tail, 4, k * temperatures, x->f); break;
    case LOGZ: fwrite(v->top.logz, 4, k * temperatures, x->f); break;
    case PARTS: break;
    }
    *entries += e;
}

/* Teachers of the exported columns: the one, NULL for none, "" for several. */
static const char *teacher_of(const kd__export *x)
{
    const char *t = NULL;
    for (size_t i = 0; i < x->n; i++) {
        const char *name = x->view[i].c->teacher;
        if (name[0]) t = t && strcmp(t, name) ? "" : name;
    }
    return t;
}

static kd_status make_metadata(const kd__export *x, json_t **out, kd_err *err)
{
    const char *teacher = teacher_of(x);
    kd__names names = {{0}};
    json_t *roles = json_object();
    kd_status st = kd__names_of_store(&names, x->s, teacher && *teacher ? teacher : NULL, err);
    *out = json_pack("{s:s, s:s}", "kd.version", KD_VERSION, "kd.store", kd_store_root(x->s));
    for (int i = 0; i < KD__IDENTITIES && !st; i++)
        if (names.v[i]) json_object_set_new(*out, kd__identity_keys[i], json_string(names.v[i]));
    for (size_t i = 0; i < x->n; i++) {
        const kd_column *c = x->view[i].c;
        json_object_set_new(roles, c->name,
                            json_pack("{s:s, s:s, s:s}", "role", kd_role_name(c->role), "teacher", c->teacher,
                                      "tap", c->tap));
    }
    char *text = kd_json_text(roles, JSON_COMPACT);
    if (text) json_object_set_new(*out, "kd.columns", json_string(text));
    if (!st && (!text || !*out)) st = kd_fail(err, KD_ENOMEM, "out of memory");
    free(text);
    json_decref(roles);
    kd__names_release(&names);
    return st;
}

static kd_status write_header(kd__export *x, const tensor *list, size_t n, kd_err *err)
{
    static const struct {
        kd_dtype t;
        const char *name;
    } names[] = {{KD_U8, "U8"},   {KD_I8, "I8"},     {KD_U16, "U16"}, {KD_I16, "I16"},
                 {KD_U32, "U32"}, {KD_I32, "I32"},   {KD_U64, "U64"}, {KD_I64, "I64"},
                 {KD_F16, "F16"}, {KD_BF16, "BF16"}, {KD_F32, "F32"}, {KD_F64, "F64"}};
    json_t *meta = NULL, *h = json_object();
    size_t at = 0;
    kd_status st = make_metadata(x, &meta, err);
    if (!st) json_object_set(h, "__metadata__", meta);
    for (size_t i = 0; i < n && !st; i++) {
        const kd_tensor *t = &list[i].t;
        json_t *shape = json_array();
        const char *dtype = "F32";
        for (size_t k = 0; k < KD_COUNT(names); k++)
            if (names[k].t == t->dtype) dtype = names[k].name;
        for (int k = 0; k < t->ndims; k++) json_array_append_new(shape, json_integer(t->dims[k]));
        if (json_object_set_new(h, t->name,
                                json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape,
                                          "data_offsets", (json_int_t)at, (json_int_t)(at + t->bytes))))
            st = kd_fail(err, KD_ENOMEM, "out of memory");
        at += t->bytes;
    }
    char *text = st ? NULL : kd_json_text(h, JSON_COMPACT);
    if (!st && !text) st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (text) {
        const uint64_t len = (strlen(text) + 7) & ~(uint64_t)7;
        fwrite(&len, 8, 1, x->f);
        fprintf(x->f, "%-*s", (int)len, text);
    }
    free(text);
    json_decref(meta);
    json_decref(h);
    return st;
}

kd_status kd__export_safetensors(kd__export *x, kd_err *err)
{
    size_t n = 0;
    bool ids = false;
    tensor *list = calloc((x->n + 1) * PARTS, sizeof *list);
    kd_status st = list ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < x->n && !st; i++) {
        ids = ids || x->view[i].c->role == KD_ROLE_ID;
        st = plan_column(x, &x->view[i], list, &n, err);
    }
    if (!st && !ids) st = plan_column(x, &x->id, list, &n, err);
    x->total += (n ? n - 1 : 0) * x->rows;
    if (!st) {
        qsort(list, n, sizeof *list, by_alignment);
        for (size_t i = 0; i < n; i++) list[i].t.name = list[i].name; // they have moved
        st = write_header(x, list, n, err);
    }
    for (size_t i = 0; i < n && !st; i++) {
        kd__walk w = {0};
        uint64_t entries = 0;
        while (!st && kd__export_next(x, &w)) {
            if ((st = kd__view_read(x, list[i].v, w.chunk, false, err))) break;
            write_part(x, &list[i], w.rows, &entries);
            st = kd__export_step(x, w.rows, err);
        }
    }
    free(list);
    return st;
}
