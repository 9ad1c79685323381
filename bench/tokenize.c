/* tokenize.c - `kd_bench tokenize`: texts through a tokenizer, on demand.
 *
 * TEXTS holds for each text its length (u32, little-endian) and its bytes. Lines on stdin:
 *
 *     ids FILE LIMIT     writes the ids of all texts, each row a count and its ids (u32); at most LIMIT a
 *                        text, 0: all
 *     literal FILE LIMIT the same with special tokens in the texts as text
 *     go SECONDS         encodes all texts again and again for so long, one JSON line
 */
#include "bench.h"
#include "kd/text.h"

#include <stdlib.h>
#include <string.h>

typedef struct texts {
    char *bytes;
    size_t len;
    kd_text *text;
    size_t n, total; /* total: bytes of all texts */
} texts;

static kd_status read_texts(texts *t, const char *path, kd_err *err)
{
    kd_status st = kd_file_read(path, (size_t)4 << 30, &t->bytes, &t->len, err);
    if (st) return st;
    if (!(t->text = malloc((t->len / 4 + 1) * sizeof *t->text)))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t at = 0; at < t->len;) {
        uint32_t n;
        if (t->len - at < 4 || (memcpy(&n, t->bytes + at, 4), n > t->len - at - 4))
            return kd_fail(err, KD_ECORRUPT, "%s: text %zu is cut off", path, t->n);
        t->text[t->n++] = (kd_text){t->bytes + at + 4, n};
        t->total += n;
        at += 4 + (size_t)n;
    }
    return KD_OK;
}

static kd_status write_ids(const kd_tokenizer *t, const texts *x, const char *path, size_t limit,
                           bool literal, int threads, kd_err *err)
{
    kd_token_rows r;
    const kd_encode_params p = {.max_tokens = limit, .special = true, .literal = literal};
    kd_status st = kd_encode_rows(&r, t, x->text, x->n, &p, threads, err);
    if (st) return st;
    FILE *f = fopen(path, "wb");
    for (size_t i = 0; f && i < r.rows; i++) {
        const uint32_t n = (uint32_t)(r.offset[i + 1] - r.offset[i]);
        fwrite(&n, 4, 1, f);
        fwrite(r.id + r.offset[i], 4, n, f);
    }
    if (!f || fclose(f)) st = kd_fail(err, KD_EIO, "%s: cannot write", path);
    kd_token_rows_release(&r);
    if (!st) bench_print(json_pack("{s:I}", "rows", (json_int_t)x->n));
    return st;
}

static kd_status measure(const kd_tokenizer *t, const texts *x, double seconds, int threads, kd_err *err)
{
    const kd_encode_params p = {.special = true};
    const double start = kd_now(), cpu = kd_cpu_seconds();
    uint64_t tokens = 0, passes = 0;
    double wall;
    do {
        kd_token_rows r;
        kd_status st = kd_encode_rows(&r, t, x->text, x->n, &p, threads, err);
        if (st) return st;
        tokens += r.offset[r.rows];
        passes++;
        kd_token_rows_release(&r);
    } while ((wall = kd_now() - start) < seconds);
    bench_print(json_pack("{s:f, s:f, s:f, s:I, s:I}", "mb_s", (double)(passes * x->total) / wall / 1e6,
                          "seconds", wall, "cpu_s", kd_cpu_seconds() - cpu, "tokens", (json_int_t)tokens,
                          "passes", (json_int_t)passes));
    return KD_OK;
}

kd_status bench_tokenize(const char *tokenizer, const char *path, int threads, kd_err *err)
{
    kd_tokenizer *t = NULL;
    texts x = {0};
    char line[512], file[400];
    double seconds;
    size_t limit;
    const double start = kd_now();
    kd_status st = kd_tokenizer_open(&t, tokenizer, err);
    const double opened = kd_now() - start;
    if (!st) st = read_texts(&x, path, err);
    if (!st)
        bench_print(json_pack("{s:b, s:I, s:I, s:f, s:s}", "ready", 1, "texts", (json_int_t)x.n, "bytes",
                              (json_int_t)x.total, "open_s", opened, "build", kd_build_info()));
    while (!st && fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "ids %399s %zu", file, &limit) == 2)
            st = write_ids(t, &x, file, limit, false, threads, err);
        else if (sscanf(line, "literal %399s %zu", file, &limit) == 2)
            st = write_ids(t, &x, file, limit, true, threads, err);
        else if (sscanf(line, "go %lf", &seconds) == 1)
            st = measure(t, &x, seconds, threads, err);
        else
            st = kd_fail(
                err, KD_EUSAGE,
                "tokenize: expected a line \"ids FILE LIMIT\", \"literal FILE LIMIT\" or \"go SECONDS\"");
    }
    free(x.text);
    free(x.bytes);
    kd_tokenizer_close(t);
    return st;
}
