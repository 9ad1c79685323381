/* fuzz_manifest.c - manifest.json. The mutator repairs its root and its checksum. */
#include "../../lib/store/store_private.h"
#include "repair.h"

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max);
    if (seed % 16) fz_repair_manifest(data, size);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char folder[256];
    kd_err err = {0};
    kd_store *s;
    if (!*folder) {
        snprintf(folder, sizeof(folder), "%s", fz_named(0, "manifest.json"));
        *strrchr(folder, '/') = '\0';
    }
    fz_file(0, data, size);
    if (kd__manifest_load(&s, folder, &err)) {
        MUST(*err.msg);
        return 0;
    }
    // What the manifest may say, and what readers rely on.
    MUST(s->nsegments >= 1 && s->ncolumns >= 1 && s->ncolumns <= KD_STORE_MAX_COLUMNS);
    uint64_t rows = 0;
    for (uint32_t i = 0; i < s->nchunks; rows += s->chunks[i++].rows)
        MUST(s->chunks[i].first == rows && s->chunks[i].rows <= s->chunk_rows);
    MUST(rows == s->rows);
    for (uint32_t i = 0; i < s->ncolumns; i++) {
        const kd_column *c = &s->columns[i];
        size_t unit;
        MUST(kd__column_unit(c, &unit) && kd_column_width(c) && c->ndims <= 6);
    }
    kd__store_free(s);
    return 0;
}
