/* import_kld.c - a store of its own from a .kld file.
 *
 * The file has the tokens, so nothing has to be matched: a row is a context, with the column tokens (input)
 * and the teacher's log-probabilities behind each token of the second half. Position j of a row is what
 * follows token first + j; the column's params say so. Chunks are as many contexts as 256 MiB hold.
 */
#include "import_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BYTES (256u << 20) /* of values as f32 */

enum { ID, SPLIT, SOURCE, TOKENS, LOGITS, COLUMNS };

typedef struct job {
    const kd_import_params *p;
    kd_import_report *report;
    kd_kld k;
    kd__packer pack;
    kd_column column[COLUMNS];
    kd_writer_params wp;
    kd_store_writer *writer;
    uint8_t *split; /* (chunk rows) each */
    kd_id *id;
    uint64_t *source;
    int32_t *tokens; /* (chunk rows, n_ctx) */
} job;

static void plain(kd_column *c, const char *name, kd_role role, kd_dtype t, int ndims, int64_t d)
{
    *c = (kd_column){.role = role, .dtype = t, .ndims = ndims, .dims = {d}, .encoding = "dense"};
    snprintf(c->name, sizeof c->name, "%s", name);
}

static kd_status make_columns(job *j, kd_err *err)
{
    const kd_kld *k = &j->k;
    kd__in_column in = {.role = KD_ROLE_LOGITS,
                        .dtype = KD_F32,
                        .ndims = 2,
                        .dims = {(int64_t)k->positions, (int64_t)k->n_vocab}};
    plain(&j->column[ID], "id", KD_ROLE_ID, KD_U8, 1, 16);
    plain(&j->column[SPLIT], "split", KD_ROLE_SPLIT, KD_U8, 0, 0);
    plain(&j->column[SOURCE], "source", KD_ROLE_SOURCE, KD_U64, 0, 0);
    plain(&j->column[TOKENS], "tokens", KD_ROLE_INPUT, KD_I32, 1, (int64_t)k->n_ctx);
    kd_status st = kd__packer_open(&j->pack, &j->column[LOGITS], &in, NULL, j->p, 0, 0, k->path, err);
    if (st) return st;
    if (!j->pack.params && !(j->pack.params = json_object())) return kd_fail(err, KD_ENOMEM, "out of memory");
    json_object_set_new(j->pack.params, "first_position", json_integer((json_int_t)k->first));
    j->column[LOGITS].params = j->pack.params;
    return KD_OK;
}

static kd_status make_buffers(job *j, kd_err *err)
{
    const kd_kld *k = &j->k;
    const uint64_t row = 4ull * k->positions * k->n_vocab;
    if (row > KD_STORE_MAX_RAW)
        return kd_fail(
            err, KD_ELIMIT,
            "%s: a context is %u x %u numbers, the limit is 1 GiB; make the file with a smaller --ctx-size",
            k->path, k->positions, k->n_vocab);
    const uint64_t rows = CHUNK_BYTES / row > 1 ? CHUNK_BYTES / row : 1;
    j->wp = j->p->writer;
    if (j->wp.chunk_rows > rows) j->wp.chunk_rows = (uint32_t)rows;
    if (j->wp.chunk_rows > k->n_chunk) j->wp.chunk_rows = k->n_chunk;
    const size_t n = j->wp.chunk_rows;
    j->split = malloc(n);
    j->id = malloc(n * sizeof *j->id);
    j->source = malloc(n * sizeof *j->source);
    j->tokens = malloc(n * k->n_ctx * sizeof *j->tokens);
    if (!j->split || !j->id || !j->source || !j->tokens) return kd_fail(err, KD_ENOMEM, "out of memory");
    memset(j->split, (int)j->p->split, n);
    return kd__room(&j->pack.rows.values, &j->pack.rows.values_cap, n * row, err);
}

/* Fills the buffers with contexts first ... */
static kd_status read_rows(job *j, uint32_t first, uint32_t rows, kd_err *err)
{
    const kd_kld *k = &j->k;
    kd_hasher *h = NULL;
    char head[64];
    const int len = snprintf(head, sizeof head, "tokens i32 %u\n", k->n_ctx);
    kd_status st = KD_OK;
    for (uint32_t r = 0; r < rows && !st; r++) {
        int32_t *tokens = j->tokens + (size_t)r * k->n_ctx;
        if ((st = kd_kld_tokens(k, first + r, tokens, err)) ||
            (st = kd_kld_values(k, first + r, j->pack.rows.values + (size_t)r * k->positions * k->n_vocab,
                                err)))
            break;
        if (!(h = kd_hasher_create())) return kd_fail(err, KD_ENOMEM, "out of memory");
        kd_hasher_add(h, head, (size_t)len); // as ids of packed rows are made
        kd_hasher_add(h, tokens, 4 * (size_t)k->n_ctx);
        j->id[r] = kd_hasher_digest(h);
        j->source[r] = first + r;
        kd_hasher_free(h);
    }
    j->pack.rows.positions = rows;
    return st;
}

/* Header, first tokens and the scales of up to 64 positions spread over the file. */
static kd_status make_contract(job *j, json_t **out, kd_err *err)
{
    const kd_kld *k = &j->k;
    const uint64_t positions = (uint64_t)k->n_chunk * k->positions, step = positions / 64 + 1;
    uint8_t block[64];
    char hex[33];
    kd_hasher *h = kd_hasher_create();
    kd_status st = h ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint64_t i = 0; i < positions && !st; i += step) {
        const size_t n = kd_min_size(sizeof block, (size_t)k->position_bytes);
        if (!(st = kd__read_at(k->fd, block, n, k->probs_at + i * k->position_bytes, k->path, err)))
            kd_hasher_add(h, block, n);
    }
    if (!st) st = kd_kld_tokens(k, 0, j->tokens, err);
    if (!st) {
        kd_hasher_add(h, j->tokens, 4 * (size_t)k->n_ctx);
        kd_id_hex(kd_hasher_digest(h), hex);
        *out = json_pack("{s:s, s:s, s:i, s:i, s:i, s:s, s:s}", "kind", "import kld", "name", j->p->name,
                         "n_ctx", (int)k->n_ctx, "n_vocab", (int)k->n_vocab, "n_chunk", (int)k->n_chunk,
                         "split", kd_split_name(j->p->split), "sample", hex);
        if (!*out) st = kd_fail(err, KD_ENOMEM, "out of memory (or a name that is not UTF-8)");
    }
    kd_hasher_free(h);
    return st;
}

static kd_status begin(job *j, const char *out, kd_err *err)
{
    json_t *contract = NULL;
    kd_status st = make_columns(j, err);
    if (!st) st = make_buffers(j, err);
    if (!st && j->pack.learns) {
        st = read_rows(j, 0, 1, err);
        if (!st) st = kd__packer_learn(&j->pack, &j->column[LOGITS], err);
    }
    if (!st) st = make_contract(j, &contract, err);
    if (!st) st = kd_store_create(&j->writer, out, j->column, COLUMNS, contract, &j->wp, err);
    json_decref(contract);
    return st;
}

static kd_status append(job *j, uint32_t first, uint32_t rows, kd_err *err)
{
    const kd_chunk_info ci = {.first = first, .rows = rows, .split = j->p->split};
    kd_block b[COLUMNS] = {{j->id, rows * sizeof *j->id, NULL},
                           {j->split, rows, NULL},
                           {j->source, rows * sizeof *j->source, NULL},
                           {j->tokens, (size_t)rows * j->k.n_ctx * 4, NULL}};
    kd_status st = read_rows(j, first, rows, err);
    if (!st)
        st = kd__packer_pack(&j->pack, &j->column[LOGITS], &ci, j->id, j->wp.threads, &b[LOGITS], j->report,
                             err);
    if (!st) st = kd_store_writer_append(j->writer, j->p->split, rows, b, err);
    if (!st) j->report->rows += rows;
    return st;
}

static kd_status run(job *j, const char *out, kd_err *err)
{
    const uint32_t most = j->wp.chunk_rows, all = j->k.n_chunk;
    kd_status st = KD_OK;
    for (uint32_t at = (uint32_t)kd_store_writer_rows(j->writer); at < all && !st; at += most) {
        if (j->p->stop && *j->p->stop)
            return kd_fail(err, KD_ESTOPPED, "%s: stopped after %u of %u contexts; go on with --resume", out,
                           at, all);
        st = append(j, at, all - at < most ? all - at : most, err);
        if (!st && j->p->progress) j->p->progress(j->p->arg, kd_store_writer_rows(j->writer), all);
    }
    return st;
}

static kd_status seal(job *j, const char *file, kd_err *err)
{
    kd__names names = {{0}};
    kd_status st = j->p->fingerprint ? kd__names_set(&names, KD__TEACHER, j->p->fingerprint, err) : KD_OK;
    json_t *extra = st ? NULL : kd__import_extra(j->p, &names, &file, 1);
    if (extra) {
        st = kd_store_writer_seal(j->writer, extra, err);
        j->writer = NULL; // freed in every case
    } else if (!st) {
        st = kd_fail(err, KD_ENOMEM, "out of memory (or a name that is not UTF-8)");
    }
    json_decref(extra);
    kd__names_release(&names);
    return st;
}

kd_status kd_import_kld(const char *out, const char *file, const kd_import_params *p,
                        kd_import_report *report, kd_err *err)
{
    kd_import_report none;
    job j = {.p = p, .report = report ? report : &none};
    *j.report = (kd_import_report){0};
    if (!p->name || !*p->name) return kd_fail(err, KD_EUSAGE, "what is the teacher called? say --name NAME");
    const int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open", file);
    kd_status st = kd_kld_open(&j.k, fd, file, err);
    if (!st) st = begin(&j, out, err);
    if (!st) st = run(&j, out, err);
    if (!st) st = seal(&j, file, err);
    j.report->columns = 1;
    kd_store_writer_close(j.writer); // after a failure: what is whole stays for a resume
    kd__packer_close(&j.pack);
    close(fd);
    free(j.split);
    free(j.id);
    free(j.source);
    free(j.tokens);
    return st;
}
