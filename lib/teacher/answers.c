/* answers.c - rows that a language model continues side by side.
 *
 * A single row's next token costs a pass over all weights, most of which is waiting for memory. So a pass
 * takes a token of each row that goes on, and pieces of the prompts of those that begin: each weight is read
 * once for all of them. A row that has ended gives its place to the next one.
 *
 * What a pass computes of a row does not depend on the others (kd_exec_resume), and a draw is a function of
 * the row's seed and the place of the token. The logits that a token is drawn from are encoded there and
 * then, by the thread that draws.
 */
#include "answers.h"

#include "kd/text.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { PASS = 256 }; /* tokens at most, more than there are rows */
#define KEPT_BYTES                                                                                           \
    ((size_t)1 << 30) /* of keys and values; fewer rows go on side by side where they are long */

struct kd__speakers {
    kd_teacher *t;
    const kd__target *g;
    const kd_generate_params *p;
    uint32_t most, end[KD_CHAT_ENDS];
    size_t nends;
    int64_t rows, active;
    kd__answer *answer[KD_GENERATE_ROWS]; /* by the exec's sequence; NULL: none */
    char *room;                           /* (threads, draw_bytes) */
    size_t draw_bytes;
};

/* ---- rows ----------------------------------------------------------------------------------- */

kd_status kd__answer_open(kd__answer *a, const kd__speakers *s, const void *ids, kd_dtype dtype, uint32_t n,
                          uint64_t row, kd_err *err)
{
    *a = (kd__answer){.prompt = n, .n = n, .row = row, .ended = !n || n >= s->most};
    const size_t room = kd_min_size((size_t)n + (size_t)s->p->answer, kd_max_size(s->most, n));
    if (!(a->token = malloc((room + 1) * sizeof *a->token)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for an answer", s->t->folder);
    for (uint32_t i = 0; i < n; i++) {
        a->token[i] = dtype == KD_U16 ? ((const uint16_t *)ids)[i] : (uint32_t)((const int32_t *)ids)[i];
        if (a->token[i] >= s->t->classes)
            return kd_fail(err, KD_ECORRUPT, "row %llu: token %u is %u, the teacher %s knows %zu",
                           (unsigned long long)row, i, a->token[i], s->t->folder, s->t->classes);
    }
    return kd__said_open(&a->said, 1, err);
}

void kd__answer_release(kd__answer *a)
{
    kd__said_free(a->said);
    free(a->token);
    *a = (kd__answer){0};
}

/* ---- places --------------------------------------------------------------------------------- */

/* Bytes of keys and values of a row. */
static size_t row_bytes(const kd_model_spec *m, uint32_t most)
{
    const size_t heads = (size_t)(m->kv_heads ? m->kv_heads : m->heads);
    return 2 * (size_t)m->layers * heads * (size_t)(m->width / m->heads) * most * sizeof(float);
}

/* The teacher's exec becomes one that keeps what it has seen of s->rows sequences. */
static kd_status plan(kd__speakers *s, kd_err *err)
{
    kd_teacher *t = s->t;
    kd_exec *ex;
    const kd_exec_params p = {.batch = PASS,
                              .sequences = s->rows,
                              .cache = s->most,
                              .threads = t->threads,
                              .precision = t->precision,
                              .fixed = true,
                              .keep = &t->body,
                              .nkeep = 1,
                              .kept_only = true};
    kd_status st = kd_exec_create(&ex, t->model->graph, &p, err);
    if (st) return kd_fail_in(err, st, "%s", t->folder);
    kd_exec_free(t->exec);
    t->exec = ex;
    t->ntaps = 0;
    return KD_OK;
}

/* The tokens that end an answer, of a teacher that has a tokenizer. */
static kd_status find_ends(kd__speakers *s, kd_err *err)
{
    kd_tokenizer *k;
    if (!*s->t->tokenizer) return KD_OK;
    kd_status st = kd_tokenizer_open(&k, s->t->folder, err);
    if (st) return st;
    s->nends = kd_chat_ends(k, s->end);
    kd_tokenizer_close(k);
    return KD_OK;
}

kd_status kd__speakers_open(kd__speakers **out, kd_teacher *t, const kd__target *g,
                            const kd_generate_params *p, uint32_t most, kd_err *err)
{
    kd__speakers *s = *out = calloc(1, sizeof *s);
    if (!s) return kd_fail(err, KD_ENOMEM, "%s: out of memory", t->folder);
    const size_t fit = kd_max_size(1, KEPT_BYTES / row_bytes(&t->model->spec, most));
    *s = (kd__speakers){.t = t, .g = g, .p = p, .most = most, .draw_bytes = kd_draw_bytes(t->classes)};
    s->rows = (int64_t)kd_min_size((size_t)p->rows, fit);
    if (!(s->room = malloc((size_t)t->threads * s->draw_bytes)))
        return kd_fail(err, KD_ENOMEM, "%s: out of memory", t->folder);
    kd_status st = find_ends(s, err);
    return st ? st : plan(s, err);
}

void kd__speakers_close(kd__speakers *s)
{
    if (!s) return;
    kd__teacher_plan(s->t, NULL, 0,
                     NULL); // one that keeps sequences takes others, too, if there is no memory
    free(s->room);
    free(s);
}

bool kd__speakers_free(const kd__speakers *s) { return s->active < s->rows; }
bool kd__speakers_idle(const kd__speakers *s) { return !s->active; }

void kd__speakers_begin(kd__speakers *s, kd__answer *a)
{
    int64_t i = 0;
    while (s->answer[i]) i++;
    s->answer[i] = a;
    s->active++;
}

/* ---- a pass --------------------------------------------------------------------------------- */

/* A token of each row, and what fits of the prompts that are not yet read; returns the rows that will be
 * asked for their next token. */
typedef struct pass {
    kd_exec_part part[KD_GENERATE_ROWS];
    kd__answer *speaks[KD_GENERATE_ROWS];
    uint32_t row[KD_GENERATE_ROWS]; /* of the pass, whose logits those are */
    int64_t parts, n, speaking;
} pass;

static void compose(const kd__speakers *s, pass *k)
{
    int64_t left = PASS - s->active;
    *k = (pass){0};
    for (int64_t i = 0; i < s->rows; i++) {
        kd__answer *a = s->answer[i];
        if (!a) continue;
        const int64_t more = (int64_t)kd_min_size(a->n - a->seen - 1, (size_t)left);
        k->part[k->parts++] = (kd_exec_part){.sequence = i, .past = a->seen, .n = 1 + more};
        left -= more;
        k->n += 1 + more;
        if (a->seen + 1 + more < a->n) continue;
        k->speaks[k->speaking] = a;
        k->row[k->speaking++] = (uint32_t)(k->n - 1);
    }
}

static kd_status run_body(kd__speakers *s, const pass *k, kd_err *err)
{
    kd_teacher *t = s->t;
    kd_status st = kd_exec_resume(t->exec, k->part, k->parts, err);
    if (st) return kd_fail_in(err, st, "%s", t->folder);
    int32_t *to = kd_exec_tokens(t->exec, t->model->input);
    for (int64_t i = 0; i < k->parts; i++) {
        kd__answer *a = s->answer[k->part[i].sequence];
        for (int64_t j = 0; j < k->part[i].n; j++) *to++ = (int32_t)a->token[a->seen++];
    }
    kd_exec_run_forward(t->exec);
    return KD_OK;
}

/* Keeps the logits of a row's next token, and draws it. */
static void speak(const kd__speakers *s, kd__answer *a, const float *logits, void *room)
{
    const uint32_t one = 1;
    const kd_codec_block b = {
        .values = logits, .rows = 1, .lengths = &one, .at = a->n - a->prompt, .ids = a->id};
    kd_sampling how = s->p->how;
    how.seed = a->seed;
    if (kd__said_put(a->said, s->g, &b, 1, 1, s->t->folder, a->row, &a->err)) return;
    const uint32_t id = kd_draw(logits, s->t->classes, &how, a->n, room);
    a->said->lengths[0]++;
    a->token[a->n++] = id;
    a->ended = a->n == s->most || a->n - a->prompt == (uint64_t)s->p->answer;
    for (size_t i = 0; i < s->nends; i++) a->ended = a->ended || id == s->end[i];
}

kd_status kd__speakers_step(kd__speakers *s, kd_err *err)
{
    kd_teacher *t = s->t;
    const float *logits = NULL;
    pass k;
    compose(s, &k);
    kd_status st = run_body(s, &k, err);
    if (!st && k.speaking) st = kd__teacher_head(t, k.row, (size_t)k.speaking, &logits, err);
    if (st) return st;
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->threads) if (k.speaking > 1)
    for (int64_t i = 0; i < k.speaking; i++)
        speak(s, k.speaks[i], logits + (size_t)i * t->classes,
              s->room + (size_t)omp_get_thread_num() * s->draw_bytes);
    const kd__answer *failed = NULL;
    for (int64_t i = 0; i < s->rows; i++) {
        const kd__answer *a = s->answer[i];
        if (a && a->err.code && (!failed || a->row < failed->row)) failed = a;
        if (!a || !a->ended) continue;
        s->answer[i] = NULL;
        s->active--;
    }
    return failed ? kd_fail(err, failed->err.code, "%s", failed->err.msg) : KD_OK;
}
