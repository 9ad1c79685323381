/* metrics.c - metrics.jsonl: one line an epoch.
 *
 * The text so far is kept in memory and in every checkpoint. A resumed run writes the file anew from
 * the checkpoint, so lines of epochs that are trained again, or half a line of a killed run, cannot
 * stay behind; between checkpoints lines are appended, so that the file can be followed while a run lasts.
 */
#include "train_private.h"

#include <errno.h>
#include <stdlib.h>

static json_t *real(double v) { return v == v ? json_real(v) : json_null(); }

static json_t *line_json(kd__run *r)
{
    const kd__state *s = &r->at;
    const char *names[KD_LOSS_TERMS];
    double values[KD_LOSS_TERMS], rows = (double)s->rows;
    int n = kd_loss_terms(r->loss, names, values);
    json_t *terms = json_object(), *o;
    for (int i = 0; i < n; i++) json_object_set_new(terms, names[i], real(s->term_sum[i] / rows));
    o = json_pack("{s:I, s:I, s:o, s:o, s:o}", "epoch", (json_int_t)s->epoch + 1, "step",
                  (json_int_t)kd__run_updates(r), "loss", real(s->loss), "terms", terms, "lr",
                  real(kd__run_lr(r, -1)));
    if (!o) return NULL;
    if (r->valid.rows) json_object_set_new(o, "valid_loss", real(s->valid_loss));
    if (r->valid.labelled) json_object_set_new(o, "valid_accuracy", real(s->valid_accuracy));
    if (r->logits >= 0 && s->labelled)
        json_object_set_new(o, "teacher_accuracy", real((double)s->hits / (double)s->labelled));
    json_object_set_new(o, "seconds", real(s->seconds));
    json_object_set_new(o, "stall_s", real(r->stall));
    return o;
}

static kd_status append(const kd__run *r, const char *text, kd_err *err)
{
    char *path = kd_path_join(r->part, "metrics.jsonl");
    FILE *f = path ? fopen(path, "ae") : NULL;
    kd_status st = KD_OK;
    if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (!f) {
        st = kd_fail_errno(err, errno, "%s: cannot open", path);
    } else {
        errno = 0;
        bool whole = fputs(text, f) >= 0;
        if (fclose(f) || !whole) st = kd_fail_errno(err, errno ? errno : EIO, "%s: cannot write", path);
    }
    free(path);
    return st;
}

kd_status kd__metrics_line(kd__run *r, kd_err *err)
{
    size_t from = r->log.len;
    json_t *o = line_json(r);
    char *text = o ? kd_json_text(o, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (text) kd_buf_printf(&r->log, "%s\n", text);
    bool failed = !text || r->log.failed;
    free(text);
    json_decref(o);
    if (failed) return kd_fail(err, KD_ENOMEM, "%s: no memory for its metrics", r->folder);
    return append(r, r->log.text + from, err);
}

kd_status kd__metrics_write(const kd__run *r, kd_err *err)
{
    char *path = kd_path_join(r->part, "metrics.jsonl");
    if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd_file_write(path, r->log.text ? r->log.text : "", r->log.len, err);
    free(path);
    return st;
}
