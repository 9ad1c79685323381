/* test_gguf.c - GGUF files: what others wrote (tests/golden/blocks.gguf, by PyPI's gguf) and what kd writes
 * is read; every kind of damage is refused with one sentence that names what is wrong. */
#include "kd/gguf.h"

#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-gguf-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* ---- what is right -------------------------------------------------------------------------- */

static void blocks_decode_to_the_last_bit_as_the_reference_decodes_them(void **state)
{
    (void)state;
    kd_gguf *g;
    const kd_gguf_tensor *t;
    int types = 0;
    OK(kd_gguf_open(&g, "tests/golden/blocks.gguf", err));
    const size_t n = kd_gguf_tensors(g, &t);
    for (size_t i = 0; i < n; i++) {
        char name[80];
        snprintf(name, sizeof name, "%s.f32", t[i].name);
        const kd_gguf_tensor *want = kd_gguf_find_tensor(g, name);
        if (!want) continue; // a reference itself
        float *a = malloc(t[i].n * sizeof *a), *b = malloc(want->n * sizeof *b);
        assert_int_equal(t[i].n, want->n);
        assert_int_equal(t[i].ndims, 2);
        assert_int_equal(t[i].dims[0], 2); // rows first
        OK(kd_gguf_read(g, &t[i], a, err));
        OK(kd_gguf_read(g, want, b, err));
        for (size_t k = 0; k < want->n; k++)
            if (memcmp(&a[k], &b[k], sizeof *a))
                fail_msg("%s, number %zu: %.9g, the reference has %.9g", t[i].name, k, (double)a[k],
                         (double)b[k]);
        free(a);
        free(b);
        types++;
    }
    assert_int_equal(types, 8);
    kd_gguf_close(g);
}

static int64_t whole(const kd_gguf *g, const char *key)
{
    int64_t v;
    OK(kd_gguf_int(g, key, INT64_MIN, INT64_MAX, &v, err));
    return v;
}

static void values_of_every_kind_are_read(void **state)
{
    (void)state;
    kd_gguf *g;
    double x;
    int64_t n;
    const kd_gguf_value *list;
    OK(kd_gguf_open(&g, "tests/golden/blocks.gguf", err));
    assert_int_equal(whole(g, "kind.uint8"), 200);
    assert_int_equal(whole(g, "kind.int8"), -100);
    assert_int_equal(whole(g, "kind.uint16"), 60000);
    assert_int_equal(whole(g, "kind.int16"), -30000);
    assert_int_equal(whole(g, "kind.uint32"), 4000000000);
    assert_int_equal(whole(g, "kind.int32"), -2000000000);
    assert_int_equal(whole(g, "kind.uint64"), (int64_t)1 << 40);
    assert_int_equal(whole(g, "kind.int64"), -((int64_t)1 << 40));
    assert_int_equal(whole(g, "kind.bool"), 1);
    OK(kd_gguf_real(g, "kind.float32", &x, err));
    assert_true(x == (double)0.1f);
    OK(kd_gguf_real(g, "kind.float64", &x, err));
    assert_true(x == 0.1);
    OK(kd_gguf_real(g, "kind.uint8", &x, err));
    assert_true(x == 200);
    assert_string_equal(kd_gguf_str(g, "kind.string"), "\xC3\xA9t\xC3\xA9");
    assert_string_equal(kd_gguf_str(g, "general.architecture"), "blocks");
    OK(kd_gguf_list(g, "list.text", KD_GGUF_KIND_TEXT, &list, err));
    const kd_gguf_text *text = list->items;
    assert_int_equal(list->n, 3);
    assert_string_equal(text[0].bytes, "a");
    assert_int_equal(text[1].len, 0);
    assert_string_equal(text[2].bytes, "bc");
    OK(kd_gguf_list(g, "list.i32", KD_GGUF_KIND_I32, &list, err));
    assert_int_equal(((const int32_t *)list->items)[1], -2);
    FAILS(kd_gguf_list(g, "list.f32", KD_GGUF_KIND_I32, &list, err), KD_ECORRUPT, "list.f32");
    FAILS(kd_gguf_int(g, "kind.uint8", 0, 100, &n, err), KD_ECORRUPT, "is 200, expected 0 to 100");
    FAILS(kd_gguf_int(g, "kind.string", 0, 100, &n, err), KD_ECORRUPT, "is a text");
    FAILS(kd_gguf_real(g, "kind.none", &x, err), KD_ECORRUPT, "kind.none is missing");
    assert_null(kd_gguf_str(g, "kind.uint8"));
    assert_null(kd_gguf_find_tensor(g, "q5_0"));
    kd_gguf_close(g);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    kd_gguf_writer w = {0};
    kd_newfile *f;
    kd_gguf *g;
    float a[64], b[64], c[3] = {1, -2, 0.5f}, back[64];
    const int32_t kinds[2] = {1, -3};
    for (int i = 0; i < 64; i++) a[i] = b[i] = sinf((float)i) * 3;
    kd_gguf_put_str(&w, "general.architecture", "test");
    kd_gguf_put_u32(&w, "a.u32", 7);
    kd_gguf_put_f32(&w, "a.f32", 0.25f);
    kd_gguf_put_bool(&w, "a.bool", true);
    kd_gguf_put_texts(&w, "a.texts", 2);
    kd_gguf_put_item(&w, "x", 1);
    kd_gguf_put_item(&w, "", 0);
    kd_gguf_put_i32s(&w, "a.i32s", kinds, 2);
    kd_gguf_put_tensor(&w, "q", KD_GGUF_Q8_0, 2, (int64_t[]){2, 32});
    kd_gguf_put_tensor(&w, "h", KD_GGUF_F16, 2, (int64_t[]){32, 2});
    kd_gguf_put_tensor(&w, "f", KD_GGUF_F32, 1, (int64_t[]){3});
    OK(kd_newfile_open(&f, path, err));
    OK(kd_gguf_put_head(&w, kd_newfile_stream(f), err));
    kd_gguf_put_numbers(kd_newfile_stream(f), KD_GGUF_Q8_0, a, 64);
    kd_gguf_put_numbers(kd_newfile_stream(f), KD_GGUF_F16, b, 64);
    kd_gguf_put_numbers(kd_newfile_stream(f), KD_GGUF_F32, c, 3);
    OK(kd_newfile_commit(f, err));
    kd_gguf_writer_release(&w);
    OK(kd_gguf_open(&g, path, err));
    assert_int_equal(whole(g, "a.u32"), 7);
    assert_int_equal(whole(g, "a.bool"), 1);
    const struct {
        const char *name;
        const float *want;
        size_t n;
    } tensors[] = {{"q", a, 64}, {"h", b, 64}, {"f", c, 3}}; // put_numbers left in them what it wrote
    for (int i = 0; i < 3; i++) {
        const kd_gguf_tensor *t = kd_gguf_find_tensor(g, tensors[i].name);
        assert_non_null(t);
        assert_int_equal(t->n, tensors[i].n);
        OK(kd_gguf_read(g, t, back, err));
        assert_memory_equal(back, tensors[i].want, t->n * sizeof *back);
    }
    assert_int_equal(truncate(path, (off_t)kd_gguf_find_tensor(g, "f")->where), 0);
    FAILS(kd_gguf_read(g, kd_gguf_find_tensor(g, "f"), back, err), KD_ECORRUPT, "it was longer before");
    kd_gguf_close(g);
}

/* ---- what is not ---------------------------------------------------------------------------- */

/* A file as it is put together: each function appends. */
static kd_buf file;
static void u8(uint8_t v) { kd_buf_append(&file, &v, sizeof v); }
static void u32(uint32_t v) { kd_buf_append(&file, &v, sizeof v); }
static void u64(uint64_t v) { kd_buf_append(&file, &v, sizeof v); }
static void str(const char *s)
{
    u64(strlen(s));
    kd_buf_puts(&file, s);
}
static void head(const char *magic, uint32_t version, uint64_t tensors, uint64_t keys)
{
    kd_buf_puts(&file, magic);
    u32(version);
    u64(tensors);
    u64(keys);
}
static void key(const char *name, uint32_t kind)
{
    str(name);
    u32(kind);
}
static void number(const char *name, uint32_t v)
{
    key(name, KD_GGUF_KIND_U32);
    u32(v);
}
static void tensor(const char *name, uint32_t axes, const uint64_t *dims, uint32_t type, uint64_t where)
{
    str(name);
    u32(axes);
    for (uint32_t i = 0; i < axes; i++) u64(dims[i]);
    u32(type);
    u64(where);
}
static void zeros(size_t n)
{
    while (n--) u8(0);
}
static void pad(size_t to)
{
    while (file.len % to) u8(0);
}
static void vector(const char *name, uint64_t n, uint64_t where) { tensor(name, 1, &n, KD_GGUF_F32, where); }

static void no_file(void) {}
static void half_magic(void) { kd_buf_puts(&file, "GG"); }
static void other_magic(void) { head("GGML", 3, 0, 0); }
static void no_counts(void)
{
    kd_buf_puts(&file, "GGUF");
    u32(3);
}
static void version_0(void) { head("GGUF", 0, 0, 0); }
static void version_1(void) { head("GGUF", 1, 0, 0); }
static void version_4(void) { head("GGUF", 4, 0, 0); }
static void big_endian(void) { head("GGUF", 0x03000000, 0, 0); }
static void many_tensors(void) { head("GGUF", 3, UINT64_MAX / 2, 0); }
static void many_keys(void) { head("GGUF", 3, 0, UINT64_MAX / 2); }
static void one_key_too_many(void)
{
    head("GGUF", 3, 0, 2);
    number("a", 1);
    zeros(2);
}
static void long_key(void)
{
    head("GGUF", 3, 0, 1);
    u64(UINT64_MAX);
    zeros(64);
}
static void key_over_limit(void)
{
    head("GGUF", 3, 0, 1);
    u64(KD_GGUF_MAX_KEY);
    zeros(600);
}
static void empty_key(void)
{
    head("GGUF", 3, 0, 1);
    key("", KD_GGUF_KIND_U8);
    zeros(8);
}
static void key_with_newline(void)
{
    head("GGUF", 3, 0, 1);
    number("a\nb", 1);
}
static void key_twice(void)
{
    head("GGUF", 3, 0, 2);
    number("general.x", 1);
    number("general.x", 1);
}
static void unknown_kind(void)
{
    head("GGUF", 3, 0, 1);
    key("a.key", KD_GGUF_KINDS);
    zeros(16);
}
static void half_value(void)
{
    head("GGUF", 3, 0, 1);
    key("a.key", KD_GGUF_KIND_U64);
    u32(1);
}
static void long_text(void)
{
    head("GGUF", 3, 0, 1);
    key("a.key", KD_GGUF_KIND_TEXT);
    u64(1000);
    zeros(10);
}
static void odd_truth(void)
{
    head("GGUF", 3, 0, 1);
    key("a.key", KD_GGUF_KIND_BOOL);
    u8(2);
}
static void list(uint32_t kind, uint64_t n)
{
    head("GGUF", 3, 0, 1);
    key("a.key", KD_GGUF_KIND_LIST);
    u32(kind);
    u64(n);
}
static void list_of_unknown(void)
{
    list(99, 1);
    zeros(16);
}
static void list_of_lists(void)
{
    list(KD_GGUF_KIND_LIST, 1);
    zeros(16);
}
static void long_list(void)
{
    list(KD_GGUF_KIND_F64, UINT64_MAX / 8);
    zeros(16);
}
static void list_over_end(void)
{
    list(KD_GGUF_KIND_U32, 5);
    zeros(16);
}
static void long_text_in_list(void)
{
    list(KD_GGUF_KIND_TEXT, 2);
    str("ok");
    u64(UINT64_MAX);
    zeros(8);
}
static void alignment(uint32_t v)
{
    head("GGUF", 3, 0, 1);
    number("general.alignment", v);
}
static void alignment_0(void) { alignment(0); }
static void alignment_33(void) { alignment(33); }
static void alignment_huge(void) { alignment(1u << 31); }
static void alignment_text(void)
{
    head("GGUF", 3, 0, 1);
    key("general.alignment", KD_GGUF_KIND_TEXT);
    str("32");
}
static void part_of_many(void)
{
    head("GGUF", 3, 0, 1);
    number("split.count", 2);
}
static void name_over_limit(void)
{
    head("GGUF", 3, 1, 0);
    vector("0123456789012345678901234567890123456789012345678901234567890123", 4, 0);
    zeros(64);
}
static void empty_name(void)
{
    head("GGUF", 3, 1, 0);
    vector("", 4, 0);
    zeros(64);
}
static void no_axes(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 0, NULL, KD_GGUF_F32, 0);
    zeros(64);
}
static void five_axes(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 5, (uint64_t[]){1, 1, 1, 1, 1}, KD_GGUF_F32, 0);
    zeros(64);
}
static void axis_0(void)
{
    head("GGUF", 3, 1, 0);
    vector("a.weight", 0, 0);
    zeros(64);
}
static void axis_negative(void)
{
    head("GGUF", 3, 1, 0);
    vector("a.weight", UINT64_MAX, 0);
    zeros(64);
}
static void product_overflows(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 3, (uint64_t[]){1u << 31, 1u << 31, 1u << 31}, KD_GGUF_F32, 0);
    zeros(64);
}
static void bytes_overflow(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 2, (uint64_t[]){1u << 31, 1u << 31}, KD_GGUF_F32, 0);
    zeros(64);
}
static void unknown_type(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 1, (uint64_t[]){4}, 4, 0);
    zeros(64);
}
static void half_block(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 2, (uint64_t[]){16, 2}, KD_GGUF_Q8_0, 0);
    zeros(64);
}
static void half_super_block(void)
{
    head("GGUF", 3, 1, 0);
    tensor("a.weight", 1, (uint64_t[]){128}, KD_GGUF_Q6_K, 0);
    zeros(400);
}
static void not_aligned(void)
{
    head("GGUF", 3, 2, 0);
    vector("a.weight", 4, 0);
    vector("b.weight", 4, 16);
    pad(32);
    zeros(64);
}
static void overlapping(void)
{
    head("GGUF", 3, 2, 0);
    vector("a.weight", 16, 0);
    vector("b.weight", 16, 32);
    pad(32);
    zeros(128);
}
static void with_a_hole(void)
{
    head("GGUF", 3, 2, 0);
    vector("a.weight", 4, 0);
    vector("b.weight", 4, 64);
    pad(32);
    zeros(128);
}
static void behind_the_end(void)
{
    head("GGUF", 3, 1, 0);
    vector("a.weight", 4, (uint64_t)1 << 62);
    zeros(64);
}
static void name_twice(void)
{
    head("GGUF", 3, 2, 0);
    vector("a.weight", 4, 0);
    vector("a.weight", 4, 32);
    pad(32);
    zeros(64);
}
static void half_a_tensor(void)
{
    head("GGUF", 3, 1, 0);
    str("a.weight");
    u32(1);
    u64(4);
    u32(KD_GGUF_F32);
    u8(0);
}
static void too_few_numbers(void)
{
    head("GGUF", 3, 2, 0);
    vector("a.weight", 4, 0);
    vector("b.weight", 4, 32);
    pad(32);
    zeros(32 + 15);
}
static void numbers_by_another_alignment(void)
{
    head("GGUF", 3, 2, 1);
    number("general.alignment", 64);
    vector("a.weight", 4, 0);
    vector("b.weight", 4, 32);
    pad(64);
    zeros(128);
}

static const struct {
    void (*make)(void);
    kd_status status;
    const char *says;
} hostile[] = {
    {no_file, KD_ECORRUPT, "does not begin with GGUF"},
    {half_magic, KD_ECORRUPT, "does not begin with GGUF"},
    {other_magic, KD_ECORRUPT, "does not begin with GGUF"},
    {no_counts, KD_ECORRUPT, "the number of tensors needs 8 bytes, the file has 0 more"},
    {version_0, KD_EUNSUPPORTED, "GGUF version 0"},
    {version_1, KD_EUNSUPPORTED, "GGUF version 1"},
    {version_4, KD_EUNSUPPORTED, "GGUF version 4"},
    {big_endian, KD_EUNSUPPORTED, "big-endian"},
    {many_tensors, KD_ECORRUPT, "the number of tensors is 9223372036854775807, 8 bytes are left"},
    {many_keys, KD_ECORRUPT, "the number of keys is 9223372036854775807"},
    {one_key_too_many, KD_ECORRUPT, "the number of keys is 2, 19 bytes are left"},
    {long_key, KD_ECORRUPT, "the name of a key is 18446744073709551615"},
    {key_over_limit, KD_ECORRUPT, "the name of a key has 256 bytes, expected 1 to 255"},
    {empty_key, KD_ECORRUPT, "the name of a key has 0 bytes"},
    {key_with_newline, KD_ECORRUPT, "no letter of ASCII"},
    {key_twice, KD_ECORRUPT, "key general.x is there twice"},
    {unknown_kind, KD_ECORRUPT, "key a.key: there is no kind 13"},
    {half_value, KD_ECORRUPT, "a.key needs 8 bytes, the file has 4 more"},
    {long_text, KD_ECORRUPT, "key a.key"},
    {odd_truth, KD_ECORRUPT, "neither 0 nor 1"},
    {list_of_unknown, KD_ECORRUPT, "there is no kind 99"},
    {list_of_lists, KD_EUNSUPPORTED, "key a.key: a list of lists"},
    {long_list, KD_ECORRUPT, "the length of a list is 2305843009213693951, 16 bytes are left"},
    {list_over_end, KD_ECORRUPT, "the length of a list is 5"},
    {long_text_in_list, KD_ECORRUPT, "the length of a text is 18446744073709551615"},
    {alignment_0, KD_ECORRUPT, "general.alignment is no power of two"},
    {alignment_33, KD_ECORRUPT, "general.alignment is no power of two"},
    {alignment_huge, KD_ECORRUPT, "general.alignment is no power of two up to 1048576"},
    {alignment_text, KD_ECORRUPT, "general.alignment is no power of two"},
    {part_of_many, KD_EUNSUPPORTED, "is one of 2 parts"},
    {name_over_limit, KD_ECORRUPT, "the name of a tensor has 64 bytes, expected 1 to 63"},
    {empty_name, KD_ECORRUPT, "the name of a tensor has 0 bytes"},
    {no_axes, KD_ECORRUPT, "tensor a.weight has 0 axes"},
    {five_axes, KD_ECORRUPT, "tensor a.weight has 5 axes"},
    {axis_0, KD_ECORRUPT, "tensor a.weight: axis 0 of size 0"},
    {axis_negative, KD_ECORRUPT, "tensor a.weight: axis 0 of size -1"},
    {product_overflows, KD_ECORRUPT, "or the product of its axes"},
    {bytes_overflow, KD_ECORRUPT, "tensor a.weight: its shape needs more bytes than the file has"},
    {unknown_type, KD_EUNSUPPORTED, "tensor a.weight is of type 4"},
    {half_block, KD_ECORRUPT, "rows of 16 numbers are no whole blocks of Q8_0"},
    {half_super_block, KD_ECORRUPT, "rows of 128 numbers are no whole blocks of Q6_K"},
    {not_aligned, KD_ECORRUPT, "tensor b.weight begins at 16, expected 32"},
    {overlapping, KD_ECORRUPT, "tensor b.weight begins at 32, expected 64"},
    {with_a_hole, KD_ECORRUPT, "tensor b.weight begins at 64, expected 32"},
    {behind_the_end, KD_ECORRUPT, "tensor a.weight begins at 4611686018427387904, expected 0"},
    {name_twice, KD_ECORRUPT, "tensor a.weight is there twice"},
    {half_a_tensor, KD_ECORRUPT, "a.weight needs 8 bytes, the file has 1 more"},
    {too_few_numbers, KD_ECORRUPT, "tensor b.weight ends at byte"},
    {numbers_by_another_alignment, KD_ECORRUPT, "tensor b.weight begins at 32, expected 64"},
};

static void damaged_files_are_refused_with_one_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        kd_gguf *g = (kd_gguf *)1;
        kd_err e = {0};
        file.len = 0;
        hostile[i].make();
        OK(kd_file_write(path, file.text ? file.text : "", file.len, err));
        const kd_status st = kd_gguf_open(&g, path, &e);
        if (st != hostile[i].status || e.code != st || !strstr(e.msg, hostile[i].says) ||
            !strstr(e.msg, path) || strchr(e.msg, '\n') || g)
            fail_msg("class %zu: %s: '%s'; expected %s and '%s'", i, kd_strstatus(st), e.msg,
                     kd_strstatus(hostile[i].status), hostile[i].says);
    }
    kd_buf_release(&file);
}

/* Cut anywhere, a file is refused; only the zeros behind its last number may be missing. */
static void a_file_that_ends_early_is_refused(void **state)
{
    (void)state;
    char *text;
    size_t len;
    OK(kd_file_read("tests/golden/blocks.gguf", 1 << 20, &text, &len, err));
    for (size_t n = 0; n < len; n += n < 2048 ? 1 : 97) {
        kd_gguf *g;
        kd_err e = {0};
        OK(kd_file_write(path, text, n, err));
        assert_true(kd_gguf_open(&g, path, &e) == KD_ECORRUPT && *e.msg);
    }
    free(text);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    kd_gguf *g;
    char none[80];
    snprintf(none, sizeof none, "%s/none", folder);
    FAILS(kd_gguf_open(&g, folder, err), KD_ECORRUPT, "not a regular file");
    FAILS(kd_gguf_open(&g, none, err), KD_ENOTFOUND, "cannot open");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_decode_to_the_last_bit_as_the_reference_decodes_them),
        cmocka_unit_test(values_of_every_kind_are_read),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(damaged_files_are_refused_with_one_sentence),
        cmocka_unit_test(a_file_that_ends_early_is_refused),
        cmocka_unit_test(what_is_no_file_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
