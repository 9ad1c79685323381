/* store_fixture.h - a small store with a column of every kind, whose values are a pure function of
 * (column, row), so that any test can say what any block must hold. */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include "check.h"
#include "kd/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { FX_COLUMNS = 18, FX_CHUNK_ROWS = 32 };
static const uint32_t fx_rows[KD_SPLITS] = {100, 40, 33}; // short last chunks of 4, 8 and 1 rows

static inline void fx_column(kd_column *c, const char *name, kd_role role, kd_dtype t, int ndims, int64_t d0,
                             int64_t d1)
{
    memset(c, 0, sizeof(*c));
    snprintf(c->name, sizeof(c->name), "%s", name);
    c->role = role;
    c->dtype = t;
    c->ndims = ndims;
    c->dims[0] = d0;
    c->dims[1] = d1;
}

static inline void fx_columns(kd_column c[FX_COLUMNS])
{
    fx_column(&c[0], "id", KD_ROLE_ID, KD_U8, 1, 16, 0);
    fx_column(&c[1], "split", KD_ROLE_SPLIT, KD_U8, 0, 0, 0);
    fx_column(&c[2], "image", KD_ROLE_INPUT, KD_U8, 2, 12, 11);
    fx_column(&c[3], "a.i8", KD_ROLE_INPUT, KD_I8, 1, 3, 0);
    fx_column(&c[4], "a.u16", KD_ROLE_LABEL, KD_U16, 0, 0, 0);
    fx_column(&c[5], "a.i16", KD_ROLE_INPUT, KD_I16, 1, 5, 0);
    fx_column(&c[6], "a.u32", KD_ROLE_INPUT, KD_U32, 0, 0, 0);
    fx_column(&c[7], "a.i32", KD_ROLE_INPUT, KD_I32, 1, 2, 0);
    fx_column(&c[8], "a.u64", KD_ROLE_SOURCE, KD_U64, 0, 0, 0);
    fx_column(&c[9], "a.i64", KD_ROLE_INPUT, KD_I64, 1, 2, 0);
    fx_column(&c[10], "a.f16", KD_ROLE_FEATURE, KD_F16, 1, 7, 0);
    fx_column(&c[11], "a.bf16", KD_ROLE_FEATURE, KD_BF16, 1, 9, 0);
    fx_column(&c[12], "t/logits", KD_ROLE_LOGITS, KD_F32, 1, 10, 0);
    fx_column(&c[13], "a.f64", KD_ROLE_SCORE, KD_F64, 0, 0, 0);
    fx_column(&c[14], "tokens", KD_ROLE_INPUT, KD_I32, 1, -1, 0);
    fx_column(&c[15], "ragged.bf16", KD_ROLE_FEATURE, KD_BF16, 2, -1, 5);
    fx_column(&c[16], "ragged.u8", KD_ROLE_INPUT, KD_U8, 1, -1, 0);
    fx_column(&c[17], "noise", KD_ROLE_INPUT, KD_U8, 1, 300, 0);
}

/* Rows a chunk starts with and has, for the fixture's three splits. */
static inline uint32_t fx_chunks(kd_chunk_info *out)
{
    uint32_t n = 0;
    uint64_t first = 0;
    for (int s = 0; s < KD_SPLITS; s++)
        for (uint32_t at = 0; at < fx_rows[s]; at += FX_CHUNK_ROWS, n++) {
            uint32_t rows = fx_rows[s] - at < FX_CHUNK_ROWS ? fx_rows[s] - at : FX_CHUNK_ROWS;
            if (out) out[n] = (kd_chunk_info){.first = first, .rows = rows, .split = (kd_split)s};
            first += rows;
        }
    return n;
}

/* One block as kd_cursor_read gives it: lengths first for ragged columns. *size: its bytes. */
static inline uint8_t *fx_block(const kd_column *c, int salt, const kd_chunk_info *i, size_t *size,
                                size_t *head)
{
    size_t unit = kd_dtype_size(c->dtype), cap = 4096 + (size_t)i->rows * 4096, n;
    bool ragged = c->ndims && c->dims[0] == -1;
    uint8_t *b = calloc(cap, 1);
    assert_non_null(b);
    for (int k = ragged ? 1 : 0; k < c->ndims; k++) unit *= (size_t)c->dims[k];
    *head = n = ragged ? 4u * (size_t)i->rows : 0;
    for (uint32_t r = 0; r < i->rows; r++) {
        kd_rng g;
        kd_rng_init(&g, (uint64_t)salt, KD_RNG_TEST, (uint32_t)(i->first + r), 0);
        uint32_t length = ragged ? (uint32_t)kd_rng_below(&g, 9) : 1;
        if (ragged) memcpy(b + 4u * (size_t)r, &length, 4);
        for (size_t k = 0; k < unit * length; k++, n++) {
            assert_true(n < cap);
            b[n] = c->role == KD_ROLE_SPLIT                  ? (uint8_t)i->split
                   : !strcmp(c->name, "noise")               ? (uint8_t)kd_rng_u32(&g)
                   : !strcmp(c->name, "image") && k % 11 < 7 ? 0                             // drawn on black
                                                             : (uint8_t)kd_rng_below(&g, 7); // compresses
        }
    }
    *size = n;
    return b;
}

static inline kd_status fx_append(kd_store_writer *w, const kd_column *c, size_t n, int salt,
                                  const kd_chunk_info *i, kd_err *err)
{
    kd_block blocks[KD_STORE_MAX_COLUMNS];
    uint8_t *data[KD_STORE_MAX_COLUMNS];
    for (size_t k = 0; k < n; k++) {
        size_t size, head;
        data[k] = fx_block(&c[k], salt + (int)k, i, &size, &head);
        blocks[k] = (kd_block){.data = data[k] + head,
                               .bytes = size - head,
                               .lengths = head ? (uint32_t *)(void *)data[k] : NULL};
    }
    kd_status st = kd_store_writer_append(w, i->split, i->rows, blocks, err);
    for (size_t k = 0; k < n; k++) free(data[k]);
    return st;
}

static inline kd_writer_params fx_params(void)
{
    kd_writer_params p = kd_writer_default_params();
    p.chunk_rows = FX_CHUNK_ROWS;
    p.commit_bytes = 20000; // a commit every two or three chunks
    return p;
}

static inline json_t *fx_contract(void)
{
    json_t *c = json_pack("{s:s, s:i, s:{s:f, s:b}}", "source", "fixture", "seed", 7, "options", "valid", 0.2,
                          "shuffle", 1);
    assert_non_null(c);
    return c;
}

/* Appends chunks [from, to) of the fixture. */
static inline void fx_fill(kd_store_writer *w, const kd_column *c, size_t n, int salt, uint32_t from,
                           uint32_t to)
{
    kd_chunk_info i[64];
    fx_chunks(i);
    for (uint32_t k = from; k < to; k++) OK(fx_append(w, c, n, salt, &i[k], err));
}

/* The whole store; p NULL: defaults of the fixture. */
static inline void fx_make(const char *path, const kd_writer_params *p)
{
    kd_column c[FX_COLUMNS];
    kd_writer_params d = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    fx_columns(c);
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, p ? p : &d, err));
    fx_fill(w, c, FX_COLUMNS, 100, 0, fx_chunks(NULL));
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(contract);
}

/* Reads one block and compares it with what was written. KD_OK: equal; an error is passed on; other
 * bytes fail the test. */
static inline kd_status fx_check_block(kd_store *s, kd_cursor *cur, int column, int salt, uint32_t chunk,
                                       kd_err *err)
{
    const kd_column *c = kd_store_column(s, (size_t)column);
    size_t size = 0, want_size, head;
    kd_status st = kd_cursor_size(cur, column, chunk, &size, err);
    if (st) return st;
    uint8_t *want = fx_block(c, salt, kd_store_chunk(s, chunk), &want_size, &head), *got = malloc(size + 1);
    assert_non_null(got);
    assert_int_equal(size, want_size);
    st = kd_cursor_read(cur, column, chunk, got, size, err);
    if (!st) assert_memory_equal(got, want, size);
    free(want);
    free(got);
    return st;
}

#endif
