/* text_table.c - tables of text, for people or as Markdown.
 *
 * A column is set to the right when all its cells below the heading are numbers (with a unit, a
 * spread or a dash for "none"), otherwise to the left. Widths count characters, not bytes, so that
 * a ± does not shift the columns.
 */
#include "cli_private.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct kd_table {
    char **cell;
    size_t cells;
    size_t *end; /* per row: index behind its last cell */
    size_t rows;
    bool failed;
};

kd_table *kd_table_create(void) { return calloc(1, sizeof(kd_table)); }

void kd_table_free(kd_table *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->cells; i++) free(t->cell[i]);
    free(t->cell);
    free(t->end);
    free(t);
}

/* Room for element n of an array that doubles at powers of two; NULL: out of memory. */
static void *grow(void *v, size_t n, size_t size)
{
    return n & (n - 1) ? v : realloc(v, (n ? 2 * n : 1) * size);
}

void kd_table_cell(kd_table *t, const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    if (!t || t->failed) return;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    char **cell = n < 0 ? NULL : grow(t->cell, t->cells, sizeof *cell);
    if (!cell) {
        if (n >= 0) free(text);
        t->failed = true;
        return;
    }
    t->cell = cell;
    cell[t->cells++] = text;
}

void kd_table_row(kd_table *t)
{
    if (!t || t->failed) return;
    size_t *end = grow(t->end, t->rows, sizeof *end);
    if (!end) {
        t->failed = true;
        return;
    }
    t->end = end;
    end[t->rows++] = t->cells;
}

/* Whether text is a number as tables show it: "-", "12", "+0.5", "1.5 GiB", "92.1 ± 0.3", "44%". */
static bool is_number(const char *s)
{
    if (!*s || !strcmp(s, "-")) return true;
    s += *s == '+' || *s == '-';
    if (!isdigit((unsigned char)s[*s == '.'])) return false;
    s += strspn(s, "0123456789.,:");
    if ((*s == 'e' || *s == 'E') && strspn(s + 1, "+-0123456789")) s += 1 + strspn(s + 1, "+-0123456789");
    s += *s == ' ';
    if (!strncmp(s, "±", strlen("±"))) return true;
    return strlen(s) <= 4 &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/%µ") == strlen(s);
}

static size_t shown(const char *s, bool markdown)
{
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80 ? 1 + (markdown && *s == '|') : 0;
    return n;
}

static size_t row_start(const kd_table *t, size_t row) { return row ? t->end[row - 1] : 0; }

static const char *cell_at(const kd_table *t, size_t row, size_t column)
{
    size_t i = row_start(t, row) + column;
    return i < t->end[row] ? t->cell[i] : "";
}

static void put_spaces(FILE *f, size_t n)
{
    while (n--) fputc(' ', f);
}

static void put_cell(FILE *f, const char *text, bool markdown)
{
    for (; *text; text++) {
        if (markdown && *text == '|') fputc('\\', f);
        fputc(*text == '\n' ? ' ' : *text, f);
    }
}

static void put_rule(FILE *f, const size_t *width, const bool *right, size_t columns)
{
    for (size_t k = 0; k < columns; k++) {
        fputs(k ? " | " : "| ", f);
        for (size_t i = right[k]; i < width[k]; i++) fputc('-', f);
        if (right[k]) fputc(':', f);
    }
    fputs(" |\n", f);
}

static void put_row(FILE *f, const kd_table *t, size_t row, const size_t *width, const bool *right,
                    size_t columns, bool markdown)
{
    size_t used = columns;
    while (!markdown && used && !*cell_at(t, row, used - 1)) used--;
    for (size_t k = 0; k < used; k++) {
        const char *text = cell_at(t, row, k);
        size_t pad = width[k] - shown(text, markdown);
        fputs(markdown ? (k ? " | " : "| ") : k ? "  " : "", f);
        if (right[k]) put_spaces(f, pad);
        put_cell(f, text, markdown);
        if (!right[k] && (markdown || k + 1 < used)) put_spaces(f, pad);
    }
    fputs(markdown ? " |\n" : "\n", f);
}

void kd_table_print(const kd_table *t, FILE *f, bool markdown)
{
    size_t columns = 0;
    for (size_t r = 0; t && !t->failed && r < t->rows; r++)
        columns = kd_max_size(columns, t->end[r] - row_start(t, r));
    size_t *width = calloc(columns + 1, sizeof *width);
    bool *right = calloc(columns + 1, sizeof *right);
    if (!t || t->failed || !width || !right) {
        fputs("(out of memory for a table)\n", f);
        columns = 0;
    }
    for (size_t k = 0; k < columns; k++) {
        right[k] = t->rows > 1;
        width[k] = markdown ? 3 : 1;
        for (size_t r = 0; r < t->rows; r++) {
            width[k] = kd_max_size(width[k], shown(cell_at(t, r, k), markdown));
            if (r && !is_number(cell_at(t, r, k))) right[k] = false;
        }
    }
    for (size_t r = 0; columns && r < t->rows; r++) {
        put_row(f, t, r, width, right, columns, markdown);
        if (r == 0 && markdown) put_rule(f, width, right, columns);
    }
    free(width);
    free(right);
}
