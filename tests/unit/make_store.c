/* make_store.c - a store with a column of every type and encoding, and beside it what was put in and what
 * comes out, for programs in other languages to compare with (tests/python/).
 *
 *     make_store STORE.kd FOLDER
 *
 * The base is the fixture's; segment "enc" has a column for each encoding below. FOLDER receives raw
 * little-endian numbers, all chunks of a column one after the other, "/" in its name as "_":
 *
 *     NAME.values, NAME.lengths (ragged columns), NAME.sample (positions that a codebook was learned from)
 *     NAME.f32 (dense codecs), NAME.offset, .id, .value, .exact, .tail, .logz (sparse codecs)
 */
#include "store_fixture.h"

#include "kd/codec.h"
#include "kd/config.h"

typedef struct encoded {
    const char *name, *encoding;
    int ndims;
    int64_t dims[2];
    bool book;
    float grid; /* values are multiples of this, so that some are equal; 0: any */
} encoded;

static const encoded kinds[] = {
    {"enc/int8", "int8", 2, {2, 37}, false, 0},
    {"enc/int8-channel", "int8-channel", 2, {-1, 24}, false, 0},
    {"enc/log8", "log8", 2, {-1, 10}, false, 0},
    {"enc/log6", "log6:step=0.2", 1, {37}, false, 0},
    {"enc/topk", "topk:k=5,temperatures=1+4", 2, {-1, 300}, true, 0},
    {"enc/topk-equal", "topk:k=9", 2, {3, 64}, false, 0.5f},
    {"enc/topk-all", "topk:k=400,temperatures=2+1+0.5,step=0.25", 1, {20}, true, 0},
    {"enc/sample", "sample:n=50,seed=3", 2, {2, 300}, true, 0},
    {"enc/sample-many", "sample:n=300,temperature=2", 1, {70}, false, 0},
    {"enc/head-tail", "head-tail", 2, {-1, 1000}, true, 0},
    {"enc/head-tail-equal", "head-tail:n=64,temperature=4,seed=-5,step=0.03", 1, {130}, false, 0.5f},
};
enum { KINDS = KD_COUNT(kinds), SAMPLE = 100 };

static const char *folder;

static void put(const char *name, const char *what, const void *data, size_t bytes)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/%s.%s", folder, name, what);
    for (char *p = path + strlen(folder) + 1; *p; p++)
        if (*p == '/') *p = '_';
    FILE *f = fopen(path, "ab");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

/* Logits of n positions, the first classes likelier than the last ones. */
static float *logits(const encoded *k, size_t n, uint32_t a, uint32_t b)
{
    const size_t width = (size_t)k->dims[k->ndims - 1];
    float *v = malloc((n * width + 1) * sizeof(*v));
    kd_rng g;
    assert_non_null(v);
    kd_rng_init(&g, 55, KD_RNG_TEST, a, b);
    for (size_t i = 0; i < n * width; i++) {
        v[i] = 2.5f * kd_rng_normal(&g) - 8 * (float)(i * 7 % width) / (float)width;
        if (k->grid > 0) v[i] = k->grid * (float)(int)(v[i] / k->grid);
    }
    return v;
}

typedef struct made {
    const encoded *kind;
    kd_column c;
    kd_codec *codec;
    json_t *params;
    void *book;
} made;

static void made_init(made *col, const encoded *k, uint32_t index)
{
    const int64_t width = k->dims[k->ndims - 1];
    char name[16];
    json_t *params;
    *col = (made){.kind = k};
    OK(kd_codec_parse(k->encoding, name, &params, err));
    fx_column(&col->c, k->name, KD_ROLE_LOGITS, KD_F32, k->ndims, k->dims[0], k->dims[1]);
    snprintf(col->c.encoding, sizeof(col->c.encoding), "%s", name);
    snprintf(col->c.teacher, sizeof(col->c.teacher), "big");
    if (k->book) {
        float *sample = logits(k, SAMPLE, index, UINT32_MAX);
        OK(kd_codec_learn(name, width, params, sample, SAMPLE, &col->book, &col->c.book_bytes, err));
        put(k->name, "sample", sample, SAMPLE * (size_t)width * sizeof(float));
        free(sample);
    }
    col->c.book = col->book;
    OK(kd_codec_open(&col->codec, name, width, params, col->book, col->c.book_bytes, err));
    col->c.params = col->params = json_pack("{s:o}", "codec", params);
    assert_non_null(col->params);
}

/* One chunk of a column. lengths: room for its rows. */
static void encode(const made *col, uint32_t index, const kd_chunk_info *i, const kd_id *ids,
                   uint32_t *lengths, kd_buf *out)
{
    const encoded *k = col->kind;
    const bool ragged = k->dims[0] == -1;
    kd_codec_block b = {.rows = i->rows,
                        .ids = ids,
                        .each = k->ndims == 2 && !ragged ? (uint32_t)k->dims[0] : 1};
    kd_rng g;
    kd_rng_init(&g, 56, KD_RNG_TEST, (uint32_t)i->first, index);
    for (uint32_t r = 0; r < i->rows; r++) lengths[r] = kd_rng_below(&g, 4);
    if (ragged) {
        b.lengths = lengths;
        put(k->name, "lengths", lengths, i->rows * sizeof(*lengths));
    }
    const size_t positions = kd_codec_block_positions(&b);
    float *v = logits(k, positions, index, (uint32_t)i->first);
    b.values = v;
    put(k->name, "values", v, positions * (size_t)k->dims[k->ndims - 1] * sizeof(*v));
    OK(kd_codec_encode(col->codec, &b, 2, out, err));
    free(v);
}

static void write_encoded(kd_store *s, made *cols)
{
    kd_column c[KINDS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    kd_cursor *cur;
    json_t *extra = json_pack("{s:{s:s, s:s}}", "teacher", "name", "big", "fingerprint", "none");
    for (size_t k = 0; k < KINDS; k++) c[k] = cols[k].c;
    OK(kd_store_extend(&w, s, "enc", c, KINDS, NULL, &p, err));
    OK(kd_cursor_open(&cur, s, err));
    for (uint32_t n = 0; n < kd_store_chunks(s); n++) {
        const kd_chunk_info *i = kd_store_chunk(s, n);
        kd_id ids[FX_CHUNK_ROWS];
        uint32_t lengths[KINDS][FX_CHUNK_ROWS];
        kd_buf bytes[KINDS] = {0};
        kd_block blocks[KINDS];
        OK(kd_cursor_read(cur, kd_store_find(s, "id"), n, ids, i->rows * sizeof(*ids), err));
        for (size_t k = 0; k < KINDS; k++) {
            encode(&cols[k], (uint32_t)k, i, ids, lengths[k], &bytes[k]);
            blocks[k] = (kd_block){.data = bytes[k].text, .bytes = bytes[k].len};
            if (kinds[k].dims[0] == -1) blocks[k].lengths = lengths[k];
        }
        OK(kd_store_writer_append(w, i->split, i->rows, blocks, err));
        for (size_t k = 0; k < KINDS; k++) kd_buf_release(&bytes[k]);
    }
    kd_cursor_close(cur);
    OK(kd_store_writer_seal(w, extra, err));
    json_decref(extra);
}

static void put_sparse(const char *name, const kd_sparse *s)
{
    const size_t sums = s->positions * (size_t)s->temperatures;
    put(name, "offset", s->offset, (s->positions + 1) * sizeof(*s->offset));
    put(name, "id", s->id, s->entries * sizeof(*s->id));
    put(name, "value", s->value, s->entries * sizeof(*s->value));
    put(name, "exact", s->exact, s->entries);
    put(name, "tail", s->tail, sums * sizeof(*s->tail));
    put(name, "logz", s->logz, sums * sizeof(*s->logz));
}

/* What a reader gets of the encoded columns. */
static void read_encoded(const char *path)
{
    kd_store *s;
    kd_cursor *cur;
    kd_sparse sparse = {0};
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    for (size_t k = 0; k < KINDS; k++) {
        const int column = kd_store_find(s, kinds[k].name);
        for (uint32_t n = 0; n < kd_store_chunks(s); n++) {
            size_t positions;
            OK(kd_cursor_lengths(cur, column, n, NULL, &positions, err));
            if (kd_codec_find(kd_store_column(s, (size_t)column)->encoding)->sparse) {
                OK(kd_cursor_read_sparse(cur, column, n, &sparse, err));
                put_sparse(kinds[k].name, &sparse);
            } else {
                const size_t numbers = positions * (size_t)kinds[k].dims[kinds[k].ndims - 1];
                float *v = malloc((numbers + 1) * sizeof(*v));
                assert_non_null(v);
                OK(kd_cursor_read_f32(cur, column, n, v, positions, err));
                put(kinds[k].name, "f32", v, numbers * sizeof(*v));
                free(v);
            }
        }
    }
    kd_sparse_release(&sparse);
    kd_cursor_close(cur);
    kd_store_close(s);
}

static void write_base(const char *path)
{
    kd_column c[FX_COLUMNS];
    kd_chunk_info chunk[64];
    const uint32_t n = fx_chunks(chunk);
    fx_make(path, NULL);
    fx_columns(c);
    for (int k = 0; k < FX_COLUMNS; k++)
        for (uint32_t i = 0; i < n; i++) {
            size_t size, head;
            uint8_t *b = fx_block(&c[k], 100 + k, &chunk[i], &size, &head);
            put(c[k].name, "values", b + head, size - head);
            if (head) put(c[k].name, "lengths", b, head);
            free(b);
        }
}

int main(int argc, char **argv)
{
    made cols[KINDS];
    kd_store *s;
    if (argc != 3) {
        fprintf(stderr, "make_store STORE.kd FOLDER\n");
        return 2;
    }
    folder = argv[2];
    write_base(argv[1]);
    OK(kd_store_open(&s, argv[1], err));
    for (uint32_t k = 0; k < KINDS; k++) made_init(&cols[k], &kinds[k], k);
    write_encoded(s, cols);
    kd_store_close(s);
    read_encoded(argv[1]);
    for (size_t k = 0; k < KINDS; k++) {
        kd_codec_close(cols[k].codec);
        json_decref(cols[k].params);
        free(cols[k].book);
    }
    return 0;
}
