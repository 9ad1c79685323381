#!/usr/bin/env python3
"""bpe_facts.py - writes lib/text/bpe_facts.h: letters and numbers of PyPI's tokenizers that are none, or other, elsewhere.

Its regular expressions (Oniguruma) know one version of Unicode, its Digits (Rust) another, utf8proc a third that depends on
where kd is built. Every code point of which utf8proc or the Unicode of unicodedata2 says anything else is written down as
tokenizers sees it.

    pip install tokenizers unicodedata2
    python bench/peers/bpe_facts.py >lib/text/bpe_facts.h
"""
import ctypes
import ctypes.util

import tokenizers
import unicodedata2
from tokenizers import Regex, pre_tokenizers

u8 = ctypes.CDLL(ctypes.util.find_library("utf8proc"))
u8.utf8proc_category_string.restype = ctypes.c_char_p
u8.utf8proc_unicode_version.restype = ctypes.c_char_p
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
KINDS = {"L": "LETTER", "N": "NUMBER"}


def members(pattern):
    """Code points that a class of a regular expression has: what it does not have is left."""
    split, left = pre_tokenizers.Split(Regex(pattern), "removed"), set()
    for i in range(0, len(CODES), 4096):
        for piece, _ in split.pre_tokenize_str("".join(map(chr, CODES[i:i + 4096]))):
            left.update(map(ord, piece))
    return set(CODES) - left


letters, numbers = members(r"\p{L}"), members(r"\p{N}")
digits = pre_tokenizers.Digits(True)
rows = []
for code in CODES:
    s = chr(code)
    want = "LETTER" if code in letters else "NUMBER" if code in numbers else "OTHER"
    alone = len(digits.pre_tokenize_str(f"a{s}a")) == 3
    for category in (u8.utf8proc_category_string(code).decode(), unicodedata2.category(s)):
        if (want, alone) != (KINDS.get(category[0], "OTHER"), category[0] == "N"):
            if rows and rows[-1][1:] == [code - 1, want, alone]:
                rows[-1][1] = code
            else:
                rows.append([code, code, want, alone])
            break

print(f"""/* bpe_facts.h - letters and numbers of tokenizers that are others elsewhere. Written by bench/peers/bpe_facts.py; do not edit.
 *
 * tokenizers {tokenizers.__version__} against utf8proc (Unicode {u8.utf8proc_unicode_version().decode()}) and Unicode {unicodedata2.unidata_version}: {sum(b - a + 1 for a, b, _, _ in rows)} code points.
 * They hold whatever utf8proc is built with. */
static const struct {{
    int32_t first, last;
    uint8_t kind;
    bool numeric; /* of Digits */
}} facts[] = {{""")
for first, last, kind, alone in rows:
    print(f"    {{0x{first:04X}, 0x{last:04X}, KD__{kind}, {'true' if alone else 'false'}}},")
print("};")
