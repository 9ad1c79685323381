/* kd-audit - finds dirty data with the teacher's help; edits nothing. */
#include "kd/audit.h"
#include "kd/cli.h"

#include <stdlib.h>
#include <string.h>

typedef struct audit_opts {
    char *store, *out, *teacher, *filter, *near, *drop;
    kd_strings cross;
    int64_t folds, shift;
    double similarity, unsure;
    bool mirror, force;
} audit_opts;

#define ROW(group, name, metavar, letter, type, field, value, lo, hi, choices, help)                         \
    {                                                                                                        \
        group, NULL, name, metavar, letter, KD_OPTION_##type, offsetof(audit_opts, field), value, lo, hi,    \
            choices, help                                                                                    \
    }
static const kd_option rows[] = {
    ROW("Input", "store", "STORE", 's', STRING, store, NULL, 0, 0, NULL,
        "sealed store to audit, with the teacher's logits"),
    ROW("Input", "teacher", "NAME", 0, STRING, teacher, NULL, 0, 0, NULL,
        "teacher to ask, if the store has several"),
    ROW("Input", "cross", "NAME", 0, STRINGS, cross, NULL, 0, 0, NULL,
        "teachers of the folds, one a flag, in the order of the folds that they left out: each training row "
        "is "
        "judged by the teacher that did not see it"),
    ROW("Labels", "filter", NULL, 0, CHOICE, filter, "joint", 0, 0, "joint|rate|both",
        "which labels count as wrong: off the diagonal of the confident joint, the estimated number of each "
        "kind, or what both say"),
    ROW("Labels", "unsure", "P", 0, REAL, unsure, "0.5", 0, 1, NULL,
        "the teacher is unsure of a row whose top class has less probability"),
    ROW("Duplicates", "near", "COLUMN", 0, STRING, near, NULL, 0, 0, NULL,
        "where near duplicates are looked for, images or numbers; none: exact ones only [the input]"),
    ROW("Duplicates", "similarity", "R", 0, REAL, similarity, "0.99", 0.5, 1, NULL,
        "least correlation of images, least cosine of other rows"),
    ROW("Duplicates", "shift", "PIXELS", 0, INT, shift, "1", 0, KD_PAIR_SHIFT, NULL,
        "images may be moved against each other by so much (of at most 32 x 32 pixels)"),
    ROW("Duplicates", "mirror", NULL, 0, BOOL, mirror, "on", 0, 0, NULL, "also look for mirrored images"),
    ROW("Output", "out", "FOLDER", 'o', STRING, out, NULL, 0, 0, NULL, "where the files go"),
    ROW("Output", "drop", "REASON,...", 0, STRING, drop, "labels,exact,leaks", 0, 0, NULL,
        "what puts a training row on drop.txt: labels, exact, leaks, near; none: nothing"),
    ROW("Output", "folds", "K", 0, INT, folds, "0", 0, KD_AUDIT_FOLDS, NULL,
        "audit nothing, write K lists of rows for teachers that each leave one fold out"),
    ROW("Output", "force", NULL, 0, BOOL, force, "off", 0, 0, NULL, "replace an earlier audit in FOLDER"),
};

static const kd_example examples[] = {
    {"kd-audit -s fashion.kd -o runs/audit", "all checks; the teacher may have seen the training rows"},
    {"kd-audit -s fashion.kd -o runs/folds --folds 4",
     "lists for four teachers: kd-train -s fashion.kd teacher.yaml --drop-rows runs/folds/fold-0.txt ..."},
    {"kd-audit -s fashion.kd -o runs/audit --cross f0 --cross f1 --cross f2 --cross f3",
     "the same checks with teachers that did not see the rows they judge"},
    {"kd-train -s fashion.kd a.yaml --drop-rows runs/audit/drop.txt -o runs/cleaned",
     "train without the rows that were found"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-audit",
    .summary = "find dirty data with the teacher's help",
    .synopsis = "[options] -s STORE -o FOLDER",
    .description =
        "Writes into FOLDER: labels.csv, labels that are probably wrong, worst first; duplicates.csv, pairs "
        "of "
        "rows that are the same or nearly, with those across splits marked as leaks; unsure.csv, rows where "
        "the "
        "teacher disagrees with the label or hardly knows; balance.csv and drift.csv, the classes of each "
        "split "
        "and how far it is from the training rows; drop.txt and keep.txt, lists of training rows for "
        "kd-train's "
        "--drop-rows and --only-rows; and audit.json, the summary.\n"
        "Labels are judged by confident learning. It asks for a teacher that has not seen the rows: train "
        "one a "
        "fold (--folds) and give them with --cross. With a teacher that was trained on them the tool says "
        "so; "
        "wrong labels that it learned by heart are then missed.\n"
        "Near duplicates are looked for among all pairs of rows: a few seconds for 70,000, but four times as "
        "long for twice the rows; --near none leaves them out. The store is only read.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-train(1), kd-eval(1), kd-store(1)",
};

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    kd_progress *pr = arg;
    pr->total = total;
    kd_progress_set(pr, done, NULL);
}

static kd_status parse_drop(const char *text, unsigned *drop, kd_err *err)
{
    static const char *const names[] = {"labels", "exact", "leaks", "near", "none"};
    static const unsigned bits[] = {KD_DROP_LABELS, KD_DROP_EXACT, KD_DROP_LEAKS, KD_DROP_NEAR, 0};
    *drop = 0;
    while (*text) {
        const size_t len = strcspn(text, ",");
        size_t i = 0;
        while (i < KD_COUNT(names) && (strlen(names[i]) != len || strncmp(names[i], text, len))) i++;
        if (i == KD_COUNT(names))
            return kd_fail(err, KD_EUSAGE,
                           "--drop: unknown reason '%.*s'; expected labels, exact, leaks, near",
                           (int)kd_min_size(len, 40), text);
        *drop |= bits[i];
        text += len + (text[len] == ',');
    }
    return KD_OK;
}

/* ---- what is printed ---------------------------------------------------------------------- */

static json_int_t count(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static void line(kd_table *t, const char *what, const char *where, json_int_t n)
{
    kd_table_cell(t, "%s", what);
    kd_table_cell(t, "%s", where);
    kd_table_cell(t, "%lld", (long long)n);
    kd_table_row(t);
}

static kd_status print_table(const json_t *o, kd_err *err)
{
    const char *split, *kind;
    const json_t *v, *d = json_object_get(o, "duplicates"), *u = json_object_get(o, "unsure");
    kd_table *t = kd_table_create();
    if (!t) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    kd_table_cell(t, "found"), kd_table_cell(t, "in"), kd_table_cell(t, "number"), kd_table_row(t);
    json_object_foreach(json_object_get(o, "labels"), split, v)
        line(t, "labels probably wrong", split, count(v, "flagged"));
    if (u) line(t, "teacher disagrees with the label", "all", count(u, "wrong"));
    if (u) line(t, "teacher unsure", "all", count(u, "unsure"));
    json_object_foreach(json_object_get(d, "pairs"), kind, v)
    {
        line(t, "pairs of copies", kind, json_integer_value(v));
        line(t, "  across splits", kind, count(json_object_get(d, "leaks"), kind));
    }
    line(t, "training rows to drop", "drop.txt", count(json_object_get(o, "lists"), "dropped"));
    line(t, "training rows to keep", "keep.txt", count(json_object_get(o, "lists"), "kept"));
    kd_table_print(t, stdout, false);
    kd_table_free(t);
    return KD_OK;
}

static void say(const kd_cli *c, const json_t *o)
{
    size_t i;
    const json_t *v;
    json_array_foreach(json_object_get(o, "warnings"), i, v) kd_cli_warn(c, "%s", json_string_value(v));
    json_array_foreach(json_object_get(o, "left_out"), i, v)
        kd_cli_say(c, "left out: %s", json_string_value(v));
}

/* ---- running ------------------------------------------------------------------------------ */

static kd_status folds(kd_cli *c, const audit_opts *o, kd_store *s, kd_err *err)
{
    uint64_t n[KD_AUDIT_FOLDS];
    const uint32_t k = (uint32_t)o->folds;
    kd_status st = kd_audit_folds(s, o->out, k, n, err);
    if (st) return st;
    json_t *list = json_array();
    for (uint32_t f = 0; f < k; f++) {
        json_array_append_new(list, json_integer((json_int_t)n[f]));
        if (!c->common.json)
            printf("%s/fold-%u.txt: %llu training rows\n", o->out, f, (unsigned long long)n[f]);
    }
    if (c->common.json) return kd_cli_print_json(json_pack("{s:i, s:o}", "schema", 1, "folds", list), err);
    json_decref(list);
    return KD_OK;
}

static kd_status audit(kd_cli *c, const audit_opts *o, kd_store *s, kd_err *err)
{
    kd_progress pr;
    json_t *summary = NULL;
    char *command = kd_cli_command(c->argc, c->argv);
    kd_audit_params p = {.teacher = o->teacher,
                         .cross = (const char *const *)o->cross.v,
                         .ncross = o->cross.n,
                         .filter = !strcmp(o->filter, "joint")  ? KD_FILTER_JOINT
                                   : !strcmp(o->filter, "rate") ? KD_FILTER_RATE
                                                                : KD_FILTER_BOTH,
                         .near = o->near && !strcmp(o->near, "none") ? "" : o->near,
                         .similarity = o->similarity,
                         .shift = o->shift,
                         .mirror = o->mirror,
                         .unsure = o->unsure,
                         .force = o->force,
                         .command = command,
                         .threads = (int)c->common.threads,
                         .stop = &kd_stop_requested,
                         .progress = show_progress,
                         .arg = &pr};
    kd_status st = parse_drop(o->drop, &p.drop, err);
    if (!st) {
        kd_progress_begin(&pr, c, "near duplicates", "rows", 0);
        st = kd_audit_run(&summary, s, o->out, &p, err);
        kd_progress_end(&pr);
    }
    if (!st) {
        say(c, summary);
        kd_cli_note(c, "%s", o->out);
        st = c->common.json ? kd_cli_print_json(json_incref(summary), err) : print_table(summary, err);
    }
    json_decref(summary);
    free(command);
    return st;
}

static void run(kd_cli *c, const audit_opts *o, kd_err *err)
{
    kd_store *s = NULL;
    kd_status st = KD_OK;
    if (!o->store)
        st = kd_fail(err, KD_EUSAGE, "no store given; name one: -s STORE");
    else if (!o->out)
        st = kd_fail(err, KD_EUSAGE, "no folder for the results given; name one: -o FOLDER");
    else if (c->nargs)
        st = kd_fail(err, KD_EUSAGE, "%.80s: kd-audit takes no operands", c->args[0]);
    else if (o->cross.n && o->teacher)
        st = kd_fail(err, KD_EUSAGE, "--teacher and --cross: give one teacher, or those of the folds");
    if (!st) st = kd_store_open(&s, o->store, err);
    if (!st) st = o->folds ? folds(c, o, s, err) : audit(c, o, s, err);
    kd_store_close(s);
}

int main(int argc, char **argv)
{
    audit_opts o;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    if (!kd_cli_parse(&cli, &err)) run(&cli, &o, &err);
    return kd_cli_finish(&cli, &err);
}
