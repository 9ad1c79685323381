/* report.c - what is said before the first step, and what came of it: a table or one JSON object. */
#include "train_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void cell_number(kd_table *tb, const char *fmt, double v)
{
    char text[40] = "-";
    if (isfinite(v))
        snprintf(text, sizeof(text), fmt[0] == '4' ? "%.4f" : fmt[0] == '2' ? "%.2f" : "%.1f", v);
    kd_table_cell(tb, "%s", text);
}

kd_status train_print_table(const kd_trainer *t, bool dry, kd_err *err)
{
    static const char *const head[] = {"student",    "role",    "seed",    "params", "epochs", "loss",
                                       "valid loss", "valid %", "seconds", "state",  "memory"};
    kd_table *tb = kd_table_create();
    if (!tb) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    size_t columns = KD_COUNT(head) - !dry; // memory is what a dry run is asked for
    for (size_t i = 0; i < columns; i++) kd_table_cell(tb, "%s", head[i]);
    kd_table_row(tb);
    for (size_t i = 0; i < kd_trainer_students(t); i++) {
        char bytes[32];
        kd_train_result r;
        kd_trainer_result(t, i, &r);
        kd_table_cell(tb, "%s", r.name);
        kd_table_cell(tb, "%s", r.role);
        kd_table_cell(tb, "%llu", (unsigned long long)r.seed);
        kd_table_cell(tb, "%zu", r.params);
        kd_table_cell(tb, "%llu", (unsigned long long)r.epochs);
        cell_number(tb, "4", r.loss);
        cell_number(tb, "4", r.valid_loss);
        cell_number(tb, "2", 100 * r.valid_accuracy);
        cell_number(tb, "1", r.seconds);
        kd_table_cell(tb, "%s",
                      r.skipped  ? "was done"
                      : r.done   ? "done"
                      : r.failed ? "diverged"
                      : dry      ? "to do"
                                 : "unfinished");
        if (dry) kd_table_cell(tb, "%s", kd_fmt_bytes(bytes, (double)r.bytes));
        kd_table_row(tb);
    }
    kd_table_print(tb, stdout, false);
    kd_table_free(tb);
    return KD_OK;
}

json_t *train_report_json(const kd_trainer *t, const kd_store *s, json_t *selection, uint64_t trained,
                          double seconds)
{
    json_t *o = json_pack("{s:i, s:{s:s, s:s, s:I}, s:I, s:f, s:f}", "schema", 1, "store", "path",
                          kd_store_path(s), "root", kd_store_root(s), "rows", (json_int_t)kd_store_rows(s),
                          "rows_trained", (json_int_t)trained, "seconds", seconds, "rows_per_s",
                          seconds > 0 ? (double)trained / seconds : 0);
    json_t *runs = kd_trainer_json(t);
    bool failed = !o || !runs || json_object_update(o, runs);
    json_decref(runs);
    failed = failed || (selection && json_object_set(o, "selection", selection));
    if (!failed) return o;
    json_decref(o);
    return NULL;
}

/* What will be computed, before an hour is spent on it. */
void train_say_plan(const kd_cli *c, const kd_trainer *t)
{
    char bytes[32], reader[32];
    kd_train_result r, before = {0};
    for (size_t i = 0; i < kd_trainer_students(t); i++, before = r) {
        kd_trainer_result(t, i, &r);
        if (before.name && !strcmp(before.name, r.name) && !strcmp(before.role, r.role)) continue;
        char *formula = kd_trainer_formula(t, i);
        kd_cli_say(c, "%s %s: loss = %s", r.name, r.role, formula ? formula : "?");
        free(formula);
    }
    kd_cli_say(c, "%zu runs, %s planned, the reader's windows %s of it, %s", kd_trainer_students(t),
               kd_fmt_bytes(bytes, (double)kd_trainer_bytes(t)),
               kd_fmt_bytes(reader, (double)kd_trainer_reader_bytes(t)), kd_nn_backend());
}

void train_note_end(kd_cli *c, const kd_trainer *t, const train_opts *o, uint64_t trained, double seconds)
{
    uint64_t decoded, expected;
    char rate[32];
    kd_trainer_reads(t, &decoded, &expected);
    if (trained) {
        kd_cli_note(c, "%s rows/s", kd_fmt_count(rate, (double)trained / seconds));
        kd_cli_note(c, "%llu blocks decoded, one pass is %llu", (unsigned long long)decoded,
                    (unsigned long long)expected);
        kd_cli_note(c, "stall %.1f %%", 100 * kd_trainer_stall(t) / seconds);
    }
    kd_cli_note(c, "%s", o->out);
}
