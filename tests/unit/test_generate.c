/* test_generate.c - a language model's own answers: drawn from the very logits that are kept, the same store
 * whatever goes on side by side, on how many threads, and wherever it was stopped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "language_fixture.h"

static char answers_path[96];

enum { ANSWER = 12 };

typedef struct way {
    const char *encoding;
    int64_t rows;
    int threads;
    int64_t stop_after; /* passes; 0: never */
    bool resume;
} way;

static int passes;
static volatile int stop;
static void count(void *arg, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    stop = ++passes == *(const int64_t *)arg;
}

static kd_status generate(way y, double temperature, int64_t prompt, kd_err *why)
{
    kd_teacher *t;
    kd_store *s;
    kd_generate_params p = kd_generate_default_params();
    kd_writer_params wp = kd_writer_default_params();
    p.name = "big";
    p.how = (kd_sampling){.temperature = temperature, .top_p = 0.9, .seed = 7};
    p.answer = ANSWER;
    p.prompt = prompt;
    p.rows = y.rows;
    p.encoding = y.encoding;
    p.stop = &stop;
    p.progress = count;
    p.arg = &y.stop_after;
    wp.resume = y.resume;
    wp.force = !y.resume;
    passes = stop = 0;
    snprintf(answers_path, sizeof answers_path, "%s/answers.kd", folder);
    OK(kd_teacher_open(&t, TEACHER, 64, y.threads, err));
    OK(kd_store_open(&s, store_path, err));
    kd_status st = kd_teacher_generate(t, s, answers_path, &p, &wp, NULL, why);
    kd_store_close(s);
    kd_teacher_close(t);
    return st;
}

static void root_of(const char *path, char root[33])
{
    kd_store *s;
    OK(kd_store_open(&s, path, err));
    snprintf(root, 33, "%s", kd_store_root(s));
    kd_store_close(s);
}

/* Tokens of a row's prompt, by the rule. */
static uint32_t prompt_of(uint64_t row, bool mask, uint32_t most)
{
    int32_t ids[POSITIONS];
    uint32_t n = sequence(row, ids), last = 0;
    if (!mask) return most && most < n ? most : n;
    for (uint32_t i = 1; i < n; i++)
        if (masked(row, i)) last = i;
    if (!last) return n;
    while (last > 1 && masked(row, last - 1)) last--;
    return last;
}

/* Reads a ragged block: lengths, then values. */
static char *block_of(kd_cursor *c, const kd_store *s, const char *name, uint32_t chunk)
{
    size_t size;
    const int at = kd_store_find(s, name);
    if (at < 0) fail_msg("no column %s", name);
    OK(kd_cursor_size(c, at, chunk, &size, err));
    char *raw = malloc(size + 1);
    assert_non_null(raw);
    OK(kd_cursor_read(c, at, chunk, raw, size, err));
    return raw;
}

typedef struct answer {
    const int32_t *ids;
    const uint8_t *mask;
    const float *logits;
    uint32_t n, said;
} answer;

/* One row: the prompt's tokens, then each the draw from logits that are those of the whole row. */
static void is_drawn(kd_teacher *t, const answer *a, uint64_t row, bool mask, uint32_t most,
                     const kd_sampling *how)
{
    static float all[POSITIONS * VOCAB];
    int32_t ids[POSITIONS];
    kd_id id = {0};
    const uint32_t n = prompt_of(row, mask, most), want = n + ANSWER < POSITIONS ? n + ANSWER : POSITIONS;
    const uint64_t offset[] = {0, a->n};
    kd_sampling mine = *how;
    sequence(row, ids);
    assert_memory_equal(a->ids, ids, n * sizeof *ids);
    assert_int_equal(a->n, want);
    assert_int_equal(a->said, want - n);
    memcpy(&id, &row, sizeof row);
    const uint64_t key[] = {how->seed, kd_hash64(id.b, sizeof id.b)};
    mine.seed = kd_hash64(key, sizeof key);
    void *room = malloc(kd_draw_bytes(VOCAB));
    OK(kd_teacher_read(t, a->ids, KD_I32, offset, 1, all, err));
    for (uint32_t i = 0; i < a->n; i++) assert_int_equal(a->mask[i], i >= n);
    for (uint32_t i = n; i < a->n; i++) {
        const float *logits = a->logits + (i - n) * (size_t)VOCAB;
        assert_memory_equal(logits, all + (i - 1) * (size_t)VOCAB, VOCAB * sizeof *logits);
        assert_int_equal(a->ids[i], kd_draw(logits, VOCAB, &mine, i, room));
    }
    free(room);
}

static void tokens_are_drawn_from_the_logits_beside_them(bool mask, uint32_t prompt, double temperature)
{
    const kd_sampling how = {.temperature = temperature, .top_p = 0.9, .seed = 7};
    kd_store *s;
    kd_cursor *c;
    kd_teacher *t;
    make_store(mask, NULL);
    OK(generate((way){NULL, 5, 2, 0, false}, temperature, prompt, err));
    OK(kd_teacher_open(&t, TEACHER, 1, 1, err));
    OK(kd_store_open(&s, answers_path, err));
    OK(kd_cursor_open(&c, s, err));
    assert_int_equal(kd_store_rows(s), ROWS);
    for (uint32_t k = 0; k < kd_store_chunks(s); k++) {
        const kd_chunk_info *ci = kd_store_chunk(s, k);
        char *tokens = block_of(c, s, "tokens", k), *marks = block_of(c, s, "mask", k),
             *logits = block_of(c, s, "big/logits", k);
        const uint32_t *lengths = (const uint32_t *)(const void *)tokens,
                       *said = (const uint32_t *)(const void *)logits;
        answer a = {.ids = (const int32_t *)(lengths + ci->rows),
                    .mask = (const uint8_t *)marks + 4 * (size_t)ci->rows,
                    .logits = (const float *)(said + ci->rows)};
        assert_memory_equal(lengths, marks, 4 * (size_t)ci->rows);
        for (uint32_t r = 0; r < ci->rows; r++) {
            a.n = lengths[r];
            a.said = said[r];
            is_drawn(t, &a, ci->first + r, mask, prompt, &how);
            a.ids += a.n;
            a.mask += a.n;
            a.logits += a.said * (size_t)VOCAB;
        }
        free(tokens);
        free(marks);
        free(logits);
    }
    kd_cursor_close(c);
    kd_store_close(s);
    kd_teacher_close(t);
}

static void answers_are_drawn_from_the_logits_that_are_kept(void **state)
{
    (void)state;
    tokens_are_drawn_from_the_logits_beside_them(true, 0, 1);
    tokens_are_drawn_from_the_logits_beside_them(false, 9, 1);
    tokens_are_drawn_from_the_logits_beside_them(false, 0, 0);
}

static void the_store_does_not_depend_on_what_goes_on_side_by_side(void **state)
{
    (void)state;
    static const way ways[] = {{"head-tail:n=20", 1, 1, 0, false},
                               {"head-tail:n=20", 64, 3, 0, false},
                               {"head-tail:n=20", 7, 2, 0, false},
                               {"log8", 1, 1, 0, false},
                               {"log8", 64, 2, 0, false}};
    char want[33] = "", got[33];
    make_store(true, NULL);
    for (size_t i = 0; i < KD_COUNT(ways); i++) {
        OK(generate(ways[i], 1, 0, err));
        root_of(answers_path, got);
        if (!i || strcmp(ways[i].encoding, ways[i - 1].encoding)) memcpy(want, got, sizeof want);
        assert_string_equal(got, want);
    }
}

static void one_that_was_stopped_goes_on_to_the_same_store(void **state)
{
    (void)state;
    char want[33], got[33];
    make_store(false, NULL);
    OK(generate((way){"head-tail:n=20", 4, 2, 0, false}, 1, 9, err));
    root_of(answers_path, want);
    OK(kd_remove_tree(answers_path, err));
    for (int64_t after = 20, stops = 0;; after += 7, stops++) {
        kd_err why = {0};
        if (!generate((way){"head-tail:n=20", 4 + stops, 2, after, true}, 1, 9, &why)) {
            assert_true(stops > 1);
            break;
        }
        assert_int_equal(why.code, KD_ESTOPPED);
        assert_non_null(strstr(why.msg, "go on with --resume"));
    }
    root_of(answers_path, got);
    assert_string_equal(got, want);
}

static void what_was_answered_is_what_the_teacher_says(void **state)
{
    (void)state;
    static const char *const encodings[] = {"head-tail:n=20", "topk:k=5", "int8", "dense"};
    kd_recheck out[KD_STORE_MAX_COLUMNS];
    size_t n;
    make_store(true, NULL);
    for (size_t i = 0; i < KD_COUNT(encodings); i++) {
        kd_teacher *t;
        kd_store *s;
        OK(generate((way){encodings[i], 9, 2, 0, false}, 0.7, 0, err));
        OK(kd_teacher_open(&t, TEACHER, 256, 1, err));
        OK(kd_store_open(&s, answers_path, err));
        OK(kd_teacher_recheck(t, s, "big", ROWS, out, &n, err));
        assert_int_equal(n, 1);
        assert_true(out[0].matches && out[0].largest == 0);
        const json_t *how = json_object_get(kd_store_teacher(s, "big"), "generate");
        assert_int_equal(json_integer_value(json_object_get(how, "seed")), 7);
        assert_true(json_real_value(json_object_get(how, "temperature")) == 0.7);
        kd_store_close(s);
        kd_teacher_close(t);
    }
}

static void others_are_refused(void **state)
{
    (void)state;
    make_store(true, NULL);
    FAILS(generate((way){"int8-channel", 4, 1, 0, false}, 1, 0, err), KD_EUNSUPPORTED,
          "a whole block at once");
    FAILS(generate((way){"topk:k=5", 65, 1, 0, false}, 1, 0, err), KD_EUSAGE,
          "expected 1 or more, and 1 to 64");
    OK(generate((way){"topk:k=5", 4, 1, 0, false}, 1, 0, err));
    FAILS(generate((way){"topk:k=5", 4, 1, 0, true}, 1, 0, err), KD_EEXISTS, "answers.kd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_drawn_from_the_logits_that_are_kept),
        cmocka_unit_test(the_store_does_not_depend_on_what_goes_on_side_by_side),
        cmocka_unit_test(one_that_was_stopped_goes_on_to_the_same_store),
        cmocka_unit_test(what_was_answered_is_what_the_teacher_says),
        cmocka_unit_test(others_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
