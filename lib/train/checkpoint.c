/* checkpoint.c - the state of one student on disk, whole or not at all.
 *
 * A checkpoint is a safetensors file: slabs as flat f32 tensors, and as metadata the contract, the
 * state (position and sums), the metrics so far and a hash over all of these. The file appears by
 * rename (kd_tensors_save), so a kill leaves the older one; the hash finds what a disk or a copy
 * did to it later. Resuming takes the newest whole file and passes over damaged ones with a warning:
 * an older state only costs time, since the steps behind it are repeated bit for bit.
 *
 * Names are ckpt-EPOCH-STEP.kdc, STEP counted from the start of the run.
 */
#include "train_private.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMAT "kd-checkpoint-1"

/* ---- tensors ------------------------------------------------------------------------------ */

typedef struct piece {
    const char *name;
    float *data;
    size_t n;
} piece;
#define PIECES 10

/* The slabs of a run in the order in which they are hashed; those it does not have are left out. */
static size_t pieces_of(const kd__run *r, piece p[PIECES])
{
    size_t n = 0, kept;
    float *bank = kd_loss_state(r->loss, &kept); // whatever it holds, its bits travel as floats
    const piece all[PIECES] = {
        {"weights", r->weights, r->slab},
        {"buffers", r->stats, r->buffers},
        {"moment1", r->moment1, r->slab},
        {"moment2", r->moment2, r->slab},
        {"best_weights", r->best, r->slab},
        {"best_buffers", r->best ? r->best + r->slab : NULL, r->buffers},
        {"loss_state", bank, kept / sizeof(float)},
        {"mean_weights", r->mean, r->slab},
        {"mean_buffers", r->mean ? r->mean + r->slab : NULL, r->buffers},
        {"gradients", r->sum, r->slab},
    };
    for (size_t i = 0; i < PIECES; i++)
        if (all[i].data && all[i].n) p[n++] = all[i];
    return n;
}

static kd_status hash_all(char hex[33], const char *const *texts, size_t ntexts, const kd_tensor *tensors,
                          size_t n, kd_err *err)
{
    kd_hasher *h = kd_hasher_create();
    if (!h) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < ntexts; i++) kd_hasher_add(h, texts[i], strlen(texts[i]) + 1);
    for (size_t i = 0; i < n; i++) {
        kd_hasher_add(h, tensors[i].name, strlen(tensors[i].name) + 1);
        kd_hasher_add(h, tensors[i].data, tensors[i].bytes);
    }
    kd_id_hex(kd_hasher_digest(h), hex);
    kd_hasher_free(h);
    return KD_OK;
}

/* ---- state -------------------------------------------------------------------------------- */

static char *state_text(const kd__state *s)
{
    json_t *o = json_object(), *terms = json_array(), *hits = json_array();
#define X(name) json_object_set_new(o, #name, json_integer((json_int_t)s->name));
    KD__STATE_INTS(X)
#undef X
#define X(name) json_object_set_new(o, #name, json_real(s->name));
    KD__STATE_REALS(X)
#undef X
    for (int i = 0; i < KD_LOSS_TERMS; i++) json_array_append_new(terms, json_real(s->term_sum[i]));
    json_object_set_new(o, "term_sum", terms);
    for (int i = 0; i < KD_LOADER_COLUMNS; i++)
        json_array_append_new(hits, json_integer((json_int_t)s->hits[i]));
    json_object_set_new(o, "hits", hits);
    char *text = kd_json_text(o, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(o);
    return text;
}

static kd_status state_read(kd__state *s, const char *text, const char *path, kd_err *err)
{
    json_t *o, *terms, *hits;
    kd_status st = kd_json_parse(&o, text, strlen(text), NULL);
    int64_t v;
    if (st) return kd_fail(err, st, "%s: its state is not valid JSON", path);
#define X(name)                                                                                              \
    if ((st = kd_json_int(o, #name, 0, INT64_MAX, &v, path, err))) goto out;                                 \
    s->name = (uint64_t)v;
    KD__STATE_INTS(X)
#undef X
#define X(name)                                                                                              \
    if ((st = kd_json_real(o, #name, &s->name, path, err))) goto out;
    KD__STATE_REALS(X)
#undef X
    terms = json_object_get(o, "term_sum");
    if (json_array_size(terms) != KD_LOSS_TERMS)
        st = kd_fail(err, KD_ECORRUPT, "%s: key 'term_sum' is not a list of %d", path, KD_LOSS_TERMS);
    for (size_t i = 0; !st && i < KD_LOSS_TERMS; i++)
        s->term_sum[i] = json_number_value(json_array_get(terms, i));
    hits = json_object_get(o, "hits");
    if (!st && json_array_size(hits) != KD_LOADER_COLUMNS)
        st = kd_fail(err, KD_ECORRUPT, "%s: key 'hits' is not a list of %d", path, KD_LOADER_COLUMNS);
    for (size_t i = 0; !st && i < KD_LOADER_COLUMNS; i++)
        s->hits[i] = (uint64_t)json_integer_value(json_array_get(hits, i));
out:
    json_decref(o);
    return st;
}

/* ---- files -------------------------------------------------------------------------------- */

typedef struct entry {
    unsigned long long epoch, step;
    char *name;
} entry;
typedef struct entries {
    entry *v;
    size_t n;
} entries;

static int newest_first(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->step != y->step) return (x->step < y->step) - (x->step > y->step);
    return (x->epoch < y->epoch) - (x->epoch > y->epoch);
}

static void entries_release(entries *e)
{
    for (size_t i = 0; i < e->n; i++) free(e->v[i].name);
    free(e->v);
}

/* Checkpoints of a folder, newest first; a missing folder has none. temporary: half-written files instead. */
static kd_status entries_list(entries *e, const char *folder, bool temporary, kd_err *err)
{
    DIR *d = opendir(folder);
    memset(e, 0, sizeof(*e));
    if (!d) return errno == ENOENT ? KD_OK : kd_fail_errno(err, errno, "%s: cannot list", folder);
    kd_status st = KD_OK;
    for (struct dirent *f; !st && (f = readdir(d));) {
        entry x = {0};
        int end = 0;
        bool match =
            sscanf(f->d_name, "ckpt-%llu-%llu.kdc%n", &x.epoch, &x.step, &end) == 2 && end && !f->d_name[end];
        if (temporary ? !strstr(f->d_name, ".tmp.") : !match) continue;
        entry *grown = realloc(e->v, (e->n + 1) * sizeof(*grown));
        if (grown) e->v = grown;
        x.name = kd_path_join(folder, f->d_name);
        if (!grown || !x.name) {
            free(x.name);
            st = kd_fail(err, KD_ENOMEM, "out of memory");
        } else {
            e->v[e->n++] = x;
        }
    }
    closedir(d);
    if (st)
        entries_release(e);
    else if (e->n)
        qsort(e->v, e->n, sizeof(*e->v), newest_first);
    return st;
}

static kd_status remove_from(const entries *e, size_t first, kd_err *err)
{
    for (size_t i = first; i < e->n; i++)
        if (unlink(e->v[i].name) && errno != ENOENT)
            return kd_fail_errno(err, errno, "%s: cannot remove", e->v[i].name);
    return KD_OK;
}

kd_status kd__checkpoint_clear(const kd__run *r, kd_err *err)
{
    entries e;
    kd_status st = KD_OK;
    for (int temporary = 0; temporary < 2 && !st; temporary++) {
        if ((st = entries_list(&e, r->part, temporary, err))) return st;
        st = remove_from(&e, 0, err);
        entries_release(&e);
    }
    return st;
}

/* ---- saving ------------------------------------------------------------------------------- */

static kd_status save(const kd__run *r, const char *path, kd_err *err)
{
    piece p[PIECES];
    kd_tensor tensors[PIECES];
    size_t n = pieces_of(r, p);
    char hex[33], *state = state_text(&r->at),
                  *contract = kd_json_text(r->contract, JSON_COMPACT | JSON_REAL_PRECISION(17));
    const char *texts[] = {contract, state, r->log.text ? r->log.text : ""};
    json_t *meta = NULL;
    kd_status st;
    for (size_t i = 0; i < n; i++)
        tensors[i] = (kd_tensor){.name = p[i].name,
                                 .dtype = KD_F32,
                                 .ndims = 1,
                                 .dims = {(int64_t)p[i].n},
                                 .data = p[i].data,
                                 .bytes = p[i].n * sizeof(float)};
    if (!state || !contract) {
        st = kd_fail(err, KD_ENOMEM, "%s: no memory to write it", path);
        goto out;
    }
    if ((st = hash_all(hex, texts, KD_COUNT(texts), tensors, n, err))) goto out;
    meta = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "format", FORMAT, "kd", KD_VERSION, "contract",
                     texts[0], "state", texts[1], "metrics", texts[2], "hash", hex);
    st = meta ? kd_tensors_save(path, tensors, n, meta, err)
              : kd_fail(err, KD_ENOMEM, "%s: no memory to write it", path);
out:
    json_decref(meta);
    free(state);
    free(contract);
    return st;
}

kd_status kd__checkpoint_save(kd__run *r, int64_t keep, kd_err *err)
{
    entries e;
    char *path = kd_sprintf("%s/ckpt-%04llu-%08llu.kdc", r->part, (unsigned long long)r->at.epoch,
                            (unsigned long long)r->at.total);
    if (!path) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_err why = {0};
    kd_status st = save(r, path, &why);
    free(path);
    if (st && r->saved)
        return kd_fail(err, st, "%s; the state of batch %llu is still there: go on with --resume", why.msg,
                       (unsigned long long)r->saved);
    if (st) return kd_fail(err, st, "%s; no older state of this run is there", why.msg);
    if ((st = entries_list(&e, r->part, false, err))) return st;
    r->saved = r->at.total;
    st = remove_from(&e, (size_t)(keep < 1 ? 1 : keep), err);
    entries_release(&e);
    return st;
}

/* ---- loading ------------------------------------------------------------------------------ */

static const char *const text_keys[] = {"contract", "state", "metrics"};
enum { CONTRACT, STATE, METRICS, TEXTS };

/* Whether the file is whole: texts and tensors have the content that was written. */
static kd_status check_content(const kd_tensors *f, const char *path, const char *texts[TEXTS], kd_err *err)
{
    static const char *const order[PIECES] = {"weights",      "buffers",      "moment1",    "moment2",
                                              "best_weights", "best_buffers", "loss_state", "mean_weights",
                                              "mean_buffers", "gradients"};
    const char *format = kd_tensors_metadata(f, "format"), *want = kd_tensors_metadata(f, "hash");
    kd_tensor tensors[PIECES];
    size_t n = 0;
    char hex[33];
    if (!format || strcmp(format, FORMAT) || !want)
        return kd_fail(err, KD_ECORRUPT,
                       "%s: not a checkpoint of this version of kd (format %.40s, expected %s)", path,
                       format ? format : "missing", FORMAT);
    for (int i = 0; i < TEXTS; i++)
        if (!(texts[i] = kd_tensors_metadata(f, text_keys[i])))
            return kd_fail(err, KD_ECORRUPT, "%s: no %s in it", path, text_keys[i]);
    for (size_t i = 0; i < PIECES; i++) {
        const kd_tensor *x = kd_tensors_find(f, order[i]);
        if (x) tensors[n++] = *x;
    }
    if (n != kd_tensors_count(f))
        return kd_fail(err, KD_ECORRUPT, "%s: %zu tensors, %zu of them known", path, kd_tensors_count(f), n);
    kd_status st = hash_all(hex, texts, TEXTS, tensors, n, err);
    if (!st && strcmp(hex, want))
        st = kd_fail(err, KD_ECORRUPT, "%s: its content has the hash %s, expected %.32s", path, hex, want);
    return st;
}

static kd_status check_contract(const kd__run *r, const char *text, const char *path, kd_err *err)
{
    json_t *there;
    kd_status st = kd_json_parse(&there, text, strlen(text), NULL);
    if (st) return kd_fail(err, st, "%s: its contract is not valid JSON", path);
    st = kd__contract_check(there, r->contract, true, path, err);
    json_decref(there);
    return st;
}

static kd_status check_shapes(const kd_tensors *f, const piece *p, size_t n, const char *path, kd_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const kd_tensor *x = kd_tensors_find(f, p[i].name);
        if (!x || x->dtype != KD_F32 || x->bytes != p[i].n * sizeof(float))
            return kd_fail(err, KD_ECORRUPT, "%s: tensor %s is missing or has another size than %zu floats",
                           path, p[i].name, p[i].n);
    }
    return KD_OK;
}

/* Everything is checked before anything of the run is touched. */
static kd_status load(kd__run *r, const char *path, kd_err *err)
{
    kd_tensors *f = NULL;
    const char *texts[TEXTS];
    piece p[PIECES];
    size_t n = pieces_of(r, p);
    kd__state at = {0};
    kd_buf log = {0};
    kd_status st = kd_tensors_open(&f, path, err);
    if (st || (st = check_content(f, path, texts, err)) ||
        (st = check_contract(r, texts[CONTRACT], path, err)) || (st = check_shapes(f, p, n, path, err)) ||
        (st = state_read(&at, texts[STATE], path, err)))
        goto out;
    kd_buf_puts(&log, texts[METRICS]);
    if (log.failed) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        memcpy(p[i].data, kd_tensors_find(f, p[i].name)->data, p[i].n * sizeof(float));
    r->at = at;
    r->saved = at.total;
    kd_buf_release(&r->log);
    r->log = log;
    log = (kd_buf){0};
out:
    kd_buf_release(&log);
    kd_tensors_close(f);
    return st;
}

kd_status kd__checkpoint_resume(kd__run *r, kd_trainer *t, bool *found, kd_err *err)
{
    entries e;
    size_t damaged = 0;
    kd_status st = entries_list(&e, r->part, false, err);
    *found = false;
    if (st) return st;
    for (size_t i = 0; i < e.n && !*found; i++) {
        kd_err why = {0};
        st = load(r, e.v[i].name, &why);
        if (st == KD_ECORRUPT) {
            kd__trainer_warn(t, "passed over a damaged checkpoint: %s", why.msg);
            damaged++;
            st = KD_OK;
        } else if (st) {
            kd_fail(err, st, "%s", why.msg);
            break;
        } else {
            *found = true;
        }
    }
    if (!st && !*found && damaged)
        st = kd_fail(err, KD_ECORRUPT, "%s: all %zu checkpoints are damaged; start over with --force",
                     r->part, damaged);
    entries_release(&e);
    return st;
}
