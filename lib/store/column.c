/* column.c - what a column is: roles, splits, encodings, filters, codecs, and its form in JSON.
 *
 * A column's description is written twice: in the manifest, which readers trust, and in the header
 * record of its segment, which is covered by the segment's root hash. Both come from
 * kd__column_to_json, so that they can be compared as JSON values.
 *
 * Names are kept to [a-z0-9_.-/] because they become parts of file names, Make targets and shell
 * arguments; a name that needs quoting somewhere is a bug waiting in a script.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>

static const char *const role_names[] = {[KD_ROLE_NONE] = "none",
#define X(NAME, name) [KD_ROLE_##NAME] = #name,
                                         KD_ROLE_MAP(X)
#undef X
};

const char *kd_role_name(kd_role r)
{
    return (size_t)r < sizeof(role_names) / sizeof(role_names[0]) ? role_names[r] : "none";
}

kd_role kd_role_parse(const char *name)
{
    for (size_t i = 1; i < sizeof(role_names) / sizeof(role_names[0]); i++)
        if (!strcmp(role_names[i], name)) return (kd_role)i;
    return KD_ROLE_NONE;
}

static const char *const split_names[KD_SPLITS] = {"train", "valid", "test"};

const char *kd_split_name(kd_split s) { return (unsigned)s < KD_SPLITS ? split_names[s] : "unknown"; }

int kd_split_parse(const char *name)
{
    for (int i = 0; i < KD_SPLITS; i++)
        if (!strcmp(split_names[i], name)) return i;
    return -1;
}

int kd__encoding_code(const char *name)
{
    if (!strcmp(name, "dense")) return KD__ENCODING_DENSE;
    const kd_codec_info *codec = kd_codec_find(name);
    return codec ? codec->code : 0;
}

bool kd__column_dense(const kd_column *c) { return !strcmp(c->encoding, "dense"); }

int kd__filter_code(const char *name)
{
    if (!strcmp(name, "none")) return KD__FILTER_NONE;
    if (!strcmp(name, "shuffle")) return KD__FILTER_SHUFFLE;
    if (!strcmp(name, "exponent")) return KD__FILTER_EXPONENT;
    return KD__FILTER_UNKNOWN;
}

bool kd__column_unit(const kd_column *c, size_t *bytes)
{
    size_t n = kd_dtype_size(c->dtype);
    for (int i = kd__column_ragged(c) ? 1 : 0; i < c->ndims; i++)
        if (!kd_mul_size(n, (size_t)c->dims[i], &n)) return false;
    *bytes = n;
    return n <= KD_STORE_MAX_RAW;
}

/* Axes that a position or the rows take: the last one, and before it the ragged one. */
size_t kd_column_width(const kd_column *c)
{
    return c->ndims > (kd__column_ragged(c) ? 1 : 0) ? (size_t)c->dims[c->ndims - 1] : 1;
}

size_t kd_column_each(const kd_column *c)
{
    size_t n = 1; // a product that kd__column_unit has bounded
    for (int i = kd__column_ragged(c) ? 1 : 0; i + 1 < c->ndims; i++) n *= (size_t)c->dims[i];
    return n;
}

bool kd__column_positions(const kd_column *c, uint32_t rows, const uint8_t *lengths, size_t *positions)
{
    size_t units = rows;
    uint32_t length;
    if (kd__column_ragged(c)) {
        units = 0;
        for (uint32_t i = 0; i < rows; i++) {
            memcpy(&length, lengths + 4 * (size_t)i, sizeof(length));
            units += length; // at most 2^16 of 2^32
        }
    }
    return kd_mul_size(units, kd_column_each(c), positions) && *positions <= KD_STORE_MAX_RAW;
}

kd_status kd_column_codec(kd_codec **out, const kd_column *c, kd_err *err)
{
    *out = NULL;
    if (kd__column_dense(c))
        return kd_fail(err, KD_EUSAGE, "column %s is dense: there is no codec to open", c->name);
    const json_t *params = json_object_get(c->params, "codec");
    if (params && !json_is_object(params))
        return kd_fail(err, KD_EUSAGE, "column %s: params.codec must be a JSON object", c->name);
    kd_status st =
        kd_codec_open(out, c->encoding, (int64_t)kd_column_width(c), params, c->book, c->book_bytes, err);
    return st ? kd_fail_in(err, st, "column %s", c->name) : KD_OK;
}

static bool name_ok(const char *name, bool slash)
{
    size_t len = strnlen(name, KD_STORE_NAME_MAX);
    if (!len || len == KD_STORE_NAME_MAX || name[0] == '.' || name[0] == '/') return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-' ||
              (slash && c == '/')))
            return false;
    }
    return true;
}

bool kd__segment_name_ok(const char *name) { return name_ok(name, false); }

/* What holds for a column wherever it comes from; why: one phrase on failure, else NULL. */
static const char *column_fault(const kd_column *c)
{
    size_t unit;
    if (!name_ok(c->name, true))
        return "its name must be of a-z, 0-9, '_', '.', '-', '/' and at most 63 long";
    if (!kd_dtype_size(c->dtype)) return "unknown dtype";
    if (c->role == KD_ROLE_NONE) return "it has no role";
    if (c->ndims < 0 || c->ndims > 6) return "more than 6 axes";
    for (int i = 0; i < c->ndims; i++) {
        if (c->dims[i] == -1 && i == 0) continue;
        if (c->dims[i] < 1 || c->dims[i] > INT32_MAX)
            return "an axis must be 1 to 2147483647 long (-1, ragged, only for the first)";
    }
    if (!kd__column_unit(c, &unit)) return "a row is larger than 1 GiB";
    if (c->role == KD_ROLE_ID && (c->dtype != KD_U8 || c->ndims != 1 || c->dims[0] != 16))
        return "the role id needs u8 with shape [16]";
    if (c->role == KD_ROLE_SPLIT && (c->dtype != KD_U8 || c->ndims != 0))
        return "the role split needs one u8 a row";
    if (c->role == KD_ROLE_MASK && (c->dtype != KD_U8 || c->ndims != 1 || c->dims[0] != -1))
        return "the role mask needs u8 with shape [-1]";
    return NULL;
}

kd_status kd__column_defaults(kd_column *c, int default_level, kd_err *err)
{
    if (!c->encoding[0]) snprintf(c->encoding, sizeof(c->encoding), "dense");
    if (!kd__encoding_code(c->encoding))
        return kd_fail(err, KD_EUNSUPPORTED,
                       "column %s: encoding '%.15s' is not known to kd %s; there are 'dense' and the codecs",
                       c->name, c->encoding, KD_VERSION);
    const bool dense = kd__column_dense(c);
    // Row ids are hashes, bytes have one plane, codecs lay out their own: nothing to gain from a filter
    // there.
    if (!c->filter[0])
        snprintf(c->filter, sizeof(c->filter), "%s",
                 !dense || kd_dtype_size(c->dtype) == 1 ? "none"
                 : c->dtype == KD_BF16                  ? "exponent"
                                                        : "shuffle");
    if (kd__filter_code(c->filter) == KD__FILTER_UNKNOWN)
        return kd_fail(err, KD_EUNSUPPORTED,
                       "column %s: unknown filter '%.15s', known are 'none', 'shuffle' and 'exponent'",
                       c->name, c->filter);
    if (kd__filter_code(c->filter) == KD__FILTER_EXPONENT && c->dtype != KD_BF16)
        return kd_fail(err, KD_EUSAGE, "column %s: filter exponent needs dtype bf16, not %s", c->name,
                       kd_dtype_name(c->dtype));
    if (!dense && (c->dtype != KD_F32 || kd__filter_code(c->filter) != KD__FILTER_NONE))
        return kd_fail(err, KD_EUSAGE,
                       "column %s: encoding %s needs dtype f32 and filter none, not %s and %s", c->name,
                       c->encoding, kd_dtype_name(c->dtype), c->filter);
    if (!c->level) c->level = default_level;
    if (c->level < 1 || c->level > 19)
        return kd_fail(err, KD_EUSAGE, "column %s: zstd level %d, allowed are 1 to 19", c->name, c->level);
    return KD_OK;
}

/* Opens the codec, which checks parameters and codebook, and writes all parameters down. */
static kd_status complete_codec(kd_column *c, kd_err *err)
{
    kd_codec *codec;
    kd_status st = kd_column_codec(&codec, c, err);
    if (st) return st;
    json_t *params = c->params ? json_copy(c->params) : json_object();
    json_t *all = json_deep_copy(kd_codec_params(codec));
    kd_codec_close(codec);
    if (!params || !all || json_object_set(params, "codec", all)) {
        json_decref(params);
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    } else {
        json_decref(c->params);
        c->params = params;
    }
    json_decref(all);
    return st;
}

kd_status kd__column_complete(kd_column *c, int default_level, kd_err *err)
{
    const char *fault = column_fault(c);
    kd_status st;
    if (fault) return kd_fail(err, KD_EUSAGE, "column '%.63s': %s", c->name, fault);
    if ((st = kd__column_defaults(c, default_level, err))) return st;
    if (c->params && !json_is_object(c->params))
        return kd_fail(err, KD_EUSAGE, "column %s: params must be a JSON object", c->name);
    const kd_codec_info *codec = kd_codec_find(c->encoding);
    if (c->book_bytes && ((codec && !codec->book) || !c->book || c->book_bytes > KD_CODEC_MAX_BOOK))
        return kd_fail(err, KD_EUSAGE, "column %s: encoding %s and a codebook of %zu bytes, allowed are %u",
                       c->name, c->encoding, c->book_bytes, codec && !codec->book ? 0 : KD_CODEC_MAX_BOOK);
    if (!c->book_bytes) c->book = NULL;
    return codec ? complete_codec(c, err) : KD_OK;
}

json_t *kd__column_to_json(const kd_column *c, uint64_t book_sum)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < c->ndims; i++) json_array_append_new(shape, json_integer(c->dims[i]));
    json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:s, s:s, s:i}", "name", c->name, "role",
                          kd_role_name(c->role), "dtype", kd_dtype_name(c->dtype), "shape", shape, "encoding",
                          c->encoding, "filter", c->filter, "level", c->level);
    if (!o) return NULL;
    if (c->teacher[0]) json_object_set_new(o, "teacher", json_string(c->teacher));
    if (c->tap[0]) json_object_set_new(o, "tap", json_string(c->tap));
    if (c->params) json_object_set(o, "params", c->params);
    if (c->book_bytes) {
        char sum[17];
        snprintf(sum, sizeof(sum), "%016llx", (unsigned long long)book_sum);
        json_object_set_new(o, "book", json_string(sum));
        json_object_set_new(o, "book_bytes", json_integer((json_int_t)c->book_bytes));
    }
    return o;
}

/* Copies a string member into a fixed field; a missing member is "" when optional. */
static kd_status copy_str(const json_t *obj, const char *key, char *out, size_t size, bool optional,
                          const char *path, kd_err *err)
{
    const char *s = "";
    kd_status st = KD_OK;
    if (!optional || json_object_get(obj, key)) st = kd_json_str(obj, key, &s, path, err);
    if (st) return st;
    if (strlen(s) >= size)
        return kd_fail(err, KD_ECORRUPT, "%s: column member '%s' is longer than %zu bytes", path, key,
                       size - 1);
    memcpy(out, s, strlen(s) + 1);
    return KD_OK;
}

/* The codebook that a column announces: its bytes and the checksum of its record. */
static kd_status book_from_json(kd_column *c, uint64_t *sum, const json_t *obj, const char *path, kd_err *err)
{
    const char *text;
    int64_t bytes;
    char *end;
    kd_status st;
    *sum = 0;
    if (!json_object_get(obj, "book") && !json_object_get(obj, "book_bytes")) return KD_OK;
    if ((st = kd_json_str(obj, "book", &text, path, err)) ||
        (st = kd_json_int(obj, "book_bytes", 1, KD_CODEC_MAX_BOOK, &bytes, path, err)))
        return st;
    *sum = strtoull(text, &end, 16);
    if (strlen(text) != 16 || *end)
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: 'book' is not a checksum", path, c->name);
    c->book_bytes = (size_t)bytes;
    return KD_OK;
}

kd_status kd__column_from_json(kd_column *c, uint64_t *book_sum, const json_t *obj, const char *path,
                               kd_err *err)
{
    char role[32], dtype[16];
    int64_t level;
    kd_status st;
    memset(c, 0, sizeof(*c));
    if (!json_is_object(obj)) return kd_fail(err, KD_ECORRUPT, "%s: a column is not an object", path);
    if ((st = copy_str(obj, "name", c->name, sizeof(c->name), false, path, err)) ||
        (st = copy_str(obj, "role", role, sizeof(role), false, path, err)) ||
        (st = copy_str(obj, "dtype", dtype, sizeof(dtype), false, path, err)) ||
        (st = copy_str(obj, "encoding", c->encoding, sizeof(c->encoding), false, path, err)) ||
        (st = copy_str(obj, "filter", c->filter, sizeof(c->filter), false, path, err)) ||
        (st = copy_str(obj, "teacher", c->teacher, sizeof(c->teacher), true, path, err)) ||
        (st = copy_str(obj, "tap", c->tap, sizeof(c->tap), true, path, err)) ||
        (st = kd_json_int(obj, "level", 1, 22, &level, path, err)))
        return st;
    c->level = (int)level;
    c->role = kd_role_parse(role);
    c->dtype = kd_dtype_parse(dtype);
    const json_t *shape = json_object_get(obj, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > 6)
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: shape is not a list of at most 6 lengths", path,
                       c->name);
    c->ndims = (int)json_array_size(shape);
    for (int i = 0; i < c->ndims; i++) c->dims[i] = json_integer_value(json_array_get(shape, (size_t)i));
    const char *fault = column_fault(c);
    if (fault) return kd_fail(err, KD_ECORRUPT, "%s: column '%s': %s", path, c->name, fault);
    json_t *params = json_object_get(obj, "params");
    if (params && !json_is_object(params))
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: params is not an object", path, c->name);
    if ((!kd__column_dense(c) && (c->dtype != KD_F32 || strcmp(c->filter, "none"))) ||
        (c->dtype != KD_BF16 && !strcmp(c->filter, "exponent")))
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: encoding %s with dtype %s and filter %s", path,
                       c->name, c->encoding, kd_dtype_name(c->dtype), c->filter);
    if ((st = book_from_json(c, book_sum, obj, path, err))) return st;
    c->params = params ? json_incref(params) : NULL;
    return KD_OK;
}
