/* plan.c - what a dump would cost, from a sample of rows and before anything is written.
 *
 * The teacher's time a row is measured, and so is each encoding: its bytes as they would be packed, what it
 * keeps, the time to encode and to decode. The stages of a pass overlap, so a dump takes as long as the
 * slower of teacher and encoder. Of a language model a row is a position; its logits are measured in blocks
 * of a few hundred, and never all there.
 *
 * Break-even: S students of E epochs, each with the teacher running beside it, cost S E teacher passes; one
 * dump and S E readings cost dump + S E decode. The first whole S from which the second is less is
 * dump / (E (teacher - decode)), rounded up; with none to spare there is no such S.
 */
#include "teacher_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void kd_plan_time(kd_plan_entry *e, double teacher_s, uint64_t rows, int64_t epochs)
{
    const double n = (double)rows, saved = (teacher_s - e->decode_s) * n * (double)epochs;
    e->dump_s = n * fmax(teacher_s, e->encode_s);
    e->students = saved > 0 ? floor(e->dump_s / saved) + 1 : INFINITY;
}

/* ---- what is tried -------------------------------------------------------------------------- */

enum { CANDIDATES = 64, WIDTH = 64 };

typedef struct candidates {
    char text[CANDIDATES][WIDTH];
    size_t n;
} candidates;

/* key: "" for none. */
static void offer(candidates *c, const char *name, const char *key, int value, const char *more)
{
    if (c->n == CANDIDATES) return;
    char *text = c->text[c->n++];
    const size_t n = (size_t)snprintf(text, WIDTH, "%s", name);
    if (*key && n < WIDTH) snprintf(text + n, WIDTH - n, ":%s=%d%s", key, value, more);
}

/* Whether "key=" stands in a codec's list of parameters. */
static bool has_key(const kd_codec_info *info, const char *key)
{
    const size_t len = strlen(key);
    for (const char *p = info->params; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (!strncmp(p, key, len) && p[len] == '=') return true;
    return false;
}

/* The dense types, and every codec; those that keep few classes with a few numbers of them. */
static void offer_all(candidates *c, int64_t classes)
{
    static const int kept[] = {8, 16, 64}, points[] = {20, 50};
    size_t n;
    const kd_codec_info *list = kd_codec_list(&n);
    offer(c, "f32", "", 0, "");
    offer(c, "f16", "", 0, "");
    offer(c, "bf16", "", 0, "");
    for (size_t i = 0; i < n; i++) {
        const bool k = has_key(&list[i], "k"), draws = has_key(&list[i], "n");
        for (size_t j = 0; k && j < KD_COUNT(kept); j++)
            if (kept[j] < classes)
                offer(c, list[i].name, "k", kept[j],
                      has_key(&list[i], "temperatures") ? ",temperatures=1+4" : "");
        for (size_t j = 0; !k && draws && j < KD_COUNT(points); j++)
            offer(c, list[i].name, "n", points[j], "");
        if (!k && !draws) offer(c, list[i].name, "", 0, "");
    }
}

/* ---- the sample ----------------------------------------------------------------------------- */

typedef struct sample {
    float *logits; /* (rows, classes) */
    kd_id *ids;    /* (rows) */
    uint64_t rows;
    double seconds; /* in the teacher */
} sample;

static kd_status take_sample(sample *x, kd_teacher *t, kd_store *s, uint64_t rows, kd_err *err)
{
    kd__reader r = {0};
    kd__values v = {0};
    kd__target g = {.source = KD__LOGITS, .size = t->classes};
    const size_t most = kd__most_rows(s);
    uint32_t chunk;
    uint64_t all = 0;
    size_t count;
    kd_status st = kd__reader_open(&r, t, s, NULL, true, 1, err);
    for (uint32_t i = 0; kd__sample(s, rows, i, &chunk); i++) all += kd_store_chunk(s, chunk)->rows;
    if (!st && kd_mul_size(all, t->classes, &count)) {
        x->logits = kd_alloc_aligned(count + 1, sizeof *x->logits);
        x->ids = kd_alloc_aligned(all + 1, sizeof *x->ids);
    }
    if (!st && (!x->logits || !x->ids))
        st = kd_fail(err, KD_ENOMEM, "%s: no memory for a sample of %llu rows", kd_store_path(s),
                     (unsigned long long)all);
    if (!st) st = kd__values_open(&v, &g, 1, most, err);
    if (!st) st = kd__values_fill(&v, t, &r, 0, &g, 1, err); // the first run plans and packs weights
    for (uint32_t i = 0; !st && kd__sample(s, rows, i, &chunk); i++) {
        const uint32_t n = kd_store_chunk(s, chunk)->rows;
        const double start = kd_now();
        if ((st = kd__values_fill(&v, t, &r, chunk, &g, 1, err))) break;
        x->seconds += kd_now() - start;
        st = kd_cursor_read(r.slot[0].cursor, r.id, chunk, x->ids + x->rows, n * sizeof *x->ids, err);
        memcpy(x->logits + x->rows * t->classes, v.v[0], n * t->classes * sizeof *x->logits);
        x->rows += n;
    }
    kd__values_release(&v);
    kd__reader_close(&r);
    return st;
}

/* Encodings of which some may not fit. */
typedef struct offered {
    const char *const *text;
    size_t n;
    bool all; /* of kd's own choice: what does not fit is passed over */
} offered;

static bool passed_over(const offered *o, kd_status st)
{
    return o->all && (st == KD_EUSAGE || st == KD_EUNSUPPORTED || st == KD_ENUMERIC);
}

static kd_status plan_rows(kd_plan *plan, kd_teacher *t, kd_store *s, const offered *o, uint64_t rows,
                           const kd_writer_params *wp, kd_err *err)
{
    sample x = {0};
    kd_status st = take_sample(&x, t, s, rows, err);
    plan->sampled = x.rows;
    plan->teacher_s = x.seconds / (double)x.rows;
    for (size_t i = 0; i < o->n && !st; i++) {
        kd_err why = {0};
        st = kd_plan_measure(&plan->entry[plan->n], o->text[i], x.logits, x.rows, (int64_t)t->classes, x.ids,
                             (uint32_t)kd__most_rows(s), wp->level, wp->threads, &why);
        if (!st)
            plan->n++;
        else
            st = passed_over(o, st) ? KD_OK : kd_fail(err, st, "%s", why.msg);
    }
    free(x.logits);
    free(x.ids);
    return st;
}

/* ---- of what a language model says ---------------------------------------------------------- */

enum { PIECE = KD__HEAD_ROWS }; /* positions of a block, so that no more logits are there at a time */

typedef struct listener {
    kd_teacher *t;
    const offered *o;
    kd__measure *measure[CANDIDATES]; /* NULL: does not fit */
    float *logits;                    /* (PIECE, classes) */
    kd_id ids[PIECE];                 /* for draws */
    size_t n;
    uint64_t positions;
    double seconds; /* in measures */
} listener;

static kd_status hear_block(listener *l, kd_err *err)
{
    const double start = kd_now();
    kd_status st = KD_OK;
    for (size_t i = 0; i < l->n; i++) {
        const uint64_t number = l->positions - l->n + i;
        memcpy(&l->ids[i], &number, sizeof number);
    }
    for (size_t i = 0; i < l->o->n && !st && l->n; i++) {
        kd_err why = {0};
        if (!l->measure[i]) continue;
        st = kd__measure_add(l->measure[i], l->logits, (uint32_t)l->n, l->ids, &why);
        if (!passed_over(l->o, st)) {
            if (st) kd_fail(err, st, "%s", why.msg);
            continue;
        }
        kd__measure_free(l->measure[i]);
        l->measure[i] = NULL;
        st = KD_OK;
    }
    l->n = 0;
    l->seconds += kd_now() - start;
    return st;
}

static kd_status hear(void *arg, const float *logits, size_t n, kd_err *err)
{
    listener *l = arg;
    kd_status st = l->n + n > PIECE ? hear_block(l, err) : KD_OK;
    memcpy(l->logits + l->n * l->t->classes, logits, n * l->t->classes * sizeof *logits);
    l->n += n;
    l->positions += n;
    return st;
}

static kd_status hear_nothing(void *arg, const float *logits, size_t n, kd_err *err)
{
    (void)arg, (void)logits, (void)n, (void)err;
    return KD_OK;
}

static kd_status listen(kd_plan *plan, listener *l, kd_store *s, uint64_t positions, kd_err *err)
{
    kd__reader r = {0};
    kd__said_seen seen;
    kd_status st = kd__reader_open(&r, l->t, s, NULL, true, 1, err);
    if (!st) st = kd__said_sample(l->t, &r, 0, 1, hear_nothing, NULL, &seen, err); // plans and packs weights
    const double start = kd_now();
    if (!st) st = kd__said_sample(l->t, &r, 0, (size_t)positions, hear, l, &seen, err);
    if (!st) st = hear_block(l, err);
    kd__reader_close(&r);
    if (!st && !l->positions)
        st = kd_fail(err, KD_EMISMATCH, "%s: no token that is to be predicted", kd_store_path(s));
    if (st) return st;
    plan->sampled = l->positions;
    plan->teacher_s = (kd_now() - start - l->seconds) / (double)seen.positions;
    plan->rows = (uint64_t)((double)kd_store_rows(s) * (double)seen.positions / (double)seen.rows);
    return KD_OK;
}

static kd_status plan_positions(kd_plan *plan, kd_teacher *t, kd_store *s, const offered *o,
                                uint64_t positions, const kd_writer_params *wp, kd_err *err)
{
    listener l = {.t = t, .o = o, .logits = kd_alloc_aligned(PIECE * t->classes, sizeof(float))};
    kd_status st = l.logits ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a sample of logits");
    plan->positions = true;
    for (size_t i = 0; i < o->n && !st; i++) {
        kd_err why = {0};
        st = kd__measure_open(&l.measure[i], o->text[i], (int64_t)t->classes, PIECE, wp->level, wp->threads,
                              &why);
        if (!st) continue;
        kd__measure_free(l.measure[i]);
        l.measure[i] = NULL;
        st = passed_over(o, st) ? KD_OK : kd_fail(err, st, "%s", why.msg);
    }
    if (!st) st = listen(plan, &l, s, positions, err);
    for (size_t i = 0; i < o->n; i++) {
        if (!st && l.measure[i]) kd__measure_end(l.measure[i], &plan->entry[plan->n++]);
        kd__measure_free(l.measure[i]);
    }
    free(l.logits);
    return st;
}

/* ---- the plan ------------------------------------------------------------------------------- */

kd_status kd_teacher_plan(kd_plan *plan, kd_teacher *t, kd_store *s, const char *const *encodings, size_t n,
                          uint64_t rows, int64_t epochs, const kd_writer_params *wp, kd_err *err)
{
    candidates *c = calloc(1, sizeof *c);
    const char *text[CANDIDATES];
    offered o = {encodings, n, !n};
    *plan = (kd_plan){.rows = kd_store_rows(s)};
    kd_status st = c ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && kd_model_reads_tokens(t->model) && !t->speaks)
        st = kd_fail(err, KD_EUNSUPPORTED, "%s: gives embeddings of texts; a plan is of logits", t->folder);
    if (!st && o.all) {
        offer_all(c, (int64_t)t->classes);
        for (size_t i = 0; i < c->n; i++) text[i] = c->text[i];
        o = (offered){text, c->n, true};
    }
    if (!st && !(plan->entry = calloc(o.n, sizeof *plan->entry)))
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) st = (t->speaks ? plan_positions : plan_rows)(plan, t, s, &o, rows, wp, err);
    for (size_t i = 0; i < plan->n && !st; i++)
        kd_plan_time(&plan->entry[i], plan->teacher_s, plan->rows, epochs);
    free(c);
    if (st) kd_plan_release(plan);
    return st;
}

void kd_plan_release(kd_plan *plan)
{
    free(plan->entry);
    *plan = (kd_plan){0};
}
