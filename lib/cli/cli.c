/* cli.c - arguments in, closing line and exit code out.
 *
 * The parser knows no option by name except those every tool has: it looks names up in the tables
 * and lets the config check the values, so flags and YAML accept the same things in the same words.
 * Questions (--help and its kin) are answered where they stand; whatever is behind them does not
 * matter any more.
 */
#include "cli_private.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const kd_option common_rows[] = {
    {"Common", NULL, "threads", "N", 'j', KD_OPTION_INT, offsetof(kd_common, threads), "0", 0, 4096, NULL,
     "threads to compute with; 0: one for each CPU"},
    {"Common", NULL, "json", NULL, 0, KD_OPTION_BOOL, offsetof(kd_common, json), NULL, 0, 0, NULL,
     "print one JSON object on standard output"},
    {"Common", NULL, "quiet", NULL, 'q', KD_OPTION_BOOL, offsetof(kd_common, quiet), NULL, 0, 0, NULL,
     "no messages but warnings and errors"},
    {"Common", NULL, "verbose", NULL, 'v', KD_OPTION_BOOL, offsetof(kd_common, verbose), NULL, 0, 0, NULL,
     "more messages"},
    {"Common", NULL, "progress", NULL, 0, KD_OPTION_BOOL, offsetof(kd_common, progress), "on", 0, 0, NULL,
     "progress on standard error"},
    {"Common", NULL, "help", NULL, 'h', KD_OPTION_BOOL, offsetof(kd_common, help), NULL, 0, 0, NULL,
     "print this help"},
    {"Common", NULL, "version", NULL, 'V', KD_OPTION_BOOL, offsetof(kd_common, version), NULL, 0, 0, NULL,
     "print version, compiler, CPU and libraries"},
    {"Common", NULL, "man", NULL, 0, KD_OPTION_BOOL, offsetof(kd_common, man), NULL, 0, 0, NULL,
     "print the man page (troff)"},
    {"Common", NULL, "completion", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_common, completion), NULL, 0, 0,
     "bash", "print a completion script for a shell"},
};

/* An idle OpenMP thread spins before it sleeps: for milliseconds by default, which is free on an idle machine
 * and ruinous on a busy one (a 2-thread training run beside other programs took 8 times as long). A
 * shorter spin costs nothing measurable alone. libgomp reads the limit before main, so the program
 * starts itself once more, unless the user has set a policy of their own. */
static void spin_briefly(char **argv)
{
    char self[PATH_MAX]; /* by its own path, so that ps shows the tool's name */
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    self[n] = '\0';
    if (!setenv("GOMP_SPINCOUNT", "20000", 1)) execv(self, argv);
}

void kd_cli_init(kd_cli *c, const kd_tool *tool, int argc, char **argv)
{
    spin_briefly(argv);
    *c = (kd_cli){.tool = tool, .argc = argc, .argv = argv, .start = kd_now()};
    kd_config_add(&c->config, common_rows, KD_COUNT(common_rows), &c->common, &c->bug);
}

void kd_cli_table(kd_cli *c, const kd_option *rows, size_t n, void *target)
{
    if (!c->bug.code) kd_config_add(&c->config, rows, n, target, &c->bug);
}

/* Two rows of one flag or letter cannot both be meant. */
static kd_status check_flags(const kd_cli *c, kd_err *err)
{
    char flag[64];
    for (size_t t = 0; t < c->config.tables; t++)
        for (size_t i = 0; i < c->config.table[t].n; i++) {
            const kd_option *o = &c->config.table[t].rows[i];
            if (*kd_option_flag(o, flag, sizeof flag) && kd_config_find(&c->config, flag) != o)
                return kd_fail(err, KD_EUSAGE, "kd bug: two options are called --%s", flag);
            if (o->letter && kd_config_find_letter(&c->config, o->letter) != o)
                return kd_fail(err, KD_EUSAGE, "kd bug: two options are called -%c", o->letter);
        }
    return KD_OK;
}

static void print_text(const kd_cli *c, void (*make)(const kd_cli *c, kd_buf *b), FILE *f)
{
    kd_buf b = {0};
    make(c, &b);
    if (b.text) fwrite(b.text, 1, b.len, f);
    kd_buf_release(&b);
}

/* Answers --help and the like; true when there was a question. */
static bool answer(kd_cli *c)
{
    const kd_common *o = &c->common;
    if (o->help)
        print_text(c, kd__cli_help, stdout);
    else if (o->version)
        print_text(c, kd__cli_version, stdout);
    else if (o->man)
        print_text(c, kd__cli_man, stdout);
    else if (o->completion)
        print_text(c, kd__cli_completion, stdout);
    else
        return false;
    c->done = true;
    return true;
}

/* --name, --name=value, --name value; *i moves on when the next argument is the value. */
static kd_status long_option(kd_cli *c, int *i, kd_err *err)
{
    const char *arg = c->argv[*i] + 2, *equals = strchr(arg, '='), *value = equals ? equals + 1 : NULL;
    char *name = kd_strdup(arg);
    if (!name) return kd_fail(err, KD_ENOMEM, "out of memory");
    name[strcspn(name, "=")] = '\0';
    const kd_option *o = kd_config_find(&c->config, name);
    if (o && o->type != KD_OPTION_BOOL && !value && *i + 1 < c->argc) value = c->argv[++*i];
    kd_status st = !value && o && o->type != KD_OPTION_BOOL
                       ? kd_fail(err, KD_EUSAGE, "--%s needs a value (%s)", name,
                                 kd_option_expects(o, (char[256]){0}, 256))
                       : kd_config_flag(&c->config, name, value, err);
    free(name);
    return st;
}

/* -x, -xy of truth values, -nvalue, -n value. */
static kd_status short_options(kd_cli *c, int *i, kd_err *err)
{
    char flag[64];
    for (const char *p = c->argv[*i] + 1; *p; p++) {
        const kd_option *o = kd_config_find_letter(&c->config, *p);
        if (!o) return kd_fail(err, KD_EUSAGE, "unknown option -%.1s (--help lists them)", p);
        kd_option_flag(o, flag, sizeof flag);
        if (o->type == KD_OPTION_BOOL) {
            kd_status st = kd_config_flag(&c->config, flag, NULL, err);
            if (st) return st;
            continue;
        }
        const char *value = p[1] ? p + 1 : *i + 1 < c->argc ? c->argv[++*i] : NULL;
        if (!value)
            return kd_fail(err, KD_EUSAGE, "-%c (--%s) needs a value (%s)", *p, flag,
                           kd_option_expects(o, (char[256]){0}, 256));
        return kd_config_flag(&c->config, flag, value, err);
    }
    return KD_OK;
}

/* KD_ISA is read deep below, where nothing can be said about it. */
static kd_status check_isa(const kd_cli *c, kd_err *err)
{
    const char *want = getenv("KD_ISA"), *names[KD_ISA_AMX + 1];
    kd_isa isa;
    if (!want || !*want) return KD_OK;
    for (int i = 0; i <= KD_ISA_AMX; i++) names[i] = kd_isa_name((kd_isa)i);
    const char *near = kd_nearest(want, names, KD_COUNT(names));
    if (!kd_isa_parse(want, &isa))
        return kd_fail(err, KD_EUSAGE,
                       "environment: KD_ISA=%.40s is unknown%s%s%s, expected scalar, avx2, avx512, "
                       "avx512bf16 or amx",
                       want, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
    if (isa > kd_cpu_isa())
        kd_cli_detail(c, "KD_ISA=%s: this CPU goes as far as %s, which is used", want,
                      kd_isa_name(kd_cpu_isa()));
    return KD_OK;
}

static kd_status parse_arguments(kd_cli *c, kd_err *err)
{
    bool options = true;
    for (int i = 1; i < c->argc; i++) {
        const char *arg = c->argv[i];
        kd_status st = KD_OK;
        if (!options || arg[0] != '-' || !arg[1])
            c->args[c->nargs++] = c->argv[i];
        else if (!strcmp(arg, "--"))
            options = false;
        else if (arg[1] == '-')
            st = long_option(c, &i, err);
        else
            st = short_options(c, &i, err);
        if (st) return st;
        if (answer(c)) return KD_ESTOPPED;
    }
    return KD_OK;
}

kd_status kd_cli_parse(kd_cli *c, kd_err *err)
{
    kd_status st;
    if (c->bug.code) return kd_fail(err, c->bug.code, "%s", c->bug.msg);
    if ((st = check_flags(c, err))) return st;
    c->args = calloc((size_t)c->argc + 1, sizeof *c->args);
    if (!c->args) return kd_fail(err, KD_ENOMEM, "out of memory");
    if (c->argc <= 1 && !c->tool->no_args_ok) {
        print_text(c, kd__cli_usage, stderr);
        return kd_fail(err, KD_EUSAGE, "%s", "");
    }
    if ((st = parse_arguments(c, err)) || (st = check_isa(c, err))) return st;
    int cpus = kd_cpu_count();
    if (c->common.threads > cpus)
        kd_cli_warn(c, "--threads %lld on %d CPUs: more threads than CPUs are slower, not faster",
                    (long long)c->common.threads, cpus);
    if (c->common.threads == 0) c->common.threads = cpus;
    kd__signals_install(c->tool->name, c->common.quiet);
    return KD_OK;
}

void kd_cli_note(kd_cli *c, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    kd_buf_printf(&c->note, "%s%s", c->note.len ? " | " : "", text);
}

/* Appends s as a shell reads it back: as it is, or in single quotes. */
static void put_quoted(kd_buf *b, const char *s)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    if (*s && strspn(s, safe) == strlen(s)) {
        kd_buf_puts(b, s);
        return;
    }
    kd_buf_puts(b, "'");
    for (const char *quote; (quote = strchr(s, '\'')); s = quote + 1) {
        kd_buf_append(b, s, (size_t)(quote - s));
        kd_buf_puts(b, "'\\''");
    }
    kd_buf_puts(b, s);
    kd_buf_puts(b, "'");
}

char *kd_cli_command(int argc, char **argv)
{
    kd_buf b = {0};
    kd_buf_puts(&b, "");
    for (int i = 0; i < argc; i++) {
        if (i) kd_buf_puts(&b, " ");
        put_quoted(&b, argv[i]);
    }
    if (b.failed) kd_buf_release(&b);
    return b.text;
}

/* "0.25 s", "41.2 s", "312 s", then "1:02:03". */
static void put_seconds(kd_buf *b, double s)
{
    char text[32];
    if (s < 600)
        kd_buf_printf(b, "%.*f s", s < 9.995 ? 2 : s < 99.95 ? 1 : 0, s);
    else
        kd_buf_puts(b, kd_fmt_duration(text, s));
}

static void print_summary(const kd_cli *c)
{
    kd_buf b = {0};
    char peak[32], *command = kd_cli_command(c->argc, c->argv);
    kd_buf_printf(&b, "%s %s | wall ", c->tool->name, KD_VERSION);
    put_seconds(&b, kd_now() - c->start);
    kd_buf_puts(&b, ", ");
    put_seconds(&b, kd_cpu_seconds());
    kd_buf_printf(&b, " CPU, %s peak", kd_fmt_bytes(peak, (double)kd_peak_rss()));
    if (c->note.len) kd_buf_printf(&b, " | %s", c->note.text);
    kd_buf_printf(&b, " | %s", command ? command : c->tool->name);
    kd__cli_line(b.failed ? "out of memory for the closing line" : b.text);
    kd_buf_release(&b);
    free(command);
}

/* Whether everything printed reached standard output; a reader that had enough (EPIPE) of an
 * answer such as --help is no failure. */
static kd_status check_stdout(const kd_cli *c, kd_err *err)
{
    errno = 0;
    bool bad = fflush(stdout) != 0;
    int why = errno;
    if (!bad && !ferror(stdout)) return KD_OK;
    if (why == EPIPE && c->done) return KD_OK;
    return kd_fail_errno(err, why ? why : EIO, "cannot write to standard output");
}

int kd_cli_finish(kd_cli *c, kd_err *err)
{
    kd_err local = {0};
    kd_err *e = err ? err : &local;
    kd__progress_clear();
    if (!e->code) check_stdout(c, e);
    if (e->code) {
        fflush(stdout);
        if (e->msg[0]) {
            char line[sizeof e->msg + 128];
            snprintf(line, sizeof line, "%.100s: %s", c->tool->name, e->msg);
            kd__cli_line(line);
        }
    } else if (!c->done && !c->common.quiet) {
        print_summary(c);
    }
    int code = kd_exit_code(e->code);
    free(c->args);
    kd_buf_release(&c->note);
    kd_config_release(&c->config);
    c->args = NULL;
    c->nargs = 0;
    return code;
}

kd_status kd_cli_print_json(json_t *value, kd_err *err)
{
    char *text = value ? kd_json_text(value, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER) : NULL;
    json_decref(value);
    if (!text) return kd_fail(err, KD_ENOMEM, "no memory for the JSON output");
    errno = 0;
    kd_status st = fputs(text, stdout) < 0 || fputc('\n', stdout) < 0
                       ? kd_fail_errno(err, errno ? errno : EIO, "cannot write to standard output")
                       : KD_OK;
    free(text);
    return st;
}
