/* npy.c - NumPy's array file, versions 1 to 3.
 *
 *     0  "\x93NUMPY"   8  u16 or (from version 2) u32 length of the header, little-endian
 *     6  u8 major      then the header: a Python dict as text, padded by blanks, ended by a newline
 *     7  u8 minor      then the values
 *
 * NumPy reads the header with Python's literal parser. kd needs three keys of known form, so it has a
 * grammar of its own, and what is outside of it is refused:
 *
 *     dict  = "{" pair { "," pair } [","] "}"       each key once, in any order
 *     pair  = "'descr'" ":" string | "'fortran_order'" ":" ("True" | "False") | "'shape'" ":" tuple
 *     tuple = "(" number { "," number } [","] ")"
 *
 * An array of objects is a pickle, that is, a program: never read.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct parser {
    const char *start, *p, *end, *path;
    kd_err *err;
    char descr[32];
    bool fortran;
    int naxes, seen; /* seen: bit 0 descr, 1 fortran_order, 2 shape */
    uint64_t axis[7];
} parser;

static kd_status fail_at(const parser *s, const char *expected)
{
    if (s->p >= s->end)
        return kd_fail(s->err, KD_ECORRUPT, "%s: the .npy header ends where %s is expected", s->path,
                       expected);
    return kd_fail(s->err, KD_ECORRUPT, "%s: the .npy header has '%.12s' at byte %d where %s is expected",
                   s->path, s->p, (int)(s->p - s->start), expected);
}

static void blanks(parser *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n')) s->p++;
}

/* Takes c if it comes next (behind blanks). */
static bool take(parser *s, char c)
{
    blanks(s);
    if (s->p >= s->end || *s->p != c) return false;
    s->p++;
    return true;
}

static bool take_word(parser *s, const char *word)
{
    size_t n = strlen(word);
    blanks(s);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n)) return false;
    s->p += n;
    return true;
}

/* A string in single or double quotes, without escapes. */
static kd_status take_string(parser *s, char *out, size_t size, const char *expected)
{
    blanks(s);
    if (s->p >= s->end || (*s->p != '\'' && *s->p != '"')) return fail_at(s, expected);
    const char *text = s->p + 1, *close = memchr(text, *s->p, (size_t)(s->end - text));
    if (!close || (size_t)(close - text) >= size || memchr(text, '\\', (size_t)(close - text)))
        return fail_at(s, expected);
    memcpy(out, text, (size_t)(close - text));
    out[close - text] = '\0';
    s->p = close + 1;
    return KD_OK;
}

static kd_status take_number(parser *s, uint64_t *out)
{
    blanks(s);
    if (s->p >= s->end || *s->p < '0' || *s->p > '9') return fail_at(s, "a length");
    for (*out = 0; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        if (__builtin_mul_overflow(*out, 10u, out) ||
            __builtin_add_overflow(*out, (unsigned)(*s->p - '0'), out))
            return kd_fail(s->err, KD_ECORRUPT, "%s: an axis in its .npy header is longer than 2^64",
                           s->path);
    return KD_OK;
}

static kd_status take_shape(parser *s)
{
    kd_status st;
    if (!take(s, '(')) return fail_at(s, "'('");
    while (!take(s, ')')) {
        if (s->naxes == 7)
            return kd_fail(s->err, KD_EUNSUPPORTED, "%s: more than 7 axes in its .npy header", s->path);
        if ((st = take_number(s, &s->axis[s->naxes++]))) return st;
        if (take(s, ',')) continue;
        if (!take(s, ')')) return fail_at(s, "',' or ')'");
        break;
    }
    return KD_OK;
}

static kd_status take_pair(parser *s)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    char key[32];
    size_t k = 0;
    kd_status st = take_string(s, key, sizeof(key), "a key");
    if (st) return st;
    while (k < KD_COUNT(keys) && strcmp(key, keys[k])) k++;
    if (k == KD_COUNT(keys))
        return kd_fail(s->err, KD_ECORRUPT, "%s: unknown key '%s' in its .npy header", s->path, key);
    if (s->seen & 1 << k)
        return kd_fail(s->err, KD_ECORRUPT, "%s: key '%s' twice in its .npy header", s->path, key);
    s->seen |= 1 << k;
    if (!take(s, ':')) return fail_at(s, "':'");
    if (k == 2) return take_shape(s);
    if (k == 1) {
        s->fortran = take_word(s, "True");
        return s->fortran || take_word(s, "False") ? KD_OK : fail_at(s, "True or False");
    }
    blanks(s);
    if (s->p < s->end && *s->p == '[')
        return kd_fail(s->err, KD_EUNSUPPORTED,
                       "%s: structured dtype: save each field as an array of its own", s->path);
    return take_string(s, s->descr, sizeof(s->descr), "a dtype");
}

static kd_status parse(parser *s)
{
    kd_status st;
    if (!take(s, '{')) return fail_at(s, "'{'");
    while (!take(s, '}')) {
        if ((st = take_pair(s))) return st;
        if (take(s, ',')) continue;
        if (!take(s, '}')) return fail_at(s, "',' or '}'");
        break;
    }
    blanks(s);
    if (s->p != s->end) return fail_at(s, "its end");
    if (s->seen != 7)
        return kd_fail(s->err, KD_ECORRUPT, "%s: no '%s' in its .npy header", s->path,
                       !(s->seen & 1)   ? "descr"
                       : !(s->seen & 2) ? "fortran_order"
                                        : "shape");
    return KD_OK;
}

/* "<f4": byte order, kind, bytes. bool becomes u8. */
static kd_status parse_descr(const parser *s, kd_dtype *dtype, bool *swap)
{
    static const struct {
        const char *code;
        kd_dtype dtype;
    } known[] = {{"b1", KD_U8},  {"u1", KD_U8},  {"i1", KD_I8},  {"u2", KD_U16},
                 {"i2", KD_I16}, {"u4", KD_U32}, {"i4", KD_I32}, {"u8", KD_U64},
                 {"i8", KD_I64}, {"f2", KD_F16}, {"f4", KD_F32}, {"f8", KD_F64}};
    const bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    const char *d = s->descr;
    if (*d && strchr("<>|=", *d)) {
        if (d[1] == 'O')
            return kd_fail(s->err, KD_EUNSUPPORTED,
                           "%s: dtype '%s': an array of Python objects is a pickle, which kd does not run",
                           s->path, s->descr);
        for (size_t i = 0; i < KD_COUNT(known); i++) {
            if (strcmp(d + 1, known[i].code)) continue;
            *dtype = known[i].dtype;
            *swap = kd_dtype_size(*dtype) > 1 && (*d == '>' ? little : *d == '<' ? !little : false);
            if (*d == '|' && kd_dtype_size(*dtype) > 1) break; // a byte order is needed
            return KD_OK;
        }
    }
    return kd_fail(s->err, KD_EUNSUPPORTED,
                   "%s: dtype '%s' is not supported: expected b1, u1-u8, i1-i8 or f2-f8", s->path, s->descr);
}

static kd_status fail_short(const kd__rawfile *r, size_t got, size_t want, kd_err *err)
{
    return kd_fail(err, KD_ECORRUPT, "%s: truncated inside its .npy header: %zu bytes where %zu are needed%s",
                   kd__raw_path(r), got, want, kd__raw_cut(r));
}

/* The text of the header; free() it. */
static kd_status read_header(kd__rawfile *r, char **text, size_t *len, kd_err *err)
{
    uint8_t head[12];
    size_t got, more;
    kd_status st = kd__raw_read(r, head, 8, &got, err);
    if (st) return st;
    if (got < 8) return fail_short(r, got, 8, err);
    if (head[6] < 1 || head[6] > 3 || head[7] != 0)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: .npy version %u.%u, supported are 1.0, 2.0 and 3.0",
                       kd__raw_path(r), head[6], head[7]);
    more = head[6] == 1 ? 2 : 4;
    if ((st = kd__raw_read(r, head + 8, more, &got, err))) return st;
    if (got < more) return fail_short(r, 8 + got, 8 + more, err);
    *len = head[8] | (size_t)head[9] << 8;
    if (more == 4) *len |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    if (*len > KD__NPY_MAX_HEADER)
        return kd_fail(err, KD_ELIMIT, "%s: an .npy header of %zu bytes, the limit is %u", kd__raw_path(r),
                       *len, KD__NPY_MAX_HEADER);
    if (!(*text = malloc(*len + 1))) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd__raw_path(r));
    if ((st = kd__raw_read(r, *text, *len, &got, err))) return st;
    if (got < *len) return fail_short(r, 8 + more + got, 8 + more + *len, err);
    (*text)[*len] = '\0';
    for (size_t i = 0; i < *len; i++) { // so that what is quoted in a sentence cannot harm a terminal
        unsigned char c = (unsigned char)(*text)[i];
        if ((c < ' ' && c != '\n') || c > '~')
            return kd_fail(err, KD_ECORRUPT, "%s: byte 0x%02x in its .npy header, expected plain text",
                           kd__raw_path(r), c);
    }
    return KD_OK;
}

/* Everything of a but its data. */
static kd_status take_head(kd_array *a, kd__rawfile *r, bool *swap, kd_err *err)
{
    char *text = NULL;
    size_t len = 0;
    kd_status st = read_header(r, &text, &len, err);
    if (st) goto out;
    parser s = {.start = text, .p = text, .end = text + len, .path = kd__raw_path(r), .err = err};
    if ((st = parse(&s)) || (st = parse_descr(&s, &a->dtype, swap))) goto out;
    if (s.fortran) {
        st = kd_fail(err, KD_EUNSUPPORTED,
                     "%s: in Fortran order, its rows are not contiguous; save numpy.ascontiguousarray of it",
                     s.path);
        goto out;
    }
    if (!s.naxes) {
        st = kd_fail(err, KD_ECORRUPT, "%s: shape () has no axis of rows", s.path);
        goto out;
    }
    a->rows = s.axis[0];
    a->ndims = s.naxes - 1;
    for (int i = 0; i < a->ndims; i++) {
        if (s.axis[i + 1] > INT64_MAX) {
            st = kd_fail(err, KD_ECORRUPT, "%s: axis %d of its header is longer than 2^63", s.path, i + 1);
            goto out;
        }
        a->dims[i] = (int64_t)s.axis[i + 1];
    }
out:
    free(text);
    return st;
}

kd_status kd__npy_read(kd_array *a, kd__rawfile *r, kd_err *err)
{
    bool swap = false;
    kd_status st = take_head(a, r, &swap, err);
    return st ? st : kd__payload_read(a, r, swap, err);
}

kd_status kd_npy_head(kd_array *a, const char *path, bool *swap, uint64_t *at, kd_err *err)
{
    kd__rawfile *r;
    const uint8_t *p;
    size_t n;
    uint64_t left = 0, size, row;
    *a = (kd_array){0};
    *swap = false;
    kd_status st = kd__raw_open(&r, path, err);
    if (st) return st;
    if (!kd__raw_left(r, &size))
        st = kd_fail(err, KD_EUNSUPPORTED,
                     "%s: read in place, so it must be a plain file; gunzip or copy it first", path);
    else if (!(st = kd__raw_peek(r, &p, 8, &n, err)) && (n < 6 || memcmp(p, "\x93NUMPY", 6)))
        st = kd_fail(err, KD_ECORRUPT, "%s: does not begin as an .npy file", path);
    if (!st) st = take_head(a, r, swap, err);
    if (!st) {
        kd__raw_left(r, &left);
        *at = size - left;
        row = kd_array_row_bytes(a);
        if (!a->rows || !row || left / row != a->rows || left % row)
            st =
                kd_fail(err, KD_ECORRUPT, "%s: header says %llu rows of %llu bytes, file holds %llu bytes",
                        path, (unsigned long long)a->rows, (unsigned long long)row, (unsigned long long)left);
    }
    kd__raw_close(r);
    return st;
}
