"""tokenizer_facts.py - writes lib/text/facts.h: where PyPI's tokenizers does not follow the Unicode of today.

Its crates know Unicode 8 (categories), 12 (decomposition) and the newest (lower case). utf8proc follows its own version, so
every code point whose category, combining class, decomposition or lower case is another one in tokenizers than in
utf8proc, or in the Unicode version of unicodedata2, is written down as tokenizers sees it. What no version changes needs no line.

    pip install tokenizers unicodedata2
    python bench/peers/tokenizer_facts.py >lib/text/facts.h
"""
import ctypes
import ctypes.util

import tokenizers
import unicodedata2
from tokenizers import AddedToken, Tokenizer, models
from tokenizers.normalizers import NFD, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

u8 = ctypes.CDLL(ctypes.util.find_library("utf8proc"))
u8.utf8proc_category_string.restype = ctypes.c_char_p
u8.utf8proc_unicode_version.restype = ctypes.c_char_p


def option(**on):
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return BertNormalizer(**{**off, **on}).normalize_str


clean, strip, lower, nfd = option(clean_text=True), option(strip_accents=True), option(lowercase=True), NFD().normalize_str
split = BertPreTokenizer().pre_tokenize_str
CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


class Property(ctypes.Structure):           # the head of utf8proc_property_t
    _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16)]


u8.utf8proc_get_property.restype = ctypes.POINTER(Property)


def decomposed(c):
    out = (ctypes.c_int32 * 64)()
    n = u8.utf8proc_decompose_char(c, out, 64, 2 << 3, None)    # UTF8PROC_DECOMPOSE
    return "".join(map(chr, out[:n]))


def published(c):
    """Facts by utf8proc and by unicodedata2: (control, punctuation, mark, class, decomposition, lower case)."""
    for category, order, parts, small in (
            (u8.utf8proc_category_string(c).decode(), u8.utf8proc_get_property(c)[0].combining_class, decomposed(c),
             chr(u8.utf8proc_tolower(c))),
            (unicodedata2.category(chr(c)), unicodedata2.combining(chr(c)), unicodedata2.normalize("NFD", chr(c)), None)):
        control = category in ("Cc", "Cf", "Co") and c not in (9, 10, 13)
        ascii_mark = c < 128 and chr(c).isprintable() and not chr(c).isalnum() and c != 32
        yield control, category[0] == "P" or ascii_mark, category == "Mn", order, parts, small


# One code point of each combining class that tokenizers' decomposition orders.
ORDERS = {}
for code in CODES:
    k = unicodedata2.combining(chr(code))
    if k and k not in ORDERS and nfd(chr(0x345) + chr(code) if k < 240 else chr(code) + "\u0334") != (
            chr(0x345) + chr(code) if k < 240 else chr(code) + "\u0334"):
        ORDERS[k] = chr(code)
ORDERS[240] = "\u0345"


def order_of(s):
    """The combining class by which tokenizers orders s."""
    above = [k for k, o in ORDERS.items() if nfd(s + o) != s + o]
    below = [k for k, o in ORDERS.items() if nfd(o + s) != o + s]
    if not above and not below:
        return 0
    at = [k for k in ORDERS if k not in above and k not in below]
    assert len(at) == 1, (s, at)
    return at[0]


def ours(c):
    s = chr(c)
    parts = nfd(s)
    return (clean(s) == "" and c not in (0, 0xFFFD) or c == 0, len(split("a" + s + "b")) == 3, strip(s) == "",
            order_of(s) if parts == s else None, parts, lower(s))


facts, small = [], []
for c in CODES:
    a, b = published(c)
    if a[0] == a[1] == a[2] == a[3] == 0 and b[:4] == a[:4] and a[4] == b[4] == chr(c) and c > 0x30000 and c < 0xE0000:
        continue                            # planes without characters
    want = ours(c)
    for x in (a, b):
        if any(w is not None and w != g for w, g in zip(want[:5], x[:5])):
            assert want[4] == chr(c) and not want[0], hex(c)    # no difference of another kind was ever seen
            facts.append((c, "PUNCT" if want[1] else "MARK" if want[2] else "PLAIN", want[3]))
            break
    if want[5] != a[5] and len(want[5]) == 1:
        small.append((c, ord(want[5])))


# \w, as tokens that stand alone meet it.
single = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
single.add_tokens([AddedToken("[w]", single_word=True, normalized=False)])
WORD = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]      # utf8proc's categories: letters, marks, Nd, Nl, Pc
SYMBOLS = [range(0x24B6, 0x24EA), range(0x1F130, 0x1F14A), range(0x1F150, 0x1F16A), range(0x1F170, 0x1F18A)]
words = []
for c in CODES:
    want = single.encode("[w]" + chr(c)).ids[0] == 0
    had = u8.utf8proc_category(c) in WORD or c in (0x200C, 0x200D) or any(c in r for r in SYMBOLS)
    if want != had or want != (unicodedata2.category(chr(c))[0] in "LM" or unicodedata2.category(chr(c)) in ("Nd", "Nl", "Pc") or
                               c in (0x200C, 0x200D) or any(c in r for r in SYMBOLS)):
        words.append((c, int(want)))


def runs(rows, follows):
    out = []
    for row in rows:
        if out and row[0] == out[-1][1] + 1 and follows(out[-1], row):
            out[-1][1] = row[0]
        else:
            out.append([row[0], *row])
    return out


facts_n, small_n, words_n = len(facts), len(small), len(words)
words = runs(words, lambda a, b: a[2] == b[1])
facts = runs(facts, lambda a, b: a[2:] == list(b[1:]))
small = runs(small, lambda a, b: b[1] - b[0] == a[2] - a[0])
print(f"""/* facts.h - where tokenizers' Unicode is not utf8proc's. Written by bench/peers/tokenizer_facts.py; do not edit.
 *
 * tokenizers {tokenizers.__version__} against utf8proc (Unicode {u8.utf8proc_unicode_version().decode()}) and Unicode {unicodedata2.unidata_version}: {facts_n} code points of another
 * category, combining class or decomposition, {small_n} of another lower case, {words_n}
 * that are letters of words in one of them only. They hold whatever utf8proc is built with. */
static const struct {{
    int32_t first, last;
    uint8_t kind, order; /* order: canonical combining class; none of them decomposes */
}} facts[] = {{""")
for first, last, kind, order in facts:
    print(f"    {{0x{first:04X}, 0x{last:04X}, FACT_{kind}, {order}}},")
print("""};
static const struct {
    int32_t first, last, to; /* lower case of first; of the others as far behind it */
} lower_facts[] = {""")
for first, last, to in small:
    print(f"    {{0x{first:04X}, 0x{last:04X}, 0x{to:04X}}},")
print("};")
print("""static const struct {
    int32_t first, last;
    bool word; /* \\w */
} word_facts[] = {""")
for first, last, word in words:
    print(f"    {{0x{first:04X}, 0x{last:04X}, {'true' if word else 'false'}}},")
print("};")
