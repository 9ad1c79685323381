/* What a configuration accepts, what it refuses, and in which words. */
#include "kd/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct opts {
    bool shuffle, plain;
    int64_t epochs, seed;
    double lr, momentum;
    char *schedule, *name, *init;
    kd_ints seeds;
    kd_reals weights;
    kd_strings inputs;
} opts;

static const kd_option rows[] = {
    KD_OPT_STRING("Student", opts, name, "name", "NAME", 'n', NULL, "name of the student"),
    KD_OPT_INT("Training", opts, epochs, "train.epochs", "N", 'e', "10", 1, 100000, "passes over the rows"),
    KD_OPT_INT("Training", opts, seed, "train.seed", "N", 0, "-3", -5, 1e16, "seed"),
    KD_OPT_REAL("Training", opts, lr, "train.lr", "RATE", 0, "0.001", 1e-9, 10, "peak learning rate"),
    KD_OPT_REAL("Training", opts, momentum, "train.sgd.momentum", "M", 0, NULL, 0, 0, "momentum"),
    KD_OPT_CHOICE("Training", opts, schedule, "train.schedule", 0, "cosine", "constant|cosine|linear",
                  "shape"),
    KD_OPT_BOOL("Data", opts, shuffle, "data.shuffle_rows", 's', "yes", "shuffle rows"),
    KD_OPT_INTS("Data", opts, seeds, "data.seeds", "LIST", 0, "0-2", 0, 1000, "seeds"),
    KD_OPT_REALS("Data", opts, weights, "data.weights", "LIST", 0, NULL, 0, 1, "weights"),
    KD_OPT_STRINGS("Data", opts, inputs, "data.inputs", "FILE", 'i', NULL, "inputs"),
    {"Data", NULL, "init-from", "FILE", 0, KD_OPTION_STRING, offsetof(opts, init), NULL, 0, 0, NULL,
     "flag only"},
};

typedef struct fixture {
    kd_config c;
    opts o;
    kd_err err;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    memset(&f->o, 0xA5, sizeof f->o); /* the target may hold anything before its defaults */
    *state = f;
    return f && !kd_config_add(&f->c, rows, KD_COUNT(rows), &f->o, &f->err) ? 0 : -1;
}

static int teardown(void **state)
{
    fixture *f = *state;
    kd_config_release(&f->c);
    free(f);
    return 0;
}

static kd_status yaml(fixture *f, const char *text)
{
    f->err = (kd_err){0};
    return kd_config_yaml_text(&f->c, "a.yaml", text, strlen(text), &f->err);
}

static kd_status flag(fixture *f, const char *name, const char *value)
{
    f->err = (kd_err){0};
    return kd_config_flag(&f->c, name, value, &f->err);
}

/* text is refused with that status and exactly that sentence. */
static void refused(fixture *f, const char *text, kd_status code, const char *message)
{
    kd_status st = yaml(f, text);
    assert_string_equal(f->err.msg, message);
    assert_int_equal(st, code);
    assert_int_equal(f->err.code, code);
}

static void refused_flag(fixture *f, const char *name, const char *value, const char *message)
{
    assert_int_equal(flag(f, name, value), KD_EUSAGE);
    assert_string_equal(f->err.msg, message);
}

static void defaults_come_from_the_table(void **state)
{
    fixture *f = *state;
    assert_int_equal(f->o.epochs, 10);
    assert_int_equal(f->o.seed, -3);
    assert_true(f->o.lr == 0.001);
    assert_true(f->o.momentum == 0);
    assert_string_equal(f->o.schedule, "cosine");
    assert_true(f->o.shuffle);
    assert_null(f->o.name);
    assert_int_equal(f->o.seeds.n, 3);
    assert_int_equal(f->o.seeds.v[2], 2);
    assert_int_equal(f->o.inputs.n, 0);
    assert_int_equal(kd_config_source(&f->c, "train.epochs"), 0);
    assert_int_equal(kd_config_source(&f->c, "train.epoch"), -1);
}

static void yaml_sets_every_type(void **state)
{
    fixture *f = *state;
    const char *text = "# a student\n"
                       "name: \"null\"\n"
                       "train: {epochs: 1e3, lr: 5e-4, schedule: linear}\n"
                       "data:\n"
                       "  shuffle_rows: off\n"
                       "  seeds: [7, 9-11]\n"
                       "  weights: 0.5\n"
                       "  inputs:\n"
                       "    - a,b.csv\n"
                       "    - 'c d'\n";
    assert_int_equal(yaml(f, text), KD_OK);
    assert_string_equal(f->o.name, "null");
    assert_int_equal(f->o.epochs, 1000);
    assert_true(f->o.lr == 5e-4);
    assert_string_equal(f->o.schedule, "linear");
    assert_false(f->o.shuffle);
    assert_int_equal(f->o.seeds.n, 4);
    assert_int_equal(f->o.seeds.v[3], 11);
    assert_int_equal(f->o.weights.n, 1);
    assert_true(f->o.weights.v[0] == 0.5);
    assert_int_equal(f->o.inputs.n, 2);
    assert_string_equal(f->o.inputs.v[0], "a,b.csv");
    assert_string_equal(f->o.inputs.v[1], "c d");
    assert_int_equal(kd_config_source(&f->c, "train.epochs"), 1);
    char where[300];
    assert_string_equal(kd_config_where(&f->c, "data.seeds", where, sizeof where), "a.yaml:6");
    assert_string_equal(kd_config_where(&f->c, "train.seed", where, sizeof where), "default");
}

static void nothing_in_a_file_changes_nothing(void **state)
{
    fixture *f = *state;
    static const char *const empty[] = {"",         "\n\n", "# only a comment\n", "---\n", "~\n",
                                        "train:\n", "{}",   "--- {}\n...\n"};
    for (size_t i = 0; i < KD_COUNT(empty); i++) assert_int_equal(yaml(f, empty[i]), KD_OK);
    assert_int_equal(f->o.epochs, 10);
    assert_int_equal(kd_config_source(&f->c, "train.epochs"), 0);
}

static void null_empties_lists_and_texts_without_default_only(void **state)
{
    fixture *f = *state;
    assert_int_equal(yaml(f, "name: x\ndata: {inputs: [a, b]}\n"), KD_OK);
    assert_int_equal(yaml(f, "name: ~\ndata: {inputs: null, seeds: }\n"), KD_OK);
    assert_null(f->o.name);
    assert_int_equal(f->o.inputs.n, 0);
    assert_int_equal(f->o.seeds.n, 0);
    refused(f, "train:\n  lr:\n", KD_EUSAGE,
            "a.yaml:2:6: train.lr: found nothing, expected a number from 1e-09 to 10");
    refused(f, "train: {schedule: }\n", KD_EUSAGE,
            "a.yaml:1:19: train.schedule: found nothing, expected one of constant, cosine, linear");
    assert_string_equal(f->o.schedule, "cosine");
}

static void unknown_keys_suggest_the_nearest(void **state)
{
    fixture *f = *state;
    refused(f, "train:\n  epohcs: 3\n", KD_EUSAGE,
            "a.yaml:2:3: unknown key 'train.epohcs' (did you mean 'train.epochs'?)");
    refused(f, "tarin: {epochs: 3}\n", KD_EUSAGE, "a.yaml:1:1: unknown key 'tarin' (did you mean 'train'?)");
    refused(f, "epochs: 3\n", KD_EUSAGE, "a.yaml:1:1: unknown key 'epochs' (did you mean 'train.epochs'?)");
    refused(f, "train: {wombat: 3}\n", KD_EUSAGE,
            "a.yaml:1:9: unknown key 'train.wombat', known here: epochs, seed, lr, sgd, schedule");
    refused(f, "train: {lr: {x: 1}}\n", KD_EUSAGE,
            "a.yaml:1:13: train.lr: found a mapping, expected a number from 1e-09 to 10");
    refused(f, "init-from: x\n", KD_EUSAGE,
            "a.yaml:1:1: unknown key 'init-from', known here: name, train, data");
}

static void wrong_types_name_what_is_expected(void **state)
{
    fixture *f = *state;
    refused(f, "train: {lr: abc}\n", KD_EUSAGE,
            "a.yaml:1:13: train.lr: 'abc' is no number, expected a number from 1e-09 to 10");
    refused(f, "train: {epochs: 2.5}\n", KD_EUSAGE,
            "a.yaml:1:17: train.epochs: '2.5' is no whole number, expected a whole number from 1 to 100000");
    refused(f, "train: {epochs: \"3\"}\n", KD_EUSAGE,
            "a.yaml:1:17: train.epochs: found a text in quotes, expected a whole number from 1 to 100000");
    refused(f, "train: {epochs: [3]}\n", KD_EUSAGE,
            "a.yaml:1:17: train.epochs: found a list, expected a whole number from 1 to 100000");
    refused(f, "train: 3\n", KD_EUSAGE,
            "a.yaml:1:8: train: found a plain value, expected a mapping with keys below it");
    refused(f, "[1, 2]\n", KD_EUSAGE, "a.yaml:1:1: found a list, expected a mapping of keys to values");
    refused(f, "data: {shuffle_rows: maybe}\n", KD_EUSAGE,
            "a.yaml:1:22: data.shuffle_rows: 'maybe' is no truth value, expected true or false");
    refused(
        f, "train: {schedule: cosin}\n", KD_EUSAGE,
        "a.yaml:1:19: train.schedule: 'cosin' is unknown (did you mean 'cosine'?), expected one of constant, "
        "cosine, linear");
    refused(f, "data: {inputs: [a, {b: c}]}\n", KD_EUSAGE,
            "a.yaml:1:20: data.inputs: found a mapping, expected a list of texts");
    static const char *const no_reals[] = {"nan", "inf", "0x10", "1e", "1e999", "--1", "1 2"};
    for (size_t i = 0; i < KD_COUNT(no_reals); i++)
        assert_int_equal(flag(f, "momentum", no_reals[i]), KD_EUSAGE);
    static const char *const no_ints[] = {"",     "x",   "1.5", "0x10", "99999999999999999999",
                                          "1e30", "1-2", " 1"};
    for (size_t i = 0; i < KD_COUNT(no_ints); i++) assert_int_equal(flag(f, "epochs", no_ints[i]), KD_EUSAGE);
    assert_int_equal(f->o.epochs, 10);
}

static void ranges_are_checked_and_told(void **state)
{
    fixture *f = *state;
    refused(f, "name: a\ntrain:\n  epochs: 5\n  lr: 20\n", KD_EUSAGE,
            "a.yaml:4:7: train.lr: '20' is out of range, expected a number from 1e-09 to 10");
    refused(f, "train: {epochs: 0}\n", KD_EUSAGE,
            "a.yaml:1:17: train.epochs: '0' is out of range, expected a whole number from 1 to 100000");
    refused(
        f, "data:\n  seeds:\n  - 1\n  - 1001\n", KD_EUSAGE,
        "a.yaml:4:5: data.seeds: '1001' is out of range, expected a list of whole numbers from 0 to 1000");
    assert_true(f->o.lr == 0.001);
    assert_int_equal(f->o.seeds.n, 3);
    assert_int_equal(yaml(f, "train: {epochs: 100000, lr: 10, seed: -5, sgd: {momentum: -1e300}}\n"), KD_OK);
}

static void duplicate_keys_are_refused(void **state)
{
    fixture *f = *state;
    refused(f, "train:\n  lr: 1\n  epochs: 2\n  lr: 1\n", KD_EUSAGE,
            "a.yaml:4:3: key 'lr' is given twice, first in line 2");
    refused(f, "train: {lr: 1}\nname: x\ntrain: {epochs: 1}\n", KD_EUSAGE,
            "a.yaml:3:1: key 'train' is given twice, first in line 1");
    refused(f, "train: {lr: 1}\ntrain.lr: 2\n", KD_EUSAGE, "a.yaml:2:1: key 'train.lr' is given twice");
    assert_int_equal(yaml(f, "train.lr: 2\n"), KD_OK); /* a dotted key alone is fine */
}

static void yaml_beyond_plain_is_refused(void **state)
{
    fixture *f = *state;
    refused(f, "name: &a x\n", KD_EUSAGE,
            "a.yaml:1:7: anchors (&name) are not supported: write the value out");
    refused(f, "name: *a\n", KD_EUSAGE, "a.yaml:1:7: aliases (*name) are not supported: write the value out");
    refused(f, "name: !!str 3\n", KD_EUSAGE,
            "a.yaml:1:7: tags (!name) are not supported: types come from the key");
    refused(f, "name: a\n---\nname: b\n", KD_EUSAGE,
            "a.yaml:2:1: a second document (---): only one is allowed");
    refused(f, "? [a, b]\n: c\n", KD_EUSAGE, "a.yaml:1:3: a key must be a plain word");
    refused(f, "name: \"a\\0b\"\n", KD_EUSAGE, "a.yaml:1:7: a NUL character inside a value");
    assert_null(f->o.name);
}

static void syntax_errors_name_their_place(void **state)
{
    fixture *f = *state;
    refused(f, "train:\n\tlr: 1\n", KD_EUSAGE,
            "a.yaml:2:1: found character that cannot start any token while scanning for the next token (a "
            "tab: YAML "
            "indents with spaces)");
    assert_int_equal(yaml(f, "name: [a, b\n"), KD_EUSAGE);
    assert_non_null(strstr(f->err.msg, "a.yaml:2:1: "));
    assert_int_equal(yaml(f, "name: a\n  b: c\n"), KD_EUSAGE);
    assert_non_null(strstr(f->err.msg, "a.yaml:2:4: mapping values are not allowed"));
    assert_int_equal(kd_config_yaml_text(&f->c, "a.yaml", "name: x\nab\0c", 12, &f->err), KD_EUSAGE);
    assert_string_equal(f->err.msg, "a.yaml:2:3: NUL byte: is this a text file?");
    assert_int_equal(yaml(f, "name: \xff\xfe\n"), KD_EUSAGE);
    assert_non_null(strstr(f->err.msg, "a.yaml:1:7: "));
    assert_null(f->o.name);
}

static void nothing_is_set_when_the_syntax_is_bad(void **state)
{
    fixture *f = *state;
    assert_int_equal(yaml(f, "train: {epochs: 3}\nname: [\n"), KD_EUSAGE);
    assert_int_equal(f->o.epochs, 10);
}

static void limits_are_named(void **state)
{
    fixture *f = *state;
    kd_buf b = {0};
    kd_buf_puts(&b, "name: ");
    for (int i = 0; i < 31; i++) kd_buf_puts(&b, "[");
    for (int i = 0; i < 31; i++) kd_buf_puts(&b, "]");
    refused(f, b.text, KD_EUSAGE,
            "a.yaml:1:7: name: found a list, expected a text"); /* 32 levels are allowed */
    b.len = 0;
    kd_buf_puts(&b, "name: ");
    for (int i = 0; i < 32; i++) kd_buf_puts(&b, "[");
    for (int i = 0; i < 32; i++) kd_buf_puts(&b, "]");
    refused(f, b.text, KD_ELIMIT, "a.yaml:1:38: nested deeper than 32 levels");
    b.len = 0;
    for (int i = 0; i < 100000; i++) kd_buf_puts(&b, "[");
    refused(f, b.text, KD_ELIMIT, "a.yaml:1:33: nested deeper than 32 levels");
    b.len = 0;
    kd_buf_puts(&b, "data: {seeds: [");
    for (int i = 0; i < 66000; i++) kd_buf_puts(&b, "1,");
    kd_buf_puts(&b, "]}\n");
    assert_int_equal(yaml(f, b.text), KD_ELIMIT);
    assert_non_null(strstr(f->err.msg, "more than 65536 YAML events"));
    b.len = 0;
    for (int i = 0; i <= (1 << 20) / 16; i++) kd_buf_puts(&b, "# 456789 123456\n");
    refused(f, b.text, KD_ELIMIT, "a.yaml: 1048592 bytes, the limit is 1048576");
    b.text[1 << 20] = '\0';
    assert_int_equal(yaml(f, b.text), KD_OK);
    kd_buf_release(&b);
    assert_int_equal(flag(f, "seeds", "0-1000,0-1000"), KD_OK);
    assert_int_equal(f->o.seeds.n, 2002);
    assert_int_equal(kd_config_yaml(&f->c, "/nonexistent/x.yaml", &f->err), KD_ENOTFOUND);
}

static void files_are_read(void **state)
{
    fixture *f = *state;
    char path[] = "/tmp/kd-test-config-XXXXXX", where[300], want[300];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "train:\n  lr: 0.25\n", 18), 18);
    close(fd);
    assert_int_equal(kd_config_yaml(&f->c, path, &f->err), KD_OK);
    assert_true(f->o.lr == 0.25);
    /* A second file does not change where the first one's values came from. */
    assert_int_equal(yaml(f, "\n\nname: b\n"), KD_OK);
    snprintf(want, sizeof want, "%s:2", path);
    assert_string_equal(kd_config_where(&f->c, "train.lr", where, sizeof where), want);
    assert_string_equal(kd_config_where(&f->c, "name", where, sizeof where), "a.yaml:3");
    unlink(path);
}

static void flags_go_by_long_name_or_key(void **state)
{
    fixture *f = *state;
    char where[300];
    assert_int_equal(flag(f, "epochs", "20"), KD_OK);
    assert_int_equal(flag(f, "train.lr", "0.5"), KD_OK);
    assert_int_equal(flag(f, "no-shuffle-rows", NULL), KD_OK);
    assert_int_equal(flag(f, "init-from", "a b"), KD_OK);
    assert_int_equal(flag(f, "inputs", "x"), KD_OK);
    assert_int_equal(flag(f, "inputs", "y"), KD_OK);
    assert_int_equal(flag(f, "weights", "0.5, 1"), KD_OK);
    assert_int_equal(flag(f, "seeds", "1,4-6"), KD_OK);
    assert_int_equal(f->o.epochs, 20);
    assert_true(f->o.lr == 0.5);
    assert_false(f->o.shuffle);
    assert_string_equal(f->o.init, "a b");
    assert_int_equal(f->o.inputs.n, 2);
    assert_int_equal(f->o.weights.n, 2);
    assert_int_equal(f->o.seeds.n, 4);
    assert_int_equal(flag(f, "shuffle-rows", NULL), KD_OK);
    assert_true(f->o.shuffle);
    assert_int_equal(flag(f, "shuffle-rows", "off"), KD_OK);
    assert_false(f->o.shuffle);
    assert_string_equal(kd_config_where(&f->c, "train.epochs", where, sizeof where), "--epochs");
    assert_string_equal(kd_config_where(&f->c, "data.shuffle_rows", where, sizeof where), "--shuffle-rows");
    assert_int_equal(kd_config_source(&f->c, "train.epochs"), 2);
}

static void flags_refuse_with_a_sentence(void **state)
{
    fixture *f = *state;
    refused_flag(f, "epohcs", "3", "unknown option --epohcs (did you mean --epochs?)");
    refused_flag(f, "no-shufle-rows", NULL,
                 "unknown option --no-shufle-rows (did you mean --no-shuffle-rows?)");
    refused_flag(f, "zzzzzz", NULL, "unknown option --zzzzzz (--help lists them)");
    refused_flag(f, "no-epochs", NULL, "unknown option --no-epochs (did you mean --epochs?)");
    refused_flag(f, "lr", "fast", "--lr: 'fast' is no number, expected a number from 1e-09 to 10");
    refused_flag(
        f, "seeds", "4-1",
        "--seeds: '4-1' is a range that runs backwards, expected a list of whole numbers from 0 to 1000");
    refused_flag(f, "seeds", "1,,2",
                 "--seeds: '' is no whole number, expected a list of whole numbers from 0 to 1000");
    refused_flag(f, "no-shuffle-rows", "yes", "--no-shuffle-rows: takes no value");
    assert_int_equal(f->o.seeds.n, 3);
}

static void a_flag_beats_a_file_in_any_order(void **state)
{
    fixture *f = *state;
    assert_int_equal(flag(f, "epochs", "20"), KD_OK);
    assert_int_equal(flag(f, "inputs", "a"), KD_OK);
    assert_int_equal(yaml(f, "train: {epochs: 30, lr: 1}\ndata: {inputs: [b, c]}\n"), KD_OK);
    assert_int_equal(f->o.epochs, 20);
    assert_int_equal(f->o.inputs.n, 1);
    assert_true(f->o.lr == 1);
    /* The file is checked even where the flag wins. */
    assert_int_equal(yaml(f, "train: {epochs: 0}\n"), KD_EUSAGE);
    assert_int_equal(flag(f, "lr", "2"), KD_OK);
    assert_true(f->o.lr == 2);
}

static void json_and_back_is_the_same(void **state)
{
    fixture *f = *state, g = {0};
    assert_int_equal(yaml(f,
                          "name: \"zwölf\"\ntrain: {lr: 0.1, seed: 9007199254740993, sgd: {momentum: 0.9}}\n"
                          "data: {inputs: [x, '1'], weights: [0.1, 1], seeds: []}\n"),
                     KD_OK);
    json_t *j = kd_config_json(&f->c);
    assert_non_null(j);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "train"), "seed")),
                     9007199254740993);
    assert_null(json_object_get(j, "init-from")); /* no key, no place in the file */
    assert_int_equal(kd_config_add(&g.c, rows, KD_COUNT(rows), &g.o, &g.err), KD_OK);
    assert_int_equal(kd_config_from_json(&g.c, j, "config.json", &g.err), KD_OK);
    json_t *again = kd_config_json(&g.c);
    assert_true(json_equal(j, again));
    assert_string_equal(g.o.inputs.v[1], "1");
    assert_true(g.o.lr == 0.1);
    char where[300];
    assert_string_equal(kd_config_where(&g.c, "train.lr", where, sizeof where), "config.json");
    json_decref(j);
    json_decref(again);
    kd_config_release(&g.c);
}

/* A list of mappings is kept as texts, whatever way it was written. */
static void mappings_in_a_list_become_texts(void **state)
{
    typedef struct mix {
        kd_strings parts;
        double scale;
    } mix;
    static const kd_option table[] = {
        KD_OPT_MAPS("Mix", mix, parts, "mix.parts", "PARTS", 0, NULL, "parts"),
        KD_OPT_REAL("Mix", mix, scale, "mix.scale", "X", 0, "1", 0, 0, "scale"),
    };
    static const char *const same[] = {"mix: [{a: 1, b: two words}, {c: 'x'}]\n",
                                       "mix: {parts: [{a: 1, b: two words}, 'c=x']}\n",
                                       "mix:\n  parts:\n  - a: 1\n    b: two words\n  - c: x\n",
                                       "mix: [{a: 1, b: [two, words]}, {c: [x]}]\n"};
    static const struct {
        const char *text, *message;
    } wrong[] = {
        {"mix: [{a: [[1]]}]\n", "a.yaml:1:11: mix.parts: found a list, expected a list of mappings"},
        {"mix: [{a: }]\n", "a.yaml:1:11: mix.parts: found nothing, expected a list of mappings"},
        {"mix: [{a: 'x,y'}]\n",
         "a.yaml:1:11: mix.parts: found a text in quotes, expected a list of mappings"},
        {"mix: {scale: [{a: 1}]}\n", "a.yaml:1:14: mix.scale: found a list, expected a number"},
        {"mix: {parts: {a: 1}}\n", "a.yaml:1:14: mix.parts: found a mapping, expected a list of mappings"},
    };
    (void)state;
    for (size_t i = 0; i < KD_COUNT(same) + KD_COUNT(wrong); i++) {
        kd_config c = {0}, again = {0};
        mix m, n;
        kd_err err = {0};
        bool good = i < KD_COUNT(same);
        const char *text = good ? same[i] : wrong[i - KD_COUNT(same)].text;
        assert_int_equal(kd_config_add(&c, table, KD_COUNT(table), &m, &err), KD_OK);
        kd_status st = kd_config_yaml_text(&c, "a.yaml", text, strlen(text), &err);
        if (!good) {
            assert_int_equal(st, KD_EUSAGE);
            assert_string_equal(err.msg, wrong[i - KD_COUNT(same)].message);
            kd_config_release(&c);
            continue;
        }
        assert_int_equal(st, KD_OK);
        assert_int_equal(m.parts.n, 2);
        assert_string_equal(m.parts.v[0], "a=1,b=two words");
        assert_string_equal(m.parts.v[1], "c=x");
        json_t *j = kd_config_json(&c);
        assert_int_equal(kd_config_add(&again, table, KD_COUNT(table), &n, &err), KD_OK);
        assert_int_equal(kd_config_from_json(&again, j, "config.json", &err), KD_OK);
        assert_string_equal(n.parts.v[0], "a=1,b=two words");
        json_decref(j);
        kd_config_release(&c);
        kd_config_release(&again);
    }
}

static void damaged_json_is_refused(void **state)
{
    fixture *f = *state;
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"train\": {\"epohcs\": 3}}", "c.json: unknown key 'train.epohcs' (did you mean 'train.epochs'?)"},
        {"{\"train\": {\"epochs\": \"3\"}}",
         "c.json: train.epochs: found a text in quotes, expected a whole number from 1 to 100000"},
        {"{\"train\": {\"epochs\": 0}}",
         "c.json: train.epochs: '0' is out of range, expected a whole number from 1 to 100000"},
        {"{\"train\": {\"lr\": null}}",
         "c.json: train.lr: found nothing, expected a number from 1e-09 to 10"},
        {"{\"data\": {\"shuffle_rows\": 1}}",
         "c.json: data.shuffle_rows: '1' is no truth value, expected true or false"},
        {"[1]", "c.json: expected a JSON object of options"},
    };
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        json_t *j = json_loads(cases[i].json, 0, NULL);
        assert_non_null(j);
        assert_int_equal(kd_config_from_json(&f->c, j, "c.json", &f->err), KD_ECORRUPT);
        assert_string_equal(f->err.msg, cases[i].message);
        json_decref(j);
    }
    kd_buf b = {0};
    for (int i = 0; i < 1000; i++) kd_buf_puts(&b, "{\"name\":");
    kd_buf_puts(&b, "1");
    for (int i = 0; i < 1000; i++) kd_buf_puts(&b, "}");
    json_t *deep = json_loads(b.text, 0, NULL);
    assert_non_null(deep);
    assert_int_equal(kd_config_from_json(&f->c, deep, "c.json", &f->err), KD_ECORRUPT);
    assert_string_equal(f->err.msg, "c.json: nested deeper than 32 levels");
    json_decref(deep);
    kd_buf_release(&b);
}

static void our_own_bugs_are_told(void **state)
{
    fixture *f = *state;
    opts other;
    static const kd_option twice[] = {KD_OPT_BOOL("G", opts, shuffle, "train.lr", 0, NULL, "h")};
    static const kd_option wrong[] = {KD_OPT_INT("G", opts, epochs, "x.y", "N", 0, "0", 1, 2, "h")};
    assert_int_equal(kd_config_add(&f->c, twice, 1, &other, &f->err), KD_EUSAGE);
    assert_string_equal(f->err.msg, "kd bug: key train.lr stands in two tables of options");
    assert_int_equal(kd_config_add(&f->c, wrong, 1, &other, &f->err), KD_EUSAGE);
    assert_string_equal(
        f->err.msg, "kd bug: wrong default: x.y: '0' is out of range, expected a whole number from 1 to 2");
    for (int i = 0; i < 7; i++) assert_int_equal(kd_config_add(&f->c, NULL, 0, &other, &f->err), KD_OK);
    assert_int_equal(kd_config_add(&f->c, NULL, 0, &other, &f->err), KD_EUSAGE);
}

static void rows_are_found_by_any_name(void **state)
{
    fixture *f = *state;
    char buf[64];
    assert_ptr_equal(kd_config_find(&f->c, "epochs"), &rows[1]);
    assert_ptr_equal(kd_config_find(&f->c, "train.epochs"), &rows[1]);
    assert_ptr_equal(kd_config_find(&f->c, "no-shuffle-rows"), &rows[6]);
    assert_ptr_equal(kd_config_find_letter(&f->c, 'e'), &rows[1]);
    assert_null(kd_config_find(&f->c, "epoch"));
    assert_null(kd_config_find_letter(&f->c, 'x'));
    assert_null(kd_config_find_letter(&f->c, 0));
    assert_string_equal(kd_option_flag(&rows[6], buf, sizeof buf), "shuffle-rows");
}

static void random_bytes_never_crash(void **state)
{
    fixture *f = *state;
    static const char seed[] =
        "name: x\ntrain: {epochs: 3, lr: [1, 2], sgd: {momentum: 0.5}}\ndata:\n  inputs:\n  - a\n";
    static const char bits[] = "&*!?|>-[]{}:,#\"'\t\n %@\0\xff~x1";
    char text[sizeof seed];
    kd_rng r;
    kd_rng_init(&r, 7, KD_RNG_TEST, 0, 0);
    for (int round = 0; round < 3000; round++) {
        memcpy(text, seed, sizeof seed);
        for (int k = 0; k < 3; k++)
            text[kd_rng_below(&r, sizeof seed - 1)] = bits[kd_rng_below(&r, sizeof bits)];
        f->err = (kd_err){0};
        kd_status st = kd_config_yaml_text(&f->c, "a.yaml", text, sizeof seed - 1, &f->err);
        assert_true((st == KD_OK) == (f->err.msg[0] == '\0'));
        if (st) assert_true(!strncmp(f->err.msg, "a.yaml:", 7));
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(defaults_come_from_the_table),
        T(yaml_sets_every_type),
        T(nothing_in_a_file_changes_nothing),
        T(null_empties_lists_and_texts_without_default_only),
        T(unknown_keys_suggest_the_nearest),
        T(wrong_types_name_what_is_expected),
        T(ranges_are_checked_and_told),
        T(duplicate_keys_are_refused),
        T(yaml_beyond_plain_is_refused),
        T(syntax_errors_name_their_place),
        T(nothing_is_set_when_the_syntax_is_bad),
        T(limits_are_named),
        T(files_are_read),
        T(flags_go_by_long_name_or_key),
        T(flags_refuse_with_a_sentence),
        T(a_flag_beats_a_file_in_any_order),
        T(json_and_back_is_the_same),
        T(mappings_in_a_list_become_texts),
        T(damaged_json_is_refused),
        T(our_own_bugs_are_told),
        T(rows_are_found_by_any_name),
        T(random_bytes_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
