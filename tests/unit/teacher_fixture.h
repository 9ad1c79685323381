/* teacher_fixture.h - a small store of images that are a function of their row, and a teacher for it. */
#ifndef TEACHER_FIXTURE_H
#define TEACHER_FIXTURE_H

#include "check.h"
#include "kd/teacher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 6, PIXELS = SIDE * SIDE, CLASSES = 5, CHUNK = 32, ROWS = 150 };
static const uint32_t split_rows[KD_SPLITS] = {100, 33, 17};
static const double MEAN = 70.25, SCALE = 0.0123;

static char folder[64], store_path[96], teacher_path[96], other_path[96];

/* ---- a store and two teachers ------------------------------------------------------------------ */

static inline uint8_t pixel(uint64_t row, size_t i)
{
    return (uint8_t)(kd_hash64(&row, sizeof row) >> i % 40 ^ i * 7);
}

static inline void make_store(void)
{
    kd_column c[4] = {
        {.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}},
        {.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8},
        {.name = "image", .role = KD_ROLE_INPUT, .dtype = KD_U8, .ndims = 3, .dims = {SIDE, SIDE, 1}},
        {.name = "label", .role = KD_ROLE_LABEL, .dtype = KD_I32},
    };
    c[2].params = json_pack("{s:f, s:f}", "mean", MEAN, "scale", SCALE);
    c[3].params = json_pack("{s:i, s:[s,s,s,s,s]}", "classes", CLASSES, "names", "a", "b", "c", "d", "e");
    kd_writer_params wp = kd_writer_default_params();
    kd_store_writer *w;
    uint64_t row = 0;
    wp.chunk_rows = CHUNK;
    kd_remove_tree(store_path, NULL);
    json_t *contract = json_pack("{s:s}", "kind", "test");
    OK(kd_store_create(&w, store_path, c, 4, contract, &wp, err));
    json_decref(contract);
    for (int s = 0; s < KD_SPLITS; s++)
        for (uint32_t at = 0; at < split_rows[s]; at += CHUNK) {
            uint32_t n = split_rows[s] - at < CHUNK ? split_rows[s] - at : CHUNK;
            static uint8_t id[CHUNK][16], split[CHUNK], image[CHUNK][PIXELS];
            static int32_t label[CHUNK];
            for (uint32_t i = 0; i < n; i++, row++) {
                memcpy(id[i], &row, sizeof row);
                split[i] = (uint8_t)s;
                label[i] = (int32_t)(row % CLASSES);
                for (size_t k = 0; k < PIXELS; k++) image[i][k] = pixel(row, k);
            }
            const kd_block b[4] = {{.data = id, .bytes = 16u * n},
                                   {.data = split, .bytes = n},
                                   {.data = image, .bytes = (size_t)PIXELS * n},
                                   {.data = label, .bytes = 4u * n}};
            OK(kd_store_writer_append(w, (kd_split)s, n, b, err));
        }
    OK(kd_store_writer_seal(w, NULL, err));
    json_decref(c[2].params);
    json_decref(c[3].params);
}

typedef struct teacher_opts {
    const char *path;
    uint64_t seed;
    int side, classes;
    double mean, scale;
    const char *first_label;
    float weight; /* of the first weight, 0: as drawn */
} teacher_opts;
static const teacher_opts right = {teacher_path, 1, SIDE, CLASSES, 70.25, 0.0123, "a", 0};

static inline void make_teacher(teacher_opts o)
{
    json_t *spec = json_pack("{s:s, s:[i,i,i], s:i, s:[i,i]}", "arch", "cnn", "input", o.side, o.side, 1,
                             "classes", o.classes, "channels", 4, 6);
    kd_model *m;
    OK(kd_model_create(&m, "big", spec, "test", err));
    kd_graph_init(m->graph, o.seed);
    if (o.weight != 0) kd_graph_slab(m->graph, NULL)[0] = o.weight;
    m->mean = (float)o.mean;
    m->scale = (float)o.scale;
    m->labels = json_array();
    for (int i = 0; i < o.classes; i++)
        json_array_append_new(m->labels, i ? json_pack("s#", &"abcdefgh"[i], 1) : json_string(o.first_label));
    OK(kd_mkdirs(o.path, err));
    OK(kd_model_save(m, o.path, NULL, err));
    kd_model_free(m);
    json_decref(spec);
}

static inline int begin(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-teacher-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(store_path, sizeof store_path, "%s/data.kd", folder);
    snprintf(teacher_path, sizeof teacher_path, "%s/teacher", folder);
    snprintf(other_path, sizeof other_path, "%s/other", folder);
    return 0;
}

static inline int end(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

static inline kd_teacher *open_teacher(const char *path, int64_t batch, int threads)
{
    kd_teacher *t;
    OK(kd_teacher_open(&t, path, batch, threads, err));
    return t;
}

/* A store, and two teachers for it that differ in their weights. */
static inline void make_two_teachers(kd_teacher **t, kd_teacher **u)
{
    teacher_opts o = right;
    make_store();
    make_teacher(right);
    o.path = other_path;
    o.seed = 2;
    make_teacher(o);
    *t = open_teacher(teacher_path, 10, 1);
    *u = open_teacher(other_path, 10, 1);
}

static inline kd_store *open_store(void)
{
    kd_store *s;
    OK(kd_store_open(&s, store_path, err));
    return s;
}

static inline kd_writer_params params(bool resume, bool force)
{
    kd_writer_params p = kd_writer_default_params();
    p.resume = resume;
    p.force = force;
    p.commit_bytes = 1; // every chunk
    return p;
}

static inline void root_of_store(char out[33])
{
    kd_store *s = open_store();
    memcpy(out, kd_store_root(s), 33);
    kd_store_close(s);
}

/* The bias of class 0, inside a teacher that is open. */
static inline void set_bias(kd_teacher *t, float value)
{
    const kd_model *m = kd_teacher_model(t);
    const kd_param *p;
    for (size_t i = kd_graph_params(m->graph, &p); i-- > 0;)
        if (!strcmp(p[i].name, "fc0.bias")) kd_graph_param_data(m->graph, &p[i])[0] = value;
}

#endif
