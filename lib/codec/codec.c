/* codec.c - the list of codecs: names, parameters, and the way into each.
 *
 * A codec's parameters are rows of an option table like those of a tool, so their defaults, ranges and
 * messages come from the same place, and the JSON in a column's description is what kd_config_json makes of
 * them: complete, with the defaults of the day it was written.
 */
#include "codec_private.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const kd__codec *const codecs[] = {
    &kd__codec_int8, &kd__codec_int8_channel, &kd__codec_log8,      &kd__codec_log6,
    &kd__codec_topk, &kd__codec_sample,       &kd__codec_head_tail, NULL,
}; // by code; ends with NULL

static const kd__codec *find(const char *name)
{
    for (size_t i = 0; codecs[i]; i++)
        if (!strcmp(codecs[i]->info.name, name)) return codecs[i];
    return NULL;
}

static kd_codec_info infos[KD_COUNT(codecs)];

static void fill_infos(void)
{
    for (size_t i = 0; codecs[i]; i++) infos[i] = codecs[i]->info;
}

const kd_codec_info *kd_codec_list(size_t *n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_infos);
    *n = KD_COUNT(codecs) - 1;
    return infos;
}

const kd_codec_info *kd_codec_find(const char *name)
{
    const kd__codec *ops = find(name);
    return ops ? &ops->info : NULL;
}

const char *kd_serves_text(unsigned serves, char *buf, size_t size)
{
    static const struct {
        unsigned bit;
        const char *text;
    } words[] = {{KD_SERVES_VALUES, "the values themselves"},
                 {KD_SERVES_SOFTMAX, "soft targets of all classes at any temperature"},
                 {KD_SERVES_HEAD, "the largest classes and the tail mass at the listed temperatures"},
                 {KD_SERVES_EXPECTED, "forward KL and cross-entropy at the temperature of the dump"}};
    size_t n = 0;
    snprintf(buf, size, "nothing");
    for (size_t i = 0; i < KD_COUNT(words) && n < size; i++)
        if (serves & words[i].bit)
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? "; " : "", words[i].text);
    return buf;
}

/* ---- parameters --------------------------------------------------------------------------- */

static kd_status unknown(const char *name, kd_err *err)
{
    const char *names[KD_COUNT(codecs)] = {"dense"};
    for (size_t i = 0; codecs[i]; i++) names[i + 1] = codecs[i]->info.name;
    const char *near = kd_nearest(name, names, KD_COUNT(names));
    if (near) return kd_fail(err, KD_EUSAGE, "unknown encoding '%.40s' (did you mean '%s'?)", name, near);
    return kd_fail(err, KD_EUSAGE,
                   "unknown encoding '%.40s': there are dense, int8, int8-channel, log8, log6, topk, sample "
                   "and head-tail",
                   name);
}

/* Sets "key=value" pairs of text; a list's elements are joined by '+'. Changes text. */
static kd_status set_pairs(kd_config *c, const char *name, char *text, kd_err *err)
{
    kd_status st;
    for (char *save, *pair = strtok_r(text, ",", &save); pair; pair = strtok_r(NULL, ",", &save)) {
        char *value = strchr(pair, '=');
        if (!value) return kd_fail(err, KD_EUSAGE, "encoding %s: '%.60s' is not key=value", name, pair);
        *value++ = '\0';
        for (char *p = value; *p; p++)
            if (*p == '+') *p = ',';
        if ((st = kd_config_flag(c, pair, value, err))) return kd_fail_in(err, st, "encoding %s", name);
    }
    return KD_OK;
}

kd_status kd_codec_parse(const char *text, char name[16], json_t **params, kd_err *err)
{
    kd__codec_params p;
    kd_config config = {0};
    kd_status st;
    const size_t len = strcspn(text, ":");
    const bool dense = len == 5 && !strncmp(text, "dense", 5);
    char given[16];
    *params = NULL;
    snprintf(given, sizeof given, "%.*s", (int)(len < 15 ? len : 15), text);
    const kd__codec *ops = len < sizeof given ? find(given) : NULL;
    if (!ops && !dense) return unknown(text, err);
    if (dense && text[len])
        return kd_fail(err, KD_EUSAGE, "encoding dense takes no parameters, found '%.60s'", text);
    memcpy(name, given, sizeof given);
    char *pairs = kd_strdup(text[len] ? text + len + 1 : "");
    if (!pairs) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (dense) {
        *params = json_object();
    } else if (!(st = kd_config_add(&config, ops->options, ops->noptions, &p, err))) {
        if ((st = set_pairs(&config, name, pairs, err))) goto out;
        *params = kd_config_json(&config);
    } else {
        goto out;
    }
    st = *params ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
out:
    kd_config_release(&config);
    free(pairs);
    return st;
}

/* ---- life --------------------------------------------------------------------------------- */

kd_status kd_codec_open(kd_codec **out, const char *name, int64_t width, const json_t *params,
                        const void *book, size_t book_bytes, kd_err *err)
{
    kd_status st;
    const kd__codec *ops = find(name);
    *out = NULL;
    if (!ops)
        return kd_fail(err, KD_EUNSUPPORTED, "encoding '%.40s' is not known to kd %s", name, KD_VERSION);
    if (width < 1 || width > KD_CODEC_MAX_WIDTH)
        return kd_fail(err, KD_EUSAGE, "encoding %s: width %lld, allowed are 1 to %d", name, (long long)width,
                       KD_CODEC_MAX_WIDTH);
    if (book_bytes > KD_CODEC_MAX_BOOK)
        return kd_fail(err, KD_ELIMIT, "encoding %s: a codebook of %zu bytes, allowed are %u", name,
                       book_bytes, KD_CODEC_MAX_BOOK);
    kd_codec *c = calloc(1, sizeof(*c));
    if (!c) return kd_fail(err, KD_ENOMEM, "out of memory");
    c->ops = ops;
    c->width = width;
    if ((st = kd_config_add(&c->config, ops->options, ops->noptions, &c->p, err))) goto fail;
    if (params && (st = kd_config_from_json(&c->config, params, name, err))) goto fail;
    if (!(c->params = kd_config_json(&c->config)) || (book_bytes && !(c->book = malloc(book_bytes)))) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto fail;
    }
    if (book_bytes) memcpy(c->book, book, book_bytes);
    c->book_bytes = book_bytes;
    if (ops->open && (st = ops->open(c, err))) goto fail;
    *out = c;
    return KD_OK;
fail:
    kd_codec_close(c);
    return st;
}

void kd_codec_close(kd_codec *c)
{
    if (!c) return;
    kd_config_release(&c->config);
    json_decref(c->params);
    free(c->book);
    free(c->state);
    free(c);
}

const kd_codec_info *kd_codec_describe(const kd_codec *c) { return &c->ops->info; }
const json_t *kd_codec_params(const kd_codec *c) { return c->params; }
int64_t kd_codec_width(const kd_codec *c) { return c->width; }

size_t kd_codec_most(const kd_codec *c)
{
    const uint64_t width = (uint64_t)c->width,
                   kept = (uint64_t)c->p.k + (uint64_t)c->p.n; // 0 where it has none
    return (size_t)(c->ops->info.sparse && kept < width ? kept : width);
}

struct kd_codec_learner {
    kd_codec *c;
    double *mean; /* (width) NULL: the codec has no codebook */
};

kd_status kd_codec_learner_open(kd_codec_learner **out, const char *name, int64_t width, const json_t *params,
                                kd_err *err)
{
    kd_codec_learner *l = *out = calloc(1, sizeof *l);
    if (!l) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = kd_codec_open(&l->c, name, width, params, NULL, 0, err);
    if (!st && l->c->ops->learn && !(l->mean = calloc((size_t)width, sizeof *l->mean)))
        st = kd_fail(err, KD_ENOMEM, "out of memory for %lld classes", (long long)width);
    if (!st) return KD_OK;
    kd_codec_learner_free(l);
    *out = NULL;
    return st;
}

kd_status kd_codec_learner_add(kd_codec_learner *l, const float *values, size_t n, kd_err *err)
{
    return l->mean ? l->c->ops->learn(l->c, values, n, l->mean, err) : KD_OK;
}

kd_status kd_codec_learner_end(kd_codec_learner *l, void **book, size_t *book_bytes, kd_err *err)
{
    kd_buf b = {0};
    *book = NULL;
    *book_bytes = 0;
    kd_status st = l->mean ? l->c->ops->book(l->c, l->mean, &b, err) : KD_OK;
    if (!st && b.failed) st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) *book = b.text, *book_bytes = b.len, b.text = NULL;
    kd_buf_release(&b);
    kd_codec_learner_free(l);
    return st;
}

void kd_codec_learner_free(kd_codec_learner *l)
{
    if (!l) return;
    kd_codec_close(l->c);
    free(l->mean);
    free(l);
}

kd_status kd_codec_learn(const char *name, int64_t width, const json_t *params, const float *values, size_t n,
                         void **book, size_t *book_bytes, kd_err *err)
{
    kd_codec_learner *l;
    *book = NULL;
    *book_bytes = 0;
    kd_status st = kd_codec_learner_open(&l, name, width, params, err);
    if (st) return st;
    if (!(st = kd_codec_learner_add(l, values, n, err)))
        return kd_codec_learner_end(l, book, book_bytes, err);
    kd_codec_learner_free(l);
    return st;
}

/* ---- blocks ------------------------------------------------------------------------------- */

uint8_t *kd__codec_room(kd_buf *out, size_t bytes)
{
    size_t need;
    if (!kd_add_size(out->len, bytes, &need) || need >= SIZE_MAX / 2) return NULL;
    if (need >= out->cap) {
        char *more = realloc(out->text, need + 1);
        if (!more) return NULL;
        out->text = more;
        out->cap = need + 1;
    }
    uint8_t *place = (uint8_t *)out->text + out->len;
    out->len = need;
    out->text[need] = '\0';
    return place;
}

size_t kd_codec_block_positions(const kd_codec_block *b)
{
    size_t n = 0;
    if (!b->lengths) return (size_t)b->rows * b->each;
    for (uint32_t i = 0; i < b->rows; i++) n += b->lengths[i];
    return n;
}

void kd__codec_place(const kd_codec_block *b, size_t i, uint32_t *row, uint32_t *at)
{
    *row = 0;
    if (!b->lengths) {
        *row = (uint32_t)(i / b->each);
        *at = (uint32_t)(i % b->each);
        return;
    }
    for (i += b->at; i >= kd__codec_row_end(b, *row);) i -= kd__codec_row_end(b, (*row)++);
    *at = (uint32_t)i;
}

kd_status kd__codec_finite(const kd_codec *c, const kd_codec_block *b, size_t i, kd_err *err)
{
    const float *v = b->values + i * (size_t)c->width;
    uint32_t row, at;
    // x - x is 0 for finite numbers and NaN else: the sum tells without a branch per class.
    float bad = 0;
    for (int64_t k = 0; k < c->width; k++) bad += v[k] - v[k];
    if (bad == 0) return KD_OK;
    int64_t k = 0;
    while (k + 1 < c->width && isfinite(v[k])) k++;
    kd__codec_place(b, i, &row, &at);
    return kd_fail(err, KD_ENUMERIC,
                   "row %u of the chunk, position %u, class %lld: %g is not a finite number", row, at,
                   (long long)k, (double)v[k]);
}

kd_status kd_codec_encode(const kd_codec *c, const kd_codec_block *b, int threads, kd_buf *out, kd_err *err)
{
    const size_t before = out->len;
    kd_status st = c->ops->encode(c, b, threads, out, err);
    if (st) out->len = before;
    return !st && out->failed ? kd_fail(err, KD_ENOMEM, "out of memory for an encoded block") : st;
}

kd_status kd_codec_encode_sparse(const kd_codec *c, const kd_sparse *s, kd_buf *out, kd_err *err)
{
    if (!c->ops->encode_sparse)
        return kd_fail(err, KD_EUNSUPPORTED, "encoding %s is not made of sparse targets", c->ops->info.name);
    kd_status st = c->ops->encode_sparse(c, s, out, err);
    return !st && out->failed ? kd_fail(err, KD_ENOMEM, "out of memory for an encoded block") : st;
}

kd_status kd_codec_decode(const kd_codec *c, const void *in, size_t bytes, size_t positions, float *out,
                          kd_err *err)
{
    if (!c->ops->decode)
        return kd_fail(err, KD_EUNSUPPORTED, "encoding %s keeps few classes; it has no dense form",
                       c->ops->info.name);
    return c->ops->decode(c, in, bytes, positions, out, err);
}

kd_status kd_codec_sparse(const kd_codec *c, const void *in, size_t bytes, size_t positions, kd_sparse *out,
                          kd_err *err)
{
    if (!c->ops->sparse)
        return kd_fail(err, KD_EUNSUPPORTED, "encoding %s keeps all classes; it has no sparse form",
                       c->ops->info.name);
    return c->ops->sparse(c, in, bytes, positions, out, err);
}

kd_status kd_codec_check(const kd_codec *c, const void *in, size_t bytes, size_t positions, kd_err *err)
{
    return c->ops->check(c, in, bytes, positions, err);
}

kd_status kd_codec_select(const kd_codec *c, const void *in, size_t bytes, size_t positions,
                          const uint8_t *keep, kd_buf *out, kd_err *err)
{
    const size_t before = out->len;
    kd_status st = c->ops->select(c, in, bytes, positions, keep, out, err);
    if (st) out->len = before;
    return !st && out->failed ? kd_fail(err, KD_ENOMEM, "out of memory for an encoded block") : st;
}

/* ---- sparse arrays ------------------------------------------------------------------------ */

bool kd__codec_grow(void *array, size_t count, size_t size)
{
    void **p = array, *more;
    size_t bytes;
    if (!kd_mul_size(count + 1, size, &bytes) || !(more = realloc(*p, bytes))) return false;
    *p = more;
    return true;
}

kd_status kd__sparse_reserve(kd_sparse *s, size_t positions, size_t entries, int temperatures, kd_err *err)
{
    const size_t t = temperatures ? (size_t)temperatures : 1;
    bool ok = true;
    if (positions + 1 > s->cap || temperatures > s->temperatures) {
        ok = kd__codec_grow(&s->offset, positions + 1, sizeof(*s->offset)) &&
             kd__codec_grow(&s->tail, positions * t, sizeof(*s->tail)) &&
             kd__codec_grow(&s->logz, positions * t, sizeof(*s->logz));
        s->cap = ok ? positions + 1 : 0;
    }
    if (ok && (entries > s->entry_cap || !s->id)) { // never NULL, also without entries
        ok = kd__codec_grow(&s->id, entries, sizeof(*s->id)) &&
             kd__codec_grow(&s->value, entries, sizeof(*s->value)) &&
             kd__codec_grow(&s->exact, entries, sizeof(*s->exact));
        s->entry_cap = ok ? entries : 0;
    }
    if (!ok) return kd_fail(err, KD_ENOMEM, "out of memory for %zu sparse targets", entries);
    s->positions = positions;
    s->entries = entries;
    s->temperatures = temperatures;
    return KD_OK;
}

void kd_sparse_release(kd_sparse *s)
{
    free(s->offset);
    free(s->id);
    free(s->value);
    free(s->exact);
    free(s->tail);
    free(s->logz);
    memset(s, 0, sizeof(*s));
}

/* ---- threads ------------------------------------------------------------------------------ */

enum { MAX_THREADS = 256 };

typedef struct crew {
    size_t n, piece;
    atomic_size_t next;
    kd_status (*work)(void *, size_t, size_t, kd_err *);
    void *arg;
    pthread_mutex_t lock;
    size_t failed; /* the lowest piece that failed */
    kd_err err;
} crew;

static void *take_pieces(void *arg)
{
    crew *c = arg;
    const size_t pieces = (c->n + c->piece - 1) / c->piece;
    for (size_t i; (i = atomic_fetch_add(&c->next, 1)) < pieces;) {
        kd_err err = {0};
        const size_t first = i * c->piece;
        kd_status st = c->work(c->arg, first, kd_min_size(first + c->piece, c->n), &err);
        if (!st) continue;
        pthread_mutex_lock(&c->lock);
        if (i < c->failed) c->failed = i, c->err = err, c->err.code = st;
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

kd_status kd__codec_parallel(size_t n, size_t piece, int threads,
                             kd_status (*work)(void *arg, size_t first, size_t last, kd_err *err), void *arg,
                             kd_err *err)
{
    crew c = {.n = n, .piece = piece, .work = work, .arg = arg, .failed = SIZE_MAX};
    pthread_t helpers[MAX_THREADS];
    int started = 1;
    if (!n) return KD_OK;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if ((size_t)threads > (n + piece - 1) / piece) threads = (int)((n + piece - 1) / piece);
    pthread_mutex_init(&c.lock, NULL);
    // Fewer threads than wanted are no failure: this one takes what is left.
    while (started < threads && !pthread_create(&helpers[started], NULL, take_pieces, &c)) started++;
    take_pieces(&c);
    for (int i = 1; i < started; i++) pthread_join(helpers[i], NULL);
    pthread_mutex_destroy(&c.lock);
    return c.failed == SIZE_MAX ? KD_OK : kd_fail(err, c.err.code, "%s", c.err.msg);
}
