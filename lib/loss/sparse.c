/* sparse.c - sparse_kl, sparse_jsd, sparse_tvd: a teacher of which only some classes were kept.
 *
 * S: the K classes kept, p_i: their probabilities at T, r: what the others have. Six conventions are in use
 * for what becomes of r, and they are different objectives; `sparse` names one:
 *
 *     raw      p as stored against the full softmax q; nothing for the rest (can be negative)    Megatron-LM
 *     renorm   p / sum_S p against q                                  DistillKit "zero", FKD marginal_renorm
 *     bucket   S and one class for the rest, on both sides: r against r_s = sum of q outside S
 *                                                     Megatron-LM as called, DistillKit "symmetric_uniform"
 *     both     softmax over S on both sides                                          ModelOpt top-K
 *     uniform  p, and r / (C - K) for each class outside S, against q                 FKD, TinyViT
 *     sampled  weights whose expectation is p (counts / N), against q         RS-KD (Anshumann et al. 2025)
 *
 * Each is reduced to two short or full distributions, then the distance is that of divergence.c; the slopes h
 * come back to the classes they stand for. With all classes kept raw, renorm, bucket and both are dense KL.
 *
 * Temperature: log-probabilities at the temperature of the dump give p^(dump T / T) up to a normaliser.
 * renorm and both need none; for the others it is stored (logz), as is the tail mass of each listed T. `tail:
 * power` is DistillKit's rule instead, r^(dump T / T) with all scaled to 1: it takes the rest for one class,
 * so that student = teacher is not 0 away from the dump's T. Leftovers are at least eps, and below that their
 * slope is 0.
 */
#include "divergence.h"
#include "sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int listed(const kd_loss_sparse *s, double T)
{
    for (int i = 0; i < s->temperatures; i++)
        if (fabs(s->temperature[i] - T) <= 1e-6 * T) return i;
    return -1;
}

bool kd__sparse_by_power(const kd__term *t)
{
    return kd__is(t->k.sparse, "bucket") && kd__is(t->k.tail, "power");
}

kd__targets_of kd__sparse_teacher(const kd__term *t, const kd_loss_sparse *s, int64_t row, double *p,
                                  double *logp)
{
    uint64_t from = s->offset[row];
    kd__targets_of x = {(size_t)(s->offset[row + 1] - from), s->id + from, s->value + from, 0};
    bool sampled = kd__is(t->k.sparse, "sampled"),
         scaled = kd__is(t->k.sparse, "renorm") || kd__is(t->k.sparse, "both");
    double power = t->k.dump_temperature / t->T, sum = 0, max = -INFINITY;
    int at = power == 1 && !s->temperatures ? -1 : listed(s, t->T);
    for (size_t i = 0; i < x.n; i++) max = fmax(max, x.value[i]);
    for (size_t i = 0; i < x.n; i++) {
        if (sampled)
            logp[i] = x.value[i] > 0 ? log(x.value[i]) : -INFINITY;
        else if (at >= 0 && power != 1)
            logp[i] = (x.value[i] - max) / t->T - s->logz[row * s->temperatures + at];
        else
            logp[i] = power * x.value[i];
        sum += p[i] = exp(logp[i]);
    }
    x.rest = at >= 0 ? s->tail[row * s->temperatures + at] : 1 - sum;
    if (kd__sparse_by_power(t)) {
        double kept = 0;
        for (size_t i = 0; i < x.n; i++) kept += exp((double)x.value[i]);
        x.rest = pow(fmax(1 - kept, t->k.eps), power);
    }
    if (!x.n || (!scaled && !kd__sparse_by_power(t))) return x;
    double whole =
        scaled ? kd__log_sum(logp, (int64_t)x.n) : log(sum + x.rest); // its logarithm: p may be tiny
    for (size_t i = 0; i < x.n; i++) p[i] = exp(logp[i] -= whole);
    x.rest *= exp(-whole);
    return x;
}

/* ---- the three shapes of the problem ------------------------------------------------------ */

/* All classes: p is spread over them, the rest gets `filler` each. */
static double full(const kd__term *t, const kd__row *r, const kd__targets_of *x, const double *p,
                   kd__divergence *f, const double *logq, const double *q, double *work)
{
    int64_t C = r->n;
    double *dense = work, *log_dense = dense + C, *h = log_dense + C, filler = 0;
    if (kd__is(t->k.sparse, "uniform") && C > (int64_t)x->n) filler = x->rest / (double)(C - (int64_t)x->n);
    for (int64_t j = 0; j < C; j++) dense[j] = filler;
    for (size_t i = 0; i < x->n; i++) dense[x->id[i]] = p[i];
    for (int64_t j = 0; j < C; j++) log_dense[j] = dense[j] > 0 ? log(dense[j]) : -INFINITY;
    double value = f(t, C, dense, log_dense, q, logq, h);
    if (r->grad) kd__softmax_back(r->grad, h, q, C, 1 / t->T);
    return value;
}

/* S and one class for the rest. */
static double bucket(const kd__term *t, const kd__row *r, const kd__targets_of *x, double *p, double *logp,
                     kd__divergence *f, const double *logq, const double *q, double *work)
{
    size_t K = x->n, next = 0;
    double *qs = work, *log_qs = qs + K + 1, *h = log_qs + K + 1, rest = 0, eps = t->k.eps, all = 0;
    for (int64_t j = 0; j < r->n; j++) {
        if (next < K && x->id[next] == (uint32_t)j)
            next++;
        else
            rest += q[j];
    }
    for (size_t i = 0; i < K; i++) qs[i] = q[x->id[i]], log_qs[i] = logq[x->id[i]];
    p[K] = fmax(x->rest, kd__sparse_by_power(t) ? 0 : eps), logp[K] = log(p[K]);
    qs[K] = fmax(rest, eps), log_qs[K] = log(qs[K]);
    double value = f(t, (int64_t)K + 1, p, logp, qs, log_qs, h);
    if (!r->grad) return value;
    if (rest < eps) h[K] = 0; // held at eps
    for (size_t i = 0; i <= K; i++) all += h[i];
    double outside = h[K] / qs[K] - all;
    for (int64_t j = 0; j < r->n; j++) r->grad[j] += q[j] * outside / t->T;
    for (size_t i = 0; i < K; i++) r->grad[x->id[i]] += (h[i] - q[x->id[i]] * h[K] / qs[K]) / t->T;
    return value;
}

/* Softmax over S on both sides. */
static double both(const kd__term *t, const kd__row *r, const kd__targets_of *x, const double *p,
                   const double *logp, kd__divergence *f, double *work)
{
    size_t K = x->n;
    double *q = work, *logq = q + K + 1, *h = logq + K + 1, all = 0;
    if (!K) return 0;
    for (size_t i = 0; i < K; i++) logq[i] = r->s[x->id[i]] / t->T;
    double sum = kd__log_sum(logq, (int64_t)K);
    for (size_t i = 0; i < K; i++) logq[i] -= sum, q[i] = exp(logq[i]);
    double value = f(t, (int64_t)K, p, logp, q, logq, h);
    for (size_t i = 0; i < K; i++) all += h[i];
    for (size_t i = 0; i < K && r->grad; i++) r->grad[x->id[i]] += (h[i] - q[i] * all) / t->T;
    return value;
}

static double row(const kd__term *t, const kd__row *r, kd__divergence *f)
{
    size_t n = (size_t)r->n + 1;
    double *p = r->scratch, *logp = p + n, *logq = logp + n, *q = logq + n, *work = q + n;
    kd__targets_of x = kd__sparse_teacher(t, r->sparse, r->index, p, logp);
    if (kd__is(t->k.sparse, "both")) return both(t, r, &x, p, logp, f, work);
    t->vec->softmax(logq, q, r->s, r->n, 1 / t->T);
    if (kd__is(t->k.sparse, "bucket")) return bucket(t, r, &x, p, logp, f, logq, q, work);
    return full(t, r, &x, p, f, logq, q, work);
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts;
    t->scratch = 7 * ((size_t)t->n + 1);
    bool needs_z = !kd__is(t->k.sparse, "renorm") && !kd__is(t->k.sparse, "both") && !kd__sparse_by_power(t);
    double ends[2] = {t->temperature_of.from, t->temperature_of.to};
    for (int i = 0; i < 2 && needs_z; i++) {
        kd_loss_sparse s = {.temperatures = t->ntemperatures, .temperature = t->temperatures};
        bool constant = t->temperature_of.shape == KD__CONSTANT;
        if (constant && (ends[i] == t->k.dump_temperature ||
                         (!kd__is(t->k.sparse, "sampled") && listed(&s, ends[i]) >= 0)))
            continue;
        return kd_fail(
            err, KD_EUSAGE,
            "sparse: %s needs the teacher's normaliser at T = %g, which is not stored; take the dump's "
            "T (%g), dump with temperatures=%g, or use sparse: renorm",
            t->k.sparse, ends[i], t->k.dump_temperature, ends[i]);
    }
    return KD_OK;
}

/* Whether KL(q || p) is asked for where p has zeros. */
static kd_status check_zeros(const kd__term *t, bool reverse, const char *key, kd_err *err)
{
    if (!reverse || kd__is(t->k.sparse, "bucket") || kd__is(t->k.sparse, "both")) return KD_OK;
    return kd_fail(err, KD_EUSAGE,
                   "%s is infinite with sparse: %s, where the teacher has 0 outside the kept classes; use "
                   "sparse: bucket "
                   "or both",
                   key, t->k.sparse);
}

static kd_status check(kd__term *t, kd_err *err)
{
    return check_zeros(t, kd__is(t->k.direction, "reverse"), "direction: reverse", err);
}

static kd_status check_jsd(kd__term *t, kd_err *err)
{
    kd_status st = kd__check_beta(t, err);
    return st ? st : check_zeros(t, t->k.beta == 1, "beta: 1", err);
}

/* ---- twins -------------------------------------------------------------------------------- */

typedef double twin(const kd__term *t, int64_t n, const double *logp, const double *logq);

/* By the table above, one class after the other. */
static double naive_row(const kd__term *t, const kd__view *v, int64_t r, twin *f, double *logp, double *logq)
{
    const kd_loss_sparse *s = v->sparse;
    int64_t C = t->n;
    double *z = logq + C + 1, a = t->k.dump_temperature / t->T, kept = 0, rest, q_kept = 0, stored = 0;
    bool *in = calloc((size_t)C, 1);
    size_t K = s->offset[r + 1] - s->offset[r], n = 0;
    if (!in) return NAN;
    for (int64_t j = 0; j < C; j++) z[j] = kd__s(v, r * C + j), logp[j] = -INFINITY;
    kd__naive_softmax(logq, z, C, t->T);
    for (size_t i = 0; i < K; i++) {
        uint32_t j = s->id[s->offset[r] + i];
        double value = s->value[s->offset[r] + i], p = kd__is(t->k.sparse, "sampled") ? value : exp(value);
        in[j] = true;
        stored += p;
        logp[j] = a == 1 ? log(p) : a * value;
        for (int k = 0; k < s->temperatures; k++)
            if (a != 1 && s->temperature[k] == t->T) { // the largest class is kept: its logit is 0
                double top = -INFINITY;
                for (size_t m = 0; m < K; m++) top = fmax(top, s->value[s->offset[r] + m]);
                logp[j] = (value - top) / t->T - s->logz[r * s->temperatures + k];
            }
        kept += exp(logp[j]);
        q_kept += exp(logq[j]);
    }
    rest = kd__sparse_by_power(t) ? pow(fmax(1 - stored, t->k.eps), a) : 1 - kept;
    for (int k = 0; k < s->temperatures; k++)
        if (s->temperature[k] == t->T && !kd__sparse_by_power(t)) rest = s->tail[r * s->temperatures + k];
    bool renorm = kd__is(t->k.sparse, "renorm"), inside = kd__is(t->k.sparse, "both");
    double whole = renorm || inside ? kept : kd__sparse_by_power(t) ? kept + rest : 1;
    for (int64_t j = 0; j < C; j++) {
        if (in[j]) logp[j] -= log(whole);
        if (!in[j] && kd__is(t->k.sparse, "uniform")) logp[j] = log(rest / (double)(C - (int64_t)K));
        bool stays = in[j] || (!inside && !kd__is(t->k.sparse, "bucket"));
        if (stays) logp[n] = logp[j], logq[n++] = logq[j] - (inside ? log(q_kept) : 0);
    }
    if (kd__is(t->k.sparse, "bucket")) {
        logp[n] = log(fmax(rest / whole, kd__sparse_by_power(t) ? 0 : t->k.eps));
        logq[n++] = log(fmax(1 - q_kept, t->k.eps));
    }
    free(in);
    return f(t, (int64_t)n, logp, logq);
}

static double naive(const kd__term *t, const kd__view *v, twin *f)
{
    double sum = 0, *w = calloc((size_t)(3 * t->n + 3), sizeof *w);
    if (!w) return NAN;
    for (int64_t r = 0; r < v->rows; r++)
        if (kd__counts(v, r)) sum += kd__row_weight(t, v, r) * naive_row(t, v, r, f, w, w + t->n + 1);
    free(w);
    return sum * t->o->factor(t, v->valid);
}

/* ---- the objectives ----------------------------------------------------------------------- */

static double row_sparse_kl(const kd__term *t, const kd__row *r)
{
    return row(t, r, kd__is(t->k.direction, "reverse") ? kd__reverse_kl : kd__forward_kl);
}
static double row_sparse_jsd(const kd__term *t, const kd__row *r) { return row(t, r, kd__jsd); }
static double row_sparse_tvd(const kd__term *t, const kd__row *r) { return row(t, r, kd__tvd); }

static double naive_sparse_kl(const kd__term *t, const kd__view *v)
{
    return naive(t, v, kd__is(t->k.direction, "reverse") ? kd__naive_reverse_kl : kd__naive_forward_kl);
}
static double naive_sparse_jsd(const kd__term *t, const kd__view *v) { return naive(t, v, kd__naive_jsd); }
static double naive_sparse_tvd(const kd__term *t, const kd__view *v) { return naive(t, v, kd__naive_tvd); }

static void describe(kd_buf *b, const kd__term *t)
{
    static const char *const sides[][2] = {{"raw", "p, q"},
                                           {"renorm", "p/sum_S p, q"},
                                           {"bucket", "p and rest, q and rest"},
                                           {"both", "p/sum_S p, q/sum_S q"},
                                           {"uniform", "p and rest/(C-K), q"},
                                           {"sampled", "weights, q"}};
    const char *kl = kd__is(t->k.direction, "reverse")       ? "KL reverse"
                     : kd__is(t->k.kl_form, "cross_entropy") ? "H"
                                                             : "KL";
    const char *f = t->o == &kd__objective_sparse_kl ? kl : t->o == &kd__objective_sparse_jsd ? "JSD" : "TVD";
    char text[128];
    for (size_t i = 0; i < KD_COUNT(sides); i++)
        if (kd__is(t->k.sparse, sides[i][0]))
            snprintf(text, sizeof(text), "%s(%s%s)", f, sides[i][1],
                     kd__sparse_by_power(t) ? ", rest^(1/T)" : "");
    kd__describe_scale(b, t, text);
}

#define SPARSE(NAME, CHECK, FORMULA, KEYS, SOURCE)                                                           \
    const kd__objective kd__objective_##NAME = {                                                             \
        .pub = {.name = #NAME,                                                                               \
                .formula = FORMULA,                                                                          \
                .needs = KD_NEEDS_SPARSE,                                                                    \
                .serves = KD_LOSS_HEAD,                                                                      \
                .keys =                                                                                      \
                    "temperature=1,dump_temperature=1,t2=off,reduction=token,tail=stored,eps=1e-8," KEYS,    \
                .source = SOURCE},                                                                           \
        .check = CHECK,                                                                                      \
        .plan = plan,                                                                                        \
        .row = row_##NAME,                                                                                   \
        .factor = kd__class_scale,                                                                           \
        .describe = describe,                                                                                \
        .naive = naive_##NAME,                                                                               \
    };

SPARSE(sparse_kl, check, "1/B sum_b KL(p || q) by one of six conventions: key sparse",
       "sparse=bucket,kl_form=kl,direction=forward",
       "Anshumann et al. 2025 (RS-KD); Megatron-LM, DistillKit, ModelOpt, FKD, TinyViT by convention")
SPARSE(sparse_jsd, check_jsd,
       "1/B sum_b (beta KL(p || M) + (1-beta) KL(q || M)), M = beta p + (1-beta) q; key sparse",
       "sparse=bucket,beta=0.5", "Agarwal et al. 2024 (GKD); DistillKit lossfuncs/jsd.py")
SPARSE(sparse_tvd, NULL, "1/B sum_b 1/2 ||p - q||_1; key sparse", "sparse=bucket",
       "Wen et al. 2023 (f-DISTILL); DistillKit lossfuncs/tvd.py")
