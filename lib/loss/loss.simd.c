/* loss.simd.c - softmax objectives of a block of rows: value and gradient in one pass, per ISA.
 *
 * Everything works on tiles of n x 16 floats. For few classes (the usual image student has 10) the 16
 * lanes are 16 rows: the block is transposed into the tile, so that the vectors are full and no sum
 * runs across lanes. For many classes the lanes are 16 neighbouring classes of one row. Between the
 * two only loading and storing differ; maximum, exponentials, sums and gradient are the same code:
 *
 *     load z, t -> maxima -> exponentials and their sums -> normalise -> gradient -> store
 *
 * The exponentials of a row stay in the tile between sum and gradient; rows longer than the tile make
 * them a second time, tile by tile, so memory does not grow with the classes. The student's
 * exponentials at T and at 1 are one and the same when T is 1.
 * Sums over lanes are taken in a fixed order, in double.
 */
#include "loss_simd.h"

enum { TILE = 64, NARROW = TILE, SPAN = TILE * LANES };

typedef struct tile {
    _Alignas(64) lanes s[TILE]; /* student logits, then exp at T */
    _Alignas(64) lanes t[TILE]; /* teacher logits, then exp at T */
    _Alignas(64) lanes e[TILE]; /* exp of the student at 1 */
} tile;
typedef struct lane_sums {
    _Alignas(64) lanes max_s, max_t; /* maxima, subtracted from logits */
    _Alignas(64) lanes qT, pT, q1;   /* sums of exponentials: student at T, teacher at T, student at 1 */
    _Alignas(64) lanes d;            /* sum of exp_t * (log exp_t - log exp_s) */
} lane_sums;

/* ---- loading and storing ------------------------------------------------------------------ */

/* Rows to lanes: to[c][r] = x[r][c]; lanes without a row are 0. x: (rows, n) */
INLINE void load_rows(lanes *to, const float *x, int rows, int n)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < n; c++) to[c][r] = x[r * n + c];
    for (int r = rows; r < LANES; r++)
        for (int c = 0; c < n; c++) to[c][r] = 0;
}

INLINE void store_rows(float *x, const lanes *from, int rows, int n)
{
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < n; c++) x[r * n + c] = from[c][r];
}

/* count <= SPAN classes of one row; the rest of the last vector is `fill`. Returns the vectors. */
INLINE int load_span(lanes *to, const float *x, int count, float fill)
{
    int n = (count + LANES - 1) / LANES;
    memcpy(to, x, (size_t)count * sizeof *x);
    for (int i = count; i < n * LANES; i++) (&to[0][0])[i] = fill;
    return n;
}

/* ---- the steps on a tile ------------------------------------------------------------------ */

/* kd, ce, unit (T is 1) are constants where this is inlined. */
INLINE void exponentials(tile *restrict w, int n, lane_sums *restrict a, const kd__softmax_mix *m,
                         const bool kd, const bool ce, const bool unit)
{
    const float inv_t = m->inv_t, kl = m->kl;
    for (int i = 0; i < n; i++)
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            float x = w->s[i][j] - a->max_s[j];
            float same = 0;
            if (kd) {
                float xs = x * inv_t, xt = (w->t[i][j] - a->max_t[j]) * inv_t;
                float es = exp_of(xs), et = exp_of(xt);
                a->qT[j] += es;
                a->pT[j] += et;
                a->d[j] += et * (xt * kl - xs);
                w->s[i][j] = same = es;
                w->t[i][j] = et;
            }
            if (ce) {
                float e1 = kd && unit ? same : exp_of(x);
                a->q1[j] += e1;
                w->e[i][j] = e1;
            }
        }
}

/* w->s becomes the gradient without the part of the label: kq (es - ratio et) + k1 e1 - off, per lane.
 * In this form equal students and teachers give an exact 0, with fused multiply-add too. */
INLINE void gradient(tile *restrict w, int n, const lane_sums *k, float off, const bool kd, const bool ce)
{
    for (int i = 0; i < n; i++)
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            float g = -off;
            if (kd) g += k->qT[j] * (w->s[i][j] - k->pT[j] * w->t[i][j]);
            if (ce) g += k->q1[j] * w->e[i][j];
            w->s[i][j] = g;
        }
}

/* Per lane: CE needs the label's logit besides; KL is whole. Sums become the gradient's factors. */
typedef struct lane_values {
    _Alignas(64) double log_q1[LANES], kl[LANES];
} lane_values;

INLINE void finish(lane_values *restrict v, lane_sums *restrict a, const kd__softmax_mix *m, const bool kd,
                   const bool ce)
{
#pragma omp simd
    for (int j = 0; j < LANES; j++) {
        if (kd) {
            double q = a->qT[j], p = a->pT[j];
            v->kl[j] = a->d[j] / p + log_of(q) - m->kl * log_of(p);
            a->pT[j] = a->qT[j] / a->pT[j];
            a->qT[j] = m->grad_kd / a->qT[j];
        }
        if (ce) {
            v->log_q1[j] = log_of(a->q1[j]);
            a->q1[j] = m->grad_ce / a->q1[j];
        }
    }
}

/* -sum_c target_c log softmax_c of one row with label y: log sum - (1 - e)(z_y - max) - e mean(z - max) */
INLINE double row_ce(const kd__softmax_mix *m, const float *z, int32_t y, double max, double log_sum)
{
    double v = log_sum - (1 - (double)m->smooth) * (z[y] - max);
    if (m->smooth > 0) {
        double sum = 0;
        for (int64_t c = 0; c < m->classes; c++) sum += z[c];
        v -= m->smooth * (sum / (double)m->classes - max);
    }
    return v;
}

INLINE bool counts(const int32_t *y, int r, int64_t classes) { return !y || (y[r] >= 0 && y[r] < classes); }

/* ---- few classes: lanes are rows ---------------------------------------------------------- */

INLINE void narrow(const kd__softmax_mix *m, const float *z, const float *t, const int32_t *y, int rows,
                   float *dz, double sum[2], const bool kd, const bool ce, const bool unit)
{
    const int n = (int)m->classes;
    tile w;
    lane_sums a = {0};
    lane_values v;
    load_rows(w.s, z, rows, n);
    spread(a.max_s, -INFINITY);
    maxima(a.max_s, w.s, n);
    if (kd) {
        load_rows(w.t, t, rows, n);
        spread(a.max_t, -INFINITY);
        maxima(a.max_t, w.t, n);
    }
    exponentials(&w, n, &a, m, kd, ce, unit);
    finish(&v, &a, m, kd, ce);
    sum[0] = sum[1] = 0;
    for (int r = 0; r < rows; r++) {
        if (!counts(y, r, n)) continue;
        if (ce) sum[0] += row_ce(m, z + r * n, y[r], a.max_s[r], v.log_q1[r]);
        if (kd) sum[1] += v.kl[r];
    }
    if (!dz) return;
    gradient(&w, n, &a, ce ? m->grad_ce * m->smooth / (float)n : 0, kd, ce);
    store_rows(dz, (const lanes *)w.s, rows, n);
    for (int r = 0; r < rows; r++) {
        if (!counts(y, r, n))
            memset(dz + r * n, 0, (size_t)n * sizeof *dz);
        else if (ce)
            dz[r * n + y[r]] -= m->grad_ce * (1 - m->smooth);
    }
}

/* ---- many classes: lanes are neighbouring classes of one row ------------------------------- */

/* The lanes' sum in all lanes. */
INLINE void fold(float *x)
{
    double s = 0;
    for (int j = 0; j < LANES; j++) s += x[j];
    spread(x, (float)s);
}

INLINE int load_pair(tile *w, const float *z, const float *t, int64_t at, int64_t classes, const lane_sums *a,
                     const bool kd, int *count)
{
    *count = (int)(classes - at < SPAN ? classes - at : SPAN);
    int n = load_span(w->s, z + at, *count, a->max_s[0] - 1e30f); // exp 0, finite
    if (kd) load_span(w->t, t + at, *count, a->max_t[0] - 1e30f);
    return n;
}

INLINE void wide_row(const kd__softmax_mix *m, const float *z, const float *t, const int32_t *y, float *dz,
                     double sum[2], const bool kd, const bool ce, const bool unit)
{
    const int64_t C = m->classes;
    tile w;
    lane_sums a = {0}, unused;
    lane_values v;
    int n = 0, count = 0;
    spread(a.max_s, row_max(z, C));
    if (kd) spread(a.max_t, row_max(t, C));
    for (int64_t at = 0; at < C; at += SPAN) {
        n = load_pair(&w, z, t, at, C, &a, kd, &count);
        exponentials(&w, n, &a, m, kd, ce, unit);
    }
    fold(a.qT);
    fold(a.pT);
    fold(a.q1);
    fold(a.d);
    finish(&v, &a, m, kd, ce);
    if (ce) sum[0] += row_ce(m, z, *y, a.max_s[0], v.log_q1[0]);
    if (kd) sum[1] += v.kl[0];
    for (int64_t at = 0; dz && at < C; at += SPAN) {
        if (C > SPAN) { // the tile was overwritten: once more
            n = load_pair(&w, z, t, at, C, &a, kd, &count);
            unused = a;
            exponentials(&w, n, &unused, m, kd, ce, unit);
        }
        gradient(&w, n, &a, ce ? m->grad_ce * m->smooth / (float)C : 0, kd, ce);
        memcpy(dz + at, w.s, (size_t)count * sizeof *dz);
    }
    if (dz && ce) dz[*y] -= m->grad_ce * (1 - m->smooth);
}

INLINE void wide(const kd__softmax_mix *m, const float *z, const float *t, const int32_t *y, int rows,
                 float *dz, double sum[2], const bool kd, const bool ce, const bool unit)
{
    const int64_t C = m->classes;
    sum[0] = sum[1] = 0;
    for (int r = 0; r < rows; r++) {
        float *dr = dz ? dz + r * C : NULL;
        if (counts(y, r, C))
            wide_row(m, z + r * C, kd ? t + r * C : NULL, y ? y + r : NULL, dr, sum, kd, ce, unit);
        else if (dr)
            memset(dr, 0, (size_t)C * sizeof *dr);
    }
}

/* ---- the table ----------------------------------------------------------------------------- */

#define VARIANT(name, kd, ce, unit)                                                                          \
    static __attribute__((noinline)) void name(const kd__softmax_mix *m, const float *z, const float *t,     \
                                               const int32_t *y, int rows, float *dz, double sum[2])         \
    {                                                                                                        \
        if (m->classes <= NARROW)                                                                            \
            narrow(m, z, t, y, rows, dz, sum, kd, ce, unit);                                                 \
        else                                                                                                 \
            wide(m, z, t, y, rows, dz, sum, kd, ce, unit);                                                   \
    }
VARIANT(block_both, true, true, false)
VARIANT(block_both_t1, true, true, true)
VARIANT(block_kd, true, false, false)
VARIANT(block_ce, false, true, false)

static void block(const kd__softmax_mix *m, const float *z, const float *t, const int32_t *y, int rows,
                  float *dz, double sum[2])
{
    if (m->kd && m->ce)
        (m->inv_t == 1.0f ? block_both_t1 : block_both)(m, z, t, y, rows, dz, sum);
    else
        (m->kd ? block_kd : block_ce)(m, z, t, y, rows, dz, sum);
}

static void log_softmax_narrow(float *out, const float *z, int rows, int n, float inv_t)
{
    _Alignas(64) lanes x[NARROW], max;
    _Alignas(64) double sum[LANES] = {0};
    load_rows(x, z, rows, n);
    spread(max, -INFINITY);
    maxima(max, (const lanes *)x, n);
    for (int i = 0; i < n; i++)
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            x[i][j] = (x[i][j] - max[j]) * inv_t;
            sum[j] += exp_of(x[i][j]);
        }
#pragma omp simd
    for (int j = 0; j < LANES; j++) sum[j] = log_of(sum[j]);
    for (int i = 0; i < n; i++)
#pragma omp simd
        for (int j = 0; j < LANES; j++) x[i][j] = (float)(x[i][j] - sum[j]);
    store_rows(out, (const lanes *)x, rows, n);
}

static void log_softmax_wide(float *out, const float *z, int64_t classes, float inv_t)
{
    _Alignas(64) lanes sum = {0};
    const float max = row_max(z, classes);
    int64_t c = 0;
    for (; c + LANES <= classes; c += LANES)
#pragma omp simd
        for (int j = 0; j < LANES; j++) sum[j] += exp_of((z[c + j] - max) * inv_t);
    double total = 0;
    for (int j = 0; j < LANES; j++) total += sum[j];
    for (; c < classes; c++) total += exp_of((z[c] - max) * inv_t);
    const double log_total = log_of(total);
#pragma omp simd
    for (int64_t i = 0; i < classes; i++) out[i] = (float)((double)((z[i] - max) * inv_t) - log_total);
}

static void log_softmax(float *out, const float *z, int rows, int64_t classes, float inv_t)
{
    if (classes <= NARROW)
        log_softmax_narrow(out, z, rows, (int)classes, inv_t);
    else
        for (int r = 0; r < rows; r++) log_softmax_wide(out + r * classes, z + r * classes, classes, inv_t);
}

static void exp_all(float *y, const float *x, size_t n)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) y[i] = exp_of(x[i]);
}

/* exp of x <= 0 in double, error below 2e-16: as exp_of, with Taylor's series to r^13 (|r| <= ln 2 / 2). */
INLINE double exp_double(double x)
{
    const double lo = -708;
    double y = x < lo ? lo : x;                             // keeps NaN
    double k = y * 1.4426950408889634 + 6755399441055744.0; // 1.5 * 2^52: rounds, n in the low bits
    double n = k - 6755399441055744.0;
    double r = y - n * 6.93147180369123816490e-01;
    r = r - n * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800;
    p = p * r + 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 1.0 / 2;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t kb, pb;
    memcpy(&kb, &k, 8);
    memcpy(&pb, &p, 8);
    pb += kb << 52;
    memcpy(&p, &pb, 8);
    return x < lo ? 0.0 : y != y ? y : p;
}

static void softmax(double *restrict logq, double *restrict q, const float *z, int64_t n, double inv_t)
{
    _Alignas(64) double sum[LANES] = {0};
    const double max = row_max(z, n);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int j = 0; j < LANES; j++) {
            logq[i + j] = (z[i + j] - max) * inv_t;
            sum[j] += exp_double(logq[i + j]);
        }
    const int rest = (int)(n - i);
#pragma omp simd
    for (int j = 0; j < rest; j++) {
        logq[i + j] = (z[i + j] - max) * inv_t;
        sum[j] += exp_double(logq[i + j]);
    }
    double total = 0;
    for (int j = 0; j < LANES; j++) total += sum[j];
    const double log_total = log_of(total);
#pragma omp simd
    for (int64_t k = 0; k < n; k++) logq[k] -= log_total;
    if (!q) return;
#pragma omp simd
    for (int64_t k = 0; k < n; k++) q[k] = exp_double(logq[k]);
}

static double log_sum(const double *x, int64_t n)
{
    _Alignas(64) double sum[LANES] = {0};
    double max = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < n; i += LANES) {
        const int rest = (int)(n - i < LANES ? n - i : LANES);
#pragma omp simd
        for (int j = 0; j < rest; j++) sum[j] += exp_double(x[i + j] - max);
    }
    for (int j = 0; j < LANES; j++) total += sum[j];
    return max + log_of(total);
}

static void exp64(double *y, const double *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = exp_double(x[i]);
}

static void log64(double *y, const double *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = log_of(x[i]);
}

/* Cosines at i between j and every k, of student and teacher: cos = (g_jk - g_ij - g_ik + g_ii) inv_ij
 * inv_ik. Writes share * slope of smooth L1 times inv_ij inv_ik to m (added); sums: of the value, of those,
 * of slopes * cosines. */
static void angles(const kd__angle *s, const kd__angle *t, double share, double *restrict m, int64_t n,
                   double sums[3])
{
    _Alignas(64) double value[LANES] = {0}, along[LANES] = {0}, cosines[LANES] = {0};
    for (int64_t k = 0; k < n; k += LANES) {
        const int rest = (int)(n - k < LANES ? n - k : LANES);
#pragma omp simd
        for (int j = 0; j < rest; j++) {
            double cs = (s->gj[k + j] - s->gij - s->gi[k + j] + s->gii) * s->ij * s->inv[k + j];
            double ct = (t->gj[k + j] - t->gij - t->gi[k + j] + t->gii) * t->ij * t->inv[k + j];
            double e = cs - ct, size = e < 0 ? -e : e, c = share * (e < -1 ? -1 : e > 1 ? 1 : e);
            double both = c * s->ij * s->inv[k + j];
            value[j] += share * (size < 1 ? 0.5 * e * e : size - 0.5);
            m[k + j] += both;
            along[j] += both;
            cosines[j] += c * cs;
        }
    }
    for (int j = 0; j < LANES; j++) sums[0] += value[j], sums[1] += along[j], sums[2] += cosines[j];
}

static double dot(const float *a, const float *b, int64_t n)
{
    _Alignas(64) double sum[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
#pragma omp simd
        for (int j = 0; j < LANES; j++) sum[j] += (double)a[i + j] * (double)b[i + j];
    for (int j = 0; i + j < n; j++) sum[j] += (double)a[i + j] * (double)b[i + j];
    double total = 0;
    for (int j = 0; j < LANES; j++) total += sum[j];
    return total;
}

static void add(double *restrict y, const float *x, double c, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] += c * (double)x[i];
}

const kd__loss_vec FN(kd__loss_vec) = {block, log_softmax, exp_all, softmax, log_sum,
                                       exp64, log64,       dot,     add,     angles};
