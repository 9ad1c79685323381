/* exchange_fixture.h - a store of 40 rows and files for it, whose numbers are a pure function of (row,
 * index): "row" is the row's place in the data files, which its column source and its id say. */
#ifndef EXCHANGE_FIXTURE_H
#define EXCHANGE_FIXTURE_H

#include "check.h"
#include "kd/exchange.h"
#include "kd/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { EX_ROWS = 40, EX_TRAIN = 25, EX_CHUNK = 8, EX_CLASSES = 10 };
static char ex_dir[64];

/* A path in the test's folder; borrowed, good for 64 more calls. */
static inline const char *ex_path(const char *name)
{
    static char path[64][160];
    static int turn;
    char *p = path[turn = (turn + 1) % 64];
    snprintf(p, sizeof(path[0]), "%s/%s", ex_dir, name);
    return p;
}

static inline int ex_set_up(void **state)
{
    (void)state;
    snprintf(ex_dir, sizeof(ex_dir), "/tmp/kd-test-exchange-XXXXXX");
    return mkdtemp(ex_dir) ? 0 : -1;
}

static inline int ex_tear_down(void **state)
{
    (void)state;
    return kd_remove_tree(ex_dir, NULL);
}

/* The store keeps its rows in this order: place i holds the row ex_row(i) of the data files. */
static inline uint32_t ex_row(uint32_t i) { return i * 7 % EX_ROWS; }
static inline kd_id ex_id(uint32_t row)
{
    char text[16];
    const int n = snprintf(text, sizeof(text), "row %u", row);
    return kd_hash128(text, (size_t)n);
}
static inline float ex_value(uint32_t row, uint32_t i)
{
    kd_rng g;
    kd_rng_init(&g, 11, KD_RNG_TEST, row, i);
    return kd_rng_normal(&g);
}

/* Columns id, split, source, label (with its number of classes). seed: part of the contract, so of the root.
 */
static inline void ex_make(const char *path, int seed)
{
    kd_column c[4] = {{.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}},
                      {.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8},
                      {.name = "source", .role = KD_ROLE_SOURCE, .dtype = KD_U64},
                      {.name = "label", .role = KD_ROLE_LABEL, .dtype = KD_I32}};
    kd_writer_params p = kd_writer_default_params();
    kd_store_writer *w;
    json_t *contract = json_pack("{s:i, s:s}", "seed", seed, "tokenizer", "tok-1");
    p.chunk_rows = EX_CHUNK;
    c[3].params = json_pack("{s:i}", "classes", EX_CLASSES);
    OK(kd_store_create(&w, path, c, 4, contract, &p, err));
    for (uint32_t at = 0, n; at < EX_ROWS; at += n) {
        const kd_split split = at < EX_TRAIN ? KD_TRAIN : KD_VALID;
        const uint32_t end = split == KD_TRAIN ? EX_TRAIN : EX_ROWS;
        kd_id id[EX_CHUNK];
        uint8_t splits[EX_CHUNK];
        uint64_t source[EX_CHUNK];
        int32_t label[EX_CHUNK];
        n = end - at < EX_CHUNK ? end - at : EX_CHUNK;
        for (uint32_t i = 0; i < n; i++) {
            source[i] = ex_row(at + i);
            id[i] = ex_id(ex_row(at + i));
            splits[i] = (uint8_t)split;
            label[i] = (int32_t)(ex_row(at + i) % EX_CLASSES);
        }
        const kd_block b[4] = {{id, n * sizeof(id[0]), NULL},
                               {splits, n, NULL},
                               {source, n * sizeof(source[0]), NULL},
                               {label, n * sizeof(label[0]), NULL}};
        OK(kd_store_writer_append(w, split, n, b, err));
    }
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(contract);
    json_decref(c[3].params);
}

/* ---- files -------------------------------------------------------------------------------- */

static inline void ex_write(const char *path, const void *data, size_t bytes)
{
    OK(kd_file_write(path, data, bytes, err));
}

/* An .npy file, version 1; shape as Python prints it: "(40, 10)". */
static inline void ex_npy(const char *path, const char *descr, const char *shape, const void *data,
                          size_t bytes)
{
    kd_buf b = {0};
    char head[256];
    const int n =
        snprintf(head, sizeof(head), "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    const uint16_t len = (uint16_t)((n + 10) / 64 * 64 + 64 - 10);
    kd_buf_append(&b, "\x93NUMPY\1\0", 8);
    kd_buf_append(&b, &len, 2);
    kd_buf_printf(&b, "%-*s\n", len - 1, head);
    kd_buf_append(&b, data, bytes);
    ex_write(path, b.text, b.len);
    kd_buf_release(&b);
}

/* Logits of the rows from..to-1 (data order), or of the store's order; out: (rows, classes). */
static inline void ex_logits(float *out, uint32_t from, uint32_t to, bool store_order)
{
    for (uint32_t r = from; r < to; r++)
        for (uint32_t k = 0; k < EX_CLASSES; k++) *out++ = ex_value(store_order ? ex_row(r) : r, k);
}

static inline void ex_logits_npy(const char *path, uint32_t from, uint32_t to, bool store_order)
{
    float v[EX_ROWS * EX_CLASSES];
    char shape[32];
    ex_logits(v, from, to, store_order);
    snprintf(shape, sizeof(shape), "(%u, %d)", to - from, EX_CLASSES);
    ex_npy(path, "<f4", shape, v, sizeof(float) * (to - from) * EX_CLASSES);
}

/* A safetensors file of `logits` and `ids` of n rows in the order given. meta may be NULL. */
static inline void ex_tensors(const char *path, const uint32_t *row, uint32_t n, const json_t *meta)
{
    float v[64 * EX_CLASSES];
    kd_id id[64];
    for (uint32_t i = 0; i < n; i++) {
        id[i] = ex_id(row[i]);
        for (uint32_t k = 0; k < EX_CLASSES; k++) v[i * EX_CLASSES + k] = ex_value(row[i], k);
    }
    const kd_tensor t[2] = {
        {.name = "logits",
         .dtype = KD_F32,
         .ndims = 2,
         .dims = {n, EX_CLASSES},
         .data = v,
         .bytes = 4 * (size_t)n * EX_CLASSES},
        {.name = "ids", .dtype = KD_U8, .ndims = 2, .dims = {n, 16}, .data = id, .bytes = 16 * (size_t)n}};
    OK(kd_tensors_save(path, t, 2, meta, err));
}

/* Rows 0..39, begun at another place and turned round for the seed 1. */
static inline void ex_order(uint32_t row[EX_ROWS], int seed)
{
    for (uint32_t i = 0; i < EX_ROWS; i++) row[i] = seed ? (EX_ROWS - 1 - i + 13) % EX_ROWS : i;
}

/* ---- imports ------------------------------------------------------------------------------ */

static inline kd_import_params ex_params(const char *name)
{
    kd_import_params p = kd_import_default_params();
    p.name = name;
    p.writer.force = true;
    p.writer.commit_bytes = 500; // a commit a chunk
    return p;
}

static inline kd_status ex_import(const char *store, const char *file, const kd_import_params *p,
                                  kd_import_report *report, kd_err *err)
{
    kd_store *s;
    kd_status st = kd_store_open(&s, store, err);
    if (st) return st;
    st = kd_import(s, &file, 1, p, report, err);
    kd_store_close(s);
    return st;
}

/* The root of a segment; free() it. */
static inline char *ex_root(const char *store, const char *segment)
{
    kd_store *s;
    char *root = NULL;
    const json_t *entry;
    size_t i;
    OK(kd_store_open(&s, store, err));
    json_array_foreach(json_object_get(kd_store_manifest(s), "segments"), i, entry)
    {
        if (strcmp(json_string_value(json_object_get(entry, "name")), segment) != 0) continue;
        root = kd_strdup(json_string_value(json_object_get(entry, "root")));
    }
    kd_store_close(s);
    assert_non_null(root);
    return root;
}

/* All values of a column of fixed shape as f32; free() them. */
static inline float *ex_values(const char *store, const char *column, size_t *n)
{
    kd_store *s;
    kd_cursor *c;
    OK(kd_store_open(&s, store, err));
    OK(kd_cursor_open(&c, s, err));
    const int k = kd_store_find(s, column);
    if (k < 0) fail_msg("%s has no column %s", store, column);
    const size_t each = kd_column_each(kd_store_column(s, (size_t)k)),
                 width = kd_column_width(kd_store_column(s, (size_t)k));
    float *v = malloc(kd_store_rows(s) * each * width * sizeof(float));
    assert_non_null(v);
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *ci = kd_store_chunk(s, i);
        OK(kd_cursor_read_f32(c, k, i, v + ci->first * each * width, ci->rows * each, err));
    }
    *n = kd_store_rows(s) * each * width;
    kd_cursor_close(c);
    kd_store_close(s);
    return v;
}

/* The column holds ex_value of its rows. */
static inline void ex_has_logits(const char *store, const char *column)
{
    size_t n;
    float *v = ex_values(store, column, &n);
    assert_int_equal(n, EX_ROWS * EX_CLASSES);
    for (uint32_t i = 0; i < EX_ROWS; i++)
        for (uint32_t k = 0; k < EX_CLASSES; k++)
            assert_true(v[i * EX_CLASSES + k] == ex_value(ex_row(i), k));
    free(v);
}

#endif
