/* plots.c - the plots: what a student costs against what it is worth, how it was trained, whether its
 * confidence can be believed.
 */
#include "report_cmd.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODELS      64
#define CURVES      12 /* students with a plot of their own */
#define LINES_LIMIT (64u << 20)

/* "10, 20, 50, 100, ..." as tics of a logarithmic axis. */
static void log_tics(plot *p, double from, double to)
{
    const char *comma = "";
    kd_buf_puts(&p->script, "set xtics (");
    for (double d = pow(10, floor(log10(from))); d <= to; d *= 10)
        for (int k = 1; k <= 5; k += k < 2 ? 1 : 3) {
            if (d * k < from || d * k > to || (to / from > 500 && k > 1)) continue;
            const char *unit = d * k >= 1e6 ? " M" : d * k >= 1e3 ? " k" : "";
            kd_buf_printf(&p->script, "%s'%g%s' %.9g", comma,
                          d * k / (*unit == ' ' ? unit[1] == 'M' ? 1e6 : 1e3 : 1), unit, d * k);
            comma = ", ";
        }
    kd_buf_puts(&p->script, ")\n");
}

/* ---- size, quality, latency ------------------------------------------------------------------------ */

typedef struct spot {
    const json_t *model;
    double x, y, low, high, plain;
} spot;

static int by_x(const void *a, const void *b)
{
    const spot *p = a, *q = b;
    return (p->x > q->x) - (p->x < q->x);
}

static size_t take_spots(const report *r, const char *key, spot *v)
{
    const json_t *m[MODELS];
    const size_t n = models(r, m, MODELS);
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        spot s = {.model = m[i],
                  .x = num(m[i], key),
                  .y = 100 * num(m[i], "accuracy"),
                  .low = 100 * num(m[i], "accuracy_low"),
                  .high = 100 * num(m[i], "accuracy_high"),
                  .plain = 100 * mean_of(json_object_get(json_object_get(m[i], "plain"), "accuracy"), NULL)};
        if (!(s.x > 0) || !isfinite(s.y)) continue;
        if (!isfinite(s.low) || !isfinite(s.high)) s.low = s.high = s.y;
        v[k++] = s;
    }
    qsort(v, k, sizeof *v, by_x);
    return k;
}

/* Whether a name above point a would meet the higher point b. */
static bool in_the_way(const spot *a, const spot *b, double range_x, double range_y)
{
    return fabs(log(b->x / a->x)) < 0.35 * range_x && b->y >= a->y && b->y - a->y < 0.2 * range_y;
}

/* Names above their points, below where a neighbour is in the way. */
static void put_names(plot *p, const report *r, const spot *v, size_t n, double range_x, double range_y)
{
    const json_t *teacher = json_object_get(r->results, "teacher");
    for (size_t i = 0; i < n; i++) {
        const bool below = (i > 0 && in_the_way(&v[i], &v[i - 1], range_x, range_y)) ||
                           (i + 1 < n && in_the_way(&v[i], &v[i + 1], range_x, range_y));
        kd_buf_printf(&p->script, "set label '");
        plot_label(p, model_name(r, v[i].model));
        kd_buf_printf(&p->script, "' at %.9g,%.9g center front offset 0,%s textcolor %s\n", v[i].x,
                      below ? v[i].low : v[i].high, below ? "-0.9" : "0.8",
                      v[i].model == teacher ? INK_TEACHER : INK_MAIN);
    }
}

static void put_spots(plot *p, const report *r, const spot *v, size_t n)
{
    const json_t *teacher = json_object_get(r->results, "teacher");
    double best = -INFINITY;
    for (int kind = 0; kind < 4; kind++) {
        static const char *const name[] = {"front", "plain", "main", "teacher"};
        kd_buf_printf(&p->script, "$%s << EOD\n", name[kind]);
        for (size_t i = 0; i < n; i++) {
            const bool is_teacher = v[i].model == teacher;
            if (kind == 0 && !is_teacher && v[i].y > best)
                kd_buf_printf(&p->script, "%.9g %.9g\n", v[i].x, best = v[i].y);
            if (kind == 1 && isfinite(v[i].plain))
                kd_buf_printf(&p->script, "%.9g %.9g\n", v[i].x, v[i].plain);
            if (kind >= 2 && is_teacher == (kind == 3))
                kd_buf_printf(&p->script, "%.9g %.9g %.9g %.9g\n", v[i].x, v[i].y, v[i].low, v[i].high);
        }
        kd_buf_puts(&p->script, "EOD\n");
    }
    kd_buf_puts(&p->script, "plot $front using 1:2 with steps lw 1 dt 2 lc " INK_MAIN
                ", $plain using ($1/1.14):2:($1*1.14-$1/1.14):(0) with vectors nohead lw 2 lc " INK_PLAIN
                            ", $main using 1:2:3:4 with yerrorbars pt 7 ps 0.6 lw 1.5 lc " INK_MAIN
                            ", $teacher using 1:2:3:4 with yerrorbars pt 7 ps 0.6 lw 1.5 lc " INK_TEACHER "\n");
}

static kd_status put_tradeoff(report *r, const char *key, const char *axis, const char *what, kd_err *err)
{
    spot v[MODELS];
    const size_t n = take_spots(r, key, v);
    const double teacher = 100 * num(json_object_get(r->results, "teacher"), "accuracy");
    double lo = isfinite(teacher) ? teacher : INFINITY, hi = isfinite(teacher) ? teacher : -INFINITY;
    plot p;
    char title[128];
    kd_buf about = {0};
    if (!n) return KD_OK;
    plot_begin(&p, 480, 330, axis, "accuracy, %");
    for (size_t i = 0; i < n; i++) {
        lo = fmin(lo, isfinite(v[i].plain) ? fmin(v[i].low, v[i].plain) : v[i].low);
        hi = fmax(hi, v[i].high);
        kd_buf_printf(&about, "%s%s: %.3g, %.2f %%", i ? "; " : "", model_name(r, v[i].model), v[i].x,
                      v[i].y);
    }
    const double from = v[0].x / 2, to = v[n - 1].x * 2, pad = fmax(0.12 * (hi - lo), 0.05);
    kd_buf_printf(&p.script, "set logscale x\nset xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n", from, to,
                  lo - pad, hi + 1.5 * pad);
    log_tics(&p, from, to);
    if (isfinite(teacher))
        kd_buf_printf(
            &p.script,
            "set arrow from graph 0, first %.9g to graph 1, first %.9g nohead lw 1 dt 3 lc " INK_TEACHER "\n",
            teacher, teacher);
    put_names(&p, r, v, n, log(to / from), hi - lo + 2.5 * pad);
    put_spots(&p, r, v, n);
    snprintf(title, sizeof title, "Accuracy against %s", what);
    kd_status st = plot_end(r, &p, title, about.text ? about.text : "", err);
    kd_buf_release(&about);
    return st;
}

kd_status put_tradeoffs(report *r, kd_err *err)
{
    html_section(r, "tradeoffs", "Size, speed and quality",
                 "Up and to the left is better. The dashed line joins the students that no other one beats "
                 "in both; the dotted "
                 "one is the teacher. Bars are 95 % bounds.");
    kd_buf_puts(
        &r->page,
        "<p class=\"note key\"><span><i></i>with the teacher</span><span><i class=plain></i>without it</span>"
        "<span><i class=teacher></i>the teacher</span></p>\n<div class=grid>\n");
    kd_status st = put_tradeoff(r, "params", "parameters", "size", err);
    if (!st) st = put_tradeoff(r, "latency_us", "one row, median, µs", "time of one row", err);
    kd_buf_puts(&r->page, "</div>\n");
    return st;
}

/* ---- training curves -------------------------------------------------------------------------------- */

/* "epoch accuracy" of a run's lines; how many there were. */
static size_t put_curve(plot *p, const char *folder)
{
    char *path = kd_path_join(folder, "metrics.jsonl"), *text = NULL;
    size_t len, n = 0;
    if (path && !kd_file_read(path, LINES_LIMIT, &text, &len, NULL))
        for (char *at = text, *end; *at; at = end) {
            end = at + strcspn(at, "\n");
            json_t *o = NULL;
            if (!kd_json_parse(&o, at, (size_t)(end - at), NULL) && isfinite(num(o, "valid_accuracy")) && ++n)
                kd_buf_printf(&p->script, "%.9g %.9g\n", num(o, "epoch"), 100 * num(o, "valid_accuracy"));
            json_decref(o);
            end += *end == '\n';
        }
    free(text);
    free(path);
    return n;
}

/* kd-train puts the runs without the teacher beside those with it: NAME/plain/seed-0. free() it. */
static char *plain_folder(const char *folder)
{
    const char *seed = strrchr(folder, '/'), *role = seed;
    while (role && role > folder && *--role != '/') continue;
    return role && role > folder && seed ? kd_sprintf("%.*s/plain%s", (int)(role - folder), folder, seed)
                                         : NULL;
}

/* Blocks of all seeds of a student into data block `name`; how many runs had lines. */
static int put_runs(report *r, plot *p, const json_t *s, bool plain, const char *name)
{
    const json_t *f;
    size_t i;
    int n = 0;
    kd_buf_printf(&p->script, "$%s << EOD\n", name);
    json_array_foreach(json_object_get(s, "folders"), i, f)
    {
        const char *folder = json_string_value(f);
        char *beside = folder && plain ? plain_folder(folder) : NULL;
        char *path = locate(r, plain ? beside ? beside : "" : folder ? folder : "");
        if (path && put_curve(p, path)) n++, kd_buf_puts(&p->script, "\n\n");
        free(path);
        free(beside);
    }
    kd_buf_puts(&p->script, "EOD\n");
    return n;
}

static kd_status put_student_curves(report *r, const json_t *s, int *shown, kd_err *err)
{
    plot p;
    kd_buf title = {0};
    plot_begin(&p, 350, 260, "epoch", "validation accuracy, %");
    const int main_runs = put_runs(r, &p, s, false, "main");
    const int plain_runs = strcmp(str(s, "role"), "distilled") ? 0 : put_runs(r, &p, s, true, "plain");
    kd_status st = KD_OK;
    if (main_runs) {
        if (!(*shown)++) kd_buf_puts(&r->page, "<div class=\"grid thirds\">\n");
        kd_buf_puts(&p.script, "set autoscale xfixmax\nset offsets 0, 0, graph 0.06, graph 0.03\nplot ");
        if (plain_runs)
            kd_buf_puts(&p.script,
                        "$plain using 1:2 with linespoints pt 7 ps 0.15 lw 1.2 lc " INK_PLAIN ", ");
        kd_buf_printf(&p.script, "$main using 1:2 with linespoints pt 7 ps 0.15 lw 1.2 lc %s\n",
                      !strcmp(str(s, "role"), "teacher") ? INK_TEACHER : INK_MAIN);
        kd_buf_printf(&title, "%s: %d run%s", model_name(r, s), main_runs, main_runs == 1 ? "" : "s");
        if (plain_runs) kd_buf_printf(&title, " with the teacher, %d without", plain_runs);
        st = plot_end(r, &p, title.text ? title.text : "", "Validation accuracy by epoch, a line a seed.",
                      err);
    }
    kd_buf_release(&title);
    if (!main_runs) kd_buf_release(&p.script);
    return st;
}

kd_status put_curves(report *r, kd_err *err)
{
    const json_t *s;
    size_t i;
    int shown = 0;
    kd_status st = KD_OK;
    html_section(r, "training", "Training", "Accuracy on the validation rows by epoch, a line a seed.");
    json_array_foreach(json_object_get(r->results, "students"), i, s)
    {
        if (!st && shown < CURVES) st = put_student_curves(r, s, &shown, err);
    }
    kd_buf_puts(&r->page, shown
                              ? "</div>\n"
                              : "<p class=note>The runs' folders with their metrics.jsonl are not where the "
                                "results say.</p>\n");
    return st;
}

/* ---- reliability ------------------------------------------------------------------------------------ */

static kd_status put_diagram(report *r, const json_t *m, kd_err *err)
{
    const json_t *bin, *bins = json_object_get(m, "reliability");
    const bool teacher = m == json_object_get(r->results, "teacher");
    char ece[40];
    double most = 1;
    size_t i;
    plot p;
    kd_buf title = {0};
    if (!json_array_size(bins)) return KD_OK;
    json_array_foreach(bins, i, bin) most = fmax(most, num(bin, "rows"));
    plot_begin(&p, 270, 260, "confidence", "accuracy");
    kd_buf_puts(&p.script,
                "set xrange [0:1]\nset yrange [0:1]\nset xtics 0.5\nset ytics 0.5\n$bins << EOD\n");
    json_array_foreach(bins, i, bin)
    {
        const double x = num(bin, "confidence"), y = num(bin, "accuracy");
        if (isfinite(x) && isfinite(y))
            kd_buf_printf(&p.script, "%.6g %.6g %.4g\n", x, y, 0.2 + 0.9 * sqrt(num(bin, "rows") / most));
    }
    kd_buf_printf(&p.script,
                  "EOD\nplot x with lines lw 1 dt 2 lc " INK_AXIS
                  ", $bins using 1:2 with lines lw 1.5 lc %s, "
                  "$bins using 1:2:3 with points pt 7 ps variable lc %s\n",
                  teacher ? INK_TEACHER : INK_MAIN, teacher ? INK_TEACHER : INK_MAIN);
    kd_buf_printf(&title, "%s: calibration error %s", model_name(r, m), number(ece, num(m, "ece"), AS_SHARE));
    kd_status st = plot_end(
        r, &p, title.text ? title.text : "",
        "Accuracy of the rows of a bin against the mean probability of their top class; on the diagonal the "
        "two are equal.",
        err);
    kd_buf_release(&title);
    return st;
}

kd_status put_reliability(report *r, kd_err *err)
{
    const json_t *m[CURVES + 1];
    const size_t n = models(r, m, CURVES + 1);
    kd_status st = KD_OK;
    html_section(r, "calibration", "Calibration",
                 "How often a model is right when it says how sure it is, in 15 bins; a larger dot is more "
                 "rows. Below the diagonal "
                 "it is too sure of itself, above it too modest.");
    kd_buf_puts(&r->page, "<div class=\"grid quarters\">\n");
    for (size_t i = 0; i < n && !st; i++) st = put_diagram(r, m[i], err);
    kd_buf_puts(&r->page, "</div>\n");
    return st;
}
