/* lib/eval/compare.c - paired comparisons: over seeds, over rows, and over both.
 *
 * Two students are compared over the seeds that both have, the teacher (which has none) with every seed.
 * Three questions, three answers: would other seeds tell the same (paired t-test), would other rows (McNemar,
 * for each seed), would other seeds and rows (bootstrap of both at once: a resample draws rows and seeds, the
 * same for both sides, and the difference of the means is taken)?
 */
#include "eval_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One side: a model a seed. */
typedef struct side {
    const char *name, *role;
    size_t n;
    const kd_answer **answers;
    const double **resampled;
    double *accuracy;
} side;

static void side_release(side *s) { free(s->answers), free(s->resampled), free(s->accuracy); }

static kd_status side_create(side *s, size_t room, kd_err *err)
{
    s->answers = calloc(room + 1, sizeof *s->answers);
    s->resampled = calloc(room + 1, sizeof *s->resampled);
    s->accuracy = calloc(room + 1, sizeof *s->accuracy);
    if (s->answers && s->resampled && s->accuracy) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "no memory for a pair of students");
}

static void side_add(side *s, const kd_answer *a, const double *resampled, double accuracy)
{
    s->answers[s->n] = a;
    s->resampled[s->n] = resampled;
    s->accuracy[s->n++] = accuracy;
}

static void side_add_run(side *s, const kd_run *r)
{
    side_add(s, r->answers, r->resampled, r->m.v[KD_M_ACCURACY]);
}

static json_t *mcnemar_json(const kd_exam *e, const side *a, const side *b, const json_t *seeds)
{
    json_t *list = json_array();
    for (size_t i = 0; i < a->n; i++) {
        const kd_mcnemar m = kd_mcnemar_rows(&e->rows, a->answers[i], b->answers[i]);
        json_array_append_new(list,
                              json_pack("{s:O, s:I, s:I, s:f, s:f, s:f}", "seed", json_array_get(seeds, i),
                                        "only_a", (json_int_t)m.only_a, "only_b", (json_int_t)m.only_b,
                                        "p_exact", m.p_exact, "chi2", m.chi2, "p_chi2", m.p_chi2));
    }
    return list;
}

static kd_status set_bootstrap(json_t *o, const kd_exam *e, const side *a, const side *b, kd_err *err)
{
    const size_t n = (size_t)e->p.resamples;
    double *v = malloc((n + 1) * sizeof *v), low, high;
    size_t less = 0, more = 0;
    if (!v) return kd_fail(err, KD_ENOMEM, "no memory for %zu resamples", n);
    for (uint32_t i = 0; i < n; i++) {
        v[i] = kd__resampled_mean(a->resampled, a->n, n, KD_M_ACCURACY, i) -
               kd__resampled_mean(b->resampled, b->n, n, KD_M_ACCURACY, i);
        less += v[i] <= 0;
        more += v[i] >= 0;
    }
    kd__bounds(v, n, &low, &high);
    free(v);
    json_object_set_new(o, "accuracy_low", kd__real(low));
    json_object_set_new(o, "accuracy_high", kd__real(high));
    json_object_set_new(o, "p_bootstrap",
                        json_real(fmin(1, 2 * (double)(1 + (less < more ? less : more)) / (double)(n + 1))));
    return KD_OK;
}

/* Takes seeds. */
static kd_status append(json_t *list, const kd_exam *e, const side *a, const side *b, const char *why,
                        json_t *seeds, kd_err *err)
{
    double diff;
    const double p = kd_paired_t(a->accuracy, b->accuracy, a->n, &diff);
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:f, s:o, s:o}", "a", a->name, "a_role", a->role, "b",
                  b->name, "b_role", b->role, "why", why, "seeds", json_incref(seeds), "accuracy", diff,
                  "p_value", a->n > 1 ? json_real(p) : json_null(), "mcnemar", mcnemar_json(e, a, b, seeds));
    json_decref(seeds);
    if (!o) return kd_fail(err, KD_ENOMEM, "no memory for a pair of students");
    json_array_append_new(list, o);
    return e->p.resamples ? set_bootstrap(o, e, a, b, err) : KD_OK;
}

static kd_status with_group(json_t *list, const kd_exam *e, const kd__group *x, const kd__group *y,
                            const char *why, kd_err *err)
{
    side a = {.name = x->v->name, .role = x->v->role}, b = {.name = y->v->name, .role = y->v->role};
    json_t *seeds = json_array();
    kd_status st = side_create(&a, x->n, err);
    if (!st) st = side_create(&b, y->n, err);
    for (size_t i = 0, k = 0; !st && i < x->n && k < y->n;) {
        const uint64_t s = x->v[i].seed, t = y->v[k].seed;
        if (s == t) {
            side_add_run(&a, &x->v[i]);
            side_add_run(&b, &y->v[k]);
            json_array_append_new(seeds, json_integer((json_int_t)s));
        }
        i += s <= t;
        k += t <= s;
    }
    if (!st && a.n)
        st = append(list, e, &a, &b, why, seeds, err);
    else
        json_decref(seeds);
    side_release(&a);
    side_release(&b);
    return st;
}

static kd_status with_teacher(json_t *list, const kd_exam *e, const kd__group *x, kd_err *err)
{
    side a = {.name = x->v->name, .role = x->v->role}, b = {.name = e->teacher, .role = "cached"};
    json_t *seeds = json_array();
    kd_status st = side_create(&a, x->n, err);
    if (!st) st = side_create(&b, x->n, err);
    for (size_t i = 0; i < x->n && !st; i++) {
        side_add_run(&a, &x->v[i]);
        side_add(&b, e->answers, e->resampled, e->m.v[KD_M_ACCURACY]);
        json_array_append_new(seeds, json_integer((json_int_t)x->v[i].seed));
    }
    if (!st)
        st = append(list, e, &a, &b, "teacher", seeds, err);
    else
        json_decref(seeds);
    side_release(&a);
    side_release(&b);
    return st;
}

/* The group that speaks for each student, for comparing all with all. */
static kd_status with_others(json_t *list, const kd_exam *e, const kd_runs *runs, const kd_run *r,
                             kd_err *err)
{
    const kd_run *end = runs->v + runs->n;
    const kd__group x = kd__group_at(r, end);
    kd_status st = KD_OK;
    for (const kd_run *q = kd__name_end(r, end); q < end && !st; q = kd__name_end(q, end)) {
        const kd__group y = kd__group_at(q, end);
        if (!kd__only_control(runs, q, kd__name_end(q, end)))
            st = with_group(list, e, &x, &y, "students", err);
    }
    return st;
}

static kd_status of_student(json_t *list, const kd_exam *e, const kd_runs *runs, const kd_run *r, kd_err *err)
{
    const kd_run *end = runs->v + runs->n, *last = kd__name_end(r, end);
    const kd__group x = kd__group_at(r, last);
    const bool distilled = !strcmp(r->role, "distilled");
    kd__group plain = {NULL, 0}, point = {NULL, 0};
    if (distilled && r + x.n < last && !strcmp(r[x.n].role, "plain"))
        plain = kd__group_at(r + x.n, last);
    else if (distilled)
        plain = kd__find_control(runs, r->name);
    if (distilled && e->p.against) point = kd__find_point(runs, r->name, e->p.against);
    kd_status st = e->answers ? with_teacher(list, e, &x, err) : KD_OK;
    if (!st && plain.n) st = with_group(list, e, &x, &plain, "plain", err);
    if (!st && point.n && point.v != r) st = with_group(list, e, &x, &point, "against", err);
    return st || !e->p.all_pairs ? st : with_others(list, e, runs, r, err);
}

json_t *kd__pairs_json(const kd_exam *e, const kd_runs *runs, kd_err *err)
{
    json_t *list = json_array();
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end; r = kd__name_end(r, end)) {
        if (kd__only_control(runs, r, kd__name_end(r, end)) || !of_student(list, e, runs, r, err)) continue;
        json_decref(list);
        return NULL;
    }
    return list;
}
