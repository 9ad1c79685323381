/* repair.h - makes a damaged manifest agree with itself, so that what stands behind its checksum is reached.
 */
#ifndef REPAIR_H
#define REPAIR_H

#include "fuzz.h"

/* Place of what follows key in text behind `from`, or NULL; room: bytes that must follow. */
static inline uint8_t *fz_find(uint8_t *text, size_t len, const uint8_t *from, const char *key, size_t room)
{
    const size_t n = strlen(key), skip = (size_t)(from - text);
    uint8_t *at = memmem(text + skip, len - skip, key, n);
    return at && (size_t)(text + len - at) >= n + room ? at + n : NULL;
}

/* The root follows from the segments' roots, the checksum from the text; both are members of the object
 * itself, behind "segments". */
static inline void fz_repair_manifest(uint8_t *text, size_t len)
{
    uint8_t roots[16 * 64], *at = text, *last = NULL;
    char hex[33];
    size_t n = 0;
    kd_id id;
    while (n < 64 && (at = fz_find(text, len, at, "\"root\": \"", 32))) {
        memcpy(hex, at, 32);
        hex[32] = '\0';
        if (last && kd_id_parse((memcpy(hex, last, 32), hex), &id)) memcpy(roots + 16 * n++, id.b, 16);
        last = at;
    }
    if (last) {
        kd_id_hex(kd_hash128(roots, 16 * n), hex);
        memcpy(last, hex, 32);
    }
    uint8_t *digits = NULL;
    for (at = text; (at = fz_find(text, len, at, "\"checksum\": \"", 33));) digits = at;
    if (!digits) return;
    memset(digits, '0', 32);
    kd_id_hex(kd_hash128(text, len), hex);
    memcpy(digits, hex, 32);
}

#endif
