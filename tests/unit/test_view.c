/* test_view.c - views are a function of spec, row and number alone, and are what their page says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "kd/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { H = 7, W = 9, C = 3, N = H * W * C };

static const kd_column bytes = {
    .name = "image", .dtype = KD_U8, .ndims = 3, .dims = {H, W, C}, .encoding = "dense"};
static const kd_column floats = {
    .name = "image", .dtype = KD_F32, .ndims = 3, .dims = {H, W, C}, .encoding = "dense"};
static const kd_view_spec none = {.count = 4, .seed = 11, .identity = true};

static kd_id id_of(uint64_t i) { return kd_hash128(&i, sizeof i); }

static void fill_image(uint8_t *x, uint64_t seed)
{
    for (size_t i = 0; i < N; i++)
        x[i] = (uint8_t)(1 + (kd_hash64(&seed, sizeof seed) >> i % 50 ^ i * 31) % 250);
}

/* ---- the draws, as the page of lib/data/view.c states them --------------------------------- */

static kd_rng draws(int64_t seed, kd_id row, uint32_t kind, uint32_t view)
{
    uint8_t key[24];
    kd_rng r;
    memcpy(key, &seed, 8);
    memcpy(key + 8, row.b, 16);
    kd_rng_init(&r, kd_hash64(key, 24), KD_RNG_VIEW, kind, view);
    return r;
}

static void twin(const kd_view_spec *s, kd_id row, uint32_t view, const uint8_t *in, uint8_t *out)
{
    kd_rng shift = draws(s->seed, row, 0, view), flip = draws(s->seed, row, 1, view);
    kd_rng noise = draws(s->seed, row, 2, view), erase = draws(s->seed, row, 3, view);
    const int dy = (int)kd_rng_below(&shift, (uint64_t)(2 * s->shift + 1)) - (int)s->shift;
    const int dx = (int)kd_rng_below(&shift, (uint64_t)(2 * s->shift + 1)) - (int)s->shift;
    const bool mirror = s->flip && (kd_rng_u32(&flip) & 1);
    const int cy = (int)kd_rng_below(&erase, H), cx = (int)kd_rng_below(&erase, W), side = (int)s->erase;
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            for (int c = 0; c < C; c++) {
                const int from_y = y + dy, from_x = (mirror ? W - 1 - x : x) + dx;
                const bool there = from_y >= 0 && from_y < H && from_x >= 0 && from_x < W;
                float v = there ? in[(from_y * W + from_x) * C + c] : (float)s->fill;
                if (s->noise > 0)
                    v = fminf(255, fmaxf(0, rintf(v + (float)s->noise * kd_rng_normal(&noise))));
                if (y >= cy - side / 2 && y < cy - side / 2 + side && x >= cx - side / 2 &&
                    x < cx - side / 2 + side)
                    v = (float)s->fill;
                out[(y * W + x) * C + c] = (uint8_t)v;
            }
}

static void every_view_is_what_the_page_says(void **state)
{
    (void)state;
    kd_view_spec specs[6] = {none, none, none, none, none, none};
    specs[0].shift = 2;
    specs[1].flip = true;
    specs[2].erase = 4;
    specs[3].noise = 12.5;
    specs[4].shift = 3, specs[4].flip = true, specs[4].fill = 200;
    specs[5].shift = 2, specs[5].flip = true, specs[5].erase = 3, specs[5].noise = 40, specs[5].fill = 7;
    for (size_t i = 0; i < KD_COUNT(specs); i++) {
        OK(kd_view_check(&specs[i], &bytes, err));
        for (uint64_t row = 0; row < 40; row++)
            for (uint32_t view = 1; view < 4; view++) {
                uint8_t in[N], want[N], got[N];
                fill_image(in, row);
                memset(got, 0xEE, N);
                twin(&specs[i], id_of(row), view, in, want);
                kd_view_apply(&specs[i], &bytes, id_of(row), view, in, NULL, got);
                for (size_t k = 0; k < N; k++)
                    if (got[k] != want[k])
                        fail_msg("spec %zu, row %d, view %u, value %zu: %u, want %u", i, (int)row, view, k,
                                 got[k], want[k]);
            }
    }
}

static void view_zero_is_the_row_unless_it_is_not_wanted(void **state)
{
    (void)state;
    uint8_t in[N], out[N];
    kd_view_spec s = none;
    s.shift = 3, s.noise = 9;
    fill_image(in, 5);
    kd_view_apply(&s, &bytes, id_of(5), 0, in, NULL, out);
    assert_memory_equal(in, out, N);
    s.identity = false;
    kd_view_apply(&s, &bytes, id_of(5), 0, in, NULL, out);
    assert_memory_not_equal(in, out, N);
}

static void seed_row_and_number_make_other_views(void **state)
{
    (void)state;
    kd_view_spec s = none, t = none;
    uint8_t in[N], a[N], b[N];
    s.noise = t.noise = 9;
    t.seed = 12;
    fill_image(in, 5);
    kd_view_apply(&s, &bytes, id_of(5), 1, in, NULL, a);
    kd_view_apply(&s, &bytes, id_of(5), 1, in, NULL, b);
    assert_memory_equal(a, b, N);
    kd_view_apply(&s, &bytes, id_of(5), 2, in, NULL, b);
    assert_memory_not_equal(a, b, N);
    kd_view_apply(&s, &bytes, id_of(6), 1, in, NULL, b);
    assert_memory_not_equal(a, b, N);
    kd_view_apply(&t, &bytes, id_of(5), 1, in, NULL, b);
    assert_memory_not_equal(a, b, N);
}

/* 5 x 5 places, all about equally often; half of the views mirrored: counts within 5 standard deviations. */
static void places_and_mirrors_are_even(void **state)
{
    (void)state;
    enum { ROWS = 5000 };
    kd_view_spec s = none;
    int place[25] = {0}, mirrored = 0;
    s.shift = 2, s.flip = true;
    for (uint64_t row = 0; row < ROWS; row++) {
        uint8_t in[N] = {0}, out[N];
        in[(3 * W + 4) * C] = 1; // the middle of the image, which is its own mirror image,
        in[(3 * W + 5) * C] = 2; // and the pixel on its right
        kd_view_apply(&s, &bytes, id_of(row), 1, in, NULL, out);
        int at = -1;
        for (int i = 0; i < H * W; i++)
            if (out[i * C] == 1) at = i;
        assert_true(at >= 0);
        place[(at / W - 1) * 5 + at % W - 2]++;
        mirrored += out[(at - 1) * C] == 2;
    }
    for (int i = 0; i < 25; i++) assert_in_range(place[i], ROWS / 25 - 70, ROWS / 25 + 70);
    assert_in_range(mirrored, ROWS / 2 - 177, ROWS / 2 + 177);
}

static void noise_has_the_deviation_asked_for(void **state)
{
    (void)state;
    static float in[N], out[N];
    kd_view_spec s = none;
    double sum = 0, squares = 0;
    s.noise = 0.5;
    OK(kd_view_check(&s, &floats, err));
    for (uint64_t row = 0; row < 200; row++) {
        kd_view_apply(&s, &floats, id_of(row), 3, in, NULL, out);
        for (size_t i = 0; i < N; i++) sum += (double)out[i], squares += (double)out[i] * (double)out[i];
    }
    const double n = 200.0 * N;
    assert_true(fabs(sum / n) < 5 * 0.5 / sqrt(n));
    assert_true(fabs(sqrt(squares / n) - 0.5) < 5 * 0.5 / sqrt(2 * n));
}

static void floats_move_like_bytes(void **state)
{
    (void)state;
    uint8_t in[N], out[N];
    float fin[N], fout[N];
    kd_view_spec s = none;
    s.shift = 2, s.flip = true, s.erase = 3, s.fill = 9;
    for (uint64_t row = 0; row < 30; row++) {
        fill_image(in, row);
        for (size_t i = 0; i < N; i++) fin[i] = in[i];
        kd_view_apply(&s, &bytes, id_of(row), 2, in, NULL, out);
        kd_view_apply(&s, &floats, id_of(row), 2, fin, NULL, fout);
        for (size_t i = 0; i < N; i++) assert_true(fout[i] == (float)out[i]);
    }
}

/* ---- crops and mixtures --------------------------------------------------------------------- */

/* The same formula as the page's, in real numbers. */
static double bilinear(const uint8_t *in, int y0, int x0, int h, int w, int y, int x, int c)
{
    const double sy = fmin(h - 1, fmax(0, (y + 0.5) * h / H - 0.5)),
                 sx = fmin(w - 1, fmax(0, (x + 0.5) * w / W - 0.5));
    const int ay = (int)sy, ax = (int)sx, by = ay + 1 < h ? ay + 1 : ay, bx = ax + 1 < w ? ax + 1 : ax;
    const double fy = sy - ay, fx = sx - ax;
#define AT(Y, X) (double)in[((y0 + (Y)) * W + x0 + (X)) * C + c]
    return (AT(ay, ax) * (1 - fx) + AT(ay, bx) * fx) * (1 - fy) +
           (AT(by, ax) * (1 - fx) + AT(by, bx) * fx) * fy;
#undef AT
}

static void a_crop_is_a_part_stretched_to_the_whole(void **state)
{
    (void)state;
    kd_view_spec s = none;
    int whole = 0, smallest = H;
    s.crop = 0.1, s.flip = true;
    OK(kd_view_check(&s, &bytes, err));
    for (uint64_t row = 0; row < 300; row++) {
        uint8_t in[N], out[N];
        float fin[N], fout[N];
        kd_rng crop = draws(s.seed, id_of(row), 4, 1), flip = draws(s.seed, id_of(row), 1, 1);
        const float side = sqrtf(0.1f + (1 - 0.1f) * kd_rng_uniform(&crop));
        const int h = (int)((float)H * side + 0.5f), w = (int)((float)W * side + 0.5f);
        const int y0 = (int)kd_rng_below(&crop, (uint64_t)(H - h + 1)),
                  x0 = (int)kd_rng_below(&crop, (uint64_t)(W - w + 1));
        const bool mirror = kd_rng_u32(&flip) & 1;
        fill_image(in, row);
        for (int i = 0; i < N; i++) fin[i] = in[i];
        kd_view_apply(&s, &bytes, id_of(row), 1, in, NULL, out);
        kd_view_apply(&s, &floats, id_of(row), 1, fin, NULL, fout);
        for (int y = 0; y < H; y++)
            for (int x = 0; x < W; x++)
                for (int c = 0; c < C; c++) {
                    const double want = bilinear(in, y0, x0, h, w, y, mirror ? W - 1 - x : x, c);
                    const int i = (y * W + x) * C + c;
                    if (fabs(out[i] - want) > 0.52 || fabs((double)fout[i] - want) > 0.02)
                        fail_msg("row %d, %d x %d at %d, %d: value %d is %u and %g, want %g", (int)row, h, w,
                                 y0, x0, i, out[i], (double)fout[i], want);
                }
        whole += h == H && w == W && !mirror && !memcmp(in, out, N);
        smallest = h < smallest ? h : smallest;
    }
    assert_true(whole > 0); // the whole image as a part is itself, to the bit
    assert_in_range(smallest, 2, 3);
}

static void a_mixture_is_what_its_share_says(void **state)
{
    (void)state;
    enum { ROWS = 4000, CHUNK = 50 };
    kd_view_spec s = none;
    int plain = 0, averaged = 0, pasted = 0, chosen[CHUNK] = {0};
    s.mixup = 0.25, s.cutmix = 0.5;
    OK(kd_view_check(&s, &bytes, err));
    for (uint64_t row = 0; row < ROWS; row++) {
        uint8_t in[N], other[N], out[N];
        for (int i = 0; i < N; i++) in[i] = 200, other[i] = 40;
        const kd_view_mix m = kd_view_mix_of(&s, &bytes, id_of(row), 1, CHUNK);
        kd_view_apply(&s, &bytes, id_of(row), 1, in, m.mixed ? other : NULL, out);
        double sum = 0;
        int between = 0;
        for (int i = 0; i < N; i++) sum += out[i], between += out[i] != 200 && out[i] != 40;
        const double share = (sum / N - 40) / 160; // what there is of the row in its view
        assert_true(fabs(share - (double)m.share) < 0.5 / 160 + 1e-6);
        assert_true(m.share >= 0.5f - 1e-6f || between == 0);
        if (!m.mixed) assert_true(m.share == 1);
        plain += !m.mixed, averaged += between > 0, pasted += m.mixed && !between;
        if (m.mixed) chosen[m.other]++;
    }
    assert_in_range(plain, ROWS / 4 - 140, ROWS / 4 + 140);
    assert_in_range(averaged, ROWS / 4 - 160, ROWS / 4 + 140);
    assert_in_range(pasted, ROWS / 2 - 160, ROWS / 2 + 180);
    for (int i = 0; i < CHUNK; i++) assert_in_range(chosen[i], 20, 105); // 60 +- 5 deviations
}

static void view_zero_is_not_mixed_and_bytes_mix_like_floats(void **state)
{
    (void)state;
    kd_view_spec s = none;
    s.mixup = 1;
    assert_false(kd_view_mix_of(&s, &bytes, id_of(1), 0, 9).mixed);
    for (uint64_t row = 0; row < 50; row++) {
        uint8_t in[N], other[N], out[N];
        float fin[N], fother[N], fout[N];
        fill_image(in, row), fill_image(other, row + 1000);
        for (int i = 0; i < N; i++) fin[i] = in[i], fother[i] = other[i];
        kd_view_apply(&s, &bytes, id_of(row), 2, in, other, out);
        kd_view_apply(&s, &floats, id_of(row), 2, fin, fother, fout);
        for (int i = 0; i < N; i++) assert_true(fabs((double)out[i] - (double)fout[i]) <= 0.501);
    }
}

static void a_student_meets_each_view_once_in_count_epochs(void **state)
{
    (void)state;
    const kd_view_spec s = {.count = 5, .seed = 3};
    int first[5] = {0}, differ = 0;
    for (uint64_t row = 0; row < 1000; row++) {
        unsigned seen = 0;
        for (uint64_t epoch = 7; epoch < 12; epoch++) seen |= 1u << kd_view_turn(&s, 1, id_of(row), epoch);
        assert_int_equal(seen, 31);
        first[kd_view_turn(&s, 1, id_of(row), 0)]++;
        differ += kd_view_turn(&s, 1, id_of(row), 0) != kd_view_turn(&s, 2, id_of(row), 0);
    }
    for (int v = 0; v < 5; v++) assert_in_range(first[v], 137, 263); // 200 +- 5 deviations
    assert_in_range(differ, 730, 870);
}

static void what_cannot_be_made_is_refused(void **state)
{
    (void)state;
    kd_column c = bytes;
    kd_view_spec s = none;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "nothing that tells them apart");
    s.shift = 7;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "image is 7 x 9: a shift of 7");
    s.shift = 2, s.fill = 0.5;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "fill is 0.5");
    s.fill = 256;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "fill is 256");
    s.fill = 0, s.noise = NAN;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "noise nan");
    s.noise = 0, s.crop = 0.5;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "crop 0.5 and shift 2 are two ways");
    s.shift = 0, s.mixup = 0.6, s.cutmix = 0.5;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "mixup 0.6, cutmix 0.5");
    s.crop = s.mixup = s.cutmix = 0, s.shift = 2, s.count = KD_VIEWS_MAX + 1;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "4097 of them");
    s.count = 4, c.dtype = KD_I32;
    FAILS(kd_view_check(&s, &c, err), KD_EUNSUPPORTED, "column image");
    c = bytes, c.dims[0] = -1;
    FAILS(kd_view_check(&s, &c, err), KD_EUNSUPPORTED, "column image");
    c = bytes, c.ndims = 1;
    FAILS(kd_view_check(&s, &c, err), KD_EUSAGE, "is no image");
    s.shift = 0, s.noise = 1;
    OK(kd_view_check(&s, &c, err));
    c.ndims = 2, s.shift = 2;
    OK(kd_view_check(&s, &c, err));
}

static void a_spec_survives_its_json(void **state)
{
    (void)state;
    kd_view_spec s = {3, 1ll << 40, 2, 5, true, false, 0.1, -7.25, 0.5, 0.25, 0.125}, t;
    memset(&t, 0xEE, sizeof t);
    json_t *j = kd_view_json(&s);
    OK(kd_view_parse(&t, j, "x", err));
    assert_true(s.count == t.count && s.seed == t.seed && s.shift == t.shift && s.erase == t.erase &&
                t.flip && !t.identity && s.noise == t.noise && s.fill == t.fill && s.crop == t.crop &&
                s.mixup == t.mixup && s.cutmix == t.cutmix);
    json_object_del(j, "mixup"); // as stores of earlier versions
    OK(kd_view_parse(&t, j, "x", err));
    assert_true(t.mixup == 0 && t.cutmix == s.cutmix);
    json_object_set_new(j, "shift", json_integer(-1));
    FAILS(kd_view_parse(&t, j, "column x", err), KD_ECORRUPT, "shift");
    json_object_set_new(j, "shift", json_integer(1));
    json_object_del(j, "flip");
    FAILS(kd_view_parse(&t, j, "column x", err), KD_ECORRUPT, "column x: flip");
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_view_is_what_the_page_says),
        cmocka_unit_test(view_zero_is_the_row_unless_it_is_not_wanted),
        cmocka_unit_test(seed_row_and_number_make_other_views),
        cmocka_unit_test(places_and_mirrors_are_even),
        cmocka_unit_test(noise_has_the_deviation_asked_for),
        cmocka_unit_test(floats_move_like_bytes),
        cmocka_unit_test(a_crop_is_a_part_stretched_to_the_whole),
        cmocka_unit_test(a_mixture_is_what_its_share_says),
        cmocka_unit_test(view_zero_is_not_mixed_and_bytes_mix_like_floats),
        cmocka_unit_test(a_student_meets_each_view_once_in_count_epochs),
        cmocka_unit_test(what_cannot_be_made_is_refused),
        cmocka_unit_test(a_spec_survives_its_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
