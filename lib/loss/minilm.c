/* minilm.c - relations between the queries, keys and values of attention.
 *
 *     R_mn = softmax(X_m X_n^T / sqrt(d_r)) per relation head, X_1 queries, X_2 keys, X_3 values
 *     value  1/B sum_b sum_mn w_mn / (A L_b) sum KL(R_mn of teacher || R_mn of student)
 *
 * Wang et al. 2021 (MiniLMv2); pairs 1-1 2-2 3-3. MiniLM (2020) takes 1-2 3-3. Both models
 * are split into A relation heads by contiguous slices, so their widths may differ; d_r is each model's own.
 * A row is a sequence, (3, L, width); only its first L_b positions count, so padding must trail.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>

/* The next "m-n*w" of a list; false at its end. *wrong: it is none. */
static bool next_relation(const char **at, int *m, int *n, double *w, bool *wrong)
{
    int used = 0;
    *w = 1;
    while (**at == ' ') ++*at;
    if (!**at) return false;
    *wrong = sscanf(*at, "%1d-%1d%n", m, n, &used) != 2 || *m < 1 || *m > 3 || *n < 1 || *n > 3;
    if (*wrong) return false;
    *at += used;
    if (**at == '*') {
        char *end;
        *w = strtod(*at + 1, &end);
        *wrong = end == *at + 1 || !(*w >= 0);
        *at = end;
    }
    *wrong |= **at && **at != ' ';
    return !*wrong;
}

static kd_status check(kd__term *t, kd_err *err)
{
    const char *at = t->k.relations;
    int m, n, count = 0;
    double w;
    bool wrong = false;
    while (next_relation(&at, &m, &n, &w, &wrong)) count++;
    if (wrong || !count)
        return kd_fail(err, KD_EUSAGE,
                       "relations: '%.40s', expected pairs of 1 query, 2 key, 3 value with weights, such as "
                       "1-1 2-2*0.5 3-3",
                       t->k.relations);
    return KD_OK;
}

/* log softmax over L of x_i . y_j / sqrt(d) */
static void relation(double *out, const float *x, const float *y, int64_t L, int64_t stride, int64_t d)
{
    for (int64_t j = 0; j < L; j++) {
        double sum = 0;
        for (int64_t k = 0; k < d; k++) sum += (double)x[k] * y[j * stride + k];
        out[j] = sum / sqrt((double)d);
    }
    double z = kd__log_sum(out, L);
    for (int64_t j = 0; j < L; j++) out[j] -= z;
}

/* One pair m, n of one head; c: factor of its sum. */
static double pair(const kd__term *t, const kd__row *r, int m, int n, int64_t head, int64_t L, double c)
{
    int64_t all = t->student.dims[1], ws = t->student.dims[2], wt = t->teacher.dims[2], A = t->k.heads;
    int64_t ds = ws / A, dt = wt / A, xs = (m - 1) * all * ws + head * ds,
            ys = (n - 1) * all * ws + head * ds;
    const float *xt = r->t + (m - 1) * all * wt + head * dt, *yt = r->t + (n - 1) * all * wt + head * dt;
    double *logq = r->scratch, *logp = logq + all, value = 0;
    for (int64_t i = 0; i < L; i++) {
        relation(logq, r->s + xs + i * ws, r->s + ys, L, ws, ds);
        relation(logp, xt + i * wt, yt, L, wt, dt);
        for (int64_t j = 0; j < L; j++) {
            double p = exp(logp[j]), slope = c * (exp(logq[j]) - p) / sqrt((double)ds);
            if (p > 0) value += c * p * (logp[j] - logq[j]);
            for (int64_t k = 0; r->grad && k < ds; k++) {
                r->grad[xs + i * ws + k] += slope * r->s[ys + j * ws + k];
                r->grad[ys + j * ws + k] += slope * r->s[xs + i * ws + k];
            }
        }
    }
    return value;
}

static double row(const kd__term *t, const kd__row *r)
{
    int64_t all = t->student.dims[1], L = r->length < 0 || r->length > all ? all : r->length;
    const char *at = t->k.relations;
    int m, n;
    double w, value = 0;
    bool wrong = false;
    while (L && next_relation(&at, &m, &n, &w, &wrong))
        for (int64_t head = 0; head < t->k.heads; head++)
            value += pair(t, r, m, n, head, L, w / (double)(t->k.heads * L));
    return value;
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)shared, (void)parts;
    const kd_loss_dims *a = &t->student, *b = &t->teacher;
    if (a->ndims != 3 || b->ndims != 3 || a->dims[0] != 3 || b->dims[0] != 3 || a->dims[1] != b->dims[1] ||
        a->dims[2] % t->k.heads || b->dims[2] % t->k.heads)
        return kd_fail(
            err, KD_EUSAGE,
            "queries, keys and values must have the shape (3, length, width) on both sides, of one "
            "length, and widths that %lld heads divide",
            (long long)t->k.heads);
    t->scratch = 2 * (size_t)a->dims[1];
    return KD_OK;
}

static double factor(const kd__term *t, int64_t valid)
{
    (void)t;
    return 1 / (double)valid;
}

static void describe(kd_buf *b, const kd__term *t)
{
    kd_buf_printf(b, "KL(R_t||R_s)/(B A L), A = %lld, pairs %s", (long long)t->k.heads, t->k.relations);
}

/* The definition, number by number. model 0: student, else teacher. */
static double naive_score(const kd__term *t, const kd__view *v, int64_t r, int model, int m, int n,
                          int64_t head, int64_t i, int64_t j)
{
    const kd_loss_dims *d = model ? &t->teacher : &t->student;
    int64_t L = d->dims[1], w = d->dims[2], each = w / t->k.heads;
    double sum = 0;
    for (int64_t k = head * each; k < (head + 1) * each; k++) {
        int64_t x = r * 3 * L * w + ((m - 1) * L + i) * w + k, y = r * 3 * L * w + ((n - 1) * L + j) * w + k;
        sum += model ? (double)v->t[x] * v->t[y] : kd__s(v, x) * kd__s(v, y);
    }
    return sum / sqrt((double)each);
}

static double naive_pair(const kd__term *t, const kd__view *v, int64_t r, int m, int n, int64_t head,
                         int64_t L)
{
    double value = 0;
    for (int64_t i = 0; i < L; i++) {
        double zs = 0, zt = 0;
        for (int64_t j = 0; j < L; j++) {
            zs += exp(naive_score(t, v, r, 0, m, n, head, i, j));
            zt += exp(naive_score(t, v, r, 1, m, n, head, i, j));
        }
        for (int64_t j = 0; j < L; j++) {
            double a = naive_score(t, v, r, 1, m, n, head, i, j) - log(zt);
            value += exp(a) * (a - naive_score(t, v, r, 0, m, n, head, i, j) + log(zs));
        }
    }
    return value / (double)(t->k.heads * L);
}

static double naive(const kd__term *t, const kd__view *v)
{
    double value = 0, w;
    for (int64_t r = 0; r < v->rows; r++) {
        int64_t L = v->lengths ? v->lengths[r] : t->student.dims[1];
        const char *at = t->k.relations;
        int m, n;
        bool wrong = false;
        while (L > 0 && next_relation(&at, &m, &n, &w, &wrong))
            for (int64_t head = 0; head < t->k.heads; head++) value += w * naive_pair(t, v, r, m, n, head, L);
    }
    return value / (double)v->valid;
}

const kd__objective kd__objective_minilm = {
    .pub = {.name = "minilm",
            .formula = "1/B sum_b sum_mn w/(A L) sum KL(R_t || R_s), R = softmax(X_m X_n^T/sqrt(d_r)) per "
                       "relation head",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,heads=12,relations=1-1 2-2 3-3",
            .source = "Wang et al. 2021 (MiniLMv2); minilmv2.bb minilmv2/minilmv2.py"},
    .check = check,
    .plan = plan,
    .row = row,
    .factor = factor,
    .describe = describe,
    .naive = naive,
};
