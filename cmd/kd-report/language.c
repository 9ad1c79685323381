/* language.c - language models: size against KL, and where along the positions a student leaves its teacher.
 *
 * The measures themselves are rows of the comparison. Both plots are of KL, of which 0 is the teacher; where
 * it is not known (sparse logits, no teacher) there is none.
 */
#include "report_cmd.h"

#include <math.h>
#include <string.h>

#define MODELS 64

/* Students with a KL above 0, the least and the largest of these. */
static size_t with_kl(const report *r, const char *key, const json_t **m, double *least, double *most)
{
    const json_t *all[MODELS];
    const size_t n = models(r, all, MODELS);
    size_t k = 0;
    *least = INFINITY, *most = 0;
    for (size_t i = 0; i < n; i++) {
        const double v = num(all[i], key);
        if (!(v > 0)) continue;
        m[k++] = all[i];
        *least = fmin(*least, v), *most = fmax(*most, v);
    }
    return k;
}

static kd_status put_size(report *r, kd_err *err)
{
    const json_t *m[MODELS];
    double least, most, from = INFINITY, to = 0;
    const size_t n = with_kl(r, "kl", m, &least, &most);
    kd_buf about = {0};
    plot p;
    if (!n) return KD_OK;
    plot_begin(&p, 480, 330, "parameters", "KL to the teacher, nats");
    kd_buf_puts(&p.script, "$main << EOD\n");
    for (size_t i = 0; i < n; i++) {
        const double size = num(m[i], "params");
        from = fmin(from, size / 2), to = fmax(to, size * 2);
        kd_buf_printf(&p.script, "%.9g %.9g\n", size, num(m[i], "kl"));
        kd_buf_printf(&about, "%s%s: %.4g, %.3g nats", i ? "; " : "", model_name(r, m[i]), size,
                      num(m[i], "kl"));
    }
    kd_buf_puts(&p.script, "EOD\n$plain << EOD\n");
    for (size_t i = 0; i < n; i++) {
        const double plain = mean_of(json_object_get(json_object_get(m[i], "plain"), "kl"), NULL);
        if (plain > 0)
            kd_buf_printf(&p.script, "%.9g %.9g\n", num(m[i], "params"), plain), most = fmax(most, plain);
    }
    kd_buf_printf(&p.script, "EOD\nset logscale xy\nset xrange [%.9g:%.9g]\nset yrange [%.9g:%.9g]\n", from,
                  to, least / 1.5, most * 2);
    for (size_t i = 0; i < n; i++) {
        kd_buf_puts(&p.script, "set label '");
        plot_label(&p, model_name(r, m[i]));
        kd_buf_printf(&p.script, "' at %.9g,%.9g center front offset 0,-0.9 textcolor " INK_MAIN "\n",
                      num(m[i], "params"), num(m[i], "kl"));
    }
    kd_buf_puts(&p.script, "plot $plain with points pt 7 ps 0.5 lc " INK_PLAIN
                           ", $main with points pt 7 ps 0.7 lc " INK_MAIN "\n");
    kd_status st = plot_end(r, &p, "KL against size", about.text ? about.text : "", err);
    kd_buf_release(&about);
    return st;
}

static const struct {
    const char *key, *name;
} places[] = {{"kl_p50", "50"}, {"kl_p90", "90"},    {"kl_p95", "95"},
              {"kl_p99", "99"}, {"kl_p999", "99.9"}, {"kl_max", "100"}};

static kd_status put_places(report *r, kd_err *err)
{
    const json_t *m[MODELS];
    double least, most;
    const size_t n = with_kl(r, "kl_p50", m, &least, &most);
    kd_buf about = {0};
    plot p;
    if (!n) return KD_OK;
    plot_begin(&p, 480, 330, "% of the positions", "KL at most, nats");
    kd_buf_puts(&p.script, "set logscale y\nset xrange [-0.3:5.3]\nset xtics (");
    for (size_t k = 0; k < KD_COUNT(places); k++)
        kd_buf_printf(&p.script, "%s'%s' %zu", k ? ", " : "", places[k].name, k);
    kd_buf_puts(&p.script, ")\n");
    for (size_t i = 0; i < n; i++) {
        kd_buf_printf(&p.script, "$m%zu << EOD\n", i);
        kd_buf_printf(&about, "%s%s:", i ? "; " : "", model_name(r, m[i]));
        for (size_t k = 0; k < KD_COUNT(places); k++) {
            const double v = num(m[i], places[k].key);
            if (v > 0) kd_buf_printf(&p.script, "%zu %.9g\n", k, v);
            kd_buf_printf(&about, " %s %.3g", places[k].name, v);
        }
        kd_buf_puts(&p.script, "EOD\nset label '");
        plot_label(&p, model_name(r, m[i]));
        kd_buf_printf(&p.script, "' at 0,%.9g left front offset 0.5,0.4 textcolor " INK_MAIN "\n",
                      num(m[i], "kl_p50"));
    }
    for (size_t i = 0; i < n; i++)
        kd_buf_printf(&p.script, "%s$m%zu with linespoints pt 7 ps 0.5 lc " INK_MAIN, i ? ", " : "plot ", i);
    kd_buf_puts(&p.script, "\n");
    kd_status st = plot_end(r, &p, "KL along the positions", about.text ? about.text : "", err);
    kd_buf_release(&about);
    return st;
}

bool is_language(const report *r) { return !strcmp(str(r->results, "kind"), "language"); }

kd_status put_language(report *r, kd_err *err)
{
    const json_t *m[MODELS];
    double least, most;
    if (!with_kl(r, "kl", m, &least, &most)) return KD_OK;
    html_section(
        r, "language", "How far from the teacher",
        "KL(teacher, student) of the next token; lower is better, and 0 is the teacher. Grey: the same "
        "student without the teacher. The mean hides much: most positions are easy, a few are far off.");
    kd_buf_puts(&r->page, "<div class=grid>\n");
    kd_status st = put_size(r, err);
    if (!st) st = put_places(r, err);
    kd_buf_puts(&r->page, "</div>\n");
    return st;
}
