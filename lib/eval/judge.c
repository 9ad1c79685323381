/* lib/eval/judge.c - holds results against gates.
 *
 * Reads nothing but the results object (docs/evaluation.md), so that results of last week can be judged by
 * today's gates. On the safe side in every doubt: what was not measured does not pass, and says why; a floor
 * under something undefined (the precision of a class that is never predicted) does not pass, a ceiling over
 * it (copied mistakes of a teacher that makes none) does.
 *
 * With `safe` it is the bound of the confidence interval that has to pass: the lower one for a floor, the
 * upper one for a ceiling. Where accuracy is compared with the teacher's or the plain student's, both saw the
 * same rows, so the bound is that of the paired difference, which is much narrower than both intervals. Any
 * other reference is taken as it was measured.
 */
#include "gates_private.h"

#include <math.h>
#include <string.h>

/* One figure against one limit. */
typedef struct held {
    double value, limit; /* NAN: not known */
    double margin;       /* how far on the good side; -INFINITY where something is not known */
    bool passed;
    char where[160]; /* slice or class, "" for the whole */
    char why[400];   /* not empty where something is not known */
} held;

typedef struct judge {
    const json_t *results, *release;
} judge;

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* ---- places in the results ---------------------------------------------------------------- */

static const json_t *list_of(const json_t *model, const kd__gate *g)
{
    return json_object_get(model, g->scope == KD__SLICE ? "slices" : "per_class");
}

/* A class is called by its name, or by its number where it has none. */
static void name_of(const json_t *item, const kd__gate *g, char *out, size_t len)
{
    const json_t *name = json_object_get(item, "name");
    if (json_is_string(name) || g->scope == KD__SLICE)
        snprintf(out, len, "%s", text_of(item, "name"));
    else
        snprintf(out, len, "%lld", (long long)json_integer_value(json_object_get(item, "class")));
}

/* The slice or class of that name in another model; the model itself for the whole. NULL: none. */
static const json_t *same_place(const json_t *model, const kd__gate *g, const char *where)
{
    char name[160];
    size_t i;
    json_t *item;
    if (g->scope == KD__WHOLE) return model;
    json_array_foreach(list_of(model, g), i, item)
    {
        name_of(item, g, name, sizeof name);
        if (!strcmp(name, where)) return item;
    }
    return NULL;
}

/* Mean of an array with one number a seed. */
static const json_t *seeds_of(const json_t *student, const char *key, double *mean)
{
    const json_t *v = json_object_get(json_object_get(student, "plain"), key);
    double sum = 0;
    for (size_t i = 0; i < json_array_size(v); i++) sum += json_number_value(json_array_get(v, i));
    *mean = json_array_size(v) ? sum / (double)json_array_size(v) : NAN;
    return v;
}

/* The student of that name in the last release; the only one there, if it was called otherwise. */
static const json_t *released(const json_t *release, const char *name)
{
    const json_t *students = json_object_get(release, "students"), *only = NULL;
    size_t i, n = 0;
    json_t *s;
    json_array_foreach(students, i, s)
    {
        if (!strcmp(text_of(s, "name"), name)) return s;
        if (json_object_get(s, "is_teacher")) continue;
        only = s;
        n++;
    }
    return n == 1 ? only : NULL;
}

/* The bound of the paired difference to the teacher's or the plain student's accuracy, where the gate is
 * about that; NULL: it is not, or it was not measured. */
static const json_t *paired_bound(const judge *j, const json_t *student, const kd__gate *g)
{
    const char *why = g->reference == KD__TEACHER ? "teacher" : "plain";
    size_t i;
    json_t *p;
    if (!g->safe || g->scope != KD__WHOLE || strcmp(g->key, "accuracy") || g->sign == '*' ||
        (g->reference != KD__TEACHER && g->reference != KD__PLAIN))
        return NULL;
    json_array_foreach(json_object_get(j->results, "pairs"), i, p)
    {
        const json_t *bound = json_object_get(p, g->ceiling ? "accuracy_high" : "accuracy_low");
        if (!strcmp(text_of(p, "a"), text_of(student, "name")) && !strcmp(text_of(p, "why"), why) &&
            !strcmp(text_of(p, "a_role"), text_of(student, "role")) && json_is_number(bound))
            return bound;
    }
    return NULL;
}

/* ---- figures ------------------------------------------------------------------------------ */

/* Why a measure has no key. */
static void say_missing(const judge *j, const char *key, held *h)
{
    size_t i, k;
    json_t *o, *m;
    json_array_foreach(json_object_get(j->results, "left_out"), i, o)
    {
        json_array_foreach(json_object_get(o, "measures"), k, m)
        {
            if (strcmp(json_string_value(m) ? json_string_value(m) : "", key)) continue;
            snprintf(h->why, sizeof h->why, "%s was left out: %.300s", key, text_of(o, "why"));
            return;
        }
    }
    snprintf(h->why, sizeof h->why, "%s was not measured", key);
}

/* The student's figure. False: it is not there or not defined, which is decided in h. */
static bool take_value(const judge *j, const kd__gate *g, const json_t *item, held *h)
{
    char key[80];
    const char *bound = g->low || (g->safe && !g->ceiling) ? "_low" : g->high || g->safe ? "_high" : "";
    snprintf(key, sizeof key, "%s%s", g->key, bound);
    const json_t *v = json_object_get(item, key);
    if (json_is_number(v)) {
        h->value = json_number_value(v);
        return true;
    }
    if (json_is_null(v) || json_is_null(json_object_get(item, g->key))) {
        h->passed = g->ceiling;
        h->margin = g->ceiling ? INFINITY : -INFINITY;
        snprintf(h->why, sizeof h->why, "%s is not defined here", g->key);
    } else if (!json_object_get(item, g->key) || !*bound) {
        say_missing(j, g->key, h);
    } else {
        snprintf(h->why, sizeof h->why,
                 "%s has no confidence bounds %s; write 'point' behind the gate to do "
                 "without",
                 g->key, g->scope == KD__WHOLE ? "in these results (--resamples)" : "in slices");
    }
    return false;
}

/* What the reference came to. False: not known, which is said in h. */
static bool take_reference(const judge *j, const kd__gate *g, const json_t *student, held *h, double *out)
{
    static const char *const names[] = {
        [KD__TEACHER] = "the teacher", [KD__PLAIN] = "the plain student", [KD__RELEASE] = "the last release"};
    const json_t *model = g->reference == KD__TEACHER   ? json_object_get(j->results, "teacher")
                          : g->reference == KD__RELEASE ? released(j->release, text_of(student, "name"))
                                                        : json_object_get(student, "plain");
    if (!json_is_object(model)) {
        snprintf(h->why, sizeof h->why, "%s is not in the results", names[g->reference]);
        return false;
    }
    if (g->reference == KD__PLAIN && json_array_size(seeds_of(student, g->key, out)) && isfinite(*out))
        return true;
    const json_t *place = same_place(model, g, h->where), *v = json_object_get(place, g->key);
    *out = json_number_value(v);
    if (g->reference != KD__PLAIN && json_is_number(v)) return true;
    snprintf(h->why, sizeof h->why, "%s has no %s%s%s", names[g->reference], g->key, *h->where ? " of " : "",
             h->where);
    return false;
}

/* Rounding of the limit's own arithmetic does not fail a gate. */
static void compare(const kd__gate *g, held *h)
{
    const double tiny = 1e-12 * (1 + fabs(h->limit));
    h->margin = g->ceiling ? h->limit - h->value : h->value - h->limit;
    h->passed = g->strict ? h->margin > tiny : h->margin >= -tiny;
}

/* item: the student, or a slice or class of it. */
static held judge_item(const judge *j, const kd__gate *g, const json_t *student, const json_t *item)
{
    held h = {.value = NAN, .limit = NAN, .margin = -INFINITY};
    double reference = 0;
    const json_t *bound = paired_bound(j, student, g);
    if (g->scope != KD__WHOLE) name_of(item, g, h.where, sizeof h.where);
    if (bound) {
        h.value = json_number_value(bound);
        h.limit = g->sign == '-' ? -g->number : g->number;
        compare(g, &h);
        return h;
    }
    const bool known = take_value(j, g, item, &h);
    if (!known && h.passed) return h;
    if (g->reference == KD__NUMBER)
        h.limit = g->number;
    else if (take_reference(j, g, student, &h, &reference))
        h.limit = g->sign == '*'   ? reference * g->number
                  : g->sign == '-' ? reference - g->number
                                   : reference + g->number;
    if (known && !isnan(h.limit)) compare(g, &h);
    return h;
}

/* ---- verdicts ----------------------------------------------------------------------------- */

static void set_number(json_t *o, const char *key, double v)
{
    json_object_set_new(o, key, isfinite(v) ? json_real(v) : json_null());
}

static json_t *held_json(const held *h)
{
    json_t *o = json_object();
    if (*h->where) json_object_set_new(o, "where", json_string(h->where));
    set_number(o, "value", h->value);
    set_number(o, "limit", h->limit);
    if (*h->why) json_object_set_new(o, "why", json_string(h->why));
    return o;
}

static const char *bound_name(const judge *j, const kd__gate *g, const json_t *student)
{
    if (paired_bound(j, student, g)) return g->ceiling ? "difference_high" : "difference_low";
    return g->low || (g->safe && !g->ceiling) ? "low" : g->high || g->safe ? "high" : "point";
}

/* No such slice or class: a mistake in the file, not a bad student. */
static kd_status fail_place(const kd__gate *g, const json_t *student, kd_err *err)
{
    char name[64][160];
    const char *names[64];
    size_t n = 0;
    json_t *item;
    const char *what = g->scope == KD__SLICE ? "slice" : "class";
    json_array_foreach(list_of(student, g), n, item)
    {
        if (n == KD_COUNT(names)) break;
        name_of(item, g, name[n], sizeof name[n]);
        names[n] = name[n];
    }
    const char *near = kd_nearest(g->name, names, n);
    return kd_fail(err, KD_EMISMATCH, "%s: gate '%.120s': no %s '%s' in the results%s%s%s", g->where, g->text,
                   what, g->name, near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

/* One gate for one student, all its slices or classes: the worst of them, and all that failed. */
static kd_status judge_gate(const judge *j, const kd__gate *g, const json_t *student, json_t **out,
                            kd_err *err)
{
    const json_t *list = g->scope == KD__WHOLE ? NULL : list_of(student, g);
    const size_t n = g->scope == KD__WHOLE ? 1 : json_array_size(list);
    held worst = {.value = NAN, .limit = NAN, .margin = INFINITY, .passed = true};
    json_t *failed = json_array();
    size_t judged = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = list ? json_array_get(list, i) : student;
        char name[160] = "";
        if (list) name_of(item, g, name, sizeof name);
        if (*g->name && strcmp(g->name, name)) continue;
        const held h = judge_item(j, g, student, item);
        if (!judged++ || h.margin < worst.margin) worst = h;
        if (!h.passed) json_array_append_new(failed, held_json(&h));
    }
    if (!judged && *g->name && n) {
        json_decref(failed);
        return fail_place(g, student, err);
    }
    if (!judged) {
        worst.passed = false;
        snprintf(worst.why, sizeof worst.why, "the results have no %s",
                 g->scope == KD__SLICE ? "slices" : "classes");
        json_array_append_new(failed, held_json(&worst));
    }
    json_t *o = held_json(&worst);
    const bool passed = !json_array_size(failed);
    *out = json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:I, s:o}", "student", text_of(student, "name"), "gate",
                     g->text, "line", g->where, "measure", g->key, "bound", bound_name(j, g, student),
                     "passed", passed, "judged", (json_int_t)judged, "failed", failed);
    if (*out) json_object_update(*out, o);
    json_decref(o);
    return *out ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: out of memory", g->where);
}

/* ---- everything --------------------------------------------------------------------------- */

static bool chosen(const kd_gates *g, const json_t *student)
{
    const char *name = text_of(student, "name");
    if (!g->students.n) return !json_object_get(student, "is_teacher");
    for (size_t i = 0; i < g->students.n; i++)
        if (!strcmp(g->students.v[i], name)) return true;
    return false;
}

static kd_status check_students(const kd_gates *g, const json_t *students, kd_err *err)
{
    const char *names[256], *near;
    char where[300];
    size_t n = 0;
    json_t *s;
    json_array_foreach(students, n, s)
    {
        if (n == KD_COUNT(names)) break;
        names[n] = text_of(s, "name");
    }
    for (size_t i = 0; i < g->students.n; i++) {
        bool there = false;
        for (size_t k = 0; k < n; k++) there = there || !strcmp(names[k], g->students.v[i]);
        if (there) continue;
        near = kd_nearest(g->students.v[i], names, n);
        return kd_fail(err, KD_EMISMATCH, "%s: no student '%s' in the results%s%s%s",
                       kd_config_where_item(&g->config, "students", i, where, sizeof where), g->students.v[i],
                       near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    }
    return KD_OK;
}

static kd_status check_results(const kd_gates *g, const json_t *results, const json_t *release, kd_err *err)
{
    const json_t *schema = json_object_get(results, "schema");
    if (json_integer_value(schema) != KD_RESULTS_SCHEMA)
        return kd_fail(err, KD_EMISMATCH, "these results have schema %lld, expected %d; measure them again",
                       (long long)json_integer_value(schema), KD_RESULTS_SCHEMA);
    for (size_t i = 0; i < g->n && !release; i++)
        if (g->v[i].reference == KD__RELEASE)
            return kd_fail(
                err, KD_EUSAGE,
                "%s: gate '%.120s' compares with the last release, but none is given; add --release "
                "RESULTS.json, or 'release: FILE' to the gates",
                g->v[i].where, g->v[i].text);
    if (release && json_integer_value(json_object_get(release, "schema")) != KD_RESULTS_SCHEMA)
        return kd_fail(err, KD_EMISMATCH, "the last release's results have schema %lld, expected %d",
                       (long long)json_integer_value(json_object_get(release, "schema")), KD_RESULTS_SCHEMA);
    return check_students(g, json_object_get(results, "students"), err);
}

/* The sentence of a run that must stop: how many, and the first one with its figure. */
static kd_status fail_gates(const kd_gates *g, const json_t *list, size_t failed, kd_err *err)
{
    size_t i;
    json_t *o;
    json_array_foreach(list, i, o)
    {
        if (json_is_true(json_object_get(o, "passed"))) continue;
        const char *why = text_of(o, "why"), *where = text_of(o, "where");
        const json_t *value = json_object_get(o, "value");
        char figure[500];
        if (*why)
            snprintf(figure, sizeof figure, "%s", why);
        else
            snprintf(figure, sizeof figure, "%s %.4g, limit %.4g", text_of(o, "bound"),
                     json_number_value(value), json_number_value(json_object_get(o, "limit")));
        return kd_fail(err, KD_EGATE, "%s: %zu of %zu gates failed; the first: %s: %s (%s%s%s)", g->path,
                       failed, json_array_size(list), text_of(o, "student"), text_of(o, "gate"), where,
                       *where ? ": " : "", figure);
    }
    return KD_OK;
}

kd_status kd_gates_judge(const kd_gates *g, json_t *results, const json_t *release, kd_err *err)
{
    const judge j = {results, release};
    json_t *list = json_array(), *s, *o;
    size_t i, failed = 0;
    kd_status st = check_results(g, results, release, err);
    json_array_foreach(json_object_get(results, "students"), i, s)
    {
        for (size_t k = 0; k < g->n && !st && chosen(g, s); k++)
            if (!(st = judge_gate(&j, &g->v[k], s, &o, err))) {
                failed += !json_is_true(json_object_get(o, "passed"));
                json_array_append_new(list, o);
            }
    }
    if (!st && !json_array_size(list))
        st = kd_fail(err, KD_EMISMATCH, "%s: no student in the results to judge", g->path);
    if (!st && json_object_set_new(results, "gates",
                                   json_pack("{s:s, s:b, s:I, s:O}", "file", g->path, "passed", !failed,
                                             "failed", (json_int_t)failed, "list", list)))
        st = kd_fail(err, KD_ENOMEM, "%s: out of memory", g->path);
    if (!st && failed) st = fail_gates(g, list, failed, err);
    json_decref(list);
    return st;
}
