/* test_train.c - the promises of the trainer: the same bits for any number of threads, any company
 * and any interruption; and one clear refusal for each thing that does not fit.
 *
 * The store is small and made here: 8 x 8 images of four classes, each a bright quadrant under noise, and
 * a teacher whose logits know the class but not perfectly. */
#include "check.h"
#include "kd/train.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    SIDE = 8,
    PIXELS = SIDE * SIDE,
    CLASSES = 4,
    CHUNK = 32,
    TRAIN_ROWS = 7 * CHUNK + 16,
    VALID_ROWS = 80
};
static char dir[64];
static char *at(const char *name) // a path in the test's folder; leaks a little, on purpose short-lived
{
    static char buf[16][512];
    static int next;
    char *p = buf[next++ % 16];
    snprintf(p, 512, "%.60s/%.400s", dir, name);
    return p;
}

/* ---- a store ------------------------------------------------------------------------------ */

enum {
    GOOD = 0,
    BAD_LABEL = 1,
    NAN_LOGIT = 2,
    NO_TEACHER = 4,
    TWO_TEACHERS = 8,
    RANDOM_TEACHER = 16,
    NO_VALID = 32,
    F32_INPUT = 64
};

typedef struct chunk_data {
    uint8_t id[CHUNK][16], split[CHUNK], image[CHUNK][PIXELS];
    float image_f32[CHUNK][PIXELS];
    int32_t label[CHUNK];
    float logits[CHUNK][CLASSES];
} chunk_data;

static void fill_chunk(chunk_data *d, uint64_t first, uint32_t rows, kd_split split, int kind)
{
    for (uint32_t i = 0; i < rows; i++) {
        kd_rng g;
        kd_rng_init(&g, 7, KD_RNG_TEST, (uint32_t)(first + i), 0);
        kd_id id = kd_hash128(&(uint64_t){first + i}, 8);
        memcpy(d->id[i], id.b, 16);
        d->split[i] = (uint8_t)split;
        int32_t y = (int32_t)kd_rng_below(&g, CLASSES);
        d->label[i] = y;
        for (int p = 0; p < PIXELS; p++) {
            int quadrant = (p / SIDE >= SIDE / 2) * 2 + (p % SIDE >= SIDE / 2);
            d->image[i][p] = (uint8_t)(kd_rng_below(&g, 160) + (quadrant == y ? 60 : 0));
            d->image_f32[i][p] = d->image[i][p];
        }
        for (int k = 0; k < CLASSES; k++)
            d->logits[i][k] = 2 * kd_rng_normal(&g) + (k == y && !(kind & RANDOM_TEACHER) ? 4 : 0);
        if (kind & BAD_LABEL && first + i == 100) d->label[i] = CLASSES;
        if (kind & NAN_LOGIT && first + i == 100) d->logits[i][2] = NAN;
    }
}

static kd_column column(const char *name, kd_role role, kd_dtype dtype, int ndims, int64_t d0,
                        const char *teacher)
{
    kd_column c = {.role = role, .dtype = dtype, .ndims = ndims, .dims = {d0}};
    snprintf(c.name, sizeof(c.name), "%.63s", name);
    snprintf(c.teacher, sizeof(c.teacher), "%.63s", teacher);
    snprintf(c.encoding, sizeof(c.encoding), "dense");
    return c;
}

static void add_teacher(kd_store *s, const char *name, int kind)
{
    kd_store_writer *w;
    char col[80];
    snprintf(col, sizeof(col), "%s/logits", name);
    kd_column c = column(col, KD_ROLE_LOGITS, KD_F32, 1, CLASSES, name);
    json_t *contract = json_pack("{s:s}", "kind", name),
           *extra = json_pack("{s:{s:s, s:s}}", "teacher", "name", name, "fingerprint", "0123");
    kd_writer_params wp = kd_writer_default_params();
    chunk_data *d = calloc(1, sizeof(*d));
    OK(kd_store_extend(&w, s, name, &c, 1, contract, &wp, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *in = kd_store_chunk(s, i);
        fill_chunk(d, in->first, in->rows, in->split, kind);
        kd_block b = {.data = d->logits, .bytes = in->rows * sizeof(d->logits[0])};
        OK(kd_store_writer_append(w, in->split, in->rows, &b, err));
    }
    OK(kd_store_writer_seal(w, extra, err));
    free(d);
    json_decref(contract);
    json_decref(extra);
}

static void make_store(const char *path, int kind)
{
    bool f32 = kind & F32_INPUT;
    kd_column c[4] = {column("id", KD_ROLE_ID, KD_U8, 1, 16, ""),
                      column("split", KD_ROLE_SPLIT, KD_U8, 0, 0, ""),
                      column("image", KD_ROLE_INPUT, f32 ? KD_F32 : KD_U8, 3, SIDE, ""),
                      column("label", KD_ROLE_LABEL, KD_I32, 0, 0, "")};
    c[2].dims[1] = SIDE;
    c[2].dims[2] = 1;
    c[2].params = json_pack("{s:f, s:f}", "mean", 95.0, "scale", 0.02);
    c[3].params = json_pack("{s:i, s:[s, s, s, s]}", "classes", CLASSES, "names", "nw", "ne", "sw", "se");
    kd_store_writer *w;
    kd_store *s;
    kd_writer_params wp = kd_writer_default_params();
    wp.chunk_rows = CHUNK;
    json_t *contract = json_pack("{s:s}", "kind", "test");
    OK(kd_store_create(&w, path, c, 4, contract, &wp, err));
    chunk_data *d = calloc(1, sizeof(*d));
    uint64_t first = 0, total[KD_SPLITS] = {TRAIN_ROWS, kind & NO_VALID ? 0 : VALID_ROWS, CHUNK};
    for (int split = 0; split < KD_SPLITS; split++)
        for (uint64_t r = 0; r < total[split];) {
            uint32_t n = (uint32_t)kd_min_size(CHUNK, total[split] - r);
            fill_chunk(d, first, n, (kd_split)split, kind);
            kd_block b[4] = {{.data = d->id, .bytes = n * 16u},
                             {.data = d->split, .bytes = n},
                             {.data = f32 ? (void *)d->image_f32 : (void *)d->image,
                              .bytes = n * (f32 ? sizeof(d->image_f32[0]) : sizeof(d->image[0]))},
                             {.data = d->label, .bytes = n * 4u}};
            OK(kd_store_writer_append(w, (kd_split)split, n, b, err));
            r += n;
            first += n;
        }
    OK(kd_store_writer_seal(w, NULL, err));
    free(d);
    json_decref(contract);
    json_decref(c[2].params);
    json_decref(c[3].params);
    if (kind & NO_TEACHER) return;
    OK(kd_store_open(&s, path, err));
    add_teacher(s, "big", kind);
    kd_store_close(s);
    if (!(kind & TWO_TEACHERS)) return;
    OK(kd_store_open(&s, path, err));
    add_teacher(s, "huge", kind);
    kd_store_close(s);
}

/* ---- students ----------------------------------------------------------------------------- */

#define MLP                                                                                                  \
    "model: {arch: mlp, hidden: [24]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2}\ntrain: {epochs: 3, batch: " \
    "16, lr: 0.01}\n"
#define CNN                                                                                                  \
    "model: {arch: cnn, channels: [4, 8], strides: [1, 2], dropout: 0.2}\nloss: {kd: 0.5, ce: 0.5}\n"        \
    "train: {epochs: 2, batch: 24, lr: 0.02, clip: 1, keep: best, warmup: 0.2, schedule: linear}\n"
#define DSCNN                                                                                                \
    "model: {arch: dscnn, channels: [6, 8], strides: [1, 2]}\nloss: {kd: 1, ce: 0}\n"                        \
    "train: {epochs: 4, batch: 16, optimizer: sgd, nesterov: true, lr: 0.05, schedule: constant}\n"

static const char *yaml(const char *name, const char *text)
{
    char file[64];
    snprintf(file, sizeof(file), "%s.yaml", name);
    char *path = at(file);
    OK(kd_file_write(path, text, strlen(text), err));
    return path;
}

typedef struct student {
    const char *name, *text, *role, *folder;
    uint64_t seed;
} student;
static const student trio[] = {{"mlp", MLP, "distilled", "mlp", 0},
                               {"cnn", CNN, "distilled", "cnn", 1},
                               {"dscnn", DSCNN, "distilled", "dscnn", 0}};
enum { MAX = 8 };

typedef struct outcome {
    uint64_t hash[MAX];
    kd_train_result r[MAX];
    char *metrics[MAX]; // without the seconds
    char warning[512];
    uint64_t decoded, expected, steps;
    kd_status st;
    kd_err err;
} outcome;

/* metrics.jsonl without the member "seconds". */
static char *metrics_of(const char *folder)
{
    char *path = kd_path_join(folder, "metrics.jsonl"), *text, *cut;
    size_t len;
    OK(kd_file_read(path, 1 << 20, &text, &len, err));
    while ((cut = strstr(text, ",\"seconds\":")))
        memmove(cut, strchr(cut, '}'), strlen(strchr(cut, '}')) + 1);
    free(path);
    return text;
}

static void release(outcome *o)
{
    for (int i = 0; i < MAX; i++) free(o->metrics[i]), o->metrics[i] = NULL;
}

static kd_trainer_params params(int threads)
{
    kd_trainer_params p = kd_trainer_default_params();
    p.threads = threads;
    p.checkpoint_seconds = 0;
    p.checkpoint_keep = 2;
    p.window_rows = 3 * CHUNK; // several windows an epoch
    return p;
}

static int stop_flag;
static uint64_t stop_after, steps_seen;
static void count_steps(void *arg, const kd_train_progress *p)
{
    (void)arg, (void)p;
    if (++steps_seen == stop_after) stop_flag = 1;
}

static kd_status add(kd_trainer *t, const student *s, const char *under, bool *skipped, kd_err *err)
{
    kd_student_spec spec;
    char folder[256];
    kd_status st = kd_student_load(&spec, yaml(s->name, s->text), NULL, err);
    if (st) return st;
    snprintf(folder, sizeof(folder), "%s/%s", under, s->folder);
    st = kd_trainer_add(t, &spec, s->seed, s->role, at(folder), skipped, err);
    kd_student_release(&spec);
    return st;
}

/* Trains n students into dir/under/; stop after that many rounds if not 0. */
static outcome train(const char *store, const char *under, const student *s, size_t n,
                     const kd_trainer_params *p, uint64_t stop)
{
    outcome o = {0};
    kd_store *st;
    kd_trainer *t;
    OK(kd_store_open(&st, at(store), err));
    OK(kd_trainer_create(&t, st, p, err));
    for (size_t i = 0; i < n && !o.st; i++) {
        bool skipped;
        o.st = add(t, &s[i], under, &skipped, &o.err);
    }
    stop_flag = 0, steps_seen = 0, stop_after = stop;
    if (!o.st) o.st = kd_trainer_run(t, &stop_flag, count_steps, NULL, &o.err);
    o.steps = steps_seen;
    kd_trainer_reads(t, &o.decoded, &o.expected);
    for (size_t i = 0; i < kd_trainer_students(t); i++) {
        char folder[256];
        kd_trainer_result(t, i, &o.r[i]);
        o.hash[i] = o.r[i].weight_hash;
        snprintf(folder, sizeof(folder), "%s/%s", under, s[i].folder);
        if (o.r[i].done) o.metrics[i] = metrics_of(at(folder));
    }
    const char *warning = kd_trainer_warning(t, 0);
    snprintf(o.warning, sizeof(o.warning), "%s", warning ? warning : "");
    kd_trainer_free(t);
    kd_store_close(st);
    return o;
}

static void expect_ok(const outcome *o)
{
    if (o->st) fail_msg("training: %s", o->err.msg);
}

/* The trio, trained alone one after the other on one thread: what everything else is compared with. */
static outcome reference(void)
{
    static outcome ref;
    static bool made;
    kd_trainer_params p = params(1);
    for (int i = 0; i < 3 && !made; i++) {
        char under[16];
        snprintf(under, sizeof(under), "ref%d", i);
        outcome o = train("s.kd", under, &trio[i], 1, &p, 0);
        expect_ok(&o);
        ref.hash[i] = o.hash[0];
        ref.r[i] = o.r[0];
        ref.metrics[i] = o.metrics[0];
    }
    made = true;
    return ref;
}

static void expect_reference(const outcome *o, const char *what)
{
    outcome ref = reference();
    expect_ok(o);
    for (int i = 0; i < 3; i++) {
        if (!o->r[i].done || o->hash[i] != ref.hash[i])
            fail_msg("%s: %s has weights %016llx, wanted %016llx", what, trio[i].name,
                     (unsigned long long)o->hash[i], (unsigned long long)ref.hash[i]);
        assert_string_equal(o->metrics[i], ref.metrics[i]);
    }
}

/* ---- tests: plain functions --------------------------------------------------------------- */

static void the_rate_rises_then_falls(void **state)
{
    (void)state;
    kd_train_spec t = {.lr = 0.5, .warmup = 0.1, .final_lr = 0.2, .schedule = (char *)"cosine"};
    assert_float_equal(kd_lr_at(&t, 0, 100), 0.05, 1e-12);
    assert_float_equal(kd_lr_at(&t, 9, 100), 0.5, 1e-12);
    assert_float_equal(kd_lr_at(&t, 10, 100), 0.5, 1e-12);
    assert_float_equal(kd_lr_at(&t, 55, 100), 0.5 * (0.2 + 0.8 * 0.5), 1e-12);
    assert_true(kd_lr_at(&t, 99, 100) > 0.1 && kd_lr_at(&t, 99, 100) < 0.101);
    t.schedule = (char *)"linear";
    assert_float_equal(kd_lr_at(&t, 55, 100), 0.5 * (1 - 0.8 * 0.5), 1e-12);
    t.schedule = (char *)"constant";
    assert_float_equal(kd_lr_at(&t, 99, 100), 0.5, 1e-12);
    t.warmup = 0;
    assert_float_equal(kd_lr_at(&t, 0, 1), 0.5, 1e-12);
}

static void a_student_is_read_with_overrides(void **state)
{
    (void)state;
    kd_student_spec s;
    char *set[] = {(char *)"train.epochs=7", (char *)"model.hidden=3,4", (char *)"loss.temperature=1.5"};
    kd_strings over = {set, 3};
    OK(kd_student_load(&s, yaml("my-net", MLP), &over, err));
    assert_string_equal(s.name, "my-net");
    assert_int_equal(s.train.epochs, 7);
    assert_int_equal(s.train.batch, 16);
    assert_int_equal(s.model.hidden.n, 2);
    assert_float_equal(s.loss.temperature, 1.5, 0);
    kd_student_release(&s);
    set[0] = (char *)"train.epoch=7";
    FAILS(kd_student_load(&s, yaml("my-net", MLP), &over, err), KD_EUSAGE, "train.epochs");
    set[0] = (char *)"train.epochs";
    FAILS(kd_student_load(&s, yaml("my-net", MLP), &over, err), KD_EUSAGE, "KEY=VALUE");
    FAILS(kd_student_load(&s, yaml("a", "name: ../up\n" MLP), NULL, err), KD_EUSAGE, "name '../up'");
    FAILS(kd_student_load(&s, yaml("a", MLP "trian: {epochs: 3}\n"), NULL, err), KD_EUSAGE, "a.yaml:4");
    FAILS(kd_student_load(&s, at("none.yaml"), NULL, err), KD_ENOTFOUND, "none.yaml");
}

/* ---- tests: bits -------------------------------------------------------------------------- */

/* The same steps written down once more with the public calls of the layers below, one optimizer
 * call a parameter. */
static void a_run_is_what_its_parts_compute(void **state)
{
    (void)state;
    kd_store *s;
    kd_loader *l;
    kd_stream *stream;
    kd_batch b;
    kd_model *m, *trained;
    kd_exec *ex;
    kd_loss *loss;
    kd_student_spec spec;
    kd_loader_params lp = kd_loader_default_params();
    outcome ref = reference();
    OK(kd_store_open(&s, at("s.kd"), err));
    int columns[3] = {kd_store_find(s, "image"), kd_store_find(s, "label"), kd_store_find(s, "big/logits")};
    lp.window_rows = params(1).window_rows;
    OK(kd_student_load(&spec, yaml("mlp", MLP), NULL, err));
    json_t *model = json_pack("{s:s, s:[i, i, i], s:i, s:[i]}", "arch", "mlp", "input", SIDE, SIDE, 1,
                              "classes", CLASSES, "hidden", 24);
    OK(kd_model_create(&m, "mlp", model, "here", err));
    m->mean = 95.0f, m->scale = 0.02f;
    kd_graph_init(m->graph, 0);
    kd_exec_params ep = {.batch = 16, .threads = 1, .training = true};
    OK(kd_exec_create(&ex, m->graph, &ep, err));
    kd_loss_shape shape = {.rows = 16, .classes = CLASSES};
    OK(kd_loss_create(&loss, &spec.loss, err));
    OK(kd_loss_plan(loss, &shape, err));
    OK(kd_loader_open(&l, s, columns, 3, &lp, err));
    OK(kd_stream_open(&stream, l, 0, 16, true, err));
    size_t n, step = 0;
    float *w = kd_graph_slab(m->graph, &n), *m1 = kd_alloc_aligned(n, 4), *m2 = kd_alloc_aligned(n, 4);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        OK(kd_loader_epoch(l, epoch, err));
        for (;; step++) {
            OK(kd_stream_next(stream, &b, err));
            if (!b.rows) break;
            OK(kd_model_feed(m, kd_exec_input(ex, m->input), b.column[0], KD_U8, 16, err));
            kd_exec_seed(ex, 0, step);
            kd_exec_forward(ex);
            kd_loss_batch lb = {.rows = 16,
                                .classes = CLASSES,
                                .logits = kd_exec_value(ex, m->logits),
                                .labels = b.column[1],
                                .teacher = b.column[2],
                                .dlogits = kd_exec_grad(ex, m->logits)};
            kd_loss_run(loss, &lb);
            kd_exec_backward(ex);
            const kd_param *p;
            size_t np = kd_graph_params(m->graph, &p);
            kd_adamw a = {.lr = (float)kd_lr_at(&spec.train, step, 3 * kd_stream_steps(stream)),
                          .beta1 = 0.9f,
                          .beta2 = 0.999f,
                          .eps = 1e-8f,
                          .step = (int64_t)step + 1,
                          .grad_scale = 1};
            for (size_t i = 0; i < np; i++) {
                size_t o = p[i].offset;
                a.weight_decay = p[i].decay ? 0.01f : 0;
                kd_nn_adamw(w + o, m1 + o, m2 + o, kd_exec_grads(ex) + o, p[i].size, &a);
            }
        }
    }
    assert_int_equal(step, 3 * (TRAIN_ROWS / 16));
    OK(kd_model_load(&trained, at("ref0/mlp"), err));
    const float *got = kd_graph_slab(trained->graph, &n);
    for (size_t i = 0; i < n; i++)
        if (got[i] != w[i]) fail_msg("weight %zu is %.9g, wanted %.9g", i, (double)got[i], (double)w[i]);
    assert_true(ref.r[0].valid_accuracy > 0.6);
    free(m1), free(m2);
    json_decref(model);
    kd_model_free(trained);
    kd_exec_free(ex);
    kd_loss_free(loss);
    kd_model_free(m);
    kd_loader_close(l);
    kd_student_release(&spec);
    kd_store_close(s);
}

static void threads_company_and_teams_change_no_bit(void **state)
{
    (void)state;
    static const struct {
        int threads, team;
    } ways[] = {{1, 0}, {2, 1}, {2, 2}, {3, 0}, {8, 1}, {8, 2}};
    for (size_t i = 0; i < KD_COUNT(ways); i++) {
        char under[32];
        kd_trainer_params p = params(ways[i].threads);
        p.team = ways[i].team;
        snprintf(under, sizeof(under), "way%zu", i);
        outcome o = train("s.kd", under, trio, 3, &p, 0);
        expect_reference(&o, under);
        assert_int_equal(o.decoded, o.expected);
        assert_true(o.expected > 0);
        release(&o);
    }
}

static void the_twin_is_the_student_without_the_teacher(void **state)
{
    (void)state;
    kd_trainer_params p = params(2);
    kd_store *s;
    kd_trainer *t;
    kd_student_spec spec;
    bool skipped;
    char *set[] = {(char *)"loss.kd=0", (char *)"loss.ce=1"};
    kd_strings over = {set, 2};
    kd_train_result twin;
    student by_hand = {"plain",
                       "model: {arch: mlp, hidden: [24]}\nloss: {kd: 0, ce: 1, temperature: 2}\ntrain: "
                       "{epochs: 3, batch: 16, lr: 0.01}\n",
                       "plain", "plain", 0};
    OK(kd_store_open(&s, at("s.kd"), err));
    OK(kd_trainer_create(&t, s, &p, err));
    OK(kd_student_load(&spec, yaml("mlp", MLP), NULL, err));
    OK(kd_trainer_add(t, &spec, 0, "distilled", at("twin/d"), &skipped, err));
    kd_student_release(&spec);
    OK(kd_student_load(&spec, yaml("mlp", MLP), &over, err));
    OK(kd_trainer_add(t, &spec, 0, "plain", at("twin/p"), &skipped, err));
    kd_student_release(&spec);
    OK(kd_trainer_run(t, NULL, NULL, NULL, err));
    kd_trainer_result(t, 1, &twin);
    outcome o = train("s.kd", "hand", &by_hand, 1, &p, 0);
    expect_ok(&o);
    assert_int_equal(o.hash[0], twin.weight_hash);
    assert_true(o.hash[0] != reference().hash[0]);
    release(&o);
    kd_trainer_free(t);
    kd_store_close(s);
}

static void a_stopped_run_goes_on_bit_for_bit(void **state)
{
    (void)state;
    outcome o = {0};
    kd_trainer_params p = params(2);
    for (uint64_t stop = 1; stop < 14; stop += 4) { // again and again, within epochs and windows
        o = train("s.kd", "stopped", trio, 3, &p, stop);
        assert_int_equal(o.st, KD_ESTOPPED);
        assert_non_null(strstr(o.err.msg, "--resume"));
        p.resume = true;
        p.threads = 3 - p.threads;
        release(&o);
    }
    o = train("s.kd", "stopped", trio, 3, &p, 0);
    expect_reference(&o, "stopped and resumed");
    assert_false(kd_exists(at("stopped/mlp.part")));
    assert_false(kd_exists(at("stopped/mlp/ckpt-0001-00000015.kdc")));
    release(&o);
}

/* The newest checkpoint of a folder, whose name goes to path. */
static int newest(const char *folder, char path[512])
{
    DIR *d = opendir(folder);
    int n = 0;
    path[0] = '\0';
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strstr(e->d_name, ".kdc") && ++n && strcmp(e->d_name, kd_path_base(path)) > 0)
            snprintf(path, 512, "%s/%s", folder, e->d_name);
    closedir(d);
    return n;
}

static void flip_byte(const char *path, long where)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, where, where < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 0x40, f);
    fclose(f);
}

static void students_may_stand_at_different_places(void **state)
{
    (void)state;
    char path[512];
    kd_trainer_params p = params(2);
    outcome o = train("s.kd", "apart", trio, 3, &p, 33); // in the third epoch
    assert_int_equal(o.st, KD_ESTOPPED);
    release(&o);
    assert_int_equal(newest(at("apart/mlp.part"), path), 2);
    assert_int_equal(unlink(path), 0);               // mlp falls back to the end of its second epoch
    OK(kd_remove_tree(at("apart/dscnn.part"), err)); // dscnn starts anew
    p.resume = true;
    o = train("s.kd", "apart", trio, 3, &p, 0);
    expect_reference(&o, "apart");
    release(&o);
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    (void)state;
    char path[512];
    kd_trainer_params p = params(1);
    static const long places[] = {-3, 400, 3, -2000};
    for (size_t i = 0; i < KD_COUNT(places); i++) {
        p.resume = p.force = false;
        OK(kd_remove_tree(at("damaged"), err));
        outcome o = train("s.kd", "damaged", trio, 1, &p, 33);
        assert_int_equal(o.st, KD_ESTOPPED);
        newest(at("damaged/mlp.part"), path);
        flip_byte(path, places[i]);
        p.resume = true;
        release(&o);
        o = train("s.kd", "damaged", trio, 1, &p, 0);
        expect_ok(&o);
        if (!strstr(o.warning, kd_path_base(path))) fail_msg("byte %ld: warning '%s'", places[i], o.warning);
        assert_int_equal(o.hash[0], reference().hash[0]);
        release(&o);
    }
}

static void with_all_checkpoints_damaged_only_force_starts_over(void **state)
{
    (void)state;
    char path[512];
    kd_trainer_params p = params(1);
    outcome o = train("s.kd", "gone", trio, 1, &p, 17);
    assert_int_equal(o.st, KD_ESTOPPED);
    release(&o);
    DIR *d = opendir(at("gone/mlp.part"));
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof(path), "%s/%s", at("gone/mlp.part"), e->d_name);
        if (strstr(path, ".kdc")) assert_int_equal(truncate(path, 1000), 0);
    }
    closedir(d);
    p.resume = true;
    o = train("s.kd", "gone", trio, 1, &p, 0);
    assert_int_equal(o.st, KD_ECORRUPT);
    assert_non_null(strstr(o.err.msg, "--force"));
    release(&o);
    p.force = true;
    o = train("s.kd", "gone", trio, 1, &p, 0);
    expect_ok(&o);
    assert_int_equal(o.hash[0], reference().hash[0]);
    release(&o);
}

static void another_contract_is_named(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    student other = trio[0];
    outcome o = train("s.kd", "contract", trio, 1, &p, 17);
    assert_int_equal(o.st, KD_ESTOPPED);
    release(&o);
    p.resume = true;
    other.text = "model: {arch: mlp, hidden: [24]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2}\ntrain: "
                 "{epochs: 3, batch: 16, lr: 0.02}\n";
    o = train("s.kd", "contract", &other, 1, &p, 0);
    assert_int_equal(o.st, KD_EMISMATCH);
    if (!strstr(o.err.msg, "config.train.lr is 0.01 there and 0.02 now")) fail_msg("%s", o.err.msg);
    other = trio[0];
    other.seed = 5;
    o = train("s.kd", "contract", &other, 1, &p, 0);
    if (!strstr(o.err.msg, "seed is 0 there and 5 now")) fail_msg("%s", o.err.msg);
    p.rows = 64;
    o = train("s.kd", "contract", trio, 1, &p, 0);
    if (!strstr(o.err.msg, "rows is")) fail_msg("%s", o.err.msg);
    p.rows = 0;
    o = train("random.kd", "contract", trio, 1, &p, 0);
    if (!strstr(o.err.msg, "columns.big/logits is")) fail_msg("%s", o.err.msg);
    o = train("s.kd", "contract", trio, 1, &p, 0); // nothing of this has harmed it
    expect_ok(&o);
    assert_int_equal(o.hash[0], reference().hash[0]);
    release(&o);
}

static void the_cache_of_validation_rows_changes_nothing(void **state)
{
    (void)state;
    kd_trainer_params p = params(2);
    p.valid_cache = 0;
    outcome o = train("s.kd", "uncached", trio, 3, &p, 0);
    expect_reference(&o, "without cache");
    assert_int_equal(o.decoded, o.expected); // validation is counted apart
    release(&o);
}

static void f32_inputs_train_like_bytes(void **state)
{
    (void)state;
    kd_trainer_params p = params(2);
    outcome o = train("f32.kd", "f32", trio, 1, &p, 0);
    expect_ok(&o);
    assert_float_equal(o.r[0].loss, reference().r[0].loss, 1e-4);
    release(&o);
}

/* ---- tests: folders ----------------------------------------------------------------------- */

static void finished_folders_are_respected(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    student other = trio[0];
    other.text = "model: {arch: mlp, hidden: [25]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2}\ntrain: "
                 "{epochs: 1, batch: 16, lr: 0.01}\n";
    OK(kd_mkdirs(at("done/mlp"), err)); // an empty folder is no obstacle
    outcome o = train("s.kd", "done", trio, 1, &p, 0);
    expect_ok(&o);
    release(&o);
    o = train("s.kd", "done", trio, 1, &p, 0);
    assert_int_equal(o.st, KD_EEXISTS);
    assert_non_null(strstr(o.err.msg, "--resume"));
    p.resume = true;
    o = train("s.kd", "done", trio, 1, &p, 0);
    expect_ok(&o);
    assert_true(o.r[0].skipped && o.steps == 0);
    assert_int_equal(o.r[0].weight_hash, reference().hash[0]);
    assert_float_equal(o.r[0].valid_accuracy, reference().r[0].valid_accuracy, 0);
    release(&o);
    o = train("s.kd", "done", &other, 1, &p, 0);
    assert_int_equal(o.st, KD_EMISMATCH);
    p.force = true; // with resume: what fits stays, what does not is replaced
    o = train("s.kd", "done", trio, 1, &p, 0);
    assert_true(o.r[0].skipped);
    release(&o);
    o = train("s.kd", "done", &other, 1, &p, 0);
    expect_ok(&o);
    assert_true(!o.r[0].skipped && o.r[0].epochs == 1);
    release(&o);
    p.resume = false;
    o = train("s.kd", "done", trio, 1, &p, 0);
    expect_ok(&o);
    assert_int_equal(o.hash[0], reference().hash[0]);
    release(&o);
    assert_false(kd_exists(at("done/mlp.part")));
    assert_false(kd_exists(at("done/mlp.old.part")));
}

/* A kill just before the last rename leaves everything under FOLDER.part. */
static void only_the_renaming_is_done_again(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    outcome o = train("s.kd", "late", trio, 1, &p, 0);
    expect_ok(&o);
    release(&o);
    assert_int_equal(rename(at("late/mlp"), at("late/mlp.part")), 0);
    p.resume = true;
    o = train("s.kd", "late", trio, 1, &p, 0);
    expect_ok(&o);
    assert_int_equal(o.steps, 0);
    assert_int_equal(o.hash[0], reference().hash[0]);
    assert_true(kd_exists(at("late/mlp/model.safetensors")));
    release(&o);
}

static void the_papers_say_what_was_done(void **state)
{
    (void)state;
    json_t *o;
    const char *text;
    int64_t n;
    char hash[17];
    outcome ref = reference();
    OK(kd_json_load(at("ref1/cnn/provenance.json"), 1 << 20, &o, err));
    OK(kd_json_str(o, "name", &text, "p", err));
    assert_string_equal(text, "cnn");
    OK(kd_json_str(o, "role", &text, "p", err));
    assert_string_equal(text, "distilled");
    OK(kd_json_int(o, "seed", 0, 100, &n, "p", err));
    assert_int_equal(n, 1);
    OK(kd_json_str(json_object_get(o, "teacher"), "name", &text, "p", err));
    assert_string_equal(text, "big");
    snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)ref.hash[1]);
    OK(kd_json_str(o, "weight_hash", &text, "p", err));
    assert_string_equal(text, hash);
    json_decref(o);
    assert_int_equal(ref.metrics[1][0], '{');
    json_t *line = json_loads(ref.metrics[1], JSON_DISABLE_EOF_CHECK, NULL);
    assert_non_null(line);
    assert_int_equal(json_integer_value(json_object_get(line, "epoch")), 1);
    assert_int_equal(json_integer_value(json_object_get(line, "step")), TRAIN_ROWS / 24);
    double agree = json_number_value(json_object_get(line, "teacher_accuracy"));
    assert_true(agree > 0.6 && agree < 1);
    assert_non_null(json_object_get(json_object_get(line, "terms"), "kd"));
    json_decref(line);
}

/* ---- tests: figures ----------------------------------------------------------------------- */

/* keep: best or best_loss. A rate far too large at the end: the last epoch is not the best. */
static void expect_best(const char *keep, const char *figure, bool largest)
{
    kd_trainer_params p = params(1);
    char text[400];
    snprintf(text, sizeof(text),
             "model: {arch: mlp, hidden: [16]}\nloss: {kd: 0, ce: 1}\n"
             "train: {epochs: 8, batch: 16, lr: 0.3, schedule: constant, keep: %s, optimizer: sgd, "
             "momentum: 0.95}\n",
             keep);
    student s = {keep, text, "plain", keep, 3};
    outcome o = train("s.kd", keep, &s, 1, &p, 0);
    expect_ok(&o);
    double best = NAN, last = NAN, loss = NAN;
    uint64_t lines = 0;
    for (char *line = o.metrics[0]; *line; line = strchr(line, '\n') + 1, lines++) {
        json_t *j = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        last = json_number_value(json_object_get(j, figure));
        if (isnan(best) || (largest ? last > best : last < best)) {
            best = last;
            loss = json_number_value(json_object_get(j, "valid_loss"));
        }
        json_decref(j);
    }
    assert_int_equal(lines, 8);
    assert_true(largest ? last < best : last > best);
    assert_float_equal(largest ? o.r[0].valid_accuracy : o.r[0].valid_loss, best, 0);
    assert_float_equal(o.r[0].valid_loss, loss, 0); // every figure is of the epoch that is kept
    release(&o);
}

static void the_best_weights_are_kept(void **state)
{
    (void)state;
    expect_best("best", "valid_accuracy", true);
    expect_best("best_loss", "valid_loss", false);
}

static void patience_ends_a_run_early(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    student s[2] = {{"impatient",
                     "model: {arch: mlp, hidden: [64]}\nloss: {kd: 0, ce: 1}\n"
                     "train: {epochs: 60, batch: 16, lr: 0.03, schedule: constant, patience: 2}\n",
                     "plain", "a", 0},
                    trio[0]};
    outcome o = train("s.kd", "patience", s, 2, &p, 0);
    expect_ok(&o);
    assert_true(o.r[0].done && o.r[0].epochs < 60 && o.r[0].epochs >= 3);
    assert_int_equal(o.hash[1], reference().hash[0]);
    release(&o);
}

#define WILD(arch)                                                                                           \
    "model: {" arch "}\nloss: {kd: 0, ce: 1}\n"                                                              \
    "train: {epochs: 3, batch: 16, lr: 90, schedule: constant, optimizer: sgd, momentum: 0.99, "             \
    "weight_decay: 1}\n"

static void diverging_students_stop_alone(void **state)
{
    (void)state;
    kd_trainer_params p = params(2);
    student s[5] = {{"wild", WILD("arch: mlp, hidden: [24]"), "plain", "wild", 0},
                    trio[0],
                    {"savage", WILD("arch: cnn, channels: [4, 8], strides: [1, 2]"), "plain", "savage", 0},
                    trio[1],
                    trio[2]};
    outcome o = train("s.kd", "wild", s, 5, &p, 0), ref = reference();
    assert_int_equal(o.st, KD_ENUMERIC);
    assert_non_null(strstr(o.err.msg, "2 of 5 students diverged"));
    for (int i = 0, k = 0; i < 5; i++) {
        bool wild = s[i].role[0] == 'p';
        char part[64];
        snprintf(part, sizeof(part), "wild/%s.part", s[i].folder);
        assert_int_equal(o.r[i].failed, wild);
        assert_int_equal(o.r[i].done, !wild);
        assert_int_equal(kd_exists(at(part)), wild);
        if (!wild) assert_int_equal(o.hash[i], ref.hash[k++]);
    }
    const char *step = strstr(o.warning, "in epoch 1 at step "); // an epoch has 15
    if (!step || !strstr(o.warning, "wild/") || atoi(step + 19) >= 14) fail_msg("warning: %s", o.warning);
    release(&o);
}

static void a_teacher_at_chance_is_noticed(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    outcome o = train("random.kd", "random", trio, 1, &p, 0);
    expect_ok(&o);
    assert_non_null(strstr(o.warning, "teacher big agrees with the labels"));
    release(&o);
    assert_string_equal(reference().warning, "");
}

static void without_validation_rows_there_are_no_figures_of_them(void **state)
{
    (void)state;
    kd_trainer_params p = params(2);
    outcome o = train("novalid.kd", "novalid", trio, 1, &p, 0);
    expect_ok(&o);
    assert_true(isnan(o.r[0].valid_accuracy) && isnan(o.r[0].valid_loss));
    assert_null(strstr(o.metrics[0], "valid"));
    release(&o);
    o = train("novalid.kd", "novalid2", &trio[1], 1, &p, 0);
    assert_int_equal(o.st, KD_EUSAGE);
    assert_non_null(strstr(o.err.msg, "cnn.yaml:3"));
}

/* ---- tests: refusals ---------------------------------------------------------------------- */

static void refused(const char *store, const char *text, const char *role, kd_status status,
                    const char *sentence)
{
    kd_trainer_params p = params(1);
    student s = {"x", text, role, "x", 0};
    outcome o = train(store, "refused", &s, 1, &p, 0);
    if (o.st != status || !strstr(o.err.msg, sentence))
        fail_msg("status %d (%s), wanted %d and '%s'", o.st, o.err.msg, status, sentence);
    assert_false(kd_exists(at("refused/x")));
    OK(kd_remove_tree(at("refused"), err));
    release(&o);
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    refused("noteacher.kd", MLP, "distilled", KD_ENOTFOUND, "no teacher in");
    refused("noteacher.kd", MLP, "distilled", KD_ENOTFOUND, "kd-dump --teacher FOLDER --into");
    refused("two.kd", MLP, "distilled", KD_EUSAGE, "several teachers (big, huge)");
    refused("s.kd", "model: {arch: mlp}\nloss: {teacher: small}\n", "distilled", KD_ENOTFOUND,
            "no teacher small");
    refused("s.kd", "model:\n  arch: mlp\n  classes: 10\n", "distilled", KD_EMISMATCH, "x.yaml:3");
    refused("s.kd", "model:\n  arch: mlp\n  input: [28, 28, 1]\n", "distilled", KD_EMISMATCH,
            "have the shape 8,8,1");
    refused("s.kd", "model: {arch: mlp}\ntrain: {batch: 4096}\n", "distilled", KD_EUSAGE, "student x");
    refused("s.kd", "model: {arch: mlp}\ntrain: {accumulate: 9}\n", "distilled", KD_EUSAGE,
            "student x: an epoch has 1 batches of 128 rows, fewer than one step of train.accumulate: 9");
    refused("s.kd", MLP, "plain", KD_EUSAGE, "a plain run whose loss learns from a teacher");
    refused("s.kd", MLP, "wizard", KD_EUSAGE, "role wizard");
    refused("s.kd", "model: {arch: mlp}\nloss: {ce: 0, kd: 0}\n", "plain", KD_EUSAGE, "x.yaml");
    refused("s.kd", "loss: {ce: 1}\n", "distilled", KD_EUSAGE, "model.arch");
    refused("s.kd", "model: {arch: mlp}\nloss: [{name: ce}, {name: at}]\n", "distilled", KD_ENOTFOUND,
            "at needs a feature, found none; add it: kd-dump --teacher FOLDER --into");
    refused("s.kd", "model: {arch: mlp}\nloss: [{name: gkd}]\n", "distilled", KD_EUSAGE,
            "x.yaml: loss.terms[0]: gkd works on-policy only");
    refused("two.kd", "model: {arch: mlp}\nloss: [{name: kd, teacher: [big*0, huge*0]}]\n", "distilled",
            KD_EUSAGE, "the weights of the teachers of kd sum to zero");
    refused("two.kd", "model: {arch: mlp}\nloss: [{name: kd, teacher: [big, big]}]\n", "distilled", KD_EUSAGE,
            "big is named twice");
    refused("label.kd", MLP, "distilled", KD_ECORRUPT, "row 100: label 4");
    refused("nan.kd", MLP, "distilled", KD_ENUMERIC, "row 100: a logit is not finite");
}

/* Any mix of objectives of logits, on schedules, for any threads and through a stop: the same bits. */
static void a_list_of_objectives_trains_bit_for_bit(void **state)
{
    (void)state;
    static const student s = {
        "mix",
        "model: {arch: mlp, hidden: [24]}\n"
        "loss:\n  - {name: dkd, weight: warmup 1 3, beta: 2}\n  - {name: dist, temperature: linear 4 1 2}\n"
        "  - {name: lskd, weight: 0.5}\n  - name: ce\n"
        "train: {epochs: 3, batch: 16, lr: 0.01}\n",
        "distilled", "mix", 0};
    kd_trainer_params p = params(1);
    outcome whole = train("s.kd", "mix1", &s, 1, &p, 0);
    expect_ok(&whole);
    assert_non_null(strstr(whole.metrics[0], "\"terms\":{\"dkd\":"));
    assert_non_null(strstr(whole.metrics[0], "\"lskd\":"));
    for (uint64_t stop = 7; stop < 18; stop += 5) { // 7, 12 and 17 steps further
        p.threads = 3 - p.threads;
        outcome o = train("s.kd", "mix2", &s, 1, &p, stop);
        assert_int_equal(o.st, KD_ESTOPPED);
        p.resume = true;
        release(&o);
    }
    outcome o = train("s.kd", "mix2", &s, 1, &p, 0);
    expect_ok(&o);
    assert_int_equal(o.hash[0], whole.hash[0]);
    assert_string_equal(o.metrics[0], whole.metrics[0]);
    release(&o);
    release(&whole);
}

/* ---- tests: long runs --------------------------------------------------------------------- */

/* A run with everything that has a state: stopped everywhere, also within a step, it ends like the whole one.
 */
static void every_state_survives_a_stop_within_a_step(void **state)
{
    (void)state;
    static const student s[2] = {
        {"all",
         "model: {arch: cnn, channels: [4, 8], strides: [1, 2], dropout: 0.2}\nloss: {kd: 0.5, ce: 0.5}\n"
         "train: {epochs: 2, batch: 8, accumulate: 3, ema: 0.9, lr: 0.02, clip: 0.5, keep: best, warmup: "
         "0.2}\n",
         "distilled", "all", 1},
        {"sgd",
         "model: {arch: mlp, hidden: [24]}\nloss: {kd: 0.5, ce: 0.5}\n"
         "train: {epochs: 2, batch: 8, accumulate: 4, ema: 0.5, lr: 0.05, optimizer: sgd}\n",
         "distilled", "sgd", 1}};
    kd_trainer_params p = params(1);
    p.log_steps = 2;
    outcome whole = train("s.kd", "long1", s, 2, &p, 0), o;
    expect_ok(&whole);
    assert_string_equal(strstr(whole.metrics[0], "{\"step\":2,") ? "lines between epochs" : whole.metrics[0],
                        "lines between epochs");
    for (uint64_t stop = 1; stop <= 13; stop += 4) {
        p.threads = 3 - p.threads;
        o = train("s.kd", "long2", s, 2, &p, stop);
        assert_int_equal(o.st, KD_ESTOPPED);
        p.resume = true;
        release(&o);
    }
    o = train("s.kd", "long2", s, 2, &p, 0);
    expect_ok(&o);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(o.hash[i], whole.hash[i]);
        assert_string_equal(o.metrics[i], whole.metrics[i]);
    }
    release(&o);
    release(&whole);
}

/* Largest difference of two finished models' weights, relative to the larger of 1 and the weight. */
static double distance(const char *a, const char *b)
{
    kd_model *ma, *mb;
    size_t n, nb;
    double most = 0;
    OK(kd_model_load(&ma, at(a), err));
    OK(kd_model_load(&mb, at(b), err));
    const float *wa = kd_graph_slab(ma->graph, &n), *wb = kd_graph_slab(mb->graph, &nb);
    assert_int_equal(n, nb);
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)wa[i] - (double)wb[i]) / fmax(1, fabs((double)wa[i])));
    kd_model_free(ma);
    kd_model_free(mb);
    return most;
}

#define ACCUMULATE(name, batch, k, seed)                                                                     \
    {                                                                                                        \
        name,                                                                                                \
            "model: {arch: mlp, hidden: [24]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2}\n"                   \
            "train: {epochs: 3, batch: " batch ", accumulate: " k                                            \
            ", lr: 0.1, optimizer: sgd, clip: 0.4, warmup: 0.1}\n",                                          \
            "distilled", name, seed                                                                          \
    }

static void batches_of_one_step_are_one_large_batch(void **state)
{
    (void)state;
    static const student s[3] = {ACCUMULATE("whole", "24", "1", 0), ACCUMULATE("thirds", "8", "3", 0),
                                 ACCUMULATE("other", "24", "1", 1)};
    kd_trainer_params p = params(1);
    outcome o = train("s.kd", "acc", s, 3, &p, 0);
    expect_ok(&o);
    double same = distance("acc/whole", "acc/thirds"), other = distance("acc/whole", "acc/other");
    if (same > 2e-5 || other < 1e-2)
        fail_msg("whole and thirds differ by %g, whole and another seed by %g", same, other);
    assert_float_equal(o.r[0].loss, o.r[1].loss, 1e-5);
    char *line = strstr(o.metrics[1], "\"step\":"); // steps and rates are those of the large batch, too
    assert_non_null(line);
    assert_memory_equal(line, strstr(o.metrics[0], "\"step\":"), 10);
    release(&o);
}

/* The mean, once more by hand: what a run without it has behind every step. Here a step is an epoch. */
static void the_mean_of_the_weights_is_kept(void **state)
{
    (void)state;
    enum { EPOCHS = 5 };
    char text[256], under[16], folder[32];
    size_t n = 0;
    double *mean = NULL;
    kd_trainer_params p = params(1);
    const char *form = "model: {arch: mlp, hidden: [16]}\nloss: {kd: 0, ce: 1}\n"
                       "train: {epochs: %d, batch: 240, lr: 0.05, schedule: constant%s}\n";
    for (int e = 1; e <= EPOCHS + 1; e++) { // the last one with the mean
        snprintf(text, sizeof(text), form, e > EPOCHS ? EPOCHS : e, e > EPOCHS ? ", ema: 0.7" : "");
        student s = {"mean", text, "plain", "m", 0};
        snprintf(under, sizeof(under), "mean%d", e);
        snprintf(folder, sizeof(folder), "mean%d/m", e);
        outcome o = train("s.kd", under, &s, 1, &p, 0);
        expect_ok(&o);
        assert_int_equal(o.steps, e > EPOCHS ? EPOCHS : e);
        release(&o);
        kd_model *m;
        OK(kd_model_load(&m, at(folder), err));
        float *w = kd_graph_slab(m->graph, &n);
        if (e > EPOCHS) {
            for (size_t i = 0; i < n; i++) assert_float_equal(w[i], mean[i], 1e-6);
        } else {
            double keep = fmin(0.7, e / (9.0 + e)); // step e - 1 from 0
            kd_model *first;
            if (!mean) {
                OK(kd_model_load(&first, at(folder), err));
                kd_graph_init(first->graph, 0);
                float *w0 = kd_graph_slab(first->graph, &n);
                mean = calloc(n, sizeof(*mean));
                for (size_t i = 0; i < n; i++) mean[i] = (double)w0[i];
                kd_model_free(first);
            }
            for (size_t i = 0; i < n; i++) mean[i] = keep * mean[i] + (1 - keep) * (double)w[i];
        }
        kd_model_free(m);
    }
    free(mean);
}

static void two_students_cannot_share_a_folder(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    student s[2] = {trio[0], trio[0]};
    outcome o = train("s.kd", "share", s, 2, &p, 0);
    assert_int_equal(o.st, KD_EUSAGE);
    assert_non_null(strstr(o.err.msg, "two students"));
}

static void a_named_teacher_is_taken(void **state)
{
    (void)state;
    kd_trainer_params p = params(1);
    student s = {"named",
                 "model: {arch: mlp, hidden: [24]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2, teacher: big}\n"
                 "train: {epochs: 3, batch: 16, lr: 0.01}\n",
                 "distilled", "named", 0};
    outcome o = train("two.kd", "named", &s, 1, &p, 0);
    expect_ok(&o);
    assert_int_equal(o.hash[0], reference().hash[0]);
    release(&o);
}

static int make_stores(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int kind;
    } stores[] = {{"s.kd", GOOD},           {"label.kd", BAD_LABEL},
                  {"nan.kd", NAN_LOGIT},    {"noteacher.kd", NO_TEACHER},
                  {"two.kd", TWO_TEACHERS}, {"random.kd", RANDOM_TEACHER},
                  {"novalid.kd", NO_VALID}, {"f32.kd", F32_INPUT}};
    snprintf(dir, sizeof(dir), "/tmp/kd-test-train-XXXXXX");
    if (!mkdtemp(dir)) return 1;
    for (size_t i = 0; i < KD_COUNT(stores); i++) make_store(at(stores[i].name), stores[i].kind);
    return 0;
}

static int remove_stores(void **state)
{
    (void)state;
    outcome ref = reference();
    release(&ref);
    return kd_remove_tree(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rate_rises_then_falls),
        cmocka_unit_test(a_student_is_read_with_overrides),
        cmocka_unit_test(a_run_is_what_its_parts_compute),
        cmocka_unit_test(threads_company_and_teams_change_no_bit),
        cmocka_unit_test(the_twin_is_the_student_without_the_teacher),
        cmocka_unit_test(a_stopped_run_goes_on_bit_for_bit),
        cmocka_unit_test(students_may_stand_at_different_places),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(with_all_checkpoints_damaged_only_force_starts_over),
        cmocka_unit_test(another_contract_is_named),
        cmocka_unit_test(the_cache_of_validation_rows_changes_nothing),
        cmocka_unit_test(f32_inputs_train_like_bytes),
        cmocka_unit_test(finished_folders_are_respected),
        cmocka_unit_test(only_the_renaming_is_done_again),
        cmocka_unit_test(the_papers_say_what_was_done),
        cmocka_unit_test(the_best_weights_are_kept),
        cmocka_unit_test(patience_ends_a_run_early),
        cmocka_unit_test(diverging_students_stop_alone),
        cmocka_unit_test(a_teacher_at_chance_is_noticed),
        cmocka_unit_test(without_validation_rows_there_are_no_figures_of_them),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(a_list_of_objectives_trains_bit_for_bit),
        cmocka_unit_test(every_state_survives_a_stop_within_a_step),
        cmocka_unit_test(batches_of_one_step_are_one_large_batch),
        cmocka_unit_test(the_mean_of_the_weights_is_kept),
        cmocka_unit_test(two_students_cannot_share_a_folder),
        cmocka_unit_test(a_named_teacher_is_taken),
    };
    return cmocka_run_group_tests(tests, make_stores, remove_stores);
}
