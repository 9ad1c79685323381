/* fuzz_jsonl.c - a line of JSON with a row's outputs, as inference servers print them. The lines of one input
 * share a row, as they do when a file is read. */
#include "fuzz.h"
#include "kd/exchange.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kd_jsonl_row row = {0};
    kd_err err = {0};
    while (size) {
        const uint8_t *end = memchr(data, '\n', size);
        const size_t len = end ? (size_t)(end - data) : size;
        if (kd_jsonl_line_parse(&row, (const char *)data, len, NULL, &err)) {
            MUST(*err.msg);
        } else if (row.sparse) {
            MUST(row.top.positions == row.positions && row.top.offset[row.positions] == row.top.entries);
            for (size_t i = 0; i < row.top.entries; i++)
                MUST(isfinite(row.top.value[i]) && row.top.id[i] <= row.largest);
        } else {
            for (size_t i = 0; i < row.positions * row.width; i++) MUST(isfinite(row.values[i]));
        }
        data += len + (end != NULL);
        size -= len + (end != NULL);
    }
    kd_jsonl_row_release(&row);
    return 0;
}
