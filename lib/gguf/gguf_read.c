/* gguf_read.c - a GGUF file as strangers write it.
 *
 * Nothing is believed before it is checked: counts against the bytes that are left, by the least that an item
 * takes; lengths of texts against the bytes that are left; names against their limit and each other; shapes
 * by checked multiplication; each tensor's place against where the one before it ends, the last one against
 * the file. The header is read through one function that knows how much there is, and memory that it takes is
 * at most a small multiple of its bytes. Numbers are read when they are wanted, not mapped: a file that is
 * cut meanwhile gives an error and not a SIGBUS.
 */
#include "kd/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are copied as they are");

enum {
    KEY_LEAST = 8 + 1 + 4 + 1,            /* length, a letter, kind, a byte */
    TENSOR_LEAST = 8 + 1 + 4 + 8 + 4 + 8, /* length, a letter, axes, one axis, type, place */
    PIECE = 16 << 10                      /* numbers of a tensor that are read at a time: whole blocks */
};

struct kd_gguf {
    int fd;
    char *path;
    kd_arena arena;
    kd_gguf_value *values; /* (n_values) by key */
    kd_gguf_tensor *list;  /* (n_tensors) as in the file */
    const kd_gguf_tensor **by_name;
    size_t n_values, n_tensors, alignment;
};

typedef struct reader {
    kd_gguf *g;
    FILE *f;
    uint64_t at, size;
    kd_err *err;
} reader;

static const uint8_t kind_bytes[KD_GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
static const char *const kind_names[KD_GGUF_KINDS] = {"u8",   "i8",     "u16",    "i16", "u32", "i32", "f32",
                                                      "bool", "a text", "a list", "u64", "i64", "f64"};

/* ---- bytes -------------------------------------------------------------------------------------- */

static kd_status damaged(const reader *r, const char *what)
{
    return kd_fail(r->err, KD_ECORRUPT, "%s: byte %llu: %s", r->g->path, (unsigned long long)r->at, what);
}

static kd_status no_memory(const reader *r)
{
    return kd_fail(r->err, KD_ENOMEM, "%s: no memory for its header", r->g->path);
}

/* Bytes that the header may still have. */
static uint64_t left(const reader *r)
{
    return (r->size < KD_GGUF_MAX_HEADER ? r->size : KD_GGUF_MAX_HEADER) - r->at;
}

/* The next n bytes; what: whose they are. */
static kd_status take(reader *r, void *out, size_t n, const char *what)
{
    if (n > r->size - r->at)
        return kd_fail(r->err, KD_ECORRUPT, "%s: byte %llu: %s needs %zu bytes, the file has %llu more",
                       r->g->path, (unsigned long long)r->at, what, n, (unsigned long long)(r->size - r->at));
    if (n > left(r))
        return kd_fail(r->err, KD_ELIMIT, "%s: over %u bytes before the tensors' numbers", r->g->path,
                       KD_GGUF_MAX_HEADER);
    if (fread(out, 1, n, r->f) != n)
        return ferror(r->f) ? kd_fail_errno(r->err, errno, "%s: cannot read", r->g->path)
                            : damaged(r, "the file became shorter");
    r->at += n;
    return KD_OK;
}

/* A count of things of at least `least` bytes each. */
static kd_status take_count(reader *r, size_t least, const char *what, size_t *out)
{
    uint64_t n;
    *out = 0;
    kd_status st = take(r, &n, sizeof n, what);
    if (st) return st;
    if (n > left(r) / least)
        return kd_fail(r->err, KD_ECORRUPT, "%s: byte %llu: %s is %llu, %llu bytes are left", r->g->path,
                       (unsigned long long)r->at - 8, what, (unsigned long long)n,
                       (unsigned long long)left(r));
    *out = (size_t)n;
    return KD_OK;
}

/* A name of 1 to room - 1 letters of ASCII, into the arena. */
static kd_status take_name(reader *r, size_t room, const char *what, const char **out)
{
    size_t n;
    kd_status st = take_count(r, 1, what, &n);
    if (st) return st;
    if (!n || n >= room)
        return kd_fail(r->err, KD_ECORRUPT, "%s: byte %llu: %s has %zu bytes, expected 1 to %zu", r->g->path,
                       (unsigned long long)r->at - 8, what, n, room - 1);
    char *s = kd_arena_alloc(&r->g->arena, n + 1, 1);
    if (!s) return no_memory(r);
    if ((st = take(r, s, n, what))) return st;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= 0x20 || s[i] > 0x7E) return damaged(r, "a name holds a byte that is no letter of ASCII");
    *out = s;
    return KD_OK;
}

/* ---- values ------------------------------------------------------------------------------------- */

/* Appends a text and a NUL. */
static kd_status append_text(reader *r, kd_buf *b, size_t *len)
{
    char some[4096];
    kd_status st = take_count(r, 1, "the length of a text", len);
    for (size_t done = 0; done < *len && !st;) {
        const size_t n = kd_min_size(*len - done, sizeof some);
        if (!(st = take(r, some, n, "a text"))) kd_buf_append(b, some, n);
        done += n;
    }
    kd_buf_append(b, "", 1);
    return !st && b->failed ? no_memory(r) : st;
}

static kd_status take_texts(reader *r, kd_gguf_value *v)
{
    kd_buf b = {0};
    kd_status st = KD_OK;
    kd_gguf_text *text = kd_arena_alloc(&r->g->arena, v->n, sizeof *text);
    if (!text) return no_memory(r);
    for (size_t i = 0; i < v->n && !st; i++) st = append_text(r, &b, &text[i].len);
    char *all = st || !v->n ? NULL : kd_arena_alloc(&r->g->arena, b.len, 1);
    if (!st && v->n && !all) st = no_memory(r);
    if (all) memcpy(all, b.text, b.len);
    for (size_t i = 0, at = 0; i < v->n && !st; at += text[i++].len + 1) text[i].bytes = all + at;
    kd_buf_release(&b);
    v->items = text;
    return st;
}

static kd_status take_numbers(reader *r, kd_gguf_value *v)
{
    const size_t bytes = v->n * kind_bytes[v->kind];
    uint8_t *to = kd_arena_alloc(&r->g->arena, v->n, kind_bytes[v->kind]);
    if (!to) return no_memory(r);
    kd_status st = take(r, to, bytes, v->key);
    for (size_t i = 0; v->kind == KD_GGUF_KIND_BOOL && i < bytes && !st; i++)
        if (to[i] > 1) st = damaged(r, "a truth value is neither 0 nor 1");
    v->items = to;
    return st;
}

static kd_status take_kind(reader *r, const char *key, kd_gguf_kind *out)
{
    uint32_t kind;
    kd_status st = take(r, &kind, sizeof kind, key);
    if (st) return st;
    if (kind >= KD_GGUF_KINDS)
        return kd_fail(r->err, KD_ECORRUPT, "%s: key %s: there is no kind %u of values", r->g->path, key,
                       kind);
    *out = (kd_gguf_kind)kind;
    return KD_OK;
}

static kd_status take_value(reader *r, kd_gguf_value *v)
{
    kd_status st = take_name(r, KD_GGUF_MAX_KEY, "the name of a key", &v->key);
    if (!st) st = take_kind(r, v->key, &v->kind);
    if (st) return st;
    v->n = 1;
    if ((v->list = v->kind == KD_GGUF_KIND_LIST)) {
        if ((st = take_kind(r, v->key, &v->kind))) return st;
        if (v->kind == KD_GGUF_KIND_LIST)
            return kd_fail(r->err, KD_EUNSUPPORTED, "%s: key %s: a list of lists is not supported",
                           r->g->path, v->key);
        if ((st = take_count(r, kind_bytes[v->kind], "the length of a list", &v->n)))
            return kd_fail_in(r->err, st, "key %s", v->key);
    }
    st = v->kind == KD_GGUF_KIND_TEXT ? take_texts(r, v) : take_numbers(r, v);
    return st == KD_ECORRUPT ? kd_fail_in(r->err, st, "key %s", v->key) : st;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const kd_gguf_value *)a)->key, ((const kd_gguf_value *)b)->key);
}

static kd_status take_values(reader *r, size_t n)
{
    kd_gguf *g = r->g;
    kd_status st = KD_OK;
    if (!(g->values = kd_arena_alloc(&g->arena, n, sizeof *g->values))) return no_memory(r);
    for (size_t i = 0; i < n && !st; i++) st = take_value(r, &g->values[i]);
    if (st) return st;
    qsort(g->values, g->n_values = n, sizeof *g->values, by_key);
    for (size_t i = 1; i < n; i++)
        if (!by_key(&g->values[i - 1], &g->values[i]))
            return kd_fail(r->err, KD_ECORRUPT, "%s: key %s is there twice", g->path, g->values[i].key);
    return KD_OK;
}

/* Whether this is a file on its own; its alignment. */
static kd_status read_general(reader *r)
{
    kd_gguf *g = r->g;
    const kd_gguf_value *align = kd_gguf_find(g, "general.alignment");
    int64_t parts = 1;
    kd_status st = KD_OK;
    g->alignment = KD_GGUF_ALIGNMENT;
    if (kd_gguf_find(g, "split.count")) st = kd_gguf_int(g, "split.count", 0, UINT16_MAX, &parts, r->err);
    if (!st && parts > 1)
        return kd_fail(r->err, KD_EUNSUPPORTED,
                       "%s: is one of %lld parts; join them (llama-gguf-split --merge)", g->path,
                       (long long)parts);
    if (st || !align) return st;
    const uint32_t a = align->kind == KD_GGUF_KIND_U32 && !align->list ? *(const uint32_t *)align->items : 0;
    if (!a || a & (a - 1) || a > KD_GGUF_MAX_ALIGNMENT)
        return kd_fail(r->err, KD_ECORRUPT, "%s: general.alignment is no power of two up to %u (u32)",
                       g->path, KD_GGUF_MAX_ALIGNMENT);
    g->alignment = a;
    return KD_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------ */

static kd_status take_shape(reader *r, kd_gguf_tensor *t)
{
    uint32_t axes;
    kd_status st = take(r, &axes, sizeof axes, t->name);
    if (st) return st;
    if (!axes || axes > KD_GGUF_MAX_AXES)
        return kd_fail(r->err, KD_ECORRUPT, "%s: tensor %s has %u axes, expected 1 to %d", r->g->path,
                       t->name, axes, KD_GGUF_MAX_AXES);
    t->ndims = (int)axes;
    t->n = 1;
    for (int i = t->ndims; i-- > 0;) {
        if ((st = take(r, &t->dims[i], sizeof t->dims[i], t->name))) return st;
        if (t->dims[i] <= 0 || !kd_mul_size(t->n, (size_t)t->dims[i], &t->n) || t->n > INT64_MAX)
            return kd_fail(r->err, KD_ECORRUPT,
                           "%s: tensor %s: axis %d of size %lld, or the product of its axes, "
                           "is no size",
                           r->g->path, t->name, i, (long long)t->dims[i]);
    }
    return KD_OK;
}

/* *at: where the next tensor has to begin, counted from the first one. */
static kd_status take_tensor(reader *r, kd_gguf_tensor *t, uint64_t *at)
{
    kd_gguf *g = r->g;
    uint32_t type;
    uint64_t where;
    kd_status st = take_name(r, KD_GGUF_MAX_NAME, "the name of a tensor", &t->name);
    if (!st) st = take_shape(r, t);
    if (!st) st = take(r, &type, sizeof type, t->name);
    if (!st) st = take(r, &where, sizeof where, t->name);
    if (st) return st;
    if (!kd_gguf_type_name(type))
        return kd_fail(
            r->err, KD_EUNSUPPORTED,
            "%s: tensor %s is of type %u; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are read", g->path,
            t->name, type);
    t->type = (kd_gguf_type)type;
    if (!kd_gguf_bytes(t->type, (size_t)t->dims[t->ndims - 1]))
        return kd_fail(r->err, KD_ECORRUPT, "%s: tensor %s: rows of %lld numbers are no whole blocks of %s",
                       g->path, t->name, (long long)t->dims[t->ndims - 1], kd_gguf_type_name(type));
    t->bytes = kd_gguf_bytes(t->type, t->n);
    if (where != *at)
        return kd_fail(r->err, KD_ECORRUPT,
                       "%s: tensor %s begins at %llu, expected %llu, where the one before it ends", g->path,
                       t->name, (unsigned long long)where, (unsigned long long)*at);
    if (!t->bytes || where > r->size || t->bytes > r->size - where)
        return kd_fail(r->err, KD_ECORRUPT, "%s: tensor %s: its shape needs more bytes than the file has",
                       g->path, t->name);
    t->where = where;
    *at += (t->bytes + g->alignment - 1) / g->alignment * g->alignment;
    return KD_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const kd_gguf_tensor *const *)a)->name, (*(const kd_gguf_tensor *const *)b)->name);
}

static kd_status index_tensors(reader *r)
{
    kd_gguf *g = r->g;
    if (!(g->by_name = kd_arena_alloc(&g->arena, g->n_tensors, sizeof *g->by_name))) return no_memory(r);
    for (size_t i = 0; i < g->n_tensors; i++) g->by_name[i] = &g->list[i];
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!by_name(&g->by_name[i - 1], &g->by_name[i]))
            return kd_fail(r->err, KD_ECORRUPT, "%s: tensor %s is there twice", g->path, g->by_name[i]->name);
    return KD_OK;
}

static kd_status take_tensors(reader *r, size_t n)
{
    kd_gguf *g = r->g;
    uint64_t end = 0;
    kd_status st = KD_OK;
    if (!(g->list = kd_arena_alloc(&g->arena, n, sizeof *g->list))) return no_memory(r);
    for (size_t i = 0; i < n && !st; i++) st = take_tensor(r, &g->list[i], &end);
    if (st) return st;
    g->n_tensors = n;
    const uint64_t start = (r->at + g->alignment - 1) / g->alignment * g->alignment;
    for (size_t i = 0; i < n; i++) {
        g->list[i].where += start;
        if (g->list[i].where + g->list[i].bytes > r->size)
            return kd_fail(r->err, KD_ECORRUPT, "%s: tensor %s ends at byte %llu, the file at %llu", g->path,
                           g->list[i].name, (unsigned long long)(g->list[i].where + g->list[i].bytes),
                           (unsigned long long)r->size);
    }
    return index_tensors(r);
}

/* ---- the file ----------------------------------------------------------------------------------- */

static kd_status read_header(reader *r)
{
    uint8_t magic[4];
    uint32_t version;
    size_t tensors = 0, keys = 0;
    kd_status st;
    if (r->size < sizeof magic || take(r, magic, sizeof magic, "the magic") || memcmp(magic, "GGUF", 4))
        return kd_fail(r->err, KD_ECORRUPT, "%s: does not begin with GGUF: no GGUF file", r->g->path);
    if ((st = take(r, &version, sizeof version, "the version"))) return st;
    if (version && !(version & 0xFFFF))
        return kd_fail(r->err, KD_EUNSUPPORTED, "%s: its numbers are big-endian", r->g->path);
    if (version != KD_GGUF_VERSION)
        return kd_fail(r->err, KD_EUNSUPPORTED, "%s: is of GGUF version %u, %d is read", r->g->path, version,
                       KD_GGUF_VERSION);
    if ((st = take_count(r, TENSOR_LEAST, "the number of tensors", &tensors)) ||
        (st = take_count(r, KEY_LEAST, "the number of keys", &keys)) || (st = take_values(r, keys)) ||
        (st = read_general(r)))
        return st;
    return take_tensors(r, tensors);
}

kd_status kd_gguf_open(kd_gguf **out, const char *path, kd_err *err)
{
    struct stat sb;
    kd_status st = KD_OK;
    kd_gguf *g = calloc(1, sizeof *g);
    reader r = {.g = g, .err = err};
    *out = NULL;
    if (!g || !(g->path = kd_strdup(path))) {
        free(g);
        return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    }
    g->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (g->fd < 0)
        st = kd_fail_errno(err, errno, "%s: cannot open", path);
    else if (fstat(g->fd, &sb))
        st = kd_fail_errno(err, errno, "%s: cannot look at it", path);
    else if (!S_ISREG(sb.st_mode))
        st = kd_fail(err, KD_ECORRUPT, "%s: not a regular file", path);
    else if (!(r.f = fopen(path, "rbe")))
        st = kd_fail_errno(err, errno, "%s: cannot open", path);
    r.size = st ? 0 : (uint64_t)sb.st_size;
    if (!st) st = read_header(&r);
    if (r.f) fclose(r.f);
    if (st) {
        kd_gguf_close(g);
        return st;
    }
    *out = g;
    return KD_OK;
}

void kd_gguf_close(kd_gguf *g)
{
    if (!g) return;
    if (g->fd >= 0) close(g->fd);
    kd_arena_release(&g->arena);
    free(g->path);
    free(g);
}

/* ---- what it says ------------------------------------------------------------------------------- */

const char *kd_gguf_path(const kd_gguf *g) { return g->path; }

const kd_gguf_value *kd_gguf_find(const kd_gguf *g, const char *key)
{
    const kd_gguf_value wanted = {.key = key};
    return g->n_values ? bsearch(&wanted, g->values, g->n_values, sizeof *g->values, by_key) : NULL;
}

const char *kd_gguf_str(const kd_gguf *g, const char *key)
{
    const kd_gguf_value *v = kd_gguf_find(g, key);
    const kd_gguf_text *t = v && !v->list && v->kind == KD_GGUF_KIND_TEXT ? v->items : NULL;
    return t && strlen(t->bytes) == t->len ? t->bytes : NULL;
}

/* A whole number; false: it is none, or does not go into 64 bits with a sign. */
static bool whole(const kd_gguf_value *v, int64_t *out)
{
    switch (v->kind) {
    case KD_GGUF_KIND_U8:
    case KD_GGUF_KIND_BOOL: return *out = *(const uint8_t *)v->items, true;
    case KD_GGUF_KIND_I8: return *out = *(const int8_t *)v->items, true;
    case KD_GGUF_KIND_U16: return *out = *(const uint16_t *)v->items, true;
    case KD_GGUF_KIND_I16: return *out = *(const int16_t *)v->items, true;
    case KD_GGUF_KIND_U32: return *out = *(const uint32_t *)v->items, true;
    case KD_GGUF_KIND_I32: return *out = *(const int32_t *)v->items, true;
    case KD_GGUF_KIND_I64: return *out = *(const int64_t *)v->items, true;
    case KD_GGUF_KIND_U64: return *out = *(const int64_t *)v->items, *out >= 0;
    default: return false;
    }
}

static kd_status wrong(const kd_gguf *g, const kd_gguf_value *v, const char *key, const char *wanted,
                       kd_err *err)
{
    return kd_fail(err, KD_ECORRUPT, "%s: key %s %s%s, expected %s", g->path, key,
                   !v        ? "is missing"
                   : v->list ? "is a list of "
                             : "is ",
                   v ? kind_names[v->kind] : "", wanted);
}

kd_status kd_gguf_int(const kd_gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, kd_err *err)
{
    const kd_gguf_value *v = kd_gguf_find(g, key);
    if (!v || v->list || !whole(v, out)) return wrong(g, v, key, "a whole number", err);
    if (*out >= lo && *out <= hi) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s: key %s is %lld, expected %lld to %lld", g->path, key,
                   (long long)*out, (long long)lo, (long long)hi);
}

kd_status kd_gguf_real(const kd_gguf *g, const char *key, double *out, kd_err *err)
{
    const kd_gguf_value *v = kd_gguf_find(g, key);
    int64_t n;
    if (!v || v->list || v->kind == KD_GGUF_KIND_TEXT) return wrong(g, v, key, "a number", err);
    *out = v->kind == KD_GGUF_KIND_F32   ? (double)*(const float *)v->items
           : v->kind == KD_GGUF_KIND_F64 ? *(const double *)v->items
           : whole(v, &n)                ? (double)n
                                         : (double)*(const uint64_t *)v->items;
    return KD_OK;
}

kd_status kd_gguf_list(const kd_gguf *g, const char *key, kd_gguf_kind kind, const kd_gguf_value **out,
                       kd_err *err)
{
    const kd_gguf_value *v = *out = kd_gguf_find(g, key);
    char wanted[40];
    snprintf(wanted, sizeof wanted, "a list of %s", kind_names[kind]);
    return v && v->list && v->kind == kind ? KD_OK : wrong(g, v, key, wanted, err);
}

size_t kd_gguf_tensors(const kd_gguf *g, const kd_gguf_tensor **out)
{
    *out = g->list;
    return g->n_tensors;
}

const kd_gguf_tensor *kd_gguf_find_tensor(const kd_gguf *g, const char *name)
{
    const kd_gguf_tensor wanted = {.name = name}, *const key = &wanted, *const *found = NULL;
    if (g->n_tensors) found = bsearch(&key, g->by_name, g->n_tensors, sizeof *g->by_name, by_name);
    return found ? *found : NULL;
}

static kd_status read_at(const kd_gguf *g, uint8_t *to, size_t n, uint64_t at, kd_err *err)
{
    while (n) {
        const ssize_t got = pread(g->fd, to, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return kd_fail_errno(err, errno, "%s: cannot read", g->path);
        if (!got)
            return kd_fail(err, KD_ECORRUPT, "%s: ends at byte %llu, it was longer before", g->path,
                           (unsigned long long)at);
        to += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return KD_OK;
}

kd_status kd_gguf_read(const kd_gguf *g, const kd_gguf_tensor *t, float *out, kd_err *err)
{
    kd_status st = KD_OK;
    uint8_t *piece = malloc(PIECE * sizeof *out);
    if (!piece) return kd_fail(err, KD_ENOMEM, "%s: no memory to read %s", g->path, t->name);
    for (size_t done = 0, at = 0; done < t->n && !st; done += PIECE) {
        const size_t n = kd_min_size(PIECE, t->n - done), bytes = kd_gguf_bytes(t->type, n);
        st = read_at(g, piece, bytes, t->where + at, err);
        if (!st) kd_gguf_decode(out + done, piece, t->type, n);
        at += bytes;
    }
    free(piece);
    return st;
}
