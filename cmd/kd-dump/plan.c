/* plan.c - --plan: what each encoding would cost and lose, on a sample of rows. */
#include "dump_cmd.h"

#include <math.h>

/* JSON has no NaN and no infinity: null says that a codec does not serve it, or never. */
static json_t *number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

static json_t *entry_json(const kd_plan_entry *e, uint64_t rows)
{
    char words[256];
    return json_pack("{s:s, s:s, s:f, s:f, s:o, s:o, s:f, s:f, s:o, s:f, s:f, s:f, s:o}", "encoding",
                     e->encoding, "serves", kd_serves_text(e->serves, words, sizeof words), "row_bytes",
                     e->row_bytes, "total_bytes", e->row_bytes * (double)rows, "kl_t1", number(e->kl1),
                     "kl_t4", number(e->kl4), "top1", e->top1, "tail", e->tail, "variance",
                     number(e->variance), "encode_seconds_row", e->encode_s, "decode_seconds_row",
                     e->decode_s, "dump_seconds", e->dump_s, "break_even_students", number(e->students));
}

static kd_status print_json(kd_cli *c, const kd_plan *plan, const kd_teacher *t, const kd_store *s,
                            int64_t epochs, kd_err *err)
{
    json_t *all = json_array();
    for (size_t i = 0; all && i < plan->n; i++)
        json_array_append_new(all, entry_json(&plan->entry[i], plan->rows));
    return kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:f, s:I, s:o, s:o}",
                                       "schema", 1, "tool", c->tool->name, "store", kd_store_path(s),
                                       "teacher", kd_teacher_name(t), "fingerprint",
                                       kd_teacher_fingerprint(t), "rows", (json_int_t)plan->rows, "sampled",
                                       (json_int_t)plan->sampled, "teacher_seconds_row", plan->teacher_s,
                                       "teacher_seconds", plan->teacher_s * (double)plan->rows, "epochs",
                                       (json_int_t)epochs, "encodings", all, "config",
                                       kd_config_json(&c->config)),
                             err);
}

/* "-": not served. */
static void cell(kd_table *t, int digits, double x)
{
    if (isfinite(x))
        kd_table_cell(t, "%.*f", digits, x);
    else
        kd_table_cell(t, "-");
}

static void small_cell(kd_table *t, double x)
{
    if (isfinite(x))
        kd_table_cell(t, "%.2e", x);
    else
        kd_table_cell(t, "-");
}

static void print_table(const kd_plan *plan)
{
    const char *const head[] = {"encoding", plan->positions ? "bytes a position" : "bytes a row",
                                "total",    "dump",
                                "KL T=1",   "KL T=4",
                                "top-1",    "tail",
                                "variance", "students",
                                "serves"};
    kd_table *t = kd_table_create();
    char text[256];
    for (size_t i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    kd_table_row(t);
    for (size_t i = 0; i < plan->n; i++) {
        const kd_plan_entry *e = &plan->entry[i];
        kd_table_cell(t, "%s", e->encoding);
        cell(t, 1, e->row_bytes);
        kd_table_cell(t, "%s", kd_fmt_bytes(text, e->row_bytes * (double)plan->rows));
        kd_table_cell(t, "%s", kd_fmt_duration(text, e->dump_s));
        small_cell(t, e->kl1);
        small_cell(t, e->kl4);
        cell(t, 4, e->top1);
        cell(t, 4, e->tail);
        small_cell(t, e->variance);
        cell(t, 0, e->students);
        kd_table_cell(t, "%s", kd_serves_text(e->serves, text, sizeof text));
        kd_table_row(t);
    }
    kd_table_print(t, stdout, false);
    kd_table_free(t);
}

kd_status dump_plan(kd_cli *c, const dump_opts *o, kd_err *err)
{
    const kd_writer_params wp = dump_writer_params(c, o);
    kd_teacher *t = NULL;
    kd_store *s = NULL;
    kd_plan plan = {0};
    char rate[32], time[32];
    kd_status st = dump_open(c, o, &t, &s, err);
    if (!st)
        st = kd_teacher_plan(&plan, t, s, (const char *const *)&o->encoding, o->encoding ? 1 : 0,
                             (uint64_t)o->plan_rows, o->plan_epochs, &wp, err);
    if (st) goto out;
    const char *what = plan.positions ? "positions" : "rows";
    kd_cli_note(c, "%llu of %s%llu %s, %s %s/s in the teacher, %s for all; nothing written",
                (unsigned long long)plan.sampled, plan.positions ? "about " : "",
                (unsigned long long)plan.rows, what, kd_fmt_count(rate, 1 / plan.teacher_s), what,
                kd_fmt_duration(time, plan.teacher_s * (double)plan.rows));
    if (c->common.json)
        st = print_json(c, &plan, t, s, o->plan_epochs, err);
    else
        print_table(&plan);
out:
    kd_plan_release(&plan);
    kd_teacher_close(t);
    kd_store_close(s);
    return st;
}
