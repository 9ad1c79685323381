/* trie.c - byte strings to ids, one byte a step.
 *
 * All edges of all nodes lie in one open hash table, keyed by (node, byte). A vocabulary of 30,000 words has
 * about 100,000 edges, 1.5 MB with their free places, and a step is one multiplication and mostly one look.
 * Longest match needs no substrings: walk as far as it goes and remember where a string ended last.
 */
#include "text_private.h"

static bool rehash(kd__trie *t, uint32_t bits)
{
    kd__trie more = {.mask = (1u << bits) - 1, .shift = 32 - bits};
    if (!(more.edge = calloc((size_t)more.mask + 1, sizeof *more.edge))) return false;
    for (uint32_t i = 0; t->edge && i <= t->mask; i++) {
        if (!t->edge[i].key) continue;
        uint32_t k = t->edge[i].key * 0x9E3779B1u >> more.shift;
        while (more.edge[k].key) k = (k + 1) & more.mask;
        more.edge[k].key = t->edge[i].key;
        more.edge[k].to = t->edge[i].to;
    }
    free(t->edge);
    t->edge = more.edge;
    t->mask = more.mask;
    t->shift = more.shift;
    return true;
}

/* A new node, 0 when out of memory. */
static uint32_t new_node(kd__trie *t)
{
    if (t->nodes == t->nodes_cap) {
        const uint32_t cap = t->nodes_cap ? 2 * t->nodes_cap : 64;
        uint32_t *more = realloc(t->id, cap * sizeof *more);
        if (!more) return 0;
        t->id = more;
        t->nodes_cap = cap;
    }
    t->id[t->nodes] = KD__NO_ID;
    return t->nodes++;
}

static uint32_t add_edge(kd__trie *t, uint32_t node, uint8_t byte)
{
    if (2 * (t->edges + 1) > t->mask && !rehash(t, 33 - t->shift)) return 0;
    const uint32_t to = new_node(t), key = node << 8 | byte;
    if (!to) return 0;
    uint32_t i = key * 0x9E3779B1u >> t->shift;
    while (t->edge[i].key) i = (i + 1) & t->mask;
    t->edge[i].key = key;
    t->edge[i].to = to;
    t->edges++;
    return to;
}

kd_status kd__trie_add(kd__trie *t, const char *s, size_t n, uint32_t id, uint32_t *was, kd_err *err)
{
    uint32_t node = KD__TRIE_ROOT;
    if (!t->edge && (!rehash(t, 6) || (new_node(t), !new_node(t)))) // node 0 is none
        return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        uint32_t next = kd__trie_step(t, node, (uint8_t)s[i]);
        if (!next && t->nodes == KD__TRIE_NODES)
            return kd_fail(err, KD_ELIMIT, "a vocabulary of more than %u bytes", KD__TRIE_NODES);
        if (!next && !(next = add_edge(t, node, (uint8_t)s[i])))
            return kd_fail(err, KD_ENOMEM, "no memory for the vocabulary");
        node = next;
    }
    *was = t->id[node];
    if (*was == KD__NO_ID) t->id[node] = id;
    return KD_OK;
}

uint32_t kd__trie_walk(const kd__trie *t, const char *s, size_t n)
{
    uint32_t node = t->edge ? KD__TRIE_ROOT : 0;
    for (size_t i = 0; node && i < n; i++) node = kd__trie_step(t, node, (uint8_t)s[i]);
    return node;
}

uint32_t kd__trie_find(const kd__trie *t, const char *s, size_t n)
{
    const uint32_t node = kd__trie_walk(t, s, n);
    return node ? t->id[node] : KD__NO_ID;
}

void kd__trie_release(kd__trie *t)
{
    free(t->edge);
    free(t->id);
}
