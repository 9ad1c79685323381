/* fuzz_csv.c - a CSV file. The first byte says which columns are wanted. */
#include "fuzz.h"
#include "kd/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const wanted[] = {NULL, "label", "a:c", "id"};
    kd_array a = {0};
    kd_err err = {0};
    if (!size) return 0;
    const char *column = wanted[*data % KD_COUNT(wanted)], *path = fz_named(0, "x.csv");
    fz_file(0, data + 1, size - 1);
    if (kd_array_read(&a, path, column, &err)) MUST(*err.msg);
    kd_array_release(&a);
    return 0;
}
