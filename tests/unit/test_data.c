/* What packing makes of source files: splits, order, ids, columns, refusals, resuming. */
#include "data_fixture.h"

#include <math.h>

typedef struct packed {
    kd_store *s;
    uint64_t rows;
    uint8_t *id, *split, *input;
    uint64_t *source;
    int32_t *label;
} packed;

static void *read_column(kd_store *s, const char *name, size_t row)
{
    kd_cursor *c;
    uint8_t *out = malloc(kd_store_rows(s) * row + 1);
    int k = kd_store_find(s, name);
    assert_true(k >= 0);
    OK(kd_cursor_open(&c, s, &fx_err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *info = kd_store_chunk(s, i);
        OK(kd_cursor_read(c, k, i, out + info->first * row, info->rows * row, &fx_err));
    }
    kd_cursor_close(c);
    return out;
}

static void open_packed(packed *p, const char *path, size_t input_row)
{
    OK(kd_store_open(&p->s, path, &fx_err));
    p->rows = kd_store_rows(p->s);
    p->id = read_column(p->s, "id", 16);
    p->split = read_column(p->s, "split", 1);
    p->source = read_column(p->s, "source", 8);
    p->label = read_column(p->s, "label", 4);
    p->input = read_column(p->s, "image", input_row);
}

static void close_packed(packed *p)
{
    free(p->id);
    free(p->split);
    free(p->source);
    free(p->label);
    free(p->input);
    kd_store_close(p->s);
}

static kd_status pack(const kd_data_spec *s, const char *name, int threads, kd_pack_report *r)
{
    kd_writer_params wp = kd_writer_default_params();
    wp.threads = threads;
    return kd_pack(s, fx_path(name), &wp, "kd-dump data.yaml", NULL, NULL, NULL, r, &fx_err);
}

/* Packs what YAML says; "train" and "test" are names given to fx_images. */
static void pack_images(const char *store, const char *train, const char *test, const char *yaml,
                        kd_pack_report *r)
{
    kd_config c;
    kd_data_spec s;
    fx_image_spec(&c, &s, train, test, yaml);
    OK(pack(&s, store, 1, r));
    kd_config_release(&c);
}

static char *root_of(const char *store)
{
    kd_store *s;
    OK(kd_store_open(&s, fx_path(store), &fx_err));
    char *root = kd_strdup(kd_store_root(s));
    kd_store_close(s);
    return root;
}

/* ---- what is in the store ----------------------------------------------------------------- */

static void every_source_row_is_there_once_with_its_values(void **state)
{
    (void)state;
    kd_pack_report r;
    kd_array x[2], y[2];
    packed p;
    fx_images("tr", 500, 1, 0);
    fx_images("te", 90, 1000, 0);
    pack_images("a.kd", "tr", "te", "  chunk_rows: 64\n  shape: [2, 3, 1]\n  class_names: [a, b, c, d, e]\n",
                &r);
    OK(kd_array_read(&x[0], fx_path("tr-x"), NULL, &fx_err));
    OK(kd_array_read(&y[0], fx_path("tr-y"), NULL, &fx_err));
    OK(kd_array_read(&x[1], fx_path("te-x"), NULL, &fx_err));
    OK(kd_array_read(&y[1], fx_path("te-y"), NULL, &fx_err));
    open_packed(&p, fx_path("a.kd"), 6);
    assert_int_equal(p.rows, 590);
    assert_int_equal(r.rows, 590);
    bool seen[590] = {0};
    for (uint64_t i = 0; i < p.rows; i++) {
        uint64_t from = p.source[i];
        if (from >= 590 || seen[from]) {
            fail_msg("row %zu comes from source row %zu: past the end, or a second time", (size_t)i,
                     (size_t)from);
            return;
        }
        seen[from] = true;
        int test = from >= 500;
        uint64_t k = from - (test ? 500 : 0);
        assert_memory_equal(p.input + 6 * i, (uint8_t *)x[test].data + 6 * k, 6);
        assert_int_equal(p.label[i], ((uint8_t *)y[test].data)[k]);
        assert_int_equal(p.split[i] == KD_TEST, test);
        uint8_t named[32] = "image u8 2,3,1\n"; // the documented rule of ids
        memcpy(named + 15, p.input + 6 * i, 6);
        assert_memory_equal(p.id + 16 * i, kd_hash128(named, 21).b, 16);
    }
    for (int k = 0; k < KD_SPLITS; k++)
        assert_int_equal(r.split_rows[k], kd_store_split_rows(p.s, (kd_split)k));
    for (uint32_t i = 0; i < kd_store_chunks(p.s); i++) {
        const kd_chunk_info *info = kd_store_chunk(p.s, i);
        for (uint32_t k = 0; k < info->rows; k++) assert_int_equal(p.split[info->first + k], info->split);
    }
    close_packed(&p);
    for (int i = 0; i < 2; i++) kd_array_release(&x[i]), kd_array_release(&y[i]);
}

static void columns_say_what_they_are(void **state)
{
    (void)state;
    kd_store *s;
    double mean, scale;
    OK(kd_store_open(&s, fx_path("a.kd"), &fx_err));
    const kd_column *c = kd_store_column(s, (size_t)kd_store_find_role(s, KD_ROLE_INPUT, NULL));
    assert_string_equal(c->name, "image");
    assert_int_equal(c->dtype, KD_U8);
    assert_int_equal(c->ndims, 3);
    assert_int_equal(c->dims[0], 2);
    assert_int_equal(c->dims[2], 1);
    OK(kd_json_real(c->params, "mean", &mean, "x", &fx_err));
    OK(kd_json_real(c->params, "scale", &scale, "x", &fx_err));
    c = kd_store_column(s, (size_t)kd_store_find_role(s, KD_ROLE_LABEL, NULL));
    assert_int_equal(c->dtype, KD_I32);
    assert_int_equal(json_integer_value(json_object_get(c->params, "classes")), 5);
    assert_string_equal(json_string_value(json_array_get(json_object_get(c->params, "names"), 4)), "e");
    const json_t *segment = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    assert_string_equal(json_string_value(json_object_get(segment, "command")), "kd-dump data.yaml");
    const json_t *file = json_array_get(json_object_get(json_object_get(segment, "contract"), "input"), 1);
    assert_string_equal(json_string_value(json_object_get(file, "file")), "te-x");
    kd_store_close(s);

    packed p; // mean and scale are those of the training rows
    double sum = 0, squares = 0, n = 0;
    open_packed(&p, fx_path("a.kd"), 6);
    for (uint64_t i = 0; i < p.rows * 6; i++)
        if (p.split[i / 6] == KD_TRAIN) sum += p.input[i], squares += (double)p.input[i] * p.input[i], n++;
    assert_true(fabs(mean - sum / n) < 1e-12 * mean);
    assert_true(fabs(scale - 1 / sqrt(squares / n - mean * mean)) < 1e-9 * scale);
    close_packed(&p);
}

/* ---- splits and order --------------------------------------------------------------------- */

static void splits_have_about_the_share_asked_for(void **state)
{
    (void)state;
    kd_pack_report r;
    fx_images("many", 20000, 7, 0);
    kd_config c;
    kd_data_spec s;
    fx_image_spec(&c, &s, "many", NULL, "  valid_fraction: 0.2\n  test_fraction: 0.3\n");
    OK(kd_pack_plan(&s, &r, &fx_err));
    kd_config_release(&c);
    assert_int_equal(r.split_rows[KD_TRAIN] + r.split_rows[KD_VALID] + r.split_rows[KD_TEST], 20000);
    assert_true(fabs((double)r.split_rows[KD_VALID] - 4000) <
                5 * sqrt(20000 * 0.2 * 0.8)); // five standard deviations
    assert_true(fabs((double)r.split_rows[KD_TEST] - 6000) < 5 * sqrt(20000 * 0.3 * 0.7));
    assert_false(kd_exists(fx_path("many.kd")));
}

static void equal_rows_land_in_one_split_and_are_counted(void **state)
{
    (void)state;
    kd_pack_report r;
    packed p;
    fx_images("dup", 300, 1, 10);    // 30 rows look alike
    fx_images("dupt", 40, 5000, 20); // 2 rows of the test files look like them
    pack_images("d.kd", "dup", "dupt", "  valid_fraction: 0.5\n", &r);
    assert_int_equal(r.duplicates, 31);
    assert_int_equal(r.leaks, 30);
    open_packed(&p, fx_path("d.kd"), 6);
    int split = -1;
    for (uint64_t i = 0; i < p.rows; i++) {
        if (p.source[i] >= 300 || p.source[i] % 10) continue;
        if (split < 0) split = p.split[i];
        assert_int_equal(p.split[i], split);
    }
    close_packed(&p);
}

static void a_row_keeps_its_split_when_rows_are_added(void **state)
{
    (void)state;
    packed a, b;
    fx_images("few", 200, 1, 0);
    fx_images("more", 400, 1, 0); // its first 200 rows are those of "few"
    pack_images("few.kd", "few", NULL, "", NULL);
    pack_images("more.kd", "more", NULL, "", NULL);
    open_packed(&a, fx_path("few.kd"), 6);
    open_packed(&b, fx_path("more.kd"), 6);
    uint8_t split[200];
    uint64_t before[200], n = 0;
    for (uint64_t i = 0; i < 200; i++) split[a.source[i]] = a.split[i], before[i] = a.source[i];
    for (uint64_t i = 0; i < 400; i++) {
        if (b.source[i] >= 200) continue;
        assert_int_equal(b.split[i], split[b.source[i]]);
        assert_int_equal(b.source[i], before[n++]); // and their order among each other
    }
    assert_int_equal(n, 200);
    close_packed(&a);
    close_packed(&b);
}

static void stores_are_equal_for_any_thread_count_and_differ_by_seed(void **state)
{
    (void)state;
    kd_config c;
    kd_data_spec s;
    char *root[3];
    fx_images("eq", 400, 1, 0);
    fx_image_spec(&c, &s, "eq", NULL, "  chunk_rows: 32\n");
    OK(pack(&s, "t1.kd", 1, NULL));
    OK(pack(&s, "t3.kd", 3, NULL));
    s.seed = 1;
    OK(pack(&s, "s1.kd", 1, NULL));
    kd_config_release(&c);
    root[0] = root_of("t1.kd"), root[1] = root_of("t3.kd"), root[2] = root_of("s1.kd");
    assert_string_equal(root[0], root[1]);
    assert_string_not_equal(root[0], root[2]);
    for (int i = 0; i < 3; i++) free(root[i]);
}

static void rows_of_a_split_are_shuffled(void **state)
{
    (void)state;
    packed p;
    uint64_t early = 0, half;
    open_packed(&p, fx_path("more.kd"), 6);
    half = kd_store_split_rows(p.s, KD_TRAIN) / 2;
    for (uint64_t i = 0; i < half; i++) early += p.source[i] < 200;
    assert_true(fabs((double)early - (double)half / 2) <
                5 * sqrt((double)half / 4)); // a fair sample of both halves
    close_packed(&p);
}

/* ---- other sources ------------------------------------------------------------------------ */

static void labels_may_be_a_column_of_the_inputs_csv(void **state)
{
    (void)state;
    kd_config c;
    kd_data_spec s;
    packed p;
    char yaml[300];
    fx_write("x.csv", "a,y,b\n1,0,2\n3,1,4\n5,2,6\n7,0,-8\n", 31);
    fx_write("x2.csv", "a,y,b\n1,2,2.5\n9,1,4\n", 20); // f32: the other file's i32 is widened
    snprintf(
        yaml, sizeof(yaml),
        "  train_input: [%s/x.csv, %s/x2.csv]\n  label_column: y\n  valid_fraction: 0\n  test_fraction: 0\n",
        fx_dir, fx_dir);
    fx_spec(&c, &s, yaml);
    OK(pack(&s, "csv.kd", 1, NULL));
    kd_config_release(&c);
    open_packed(&p, fx_path("csv.kd"), 8);
    const float want[6][2] = {{1, 2}, {3, 4}, {5, 6}, {7, -8}, {1, 2.5f}, {9, 4}};
    const int32_t label[6] = {0, 1, 2, 0, 2, 1};
    assert_int_equal(p.rows, 6);
    for (int i = 0; i < 6; i++) {
        assert_memory_equal(p.input + 8 * i, want[p.source[i]], 8);
        assert_int_equal(p.label[i], label[p.source[i]]);
    }
    close_packed(&p);
}

static void bad_data_are_refused_before_anything_is_written(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        kd_status code;
        const char *text;
    } cases[] = {
        {"  train_input: []\n", KD_EUSAGE, "train_input names no file"},
        {"  train_input: [D/tr-x]\n", KD_EUSAGE, "no labels for train_input"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-x]\n", KD_EUSAGE, "given for inputs and labels"},
        {"  train_input: [D/tr-x]\n  train_label: [D/te-y]\n", KD_EMISMATCH, "tr-x: 500 rows, but "},
        {"  train_input: [D/tr-x]\n  train_label: [D/none]\n", KD_ENOTFOUND, "none: cannot open"},
        {"  train_input: [D/tr-y]\n  train_label: [D/tr-x]\n", KD_EMISMATCH,
         "a label is 2 x 3 of u8, expected one number a row"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  classes: 4\n", KD_ECORRUPT,
         "tr-y: label of row"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  classes: 4\n", KD_ECORRUPT,
         "is 4, expected 0 to 3"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  classes: -1\n", KD_EUSAGE,
         "data.classes is -1"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  classes: 5\n  class_names: [a]\n", KD_EUSAGE,
         "has 1 names"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  shape: [7]\n", KD_EMISMATCH,
         "a row is 2 x 3 of u8, that is 6 values"},
        {"  train_input: [D/tr-x, D/te-y]\n  train_label: [D/tr-y]\n", KD_EMISMATCH,
         "te-y: a row is one u8, in "},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  test_label: [D/te-y]\n", KD_EUSAGE,
         "data.test_input is not"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  valid_fraction: 0.9\n  test_fraction: 0.1\n",
         KD_EUSAGE, "leave nothing"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  mean: 3\n", KD_EUSAGE, "data.scale is 0"},
        {"  train_input: [D/tr-x]\n  train_label: [D/tr-y]\n  input_name: label\n", KD_EUSAGE, "label"},
        {"  train_input: [D/nan.npy]\n  train_label: [D/two-y]\n", KD_ENUMERIC,
         "nan.npy: row 1, value 0 is NaN"},
        {"  train_input: [D/tr-x]\n  train_label: [D/half.csv]\n  label_column: y\n", KD_ECORRUPT,
         "half.csv: label of row 1 is no whole number"},
        {"  train_input: [D/half.csv]\n  input_column: y\n  label_column: y\n", KD_EUSAGE,
         "it cannot be the input too"},
    };
    uint8_t file[200];
    const float bad[2] = {1, NAN};
    fx_write("nan.npy", file,
             fx_npy(file, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bad, 8));
    fx_write("two-y", file, fx_idx(file, 8, 1, (uint32_t[]){2}, "\0\1", 2));
    kd_buf half = {0};
    kd_buf_puts(&half, "y\n");
    for (int i = 0; i < 500; i++) kd_buf_puts(&half, i == 1 ? "0.5\n" : "1\n");
    fx_write("half.csv", half.text, half.len);
    kd_buf_release(&half);
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        kd_config c;
        kd_data_spec s;
        kd_buf yaml = {0};
        for (const char *p = cases[i].yaml; *p; p++) // D/ is the folder
            if (*p == 'D' && p[1] == '/')
                kd_buf_puts(&yaml, fx_dir);
            else
                kd_buf_append(&yaml, p, 1);
        fx_spec(&c, &s, yaml.text);
        FAILS(pack(&s, "bad.kd", 1, NULL), cases[i].code, cases[i].text);
        assert_false(kd_exists(fx_path("bad.kd")));
        kd_buf_release(&yaml);
        kd_config_release(&c);
    }
}

/* ---- stopping and resuming ---------------------------------------------------------------- */

static int stop_now;
static uint64_t stop_at;

static void stop_when(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    assert_true(done <= total);
    if (done >= stop_at) stop_now = 1;
}

static void a_stopped_pack_goes_on_to_the_same_store(void **state)
{
    (void)state;
    kd_config c;
    kd_data_spec s;
    kd_pack_report r;
    char *want, *got;
    fx_images("re", 400, 1, 0);
    fx_image_spec(&c, &s, "re", NULL, "  chunk_rows: 32\n");
    OK(pack(&s, "whole.kd", 1, NULL));
    want = root_of("whole.kd");
    for (stop_at = 0; stop_at <= 384; stop_at += 96) {
        kd_writer_params wp = kd_writer_default_params();
        const char *path = fx_path("parts.kd");
        stop_now = stop_at == 0;
        FAILS(kd_pack(&s, path, &wp, NULL, &stop_now, stop_when, NULL, NULL, &fx_err), KD_ESTOPPED,
              "go on with --resume");
        assert_false(kd_exists(path));
        FAILS(kd_pack(&s, path, &wp, NULL, NULL, NULL, NULL, NULL, &fx_err), KD_EEXISTS, "--resume");
        wp.resume = true;
        s.seed = 5; // other options are another store
        FAILS(kd_pack(&s, path, &wp, NULL, NULL, NULL, NULL, NULL, &fx_err), KD_EMISMATCH, "cannot go on");
        s.seed = 0;
        OK(kd_pack(&s, path, &wp, NULL, NULL, NULL, NULL, &r, &fx_err));
        assert_true(r.written_rows <= 400 - stop_at);
        got = root_of("parts.kd");
        assert_string_equal(got, want);
        free(got);
        OK(kd_remove_tree(path, &fx_err));
    }
    free(want);
    kd_config_release(&c);
}

static void a_changed_source_file_is_not_resumed(void **state)
{
    (void)state;
    kd_config c;
    kd_data_spec s;
    kd_writer_params wp = kd_writer_default_params();
    fx_images("ch", 400, 1, 0);
    fx_image_spec(&c, &s, "ch", NULL, "  chunk_rows: 32\n");
    stop_now = 0, stop_at = 64;
    FAILS(kd_pack(&s, fx_path("ch.kd"), &wp, NULL, &stop_now, stop_when, NULL, NULL, &fx_err), KD_ESTOPPED,
          "stopped after");
    fx_images("ch", 400, 2, 0);
    wp.resume = true;
    FAILS(kd_pack(&s, fx_path("ch.kd"), &wp, NULL, NULL, NULL, NULL, NULL, &fx_err), KD_EMISMATCH,
          "cannot go on");
    kd_config_release(&c);
}

static void resume_with_force_goes_on_or_replaces(void **state)
{
    (void)state;
    kd_config c;
    kd_data_spec s;
    kd_pack_report r;
    kd_writer_params wp = kd_writer_default_params();
    const char *path = fx_path("rf.kd");
    fx_images("rf", 400, 1, 0);
    fx_image_spec(&c, &s, "rf", NULL, "  chunk_rows: 32\n");
    for (int other = 0; other < 2; other++) {
        wp.resume = wp.force = false;
        stop_now = 0, stop_at = 128;
        FAILS(kd_pack(&s, path, &wp, NULL, &stop_now, stop_when, NULL, NULL, &fx_err), KD_ESTOPPED,
              "stopped after 128");
        wp.resume = wp.force = true;
        s.seed = other; // the second time the unfinished one does not fit
        OK(kd_pack(&s, path, &wp, NULL, NULL, NULL, NULL, &r, &fx_err));
        assert_int_equal(fx_err.code, KD_OK);
        assert_int_equal(r.written_rows, other ? 400 : 400 - 128);
        OK(kd_remove_tree(path, &fx_err));
        s.seed = 0;
    }
    kd_config_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_source_row_is_there_once_with_its_values),
        cmocka_unit_test(columns_say_what_they_are),
        cmocka_unit_test(splits_have_about_the_share_asked_for),
        cmocka_unit_test(equal_rows_land_in_one_split_and_are_counted),
        cmocka_unit_test(a_row_keeps_its_split_when_rows_are_added),
        cmocka_unit_test(stores_are_equal_for_any_thread_count_and_differ_by_seed),
        cmocka_unit_test(rows_of_a_split_are_shuffled),
        cmocka_unit_test(labels_may_be_a_column_of_the_inputs_csv),
        cmocka_unit_test(bad_data_are_refused_before_anything_is_written),
        cmocka_unit_test(a_stopped_pack_goes_on_to_the_same_store),
        cmocka_unit_test(a_changed_source_file_is_not_resumed),
        cmocka_unit_test(resume_with_force_goes_on_or_replaces),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}
