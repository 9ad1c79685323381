/* recheck.c - runs the teacher again over some rows and compares.
 *
 * A store says which teacher made a column by its fingerprint, and checksums say that the bytes are those
 * that were written. Neither says that what was written is what the teacher computes: an import may have
 * brought rows in the wrong order, another runtime may compute other numbers. Fresh outputs go through the
 * column's own encoding, draws included, so that what differs is the teacher's output and not the rounding.
 */
#include "teacher_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct compared {
    double largest, square, power;
    uint64_t positions, same;
} compared;

typedef struct check {
    kd_teacher *t;
    kd_store *s;
    kd__target target[KD__TARGETS];
    int column[KD__TARGETS]; /* in the store */
    compared sum[KD__TARGETS];
    size_t n;
    kd__text text[KD__TEXTS];
    int texts;
    kd_view_spec views;
    kd_cursor *cursor;
    float *stored, *fresh; /* (room) */
    size_t room;
    kd_sparse old, now;
    kd__encoder encoder;
    kd_id *ids;
} check;

/* ---- which columns -------------------------------------------------------------------------- */

static kd_status add_tap(check *k, const kd_column *c, kd_tap *taps, size_t *ntaps, unsigned *source,
                         kd_err *err)
{
    const char *form = json_string_value(json_object_get(c->params, "form"));
    char text[2 * KD_STORE_NAME_MAX];
    snprintf(text, sizeof text, form ? "%s:%s" : "%s", c->tap, form);
    if (form && !strcmp(form, kd_tap_form_name(KD_TAP_ATTENTION)) && c->ndims == 2)
        snprintf(text, sizeof text, "%s:%s=%lldx%lld", c->tap, form, (long long)c->dims[0],
                 (long long)c->dims[1]);
    kd_tap tap;
    kd_status st = kd_tap_parse(&tap, text, err);
    *source = KD__TAPS;
    for (size_t i = 0; i < *ntaps && !st && strcmp(taps[i].node, tap.node); i++) ++*source;
    if (*source == KD__TAPS + *ntaps) taps[(*ntaps)++] = tap;
    return st ? kd_fail_in(err, st, "%s: column %s", kd_store_path(k->s), c->name) : KD_OK;
}

/* The column of texts that c was made of. */
static int text_of(const check *k, const kd_column *c)
{
    const char *input = json_string_value(json_object_get(c->params, "input"));
    int i = 0;
    while (input && i + 1 < k->texts && strcmp(k->text[i].c->name, input)) i++;
    return i;
}

static kd_status add_column(check *k, int at, kd_tap *taps, size_t *ntaps, kd_err *err)
{
    const kd_column *c = kd_store_column(k->s, (size_t)at);
    unsigned source = KD__LOGITS;
    kd_status st = KD_OK;
    const bool said = k->t->speaks && c->role == KD_ROLE_LOGITS;
    if (k->n == KD__TARGETS || (c->role == KD_ROLE_FEATURE && *ntaps == KD_TEACHER_TAPS))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: more columns of '%s' than can be checked at once",
                       kd_store_path(k->s), c->teacher);
    if (c->role == KD_ROLE_VIEW) {
        source = KD__VIEWS;
        st = kd_view_parse(&k->views, json_object_get(c->params, "views"), c->name, err);
    } else if (c->role == KD_ROLE_FEATURE) {
        st = add_tap(k, c, taps, ntaps, &source, err);
    } else if (c->role != KD_ROLE_LOGITS) {
        return KD_OK;
    }
    if (st) return st;
    kd__target *g = &k->target[k->n];
    g->source = source;
    g->said = said;
    g->text = text_of(k, c);
    g->column = *c;
    g->column.params = json_incref(c->params);
    g->column.book = NULL; // the store's; the codec has a copy
    g->column.book_bytes = 0;
    g->size = kd_column_each(c) * kd_column_width(c);
    k->column[k->n++] = at;
    return strcmp(c->encoding, "dense") ? kd_column_codec(&g->codec, c, err) : KD_OK;
}

static kd_status check_shapes(const check *k, kd_err *err)
{
    for (size_t i = 0; i < k->n; i++) {
        const kd__target *g = &k->target[i];
        const size_t want = g->source == KD__LOGITS  ? k->t->classes
                            : g->source == KD__VIEWS ? k->t->classes * (size_t)k->views.count
                                                     : k->t->tap[g->source - KD__TAPS].size;
        if (g->size != want && g->size != want * (size_t)(k->texts ? k->text[g->text].each : 1))
            return kd_fail(err, KD_EMISMATCH, "%s: column %s has %zu values a row, the teacher %s gives %zu",
                           kd_store_path(k->s), g->column.name, g->size, k->t->folder, want);
    }
    return KD_OK;
}

static kd_status find_columns(check *k, const char *name, kd_err *err)
{
    kd_tap taps[KD_TEACHER_TAPS];
    size_t ntaps = 0;
    kd_status st = KD_OK;
    const json_t *who = kd_store_teacher(k->s, name);
    const char *print = json_string_value(json_object_get(who, "fingerprint"));
    if (print && strcmp(print, k->t->fingerprint))
        return kd_fail(err, KD_EMISMATCH, "%s: other teacher: '%s' has the fingerprint %.32s, %s has %s",
                       kd_store_path(k->s), name, print, k->t->folder, k->t->fingerprint);
    if (kd_model_reads_tokens(k->t->model)) st = kd__teacher_texts(k->text, &k->texts, k->t, k->s, err);
    for (size_t i = 0; i < kd_store_columns(k->s) && !st; i++)
        if (!strcmp(kd_store_column(k->s, i)->teacher, name)) st = add_column(k, (int)i, taps, &ntaps, err);
    if (st) return st;
    if (!k->n)
        return kd_fail(err, KD_ENOTFOUND, "%s: no columns of a teacher '%s'; see: kd-store stat %s",
                       kd_store_path(k->s), name, kd_store_path(k->s));
    if ((st = kd_teacher_take(k->t, taps, ntaps, err))) return st;
    return check_shapes(k, err);
}

/* ---- comparing ------------------------------------------------------------------------------ */

static void add_values(compared *sum, const float *old, const float *now, size_t positions, size_t width)
{
    for (size_t k = 0; k < positions; k++, old += width, now += width) {
        size_t a = 0, b = 0;
        for (size_t i = 0; i < width; i++) {
            const double d = fabs((double)old[i] - (double)now[i]);
            sum->largest = fmax(sum->largest, d);
            sum->square += d * d;
            sum->power += (double)now[i] * now[i];
            if (old[i] > old[a]) a = i;
            if (now[i] > now[b]) b = i;
        }
        sum->same += a == b;
    }
    sum->positions += positions;
}

/* One position of a sparse block. */
typedef struct few {
    const uint32_t *id;
    const float *value;
    size_t n;
} few;

static few position(const kd_sparse *s, size_t k)
{
    return (few){s->id + s->offset[k], s->value + s->offset[k], (size_t)(s->offset[k + 1] - s->offset[k])};
}

static uint32_t best(few f)
{
    size_t top = 0;
    for (size_t i = 1; i < f.n; i++)
        if (f.value[i] > f.value[top]) top = i;
    return f.n ? f.id[top] : UINT32_MAX;
}

/* As vectors of probabilities in which what is not kept is 0; ids rise. */
static void add_sparse(compared *sum, few a, few b, bool logs)
{
    for (size_t i = 0, j = 0; i < a.n || j < b.n;) {
        const uint32_t x = i < a.n ? a.id[i] : UINT32_MAX, y = j < b.n ? b.id[j] : UINT32_MAX;
        const double p = x > y ? 0 : logs ? exp(a.value[i]) : a.value[i];
        const double q = y > x ? 0 : logs ? exp(b.value[j]) : b.value[j];
        sum->largest = fmax(sum->largest, fabs(p - q));
        sum->square += (p - q) * (p - q);
        sum->power += q * q;
        i += x <= y;
        j += y <= x;
    }
    sum->same += best(a) == best(b);
    sum->positions++;
}

/* Positions of a ragged column: as many as the store has of each row. */
static kd_status count_ragged(check *k, size_t i, uint32_t chunk, const uint32_t *lengths, size_t *positions,
                              kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(k->s, chunk);
    uint32_t *stored = malloc(ci->rows * sizeof *stored + 1);
    kd_status st = stored ? kd_cursor_lengths(k->cursor, k->column[i], chunk, stored, positions, err)
                          : kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk", kd_store_path(k->s));
    for (uint32_t r = 0; r < ci->rows && !st; r++)
        if (stored[r] != lengths[r])
            st = kd_fail(err, KD_EMISMATCH,
                         "%s: column %s has %u positions for row %llu, the teacher gives %u",
                         kd_store_path(k->s), k->target[i].column.name, stored[r],
                         (unsigned long long)(ci->first + r), lengths[r]);
    free(stored);
    return st;
}

static kd_status reserve(check *k, size_t floats, kd_err *err)
{
    if (floats <= k->room) return KD_OK;
    free(k->stored);
    free(k->fresh);
    k->stored = kd_alloc_aligned(floats, sizeof *k->stored);
    k->fresh = kd_alloc_aligned(floats, sizeof *k->fresh);
    k->room = k->stored && k->fresh ? floats : 0;
    return k->room ? KD_OK : kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk", kd_store_path(k->s));
}

static kd_status compare(check *k, size_t i, const kd__values *v, kd_err *err)
{
    kd__target *g = &k->target[i];
    const kd_chunk_info *ci = kd_store_chunk(k->s, v->chunk);
    const size_t width = kd_column_width(&g->column);
    const uint32_t *lengths = g->column.dims[0] < 0 ? v->lengths[g->text] : NULL;
    size_t positions = v->rows * g->size / width;
    kd_block b;
    kd_status st = g->said ? kd__said_end(v->said[i], &k->encoder.buf, &b, err)
                           : kd__encode(&k->encoder, g, v->v[i], k->ids, lengths, v->rows, k->t->threads,
                                        kd_store_path(k->s), ci->first, &b, err);
    if (!st && b.lengths) st = count_ragged(k, i, v->chunk, b.lengths, &positions, err);
    if (st) return st;
    if (!g->codec || !kd_codec_describe(g->codec)->sparse) {
        if ((st = reserve(k, positions * width, err))) return st;
        if (!(st = kd_cursor_read_f32(k->cursor, k->column[i], v->chunk, k->stored, positions, err)))
            st = g->codec ? kd_codec_decode(g->codec, b.data, b.bytes, positions, k->fresh, err)
                          : kd_to_f32(k->fresh, b.data, g->column.dtype, positions * width);
        if (!st) add_values(&k->sum[i], k->stored, k->fresh, positions, width);
        return st;
    }
    const bool logs = kd_codec_describe(g->codec)->serves & KD_SERVES_HEAD;
    if ((st = kd_cursor_read_sparse(k->cursor, k->column[i], v->chunk, &k->old, err)) ||
        (st = kd_codec_sparse(g->codec, b.data, b.bytes, positions, &k->now, err)))
        return st;
    for (size_t j = 0; j < positions; j++)
        add_sparse(&k->sum[i], position(&k->old, j), position(&k->now, j), logs);
    return KD_OK;
}

static kd_status make_rooms(check *k, kd_err *err)
{
    k->ids = kd_alloc_aligned(kd__most_rows(k->s) + 1, sizeof *k->ids);
    if (!k->ids) return kd_fail(err, KD_ENOMEM, "%s: no memory for a chunk", kd_store_path(k->s));
    return kd_cursor_open(&k->cursor, k->s, err);
}

/* Runs the sample and adds up what differs; *rows: of the sample. */
static kd_status run(check *k, uint64_t wanted, uint64_t *rows, kd_err *err)
{
    kd__reader r = {0};
    kd__values v = {0};
    uint32_t chunk;
    bool plain = false;
    for (size_t i = 0; i < k->n; i++) plain = plain || k->target[i].source != KD__VIEWS;
    kd_status st = kd__reader_open(&r, k->t, k->s, k->views.count ? &k->views : NULL, plain, 1, err);
    if (!st) st = kd__values_open(&v, k->target, k->n, kd__most_rows(k->s), err);
    *rows = 0;
    for (uint32_t i = 0; !st && kd__sample(k->s, wanted, i, &chunk); i++) {
        const size_t bytes = kd_store_chunk(k->s, chunk)->rows * sizeof *k->ids;
        if ((st = kd_cursor_read(k->cursor, r.id, chunk, k->ids, bytes, err)) ||
            (st = kd__values_fill(&v, k->t, &r, chunk, k->target, k->n, err)))
            break;
        for (size_t j = 0; j < k->n && !st; j++) st = compare(k, j, &v, err);
        *rows += v.rows;
    }
    kd__reader_close(&r);
    kd__values_release(&v);
    return st;
}

kd_status kd_teacher_recheck(kd_teacher *t, kd_store *s, const char *name, uint64_t rows, kd_recheck *out,
                             size_t *n, kd_err *err)
{
    check *k = calloc(1, sizeof *k);
    uint64_t done = 0;
    *n = 0;
    if (!k) return kd_fail(err, KD_ENOMEM, "out of memory");
    k->t = t;
    k->s = s;
    kd_status st = kd_teacher_check(t, s, err);
    if (st || (st = find_columns(k, name, err)) || (st = make_rooms(k, err)) ||
        (st = run(k, rows, &done, err)))
        goto out;
    for (size_t i = 0; i < k->n; i++) {
        const compared *x = &k->sum[i];
        kd_recheck *r = &out[(*n)++];
        *r = (kd_recheck){.rows = done,
                          .largest = x->largest,
                          .relative = x->power > 0 ? sqrt(x->square / x->power) : sqrt(x->square),
                          .top1 = x->positions ? (double)x->same / (double)x->positions : 1};
        memcpy(r->column, k->target[i].column.name, sizeof r->column);
        r->matches = r->relative <= 0.01 && (k->target[i].source >= KD__TAPS || r->top1 >= 0.99);
    }
out:
    for (size_t i = 0; i < k->n; i++) kd__target_release(&k->target[i]);
    kd__encoder_release(&k->encoder);
    kd_sparse_release(&k->old);
    kd_sparse_release(&k->now);
    kd_cursor_close(k->cursor);
    free(k->stored);
    free(k->fresh);
    free(k->ids);
    free(k);
    return st;
}
