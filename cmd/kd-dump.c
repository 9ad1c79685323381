/* kd-dump - packs a data set into a store, and adds a teacher's logits to it. */
#include "kd/cli.h"
#include "kd/data.h"
#include "kd/eval.h"
#include "kd/teacher.h"

#include <stdlib.h>
#include <string.h>

typedef struct dump_opts {
    char *out, *teacher, *into, *name, *dtype;
    int64_t batch;
    double commit;
    bool resume, force, dry_run;
} dump_opts;

static const kd_option rows[] = {
    {"Output", NULL, "out", "STORE", 'o', KD_OPTION_STRING, offsetof(dump_opts, out), NULL, 0, 0, NULL,
     "store to make, a folder; conventionally NAME.kd"},
    {"Output", NULL, "resume", NULL, 0, KD_OPTION_BOOL, offsetof(dump_opts, resume), "off", 0, 0, NULL,
     "go on with an unfinished run of the same data and options, if there is one"},
    {"Output", NULL, "force", NULL, 0, KD_OPTION_BOOL, offsetof(dump_opts, force), "off", 0, 0, NULL,
     "replace a finished store; drop an unfinished run that cannot be gone on with"},
    {"Output", NULL, "commit", "MIB", 0, KD_OPTION_REAL, offsetof(dump_opts, commit), "32", 0.001, 4096, NULL,
     "what is made durable at a time, in uncompressed MiB: the most that a kill can cost"},
    {"Output", NULL, "dry-run", NULL, 'n', KD_OPTION_BOOL, offsetof(dump_opts, dry_run), "off", 0, 0, NULL,
     "read and check the data, say what would be written, write nothing"},
    {"Teacher", NULL, "teacher", "FOLDER", 0, KD_OPTION_STRING, offsetof(dump_opts, teacher), NULL, 0, 0,
     NULL, "model folder to run over all rows of a store; its logits become columns"},
    {"Teacher", NULL, "into", "STORE", 0, KD_OPTION_STRING, offsetof(dump_opts, into), NULL, 0, 0, NULL,
     "finished store that the teacher reads and is added to"},
    {"Teacher", NULL, "name", "NAME", 0, KD_OPTION_STRING, offsetof(dump_opts, name), NULL, 0, 0, NULL,
     "what the store calls the teacher; without it the name in its config.json"},
    {"Teacher", NULL, "dtype", NULL, 0, KD_OPTION_CHOICE, offsetof(dump_opts, dtype), "f32", 0, 0, "f32|f16",
     "type of the stored logits; f16 takes half the room and rounds to 3 digits"},
    {"Teacher", NULL, "batch", "N", 0, KD_OPTION_INT, offsetof(dump_opts, batch), "256", 1, 65536, NULL,
     "rows a forward pass"},
};

static const kd_example examples[] = {
    {"kd-dump data.yaml -o fashion.kd", "pack the files that data.yaml names"},
    {"kd-dump data.yaml -o fashion.kd --resume", "go on after an interruption"},
    {"kd-dump --train-input x.npy --train-label y.npy -o my.kd", "without a YAML file"},
    {"kd-dump data.yaml --dry-run --json | jq .splits", "only look"},
    {"kd-dump --teacher runs/teacher --into fashion.kd",
     "run a teacher once; students then train from the store alone"},
    {"kd-dump --teacher runs/big --into fashion.kd --name big --dtype f16", "a second teacher beside it"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-dump",
    .summary = "pack a data set into a store; add a teacher's logits to it",
    .synopsis = "[options] [DATA.yaml] -o STORE | --teacher FOLDER --into STORE",
    .description =
        "DATA.yaml holds the options of the groups Data, Splits and Store under the key `data`; flags "
        "override it. File "
        "names are relative to the current folder.\n"
        "Rows are assigned to splits by a hash of their content, so equal rows land in one split, and stored "
        "in an order "
        "shuffled by the seed. The column `source` keeps their place in the files: test files count after "
        "training files.\n"
        "A row of the training files that is also in the test files is kept, counted and reported as a "
        "leak.\n"
        "With --teacher a model folder is run over all rows of a finished store, which gets a new segment; "
        "what was there "
        "is not touched. The teacher must have been trained on rows of the same shape, centring and classes. "
        "With --resume "
        "and --force together an unfinished pass that fits is gone on with, anything else is replaced.",
    .examples = examples,
    .see_also = "kd-train(1), kd-eval(1), kd-store(1)",
};

static void show_progress(void *arg, uint64_t done, uint64_t total)
{
    (void)total;
    kd_progress_set(arg, done, NULL);
}

/* ---- packing ------------------------------------------------------------------------------ */

static void warn_duplicates(const kd_cli *c, const kd_pack_report *r)
{
    if (r->leaks)
        kd_cli_warn(
            c, "%llu training rows are also in the test files: test figures will be better than they should",
            (unsigned long long)r->leaks);
    if (r->duplicates > r->leaks)
        kd_cli_say(c, "%llu rows are copies of another row", (unsigned long long)r->duplicates);
}

static void print_plan(const kd_pack_report *r)
{
    char bytes[32];
    printf("rows     %llu: train %llu, valid %llu, test %llu\n", (unsigned long long)r->rows,
           (unsigned long long)r->split_rows[KD_TRAIN], (unsigned long long)r->split_rows[KD_VALID],
           (unsigned long long)r->split_rows[KD_TEST]);
    printf("classes  %lld\n", (long long)r->classes);
    printf("input    (raw - %.6g) * %.6g\n", r->mean, r->scale);
    printf("copies   %llu, of them leaks from test files %llu\n", (unsigned long long)r->duplicates,
           (unsigned long long)r->leaks);
    printf("bytes    %s raw\n", kd_fmt_bytes(bytes, (double)r->raw_bytes));
}

/* store and seconds: NULL and 0 for a dry run. */
static json_t *report_json(const kd_cli *c, const kd_pack_report *r, const kd_store *s, double seconds)
{
    json_t *j = json_pack("{s:i, s:s, s:I, s:{s:I, s:I, s:I}, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:o?}",
                          "schema", 1, "tool", tool.name, "rows", (json_int_t)r->rows, "splits", "train",
                          (json_int_t)r->split_rows[KD_TRAIN], "valid", (json_int_t)r->split_rows[KD_VALID],
                          "test", (json_int_t)r->split_rows[KD_TEST], "duplicates", (json_int_t)r->duplicates,
                          "leaks", (json_int_t)r->leaks, "classes", (json_int_t)r->classes, "mean", r->mean,
                          "scale", r->scale, "source_bytes", (json_int_t)r->source_bytes, "raw_bytes",
                          (json_int_t)r->raw_bytes, "config", kd_config_json(&c->config));
    if (j && s) {
        json_object_set_new(j, "store", json_string(kd_store_path(s)));
        json_object_set_new(j, "root", json_string(kd_store_root(s)));
        json_object_set_new(j, "store_bytes", json_integer((json_int_t)kd_store_bytes(s)));
        json_object_set_new(j, "ratio", json_real((double)r->raw_bytes / (double)kd_store_bytes(s)));
        json_object_set_new(j, "written_rows", json_integer((json_int_t)r->written_rows));
        json_object_set_new(j, "seconds", json_real(seconds));
    }
    return j;
}

static kd_status dry_run(kd_cli *c, const kd_data_spec *spec, kd_err *err)
{
    kd_pack_report r;
    kd_status st = kd_pack_plan(spec, &r, err);
    if (st) return st;
    warn_duplicates(c, &r);
    kd_cli_note(c, "dry run, nothing written");
    if (c->common.json) return kd_cli_print_json(report_json(c, &r, NULL, 0), err);
    print_plan(&r);
    return KD_OK;
}

/* Opens what was sealed: the report's sizes come from what a reader sees. */
static kd_status report_pack(kd_cli *c, const kd_pack_report *r, const char *path, double seconds,
                             kd_err *err)
{
    kd_store *s;
    char in[32], out[32], rate[32];
    kd_status st = kd_store_open(&s, path, err);
    if (st) return st;
    warn_duplicates(c, r);
    kd_cli_note(c, "%llu rows, %s rows/s", (unsigned long long)r->rows,
                kd_fmt_count(rate, (double)r->written_rows / seconds));
    kd_cli_note(c, "%s in, %s out, ratio %.2f", kd_fmt_bytes(in, (double)r->raw_bytes),
                kd_fmt_bytes(out, (double)kd_store_bytes(s)),
                (double)r->raw_bytes / (double)kd_store_bytes(s));
    kd_cli_note(c, "%s", kd_store_path(s));
    if (c->common.json) st = kd_cli_print_json(report_json(c, r, s, seconds), err);
    kd_store_close(s);
    return st;
}

static kd_status run_pack(kd_cli *c, const dump_opts *o, const kd_data_spec *spec, kd_err *err)
{
    kd_writer_params wp = kd_writer_default_params();
    kd_pack_report r;
    kd_progress pr;
    double start = kd_now();
    kd_status st;
    if (c->nargs > 1) return kd_fail(err, KD_EUSAGE, "'%s': one data file at a time", c->args[1]);
    if (c->nargs && (st = kd_config_yaml(&c->config, c->args[0], err))) return st;
    if (o->dry_run) return dry_run(c, spec, err);
    if (!o->out) return kd_fail(err, KD_EUSAGE, "no store named; say where to write: -o NAME.kd");
    char *command = kd_cli_command(c->argc, c->argv);
    wp.resume = o->resume;
    wp.force = o->force;
    wp.commit_bytes = (size_t)(o->commit * 1048576);
    wp.threads = (int)c->common.threads;
    kd_progress_begin(&pr, c, "pack", "rows", 0);
    st = kd_pack(spec, o->out, &wp, command, &kd_stop_requested, show_progress, &pr, &r, err);
    kd_progress_end(&pr);
    free(command);
    return st ? st : report_pack(c, &r, o->out, kd_now() - start, err);
}

/* ---- the teacher's pass ------------------------------------------------------------------- */

/* {"valid": {"rows", "accuracy"}, ...} of the logits as they are stored; says each. Training rows are left
 * out: the teacher has seen their labels. */
static kd_status accuracy_json(kd_cli *c, kd_store *s, const char *name, int64_t batch, json_t **out,
                               kd_err *err)
{
    kd_status st = KD_OK;
    if (!(*out = json_object())) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (int split = KD_VALID; split < KD_SPLITS && !st; split++) {
        const kd_eval_params p = {.split = (kd_split)split,
                                  .teacher = name,
                                  .batch = batch,
                                  .threads = (int)c->common.threads};
        const uint64_t n = kd_store_split_rows(s, p.split);
        kd_measures m;
        if (!n || (st = kd_eval_teacher(&m, s, &p, err))) continue;
        kd_cli_say(c, "%s: accuracy %.4f on %llu %s rows", name, m.accuracy, (unsigned long long)n,
                   kd_split_name(p.split));
        json_object_set_new(*out, kd_split_name(p.split),
                            json_pack("{s:I, s:f}", "rows", (json_int_t)n, "accuracy", m.accuracy));
    }
    return st;
}

static kd_status report_teacher(kd_cli *c, const dump_opts *o, const char *name, double seconds, kd_err *err)
{
    kd_store *s;
    json_t *accuracy = NULL;
    char rate[32], bytes[32];
    kd_status st = kd_store_open(&s, o->into, err);
    if (st) return st;
    if ((st = accuracy_json(c, s, name, o->batch, &accuracy, err))) goto out;
    const json_t *t = kd_store_teacher(s, name);
    const double spent = json_number_value(json_object_get(t, "seconds"));
    const double ran = json_number_value(json_object_get(t, "seconds_rows"));
    kd_cli_note(c, "%llu rows, %s rows/s in the teacher", (unsigned long long)kd_store_rows(s),
                kd_fmt_count(rate, spent > 0 ? ran / spent : 0));
    kd_cli_note(c, "%s, now %s", kd_store_path(s), kd_fmt_bytes(bytes, (double)kd_store_bytes(s)));
    if (c->common.json)
        st =
            kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:O?, s:O, s:f, s:o}", "schema", 1,
                                        "tool", tool.name, "store", kd_store_path(s), "root",
                                        kd_store_root(s), "rows", (json_int_t)kd_store_rows(s), "store_bytes",
                                        (json_int_t)kd_store_bytes(s), "teacher", t, "accuracy", accuracy,
                                        "seconds", seconds, "config", kd_config_json(&c->config)),
                              err);
out:
    json_decref(accuracy);
    kd_store_close(s);
    return st;
}

static kd_status check_teacher_use(const kd_cli *c, const dump_opts *o, kd_err *err)
{
    if (!o->teacher)
        return kd_fail(err, KD_EUSAGE, "--into %s: no teacher named; say which: --teacher FOLDER", o->into);
    if (!o->into)
        return kd_fail(err, KD_EUSAGE,
                       "--teacher %s: no store named; say which finished store to add it to: --into STORE",
                       o->teacher);
    if (o->out)
        return kd_fail(err, KD_EUSAGE, "-o %s makes a new store, --teacher adds to one; use one of them",
                       o->out);
    if (c->nargs)
        return kd_fail(err, KD_EUSAGE, "'%s': with --teacher the data are those of the store; leave it out",
                       c->args[0]);
    return KD_OK;
}

static kd_status run_teacher(kd_cli *c, const dump_opts *o, kd_err *err)
{
    kd_writer_params wp = kd_writer_default_params();
    kd_teacher *t = NULL;
    kd_store *s = NULL;
    kd_progress pr;
    double start = kd_now();
    char *name = NULL, *command = NULL;
    kd_status st = check_teacher_use(c, o, err);
    if (st || (st = kd_store_open(&s, o->into, err)) ||
        (st = kd_teacher_open(&t, o->teacher, o->batch, (int)c->common.threads, err)) ||
        (st = kd_teacher_check(t, s, err)))
        goto out;
    name = kd_strdup(o->name ? o->name : kd_teacher_name(t));
    command = kd_cli_command(c->argc, c->argv);
    if (!name || !command) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto out;
    }
    if (o->dry_run) {
        kd_cli_note(c, "%s (%s) fits %s, %llu rows; dry run, nothing written", name,
                    kd_teacher_fingerprint(t), kd_store_path(s), (unsigned long long)kd_store_rows(s));
        goto out;
    }
    wp.resume = o->resume;
    wp.force = o->force;
    wp.commit_bytes = (size_t)(o->commit * 1048576);
    wp.threads = (int)c->common.threads;
    kd_progress_begin(&pr, c, "teacher", "rows", kd_store_rows(s));
    st = kd_teacher_dump(t, s, name, kd_dtype_parse(o->dtype), &wp, command, &kd_stop_requested,
                         show_progress, &pr, NULL, err);
    kd_progress_end(&pr);
out:
    kd_teacher_close(t);
    kd_store_close(s); // opened anew for the report: the manifest has changed
    if (!st && !o->dry_run) st = report_teacher(c, o, name, kd_now() - start, err);
    free(name);
    free(command);
    return st;
}

static kd_status run(kd_cli *c, const dump_opts *o, const kd_data_spec *spec, kd_err *err)
{
    return o->teacher || o->into ? run_teacher(c, o, err) : run_pack(c, o, spec, err);
}

int main(int argc, char **argv)
{
    dump_opts o;
    kd_data_spec spec;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    kd_cli_table(&cli, kd_data_options, kd_data_options_n, &spec);
    if (!kd_cli_parse(&cli, &err)) run(&cli, &o, &spec, &err);
    return kd_cli_finish(&cli, &err);
}
