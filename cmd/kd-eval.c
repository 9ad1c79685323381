/* kd-eval - measures students against labels and against the cached teacher. */
#include "kd-eval/eval_cmd.h"

#include <stdlib.h>
#include <string.h>

static const kd_option rows[] = {
    {"Input", NULL, "store", "STORE", 's', KD_OPTION_STRING, offsetof(eval_opts, store), NULL, 0, 0, NULL,
     "sealed store with the rows to measure on"},
    {"Input", NULL, "split", NULL, 0, KD_OPTION_CHOICE, offsetof(eval_opts, split), "test", 0, 0,
     "train|valid|test", "rows to measure on; choose between students on valid, report on test"},
    {"Input", NULL, "teacher", "NAME", 0, KD_OPTION_STRING, offsetof(eval_opts, teacher), NULL, 0, 0, NULL,
     "teacher to compare with, if the store has several; of language models also a folder or .gguf file that "
     "is "
     "run over the texts"},
    {"Input", NULL, "selection", NULL, 0, KD_OPTION_BOOL, offsetof(eval_opts, selection), "on", 0, 0, NULL,
     "of a sweep measure only the points that kd-train --select chose (selection.json); off: all"},
    {"Input", NULL, "against", "POINT", 0, KD_OPTION_STRING, offsetof(eval_opts, against), NULL, 0, 0, NULL,
     "compare every point of a student with this one as well, for example loss=kd for NAME@loss=kd; or "
     "every student with the one of this name"},
    {"Input", NULL, "batch", "N", 'b', KD_OPTION_INT, offsetof(eval_opts, batch), "256", 1, 65536, NULL,
     "rows a forward pass; throughput is at this batch"},
    {"Retrieval", NULL, "documents", "FILE", 0, KD_OPTION_STRING, offsetof(eval_opts, documents), NULL, 0, 0,
     NULL, "students of texts: what there is to find, a text a line; in place of a store"},
    {"Retrieval", NULL, "questions", "FILE", 0, KD_OPTION_STRING, offsetof(eval_opts, questions), NULL, 0, 0,
     NULL,
     "TSV with the columns query and answers (documents, separated by |); --teacher is then a model folder"},
    {"Retrieval", NULL, "int8", NULL, 0, KD_OPTION_BOOL, offsetof(eval_opts, int8), "off", 0, 0, NULL,
     "documents' vectors as int8, a quarter of the memory"},
    {"Language", NULL, "prompts", "FILE", 0, KD_OPTION_STRING, offsetof(eval_opts, prompts), NULL, 0, 0, NULL,
     "language models go on behind these prompts, one a line: distinct-n, repetition, tokens a second"},
    {"Language", NULL, "tokens", "N", 0, KD_OPTION_INT, offsetof(eval_opts, tokens), "64", 1, 1 << 20, NULL,
     "tokens of an answer at most"},
    {"Language", NULL, "temperature", "T", 0, KD_OPTION_REAL, offsetof(eval_opts, temperature), "0", 0, 100,
     NULL, "of the answers; 0: the likeliest token"},
    {"Language", NULL, "seed", "N", 0, KD_OPTION_INT, offsetof(eval_opts, seed), "0", 0, 9e15, NULL,
     "of drawn answers"},
    {"Measuring", NULL, "slice", "COLUMN", 0, KD_OPTION_STRINGS, offsetof(eval_opts, slices), NULL, 0, 0,
     NULL,
     "measure the parts of the rows with equal values of a column, too; COLUMN:BINS cuts numbers, or a "
     "ragged "
     "column's lengths, into bins of equal numbers of rows; may be repeated [the label]"},
    {"Measuring", NULL, "resamples", "N", 0, KD_OPTION_INT, offsetof(eval_opts, resamples), "1000", 0, 100000,
     NULL, "of the bootstrap over rows and seeds that gives confidence bounds; 0: none"},
    {"Measuring", NULL, "mistakes", "N", 0, KD_OPTION_INT, offsetof(eval_opts, mistakes), "50", 0, 1000000,
     NULL, "rows listed in the results of each kind of mistake: copied, other, new, mended"},
    {"Measuring", NULL, "pairs", NULL, 0, KD_OPTION_CHOICE, offsetof(eval_opts, pairs), "own", 0, 0,
     "own|all",
     "paired comparisons in the results: with the teacher, the plain runs and --against, or also of all "
     "students"},
    {"Measuring", NULL, "speed", NULL, 0, KD_OPTION_BOOL, offsetof(eval_opts, speed), "on", 0, 0, NULL,
     "measure the latency of single rows"},
    {"Gates", NULL, "gates", "FILE", 'g', KD_OPTION_STRING, offsetof(eval_opts, gates), NULL, 0, 0, NULL,
     "what students must come to, one gate a line, or a preset: fast, careful; exit status 1 if one fails"},
    {"Gates", NULL, "release", "FILE", 0, KD_OPTION_STRING, offsetof(eval_opts, release), NULL, 0, 0, NULL,
     "results of the last release, for gates that compare with it [release: of the gates]"},
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
    {"kd-eval -s fashion.kd runs/image/students runs/image/teacher --markdown",
     "teacher and students in one table, with the speed of both"},
    {"kd-eval -s fashion.kd runs/image/students --gates gates.yaml --results results.json",
     "exit status 1 if a student fails a gate, so that make stops"},
    {"kd-eval --gates careful results.json", "judge what was measured before by other gates; runs nothing"},
    {"kd-eval -s fashion.kd --split valid --json runs/a runs/b | jq .students[0]",
     "machine-readable, on the validation rows"},
    {"kd-eval --documents corpus.txt --questions test.tsv --teacher minilm runs/search/students",
     "students of texts: MRR, recall, and how far they rank as the teacher does"},
    {"kd-eval -s chat.kd --teacher smollm.gguf --prompts prompts.txt runs/chat/students",
     "language models: KL to a teacher that is run, perplexity, and what they write"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-eval",
    .summary = "measure students against labels and against the cached teacher",
    .synopsis = "[options] -s STORE RUN ... | --gates FILE RESULTS.json | --documents FILE --questions FILE "
                "[RUN ...]",
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
        "Measures: accuracy; F1, its mean over the classes; KL, the mean KL(teacher || student) in nats at "
        "temperature 1; agreement, the share of rows with the teacher's top class; ECE, the expected "
        "calibration error with 15 equal-width bins; copied, of the teacher's mistakes the share that the "
        "student makes too, with the same wrong class; latency, median and 99th percentile of one row on one "
        "thread; rows/s at --batch and --threads; memory, weights and all that is planned for one row.\n"
        "The results object has many more, with confidence bounds, tables by class, by slice and by bin of "
        "confidence, the confusion matrix, the rows of each kind of mistake and McNemar's test: "
        "docs/evaluation.md names every key. What could not be measured has no key, and is said.\n"
        "With --documents and --questions, runs embed texts: MRR@10 is 1 over the place of the first right "
        "document, recall the share of the right ones among the first so many; overlap and tau compare a "
        "student's first ten, and its order of the teacher's first hundred, with the teacher's. BM25 is the "
        "baseline.\n"
        "A store of texts for language models: KL to the teacher with percentiles, same top token, "
        "perplexity and "
        "its ratio, as llama.cpp's tools name them. Cached logits that keep few classes bound KL from below; "
        "--teacher MODEL runs the teacher, and all is exact.\n"
        "A gate is MEASURE, >=, <=, > or <, and a number or teacher, plain or release, perhaps with +, - or "
        "* "
        "and a number: accuracy >= teacher - 0.01. MEASURE[*] is every slice, MEASURE[NAME] one, "
        "MEASURE[class=*] every class. 'safe' behind it: the confidence bound must pass. Each gate is "
        "printed "
        "with its figure; if one fails, the exit status is 1 after everything was written. What was not "
        "measured does not pass.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-train(1), kd-audit(1), kd-store(1)",
};

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    kd_progress_set(arg, done, NULL);
}

/* What was left out, in words. */
static void say_left_out(const kd_cli *c, const json_t *results)
{
    size_t i, k;
    json_t *o, *m;
    json_array_foreach(json_object_get(results, "left_out"), i, o)
    {
        kd_buf list = {0};
        json_array_foreach(json_object_get(o, "measures"), k, m)
            kd_buf_printf(&list, "%s%s", k ? ", " : "", json_string_value(m));
        kd_cli_say(c, "left out: %s (%s)", list.text ? list.text : "",
                   json_string_value(json_object_get(o, "why")));
        kd_buf_release(&list);
    }
}

static kd_status check_usage(const kd_cli *c, const eval_opts *o, kd_err *err)
{
    if (!o->documents != !o->questions)
        return kd_fail(err, KD_EUSAGE, "--documents and --questions belong together");
    if (o->documents && (o->store || o->gates))
        return kd_fail(err, KD_EUSAGE, "--documents and --questions take the place of a store and its gates");
    if (o->documents) return KD_OK;
    if (!o->store && o->gates && c->nargs == 1) return KD_OK; // judges results
    if (!o->store && o->gates)
        return kd_fail(err, KD_EUSAGE, "no store given; name one: -s STORE, or one file of results to judge");
    if (!o->store) return kd_fail(err, KD_EUSAGE, "no store given; name one: -s STORE");
    if (o->release && !o->gates) return kd_fail(err, KD_EUSAGE, "--release is for --gates");
    if (!c->nargs)
        return kd_fail(err, KD_EUSAGE, "no model folder given; name one or more behind the options");
    return KD_OK;
}

static kd_status measure(kd_cli *c, const eval_opts *o, kd_store *s, json_t **results, kd_err *err)
{
    kd_exam *exam = NULL;
    kd_runs runs = {0};
    kd_progress pr;
    const kd_eval_params p = {.split = (kd_split)kd_split_parse(o->split),
                              .teacher = o->teacher,
                              .against = o->against,
                              .slices = &o->slices,
                              .batch = o->batch,
                              .resamples = o->resamples,
                              .mistakes = o->mistakes,
                              .speed = o->speed,
                              .all_pairs = !strcmp(o->pairs, "all"),
                              .threads = (int)c->common.threads};
    char *command = kd_cli_command(c->argc, c->argv);
    kd_status st = KD_OK;
    for (int i = 0; i < c->nargs && !st; i++) st = kd_runs_find(&runs, c->args[i], o->selection, err);
    if (!st) st = kd_exam_open(&exam, s, &p, err);
    if (!st) {
        kd_progress_begin(&pr, c, "eval", "rows", kd_store_split_rows(s, p.split) * runs.n);
        st = kd_exam_run(exam, &runs, show_progress, &pr, err);
        kd_progress_end(&pr);
    }
    if (!st && !(*results = kd_results_json(exam, &runs, o->pipeline, command, err))) st = err->code;
    if (!st)
        kd_cli_note(c, "%zu models on %llu %s rows", runs.n,
                    (unsigned long long)kd_store_split_rows(s, p.split), o->split);
    kd_exam_close(exam);
    kd_runs_release(&runs);
    free(command);
    return st;
}

static kd_status measure_store(kd_cli *c, const eval_opts *o, json_t **results, kd_err *err)
{
    kd_store *s;
    kd_status st = kd_store_open(&s, o->store, err);
    if (st) return st;
    const bool language = kd_language_store(s);
    if (o->prompts && !language)
        st = kd_fail(err, KD_EUSAGE,
                     "%s: --prompts is for language models, and this is no store of their texts", o->store);
    else
        st = (language ? eval_language : measure)(c, o, s, results, err);
    kd_store_close(s);
    if (!st) say_left_out(c, *results);
    return st;
}

/* Everything is written before a failed gate ends the run. */
static kd_status run(kd_cli *c, const eval_opts *o, kd_err *err)
{
    json_t *results = NULL;
    kd_gates *gates = NULL;
    kd_err verdict = {0};
    kd_status st = check_usage(c, o, err);
    if (!st && o->documents) return eval_retrieval(c, o, err);
    if (!st && o->gates) st = kd_gates_open(&gates, o->gates, err);
    if (!st)
        st = o->store ? measure_store(c, o, &results, err) : eval_load_results(c->args[0], &results, err);
    if (!st && gates) st = eval_judge(gates, o, results, &verdict, err);
    if (!st && o->results && !(st = kd_json_save(o->results, results, err))) kd_cli_note(c, "%s", o->results);
    if (!st && c->common.json) {
        st = kd_cli_print_json(json_incref(results), err);
    } else if (!st) {
        const char *kind = json_string_value(json_object_get(results, "kind"));
        st = (kind && !strcmp(kind, "language") ? eval_print_language : eval_print_table)(results, o, err);
        if (!st && gates) st = eval_print_gates(results, o, err);
    }
    if (!st && verdict.code) st = kd_fail(err, verdict.code, "%s", verdict.msg);
    kd_gates_close(gates);
    json_decref(results);
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
