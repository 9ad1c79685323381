/* pack_texts.c - rows of texts: columns of tokens, labels that may be words, groups that share a split.
 *
 * Texts become tokens when they are read; only tokens are packed. A row's id covers what a model sees of it:
 *
 *     for each token column in order "NAME DTYPE N\n", N the number of its tokens, then the tokens as they
 * are stored
 *
 * so texts that differ in case, or behind the place where they are cut, are copies of each other.
 *
 * A split by a group column asks the hash of the group in place of the id's: all rows of a group land
 * together.
 */
#include "data_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- columns ---------------------------------------------------------------------------------- */

/* NAME=COLUMN, or COLUMN: then the name is `tokens` for a single one, else the column's. */
static kd_status name_column(kd__text_column *c, const char *text, size_t columns, kd_err *err)
{
    const char *equals = strchr(text, '=');
    const char *name = equals ? text : columns == 1 ? "tokens" : text;
    const size_t n = equals ? (size_t)(equals - text) : strlen(name);
    c->column = equals ? equals + 1 : text;
    if (!n || n >= sizeof c->name)
        return kd_fail(err, KD_EUSAGE, "data.text_columns: '%.80s' gives no name of 1 to %zu letters", text,
                       sizeof c->name - 1);
    memcpy(c->name, name, n);
    c->name[n] = '\0';
    return KD_OK;
}

static kd_status take_columns(kd__textset *t, const kd_data_spec *s, kd_err *err)
{
    static const char *const only[] = {"tokens"};
    const char *const *names = s->text_columns.n ? (const char *const *)s->text_columns.v : only;
    t->n = kd_max_size(1, s->text_columns.n);
    if (t->n > KD__TEXTS_MAX)
        return kd_fail(err, KD_EUSAGE, "data.text_columns: %zu columns, at most %d are supported", t->n,
                       KD__TEXTS_MAX);
    for (size_t i = 0; i < t->n; i++) {
        kd_status st = name_column(&t->column[i], names[i], t->n, err);
        if (st) return st;
    }
    if (!s->conversations) return KD_OK;
    t->column[0].column = s->conversations;
    t->column[0].cells.lists = true;
    return KD_OK;
}

/* ---- files -------------------------------------------------------------------------------------- */

/* Whether the spec asks a file for columns that it does not have. */
static kd_status check_file(const kd_data_spec *s, const char *path, kd_err *err)
{
    if (s->conversations) {
        if (kd__texts_have_columns(path) && !kd__source_is_text(path)) return KD_OK;
        return kd_fail(err, KD_EUSAGE,
                       "%s: conversations are lists in JSON lines; the file's name ends in .jsonl", path);
    }
    if (kd__texts_have_columns(path)) {
        if (s->text_columns.n) return KD_OK;
        return kd_fail(err, KD_EUSAGE, "%s: data.text_columns must say which columns hold texts", path);
    }
    if (s->text_columns.n > 1 || s->label_column || s->split_column)
        return kd_fail(err, KD_EUSAGE,
                       "%s: has one text a line and no columns; only .csv, .tsv and .jsonl have", path);
    return KD_OK;
}

static kd_status read_file(kd__textset *t, const kd_data_spec *s, const char *path, kd_err *err)
{
    const char *columns[KD__CELLS_MAX];
    kd__cells cells[KD__CELLS_MAX];
    size_t n = 0;
    kd__part *more = realloc(t->part, (t->parts + 1) * sizeof *more);
    if (!more) return kd_fail(err, KD_ENOMEM, "%s: out of memory", path);
    t->part = more;
    more[t->parts] = (kd__part){.path = path, .first = t->column[0].cells.rows};
    kd_status st = check_file(s, path, err);
    if (st) return st;
    for (; n < t->n; n++) columns[n] = t->column[n].column, cells[n] = t->column[n].cells;
    if (s->label_column) columns[n] = s->label_column, cells[n++] = t->label;
    if (s->split_column) columns[n] = s->split_column, cells[n++] = t->group;
    kd__part *p = &t->part[t->parts++];
    st = kd__texts_read(cells, columns, n, path, &p->bytes, &p->hash, err);
    n = 0; // they may have grown
    for (; n < t->n; n++) t->column[n].cells = cells[n];
    if (s->label_column) t->label = cells[n++];
    if (s->split_column) t->group = cells[n];
    p->rows = t->column[0].cells.rows - p->first;
    return st;
}

const char *kd__textset_where(const kd__textset *t, uint64_t *row)
{
    size_t i = 0;
    while (i + 1 < t->parts && *row >= t->part[i + 1].first) i++;
    *row -= t->part[i].first;
    return t->part[i].path;
}

/* ---- tokens --------------------------------------------------------------------------------------- */

static kd_status encode(kd__textset *t, kd__text_column *c, bool windows, int threads, kd_err *err)
{
    const uint64_t rows = c->cells.rows;
    kd_text *texts = malloc((size_t)rows * sizeof *texts);
    if (!texts) return kd_fail(err, KD_ENOMEM, "no memory for %llu texts", (unsigned long long)rows);
    for (uint64_t i = 0; i < rows; i++) texts[i] = kd__cell(&c->cells, i);
    const kd_encode_params p = {.max_tokens = windows ? 0 : t->max_tokens, .special = true};
    kd_status st = kd_encode_rows(&c->tokens, t->tokenizer, texts, (size_t)rows, &p, threads, err);
    free(texts);
    kd__cells_release(&c->cells);
    return st;
}

kd_dtype kd__textset_dtype(const kd__textset *t)
{
    return kd_tokenizer_size(t->tokenizer) <= 65536 ? KD_U16 : KD_I32;
}

size_t kd__textset_put(const kd__textset *t, size_t column, uint64_t row, void *out)
{
    const kd_token_rows *r = &t->column[column].tokens;
    const uint32_t *id = r->id + r->offset[row];
    const size_t n = (size_t)(r->offset[row + 1] - r->offset[row]);
    if (kd__textset_dtype(t) == KD_U16)
        for (size_t i = 0; i < n; i++) { // out may lie anywhere
            const uint16_t v = (uint16_t)id[i];
            memcpy((char *)out + 2 * i, &v, 2);
        }
    else
        memcpy(out, id, n * sizeof *id);
    return n;
}

size_t kd__textset_tokens(const kd__textset *t, size_t column, uint64_t row)
{
    const kd_token_rows *r = &t->column[column].tokens;
    return (size_t)(r->offset[row + 1] - r->offset[row]);
}

kd_status kd__textset_id(const kd__textset *t, uint64_t row, kd_buf *scratch, kd_id *out, kd_err *err)
{
    const kd_dtype type = kd__textset_dtype(t);
    scratch->len = 0;
    for (size_t i = 0; i < t->n; i++) {
        const size_t n = kd__textset_tokens(t, i, row), bytes = n * kd_dtype_size(type);
        kd_buf_printf(scratch, "%s %s %zu\n", t->column[i].name, kd_dtype_name(type), n);
        const size_t at = scratch->len;
        const kd_token_rows *r = &t->column[i].tokens;
        kd_buf_append(scratch, r->id + r->offset[row], n * sizeof *r->id); // room for the widest
        if (scratch->failed) return kd_fail(err, KD_ENOMEM, "out of memory");
        scratch->len = at + bytes;
        kd__textset_put(t, i, row, scratch->text + at);
    }
    *out = kd_hash128(scratch->text, scratch->len);
    return KD_OK;
}

/* ---- labels --------------------------------------------------------------------------------------- */

static bool whole_number(kd_text s, int64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.bytes[i] < '0' || s.bytes[i] > '9' || *out > INT32_MAX) return false;
        *out = 10 * *out + (s.bytes[i] - '0');
    }
    return s.len > 0;
}

static int compare(kd_text a, kd_text b)
{
    const int c = memcmp(a.bytes, b.bytes, kd_min_size(a.len, b.len));
    return c ? c : (a.len > b.len) - (a.len < b.len);
}
static int by_text(const void *a, const void *b) { return compare(*(const kd_text *)a, *(const kd_text *)b); }

/* Names of classes: the words that occur, in the order of their bytes. */
static kd_status collect_names(kd__textset *t, kd_err *err)
{
    const uint64_t rows = t->label.rows;
    kd_text *all = malloc((size_t)rows * sizeof *all);
    kd_status st =
        all ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for %llu labels", (unsigned long long)rows);
    for (uint64_t i = 0; i < rows && !st; i++) all[i] = kd__cell(&t->label, i);
    if (!st) qsort(all, (size_t)rows, sizeof *all, by_text);
    for (uint64_t i = 0; i < rows && !st; i++) {
        if (i && !compare(all[i], all[i - 1])) continue;
        char **more = NULL;
        if (t->names.n == KD__CLASSES_MAX)
            st = kd_fail(err, KD_ELIMIT, "data.label_column: more than %d different words; is it a label?",
                         KD__CLASSES_MAX);
        else if (!(more = realloc(t->names.v, (t->names.n + 1) * sizeof *more)))
            st = kd_fail(err, KD_ENOMEM, "out of memory");
        if (st) break;
        t->names.v = more;
        if (!(more[t->names.n] = kd_sprintf("%.*s", (int)kd_min_size(all[i].len, 1000), all[i].bytes)))
            st = kd_fail(err, KD_ENOMEM, "out of memory");
        else
            t->names.n++;
    }
    free(all);
    return st;
}

/* The class of a word; -1: none. */
static int64_t class_of(const kd_strings *names, kd_text word)
{
    for (size_t i = 0; i < names->n; i++)
        if (strlen(names->v[i]) == word.len && !memcmp(names->v[i], word.bytes, word.len)) return (int64_t)i;
    return -1;
}

static kd_status label_rows(kd__pack *p, const kd_strings *names, bool numbers, kd_err *err)
{
    kd__textset *t = &p->text;
    int64_t largest = 0;
    if (!(p->labels = malloc((size_t)p->rows * sizeof *p->labels)))
        return kd_fail(err, KD_ENOMEM, "no memory for %llu labels", (unsigned long long)p->rows);
    for (uint64_t i = 0; i < p->rows; i++) {
        const kd_text word = kd__cell(&t->label, i);
        int64_t class = class_of(names, word);
        if (class < 0 && numbers) whole_number(word, &class);
        if (class < 0 || class >= (p->classes ? p->classes : INT32_MAX)) {
            uint64_t row = i;
            const char *path = kd__textset_where(t, &row);
            char copy[41] = "", shown[48];
            memcpy(copy, word.bytes, kd_min_size(word.len, 40));
            return kd_fail(err, KD_ECORRUPT,
                           "%s: label of row %llu is '%s', expected one of %lld classes; %s", path,
                           (unsigned long long)row, kd__printable(copy, shown), (long long)p->classes,
                           "are data.classes and data.class_names right?");
        }
        p->labels[i] = (int32_t) class;
        if (class > largest) largest = class;
    }
    if (!p->classes) p->classes = largest + 1;
    return KD_OK;
}

kd_status kd__textset_labels(kd__pack *p, kd_err *err)
{
    const kd_data_spec *s = p->spec;
    kd__textset *t = &p->text;
    bool numbers = true;
    int64_t x;
    for (uint64_t i = 0; i < p->rows && numbers; i++) numbers = whole_number(kd__cell(&t->label, i), &x);
    kd_status st = numbers || s->class_names.n ? KD_OK : collect_names(t, err);
    const kd_strings *names = s->class_names.n ? &s->class_names : &t->names;
    p->classes = names->n ? (int64_t)names->n : s->classes;
    if (!st && s->classes && s->classes != p->classes)
        st = kd_fail(err, KD_EUSAGE, "data.classes says %lld, but there are %zu names of classes",
                     (long long)s->classes, names->n);
    if (!st) st = label_rows(p, names, numbers, err);
    return st;
}

/* ---- all of it -------------------------------------------------------------------------------------- */

static kd_status read_files(kd__pack *p, const kd_strings *files, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < files->n && !st; i++) st = read_file(&p->text, p->spec, files->v[i], err);
    return st;
}

static kd_status check_spec(const kd_data_spec *s, kd_err *err)
{
    if (s->shape.n || s->mean != 0 || s->scale != 0 || s->input_column)
        return kd_fail(
            err, KD_EUSAGE,
            "data.shape, mean, scale and input_column are for numbers; with data.tokenizer texts are "
            "packed, their columns are data.text_columns");
    if (s->train_label.n && s->label_column)
        return kd_fail(err, KD_EUSAGE,
                       "labels of texts are files of their own or data.label_column, not both");
    if (s->conversations && (s->windows || s->text_columns.n || s->train_label.n || s->label_column))
        return kd_fail(err, KD_EUSAGE,
                       "data.conversations are rows of their own: no windows, text_columns and labels");
    if (s->prompts && !s->conversations)
        return kd_fail(err, KD_EUSAGE, "data.prompts are those of conversations: set data.conversations");
    if (s->windows && (s->train_label.n || s->label_column || s->text_columns.n > 1))
        return kd_fail(err, KD_EUSAGE,
                       "data.windows cuts texts into rows: there is one column of them, and no labels");
    return KD_OK;
}

kd_status kd__textset_read(kd__pack *p, int threads, kd_err *err)
{
    const kd_data_spec *s = p->spec;
    kd__textset *t = &p->text;
    kd_status st = check_spec(s, err);
    if (st || (st = kd_tokenizer_open(&t->tokenizer, s->tokenizer, err)) || (st = take_columns(t, s, err)) ||
        (st = read_files(p, &s->train_input, err)))
        return st;
    t->max_tokens = s->max_tokens ? (size_t)s->max_tokens : kd_tokenizer_max_tokens(t->tokenizer);
    if (s->windows && t->max_tokens < 2)
        return kd_fail(
            err, KD_EUSAGE,
            "data.windows: the tokenizer's file does not say how long a row is: set data.max_tokens");
    p->train_rows = t->column[0].cells.rows;
    if ((st = read_files(p, &s->test_input, err))) return st;
    p->rows = t->column[0].cells.rows;
    if (s->conversations) return kd__textset_chats(p, err);
    for (size_t i = 0; i < t->n && !st; i++) st = encode(t, &t->column[i], s->windows, threads, err);
    return st || !s->windows ? st : kd__textset_windows(p, err);
}

void kd__textset_release(kd__textset *t)
{
    for (size_t i = 0; i < KD__TEXTS_MAX; i++) {
        kd__cells_release(&t->column[i].cells);
        kd_token_rows_release(&t->column[i].tokens);
    }
    kd__cells_release(&t->label);
    kd__cells_release(&t->group);
    for (size_t i = 0; i < t->names.n; i++) free(t->names.v[i]);
    free(t->names.v);
    free(t->part);
    free(t->text);
    free(t->text_id);
    free(t->mask);
    kd_tokenizer_close(t->tokenizer);
}
