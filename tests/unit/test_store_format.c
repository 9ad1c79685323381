/* test_store_format.c - the bytes that docs/store-format.md describes are the bytes this program
 * writes and reads. The record is a literal, so a change of the format cannot pass unseen; the file
 * is read back through LMDB, which lib/store does not use for reading. */
#include "../../lib/store/store_private.h"
#include "store_fixture.h"

#include <lmdb.h>
#include <xxhash.h>

/* Column 2 (u16, one value a row, shuffled), chunk 3, 4 rows from row 3072, split valid. */
static const char vector[] = "4b445243"                 // KDRC
                             "01030101"                 // version, u16, dense, shuffle
                             "00010000"                 // stored as it is, valid, no flags
                             "020000000300000004000000" // column, chunk, rows
                             "000c000000000000"         // first row
                             "0800000000000000"         // decoded bytes
                             "0800000000000000"         // stored bytes
                             "efcdab8967452301"         // tag
                             "6ab3fbcbdb847ca9"         // checksum
                             "010202ff000001ff";        // low bytes, high bytes
static const uint16_t values[4] = {1, 2, 258, 65535};

static size_t from_hex(const char *hex, uint8_t *out)
{
    size_t n = 0;
    for (; hex[2 * n]; n++) {
        unsigned v;
        assert_int_equal(sscanf(hex + 2 * n, "%2x", &v), 1);
        out[n] = (uint8_t)v;
    }
    return n;
}

static kd_column vector_column(void)
{
    kd_column c;
    fx_column(&c, "label", KD_ROLE_LABEL, KD_U16, 0, 0, 0);
    snprintf(c.encoding, sizeof(c.encoding), "dense");
    snprintf(c.filter, sizeof(c.filter), "shuffle");
    return c;
}

static void a_record_has_the_documented_bytes(void **state)
{
    (void)state;
    uint8_t want[128], got[256], raw[8], key[8];
    size_t n = from_hex(vector, want), size = 0;
    kd_column c = vector_column();
    kd_block b = {values, sizeof(values), NULL};
    kd__record r = {.dtype = KD_U16,
                    .encoding = KD__ENCODING_DENSE,
                    .filter = KD__FILTER_SHUFFLE,
                    .split = KD_VALID,
                    .column = 2,
                    .chunk = 3,
                    .rows = 4,
                    .first = 3072,
                    .raw = 8,
                    .tag = 0x0123456789abcdef};
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    OK(kd__block_size(&c, 4, &b, &size, err));
    assert_int_equal(size, 8);
    kd__block_filter(raw, &c, 4, &b, KD__FILTER_SHUFFLE);
    assert_int_equal(kd__record_pack(&r, raw, got, zstd, 3), n);
    assert_memory_equal(got, want, n);
    kd__key(r.chunk + 1, r.column, key);
    assert_memory_equal(key, "\0\0\0\4\0\0\0\2", 8);
    ZSTD_freeCCtx(zstd);
}

static void the_documented_record_is_read(void **state)
{
    (void)state;
    uint8_t bytes[128];
    uint16_t out[4];
    size_t n = from_hex(vector, bytes);
    kd_column c = vector_column();
    kd__record r;
    kd__decoder d;
    kd__expect want = {.column = &c,
                       .index = 2,
                       .chunk = 3,
                       .info = {.first = 3072, .rows = 4, .split = KD_VALID},
                       .tag = 0x0123456789abcdef};
    OK(kd__decoder_init(&d, true, err));
    OK(kd__record_check(&r, bytes, n, &want, err));
    OK(kd__record_decode(&r, bytes + KD__RECORD_HEAD, &c, (uint8_t *)out, &d, err));
    assert_memory_equal(out, values, sizeof(values));
    want.tag++;
    FAILS(kd__record_check(&r, bytes, n, &want, err), KD_ECORRUPT, "another segment");
    want.tag--;
    want.info.first++;
    FAILS(kd__record_check(&r, bytes, n, &want, err), KD_ECORRUPT,
          "expected column 2, chunk 3, 4 rows from 3073");
    want.info.first--;
    c.dtype = KD_I16;
    FAILS(kd__record_check(&r, bytes, n, &want, err), KD_ECORRUPT, "do not fit i16");
    c.dtype = KD_U16;
    FAILS(kd__record_check(&r, bytes, n - 1, &want, err), KD_ECORRUPT, "payload of 8 bytes");
    FAILS(kd__record_check(&r, bytes, 63, &want, err), KD_ECORRUPT, "63 bytes");
    kd__decoder_release(&d);
}

static void the_checksum_is_xxh3_over_header_and_payload(void **state)
{
    (void)state;
    uint8_t bytes[128];
    uint64_t sum;
    size_t n = from_hex(vector, bytes);
    memcpy(&sum, bytes + 56, 8);
    memset(bytes + 56, 0, 8);
    assert_true(XXH3_64bits(bytes, n) == sum);
}

static void the_document_shows_these_bytes(void **state)
{
    (void)state;
    char *text, digits[4096];
    size_t len, n = 0;
    if (!kd_exists("docs/store-format.md")) {
        print_message("docs/store-format.md is not below the current folder\n");
        skip();
    }
    OK(kd_file_read("docs/store-format.md", 1 << 20, &text, &len, err));
    char *at = strstr(text, "    4b 44 52 43"), *end = at ? strstr(at, "\n\n") : NULL;
    assert_non_null(end);
    for (; at < end; at++) { // "bytes   what they are" in each line
        if (*at == '#')
            at = strchr(at, '\n');
        else if (*at != ' ' && *at != '\n' && n + 1 < sizeof(digits))
            digits[n++] = *at;
    }
    digits[n] = '\0';
    assert_string_equal(digits, vector);
    free(text);
}

static void planes_of_every_size_come_back(void **state)
{
    (void)state;
    uint8_t in[8 * 37], planes[8 * 37], out[8 * 37];
    for (size_t i = 0; i < sizeof(in); i++) in[i] = (uint8_t)(i * 7 + i / 8);
    for (size_t size = 1; size <= 8; size *= 2)
        for (size_t n = 0; n <= 37; n++) {
            kd__shuffle(planes, in, n, size);
            for (size_t i = 0; i < n; i++)
                for (size_t b = 0; b < size; b++) assert_int_equal(planes[b * n + i], in[i * size + b]);
            memset(out, 0, sizeof(out));
            kd__unshuffle(out, planes, n, size);
            assert_memory_equal(out, in, n * size);
        }
}

static void exponents_have_the_documented_bytes_and_come_back(void **state)
{
    (void)state;
    static const uint16_t four[] = {0x3f80, 0xc000, 0x3e20, 0x7fc0};
    static uint16_t all[65536], out[65536];
    static uint8_t planes[sizeof(all)];
    kd__split_exponents(planes, (const uint8_t *)four, 4);
    assert_memory_equal(planes, ((uint8_t[]){0x7f, 0x80, 0x7c, 0xff, 0x00, 0x01, 0x40, 0x80}), 8);
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    kd__split_exponents(planes, (const uint8_t *)all, 65536);
    for (int i = 0; i < 65536; i++) assert_int_equal(planes[i], i >> 7 & 255);
    kd__join_exponents((uint8_t *)out, planes, 65536);
    assert_memory_equal(out, all, sizeof(all));
}

/* Frames of bytes: at zstd's level -1, which has no Huffman coding, unless that costs more than 1/15. */
static void bytes_are_coded_where_that_saves_enough(void **state)
{
    (void)state;
    enum { N = 1 << 16 };
    static uint8_t raw[N], got[N * 2], frame[N * 2];
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    kd_rng rng;
    kd_rng_init(&rng, 1, KD_RNG_TEST, 0, 0);
    for (int kind = 0; kind < 2; kind++) { // noise, each line of it twice; few values in any order
        for (size_t i = 0; i < N; i++)
            raw[i] = !kind && i / 64 % 2 ? raw[i - 64] : (uint8_t)kd_rng_below(&rng, kind ? 16 : 256);
        for (int level = 3; level <= 10; level += 7) {
            kd__record r = {.raw = N, .dtype = KD_U8};
            const size_t n = kd__record_pack(&r, raw, got, zstd, level) - KD__RECORD_HEAD;
            const int want = kind || level == 10 ? level : -1;
            ZSTD_CCtx_reset(zstd, ZSTD_reset_session_and_parameters);
            ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, want);
            ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
            assert_int_equal(r.codec, KD__CODEC_ZSTD);
            assert_int_equal(ZSTD_compress2(zstd, frame, sizeof frame, raw, N), n);
            assert_memory_equal(frame, got + KD__RECORD_HEAD, n);
        }
    }
    ZSTD_freeCCtx(zstd);
}

/* Reads the segment as any LMDB program would and computes its root. */
static void lmdb_reads_the_file_and_finds_the_root(void **state)
{
    (void)state;
    char dir[] = "/tmp/kd-test-format-XXXXXX", path[80], file[120], root[33];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cur;
    MDB_val k, v;
    kd_store *s;
    uint64_t sums[512];
    size_t n = 0;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/f.kd", dir);
    snprintf(file, sizeof(file), "%s/base.mdb", path);
    fx_make(path, NULL);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, file, MDB_RDONLY | MDB_NOSUBDIR | MDB_NOLOCK, 0), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cur), 0);
    for (; n < 512 && !mdb_cursor_get(cur, &k, &v, MDB_NEXT); n++) {
        uint8_t want[8];
        if (n)
            kd__key((uint32_t)((n - 1) / FX_COLUMNS) + 1, (uint32_t)((n - 1) % FX_COLUMNS), want);
        else
            kd__key(0, 0, want);
        assert_int_equal(k.mv_size, 8);
        assert_memory_equal(k.mv_data, want, 8);
        memcpy(&sums[n], (uint8_t *)v.mv_data + 56, 8);
    }
    mdb_cursor_close(cur);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    assert_int_equal(n, 1 + fx_chunks(NULL) * FX_COLUMNS);
    OK(kd_store_open(&s, path, err));
    const json_t *entry = json_array_get(json_object_get(kd_store_manifest(s), "segments"), 0);
    kd_id id = kd_hash128(sums, 8 * n);
    kd_id_hex(id, root);
    assert_string_equal(json_string_value(json_object_get(entry, "root")), root);
    kd_id_hex(kd_hash128(id.b, 16), root);
    assert_string_equal(kd_store_root(s), root);
    kd_store_close(s);
    OK(kd_remove_tree(dir, err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_has_the_documented_bytes),
        cmocka_unit_test(the_documented_record_is_read),
        cmocka_unit_test(the_checksum_is_xxh3_over_header_and_payload),
        cmocka_unit_test(the_document_shows_these_bytes),
        cmocka_unit_test(bytes_are_coded_where_that_saves_enough),
        cmocka_unit_test(planes_of_every_size_come_back),
        cmocka_unit_test(exponents_have_the_documented_bytes_and_come_back),
        cmocka_unit_test(lmdb_reads_the_file_and_finds_the_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
