/* safetensors.c - the file format of weights (huggingface/safetensors, format of 2022).
 *
 *     8 bytes     N, length of the header, little-endian
 *     N bytes     JSON: {"__metadata__": {"k": "v"},
 *                        "NAME": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ...}
 *     the rest    the tensors' bytes, row-major, little-endian; offsets count from here
 *
 * A file comes from anywhere, so nothing in it is believed before it is checked: the header's length
 * against the file's size and a cap before memory is taken, every span against the bytes that are
 * there, spans against each other (no hole, no overlap, the last one ends with the file: no second
 * file can hide in one), shape times element size by checked multiplication against the span. The data
 * is read, not mapped: a file that is truncated meanwhile gives an error and not a SIGBUS.
 */
#include "model_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are copied as they are");

typedef struct entry {
    kd_tensor t;
    size_t begin; /* in the data */
} entry;

struct kd_tensors {
    json_t *header; /* owns the names */
    entry *list;    /* by position */
    size_t n;
    uint64_t before; // bytes of the file before the data
    char *data;
};

static const struct {
    const char *name;
    kd_dtype dtype;
} dtypes[] = {
    {"F32", KD_F32}, {"F16", KD_F16}, {"BF16", KD_BF16}, {"F64", KD_F64}, {"I64", KD_I64},
    {"I32", KD_I32}, {"I16", KD_I16}, {"I8", KD_I8},     {"U64", KD_U64}, {"U32", KD_U32},
    {"U16", KD_U16}, {"U8", KD_U8},   {"BOOL", KD_U8},
};

static kd_dtype dtype_of(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(dtypes); i++)
        if (name && !strcmp(name, dtypes[i].name)) return dtypes[i].dtype;
    return KD_DTYPE_NONE;
}

/* ---- reading ---------------------------------------------------------------------------------- */

static kd_status read_all(int fd, void *to, size_t len, const char *path, kd_err *err)
{
    char *p = to;
    while (len) {
        ssize_t got = read(fd, p, len < 1u << 30 ? len : 1u << 30);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return kd_fail_errno(err, errno, "%s: cannot read", path);
        if (got == 0)
            return kd_fail(err, KD_ECORRUPT, "%s: file ends early, %zu bytes are missing", path, len);
        p += got;
        len -= (size_t)got;
    }
    return KD_OK;
}

/* One tensor's entry in the header. room: bytes of data in the file. */
static kd_status parse_entry(entry *x, const json_t *e, size_t room, const char *path, kd_err *err)
{
    kd_tensor *t = &x->t;
    const json_t *shape = json_object_get(e, "shape"), *span = json_object_get(e, "data_offsets");
    const char *dtype = json_string_value(json_object_get(e, "dtype"));
    if (!(t->dtype = dtype_of(dtype)))
        return kd_fail(err, KD_ECORRUPT, "%s: tensor %.200s: dtype '%.40s' is not known", path, t->name,
                       dtype ? dtype : "missing");
    if (!json_is_array(shape) || json_array_size(shape) > KD_COUNT(t->dims))
        return kd_fail(err, KD_ECORRUPT, "%s: tensor %.200s: shape is not a list of at most %zu sizes", path,
                       t->name, KD_COUNT(t->dims));
    size_t bytes = kd_dtype_size(t->dtype);
    t->ndims = (int)json_array_size(shape);
    for (int i = 0; i < t->ndims; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return kd_fail(err, KD_ECORRUPT, "%s: tensor %.200s: axis %d is no size", path, t->name, i);
        t->dims[i] = json_integer_value(d);
        if (!kd_mul_size(bytes, (size_t)t->dims[i], &bytes))
            return kd_fail(err, KD_ECORRUPT, "%s: tensor %.200s: its shape overflows", path, t->name);
    }
    const json_t *b = json_array_get(span, 0), *f = json_array_get(span, 1);
    if (json_array_size(span) != 2 || !json_is_integer(b) || !json_is_integer(f) ||
        json_integer_value(b) < 0 || json_integer_value(f) < json_integer_value(b) ||
        (uint64_t)json_integer_value(f) > room)
        return kd_fail(err, KD_ECORRUPT,
                       "%s: tensor %.200s: data_offsets are not two positions in %zu bytes of data", path,
                       t->name, room);
    x->begin = (size_t)json_integer_value(b);
    t->bytes = (size_t)json_integer_value(f) - x->begin;
    if (t->bytes != bytes)
        return kd_fail(err, KD_ECORRUPT,
                       "%s: tensor %.200s: shape and dtype need %zu bytes, data_offsets span %zu", path,
                       t->name, bytes, t->bytes);
    return KD_OK;
}

static kd_status check_metadata(const json_t *m, const char *path, kd_err *err)
{
    const char *key;
    json_t *v;
    if (m && !json_is_object(m)) return kd_fail(err, KD_ECORRUPT, "%s: __metadata__ is not an object", path);
    json_object_foreach((json_t *)m, key, v)
    {
        if (!json_is_string(v))
            return kd_fail(err, KD_ECORRUPT, "%s: __metadata__: '%.100s' is not a string", path, key);
    }
    return KD_OK;
}

static int by_begin(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->t.bytes < y->t.bytes ? -1 : x->t.bytes > y->t.bytes;
}

/* The spans in order, without hole or overlap, from 0 to room. */
static kd_status check_spans(const kd_tensors *t, size_t room, const char *path, kd_err *err)
{
    size_t at = 0;
    for (size_t i = 0; i < t->n; i++) {
        const entry *x = &t->list[i];
        if (x->begin != at)
            return kd_fail(err, KD_ECORRUPT, "%s: tensor %.200s: its data %s", path, x->t.name,
                           x->begin < at ? "overlap another tensor's" : "leave a hole before them");
        at += x->t.bytes;
    }
    if (at == room) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s: %zu bytes behind the last tensor", path, room - at);
}

/* Fills t->list from t->header. */
static kd_status parse_header(kd_tensors *t, size_t room, const char *path, kd_err *err)
{
    const char *name;
    json_t *e;
    kd_status st = check_metadata(json_object_get(t->header, "__metadata__"), path, err);
    if (st) return st;
    t->list = calloc(json_object_size(t->header) + 1, sizeof *t->list);
    if (!t->list)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu tensors", path, json_object_size(t->header));
    json_object_foreach(t->header, name, e)
    {
        if (!strcmp(name, "__metadata__")) continue;
        if (!*name) return kd_fail(err, KD_ECORRUPT, "%s: a tensor has no name", path);
        if (!json_is_object(e))
            return kd_fail(err, KD_ECORRUPT, "%s: tensor %.200s is not an object", path, name);
        t->list[t->n].t.name = name;
        if ((st = parse_entry(&t->list[t->n++], e, room, path, err))) return st;
    }
    qsort(t->list, t->n, sizeof *t->list, by_begin);
    return check_spans(t, room, path, err);
}

/* Reads length and JSON; *room receives the bytes behind them. */
static kd_status read_header(kd_tensors *t, int fd, uint64_t size, size_t *room, const char *path,
                             kd_err *err)
{
    uint64_t n;
    if (size < 8 + 2)
        return kd_fail(err, KD_ECORRUPT, "%s: %llu bytes are no safetensors file", path,
                       (unsigned long long)size);
    kd_status st = read_all(fd, &n, 8, path, err);
    if (st) return st;
    if (n > KD_SAFETENSORS_MAX_HEADER)
        return kd_fail(err, KD_ECORRUPT, "%s: header of %llu bytes, the limit is %u", path,
                       (unsigned long long)n, KD_SAFETENSORS_MAX_HEADER);
    if (n < 2 || n > size - 8)
        return kd_fail(err, KD_ECORRUPT, "%s: header of %llu bytes in a file of %llu", path,
                       (unsigned long long)n, (unsigned long long)size);
    char *text = malloc(n);
    if (!text)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for a header of %llu bytes", path,
                       (unsigned long long)n);
    json_error_t e;
    if (!(st = read_all(fd, text, n, path, err))) {
        if (text[0] != '{')
            st = kd_fail(err, KD_ECORRUPT, "%s: the header does not begin with '{': no safetensors file",
                         path);
        else if ((st = kd_json_parse(&t->header, text, n, &e)))
            st = kd_fail(err, st, "%s: the header is no valid JSON (byte %d)", path, e.position);
    }
    free(text);
    *room = (size_t)(size - 8 - n);
    return st;
}

static kd_status open_file(kd_tensors **out, const char *path, bool data, kd_err *err)
{
    struct stat sb;
    size_t room = 0;
    kd_status st;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open", path);
    kd_tensors *t = calloc(1, sizeof *t);
    if (!t)
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    else if (fstat(fd, &sb))
        st = kd_fail_errno(err, errno, "%s: cannot look at it", path);
    else if (!S_ISREG(sb.st_mode))
        st = kd_fail(err, KD_ECORRUPT, "%s: not a regular file", path);
    else
        st = read_header(t, fd, (uint64_t)sb.st_size, &room, path, err);
    if (!st) st = parse_header(t, room, path, err);
    if (!st) t->before = (uint64_t)sb.st_size - room;
    if (!st && data && !(t->data = kd_alloc_aligned(room + 1, 1)))
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for %zu bytes of tensors", path, room);
    if (!st && data) st = read_all(fd, t->data, room, path, err);
    for (size_t i = 0; !st && data && i < t->n; i++) t->list[i].t.data = t->data + t->list[i].begin;
    close(fd);
    if (st) {
        kd_tensors_close(t);
        return st;
    }
    *out = t;
    return KD_OK;
}

kd_status kd_tensors_open(kd_tensors **out, const char *path, kd_err *err)
{
    return open_file(out, path, true, err);
}

kd_status kd_tensors_scan(kd_tensors **out, const char *path, kd_err *err)
{
    return open_file(out, path, false, err);
}

uint64_t kd_tensors_where(const kd_tensors *t, size_t i) { return t->before + t->list[i].begin; }
size_t kd_tensors_count(const kd_tensors *t) { return t->n; }
const kd_tensor *kd_tensors_at(const kd_tensors *t, size_t i) { return &t->list[i].t; }

const kd_tensor *kd_tensors_find(const kd_tensors *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->list[i].t.name, name)) return &t->list[i].t;
    return NULL;
}

const char *kd_tensors_metadata(const kd_tensors *t, const char *key)
{
    return json_string_value(json_object_get(json_object_get(t->header, "__metadata__"), key));
}

void kd_tensors_close(kd_tensors *t)
{
    if (!t) return;
    json_decref(t->header);
    free(t->list);
    free(t->data);
    free(t);
}

/* ---- writing ----------------------------------------------------------------------------------- */

static int by_alignment(const void *a, const void *b)
{
    const kd_tensor *x = *(const kd_tensor *const *)a, *y = *(const kd_tensor *const *)b;
    size_t sx = kd_dtype_size(x->dtype), sy = kd_dtype_size(y->dtype);
    return sx != sy ? (sx > sy ? -1 : 1) : strcmp(x->name, y->name);
}

static json_t *entry_of(const kd_tensor *t, size_t begin)
{
    const char *dtype = NULL;
    for (size_t i = KD_COUNT(dtypes) - 1; i-- > 0;) // without BOOL
        if (dtypes[i].dtype == t->dtype) dtype = dtypes[i].name;
    json_t *shape = json_array();
    for (int i = 0; i < t->ndims; i++) json_array_append_new(shape, json_integer(t->dims[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)(begin + t->bytes));
}

/* The header's JSON, padded so that the data begin at a multiple of 8; free() it. */
static kd_status make_header(char **text, const kd_tensor *const *order, size_t n, const json_t *metadata,
                             const char *path, kd_err *err)
{
    json_t *h = json_object();
    kd_status st = KD_OK;
    size_t at = 0;
    if (metadata) json_object_set(h, "__metadata__", (json_t *)metadata);
    for (size_t i = 0; i < n && !st; i++) {
        size_t bytes = kd_dtype_size(order[i]->dtype);
        for (int d = 0; d < order[i]->ndims; d++)
            if (!kd_mul_size(bytes, (size_t)order[i]->dims[d], &bytes)) bytes = 0;
        if (!bytes != !order[i]->bytes || bytes != order[i]->bytes)
            st = kd_fail(err, KD_EUSAGE, "%s: tensor %s: %zu bytes, its shape needs %zu", path,
                         order[i]->name, order[i]->bytes, bytes);
        else if (json_object_get(h, order[i]->name))
            st = kd_fail(err, KD_EUSAGE, "%s: two tensors named %s", path, order[i]->name);
        else if (json_object_set_new(h, order[i]->name, entry_of(order[i], at)))
            st = kd_fail(err, KD_ENOMEM, "%s: no memory for its header", path);
        at += order[i]->bytes;
    }
    char *json = st ? NULL : kd_json_text(h, JSON_COMPACT);
    json_decref(h);
    if (st) return st;
    *text = json ? kd_sprintf("%s%*s", json, (int)(-strlen(json) & 7), "") : NULL;
    free(json);
    return *text ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: no memory for its header", path);
}

kd_status kd_tensors_save(const char *path, const kd_tensor *list, size_t n, const json_t *metadata,
                          kd_err *err)
{
    char *header = NULL;
    kd_newfile *f = NULL;
    const kd_tensor **order = calloc(n + 1, sizeof *order);
    if (!order) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    for (size_t i = 0; i < n; i++) order[i] = &list[i];
    qsort(order, n, sizeof *order, by_alignment);
    kd_status st = check_metadata(metadata, path, err);
    if (!st) st = make_header(&header, order, n, metadata, path, err);
    if (!st) st = kd_newfile_open(&f, path, err);
    if (!st) {
        uint64_t len = strlen(header);
        FILE *s = kd_newfile_stream(f);
        fwrite(&len, 8, 1, s); // errors stay with the stream until commit
        fwrite(header, 1, len, s);
        for (size_t i = 0; i < n; i++)
            if (order[i]->bytes) fwrite(order[i]->data, 1, order[i]->bytes, s);
        st = kd_newfile_commit(f, err);
    }
    free(header);
    free(order);
    return st;
}
