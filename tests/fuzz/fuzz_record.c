/* fuzz_record.c - a record: header, payload, decoded block; as a chunk's, a segment's header and a codebook.
 *
 * A reader compares a record with what the manifest says. Here the manifest says what the record says, so
 * that only lies about its own content are left to find. The mutator repairs length and checksum.
 */
#include "../../lib/store/store_private.h"
#include "fuzz.h"

enum { MAX_RAW = 1 << 24 }; /* what is decoded here; stores allow 2^30 */

static void repair(uint8_t *record, size_t size)
{
    const uint64_t stored = size - KD__RECORD_HEAD;
    uint64_t sum = 0;
    memcpy(record, "KDRC\1", 5);
    memcpy(record + 40, &stored, 8);
    memcpy(record + 56, &sum, 8);
    sum = kd_hash64(record, size);
    memcpy(record + 56, &sum, 8);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max);
    if (size >= KD__RECORD_HEAD && seed % 16) repair(data, size);
    return size;
}

/* A column that the record may belong to. */
static bool column_of(kd_column *c, const kd__record *r)
{
    static const char *const encodings[] = {"none", "dense"}, *const filters[] = {"none", "shuffle"};
    size_t n;
    const kd_codec_info *list = kd_codec_list(&n);
    const char *encoding = r->encoding < 2 ? encodings[r->encoding] : NULL;
    *c = (kd_column){.name = "c",
                     .role = KD_ROLE_INPUT,
                     .dtype = (kd_dtype)r->dtype,
                     .ndims = (int)(r->column % 4)};
    for (size_t i = 0; i < n; i++)
        if (list[i].code == r->encoding) encoding = list[i].name;
    if (!kd_dtype_size(c->dtype) || !encoding || r->filter > 1) return false;
    for (int i = 0; i < c->ndims; i++) c->dims[i] = 1 + (r->column >> (2 + 2 * i)) % 4;
    if (c->ndims && r->column & 0x100) c->dims[0] = -1;
    snprintf(c->encoding, sizeof(c->encoding), "%s", encoding);
    snprintf(c->filter, sizeof(c->filter), "%s", filters[r->filter]);
    return kd__column_dense(c) || (c->dtype == KD_F32 && !r->filter && c->ndims && c->dims[c->ndims - 1] > 0);
}

static void check_encoded(const kd_column *c, const kd__record *r, const uint8_t *block)
{
    kd_err err = {0};
    kd_codec *codec;
    const size_t head = kd__column_ragged(c) ? 4 * (size_t)r->rows : 0;
    size_t positions;
    if (!kd__column_positions(c, r->rows, block, &positions) || kd_column_codec(&codec, c, &err)) return;
    kd_codec_check(codec, block + head, (size_t)r->raw - head, positions, &err);
    kd_codec_close(codec);
}

static void as_chunk(const kd__record *claim, const uint8_t *data, size_t size)
{
    kd_err err = {0};
    kd__record r;
    kd_column c;
    static kd__decoder d; // as a reader has it: one for all records
    if (!column_of(&c, claim) || claim->rows > KD_STORE_MAX_CHUNK_ROWS) return;
    const kd__expect want = {.column = &c,
                             .index = claim->column,
                             .chunk = claim->chunk,
                             .info = {claim->first, claim->rows, (kd_split)claim->split},
                             .tag = claim->tag};
    if (kd__record_check(&r, data, size, &want, &err) || r.raw > MAX_RAW) return;
    uint8_t *out = malloc((size_t)r.raw + 1);
    MUST(out && (d.zstd || !kd__decoder_init(&d, false, &err)));
    if (!kd__record_decode(&r, data + KD__RECORD_HEAD, &c, out, &d, &err) && !kd__column_dense(&c))
        check_encoded(&c, &r, out);
    free(out);
}

static void as_codebook(const kd__record *claim, const uint8_t *data, size_t size)
{
    kd_err err = {0};
    const kd_column c = {.name = "c", .book_bytes = (size_t)claim->raw};
    if (claim->raw > MAX_RAW) return;
    uint8_t *out = malloc((size_t)claim->raw + 1);
    MUST(out);
    kd__record_open_book(data, size, &c, claim->column, claim->checksum, out, &err);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_err err = {0};
    kd__record claim;
    char *text;
    size_t len;
    uint64_t sum;
    if (!kd__record_open_header(data, size, &text, &len, &sum, &err)) {
        MUST(text[len] == '\0');
        free(text);
    }
    if (size < KD__RECORD_HEAD || kd__record_parse(&claim, data, &err)) return 0;
    as_chunk(&claim, data, size);
    as_codebook(&claim, data, size);
    return 0;
}
