/* schedule.c - the learning rate as a pure function of (step, total).
 *
 * Nothing is carried from step to step, so a resumed run needs no state for it. The rate rises in
 * equal parts over the warm-up (the first step already moves), then follows half a cosine
 * (Loshchilov and Hutter 2017, SGDR, equation 5, without restarts), a straight line, or nothing.
 */
#include "train_private.h"

#include <math.h>
#include <string.h>

double kd_lr_at(const kd_train_spec *t, uint64_t step, uint64_t total)
{
    uint64_t rising = (uint64_t)(t->warmup * (double)total);
    if (step < rising) return t->lr * (double)(step + 1) / (double)rising;
    if (!strcmp(t->schedule, "constant") || total <= rising) return t->lr;
    double at = (double)(step - rising) / (double)(total - rising); // in [0, 1)
    double shape = !strcmp(t->schedule, "linear") ? 1 - at : 0.5 * (1 + cos(M_PI * at));
    return t->lr * (t->final_lr + (1 - t->final_lr) * shape);
}
