/* hash.c - XXH3 in the two sizes kd stores.
 *
 * 64 bits guard a record against damage; 128 bits name things (rows, teachers, whole stores), where
 * two different things must not meet by chance among billions. XXH3 is no defence against someone
 * who wants a collision, and nothing here relies on that. Identities are kept as canonical
 * (big-endian) bytes: the same on every machine and in every language's xxhash binding.
 */
#include "kd/base.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint64_t kd_hash64(const void *data, size_t len) { return XXH3_64bits(data, len); }

static kd_id id_of(XXH128_hash_t h)
{
    XXH128_canonical_t c;
    kd_id id;
    XXH128_canonicalFromHash(&c, h);
    memcpy(id.b, c.digest, sizeof id.b);
    return id;
}

kd_id kd_hash128(const void *data, size_t len) { return id_of(XXH3_128bits(data, len)); }

struct kd_hasher {
    XXH3_state_t *state;
};

kd_hasher *kd_hasher_create(void)
{
    kd_hasher *h = malloc(sizeof *h);
    if (!h) return NULL;
    h->state = XXH3_createState(); /* 64-byte aligned, hence not a member */
    if (!h->state) {
        free(h);
        return NULL;
    }
    XXH3_128bits_reset(h->state);
    return h;
}

void kd_hasher_add(kd_hasher *h, const void *data, size_t len)
{
    if (len) XXH3_128bits_update(h->state, data, len);
}

kd_id kd_hasher_digest(const kd_hasher *h) { return id_of(XXH3_128bits_digest(h->state)); }

void kd_hasher_free(kd_hasher *h)
{
    if (!h) return;
    XXH3_freeState(h->state);
    free(h);
}

void kd_id_hex(kd_id id, char out[33])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof id.b; i++) {
        out[2 * i] = digits[id.b[i] >> 4];
        out[2 * i + 1] = digits[id.b[i] & 15];
    }
    out[32] = '\0';
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool kd_id_parse(const char *hex, kd_id *id)
{
    kd_id got;
    if (!hex || strlen(hex) != 32) return false;
    for (size_t i = 0; i < sizeof got.b; i++) {
        int hi = digit_of(hex[2 * i]), lo = digit_of(hex[2 * i + 1]);
        if (hi < 0 || lo < 0) return false;
        got.b[i] = (uint8_t)(hi << 4 | lo);
    }
    *id = got;
    return true;
}
