/* language_fixture.h - a store of sequences for a small language model (tests/golden/llama). */
#ifndef LANGUAGE_FIXTURE_H
#define LANGUAGE_FIXTURE_H

#include "check.h"
#include "kd/teacher.h"

#include <stdlib.h>
#include <string.h>

#define TEACHER "tests/golden/llama"
enum { VOCAB = 61, POSITIONS = 64, CHUNK = 16, ROWS = 37 };

static char folder[64], store_path[96];

/* ---- a store of sequences ------------------------------------------------------------------- */

/* Row 0 is as long as can be, row 5 is a single token. */
static inline uint32_t sequence(uint64_t row, int32_t *ids)
{
    const uint64_t h = kd_hash64(&row, sizeof row);
    const uint32_t n = !row ? POSITIONS : row == 5 ? 1 : 2 + (uint32_t)(h % 40);
    for (uint32_t k = 0; k < n; k++) ids[k] = (int32_t)(((h >> k % 40) + k * 7) % VOCAB);
    return n;
}

/* Of rows 3 and 20 nothing is predicted; of others about half. */
static inline uint8_t masked(uint64_t row, uint32_t i)
{
    const uint64_t key[] = {row, i};
    return row != 3 && row != 20 && kd_hash64(key, sizeof key) % 2;
}

static inline void make_store(bool mask, const char *tokenizer)
{
    kd_column c[] = {
        {.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}},
        {.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8},
        {.name = "tokens", .role = KD_ROLE_INPUT, .dtype = KD_I32, .ndims = 1, .dims = {-1}},
        {.name = "mask", .role = KD_ROLE_MASK, .dtype = KD_U8, .ndims = 1, .dims = {-1}},
    };
    kd_writer_params wp = kd_writer_default_params();
    kd_store_writer *w;
    c[2].params =
        json_pack("{s:i, s:i, s:s*}", "vocab", VOCAB, "max_tokens", POSITIONS, "tokenizer", tokenizer);
    wp.chunk_rows = CHUNK;
    kd_remove_tree(store_path, NULL);
    json_t *contract = json_pack("{s:s}", "kind", "test");
    OK(kd_store_create(&w, store_path, c, mask ? 4 : 3, contract, &wp, err));
    json_decref(contract);
    for (uint64_t row = 0; row < ROWS;) {
        static uint8_t id[CHUNK][16], split[CHUNK], marks[CHUNK * POSITIONS];
        static int32_t ids[CHUNK * POSITIONS];
        uint32_t lengths[CHUNK], n = 0;
        size_t at = 0;
        for (; n < CHUNK && row < ROWS; n++, row++) {
            memcpy(id[n], &row, sizeof row);
            lengths[n] = sequence(row, ids + at);
            for (uint32_t k = 0; k < lengths[n]; k++) marks[at + k] = masked(row, k);
            at += lengths[n];
        }
        const kd_block b[] = {{.data = id, .bytes = 16u * n},
                              {.data = split, .bytes = n},
                              {.data = ids, .bytes = 4 * at, .lengths = lengths},
                              {.data = marks, .bytes = at, .lengths = lengths}};
        OK(kd_store_writer_append(w, (kd_split)0, n, b, err));
    }
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(c[2].params);
}

static inline int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-language-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(store_path, sizeof store_path, "%s/s.kd", folder);
    return 0;
}

static inline int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

#endif
