/* test_store_compact.c - a store written anew in its own place. */
#include "merge_fixture.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

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

/* As if killed right after the folders were exchanged. */
static void a_compaction_that_was_killed_at_its_end_is_cleaned_up(void **state)
{
    (void)state;
    const char *path = in_dir("ended.kd"), *left = in_dir("ended.kd.part");
    uint64_t b, a;
    fx_make(path, NULL);
    fx_make(left, NULL); // the old store
    touch(in_dir("ended.kd/rewrite.json"));
    OK(kd_store_compact(path, 5, 1, NULL, NULL, NULL, &b, &a, err));
    assert_false(kd_exists(left) || kd_exists(in_dir("ended.kd/rewrite.json")));
    is_whole(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compacting_keeps_values_and_removes_what_nothing_names),
        cmocka_unit_test(compacting_never_discards_unfinished_outputs),
        cmocka_unit_test(a_stopped_compaction_leaves_the_store_and_goes_on),
        cmocka_unit_test(a_compaction_that_was_killed_at_its_end_is_cleaned_up),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
