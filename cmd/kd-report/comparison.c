/* comparison.c - teacher against students: the verdict in a few words, then every measure in one table.
 *
 * Models are columns and measures are rows: people compare along a line, there are few models, and a phone
 * shows it.
 */
#include "report_cmd.h"

#include <math.h>
#include <string.h>

#define MODELS 64

const measure report_measures[] = {
    {"Quality", "accuracy", "accuracy", AS_SHARE, 1},
    {"Quality", "top3", "label among the 3 largest", AS_SHARE, 1},
    {"Quality", "top5", "label among the 5 largest", AS_SHARE, 1},
    {"Quality", "macro_f1", "macro F1", AS_SHARE, 1},
    {"Quality", "loss", "log-loss, nats", AS_REAL, -1},
    {"Quality", "perplexity", "perplexity", AS_REAL, -1},
    {"Quality", "ece", "calibration error (ECE)", AS_SHARE, -1},
    {"Against the teacher", "agreement", "same answer", AS_SHARE, 1},
    {"Against the teacher", "kl", "KL, nats", AS_REAL, -1},
    {"Against the teacher", "kl_error", "its standard error", AS_REAL, 0},
    {"Against the teacher", "kl_p50", "KL, median", AS_REAL, -1},
    {"Against the teacher", "kl_p90", "KL, 90 % of the rows or tokens", AS_REAL, -1},
    {"Against the teacher", "kl_p95", "KL, 95 %", AS_REAL, -1},
    {"Against the teacher", "kl_p99", "KL, 99 %", AS_REAL, -1},
    {"Against the teacher", "kl_p999", "KL, 99.9 %", AS_REAL, -1},
    {"Against the teacher", "kl_max", "KL, largest", AS_REAL, -1},
    {"Against the teacher", "kl_least", "KL, at least", AS_REAL, -1},
    {"Against the teacher", "cross_entropy", "cross-entropy to it, nats", AS_REAL, -1},
    {"Against the teacher", "ppl_ratio", "perplexity by its own", AS_REAL, -1},
    {"Against the teacher", "rms_dp", "RMS Δp of the right token", AS_SHARE, -1},
    {"Against the teacher", "copied_mistakes", "its mistakes copied", AS_SHARE, -1},
    {"Against the teacher", "mended_mistakes", "its mistakes mended", AS_SHARE, 1},
    {"Against the teacher", "new_mistakes", "new mistakes", AS_SHARE, -1},
    {"Size", "params", "parameters", AS_COUNT, -1},
    {"Size", "file_bytes", "file", AS_BYTES, -1},
    {"Size", "memory_bytes", "memory, one row", AS_BYTES, -1},
    {"Size", "macs", "multiply-adds a row", AS_ROUGH, -1},
    {"Speed", "latency_us", "one row, median", AS_US, -1},
    {"Speed", "latency_p99_us", "one row, 99th percentile", AS_US, -1},
    {"Speed", "throughput_rows_s", "rows, in batches", AS_RATE, 1},
    {"Speed", "tokens_s", "tokens written a second", AS_RATE, 1},
    {"Texts", "distinct1", "distinct-1", AS_REAL, 1},
    {"Texts", "distinct2", "distinct-2", AS_REAL, 1},
    {"Texts", "distinct3", "distinct-3", AS_REAL, 1},
    {"Texts", "repetition", "tokens that repeat", AS_SHARE, -1},
    {"Training", "train_s", "seconds a run", AS_SECONDS, 0},
};
const size_t report_measures_n = KD_COUNT(report_measures);

/* ---- summary ------------------------------------------------------------------------------------ */

static void put_gain(report *r, const json_t *s)
{
    kd_buf *b = &r->page;
    char gain[40], p[16];
    const double pv = num(s, "p_value");
    const char *verdict = str(s, "verdict");
    if (!isfinite(num(s, "accuracy_gain"))) return;
    number(gain, num(s, "accuracy_gain"), AS_POINTS);
    if (isfinite(pv))
        snprintf(p, sizeof p, pv < 0.001 ? "p < 0.001" : "p = %.3f", pv);
    else
        snprintf(p, sizeof p, "one seed");
    const char *kind = !strcmp(verdict, "helped") ? "good" : !strcmp(verdict, "hurt") ? "bad" : "lead";
    kd_buf_printf(b, "<p class=%s>%s: %s points against the same student without it, %s.</p>\n", kind,
                  !strcmp(kind, "good")  ? "The teacher helped"
                  : !strcmp(kind, "bad") ? "The teacher hurt"
                                         : "The teacher made no sure difference",
                  gain, p);
}

/* A language model: its KL, else its perplexity, and what the control says. */
static void put_language_card(report *r, const json_t *s)
{
    kd_buf *b = &r->page;
    char v[40];
    const bool kl = isfinite(num(s, "kl"));
    const double gain = isfinite(num(s, "kl_gain")) ? num(s, "kl_gain") : num(s, "loss_gain");
    kd_buf_puts(b, "<article class=card><h3>");
    html_text(b, model_name(r, s));
    kd_buf_printf(b, "</h3><p class=big>%s</p><p>%s", number(v, num(s, kl ? "kl" : "perplexity"), AS_REAL),
                  kl ? "nats of KL to the teacher" : "perplexity");
    if (kl) kd_buf_printf(b, ", perplexity %s", number(v, num(s, "perplexity"), AS_REAL));
    kd_buf_puts(b, "</p>\n");
    if (isfinite(gain)) {
        kd_buf_printf(b, "<p>Against the same student without the teacher: %s nats %s, ",
                      number(v, fabs(gain), AS_REAL), gain > 0 ? "less" : "more");
        html_text(b, str(s, "verdict"));
        if (isfinite(num(s, "p_value"))) kd_buf_printf(b, " (p %.3f)", num(s, "p_value"));
        kd_buf_puts(b, ".</p>\n");
    }
    kd_buf_puts(b, "</article>\n");
}

static void put_card(report *r, const json_t *s, const json_t *teacher)
{
    if (is_language(r)) {
        put_language_card(r, s);
        return;
    }
    kd_buf *b = &r->page;
    char v[40];
    const double times = num(teacher, "params") / num(s, "params"),
                 below = num(s, "accuracy") - num(teacher, "accuracy");
    kd_buf_puts(b, "<article class=card><h3>");
    html_text(b, model_name(r, s));
    kd_buf_printf(b, "</h3><p class=big>%s</p><p>", number(v, num(s, "accuracy"), AS_SHARE));
    if (isfinite(below))
        kd_buf_printf(b, "%.2f points %s the teacher (%s)", fabs(100 * below), below < 0 ? "below" : "above",
                      number(v, num(teacher, "accuracy"), AS_SHARE));
    if (isfinite(times))
        kd_buf_printf(b, "%s%.*f times %s", isfinite(below) ? ", " : "", times >= 10 || times <= 0.1 ? 0 : 1,
                      times >= 1 ? times : 1 / times, times >= 1 ? "smaller" : "larger");
    kd_buf_puts(b, "</p>\n");
    put_gain(r, s);
    kd_buf_puts(b, "</article>\n");
}

/* Of any measure: 0.8542, 52.14, 98,408. */
static const char *figure(char *buf, double v)
{
    if (fabs(v) >= 1e4) return number(buf, v, AS_COUNT);
    snprintf(buf, 40, "%.4g", v);
    return buf;
}

/* What kd-eval's gates said: the verdict, then a line each, those that failed first. */
static void put_gates(report *r)
{
    const json_t *g = json_object_get(r->results, "gates"), *list = json_object_get(g, "list"), *e;
    const bool passed = json_is_true(json_object_get(g, "passed"));
    kd_buf *b = &r->page;
    size_t i;
    if (!json_array_size(list)) {
        kd_buf_puts(b, "<p class=note>Nothing was demanded of these students (kd-eval --gates).</p>\n");
        return;
    }
    if (passed)
        kd_buf_printf(b, "<p class=\"verdict good\">Passed: all %zu gates", json_array_size(list));
    else
        kd_buf_printf(b, "<p class=\"verdict bad\">Not passed: %.0f of %zu gates failed", num(g, "failed"),
                      json_array_size(list));
    kd_buf_puts(b, " <small>");
    html_text(b, str(g, "file"));
    kd_buf_puts(b, "</small></p>\n<ul class=gates>\n");
    for (int good = 0; good < 2; good++) json_array_foreach(list, i, e)
        {
            if (json_is_true(json_object_get(e, "passed")) != good) continue;
            kd_buf_printf(b, "<li><b class=%s>%s</b> ", good ? "good" : "bad", good ? "passed" : "failed");
            html_text(b, str(e, "student"));
            kd_buf_puts(b, ": ");
            html_text(b, str(e, "gate"));
            kd_buf_puts(b, " <small>");
            html_text(b, str(e, "where"));
            char value[40], limit[40];
            if (isfinite(num(e, "value")))
                kd_buf_printf(b, " %s, limit %s", figure(value, num(e, "value")),
                              figure(limit, num(e, "limit")));
            kd_buf_puts(b, " ");
            html_text(b, str(e, "why"));
            kd_buf_puts(b, "</small></li>\n");
        }
    kd_buf_puts(b, "</ul>\n");
}

kd_status put_summary(report *r, kd_err *err)
{
    (void)err;
    kd_buf *b = &r->page;
    const json_t *teacher = json_object_get(r->results, "teacher"), *s;
    size_t i;
    put_gates(r);
    kd_buf_puts(b, "<div class=cards>\n");
    json_array_foreach(json_object_get(r->results, "students"), i, s)
    {
        if (!json_is_true(json_object_get(s, "is_teacher"))) put_card(r, s, teacher);
    }
    kd_buf_puts(b, "</div>\n");
    return KD_OK;
}

/* ---- the table ---------------------------------------------------------------------------------- */

static void put_heads(report *r, const json_t **m, size_t n)
{
    kd_buf *b = &r->page;
    kd_buf_puts(b, "<thead><tr><th scope=col><span></span></th>");
    for (size_t i = 0; i < n; i++) {
        kd_buf_puts(b, "<th scope=col>");
        html_text(b, model_name(r, m[i]));
        if (m[i] == json_object_get(r->results, "teacher") && strcmp(model_name(r, m[i]), "teacher"))
            kd_buf_puts(b, "<small>teacher</small>");
        kd_buf_puts(b, "</th>");
    }
    kd_buf_puts(b, "</tr></thead><tbody>\n");
}

/* The best student's value, where one is better and not all are alike. */
static double best_of(const report *r, const measure *k, const json_t **m, size_t n)
{
    double best = NAN, worst = NAN;
    for (size_t i = 0; i < n; i++) {
        const double v = num(m[i], k->key);
        if (m[i] == json_object_get(r->results, "teacher") || !isfinite(v) || !k->better) continue;
        if (!isfinite(best) || (v - best) * k->better > 0) best = v;
        if (!isfinite(worst) || (v - worst) * k->better < 0) worst = v;
    }
    return best != worst ? best : NAN;
}

static void put_cell(report *r, const measure *k, const json_t *m, bool best)
{
    char v[40], low[40], high[40], key[64];
    kd_buf_printf(&r->page, "<td%s>%s", best ? " class=best" : "", number(v, num(m, k->key), k->as));
    snprintf(key, sizeof key, "%s_low", k->key);
    const double lo = num(m, key);
    snprintf(key, sizeof key, "%s_high", k->key);
    if (isfinite(lo) && k->as == AS_SHARE)
        kd_buf_printf(&r->page, "<small>%.2f–%.2f</small>", 100 * lo, 100 * num(m, key));
    else if (isfinite(lo))
        kd_buf_printf(&r->page, "<small>%s–%s</small>", number(low, lo, k->as),
                      number(high, num(m, key), k->as));
    kd_buf_puts(&r->page, "</td>");
}

static void put_row(report *r, const measure *k, const json_t **m, size_t n)
{
    const double best = best_of(r, k, m, n);
    kd_buf_printf(&r->page, "<tr><th scope=row>%s</th>", k->label);
    for (size_t i = 0; i < n; i++)
        put_cell(r, k, m[i], m[i] != json_object_get(r->results, "teacher") && num(m[i], k->key) == best);
    kd_buf_puts(&r->page, "</tr>\n");
}

/* The same student without the teacher, and what a test says of the difference. */
static void put_plain(report *r, const json_t **m, size_t n)
{
    kd_buf *b = &r->page;
    char v[40];
    kd_buf_puts(b, "<tr><th scope=row>without the teacher, ± sd</th>");
    for (size_t i = 0; i < n; i++) {
        double sd;
        const double mean = mean_of(json_object_get(json_object_get(m[i], "plain"), "accuracy"), &sd);
        kd_buf_printf(b, "<td>%s", number(v, mean, AS_SHARE));
        if (isfinite(sd)) kd_buf_printf(b, "<small>± %.2f</small>", 100 * sd);
        kd_buf_puts(b, "</td>");
    }
    kd_buf_puts(b, "</tr>\n<tr><th scope=row>gain by the teacher</th>");
    for (size_t i = 0; i < n; i++) {
        kd_buf_printf(b, "<td>%s", number(v, num(m[i], "accuracy_gain"), AS_POINTS));
        if (isfinite(num(m[i], "p_value"))) kd_buf_printf(b, "<small>p %.3f</small>", num(m[i], "p_value"));
        kd_buf_puts(b, "</td>");
    }
    kd_buf_puts(b, "</tr>\n");
}

static bool anybody_has(const char *key, const json_t **m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (json_object_get(m[i], key)) return true;
    return false;
}

static void put_left_out(report *r)
{
    const json_t *e;
    size_t i;
    json_array_foreach(json_object_get(r->results, "left_out"), i, e)
    {
        kd_buf_puts(&r->page, "<p class=note>Left out: ");
        html_text(&r->page, str(e, "why"));
        kd_buf_puts(&r->page, "</p>\n");
    }
}

kd_status put_comparison(report *r, kd_err *err)
{
    (void)err;
    const json_t *m[MODELS];
    const size_t n = models(r, m, MODELS);
    const char *group = "";
    html_section(
        r, "comparison", "Teacher and students",
        "Means over the seeds on rows that no model was trained on, with 95 % bounds where they are known. "
        "The best student of a row is bold.");
    html_table(r, "Teacher and students, every measure", "wide");
    put_heads(r, m, n);
    for (size_t i = 0; i < report_measures_n; i++) {
        const measure *k = &report_measures[i];
        if (!anybody_has(k->key, m, n)) continue;
        if (strcmp(group, k->group))
            kd_buf_printf(&r->page, "<tr class=group><th scope=rowgroup colspan=%zu>%s</th></tr>\n", n + 1,
                          k->group);
        group = k->group;
        put_row(r, k, m, n);
        if (!strcmp(k->key, "ece") && !is_language(r) && anybody_has("plain", m, n)) put_plain(r, m, n);
    }
    html_table_end(r);
    put_left_out(r);
    return KD_OK;
}
