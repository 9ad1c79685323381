/* texts.c - kd-run embed, kd-run search: what a student of texts is used for.
 *
 * Searching is exact: the file's lines are embedded once, then each query is compared with all of them. So
 * there is nothing to build and nothing to tune up to some hundred thousand lines; --int8 takes a quarter of
 * the memory.
 */
#include "run_cmd.h"

#include "kd/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void show(void *arg, uint64_t done) { kd_progress_set(arg, done, NULL); }

/* The vectors of all lines; free() them. */
static kd_status embed_lines(const kd_cli *c, kd_embedder *e, const kd_lines *l, bool unit, float **out,
                             kd_err *err)
{
    kd_progress pr;
    size_t n;
    if (!kd_mul_size(l->n + 1, kd_embedder_dims(e) * sizeof(float), &n) || !(*out = malloc(n)))
        return kd_fail(err, KD_ENOMEM, "no memory for %zu vectors", l->n);
    kd_progress_begin(&pr, c, "embed", "texts", l->n);
    kd_status st = kd_embed(e, l->v, l->n, unit, *out, show, &pr, err);
    kd_progress_end(&pr);
    return st;
}

/* ---- embed -------------------------------------------------------------------------------- */

/* A .npy file (version 1.0): magic, header padded to 64 bytes, rows. */
static kd_status write_npy(const char *path, const float *v, size_t n, size_t dims, kd_err *err)
{
    char head[128];
    kd_newfile *f;
    kd_status st = kd_newfile_open(&f, path, err);
    if (st) return st;
    FILE *to = kd_newfile_stream(f);
    const int used = snprintf(head, sizeof head,
                              "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", n, dims);
    const unsigned size = 118;
    fwrite("\x93NUMPY\x01\x00", 1, 8, to);
    fputc((int)(size & 255), to);
    fputc((int)(size >> 8), to);
    fprintf(to, "%s%*s\n", head, (int)size - used - 1, "");
    fwrite(v, sizeof(float), n * dims, to);
    return kd_newfile_commit(f, err);
}

kd_status run_embed(kd_cli *c, const run_opts *o, kd_err *err)
{
    kd_embedder *e = NULL;
    kd_lines l = {0};
    float *v = NULL;
    kd_status st = kd_embedder_open(&e, c->args[1], (int)c->common.threads, err);
    if (!st) st = kd_lines_read(&l, c->args[2], err);
    const double start = kd_now();
    if (!st) st = embed_lines(c, e, &l, o->unit, &v, err);
    const size_t dims = e ? kd_embedder_dims(e) : 0;
    if (!st && o->out) st = write_npy(o->out, v, l.n, dims, err);
    for (size_t i = 0; !st && !o->out && i < l.n; i++)
        for (size_t k = 0; k < dims; k++) printf("%.9g%c", v[i * dims + k], k + 1 < dims ? '\t' : '\n');
    if (!st) kd_cli_note(c, "%zu texts, %.0f texts/s", l.n, (double)l.n / (kd_now() - start));
    free(v);
    kd_lines_release(&l);
    kd_embedder_close(e);
    return st;
}

/* ---- search ------------------------------------------------------------------------------- */

typedef struct finder {
    const kd_cli *c;
    const run_opts *o;
    kd_embedder *e;
    kd_lines lines;
    kd_index *index;
    float *query; /* (dims) */
    kd_hit *hits; /* (top) */
    uint64_t asked;
} finder;

static kd_status open_finder(finder *f, kd_err *err)
{
    float *v = NULL;
    const char *const *args = (const char *const *)f->c->args;
    kd_status st = kd_embedder_open(&f->e, args[1], (int)f->c->common.threads, err);
    if (!st) st = kd_lines_read(&f->lines, args[2], err);
    if (!st && !f->lines.n) st = kd_fail(err, KD_ECORRUPT, "%s: no text to search in", args[2]);
    if (!st) st = embed_lines(f->c, f->e, &f->lines, true, &v, err);
    if (!st)
        st = kd_index_create(&f->index, v, f->lines.n, kd_embedder_dims(f->e), f->o->int8 ? KD_I8 : KD_F32,
                             err);
    free(v);
    f->query = malloc((st ? 1 : kd_embedder_dims(f->e)) * sizeof(*f->query));
    f->hits = malloc((size_t)f->o->top * sizeof(*f->hits));
    return !st && (!f->query || !f->hits) ? kd_fail(err, KD_ENOMEM, "out of memory") : st;
}

static kd_status print_hits(const finder *f, const char *query, size_t n, kd_err *err)
{
    json_t *list = f->c->common.json ? json_array() : NULL;
    if (!list && f->c->common.json) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < n && f->hits[i].doc != KD_NO_HIT; i++) {
        const kd_text *text = &f->lines.v[f->hits[i].doc];
        if (list)
            json_array_append_new(list, json_pack("{s:I, s:f, s:s%}", "line", (json_int_t)f->hits[i].doc + 1,
                                                  "score", (double)f->hits[i].score, "text", text->bytes,
                                                  text->len));
        else
            printf("%zu\t%.4f\t%.*s\n", i + 1, f->hits[i].score, (int)text->len, text->bytes);
    }
    if (!list) {
        putchar('\n');
        return KD_OK;
    }
    json_t *line = json_pack("{s:s, s:o}", "query", query, "hits", list);
    if (!line) return kd_fail(err, KD_EUNSUPPORTED, "query %llu is not UTF-8", (unsigned long long)f->asked);
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(line);
    return KD_OK;
}

static kd_status answer(finder *f, const char *query, size_t len, kd_err *err)
{
    const kd_text text = {query, len};
    const size_t n = (size_t)f->o->top;
    kd_status st = kd_embed(f->e, &text, 1, true, f->query, NULL, NULL, err);
    if (!st) st = kd_index_search(f->index, f->query, 1, n, (int)f->c->common.threads, f->hits, err);
    f->asked++;
    return st ? st : print_hits(f, query, n, err);
}

static kd_status ask(finder *f, kd_err *err)
{
    const bool prompt = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    kd_status st = KD_OK;
    while (!st && !kd_stop_requested) {
        if (prompt) fputs("search: ", stdout);
        fflush(stdout);
        if ((n = getline(&line, &room, stdin)) < 0) break;
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = '\0';
        if (n) st = answer(f, line, (size_t)n, err);
    }
    free(line);
    return st;
}

kd_status run_search(kd_cli *c, const run_opts *o, kd_err *err)
{
    finder f = {.c = c, .o = o};
    kd_status st = open_finder(&f, err);
    if (!st) {
        kd_cli_say(c, "%zu texts, %.1f MiB of vectors", f.lines.n,
                   (double)kd_index_bytes(f.index) / (1 << 20));
        const double start = kd_now();
        st = ask(&f, err);
        if (!st)
            kd_cli_note(c, "%llu queries, %.0f/s", (unsigned long long)f.asked,
                        (double)f.asked / (kd_now() - start));
    }
    kd_index_free(f.index);
    kd_lines_release(&f.lines);
    kd_embedder_close(f.e);
    free(f.query);
    free(f.hits);
    return st;
}
