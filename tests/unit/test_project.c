/* test_project.c - projections between a tap and a teacher's feature: part of the student's graph, trained
 * along, named apart from the model's own parameters. */
#include "check.h"

#include "kd/loss.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum { ROWS = 6, SAMPLES = 20 };

typedef struct bench {
    kd_graph *g;
    kd_exec *ex;
    kd_loss *l;
    kd_loss_dims student, teacher;
    kd_loss_nodes nodes;
    kd_loss_input in;
    float *feature;
    int64_t samples[ROWS];
} bench;

static int64_t count(const kd_loss_dims *d)
{
    int64_t n = 1;
    for (int i = 0; i < d->ndims; i++) n *= d->dims[i];
    return n;
}

static float *random_floats(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);
    kd_rng r;
    kd_rng_init(&r, seed, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) x[i] = kd_rng_normal(&r);
    return x;
}

static kd_loss *make_loss(const char *term)
{
    kd_loss_spec s = {.terms = {(char **)(uintptr_t)&term, 1}};
    kd_loss *l;
    OK(kd_loss_create(&l, &s, err));
    return l;
}

/* A model of one layer whose output is the tap: linear for vectors, 3x3 convolution for maps. */
static kd_node model(kd_graph *g, const kd_loss_dims *input, int64_t out)
{
    kd_node x = kd_nn_input(g, "x", input->ndims, input->dims);
    x = input->ndims == 1 ? kd_nn_linear(g, "layer", x, out, true)
                          : kd_nn_conv2d(g, "layer", x, out, 3, 1, 1, true);
    kd_graph_output(g, x);
    return x;
}

static bench open_bench(const char *term, kd_loss_dims input, int64_t out, kd_loss_dims teacher)
{
    bench b = {.g = kd_graph_create(), .l = make_loss(term), .teacher = teacher};
    OK(kd_loss_project(b.l, 0, b.g, model(b.g, &input, out), &teacher, &b.nodes, err));
    OK(kd_graph_finish(b.g, err));
    kd_graph_init(b.g, 3);
    kd_exec_params p = {.batch = ROWS, .threads = 1, .training = true};
    OK(kd_exec_create(&b.ex, b.g, &p, err));
    b.student.ndims = kd_graph_node_shape(b.g, b.nodes.student, b.student.dims);
    kd_loss_dims compared = teacher;
    if (b.nodes.teacher_out >= 0)
        compared.ndims = kd_graph_node_shape(b.g, b.nodes.teacher_out, compared.dims);
    kd_loss_shape shape = {.rows = ROWS, .student = &b.student, .teacher = &compared, .samples = SAMPLES};
    OK(kd_loss_plan(b.l, &shape, err));
    float *x = random_floats((size_t)(ROWS * count(&input)), 1);
    memcpy(kd_exec_input(b.ex, 0), x, (size_t)(ROWS * count(&input)) * sizeof *x);
    free(x);
    b.feature = random_floats((size_t)(ROWS * count(&teacher)), 2);
    for (int r = 0; r < ROWS; r++) b.samples[r] = 3 * r;
    return b;
}

static double run(bench *b, bool backward)
{
    kd_loss_batch batch = {.rows = ROWS, .inputs = &b->in, .samples = b->samples};
    if (b->nodes.teacher >= 0)
        memcpy(kd_exec_input(b->ex, b->nodes.teacher), b->feature,
               (size_t)(ROWS * count(&b->teacher)) * sizeof(float));
    kd_exec_forward(b->ex);
    b->in = (kd_loss_input){.student = kd_exec_value(b->ex, b->nodes.student), .teacher = b->feature};
    if (b->nodes.teacher_out >= 0) b->in.teacher = kd_exec_value(b->ex, b->nodes.teacher_out);
    if (backward) {
        b->in.dstudent = kd_exec_grad(b->ex, b->nodes.student);
        if (b->nodes.teacher_out >= 0) b->in.dteacher = kd_exec_grad(b->ex, b->nodes.teacher_out);
    }
    kd_loss_run(b->l, &batch);
    if (backward) {
        kd_node tap = 1; // an output of its own, where it is not what is compared
        if (b->nodes.student != tap)
            memset(kd_exec_grad(b->ex, tap), 0, kd_graph_node_size(b->g, tap) * ROWS * sizeof(float));
        kd_exec_backward(b->ex);
    }
    return kd_loss_value(b->l);
}

static void close_bench(bench *b)
{
    kd_loss_free(b->l);
    kd_exec_free(b->ex);
    kd_graph_free(b->g);
    free(b->feature);
}

/* Slopes of the value in each parameter, model's and projection's, against differences. */
static void check_parameters(const char *term, kd_loss_dims input, int64_t out, kd_loss_dims teacher,
                             size_t learned)
{
    bench b = open_bench(term, input, out, teacher);
    const kd_param *p;
    size_t n = kd_graph_params(b.g, &p), projected = 0, bytes;
    kd_buf state = {0};
    double worst = 0, scale = 0;
    void *kept = kd_loss_state(b.l, &bytes);
    if (kept) { // crd: Z is fixed by a first run, banks stay as they are
        run(&b, true);
        kd_buf_append(&state, kept, bytes);
    }
    run(&b, true);
    float *grads = malloc(4096 * sizeof *grads);
    for (size_t i = 0; i < n; i++) {
        projected += !strncmp(p[i].name, KD_LOSS_PREFIX, strlen(KD_LOSS_PREFIX)) && !p[i].buffer;
        if (p[i].buffer) continue;
        assert_true(p[i].size <= 4096);
        if (kept) memcpy(kept, state.text, bytes);
        run(&b, true);
        memcpy(grads, kd_exec_grads(b.ex) + p[i].offset, p[i].size * sizeof *grads);
        float *w = kd_graph_param_data(b.g, &p[i]);
        for (size_t k = 0; k < p[i].size; k += p[i].size / 5 + 1) {
            const float h = 2e-3f, was = w[k];
            if (kept) memcpy(kept, state.text, bytes);
            w[k] = was + h;
            double up = run(&b, false);
            w[k] = was - h;
            double down = run(&b, false), want = (up - down) / (2 * (double)h);
            w[k] = was;
            worst = fmax(worst, fabs(grads[k] - want));
            scale = fmax(scale, fabs(want));
        }
    }
    if (!(worst <= 0.02 * scale) || !(scale > 0))
        fail_msg("%s: a slope is off by %g of %g", term, worst, scale);
    assert_int_equal(projected, learned);
    free(grads);
    kd_buf_release(&state);
    close_bench(&b);
}

static const kd_loss_dims vector = {1, {5}}, map = {3, {8, 8, 2}};

static void a_linear_layer_leads_to_the_teachers_width(void **state)
{
    (void)state;
    check_parameters("name=embed,projection=linear", vector, 4, (kd_loss_dims){1, {7}}, 2);
    check_parameters("name=fitnet", vector, 4, (kd_loss_dims){1, {7}}, 2);
}

static void a_regressor_leads_to_the_teachers_map(void **state)
{
    (void)state;
    check_parameters("name=fitnet", map, 3, (kd_loss_dims){3, {8, 8, 4}}, 4);
    check_parameters("name=fitnet", map, 3, (kd_loss_dims){3, {4, 4, 4}}, 4);
    check_parameters("name=fitnet", map, 3, (kd_loss_dims){3, {6, 6, 4}}, 4);
}

static void without_a_projection_the_tap_itself_is_compared(void **state)
{
    (void)state;
    check_parameters("name=fitnet,projection=none", vector, 4, (kd_loss_dims){1, {4}}, 0);
    check_parameters("name=at", map, 3, (kd_loss_dims){3, {4, 4, 5}}, 0);
    check_parameters("name=sp", map, 3, (kd_loss_dims){1, {9}}, 0);
}

static void contrast_learns_an_embedding_on_both_sides(void **state)
{
    (void)state;
    check_parameters("name=crd,dim=6,negatives=4,temperature=0.5", vector, 4, (kd_loss_dims){1, {7}}, 4);
    check_parameters("name=crd,dim=6,negatives=4,temperature=0.5", map, 3, (kd_loss_dims){3, {2, 2, 3}}, 4);
}

static void the_models_own_weights_do_not_change_by_it(void **state)
{
    (void)state;
    bench with = open_bench("name=fitnet", map, 3, (kd_loss_dims){3, {4, 4, 4}});
    kd_graph *alone = kd_graph_create();
    const kd_param *p, *q;
    model(alone, &map, 3);
    OK(kd_graph_finish(alone, err));
    kd_graph_init(alone, 3);
    size_t n = kd_graph_params(alone, &p);
    kd_graph_params(with.g, &q);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(p[i].name, q[i].name);
        assert_memory_equal(kd_graph_param_data(alone, &p[i]), kd_graph_param_data(with.g, &q[i]),
                            p[i].size * sizeof(float));
    }
    kd_graph_free(alone);
    close_bench(&with);
}

static void maps_and_widths_that_nothing_leads_to_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *term;
        kd_loss_dims teacher;
        const char *says;
    } wrong[] = {
        {"name=fitnet",
         {3, {16, 16, 4}},
         "fitnet: tap layer: no regressor leads from a map of 8x8 to one of 16x16"},
        {"name=fitnet", {3, {4, 6, 4}}, "no regressor"},
        {"name=embed,projection=linear", {1, {7}}, "a linear projection joins the last axis only"},
    };
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_graph *g = kd_graph_create();
        kd_loss *l = make_loss(wrong[i].term);
        kd_loss_nodes nodes;
        kd_node tap = model(g, &map, 3);
        FAILS(kd_loss_project(l, 0, g, tap, &wrong[i].teacher, &nodes, err), KD_EUSAGE, wrong[i].says);
        kd_loss_free(l);
        kd_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_linear_layer_leads_to_the_teachers_width),
        cmocka_unit_test(a_regressor_leads_to_the_teachers_map),
        cmocka_unit_test(without_a_projection_the_tap_itself_is_compared),
        cmocka_unit_test(contrast_learns_an_embedding_on_both_sides),
        cmocka_unit_test(the_models_own_weights_do_not_change_by_it),
        cmocka_unit_test(maps_and_widths_that_nothing_leads_to_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
