/* fuzz_gguf.c - a GGUF file: its header, its values, its numbers. */
#include "fuzz.h"
#include "kd/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_gguf *g = NULL;
    kd_err err = {0};
    const kd_gguf_tensor *t;
    if (kd_gguf_open(&g, fz_file(0, data, size), &err)) {
        MUST(!g && *err.msg);
        return 0;
    }
    const size_t n = kd_gguf_tensors(g, &t);
    for (size_t i = 0; i < n; i++) {
        MUST(t[i].where + t[i].bytes <= size && strlen(t[i].name) < KD_GGUF_MAX_NAME);
        if (i < 16) MUST(kd_gguf_find_tensor(g, t[i].name) == &t[i]);
        float *x = malloc(t[i].n * sizeof *x);
        MUST(x && !kd_gguf_read(g, &t[i], x, &err));
        free(x);
    }
    static const char *const keys[] = {"general.architecture", "general.alignment", "a", "b"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const kd_gguf_value *v = kd_gguf_find(g, keys[i]);
        int64_t whole;
        double real;
        const char *s = kd_gguf_str(g, keys[i]);
        MUST(v || (!s && kd_gguf_int(g, keys[i], 0, 9, &whole, NULL)));
        kd_gguf_real(g, keys[i], &real, &err);
        if (!v || v->kind != KD_GGUF_KIND_TEXT) continue;
        const kd_gguf_text *text = v->items;
        for (size_t k = 0; k < v->n; k++) MUST(!text[k].bytes[text[k].len]); // each ends with a NUL
    }
    kd_gguf_close(g);
    return 0;
}
