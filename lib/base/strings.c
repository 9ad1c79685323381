/* strings.c - small string work: paths, copies, the nearest name, figures for people.
 *
 * kd_nearest is what turns "unknown key" into "did you mean". It counts insertions, deletions,
 * changes and swaps of neighbours (optimal string alignment) without regard to case and taking '-'
 * and '_' for the same; a third of the word may be wrong, no more, so that it does not guess.
 */
#include "kd/base.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NEAREST_MAX 64 /* longer words are no typing errors of ours */

char *kd_strdup(const char *s)
{
    if (!s) return NULL;
    size_t len = strlen(s) + 1;
    char *p = malloc(len);
    return p ? memcpy(p, s, len) : NULL;
}

char *kd_sprintf(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : text;
}

char *kd_path_join(const char *folder, const char *name)
{
    size_t len = strlen(folder);
    if (len == 0 || name[0] == '/') return kd_strdup(name);
    return kd_sprintf("%s%s%s", folder, folder[len - 1] == '/' ? "" : "/", name);
}

const char *kd_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int fold(char c) { return c == '_' ? '-' : tolower((unsigned char)c); }

/* Edit distance of a and b, both at most NEAREST_MAX long. */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
    size_t row[3][NEAREST_MAX + 1]; /* the rows for a[..i-2], a[..i-1], a[..i] */
    size_t *before = row[0], *last = row[1], *now = row[2];
    memset(row, 0, sizeof row);
    for (size_t j = 0; j <= nb; j++) last[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            int x = fold(a[i - 1]), y = fold(b[j - 1]);
            size_t best = last[j - 1] + (x != y);
            best = kd_min_size(best, kd_min_size(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y)
                best = kd_min_size(best, before[j - 2] + 1);
            now[j] = best;
        }
        size_t *t = before;
        before = last;
        last = now;
        now = t;
    }
    return last[nb];
}

const char *kd_nearest(const char *word, const char *const *names, size_t n)
{
    size_t len = word ? strlen(word) : 0, limit = kd_max_size(1, len / 3), best = limit + 1;
    const char *found = NULL;
    if (len == 0 || len > NEAREST_MAX) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t other = names[i] ? strlen(names[i]) : 0;
        if (other == 0 || other > NEAREST_MAX) continue;
        size_t d = distance(word, len, names[i], other);
        /* The start of a longer name is an abbreviation, as good as the worst typing error. */
        if (len >= 3 && other > len && !strncasecmp(word, names[i], len)) d = kd_min_size(d, limit);
        if (d < best && d < kd_max_size(len, other)) {
            best = d;
            found = names[i];
        }
    }
    return found;
}

/* Three significant digits at most, and never a unit too small: 1023.7 KiB is 1.0 MiB. */
char *kd_fmt_bytes(char *buf, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t u = 0;
    if (!isfinite(bytes) || bytes < 0) {
        snprintf(buf, 32, "?");
        return buf;
    }
    while (u + 1 < sizeof units / sizeof *units && bytes >= (u ? 1023.5 : 1024.0)) {
        bytes /= 1024;
        u++;
    }
    snprintf(buf, 32, u && bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return buf;
}

bool kd_part_parse(const char *text, uint32_t *part, uint32_t *parts)
{
    int end = 0;
    if (!text || strspn(text, "0123456789/") != strlen(text)) return false;
    return sscanf(text, "%9" SCNu32 "/%9" SCNu32 "%n", part, parts, &end) == 2 && !text[end] && *part &&
           *part <= *parts;
}

char *kd_fmt_count(char *buf, double count)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    size_t u = 0;
    if (!isfinite(count)) {
        snprintf(buf, 32, "?");
        return buf;
    }
    double size = fabs(count);
    while (u + 1 < sizeof units / sizeof *units && size >= 999.5) {
        size /= 1000;
        count /= 1000;
        u++;
    }
    bool whole = u == 0 && count == floor(count);
    int digits = whole || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
    snprintf(buf, 32, "%.*f%s", digits, count, units[u]);
    return buf;
}

char *kd_fmt_duration(char *buf, double seconds)
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e12) {
        snprintf(buf, 32, "?");
        return buf;
    }
    long long s = (long long)(seconds + 0.5);
    if (s < 3600)
        snprintf(buf, 32, "%lld:%02lld", s / 60, s % 60);
    else
        snprintf(buf, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    return buf;
}
