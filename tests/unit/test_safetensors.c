/* test_safetensors.c - what is written is read back; every kind of damage is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static char path[96];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-safetensors-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* A file of a header (length as given, or its own for -1) and n data bytes. */
static void write_file(const char *header, size_t len, int64_t claimed, size_t data)
{
    FILE *f = fopen(path, "w");
    uint64_t n = claimed < 0 ? len : (uint64_t)claimed;
    assert_non_null(f);
    fwrite(&n, 8, 1, f);
    fwrite(header, 1, len, f);
    for (size_t i = 0; i < data; i++) fputc((int)i, f);
    assert_int_equal(fclose(f), 0);
}

static void write_bytes(const char *bytes, size_t len)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

/* Opening must fail with status and a sentence that holds `part` and the path. */
static void refused(kd_status want, const char *part)
{
    kd_tensors *t = (kd_tensors *)1;
    kd_err err = {0};
    kd_status st = kd_tensors_open(&t, path, &err);
    if (st != want || err.code != want || !strstr(err.msg, part) || !strstr(err.msg, path) || t)
        fail_msg("status %s: '%s'; expected %s and '%s'", kd_strstatus(st), err.msg, kd_strstatus(want),
                 part);
}

static void what_is_saved_is_read_back(void **state)
{
    (void)state;
    const float w[6] = {1, -2, 3.5f, 0, 1e-30f, 6};
    const double d[1] = {3.25};
    const uint8_t bytes[3] = {7, 8, 9};
    const uint16_t half[2] = {0x3C00, 0xC000};
    const kd_tensor list[] = {
        {"bytes", KD_U8, 1, {3}, bytes, 3},      {"fc0.weight", KD_F32, 2, {2, 3}, w, sizeof w},
        {"scalar", KD_F64, 0, {0}, d, sizeof d}, {"half", KD_BF16, 2, {1, 2}, half, sizeof half},
        {"empty", KD_F32, 2, {0, 4}, NULL, 0},
    };
    kd_err err = {0};
    json_t *meta = json_pack("{s:s}", "format", "pt");
    if (kd_tensors_save(path, list, KD_COUNT(list), meta, &err)) fail_msg("%s", err.msg);
    json_decref(meta);
    kd_tensors *t;
    if (kd_tensors_open(&t, path, &err)) fail_msg("%s", err.msg);
    assert_int_equal(kd_tensors_count(t), KD_COUNT(list));
    assert_string_equal(kd_tensors_metadata(t, "format"), "pt");
    assert_null(kd_tensors_metadata(t, "other"));
    for (size_t i = 0; i < KD_COUNT(list); i++) {
        const kd_tensor *x = kd_tensors_find(t, list[i].name);
        assert_non_null(x);
        assert_int_equal(x->dtype, list[i].dtype);
        assert_int_equal(x->ndims, list[i].ndims);
        assert_memory_equal(x->dims, list[i].dims, (size_t)x->ndims * sizeof *x->dims);
        assert_int_equal(x->bytes, list[i].bytes);
        if (x->bytes) assert_memory_equal(x->data, list[i].data, x->bytes);
        assert_int_equal((uintptr_t)x->data % kd_dtype_size(x->dtype), 0); // aligned for its type
    }
    assert_string_equal(kd_tensors_at(t, 0)->name, "scalar"); // largest elements first
    assert_string_equal(kd_tensors_at(t, 4)->name, "bytes");
    assert_null(kd_tensors_find(t, "fc1.weight"));
    kd_tensors_close(t);
    char *text;
    size_t len;
    assert_int_equal(kd_file_read(path, 1 << 20, &text, &len, &err), KD_OK);
    assert_int_equal(*(uint64_t *)text % 8, 0); // header padded, so the data are aligned in the file too
    free(text);
}

static void the_same_tensors_give_the_same_bytes(void **state)
{
    (void)state;
    const float a[2] = {1, 2}, b[1] = {3};
    kd_tensor one[] = {{"a", KD_F32, 1, {2}, a, 8}, {"b", KD_F32, 1, {1}, b, 4}};
    kd_tensor two[] = {one[1], one[0]};
    char *x, *y;
    size_t nx, ny;
    assert_int_equal(kd_tensors_save(path, one, 2, NULL, NULL), KD_OK);
    assert_int_equal(kd_file_read(path, 4096, &x, &nx, NULL), KD_OK);
    assert_int_equal(kd_tensors_save(path, two, 2, NULL, NULL), KD_OK);
    assert_int_equal(kd_file_read(path, 4096, &y, &ny, NULL), KD_OK);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x);
    free(y);
}

static void writing_refuses_wrong_tensors(void **state)
{
    (void)state;
    const float a[2] = {1, 2};
    kd_tensor twice[] = {{"a", KD_F32, 1, {2}, a, 8}, {"a", KD_F32, 1, {2}, a, 8}};
    kd_tensor wrong[] = {{"a", KD_F32, 1, {3}, a, 8}};
    kd_err err = {0};
    assert_int_equal(kd_tensors_save(path, twice, 2, NULL, &err), KD_EUSAGE);
    assert_non_null(strstr(err.msg, "two tensors named a"));
    assert_int_equal(kd_tensors_save(path, wrong, 1, NULL, &err), KD_EUSAGE);
    assert_non_null(strstr(err.msg, "12"));
    json_t *meta = json_pack("{s:i}", "n", 1);
    assert_int_equal(kd_tensors_save(path, twice, 1, meta, &err), KD_ECORRUPT);
    json_decref(meta);
    assert_int_equal(kd_tensors_save("/nonexistent/x.safetensors", twice, 1, NULL, &err), KD_ENOTFOUND);
}

/* Headers that must not pass, each with a word of its message. data: bytes behind the header. */
static const struct {
    const char *header;
    size_t data;
    const char *part;
} hostile[] = {
    {"[]", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"{\"a\":", 0, "no valid JSON"},
    {"{} {}", 0, "no valid JSON"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{}}", 1, "no valid JSON"}, // twice
    {"{\"\xC3\x28\":{}}", 0, "no valid JSON"}, // no UTF-8
    {"{\"a\\u0000b\":{}}", 0, "no valid JSON"},
    {"{\"__metadata__\":[]}", 0, "__metadata__"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "'k' is not a string"},
    {"{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "no name"},
    {"{\"a\":[1]}", 0, "tensor a is not an object"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype 'missing'"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype 'F4'"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, "at most 8"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "axis 0"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,1]}}", 1, "axis 0"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,1]}}", 1, "overflows"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1, "data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1,
     "positions in 1 bytes"}, // beyond the end
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2, "need 4 bytes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
     3, "overlap"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
     3, "hole"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "hole"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 9, "8 bytes behind the last"},
    {"{}", 1, "1 bytes behind the last"},
};

static void hostile_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < KD_COUNT(hostile); i++) {
        write_file(hostile[i].header, strlen(hostile[i].header), -1, hostile[i].data);
        refused(KD_ECORRUPT, hostile[i].part);
    }
}

static void hostile_lengths_are_refused_before_memory_is_taken(void **state)
{
    (void)state;
    write_file("{}", 2, 3, 0);
    refused(KD_ECORRUPT, "header of 3 bytes in a file of 10");
    write_file("{}", 2, 1, 0);
    refused(KD_ECORRUPT, "header of 1 bytes");
    write_file("{}", 2, 0, 0);
    refused(KD_ECORRUPT, "header of 0 bytes");
    write_file("{}", 2, INT64_MAX, 0);
    refused(KD_ECORRUPT, "the limit is");
    write_file("{}", 2, KD_SAFETENSORS_MAX_HEADER + 1, 0);
    refused(KD_ECORRUPT, "the limit is");
    size_t peak = kd_peak_rss();
    write_file("{}", 2, KD_SAFETENSORS_MAX_HEADER, 0); // allowed in itself, but the file is short
    refused(KD_ECORRUPT, "in a file of 10");
    assert_true(kd_peak_rss() - peak < KD_SAFETENSORS_MAX_HEADER / 2);
    assert_int_equal(truncate(path, 5), 0);
    refused(KD_ECORRUPT, "5 bytes are no safetensors file");
    assert_int_equal(truncate(path, 0), 0);
    refused(KD_ECORRUPT, "0 bytes are no safetensors file");
    assert_int_equal(unlink(path), 0);
    refused(KD_ENOTFOUND, "cannot open");
    assert_int_equal(mkdir(path, 0755), 0);
    refused(KD_ECORRUPT, "not a regular file");
    assert_int_equal(rmdir(path), 0);
}

/* A deep header must neither overflow the stack nor pass. */
static void a_deep_header_is_refused(void **state)
{
    (void)state;
    enum { N = 100000 };
    char *deep = malloc(2 * N + 16);
    size_t at = (size_t)sprintf(deep, "{\"a\":");
    memset(deep + at, '[', N);
    memset(deep + at + N, ']', N);
    deep[at + 2 * N] = '}';
    write_file(deep, at + 2 * N + 1, -1, 0);
    refused(KD_ECORRUPT, "no valid JSON");
    free(deep);
}

/* Every length a good file can be cut to, and every bit of its header flipped: an error or a file
 * that is consistent, never a crash (and never an unchecked span under the sanitizers). */
static void cut_and_flipped_files_never_crash(void **state)
{
    (void)state;
    const float w[4] = {1, 2, 3, 4};
    kd_tensor list[] = {{"fc0.weight", KD_F32, 2, {2, 2}, w, 16}, {"fc0.bias", KD_F32, 1, {1}, w, 4}};
    char *good;
    size_t len, refusals = 0;
    assert_int_equal(kd_tensors_save(path, list, 2, NULL, NULL), KD_OK);
    assert_int_equal(kd_file_read(path, 4096, &good, &len, NULL), KD_OK);
    for (size_t cut = 0; cut < len; cut++) {
        kd_tensors *t;
        write_bytes(good, cut);
        assert_int_equal(kd_tensors_open(&t, path, NULL), KD_ECORRUPT);
    }
    for (size_t bit = 0; bit < 8 * (len - 20); bit++) {
        kd_tensors *t = NULL;
        good[bit / 8] ^= (char)(1 << bit % 8);
        write_bytes(good, len);
        if (kd_tensors_open(&t, path, NULL))
            refusals++;
        else {
            size_t sum = 0;
            for (size_t i = 0; i < kd_tensors_count(t); i++) sum += kd_tensors_at(t, i)->bytes;
            assert_int_equal(sum, 20);
        }
        kd_tensors_close(t);
        good[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(refusals > 800); // of 1104; a changed letter of a name is no damage that this file can show
    free(good);
}

static void the_golden_files_of_pytorch_open(void **state)
{
    (void)state;
    kd_tensors *t;
    kd_err err = {0};
    if (kd_tensors_open(&t, "tests/golden/mlp.safetensors", &err)) fail_msg("%s", err.msg);
    assert_non_null(kd_tensors_find(t, "param.fc0.weight"));
    assert_non_null(kd_tensors_metadata(t, "spec"));
    kd_tensors_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_read_back),
        cmocka_unit_test(the_same_tensors_give_the_same_bytes),
        cmocka_unit_test(writing_refuses_wrong_tensors),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(hostile_lengths_are_refused_before_memory_is_taken),
        cmocka_unit_test(a_deep_header_is_refused),
        cmocka_unit_test(cut_and_flipped_files_never_crash),
        cmocka_unit_test(the_golden_files_of_pytorch_open),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
