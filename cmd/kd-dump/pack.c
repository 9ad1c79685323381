/* pack.c - a data set into a store. */
#include "dump_cmd.h"

#include <stdlib.h>

static void warn_duplicates(const kd_cli *c, const kd_pack_report *r)
{
    if (r->leaks)
        kd_cli_warn(
            c, "%llu training rows are also in the test files: test figures will be better than they should",
            (unsigned long long)r->leaks);
    if (r->left_out)
        kd_cli_say(c, "%llu texts are left out: nothing in them is to be predicted",
                   (unsigned long long)r->left_out);
    if (r->duplicates > r->leaks)
        kd_cli_say(c, "%llu rows are copies of another row", (unsigned long long)r->duplicates);
}

static void print_plan(const kd_pack_report *r)
{
    char bytes[32];
    printf("rows     %llu: train %llu, valid %llu, test %llu\n", (unsigned long long)r->rows,
           (unsigned long long)r->split_rows[KD_TRAIN], (unsigned long long)r->split_rows[KD_VALID],
           (unsigned long long)r->split_rows[KD_TEST]);
    if (r->classes) printf("classes  %lld\n", (long long)r->classes);
    if (r->vocabulary)
        printf("tokens   %llu of a vocabulary of %u; the longest text has %llu, %llu texts are cut there\n",
               (unsigned long long)r->tokens, r->vocabulary, (unsigned long long)r->longest,
               (unsigned long long)r->cut);
    else
        printf("input    (raw - %.6g) * %.6g\n", r->mean, r->scale);
    printf("copies   %llu, of them leaks from test files %llu\n", (unsigned long long)r->duplicates,
           (unsigned long long)r->leaks);
    printf("bytes    %s raw\n", kd_fmt_bytes(bytes, (double)r->raw_bytes));
}

/* store and seconds: NULL and 0 for a dry run. */
static json_t *report_json(const kd_cli *c, const kd_pack_report *r, const kd_store *s, double seconds)
{
    json_t *j = json_pack("{s:i, s:s, s:I, s:{s:I, s:I, s:I}, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:o?}",
                          "schema", 1, "tool", c->tool->name, "rows", (json_int_t)r->rows, "splits", "train",
                          (json_int_t)r->split_rows[KD_TRAIN], "valid", (json_int_t)r->split_rows[KD_VALID],
                          "test", (json_int_t)r->split_rows[KD_TEST], "duplicates", (json_int_t)r->duplicates,
                          "leaks", (json_int_t)r->leaks, "classes", (json_int_t)r->classes, "mean", r->mean,
                          "scale", r->scale, "source_bytes", (json_int_t)r->source_bytes, "raw_bytes",
                          (json_int_t)r->raw_bytes, "config", kd_config_json(&c->config));
    if (j && r->vocabulary)
        json_object_set_new(j, "texts",
                            json_pack("{s:I, s:I, s:I, s:I}", "tokens", (json_int_t)r->tokens, "longest",
                                      (json_int_t)r->longest, "cut", (json_int_t)r->cut, "vocabulary",
                                      (json_int_t)r->vocabulary));
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
    if (r->vocabulary)
        kd_cli_note(c, "%s tokens, the longest text has %llu, %llu were cut",
                    kd_fmt_count(rate, (double)r->tokens), (unsigned long long)r->longest,
                    (unsigned long long)r->cut);
    kd_cli_note(c, "%s in, %s out, ratio %.2f", kd_fmt_bytes(in, (double)r->raw_bytes),
                kd_fmt_bytes(out, (double)kd_store_bytes(s)),
                (double)r->raw_bytes / (double)kd_store_bytes(s));
    kd_cli_note(c, "%s", kd_store_path(s));
    if (c->common.json) st = kd_cli_print_json(report_json(c, r, s, seconds), err);
    kd_store_close(s);
    return st;
}

kd_status dump_pack(kd_cli *c, const dump_opts *o, const kd_data_spec *spec, kd_err *err)
{
    const kd_writer_params wp = dump_writer_params(c, o); // chunk rows and level are the spec's
    kd_pack_report r;
    kd_progress pr;
    double start = kd_now();
    kd_status st;
    if (c->nargs > 1) return kd_fail(err, KD_EUSAGE, "'%s': one data file at a time", c->args[1]);
    if (c->nargs && (st = kd_config_yaml(&c->config, c->args[0], err))) return st;
    if (o->views.count || o->shard)
        return kd_fail(
            err, KD_EUSAGE,
            "%s is for a teacher's pass: --teacher FOLDER --into STORE; parts are cut from a finished store",
            o->shard ? "--shard" : "--views");
    if (o->dry_run) return dry_run(c, spec, err);
    if (!o->out) return kd_fail(err, KD_EUSAGE, "no store named; say where to write: -o NAME.kd");
    char *command = kd_cli_command(c->argc, c->argv);
    kd_progress_begin(&pr, c, "pack", "rows", 0);
    st = kd_pack(spec, o->out, &wp, command, &kd_stop_requested, dump_progress, &pr, &r, err);
    kd_progress_end(&pr);
    free(command);
    return st ? st : report_pack(c, &r, o->out, kd_now() - start, err);
}
