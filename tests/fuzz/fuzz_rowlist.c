/* fuzz_rowlist.c - a list of rows of a store with four. An odd first byte puts the right first line before
 * the rest. */
#include "fuzz.h"
#include "kd/data.h"

#define ROWS 4

/* Four images of 2 x 2 as IDX files, packed once. */
static kd_store *make_store(void)
{
    uint8_t images[32] = {0, 0, 8, 3, 0, 0, 0, ROWS, 0, 0, 0, 2, 0, 0, 0, 2},
            labels[12] = {0, 0, 8, 1, 0, 0, 0, ROWS};
    char yaml[700];
    kd_config c = {0};
    kd_data_spec spec;
    kd_err err = {0};
    kd_store *s;
    for (uint8_t i = 0; i < 16; i++) images[16 + i] = i;
    const char *x = fz_named(0, "x"), *y = fz_named(1, "y");
    fz_file(0, images, sizeof(images));
    fz_file(1, labels, sizeof(labels));
    const int n =
        snprintf(yaml, sizeof(yaml),
                 "data: {train_input: [%s], train_label: [%s], valid_fraction: 0, test_fraction: 0}\n", x, y);
    char *store = kd_sprintf("%.*s.kd", (int)strlen(x), x);
    MUST(store && !kd_config_add(&c, kd_data_options, kd_data_options_n, &spec, &err));
    MUST(!kd_config_yaml_text(&c, "fuzz.yaml", yaml, (size_t)n, &err));
    MUST(!kd_pack(&spec, store, NULL, NULL, NULL, NULL, NULL, NULL, &err) && !kd_store_open(&s, store, &err));
    kd_config_release(&c);
    free(store);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kd_store *s;
    uint8_t marks = 0;
    kd_err err = {0};
    if (!s) s = make_store();
    if (!size) return 0;
    char *text = malloc(size + 64);
    MUST(text);
    size_t n = *data % 2 ? (size_t)snprintf(text, 64, "kd-rows 1 %s\n", kd_store_base_root(s)) : 0;
    memcpy(text + n, data + 1, size - 1);
    if (kd_rowlist_read(&marks, s, fz_file(0, text, n + size - 1), &err)) MUST(*err.msg);
    MUST(marks < 1 << ROWS);
    free(text);
    return 0;
}
