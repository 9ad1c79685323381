/* decoder_fixture.h - steps of small decoders on the batch of their golden values. */
#ifndef DECODER_FIXTURE_H
#define DECODER_FIXTURE_H

#include "golden_fixture.h"

#include <stdlib.h>
#include <string.h>

static inline kd_exec *fed(const golden *g, const kd_exec_params *how)
{
    kd_exec *ex;
    uint64_t offset[8] = {0};
    const kd_tensor *ids = tensor(g, "ids"), *lengths = tensor(g, "lengths");
    for (int64_t i = 0; i < lengths->dims[0]; i++)
        offset[i + 1] = offset[i] + (uint64_t)((const int32_t *)lengths->data)[i];
    OK(kd_exec_create(&ex, g->m->graph, how, err));
    OK(kd_model_feed_tokens(g->m, ex, ids->data, KD_I32, offset, lengths->dims[0], err));
    return ex;
}

static inline void step(kd_exec *ex, const golden *g, int threads)
{
    const kd_tensor *dy = tensor(g, "dy");
#pragma omp parallel num_threads(threads)
    {
        kd_exec_forward(ex);
#pragma omp single
        memcpy(kd_exec_grad(ex, g->m->logits), dy->data, dy->bytes);
        kd_exec_backward(ex);
    }
}

/* What a head has of n rows, and what comes back to it, in either width. */
static inline void check_piece(const golden *g, const float *z, const uint16_t *half, uint32_t first,
                               uint32_t n)
{
    const size_t words = (size_t)g->m->spec.vocab;
    kd_tensor part = *tensor(g, "logits");
    float *wide = malloc(n * words * sizeof *wide);
    assert_non_null(wide);
    if (half) kd_to_f32(wide, half, KD_F16, n * words);
    part.bytes = n * words * sizeof(float);
    part.data = (const float *)part.data + first * words;
    near_all(g, "logits of a piece", half ? wide : z, &part, half ? 1e-2 : 1e-5); // bf16 operands as well
    free(wide);
}

static inline void fill_grad(kd_head *h, const float *dy, size_t n)
{
    if (kd_head_half(h))
        kd_from_f32(kd_head_half(h), KD_BF16, dy, n);
    else
        memcpy(kd_head_grad(h), dy, n * sizeof *dy);
}

/* The same with a head that computes a few rows at a time; the rows of `from` on. */
static inline void step_in_pieces(kd_exec *ex, kd_head *h, const golden *g, int threads, uint32_t from)
{
    enum { PIECE = 33 };
    const kd_tensor *dy = tensor(g, "dy");
    const size_t words = (size_t)g->m->spec.vocab;
    uint32_t row[80];
    const uint32_t n = 80 - from;
    for (uint32_t i = 0; i < n; i++) row[i] = from + i;
#pragma omp parallel num_threads(threads)
    {
        kd_exec_forward(ex);
        kd_head_begin(h, ex, n);
        for (uint32_t i = 0; i < n; i += PIECE) {
            const uint32_t some = n - i < PIECE ? n - i : PIECE;
            const float *z = kd_head_forward(h, row + i, some);
#pragma omp single
            {
                if (!from) check_piece(g, z, kd_head_half(h), i, some); // all of them are there
                fill_grad(h, (const float *)dy->data + (from + i) * words, some * words);
            }
            kd_head_backward(h);
        }
        kd_exec_backward(ex);
    }
}

#endif
