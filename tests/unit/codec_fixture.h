/* codec_fixture.h - teachers, codecs and blocks of the tests of sparse codecs. */
#ifndef CODEC_FIXTURE_H
#define CODEC_FIXTURE_H

#include "check.h"
#include "kd/config.h"
#include "../../lib/codec/codec_private.h"

#include <math.h>
#include <stdlib.h>

/* ---- teachers ----------------------------------------------------------------------------- */

/* Logits of a language: few probable classes, a long tail. */
static inline void zipf(float *v, size_t width, kd_rng *r)
{
    for (size_t i = 0; i < width; i++) v[i] = (float)(-1.3 * log((double)i + 2.7)) + 2 * kd_rng_normal(r);
}

static inline float *teacher(size_t positions, size_t width, uint32_t seed)
{
    float *v = malloc((positions * width + 1) * sizeof *v);
    kd_rng r;
    assert_non_null(v);
    kd_rng_init(&r, seed, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < positions; i++) zipf(v + i * width, width, &r);
    return v;
}

static inline void softmax(const float *v, size_t width, double temperature, double *p)
{
    double top = v[0], sum = 0;
    for (size_t i = 0; i < width; i++) top = fmax(top, v[i]);
    for (size_t i = 0; i < width; i++) sum += p[i] = exp((v[i] - top) / temperature);
    for (size_t i = 0; i < width; i++) p[i] /= sum;
}

/* ---- blocks ------------------------------------------------------------------------------- */

static inline kd_codec *opened_with(const char *text, int64_t width, const void *book, size_t book_bytes)
{
    char name[16];
    json_t *params = NULL;
    kd_codec *c = NULL;
    OK(kd_codec_parse(text, name, &params, err));
    OK(kd_codec_open(&c, name, width, params, book, book_bytes, err));
    json_decref(params);
    return c;
}

static inline kd_codec *opened(const char *text, int64_t width) { return opened_with(text, width, NULL, 0); }

/* Some codebook: all classes but the last third, in a random order. */
static inline kd_codec *opened_ranked(const char *text, int64_t width)
{
    const size_t n = (size_t)width * 2 / 3, bytes = width <= 256 ? 1 : width <= 65536 ? 2 : 3;
    uint32_t *order = malloc((size_t)width * sizeof *order);
    uint8_t *book = malloc(n * bytes + 1);
    kd_rng r;
    assert_true(order && book);
    kd_rng_init(&r, 77, KD_RNG_TEST, 0, 0);
    kd_rng_permute(&r, order, (size_t)width);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < bytes; k++) book[k * n + i] = (uint8_t)(order[i] >> 8 * k);
    kd_codec *c = opened_with(text, width, book, n * bytes);
    free(order);
    free(book);
    return c;
}

static inline kd_id id_of(size_t row)
{
    kd_id id = {{0}};
    memcpy(id.b, &row, sizeof row);
    return id;
}

static inline kd_buf encoded_rows(const kd_codec *c, const float *values, const size_t *row, size_t n,
                                  int threads)
{
    kd_id *ids = malloc((n + 1) * sizeof *ids);
    kd_buf out = {0};
    assert_non_null(ids);
    for (size_t i = 0; i < n; i++) ids[i] = id_of(row ? row[i] : i);
    kd_codec_block b = {.values = values, .rows = (uint32_t)n, .each = 1, .ids = ids};
    OK(kd_codec_encode(c, &b, threads, &out, err));
    OK(kd_codec_check(c, out.text, out.len, n, err));
    free(ids);
    return out;
}

static inline kd_buf encoded(const kd_codec *c, const float *values, size_t n)
{
    return encoded_rows(c, values, NULL, n, 1);
}

static inline kd_sparse decoded(const kd_codec *c, const kd_buf *b, size_t n)
{
    kd_sparse s = {0};
    OK(kd_codec_sparse(c, b->text, b->len, n, &s, err));
    assert_int_equal(s.positions, n);
    assert_int_equal(s.entries, s.offset[n]);
    return s;
}

#endif
