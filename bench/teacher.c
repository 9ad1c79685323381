/* teacher.c - the teacher's own time: the forward passes of a dump and nothing else.
 *
 * `kd_bench teacher FOLDER STORE` decodes the input column of all rows into memory, then runs them through
 * the teacher, in batches as kd-dump's, and prints one JSON line: rows, seconds, cpu_s. What kd-dump takes
 * longer is the price of reading, encoding, compressing and making durable.
 */
#include <stdlib.h>

#include "bench.h"
#include "kd/teacher.h"

enum { BATCH = 256 };

typedef struct pupil { /* one teacher and the rows it is asked about */
    kd_store *store;
    kd_teacher *teacher;
    kd_cursor *cursor;
    uint8_t *rows;
    size_t row_bytes;
    float *logits;
    const kd_column *input;
} pupil;

static kd_status read_rows(pupil *p, kd_err *err)
{
    const int column = kd_store_find_role(p->store, KD_ROLE_INPUT, NULL);
    kd_status st =
        column < 0 ? kd_fail(err, KD_EUSAGE, "%s: no input column", kd_store_path(p->store)) : KD_OK;
    if (st) return st;
    p->input = kd_store_column(p->store, (size_t)column);
    p->row_bytes = kd_dtype_size(p->input->dtype) * kd_column_width(p->input) * kd_column_each(p->input);
    if (!(p->rows = kd_alloc_aligned((size_t)kd_store_rows(p->store), p->row_bytes)))
        return kd_fail(err, KD_ENOMEM, "no memory for all rows");
    for (uint32_t c = 0; !st && c < kd_store_chunks(p->store); c++) {
        const kd_chunk_info *i = kd_store_chunk(p->store, c);
        st = kd_cursor_read(p->cursor, column, c, p->rows + i->first * p->row_bytes, i->rows * p->row_bytes,
                            err);
    }
    return st;
}

static kd_status run(pupil *p, kd_err *err)
{
    const uint64_t rows = kd_store_rows(p->store);
    kd_status st = KD_OK;
    double start = kd_now(), cpu = kd_cpu_seconds();
    for (uint64_t i = 0; i < rows && !st; i += BATCH)
        st = kd_teacher_run(p->teacher, p->rows + i * p->row_bytes, p->input->dtype,
                            (int64_t)kd_min_size(BATCH, (size_t)(rows - i)), p->logits, err);
    if (!st)
        bench_print(json_pack("{s:I, s:f, s:f, s:s}", "rows", (json_int_t)rows, "seconds", kd_now() - start,
                              "cpu_s", kd_cpu_seconds() - cpu, "build", kd_build_info()));
    return st;
}

kd_status bench_teacher(const char *folder, const char *store, int threads, kd_err *err)
{
    pupil p = {0};
    kd_status st = kd_store_open(&p.store, store, err);
    if (!st) st = kd_teacher_open(&p.teacher, folder, BATCH, threads, err);
    if (!st) st = kd_teacher_check(p.teacher, p.store, err);
    if (!st) st = kd_cursor_open(&p.cursor, p.store, err);
    if (!st) st = read_rows(&p, err);
    if (!st && !(p.logits = kd_alloc_aligned(BATCH * (size_t)kd_teacher_model(p.teacher)->spec.classes,
                                             sizeof(float))))
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) st = run(&p, err);
    kd_cursor_close(p.cursor);
    kd_teacher_close(p.teacher);
    kd_store_close(p.store);
    free(p.rows);
    free(p.logits);
    return st;
}
