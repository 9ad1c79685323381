/* test_dump_texts.c - a pass of an encoder over a store of texts: embeddings and hidden states of each column
 * of texts are what the encoder says of each text alone, whatever stood beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "kd/teacher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TEACHER "tests/golden/bert"
enum { VOCAB = 61, POSITIONS = 40, WIDTH = 32, CHUNK = 16, ROWS = 37, EACH = 3, FIRST = 2 };

static char folder[64], store_path[96];

/* ---- a store of texts --------------------------------------------------------------------------- */

/* Text i of a row in column c: begins with FIRST, which it does not have again. */
static int text_of(uint64_t row, int c, int i, int32_t *ids)
{
    const uint64_t key[] = {row, (uint64_t)c, (uint64_t)i}, h = kd_hash64(key, sizeof key);
    const int n = row % 9 == 4 && !c ? POSITIONS : 1 + (int)(h % 11);
    for (int k = 0; k < n; k++) ids[k] = k ? 3 + (int32_t)((h >> k % 32) % (VOCAB - 3)) : FIRST;
    return n;
}

typedef struct options {
    int vocab, max_tokens;
    uint64_t spoiled; /* this row has an answer too many */
} options;

static void make_store(options o)
{
    kd_column c[] = {
        {.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}},
        {.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8},
        {.name = "query", .role = KD_ROLE_INPUT, .dtype = KD_U16, .ndims = 1, .dims = {-1}},
        {.name = "answers", .role = KD_ROLE_INPUT, .dtype = KD_I32, .ndims = 1, .dims = {-1}},
    };
    kd_writer_params wp = kd_writer_default_params();
    kd_store_writer *w;
    c[2].params = json_pack("{s:i, s:i}", "vocab", o.vocab, "max_tokens", o.max_tokens);
    c[3].params = json_pack("{s:i, s:i}", "vocab", VOCAB, "texts", EACH);
    wp.chunk_rows = CHUNK;
    kd_remove_tree(store_path, NULL);
    json_t *contract = json_pack("{s:s}", "kind", "test");
    OK(kd_store_create(&w, store_path, c, KD_COUNT(c), contract, &wp, err));
    json_decref(contract);
    for (uint64_t row = 0; row < ROWS;) {
        static uint8_t id[CHUNK][16], split[CHUNK];
        static uint16_t query[CHUNK * POSITIONS];
        static int32_t answers[CHUNK * (EACH + 1) * POSITIONS];
        uint32_t lengths[2][CHUNK] = {0}, n = 0;
        size_t q = 0, a = 0;
        for (; n < CHUNK && row < ROWS; n++, row++) {
            int32_t ids[POSITIONS];
            memcpy(id[n], &row, sizeof row);
            lengths[0][n] = (uint32_t)text_of(row, 0, 0, ids);
            for (uint32_t k = 0; k < lengths[0][n]; k++) query[q++] = (uint16_t)ids[k];
            for (int i = 0; i < EACH + (row == o.spoiled); i++) {
                const int len = text_of(row, 1, i, answers + a);
                a += (size_t)len;
                lengths[1][n] += (uint32_t)len;
            }
        }
        const kd_block b[] = {{.data = id, .bytes = 16u * n},
                              {.data = split, .bytes = n},
                              {.data = query, .bytes = 2 * q, .lengths = lengths[0]},
                              {.data = answers, .bytes = 4 * a, .lengths = lengths[1]}};
        OK(kd_store_writer_append(w, (kd_split)0, n, b, err));
    }
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(c[2].params);
    json_decref(c[3].params);
}

static const options plain = {VOCAB, POSITIONS, UINT64_MAX};

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-texts-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(store_path, sizeof store_path, "%s/s.kd", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* ---- the pass --------------------------------------------------------------------------------- */

static const kd_tap TAPS[] = {{.node = "layer0", .form = KD_TAP_USUAL},
                              {.node = "layer1.key", .form = KD_TAP_FLAT},
                              {.node = "pooled", .form = KD_TAP_USUAL}};

static kd_status dump(int64_t batch, int threads, kd_err *why)
{
    kd_teacher *t;
    kd_store *s;
    kd_dump_params p = kd_dump_default_params();
    const kd_writer_params wp = kd_writer_default_params();
    p.name = "mini";
    p.taps = TAPS;
    p.ntaps = KD_COUNT(TAPS);
    OK(kd_teacher_open(&t, TEACHER, batch, threads, err));
    OK(kd_store_open(&s, store_path, err));
    kd_status st = kd_teacher_dump(t, s, &p, &wp, NULL, why);
    kd_store_close(s);
    kd_teacher_close(t);
    return st;
}

/* All values of a column, chunk after chunk. */
static float *column(const char *name, size_t *floats)
{
    kd_store *s;
    kd_cursor *c;
    float *out = NULL;
    OK(kd_store_open(&s, store_path, err));
    const int at = kd_store_find(s, name);
    if (at < 0) fail_msg("no column %s", name);
    const kd_column *k = kd_store_column(s, (size_t)at);
    OK(kd_cursor_open(&c, s, err));
    *floats = 0;
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        size_t positions;
        OK(kd_cursor_lengths(c, at, i, NULL, &positions, err));
        out = realloc(out, (*floats + positions * kd_column_width(k)) * sizeof *out);
        assert_non_null(out);
        OK(kd_cursor_read_f32(c, at, i, out + *floats, positions, err));
        *floats += positions * kd_column_width(k);
    }
    kd_cursor_close(c);
    kd_store_close(s);
    return out;
}

/* What one node says of each text alone, one behind the other. tap: NULL for the embedding. */
static float *alone(int c, int texts, const kd_tap *tap, size_t *floats)
{
    kd_teacher *t;
    float *out = calloc((size_t)ROWS * (size_t)texts * POSITIONS * WIDTH, sizeof *out), embedding[WIDTH];
    assert_non_null(out);
    OK(kd_teacher_open(&t, TEACHER, 1, 1, err));
    if (tap) OK(kd_teacher_take(t, tap, 1, err));
    const bool each = tap && strcmp(tap->node, "pooled");
    *floats = 0;
    for (uint64_t row = 0; row < ROWS; row++)
        for (int i = 0; i < texts; i++) {
            int32_t ids[POSITIONS];
            const uint64_t offset[] = {0, (uint64_t)text_of(row, c, i, ids)};
            OK(kd_teacher_read(t, ids, KD_I32, offset, 1, tap ? embedding : out + *floats, err));
            const size_t rows = each ? (size_t)offset[1] : 1;
            if (tap) OK(kd_teacher_tap(t, 0, (int64_t)rows, out + *floats, err));
            *floats += rows * WIDTH;
        }
    kd_teacher_close(t);
    return out;
}

static void holds(const char *name, int c, int texts, const kd_tap *tap)
{
    size_t got_n, want_n;
    float *got = column(name, &got_n), *want = alone(c, texts, tap, &want_n);
    assert_int_equal(got_n, want_n);
    if (memcmp(got, want, want_n * sizeof *want))
        fail_msg("%s is not what the teacher says of each text", name);
    free(got);
    free(want);
}

static void each_column_holds_what_the_teacher_says_of_each_text(void **state)
{
    (void)state;
    static const struct {
        int64_t batch;
        int threads;
    } ways[] = {{256, 2}, {3, 1}, {7, 3}};
    for (size_t i = 0; i < KD_COUNT(ways); i++) {
        make_store(plain);
        OK(dump(ways[i].batch, ways[i].threads, err));
        holds("mini/embedding.query", 0, 1, NULL);
        holds("mini/embedding.answers", 1, EACH, NULL);
        holds("mini/feat.layer0.query", 0, 1, &TAPS[0]);
        holds("mini/feat.layer0.answers", 1, EACH, &TAPS[0]);
        holds("mini/feat.layer1.key.query", 0, 1, &TAPS[1]);
        holds("mini/feat.pooled.answers", 1, EACH, &TAPS[2]);
    }
}

static void columns_say_what_they_are_of(void **state)
{
    (void)state;
    kd_store *s;
    make_store(plain);
    OK(dump(64, 1, err));
    OK(kd_store_open(&s, store_path, err));
    const kd_column *c = kd_store_column(s, (size_t)kd_store_find(s, "mini/embedding.answers"));
    assert_int_equal(c->role, KD_ROLE_FEATURE);
    assert_int_equal(c->ndims, 2);
    assert_int_equal(c->dims[0], EACH);
    assert_int_equal(c->dims[1], WIDTH);
    assert_string_equal(json_string_value(json_object_get(c->params, "input")), "answers");
    c = kd_store_column(s, (size_t)kd_store_find(s, "mini/feat.layer0.query"));
    assert_int_equal(c->dims[0], -1);
    assert_int_equal(c->dims[1], WIDTH);
    kd_store_close(s);
}

static void what_was_written_is_checked_against_the_teacher(void **state)
{
    (void)state;
    kd_teacher *t;
    kd_store *s;
    kd_recheck out[KD_STORE_MAX_COLUMNS];
    size_t n;
    make_store(plain);
    OK(dump(64, 2, err));
    OK(kd_teacher_open(&t, TEACHER, 5, 1, err));
    OK(kd_store_open(&s, store_path, err));
    OK(kd_teacher_recheck(t, s, "mini", ROWS, out, &n, err));
    assert_int_equal(n, 2 * (1 + KD_COUNT(TAPS))); // of both columns, those with a row per token among them
    for (size_t i = 0; i < n; i++) {
        assert_true(out[i].matches);
        assert_true(out[i].largest == 0);
    }
    kd_store_close(s);
    kd_teacher_close(t);
}

static void stores_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    static const struct {
        options o;
        kd_status st;
        const char *say;
    } bad[] = {
        {{VOCAB + 1, POSITIONS, UINT64_MAX},
         KD_EMISMATCH,
         "column query has vocab 62, the teacher " TEACHER " has 61"},
        {{VOCAB, POSITIONS + 1, UINT64_MAX}, KD_EMISMATCH, "max_tokens 41"},
        {{VOCAB, POSITIONS, 20}, KD_ECORRUPT, "row 20 of column answers has 4 texts, expected 3"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_err e = {0};
        make_store(bad[i].o);
        const kd_status st = dump(64, 1, &e);
        if (st != bad[i].st || !strstr(e.msg, bad[i].say))
            fail_msg("status %s, '%s' does not say '%s'", kd_strstatus(st), e.msg, bad[i].say);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_column_holds_what_the_teacher_says_of_each_text, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(columns_say_what_they_are_of, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_was_written_is_checked_against_the_teacher, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(stores_that_do_not_fit_are_refused, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("dump texts", tests, NULL, NULL);
}
