/* kd-train - trains one or many students in one pass over a store. */
#include "kd/cli.h"
#include "kd/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_opts {
    char *store, *out;
    kd_ints seeds;
    kd_strings set;
    int64_t rows, checkpoint_seconds, keep, window_rows, log_steps;
    bool tensorboard, control, resume, force, dry_run, list_losses, list_keys;
} train_opts;

#define ROW(group, name, metavar, letter, type, field, value, lo, hi, help)                                  \
    {                                                                                                        \
        group, NULL, name, metavar, letter, KD_OPTION_##type, offsetof(train_opts, field), value, lo, hi,    \
            NULL, help                                                                                       \
    }
static const kd_option rows[] = {
    ROW("Input", "store", "STORE", 's', STRING, store, NULL, 0, 0, "sealed store to train from"),
    ROW("Input", "rows", "N", 0, INT, rows, "0", 0, 1e15,
        "only the first N training rows, a fair sample; 0: all"),
    ROW("Input", "set", "KEY=VALUE", 0, STRINGS, set, NULL, 0, 0,
        "set a key of every student, over its file; repeatable"),
    ROW("Runs", "seeds", "N,...", 0, INTS, seeds, NULL, 0, 1e15,
        "train each student once a seed (0-4 for a range)"),
    ROW("Runs", "control", NULL, 0, BOOL, control, "off", 0, 0,
        "also train each student without the teacher: loss.kd 0, loss.ce 1, same seeds, same batches"),
    ROW("Output", "out", "FOLDER", 'o', STRING, out, NULL, 0, 0, "where the trained models go"),
    ROW("Output", "resume", NULL, 0, BOOL, resume, "off", 0, 0,
        "go on with unfinished runs, leave finished ones as they are"),
    ROW("Output", "force", NULL, 0, BOOL, force, "off", 0, 0,
        "start over and replace what is there; with --resume only what was made differently"),
    ROW("Output", "checkpoint-seconds", "S", 0, INT, checkpoint_seconds, "60", 0, 1e9,
        "save the state of training that often; 0: at the end of each epoch"),
    ROW("Output", "keep", "N", 0, INT, keep, "3", 1, 1000, "saved states to keep of each run"),
    ROW("Output", "log-steps", "N", 0, INT, log_steps, "0", 0, 1e12,
        "a line of metrics.jsonl every N steps, besides those of epochs; 0: none"),
    ROW("Output", "tensorboard", NULL, 0, BOOL, tensorboard, "off", 0, 0,
        "write metrics.jsonl as an event file of TensorBoard, too"),
    ROW("Output", "dry-run", NULL, 'n', BOOL, dry_run, "off", 0, 0,
        "check everything, print what would be trained and its memory, write nothing"),
    ROW("Speed", "window-rows", "N", 0, INT, window_rows, "65536", 1, 1e12,
        "rows shuffled together and held in memory; part of the order of rows"),
    ROW("Lists", "list-losses", NULL, 0, BOOL, list_losses, "off", 0, 0,
        "list the objectives a loss can mix"),
    ROW("Lists", "list-keys", NULL, 0, BOOL, list_keys, "off", 0, 0,
        "list the keys of a student's YAML with their defaults"),
};

static const kd_example examples[] = {
    {"kd-train -s fashion.kd teacher.yaml -o runs/teacher", "train one model on the labels: a teacher"},
    {"kd-train -s fashion.kd a.yaml b.yaml c.yaml --seeds 0-2 --control -o runs/students",
     "eighteen runs in one pass: three students, three seeds, with the teacher and without"},
    {"kd-train -s fashion.kd a.yaml --set train.epochs=1 --set loss.temperature=2 -o runs/try",
     "change keys of the file"},
    {"kd-train -s fashion.kd a.yaml -o runs/a --resume", "go on after an interruption"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-train",
    .summary = "train one or many students in one pass over a store",
    .synopsis = "[options] -s STORE -o FOLDER STUDENT.yaml ...",
    .description =
        "A single STUDENT.yaml without --seeds and --control is trained with seed 0 into FOLDER itself. "
        "Otherwise "
        "each run has a folder of its own, FOLDER/NAME/ROLE/seed-N, where ROLE is distilled (learns from the "
        "teacher's logits in the store, loss.kd > 0) or plain (labels only).\n"
        "The teacher itself is not needed: its logits come from the store. A model that is trained on labels "
        "into "
        "FOLDER itself has the role teacher and can be the next kd-dump's --teacher.\n"
        "While it trains a run is FOLDER.part, with metrics.jsonl and saved states (SIGTERM, SIGUSR1 and "
        "SIGINT save one more "
        "and exit 5; --resume goes on from the newest that is whole); a finished run holds "
        "config.json, "
        "model.safetensors, metrics.jsonl and provenance.json. The weights depend on the student, its seed "
        "and the "
        "instruction set, not on threads, other students or interruptions.\n"
        "Students with the same seed and batch size read the same batches; whatever their number, each chunk "
        "of the "
        "store is decoded once an epoch.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-eval(1), kd-store(1)",
};

/* ---- lists -------------------------------------------------------------------------------- */

static void list_losses(void)
{
    char needs[160];
    const char *sets, *preset;
    const kd_objective *o;
    for (size_t i = 0; (o = kd_loss_list(i)); i++)
        printf("%s\n    %s\n    needs: %s\n    keys:  weight=1%s%s\n    from:  %s\n", o->name, o->formula,
               kd_loss_needs_text(o->needs, needs, sizeof(needs)), *o->keys ? "," : "", o->keys, o->source);
    for (size_t i = 0; (preset = kd_loss_preset(i, &sets)); i++) {
        printf("preset %s\n", preset);
        for (const char *line = sets; *line; line += strcspn(line, "\n") + 1)
            printf("    %.*s\n", (int)strcspn(line, "\n"), line);
    }
}

static void list_table(const kd_option *o, size_t n)
{
    char expects[256];
    for (size_t i = 0; i < n; i++)
        printf("%s\n    %s [%s]; %s\n", o[i].key, o[i].help, o[i].value ? o[i].value : "none",
               kd_option_expects(&o[i], expects, sizeof(expects)));
}

static void list_keys(void)
{
    list_table(kd_student_options, kd_student_options_n);
    list_table(kd_view_options, kd_view_options_n);
    list_table(kd_model_options, kd_model_options_n);
    list_table(kd_loss_options, kd_loss_options_n);
    list_table(kd_train_options, kd_train_options_n);
}

/* ---- adding students ---------------------------------------------------------------------- */

/* One YAML file in one role, over all seeds. */
static kd_status add_runs(const kd_cli *c, const train_opts *o, kd_trainer *t, const kd_student_spec *s,
                          bool flat, kd_err *err)
{
    const char *role = kd_loss_spec_distils(&s->loss) ? "distilled" : flat ? "teacher" : "plain";
    kd_status st = KD_OK;
    for (size_t i = 0; i < (o->seeds.n ? o->seeds.n : 1) && !st; i++) {
        int64_t seed = o->seeds.n ? o->seeds.v[i] : 0;
        const char *out = o->out ? o->out : "dry-run";
        bool skipped;
        char *folder =
            flat ? kd_strdup(out) : kd_sprintf("%s/%s/%s/seed-%lld", out, s->name, role, (long long)seed);
        st = folder ? kd_trainer_add(t, s, (uint64_t)seed, role, folder, &skipped, err)
                    : kd_fail(err, KD_ENOMEM, "out of memory");
        if (!st && skipped && c->common.verbose) kd_cli_say(c, "%s: finished before, left as it is", folder);
        free(folder);
    }
    return st;
}

static kd_status add_file(const kd_cli *c, const train_opts *o, kd_trainer *t, const char *path, bool flat,
                          kd_err *err)
{
    kd_student_spec s;
    kd_status st = kd_student_load(&s, path, &o->set, err);
    if (st) return st;
    bool distilled = kd_loss_spec_distils(&s.loss);
    st = add_runs(c, o, t, &s, flat, err);
    kd_student_release(&s);
    if (st || !o->control || !distilled) return st;
    // The twin without the teacher is the same file with another loss, nothing more.
    kd_strings twin = {.v = calloc(o->set.n + 4, sizeof(char *)), .n = o->set.n + 4};
    if (!twin.v) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (o->set.n) memcpy(twin.v, o->set.v, o->set.n * sizeof(char *));
    twin.v[o->set.n] = "loss.kd=0";
    twin.v[o->set.n + 1] = "loss.ce=1";
    twin.v[o->set.n + 2] = "loss.terms=";
    twin.v[o->set.n + 3] = "loss.preset=";
    if (!(st = kd_student_load(&s, path, &twin, err))) {
        st = add_runs(c, o, t, &s, false, err);
        kd_student_release(&s);
    }
    free(twin.v);
    return st;
}

/* ---- reporting ---------------------------------------------------------------------------- */

static void show_progress(void *arg, const kd_train_progress *p)
{
    char extra[80];
    kd_progress *pr = arg;
    snprintf(extra, sizeof(extra), "epoch %lld loss %.4f lr %.3g", (long long)p->epoch + 1, p->loss, p->lr);
    pr->total = p->steps;
    kd_progress_set(pr, p->step, extra);
}

static void cell_number(kd_table *tb, const char *fmt, double v)
{
    char text[40] = "-";
    if (isfinite(v))
        snprintf(text, sizeof(text), fmt[0] == '4' ? "%.4f" : fmt[0] == '2' ? "%.2f" : "%.1f", v);
    kd_table_cell(tb, "%s", text);
}

static kd_status print_table(const kd_trainer *t, bool dry, kd_err *err)
{
    static const char *const head[] = {"student", "role",       "seed",    "params",  "epochs",
                                       "loss",    "valid loss", "valid %", "seconds", "state"};
    kd_table *tb = kd_table_create();
    if (!tb) return kd_fail(err, KD_ENOMEM, "no memory for the table");
    for (size_t i = 0; i < KD_COUNT(head); i++) kd_table_cell(tb, "%s", head[i]);
    kd_table_row(tb);
    for (size_t i = 0; i < kd_trainer_students(t); i++) {
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
        kd_table_row(tb);
    }
    kd_table_print(tb, stdout, false);
    kd_table_free(tb);
    return KD_OK;
}

static json_t *report_json(const kd_trainer *t, const kd_store *s, uint64_t trained, double seconds)
{
    json_t *o = json_pack("{s:i, s:{s:s, s:s, s:I}, s:I, s:f, s:f}", "schema", 1, "store", "path",
                          kd_store_path(s), "root", kd_store_root(s), "rows", (json_int_t)kd_store_rows(s),
                          "rows_trained", (json_int_t)trained, "seconds", seconds, "rows_per_s",
                          seconds > 0 ? (double)trained / seconds : 0);
    json_t *runs = kd_trainer_json(t);
    bool failed = !o || !runs || json_object_update(o, runs);
    json_decref(runs);
    if (!failed) return o;
    json_decref(o);
    return NULL;
}

/* What will be computed, before an hour is spent on it. */
static void say_plan(const kd_cli *c, const kd_trainer *t)
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

static void note_end(kd_cli *c, const kd_trainer *t, const train_opts *o, uint64_t trained, double seconds)
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

/* ---- running ------------------------------------------------------------------------------ */

typedef struct watch {
    kd_progress progress;
    uint64_t rows;
} watch;

static void on_progress(void *arg, const kd_train_progress *p)
{
    watch *w = arg;
    w->rows = p->rows;
    show_progress(&w->progress, p);
}

static kd_status check_opts(const kd_cli *c, const train_opts *o, kd_err *err)
{
    if (!o->store) return kd_fail(err, KD_EUSAGE, "no store given; name one: -s STORE");
    if (!c->nargs)
        return kd_fail(err, KD_EUSAGE, "no student given; name one or more YAML files behind the options");
    if (!o->out && !o->dry_run)
        return kd_fail(err, KD_EUSAGE, "no folder for the results given; name one: -o FOLDER");
    return KD_OK;
}

static kd_status train(kd_cli *c, const train_opts *o, kd_trainer *t, const kd_store *s, kd_err *err)
{
    watch w = {.rows = 0};
    size_t warned = 0;
    const char *warning;
    kd_status st = kd_trainer_plan(t, err);
    if (st) return st;
    say_plan(c, t);
    double start = kd_now();
    if (!o->dry_run) {
        kd_progress_begin(&w.progress, c, "train", "steps", 0);
        st = kd_trainer_run(t, &kd_stop_requested, on_progress, &w, err);
        kd_progress_end(&w.progress);
    }
    double seconds = kd_now() - start;
    while ((warning = kd_trainer_warning(t, warned++))) kd_cli_warn(c, "%s", warning);
    if (st && st != KD_ENUMERIC) return st;
    kd_err late = {0}; // a diverged student is an error, but the others' figures are still wanted
    if (!o->dry_run) note_end(c, t, o, w.rows, seconds);
    json_t *report = c->common.json ? report_json(t, s, w.rows, seconds) : NULL;
    kd_status shown = report           ? kd_cli_print_json(report, &late)
                      : c->common.json ? kd_fail(&late, KD_ENOMEM, "no memory for the report")
                                       : print_table(t, o->dry_run, &late);
    return st ? st : shown ? kd_fail(err, shown, "%s", late.msg) : KD_OK;
}

static kd_status run(kd_cli *c, const train_opts *o, kd_err *err)
{
    kd_store *s = NULL;
    kd_trainer *t = NULL;
    char *command = kd_cli_command(c->argc, c->argv);
    kd_trainer_params p = kd_trainer_default_params();
    kd_status st = check_opts(c, o, err);
    if (st || (st = kd_store_open(&s, o->store, err))) goto out;
    p.threads = (int)c->common.threads;
    p.rows = (uint64_t)o->rows;
    p.window_rows = (uint64_t)o->window_rows;
    p.checkpoint_seconds = o->checkpoint_seconds;
    p.checkpoint_keep = o->keep;
    p.log_steps = (uint64_t)o->log_steps;
    p.tensorboard = o->tensorboard;
    p.resume = o->resume;
    p.force = o->force;
    p.command = command;
    if ((st = kd_trainer_create(&t, s, &p, err))) goto out;
    bool flat = c->nargs == 1 && !o->seeds.n && !o->control;
    for (int i = 0; i < c->nargs && !st; i++) st = add_file(c, o, t, c->args[i], flat, err);
    if (!st) st = train(c, o, t, s, err);
out:
    kd_trainer_free(t);
    kd_store_close(s);
    free(command);
    return st;
}

int main(int argc, char **argv)
{
    train_opts o;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    if (!kd_cli_parse(&cli, &err)) {
        if (o.list_losses)
            list_losses();
        else if (o.list_keys)
            list_keys();
        else
            run(&cli, &o, &err);
    }
    return kd_cli_finish(&cli, &err);
}
