/* test_train_views.c - students on views: what a student sees is what the teacher saw, to the bit, beside
 * just that view's logits; for any number of threads, in any company, through any interruption.
 *
 * The teacher here is a real one, and its pass a real one: a row of a training batch, run through that
 * teacher, must give the very logits that the batch carries. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../lib/train/train_private.h"
#include "teacher_fixture.h"

static const kd_view_spec PLAIN = {.count = 3, .seed = 5, .shift = 2, .flip = true, .identity = true};

/* ---- a store with views, and a student -------------------------------------------------------------- */

static void dump_views(const kd_view_spec *spec, const char *encoding, bool logits)
{
    kd_dump_params p = kd_dump_default_params();
    const kd_writer_params wp = params(false, false);
    kd_dump_report report;
    make_store();
    make_teacher(right);
    kd_store *s = open_store();
    kd_teacher *t = open_teacher(teacher_path, 10, 2);
    p.name = "big";
    p.views = spec;
    p.encoding = encoding;
    p.logits = logits;
    OK(kd_teacher_dump(t, s, &p, &wp, &report, err));
    kd_teacher_close(t);
    kd_store_close(s);
}

#define STORED                                                                                               \
    "views: {from: store}\nmodel: {arch: mlp, hidden: [12]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2}\n"     \
    "train: {epochs: 4, batch: 16, lr: 0.01}\n"
#define TWIN                                                                                                 \
    "views: {from: store}\nmodel: {arch: mlp, hidden: [12]}\nloss: {kd: 0, ce: 1}\n"                         \
    "train: {epochs: 4, batch: 16, lr: 0.01}\n"
#define FRESH                                                                                                \
    "views: {from: fresh, crop: 0.5, noise: 4, seed: 9}\nmodel: {arch: mlp, hidden: [12]}\n"                 \
    "loss: {kd: 0, ce: 1}\ntrain: {epochs: 4, batch: 16, lr: 0.01}\n"
#define BARE                                                                                                 \
    "model: {arch: mlp, hidden: [12]}\nloss: {kd: 0.9, ce: 0.1, temperature: 2}\n"                           \
    "train: {epochs: 4, batch: 16, lr: 0.01}\n"

static kd_status add(kd_trainer *t, const char *text, const char *role, const char *name, kd_err *e)
{
    char path[128], out[128];
    kd_student_spec spec;
    bool skipped;
    snprintf(path, sizeof path, "%s/%s.yaml", folder, name);
    snprintf(out, sizeof out, "%s/out/%s", folder, name);
    OK(kd_file_write(path, text, strlen(text), err));
    kd_status st = kd_student_load(&spec, path, NULL, e);
    if (st) return st;
    st = kd_trainer_add(t, &spec, 3, role, out, &skipped, e);
    kd_student_release(&spec);
    return st;
}

static kd_trainer *trainer(kd_store *s, int threads, uint64_t rows, bool resume)
{
    kd_trainer *t;
    kd_trainer_params p = kd_trainer_default_params();
    p.threads = threads;
    p.rows = rows;
    p.window_rows = 2 * CHUNK; // two windows an epoch
    p.checkpoint_seconds = 0;
    p.resume = resume;
    OK(kd_trainer_create(&t, s, &p, err));
    return t;
}

/* ---- what is seen is what was seen -------------------------------------------------------------------- */

typedef struct seen {
    unsigned views[ROWS]; // bits, by row
    uint64_t rows, mixed;
} seen;

static uint32_t chunk_of(const kd_store *s, uint64_t row)
{
    uint32_t i = 0;
    while (kd_store_chunk(s, i)->first + kd_store_chunk(s, i)->rows <= row) i++;
    return i;
}

/* The label and the share of what is mixed in, from the spec alone. */
static void check_labels(const kd_trainer *t, const kd__run *r, const kd_view_spec *spec, uint32_t i, seen *n)
{
    const kd__feed *f = r->feed;
    const uint64_t row = f->b.row[i];
    const kd_chunk_info *ci = kd_store_chunk(t->store, chunk_of(t->store, row));
    kd_id id = {{0}};
    memcpy(id.b, &row, sizeof row); // as make_store has it
    const kd_view_mix m = kd_view_mix_of(spec, kd__trainer_column(t, r->input), id, f->b.view[i], ci->rows);
    assert_int_equal(f->targets.labels[i], row % CLASSES);
    if (!kd_view_mixes(spec)) {
        assert_null(f->targets.others);
        return;
    }
    assert_int_equal(f->targets.others[i], (m.mixed ? ci->first + m.other : row) % CLASSES);
    assert_true(f->targets.shares[i] == m.share);
    n->mixed += m.mixed;
}

/* Every batch of some epochs: inputs through the teacher give the logits beside them. */
static void check_batches(const kd_view_spec *spec, int threads, uint64_t rows)
{
    kd_store *s = open_store();
    kd_trainer *t = trainer(s, threads, rows, false);
    kd_teacher *big = open_teacher(teacher_path, 16, 1);
    seen *n = calloc(1, sizeof *n);
    OK(add(t, STORED, "distilled", "x", err));
    OK(kd_trainer_plan(t, err));
    const kd__run *r = t->runs[0];
    kd__feed *f = r->feed;
    for (uint64_t epoch = 0; epoch < (uint64_t)spec->count; epoch++) {
        OK(kd_loader_epoch(t->loader, epoch, err));
        for (f->step = 0, f->drawn = f->over = false; !f->over;) {
            float want[16 * CLASSES];
            OK(kd__feed_draw(f, t, err));
            if (!f->drawn) continue;
            OK(kd_teacher_run(big, f->b.column[r->input], KD_U8, f->b.rows, want, err));
            assert_memory_equal(f->targets.values[r->teacher[0]], want, f->b.rows * CLASSES * sizeof *want);
            for (uint32_t i = 0; i < f->b.rows; i++) {
                const unsigned bit = 1u << f->b.view[i];
                check_labels(t, r, spec, i, n);
                assert_false(n->views[f->b.row[i]] & bit); // no view twice
                n->views[f->b.row[i]] |= bit;
                n->rows++;
            }
        }
    }
    assert_int_equal(n->rows, (uint64_t)spec->count * ((rows ? rows : split_rows[0]) / 16) * 16);
    assert_true(!kd_view_mixes(spec) || n->mixed > 50);
    free(n);
    kd_teacher_close(big);
    kd_trainer_free(t);
    kd_store_close(s);
}

static void a_batch_carries_the_logits_of_just_the_views_it_shows(void **state)
{
    (void)state;
    kd_view_spec all = PLAIN, crop = PLAIN, mixed = PLAIN;
    all.erase = 2, all.noise = 7.5, all.fill = 31, all.identity = false;
    crop.shift = 0, crop.crop = 0.3;
    mixed.mixup = 0.5, mixed.cutmix = 0.4;
    const kd_view_spec *specs[] = {&PLAIN, &all, &crop, &mixed};
    for (size_t i = 0; i < KD_COUNT(specs); i++) {
        dump_views(specs[i], NULL, true);
        check_batches(specs[i], 1, 0);
        check_batches(specs[i], 3, 0);
        check_batches(specs[i], 2, 80); // the last chunk is cut, what it mixes in is not
    }
}

/* ---- encodings, validation ----------------------------------------------------------------------------- */

/* Logits of all views of a chunk, as a loss gets them: (rows, count, classes). */
static void read_all(kd_store *s, const kd_column *c, uint32_t chunk, float *out)
{
    const kd_codec_info *codec = kd_codec_find(c->encoding);
    const uint32_t rows = kd_store_chunk(s, chunk)->rows;
    const int at = kd_store_find(s, c->name);
    kd_cursor *cursor;
    kd_sparse sparse = {0};
    OK(kd_cursor_open(&cursor, s, err));
    if (!codec || !codec->sparse) {
        OK(kd_cursor_read_f32(cursor, at, chunk, out, rows * kd_column_each(c), err));
    } else { // position by position
        kd_column one = *c;
        one.ndims = 1;
        one.dims[0] = CLASSES;
        OK(kd_cursor_read_sparse(cursor, at, chunk, &sparse, err));
        kd__logits_scatter(out, &one, &sparse, (uint32_t)(rows * kd_column_each(c)), CLASSES, NULL);
    }
    kd_sparse_release(&sparse);
    kd_cursor_close(cursor);
}

static void every_encoding_is_paired_by_row_and_view(void **state)
{
    (void)state;
    static const char *const encodings[] = {"int8", "log8", "sample:n=20,temperature=2"};
    for (size_t e = 0; e < KD_COUNT(encodings); e++) {
        static float all[8][CHUNK * 3 * CLASSES];
        dump_views(&PLAIN, encodings[e], true);
        kd_store *s = open_store();
        kd_trainer *t = trainer(s, 2, 0, false);
        OK(add(t, STORED, "distilled", "x", err));
        OK(kd_trainer_plan(t, err));
        const kd__run *r = t->runs[0];
        kd__feed *f = r->feed;
        assert_true(kd_store_chunks(s) <= 8);
        for (uint32_t i = 0; i < kd_store_chunks(s); i++)
            read_all(s, kd__trainer_column(t, r->teacher[0]), i, all[i]);
        OK(kd_loader_epoch(t->loader, 1, err));
        for (f->step = 0, f->drawn = f->over = false; !f->over;) {
            OK(kd__feed_draw(f, t, err));
            for (uint32_t i = 0; f->drawn && i < f->b.rows; i++) {
                const uint32_t chunk = chunk_of(s, f->b.row[i]);
                const size_t at = (size_t)(f->b.row[i] - kd_store_chunk(s, chunk)->first) * 3 + f->b.view[i];
                assert_memory_equal(f->targets.values[r->teacher[0]] + i * CLASSES, all[chunk] + at * CLASSES,
                                    CLASSES * sizeof(float));
            }
        }
        kd_trainer_free(t);
        kd_store_close(s);
    }
}

/* Validation shows rows as they are, whatever the views are like. */
static void validation_rows_have_the_logits_of_themselves(void **state)
{
    (void)state;
    for (int identity = 0; identity < 2; identity++) {
        kd_view_spec spec = PLAIN;
        const kd__block *b;
        float want[CHUNK * CLASSES];
        spec.identity = identity;
        dump_views(&spec, NULL, !identity);
        kd_store *s = open_store();
        kd_trainer *t = trainer(s, 1, 0, false);
        kd_teacher *big = open_teacher(teacher_path, CHUNK, 1);
        OK(add(t, STORED, "distilled", "x", err));
        OK(kd_trainer_plan(t, err));
        assert_int_equal(t->nblocks, 2);
        for (size_t i = 0; i < t->nblocks; i++) {
            OK(kd__valid_block(t, i, &b, err));
            OK(kd_teacher_run(big, b->input, KD_U8, b->rows, want, err));
            assert_memory_equal(b->targets.values[t->runs[0]->teacher[0]], want,
                                b->rows * CLASSES * sizeof *want);
            for (uint32_t k = 0; k < b->rows; k++) {
                const uint64_t row = kd_store_chunk(s, b->chunk)->first + k;
                for (size_t j = 0; j < PIXELS; j++)
                    assert_int_equal(((const uint8_t *)b->input)[k * PIXELS + j], pixel(row, j));
            }
        }
        kd_teacher_close(big);
        kd_trainer_free(t);
        kd_store_close(s);
    }
}

/* ---- bits -----------------------------------------------------------------------------------------------
 */

static const struct {
    const char *text, *role, *name;
} company[] = {{STORED, "distilled", "stored"},
               {TWIN, "plain", "twin"},
               {FRESH, "plain", "fresh"},
               {BARE, "distilled", "bare"}};
enum { N = KD_COUNT(company) };

static int stop_flag;
static uint64_t stop_after;
static void count(void *arg, const kd_train_progress *p)
{
    (void)arg, (void)p;
    if (stop_after && !--stop_after) stop_flag = 1;
}

/* Trains those of the company whose bit is set; hashes of them. */
static void train(unsigned who, int threads, uint64_t stop, bool resume, uint64_t hash[N])
{
    char out[96];
    kd_store *s = open_store();
    kd_trainer *t = trainer(s, threads, 0, resume);
    snprintf(out, sizeof out, "%s/out", folder);
    if (!resume) kd_remove_tree(out, NULL);
    for (int i = 0; i < N; i++)
        if (who >> i & 1) OK(add(t, company[i].text, company[i].role, company[i].name, err));
    stop_flag = 0, stop_after = stop;
    kd_err why = {0};
    const kd_status st = kd_trainer_run(t, &stop_flag, count, NULL, &why);
    if (st != (stop ? KD_ESTOPPED : KD_OK)) fail_msg("training: status %d, %s", st, why.msg);
    for (int i = 0, k = 0; i < N; i++) {
        kd_train_result r;
        if (!(who >> i & 1)) continue;
        kd_trainer_result(t, (size_t)k++, &r);
        hash[i] = r.weight_hash;
    }
    kd_trainer_free(t);
    kd_store_close(s);
}

static void threads_company_and_stops_change_no_bit(void **state)
{
    (void)state;
    kd_view_spec mixed = PLAIN;
    uint64_t alone[N], got[N];
    mixed.mixup = 0.3, mixed.cutmix = 0.3, mixed.noise = 3;
    dump_views(&mixed, NULL, true);
    for (int i = 0; i < N; i++) train(1u << i, 1, 0, false, alone);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < i; k++) assert_true(alone[i] != alone[k]);
    static const int threads[] = {1, 2, 3, 8};
    for (size_t i = 0; i < KD_COUNT(threads); i++) {
        train((1u << N) - 1, threads[i], 0, false, got);
        assert_memory_equal(got, alone, sizeof got);
    }
    for (uint64_t stop = 3; stop < 12; stop += 4) train((1u << N) - 1, 2, stop, stop > 3, got);
    train((1u << N) - 1, 3, 0, true, got);
    assert_memory_equal(got, alone, sizeof got);
}

static void students_of_the_same_views_share_a_stream(void **state)
{
    (void)state;
    char out[96];
    snprintf(out, sizeof out, "%s/out", folder);
    kd_remove_tree(out, NULL);
    dump_views(&PLAIN, NULL, true);
    kd_store *s = open_store();
    kd_trainer *t = trainer(s, 1, 0, false);
    for (int i = 0; i < N; i++) OK(add(t, company[i].text, company[i].role, company[i].name, err));
    OK(kd_trainer_plan(t, err));
    assert_int_equal(t->nfeeds, 3);
    assert_ptr_equal(t->runs[0]->feed, t->runs[1]->feed);
    kd_trainer_free(t);
    kd_store_close(s);
}

/* ---- refusals -------------------------------------------------------------------------------------------
 */

static void refused(const char *text, const char *role, kd_status status, const char *sentence)
{
    kd_store *s = open_store();
    kd_trainer *t = trainer(s, 1, 0, false);
    FAILS(add(t, text, role, "x", err), status, sentence);
    kd_trainer_free(t);
    kd_store_close(s);
}

#define MODEL "model: {arch: mlp, hidden: [12]}\n"
static void what_would_train_on_the_wrong_views_is_refused(void **state)
{
    (void)state;
    kd_view_spec mixed = PLAIN;
    make_store();
    refused(STORED, "distilled", KD_ENOTFOUND, "no views of any teacher, and student x asks for them");
    dump_views(&PLAIN, NULL, false);
    refused(MODEL "views: {from: store, seed: 6}\n", "distilled", KD_EMISMATCH,
            "big/logits.views have seed 5, student x asks for 6");
    refused(MODEL "views:\n  from: store\n  shift: 3\n", "distilled", KD_EMISMATCH, "set views.shift: 2 in");
    refused(MODEL "views:\n  from: store\n  shift: 3\n", "distilled", KD_EMISMATCH, "x.yaml:4");
    refused(MODEL "views: {from: store, flip: off}\n", "distilled", KD_EMISMATCH, "flip true");
    refused(MODEL "views: {seed: 5}\n", "distilled", KD_EUSAGE, "views.seed without views.from");
    refused(MODEL "views: {from: store}\nloss: {teacher: other}\n", "distilled", KD_ENOTFOUND,
            "no views of teacher other");
    refused(MODEL "views: {from: fresh, shift: 1}\n", "distilled", KD_EMISMATCH,
            "compares it with logits of the rows as they are");
    refused(MODEL "views: {from: fresh, shift: 6}\nloss: {kd: 0, ce: 1}\n", "plain", KD_EUSAGE,
            "student x: column image is 6 x 6: a shift of 6");
    refused(MODEL "views: {from: store}\nloss: [{name: kd}, {name: at, tap: relu0, feature: relu0}]\n",
            "distilled", KD_EMISMATCH,
            "at needs a student tap and a teacher feature, which the store has of the rows as they are");
    mixed.mixup = 0.5;
    dump_views(&mixed, NULL, true);
    refused(MODEL "views: {from: store}\nloss: [{name: dkd}]\n", "distilled", KD_EUNSUPPORTED,
            "mix two rows, and dkd takes one label a row");
    mixed.identity = false;
    dump_views(&mixed, NULL, false);
    refused(STORED, "distilled", KD_EMISMATCH, "no view that is the row as it is");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_carries_the_logits_of_just_the_views_it_shows),
        cmocka_unit_test(every_encoding_is_paired_by_row_and_view),
        cmocka_unit_test(validation_rows_have_the_logits_of_themselves),
        cmocka_unit_test(threads_company_and_stops_change_no_bit),
        cmocka_unit_test(students_of_the_same_views_share_a_stream),
        cmocka_unit_test(what_would_train_on_the_wrong_views_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
