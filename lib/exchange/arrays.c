/* arrays.c - .npy and safetensors as columns whose rows are read where they are.
 *
 * Several files are parts of one output: their rows count on from file to file, and all have the same
 * columns. Headers are read and checked once (lib/data and lib/model own the formats); values stay in the
 * files, and a chunk of the store reads the rows it wants by pread, neighbours in one call.
 *
 * In safetensors a column is a tensor whose first axis is rows. A ragged one is a tensor X of all
 * positions and a tensor X.lengths of how many each row has; where rows begin is kept, 8 bytes a row.
 */
#include "exchange_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct place {
    uint64_t at;     /* byte of the first row */
    uint64_t *start; /* (rows + 1) ragged: the first position of each row */
    bool swap;
} place;

typedef struct part {
    const char *path;
    int fd;
    uint64_t first, rows;
    place place[KD_IMPORT_COLUMNS];
} part;

typedef struct arrays {
    part *part;
    size_t parts;
    size_t unit[KD_IMPORT_COLUMNS]; /* bytes of a row, of a position if ragged */
} arrays;

static void close_arrays(kd__input *in)
{
    arrays *a = in->state;
    for (size_t i = 0; a && i < a->parts; i++) {
        for (size_t c = 0; c < in->n; c++) free(a->part[i].place[c].start);
        if (a->part[i].fd >= 0) close(a->part[i].fd);
    }
    if (a) free(a->part);
    free(a);
}

static const part *part_of(const arrays *a, uint64_t row)
{
    size_t lo = 0, hi = a->parts;
    while (hi - lo > 1) {
        const size_t mid = lo + (hi - lo) / 2;
        if (a->part[mid].first <= row)
            lo = mid;
        else
            hi = mid;
    }
    return &a->part[lo];
}

static const char *row_name(const void *arg, uint64_t at, char *buf)
{
    const part *p = part_of(arg, at);
    snprintf(buf, 256, "%.200s, row %llu", p->path, (unsigned long long)(at - p->first));
    return buf;
}

/* ---- reading ------------------------------------------------------------------------------------ */

static void swap_bytes(uint8_t *p, size_t n, size_t size)
{
    for (size_t i = 0; i + size <= n; i += size)
        for (size_t k = 0; k < size / 2; k++) {
            const uint8_t t = p[i + k];
            p[i + k] = p[i + size - 1 - k];
            p[i + size - 1 - k] = t;
        }
}

/* Where a row's bytes are, and how many. */
static void span(const arrays *a, const part *p, size_t col, uint64_t row, uint64_t *at, size_t *bytes)
{
    const place *x = &p->place[col];
    const uint64_t from = x->start ? x->start[row - p->first] : row - p->first;
    const uint64_t to = x->start ? x->start[row - p->first + 1] : from + 1;
    *at = x->at + from * a->unit[col];
    *bytes = (size_t)(to - from) * a->unit[col]; // checked against the file's size on opening
}

/* Rows that follow each other in a file are read in one call. */
static kd_status read_rows(const arrays *a, size_t col, kd_dtype dtype, const uint64_t *at, uint32_t rows,
                           uint8_t *to, kd_err *err)
{
    kd_status st = KD_OK;
    for (uint32_t r = 0, next; r < rows && !st; r = next) {
        const part *p = part_of(a, at[r]);
        uint64_t from, more_at;
        size_t bytes, more;
        span(a, p, col, at[r], &from, &bytes);
        for (next = r + 1; next < rows && at[next] == at[next - 1] + 1 && at[next] < p->first + p->rows;
             next++) {
            span(a, p, col, at[next], &more_at, &more);
            bytes += more;
        }
        st = kd__read_at(p->fd, to, bytes, from, p->path, err);
        if (!st && p->place[col].swap) swap_bytes(to, bytes, kd_dtype_size(dtype));
        to += bytes;
    }
    return st;
}

static kd_status fetch(kd__input *in, size_t col, const uint64_t *at, uint32_t rows, kd__rows *out,
                       kd_err *err)
{
    const arrays *a = in->state;
    const kd__in_column *c = &in->col[col];
    const size_t numbers = a->unit[col] / kd_dtype_size(c->dtype);
    const bool ragged = c->ndims && c->dims[0] == -1;
    uint64_t positions = ragged ? 0 : rows;
    kd_status st = kd__room(&out->lengths, &out->lengths_cap, rows * sizeof(uint32_t), err);
    for (uint32_t r = 0; r < rows && ragged && !st; r++) {
        const part *p = part_of(a, at[r]);
        const uint64_t *start = p->place[col].start + (at[r] - p->first), n = start[1] - start[0];
        char buf[256];
        if (n > UINT32_MAX)
            st = kd_fail(err, KD_ELIMIT, "%s: %llu positions in one row", row_name(a, at[r], buf),
                         (unsigned long long)n);
        out->lengths[r] = (uint32_t)n;
        positions += n;
    }
    if (st) return st;
    if (positions * numbers > KD_IMPORT_MAX_CHUNK / sizeof(float))
        return kd_fail(
            err, KD_ELIMIT,
            "%s: a chunk of %u rows is %llu numbers, the limit is %llu; pack the data in smaller chunks",
            in->match.what, rows, (unsigned long long)(positions * numbers),
            KD_IMPORT_MAX_CHUNK / sizeof(float));
    const size_t n = (size_t)positions * numbers;
    if ((st = kd__room(&out->raw, &out->raw_cap, n * kd_dtype_size(c->dtype), err)) ||
        (st = kd__room(&out->values, &out->values_cap, n * sizeof(float), err)) ||
        (st = read_rows(a, col, c->dtype, at, rows, out->raw, err)))
        return st;
    out->positions = (size_t)positions;
    return kd_to_f32(out->values, out->raw, c->dtype, n);
}

static kd_status sample(kd__input *in, uint64_t at, kd_hasher *h, kd_err *err)
{
    const arrays *a = in->state;
    const part *p = part_of(a, at);
    kd_status st = KD_OK;
    for (size_t c = 0; c < in->n && !st; c++) {
        uint64_t from;
        size_t bytes;
        uint8_t block[4096]; // the beginning of a row says enough
        span(a, p, c, at, &from, &bytes);
        const size_t n = kd_min_size(bytes, sizeof block);
        if (!(st = kd__read_at(p->fd, block, n, from, p->path, err))) kd_hasher_add(h, block, n);
    }
    return st;
}

/* ---- opening ------------------------------------------------------------------------------------ */

bool kd__role_of_name(const char *name, kd_role *role, char tap[KD_STORE_NAME_MAX])
{
    static const struct {
        const char *name;
        kd_role role;
    } known[] = {{"logits", KD_ROLE_LOGITS},    {"scores", KD_ROLE_SCORE},    {"score", KD_ROLE_SCORE},
                 {"features", KD_ROLE_FEATURE}, {"feature", KD_ROLE_FEATURE}, {"feat", KD_ROLE_FEATURE}};
    const char *slash = strrchr(name, '/'), *n = slash ? slash + 1 : name, *dot = strchr(n, '.');
    const size_t len = dot ? (size_t)(dot - n) : strlen(n);
    tap[0] = '\0';
    for (size_t i = 0; i < KD_COUNT(known); i++) {
        if (strlen(known[i].name) != len || strncmp(n, known[i].name, len)) continue;
        if (dot && known[i].role != KD_ROLE_FEATURE) return false;
        snprintf(tap, KD_STORE_NAME_MAX, "%.63s", dot ? dot + 1 : "");
        *role = known[i].role;
        return true;
    }
    return false;
}

/* A column of one file. The first file's stay; the others' must be equal to them. */
static kd_status add_column(kd__input *in, part *p, const kd__in_column *c, const place *x, kd_err *err)
{
    arrays *a = in->state;
    size_t i = 0, unit = kd_dtype_size(c->dtype);
    const bool first = p == a->part;
    if (c->ndims > 6) return kd_fail(err, KD_EUNSUPPORTED, "%s: %s: more than 6 axes", p->path, c->field);
    for (int d = 0; d < c->ndims; d++) {
        if (!c->dims[d])
            return kd_fail(err, KD_ECORRUPT, "%s: %s: axis %d has length 0", p->path, c->field, d + 1);
        if (c->dims[d] > 0 && !kd_mul_size(unit, (size_t)c->dims[d], &unit))
            return kd_fail(err, KD_ECORRUPT, "%s: %s: its shape overflows", p->path, c->field);
    }
    while (i < in->n && strcmp(in->col[i].field, c->field)) i++;
    if (first && i < in->n) return kd_fail(err, KD_EMISMATCH, "%s: two tensors %s", p->path, c->field);
    if (first && in->n == KD_IMPORT_COLUMNS)
        return kd_fail(err, KD_ELIMIT, "%s: more than %d tensors of outputs", p->path, KD_IMPORT_COLUMNS);
    if (!first && i == in->n)
        return kd_fail(err, KD_EMISMATCH, "%s: has a tensor %s that %s has not", p->path, c->field,
                       a->part->path);
    if (first) in->col[in->n] = *c, a->unit[in->n++] = unit;
    const kd__in_column *same = &in->col[i];
    bool equal = same->dtype == c->dtype && same->ndims == c->ndims;
    for (int d = 0; d < c->ndims && equal; d++) equal = same->dims[d] == c->dims[d];
    if (!equal)
        return kd_fail(err, KD_EMISMATCH, "%s: %s has another type or shape than in %s", p->path, c->field,
                       a->part->path);
    p->place[i] = *x;
    return KD_OK;
}

static kd_status open_npy(kd__input *in, part *p, const kd_import_params *ip, kd_err *err)
{
    kd_array a;
    place x = {0};
    kd__in_column c = {.role = ip->role ? kd_role_parse(ip->role) : KD_ROLE_LOGITS};
    kd_status st = kd_npy_head(&a, p->path, &x.swap, &x.at, err);
    if (st) return st;
    snprintf(c.field, sizeof c.field, "%s", "array");
    snprintf(c.tap, sizeof c.tap, "%s", ip->tap ? ip->tap : "");
    c.dtype = a.dtype;
    c.ndims = a.ndims;
    memcpy(c.dims, a.dims, sizeof c.dims);
    p->rows = a.rows;
    return add_column(in, p, &c, &x, err);
}

/* Reads the lengths of a ragged tensor of so many positions into where its rows begin. */
static kd_status read_starts(place *x, const part *p, const kd_tensors *t, size_t i, uint64_t positions,
                             kd_err *err)
{
    const kd_tensor *l = kd_tensors_at(t, i);
    const uint64_t rows = l->ndims == 1 ? (uint64_t)l->dims[0] : 0;
    uint32_t block[4096];
    uint64_t sum = 0;
    kd_status st = KD_OK;
    if (l->dtype != KD_U32 || !rows)
        return kd_fail(err, KD_EMISMATCH, "%s: %s: lengths are one u32 a row", p->path, l->name);
    if (rows >= SIZE_MAX / 8 - 1 || !(x->start = malloc((size_t)(rows + 1) * 8)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for the lengths of %llu rows", p->path,
                       (unsigned long long)rows);
    for (uint64_t r = 0; r < rows && !st; r += 4096) {
        const size_t k = rows - r < 4096 ? (size_t)(rows - r) : 4096;
        st = kd__read_at(p->fd, block, 4 * k, kd_tensors_where(t, i) + 4 * r, p->path, err);
        for (size_t j = 0; j < k && !st; j++) {
            x->start[r + j] = sum;
            sum += block[j]; // at most 2^32 * 2^32
        }
    }
    x->start[rows] = sum;
    if (!st && sum != positions)
        st = kd_fail(err, KD_EMISMATCH, "%s: %s add up to %llu positions, the tensor has %llu", p->path,
                     l->name, (unsigned long long)sum, (unsigned long long)positions);
    if (st) free(x->start), x->start = NULL;
    return st;
}

static size_t index_of(const kd_tensors *t, const char *name)
{
    for (size_t i = 0; i < kd_tensors_count(t); i++)
        if (!strcmp(kd_tensors_at(t, i)->name, name)) return i;
    return SIZE_MAX;
}

static kd_status count_rows(part *p, const char *name, uint64_t rows, kd_err *err)
{
    if (p->rows == UINT64_MAX) p->rows = rows;
    if (p->rows == rows) return KD_OK;
    return kd_fail(err, KD_EMISMATCH, "%s: %.100s has %llu rows, another tensor has %llu", p->path, name,
                   (unsigned long long)rows, (unsigned long long)p->rows);
}

/* What a tensor is: by what export wrote beside it, by its name, or by what the caller says. */
static bool role_of(const kd_tensors *t, const char *name, const json_t *roles, const kd_import_params *ip,
                    kd_role *role, char tap[KD_STORE_NAME_MAX])
{
    const json_t *said = json_object_get(roles, name);
    const char *r = json_string_value(json_object_get(said, "role"));
    const char *node = json_string_value(json_object_get(said, "tap"));
    (void)t;
    if (ip->field && strcmp(ip->field, name)) return false;
    if (r) {
        *role = kd_role_parse(r);
        snprintf(tap, KD_STORE_NAME_MAX, "%.63s", node ? node : "");
        return *role == KD_ROLE_LOGITS || *role == KD_ROLE_SCORE || *role == KD_ROLE_FEATURE;
    }
    if (kd__role_of_name(name, role, tap)) return true;
    if (!ip->field) return false;
    *role = ip->role ? kd_role_parse(ip->role) : KD_ROLE_LOGITS;
    snprintf(tap, KD_STORE_NAME_MAX, "%.63s", ip->tap ? ip->tap : "");
    return true;
}

static kd_status add_tensor(kd__input *in, part *p, const kd_tensors *t, size_t i, kd_role role,
                            const char *tap, kd_err *err)
{
    const kd_tensor *x = kd_tensors_at(t, i);
    char lengths[160];
    place at = {.at = kd_tensors_where(t, i)};
    kd__in_column c = {.role = role, .dtype = x->dtype, .ndims = x->ndims - 1};
    if (strlen(x->name) >= sizeof c.field)
        return kd_fail(err, KD_ELIMIT, "%s: tensor %.40s...: its name is too long", p->path, x->name);
    snprintf(c.field, sizeof c.field, "%s", x->name);
    snprintf(c.tap, sizeof c.tap, "%s", tap);
    snprintf(lengths, sizeof lengths, "%s.lengths", x->name);
    if (x->ndims < 1 || x->ndims > 6)
        return kd_fail(err, KD_EMISMATCH, "%s: tensor %s has %d axes, expected rows and up to 5 more",
                       p->path, x->name, x->ndims);
    for (int d = 0; d < c.ndims; d++) c.dims[d] = x->dims[d + 1];
    const size_t l = index_of(t, lengths);
    uint64_t rows = (uint64_t)x->dims[0];
    kd_status st = KD_OK;
    if (l != SIZE_MAX) {
        memmove(c.dims + 1, c.dims, 5 * sizeof(int64_t));
        c.dims[0] = -1;
        c.ndims++;
        if ((st = read_starts(&at, p, t, l, rows, err))) return st;
        rows = (uint64_t)kd_tensors_at(t, l)->dims[0];
    }
    if ((st = count_rows(p, x->name, rows, err)) || (st = add_column(in, p, &c, &at, err))) free(at.start);
    return st;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static void leave_out(kd_import_report *report, const char *name)
{
    const size_t n = strlen(report->left_out);
    snprintf(report->left_out + n, sizeof report->left_out - n, "%s%.80s", n ? ", " : "", name);
}

static kd_status take_names(kd__input *in, const part *p, const kd_tensors *t, kd_err *err)
{
    kd__names n = {0};
    kd_status st = KD_OK;
    for (int i = 0; i < KD__IDENTITIES && !st; i++) {
        const char *v = kd_tensors_metadata(t, kd__identity_keys[i]);
        if (v) st = kd__names_set(&n, (kd__identity)i, v, err);
        if (v && !st && !in->names.v[i]) st = kd__names_set(&in->names, (kd__identity)i, v, err);
    }
    if (!st) st = kd__names_compare(&n, &in->names, p->path, "an earlier file", err);
    kd__names_release(&n);
    return st;
}

static kd_status open_tensors(kd__input *in, part *p, const kd_import_params *ip, const char *ids,
                              kd_import_report *report, kd_err *err)
{
    kd_tensors *t;
    size_t before = in->n, found = 0;
    kd_status st = kd_tensors_scan(&t, p->path, err);
    if (st) return st;
    const char *text = kd_tensors_metadata(t, "kd.columns");
    json_t *roles = text ? json_loads(text, 0, NULL) : NULL; // not JSON: as if there were none
    p->rows = UINT64_MAX;
    st = take_names(in, p, t, err);
    for (size_t i = 0; i < kd_tensors_count(t) && !st; i++) {
        const kd_tensor *x = kd_tensors_at(t, i);
        kd_role role;
        char tap[KD_STORE_NAME_MAX];
        if ((ids && !strcmp(x->name, ids)) || ends_with(x->name, ".lengths")) continue;
        if (!role_of(t, x->name, roles, ip, &role, tap)) {
            if (!before && !ip->field && !ends_with(x->name, "ids")) leave_out(report, x->name);
            continue;
        }
        st = add_tensor(in, p, t, i, role, tap, err);
        found++;
    }
    if (!st && (!found || found != in->n))
        st = kd_fail(
            err, found ? KD_EMISMATCH : KD_EUSAGE,
            found ? "%s: has fewer tensors of outputs than the first file"
                  : "%s: no tensor is named logits, scores or features.NAME; say which one with --field",
            p->path);
    const size_t i = ids ? index_of(t, ids) : SIZE_MAX;
    if (!st && i != SIZE_MAX) {
        const kd_tensor *x = kd_tensors_at(t, i);
        if (x->dtype != KD_U8 || x->ndims != 2 || x->dims[1] != 16)
            st = kd_fail(err, KD_EMISMATCH, "%s: ids are a tensor (rows, 16) of U8", p->path);
        else if (!(st = count_rows(p, ids, (uint64_t)x->dims[0], err)))
            st = kd__ids_at(&in->match, p->fd, p->path, kd_tensors_where(t, i), p->rows, p->first, err);
    }
    json_decref(roles);
    kd_tensors_close(t);
    return st;
}

/* Ids of their own, or a declared order. */
static kd_status decide_match(kd__input *in, const kd_import_params *ip, bool tensor, kd_err *err)
{
    if (in->match.declared) return KD_OK;
    if (!tensor && ip->ids) return kd__ids_read(&in->match, ip->ids, err);
    if (in->match.n == in->rows && in->rows) return KD_OK;
    if (in->match.n)
        return kd_fail(err, KD_EMISMATCH, "%s: not every file has a tensor of ids", in->match.what);
    return kd_fail(
        err, KD_EUSAGE,
        "%s: nothing says which row is which: name a file of ids with --ids, or say --order store or "
        "--order source",
        in->match.what);
}

kd_status kd__arrays_open(kd__input *in, kd_store *s, const char *const *files, size_t n, kd__file_kind kind,
                          const kd_import_params *ip, kd_import_report *report, kd_err *err)
{
    arrays *a = in->state = calloc(1, sizeof *a);
    in->close = close_arrays;
    in->fetch = fetch;
    in->sample = sample;
    if (!a || !(a->part = calloc(n, sizeof *a->part))) return kd_fail(err, KD_ENOMEM, "out of memory");
    in->match.what = files[0];
    in->match.place = row_name;
    in->match.arg = a;
    in->match.declared = ip->order != NULL;
    // A name that is no file is a tensor's.
    const bool tensor = kind == KD__SAFETENSORS && (!ip->ids || !kd_exists(ip->ids));
    const char *ids = tensor && !ip->order ? (ip->ids ? ip->ids : "ids") : NULL;
    kd_status st = kd__match_open(&in->match, s,
                                  !ip->order                     ? KD_KEY_ID
                                  : !strcmp(ip->order, "source") ? KD_KEY_SOURCE
                                                                 : KD_KEY_ROW,
                                  err);
    for (size_t i = 0; i < n && !st; i++) {
        part *p = &a->part[a->parts++];
        p->path = files[i];
        p->first = in->rows;
        if ((p->fd = open(files[i], O_RDONLY | O_CLOEXEC)) < 0)
            return kd_fail_errno(err, errno, "%s: cannot open", files[i]);
        st = kind == KD__NPY ? open_npy(in, p, ip, err) : open_tensors(in, p, ip, ids, report, err);
        if (!st && __builtin_add_overflow(in->rows, p->rows, &in->rows))
            st = kd_fail(err, KD_ECORRUPT, "%s: more than 2^64 rows", files[i]);
    }
    in->match.rows = in->rows;
    return st ? st : decide_match(in, ip, tensor, err);
}
