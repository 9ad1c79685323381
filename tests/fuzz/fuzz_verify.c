/* fuzz_verify.c - a whole store: what kd-store verify walks and what readers read.
 *
 * An input is manifest.json, a NUL byte, and the base segment. The mutator changes few bytes at a time,
 * mostly of what is not zero in the segment, then repairs what would end the walk at once: tags and checksums
 * of records, the header's checksum, sizes, root and checksum of the manifest.
 */
#include "repair.h"

#include "kd/store.h"

/* ---- the mutator ------------------------------------------------------------------------------ */

enum { HEAD = 64, WINDOW = 48 };

/* Repairs the record at `at` if there is a whole one; tag NULL: of a header record. Its checksum, 0: none
 * there. */
static uint64_t repair_record(uint8_t *at, size_t room, const uint64_t *tag)
{
    uint64_t stored, sum = 0;
    memcpy(&stored, at + 40, 8);
    if (stored > room - HEAD) return 0;
    if (tag) memcpy(at + 48, tag, 8);
    memcpy(at + 56, &sum, 8);
    sum = kd_hash64(at, HEAD + (size_t)stored);
    memcpy(at + 56, &sum, 8);
    return sum;
}

static uint8_t *next_record(uint8_t *segment, size_t size, uint8_t *from)
{
    uint8_t *at = fz_find(segment, size, from, "KDRC", HEAD - 4);
    return at ? at - 4 : NULL;
}

static uint64_t repair_segment(uint8_t *segment, size_t size)
{
    static const uint8_t header[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    uint64_t tag = 0;
    for (uint8_t *at = segment; (at = next_record(segment, size, at)); at += HEAD)
        if (!memcmp(at + 12, header, 8)) tag = repair_record(at, size - (size_t)(at - segment), NULL);
    for (uint8_t *at = segment; (at = next_record(segment, size, at)); at += HEAD)
        if (memcmp(at + 12, header, 8)) repair_record(at, size - (size_t)(at - segment), &tag);
    return tag;
}

/* "bytes": the number that stands there is replaced if the digits and spaces there have room. */
static void repair_manifest(uint8_t *text, size_t len, size_t bytes, uint64_t tag)
{
    char digits[24];
    uint8_t *at = fz_find(text, len, text, "\"header\": \"", 16);
    snprintf(digits, sizeof(digits), "%016llx", (unsigned long long)tag);
    if (at && tag) memcpy(at, digits, 16);
    at = fz_find(text, len, text, "\"bytes\": ", 0);
    size_t room = 0, n = (size_t)snprintf(digits, sizeof(digits), "%zu", bytes);
    while (at && at + room < text + len && ((at[room] >= '0' && at[room] <= '9') || at[room] == ' ')) room++;
    if (room >= n) {
        memset(at, ' ', room);
        memcpy(at, digits, n);
    }
    fz_repair_manifest(text, len);
}

/* Bytes that are used: not in the middle of zeros, which LMDB's pages are full of. */
static size_t used_place(const uint8_t *p, size_t size, unsigned seed)
{
    for (int tries = 0; tries < 16; tries++) {
        seed = seed * 1103515245u + 12345u;
        const size_t at = (seed >> 4) % size;
        if (p[at] || tries == 15) return at;
    }
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    uint8_t window[WINDOW], *nul = memchr(data, 0, size);
    if (!nul || nul == data || nul + HEAD > data + size || seed % 64 == 0)
        return LLVMFuzzerMutate(data, size, max);
    uint8_t *segment = nul + 1;
    const size_t len = (size_t)(nul - data), bytes = size - len - 1;
    uint8_t *base = seed % 8 ? segment : data;
    const size_t all = seed % 8 ? bytes : len, at = used_place(base, all, seed);
    const size_t n = kd_min_size(WINDOW, all - at);
    memcpy(window, base + at, n);
    const size_t got = LLVMFuzzerMutate(window, n, n);
    memcpy(base + at, window, got); // nothing moves: pages stay where they are
    const uint64_t tag = repair_segment(segment, bytes);
    repair_manifest(data, len, bytes, tag);
    return size;
}

/* ---- the harness ------------------------------------------------------------------------------ */

static void read_all(const char *path)
{
    kd_store *s = NULL;
    kd_cursor *c = NULL;
    kd_err err = {0};
    if (kd_store_open(&s, path, &err) || kd_cursor_open(&c, s, &err)) goto out;
    for (int col = 0; col < (int)kd_store_columns(s); col++)
        for (uint32_t k = 0; k < kd_store_chunks(s) && k < 64; k++) {
            size_t size, positions;
            uint8_t *out;
            if (kd_cursor_size(c, col, k, &size, &err) || size > 1 << 24 || !(out = malloc(size + 1)))
                continue;
            kd_cursor_read(c, col, k, out, size, &err);
            kd_cursor_lengths(c, col, k, NULL, &positions, &err);
            free(out);
        }
out:
    if (c) kd_cursor_close(c);
    if (s) kd_store_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char folder[256];
    const uint8_t *nul = memchr(data, 0, size);
    const size_t len = nul ? (size_t)(nul - data) : size;
    kd_verify_report report;
    kd_err err = {0};
    if (!*folder) {
        snprintf(folder, sizeof(folder), "%s", fz_named(0, "manifest.json"));
        fz_named(1, "base.mdb");
        *strrchr(folder, '/') = '\0';
    }
    fz_file(0, data, len);
    fz_file(1, nul ? nul + 1 : data, nul ? size - len - 1 : 0);
    const kd_status st = kd_store_verify(folder, 1, &report, NULL, NULL, &err);
    MUST(st != KD_OK || report.damaged == 0);
    MUST(st != KD_ECORRUPT || report.damaged > 0);
    read_all(folder);
    return 0;
}
