/* rows.c - lists of rows on the command line: what is left out of training. */
#include "train_cmd.h"

#include <stdlib.h>

static kd_status read_lists(uint8_t *marks, kd_store *s, const kd_strings *files, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < files->n && !st; i++) st = kd_rowlist_read(marks, s, files->v[i], err);
    return st;
}

kd_status train_read_rows(uint8_t **drop, const kd_cli *c, const train_opts *o, kd_store *s, kd_err *err)
{
    const size_t bytes = (kd_store_rows(s) + 7) / 8;
    uint64_t training = 0, out = 0;
    *drop = NULL;
    if (!o->drop_rows.n && !o->only_rows.n) return KD_OK;
    uint8_t *marks = calloc(bytes + 1, 1);
    kd_status st =
        marks ? read_lists(marks, s, &o->only_rows, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && o->only_rows.n)
        for (size_t i = 0; i < bytes; i++) marks[i] = (uint8_t)~marks[i];
    if (!st) st = read_lists(marks, s, &o->drop_rows, err);
    if (st) {
        free(marks);
        return st;
    }
    for (uint32_t k = 0; k < kd_store_chunks(s); k++) {
        const kd_chunk_info *info = kd_store_chunk(s, k);
        for (uint32_t r = 0; r < info->rows && info->split == KD_TRAIN; r++, training++)
            out += kd_row_marked(marks, info->first + r);
    }
    kd_cli_say(c, "lists of rows: %llu of %llu training rows are left out", (unsigned long long)out,
               (unsigned long long)training);
    *drop = marks;
    return KD_OK;
}
