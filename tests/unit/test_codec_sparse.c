/* test_codec_sparse.c - codecs that keep few classes: topk, sample, head-tail.
 *
 * Bytes against docs/store-format.md, reading against a plain twin, choices against their definitions,
 * estimates against the probabilities that they stand for, damaged blocks and codebooks refused. */
#include "codec_fixture.h"

static const char *const all[] = {
    "topk:k=7,temperatures=1+4",    "sample:n=9", "head-tail:n=9", "topk:k=300", "sample:n=300",
    "head-tail:n=300,temperature=2"};

static void same_bytes(const kd_buf *a, const kd_buf *b)
{
    assert_int_equal(a->len, b->len);
    if (a->len) assert_memory_equal(a->text, b->text, a->len);
}

static void same_targets(const kd_sparse *a, const kd_sparse *b)
{
    const size_t codes = a->positions * (size_t)a->temperatures * sizeof(float);
    assert_int_equal(a->positions, b->positions);
    assert_int_equal(a->entries, b->entries);
    assert_int_equal(a->temperatures, b->temperatures);
    assert_memory_equal(a->offset, b->offset, (a->positions + 1) * sizeof *a->offset);
    if (a->entries) {
        assert_memory_equal(a->id, b->id, a->entries * sizeof *a->id);
        assert_memory_equal(a->value, b->value, a->entries * sizeof *a->value);
        assert_memory_equal(a->exact, b->exact, a->entries);
    }
    if (!codes) return;
    assert_memory_equal(a->tail, b->tail, codes);
    assert_memory_equal(a->logz, b->logz, codes);
}

/* What kd_sparse promises of any block, damaged or not. */
static void in_order(const kd_sparse *s, int64_t width)
{
    assert_int_equal(s->offset[0], 0);
    for (size_t i = 0; i < s->positions; i++)
        for (uint64_t k = s->offset[i]; k < s->offset[i + 1]; k++) {
            assert_true(s->id[k] < width && (k == s->offset[i] || s->id[k] > s->id[k - 1]));
            assert_true(isfinite(s->value[k]) && s->exact[k] <= 1);
        }
    for (size_t i = 0; i < s->positions * (size_t)s->temperatures; i++)
        assert_true(s->tail[i] >= 0 && s->tail[i] <= 1 && s->logz[i] >= 0 && s->logz[i] < 32);
}

static const struct {
    size_t positions;
    int64_t width;
} shapes[] = {{0, 5}, {1, 1}, {3, 2}, {40, 10}, {300, 65}, {30, 1000}, {3, 70001}};

/* ---- the document ------------------------------------------------------------------------- */

static const float documented[20] = {0, 1, 5, 2, 0, 0, -1, 4, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const struct {
    const char *text, *hex;
} vectors[] = {
    {"topk:k=3,temperatures=1+4",
     "316d 0b01 c46c 0312 ee6d 0201 336c 0c12 0303 0f0f11 100e0e 100020 000000 03"},
    {"sample:n=5,seed=1", "0100 0000 1002 0f0f10100e0e 00"},
    {"head-tail:n=4,seed=1", "0100 0000 1007 0f0f0f0e10 01"},
};

static void same_hex(const char *got, const char *want)
{
    for (;; got++, want++) {
        while (*got == ' ') got++;
        while (*want == ' ') want++;
        if (*got != *want) fail_msg("'%s' differs from '%s'", got, want);
        if (!*got) return;
    }
}

static void blocks_have_the_documented_bytes(void **state)
{
    (void)state;
    kd_id id;
    for (int i = 0; i < 16; i++) id.b[i] = (uint8_t)i;
    for (size_t k = 0; k < KD_COUNT(vectors); k++) {
        kd_codec *c = opened_with(vectors[k].text, 10, "\7\2", 2);
        kd_codec_block b = {.values = documented, .rows = 1, .each = 2, .ids = &id};
        kd_buf out = {0}, hex = {0};
        OK(kd_codec_encode(c, &b, 1, &out, err));
        for (size_t i = 0; i < out.len; i++) kd_buf_printf(&hex, "%02x", (uint8_t)out.text[i]);
        same_hex(hex.text, vectors[k].hex);
        kd_buf_release(&out);
        kd_buf_release(&hex);
        kd_codec_close(c);
    }
}

/* Below "NAME as ..." the document has lines "    hex   # what they are". */
static void the_document_shows_these_bytes(void **state)
{
    (void)state;
    char *text;
    size_t len;
    if (!kd_exists("docs/store-format.md")) {
        print_message("docs/store-format.md is not below the current folder\n");
        skip();
    }
    OK(kd_file_read("docs/store-format.md", 1 << 20, &text, &len, err));
    for (size_t k = 0; k < KD_COUNT(vectors); k++) {
        char head[64];
        kd_buf hex = {0};
        snprintf(head, sizeof head, "`%s`:\n\n", vectors[k].text);
        char *at = strstr(text, head), *end = at ? strstr(at += strlen(head), "\n\n") : NULL;
        assert_non_null(end);
        for (; at < end; at++) {
            if (*at == '#') at = strchr(at, '\n');
            if (*at != ' ' && *at != '\n') kd_buf_append(&hex, at, 1);
        }
        same_hex(hex.text, vectors[k].hex);
        kd_buf_release(&hex);
    }
    free(text);
}

/* ---- all of them -------------------------------------------------------------------------- */

/* Each row gathered apart, a position at a time. */
static void rows_that_are_joined_give_the_block(kd_codec_pieces *p, const kd_codec *c,
                                                const kd_codec_block *whole, const kd_buf *want)
{
    kd_codec_pieces *row;
    kd_buf got = {0};
    const float *values = whole->values;
    const uint32_t one = 1;
    OK(kd_codec_begin(&row, c, err));
    for (uint32_t i = 0; i < whole->rows; i++) {
        for (uint32_t k = 0; k < whole->lengths[i]; k++, values += kd_codec_width(c))
            OK(kd_codec_add(row,
                            &(kd_codec_block){
                                .values = values, .rows = 1, .lengths = &one, .at = k, .ids = whole->ids + i},
                            1, err));
        OK(kd_codec_join(p, row, err));
    }
    OK(kd_codec_end(p, &got, err));
    same_bytes(want, &got);
    kd_codec_pieces_free(row);
    kd_buf_release(&got);
}

/* Rows of 0, 1, 2, ... positions, added so many positions at a time. */
static void pieces_give_the_block(const kd_codec *c, const float *values, const uint32_t *lengths,
                                  const kd_id *ids, uint32_t rows, size_t step)
{
    const kd_codec_block whole = {.values = values, .rows = rows, .lengths = lengths, .ids = ids};
    const size_t n = kd_codec_block_positions(&whole);
    kd_codec_pieces *p;
    kd_buf want = {0}, got = {0};
    OK(kd_codec_encode(c, &whole, 1, &want, err));
    OK(kd_codec_begin(&p, c, err));
    for (int round = 0; round < 2; round++) { // the second block of the same pieces
        uint32_t row = 0, at = 0;
        for (size_t i = 0; i < n; i += step) {
            const size_t end = kd_min_size(n, i + step);
            uint32_t part[64], many = 0;
            for (; at == lengths[row]; row++) at = 0;
            const uint32_t first = row, begun = at;
            for (size_t k = i; k < end; many++) {
                part[many] = (uint32_t)kd_min_size(end - k, lengths[row] - at);
                k += part[many];
                at += part[many];
                if (k < end) row++, at = 0;
            }
            OK(kd_codec_add(p,
                            &(kd_codec_block){.values = values + i * (size_t)kd_codec_width(c),
                                              .rows = many,
                                              .lengths = part,
                                              .at = begun,
                                              .ids = ids + first},
                            1 + (int)(i % 3), err));
        }
        got.len = 0;
        OK(kd_codec_end(p, &got, err));
        same_bytes(&want, &got);
    }
    rows_that_are_joined_give_the_block(p, c, &whole, &want);
    kd_codec_pieces_free(p);
    kd_buf_release(&want);
    kd_buf_release(&got);
}

static void a_block_can_be_made_piece_by_piece(void **state)
{
    (void)state;
    static const char *const dense[] = {"int8", "log8", "log6"};
    enum { ROWS = 30, WIDTH = 300 };
    uint32_t lengths[ROWS];
    kd_id ids[ROWS];
    size_t n = 0;
    for (uint32_t i = 0; i < ROWS; i++) n += lengths[i] = i % 7, ids[i] = id_of(i);
    float *v = teacher(n, WIDTH, 8);
    for (size_t k = 0; k < KD_COUNT(all) + KD_COUNT(dense); k++) {
        kd_codec *c =
            k < KD_COUNT(all) ? opened_ranked(all[k], WIDTH) : opened(dense[k - KD_COUNT(all)], WIDTH);
        const size_t steps[] = {1, 5, 16, n, n + 9};
        for (size_t i = 0; i < KD_COUNT(steps); i++)
            pieces_give_the_block(c, v, lengths, ids, ROWS, steps[i]);
        kd_codec_close(c);
    }
    kd_codec_pieces *p;
    kd_codec *c = opened("int8-channel", WIDTH);
    FAILS(kd_codec_begin(&p, c, err), KD_EUNSUPPORTED, "a whole block at once");
    kd_codec_close(c);
    free(v);
}

static void bytes_do_not_depend_on_threads(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (size_t s = 0; s < KD_COUNT(shapes); s++) {
            const size_t n = shapes[s].positions;
            kd_codec *c = opened_ranked(all[k], shapes[s].width);
            float *v = teacher(n, (size_t)shapes[s].width, 1);
            kd_buf one = encoded(c, v, n);
            for (int threads = 2; threads < 5; threads++) {
                kd_buf more = encoded_rows(c, v, NULL, n, threads);
                same_bytes(&one, &more);
                kd_buf_release(&more);
            }
            kd_buf_release(&one);
            kd_codec_close(c);
            free(v);
        }
}

static void reading_equals_its_twin_to_the_bit(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (size_t s = 0; s < 2 * KD_COUNT(shapes); s++) {
            const size_t n = shapes[s / 2].positions;
            const int64_t width = shapes[s / 2].width;
            kd_codec *c = s % 2 ? opened_ranked(all[k], width) : opened(all[k], width);
            float *v = teacher(n, (size_t)width, 2);
            kd_buf b = encoded(c, v, n);
            kd_sparse got = decoded(c, &b, n), twin = {0};
            OK(c->ops->sparse_twin(c, (const uint8_t *)b.text, b.len, n, &twin, err));
            same_targets(&got, &twin);
            in_order(&got, width);
            kd_sparse_release(&got);
            kd_sparse_release(&twin);
            kd_buf_release(&b);
            kd_codec_close(c);
            free(v);
        }
}

static void a_codebook_changes_bytes_and_no_target(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        kd_codec *plain = opened(all[k], 1000), *ranked = opened_ranked(all[k], 1000);
        float *v = teacher(20, 1000, 3);
        kd_buf a = encoded(plain, v, 20), b = encoded(ranked, v, 20);
        kd_sparse x = decoded(plain, &a, 20), y = decoded(ranked, &b, 20);
        assert_true(a.len != b.len || memcmp(a.text, b.text, a.len));
        same_targets(&x, &y);
        kd_sparse_release(&x);
        kd_sparse_release(&y);
        kd_buf_release(&a);
        kd_buf_release(&b);
        kd_codec_close(plain);
        kd_codec_close(ranked);
        free(v);
    }
}

static void selecting_is_encoding_the_selected(void **state)
{
    (void)state;
    enum { N = 60, WIDTH = 200 };
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        kd_codec *c = opened_ranked(all[k], WIDTH);
        float *v = teacher(N, WIDTH, 4), *kept = malloc(N * WIDTH * sizeof *kept);
        uint8_t keep[N];
        size_t row[N], n = 0;
        kd_buf whole = encoded(c, v, N), part = {0};
        assert_non_null(kept);
        for (size_t i = 0; i < N; i++) {
            keep[i] = i % 3 == 1 ? 9 : 0;
            if (!keep[i]) continue;
            memcpy(kept + n * WIDTH, v + i * WIDTH, WIDTH * sizeof *v);
            row[n++] = i;
        }
        OK(kd_codec_select(c, whole.text, whole.len, N, keep, &part, err));
        kd_buf want = encoded_rows(c, kept, row, n, 1);
        same_bytes(&part, &want);
        part.len = 0;
        memset(keep, 0, sizeof keep);
        OK(kd_codec_select(c, whole.text, whole.len, N, keep, &part, err));
        assert_int_equal(part.len, 0);
        kd_buf_release(&whole);
        kd_buf_release(&part);
        kd_buf_release(&want);
        kd_codec_close(c);
        free(v);
        free(kept);
    }
}

/* Rows of 2, 0, 0 and 3 positions are what the rows give alone: draws know the row and the place within it.
 */
static void a_row_is_the_same_wherever_it_stands(void **state)
{
    (void)state;
    const uint32_t lengths[] = {2, 0, 0, 3};
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        kd_codec *c = opened(all[k], 500);
        float *v = teacher(5, 500, 5);
        kd_id ids[4] = {id_of(8), id_of(9), id_of(10), id_of(11)};
        const uint8_t last[] = {0, 0, 1, 1, 1};
        kd_codec_block b = {.values = v, .rows = 4, .lengths = lengths, .ids = ids};
        kd_codec_block alone = {.values = v + 2 * 500, .rows = 1, .each = 3, .ids = ids + 3};
        kd_buf whole = {0}, part = {0}, want = {0};
        OK(kd_codec_encode(c, &b, 2, &whole, err));
        OK(kd_codec_select(c, whole.text, whole.len, 5, last, &part, err));
        OK(kd_codec_encode(c, &alone, 1, &want, err));
        same_bytes(&part, &want);
        kd_buf_release(&whole);
        kd_buf_release(&part);
        kd_buf_release(&want);
        kd_codec_close(c);
        free(v);
    }
}

static void what_is_not_finite_is_refused_by_its_place(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const uint32_t lengths[] = {2, 0, 3};
    const kd_id ids[3] = {{{1}}, {{2}}, {{3}}};
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (size_t j = 0; j < KD_COUNT(bad); j++) {
            kd_codec *c = opened(all[k], 70);
            float *v = teacher(5, 70, 6);
            kd_codec_block b = {.values = v, .rows = 3, .lengths = lengths, .ids = ids};
            kd_buf out = {0};
            v[3 * 70 + 66] = bad[j];
            FAILS(kd_codec_encode(c, &b, 2, &out, err), KD_ENUMERIC,
                  "row 2 of the chunk, position 1, class 66");
            assert_int_equal(out.len, 0);
            kd_buf_release(&out);
            kd_codec_close(c);
            free(v);
        }
}

static void draws_need_the_ids_of_rows(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        kd_codec *c = opened(all[k], 10);
        float *v = teacher(2, 10, 7);
        kd_codec_block b = {.values = v, .rows = 2, .each = 1};
        kd_buf out = {0};
        if (k)
            FAILS(kd_codec_encode(c, &b, 1, &out, err), KD_EUSAGE, "ids of the rows");
        else
            OK(kd_codec_encode(c, &b, 1, &out, err));
        kd_buf_release(&out);
        kd_codec_close(c);
        free(v);
    }
}

/* ---- damage ------------------------------------------------------------------------------- */

/* Exact room, so that the address sanitizer sees a byte read behind the end. Returns whether it was refused.
 */
static bool tried(const kd_codec *c, const uint8_t *bytes, size_t len, size_t positions)
{
    uint8_t *in = malloc(len + !len), keep[64];
    kd_sparse s = {0};
    kd_buf part = {0};
    kd_err err = {0};
    assert_non_null(in);
    assert_true(positions <= sizeof keep);
    memset(keep, 1, sizeof keep);
    memcpy(in, bytes, len);
    const kd_status st = kd_codec_sparse(c, in, len, positions, &s, &err);
    assert_true(st == KD_OK || (st == KD_ECORRUPT && err.code == st && err.msg[0]));
    assert_int_equal(kd_codec_check(c, in, len, positions, NULL), st);
    assert_int_equal(kd_codec_select(c, in, len, positions, keep, &part, NULL), st);
    if (!st) {
        in_order(&s, kd_codec_width(c));
        assert_int_equal(part.len, len); // what is taken is what would be written
        if (len) assert_memory_equal(part.text, in, len);
    }
    kd_sparse_release(&s);
    kd_buf_release(&part);
    free(in);
    return st != KD_OK;
}

static void cut_blocks_are_refused(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        kd_codec *c = opened_ranked(all[k], 400);
        float *v = teacher(6, 400, 8);
        kd_buf b = encoded(c, v, 6);
        const uint8_t *bytes = (const uint8_t *)b.text;
        for (size_t len = 0; len < b.len; len++) assert_true(tried(c, bytes, len, 6));
        assert_true(!tried(c, bytes, b.len, 6));
        assert_true(tried(c, bytes, b.len, 0));
        kd_buf_append(&b, "", 1);
        assert_true(tried(c, (const uint8_t *)b.text, b.len, 6));
        FAILS(kd_codec_check(c, b.text, b.len, SIZE_MAX / 4, err), KD_ECORRUPT, "do not fit");
        FAILS(kd_codec_check(c, b.text, b.len, SIZE_MAX, err), KD_ECORRUPT, "do not fit");
        kd_buf_release(&b);
        kd_codec_close(c);
        free(v);
    }
}

static void any_changed_byte_is_refused_or_read_in_order(void **state)
{
    (void)state;
    for (size_t k = 0; k < KD_COUNT(all); k++) {
        kd_codec *c = opened_ranked(all[k], 400);
        float *v = teacher(4, 400, 9);
        kd_buf b = encoded(c, v, 4);
        size_t refused = 0;
        for (size_t i = 0; i < b.len; i++)
            for (int bit = 0; bit < 9; bit++) {
                const char was = b.text[i];
                b.text[i] ^= (char)(bit < 8 ? 1 << bit : 255);
                refused += tried(c, (const uint8_t *)b.text, b.len, 4);
                b.text[i] = was;
            }
        assert_true(refused > 0);
        kd_buf_release(&b);
        kd_codec_close(c);
        free(v);
    }
}

static void any_bytes_are_refused_or_read_in_order(void **state)
{
    (void)state;
    uint8_t bytes[300];
    kd_rng r;
    kd_rng_init(&r, 10, KD_RNG_TEST, 0, 0);
    for (size_t k = 0; k < KD_COUNT(all); k++)
        for (int width = 1; width < 2000; width *= 3) {
            kd_codec *c = opened(all[k], width);
            for (int round = 0; round < 300; round++) {
                const size_t len = (size_t)kd_rng_below(&r, sizeof bytes);
                const uint32_t range = 1u << kd_rng_below(&r, 9); // small numbers are nearer to a block
                for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)kd_rng_below(&r, range);
                tried(c, bytes, len, (size_t)kd_rng_below(&r, 12));
            }
            memset(bytes, 255, sizeof bytes);
            assert_true(tried(c, bytes, sizeof bytes, 3));
            kd_codec_close(c);
        }
}

static void a_damaged_codebook_is_refused(void **state)
{
    (void)state;
    kd_codec *c;
    for (size_t k = 0; k < 3; k++) {
        char name[16];
        json_t *params;
        OK(kd_codec_parse(all[k], name, &params, err));
        FAILS(kd_codec_open(&c, name, 3, params, "\1\1", 2, err), KD_ECORRUPT, "stands twice");
        FAILS(kd_codec_open(&c, name, 3, params, "\3", 1, err), KD_ECORRUPT, "beyond the last");
        FAILS(kd_codec_open(&c, name, 3, params, "\1\2\0\0", 4, err), KD_ECORRUPT, "does not fit");
        FAILS(kd_codec_open(&c, name, 300, params, "\1\2\0", 3, err), KD_ECORRUPT, "does not fit");
        json_decref(params);
    }
}

/* ---- codebooks ---------------------------------------------------------------------------- */

static void a_codebook_lists_classes_by_falling_mean_probability(void **state)
{
    (void)state;
    // Means: class 1 .5, classes 0 and 4 about .17, then 3; class 2 has next to nothing.
    static const float v[] = {1, 2, -9, 0.5f, 1, 1, 2.5f, -9, 0, 1};
    void *book;
    size_t bytes;
    OK(kd_codec_learn("head-tail", 5, NULL, v, 2, &book, &bytes, err));
    assert_int_equal(bytes, 4);
    assert_memory_equal(book, "\1\0\4\3", 4);
    free(book);
    // What follows in the order of ids is not listed: here all of it.
    OK(kd_codec_learn("topk", 4, NULL, (const float[]){3, 2, 2, 1}, 1, &book, &bytes, err));
    assert_int_equal(bytes, 0);
    free(book);
    FAILS(kd_codec_learn("sample", 4, NULL, (const float[]){3, 2, NAN, 1}, 1, &book, &bytes, err),
          KD_ENUMERIC, "row 0 of the chunk, position 0, class 2");
}

static void a_codebook_lists_no_more_than_pays(void **state)
{
    (void)state;
    enum { CLASSES = 20000 };
    float *v = calloc(CLASSES, sizeof *v);
    void *book;
    size_t bytes;
    assert_non_null(v);
    for (int i = 0; i < CLASSES; i++) v[i] = (float)i / CLASSES; // the last class is the most probable
    OK(kd_codec_learn("head-tail", CLASSES, NULL, v, 1, &book, &bytes, err));
    assert_int_equal(bytes, 2 * 8192);
    assert_int_equal(*(uint8_t *)book, (CLASSES - 1) & 255);
    free(book);
    free(v);
}

static void a_learned_codebook_makes_blocks_smaller(void **state)
{
    (void)state;
    enum { N = 200, WIDTH = 3000 };
    float *v = teacher(N, WIDTH, 11), *mixed = malloc(N * WIDTH * sizeof *mixed);
    uint32_t order[WIDTH];
    kd_rng r;
    assert_non_null(mixed);
    kd_rng_init(&r, 12, KD_RNG_TEST, 0, 0);
    kd_rng_permute(&r, order, WIDTH);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < WIDTH; k++) mixed[i * WIDTH + order[k]] = v[i * WIDTH + k];
    for (size_t k = 0; k < 3; k++) {
        void *book;
        size_t bytes;
        char name[16];
        json_t *params;
        OK(kd_codec_parse(all[k], name, &params, err));
        OK(kd_codec_learn(name, WIDTH, params, mixed + N / 2 * WIDTH, N / 2, &book, &bytes, err));
        kd_codec *plain = opened(all[k], WIDTH), *ranked = opened_with(all[k], WIDTH, book, bytes);
        kd_buf a = encoded(plain, mixed, N / 2), b = encoded(ranked, mixed, N / 2);
        assert_true(b.len < a.len - a.len / 20);
        kd_buf_release(&a);
        kd_buf_release(&b);
        kd_codec_close(plain);
        kd_codec_close(ranked);
        json_decref(params);
        free(book);
    }
    free(v);
    free(mixed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_can_be_made_piece_by_piece),
        cmocka_unit_test(blocks_have_the_documented_bytes),
        cmocka_unit_test(the_document_shows_these_bytes),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(reading_equals_its_twin_to_the_bit),
        cmocka_unit_test(a_codebook_changes_bytes_and_no_target),
        cmocka_unit_test(selecting_is_encoding_the_selected),
        cmocka_unit_test(a_row_is_the_same_wherever_it_stands),
        cmocka_unit_test(what_is_not_finite_is_refused_by_its_place),
        cmocka_unit_test(draws_need_the_ids_of_rows),
        cmocka_unit_test(cut_blocks_are_refused),
        cmocka_unit_test(any_changed_byte_is_refused_or_read_in_order),
        cmocka_unit_test(any_bytes_are_refused_or_read_in_order),
        cmocka_unit_test(a_damaged_codebook_is_refused),
        cmocka_unit_test(a_codebook_lists_classes_by_falling_mean_probability),
        cmocka_unit_test(a_codebook_lists_no_more_than_pays),
        cmocka_unit_test(a_learned_codebook_makes_blocks_smaller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
