/* bm25.c - the baseline that knows words and no meaning.
 *
 *     score(q, d) = sum over words w of q: idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|))
 *
 * Postings lie in one array, sorted by word: a word's are a run of it, found by bisection over its hash. Two
 * words with one 64-bit hash would be one word; among a million words that happens once in 40 million
 * collections.
 */
#include "kd/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct posting {
    uint64_t word;
    uint32_t doc, count;
} posting;

struct kd_bm25 {
    posting *v; /* by word, then document */
    size_t n, room, docs;
    float *length; /* (docs) over the mean */
    double k1, b;
};

static bool is_letter(unsigned char c)
{
    return c >= 128 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* The hash of the next word at *text; false: none is left. */
static bool next_word(const char **text, uint64_t *word)
{
    char buf[256];
    size_t n = 0;
    const char *p = *text;
    while (*p && !is_letter((unsigned char)*p)) p++;
    for (; is_letter((unsigned char)*p); p++)
        if (n < sizeof(buf)) buf[n++] = *p >= 'A' && *p <= 'Z' ? (char)(*p + 'a' - 'A') : *p;
    *text = p;
    *word = kd_hash64(buf, n);
    return n > 0;
}

static int by_word(const void *a, const void *b)
{
    const posting *x = a, *y = b;
    return x->word != y->word ? (x->word < y->word ? -1 : 1) : (x->doc > y->doc) - (x->doc < y->doc);
}

static kd_status add_text(kd_bm25 *x, const char *text, uint32_t doc, kd_err *err)
{
    uint64_t word;
    for (; next_word(&text, &word); x->length[doc]++) {
        if (x->n == x->room) {
            const size_t room = x->room ? 2 * x->room : 1024;
            posting *v = realloc(x->v, room * sizeof(*v));
            if (!v) return kd_fail(err, KD_ENOMEM, "no memory for the words of %zu texts", x->docs);
            x->v = v;
            x->room = room;
        }
        x->v[x->n++] = (posting){word, doc, 1};
    }
    return KD_OK;
}

kd_status kd_bm25_create(kd_bm25 **out, const char *const *texts, size_t n, double k1, double b, kd_err *err)
{
    double sum = 0;
    size_t kept = 0;
    kd_status st = KD_OK;
    *out = NULL;
    if (!n || n >= KD_NO_HIT || !(k1 >= 0) || !(b >= 0 && b <= 1))
        return kd_fail(err, KD_EUSAGE,
                       "BM25 of %zu texts with k1 %g and b %g, expected texts, 0 or more, 0 to 1", n, k1, b);
    kd_bm25 *x = calloc(1, sizeof(*x));
    if (!x || !(x->length = calloc(n, sizeof(*x->length)))) st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) x->docs = n, x->k1 = k1, x->b = b;
    for (size_t i = 0; i < n && !st; i++) st = add_text(x, texts[i], (uint32_t)i, err);
    if (st) {
        kd_bm25_free(x);
        return st;
    }
    if (x->n) qsort(x->v, x->n, sizeof(*x->v), by_word);
    for (size_t i = 0; i < x->n; i++) // equal ones become one
        if (kept && !by_word(&x->v[kept - 1], &x->v[i]))
            x->v[kept - 1].count++;
        else
            x->v[kept++] = x->v[i];
    x->n = kept;
    for (size_t i = 0; i < n; i++) sum += x->length[i];
    for (size_t i = 0; i < n && sum > 0; i++) x->length[i] = (float)(x->length[i] * (double)n / sum);
    *out = x;
    return KD_OK;
}

void kd_bm25_free(kd_bm25 *x)
{
    if (!x) return;
    free(x->v);
    free(x->length);
    free(x);
}

/* First posting of a word or of what comes behind it. */
static size_t find(const kd_bm25 *x, uint64_t word)
{
    size_t lo = 0, hi = x->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (x->v[mid].word < word)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void add_word(const kd_bm25 *x, uint64_t word, double *score)
{
    const size_t first = find(x, word);
    size_t end = first;
    while (end < x->n && x->v[end].word == word) end++;
    const double df = (double)(end - first), idf = log1p(((double)x->docs - df + 0.5) / (df + 0.5));
    for (size_t i = first; i < end; i++) {
        const double tf = x->v[i].count, norm = x->k1 * (1 - x->b + x->b * x->length[x->v[i].doc]);
        score[x->v[i].doc] += idf * tf * (x->k1 + 1) / (tf + norm);
    }
}

kd_status kd_bm25_search(const kd_bm25 *x, const char *text, size_t k, kd_hit *hits, kd_err *err)
{
    double *score = calloc(x->docs, sizeof(*score));
    uint64_t word;
    size_t n = 0;
    if (!score) return kd_fail(err, KD_ENOMEM, "no memory for the scores of %zu texts", x->docs);
    while (next_word(&text, &word)) add_word(x, word, score);
    for (size_t i = 0; i < k; i++) hits[i] = (kd_hit){KD_NO_HIT, 0};
    for (size_t d = 0; d < x->docs; d++) { // documents in rising order: of equals the first stays before
        const float value = (float)score[d];
        if (!(value > 0) || (n == k && value <= hits[k - 1].score)) continue;
        size_t at = n < k ? n++ : k - 1;
        for (; at && hits[at - 1].score < value; at--) hits[at] = hits[at - 1];
        hits[at] = (kd_hit){(uint32_t)d, value};
    }
    free(score);
    return KD_OK;
}
