/* metrics.c - metrics.jsonl: one line an epoch, and one every so many steps where that is asked for.
 *
 * The text so far is kept in memory and in every checkpoint. A resumed run writes the file anew from
 * the checkpoint, so lines of steps that are done again, or half a line of a killed run, cannot
 * stay behind; between checkpoints lines are appended, so that the file can be followed while a run lasts.
 * TensorBoard's file is the same lines in its own form (events.c) and shares their fate.
 */
#include "train_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>

#define LINES  "metrics.jsonl"
#define EVENTS "events.out.tfevents.kd" /* TensorBoard looks for "tfevents" in the name */

static json_t *real(double v) { return v == v ? json_real(v) : json_null(); }

/* Share of the labelled rows where each teacher of the run is right; one: a number, several: by name. */
static json_t *teachers_json(const kd__run *r)
{
    const kd__state *s = &r->at;
    json_t *all = json_object();
    for (int k = 0; k < r->nteachers; k++) {
        json_t *share = real((double)s->hits[k] / (double)s->labelled);
        if (r->nteachers == 1) {
            json_decref(all);
            return share;
        }
        json_object_set_new(all, r->teacher_name[k], share);
    }
    return all;
}

/* Seconds since 1970, to the millisecond. */
static double wall_time(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (double)ts.tv_sec + (double)(ts.tv_nsec / 1000000) / 1000;
}

/* ---- files -------------------------------------------------------------------------------- */

static kd_status append(const kd__run *r, const char *name, const char *text, size_t len, kd_err *err)
{
    char *path = kd_path_join(r->part, name);
    FILE *f = path ? fopen(path, "ae") : NULL;
    kd_status st = KD_OK;
    if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (!f) {
        st = kd_fail_errno(err, errno, "%s: cannot open", path);
    } else {
        errno = 0;
        bool whole = fwrite(text, 1, len, f) == len;
        if (fclose(f) || !whole) st = kd_fail_errno(err, errno ? errno : EIO, "%s: cannot write", path);
    }
    free(path);
    return st;
}

static kd_status replace(const kd__run *r, const char *name, const char *text, size_t len, kd_err *err)
{
    char *path = kd_path_join(r->part, name);
    if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd_file_write(path, text ? text : "", len, err);
    free(path);
    return st;
}

static kd_status write_events(const kd__run *r, kd_err *err)
{
    kd_buf events = {0};
    kd__events_begin(&events, wall_time());
    kd_status st = kd__events_lines(&events, r->log.text, r->log.len, err);
    if (!st) st = replace(r, EVENTS, events.text, events.len, err);
    kd_buf_release(&events);
    return st;
}

kd_status kd__metrics_write(const kd__run *r, kd_err *err)
{
    kd_status st = replace(r, LINES, r->log.text, r->log.len, err);
    return st || !r->events ? st : write_events(r, err);
}

/* Releases o, which may be NULL. */
static kd_status add_line(kd__run *r, json_t *o, kd_err *err)
{
    size_t from = r->log.len;
    if (o) json_object_set_new(o, "time", json_real(wall_time()));
    char *text = o ? kd_json_text(o, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (text) kd_buf_printf(&r->log, "%s\n", text);
    bool failed = !text || r->log.failed;
    kd_buf events = {0};
    kd_status st;
    free(text);
    json_decref(o);
    if (failed) return kd_fail(err, KD_ENOMEM, "%s: no memory for its metrics", r->folder);
    if ((st = append(r, LINES, r->log.text + from, r->log.len - from, err)) || !r->events) return st;
    if (!(st = kd__events_lines(&events, r->log.text + from, r->log.len - from, err)))
        st = append(r, EVENTS, events.text, events.len, err);
    kd_buf_release(&events);
    return st;
}

/* ---- lines -------------------------------------------------------------------------------- */

kd_status kd__metrics_epoch(kd__run *r, kd_err *err)
{
    const kd__state *s = &r->at;
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS], rows = s->rows ? (double)s->rows : 1;
    int n = kd_loss_terms(r->loss, names, values);
    json_t *terms = json_object(), *o;
    for (int i = 0; i < n; i++) json_object_set_new(terms, names[i], real(s->term_sum[i] / rows));
    o = json_pack("{s:I, s:I, s:o, s:o, s:o}", "epoch", (json_int_t)s->epoch + 1, "step",
                  (json_int_t)kd__run_updates(r), "loss", real(s->loss), "terms", terms, "lr",
                  real(kd__run_lr(r, -1)));
    if (!o) return add_line(r, NULL, err);
    if (r->valid.rows) json_object_set_new(o, "valid_loss", real(s->valid_loss));
    if (r->valid.labelled) json_object_set_new(o, "valid_accuracy", real(s->valid_accuracy));
    if (r->language && r->valid.rows)
        json_object_set_new(o, "valid_perplexity", real(exp(r->valid.nll / (double)r->valid.rows)));
    if (r->nteachers && s->labelled) json_object_set_new(o, "teacher_accuracy", teachers_json(r));
    json_object_set_new(o, "seconds", real(s->seconds));
    json_object_set_new(o, "stall_s", real(r->stall));
    return add_line(r, o, err);
}

kd_status kd__metrics_step(kd__run *r, uint64_t every, kd_err *err)
{
    kd__state *s = &r->at;
    if (!every || s->total % (every * (uint64_t)r->spec.train.accumulate)) return KD_OK;
    json_t *o = json_pack("{s:I, s:o, s:o, s:o}", "step", (json_int_t)kd__run_updates(r), "loss",
                          real(s->span_rows ? s->span_loss / (double)s->span_rows : 0), "lr",
                          real(kd__run_lr(r, -1)), "seconds", real(s->seconds));
    s->span_loss = 0;
    s->span_rows = 0;
    return add_line(r, o, err);
}
