/* loop.c - epochs and rounds.
 *
 * In a round every feed draws one batch and every student that stands at that batch takes one step.
 * A student's position (epoch, step) is its own: it takes the batch of its position and no other, so
 * the weights do not depend on the company. Usually all stand together; after a crash some may be
 * behind, and a feed starts an epoch at the position of the hindmost of its students while the others wait
 * for it.
 *
 * After the last round of an epoch the students that used it up are judged on the validation rows.
 * Those that are through write their folder at once, whatever the others still have to do.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct caller {
    volatile const int *stop;
    void (*progress)(void *arg, const kd_train_progress *p);
    void *arg;
} caller;

/* ---- rounds ------------------------------------------------------------------------------- */

static bool is_in_epoch(const kd__run *r, uint64_t epoch)
{
    return kd__run_active(r) && r->at.epoch == epoch;
}

/* Puts every feed to the hindmost of its students; one that nobody needs is passed over whole. */
static kd_status begin_epoch(kd_trainer *t, uint64_t epoch, kd_err *err)
{
    kd_status st = kd_loader_epoch(t->loader, epoch, err);
    t->loader_epochs++;
    t->stall = kd_loader_seconds(t->loader);
    for (size_t i = 0; i < t->nfeeds && !st; i++) {
        kd__feed *f = t->feeds[i];
        uint64_t first = f->steps;
        for (size_t k = 0; k < t->nruns; k++)
            if (t->runs[k]->feed == f && is_in_epoch(t->runs[k], epoch) && t->runs[k]->at.step < first)
                first = t->runs[k]->at.step;
        f->step = first;
        f->drawn = f->over = false;
        if (first) st = kd_stream_skip(f->stream, first, err);
    }
    return st;
}

/* Every feed draws; *drawn: at least one has a batch, *over: all are used up. */
static kd_status draw(kd_trainer *t, bool *drawn, bool *over, kd_err *err)
{
    kd_status st = kd__feeds_draw(t, err);
    *drawn = false;
    *over = true;
    for (size_t i = 0; i < t->nfeeds && !st; i++) {
        *drawn |= t->feeds[i]->drawn;
        *over &= t->feeds[i]->over;
    }
    return st;
}

static void report(const kd_trainer *t, const caller *c)
{
    kd_train_progress p = {.rows = t->rows_trained};
    bool first = true;
    if (!c->progress) return;
    for (size_t i = 0; i < t->nruns; i++) {
        const kd__run *r = t->runs[i];
        if (!r->steps) continue;
        uint64_t steps = r->steps * (uint64_t)r->spec.train.epochs;
        if (steps > p.steps || (steps == p.steps && r->at.total > p.step))
            p.steps = steps, p.step = r->at.total;
        if (!first || !kd__run_active(r)) continue;
        first = false;
        p.epoch = (int64_t)r->at.epoch;
        p.loss = r->at.rows ? r->at.loss_sum / (double)r->at.rows : r->at.loss;
        p.lr = r->lr;
    }
    c->progress(c->arg, &p);
}

static kd_status save_all(kd_trainer *t, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < t->nruns && !st; i++)
        if (kd__run_active(t->runs[i]) && t->runs[i]->at.total > t->runs[i]->saved)
            st = kd__checkpoint_save(t->runs[i], t->p.checkpoint_keep, err);
    t->last_checkpoint = kd_now();
    return st;
}

static kd_status stop(kd_trainer *t, kd_err *err)
{
    kd_status st = save_all(t, err);
    if (st) return st;
    for (size_t i = 0; i < t->nruns; i++)
        if (kd__run_active(t->runs[i]))
            return kd_fail(
                err, KD_ESTOPPED,
                "stopped in epoch %llu, step %llu of %llu; everything is saved, go on with --resume",
                (unsigned long long)t->runs[i]->at.epoch + 1, (unsigned long long)t->runs[i]->at.step,
                (unsigned long long)t->runs[i]->steps);
    return kd_fail(err, KD_ESTOPPED, "stopped; go on with --resume");
}

/* Says which of the students that were just at work diverged. */
static void warn_diverged(kd_trainer *t)
{
    for (size_t i = 0; i < t->ntodo; i++) {
        const kd__run *r = t->todo[i];
        if (r->diverged)
            kd__trainer_warn(t,
                             "%s: diverged (not a finite number) in epoch %llu at step %llu, learning rate "
                             "%.3g; stopped: lower train.lr or set train.clip",
                             r->folder, (unsigned long long)r->at.epoch + 1, (unsigned long long)r->at.step,
                             r->lr);
    }
}

static kd_status step_all(kd_trainer *t, uint64_t epoch, kd_err *err)
{
    kd_status st = KD_OK;
    t->ntodo = 0;
    for (size_t i = 0; i < t->nruns; i++) {
        kd__run *r = t->heavy[i];
        if (is_in_epoch(r, epoch) && r->feed->drawn && r->at.step == r->feed->step && r->at.step < r->steps)
            t->todo[t->ntodo++] = r;
    }
    kd__steps(t);
    warn_diverged(t);
    for (size_t i = 0; i < t->ntodo && !st; i++)
        if (!t->todo[i]->diverged) st = kd__metrics_step(t->todo[i], t->p.log_steps, err);
    return st;
}

static kd_status run_rounds(kd_trainer *t, uint64_t epoch, const caller *c, kd_err *err)
{
    int idle = 0;
    for (;;) {
        bool drawn, over;
        if (c->stop && *c->stop) return stop(t, err);
        kd_status st = draw(t, &drawn, &over, err);
        if (st || over) return st;
        if (!drawn && ++idle > 1)
            return kd_fail(err, KD_EIO, "kd bug: every stream of epoch %llu waits for another",
                           (unsigned long long)epoch);
        if (drawn) idle = 0;
        if ((st = step_all(t, epoch, err))) return st;
        report(t, c);
        if (t->p.checkpoint_seconds && kd_now() - t->last_checkpoint >= (double)t->p.checkpoint_seconds &&
            (st = save_all(t, err)))
            return st;
    }
}

/* ---- the end of an epoch ------------------------------------------------------------------ */

static void check_alignment(kd_trainer *t, const kd__run *r)
{
    const uint64_t labelled = r->at.labelled;
    for (int k = 0; k < r->nteachers && labelled >= 100 && r->classes >= 4; k++) {
        double accuracy = (double)r->at.hits[k] / (double)labelled;
        if (accuracy >= 2.0 / (double)r->classes || t->warned_alignment[r->teacher[k]]) continue;
        t->warned_alignment[r->teacher[k]] = true;
        kd__trainer_warn(t,
                         "%s: teacher %s agrees with the labels on %.1f %% of the training rows, little more "
                         "than chance: is column %s of these rows? Check with %s",
                         kd_store_path(t->store), kd__trainer_column(t, r->teacher[k])->teacher,
                         100 * accuracy, kd__trainer_column(t, r->teacher[k])->name,
                         kd__run_has_views(r) ? "kd-dump --check" : "kd-eval");
    }
}

/* Validation, best weights, patience and metrics of the students in t->todo, as the weights stand now. */
static kd_status judge(kd_trainer *t, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < t->nblocks && t->ntodo; i++) {
        const kd__block *b;
        if ((st = kd__valid_block(t, i, &b, err))) return st;
        kd__evaluate(t, b);
    }
    for (size_t i = 0; i < t->ntodo && !st; i++) {
        check_alignment(t, t->todo[i]);
        t->todo[i]->stall = kd_loader_seconds(t->loader) - t->stall;
        st = kd__run_end_epoch(t->todo[i], err);
    }
    return st;
}

static kd_status end_epoch(kd_trainer *t, uint64_t epoch, kd_err *err)
{
    t->ntodo = 0;
    for (size_t i = 0; i < t->nruns; i++) {
        kd__run *r = t->heavy[i];
        if (!is_in_epoch(r, epoch) || r->at.step < r->steps) continue;
        memset(&r->valid, 0, sizeof(r->valid));
        t->todo[t->ntodo++] = r;
    }
    for (size_t i = 0; i < t->ntodo; i++) kd__run_swap(t->todo[i]);
    kd_status st = judge(t, err);
    for (size_t i = 0; i < t->ntodo; i++) kd__run_swap(t->todo[i]);
    warn_diverged(t);
    if (!st && !t->p.checkpoint_seconds) st = save_all(t, err);
    return st;
}

/* Students that have nothing left to do write their folders. */
static kd_status finish_done(kd_trainer *t, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < t->nruns && !st; i++) {
        kd__run *r = t->runs[i];
        if (!r->done && !r->diverged && (r->start == KD__WRITTEN || !kd__run_active(r)))
            st = kd__run_finish(r, t, err);
    }
    return st;
}

/* The epoch of the hindmost student; false: nobody has anything left to do. */
static bool next_epoch(const kd_trainer *t, uint64_t *epoch)
{
    bool any = false;
    for (size_t i = 0; i < t->nruns; i++) {
        const kd__run *r = t->runs[i];
        if (!kd__run_active(r) || (any && r->at.epoch >= *epoch)) continue;
        *epoch = r->at.epoch;
        any = true;
    }
    return any;
}

static kd_status diverged(const kd_trainer *t, kd_err *err)
{
    const kd__run *first = NULL;
    size_t n = 0;
    for (size_t i = 0; i < t->nruns; i++) {
        if (!t->runs[i]->diverged) continue;
        if (!n++) first = t->runs[i];
    }
    if (!n) return KD_OK;
    return kd_fail(err, KD_ENUMERIC,
                   "%zu of %zu students diverged, the first is %s; lower train.lr or set train.clip", n,
                   t->nruns, first->folder);
}

kd_status kd_trainer_run(kd_trainer *t, volatile const int *stop_flag,
                         void (*progress)(void *arg, const kd_train_progress *p), void *arg, kd_err *err)
{
    caller c = {stop_flag, progress, arg};
    uint64_t epoch = 0;
    kd_status st = kd_trainer_plan(t, err);
    for (size_t i = 0; i < t->nruns && !st; i++)
        if (!t->runs[i]->done) st = kd__run_begin(t->runs[i], err);
    t->last_checkpoint = kd_now();
    if (!st) st = finish_done(t, err);
    while (!st && next_epoch(t, &epoch))
        if (!(st = begin_epoch(t, epoch, err)) && !(st = run_rounds(t, epoch, &c, err)) &&
            !(st = end_epoch(t, epoch, err)))
            st = finish_done(t, err);
    return st ? st : diverged(t, err);
}
