/* dump_cmd.h - what kd-dump can do, one function each. */
#ifndef DUMP_CMD_H
#define DUMP_CMD_H

#include "kd/cli.h"
#include "kd/data.h"
#include "kd/teacher.h"

typedef struct dump_opts {
    char *out, *teacher, *into, *name, *segment, *dtype, *encoding, *feature_encoding, *shard;
    kd_strings tap;
    char *precision;
    int64_t batch, mine, plan_rows, plan_epochs, check_rows, level;
    int64_t answer_tokens, prompt_tokens, draw_seed;
    double commit, temperature, top_p;
    bool logits, resume, force, dry_run, plan, check, list_taps, list_encodings, generate;
    kd_view_spec views;
} dump_opts;

kd_status dump_pack(kd_cli *c, const dump_opts *o, const kd_data_spec *spec, kd_err *err);
/* All of these take a teacher (--teacher) and a store (--into), but for the lists. */
kd_status dump_teacher(kd_cli *c, const dump_opts *o, kd_err *err);
kd_status dump_generate(kd_cli *c, const dump_opts *o, kd_err *err);
/* Takes a store that has a teacher's embeddings. */
kd_status dump_mine(kd_cli *c, const dump_opts *o, kd_err *err);
kd_status dump_plan(kd_cli *c, const dump_opts *o, kd_err *err);
kd_status dump_check(kd_cli *c, const dump_opts *o, kd_err *err);
kd_status dump_list_taps(kd_cli *c, const dump_opts *o, kd_err *err);
kd_status dump_list_encodings(kd_cli *c, kd_err *err);
/* Cuts the part --shard of a store, unless a resumed run has done so; *path: the store to work on, free() it.
 */
kd_status dump_shard_begin(const dump_opts *o, const kd_store *whole, const kd_writer_params *wp,
                           const char *command, char **path, kd_err *err);
/* Gives the finished part its name. */
kd_status dump_shard_end(const dump_opts *o, const char *path, kd_err *err);

/* ---- what they share (common.c) ------------------------------------------------------------- */

void dump_progress(void *progress, uint64_t done, uint64_t total);
kd_writer_params dump_writer_params(const kd_cli *c, const dump_opts *o);
/* The columns of a segment: [{"name", "encoding", "dtype", "row_bytes"}, ...]; says each. */
kd_status dump_columns_json(kd_cli *c, const kd_store *s, const char *segment, json_t **out, kd_err *err);
/* Opens both and compares them. */
kd_status dump_open(kd_cli *c, const dump_opts *o, kd_teacher **t, kd_store **s, kd_err *err);

#endif
