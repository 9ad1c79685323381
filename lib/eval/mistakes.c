/* lib/eval/mistakes.c - whose mistakes are they?
 *
 * A student learns its teacher's mistakes along with everything else. Rows fall into five kinds by who is
 * right; those that are not right on both sides are counted, and some of each are listed, so that a report
 * can show the very rows: those first that most seeds agree on, then those where the student is most sure.
 */
#include "eval_private.h"

#include <stdlib.h>
#include <string.h>

kd_kind kd_row_kind(int32_t label, const kd_answer *teacher, const kd_answer *student)
{
    if (teacher->top == label) return student->top == label ? KD_BOTH_RIGHT : KD_NEW;
    if (student->top == label) return KD_MENDED;
    return student->top == teacher->top ? KD_COPIED : KD_OTHER;
}

const char *kd_kind_name(kd_kind k)
{
    static const char *const name[KD_KINDS] = {"both_right", "copied", "other", "new", "mended"};
    return name[k];
}

/* A row of which at least one seed is of a kind. */
typedef struct listed {
    uint64_t i; /* row of the exam */
    int32_t top;
    uint32_t seeds;
    double confidence; /* sum over those seeds */
} listed;

static int by_weight(const void *a, const void *b)
{
    const listed *x = a, *y = b;
    if (x->seeds != y->seeds) return x->seeds < y->seeds ? 1 : -1;
    if (x->confidence != y->confidence) return x->confidence < y->confidence ? 1 : -1;
    return (x->i > y->i) - (x->i < y->i);
}

/* Rows of a kind, most weighty first; *count: over all seeds. Returns how many rows list holds. */
static uint64_t collect(listed *list, const kd_exam *e, const kd__panel *p, kd_kind kind, uint64_t *count)
{
    uint64_t n = 0;
    *count = 0;
    for (uint64_t i = 0; i < e->rows.n; i++) {
        listed row = {.i = i};
        for (size_t s = 0; s < p->n; s++) {
            const kd_answer *a = &p->a[s][i];
            if (kd_row_kind(e->labels[i], &e->answers[i], a) != kind) continue;
            if (!row.seeds++) row.top = a->top;
            row.confidence += a->confidence;
        }
        *count += row.seeds;
        if (row.seeds) list[n++] = row;
    }
    qsort(list, n, sizeof *list, by_weight);
    return n;
}

static json_t *row_json(const kd_exam *e, const listed *l)
{
    char id[33];
    kd_id_hex(e->ids[l->i], id);
    return json_pack("{s:I, s:s, s:i, s:i, s:i, s:f, s:f, s:i}", "row", (json_int_t)e->row[l->i], "id", id,
                     "label", e->labels[l->i], "teacher", e->answers[l->i].top, "student", l->top,
                     "confidence", l->confidence / l->seeds, "teacher_confidence",
                     e->answers[l->i].confidence, "seeds", (int)l->seeds);
}

json_t *kd__mistakes_json(const kd_exam *e, const kd__panel *p, kd_err *err)
{
    listed *list = malloc((e->rows.n + 1) * sizeof *list);
    json_t *o = json_object();
    uint64_t total[KD_KINDS] = {0};
    if (!list || !o) {
        free(list);
        json_decref(o);
        kd_fail(err, KD_ENOMEM, "no memory for the mistakes of %llu rows", (unsigned long long)e->rows.n);
        return NULL;
    }
    for (int k = KD_COPIED; k < KD_KINDS; k++) {
        const uint64_t n = collect(list, e, p, (kd_kind)k, &total[k]);
        json_t *rows = json_array();
        for (uint64_t i = 0; i < n && i < (uint64_t)e->p.mistakes; i++)
            json_array_append_new(rows, row_json(e, &list[i]));
        json_object_set_new(o, kd_kind_name((kd_kind)k),
                            json_pack("{s:I, s:o}", "count", (json_int_t)total[k], "rows", rows));
    }
    const uint64_t both = total[KD_COPIED] + total[KD_OTHER];
    json_object_set_new(o, "student", json_integer((json_int_t)(both + total[KD_NEW])));
    json_object_set_new(o, "teacher", json_integer((json_int_t)(both + total[KD_MENDED])));
    free(list);
    return o;
}
