/* chars.c - what becomes of each code point, worked out once when a tokenizer is opened.
 *
 * BertNormalizer is four steps over the whole text: drop controls and make blanks of white space, put
 * blanks around Chinese characters, decompose (NFD) and drop marks, lower case. Each is a function of single
 * code points but for one thing, the canonical order of combining characters. So an entry says it all: kept,
 * dropped, or replaced by code points of a pool, with the combining classes by which normalize.c puts
 * in order the few combining characters that are no marks.
 *
 * Entries lie in pages of 128; equal pages are one. A lookup is two loads.
 *
 * Unicode comes from utf8proc; facts.h has the code points where tokenizers knows another version of it.
 */
#include "text_private.h"

#include <utf8proc.h>

enum { FACT_PLAIN, FACT_PUNCT, FACT_MARK };
#include "facts.h"

enum { DECOMPOSED_MAX = 32 }; /* code points that one becomes */

typedef struct about {
    bool control, punct, mark, whole; /* whole: has no decomposition */
    uint8_t order;
} about;

static about about_char(uint32_t cp)
{
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    about a = {.order = (uint8_t)p->combining_class, .mark = p->category == UTF8PROC_CATEGORY_MN};
    size_t lo = 0, hi = sizeof facts / sizeof *facts;
    while (lo < hi) { // the first fact that does not end before cp
        const size_t mid = (lo + hi) / 2;
        if ((uint32_t)facts[mid].last < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < sizeof facts / sizeof *facts && (uint32_t)facts[lo].first <= cp)
        return (about){.punct = facts[lo].kind == FACT_PUNCT,
                       .mark = facts[lo].kind == FACT_MARK,
                       .whole = true,
                       .order = facts[lo].order};
    a.control = p->category == UTF8PROC_CATEGORY_CC || p->category == UTF8PROC_CATEGORY_CF ||
                p->category == UTF8PROC_CATEGORY_CO;
    a.punct =
        (p->category >= UTF8PROC_CATEGORY_PC && p->category <= UTF8PROC_CATEGORY_PO) ||
        (cp > ' ' && cp < 0x7F && p->category >= UTF8PROC_CATEGORY_SM && p->category <= UTF8PROC_CATEGORY_SO);
    a.whole = p->decomp_seqindex == UINT16_MAX && !(cp >= 0xAC00 && cp <= 0xD7A3); // Hangul is computed
    return a;
}

static uint32_t lower(uint32_t cp)
{
    for (size_t i = 0; i < sizeof lower_facts / sizeof *lower_facts; i++)
        if (cp >= (uint32_t)lower_facts[i].first && cp <= (uint32_t)lower_facts[i].last)
            return (uint32_t)lower_facts[i].to + (cp - (uint32_t)lower_facts[i].first);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

bool kd__char_is_space(uint32_t cp) /* Unicode's White_Space, which no version changes */
{
    return (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

bool kd__char_is_word(uint32_t cp)
{
    for (size_t i = 0; i < sizeof word_facts / sizeof *word_facts; i++)
        if (cp >= (uint32_t)word_facts[i].first && cp <= (uint32_t)word_facts[i].last)
            return word_facts[i].word;
    const int c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC ||
           cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
           (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
           (cp >= 0x1F170 && cp <= 0x1F189);
}

static bool is_chinese(uint32_t cp) /* as tokenizers has it: 0x2B820 to 0x2B91F are missing there */
{
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) ||
           (cp >= 0x20000 && cp <= 0x2A6DF) || (cp >= 0x2A700 && cp <= 0x2B81F) ||
           (cp >= 0x2B920 && cp <= 0x2CEAF) || (cp >= 0xF900 && cp <= 0xFAFF) ||
           (cp >= 0x2F800 && cp <= 0x2FA1F);
}

/* What cp becomes: n places of the pool without their last bit. *gone: what it means if there are none. */
static size_t becomes(uint32_t cp, const about *a, const kd__normal *n, uint32_t out[DECOMPOSED_MAX],
                      uint32_t *gone)
{
    utf8proc_int32_t part[DECOMPOSED_MAX] = {(utf8proc_int32_t)cp};
    size_t parts = 1, k = 0;
    *gone = KD__DROP;
    if (n->clean && (!cp || cp == 0xFFFD || (a->control && cp != '\t' && cp != '\n' && cp != '\r'))) return 0;
    if (n->clean && kd__char_is_space(cp)) part[0] = ' ';
    if (n->strip && !a->whole)
        parts = (size_t)utf8proc_decompose_char(part[0], part, DECOMPOSED_MAX, UTF8PROC_DECOMPOSE, NULL);
    *gone = KD__MARK;
    for (size_t i = 0; i < parts; i++) {
        const uint32_t p = (uint32_t)part[i];
        const about b = p == cp ? *a : about_char(p);
        const uint32_t order = n->strip ? (uint32_t)b.order << 21 : 0;
        if (n->strip && b.mark) {
            if (!b.order && parts > 1) out[k++] = KD__POOL_NONE;
            continue;
        }
        out[k++] = (n->lower ? lower(p) : p) | order;
        if (n->lower && p == 0x130) out[k - 1] = 'i', out[k++] = 0x307; // the one that becomes two
    }
    return k;
}

static kd_status to_pool(kd__chars *c, const uint32_t *part, size_t n, uint32_t *at, kd_err *err)
{
    if (c->pool_n + n > c->pool_cap) {
        const size_t cap = 2 * c->pool_cap + 4096;
        uint32_t *more = realloc(c->pool, cap * sizeof *more);
        if (!more) return kd_fail(err, KD_ENOMEM, "out of memory");
        c->pool = more;
        c->pool_cap = cap;
    }
    *at = (uint32_t)c->pool_n;
    memcpy(c->pool + c->pool_n, part, n * sizeof *part);
    c->pool_n += n;
    c->pool[c->pool_n - 1] |= 1u << 29;
    return KD_OK;
}

static kd_status entry_of(kd__chars *c, uint32_t cp, const kd__normal *n, uint32_t *e, kd_err *err)
{
    const about a = about_char(cp);
    uint32_t part[DECOMPOSED_MAX], gone, at = 0, action = KD__KEEP;
    const size_t k = becomes(cp, &a, n, part, &gone);
    const uint32_t order = n->strip ? a.order : 0;
    if (!k) {
        action = gone;
    } else if (k > 1 || part[0] != (cp | order << 21)) {
        kd_status st = to_pool(c, part, k, &at, err);
        if (st) return st;
        action = KD__REPLACE;
    }
    *e = (kd__char_is_space(cp) ? KD__SPACE
          : a.punct             ? KD__PUNCT
                                : KD__WORD) |
         action << 2 | (uint32_t)(n->chinese && is_chinese(cp)) << 4 | order << 5 | at << 13;
    return KD_OK;
}

/* Enters a page; one that is there already is used again. */
static kd_status add_page(kd__chars *c, size_t number, const uint32_t page[KD__CHAR_PAGE], kd_err *err)
{
    const size_t bytes = KD__CHAR_PAGE * sizeof *page;
    size_t i = c->pages;
    while (i-- > 0)
        if (!memcmp(c->entry + i * KD__CHAR_PAGE, page, bytes)) {
            c->page[number] = (uint16_t)i;
            return KD_OK;
        }
    if (c->pages == c->pages_cap) {
        const size_t cap = 2 * c->pages_cap + 64;
        uint32_t *more = realloc(c->entry, cap * bytes);
        if (!more) return kd_fail(err, KD_ENOMEM, "out of memory");
        c->entry = more;
        c->pages_cap = cap;
    }
    c->page[number] = (uint16_t)c->pages;
    memcpy(c->entry + c->pages++ * KD__CHAR_PAGE, page, bytes);
    return KD_OK;
}

kd_status kd__chars_build(kd__chars *c, const kd__normal *n, kd_err *err)
{
    uint32_t page[KD__CHAR_PAGE];
    kd_status st = KD_OK;
    for (uint32_t cp = 0; cp < 0x110000 && !st; cp++) {
        if (cp >= 0x40000 && cp < 0xE0000) // planes 4 to 13 are empty
            page[cp % KD__CHAR_PAGE] = KD__WORD | KD__KEEP << 2;
        else
            st = entry_of(c, cp, n, &page[cp % KD__CHAR_PAGE], err);
        if (!st && cp % KD__CHAR_PAGE == KD__CHAR_PAGE - 1) st = add_page(c, cp / KD__CHAR_PAGE, page, err);
    }
    if (st) return st;
    memset(c->ascii_kind, KD__NOT_ASCII, sizeof c->ascii_kind);
    for (uint32_t cp = 0; cp < 0x80; cp++) {
        const uint32_t e = kd__char(c, cp);
        c->ascii_kind[cp] = (uint8_t)KD__KIND(e);
        c->ascii[cp] = KD__ACTION(e) == KD__KEEP      ? (uint8_t)cp
                       : KD__ACTION(e) == KD__REPLACE ? (uint8_t)c->pool[KD__POOL(e)]
                                                      : KD__DROPPED;
    }
    return KD_OK;
}

void kd__chars_release(kd__chars *c)
{
    free(c->entry);
    free(c->pool);
}
