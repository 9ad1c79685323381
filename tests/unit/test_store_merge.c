/* test_store_merge.c - stores cut into parts, merged, compacted.
 *
 * Values of the fixture are a pure function of (column, row number); a store may be filled with any window of
 * row numbers, so every merged row can be compared with what it must be. The teacher's columns are encoded,
 * fixed and ragged, and a pure function of the row's id: whichever part a row is in, it gets the same bytes.
 */
#include "store_fixture.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[64][160];
    static int turn;
    char *p = path[turn = (turn + 1) % 64];
    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

/* ---- stores ------------------------------------------------------------------------------- */

/* A store of these chunks; first is the row number that values are made from. */
static void make_window(const char *path, const kd_chunk_info *chunk, uint32_t n, const json_t *contract)
{
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    json_t *usual = fx_contract();
    fx_columns(c);
    OK(kd_store_create(&w, path, c, FX_COLUMNS, contract ? contract : usual, &p, err));
    for (uint32_t i = 0; i < n; i++) OK(fx_append(w, c, FX_COLUMNS, 100, &chunk[i], err));
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(usual);
}

/* One row's numbers from its id. */
static uint32_t numbers(const kd_id *id, uint32_t column, float *out, uint32_t each, uint32_t most)
{
    kd_rng g;
    uint64_t seed;
    memcpy(&seed, id->b, 8);
    kd_rng_init(&g, seed, KD_RNG_TEST, column, 0);
    const uint32_t length = most ? (uint32_t)kd_rng_below(&g, most) : 1;
    for (uint32_t i = 0; i < length * each; i++) out[i] = kd_rng_normal(&g);
    return length;
}

static void append_outputs(kd_store_writer *w, kd_store *s, kd_cursor *cur, uint32_t chunk,
                           const kd_column *c)
{
    const kd_chunk_info *ci = kd_store_chunk(s, chunk);
    kd_id id[FX_CHUNK_ROWS];
    float logits[FX_CHUNK_ROWS * 10], ragged[FX_CHUNK_ROWS * 7 * 5];
    uint32_t lengths[FX_CHUNK_ROWS], n = 0;
    kd_buf a = {0}, b = {0};
    kd_codec *codec;
    OK(kd_cursor_read(cur, 0, chunk, id, ci->rows * sizeof(id[0]), err));
    for (uint32_t r = 0; r < ci->rows; r++) {
        numbers(&id[r], 0, logits + 10 * (size_t)r, 10, 0);
        n += lengths[r] = numbers(&id[r], 1, ragged + 5 * (size_t)n, 5, 8);
    }
    kd_codec_block block = {.values = logits, .rows = ci->rows, .each = 1, .ids = id};
    OK(kd_column_codec(&codec, &c[0], err));
    OK(kd_codec_encode(codec, &block, 1, &a, err));
    kd_codec_close(codec);
    block = (kd_codec_block){.values = ragged, .rows = ci->rows, .lengths = lengths, .each = 1, .ids = id};
    OK(kd_column_codec(&codec, &c[1], err));
    OK(kd_codec_encode(codec, &block, 1, &b, err));
    kd_codec_close(codec);
    const kd_block out[2] = {{.data = a.text, .bytes = a.len},
                             {.data = b.text, .bytes = b.len, .lengths = lengths}};
    OK(kd_store_writer_append(w, ci->split, ci->rows, out, err));
    kd_buf_release(&a);
    kd_buf_release(&b);
}

/* Adds a segment as kd-dump does: the contract names the rows by the root of the base segment. */
static void add_teacher(const char *path, const char *fingerprint)
{
    kd_store *s;
    kd_cursor *cur;
    kd_store_writer *w;
    kd_writer_params p = fx_params();
    kd_column c[2];
    fx_column(&c[0], "big/logits", KD_ROLE_LOGITS, KD_F32, 1, 10, 0);
    fx_column(&c[1], "big/feat.x", KD_ROLE_FEATURE, KD_F32, 2, -1, 5);
    for (int i = 0; i < 2; i++) snprintf(c[i].encoding, sizeof(c[i].encoding), "int8");
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    json_t *contract =
        json_pack("{s:s, s:O}", "teacher", fingerprint, "store", json_object_get(base, "root"));
    json_t *extra = json_pack("{s:{s:s, s:s, s:f, s:i}}", "teacher", "name", "big", "fingerprint",
                              fingerprint, "seconds", 1.5, "seconds_rows", 10);
    OK(kd_store_extend(&w, s, "big", c, 2, contract, &p, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) append_outputs(w, s, cur, i, c);
    OK(kd_store_writer_seal(w, extra, err));
    json_decref(contract);
    json_decref(extra);
    kd_cursor_close(cur);
    kd_store_close(s);
}

static char *root_of(const char *path)
{
    kd_store *s;
    OK(kd_store_open(&s, path, err));
    char *root = kd_strdup(kd_store_root(s));
    kd_store_close(s);
    return root;
}

static void same_root(const char *a, const char *b)
{
    char *of_a = root_of(a), *of_b = root_of(b);
    assert_string_equal(of_a, of_b);
    free(of_a);
    free(of_b);
}

static void is_whole(const char *path)
{
    kd_verify_report r;
    OK(kd_store_verify(path, 2, &r, NULL, NULL, err));
    assert_int_equal(r.damaged, 0);
}

/* ---- what rows must be -------------------------------------------------------------------- */

/* Bytes of row r in a block as kd_cursor_read gives it. */
static const uint8_t *row_bytes(const kd_column *c, const uint8_t *block, uint32_t rows, uint32_t r,
                                size_t *n)
{
    size_t unit = kd_dtype_size(c->dtype), before = r;
    const bool ragged = c->ndims && c->dims[0] == -1;
    for (int k = ragged ? 1 : 0; k < c->ndims; k++) unit *= (size_t)c->dims[k];
    *n = unit;
    if (!ragged) return block + before * unit;
    uint32_t length;
    before = 0;
    for (uint32_t i = 0; i <= r; i++) {
        memcpy(&length, block + 4 * (size_t)i, 4);
        if (i < r) before += length;
    }
    *n = length * unit;
    return block + 4 * (size_t)rows + before * unit;
}

/* The store's rows are those with these numbers, in this order, in every column of the fixture. */
static void has_rows(const char *path, const uint32_t *number, uint32_t n)
{
    kd_store *s;
    kd_cursor *cur;
    kd_column c[FX_COLUMNS];
    fx_columns(c);
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    assert_int_equal(kd_store_rows(s), n);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++)
        for (int k = 0; k < FX_COLUMNS; k++) {
            const kd_chunk_info *ci = kd_store_chunk(s, i);
            size_t size, have, want, want_size, head;
            OK(kd_cursor_size(cur, k, i, &size, err));
            uint8_t *block = malloc(size + 1);
            OK(kd_cursor_read(cur, k, i, block, size, err));
            for (uint32_t r = 0; r < ci->rows; r++) {
                const kd_chunk_info one = {.first = number[ci->first + r], .rows = 1, .split = ci->split};
                uint8_t *row = fx_block(&c[k], 100 + k, &one, &want_size, &head);
                const uint8_t *got = row_bytes(&c[k], block, ci->rows, r, &have);
                const uint8_t *wanted = row_bytes(&c[k], row, 1, 0, &want);
                assert_int_equal(have, want);
                assert_memory_equal(got, wanted, want);
                free(row);
            }
            free(block);
        }
    kd_cursor_close(cur);
    kd_store_close(s);
}

/* The teacher's outputs are those of their rows' ids, within what int8 keeps. */
static void has_outputs(const char *path)
{
    kd_store *s;
    kd_cursor *cur;
    OK(kd_store_open(&s, path, err));
    OK(kd_cursor_open(&cur, s, err));
    for (int k = 0; k < 2; k++) {
        const int column = kd_store_find(s, k ? "big/feat.x" : "big/logits");
        const uint32_t each = k ? 5 : 10;
        for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
            const kd_chunk_info *ci = kd_store_chunk(s, i);
            kd_id id[FX_CHUNK_ROWS];
            uint32_t lengths[FX_CHUNK_ROWS];
            float got[FX_CHUNK_ROWS * 35], want[40];
            size_t positions, at = 0;
            OK(kd_cursor_read(cur, 0, i, id, ci->rows * sizeof(id[0]), err));
            OK(kd_cursor_lengths(cur, column, i, lengths, &positions, err));
            OK(kd_cursor_read_f32(cur, column, i, got, positions, err));
            for (uint32_t r = 0; r < ci->rows; r++) {
                assert_int_equal(lengths[r], numbers(&id[r], (uint32_t)k, want, each, k ? 8 : 0));
                for (uint32_t j = 0; j < lengths[r] * each; j++, at++)
                    assert_true(got[at] - want[j] < 0.03f && want[j] - got[at] < 0.03f);
            }
        }
    }
    kd_cursor_close(cur);
    kd_store_close(s);
}

static kd_status merge(const char *out, const char *const *stores, size_t n, bool skip, kd_merge_report *r,
                       kd_err *err)
{
    kd_writer_params p = fx_params();
    p.threads = 2;
    return kd_store_merge(out, stores, n, skip, &p, "merge", NULL, NULL, NULL, r, err);
}

/* ---- parts -------------------------------------------------------------------------------- */

static void cut(const char *whole, uint32_t parts, bool base_only, char path[8][160])
{
    kd_writer_params p = fx_params();
    for (uint32_t i = 0; i < parts; i++) {
        snprintf(path[i], 160, "%s/part%u.kd", dir, i);
        p.force = true;
        OK(kd_store_slice(path[i], whole, i + 1, parts, base_only, &p, "slice", err));
        is_whole(path[i]);
    }
}

static void parts_put_together_are_the_whole(void **state)
{
    (void)state;
    char path[8][160];
    const char *list[8];
    kd_merge_report r;
    const char *whole = in_dir("whole.kd"), *back = in_dir("back.kd");
    for (int i = 0; i < 8; i++) list[i] = path[i];
    for (uint32_t parts = 1; parts <= 4; parts++) {
        for (int dumped = 0; dumped < 2; dumped++) { // the teacher ran over the whole, or over each part
            cut(whole, parts, dumped, path);
            for (uint32_t i = 0; i < parts && dumped; i++) add_teacher(path[i], "fp");
            OK(merge(back, list, parts, false, &r, err));
            same_root(back, whole);
            is_whole(back);
            assert_int_equal(r.rows, 173);
            assert_int_equal(r.chunks, 8);
            OK(kd_remove_tree(back, err));
        }
    }
}

static void each_part_has_its_share_of_each_split(void **state)
{
    (void)state;
    char path[8][160];
    kd_store *s;
    cut(in_dir("whole.kd"), 2, true, path);
    OK(kd_store_open(&s, path[1], err));
    assert_int_equal(kd_store_columns(s), FX_COLUMNS);
    assert_int_equal(kd_store_split_rows(s, KD_TRAIN), 36);
    assert_int_equal(kd_store_split_rows(s, KD_VALID), 8);
    assert_int_equal(kd_store_split_rows(s, KD_TEST), 1);
    kd_store_close(s);
}

static void what_cannot_be_cut_is_refused(void **state)
{
    (void)state;
    char path[8][160];
    kd_writer_params p = fx_params();
    const char *whole = in_dir("whole.kd"), *out = in_dir("no.kd");
    cut(whole, 2, true, path);
    FAILS(kd_store_slice(out, whole, 0, 2, false, &p, NULL, err), KD_EUSAGE, "part 0 of 2");
    FAILS(kd_store_slice(out, whole, 3, 2, false, &p, NULL, err), KD_EUSAGE, "part 3 of 2");
    FAILS(kd_store_slice(out, whole, 1, 9, false, &p, NULL, err), KD_EUSAGE, "part 1 of 9 is empty");
    FAILS(kd_store_slice(out, path[0], 1, 2, false, &p, NULL, err), KD_EUSAGE, "itself a part");
    FAILS(kd_store_slice(path[0], whole, 1, 2, false, &p, NULL, err), KD_EEXISTS, "--force");
    p.force = true;
    FAILS(kd_store_slice(whole, whole, 1, 2, false, &p, NULL, err), KD_EUSAGE, "both read and written");
    assert_false(kd_exists(out));
}

static void a_merge_of_some_parts_says_which(void **state)
{
    (void)state;
    char path[8][160];
    kd_store *s;
    cut(in_dir("whole.kd"), 3, true, path);
    const char *some[2] = {path[0], path[2]}, *rest[2] = {in_dir("some.kd"), path[1]};
    OK(merge(rest[0], some, 2, false, NULL, err));
    OK(kd_store_open(&s, rest[0], err));
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    const json_t *shard = json_object_get(json_object_get(base, "contract"), "shard");
    assert_int_equal(json_array_size(shard), 2);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(shard, 1), "part")), 3);
    kd_store_close(s);
    OK(merge(in_dir("all.kd"), rest, 2, false, NULL, err)); // the last part is accepted
    const char *again[2] = {rest[0], path[2]};
    FAILS(merge(in_dir("no.kd"), again, 2, false, NULL, err), KD_EEXISTS, "part2.kd, row 0: its id ");
}

/* ---- ids ---------------------------------------------------------------------------------- */

static uint32_t fill_range(uint32_t *number, uint32_t n, uint32_t from, uint32_t to)
{
    while (from < to) number[n++] = from++;
    return n;
}

static void rows_that_came_before_are_refused_or_left_out(void **state)
{
    (void)state;
    const kd_chunk_info a[2] = {{0, 32, KD_TRAIN}, {50, 10, KD_TRAIN}};
    const kd_chunk_info b[3] = {{40, 31, KD_TRAIN}, {0, 30, KD_TRAIN}, {80, 1, KD_TRAIN}};
    const char *list[2] = {in_dir("a.kd"), in_dir("b.kd")}, *out = in_dir("ab.kd");
    uint32_t number[200], n;
    kd_merge_report r;
    make_window(list[0], a, 2, NULL);
    make_window(list[1], b, 3, NULL);
    for (int i = 0; i < 2; i++) add_teacher(list[i], "fp");
    FAILS(merge(out, list, 2, false, NULL, err), KD_EEXISTS, "b.kd, row 10: its id ");
    FAILS(merge(out, list, 2, false, NULL, err), KD_EEXISTS, "a.kd, row 32; --skip-duplicates");
    assert_false(kd_exists(out));
    OK(merge(out, list, 2, true, &r, err));
    // All of a; of b 40-49, 60-70 and 80: one chunk with a hole in it, one that is left out whole, one as it
    // is.
    n = fill_range(number, 0, 0, 32);
    n = fill_range(number, n, 50, 60);
    n = fill_range(number, n, 40, 50);
    n = fill_range(number, n, 60, 71);
    n = fill_range(number, n, 80, 81);
    has_rows(out, number, n);
    has_outputs(out);
    is_whole(out);
    assert_int_equal(r.rows, n);
    assert_int_equal(r.duplicates, 40);
    assert_int_equal(r.chunks, 4);
}

static void copies_within_a_store_stay(void **state)
{
    (void)state;
    const kd_chunk_info a[2] = {{0, 20, KD_TRAIN}, {10, 20, KD_VALID}}, b[1] = {{40, 4, KD_TRAIN}};
    const char *list[2] = {in_dir("copies.kd"), in_dir("other.kd")}, *out = in_dir("copies-other.kd");
    uint32_t number[64], n;
    make_window(list[0], a, 2, NULL);
    make_window(list[1], b, 1, NULL);
    OK(merge(out, list, 2, false, NULL, err));
    n = fill_range(number, 0, 0, 20);
    n = fill_range(number, n, 40, 44); // train before valid
    n = fill_range(number, n, 10, 30);
    has_rows(out, number, n);
    const char *twice[2] = {list[0], list[0]};
    OK(merge(in_dir("twice.kd"), twice, 2, true, NULL, err));
    same_root(in_dir("twice.kd"), list[0]);
}

/* ---- what must be equal ------------------------------------------------------------------- */

static void stores_that_do_not_belong_together_are_named(void **state)
{
    (void)state;
    const kd_chunk_info a = {0, 8, KD_TRAIN}, b = {8, 8, KD_TRAIN};
    const char *list[2] = {in_dir("x.kd"), in_dir("y.kd")}, *out = in_dir("xy.kd");
    make_window(list[0], &a, 1, NULL);
    make_window(list[1], &b, 1, NULL);
    add_teacher(list[0], "fp");
    FAILS(merge(out, list, 2, false, NULL, err), KD_EMISMATCH, "y.kd: has no segment big");
    const char *turned[2] = {list[1], list[0]};
    FAILS(merge(out, turned, 2, false, NULL, err), KD_EMISMATCH, "x.kd: has a segment big");
    add_teacher(list[1], "other");
    FAILS(merge(out, list, 2, false, NULL, err), KD_EMISMATCH,
          "y.kd: the fingerprint of the teacher of segment big is \"other\", in ");
    json_t *contract = fx_contract();
    json_object_set_new(json_object_get(contract, "options"), "valid", json_real(0.3));
    make_window(in_dir("z.kd"), &b, 1, contract);
    add_teacher(in_dir("z.kd"), "fp");
    json_decref(contract);
    list[1] = in_dir("z.kd");
    FAILS(merge(out, list, 2, false, NULL, err), KD_EMISMATCH,
          "z.kd: the contract of segment base: options.valid is 0.3, in ");
    FAILS(merge(out, list, 0, false, NULL, err), KD_EUSAGE, "no stores");
    list[1] = in_dir("nothing.kd");
    FAILS(merge(out, list, 2, false, NULL, err), KD_ENOTFOUND, "nothing.kd");
    assert_false(kd_exists(out));
}

static void make_one_column(const char *path, const json_t *params, kd_dtype dtype)
{
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    const kd_chunk_info one = {0, 4, KD_TRAIN};
    fx_columns(c);
    fx_column(&c[2], "label", KD_ROLE_LABEL, dtype, 0, 0, 0);
    c[2].params = (json_t *)(uintptr_t)params;
    OK(kd_store_create(&w, path, c, 3, NULL, &p, err));
    OK(fx_append(w, c, 3, 100, &one, err));
    OK(kd_store_writer_seal(w, NULL, err));
}

static void columns_that_differ_are_named(void **state)
{
    (void)state;
    json_t *ten = json_pack("{s:i}", "classes", 10), *hundred = json_pack("{s:i}", "classes", 100);
    const char *list[2] = {in_dir("ten.kd"), in_dir("hundred.kd")};
    make_one_column(list[0], ten, KD_I32);
    make_one_column(list[1], hundred, KD_I32);
    FAILS(merge(in_dir("no.kd"), list, 2, false, NULL, err), KD_EMISMATCH,
          "hundred.kd: column label: params.classes is 100, in ");
    make_one_column(list[1] = in_dir("wide.kd"), ten, KD_I64);
    FAILS(merge(in_dir("no.kd"), list, 2, false, NULL, err), KD_EMISMATCH, "column label: dtype is \"i64\"");
    json_decref(ten);
    json_decref(hundred);
}

/* ---- stopping and going on ---------------------------------------------------------------- */

typedef struct brake {
    int stop, after;
} brake;

static void pull(void *arg, uint64_t done, uint64_t total)
{
    brake *b = arg;
    assert_true(done <= total);
    if (--b->after <= 0) b->stop = 1;
}

static void a_stopped_merge_goes_on(void **state)
{
    (void)state;
    char path[8][160];
    const char *whole = in_dir("whole.kd"), *out = in_dir("resumed.kd");
    cut(whole, 2, false, path);
    const char *list[2] = {path[0], path[1]}, *turned[2] = {path[1], path[0]};
    for (int after = 1; after < 16; after += 2) { // in the base segment, between, and in the teacher's
        kd_writer_params p = fx_params();
        brake b = {.after = after};
        FAILS(kd_store_merge(out, list, 2, false, &p, NULL, &b.stop, pull, &b, NULL, err), KD_ESTOPPED,
              "go on with --resume");
        assert_false(kd_exists(out));
        FAILS(kd_store_merge(out, list, 2, false, &p, NULL, NULL, NULL, NULL, NULL, err), KD_EEXISTS,
              "--resume");
        p.resume = true;
        FAILS(kd_store_merge(out, turned, 2, false, &p, NULL, NULL, NULL, NULL, NULL, err), KD_EMISMATCH,
              "cannot go on with it: stores.0 was");
        OK(kd_store_merge(out, list, 2, false, &p, NULL, NULL, NULL, NULL, NULL, err));
        same_root(out, whole);
        assert_false(kd_exists(in_dir("resumed.kd.part")));
        assert_false(kd_exists(in_dir("resumed.kd/rewrite.json")));
        OK(kd_remove_tree(out, err));
    }
}

static void a_merge_that_does_not_fit_starts_anew_with_force(void **state)
{
    (void)state;
    char path[8][160];
    const char *whole = in_dir("whole.kd"), *out = in_dir("forced.kd");
    kd_writer_params p = fx_params();
    brake b = {.after = 12};
    cut(whole, 2, false, path);
    const char *list[2] = {path[0], path[1]}, *turned[2] = {path[1], path[0]};
    FAILS(kd_store_merge(out, turned, 2, false, &p, NULL, &b.stop, pull, &b, NULL, err), KD_ESTOPPED,
          "stopped");
    p.resume = p.force = true;
    OK(kd_store_merge(out, list, 2, false, &p, NULL, NULL, NULL, NULL, NULL, err));
    same_root(out, whole);
    p.resume = false;
    OK(kd_store_merge(out, list, 2, false, &p, NULL, NULL, NULL, NULL, NULL, err)); // replaces a finished one
    same_root(out, whole);
    is_whole(out);
}

static void another_kind_of_unfinished_run_is_left_alone(void **state)
{
    (void)state;
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    const char *list[1] = {in_dir("whole.kd")}, *out = in_dir("begun.kd");
    json_t *contract = fx_contract();
    fx_columns(c);
    OK(kd_store_create(&w, out, c, FX_COLUMNS, contract, &p, err));
    fx_fill(w, c, FX_COLUMNS, 100, 0, 2);
    kd_store_writer_close(w);
    p.resume = true;
    FAILS(kd_store_merge(out, list, 1, false, &p, NULL, NULL, NULL, NULL, NULL, err), KD_EEXISTS,
          "another kind");
    OK(kd_store_create(&w, out, c, FX_COLUMNS, contract, &p, err));
    assert_int_equal(kd_store_writer_chunks(w), 2);
    kd_store_writer_close(w);
    json_decref(contract);
}

/* ---- compact ------------------------------------------------------------------------------ */

static void touch(const char *path)
{
    const int fd = open(path, O_WRONLY | O_CREAT, 0644);
    assert_true(fd >= 0);
    close(fd);
}

static void compacting_keeps_values_and_removes_what_nothing_names(void **state)
{
    (void)state;
    const char *path = in_dir("loose.kd");
    uint64_t before = 0, after = 0;
    uint32_t number[200], n = fill_range(number, 0, 0, 173);
    kd_store *s, *old;
    fx_make(path, NULL);
    add_teacher(path, "fp");
    same_root(path, in_dir("whole.kd"));
    touch(in_dir("loose.kd/left.over"));
    OK(kd_store_open(&old, path, err));
    OK(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &before, &after, err));
    same_root(path, in_dir("whole.kd"));
    assert_false(kd_exists(in_dir("loose.kd/left.over")));
    OK(kd_store_compact(path, 19, 2, NULL, NULL, NULL, &before, &after, err));
    assert_true(before > 0 && after > 0); // the fixture is too small to shrink
    is_whole(path);
    has_rows(path, number, n);
    has_outputs(path);
    OK(kd_store_open(&s, path, err));
    assert_int_equal(kd_store_column(s, 2)->level, 19);
    const json_t *list = json_object_get(kd_store_manifest(s), "segments");
    const json_t *contract = json_object_get(json_array_get(list, 1), "contract");
    assert_string_equal(json_string_value(json_object_get(contract, "store")),
                        json_string_value(json_object_get(json_array_get(list, 0), "root")));
    assert_string_equal(json_string_value(json_object_get(kd_store_teacher(s, "big"), "fingerprint")), "fp");
    kd_store_close(s);
    kd_cursor *cur; // who had it open reads the old files
    OK(kd_cursor_open(&cur, old, err));
    for (uint32_t i = 0; i < kd_store_chunks(old); i++) OK(fx_check_block(old, cur, 2, 102, i, err));
    kd_cursor_close(cur);
    kd_store_close(old);
}

static void compacting_never_discards_unfinished_outputs(void **state)
{
    (void)state;
    const char *path = in_dir("busy.kd"), *part = in_dir("busy.kd/big.mdb.part"),
               *mdb = in_dir("busy.kd/big.mdb");
    uint64_t b, a;
    fx_make(path, NULL);
    touch(part);
    FAILS(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &b, &a, err), KD_EEXISTS,
          "left by an unfinished run");
    const int fd = open(part, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    FAILS(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &b, &a, err), KD_EEXISTS,
          "another process is writing it");
    close(fd);
    assert_int_equal(rename(part, mdb), 0);
    FAILS(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &b, &a, err), KD_EEXISTS, "while sealing");
    assert_int_equal(unlink(mdb), 0);
    FAILS(kd_store_compact(path, 20, 1, NULL, NULL, NULL, &b, &a, err), KD_EUSAGE, "level 20");
    const int folder = open(path, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(folder, LOCK_EX), 0);
    FAILS(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &b, &a, err), KD_EEXISTS,
          "another process is adding");
    close(folder);
    OK(kd_mkdirs(in_dir("busy.kd.part/base.mdb.part"), err)); // of a dump that is to replace this store
    FAILS(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &b, &a, err), KD_EEXISTS, "another kind");
}

static void a_stopped_compaction_leaves_the_store_and_goes_on(void **state)
{
    (void)state;
    const char *path = in_dir("stopped.kd"), *whole = in_dir("whole.kd");
    uint64_t b, a;
    fx_make(path, NULL);
    add_teacher(path, "fp");
    for (int after = 3; after < 16; after += 6) {
        brake k = {.after = after};
        FAILS(kd_store_compact(path, 0, 1, &k.stop, pull, &k, &b, &a, err), KD_ESTOPPED, "stopped after");
        same_root(path, whole);
        is_whole(path);
    }
    OK(kd_store_compact(path, 0, 1, NULL, NULL, NULL, &b, &a, err));
    same_root(path, whole);
    assert_false(kd_exists(in_dir("stopped.kd.part")));
}

static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/kd-test-merge-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    fx_make(in_dir("whole.kd"), NULL);
    add_teacher(in_dir("whole.kd"), "fp");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return kd_remove_tree(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_put_together_are_the_whole),
        cmocka_unit_test(each_part_has_its_share_of_each_split),
        cmocka_unit_test(what_cannot_be_cut_is_refused),
        cmocka_unit_test(a_merge_of_some_parts_says_which),
        cmocka_unit_test(rows_that_came_before_are_refused_or_left_out),
        cmocka_unit_test(copies_within_a_store_stay),
        cmocka_unit_test(stores_that_do_not_belong_together_are_named),
        cmocka_unit_test(columns_that_differ_are_named),
        cmocka_unit_test(a_stopped_merge_goes_on),
        cmocka_unit_test(a_merge_that_does_not_fit_starts_anew_with_force),
        cmocka_unit_test(another_kind_of_unfinished_run_is_left_alone),
        cmocka_unit_test(compacting_keeps_values_and_removes_what_nothing_names),
        cmocka_unit_test(compacting_never_discards_unfinished_outputs),
        cmocka_unit_test(a_stopped_compaction_leaves_the_store_and_goes_on),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
