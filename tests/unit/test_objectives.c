/* test_objectives.c - every objective against its twin and finite differences, at its edges, and for any
 * number of threads. A case is a term in the words of the YAML; a new objective needs at least one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loss_fixture.h"

#include <omp.h>

static int64_t count(const kd_loss_dims *d)
{
    int64_t n = 1;
    for (int i = 0; i < d->ndims; i++) n *= d->dims[i];
    return n;
}

/* ---- made-up batches ----------------------------------------------------------------------- */

/* An objective with keys that take it another way through the code. */
static const char *const cases[] = {
    "name=ce",
    "name=ce,label_smoothing=0.1",
    "name=kd,temperature=2",
    "name=kd,temperature=3,kl_form=cross_entropy,t2=off,reduction=element",
    "name=kd,wrong=0.25",
    "name=dkd,wrong=0",
    "name=sparse_kl,sparse=bucket,wrong=0.5",
    "name=kd_ce",
    "name=reverse_kl,temperature=2,t2=on",
    "name=gjsd,beta=0,temperature=2",
    "name=gjsd,beta=0.1",
    "name=gjsd,beta=0.5,temperature=2,t2=on",
    "name=gjsd,beta=1",
    "name=skl",
    "name=skl,alpha=0,kl_form=cross_entropy",
    "name=skl,alpha=0.9,t2=on,temperature=2",
    "name=srkl",
    "name=srkl,alpha=0,temperature=2",
    "name=srkl,alpha=0.9",
    "name=tvd,temperature=2",
    "name=dkd",
    "name=dkd,temperature=1,alpha=0.5,beta=2,t2=off,reduction=element",
    "name=lskd",
    "name=lskd,std_ddof=0,temperature=1,t2=off",
    "name=dist",
    "name=dist,eps_mode=floor,temperature=4,beta=2,gamma=0.5",
    "name=dist,t2=off,temperature=2,beta=0",
    "name=logit_mse",
    "name=logit_mse,reduction=batch",
    "name=sparse_kl,sparse=raw",
    "name=sparse_kl,sparse=raw,kl_form=cross_entropy,temperature=2",
    "name=sparse_kl,sparse=renorm,temperature=2,t2=on",
    "name=sparse_kl,sparse=bucket",
    "name=sparse_kl,sparse=bucket,temperature=2",
    "name=sparse_kl,sparse=bucket,temperature=2,tail=power",
    "name=sparse_kl,sparse=bucket,direction=reverse,temperature=2",
    "name=sparse_kl,sparse=both,temperature=3,t2=on",
    "name=sparse_kl,sparse=both,direction=reverse",
    "name=sparse_kl,sparse=uniform,kl_form=cross_entropy",
    "name=sparse_kl,sparse=uniform,temperature=2",
    "name=sparse_kl,sparse=sampled",
    "name=sparse_kl,sparse=sampled,kl_form=cross_entropy,reduction=element",
    "name=sparse_jsd,sparse=renorm",
    "name=sparse_jsd,sparse=bucket,temperature=2,beta=0.3",
    "name=sparse_jsd,sparse=both",
    "name=sparse_tvd,sparse=renorm,temperature=2",
    "name=sparse_tvd,sparse=bucket",
    "name=sparse_tvd,sparse=both",
    "name=margin_mse",
    "name=margin_mse,teacher_scores=differences",
    "name=listwise_kl",
    "name=listwise_kl,temperature=2,teacher_temperature=0.5",
    "name=fitnet,projection=none",
    "name=embed",
    "name=embed,metric=mse",
    "name=embed,metric=l2",
    "name=at",
    "name=at,power=4",
    "name=at,power=1,mode=paper",
    "name=rkd_distance",
    "name=rkd_angle",
    "name=sp",
    "name=sp,row_norm=1",
    "name=pkt",
    "name=crd,negatives=6",
    "name=crd,negatives=3,normalize=off,temperature=1",
    "name=minilm,heads=3",
    "name=minilm,heads=1,relations=1-2*0.5 3-3*2",
    "name=sp,prefixes=5 2*0.5",
    "name=pkt,prefixes=3",
    "name=rkd_distance,prefixes=4 2",
    "name=rkd_angle,prefixes=4",
    "name=contrastive",
    "name=contrastive,temperature=0.5,symmetric=on",
    "name=contrastive,temperature=0.3,symmetric=on,positives=group",
    "name=contrastive,temperature=2,normalize=off,candidates=own",
    "name=contrastive,temperature=0.2,symmetric=on,prefixes=5 3*0.25 2*2",
    "name=contrastive_kl",
    "name=contrastive_kl,temperature=0.5,teacher_temperature=0.3,t2=on,symmetric=on",
    "name=contrastive_kl,temperature=2,normalize=off,candidates=own",
    "name=contrastive_kl,temperature=0.3,prefixes=5 2*0.5",
    "name=contrastive_margin",
    "name=contrastive_margin,candidates=own,normalize=off",
    "name=contrastive_margin,symmetric=on,prefixes=4*0.5",
};

typedef enum kind { RANDOM, EXTREME, ONE_HOT, ZERO, EQUAL, NO_LABELS } kind;

typedef struct sample {
    kd_arena memory;
    const char *text;
    const kd_objective *o;
    kd_loss *l;
    kd_loss_batch b;
    kd_loss_input in;
    kd_loss_sparse sparse;
    kd_loss_dims student, teacher;
    int64_t n, m, columns;
    int32_t *sample_labels;
} sample;

enum { SAMPLES = 40, KEPT = 4 };
static const double stored_at[] = {1, 2};

static float *values(sample *x, int64_t rows, int64_t n, kind k, bool teacher, uint64_t seed)
{
    float *v = kd_arena_alloc(&x->memory, (size_t)(rows * n) + 1, sizeof *v);
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_TEST, (uint32_t)rows, teacher);
    for (int64_t i = 0; i < rows * n; i++) {
        float normal = kd_rng_normal(&r);
        v[i] = k == EXTREME              ? (kd_rng_u32(&r) & 1 ? 60.0f : -60.0f)
               : k == ONE_HOT && teacher ? (i % n == i / n % n ? 1e3f : -1e3f)
               : k == ZERO               ? 0
               : k == EQUAL              ? (i < n ? 1.5f * normal : v[i - n])
                                         : 1.5f * normal;
    }
    return v;
}

static int descending(const void *a, const void *b)
{
    const float *x = *(float *const *)a, *y = *(float *const *)b;
    return (*x < *y) - (*x > *y);
}

/* The KEPT largest classes of each row with what is stored beside them; or weights of a draw. */
static void keep(sample *x, const float *z, int64_t rows, int64_t C, bool weights)
{
    size_t most = (size_t)(rows * C);
    uint64_t *offset = kd_arena_alloc(&x->memory, (size_t)rows + 1, sizeof *offset);
    uint32_t *id = kd_arena_alloc(&x->memory, most, sizeof *id);
    float *value = kd_arena_alloc(&x->memory, most, sizeof *value),
          *tail = kd_arena_alloc(&x->memory, (size_t)rows * 2, sizeof *tail),
          *logz = kd_arena_alloc(&x->memory, (size_t)rows * 2, sizeof *logz);
    const float **order = kd_arena_alloc(&x->memory, (size_t)C, sizeof *order);
    int64_t n = 0;
    for (int64_t r = 0; r < rows; r++, z += C) {
        for (int64_t c = 0; c < C; c++) order[c] = z + c;
        qsort(order, (size_t)C, sizeof *order, descending);
        double top = *order[0], last = *order[C < KEPT ? C - 1 : KEPT - 1], sum[2] = {0, 0}, out[2] = {0, 0};
        for (int64_t c = 0; c < C; c++)
            for (int k = 0; k < 2; k++) sum[k] += exp((z[c] - top) / stored_at[k]);
        int64_t first = n;
        for (int64_t c = 0; c < C; c++) {
            if (z[c] < last || n - first == KEPT) {
                for (int k = 0; k < 2; k++) out[k] += exp((z[c] - top) / stored_at[k]) / sum[k];
                continue;
            }
            id[n] = (uint32_t)c;
            value[n++] = weights ? (float)(1 + c % 3) / 8 : (float)(z[c] - top - log(sum[0]));
        }
        for (int k = 0; k < 2; k++) tail[2 * r + k] = (float)out[k], logz[2 * r + k] = (float)log(sum[k]);
        offset[r + 1] = (uint64_t)n;
    }
    x->sparse = (kd_loss_sparse){.offset = offset,
                                 .id = id,
                                 .value = value,
                                 .temperatures = 2,
                                 .temperature = stored_at,
                                 .tail = tail,
                                 .logz = logz};
}

static void shapes(sample *x, int64_t classes)
{
    const char *name = x->o->name;
    x->student = x->teacher = (kd_loss_dims){1, {classes}};
    if (!(x->o->needs & KD_NEEDS_NODE)) return;
    if (!strcmp(name, "at")) {
        x->student = (kd_loss_dims){3, {3, 3, 4}};
        x->teacher = (kd_loss_dims){3, {5, 5, 2}};
    } else if (!strcmp(name, "minilm")) {
        x->student = (kd_loss_dims){3, {3, 4, 6}};
        x->teacher = (kd_loss_dims){3, {3, 4, 9}};
    } else {
        bool pairs =
            !strncmp(name, "rkd", 3) || !strcmp(name, "sp") || !strcmp(name, "pkt") || x->columns > 1;
        x->student = (kd_loss_dims){1, {5}};
        x->teacher = (kd_loss_dims){1, {pairs ? 7 : 5}};
    }
}

static kd_loss *plan(sample *x, int threads)
{
    kd_loss_spec spec = {.terms = {(char **)&x->text, 1}};
    kd_loss_shape shape = {.rows = x->b.rows,
                           .classes = x->b.classes,
                           .threads = threads,
                           .columns = x->columns,
                           .student = &x->student,
                           .teacher = &x->teacher,
                           .temperatures = stored_at,
                           .ntemperatures = 2,
                           .samples = SAMPLES,
                           .sample_labels = x->sample_labels,
                           .seed = 5};
    kd_loss *l;
    kd_err err = {0};
    if (kd_loss_create(&l, &spec, &err) || kd_loss_plan(l, &shape, &err))
        fail_msg("%s: %s", x->text, err.msg);
    return l;
}

static sample make_sample(const char *text, int64_t rows, int64_t classes, kind k, uint64_t seed)
{
    sample x = {.text = text};
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(text + 5, ","), text + 5);
    x.o = kd_loss_find(name);
    if (!x.o) fail_msg("no objective %s", name);
    x.columns = strncmp(name, "contrastive", 11) ? 1 : 3; // a query, its answer, a negative
    rows *= x.columns;
    shapes(&x, classes);
    x.n = count(&x.student), x.m = count(&x.teacher);
    bool feature = x.o->needs & KD_NEEDS_NODE;
    float *s = values(&x, rows, x.n, k == ONE_HOT ? RANDOM : k, false, seed),
          *t = values(&x, rows, x.m, k, true, seed + 1);
    x.b = (kd_loss_batch){.rows = rows, .classes = classes, .logits = s, .teacher = t, .step = 3};
    int32_t *labels = kd_arena_alloc(&x.memory, (size_t)rows, sizeof *labels),
            *lengths = kd_arena_alloc(&x.memory, (size_t)rows, sizeof *lengths);
    int64_t *samples = kd_arena_alloc(&x.memory, (size_t)rows, sizeof *samples);
    x.sample_labels = kd_arena_alloc(&x.memory, SAMPLES, sizeof(int32_t));
    for (int i = 0; i < SAMPLES; i++) x.sample_labels[i] = i % 3;
    for (int64_t r = 0; r < rows; r++) {
        labels[r] = k == NO_LABELS || (rows > 4 && r % 4 == 2) ? -1 : (int32_t)(r % classes);
        lengths[r] = (int32_t)(4 - r % 3);
        samples[r] = (7 * r + 1) % SAMPLES;
    }
    x.b.labels = labels, x.b.lengths = lengths, x.b.samples = samples;
    int32_t *groups = kd_arena_alloc(&x.memory, (size_t)rows, sizeof *groups);
    uint64_t *texts = kd_arena_alloc(&x.memory, (size_t)rows, sizeof *texts);
    for (int64_t r = 0; r < rows; r++) {
        groups[r] = (int32_t)(r % 3 == 2 ? r % 5 : r / 3 % 4) - 1; // -1: none
        texts[r] = (uint64_t)(r % 13);
    }
    x.b.groups = groups, x.b.texts = texts;
    float *grad = kd_arena_alloc(&x.memory, (size_t)(rows * x.n) + 1, sizeof *grad);
    if (feature) {
        x.in = (kd_loss_input){.student = s, .dstudent = grad};
        if (x.o->needs & KD_NEEDS_FEATURES) x.in.teacher = t;
        if (!strcmp(name, "crd"))
            x.in.dteacher = kd_arena_alloc(&x.memory, (size_t)(rows * x.m), sizeof *grad);
    } else {
        x.b.dlogits = grad;
    }
    if (x.o->needs & KD_NEEDS_SPARSE) keep(&x, t, rows, classes, strstr(text, "sampled"));
    return x;
}

/* b.inputs points into x, so x must stay where it is. */
static void ready(sample *x, int threads)
{
    x->b.inputs = &x->in;
    if (x->sparse.id) x->in.sparse = &x->sparse;
    x->l = plan(x, threads);
}

static float *gradient(const sample *x) { return x->in.dstudent ? x->in.dstudent : x->b.dlogits; }

static void free_sample(sample *x)
{
    kd_loss_free(x->l);
    kd_arena_release(&x->memory);
}

/* ---- proofs -------------------------------------------------------------------------------- */

static void check_slopes(const sample *x, const kd__view *v, const float *got, int64_t n, bool teacher)
{
    double worst = 0, scale = 1e-3;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double want =
                   kd__counts(v, i / (teacher ? x->m : x->n)) ? twin_slope(&x->l->term[0], v, i, teacher) : 0,
               off = fabs(got[i] - want);
        if (!(off <= worst)) worst = off, at = i;
        scale = fmax(scale, fabs(want));
    }
    if (!(worst <= 1e-6 * scale))
        fail_msg("%s, %d rows: gradient %d is off by %.3g of %.3g", x->text, (int)x->b.rows, (int)at, worst,
                 scale);
}

static void values_and_gradients_equal_the_twins(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 3, 7}, classes[] = {2, 9, 70};
    for (size_t c = 0; c < KD_COUNT(cases); c++)
        for (size_t k = 0; k < KD_COUNT(rows); k++) {
            sample x = make_sample(cases[c], rows[k], classes[(c + k) % 3], RANDOM, 40 + c);
            ready(&x, 1);
            kd__view v = kd__view_of(x.l, 0, &x.b);
            double want = kd_loss_naive(x.l, &x.b);
            size_t bytes;
            void *kept = kd_loss_state(x.l, &bytes), *before = malloc(bytes + 1);
            if (kept) memcpy(before, kept, bytes);
            kd_loss_run(x.l, &x.b);
            size_t z = 8 * sizeof(double); // crd: its Z stays, no slope goes through it; the banks go back
            if (kept) memcpy((char *)kept + z, (char *)before + z, bytes - z);
            free(before);
            double got = kd_loss_value(x.l);
            if (!(fabs(got - want) <= 2e-6 * (fabs(want) + 1e-2)))
                fail_msg("%s, %d rows of %d: value %.9g, twin %.9g", cases[c], (int)rows[k], (int)x.b.classes,
                         got, want);
            check_slopes(&x, &v, gradient(&x), x.b.rows * x.n, false);
            if (v.dt) check_slopes(&x, &v, v.dt, x.b.rows * x.m, true);
            free_sample(&x);
        }
}

static void every_objective_has_a_case_here(void **state)
{
    (void)state;
    for (size_t i = 0; kd_loss_list(i); i++) {
        const kd_objective *o = kd_loss_list(i);
        size_t found = 0, len = strlen(o->name);
        for (size_t c = 0; c < KD_COUNT(cases); c++)
            found += !strncmp(cases[c] + 5, o->name, len) && (!cases[c][5 + len] || cases[c][5 + len] == ',');
        if (!found) fail_msg("no case of %s", o->name);
        assert_true(*o->formula && *o->source && o->needs && kd_loss_find(o->name) == o);
    }
}

static void extremes_and_degenerate_batches_stay_finite(void **state)
{
    (void)state;
    static const int64_t rows[] = {1, 2, 19};
    static const char *const names[] = {"random", "extreme",    "one-hot teacher",
                                        "zeros",  "equal rows", "no labels"};
    for (size_t c = 0; c < KD_COUNT(cases); c++)
        for (size_t i = 0; i < KD_COUNT(rows) * 6; i++) {
            kind k = (kind)(i / KD_COUNT(rows));
            sample x = make_sample(cases[c], rows[i % KD_COUNT(rows)], c % 2 ? 2 : 10, k, 7);
            ready(&x, 1);
            kd_loss_run(x.l, &x.b);
            double v = kd_loss_value(x.l), worst = 0;
            for (int64_t g = 0; g < x.b.rows * x.n; g++)
                worst = fmax(worst, isfinite(gradient(&x)[g]) ? fabs(gradient(&x)[g]) : INFINITY);
            if (!isfinite(v) || !isfinite(worst))
                fail_msg("%s, %s, %d rows: value %g, gradient %g", cases[c], names[k], (int)x.b.rows, v,
                         worst);
            if (k == NO_LABELS && !(x.o->needs & KD_NEEDS_NODE) && (v != 0 || worst != 0))
                fail_msg("%s: no row counts, and the value is %g, the gradient %g", cases[c], v, worst);
            free_sample(&x);
        }
}

static void a_nan_of_the_student_shows_in_the_value(void **state)
{
    (void)state;
    for (size_t c = 0; c < KD_COUNT(cases); c++) {
        sample x = make_sample(cases[c], 5, 6, RANDOM, 11);
        ready(&x, 1);
        float *s = (float *)(uintptr_t)(x.in.student ? x.in.student : x.b.logits);
        /* A number that counts: a kept class where only those are seen. */
        s[x.n + (x.sparse.id ? x.sparse.id[x.sparse.offset[1]] : 1)] = NAN;
        kd_loss_run(x.l, &x.b);
        if (isfinite(kd_loss_value(x.l))) fail_msg("%s: %g", cases[c], kd_loss_value(x.l));
        free_sample(&x);
    }
}

static void bits_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    for (size_t c = 0; c < KD_COUNT(cases); c++) {
        sample x = make_sample(cases[c], 37, 10, RANDOM, 3);
        size_t floats_n = (size_t)(x.b.rows * x.n), bytes = 0;
        float *want = malloc(floats_n * sizeof *want);
        double v = 0;
        kd_id state_hash = {{0}};
        for (int threads = 1; threads <= 8; threads = threads == 3 ? 8 : threads + 1) {
            ready(&x, 8);
            memset(gradient(&x), 0xFF, floats_n * sizeof *want);
#pragma omp parallel num_threads(threads)
            for (int twice = 0; twice < 2; twice++) kd_loss_run(x.l, &x.b); // crd: the second sees new banks
            double got = kd_loss_value(x.l);
            const void *kept = kd_loss_state(x.l, &bytes);
            kd_id hash = kd_hash128(kept ? kept : "", kept ? bytes : 0);
            if (threads == 1) {
                v = got;
                state_hash = hash;
                memcpy(want, gradient(&x), floats_n * sizeof *want);
            }
            if (memcmp(&got, &v, sizeof v) || memcmp(want, gradient(&x), floats_n * sizeof *want) ||
                memcmp(&hash, &state_hash, sizeof hash))
                fail_msg("%s: other bits with %d threads", cases[c], threads);
            kd_loss_free(x.l);
        }
        free(want);
        kd_arena_release(&x.memory);
    }
}

static void only_the_value_is_the_same_value_and_changes_no_state(void **state)
{
    (void)state;
    for (size_t c = 0; c < KD_COUNT(cases); c++) {
        sample x = make_sample(cases[c], 11, 10, RANDOM, 9);
        ready(&x, 1);
        float *d[3] = {x.b.dlogits, x.in.dstudent, x.in.dteacher};
        size_t bytes;
        const void *kept = kd_loss_state(x.l, &bytes);
        x.b.dlogits = x.in.dstudent = x.in.dteacher = NULL;
        kd_id before = kd_hash128(kept ? kept : "", bytes);
        kd_loss_run(x.l, &x.b);
        double v = kd_loss_value(x.l);
        kd_id after = kd_hash128(kept ? kept : "", bytes);
        assert_memory_equal(&before, &after, sizeof before);
        x.b.dlogits = d[0], x.in.dstudent = d[1], x.in.dteacher = d[2];
        kd_loss_run(x.l, &x.b);
        if (kd_loss_value(x.l) != v)
            fail_msg("%s: %.17g with the gradient, %.17g without", cases[c], kd_loss_value(x.l), v);
        free_sample(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_objective_has_a_case_here),
        cmocka_unit_test(values_and_gradients_equal_the_twins),
        cmocka_unit_test(extremes_and_degenerate_batches_stay_finite),
        cmocka_unit_test(a_nan_of_the_student_shows_in_the_value),
        cmocka_unit_test(bits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(only_the_value_is_the_same_value_and_changes_no_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
