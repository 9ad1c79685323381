/* folder.c - the life of a student's folder, from nothing to finished.
 *
 *     FOLDER.part/   checkpoints and metrics.jsonl while it trains
 *     FOLDER.part/   + model.safetensors, config.json, metrics.jsonl, then provenance.json: all is written
 *     FOLDER/        after one rename
 *
 * A kill between any two of these leaves a state from which resuming finds its way: with
 * provenance.json only the renaming is done again, otherwise training goes on from a checkpoint. A
 * finished folder that is being replaced stays until its successor is whole.
 */
#include "train_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* An empty folder is as good as none: somebody's mkdir -p. */
static bool is_there(const char *path)
{
    DIR *d = opendir(path);
    bool found = false;
    if (!d) return kd_exists(path);
    for (struct dirent *e; !found && (e = readdir(d));)
        found = strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return found;
}

static bool has_provenance(const char *folder)
{
    char *path = kd_path_join(folder, "provenance.json");
    bool found = kd_exists(path);
    free(path);
    return found;
}

/* ---- before ------------------------------------------------------------------------------- */

/* Holds FOLDER.part against a second process; the lock ends with the process, whatever ends it. */
static kd_status lock(kd__run *r, kd_err *err)
{
    int fd = open(r->part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open", r->part);
    if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) { // other failures: a file system without locks
        close(fd);
        return kd_fail(err, KD_EEXISTS,
                       "%s: another kd-train is at work there; wait for it, or give another folder", r->part);
    }
    if (r->lock >= 0) close(r->lock);
    r->lock = fd;
    return KD_OK;
}

/* Something in the way that --force may pass over. */
static kd_status unless_forced(const kd_trainer *t, kd_status st, const kd_err *why, kd_err *err)
{
    bool pass =
        t->p.force && (st == KD_EMISMATCH || st == KD_ECORRUPT || st == KD_EEXISTS || st == KD_ENOTFOUND);
    return !st || pass ? KD_OK : kd_fail(err, st, "%s", why->msg);
}

/* FOLDER is there, and the caller asked to resume: a finished run of ours is left as it is. */
static kd_status meet_finished(kd__run *r, const kd_trainer *t, kd_err *err)
{
    kd_err why = {0};
    kd_status st =
        has_provenance(r->folder)
            ? kd__provenance_read(r, r->folder, &why)
            : kd_fail(&why, KD_EEXISTS,
                      "%s: is there, but holds no finished run; give another folder, or replace it with "
                      "--force",
                      r->folder);
    if (!st) r->done = r->skipped = true;
    return unless_forced(t, st, &why, err);
}

static kd_status meet_part(kd__run *r, kd_trainer *t, kd_err *err)
{
    kd_err why = {0};
    bool found = false;
    kd_status st;
    if (has_provenance(r->part)) {
        st = kd__provenance_read(r, r->part, &why);
        if (!st) {
            r->start = KD__WRITTEN;
            return KD_OK;
        }
        if ((st = unless_forced(t, st, &why, err))) return st;
    }
    if ((st = kd__run_build(r, t, err))) return st;
    st = kd__checkpoint_resume(r, t, &found, &why);
    if (!st && found) r->start = KD__RESUMED;
    return unless_forced(t, st, &why, err);
}

kd_status kd__run_meet(kd__run *r, kd_trainer *t, kd_err *err)
{
    bool finished = is_there(r->folder), part = is_there(r->part);
    kd_status st;
    if (kd_is_dir(r->part) && (st = lock(r, err))) return st;
    if ((finished || part) && !t->p.resume && !t->p.force)
        return kd_fail(err, KD_EEXISTS, "%s: %s; go on with --resume, or start over with --force",
                       finished ? r->folder : r->part, finished ? "is there already" : "an unfinished run");
    if (finished && !kd_is_dir(r->folder))
        return kd_fail(err, KD_EEXISTS, "%s: is a file; a folder is written there", r->folder);
    if (finished && t->p.resume && ((st = meet_finished(r, t, err)) || r->skipped)) return st;
    if (part && t->p.resume) return meet_part(r, t, err);
    return kd__run_build(r, t, err);
}

kd_status kd__run_begin(kd__run *r, kd_err *err)
{
    kd_status st;
    if (r->start == KD__WRITTEN) return KD_OK;
    if (r->start == KD__FRESH) {
        if ((st = kd_remove_tree(r->part, err)) || (st = kd_mkdirs(r->part, err)) || (st = lock(r, err)))
            return st;
    }
    return kd__metrics_write(r, err);
}

/* ---- between ------------------------------------------------------------------------------ */

/* Whether the epoch is better than the best so far, by what train.keep asks for. */
static bool is_best(const kd__run *r)
{
    const kd__state *s = &r->at;
    if (!strcmp(r->spec.train.keep, "best_loss"))
        return r->valid.rows && (!s->best_epoch || s->valid_loss < s->best_valid_loss);
    return r->valid.labelled && (!s->best_epoch || s->valid_accuracy > s->best_accuracy);
}

static void keep_best(kd__run *r)
{
    kd__state *s = &r->at;
    if (!is_best(r)) return;
    s->best_epoch = s->epoch + 1;
    s->best_accuracy = s->valid_accuracy;
    s->best_loss = s->loss;
    s->best_valid_loss = s->valid_loss;
    if (!r->best) return;
    memcpy(r->best, r->weights, r->slab * sizeof(float));
    if (r->buffers) memcpy(r->best + r->slab, r->stats, r->buffers * sizeof(float));
}

/* A gradient may have overflowed in the last step, behind the last look at the loss. */
static bool is_sound(const kd__run *r)
{
    bool finite = isfinite(r->valid.loss);
    for (size_t i = 0; i < r->slab; i++) finite &= isfinite(r->weights[i]) != 0;
    for (size_t i = 0; i < r->buffers; i++) finite &= isfinite(r->stats[i]) != 0;
    return finite;
}

kd_status kd__run_end_epoch(kd__run *r, kd_err *err)
{
    kd__state *s = &r->at;
    kd_status st;
    if (!is_sound(r)) {
        r->diverged = true;
        return KD_OK;
    }
    s->loss = s->rows ? s->loss_sum / (double)s->rows : 0; // of masks that mark nothing
    if (r->valid.rows) {
        s->valid_loss = r->valid.loss / (double)r->valid.rows;
        s->bad_epochs = s->epoch && s->valid_loss >= s->least_loss ? s->bad_epochs + 1 : 0;
        if (!s->bad_epochs) s->least_loss = s->valid_loss;
        if (r->spec.train.patience && s->bad_epochs >= (uint64_t)r->spec.train.patience) s->ended = 1;
    }
    if (r->valid.labelled) s->valid_accuracy = (double)r->valid.hits / (double)r->valid.labelled;
    keep_best(r);
    if ((st = kd__metrics_epoch(r, err))) return st;
    s->epoch++;
    s->step = s->rows = s->labelled = 0;
    memset(s->hits, 0, sizeof(s->hits));
    s->loss_sum = 0;
    memset(s->term_sum, 0, sizeof(s->term_sum));
    return KD_OK;
}

/* ---- after -------------------------------------------------------------------------------- */

static uint64_t weight_hash(const kd__run *r)
{
    kd_hasher *h = kd_hasher_create();
    uint64_t hash = 0;
    if (!h) return 0;
    kd_hasher_add(h, r->weights, r->slab * sizeof(float));
    if (r->buffers) kd_hasher_add(h, r->stats, r->buffers * sizeof(float));
    kd_id id = kd_hasher_digest(h);
    for (int i = 0; i < 8; i++) hash = hash << 8 | id.b[i];
    kd_hasher_free(h);
    return hash;
}

static void fill_result(kd__run *r)
{
    const kd__state *s = &r->at;
    kd_train_result *x = &r->result;
    bool best = r->best && s->best_epoch;
    if (!best) kd__run_swap(r);
    if (best) {
        memcpy(r->weights, r->best, r->slab * sizeof(float));
        if (r->buffers) memcpy(r->stats, r->best + r->slab, r->buffers * sizeof(float));
    }
    x->epochs = s->epoch;
    x->seconds = s->seconds;
    x->loss = best ? s->best_loss : s->loss;
    x->valid_loss = best ? s->best_valid_loss : s->valid_loss;
    x->valid_accuracy = best ? s->best_accuracy : s->valid_accuracy;
    x->params = kd_model_param_count(r->model);
    x->weight_hash = weight_hash(r);
}

static kd_status swap_in(const kd__run *r, kd_err *err)
{
    char *old = kd_sprintf("%s.old.part", r->folder); // a name that is taken for unfinished
    kd_status st = KD_OK;
    if (!old) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (is_there(r->folder)) {
        if (!(st = kd_remove_tree(old, err)) && rename(r->folder, old))
            st = kd_fail_errno(err, errno, "%s: cannot move the old run away", r->folder);
    }
    if (!st && rename(r->part, r->folder))
        st = kd_fail_errno(err, errno, "%s: cannot rename to %s", r->part, r->folder);
    char *cut = strrchr(r->folder, '/'),
         *parent = cut ? kd_sprintf("%.*s", (int)(cut - r->folder + (cut == r->folder)), r->folder)
                       : kd_strdup(".");
    if (!st) st = parent ? kd_fsync_path(parent, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) st = kd_remove_tree(old, err);
    free(parent);
    free(old);
    return st;
}

/* A model of texts is of use only with its tokenizer; a store that keeps none has tokens from elsewhere. */
static kd_status save_tokenizer(const kd__run *r, const kd_trainer *t, kd_err *err)
{
    kd_tokenizer *z;
    if (!r->texts || !kd__trainer_column(t, t->text[0])->book) return KD_OK;
    kd_status st = kd_store_tokenizer(&z, t->store, t->columns[t->text[0]], err);
    if (st) return st;
    st = kd_tokenizer_save(z, r->part, err);
    kd_tokenizer_close(z);
    return st;
}

kd_status kd__run_finish(kd__run *r, const kd_trainer *t, kd_err *err)
{
    kd_status st;
    if (r->start != KD__WRITTEN) {
        fill_result(r);
        if (!t->blocks) r->result.valid_loss = NAN;
        if (!t->blocks || (r->label < 0 && !r->language)) r->result.valid_accuracy = NAN;
        if ((st = kd_model_save(r->model, r->part, NULL, err)) || (st = save_tokenizer(r, t, err)) ||
            (st = kd__metrics_write(r, err)) || (st = kd__provenance_write(t, r, err)))
            return st;
        r->start = KD__WRITTEN;
    }
    if ((st = kd__checkpoint_clear(r, err)) || (st = swap_in(r, err))) return st;
    if (r->lock >= 0) close(r->lock);
    r->lock = -1;
    r->done = true;
    return KD_OK;
}
