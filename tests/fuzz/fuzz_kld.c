/* fuzz_kld.c - llama.cpp's file of log-probabilities. */
#include "fuzz.h"
#include "kd/exchange.h"

#include <fcntl.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_kld k;
    kd_err err = {0};
    const char *path = fz_file(0, data, size);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    if (!kd_kld_open(&k, fd, path, &err)) {
        // What the header announces lies in the file, so these are of its size.
        int32_t *tokens = malloc(4 * (size_t)k.n_ctx);
        float *values = malloc((size_t)k.positions * k.n_vocab * sizeof(*values));
        MUST(tokens && values);
        for (uint32_t i = 0; i < k.n_chunk && i < 4; i++) {
            kd_kld_tokens(&k, i, tokens, &err);
            kd_kld_values(&k, i, values, &err);
        }
        free(tokens);
        free(values);
    }
    close(fd);
    return 0;
}
