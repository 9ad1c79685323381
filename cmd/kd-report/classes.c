/* classes.c - where the mistakes are: recall of every class and slice, and which classes are taken for which.
 */
#include "report_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODELS    64
#define CLASSES   200 /* rows of the table */
#define MATRIX    20  /* classes of a matrix that people can read */
#define MATRICES  6
#define TOP_PAIRS 8
#define SLICES    200

static void put_heads(report *r, const json_t **m, size_t n, const char *what)
{
    kd_buf_printf(&r->page, "<thead><tr><th scope=col>%s</th><th scope=col>rows</th>", what);
    for (size_t i = 0; i < n; i++) {
        kd_buf_puts(&r->page, "<th scope=col>");
        html_text(&r->page, model_name(r, m[i]));
        kd_buf_puts(&r->page, "</th>");
    }
    kd_buf_puts(&r->page, "</tr></thead><tbody>\n");
}

/* A share with its bounds, coloured where it lies far below the model's accuracy. */
static void put_share(report *r, const json_t *o, const char *key, double usual)
{
    char v[40], low[64], high[64];
    const double x = num(o, key);
    snprintf(low, sizeof low, "%s_low", key);
    snprintf(high, sizeof high, "%s_high", key);
    kd_buf_printf(&r->page, "<td%s>%s", x < usual - 0.1 ? " class=bad" : "", number(v, x, AS_SHARE));
    if (isfinite(num(o, low)))
        kd_buf_printf(&r->page, "<small>%.1f–%.1f</small>", 100 * num(o, low), 100 * num(o, high));
    kd_buf_puts(&r->page, "</td>");
}

static void put_class_table(report *r, const json_t **m, size_t n)
{
    const json_t *first = json_object_get(m[0], "per_class");
    char name[24], v[40];
    html_table(r, "Recall of every class", "wide");
    put_heads(r, m, n, "class");
    for (size_t c = 0; c < json_array_size(first) && c < CLASSES; c++) {
        const json_t *e = json_array_get(first, c);
        kd_buf_puts(&r->page, "<tr><th scope=row>");
        html_text(&r->page, class_name(r, (int64_t)c, name));
        kd_buf_printf(&r->page, "</th><td>%s</td>", number(v, num(e, "support"), AS_COUNT));
        for (size_t i = 0; i < n; i++)
            put_share(r, json_array_get(json_object_get(m[i], "per_class"), c), "recall",
                      num(m[i], "accuracy"));
        kd_buf_puts(&r->page, "</tr>\n");
    }
    html_table_end(r);
    if (json_array_size(first) > CLASSES)
        kd_buf_printf(&r->page, "<p class=note>The first %d of %zu classes.</p>\n", CLASSES,
                      json_array_size(first));
}

static const json_t *find_slice(const json_t *m, const char *name)
{
    const json_t *e;
    size_t i;
    json_array_foreach(json_object_get(m, "slices"), i, e)
    {
        if (!strcmp(str(e, "name"), name)) return e;
    }
    return NULL;
}

/* Slices by classes are the table above again. */
static bool by_class(const json_t *slice) { return !strcmp(str(slice, "column"), "label"); }

static void put_slice_table(report *r, const json_t **m, size_t n)
{
    const json_t *e, *first = json_object_get(m[n - 1], "slices");
    char v[40];
    size_t i, shown = 0;
    json_array_foreach(first, i, e)
    {
        if (by_class(e) || shown == SLICES) continue;
        if (!shown++) {
            kd_buf_puts(&r->page, "<h3>Slices</h3><p class=note>Accuracy on parts of the rows.</p>\n");
            html_table(r, "Accuracy of every slice", "wide");
            put_heads(r, m, n, "slice");
        }
        kd_buf_puts(&r->page, "<tr><th scope=row>");
        html_text(&r->page, str(e, "name"));
        kd_buf_printf(&r->page, "</th><td>%s</td>", number(v, num(e, "rows"), AS_COUNT));
        for (size_t k = 0; k < n; k++)
            put_share(r, find_slice(m[k], str(e, "name")), "accuracy", num(m[k], "accuracy"));
        kd_buf_puts(&r->page, "</tr>\n");
    }
    if (shown) html_table_end(r);
}

kd_status put_classes(report *r, kd_err *err)
{
    (void)err;
    const json_t *m[MODELS];
    const size_t n = models(r, m, MODELS);
    if (!n) return KD_OK;
    html_section(r, "classes", "Classes",
                 "Share of a class's rows that a model gets right, with 95 % bounds. Coloured: ten points or "
                 "more below the "
                 "model's accuracy.");
    put_class_table(r, m, n);
    put_slice_table(r, m, n);
    return KD_OK;
}

/* ---- confusion ---------------------------------------------------------------------------------- */

static double cell(const json_t *matrix, size_t label, size_t said)
{
    return json_number_value(json_array_get(json_array_get(matrix, label), said));
}

static void put_matrix(report *r, const json_t *matrix, size_t n)
{
    kd_buf *b = &r->page;
    char name[24];
    kd_buf_puts(b, "<thead><tr><th scope=col><small>label</small></th>");
    for (size_t c = 0; c < n; c++) {
        kd_buf_puts(b, "<th scope=col><abbr title=\"");
        html_text(b, class_name(r, (int64_t)c, name));
        kd_buf_printf(b, "\">%zu</abbr></th>", c);
    }
    kd_buf_puts(b, "</tr></thead><tbody>\n");
    for (size_t l = 0; l < n; l++) {
        double all = 0;
        for (size_t c = 0; c < n; c++) all += cell(matrix, l, c);
        kd_buf_printf(b, "<tr><th scope=row>%zu ", l);
        html_text(b, class_name(r, (int64_t)l, name));
        kd_buf_puts(b, "</th>");
        for (size_t c = 0; c < n; c++) {
            const double share = all > 0 ? 100 * cell(matrix, l, c) / all : 0;
            const double shade = c == l ? 0.0045 * share * share : fmin(45, 1.35 * share);
            kd_buf_printf(b, "<td class=%s style=\"--v:%.0f\">", c == l ? "on" : "off", shade);
            if (share >= 0.5) kd_buf_printf(b, "%.0f", share);
            kd_buf_puts(b, "</td>");
        }
        kd_buf_puts(b, "</tr>\n");
    }
}

typedef struct confusion_pair {
    size_t label, said;
    double rows, share;
} confusion_pair;

static int by_rows(const void *a, const void *b)
{
    const confusion_pair *p = a, *q = b;
    return (p->rows < q->rows) - (p->rows > q->rows);
}

/* "Shirt taken for T-shirt: 12 % of its rows", the most frequent ones. */
static kd_status put_pairs(report *r, const json_t *matrix, size_t n, kd_err *err)
{
    confusion_pair *v = calloc(n * n + 1, sizeof *v);
    char a[24], c[24];
    size_t k = 0;
    if (!v) return kd_fail(err, KD_ENOMEM, "no memory for %zu classes", n);
    for (size_t l = 0; l < n; l++) {
        double all = 0;
        for (size_t s = 0; s < n; s++) all += cell(matrix, l, s);
        for (size_t s = 0; s < n; s++)
            if (s != l && cell(matrix, l, s) > 0)
                v[k++] = (confusion_pair){l, s, cell(matrix, l, s), cell(matrix, l, s) / all};
    }
    qsort(v, k, sizeof *v, by_rows);
    kd_buf_puts(&r->page, "<p class=note>Most often: ");
    for (size_t i = 0; i < k && i < TOP_PAIRS; i++) {
        if (i) kd_buf_puts(&r->page, "; ");
        html_text(&r->page, class_name(r, (int64_t)v[i].label, a));
        kd_buf_puts(&r->page, " taken for ");
        html_text(&r->page, class_name(r, (int64_t)v[i].said, c));
        kd_buf_printf(&r->page, " (%.1f %%)", 100 * v[i].share);
    }
    kd_buf_puts(&r->page, k ? ".</p>\n" : "none.</p>\n");
    free(v);
    return KD_OK;
}

kd_status put_confusion(report *r, kd_err *err)
{
    const json_t *m[MATRICES];
    const size_t n = models(r, m, MATRICES);
    kd_status st = KD_OK;
    html_section(r, "confusion", "Confusion",
                 "Of the rows with a label (line), the share in per cent that is given a class (column); "
                 "shares under one half are "
                 "left blank.");
    kd_buf_puts(&r->page, "<div class=grid>\n");
    for (size_t i = 0; i < n && !st; i++) {
        const json_t *matrix = json_object_get(m[i], "confusion");
        const size_t classes = json_array_size(matrix);
        if (!classes) continue;
        kd_buf_puts(&r->page, "<div><h3>");
        html_text(&r->page, model_name(r, m[i]));
        kd_buf_puts(&r->page, "</h3>\n");
        if (classes <= MATRIX) {
            html_table(r, "Confusion matrix", "confusion");
            put_matrix(r, matrix, classes);
            html_table_end(r);
        }
        st = put_pairs(r, matrix, classes, err);
        kd_buf_puts(&r->page, "</div>\n");
    }
    kd_buf_puts(&r->page, "</div>\n");
    return st;
}
