/* test_store_merge.c - stores cut into parts, and merged. */
#include "merge_fixture.h"

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

static void a_store_without_a_contract_is_cut_as_any_other(void **state)
{
    (void)state;
    char path[8][160];
    kd_column c[FX_COLUMNS];
    kd_writer_params p = fx_params();
    kd_store_writer *w;
    kd_chunk_info chunk[2] = {{0, 32, KD_TRAIN}, {32, 20, KD_TRAIN}};
    const char *whole = in_dir("plain.kd"), *back = in_dir("plain-back.kd");
    fx_columns(c);
    OK(kd_store_create(&w, whole, c, FX_COLUMNS, NULL, &p, err));
    for (int i = 0; i < 2; i++) OK(fx_append(w, c, FX_COLUMNS, 100, &chunk[i], err));
    OK(kd_store_writer_seal(w, NULL, err));
    cut(whole, 2, false, path);
    const char *parts[2] = {path[0], path[1]};
    OK(merge(back, parts, 2, false, NULL, err));
    same_root(back, whole);
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

/* Outputs that depend on the other rows of their chunk, as those of mixed views do. */
static void outputs_of_whole_chunks_are_never_cut(void **state)
{
    (void)state;
    const kd_chunk_info a = {0, 32, KD_TRAIN}, b[2] = {{0, 32, KD_TRAIN}, {60, 10, KD_TRAIN}},
                        c = {20, 20, KD_TRAIN};
    const char *stores[3] = {in_dir("mixed-a.kd"), in_dir("mixed-b.kd"), in_dir("mixed-c.kd")};
    json_t *params = json_pack("{s:b}", "whole_chunks", true);
    make_window(stores[0], &a, 1, NULL);
    make_window(stores[1], b, 2, NULL);
    make_window(stores[2], &c, 1, NULL);
    for (int i = 0; i < 3; i++) add_teacher_of(stores[i], "fp", params);
    OK(merge(in_dir("mixed-ab.kd"), stores, 2, true, NULL, err)); // a chunk as a whole may be left out
    is_whole(in_dir("mixed-ab.kd"));
    const char *cut[2] = {stores[0], stores[2]};
    FAILS(merge(in_dir("mixed-ac.kd"), cut, 2, true, NULL, err), KD_EUNSUPPORTED,
          "column big/logits was made of whole chunks");
    json_decref(params);
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

/* ---- stopping and going on --------------------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_put_together_are_the_whole),
        cmocka_unit_test(each_part_has_its_share_of_each_split),
        cmocka_unit_test(what_cannot_be_cut_is_refused),
        cmocka_unit_test(a_store_without_a_contract_is_cut_as_any_other),
        cmocka_unit_test(a_merge_of_some_parts_says_which),
        cmocka_unit_test(rows_that_came_before_are_refused_or_left_out),
        cmocka_unit_test(outputs_of_whole_chunks_are_never_cut),
        cmocka_unit_test(copies_within_a_store_stay),
        cmocka_unit_test(stores_that_do_not_belong_together_are_named),
        cmocka_unit_test(columns_that_differ_are_named),
        cmocka_unit_test(a_stopped_merge_goes_on),
        cmocka_unit_test(a_merge_that_does_not_fit_starts_anew_with_force),
        cmocka_unit_test(another_kind_of_unfinished_run_is_left_alone),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
