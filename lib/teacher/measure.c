/* measure.c - what an encoding keeps of a sample of logits, in numbers.
 *
 * Dense encodings give every class back: their error is the divergence KL(p || q) of the teacher's softmax p
 * from that of the decoded values q. Sparse ones that keep the head give log-probabilities of some classes
 * and the mass of the rest: the rest counts as one class on both sides, which is a lower bound of the full
 * divergence and exactly what a loss on such targets can see. Sampled ones give an unbiased estimate w of p,
 * so the divergence says nothing; their error is the variance, sum over classes of (w - p)^2 on average.
 */
#include "teacher_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TINY 1e-12 /* a probability that is as good as 0 */

typedef struct sums {
    double kl1, kl4, tail, variance;
    uint64_t top1, positions;
    bool has_kl1, has_kl4, has_variance;
} sums;

struct kd__measure {
    char encoding[sizeof((kd_plan_entry *)0)->encoding];
    kd__target target;
    bool opened; /* has learned its codebook */
    kd__encoder encoder;
    kd_sparse sparse;
    float *decoded; /* (most, classes) */
    double *p;      /* (classes) */
    int level, threads;
    double bytes, encode, decode;
    sums sum;
};
typedef struct kd__measure measure;

static size_t largest(const float *x, size_t n)
{
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    return top;
}

/* p (n) = softmax(z / T); returns ln sum exp(z / T). */
static double softmax(double *p, const float *z, size_t n, double temperature)
{
    const double max = z[largest(z, n)] / temperature;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += p[i] = exp(z[i] / temperature - max);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
    return max + log(sum);
}

static double log_sum(const float *z, size_t n, double temperature)
{
    const double max = z[largest(z, n)] / temperature;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp(z[i] / temperature - max);
    return max + log(sum);
}

static double dense_kl(double *p, const float *z, const float *q, size_t n, double temperature)
{
    const double a = softmax(p, z, n, temperature), b = log_sum(q, n, temperature);
    double kl = 0;
    for (size_t i = 0; i < n; i++) kl += p[i] * (((double)z[i] - (double)q[i]) / temperature - a + b);
    return kl;
}

static void add_dense(measure *m, const float *z, const float *q, size_t n)
{
    m->sum.kl1 += dense_kl(m->p, z, q, n, 1);
    m->sum.kl4 += dense_kl(m->p, z, q, n, 4);
    m->sum.top1 += largest(z, n) == largest(q, n);
}

/* Position k of a sparse block whose values are log-probabilities; t: place of T in its list. What is decoded
 * is rounded, so it is made to add up to 1 first. */
static double head_kl(double *p, const kd_sparse *s, size_t k, const float *z, size_t n, int t)
{
    const double T = s->temperature[t];
    const size_t listed = k * (size_t)s->temperatures + (size_t)t;
    double kept = 0, kl = 0, max = -INFINITY, total = fmax(s->tail[listed], TINY);
    softmax(p, z, n, T);
    for (uint64_t i = s->offset[k]; i < s->offset[k + 1]; i++) max = fmax(max, s->value[i]);
    for (uint64_t i = s->offset[k]; i < s->offset[k + 1]; i++) {
        const double q = (s->value[i] - max) / T - s->logz[listed], here = p[s->id[i]];
        kept += here;
        total += exp(q);
        if (here > 0) kl += here * (log(here) - q);
    }
    const double rest = 1 - kept;
    if (rest > TINY) kl += rest * log(rest / fmax(s->tail[listed], TINY));
    return kl + log(total);
}

static void add_sparse(measure *m, size_t k, const float *z, size_t n, bool head, double temperature)
{
    const kd_sparse *s = &m->sparse;
    const uint64_t from = s->offset[k], to = s->offset[k + 1];
    double kept = 0, top = -INFINITY;
    uint32_t best = UINT32_MAX;
    softmax(m->p, z, n, 1);
    for (uint64_t i = from; i < to; i++) {
        kept += m->p[s->id[i]];
        if (s->value[i] > top) top = s->value[i], best = s->id[i];
    }
    m->sum.tail += 1 - kept;
    m->sum.top1 += best == largest(z, n);
    for (int t = 0; head && t < s->temperatures; t++) {
        if (s->temperature[t] == 1) m->sum.kl1 += head_kl(m->p, s, k, z, n, t), m->sum.has_kl1 = true;
        if (s->temperature[t] == 4) m->sum.kl4 += head_kl(m->p, s, k, z, n, t), m->sum.has_kl4 = true;
    }
    if (head) return;
    double square = 0;
    softmax(m->p, z, n, temperature);
    for (size_t i = 0; i < n; i++) square += m->p[i] * m->p[i];
    for (uint64_t i = from; i < to; i++) {
        const double p = m->p[s->id[i]], w = s->value[i];
        square += (w - p) * (w - p) - p * p;
    }
    m->sum.variance += square;
    m->sum.has_variance = true;
}

/* Decodes a block of rows and adds what it kept. */
static kd_status add_block(measure *m, const kd_block *b, const float *z, size_t rows, kd_err *err)
{
    const kd__target *g = &m->target;
    const kd_codec_info *info = g->codec ? kd_codec_describe(g->codec) : NULL;
    const double start = kd_now();
    kd_status st = !info          ? kd_to_f32(m->decoded, b->data, g->column.dtype, rows * g->size)
                   : info->sparse ? kd_codec_sparse(g->codec, b->data, b->bytes, rows, &m->sparse, err)
                                  : kd_codec_decode(g->codec, b->data, b->bytes, rows, m->decoded, err);
    m->decode += kd_now() - start;
    const json_t *t = info ? json_object_get(kd_codec_params(g->codec), "temperature") : NULL;
    const double temperature = t ? json_number_value(t) : 1;
    for (size_t k = 0; k < rows && !st; k++) {
        if (info && info->sparse)
            add_sparse(m, k, z + k * g->size, g->size, info->serves & KD_SERVES_HEAD, temperature);
        else
            add_dense(m, z + k * g->size, m->decoded + k * g->size, g->size);
    }
    m->sum.positions += rows;
    return st;
}

kd_status kd__measure_open(kd__measure **out, const char *encoding, int64_t classes, size_t most, int level,
                           int threads, kd_err *err)
{
    const kd_dtype dtype = kd_dtype_parse(encoding);
    measure *m = *out = calloc(1, sizeof *m);
    size_t count;
    if (!m) return kd_fail(err, KD_ENOMEM, "no memory to measure %s", encoding);
    if (strlen(encoding) >= sizeof m->encoding)
        return kd_fail(err, KD_EUSAGE, "encoding '%.80s...': longer than %zu", encoding,
                       sizeof m->encoding - 1);
    memcpy(m->encoding, encoding, strlen(encoding) + 1);
    m->level = level, m->threads = threads;
    m->target.column = (kd_column){.name = "logits",
                                   .role = KD_ROLE_LOGITS,
                                   .dtype = kd_dtype_is_float(dtype) ? dtype : KD_F32,
                                   .ndims = 1,
                                   .dims = {classes}};
    m->p = malloc((size_t)classes * sizeof *m->p);
    if (kd_mul_size(most, (size_t)classes, &count)) m->decoded = kd_alloc_aligned(count, sizeof(float));
    if (!m->p || !m->decoded) return kd_fail(err, KD_ENOMEM, "no memory to measure %s", encoding);
    return kd__target_make(&m->target, KD__LOGITS, kd_dtype_is_float(dtype) ? NULL : encoding, NULL, err);
}

kd_status kd__measure_add(kd__measure *m, const float *z, uint32_t n, const kd_id *ids, kd_err *err)
{
    kd_block block;
    size_t packed = 0;
    kd_status st = m->opened ? KD_OK : kd__target_open(&m->target, z, n, err);
    m->opened = true;
    if (st) return st;
    const double start = kd_now();
    st = kd__encode(&m->encoder, &m->target, z, ids, NULL, n, m->threads, "the sample", m->sum.positions,
                    &block, err);
    if (!st) st = kd_block_packed_bytes(&m->target.column, n, &block, m->level, &packed, err);
    m->encode += kd_now() - start;
    m->bytes += (double)packed;
    return st ? st : add_block(m, &block, z, n, err);
}

void kd__measure_end(const kd__measure *m, kd_plan_entry *e)
{
    const kd_codec_info *info = m->target.codec ? kd_codec_describe(m->target.codec) : NULL;
    const double n = (double)m->sum.positions;
    *e = (kd_plan_entry){.serves = info ? info->serves : KD_SERVES_VALUES | KD_SERVES_SOFTMAX,
                         .sparse = info && info->sparse,
                         .row_bytes = m->bytes / n,
                         .top1 = (double)m->sum.top1 / n,
                         .tail = m->sum.tail / n,
                         .variance = m->sum.has_variance ? m->sum.variance / n : NAN,
                         .encode_s = m->encode / n,
                         .decode_s = m->decode / n};
    memcpy(e->encoding, m->encoding, sizeof e->encoding);
    e->kl1 = e->sparse && !m->sum.has_kl1 ? NAN : m->sum.kl1 / n;
    e->kl4 = e->sparse && !m->sum.has_kl4 ? NAN : m->sum.kl4 / n;
}

void kd__measure_free(kd__measure *m)
{
    if (!m) return;
    kd__target_release(&m->target);
    kd__encoder_release(&m->encoder);
    kd_sparse_release(&m->sparse);
    free(m->decoded);
    free(m->p);
    free(m);
}

kd_status kd_plan_measure(kd_plan_entry *e, const char *encoding, const float *logits, uint64_t rows,
                          int64_t classes, const kd_id *ids, uint32_t chunk_rows, int level, int threads,
                          kd_err *err)
{
    kd__measure *m;
    const size_t most = kd_min_size((size_t)rows, chunk_rows);
    if (!most) return kd_fail(err, KD_EUSAGE, "no rows to measure %s on", encoding);
    kd_status st = kd__measure_open(&m, encoding, classes, most, level, threads, err);
    for (size_t at = 0; at < rows && !st; at += most)
        st = kd__measure_add(m, logits + at * (size_t)classes, (uint32_t)kd_min_size((size_t)rows - at, most),
                             ids ? ids + at : NULL, err);
    if (!st) kd__measure_end(m, e);
    kd__measure_free(m);
    return st;
}
