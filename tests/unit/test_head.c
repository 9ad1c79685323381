/* test_head.c - the head of a language model, a piece of rows at a time: the gradients of the whole graph, in
 * any form of operands; the same bits on any number of threads; memory that does not grow with the rows. That
 * whole steps equal PyTorch's is in test_decoder.c. */
#include "../../lib/nn/nn_private.h"
#include "decoder_fixture.h"

#include <stdlib.h>

/* One step of the whole graph, then in pieces, with operands of a form; rows before `from` have no gradient.
 * half: the head has 16 bits where it can, and works in the exec's memory. */
static void pieces_equal_the_whole(kd__operands form, bool half, uint32_t from)
{
    golden g;
    kd_head *h;
    size_t floats;
    open_golden(&g, "llama", "llama");
    g.m->graph->operands = form;
    const kd_precision precision = form ? KD_PRECISION_BF16 : KD_PRECISION_F32;
    kd_exec_params how = {
        .batch = 80, .sequences = 9, .threads = 2, .training = true, .precision = precision};
    kd_exec *whole = fed(&g, &how);
    memset((float *)(uintptr_t)tensor(&g, "dy")->data, 0, from * (size_t)g.m->spec.vocab * sizeof(float));
    step(whole, &g, 2);
    OK(kd_head_create(&h, g.m->graph,
                      &(kd_head_params){.head = g.m->logits,
                                        .threads = 2,
                                        .training = true,
                                        .half = half,
                                        .planned = half,
                                        .precision = precision},
                      err));
    how.head = g.m->logits;
    how.with = half ? h : NULL;
    kd_exec *ex = fed(&g, &how);
    assert_int_equal(kd_head_half(h) != NULL, half && (form == KD__ROUNDED || form == KD__BF16));
    step_in_pieces(ex, h, &g, 2, from);
    kd_graph_slab(g.m->graph, &floats);
    near_all(&g, "gradients", kd_exec_grads(ex),
             &(kd_tensor){.data = kd_exec_grads(whole), .bytes = floats * sizeof(float)}, form ? 2e-3 : 1e-5);
    kd_head_free(h);
    kd_exec_free(ex);
    kd_exec_free(whole);
    close_golden(&g);
}

static void a_head_asks_for_some_rows_and_in_any_form_of_operands(void **state)
{
    (void)state;
    pieces_equal_the_whole(KD__F32, false, 46);
    pieces_equal_the_whole(KD__F32, true, 80); // nothing to learn: all gradients are 0
    if (kd_nn_check_precision(KD_PRECISION_BF16, NULL)) return;
    for (int half = 0; half < 2; half++)
        for (kd__operands form = KD__ROUNDED; form <= KD__TILES; form++)
            for (uint32_t from = 0; from < 8; from += 7)
                if ((half && form != KD__TILES) || from) pieces_equal_the_whole(form, half, from);
}

static void only_the_last_layer_of_a_language_model_can_be_its_head(void **state)
{
    (void)state;
    golden g;
    kd_exec *ex;
    kd_head *h;
    open_golden(&g, "llama", "llama");
    const kd_node inner = kd_graph_find(g.m->graph, "layer0.query");
    FAILS(kd_exec_create(&ex, g.m->graph, &(kd_exec_params){.batch = 8, .threads = 1, .head = inner}, err),
          KD_EUSAGE, "node layer0.query is no head");
    FAILS(kd_head_create(&h, g.m->graph, &(kd_head_params){.head = 1000, .threads = 1}, err), KD_EUSAGE,
          "node that is not there is no head");
    close_golden(&g);
}

static void bits_of_pieces(kd_precision precision)
{
    golden g;
    size_t floats;
    open_golden(&g, "llama", "llama");
    kd_graph_slab(g.m->graph, &floats);
    float *want = malloc(floats * sizeof *want);
    static const int threads[] = {1, 2, 3, 8};
    for (size_t k = 0; k < KD_COUNT(threads); k++) {
        kd_head *h;
        kd_exec *ex = fed(&g, &(kd_exec_params){.batch = 80,
                                                .sequences = 4,
                                                .threads = threads[k],
                                                .training = true,
                                                .precision = precision,
                                                .head = g.m->logits});
        OK(kd_head_create(&h, g.m->graph,
                          &(kd_head_params){.head = g.m->logits,
                                            .threads = threads[k],
                                            .training = true,
                                            .half = true,
                                            .precision = precision},
                          err));
        step_in_pieces(ex, h, &g, threads[k], 0);
        if (!k) memcpy(want, kd_exec_grads(ex), floats * sizeof *want);
        if (memcmp(want, kd_exec_grads(ex), floats * sizeof *want))
            fail_msg("other bits in pieces on %d threads", threads[k]);
        kd_head_free(h);
        kd_exec_free(ex);
    }
    free(want);
    close_golden(&g);
}

static void the_bits_of_a_step_in_pieces_do_not_depend_on_threads(void **state)
{
    (void)state;
    bits_of_pieces(KD_PRECISION_F32);
    if (!kd_nn_check_precision(KD_PRECISION_BF16, NULL)) bits_of_pieces(KD_PRECISION_BF16);
}

static void a_batch_may_come_in_parts(void **state)
{
    (void)state;
    golden g;
    kd_head *h;
    size_t floats;
    open_golden(&g, "llama", "llama");
    assert_true(kd_graph_part(g.m->graph, KD_PRECISION_F32) > 0);
    const kd_exec_params how = {
        .batch = 80, .sequences = 4, .threads = 2, .training = true, .head = g.m->logits};
    kd_exec *ex = fed(&g, &how);
    OK(kd_head_create(&h, g.m->graph, &(kd_head_params){.head = g.m->logits, .threads = 2, .training = true},
                      err));
    float *grads = kd_exec_grads(ex);
    kd_graph_slab(g.m->graph, &floats);
    float *twice = malloc(floats * sizeof *twice);
    step_in_pieces(ex, h, &g, 2, 0);
    for (size_t i = 0; i < floats; i++) twice[i] = 2 * grads[i];
    kd_exec_add(ex, true);
    step_in_pieces(ex, h, &g, 2, 0);
    near_all(&g, "gradients", grads, &(kd_tensor){.data = twice, .bytes = floats * sizeof(float)}, 1e-4);
    kd_exec_add(ex, false);
    step_in_pieces(ex, h, &g, 2, 0);
    for (size_t i = 0; i < floats; i++) twice[i] /= 2;
    near_all(&g, "gradients written anew", grads,
             &(kd_tensor){.data = twice, .bytes = floats * sizeof(float)}, 1e-6);
    free(twice);
    kd_head_free(h);
    kd_exec_free(ex);
    close_golden(&g);
}

static void memory_does_not_grow_by_rows_times_words(void **state)
{
    (void)state;
    enum { WORDS = 20000, TOKENS = 2048 };
    kd_model *m;
    kd_exec *ex;
    kd_head *h;
    json_t *spec = json_pack("{s:s, s:i, s:i, s:i, s:i}", "arch", "llama", "vocab", WORDS, "layers", 1,
                             "width", 16, "heads", 2);
    OK(kd_model_create(&m, "wide", spec, "wide.yaml", err));
    const kd_exec_params how = {
        .batch = TOKENS, .sequences = 8, .threads = 1, .training = true, .head = m->logits};
    OK(kd_exec_create(&ex, m->graph, &how, err));
    OK(kd_head_create(&h, m->graph, &(kd_head_params){.head = m->logits, .threads = 1, .training = true},
                      err));
    const size_t all = (size_t)WORDS * TOKENS * sizeof(float), used = kd_exec_bytes(ex) + kd_head_bytes(h);
    if (used > all / 3) fail_msg("%zu bytes, all logits have %zu", used, all);
    kd_head_free(h);
    kd_exec_free(ex);
    kd_model_free(m);
    json_decref(spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_asks_for_some_rows_and_in_any_form_of_operands),
        cmocka_unit_test(only_the_last_layer_of_a_language_model_can_be_its_head),
        cmocka_unit_test(the_bits_of_a_step_in_pieces_do_not_depend_on_threads),
        cmocka_unit_test(a_batch_may_come_in_parts),
        cmocka_unit_test(memory_does_not_grow_by_rows_times_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
