/* test_objectives.c - every objective against its reference implementation (tests/golden/losses.json, all
 * entries), its twin and finite differences, at its edges, and for any number of threads.
 *
 * A golden entry is turned into a mix of terms in the words of the YAML, so that these tests also say which
 * keys mean which reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loss_fixture.h"

#include <omp.h>

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

static void check_entry(entry *x)
{
    if (!strcmp(x->loss, "kd") || !strcmp(x->loss, "kd+ce"))
        check_kd(x);
    else if (!strcmp(x->loss, "dist"))
        check_dist(x);
    else if (!strncmp(x->loss, "sparse", 6))
        check_sparse(x);
    else
        check_logits(x, x->loss);
}

static void golden_values_of_public_implementations_are_met(void **state)
{
    (void)state;
    json_t *root, *e;
    kd_err err = {0};
    size_t i, done = 0;
    if (kd_json_load("tests/golden/losses.json", 4 << 20, &root, &err)) fail_msg("%s", err.msg);
    json_array_foreach(json_object_get(root, "entries"), i, e)
    {
        entry x = {.e = e,
                   .params = json_object_get(e, "params"),
                   .inputs = json_object_get(e, "inputs"),
                   .id = json_string_value(json_object_get(e, "id")),
                   .loss = json_string_value(json_object_get(e, "loss"))};
        if (getenv("ONLY") && strcmp(x.loss, getenv("ONLY"))) continue;
        if (!kd_loss_find(x.loss) && strcmp(x.loss, "kd+ce") && strcmp(x.loss, "sparse_ce")) continue;
        check_entry(&x);
        kd_arena_release(&x.memory);
        done++;
    }
    json_decref(root);
    printf("%zu\n", done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_values_of_public_implementations_are_met),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
