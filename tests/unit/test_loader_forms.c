/* Batches of columns of every form: what a stream delivers is what a cursor reads, row by row. */
#include "check.h"
#include "kd/data.h"

#include <stdlib.h>
#include <unistd.h>

enum { CHUNK = 32, COLUMNS = 8, WIDTH = 50, MAX_CHUNKS = 400, MAX_ROWS = MAX_CHUNKS * CHUNK };

static const struct {
    const char *name, *encoding;
    kd_dtype dtype;
    int64_t dims[4]; // ends with 0
} made[COLUMNS] = {
    {"tokens", "dense", KD_I32, {-1}},
    {"ragged-f16", "dense", KD_F16, {-1, 2, 5}},
    {"ragged-int8", "int8", KD_F32, {-1, 6}},
    {"bf16", "dense", KD_BF16, {7}},
    {"int8", "int8", KD_F32, {3, 10}},
    {"head-tail", "head-tail:n=6", KD_F32, {WIDTH}},
    {"topk", "topk:k=5,temperatures=1+4", KD_F32, {3, WIDTH}},
    {"ragged-sample", "sample:n=9", KD_F32, {-1, WIDTH}},
};
static char folder[] = "/tmp/kd-forms.XXXXXX";

/* ---- a store ------------------------------------------------------------------------------ */

static float value_at(int column, uint64_t row, uint64_t k)
{
    kd_rng r;
    kd_rng_init(&r, (uint64_t)column, KD_RNG_TEST, (uint32_t)row, (uint32_t)k);
    return (float)(int)kd_rng_below(&r, 40) / 4 - 3;
}

static uint32_t length_of(int column, uint64_t row) { return (uint32_t)(row * 7 + (uint64_t)column * 3) % 8; }

static kd_column column_of(int c)
{
    kd_column k = {.role = made[c].dims[0] == WIDTH ? KD_ROLE_LOGITS : KD_ROLE_FEATURE,
                   .dtype = made[c].dtype};
    kd_err err;
    snprintf(k.name, sizeof(k.name), "%s", made[c].name);
    for (; made[c].dims[k.ndims]; k.ndims++) k.dims[k.ndims] = made[c].dims[k.ndims];
    json_t *params;
    if (kd_codec_parse(made[c].encoding, k.encoding, &params, &err)) fail_msg("%s", err.msg);
    k.params = json_object_size(params) ? json_pack("{s:O}", "codec", params) : NULL;
    json_decref(params);
    return k;
}

/* The values of one chunk of column c as a block. */
static void fill(kd_block *b, kd_buf *bytes, const kd_column *k, int c, const kd_chunk_info *i,
                 const kd_id *ids)
{
    const bool ragged = k->dims[0] < 0;
    const size_t each = kd_column_each(k), width = kd_column_width(k);
    uint32_t *lengths = ragged ? malloc(i->rows * sizeof(*lengths)) : NULL;
    size_t n = 0;
    float *v = calloc(i->rows * 8 * each * width, sizeof(*v));
    for (uint32_t r = 0; r < i->rows; r++) {
        uint32_t steps = ragged ? length_of(c, i->first + r) : 1;
        if (ragged) lengths[r] = steps;
        for (size_t e = 0; e < steps * each * width; e++) v[n++] = value_at(c, i->first + r, e);
    }
    kd_codec *codec = NULL;
    if (strcmp(k->encoding, "dense")) {
        uint32_t *positions = ragged ? lengths : NULL;
        kd_codec_block in = {
            .values = v, .rows = i->rows, .lengths = positions, .each = (uint32_t)each, .ids = ids};
        OK(kd_column_codec(&codec, k, err));
        OK(kd_codec_encode(codec, &in, 1, bytes, err));
        kd_codec_close(codec);
    } else {
        void *raw = malloc(n * kd_dtype_size(k->dtype) + 1);
        assert_int_equal(kd_from_f32(raw, k->dtype, v, n), KD_OK);
        kd_buf_append(bytes, raw, n * kd_dtype_size(k->dtype));
        free(raw);
    }
    *b = (kd_block){.data = bytes->text, .bytes = bytes->len, .lengths = lengths};
    free(v);
}

/* chunks: of the training split; odd: of all sizes, as in a merged store; else all are full. */
static kd_store *make(const char *name, uint32_t chunks, bool odd)
{
    kd_column k[COLUMNS + 2] = {0};
    kd_writer_params wp = kd_writer_default_params();
    kd_store_writer *w;
    kd_store *s;
    json_t *contract = json_object();
    char path[64];
    uint64_t first = 0;
    snprintf(path, sizeof(path), "%s/%s.kd", folder, name);
    wp.chunk_rows = CHUNK;
    k[0] = (kd_column){.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}};
    k[1] = (kd_column){.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8};
    for (int c = 0; c < COLUMNS; c++) k[c + 2] = column_of(c);
    OK(kd_store_create(&w, path, k, COLUMNS + 2, contract, &wp, err));
    for (uint32_t i = 0; i < chunks; i++) {
        static const uint32_t sizes[] = {32, 7, 32, 32, 1, 20, 31};
        kd_chunk_info info = {.first = first, .rows = odd ? sizes[i % 7] : CHUNK};
        kd_id ids[CHUNK];
        uint8_t split[CHUNK] = {0};
        kd_block b[COLUMNS + 2] = {{.data = ids, .bytes = info.rows * 16},
                                   {.data = split, .bytes = info.rows}};
        kd_buf bytes[COLUMNS] = {0};
        for (uint32_t r = 0; r < info.rows; r++) ids[r] = kd_hash128(&(uint64_t){first + r}, 8);
        for (int c = 0; c < COLUMNS; c++) fill(&b[c + 2], &bytes[c], &k[c + 2], c, &info, ids);
        OK(kd_store_writer_append(w, KD_TRAIN, info.rows, b, err));
        for (int c = 0; c < COLUMNS; c++) {
            kd_buf_release(&bytes[c]);
            free((void *)(uintptr_t)b[c + 2].lengths);
        }
        first += info.rows;
    }
    OK(kd_store_writer_seal(w, NULL, err));
    for (int c = 0; c < COLUMNS; c++) json_decref(k[c + 2].params);
    json_decref(contract);
    OK(kd_store_open(&s, path, err));
    return s;
}

/* ---- what a cursor reads ------------------------------------------------------------------ */

typedef struct truth {
    uint32_t length[CHUNK];
    size_t first[CHUNK + 1]; // positions before a row
    uint8_t *values;         // as the loader gives them
    kd_sparse sparse;
} truth;
static truth known[COLUMNS][MAX_CHUNKS];
static uint32_t chunk_of[MAX_ROWS];
static kd_store *odd, *even; // of 70 chunks

static bool is_coded(const kd_column *k) { return strcmp(k->encoding, "dense") != 0; }
static bool is_sparse(const kd_column *k) { return is_coded(k) && kd_codec_find(k->encoding)->sparse; }

static void read_chunk(truth *t, kd_cursor *cur, kd_store *s, int column, uint32_t chunk)
{
    const kd_column *k = kd_store_column(s, (size_t)column);
    const uint32_t rows = kd_store_chunk(s, chunk)->rows;
    size_t positions, size, head = k->dims[0] < 0 ? 4 * (size_t)rows : 0;
    OK(kd_cursor_lengths(cur, column, chunk, t->length, &positions, err));
    for (uint32_t r = 0; r < rows; r++) t->first[r + 1] = t->first[r] + t->length[r] * kd_column_each(k);
    if (is_sparse(k)) {
        OK(kd_cursor_read_sparse(cur, column, chunk, &t->sparse, err));
    } else if (is_coded(k)) {
        t->values = malloc(positions * kd_column_width(k) * 4 + 1);
        OK(kd_cursor_read_f32(cur, column, chunk, (float *)(void *)t->values, positions, err));
    } else {
        OK(kd_cursor_size(cur, column, chunk, &size, err));
        t->values = malloc(size + 1);
        OK(kd_cursor_read(cur, column, chunk, t->values, size, err));
        memmove(t->values, t->values + head, size - head);
    }
}

static int setup(void **state)
{
    (void)state;
    kd_cursor *cur;
    if (!mkdtemp(folder)) return -1;
    odd = make("odd", 70, true);
    even = make("even", 20, false);
    OK(kd_cursor_open(&cur, odd, err));
    for (uint32_t i = 0; i < kd_store_chunks(odd); i++) {
        const kd_chunk_info *info = kd_store_chunk(odd, i);
        for (uint32_t r = 0; r < info->rows; r++) chunk_of[info->first + r] = i;
        for (int c = 0; c < COLUMNS; c++) read_chunk(&known[c][i], cur, odd, c + 2, i);
    }
    kd_cursor_close(cur);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kd_store_close(odd);
    kd_store_close(even);
    for (int c = 0; c < COLUMNS; c++)
        for (int i = 0; i < MAX_CHUNKS; i++) {
            free(known[c][i].values);
            kd_sparse_release(&known[c][i].sparse);
        }
    return kd_remove_tree(folder, NULL);
}

/* ---- comparing ---------------------------------------------------------------------------- */

/* Positions [at, at + n) of the batch are those from `from` on of the chunk. */
static void same_sparse(const kd_sparse *b, size_t at, const kd_sparse *t, size_t from, size_t n)
{
    size_t k = (size_t)t->temperatures;
    assert_int_equal(b->temperatures, t->temperatures);
    assert_memory_equal(b->temperature, t->temperature, k * sizeof(double));
    for (size_t i = 0; i < n; i++) {
        uint64_t e = b->offset[at + i], f = t->offset[from + i], entries = t->offset[from + i + 1] - f;
        assert_int_equal(b->offset[at + i + 1] - e, entries);
        assert_true(entries > 0);
        assert_memory_equal(b->id + e, t->id + f, entries * 4);
        assert_memory_equal(b->value + e, t->value + f, entries * 4);
        assert_memory_equal(b->exact + e, t->exact + f, entries);
    }
    if (k) assert_memory_equal(b->tail + at * k, t->tail + from * k, n * k * 4);
    if (k) assert_memory_equal(b->logz + at * k, t->logz + from * k, n * k * 4);
}

static void check_batch(const kd_batch *b)
{
    for (int c = 0; c < COLUMNS; c++) {
        const kd_column *k = kd_store_column(odd, (size_t)c + 2);
        const bool ragged = k->dims[0] < 0;
        const size_t each = kd_column_each(k), unit = kd_column_width(k) * kd_dtype_size(k->dtype);
        assert_int_equal(b->offset[c] != NULL, ragged);
        assert_int_equal(b->sparse[c] != NULL, is_sparse(k));
        if (ragged) assert_int_equal(b->offset[c][0], 0);
        if (is_sparse(k))
            assert_int_equal(b->sparse[c]->positions, ragged ? b->offset[c][b->rows] : b->rows * each);
        for (uint32_t i = 0; i < b->rows; i++) {
            const truth *t = &known[c][chunk_of[b->row[i]]];
            uint64_t r = b->row[i] - kd_store_chunk(odd, chunk_of[b->row[i]])->first;
            size_t n = t->first[r + 1] - t->first[r], at = ragged ? (size_t)b->offset[c][i] : i * each;
            if (ragged) assert_int_equal(b->offset[c][i + 1] - at, n);
            if (is_sparse(k))
                same_sparse(b->sparse[c], at, &t->sparse, t->first[r], n);
            else if (n)
                assert_memory_equal((const uint8_t *)b->column[c] + at * unit, t->values + t->first[r] * unit,
                                    n * unit);
        }
    }
}

static kd_loader *open_at(kd_store *s, kd_stream **stream, const kd_loader_params *p, uint32_t batch)
{
    int columns[COLUMNS];
    kd_loader *l;
    for (int c = 0; c < COLUMNS; c++) columns[c] = c + 2;
    OK(kd_loader_open(&l, s, columns, COLUMNS, p, err));
    OK(kd_stream_open(stream, l, 3, batch, false, err));
    return l;
}

/* All rows of an epoch from batch `skip` on. */
static uint64_t run(kd_loader *l, kd_stream *s, uint64_t epoch, uint64_t skip, uint64_t *rows)
{
    kd_batch b;
    uint64_t n = 0;
    OK(kd_loader_epoch(l, epoch, err));
    OK(kd_stream_skip(s, skip, err));
    for (;;) {
        OK(kd_stream_next(s, &b, err));
        if (!b.rows) return n;
        check_batch(&b);
        memcpy(rows + n, b.row, b.rows * sizeof(*rows));
        n += b.rows;
    }
}

/* ---- tests -------------------------------------------------------------------------------- */

static void batches_of_every_form_are_what_a_cursor_reads(void **state)
{
    (void)state;
    static uint64_t first[MAX_ROWS], rows[MAX_ROWS];
    static const uint64_t windows[] = {1, 64, 333, 65536};
    for (size_t w = 0; w < KD_COUNT(windows); w++)
        for (int way = 0; way < 4; way++) {
            kd_loader_params p = kd_loader_default_params();
            kd_stream *s;
            p.window_rows = windows[w], p.threads = way < 2 ? 1 : 3, p.ahead = way % 2;
            kd_loader *l = open_at(odd, &s, &p, 13);
            for (uint64_t epoch = 0; epoch < 2; epoch++) {
                assert_int_equal(run(l, s, epoch, 0, rows), kd_store_rows(odd));
                if (!way && epoch) memcpy(first, rows, sizeof(rows));
            }
            assert_memory_equal(rows, first, sizeof(rows));
            kd_loader_close(l);
        }
}

/* Chunks of all sizes: where a window begins is computed, not counted. */
static void skipping_in_a_merged_store_equals_stepping_and_decodes_no_more_than_it_needs(void **state)
{
    (void)state;
    static uint64_t all[MAX_ROWS], rows[MAX_ROWS];
    kd_loader_params p = kd_loader_default_params();
    kd_stream *s;
    kd_batch b;
    p.window_rows = 3 * CHUNK;
    kd_loader *l = open_at(odd, &s, &p, 50);
    uint64_t total = run(l, s, 5, 0, all), window = 3 * COLUMNS;
    for (uint64_t skip = 0; skip < kd_stream_steps(s); skip++) {
        assert_int_equal(run(l, s, 5, skip, rows), total - 50 * skip);
        assert_memory_equal(rows, all + 50 * skip, (total - 50 * skip) * sizeof(*rows));
        OK(kd_loader_epoch(l, 5, err));
        OK(kd_stream_skip(s, skip, err));
        uint64_t before = kd_loader_decoded(l);
        OK(kd_stream_next(s, &b, err));
        assert_true(kd_loader_decoded(l) - before <= 3 * window); // a batch of 50 may lie in three windows
    }
    kd_loader_close(l);
}

static void memory_does_not_grow_with_the_store(void **state)
{
    (void)state;
    kd_store *big = make("big", 20 * 20, false);
    for (int ahead = 0; ahead < 2; ahead++) {
        kd_loader_params p = kd_loader_default_params();
        kd_stream *s;
        p.window_rows = 5 * CHUNK, p.ahead = ahead;
        kd_loader *l = open_at(even, &s, &p, 16), *m = open_at(big, &s, &p, 16);
        assert_int_equal(kd_loader_rows(m), 20 * kd_loader_rows(l));
        assert_int_equal(kd_loader_bytes(m),
                         kd_loader_bytes(l) + 380 * sizeof(uint32_t)); // of 380 chunks more
        kd_loader_close(l);
        kd_loader_close(m);
    }
    kd_store_close(big);
}

static void a_second_window_is_paid_for_decoding_ahead_only(void **state)
{
    (void)state;
    kd_loader_params p = kd_loader_default_params();
    kd_stream *s;
    p.window_rows = 5 * CHUNK;
    kd_loader *l = open_at(even, &s, &p, 16);
    size_t one = kd_loader_bytes(l);
    kd_loader_close(l);
    p.ahead = true;
    l = open_at(even, &s, &p, 16);
    assert_in_range(kd_loader_bytes(l), one + 5 * CHUNK * (14 + 120), 2 * one);
    kd_loader_close(l);
    p.window_rows = 65536; // nothing is left to decode ahead
    l = open_at(even, &s, &p, 16);
    size_t whole = kd_loader_bytes(l);
    kd_loader_close(l);
    p.ahead = false;
    l = open_at(even, &s, &p, 16);
    assert_int_equal(kd_loader_bytes(l), whole);
    kd_loader_close(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_of_every_form_are_what_a_cursor_reads),
        cmocka_unit_test(skipping_in_a_merged_store_equals_stepping_and_decodes_no_more_than_it_needs),
        cmocka_unit_test(memory_does_not_grow_with_the_store),
        cmocka_unit_test(a_second_window_is_paid_for_decoding_ahead_only),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
