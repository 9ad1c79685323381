/* check.c - --check: does a store hold what the teacher says? */
#include "dump_cmd.h"

#include <stdlib.h>

static kd_status print(kd_cli *c, const kd_recheck *r, size_t n, const char *store, kd_err *err)
{
    json_t *all = json_array();
    kd_table *t = kd_table_create();
    static const char *const head[] = {"column",   "rows",  "largest difference",
                                       "relative", "top-1", "verdict"};
    for (size_t i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    kd_table_row(t);
    for (size_t i = 0; i < n; i++) {
        kd_table_cell(t, "%s", r[i].column);
        kd_table_cell(t, "%llu", (unsigned long long)r[i].rows);
        kd_table_cell(t, "%.3g", r[i].largest);
        kd_table_cell(t, "%.3g", r[i].relative);
        kd_table_cell(t, "%.4f", r[i].top1);
        kd_table_cell(t, "%s", r[i].matches ? "matches" : "DIFFERS");
        kd_table_row(t);
        json_array_append_new(all, json_pack("{s:s, s:I, s:f, s:f, s:f, s:b}", "column", r[i].column, "rows",
                                             (json_int_t)r[i].rows, "largest", r[i].largest, "relative",
                                             r[i].relative, "top1", r[i].top1, "matches", r[i].matches));
    }
    kd_status st = KD_OK;
    if (c->common.json)
        st = kd_cli_print_json(json_pack("{s:i, s:s, s:s, s:O}", "schema", 1, "tool", c->tool->name, "store",
                                         store, "columns", all),
                               err);
    else
        kd_table_print(t, stdout, false);
    json_decref(all);
    kd_table_free(t);
    return st;
}

kd_status dump_check(kd_cli *c, const dump_opts *o, kd_err *err)
{
    kd_recheck *r = calloc(KD_STORE_MAX_COLUMNS, sizeof *r);
    kd_teacher *t = NULL;
    kd_store *s = NULL;
    size_t n = 0;
    kd_status st = r ? dump_open(c, o, &t, &s, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st)
        st = kd_teacher_recheck(t, s, o->name ? o->name : kd_teacher_name(t), (uint64_t)o->check_rows, r, &n,
                                err);
    if (!st) st = print(c, r, n, kd_store_path(s), err);
    for (size_t i = 0; i < n && !st; i++)
        if (!r[i].matches)
            st = kd_fail(
                err, KD_EMISMATCH,
                "%s: column %s is not what %s computes: largest difference %.3g, the same top-1 on %.1f %% "
                "of %llu rows",
                kd_store_path(s), r[i].column, o->teacher, r[i].largest, 100 * r[i].top1,
                (unsigned long long)r[i].rows);
    free(r);
    kd_teacher_close(t);
    kd_store_close(s);
    return st;
}
