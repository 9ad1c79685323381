/* utf8.c - valid UTF-8 out of any bytes.
 *
 * A sequence that breaks off counts as one U+FFFD for each longest part that could have been the beginning of
 * a character (Unicode, "substitution of maximal subparts"), as Python and browsers have it.
 */
#include "text_private.h"

size_t kd__utf8_put(uint8_t *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (uint8_t)(0xC0 | cp >> 6);
        out[1] = (uint8_t)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (uint8_t)(0xE0 | cp >> 12);
        out[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | cp >> 18);
    out[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (cp & 0x3F));
    return 4;
}

/* The sequence at s that does not begin with ASCII: its length if it is whole, else 0 and *part, the bytes
 * that one U+FFFD stands for. */
static size_t sequence(const uint8_t *s, size_t n, size_t *part)
{
    uint8_t lo = 0x80, hi = 0xBF;
    size_t want = s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : 4;
    *part = 1;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    if (s[0] == 0xE0) lo = 0xA0; // overlong
    if (s[0] == 0xED) hi = 0x9F; // surrogates
    if (s[0] == 0xF0) lo = 0x90;
    if (s[0] == 0xF4) hi = 0x8F; // beyond U+10FFFF
    for (size_t i = 1; i < want; i++, lo = 0x80, hi = 0xBF) {
        if (i >= n || s[i] < lo || s[i] > hi) return 0;
        *part = i + 1;
    }
    return want;
}

size_t kd__utf8_valid(const uint8_t *s, size_t n)
{
    size_t i = 0, part;
    while (i < n) {
        uint64_t eight;
        if (i + 8 <= n && (memcpy(&eight, s + i, 8), !(eight & 0x8080808080808080u))) {
            i += 8;
        } else if (s[i] < 0x80) {
            i++;
        } else {
            const size_t k = sequence(s + i, n - i, &part);
            if (!k) break;
            i += k;
        }
    }
    return i;
}

size_t kd__utf8_open(const uint8_t *s, size_t n)
{
    size_t part;
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        const uint8_t *p = s + n - k;
        if (*p < 0x80) return 0;
        if (*p >= 0xC0) return *p >= 0xC2 && *p <= 0xF4 && !sequence(p, k, &part) && part == k ? k : 0;
    }
    return 0;
}

void kd__utf8_repair(kd_buf *out, const uint8_t *s, size_t n)
{
    for (size_t at = 0, part; at < n;) {
        const size_t good = kd__utf8_valid(s + at, n - at);
        kd_buf_append(out, s + at, good);
        if ((at += good) == n) break;
        sequence(s + at, n - at, &part);
        kd_buf_append(out, "\xEF\xBF\xBD", 3);
        at += part;
    }
}
