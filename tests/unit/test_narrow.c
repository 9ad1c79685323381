/* test_narrow.c - models that begin as a narrower copy of another one: a wide model that holds a narrow one
 * and nothing else gives that one back; bases; the same bits for any number of threads; what is refused. */
#include "../../lib/model/model_private.h"
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDE = 48, NARROW = 32, EACH = 8, VOCAB = 61, TOKENS = 600, LENGTH = 20 };

static char folder[64];
static int32_t token[TOKENS];
static uint64_t offset[TOKENS / LENGTH + 1];
static const kd_sample sample = {token, offset, TOKENS / LENGTH};

static int set_up(void **state)
{
    (void)state;
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, 0, 0);
    for (int i = 0; i < TOKENS; i++) token[i] = (int32_t)kd_rng_below(&r, VOCAB);
    for (uint64_t i = 0; i <= TOKENS / LENGTH; i++) offset[i] = i * LENGTH;
    snprintf(folder, sizeof folder, "/tmp/kd-narrow-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* ---- bases -------------------------------------------------------------------------------- */

/* Second moments with variances 1, 1/2, 1/3, ... along directions that are not the axes; centred: without
 * what they have along (1, ..., 1). */
static void fill_moments(double *c, size_t d, bool centred)
{
    const double away = (centred ? 1.0 : 2.0) / (double)d;
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++) {
            double sum = 0;
            for (size_t k = 0; k < d; k++) // reflections or projections of the axes along (1, ..., 1)
                sum += ((i == k) - away) * ((j == k) - away) / (double)(k + 1);
            c[i * d + j] = sum;
        }
}

static void bases_are_orthonormal(void **state)
{
    (void)state;
    enum { D = 30, R = 11 };
    double c[D * D], gain[D];
    for (int i = 0; i < D; i++) gain[i] = 1 + 0.1 * (i % 7);
    for (int centred = 0; centred < 2; centred++)
        for (int turned = 0; turned < 2; turned++) {
            kd__basis b = {.d = D, .r = R, .centred = centred};
            fill_moments(c, D, centred);
            OK(kd__basis_learn(&b, c, turned ? gain : NULL, err));
            for (size_t i = 0; i < R; i++)
                for (size_t j = 0; j <= i; j++) {
                    double dot = 0;
                    for (size_t k = 0; k < D; k++) dot += (double)b.p[i * D + k] * (double)b.p[j * D + k];
                    assert_float_equal(dot, i == j, 1e-6);
                }
            for (size_t i = 0; i < R && centred; i++) { // (1, ..., 1) becomes (1, ..., 1)
                double sum = 0;
                for (size_t k = 0; k < D; k++) sum += (double)b.p[i * D + k];
                assert_float_equal(sum, sqrt((double)D / R), 1e-5);
            }
            kd__basis_release(&b);
        }
}

static void a_basis_keeps_the_largest_directions(void **state)
{
    (void)state;
    enum { D = 30, R = 5 };
    double c[D * D], all = 0, most = 0;
    kd__basis b = {.d = D, .r = R};
    fill_moments(c, D, false);
    for (int i = 0; i < D; i++) all += 1.0 / (i + 1), most += i < R ? 1.0 / (i + 1) : 0;
    OK(kd__basis_learn(&b, c, NULL, err));
    assert_float_equal(b.kept * b.kept, most / all, 1e-4);
    kd__basis_release(&b);
}

static void a_symmetric_matrix_becomes_diagonal(void **state)
{
    (void)state;
    enum { N = 17 };
    double a[N * N], c[N * N], v[N * N];
    fill_moments(c, N, false);
    memcpy(a, c, sizeof a);
    kd__diagonal(v, a, N);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                for (int l = 0; l < N; l++) sum += v[i * N + k] * c[k * N + l] * v[j * N + l];
            assert_float_equal(sum, a[i * N + j], 1e-12);
            if (i != j) assert_float_equal(sum, 0, 1e-10);
        }
}

/* ---- a wide model that holds a narrow one ------------------------------------------------- */

static kd_model *made(const char *text, uint64_t seed)
{
    kd_model *m;
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    OK(kd_model_create(&m, "new", j, "new.yaml", err));
    kd_graph_init(m->graph, seed);
    json_decref(j);
    return m;
}

static float *weights(kd_model *m, const char *name)
{
    const kd_param *p = kd__find_param(m, name);
    if (!p) fail_msg("no parameter %s", name);
    return kd_graph_param_data(m->graph, p);
}

static bool ends(const char *name, const char *tail)
{
    const size_t n = strlen(name), k = strlen(tail);
    return n >= k && !strcmp(name + n - k, tail);
}

/* Gains and biases that are not those of the beginning; what acts on hidden states themselves stays the same
 * for all of a state's numbers, since any other gain is lost with a change of basis. */
static void vary(kd_model *m)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < n; i++) {
        float *w = kd_graph_param_data(m->graph, &p[i]);
        for (size_t k = 0; k < p[i].size; k++) {
            if (ends(p[i].name, "_norm.weight") && strncmp(p[i].name, "embeddings", 10))
                w[k] = 0.8F + 0.05F * (float)(k % 9);
            if (ends(p[i].name, ".bias")) w[k] = 0.03F * (float)(k % 5) - 0.04F;
        }
    }
}

/* Where in the wide model row i of the narrow one's heads, groups and channels is. */
static size_t head_row(size_t i)
{
    return (i / EACH < 2 ? 0 : 2 * EACH) + i;
} /* of 3 groups of 2 heads all but the second */
static size_t group_row(size_t i) { return (i / EACH < 1 ? 0 : EACH) + i; }
static size_t bert_row(size_t i) { return (i / EACH < 3 ? 0 : EACH) + i; } /* of 6 heads 0, 1, 2, 4 */
static size_t channel_row(size_t i) { return 2 * i; }

typedef struct pair {
    kd_model *wide, *narrow;
    kd__basis basis;
    bool encoder;
} pair;

static size_t place(const pair *w, const char *name, size_t i)
{
    if (strstr(name, ".key.") || strstr(name, ".value.")) return w->encoder ? bert_row(i) : group_row(i);
    if (strstr(name, ".query.") || strstr(name, ".merge.")) return w->encoder ? bert_row(i) : head_row(i);
    if (strstr(name, ".up.") || strstr(name, ".gate.") || strstr(name, ".down.")) return channel_row(i);
    return i;
}

/* A row that reads narrow states, or is one, in the wide basis. */
static void widen_row(const pair *w, float *to, const float *from, const float *gain_from,
                      const float *gain_to, double scale)
{
    for (size_t k = 0; k < WIDE; k++) {
        double sum = 0;
        for (size_t j = 0; j < NARROW; j++)
            sum +=
                (double)w->basis.p[j * WIDE + k] * (double)from[j] * (gain_from ? (double)gain_from[j] : 1);
        to[k] = (float)(scale * sum / (gain_to ? (double)gain_to[k] : 1));
    }
}

/* The norm before a matrix, of models that have one there. */
static const char *norm_of(kd__node_name *b, const char *name)
{
    const bool network = strstr(name, ".up.") || strstr(name, ".gate.");
    if (!strcmp(name, "logits.weight")) return "norm.weight";
    return kd__name(b, "%.6s.%s_norm.weight", name, network ? "network" : "attention");
}

static void widen(const pair *w, const kd_param *p)
{
    kd__node_name b;
    const double up = sqrt((double)WIDE / NARROW),
                 scale = w->encoder ? 1 / up : 1; // states are y = scale P x
    const char *norm = norm_of(&b, p->name);
    const kd_param *q = kd__find_param(w->wide, p->name);
    float *x = kd_graph_param_data(w->narrow->graph, p), *y = kd_graph_param_data(w->wide->graph, q);
    const bool adds = ends(p->name, "merge.weight") || ends(p->name, "down.weight"),
               normed = !w->encoder && kd__find_param(w->wide, norm);
    if (ends(p->name, "norm.weight") || ends(p->name, "attention.weight") ||
        (!strncmp(p->name, "layer", 5) && !strcmp(p->name + 6, ".weight"))) {
        for (size_t k = 0; k < q->size; k++) // of a tied head's norm and of layer norms one number for all
            y[k] = w->encoder                      ? x[0]
                   : ends(p->name, "_norm.weight") ? 0.9F + 0.04F * (float)(k % 6)
                                                   : (float)((double)x[0] / up);
    } else if (p->ndims == 1 && p->dims[0] == NARROW && !strstr(p->name, "query") &&
               !strstr(p->name, "key") && !strstr(p->name, "value")) {
        widen_row(w, y, x, NULL, NULL, 1 / scale);
    } else if (p->ndims == 1) {
        for (size_t i = 0; i < p->size; i++) y[place(w, p->name, i)] = x[i];
    } else if (adds) {
        const size_t in = (size_t)p->dims[1], of = (size_t)q->dims[1];
        memset(y, 0, q->size * sizeof *y);
        for (size_t i = 0; i < in; i++) {
            float column[NARROW], wide[WIDE];
            for (size_t j = 0; j < NARROW; j++) column[j] = x[j * in + i];
            widen_row(w, wide, column, NULL, NULL, 1 / scale);
            for (size_t k = 0; k < WIDE; k++) y[k * of + place(w, p->name, i)] = wide[k];
        }
    } else {
        const bool table = !strncmp(p->name, "embeddings", 10);
        for (size_t i = 0; i < (size_t)p->dims[0]; i++)
            widen_row(w, y + place(w, p->name, i) * WIDE, x + i * NARROW,
                      normed ? weights(w->narrow, norm) : NULL, normed ? weights(w->wide, norm) : NULL,
                      table    ? 1 / scale
                      : normed ? 1 / up
                               : scale);
    }
}

/* What the model makes of the sample. */
static float *outputs(kd_model *m, size_t *n)
{
    kd_exec *ex;
    OK(kd_exec_create(&ex, m->graph, &(kd_exec_params){.batch = TOKENS, .sequences = sample.n, .threads = 1},
                      err));
    OK(kd_model_feed_tokens(m, ex, token, KD_I32, offset, sample.n, err));
    kd_exec_run_forward(ex);
    *n = (size_t)kd_exec_rows(ex, m->logits) * kd_graph_node_size(m->graph, m->logits);
    float *copy = malloc(*n * sizeof *copy);
    memcpy(copy, kd_exec_value(ex, m->logits), *n * sizeof *copy);
    kd_exec_free(ex);
    return copy;
}

static void comes_back(const char *wide, const char *narrow, const char *as, const kd_sample *seen)
{
    double c[WIDE * WIDE], worst = 0, scale = 0;
    const kd_param *p;
    size_t n, k;
    pair w = {.wide = made(wide, 1), .narrow = made(narrow, 2)};
    w.encoder = !strcmp(w.wide->spec.arch, "bert");
    w.basis = (kd__basis){.d = WIDE, .r = NARROW, .centred = w.encoder};
    fill_moments(c, WIDE, w.encoder);
    OK(kd__basis_learn(&w.basis, c, NULL, err));
    vary(w.narrow);
    const size_t params = kd_graph_params(w.narrow->graph, &p);
    for (int norms = 1; norms >= 0; norms--) // gains first: matrices are divided by them
        for (size_t i = 0; i < params; i++)
            if (ends(p[i].name, "norm.weight") == norms) widen(&w, &p[i]);
    OK(kd_model_save(w.wide, folder, NULL, err));
    kd_model *m = made(as, 3);
    OK(kd_model_init_from(m, &(kd_init){.folder = folder, .sample = seen, .threads = 2}, err));
    float *want = outputs(w.narrow, &n), *got = outputs(m, &k), *large = outputs(w.wide, &k);
    assert_int_equal(n, k);
    for (size_t i = 0; i < n; i++) {
        assert_float_equal(large[i], want[i], 1e-3); // the fixture itself
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        scale = fmax(scale, fabs((double)want[i]));
    }
    if (!(worst <= 1e-4 * scale)) fail_msg("%s: off by %g of %g", as, worst, scale);
    free(want);
    free(got);
    free(large);
    kd__basis_release(&w.basis);
    kd_model_free(m);
    kd_model_free(w.wide);
    kd_model_free(w.narrow);
}

#define LLAMA(width, heads, kv, ffn, more)                                                                   \
    "{\"arch\": \"llama\", \"vocab\": 61, \"positions\": 32, \"layers\": 2, \"eps\": 1e-12, "                \
    "\"width\": " #width ", \"heads\": " #heads ", \"kv_heads\": " #kv ", \"ffn\": " #ffn more "}"
#define BERT(width, heads, ffn, more)                                                                        \
    "{\"arch\": \"bert\", \"vocab\": 61, \"positions\": 32, \"layers\": 2, \"width\": " #width               \
    ", \"heads\": " #heads ", \"ffn\": " #ffn more "}"

static void a_narrow_decoder_comes_back_from_a_wide_one(void **state)
{
    (void)state;
    static const char *const narrow[] = {LLAMA(32, 4, 2, 40, ""), LLAMA(32, 4, 2, 40, ", \"tied\": false")};
    comes_back(LLAMA(48, 6, 3, 80, ""), narrow[0], narrow[0], &sample);
    comes_back(LLAMA(48, 6, 3, 80, ", \"tied\": false"), narrow[1], narrow[1], &sample);
    comes_back(LLAMA(48, 6, 3, 80, ""), narrow[0], narrow[0], NULL); // by weights alone
}

static void a_narrow_encoder_comes_back_from_a_wide_one(void **state)
{
    (void)state;
    static const char *const narrow[] = {BERT(32, 4, 40, ", \"output\": 5"),
                                         BERT(32, 4, 40, ", \"classes\": 3")};
    comes_back(BERT(48, 6, 80, ", \"output\": 5"), narrow[0], narrow[0], &sample);
    comes_back(BERT(48, 6, 80, ", \"classes\": 3"), narrow[1], narrow[1], NULL);
}

static void narrow_tables_come_back_from_wide_ones(void **state)
{
    (void)state;
    const char *wide = BERT(48, 6, 80, ", \"output\": 5"), *narrow = BERT(32, 4, 40, ", \"output\": 5");
    comes_back(wide, narrow, BERT(48, 6, 80, ", \"output\": 5, \"embedding\": 32"), &sample);
    comes_back(wide, narrow, BERT(32, 4, 40, ", \"output\": 5, \"embedding\": 32"), &sample);
}

/* An embedding without a projection is its states: the way back to them is known. */
static void an_encoder_finds_back_to_the_states_of_its_teacher(void **state)
{
    (void)state;
    size_t n, k;
    kd_model *wide, *m = made(BERT(24, 3, 56, ", \"output\": 32, \"positions\": 30"), 1);
    OK(kd_model_load(&wide,
                     "tests/golden/"
                     "bert",
                     err));
    OK(kd_model_init_from(m,
                          &(kd_init){.folder = "tests/golden/"
                                               "bert",
                                     .sample = &sample,
                                     .threads = 1},
                          err));
    float *got = outputs(m, &n), *want = outputs(wide, &k);
    assert_int_equal(n, k);
    double near = 0;
    for (size_t i = 0; i < n; i++)
        near += (double)got[i] * (double)want[i] / (double)sample.n; // both of length 1
    assert_in_range((uint64_t)(100 * near), 80, 100);
    free(got);
    free(want);
    kd_model_free(m);
    kd_model_free(wide);
}

/* ---- of the same size, of another one ----------------------------------------------------- */

static void the_same_widths_are_a_copy(void **state)
{
    (void)state;
    static const char *const as[] = {"llama", "llama-untied", "bert", "electra"};
    for (size_t i = 0; i < KD_COUNT(as); i++) {
        kd_model *from, *m;
        kd__node_name b;
        char before[33], after[33];
        OK(kd_model_load(&from,
                         kd__name(&b,
                                  "tests/golden/"
                                  "%s",
                                  as[i]),
                         err));
        OK(kd_model_load(&m, b.text, err));
        kd_graph_init(m->graph, 5);
        OK(kd__init_narrow(m, from, &(kd_init){.folder = b.text, .sample = &sample, .threads = 1}, err));
        kd_model_fingerprint(from, before);
        kd_model_fingerprint(m, after);
        assert_string_equal(before, after);
        kd_model_free(m);
        kd_model_free(from);
    }
}

static void the_bits_are_the_same_for_any_number_of_threads(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    static const char *const from[] = {"tests/golden/"
                                       "llama",
                                       "tests/golden/"
                                       "bert"},
                             *const as[] = {LLAMA(16, 2, 1, 24, ", \"rope_base\": 500"),
                                            BERT(24, 3, 30, ", \"embedding\": 12, \"output\": 32")};
    for (size_t k = 0; k < KD_COUNT(from); k++) {
        char first[33], now[33];
        for (size_t i = 0; i < KD_COUNT(threads); i++) {
            kd_model *m = made(as[k], 1);
            OK(kd_model_init_from(m, &(kd_init){.folder = from[k], .sample = &sample, .threads = threads[i]},
                                  err));
            kd_model_fingerprint(m, i ? now : first);
            if (i) assert_string_equal(first, now);
            kd_model_free(m);
        }
    }
}

static void what_cannot_be_mapped_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *as, *say;
    } bad[] = {
        {"llama", LLAMA(40, 5, 1, 64, ""), "model.width is 32, new has 40"},
        {"llama", LLAMA(32, 4, 2, 80, ""), "model.ffn is 64, new has 80"},
        {"llama", LLAMA(16, 2, 1, 64, ", \"layers\": 3"), "model.layers is 2, new has 3"},
        {"llama", LLAMA(16, 4, 2, 64, ""), "heads of 8 numbers, new has 4"},
        {"llama", LLAMA(32, 4, 1, 64, ""), "2 heads share one of keys and values, in new 4"},
        {"llama", LLAMA(16, 2, 1, 64, ", \"vocab\": 60"), "a vocabulary of 61 tokens, new has 60"},
        {"llama", LLAMA(16, 2, 1, 64, ", \"rope_base\": 400"), "model.rope_base is 500, new has 400"},
        {"llama-untied", LLAMA(16, 2, 2, 64, ", \"rope_base\": 500"), "new has model.tied: true"},
        {"bert", BERT(24, 3, 56, ", \"positions\": 41"), "model.positions is 40, new has 41"},
        {"electra", BERT(24, 3, 56, ""), "new has 0 (model.embedding)"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd__node_name b;
        kd_model *m = made(bad[i].as, 1);
        FAILS(kd_model_init_from(m,
                                 &(kd_init){.folder = kd__name(&b,
                                                               "tests/golden/"
                                                               "%s",
                                                               bad[i].from),
                                            .sample = &sample,
                                            .threads = 1},
                                 err),
              KD_EMISMATCH, bad[i].say);
        kd_model_free(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bases_are_orthonormal),
        cmocka_unit_test(a_basis_keeps_the_largest_directions),
        cmocka_unit_test(a_symmetric_matrix_becomes_diagonal),
        cmocka_unit_test(a_narrow_decoder_comes_back_from_a_wide_one),
        cmocka_unit_test(a_narrow_encoder_comes_back_from_a_wide_one),
        cmocka_unit_test(narrow_tables_come_back_from_wide_ones),
        cmocka_unit_test(an_encoder_finds_back_to_the_states_of_its_teacher),
        cmocka_unit_test(the_same_widths_are_a_copy),
        cmocka_unit_test(the_bits_are_the_same_for_any_number_of_threads),
        cmocka_unit_test(what_cannot_be_mapped_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
