/* kd-eval - measures students against labels and against the cached teacher. */
#include "kd/cli.h"
#include "kd/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct eval_opts {
    char *store, *split, *teacher, *results, *pipeline, *against;
    int64_t batch;
    bool markdown, selection;
} eval_opts;

static const kd_option rows[] = {
    {"Input", NULL, "store", "STORE", 's', KD_OPTION_STRING, offsetof(eval_opts, store), NULL, 0, 0, NULL,
     "sealed store with the rows to measure on"},
    {"Input", NULL, "split", NULL, 0, KD_OPTION_CHOICE, offsetof(eval_opts, split), "test", 0, 0,
     "train|valid|test", "rows to measure on; choose between students on valid, report on test"},
    {"Input", NULL, "teacher", "NAME", 0, KD_OPTION_STRING, offsetof(eval_opts, teacher), NULL, 0, 0, NULL,
     "teacher to compare with, if the store has several"},
    {"Input", NULL, "selection", NULL, 0, KD_OPTION_BOOL, offsetof(eval_opts, selection), "on", 0, 0, NULL,
     "of a sweep measure only the points that kd-train --select chose (selection.json); off: all"},
    {"Input", NULL, "against", "POINT", 0, KD_OPTION_STRING, offsetof(eval_opts, against), NULL, 0, 0, NULL,
     "compare every point of a student with this one as well, for example loss=kd for NAME@loss=kd"},
    {"Input", NULL, "batch", "N", 'b', KD_OPTION_INT, offsetof(eval_opts, batch), "256", 1, 65536, NULL,
     "rows a forward pass"},
    {"Output", NULL, "results", "FILE", 'r', KD_OPTION_STRING, offsetof(eval_opts, results), NULL, 0, 0, NULL,
     "write the results object to FILE, whole or not at all"},
    {"Output", NULL, "pipeline", "NAME", 0, KD_OPTION_STRING, offsetof(eval_opts, pipeline), "kd", 0, 0, NULL,
     "name of the pipeline in the results"},
    {"Output", NULL, "markdown", NULL, 0, KD_OPTION_BOOL, offsetof(eval_opts, markdown), "off", 0, 0, NULL,
     "print the table as Markdown"},
};

static const kd_example examples[] = {
    {"kd-eval -s fashion.kd runs/image/students",
     "measure every finished model below a folder on the test rows"},
    {"kd-eval -s fashion.kd runs/image/students --results results.json", "also write the results object"},
    {"kd-eval -s fashion.kd --split valid --json runs/a runs/b | jq .students[0]",
     "machine-readable, on the validation rows"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-eval",
    .summary = "measure students against labels and against the cached teacher",
    .synopsis = "[options] -s STORE RUN ...",
    .description =
        "RUN is a model folder, or a folder with finished models below it. The teacher is not run: its "
        "answers "
        "come from the store.\n"
        "Runs of one student with and without the teacher are compared pairwise over their common seeds "
        "(paired t-test "
        "on accuracy, two-sided, 0.05): helped, hurt, or no difference. Points of a sweep are lines of their "
        "own, "
        "each against the plain runs with its axes; --against compares them with one of them, too, in the "
        "same way.\n"
        "Measures: accuracy; loss, the mean negative log-likelihood in nats; ECE, the expected calibration "
        "error "
        "with 15 equal-width bins; agreement, the share of rows with the teacher's top class; KL, the mean "
        "KL(teacher || student) in nats at temperature 1; latency, the median time of one row on one thread.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-train(1), kd-audit(1), kd-store(1)",
};

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    kd_progress_set(arg, done, NULL);
}

/* Mean and sample standard deviation of an array of numbers; n == 0 leaves NAN. */
static size_t spread(const json_t *array, double *mean, double *sd)
{
    size_t n = json_array_size(array);
    double sum = 0, ss = 0;
    for (size_t i = 0; i < n; i++) sum += json_number_value(json_array_get(array, i));
    *mean = n ? sum / (double)n : NAN;
    for (size_t i = 0; i < n; i++) {
        double d = json_number_value(json_array_get(array, i)) - *mean;
        ss += d * d;
    }
    *sd = n > 1 ? sqrt(ss / (double)(n - 1)) : NAN;
    return n;
}

static void cell_spread(kd_table *t, const json_t *role, const char *key, double factor)
{
    double mean, sd;
    if (!spread(json_object_get(role, key), &mean, &sd))
        kd_table_cell(t, "-");
    else if (isnan(sd))
        kd_table_cell(t, "%.2f", mean * factor);
    else
        kd_table_cell(t, "%.2f ± %.2f", mean * factor, sd * factor);
}

/* Gain, p and verdict of a comparison over seeds; o: NULL for none. */
static void cells_verdict(kd_table *t, const json_t *o)
{
    const json_t *gain = json_object_get(o, "accuracy_gain"), *pv = json_object_get(o, "p_value");
    if (json_is_number(gain))
        kd_table_cell(t, "%+.2f", 100 * json_number_value(gain));
    else
        kd_table_cell(t, "-");
    if (json_is_number(pv))
        kd_table_cell(t, "%.3f", json_number_value(pv));
    else
        kd_table_cell(t, "-");
    kd_table_cell(t, "%s", json_is_number(pv) ? json_string_value(json_object_get(o, "verdict")) : "-");
}

static void student_row(kd_table *t, const json_t *s, bool against)
{
    const json_t *d = json_object_get(s, "distilled"), *p = json_object_get(s, "plain");
    const json_t *best = d ? d : p ? p : json_object_get(s, "teacher");
    char bytes[32];
    const char *point =
        json_string_value(json_object_get(json_object_get(s, "chosen"), d ? "distilled" : "plain"));
    kd_table_cell(t, "%s", point ? point : json_string_value(json_object_get(s, "name")));
    kd_table_cell(t, "%lld", (long long)json_integer_value(json_object_get(s, "params")));
    kd_table_cell(t, "%s", kd_fmt_bytes(bytes, json_number_value(json_object_get(s, "file_bytes"))));
    kd_table_cell(t, "%.0f", json_number_value(json_object_get(s, "latency_us")));
    cell_spread(t, p ? p : d ? NULL : best, "accuracy", 100);
    cell_spread(t, d, "accuracy", 100);
    cells_verdict(t, s);
    cell_spread(t, best, "agreement", 100);
    cell_spread(t, best, "kl", 1);
    cell_spread(t, best, "ece", 100);
    if (against) cells_verdict(t, json_object_get(s, "against"));
    kd_table_row(t);
}

static void teacher_row(kd_table *t, const json_t *teacher, bool against)
{
    const json_t *m = json_object_get(teacher, "metrics"), *name = json_object_get(teacher, "name");
    if (!m) return;
    kd_table_cell(t, "%s (teacher)", name ? json_string_value(name) : "teacher");
    kd_table_cell(t, "%lld", (long long)json_integer_value(json_object_get(teacher, "params")));
    kd_table_cell(t, "-"), kd_table_cell(t, "-");
    kd_table_cell(t, "%.2f", 100 * json_number_value(json_object_get(m, "accuracy")));
    for (int i = 0; i < 4; i++) kd_table_cell(t, "-");
    kd_table_cell(t, "100.00"), kd_table_cell(t, "0.00");
    kd_table_cell(t, "%.2f", 100 * json_number_value(json_object_get(m, "ece")));
    if (against) cells_verdict(t, NULL);
    kd_table_row(t);
}

static kd_status print_table(const json_t *results, const eval_opts *o, kd_err *err)
{
    static const char *const head[] = {"model", "params", "file",    "us/row",  "plain %", "distilled %",
                                       "gain",  "p",      "verdict", "agree %", "KL",      "ECE %"};
    kd_table *t = kd_table_create();
    size_t i;
    json_t *s;
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    for (i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    if (o->against)
        kd_table_cell(t, "gain on %s", o->against), kd_table_cell(t, "p"), kd_table_cell(t, "verdict");
    kd_table_row(t);
    teacher_row(t, json_object_get(results, "teacher"), o->against);
    json_array_foreach(json_object_get(results, "students"), i, s) student_row(t, s, o->against);
    kd_table_print(t, stdout, o->markdown);
    kd_table_free(t);
    return KD_OK;
}

static kd_status run(kd_cli *c, const eval_opts *o, kd_err *err)
{
    kd_store *s = NULL;
    kd_runs runs = {0};
    json_t *results = NULL;
    char *command = kd_cli_command(c->argc, c->argv);
    kd_progress pr;
    kd_status st;
    if (!o->store) {
        st = kd_fail(err, KD_EUSAGE, "no store given; name one: -s STORE");
        goto out;
    }
    if (!c->nargs) {
        st = kd_fail(err, KD_EUSAGE, "no model folder given; name one or more behind the options");
        goto out;
    }
    kd_eval_params p = {.split = (kd_split)kd_split_parse(o->split),
                        .teacher = o->teacher,
                        .against = o->against,
                        .batch = o->batch,
                        .threads = (int)c->common.threads};
    if ((st = kd_store_open(&s, o->store, err))) goto out;
    for (int i = 0; i < c->nargs; i++)
        if ((st = kd_runs_find(&runs, c->args[i], o->selection, err))) goto out;
    kd_progress_begin(&pr, c, "eval", "models", runs.n);
    st = kd_runs_eval(&runs, s, &p, show_progress, &pr, err);
    kd_progress_end(&pr);
    if (st) goto out;
    if (!(results = kd_results_json(&runs, s, &p, o->pipeline, command, err))) {
        st = err->code;
        goto out;
    }
    if (o->results && (st = kd_json_save(o->results, results, err))) goto out;
    if (o->results) kd_cli_note(c, "%s", o->results);
    kd_cli_note(c, "%zu models on %llu %s rows", runs.n, (unsigned long long)kd_store_split_rows(s, p.split),
                o->split);
    st = c->common.json ? kd_cli_print_json(json_incref(results), err) : print_table(results, o, err);
out:
    json_decref(results);
    kd_runs_release(&runs);
    kd_store_close(s);
    free(command);
    return st;
}

int main(int argc, char **argv)
{
    eval_opts o;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    if (!kd_cli_parse(&cli, &err)) run(&cli, &o, &err);
    return kd_cli_finish(&cli, &err);
}
