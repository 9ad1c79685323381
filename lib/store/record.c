/* record.c - one block of a column as bytes: header, checksum, filter, zstd or marks.
 *
 * A record is 64 bytes of header and a payload. The header repeats what the manifest says of the
 * column and the chunk, so that a record that strayed (another column, chunk or store) is as visible
 * as one with a flipped bit. The order of checks is the point of this file: length, fields, then
 * XXH3 over header and payload, and only then does zstd see a byte. zstd itself gets exactly one
 * frame whose content size is the block's, and writes into exactly that many bytes.
 *
 * Frames carry zstd's checksum of the decoded bytes too. XXH3 over the stored bytes already proves
 * that a frame is the one that was written, so cursors skip it (10 % of their time); kd-store verify
 * checks it, which finds a frame that was wrong when it was written.
 *
 * Bytes that are mostly one byte are kept as marks (marks.c) where zstd is not much smaller.
 *
 * A payload that zstd shrinks by less than 1/32 is stored as it is (codec 0): noise-like values, such
 * as the mantissa planes of logits, then cost a copy instead of a decode. docs/store-format.md has
 * the measurement behind that.
 */
#define XXH_STATIC_LINKING_ONLY /* XXH3_state_t on the stack */
#include "store_private.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* the same hash by the widest vectors of this CPU: 2 to 3 times as fast */
#endif

static const uint8_t magic[4] = {'K', 'D', 'R', 'C'};
enum { RECORD_VERSION = 1, CHECKSUM_AT = 56 };

void kd__key(uint32_t chunk, uint32_t column, uint8_t key[8])
{
    for (int i = 0; i < 4; i++) {
        key[i] = (uint8_t)(chunk >> (24 - 8 * i));
        key[4 + i] = (uint8_t)(column >> (24 - 8 * i));
    }
}

static void head_write(uint8_t h[KD__RECORD_HEAD], const kd__record *r)
{
    memset(h, 0, KD__RECORD_HEAD);
    memcpy(h, magic, 4);
    h[4] = RECORD_VERSION;
    h[5] = r->dtype;
    h[6] = r->encoding;
    h[7] = r->filter;
    h[8] = r->codec;
    h[9] = r->split;
    memcpy(h + 10, &r->flags, 2);
    memcpy(h + 12, &r->column, 4);
    memcpy(h + 16, &r->chunk, 4);
    memcpy(h + 20, &r->rows, 4);
    memcpy(h + 24, &r->first, 8);
    memcpy(h + 32, &r->raw, 8);
    memcpy(h + 40, &r->stored, 8);
    memcpy(h + 48, &r->tag, 8);
    memcpy(h + CHECKSUM_AT, &r->checksum, 8);
}

kd_status kd__record_parse(kd__record *r, const uint8_t *h, kd_err *err)
{
    if (memcmp(h, magic, 4)) return kd_fail(err, KD_ECORRUPT, "not a record (its magic is not KDRC)");
    if (h[4] != RECORD_VERSION)
        return kd_fail(err, KD_ECORRUPT, "record version %u, this program reads %d", h[4], RECORD_VERSION);
    memset(r, 0, sizeof(*r));
    r->dtype = h[5];
    r->encoding = h[6];
    r->filter = h[7];
    r->codec = h[8];
    r->split = h[9];
    memcpy(&r->flags, h + 10, 2);
    memcpy(&r->column, h + 12, 4);
    memcpy(&r->chunk, h + 16, 4);
    memcpy(&r->rows, h + 20, 4);
    memcpy(&r->first, h + 24, 8);
    memcpy(&r->raw, h + 32, 8);
    memcpy(&r->stored, h + 40, 8);
    memcpy(&r->tag, h + 48, 8);
    memcpy(&r->checksum, h + CHECKSUM_AT, 8);
    return KD_OK;
}

/* XXH3-64 over the header with a zero checksum field, then the payload. */
static uint64_t record_hash(const uint8_t *record, size_t payload)
{
    static const uint8_t zero[8];
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, record, CHECKSUM_AT);
    XXH3_64bits_update(&state, zero, sizeof(zero));
    XXH3_64bits_update(&state, record + KD__RECORD_HEAD, payload);
    return XXH3_64bits_digest(&state);
}

/* Length, limits and checksum: what holds for any record. */
static kd_status check_whole(kd__record *r, const uint8_t *record, size_t size, kd_err *err)
{
    kd_status st;
    if (size < KD__RECORD_HEAD)
        return kd_fail(err, KD_ECORRUPT, "%zu bytes, a record header alone has %d", size, KD__RECORD_HEAD);
    if ((st = kd__record_parse(r, record, err))) return st;
    if (r->stored != size - KD__RECORD_HEAD)
        return kd_fail(err, KD_ECORRUPT, "payload of %llu bytes according to its header, %zu found",
                       (unsigned long long)r->stored, size - KD__RECORD_HEAD);
    if (r->raw > KD_STORE_MAX_RAW)
        return kd_fail(err, KD_ECORRUPT, "decoded size %llu is over the limit of %u bytes",
                       (unsigned long long)r->raw, KD_STORE_MAX_RAW);
    if (r->codec == KD__CODEC_RAW && r->raw != r->stored)
        return kd_fail(err, KD_ECORRUPT, "codec 0 with %llu stored and %llu decoded bytes",
                       (unsigned long long)r->stored, (unsigned long long)r->raw);
    uint64_t sum = record_hash(record, (size_t)r->stored);
    if (sum != r->checksum)
        return kd_fail(err, KD_ECORRUPT, "checksum %016llx, expected %016llx: the bytes were changed",
                       (unsigned long long)sum, (unsigned long long)r->checksum);
    if (r->codec > KD__CODEC_MARKS) // as it was written, by whom that may be
        return kd_fail(err, KD_ECORRUPT, "codec %u, kd %s reads 0 to %d", r->codec, KD_VERSION,
                       KD__CODEC_MARKS);
    kd__marks m;
    return r->codec == KD__CODEC_MARKS
               ? kd__marks_parse(&m, record + KD__RECORD_HEAD, (size_t)r->stored, r->raw, err)
               : KD_OK;
}

kd_status kd__record_check(kd__record *r, const uint8_t *record, size_t size, const kd__expect *want,
                           kd_err *err)
{
    const kd_column *c = want->column;
    size_t unit;
    kd_status st = check_whole(r, record, size, err);
    if (st) return st;
    if (r->tag != want->tag)
        return kd_fail(err, KD_ECORRUPT,
                       "the record belongs to another segment (tag %016llx, expected %016llx)",
                       (unsigned long long)r->tag, (unsigned long long)want->tag);
    if (r->column != want->index || r->chunk != want->chunk || r->rows != want->info.rows ||
        r->first != want->info.first || r->split != want->info.split || r->flags)
        return kd_fail(
            err, KD_ECORRUPT,
            "the record is of column %u, chunk %u, %u rows from %llu, expected column %u, chunk %u, "
            "%u rows from %llu",
            r->column, r->chunk, r->rows, (unsigned long long)r->first, want->index, want->chunk,
            want->info.rows, (unsigned long long)want->info.first);
    if (r->dtype != c->dtype || r->encoding != kd__encoding_code(c->encoding) ||
        r->filter != kd__filter_code(c->filter))
        return kd_fail(err, KD_ECORRUPT,
                       "dtype %u, encoding %u, filter %u do not fit %s, %s, %s of the manifest", r->dtype,
                       r->encoding, r->filter, kd_dtype_name(c->dtype), c->encoding, c->filter);
    if (!kd__column_unit(c, &unit)) return kd_fail(err, KD_ECORRUPT, "row size overflows");
    // A ragged block is lengths, then whole units; a fixed one has exactly rows * unit bytes; what a codec
    // wrote has any size.
    const bool ragged = kd__column_ragged(c), dense = kd__column_dense(c);
    size_t fixed = ragged ? 4u * (size_t)r->rows : dense ? (size_t)r->rows * unit : 0;
    if (r->raw < fixed || (dense && (ragged ? (r->raw - fixed) % unit : r->raw - fixed) != 0))
        return kd_fail(err, KD_ECORRUPT, "decoded size %llu does not fit %u rows of column %s",
                       (unsigned long long)r->raw, r->rows, c->name);
    return KD_OK;
}

/* One zstd frame, from payload to exactly r->raw bytes. */
static kd_status unzip(const kd__record *r, const uint8_t *payload, uint8_t *out, ZSTD_DCtx *zstd,
                       kd_err *err)
{
    size_t stored = (size_t)r->stored;
    if (ZSTD_getFrameContentSize(payload, stored) != r->raw)
        return kd_fail(err, KD_ECORRUPT, "the zstd frame does not announce %llu bytes",
                       (unsigned long long)r->raw);
    if (ZSTD_findFrameCompressedSize(payload, stored) != stored)
        return kd_fail(err, KD_ECORRUPT, "the payload is not one zstd frame of %zu bytes", stored);
    size_t n = ZSTD_decompressDCtx(zstd, out, (size_t)r->raw, payload, stored);
    if (ZSTD_isError(n)) return kd_fail(err, KD_ECORRUPT, "zstd: %s", ZSTD_getErrorName(n));
    if (n != r->raw)
        return kd_fail(err, KD_ECORRUPT, "zstd gave %zu bytes, expected %llu", n, (unsigned long long)r->raw);
    return KD_OK;
}

/* The filtered block of a record whose payload is not the block itself; out: r->raw bytes. */
static kd_status unpack(const kd__record *r, const uint8_t *payload, uint8_t *out, ZSTD_DCtx *zstd,
                        kd_err *err)
{
    if (r->codec == KD__CODEC_ZSTD) return unzip(r, payload, out, zstd, err);
    return kd__marks_read(out, (size_t)r->raw, payload, (size_t)r->stored, err);
}

/* The content of a record without a filter; out: r->raw bytes. */
static kd_status open_plain(const kd__record *r, const uint8_t *payload, uint8_t *out, kd_err *err)
{
    kd__decoder d = {0};
    kd_status st;
    if (r->codec == KD__CODEC_RAW) {
        memcpy(out, payload, (size_t)r->raw);
        return KD_OK;
    }
    if (!(st = kd__decoder_init(&d, true, err))) st = unpack(r, payload, out, d.zstd, err);
    kd__decoder_release(&d);
    return st;
}

kd_status kd__record_open_header(const uint8_t *record, size_t size, char **text, size_t *len,
                                 uint64_t *checksum, kd_err *err)
{
    kd__record r;
    kd_status st = check_whole(&r, record, size, err);
    if (st) return st;
    if (r.chunk != KD__NO_CHUNK || r.column != KD__NO_CHUNK || r.rows || r.filter || r.raw > KD__HEADER_MAX)
        return kd_fail(err, KD_ECORRUPT, "the first record is not a segment header");
    char *out = malloc((size_t)r.raw + 1);
    if (!out) return kd_fail(err, KD_ENOMEM, "out of memory");
    if ((st = open_plain(&r, record + KD__RECORD_HEAD, (uint8_t *)out, err))) {
        free(out);
        return st;
    }
    out[r.raw] = '\0';
    *text = out;
    *len = (size_t)r.raw;
    *checksum = r.checksum;
    return KD_OK;
}

kd_status kd__record_open_book(const uint8_t *record, size_t size, const kd_column *c, uint32_t index,
                               uint64_t sum, uint8_t *out, kd_err *err)
{
    kd__record r;
    kd_status st = check_whole(&r, record, size, err);
    if (st) return st;
    if (r.checksum != sum || r.chunk != KD__NO_CHUNK || r.column != index || r.rows || r.filter ||
        r.raw != c->book_bytes)
        return kd_fail(
            err, KD_ECORRUPT,
            "the record is of %llu bytes with checksum %016llx, expected the codebook of %zu bytes "
            "with %016llx",
            (unsigned long long)r.raw, (unsigned long long)r.checksum, c->book_bytes,
            (unsigned long long)sum);
    return open_plain(&r, record + KD__RECORD_HEAD, out, err);
}

kd_status kd__block_size(const kd_column *c, uint32_t rows, const kd_block *b, size_t *raw, kd_err *err)
{
    const bool dense = kd__column_dense(c);
    size_t unit = 0, units = rows, bytes, total, positions;
    if (!kd__column_unit(c, &unit)) return kd_fail(err, KD_EUSAGE, "column %s: row size overflows", c->name);
    if (kd__column_ragged(c)) {
        if (!b->lengths)
            return kd_fail(err, KD_EUSAGE, "column %s is ragged: its blocks need lengths", c->name);
        units = 0;
        for (uint32_t i = 0; i < rows; i++) units += b->lengths[i];
    } else if (b->lengths) {
        return kd_fail(err, KD_EUSAGE, "column %s has a fixed shape: its blocks take no lengths", c->name);
    }
    if (!dense) unit = 1, units = b->bytes;
    if (!kd_mul_size(units, unit, &bytes) ||
        !kd_add_size(bytes, b->lengths ? 4u * (size_t)rows : 0, &total) || total > KD_STORE_MAX_RAW ||
        !kd__column_positions(c, rows, (const uint8_t *)b->lengths, &positions))
        return kd_fail(err, KD_ELIMIT,
                       "column %s: a block of %zu x %zu bytes is over the limit of 1 GiB, use smaller chunks",
                       c->name, units, unit);
    if (bytes != b->bytes)
        return kd_fail(err, KD_EUSAGE, "column %s: block of %zu bytes, expected %zu (%zu x %zu)", c->name,
                       b->bytes, bytes, units, unit);
    *raw = total;
    return KD_OK;
}

void kd__block_filter(uint8_t *out, const kd_column *c, uint32_t rows, const kd_block *b, int filter)
{
    size_t size = kd_dtype_size(c->dtype);
    const bool planes = filter != KD__FILTER_NONE;
    if (b->lengths) {
        kd__shuffle(out, (const uint8_t *)b->lengths, rows, planes ? 4 : 1);
        if (!planes) memcpy(out, b->lengths, 4u * (size_t)rows);
        out += 4u * (size_t)rows;
    }
    if (filter == KD__FILTER_EXPONENT)
        kd__split_exponents(out, b->data, b->bytes / size);
    else if (planes)
        kd__shuffle(out, b->data, b->bytes / size, size);
    else if (b->bytes)
        memcpy(out, b->data, b->bytes);
}

/* Ways to make a frame, beside zstd levels. */
enum { WHOLE = 0, PIECES = -1, SWIFT = -2, PIECE_LOG = 13, SMALL = 10 };

/* WHOLE: Huffman coding with next to no search for repetitions. PIECES: the same with a table for every 8
 * KiB: a frame's blocks are no longer than its window. SWIFT: zstd's level -1, repetitions without Huffman
 * coding. Returns what zstd does. */
static size_t zip(ZSTD_CCtx *zstd, int way, uint8_t *out, size_t room, const uint8_t *raw, size_t len)
{
    ZSTD_CCtx_reset(zstd, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, way > 0 ? way : way == SWIFT ? -1 : 1);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    if (way == WHOLE || way == PIECES) {
        ZSTD_CCtx_setParameter(zstd, ZSTD_c_strategy, ZSTD_fast);
        ZSTD_CCtx_setParameter(zstd, ZSTD_c_minMatch, 7);
        ZSTD_CCtx_setParameter(zstd, ZSTD_c_hashLog, 6);
    }
    if (way == PIECES) ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, PIECE_LOG);
    return ZSTD_compress2(zstd, out, room, raw, len);
}

size_t kd__record_pack(kd__record *r, const uint8_t *raw, uint8_t *out, ZSTD_CCtx *zstd, int level)
{
    const size_t len = (size_t)r->raw, room = ZSTD_compressBound(len);
    uint8_t *to = out + KD__RECORD_HEAD;
    // What repeats among measured numbers repeats by chance, and to point at it often costs more bytes than
    // it saves. Byte planes, and the parts of an encoded block, are unlike each other: a table of its own for
    // each piece pays there, but tables take time to read, so they have to save 1/32. All frames have their
    // turn in the same place; the one that wins is made again unless it was the last.
    // Of other numbers, such as the bytes of images, one without Huffman coding is read twice as fast: that
    // is worth 1/16, unless the level says that size is all. Marks are read twenty times as fast: worth 1/6.
    const bool floats = kd_dtype_is_float((kd_dtype)r->dtype), haste = !floats && level < SMALL;
    const bool bytes = (r->dtype == KD_U8 || r->dtype == KD_I8) && r->filter == KD__FILTER_NONE;
    const size_t marks = bytes ? kd__marks_write(to, raw, len) : SIZE_MAX;
    const size_t swift = haste ? zip(zstd, SWIFT, to, room, raw, len) : SIZE_MAX;
    const size_t whole = floats ? zip(zstd, WHOLE, to, room, raw, len) : SIZE_MAX;
    const size_t pieces = floats ? zip(zstd, PIECES, to, room, raw, len) : SIZE_MAX;
    size_t n = zip(zstd, level, to, room, raw, len);
    if (ZSTD_isError(n) || (haste && ZSTD_isError(swift)) ||
        (floats && (ZSTD_isError(whole) || ZSTD_isError(pieces))))
        return 0; // stored as it is, its root would be another
    if (floats) {
        const size_t best = kd_min_size(whole, n);
        const int way = pieces + pieces / 32 <= best ? PIECES : whole <= n ? WHOLE : level;
        if (way != level) n = zip(zstd, way, to, room, raw, len);
    }
    r->codec = KD__CODEC_ZSTD;
    if (marks <= len - len / 32 && (haste ? marks - marks / 6 : marks) <= n) {
        r->codec = KD__CODEC_MARKS;
        n = kd__marks_write(to, raw, len);
    } else if (haste && swift - swift / 16 <= n) {
        n = zip(zstd, SWIFT, to, room, raw, len);
    }
    if (ZSTD_isError(n)) return 0;
    if (n > len - len / 32 || n >= len) {
        r->codec = KD__CODEC_RAW;
        if (len) memcpy(to, raw, len);
        n = len;
    }
    r->stored = n;
    r->checksum = 0;
    head_write(out, r);
    r->checksum = record_hash(out, n);
    head_write(out, r);
    return KD__RECORD_HEAD + n;
}

kd_status kd_block_packed_bytes(const kd_column *c, uint32_t rows, const kd_block *b, int level,
                                size_t *bytes, kd_err *err)
{
    kd_column k = *c;
    kd__record r = {0};
    uint8_t *raw = NULL, *out = NULL;
    ZSTD_CCtx *zstd = NULL;
    size_t size = 0;
    k.level = level;
    kd_status st = kd__column_defaults(&k, level, err);
    if (st || (st = kd__block_size(&k, rows, b, &size, err))) return st;
    r.raw = size;
    r.dtype = (uint8_t)k.dtype;
    raw = malloc(size + 1);
    out = malloc(kd__record_room(size));
    if (raw && out && (zstd = ZSTD_createCCtx())) {
        kd__block_filter(raw, &k, rows, b, kd__filter_code(k.filter));
        *bytes = kd__record_pack(&r, raw, out, zstd, level);
        if (!*bytes) st = kd_fail(err, KD_ENOMEM, "out of memory for zstd");
    } else {
        st = kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu bytes", size);
    }
    ZSTD_freeCCtx(zstd);
    free(raw);
    free(out);
    return st;
}

kd_status kd__decoder_init(kd__decoder *d, bool frame_checksum, kd_err *err)
{
    memset(d, 0, sizeof(*d));
    if (!(d->zstd = ZSTD_createDCtx())) return kd_fail(err, KD_ENOMEM, "out of memory for a zstd context");
    ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_windowLogMax, 27);
    // A zstd that does not know this parameter checks: slower, never wrong.
    if (!frame_checksum) ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_forceIgnoreChecksum, ZSTD_d_ignoreChecksum);
    return KD_OK;
}

void kd__decoder_release(kd__decoder *d)
{
    ZSTD_freeDCtx(d->zstd);
    free(d->scratch);
    memset(d, 0, sizeof(*d));
}

kd_status kd__decoder_reserve(kd__decoder *d, size_t size, kd_err *err)
{
    if (size <= d->size) return KD_OK;
    free(d->scratch);
    d->size = 0;
    if (!(d->scratch = malloc(size))) // pages that are never used are never touched
        return kd_fail(err, KD_ENOMEM, "out of memory for a block of %zu bytes", size);
    d->size = size;
    return KD_OK;
}

kd_status kd__record_decode(const kd__record *r, const uint8_t *payload, const kd_column *c, uint8_t *out,
                            kd__decoder *d, kd_err *err)
{
    kd_status st;
    size_t len = (size_t)r->raw, size = kd_dtype_size(c->dtype), unit = 0;
    const uint8_t *planes = payload;
    if (!kd__column_unit(c, &unit)) return kd_fail(err, KD_ECORRUPT, "row size overflows");
    if (r->codec != KD__CODEC_RAW) {
        uint8_t *to = out;
        if (r->filter != KD__FILTER_NONE) {
            if ((st = kd__decoder_reserve(d, len, err))) return st;
            planes = to = d->scratch;
        }
        if ((st = unpack(r, payload, to, d->zstd, err))) return st;
    }
    size_t head = kd__column_ragged(c) ? 4u * (size_t)r->rows : 0;
    if (r->filter != KD__FILTER_NONE) {
        if (head) kd__unshuffle(out, planes, r->rows, 4);
        if (r->filter == KD__FILTER_EXPONENT)
            kd__join_exponents(out + head, planes + head, (len - head) / size);
        else
            kd__unshuffle(out + head, planes + head, (len - head) / size, size);
    } else if (r->codec == KD__CODEC_RAW && len) {
        memcpy(out, payload, len);
    }
    size_t positions = 0;
    if (head && !kd__column_positions(c, r->rows, out, &positions))
        return kd_fail(err, KD_ECORRUPT, "the rows' lengths add up to more than a block may hold");
    // What a codec wrote is compared with its positions by the codec itself.
    if (head && kd__column_dense(c) && positions * kd_column_width(c) * size != len - head)
        return kd_fail(err, KD_ECORRUPT, "the rows' lengths add up to %zu positions, the block holds %zu",
                       positions, (len - head) / unit * kd_column_each(c));
    return KD_OK;
}
