/* dnnl.c - the only file that knows oneDNN: one kernel, planned for one thread, run by any thread.
 *
 * kd parallelises by itself: work is cut into a grid fixed by shapes, and each piece is computed
 * whole by one thread, so that the bits do not depend on the number of threads. oneDNN therefore
 * has to be talked out of its own threading. It takes the thread count when a primitive is made
 * and needs the same count when it runs; both happen here with the calling thread's OpenMP limit set
 * to one (and put back), which holds inside a parallel region, outside, and in a region of one
 * thread, where OpenMP says "not parallel".
 *
 * A primitive is shared by the team. What a thread needs of its own is made once per thread:
 * a stream, memory objects whose data handles are moved from piece to piece, and scratch. The
 * scratchpad mode is "user": in the default mode a primitive may only run on the thread that made
 * it (oneDNN issue 1385). The scratch belongs to the team and serves all primitives of an exec, so
 * it stays warm in the caches.
 *
 * Convolution is pinned to the direct algorithm: `auto` picks Winograd for 3x3 in f32, which is less
 * accurate. Weights may have an order of the library's choosing. Instead of calling the library's
 * reorder in every step, kd asks once where each number goes (kd__prim_weight_order) and copies by
 * itself, in parallel, and sums gradients in that order.
 *
 * Two C APIs: 2.x (Debian 12) fills operation descriptors and passes memory descriptors as
 * structs; 3.x (Debian 13) creates primitive descriptors at once and has opaque memory descriptors.
 * The section "two versions" hides that.
 */
#include "nn_private.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>
#include <oneapi/dnnl/dnnl_version.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- two versions ------------------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3

typedef dnnl_memory_desc_t md; /* owned */
typedef const_dnnl_memory_desc_t md_ref;
static md_ref md_of(const md *m) { return *m; }
static dnnl_status_t md_strided(md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t type,
                                const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(m, nd, dims, type, strides);
}
static dnnl_status_t md_tagged(md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t type,
                               dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_create_with_tag(m, nd, dims, type, tag);
}
static dnnl_status_t md_copy(md *m, md_ref from) { return dnnl_memory_desc_clone(m, from); }
static void md_release(md *m)
{
    if (*m) dnnl_memory_desc_destroy(*m);
}
static dnnl_status_t append_relu(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_eltwise(ops, dnnl_eltwise_relu, 0.0f, 0.0f);
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

#else

typedef dnnl_memory_desc_t md;
typedef const dnnl_memory_desc_t *md_ref;
static md_ref md_of(const md *m) { return m; }
static dnnl_status_t md_strided(md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t type,
                                const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(m, nd, dims, type, strides);
}
static dnnl_status_t md_tagged(md *m, int nd, const dnnl_dims_t dims, dnnl_data_type_t type,
                               dnnl_format_tag_t tag)
{
    return dnnl_memory_desc_init_by_tag(m, nd, dims, type, tag);
}
static dnnl_status_t md_copy(md *m, md_ref from)
{
    *m = *from;
    return dnnl_success;
}
static void md_release(md *m) { (void)m; }
static dnnl_status_t append_relu(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
}
static dnnl_status_t append_sum(dnnl_post_ops_t ops) { return dnnl_post_ops_append_sum(ops, 1.0f); }

#endif

/* The operands of a kernel, as kd__prim_run names them, and scratch. */
enum { A, B, C, BIAS, SCRATCH, OPERANDS };

/* op: descriptors of A, B, C and BIAS; NULL for no bias. */
static dnnl_status_t matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const md_ref op[OPERANDS],
                               dnnl_primitive_attr_t attr)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_matmul_primitive_desc_create(pd, engine, op[A], op[B], op[BIAS], op[C], attr);
#else
    dnnl_matmul_desc_t d;
    dnnl_status_t st = dnnl_matmul_desc_init(&d, op[A], op[B], op[BIAS], op[C]);
    return st ? st : dnnl_primitive_desc_create(pd, &d, attr, engine, NULL);
#endif
}

/* Forward: (x, w) -> y; data: (dy, w) -> dx; weights: (x, dy) -> dw. hint: forward's descriptor. */
static dnnl_status_t conv_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, kd__conv_pass pass,
                             const kd__conv_desc *c, const md_ref op[OPERANDS], dnnl_primitive_desc_t hint,
                             dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t stride = {c->stride, c->stride}, pad = {c->pad, c->pad};
    const dnnl_alg_kind_t alg = dnnl_convolution_direct;
    const dnnl_prop_kind_t prop = c->training ? dnnl_forward_training : dnnl_forward_inference;
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t none = {0, 0};
    if (pass == KD__CONV_FORWARD)
        return dnnl_convolution_forward_primitive_desc_create(pd, engine, prop, alg, op[A], op[B], op[BIAS],
                                                              op[C], stride, none, pad, pad, attr);
    if (pass == KD__CONV_DATA)
        return dnnl_convolution_backward_data_primitive_desc_create(pd, engine, alg, op[C], op[B], op[A],
                                                                    stride, none, pad, pad, hint, attr);
    return dnnl_convolution_backward_weights_primitive_desc_create(pd, engine, alg, op[A], op[C], NULL, op[B],
                                                                   stride, none, pad, pad, hint, attr);
#else
    dnnl_convolution_desc_t d;
    dnnl_status_t st;
    if (pass == KD__CONV_FORWARD)
        st = dnnl_convolution_forward_desc_init(&d, prop, alg, op[A], op[B], op[BIAS], op[C], stride, pad,
                                                pad);
    else if (pass == KD__CONV_DATA)
        st = dnnl_convolution_backward_data_desc_init(&d, alg, op[C], op[B], op[A], stride, pad, pad);
    else
        st =
            dnnl_convolution_backward_weights_desc_init(&d, alg, op[A], op[C], NULL, op[B], stride, pad, pad);
    return st ? st : dnnl_primitive_desc_create(pd, &d, attr, engine, hint);
#endif
}

/* ---- the engine --------------------------------------------------------------------------- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static dnnl_engine_t the_engine;
static dnnl_status_t engine_status;
static char the_name[64];

/* The library follows null pointers when it is refused memory for what it makes, or for machine code. */
static _Thread_local kd_guard library;
static void enter_library(void)
{
    kd_guard_enter(&library, "out of memory: oneDNN could not make a kernel", KD_ENOMEM);
}
static dnnl_status_t leave_library(dnnl_status_t st)
{
    kd_guard_leave(&library);
    return st;
}
#define IN_LIBRARY(call) (enter_library(), leave_library(call))

/* The instruction set is capped before oneDNN makes anything: afterwards it refuses. A build of
 * oneDNN without that feature (other CPUs) says "unimplemented" and keeps its own choice. */
static void init_engine(void)
{
    const kd_isa isa = kd_cpu_isa();
    static const dnnl_cpu_isa_t cap[] = {
        [KD_ISA_SCALAR] = dnnl_cpu_isa_sse41,        [KD_ISA_AVX2] = dnnl_cpu_isa_avx2,
        [KD_ISA_AVX512] = dnnl_cpu_isa_avx512_core,  [KD_ISA_AVX512BF16] = dnnl_cpu_isa_avx512_core_bf16,
        [KD_ISA_AMX] = dnnl_cpu_isa_avx512_core_amx,
    };
    const dnnl_version_t *v = dnnl_version();
    snprintf(the_name, sizeof the_name, "oneDNN %d.%d.%d, %s", v->major, v->minor, v->patch,
             kd_isa_name(isa));
    engine_status = dnnl_set_max_cpu_isa(cap[isa]);
    if (engine_status == dnnl_unimplemented) engine_status = dnnl_success;
    if (!engine_status) engine_status = IN_LIBRARY(dnnl_engine_create(&the_engine, dnnl_cpu, 0));
}

const char *kd__backend_name(void)
{
    pthread_once(&once, init_engine);
    return the_name;
}

static kd_status lib_fail(dnnl_status_t st, const char *what, kd_err *err)
{
    if (st == dnnl_out_of_memory) return kd_fail(err, KD_ENOMEM, "out of memory while making %s", what);
    return kd_fail(err, KD_EUNSUPPORTED, "%s cannot make %s (%s); try another KD_ISA, or other sizes",
                   the_name, what, dnnl_status2str(st));
}

static kd_status engine_open(kd_err *err)
{
    pthread_once(&once, init_engine);
    return engine_status ? lib_fail(engine_status, "an engine for this CPU", err) : KD_OK;
}

/* ---- the team ----------------------------------------------------------------------------- */

typedef struct lane { /* one thread's own */
    dnnl_stream_t stream;
    void *scratch;
    float *stage;
} lane;

struct kd__team {
    int threads;
    int each;                           /* threads that oneDNN may use in one kernel: 1, see kd__team_let */
    size_t scratch_bytes, stage_floats; /* of each lane */
    lane *lane;
};

int kd__team_index(void) { return omp_get_thread_num(); }

kd_status kd__team_create(kd__team **out, int threads, kd_err *err)
{
    kd_status st = engine_open(err);
    if (st) return st;
    kd__team *t = calloc(1, sizeof *t);
    if (t && (t->lane = calloc((size_t)threads, sizeof *t->lane)))
        t->threads = threads, t->each = 1;
    else {
        free(t);
        return kd_fail(err, KD_ENOMEM, "out of memory for a team of %d threads", threads);
    }
    for (int i = 0; i < threads; i++) {
        dnnl_status_t s =
            IN_LIBRARY(dnnl_stream_create(&t->lane[i].stream, the_engine, dnnl_stream_default_flags));
        if (s) {
            kd__team_free(t);
            return lib_fail(s, "a stream", err);
        }
    }
    *out = t;
    return KD_OK;
}

kd_status kd__exec_team(kd__team **out, kd_exec *ex, kd_err *err)
{
    kd_status st = ex->team ? KD_OK : kd__team_create(&ex->team, ex->p.threads, err);
    if (!st) *out = ex->team;
    return st;
}

void kd__team_let(kd__team *t, int threads) { t->each = threads; }

void kd__team_free(kd__team *t)
{
    for (int i = 0; t && i < t->threads; i++) {
        if (t->lane[i].stream) dnnl_stream_destroy(t->lane[i].stream);
        free(t->lane[i].scratch);
        free(t->lane[i].stage);
    }
    if (t) free(t->lane);
    free(t);
}

size_t kd__team_bytes(const kd__team *t)
{
    return t ? (size_t)t->threads * (t->scratch_bytes + t->stage_floats * sizeof(float)) : 0;
}

/* Replaces a buffer by a larger one; on failure the old one stays. */
static bool grow(void *buffer, size_t bytes)
{
    void **b = buffer, *larger = kd_alloc_aligned(bytes, 1);
    if (!larger) return false;
    free(*b);
    *b = larger;
    return true;
}

static kd_status reserve_scratch(kd__team *t, size_t bytes, kd_err *err)
{
    for (int i = 0; bytes > t->scratch_bytes && i < t->threads; i++)
        if (!grow(&t->lane[i].scratch, bytes))
            return kd_fail(err, KD_ENOMEM, "out of memory for %zu bytes of scratch a thread", bytes);
    t->scratch_bytes = kd_max_size(t->scratch_bytes, bytes);
    return KD_OK;
}

kd_status kd__team_reserve(kd__team *t, size_t stage_floats, kd_err *err)
{
    for (int i = 0; stage_floats > t->stage_floats && i < t->threads; i++)
        if (!grow(&t->lane[i].stage, stage_floats * sizeof(float)))
            return kd_fail(err, KD_ENOMEM, "out of memory for %zu floats of staging a thread", stage_floats);
    t->stage_floats = kd_max_size(t->stage_floats, stage_floats);
    return KD_OK;
}

float *kd__team_stage(const kd__team *t) { return t->lane[kd__team_index()].stage; }

/* ---- a primitive -------------------------------------------------------------------------- */

struct kd__prim {
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t prim;
    kd__team *team;
    dnnl_memory_t *mem;  /* (threads, OPERANDS); NULL where there is no operand */
    int arg[OPERANDS];   /* what oneDNN calls the operands */
    md op[BIAS + 1];     /* descriptors as asked for */
    md plain;            /* of a convolution's weights, as kd keeps them */
    int weights;         /* which operand the weights are; -1: a matrix product */
    bool has_bias, half; /* half: operands in bf16 */
    atomic_bool
        ran;       /* once at least: some kernels (AVX2's matrix product) are made when they are first used */
    char what[96]; /* for messages */
};

void kd__prim_free(kd__prim *p)
{
    if (!p) return;
    for (int i = 0; p->mem && i < p->team->threads * OPERANDS; i++)
        if (p->mem[i]) dnnl_memory_destroy(p->mem[i]);
    free(p->mem);
    if (p->prim) dnnl_primitive_destroy(p->prim);
    if (p->pd) dnnl_primitive_desc_destroy(p->pd);
    for (int i = 0; i <= BIAS; i++) md_release(&p->op[i]);
    md_release(&p->plain);
    free(p);
}

const char *kd__prim_name(const kd__prim *p)
{
    const char *name = NULL;
    dnnl_primitive_desc_query(p->pd, dnnl_query_impl_info_str, 0, &name);
    return name ? name : "unknown";
}

/* The library's choice for the weights of a convolution. */
static md_ref weights_md(const kd__prim *p)
{
    const dnnl_query_t q = p->weights == C ? dnnl_query_diff_weights_md : dnnl_query_weights_md;
    return dnnl_primitive_desc_query_md(p->pd, q, 0);
}

static void asked_for(const kd__prim *p, md_ref op[OPERANDS])
{
    for (int i = 0; i < OPERANDS; i++)
        op[i] = i == SCRATCH || (i == BIAS && !p->has_bias) ? NULL : md_of(&p->op[i]);
}

/* User scratchpad; accumulation or ReLU as post-operations. */
static dnnl_status_t make_attr(dnnl_primitive_attr_t *out, bool relu, bool accumulate)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t st = dnnl_primitive_attr_create(out);
    if (!st) st = dnnl_primitive_attr_set_scratchpad_mode(*out, dnnl_scratchpad_mode_user);
    if (!st && (relu || accumulate) && !(st = dnnl_post_ops_create(&ops))) {
        if (accumulate) st = append_sum(ops);
        if (!st && relu) st = append_relu(ops);
        if (!st) st = dnnl_primitive_attr_set_post_ops(*out, ops);
        dnnl_post_ops_destroy(ops);
    }
    return st;
}

/* Memory objects for every thread; each run sets their handles. */
static dnnl_status_t make_memory(kd__prim *p, const md_ref op[OPERANDS])
{
    const int n = p->team->threads;
    if (!(p->mem = calloc((size_t)n * OPERANDS, sizeof *p->mem))) return dnnl_out_of_memory;
    for (int i = 0; i < n * OPERANDS; i++) {
        if (!op[i % OPERANDS]) continue;
        dnnl_status_t st =
            IN_LIBRARY(dnnl_memory_create(&p->mem[i], op[i % OPERANDS], the_engine, DNNL_MEMORY_NONE));
        if (st) return st;
    }
    return dnnl_success;
}

/* From p->pd to something that runs. */
static kd_status make_runnable(kd__prim *p, kd_err *err)
{
    md_ref op[OPERANDS];
    asked_for(p, op);
    if (p->weights >= 0) op[p->weights] = weights_md(p);
    op[SCRATCH] = dnnl_primitive_desc_query_md(p->pd, dnnl_query_scratchpad_md, 0);
    const size_t scratch = op[SCRATCH] ? dnnl_memory_desc_get_size(op[SCRATCH]) : 0;
    dnnl_status_t st = IN_LIBRARY(dnnl_primitive_create(&p->prim, p->pd));
    if (!st) st = make_memory(p, op);
    return st ? lib_fail(st, p->what, err) : reserve_scratch(p->team, scratch, err);
}

/* ---- matrix products ---------------------------------------------------------------------- */

static dnnl_data_type_t type_of(kd__operands o) { return kd__is_bf16(o) ? dnnl_bf16 : dnnl_f32; }

/* A matrix (rows, cols), stored row-major or transposed. */
static dnnl_status_t matrix(md *m, int64_t rows, int64_t cols, kd__operands form, int64_t ld, bool transposed)
{
    const dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return md_strided(m, 2, dims, type_of(form), strides);
}

static dnnl_status_t matmul_describe(kd__prim *p, const kd__gemm_desc *d)
{
    static const int arg[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS,
                                      DNNL_ARG_SCRATCHPAD};
    memcpy(p->arg, arg, sizeof arg);
    dnnl_status_t st = matrix(&p->op[A], d->m, d->k, d->operands, d->lda, d->ta);
    if (!st) st = matrix(&p->op[B], d->k, d->n, d->operands, d->ldb, d->tb);
    if (!st) st = matrix(&p->op[C], d->m, d->n, KD__F32, d->ldc, false);
    if (!st && d->bias) st = matrix(&p->op[BIAS], 1, d->n, KD__F32, d->n, false);
    return st;
}

kd_status kd__prim_matmul(kd__prim **out, const kd__gemm_desc *d, kd__team *team, kd_err *err)
{
    kd__prim *p = calloc(1, sizeof *p);
    if (!p) return kd_fail(err, KD_ENOMEM, "out of memory for a matrix product");
    p->team = team;
    p->weights = -1;
    p->has_bias = d->bias;
    snprintf(p->what, sizeof p->what, "a matrix product of %lld x %lld x %lld", (long long)d->m,
             (long long)d->n, (long long)d->k);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(team->each);
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = matmul_describe(p, d);
    if (!s) s = IN_LIBRARY(make_attr(&attr, d->relu, d->accumulate));
    md_ref op[OPERANDS];
    asked_for(p, op);
    if (!s) s = IN_LIBRARY(matmul_pd(&p->pd, the_engine, op, attr));
    kd_status st = s ? lib_fail(s, p->what, err) : make_runnable(p, err);
    if (attr) dnnl_primitive_attr_destroy(attr);
    omp_set_num_threads(threads);
    if (st)
        kd__prim_free(p);
    else
        *out = p;
    return st;
}

/* ---- convolutions ------------------------------------------------------------------------- */

static dnnl_status_t conv_weights(md *m, const kd__conv_desc *d, kd__operands form, bool plain)
{
    const int64_t g = d->groups;
    const dnnl_dims_t whole = {d->out, d->c, d->k, d->k}, grouped = {g, d->out / g, d->c / g, d->k, d->k};
    dnnl_format_tag_t tag = !plain ? dnnl_format_tag_any : g > 1 ? dnnl_goihw : dnnl_oihw;
    return md_tagged(m, g > 1 ? 5 : 4, g > 1 ? grouped : whole, type_of(form), tag);
}

static dnnl_status_t conv_describe(kd__prim *p, kd__conv_pass pass, const kd__conv_desc *d, int64_t images,
                                   const kd__prim *same_order)
{
    static const int arg[3][OPERANDS] = {
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD},
        {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_SCRATCHPAD},
    };
    static const int x_is[] = {A, C, A}, w_is[] = {B, B, C}, y_is[] = {C, A, B};
    memcpy(p->arg, arg[pass], sizeof p->arg);
    p->weights = w_is[pass];
    const dnnl_dims_t x = {images, d->c, d->h, d->w}, y = {images, d->out, d->out_h, d->out_w}, b = {d->out};
    kd__operands form[BIAS] = {[A] = d->operands, [B] = d->operands, [C] = KD__F32};
    dnnl_status_t st = md_tagged(&p->op[x_is[pass]], 4, x, type_of(form[x_is[pass]]), dnnl_nhwc);
    if (!st) st = md_tagged(&p->op[y_is[pass]], 4, y, type_of(form[y_is[pass]]), dnnl_nhwc);
    if (!st && p->has_bias) st = md_tagged(&p->op[BIAS], 1, b, dnnl_f32, dnnl_a);
    if (!st) st = conv_weights(&p->plain, d, KD__F32, true);
    if (!st)
        st = same_order ? md_copy(&p->op[p->weights], weights_md(same_order))
                        : conv_weights(&p->op[p->weights], d, form[p->weights], false);
    return st;
}

/* Backward's descriptor wants a forward one as a hint: the same shapes, weights in any order. */
static dnnl_status_t conv_hint(dnnl_primitive_desc_t *pd, const kd__conv_desc *d, int64_t images)
{
    const dnnl_dims_t x = {images, d->c, d->h, d->w}, y = {images, d->out, d->out_h, d->out_w};
    md op[BIAS];
    memset(op, 0, sizeof op);
    dnnl_status_t st = md_tagged(&op[A], 4, x, type_of(d->operands), dnnl_nhwc);
    if (!st) st = conv_weights(&op[B], d, d->operands, false);
    if (!st) st = md_tagged(&op[C], 4, y, dnnl_f32, dnnl_nhwc);
    const md_ref ref[OPERANDS] = {[A] = md_of(&op[A]), [B] = md_of(&op[B]), [C] = md_of(&op[C])};
    if (!st) st = IN_LIBRARY(conv_pd(pd, the_engine, KD__CONV_FORWARD, d, ref, NULL, NULL));
    for (int i = 0; i < BIAS; i++) md_release(&op[i]);
    return st;
}

kd_status kd__prim_conv(kd__prim **out, kd__conv_pass pass, const kd__conv_desc *d, int64_t images,
                        const kd__prim *same_order, kd__team *team, kd_err *err)
{
    static const char *const name[] = {"forward", "backward to data", "backward to weights"};
    kd__prim *p = calloc(1, sizeof *p);
    if (!p) return kd_fail(err, KD_ENOMEM, "out of memory for a convolution");
    p->team = team;
    p->has_bias = pass == KD__CONV_FORWARD && d->bias;
    p->half = kd__is_bf16(d->operands);
    snprintf(p->what, sizeof p->what, "a %dx%d convolution (%s) of %lld to %lld channels", d->k, d->k,
             name[pass], (long long)d->c, (long long)d->out);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(team->each);
    dnnl_primitive_desc_t hint = NULL;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_status_t s = conv_describe(p, pass, d, images, same_order);
    if (!s && pass != KD__CONV_FORWARD) s = conv_hint(&hint, d, images);
    if (!s) s = make_attr(&attr, pass == KD__CONV_FORWARD && d->relu, false);
    md_ref op[OPERANDS];
    asked_for(p, op);
    if (!s) s = IN_LIBRARY(conv_pd(&p->pd, the_engine, pass, d, op, hint, attr));
    kd_status st = s ? lib_fail(s, p->what, err) : make_runnable(p, err);
    if (attr) dnnl_primitive_attr_destroy(attr);
    if (hint) dnnl_primitive_desc_destroy(hint);
    omp_set_num_threads(threads);
    if (st)
        kd__prim_free(p);
    else
        *out = p;
    return st;
}

/* ---- the order of weights ----------------------------------------------------------------- */

/* Lets the library reorder `from` (f32) into `to`, once, while planning. */
static dnnl_status_t reorder(const kd__prim *p, float *from, void *to)
{
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t prim = NULL;
    dnnl_memory_t src = NULL, dst = NULL;
    const dnnl_stream_t stream = p->team->lane[0].stream;
    const int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_status_t st = IN_LIBRARY(dnnl_reorder_primitive_desc_create(&pd, md_of(&p->plain), the_engine,
                                                                     weights_md(p), the_engine, NULL));
    if (!st) st = IN_LIBRARY(dnnl_primitive_create(&prim, pd));
    if (!st) st = IN_LIBRARY(dnnl_memory_create(&src, md_of(&p->plain), the_engine, from));
    if (!st) st = IN_LIBRARY(dnnl_memory_create(&dst, weights_md(p), the_engine, to));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
    if (!st) st = IN_LIBRARY(dnnl_primitive_execute(prim, stream, 2, args));
    if (!st) st = dnnl_stream_wait(stream);
    omp_set_num_threads(threads);
    if (src) dnnl_memory_destroy(src);
    if (dst) dnnl_memory_destroy(dst);
    if (prim) dnnl_primitive_destroy(prim);
    if (pd) dnnl_primitive_desc_destroy(pd);
    return st;
}

/* Numbers travel in bf16 at worst, which holds 0 to 255: one digit after the other. */
enum { DIGITS = 3, BASE = 256 };

static float number_at(const void *to, size_t i, bool half)
{
    float v;
    if (half)
        kd_to_f32(&v, (const uint16_t *)to + i, KD_BF16, 1);
    else
        v = ((const float *)to)[i];
    return v;
}

kd_status kd__prim_weight_order(const kd__prim *p, uint32_t **out, size_t *count, kd_err *err)
{
    const bool half = p->half && p->weights == B;
    const size_t plain = dnnl_memory_desc_get_size(md_of(&p->plain)) / sizeof(float);
    const size_t n = dnnl_memory_desc_get_size(weights_md(p)) / (half ? sizeof(uint16_t) : sizeof(float));
    if (plain >= 1u << 24)
        return kd_fail(err, KD_EUNSUPPORTED, "%s has %zu weights; at most %u are possible", p->what, plain,
                       (1u << 24) - 1);
    float *from = kd_alloc_aligned(plain, sizeof *from), *to = kd_alloc_aligned(n, sizeof *to);
    uint32_t *order = calloc(n, sizeof *order);
    dnnl_status_t st = from && to && order ? dnnl_success : dnnl_out_of_memory;
    for (int d = 0, shift = 0; !st && d < DIGITS; d++, shift += 8) {
        for (size_t i = 0; i < plain; i++) from[i] = (float)((i + 1) >> shift & (BASE - 1));
        st = reorder(p, from, to);
        for (size_t i = 0; !st && i < n; i++) order[i] |= (uint32_t)number_at(to, i, half) << shift;
    }
    free(from);
    free(to);
    if (st) {
        free(order);
        return lib_fail(st, p->what, err);
    }
    *out = order;
    *count = n;
    return KD_OK;
}

/* ---- running ------------------------------------------------------------------------------ */

void kd__prim_run(const kd__prim *p, const void *a, const void *b, const float *bias, float *c)
{
    const int t = kd__team_index();
    assert(t < p->team->threads);
    const lane *l = &p->team->lane[t];
    dnnl_memory_t *mem = p->mem + t * OPERANDS;
    const void *const data[OPERANDS] = {a, b, c, bias, l->scratch};
    dnnl_exec_arg_t args[OPERANDS];
    dnnl_status_t st = dnnl_success;
    int n = 0;
    for (int i = 0; i < OPERANDS; i++) {
        if (!mem[i]) continue;
        if (!st) st = dnnl_memory_set_data_handle(mem[i], (void *)(uintptr_t)data[i]);
        args[n++] = (dnnl_exec_arg_t){p->arg[i], mem[i]};
    }
    const int threads = omp_get_max_threads();
    if (threads != p->team->each) omp_set_num_threads(p->team->each);
    const bool first = !atomic_load_explicit(&p->ran, memory_order_relaxed);
    if (first) enter_library();
    if (!st) st = dnnl_primitive_execute(p->prim, l->stream, n, args);
    if (first) {
        leave_library(st);
        atomic_store_explicit(&((kd__prim *)(uintptr_t)p)->ran, true, memory_order_relaxed);
    }
    if (threads != p->team->each) omp_set_num_threads(threads);
    if (st) c[0] = NAN;
}
