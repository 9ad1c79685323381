/* teacher.c - a teacher's pass over a finished store, or over a part of it. */
#include "dump_cmd.h"

#include "kd/eval.h"

#include <stdlib.h>
#include <string.h>

/* ---- the report ------------------------------------------------------------------------------- */

/* Whether the store has logits of the teacher for its rows, in a form that gives every class back. */
static bool has_all_classes(const kd_store *s, const char *name)
{
    const int at = kd_store_find_role(s, KD_ROLE_LOGITS, name);
    if (at < 0) return false;
    const kd_column *c = kd_store_column(s, (size_t)at);
    const kd_codec_info *info = kd_codec_find(c->encoding);
    return c->dims[0] > 0 && (!info || !info->sparse);
}

/* {"valid": {"rows", "accuracy"}, ...} of the logits as they are stored; says each. Training rows are left
 * out: the teacher has seen their labels. */
static kd_status accuracy_json(kd_cli *c, kd_store *s, const char *name, int64_t batch, json_t **out,
                               kd_err *err)
{
    kd_status st = KD_OK;
    if (!(*out = json_object())) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (!has_all_classes(s, name) || kd_store_find_role(s, KD_ROLE_LABEL, NULL) < 0) return KD_OK;
    for (int split = KD_VALID; split < KD_SPLITS && !st; split++) {
        const kd_eval_params p = {.split = (kd_split)split,
                                  .teacher = name,
                                  .batch = batch,
                                  .threads = (int)c->common.threads};
        const uint64_t n = kd_store_split_rows(s, p.split);
        kd_measures m;
        if (!n || (st = kd_eval_teacher(&m, s, &p, err))) continue;
        kd_cli_say(c, "%s: accuracy %.4f on %llu %s rows", name, m.v[KD_M_ACCURACY], (unsigned long long)n,
                   kd_split_name(p.split));
        json_object_set_new(*out, kd_split_name(p.split),
                            json_pack("{s:I, s:f}", "rows", (json_int_t)n, "accuracy", m.v[KD_M_ACCURACY]));
    }
    return st;
}

/* Opens the store anew: its manifest has changed. */
static kd_status report(kd_cli *c, const dump_opts *o, const kd_dump_params *p, const kd_dump_report *r,
                        const char *path, kd_err *err)
{
    kd_store *s;
    json_t *accuracy = NULL, *columns = NULL;
    char rate[32], bytes[32], segment[KD_STORE_NAME_MAX];
    kd_status st = kd_store_open(&s, path, err);
    if (st) return st;
    if ((st = kd_dump_segment(p, p->name, segment, err)) ||
        (st = dump_columns_json(c, s, segment, &columns, err)) ||
        (p->logits && (st = accuracy_json(c, s, p->name, o->batch, &accuracy, err))))
        goto out;
    kd_cli_note(c, "%llu rows, %s rows/s in the teacher", (unsigned long long)kd_store_rows(s),
                kd_fmt_count(rate, r->teacher > 0 ? (double)r->rows / r->teacher : 0));
    if (r->tokens)
        kd_cli_note(c, "%llu tokens, %s of them a second, %llu are predicted", (unsigned long long)r->tokens,
                    kd_fmt_count(rate, r->teacher > 0 ? (double)r->tokens / r->teacher : 0),
                    (unsigned long long)r->predicted);
    kd_cli_note(c, "teacher %.0f %% of %.1f s", 100 * r->teacher / r->seconds, r->seconds);
    kd_cli_note(c, "%s, now %s", kd_store_path(s), kd_fmt_bytes(bytes, (double)kd_store_bytes(s)));
    if (c->common.json) {
        json_t *teacher = json_deep_copy(kd_store_teacher(s, p->name)); // of this pass, not of the first one
        json_object_set_new(teacher, "seconds", json_real(r->teacher));
        json_object_set_new(teacher, "seconds_rows", json_integer((json_int_t)r->rows));
        if (r->tokens) {
            json_object_set_new(teacher, "seconds_tokens", json_integer((json_int_t)r->tokens));
            json_object_set_new(teacher, "seconds_predicted", json_integer((json_int_t)r->predicted));
        }
        st =
            kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:s, s:O, s:o?, s:O*, s:f, s:f, s:o}",
                                        "schema", 1, "tool", c->tool->name, "store", kd_store_path(s), "root",
                                        kd_store_root(s), "rows", (json_int_t)kd_store_rows(s), "store_bytes",
                                        (json_int_t)kd_store_bytes(s), "segment", segment, "columns", columns,
                                        "teacher", teacher, "accuracy", accuracy, "pass_seconds", r->seconds,
                                        "seconds", kd_now() - c->start, "config", kd_config_json(&c->config)),
                              err);
    }
out:
    json_decref(accuracy);
    json_decref(columns);
    kd_store_close(s);
    return st;
}

/* ---- the pass --------------------------------------------------------------------------------- */

static kd_status dry_run(kd_cli *c, const kd_dump_params *p, kd_teacher *t, const kd_store *s, kd_err *err)
{
    char segment[KD_STORE_NAME_MAX], codec[16];
    const char *encodings[] = {p->encoding, p->feature_encoding};
    kd_status st = kd_dump_segment(p, p->name, segment, err);
    for (size_t i = 0; i < KD_COUNT(encodings) && !st; i++) {
        json_t *params = NULL;
        if (encodings[i]) st = kd_codec_parse(encodings[i], codec, &params, err);
        json_decref(params);
    }
    if (!st) st = kd_teacher_take(t, p->taps, p->ntaps, err);
    if (!st && p->views->count) {
        const int input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
        st = kd_view_check(p->views, kd_store_column(s, (size_t)input), err);
    }
    if (st) return st;
    kd_cli_note(c, "%s (%s) fits %s, %llu rows, segment %s; dry run, nothing written", p->name,
                kd_teacher_fingerprint(t), kd_store_path(s), (unsigned long long)kd_store_rows(s), segment);
    if (!c->common.json) return KD_OK;
    return kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:I, s:s, s:s, s:s, s:o}", "schema", 1, "tool",
                                       c->tool->name, "store", kd_store_path(s), "rows",
                                       (json_int_t)kd_store_rows(s), "segment", segment, "teacher", p->name,
                                       "fingerprint", kd_teacher_fingerprint(t), "config",
                                       kd_config_json(&c->config)),
                             err);
}

/* The options as parameters; taps: room for all of them. */
static kd_status make_params(const dump_opts *o, const kd_teacher *t, kd_tap *taps, kd_dump_params *p,
                             kd_err *err)
{
    kd_status st = KD_OK;
    *p = kd_dump_default_params();
    p->name = o->name ? o->name : kd_teacher_name(t);
    p->segment = o->segment;
    p->logits = o->logits;
    p->dtype = kd_dtype_parse(o->dtype);
    p->encoding = o->encoding;
    p->feature_encoding = o->feature_encoding;
    p->taps = taps;
    p->ntaps = o->tap.n;
    p->views = &o->views;
    p->stop = &kd_stop_requested;
    p->progress = dump_progress;
    if (o->tap.n > KD_TEACHER_TAPS)
        return kd_fail(err, KD_EUSAGE, "--tap: %zu of them, at most %d", o->tap.n, KD_TEACHER_TAPS);
    for (size_t i = 0; i < o->tap.n && !st; i++) st = kd_tap_parse(&taps[i], o->tap.v[i], err);
    return st;
}

/* Whether an earlier run has finished this very segment: it was stopped before the part got its name. */
static bool has_segment(const kd_store *s, const kd_dump_params *p)
{
    char segment[KD_STORE_NAME_MAX];
    bool there = false;
    if (kd_dump_segment(p, p->name, segment, NULL)) return false;
    for (size_t i = 0; i < kd_store_columns(s); i++)
        there = there || !strcmp(kd_store_column(s, i)->segment, segment);
    return there;
}

/* The pass over a part: path is the store --shard was cut into. */
static kd_status run_part(kd_cli *c, const dump_opts *o, kd_teacher *t, kd_dump_params *p, kd_dump_report *r,
                          const char *path, kd_err *err)
{
    const kd_writer_params wp = dump_writer_params(c, o);
    kd_err why = {0};
    kd_store *s;
    kd_status st = kd_store_open(&s, path, err);
    if (st) return st;
    st = kd_teacher_dump(t, s, p, &wp, r, &why);
    const bool done = st == KD_EEXISTS && o->resume && strcmp(path, o->out) && has_segment(s, p);
    kd_store_close(s);
    if (st && !done) return kd_fail(err, st, "%s", why.msg);
    return dump_shard_end(o, path, err);
}

kd_status dump_teacher(kd_cli *c, const dump_opts *o, kd_err *err)
{
    const kd_writer_params wp = dump_writer_params(c, o);
    kd_tap taps[KD_TEACHER_TAPS];
    kd_dump_params p;
    kd_dump_report r = {0};
    kd_teacher *t = NULL;
    kd_store *s = NULL;
    kd_progress pr;
    char *part = NULL, *command = kd_cli_command(c->argc, c->argv);
    kd_status st = command ? dump_open(c, o, &t, &s, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st || (st = make_params(o, t, taps, &p, err))) goto out;
    p.command = command;
    p.arg = &pr;
    if (o->shard && (st = dump_shard_begin(o, s, &wp, command, &part, err))) goto out;
    if (o->dry_run) {
        st = dry_run(c, &p, t, s, err);
        goto out;
    }
    p.sample = part ? s : NULL;
    kd_progress_begin(&pr, c, "teacher", "rows", part ? 0 : kd_store_rows(s));
    st = part ? run_part(c, o, t, &p, &r, part, err) : kd_teacher_dump(t, s, &p, &wp, &r, err);
    kd_progress_end(&pr);
    if (!st) st = report(c, o, &p, &r, part ? o->out : o->into, err);
out:
    kd_store_close(s);
    kd_teacher_close(t);
    free(part);
    free(command);
    return st;
}
