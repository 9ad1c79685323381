/* kd/cli.h - what all tools do alike on the command line.
 *
 * A tool describes itself in a kd_tool (name, one line, synopsis, examples, exit codes) and its
 * options in kd_option tables; kd_cli_parse does the rest: --help (grouped, with defaults from the
 * tables), --version, --json, --man (a man page in troff), --completion bash, -q, -v,
 * --[no-]progress, --threads, short and long flags, positional arguments, typing errors.
 *
 *     int main(int argc, char **argv)
 *     {
 *         my_opts o; kd_cli cli; kd_err err = {0};
 *         static const kd_tool tool = { .name = "kd-thing", ... };
 *         kd_cli_init(&cli, &tool, argc, argv);
 *         kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
 *         if (kd_cli_parse(&cli, &err)) return kd_cli_finish(&cli, &err);   // help and version too
 *         ...
 *         return kd_cli_finish(&cli, &err);      // error line or closing summary, exit code
 *     }
 *
 * stdout carries data only (tables, JSON, help that was asked for); progress, messages and the
 * closing summary go to stderr.
 *
 * Arguments: --name value, --name=value, -n value, -nvalue, -qv (several truth values), --no-name
 * (a truth value off), -- (no options behind it). Options and operands may be mixed.
 */
#ifndef KD_CLI_H
#define KD_CLI_H

#include "kd/config.h"
#include <signal.h>

typedef struct kd_example {
    const char *command, *what;
} kd_example;

typedef struct kd_tool {
    const char *name;        /* "kd-train" */
    const char *summary;     /* one line */
    const char *synopsis;    /* "[options] -s STORE STUDENT.yaml ..." */
    const char *description; /* paragraphs for --help's end and the man page; may be NULL */
    const kd_example
        *examples;        /* ends with {NULL, NULL}; the first is printed when called with no arguments */
    const char *see_also; /* "kd-dump(1), kd-eval(1)" */
    const char *const *libraries; /* more lines for --version, NULL-terminated; may be NULL: the
                                     libraries that kd links with are listed anyway */
    const char *const *words;     /* what the first operand may be, for completion; NULL-terminated or NULL */
    bool no_args_ok;              /* false: no arguments prints usage on stderr, exit 2 */
} kd_tool;

typedef struct kd_common { /* options that every tool has */
    bool json, quiet, verbose, progress;
    int64_t threads;         /* after parse: at least 1 */
    bool help, version, man; /* answered by parse */
    char *completion;
} kd_common;

typedef struct kd_cli {
    const kd_tool *tool;
    int argc;
    char **argv;
    kd_config config; /* the tables of flags */
    kd_common common;
    char **args; /* positional arguments, borrowed from argv */
    int nargs;
    bool done; /* --help, --version, ...: printed, nothing to do */
    double start;
    kd_buf note; /* extra text of the closing line */
    kd_err bug;  /* of kd_cli_table, reported by parse */
} kd_cli;

void kd_cli_init(kd_cli *c, const kd_tool *tool, int argc, char **argv);
/* Adds a table of options (before parse). Flags with the same name in two tables are our own bug. */
void kd_cli_table(kd_cli *c, const kd_option *rows, size_t n, void *target);
/* KD_OK; or KD_EUSAGE with a sentence (an empty one where usage was printed because there were no
 * arguments); returns KD_ESTOPPED with c->done set after --help and the like. Resolves threads (0
 * becomes the CPU count), checks KD_ISA. Ignores SIGPIPE (reset it before exec of other programs);
 * installs the stop handlers. */
kd_status kd_cli_parse(kd_cli *c, kd_err *err);
/* Adds to the closing line, " | " between notes: "212 rows/s". */
void kd_cli_note(kd_cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints "NAME: message" if err holds an error, else the closing summary line (unless -q): version,
 * tool, wall, CPU, peak memory, notes. Checks that stdout could be written. Frees. Exit code. */
int kd_cli_finish(kd_cli *c, kd_err *err);
/* The whole command line, quoted for a shell; free() it; NULL when out of memory. */
char *kd_cli_command(int argc, char **argv);
/* A line on stderr unless -q; detail: only with -v; warn: always, as "NAME: warning: ...". Each adds
 * the newline and clears the progress line first. */
void kd_cli_say(const kd_cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kd_cli_detail(const kd_cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kd_cli_warn(const kd_cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* JSON on stdout, with a newline. Takes the reference. */
kd_status kd_cli_print_json(json_t *value, kd_err *err);

/* ---- stop requests ------------------------------------------------------------------------ */

/* Set by the first SIGINT, SIGTERM or SIGUSR1; the second SIGINT ends the process at once (130). */
extern volatile sig_atomic_t kd_stop_requested;

/* ---- progress ----------------------------------------------------------------------------- */

/* One line on stderr: on a terminal redrawn at most 6 times a second and only after one second of
 * work; elsewhere a plain line every 10 s. Silent with -q or --no-progress. */
typedef struct kd_progress {
    const kd_cli *cli;
    const char *what, *unit; /* "train", "rows" */
    uint64_t total;          /* 0: unknown */
    double start, last;
    bool terminal, shown;
} kd_progress;
void kd_progress_begin(kd_progress *p, const kd_cli *c, const char *what, const char *unit, uint64_t total);
/* extra: text behind the figures, may be NULL ("loss 0.812 lr 0.001"). */
void kd_progress_set(kd_progress *p, uint64_t done, const char *extra);
void kd_progress_end(kd_progress *p); /* clears the line on a terminal */

/* ---- tables of text ----------------------------------------------------------------------- */

/* Cells are copied; columns are aligned on output: text to the left, numbers to the right. Running
 * out of memory is remembered, and print says so instead of printing half a table. */
typedef struct kd_table kd_table;
kd_table *kd_table_create(void);
void kd_table_cell(kd_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kd_table_row(kd_table *t); /* ends a row; the first row is the heading */
void kd_table_print(const kd_table *t, FILE *f, bool markdown);
void kd_table_free(kd_table *t);

#endif
