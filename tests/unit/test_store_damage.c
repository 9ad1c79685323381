/* test_store_damage.c - damaged stores: never a signal, never wrong bytes.
 *
 * Each case damages a copy of a small store in one way, then opens it, reads every block and
 * verifies it. Whatever is delivered must be what was written (fx_check_block compares); everything
 * else must be a status with a sentence. The places are drawn from the counter generator, so a
 * failure repeats. KD_DAMAGE=N sets the number of cases of each kind (default 150).
 *
 * The cases run in this process: a crash fails the whole program, which is the point.
 */
#include "store_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

static char dir[64], victim[128], file[160];
static int cases = 150;

typedef struct tally {
    int same, refused, unseen;
} tally;

static char *read_all(const char *path, size_t *len)
{
    char *text;
    OK(kd_file_read(path, 1u << 30, &text, len, err));
    return text;
}

static void write_all(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t)len);
    close(fd);
}

/* Reads everything that can be read. True if nothing was refused. */
static bool read_store(const char *path)
{
    kd_store *s;
    kd_cursor *c;
    kd_err e = {0};
    bool whole = true;
    if (kd_store_open(&s, path, &e)) {
        assert_true(e.msg[0] != 0);
        return false;
    }
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++)
        for (int k = 0; k < (int)kd_store_columns(s); k++)
            if (fx_check_block(s, c, k, 100 + k, i, &e)) {
                assert_true(e.code != KD_OK && e.msg[0]);
                whole = false;
            }
    kd_cursor_close(c);
    kd_store_close(s);
    return whole;
}

/* The pages alone: nothing that the whole check would not see, and everything that opening needs. */
static void judge_pages(kd_status verified)
{
    kd_verify_report r;
    kd_store *s;
    if (kd_store_verify_structure(victim, &r, NULL)) {
        if (!verified) fail_msg("the pages alone were refused: %s", r.first[0].what);
        return;
    }
    OK(kd_store_open(&s, victim, err));
    kd_store_close(s);
}

/* Reads and verifies the victim; verify must see whatever reading sees. */
static void judge(tally *t)
{
    kd_verify_report report;
    kd_err err = {0};
    bool whole = read_store(victim);
    kd_status st = kd_store_verify(victim, 2, &report, NULL, NULL, &err);
    if (st) assert_true(report.damaged > 0 && report.first[0].what[0] && err.msg[0]);
    if (!whole && !st) fail_msg("verify passed a store that cannot be read");
    judge_pages(st);
    if (!whole)
        t->refused++;
    else
        t->same++;
    if (!st) t->unseen++;
}

static void put_back(const char *data, size_t len) { write_all(file, data, len); }

static void report(const char *what, const tally *t)
{
    printf("  %s: %d cases, %d refused by the reader, %d read whole and right, %d pass verify\n", what,
           t->same + t->refused, t->refused, t->same, t->unseen);
}

static void a_whole_store_passes(void **state)
{
    (void)state;
    kd_verify_report r;
    OK(kd_store_verify(victim, 1, &r, NULL, NULL, err));
    assert_int_equal(r.damaged, 0);
    assert_int_equal(r.records, 1 + 8 * FX_COLUMNS);
    assert_true(r.raw_bytes > 0 && r.bytes > 0);
    assert_true(read_store(victim));
}

static void one_flipped_bit(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len);
    tally t = {0};
    for (int i = 0; i < cases; i++) {
        kd_rng g;
        kd_rng_init(&g, 1, KD_RNG_TEST, (uint32_t)i, 0);
        uint64_t bit = kd_rng_below(&g, len * 8);
        data[bit / 8] ^= (char)(1 << bit % 8);
        put_back(data, len);
        judge(&t);
        data[bit / 8] ^= (char)(1 << bit % 8);
    }
    put_back(data, len);
    free(data);
    report("one bit", &t);
    assert_true(t.refused > cases / 3);
}

static void one_byte_in_a_page_header(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len);
    tally t = {0};
    for (int i = 0; i < cases; i++) {
        kd_rng g;
        kd_rng_init(&g, 2, KD_RNG_TEST, (uint32_t)i, 0);
        size_t at = (size_t)kd_rng_below(&g, len / 4096) * 4096 + (size_t)kd_rng_below(&g, 96);
        char was = data[at];
        data[at] = (char)(was + 1 + (char)kd_rng_below(&g, 255));
        put_back(data, len);
        judge(&t);
        data[at] = was;
    }
    put_back(data, len);
    free(data);
    report("one byte in the first 96 of a page", &t);
    assert_true(t.refused > cases / 3);
}

static void truncation(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len);
    tally t = {0};
    for (int i = 0; i < cases; i++) {
        kd_rng g;
        kd_rng_init(&g, 3, KD_RNG_TEST, (uint32_t)i, 0);
        size_t cut = (size_t)kd_rng_below(&g, len);
        if (i % 2) cut &= ~(size_t)4095;
        put_back(data, cut);
        judge(&t);
    }
    put_back(data, len);
    free(data);
    report("truncated", &t);
    assert_int_equal(t.refused, cases);
    assert_int_equal(t.unseen, 0);
}

static void a_zeroed_page(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len), page[4096];
    tally t = {0};
    int pages = (int)(len / 4096);
    for (int i = 0; i < pages; i++) { // all of them
        memcpy(page, data + (size_t)i * 4096, 4096);
        memset(data + (size_t)i * 4096, 0, 4096);
        put_back(data, len);
        judge(&t);
        memcpy(data + (size_t)i * 4096, page, 4096);
    }
    put_back(data, len);
    free(data);
    report("one page zeroed", &t);
    assert_true(t.refused > pages / 2);
}

static void pages_put_in_each_others_place(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len), page[4096];
    tally t = {0};
    for (int i = 0; i < cases; i++) {
        kd_rng g;
        kd_rng_init(&g, 4, KD_RNG_TEST, (uint32_t)i, 0);
        char *a = data + kd_rng_below(&g, len / 4096) * 4096, *b = data + kd_rng_below(&g, len / 4096) * 4096;
        memcpy(page, a, 4096), memmove(a, b, 4096), memcpy(b, page, 4096);
        put_back(data, len);
        judge(&t);
        memcpy(page, a, 4096), memmove(a, b, 4096), memcpy(b, page, 4096);
    }
    put_back(data, len);
    free(data);
    report("two pages exchanged", &t);
}

/* Every byte of the two meta pages, and every byte of the tree's root, in turn. */
static void every_byte_of_the_meta_pages(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len);
    tally t = {0};
    for (size_t i = 0; i < 2 * 152; i++) {
        size_t at = i / 152 * 4096 + i % 152;
        for (int bit = 0; bit < 8; bit += 3) {
            data[at] ^= (char)(1 << bit);
            put_back(data, len);
            judge(&t);
            data[at] ^= (char)(1 << bit);
        }
    }
    put_back(data, len);
    free(data);
    report("meta pages", &t);
}

static void a_changed_manifest_is_refused(void **state)
{
    (void)state;
    char path[200];
    size_t len;
    tally t = {0};
    snprintf(path, sizeof(path), "%s/manifest.json", victim);
    char *data = read_all(path, &len);
    for (int i = 0; i < cases; i++) {
        kd_rng g;
        kd_rng_init(&g, 5, KD_RNG_TEST, (uint32_t)i, 0);
        uint64_t bit = kd_rng_below(&g, (len - 1) * 8); // all but the newline at the end
        data[bit / 8] ^= (char)(1 << bit % 8);
        write_all(path, data, len);
        judge(&t);
        data[bit / 8] ^= (char)(1 << bit % 8);
        write_all(path, data, (size_t)kd_rng_below(&g, len - 1));
        judge(&t);
    }
    write_all(path, data, len);
    free(data);
    report("manifest", &t);
    assert_int_equal(t.refused, 2 * cases);
    assert_int_equal(t.unseen, 0);
}

static void damage_is_named_by_column_chunk_and_rows(void **state)
{
    (void)state;
    size_t len;
    char *data = read_all(file, &len);
    kd_verify_report r;
    kd_store *s;
    kd_cursor *c;
    // The image of chunk 1 has 32 x 132 bytes and was written as noise-free values: find its record.
    uint8_t want[24] = "KDRC\1\1\1\0\1";
    uint32_t column = 2, chunk = 1, rows = 32;
    memcpy(want + 12, &column, 4), memcpy(want + 16, &chunk, 4), memcpy(want + 20, &rows, 4);
    char *at = memmem(data, len, want, sizeof(want));
    assert_non_null(at);
    at[100] ^= 4;
    put_back(data, len);
    FAILS(kd_store_verify(victim, 2, &r, NULL, NULL, err), KD_ECORRUPT,
          "column image, chunk 1, rows 32-63: checksum");
    assert_int_equal(r.damaged, 1);
    OK(kd_store_open(&s, victim, err));
    OK(kd_cursor_open(&c, s, err));
    FAILS(fx_check_block(s, c, 2, 102, 1, err), KD_ECORRUPT, "column image, chunk 1, rows 32-63: checksum");
    OK(fx_check_block(s, c, 2, 102, 0, err)); // and the others are there
    kd_cursor_close(c);
    kd_store_close(s);
    at[100] ^= 4;
    put_back(data, len);
    free(data);
}

/* Records that are whole but of another store: same columns, same sizes. */
static void a_file_of_another_store_is_refused(void **state)
{
    (void)state;
    char other[128], from[200];
    size_t len, mine_len;
    char *mine = read_all(file, &mine_len);
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    kd_store *s;
    json_t *contract = fx_contract();
    json_object_set_new(contract, "seed", json_integer(8));
    snprintf(other, sizeof(other), "%s/other.kd", dir);
    snprintf(from, sizeof(from), "%s/base.mdb", other);
    fx_columns(c);
    OK(kd_store_create(&w, other, c, FX_COLUMNS, contract, &p, err));
    fx_fill(w, c, FX_COLUMNS, 100, 0, fx_chunks(NULL));
    OK(kd_store_writer_seal(w, NULL, err));
    char *data = read_all(from, &len);
    assert_int_equal(len, mine_len);
    put_back(data, len);
    FAILS(kd_store_open(&s, victim, err), KD_EMISMATCH, "not the file that manifest.json names");
    put_back(mine, mine_len);
    free(data);
    free(mine);
    json_decref(contract);
}

static void a_damaged_part_is_not_resumed(void **state)
{
    (void)state;
    char path[128], part[200];
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    size_t len;
    int refused = 0;
    snprintf(path, sizeof(path), "%s/unfinished.kd", dir);
    snprintf(part, sizeof(part), "%s.part/base.mdb.part", path);
    fx_columns(c);
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
    fx_fill(w, c, FX_COLUMNS, 100, 0, 4);
    kd_store_writer_close(w);
    char *data = read_all(part, &len);
    p.resume = true;
    for (int i = 0; i < cases; i++) {
        kd_rng g;
        kd_err e = {0};
        kd_rng_init(&g, 6, KD_RNG_TEST, (uint32_t)i, 0);
        size_t at = (size_t)kd_rng_below(&g, len / 4096) * 4096, cut = len;
        if (i % 3 == 0) cut = at;
        char was[4096];
        memcpy(was, data + at, 4096);
        if (i % 3 == 1) memset(data + at, 0, 4096);
        if (i % 3 == 2) data[at + kd_rng_below(&g, 96)] ^= 0x55;
        write_all(part, data, cut);
        memcpy(data + at, was, 4096);
        if (kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, &e)) {
            assert_true(e.msg[0] != 0);
            refused++;
            continue;
        }
        // Accepted: then going on must lead to a store in which nothing wrong is delivered.
        fx_fill(w, c, FX_COLUMNS, 100, kd_store_writer_chunks(w), fx_chunks(NULL));
        OK(kd_store_writer_seal(w, NULL, err));
        read_store(path);
        OK(kd_remove_tree(path, err));
        char *folder = kd_sprintf("%s.part", path);
        OK(kd_mkdirs(folder, err));
        free(folder);
    }
    printf("  unfinished: %d cases, %d refused\n", cases, refused);
    free(data);
    json_decref(contract);
}

static int set_up(void **state)
{
    (void)state;
    const char *n = getenv("KD_DAMAGE");
    if (n && strtol(n, NULL, 10) > 0) cases = (int)strtol(n, NULL, 10);
    snprintf(dir, sizeof(dir), "/tmp/kd-test-damage-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(victim, sizeof(victim), "%s/v.kd", dir);
    snprintf(file, sizeof(file), "%s/base.mdb", victim);
    fx_make(victim, NULL);
    return chmod(file, 0644);
}

static int tear_down(void **state)
{
    (void)state;
    return kd_remove_tree(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_store_passes),
        cmocka_unit_test(one_flipped_bit),
        cmocka_unit_test(one_byte_in_a_page_header),
        cmocka_unit_test(truncation),
        cmocka_unit_test(a_zeroed_page),
        cmocka_unit_test(pages_put_in_each_others_place),
        cmocka_unit_test(every_byte_of_the_meta_pages),
        cmocka_unit_test(a_changed_manifest_is_refused),
        cmocka_unit_test(damage_is_named_by_column_chunk_and_rows),
        cmocka_unit_test(a_file_of_another_store_is_refused),
        cmocka_unit_test(a_damaged_part_is_not_resumed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
