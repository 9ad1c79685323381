/* test_audit.c - confident learning against cleanlab, drift against scipy (tests/golden/make_audit.py), and
 * pairs of copies against comparing all rows with all. */
#include "data_fixture.h"

#include "kd/audit.h"

#include <math.h>

static json_t *golden;

static int load(void **state)
{
    (void)state;
    return kd_json_load("tests/golden/audit.json", 1 << 20, &golden, NULL) ? -1 : 0;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static void near_enough(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * (1 + fabs(want)))) fail_msg("got %.12g, want %.12g", got, want);
}

static double item(const json_t *o, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(o, key), i));
}

/* ---- labels ------------------------------------------------------------------------------- */

typedef struct sample {
    uint64_t rows;
    int64_t classes;
    float *p;
    int32_t *y;
} sample;

static sample of_golden(void)
{
    sample s = {.rows = (uint64_t)json_integer_value(json_object_get(golden, "rows")),
                .classes = json_integer_value(json_object_get(golden, "classes"))};
    s.p = calloc(s.rows * (size_t)s.classes, sizeof(*s.p));
    s.y = calloc(s.rows, sizeof(*s.y));
    for (size_t i = 0; i < s.rows * (size_t)s.classes; i++) s.p[i] = (float)item(golden, "p", i);
    for (size_t i = 0; i < s.rows; i++) s.y[i] = (int32_t)item(golden, "labels", i);
    return s;
}

static void release(sample *s, kd_confident *c)
{
    free(s->p);
    free(s->y);
    kd_confident_release(c);
}

static void thresholds_joint_and_margins_are_those_of_cleanlab(void **state)
{
    (void)state;
    kd_confident c;
    sample s = of_golden();
    OK(kd_confident_learn(&c, s.p, s.y, s.rows, s.classes, &fx_err));
    assert_int_equal(c.rows, s.rows);
    for (size_t i = 0; i < 4; i++) near_enough(c.threshold[i], item(golden, "thresholds", i));
    for (size_t i = 0; i < 16; i++) assert_int_equal(c.joint[i], (int)item(golden, "joint", i));
    for (size_t i = 0; i < 16; i++) near_enough(c.estimate[i], item(golden, "estimate", i));
    for (size_t i = 0; i < s.rows; i++)
        near_enough(kd_label_margin(s.p + i * 4, s.y[i], 4), item(golden, "margin", i));
    release(&s, &c);
}

static void flagged_labels_are_those_of_cleanlab(void **state)
{
    (void)state;
    static const char *const name[] = {"joint", "rate"};
    uint8_t flag[3][240];
    kd_confident c;
    sample s = of_golden();
    OK(kd_confident_learn(&c, s.p, s.y, s.rows, s.classes, &fx_err));
    for (int how = 0; how < 3; how++)
        OK(kd_confident_flag(&c, s.p, s.y, s.rows, (kd_label_filter)how, flag[how], &fx_err));
    for (int how = 0; how < 2; how++)
        for (size_t i = 0; i < s.rows; i++) {
            const json_t *want =
                json_array_get(json_object_get(json_object_get(golden, "flags"), name[how]), i);
            if (flag[how][i] != json_is_true(want)) fail_msg("%s: row %zu is %d", name[how], i, flag[how][i]);
        }
    for (size_t i = 0; i < s.rows; i++) assert_int_equal(flag[KD_FILTER_BOTH][i], flag[0][i] && flag[1][i]);
    release(&s, &c);
}

static void rows_without_labels_and_classes_without_rows_count_nowhere(void **state)
{
    (void)state;
    const float p[] = {0.8f, 0.1f, 0.1f, 0.3f, 0.6f, 0.1f, 0.1f, 0.1f, 0.8f, 0.05f, 0.9f, 0.05f};
    const int32_t y[] = {0, 1, -1, 0};
    uint8_t flag[4];
    kd_confident c;
    OK(kd_confident_learn(&c, p, y, 4, 3, &fx_err));
    assert_int_equal(c.rows, 3);
    near_enough(c.threshold[0], (0.8 + 0.05) / 2);
    assert_true(isnan(c.threshold[2]));
    assert_int_equal(kd_confident_class(&c, p + 6), -1);
    for (int how = 0; how < 3; how++) {
        OK(kd_confident_flag(&c, p, y, 4, (kd_label_filter)how, flag, &fx_err));
        assert_memory_equal(flag, ((uint8_t[]){0, 0, 0, 1}), 4);
    }
    kd_confident_release(&c);
}

static void folds_are_of_about_equal_size_and_follow_the_id_alone(void **state)
{
    (void)state;
    uint32_t n[5] = {0};
    for (uint32_t i = 0; i < 10000; i++) {
        kd_id id = kd_hash128(&i, sizeof(i));
        assert_int_equal(kd_fold_of(id, 5), kd_fold_of(id, 5));
        n[kd_fold_of(id, 5)]++;
    }
    for (int k = 0; k < 5; k++) assert_in_range(n[k], 1850, 2150);
}

/* ---- drift -------------------------------------------------------------------------------- */

static void chi_square_and_its_tail_are_those_of_scipy(void **state)
{
    (void)state;
    size_t i;
    const json_t *v;
    json_array_foreach(json_object_get(golden, "tails"), i, v)
        near_enough(kd_chi_square_tail(json_number_value(json_object_get(v, "x")),
                                       json_number_value(json_object_get(v, "dof"))),
                    json_number_value(json_object_get(v, "p")));
    json_array_foreach(json_object_get(golden, "pairs"), i, v)
    {
        uint64_t a[8], b[8];
        double p;
        const size_t n = json_array_size(json_object_get(v, "a"));
        for (size_t k = 0; k < n; k++) a[k] = (uint64_t)item(v, "a", k), b[k] = (uint64_t)item(v, "b", k);
        near_enough(kd_chi_square(a, b, n, &p), json_number_value(json_object_get(v, "x")));
        near_enough(p, json_number_value(json_object_get(v, "p")));
        near_enough(kd_psi(a, b, n), json_number_value(json_object_get(v, "psi")));
    }
}

static void nothing_to_compare_is_no_drift(void **state)
{
    (void)state;
    double p;
    near_enough(kd_chi_square((uint64_t[]){0, 5}, (uint64_t[]){0, 9}, 2, &p), 0);
    near_enough(p, 1);
    near_enough(kd_chi_square((uint64_t[]){3, 5}, (uint64_t[]){0, 0}, 2, &p), 0);
    near_enough(p, 1);
    near_enough(kd_psi((uint64_t[]){4, 4}, (uint64_t[]){4, 4}, 2), 0);
}

/* ---- pairs -------------------------------------------------------------------------------- */

enum { SIDE = 12, PIXELS = SIDE * SIDE, IMAGES = 300, PLANTED = 60, ALL = IMAGES + PLANTED, DIMS = 200 };

/* A smooth image of a number: a few waves. */
static void paint(uint8_t *x, uint32_t number)
{
    kd_rng g;
    float wave[6][4];
    kd_rng_init(&g, number, KD_RNG_TEST, 0, 0);
    for (int k = 0; k < 24; k++) wave[k / 4][k % 4] = kd_rng_normal(&g);
    for (int i = 0; i < PIXELS; i++) {
        double v = 0;
        for (int k = 0; k < 6; k++)
            v += wave[k][0] * sin(wave[k][1] + 0.5 * wave[k][2] * (i / SIDE) + 0.5 * wave[k][3] * (i % SIDE));
        x[i] = (uint8_t)fmin(fmax(128 + 30 * v, 20), 235);
    }
}

/* Images, and behind them copies: as they are, brighter, mirrored, moved by a pixel. */
static uint8_t *make_images(void)
{
    uint8_t *x = malloc(ALL * PIXELS);
    for (uint32_t i = 0; i < IMAGES; i++) paint(x + i * PIXELS, i);
    for (uint32_t i = 0; i < PLANTED; i++) {
        const uint8_t *of = x + 3 * i * PIXELS;
        uint8_t *to = x + (IMAGES + i) * PIXELS;
        for (int k = 0; k < PIXELS; k++) {
            const int row = k / SIDE, col = k % SIDE;
            to[k] = i % 4 == 0   ? of[k]
                    : i % 4 == 1 ? (uint8_t)(of[k] + 15)
                    : i % 4 == 2 ? of[row * SIDE + SIDE - 1 - col]
                                 : of[row * SIDE + (col ? col - 1 : 0)];
        }
    }
    return x;
}

static kd_store *pack_array(const char *name, const void *idx, size_t len, const char *more)
{
    kd_config c;
    kd_data_spec s;
    kd_store *store;
    uint8_t *labels = calloc(ALL, 1), *file = malloc(ALL + 64);
    char path[64];
    fx_write(name, idx, len);
    fx_write("y", file, fx_idx(file, 0x08, 1, (uint32_t[]){ALL}, labels, ALL));
    char *yaml =
        kd_sprintf("  train_input: [%s/%s]\n  train_label: [%s/y]\n  valid_fraction: 0\n  chunk_rows: 64\n%s",
                   fx_dir, name, fx_dir, more);
    fx_spec(&c, &s, yaml);
    snprintf(path, sizeof(path), "%s.kd", name);
    OK(kd_pack(&s, fx_path(path), NULL, NULL, NULL, NULL, NULL, NULL, &fx_err));
    OK(kd_store_open(&store, fx_path(path), &fx_err));
    kd_config_release(&c);
    free(yaml);
    free(labels);
    free(file);
    return store;
}

/* Source rows of all rows, and the rows of a column of bytes or floats. */
static void read_all(kd_store *s, uint64_t *source, float *x, size_t values)
{
    kd_cursor *cursor;
    const int input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    OK(kd_cursor_open(&cursor, s, &fx_err));
    for (uint32_t k = 0; k < kd_store_chunks(s); k++) {
        const kd_chunk_info *i = kd_store_chunk(s, k);
        OK(kd_cursor_read(cursor, kd_store_find(s, "source"), k, source + i->first, i->rows * 8, &fx_err));
        OK(kd_cursor_read_f32(cursor, input, k, x + i->first * values,
                              i->rows * kd_column_each(kd_store_column(s, (size_t)input)), &fx_err));
    }
    kd_cursor_close(cursor);
}

static double naive_correlation(const float *a, const float *b, int dy, int dx)
{
    double n = 0, sa = 0, sb = 0, saa = 0, sbb = 0, sab = 0;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            if (y + dy < 0 || y + dy >= SIDE || x + dx < 0 || x + dx >= SIDE) continue;
            const double u = a[y * SIDE + x], v = b[(y + dy) * SIDE + x + dx];
            n++, sa += u, sb += v, saa += u * u, sbb += v * v, sab += u * v;
        }
    return (sab - sa * sb / n) / sqrt((saa - sa * sa / n) * (sbb - sb * sb / n));
}

static double naive_likeness(const float *a, const float *b, bool mirrored)
{
    float turned[PIXELS];
    double best = -1;
    for (int i = 0; i < PIXELS; i++) turned[i] = b[mirrored ? i / SIDE * SIDE + SIDE - 1 - i % SIDE : i];
    for (int dy = -1; dy <= 1; dy++)
        for (int dx = -1; dx <= 1; dx++) best = fmax(best, naive_correlation(a, turned, dy, dx));
    return best;
}

static const kd_pair *find_pair(const kd_pairs *p, uint64_t a, uint64_t b)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->v[i].a == a && p->v[i].b == b) return &p->v[i];
    return NULL;
}

static kd_store *image_store(const char *name)
{
    uint8_t *x = make_images(), *file = malloc(ALL * PIXELS + 64);
    kd_store *s =
        pack_array(name, file, fx_idx(file, 0x08, 3, (uint32_t[]){ALL, SIDE, SIDE}, x, ALL * PIXELS), "");
    free(file);
    free(x);
    return s;
}

static kd_pairs search(kd_store *s, int threads, double similarity)
{
    kd_pairs p;
    const int input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    kd_pair_params pp = {
        .column = input, .similarity = similarity, .shift = 1, .mirror = true, .threads = threads};
    OK(kd_pairs_find(&p, s, input, &pp, &fx_err));
    return p;
}

static void copies_of_images_are_found_as_by_comparing_all_with_all(void **state)
{
    (void)state;
    static uint64_t source[ALL];
    static float x[ALL * PIXELS];
    int found[4] = {0};
    kd_store *s = image_store("one");
    read_all(s, source, x, PIXELS);
    kd_pairs p = search(s, 2, 0.97);
    for (size_t i = 0; i < p.n; i++) { // nothing that is not alike
        const kd_pair *q = &p.v[i];
        assert_true(q->a < q->b);
        const double want = naive_likeness(x + q->a * PIXELS, x + q->b * PIXELS, q->kind == KD_PAIR_MIRRORED);
        if (q->kind == KD_PAIR_EXACT)
            assert_memory_equal(x + q->a * PIXELS, x + q->b * PIXELS, sizeof(x[0]) * PIXELS);
        assert_true(fabs(want - (double)q->similarity) < 0.002); // thumbnails have 8 bits
    }
    for (uint64_t a = 0; a < ALL; a++) // all that is, but for a margin of rounding
        for (uint64_t b = a + 1; b < ALL; b++) {
            const bool same = !memcmp(x + a * PIXELS, x + b * PIXELS, sizeof(x[0]) * PIXELS);
            const double like = fmax(naive_likeness(x + a * PIXELS, x + b * PIXELS, false),
                                     naive_likeness(x + a * PIXELS, x + b * PIXELS, true));
            const kd_pair *q = find_pair(&p, a, b);
            if (same) assert_true(q && q->kind == KD_PAIR_EXACT);
            const uint64_t lo = source[a] < source[b] ? source[a] : source[b],
                           hi = source[a] < source[b] ? source[b] : source[a];
            if (hi >= IMAGES && lo == 3 * (hi - IMAGES) && q) found[(hi - IMAGES) % 4]++;
            if (like < 0.965) assert_true(same || !q);
        }
    for (int kind = 0; kind < 4; kind++) assert_int_equal(found[kind], PLANTED / 4);
    kd_pairs_release(&p);
    kd_store_close(s);
}

static void threads_change_no_pair(void **state)
{
    (void)state;
    kd_store *s = image_store("two");
    kd_pairs one = search(s, 1, 0.9), three = search(s, 3, 0.9);
    assert_true(one.n >= PLANTED);
    assert_int_equal(one.n, three.n);
    for (size_t i = 0; i < one.n; i++) {
        assert_int_equal(one.v[i].a, three.v[i].a);
        assert_int_equal(one.v[i].b, three.v[i].b);
        assert_int_equal(one.v[i].kind, three.v[i].kind);
        assert_memory_equal(&one.v[i].similarity, &three.v[i].similarity, sizeof(float));
    }
    kd_pairs_release(&one);
    kd_pairs_release(&three);
    kd_store_close(s);
}

/* Rows of 200 numbers in units of their own; the last are others with a little noise. */
static void nearly_equal_rows_of_numbers_are_found(void **state)
{
    (void)state;
    static float x[ALL * DIMS];
    static uint64_t source[ALL];
    uint8_t *file = malloc(sizeof(x) + 64);
    kd_rng g;
    kd_rng_init(&g, 1, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < ALL; i++)
        for (size_t d = 0; d < DIMS; d++)
            x[i * DIMS + d] = i < IMAGES ? 1000 + powf(10, (float)(d % 7)) * kd_rng_normal(&g)
                                         : x[(i - IMAGES) * DIMS + d] +
                                               0.05f * powf(10, (float)(d % 7)) * kd_rng_normal(&g);
    for (size_t i = 0; i < ALL * DIMS; i++) { // IDX is big-endian
        uint32_t v;
        memcpy(&v, &x[i], 4);
        v = __builtin_bswap32(v);
        memcpy(&x[i], &v, 4);
    }
    kd_store *s = pack_array("vec", file, fx_idx(file, 0x0D, 2, (uint32_t[]){ALL, DIMS}, x, sizeof(x)), "");
    read_all(s, source, x, DIMS);
    kd_pairs p = search(s, 2, 0.95);
    assert_int_equal(p.n, PLANTED);
    for (size_t i = 0; i < p.n; i++) {
        const uint64_t a = source[p.v[i].a], b = source[p.v[i].b];
        assert_int_equal(a < b ? b - a : a - b, IMAGES);
        assert_int_equal(p.v[i].kind, KD_PAIR_NEAR);
    }
    kd_pairs_release(&p);
    kd_store_close(s);
    free(file);
}

static void columns_without_a_shape_to_compare_are_refused_by_name(void **state)
{
    (void)state;
    kd_pairs p;
    kd_store *s = image_store("three");
    const int input = kd_store_find_role(s, KD_ROLE_INPUT, NULL);
    kd_pair_params pp = {.column = kd_store_find(s, "label"), .similarity = 0.9, .threads = 1};
    FAILS(kd_pairs_find(&p, s, input, &pp, &fx_err), KD_EUNSUPPORTED, "label");
    pp.column = -1;
    OK(kd_pairs_find(&p, s, input, &pp, &fx_err));
    assert_int_equal(p.n, PLANTED / 4); // exact ones only
    kd_pairs_release(&p);
    kd_store_close(s);
}

int main(void)
{
    const struct CMUnitTest values[] = {
        cmocka_unit_test(thresholds_joint_and_margins_are_those_of_cleanlab),
        cmocka_unit_test(flagged_labels_are_those_of_cleanlab),
        cmocka_unit_test(rows_without_labels_and_classes_without_rows_count_nowhere),
        cmocka_unit_test(folds_are_of_about_equal_size_and_follow_the_id_alone),
        cmocka_unit_test(chi_square_and_its_tail_are_those_of_scipy),
        cmocka_unit_test(nothing_to_compare_is_no_drift),
    };
    const struct CMUnitTest pairs[] = {
        cmocka_unit_test(copies_of_images_are_found_as_by_comparing_all_with_all),
        cmocka_unit_test(threads_change_no_pair),
        cmocka_unit_test(nearly_equal_rows_of_numbers_are_found),
        cmocka_unit_test(columns_without_a_shape_to_compare_are_refused_by_name),
    };
    return cmocka_run_group_tests(values, load, unload) +
           cmocka_run_group_tests(pairs, fx_setup, fx_teardown);
}
