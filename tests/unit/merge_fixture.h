/* merge_fixture.h - stores for the tests of parts, merging and compacting.
 *
 * Values of the fixture are a pure function of (column, row number); a store may be filled with any window of
 * row numbers, so every row can be compared with what it must be. The teacher's columns are encoded, fixed
 * and ragged, and a pure function of the row's id: whichever part a row is in, it gets the same bytes.
 */
#ifndef MERGE_FIXTURE_H
#define MERGE_FIXTURE_H

#include "store_fixture.h"

static char dir[64];

static inline const char *in_dir(const char *name)
{
    static char path[64][160];
    static int turn;
    char *p = path[turn = (turn + 1) % 64];
    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

/* ---- stores ------------------------------------------------------------------------------- */

/* A store of these chunks; first is the row number that values are made from. */
static inline void make_window(const char *path, const kd_chunk_info *chunk, uint32_t n,
                               const json_t *contract)
{
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *usual = fx_contract();
    fx_columns(c);
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract ? contract : usual, &p, err));
    for (uint32_t i = 0; i < n; i++) OK(fx_append(w, c, FX_COLUMNS, 100, &chunk[i], err));
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(usual);
}

/* One row's numbers from its id. */
static inline uint32_t numbers(const kd_id *id, uint32_t column, float *out, uint32_t each, uint32_t most)
{
    kd_rng g;
    uint64_t seed;
    memcpy(&seed, id->b, 8);
    kd_rng_init(&g, seed, KD_RNG_TEST, column, 0);
    const uint32_t length = most ? (uint32_t)kd_rng_below(&g, most) : 1;
    for (uint32_t i = 0; i < length * each; i++) out[i] = kd_rng_normal(&g);
    return length;
}

static inline void append_outputs(kd_store_writer *w, kd_store *s, kd_cursor *cur, uint32_t chunk,
                                  const kd_column *c)
{
    const kd_chunk_info *ci = kd_store_chunk(s, chunk);
    kd_id id[FX_CHUNK_ROWS];
    float logits[FX_CHUNK_ROWS * 10], ragged[FX_CHUNK_ROWS * 7 * 5];
    uint32_t lengths[FX_CHUNK_ROWS], n = 0;
    kd_buf a = {0}, b = {0};
    kd_codec *codec;
    OK(kd_cursor_read(cur, 0, chunk, id, ci->rows * sizeof(id[0]), err));
    for (uint32_t r = 0; r < ci->rows; r++) {
        numbers(&id[r], 0, logits + 10 * (size_t)r, 10, 0);
        n += lengths[r] = numbers(&id[r], 1, ragged + 5 * (size_t)n, 5, 8);
    }
    kd_codec_block block = {.values = logits, .rows = ci->rows, .each = 1, .ids = id};
    OK(kd_column_codec(&codec, &c[0], err));
    OK(kd_codec_encode(codec, &block, 1, &a, err));
    kd_codec_close(codec);
    block = (kd_codec_block){.values = ragged, .rows = ci->rows, .lengths = lengths, .each = 1, .ids = id};
    OK(kd_column_codec(&codec, &c[1], err));
    OK(kd_codec_encode(codec, &block, 1, &b, err));
    kd_codec_close(codec);
    const kd_block out[2] = {{.data = a.text, .bytes = a.len},
                             {.data = b.text, .bytes = b.len, .lengths = lengths}};
    OK(kd_store_writer_append(w, ci->split, ci->rows, out, err));
    kd_buf_release(&a);
    kd_buf_release(&b);
}

/* Adds a segment as kd-dump does: the contract names the rows by the root of the base segment. params: of the
 * first column, may be NULL. */
static inline void add_teacher_of(const char *path, const char *fingerprint, json_t *params)
{
    kd_store *s;
    kd_cursor *cur;
    kd_store_writer *w;
    kd_writer_params p = fx_params();
    kd_column c[2];
    fx_column(&c[0], "big/logits", KD_ROLE_LOGITS, KD_F32, 1, 10, 0);
    fx_column(&c[1], "big/feat.x", KD_ROLE_FEATURE, KD_F32, 2, -1, 5);
    c[0].params = params;
    for (int i = 0; i < 2; i++) snprintf(c[i].encoding, sizeof(c[i].encoding), "int8");
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    json_t *contract =
        json_pack("{s:s, s:O}", "teacher", fingerprint, "store", json_object_get(base, "root"));
    json_t *extra = json_pack("{s:{s:s, s:s, s:f, s:i}}", "teacher", "name", "big", "fingerprint",
                              fingerprint, "seconds", 1.5, "seconds_rows", 10);
    OK(kd_store_extend(&w, s, "big", c, 2, contract, &p, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) append_outputs(w, s, cur, i, c);
    OK(kd_store_writer_seal(w, extra, err));
    json_decref(contract);
    json_decref(extra);
    kd_cursor_close(cur);
    kd_store_close(s);
}

static inline void add_teacher(const char *path, const char *fingerprint)
{
    add_teacher_of(path, fingerprint, NULL);
}

static char *root_of(const char *path)
{
    kd_store *s;
    OK(kd_store_open(&s, path, err));
    char *root = kd_strdup(kd_store_root(s));
    kd_store_close(s);
    return root;
}

static inline void same_root(const char *a, const char *b)
{
    char *of_a = root_of(a), *of_b = root_of(b);
    assert_string_equal(of_a, of_b);
    free(of_a);
    free(of_b);
}

static inline void is_whole(const char *path)
{
    kd_verify_report r;
    OK(kd_store_verify(path, 2, &r, NULL, NULL, err));
    assert_int_equal(r.damaged, 0);
}

/* ---- what rows must be -------------------------------------------------------------------- */

/* Bytes of row r in a block as kd_cursor_read gives it. */
static inline const uint8_t *row_bytes(const kd_column *c, const uint8_t *block, uint32_t rows, uint32_t r,
                                       size_t *n)
{
    size_t unit = kd_dtype_size(c->dtype), before = r;
    const bool ragged = c->ndims && c->dims[0] == -1;
    for (int k = ragged ? 1 : 0; k < c->ndims; k++) unit *= (size_t)c->dims[k];
    *n = unit;
    if (!ragged) return block + before * unit;
    uint32_t length;
    before = 0;
    for (uint32_t i = 0; i <= r; i++) {
        memcpy(&length, block + 4 * (size_t)i, 4);
        if (i < r) before += length;
    }
    *n = length * unit;
    return block + 4 * (size_t)rows + before * unit;
}

/* The store's rows are those with these numbers, in this order, in every column of the fixture. */
static inline void has_rows(const char *path, const uint32_t *number, uint32_t n)
{
    kd_store *s;
    kd_cursor *cur;
    kd_column c[FX_COLUMNS];
    fx_columns(c);
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    assert_int_equal(kd_store_rows(s), n);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++)
        for (int k = 0; k < FX_COLUMNS; k++) {
            const kd_chunk_info *ci = kd_store_chunk(s, i);
            size_t size, have, want, want_size, head;
            OK(kd_cursor_size(cur, k, i, &size, err));
            uint8_t *block = malloc(size + 1);
            OK(kd_cursor_read(cur, k, i, block, size, err));
            for (uint32_t r = 0; r < ci->rows; r++) {
                const kd_chunk_info one = {.first = number[ci->first + r], .rows = 1, .split = ci->split};
                uint8_t *row = fx_block(&c[k], 100 + k, &one, &want_size, &head);
                const uint8_t *got = row_bytes(&c[k], block, ci->rows, r, &have);
                const uint8_t *wanted = row_bytes(&c[k], row, 1, 0, &want);
                assert_int_equal(have, want);
                assert_memory_equal(got, wanted, want);
                free(row);
            }
            free(block);
        }
    kd_cursor_close(cur);
    kd_store_close(s);
}

/* The teacher's outputs are those of their rows' ids, within what int8 keeps. */
static inline void has_outputs(const char *path)
{
    kd_store *s;
    kd_cursor *cur;
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    for (int k = 0; k < 2; k++) {
        const int column = kd_store_find(s, k ? "big/feat.x" : "big/logits");
        const uint32_t each = k ? 5 : 10;
        for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
            const kd_chunk_info *ci = kd_store_chunk(s, i);
            kd_id id[FX_CHUNK_ROWS];
            uint32_t lengths[FX_CHUNK_ROWS];
            float got[FX_CHUNK_ROWS * 35], want[40];
            size_t positions, at = 0;
            OK(kd_cursor_read(cur, 0, i, id, ci->rows * sizeof(id[0]), err));
            OK(kd_cursor_lengths(cur, column, i, lengths, &positions, err));
            OK(kd_cursor_read_f32(cur, column, i, got, positions, err));
            for (uint32_t r = 0; r < ci->rows; r++) {
                assert_int_equal(lengths[r], numbers(&id[r], (uint32_t)k, want, each, k ? 8 : 0));
                for (uint32_t j = 0; j < lengths[r] * each; j++, at++)
                    assert_true(got[at] - want[j] < 0.03f && want[j] - got[at] < 0.03f);
            }
        }
    }
    kd_cursor_close(cur);
    kd_store_close(s);
}

static inline uint32_t fill_range(uint32_t *number, uint32_t n, uint32_t from, uint32_t to)
{
    while (from < to) number[n++] = from++;
    return n;
}

/* ---- stopping ---- */

typedef struct brake {
    int stop, after;
} brake;

static inline void pull(void *arg, uint64_t done, uint64_t total)
{
    brake *b = arg;
    assert_true(done <= total);
    if (--b->after <= 0) b->stop = 1;
}

static inline int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/kd-test-merge-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    fx_make(in_dir("whole.kd"), NULL);
    add_teacher(in_dir("whole.kd"), "fp");
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    return kd_remove_tree(dir, NULL);
}

#endif
