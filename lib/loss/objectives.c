/* objectives.c - the table of objectives, the options of a mix, and the mix itself.
 *
 * A student's loss is a weighted sum of objectives. Everything that a name in the field can mean in
 * two ways (which reduction, with T^2 or not, KL or cross-entropy) is a key of its own, because
 * public implementations differ there under one name; the resolved formula is printed in the run log.
 *
 * A new objective is a file with a kd__objective (weight, formula, naive twin) and one row in each
 * of the two tables below. Objectives that are functions of softmaxes of the student's row share one
 * kernel (run.c, loss.simd.c): their exponentials are made once.
 */
#include "loss_private.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const kd_option kd_loss_options[] = {
    KD_OPT_REAL("Loss", kd_loss_spec, ce, "loss.ce", "WEIGHT", 0, "0.1", 0, 1e6,
                "weight of the cross-entropy with the labels"),
    KD_OPT_REAL("Loss", kd_loss_spec, kd, "loss.kd", "WEIGHT", 0, "0.9", 0, 1e6,
                "weight of the divergence from the cached teacher"),
    KD_OPT_REAL("Loss", kd_loss_spec, temperature, "loss.temperature", "T", 0, "4", 0.01, 1000,
                "softening of both logits in kd"),
    KD_OPT_BOOL("Loss", kd_loss_spec, t2, "loss.t2", 0, "on", "multiply kd by T squared"),
    KD_OPT_CHOICE("Loss", kd_loss_spec, reduction, "loss.reduction", 0, "batch", "batch|element",
                  "kd is a sum divided by rows, or by rows * classes"),
    KD_OPT_CHOICE("Loss", kd_loss_spec, kl_form, "loss.kl_form", 0, "kl", "kl|cross_entropy",
                  "with the teacher's entropy subtracted or not (same gradient)"),
    KD_OPT_REAL("Loss", kd_loss_spec, label_smoothing, "loss.label_smoothing", "SHARE", 0, "0", 0, 0.999,
                "part of the target that ce spreads over all classes"),
    KD_OPT_STRING("Loss", kd_loss_spec, teacher, "loss.teacher", "NAME", 0, NULL,
                  "which teacher of the store; not needed when there is one"),
};
const size_t kd_loss_options_n = KD_COUNT(kd_loss_options);

/* What users see, and at the same index what the code does. */
const kd_objective kd_objectives[] = {
    {"ce", "-1/B sum_b log softmax(z_s)[y]; label_smoothing e: target (1-e) onehot + e/C", "labels",
     "Szegedy et al. 2016, section 7; torch.nn.CrossEntropyLoss"},
    {"kd", "T^2/B sum_b KL(softmax(z_t/T) || softmax(z_s/T)); keys t2, reduction, kl_form", "teacher logits",
     "Hinton et al. 2015, section 2; RepDistiller KD.py"},
};
const size_t kd_objectives_n = KD_COUNT(kd_objectives);
static const kd__objective *const impl[] = {&kd__objective_ce, &kd__objective_kd};
_Static_assert(KD_COUNT(impl) == KD_COUNT(kd_objectives), "one implementation per objective");
_Static_assert(KD_COUNT(impl) <= KD_LOSS_TERMS, "terms fit");

bool kd__loss_is(const char *choice, const char *word) { return choice && !strcmp(choice, word); }

bool kd__row_counts(const kd_loss_batch *b, int64_t row)
{
    return !b->labels || (b->labels[row] >= 0 && b->labels[row] < b->classes);
}

static kd_status check(const kd_loss_spec *s, kd_err *err)
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
    if (s->reduction && strcmp(s->reduction, "batch") && strcmp(s->reduction, "element"))
        return kd_fail(err, KD_EUSAGE, "loss.reduction: '%s', expected batch or element", s->reduction);
    if (s->kl_form && strcmp(s->kl_form, "kl") && strcmp(s->kl_form, "cross_entropy"))
        return kd_fail(err, KD_EUSAGE, "loss.kl_form: '%s', expected kl or cross_entropy", s->kl_form);
    return KD_OK;
}

kd_status kd_loss_create(kd_loss **out, const kd_loss_spec *spec, int64_t max_rows, kd_err *err)
{
    *out = NULL;
    kd_status st = check(spec, err);
    if (st) return st;
    kd_loss *l = calloc(1, sizeof *l);
    if (!l) return kd_fail(err, KD_ENOMEM, "no memory for a loss");
    l->spec = *spec;
    l->spec.reduction = spec->reduction ? kd_arena_strdup(&l->strings, spec->reduction) : NULL;
    l->spec.kl_form = spec->kl_form ? kd_arena_strdup(&l->strings, spec->kl_form) : NULL;
    l->spec.teacher = spec->teacher ? kd_arena_strdup(&l->strings, spec->teacher) : NULL;
    l->ce = spec->ce;
    l->kd = spec->kd;
    l->vec = kd__loss_vec_of(kd_cpu_isa());
    l->max_rows = max_rows;
    size_t blocks = ((size_t)max_rows + KD__LOSS_ROWS - 1) / KD__LOSS_ROWS;
    l->partial = kd_alloc_aligned(blocks + 1, 2 * sizeof(double));
    if (!l->partial || (spec->reduction && !l->spec.reduction) || (spec->kl_form && !l->spec.kl_form) ||
        (spec->teacher && !l->spec.teacher)) {
        kd_loss_free(l);
        return kd_fail(err, KD_ENOMEM, "no memory for a loss over %lld rows", (long long)max_rows);
    }
    *out = l;
    return KD_OK;
}

void kd_loss_free(kd_loss *l)
{
    if (!l) return;
    kd_arena_release(&l->strings);
    free(l->partial);
    free(l);
}

static bool needs(const kd_loss *l, bool teacher)
{
    for (size_t i = 0; i < KD_COUNT(impl); i++)
        if (impl[i]->weight(&l->spec) > 0 && (teacher ? impl[i]->teacher : impl[i]->labels)) return true;
    return false;
}

bool kd_loss_needs_teacher(const kd_loss *l) { return needs(l, true); }
bool kd_loss_needs_labels(const kd_loss *l) { return needs(l, false); }

int kd_loss_terms(const kd_loss *l, const char *names[KD_LOSS_TERMS], double values[KD_LOSS_TERMS])
{
    double ce = 0, kl = 0;
    int n = 0;
    for (int64_t i = 0; i < l->blocks; i++) { // blocks in order: the same sum for every reader
        ce += l->partial[2 * i];
        kl += l->partial[2 * i + 1];
    }
    if (l->ce > 0) {
        names[n] = kd_objectives[0].name;
        values[n++] = l->valid ? ce / (double)l->valid : 0;
    }
    if (l->kd > 0) {
        names[n] = kd_objectives[1].name;
        values[n++] = l->valid ? kl * kd__soft_scale(&l->spec, l->valid, l->classes) : 0;
    }
    return n;
}

double kd_loss_value(const kd_loss *l)
{
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS], sum = 0;
    int n = kd_loss_terms(l, names, values), i = 0;
    if (l->ce > 0) sum += l->ce * values[i++];
    if (l->kd > 0) sum += l->kd * values[i++];
    assert(i == n);
    (void)n;
    return sum;
}

char *kd_loss_formula(const kd_loss *l)
{
    kd_buf b = {0};
    for (size_t i = 0; i < KD_COUNT(impl); i++) {
        double w = impl[i]->weight(&l->spec);
        if (!(w > 0)) continue;
        kd_buf_printf(&b, "%s%g ", b.len ? " + " : "", w);
        impl[i]->describe(&b, &l->spec);
    }
    if (l->kd > 0) kd_buf_printf(&b, ", T = %g", l->spec.temperature);
    if (b.failed) kd_buf_release(&b);
    return b.text;
}

double kd_loss_naive(const kd_loss_spec *spec, const kd_loss_batch *b)
{
    size_t n = (size_t)b->rows * (size_t)b->classes;
    double value = 0, *grad = calloc(n + 1, sizeof *grad);
    int64_t valid = 0;
    if (!grad) return NAN;
    for (int64_t r = 0; r < b->rows; r++) valid += kd__row_counts(b, r);
    for (size_t i = 0; i < KD_COUNT(impl) && valid; i++) {
        double w = impl[i]->weight(spec);
        if (w > 0) value += w * impl[i]->naive(spec, b, valid, w, grad);
    }
    for (size_t i = 0; i < n && b->dlogits; i++) b->dlogits[i] = (float)grad[i];
    free(grad);
    return value;
}
