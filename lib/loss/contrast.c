/* contrast.c - contrastive, contrastive_kl, contrastive_margin: a query among the candidates of its batch.
 *
 * Vectors of a row stand together: a query x, its answer c_0, negatives c_1 ... that were mined for it
 * (kd_loss_shape.columns of them). Candidates of a query are all answers and negatives of the batch, or those
 * of its own row (candidates: own). s_ij = cos(x_i, c_j), or the inner product (normalize: off); B queries.
 *
 *     contrastive         -1/B sum_i log softmax_j(s_i / T) at i's answer       van den Oord et al. 2018
 *     contrastive_kl      1/B sum_i KL(softmax_j(t_i / T_t) || softmax_j(s_i / T))
 *     contrastive_margin  1/B sum_i mean_j ((s_i+ - s_ij) - (t_i+ - t_ij))^2, j: candidates but the answer
 *
 * symmetric: the mean of this and the same with the roles of queries and answers exchanged, an answer among
 * the queries of the batch (negatives take no part there).
 *
 * A candidate that is right by chance is no negative: of contrastive it is left out where it is of the
 * query's group or has the text of the query's answer (kd_loss_batch.groups, texts); positives: group
 * counts those of the group as right instead, each with an equal share (Khosla et al. 2020, L_out). The other
 * two need no such rule: the teacher says what each candidate is worth.
 *
 * Matrices are (B, candidates) in double; a row of one is made by one thread, and so is the gradient of a
 * vector, so the bits do not depend on the team. A zero vector has no direction: score and slope are 0.
 */
#include "loss_private.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

/* The work of a batch, laid out in t->shared. s, t: scores; d, e: slopes of the value in s, by queries and
 * by answers; is, it: inverse lengths. */
typedef struct pairs {
    int64_t queries, candidates, columns;
    double *s, *t, *d, *e, *is, *it;
} pairs;

/* Scores of one query (or answer) and what they should be. */
typedef struct list {
    int64_t n, right; /* candidates; the own one */
    const double *s, *t;
    const double *target; /* contrastive: share of each candidate; negative: left out */
    double *slope;        /* receives d value / d s */
    double *work;         /* (4 n) */
} list;

typedef double list_value(const kd__term *t, const list *x);

static pairs pairs_of(const kd__term *t, int64_t rows)
{
    const int64_t G = t->columns, B = rows / G, most = t->max_rows / G, square = most * most * (G - 1);
    double *at = t->shared;
    return (pairs){.queries = B,
                   .candidates = B * (G - 1),
                   .columns = G,
                   .s = at,
                   .t = at + square,
                   .d = at + 2 * square,
                   .e = at + 3 * square,
                   .is = at + 4 * square,
                   .it = at + 4 * square + t->max_rows};
}

static kd_status plan(kd__term *t, size_t *shared, size_t *parts, kd_err *err)
{
    (void)parts;
    if (t->columns < 2)
        return kd_fail(err, KD_EUSAGE,
                       "%lld text a row, expected a query and its answer: it compares the texts of pairs "
                       "(docs/losses.md)",
                       (long long)t->columns);
    const size_t rows = (size_t)t->max_rows, most = rows / (size_t)t->columns;
    *shared = 4 * most * most * (size_t)(t->columns - 1) + 2 * rows + 1;
    t->scratch = 6 * most * (size_t)(t->columns - 1) + (size_t)t->n;
    return KD_OK;
}

/* Row of the batch that holds candidate j. */
static int64_t place(const pairs *p, int64_t j)
{
    return j / (p->columns - 1) * p->columns + 1 + j % (p->columns - 1);
}
static int64_t answer(const pairs *p, int64_t i) { return i * (p->columns - 1); }

/* ---- which candidates count ---------------------------------------------------------------- */

static bool own_only(const kd__term *t) { return kd__is(t->k.candidates, "own"); }

static bool same_group(const kd__view *v, int64_t a, int64_t b)
{
    return v->groups && v->groups[a] >= 0 && v->groups[a] == v->groups[b];
}

static bool same_text(const kd__view *v, int64_t a, int64_t b)
{
    return v->texts && v->texts[a] == v->texts[b];
}

/* What query i should say to candidate j: 1 yes, 0 no, -1 nothing, it is right by chance. */
static double share_of(const kd__term *t, const kd__view *v, const pairs *p, int64_t i, int64_t j)
{
    const int64_t query = i * p->columns, right = place(p, answer(p, i)), other = place(p, j);
    const bool is_answer = other % p->columns == 1, group = same_group(v, query, other),
               text = same_text(v, right, other) || (is_answer && same_text(v, query, other - 1));
    if (other == right) return 1;
    if (group && !text && kd__is(t->k.positives, "group")) return 1;
    return group || text ? -1 : 0;
}

/* target (n): what query i should say to candidates first ..., or answer i to all queries; scaled to sum 1.
 */
static void targets(const kd__term *t, const kd__view *v, const pairs *p, int64_t i, bool by_answer,
                    int64_t first, int64_t n, double *target)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++) {
        target[k] = share_of(t, v, p, i, by_answer ? answer(p, k) : first + k);
        if (target[k] > 0) sum += target[k];
    }
    for (int64_t k = 0; k < n; k++)
        if (target[k] > 0) target[k] /= sum;
}

/* ---- the three values of a list ------------------------------------------------------------ */

static double teacher_T(const kd__term *t)
{
    return t->k.teacher_temperature > 0 ? t->k.teacher_temperature : t->T;
}

/* logp = log softmax(x / T) over the candidates that target does not leave out; those get -INFINITY. */
static void log_softmax(const kd__term *t, double *logp, const double *x, const double *target, int64_t n,
                        double T)
{
    for (int64_t j = 0; j < n; j++) logp[j] = target && target[j] < 0 ? -INFINITY : x[j] / T;
    const double z = t->vec->log_sum(logp, n);
    for (int64_t j = 0; j < n; j++) logp[j] -= z;
}

static double value_ce(const kd__term *t, const list *x)
{
    double *logq = x->work, value = 0;
    log_softmax(t, logq, x->s, x->target, x->n, t->T);
    for (int64_t j = 0; j < x->n; j++) {
        const double y = fmax(x->target[j], 0);
        if (y > 0) value -= y * logq[j];
        x->slope[j] = (exp(logq[j]) - y) / t->T;
    }
    return value;
}

static double value_kl(const kd__term *t, const list *x)
{
    double *logq = x->work, *logp = logq + x->n, value = 0;
    log_softmax(t, logq, x->s, NULL, x->n, t->T);
    log_softmax(t, logp, x->t, NULL, x->n, teacher_T(t));
    for (int64_t j = 0; j < x->n; j++) {
        const double p = exp(logp[j]);
        if (p > 0) value += p * (logp[j] - logq[j]);
        x->slope[j] = (exp(logq[j]) - p) / t->T;
    }
    return value;
}

static double value_margin(const kd__term *t, const list *x)
{
    const double share = x->n > 1 ? 1 / (double)(x->n - 1) : 0;
    double value = 0, right = 0;
    (void)t;
    for (int64_t j = 0; j < x->n; j++) {
        const double d = x->s[x->right] - x->s[j] - (x->t[x->right] - x->t[j]);
        value += share * d * d;
        right += 2 * share * d;
        x->slope[j] = -2 * share * d;
    }
    x->slope[x->right] += right;
    return value;
}

/* ---- a batch -------------------------------------------------------------------------------- */

static double inverse_length(const kd__term *t, const float *x, int64_t n)
{
    const double square = t->vec->dot(x, x, n);
    if (!t->k.normalize) return 1;
    return square == 0 ? 0 : 1 / sqrt(square); // NaN stays
}

/* T^2 where asked for, over queries, half of it for each direction. */
static double scale(const kd__term *t, int64_t queries)
{
    return (t->k.t2 ? t->T * t->T : 1) / (double)queries / (t->k.symmetric ? 2 : 1);
}

/* Row i of all scores, and what query i says to them. */
static double one_query(const kd__term *t, const kd__view *v, const pairs *p, int64_t i, list_value *value_of,
                        double *scratch)
{
    const int64_t n = p->candidates, x = i * p->columns, first = own_only(t) ? answer(p, i) : 0;
    const int64_t count = own_only(t) ? p->columns - 1 : n;
    double *target = scratch, share = scale(t, p->queries);
    for (int64_t j = 0; j < n; j++) {
        const int64_t c = place(p, j);
        p->d[i * n + j] = 0;
        if (!t->k.symmetric && (j < first || j >= first + count)) continue; // nobody reads it
        p->s[i * n + j] = t->vec->dot(v->s + x * t->n, v->s + c * t->n, t->n) * p->is[x] * p->is[c];
        if (v->t) p->t[i * n + j] = t->vec->dot(v->t + x * t->m, v->t + c * t->m, t->m) * p->it[x] * p->it[c];
    }
    list l = {.n = count,
              .right = answer(p, i) - first,
              .s = p->s + i * n + first,
              .t = p->t + i * n + first,
              .target = target,
              .slope = p->d + i * n + first,
              .work = scratch + n};
    targets(t, v, p, i, false, first, l.n, target);
    const double value = share * value_of(t, &l);
    for (int64_t k = 0; k < l.n; k++) l.slope[k] *= share;
    return value;
}

/* The same of answer i among the queries. */
static double one_answer(const kd__term *t, const kd__view *v, const pairs *p, int64_t i,
                         list_value *value_of, double *scratch)
{
    const int64_t n = p->queries, at = answer(p, i);
    double *target = scratch, *s = scratch + n, *s_t = s + n, share = scale(t, n);
    for (int64_t k = 0; k < n; k++) {
        s[k] = p->s[k * p->candidates + at];
        s_t[k] = p->t[k * p->candidates + at];
    }
    list l = {.n = n, .right = i, .s = s, .t = s_t, .target = target, .slope = p->e + i * n, .work = s_t + n};
    targets(t, v, p, i, true, 0, n, target);
    const double value = share * value_of(t, &l);
    for (int64_t k = 0; k < n; k++) l.slope[k] *= share;
    return value;
}

/* Slope of the value in the score of query i and candidate j, of both directions. */
static double slope_at(const kd__term *t, const pairs *p, int64_t i, int64_t j)
{
    double d = p->d[i * p->candidates + j];
    if (t->k.symmetric && j % (p->columns - 1) == 0) d += p->e[j / (p->columns - 1) * p->queries + i];
    return d;
}

/* grad += d * d score / d x of the vector at row a, whose score with the one at row b is s. along: sums up
 * what the length of x takes away again. */
static void pull(const kd__term *t, const kd__view *v, const pairs *p, double d, double s, int64_t a,
                 int64_t b, double *grad, double *along)
{
    if (d == 0) return;
    t->vec->add(grad, v->s + b * t->n, d * p->is[a] * p->is[b], t->n);
    *along += d * s;
}

static void one_gradient(const kd__term *t, const kd__view *v, const pairs *p, int64_t r, double *grad)
{
    const int64_t i = r / p->columns, g = r % p->columns, j = answer(p, i) + g - 1, n = p->candidates;
    double along = 0;
    for (int64_t k = 0; k < t->n; k++) grad[k] = 0;
    if (!g)
        for (int64_t c = 0; c < n; c++)
            pull(t, v, p, slope_at(t, p, i, c), p->s[i * n + c], r, place(p, c), grad, &along);
    else
        for (int64_t q = 0; q < p->queries; q++)
            pull(t, v, p, slope_at(t, p, q, j), p->s[q * n + j], r, q * p->columns, grad, &along);
    if (t->k.normalize) t->vec->add(grad, v->s + r * t->n, -along * p->is[r] * p->is[r], t->n);
    for (int64_t k = 0; k < t->n; k++) v->ds[r * t->n + k] += (float)(t->weight * grad[k]);
}

static void run(kd__term *t, const kd__view *v, list_value *value_of)
{
    const pairs p = pairs_of(t, v->rows);
    const bool both = t->k.symmetric;
    double *scratch = t->thread_scratch + (size_t)omp_get_thread_num() * t->scratch_step;
#pragma omp single nowait
    {
        t->parts = both ? 2 * p.queries : p.queries;
        t->factor = 1;
    }
#pragma omp for schedule(static)
    for (int64_t r = 0; r < v->rows; r++) {
        p.is[r] = inverse_length(t, v->s + r * t->n, t->n);
        p.it[r] = v->t ? inverse_length(t, v->t + r * t->m, t->m) : 0;
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < p.queries; i++) t->partial[i] = one_query(t, v, &p, i, value_of, scratch);
    if (both) {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < p.queries; i++)
            t->partial[p.queries + i] = one_answer(t, v, &p, i, value_of, scratch);
    }
    if (!v->ds) return;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < v->rows; r++) one_gradient(t, v, &p, r, scratch);
}

static void run_ce(kd__term *t, const kd__view *v) { run(t, v, value_ce); }
static void run_kl(kd__term *t, const kd__view *v) { run(t, v, value_kl); }
static void run_margin(kd__term *t, const kd__view *v) { run(t, v, value_margin); }

/* ---- twins ---------------------------------------------------------------------------------- */

/* Score of rows a and b from the definition. model 0: student, else teacher. */
static double naive_score(const kd__term *t, const kd__view *v, int model, int64_t a, int64_t b)
{
    const int64_t n = model ? t->m : t->n;
    double ab = 0, aa = 0, bb = 0;
    for (int64_t k = 0; k < n; k++) {
        const double x = model ? kd__t(v, a * n + k) : kd__s(v, a * n + k),
                     y = model ? kd__t(v, b * n + k) : kd__s(v, b * n + k);
        ab += x * y, aa += x * x, bb += y * y;
    }
    return !t->k.normalize ? ab : aa == 0 || bb == 0 ? 0 : ab / sqrt(aa * bb);
}

/* The value of one list: the row that asks, its n candidates, the right one among them. */
static double naive_list(const kd__term *t, const kd__view *v, const int64_t *row, int64_t n, int64_t a,
                         int64_t right, const double *share)
{
    double zs = 0, zt = 0, value = 0;
    if (t->o == &kd__objective_contrastive_margin) {
        for (int64_t k = 0; k < n; k++)
            value += pow(naive_score(t, v, 0, a, right) - naive_score(t, v, 0, a, row[k]) -
                             naive_score(t, v, 1, a, right) + naive_score(t, v, 1, a, row[k]),
                         2);
        return n > 1 ? value / (double)(n - 1) : 0;
    }
    for (int64_t k = 0; k < n; k++) {
        if (share[k] >= 0 || v->t) zs += exp(naive_score(t, v, 0, a, row[k]) / t->T);
        if (v->t) zt += exp(naive_score(t, v, 1, a, row[k]) / teacher_T(t));
    }
    for (int64_t k = 0; k < n; k++) {
        const double logq = naive_score(t, v, 0, a, row[k]) / t->T - log(zs);
        if (t->o == &kd__objective_contrastive) {
            if (share[k] > 0) value -= share[k] * logq;
            continue;
        }
        const double logp = naive_score(t, v, 1, a, row[k]) / teacher_T(t) - log(zt);
        value += exp(logp) * (logp - logq);
    }
    return value;
}

/* Whether the rows of a batch that hold a and b stand for pairs that are right for each other. */
static double naive_share(const kd__term *t, const kd__view *v, int64_t a, int64_t b, int64_t candidate)
{
    const int64_t G = t->columns;
    if (a == b && candidate % G < 2) return 1;
    const bool group = v->groups && v->groups[a * G] >= 0 && v->groups[a * G] == v->groups[candidate];
    const bool text = v->texts && (v->texts[a * G + 1] == v->texts[candidate % G ? candidate : b * G + 1] ||
                                   (candidate % G < 2 && v->texts[a * G] == v->texts[b * G]));
    return group && !text && kd__is(t->k.positives, "group") ? 1 : group || text ? -1 : 0;
}

static double naive(const kd__term *t, const kd__view *v)
{
    const int64_t G = t->columns, B = v->rows / G;
    int64_t *row = calloc((size_t)v->rows + 1, sizeof *row);
    double *share = calloc((size_t)v->rows + 1, sizeof *share), value = 0;
    for (int side = 0; row && share && side <= t->k.symmetric; side++)
        for (int64_t i = 0; i < B; i++) {
            int64_t n = 0;
            double right = 0;
            for (int64_t r = 0; r < v->rows; r++) {
                if (side == (r % G != 0) || (r / G != i && own_only(t) && !side)) continue;
                share[n] = naive_share(t, v, i, r / G, r);
                right += share[n] > 0;
                row[n++] = r;
            }
            for (int64_t k = 0; k < n; k++) share[k] /= share[k] > 0 ? right : 1;
            value += naive_list(t, v, row, n, i * G + side, i * G + !side, share);
        }
    free(row);
    free(share);
    return value * scale(t, B);
}

/* ---- rows of the table ---------------------------------------------------------------------- */

static void describe(kd_buf *b, const kd__term *t, const char *inner)
{
    kd_buf_printf(b, "%s%s/B%s over %s", t->k.t2 ? "T^2 " : "", inner,
                  t->k.symmetric ? ", both directions," : "",
                  own_only(t) ? "own candidates" : "candidates of the batch");
}

static void describe_ce(kd_buf *b, const kd__term *t)
{
    describe(b, t, "-log softmax(s/T)");
    if (kd__is(t->k.positives, "group")) kd_buf_puts(b, ", all of the group right");
}

static void describe_kl(kd_buf *b, const kd__term *t)
{
    describe(b, t, "KL(softmax(t/T_t)||softmax(s/T))");
    if (teacher_T(t) != t->T) kd_buf_printf(b, ", T_t=%g", teacher_T(t));
}

static void describe_margin(kd_buf *b, const kd__term *t) { describe(b, t, "((s+ - s) - (t+ - t))^2"); }

const kd__objective kd__objective_contrastive = {
    .pub = {.name = "contrastive",
            .formula = "-1/B sum_i log softmax_j(cos(x_i, c_j)/T) at i's answer, c: answers and negatives of "
                       "the batch",
            .needs = KD_NEEDS_TAP,
            .serves = KD_LOSS_VALUES,
            .keys =
                "tap=,temperature=0.05,symmetric=off,candidates=batch,positives=own,normalize=on,prefixes=",
            .source = "van den Oord et al. 2018 (InfoNCE), Khosla et al. 2020; sentence-transformers "
                      "losses/multiple_negatives_ranking.py"},
    .plan = plan,
    .run = run_ce,
    .describe = describe_ce,
    .naive = naive,
};

const kd__objective kd__objective_contrastive_kl = {
    .pub = {.name = "contrastive_kl",
            .formula =
                "1/B sum_i KL(softmax_j(t_i/T_t) || softmax_j(s_i/T)), s_ij = cos(x_i, c_j), c: answers "
                "and negatives of the batch",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys =
                "tap=,feature=,temperature=0.05,teacher_temperature=0,t2=off,symmetric=off,candidates=batch,"
                "normalize=on,prefixes=",
            .source = "Cao et al. 2007 (ListNet), Fang et al. 2021 (SEED); sentence-transformers "
                      "losses/distill_kl_div.py"},
    .plan = plan,
    .run = run_kl,
    .describe = describe_kl,
    .naive = naive,
};

const kd__objective kd__objective_contrastive_margin = {
    .pub = {.name = "contrastive_margin",
            .formula =
                "1/B sum_i mean_j ((s_i+ - s_ij) - (t_i+ - t_ij))^2, s_ij = cos(x_i, c_j), s_i+: of its "
                "answer",
            .needs = KD_NEEDS_FEATURES,
            .serves = KD_LOSS_VALUES,
            .keys = "tap=,feature=,symmetric=off,candidates=batch,normalize=on,prefixes=",
            .source = "Hofstaetter et al. 2020; sentence-transformers losses/margin_mse.py"},
    .plan = plan,
    .run = run_margin,
    .describe = describe_margin,
    .naive = naive,
};
