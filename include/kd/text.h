/* kd/text.h - texts become token ids, and ids texts, as a model's own tokenizer does it.
 *
 * A tokenizer is read from a Hugging Face folder (tokenizer.json, or vocab.txt of a BERT) or a GGUF file and
 * gives the ids that PyPI's `tokenizers` gives, to the last one: BertNormalizer, BertPreTokenizer, WordPiece;
 * byte-level BPE behind the pre-tokenizers of GPT-2, SmolLM and Llama 3; added tokens matched in the raw
 * text, templates, truncation. What a file asks for that is not here is refused by name.
 *
 *     kd_tokenizer *t;
 *     kd_encoder *e;
 *     kd_encoding enc;
 *     kd_tokenizer_open(&t, "minilm/", &err);
 *     kd_encoder_open(&e, t, &err);
 *     kd_encode(e, (kd_text){"a cat", 5}, NULL, &(kd_encode_params){.max_tokens = 128, .special = true},
 * &enc, &err); for (size_t i = 0; i < enc.n; i++) use(enc.id[i]);        // [CLS] a cat [SEP]
 *
 * Texts are bytes with a length. What is not UTF-8 counts as U+FFFD, one for each longest part of a sequence
 * that could have become one, as Python's errors="replace" has it; a BERT drops them. No text is an error.
 *
 * Threads: a tokenizer is read by any number of threads; an encoder belongs to one.
 */
#ifndef KD_TEXT_H
#define KD_TEXT_H

#include "kd/base.h"

#define KD_TOKENIZER_MAX_BYTES (32u << 20) /* of a file */
#define KD_TOKENIZER_MAX_SIZE  (1u << 21)  /* ids */
#define KD_TOKEN_MAX_BYTES     1024
#define KD_TEXT_MAX_BYTES      (1u << 30)

typedef struct kd_text {
    const char *bytes; /* need not end with NUL */
    size_t len;
} kd_text;

typedef struct kd_tokenizer kd_tokenizer;
typedef struct kd_encoder kd_encoder;

/* ---- tokenizers --------------------------------------------------------------------------- */

/* path: a folder with tokenizer.json or vocab.txt, or one of these files (any name that ends in .json or
 * .txt), or a model's .gguf. vocab.txt goes by the folder's tokenizer_config.json: do_lower_case (true
 * without), tokenize_chinese_chars, strip_accents, names of the special tokens. KD_ENOTFOUND, KD_ECORRUPT
 * (names the member), KD_EUNSUPPORTED (a kind of model, normalizer, ... that is not here), KD_ELIMIT,
 * KD_ENOMEM. */
kd_status kd_tokenizer_open(kd_tokenizer **out, const char *path, kd_err *err);
/* The same from memory: files is an object {"tokenizer.json": "text of the file", ...} as kd_tokenizer_files
 * gives it. where: for messages. */
kd_status kd_tokenizer_from(kd_tokenizer **out, const json_t *files, const char *where, kd_err *err);
void kd_tokenizer_close(kd_tokenizer *t); /* NULL-safe */
/* Its files by name: tokenizer.json or vocab.txt, and of tokenizer_config.json, special_tokens_map.json and
 * vocab.txt what lay beside it. Borrowed. */
const json_t *kd_tokenizer_files(const kd_tokenizer *t);
/* Writes them into a folder that exists, byte for byte. KD_EFULL, KD_EIO. */
kd_status kd_tokenizer_save(const kd_tokenizer *t, const char *folder, kd_err *err);
/* kd_hash128 of tokenizer.json (of vocab.txt where there is none), 32 hex digits. Borrowed. */
const char *kd_tokenizer_hash(const kd_tokenizer *t);
/* The largest id and one: rows of an embedding table. */
uint32_t kd_tokenizer_size(const kd_tokenizer *t);
/* Truncation that its file asks for, 0: none. Nothing is cut unless kd_encode_params say so. */
size_t kd_tokenizer_max_tokens(const kd_tokenizer *t);
/* Special tokens that a text (or a pair) gets: those of the template. */
size_t kd_tokenizer_added(const kd_tokenizer *t, bool pair);
bool kd_tokenizer_find(const kd_tokenizer *t, const char *token, uint32_t *id); /* false: no such token */
const char *kd_tokenizer_token(const kd_tokenizer *t, uint32_t id); /* borrowed; NULL: no such id */
/* The token that tokenizer_config.json has under bos_token, eos_token, ...; false: none. */
bool kd_tokenizer_special(const kd_tokenizer *t, const char *role, uint32_t *id);
/* Byte-level BPE as keys of a GGUF file for a model of `rows` tokens; ids without a token are unused ones
 * there. where: for messages. KD_EUNSUPPORTED (llama.cpp has no name for it), KD_EMISMATCH (too many tokens).
 */
struct kd_gguf_writer;
kd_status kd_tokenizer_put_gguf(const kd_tokenizer *t, struct kd_gguf_writer *g, uint32_t rows,
                                const char *where, kd_err *err);
/* Appends the text of ids as `tokenizers` decodes them; special: special tokens are kept. KD_EMISMATCH (an id
 * that the vocabulary does not have), KD_ENOMEM. */
kd_status kd_decode(const kd_tokenizer *t, const uint32_t *id, size_t n, bool special, kd_buf *out,
                    kd_err *err);

/* The same token by token, as a model writes: what is appended is UTF-8 each time; of a character that is not
 * whole yet the bytes wait in the state. A zeroed state begins; the end gives what still waits as U+FFFD. */
typedef struct kd_decode_state {
    uint8_t held[4];
    size_t n;
    bool begun;
} kd_decode_state;
kd_status kd_decode_next(const kd_tokenizer *t, kd_decode_state *s, uint32_t id, bool special, kd_buf *out,
                         kd_err *err);
kd_status kd_decode_end(kd_decode_state *s, kd_buf *out, kd_err *err);

/* ---- encoding ----------------------------------------------------------------------------- */

typedef struct kd_encode_params {
    size_t max_tokens; /* special tokens included; 0: no limit */
    bool special;      /* add those of the template */
    bool literal;      /* special tokens that stand in the text are text, not tokens: what users wrote */
} kd_encode_params;

typedef struct kd_encoding {
    const uint32_t *id; /* (n) borrowed until the encoder's next call */
    size_t n;
    size_t second; /* tokens before it are of type 0, from it on of type 1; n without a pair */
    bool cut;      /* there were more than max_tokens */
} kd_encoding;

kd_status kd_encoder_open(kd_encoder **out, const kd_tokenizer *t, kd_err *err); /* t must outlive it */
void kd_encoder_close(kd_encoder *e);                                            /* NULL-safe */
/* pair: the second text, NULL without one. Of a pair the longer text is cut first. KD_EUSAGE (max_tokens
 * leaves no room beside the special tokens), KD_ELIMIT (a text over KD_TEXT_MAX_BYTES), KD_ENOMEM. */
kd_status kd_encode(kd_encoder *e, kd_text text, const kd_text *pair, const kd_encode_params *p,
                    kd_encoding *out, kd_err *err);

/* Many texts: row i has the ids offset[i] to offset[i + 1]. */
typedef struct kd_token_rows {
    size_t rows;
    uint32_t *id;
    uint64_t *offset; /* (rows + 1) */
    uint64_t cut;     /* rows that had more than max_tokens */
} kd_token_rows;
/* texts: (n). The rows do not depend on threads. Errors as kd_encode. */
kd_status kd_encode_rows(kd_token_rows *out, const kd_tokenizer *t, const kd_text *texts, size_t n,
                         const kd_encode_params *p, int threads, kd_err *err);
void kd_token_rows_release(kd_token_rows *r);

/* ---- chats -------------------------------------------------------------------------------- */

/* How a model's chat template (tokenizer_config.json, or the GGUF file's key) writes conversations. PLAIN: it
 * has none, texts stand with an empty line between them. */
typedef enum kd_chat_kind { KD_CHAT_PLAIN, KD_CHAT_CHATML, KD_CHAT_LLAMA3 } kd_chat_kind;
typedef struct kd_chat kd_chat;
typedef struct kd_message {
    const char *role; /* system, user, assistant */
    kd_text text;
} kd_message;
typedef struct kd_chat_tokens {
    uint32_t *id;
    uint8_t *answer; /* (n) 1: a token of an assistant's text, or the one that ends it */
    size_t n;
} kd_chat_tokens;

/* KD_EUNSUPPORTED (a template of another kind, named where it is known), KD_EMISMATCH (a control token that
 * the vocabulary does not have), KD_ENOMEM. */
kd_status kd_chat_open(kd_chat **out, const kd_tokenizer *t, kd_err *err);
void kd_chat_close(kd_chat *c); /* NULL-safe */
kd_chat_kind kd_chat_kind_of(const kd_chat *c);
bool kd_chat_end(const kd_chat *c, uint32_t *id); /* the token that ends an answer; false: none */
/* Tokens with which a model says that its text or answer ends: what tokenizer_config.json calls eos_token,
 * the usual ones, and that of its chat template where it is known. Returns how many. */
enum { KD_CHAT_ENDS = 4 };
size_t kd_chat_ends(const kd_tokenizer *t, uint32_t id[KD_CHAT_ENDS]);
/* A conversation; answer: an assistant's turn is opened at its end. Texts never become control tokens. e: of
 * the tokenizer of c. KD_EUSAGE (a role that is none), and those of kd_encode. */
kd_status kd_chat_encode(const kd_chat *c, kd_encoder *e, const kd_message *m, size_t n, bool answer,
                         kd_chat_tokens *out, kd_err *err);
void kd_chat_tokens_release(kd_chat_tokens *t);

#endif
