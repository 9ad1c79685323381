/* test_exchange.c - arrays come in and go out: .npy, safetensors, and how rows are matched. */
#include "exchange_fixture.h"

static const char *store(void) { return ex_path("s.kd"); }

/* ---- which row is which ------------------------------------------------------------------- */

static void an_array_in_a_declared_order_comes_in(void **state)
{
    (void)state;
    kd_import_params p = ex_params("big");
    kd_import_report r;
    ex_logits_npy(ex_path("source.npy"), 0, EX_ROWS, false);
    ex_logits_npy(ex_path("store.npy"), 0, EX_ROWS, true);
    p.order = "source";
    OK(ex_import(store(), ex_path("source.npy"), &p, &r, err));
    ex_has_logits(store(), "big/logits");
    assert_int_equal(r.rows, EX_ROWS);
    assert_int_equal(r.positions, EX_ROWS);
    assert_int_equal(r.columns, 1);
    char *by_source = ex_root(store(), "big");
    p.order = "store";
    OK(ex_import(store(), ex_path("store.npy"), &p, &r, err));
    ex_has_logits(store(), "big/logits");
    char *by_store = ex_root(store(), "big");
    assert_string_equal(by_store, by_source); // the same outputs in files of another order
    free(by_store);
    free(by_source);
}

/* Ids in text, in CSV with another column before them, in an array; each in another order of rows. */
static void an_array_with_a_file_of_ids_comes_in(void **state)
{
    (void)state;
    uint32_t row[EX_ROWS];
    kd_buf text = {0}, csv = {0};
    kd_id id[EX_ROWS];
    float v[EX_ROWS * EX_CLASSES];
    char hex[33];
    ex_order(row, 1);
    kd_buf_puts(&csv, "name,\"id\"\n");
    for (uint32_t i = 0; i < EX_ROWS; i++) {
        id[i] = ex_id(row[i]);
        kd_id_hex(id[i], hex);
        kd_buf_printf(&text, "%s\r\n", hex);
        kd_buf_printf(&csv, "row %u,\"%s\"\n", row[i], hex);
        for (uint32_t k = 0; k < EX_CLASSES; k++) v[i * EX_CLASSES + k] = ex_value(row[i], k);
    }
    ex_npy(ex_path("turned.npy"), "<f4", "(40, 10)", v, sizeof(v));
    ex_write(ex_path("ids.txt"), text.text, text.len);
    ex_write(ex_path("ids.csv"), csv.text, csv.len);
    ex_npy(ex_path("ids.npy"), "|u1", "(40, 16)", id, sizeof(id));
    char *want = ex_root(store(), "big");
    const char *const files[] = {"ids.txt", "ids.csv", "ids.npy"};
    for (size_t i = 0; i < KD_COUNT(files); i++) {
        kd_import_params p = ex_params("big");
        p.ids = ex_path(files[i]);
        OK(ex_import(store(), ex_path("turned.npy"), &p, NULL, err));
        char *got = ex_root(store(), "big");
        assert_string_equal(got, want);
        free(got);
    }
    free(want);
    kd_buf_release(&text);
    kd_buf_release(&csv);
}

static void tensors_with_ids_come_in_in_any_order(void **state)
{
    (void)state;
    uint32_t row[EX_ROWS];
    char *root[2];
    for (int i = 0; i < 2; i++) {
        kd_import_params p = ex_params("tens");
        ex_order(row, i);
        ex_tensors(ex_path("t.safetensors"), row, EX_ROWS, NULL);
        OK(ex_import(store(), ex_path("t.safetensors"), &p, NULL, err));
        ex_has_logits(store(), "tens/logits");
        root[i] = ex_root(store(), "tens");
    }
    assert_string_equal(root[0], root[1]);
    free(root[0]);
    free(root[1]);
}

static void several_files_are_parts_of_one_output(void **state)
{
    (void)state;
    kd_store *s;
    kd_import_params p = ex_params("parts");
    const char *list[3] = {ex_path("a.npy"), ex_path("b.npy"), ex_path("c.npy")};
    ex_logits_npy(list[0], 0, 17, false);
    ex_logits_npy(list[1], 17, 18, false);
    ex_logits_npy(list[2], 18, EX_ROWS, false);
    p.order = "source";
    OK(kd_store_open(&s, store(), err));
    OK(kd_import(s, list, 3, &p, NULL, err));
    ex_has_logits(store(), "parts/logits");
    const char *odd[2] = {list[0], ex_path("t.safetensors")};
    FAILS(kd_import(s, odd, 2, &p, NULL, err), KD_EMISMATCH, "files of two formats");
    kd_store_close(s);
}

static void rows_that_are_missing_foreign_or_double_are_named(void **state)
{
    (void)state;
    uint32_t row[64];
    kd_import_params p = ex_params("bad");
    const char *file = ex_path("bad.safetensors");
    ex_order(row, 0);
    ex_tensors(file, row, EX_ROWS - 1, NULL); // row 39 stands at place 17
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "1 of 40 rows of ");
    char hex[33], want[64];
    kd_id_hex(ex_id(39), hex);
    snprintf(want, sizeof(want), "the first is row 17, id %s", hex);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, want);
    row[EX_ROWS] = 1000;
    ex_tensors(file, row, EX_ROWS + 1, NULL);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "1 rows are not of ");
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "bad.safetensors, row 40, id ");
    row[EX_ROWS] = 5;
    ex_tensors(file, row, EX_ROWS + 1, NULL);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "row 5 and ");
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "row 40 have the same id ");
    row[3] = 1000;
    ex_tensors(file, row, EX_ROWS, NULL);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "are missing (the first: row 29, id ");
    kd_store *s;
    OK(kd_store_open(&s, store(), err));
    assert_int_equal(kd_store_find(s, "bad/logits"), -1);
    kd_store_close(s);
}

static void what_is_not_said_is_asked_for(void **state)
{
    (void)state;
    kd_import_params p = ex_params("big");
    const char *file = ex_path("source.npy");
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "--order store");
    p.order = "store", p.ids = ex_path("ids.txt");
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "give one of them");
    p.order = "sideways", p.ids = NULL;
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "`store` or `source`");
    p.order = "store", p.role = "label";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "role 'label'");
    p.role = NULL, p.name = NULL;
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "--name");
    p.name = "big", p.dtype = "i32";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "dtype 'i32'");
    p.dtype = NULL, p.encoding = "int9";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EUSAGE, "int9");
    p.encoding = NULL, p.writer.force = false;
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EEXISTS, "segment 'big' is already there");
    FAILS(ex_import(store(), ex_path("none.npy"), &p, NULL, err), KD_ENOTFOUND, "none.npy");
}

/* ---- whose outputs ------------------------------------------------------------------------ */

static void outputs_of_another_teacher_data_or_tokenizer_are_refused(void **state)
{
    (void)state;
    uint32_t row[EX_ROWS];
    const char *file = ex_path("named.safetensors"), *other = ex_path("other.kd");
    char *root = ex_root(store(), "base");
    kd_import_params p = ex_params("named");
    ex_order(row, 0);
    ex_make(other, 2);
    json_t *meta =
        json_pack("{s:s, s:s, s:s}", "kd.teacher", "fp-1", "kd.data", root, "kd.tokenizer", "tok-1");
    ex_tensors(file, row, EX_ROWS, meta);
    OK(ex_import(store(), file, &p, NULL, err));
    FAILS(ex_import(other, file, &p, NULL, err), KD_EMISMATCH, "other data: its kd.data is ");
    p.fingerprint = "fp-2";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH,
          "its kd.teacher is fp-1, --fingerprint has fp-2");
    p.fingerprint = NULL;
    json_object_set_new(meta, "kd.teacher", json_string("fp-3")); // the store has this teacher by another
    ex_tensors(file, row, EX_ROWS, meta);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "other teacher: its kd.teacher is fp-3");
    json_object_set_new(meta, "kd.teacher", json_string("fp-1"));
    json_object_set_new(meta, "kd.tokenizer", json_string("tok-2"));
    ex_tensors(file, row, EX_ROWS, meta);
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH,
          "other tokenizer: its kd.tokenizer is tok-2");
    json_decref(meta);
    free(root);
}

/* ---- bad files ---------------------------------------------------------------------------- */

static void numbers_that_are_none_are_named(void **state)
{
    (void)state;
    float v[EX_ROWS * EX_CLASSES];
    kd_import_params p = ex_params("nan");
    const char *file = ex_path("nan.npy");
    p.order = "store";
    ex_logits(v, 0, EX_ROWS, true);
    v[33 * EX_CLASSES + 4] = NAN;
    ex_npy(file, "<f4", "(40, 10)", v, sizeof(v));
    FAILS(ex_import(store(), file, &p, NULL, err), KD_ENUMERIC,
          "row 33 of the store, position 0, class 4: nan");
    p.encoding = "int8";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_ENUMERIC, "row 33 of the store");
    v[33 * EX_CLASSES + 4] = 1e6f;
    ex_npy(file, "<f4", "(40, 10)", v, sizeof(v));
    p.encoding = NULL, p.dtype = "f16";
    FAILS(ex_import(store(), file, &p, NULL, err), KD_ENUMERIC,
          "does not fit into f16; import it with --dtype f32");
    p.writer.force = false, p.writer.resume = true, p.dtype = NULL; // the unfinished rest fits no longer
    FAILS(ex_import(store(), file, &p, NULL, err), KD_EMISMATCH, "cannot go on with it");
    p.writer.force = true;
    OK(ex_import(store(), file, &p, NULL, err));
}

static void files_that_are_cut_or_no_outputs_are_refused(void **state)
{
    (void)state;
    char *text;
    size_t len;
    kd_import_params p = ex_params("cut");
    const char *const files[] = {"source.npy", "t.safetensors"};
    for (size_t i = 0; i < KD_COUNT(files); i++) {
        OK(kd_file_read(ex_path(files[i]), 1 << 20, &text, &len, err));
        p.order = i ? NULL : "source";
        for (size_t cut = 0; cut < len; cut += 1 + cut / 16) {
            kd_err e = {0};
            ex_write(ex_path("cut"), text, cut);
            assert_int_not_equal(ex_import(store(), ex_path("cut"), &p, NULL, &e), KD_OK);
            assert_true(e.code != KD_EIO && e.msg[0] && !strchr(e.msg, '\n'));
        }
        free(text);
    }
    ex_write(ex_path("cut"), "hello", 5);
    FAILS(ex_import(store(), ex_path("cut"), &p, NULL, err), KD_ECORRUPT,
          "expected .npy, safetensors, JSON lines");
    ex_write(ex_path("cut"), "\x1f\x8b\x08", 3);
    FAILS(ex_import(store(), ex_path("cut"), &p, NULL, err), KD_EUNSUPPORTED, "gunzip");
    ex_write(ex_path("cut"), "", 0);
    FAILS(ex_import(store(), ex_path("cut"), &p, NULL, err), KD_ECORRUPT, "empty");
}

static void arrays_of_another_shape_are_refused(void **state)
{
    (void)state;
    float v[EX_ROWS * EX_CLASSES] = {0};
    kd_import_params p = ex_params("shape");
    kd_store *s;
    p.order = "store";
    ex_npy(ex_path("short.npy"), "<f4", "(39, 10)", v, sizeof(float) * 390);
    FAILS(ex_import(store(), ex_path("short.npy"), &p, NULL, err), KD_EMISMATCH, "39 rows, ");
    ex_npy(ex_path("a.npy"), "<f4", "(20, 10)", v, sizeof(float) * 200);
    ex_npy(ex_path("b.npy"), "<f4", "(20, 9)", v, sizeof(float) * 180);
    const char *list[2] = {ex_path("a.npy"), ex_path("b.npy")};
    OK(kd_store_open(&s, store(), err));
    FAILS(kd_import(s, list, 2, &p, NULL, err), KD_EMISMATCH, "another type or shape");
    kd_store_close(s);
    p.order = NULL, p.ids = ex_path("ids.txt");
    FAILS(ex_import(store(), ex_path("a.npy"), &p, NULL, err), KD_EMISMATCH, "40 ids for the 20 rows");
}

/* ---- what is kept ------------------------------------------------------------------------- */

static void types_are_kept_and_f64_becomes_f32(void **state)
{
    (void)state;
    double d[EX_ROWS * EX_CLASSES];
    float v[EX_ROWS * EX_CLASSES];
    uint16_t h[EX_ROWS * EX_CLASSES];
    kd_store *s;
    kd_import_params p = ex_params("wide");
    p.order = "store";
    ex_logits(v, 0, EX_ROWS, true);
    for (size_t i = 0; i < KD_COUNT(v); i++) d[i] = (double)v[i];
    kd_from_f32(h, KD_F16, v, KD_COUNT(v));
    ex_npy(ex_path("f64.npy"), "<f8", "(40, 10)", d, sizeof(d));
    ex_npy(ex_path("f16.npy"), "<f2", "(40, 10)", h, sizeof(h));
    OK(ex_import(store(), ex_path("f64.npy"), &p, NULL, err));
    ex_has_logits(store(), "wide/logits");
    p.name = "half";
    OK(ex_import(store(), ex_path("f16.npy"), &p, NULL, err));
    OK(kd_store_open(&s, store(), err));
    assert_int_equal(kd_store_column(s, (size_t)kd_store_find(s, "wide/logits"))->dtype, KD_F32);
    assert_int_equal(kd_store_column(s, (size_t)kd_store_find(s, "half/logits"))->dtype, KD_F16);
    kd_store_close(s);
    size_t n;
    float *got = ex_values(store(), "half/logits", &n), want[EX_ROWS * EX_CLASSES];
    kd_to_f32(want, h, KD_F16, n);
    assert_memory_equal(got, want, n * sizeof(float));
    free(got);
}

static void an_encoding_can_be_asked_for(void **state)
{
    (void)state;
    size_t n;
    kd_import_params p = ex_params("small");
    p.order = "source";
    p.encoding = "int8";
    OK(ex_import(store(), ex_path("source.npy"), &p, NULL, err));
    float *v = ex_values(store(), "small/logits", &n);
    for (uint32_t i = 0; i < EX_ROWS; i++)
        for (uint32_t k = 0; k < EX_CLASSES; k++)
            assert_true(fabsf(v[i * EX_CLASSES + k] - ex_value(ex_row(i), k)) < 0.03f);
    free(v);
}

static void features_get_a_column_of_their_layer(void **state)
{
    (void)state;
    float v[EX_ROWS * 6];
    kd_store *s;
    kd_import_params p = ex_params("feat");
    for (uint32_t i = 0; i < EX_ROWS * 6; i++) v[i] = ex_value(ex_row(i / 6), i % 6);
    ex_npy(ex_path("feat.npy"), "<f4", "(40, 2, 3)", v, sizeof(v));
    p.order = "store", p.role = "feature", p.tap = "block3", p.feature_encoding = "int8";
    OK(ex_import(store(), ex_path("feat.npy"), &p, NULL, err));
    OK(kd_store_open(&s, store(), err));
    const kd_column *c = kd_store_column(s, (size_t)kd_store_find(s, "feat/feat.block3"));
    assert_non_null(c);
    assert_string_equal(c->segment, "feat.feat.block3");
    assert_string_equal(c->tap, "block3");
    assert_int_equal(c->role, KD_ROLE_FEATURE);
    assert_int_equal(c->ndims, 2);
    kd_store_close(s);
    p.role = "logits";
    FAILS(ex_import(store(), ex_path("feat.npy"), &p, NULL, err), KD_EUSAGE, "--role feature");
}

static void tensors_with_unknown_names_are_left_out_and_named(void **state)
{
    (void)state;
    float v[EX_ROWS] = {0};
    kd_import_report r;
    kd_import_params p = ex_params("odd");
    const kd_tensor t[2] = {
        {.name = "logits", .dtype = KD_F32, .ndims = 2, .dims = {EX_ROWS, 1}, .data = v, .bytes = sizeof(v)},
        {.name = "zeta", .dtype = KD_F32, .ndims = 2, .dims = {EX_ROWS, 1}, .data = v, .bytes = sizeof(v)}};
    const char *file = ex_path("odd.safetensors");
    OK(kd_tensors_save(file, t, 2, NULL, err));
    p.order = "store";
    OK(ex_import(store(), file, &p, &r, err));
    assert_string_equal(r.left_out, "zeta");
    p.field = "zeta", p.role = "score";
    OK(ex_import(store(), file, &p, &r, err));
    assert_string_equal(r.left_out, "");
    OK(kd_tensors_save(file, t + 1, 1, NULL, err));
    p.field = NULL;
    FAILS(ex_import(store(), file, &p, &r, err), KD_EUSAGE, "no tensor is named logits");
}

/* ---- stopping ----------------------------------------------------------------------------- */

typedef struct brake {
    int stop, after;
} brake;

static void pull(void *arg, uint64_t done, uint64_t total)
{
    brake *b = arg;
    assert_true(done <= total);
    if (--b->after <= 0) b->stop = 1;
}

static void a_stopped_import_goes_on(void **state)
{
    (void)state;
    const char *twin = ex_path("twin.kd"), *file = ex_path("t.safetensors");
    ex_make(twin, 1);
    for (int after = 1; after < 6; after += 2) {
        char name[16];
        kd_import_report r;
        brake b = {.after = after};
        snprintf(name, sizeof(name), "halt%d", after);
        kd_import_params p = ex_params(name), stopped = p;
        OK(ex_import(twin, file, &p, NULL, err));
        stopped.stop = &b.stop, stopped.progress = pull, stopped.arg = &b;
        stopped.writer.force = false;
        FAILS(ex_import(store(), file, &stopped, NULL, err), KD_ESTOPPED, "go on with --resume");
        p.writer.force = false;
        FAILS(ex_import(store(), file, &p, NULL, err), KD_EEXISTS, "--resume goes on with it");
        p.writer.resume = true;
        OK(ex_import(store(), file, &p, &r, err));
        assert_true(r.rows > 0 && r.rows < EX_ROWS); // the rest alone
        char *got = ex_root(store(), name), *want = ex_root(twin, name);
        assert_string_equal(got, want);
        free(got);
        free(want);
    }
}

static int set_up_store(void **state)
{
    if (ex_set_up(state)) return -1;
    ex_make(store(), 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_array_in_a_declared_order_comes_in),
        cmocka_unit_test(an_array_with_a_file_of_ids_comes_in),
        cmocka_unit_test(tensors_with_ids_come_in_in_any_order),
        cmocka_unit_test(several_files_are_parts_of_one_output),
        cmocka_unit_test(rows_that_are_missing_foreign_or_double_are_named),
        cmocka_unit_test(what_is_not_said_is_asked_for),
        cmocka_unit_test(outputs_of_another_teacher_data_or_tokenizer_are_refused),
        cmocka_unit_test(numbers_that_are_none_are_named),
        cmocka_unit_test(files_that_are_cut_or_no_outputs_are_refused),
        cmocka_unit_test(arrays_of_another_shape_are_refused),
        cmocka_unit_test(types_are_kept_and_f64_becomes_f32),
        cmocka_unit_test(an_encoding_can_be_asked_for),
        cmocka_unit_test(features_get_a_column_of_their_layer),
        cmocka_unit_test(tensors_with_unknown_names_are_left_out_and_named),
        cmocka_unit_test(a_stopped_import_goes_on),
    };
    return cmocka_run_group_tests(tests, set_up_store, ex_tear_down);
}
