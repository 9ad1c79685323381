/* views.c - students that train on views of their rows.
 *
 * views.from says where a view's teacher is:
 *
 *     store    the teacher saw the same views (kd-dump --views): the column of their logits says how they are
 *              made, each row comes with the logits of just the view that is shown. A plain student sees the
 *              same inputs as the distilled one beside it.
 *     fresh    views of the YAML's own, for students that learn from labels alone.
 *
 * What must not happen is the field's silent mistake: an input that is changed under outputs that are cached
 * of another. So a key that disagrees with the store is refused, and so is any term that reads an output of
 * the row as it was (logits of a student of fresh views, features of one of stored views).
 *
 * Validation rows are shown as they are. Their targets are those of view 0 where that is the row itself, else
 * the teacher's plain logits.
 */
#include "train_private.h"

#include <stdlib.h>
#include <string.h>

static bool from(const kd__run *r, const char *what) { return !strcmp(r->spec.views_from, what); }

bool kd__run_has_views(const kd__run *r) { return r->spec.views.count > 0; }
bool kd__run_has_stored_views(const kd__run *r) { return from(r, "store"); }

/* The store's column of views, of that teacher or ("") the only one. */
static kd_status find_column(const kd__run *r, const kd_trainer *t, const char *teacher, int *column,
                             kd_err *err)
{
    const char *store = kd_store_path(t->store);
    size_t n = 0;
    for (size_t i = 0; i < kd_store_columns(t->store); i++)
        n += kd_store_column(t->store, i)->role == KD_ROLE_VIEW;
    *column = kd_store_find_role(t->store, KD_ROLE_VIEW, *teacher ? teacher : NULL);
    if (*column < 0)
        return kd_fail(
            err, KD_ENOTFOUND,
            "%s: no views of %s%s, and student %s asks for them; add them: kd-dump --teacher FOLDER "
            "--into %s --no-logits --views 4 --view-shift 2",
            store, *teacher ? "teacher " : "any teacher", teacher, r->spec.name, store);
    if (!*teacher && n > 1)
        return kd_fail(err, KD_EUSAGE, "%s has views of several teachers; name one: loss.teacher", store);
    return KD_OK;
}

/* How a column's views are made. */
static kd_status read_spec(const kd_trainer *t, const kd_column *c, kd_view_spec *spec, kd_err *err)
{
    const char *store = kd_store_path(t->store);
    kd_status st = kd_view_parse(spec, json_object_get(c->params, "views"), c->name, err);
    if (st) return kd_fail_in(err, st, "%s", store);
    if (c->ndims == 2 && c->dims[0] == spec->count) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s: column %s: %lld views a row, its params say %lld", store, c->name,
                   (long long)c->dims[0], (long long)spec->count);
}

kd_status kd__views_find(const kd__run *r, const kd_trainer *t, const char *teacher, int *column, kd_err *err)
{
    kd_view_spec spec;
    kd_status st = find_column(r, t, teacher, column, err);
    if (st) return st;
    const kd_column *c = kd_store_column(t->store, (size_t)*column);
    if ((st = read_spec(t, c, &spec, err)) || kd_view_equal(&spec, &r->spec.views)) return st;
    return kd_fail(
        err, KD_EMISMATCH,
        "%s: column %s is of other views than those of student %s's first teacher; dump it again with "
        "the same --views options",
        kd_store_path(t->store), c->name, r->spec.name);
}

/* The teacher that the loss names first; "": none. Of a list "a*0.7 b*0.3" it is a. */
static void first_teacher(const kd__run *r, char name[KD_STORE_NAME_MAX])
{
    const char *text = r->spec.loss.teacher;
    for (int i = kd_loss_count(r->loss); i-- > 0;) {
        const kd_loss_term term = kd_loss_term_at(r->loss, i);
        if (term.needs & KD_NEEDS_LOGITS && term.teacher) text = term.teacher;
    }
    if (!text) text = "";
    text += strspn(text, " ");
    snprintf(name, KD_STORE_NAME_MAX, "%.*s", (int)strcspn(text, " *"), text);
}

/* Takes the column's spec into the configuration; what the YAML says otherwise is refused. */
static kd_status take_spec(kd__run *r, const kd_student_spec *given, const kd_trainer *t, const kd_column *c,
                           kd_err *err)
{
    const char *store = kd_store_path(t->store), *member;
    kd_view_spec spec;
    json_t *all = NULL, *v;
    kd_status st = read_spec(t, c, &spec, err);
    if (st) return st;
    json_t *asked = kd_view_json(&r->spec.views);
    if (!asked || !(all = kd_view_json(&spec))) st = kd_fail(err, KD_ENOMEM, "out of memory");
    json_object_foreach(all, member, v)
    {
        char key[64], where[300];
        const json_t *w = json_object_get(asked, member);
        snprintf(key, sizeof(key), "views.%s", member);
        if (st || kd_config_source(&given->config, key) <= 0 || json_equal(v, (json_t *)w)) continue;
        char *there = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)),
             *here = json_dumps(w, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: the views of %s have %s %s, student %s asks for %s\n          set %s: %s in %s, or "
                     "remove it there, or dump again",
                     store, c->name, member, there ? there : "?", r->spec.name, here ? here : "?", key,
                     there ? there : "?", kd_config_where(&given->config, key, where, sizeof(where)));
        free(there);
        free(here);
    }
    json_decref(all);
    json_decref(asked);
    if (!st) r->spec.views = spec; // where the configuration keeps them
    return st;
}

static kd_status check_none(const kd_student_spec *given, kd_err *err)
{
    for (size_t i = 0; i < kd_view_options_n; i++) {
        const char *key = kd_view_options[i].key;
        char where[300];
        if (kd_config_source(&given->config, key) > 0)
            return kd_fail(
                err, KD_EUSAGE,
                "%s: %s without views.from; say views.from: store for those that a teacher has seen, "
                "fresh for others",
                kd_config_where(&given->config, key, where, sizeof(where)), key);
    }
    return KD_OK;
}

/* Terms that would read what a teacher gave for another input. */
static kd_status check_terms(const kd__run *r, const kd_trainer *t, kd_err *err)
{
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        const kd_loss_term term = kd_loss_term_at(r->loss, i);
        const unsigned others = term.needs & ~(unsigned)(KD_NEEDS_LABELS | KD_NEEDS_LOGITS);
        char needs[160];
        if (others)
            return kd_fail(
                err, KD_EMISMATCH,
                "%s: student %s trains on views, and %s needs %s, which the store has of the rows as "
                "they are; remove that term or views.from",
                kd_store_path(t->store), r->spec.name, term.label,
                kd_loss_needs_text(others, needs, sizeof(needs)));
        if (from(r, "fresh") && term.needs & KD_NEEDS_LOGITS)
            return kd_fail(
                err, KD_EMISMATCH,
                "%s: student %s trains on fresh views, and %s compares it with logits of the rows as "
                "they are; dump the views (kd-dump --views) and set views.from: store",
                kd_store_path(t->store), r->spec.name, term.label);
        if (kd_view_mixes(&r->spec.views) && term.needs & KD_NEEDS_LABELS && !term.objective->mixes)
            return kd_fail(
                err, KD_EUNSUPPORTED,
                "student %s: its views mix two rows, and %s takes one label a row; remove that term, "
                "or set views.mixup and views.cutmix to 0",
                r->spec.name, term.label);
    }
    return KD_OK;
}

kd_status kd__views_resolve(kd__run *r, const kd_student_spec *given, const kd_trainer *t, kd_err *err)
{
    const int input = kd_store_find_role(t->store, KD_ROLE_INPUT, NULL);
    char teacher[KD_STORE_NAME_MAX];
    int column;
    kd_status st;
    if (from(r, "none")) return check_none(given, err);
    if (from(r, "fresh") && !r->spec.views.count) r->spec.views.count = KD_VIEWS_MAX;
    first_teacher(r, teacher);
    if (from(r, "store") && ((st = find_column(r, t, teacher, &column, err)) ||
                             (st = take_spec(r, given, t, kd_store_column(t->store, (size_t)column), err))))
        return st;
    if (input >= 0 && (st = kd_view_check(&r->spec.views, kd_store_column(t->store, (size_t)input), err)))
        return kd_fail_in(err, st, "student %s", r->spec.name);
    return check_terms(r, t, err);
}
