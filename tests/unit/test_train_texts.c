/* test_train_texts.c - encoders trained on rows of tokens: pairs with and without a teacher, mined negatives,
 * single texts with labels; the same bits for any threads and any interruption; what does not fit is refused.
 *
 * The texts are made up: each of TOPICS topics has three words, of which queries hold some among others, and
 * one more that is its answer. A teacher that knows the topics says what each text means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "kd/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    TRAIN = 320,
    VALID = 64,
    ROWS = TRAIN + VALID,
    CHUNK = 64,
    TOPICS = 24,
    VOCAB = 4 + 4 * TOPICS + 20,
    DIM = 10
};
enum { CLS = 1, SEP = 2, LONGEST = 9, NEGATIVES = 2 };

static char folder[64];

/* ---- the store ---------------------------------------------------------------------------- */

static int topic_of(int row) { return (row * 7 + row / 5) % TOPICS; }
static uint16_t word(int topic, int which) { return (uint16_t)(4 + 4 * topic + which); }

/* Both return the number of tokens. */
static uint32_t query(int row, uint16_t *out)
{
    kd_rng r;
    uint32_t n = 0, words = 0;
    kd_rng_init(&r, 1, KD_RNG_TEST, (uint32_t)row, 0);
    out[n++] = CLS;
    for (int k = 0; k < 3; k++)
        if (kd_rng_below(&r, 3) || (k == 2 && !words)) out[n++] = word(topic_of(row), k), words++;
    for (uint64_t k = kd_rng_below(&r, 4); k; k--) out[n++] = (uint16_t)(VOCAB - 1 - kd_rng_below(&r, 20));
    out[n++] = SEP;
    return n;
}

static uint32_t answer(int topic, uint16_t *out)
{
    out[0] = CLS, out[1] = word(topic, 3), out[2] = SEP;
    return 3;
}

static int negative_topic(int row, int k) { return (topic_of(row) + 1 + k) % TOPICS; }

/* What the teacher says of a text: its topic's direction, and a little of its own. */
static void meaning(int topic, int row, float *out)
{
    kd_rng r, own;
    kd_rng_init(&r, 2, KD_RNG_TEST, (uint32_t)topic, 0);
    kd_rng_init(&own, 3, KD_RNG_TEST, (uint32_t)row, 1);
    for (int k = 0; k < DIM; k++) out[k] = kd_rng_normal(&r) + 0.2f * kd_rng_normal(&own);
}

typedef struct columns {
    kd_column c[8];
    size_t n;
} columns;

static void add_column(columns *x, const char *name, kd_role role, kd_dtype dtype, int64_t d0, int64_t d1,
                       json_t *params)
{
    kd_column *c = &x->c[x->n++];
    *c = (kd_column){.role = role,
                     .dtype = dtype,
                     .ndims = d1   ? 2
                              : d0 ? 1
                                   : 0,
                     .dims = {d0, d1},
                     .params = params};
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->encoding, sizeof c->encoding, "dense");
    if (role == KD_ROLE_FEATURE) snprintf(c->teacher, sizeof c->teacher, "wise");
}

static json_t *token_params(const char *tokenizer, int texts)
{
    json_t *p = json_pack("{s:s, s:i, s:i}", "tokenizer", tokenizer, "vocab", VOCAB, "max_tokens", LONGEST);
    if (texts > 1) json_object_set_new(p, "texts", json_integer(texts));
    return p;
}

typedef struct rows {
    uint8_t id[CHUNK][16], split[CHUNK];
    int32_t label[CHUNK];
    uint16_t query[CHUNK * LONGEST], answer[CHUNK * 3], negative[CHUNK * 3 * NEGATIVES];
    uint32_t nquery[CHUNK], nanswer[CHUNK], nnegative[CHUNK];
    float of_query[CHUNK][DIM], of_answer[CHUNK][DIM], of_negative[CHUNK][NEGATIVES][DIM];
} rows;

static void fill(rows *x, int first, kd_split split, kd_block block[8], bool pairs, bool mined)
{
    size_t nq = 0, na = 0, nn = 0, n = 0;
    for (int i = 0; i < CHUNK; i++) {
        const int row = first + i, topic = topic_of(row);
        memset(x->id[i], 0, 16);
        memcpy(x->id[i], &row, sizeof row);
        x->split[i] = (uint8_t)split;
        x->label[i] = topic;
        nq += x->nquery[i] = query(row, x->query + nq);
        na += x->nanswer[i] = answer(topic, x->answer + na);
        x->nnegative[i] = 0;
        meaning(topic, row, x->of_query[i]);
        meaning(topic, 1000 + topic, x->of_answer[i]);
        for (int k = 0; k < NEGATIVES; k++) {
            x->nnegative[i] += answer(negative_topic(row, k), x->negative + nn + x->nnegative[i]);
            meaning(negative_topic(row, k), 1000 + negative_topic(row, k), x->of_negative[i][k]);
        }
        nn += x->nnegative[i];
    }
    block[n++] = (kd_block){x->id, sizeof x->id, NULL};
    block[n++] = (kd_block){x->split, sizeof x->split, NULL};
    block[n++] = (kd_block){x->label, sizeof x->label, NULL};
    block[n++] = (kd_block){x->query, nq * sizeof *x->query, x->nquery};
    if (pairs) block[n++] = (kd_block){x->answer, na * sizeof *x->answer, x->nanswer};
    if (mined) block[n++] = (kd_block){x->negative, nn * sizeof *x->negative, x->nnegative};
}

static void write_store(const char *name, bool pairs, bool mined)
{
    columns x = {.n = 0};
    static rows data;
    kd_block block[8];
    kd_store_writer *w;
    kd_writer_params wp = kd_writer_default_params();
    json_t *contract = json_pack("{s:s}", "kind", name);
    char *path = kd_sprintf("%s/%s.kd", folder, name);
    wp.chunk_rows = CHUNK;
    add_column(&x, "id", KD_ROLE_ID, KD_U8, 16, 0, NULL);
    add_column(&x, "split", KD_ROLE_SPLIT, KD_U8, 0, 0, NULL);
    add_column(&x, "label", KD_ROLE_LABEL, KD_I32, 0, 0, json_pack("{s:i}", "classes", TOPICS));
    add_column(&x, pairs ? "query" : "tokens", KD_ROLE_INPUT, KD_U16, -1, 0, token_params("t", 1));
    if (pairs)
        add_column(&x, "answer", KD_ROLE_INPUT, KD_U16, -1, 0,
                   token_params(strcmp(name, "two") ? "t" : "u", 1));
    if (mined) add_column(&x, "negative", KD_ROLE_INPUT, KD_U16, -1, 0, token_params("t", NEGATIVES));
    OK(kd_store_create(&w, path, x.c, x.n, contract, &wp, err));
    for (int first = 0; first < ROWS; first += CHUNK) {
        const kd_split split = first < TRAIN ? KD_TRAIN : KD_VALID;
        fill(&data, first, split, block, pairs, mined);
        OK(kd_store_writer_append(w, split, CHUNK, block, err));
    }
    OK(kd_store_writer_seal(w, NULL, err));
    for (size_t i = 0; i < x.n; i++) json_decref((json_t *)x.c[i].params);
    json_decref(contract);
    free(path);
}

/* The teacher's columns; input: which text each is of. */
static void write_teacher(const char *name, bool pairs, bool mined)
{
    columns x = {.n = 0};
    static rows data;
    kd_block block[8], of[8];
    kd_store *s;
    kd_store_writer *w;
    kd_writer_params wp = kd_writer_default_params();
    char *path = kd_sprintf("%s/%s.kd", folder, name);
    json_t *contract = json_pack("{s:s}", "kind", "wise"),
           *extra = json_pack("{s:{s:s, s:s}}", "teacher", "name", "wise", "fingerprint", "0123");
    add_column(&x, pairs ? "wise/embedding.query" : "wise/embedding", KD_ROLE_FEATURE, KD_F32, DIM, 0,
               pairs ? json_pack("{s:s}", "input", "query") : NULL);
    if (pairs)
        add_column(&x, "wise/embedding.answer", KD_ROLE_FEATURE, KD_F32, DIM, 0,
                   json_pack("{s:s}", "input", "answer"));
    if (mined)
        add_column(&x, "wise/embedding.negative", KD_ROLE_FEATURE, KD_F32, NEGATIVES, DIM,
                   json_pack("{s:s}", "input", "negative"));
    OK(kd_store_open(&s, path, err));
    OK(kd_store_extend(&w, s, "wise", x.c, x.n, contract, &wp, err));
    for (uint32_t i = 0; i < kd_store_chunks(s); i++) {
        const kd_chunk_info *in = kd_store_chunk(s, i);
        fill(&data, (int)in->first, in->split, block, pairs, mined);
        of[0] = (kd_block){data.of_query, sizeof data.of_query, NULL};
        of[1] = (kd_block){data.of_answer, sizeof data.of_answer, NULL};
        of[2] = (kd_block){data.of_negative, sizeof data.of_negative, NULL};
        OK(kd_store_writer_append(w, in->split, in->rows, of, err));
    }
    OK(kd_store_writer_seal(w, extra, err));
    kd_store_close(s);
    for (size_t i = 0; i < x.n; i++) json_decref((json_t *)x.c[i].params);
    json_decref(contract);
    json_decref(extra);
    free(path);
}

static int begin(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-texts-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    write_store("pairs", true, false);
    write_teacher("pairs", true, false);
    write_store("mined", true, true);
    write_teacher("mined", true, true);
    write_store("single", false, false);
    write_teacher("single", false, false);
    write_store("two", true, false);
    return 0;
}

static int end(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL) ? -1 : 0;
}

/* ---- students ----------------------------------------------------------------------------- */

#define NET "model: {arch: bert, layers: 1, width: 16, heads: 2, ffn: 24, positions: 16%s}\n"
#define RUN "train: {epochs: 6, batch: 32, lr: 0.01}\n"

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

static outcome train(const char *store, const char *loss, const char *model, const char *out, int threads,
                     uint64_t stop, bool resume)
{
    outcome o = {0};
    kd_student_spec spec;
    kd_trainer *t;
    kd_store *s;
    bool skipped;
    kd_trainer_params p = kd_trainer_default_params();
    char *path = kd_sprintf("%s/%s.kd", folder, store), *file = kd_sprintf("%s/x.yaml", folder),
         *text = kd_sprintf("name: x\nloss: %s\n" NET RUN, loss, model),
         *to = kd_sprintf("%s/%s", folder, out);
    OK(kd_file_write(file, text, strlen(text), err));
    OK(kd_store_open(&s, path, err));
    OK(kd_student_load(&spec, file, NULL, err));
    p.threads = threads;
    p.checkpoint_seconds = 0;
    p.resume = resume;
    p.team = threads > 1 ? 2 : 0;
    OK(kd_trainer_create(&t, s, &p, err));
    stop_flag = 0, seen = 0, stop_after = stop;
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
    free(text);
    free(to);
    return o;
}

static outcome trained(const char *store, const char *loss, const char *model, const char *out)
{
    outcome o = train(store, loss, model, out, 1, 0, false);
    if (o.st) fail_msg("%s", o.err.msg);
    return o;
}

/* Share of validation queries whose answer among all topics' the student has first. */
static double right(const char *out)
{
    kd_model *m;
    kd_exec *ex;
    uint16_t tokens[(VALID + TOPICS) * LONGEST];
    uint64_t offset[VALID + TOPICS + 1] = {0};
    char *path = kd_sprintf("%s/%s", folder, out);
    OK(kd_model_load(&m, path, err));
    kd_exec_params p = {.batch = KD_COUNT(tokens), .sequences = VALID + TOPICS, .threads = 1};
    OK(kd_exec_create(&ex, m->graph, &p, err));
    for (int i = 0; i < VALID + TOPICS; i++)
        offset[i + 1] = offset[i] + (i < VALID ? query(TRAIN + i, tokens + offset[i])
                                               : answer(i - VALID, tokens + offset[i]));
    OK(kd_model_feed_tokens(m, ex, tokens, KD_U16, offset, VALID + TOPICS, err));
    kd_exec_run_forward(ex);
    const float *e = kd_exec_value(ex, m->logits);
    const size_t dim = kd_graph_node_size(m->graph, m->logits);
    int hits = 0;
    for (int i = 0; i < VALID; i++) {
        int top = 0;
        float best = -INFINITY;
        for (int k = 0; k < TOPICS; k++) {
            float sum = 0;
            for (size_t d = 0; d < dim; d++) sum += e[(size_t)i * dim + d] * e[(size_t)(VALID + k) * dim + d];
            if (sum > best) best = sum, top = k;
        }
        hits += top == topic_of(TRAIN + i);
    }
    kd_exec_free(ex);
    kd_model_free(m);
    free(path);
    return (double)hits / VALID;
}

static void forget(const char *out)
{
    char *path = kd_sprintf("%s/%s", folder, out);
    OK(kd_remove_tree(path, err));
    free(path);
}

#define CONTRAST "[{name: contrastive, symmetric: true}]"
#define TAUGHT   "[{name: contrastive_kl, temperature: 0.2}, {name: embed, projection: linear, weight: 0.5}]"
#define MIXED                                                                                                \
    "[{name: contrastive, weight: 0.5, prefixes: 8 4*0.5}, {name: contrastive_margin}, {name: sp, weight: "  \
    "3}]"

static void pairs_are_learned_from_labels_alone_or_from_a_teacher(void **state)
{
    (void)state;
    static const char *const losses[] = {CONTRAST, TAUGHT, MIXED};
    for (size_t i = 0; i < KD_COUNT(losses); i++) {
        char out[16];
        snprintf(out, sizeof out, "pairs%zu", i);
        outcome o = trained("pairs", losses[i], ", output: 8", out);
        const double hits = right(out);
        if (!(hits > 0.8)) fail_msg("%s: %.2f of the queries are answered", losses[i], hits);
        assert_true(isfinite(o.r.valid_loss) && isnan(o.r.valid_accuracy));
    }
}

static void mined_negatives_are_more_candidates(void **state)
{
    (void)state;
    outcome o = trained("mined", CONTRAST, ", output: 8", "mined"),
            own = trained("mined", "[{name: contrastive, candidates: own}]", ", output: 8", "own"),
            t = trained("mined", TAUGHT, ", output: 8", "mined-taught");
    const double hits[] = {right("mined"), right("mined-taught")};
    if (!(hits[0] > 0.8 && hits[1] > 0.8)) fail_msg("%.2f %.2f", hits[0], hits[1]);
    if (!(own.r.valid_loss < 0.5 * log(1 + NEGATIVES)))
        fail_msg("own candidates: loss %.3f", own.r.valid_loss);
    assert_true(o.r.weight_hash != own.r.weight_hash && t.r.weight_hash != o.r.weight_hash);
}

static void a_text_with_a_label_is_classified(void **state)
{
    (void)state;
    outcome o = trained("single", "{ce: 1, kd: 0}", ", classes: 24", "classes");
    assert_true(o.r.valid_accuracy > 0.8);
    o = trained("single", "[{name: embed, metric: cosine, projection: linear}]", "", "single");
    assert_true(isfinite(o.r.valid_loss) && o.r.valid_loss < 0.3);
}

static void weights_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    const char *loss =
        "[{name: contrastive, symmetric: true, prefixes: 8 4*0.5}, {name: contrastive_kl, temperature: 0.2}, "
        "{name: contrastive_margin}, {name: sp, weight: 3}, {name: embed, projection: linear}]";
    const uint64_t want = trained("mined", loss, ", output: 8, dropout: 0.1", "t1").r.weight_hash;
    forget("t1");
    for (int threads = 2; threads <= 8; threads = threads == 3 ? 8 : threads + 1) {
        outcome o = train("mined", loss, ", output: 8, dropout: 0.1", "t1", threads, 0, false);
        if (o.st) fail_msg("%s", o.err.msg);
        if (o.r.weight_hash != want) fail_msg("other weights with %d threads", threads);
        forget("t1");
    }
}

static void an_interrupted_run_ends_with_the_same_weights(void **state)
{
    (void)state;
    const uint64_t want = trained("mined", MIXED, ", output: 8, dropout: 0.1", "whole").r.weight_hash;
    for (uint64_t stop = 1; stop < 60; stop += 13) {
        outcome o = train("mined", MIXED, ", output: 8, dropout: 0.1", "cut", 1, stop, false);
        assert_int_equal(o.st, KD_ESTOPPED);
        o = train("mined", MIXED, ", output: 8, dropout: 0.1", "cut", 2, 0, true);
        if (o.st) fail_msg("%s", o.err.msg);
        assert_true(o.r.weight_hash == want);
        forget("cut");
    }
}

static void refused(const char *store, const char *loss, const char *model, kd_status st, const char *word)
{
    outcome o = train(store, loss, model, "refused", 1, 0, false);
    if (o.st != st || !strstr(o.err.msg, word)) fail_msg("%d, %s; expected %s", o.st, o.err.msg, word);
}

static void what_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    refused("pairs", "{ce: 1, kd: 0}", ", classes: 24", KD_EMISMATCH, "contrastive");
    refused("pairs", CONTRAST, ", vocab: 50", KD_EMISMATCH, "model.vocab");
    refused("pairs", "[{name: contrastive_kl, teacher: other}]", "", KD_ENOTFOUND,
            "embeddings of column query");
    refused("two", CONTRAST, ", output: 8", KD_EMISMATCH, "two tokenizers");
    refused("single", CONTRAST, ", output: 8", KD_EUSAGE, "a query and its answer");
    refused("pairs", "[{name: contrastive, prefixes: 9}]", ", output: 8", KD_EUSAGE,
            "prefixes: 9 of the student's 8");
    refused("pairs", "[{name: contrastive, prefixes: 4 x}]", ", output: 8", KD_EUSAGE, "prefixes: '4 x'");
    refused("pairs", "[{name: crd}]", "", KD_EMISMATCH, "row numbers");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_learned_from_labels_alone_or_from_a_teacher),
        cmocka_unit_test(mined_negatives_are_more_candidates),
        cmocka_unit_test(a_text_with_a_label_is_classified),
        cmocka_unit_test(weights_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(an_interrupted_run_ends_with_the_same_weights),
        cmocka_unit_test(what_does_not_fit_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
