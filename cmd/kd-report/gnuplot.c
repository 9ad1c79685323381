/* gnuplot.c - plots: gnuplot draws them, this file makes its SVG part of the page.
 *
 * gnuplot executes what it reads, so nothing of strangers is in a script: texts stand there as words kdL00,
 * padded to the text's length, and are put into the SVG afterwards, escaped. Colours stand there as dark
 * greys #010101, #020202,
 * ... and become variables of the page's style, so that a plot follows light and dark. What a page needs once
 * or not at all (prologue, markers, ids, titles like "gnuplot_plot_1") is dropped.
 *
 * The script goes through a file without a name, so that neither side waits for the other.
 */
#include "report_cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

void plot_begin(plot *p, int width, int height, const char *xlabel, const char *ylabel)
{
    memset(p, 0, sizeof *p);
    kd_buf_printf(&p->script,
                  "set terminal svg size %d,%d dynamic noenhanced font 'inherit,12'\n"
                  "set border 3 lw 1 lc " INK_AXIS "\nset tics nomirror out scale 0.4 textcolor " INK_AXIS
                  "\nset grid ytics lt 1 lw 1 lc " INK_GRID "\nset key off\n"
                  "set xlabel '%s' textcolor " INK_AXIS "\nset ylabel '%s' offset 1,0 textcolor " INK_AXIS
                  "\n",
                  width, height, xlabel, ylabel);
}

/* Characters of UTF-8 text, at most 28: longer labels would leave the plot. */
static size_t label_chars(const char *s, size_t *bytes)
{
    size_t n = 0, i = 0;
    while (s[i] && n < 28) {
        do i++;
        while ((s[i] & 0xc0) == 0x80);
        n++;
    }
    *bytes = i;
    return n;
}

void plot_label(plot *p, const char *text)
{
    size_t bytes, n = label_chars(text, &bytes);
    if (p->labels == PLOT_LABELS) return;
    kd_buf_printf(&p->script, "kdL%02d", p->labels);
    for (size_t i = 5; i < n; i++) kd_buf_puts(&p->script, "q");
    p->label[p->labels++] = text;
}

/* ---- running it ---------------------------------------------------------------------------------- */

static bool spawn(pid_t *pid, int in, int out)
{
    char *argv[] = {"gnuplot", "-d", NULL}; // -d: without anybody's start-up file
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&fa, out, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&fa, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const int rc = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    return rc == 0;
}

/* The SVG that a script gives. KD_ENOTFOUND: no gnuplot. */
static kd_status run_gnuplot(const kd_buf *script, kd_buf *svg, kd_err *err)
{
    FILE *f = tmpfile();
    int pipe_fd[2] = {-1, -1}, status = 0;
    pid_t pid;
    char piece[16384];
    ssize_t n;
    if (!f || fwrite(script->text, 1, script->len, f) != script->len || fflush(f) || fseek(f, 0, SEEK_SET) ||
        pipe2(pipe_fd, O_CLOEXEC)) {
        kd_status st = kd_fail_errno(err, errno, "cannot hand a script to gnuplot");
        if (f) fclose(f);
        return st;
    }
    const bool started = spawn(&pid, fileno(f), pipe_fd[1]);
    close(pipe_fd[1]);
    while (started && (n = read(pipe_fd[0], piece, sizeof piece)) > 0) kd_buf_append(svg, piece, (size_t)n);
    close(pipe_fd[0]);
    fclose(f);
    if (!started) return kd_fail(err, KD_ENOTFOUND, "gnuplot is not installed: apt-get install gnuplot-nox");
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return kd_fail(err, KD_ENOTFOUND, "gnuplot is not installed: apt-get install gnuplot-nox");
    if (status || svg->failed || !svg->len)
        return kd_fail(err, KD_EIO, "gnuplot ended with status %d behind %zu bytes of SVG", status, svg->len);
    return KD_OK;
}

/* ---- from its SVG to ours ------------------------------------------------------------------------ */

static bool begins(const char *s, const char *with) { return !strncmp(s, with, strlen(with)); }

/* Behind "until", or the end. */
static const char *past(const char *s, const char *until)
{
    const char *at = strstr(s, until);
    return at ? at + strlen(until) : s + strlen(s);
}

/* "rgb(  3,   3,   3)" or "rgb(3,3,3)" of the few greys that stand for a variable; returns what is behind it,
 * or s. */
static const char *colour(const char *s, kd_buf *out)
{
    int v[3], used = 0;
    if (sscanf(s, "rgb(%d,%d,%d)%n", &v[0], &v[1], &v[2], &used) < 3 || !used || v[0] != v[1] ||
        v[0] != v[2] || v[0] < 1 || v[0] > 9)
        return s;
    kd_buf_printf(out, "var(--p%d)", v[0]);
    return s + used;
}

static const char *label(const plot *p, const char *s, kd_buf *out)
{
    const int i = (s[3] - '0') * 10 + (s[4] - '0');
    if (s[3] < '0' || s[3] > '9' || i < 0 || i >= p->labels) return s;
    size_t bytes;
    label_chars(p->label[i], &bytes);
    kd_buf cut = {0};
    kd_buf_append(&cut, p->label[i], bytes);
    if (p->label[i][bytes]) kd_buf_puts(&cut, "…");
    html_text(out, cut.text ? cut.text : "");
    kd_buf_release(&cut);
    s += 5;
    return s + strspn(s, "q");
}

static void adopt(const plot *p, const char *svg, kd_buf *out)
{
    const char *s = strstr(svg, "<g id=");
    while (s && *s && !begins(s, "</svg>")) {
        const char *was = s;
        if (begins(s, "<defs>"))
            s = past(s, "</defs>");
        else if (begins(s, "<title>"))
            s = past(s, "</title>");
        else if (begins(s, " id=\""))
            s = past(s + 5, "\"");
        else if (begins(s, "color='white'")) // what gnuplot clears behind a point
            kd_buf_puts(out, "color='var(--card)'"), s += strlen("color='white'");
        else if (begins(s, "rgb("))
            s = colour(s, out);
        else if (begins(s, "kdL"))
            s = label(p, s, out);
        if (s == was) kd_buf_append(out, s++, 1);
    }
}

kd_status plot_end(report *r, plot *p, const char *title, const char *about, kd_err *err)
{
    kd_buf svg = {0}, *b = &r->page;
    kd_status st = p->script.failed ? kd_fail(err, KD_ENOMEM, "no memory for a plot") : KD_OK;
    if (!st && !r->no_gnuplot) st = run_gnuplot(&p->script, &svg, err);
    if (st == KD_ENOTFOUND) {
        kd_cli_warn(r->cli, "%s; the page is without plots", err->msg);
        *err = (kd_err){0};
        r->no_gnuplot = true;
        st = KD_OK;
    }
    const char *box = svg.text ? strstr(svg.text, "viewBox=") : NULL;
    if (!st && r->no_gnuplot) {
        kd_buf_puts(
            b,
            "<p class=note>This plot is missing: gnuplot was not installed where the report was made.</p>\n");
    } else if (!st && !box) {
        st = kd_fail(err, KD_EIO, "gnuplot answered with something that is no SVG");
    } else if (!st) {
        const int id = ++r->plots;
        kd_buf_printf(b, "<figure class=plot><svg %.*s role=img aria-labelledby=\"t%d d%d\"><title id=t%d>",
                      (int)(past(box + 9, "\"") - box), box, id, id, id);
        html_text(b, title);
        kd_buf_printf(b, "</title><desc id=d%d>", id);
        html_text(b, about);
        kd_buf_puts(b, "</desc>");
        adopt(p, svg.text, b);
        kd_buf_puts(b, "</svg><figcaption>");
        html_text(b, title);
        kd_buf_puts(b, "</figcaption></figure>\n");
    }
    kd_buf_release(&svg);
    kd_buf_release(&p->script);
    return st;
}
