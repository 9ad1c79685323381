/* test_dump_language.c - a pass of a language model over a store of sequences: the logits of each token that
 * is predicted are those of its row alone, in any encoding, whatever the batch, the threads and the pieces.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "language_fixture.h"

#include <stdlib.h>
#include <string.h>

/* ---- the pass ------------------------------------------------------------------------------- */

typedef struct way {
    const char *name, *encoding;
    kd_dtype dtype;
    int64_t batch;
    int threads;
} way;

static kd_status dump(way y, volatile const int *stop, bool resume, kd_err *why)
{
    kd_teacher *t;
    kd_store *s;
    kd_dump_params p = kd_dump_default_params();
    kd_writer_params wp = kd_writer_default_params();
    p.name = y.name;
    p.encoding = y.encoding;
    p.dtype = y.dtype ? y.dtype : KD_F32;
    p.stop = stop;
    wp.resume = resume;
    wp.threads = y.threads;
    OK(kd_teacher_open(&t, TEACHER, y.batch, y.threads, err));
    OK(kd_store_open(&s, store_path, err));
    kd_status st = kd_teacher_dump(t, s, &p, &wp, NULL, why);
    kd_store_close(s);
    kd_teacher_close(t);
    return st;
}

/* What the teacher says of each row alone, one chunk: values of the positions that are predicted. */
static float *alone(const kd_chunk_info *ci, bool mask, uint32_t *lengths, kd_id *ids)
{
    kd_teacher *t;
    static float all[POSITIONS * VOCAB];
    float *out = malloc((size_t)CHUNK * POSITIONS * VOCAB * sizeof *out);
    size_t n = 0;
    assert_non_null(out);
    OK(kd_teacher_open(&t, TEACHER, 1, 1, err));
    for (uint32_t r = 0; r < ci->rows; r++) {
        const uint64_t row = ci->first + r;
        int32_t tokens[POSITIONS];
        const uint64_t offset[] = {0, sequence(row, tokens)};
        memset(&ids[r], 0, sizeof *ids);
        memcpy(&ids[r], &row, sizeof row);
        lengths[r] = 0;
        OK(kd_teacher_read(t, tokens, KD_I32, offset, 1, all, err));
        for (uint32_t i = 1; i < offset[1]; i++) {
            if (mask && !masked(row, i)) continue;
            memcpy(out + n++ * VOCAB, all + (i - 1) * VOCAB, VOCAB * sizeof *out);
            lengths[r]++;
        }
    }
    kd_teacher_close(t);
    return out;
}

static void same_sparse(kd_cursor *c, int at, uint32_t chunk, const kd_codec *codec, const kd_codec_block *b)
{
    kd_buf block = {0};
    kd_sparse want = {0}, got = {0};
    const size_t n = kd_codec_block_positions(b);
    OK(kd_codec_encode(codec, b, 1, &block, err));
    OK(kd_codec_sparse(codec, block.text, block.len, n, &want, err));
    OK(kd_cursor_read_sparse(c, at, chunk, &got, err));
    assert_int_equal(got.positions, want.positions);
    assert_int_equal(got.entries, want.entries);
    assert_memory_equal(got.offset, want.offset, (n + 1) * sizeof *want.offset);
    assert_memory_equal(got.id, want.id, want.entries * sizeof *want.id);
    assert_memory_equal(got.value, want.value, want.entries * sizeof *want.value);
    kd_buf_release(&block);
    kd_sparse_release(&want);
    kd_sparse_release(&got);
}

static void same_dense(kd_cursor *c, int at, uint32_t chunk, const kd_column *k, const float *values,
                       size_t n)
{
    float *got = malloc((n * VOCAB + 1) * sizeof *got);
    assert_non_null(got);
    OK(kd_cursor_read_f32(c, at, chunk, got, n, err));
    for (size_t i = 0; i < n * VOCAB; i++) {
        uint16_t half;
        float want = values[i];
        if (k->dtype != KD_F32) kd_from_f32(&half, k->dtype, &want, 1), kd_to_f32(&want, &half, k->dtype, 1);
        if (got[i] != want) fail_msg("chunk %u: value %zu is %g, want %g", chunk, i, got[i], want);
    }
    free(got);
}

static void holds(const char *name, bool mask)
{
    kd_store *s;
    kd_cursor *c;
    kd_codec *codec = NULL;
    OK(kd_store_open(&s, store_path, err));
    OK(kd_cursor_open(&c, s, err));
    const int at = kd_store_find(s, name);
    if (at < 0) fail_msg("no column %s", name);
    const kd_column *k = kd_store_column(s, (size_t)at);
    assert_int_equal(k->role, KD_ROLE_LOGITS);
    assert_int_equal(k->ndims, 2);
    assert_int_equal(k->dims[0], -1);
    assert_int_equal(k->dims[1], VOCAB);
    assert_string_equal(json_string_value(json_object_get(k->params, "input")), "tokens");
    const bool sparse = kd_codec_find(k->encoding) && kd_codec_find(k->encoding)->sparse;
    if (sparse) OK(kd_column_codec(&codec, k, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        uint32_t want[CHUNK], got[CHUNK];
        kd_id ids[CHUNK];
        size_t n;
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        float *values = alone(ci, mask, want, ids);
        OK(kd_cursor_lengths(c, at, i, got, &n, err));
        assert_memory_equal(got, want, ci->rows * sizeof *want);
        if (sparse)
            same_sparse(c, at, i, codec,
                        &(kd_codec_block){.values = values, .rows = ci->rows, .lengths = want, .ids = ids});
        else
            same_dense(c, at, i, k, values, n);
        free(values);
    }
    kd_codec_close(codec);
    kd_cursor_close(c);
    kd_store_close(s);
}

static void logits_are_those_of_each_row_alone(void **state)
{
    (void)state;
    static const way ways[] = {{"a", NULL, KD_F32, 256, 2},
                               {"b", NULL, KD_F16, 3, 1},
                               {"c", "head-tail:n=20", 0, 7, 3},
                               {"d", "topk:k=5,temperatures=1+2", 0, 256, 1},
                               {"e", "sample:n=30", 0, 1, 2},
                               {"f", "int8", 0, 256, 2}};
    for (int mask = 0; mask < 2; mask++) {
        make_store(mask, NULL);
        for (size_t i = 0; i < KD_COUNT(ways); i++) {
            char name[32];
            OK(dump(ways[i], NULL, false, err));
            snprintf(name, sizeof name, "%s/logits", ways[i].name);
            if (strcmp(ways[i].name, "f")) holds(name, mask);
        }
    }
    kd_err why = {0};
    assert_int_equal(dump((way){"g", "int8-channel", 0, 256, 2}, NULL, false, &why), KD_EUNSUPPORTED);
    assert_non_null(strstr(why.msg, "a whole block at once"));
}

static void one_that_was_stopped_ends_as_if_it_had_not_been(void **state)
{
    (void)state;
    static const way y = {"a", "head-tail:n=20", 0, 4, 2};
    char whole[33];
    kd_store *s;
    make_store(true, NULL);
    OK(dump(y, NULL, false, err));
    OK(kd_store_open(&s, store_path, err));
    snprintf(whole, sizeof whole, "%s", kd_store_root(s));
    kd_store_close(s);
    make_store(true, NULL);
    volatile int stop = 1;
    kd_err why = {0};
    assert_int_equal(dump(y, &stop, false, &why), KD_ESTOPPED);
    OK(dump((way){"a", "head-tail:n=20", 0, 4, 1}, NULL, true, err));
    OK(kd_store_open(&s, store_path, err));
    assert_string_equal(kd_store_root(s), whole);
    kd_store_close(s);
}

static void what_was_written_is_checked_against_the_teacher(void **state)
{
    (void)state;
    static const way ways[] = {{"a", "head-tail:n=20", 0, 9, 2},
                               {"b", NULL, KD_F16, 9, 2},
                               {"c", "log8", 0, 9, 2}};
    kd_teacher *t;
    kd_store *s;
    kd_recheck out[KD_STORE_MAX_COLUMNS];
    size_t n;
    make_store(true, NULL);
    for (size_t i = 0; i < KD_COUNT(ways); i++) OK(dump(ways[i], NULL, false, err));
    OK(kd_teacher_open(&t, TEACHER, 256, 1, err));
    OK(kd_store_open(&s, store_path, err));
    for (size_t i = 0; i < KD_COUNT(ways); i++) {
        OK(kd_teacher_recheck(t, s, ways[i].name, ROWS, out, &n, err));
        assert_int_equal(n, 1);
        assert_true(out[0].matches);
        assert_true(out[0].largest == 0);
    }
    kd_store_close(s);
    kd_teacher_close(t);
}

static uint64_t positions_of(uint64_t row)
{
    int32_t ids[POSITIONS];
    uint64_t n = 0;
    for (uint32_t k = 1; k < sequence(row, ids); k++) n += masked(row, k);
    return n;
}

static void a_plan_is_of_positions(void **state)
{
    (void)state;
    const kd_writer_params wp = kd_writer_default_params();
    kd_teacher *t;
    kd_store *s;
    kd_plan plan;
    char root[33];
    uint64_t positions = 0;
    make_store(true, NULL);
    for (uint64_t row = 0; row < ROWS; row++) positions += positions_of(row);
    OK(kd_teacher_open(&t, TEACHER, 256, 1, err));
    OK(kd_store_open(&s, store_path, err));
    memcpy(root, kd_store_root(s), sizeof root);
    OK(kd_teacher_plan(&plan, t, s, NULL, 0, 1u << 20, 10, &wp, err));
    assert_true(plan.positions && plan.sampled == positions && plan.rows == positions && plan.teacher_s > 0);
    assert_true(plan.n > 8);
    for (size_t i = 0; i < plan.n; i++) {
        const kd_plan_entry *e = &plan.entry[i];
        if (!strcmp(e->encoding, "f32")) assert_true(e->kl1 < 1e-9 && e->top1 == 1);
        if (!strcmp(e->encoding, "head-tail:n=20")) assert_true(e->variance > 0 && e->row_bytes < 61 * 4);
    }
    kd_plan_release(&plan);
    OK(kd_teacher_plan(&plan, t, s, (const char *const[]){"log8"}, 1, 10, 10, &wp, err));
    assert_true(plan.n == 1 && plan.sampled >= 10 && plan.sampled < positions);
    kd_plan_release(&plan);
    kd_store_close(s);
    OK(kd_store_open(&s, store_path, err));
    assert_string_equal(kd_store_root(s), root);
    kd_store_close(s);
    kd_teacher_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_each_row_alone),
        cmocka_unit_test(a_plan_is_of_positions),
        cmocka_unit_test(what_was_written_is_checked_against_the_teacher),
        cmocka_unit_test(one_that_was_stopped_ends_as_if_it_had_not_been),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
