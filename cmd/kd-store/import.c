/* import.c - a teacher's outputs that another program wrote become columns. */
#include "store_cmd.h"

#include "kd/exchange.h"

#include <stdlib.h>

static kd_import_params params_of(const kd_cli *c, const store_opts *o)
{
    kd_import_params p = kd_import_default_params();
    p.name = o->name;
    p.segment = o->segment;
    p.encoding = o->encoding;
    p.feature_encoding = o->feature_encoding;
    p.dtype = o->dtype;
    p.ids = o->ids;
    p.order = o->order;
    p.role = o->role;
    p.tap = o->tap;
    p.field = o->field;
    p.fingerprint = o->fingerprint;
    p.classes = o->classes;
    p.split = o->split ? (kd_split)kd_split_parse(o->split) : KD_TRAIN;
    p.writer = store_writer_params(c, o);
    if (o->level) p.writer.level = (int)o->level;
    p.stop = &kd_stop_requested;
    return p;
}

static void warn(const kd_cli *c, const kd_import_report *r)
{
    if (r->left_out[0])
        kd_cli_say(c, "left out, their names say nothing: %s; take one with --field", r->left_out);
    if (r->over_one)
        kd_cli_warn(
            c,
            "%llu positions have probabilities that add up to more than 1 (by up to %.3g): their tail is 0",
            (unsigned long long)r->over_one, r->worst);
    if (r->dropped)
        kd_cli_say(c, "%llu entries beyond the encoding's k went into the tail",
                   (unsigned long long)r->dropped);
}

static json_t *figures(const kd_import_report *r)
{
    return json_pack("{s:I, s:I, s:I, s:f, s:I, s:s}", "imported_columns", (json_int_t)r->columns,
                     "positions", (json_int_t)r->positions, "over_one", (json_int_t)r->over_one, "worst",
                     r->worst, "dropped", (json_int_t)r->dropped, "left_out", r->left_out);
}

/* import FILE.kld -o OUT.kd */
static kd_status import_kld(kd_cli *c, const store_opts *o, const kd_import_params *p, kd_import_report *r,
                            kd_err *err)
{
    bool kld = false;
    kd_status st = kd_is_kld(c->args[1], &kld, err);
    if (st) return st;
    if (!kld)
        return kd_fail(
            err, KD_EUSAGE,
            "%s: only a .kld file makes a store of its own (-o); others are imported into a store: "
            "kd-store import STORE %s",
            c->args[1], c->args[1]);
    if (c->nargs > 2)
        return kd_fail(err, KD_EUSAGE, "a new store is made of one .kld file, here are %d", c->nargs - 1);
    return kd_import_kld(o->out, c->args[1], p, r, err);
}

/* import STORE FILE... */
static kd_status import_files(kd_cli *c, const kd_import_params *p, kd_import_report *r, kd_err *err)
{
    kd_store *s = NULL;
    if (c->nargs < 3)
        return kd_fail(err, KD_EUSAGE,
                       "no file to import; needed is: kd-store import STORE FILE... --name NAME");
    kd_status st = kd_store_open(&s, c->args[1], err);
    if (!st) st = kd_import(s, (const char *const *)&c->args[2], (size_t)c->nargs - 2, p, r, err);
    kd_store_close(s);
    return st;
}

kd_status store_import(kd_cli *c, const store_opts *o, kd_err *err)
{
    kd_import_params p = params_of(c, o);
    kd_import_report r = {0};
    kd_progress bar;
    char *command = kd_cli_command(c->argc, c->argv);
    p.command = command;
    kd_progress_begin(&bar, c, "import", "rows", 0);
    p.progress = store_progress;
    p.arg = &bar;
    kd_status st = o->out ? import_kld(c, o, &p, &r, err) : import_files(c, &p, &r, err);
    kd_progress_end(&bar);
    free(command);
    if (st) return st;
    warn(c, &r);
    return store_report(c, o->out ? o->out : c->args[1], "imported", figures(&r), err);
}
