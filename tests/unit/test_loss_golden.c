/* test_loss_golden.c - every objective against its reference implementation: all entries of
 * tests/golden/losses.json and contrast.json.
 *
 * A golden entry is turned into a mix of terms in the words of the YAML, so that these tests also say which
 * keys mean which reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loss_fixture.h"

/* ---- golden entries ------------------------------------------------------------------------ */

typedef struct entry {
    const json_t *e, *params, *inputs;
    const char *id, *loss;
    kd_arena memory;
    char *terms[KD_LOSS_TERMS];
    size_t n;
    kd_loss_dims student[KD_LOSS_TERMS], teacher[KD_LOSS_TERMS];
    kd_loss_input in[KD_LOSS_TERMS];
    kd_loss_batch b;
    kd_loss_sparse sparse;
    int64_t columns;
    size_t checked; /* gradient arrays */
} entry;

static double number(const entry *x, const char *key)
{
    const json_t *v = json_object_get(x->params, key);
    if (!json_is_number(v)) fail_msg("%s: no parameter %s", x->id, key);
    return json_number_value(v);
}

static bool has(const entry *x, const char *key) { return json_object_get(x->params, key); }
static bool given(const entry *x, const char *input) { return json_object_get(x->inputs, input); }
static const char *word(const entry *x, const char *key)
{
    return json_string_value(json_object_get(x->params, key));
}

static kd_loss_dims dims_of(const entry *x, const char *input)
{
    const json_t *shape = json_object_get(json_object_get(x->inputs, input), "shape"), *d;
    kd_loss_dims out = {0};
    size_t i;
    json_array_foreach((json_t *)shape, i, d) out.dims[out.ndims++] = json_integer_value(d);
    assert_true(out.ndims > 0);
    return out;
}

static int64_t count(const kd_loss_dims *d, int from)
{
    int64_t n = 1;
    for (int i = from; i < d->ndims; i++) n *= d->dims[i];
    return n;
}

static const json_t *data_of(const entry *x, const char *input)
{
    return json_object_get(json_object_get(x->inputs, input), "data");
}

/* f32 decimals name exactly one float: strtod and then rounding gives it for 9 digits. */
static float *floats(entry *x, const char *input)
{
    const json_t *data = data_of(x, input);
    float *v = kd_arena_alloc(&x->memory, json_array_size(data) + 1, sizeof *v);
    for (size_t i = 0; i < json_array_size(data); i++)
        v[i] = (float)json_number_value(json_array_get(data, i));
    return v;
}

static int32_t *ints(entry *x, const char *input)
{
    const json_t *data = data_of(x, input);
    int32_t *v = kd_arena_alloc(&x->memory, json_array_size(data) + 1, sizeof *v);
    for (size_t i = 0; i < json_array_size(data); i++)
        v[i] = (int32_t)json_integer_value(json_array_get(data, i));
    return v;
}

static float *zeros(entry *x, int64_t n) { return kd_arena_alloc(&x->memory, (size_t)n + 1, sizeof(float)); }

static void term(entry *x, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void term(entry *x, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    x->terms[x->n++] = kd_arena_strdup(&x->memory, text);
}

/* ",KEY=VALUE" for the parameters that are spelled as kd's keys. */
static const char *common(const entry *x, char *buf, size_t len)
{
    static const char *const words[] = {"reduction", "kl_form", "eps_mode", "sparse", "mode", "metric"};
    static const char *const numbers[] = {"alpha", "beta", "gamma", "eps", "std_ddof", "row_norm"};
    size_t n = 0;
    buf[0] = '\0';
    if (has(x, "T")) n += (size_t)snprintf(buf + n, len - n, ",temperature=%g", number(x, "T"));
    if (has(x, "t2"))
        n += (size_t)snprintf(buf + n, len - n, ",t2=%s",
                              json_is_true(json_object_get(x->params, "t2")) ? "on" : "off");
    for (size_t i = 0; i < KD_COUNT(words); i++)
        if (word(x, words[i]) && strcmp(word(x, words[i]), "kl"))
            n += (size_t)snprintf(buf + n, len - n, ",%s=%s", words[i], word(x, words[i]));
    for (size_t i = 0; i < KD_COUNT(numbers); i++)
        if (has(x, numbers[i]))
            n += (size_t)snprintf(buf + n, len - n, ",%s=%.9g", numbers[i], number(x, numbers[i]));
    return buf;
}

/* Student and teacher logits; positions are rows; a mask becomes labels -1 where it is 0. */
static void logits(entry *x)
{
    kd_loss_dims d = dims_of(x, "student_logits");
    x->b.classes = d.dims[d.ndims - 1];
    x->b.rows = count(&d, 0) / x->b.classes;
    x->b.logits = floats(x, "student_logits");
    x->b.dlogits = zeros(x, x->b.rows * x->b.classes);
    if (given(x, "teacher_logits")) x->b.teacher = floats(x, "teacher_logits");
    if (given(x, "labels")) x->b.labels = ints(x, "labels");
    if (given(x, "mask")) {
        int32_t *y = ints(x, "mask");
        for (int64_t i = 0; i < x->b.rows; i++) y[i]--;
        x->b.labels = y;
    }
}

static kd_loss *make(entry *x, kd_isa isa)
{
    kd_loss_spec s = {.terms = {x->terms, x->n}};
    kd_loss_shape shape = {.rows = x->b.rows,
                           .classes = x->b.classes,
                           .threads = 8,
                           .columns = x->columns,
                           .student = x->student,
                           .teacher = x->teacher};
    kd_loss *l;
    kd_err err = {0};
    if (kd_loss_create(&l, &s, &err) || kd_loss_plan(l, &shape, &err)) fail_msg("%s: %s", x->id, err.msg);
    l->vec = kd__loss_vec_of(isa);
    for (int i = 0; i < l->terms; i++) l->term[i].vec = l->vec;
    return l;
}

static double tolerance(const entry *x, const char *key)
{
    return json_number_value(json_object_get(json_object_get(x->e, "tol"), key));
}

static void check_value(const entry *x, const char *what, double got)
{
    double want = json_number_value(json_object_get(x->e, "value64"));
    double slack = tolerance(x, "atol_value") + tolerance(x, "rtol") * fabs(want);
    if (!(fabs(got - want) <= slack))
        fail_msg("%s: %s %.9g, want %.9g within %g", x->id, what, got, want, slack);
}

static void check_gradient(entry *x, const char *input, const float *got)
{
    const json_t *g = json_object_get(json_object_get(x->e, "grads"), input),
                 *data = json_object_get(g, "data");
    double worst = 0, scale = 0;
    assert_true(json_array_size(data) > 0);
    for (size_t i = 0; i < json_array_size(data); i++) {
        double w = json_number_value(json_array_get(data, i)), off = fabs(got[i] - w);
        if (!(off <= worst)) worst = off; // a NaN stays
        scale = fmax(scale, fabs(w));
    }
    if (!(worst <= tolerance(x, "atol_grad") + tolerance(x, "rtol") * scale))
        fail_msg("%s: gradient of %s off by %g of %g, allowed %g", x->id, input, worst, scale,
                 tolerance(x, "atol_grad") + tolerance(x, "rtol") * scale);
    x->checked++;
}

/* Runs what is set up at every instruction set: value, twin's value and, by `grads`, the gradients. */
static void check(entry *x, void (*grads)(entry *x))
{
    for (kd_isa isa = KD_ISA_SCALAR; isa <= KD_ISA_AVX512 && isa <= kd_cpu_isa(); isa++) {
        kd_loss *l = make(x, isa);
        x->b.inputs = x->in;
        kd_loss_run(l, &x->b);
        x->checked = 0;
        check_value(x, "value", kd_loss_value(l));
        check_value(x, "twin's value", kd_loss_naive(l, &x->b));
        grads(x);
        if (x->checked != json_object_size(json_object_get(x->e, "grads")))
            fail_msg("%s: %zu gradients checked, %zu given", x->id, x->checked,
                     json_object_size(json_object_get(x->e, "grads")));
        kd_loss_free(l);
    }
}

static void logit_gradient(entry *x) { check_gradient(x, "student_logits", x->b.dlogits); }

static void check_logits(entry *x, const char *objective)
{
    char keys[400];
    kd_loss_dims d = dims_of(x, "student_logits");
    logits(x);
    /* TRL without labels divides by sequences, not tokens: a weight of their length. */
    int64_t each = d.ndims == 3 && !strcmp(word(x, "reduction"), "batch") ? d.dims[1] : 1;
    term(x, "name=%s,weight=%d%s", objective, (int)each, common(x, keys, sizeof keys));
    check(x, logit_gradient);
}

static void check_kd(entry *x)
{
    const char *reduction = word(x, "reduction"), *form = word(x, "kl_form");
    logits(x);
    if (has(x, "alpha")) term(x, "name=ce,weight=%g", number(x, "alpha"));
    term(x, "name=kd,weight=%g,temperature=%g,t2=%s,reduction=%s,kl_form=%s",
         has(x, "beta") ? number(x, "beta") : 1, number(x, "T"),
         json_is_true(json_object_get(x->params, "t2")) ? "on" : "off", reduction, form ? form : "kl");
    check(x, logit_gradient);
}

static void check_dist(entry *x)
{
    char keys[400];
    logits(x);
    term(x, "name=dist,temperature=%g%s", number(x, "tau"), common(x, keys, sizeof keys));
    check(x, logit_gradient);
}

/* Stored classes: ids with log-probabilities, probabilities, counts, or the full logits they come from. */
static void check_sparse(entry *x)
{
    char keys[400];
    bool ce = !strcmp(x->loss, "sparse_ce");
    logits(x);
    const char *from = given(x, "teacher_logprobs") ? "teacher_logprobs"
                       : given(x, "teacher_probs")  ? "teacher_probs"
                                                    : "counts";
    kd_loss_dims d = dims_of(x, "teacher_ids");
    int64_t K = d.dims[d.ndims - 1], C = x->b.classes, n = 0;
    const int32_t *id = ints(x, "teacher_ids"), *counts = given(x, "counts") ? ints(x, "counts") : NULL;
    const float *p = given(x, from) && !counts ? floats(x, from) : NULL;
    uint64_t *offset = kd_arena_alloc(&x->memory, (size_t)x->b.rows + 1, sizeof *offset);
    uint32_t *ids = kd_arena_alloc(&x->memory, (size_t)(x->b.rows * K), sizeof *ids);
    float *value = kd_arena_alloc(&x->memory, (size_t)(x->b.rows * K), sizeof *value);
    for (int64_t r = 0; r < x->b.rows; r++) {
        for (int64_t c = 0; c < C; c++) // ids rise within a row
            for (int64_t k = r * K; k < (r + 1) * K; k++) {
                if (id[k] != c || (counts && !counts[k])) continue;
                ids[n] = (uint32_t)c;
                value[n++] = counts                           ? (float)(counts[k] / number(x, "N"))
                             : !p                             ? x->b.teacher[r * C + c]
                             : !strcmp(from, "teacher_probs") ? logf(p[k])
                                                              : p[k];
            }
        offset[r + 1] = (uint64_t)n;
    }
    x->sparse = (kd_loss_sparse){.offset = offset, .id = ids, .value = value};
    x->in[0].sparse = &x->sparse;
    bool distillkit = strstr(x->id, "distillkit");
    term(x, "name=%s%s%s,dump_temperature=%g%s", ce ? "sparse_kl" : x->loss, common(x, keys, sizeof keys),
         ce ? ",kl_form=cross_entropy" : "", has(x, "dump_T") ? number(x, "dump_T") : 1,
         distillkit ? ",tail=power" : "");
    check(x, logit_gradient);
}

/* ---- features ------------------------------------------------------------------------------ */

/* Order of axes: (B, C, H, W) there, (B, H, W, C) here. to_kd: into kd's. */
static float *reorder(entry *x, const float *from, const kd_loss_dims *d, bool to_kd)
{
    int64_t C = d->dims[1], P = d->dims[2] * d->dims[3];
    float *to = zeros(x, count(d, 0));
    for (int64_t b = 0; b < d->dims[0]; b++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t p = 0; p < P; p++) {
                int64_t there = (b * C + c) * P + p, here = (b * P + p) * C + c;
                to[to_kd ? here : there] = from[to_kd ? there : here];
            }
    return to;
}

/* Every term compares these two inputs. */
static void features(entry *x, const char *student, const char *teacher)
{
    kd_loss_dims s = dims_of(x, student), t = dims_of(x, teacher);
    const float *fs = floats(x, student), *ft = floats(x, teacher);
    float *grad = zeros(x, count(&s, 0));
    bool maps = s.ndims == 4;
    x->b.rows = s.dims[0];
    for (size_t i = 0; i < x->n; i++) {
        kd_loss_dims *to[2] = {&x->student[i], &x->teacher[i]};
        const kd_loss_dims *from[2] = {&s, &t};
        for (int k = 0; k < 2; k++)
            for (int a = 1; a < from[k]->ndims; a++)
                to[k]->dims[to[k]->ndims++] = from[k]->dims[maps ? a % 3 + 1 : a];
        x->in[i].student = maps ? reorder(x, fs, &s, true) : fs;
        x->in[i].teacher = maps ? reorder(x, ft, &t, true) : ft;
        x->in[i].dstudent = grad;
    }
}

static void feature_gradient(entry *x)
{
    kd_loss_dims s = dims_of(x, "student");
    const float *g = x->in[0].dstudent;
    check_gradient(x, "student", s.ndims == 4 ? reorder(x, g, &s, false) : g);
}

static void check_features(entry *x)
{
    char keys[400];
    if (!strcmp(x->loss, "rkd")) {
        if (number(x, "w_distance") > 0) term(x, "name=rkd_distance,weight=%g", number(x, "w_distance"));
        if (number(x, "w_angle") > 0) term(x, "name=rkd_angle,weight=%g", number(x, "w_angle"));
    } else if (!strcmp(x->loss, "at")) {
        term(x, "name=at,power=%g%s", number(x, "p"), common(x, keys, sizeof keys));
    } else {
        term(x, "name=%s%s", x->loss, common(x, keys, sizeof keys));
    }
    features(x, "student", "teacher");
    check(x, feature_gradient);
}

/* y = x w^T + b (w: (out, in)) in f32, as a projection in the graph would be. */
static float *linear(entry *x, const float *in, int64_t rows, const char *w, const char *b)
{
    kd_loss_dims d = dims_of(x, w);
    const float *weight = floats(x, w), *bias = floats(x, b);
    float *y = zeros(x, rows * d.dims[0]);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < d.dims[0]; o++) {
            double sum = bias[o];
            for (int64_t i = 0; i < d.dims[1]; i++)
                sum += (double)in[r * d.dims[1] + i] * weight[o * d.dims[1] + i];
            y[r * d.dims[0] + o] = (float)sum;
        }
    return y;
}

/* From the gradient of y to those of the layer; dx: NULL if the input is not a student's. */
static void linear_gradient(entry *x, const float *dy, const char *input, const char *w, const char *b,
                            bool dx)
{
    kd_loss_dims d = dims_of(x, w);
    int64_t rows = dims_of(x, input).dims[0], out = d.dims[0], in = d.dims[1];
    const float *weight = floats(x, w), *from = floats(x, input);
    float *gw = zeros(x, out * in), *gb = zeros(x, out), *gx = zeros(x, rows * in);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < out; o++) {
            gb[o] += dy[r * out + o];
            for (int64_t i = 0; i < in; i++) {
                gw[o * in + i] += dy[r * out + o] * from[r * in + i];
                gx[r * in + i] += dy[r * out + o] * weight[o * in + i];
            }
        }
    check_gradient(x, w, gw);
    check_gradient(x, b, gb);
    if (dx) check_gradient(x, input, gx);
}

static void projected_gradient(entry *x) { linear_gradient(x, x->in[0].dstudent, "student", "w", "b", true); }

/* (B, columns, D): every text column is a row. */
static void check_embed(entry *x)
{
    kd_loss_dims s = dims_of(x, "student"), t = dims_of(x, "teacher");
    int64_t width = t.dims[t.ndims - 1];
    x->b.rows = count(&t, 0) / width;
    term(x, "name=embed,metric=%s", word(x, "metric"));
    x->student[0] = x->teacher[0] = (kd_loss_dims){1, {width}};
    x->in[0].student = floats(x, "student");
    x->in[0].teacher = floats(x, "teacher");
    x->in[0].dstudent = zeros(x, x->b.rows * width);
    if (!given(x, "w")) {
        assert_int_equal(count(&s, 0), count(&t, 0));
        check(x, feature_gradient);
        return;
    }
    x->in[0].student = linear(x, x->in[0].student, x->b.rows, "w", "b");
    check(x, projected_gradient);
}

/* (3, B, L, d) there, (B, 3, L, d) here. */
static float *by_row(entry *x, const float *from, const kd_loss_dims *d, bool to_kd)
{
    int64_t B = d->dims[1], each = d->dims[2] * d->dims[3];
    float *to = zeros(x, count(d, 0));
    for (int64_t m = 0; m < 3; m++)
        for (int64_t b = 0; b < B; b++) {
            int64_t there = (m * B + b) * each, here = (b * 3 + m) * each;
            memcpy(to + (to_kd ? here : there), from + (to_kd ? there : here), (size_t)each * sizeof *to);
        }
    return to;
}

static void qkv_gradient(entry *x)
{
    kd_loss_dims s = dims_of(x, "student_qkv");
    check_gradient(x, "student_qkv", by_row(x, x->in[0].dstudent, &s, false));
}

static void check_minilm(entry *x)
{
    kd_loss_dims s = dims_of(x, "student_qkv"), t = dims_of(x, "teacher_qkv");
    const json_t *pair;
    kd_buf relations = {0};
    size_t i;
    json_array_foreach((json_t *)json_object_get(x->params, "relations"), i, pair)
        kd_buf_printf(&relations, "%s%d-%d*%g", i ? " " : "",
                      (int)json_integer_value(json_array_get(pair, 0)),
                      (int)json_integer_value(json_array_get(pair, 1)),
                      json_number_value(json_array_get(pair, 2)));
    term(x, "name=minilm,heads=%g,relations=%s", number(x, "heads"), relations.text);
    kd_buf_release(&relations);
    x->b.rows = s.dims[1];
    x->student[0] = (kd_loss_dims){3, {3, s.dims[2], s.dims[3]}};
    x->teacher[0] = (kd_loss_dims){3, {3, t.dims[2], t.dims[3]}};
    x->in[0].student = by_row(x, floats(x, "student_qkv"), &s, true);
    x->in[0].teacher = by_row(x, floats(x, "teacher_qkv"), &t, true);
    x->in[0].dstudent = zeros(x, count(&s, 0));
    int32_t *mask = ints(x, "mask"),
            *lengths = kd_arena_alloc(&x->memory, (size_t)x->b.rows, sizeof *lengths);
    for (int64_t k = 0; k < x->b.rows * s.dims[2]; k++) lengths[k / s.dims[2]] += mask[k];
    x->b.lengths = lengths;
    check(x, qkv_gradient);
}

/* ---- contrast ------------------------------------------------------------------------------ */

static void near_output(const entry *x, const char *name, const float *got)
{
    const json_t *o = json_object_get(json_object_get(x->e, "outputs"), name), *v;
    size_t i;
    json_array_foreach(json_object_get(o, "data"), i, v)
    {
        double want = json_number_value(v);
        if (!(fabs(got[i] - want) <= 2e-6 * (1 + fabs(want))))
            fail_msg("%s: %s[%zu] is %.9g, want %.9g", x->id, name, i, got[i], want);
    }
}

/* Banks, Z and the drawn positions come from the entry. */
static void check_crd(entry *x)
{
    bool full = given(x, "w_student");
    const float *s = floats(x, full ? "student" : "student_embed"),
                *u = floats(x, full ? "teacher" : "teacher_embed");
    kd_loss_dims bank = dims_of(x, "memory_student");
    int64_t n = bank.dims[0], dim = bank.dims[1], rows = dims_of(x, "index").dims[0];
    kd_err err = {0};
    term(x, "name=crd,negatives=%g,temperature=%g,momentum=%g,eps=%g,normalize=%s", number(x, "K"),
         number(x, "T"), number(x, "momentum"), number(x, "eps"), full ? "on" : "off");
    x->b.rows = rows;
    x->in[0].student = full ? linear(x, s, rows, "w_student", "b_student") : s;
    x->in[0].teacher = full ? linear(x, u, rows, "w_teacher", "b_teacher") : u;
    x->in[0].dstudent = zeros(x, rows * dim);
    x->in[0].dteacher = zeros(x, rows * dim);
    x->student[0] = x->teacher[0] = (kd_loss_dims){1, {dim}};
    const int32_t *index = ints(x, "index");
    int64_t *samples = kd_arena_alloc(&x->memory, (size_t)rows, sizeof *samples);
    for (int64_t r = 0; r < rows; r++) samples[r] = index[r];
    x->b.samples = samples;
    x->b.inputs = x->in;
    kd_loss_spec spec = {.terms = {x->terms, x->n}};
    kd_loss_shape shape = {
        .rows = rows, .threads = 2, .student = x->student, .teacher = x->teacher, .samples = n};
    kd_loss *l;
    if (kd_loss_create(&l, &spec, &err) || kd_loss_plan(l, &shape, &err)) fail_msg("%s: %s", x->id, err.msg);
    size_t bytes;
    double *z = kd_loss_state(l, &bytes);
    float *banks = (float *)(z + 8);
    assert_true(bytes >= 8 * sizeof(double) + (size_t)(2 * n * dim) * sizeof(float));
    l->term[0].contrast = ints(x, "contrast_index");
    memcpy(banks, floats(x, "memory_student"), (size_t)(n * dim) * sizeof(float));
    memcpy(banks + n * dim, floats(x, "memory_teacher"), (size_t)(n * dim) * sizeof(float));
    if (has(x, "Z_student")) z[0] = 1, z[1] = log(number(x, "Z_student")), z[2] = log(number(x, "Z_teacher"));
    check_value(x, "twin's value", kd_loss_naive(l, &x->b));
    kd_loss_run(l, &x->b);
    check_value(x, "value", kd_loss_value(l));
    float kept[2] = {(float)exp(z[1]), (float)exp(z[2])};
    near_output(x, "Z_student", &kept[0]);
    near_output(x, "Z_teacher", &kept[1]);
    near_output(x, "memory_student", banks);
    near_output(x, "memory_teacher", banks + n * dim);
    if (full) {
        linear_gradient(x, x->in[0].dstudent, "student", "w_student", "b_student", true);
        linear_gradient(x, x->in[0].dteacher, "teacher", "w_teacher", "b_teacher", false);
    } else {
        check_gradient(x, "student_embed", x->in[0].dstudent);
        check_gradient(x, "teacher_embed", x->in[0].dteacher);
    }
    assert_int_equal(x->checked, json_object_size(json_object_get(x->e, "grads")));
    kd_loss_free(l);
}

/* ---- candidates ---------------------------------------------------------------------------- */

/* Scores are dot products; their gradient goes on to queries and documents. */
static void candidate_gradient(entry *x)
{
    kd_loss_dims d = dims_of(x, "docs");
    int64_t n = d.dims[1], D = d.dims[2];
    const float *q = floats(x, "query"), *docs = floats(x, "docs");
    float *gq = zeros(x, x->b.rows * D), *gd = zeros(x, x->b.rows * n * D);
    for (int64_t r = 0; r < x->b.rows; r++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < D; k++) {
                float g = x->b.dlogits[r * n + j];
                gq[r * D + k] += g * docs[(r * n + j) * D + k];
                gd[(r * n + j) * D + k] = g * q[r * D + k];
            }
    check_gradient(x, "query", gq);
    check_gradient(x, "docs", gd);
}

static void check_candidates(entry *x)
{
    kd_loss_dims d = dims_of(x, "docs");
    int64_t n = d.dims[1], D = d.dims[2];
    const float *q = floats(x, "query"), *docs = floats(x, "docs");
    float *s = zeros(x, d.dims[0] * n);
    for (int64_t i = 0; i < d.dims[0] * n; i++) {
        double sum = 0;
        for (int64_t k = 0; k < D; k++) sum += (double)q[i / n * D + k] * docs[i * D + k];
        s[i] = (float)sum;
    }
    x->b.rows = d.dims[0], x->b.classes = n;
    x->b.logits = s;
    x->b.dlogits = zeros(x, d.dims[0] * n);
    x->b.teacher = floats(x, "teacher_scores");
    if (!strcmp(x->loss, "margin_mse"))
        term(x, "name=margin_mse,teacher_scores=%s", word(x, "labels"));
    else
        term(x, "name=listwise_kl,temperature=%g,teacher_temperature=%g", number(x, "T_s"), number(x, "T_t"));
    check(x, candidate_gradient);
}

/* ---- contrast of a batch's texts ----------------------------------------------------------- */

static void embedding_gradient(entry *x) { check_gradient(x, "embeddings", x->in[0].dstudent); }

/* (B, columns, D): every vector is a row. */
static void check_contrast(entry *x)
{
    kd_loss_dims s = dims_of(x, "embeddings"), t = dims_of(x, "teacher");
    term(x, "%s", word(x, "terms"));
    x->b.rows = s.dims[0] * s.dims[1];
    x->columns = s.dims[1];
    x->student[0] = (kd_loss_dims){1, {s.dims[2]}};
    x->teacher[0] = (kd_loss_dims){1, {t.dims[2]}};
    x->in[0].student = floats(x, "embeddings");
    x->in[0].teacher = floats(x, "teacher");
    x->in[0].dstudent = zeros(x, count(&s, 0));
    check(x, embedding_gradient);
}

static void check_entry(entry *x)
{
    if (!strcmp(x->loss, "kd") || !strcmp(x->loss, "kd+ce"))
        check_kd(x);
    else if (!strcmp(x->loss, "contrast"))
        check_contrast(x);
    else if (!strcmp(x->loss, "dist"))
        check_dist(x);
    else if (!strncmp(x->loss, "sparse", 6))
        check_sparse(x);
    else if (!strcmp(x->loss, "embed"))
        check_embed(x);
    else if (!strcmp(x->loss, "crd"))
        check_crd(x);
    else if (!strcmp(x->loss, "minilm"))
        check_minilm(x);
    else if (given(x, "docs"))
        check_candidates(x);
    else if (given(x, "teacher"))
        check_features(x);
    else
        check_logits(x, x->loss);
}

static void check_file(const char *path, size_t entries)
{
    json_t *root, *e;
    kd_err err = {0};
    size_t i, done = 0;
    if (kd_json_load(path, 4 << 20, &root, &err)) fail_msg("%s", err.msg);
    json_array_foreach(json_object_get(root, "entries"), i, e)
    {
        entry x = {.e = e,
                   .params = json_object_get(e, "params"),
                   .inputs = json_object_get(e, "inputs"),
                   .id = json_string_value(json_object_get(e, "id")),
                   .loss = json_string_value(json_object_get(e, "loss"))};
        check_entry(&x);
        kd_arena_release(&x.memory);
        done++;
    }
    json_decref(root);
    assert_int_equal(done, entries);
}

static void golden_values_of_public_implementations_are_met(void **state)
{
    (void)state;
    check_file("tests/golden/losses.json", 214);
}

static void contrast_in_a_batch_is_what_sentence_transformers_computes(void **state)
{
    (void)state;
    check_file("tests/golden/contrast.json", 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_values_of_public_implementations_are_met),
        cmocka_unit_test(contrast_in_a_batch_is_what_sentence_transformers_computes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
