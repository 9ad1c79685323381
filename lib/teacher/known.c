/* known.c - a text that the teacher has embedded before in this pass is not run again.
 *
 * In pairs of queries and answers the same text stands in many rows: a definition once for each word, a word
 * in each of its senses. A text's embedding does not depend on its neighbours, so the one that was computed
 * is the one that would be. Of each feed only the texts that are new go through the teacher.
 *
 * Texts are told apart by the 128-bit hash of their ids. Embeddings are kept as they come, f32, up to
 * KNOWN bytes; from then on new texts are run each time, so memory stays bounded for any store.
 */
#include "teacher_private.h"

#include <stdlib.h>
#include <string.h>

#define KNOWN (512u << 20)
#define NONE  UINT32_MAX

struct kd__known {
    size_t n, most, room;
    kd_id *id;       /* (room) of what is kept */
    float *value;    /* (room, classes) */
    uint32_t *place; /* by hash: a table of twice as many places as can be kept */
    size_t places;
    /* A feed's new texts. */
    char *raw;
    size_t raw_room;
    uint64_t *offset;
    uint32_t *source; /* of each text: where in `value`, or NONE and run as number fresh[i] */
    uint32_t *fresh;
    float *out;
};

void kd__known_free(kd__known *k)
{
    if (!k) return;
    void *all[] = {k->id, k->value, k->place, k->raw, k->offset, k->source, k->fresh, k->out};
    for (size_t i = 0; i < KD_COUNT(all); i++) free(all[i]);
    free(k);
}

static kd__known *create(const kd_teacher *t)
{
    const size_t batch = (size_t)t->batch + 1;
    kd__known *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    k->most = KNOWN / (t->classes * sizeof(float));
    for (k->places = 1024; k->places < 2 * k->most;) k->places *= 2;
    k->place = malloc(k->places * sizeof *k->place);
    k->offset = calloc(batch + 1, sizeof *k->offset);
    k->source = calloc(batch, sizeof *k->source);
    k->fresh = calloc(batch, sizeof *k->fresh);
    k->out = malloc(batch * t->classes * sizeof *k->out);
    if (!k->place || !k->offset || !k->source || !k->fresh || !k->out) {
        kd__known_free(k);
        return NULL;
    }
    memset(k->place, 0xff, k->places * sizeof *k->place); // NONE
    return k;
}

/* Where the id is in the table, or the free place for it. */
static size_t place_of(const kd__known *k, const kd_id *id)
{
    uint64_t hash;
    memcpy(&hash, id, sizeof hash);
    size_t at = (size_t)hash & (k->places - 1);
    while (k->place[at] != NONE && memcmp(&k->id[k->place[at]], id, sizeof *id))
        at = (at + 1) & (k->places - 1);
    return at;
}

static bool grow(kd__known *k, size_t classes)
{
    if (k->n < k->room) return true;
    const size_t room = kd_min_size(k->most, 2 * k->room + 1024);
    kd_id *id = realloc(k->id, room * sizeof *id);
    if (id) k->id = id;
    float *value = realloc(k->value, room * classes * sizeof *value);
    if (value) k->value = value;
    if (!id || !value) return false;
    k->room = room;
    return true;
}

/* A place for the embedding of a new text; NONE: what can be kept is kept. */
static uint32_t keep(kd__known *k, const kd_id *id, size_t at, size_t classes)
{
    if (k->n >= k->most || !grow(k, classes)) {
        k->most = k->n; // also where memory is short: what is kept stays the first ones
        return NONE;
    }
    k->id[k->n] = *id;
    k->place[at] = (uint32_t)k->n;
    return (uint32_t)k->n++;
}

/* Cuts the new texts of a feed out; returns how many, and how many embeddings were kept before. */
static int64_t cut(kd__known *k, const kd__feed *f, size_t classes, size_t *before)
{
    const size_t each = kd_dtype_size(f->dtype);
    int64_t fresh = 0;
    *before = k->n;
    for (int64_t i = 0; i < f->rows; i++) {
        const size_t n = (size_t)(f->offset[i + 1] - f->offset[i]);
        const char *text = f->raw + f->offset[i] * each;
        const kd_id id = kd_hash128(text, n * each);
        const size_t at = place_of(k, &id);
        k->source[i] = k->place[at];
        if (k->source[i] != NONE) continue;
        keep(k, &id, at, classes);
        k->fresh[i] = (uint32_t)fresh;
        memcpy(k->raw + k->offset[fresh] * each, text, n * each);
        k->offset[fresh + 1] = k->offset[fresh] + n;
        fresh++;
    }
    return fresh;
}

kd_status kd__known_read(kd_teacher *t, const kd__feed *f, float *out, kd_err *err)
{
    const size_t bytes = (size_t)f->offset[f->rows] * kd_dtype_size(f->dtype), c = t->classes;
    kd__known *k = t->known = t->known ? t->known : create(t);
    size_t before;
    if (!k) return kd_fail(err, KD_ENOMEM, "%s: no memory for what is known", t->folder);
    if (bytes > k->raw_room) {
        free(k->raw);
        k->raw_room = (k->raw = malloc(bytes)) ? bytes : 0;
        if (!k->raw) return kd_fail(err, KD_ENOMEM, "%s: no memory for a batch", t->folder);
    }
    const int64_t fresh = cut(k, f, c, &before);
    kd_status st =
        fresh ? kd__teacher_read(t, k->raw, f->dtype, k->offset, fresh, f->at, k->out, NULL) : KD_OK;
    if (st) { // once more as it came, for a message that names the row
        k->n = 0;
        memset(k->place, 0xff, k->places * sizeof *k->place);
        return kd__teacher_read(t, f->raw, f->dtype, f->offset, f->rows, f->at, out, err);
    }
    if (k->n > before) memcpy(k->value + before * c, k->out, (k->n - before) * c * sizeof *out);
    for (int64_t i = 0; i < f->rows; i++)
        memcpy(out + (size_t)i * c,
               k->source[i] == NONE ? k->out + k->fresh[i] * c : k->value + k->source[i] * c,
               c * sizeof *out);
    return KD_OK;
}
