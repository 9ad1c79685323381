/* test_train_words.c - language models trained on rows of tokens, with and without a teacher's logits of the
 * positions: every encoding, the same bits for any threads and any interruption, memory that does not grow by
 * tokens x words; stores that do not fit together are refused.
 *
 * The language: a word is followed by FACTOR times itself and 7, modulo the vocabulary, four times of five. A
 * teacher that knows it says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "kd/codec.h"
#include "kd/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIN = 256, VALID = 64, CHUNK = 64, LONGEST = 14, FEW = 37, MANY = 2100, FACTOR = 5 };

static char folder[64];

/* ---- the store ---------------------------------------------------------------------------- */

typedef struct store_spec {
    const char *name;
    int words;
    enum { NO_MASK, MASK, EMPTY_MASK, SHORT_MASK } mask;
    bool short_logits;
    const char *teachers[5]; /* encodings; a teacher has the name of its codec */
} store_spec;

static uint16_t follower(int words, uint16_t word) { return (uint16_t)((word * FACTOR + 7) % words); }

/* Rows of one token too: they predict nothing. */
static uint32_t text(const store_spec *s, uint64_t row, uint16_t *out)
{
    kd_rng r;
    kd_rng_init(&r, 1, KD_RNG_TEST, (uint32_t)row, 0);
    const uint32_t n = row % 16 ? 2 + (uint32_t)kd_rng_below(&r, LONGEST - 1) : 1;
    out[0] = (uint16_t)kd_rng_below(&r, (uint64_t)s->words);
    for (uint32_t i = 1; i < n; i++)
        out[i] = kd_rng_below(&r, 5) ? follower(s->words, out[i - 1])
                                     : (uint16_t)kd_rng_below(&r, (uint64_t)s->words);
    return n;
}

/* The second half of a text is an answer. */
static bool is_predicted(const store_spec *s, uint32_t n, uint32_t i)
{
    return i && (s->mask == NO_MASK || (s->mask != EMPTY_MASK && i >= n / 2));
}

static kd_column column_of(const char *name, kd_role role, kd_dtype dtype, const char *encoding, int64_t d0,
                           int64_t d1)
{
    kd_column c = {.role = role, .dtype = dtype, .ndims = d1 ? 2 : d0 ? 1 : 0, .dims = {d0, d1}};
    json_t *params = NULL;
    snprintf(c.name, sizeof c.name, "%s", name);
    OK(kd_codec_parse(encoding, c.encoding, &params, err));
    if (json_object_size(params)) c.params = json_pack("{s:O}", "codec", params);
    json_decref(params);
    return c;
}

typedef struct rows {
    uint8_t id[CHUNK][16], split[CHUNK], mask[CHUNK * LONGEST];
    uint16_t token[CHUNK * LONGEST];
    uint32_t n[CHUNK], marks[CHUNK], predicted[CHUNK];
    size_t tokens, nmask, positions;
    float *logits;
} rows;

static void fill(rows *x, const store_spec *s, uint64_t first, kd_split split)
{
    x->tokens = x->nmask = x->positions = 0;
    for (uint64_t i = 0; i < CHUNK; i++) {
        const uint64_t row = first + i;
        uint16_t *t = x->token + x->tokens;
        kd_rng r;
        kd_rng_init(&r, 2, KD_RNG_TEST, (uint32_t)row, 0);
        memset(x->id[i], 0, 16);
        memcpy(x->id[i], &row, sizeof row);
        x->split[i] = (uint8_t)split;
        x->n[i] = text(s, row, t);
        x->predicted[i] = 0;
        for (uint32_t k = 0; k < x->n[i]; k++) {
            x->mask[x->nmask + k] = is_predicted(s, x->n[i], k);
            if (!is_predicted(s, x->n[i], k)) continue;
            float *z = x->logits + x->positions * (size_t)s->words;
            for (int c = 0; c < s->words; c++) z[c] = kd_rng_normal(&r) / 2;
            z[follower(s->words, t[k - 1])] += 4 + (float)log(s->words);
            x->positions++, x->predicted[i]++;
        }
        x->marks[i] = x->n[i];
        if (s->mask == SHORT_MASK && row == 70) x->marks[i]--;
        if (s->short_logits && row == 70) x->predicted[i]--, x->positions--;
        x->tokens += x->n[i];
        x->nmask += x->marks[i];
    }
}

static void add_teacher(const store_spec *s, const char *path, const char *encoding, rows *x)
{
    kd_store *store;
    kd_store_writer *w;
    kd_writer_params wp = kd_writer_default_params();
    json_t *contract = json_pack("{s:s}", "kind", encoding);
    char name[40], *colon;
    snprintf(name, sizeof name, "%.39s", encoding);
    if ((colon = strchr(name, ':'))) *colon = '\0';
    json_t *extra = json_pack("{s:{s:s, s:s}}", "teacher", "name", name, "fingerprint", "0123");
    char *full = kd_sprintf("%s/logits", name);
    kd_column c =
        column_of(full, KD_ROLE_LOGITS, strcmp(name, "dense") ? KD_F32 : KD_F16, encoding, -1, s->words);
    snprintf(c.teacher, sizeof c.teacher, "%s", name);
    OK(kd_store_open(&store, path, err));
    OK(kd_store_extend(&w, store, name, &c, 1, contract, &wp, err));
    for (uint32_t i = 0; i < kd_store_chunks(store); i++) {
        const kd_chunk_info *in = kd_store_chunk(store, i);
        kd_buf bytes = {0};
        fill(x, s, in->first, in->split);
        if (strcmp(name, "dense")) {
            kd_codec *codec;
            const kd_codec_block b = {.values = x->logits,
                                      .rows = CHUNK,
                                      .lengths = x->predicted,
                                      .ids = (const kd_id *)(const void *)x->id};
            OK(kd_column_codec(&codec, &c, err));
            OK(kd_codec_encode(codec, &b, 1, &bytes, err));
            kd_codec_close(codec);
        } else {
            const size_t n = x->positions * (size_t)s->words;
            uint16_t *half = malloc(n * 2 + 1);
            assert_int_equal(kd_from_f32(half, KD_F16, x->logits, n), KD_OK);
            kd_buf_append(&bytes, half, n * 2);
            free(half);
        }
        const kd_block block = {bytes.text, bytes.len, x->predicted};
        OK(kd_store_writer_append(w, in->split, in->rows, &block, err));
        kd_buf_release(&bytes);
    }
    OK(kd_store_writer_seal(w, extra, err));
    kd_store_close(store);
    json_decref((json_t *)c.params);
    json_decref(contract);
    json_decref(extra);
    free(full);
}

static void write_store(const store_spec *s)
{
    static rows x;
    kd_store_writer *w;
    kd_writer_params wp = kd_writer_default_params();
    json_t *contract = json_pack("{s:s}", "kind", s->name);
    char *path = kd_sprintf("%s/%s.kd", folder, s->name);
    x.logits = malloc(CHUNK * LONGEST * (size_t)s->words * sizeof(float));
    kd_column c[] = {column_of("id", KD_ROLE_ID, KD_U8, "dense", 16, 0),
                     column_of("split", KD_ROLE_SPLIT, KD_U8, "dense", 0, 0),
                     column_of("tokens", KD_ROLE_INPUT, KD_U16, "dense", -1, 0),
                     column_of("mask", KD_ROLE_MASK, KD_U8, "dense", -1, 0)};
    c[2].params = json_pack("{s:s, s:i, s:i}", "tokenizer", "t", "vocab", s->words, "max_tokens", LONGEST);
    wp.chunk_rows = CHUNK;
    OK(kd_store_create(&w, path, c, s->mask ? 4 : 3, contract, &wp, err));
    for (uint64_t first = 0; first < TRAIN + VALID; first += CHUNK) {
        const kd_split split = first < TRAIN ? KD_TRAIN : KD_VALID;
        fill(&x, s, first, split);
        const kd_block block[] = {{x.id, sizeof x.id, NULL},
                                  {x.split, sizeof x.split, NULL},
                                  {x.token, x.tokens * sizeof *x.token, x.n},
                                  {x.mask, x.nmask, x.marks}};
        OK(kd_store_writer_append(w, split, CHUNK, block, err));
    }
    OK(kd_store_writer_seal(w, NULL, err));
    for (int i = 0; i < 5 && s->teachers[i]; i++) add_teacher(s, path, s->teachers[i], &x);
    json_decref((json_t *)c[2].params);
    json_decref(contract);
    free(x.logits);
    free(path);
}

static const store_spec stores[] = {
    {"few", FEW, MASK, false, {"head-tail:n=6", "topk:k=8,temperatures=1+2", "sample:n=12", "int8", "dense"}},
    {"many", MANY, NO_MASK, false, {"head-tail:n=6", "topk:k=8,temperatures=1+2"}},
    {"empty", FEW, EMPTY_MASK, false, {"head-tail:n=6"}},
    {"short-mask", FEW, SHORT_MASK, false, {NULL}},
    {"short-logits", FEW, NO_MASK, true, {"head-tail:n=6"}},
};

static int begin(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-words-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    for (size_t i = 0; i < KD_COUNT(stores); i++) write_store(&stores[i]);
    return 0;
}

static int end(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL) ? -1 : 0;
}

/* ---- students ----------------------------------------------------------------------------- */

#define NET "model: {arch: llama, layers: 1, width: 16, heads: 2, ffn: 24, positions: 16, tied: true}\n"
#define RUN "epochs: 8, batch: 16, lr: 0.015"

static int stop_flag;
static uint64_t stop_after, seen;
static void count(void *arg, const kd_train_progress *p)
{
    (void)arg, (void)p;
    if (++seen == stop_after) stop_flag = 1;
}

typedef struct outcome {
    kd_train_result r;
    kd_status st;
    kd_err err;
} outcome;

typedef struct how {
    const char *store, *loss, *net, *train, *out;
    int threads;
    uint64_t stop;
    bool resume;
} how;

static outcome train(how h)
{
    outcome o = {0};
    kd_student_spec spec;
    kd_trainer *t;
    kd_store *s;
    bool skipped;
    kd_trainer_params p = kd_trainer_default_params();
    char *path = kd_sprintf("%s/%s.kd", folder, h.store), *file = kd_sprintf("%s/x.yaml", folder),
         *yaml = kd_sprintf("name: x\nloss: %s\n%strain: {%s}\n", h.loss, h.net ? h.net : NET,
                            h.train ? h.train : RUN),
         *to = kd_sprintf("%s/%s", folder, h.out);
    OK(kd_file_write(file, yaml, strlen(yaml), err));
    OK(kd_store_open(&s, path, err));
    OK(kd_student_load(&spec, file, NULL, err));
    p.threads = h.threads ? h.threads : 1;
    p.checkpoint_seconds = 0;
    p.resume = h.resume;
    p.team = h.threads > 1 ? 2 : 0;
    OK(kd_trainer_create(&t, s, &p, err));
    stop_flag = 0, seen = 0, stop_after = h.stop;
    o.st = kd_trainer_add(t, &spec, 5, kd_loss_spec_distils(&spec.loss) ? "distilled" : "plain", to, &skipped,
                          &o.err);
    if (!o.st) o.st = kd_trainer_run(t, &stop_flag, count, NULL, &o.err);
    if (!o.st) kd_trainer_result(t, 0, &o.r);
    o.r.name = o.r.folder = o.r.role = NULL;
    kd_trainer_free(t);
    kd_student_release(&spec);
    kd_store_close(s);
    free(path);
    free(file);
    free(yaml);
    free(to);
    return o;
}

static outcome trained(how h)
{
    outcome o = train(h);
    if (o.st) fail_msg("%s on %s: %s", h.loss, h.store, o.err.msg);
    return o;
}

static void forget(const char *out)
{
    char *path = kd_sprintf("%s/%s", folder, out);
    OK(kd_remove_tree(path, err));
    free(path);
}

/* A number of the last line of a run's metrics. */
static double metric(const char *out, const char *key)
{
    char *path = kd_sprintf("%s/%s/metrics.jsonl", folder, out), *lines, *last;
    size_t len;
    OK(kd_file_read(path, 1 << 20, &lines, &len, err));
    lines[len - 1] = '\0';
    last = strrchr(lines, '\n');
    json_t *j = json_loads(last ? last + 1 : lines, 0, NULL);
    if (!json_is_number(json_object_get(j, key))) fail_msg("no %s in %s", key, last ? last + 1 : lines);
    const double v = json_number_value(json_object_get(j, key));
    json_decref(j);
    free(lines);
    free(path);
    return v;
}

#define MIXED "[{name: sparse_kl, sparse: sampled, teacher: head-tail}, {name: ce, weight: 0.3}]"

/* ---- tests -------------------------------------------------------------------------------- */

static void a_student_learns_the_language_without_a_teacher(void **state)
{
    (void)state;
    const outcome o = trained((how){.store = "few", .loss = "{kd: 0, ce: 1}", .out = "alone"});
    if (!(o.r.valid_accuracy > 0.6)) fail_msg("right at %.3f of the positions", o.r.valid_accuracy);
    const double p = metric("alone", "valid_perplexity");
    if (!(fabs(log(p) - o.r.valid_loss) < 1e-4)) fail_msg("perplexity %g, loss %g", p, o.r.valid_loss);
    forget("alone");
}

static void every_encoding_of_a_teacher_teaches_it(void **state)
{
    (void)state;
    static const char *const losses[] = {
        MIXED,
        "[{name: kd, temperature: 1, teacher: head-tail}]", // as whole rows of logits
        "[{name: sparse_kl, sparse: sampled, teacher: sample}]",
        "[{name: sparse_kl, sparse: raw, teacher: topk}]",
        "[{name: sparse_kl, sparse: renorm, teacher: topk}, {name: ce, weight: 0.2}]",
        "[{name: sparse_kl, sparse: bucket, temperature: 2, teacher: topk}, {name: ce, weight: 0.2}]",
        "[{name: sparse_kl, sparse: both, teacher: topk}]",
        "[{name: sparse_kl, sparse: uniform, teacher: topk}]",
        "[{name: sparse_kl, direction: reverse, teacher: topk}]",
        "[{name: sparse_jsd, teacher: topk}]",
        "[{name: sparse_tvd, teacher: topk}]",
        "[{name: kd, temperature: 2, teacher: int8}, {name: ce, weight: 0.2}]",
        "[{name: reverse_kl, teacher: dense}]",
        "[{name: skl, teacher: dense}]",
        "[{name: kd, temperature: 1, teacher: dense}]",
    };
    for (size_t i = 0; i < KD_COUNT(losses); i++) {
        const outcome o = trained((how){.store = "few", .loss = losses[i], .out = "taught"});
        if (!(o.r.valid_accuracy > 0.6))
            fail_msg("%s: right at %.3f of the positions", losses[i], o.r.valid_accuracy);
        const double teacher = metric("taught", "teacher_accuracy");
        if (!(teacher > 0.75 && teacher < 0.9))
            fail_msg("%s: the teacher is right at %.3f", losses[i], teacher);
        forget("taught");
    }
}

static void many_words_go_by_the_kernels_of_vocabularies(void **state)
{
    (void)state;
    static const char *const losses[] = {
        MIXED, "{kd: 0, ce: 1}",
        "[{name: sparse_kl, sparse: bucket, temperature: 2, teacher: topk}, {name: ce, weight: 0.2}]"};
    for (size_t i = 0; i < KD_COUNT(losses); i++) {
        const outcome o = trained((how){.store = "many", .loss = losses[i], .out = "many"});
        if (!(o.r.loss < 7.5)) fail_msg("%s: loss %g", losses[i], o.r.loss);
        forget("many");
    }
}

static void weights_do_not_depend_on_threads_or_interruptions(void **state)
{
    (void)state;
    static const char *const names[] = {"few", "many"};
    for (int k = 0; k < 2; k++) {
        how h = {.store = names[k],
                 .loss = MIXED,
                 .out = "bits",
                 .train = RUN ", accumulate: 2, ema: 0.9, keep: best"};
        const uint64_t want = trained(h).r.weight_hash;
        forget("bits");
        static const int threads[] = {2, 3, 8};
        for (size_t i = 0; i < KD_COUNT(threads); i++) {
            h.threads = threads[i];
            h.stop = i ? 0 : 21;
            h.resume = false;
            outcome o = train(h);
            if (h.stop) {
                assert_int_equal(o.st, KD_ESTOPPED);
                h.stop = 0, h.resume = true;
                o = train(h);
            }
            if (o.st) fail_msg("%s", o.err.msg);
            if (o.r.weight_hash != want) fail_msg("%s: other weights on %d threads", names[k], threads[i]);
            forget("bits");
        }
    }
}

static void bf16_trains_too(void **state)
{
    (void)state;
    if (kd_nn_check_precision(KD_PRECISION_BF16, NULL)) return;
    const outcome o =
        trained((how){.store = "few", .loss = MIXED, .out = "half", .train = RUN ", precision: bf16"});
    if (!(o.r.valid_accuracy > 0.6)) fail_msg("right at %.3f of the positions", o.r.valid_accuracy);
    forget("half");
}

static void masks_that_mark_nothing_teach_nothing(void **state)
{
    (void)state;
    const outcome o = trained((how){.store = "empty", .loss = MIXED, .out = "nothing"});
    assert_true(o.r.loss == 0);
    forget("nothing");
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *store, *loss, *net;
        kd_status st;
        const char *text;
    } bad[] = {
        {"short-mask", "{kd: 0, ce: 1}", NULL, KD_ECORRUPT, "column mask, row 70: marks of"},
        {"short-logits", MIXED, NULL, KD_ECORRUPT, "column head-tail/logits, row 70: logits of"},
        {"few", "{kd: 0, ce: 1}",
         "model: {arch: llama, vocab: 40, layers: 1, width: 16, heads: 2, positions: 16}\n", KD_EMISMATCH,
         "its tokenizer has 37 tokens, student x has model.vocab: 40"},
        {"few", "{kd: 0, ce: 1}", "model: {arch: llama, layers: 1, width: 16, heads: 2, positions: 9}\n",
         KD_EMISMATCH, "model.positions: 9"},
        {"few", "[{name: embed, tap: layer0}]", NULL, KD_EUNSUPPORTED, "compares features"},
        {"few", "[{name: kd, temperature: 1, teacher: int8 dense}]", NULL, KD_EUSAGE,
         "cannot take the mean of logits of several teachers"},
        {"few", "[{name: sparse_kl, sparse: sampled, teacher: topk}]", NULL, KD_EUNSUPPORTED,
         "column topk/logits (topk)"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        const outcome o =
            train((how){.store = bad[i].store, .loss = bad[i].loss, .net = bad[i].net, .out = "bad"});
        if (o.st != bad[i].st || !strstr(o.err.msg, bad[i].text))
            fail_msg("%s on %s: %d, %s", bad[i].loss, bad[i].store, o.st, o.err.msg);
        char *part = kd_sprintf("%s/bad.part", folder);
        kd_remove_tree(part, NULL);
        free(part);
    }
}

/* A model whose tokenizer is not the store's, whatever its sizes. */
static void weights_of_a_model_with_other_words_are_refused(void **state)
{
    (void)state;
    const outcome o = train((how){.store = "few",
                                  .loss = "{kd: 0, ce: 1}",
                                  .net = NET "init: {from: tests/golden/bpe.gguf}\n",
                                  .out = "bad"});
    assert_int_equal(o.st, KD_EMISMATCH);
    if (!strstr(o.err.msg, "was made with t (tokenizer)")) fail_msg("%s", o.err.msg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_student_learns_the_language_without_a_teacher),
        cmocka_unit_test(every_encoding_of_a_teacher_teaches_it),
        cmocka_unit_test(many_words_go_by_the_kernels_of_vocabularies),
        cmocka_unit_test(weights_do_not_depend_on_threads_or_interruptions),
        cmocka_unit_test(bf16_trains_too),
        cmocka_unit_test(masks_that_mark_nothing_teach_nothing),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(weights_of_a_model_with_other_words_are_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
