/* test_encoder.c - encoders in folders that sentence-transformers wrote: what they compute against PyTorch,
 * forward and every gradient (tests/golden/make_encoders.py); folders that kd writes; folders that it must
 * refuse.
 *
 * Differences are measured relative to the largest element of each tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../lib/model/model_private.h"
#include "golden_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-encoder-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* ---- numbers ------------------------------------------------------------------------------ */

static kd_exec *fed(const golden *g, const kd_exec_params *how)
{
    kd_exec *ex;
    uint64_t offset[8] = {0};
    const kd_tensor *ids = tensor(g, "ids"), *lengths = tensor(g, "lengths");
    for (int64_t i = 0; i < lengths->dims[0]; i++)
        offset[i + 1] = offset[i] + (uint64_t)((const int32_t *)lengths->data)[i];
    OK(kd_exec_create(&ex, g->m->graph, how, err));
    OK(kd_model_feed_tokens(g->m, ex, ids->data, KD_I32, offset, lengths->dims[0], err));
    return ex;
}

static void step_equals_pytorch(const char *name, bool naive)
{
    golden g;
    open_golden(&g, name, name);
    const kd_exec_params how = {
        .batch = 80, .sequences = 9, .threads = naive ? 1 : 2, .training = true, .naive = naive};
    kd_exec *ex = fed(&g, &how);
    const kd_tensor *dy = tensor(&g, "dy");
#pragma omp parallel num_threads(how.threads)
    {
        kd_exec_forward(ex);
#pragma omp single
        memcpy(kd_exec_grad(ex, g.m->logits), dy->data, dy->bytes);
        kd_exec_backward(ex);
    }
    near_all(&g, "embeddings", kd_exec_value(ex, g.m->logits), tensor(&g, "embeddings"), 1e-5);
    const kd_param *p;
    const size_t n = kd_graph_params(g.m->graph, &p);
    for (size_t i = 0; i < n; i++) {
        kd__node_name b, full;
        const char *file, *in_file = kd__hf_name(&b, p[i].name, &file);
        if (!strcmp(file, kd__hf_dense)) in_file = kd__name(&b, "dense%s", strrchr(p[i].name, '.'));
        near_all(&g, p[i].name, kd_exec_grads(ex) + p[i].offset,
                 tensor(&g, kd__name(&full, "grad.%s", in_file)),
                 strstr(p[i].name, "key.bias") ? INFINITY
                                               : 2e-5); // that of keys' biases is 0 but for rounding
    }
    kd_exec_free(ex);
    close_golden(&g);
}

static void a_step_of_each_encoder_equals_pytorch(void **state)
{
    (void)state;
    step_equals_pytorch("bert", false);
    step_equals_pytorch("electra", false);
}

static void the_twins_equal_pytorch(void **state)
{
    (void)state;
    step_equals_pytorch("bert", true);
    step_equals_pytorch("electra", true);
}

static void hidden_states_can_be_kept(void **state)
{
    (void)state;
    golden g;
    open_golden(&g, "bert", "bert");
    const kd_node layer = kd_graph_find(g.m->graph, "layer0");
    const kd_exec_params how = {.batch = 80, .sequences = 9, .threads = 2, .keep = &layer, .nkeep = 1};
    kd_exec *ex = fed(&g, &how);
    kd_exec_run_forward(ex);
    near_all(&g, "hidden states", kd_exec_value(ex, layer), tensor(&g, "hidden"), 1e-5);
    near_all(&g, "embeddings", kd_exec_value(ex, g.m->logits), tensor(&g, "embeddings"), 1e-5);
    kd_exec_free(ex);
    close_golden(&g);
}

/* ---- folders ------------------------------------------------------------------------------ */

static void what_was_written_is_the_same_model(void **state)
{
    (void)state;
    static const char *const names[] = {"bert", "electra"};
    for (size_t i = 0; i < KD_COUNT(names); i++) {
        golden g;
        kd_model *again;
        char before[33], after[33];
        open_golden(&g, names[i], names[i]);
        OK(kd_model_save(g.m, folder, NULL, err));
        OK(kd_model_load(&again, folder, err));
        kd_model_fingerprint(g.m, before);
        kd_model_fingerprint(again, after);
        assert_string_equal(before, after);
        assert_string_equal(g.m->name, again->name);
        kd_model_free(again);
        close_golden(&g);
        assert_int_equal(kd_remove_tree(folder, NULL), KD_OK);
        assert_int_equal(kd_mkdirs(folder, NULL), KD_OK);
    }
}

static const char SMALL[] = "{\"arch\": \"bert\", \"vocab\": 20, \"positions\": 8, \"layers\": 1, \"width\": "
                            "8, \"heads\": 2, \"ffn\": 12%s}";

static kd_status small_model(kd_model **m, const char *more, kd_err *err)
{
    char text[512];
    snprintf(text, sizeof text, SMALL, more);
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    kd_status st = kd_model_create(m, "small", j, "small.yaml", err);
    json_decref(j);
    return st;
}

static void a_model_of_classes_keeps_them_and_their_names(void **state)
{
    (void)state;
    kd_model *m, *again;
    OK(small_model(&m, ", \"classes\": 3, \"pooling\": \"cls\", \"dropout\": 0.1, \"attention_dropout\": 0.2",
                   err));
    kd_graph_init(m->graph, 1);
    m->labels = json_pack("[s, s, s]", "a", "b", "c");
    OK(kd_model_save(m, folder, NULL, err));
    OK(kd_model_load(&again, folder, err));
    assert_int_equal(again->spec.classes, 3);
    assert_string_equal(again->spec.pooling, "cls");
    assert_true(again->spec.dropout == 0.1 && again->spec.attention_dropout == 0.2);
    assert_true(json_equal(again->labels, m->labels));
    assert_int_equal(kd_graph_node_size(again->graph, again->logits), 3);
    kd_model_free(again);
    kd_model_free(m);
}

static void specs_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {", \"heads\": 3", "model.width 8 does not divide into model.heads 3"},
        {", \"input\": [4]", "bert reads tokens"},
        {", \"vocab\": 0", "model.vocab is not given"},
        {", \"classes\": 3, \"output\": 4", "a model has one of them"},
        {", \"pooling\": \"max\"", "model.pooling"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        char text[512], merged[512];
        kd_model *m;
        kd_err err = {0};
        snprintf(text, sizeof text, SMALL, "");
        json_t *j = json_loads(text, 0, NULL);
        snprintf(merged, sizeof merged, "{%s}", bad[i][0] + 1);
        json_t *change = json_loads(merged, 0, NULL);
        json_object_update(j, change);
        if (!kd_model_create(&m, "small", j, "small.yaml", &err) || !strstr(err.msg, bad[i][1]))
            fail_msg("%s: '%s' does not say '%s'", bad[i][0], err.msg, bad[i][1]);
        json_decref(change);
        json_decref(j);
    }
}

static kd_status begun_from(kd_model **m, const char *more, int64_t first, int64_t second, kd_err *e)
{
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"arch\": \"bert\", \"vocab\": 61, \"positions\": 30, \"width\": 32, \"heads\": 4, \"ffn\": 56%s}",
        more);
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    OK(kd_model_create(m, "new", j, "new.yaml", err));
    json_decref(j);
    kd_graph_init((*m)->graph, 1);
    int64_t list[] = {first, second};
    const kd_init init = {.folder = GOLDEN "bert", .layers = {.v = list, .n = second < 0 ? first >= 0 : 2}};
    return kd_model_init_from(*m, &init, e);
}

static const float *weights(const kd_model *m, const char *name)
{
    const kd_param *p;
    const size_t n = kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(p[i].name, name)) return kd_graph_param_data(m->graph, &p[i]);
    fail_msg("no parameter %s", name);
    return NULL;
}

static void a_model_begins_with_chosen_layers_of_another(void **state)
{
    (void)state;
    kd_model *old, *m;
    kd_err e = {0};
    OK(kd_model_load(&old, GOLDEN "bert", err));
    assert_int_equal(begun_from(&m, ", \"layers\": 1, \"output\": 5", 1, -1, &e), KD_OK);
    assert_memory_equal(weights(m, "layer0.up.weight"), weights(old, "layer1.up.weight"), 56 * 32 * 4);
    assert_memory_equal(weights(m, "layer0.bias"), weights(old, "layer1.bias"), 32 * 4);
    assert_memory_equal(weights(m, "embeddings.word_embeddings.weight"),
                        weights(old, "embeddings.word_embeddings.weight"), 61 * 32 * 4);
    assert_memory_equal(weights(m, "embeddings.position_embeddings.weight"),
                        weights(old, "embeddings.position_embeddings.weight"), 30 * 32 * 4);
    kd_model_free(m);
    assert_int_equal(begun_from(&m, ", \"layers\": 2, \"embedding\": 8", 1, 0, &e),
                     KD_OK); // tables of its own
    assert_memory_equal(weights(m, "layer1.key.weight"), weights(old, "layer0.key.weight"), 32 * 32 * 4);
    kd_model_free(m);
    kd_model_free(old);
    static const struct {
        const char *more;
        int64_t first, second;
        const char *say;
    } bad[] = {
        {", \"layers\": 1", 2, -1, "names layer 2, " GOLDEN "bert has 2"},
        {", \"layers\": 1", 0, 1, "has 2 entries, new has 1 layers"},
        {", \"layers\": 3", -1, -1, "nothing that could become layer2.query.weight"},
        {", \"layers\": 1, \"heads\": 8", 0, -1, "model.heads is 4, new has 8"},
        {", \"layers\": 1, \"ffn\": 60", 0, -1, "model.ffn is 56, new has 60"},
        {", \"layers\": 1, \"vocab\": 60", 0, -1, "a vocabulary of 61 tokens, new has 60"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        if (!begun_from(&m, bad[i].more, bad[i].first, bad[i].second, &e) || !strstr(e.msg, bad[i].say))
            fail_msg("%s: '%s' does not say '%s'", bad[i].more, e.msg, bad[i].say);
        kd_model_free(m);
    }
}

/* The weighted mean of a text's words, from the definition; n of them. */
static void mean_of_words(const kd_model *old, const uint64_t *count, const int32_t *id, size_t n,
                          double mean[32])
{
    const float *table = weights(old, "embeddings.word_embeddings.weight");
    double all = 0, sum = 0, middle[32] = {0};
    memset(mean, 0, 32 * sizeof *mean);
    for (int t = 0; t < 61; t++) all += (double)count[t];
    for (int t = 0; t < 61; t++) {
        const double w = 1e-3 / (1e-3 + (double)count[t] / all), share = count[t] ? w * w : 0;
        sum += share;
        for (int i = 0; i < 32; i++) middle[i] += share * (double)table[t * 32 + i];
    }
    for (size_t k = 0; k < n; k++)
        for (int i = 0; i < 32; i++)
            mean[i] += 1e-3 / (1e-3 + (double)count[id[k]] / all) *
                       ((double)table[id[k] * 32 + i] - middle[i] / sum);
}

static double cosine(const double *a, const double *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) ab += a[i] * b[i], aa += a[i] * a[i], bb += b[i] * b[i];
    return ab / sqrt(aa * bb);
}

/* One is as wide as the words, one has narrow tables and layers: both begin as the mean, and the second one
 * keeps the principal part of it. */
static void a_model_begins_as_the_mean_of_anothers_words(void **state)
{
    (void)state;
    static const struct {
        const char *more;
        double tol;
    } as[] = {{", \"layers\": 0, \"width\": 36", 1e-5},
              {", \"layers\": 2, \"embedding\": 34, \"width\": 48", 1e-5},
              {", \"layers\": 1, \"embedding\": 26, \"width\": 40", 0.15}};
    const int32_t id[] = {2, 7, 9, 3, 2, 40, 9, 51, 3, 2, 8, 3};
    const uint64_t offset[] = {0, 4, 9, 12};
    uint64_t count[61] = {0};
    kd_model *old;
    OK(kd_model_load(&old, GOLDEN "bert", err));
    for (int t = 0; t < 61; t++) count[t] = t % 5 ? (uint64_t)(61 - t) * 7 : 0;
    for (size_t c = 0; c < KD_COUNT(as); c++) {
        char text[512];
        kd_model *m;
        kd_exec *ex;
        double got[3][40], want[3][32];
        snprintf(text, sizeof text,
                 "{\"arch\": \"bert\", \"vocab\": 61, \"positions\": 30, \"heads\": 4, \"output\": 40%s}",
                 as[c].more);
        json_t *j = json_loads(text, 0, NULL);
        OK(kd_model_create(&m, "new", j, "new.yaml", err));
        kd_graph_init(m->graph, 1);
        OK(kd_model_init_from(m, &(kd_init){.folder = GOLDEN "bert", .tables = "words", .count = count},
                              err));
        OK(kd_exec_create(&ex, m->graph, &(kd_exec_params){.batch = 12, .sequences = 3, .threads = 1}, err));
        OK(kd_model_feed_tokens(m, ex, id, KD_I32, offset, 3, err));
        kd_exec_run_forward(ex);
        for (size_t i = 0; i < 3; i++) {
            for (size_t k = 0; k < 40; k++) got[i][k] = (double)kd_exec_value(ex, m->logits)[i * 40 + k];
            mean_of_words(old, count, id + offset[i], (size_t)(offset[i + 1] - offset[i]), want[i]);
        }
        for (size_t a = 0; a < 3; a++)
            for (size_t b = 0; b < a; b++)
                assert_float_equal(cosine(got[a], got[b], 40), cosine(want[a], want[b], 32), as[c].tol);
        json_decref(j);
        kd_exec_free(ex);
        kd_model_free(m);
    }
    kd_model_free(old);
}

/* Copies the golden folder `name` and puts text in place of `from` in one of its files. */
static void edited(const char *name, const char *file, const char *from, const char *to)
{
    static const char *const files[] = {"config.json",         "model.safetensors",
                                        "modules.json",        "1_Pooling/config.json",
                                        "2_Dense/config.json", "2_Dense/model.safetensors"};
    char in[128], out[160];
    assert_int_equal(kd_remove_tree(folder, NULL), KD_OK);
    snprintf(out, sizeof out, "%s/1_Pooling", folder);
    assert_int_equal(kd_mkdirs(out, NULL), KD_OK);
    snprintf(out, sizeof out, "%s/2_Dense", folder);
    assert_int_equal(kd_mkdirs(out, NULL), KD_OK);
    for (size_t i = 0; i < KD_COUNT(files); i++) {
        char *text;
        size_t len;
        snprintf(in, sizeof in, GOLDEN "%s/%s", name, files[i]);
        snprintf(out, sizeof out, "%s/%s", folder, files[i]);
        if (!kd_exists(in)) continue;
        OK(kd_file_read(in, 1 << 20, &text, &len, err));
        FILE *f = fopen(out, "w");
        assert_non_null(f);
        char *at = strcmp(file, files[i]) ? NULL : strstr(text, from);
        if (!strcmp(file, files[i]) && !at) fail_msg("%s has no %s", in, from);
        const size_t before = at ? (size_t)(at - text) : len;
        fwrite(text, 1, before, f);
        if (at) {
            fputs(to, f);
            fwrite(at + strlen(from), 1, len - before - strlen(from), f);
        }
        assert_int_equal(fclose(f), 0);
        free(text);
    }
}

static void folders_that_say_something_else_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *file, *from, *to;
        kd_status st;
        const char *say;
    } bad[] = {
        {"bert", "config.json", "\"gelu\"", "\"relu\"", KD_EUNSUPPORTED, "hidden_act is relu"},
        {"bert", "config.json", "\"absolute\"", "\"relative_key\"", KD_EUNSUPPORTED, "relative_key"},
        {"bert", "config.json", "\"hidden_size\": 32", "\"hidden_size\": -1", KD_ECORRUPT, "hidden_size"},
        {"bert", "config.json", "\"hidden_size\": 32", "\"hidden_size\": 30", KD_ECORRUPT, "heads"},
        {"bert", "config.json", "\"hidden_size\": 32", "\"hidden_size\": 36", KD_EMISMATCH, "is 61 x 32"},
        {"bert", "config.json", "\"hidden_size\": 32", "\"hidden_size\": \"32\"", KD_ECORRUPT, "hidden_size"},
        {"bert", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", KD_EMISMATCH,
         "encoder.layer.2"},
        {"bert", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", KD_EMISMATCH,
         "encoder.layer.1"},
        {"bert", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4000000000", KD_ECORRUPT,
         "num_hidden_layers"},
        {"bert", "config.json", "\"vocab_size\": 61", "\"vocab_size\": 60", KD_EMISMATCH, "is 61 x 32"},
        {"bert", "config.json", "\"vocab_size\": 61", "\"vocab_size\": 0", KD_ECORRUPT, "vocab_size"},
        {"bert", "config.json", "1e-12", "7.5", KD_ECORRUPT, "layer_norm_eps"},
        {"bert", "config.json", "\"model_type\": \"bert\"", "\"model_type\": \"roberta\"", KD_EMISMATCH,
         "roberta"},
        {"bert", "modules.json", "pooling.Pooling", "pooling.Weighted", KD_EUNSUPPORTED, "Weighted"},
        {"bert", "modules.json", "\"1_Pooling\"", "\"../1_Pooling\"", KD_ECORRUPT, "leads out of the folder"},
        {"bert", "modules.json", "[", "{\"a\": [", KD_ECORRUPT, "modules.json"},
        {"bert", "1_Pooling/config.json", "\"mean\"", "\"weightedmean\"", KD_EUNSUPPORTED,
         "neither mean nor cls"},
        {"electra", "config.json", "\"embedding_size\": 12", "\"embedding_size\": 13", KD_EMISMATCH,
         "is 61 x 12"},
        {"electra", "2_Dense/config.json", "Identity", "Tanh", KD_EUNSUPPORTED, "activation_function"},
        {"electra", "2_Dense/config.json", "\"bias\": true", "\"bias\": false", KD_EUNSUPPORTED,
         "without one"},
        {"electra", "2_Dense/config.json", "\"in_features\": 32", "\"in_features\": 31", KD_EUNSUPPORTED,
         "of 31"},
        {"electra", "2_Dense/config.json", "\"out_features\": 10", "\"out_features\": 11", KD_EMISMATCH,
         "linear.weight"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        kd_model *m;
        kd_err err = {0};
        edited(bad[i].name, bad[i].file, bad[i].from, bad[i].to);
        const kd_status st = kd_model_load(&m, folder, &err);
        if (st != bad[i].st || m || !strstr(err.msg, bad[i].say) || strchr(err.msg, '\n'))
            fail_msg("%s for %s: status %s, '%s' does not say '%s'", bad[i].to, bad[i].from, kd_strstatus(st),
                     err.msg, bad[i].say);
    }
}

static void ids_outside_the_vocabulary_are_refused(void **state)
{
    (void)state;
    kd_model *m;
    kd_exec *ex;
    kd_err e = {0};
    const kd_exec_params how = {.batch = 16, .threads = 1};
    OK(small_model(&m, "", err));
    OK(kd_exec_create(&ex, m->graph, &how, err));
    const uint64_t offset[] = {0, 2, 5};
    OK(kd_model_feed_tokens(m, ex, (uint16_t[]){0, 1, 19, 3, 4}, KD_U16, offset, 2, err));
    assert_int_equal(kd_model_feed_tokens(m, ex, (uint16_t[]){0, 1, 2, 20, 4}, KD_U16, offset, 2, &e),
                     KD_ECORRUPT);
    assert_non_null(strstr(e.msg, "row 1, token 1: id 20, the vocabulary has 20"));
    assert_int_equal(kd_model_feed_tokens(m, ex, (int32_t[]){0, -1, 2, 3, 4}, KD_I32, offset, 2, &e),
                     KD_ECORRUPT);
    assert_non_null(strstr(e.msg, "row 0, token 1: id -1"));
    assert_int_equal(kd_model_feed_tokens(m, ex, offset, KD_F32, offset, 2, &e), KD_EUNSUPPORTED);
    assert_int_equal(kd_model_feed_tokens(m, ex, (uint16_t[9]){0}, KD_U16, (uint64_t[]){0, 9}, 1, &e),
                     KD_EUSAGE);
    assert_non_null(strstr(e.msg, "8 positions"));
    kd_exec_free(ex);
    kd_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_each_encoder_equals_pytorch),
        cmocka_unit_test(the_twins_equal_pytorch),
        cmocka_unit_test(hidden_states_can_be_kept),
        cmocka_unit_test_setup_teardown(what_was_written_is_the_same_model, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_model_of_classes_keeps_them_and_their_names, make_folder,
                                        remove_folder),
        cmocka_unit_test(specs_that_make_no_sense_are_refused),
        cmocka_unit_test(a_model_begins_as_the_mean_of_anothers_words),
        cmocka_unit_test_setup_teardown(folders_that_say_something_else_are_refused, make_folder,
                                        remove_folder),
        cmocka_unit_test(a_model_begins_with_chosen_layers_of_another),
        cmocka_unit_test(ids_outside_the_vocabulary_are_refused),
    };
    return cmocka_run_group_tests_name("encoder", tests, NULL, NULL);
}
