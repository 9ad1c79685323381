/* fuzz_codec.c - encoded blocks of every codec that is registered.
 *
 * An input is which codec, width - 1, positions and keep pattern (a byte each), the length of a codebook (2
 * bytes; 0: none), the codebook, the block. Random bytes are seldom a block, so now and then the mutator
 * begins anew with one that the codec itself wrote: no seeds are needed, also not for a codec that is added
 * later. What check accepts can be decoded and selected from, and what was selected is accepted.
 */
#include "fuzz.h"
#include "kd/codec.h"

enum { HEAD = 6 };

typedef struct block {
    const uint8_t *data;
    size_t bytes, positions;
} block;

/* ---- the mutator ------------------------------------------------------------------------------ */

/* Logits of about the spread of a teacher's, the same for the same seed. */
static float *make_values(size_t n, unsigned seed)
{
    float *v = malloc(n * sizeof(*v) + 1);
    kd_rng r;
    MUST(v);
    kd_rng_init(&r, seed, KD_RNG_TEST, 0, 0);
    const float spread = seed & 1 ? 3.0f : 0.01f;
    for (size_t i = 0; i < n; i++) v[i] = spread * kd_rng_normal(&r);
    return v;
}

static void encode(kd_buf *out, const kd_codec_info *info, uint8_t head[HEAD], unsigned seed)
{
    const int64_t width = 1 + head[1];
    const uint32_t rows = head[2];
    kd_err err = {0};
    kd_id ids[256] = {0};
    kd_codec *c = NULL;
    void *book = NULL;
    size_t book_bytes = 0;
    for (uint32_t i = 0; i < rows; i++) ids[i] = kd_hash128(&i, sizeof(i));
    float *values = make_values(rows * (size_t)width, seed);
    if (info->book && seed & 2)
        kd_codec_learn(info->name, width, NULL, values, rows, &book, &book_bytes, &err);
    if (book_bytes > UINT16_MAX) book_bytes = 0;
    head[4] = (uint8_t)book_bytes;
    head[5] = (uint8_t)(book_bytes >> 8);
    kd_buf_append(out, head, HEAD);
    kd_buf_append(out, book, book_bytes);
    const kd_codec_block b = {.values = values, .rows = rows, .each = 1, .ids = ids};
    if (!kd_codec_open(&c, info->name, width, NULL, book, book_bytes, &err))
        kd_codec_encode(c, &b, 1, out, &err);
    kd_codec_close(c);
    free(book);
    free(values);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size_t n;
    const kd_codec_info *list = kd_codec_list(&n);
    if (seed % 256 || max < HEAD) return LLVMFuzzerMutate(data, size, max);
    seed /= 256;
    uint8_t head[HEAD] = {(uint8_t)(seed % n), (uint8_t)(seed >> 8), (uint8_t)(seed >> 16 & 15),
                          (uint8_t)(seed >> 4)};
    kd_buf out = {0};
    encode(&out, &list[head[0]], head, seed);
    size = kd_min_size(out.len, max);
    memcpy(data, out.text, size);
    kd_buf_release(&out);
    return size;
}

/* ---- the harness ------------------------------------------------------------------------------ */

static kd_status decode(const kd_codec *c, block b, kd_err *err)
{
    const size_t width = (size_t)kd_codec_width(c);
    if (kd_codec_describe(c)->sparse) {
        kd_sparse s = {0};
        kd_status st = kd_codec_sparse(c, b.data, b.bytes, b.positions, &s, err);
        for (size_t i = 0; !st && i < s.positions; i++)
            for (uint64_t k = s.offset[i]; k < s.offset[i + 1]; k++)
                MUST(s.id[k] < width && (k == s.offset[i] || s.id[k - 1] < s.id[k]));
        kd_sparse_release(&s);
        return st;
    }
    float *out = malloc(b.positions * width * sizeof(*out) + 1);
    MUST(out);
    kd_status st = kd_codec_decode(c, b.data, b.bytes, b.positions, out, err);
    free(out);
    return st;
}

static void select_from(const kd_codec *c, block b, uint8_t pattern, kd_err *err)
{
    uint8_t keep[256];
    kd_buf out = {0};
    size_t kept = 0;
    for (size_t i = 0; i < b.positions; i++) kept += keep[i] = pattern >> (i & 7) & 1;
    MUST(!kd_codec_select(c, b.data, b.bytes, b.positions, keep, &out, err));
    MUST(!kd_codec_check(c, out.text, out.len, kept, err));
    kd_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n;
    kd_err err = {0};
    kd_codec *c;
    if (size < HEAD) return 0;
    const kd_codec_info *list = kd_codec_list(&n), *info = &list[data[0] % n];
    const size_t positions = data[2], book = kd_min_size(data[4] | (size_t)data[5] << 8, size - HEAD);
    const uint8_t *at = data + HEAD;
    if (kd_codec_open(&c, info->name, 1 + data[1], NULL, book ? at : NULL, book, &err)) return 0;
    const block b = {at + book, size - HEAD - book, positions};
    const kd_status good = kd_codec_check(c, b.data, b.bytes, positions, &err);
    MUST(!decode(c, b, &err) == !good);
    if (!good) select_from(c, b, data[3], &err);
    kd_codec_close(c);
    return 0;
}
