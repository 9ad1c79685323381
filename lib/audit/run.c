/* run.c - a store's audit from end to end: what is asked, what has to be left out, what is dropped.
 *
 * Class thresholds are taken within each split: a teacher is surer of rows that it was trained on, and one
 * threshold over both would find the strangers wrong. Whether one teacher was trained on the training rows
 * is not written anywhere for all teachers, but it shows: it has more of their labels right than of others'.
 *
 * What is dropped are training rows only; other splits are there to measure on, and what is wrong with them
 * is reported. Of copies inside the training rows the first stays, and none where their labels differ. A
 * training row that is also outside goes, so that what is measured there stays as it was.
 */
#include "audit_private.h"

#include "kd/eval.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void kd__say(json_t *list, const char *fmt, ...)
{
    char text[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    json_array_append_new(list, json_string(text));
}

bool kd__has_teacher(const kd__audit *a) { return a->facts.p != NULL; }

bool kd__is_wrong(const kd__audit *a, uint64_t row)
{
    const kd__facts *r = &a->facts;
    return r->p && r->label && r->label[row] >= 0 && (int32_t)kd__facts_top(r, row) != r->label[row];
}

/* ---- did the teacher see these rows? ------------------------------------------------------ */

/* Whether a share a of n is larger than a share b of m, by more than half a per cent and four deviations. */
static bool is_larger(double a, double n, double b, double m)
{
    const double both = (a * n + b * m) / (n + m), sd = sqrt(both * (1 - both) * (1 / n + 1 / m));
    return n > 0 && m > 0 && a - b > 0.005 && a - b > 4 * sd;
}

/* Of teachers of folds: each should do worst on the fold that it left out. */
static void check_folds(kd__audit *a)
{
    const kd__facts *r = &a->facts;
    for (uint32_t t = 0; t < r->folds; t++) {
        const double own = (double)r->hits[t][t] / fmax((double)r->seen[t], 1);
        for (uint32_t f = 0; f < r->folds; f++) {
            const double other = (double)r->hits[t][f] / fmax((double)r->seen[f], 1);
            if (!is_larger(own, (double)r->seen[t], other, (double)r->seen[f])) continue;
            kd__say(
                a->warnings,
                "teacher %s has %.2f %% of fold %u right and %.2f %% of fold %u: it probably was trained on "
                "fold %u; --cross takes the teachers in the order of the folds that they left out",
                a->p->cross[t], 100 * own, t, 100 * other, f, t);
            break;
        }
    }
}

static void judge_teacher(kd__audit *a)
{
    const kd__facts *r = &a->facts;
    double hits[2] = {0}, n[2] = {0}; // training rows, others
    const char *name = r->folds ? "the teachers of the folds"
                                : kd_store_column(r->s, (size_t)kd_eval_logits(r->s, a->p->teacher))->teacher;
    for (uint64_t i = 0; r->label && i < r->n; i++) {
        if (r->label[i] < 0) continue;
        const int k = r->split[i] != KD_TRAIN;
        n[k]++;
        hits[k] += !kd__is_wrong(a, i);
    }
    for (int k = 0; k < 2; k++) hits[k] /= fmax(n[k], 1);
    const bool seen = is_larger(hits[0], n[0], hits[1], n[1]);
    json_t *o = json_pack("{s:s, s:i, s:o, s:o, s:o}", "name", name, "folds", (int)r->folds, "train_accuracy",
                          n[0] > 0 ? json_real(hits[0]) : json_null(), "other_accuracy",
                          n[1] > 0 ? json_real(hits[1]) : json_null(), "trained_on_these_rows",
                          r->folds          ? json_false()
                          : n[0] * n[1] > 0 ? json_boolean(seen)
                                            : json_null());
    json_object_set_new(a->summary, "teacher", o);
    if (r->folds)
        check_folds(a);
    else if (seen)
        kd__say(
            a->warnings,
            "%s has %.2f %% of the training labels right and %.2f %% of the others: it probably was trained "
            "on these rows. Wrong training labels that it learned by heart are not found; other splits and "
            "duplicates do not suffer. To find them train a teacher a fold: kd-audit --folds, then --cross",
            name, 100 * hits[0], 100 * hits[1]);
    else if (r->label && !(n[0] * n[1] > 0))
        kd__say(a->warnings,
                "whether %s was trained on these rows cannot be told: no labelled rows outside of training",
                name);
}

/* ---- labels ------------------------------------------------------------------------------- */

/* Copies labels and probabilities of one split; returns its rows. */
static uint64_t rows_of(const kd__facts *r, kd_split split, int32_t *y, float *p, uint64_t *row)
{
    const size_t classes = (size_t)r->classes;
    uint64_t n = 0;
    for (uint64_t i = 0; i < r->n; i++) {
        if (r->split[i] != split) continue;
        memcpy(p + n * classes, r->p + i * classes, classes * sizeof(*p));
        y[n] = r->label[i];
        row[n++] = i;
    }
    return n;
}

/* How many labels of each kind are probably another: the largest estimates, off the diagonal. */
static json_t *confusions(const kd_confident *c)
{
    enum { SHOWN = 10 };
    const size_t k = (size_t)c->classes;
    json_t *list = json_array();
    double last = INFINITY;
    size_t last_at = 0;
    for (int shown = 0; shown < SHOWN; shown++) {
        double best = 0;
        size_t at = 0;
        for (size_t i = 0; i < k * k; i++) {
            const double v = i / k == i % k ? 0 : c->estimate[i];
            if (v > best && (v < last || (v == last && i > last_at))) best = v, at = i;
        }
        if (!(best > 0)) break;
        json_array_append_new(list, json_pack("{s:I, s:I, s:f}", "label", (json_int_t)(at / k), "class",
                                              (json_int_t)(at % k), "rows", best));
        last = best, last_at = at;
    }
    return list;
}

static json_t *labels_json(const kd_confident *c, uint64_t flagged)
{
    const size_t k = (size_t)c->classes;
    double off = 0;
    json_t *t = json_array();
    for (size_t i = 0; i < k * k; i++) off += i / k == i % k ? 0 : c->estimate[i];
    for (size_t i = 0; i < k; i++)
        json_array_append_new(t, isnan(c->threshold[i]) ? json_null() : json_real(c->threshold[i]));
    return json_pack("{s:I, s:I, s:f, s:o, s:o}", "rows", (json_int_t)c->rows, "flagged", (json_int_t)flagged,
                     "estimated_wrong", off, "thresholds", t, "confusions", confusions(c));
}

static kd_status audit_labels(kd__audit *a, kd_err *err)
{
    const kd__facts *r = &a->facts;
    float *p = kd_alloc_aligned(r->n, (size_t)r->classes * sizeof(*p));
    int32_t *y = malloc((r->n + 1) * sizeof(*y));
    uint64_t *row = malloc((r->n + 1) * sizeof(*row));
    uint8_t *flag = malloc(r->n + 1);
    json_t *all = json_object();
    kd_status st = p && y && row && flag ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (int s = 0; s < KD_SPLITS && !st; s++) {
        kd_confident c;
        uint64_t flagged = 0;
        const uint64_t n = rows_of(r, (kd_split)s, y, p, row);
        if (!n) continue;
        if ((st = kd_confident_learn(&c, p, y, n, r->classes, err))) break;
        st = kd_confident_flag(&c, p, y, n, a->p->filter, flag, err);
        for (uint64_t i = 0; i < n && !st; i++) {
            a->flag[row[i]] = flag[i];
            flagged += flag[i];
            if (flag[i] && s == KD_TRAIN) a->why[row[i]] |= KD_DROP_LABELS;
        }
        json_object_set_new(all, kd_split_name((kd_split)s), labels_json(&c, flagged));
        kd_confident_release(&c);
    }
    json_object_set_new(a->summary, "labels", all);
    free(p);
    free(y);
    free(row);
    free(flag);
    return st ? st : kd__write_labels(a, err);
}

/* ---- duplicates --------------------------------------------------------------------------- */

/* One row and its exact copies: v[0 .. n). outside: marks the row when one of them is no training row. */
static void drop_copies(kd__audit *a, const kd_pair *v, size_t n, uint8_t *outside)
{
    const kd__facts *r = &a->facts;
    const uint64_t first = v[0].a;
    bool out = r->split[first] != KD_TRAIN, differ = false;
    for (size_t i = 0; i < n; i++) {
        out |= r->split[v[i].b] != KD_TRAIN;
        if (r->label && r->split[v[i].b] == KD_TRAIN) differ |= r->label[v[i].b] != r->label[first];
    }
    if (out) kd_row_mark(outside, first);
    for (size_t i = 0; i <= n; i++) {
        const uint64_t row = i ? v[i - 1].b : first;
        if (r->split[row] != KD_TRAIN) continue;
        if (out) a->why[row] |= KD_DROP_LEAKS;
        if (i || differ) a->why[row] |= KD_DROP_EXACT;
    }
}

static void drop_near(kd__audit *a, const kd_pair *p, const uint8_t *outside)
{
    const kd__facts *r = &a->facts;
    const bool ta = r->split[p->a] == KD_TRAIN, tb = r->split[p->b] == KD_TRAIN;
    if (ta && (!tb || kd_row_marked(outside, p->b))) a->why[p->a] |= KD_DROP_LEAKS;
    if (tb && (!ta || kd_row_marked(outside, p->a))) a->why[p->b] |= KD_DROP_LEAKS;
    if (ta && tb) a->why[p->b] |= KD_DROP_NEAR;
}

static kd_status drop_duplicates(kd__audit *a, kd_err *err)
{
    const kd_pairs *p = &a->pairs;
    uint8_t *outside = calloc(a->facts.n / 8 + 1, 1);
    kd_pair *exact = malloc((p->n + 1) * sizeof(*exact));
    size_t n = 0;
    if (!outside || !exact) {
        free(outside);
        free(exact);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < p->n; i++)
        if (p->v[i].kind == KD_PAIR_EXACT) exact[n++] = p->v[i];
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && exact[to].a == exact[from].a; to++) continue;
        drop_copies(a, exact + from, to - from, outside);
    }
    for (size_t i = 0; i < p->n; i++)
        if (p->v[i].kind != KD_PAIR_EXACT) drop_near(a, &p->v[i], outside);
    free(outside);
    free(exact);
    return KD_OK;
}

static json_t *pairs_json(const kd__audit *a, const char *column)
{
    uint64_t n[3] = {0}, leaks[3] = {0}, conflicts = 0;
    for (size_t i = 0; i < a->pairs.n; i++) {
        const kd_pair *p = &a->pairs.v[i];
        n[p->kind]++;
        leaks[p->kind] += a->facts.split[p->a] != a->facts.split[p->b];
        conflicts += a->facts.label && a->facts.label[p->a] != a->facts.label[p->b];
    }
    return json_pack("{s:o, s:f, s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:I}", "near_column",
                     column ? json_string(column) : json_null(), "similarity", a->p->similarity, "shift",
                     (json_int_t)a->p->shift, "pairs", "exact", (json_int_t)n[0], "near", (json_int_t)n[1],
                     "mirrored", (json_int_t)n[2], "leaks", "exact", (json_int_t)leaks[0], "near",
                     (json_int_t)leaks[1], "mirrored", (json_int_t)leaks[2], "other_labels",
                     (json_int_t)conflicts);
}

/* Which columns hold the rows and what near duplicates are looked for in; what cannot be is said. */
static kd_status find_columns(kd__audit *a, kd_err *err)
{
    kd_store *s = a->facts.s;
    kd_err why = {0};
    a->input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    a->near = a->p->near ? kd_store_find(s, a->p->near) : a->input;
    if (a->p->near && *a->p->near && a->near < 0)
        return kd_fail(err, KD_ENOTFOUND, "%s: no column %s; see: kd-store stat %s", kd_store_path(s),
                       a->p->near, kd_store_path(s));
    if (a->near < 0 || !kd__prints_check(s, a->near, &why)) return KD_OK;
    if (a->p->near) return kd_fail(err, why.code, "%s", why.msg);
    kd__say(a->left_out, "near duplicates: %s", why.msg);
    a->near = -1;
    return KD_OK;
}

static kd_status audit_pairs(kd__audit *a, kd_err *err)
{
    kd_store *s = a->facts.s;
    kd_pair_params p = {.column = a->near,
                        .similarity = a->p->similarity,
                        .shift = a->p->shift,
                        .mirror = a->p->mirror,
                        .threads = a->p->threads,
                        .stop = a->p->stop,
                        .progress = a->p->progress,
                        .arg = a->p->arg};
    if (a->input < 0) {
        kd__say(a->left_out, "duplicates: %s has no column with role input", kd_store_path(s));
        return KD_OK;
    }
    kd_status st = kd_pairs_find(&a->pairs, s, a->input, &p, err);
    if (st || (st = drop_duplicates(a, err)) || (st = kd__write_pairs(a, err))) return st;
    json_object_set_new(a->summary, "duplicates",
                        pairs_json(a, a->near < 0 ? NULL : kd_store_column(s, (size_t)a->near)->name));
    return KD_OK;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static void say_left_out(kd__audit *a)
{
    const kd__facts *r = &a->facts;
    const char *path = kd_store_path(r->s);
    if (!r->label) kd__say(a->left_out, "wrong labels, class balance: %s has no labels", path);
    if (!r->p)
        kd__say(
            a->left_out,
            "wrong labels, unsure rows, drift of predictions: no teacher's logits of all classes; add them: "
            "kd-dump --teacher FOLDER --into %s",
            path);
    for (int s = 0; s < KD_SPLITS; s++)
        if (!kd_store_split_rows(r->s, (kd_split)s))
            kd__say(a->left_out, "split %s: %s has no such rows", kd_split_name((kd_split)s), path);
}

/* An audit's folder appears file by file, its summary last; an old summary goes first. */
static kd_status take_folder(const char *folder, bool force, kd_err *err)
{
    char *path = kd_path_join(folder, "audit.json");
    kd_status st = path ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && kd_exists(path))
        st = force ? kd_remove_tree(path, err)
                   : kd_fail(err, KD_EEXISTS, "%s: there is an audit already; --force replaces it", folder);
    free(path);
    return st ? st : kd_mkdirs(folder, err);
}

static kd_status finish(kd__audit *a, double seconds, kd_err *err)
{
    json_object_set(a->summary, "warnings", a->warnings);
    json_object_set(a->summary, "left_out", a->left_out);
    json_object_set_new(a->summary, "seconds", json_real(seconds));
    json_object_set_new(a->summary, "command", json_string(a->p->command ? a->p->command : ""));
    char *path = kd_path_join(a->folder, "audit.json");
    kd_status st = path ? kd_json_save(path, a->summary, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    free(path);
    return st;
}

static kd_status begin(kd__audit *a, kd_store *s, kd_err *err)
{
    kd_status st = kd__facts_read(&a->facts, s, a->p, err);
    if (st) return st;
    a->flag = calloc(a->facts.n + 1, 1);
    a->why = calloc(a->facts.n + 1, 1);
    a->left_out = json_array();
    a->warnings = json_array();
    a->summary =
        json_pack("{s:i, s:{s:s, s:s, s:s, s:I}}", "schema", 1, "store", "path", kd_store_path(s), "root",
                  kd_store_root(s), "data", kd_store_base_root(s), "rows", (json_int_t)a->facts.n);
    if (!a->flag || !a->why || !a->left_out || !a->warnings || !a->summary)
        return kd_fail(err, KD_ENOMEM, "out of memory");
    say_left_out(a);
    return (st = find_columns(a, err)) ? st : take_folder(a->folder, a->p->force, err);
}

kd_status kd_audit_run(json_t **summary, kd_store *s, const char *folder, const kd_audit_params *p,
                       kd_err *err)
{
    const double start = kd_now();
    kd__audit a = {.p = p, .folder = folder};
    kd_status st = begin(&a, s, err);
    *summary = NULL;
    if (!st && a.facts.p) judge_teacher(&a);
    if (!st && a.facts.p && a.facts.label) st = audit_labels(&a, err);
    if (!st && a.facts.p) st = kd__write_unsure(&a, err);
    if (!st && a.facts.label) st = kd__write_balance(&a, err);
    if (!st) st = kd__write_drift(&a, err);
    if (!st) st = audit_pairs(&a, err);
    if (!st) st = kd__write_lists(&a, err);
    if (!st) st = finish(&a, kd_now() - start, err);
    if (!st) *summary = json_incref(a.summary);
    json_decref(a.summary);
    json_decref(a.left_out);
    json_decref(a.warnings);
    kd_pairs_release(&a.pairs);
    kd__facts_release(&a.facts);
    free(a.flag);
    free(a.why);
    return st;
}

kd_status kd_audit_folds(kd_store *s, const char *folder, uint32_t folds, uint64_t *rows, kd_err *err)
{
    const uint64_t n = kd_store_rows(s);
    kd__facts r;
    if (folds < 2 || folds > KD_AUDIT_FOLDS)
        return kd_fail(err, KD_EUSAGE, "%u folds, expected 2 to %d", folds, KD_AUDIT_FOLDS);
    kd_status st = kd__facts_read(&r, s, NULL, err);
    uint8_t *marks = malloc(n / 8 + 1);
    if (!st && !marks) st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) st = kd_mkdirs(folder, err);
    for (uint32_t f = 0; f < folds && !st; f++) {
        char name[24];
        snprintf(name, sizeof(name), "fold-%u.txt", f);
        char *path = kd_path_join(folder, name);
        memset(marks, 0, n / 8 + 1);
        rows[f] = 0;
        for (uint64_t i = 0; i < n; i++)
            if (r.split[i] == KD_TRAIN && kd_fold_of(r.id[i], folds) == f) kd_row_mark(marks, i), rows[f]++;
        st = path ? kd_rowlist_write(path, s, marks, NULL, NULL, err)
                  : kd_fail(err, KD_ENOMEM, "out of memory");
        free(path);
    }
    free(marks);
    kd__facts_release(&r);
    return st;
}
