/* progress.c - words on standard error while a tool runs, and requests to stop.
 *
 * On a terminal one line is drawn over itself; it must be gone before anything else is written, so
 * all messages pass through here and clear it first. In a log a line every ten seconds is enough to
 * see that the work goes on. A background job draws nothing: the terminal belongs to another.
 *
 * Stopping: the handlers only set a flag that the work looks at between batches, so that what was
 * done is saved. Only a second Ctrl-C ends the process where it stands.
 */
#include "cli_private.h"

#include <errno.h>
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

void kd__cli_line(const char *text)
{
    kd_buf b = {0};
    kd_buf_puts(&b, text);
    kd_buf_puts(&b, "\n");
    for (size_t i = 0; i + 1 < b.len; i++) /* names in messages may hold anything, even escapes */
        if (((unsigned char)b.text[i] < 0x20 && b.text[i] != '\n') || b.text[i] == 0x7F) b.text[i] = '?';
    kd__progress_clear();
    if (b.text) fputs(b.text, stderr);
    fflush(stderr);
    kd_buf_release(&b);
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

/* ---- stop requests ------------------------------------------------------------------------- */

volatile sig_atomic_t kd_stop_requested;
static volatile sig_atomic_t interrupts;
static char farewell[160];
static size_t farewell_len;

static void on_stop(int sig)
{
    int saved = errno;
    kd_stop_requested = 1;
    if (sig == SIGINT) {
        if (interrupts) _exit(130);
        interrupts = 1;
        if (farewell_len) { /* nothing can be done about a failure here */
            ssize_t ignored = write(STDERR_FILENO, farewell, farewell_len);
            (void)ignored;
        }
    }
    errno = saved;
}

void kd__stop_install(const char *name, bool quiet)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGUSR1};
    struct sigaction a = {.sa_handler = on_stop, .sa_flags = SA_RESTART}, old;
    farewell_len = 0;
    if (!quiet && isatty(STDERR_FILENO)) {
        snprintf(farewell, sizeof farewell,
                 "\r\033[K%.60s: stopping when this piece of work is saved; "
                 "Ctrl-C again stops at once\n",
                 name);
        farewell_len = strlen(farewell);
    }
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < KD_COUNT(signals); i++) {
        /* nohup and shells that put a job into the background have their reasons to ignore it */
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;
        sigaction(signals[i], &a, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}
