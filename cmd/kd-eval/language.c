/* language.c - students that are language models: what they say of a store's texts, and what they write. */
#include "eval_cmd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    kd_progress_set(arg, done, NULL);
}

/* The prompts of a file, a line each: *lines points into *text. */
static kd_status read_prompts(const char *path, char **text, const char ***lines, size_t *n, kd_err *err)
{
    size_t len;
    kd_status st = kd_file_read(path, 64u << 20, text, &len, err);
    if (st) return st;
    if (!(*lines = calloc(len + 1, sizeof **lines))) return kd_fail(err, KD_ENOMEM, "out of memory");
    char *rest = *text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line) (*lines)[(*n)++] = line;
    return *n ? KD_OK : kd_fail(err, KD_EUSAGE, "%s: no prompts; expected one a line", path);
}

static kd_status write_answers(kd_cli *c, const eval_opts *o, kd_language *l, kd_err *err)
{
    char *text = NULL;
    const char **lines = NULL;
    size_t n = 0;
    kd_status st = read_prompts(o->prompts, &text, &lines, &n, err);
    const kd_language_prompts p = {.prompt = lines,
                                   .n = n,
                                   .tokens = o->tokens,
                                   .temperature = o->temperature,
                                   .seed = (uint64_t)o->seed};
    if (!st) st = kd_language_write(l, &p, (int)c->common.threads, err);
    free(lines);
    free(text);
    return st;
}

kd_status eval_language(kd_cli *c, const eval_opts *o, kd_store *s, json_t **results, kd_err *err)
{
    kd_runs runs = {0};
    kd_language l = {0};
    kd_progress pr;
    const bool model = o->teacher && kd_exists(o->teacher);
    kd_language_params p = {.split = (kd_split)kd_split_parse(o->split),
                            .teacher = model ? NULL : o->teacher,
                            .model = model ? o->teacher : NULL,
                            .against = o->against,
                            .threads = (int)c->common.threads,
                            .progress = show_progress,
                            .arg = &pr};
    char *command = kd_cli_command(c->argc, c->argv);
    kd_status st = command ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (int i = 0; i < c->nargs && !st; i++) st = kd_runs_find(&runs, c->args[i], o->selection, err);
    if (!st) {
        kd_progress_begin(&pr, c, "eval", "rows", kd_store_split_rows(s, p.split));
        st = kd_language_run_all(&l, s, &p, &runs, err);
        kd_progress_end(&pr);
    }
    if (!st && o->prompts) st = write_answers(c, o, &l, err);
    if (!st && !(*results = kd_language_json(&l, s, &p, &runs, o->pipeline, command, err))) st = err->code;
    if (!st) kd_cli_note(c, "%zu models on %llu tokens", runs.n, (unsigned long long)l.positions);
    kd_language_release(&l);
    kd_runs_release(&runs);
    free(command);
    return st;
}

/* ---- the table, with the names that llama.cpp's tools print -------------------------------------- */

static const struct {
    const char *head, *key, *format;
    double factor;
} columns[] = {
    {"params", "params", "%.0f", 1},
    {"PPL(Q)", "perplexity", "%.3f", 1},
    {"PPL(Q)/PPL(base)", "ppl_ratio", "%.4f", 1},
    {"Mean KLD", "kl", "%.5f", 1},
    {"±", "kl_error", "%.5f", 1},
    {"Median KLD", "kl_p50", "%.5f", 1},
    {"90.0% KLD", "kl_p90", "%.4f", 1},
    {"95.0% KLD", "kl_p95", "%.4f", 1},
    {"99.0% KLD", "kl_p99", "%.4f", 1},
    {"99.9% KLD", "kl_p999", "%.4f", 1},
    {"Maximum KLD", "kl_max", "%.4f", 1},
    {"KLD at least", "kl_least", "%.5f", 1},
    {"cross-entropy", "cross_entropy", "%.4f", 1},
    {"RMS Δp %", "rms_dp", "%.3f", 100},
    {"Same top p %", "agreement", "%.2f", 100},
    {"ECE %", "ece", "%.2f", 100},
    {"distinct-1", "distinct1", "%.3f", 1},
    {"distinct-2", "distinct2", "%.3f", 1},
    {"distinct-3", "distinct3", "%.3f", 1},
    {"repetition %", "repetition", "%.1f", 100},
    {"tokens/s", "tokens_s", "%.1f", 1},
};

static bool measured(const json_t *students, const char *key)
{
    size_t i;
    json_t *s;
    json_array_foreach(students, i, s) if (json_object_get(s, key)) return true;
    return false;
}

static void cell(kd_table *t, const json_t *v, const char *format, double factor)
{
    char text[48];
    snprintf(text, sizeof text, "-");
    if (json_is_number(v)) snprintf(text, sizeof text, format, factor * json_number_value(v));
    kd_table_cell(t, "%s", text);
}

static void cells_against(kd_table *t, const json_t *a)
{
    const char *verdict = json_string_value(json_object_get(a, "verdict"));
    const json_t *kl = json_object_get(a, "kl_gain");
    cell(t, kl ? kl : json_object_get(a, "loss_gain"), "%+.4f", 1);
    cell(t, json_object_get(a, "p_value"), "%.3f", 1);
    kd_table_cell(t, "%s", verdict ? verdict : "-");
}

kd_status eval_print_language(const json_t *results, const eval_opts *o, kd_err *err)
{
    const json_t *students = json_object_get(results, "students");
    kd_table *t = kd_table_create();
    size_t i;
    json_t *s;
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    const bool paired = measured(students, "verdict");
    kd_table_cell(t, "model");
    for (size_t k = 0; k < KD_COUNT(columns); k++)
        if (measured(students, columns[k].key)) kd_table_cell(t, "%s", columns[k].head);
    if (paired) kd_table_cell(t, "p"), kd_table_cell(t, "verdict");
    if (o->against)
        kd_table_cell(t, "gain on %s", o->against), kd_table_cell(t, "p"), kd_table_cell(t, "verdict");
    kd_table_row(t);
    json_array_foreach(students, i, s)
    {
        const char *verdict = json_string_value(json_object_get(s, "verdict"));
        kd_table_cell(t, "%s", json_string_value(json_object_get(s, "name")));
        for (size_t k = 0; k < KD_COUNT(columns); k++)
            if (measured(students, columns[k].key))
                cell(t, json_object_get(s, columns[k].key), columns[k].format, columns[k].factor);
        if (paired)
            cell(t, json_object_get(s, "p_value"), "%.3f", 1),
                kd_table_cell(t, "%s", verdict ? verdict : "-");
        if (o->against) cells_against(t, json_object_get(s, "against"));
        kd_table_row(t);
    }
    kd_table_print(t, stdout, o->markdown);
    kd_table_free(t);
    return KD_OK;
}
