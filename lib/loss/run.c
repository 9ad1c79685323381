/* run.c - the mix of a batch, over a fixed grid of row blocks.
 *
 * A block is 16 rows, whatever the number of threads; a block's sum is made by one thread and kept
 * in double beside the others, and whoever wants the value adds the blocks in order. So value and
 * gradient have the same bits for any team. The pragmas are orphaned: inside the trainer's region the
 * team shares the blocks, in serial code they are plain loops.
 *
 * Mixes of ce and forward sparse_kl over many classes are vocab.c's. Else the fused kernel writes the
 * gradient of the logits, or it is cleared; the other terms add to it, one after the other, each behind the
 * barrier that ends a worksharing loop.
 */
#include "loss_private.h"

#include <assert.h>
#include <omp.h>
#include <string.h>

const kd__loss_vec *kd__loss_vec_of(kd_isa isa)
{
    return isa >= KD_ISA_AVX512 ? &kd__loss_vec_avx512
           : isa >= KD_ISA_AVX2 ? &kd__loss_vec_avx2
                                : &kd__loss_vec_scalar;
}

bool kd__counts(const kd__view *v, int64_t row)
{
    return !v->mask || !v->labels || (v->labels[row] >= 0 && v->labels[row] < v->classes);
}

static int64_t top_class(const kd__term *t, const kd__view *v, int64_t row)
{
    int64_t top = -1;
    float most = 0;
    if (v->sparse) {
        for (uint64_t e = v->sparse->offset[row]; e < v->sparse->offset[row + 1]; e++)
            if (top < 0 || v->sparse->value[e] > most) top = v->sparse->id[e], most = v->sparse->value[e];
        return top;
    }
    for (int64_t c = 0; c < t->m; c++)
        if (top < 0 || v->t[row * t->m + c] > most) top = c, most = v->t[row * t->m + c];
    return top;
}

double kd__row_weight(const kd__term *t, const kd__view *v, int64_t row)
{
    return t->k.wrong == 1 || v->labels[row] == top_class(t, v, row) ? 1 : t->k.wrong;
}

/* Of the whole batch. */
static int64_t labelled_rows(const kd_loss_batch *b)
{
    if (b->of) return b->of;
    int64_t valid = b->labels ? 0 : b->rows;
    for (int64_t r = 0; b->labels && r < b->rows; r++)
        valid += b->labels[r] >= 0 && b->labels[r] < b->classes;
    return valid;
}

kd__view kd__view_of(const kd_loss *l, int i, const kd_loss_batch *b)
{
    const kd__term *t = &l->term[i];
    static const kd_loss_input none;
    const kd_loss_input *in = b->inputs ? &b->inputs[i] : &none;
    bool feature = t->o->pub.needs & KD_NEEDS_NODE;
    return (kd__view){.rows = b->rows,
                      .valid = feature ? b->rows : labelled_rows(b),
                      .s = in->student || feature ? in->student : b->logits,
                      .t = in->teacher || feature ? in->teacher : b->teacher,
                      .ds = in->student || feature ? in->dstudent : b->dlogits,
                      .dt = in->dteacher,
                      .labels = b->labels,
                      .others = b->other_labels,
                      .shares = b->shares,
                      .lengths = b->lengths,
                      .sparse = in->sparse,
                      .samples = b->samples,
                      .groups = b->groups,
                      .texts = b->texts,
                      .step = b->step,
                      .classes = b->classes,
                      .mask = !feature};
}

/* ---- ce and kd in one pass ---------------------------------------------------------------- */

static kd__softmax_mix resolve(const kd__term *ce, const kd__term *kd, int64_t classes, int64_t valid)
{
    kd__softmax_mix m = {.classes = classes, .kd = kd, .ce = ce, .inv_t = 1};
    int64_t n = valid ? valid : 1;
    if (kd) {
        m.inv_t = (float)(1 / kd->T);
        m.kl = kd__is(kd->k.kl_form, "cross_entropy") ? 0 : 1;
        m.grad_kd = (float)(kd->weight * kd->o->factor(kd, n) / kd->T);
    }
    if (ce) {
        m.grad_ce = (float)(ce->weight / (double)n);
        m.smooth = (float)ce->k.label_smoothing;
    }
    return m;
}

/* The second label of rows first to end: what the kernel has done for the first one alone is moved to both.
 */
static double mix_labels(const kd__softmax_mix *m, const kd_loss_batch *b, int64_t first, int64_t end)
{
    const int64_t C = b->classes;
    double sum = 0;
    for (int64_t r = first; r < end; r++) {
        const int32_t y = b->labels[r], o = b->other_labels[r];
        const float *z = b->logits + r * C, part = (1 - b->shares[r]) * (1 - m->smooth);
        if (y < 0 || y >= C || o < 0 || o >= C) continue;
        sum += (double)part * ((double)z[y] - (double)z[o]);
        if (!b->dlogits) continue;
        b->dlogits[r * C + y] += part * m->grad_ce;
        b->dlogits[r * C + o] -= part * m->grad_ce;
    }
    return sum;
}

static void run_fused(kd_loss *l, const kd_loss_batch *b)
{
    const int64_t R = KD__LOSS_ROWS, C = b->classes, blocks = (b->rows + R - 1) / R;
    kd__term *ce = l->ce && l->ce->weight > 0 ? l->ce : NULL, *kd = l->kd && l->kd->weight > 0 ? l->kd : NULL;
    const float *teacher = kd ? kd__view_of(l, (int)(kd - l->term), b).t : NULL;
    assert((teacher || !kd) && (b->labels || !ce));
    int64_t valid = labelled_rows(b); // each thread counts for itself: cheaper than a barrier
    kd__softmax_mix m = resolve(ce, kd, C, valid);
#pragma omp single nowait
    {
        if (l->ce) l->ce->parts = ce && valid ? blocks : 0, l->ce->factor = 1.0 / (double)(valid ? valid : 1);
        if (l->kd)
            l->kd->parts = kd && valid ? blocks : 0,
            l->kd->factor = kd ? kd->o->factor(kd, valid ? valid : 1) : 0;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        int64_t r = i * R;
        double sum[2];
        l->vec->block(&m, b->logits + r * C, kd ? teacher + r * C : NULL, b->labels ? b->labels + r : NULL,
                      (int)(b->rows - r < R ? b->rows - r : R), b->dlogits ? b->dlogits + r * C : NULL, sum);
        if (ce && b->other_labels) sum[0] += mix_labels(&m, b, r, b->rows - r < R ? b->rows : r + R);
        if (ce) ce->partial[i] = sum[0];
        if (kd) kd->partial[i] = sum[1];
    }
}

/* ---- any other term ----------------------------------------------------------------------- */

/* One row of a term. Returns its value; adds c * gradient to ds. */
static double run_row(const kd__term *t, const kd__view *v, int64_t r, double c, double *scratch)
{
    const bool two = v->others && v->others[r] >= 0 && v->others[r] < t->n;
    kd__row x = {.n = t->n,
                 .m = t->m,
                 .s = v->s + r * t->n,
                 .t = v->t ? v->t + r * t->m : NULL,
                 .label = v->labels ? v->labels[r] : -1,
                 .other = two ? v->others[r] : -1,
                 .share = two ? v->shares[r] : 1,
                 .length = v->lengths ? v->lengths[r] : -1,
                 .index = r,
                 .sparse = v->sparse,
                 .grad = v->ds ? scratch + t->scratch : NULL,
                 .scratch = scratch};
    if (x.grad) memset(x.grad, 0, (size_t)t->n * sizeof(double));
    double weight = kd__row_weight(t, v, r), value = weight * t->o->row(t, &x);
    c *= weight;
    for (int64_t i = 0; x.grad && i < t->n; i++) v->ds[r * t->n + i] += (float)(c * x.grad[i]);
    return value;
}

static void run_rows(kd__term *t, const kd__view *v)
{
    const int64_t R = KD__LOSS_ROWS, blocks = (v->rows + R - 1) / R;
    const double factor = t->o->factor(t, v->valid ? v->valid : 1);
    double *scratch = t->thread_scratch + (size_t)omp_get_thread_num() * t->scratch_step;
    assert(omp_get_thread_num() < t->threads);
#pragma omp single nowait
    {
        t->parts = v->valid ? blocks : 0;
        t->factor = factor;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < blocks; i++) {
        double sum = 0;
        for (int64_t r = i * R; r < v->rows && r < (i + 1) * R; r++)
            if (kd__counts(v, r)) sum += run_row(t, v, r, t->weight * factor, scratch);
        t->partial[i] = sum;
    }
}

/* ---- the mix ------------------------------------------------------------------------------ */

static void clear(float *x, int64_t rows, int64_t n)
{
    const int64_t R = KD__LOSS_ROWS;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r += R)
        memset(x + r * n, 0, (size_t)((rows - r < R ? rows - r : R) * n) * sizeof(float));
}

/* Gradients that terms add to: each once, whichever terms share it. */
static void clear_inputs(const kd_loss *l, const kd_loss_batch *b)
{
    for (int i = 0; b->inputs && i < l->terms; i++) {
        bool seen = b->inputs[i].dstudent == b->dlogits; // a tap of the logits: done already
        for (int j = 0; j < i; j++) seen |= b->inputs[j].dstudent == b->inputs[i].dstudent;
        if (b->inputs[i].dstudent && !seen) clear(b->inputs[i].dstudent, b->rows, l->term[i].n);
        if (b->inputs[i].dteacher) clear(b->inputs[i].dteacher, b->rows, l->term[i].m);
    }
}

void kd_loss_run(kd_loss *l, const kd_loss_batch *b)
{
    if (l->vocab && !b->other_labels) {
        kd__vocab_run(l, b, labelled_rows(b));
        return;
    }
    bool fused = (l->ce && l->ce->weight > 0) || (l->kd && l->kd->weight > 0);
    if (fused)
        run_fused(l, b);
    else if (b->dlogits)
        clear(b->dlogits, b->rows, b->classes);
    clear_inputs(l, b);
    for (int i = 0; i < l->terms; i++) {
        kd__term *t = &l->term[i];
        if (t->fused && fused) continue;
        kd__view v = kd__view_of(l, i, b);
        assert(b->rows <= t->max_rows);
        if (!v.ds &&
            ((t->o->pub.needs & KD_NEEDS_NODE && !v.s) || (t->o->pub.needs & KD_NEEDS_FEATURES && !v.t)))
            v.rows = v.valid = 0;
        if (t->weight > 0 && t->nprefixes && v.valid)
            kd__prefixes_run(t, &v);
        else if (t->weight > 0 && t->o->run && v.valid)
            t->o->run(t, &v);
        else if (t->weight > 0 && v.valid)
            run_rows(t, &v);
        else {
#pragma omp single
            t->parts = 0;
        }
    }
}

void kd_log_softmax(float *out, const float *logits, int64_t rows, int64_t classes, float temperature)
{
    const int64_t R = KD__LOSS_ROWS;
    const kd__loss_vec *vec = kd__loss_vec_of(kd_cpu_isa());
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r += R)
        vec->log_softmax(out + r * classes, logits + r * classes, (int)(rows - r < R ? rows - r : R), classes,
                         1.0f / temperature);
}
