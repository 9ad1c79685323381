/* lib/eval/language_measures.c - what a language model's answers come to, and how varied the texts are that
 * it writes.
 *
 * Measures are those of llama.cpp's perplexity tool: KL(teacher || student) with its standard error and
 * percentiles, the share of positions with the same top token, the ratio of perplexities, and the root mean
 * square of the differences of the right token's probability. distinct-n is the share of different n-grams
 * among all (Li et al. 2016); repetition the share of tokens that end four tokens which the same text has
 * had.
 */
#include "eval_private.h"

#include "kd/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- of predicted tokens ------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static kd_status measure_kl(const kd_language *l, kd_language_run *r, kd_err *err)
{
    static const struct {
        kd_language_measure m;
        double q;
    } places[] = {{KD_L_KL_P50, 0.5},  {KD_L_KL_P90, 0.9},    {KD_L_KL_P95, 0.95},
                  {KD_L_KL_P99, 0.99}, {KD_L_KL_P999, 0.999}, {KD_L_KL_MAX, 1}};
    const size_t n = (size_t)l->positions;
    const kd_answer *a = r->run->answers;
    double *kl = malloc(n * sizeof *kl), mean = 0, square = 0, loss = 0, dp = 0;
    uint64_t same = 0;
    if (!kl) return kd_fail(err, KD_ENOMEM, "no memory for %zu numbers", n);
    for (size_t i = 0; i < n; i++) {
        const double d = exp(-a[i].loss) - exp(-l->teacher[i].loss);
        kl[i] = a[i].kl;
        mean += kl[i] / (double)n;
        loss += (a[i].loss - l->teacher[i].loss) / (double)n;
        dp += d * d / (double)n;
        same += a[i].top == l->teacher[i].top;
    }
    for (size_t i = 0; i < n; i++) square += (kl[i] - mean) * (kl[i] - mean);
    qsort(kl, n, sizeof *kl, by_value);
    for (size_t i = 0; i < KD_COUNT(places); i++) r->v[places[i].m] = kd_quantile(kl, n, places[i].q);
    r->v[KD_L_KL] = mean;
    if (n > 1) r->v[KD_L_KL_ERROR] = sqrt(square / (double)(n - 1) / (double)n);
    r->v[KD_L_AGREEMENT] = (double)same / (double)n;
    r->v[KD_L_PPL_RATIO] = exp(loss);
    r->v[KD_L_RMS_DP] = sqrt(dp);
    free(kl);
    return KD_OK;
}

/* What the codec's kind of target can say. */
static void measure_sparse(const kd_language *l, kd_language_run *r)
{
    const kd_codec_info *codec = kd_codec_find(l->column->encoding);
    const json_t *t = json_object_get(json_object_get(l->column->params, "codec"), "temperature");
    const double n = (double)l->positions;
    if (t && json_number_value(t) != 1) return; // of another distribution
    if (codec->serves & KD_SERVES_EXPECTED) r->v[KD_L_CROSS] = r->cross / n;
    if (r->headed) r->v[KD_L_KL_LEAST] = r->bound / n;
    if (r->headed == l->positions) r->v[KD_L_AGREEMENT] = (double)r->same / n;
}

kd_status kd__language_measure(const kd_language *l, kd_language_run *r, int64_t vocab, kd_err *err)
{
    const kd_rows rows = {.n = l->positions, .classes = vocab, .label = l->labels};
    for (int i = 0; i < KD_LANGUAGE_MEASURES; i++) r->v[i] = NAN;
    kd_status st = kd_measure(&r->run->m, &rows, r->run->answers, true, err);
    if (st) return st;
    r->v[KD_L_ACCURACY] = r->run->m.v[KD_M_ACCURACY];
    r->v[KD_L_LOSS] = r->run->m.v[KD_M_LOSS];
    r->v[KD_L_PERPLEXITY] = r->run->m.v[KD_M_PERPLEXITY];
    r->v[KD_L_ECE] = r->run->m.v[KD_M_ECE];
    if (l->sparse) measure_sparse(l, r);
    return l->teacher ? measure_kl(l, r, err) : KD_OK;
}

/* ---- of texts ------------------------------------------------------------------------------------ */

typedef struct texts {
    uint32_t *id;
    size_t n, room, *end, texts;
} texts;

/* A gram: up to four tokens, the rest zeros, and its text. */
typedef uint32_t gram[5];
static int by_bytes(const void *a, const void *b) { return memcmp(a, b, sizeof(gram)); }

/* Different n-grams by all of them, within texts; n up to 4. Also those that the same text had before. */
static kd_status count_grams(const texts *t, size_t n, double *distinct, double *repeated, kd_err *err)
{
    gram *g = calloc(t->n + 1, sizeof *g);
    size_t grams = 0, different = 0, again = 0;
    if (!g) return kd_fail(err, KD_ENOMEM, "no memory for %zu tokens", t->n);
    for (size_t i = 0, at = 0; i < t->texts; at = t->end[i++])
        for (size_t k = at; k + n <= t->end[i]; k++) {
            memcpy(g[grams], t->id + k, n * sizeof(uint32_t));
            g[grams++][4] = (uint32_t)i;
        }
    qsort(g, grams, sizeof *g, by_bytes);
    for (size_t i = 0; i < grams; i++) {
        const bool known = i && !memcmp(g[i], g[i - 1], 4 * sizeof(uint32_t));
        different += !known;
        again += known && g[i][4] == g[i - 1][4];
    }
    *distinct = grams ? (double)different / (double)grams : NAN;
    *repeated = grams ? (double)again / (double)grams : NAN;
    free(g);
    return KD_OK;
}

static bool put_token(texts *t, uint32_t id)
{
    if (t->n == t->room) {
        const size_t room = 2 * t->room + 256;
        uint32_t *more = realloc(t->id, room * sizeof *more);
        if (!more) return false;
        t->id = more, t->room = room;
    }
    t->id[t->n++] = id;
    return true;
}

static kd_status write_text(texts *t, kd_generator *g, kd_encoder *e, const char *prompt,
                            const kd_language_prompts *p, int64_t end, double *seconds, kd_err *err)
{
    const kd_sampling how = {.temperature = p->temperature, .top_p = 1, .seed = p->seed + t->texts};
    kd_encoding enc;
    kd_status st = kd_encode(e, (kd_text){prompt, strlen(prompt)}, NULL, &(kd_encode_params){.special = true},
                             &enc, err);
    if (!st && !enc.n) return KD_OK;
    if (!st) st = kd_generator_feed(g, 0, enc.id, enc.n, NULL, err);
    const double start = kd_now();
    for (int64_t i = 0; i < p->tokens && !st; i++) {
        const uint32_t *seen, id = kd_generator_draw(g, &how);
        if ((int64_t)id == end) break;
        if (!put_token(t, id)) return kd_fail(err, KD_ENOMEM, "no memory for texts");
        st = kd_generator_feed(g, kd_generator_seen(g, &seen), &id, 1, NULL, err);
        if (st == KD_ELIMIT) { // the room is full: that is where the text ends
            if (err) *err = (kd_err){0};
            st = KD_OK;
            break;
        }
    }
    *seconds += kd_now() - start;
    t->end[t->texts++] = t->n;
    return st;
}

static kd_status write_texts(kd_language_run *r, const kd_language_prompts *p, int threads, texts *t,
                             kd_err *err)
{
    const char *folder = r->run->folder;
    kd_model *m = NULL;
    kd_tokenizer *tokenizer = NULL;
    kd_encoder *e = NULL;
    kd_generator *g = NULL;
    uint32_t id;
    double seconds = 0;
    kd_status st = kd_model_load(&m, folder, err);
    if (!st) st = kd_tokenizer_open(&tokenizer, folder, err);
    if (!st) st = kd_encoder_open(&e, tokenizer, err);
    if (!st) st = kd_generator_open(&g, m, 0, threads, err);
    const int64_t end = !st && kd_tokenizer_special(tokenizer, "eos_token", &id) ? (int64_t)id : -1;
    for (size_t i = 0; i < p->n && !st; i++) st = write_text(t, g, e, p->prompt[i], p, end, &seconds, err);
    if (!st && t->n) r->v[KD_L_TOKENS_S] = (double)t->n / seconds;
    kd_generator_close(g);
    kd_encoder_close(e);
    kd_tokenizer_close(tokenizer);
    kd_model_free(m);
    return st;
}

kd_status kd_language_write(kd_language *l, const kd_language_prompts *p, int threads, kd_err *err)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < l->runs && !st; i++) {
        kd_language_run *r = &l->run[i];
        texts t = {.end = calloc(p->n + 1, sizeof *t.end)};
        double none;
        st = t.end ? write_texts(r, p, threads, &t, err) : kd_fail(err, KD_ENOMEM, "out of memory");
        for (size_t n = 1; n <= 3 && !st; n++)
            st = count_grams(&t, n, &r->v[KD_L_DISTINCT1 + n - 1], &none, err);
        if (!st) st = count_grams(&t, 4, &none, &r->v[KD_L_REPETITION], err);
        free(t.id);
        free(t.end);
    }
    return st;
}
