/* text_private.h - what the files of lib/text share.
 *
 * A tokenizer is a pipeline: added tokens are cut out of the raw text, the rest is normalised piece by piece,
 * and the model's function turns a normalised piece into ids; a template puts special tokens around them.
 * The models are WordPiece (wordpiece.c, read_json.c) and byte-level BPE (bpe.c, split.c, read_bpe.c).
 */
#ifndef KD_TEXT_PRIVATE_H
#define KD_TEXT_PRIVATE_H

#include "kd/text.h"

#include <stdlib.h>
#include <string.h>

#define KD__NO_ID UINT32_MAX
#define KD__PAD   16 /* readable bytes behind every text that words are taken from */

/* ---- utf8.c ------------------------------------------------------------------------------- */

/* The code point at s < end of valid UTF-8; *n: its bytes. */
static inline uint32_t kd__utf8_next(const uint8_t *s, size_t *n)
{
    if (s[0] < 0x80) return *n = 1, s[0];
    if (s[0] < 0xE0) return *n = 2, (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    if (s[0] < 0xF0) return *n = 3, (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    return *n = 4, (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}
/* Writes a code point (at most 4 bytes); returns how many. */
size_t kd__utf8_put(uint8_t *out, uint32_t cp);
/* Bytes at the end of s that begin a character which more bytes could complete. */
size_t kd__utf8_open(const uint8_t *s, size_t n);
/* Bytes of the longest valid beginning. */
size_t kd__utf8_valid(const uint8_t *s, size_t n);
/* Appends s with U+FFFD for what is not UTF-8. */
void kd__utf8_repair(kd_buf *out, const uint8_t *s, size_t n);

/* ---- chars.c: what the normalizer and the pre-tokenizer do with each code point ------------ */

typedef struct kd__normal { /* BertNormalizer */
    bool clean, chinese, strip, lower;
} kd__normal;

enum { KD__WORD, KD__SPACE, KD__PUNCT, KD__NOT_ASCII }; /* kinds for the pre-tokenizer */
enum { KD__KEEP, KD__DROP, KD__MARK, KD__REPLACE };     /* MARK: dropped behind the decomposition */

/* An entry: kind (2 bits), action (2), stands alone (1), combining class (8), place in the pool (19). */
#define KD__KIND(e)   ((e)&3u)
#define KD__ACTION(e) ((e) >> 2 & 3u)
#define KD__ALONE(e)  ((e) >> 4 & 1u)
#define KD__ORDER(e)  ((e) >> 5 & 255u)
#define KD__POOL(e)   ((e) >> 13)
/* A place of the pool: code point (21 bits), combining class (8), last one (1). */
#define KD__POOL_NONE 0x1FFFFFu /* a mark that is dropped */

#define KD__CHAR_PAGE 128
#define KD__DROPPED   0xFF
typedef struct kd__chars {
    uint16_t page[0x110000 / KD__CHAR_PAGE];
    uint32_t *entry; /* (pages, KD__CHAR_PAGE) */
    uint32_t *pool;
    size_t pages, pages_cap, pool_n, pool_cap;
    uint8_t ascii[128];      /* what ASCII becomes, or KD__DROPPED */
    uint8_t ascii_kind[256]; /* kind of a byte */
} kd__chars;
static inline uint32_t kd__char(const kd__chars *c, uint32_t cp)
{
    return c->entry[(size_t)c->page[cp / KD__CHAR_PAGE] * KD__CHAR_PAGE + cp % KD__CHAR_PAGE];
}
kd_status kd__chars_build(kd__chars *c, const kd__normal *n, kd_err *err);
void kd__chars_release(kd__chars *c);
bool kd__char_is_space(uint32_t cp);
bool kd__char_is_word(uint32_t cp); /* \w of a regular expression */

/* ---- trie.c: byte strings to ids ----------------------------------------------------------- */

typedef struct kd__edge {
    uint32_t key, to; /* node << 8 | byte; 0: empty */
} kd__edge;
typedef struct kd__trie {
    kd__edge *edge; /* (mask + 1) */
    uint32_t edges, mask, shift;
    uint32_t *id; /* (nodes) KD__NO_ID: no string ends here */
    uint32_t nodes, nodes_cap;
} kd__trie;
#define KD__TRIE_ROOT  1u
#define KD__TRIE_NODES (1u << 24)
static inline uint32_t kd__trie_step(const kd__trie *t, uint32_t node, uint8_t byte) /* 0: no such edge */
{
    const uint32_t key = node << 8 | byte;
    for (uint32_t i = key * 0x9E3779B1u >> t->shift;; i = (i + 1) & t->mask) {
        if (t->edge[i].key == key) return t->edge[i].to;
        if (!t->edge[i].key) return 0;
    }
}
/* *was: the id that the string had, KD__NO_ID: none; it keeps that one. KD_ENOMEM, KD_ELIMIT. */
kd_status kd__trie_add(kd__trie *t, const char *s, size_t n, uint32_t id, uint32_t *was, kd_err *err);
uint32_t kd__trie_find(const kd__trie *t, const char *s, size_t n); /* KD__NO_ID: none */
uint32_t kd__trie_walk(const kd__trie *t, const char *s, size_t n); /* the node, 0: none */
void kd__trie_release(kd__trie *t);

/* ---- the tokenizer -------------------------------------------------------------------------- */

typedef struct kd__added { /* an added token */
    char *text;
    size_t len;
    uint32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} kd__added;
typedef struct kd__matcher { /* added tokens that are looked for together */
    kd__trie trie;           /* values: indices in `added` */
    size_t n;
    bool first[256]; /* bytes that one begins with */
    int only;        /* the one first byte, -1: several */
} kd__matcher;

enum { KD__PIECE_A = -1, KD__PIECE_B = -2 };
typedef struct kd__template {
    struct {
        int64_t what; /* an id, or one of the two texts */
        uint8_t type;
    } piece[16];
    size_t n, added; /* added: ids among them */
} kd__template;

typedef struct kd__wordpiece {
    uint32_t unk, inner; /* inner: node of the vocabulary behind "##"; 0: no such tokens */
    size_t max_chars;
    char *prefix;
} kd__wordpiece;

/* How a text falls into words before BPE: kinds of its characters (split.c). */
enum { KD__OTHER, KD__LETTER, KD__NUMBER, KD__BLANK, KD__NEWLINE, KD__KIND_MASK = 7, KD__NUMERIC = 8 };
typedef enum kd__rule { KD__RULE_GPT2, KD__RULE_LLAMA3 } kd__rule;
typedef struct kd__split {
    kd__rule rule;
    int numbers;   /* LLAMA3: digits a word at most */
    bool digits;   /* every digit is a piece of its own, before the rule */
} kd__split;

typedef struct kd__merge { /* a place of the table of merges */
    uint32_t left, right;  /* left KD__NO_ID: empty */
    uint32_t rank, id;     /* the smaller rank goes first; what they become */
} kd__merge;
typedef struct kd__bpe {
    uint32_t byte[256]; /* the token of a byte, KD__NO_ID: none */
    kd__merge *merge;   /* (mask + 1) NULL: no BPE */
    uint64_t mask;
    size_t merges;
    uint32_t unk; /* for bytes without a token, KD__NO_ID: they are dropped */
    bool fuse;    /* several unknown ones become one */
    bool whole;   /* a word that is a token needs no merges (ignore_merges) */
    kd__split split;
} kd__bpe;

typedef kd_status kd__model(kd_encoder *e, const uint8_t *s, size_t n, size_t limit, kd_err *err);
/* Appends the tokens of one word. */
typedef kd_status kd__make(kd_encoder *e, const uint8_t *s, size_t n, size_t chars, kd_err *err);

struct kd_tokenizer {
    json_t *files;
    char hash[33];
    char **token; /* (size) NULL: no such id */
    size_t token_cap;
    uint32_t size;
    kd__trie vocab;
    kd__added *added;
    size_t nadded;
    kd__matcher raw, normal; /* of the raw text, of the normalised one */
    kd__normal normalizer;
    bool plain; /* no normalizer: texts stay as they are */
    kd__chars chars;
    kd__model *model;
    kd__wordpiece wordpiece;
    kd__bpe bpe;
    kd__template single, pair;
    size_t max_tokens;
    bool cut_left;
    bool joins, cleanup; /* decoder: WordPiece, or words with blanks between them */
};

typedef struct kd__word kd__word; /* a place of the cache of words */
typedef struct kd__ids {
    uint32_t *id;
    size_t n, cap;
} kd__ids;
struct kd_encoder {
    const kd_tokenizer *t;
    kd_buf valid, normal; /* the text as UTF-8, a piece of it normalised */
    kd__ids tokens, out;
    uint32_t *pending; /* code points whose order is not decided yet */
    size_t npending, pending_cap;
    kd__word *cache;
    bool literal;         /* special tokens in a text are text */
    kd_buf symbols, heap; /* of bpe.c */
};
static inline bool kd__ids_room(kd__ids *l, size_t n)
{
    if (l->n + n <= l->cap) return true;
    const size_t cap = 2 * l->cap + n + 64;
    uint32_t *more = realloc(l->id, cap * sizeof *more);
    if (!more) return false;
    l->id = more;
    l->cap = cap;
    return true;
}

/* ---- read_json.c, read_vocab.c, vocabulary.c ------------------------------------------------- */

kd_status kd__read_json(kd_tokenizer *t, const char *text, size_t len, const char *where, kd_err *err);
/* config: of tokenizer_config.json, may be NULL. */
kd_status kd__read_vocab(kd_tokenizer *t, const char *text, size_t len, const json_t *config,
                         const char *where, kd_err *err);
/* Puts tokenizer.json and tokenizer_config.json, as a GGUF file has it, into files (read_gguf.c). */
kd_status kd__read_gguf(json_t *files, const char *path, kd_err *err);
/* tokenizer_config.json among files, to be given back; NULL: none. */
kd_status kd__tokenizer_config(json_t **config, const json_t *files, const char *where, kd_err *err);
/* Enters a token of the model. KD_ECORRUPT (the id or the token is there already), KD_ELIMIT. */
kd_status kd__vocabulary_add(kd_tokenizer *t, const char *s, size_t n, uint64_t id, const char *where,
                             kd_err *err);
kd_status kd__vocabulary_added(kd_tokenizer *t, const kd__added *a, const char *where, kd_err *err);
/* Decides what WordPiece needs once the vocabulary is whole. */
kd_status kd__wordpiece_init(kd_tokenizer *t, const char *unk, const char *prefix, size_t max_chars,
                             const char *where, kd_err *err);
void kd__template_bert(kd_tokenizer *t, uint32_t cls,
                       uint32_t sep); /* [CLS] A [SEP], [CLS] A [SEP] B [SEP] */

/* ---- encoding --------------------------------------------------------------------------------- */

/* Builds the matchers once all added tokens are known. */
kd_status kd__added_init(kd_tokenizer *t, kd_err *err);
/* The first token in s[from, n): where the text before it ends, where the rest begins, which. false: none. */
typedef struct kd__match {
    size_t start, stop;
    const kd__added *token;
} kd__match;
bool kd__added_next(const kd_encoder *e, const kd__matcher *m, const uint8_t *s, size_t n, size_t done,
                    size_t *at, kd__match *out);
/* Appends s normalised to e->normal. */
kd_status kd__normalize(kd_encoder *e, const uint8_t *s, size_t n, kd_err *err);
kd__model kd__wordpiece_encode, kd__bpe_encode;

/* ---- split.c, bpe.c, bytes.c: byte-level BPE ---------------------------------------------------- */

void kd__split_init(void); /* before the first word */
/* Where the word at s ends; *piece: where the piece of it ends, 0 before the first call. */
size_t kd__split_next(const kd__split *split, const uint8_t *s, size_t n, size_t at, size_t *piece);
/* The vocabulary is whole: finds the tokens of bytes, makes room for n merges. */
kd_status kd__bpe_init(kd_tokenizer *t, size_t merges, const char *where, kd_err *err);
/* The next merge. KD_ECORRUPT: names what is no token, or is there twice. */
kd_status kd__bpe_merge(kd_tokenizer *t, const char *left, size_t nleft, const char *right, size_t nright,
                        const char *where, kd_err *err);
/* All merges are there. KD_ECORRUPT: too few of them for this vocabulary. */
kd_status kd__bpe_finish(kd_tokenizer *t, const char *where, kd_err *err);
/* The letter that stands for a byte in vocabularies (at most 2 bytes of UTF-8), and back (-1: for none). */
size_t kd__byte_letter(uint8_t byte, uint8_t out[2]);
int kd__letter_byte(uint32_t cp);

#endif
