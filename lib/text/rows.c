/* rows.c - many texts at once.
 *
 * Texts are cut into runs of about 256 KiB; each run is encoded whole by one thread into ids of its own, and
 * the runs are put together in their order: the rows do not depend on threads. A thread keeps its
 * encoder, so its cache of words warms up once.
 */
#include "text_private.h"

enum { RUN_BYTES = 256 << 10 };

typedef struct run {
    size_t first, rows;
    kd__ids ids;
    uint64_t cut;
    kd_status st;
    kd_err err;
} run;

/* Cuts texts into runs; NULL when out of memory. */
static run *make_runs(const kd_text *texts, size_t n, size_t *runs)
{
    size_t bytes = 0, k = 0;
    for (size_t i = 0; i < n; i++) bytes += texts[i].len / RUN_BYTES + 1;
    run *r = calloc(kd_min_size(n, bytes) + 1, sizeof *r);
    *runs = 0;
    if (!r) return NULL;
    for (size_t i = 0, have = 0; i < n; i++) {
        if (!i || have >= RUN_BYTES) r[*runs].first = i, have = 0, k = (*runs)++;
        r[k].rows++;
        have += texts[i].len + 1;
    }
    return r;
}

static void encode_run(run *r, kd_encoder *e, const kd_text *texts, const kd_encode_params *p,
                       uint64_t *lengths)
{
    kd_encoding enc;
    for (size_t i = r->first; i < r->first + r->rows && !r->st; i++) {
        if ((r->st = kd_encode(e, texts[i], NULL, p, &enc, &r->err))) break;
        if (!kd__ids_room(&r->ids, enc.n)) {
            r->st = kd_fail(&r->err, KD_ENOMEM, "no memory for the tokens of %zu texts", r->rows);
            break;
        }
        memcpy(r->ids.id + r->ids.n, enc.id, enc.n * sizeof *enc.id);
        r->ids.n += enc.n;
        lengths[i] = enc.n;
        r->cut += enc.cut;
    }
}

static kd_status join(kd_token_rows *out, const run *r, size_t runs, kd_err *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < runs; i++) {
        if (r[i].st) return kd_fail(err, r[i].st, "%s", r[i].err.msg);
        at += r[i].ids.n;
        out->cut += r[i].cut;
    }
    if (!(out->id = malloc(at * sizeof *out->id + 1)))
        return kd_fail(err, KD_ENOMEM, "no memory for %llu tokens", (unsigned long long)at);
    at = 0;
    for (size_t i = 0; i < runs; i++) {
        if (r[i].ids.n) memcpy(out->id + at, r[i].ids.id, r[i].ids.n * sizeof *out->id);
        at += r[i].ids.n;
    }
    return KD_OK;
}

kd_status kd_encode_rows(kd_token_rows *out, const kd_tokenizer *t, const kd_text *texts, size_t n,
                         const kd_encode_params *p, int threads, kd_err *err)
{
    size_t runs;
    run *r = make_runs(texts, n, &runs);
    kd_status st = KD_OK;
    *out = (kd_token_rows){.rows = n, .offset = calloc(n + 1, sizeof *out->offset)};
    if (!r || !out->offset) st = kd_fail(err, KD_ENOMEM, "no memory for %zu texts", n);
    if (st) goto out;
#pragma omp parallel num_threads(threads)
    {
        kd_encoder *e;
        kd_err mine = {0};
        kd_status opened = kd_encoder_open(&e, t, &mine);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < runs; i++) {
            if (opened)
                r[i].st = opened, r[i].err = mine;
            else
                encode_run(&r[i], e, texts, p, out->offset + 1);
        }
        kd_encoder_close(e);
    }
    if (!(st = join(out, r, runs, err)))
        for (size_t i = 0; i < n; i++) out->offset[i + 1] += out->offset[i];
out:
    for (size_t i = 0; r && i < runs; i++) free(r[i].ids.id);
    free(r);
    if (st) kd_token_rows_release(out);
    return st;
}

void kd_token_rows_release(kd_token_rows *r)
{
    free(r->id);
    free(r->offset);
    *r = (kd_token_rows){0};
}
