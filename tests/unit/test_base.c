/* What the ground promises: sentences that fit, memory, numbers and hashes with the right bits. */
#include "kd/base.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LEN(a) (sizeof(a) / sizeof *(a))

/* ---- status ------------------------------------------------------------------------------- */

static void every_status_has_a_sentence_and_an_exit_code(void **state)
{
    (void)state;
    assert_string_equal(kd_strstatus(KD_OK), "ok");
    assert_int_equal(kd_exit_code(KD_OK), 0);
    for (int s = KD__STATUS_BASE + 1; s <= KD_EGATE; s++) {
        assert_string_not_equal(kd_strstatus((kd_status)s), "unknown status");
        assert_in_range(kd_exit_code((kd_status)s), 1, 5);
    }
    assert_int_equal(KD_ENOMEM, -99); /* numbers stand in logs */
    assert_int_equal(KD_EGATE, -87);
    assert_int_equal(kd_exit_code(KD_EFULL), 4);
    assert_int_equal(kd_exit_code(KD_ESTOPPED), 5);
    assert_string_equal(kd_strstatus((kd_status)12345), "unknown status");
    assert_int_equal(kd_exit_code((kd_status)12345), 1);
}

static void errors_keep_one_sentence(void **state)
{
    (void)state;
    kd_err err = {0};
    assert_int_equal(kd_fail(&err, KD_ECORRUPT, "%s: %d", "a", 3), KD_ECORRUPT);
    assert_string_equal(err.msg, "a: 3");
    assert_int_equal(kd_fail_in(&err, KD_EIO, "store %s", "x.kd"), KD_ECORRUPT);
    assert_string_equal(err.msg, "store x.kd: a: 3");
    kd_fail(&err, KD_EIO, "again: %s", err.msg); /* an argument inside the err itself */
    assert_string_equal(err.msg, "again: store x.kd: a: 3");
    kd_fail(&err, KD_ECORRUPT, "tensor %s, then\n  more",
            "\x1b[2J\r\x7f\xc3\xa4"); /* no orders to the terminal */
    assert_string_equal(err.msg, "tensor ?[2J??\xc3\xa4, then\n  more");
    assert_int_equal(kd_fail(NULL, KD_EIO, "x"), KD_EIO);
    assert_int_equal(kd_fail_in(NULL, KD_EFULL, "x"), KD_EFULL);
    err = (kd_err){0};
    assert_int_equal(kd_fail_in(&err, KD_EIO, "p"), KD_EIO);
    assert_string_equal(err.msg, "p: input/output error");
}

static void errno_becomes_a_status(void **state)
{
    (void)state;
    static const struct {
        int number;
        kd_status code;
    } map[] = {{ENOSPC, KD_EFULL},   {EDQUOT, KD_EFULL}, {ENOENT, KD_ENOTFOUND}, {ENOMEM, KD_ENOMEM},
               {EEXIST, KD_EEXISTS}, {EACCES, KD_EIO},   {EIO, KD_EIO}};
    kd_err err;
    for (size_t i = 0; i < LEN(map); i++) {
        assert_int_equal(kd_fail_errno(&err, map[i].number, "f"), map[i].code);
        assert_int_equal(kd_fail_errno(NULL, map[i].number, "f"), map[i].code);
    }
    kd_fail_errno(&err, ENOENT, "%s: cannot open", "a.yaml");
    assert_string_equal(err.msg, "a.yaml: cannot open: No such file or directory");
}

static void long_messages_are_cut_and_marked(void **state)
{
    (void)state;
    struct {
        kd_err err;
        char after[16];
    } s;
    char path[5000];
    memset(&s, 0x5A, sizeof s);
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = '\0';
    kd_fail(&s.err, KD_EIO, "%s: cannot open", path);
    assert_int_equal(strlen(s.err.msg), sizeof s.err.msg - 1);
    assert_string_equal(s.err.msg + sizeof s.err.msg - 5, "p...");
    kd_fail_in(&s.err, KD_EIO, "%s", path);
    kd_fail_errno(&s.err, EIO, "%s", path);
    assert_string_equal(s.err.msg + sizeof s.err.msg - 5, "p...");
    /* Cut inside a character of two bytes: the whole character goes. */
    for (size_t i = 0; i + 2 < sizeof path; i += 2) memcpy(path + i, "é", 2);
    kd_fail(&s.err, KD_EIO, "%s", path);
    const char *dots = strstr(s.err.msg, "...");
    assert_non_null(dots);
    assert_int_equal((dots - s.err.msg) % 2, 0);
    kd_fail(&s.err, KD_EIO, "x%s", path);
    dots = strstr(s.err.msg, "...");
    assert_int_equal((dots - s.err.msg) % 2, 1);
    for (size_t i = 0; i < sizeof s.after; i++) assert_int_equal(s.after[i], 0x5A);
}

/* ---- memory ------------------------------------------------------------------------------- */

static void pieces_are_aligned_and_zeroed(void **state)
{
    (void)state;
    kd_arena a = {0};
    unsigned char *piece[200];
    size_t size[200];
    for (size_t i = 0; i < 200; i++) {
        size[i] = i * i * 7 + (i % 50 == 49 ? 100000 : 0);
        piece[i] = kd_arena_alloc(&a, size[i], 1);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 64, 0);
        for (size_t k = 0; k < size[i]; k++) assert_int_equal(piece[i][k], 0);
        memset(piece[i], (int)i, size[i]);
    }
    for (size_t i = 0; i < 200; i++) /* none overlaps another */
        for (size_t k = 0; k < size[i]; k++) assert_int_equal(piece[i][k], i);
    assert_string_equal(kd_arena_strdup(&a, "text"), "text");
    assert_null(kd_arena_strdup(&a, NULL));
    assert_null(kd_arena_alloc(&a, SIZE_MAX, 2));
    assert_null(kd_arena_alloc(&a, SIZE_MAX, 1));
    assert_null(kd_arena_alloc(&a, SIZE_MAX - 64, 1));
    kd_arena_release(&a);
    assert_null(a.head);
    assert_int_equal(a.used, 0);
    kd_arena_release(NULL);
    assert_null(kd_alloc_aligned(SIZE_MAX / 2, 4));
    void *p = kd_alloc_aligned(0, 0);
    assert_non_null(p);
    free(p);
}

static void buffers_grow(void **state)
{
    (void)state;
    kd_buf b = {0};
    for (int i = 0; i < 1000; i++) kd_buf_printf(&b, "%d,", i % 10);
    kd_buf_append(&b, "", 0);
    kd_buf_puts(&b, "end");
    assert_int_equal(b.len, 2003);
    assert_string_equal(b.text + 1996, "8,9,end");
    assert_false(b.failed);
    kd_buf_append(&b, "x", SIZE_MAX - 1); /* cannot be: kept as it was, and remembered */
    assert_true(b.failed);
    assert_int_equal(b.len, 2003);
    kd_buf_release(&b);
    kd_buf_release(NULL);
}

/* ---- random numbers ----------------------------------------------------------------------- */

/* The known-answer vectors that the paper's authors publish with Random123 (kat_vectors). */
static void philox_gives_the_published_numbers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < LEN(kat); i++) {
        uint32_t out[4];
        kd_philox(kat[i].counter, kat[i].key, out);
        assert_memory_equal(out, kat[i].out, sizeof out);
    }
}

static void a_stream_is_its_counter(void **state)
{
    (void)state;
    kd_rng r, s;
    kd_rng_init(&r, 0x0123456789ABCDEFull, KD_RNG_VIEW, 11, 22);
    uint32_t key[2] = {0x89ABCDEF, 0x01234567}, counter[4] = {0, KD_RNG_VIEW, 11, 22}, out[4];
    for (uint32_t i = 0; i < 40; i++) {
        if (i % 4 == 0) {
            counter[0] = i / 4;
            kd_philox(counter, key, out);
        }
        assert_int_equal(kd_rng_u32(&r), out[i % 4]);
    }
    /* Past 2^32 blocks the count goes on above the purpose, not into a neighbour's stream. */
    kd_rng_init(&r, 1, KD_RNG_VIEW, 11, 22);
    r.counter[0] = UINT32_MAX;
    for (int i = 0; i < 4; i++) kd_rng_u32(&r);
    assert_int_equal(r.counter[0], 0);
    assert_int_equal(r.counter[1], KD_RNG_VIEW | 0x100);
    kd_rng_init(&r, 1, KD_RNG_INIT, 0, 0);
    kd_rng_init(&s, 1, KD_RNG_CHUNKS, 0, 0);
    int same = 0;
    for (int i = 0; i < 1000; i++) same += kd_rng_u32(&r) == kd_rng_u32(&s);
    assert_true(same <= 1);
}

static void numbers_below_n_are_uniform(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 5, KD_RNG_TEST, 0, 0);
    int count[7] = {0};
    for (int i = 0; i < 70000; i++) {
        uint64_t x = kd_rng_below(&r, 7);
        assert_true(x < 7);
        count[x]++;
    }
    double chi2 = 0;
    for (int i = 0; i < 7; i++) chi2 += (count[i] - 10000.0) * (count[i] - 10000.0) / 10000.0;
    assert_true(chi2 < 22.5); /* 6 degrees of freedom: 0.1 % */
    assert_int_equal(kd_rng_below(&r, 1), 0);
    const uint64_t large = 3ull << 62; /* a quarter of the words must be thrown away */
    int third[3] = {0};
    for (int i = 0; i < 30000; i++) {
        uint64_t x = kd_rng_below(&r, large);
        assert_true(x < large);
        third[x >> 62]++;
    }
    for (int i = 0; i < 3; i++) assert_in_range(third[i], 9600, 10400);
}

static void floats_have_their_moments(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 6, KD_RNG_TEST, 1, 0);
    double sum = 0, sum2 = 0, sum4 = 0, mean = 0;
    const int n = 200000;
    for (int i = 0; i < n; i++) {
        float u = kd_rng_uniform(&r);
        assert_true(u >= 0 && u < 1);
        mean += u / n;
        double z = kd_rng_normal(&r);
        assert_true(fabs(z) < 7);
        sum += z / n;
        sum2 += z * z / n;
        sum4 += z * z * z * z / n;
    }
    assert_true(fabs(mean - 0.5) < 0.003);
    assert_true(fabs(sum) < 0.01);
    assert_true(fabs(sum2 - 1) < 0.015);
    assert_true(fabs(sum4 - 3) < 0.15);
}

static void permutations_hold_every_number_once(void **state)
{
    (void)state;
    uint32_t order[1000], again[1000];
    bool seen[1000] = {false};
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_ROWS, 3, 4);
    kd_rng_permute(&r, order, 1000);
    int fixed = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        assert_true(order[i] < 1000 && !seen[order[i]]);
        seen[order[i]] = true;
        fixed += order[i] == i;
    }
    assert_true(fixed < 10);
    kd_rng_init(&r, 7, KD_RNG_ROWS, 3, 4);
    kd_rng_permute(&r, again, 1000);
    assert_memory_equal(order, again, sizeof order);
    int first[6] = {0}; /* all six orders of three are equally likely */
    for (int i = 0; i < 6000; i++) {
        kd_rng_permute(&r, order, 3);
        first[order[0] * 2 + (order[1] > order[2])]++;
    }
    for (int i = 0; i < 6; i++) assert_in_range(first[i], 870, 1130);
    kd_rng_permute(&r, order, 0);
}

/* ---- hashes ------------------------------------------------------------------------------- */

static void hashes_are_xxh3(void **state)
{
    (void)state;
    char hex[33];
    kd_id id, back;
    /* `printf '' | xxhsum -H2` and `-H3`, and of "kd". */
    assert_true(kd_hash64("", 0) == 0x2d06800538d394c2ull);
    kd_id_hex(kd_hash128("", 0), hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    id = kd_hash128("the quick brown fox", 19);
    kd_hasher *h = kd_hasher_create();
    assert_non_null(h);
    kd_hasher_add(h, "the quick ", 10);
    kd_hasher_add(h, NULL, 0);
    kd_hasher_add(h, "brown fox", 9);
    kd_id pieces = kd_hasher_digest(h);
    assert_memory_equal(&pieces, &id, sizeof id);
    kd_hasher_free(h);
    kd_hasher_free(NULL);
    kd_id_hex(id, hex);
    assert_true(kd_id_parse(hex, &back));
    assert_memory_equal(&back, &id, sizeof id);
    assert_true(kd_id_parse("99AA06D3014798D86001C324468D497F", &back));
    assert_false(kd_id_parse("99aa06d3014798d86001c324468d497", &back));
    assert_false(kd_id_parse("99aa06d3014798d86001c324468d497fa", &back));
    assert_false(kd_id_parse("99aa06d3014798d86001c324468d497g", &back));
    assert_false(kd_id_parse(NULL, &back));
}

/* ---- words for people --------------------------------------------------------------------- */

static void typing_errors_find_their_word(void **state)
{
    (void)state;
    static const char *const names[] = {"temperature", "epochs", "lr", "batch-size", "seed", "store"};
    static const struct {
        const char *word, *want;
    } cases[] = {{"temprature", "temperature"},
                 {"temperatuer", "temperature"},
                 {"epoch", "epochs"},
                 {"epohcs", "epochs"},
                 {"batch_size", "batch-size"},
                 {"BATCH-SIZE", "batch-size"},
                 {"batch", "batch-size"},
                 {"temp", "temperature"},
                 {"ls", "lr"},
                 {"sotre", "store"},
                 {"zebra", NULL},
                 {"x", NULL},
                 {"", NULL},
                 {NULL, NULL},
                 {"optimizer", NULL},
                 {"seeds", "seed"},
                 {"stoer", "store"},
                 {"word", NULL}};
    for (size_t i = 0; i < LEN(cases); i++) {
        const char *got = kd_nearest(cases[i].word, names, LEN(names));
        if (cases[i].want)
            assert_string_equal(got ? got : "(none)", cases[i].want);
        else
            assert_null(got);
    }
    char word[1000];
    memset(word, 'e', sizeof word);
    word[sizeof word - 1] = '\0';
    assert_null(kd_nearest(word, names, LEN(names)));
    assert_null(kd_nearest("seed", NULL, 0));
}

static void parts_are_counted_from_one(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",     "3",     "3/",   "/8",   "0/8",          "9/8",
                                        "-1/8", "1/8/2", "1 /8", "1/8x", "1/99999999999"};
    uint32_t part, parts;
    assert_true(kd_part_parse("2/8", &part, &parts));
    assert_true(part == 2 && parts == 8);
    assert_true(kd_part_parse("1/1", &part, &parts));
    for (size_t i = 0; i < LEN(wrong); i++)
        if (kd_part_parse(wrong[i], &part, &parts)) fail_msg("'%s' is a part", wrong[i]);
    assert_false(kd_part_parse(NULL, &part, &parts));
}

static void figures_read_well(void **state)
{
    (void)state;
    char b[32];
    static const struct {
        double x;
        const char *bytes, *count, *duration;
    } cases[] = {
        {0, "0 B", "0", "0:00"},
        {59.6, "60 B", "59.6", "1:00"},
        {999, "999 B", "999", "16:39"},
        {1000, "1000 B", "1.00k", "16:40"},
        {1536, "1.5 KiB", "1.54k", "25:36"},
        {3723, "3.6 KiB", "3.72k", "1:02:03"},
        {999600, "976 KiB", "1.00M", "277:40:00"},
        {1048000, "1023 KiB", "1.05M", "291:06:40"},
        {1048575, "1.0 MiB", "1.05M", "291:16:15"},
        {222298112, "212 MiB", "222M", "61749:28:32"},
        {-1, "?", "-1", "?"},
        {1e300, NULL, NULL, "?"},
        {INFINITY, "?", "?", "?"},
        {NAN, "?", "?", "?"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        kd_fmt_bytes(b, cases[i].x);
        assert_true(strlen(b) < sizeof b);
        if (cases[i].bytes) assert_string_equal(b, cases[i].bytes);
        kd_fmt_count(b, cases[i].x);
        if (cases[i].count) assert_string_equal(b, cases[i].count);
        assert_string_equal(kd_fmt_duration(b, cases[i].x), cases[i].duration);
    }
}

/* ---- machine ------------------------------------------------------------------------------ */

static void the_machine_is_described(void **state)
{
    (void)state;
    kd_isa isa;
    for (int i = 0; i <= KD_ISA_AMX; i++) {
        assert_true(kd_isa_parse(kd_isa_name((kd_isa)i), &isa));
        assert_int_equal(isa, i);
    }
    assert_false(kd_isa_parse("sse9", &isa));
    assert_false(kd_isa_parse(NULL, &isa));
    assert_string_equal(kd_isa_name((kd_isa)99), "unknown");
    assert_int_equal(kd_cpu_isa(), KD_ISA_SCALAR); /* main has set KD_ISA */
    assert_true(kd_cpu_count() >= 1);
    assert_true(strlen(kd_cpu_name()) > 0);
    assert_non_null(strstr(kd_build_info(), KD_MODE));
    assert_true(kd_peak_rss() > 100000);
    double t = kd_now(), c = kd_cpu_seconds();
    while (kd_now() - t < 0.02) continue;
    assert_true(kd_cpu_seconds() >= c);
    assert_true(kd_now() > t);
}

int main(void)
{
    setenv("KD_ISA", "scalar", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_a_sentence_and_an_exit_code),
        cmocka_unit_test(errors_keep_one_sentence),
        cmocka_unit_test(errno_becomes_a_status),
        cmocka_unit_test(long_messages_are_cut_and_marked),
        cmocka_unit_test(pieces_are_aligned_and_zeroed),
        cmocka_unit_test(buffers_grow),
        cmocka_unit_test(philox_gives_the_published_numbers),
        cmocka_unit_test(a_stream_is_its_counter),
        cmocka_unit_test(numbers_below_n_are_uniform),
        cmocka_unit_test(floats_have_their_moments),
        cmocka_unit_test(permutations_hold_every_number_once),
        cmocka_unit_test(hashes_are_xxh3),
        cmocka_unit_test(typing_errors_find_their_word),
        cmocka_unit_test(parts_are_counted_from_one),
        cmocka_unit_test(figures_read_well),
        cmocka_unit_test(the_machine_is_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
