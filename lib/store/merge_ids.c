/* merge_ids.c - rows that two stores share, found by their ids.
 *
 * All ids pass through one table, store by store: an id that an earlier store has is a row that came before.
 * The table is open addressing with linear probing, three quarters full, an entry an id and the row's number:
 * 32 bytes a row of all stores, the only memory of a merge that grows with rows. Ids are hashes already; they
 * are hashed once more because a store from elsewhere may have made them otherwise.
 */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct slot {
    kd_id id;
    uint64_t row; /* 1 + its number over all stores; 0: empty */
} slot;

typedef struct table {
    slot *slot;
    uint64_t size;
} table;

/* The slot of an id, or the empty one where it belongs. */
static slot *find(const table *t, const kd_id *id)
{
    uint64_t at = (uint64_t)(((unsigned __int128)kd_hash64(id, sizeof(*id)) * t->size) >> 64);
    while (t->slot[at].row && memcmp(&t->slot[at].id, id, sizeof(*id)) != 0)
        at = at + 1 < t->size ? at + 1 : 0;
    return &t->slot[at];
}

/* "a.kd, row 17" of a row's number over all stores. */
static void place(const kd__rewrite *r, uint64_t row, char *out, size_t size)
{
    uint32_t i = r->n - 1;
    while (r->base[i] > row) i--;
    snprintf(out, size, "%.300s, row %llu", r->source[i]->path, (unsigned long long)(row - r->base[i]));
}

static kd_status came_before(kd__rewrite *r, uint64_t first, uint64_t row, kd_id id, bool skip, kd_err *err)
{
    char hex[33], here[340], there[340];
    if (skip) {
        r->left_out[row / 64] |= (uint64_t)1 << row % 64;
        return KD_OK;
    }
    kd_id_hex(id, hex);
    place(r, first, there, sizeof(there));
    place(r, row, here, sizeof(here));
    return kd_fail(err, KD_EEXISTS, "%s: its id %s is that of %s; --skip-duplicates leaves such rows out",
                   here, hex, there);
}

static kd_status add_chunk(kd__rewrite *r, table *t, uint32_t source, uint32_t chunk, kd_id *ids, bool skip,
                           kd_err *err)
{
    const kd_store *s = r->reader;
    const kd_chunk_info *ci = &s->chunks[chunk];
    const int column = kd_store_find_role(s, KD_ROLE_ID, NULL);
    kd_status st = kd_cursor_read(r->cursor, column, chunk, ids, ci->rows * sizeof(*ids), err);
    for (uint32_t i = 0; i < ci->rows && !st; i++) {
        const uint64_t row = r->base[source] + ci->first + i;
        slot *at = find(t, &ids[i]);
        if (!at->row)
            *at = (slot){.id = ids[i], .row = row + 1};
        else if (at->row - 1 < r->base[source]) // a copy within this store stays
            st = came_before(r, at->row - 1, row, ids[i], skip, err);
    }
    return st;
}

kd_status kd__merge_ids(kd__rewrite *r, bool skip, kd_err *err)
{
    const kd_store *last = r->source[r->n - 1];
    const uint64_t rows = r->base[r->n - 1] + last->rows;
    table t = {.size = rows + rows / 3 + 1};
    kd_id *ids = malloc(KD_STORE_MAX_CHUNK_ROWS * sizeof(*ids));
    kd_status st = KD_OK;
    t.slot = calloc(t.size, sizeof(*t.slot));
    if (skip) r->left_out = calloc(rows / 64 + 1, sizeof(*r->left_out));
    if (!ids || !t.slot || (skip && !r->left_out))
        st = kd_fail(err, KD_ENOMEM, "out of memory for the ids of %llu rows", (unsigned long long)rows);
    for (uint32_t i = 0; i < r->n && !st; i++) {
        st = kd__rewrite_open(r, i, err);
        for (uint32_t k = 0; !st && k < r->reader->nchunks; k++) {
            if (r->stop && *r->stop)
                st = kd_fail(err, KD_ESTOPPED, "%s: stopped before anything was written", r->out);
            else
                st = add_chunk(r, &t, i, k, ids, skip, err);
        }
    }
    free(t.slot);
    free(ids);
    return st;
}
