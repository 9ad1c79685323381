/* test_model.c - specs, parameter names, model folders and fingerprints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kd-model-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return kd_remove_tree(folder, NULL);
}

/* The model of a spec in JSON, quotes written as ' for the reader's sake. */
static kd_status try_model(kd_model **m, const char *spec, kd_err *err)
{
    char text[1024];
    snprintf(text, sizeof text, "%s", spec);
    for (char *c = text; *c; c++)
        if (*c == '\'') *c = '"';
    json_t *j = json_loads(text, 0, NULL);
    if (!j) fail_msg("test's own JSON is wrong: %s", text);
    kd_status st = kd_model_create(m, "a-model", j, "a.yaml", err);
    json_decref(j);
    return st;
}

static kd_model *make_model(const char *spec)
{
    kd_model *m;
    kd_err err = {0};
    if (try_model(&m, spec, &err)) fail_msg("%s: %s", spec, err.msg);
    kd_graph_init(m->graph, 1);
    return m;
}

static const char CNN[] =
    "{'arch': 'cnn', 'input': [8, 8, 1], 'classes': 3, 'channels': [4, 6], 'strides': [1, 2]}";

/* ---- names and shapes --------------------------------------------------------------------------- */

static void parameters_have_pytorchs_names_and_shapes(void **state)
{
    (void)state;
    static const char *const archs[] = {"mlp", "cnn", "cnnflat", "dscnn", "resnet"};
    for (size_t a = 0; a < KD_COUNT(archs); a++) {
        char path[64];
        kd_tensors *t;
        kd_err err = {0};
        snprintf(path, sizeof path, "tests/golden/%s.safetensors", archs[a]);
        if (kd_tensors_open(&t, path, &err)) fail_msg("%s", err.msg);
        kd_model *m = make_model(kd_tensors_metadata(t, "spec"));
        const kd_param *p;
        size_t n = kd_graph_params(m->graph, &p), golden = 0;
        for (size_t i = 0; i < n; i++) {
            char name[128];
            snprintf(name, sizeof name, "param.%s", p[i].name);
            const kd_tensor *x = kd_tensors_find(t, name);
            if (!x) fail_msg("%s: PyTorch's model has no %s", archs[a], p[i].name);
            assert_int_equal(x->ndims, p[i].ndims);
            assert_memory_equal(x->dims, p[i].dims, (size_t)p[i].ndims * sizeof *p[i].dims);
            assert_int_equal(p[i].buffer, strstr(p[i].name, "running_") != NULL);
        }
        for (size_t i = 0; i < kd_tensors_count(t); i++)
            golden += !strncmp(kd_tensors_at(t, i)->name, "param.", 6);
        assert_int_equal(n, golden);
        kd_model_free(m);
        kd_tensors_close(t);
    }
}

static void parameter_counts_are_those_of_the_formulas(void **state)
{
    (void)state;
    static const struct {
        const char *spec;
        size_t params;
    } known[] = {
        {"{'arch': 'mlp', 'input': [28, 28, 1], 'classes': 10, 'hidden': [128]}",
         784 * 128 + 128 + 128 * 10 + 10},
        {"{'arch': 'mlp', 'input': [5], 'classes': 2}", 12},
        {"{'arch': 'cnn', 'input': [28, 28, 1], 'classes': 10, 'channels': [16, 32, 64], 'strides': [1, 2, "
         "2]}",
         9 * 16 + 32 + 9 * 16 * 32 + 64 + 9 * 32 * 64 + 128 + 650},
        {"{'arch': 'cnn', 'input': [8, 8, 3], 'classes': 10, 'channels': [4], 'norm': 'none', 'pools': [2],"
         " 'head': 'flatten'}",
         9 * 3 * 4 + 4 + 4 * 4 * 4 * 10 + 10},
        {"{'arch': 'dscnn', 'input': [28, 28, 1], 'classes': 10, 'channels': [16, 32], 'kernel': 5}",
         25 * 16 + 32 + 25 * 16 + 32 + 16 * 32 + 64 + 330},
        {"{'arch': 'resnet', 'input': [8, 8, 1], 'classes': 2, 'channels': [4, 4], 'blocks': 1}",
         9 * 4 + 8 + 2 * (9 * 16 + 8) + 10}, // no skip convolution: shapes agree
    };
    for (size_t i = 0; i < KD_COUNT(known); i++) {
        kd_model *m = make_model(known[i].spec);
        assert_int_equal(kd_graph_param_count(m->graph), known[i].params);
        assert_int_equal(kd_graph_node_size(m->graph, m->logits), m->spec.classes);
        kd_model_free(m);
    }
}

static void taps_are_found_by_name(void **state)
{
    (void)state;
    kd_model *m = make_model(CNN);
    static const char *const taps[] = {"input", "conv0", "bn0", "relu0", "conv1", "relu1", "gap", "fc0"};
    for (size_t i = 0; i < KD_COUNT(taps); i++) assert_true(kd_graph_find(m->graph, taps[i]) >= 0);
    assert_string_equal(kd_graph_node_name(m->graph, m->logits), "fc0");
    kd_model_free(m);
}

/* ---- refusals ------------------------------------------------------------------------------------- */

static void a_wrong_spec_is_refused_by_its_key(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *part;
    } wrong[] = {
        {"{}", "model.arch is not given"},
        {"{'arch': 'vgg'}", "model.arch"},
        {"{'arch': 'mlp', 'input': [4]}", "model.classes"},
        {"{'arch': 'mlp', 'classes': 2}", "model.input"},
        {"{'arch': 'mlp', 'classes': 2, 'input': [1, 1, 1, 1, 1, 1]}", "model.input has 6 axes"},
        {"{'arch': 'mlp', 'classes': 2, 'input': [65536, 65536]}", "2^30"},
        {"{'arch': 'mlp', 'classes': 2, 'input': [4], 'channels': [4]}",
         "model.channels is for convolutions"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4], 'channels': [4]}", "model.input has 2 axes"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1]}", "model.channels has 0 entries"},
        {"{'arch': 'dscnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4]}", "the stem's"},
        {"{'arch': 'resnet', 'classes': 2, 'input': [4, 4, 1], 'channels': [4]}", "the stem's"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4, 4], 'strides': [1]}",
         "model.strides has 1 entries, model.channels has 2"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4], 'pools': [1, 2]}",
         "model.pools has 2 entries, model.channels has 1"},
        {"{'arch': 'resnet', 'classes': 2, 'input': [4, 4, 1], 'channels': [4, 4], 'pools': [1, 2]}",
         "model.pools is for cnn"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4], 'kernel': 2}",
         "model.kernel is 2"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4], 'norm': null}", "model.norm"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4], 'norm': 'layer'}", "norm"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [0]}", "channels"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channel': [4]}", "channel"},
        {"{'arch': 'cnn', 'classes': 2, 'input': [4, 4, 1], 'channels': [4, 4], 'pools': [4, 4]}", "a.yaml"},
    };
    for (size_t i = 0; i < KD_COUNT(wrong); i++) {
        kd_model *m;
        kd_err err = {0};
        kd_status st = try_model(&m, wrong[i].spec, &err);
        if (!st || m || !strstr(err.msg, wrong[i].part) || !strstr(err.msg, "a.yaml"))
            fail_msg("%s: '%s', expected '%s'", wrong[i].spec, err.msg, wrong[i].part);
    }
}

/* ---- folders --------------------------------------------------------------------------------------- */

static kd_model *saved(const char *spec)
{
    kd_model *m = make_model(spec);
    kd_err err = {0};
    m->mean = 72.94f;
    m->scale = 0.0111f;
    m->labels = json_pack("[s, s, s]", "cat", "dog", "pelican");
    if (kd_model_save(m, folder, NULL, &err)) fail_msg("%s", err.msg);
    return m;
}

static kd_model *loaded(void)
{
    kd_model *m;
    kd_err err = {0};
    if (kd_model_load(&m, folder, &err)) fail_msg("%s", err.msg);
    return m;
}

static void a_saved_model_loads_as_it_was(void **state)
{
    (void)state;
    kd_model *m = make_model(CNN), *x;
    size_t n;
    char a[33], b[33];
    json_t *extra = json_pack("{s:i, s:s}", "seed", 7, "name", "not this");
    kd_err err = {0};
    float *w = kd_graph_slab(m->graph, &n);
    w[0] = 1.0f / 3;
    m->mean = 0.1f;
    m->scale = 1.0f / 255;
    if (kd_model_save(m, folder, extra, &err)) fail_msg("%s", err.msg);
    json_decref(extra);
    x = loaded();
    assert_string_equal(x->name, "a-model");
    assert_true(x->mean == m->mean && x->scale == m->scale && !x->labels);
    assert_memory_equal(kd_graph_slab(x->graph, NULL), w, n * sizeof *w);
    float *run = kd_graph_buffers(m->graph, &n);
    assert_memory_equal(kd_graph_buffers(x->graph, NULL), run, n * sizeof *run);
    kd_model_fingerprint(m, a);
    kd_model_fingerprint(x, b);
    assert_string_equal(a, b);
    assert_int_equal(strlen(a), 32);
    assert_true(kd_model_file_bytes(folder) > n * sizeof *w);
    kd_model_free(x);
    kd_model_free(m);

    char *path = kd_path_join(folder, "config.json");
    json_t *j;
    assert_int_equal(kd_json_load(path, 1 << 20, &j, &err), KD_OK);
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "architectures"), 0)), "cnn");
    assert_string_equal(json_string_value(json_object_get(j, "model_type")), "kd");
    assert_string_equal(json_string_value(json_object_get(j, "name")), "a-model");
    assert_int_equal(json_integer_value(json_object_get(j, "seed")), 7);
    json_decref(j);
    free(path);
}

static void class_names_survive(void **state)
{
    (void)state;
    kd_model *m = saved(CNN), *x = loaded();
    assert_true(json_equal(m->labels, x->labels));
    kd_model_free(m);
    kd_model_free(x);
}

static void the_fingerprint_is_of_what_computes(void **state)
{
    (void)state;
    char a[33], b[33];
    kd_model *m = make_model(CNN);
    kd_model_fingerprint(m, a);
    free(m->name);
    m->name = kd_strdup("another name");
    kd_model_fingerprint(m, b);
    assert_string_equal(a, b);
    kd_graph_slab(m->graph, NULL)[3] += 1e-6f;
    kd_model_fingerprint(m, b);
    assert_string_not_equal(a, b);
    kd_graph_init(m->graph, 1);
    kd_model_fingerprint(m, b);
    assert_string_equal(a, b);
    kd_graph_buffers(m->graph, NULL)[1] += 1; // running statistics count
    kd_model_fingerprint(m, b);
    assert_string_not_equal(a, b);
    kd_graph_init(m->graph, 1);
    m->mean = 1;
    kd_model_fingerprint(m, b);
    assert_string_not_equal(a, b);
    kd_model_free(m);
    // same parameters, other strides: another function
    m = make_model(
        "{'arch': 'cnn', 'input': [8, 8, 1], 'classes': 3, 'channels': [4, 6], 'strides': [2, 1]}");
    kd_model_fingerprint(m, b);
    assert_string_not_equal(a, b);
    kd_model_free(m);
}

static void refuses_to_load(kd_status want, const char *part)
{
    kd_model *m;
    kd_err err = {0};
    kd_status st = kd_model_load(&m, folder, &err);
    if (st != want || m || !strstr(err.msg, part) || !strstr(err.msg, folder))
        fail_msg("status %s: '%s'; expected %s and '%s'", kd_strstatus(st), err.msg, kd_strstatus(want),
                 part);
}

/* Replaces key in config.json by value (stolen; NULL deletes). */
static void edit_config(const char *key, json_t *value)
{
    char *path = kd_path_join(folder, "config.json");
    json_t *j;
    assert_int_equal(kd_json_load(path, 1 << 20, &j, NULL), KD_OK);
    if (value)
        json_object_set_new(j, key, value);
    else
        json_object_del(j, key);
    assert_int_equal(kd_json_save(path, j, NULL), KD_OK);
    json_decref(j);
    free(path);
}

static void a_wrong_config_is_refused(void **state)
{
    (void)state;
    static const char *const keys[] = {"model_type", "name", "model", "preprocess"};
    for (size_t i = 0; i < KD_COUNT(keys); i++) {
        kd_model_free(saved(CNN));
        edit_config(keys[i], NULL);
        refuses_to_load(KD_ECORRUPT, keys[i]);
    }
    kd_model_free(saved(CNN));
    edit_config("model_type", json_string("gpt2"));
    refuses_to_load(KD_EMISMATCH, "'gpt2'");
    kd_model_free(saved(CNN));
    edit_config("preprocess", json_pack("{s:f, s:f}", "mean", 0.0, "scale", 0.0));
    refuses_to_load(KD_ECORRUPT, "scale");
    kd_model_free(saved(CNN));
    edit_config("labels", json_pack("[s]", "cat"));
    refuses_to_load(KD_ECORRUPT, "'labels' is not a list of 3");
    kd_model_free(saved(CNN));
    edit_config("model",
                json_pack("{s:s, s:[i], s:i, s:i}", "arch", "mlp", "input", 4, "classes", 3, "breadth", 1));
    refuses_to_load(KD_ECORRUPT, "breadth");
    edit_config("model", json_pack("{s:s, s:[i]}", "arch", "mlp", "input", 4));
    refuses_to_load(KD_ECORRUPT, "model.classes");
}

static void weights_of_another_model_are_refused(void **state)
{
    (void)state;
    kd_model_free(saved(CNN));
    json_t *spec = json_pack("{s:s, s:[i,i,i], s:i, s:[i,i]}", "arch", "cnn", "input", 8, 8, 1, "classes", 3,
                             "channels", 4, 7);
    edit_config("model", json_incref(spec));
    refuses_to_load(KD_EMISMATCH, "tensor conv1.weight is 6 x 4 x 3 x 3, config.json needs 7 x 4 x 3 x 3");
    json_object_set_new(spec, "channels", json_pack("[i,i,i]", 4, 6, 6));
    edit_config("model", json_incref(spec));
    refuses_to_load(KD_EMISMATCH, "tensor conv2.weight is missing");
    json_object_set_new(spec, "channels", json_pack("[i]", 6)); // another shape in front
    edit_config("model", json_incref(spec));
    refuses_to_load(KD_EMISMATCH, "tensor conv0.weight is 4 x 1 x 3 x 3");
    json_object_set_new(spec, "channels", json_pack("[i,i]", 4, 6));
    json_object_set_new(spec, "norm", json_string("none"));
    edit_config("model", spec);
    refuses_to_load(KD_EMISMATCH, "tensor conv0.bias is missing");
}

static void left_over_tensors_are_refused_but_batch_counts_are_not(void **state)
{
    (void)state;
    static const char spec[] = "{'arch': 'mlp', 'input': [2], 'classes': 3}";
    const float w[6] = {1, 2, 3, 4, 5, 6}, b[3] = {0};
    const uint16_t half[6] = {0x3C00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600};
    const int64_t count[1] = {9};
    kd_tensor list[] = {{"fc0.weight", KD_F32, 2, {3, 2}, w, sizeof w},
                        {"fc0.bias", KD_F32, 1, {3}, b, sizeof b},
                        {"bn.num_batches_tracked", KD_I64, 0, {0}, count, 8},
                        {"fc1.bias", KD_F32, 1, {3}, b, sizeof b}};
    char *path = kd_path_join(folder, "model.safetensors");
    kd_model_free(saved(spec));
    assert_int_equal(kd_tensors_save(path, list, 4, NULL, NULL), KD_OK);
    refuses_to_load(KD_EMISMATCH, "tensor fc1.bias is left over");
    list[0] = (kd_tensor){"fc0.weight", KD_F16, 2, {3, 2}, half, sizeof half}; // halves are widened
    assert_int_equal(kd_tensors_save(path, list, 3, NULL, NULL), KD_OK);
    kd_model *m = loaded();
    assert_memory_equal(kd_graph_slab(m->graph, NULL), w, sizeof w);
    kd_model_free(m);
    const float broken[6] = {1, 2, NAN, 4, 5, 6};
    list[0] = (kd_tensor){"fc0.weight", KD_F32, 2, {3, 2}, broken, sizeof broken};
    assert_int_equal(kd_tensors_save(path, list, 3, NULL, NULL), KD_OK);
    refuses_to_load(KD_ENUMERIC, "tensor fc0.weight: element 2 is nan");
    list[0] = (kd_tensor){"fc0.weight", KD_I32, 2, {3, 2}, w, sizeof w};
    assert_int_equal(kd_tensors_save(path, list, 3, NULL, NULL), KD_OK);
    refuses_to_load(KD_EMISMATCH, "fc0.weight is i32");
    free(path);
}

static void missing_files_are_named(void **state)
{
    (void)state;
    kd_model *m;
    kd_err err = {0};
    char *weights = kd_path_join(folder, "model.safetensors"), *config = kd_path_join(folder, "config.json");
    kd_model_free(saved(CNN));
    assert_int_equal(unlink(weights), 0);
    assert_int_equal(kd_model_file_bytes(folder), 0);
    refuses_to_load(KD_ENOTFOUND, "model.safetensors");
    assert_int_equal(unlink(config), 0);
    refuses_to_load(KD_ENOTFOUND, "config.json");
    assert_int_equal(kd_model_load(&m, "/nonexistent/teacher", &err), KD_ENOTFOUND);
    assert_non_null(strstr(err.msg, "/nonexistent/teacher"));
    m = make_model(CNN);
    assert_int_equal(kd_model_save(m, "/nonexistent/teacher", NULL, &err), KD_ENOTFOUND);
    kd_model_free(m);
    free(weights);
    free(config);
}

/* ---- input --------------------------------------------------------------------------------------- */

static void raw_rows_become_centred_floats(void **state)
{
    (void)state;
    kd_model *m = make_model("{'arch': 'mlp', 'input': [4], 'classes': 2}");
    const uint8_t bytes[8] = {0, 1, 2, 128, 254, 255, 7, 9};
    const int16_t shorts[8] = {0, 1, 2, 128, 254, 255, 7, 9};
    float a[8], b[8];
    kd_err err = {0};
    m->mean = 72.5f;
    m->scale = 0.0078125f;
    assert_int_equal(kd_model_feed(m, a, bytes, KD_U8, 2, &err), KD_OK);
    assert_int_equal(kd_model_feed(m, b, shorts, KD_I16, 2, &err), KD_OK);
    for (int i = 0; i < 8; i++) {
        float want = ((float)bytes[i] - 72.5f) * 0.0078125f;
        assert_true(a[i] == want && b[i] == want);
    }
    assert_int_equal(kd_model_feed(m, b, shorts, KD_DTYPE_NONE, 2, &err), KD_EUNSUPPORTED);
    kd_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_have_pytorchs_names_and_shapes),
        cmocka_unit_test(parameter_counts_are_those_of_the_formulas),
        cmocka_unit_test(taps_are_found_by_name),
        cmocka_unit_test(a_wrong_spec_is_refused_by_its_key),
        cmocka_unit_test(a_saved_model_loads_as_it_was),
        cmocka_unit_test(class_names_survive),
        cmocka_unit_test(the_fingerprint_is_of_what_computes),
        cmocka_unit_test(a_wrong_config_is_refused),
        cmocka_unit_test(weights_of_another_model_are_refused),
        cmocka_unit_test(left_over_tensors_are_refused_but_batch_counts_are_not),
        cmocka_unit_test(missing_files_are_named),
        cmocka_unit_test(raw_rows_become_centred_floats),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
