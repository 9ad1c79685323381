/* test_store_marks.c - blocks of marked bytes: every size near the ends of vectors on every instruction set
 * comes back as a decoder that goes bit by bit says, and payloads that lie are refused. Buffers have exactly
 * the bytes that they should, so the address sanitizer sees whoever reads or writes beyond. */
#include "../../lib/store/store_private.h"
#include "store_fixture.h"

#include "kd/config.h"

static const kd_isa isas[] = {KD_ISA_SCALAR, KD_ISA_AVX2, KD_ISA_AVX512};

/* Decodes as docs/store-format.md says it, a bit at a time; false: marks and bytes do not fit. */
static bool naive(uint8_t *out, size_t n, const uint8_t *payload, size_t len)
{
    const size_t bytes = (n + 7) / 8, top = (bytes + 7) / 8;
    const unsigned stride = payload[1];
    const uint8_t *kept = payload + 2 + top, *from = kept;
    bool *mark = calloc(8 * bytes + 1, sizeof *mark);
    assert_non_null(mark);
    for (size_t i = 0; i < bytes; i++) from += payload[2 + i / 8] >> i % 8 & 1;
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t d = payload[2 + i / 8] >> i % 8 & 1 ? *kept++ : 0;
        for (size_t k = 0; k < 8; k++) mark[8 * i + k] = d >> k & 1;
    }
    bool fits = true;
    for (size_t i = 0; i < 8 * bytes; i++) {
        if (i >= n) fits &= !mark[i];
        if (stride && i >= stride) mark[i] ^= mark[i - stride];
    }
    for (size_t i = 0; i < n && fits; i++) {
        fits = !mark[i] || from < payload + len;
        out[i] = mark[i] && fits ? *from++ : payload[0];
    }
    free(mark);
    return fits && from == payload + len;
}

/* Reads a copy of the payload on every instruction set; true: all say what the naive one says. */
static bool all_agree(const uint8_t *payload, size_t len, size_t n, uint8_t *out)
{
    uint8_t *copy = malloc(len), *got = malloc(n + 1);
    kd__marks m;
    bool same = true;
    assert_true(copy && got);
    memcpy(copy, payload, len);
    const bool good = !kd__marks_parse(&m, copy, len, n, NULL) && naive(out, n, copy, len);
    for (size_t i = 0; i < KD_COUNT(isas); i++) {
        if (isas[i] > kd_cpu_isa()) continue;
        got = realloc(got, n + !n);
        assert_non_null(got);
        bool read = !kd__marks_parse(&m, copy, len, n, NULL) && kd__marks_for(isas[i])->read(got, n, &m);
        same &= read == good && (!read || !memcmp(got, out, n));
    }
    free(copy);
    free(got);
    return same;
}

/* Lines of `line` bytes, `thick` of 64 of which are not the background, at places that change slowly. */
static void draw(uint8_t *raw, size_t n, size_t line, unsigned thick, uint8_t background, kd_rng *rng)
{
    for (size_t i = 0; i < n; i++) {
        const size_t column = i % line, from = i / line / 3 % line;
        const bool ink = thick && (column + line - from) % line * 64 < line * thick;
        raw[i] = ink ? (uint8_t)(background + 1 + kd_rng_below(rng, 255)) : background;
    }
}

static void check_block(const uint8_t *raw, size_t n, size_t *taken)
{
    uint8_t *exact = malloc(n + 1), *payload = malloc(ZSTD_compressBound(n)), *out = malloc(n + 1);
    assert_true(exact && payload && out);
    memcpy(exact, raw, n);
    const size_t len = kd__marks_write(payload, exact, n);
    if (len != SIZE_MAX) {
        assert_true(len < n);
        assert_true(all_agree(payload, len, n, out));
        assert_memory_equal(out, raw, n);
        OK(kd__marks_read(out, n, payload, len, err));
        assert_memory_equal(out, raw, n);
        ++*taken;
    }
    free(exact);
    free(payload);
    free(out);
}

static void every_size_comes_back_on_every_instruction_set(void **state)
{
    (void)state;
    static uint8_t raw[70000];
    static const size_t lines[] = {1, 5, 28, 64, 100};
    static const unsigned thick[] = {0, 1, 12, 32, 60};
    kd_rng rng;
    size_t taken = 0;
    kd_rng_init(&rng, 1, KD_RNG_TEST, 0, 0);
    for (size_t n = 0; n < 1200; n += n < 140 || (n > 500 && n < 530) ? 1 : 37)
        for (size_t l = 0; l < KD_COUNT(lines); l++)
            for (size_t t = 0; t < KD_COUNT(thick); t++) {
                draw(raw, n, lines[l], thick[t], (uint8_t)(17 * l), &rng);
                check_block(raw, n, &taken);
            }
    assert_true(taken > 2000);
    for (size_t n = 65000; n < 70000; n += 509) { // beyond the bytes that choose the stride
        draw(raw, n, 28, 30, 0, &rng);
        check_block(raw, n, &taken);
    }
}

static void every_stride_comes_back(void **state)
{
    (void)state;
    static uint8_t raw[64 * 40 + 3], payload[2 * sizeof raw];
    kd_rng rng;
    size_t taken = 0;
    kd_rng_init(&rng, 2, KD_RNG_TEST, 0, 0);
    for (size_t line = 5; line <= KD__MARKS_STRIDE; line++) {
        for (size_t i = 0; i < sizeof raw; i++) {
            const bool ink = i % line == 1 || i % line == 2;
            raw[i] = ink ? (uint8_t)(1 + kd_rng_below(&rng, 255)) : 0;
        }
        assert_true(kd__marks_write(payload, raw, sizeof raw) < sizeof raw);
        assert_int_equal(payload[1], line);
        check_block(raw, sizeof raw, &taken);
    }
    assert_int_equal(taken, KD__MARKS_STRIDE - 4);
}

static void one_byte_alone_takes_next_to_nothing(void **state)
{
    (void)state;
    static uint8_t raw[1 << 16], payload[2 << 16], out[1 << 16];
    memset(raw, 255, sizeof raw);
    assert_int_equal(kd__marks_write(payload, raw, sizeof raw), 2 + sizeof raw / 64);
    assert_true(all_agree(payload, 2 + sizeof raw / 64, sizeof raw, out));
    assert_memory_equal(out, raw, sizeof raw);
}

static void bytes_without_a_background_are_not_marked(void **state)
{
    (void)state;
    static uint8_t raw[4096], payload[2 * 4096];
    for (size_t i = 0; i < sizeof raw; i++) raw[i] = (uint8_t)i;
    for (size_t n = 0; n <= sizeof raw; n += n < 80 ? 1 : 100) {
        const size_t len = kd__marks_write(payload, raw, n);
        if (len != SIZE_MAX) fail_msg("%zu bytes take %zu", n, len);
    }
}

/* Whatever is done to a payload, all readers say the same, and none goes beyond its buffers. */
static void damaged_payloads_are_refused_alike(void **state)
{
    (void)state;
    static uint8_t raw[1100], payload[2 * 1100 + 200], bad[2 * 1100 + 200], out[1101];
    kd_rng rng;
    kd_rng_init(&rng, 3, KD_RNG_TEST, 0, 0);
    for (size_t n = 30; n <= sizeof raw; n += 107) {
        draw(raw, n, 28, 20, 3, &rng);
        const size_t len = kd__marks_write(payload, raw, n);
        assert_true(len < n);
        for (size_t cut = 1; cut < len; cut++) {
            assert_true(all_agree(payload, cut, n, out));
            assert_int_equal(kd__marks_read(out, n, payload, cut, NULL), KD_ECORRUPT);
        }
        memcpy(bad, payload, len);
        bad[len] = 1; // a byte that no mark is for
        assert_int_equal(kd__marks_read(out, n, bad, len + 1, NULL), KD_ECORRUPT);
        for (size_t bit = 0; bit < 8 * len; bit++) {
            memcpy(bad, payload, len);
            bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_true(all_agree(bad, len, n, out));
        }
        assert_true(all_agree(payload, len, n + 1, out) && all_agree(payload, len, n - 1, out));
    }
}

/* The values of docs/store-format.md as a record of one row. */
static const uint8_t drawn[22] = {0, 0, 7, 9, 0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 5, 6, 0, 0, 0, 0, 1, 2};
static const uint8_t documented[12] = {0x00, 0x06, 0x01, 0x0c, 7, 9, 8, 8, 5, 6, 1, 2};

static size_t make_record(uint8_t *record, const uint8_t *raw, size_t n, int level, kd__record *r)
{
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    *r = (kd__record){.dtype = KD_U8, .encoding = KD__ENCODING_DENSE, .rows = 1, .raw = n};
    const size_t size = kd__record_pack(r, raw, record, zstd, level);
    ZSTD_freeCCtx(zstd);
    return size;
}

static void the_document_shows_these_bytes(void **state)
{
    (void)state;
    uint8_t record[256];
    kd__record r;
    char *text, line[8];
    size_t len;
    assert_int_equal(make_record(record, drawn, sizeof drawn, 3, &r), KD__RECORD_HEAD + sizeof documented);
    assert_int_equal(r.codec, KD__CODEC_MARKS);
    assert_memory_equal(record + KD__RECORD_HEAD, documented, sizeof documented);
    if (!kd_exists("docs/store-format.md")) {
        print_message("docs/store-format.md is not below the current folder\n");
        skip();
    }
    OK(kd_file_read("docs/store-format.md", 1 << 20, &text, &len, err));
    const char *at = strstr(text, "    00 06 ");
    for (size_t i = 0; i < sizeof documented; i++) {
        snprintf(line, sizeof line, "%02x", documented[i]);
        assert_non_null(at = at ? strstr(at, line) : NULL);
        at += 2;
    }
    free(text);
}

/* Makes the record of a changed payload agree with itself. */
static size_t seal(uint8_t *record, size_t payload)
{
    const uint64_t stored = payload, none = 0;
    memcpy(record + 40, &stored, 8);
    memcpy(record + 56, &none, 8);
    const uint64_t sum = kd_hash64(record, KD__RECORD_HEAD + payload);
    memcpy(record + 56, &sum, 8);
    return KD__RECORD_HEAD + payload;
}

static void records_that_lie_get_one_line(void **state)
{
    (void)state;
    enum { H = KD__RECORD_HEAD };
    uint8_t good[256], bad[256], out[22];
    kd__record r;
    kd__decoder d;
    kd_column c;
    const size_t size = make_record(good, drawn, sizeof drawn, 3, &r), n = size - H;
    fx_column(&c, "image", KD_ROLE_INPUT, KD_U8, 1, 22, 0);
    snprintf(c.encoding, sizeof c.encoding, "dense");
    snprintf(c.filter, sizeof c.filter, "none");
    const kd__expect want = {.column = &c, .info = {.rows = 1}};
    OK(kd__decoder_init(&d, true, err));
    OK(kd__record_check(&r, good, size, &want, err));
    OK(kd__record_decode(&r, good + H, &c, out, &d, err));
    assert_memory_equal(out, drawn, sizeof drawn);
    // Refused before anybody takes memory for the block.
#define REFUSED(change, payload, sentence)                                                                   \
    do {                                                                                                     \
        memcpy(bad, good, size);                                                                             \
        change;                                                                                              \
        FAILS(kd__record_check(&r, bad, seal(bad, payload), &want, err), KD_ECORRUPT, sentence);             \
    } while (0)
    REFUSED(bad[8] = 3, n, "codec 3, kd " KD_VERSION " reads 0 to 2");
    REFUSED(bad[H + 1] = 65, n, "marks with a stride of 65, the limit is 64");
    REFUSED((void)0, 2, "2 bytes cannot be the marks of 22");
    REFUSED((void)0, 0, "0 bytes cannot be the marks of 22");
    REFUSED((void)0, 3, "3 bytes cannot be the marks of 22, 1 of them kept");
    REFUSED(memset(bad + size, 1, 20), n + 20, "32 bytes cannot be the marks of 22, 1 of them kept");
    REFUSED(bad[H + 2] = 9, n, "marks beyond the block's 22 bytes");
    // What only decoding shows.
#define UNFIT(change, payload)                                                                               \
    do {                                                                                                     \
        memcpy(bad, good, size);                                                                             \
        change;                                                                                              \
        OK(kd__record_check(&r, bad, seal(bad, payload), &want, err));                                       \
        FAILS(kd__record_decode(&r, bad + H, &c, out, &d, err), KD_ECORRUPT,                                 \
              "does not have as many marks as marked bytes");                                                \
    } while (0)
    UNFIT((void)0, n - 1);
    UNFIT(bad[size] = 1, n + 1);
    UNFIT(bad[H + 3] = 0x0e, n);
    UNFIT(bad[H + 2] = 3, n);                                      // 7 becomes a byte of marks
    UNFIT((bad[H + 2] = 5, bad[H + 4] = 0x40, bad[H + 1] = 0), n); // a mark of byte 22, which is not there
    kd__decoder_release(&d);
}

/* Marks are taken unless they are a fifth larger than the frame; from level 10 on, than the frame. */
static void marks_are_taken_where_they_cost_little(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    static uint8_t raw[N], record[2 * N], payload[2 * N];
    kd_rng rng;
    kd__record r;
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    kd_rng_init(&rng, 4, KD_RNG_TEST, 0, 0);
    for (int kind = 0; kind < 4; kind++) // ink of any byte, of 128, of 16, of 2
        for (int level = 3; level <= 10; level += 7) {
            static const uint32_t inks[] = {255, 128, 16, 2};
            for (size_t i = 0; i < N; i++)
                raw[i] = i % 28 < 9 ? (uint8_t)(1 + kd_rng_below(&rng, inks[kind])) : 0;
            const size_t marks = kd__marks_write(payload, raw, N);
            ZSTD_CCtx_reset(zstd, ZSTD_reset_session_and_parameters);
            ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, level);
            ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
            const size_t frame = ZSTD_compress2(zstd, record, sizeof record, raw, N);
            const bool want = (level < 10 ? marks - marks / 6 : marks) <= frame;
            make_record(record, raw, N, level, &r);
            assert_int_equal(r.codec, want ? KD__CODEC_MARKS : KD__CODEC_ZSTD);
            if (kind == 0 && level < 10) assert_true(want);
            if (kind == 3) assert_false(want);
        }
    ZSTD_freeCCtx(zstd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_comes_back_on_every_instruction_set),
        cmocka_unit_test(every_stride_comes_back),
        cmocka_unit_test(one_byte_alone_takes_next_to_nothing),
        cmocka_unit_test(bytes_without_a_background_are_not_marked),
        cmocka_unit_test(damaged_payloads_are_refused_alike),
        cmocka_unit_test(the_document_shows_these_bytes),
        cmocka_unit_test(records_that_lie_get_one_line),
        cmocka_unit_test(marks_are_taken_where_they_cost_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
