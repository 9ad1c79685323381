/* test_tokens.c - ops on packed sequences: every op against finite differences of its own forward pass,
 * against its twin in plain C, and against itself with other numbers of threads and other plans; what a
 * batch of sequences promises. */
#include "nn_fixture.h"
#include "kd/config.h"

enum { VOCAB = 37, PLACES = 520, WIDTH = 12 };

/* ---- graphs: tokens, an embedding, the op ------------------------------------------------- */

typedef kd_node (*builder)(kd_graph *g, kd_node x);

static kd_node nothing(kd_graph *g, kd_node x)
{
    (void)g;
    return x;
}
static kd_node linear(kd_graph *g, kd_node x) { return kd_nn_linear(g, "op", x, 7, true); }
static kd_node linear_relu(kd_graph *g, kd_node x) { return kd_nn_relu(g, "relu", linear(g, x)); }
static kd_node layernorm(kd_graph *g, kd_node x) { return kd_nn_layernorm(g, "op", x, 1e-5f); }
static kd_node layernorm_wide(kd_graph *g, kd_node x)
{
    return kd_nn_layernorm(g, "op", kd_nn_linear(g, "wide", x, 77, true), 1e-5f);
}
static kd_node gelu(kd_graph *g, kd_node x) { return kd_nn_gelu(g, "op", x); }
static kd_node attention_of(kd_graph *g, kd_node x, int64_t width, int heads, float p)
{
    return kd_nn_self_attention(g, "op", kd_nn_linear(g, "q", x, width, true),
                                kd_nn_linear(g, "k", x, width, true), kd_nn_linear(g, "v", x, width, false),
                                heads, p);
}
static kd_node attention(kd_graph *g, kd_node x) { return attention_of(g, x, 8, 1, 0); }
static kd_node attention_odd(kd_graph *g, kd_node x) { return attention_of(g, x, 15, 3, 0); }
static kd_node attention_wide(kd_graph *g, kd_node x) { return attention_of(g, x, 64, 2, 0); }
static kd_node attention_dropped(kd_graph *g, kd_node x) { return attention_of(g, x, 15, 3, 0.3f); }
static kd_node attention_self(kd_graph *g, kd_node x) { return kd_nn_self_attention(g, "op", x, x, x, 2, 0); }
static kd_node mean(kd_graph *g, kd_node x) { return kd_nn_pool(g, "op", x, KD_POOL_MEAN); }
static kd_node first(kd_graph *g, kd_node x) { return kd_nn_pool(g, "op", x, KD_POOL_FIRST); }
static kd_node normalize(kd_graph *g, kd_node x) { return kd_nn_normalize(g, "op", x); }
static kd_node head(kd_graph *g, kd_node x)
{
    x = kd_nn_pool(g, "pool", kd_nn_gelu(g, "gelu", x), KD_POOL_MEAN);
    return kd_nn_normalize(g, "op", kd_nn_linear(g, "project", x, 5, false));
}
static kd_node rmsnorm(kd_graph *g, kd_node x) { return kd_nn_rmsnorm(g, "op", x, 1e-5f); }
static kd_node rmsnorm_wide(kd_graph *g, kd_node x)
{
    return kd_nn_rmsnorm(g, "op", kd_nn_linear(g, "wide", x, 77, true), 1e-5f);
}
static kd_node swiglu(kd_graph *g, kd_node x)
{
    return kd_nn_swiglu(g, "op", kd_nn_linear(g, "gate", x, 19, true), kd_nn_linear(g, "up", x, 19, false));
}
static kd_node swiglu_self(kd_graph *g, kd_node x) { return kd_nn_swiglu(g, "op", x, x); }
static kd_node rope(kd_graph *g, kd_node x) { return kd_nn_rope(g, "op", x, 3, 100, 0); }
static kd_node rope_wide(kd_graph *g, kd_node x)
{
    return kd_nn_add(g, "op", x,
                     kd_nn_linear(g, "back",
                                  kd_nn_rope(g, "rope", kd_nn_linear(g, "wide", x, 76, true), 2, 1e4f, 600),
                                  WIDTH, true));
}
static kd_node causal_of(kd_graph *g, kd_node x, int64_t d, int heads, int kv)
{
    const kd_node q = kd_nn_linear(g, "q", x, d * heads, true), k = kd_nn_linear(g, "k", x, d * kv, true);
    return kd_nn_causal_attention(g, "op", kd_nn_rope(g, "q_rope", q, heads, 1e3f, 0),
                                  kd_nn_rope(g, "k_rope", k, kv, 1e3f, 0),
                                  kd_nn_linear(g, "v", x, d * kv, false), heads, kv);
}
static kd_node causal(kd_graph *g, kd_node x) { return causal_of(g, x, 6, 4, 2); }
static kd_node causal_wide(kd_graph *g, kd_node x) { return causal_of(g, x, 32, 3, 1); }
static kd_node causal_self(kd_graph *g, kd_node x) { return kd_nn_causal_attention(g, "op", x, x, x, 3, 3); }
static kd_node tied(kd_graph *g, kd_node x)
{
    return kd_nn_tied_linear(g, "op", kd_nn_gelu(g, "gelu", kd_nn_linear(g, "same", x, WIDTH, true)), x);
}
static kd_node up_gelu(kd_graph *g, kd_node x)
{
    return kd_nn_gelu(g, "gelu", kd_nn_linear(g, "up", x, 67, true));
}
static kd_node gelu_between(kd_graph *g, kd_node x)
{
    return kd_nn_add(g, "op", kd_nn_linear(g, "down", up_gelu(g, x), WIDTH, true), x);
}
static kd_node gelu_read_twice(kd_graph *g, kd_node x)
{
    x = up_gelu(g, x);
    return kd_nn_add(g, "op", kd_nn_linear(g, "down", x, 67, true), x);
}
static kd_node gelu_of_what_is_read_twice(kd_graph *g, kd_node x)
{
    x = kd_nn_linear(g, "up", x, 67, true);
    return kd_nn_add(g, "op", kd_nn_linear(g, "down", kd_nn_gelu(g, "gelu", x), 67, false), x);
}
static kd_node residual(kd_graph *g, kd_node x)
{
    x = kd_nn_add(g, "add", x, kd_nn_dropout(g, "drop", kd_nn_linear(g, "same", x, WIDTH, true), 0.3f));
    return kd_nn_softmax(g, "op", x);
}

typedef struct op_case {
    const char *name;
    builder build;
    bool plain; /* one table, no positions */
} op_case;

static const op_case cases[] = {
    {"embedding", nothing, false},
    {"embedding of one table", nothing, true},
    {"linear", linear, false},
    {"linear + relu", linear_relu, false},
    {"layernorm", layernorm, false},
    {"layernorm of 77", layernorm_wide, false},
    {"gelu", gelu, false},
    {"gelu between linear layers", gelu_between, false},
    {"gelu that is read twice", gelu_read_twice, true},
    {"gelu of what is read twice", gelu_of_what_is_read_twice, true},
    {"attention, a head of 8", attention, true},
    {"attention, 3 heads of 5", attention_odd, false},
    {"attention, 2 heads of 32", attention_wide, false},
    {"attention of one value", attention_self, false},
    {"attention, of whose shares 30 % are dropped", attention_dropped, false},
    {"mean pooling", mean, false},
    {"first token", first, false},
    {"normalize", normalize, false},
    {"a head over sequences", head, false},
    {"residual, dropout, softmax", residual, false},
    {"rms norm", rmsnorm, false},
    {"rms norm of 77", rmsnorm_wide, true},
    {"swiglu", swiglu, false},
    {"swiglu of one value", swiglu_self, true},
    {"rotary positions", rope, true},
    {"rotary positions, 2 heads of 38", rope_wide, true},
    {"causal attention, 4 heads on 2 of keys", causal, true},
    {"causal attention, 3 heads of 32 on 1", causal_wide, false},
    {"causal attention of one value", causal_self, true},
    {"a head tied to the embedding", tied, true},
    {"a head tied to the embedding with positions", tied, false},
};
enum { CASES = sizeof cases / sizeof *cases };

/* Lengths of the sequences of a batch, closed by 0. */
typedef struct batch {
    const char *name;
    int lengths[9];
} batch;

static const batch small = {"four short ones", {3, 1, 7, 2}};
static const batch batches[] = {
    {"one token", {1}},
    {"four short ones", {3, 1, 7, 2}},
    {"a whole step of rows", {200, 56}},
    {"one more than a step", {100, 57, 100}},
    {"512 tokens and a rest", {512, 1, 33}},
};
enum { BATCHES = sizeof batches / sizeof *batches };

typedef struct net {
    kd_graph *g;
    kd_node tokens, out;
} net;

static net build(const op_case *c)
{
    net n = {.g = kd_graph_create()};
    assert_non_null(n.g);
    n.tokens = kd_nn_tokens(n.g, "tokens");
    n.out = c->build(n.g, kd_nn_embedding(n.g, "embeddings", n.tokens, VOCAB, c->plain ? 0 : PLACES,
                                          c->plain ? 0 : 2, WIDTH));
    kd_graph_output(n.g, n.out);
    OK(kd_graph_finish(n.g, err));
    kd_graph_init(n.g, 9);
    const kd_param *p;
    const size_t count = kd_graph_params(n.g, &p);
    for (size_t i = 0; i < count; i++) { // larger than they begin, norms and biases away from 1 and 0
        kd_rng r;
        kd_rng_init(&r, 6, KD_RNG_TEST, (uint32_t)i, 0);
        for (size_t k = 0; k < p[i].size; k++)
            kd_graph_param_data(n.g, &p[i])[k] += (p[i].decay ? 0.5f : 0.3f) * kd_rng_normal(&r);
    }
    return n;
}

static int64_t offsets_of(const batch *b, uint64_t offset[10])
{
    int64_t n = 0;
    for (offset[0] = 0; b->lengths[n]; n++) offset[n + 1] = offset[n] + (uint64_t)b->lengths[n];
    return n;
}

/* ids that repeat, in no order */
static void fill(kd_exec *ex, const net *n, const batch *b)
{
    uint64_t offset[10];
    const int64_t count = offsets_of(b, offset);
    for (uint64_t t = 0; t < offset[count]; t++)
        kd_exec_tokens(ex, n->tokens)[t] = (int32_t)((t * t + 5 * t) % (VOCAB - 4));
    OK(kd_exec_sequences(ex, offset, count, err));
}

static kd_exec *exec_of(const net *n, const kd_exec_params *how, const batch *b)
{
    kd_exec *ex = NULL;
    OK(kd_exec_create(&ex, n->g, how, err));
    kd_exec_seed(ex, 3, 4);
    fill(ex, n, b);
    return ex;
}

/* What a step leaves behind. */
typedef struct pass {
    float *y, *grads;
    size_t ys, slab;
} pass;

static void run(pass *r, kd_exec *ex, const net *n, int threads, bool training)
{
    r->ys = (size_t)kd_exec_rows(ex, n->out) * kd_graph_node_size(n->g, n->out);
    r->y = kd_alloc_aligned(r->ys, sizeof(float));
    kd_graph_slab(n->g, &r->slab);
    r->grads = kd_alloc_aligned(r->slab + 1, sizeof(float));
    float *dy = fx_normal(r->ys, 100);
#pragma omp parallel num_threads(threads)
    {
        kd_exec_forward(ex);
#pragma omp single
        if (training) memcpy(kd_exec_grad(ex, n->out), dy, r->ys * sizeof(float));
        if (training) kd_exec_backward(ex);
    }
    memcpy(r->y, kd_exec_value(ex, n->out), r->ys * sizeof(float));
    if (training) memcpy(r->grads, kd_exec_grads(ex), r->slab * sizeof(float));
    free(dy);
}

static pass step(const net *n, const kd_exec_params *how, const batch *b)
{
    pass r;
    kd_exec *ex = exec_of(n, how, b);
    run(&r, ex, n, how->threads, how->training);
    kd_exec_free(ex);
    return r;
}

static void release(pass *r)
{
    free(r->y);
    free(r->grads);
}

static void same(const char *name, const pass *got, const pass *want)
{
    if (memcmp(got->y, want->y, want->ys * sizeof(float))) fail_msg("%s: y differs", name);
    if (memcmp(got->grads, want->grads, want->slab * sizeof(float))) fail_msg("%s: gradients differ", name);
}

/* ---- slopes and twins --------------------------------------------------------------------- */

static double value(kd_exec *ex, const net *n, const float *dy, size_t ys)
{
    double sum = 0;
    kd_exec_run_forward(ex);
    for (size_t i = 0; i < ys; i++) sum += (double)dy[i] * (double)kd_exec_value(ex, n->out)[i];
    return sum;
}

static void check_slopes(const char *name, kd_exec *ex, const net *n, const pass *r, const kd_param *p)
{
    const float eps = 1.0f / 256;
    float *w = kd_graph_param_data(n->g, p), *dy = fx_normal(r->ys, 100);
    const float *grad = r->grads + p->offset;
    double top = 0;
    for (size_t i = 0; i < p->size; i++) top = fmax(top, fabs((double)grad[i]));
    for (size_t i = 0; i < p->size; i += 1 + p->size / 60) {
        const float was = w[i];
        w[i] = was + eps;
        const double up = value(ex, n, dy, r->ys);
        w[i] = was - eps;
        const double slope = (up - value(ex, n, dy, r->ys)) / (2 * (double)eps);
        w[i] = was;
        if (!(fabs(slope - (double)grad[i]) <= 5e-3 * (top + 0.2)))
            fail_msg("%s: slope at %s[%zu] is %.6g, backward says %.6g (at most %.3g)", name, p->name, i,
                     slope, (double)grad[i], top);
    }
    free(dy);
}

static void slopes_of(bool naive)
{
    const kd_exec_params how = {.batch = 13, .sequences = 4, .threads = 1, .training = true, .naive = naive};
    for (int i = 0; i < CASES; i++) {
        net n = build(&cases[i]);
        const kd_param *p;
        const size_t params = kd_graph_params(n.g, &p);
        if (strstr(cases[i].name, "relu")) { // no slope at a kink: all on one side
            float *bias = kd_graph_param_data(n.g, &p[params - 1]);
            for (size_t k = 0; k < p[params - 1].size; k++) bias[k] = k % 2 ? 40 : -40;
        }
        pass r = step(&n, &how, &small);
        kd_exec *ex = exec_of(&n, &how, &small);
        for (size_t k = 0; k < params; k++) check_slopes(cases[i].name, ex, &n, &r, &p[k]);
        kd_exec_free(ex);
        release(&r);
        kd_graph_free(n.g);
    }
}

static void backward_is_the_slope_of_forward(void **state)
{
    (void)state;
    slopes_of(false);
}

static void backward_of_the_twins_is_the_slope_of_forward(void **state)
{
    (void)state;
    slopes_of(true);
}

static void fast_ops_equal_their_twins(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        for (int b = 0; b < BATCHES; b++)
            for (int training = 0; training < 2; training++) {
                net n = build(&cases[i]);
                kd_exec_params how = {.batch = 600, .sequences = 8, .threads = 2, .training = training};
                pass got = step(&n, &how, &batches[b]);
                how.naive = true;
                pass want = step(&n, &how, &batches[b]);
                char name[128];
                snprintf(name, sizeof name, "%s of %s", cases[i].name, batches[b].name);
                fx_close(name, "y", got.y, want.y, want.ys, 1e-5);
                fx_close(name, "gradients", got.grads, want.grads, want.slab, 2e-5);
                release(&got);
                release(&want);
                kd_graph_free(n.g);
            }
}

/* Products of all forms of bf16 operands; on one thread the same bits as on three. A number that differs by a
 * rounding of f32 may be rounded to another bf16 number by the next layer. */
static void products_of_bf16_operands_equal_their_twins(void **state)
{
    (void)state;
    if (kd_nn_check_precision(KD_PRECISION_BF16, NULL)) skip();
    static const kd__operands form[] = {KD__ROUNDED, KD__BF16, KD__TILES};
    for (size_t i = 0; i < (size_t)CASES * BATCHES * KD_COUNT(form); i++) {
        const op_case *c = &cases[i % CASES];
        const batch *b = &batches[i / CASES % BATCHES];
        net n = build(c);
        n.g->operands = form[i / CASES / BATCHES];
        kd_exec_params how = {
            .batch = 600, .sequences = 8, .threads = 3, .training = true, .precision = KD_PRECISION_BF16};
        pass got = step(&n, &how, b);
        how.threads = 1;
        pass one = step(&n, &how, b);
        how.naive = true;
        pass want = step(&n, &how, b);
        char name[128];
        snprintf(name, sizeof name, "form %d: %s of %s", n.g->operands, c->name, b->name);
        same(name, &got, &one);
        fx_close(name, "y", got.y, want.y, want.ys, 1e-2);
        fx_close(name, "gradients", got.grads, want.grads, want.slab, 1e-2);
        release(&got);
        release(&one);
        release(&want);
        kd_graph_free(n.g);
    }
}

/* ---- the promises of a packed batch ------------------------------------------------------- */

static void the_bits_depend_neither_on_threads_nor_on_the_plan(void **state)
{
    (void)state;
    static const struct {
        int64_t tokens, sequences;
        int threads;
    } plans[] = {{546, 3, 2}, {546, 3, 3}, {546, 5, 8}, {700, 700, 1}, {2000, 64, 2}};
    for (int i = 0; i < CASES; i++) {
        net n = build(&cases[i]);
        kd_exec_params how = {.batch = 546, .sequences = 3, .threads = 1, .training = true};
        pass want = step(&n, &how, &batches[BATCHES - 1]);
        for (size_t k = 0; k < sizeof plans / sizeof *plans; k++) {
            how.batch = plans[k].tokens;
            how.sequences = plans[k].sequences;
            how.threads = plans[k].threads;
            pass got = step(&n, &how, &batches[BATCHES - 1]);
            same(cases[i].name, &got, &want);
            release(&got);
        }
        release(&want);
        kd_graph_free(n.g);
    }
}

static void a_sequence_does_not_see_its_neighbours(void **state)
{
    (void)state;
    const batch alone = {"the last one alone", {33}};
    for (int i = 0; i < CASES; i++) {
        net n = build(&cases[i]);
        const kd_exec_params how = {.batch = 600, .sequences = 8, .threads = 2};
        kd_exec *ex = exec_of(&n, &how, &batches[BATCHES - 1]);
        kd_exec_run_forward(ex);
        const bool pooled = kd_graph_node_per(n.g, n.out) == KD_PER_SEQUENCE;
        const size_t size = kd_graph_node_size(n.g, n.out), floats = (pooled ? 1 : 33) * size;
        float *among = kd_alloc_aligned(floats, sizeof *among);
        memcpy(among, kd_exec_value(ex, n.out) + (pooled ? 2 : 513) * size, floats * sizeof *among);
        int32_t *ids = kd_exec_tokens(ex, n.tokens);
        memmove(ids, ids + 513, 33 * sizeof *ids);
        OK(kd_exec_sequences(ex, (uint64_t[]){0, 33}, 1, err));
        kd_exec_run_forward(ex);
        assert_int_equal(kd_exec_rows(ex, n.out), pooled ? 1 : 33);
        if (memcmp(among, kd_exec_value(ex, n.out), floats * sizeof *among))
            fail_msg("%s: %s differs", cases[i].name, alone.name);
        free(among);
        kd_exec_free(ex);
        kd_graph_free(n.g);
    }
}

/* A table's gradient is cleared by the rows that the last batch wrote. */
static void nothing_is_left_of_the_batch_before(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++) {
        net n = build(&cases[i]);
        const kd_exec_params how = {.batch = 600, .sequences = 8, .threads = 2, .training = true};
        pass want = step(&n, &how, &small), before, got;
        kd_exec *ex = exec_of(&n, &how, &batches[BATCHES - 1]);
        run(&before, ex, &n, 2, true);
        fill(ex, &n, &small);
        run(&got, ex, &n, 2, true);
        same(cases[i].name, &got, &want);
        kd_exec_free(ex);
        release(&before);
        release(&want);
        release(&got);
        kd_graph_free(n.g);
    }
}

static void batches_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    kd_err err = {0};
    net n = build(&cases[0]);
    const kd_exec_params how = {.batch = 600, .sequences = 2, .threads = 1};
    kd_exec *ex = exec_of(&n, &how, &batches[0]);
    const struct {
        uint64_t offset[4];
        int64_t n;
        const char *say;
    } bad[] = {
        {{0, 1, 2, 3}, 3, "planned for 1 to 2"},
        {{0}, 0, "planned for 1 to 2"},
        {{1, 2}, 1, "sequence 0"},
        {{0, 5, 5}, 2, "sequence 1 of a batch ends at token 5, expected 6 to 600"},
        {{0, 5, 601}, 2, "expected 6 to 600"},
        {{0, 521}, 1, "the model has 520 positions"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(kd_exec_sequences(ex, bad[i].offset, bad[i].n, &err), KD_EUSAGE);
        if (!strstr(err.msg, bad[i].say)) fail_msg("'%s' does not say '%s'", err.msg, bad[i].say);
    }
    kd_exec_free(ex);
    kd_graph_free(n.g);
}

static void graphs_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    kd_err err = {0};
    for (int which = 0; which < 11; which++) {
        kd_graph *g = kd_graph_create();
        kd_node t = kd_nn_tokens(g, "tokens"), x = kd_nn_embedding(g, "e", t, 9, 0, 0, 6);
        kd_node other = kd_nn_input(g, "features", 1, (int64_t[]){6}); // a row per sequence
        const char *say = "";
        switch (which) {
        case 0: x = kd_nn_add(g, "bad", x, other), say = "a row for each token"; break;
        case 1: x = kd_nn_batchnorm(g, "bad", x, 0.1f, 1e-5f), say = "does not work on tokens"; break;
        case 2: x = kd_nn_self_attention(g, "bad", x, x, x, 4, 0), say = "do not divide into 4 heads"; break;
        case 3: x = kd_nn_pool(g, "bad", other, KD_POOL_MEAN), say = "no row per token"; break;
        case 4: x = kd_nn_embedding(g, "bad", other, 9, 0, 0, 6), say = "is not tokens"; break;
        case 5: x = kd_nn_rope(g, "bad", x, 2, 100, 0), say = "do not divide into pairs of 2 heads"; break;
        case 6: x = kd_nn_rope(g, "bad", x, 1, 1, 0), say = "expected more than 1"; break;
        case 7: x = kd_nn_causal_attention(g, "bad", x, x, x, 3, 2), say = "the first must divide"; break;
        case 8: x = kd_nn_causal_attention(g, "bad", x, x, x, 3, 1), say = "expected 2"; break;
        case 9:
            x = kd_nn_tied_linear(g, "bad", kd_nn_linear(g, "wide", x, 7, true), x), say = "is 6 wide";
            break;
        default: x = kd_nn_embedding(g, "bad", t, 9, 5, 0, 6), say = "expected at least 1 of each"; break;
        }
        kd_graph_output(g, x);
        assert_int_equal(kd_graph_finish(g, &err), KD_EUSAGE);
        if (!strstr(err.msg, "layer bad") || !strstr(err.msg, say))
            fail_msg("'%s' does not say '%s'", err.msg, say);
        kd_graph_free(g);
    }
}

/* ---- numbers ------------------------------------------------------------------------------ */

/* y and its slope (in dx) of one number by each instruction set that this CPU has. */
static void gelu_is_exact_for_all_numbers(void **state)
{
    (void)state;
    enum { N = 40001 };
    float *x = kd_alloc_aligned(N, sizeof *x), *y = kd_alloc_aligned(N, sizeof *y);
    for (int i = 0; i < N; i++) x[i] = (float)(i - N / 2) * 0.0007f; // to 14
    const kd__encoder_kernels *all[] = {&kd__encoder_scalar, &kd__encoder_avx2, &kd__encoder_avx512};
    const kd_isa needs[] = {KD_ISA_SCALAR, KD_ISA_AVX2, KD_ISA_AVX512};
    for (int k = 0; k < 3; k++) {
        if (kd_cpu_isa() < needs[k]) continue;
        all[k]->gelu(y, x, N);
        for (int i = 0; i < N; i++) {
            const double v = (double)x[i], want = v * 0.5 * erfc(-v / sqrt(2));
            // -v^2 / 2 has 24 bits, so its exponential loses as many as it is large
            if (!(fabs((double)y[i] - want) <= (4e-7 + 6e-8 * v * v) * fabs(want) + 1e-37))
                fail_msg("gelu(%.9g) is %.9g, want %.9g", v, (double)y[i], want);
        }
    }
    free(x);
    free(y);
}

static void scores_far_apart_stay_finite(void **state)
{
    (void)state;
    const op_case c = {"attention", attention_self, true};
    net n = build(&c);
    const kd_param *p;
    kd_graph_params(n.g, &p);
    for (size_t k = 0; k < p[0].size; k++) kd_graph_param_data(n.g, &p[0])[k] *= 100;
    const kd_exec_params how = {.batch = 600, .sequences = 8, .threads = 1, .training = true};
    pass r = step(&n, &how, &small);
    for (size_t i = 0; i < r.ys; i++) assert_true(isfinite(r.y[i]));
    for (size_t i = 0; i < r.slab; i++) assert_true(isfinite(r.grads[i]));
    release(&r);
    kd_graph_free(n.g);
}

/* As many as p says, each of them a number of its own; what is left makes up for them. */
static void shares_are_dropped_by_chance(void **state)
{
    (void)state;
    const kd__mask m = {.counter = {0, 4, 7, 1},
                        .key = {3, 0},
                        .limit = (uint32_t)(0.3 * 4294967296.0),
                        .scale = 1 / 0.7f};
    const kd__head h = {.tokens = 50, .drop = &m};
    double sum = 0;
    size_t dropped = 0, alike = 0;
    float before[4] = {0};
    for (size_t row = 0; row < 400; row++)
        for (size_t t = 0; t < 48; t += 4) {
            float four[4];
            kd__mask_shares(four, &h, row, t);
            alike += !memcmp(four, before, sizeof four);
            memcpy(before, four, sizeof four);
            for (int k = 0; k < 4; k++) sum += (double)four[k], dropped += four[k] == 0;
        }
    assert_float_equal((double)dropped / (400 * 48), 0.3, 0.01);
    assert_float_equal(sum / (400 * 48), 1, 0.015);
    assert_in_range(alike, 1, 400 * 12 / 5); // (0.3^2 + 0.7^2)^4 = 0.11 of them by chance
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backward_is_the_slope_of_forward),
        cmocka_unit_test(backward_of_the_twins_is_the_slope_of_forward),
        cmocka_unit_test(fast_ops_equal_their_twins),
        cmocka_unit_test(products_of_bf16_operands_equal_their_twins),
        cmocka_unit_test(shares_are_dropped_by_chance),
        cmocka_unit_test(the_bits_depend_neither_on_threads_nor_on_the_plan),
        cmocka_unit_test(a_sequence_does_not_see_its_neighbours),
        cmocka_unit_test(nothing_is_left_of_the_batch_before),
        cmocka_unit_test(batches_that_do_not_fit_are_refused),
        cmocka_unit_test(graphs_that_make_no_sense_are_refused),
        cmocka_unit_test(gelu_is_exact_for_all_numbers),
        cmocka_unit_test(scores_far_apart_stay_finite),
    };
    return cmocka_run_group_tests_name("tokens", tests, NULL, NULL);
}
