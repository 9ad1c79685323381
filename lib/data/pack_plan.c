/* pack_plan.c - reads the sources and decides which row goes where, before anything is written.
 *
 * Everything follows from a row's id, a hash of its content:
 *
 *   split  u = hash(id, seed, 'S') / 2^64; u < valid: validation; without test files, the next
 *          test_fraction is test. Rows of test files are test whatever their id.
 *   order  within a split by hash(id, seed, 'O'), then by source row.
 *
 * So equal rows land in one split (no exact duplicate leaks from training into validation), adding
 * rows to a data set moves none of the others to another split, and any prefix of a split is a fair
 * sample. The two letters keep order and split independent of each other. Only a test file can hold
 * a copy of a training row: that is the data set's own leak; it is counted, reported and left alone.
 */
#include "data_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- ids ---------------------------------------------------------------------------------- */

kd_status kd__idmaker_init(kd__idmaker *m, const char *name, const kd_array *a, kd_err *err)
{
    kd_buf head = {0};
    kd_buf_printf(&head, "%s %s ", name, kd_dtype_name(a->dtype));
    for (int i = 0; i < a->ndims; i++) kd_buf_printf(&head, "%s%lld", i ? "," : "", (long long)a->dims[i]);
    kd_buf_puts(&head, "\n");
    *m = (kd__idmaker){.head = head.len, .row = kd_array_row_bytes(a)};
    m->scratch = head.failed ? NULL : malloc(m->head + m->row);
    if (m->scratch) memcpy(m->scratch, head.text, head.len);
    kd_buf_release(&head);
    return m->scratch ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
}

kd_id kd__idmaker_id(kd__idmaker *m, const void *row)
{
    memcpy(m->scratch + m->head, row, m->row);
    return kd_hash128(m->scratch, m->head + m->row);
}

void kd__idmaker_release(kd__idmaker *m) { free(m->scratch); }

static uint64_t keyed(kd_id id, int64_t seed, char purpose)
{
    uint8_t b[25];
    memcpy(b, id.b, 16);
    for (int i = 0; i < 8; i++) b[16 + i] = (uint8_t)((uint64_t)seed >> 8 * i);
    b[24] = (uint8_t)purpose;
    return kd_hash64(b, sizeof(b));
}

/* ---- reading ------------------------------------------------------------------------------ */

static bool among(const char *path, const kd_strings *files)
{
    for (size_t i = 0; i < files->n; i++)
        if (!strcmp(path, files->v[i])) return true;
    return false;
}

/* One pair of input and label files. Labels without files of their own are a column of the inputs'. */
static kd_status read_pair(kd__pack *p, const char *what, const kd_strings *inputs, const kd_strings *labels,
                           kd_err *err)
{
    const kd_data_spec *s = p->spec;
    const kd_strings *from = labels->n ? labels : inputs;
    uint64_t had = p->input.a.rows, had_labels = p->label.a.rows;
    kd_status st;
    if (!labels->n && !s->label_column)
        return kd_fail(
            err, KD_EUSAGE,
            "no labels for %s_input: set data.%s_label, or data.label_column if they stand in the same CSV",
            what, what);
    for (size_t i = 0; i < inputs->n; i++) {
        const char *f = inputs->v[i];
        bool shared = among(f, from);
        if (shared && !(kd__source_is_text(f) && s->label_column))
            return kd_fail(err, KD_EUSAGE,
                           "%s: given for inputs and labels, but no data.label_column tells them apart", f);
        if ((st = kd__rowset_add(&p->input, f, kd__source_is_text(f) ? s->input_column : NULL,
                                 shared ? s->label_column : NULL, err)))
            return st;
    }
    for (size_t i = 0; i < from->n; i++)
        if ((st = kd__rowset_add(&p->label, from->v[i],
                                 kd__source_is_text(from->v[i]) ? s->label_column : NULL, NULL, err)))
            return st;
    if (p->input.a.rows - had != p->label.a.rows - had_labels)
        return kd_fail(err, KD_EMISMATCH, "%s: %llu rows, but %s: %llu labels", inputs->v[0],
                       (unsigned long long)(p->input.a.rows - had), from->v[0],
                       (unsigned long long)(p->label.a.rows - had_labels));
    return KD_OK;
}

/* Gives input rows the shape that the spec wants. */
static kd_status reshape(kd_array *a, const kd_data_spec *s, const char *path, kd_err *err)
{
    char is[128];
    size_t have = kd_array_row_bytes(a) / kd_dtype_size(a->dtype), want = 1;
    if (!s->shape.n) return KD_OK;
    if (s->shape.n > 6)
        return kd_fail(err, KD_EUSAGE, "data.shape: %zu axes, at most 6 are supported", s->shape.n);
    for (size_t i = 0; i < s->shape.n; i++)
        if (s->shape.v[i] < 1 || !kd_mul_size(want, (size_t)s->shape.v[i], &want)) want = 0;
    if (want != have)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: a row is %s, that is %zu values; data.shape wants another number", path,
                       kd__shape_text(a->dtype, a->ndims, a->dims, is, sizeof(is)), have);
    a->ndims = (int)s->shape.n;
    memcpy(a->dims, s->shape.v, s->shape.n * sizeof(a->dims[0]));
    return KD_OK;
}

/* ---- labels ------------------------------------------------------------------------------- */

/* Label i as a whole number; false if it is none. */
static bool label_at(const kd_array *a, uint64_t i, int64_t *out)
{
    const void *p = (const char *)a->data + i * kd_dtype_size(a->dtype);
    float f;
    double x;
    switch (a->dtype) {
    case KD_U8: *out = *(const uint8_t *)p; return true;
    case KD_I8: *out = *(const int8_t *)p; return true;
    case KD_U16: *out = *(const uint16_t *)p; return true;
    case KD_I16: *out = *(const int16_t *)p; return true;
    case KD_U32: *out = *(const uint32_t *)p; return true;
    case KD_I32: *out = *(const int32_t *)p; return true;
    case KD_I64: *out = *(const int64_t *)p; return true;
    case KD_U64:
        *out = *(const uint64_t *)p > INT64_MAX ? INT64_MAX : (int64_t) * (const uint64_t *)p;
        return true;
    case KD_F64: x = *(const double *)p; break;
    default: kd_to_f32(&f, p, a->dtype, 1); x = (double)f;
    }
    if (!(fabs(x) < 0x1p53) || x != floor(x)) return false;
    *out = (int64_t)x;
    return true;
}

static kd_status take_labels(kd__pack *p, kd_err *err)
{
    const kd_data_spec *s = p->spec;
    const kd_array *a = &p->label.a;
    int64_t largest = 0, limit, x;
    if (kd_array_row_bytes(a) != kd_dtype_size(a->dtype)) {
        char is[128];
        return kd_fail(err, KD_EMISMATCH, "%s: a label is %s, expected one number a row%s",
                       p->label.part[0].path, kd__shape_text(a->dtype, a->ndims, a->dims, is, sizeof(is)),
                       kd__source_is_text(p->label.part[0].path) ? "; name the column: data.label_column"
                                                                 : "");
    }
    if (s->classes < 0 || s->classes > INT32_MAX)
        return kd_fail(err, KD_EUSAGE, "data.classes is %lld, expected 0 to %d", (long long)s->classes,
                       INT32_MAX);
    if (s->classes && s->class_names.n && (uint64_t)s->classes != s->class_names.n)
        return kd_fail(err, KD_EUSAGE, "data.classes says %lld, data.class_names has %zu names",
                       (long long)s->classes, s->class_names.n);
    p->classes = s->classes ? s->classes : (int64_t)s->class_names.n;
    limit = p->classes ? p->classes : INT32_MAX;
    if (!(p->labels = malloc(p->rows * sizeof(*p->labels))))
        return kd_fail(err, KD_ENOMEM, "no memory for %llu labels", (unsigned long long)p->rows);
    for (uint64_t i = 0; i < p->rows; i++) {
        uint64_t row = i;
        bool whole = label_at(a, i, &x);
        if (!whole || x < 0 || x >= limit) {
            const char *path = kd__rowset_where(&p->label, &row);
            if (!whole)
                return kd_fail(err, KD_ECORRUPT, "%s: label of row %llu is no whole number", path,
                               (unsigned long long)row);
            return kd_fail(err, KD_ECORRUPT, "%s: label of row %llu is %lld, expected 0 to %lld%s", path,
                           (unsigned long long)row, (long long)x, (long long)limit - 1,
                           p->classes ? "; are data.classes and data.class_names right?" : "");
        }
        p->labels[i] = (int32_t)x;
        if (x > largest) largest = x;
    }
    if (!p->classes) p->classes = largest + 1;
    return KD_OK;
}

/* ---- splits and order --------------------------------------------------------------------- */

typedef struct place {
    uint64_t key, row;
    uint8_t split;
} place;

static int by_place(const void *va, const void *vb)
{
    const place *a = va, *b = vb;
    if (a->split != b->split) return a->split < b->split ? -1 : 1;
    if (a->key != b->key) return a->key < b->key ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static kd_split split_of(const kd__pack *p, uint64_t row)
{
    const kd_data_spec *s = p->spec;
    if (row >= p->train_rows) return KD_TEST;
    kd_id id = p->ids[row];
    if (p->text.text_id) id = p->text.text_id[row];
    if (s->split_column) {
        const kd_text group = kd__cell(&p->text.group, kd__textset_text(&p->text, row));
        id = kd_hash128(group.bytes, group.len);
    }
    double u = (double)(keyed(id, s->seed, 'S') >> 11) * 0x1p-53;
    if (u < s->valid_fraction) return KD_VALID;
    return !s->test_input.n && u < s->valid_fraction + s->test_fraction ? KD_TEST : KD_TRAIN;
}

static kd_status take_order(kd__pack *p, kd_err *err)
{
    kd__idmaker m = {0};
    kd_buf scratch = {0};
    const bool texts = p->text.tokenizer != NULL;
    place *places = malloc(p->rows * sizeof(*places));
    kd_status st = texts ? KD_OK : kd__idmaker_init(&m, p->spec->input_name, &p->input.a, err);
    p->ids = malloc(p->rows * sizeof(*p->ids));
    p->order = malloc(p->rows * sizeof(*p->order));
    if (!st && (!places || !p->ids || !p->order))
        st = kd_fail(err, KD_ENOMEM, "no memory to order %llu rows", (unsigned long long)p->rows);
    if (st) goto out;
    for (uint64_t i = 0; i < p->rows; i++) {
        if (!texts)
            p->ids[i] = kd__idmaker_id(&m, (const char *)p->input.a.data + i * p->row_bytes);
        else if ((st = kd__textset_id(&p->text, i, &scratch, &p->ids[i], err)))
            goto out;
        kd_split split = split_of(p, i);
        p->split_rows[split]++;
        places[i] = (place){.key = keyed(p->ids[i], p->spec->seed, 'O'), .row = i, .split = (uint8_t)split};
    }
    qsort(places, p->rows, sizeof(*places), by_place);
    for (uint64_t i = 0; i < p->rows; i++) p->order[i] = places[i].row;
    if (!p->split_rows[KD_TRAIN])
        st = kd_fail(
            err, KD_EUSAGE,
            "%s: no row of %llu is left for training; lower data.valid_fraction or data.test_fraction",
            p->spec->train_input.v[0], (unsigned long long)p->rows);
out:
    kd__idmaker_release(&m);
    kd_buf_release(&scratch);
    free(places);
    return st;
}

typedef struct named {
    kd_id id;
    bool test;
} named;

static int by_id(const void *a, const void *b)
{
    return memcmp(((const named *)a)->id.b, ((const named *)b)->id.b, 16);
}

/* Counts rows that are there twice, and training rows that are also in the test files. */
static kd_status count_duplicates(kd__pack *p, kd_err *err)
{
    named *all = malloc(p->rows * sizeof(*all));
    if (!all) return kd_fail(err, KD_ENOMEM, "no memory to compare %llu rows", (unsigned long long)p->rows);
    for (uint64_t i = 0; i < p->rows; i++) all[i] = (named){.id = p->ids[i], .test = i >= p->train_rows};
    qsort(all, p->rows, sizeof(*all), by_id);
    for (uint64_t from = 0, to; from < p->rows; from = to) {
        uint64_t test = 0;
        for (to = from; to < p->rows && !by_id(&all[from], &all[to]); to++) test += all[to].test;
        p->duplicates += to - from - 1;
        if (test) p->leaks += to - from - test;
    }
    free(all);
    return KD_OK;
}

/* ---- mean and scale ----------------------------------------------------------------------- */

static kd_status check_finite(const kd__pack *p, kd_err *err)
{
    const kd_array *a = &p->input.a;
    size_t size = kd_dtype_size(a->dtype), n = p->row_bytes / size;
    for (uint64_t i = 0; kd_dtype_is_float(a->dtype) && i < p->rows * n; i++) {
        const char *at = (const char *)a->data + i * size;
        float f;
        double d = 0;
        if (a->dtype == KD_F64)
            memcpy(&d, at, sizeof(d));
        else
            kd_to_f32(&f, at, a->dtype, 1), d = (double)f;
        if (isfinite(d)) continue;
        uint64_t row = i / n;
        const char *path = kd__rowset_where(&p->input, &row);
        return kd_fail(err, KD_ENUMERIC, "%s: row %llu, value %llu is %s, expected a finite number", path,
                       (unsigned long long)row, (unsigned long long)(i % n), isnan(d) ? "NaN" : "infinite");
    }
    return KD_OK;
}

/* Adds sum and sum of squares about `about` of one row in f64. u8 sums are whole numbers, so exact. */
static void add_row(const kd__pack *p, uint64_t row, double about, float *x, double *sum, double *squares)
{
    size_t size = kd_dtype_size(p->input.a.dtype), n = p->row_bytes / size;
    kd_to_f32(x, (const char *)p->input.a.data + row * p->row_bytes, p->input.a.dtype, n);
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - about;
        *sum += d;
        *squares += d * d;
    }
}

static kd_status take_scale(kd__pack *p, kd_err *err)
{
    const kd_data_spec *s = p->spec;
    size_t n = p->row_bytes / kd_dtype_size(p->input.a.dtype);
    double sum = 0, squares = 0, count = (double)p->split_rows[KD_TRAIN] * (double)n;
    p->mean = s->mean;
    p->scale = s->scale;
    if (s->scale != 0) return KD_OK;
    if (s->mean != 0)
        return kd_fail(err, KD_EUSAGE,
                       "data.mean is %g but data.scale is 0; set both, or neither to measure them", s->mean);
    float *x = malloc(n * sizeof(*x));
    if (!x) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint64_t i = 0; i < p->split_rows[KD_TRAIN]; i++) add_row(p, p->order[i], 0, x, &sum, &squares);
    p->mean = sum / count;
    sum = squares = 0; // a second pass about the mean: no cancellation
    for (uint64_t i = 0; i < p->split_rows[KD_TRAIN]; i++)
        add_row(p, p->order[i], p->mean, x, &sum, &squares);
    double sd = sqrt(squares / count);
    p->scale = sd > 0 && isfinite(1 / sd) ? 1 / sd : 1;
    free(x);
    return isfinite(p->mean) && isfinite(sd)
               ? KD_OK
               : kd_fail(err, KD_ENUMERIC, "%s: mean or deviation overflow; set data.mean and data.scale",
                         p->input.part[0].path);
}

/* ---- all of it ---------------------------------------------------------------------------- */

/* Labels of texts in files of their own. */
static kd_status read_label_files(kd__pack *p, kd_err *err)
{
    const kd_data_spec *s = p->spec;
    kd_status st = KD_OK;
    for (size_t i = 0; i < s->train_label.n && !st; i++)
        st = kd__rowset_add(&p->label, s->train_label.v[i], NULL, NULL, err);
    if (!st && p->label.a.rows != p->train_rows)
        return kd_fail(err, KD_EMISMATCH, "%s: %llu texts, but %s: %llu labels", s->train_input.v[0],
                       (unsigned long long)p->train_rows, s->train_label.v[0],
                       (unsigned long long)p->label.a.rows);
    for (size_t i = 0; i < s->test_label.n && !st; i++)
        st = kd__rowset_add(&p->label, s->test_label.v[i], NULL, NULL, err);
    if (!st && p->label.a.rows != p->rows)
        return kd_fail(err, KD_EMISMATCH, "%s: %llu texts, but %llu labels", s->test_input.v[0],
                       (unsigned long long)(p->rows - p->train_rows),
                       (unsigned long long)(p->label.a.rows - p->train_rows));
    return st ? st : take_labels(p, err);
}

static kd_status plan_texts(kd__pack *p, int threads, kd_err *err)
{
    kd_status st = kd__textset_read(p, threads, err);
    if (!st && p->spec->train_label.n) st = read_label_files(p, err);
    if (!st && p->spec->label_column) st = kd__textset_labels(p, err);
    if (st || (st = take_order(p, err))) return st;
    p->scale = 1;
    return count_duplicates(p, err);
}

kd_status kd__pack_plan(kd__pack *p, const kd_data_spec *spec, int threads, kd_err *err)
{
    kd_status st;
    *p = (kd__pack){.spec = spec};
    if (!spec->train_input.n)
        return kd_fail(err, KD_EUSAGE, "data.train_input names no file: there is nothing to pack");
    if (!spec->test_input.n && spec->test_label.n)
        return kd_fail(err, KD_EUSAGE, "data.test_label is set, data.test_input is not");
    if (!spec->test_input.n && spec->valid_fraction + spec->test_fraction >= 1)
        return kd_fail(err, KD_EUSAGE,
                       "data.valid_fraction %g and data.test_fraction %g leave nothing for training",
                       spec->valid_fraction, spec->test_fraction);
    if (spec->tokenizer) return plan_texts(p, threads, err);
    if (spec->text_columns.n || spec->split_column || spec->max_tokens || spec->windows ||
        spec->conversations || spec->prompts)
        return kd_fail(
            err, KD_EUSAGE,
            "data.text_columns, max_tokens, windows, conversations, prompts and split_column are for texts: "
            "set data.tokenizer");
    if ((st = read_pair(p, "train", &spec->train_input, &spec->train_label, err))) return st;
    p->train_rows = p->input.a.rows;
    if (spec->test_input.n && (st = read_pair(p, "test", &spec->test_input, &spec->test_label, err)))
        return st;
    p->rows = p->input.a.rows;
    p->row_bytes = kd_array_row_bytes(&p->input.a);
    if ((st = reshape(&p->input.a, spec, p->input.part[0].path, err)) || (st = take_labels(p, err)) ||
        (st = check_finite(p, err)) || (st = take_order(p, err)) || (st = count_duplicates(p, err)))
        return st;
    return take_scale(p, err);
}

void kd__pack_release(kd__pack *p)
{
    kd__textset_release(&p->text);
    kd__rowset_release(&p->input);
    kd__rowset_release(&p->label);
    free(p->labels);
    free(p->ids);
    free(p->order);
}
