/* row_ids.c - ids of rows in a file of their own.
 *
 * Three forms: an .npy array (rows, 16) of u8; CSV whose heading names a column `id`; text with one id a
 * line. An id is 32 hex digits. Text is read in blocks and a line is at most 64 KiB, whatever the file.
 */
#include "exchange_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK    65536
#define MAX_LINE 65536

kd_status kd__ids_at(kd__match *m, int fd, const char *path, uint64_t at, uint64_t n, uint64_t first,
                     kd_err *err)
{
    uint8_t block[BLOCK / 16][16];
    kd_status st = KD_OK;
    for (uint64_t i = 0; i < n && !st; i += BLOCK / 16) {
        const size_t k = n - i < BLOCK / 16 ? (size_t)(n - i) : BLOCK / 16;
        st = kd__read_at(fd, block, k * 16, at + i * 16, path, err);
        for (size_t j = 0; j < k && !st; j++) st = kd__match_add(m, block[j], first + i + j, err);
    }
    return st;
}

static kd_status count(const kd__match *m, const char *path, uint64_t n, kd_err *err)
{
    if (n == m->rows) return KD_OK;
    return kd_fail(err, KD_EMISMATCH, "%s: %llu ids for the %llu rows of %s", path, (unsigned long long)n,
                   (unsigned long long)m->rows, m->what);
}

static kd_status read_npy(kd__match *m, const char *path, int fd, kd_err *err)
{
    kd_array a;
    bool swap;
    uint64_t at;
    kd_status st = kd_npy_head(&a, path, &swap, &at, err);
    if (st) return st;
    if (a.dtype != KD_U8 || a.ndims != 1 || a.dims[0] != 16)
        return kd_fail(err, KD_EMISMATCH, "%s: ids are an array (rows, 16) of u8", path);
    return (st = count(m, path, a.rows, err)) ? st : kd__ids_at(m, fd, path, at, a.rows, 0, err);
}

/* ---- text --------------------------------------------------------------------------------------- */

/* Field number `column` of a line of CSV, without quotes around it. Changes the line. */
static char *field(char *line, size_t column)
{
    while (column--) {
        line += strcspn(line, ",");
        if (!*line) return NULL;
        line++;
    }
    line += strspn(line, " \t\"");
    line[strcspn(line, ",\"\r \t")] = '\0';
    return line;
}

/* The heading's column `id`; *heading false: the line is an id itself. */
static kd_status find_column(char *line, const char *path, size_t *column, bool *heading, kd_err *err)
{
    kd_id id;
    char *copy = kd_strdup(line), *f;
    if (!copy) return kd_fail(err, KD_ENOMEM, "out of memory");
    *column = 0;
    *heading = !((f = field(copy, 0)) && kd_id_parse(f, &id));
    bool found = !*heading;
    for (size_t i = 0; !found; i++) {
        strcpy(copy, line); // the same length
        if (!(f = field(copy, i))) break;
        if ((found = !strcmp(f, "id"))) *column = i;
    }
    free(copy);
    if (found) return KD_OK;
    return kd_fail(err, KD_ECORRUPT, "%s:1: neither 32 hex digits nor a heading with a column id", path);
}

static kd_status read_text(kd__match *m, const char *path, FILE *f, kd_err *err)
{
    char *line = malloc(MAX_LINE), *text;
    uint64_t at = 0, n = 0;
    size_t column = 0;
    kd_status st = KD_OK;
    bool heading = false;
    kd_id id;
    if (!line) return kd_fail(err, KD_ENOMEM, "out of memory");
    while (!st && fgets(line, MAX_LINE, f)) {
        const size_t len = strlen(line);
        if (++at && len + 1 == MAX_LINE && line[len - 1] != '\n') {
            st = kd_fail(err, KD_ELIMIT, "%s:%llu: a line over %d bytes", path, (unsigned long long)at,
                         MAX_LINE);
            break;
        }
        line[strcspn(line, "\n")] = '\0';
        if (!line[strspn(line, " \t\r")]) continue;
        if (at == 1) {
            if ((st = find_column(line, path, &column, &heading, err))) break;
            if (heading) continue;
        }
        if (!(text = field(line, column)) || !kd_id_parse(text, &id))
            st = kd_fail(err, KD_ECORRUPT, "%s:%llu: no id of 32 hex digits", path, (unsigned long long)at);
        else
            st = kd__match_add(m, id.b, n++, err);
    }
    free(line);
    if (!st && ferror(f)) st = kd_fail_errno(err, errno, "%s: cannot read", path);
    return st ? st : count(m, path, n, err);
}

kd_status kd__ids_read(kd__match *m, const char *path, kd_err *err)
{
    char magic[6] = {0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open the file of ids", path);
    FILE *f = fdopen(fd, "r");
    if (!f) {
        close(fd);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    const bool npy = pread(fd, magic, 6, 0) == 6 && !memcmp(magic, "\x93NUMPY", 6);
    kd_status st = npy ? read_npy(m, path, fd, err) : read_text(m, path, f, err);
    fclose(f);
    return st;
}
