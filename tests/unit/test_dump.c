/* test_dump.c - a pass that writes taps, views and encoded columns: what they hold, and that neither threads
 * nor interruptions nor parts show in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "teacher_fixture.h"

static const kd_view_spec VIEWS = {
    .count = 3, .seed = 5, .shift = 2, .flip = true, .identity = true, .noise = 4};
static const kd_tap TAPS[] = {{.node = "relu0", .form = KD_TAP_USUAL},
                              {.node = "conv1", .form = KD_TAP_FLAT},
                              {.node = "relu1", .form = KD_TAP_MAX}};

static kd_dump_params all_of_it(void)
{
    kd_dump_params p = kd_dump_default_params();
    p.views = &VIEWS;
    p.taps = TAPS;
    p.ntaps = KD_COUNT(TAPS);
    return p;
}

static kd_status dump(kd_teacher *t, kd_dump_params p, kd_writer_params wp, kd_dump_report *r, kd_err *err)
{
    kd_store *s = open_store();
    kd_status st = kd_teacher_dump(t, s, &p, &wp, r, err);
    kd_store_close(s);
    return st;
}

/* A column's values of all rows as f32. */
static float *column(const char *name, size_t row_size)
{
    kd_store *s = open_store();
    kd_cursor *c;
    const int at = kd_store_find(s, name);
    if (at < 0) fail_msg("no column %s", name);
    const kd_column *k = kd_store_column(s, (size_t)at);
    assert_int_equal(kd_column_each(k) * kd_column_width(k), row_size);
    float *out = calloc(ROWS * row_size, sizeof *out);
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        OK(kd_cursor_read_f32(c, at, i, out + ci->first * row_size, ci->rows * kd_column_each(k), err));
    }
    kd_cursor_close(c);
    kd_store_close(s);
    return out;
}

/* ---- taps ---------------------------------------------------------------------------------------- */

/* Values of a node by the naive ops, one row at a time: (ROWS, pixels, channels). */
static float *node_values(const char *name, size_t size)
{
    kd_model *m;
    kd_exec *ex;
    OK(kd_model_load(&m, teacher_path, err));
    const kd_node n = kd_graph_find(m->graph, name);
    const kd_exec_params p = {.batch = 1, .threads = 1, .naive = true, .keep = &n, .nkeep = 1};
    assert_int_equal(kd_graph_node_size(m->graph, n), size);
    OK(kd_exec_create(&ex, m->graph, &p, err));
    float *out = calloc(ROWS * size, sizeof *out);
    for (uint64_t r = 0; r < ROWS; r++) {
        float *x = kd_exec_input(ex, m->input);
        for (size_t k = 0; k < PIXELS; k++) x[k] = (float)((pixel(r, k) - MEAN) * SCALE);
        kd_exec_run_forward(ex);
        memcpy(out + r * size, kd_exec_value(ex, n), size * sizeof *out);
    }
    kd_exec_free(ex);
    kd_model_free(m);
    return out;
}

static void near(const float *got, const float *want, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= 1e-4f * (1 + fabsf(want[i]))))
            fail_msg("%s: value %zu is %.9g, want %.9g", what, i, got[i], want[i]);
}

static void taps_are_the_values_of_their_nodes(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 2);
    OK(dump(t, all_of_it(), params(false, false), NULL, err));
    float *flat = column("big/feat.conv1", PIXELS * 6), *conv1 = node_values("conv1", PIXELS * 6);
    near(flat, conv1, ROWS * PIXELS * 6, "conv1");
    float *mean = column("big/feat.relu0", 4), *relu0 = node_values("relu0", PIXELS * 4);
    float *max = column("big/feat.relu1", 6), *relu1 = node_values("relu1", PIXELS * 6);
    for (size_t r = 0; r < ROWS; r++) {
        float sum[4] = {0}, top[6];
        for (size_t c = 0; c < 6; c++) top[c] = -INFINITY;
        for (size_t i = 0; i < PIXELS; i++) {
            for (size_t c = 0; c < 4; c++) sum[c] += relu0[(r * PIXELS + i) * 4 + c] / PIXELS;
            for (size_t c = 0; c < 6; c++) top[c] = fmaxf(top[c], relu1[(r * PIXELS + i) * 6 + c]);
        }
        near(mean + r * 4, sum, 4, "mean of relu0");
        near(max + r * 6, top, 6, "max of relu1");
    }
    kd_store *s = open_store();
    const kd_column *c = kd_store_column(s, (size_t)kd_store_find(s, "big/feat.relu0"));
    assert_string_equal(c->tap, "relu0");
    assert_string_equal(json_string_value(json_object_get(c->params, "form")), "mean");
    assert_int_equal(c->role, KD_ROLE_FEATURE);
    kd_store_close(s);
    kd_teacher_close(t);
    free(flat), free(conv1), free(mean), free(relu0), free(max), free(relu1);
}

static void taking_taps_does_not_change_logits(void **state)
{
    (void)state;
    uint8_t raw[8][PIXELS];
    float before[8 * CLASSES], after[8 * CLASSES];
    for (uint64_t r = 0; r < 8; r++)
        for (size_t k = 0; k < PIXELS; k++) raw[r][k] = pixel(r, k);
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 8, 1);
    OK(kd_teacher_run(t, raw, KD_U8, 8, before, err));
    OK(kd_teacher_take(t, TAPS, 3, err));
    assert_int_equal(kd_teacher_taps(t), 3);
    OK(kd_teacher_run(t, raw, KD_U8, 8, after, err));
    assert_memory_equal(after, before, sizeof before);
    OK(kd_teacher_take(t, NULL, 0, err));
    assert_int_equal(kd_teacher_taps(t), 0);
    kd_teacher_close(t);
}

static void wrong_taps_are_refused_by_name(void **state)
{
    (void)state;
    kd_tap tap;
    OK(kd_tap_parse(&tap, "stage0.block1.conv0:max", err));
    assert_string_equal(tap.node, "stage0.block1.conv0");
    assert_int_equal(tap.form, KD_TAP_MAX);
    FAILS(kd_tap_parse(&tap, "relu0:median", err), KD_EUSAGE, "none of mean, max, flat, attention");
    FAILS(kd_tap_parse(&tap, ":max", err), KD_EUSAGE, "expected NODE");
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 8, 1);
    const kd_tap wrong = {.node = "rleu0", .form = KD_TAP_USUAL},
                 far = {.node = "transformer", .form = KD_TAP_USUAL},
                 vector = {.node = "gap", .form = KD_TAP_MEAN},
                 twice[] = {{.node = "relu0", .form = KD_TAP_MEAN}, {.node = "relu0", .form = KD_TAP_MAX}};
    FAILS(kd_teacher_take(t, &wrong, 1, err), KD_EUSAGE, "did you mean 'relu0'");
    FAILS(kd_teacher_take(t, &far, 1, err), KD_EUSAGE, "--list-taps");
    FAILS(kd_teacher_take(t, &vector, 1, err), KD_EUSAGE, "gap is no map");
    FAILS(kd_teacher_take(t, twice, 2, err), KD_EUSAGE, "relu0 is tapped twice");
    FAILS(kd_teacher_take(t, TAPS, KD_TEACHER_TAPS + 1, err), KD_EUSAGE, "at most");
    kd_teacher_close(t);
}

static void a_value_that_is_never_there_names_the_one_that_is(void **state)
{
    (void)state;
    json_t *spec = json_pack("{s:s, s:[i,i,i], s:i, s:[i]}", "arch", "mlp", "input", SIDE, SIDE, 1, "classes",
                             CLASSES, "hidden", 7);
    kd_model *m;
    OK(kd_model_create(&m, "mlp", spec, "test", err));
    kd_graph_init(m->graph, 1);
    OK(kd_mkdirs(other_path, err));
    OK(kd_model_save(m, other_path, NULL, err));
    kd_model_free(m);
    json_decref(spec);
    kd_teacher *t = open_teacher(other_path, 8, 1);
    const kd_tap hidden = {.node = "fc0", .form = KD_TAP_USUAL},
                 shown = {.node = "fc0_relu", .form = KD_TAP_USUAL};
    FAILS(kd_teacher_take(t, &hidden, 1, err), KD_EUSAGE, "tap fc0_relu");
    OK(kd_teacher_take(t, &shown, 1, err));
    kd_teacher_close(t);
}

/* ---- views ---------------------------------------------------------------------------------------- */

static uint32_t chunk_of(const kd_store *s, uint64_t row)
{
    uint32_t i = 0;
    while (kd_store_chunk(s, i)->first + kd_store_chunk(s, i)->rows <= row) i++;
    return i;
}

static void check_views(const kd_view_spec *spec, kd_dump_params p)
{
    const size_t count = (size_t)spec->count;
    make_store();
    kd_teacher *t = open_teacher(teacher_path, 10, 2);
    p.views = spec;
    OK(dump(t, p, params(false, false), NULL, err));
    float *got = column("big/logits.views", count * CLASSES), want[CLASSES];
    kd_store *s = open_store();
    const kd_column *in = kd_store_column(s, (size_t)kd_store_find(s, "image"));
    for (uint64_t r = 0; r < ROWS; r++)
        for (uint32_t v = 0; v < count; v++) {
            uint8_t row[PIXELS], other[PIXELS], view[PIXELS];
            kd_id id = {{0}};
            memcpy(id.b, &r, sizeof r); // as make_store has it
            for (size_t k = 0; k < PIXELS; k++) row[k] = pixel(r, k);
            const kd_chunk_info *ci = kd_store_chunk(s, chunk_of(s, r));
            const kd_view_mix m = kd_view_mix_of(spec, in, id, v, ci->rows);
            for (size_t k = 0; k < PIXELS; k++) other[k] = pixel(ci->first + m.other, k);
            kd_view_apply(spec, in, id, v, row, m.mixed ? other : NULL, view);
            OK(kd_teacher_run(t, view, KD_U8, 1, want, err));
            assert_memory_equal(got + (r * count + v) * CLASSES, want, sizeof want);
        }
    const kd_column *c = kd_store_column(s, (size_t)kd_store_find(s, "big/logits.views"));
    kd_view_spec kept;
    OK(kd_view_parse(&kept, json_object_get(c->params, "views"), "column", err));
    assert_int_equal(kept.seed, spec->seed);
    assert_int_equal(c->role, KD_ROLE_VIEW);
    kd_store_close(s);
    kd_teacher_close(t);
    free(got);
}

static void views_are_the_teacher_on_changed_rows(void **state)
{
    (void)state;
    kd_view_spec changed = VIEWS, alone = {.count = 1, .identity = true};
    kd_dump_params p = all_of_it();
    make_teacher(right);
    check_views(&VIEWS, p); // view 0 is the row itself, which the pass runs anyway
    check_views(&alone, p);
    changed.identity = false;
    check_views(&changed, p);
    changed.identity = true, changed.mixup = 0.4, changed.cutmix = 0.4;
    check_views(&changed, p); // mixed with other rows of the chunk
    p.logits = false;
    check_views(&VIEWS, p); // beside taps
    p.ntaps = 0;
    check_views(&VIEWS, p); // by themselves
}

/* ---- encodings ------------------------------------------------------------------------------------ */

/* What is stored is, byte for byte, what the column's codec makes of the dense values. */
static void check_encoded(const char *name, const float *values)
{
    kd_store *s = open_store();
    kd_cursor *c;
    kd_codec *codec;
    const int at = kd_store_find(s, name);
    assert_true(at >= 0);
    const kd_column *k = kd_store_column(s, (size_t)at);
    const size_t size = kd_column_each(k) * kd_column_width(k);
    OK(kd_column_codec(&codec, k, err));
    assert_true(!kd_codec_describe(codec)->book || k->book_bytes > 0);
    OK(kd_cursor_open(&c, s, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        kd_id id[CHUNK];
        kd_buf want = {0};
        size_t bytes;
        OK(kd_cursor_read(c, kd_store_find(s, "id"), i, id, ci->rows * sizeof *id, err));
        const kd_codec_block b = {.values = values + ci->first * size,
                                  .rows = ci->rows,
                                  .each = (uint32_t)kd_column_each(k),
                                  .ids = id};
        OK(kd_codec_encode(codec, &b, 1, &want, err));
        OK(kd_cursor_size(c, at, i, &bytes, err));
        assert_int_equal(bytes, want.len);
        char *got = malloc(bytes + 1);
        OK(kd_cursor_read(c, at, i, got, bytes, err));
        assert_memory_equal(got, want.text, bytes);
        free(got);
        kd_buf_release(&want);
    }
    kd_codec_close(codec);
    kd_cursor_close(c);
    kd_store_close(s);
}

static void every_codec_gets_the_values_and_the_ids(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1);
    OK(dump(t, all_of_it(), params(false, false), NULL, err));
    float *logits = column("big/logits", CLASSES), *views = column("big/logits.views", 3 * CLASSES),
          *flat = column("big/feat.conv1", PIXELS * 6);
    size_t n;
    const kd_codec_info *list = kd_codec_list(&n);
    assert_true(n >= 2);
    for (size_t i = 0; i < n; i++) {
        kd_dump_params p = all_of_it();
        char text[32];
        snprintf(text, sizeof text, "%s%s", list[i].name, strcmp(list[i].name, "topk") ? "" : ":k=2");
        p.encoding = text;
        p.feature_encoding = list[i].sparse ? NULL : text;
        OK(dump(t, p, params(false, true), NULL, err));
        check_encoded("big/logits", logits);
        check_encoded("big/logits.views", views);
        if (p.feature_encoding) check_encoded("big/feat.conv1", flat);
    }
    kd_dump_params p = all_of_it();
    p.encoding = "int9";
    FAILS(dump(t, p, params(false, true), NULL, err), KD_EUSAGE, "did you mean 'int8'");
    kd_teacher_close(t);
    free(logits), free(views), free(flat);
}

/* The params of a pass with everything in it, some of it encoded with codebook and draws where there are any.
 */
static kd_dump_params mixed(void)
{
    kd_dump_params p = all_of_it();
    p.encoding = kd_codec_find("head-tail") ? "head-tail" : "int8";
    p.feature_encoding = "int8-channel";
    p.dtype = KD_BF16;
    return p;
}

static void any_number_of_threads_writes_the_same_root(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    char want[33] = "", got[33];
    make_teacher(right);
    for (size_t i = 0; i < KD_COUNT(threads); i++) {
        make_store();
        kd_teacher *t = open_teacher(teacher_path, 10, threads[i]);
        kd_writer_params wp = params(false, false);
        wp.threads = threads[i];
        OK(dump(t, mixed(), wp, NULL, err));
        kd_teacher_close(t);
        root_of_store(got);
        if (*want) assert_string_equal(got, want);
        memcpy(want, got, sizeof want);
    }
}

/* ---- interruptions -------------------------------------------------------------------------------- */

typedef struct moment {
    uint64_t at;
    volatile int stop;
    kd_teacher *spoil; /* its weights become no numbers, instead of stopping */
} moment;

static void wait_for(void *arg, uint64_t done, uint64_t total)
{
    moment *m = arg;
    assert_true(done <= total);
    if (done < m->at) return;
    if (m->spoil)
        set_bias(m->spoil, NAN);
    else
        m->stop = 1;
}

static void a_pass_that_stops_anywhere_resumes_to_the_same_root(void **state)
{
    (void)state;
    char want[33], got[33];
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 2);
    make_store();
    OK(dump(t, mixed(), params(false, false), NULL, err));
    root_of_store(want);
    for (uint64_t at = 1; at < ROWS; at += CHUNK / 2) {
        moment m = {.at = at};
        kd_dump_params p = mixed();
        kd_dump_report r, rest;
        p.stop = &m.stop;
        p.progress = wait_for;
        p.arg = &m;
        make_store();
        FAILS(dump(t, p, params(false, false), &r, err), KD_ESTOPPED, "--resume");
        p.stop = NULL;
        p.progress = NULL;
        OK(dump(t, p, params(true, false), &rest, err));
        assert_true(at <= CHUNK || r.rows >= CHUNK);
        assert_int_equal(rest.rows, ROWS - r.rows); // no row twice, none left out
        root_of_store(got);
        assert_string_equal(got, want);
    }
    kd_teacher_close(t);
}

static void a_teacher_that_fails_keeps_what_came_before(void **state)
{
    (void)state;
    char want[33], got[33];
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1), *bad = open_teacher(teacher_path, 10, 1);
    make_store();
    OK(dump(t, mixed(), params(false, false), NULL, err));
    root_of_store(want);
    make_store();
    moment m = {.at = 2 * CHUNK, .spoil = bad};
    kd_dump_params p = mixed();
    kd_dump_report rest;
    p.progress = wait_for;
    p.arg = &m;
    FAILS(dump(bad, p, params(false, false), NULL, err), KD_ENUMERIC, "row 64, class 0");
    OK(dump(t, mixed(), params(true, false), &rest, err));
    assert_int_equal(rest.rows, ROWS - 2 * CHUNK);
    root_of_store(got);
    assert_string_equal(got, want);
    kd_teacher_close(t);
    kd_teacher_close(bad);
}

/* ---- several passes, several machines -------------------------------------------------------------- */

static void later_passes_add_segments_of_their_own(void **state)
{
    (void)state;
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1);
    kd_dump_params p = kd_dump_default_params();
    OK(dump(t, p, params(false, false), NULL, err));
    p.logits = false;
    p.taps = TAPS;
    p.ntaps = 1;
    OK(dump(t, p, params(false, false), NULL, err));
    p.ntaps = 0;
    p.views = &VIEWS;
    OK(dump(t, p, params(false, false), NULL, err));
    kd_store *s = open_store();
    assert_string_equal(kd_store_column(s, (size_t)kd_store_find(s, "big/feat.relu0"))->segment,
                        "big.feat.relu0");
    assert_string_equal(kd_store_column(s, (size_t)kd_store_find(s, "big/logits.views"))->segment,
                        "big.views");
    assert_string_equal(kd_store_column(s, (size_t)kd_store_find(s, "big/logits"))->segment, "big");
    kd_store_close(s);
    kd_teacher_close(t);
}

static void one_name_never_stands_for_two_teachers(void **state)
{
    (void)state;
    kd_teacher *t, *u;
    make_two_teachers(&t, &u);
    kd_dump_params p = kd_dump_default_params();
    OK(dump(t, p, params(false, false), NULL, err));
    p.logits = false;
    p.views = &VIEWS;
    FAILS(dump(u, p, params(false, false), NULL, err), KD_EMISMATCH, kd_teacher_fingerprint(t));
    FAILS(dump(u, p, params(false, true), NULL, err), KD_EMISMATCH,
          "segment big"); // it replaces big.views alone
    p.name = "other";
    OK(dump(u, p, params(false, false), NULL, err));
    kd_teacher_close(t);
    kd_teacher_close(u);
}

static void parts_put_together_are_what_one_machine_writes(void **state)
{
    (void)state;
    char whole_root[33], part[3][112], merged[112];
    const char *names[3];
    kd_writer_params wp = params(false, false);
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1);
    kd_store *whole = open_store();
    for (uint32_t i = 0; i < 3; i++) {
        kd_store *s;
        kd_dump_params p = mixed();
        snprintf(part[i], sizeof part[i], "%s/part%u.kd", folder, i);
        names[i] = part[i];
        OK(kd_store_slice(part[i], store_path, i + 1, 3, true, &wp, NULL, err));
        OK(kd_store_open(&s, part[i], err));
        p.sample = whole;
        OK(kd_teacher_dump(t, s, &p, &wp, NULL, err));
        kd_store_close(s);
    }
    kd_store_close(whole);
    snprintf(merged, sizeof merged, "%s/merged.kd", folder);
    OK(kd_store_merge(merged, names, 3, false, &wp, NULL, NULL, NULL, NULL, NULL, err));
    OK(dump(t, mixed(), wp, NULL, err));
    root_of_store(whole_root);
    kd_store *s;
    OK(kd_store_open(&s, merged, err));
    assert_string_equal(kd_store_root(s), whole_root);
    kd_store_close(s);
    kd_teacher_close(t);
}

/* ---- checking again -------------------------------------------------------------------------------- */

static void a_recheck_finds_no_difference_in_what_was_dumped(void **state)
{
    (void)state;
    size_t n, codecs;
    kd_recheck r[KD_STORE_MAX_COLUMNS];
    const kd_codec_info *list = kd_codec_list(&codecs);
    make_store();
    make_teacher(right);
    kd_teacher *t = open_teacher(teacher_path, 10, 1);
    for (size_t i = 0; i < codecs; i++) {
        kd_dump_params p = mixed();
        p.encoding = list[i].name;
        if (!strcmp(p.encoding, "topk")) p.encoding = "topk:k=2";
        OK(dump(t, p, params(false, true), NULL, err));
        kd_store *s = open_store();
        OK(kd_teacher_recheck(t, s, "big", 60, r, &n, err));
        kd_store_close(s);
        assert_int_equal(n, 2 + KD_COUNT(TAPS));
        for (size_t k = 0; k < n; k++) {
            assert_true(r[k].matches && r[k].largest == 0 && r[k].relative == 0 && r[k].top1 == 1);
            assert_true(r[k].rows >= CHUNK && r[k].rows < ROWS);
        }
    }
    kd_teacher_close(t);
}

/* Logits of `from`, in the store as if they were t's. */
static void forge(kd_teacher *t, kd_teacher *from)
{
    kd_store *s = open_store();
    kd_store_writer *w;
    kd_column c = {
        .name = "big/logits", .role = KD_ROLE_LOGITS, .dtype = KD_F32, .ndims = 1, .dims = {CLASSES}};
    snprintf(c.teacher, sizeof c.teacher, "big");
    const kd_writer_params wp = params(false, true);
    OK(kd_store_extend(&w, s, "big", &c, 1, NULL, &wp, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        uint8_t raw[CHUNK][PIXELS];
        float logits[CHUNK * CLASSES];
        for (uint32_t r = 0; r < ci->rows; r++)
            for (size_t k = 0; k < PIXELS; k++) raw[r][k] = pixel(ci->first + r, k);
        OK(kd_teacher_run(from, raw, KD_U8, ci->rows, logits, err));
        const kd_block b = {.data = logits, .bytes = ci->rows * CLASSES * sizeof *logits};
        OK(kd_store_writer_append(w, ci->split, ci->rows, &b, err));
    }
    json_t *extra =
        json_pack("{s:{s:s, s:s}}", "teacher", "name", "big", "fingerprint", kd_teacher_fingerprint(t));
    OK(kd_store_writer_seal(w, extra, err));
    json_decref(extra);
    kd_store_close(s);
}

static void a_recheck_finds_the_outputs_of_another_teacher(void **state)
{
    (void)state;
    size_t n;
    kd_recheck r[KD_STORE_MAX_COLUMNS];
    make_store();
    make_teacher(right);
    teacher_opts o = right;
    o.path = other_path;
    o.seed = 2;
    make_teacher(o);
    kd_teacher *t = open_teacher(teacher_path, CHUNK, 1), *u = open_teacher(other_path, CHUNK, 1);
    forge(t, t);
    kd_store *s = open_store();
    OK(kd_teacher_recheck(t, s, "big", ROWS, r, &n, err));
    assert_true(n == 1 && r[0].matches && r[0].rows == ROWS && r[0].largest == 0);
    FAILS(kd_teacher_recheck(u, s, "big", ROWS, r, &n, err), KD_EMISMATCH, kd_teacher_fingerprint(t));
    FAILS(kd_teacher_recheck(t, s, "nobody", ROWS, r, &n, err), KD_ENOTFOUND, "'nobody'");
    kd_store_close(s);
    forge(t, u); // the right name and fingerprint, the wrong numbers
    s = open_store();
    OK(kd_teacher_recheck(t, s, "big", ROWS, r, &n, err));
    assert_true(n == 1 && !r[0].matches && r[0].largest > 0.01 && r[0].relative > 0.01);
    kd_store_close(s);
    kd_teacher_close(t);
    kd_teacher_close(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taps_are_the_values_of_their_nodes),
        cmocka_unit_test(taking_taps_does_not_change_logits),
        cmocka_unit_test(wrong_taps_are_refused_by_name),
        cmocka_unit_test(a_value_that_is_never_there_names_the_one_that_is),
        cmocka_unit_test(views_are_the_teacher_on_changed_rows),
        cmocka_unit_test(every_codec_gets_the_values_and_the_ids),
        cmocka_unit_test(any_number_of_threads_writes_the_same_root),
        cmocka_unit_test(a_pass_that_stops_anywhere_resumes_to_the_same_root),
        cmocka_unit_test(a_teacher_that_fails_keeps_what_came_before),
        cmocka_unit_test(later_passes_add_segments_of_their_own),
        cmocka_unit_test(one_name_never_stands_for_two_teachers),
        cmocka_unit_test(parts_put_together_are_what_one_machine_writes),
        cmocka_unit_test(a_recheck_finds_no_difference_in_what_was_dumped),
        cmocka_unit_test(a_recheck_finds_the_outputs_of_another_teacher),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
