/* kld.c - llama.cpp's file of log-probabilities (`llama-perplexity --kl-divergence-base FILE`).
 *
 *     8 bytes    "_logits_"
 *     i32        n_ctx, n_vocab, n_chunk
 *     i32        tokens, n_chunk x n_ctx
 *     per chunk and position first .. n_ctx - 2, first = n_ctx / 2:
 *         f32 scale, f32 min         log p(class) = scale * q + min
 *         u16 q, n_vocab of them, and one more if n_vocab is odd
 *
 * The first half of a context is not evaluated; the last token predicts nothing that is there. A class 16
 * nats or more below the largest has q = 0. Little-endian, without a checksum: sizes and
 * numbers are all there is to check, and a writer whose disk was full leaves a short file.
 */
#include "exchange_private.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD      20
#define MAX_CTX   (1 << 24)
#define MAX_CHUNK (1 << 30)

kd_status kd_is_kld(const char *path, bool *yes, kd_err *err)
{
    char magic[8];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open", path);
    *yes = pread(fd, magic, 8, 0) == 8 && !memcmp(magic, "_logits_", 8);
    close(fd);
    return KD_OK;
}

static kd_status check_size(const kd_kld *k, uint64_t size, kd_err *err)
{
    uint64_t probs, want;
    if (__builtin_mul_overflow((uint64_t)k->n_chunk * k->positions, k->position_bytes, &probs) ||
        __builtin_add_overflow(k->probs_at, probs, &want))
        return kd_fail(err, KD_ECORRUPT, "%s: the sizes in its header multiply to more than 2^64 bytes",
                       k->path);
    if (size == want) return KD_OK;
    if (size > want)
        return kd_fail(err, KD_ECORRUPT, "%s: %llu bytes behind its %u contexts", k->path,
                       (unsigned long long)(size - want), k->n_chunk);
    const uint64_t whole = size < k->probs_at ? 0 : (size - k->probs_at) / (k->positions * k->position_bytes);
    return kd_fail(
        err, KD_ECORRUPT,
        "%s: cut off: its header says %u contexts, %llu bytes; it has %llu bytes, %llu whole contexts",
        k->path, k->n_chunk, (unsigned long long)want, (unsigned long long)size, (unsigned long long)whole);
}

kd_status kd_kld_open(kd_kld *k, int fd, const char *path, kd_err *err)
{
    struct stat s;
    char head[HEAD];
    int32_t n[3];
    *k = (kd_kld){.fd = fd, .path = path};
    if (fstat(fd, &s)) return kd_fail_errno(err, errno, "%s: cannot stat", path);
    if (!S_ISREG(s.st_mode))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: is read in place, so it must be a plain file", path);
    if (s.st_size < HEAD)
        return kd_fail(err, KD_ECORRUPT, "%s: %lld bytes are no .kld file", path, (long long)s.st_size);
    kd_status st = kd__read_at(fd, head, HEAD, 0, path, err);
    if (st) return st;
    if (memcmp(head, "_logits_", 8))
        return kd_fail(err, KD_ECORRUPT, "%s: does not begin with \"_logits_\": no .kld file", path);
    memcpy(n, head + 8, 12);
    if (n[0] < 3 || n[0] > MAX_CTX || n[2] < 1 || n[2] > MAX_CHUNK)
        return kd_fail(err, KD_ECORRUPT, "%s: %d contexts of %d tokens; expected 1 to %d of 3 to %d", path,
                       n[2], n[0], MAX_CHUNK, MAX_CTX);
    if (n[1] < 1 || n[1] > KD_CODEC_MAX_WIDTH)
        return kd_fail(err, KD_ECORRUPT, "%s: a vocabulary of %d, expected 1 to %d", path, n[1],
                       KD_CODEC_MAX_WIDTH);
    k->n_ctx = (uint32_t)n[0];
    k->n_vocab = (uint32_t)n[1];
    k->n_chunk = (uint32_t)n[2];
    k->first = k->n_ctx / 2;
    k->positions = k->n_ctx - 1 - k->first;
    k->tokens_at = HEAD;
    k->probs_at = HEAD + 4ull * k->n_chunk * k->n_ctx;
    k->position_bytes = 8 + 2 * ((uint64_t)k->n_vocab + (k->n_vocab & 1));
    return check_size(k, (uint64_t)s.st_size, err);
}

kd_status kd_kld_tokens(const kd_kld *k, uint32_t chunk, int32_t *tokens, kd_err *err)
{
    const size_t bytes = 4 * (size_t)k->n_ctx;
    kd_status st = kd__read_at(k->fd, tokens, bytes, k->tokens_at + (uint64_t)chunk * bytes, k->path, err);
    for (uint32_t i = 0; i < k->n_ctx && !st; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= k->n_vocab)
            st = kd_fail(err, KD_ECORRUPT, "%s: context %u, token %u is %d, the vocabulary has %u", k->path,
                         chunk, i, tokens[i], k->n_vocab);
    return st;
}

kd_status kd_kld_values(const kd_kld *k, uint32_t chunk, float *values, kd_err *err)
{
    uint8_t *block = malloc((size_t)k->position_bytes);
    kd_status st = KD_OK;
    if (!block) return kd_fail(err, KD_ENOMEM, "%s: out of memory", k->path);
    for (uint32_t p = 0; p < k->positions && !st; p++) {
        const uint64_t at = (uint64_t)chunk * k->positions + p;
        float scale, min;
        if ((st = kd__read_at(k->fd, block, (size_t)k->position_bytes, k->probs_at + at * k->position_bytes,
                              k->path, err)))
            break;
        memcpy(&scale, block, 4);
        memcpy(&min, block + 4, 4);
        const uint16_t *q = (const uint16_t *)(const void *)(block + 8);
        // Rounding may leave the largest a little over 0; anything more is damage.
        if (!(scale >= 0) || !(min <= 1e-3f) || !(scale * 65535.0f + min <= 1e-3f) || !isfinite(min))
            st = kd_fail(err, KD_ECORRUPT,
                         "%s: context %u, position %u: scale %g and minimum %g are no log-probabilities",
                         k->path, chunk, k->first + p, (double)scale, (double)min);
        float *to = values + (size_t)p * k->n_vocab;
        for (uint32_t i = 0; i < k->n_vocab && !st; i++) to[i] = scale * (float)q[i] + min;
    }
    free(block);
    return st;
}
