/* generate.c - kd-dump --generate: a language model's own answers to a store of prompts, as a new store. */
#include "dump_cmd.h"

#include <stdlib.h>
#include <string.h>

/* The one line about what else was asked for. */
static kd_status check_use(const dump_opts *o, kd_err *err)
{
    const char *other = o->plan          ? "--plan"
                        : o->check       ? "--check"
                        : o->list_taps   ? "--list-taps"
                        : o->mine        ? "--mine"
                        : o->tap.n       ? "--tap"
                        : o->views.count ? "--views"
                        : !o->logits     ? "--no-logits"
                        : o->segment     ? "--segment"
                                         : NULL;
    if (other)
        return kd_fail(
            err, KD_EUSAGE,
            "--generate makes a store of answers and their logits; %s is for passes over a store that "
            "is there: a second command",
            other);
    if (!o->out) return kd_fail(err, KD_EUSAGE, "--generate: where do the answers go? say -o ANSWERS.kd");
    if (o->into && !strcmp(o->into, o->out))
        return kd_fail(err, KD_EUSAGE, "-o %s: is the store of the prompts; answers are one of their own",
                       o->out);
    return KD_OK;
}

static kd_status report(kd_cli *c, const dump_opts *o, const char *name, const kd_dump_report *r, kd_err *err)
{
    kd_store *s;
    json_t *columns = NULL;
    char rate[32], bytes[32];
    kd_status st = kd_store_open(&s, o->out, err);
    if (st) return st;
    if ((st = dump_columns_json(c, s, "base", &columns, err))) goto out;
    kd_cli_note(c, "%llu rows, %llu tokens, of them %llu drawn, %s/s", (unsigned long long)kd_store_rows(s),
                (unsigned long long)r->tokens, (unsigned long long)r->predicted,
                kd_fmt_count(rate, r->teacher > 0 ? (double)r->predicted / r->teacher : 0));
    kd_cli_note(c, "%s, %s", kd_store_path(s), kd_fmt_bytes(bytes, (double)kd_store_bytes(s)));
    if (c->common.json)
        st = kd_cli_print_json(
            json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:O, s:O, s:f, s:f, s:o}", "schema", 1,
                      "tool", c->tool->name, "store", kd_store_path(s), "prompts", o->into, "root",
                      kd_store_root(s), "rows", (json_int_t)kd_store_rows(s), "written_rows",
                      (json_int_t)r->rows, "tokens", (json_int_t)r->tokens, "drawn", (json_int_t)r->predicted,
                      "columns", columns, "teacher", kd_store_teacher(s, name), "teacher_seconds", r->teacher,
                      "seconds", kd_now() - c->start, "config", kd_config_json(&c->config)),
            err);
out:
    json_decref(columns);
    kd_store_close(s);
    return st;
}

static kd_status dry_run(kd_cli *c, const dump_opts *o, const kd_teacher *t, const kd_store *s)
{
    kd_cli_note(c, "%s (%s) would answer %llu prompts of %s; dry run, nothing written", kd_teacher_name(t),
                kd_teacher_fingerprint(t), (unsigned long long)kd_store_rows(s), o->into);
    return KD_OK;
}

/* Of a part: its share of the prompts is cut out beside it, and removed in the end. */
static kd_status run(const dump_opts *o, kd_teacher *t, kd_store *s, kd_generate_params *p,
                     const kd_writer_params *wp, kd_dump_report *r, kd_err *err)
{
    dump_opts share = *o;
    kd_store *mine;
    char *path = NULL;
    if (!o->shard) return kd_teacher_generate(t, s, o->out, p, wp, r, err);
    if (kd_exists(o->out) && !o->force)
        return kd_fail(err, KD_EEXISTS, "%s: already there; --force replaces it", o->out);
    share.out = kd_sprintf("%s.prompts", o->out);
    kd_status st = share.out ? dump_shard_begin(&share, s, wp, p->command, &path, err)
                             : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && !(st = kd_store_open(&mine, path, err))) {
        p->sample = s;
        st = kd_teacher_generate(t, mine, o->out, p, wp, r, err);
        kd_store_close(mine);
        if (!st) st = kd_remove_tree(path, err);
    }
    free(path);
    free(share.out);
    return st;
}

kd_status dump_generate(kd_cli *c, const dump_opts *o, kd_err *err)
{
    const kd_writer_params wp = dump_writer_params(c, o);
    kd_generate_params p = kd_generate_default_params();
    kd_dump_report r = {0};
    kd_progress pr;
    kd_teacher *t = NULL;
    kd_store *s = NULL;
    char *command = kd_cli_command(c->argc, c->argv);
    kd_status st = command ? check_use(o, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st || (st = dump_open(c, o, &t, &s, err))) goto out;
    if (o->dry_run) {
        st = dry_run(c, o, t, s);
        goto out;
    }
    p.name = o->name ? o->name : kd_teacher_name(t);
    p.how = (kd_sampling){.temperature = o->temperature, .top_p = o->top_p, .seed = (uint64_t)o->draw_seed};
    p.prompt = o->prompt_tokens;
    p.answer = o->answer_tokens;
    p.rows = o->batch < KD_GENERATE_ROWS ? o->batch : KD_GENERATE_ROWS;
    p.dtype = kd_dtype_parse(o->dtype);
    p.encoding = o->encoding;
    p.command = command;
    p.stop = &kd_stop_requested;
    p.progress = dump_progress;
    p.arg = &pr;
    kd_progress_begin(&pr, c, "answers", "rows", 0);
    st = run(o, t, s, &p, &wp, &r, err);
    kd_progress_end(&pr);
    if (!st) st = report(c, o, p.name, &r, err);
out:
    kd_store_close(s);
    kd_teacher_close(t);
    free(command);
    return st;
}
