/* progress.c - words on standard error while a tool runs.
 *
 * On a terminal one line is drawn over itself; it must be gone before anything else is written, so
 * all messages pass through here and clear it first. In a log a line every ten seconds is enough to
 * see that the work goes on. A background job draws nothing: the terminal belongs to another.
 */
#include "cli_private.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REDRAW_S   (1.0 / 6)
#define PATIENCE_S 1.0
#define LOG_S      10.0

static atomic_bool line_shown;

void kd__progress_clear(void)
{
    if (atomic_exchange(&line_shown, false)) fputs("\r\033[K", stderr);
}

/* Takes no memory: it must work when that is what ran out. */
void kd__cli_line(const char *text)
{
    char piece[2048];
    size_t n = 0;
    kd__progress_clear();
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text; /* names in messages may hold anything, even escapes */
        piece[n++] = c < 0x20 || c == 0x7F ? '?' : *text;
        if (n < sizeof piece - 1) continue;
        fwrite(piece, 1, n, stderr);
        n = 0;
    }
    piece[n++] = '\n';
    fwrite(piece, 1, n, stderr);
    fflush(stderr);
}

static void say(const char *prefix, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

static void say(const char *prefix, const char *fmt, va_list ap)
{
    char *text = NULL;
    kd_buf b = {0};
    if (vasprintf(&text, fmt, ap) < 0) return;
    kd_buf_printf(&b, "%s%s", prefix, text);
    if (b.text) kd__cli_line(b.text);
    kd_buf_release(&b);
    free(text);
}

void kd_cli_say(const kd_cli *c, const char *fmt, ...)
{
    if (c->common.quiet) return;
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
}

void kd_cli_detail(const kd_cli *c, const char *fmt, ...)
{
    if (c->common.quiet || !c->common.verbose) return;
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap);
    va_end(ap);
}

void kd_cli_warn(const kd_cli *c, const char *fmt, ...)
{
    char prefix[128];
    va_list ap;
    snprintf(prefix, sizeof prefix, "%.100s: warning: ", c->tool->name);
    va_start(ap, fmt);
    say(prefix, fmt, ap);
    va_end(ap);
}

/* ---- the line ------------------------------------------------------------------------------ */

void kd_progress_begin(kd_progress *p, const kd_cli *c, const char *what, const char *unit, uint64_t total)
{
    const char *term = getenv("TERM");
    *p = (kd_progress){.cli = c, .what = what, .unit = unit, .total = total, .start = kd_now()};
    p->terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb");
    p->last = p->terminal ? p->start + PATIENCE_S - REDRAW_S : p->start;
}

/* "train  412/938 rows  44%  loss 0.812  18.4k rows/s  ETA 0:21" */
static void compose(const kd_progress *p, uint64_t done, const char *extra, double now, kd_buf *b)
{
    char text[32];
    double seconds = now - p->start, rate = seconds > 0 ? (double)done / seconds : 0;
    kd_buf_printf(b, "%s  %llu", p->what, (unsigned long long)done);
    if (p->total) kd_buf_printf(b, "/%llu", (unsigned long long)p->total);
    kd_buf_printf(b, " %s", p->unit);
    if (p->total) kd_buf_printf(b, "  %d%%", (int)(100.0 * (double)done / (double)p->total));
    if (extra && *extra) kd_buf_printf(b, "  %s", extra);
    kd_buf_printf(b, "  %s %s/s", kd_fmt_count(text, rate < 10 ? (double)(long)(rate * 10 + 0.5) / 10 : rate),
                  p->unit);
    if (p->total > done && rate > 0)
        kd_buf_printf(b, "  ETA %s", kd_fmt_duration(text, (double)(p->total - done) / rate));
}

/* Cuts text (UTF-8) so that it fits into the terminal's line: a wrapped line cannot be redrawn. */
static void fit(kd_buf *b)
{
    struct winsize w;
    size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 10 ? w.ws_col : 80, n = 0;
    for (size_t i = 0; i < b->len; i++) {
        n += ((unsigned char)b->text[i] & 0xC0) != 0x80;
        if (n >= columns) {
            b->len = i;
            b->text[i] = '\0';
        }
    }
}

void kd_progress_set(kd_progress *p, uint64_t done, const char *extra)
{
    if (!p->cli->common.progress || p->cli->common.quiet) return;
    double now = kd_now();
    if (now - p->last < (p->terminal ? REDRAW_S : LOG_S)) return;
    p->last = now;
    if (p->terminal && tcgetpgrp(STDERR_FILENO) != getpgrp()) return;
    kd_buf b = {0};
    compose(p, done, extra, now, &b);
    if (b.failed) {
        kd_buf_release(&b);
        return;
    }
    if (p->terminal) {
        fit(&b);
        fprintf(stderr, "\r%s\033[K", b.text);
        fflush(stderr);
        atomic_store(&line_shown, true);
        p->shown = true;
    } else {
        kd__cli_line(b.text);
    }
    kd_buf_release(&b);
}

void kd_progress_end(kd_progress *p)
{
    if (p->shown) kd__progress_clear();
    p->shown = false;
}
