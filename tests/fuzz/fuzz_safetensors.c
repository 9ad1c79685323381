/* fuzz_safetensors.c - a safetensors file: header and data, and the header alone. */
#include "fuzz.h"
#include "kd/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_tensors *t = NULL, *head = NULL;
    kd_err err = {0};
    const char *path = fz_file(0, data, size);
    const kd_status whole = kd_tensors_open(&t, path, &err), alone = kd_tensors_scan(&head, path, &err);
    MUST(whole == alone);
    uint8_t sum = 0;
    for (size_t i = 0; !whole && i < kd_tensors_count(t); i++) {
        const kd_tensor *x = kd_tensors_at(t, i);
        MUST(kd_tensors_where(t, i) + x->bytes <= size);
        if (i < 16) MUST(kd_tensors_find(t, x->name) == x);
        for (size_t k = 0; k < x->bytes; k++) sum ^= ((const uint8_t *)x->data)[k]; // all of it can be read
    }
    if (!whole && sum) kd_tensors_metadata(t, "format");
    kd_tensors_close(t);
    kd_tensors_close(head);
    return 0;
}
