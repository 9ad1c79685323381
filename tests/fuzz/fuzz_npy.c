/* fuzz_npy.c - a .npy file, plain or gzipped, read whole and by its header alone. */
#include "fuzz.h"
#include "kd/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_array a = {0}, head = {0};
    kd_err err = {0};
    bool swap;
    uint64_t at;
    const char *path = fz_file(0, data, size);
    const kd_status whole = kd_array_read(&a, path, NULL, &err),
                    alone = kd_npy_head(&head, path, &swap, &at, &err);
    // Two ways to the same header.
    if (!whole && !alone)
        MUST(a.rows == head.rows && a.ndims == head.ndims && a.dtype == head.dtype &&
             at + a.rows * kd_array_row_bytes(&a) == size);
    kd_array_release(&a);
    return 0;
}
