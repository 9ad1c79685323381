/* split.c - where words end before byte-level BPE: the regular expressions of GPT-2 and of Llama 3, by hand.
 *
 *     GPT-2     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *     Llama 3   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *               |\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * SmolLM has GPT-2's behind a cut around every digit. An engine for regular expressions would bring a Unicode
 * of its own, another one in each release of Debian, and ids must not depend on that: what is a letter or
 * a number is decided here by utf8proc and the facts about tokenizers (bpe_facts.h), one byte a code point.
 * It is faster, too.
 */
#include "text_private.h"

#include <pthread.h>
#include <utf8proc.h>

#include "bpe_facts.h"

#define CODES 0x110000u

static uint8_t published(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return KD__LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return KD__NUMBER | KD__NUMERIC;
    default: return kd__char_is_space(cp) ? KD__BLANK : KD__OTHER;
    }
}

/* Kind | KD__NUMERIC of every code point: the same for all tokenizers, made once. */
static uint8_t kinds[CODES];

static void make_kinds(void)
{
    for (uint32_t cp = 0; cp < CODES; cp++) kinds[cp] = published(cp);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        memset(kinds + facts[i].first, facts[i].kind | (facts[i].numeric ? KD__NUMERIC : 0),
               (size_t)(facts[i].last - facts[i].first) + 1);
    kinds['\r'] = kinds['\n'] = KD__NEWLINE;
}

void kd__split_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_kinds);
}

/* A text between two places. */
typedef struct span {
    const kd__split *split;
    const uint8_t *s, *end;
} span;

/* Kind of the character at p, -1 at the end; *k: its bytes. */
static inline int at(const span *x, const uint8_t *p, size_t *k)
{
    if (p == x->end) return -1;
    *k = 1;
    return kinds[*p < 0x80 ? *p : kd__utf8_next(p, k)] & KD__KIND_MASK;
}

/* Behind the characters of this kind, at most `most`. */
static inline const uint8_t *run(const span *x, const uint8_t *p, int kind, int most)
{
    size_t k = 0;
    while (most-- && at(x, p, &k) == kind) p += k;
    return p;
}

/* Bytes of 's 't 're 've 'm 'll 'd at p, which is an apostrophe; 0: none. any: in any case, the long s
 * (U+017F) included. */
static size_t contraction(const span *x, const uint8_t *p, bool any)
{
    const size_t n = (size_t)(x->end - p);
    const uint8_t low = any ? 0x20 : 0;
    if (n < 2) return 0;
    const uint8_t a = p[1] | low, b = n > 2 ? p[2] | low : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return any && n > 2 && p[1] == 0xC5 && p[2] == 0xBF ? 3 : 0;
}

/* Behind white space: \s*[\r\n]+ where newlines count, else \s+(?!\S) or \s+. */
static const uint8_t *blanks(const span *x, const uint8_t *p, bool newlines)
{
    const uint8_t *q = p, *last = p, *line = NULL;
    size_t k = 0;
    for (int kind; (kind = at(x, q, &k)) == KD__BLANK || kind == KD__NEWLINE; q += k) {
        last = q;
        if (kind == KD__NEWLINE) line = q + k;
    }
    if (newlines && line) return line;
    return q == x->end || last == p ? q : last; // the last one belongs to the word behind it
}

static const uint8_t *gpt2(const span *x, const uint8_t *p)
{
    size_t k = 1, c;
    int kind = at(x, p, &k);
    if (*p == '\'' && (c = contraction(x, p, false))) return p + c;
    const bool blank = *p == ' ';
    const int next = blank ? at(x, p + 1, &k) : kind;
    if (next >= 0 && next <= KD__NUMBER) return run(x, p + blank, next, -1);
    return blanks(x, p, false);
}

static const uint8_t *llama3(const span *x, const uint8_t *p)
{
    size_t k = 1, c, behind;
    const int kind = at(x, p, &k);
    if (*p == '\'' && (c = contraction(x, p, true))) return p + c;
    if (kind == KD__LETTER) return run(x, p, KD__LETTER, -1);
    if (kind == KD__NUMBER) return run(x, p, KD__NUMBER, x->split->numbers);
    if (kind != KD__NEWLINE && at(x, p + k, &behind) == KD__LETTER) return run(x, p + k, KD__LETTER, -1);
    const bool blank = *p == ' ';
    if ((blank ? at(x, p + 1, &behind) : kind) == KD__OTHER)
        return run(x, run(x, p + blank, KD__OTHER, -1), KD__NEWLINE, -1);
    return blanks(x, p, true);
}

/* Where the piece at p ends: before a digit, behind one. */
static size_t piece_end(const uint8_t *s, size_t n, size_t from)
{
    for (size_t i = from, k; i < n; i += k) {
        k = 1;
        const uint8_t kind = kinds[s[i] < 0x80 ? s[i] : kd__utf8_next(s + i, &k)];
        if (kind & KD__NUMERIC) return i == from ? i + k : i;
    }
    return n;
}

size_t kd__split_next(const kd__split *split, const uint8_t *s, size_t n, size_t from, size_t *piece)
{
    if (from >= *piece) *piece = split->digits ? piece_end(s, n, from) : n;
    const span x = {.split = split, .s = s, .end = s + *piece};
    return (size_t)((split->rule == KD__RULE_GPT2 ? gpt2 : llama3)(&x, s + from) - s);
}
