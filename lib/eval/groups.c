/* lib/eval/groups.c - which runs belong together, and which are compared.
 *
 * Runs are sorted by name, role and seed. Runs of one name are a student; of one name and role, a group.
 * Points of a sweep are students of their own. A point without plain runs under its own name is paired with
 * those of the plain point that has the most of its axes: kd-train's control leaves the axes of the loss out.
 */
#include "eval_private.h"

#include <string.h>

kd__group kd__group_at(const kd_run *r, const kd_run *end)
{
    const kd_run *q = r;
    while (q < end && !strcmp(q->name, r->name) && !strcmp(q->role, r->role)) q++;
    return (kd__group){r, (size_t)(q - r)};
}

const kd_run *kd__name_end(const kd_run *r, const kd_run *end)
{
    const kd_run *q = r;
    while (q < end && !strcmp(q->name, r->name)) q++;
    return q;
}

/* Axes of a plain point that a point has as well; -1: another student, or an axis that it has not. */
static int shared_axes(const char *plain, const char *point)
{
    int n = 0;
    if (!kd__eval_same_student(plain, point)) return -1;
    for (const char *at = strchr(plain, '@'); at; at = strchr(at + 1, '@'), n++) {
        size_t len = 1 + strcspn(at + 1, "@");
        const char *p = strchr(point, '@');
        while (p && (strncmp(p, at, len) || !strchr("@", p[len]))) p = strchr(p + 1, '@');
        if (!p) return -1;
    }
    return n;
}

kd__group kd__find_control(const kd_runs *runs, const char *name)
{
    kd__group best = {NULL, 0};
    int most = -1;
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end;) {
        const kd__group g = kd__group_at(r, end);
        const int n = strcmp(r->role, "plain") ? -1 : shared_axes(r->name, name);
        if (n > most) most = n, best = g;
        r += g.n;
    }
    return best;
}

kd__group kd__find_point(const kd_runs *runs, const char *name, const char *point)
{
    for (const kd_run *r = runs->v, *end = r + runs->n; r < end;) {
        const kd__group g = kd__group_at(r, end);
        const char *at = strchr(r->name, '@');
        const bool own = at && !strcmp(at + 1, point) && (!name || kd__eval_same_student(r->name, name));
        if ((own || !strcmp(r->name, point)) && !strcmp(r->role, "distilled")) return g;
        r += g.n;
    }
    return (kd__group){NULL, 0};
}

kd_status kd__check_against(const kd_runs *runs, const char *against, kd_err *err)
{
    if (!against || kd__find_point(runs, NULL, against).n) return KD_OK;
    return kd_fail(
        err, KD_ENOTFOUND,
        "--against %.80s: no distilled run of that name; say a student's whole name, or what follows "
        "the '@' in a point's: NAME@%.80s",
        against, against);
}

bool kd__only_control(const kd_runs *runs, const kd_run *r, const kd_run *end)
{
    if (strcmp(r->role, "plain") || kd__group_at(r, end).n != (size_t)(end - r)) return false;
    for (const kd_run *d = runs->v; d < runs->v + runs->n; d++)
        if (!strcmp(d->role, "distilled") && kd__find_control(runs, d->name).v == r) return true;
    return false;
}

void kd__mean_measures(kd_measures *m, const kd__group *g)
{
    *m = g->v->m;
    for (int k = 0; k < KD_MEASURES; k++) {
        double sum = 0;
        for (size_t i = 0; i < g->n; i++) sum += g->v[i].m.v[k];
        m->v[k] = sum / (double)g->n;
    }
}
