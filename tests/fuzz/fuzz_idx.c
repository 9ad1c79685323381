/* fuzz_idx.c - an IDX file (the format of MNIST), plain or gzipped. */
#include "fuzz.h"
#include "kd/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_array a = {0};
    kd_err err = {0};
    if (kd_array_read(&a, fz_file(0, data, size), NULL, &err)) MUST(*err.msg);
    kd_array_release(&a);
    return 0;
}
