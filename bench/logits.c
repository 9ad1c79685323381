/* logits.c - `kd_bench logits`: what a decoder says of token ids, a row of logits for each, into a file.
 *
 * IDS holds rows of LENGTH ids (i32); OUT gets (rows, LENGTH, vocabulary) f32, written row by row.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "kd/model.h"

static kd_status write_rows(kd_model *m, const int32_t *ids, int64_t rows, int64_t length, const char *path,
                            int threads, kd_err *err)
{
    const kd_exec_params p = {.batch = length, .sequences = 1, .threads = threads, .fixed = true};
    const size_t n = (size_t)length * kd_graph_node_size(m->graph, m->logits);
    const uint64_t offset[] = {0, (uint64_t)length};
    kd_exec *ex;
    kd_status st = kd_exec_create(&ex, m->graph, &p, err);
    FILE *f = st ? NULL : fopen(path, "wb");
    double took = 0;
    for (int64_t i = 0; f && i < rows && !st; i++) {
        const double start = kd_now();
        if ((st = kd_model_feed_tokens(m, ex, ids + i * length, KD_I32, offset, 1, err))) break;
        kd_exec_run_forward(ex);
        took += kd_now() - start;
        fwrite(kd_exec_value(ex, m->logits), sizeof(float), n, f);
    }
    if (!st && (!f || fclose(f))) st = kd_fail(err, KD_EIO, "%s: cannot write", path);
    kd_exec_free(ex);
    if (!st)
        bench_print(json_pack("{s:I, s:f}", "rows", (json_int_t)rows, "tokens_per_s",
                              (double)(rows * length) / took));
    return st;
}

kd_status bench_logits(const char *model, const char *ids, const char *out, int64_t length, int threads,
                       kd_err *err)
{
    kd_model *m = NULL;
    char *bytes = NULL;
    size_t n = 0;
    kd_status st = kd_model_load(&m, model, err);
    if (!st && !kd_model_reads_tokens(m)) st = kd_fail(err, KD_EUSAGE, "%s: no model of tokens", model);
    if (!st) st = kd_file_read(ids, (size_t)1 << 30, &bytes, &n, err);
    if (!st)
        st = write_rows(m, (const int32_t *)(const void *)bytes, (int64_t)(n / sizeof(int32_t)) / length,
                        length, out, threads, err);
    kd_model_free(m);
    free(bytes);
    return st;
}
