/* test_train_features.c - what a store holds beside dense logits, on its way into students: features through
 * taps and projections, sparse targets, several teachers; the same bits for any threads and any interruption.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/train.h"
#include "teacher_fixture.h"

/* ---- what teachers leave ------------------------------------------------------------------- */

static void dump(const char *name, const char *encoding, const kd_tap *taps, size_t ntaps)
{
    kd_teacher *t = open_teacher(!strcmp(name, "huge") ? other_path : teacher_path, 64, 1);
    kd_store *s = open_store();
    kd_dump_params p = kd_dump_default_params();
    kd_writer_params wp = params(false, false);
    p.name = name;
    p.encoding = encoding;
    p.taps = taps;
    p.ntaps = ntaps;
    OK(kd_teacher_dump(t, s, &p, &wp, NULL, err));
    kd_store_close(s);
    kd_teacher_close(t);
}

static bool odd(uint64_t row) { return row % 2; }

/* (ROWS, n) numbers, written by hand as a column of their own. */
static void write_column(const char *teacher, const char *column, kd_role role, const float *values,
                         int64_t n)
{
    kd_column c = {.role = role, .dtype = KD_F32, .ndims = 1, .dims = {n}};
    kd_store *s = open_store();
    kd_store_writer *w;
    kd_writer_params wp = params(false, false);
    snprintf(c.name, sizeof c.name, "%s/%s", teacher, column);
    snprintf(c.teacher, sizeof c.teacher, "%s", teacher);
    snprintf(c.encoding, sizeof c.encoding, "dense");
    json_t *contract = json_pack("{s:s}", "kind", c.name),
           *extra = json_pack("{s:{s:s, s:s}}", "teacher", "name", teacher, "fingerprint", "0123");
    OK(kd_store_extend(&w, s, teacher, &c, 1, contract, &wp, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *in = kd_store_chunk(s, i);
        kd_block b = {.data = values + in->first * (uint64_t)n,
                      .bytes = in->rows * (size_t)n * sizeof *values};
        OK(kd_store_writer_append(w, in->split, in->rows, &b, err));
    }
    OK(kd_store_writer_seal(w, extra, err));
    json_decref(contract);
    json_decref(extra);
    kd_store_close(s);
}

/* left is right on even rows, right on odd ones, chosen always; nan holds no number in row 7. */
static void write_by_hand(void)
{
    static float left[ROWS][CLASSES], right_[ROWS][CLASSES], chosen[ROWS][CLASSES], nan_[ROWS][6];
    for (uint64_t r = 0; r < ROWS; r++)
        for (int c = 0; c < CLASSES; c++) {
            kd_rng g;
            kd_rng_init(&g, 3, KD_RNG_TEST, (uint32_t)r, (uint32_t)c);
            float y = (uint64_t)c == r % CLASSES ? 6 : 0;
            left[r][c] = kd_rng_normal(&g) + (odd(r) ? -y : y);
            right_[r][c] = kd_rng_normal(&g) + (odd(r) ? y : -y);
            chosen[r][c] = odd(r) ? right_[r][c] : left[r][c];
            nan_[r][c] = r == 7 && c == 2 ? NAN : 1;
        }
    write_column("left", "logits", KD_ROLE_LOGITS, left[0], CLASSES);
    write_column("right", "logits", KD_ROLE_LOGITS, right_[0], CLASSES);
    write_column("chosen", "logits", KD_ROLE_LOGITS, chosen[0], CLASSES);
    write_column("nan", "feat.gap", KD_ROLE_FEATURE, nan_[0], 6);
}

static int begin_with_all(void **state)
{
    static const kd_tap taps[] = {{.node = "relu0", .form = KD_TAP_ATTENTION, .height = 3, .width = 3},
                                  {.node = "relu1", .form = KD_TAP_FLAT},
                                  {.node = "gap"}};
    teacher_opts other = right;
    if (begin(state)) return -1;
    other.path = other_path;
    other.seed = 2;
    make_store();
    make_teacher(right);
    make_teacher(other);
    dump("big", NULL, taps, KD_COUNT(taps));
    dump("huge", NULL, NULL, 0);
    dump("log8", "log8", NULL, 0);
    dump("top", "topk:k=3,temperatures=1+2,step=0.01", NULL, 0);
    dump("all", "topk:k=5,temperatures=1+2,step=0.01", NULL, 0);
    dump("drawn", "sample:n=30,temperature=2", NULL, 0);
    dump("heads", "head-tail:n=20,temperature=2", NULL, 0);
    write_by_hand();
    return 0;
}

/* ---- students ------------------------------------------------------------------------------ */

#define NET                                                                                                  \
    "model: {arch: cnn, channels: [3, 4], strides: [1, 2]}\ntrain: {epochs: 3, batch: 20, lr: 0.01%s}\n"
static const char *more = ""; // keys of train:

typedef struct outcome {
    uint64_t hash;
    kd_train_result r;
    char *metrics, *formula;
    kd_status st;
    kd_err err;
} outcome;

static void release(outcome *o)
{
    free(o->metrics);
    free(o->formula);
}

static int stop_flag;
static uint64_t stop_after, seen;
static void count(void *arg, const kd_train_progress *p)
{
    (void)arg, (void)p;
    if (++seen == stop_after) stop_flag = 1;
}

/* loss: what stands behind "loss:". Trains into folder/NAME. */
static outcome train(const char *loss, const char *name, kd_trainer_params p, uint64_t stop)
{
    outcome o = {0};
    kd_student_spec spec;
    kd_trainer *t;
    kd_store *s = open_store();
    bool skipped;
    char *file = kd_sprintf("%s/x.yaml", folder), *text = kd_sprintf("name: x\nloss: %s\n" NET, loss, more),
         *out = kd_sprintf("%s/%s", folder, name);
    OK(kd_file_write(file, text, strlen(text), err));
    p.checkpoint_seconds = 0;
    p.window_rows = 2 * CHUNK;
    OK(kd_trainer_create(&t, s, &p, err));
    stop_flag = 0, seen = 0, stop_after = stop;
    if (!(o.st = kd_student_load(&spec, file, NULL, &o.err))) {
        o.st = kd_trainer_add(t, &spec, 0, "distilled", out, &skipped, &o.err);
        if (!o.st) o.formula = kd_trainer_formula(t, 0);
        if (!o.st) o.st = kd_trainer_run(t, &stop_flag, count, NULL, &o.err);
        if (o.formula) kd_trainer_result(t, 0, &o.r);
        o.hash = o.r.weight_hash;
        kd_student_release(&spec);
    }
    if (!o.st) {
        char *path = kd_path_join(out, "metrics.jsonl");
        size_t len;
        OK(kd_file_read(path, 1 << 20, &o.metrics, &len, err));
        free(path);
    }
    kd_trainer_free(t);
    kd_store_close(s);
    free(file);
    free(text);
    free(out);
    return o;
}

static kd_trainer_params threads(int n)
{
    kd_trainer_params p = kd_trainer_default_params();
    p.threads = n;
    return p;
}

static outcome fresh(const char *loss)
{
    kd_trainer_params p = threads(1);
    p.force = true;
    outcome o = train(loss, "fresh", p, 0);
    if (o.st) fail_msg("%s: %s", loss, o.err.msg);
    return o;
}

static uint64_t hash_of(const char *loss)
{
    outcome o = fresh(loss);
    release(&o);
    return o.hash;
}

/* The value of a term in line `line` of the metrics. */
static double term_of(const outcome *o, int line, const char *term)
{
    const char *at = o->metrics;
    while (line--) at = strchr(at, '\n') + 1;
    json_t *j = json_loads(at, JSON_DISABLE_EOF_CHECK, NULL),
           *v = json_object_get(json_object_get(j, "terms"), term);
    if (!json_is_number(v)) fail_msg("no term %s in %s", term, at);
    double x = json_number_value(v);
    json_decref(j);
    return x;
}

/* ---- features ------------------------------------------------------------------------------ */

/* Every objective of features: maps, attention, vectors; four with something that is learned along. */
static const char *const FEATURES =
    "{teacher: big, terms: [{name: ce}, {name: fitnet, tap: relu0, feature: relu1}, "
    "{name: at, tap: relu1, feature: relu0}, {name: rkd_distance, feature: gap}, {name: rkd_angle, tap: "
    "gap}, "
    "{name: sp, tap: gap}, {name: embed, tap: gap, feature: gap, projection: linear}, "
    "{name: crd, tap: relu1, feature: relu1, dim: 8, negatives: 16, weight: warmup 0.2 2}]}";

static void features_reach_every_objective_that_wants_them(void **state)
{
    (void)state;
    static const char *const terms[] = {"fitnet", "at", "rkd_distance", "rkd_angle", "sp", "embed", "crd"};
    outcome o =
        fresh("[{name: ce, weight: 0.001}, {name: fitnet, tap: relu0, feature: relu1, teacher: big}]");
    assert_true(term_of(&o, 2, "fitnet") < 0.9 * term_of(&o, 0, "fitnet"));
    release(&o);
    o = fresh("[{name: embed, tap: gap, feature: gap, teacher: big, metric: mse, projection: linear}]");
    assert_true(term_of(&o, 2, "embed") < 0.9 * term_of(&o, 0, "embed"));
    release(&o);
    o = fresh("[{name: pkt, tap: relu1, feature: gap, teacher: big, weight: 100}]"); // a map, pooled as the
                                                                                     // teacher's
    assert_true(term_of(&o, 2, "pkt") < 0.95 * term_of(&o, 0, "pkt"));
    release(&o);
    o = fresh(FEATURES);
    for (size_t i = 0; i < KD_COUNT(terms); i++) assert_true(term_of(&o, 2, terms[i]) > 0);
    assert_non_null(strstr(o.formula, "at: relu1 against big/feat.relu0"));
    assert_non_null(strstr(o.formula, "rkd_distance: gap against big/feat.gap"));
    release(&o);
}

static void threads_change_no_bit_of_taps_projections_and_banks(void **state)
{
    (void)state;
    static const struct {
        int threads, team;
    } ways[] = {{1, 1}, {1, 2}, {2, 1}, {2, 2}, {3, 2}, {4, 2}, {8, 2}};
    const uint64_t want = hash_of(FEATURES);
    for (size_t i = 0; i < KD_COUNT(ways); i++) {
        kd_trainer_params p = threads(ways[i].threads);
        p.team = ways[i].team;
        p.force = true;
        outcome o = train(FEATURES, "ways", p, 0);
        if (o.st || o.hash != want) fail_msg("%d threads: other bits %s", ways[i].threads, o.err.msg);
        release(&o);
    }
}

/* The validation loss of line `line` of the metrics. */
static double valid_loss_of(const outcome *o, int line)
{
    const char *at = o->metrics;
    while (line--) at = strchr(at, '\n') + 1;
    json_t *j = json_loads(at, JSON_DISABLE_EOF_CHECK, NULL), *v = json_object_get(j, "valid_loss");
    if (!json_is_number(v)) fail_msg("no validation loss in %s", at);
    double x = json_number_value(v);
    json_decref(j);
    return x;
}

static double valid_loss(const char *loss)
{
    outcome o = fresh(loss);
    double x = valid_loss_of(&o, 0);
    release(&o);
    return x;
}

/* With a rate that moves no weight, so that what is judged is the same student. */
static void the_validation_loss_is_that_of_the_whole_mix(void **state)
{
    (void)state;
#define KL     "{name: kd, teacher: big}"
#define SP     "{name: sp, tap: gap, feature: gap, teacher: big, weight: 2}"
#define FITNET "{name: fitnet, tap: relu0, feature: relu1, teacher: big}"
#define CRD    "{name: crd, tap: gap, feature: gap, teacher: big, dim: 8, negatives: 16}"
    more = "e-10";
    const double kl = valid_loss("[" KL "]"), sp = valid_loss("[" SP "]"),
                 pair = valid_loss("[" KL ", " SP "]"), hint = valid_loss("[" KL ", " FITNET "]"),
                 all = valid_loss("[" KL ", " SP ", " FITNET "]"), crd = valid_loss("[" KL ", " CRD "]");
    outcome o = fresh("[" CRD ", " SP "]"); // crd's projections stand before the nodes that are judged
    more = "";
    assert_true(kl > 0 && sp > 0.001 * kl && hint > kl);
    assert_float_equal(pair, kl + sp, 1e-6 * pair);
    assert_float_equal(all, hint + sp, 1e-6 * all);
    assert_float_equal(crd, kl, 1e-9);
    assert_float_equal(valid_loss_of(&o, 0), sp, 1e-6 * sp);
    assert_non_null(strstr(o.formula, "crd: gap against big/feat.gap, in training only"));
    assert_null(strstr(o.formula, "sp: gap against big/feat.gap, in training only"));
    release(&o);
    more = ", patience: 9, keep: best_loss";
    o = fresh("[{name: embed, tap: gap, feature: gap, teacher: big, metric: mse, projection: linear}]");
    more = "";
    assert_true(valid_loss_of(&o, 2) < valid_loss_of(&o, 0));
    release(&o);
}

/* metrics without times */
static void cut_times(char *text)
{
    for (char *at; (at = strstr(text, ",\"seconds\":"));)
        memmove(at, strchr(at, '}'), strlen(strchr(at, '}')) + 1);
}

static void a_stopped_run_goes_on_with_its_projections_and_banks(void **state)
{
    (void)state;
    kd_trainer_params p = threads(2);
    outcome whole = fresh(FEATURES), o;
    for (uint64_t stop = 1; stop < 7; stop += 2) { // 1, 4 and 9 of 15 steps
        o = train(FEATURES, "stopped", p, stop);
        assert_int_equal(o.st, KD_ESTOPPED);
        release(&o);
        p.resume = true;
        p.threads = 3 - p.threads;
    }
    o = train(FEATURES, "stopped", p, 0);
    assert_int_equal(o.st, KD_OK);
    assert_int_equal(o.hash, whole.hash);
    cut_times(o.metrics), cut_times(whole.metrics);
    assert_string_equal(o.metrics, whole.metrics);
    release(&o);
    release(&whole);
}

static void what_is_learned_along_is_not_in_the_student(void **state)
{
    (void)state;
    kd_model *m;
    kd_tensors *f;
    char *path = kd_sprintf("%s/fresh", folder), *weights = kd_sprintf("%s/fresh/model.safetensors", folder);
    outcome o = fresh(FEATURES);
    OK(kd_model_load(&m, path, err)); // refuses what is left over
    OK(kd_tensors_open(&f, weights, err));
    for (size_t i = 0; i < kd_tensors_count(f); i++)
        assert_null(strstr(kd_tensors_at(f, i)->name, KD_LOSS_PREFIX));
    assert_int_equal(o.r.params, kd_graph_param_count(m->graph));
    kd_tensors_close(f);
    kd_model_free(m);
    release(&o);
    free(path);
    free(weights);
}

/* ---- sparse targets ------------------------------------------------------------------------ */

static double value_of(const char *loss, const char *term)
{
    outcome o = fresh(loss);
    double x = term_of(&o, 0, term);
    release(&o);
    return x;
}

static void each_sparse_convention_trains_from_the_columns_that_serve_it(void **state)
{
    (void)state;
    static const char *const conventions[] = {"raw", "renorm", "bucket", "both", "uniform"};
    uint64_t hash[KD_COUNT(conventions) + 2];
    for (size_t i = 0; i < KD_COUNT(conventions); i++) {
        char *loss =
            kd_sprintf("[{name: sparse_kl, teacher: top, sparse: %s, temperature: 2, t2: on}, {name: ce}]",
                       conventions[i]);
        hash[i] = hash_of(loss);
        free(loss);
    }
    hash[5] =
        hash_of("[{name: sparse_kl, teacher: drawn, sparse: sampled, temperature: 2, dump_temperature: 2}]");
    hash[6] =
        hash_of("[{name: sparse_kl, teacher: heads, sparse: sampled, temperature: 2, dump_temperature: 2}]");
    for (size_t i = 0; i < KD_COUNT(hash); i++)
        for (size_t k = 0; k < i; k++) assert_true(hash[i] != hash[k]);
    hash_of("[{name: sparse_jsd, teacher: top}, {name: sparse_tvd, teacher: top, wrong: 0.5}]");
}

/* With every class kept, sparse is dense up to what the encoding rounds. */
static void all_classes_kept_are_dense_targets(void **state)
{
    (void)state;
    const double dense = value_of("[{name: kd, teacher: big, temperature: 2}]", "kd");
    static const char *const conventions[] = {"raw", "renorm", "bucket", "both"};
    for (size_t i = 0; i < KD_COUNT(conventions); i++) {
        char *loss = kd_sprintf("[{name: sparse_kl, teacher: all, sparse: %s, temperature: 2, t2: on}]",
                                conventions[i]);
        double sparse = value_of(loss, "sparse_kl");
        if (!(fabs(sparse - dense) < 0.05 * dense))
            fail_msg("%s: %g, dense %g", conventions[i], sparse, dense);
        free(loss);
    }
}

/* ---- several teachers ---------------------------------------------------------------------- */

static void a_teacher_of_weight_one_among_zeros_is_the_teacher(void **state)
{
    (void)state;
    uint64_t alone = hash_of("[{name: dkd, teacher: big}, {name: ce}]");
    assert_int_equal(hash_of("[{name: dkd, teacher: [big*3, huge*0]}, {name: ce}]"), alone);
    assert_int_equal(hash_of("[{name: dkd, teacher: huge*0 big}, {name: ce}]"), alone);
    assert_true(hash_of("[{name: dkd, teacher: [big, huge]}, {name: ce}]") != alone);
    double p = value_of("[{name: kd, teacher: [big, huge*0], ensemble: probabilities}]", "kd"),
           one = value_of("[{name: kd, teacher: big}]", "kd");
    assert_true(fabs(p - one) < 1e-5 * one);
}

static void the_best_teacher_is_chosen_row_by_row(void **state)
{
    (void)state;
    uint64_t want = hash_of("[{name: kd, teacher: chosen}, {name: ce}]");
    assert_int_equal(hash_of("[{name: kd, teacher: [left, right], ensemble: best}, {name: ce}]"), want);
    assert_true(hash_of("[{name: kd, teacher: [left, right], ensemble: probabilities}, {name: ce}]") != want);
}

static void teachers_in_turns_teach_an_epoch_each(void **state)
{
    (void)state;
    outcome left = fresh("[{name: kd, teacher: left}]"),
            turns = fresh("[{name: kd, teacher: [left, right], ensemble: turns}]");
    assert_true(term_of(&turns, 0, "kd") == term_of(&left, 0, "kd"));
    assert_true(term_of(&turns, 1, "kd") != term_of(&left, 1, "kd"));
    release(&left);
    release(&turns);
}

/* left is wrong on odd rows and right on even ones. */
static void rows_where_the_teacher_is_wrong_weigh_less(void **state)
{
    (void)state;
    double all = value_of("[{name: kd, teacher: left}]", "kd"),
           none = value_of("[{name: kd, teacher: left, wrong: 0}]", "kd"),
           half = value_of("[{name: kd, teacher: left, wrong: 0.5}]", "kd"),
           good = value_of("[{name: kd, teacher: chosen, wrong: 0}]", "kd");
    assert_true(none < half && half < all && none < 0.8 * good);
    assert_true(hash_of("[{name: kd, teacher: chosen, wrong: 0}]") ==
                hash_of("[{name: kd, teacher: chosen, wrong: 0.5}]"));
}

static void every_teacher_is_watched(void **state)
{
    (void)state;
    outcome o = fresh("[{name: kd, teacher: [left, chosen]}, {name: dkd, teacher: right}]");
    json_t *j = json_loads(o.metrics, JSON_DISABLE_EOF_CHECK, NULL),
           *a = json_object_get(j, "teacher_accuracy");
    assert_true(json_number_value(json_object_get(a, "chosen")) == 1);
    double left = json_number_value(json_object_get(a, "left")),
           other = json_number_value(json_object_get(a, "right"));
    assert_true(left > 0.3 && left < 0.7 && fabs(left + other - 1) < 1e-9);
    json_decref(j);
    release(&o);
    o = fresh("[{name: sparse_kl, teacher: all}]");
    assert_non_null(strstr(o.metrics, "\"teacher_accuracy\":0."));
    release(&o);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void refused(const char *loss, kd_status status, const char *sentence)
{
    outcome o = train(loss, "refused", threads(1), 0);
    char *out = kd_sprintf("%s/refused", folder), *part = kd_sprintf("%s/refused.part", folder);
    if (o.st != status || !strstr(o.err.msg, sentence) || strchr(o.err.msg, '\n'))
        fail_msg("status %d (%s), wanted %d and '%s'", o.st, o.err.msg, status, sentence);
    assert_false(kd_exists(out));
    OK(kd_remove_tree(part, err));
    release(&o);
    free(out);
    free(part);
}

static void what_a_column_cannot_serve_is_refused_by_name(void **state)
{
    (void)state;
    refused("[{name: kd, teacher: top}]", KD_EUNSUPPORTED, "top/logits (topk) serves the largest classes");
    refused("[{name: kd, teacher: top}]", KD_EUNSUPPORTED,
            "use sparse_kl, or dump again with kd-dump --encoding log8");
    refused("[{name: logit_mse, teacher: log8}]", KD_EUNSUPPORTED, "needs the values themselves: dump again");
    refused("[{name: reverse_kl, teacher: heads}]", KD_EUNSUPPORTED,
            "reverse_kl needs soft targets of all classes");
    refused("[{name: kd, teacher: [drawn, big]}]", KD_EUNSUPPORTED, "drawn/logits (sample)");
    refused("[{name: sparse_kl, teacher: big}]", KD_EUNSUPPORTED,
            "big/logits (dense) serves every class; sparse_kl");
    refused("[{name: sparse_kl, teacher: heads}]", KD_EUNSUPPORTED, "set sparse: sampled");
    refused("[{name: sparse_kl, teacher: top, sparse: sampled}]", KD_EUNSUPPORTED, "use another convention");
    refused("[{name: sparse_kl, teacher: heads, sparse: sampled, temperature: 2}]", KD_EMISMATCH,
            "dump_temperature of sparse_kl is 1: set 2 in");
    refused("[{name: kd, teacher: heads, temperature: linear 2 1 5}]", KD_EMISMATCH,
            "temperature of kd is 1: set 2 in");
    refused("[{name: sparse_kl, teacher: top, temperature: 3}]", KD_EUSAGE, "normaliser at T = 3");
    refused("[{name: sparse_kl, teacher: [top, all]}]", KD_EUSAGE,
            "its targets are sparse; give each its own term, or set ensemble: turns");
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    refused("[{name: fitnet, tap: relu0, feature: relu7}]", KD_ENOTFOUND,
            "fitnet needs a feature relu7, found big/feat.relu0, big/feat.relu1, big/feat.gap, nan/feat.gap; "
            "add it: "
            "kd-dump --teacher FOLDER --into ");
    refused("[{name: fitnet, tap: relu0, feature: relu7}]", KD_ENOTFOUND, "--no-logits --tap relu7:flat");
    refused("[{name: sp, tap: relu1, feature: gap}]", KD_EUSAGE,
            "may mean several features (big/feat.gap, nan/feat.gap)");
    refused("[{name: sp, tap: rleu1, feature: gap, teacher: big}]", KD_EUSAGE,
            "no node 'rleu1' (did you mean 'relu1'?)");
    refused("[{name: fitnet, tap: relu1, feature: relu1, teacher: big}]", KD_EUSAGE,
            "no regressor leads from a map of 3x3 to one of 6x6");
    refused("[{name: at, tap: gap, feature: relu1, teacher: big}]", KD_EUSAGE,
            "attention maps need features");
    refused("[{name: embed, tap: gap, feature: gap, teacher: big}]", KD_EUSAGE, "set projection: linear");
    refused("[{name: sp, tap: gap, feature: gap, teacher: nan}]", KD_ENUMERIC,
            "nan/feat.gap, row 7: a value is not finite");
    more = ", patience: 2";
    refused("[{name: crd, tap: gap, feature: gap, teacher: big}]", KD_EUSAGE,
            "x.yaml:4: it watches the validation loss, which has no term: crd compares with training rows");
    more = ", keep: best_loss";
    refused("[{name: crd, tap: gap, feature: gap, teacher: big}]", KD_EUSAGE, "which has no term");
    more = "";
    refused("[{name: kd, teacher: [big*0, huge*0]}]", KD_EUSAGE, "weights of the teachers of kd sum to zero");
    refused("[{name: kd, teacher: [big, big]}]", KD_EUSAGE, "big is named twice");
    refused("[{name: kd, teacher: big*x}]", KD_EUSAGE, "expected NAME or NAME*WEIGHT");
    refused("[{name: kd, teacher: [big, giant]}]", KD_ENOTFOUND, "no teacher giant in");
}

static void another_loss_does_not_go_on_from_its_checkpoint(void **state)
{
    (void)state;
    kd_trainer_params p = threads(1);
    outcome o = train(FEATURES, "changed", p, 4);
    assert_int_equal(o.st, KD_ESTOPPED);
    release(&o);
    p.resume = true;
    o = train("[{name: ce}, {name: sp, tap: gap, feature: gap, teacher: big}]", "changed", p, 0);
    if (o.st != KD_EMISMATCH || !strstr(o.err.msg, "made by another run"))
        fail_msg("%d: %s", o.st, o.err.msg);
    release(&o);
    o = train(FEATURES, "changed", p, 0);
    assert_int_equal(o.st, KD_OK);
    assert_int_equal(o.hash, hash_of(FEATURES));
    release(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_reach_every_objective_that_wants_them),
        cmocka_unit_test(the_validation_loss_is_that_of_the_whole_mix),
        cmocka_unit_test(threads_change_no_bit_of_taps_projections_and_banks),
        cmocka_unit_test(a_stopped_run_goes_on_with_its_projections_and_banks),
        cmocka_unit_test(what_is_learned_along_is_not_in_the_student),
        cmocka_unit_test(each_sparse_convention_trains_from_the_columns_that_serve_it),
        cmocka_unit_test(all_classes_kept_are_dense_targets),
        cmocka_unit_test(a_teacher_of_weight_one_among_zeros_is_the_teacher),
        cmocka_unit_test(teachers_in_turns_teach_an_epoch_each),
        cmocka_unit_test(the_best_teacher_is_chosen_row_by_row),
        cmocka_unit_test(rows_where_the_teacher_is_wrong_weigh_less),
        cmocka_unit_test(every_teacher_is_watched),
        cmocka_unit_test(what_a_column_cannot_serve_is_refused_by_name),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
        cmocka_unit_test(another_loss_does_not_go_on_from_its_checkpoint),
    };
    return cmocka_run_group_tests(tests, begin_with_all, end);
}
