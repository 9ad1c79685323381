/* test_exchange_export.c - columns go out, and come in again with the same values. */
#include "exchange_fixture.h"

static const char *store(void) { return ex_path("s.kd"); }

static kd_status export(const char *path, const char *const *columns, size_t n, const char *format,
                        kd_err *err)
{
    kd_store *s;
    kd_export_params x = {.columns = columns, .n = n, .split = -1, .format = format, .force = true};
    kd_status st = kd_store_open(&s, store(), err);
    if (st) return st;
    st = kd_export(s, path, &x, NULL, err);
    kd_store_close(s);
    return st;
}

/* Block by block, two columns are the same bytes. */
static void same_column(const char *a, const char *b)
{
    kd_store *s;
    kd_cursor *c;
    OK(kd_store_open(&s, store(), err));
    OK(kd_cursor_open(&c, s, err));
    const int ka = kd_store_find(s, a), kb = kd_store_find(s, b);
    if (ka < 0 || kb < 0) fail_msg("no column %s", ka < 0 ? a : b);
    assert_int_equal(kd_store_column(s, (size_t)ka)->dtype, kd_store_column(s, (size_t)kb)->dtype);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        size_t na, nb;
        OK(kd_cursor_size(c, ka, i, &na, err));
        OK(kd_cursor_size(c, kb, i, &nb, err));
        assert_int_equal(na, nb);
        uint8_t *x = malloc(na + 1), *y = malloc(nb + 1);
        OK(kd_cursor_read(c, ka, i, x, na, err));
        OK(kd_cursor_read(c, kb, i, y, nb, err));
        assert_memory_equal(x, y, na);
        free(x);
        free(y);
    }
    kd_cursor_close(c);
    kd_store_close(s);
}

static void what_went_out_comes_in_the_same(void **state)
{
    (void)state;
    static const struct {
        const char *from, *file, *order, *to;
    } way[] = {
        {"t/logits", "a.npy", "store", "a/logits"},      {"t/logits", "b.safetensors", NULL, "b/logits"},
        {"t/logits", "c.jsonl", NULL, "c/logits"},       {"h/logits", "d.npy", "store", "d/logits"},
        {"h/logits", "e.safetensors", NULL, "e/logits"}, {"t/feat.pos", "f.safetensors", NULL, "f/feat.pos"},
        {"t/feat.pos", "g.jsonl", NULL, "g/feat.pos"},   {"h/feat.bf", "h.safetensors", NULL, "i/feat.bf"},
    };
    for (size_t i = 0; i < KD_COUNT(way); i++) {
        char name[2] = {way[i].to[0], 0};
        kd_import_params p = ex_params(name);
        p.order = way[i].order;
        OK(export(ex_path(way[i].file), &way[i].from, 1, NULL, err));
        // Files say which teacher they are of; this one is to have another name, not another fingerprint.
        OK(ex_import(store(), ex_path(way[i].file), &p, NULL, err));
        same_column(way[i].from, way[i].to);
    }
}

static void several_columns_share_one_file_of_tensors(void **state)
{
    (void)state;
    const char *const columns[] = {"label", "t/logits", "t/feat.pos", "id"};
    kd_tensors *t;
    OK(export(ex_path("all.safetensors"), columns, 4, NULL, err));
    OK(kd_tensors_open(&t, ex_path("all.safetensors"), err));
    assert_int_equal(kd_tensors_count(t), 5);
    const kd_tensor *label = kd_tensors_find(t, "label"), *ids = kd_tensors_find(t, "ids");
    const kd_tensor *lengths = kd_tensors_find(t, "t/feat.pos.lengths");
    assert_true(label && ids && lengths && kd_tensors_find(t, "t/feat.pos"));
    for (uint32_t i = 0; i < EX_ROWS; i++) {
        const kd_id id = ex_id(ex_row(i));
        assert_int_equal(((const int32_t *)label->data)[i], ex_row(i) % EX_CLASSES);
        assert_memory_equal((const uint8_t *)ids->data + 16 * (size_t)i, &id, 16);
        assert_int_equal(((const uint32_t *)lengths->data)[i], ex_row(i) % 4);
    }
    assert_string_equal(kd_tensors_metadata(t, "kd.teacher"), "fp-t");
    assert_string_equal(kd_tensors_metadata(t, "kd.tokenizer"), "tok-1");
    kd_tensors_close(t);
}

static void rows_and_splits_can_be_chosen(void **state)
{
    (void)state;
    char *text, want[256], hex[33];
    size_t len;
    kd_store *s;
    const char *columns[] = {"label", "source"};
    kd_export_report r;
    kd_export_params x = {.columns = columns, .n = 2, .split = KD_VALID, .rows = 2};
    OK(kd_store_open(&s, store(), err));
    OK(kd_export(s, ex_path("v.csv"), &x, &r, err));
    assert_int_equal(r.rows, 2);
    OK(kd_file_read(ex_path("v.csv"), 1 << 16, &text, &len, err));
    assert_int_equal(r.bytes, len);
    int n = snprintf(want, sizeof(want), "id,label,source\n");
    for (uint32_t i = EX_TRAIN; i < EX_TRAIN + 2; i++) {
        kd_id_hex(ex_id(ex_row(i)), hex);
        n += snprintf(want + n, sizeof(want) - (size_t)n, "%s,%u,%u\n", hex, ex_row(i) % EX_CLASSES,
                      ex_row(i));
    }
    assert_string_equal(text, want);
    free(text);
    FAILS(kd_export(s, ex_path("v.csv"), &x, &r, err), KD_EEXISTS, "--force replaces it");
    x.split = KD_TEST;
    FAILS(kd_export(s, ex_path("w.csv"), &x, &r, err), KD_EUSAGE, "no rows of split test");
    assert_false(kd_exists(ex_path("w.csv")));
    kd_store_close(s);
}

static void what_a_format_cannot_hold_is_refused(void **state)
{
    (void)state;
    const char *ragged = "t/feat.pos", *wrong = "t/logit", *nan_ = "n/logits";
    const char *twice[] = {"label", "label"}, *two[] = {"label", "source"};
    FAILS(export(ex_path("x.npy"), &ragged, 1, NULL, err), KD_EUNSUPPORTED, "ragged");
    FAILS(export(ex_path("x.csv"), &ragged, 1, NULL, err), KD_EUNSUPPORTED, "use .jsonl");
    FAILS(export(ex_path("x.npy"), two, 2, NULL, err), KD_EUSAGE, "one column");
    FAILS(export(ex_path("x.csv"), twice, 2, NULL, err), KD_EUSAGE, "twice");
    FAILS(export(ex_path("x.csv"), &wrong, 1, NULL, err), KD_ENOTFOUND, "did you mean 't/logits'");
    FAILS(export(ex_path("x.bin"), two, 2, NULL, err), KD_EUSAGE, "npy, safetensors, jsonl or csv");
    FAILS(export("-", two, 2, "npy", err), KD_EUSAGE, "cannot go to stdout");
    FAILS(export(ex_path("x.csv"), NULL, 0, NULL, err), KD_EUSAGE, "name at least one");
    FAILS(export(ex_path("x.jsonl"), &nan_, 1, NULL, err), KD_ENUMERIC, "n/logits: row 12 is nan");
    assert_false(kd_exists(ex_path("x.npy")) || kd_exists(ex_path("x.csv")) || kd_exists(ex_path("x.jsonl")));
    FAILS(export(ex_path("none/x.csv"), two, 2, NULL, err), KD_ENOTFOUND, "none/x.csv");
}

/* Columns to export: f32 and f16 logits, ragged features, bf16 features, and logits with a NaN. */
static void add_columns(void)
{
    kd_store *s;
    kd_store_writer *w;
    kd_column c[5] = {{.name = "t/logits",
                       .role = KD_ROLE_LOGITS,
                       .dtype = KD_F32,
                       .ndims = 1,
                       .dims = {EX_CLASSES},
                       .teacher = "t",
                       .tap = "fc1"},
                      {.name = "h/logits",
                       .role = KD_ROLE_LOGITS,
                       .dtype = KD_F16,
                       .ndims = 1,
                       .dims = {EX_CLASSES},
                       .teacher = "t"},
                      {.name = "t/feat.pos",
                       .role = KD_ROLE_FEATURE,
                       .dtype = KD_F32,
                       .ndims = 2,
                       .dims = {-1, 3},
                       .teacher = "t",
                       .tap = "pos"},
                      {.name = "h/feat.bf",
                       .role = KD_ROLE_FEATURE,
                       .dtype = KD_BF16,
                       .ndims = 2,
                       .dims = {2, 3},
                       .teacher = "t",
                       .tap = "bf"},
                      {.name = "n/logits",
                       .role = KD_ROLE_LOGITS,
                       .dtype = KD_F32,
                       .ndims = 1,
                       .dims = {1},
                       .teacher = "t"}};
    json_t *extra = json_pack("{s:{s:s, s:s}}", "teacher", "name", "t", "fingerprint", "fp-t");
    kd_writer_params p = kd_writer_default_params();
    OK(kd_store_open(&s, store(), err));
    OK(kd_store_extend(&w, s, "t", c, 5, NULL, &p, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        float logits[EX_CHUNK * EX_CLASSES], feat[EX_CHUNK * 9], maps[EX_CHUNK * 6], nan_[EX_CHUNK];
        uint16_t half[EX_CHUNK * EX_CLASSES], brain[EX_CHUNK * 6];
        uint32_t lengths[EX_CHUNK], n = 0;
        for (uint32_t r = 0; r < ci->rows; r++) {
            const uint32_t row = ex_row((uint32_t)ci->first + r);
            for (uint32_t k = 0; k < EX_CLASSES; k++) logits[r * EX_CLASSES + k] = ex_value(row, k);
            for (uint32_t k = 0; k < 6; k++) maps[r * 6 + k] = ex_value(row, k);
            for (uint32_t k = 0; k < row % 4 * 3; k++) feat[n++] = ex_value(row, k);
            lengths[r] = row % 4;
            nan_[r] = ci->first + r == 12 ? NAN : 1;
        }
        kd_from_f32(half, KD_F16, logits, ci->rows * EX_CLASSES);
        kd_from_f32(brain, KD_BF16, maps, ci->rows * 6u);
        const kd_block b[5] = {{logits, 4u * ci->rows * EX_CLASSES, NULL},
                               {half, 2u * ci->rows * EX_CLASSES, NULL},
                               {feat, 4u * n, lengths},
                               {brain, 2u * ci->rows * 6, NULL},
                               {nan_, 4u * ci->rows, NULL}};
        OK(kd_store_writer_append(w, ci->split, ci->rows, b, err));
    }
    OK(kd_store_writer_seal(w, extra, err));
    kd_store_close(s);
    json_decref(extra);
}

static int set_up_store(void **state)
{
    if (ex_set_up(state)) return -1;
    ex_make(store(), 1);
    add_columns();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_went_out_comes_in_the_same),
        cmocka_unit_test(several_columns_share_one_file_of_tensors),
        cmocka_unit_test(rows_and_splits_can_be_chosen),
        cmocka_unit_test(what_a_format_cannot_hold_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up_store, ex_tear_down);
}
