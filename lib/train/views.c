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

bool kd__run_has_views(const kd__run *r) { return r->spec.views.count > 0; }

static bool from(const kd__run *r, const char *what) { return !strcmp(r->spec.views_from, what); }

/* The store's column of views, of that teacher or the only one. */
static kd_status find_column(const kd__run *r, const kd_trainer *t, const char *teacher, int *column,
                             kd_err *err)
{
    const char *store = kd_store_path(t->store);
    size_t n = 0;
    for (size_t i = 0; i < kd_store_columns(t->store); i++)
        n += kd_store_column(t->store, i)->role == KD_ROLE_VIEW;
    *column = kd_store_find_role(t->store, KD_ROLE_VIEW, teacher);
    if (*column < 0)
        return kd_fail(
            err, KD_ENOTFOUND,
            "%s: no views of %s%s, and student %s asks for them; add them: kd-dump --teacher FOLDER "
            "--into %s --no-logits --views 4 --view-shift 2",
            store, teacher ? "teacher " : "any teacher", teacher ? teacher : "", r->spec.name, store);
    if (!teacher && n > 1)
        return kd_fail(err, KD_EUSAGE, "%s has views of several teachers; name one: loss.teacher", store);
    return KD_OK;
}

/* Takes the column's spec into the configuration; what the YAML says otherwise is refused. */
static kd_status take_spec(kd__run *r, const kd_student_spec *given, const kd_trainer *t, const kd_column *c,
                           kd_err *err)
{
    const char *store = kd_store_path(t->store), *member;
    kd_view_spec spec;
    json_t *all = NULL, *v;
    kd_status st = kd_view_parse(&spec, json_object_get(c->params, "views"), c->name, err);
    if (st) return kd_fail_in(err, st, "%s", store);
    if ((int64_t)c->dims[0] != spec.count || c->ndims != 2)
        return kd_fail(err, KD_ECORRUPT, "%s: column %s: %lld views a row, its params say %lld", store,
                       c->name, (long long)c->dims[0], (long long)spec.count);
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

kd_status kd__views_resolve(kd__run *r, const kd_student_spec *given, const kd_trainer *t,
                            const char *teacher, int *column, kd_err *err)
{
    const int input = kd_store_find_role(t->store, KD_ROLE_INPUT, NULL);
    kd_status st;
    *column = -1;
    if (from(r, "none")) return check_none(given, err);
    if (from(r, "fresh") && !r->spec.views.count) r->spec.views.count = KD_VIEWS_MAX;
    if (from(r, "store") && ((st = find_column(r, t, teacher, column, err)) ||
                             (st = take_spec(r, given, t, kd_store_column(t->store, (size_t)*column), err))))
        return st;
    if (input >= 0 && (st = kd_view_check(&r->spec.views, kd_store_column(t->store, (size_t)input), err)))
        return kd_fail_in(err, st, "student %s", r->spec.name);
    return check_terms(r, t, err);
}

kd_status kd__views_plain(const kd__run *r, kd_trainer *t, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, r->logits);
    t->slot_views[r->logits] = r->spec.views;
    t->slot_plain[r->logits] = -1;
    if (r->spec.views.identity || !kd_store_split_rows(t->store, KD_VALID)) return KD_OK;
    const int plain = kd_store_find_role(t->store, KD_ROLE_LOGITS, c->teacher);
    if (plain < 0)
        return kd_fail(
            err, KD_EMISMATCH,
            "%s: column %s has no view that is the row as it is, and teacher %s no logits of the rows, "
            "as validation needs; add them: kd-dump --teacher FOLDER --into %s --name %s",
            kd_store_path(t->store), c->name, c->teacher, kd_store_path(t->store), c->teacher);
    if ((t->slot_plain[r->logits] = kd__trainer_slot(t, plain)) < 0)
        return kd_fail(err, KD_ELIMIT,
                       "%s: the students together read more than %d columns; train them in two runs",
                       kd_store_path(t->store), KD_LOADER_COLUMNS);
    t->slot_classes[t->slot_plain[r->logits]] = r->classes;
    return KD_OK;
}
