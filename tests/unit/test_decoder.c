/* test_decoder.c - decoders in folders that transformers wrote and in a GGUF file: what they compute against
 * PyTorch, forward and every gradient (tests/golden/make_decoders.py); the bits of a step; folders that kd
 * writes; files that it must refuse.
 *
 * Differences are measured relative to the largest element of each tensor. */
#include "../../lib/model/model_private.h"
#include "decoder_fixture.h"
#include "kd/gguf.h"

#include <math.h>
#include <stdlib.h>

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-decoder-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* ---- numbers ------------------------------------------------------------------------------ */

static void step_equals_pytorch(const char *name, bool naive)
{
    golden g;
    open_golden(&g, name, name);
    const kd_exec_params how = {
        .batch = 80, .sequences = 9, .threads = naive ? 1 : 2, .training = true, .naive = naive};
    kd_exec *ex = fed(&g, &how);
    step(ex, &g, how.threads);
    near_all(&g, "logits", kd_exec_value(ex, g.m->logits), tensor(&g, "logits"), 1e-5);
    const kd_param *p;
    const size_t n = kd_graph_params(g.m->graph, &p);
    for (size_t i = 0; i < n; i++) {
        kd__node_name b, full;
        near_all(&g, p[i].name, kd_exec_grads(ex) + p[i].offset,
                 tensor(&g, kd__name(&full, "grad.%s", kd__llama_name(&b, p[i].name))), 2e-5);
    }
    kd_exec_free(ex);
    close_golden(&g);
}

static void a_step_of_each_decoder_equals_pytorch(void **state)
{
    (void)state;
    step_equals_pytorch("llama", false);
    step_equals_pytorch("llama-untied", false);
}

/* Bytes of a training step of 256 tokens, gradients of weights left out. */
static size_t kept_by(int layers)
{
    kd_model *m;
    kd_exec *ex;
    size_t floats;
    json_t *spec =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "arch", "llama", "vocab", 32, "positions", 256,
                  "layers", layers, "width", 64, "heads", 2, "kv_heads", 1, "ffn", 192);
    OK(kd_model_create(&m, "small", spec, "here", err));
    json_decref(spec);
    OK(kd_exec_create(
        &ex, m->graph,
        &(kd_exec_params){.batch = 256, .sequences = 1, .threads = 1, .training = true, .head = m->logits},
        err));
    kd_graph_slab(m->graph, &floats);
    const size_t bytes = kd_exec_bytes(ex) - floats * sizeof(float);
    kd_exec_free(ex);
    kd_model_free(m);
    return bytes;
}

/* Two residuals, q, k, v, what attention gives, and both halves of the gate; of norms and attention a number
 * or two a head. Norms' values and the gate's product are made again. */
static void a_layer_keeps_what_its_products_made_and_no_more(void **state)
{
    (void)state;
    const size_t a_token = (kept_by(6) - kept_by(2)) / 4 / 256 / sizeof(float),
                 products = 2 * 64 + 64 + 2 * 32 + 64 + 2 * 192;
    assert_in_range(a_token, products, products + 16);
}

static void a_head_in_pieces_equals_pytorch(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "llama-untied"};
    for (int k = 0; k < 2; k++) {
        golden g;
        kd_head *h;
        const kd_param *p;
        open_golden(&g, names[k], names[k]);
        kd_exec *ex =
            fed(&g, &(kd_exec_params){
                        .batch = 80, .sequences = 9, .threads = 2, .training = true, .head = g.m->logits});
        OK(kd_head_create(&h, g.m->graph,
                          &(kd_head_params){.head = g.m->logits, .threads = 2, .training = true, .apart = k},
                          err));
        step_in_pieces(ex, h, &g, 2, 0);
        const size_t n = kd_graph_params(g.m->graph, &p);
        for (size_t i = 0; i < n; i++) {
            kd__node_name b, full;
            near_all(&g, p[i].name, kd_exec_grads(ex) + p[i].offset,
                     tensor(&g, kd__name(&full, "grad.%s", kd__llama_name(&b, p[i].name))), 2e-5);
        }
        kd_head_free(h);
        kd_exec_free(ex);
        close_golden(&g);
    }
}

static void the_twins_equal_pytorch(void **state)
{
    (void)state;
    step_equals_pytorch("llama", true);
    step_equals_pytorch("llama-untied", true);
}

static void hidden_states_can_be_kept(void **state)
{
    (void)state;
    golden g;
    open_golden(&g, "llama", "llama");
    const kd_node layer = kd_graph_find(g.m->graph, "layer0");
    const kd_exec_params how = {.batch = 80, .sequences = 9, .threads = 2, .keep = &layer, .nkeep = 1};
    kd_exec *ex = fed(&g, &how);
    kd_exec_run_forward(ex);
    near_all(&g, "hidden states", kd_exec_value(ex, layer), tensor(&g, "hidden"), 1e-5);
    near_all(&g, "logits", kd_exec_value(ex, g.m->logits), tensor(&g, "logits"), 1e-5);
    kd_exec_free(ex);
    close_golden(&g);
}

/* The body as one exec, the head as another in pieces of 7 tokens: the bits of both at once. */
static void a_head_can_be_run_apart_in_pieces(void **state)
{
    (void)state;
    golden g;
    open_golden(&g, "llama", "llama");
    const kd_node norm = kd_graph_find(g.m->graph, "norm");
    const size_t width = kd_graph_node_size(g.m->graph, norm), vocab = (size_t)g.m->spec.vocab;
    const kd_exec_params all = {.batch = 80, .sequences = 9, .threads = 2, .fixed = true},
                         first = {.batch = 80,
                                  .sequences = 9,
                                  .threads = 2,
                                  .keep = &norm,
                                  .nkeep = 1,
                                  .kept_only = true},
                         last = {.batch = 7, .threads = 2, .fixed = true, .given = &norm};
    kd_exec *whole = fed(&g, &all), *body = fed(&g, &first), *head;
    OK(kd_exec_create(&head, g.m->graph, &last, err));
    kd_exec_run_forward(whole);
    kd_exec_run_forward(body);
    const size_t rows = (size_t)kd_exec_rows(body, norm);
    const float *want = kd_exec_value(whole, g.m->logits), *hidden = kd_exec_value(body, norm);
    const uint64_t each[] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (size_t at = 0, n; at < rows; at += n) {
        n = kd_min_size(7, rows - at);
        OK(kd_exec_sequences(head, each, (int64_t)n, err));
        kd_exec_borrow(head, norm, hidden + at * width);
        kd_exec_run_forward(head);
        assert_memory_equal(kd_exec_value(head, g.m->logits), want + at * vocab, n * vocab * sizeof *want);
    }
    assert_true(kd_exec_bytes(head) < kd_exec_bytes(body));
    kd_exec_free(whole);
    kd_exec_free(body);
    kd_exec_free(head);
    close_golden(&g);
}

static void a_gguf_file_computes_what_pytorch_computes_with_its_weights(void **state)
{
    (void)state;
    golden g;
    open_golden(&g, "llama", "llama.gguf");
    assert_string_equal(g.m->name, "small");
    assert_int_equal(g.m->spec.kv_heads, 2);
    assert_true(g.m->spec.tied);
    kd_exec *ex = fed(&g, &(kd_exec_params){.batch = 80, .sequences = 4, .threads = 2, .fixed = true});
    kd_exec_run_forward(ex);
    near_all(&g, "logits", kd_exec_value(ex, g.m->logits), tensor(&g, "GGUF.logits"), 1e-5);
    kd_exec_free(ex);
    close_golden(&g);
}

static void the_bits_of_a_step_do_not_depend_on_threads(void **state)
{
    (void)state;
    golden g;
    size_t floats;
    open_golden(&g, "llama", "llama");
    kd_graph_slab(g.m->graph, &floats);
    float *want = malloc(floats * sizeof *want);
    static const int threads[] = {1, 2, 3, 8};
    for (size_t k = 0; k < KD_COUNT(threads); k++) {
        kd_exec *ex = fed(&g, &(kd_exec_params){.batch = 80,
                                                .sequences = 4 + (int64_t)k,
                                                .threads = threads[k],
                                                .training = true});
        step(ex, &g, threads[k]);
        if (!k) memcpy(want, kd_exec_grads(ex), floats * sizeof *want);
        if (memcmp(want, kd_exec_grads(ex), floats * sizeof *want))
            fail_msg("other bits on %d threads", threads[k]);
        kd_exec_free(ex);
    }
    free(want);
    close_golden(&g);
}

/* ---- sequences that grow ------------------------------------------------------------------ */

static void a_sequence_that_grows_has_the_bits_of_one_pass(void **state)
{
    (void)state;
    golden g;
    open_golden(&g, "llama", "llama");
    const size_t vocab = (size_t)g.m->spec.vocab;
    kd_exec *ex = fed(&g, &(kd_exec_params){.batch = 80, .sequences = 4, .threads = 2});
    kd_exec_run_forward(ex);
    const float *want = kd_exec_value(ex, g.m->logits) + 5 * vocab; // of the second sequence, 40 tokens
    const int32_t *ids = (const int32_t *)tensor(&g, "ids")->data + 5;
    static const int64_t steps[] = {7, 1, 1, 20, 1, 10};
    kd_exec *cached;
    OK(kd_exec_create(
        &cached, g.m->graph,
        &(kd_exec_params){.batch = 32, .sequences = 1, .cache = 50, .threads = 2, .fixed = true}, err));
    for (int again = 0; again < 2; again++)
        for (int64_t i = 0, past = 0; i < (int64_t)KD_COUNT(steps); past += steps[i++]) {
            OK(kd_exec_resume(cached, &(kd_exec_part){.past = past, .n = steps[i]}, 1, err));
            memcpy(kd_exec_tokens(cached, g.m->input), ids + past, (size_t)steps[i] * sizeof *ids);
            kd_exec_run_forward(cached);
            if (memcmp(kd_exec_value(cached, g.m->logits), want + (size_t)past * vocab,
                       (size_t)steps[i] * vocab * sizeof *want))
                fail_msg("other bits behind token %lld", (long long)past);
        }
    FAILS(kd_exec_resume(cached, &(kd_exec_part){.past = 41, .n = 1}, 1, err), KD_EUSAGE,
          "sequence 0 goes on behind token 41, 40 of it were seen");
    FAILS(kd_exec_resume(cached, &(kd_exec_part){.past = 40, .n = 11}, 1, err), KD_EUSAGE,
          "sequence 0 of 51 tokens, 11 in the batch; there is room for 50");
    FAILS(kd_exec_resume(cached, &(kd_exec_part){.n = 33}, 1, err), KD_EUSAGE, "and 32");
    FAILS(kd_exec_resume(cached, &(kd_exec_part){.sequence = 1, .n = 3}, 1, err), KD_EUSAGE,
          "sequence 1 of a batch, expected one of 0 to 0");
    FAILS(kd_exec_resume(cached, NULL, 0, err), KD_EUSAGE, "no sequences");
    FAILS(kd_exec_resume(ex, &(kd_exec_part){.past = 1, .n = 1}, 1, err), KD_EUSAGE, "0 of it were seen");
    kd_exec_free(cached);
    kd_exec_free(ex);
    close_golden(&g);
}

/* The sequences of the golden batch, each from its beginning in steps of its own, some of them in every pass.
 */
static void sequences_that_grow_side_by_side_do_not_see_each_other(void **state)
{
    (void)state;
    enum { N = 4, MOST = 40 };
    golden g;
    open_golden(&g, "llama", "llama");
    const size_t vocab = (size_t)g.m->spec.vocab;
    kd_exec *ex = fed(&g, &(kd_exec_params){.batch = 80, .sequences = N, .threads = 2}), *cached;
    const kd_exec_params how = {.batch = 80, .sequences = N, .cache = MOST, .threads = 2, .fixed = true};
    const int32_t *ids = tensor(&g, "ids")->data, *length = tensor(&g, "lengths")->data;
    int64_t first[N] = {0}, done[N] = {0};
    for (int64_t i = 1; i < N; i++) first[i] = first[i - 1] + length[i - 1];
    kd_exec_run_forward(ex);
    const float *want = kd_exec_value(ex, g.m->logits);
    OK(kd_exec_create(&cached, g.m->graph, &how, err));
    for (int pass = 0, left = 80; left; pass++) {
        kd_exec_part part[N];
        int64_t parts = 0, at = 0;
        for (int64_t i = 0; i < N; i++) {
            const int64_t n =
                (int64_t)kd_min_size((size_t)(1 + (pass + i) % 3 * i), (size_t)(length[i] - done[i]));
            if (!n || (pass + i) % 4 == 0) continue;
            part[parts++] = (kd_exec_part){.sequence = i, .past = done[i], .n = n};
        }
        if (!parts) continue;
        OK(kd_exec_resume(cached, part, parts, err));
        int32_t *to = kd_exec_tokens(cached, g.m->input);
        for (int64_t k = 0; k < parts; at += part[k++].n)
            memcpy(to + at, ids + first[part[k].sequence] + part[k].past, (size_t)part[k].n * sizeof *to);
        kd_exec_run_forward(cached);
        at = 0;
        for (int64_t k = 0; k < parts; at += part[k++].n) {
            const int64_t i = part[k].sequence;
            assert_memory_equal(kd_exec_value(cached, g.m->logits) + (size_t)at * vocab,
                                want + (size_t)(first[i] + done[i]) * vocab,
                                (size_t)part[k].n * vocab * sizeof *want);
            done[i] += part[k].n;
            left -= (int)part[k].n;
        }
    }
    FAILS(kd_exec_resume(cached, (kd_exec_part[]){{.sequence = 2, .n = 1}, {.sequence = 2, .n = 1}}, 2, err),
          KD_EUSAGE, "sequence 2 of a batch, expected one of 3 to 3");
    kd_exec_free(cached);
    kd_exec_free(ex);
    close_golden(&g);
}

static void a_generator_scores_and_draws_what_the_logits_say(void **state)
{
    (void)state;
    golden g;
    kd_generator *gen;
    const float *logits;
    uint32_t ids[40], drawn[20];
    double nll[39];
    open_golden(&g, "llama", "llama");
    const size_t vocab = (size_t)g.m->spec.vocab;
    const float *want = (const float *)tensor(&g, "logits")->data + 5 * vocab;
    for (int i = 0; i < 40; i++) ids[i] = (uint32_t)((const int32_t *)tensor(&g, "ids")->data)[5 + i];
    OK(kd_generator_open(&gen, g.m, 0, 2, err));
    OK(kd_generator_score(gen, ids, 40, nll, err));
    for (size_t i = 0; i < 39; i++) {
        double sum = 0;
        for (size_t k = 0; k < vocab; k++) sum += exp((double)want[i * vocab + k]);
        const double p = log(sum) - (double)want[i * vocab + ids[i + 1]];
        if (!(fabs(nll[i] - p) < 1e-4)) fail_msg("token %zu: -log p is %.7g, want %.7g", i + 1, nll[i], p);
    }
    OK(kd_generator_feed(gen, 40, (uint32_t[]){3}, 1, &logits, err));
    const kd_sampling greedy = {.top_p = 1}, narrow = {.temperature = 1, .top_p = 1e-6},
                      wide = {.temperature = 1, .top_p = 1, .seed = 4};
    const uint32_t best = kd_generator_draw(gen, &greedy);
    for (size_t k = 0; k < vocab; k++) assert_true(logits[k] <= logits[best]);
    assert_int_equal(kd_generator_draw(gen, &narrow), best);
    for (int round = 0; round < 2; round++) { // the same seed, the same answer; going back forgets
        uint32_t next = 3;
        for (size_t i = 0; i < 20; i++) {
            OK(kd_generator_feed(gen, 10 + i, &next, 1, NULL, err));
            next = kd_generator_draw(gen, &wide);
            if (round) assert_int_equal(drawn[i], next);
            drawn[i] = next;
        }
    }
    double share = 0, sum = 0; // how often the likeliest token is drawn, by many seeds
    OK(kd_generator_feed(gen, 0, ids, 40, &logits, err));
    const uint32_t top = kd_generator_draw(gen, &greedy);
    for (uint64_t seed = 0; seed < 4000; seed++)
        share += kd_generator_draw(gen, &(kd_sampling){.temperature = 2, .top_p = 1, .seed = seed}) == top;
    for (size_t k = 0; k < vocab; k++) sum += exp((double)(logits[k] - logits[top]) / 2);
    if (!(fabs(share / 4000 - 1 / sum) < 4 * sqrt(1 / sum / 4000)))
        fail_msg("the likeliest token was drawn %.4f of the time, its share is %.4f", share / 4000, 1 / sum);
    FAILS(kd_generator_feed(gen, 60, ids, 5, NULL, err), KD_EUSAGE, "were seen");
    FAILS(kd_generator_feed(gen, 40, ids, 30, NULL, err), KD_ELIMIT, "70 tokens, there is room for 64");
    FAILS(kd_generator_feed(gen, 0, (uint32_t[]){61}, 1, NULL, err), KD_EMISMATCH,
          "token 0 is 61, the vocabulary has 61");
    kd_generator_close(gen);
    close_golden(&g);
}

/* ---- folders ------------------------------------------------------------------------------ */

static void what_was_written_is_the_same_model(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "llama-untied"};
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
        kd_model_free(again);
        close_golden(&g);
        assert_int_equal(kd_remove_tree(folder, NULL), KD_OK);
        assert_int_equal(kd_mkdirs(folder, NULL), KD_OK);
    }
}

static void a_smaller_model_begins_with_layers_of_a_larger_one(void **state)
{
    (void)state;
    kd_model *m;
    golden g;
    const kd_param *p;
    int64_t second[] = {1};
    const kd_init init = {.folder = (char *)(uintptr_t)GOLDEN "llama", .layers = {.v = second, .n = 1}};
    json_t *spec = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f}", "arch", "llama", "vocab",
                             61, "positions", 32, "layers", 1, "width", 32, "heads", 4, "kv_heads", 2, "ffn",
                             64, "eps", 1e-5, "rope_base", 500.0);
    open_golden(&g, "llama", "llama");
    OK(kd_model_create(&m, "one", spec, "student.yaml", err));
    OK(kd_model_init_from(m, &init, err));
    const size_t n = kd_graph_params(m->graph, &p);
    for (size_t i = 0; i < n; i++) {
        kd__node_name b;
        const bool inside = !strncmp(p[i].name, "layer0.", 7);
        const kd_param *q =
            kd__find_param(g.m, inside ? kd__name(&b, "layer1.%s", p[i].name + 7) : p[i].name);
        assert_non_null(q);
        assert_memory_equal(kd_graph_param_data(m->graph, &p[i]), kd_graph_param_data(g.m->graph, q),
                            p[i].size * sizeof(float));
    }
    kd_model_free(m);
    close_golden(&g);
    json_decref(spec);
}

/* ---- what is refused ------------------------------------------------------------------------ */

/* llama/config.json with one member changed, beside its weights. */
static void folder_is_refused(const char *key, json_t *value, kd_status status, const char *text)
{
    char path[96];
    char *weights;
    size_t len;
    json_t *j;
    kd_model *m;
    OK(kd_json_load(GOLDEN "llama/config.json", 1 << 20, &j, err));
    json_object_set_new(j, key, value);
    snprintf(path, sizeof path, "%s/config.json", folder);
    OK(kd_json_save(path, j, err));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    OK(kd_file_read(GOLDEN "llama/model.safetensors", 1 << 20, &weights, &len, err));
    OK(kd_file_write(path, weights, len, err));
    FAILS(kd_model_load(&m, folder, err), status, text);
    free(weights);
    json_decref(j);
}

static void folders_of_other_models_are_refused_by_name(void **state)
{
    (void)state;
    folder_is_refused("hidden_act", json_string("gelu"), KD_EUNSUPPORTED, "hidden_act is not silu");
    folder_is_refused("attention_bias", json_true(), KD_EUNSUPPORTED, "attention_bias is given");
    folder_is_refused("rope_scaling", json_pack("{s:s}", "rope_type", "llama3"), KD_EUNSUPPORTED,
                      "rope_scaling is given");
    folder_is_refused("rope_parameters", json_pack("{s:s}", "rope_type", "yarn"), KD_EUNSUPPORTED,
                      "rope_type is yarn");
    folder_is_refused("head_dim", json_integer(16), KD_EUNSUPPORTED, "head_dim is 16");
    folder_is_refused("num_attention_heads", json_integer(5), KD_EUNSUPPORTED, "head_dim is 8, 5 heads");
    folder_is_refused("num_key_value_heads", json_integer(3), KD_ECORRUPT,
                      "does not divide by model.kv_heads 3");
    folder_is_refused("num_key_value_heads", json_integer(4), KD_EMISMATCH,
                      "self_attn.k_proj.weight is 16 x 32");
    folder_is_refused("rms_norm_eps", json_real(2), KD_ECORRUPT, "rms_norm_eps is 2");
    folder_is_refused("tie_word_embeddings", json_false(), KD_EMISMATCH, "lm_head.weight is missing");
    folder_is_refused("num_hidden_layers", json_integer(1), KD_EMISMATCH, "is left over");
    folder_is_refused("hidden_size", json_integer(0), KD_ECORRUPT, "hidden_size");
    folder_is_refused("model_type", json_string("mistral"), KD_EMISMATCH, "model_type is 'mistral'");
}

/* A GGUF file of a header alone. */
static void gguf_is_refused(const char *arch, const char *key, uint32_t v, kd_status status, const char *text)
{
    char path[96];
    kd_gguf_writer w = {0};
    kd_newfile *f;
    kd_model *m;
    float table[64] = {0};
    snprintf(path, sizeof path, "%s/bad.gguf", folder);
    kd_gguf_put_str(&w, "general.architecture", arch);
    static const char *const sizes[] = {"llama.embedding_length", "llama.block_count",
                                        "llama.attention.head_count", "llama.feed_forward_length",
                                        "llama.context_length"};
    static const uint32_t usual[] = {8, 1, 2, 16, 32};
    for (size_t i = 0; i < KD_COUNT(sizes); i++)
        if (!key || strcmp(key, sizes[i])) kd_gguf_put_u32(&w, sizes[i], usual[i]);
    kd_gguf_put_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (key && v != UINT32_MAX) kd_gguf_put_u32(&w, key, v);
    kd_gguf_put_tensor(&w, "token_embd.weight", KD_GGUF_F32, 2, (int64_t[]){8, 8});
    OK(kd_newfile_open(&f, path, err));
    OK(kd_gguf_put_head(&w, kd_newfile_stream(f), err));
    kd_gguf_put_numbers(kd_newfile_stream(f), KD_GGUF_F32, table, 64);
    OK(kd_newfile_commit(f, err));
    kd_gguf_writer_release(&w);
    FAILS(kd_model_load(&m, path, err), status, text);
}

static void gguf_files_of_other_models_are_refused_by_name(void **state)
{
    (void)state;
    kd_model *m;
    gguf_is_refused("qwen2", NULL, 0, KD_EUNSUPPORTED, "its architecture is 'qwen2'");
    gguf_is_refused("llama", NULL, 0, KD_EMISMATCH, "tensor blk.0.attn_norm.weight is missing");
    gguf_is_refused("llama", "llama.block_count", UINT32_MAX, KD_ECORRUPT,
                    "key llama.block_count is missing");
    gguf_is_refused("llama", "llama.block_count", 5000, KD_ECORRUPT,
                    "llama.block_count is 5000, expected 1 to 1000");
    gguf_is_refused("llama", "llama.attention.head_count", 3, KD_ECORRUPT,
                    "does not divide into model.heads 3");
    gguf_is_refused("llama", "llama.expert_count", 8, KD_EUNSUPPORTED, "has 8 experts a layer");
    gguf_is_refused("llama", "llama.rope.dimension_count", 2, KD_EUNSUPPORTED, "2 of a head's 4 numbers");
    FAILS(kd_model_load(&m, GOLDEN "bpe.gguf", err), KD_ECORRUPT, "key llama.embedding_length is missing");
    FAILS(kd_model_load(&m, GOLDEN "none.gguf", err), KD_ENOTFOUND, "none.gguf: cannot open");
}

static void specs_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"\"heads\": 4, \"kv_heads\": 3", "model.heads 4 does not divide by model.kv_heads 3"},
        {"\"heads\": 12", "rotary positions need an even number"},
        {"\"heads\": 2, \"classes\": 3", "model.classes is for bert"},
        {"\"heads\": 2, \"output\": 3", "model.output is for bert"},
    };
    for (size_t i = 0; i < KD_COUNT(bad); i++) {
        char text[200];
        kd_model *m;
        snprintf(text, sizeof text, "{\"arch\": \"llama\", \"vocab\": 9, \"width\": 12, %s}", bad[i][0]);
        json_t *j = json_loads(text, 0, NULL);
        FAILS(kd_model_create(&m, "m", j, "a.yaml", err), KD_EUSAGE, bad[i][1]);
        json_decref(j);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_each_decoder_equals_pytorch),
        cmocka_unit_test(a_layer_keeps_what_its_products_made_and_no_more),
        cmocka_unit_test(a_head_in_pieces_equals_pytorch),
        cmocka_unit_test(the_twins_equal_pytorch),
        cmocka_unit_test(hidden_states_can_be_kept),
        cmocka_unit_test(a_head_can_be_run_apart_in_pieces),
        cmocka_unit_test(a_gguf_file_computes_what_pytorch_computes_with_its_weights),
        cmocka_unit_test(the_bits_of_a_step_do_not_depend_on_threads),
        cmocka_unit_test(a_sequence_that_grows_has_the_bits_of_one_pass),
        cmocka_unit_test(sequences_that_grow_side_by_side_do_not_see_each_other),
        cmocka_unit_test(a_generator_scores_and_draws_what_the_logits_say),
        cmocka_unit_test(what_was_written_is_the_same_model),
        cmocka_unit_test(a_smaller_model_begins_with_layers_of_a_larger_one),
        cmocka_unit_test(folders_of_other_models_are_refused_by_name),
        cmocka_unit_test(gguf_files_of_other_models_are_refused_by_name),
        cmocka_unit_test(specs_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
