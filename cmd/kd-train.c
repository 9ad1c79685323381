/* kd-train - trains one or many students in one pass over a store. */
#include "kd-train/train_cmd.h"

#include <stdlib.h>

#define ROW(group, name, metavar, letter, type, field, value, lo, hi, help)                                  \
    {                                                                                                        \
        group, NULL, name, metavar, letter, KD_OPTION_##type, offsetof(train_opts, field), value, lo, hi,    \
            NULL, help                                                                                       \
    }
static const kd_option rows[] = {
    ROW("Input", "store", "STORE", 's', STRING, store, NULL, 0, 0, "sealed store to train from"),
    ROW("Input", "rows", "N", 0, INT, rows, "0", 0, 1e15,
        "only the first N training rows, a fair sample; 0: all"),
    ROW("Input", "drop-rows", "FILE", 0, STRINGS, drop_rows, NULL, 0, 0,
        "leave out the training rows of this list, as kd-audit writes it; repeatable"),
    ROW("Input", "only-rows", "FILE", 0, STRINGS, only_rows, NULL, 0, 0,
        "train on the rows of this list alone; repeatable"),
    ROW("Input", "set", "KEY=VALUE", 0, STRINGS, set, NULL, 0, 0,
        "set a key of every student, over its file; repeatable"),
    ROW("Runs", "seeds", "N,...", 0, INTS, seeds, NULL, 0, 1e15,
        "train each student once a seed (0-4 for a range)"),
    ROW("Runs", "sweep", "KEY=V,V,...", 0, STRINGS, sweep, NULL, 0, 0,
        "train each student once a value of a key (V;V where values hold commas); repeatable: all "
        "combinations"),
    ROW("Runs", "control", NULL, 0, BOOL, control, "off", 0, 0,
        "also train each student without the teacher: loss.kd 0, loss.ce 1, same seeds, same batches"),
    {"Runs", NULL, "select", NULL, 0, KD_OPTION_CHOICE, offsetof(train_opts, select), NULL, 0, 0,
     "valid_accuracy|valid_loss",
     "choose the best point of each student by its mean over the seeds on the validation rows, into "
     "FOLDER/selection.json"},
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
    ROW("Speed", "window-rows", "N", 0, INT, window_rows, "0", 0, 1e12,
        "rows shuffled together and held in memory; part of the order of rows; 0: 65536, fewer of long "
        "texts: as many as have about 2 million tokens"),
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
    {"kd-train -s fashion.kd a.yaml --sweep loss.temperature=1,2,4 --sweep train.lr=0.001,0.004 -o "
     "runs/sweep",
     "six students: a@temperature=1@lr=0.001 and so on"},
    {"kd-train -s fashion.kd a.yaml --sweep loss.temperature=1,2,4 --seeds 0-2 --select valid_accuracy -o "
     "runs/sweep",
     "the same over three seeds, and the best one chosen on the validation rows"},
    {"kd-train -s chat.kd small.yaml --set init.from=smollm.gguf --set init.layers=0,10,20,29 -o runs/small",
     "begin with four layers of the teacher, narrower where small.yaml is"},
    {"kd-train -s fashion.kd a.yaml -o runs/a --resume", "go on after an interruption"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-train",
    .summary = "train one or many students in one pass over a store",
    .synopsis = "[options] -s STORE -o FOLDER STUDENT.yaml ...",
    .description =
        "A single STUDENT.yaml without --seeds, --sweep, --select and --control is trained with seed 0 into "
        "FOLDER "
        "itself. "
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
        "With --sweep a student's file with one value of each key set over it is a student "
        "NAME@key=value@key=value. "
        "Controls leave the axes of the loss out. --select compares points that have all seeds, paired, and "
        "says how "
        "far behind the others are; kd-eval then reports the chosen point on the test rows.\n"
        "Students with the same seed and batch size read the same batches; whatever their number, each chunk "
        "of the "
        "store is decoded once an epoch.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-eval(1), kd-audit(1), kd-store(1)",
};

typedef struct watch {
    kd_progress progress;
    uint64_t rows;
} watch;

static void on_progress(void *arg, const kd_train_progress *p)
{
    char extra[80];
    watch *w = arg;
    snprintf(extra, sizeof(extra), "epoch %lld loss %.4f lr %.3g", (long long)p->epoch + 1, p->loss, p->lr);
    w->rows = p->rows;
    w->progress.total = p->steps;
    kd_progress_set(&w->progress, p->step, extra);
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

static kd_status print(kd_cli *c, const train_opts *o, const kd_trainer *t, const kd_store *s,
                       json_t *selection, uint64_t trained, double seconds, kd_err *err)
{
    if (c->common.json) {
        json_t *report = train_report_json(t, s, selection, trained, seconds);
        return report ? kd_cli_print_json(report, err) : kd_fail(err, KD_ENOMEM, "no memory for the report");
    }
    kd_status st = train_print_table(t, o->dry_run, err);
    if (st || !selection) return st;
    putchar('\n');
    return train_print_selection(selection, err);
}

static kd_status train(kd_cli *c, const train_opts *o, kd_trainer *t, const kd_store *s, kd_err *err)
{
    watch w = {.rows = 0};
    size_t warned = 0;
    const char *warning;
    json_t *selection = NULL;
    kd_status st = train_select_check(o, t, s, err);
    if (st || (st = kd_trainer_plan(t, err))) return st;
    train_say_plan(c, t);
    double start = kd_now();
    if (!o->dry_run) {
        kd_progress_begin(&w.progress, c, "train", "steps", 0);
        st = kd_trainer_run(t, &kd_stop_requested, on_progress, &w, err);
        kd_progress_end(&w.progress);
    }
    double seconds = kd_now() - start;
    while ((warning = kd_trainer_warning(t, warned++))) kd_cli_warn(c, "%s", warning);
    if (st && st != KD_ENUMERIC && st != KD_ESTOPPED) return st;
    kd_err late = {0}; // a diverged student or a stop is an error, but the figures so far are still wanted
    if (!o->dry_run) train_note_end(c, t, o, w.rows, seconds);
    const bool choose = o->select && !o->dry_run && st != KD_ESTOPPED;
    kd_status shown = choose ? train_select(&selection, o, t, &late) : KD_OK;
    if (!shown) shown = print(c, o, t, s, selection, w.rows, seconds, &late);
    json_decref(selection);
    return st ? st : shown ? kd_fail(err, shown, "%s", late.msg) : KD_OK;
}

static kd_status run(kd_cli *c, const train_opts *o, kd_err *err)
{
    kd_store *s = NULL;
    kd_trainer *t = NULL;
    kd_sweep *w = NULL;
    uint8_t *drop = NULL;
    char *command = kd_cli_command(c->argc, c->argv);
    kd_trainer_params p = kd_trainer_default_params();
    kd_status st = check_opts(c, o, err);
    if (st || (st = kd_sweep_create(&w, &o->sweep, err)) || (st = kd_store_open(&s, o->store, err)) ||
        (st = train_read_rows(&drop, c, o, s, err)))
        goto out;
    p.drop = drop;
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
    bool flat = c->nargs == 1 && !o->seeds.n && !o->control && !o->sweep.n && !o->select;
    for (int i = 0; i < c->nargs && !st; i++) st = train_add_file(c, o, t, w, c->args[i], flat, err);
    if (!st) st = train(c, o, t, s, err);
out:
    kd_trainer_free(t);
    kd_sweep_free(w);
    kd_store_close(s);
    free(drop);
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
            train_list_losses();
        else if (o.list_keys)
            train_list_keys();
        else
            run(&cli, &o, &err);
    }
    return kd_cli_finish(&cli, &err);
}
