/* read_bpe.c - the parts of tokenizer.json that belong to byte-level BPE, and which pre-tokenizers are known.
 *
 * A pre-tokenizer is a regular expression in the file; the ones of GPT-2, SmolLM, Llama 3 and those that
 * differ from it in the number of digits are recognised as they are written, others are refused: split.c has
 * them by hand.
 */
#include "read_json.h"

#define LLAMA3_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
#define LLAMA3_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const struct {
    const char *regex;
    kd__rule rule;
    int numbers;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", KD__RULE_GPT2, 0},
    {LLAMA3_HEAD "{1,3}" LLAMA3_TAIL, KD__RULE_LLAMA3, 3},
    {LLAMA3_HEAD LLAMA3_TAIL, KD__RULE_LLAMA3, 1},
};

/* ---- model -------------------------------------------------------------------------------------- */

/* "a b", or ["a", "b"]. */
static kd_status read_merge(const kd__reader *r, const json_t *m)
{
    const char *s = json_string_value(m), *blank = s ? strchr(s, ' ') : NULL;
    const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
    if (json_array_size(m) == 2 && json_is_string(a) && json_is_string(b))
        return kd__bpe_merge(r->t, json_string_value(a), json_string_length(a), json_string_value(b),
                             json_string_length(b), r->where, r->err);
    if (blank && blank > s && blank[1] && !strchr(blank + 1, ' '))
        return kd__bpe_merge(r->t, s, (size_t)(blank - s), blank + 1, strlen(blank + 1), r->where, r->err);
    return kd_fail(r->err, KD_ECORRUPT, "%s: model.merges: merge %zu is not two tokens", r->where,
                   r->t->bpe.merges);
}

/* What changes ids and is not here has to be off. */
static kd_status check_off(const kd__reader *r, const json_t *m)
{
    const json_t *dropout = json_object_get(m, "dropout");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    bool fallback;
    kd_status st = kd__read_bool(r, m, "model", "byte_fallback", false, &fallback);
    if (st) return st;
    if (fallback) return kd__read_unsupported(r, "model.byte_fallback", "true", "false");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return kd__read_unsupported(r, "model.dropout", "of merges", "null");
    for (int i = 0; i < 2; i++) {
        const json_t *a = json_object_get(m, affixes[i]);
        if (a && !json_is_null(a) && json_string_length(a))
            return kd__read_unsupported(r, "model", affixes[i], "BPE of bytes without one");
    }
    return KD_OK;
}

kd_status kd__read_bpe(const kd__reader *r, const json_t *m)
{
    kd__bpe *b = &r->t->bpe;
    const json_t *list = json_object_get(m, "merges"), *unk = json_object_get(m, "unk_token"), *merge;
    size_t i;
    kd_status st;
    if (!json_is_array(list)) return kd__read_bad(r, "model", "merges", "a list");
    if ((st = check_off(r, m)) || (st = kd__read_bool(r, m, "model", "fuse_unk", false, &b->fuse)) ||
        (st = kd__read_bool(r, m, "model", "ignore_merges", false, &b->whole)) ||
        (st = kd__read_tokens(r, m)) || (st = kd__bpe_init(r->t, json_array_size(list), r->where, r->err)))
        return st;
    b->unk = KD__NO_ID;
    if (json_is_string(unk) &&
        (b->unk = kd__trie_find(&r->t->vocab, json_string_value(unk), json_string_length(unk))) == KD__NO_ID)
        return kd__read_bad(r, "model", "unk_token", "a token of the vocabulary");
    json_array_foreach(list, i, merge) if ((st = read_merge(r, merge))) return st;
    return KD_OK;
}

/* ---- pre-tokenizer ------------------------------------------------------------------------------ */

static kd_status read_pattern(const kd__reader *r, const json_t *o)
{
    const char *regex, *behavior;
    bool invert;
    kd__split *split = &r->t->bpe.split;
    kd_status st = kd__read_str(r, json_object_get(o, "pattern"), "pre_tokenizer.pattern", "Regex", &regex);
    if (st || (st = kd__read_str(r, o, "pre_tokenizer", "behavior", &behavior)) ||
        (st = kd__read_bool(r, o, "pre_tokenizer", "invert", false, &invert)))
        return st;
    if (strcmp(behavior, "Isolated") || invert)
        return kd__read_unsupported(r, "pre_tokenizer Split of behavior", behavior,
                                    "Isolated, not inverted,");
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        if (!strcmp(regex, patterns[i].regex)) {
            split->rule = patterns[i].rule;
            split->numbers = patterns[i].numbers;
            return KD_OK;
        }
    return kd__read_unsupported(r, "pre_tokenizer Split by", regex, "that of GPT-2, SmolLM or Llama 3");
}

/* The steps in their order: [Digits | Split,] ByteLevel, whose own expression counts where there is no Split.
 */
static kd_status read_step(const kd__reader *r, const json_t *o, bool *split, bool *bytes)
{
    const char *type;
    bool on, own;
    kd_status st = kd__read_str(r, o, "pre_tokenizer", "type", &type);
    if (st) return st;
    if (*bytes)
        return kd__read_unsupported(r, "pre_tokenizer behind ByteLevel:", type, "ByteLevel at the end");
    if (!strcmp(type, "Digits") && !*split) {
        if ((st = kd__read_bool(r, o, "pre_tokenizer", "individual_digits", false, &on))) return st;
        r->t->bpe.split.digits = true;
        return on ? KD_OK
                  : kd__read_unsupported(r, "pre_tokenizer Digits of", "several", "individual_digits: true");
    }
    if (!strcmp(type, "Split") && !*split && !r->t->bpe.split.digits)
        return *split = true, read_pattern(r, o);
    if (strcmp(type, "ByteLevel"))
        return kd__read_unsupported(r, "pre_tokenizer", type, "ByteLevel, alone or behind Digits or Split,");
    *bytes = true;
    if ((st = kd__read_bool(r, o, "pre_tokenizer", "add_prefix_space", true, &on)) ||
        (st = kd__read_bool(r, o, "pre_tokenizer", "use_regex", true, &own)))
        return st;
    if (on) return kd__read_unsupported(r, "pre_tokenizer.add_prefix_space", "true", "false");
    return own == *split ? kd__read_unsupported(r, "pre_tokenizer",
                                                own ? "Split before ByteLevel's own" : "without any",
                                                "one regular expression")
                         : KD_OK;
}

static kd_status read_steps(const kd__reader *r, const json_t *root)
{
    const json_t *o, *list, *step;
    const char *type = "null";
    bool split = false, bytes = false;
    size_t i;
    kd_status st = kd__read_part(r, root, "pre_tokenizer", &o, &type);
    if (st || !o) return st ? st : kd__read_unsupported(r, "pre_tokenizer", type, "ByteLevel");
    if (strcmp(type, "Sequence")) {
        st = read_step(r, o, &split, &bytes);
    } else {
        list = json_object_get(o, "pretokenizers");
        if (!json_is_array(list)) return kd__read_bad(r, "pre_tokenizer", "pretokenizers", "a list");
        json_array_foreach(list, i, step) if ((st = read_step(r, step, &split, &bytes))) return st;
    }
    return st || bytes ? st : kd__read_unsupported(r, "pre_tokenizer without", "ByteLevel", "one with it");
}

kd_status kd__read_bpe_rest(const kd__reader *r, const json_t *root)
{
    const json_t *o;
    const char *type = "";
    kd_status st = kd__read_part(r, root, "normalizer", &o, &type);
    if (st) return st;
    if (o) return kd__read_unsupported(r, "normalizer", type, "BPE without one");
    r->t->plain = true;
    if ((st = read_steps(r, root)) || (st = kd__read_part(r, root, "decoder", &o, &type))) return st;
    if (!o || strcmp(type, "ByteLevel"))
        return kd__read_unsupported(r, "decoder", o ? type : "null", "ByteLevel");
    return kd__bpe_finish(r->t, r->where, r->err);
}
