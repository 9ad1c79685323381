/* lib/eval/select.c - the best point of a sweep, chosen on the validation rows.
 *
 * Points of one student in one role (names alike up to the first '@') compete. A point is worth its mean over
 * the seeds, and all points of a group have to have all of its seeds: one that diverged or was not finished
 * on a seed is not chosen, because a mean over the easier seeds would flatter it. What each other point lacks
 * is given as the paired difference with its p, so that a choice within the noise is seen as one.
 *
 * Only validation figures come in here. The test rows are looked at afterwards, by kd-eval, for the chosen
 * points.
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JSON_LIMIT (16u << 20)

static size_t base(const char *name) { return strcspn(name, "@"); }

bool kd__eval_same_student(const char *a, const char *b)
{
    return base(a) == base(b) && !strncmp(a, b, base(a));
}

/* ---- choosing ----------------------------------------------------------------------------- */

static bool same_group(const kd_score *a, const kd_score *b)
{
    return kd__eval_same_student(a->name, b->name) && !strcmp(a->role, b->role);
}

static bool same_point(const kd_score *a, const kd_score *b)
{
    return !strcmp(a->name, b->name) && !strcmp(a->role, b->role);
}

/* A group while it is judged: its seeds, and a point's value for each. */
typedef struct judge {
    const kd_score *v;
    size_t n;
    uint64_t *seeds;
    size_t nseeds;
    double *values, *best; // (nseeds)
} judge;

static void collect_seeds(judge *j, const kd_score *of)
{
    j->nseeds = 0;
    for (const kd_score *s = j->v; s < j->v + j->n; s++) {
        size_t i = 0;
        if (!same_group(s, of)) continue;
        while (i < j->nseeds && j->seeds[i] != s->seed) i++;
        if (i == j->nseeds) j->seeds[j->nseeds++] = s->seed;
    }
}

/* values of the point that `of` belongs to; their mean, NAN when one is missing. */
static double collect_values(const judge *j, const kd_score *of, double *values)
{
    double sum = 0;
    for (size_t i = 0; i < j->nseeds; i++) {
        values[i] = NAN;
        for (const kd_score *s = j->v; s < j->v + j->n; s++)
            if (same_point(s, of) && s->seed == j->seeds[i]) values[i] = s->value;
        sum += values[i];
    }
    return sum / (double)j->nseeds;
}

static bool is_first(const judge *j, const kd_score *s, bool (*same)(const kd_score *, const kd_score *))
{
    for (const kd_score *e = j->v; e < s; e++)
        if (same(e, s)) return false;
    return true;
}

static json_t *number_or_null(double v) { return isfinite(v) ? json_real(v) : json_null(); }

/* best: NULL when no point has all seeds. */
static json_t *point_json(judge *j, const kd_score *of, const kd_score *best)
{
    double mean = collect_values(j, of, j->values), behind = NAN, p = NAN;
    bool chosen = best && same_point(of, best), whole = isfinite(mean);
    json_t *values = json_array();
    for (size_t i = 0; i < j->nseeds; i++) json_array_append_new(values, number_or_null(j->values[i]));
    if (whole && !chosen && best) {
        p = kd_paired_t(j->values, j->best, j->nseeds, &behind);
        if (j->nseeds < 2) p = NAN;
    }
    return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o}", "name", of->name, "chosen", chosen, "values", values,
                     "mean", number_or_null(mean), "to_best", number_or_null(behind), "p_value",
                     number_or_null(p));
}

static json_t *group_json(judge *j, const kd_score *of, bool larger)
{
    const kd_score *best = NULL;
    double most = 0;
    json_t *points = json_array(), *seeds = json_array();
    collect_seeds(j, of);
    for (size_t i = 0; i < j->nseeds; i++)
        json_array_append_new(seeds, json_integer((json_int_t)j->seeds[i]));
    for (const kd_score *s = j->v; s < j->v + j->n; s++) {
        if (!same_group(s, of) || !is_first(j, s, same_point)) continue;
        double mean = collect_values(j, s, j->values);
        if (!isfinite(mean) || (best && (larger ? mean <= most : mean >= most))) continue;
        best = s;
        most = mean;
    }
    if (best) collect_values(j, best, j->best);
    for (const kd_score *s = j->v; s < j->v + j->n; s++)
        if (same_group(s, of) && is_first(j, s, same_point))
            json_array_append_new(points, point_json(j, s, best));
    return json_pack("{s:s%, s:s, s:o, s:s?, s:o}", "student", of->name, base(of->name), "role", of->role,
                     "seeds", seeds, "chosen", best ? best->name : NULL, "points", points);
}

json_t *kd_selection_json(const kd_score *v, size_t n, const char *by, kd_err *err)
{
    judge j = {.v = v,
               .n = n,
               .seeds = calloc(n + 1, sizeof(*j.seeds)),
               .values = calloc(2 * n + 2, sizeof(double))};
    json_t *students = json_array(), *o = NULL;
    if (j.seeds && j.values) {
        j.best = j.values + n + 1;
        for (const kd_score *s = v; s < v + n; s++)
            if (is_first(&j, s, same_group))
                json_array_append_new(students, group_json(&j, s, !strcmp(by, "valid_accuracy")));
        o = json_pack("{s:i, s:s, s:s, s:O}", "schema", 1, "by", by, "split", "valid", "students", students);
    }
    json_decref(students);
    free(j.seeds);
    free(j.values);
    if (!o) kd_fail(err, KD_ENOMEM, "no memory for the selection among %zu runs", n);
    return o;
}

/* ---- applying ----------------------------------------------------------------------------- */

/* Keeps of runs [first, n) those of one student and role that were chosen, by the student's name. */
static kd_status keep_chosen(kd_runs *runs, size_t first, const char *student, const char *role,
                             const char *chosen, const char *path, kd_err *err)
{
    size_t to = first, kept = 0;
    kd_status st = KD_OK;
    for (size_t i = first; i < runs->n; i++) {
        kd_run *r = &runs->v[i];
        bool of = kd__eval_same_student(r->name, student) && !strcmp(r->role, role),
             keep = !of || !strcmp(r->name, chosen);
        if (!keep) {
            kd__eval_run_release(r);
            continue;
        }
        if (of) {
            char *name = kd_strdup(student);
            if (!name) st = kd_fail(err, KD_ENOMEM, "out of memory");
            if (name) r->point = r->name, r->name = name;
            kept++;
        }
        runs->v[to++] = *r;
    }
    runs->n = to;
    if (!st && !kept)
        st = kd_fail(
            err, KD_ENOTFOUND,
            "%s: chose %s (%s), and that is not here; choose again (kd-train --resume --select), or measure "
            "all with --no-selection",
            path, chosen, role);
    return st;
}

kd_status kd__selection_apply(kd_runs *runs, size_t first, const char *folder, kd_err *err)
{
    char *path = kd_path_join(folder, "selection.json");
    json_t *o = NULL, *s;
    size_t i;
    if (!path) return kd_fail(err, KD_ENOMEM, "no memory for a path");
    kd_status st = kd_exists(path) ? kd_json_load(path, JSON_LIMIT, &o, err) : KD_OK;
    if (o && !json_is_array(json_object_get(o, "students")))
        st = kd_fail(err, KD_ECORRUPT, "%s: no list of students; choose again (kd-train --resume --select)",
                     path);
    json_array_foreach(json_object_get(o, "students"), i, s)
    {
        const char *student, *role, *chosen;
        if (st || json_is_null(json_object_get(s, "chosen")))
            continue; // nothing was chosen: all are measured
        if ((st = kd_json_str(s, "student", &student, path, err)) ||
            (st = kd_json_str(s, "role", &role, path, err)) ||
            (st = kd_json_str(s, "chosen", &chosen, path, err)))
            break;
        st = keep_chosen(runs, first, student, role, chosen, path, err);
    }
    json_decref(o);
    free(path);
    return st;
}
