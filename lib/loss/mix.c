/* mix.c - the terms of a student's loss: made from its spec, planned, added up, printed.
 *
 * The short form (loss.ce, loss.kd and what belongs to them) is turned into the same terms as the long
 * form, so that everything behind this file knows one form only. The first ce and the first kd of a
 * mix share one kernel (run.c, loss.simd.c): their exponentials are made once.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define O kd_loss_spec
const kd_option kd_loss_options[] = {
    KD_OPT_REAL("Loss", O, ce, "loss.ce", "WEIGHT", 0, "0.1", 0, 1e6,
                "weight of the cross-entropy with the labels"),
    KD_OPT_REAL("Loss", O, kd, "loss.kd", "WEIGHT", 0, "0.9", 0, 1e6,
                "weight of the divergence from the cached teacher"),
    KD_OPT_REAL("Loss", O, temperature, "loss.temperature", "T", 0, "4", 0.01, 1000,
                "softening of both logits in kd"),
    KD_OPT_BOOL("Loss", O, t2, "loss.t2", 0, "on", "multiply kd by T squared"),
    KD_OPT_CHOICE("Loss", O, reduction, "loss.reduction", 0, "batch", "batch|element",
                  "kd is a sum divided by rows, or by rows * classes"),
    KD_OPT_CHOICE("Loss", O, kl_form, "loss.kl_form", 0, "kl", "kl|cross_entropy",
                  "with the teacher's entropy subtracted or not (same gradient)"),
    KD_OPT_REAL("Loss", O, label_smoothing, "loss.label_smoothing", "SHARE", 0, "0", 0, 0.999,
                "part of the target that ce spreads over all classes"),
    KD_OPT_STRING("Loss", O, teacher, "loss.teacher", "NAME", 0, NULL,
                  "which teacher of the store; not needed when there is one"),
    KD_OPT_MAPS(
        "Loss", O, terms, "loss.terms", "TERMS", 0, NULL,
        "any mix of objectives as a list of mappings, in place of ce and kd (kd-train --list-losses)"),
    KD_OPT_STRING("Loss", O, preset, "loss.preset", "NAME", 0, NULL,
                  "sets the keys of loss.terms as a framework has them"),
};
#undef O
const size_t kd_loss_options_n = KD_COUNT(kd_loss_options);

/* ---- create ------------------------------------------------------------------------------- */

static kd_status check_short(const kd_loss_spec *s, kd_err *err)
{
    if (!(s->ce >= 0) || !isfinite(s->ce))
        return kd_fail(err, KD_EUSAGE, "loss.ce: weight %g, expected 0 or more", s->ce);
    if (!(s->kd >= 0) || !isfinite(s->kd))
        return kd_fail(err, KD_EUSAGE, "loss.kd: weight %g, expected 0 or more", s->kd);
    if (s->ce + s->kd == 0)
        return kd_fail(err, KD_EUSAGE,
                       "loss.ce and loss.kd are both 0: nothing to train on; set one of them");
    if (s->kd > 0 && (!(s->temperature > 0) || !isfinite(s->temperature)))
        return kd_fail(err, KD_EUSAGE, "loss.temperature: %g, expected more than 0 (usual: 1 to 8)",
                       s->temperature);
    if (!(s->label_smoothing >= 0 && s->label_smoothing < 1))
        return kd_fail(err, KD_EUSAGE, "loss.label_smoothing: %g, expected 0 or more and less than 1",
                       s->label_smoothing);
    if (s->reduction && !kd__is(s->reduction, "batch") && !kd__is(s->reduction, "element"))
        return kd_fail(err, KD_EUSAGE, "loss.reduction: '%s', expected batch or element", s->reduction);
    if (s->kl_form && !kd__is(s->kl_form, "kl") && !kd__is(s->kl_form, "cross_entropy"))
        return kd_fail(err, KD_EUSAGE, "loss.kl_form: '%s', expected kl or cross_entropy", s->kl_form);
    if (s->preset && *s->preset)
        return kd_fail(
            err, KD_EUSAGE,
            "loss.preset: %s goes with a list of terms, loss: [{name: kd}, ...]; the short form says "
            "all its keys itself",
            s->preset);
    return KD_OK;
}

/* Adds a term; one whose weight is always 0 is checked and left out. */
static kd_status add(kd_loss *l, const char *text, const char *preset, const char *where, kd_err *err)
{
    kd__term *t = &l->term[l->terms];
    kd_status st = kd__term_init(t, text, preset, where, err);
    bool nothing = !st && t->weight_of.from == 0 && t->weight_of.to == 0;
    if (st || nothing) {
        kd__term_release(t);
        *t = (kd__term){0};
        return st;
    }
    int same = 1;
    for (int i = 0; i < l->terms; i++) same += l->term[i].o == t->o;
    snprintf(t->label, sizeof(t->label), same > 1 ? "%.30s.%d" : "%.30s", t->o->pub.name, same);
    t->vec = l->vec;
    l->terms++;
    return KD_OK;
}

static kd_status add_short(kd_loss *l, const kd_loss_spec *s, kd_err *err)
{
    kd_status st = check_short(s, err);
    char ce[160], kd[200];
    if (st) return st;
    if (s->teacher && !(l->short_teacher = kd_strdup(s->teacher)))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    snprintf(ce, sizeof(ce), "name=ce,weight=%.17g,label_smoothing=%.17g", s->ce, s->label_smoothing);
    snprintf(kd, sizeof(kd), "name=kd,weight=%.17g,temperature=%.17g,t2=%s,reduction=%s,kl_form=%s", s->kd,
             s->kd > 0 ? s->temperature : 1, s->t2 ? "on" : "off", s->reduction ? s->reduction : "batch",
             s->kl_form ? s->kl_form : "kl");
    if (!(st = add(l, ce, NULL, "loss", err))) st = add(l, kd, NULL, "loss", err);
    return st;
}

static kd_status add_terms(kd_loss *l, const kd_loss_spec *s, kd_err *err)
{
    kd_status st = KD_OK;
    if (s->terms.n > KD_LOSS_TERMS)
        return kd_fail(err, KD_EUSAGE, "loss.terms: %zu terms, at most %d", s->terms.n, KD_LOSS_TERMS);
    if (s->teacher && !(l->short_teacher = kd_strdup(s->teacher)))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < s->terms.n && !st; i++) {
        char where[40];
        snprintf(where, sizeof(where), "loss.terms[%zu]", i);
        st = add(l, s->terms.v[i], s->preset, where, err);
    }
    if (!st && !l->terms)
        return kd_fail(err, KD_EUSAGE, "loss.terms: all weights are 0: nothing to train on; set one of them");
    return st;
}

kd_status kd_loss_create(kd_loss **out, const kd_loss_spec *spec, kd_err *err)
{
    *out = NULL;
    kd_loss *l = calloc(1, sizeof *l);
    if (!l) return kd_fail(err, KD_ENOMEM, "no memory for a loss");
    l->vec = kd__loss_vec_of(kd_cpu_isa());
    kd_status st = spec->terms.n ? add_terms(l, spec, err) : add_short(l, spec, err);
    if (st) {
        kd_loss_free(l);
        return st;
    }
    for (int i = 0; i < l->terms; i++) {
        kd__term *t = &l->term[i];
        bool soft = t->o == &kd__objective_kd || t->o == &kd__objective_kd_ce;
        if (t->o == &kd__objective_ce && !l->ce) l->ce = t;
        if (soft && !l->kd && t->k.wrong == 1) l->kd = t; // the fused kernel weighs no rows
        t->fused = t == l->ce || t == l->kd;
    }
    *out = l;
    return KD_OK;
}

void kd_loss_free(kd_loss *l)
{
    if (!l) return;
    for (int i = 0; i < l->terms; i++) kd__term_release(&l->term[i]);
    kd_arena_release(&l->memory);
    free(l->rows);
    free(l->short_teacher);
    free(l);
}

bool kd_loss_spec_distils(const kd_loss_spec *s)
{
    if (!s->terms.n) return s->kd > 0;
    for (size_t i = 0; i < s->terms.n; i++) {
        kd__term t = {0};
        kd_status st = kd__term_init(&t, s->terms.v[i], s->preset, "", NULL);
        bool distils =
            st || (t.o->pub.needs & KD_NEEDS_TEACHER && (t.weight_of.from > 0 || t.weight_of.to > 0));
        kd__term_release(&t);
        if (distils) return true;
    }
    return false;
}

char *kd_loss_terms_alone(const kd_loss_spec *s)
{
    kd_buf b = {0};
    bool own = false;
    for (size_t i = 0; i < s->terms.n; i++) {
        kd__term t = {0};
        const kd_status st = kd__term_init(&t, s->terms.v[i], s->preset, "", NULL);
        const unsigned needs = st ? KD_NEEDS_TEACHER : t.o->pub.needs;
        if (!(needs & KD_NEEDS_TEACHER)) kd_buf_printf(&b, "%s%s", b.len ? ";" : "", s->terms.v[i]);
        own |= !st && needs & KD_NEEDS_TAP;
        kd__term_release(&t);
    }
    if (!own || b.failed) kd_buf_release(&b);
    return b.text;
}

/* ---- what it needs ------------------------------------------------------------------------ */

int kd_loss_count(const kd_loss *l) { return l->terms; }

static unsigned needs_of(const kd__term *t)
{
    return t->o->pub.needs | (t->k.wrong == 1 ? 0 : (unsigned)KD_NEEDS_LABELS);
}

kd_loss_term kd_loss_term_at(const kd_loss *l, int i)
{
    const kd__term *t = &l->term[i];
    return (kd_loss_term){.objective = &t->o->pub,
                          .label = t->label,
                          .teacher = t->k.teacher ? t->k.teacher : l->short_teacher,
                          .ensemble = t->k.ensemble ? t->k.ensemble : "logits",
                          .tap = t->k.tap,
                          .feature = t->k.feature,
                          .needs = needs_of(t),
                          .temperature = t->T,
                          .dump_temperature = t->k.dump_temperature,
                          .weight = t->weight,
                          .differences = kd__is(t->k.teacher_scores, "differences"),
                          .serves =
                              kd__is(t->k.sparse, "sampled") ? (unsigned)KD_LOSS_EXPECTED : t->o->pub.serves};
}

unsigned kd_loss_needs_of(const kd_loss *l)
{
    unsigned needs = 0;
    for (int i = 0; i < l->terms; i++) needs |= needs_of(&l->term[i]);
    return needs;
}

bool kd_loss_needs_teacher(const kd_loss *l) { return kd_loss_needs_of(l) & KD_NEEDS_TEACHER; }
bool kd_loss_needs_labels(const kd_loss *l) { return kd_loss_needs_of(l) & KD_NEEDS_LABELS; }

/* ---- plan --------------------------------------------------------------------------------- */

static int64_t size_of(const kd_loss_dims *d)
{
    int64_t n = 1;
    for (int i = 0; i < d->ndims; i++) n *= d->dims[i];
    return n;
}

static kd_status plan_term(kd_loss *l, kd__term *t, const kd_loss_shape *s, kd_err *err)
{
    int i = (int)(t - l->term);
    size_t shared = 0, parts = (size_t)s->rows, blocks;
    kd_status st = KD_OK;
    kd_err why = {0};
    if (t->o->pub.needs & KD_NEEDS_NODE) {
        if (!s->student || !s->teacher)
            return kd_fail(err, KD_EUSAGE, "%s: compares features, and nobody said which; set its tap",
                           t->label);
        t->student = s->student[i];
        t->teacher = s->teacher[i];
    } else {
        t->student = t->teacher = (kd_loss_dims){1, {s->classes}};
    }
    t->n = size_of(&t->student);
    t->m = size_of(&t->teacher);
    t->max_rows = s->rows;
    t->columns = s->columns ? s->columns : 1;
    t->samples = s->samples;
    t->sample_labels = l->sample_labels;
    t->seed = s->seed;
    t->temperatures = s->temperatures;
    t->ntemperatures = s->ntemperatures;
    t->threads = s->threads > 1 ? s->threads : 1;
    if (t->o->plan && (st = t->o->plan(t, &shared, &parts, &why)))
        return kd_fail(err, st, "%s: %s", t->label, why.msg);
    if (t->nprefixes && (st = kd__prefixes_plan(t, &l->memory, &why)))
        return kd_fail(err, st, "%s: %s", t->label, why.msg);
    blocks = ((size_t)s->rows + KD__LOSS_ROWS - 1) / KD__LOSS_ROWS;
    t->scratch = (t->scratch + 7) / 8 * 8;
    t->scratch_step = t->fused ? 0 : t->scratch + ((size_t)t->n + 7) / 8 * 8;
    t->partial = kd_arena_alloc(&l->memory, kd_max_size(parts, 2 * blocks) + 1, sizeof(double));
    t->shared = kd_arena_alloc(&l->memory, shared + 1, sizeof(double));
    // Not from the arena, which writes zeros: rows of a vocabulary seldom need more than a page of it.
    free(t->thread_scratch);
    t->thread_scratch = calloc((size_t)t->threads * t->scratch_step + 1, sizeof(double));
    if (!t->partial || !t->shared || !t->thread_scratch)
        return kd_fail(err, KD_ENOMEM, "%s: no memory for batches of %lld rows", t->label,
                       (long long)s->rows);
    return KD_OK;
}

kd_status kd_loss_plan(kd_loss *l, const kd_loss_shape *s, kd_err *err)
{
    kd_status st = KD_OK;
    if (kd_loss_needs_of(l) & KD_NEEDS_SAMPLES && s->sample_labels) {
        l->sample_labels = kd_arena_alloc(&l->memory, (size_t)s->samples, sizeof(int32_t));
        if (!l->sample_labels) return kd_fail(err, KD_ENOMEM, "no memory for the labels of a loss");
        memcpy(l->sample_labels, s->sample_labels, (size_t)s->samples * sizeof(int32_t));
    }
    for (int i = 0; i < l->terms && !st; i++) st = plan_term(l, &l->term[i], s, err);
    if (!st) st = kd__vocab_plan(l, s->classes, s->threads, err);
    for (int i = 0; i < l->terms; i++) l->state_bytes += (l->term[i].state_bytes + 63) / 64 * 64;
    if (!st && l->state_bytes && !(l->state = kd_arena_alloc(&l->memory, l->state_bytes, 1)))
        st = kd_fail(err, KD_ENOMEM, "no memory for %zu bytes of a loss's state", l->state_bytes);
    size_t at = 0;
    for (int i = 0; i < l->terms && !st; i++) {
        kd__term *t = &l->term[i];
        t->state = t->state_bytes ? (char *)l->state + at : NULL;
        at += (t->state_bytes + 63) / 64 * 64;
        if (t->state && t->o->start) t->o->start(t);
    }
    return st;
}

bool kd_loss_in_place(const kd_loss *l)
{
    bool fused = true;
    for (int i = 0; i < l->terms; i++) fused &= l->term[i].fused;
    return fused || l->vocab;
}

size_t kd_loss_bytes(const kd_loss *l) { return l->memory.used; }

void *kd_loss_state(kd_loss *l, size_t *bytes)
{
    *bytes = l->state_bytes;
    return l->state;
}

void kd_loss_at(kd_loss *l, double epoch)
{
    for (int i = 0; i < l->terms; i++) {
        kd__term *t = &l->term[i];
        t->weight = kd__schedule_at(&t->weight_of, epoch);
        if (t->k.temperature) t->T = kd__schedule_at(&t->temperature_of, epoch);
    }
}

/* ---- values ------------------------------------------------------------------------------- */

int kd_loss_terms(const kd_loss *l, const char *names[KD_LOSS_TERMS], double values[KD_LOSS_TERMS])
{
    for (int i = 0; i < l->terms; i++) {
        const kd__term *t = &l->term[i];
        double sum = 0;
        for (int64_t k = 0; k < t->parts; k++)
            sum += t->partial[k]; // in order: the same sum for every reader
        names[i] = t->label;
        values[i] = t->parts ? t->factor * sum : 0;
    }
    return l->terms;
}

double kd_loss_value(const kd_loss *l)
{
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS], sum = 0;
    kd_loss_terms(l, names, values);
    for (int i = 0; i < l->terms; i++) sum += l->term[i].weight * values[i];
    return sum;
}

static void describe_schedule(kd_buf *b, const kd__schedule *s)
{
    static const char *const shape[] = {"", "linear", "cosine", "warmup"};
    if (s->shape == KD__CONSTANT)
        kd_buf_printf(b, "%g", s->to);
    else
        kd_buf_printf(b, "%s(%g..%g in %g epochs)", shape[s->shape], s->from, s->to, s->epochs);
}

char *kd_loss_formula(const kd_loss *l)
{
    kd_buf b = {0};
    for (int i = 0; i < l->terms; i++) {
        const kd__term *t = &l->term[i];
        if (i) kd_buf_puts(&b, " + ");
        describe_schedule(&b, &t->weight_of);
        kd_buf_puts(&b, " ");
        t->o->describe(&b, t);
        kd__prefixes_describe(&b, t);
        if (t->k.temperature) {
            kd_buf_puts(&b, " (T=");
            describe_schedule(&b, &t->temperature_of);
            kd_buf_puts(&b, ")");
        }
        if (t->k.wrong != 1) kd_buf_printf(&b, " (x %g where the teacher is wrong)", t->k.wrong);
    }
    if (b.failed) kd_buf_release(&b);
    return b.text;
}
