/* cost.c - what the cache cost and spared, and how everything came about. */
#include "report_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JSON_LIMIT (16u << 20)

/* provenance.json of a run; NULL: not there. New reference. */
static json_t *provenance(const report *r, const char *folder)
{
    char *there = locate(r, folder), *path = there ? kd_path_join(there, "provenance.json") : NULL;
    json_t *o = NULL;
    if (path && kd_json_load(path, JSON_LIMIT, &o, NULL)) o = NULL;
    free(path);
    free(there);
    return o;
}

cache_cost cost_of(const report *r)
{
    const json_t *teacher = json_object_get(r->results, "teacher"), *s, *f;
    cache_cost c = {.pass_s = num(json_object_get(r->results, "cost"), "teacher_pass_s"), .epoch_rows = NAN};
    double all = num(teacher, "seconds_rows");
    size_t i, k;
    if (!isfinite(all)) all = num(json_object_get(r->results, "store"), "rows");
    c.row_s = c.pass_s / all;
    json_array_foreach(json_object_get(r->results, "students"), i, s)
    {
        if (strcmp(str(s, "role"), "distilled")) continue;
        json_array_foreach(json_object_get(s, "folders"), k, f)
        {
            json_t *o = provenance(r, json_string_value(f) ? json_string_value(f) : "");
            const double rows = num(json_object_get(o, "contract"), "rows"), epochs = num(o, "epochs");
            if (isfinite(rows * epochs)) c.rows += rows * epochs, c.epoch_rows = rows;
            json_decref(o);
        }
    }
    return c;
}

static void put_fact(report *r, const char *what, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void put_fact(report *r, const char *what, const char *format, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (!*text) return;
    kd_buf_printf(&r->page, "<tr><th scope=row>%s</th><td>", what);
    html_text(&r->page, text);
    kd_buf_puts(&r->page, "</td></tr>\n");
}

kd_status put_cost(report *r, kd_err *err)
{
    (void)err;
    const cache_cost c = cost_of(r);
    char v[40], w[40];
    html_section(r, "cost", "What the cache cost and spared", NULL);
    html_table(r, "Cost of the cache", "text");
    kd_buf_puts(&r->page, "<tbody>\n");
    put_fact(r, "Store", "%s", number(v, num(json_object_get(r->results, "store"), "bytes"), AS_BYTES));
    put_fact(r, "The teacher's pass, once", "%s", number(v, c.pass_s, AS_SECONDS));
    put_fact(r, "Training, all runs", "%s",
             number(v, num(json_object_get(r->results, "cost"), "train_s"), AS_SECONDS));
    if (isfinite(c.row_s) && c.rows > 0) {
        put_fact(r, "A teacher beside the students", "would have run over %s rows in %s",
                 number(v, c.rows, AS_COUNT), number(w, c.rows * c.row_s, AS_SECONDS));
        put_fact(r, "Paid for", "after %.1f epochs of one student (of %s rows); here were %.0f",
                 c.pass_s / (c.row_s * c.epoch_rows), number(v, c.epoch_rows, AS_COUNT),
                 c.rows / c.epoch_rows);
    }
    html_table_end(r);
    return KD_OK;
}

/* ---- provenance ---------------------------------------------------------------------------------- */

static void put_student_facts(report *r, const json_t *s)
{
    const json_t *f = json_array_get(json_object_get(s, "folders"), 0);
    json_t *o = provenance(r, json_string_value(f) ? json_string_value(f) : "");
    kd_buf seeds = {0};
    const json_t *e;
    size_t i;
    json_array_foreach(json_object_get(s, "seeds"), i, e)
        kd_buf_printf(&seeds, "%s%lld", i ? ", " : "", (long long)json_integer_value(e));
    kd_buf_puts(&r->page, "<tr class=group><th scope=rowgroup colspan=2>");
    html_text(&r->page, model_name(r, s));
    kd_buf_puts(&r->page, "</th></tr>\n");
    put_fact(r, "Seeds", "%s", seeds.text ? seeds.text : "");
    put_fact(r, "Folder", "%s", json_string_value(f) ? json_string_value(f) : "");
    put_fact(r, "Loss", "%s", str(o, "formula"));
    put_fact(r, "Weights", "%s", str(o, "weight_hash"));
    put_fact(r, "Command", "%s", str(o, "command"));
    kd_buf_release(&seeds);
    json_decref(o);
}

kd_status put_provenance(report *r, kd_err *err)
{
    (void)err;
    const json_t *p = json_object_get(r->results, "provenance"), *t = json_object_get(r->results, "teacher"),
                 *store = json_object_get(r->results, "store"), *s;
    char v[40];
    size_t i;
    html_section(r, "provenance", "Provenance", "How to get these figures again.");
    html_table(r, "Provenance", "text");
    kd_buf_puts(&r->page, "<tbody>\n");
    put_fact(r, "Measured by", "%s", str(p, "command"));
    put_fact(r, "On", "%s", str(p, "date"));
    put_fact(r, "kd", "%s, %s", str(p, "kd"), str(p, "build"));
    put_fact(r, "Machine", "%s, %s, %s", str(p, "cpu"), str(p, "isa"), str(p, "backend"));
    put_fact(r, "Store", "%s: %s rows, root %s", str(store, "path"), number(v, num(store, "rows"), AS_COUNT),
             str(store, "root"));
    if (json_is_object(t)) {
        put_fact(r, "Teacher", "%s, fingerprint %s", model_name(r, t), str(t, "fingerprint"));
        put_fact(r, "Its pass", "%s", str(t, "command"));
    }
    json_array_foreach(json_object_get(r->results, "students"), i, s) put_student_facts(r, s);
    html_table_end(r);
    return KD_OK;
}
