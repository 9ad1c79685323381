/* dump.c - the teacher's one pass over a store.
 *
 * Chunk by chunk: read the input column, run the teacher over the chunk's rows in batches, append the
 * logits as a chunk of the new segment. The writer commits whole chunks, so a pass that is killed goes on
 * behind the last commit; batches never cross chunks, so the resumed pass computes each row in the same place
 * of the same batch as an uninterrupted one would, and gets the same bits.
 *
 * The contract of the segment holds what those bits depend on: teacher, tap, type, the data's root,
 * the batch size and the instruction set. The writer refuses to resume under another one.
 */
#include "teacher_private.h"

#include <stdlib.h>
#include <string.h>

#define COMMIT_SECONDS                                                                                       \
    2.0 /* of a pass that a kill can cost; logits are too small to fill a commit by bytes */

typedef struct pass {
    kd_teacher *t;
    kd_store *s;
    kd_cursor *cursor;
    kd_store_writer *writer;
    int input;        /* column */
    kd_dtype dtype;   /* of the logits in the store */
    char *raw;        /* (chunk rows, row bytes) */
    float *logits;    /* (chunk rows, classes) */
    void *packed;     /* the same as dtype */
    double seconds;   /* in the teacher */
    double committed; /* when */
    uint64_t rows;    /* of this run */
} pass;

static json_t *contract_of(const pass *p)
{
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(p->s), "segments"), 0);
    const char *root = json_string_value(json_object_get(base, "root"));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:s}", "kind", "teacher", "teacher", p->t->fingerprint,
                     "tap", "logits", "dtype", kd_dtype_name(p->dtype), "store", root ? root : "", "batch",
                     (json_int_t)p->t->batch, "isa", kd_isa_name(kd_cpu_isa()));
}

static kd_status make_column(const pass *p, const char *name, kd_column *c, kd_err *err)
{
    const kd_model *m = p->t->model;
    *c = (kd_column){.role = KD_ROLE_LOGITS, .dtype = p->dtype, .ndims = 1, .encoding = "dense"};
    c->dims[0] = (int64_t)p->t->classes;
    const int n = snprintf(c->name, sizeof c->name, "%s/logits", name);
    if (n < 0 || (size_t)n >= sizeof c->name)
        return kd_fail(err, KD_EUSAGE,
                       "the teacher's name '%.80s' is too long; give a shorter one with --name", name);
    snprintf(c->teacher, sizeof c->teacher, "%s", name);
    snprintf(c->tap, sizeof c->tap, "%s", kd_graph_node_name(m->graph, m->logits));
    return KD_OK;
}

static kd_status begin(pass *p, const char *name, const kd_column *c, const kd_writer_params *wp, kd_err *err)
{
    json_t *contract = contract_of(p);
    if (!contract) return kd_fail(err, KD_ENOMEM, "%s: out of memory", kd_store_path(p->s));
    kd_status st = kd_store_extend(&p->writer, p->s, name, c, 1, contract, wp, err);
    json_decref(contract);
    return st;
}

static kd_status make_buffers(pass *p, size_t *row_bytes, kd_err *err)
{
    const kd_column *c = kd_store_column(p->s, (size_t)p->input);
    size_t rows = 0, raw, logits;
    for (uint32_t i = 0; i < kd_store_chunks(p->s); i++)
        rows = kd_max_size(rows, kd_store_chunk(p->s, i)->rows);
    *row_bytes = p->t->input * kd_dtype_size(c->dtype);
    if (kd_mul_size(rows, *row_bytes, &raw) && kd_mul_size(rows, p->t->classes, &logits)) {
        p->raw = kd_alloc_aligned(raw + 1, 1);
        p->logits = kd_alloc_aligned(logits + 1, sizeof(float));
        p->packed = kd_alloc_aligned(logits + 1, kd_dtype_size(p->dtype));
    }
    if (p->raw && p->logits && p->packed) return KD_OK;
    return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk of %zu rows", kd_store_path(p->s), rows);
}

/* Logits of a chunk to the stored type. A half that overflows would be an infinite logit. */
static kd_status pack_logits(pass *p, const kd_chunk_info *ci, kd_err *err)
{
    const size_t n = (size_t)ci->rows * p->t->classes;
    kd_from_f32(p->packed, p->dtype, p->logits, n);
    for (size_t i = 0; p->dtype == KD_F16 && i < n; i++)
        if ((((const uint16_t *)p->packed)[i] & 0x7C00u) == 0x7C00u)
            return kd_fail(err, KD_ENUMERIC,
                           "%s: row %llu: a logit of %g does not fit into f16; dump with --dtype f32",
                           kd_store_path(p->s), (unsigned long long)(ci->first + i / p->t->classes),
                           p->logits[i]);
    return KD_OK;
}

static kd_status run_chunk(pass *p, uint32_t chunk, size_t row_bytes, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(p->s, chunk);
    const kd_column *c = kd_store_column(p->s, (size_t)p->input);
    kd_status st = kd_cursor_read(p->cursor, p->input, chunk, p->raw, ci->rows * row_bytes, err);
    const double start = kd_now();
    for (int64_t r = 0; !st && r < ci->rows; r += p->t->batch) {
        const int64_t rows = ci->rows - r < p->t->batch ? ci->rows - r : p->t->batch;
        st = kd__teacher_run(p->t, p->raw + (size_t)r * row_bytes, c->dtype, rows, ci->first + (uint64_t)r,
                             p->logits + (size_t)r * p->t->classes, err);
    }
    p->seconds += kd_now() - start;
    if (!st) st = pack_logits(p, ci, err);
    if (st) return st;
    p->rows += ci->rows;
    const kd_block block = {.data = p->packed, .bytes = ci->rows * p->t->classes * kd_dtype_size(p->dtype)};
    st = kd_store_writer_append(p->writer, ci->split, ci->rows, &block, err);
    if (st || kd_now() - p->committed < COMMIT_SECONDS) return st;
    p->committed = kd_now();
    return kd_store_writer_commit(p->writer, err);
}

static kd_status seal(pass *p, const char *name, const char *command, kd_err *err)
{
    const kd_model *m = p->t->model;
    const char *text = command ? command : ""; // beside the teacher too, where every segment has it
    json_t *extra =
        json_pack("{s:{s:s, s:s, s:s, s:s, s:I, s:f, s:s, s:f, s:I}, s:s}", "teacher", "name", name,
                  "fingerprint", p->t->fingerprint, "model", m->name, "arch", m->spec.arch, "params",
                  (json_int_t)kd_graph_param_count(m->graph), "macs", kd_graph_macs(m->graph), "command",
                  text, "seconds", p->seconds, "seconds_rows", (json_int_t)p->rows, "command", text);
    kd_status st = extra ? kd_store_writer_seal(p->writer, extra, err)
                         : kd_fail(err, KD_ENOMEM, "%s: out of memory (or a name that is not UTF-8)",
                                   kd_store_path(p->s));
    if (extra) p->writer = NULL; // seal frees it in every case
    json_decref(extra);
    return st;
}

kd_status kd_teacher_dump(kd_teacher *t, kd_store *s, const char *name, kd_dtype dtype,
                          const kd_writer_params *wp, const char *command, volatile const int *stop,
                          void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                          double *seconds, kd_err *err)
{
    pass p = {.t = t, .s = s, .dtype = dtype, .committed = kd_now()};
    kd_column column;
    size_t row_bytes;
    if (seconds) *seconds = 0;
    if (dtype != KD_F32 && dtype != KD_F16)
        return kd_fail(err, KD_EUNSUPPORTED, "logits as %s; expected f32 or f16", kd_dtype_name(dtype));
    if (!name) name = kd_teacher_name(t);
    kd_status st = kd_teacher_check(t, s, err);
    if (st) return st;
    p.input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    if ((st = make_column(&p, name, &column, err)) || (st = make_buffers(&p, &row_bytes, err)) ||
        (st = kd_cursor_open(&p.cursor, s, err)) || (st = begin(&p, name, &column, wp, err)))
        goto out;
    for (uint32_t i = kd_store_writer_chunks(p.writer); i < kd_store_chunks(s); i++) {
        if (stop && *stop) {
            st = kd_fail(err, KD_ESTOPPED, "%s: stopped after %llu of %llu rows; go on with --resume",
                         kd_store_path(s), (unsigned long long)kd_store_writer_rows(p.writer),
                         (unsigned long long)kd_store_rows(s));
            goto out;
        }
        if ((st = run_chunk(&p, i, row_bytes, err))) goto out;
        if (progress) progress(arg, kd_store_writer_rows(p.writer), kd_store_rows(s));
    }
    st = seal(&p, name, command, err);
out:
    kd_store_writer_close(p.writer); // after a failure: what is whole stays for a resume
    kd_cursor_close(p.cursor);
    free(p.raw);
    free(p.logits);
    free(p.packed);
    if (seconds) *seconds = p.seconds;
    return st;
}
