/* test_text.c - token ids as PyPI's tokenizers gave them (tests/golden/texts.json), files that are refused,
 * rows by any number of threads. */
#include "kd/text.h"

#include "check.h"

#include <stdlib.h>
#include <unistd.h>

static const char *const names[] = {"uncased", "cased", "accents", "plain", "added"};
static json_t *golden; // tests/golden/texts.json
static char folder[64];

static int load(void **state)
{
    (void)state;
    kd_err err = {0};
    snprintf(folder, sizeof folder, "/tmp/kd-test-text.XXXXXX");
    if (!mkdtemp(folder)) return -1;
    return kd_json_load("tests/golden/texts.json", 4 << 20, &golden, &err);
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return kd_remove_tree(folder, NULL);
}

static json_t *spec(const char *name)
{
    json_t *t = json_deep_copy(json_object_get(json_object_get(golden, "tokenizers"), name));
    json_object_set_new(json_object_get(t, "model"), "vocab",
                        json_deep_copy(json_object_get(golden, "vocab")));
    return t;
}

/* {"tokenizer.json": text of spec}; takes the reference. */
static json_t *files_of(json_t *spec)
{
    char *text = kd_json_text(spec, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_t *files = json_pack("{s:s}", "tokenizer.json", text);
    free(text);
    json_decref(spec);
    return files;
}

static kd_tokenizer *golden_tokenizer(const char *name)
{
    kd_tokenizer *t;
    json_t *files = files_of(spec(name));
    OK(kd_tokenizer_from(&t, files, name, err));
    json_decref(files);
    return t;
}

static int digit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/* The text of an entry; out: at least 1,024 bytes. */
static kd_text text_of(const json_t *entry, char *out)
{
    const char *s = json_string_value(json_object_get(entry, "text")), *hex;
    if (s) return (kd_text){s, json_string_length(json_object_get(entry, "text"))};
    hex = json_string_value(json_object_get(entry, "hex"));
    assert_non_null(hex);
    for (size_t i = 0; hex[2 * i]; i++) out[i] = (char)(digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]));
    return (kd_text){out, strlen(hex) / 2};
}

static void same_ids(const kd_encoding *got, const json_t *want, size_t entry, const char *name)
{
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; same && i < got->n; i++)
        same = got->id[i] == (uint32_t)json_integer_value(json_array_get(want, i));
    if (!same) {
        char *text = json_dumps(want, JSON_COMPACT);
        for (size_t i = 0; i < got->n; i++) fprintf(stderr, " %u", got->id[i]);
        fail_msg("%s, entry %zu: got the ids above, wanted %s", name, entry, text);
    }
}

/* ---- ids ------------------------------------------------------------------------------------ */

static void ids_are_those_of_the_reference(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        kd_tokenizer *t = golden_tokenizer(names[k]);
        kd_encoder *e;
        const json_t *entry;
        size_t i;
        OK(kd_encoder_open(&e, t, err));
        json_array_foreach(json_object_get(golden, "entries"), i, entry)
        {
            const json_t *want = json_object_get(entry, names[k]), *pair = json_object_get(entry, "pair");
            for (size_t cut = 0; cut < 2; cut++) {
                char room[1024];
                const kd_encode_params p = {.max_tokens = cut ? 8 : 0, .special = true};
                const char *b = json_string_value(json_array_get(pair, 1));
                const kd_text second = {b, b ? strlen(b) : 0};
                const char *a = json_string_value(json_array_get(pair, 0));
                kd_encoding got;
                OK(kd_encode(e, a ? (kd_text){a, strlen(a)} : text_of(entry, room), pair ? &second : NULL, &p,
                             &got, err));
                same_ids(&got, json_array_get(want, cut), i, names[k]);
                if (pair && !cut)
                    assert_int_equal(got.second, json_integer_value(json_array_get(want, 3)));
                else if (!pair)
                    assert_int_equal(got.second, got.n);
            }
        }
        kd_encoder_close(e);
        kd_tokenizer_close(t);
    }
}

static void ids_decode_as_the_reference_decodes_them(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        kd_tokenizer *t = golden_tokenizer(names[k]);
        const json_t *entry;
        size_t i;
        json_array_foreach(json_object_get(golden, "entries"), i, entry)
        {
            const json_t *want = json_object_get(entry, names[k]), *ids = json_array_get(want, 0);
            uint32_t id[1024];
            kd_buf text = {0};
            const size_t n = json_array_size(ids);
            for (size_t j = 0; j < n; j++) id[j] = (uint32_t)json_integer_value(json_array_get(ids, j));
            OK(kd_decode(t, id, n, false, &text, err));
            assert_string_equal(text.text ? text.text : "", json_string_value(json_array_get(want, 2)));
            kd_buf_release(&text);
        }
        kd_tokenizer_close(t);
    }
}

static void vocab_txt_is_the_uncased_tokenizer(void **state)
{
    (void)state;
    kd_buf lines = {0};
    const char *token;
    json_t *v;
    json_object_foreach(json_object_get(golden, "vocab"), token, v) kd_buf_printf(&lines, "%s\n", token);
    json_t *files = json_pack("{s:s}", "vocab.txt", lines.text);
    kd_tokenizer *t;
    kd_encoder *e;
    const json_t *entry;
    size_t i;
    OK(kd_tokenizer_from(&t, files, "vocab.txt", err));
    OK(kd_encoder_open(&e, t, err));
    json_array_foreach(json_object_get(golden, "entries"), i, entry)
    {
        char room[1024];
        kd_encoding got;
        // vocab.txt allows 100 characters a word
        if (json_object_get(entry, "pair") || text_of(entry, room).len > 20) continue;
        OK(kd_encode(e, text_of(entry, room), NULL, &(kd_encode_params){.special = true}, &got, err));
        same_ids(&got, json_array_get(json_object_get(entry, "uncased"), 0), i, "vocab.txt");
    }
    kd_encoder_close(e);
    kd_tokenizer_close(t);
    json_decref(files);
    kd_buf_release(&lines);
}

static void rows_do_not_depend_on_threads(void **state)
{
    (void)state;
    enum { ROWS = 60000 };
    kd_tokenizer *t = golden_tokenizer("uncased");
    const json_t *entries = json_object_get(golden, "entries");
    kd_text *texts = malloc(ROWS * sizeof *texts);
    kd_token_rows one, many;
    const kd_encode_params p = {.max_tokens = 16, .special = true};
    for (size_t i = 0; i < ROWS; i++) {
        const char *s = json_string_value(
            json_object_get(json_array_get(entries, i * 7 % json_array_size(entries)), "text"));
        texts[i] = (kd_text){s ? s : "", s ? strlen(s) : 0};
    }
    OK(kd_encode_rows(&one, t, texts, ROWS, &p, 1, err));
    OK(kd_encode_rows(&many, t, texts, ROWS, &p, 3, err));
    assert_int_equal(one.offset[ROWS], many.offset[ROWS]);
    assert_int_equal(one.cut, many.cut);
    assert_true(one.cut > 0);
    assert_memory_equal(one.offset, many.offset, (ROWS + 1) * sizeof *one.offset);
    assert_memory_equal(one.id, many.id, one.offset[ROWS] * sizeof *one.id);
    kd_token_rows_release(&one);
    kd_token_rows_release(&many);
    OK(kd_encode_rows(&one, t, NULL, 0, &p, 2, err));
    assert_int_equal(one.offset[0], 0);
    kd_token_rows_release(&one);
    free(texts);
    kd_tokenizer_close(t);
}

static void a_long_text_is_cut_like_a_short_one(void **state)
{
    (void)state;
    kd_tokenizer *t = golden_tokenizer("uncased");
    kd_encoder *e;
    kd_encoding got;
    enum { LENGTH = 4 << 20 };
    char *text = malloc(LENGTH);
    OK(kd_encoder_open(&e, t, err));
    for (size_t i = 0; i < LENGTH; i++) text[i] = "a teacher "[i % 10];
    OK(kd_encode(e, (kd_text){text, LENGTH}, NULL, &(kd_encode_params){.max_tokens = 5, .special = true},
                 &got, err));
    assert_int_equal(got.n, 5);
    assert_true(got.cut);
    memset(text, 'x', LENGTH); // one word
    OK(kd_encode(e, (kd_text){text, LENGTH}, NULL, &(kd_encode_params){.special = true}, &got, err));
    assert_int_equal(got.n, 3);
    for (size_t i = 0; i + 4 <= LENGTH; i += 4)
        memcpy(text + i, "\xF0\x9D\x85\xA5", 4); // one run to put in order
    OK(kd_encode(e, (kd_text){text, LENGTH}, NULL, &(kd_encode_params){.special = true}, &got, err));
    assert_int_equal(got.n, 3);
    FAILS(kd_encode(e, (kd_text){text, 4}, NULL, &(kd_encode_params){.max_tokens = 2, .special = true}, &got,
                    err),
          KD_EUSAGE, "leave no room beside 2 special ones");
    free(text);
    kd_encoder_close(e);
    kd_tokenizer_close(t);
}

/* ---- files ---------------------------------------------------------------------------------- */

static void a_saved_folder_opens_as_the_same_tokenizer(void **state)
{
    (void)state;
    kd_tokenizer *t = golden_tokenizer("cased"), *again, *none;
    uint32_t id;
    OK(kd_tokenizer_save(t, folder, err));
    OK(kd_tokenizer_open(&again, folder, err));
    assert_string_equal(kd_tokenizer_hash(t), kd_tokenizer_hash(again));
    assert_int_equal(kd_tokenizer_size(again), json_object_size(json_object_get(golden, "vocab")));
    assert_true(kd_tokenizer_find(again, "[SEP]", &id));
    assert_int_equal(id, 3);
    assert_string_equal(kd_tokenizer_token(again, 3), "[SEP]");
    assert_false(kd_tokenizer_find(again, "no such token", &id));
    assert_null(kd_tokenizer_token(again, kd_tokenizer_size(again)));
    assert_int_equal(kd_tokenizer_added(again, false), 2);
    assert_int_equal(kd_tokenizer_added(again, true), 3);
    FAILS(kd_tokenizer_open(&none, "/nowhere", err), KD_ENOTFOUND, "/nowhere: no such tokenizer");
    kd_tokenizer_close(t);
    char *path = kd_path_join(folder, "tokenizer.json");
    OK(kd_tokenizer_open(&t, path, err));
    kd_tokenizer_close(t);
    free(path);
    kd_tokenizer_close(again);
}

/* The tokenizer with one member changed (a path of keys and "#0" for places) is refused. */
static void refused(const char *path, json_t *value, kd_status status, const char *text)
{
    json_t *t = spec("uncased"), *at = t;
    char copy[200], *key, *rest = copy;
    snprintf(copy, sizeof copy, "%s", path);
    while ((key = strsep(&rest, "."))) {
        json_t *next = *key == '#' ? json_array_get(at, (size_t)atol(key + 1)) : json_object_get(at, key);
        if (rest)
            at = next;
        else if (*key == '#')
            json_array_set(at, (size_t)atol(key + 1), value);
        else if (value)
            json_object_set(at, key, value);
        else
            json_object_del(at, key);
    }
    json_t *files = files_of(t);
    kd_tokenizer *out;
    FAILS(kd_tokenizer_from(&out, files, "T", err), status, text);
    assert_null(out);
    json_decref(files);
    json_decref(value);
}

static void what_a_file_asks_for_and_kd_cannot_do_is_named(void **state)
{
    (void)state;
    refused("model", NULL, KD_ECORRUPT, "model is missing or not an object");
    refused("model.type", json_string("Unigram"), KD_EUNSUPPORTED,
            "model Unigram is not supported; WordPiece or BPE is");
    refused("model.vocab", json_array(), KD_ECORRUPT, "model.vocab is missing or not an object with tokens");
    refused("model.vocab.a", json_string("7"), KD_ECORRUPT, "the id of 'a' is no whole number");
    refused("model.vocab.a", json_integer(-1), KD_ECORRUPT, "the id of 'a' is no whole number");
    refused("model.vocab.a", json_integer(3), KD_ECORRUPT, "id 3 is both '[SEP]' and 'a'");
    refused("model.vocab.a", json_integer(1 << 21), KD_ELIMIT, "token 'a' has id 2097152");
    refused("model.unk_token", json_string("<unk>"), KD_ECORRUPT, "<unk>, is not in the vocabulary");
    refused("model.unk_token", json_integer(1), KD_ECORRUPT, "model.unk_token is missing or not a string");
    refused("model.max_input_chars_per_word", json_integer(0), KD_ECORRUPT, "from 1 to 1048576");
    refused("normalizer.type", json_string("NFC"), KD_EUNSUPPORTED, "normalizer NFC is not supported");
    refused("normalizer.lowercase", json_integer(1), KD_ECORRUPT,
            "normalizer.lowercase is missing or not true or false");
    refused("pre_tokenizer.type", json_string("Whitespace"), KD_EUNSUPPORTED, "pre_tokenizer Whitespace");
    refused("pre_tokenizer", json_null(), KD_EUNSUPPORTED, "pre_tokenizer null");
    refused("post_processor.type", json_string("RobertaProcessing"), KD_EUNSUPPORTED,
            "post_processor Roberta");
    refused("post_processor.special_tokens.[CLS].ids.#0", json_integer(1 << 20), KD_ECORRUPT,
            "an id that is no token");
    refused("post_processor.single.#0.SpecialToken.id", json_string("<s>"), KD_ECORRUPT, "<s> is missing");
    refused("post_processor.single.#1.Sequence.id", json_string("C"), KD_ECORRUPT, "not A or B");
    refused("decoder.prefix", json_string("@@"), KD_EUNSUPPORTED, "decoder.prefix @@");
    refused("added_tokens", json_string("[CLS]"), KD_ECORRUPT, "added_tokens is missing or not a list");
    refused("added_tokens.#2.id", json_integer(9), KD_ECORRUPT,
            "added token '[CLS]' has id 9, the vocabulary says 2");
    refused("added_tokens.#2.content", json_string(""), KD_ECORRUPT,
            "content is missing or not a string with letters");
    refused("added_tokens.#2", json_null(), KD_ECORRUPT, "added_tokens[].id is missing");
    refused("truncation", json_pack("{s:i, s:s}", "max_length", 8, "strategy", "OnlyFirst"), KD_EUNSUPPORTED,
            "truncation.strategy OnlyFirst");
    refused("truncation", json_pack("{s:i}", "max_length", -1), KD_ECORRUPT, "truncation.max_length");
}

static void text_is_refused(const char *name, const char *text, kd_status status, const char *sentence)
{
    json_t *files = json_pack("{s:s}", name, text);
    kd_tokenizer *out;
    FAILS(kd_tokenizer_from(&out, files, "T", err), status, sentence);
    json_decref(files);
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    char deep[300];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    text_is_refused("tokenizer.json", "", KD_ECORRUPT, "T: tokenizer.json:1:0: not valid JSON");
    text_is_refused("tokenizer.json", "{\"model\": {\"type\": \"Word", KD_ECORRUPT, "not valid JSON");
    text_is_refused("tokenizer.json", "[]", KD_ECORRUPT, "holds no object");
    text_is_refused("tokenizer.json", "{\"a\": 1, \"a\": 2}", KD_ECORRUPT, "duplicate");
    text_is_refused("tokenizer.json", deep, KD_ECORRUPT, "deeper than 64");
    text_is_refused("vocab.txt", "", KD_ECORRUPT, "has no tokens");
    text_is_refused("vocab.txt", "a\nb\na\n", KD_ECORRUPT, "token 'a' has the ids 0 and 2");
    text_is_refused("vocab.txt", "a\nb\n", KD_ECORRUPT, "special token '[UNK]' is not in the vocabulary");
    text_is_refused("../evil", "x", KD_ECORRUPT, "'../evil' is no file of a tokenizer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_the_reference),
        cmocka_unit_test(ids_decode_as_the_reference_decodes_them),
        cmocka_unit_test(vocab_txt_is_the_uncased_tokenizer),
        cmocka_unit_test(rows_do_not_depend_on_threads),
        cmocka_unit_test(a_long_text_is_cut_like_a_short_one),
        cmocka_unit_test(a_saved_folder_opens_as_the_same_tokenizer),
        cmocka_unit_test(what_a_file_asks_for_and_kd_cannot_do_is_named),
        cmocka_unit_test(broken_files_are_refused),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
