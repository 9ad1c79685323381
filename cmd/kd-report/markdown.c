/* markdown.c - the report as Markdown: for pull requests, release notes and terminals. */
#include "report_cmd.h"

#include <math.h>
#include <string.h>

#define MODELS 64

/* What Markdown or the HTML in it would take for its own is escaped; a line stays a line. */
static void md_text(kd_buf *b, const char *s)
{
    for (; *s; s++) {
        if (strchr("\\`*_{}[]()#+!|<>~&", *s)) kd_buf_puts(b, "\\");
        if ((unsigned char)*s < 0x20)
            kd_buf_puts(b, " ");
        else
            kd_buf_append(b, s, 1);
    }
}

static void put_table(report *r, const json_t **m, size_t n)
{
    kd_buf *b = &r->page;
    char v[40];
    kd_buf_puts(b, "| |");
    for (size_t i = 0; i < n; i++) {
        kd_buf_puts(b, " ");
        md_text(b, model_name(r, m[i]));
        kd_buf_puts(b, m[i] == json_object_get(r->results, "teacher") ? " (teacher) |" : " |");
    }
    kd_buf_puts(b, "\n|---|");
    for (size_t i = 0; i < n; i++) kd_buf_puts(b, "---:|");
    kd_buf_puts(b, "\n");
    for (size_t k = 0; k < report_measures_n; k++) {
        const measure *e = &report_measures[k];
        bool any = false;
        for (size_t i = 0; i < n; i++) any |= isfinite(num(m[i], e->key));
        if (!any) continue;
        kd_buf_printf(b, "| %s |", e->label);
        for (size_t i = 0; i < n; i++) kd_buf_printf(b, " %s |", number(v, num(m[i], e->key), e->as));
        kd_buf_puts(b, "\n");
    }
}

static void put_verdicts(report *r)
{
    const json_t *s;
    char v[40];
    size_t i;
    json_array_foreach(json_object_get(r->results, "students"), i, s)
    {
        if (isfinite(num(s, "kl_gain"))) {
            kd_buf_puts(&r->page, "- ");
            md_text(&r->page, model_name(r, s));
            kd_buf_printf(&r->page,
                          ": %s nats of KL less by the teacher: ", number(v, num(s, "kl_gain"), AS_REAL));
            md_text(&r->page, str(s, "verdict"));
            kd_buf_puts(&r->page, "\n");
        }
        if (!isfinite(num(s, "accuracy_gain"))) continue;
        kd_buf_puts(&r->page, "- ");
        md_text(&r->page, model_name(r, s));
        kd_buf_printf(&r->page, ": %s points by the teacher", number(v, num(s, "accuracy_gain"), AS_POINTS));
        if (isfinite(num(s, "p_value"))) kd_buf_printf(&r->page, " (p %.3f)", num(s, "p_value"));
        kd_buf_puts(&r->page, ": ");
        md_text(&r->page, str(s, "verdict"));
        kd_buf_puts(&r->page, "\n");
    }
    kd_buf_puts(&r->page, "\n");
}

kd_status put_markdown(report *r, kd_err *err)
{
    (void)err;
    const json_t *m[MODELS], *p = json_object_get(r->results, "provenance");
    const size_t n = models(r, m, MODELS);
    const cache_cost c = cost_of(r);
    char v[40], w[40];
    kd_buf_puts(&r->page, "## ");
    md_text(&r->page, r->o->title ? r->o->title : str(r->results, "pipeline"));
    kd_buf_printf(&r->page, "\n\n%s %s rows.\n\n", number(v, num(r->results, "rows"), AS_COUNT),
                  str(r->results, "split"));
    put_verdicts(r);
    put_table(r, m, n);
    kd_buf_puts(&r->page, "\n");
    if (isfinite(c.row_s) && c.rows > 0)
        kd_buf_printf(&r->page, "The teacher ran once, %s; beside the students it would have taken %s.\n\n",
                      number(v, c.pass_s, AS_SECONDS), number(w, c.rows * c.row_s, AS_SECONDS));
    kd_buf_puts(&r->page, "Measured by `");
    for (const char *s = str(p, "command"); *s; s++)
        if (*s != '`' && (unsigned char)*s >= 0x20) kd_buf_append(&r->page, s, 1);
    kd_buf_puts(&r->page, "`, ");
    md_text(&r->page, str(p, "date"));
    kd_buf_puts(&r->page, "\n\n");
    return KD_OK;
}
