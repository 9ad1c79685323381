/* test_store.c - writing, reading, resuming and extending stores. */
#include "store_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[64]; // of this run; removed at the end

static const char *in_dir(const char *name)
{
    static char path[32][160];
    static int turn;
    char *p = path[turn++ % 32];
    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

static void check_all(const char *path)
{
    kd_store *s;
    kd_cursor *c;
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t chunk = 0; chunk < kd_store_chunks(s); chunk++)
        for (int k = 0; k < FX_COLUMNS; k++) OK(fx_check_block(s, c, k, 100 + k, chunk, err));
    for (int k = 0; k < FX_COLUMNS; k++) assert_int_equal(kd_store_reads(s, k), kd_store_chunks(s));
    kd_cursor_close(c);
    kd_store_close(s);
}

static void every_dtype_and_ragged_column_comes_back_as_written(void **state)
{
    (void)state;
    fx_make(in_dir("all.kd"), NULL);
    check_all(in_dir("all.kd"));
}

static void a_store_says_what_it_holds(void **state)
{
    (void)state;
    kd_store *s;
    kd_chunk_info want[64];
    uint32_t n = fx_chunks(want);
    OK(kd_store_open(&s, in_dir("all.kd/"), err));
    assert_int_equal(kd_store_rows(s), 173);
    assert_int_equal(kd_store_chunks(s), n);
    assert_int_equal(kd_store_columns(s), FX_COLUMNS);
    for (int k = 0; k < KD_SPLITS; k++) assert_int_equal(kd_store_split_rows(s, (kd_split)k), fx_rows[k]);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(kd_store_chunk(s, i)->first, want[i].first);
        assert_int_equal(kd_store_chunk(s, i)->rows, want[i].rows);
        assert_int_equal(kd_store_chunk(s, i)->split, want[i].split);
    }
    assert_null(kd_store_chunk(s, n));
    assert_int_equal(kd_store_find(s, "tokens"), 14);
    assert_int_equal(kd_store_find(s, "nothing"), -1);
    assert_int_equal(kd_store_find_role(s, KD_ROLE_LOGITS, NULL), 12);
    assert_int_equal(kd_store_find_role(s, KD_ROLE_LOGITS, "big"), -1);
    assert_string_equal(kd_store_column(s, 12)->filter, "shuffle");
    assert_string_equal(kd_store_column(s, 11)->filter, "exponent");
    assert_string_equal(kd_store_column(s, 2)->filter, "none");
    assert_string_equal(kd_store_column(s, 2)->segment, "base");
    assert_int_equal(strlen(kd_store_root(s)), 32);
    kd_store_close(s);
}

static void roots_of(const char *a, const char *b, bool same)
{
    kd_store *x, *y;
    OK(kd_store_open(&x, a, err));
    OK(kd_store_open(&y, b, err));
    if (same)
        assert_string_equal(kd_store_root(x), kd_store_root(y));
    else
        assert_string_not_equal(kd_store_root(x), kd_store_root(y));
    kd_store_close(x);
    kd_store_close(y);
}

static void threads_and_transactions_do_not_show_in_the_root(void **state)
{
    (void)state;
    kd_writer_params p = fx_params();
    p.threads = 3;
    p.commit_bytes = 1 << 20;
    fx_make(in_dir("threads.kd"), &p);
    roots_of(in_dir("threads.kd"), in_dir("all.kd"), true);
    check_all(in_dir("threads.kd"));
    p.level = 5;
    fx_make(in_dir("level.kd"), &p);
    roots_of(in_dir("level.kd"), in_dir("all.kd"), false);
}

static void a_resumed_store_equals_the_uninterrupted_one(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    const char *path = in_dir("resumed.kd");
    uint32_t n = fx_chunks(NULL);
    fx_columns(c);
    for (uint32_t i = 0; i < n; i++) { // one chunk a run
        OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
        assert_int_equal(kd_store_writer_chunks(w), i);
        fx_fill(w, c, FX_COLUMNS, 100, i, i + 1);
        kd_store_writer_close(w);
        FAILS((kd_store_open(&(kd_store *){0}, path, err)), KD_ENOTFOUND, "--resume");
        if (!i) FAILS(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err), KD_EEXISTS, "--resume");
        p.resume = true;
    }
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
    assert_int_equal(kd_store_writer_rows(w), 173);
    OK(kd_store_writer_seal(w, NULL, err));
    roots_of(path, in_dir("all.kd"), true);
    check_all(path);
    json_decref(contract);
}

/* A child writes and is killed; what it had committed is there. */
static void a_killed_writer_loses_no_committed_chunk(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    const char *path = in_dir("killed.kd");
    p.commit_bytes = 1 << 20; // only the explicit commit below
    fx_columns(c);
    pid_t pid = fork();
    if (!pid) {
        if (kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, NULL)) _exit(1);
        fx_fill(w, c, FX_COLUMNS, 100, 0, 3);
        if (kd_store_writer_commit(w, NULL)) _exit(1);
        fx_fill(w, c, FX_COLUMNS, 100, 3, 5);
        _exit(9);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 9);
    p.resume = true;
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
    assert_int_equal(kd_store_writer_chunks(w), 3);
    fx_fill(w, c, FX_COLUMNS, 100, 3, fx_chunks(NULL));
    OK(kd_store_writer_seal(w, NULL, err));
    roots_of(path, in_dir("all.kd"), true);
    json_decref(contract);
}

static void a_store_stopped_while_sealing_is_finished_by_resume(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    const char *path = in_dir("sealing.kd");
    char part[200];
    fx_make(path, NULL);
    snprintf(part, sizeof(part), "%s.part", path);
    fx_columns(c);
    // As if killed before the folder's rename, then before the manifest.
    for (int step = 0; step < 2; step++) {
        assert_int_equal(rename(path, part), 0);
        if (step) {
            char manifest[240];
            snprintf(manifest, sizeof(manifest), "%s/manifest.json", part);
            assert_int_equal(unlink(manifest), 0);
        }
        p.resume = false;
        FAILS(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err), KD_EEXISTS, "--resume");
        p.resume = true;
        OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
        assert_int_equal(kd_store_writer_chunks(w), fx_chunks(NULL));
        OK(kd_store_writer_seal(w, NULL, err));
        roots_of(path, in_dir("all.kd"), true);
    }
    json_decref(contract);
}

static void a_resume_with_another_contract_names_the_difference(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    const char *path = in_dir("contract.kd");
    fx_columns(c);
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
    fx_fill(w, c, FX_COLUMNS, 100, 0, 2);
    kd_store_writer_close(w);
    p.resume = true;
    json_object_set_new(json_object_get(contract, "options"), "valid", json_real(0.25));
    FAILS(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err), KD_EMISMATCH,
          "contract.options.valid was 0.2");
    json_decref(contract);
    contract = fx_contract();
    p.level = 9;
    FAILS(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err), KD_EMISMATCH, "level");
    p.level = 3;
    p.chunk_rows = 64;
    FAILS(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err), KD_EMISMATCH, "chunk_rows was 32");
    p.chunk_rows = FX_CHUNK_ROWS;
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err)); // and with the first one it goes on
    assert_int_equal(kd_store_writer_chunks(w), 2);
    kd_store_writer_close(w);
    json_decref(contract);
}

static void an_existing_store_is_replaced_only_by_force(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    fx_columns(c);
    fx_make(in_dir("again.kd"), NULL);
    FAILS(kd_store_create(&w, in_dir("again.kd"), c, FX_COLUMNS, contract, &p, err), KD_EEXISTS, "--force");
    p.force = true;
    p.level = 9;
    fx_make(in_dir("again.kd"), &p);
    roots_of(in_dir("again.kd"), in_dir("all.kd"), false);
    check_all(in_dir("again.kd"));
    assert_false(kd_exists(in_dir("again.kd.part")));
    json_decref(contract);
}

static void two_writers_of_one_store_are_refused(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *a, *b;
    fx_columns(c);
    OK(kd_store_create(&a, in_dir("two.kd"), c, FX_COLUMNS, NULL, &p, err));
    p.force = true;
    FAILS(kd_store_create(&b, in_dir("two.kd"), c, FX_COLUMNS, NULL, &p, err), KD_EEXISTS, "another process");
    kd_store_writer_close(a);
}

/* ---- extending ---------------------------------------------------------------------------- */

enum { EXT = 2 };
static void ext_columns(kd_column c[EXT], const char *teacher)
{
    char name[KD_STORE_NAME_MAX];
    snprintf(name, sizeof(name), "%s/logits", teacher);
    fx_column(&c[0], name, KD_ROLE_LOGITS, KD_F32, 1, 10, 0);
    snprintf(name, sizeof(name), "%s/feat", teacher);
    fx_column(&c[1], name, KD_ROLE_FEATURE, KD_F16, 2, -1, 3);
    for (int i = 0; i < EXT; i++) snprintf(c[i].teacher, sizeof(c[i].teacher), "%s", teacher);
    snprintf(c[1].tap, sizeof(c[1].tap), "block3");
}

static void extend(const char *path, const char *teacher, int salt, kd_writer_params p)
{
    kd_store *s;
    kd_store_writer *w;
    kd_column c[EXT];
    json_t *contract = json_pack("{s:s}", "teacher", teacher), *extra;
    ext_columns(c, teacher);
    extra = json_pack("{s:{s:s, s:s}, s:s}", "teacher", "name", teacher, "fingerprint", "0123", "command",
                      "test");
    OK(kd_store_open(&s, path, err));
    OK(kd_store_extend(&w, s, teacher, c, EXT, contract, &p, err));
    fx_fill(w, c, EXT, salt, kd_store_writer_chunks(w), kd_store_chunks(s));
    OK(kd_store_writer_seal(w, extra, err));
    kd_store_close(s);
    json_decref(contract);
    json_decref(extra);
}

static void a_teacher_is_added_while_a_reader_goes_on(void **state)
{
    (void)state;
    kd_store *before, *after;
    kd_cursor *c;
    const char *path = in_dir("grown.kd");
    struct stat was, is;
    char base[200];
    fx_make(path, NULL);
    snprintf(base, sizeof(base), "%s/base.mdb", path);
    assert_int_equal(stat(base, &was), 0);
    assert_int_equal(was.st_mode & 0777, 0444);
    OK(kd_store_open(&before, path, err));
    OK(kd_cursor_open(&c, before, err));
    extend(path, "big", 300, fx_params());
    extend(path, "small", 400, fx_params());
    for (uint32_t i = 0; i < kd_store_chunks(before); i++) OK(fx_check_block(before, c, 2, 102, i, err));
    assert_int_equal(kd_store_columns(before), FX_COLUMNS);
    kd_cursor_close(c);
    assert_int_equal(stat(base, &is), 0);
    assert_int_equal(was.st_mtim.tv_nsec, is.st_mtim.tv_nsec);

    OK(kd_store_open(&after, path, err));
    OK(kd_cursor_open(&c, after, err));
    assert_int_equal(kd_store_columns(after), FX_COLUMNS + 2 * EXT);
    int big = kd_store_find(after, "big/logits"), small = kd_store_find_role(after, KD_ROLE_FEATURE, "small");
    assert_int_equal(big, FX_COLUMNS);
    assert_int_equal(small, FX_COLUMNS + 3);
    for (uint32_t i = 0; i < kd_store_chunks(after); i++) {
        OK(fx_check_block(after, c, big, 300, i, err));
        OK(fx_check_block(after, c, small, 401, i, err));
        OK(fx_check_block(after, c, 12, 112, i, err));
    }
    assert_string_equal(json_string_value(json_object_get(kd_store_teacher(after, "big"), "fingerprint")),
                        "0123");
    assert_null(kd_store_teacher(after, "huge"));
    assert_string_equal(kd_store_column(after, (size_t)small)->tap, "block3");
    assert_string_not_equal(kd_store_root(before), kd_store_root(after));
    kd_cursor_close(c);
    kd_store_close(before);
    kd_store_close(after);
}

static void an_extension_resumes_and_refuses_what_does_not_fit(void **state)
{
    (void)state;
    kd_store *s;
    kd_store_writer *w;
    kd_column c[EXT];
    kd_writer_params p = fx_params();
    kd_chunk_info i[64];
    json_t *contract = json_pack("{s:s}", "teacher", "big");
    uint32_t n = fx_chunks(i);
    const char *path = in_dir("ext.kd");
    fx_make(path, NULL);
    ext_columns(c, "big");
    OK(kd_store_open(&s, path, err));
    OK(kd_store_extend(&w, s, "big", c, EXT, contract, &p, err));
    i[0].rows--;
    FAILS(fx_append(w, c, EXT, 300, &i[0], err), KD_EMISMATCH, "chunk 0 has 31 rows");
    i[0].rows++;
    fx_fill(w, c, EXT, 300, 0, 4);
    FAILS(kd_store_writer_seal(w, NULL, err), KD_EMISMATCH, "4 chunks of 8");
    FAILS(kd_store_extend(&w, s, "big", c, EXT, contract, &p, err), KD_EEXISTS, "--resume");
    FAILS(kd_store_extend(&w, s, "base", c, EXT, contract, &p, err), KD_EEXISTS, "base");
    FAILS(kd_store_extend(&w, s, "Big", c, EXT, contract, &p, err), KD_EUSAGE, "segment name");
    p.resume = true;
    OK(kd_store_extend(&w, s, "big", c, EXT, contract, &p, err));
    assert_int_equal(kd_store_writer_chunks(w), 4);
    fx_fill(w, c, EXT, 300, 4, n);
    FAILS(fx_append(w, c, EXT, 300, &i[0], err), KD_EUSAGE, "a chunk too many");
    OK(kd_store_writer_seal(w, NULL, err));
    kd_store_close(s);
    fx_make(in_dir("ext2.kd"), NULL);
    extend(in_dir("ext2.kd"), "big", 300, fx_params());
    roots_of(path, in_dir("ext2.kd"), true);

    OK(kd_store_open(&s, path, err));
    FAILS(kd_store_extend(&w, s, "big", c, EXT, contract, &p, err), KD_EEXISTS, "--force");
    FAILS(kd_store_extend(&w, s, "other", c, EXT, contract, &p, err), KD_EEXISTS,
          "'big/logits' is already there");
    kd_store_close(s);
    p.resume = false;
    p.force = true;
    extend(path, "big", 500, p); // replaced, under another file name
    roots_of(path, in_dir("ext2.kd"), false);
    assert_false(kd_exists(in_dir("ext.kd/big.mdb")));
    json_decref(contract);
}

/* Killed between the rename of big.mdb and the manifest that names it. */
static void an_extension_stopped_while_sealing_is_finished_by_resume(void **state)
{
    (void)state;
    char manifest[200], *before;
    size_t len;
    kd_writer_params p = fx_params();
    kd_store *s;
    kd_store_writer *w;
    kd_column c[EXT];
    json_t *contract = json_pack("{s:s}", "teacher", "big");
    const char *path = in_dir("orphan.kd");
    fx_make(path, NULL);
    snprintf(manifest, sizeof(manifest), "%s/manifest.json", path);
    OK(kd_file_read(manifest, 1 << 20, &before, &len, err));
    extend(path, "big", 300, p);
    OK(kd_file_write(manifest, before, len, err));
    ext_columns(c, "big");
    OK(kd_store_open(&s, path, err));
    assert_int_equal(kd_store_columns(s), FX_COLUMNS);
    FAILS(kd_store_extend(&w, s, "big", c, EXT, contract, &p, err), KD_EEXISTS, "--resume finishes it");
    p.resume = true;
    OK(kd_store_extend(&w, s, "big", c, EXT, contract, &p, err));
    assert_int_equal(kd_store_writer_chunks(w), kd_store_chunks(s));
    OK(kd_store_writer_seal(w, NULL, err));
    kd_store_close(s);
    roots_of(path, in_dir("ext2.kd"), true);
    json_decref(contract);
    free(before);
}

/* ---- bad arguments ------------------------------------------------------------------------ */

static void wrong_columns_are_refused(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    const char *path = in_dir("bad.kd");
    fx_columns(c);
    FAILS(kd_store_create(&w, path, c, 1, NULL, &p, err), KD_EUSAGE, "role split");
    FAILS(kd_store_create(&w, path, c, 0, NULL, &p, err), KD_EUSAGE, "0 columns");
    snprintf(c[3].name, sizeof(c[3].name), "image");
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE, "'image'");
    snprintf(c[3].name, sizeof(c[3].name), "Image");
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE, "its name");
    fx_columns(c);
    snprintf(c[3].encoding, sizeof(c[3].encoding), "wavelet");
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUNSUPPORTED, "wavelet");
    fx_columns(c);
    snprintf(c[3].filter, sizeof(c[3].filter), "delta");
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUNSUPPORTED, "delta");
    fx_columns(c);
    snprintf(c[2].filter, sizeof(c[2].filter), "exponent");
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE, "needs dtype bf16, not u8");
    fx_columns(c);
    c[3].role = KD_ROLE_MASK;
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE,
          "the role mask needs u8 with shape [-1]");
    fx_columns(c);
    c[2].dims[0] = c[2].dims[1] = 1 << 20;
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE, "1 GiB");
    fx_columns(c);
    c[2].dims[1] = -1;
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE, "axis");
    fx_columns(c);
    c[0].dtype = KD_U32;
    FAILS(kd_store_create(&w, path, c, 4, NULL, &p, err), KD_EUSAGE, "role id");
    assert_false(kd_exists(in_dir("bad.kd.part"))); // nothing was touched
}

static void wrong_blocks_are_refused(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    uint8_t data[64 * 16] = {0};
    uint32_t lengths[4] = {1, 2, 0, 1};
    kd_block b[3] = {{data, 4 * 16, NULL}, {data, 4, NULL}, {data, 16, lengths}};
    fx_columns(c);
    fx_column(&c[2], "tokens", KD_ROLE_INPUT, KD_I32, 1, -1, 0);
    OK(kd_store_create(&w, in_dir("blocks.kd"), c, 3, NULL, &p, err));
    b[0].bytes--;
    FAILS(kd_store_writer_append(w, KD_TRAIN, 4, b, err), KD_EUSAGE, "block of 63 bytes, expected 64");
    b[0].bytes++;
    b[2].bytes = 12;
    FAILS(kd_store_writer_append(w, KD_TRAIN, 4, b, err), KD_EUSAGE,
          "column tokens: block of 12 bytes, expected 16");
    b[2] = (kd_block){data, 16, NULL};
    FAILS(kd_store_writer_append(w, KD_TRAIN, 4, b, err), KD_EUSAGE, "its blocks need lengths");
    b[2].lengths = lengths;
    b[1].lengths = lengths;
    FAILS(kd_store_writer_append(w, KD_TRAIN, 4, b, err), KD_EUSAGE, "its blocks take no lengths");
    b[1].lengths = NULL;
    FAILS(kd_store_writer_append(w, KD_VALID, 4, b, err), KD_EUSAGE, "split valid: row 0");
    FAILS(kd_store_writer_append(w, KD_TRAIN, 33, b, err), KD_EUSAGE, "33 rows");
    FAILS(kd_store_writer_append(w, KD_TRAIN, 0, b, err), KD_EUSAGE, "0 rows");
    OK(kd_store_writer_append(w, KD_TRAIN, 4, b, err));
    OK(kd_store_writer_append(w, KD_TRAIN, 4, b, err)); // short chunks may stand anywhere
    OK(kd_store_writer_seal(w, NULL, err));
    OK(kd_store_create(&w, in_dir("empty.kd"), c, 3, NULL, &p, err));
    FAILS(kd_store_writer_seal(w, NULL, err), KD_EUSAGE, "at least one row");
}

/* Values of any column as f32, and how many positions a chunk has. */
static void every_dense_column_is_read_as_f32(void **state)
{
    (void)state;
    static float got[32 * 300], want[32 * 300];
    uint32_t lengths[FX_CHUNK_ROWS];
    kd_store *s;
    kd_cursor *c;
    OK(kd_store_open(&s, in_dir("all.kd"), err));
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t chunk = 0; chunk < kd_store_chunks(s); chunk++)
        for (int k = 0; k < FX_COLUMNS; k++) {
            const kd_column *col = kd_store_column(s, (size_t)k);
            const kd_chunk_info *info = kd_store_chunk(s, chunk);
            const uint64_t before = kd_store_reads(s, k);
            size_t size, head, positions, sum = 0, width = kd_column_width(col);
            uint8_t *block = fx_block(col, 100 + k, info, &size, &head);
            OK(kd_cursor_lengths(c, k, chunk, lengths, &positions, err));
            for (uint32_t i = 0; i < info->rows; i++) {
                if (head) assert_memory_equal(&lengths[i], block + 4 * i, 4);
                sum += lengths[i];
            }
            assert_int_equal(positions, sum * kd_column_each(col));
            assert_int_equal(positions * width * kd_dtype_size(col->dtype), size - head);
            OK(kd_cursor_read_f32(c, k, chunk, got, positions, err));
            assert_int_equal(kd_to_f32(want, block + head, col->dtype, positions * width), KD_OK);
            assert_memory_equal(got, want, positions * width * sizeof(float));
            assert_int_equal(kd_store_reads(s, k), before + 1); // lengths and values: decoded once
            FAILS(kd_cursor_read_f32(c, k, chunk, got, positions + 1, err), KD_EUSAGE, "positions");
            free(block);
        }
    kd_sparse sparse = {0};
    FAILS(kd_cursor_read_sparse(c, 12, 0, &sparse, err), KD_EUNSUPPORTED, "t/logits is dense");
    FAILS(kd_cursor_lengths(c, FX_COLUMNS, 0, NULL, &(size_t){0}, err), KD_EUSAGE, "column 18");
    kd_cursor_close(c);
    kd_store_close(s);
}

static void columns_know_their_positions(void **state)
{
    (void)state;
    const struct {
        int ndims;
        int64_t dims[3];
        size_t each, width;
    } cases[] = {{0, {0}, 1, 1},       {1, {10}, 1, 10},        {2, {4, 10}, 4, 10},   {1, {-1}, 1, 1},
                 {2, {-1, 10}, 1, 10}, {3, {-1, 4, 10}, 4, 10}, {3, {2, 4, 10}, 8, 10}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        kd_column c = {.ndims = cases[i].ndims};
        memcpy(c.dims, cases[i].dims, sizeof(cases[i].dims));
        assert_int_equal(kd_column_each(&c), cases[i].each);
        assert_int_equal(kd_column_width(&c), cases[i].width);
    }
}

/* What planning expects is what a store takes. */
static void packed_bytes_are_those_of_the_store(void **state)
{
    (void)state;
    kd_store *s;
    kd_column c[FX_COLUMNS];
    kd_chunk_info info[64];
    uint32_t n = fx_chunks(info);
    fx_columns(c);
    OK(kd_store_open(&s, in_dir("all.kd"), err));
    for (int k = 0; k < FX_COLUMNS; k++) {
        uint64_t raw, stored, sum = 0;
        OK(kd_store_column_bytes(s, k, &raw, &stored, err));
        for (uint32_t i = 0; i < n; i++) {
            size_t size, head, packed;
            uint8_t *block = fx_block(&c[k], 100 + k, &info[i], &size, &head);
            const kd_block b = {block + head, size - head, head ? (uint32_t *)(void *)block : NULL};
            OK(kd_block_packed_bytes(&c[k], info[i].rows, &b, 3, &packed, err));
            sum += packed;
            free(block);
        }
        assert_int_equal(sum, stored);
    }
    kd_store_close(s);
}

static void wrong_reads_are_refused(void **state)
{
    (void)state;
    kd_store *s;
    kd_cursor *c;
    uint8_t out[8];
    size_t size;
    FAILS(kd_store_open(&s, in_dir("nowhere.kd"), err), KD_ENOTFOUND, "no such store");
    FAILS(kd_store_open(&s, dir, err), KD_ENOTFOUND, "manifest.json");
    OK(kd_store_open(&s, in_dir("all.kd"), err));
    OK(kd_cursor_open(&c, s, err));
    FAILS(kd_cursor_size(c, -1, 0, &size, err), KD_EUSAGE, "column -1");
    FAILS(kd_cursor_size(c, 0, 1000, &size, err), KD_EUSAGE, "chunk 1000");
    FAILS(kd_cursor_read(c, 0, 0, out, 8, err), KD_EUSAGE, "buffer of 8 bytes for a block of 512");
    kd_cursor_close(c);
    kd_store_close(s);
}

/* Large enough to pass the writer's first map of 16 MiB twice, in groups of several megabytes. */
static void the_map_grows_without_losing_a_chunk(void **state)
{
    (void)state;
    enum { ROWS = 64, CHUNKS = 300, BYTES = 4096 };
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    kd_store *s;
    kd_cursor *cur;
    kd_rng g;
    static uint32_t noise[ROWS * BYTES / 4], back[ROWS * BYTES / 4];
    uint8_t id[ROWS * 16] = {0}, split[ROWS] = {0};
    p.chunk_rows = ROWS;
    p.commit_bytes = 6 << 20;
    fx_columns(c);
    fx_column(&c[2], "noise", KD_ROLE_INPUT, KD_U8, 1, BYTES, 0);
    OK(kd_store_create(&w, in_dir("large.kd"), c, 3, NULL, &p, err));
    for (uint32_t k = 0; k < CHUNKS; k++) {
        kd_rng_init(&g, k, KD_RNG_TEST, 0, 0);
        for (size_t i = 0; i < ROWS * BYTES / 4; i++) noise[i] = kd_rng_u32(&g);
        kd_block b[3] = {{id, sizeof(id), NULL}, {split, sizeof(split), NULL}, {noise, sizeof(noise), NULL}};
        OK(kd_store_writer_append(w, KD_TRAIN, ROWS, b, err));
    }
    OK(kd_store_writer_seal(w, NULL, err));
    OK(kd_store_open(&s, in_dir("large.kd"), err));
    assert_true(kd_store_bytes(s) > 64u << 20);
    OK(kd_cursor_open(&cur, s, err));
    for (uint32_t k = 0; k < CHUNKS; k += 7) {
        kd_rng_init(&g, k, KD_RNG_TEST, 0, 0);
        for (size_t i = 0; i < ROWS * BYTES / 4; i++) noise[i] = kd_rng_u32(&g);
        OK(kd_cursor_read(cur, 2, k, back, sizeof(back), err));
        assert_memory_equal(noise, back, sizeof(back));
    }
    kd_cursor_close(cur);
    kd_store_close(s);
}

/* A limit on the size of files stands in for a full disk (tests/cli/store_full.sh has a real one). */
static void a_full_disk_keeps_what_was_committed(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *contract = fx_contract();
    kd_chunk_info i[64];
    struct rlimit was, limit;
    uint32_t n = fx_chunks(i), k, committed;
    const char *path = in_dir("full.kd");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    fx_columns(c);
    for (rlim_t bytes = 9000; bytes < 140000; bytes += 10007) {
        kd_err e = {0};
        kd_status st = KD_OK;
        limit = (struct rlimit){.rlim_cur = bytes, .rlim_max = was.rlim_max};
        signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        p.force = true;
        p.resume = false;
        st = kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, &e);
        committed = 0;
        for (k = 0; !st && k < n; k++) {
            st = fx_append(w, c, FX_COLUMNS, 100, &i[k], &e);
            if (!st) st = kd_store_writer_commit(w, &e);
            committed += !st;
        }
        bool begun = k > 0;
        if (begun && st) FAILS(kd_store_writer_append(w, KD_TRAIN, 1, NULL, err), KD_EIO, "--resume");
        if (begun) kd_store_writer_close(w);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(st, KD_EFULL);
        assert_int_equal(e.code, KD_EFULL);
        assert_non_null(strstr(e.msg, "safe there"));
        p.force = false;
        p.resume = true;
        OK(kd_store_create(&w, path, c, FX_COLUMNS, contract, &p, err));
        assert_int_equal(kd_store_writer_chunks(w), committed);
        fx_fill(w, c, FX_COLUMNS, 100, committed, n);
        OK(kd_store_writer_seal(w, NULL, err));
        roots_of(path, in_dir("all.kd"), true);
        OK(kd_remove_tree(path, err));
    }
    json_decref(contract);
}

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/kd-test-store-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    return kd_remove_tree(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_and_ragged_column_comes_back_as_written),
        cmocka_unit_test(a_store_says_what_it_holds),
        cmocka_unit_test(threads_and_transactions_do_not_show_in_the_root),
        cmocka_unit_test(a_resumed_store_equals_the_uninterrupted_one),
        cmocka_unit_test(a_killed_writer_loses_no_committed_chunk),
        cmocka_unit_test(a_store_stopped_while_sealing_is_finished_by_resume),
        cmocka_unit_test(a_resume_with_another_contract_names_the_difference),
        cmocka_unit_test(an_existing_store_is_replaced_only_by_force),
        cmocka_unit_test(two_writers_of_one_store_are_refused),
        cmocka_unit_test(a_teacher_is_added_while_a_reader_goes_on),
        cmocka_unit_test(an_extension_resumes_and_refuses_what_does_not_fit),
        cmocka_unit_test(an_extension_stopped_while_sealing_is_finished_by_resume),
        cmocka_unit_test(wrong_columns_are_refused),
        cmocka_unit_test(wrong_blocks_are_refused),
        cmocka_unit_test(every_dense_column_is_read_as_f32),
        cmocka_unit_test(columns_know_their_positions),
        cmocka_unit_test(packed_bytes_are_those_of_the_store),
        cmocka_unit_test(wrong_reads_are_refused),
        cmocka_unit_test(a_full_disk_keeps_what_was_committed),
        cmocka_unit_test(the_map_grows_without_losing_a_chunk),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
