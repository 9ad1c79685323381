/* test_exchange_jsonl.c - JSON lines as programs and inference servers print them, and as a stranger might.
 */
#include "exchange_fixture.h"

static const char *store(void) { return ex_path("s.kd"); }

/* ---- one line ----------------------------------------------------------------------------- */

static kd_jsonl_row row;

static kd_status parse(const char *line, const char *field, kd_err *err)
{
    return kd_jsonl_line_parse(&row, line, strlen(line), field, err);
}

#define ID "\"id\": \"000102030405060708090a0b0c0d0e0f\""

static void a_dense_line_is_one_vector(void **state)
{
    (void)state;
    OK(parse("{" ID ", \"logits\": [0.5, -2, 1e-3]}", NULL, err));
    assert_int_equal(row.key, KD_KEY_ID);
    assert_int_equal(row.id.b[15], 15);
    assert_string_equal(row.field, "logits");
    assert_false(row.sparse || row.ragged);
    assert_int_equal(row.positions, 1);
    assert_int_equal(row.width, 3);
    assert_true(row.values[0] == 0.5f && row.values[1] == -2.0f && row.values[2] == 1e-3f);
    OK(parse("{\"source\": 7, \"teacher/logits\": [[1, 2], [3, 4], [5, 6]]}", NULL, err));
    assert_int_equal(row.key, KD_KEY_SOURCE);
    assert_int_equal(row.id.b[15], 7);
    assert_true(row.ragged && row.positions == 3 && row.width == 2 && row.values[5] == 6);
    OK(parse("{\"row\": 300, \"mine\": [1], \"yours\": 2}", "mine", err));
    assert_int_equal(row.key, KD_KEY_ROW);
    assert_int_equal(row.id.b[14], 1);
    OK(parse("{" ID ", \"logits\": []}", NULL, err));
    assert_int_equal(row.positions, 0);
}

/* Position p of the row has these classes with these log-probabilities. */
static void has_entries(size_t p, size_t n, const uint32_t *id, const float *logprob)
{
    const kd_sparse *s = &row.top;
    double mass = 0;
    assert_true(row.sparse && p < row.positions);
    assert_int_equal(s->offset[p + 1] - s->offset[p], n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(s->id[s->offset[p] + i], id[i]);
        assert_true(s->value[s->offset[p] + i] == logprob[i]);
        mass += exp((double)logprob[i]);
    }
    assert_true(fabs((double)s->tail[p] - (1 - mass)) < 1e-6);
}

/* The same three positions, as each server prints them; the first token of a prompt has no prediction. */
static void top_k_lines_of_servers_say_the_same(void **state)
{
    (void)state;
    static const char *const lines[] = {
        // vLLM, prompt_logprobs of a request's output
        "{" ID
        ", \"prompt_logprobs\": [null, {\"5\": {\"logprob\": -0.25, \"rank\": 1, \"decoded_token\": \" a\"}, "
        "\"3\": {\"logprob\": -2.5, \"rank\": 2, \"decoded_token\": \"b\"}}, {\"9\": {\"logprob\": "
        "-0.125}}]}",
        // vLLM's server: in the first of "choices"; the response has an id of its own
        "{\"id\": \"cmpl-17\", \"row\": 4, \"choices\": [{\"index\": 0, \"text\": \"x\", "
        "\"prompt_logprobs\": [null, "
        "{\"5\": {\"logprob\": -0.25}, \"3\": {\"logprob\": -2.5}}, {\"9\": {\"logprob\": -0.125}}]}]}",
        // SGLang
        "{" ID ", \"meta_info\": {\"input_top_logprobs\": [null, [[-0.25, 5, null], [-2.5, 3, \"b\"]], "
        "[[-0.125, 9, null]]]}}",
        // chat completions
        "{" ID ", \"choices\": [{\"logprobs\": {\"content\": [{\"token\": \"a\", \"logprob\": -0.25, "
        "\"top_logprobs\": "
        "[{\"token\": \"token_id:5\", \"logprob\": -0.25}, {\"token\": \"token_id:3\", \"logprob\": -2.5}]}, "
        "{\"top_logprobs\": [{\"token\": \"token_id:9\", \"logprob\": -0.125}]}]}}]}",
        // completions
        "{" ID ", \"logprobs\": {\"tokens\": [\"a\", \"b\"], \"top_logprobs\": [{\"token_id:5\": -0.25, "
        "\"token_id:3\": "
        "-2.5}, {\"token_id:9\": -0.125}]}}",
        // plain
        "{" ID
        ", \"top_logprobs\": [[{\"id\": 5, \"logprob\": -0.25}, {\"token_id\": 3, \"logprob\": -2.5}], "
        "[{\"id\": 9, \"logprob\": -0.125}]]}",
    };
    for (size_t i = 0; i < KD_COUNT(lines); i++) {
        OK(parse(lines[i], NULL, err));
        assert_int_equal(row.key, i == 1 ? KD_KEY_ROW : KD_KEY_ID);
        assert_true(row.ragged);
        assert_int_equal(row.positions, 2);
        has_entries(0, 2, (uint32_t[]){3, 5}, (float[]){-2.5f, -0.25f});
        has_entries(1, 1, (uint32_t[]){9}, (float[]){-0.125f});
        assert_int_equal(row.most, 2);
        assert_int_equal(row.largest, 9);
        assert_true(row.top.logz[0] == 0.25f);
    }
    OK(parse("{" ID ", \"top_logprobs\": [{\"id\": 1, \"logprob\": -1}], \"top_logprobs.tail\": 0.5, "
             "\"top_logprobs.logz\": 2}",
             NULL, err));
    assert_false(row.ragged);
    assert_true(row.top.tail[0] == 0.5f && row.top.logz[0] == 2.0f);
}

static void probabilities_over_one_are_counted(void **state)
{
    (void)state;
    OK(parse("{" ID ", \"top_logprobs\": [[{\"id\": 1, \"logprob\": -0.1}, {\"id\": 2, \"logprob\": -0.2}]]}",
             NULL, err));
    assert_int_equal(row.over_one, 1);
    assert_true(row.worst > 0.7 && row.worst < 0.8);
    assert_true(row.top.tail[0] == 0);
}

static void lines_that_say_nothing_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        kd_status status;
        const char *says;
    } bad[] = {
        {"[1, 2]", KD_ECORRUPT, "not an object"},
        {"{\"logits\": [1, 2]", KD_ECORRUPT, "no valid JSON at byte"},
        {"{\"logits\": [1], \"logits\": [2]}", KD_ECORRUPT, "no valid JSON"},
        {"{" ID "}", KD_EUSAGE, "no member is named logits"},
        {"{" ID ", \"logits\": [1], \"scores\": [2]}", KD_EUSAGE, "say which one with --field"},
        {"{" ID ", \"logits\": 3}", KD_ECORRUPT, "logits is not a list"},
        {"{" ID ", \"logits\": [1, \"2\"]}", KD_ECORRUPT, "class 1 is no number"},
        {"{" ID ", \"logits\": [[1, 2], [3]]}", KD_EMISMATCH, "position 1 has 1 numbers, expected 2"},
        {"{" ID ", \"logits\": [1e39]}", KD_ENUMERIC, "does not fit into f32"},
        {"{" ID ", \"logits\": [NaN]}", KD_ECORRUPT, "no valid JSON"},
        {"{\"source\": -1, \"logits\": [1]}", KD_ECORRUPT, "is no row number"},
        {"{" ID ", \"prompt_logprobs\": [{\"5\": {\"logprob\": 0.5}}]}", KD_ECORRUPT,
         "no number of at most 0"},
        {"{" ID ", \"prompt_logprobs\": [{\"5\": {\"rank\": 1}}]}", KD_ECORRUPT, "no number of at most 0"},
        {"{" ID ", \"prompt_logprobs\": [{\"the\": -1}]}", KD_ECORRUPT, "return_tokens_as_token_ids"},
        {"{" ID ", \"prompt_logprobs\": [{\"5\": -1, \"05\": -2}]}", KD_ECORRUPT, "class 5 twice"},
        {"{" ID ", \"prompt_logprobs\": [{\"5\": -1}, null]}", KD_ECORRUPT, "only the first one may be null"},
        {"{" ID ", \"prompt_logprobs\": [{}]}", KD_ECORRUPT, "no entries"},
        {"{" ID ", \"top_logprobs\": [{\"id\": 99999999, \"logprob\": -1}]}", KD_ECORRUPT,
         "no number from 0 to"},
        {"{" ID ", \"top_logprobs\": [{\"id\": 1, \"logprob\": -1}], \"top_logprobs.tail\": 1.5}",
         KD_ECORRUPT, "no probability"},
        {"{" ID ", \"top_logprobs\": [{\"id\": 1, \"logprob\": -1}], \"top_logprobs.tail\": [0, 0]}",
         KD_EMISMATCH, "2 numbers for 1 positions"},
        {"{" ID ", \"logits\": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}", KD_ELIMIT, "more than 16 brackets"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++)
        FAILS(parse(bad[i].line, NULL, err), bad[i].status, bad[i].says);
    FAILS(parse("{" ID ", \"logits\": [1]}", "other", err), KD_EUSAGE, "no member \"other\"");
}

static void a_line_of_too_many_values_is_refused_before_it_is_read(void **state)
{
    (void)state;
    const size_t n = KD_JSONL_MAX_VALUES + 16;
    char *line = malloc(2 * n + 64);
    assert_non_null(line);
    size_t len = (size_t)sprintf(line, "{%s, \"logits\": [0", ID);
    for (size_t i = 0; i < n; i++) len += (size_t)sprintf(line + len, ",0");
    FAILS(kd_jsonl_line_parse(&row, line, len, NULL, err), KD_ELIMIT, "more than 8388608 values");
    free(line);
}

/* ---- files -------------------------------------------------------------------------------- */

static void put_id(kd_buf *b, uint32_t r)
{
    char hex[33];
    kd_id_hex(ex_id(r), hex);
    kd_buf_printf(b, "{\"id\": \"%s\"", hex);
}

static void write_lines(const char *path, int seed, const char *end, void (*put)(kd_buf *b, uint32_t r))
{
    uint32_t order[EX_ROWS];
    kd_buf b = {0};
    ex_order(order, seed);
    for (uint32_t i = 0; i < EX_ROWS; i++) {
        put_id(&b, order[i]);
        put(&b, order[i]);
        kd_buf_printf(&b, "}%s%s", end, i % 9 ? "" : end); // an empty line is none
    }
    ex_write(path, b.text, b.len - (seed ? strlen(end) : 0)); // the last line need not end
    kd_buf_release(&b);
}

static void put_dense(kd_buf *b, uint32_t r)
{
    kd_buf_puts(b, ", \"text\": \"left out\", \"logits\": [");
    for (uint32_t k = 0; k < EX_CLASSES; k++)
        kd_buf_printf(b, "%s%.9g", k ? ", " : "", (double)ex_value(r, k));
    kd_buf_puts(b, "]");
}

static void dense_lines_come_in_in_any_order(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        kd_import_params p = ex_params("lines");
        write_lines(ex_path("l.jsonl"), i, i ? "\n" : "\r\n", put_dense);
        OK(ex_import(store(), ex_path("l.jsonl"), &p, NULL, err));
        ex_has_logits(store(), "lines/logits");
    }
}

static uint32_t length_of(uint32_t r) { return r % 5; } // some rows have no position

static void put_ragged(kd_buf *b, uint32_t r)
{
    kd_buf_puts(b, ", \"features.h1\": [null");
    for (uint32_t p = 0; p < length_of(r); p++)
        kd_buf_printf(b, ", [%.9g, %.9g]", (double)ex_value(r, 2 * p), (double)ex_value(r, 2 * p + 1));
    kd_buf_puts(b, "]");
}

/* A ragged column's values of each row, compared with ex_value. */
static void has_ragged(const char *path, const char *column, uint32_t width)
{
    kd_store *s;
    kd_cursor *c;
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&c, s, err));
    const int k = kd_store_find(s, column);
    assert_true(k >= 0);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        uint32_t lengths[EX_CHUNK];
        float v[EX_CHUNK * 5 * 2];
        size_t positions, at = 0;
        OK(kd_cursor_lengths(c, k, i, lengths, &positions, err));
        OK(kd_cursor_read_f32(c, k, i, v, positions, err));
        for (uint32_t r = 0; r < ci->rows; r++) {
            const uint32_t row_of = ex_row((uint32_t)ci->first + r);
            assert_int_equal(lengths[r], length_of(row_of));
            for (uint32_t j = 0; j < lengths[r] * width; j++) assert_true(v[at++] == ex_value(row_of, j));
        }
    }
    kd_cursor_close(c);
    kd_store_close(s);
}

static void lines_with_a_vector_a_position_make_a_ragged_column(void **state)
{
    (void)state;
    kd_import_report r;
    kd_import_params p = ex_params("tok");
    write_lines(ex_path("r.jsonl"), 1, "\n", put_ragged);
    OK(ex_import(store(), ex_path("r.jsonl"), &p, &r, err));
    has_ragged(store(), "tok/feat.h1", 2);
    assert_int_equal(r.positions, 80);
}

/* Three classes a position; their probabilities leave a tail. */
static float logprob_of(uint32_t r, uint32_t p, uint32_t k)
{
    return -1.5f - 0.25f * (float)((r + p + 3 * k) % 7);
}
static uint32_t class_of(uint32_t r, uint32_t p, uint32_t k) { return (r + 4 * p + 3 * k) % EX_CLASSES; }

static void put_top(kd_buf *b, uint32_t r)
{
    kd_buf_puts(b, ", \"prompt_logprobs\": [null");
    for (uint32_t p = 0; p < length_of(r); p++) {
        kd_buf_puts(b, ", {");
        for (uint32_t k = 0; k < 3; k++)
            kd_buf_printf(b, "%s\"%u\": {\"logprob\": %.9g, \"rank\": %u}", k ? ", " : "", class_of(r, p, k),
                          (double)logprob_of(r, p, k), k + 1);
        kd_buf_puts(b, "}");
    }
    kd_buf_puts(b, "]");
}

/* The column's entries, largest first where only some are kept. */
static void has_top(const char *path, const char *column, uint32_t kept)
{
    kd_store *s;
    kd_cursor *c;
    kd_sparse top = {0};
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&c, s, err));
    const int k = kd_store_find(s, column);
    assert_true(k >= 0);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        size_t at = 0;
        OK(kd_cursor_read_sparse(c, k, i, &top, err));
        for (uint32_t j = 0; j < ci->rows; j++) {
            const uint32_t r = ex_row((uint32_t)ci->first + j);
            for (uint32_t p = 0; p < length_of(r); p++, at++) {
                double mass = 0;
                assert_int_equal(top.offset[at + 1] - top.offset[at], kept);
                for (uint64_t e = top.offset[at]; e < top.offset[at + 1]; e++) {
                    bool found = false;
                    for (uint32_t q = 0; q < 3; q++)
                        found = found || (class_of(r, p, q) == top.id[e] &&
                                          fabsf(logprob_of(r, p, q) - top.value[e]) < 2e-3f);
                    assert_true(found);
                    mass += exp((double)top.value[e]);
                }
                assert_true(fabs(1 - mass - (double)top.tail[at]) < 3e-3);
            }
        }
        assert_int_equal(at, top.positions);
    }
    kd_sparse_release(&top);
    kd_cursor_close(c);
    kd_store_close(s);
}

static void top_k_lines_make_a_sparse_column(void **state)
{
    (void)state;
    kd_import_report r;
    kd_import_params p = ex_params("vllm");
    write_lines(ex_path("top.jsonl"), 0, "\n", put_top);
    OK(ex_import(store(), ex_path("top.jsonl"), &p, &r, err)); // encoding topk, k of the fullest position
    has_top(store(), "vllm/logits", 3);
    assert_int_equal(r.positions, 80);
    assert_int_equal(r.dropped, 0);
    char *one = ex_root(store(), "vllm");
    write_lines(ex_path("top.jsonl"), 1, "\n", put_top);
    OK(ex_import(store(), ex_path("top.jsonl"), &p, &r, err));
    char *other = ex_root(store(), "vllm");
    assert_string_equal(one, other);
    free(one);
    free(other);
    p.name = "two", p.encoding = "topk:k=2";
    OK(ex_import(store(), ex_path("top.jsonl"), &p, &r, err));
    has_top(store(), "two/logits", 2);
    assert_int_equal(r.dropped, 80);
    p.encoding = "int8";
    FAILS(ex_import(store(), ex_path("top.jsonl"), &p, &r, err), KD_EUSAGE, "topk alone");
    p.encoding = NULL, p.classes = 5;
    FAILS(ex_import(store(), ex_path("top.jsonl"), &p, &r, err), KD_EMISMATCH,
          "class 9, and there are 5 (--classes)");
}

static void exported_top_k_lines_come_in_again(void **state)
{
    (void)state;
    kd_store *s;
    const char *column = "vllm/logits";
    kd_export_params x = {.columns = &column, .n = 1, .split = -1, .force = true};
    kd_import_params p = ex_params("again");
    OK(kd_store_open(&s, store(), err));
    OK(kd_export(s, ex_path("x.jsonl"), &x, NULL, err));
    kd_store_close(s);
    OK(ex_import(store(), ex_path("x.jsonl"), &p, NULL, err));
    has_top(store(), "again/logits", 3);
}

static void bad_lines_are_named_by_file_and_line(void **state)
{
    (void)state;
    kd_buf b = {0};
    kd_import_params p = ex_params("bad");
    const char *file = ex_path("bad.jsonl");
    put_id(&b, 0), put_dense(&b, 0), kd_buf_puts(&b, "}\n");
    put_id(&b, 1), kd_buf_puts(&b, ", \"logits\": [1, 2]}\n");
    ex_write(file, b.text, b.len);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH,
          "bad.jsonl:2: logits has 2 numbers, 10 in lines before");
    ex_write(file, "{\"row\": 0, \"logits\": [1]}\n{\"source\": 1, \"logits\": [1]}\n", 54);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "bad.jsonl:2: says otherwise");
    ex_write(file, "{\"logits\": [1]}\n", 16);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "--order store or --order source");
    ex_write(file, b.text, b.len / 2);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_ECORRUPT, "bad.jsonl:1: no valid JSON");
    p.ids = "x";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "--ids is for arrays");
    p.ids = NULL;
    b.len = 0;
    for (uint32_t r = 0; r < EX_ROWS; r++)
        if (r != 9) put_id(&b, r), put_dense(&b, r), kd_buf_puts(&b, "}\n");
    ex_write(file, b.text, b.len);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "1 of 40 rows of ");
    put_id(&b, 3), put_dense(&b, 3), kd_buf_puts(&b, "}\n");
    ex_write(file, b.text, b.len);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "have the same id");
    kd_buf_release(&b);
}

static void an_over_long_line_is_refused_without_reading_it_all(void **state)
{
    (void)state;
    kd_import_params p = ex_params("long");
    const char *file = ex_path("long.jsonl");
    ex_write(file, "{\"logits\": [", 12);
    assert_int_equal(truncate(file, (off_t)1 << 40), 0); // a hole of a terabyte
    FAILS(ex_import(store(), file, &p, NULL, err), KD_ELIMIT, "a line of more than 67108864 bytes");
}

static int set_up_store(void **state)
{
    if (ex_set_up(state)) return -1;
    ex_make(store(), 1);
    return 0;
}

static int tear_down(void **state)
{
    kd_jsonl_row_release(&row);
    return ex_tear_down(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dense_line_is_one_vector),
        cmocka_unit_test(top_k_lines_of_servers_say_the_same),
        cmocka_unit_test(probabilities_over_one_are_counted),
        cmocka_unit_test(lines_that_say_nothing_are_refused),
        cmocka_unit_test(a_line_of_too_many_values_is_refused_before_it_is_read),
        cmocka_unit_test(dense_lines_come_in_in_any_order),
        cmocka_unit_test(lines_with_a_vector_a_position_make_a_ragged_column),
        cmocka_unit_test(top_k_lines_make_a_sparse_column),
        cmocka_unit_test(exported_top_k_lines_come_in_again),
        cmocka_unit_test(bad_lines_are_named_by_file_and_line),
        cmocka_unit_test(an_over_long_line_is_refused_without_reading_it_all),
    };
    return cmocka_run_group_tests(tests, set_up_store, tear_down);
}
