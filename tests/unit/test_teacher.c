/* test_teacher.c - a teacher over a small store: what it writes, what it refuses, how it resumes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "teacher_fixture.h"

/* All cached logits as f32, (ROWS, CLASSES). */
static void read_logits(float *out)
{
    kd_store *s = open_store();
    kd_cursor *c;
    int col = kd_store_find(s, "big/logits");
    assert_true(col >= 0);
    const kd_column *info = kd_store_column(s, (size_t)col);
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        float raw[CHUNK * CLASSES];
        size_t n = (size_t)ci->rows * CLASSES;
        OK(kd_cursor_read(c, col, i, raw, n * kd_dtype_size(info->dtype), err));
        assert_int_equal(kd_to_f32(out + ci->first * CLASSES, raw, info->dtype, n), KD_OK);
    }
    kd_cursor_close(c);
    kd_store_close(s);
}

typedef struct stopper {
    uint64_t after;
    volatile int stop;
} stopper;
static void count_progress(void *arg, uint64_t done, uint64_t total)
{
    stopper *x = arg;
    assert_true(done <= total && total == ROWS);
    if (done >= x->after) x->stop = 1;
}

static kd_status dump(kd_teacher *t, kd_writer_params wp, kd_dtype dtype, uint64_t stop_after, kd_err *err)
{
    kd_store *s = open_store();
    stopper x = {.after = stop_after};
    kd_dump_report r = {.seconds = -1};
    kd_dump_params p = kd_dump_default_params();
    p.name = "big";
    p.dtype = dtype;
    p.command = "kd-dump test";
    p.stop = &x.stop;
    p.progress = count_progress;
    p.arg = &x;
    kd_status st = kd_teacher_dump(t, s, &p, &wp, &r, err);
    assert_true(r.teacher >= 0 && r.seconds >= r.teacher);
    kd_store_close(s);
    return st;
}

/* ---- what is written ------------------------------------------------------------------------------ */

static void cached_logits_are_the_models_logits(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 2); // no divisor of the chunk
    OK(dump(t, params(false, false), KD_F32, ROWS + 1, err));
    float *got = malloc(ROWS * CLASSES * sizeof *got);
    read_logits(got);
    kd_model *m;
    kd_exec *ex;
    OK(kd_model_load(&m, teacher_path, err));
    kd_exec_params p = {.batch = 1, .threads = 1, .naive = true};
    OK(kd_exec_create(&ex, m->graph, &p, err));
    for (uint64_t r = 0; r < ROWS; r++) {
        float *x = kd_exec_input(ex, m->input);
        for (size_t k = 0; k < PIXELS; k++) x[k] = (float)((pixel(r, k) - MEAN) * SCALE);
        kd_exec_run_forward(ex);
        const float *want = kd_exec_value(ex, m->logits);
        for (int c = 0; c < CLASSES; c++)
            if (!(fabsf(got[r * CLASSES + (uint64_t)c] - want[c]) <= 1e-5f))
                fail_msg("row %d, class %d: %.9g, want %.9g", (int)r, c, got[r * CLASSES + (uint64_t)c],
                         want[c]);
    }
    kd_exec_free(ex);
    kd_model_free(m);
    kd_teacher_close(t);
    free(got);
}

static void the_manifest_says_who_taught(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 32, 1);
    OK(dump(t, params(false, false), KD_F32, ROWS + 1, err));
    kd_store *s = open_store();
    const json_t *j = kd_store_teacher(s, "big");
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "fingerprint")), kd_teacher_fingerprint(t));
    assert_string_equal(json_string_value(json_object_get(j, "arch")), "cnn");
    assert_string_equal(json_string_value(json_object_get(j, "command")), "kd-dump test");
    assert_int_equal(json_integer_value(json_object_get(j, "params")),
                     kd_graph_param_count(kd_teacher_model(t)->graph));
    assert_true(json_number_value(json_object_get(j, "seconds")) > 0);
    const kd_column *c = kd_store_column(s, (size_t)kd_store_find_role(s, KD_ROLE_LOGITS, "big"));
    assert_string_equal(c->name, "big/logits");
    assert_string_equal(c->tap, "fc0");
    assert_int_equal(c->dims[0], CLASSES);
    assert_string_equal(kd_teacher_name(t), "big");
    kd_store_close(s);
    kd_teacher_close(t);
    kd_verify_report r;
    OK(kd_store_verify(store_path, 1, &r, NULL, NULL, err));
}

static void halves_are_rounded_logits(void **state)
{
    (void)state;
    static float full[ROWS * CLASSES], half[ROWS * CLASSES], want[ROWS * CLASSES];
    uint16_t h[ROWS * CLASSES];
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 32, 1);
    OK(dump(t, params(false, false), KD_F32, ROWS + 1, err));
    read_logits(full);
    OK(dump(t, params(false, true), KD_F16, ROWS + 1, err)); // force replaces
    read_logits(half);
    assert_int_equal(kd_from_f32(h, KD_F16, full, ROWS * CLASSES), KD_OK);
    assert_int_equal(kd_to_f32(want, h, KD_F16, ROWS * CLASSES), KD_OK);
    assert_memory_equal(half, want, sizeof want);
    assert_memory_not_equal(half, full, sizeof full);
    kd_teacher_close(t);
}

static void bits_of_a_row_do_not_depend_on_company_or_threads(void **state)
{
    (void)state;
    uint8_t raw[16][PIXELS];
    float want[16 * CLASSES], got[16 * CLASSES];
    make_teacher(right);
    for (uint64_t r = 0; r < 16; r++)
        for (size_t k = 0; k < PIXELS; k++) raw[r][k] = pixel(r, k);
    kd_teacher *t = open_teacher(teacher_path, 16, 1);
    OK(kd_teacher_run(t, raw, KD_U8, 16, want, err));
    for (int rows = 1; rows < 16; rows++) {
        OK(kd_teacher_run(t, raw, KD_U8, rows, got, err));
        assert_memory_equal(got, want, (size_t)rows * CLASSES * sizeof(float));
    }
    FAILS(kd_teacher_run(t, raw, KD_U8, 17, got, err), KD_EUSAGE, "17 rows");
    FAILS(kd_teacher_run(t, raw, KD_DTYPE_NONE, 1, got, err), KD_EUNSUPPORTED, "none");
    kd_teacher_close(t);
    for (int threads = 2; threads <= 4; threads++) {
        t = open_teacher(teacher_path, 16, threads);
        OK(kd_teacher_run(t, raw, KD_U8, 16, got, err));
        assert_memory_equal(got, want, sizeof want);
        kd_teacher_close(t);
    }
}

/* ---- what is refused --------------------------------------------------------------------------------- */

static void check_fails(teacher_opts o, const char *part)
{
    o.path = other_path;
    make_teacher(o);
    kd_teacher *t = open_teacher(other_path, 8, 1);
    kd_store *s = open_store();
    FAILS(kd_teacher_check(t, s, err), KD_EMISMATCH, part);
    kd_store_close(s);
    FAILS(dump(t, params(false, false), KD_F32, ROWS + 1, err), KD_EMISMATCH, part);
    kd_teacher_close(t);
}

static void a_teacher_of_other_data_is_refused_by_the_field(void **state)
{
    (void)state;
    make_store();
    teacher_opts o = right;
    o.side = 7;
    check_fails(o, "column image is 6 x 6 x 1, the teacher");
    o = right;
    o.classes = 4;
    check_fails(o, "column label has 5 classes");
    o = right;
    o.mean = 71;
    check_fails(o, "mean 70.25");
    o = right;
    o.scale = 1.0 / 255;
    check_fails(o, "scale 0.0123");
    o = right;
    o.first_label = "zebra";
    check_fails(o, "class 0 is 'a'");
}

static void opening_names_what_is_missing(void **state)
{
    (void)state;
    kd_teacher *t;
    FAILS(kd_teacher_open(&t, "/nonexistent/teacher", 8, 1, err), KD_ENOTFOUND, "/nonexistent/teacher");
    assert_null(t);
    make_teacher(right);
    FAILS(kd_teacher_open(&t, teacher_path, 0, 1, err), KD_EUSAGE, "batch of 0 rows");
    assert_null(t);
}

static void logits_that_are_no_numbers_are_never_stored(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 8, 1);
    set_bias(t, NAN);
    FAILS(dump(t, params(false, false), KD_F32, ROWS + 1, err), KD_ENUMERIC, "row 0, class 0");
    set_bias(t, 70000); // fine in f32, not in f16
    FAILS(dump(t, params(false, true), KD_F16, ROWS + 1, err), KD_ENUMERIC, "--dtype f32");
    OK(dump(t, params(false, true), KD_F32, ROWS + 1, err));
    kd_teacher_close(t);
    teacher_opts o = right;
    o.path = other_path;
    o.weight = NAN;
    make_teacher(o);
    FAILS(kd_teacher_open(&t, other_path, 8, 1, err), KD_ENUMERIC, "conv0.weight: element 0 is nan");
}

static void other_types_and_long_names_are_refused(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 8, 1);
    kd_store *s = open_store();
    char name[80];
    memset(name, 'x', sizeof name);
    name[79] = '\0';
    kd_dump_params p = kd_dump_default_params();
    p.dtype = KD_I8;
    FAILS(kd_teacher_dump(t, s, &p, NULL, NULL, err), KD_EUNSUPPORTED, "i8");
    p = kd_dump_default_params();
    p.name = name;
    FAILS(kd_teacher_dump(t, s, &p, NULL, NULL, err), KD_EUSAGE, "--name");
    p.name = "Big!";
    FAILS(kd_teacher_dump(t, s, &p, NULL, NULL, err), KD_EUSAGE, "Big!");
    p.name = NULL; // its own
    p.logits = false;
    FAILS(kd_teacher_dump(t, s, &p, NULL, NULL, err), KD_EUSAGE, "nothing to dump");
    p.logits = true;
    OK(kd_teacher_dump(t, s, &p, NULL, NULL, err));
    kd_store_close(s);
    s = open_store();
    assert_true(kd_store_find(s, "big/logits") >= 0);
    kd_store_close(s);
    kd_teacher_close(t);
}

/* ---- interruptions ------------------------------------------------------------------------------------- */

static void a_stopped_pass_resumes_to_the_same_records(void **state)
{
    (void)state;
    char want[33], got[33];
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1);
    make_store();
    OK(dump(t, params(false, false), KD_F32, ROWS + 1, err));
    root_of_store(want);
    for (uint64_t stop = 1; stop < ROWS; stop += 40) {
        make_store();
        FAILS(dump(t, params(false, false), KD_F32, stop, err), KD_ESTOPPED, "--resume");
        kd_store *s = open_store();
        assert_true(kd_store_find(s, "big/logits") < 0); // nothing half-written is seen
        kd_store_close(s);
        FAILS(dump(t, params(false, false), KD_F32, ROWS + 1, err), KD_EEXISTS, "--resume");
        OK(dump(t, params(true, stop > 50), KD_F32, ROWS + 1, err)); // with force too: it goes on
        root_of_store(got);
        assert_string_equal(got, want);
    }
    kd_teacher_close(t);
}

static void a_pass_of_another_teacher_is_not_resumed(void **state)
{
    (void)state;
    kd_teacher *t, *u;
    make_two_teachers(&t, &u);
    assert_string_not_equal(kd_teacher_fingerprint(t), kd_teacher_fingerprint(u));
    FAILS(dump(t, params(false, false), KD_F32, 40, err), KD_ESTOPPED, "32 of 150");
    FAILS(dump(u, params(true, false), KD_F32, ROWS + 1, err), KD_EMISMATCH, "teacher");
    FAILS(dump(t, params(true, false), KD_F16, ROWS + 1, err), KD_EMISMATCH, "dtype");
    kd_teacher *v = open_teacher(teacher_path, 16, 1);
    FAILS(dump(v, params(true, false), KD_F32, ROWS + 1, err), KD_EMISMATCH, "batch");
    OK(dump(u, params(true, true), KD_F32, ROWS + 1, err)); // resume and force: begins anew
    FAILS(dump(t, params(false, false), KD_F32, ROWS + 1, err), KD_EMISMATCH, kd_teacher_fingerprint(u));
    OK(dump(t, params(true, true), KD_F32, ROWS + 1, err)); // replaces the other's
    kd_store *s = open_store();
    assert_string_equal(json_string_value(json_object_get(kd_store_teacher(s, "big"), "fingerprint")),
                        kd_teacher_fingerprint(t));
    kd_store_close(s);
    kd_teacher_close(t);
    kd_teacher_close(u);
    kd_teacher_close(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_logits_are_the_models_logits),
        cmocka_unit_test(the_manifest_says_who_taught),
        cmocka_unit_test(halves_are_rounded_logits),
        cmocka_unit_test(bits_of_a_row_do_not_depend_on_company_or_threads),
        cmocka_unit_test(a_teacher_of_other_data_is_refused_by_the_field),
        cmocka_unit_test(opening_names_what_is_missing),
        cmocka_unit_test(logits_that_are_no_numbers_are_never_stored),
        cmocka_unit_test(other_types_and_long_names_are_refused),
        cmocka_unit_test(a_stopped_pass_resumes_to_the_same_records),
        cmocka_unit_test(a_pass_of_another_teacher_is_not_resumed),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
