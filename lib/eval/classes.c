/* lib/eval/classes.c - counts by class: precision, recall, F1, the confusion matrix.
 *
 * Macro means are over the classes that occur among labels or predictions, and a class that is never
 * predicted adds 0 to the macro precision, as scikit-learn does by default; in the table by class its
 * precision is not defined and stays so.
 */
#include "eval_private.h"

#include <math.h>
#include <string.h>

void kd_count_classes(kd_class *c, const kd_rows *r, const kd_answer *a)
{
    memset(c, 0, (size_t)r->classes * sizeof *c);
    for (uint64_t i = 0; i < r->n; i++) {
        c[r->label[i]].support++;
        c[a[i].top].predicted++;
        c[a[i].top].right += a[i].top == r->label[i];
    }
}

static double ratio(double a, double b) { return b > 0 ? a / b : NAN; }

double kd_class_precision(const kd_class *c) { return ratio((double)c->right, (double)c->predicted); }

double kd_class_recall(const kd_class *c) { return ratio((double)c->right, (double)c->support); }

double kd_class_f1(const kd_class *c)
{
    return ratio(2 * (double)c->right, (double)(c->support + c->predicted));
}

void kd_count_confusion(uint64_t *c, const kd_rows *r, const kd_answer *a)
{
    memset(c, 0, (size_t)r->classes * (size_t)r->classes * sizeof *c);
    for (uint64_t i = 0; i < r->n; i++) c[r->label[i] * r->classes + a[i].top]++;
}
