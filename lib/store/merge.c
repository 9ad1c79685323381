/* merge.c - the rows of several stores in one.
 *
 * Before anything is written: what the stores say of themselves is compared (segments, columns, codebooks,
 * teachers, contracts), so that a merged column never holds the outputs of two teachers or two encodings. A
 * contract may differ only where it says which part a store is: "shard", written by slice.c; "store", the
 * root of the rows a teacher saw; "sample", the hash over some of the rows that were imported; or how answers
 * were drawn: "generate", which becomes a list.
 *
 * Rows are told apart by their ids. Different parts of one store cannot share a row, which their contracts
 * prove, so nothing is read for them. Otherwise all ids go through a hash table (merge_ids.c). Copies within
 * one store stay: they were there when its teacher ran.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>

static const json_t *entry_of(const kd_store *s, uint32_t g) { return s->segments[g].entry; }

/* ---- what must be equal ------------------------------------------------------------------- */

/* kd_fail for the difference between what two stores have under a name, if there is one. */
static kd_status same(const kd_store *a, const kd_store *b, const char *what, const char *name,
                      const json_t *of_a, const json_t *of_b, kd_err *err)
{
    kd__difference d = {0};
    kd_status st = KD_OK;
    if (kd__json_difference(&d, of_a, of_b))
        st = kd_fail(err, KD_EMISMATCH, "%s: %s %s%s%s is %s, in %s it is %s: they cannot be merged", b->path,
                     what, name, d.where.len ? ": " : "", kd__buf_text(&d.where), kd__buf_text(&d.b), a->path,
                     kd__buf_text(&d.a));
    kd__difference_release(&d);
    return st;
}

static kd_status no_memory(kd_err *err) { return kd_fail(err, KD_ENOMEM, "out of memory"); }

static uint32_t find_segment(const kd_store *s, const char *name)
{
    uint32_t g = 0;
    while (g < s->nsegments && strcmp(s->segments[g].name, name) != 0) g++;
    return g;
}

/* Their names, their codecs and everything that gives the numbers a meaning; the zstd level gives none. */
static kd_status same_column(const kd_store *a, const kd_store *b, uint32_t i, kd_err *err)
{
    const kd_column *c = &a->columns[i];
    const int k = kd_store_find(b, c->name);
    if (k < 0 || strcmp(b->columns[k].segment, c->segment) != 0)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: segment %s has no column %s, in %s it has: they cannot be merged", b->path,
                       c->segment, c->name, a->path);
    json_t *of_a = kd__column_to_json(c, a->book_sums[i]);
    json_t *of_b = kd__column_to_json(&b->columns[k], b->book_sums[k]);
    json_object_del(of_a, "level");
    json_object_del(of_b, "level");
    kd_status st = of_a && of_b ? same(a, b, "column", c->name, of_a, of_b, err) : no_memory(err);
    json_decref(of_a);
    json_decref(of_b);
    return st;
}

/* The contract without what says which part a store is. */
static json_t *common_contract(const kd_store *s, uint32_t g)
{
    char root[33];
    json_t *c = json_object_get(entry_of(s, g), "contract");
    json_t *copy = json_is_object(c) ? json_copy(c) : json_object();
    kd__base_root(s, root);
    const char *of = json_string_value(json_object_get(copy, "store"));
    if (of && !strcmp(of, root)) json_object_del(copy, "store");
    json_object_del(copy, "shard");
    json_object_del(copy, "sample");
    json_object_del(copy, "generate");
    return copy;
}

static kd_status same_segment(const kd_store *a, const kd_store *b, uint32_t g, kd_err *err)
{
    const kd__segment *s = &a->segments[g];
    const uint32_t k = find_segment(b, s->name);
    if (k == b->nsegments)
        return kd_fail(err, KD_EMISMATCH, "%s: has no segment %s, %s has: they cannot be merged", b->path,
                       s->name, a->path);
    if (s->columns != b->segments[k].columns)
        return kd_fail(err, KD_EMISMATCH, "%s: segment %s has %u columns, in %s it has %u", b->path, s->name,
                       b->segments[k].columns, a->path, s->columns);
    kd_status st = KD_OK;
    for (uint32_t i = 0; i < s->columns && !st; i++) st = same_column(a, b, s->first_column + i, err);
    const json_t *ta = json_object_get(s->entry, "teacher"), *tb = json_object_get(entry_of(b, k), "teacher");
    if (!st)
        st = same(a, b, "the fingerprint of the teacher of segment", s->name,
                  json_object_get(ta, "fingerprint"), json_object_get(tb, "fingerprint"), err);
    if (st) return st;
    json_t *ca = common_contract(a, g), *cb = common_contract(b, k);
    st = ca && cb ? same(a, b, "the contract of segment", s->name, ca, cb, err) : no_memory(err);
    json_decref(ca);
    json_decref(cb);
    return st;
}

static kd_status same_stores(const kd_store *a, const kd_store *b, kd_err *err)
{
    kd_status st = KD_OK;
    for (uint32_t g = 0; g < a->nsegments && !st; g++) st = same_segment(a, b, g, err);
    for (uint32_t g = 0; g < b->nsegments && !st; g++)
        if (find_segment(a, b->segments[g].name) == a->nsegments)
            st = kd_fail(err, KD_EMISMATCH, "%s: has a segment %s, %s has none: they cannot be merged",
                         b->path, b->segments[g].name, a->path);
    return st;
}

/* ---- which parts -------------------------------------------------------------------------- */

/* All parts that the stores say they are, in order; *disjoint: each is one or more of one store, none twice;
 * *whole: they are all of its parts, in order. A new reference; NULL when out of memory. */
static json_t *gather_parts(const kd__rewrite *r, bool *disjoint, bool *whole)
{
    json_t *all = json_array(), *part, *other;
    size_t i, k;
    *disjoint = *whole = true;
    for (uint32_t s = 0; all && s < r->n; s++) {
        json_t *said = json_object_get(json_object_get(entry_of(r->source[s], 0), "contract"), "shard");
        if (!said)
            *disjoint = false;
        else if (json_is_array(said) ? json_array_extend(all, said) : json_array_append(all, said))
            return NULL;
    }
    const json_t *first = json_array_get(all, 0);
    json_array_foreach(all, i, part)
    {
        const json_int_t number = json_integer_value(json_object_get(part, "part"));
        if (!json_equal(json_object_get(part, "of"), json_object_get(first, "of")) ||
            !json_equal(json_object_get(part, "parts"), json_object_get(first, "parts")) || number < 1)
            *disjoint = false;
        for (k = 0; k < i; k++) {
            other = json_array_get(all, k);
            if (json_equal(json_object_get(other, "part"), json_object_get(part, "part"))) *disjoint = false;
        }
        *whole = *whole && number == (json_int_t)i + 1;
    }
    *whole = *whole && *disjoint &&
             (json_int_t)json_array_size(all) == json_integer_value(json_object_get(first, "parts"));
    return all;
}

/* What the contract of the merged base segment says of parts: nothing once they are all there. */
static kd_status merge_parts(kd__rewrite *r, bool *disjoint, kd_err *err)
{
    bool whole;
    json_t *all = gather_parts(r, disjoint, &whole), **contract = &r->contract[0];
    kd_status st = all ? KD_OK : no_memory(err);
    json_object_del(*contract, "shard");
    if (!st && json_array_size(all) && !whole && json_object_set(*contract, "shard", all))
        st = no_memory(err);
    if (!st && *contract && !json_object_size(*contract)) { // slice made it
        json_decref(*contract);
        *contract = NULL;
    }
    json_decref(all);
    return st;
}

/* Outputs that were imported part by part: one hash over those of the parts. */
static kd_status merge_samples(kd__rewrite *r, uint32_t g, kd_err *err)
{
    const json_t *first = json_object_get(r->contract[g], "sample");
    kd_buf all = {0};
    char hex[33];
    bool differ = false;
    if (!first) return KD_OK;
    for (uint32_t i = 0; i < r->n; i++) {
        const uint32_t k = find_segment(r->source[i], r->source[0]->segments[g].name);
        const json_t *said =
            json_object_get(json_object_get(entry_of(r->source[i], k), "contract"), "sample");
        const char *text = json_string_value(said);
        differ = differ || !text || !json_equal(first, said);
        kd_buf_puts(&all, text ? text : "");
    }
    kd_id_hex(kd_hash128(kd__buf_text(&all), all.len), hex);
    const bool failed =
        all.failed || (differ && json_object_set_new(r->contract[g], "sample", json_string(hex)));
    kd_buf_release(&all);
    return failed ? no_memory(err) : KD_OK;
}

/* How the answers of each store were drawn, where that is not the same in all. */
static kd_status merge_draws(kd__rewrite *r, kd_err *err)
{
    json_t *teacher = json_object_get(r->extra[0], "teacher"), *all = json_array(), *said, *first = NULL;
    bool differ = false, failed = !all;
    for (uint32_t i = 0; i < r->n && !failed; i++) {
        said = json_object_get(json_object_get(entry_of(r->source[i], 0), "contract"), "generate");
        if (!i) first = said;
        differ = differ || (said != first && !json_equal(said, first)); // NULL: its tokens were not generated
        failed = said && json_array_append(all, said);
    }
    if (differ && !failed)
        failed = json_object_set(r->contract[0], "generate", all) ||
                 (teacher && json_object_set(teacher, "generate", all));
    json_decref(all);
    return failed ? no_memory(err) : KD_OK;
}

/* Seconds and rows that the teacher took in all parts. */
static void merge_seconds(kd__rewrite *r, uint32_t g)
{
    json_t *teacher = json_object_get(r->extra[g], "teacher");
    double seconds = 0;
    json_int_t rows = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const uint32_t k = find_segment(r->source[i], r->source[0]->segments[g].name);
        const json_t *t = json_object_get(entry_of(r->source[i], k), "teacher");
        seconds += json_number_value(json_object_get(t, "seconds"));
        rows += json_integer_value(json_object_get(t, "seconds_rows"));
    }
    if (json_object_get(teacher, "seconds")) json_object_set_new(teacher, "seconds", json_real(seconds));
    if (json_object_get(teacher, "seconds_rows"))
        json_object_set_new(teacher, "seconds_rows", json_integer(rows));
}

/* ---- the plan ----------------------------------------------------------------------------- */

static kd_status pick_all(kd__rewrite *r, kd_merge_report *report, kd_err *err)
{
    kd_status st = KD_OK;
    for (int split = 0; split < KD_SPLITS; split++)
        for (uint32_t i = 0; i < r->n; i++)
            for (uint32_t k = 0; k < r->source[i]->nchunks && !st; k++) {
                const kd_chunk_info *ci = &r->source[i]->chunks[k];
                uint32_t rows = 0;
                if (ci->split != (kd_split)split) continue;
                for (uint32_t j = 0; j < ci->rows; j++)
                    rows += kd__rewrite_keeps(r, r->base[i] + ci->first + j);
                if (rows) st = kd__rewrite_pick(r, i, k, rows, err);
                report->rows += rows;
                report->duplicates += ci->rows - rows;
            }
    report->chunks = r->picks;
    return st;
}

static kd_status prepare(kd__rewrite *r, bool skip_duplicates, kd_err *err)
{
    bool disjoint;
    kd_status st = KD_OK;
    for (uint32_t i = 1; i < r->n && !st; i++) st = same_stores(r->source[0], r->source[i], err);
    if (!st) st = merge_parts(r, &disjoint, err);
    if (!st) st = merge_draws(r, err);
    for (uint32_t g = 0; g < r->segments && !st; g++) {
        st = merge_samples(r, g, err);
        merge_seconds(r, g);
    }
    json_object_del(r->extra[0], "duplicates"); // counts of a part
    json_object_del(r->extra[0], "leaks");
    return st || disjoint ? st : kd__merge_ids(r, skip_duplicates, err);
}

kd_status kd_store_merge(const char *out, const char *const *stores, size_t n, bool skip_duplicates,
                         const kd_writer_params *wp, const char *command, volatile const int *stop,
                         void (*progress)(void *arg, uint64_t done, uint64_t total), void *arg,
                         kd_merge_report *report, kd_err *err)
{
    kd__rewrite r = {.stop = stop, .progress = progress, .arg = arg};
    kd_merge_report done = {0};
    if (!n || n > UINT32_MAX) return kd_fail(err, KD_EUSAGE, "%s: no stores to merge", out);
    kd_status st = kd__rewrite_init(&r, out, stores, (uint32_t)n, wp, command, err);
    if (!st) st = prepare(&r, skip_duplicates, err);
    if (!st) st = pick_all(&r, &done, err);
    if (!st) st = kd__rewrite_run(&r, "merge", err);
    if (!st && report) *report = done;
    kd__rewrite_release(&r);
    return st;
}
