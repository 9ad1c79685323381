/* test_exchange_kld.c - llama.cpp's --kl-divergence-base files: a store of tokens and log-probabilities.
 *
 * The files are written here as llama.cpp writes them: log p(class) = scale * q + min, q of 16 bits, classes
 * 16 nats and more below the largest at q = 0.
 */
#include "exchange_fixture.h"

enum { CTX = 9, VOCAB = 7, CHUNKS = 5, FIRST = CTX / 2, POSITIONS = CTX - 1 - FIRST };

static int32_t token(uint32_t chunk, uint32_t i)
{
    return (int32_t)((3 * chunk + 5 * i + chunk * i) % VOCAB);
}

/* Log-probabilities of a position, normalised. */
static void log_probs(uint32_t chunk, uint32_t position, double out[VOCAB])
{
    double sum = 0;
    for (uint32_t k = 0; k < VOCAB; k++) {
        out[k] = 3 * (double)ex_value(chunk * 100 + position, k);
        sum += exp(out[k]);
    }
    for (uint32_t k = 0; k < VOCAB; k++) out[k] -= log(sum);
}

static void put_position(kd_buf *b, const double p[VOCAB])
{
    double top = p[0], low = p[0];
    for (uint32_t k = 1; k < VOCAB; k++) top = fmax(top, p[k]), low = fmin(low, p[k]);
    low = fmax(low, top - 16);
    const float scale = (float)((top - low) / 65535), min = (float)low;
    uint16_t q[VOCAB + 1] = {0};
    for (uint32_t k = 0; k < VOCAB; k++) {
        const double step = (p[k] - low) / (double)scale;
        q[k] = step > 0 ? (uint16_t)(step + 0.5) : 0;
    }
    kd_buf_append(b, &scale, 4);
    kd_buf_append(b, &min, 4);
    kd_buf_append(b, q, sizeof(q)); // an odd vocabulary is filled up
}

static kd_buf file_of(int32_t ctx, int32_t vocab, int32_t chunks)
{
    kd_buf b = {0};
    double p[VOCAB];
    const int32_t head[3] = {ctx, vocab, chunks};
    kd_buf_append(&b, "_logits_", 8);
    kd_buf_append(&b, head, sizeof(head));
    for (uint32_t c = 0; c < CHUNKS; c++)
        for (uint32_t i = 0; i < CTX; i++) {
            const int32_t t = token(c, i);
            kd_buf_append(&b, &t, 4);
        }
    for (uint32_t c = 0; c < CHUNKS; c++)
        for (uint32_t i = 0; i < POSITIONS; i++) {
            log_probs(c, i, p);
            put_position(&b, p);
        }
    return b;
}

static kd_import_params params(void)
{
    kd_import_params p = ex_params("llama");
    p.writer.chunk_rows = 2;
    p.writer.force = false;
    p.split = KD_VALID;
    return p;
}

static void a_file_makes_a_store_of_its_own(void **state)
{
    (void)state;
    const char *file = ex_path("a.kld"), *out = ex_path("a.kd");
    kd_buf b = file_of(CTX, VOCAB, CHUNKS);
    kd_import_params p = params();
    kd_import_report r;
    kd_verify_report v;
    kd_store *s;
    kd_cursor *c;
    bool yes;
    ex_write(file, b.text, b.len);
    OK(kd_is_kld(file, &yes, err));
    assert_true(yes);
    OK(kd_import_kld(out, file, &p, &r, err));
    assert_int_equal(r.rows, CHUNKS);
    assert_int_equal(r.positions, CHUNKS * POSITIONS);
    OK(kd_store_verify(out, 1, &v, NULL, NULL, err));
    OK(kd_store_open(&s, out, err));
    assert_int_equal(kd_store_split_rows(s, KD_VALID), CHUNKS);
    assert_int_equal(kd_store_chunks(s), 3);
    const int tokens = kd_store_find(s, "tokens"), logits = kd_store_find(s, "llama/logits");
    assert_int_equal(json_integer_value(
                         json_object_get(kd_store_column(s, (size_t)logits)->params, "first_position")),
                     FIRST);
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t i = 0; i < 3; i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        int32_t t[2 * CTX];
        float z[2 * POSITIONS * VOCAB];
        double want[VOCAB];
        OK(kd_cursor_read(c, tokens, i, t, ci->rows * CTX * sizeof(t[0]), err));
        OK(kd_cursor_read_f32(c, logits, i, z, ci->rows * POSITIONS, err));
        for (uint32_t r_ = 0; r_ < ci->rows; r_++) {
            const uint32_t row = (uint32_t)ci->first + r_;
            for (uint32_t k = 0; k < CTX; k++) assert_int_equal(t[r_ * CTX + k], token(row, k));
            for (uint32_t pos = 0; pos < POSITIONS; pos++) {
                log_probs(row, pos, want);
                for (uint32_t k = 0; k < VOCAB; k++) {
                    const double got = (double)z[(r_ * POSITIONS + pos) * VOCAB + k];
                    assert_true(fabs(got - want[k]) < 16.0 / 65535 + 1e-5);
                }
            }
        }
    }
    kd_cursor_close(c);
    kd_store_close(s);
    FAILS(kd_import_kld(out, file, &p, &r, err), KD_EEXISTS, "--force");
    kd_buf_release(&b);
}

static void log_probabilities_can_be_kept_as_top_k(void **state)
{
    (void)state;
    kd_import_params p = params();
    kd_store *s;
    kd_cursor *c;
    kd_sparse top = {0};
    p.encoding = "topk:k=3";
    OK(kd_import_kld(ex_path("k.kd"), ex_path("a.kld"), &p, NULL, err));
    OK(kd_store_open(&s, ex_path("k.kd"), err));
    OK(kd_cursor_open(&c, s, err));
    OK(kd_cursor_read_sparse(c, kd_store_find(s, "llama/logits"), 0, &top, err));
    assert_int_equal(top.positions, 2 * POSITIONS);
    for (size_t i = 0; i < top.positions; i++) {
        double want[VOCAB], mass = 0;
        log_probs((uint32_t)(i / POSITIONS), (uint32_t)(i % POSITIONS), want);
        assert_int_equal(top.offset[i + 1] - top.offset[i], 3);
        for (uint64_t e = top.offset[i]; e < top.offset[i + 1]; e++) {
            assert_true(fabs((double)top.value[e] - want[top.id[e]]) < 0.034); // half a step of 1/16
            mass += exp(want[top.id[e]]);
        }
        assert_true(fabs((double)top.tail[i] - (1 - mass)) < 5e-3);
    }
    kd_sparse_release(&top);
    kd_cursor_close(c);
    kd_store_close(s);
}

static void the_last_byte_must_be_there_and_no_more(void **state)
{
    (void)state;
    kd_buf b = file_of(CTX, VOCAB, CHUNKS);
    kd_import_params p = params();
    const char *file = ex_path("cut.kld"), *out = ex_path("cut.kd");
    for (size_t cut = 0; cut < b.len; cut += 1 + cut / 20) {
        kd_err e = {0};
        ex_write(file, b.text, cut);
        assert_int_equal(kd_import_kld(out, file, &p, NULL, &e), KD_ECORRUPT);
        assert_true(e.msg[0] && !strchr(e.msg, '\n'));
    }
    ex_write(file, b.text, b.len - 1);
    FAILS(kd_import_kld(out, file, &p, NULL, err), KD_ECORRUPT, "4 whole contexts");
    kd_buf_puts(&b, "x");
    ex_write(file, b.text, b.len);
    FAILS(kd_import_kld(out, file, &p, NULL, err), KD_ECORRUPT, "1 bytes behind its 5 contexts");
    assert_false(kd_exists(out));
    kd_buf_release(&b);
}

static void headers_and_numbers_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const int32_t bad[][3] = {{2, VOCAB, CHUNKS},       {-9, VOCAB, CHUNKS}, {CTX, 0, CHUNKS},
                                     {CTX, VOCAB, 0},          {CTX, VOCAB, -1},    {CTX, INT32_MAX, CHUNKS},
                                     {1 << 24, VOCAB, 1 << 30}};
    kd_import_params p = params();
    const char *file = ex_path("bad.kld"), *out = ex_path("bad.kd");
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_buf b = file_of(bad[i][0], bad[i][1], bad[i][2]);
        kd_err e = {0};
        ex_write(file, b.text, b.len);
        assert_int_equal(kd_import_kld(out, file, &p, NULL, &e), KD_ECORRUPT);
        kd_buf_release(&b);
    }
    kd_buf b = file_of(CTX, VOCAB, CHUNKS);
    const size_t probs = 20 + 4 * CTX * CHUNKS;
    const float high = 0.5f, nan_ = NAN;
    char *t = b.text + 20 + 4 * (CTX + 2);
    const int32_t was = token(1, 2), foreign = VOCAB;
    memcpy(t, &foreign, 4);
    ex_write(file, b.text, b.len);
    FAILS(kd_import_kld(out, file, &p, NULL, err), KD_ECORRUPT,
          "context 1, token 2 is 7, the vocabulary has 7");
    memcpy(t, &was, 4);
    memcpy(b.text + probs + 4, &high, 4);
    ex_write(file, b.text, b.len);
    p.writer.force = true;
    FAILS(kd_import_kld(out, file, &p, NULL, err), KD_ECORRUPT, "position 4: scale ");
    memcpy(b.text + probs + 4, &nan_, 4);
    ex_write(file, b.text, b.len);
    FAILS(kd_import_kld(out, file, &p, NULL, err), KD_ECORRUPT, "are no log-probabilities");
    kd_buf_release(&b);
}

static void what_is_no_kld_file_is_told_apart(void **state)
{
    (void)state;
    bool yes;
    kd_import_params p = params();
    ex_make(ex_path("s.kd"), 1);
    FAILS(ex_import(ex_path("s.kd"), ex_path("a.kld"), &p, NULL, err), KD_EUSAGE, "kd-store import");
    ex_logits_npy(ex_path("x.npy"), 0, EX_ROWS, false);
    OK(kd_is_kld(ex_path("x.npy"), &yes, err));
    assert_false(yes);
    FAILS(kd_import_kld(ex_path("x.kd"), ex_path("x.npy"), &p, NULL, err), KD_ECORRUPT, "no .kld file");
    FAILS(kd_is_kld(ex_path("none"), &yes, err), KD_ENOTFOUND, "none");
    p.name = "";
    FAILS(kd_import_kld(ex_path("x.kd"), ex_path("a.kld"), &p, NULL, err), KD_EUSAGE, "--name");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_makes_a_store_of_its_own),
        cmocka_unit_test(log_probabilities_can_be_kept_as_top_k),
        cmocka_unit_test(the_last_byte_must_be_there_and_no_more),
        cmocka_unit_test(headers_and_numbers_that_cannot_be_are_refused),
        cmocka_unit_test(what_is_no_kld_file_is_told_apart),
    };
    return cmocka_run_group_tests(tests, ex_set_up, ex_tear_down);
}
