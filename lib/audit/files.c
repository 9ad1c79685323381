/* files.c - what was found, a line a row: for eyes, spreadsheets and kd-train. */
#include "audit_private.h"

#include <math.h>
#include <stdlib.h>

kd_status kd__open_file(kd_newfile **out, const kd__audit *a, const char *name, kd_err *err)
{
    char *path = kd_path_join(a->folder, name);
    kd_status st = path ? kd_newfile_open(out, path, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    free(path);
    return st;
}

/* "17,3021,0a52...,train,4": row, source, id, split and label; source and label may be empty. */
static void print_row(FILE *f, const kd__facts *r, uint64_t row)
{
    char hex[33];
    kd_id_hex(r->id[row], hex);
    fprintf(f, "%llu,", (unsigned long long)row);
    if (r->source) fprintf(f, "%llu", (unsigned long long)r->source[row]);
    fprintf(f, ",%s,%s,", hex, kd_split_name((kd_split)r->split[row]));
    if (r->label && r->label[row] >= 0) fprintf(f, "%d", r->label[row]);
}

/* ---- labels ------------------------------------------------------------------------------- */

typedef struct ranked {
    double margin;
    uint64_t row;
} ranked;

static int by_margin(const void *va, const void *vb)
{
    const ranked *a = va, *b = vb;
    if (a->margin != b->margin) return a->margin < b->margin ? -1 : 1;
    return (a->row > b->row) - (a->row < b->row);
}

kd_status kd__write_labels(kd__audit *a, kd_err *err)
{
    const kd__facts *r = &a->facts;
    const size_t classes = (size_t)r->classes;
    kd_newfile *f;
    size_t n = 0;
    ranked *v = malloc((r->n + 1) * sizeof(*v));
    kd_status st = v ? kd__open_file(&f, a, "labels.csv", err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st) {
        free(v);
        return st;
    }
    FILE *out = kd_newfile_stream(f);
    fprintf(out, "rank,row,source,id,split,label,suggested,margin,self_confidence,suggested_confidence\n");
    for (uint64_t i = 0; i < r->n; i++)
        if (a->flag[i])
            v[n++] =
                (ranked){.margin = kd_label_margin(r->p + i * classes, r->label[i], r->classes), .row = i};
    qsort(v, n, sizeof(*v), by_margin);
    for (size_t i = 0; i < n; i++) {
        const float *p = r->p + v[i].row * classes;
        const uint32_t top = kd__facts_top(r, v[i].row);
        fprintf(out, "%zu,", i + 1);
        print_row(out, r, v[i].row);
        fprintf(out, ",%u,%.6f,%.6f,%.6f\n", top, v[i].margin, (double)p[r->label[v[i].row]], (double)p[top]);
    }
    free(v);
    return kd_newfile_commit(f, err);
}

/* ---- pairs -------------------------------------------------------------------------------- */

kd_status kd__write_pairs(kd__audit *a, kd_err *err)
{
    static const char *const kind[] = {"exact", "near", "mirrored"};
    const kd__facts *r = &a->facts;
    kd_newfile *f;
    kd_status st = kd__open_file(&f, a, "duplicates.csv", err);
    if (st) return st;
    FILE *out = kd_newfile_stream(f);
    fprintf(out, "kind,similarity,leak,row,source,id,split,label,other_row,other_source,other_id,other_split,"
                 "other_label\n");
    for (size_t i = 0; i < a->pairs.n; i++) {
        const kd_pair *p = &a->pairs.v[i];
        fprintf(out, "%s,%.6f,%d,", kind[p->kind], (double)p->similarity, r->split[p->a] != r->split[p->b]);
        print_row(out, r, p->a);
        fputc(',', out);
        print_row(out, r, p->b);
        fputc('\n', out);
    }
    return kd_newfile_commit(f, err);
}

/* ---- where the teacher hardly knows ------------------------------------------------------- */

static double entropy(const float *p, size_t classes)
{
    double h = 0;
    for (size_t k = 0; k < classes; k++)
        if (p[k] > 0) h -= (double)p[k] * log((double)p[k]);
    return h;
}

kd_status kd__write_unsure(kd__audit *a, kd_err *err)
{
    const kd__facts *r = &a->facts;
    const size_t classes = (size_t)r->classes;
    uint64_t wrong = 0, unsure = 0, both = 0;
    kd_newfile *f;
    kd_status st = kd__open_file(&f, a, "unsure.csv", err);
    if (st) return st;
    FILE *out = kd_newfile_stream(f);
    fprintf(out, "why,row,source,id,split,label,top,top_confidence,label_confidence,entropy\n");
    for (uint64_t i = 0; i < r->n; i++) {
        const float *p = r->p + i * classes;
        const uint32_t top = kd__facts_top(r, i);
        const bool w = kd__is_wrong(a, i), u = (double)p[top] < a->p->unsure;
        wrong += w, unsure += u, both += w && u;
        if (!w && !u) continue;
        fprintf(out, "%s,", w && u ? "wrong and unsure" : w ? "wrong" : "unsure");
        print_row(out, r, i);
        fprintf(out, ",%u,%.6f,", top, (double)p[top]);
        if (r->label && r->label[i] >= 0) fprintf(out, "%.6f", (double)p[r->label[i]]);
        fprintf(out, ",%.6f\n", entropy(p, classes));
    }
    if ((st = kd_newfile_commit(f, err))) return st;
    json_object_set_new(a->summary, "unsure",
                        json_pack("{s:f, s:I, s:I, s:I}", "below", a->p->unsure, "wrong", (json_int_t)wrong,
                                  "unsure", (json_int_t)unsure, "both", (json_int_t)both));
    return KD_OK;
}

/* ---- lists for kd-train ------------------------------------------------------------------- */

static void reason(void *arg, uint64_t row, kd_buf *text)
{
    const kd__audit *a = arg;
    const unsigned why = a->why[row] & a->p->drop;
    if (why & KD_DROP_LABELS)
        kd_buf_printf(text, "label %d, the teacher says %u; ", a->facts.label[row],
                      kd__facts_top(&a->facts, row));
    if (why & KD_DROP_LEAKS) kd_buf_puts(text, "also outside the training rows; ");
    if (why & KD_DROP_EXACT) kd_buf_puts(text, "an exact copy; ");
    if (why & KD_DROP_NEAR) kd_buf_puts(text, "nearly a copy; ");
    if (text->len >= 2) text->text[text->len -= 2] = '\0';
}

static kd_status write_list(kd__audit *a, const char *name, const uint8_t *marks, bool reasons, kd_err *err)
{
    char *path = kd_path_join(a->folder, name);
    kd_status st = path ? kd_rowlist_write(path, a->facts.s, marks, reasons ? reason : NULL, a, err)
                        : kd_fail(err, KD_ENOMEM, "out of memory");
    free(path);
    return st;
}

static json_t *counts_json(const kd__audit *a, uint64_t dropped, uint64_t kept)
{
    static const struct {
        const char *name;
        unsigned bit;
    } reasons[] = {{"labels", KD_DROP_LABELS},
                   {"exact", KD_DROP_EXACT},
                   {"leaks", KD_DROP_LEAKS},
                   {"near", KD_DROP_NEAR}};
    json_t *o = json_pack("{s:I, s:I}", "dropped", (json_int_t)dropped, "kept", (json_int_t)kept);
    for (size_t k = 0; k < KD_COUNT(reasons); k++) {
        uint64_t n = 0;
        for (uint64_t i = 0; i < a->facts.n; i++) n += (a->why[i] & reasons[k].bit) != 0;
        json_object_set_new(o, reasons[k].name,
                            json_pack("{s:I, s:b}", "rows", (json_int_t)n, "wanted",
                                      (a->p->drop & reasons[k].bit) != 0));
    }
    return o;
}

kd_status kd__write_lists(kd__audit *a, kd_err *err)
{
    const kd__facts *r = &a->facts;
    uint8_t *drop = calloc(r->n / 8 + 1, 1), *keep = calloc(r->n / 8 + 1, 1);
    uint64_t dropped = 0, kept = 0;
    kd_status st = drop && keep ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint64_t i = 0; i < r->n && !st; i++) {
        if (r->split[i] != KD_TRAIN) continue;
        const bool out = (a->why[i] & a->p->drop) != 0;
        kd_row_mark(out ? drop : keep, i);
        dropped += out, kept += !out;
    }
    if (!st) st = write_list(a, "drop.txt", drop, true, err);
    if (!st) st = write_list(a, "keep.txt", keep, false, err);
    if (!st) json_object_set_new(a->summary, "lists", counts_json(a, dropped, kept));
    free(drop);
    free(keep);
    return st;
}
