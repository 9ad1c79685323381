/* Files are whole or absent, folders go without following links, JSON says where it is wrong. */
#include "kd/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define LEN(a) (sizeof(a) / sizeof *(a))

static char folder[64]; /* of this run, removed at its end */

static char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-test-base-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

static void files_come_back_whole(void **state)
{
    (void)state;
    char *text;
    size_t len;
    kd_err err = {0};
    const char *path = in_folder("a.bin");
    assert_int_equal(kd_file_write(path, "ab\0cd", 5, &err), KD_OK);
    assert_int_equal(kd_file_read(path, 5, &text, &len, &err), KD_OK);
    assert_int_equal(len, 5);
    assert_memory_equal(text, "ab\0cd", 6);
    free(text);
    assert_int_equal(kd_file_read(path, 4, &text, &len, &err), KD_ELIMIT);
    assert_non_null(strstr(err.msg, "a.bin: 5 bytes, the limit is 4"));
    assert_null(text);
    assert_int_equal(kd_file_read("/nonexistent/f", 4, &text, &len, &err), KD_ENOTFOUND);
    assert_int_equal(kd_file_read(folder, 4, &text, &len, &err), KD_EIO);
    assert_int_equal(kd_file_read("/dev/zero", 1000, &text, &len, &err), KD_ELIMIT); /* size unknown */
    assert_int_equal(kd_file_read("/dev/null", 1000, &text, &len, &err), KD_OK);
    assert_int_equal(len, 0);
    free(text);
    assert_int_equal(kd_file_write(path, NULL, 0, &err), KD_OK); /* replaced by an empty one */
    assert_int_equal(kd_file_read(path, 4, &text, &len, &err), KD_OK);
    assert_int_equal(len, 0);
    free(text);
}

static void a_new_file_appears_only_when_whole(void **state)
{
    (void)state;
    kd_newfile *f, *g;
    kd_err err = {0};
    char tmp[300], *text;
    size_t len;
    const char *path = in_folder("new.bin");
    assert_int_equal(kd_newfile_open(&f, path, &err), KD_OK);
    snprintf(tmp, sizeof tmp, "%s.tmp.%ld", path, (long)getpid());
    assert_true(kd_exists(tmp));
    fputs("xxxx world", kd_newfile_stream(f));
    assert_int_equal(fseek(kd_newfile_stream(f), 0, SEEK_SET), 0); /* headers are filled in last */
    fputs("good", kd_newfile_stream(f));
    assert_false(kd_exists(path));
    assert_int_equal(kd_newfile_open(&g, path, &err), KD_OK); /* a second one does not clash */
    kd_newfile_abort(g);
    assert_true(kd_exists(tmp));
    assert_int_equal(kd_newfile_commit(f, &err), KD_OK);
    assert_false(kd_exists(tmp));
    assert_int_equal(kd_file_read(path, 100, &text, &len, &err), KD_OK);
    assert_string_equal(text, "good world");
    free(text);
    assert_int_equal(kd_newfile_open(&f, path, &err), KD_OK);
    fputs("half", kd_newfile_stream(f));
    kd_newfile_abort(f);
    assert_false(kd_exists(tmp));
    assert_int_equal(kd_file_read(path, 100, &text, &len, &err), KD_OK);
    assert_string_equal(text, "good world");
    free(text);
    kd_newfile_abort(NULL);
    assert_int_equal(kd_newfile_commit(NULL, &err), KD_OK);
    assert_int_equal(kd_newfile_open(&f, "/nonexistent/x", &err), KD_ENOTFOUND);
    assert_null(f);
    assert_int_equal(kd_mkdirs(in_folder("is-a-folder/x"), &err), KD_OK);
    assert_int_equal(kd_file_write(in_folder("is-a-folder"), "x", 1, &err), KD_EIO);
    assert_non_null(strstr(err.msg, "is-a-folder: Is a directory"));
    snprintf(tmp, sizeof tmp, "%s.tmp.%ld", in_folder("is-a-folder"), (long)getpid());
    assert_false(kd_exists(tmp));
}

static void a_full_disk_is_told_as_such(void **state)
{
    (void)state;
    kd_newfile *f;
    kd_err err = {0};
    assert_int_equal(kd_newfile_open(&f, in_folder("full.bin"), &err), KD_OK);
    /* What write(2) says on a full disk: the stream's descriptor becomes /dev/full. */
    char link[64], target[300];
    int fd = -1;
    for (int i = 3; i < 256 && fd < 0; i++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", i);
        ssize_t n = readlink(link, target, sizeof target - 1);
        if (n > 0 && (target[n] = '\0', strstr(target, "full.bin.tmp"))) fd = i;
    }
    assert_true(fd >= 0);
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    assert_int_equal(dup2(fileno(full), fd), fd);
    fclose(full);
    for (int i = 0; i < 100000; i++) fputs("0123456789", kd_newfile_stream(f));
    assert_int_equal(kd_newfile_commit(f, &err), KD_EFULL);
    assert_non_null(strstr(err.msg, "No space left on device"));
    assert_false(kd_exists(in_folder("full.bin")));
    snprintf(target, sizeof target, "%s.tmp.%ld", in_folder("full.bin"), (long)getpid());
    assert_false(kd_exists(target));
}

static void folders_are_made_and_removed(void **state)
{
    (void)state;
    kd_err err = {0};
    char path[600];
    assert_int_equal(kd_mkdirs(in_folder("t/a//b/c/"), &err), KD_OK);
    assert_int_equal(kd_mkdirs(in_folder("t/a/b/c"), &err), KD_OK);
    assert_true(kd_is_dir(in_folder("t/a/b/c")));
    assert_int_equal(kd_file_write(in_folder("t/a/f"), "x", 1, &err), KD_OK);
    assert_int_equal(kd_mkdirs(in_folder("t/a/f"), &err), KD_EEXISTS);
    assert_int_equal(kd_mkdirs(in_folder("t/a/f/g"), &err), KD_EEXISTS);
    assert_int_equal(kd_mkdirs("/proc/nothing/here", &err), KD_ENOTFOUND);
    assert_int_equal(kd_fsync_path(in_folder("t/a/f"), &err), KD_OK);
    assert_int_equal(kd_fsync_path(in_folder("t/a"), &err), KD_OK);
    assert_int_equal(kd_fsync_path(in_folder("t/none"), &err), KD_ENOTFOUND);
    /* A link out of the tree goes; what it points to stays. */
    assert_int_equal(kd_mkdirs(in_folder("keep"), &err), KD_OK);
    assert_int_equal(kd_file_write(in_folder("keep/f"), "x", 1, &err), KD_OK);
    snprintf(path, sizeof path, "%s/keep", folder);
    assert_int_equal(symlink(path, in_folder("t/a/link")), 0);
    assert_int_equal(kd_remove_tree(in_folder("t"), &err), KD_OK);
    assert_false(kd_exists(in_folder("t")));
    assert_true(kd_exists(in_folder("keep/f")));
    assert_int_equal(kd_remove_tree(in_folder("t"), &err), KD_OK);
    assert_int_equal(kd_remove_tree(in_folder("keep/f"), &err), KD_OK); /* a file too */
    assert_false(kd_exists(in_folder("keep/f")));
}

static void paths_join(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *name, *want;
    } cases[] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}, {"a", "/b", "/b"}};
    for (size_t i = 0; i < LEN(cases); i++) {
        char *p = kd_path_join(cases[i].folder, cases[i].name);
        assert_string_equal(p, cases[i].want);
        free(p);
    }
    assert_string_equal(kd_path_base("a/b.c"), "b.c");
    assert_string_equal(kd_path_base("b.c"), "b.c");
    assert_null(kd_strdup(NULL));
    char *s = kd_sprintf("%d-%s", 3, "x");
    assert_string_equal(s, "3-x");
    free(s);
}

static void write_text(const char *path, const char *text)
{
    assert_int_equal(kd_file_write(path, text, strlen(text), NULL), KD_OK);
}

static void json_goes_out_and_comes_back(void **state)
{
    (void)state;
    kd_err err = {0};
    const char *path = in_folder("v.json");
    json_t *v = json_pack("{s:s, s:i, s:f, s:[i,i]}", "z", "é\n", "a", -3, "f", 0.1, "l", 1, 2), *back;
    assert_int_equal(kd_json_save(path, v, &err), KD_OK);
    assert_int_equal(kd_json_load(path, 1000, &back, &err), KD_OK);
    assert_true(json_equal(v, back));
    char *text;
    size_t len;
    assert_int_equal(kd_file_read(path, 1000, &text, &len, &err), KD_OK);
    assert_true(text[len - 1] == '\n' && strstr(text, "\"z\"") < strstr(text, "\"a\""));
    free(text);
    const char *s;
    int64_t i;
    double d;
    assert_int_equal(kd_json_str(back, "z", &s, path, &err), KD_OK);
    assert_string_equal(s, "é\n");
    assert_int_equal(kd_json_int(back, "a", -3, 3, &i, path, &err), KD_OK);
    assert_int_equal(i, -3);
    assert_int_equal(kd_json_real(back, "f", &d, path, &err), KD_OK);
    assert_true(d == 0.1);
    assert_int_equal(kd_json_real(back, "a", &d, path, &err), KD_OK);
    assert_true(d == -3);
    assert_int_equal(kd_json_str(back, "a", &s, "m.json", &err), KD_ECORRUPT);
    assert_string_equal(err.msg, "m.json: key 'a' is an integer, expected a string");
    assert_int_equal(kd_json_int(back, "a", 0, 9, &i, "m.json", &err), KD_ECORRUPT);
    assert_string_equal(err.msg, "m.json: key 'a' is -3, expected 0 to 9");
    assert_int_equal(kd_json_int(back, "f", 0, 9, &i, "m.json", &err), KD_ECORRUPT);
    assert_int_equal(kd_json_real(back, "z", &d, "m.json", &err), KD_ECORRUPT);
    assert_int_equal(kd_json_str(back, "none", &s, "m.json", &err), KD_ECORRUPT);
    assert_string_equal(err.msg, "m.json: key 'none' is missing");
    json_decref(v);
    json_decref(back);
}

static void damaged_json_is_refused(void **state)
{
    (void)state;
    kd_err err = {0};
    json_t *v;
    const char *path = in_folder("bad.json");
    static const char *const bad[] = {
        "",        "{", "{\"a\": 1,}", "{\"a\": 1, \"a\": 2}", "{\"a\": \"\xff\"}", "[1] x", "{\"a\": 1e999}",
        "\x01\x02"};
    for (size_t i = 0; i < LEN(bad); i++) {
        write_text(path, bad[i]);
        assert_int_equal(kd_json_load(path, 1000, &v, &err), KD_ECORRUPT);
        assert_null(v);
        assert_non_null(strstr(err.msg, "bad.json:1:"));
        for (const char *c = err.msg; *c; c++) assert_in_range(*c, 0x20, 0x7E);
    }
    write_text(path, "{}");
    assert_int_equal(kd_json_load(path, 1, &v, &err), KD_ELIMIT);
    assert_int_equal(kd_json_load("/nonexistent.json", 1, &v, &err), KD_ENOTFOUND);
}

/* Its memory is given back the oldest first: once, a list was searched for each piece, 28 s for this text. */
static void a_long_text_that_is_wrong_at_its_end_costs_what_its_length_costs(void **state)
{
    (void)state;
    enum { VALUES = 400000 };
    char *text = malloc(4 * VALUES + 3);
    json_t *v;
    assert_non_null(text);
    text[0] = '[';
    for (size_t i = 0; i < VALUES; i++) memcpy(text + 1 + 4 * i, "1.5,", 4);
    memcpy(text + 1 + 4 * VALUES, "x]", 2);
    const double start = kd_cpu_seconds();
    assert_int_equal(kd_json_parse(&v, text, 4 * VALUES + 3, NULL), KD_ECORRUPT);
    assert_true(kd_cpu_seconds() - start < 5);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_come_back_whole),
        cmocka_unit_test(a_new_file_appears_only_when_whole),
        cmocka_unit_test(a_full_disk_is_told_as_such),
        cmocka_unit_test(folders_are_made_and_removed),
        cmocka_unit_test(paths_join),
        cmocka_unit_test(json_goes_out_and_comes_back),
        cmocka_unit_test(a_long_text_that_is_wrong_at_its_end_costs_what_its_length_costs),
        cmocka_unit_test(damaged_json_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
