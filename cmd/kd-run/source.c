/* source.c - from an operand to rows of the student's shape.
 *
 * A picture may be fitted (and that is said), rows of numbers may not: a row of another shape is another kind
 * of thing. What is wrong with one operand is its own affair: it gets a line, and the run goes on. Running
 * out of memory or a model that answers nonsense ends the run.
 */
#include "run_cmd.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX  (256u << 20)
#define STDIN_MAX (1u << 30)
#define NOTES     5

/* ---- one row -------------------------------------------------------------------------------------- */

/* A picture is bytes; a student of numbers from 0 to 1 would take it for something far outside. */
static kd_status check_white(const runner *r, const char *name, kd_err *err)
{
    const kd_model *m = r->model;
    const bool plain = m->mean == 0 && m->scale == 1, unit = m->mean <= 1 && m->scale >= 1;
    if (plain || !unit || r->o->white != 255) return KD_OK;
    return kd_fail(
        err, KD_EMISMATCH,
        "%s: pixels are bytes, but the student was trained on numbers around %.3g ± %.3g; if white was 1 "
        "there: --white 1",
        name, m->mean, 1 / m->scale);
}

static void note_picture(runner *r, const kd_image *im, const run_row *about, const char *name)
{
    if (!about->height && !about->transparent) return;
    if (++r->notes == NOTES + 1) kd_cli_say(r->cli, "further notes on pictures are left out; -v prints them");
    const char *over = im->transparent ? ", transparent pixels laid on white" : "";
    void (*say)(const kd_cli *, const char *, ...) = r->notes > NOTES ? kd_cli_detail : kd_cli_say;
    if (!about->height)
        say(r->cli, "%s: transparent pixels laid on white", name);
    else
        say(r->cli, "%s: %lld x %lld pixels, resampled to %lld x %lld%s%s", name, (long long)im->width,
            (long long)im->height, (long long)r->width, (long long)r->height,
            im->width * r->height == im->height * r->width ? "" : ", stretched", over);
}

static kd_status add_picture(runner *r, const char *name, const void *bytes, size_t n, kd_err *err)
{
    kd_image im = {0};
    float *to;
    kd_status st = check_white(r, name, err);
    if (!st && !r->height)
        st = kd_fail(err, KD_EMISMATCH, "%s: a picture, but the student takes rows of %s (model.input)", name,
                     r->shape);
    if (st || (st = kd_image_decode(&im, bytes, n, KD_IMAGE_MAX_PIXELS, name, err))) return st;
    if (!(st = run_place(r, name, &to, err)) &&
        !(st = kd_image_fit(&im, r->height, r->width, r->channels, to, err))) {
        run_row about = {.row = -1, .transparent = im.transparent};
        if (im.height != r->height || im.width != r->width) about.height = im.height, about.width = im.width;
        note_picture(r, &im, &about, name);
        for (size_t i = 0; i < r->values; i++) to[i] *= (float)(r->o->white / 255);
        st = run_add(r, about, err);
    }
    kd_image_release(&im);
    return st;
}

/* Row number `row` of a file: its values times factor. */
static kd_status add_values(runner *r, const char *name, int64_t row, const void *values, kd_dtype dtype,
                            double factor, kd_err *err)
{
    float *to;
    kd_status st = run_place(r, name, &to, err);
    if (st) return st;
    if (kd_to_f32(to, values, dtype, r->values))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: %s is no type of numbers", name, kd_dtype_name(dtype));
    for (size_t i = 0; i < r->values; i++) {
        if (!isfinite(to[i]))
            return kd_fail(err, KD_ECORRUPT, "%s: row %lld, value %zu is %g, not a finite number", name,
                           (long long)row, i, to[i]);
        to[i] *= (float)factor;
    }
    return run_add(r, (run_row){.row = row}, err);
}

/* ---- rows of a file --------------------------------------------------------------------------------- */

/* The file's rows are the student's; a last axis of 1 may be left out. */
static kd_status check_rows(const runner *r, const kd_array *a, const char *path, kd_err *err)
{
    const kd_ints *want = &r->model->spec.input;
    char have[128] = "single numbers";
    size_t n = want->n, at = 0;
    if (n > 1 && want->v[n - 1] == 1 && (size_t)a->ndims < n) n--;
    bool same = (size_t)a->ndims == n;
    for (size_t i = 0; i < n && same; i++) same = a->dims[i] == want->v[i];
    if (same) return KD_OK;
    for (int i = 0; i < a->ndims && at < sizeof have; i++)
        at += (size_t)snprintf(have + at, sizeof have - at, "%s%lld", i ? " x " : "", (long long)a->dims[i]);
    return kd_fail(err, KD_EMISMATCH, "%s: its rows are %s, the student takes %s (model.input)", path, have,
                   r->shape);
}

/* Of a row that is refused the rest of the file is, too. only: a row, -1: all. */
static kd_status add_rows(runner *r, const char *path, int64_t only, kd_err *err)
{
    kd_array a = {0};
    kd_status st = kd_array_read(&a, path, NULL, err);
    if (!st) st = check_rows(r, &a, path, err);
    if (!st && only >= 0 && (uint64_t)only >= a.rows)
        st = kd_fail(err, KD_ENOTFOUND, "%s: no row %lld; it has %llu, counted from 0", path, (long long)only,
                     (unsigned long long)a.rows);
    const uint64_t first = only < 0 ? 0 : (uint64_t)only, end = only < 0 ? a.rows : first + 1;
    for (uint64_t i = first; i < end && !st && !kd_stop_requested; i++)
        st = add_values(r, path, (int64_t)i, (char *)a.data + i * kd_array_row_bytes(&a), a.dtype, 1, err);
    kd_array_release(&a);
    return st;
}

/* ---- operands --------------------------------------------------------------------------------------- */

static kd_status read_stdin(char **bytes, size_t *len, kd_err *err)
{
    kd_buf b = {0};
    char piece[65536];
    ssize_t n;
    while ((n = read(STDIN_FILENO, piece, sizeof piece)) > 0 && b.len <= STDIN_MAX && !b.failed)
        kd_buf_append(&b, piece, (size_t)n);
    kd_status st = KD_OK;
    if (n < 0)
        st = kd_fail_errno(err, errno, "standard input: cannot read");
    else if (b.failed)
        st = kd_fail(err, KD_ENOMEM, "standard input: no memory for more than %zu bytes", b.len);
    else if (b.len > STDIN_MAX)
        st = kd_fail(err, KD_ELIMIT, "standard input: more than %u MiB", STDIN_MAX >> 20);
    else if (!b.len)
        st = kd_fail(err, KD_ECORRUPT, "standard input: empty");
    if (st) kd_buf_release(&b);
    *bytes = b.text, *len = b.len;
    return st;
}

static kd_status add_stdin(runner *r, kd_err *err)
{
    static const char name[] = "standard input";
    char *bytes = NULL;
    size_t len;
    kd_status st = read_stdin(&bytes, &len, err);
    if (!st && kd_image_known(bytes, len)) {
        st = add_picture(r, name, bytes, len, err);
    } else if (!st && !(st = check_white(r, name, err))) {
        if (len % r->values)
            st = kd_fail(err, KD_EMISMATCH,
                         "standard input: %zu bytes are no picture and no whole rows of %s bytes", len,
                         r->shape);
        for (size_t i = 0; i < len / r->values && !st; i++)
            st = add_values(r, name, (int64_t)i, bytes + i * r->values, KD_U8, r->o->white / 255, err);
    }
    free(bytes);
    return st;
}

/* "file#12" to file and 12, unless there is a file of that very name. path: free() it. */
static kd_status split_operand(const char *operand, char **path, int64_t *row, kd_err *err)
{
    const char *at = strrchr(operand, '#');
    *row = -1;
    if (!(*path = kd_strdup(operand))) return kd_fail(err, KD_ENOMEM, "no memory for a name");
    if (!at || !at[1] || strspn(at + 1, "0123456789") != strlen(at + 1) || strlen(at + 1) > 15 ||
        kd_exists(operand))
        return KD_OK;
    (*path)[at - operand] = '\0';
    *row = strtoll(at + 1, NULL, 10);
    return KD_OK;
}

static bool named_picture(const char *path)
{
    static const char *const ends[] = {".png", ".jpg", ".jpeg"};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < KD_COUNT(ends); i++)
        if (!strcasecmp(dot, ends[i])) return true;
    return false;
}

static bool begins_as_picture(const char *path)
{
    char head[8];
    FILE *f = fopen(path, "re");
    const size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    return kd_image_known(head, n);
}

static kd_status add_file(runner *r, const char *path, int64_t row, kd_err *err)
{
    if (!kd_exists(path)) return kd_fail(err, KD_ENOTFOUND, "%s: no such file", path);
    if (kd_is_dir(path)) return kd_fail(err, KD_EUSAGE, "%s: a folder; name the files in it", path);
    if (!begins_as_picture(path) && !named_picture(path)) return add_rows(r, path, row, err);
    if (row >= 0)
        return kd_fail(err, KD_EUSAGE, "%s: a picture has no rows; leave #%lld out", path, (long long)row);
    char *bytes;
    size_t len;
    kd_status st = kd_file_read(path, FILE_MAX, &bytes, &len, err);
    if (st) return st;
    st = add_picture(r, path, bytes, len, err);
    free(bytes);
    return st;
}

kd_status run_operand(runner *r, const char *operand, kd_err *err)
{
    char *path = NULL;
    int64_t row;
    kd_err own = {0};
    kd_status st;
    if (!strcmp(operand, "-"))
        st = add_stdin(r, &own);
    else if (!(st = split_operand(operand, &path, &row, &own)))
        st = add_file(r, path, row, &own);
    free(path);
    if (st == KD_ENOMEM || st == KD_ENUMERIC || st == KD_EFULL) {
        *err = own;
    } else if (st) {
        r->refused++;
        if (!(st = run_flush(r, err))) st = run_print_refused(r, operand, own.msg, err);
    }
    return st;
}
