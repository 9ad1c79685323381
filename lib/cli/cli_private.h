/* cli_private.h - what the files of lib/cli share. */
#ifndef KD_CLI_PRIVATE_H
#define KD_CLI_PRIVATE_H

#include "kd/cli.h"

/* Each writes one text, made from the tool's description and its option tables, into b. */
void kd__cli_help(const kd_cli *c, kd_buf *b);       /* --help */
void kd__cli_usage(const kd_cli *c, kd_buf *b);      /* without arguments: synopsis and one example */
void kd__cli_version(const kd_cli *c, kd_buf *b);    /* --version */
void kd__cli_man(const kd_cli *c, kd_buf *b);        /* --man */
void kd__cli_completion(const kd_cli *c, kd_buf *b); /* --completion bash */

/* The documented exit codes: number and meaning, the same for all tools. */
typedef struct kd__exit_code {
    int code;
    const char *meaning;
} kd__exit_code;
extern const kd__exit_code kd__exit_codes[];
extern const size_t kd__exit_code_count;

bool kd__option_listed(const kd_option *o); /* has a flag or a letter */
/* "-e", "--epochs", " N" as in "-e, --epochs N"; with brackets round no- where it is on by default. */
void kd__option_names(const kd_option *o, kd_buf *b);
/* " (1 to 10) [3]": range or choices, then the default, where there is one to tell. */
void kd__option_facts(const kd_option *o, kd_buf *b);
/* Whether row i of table t is the first of its group. */
bool kd__option_first(const kd_cli *c, size_t t, size_t i);
/* Calls f for each listed option of one group, over all tables. */
void kd__option_each(const kd_cli *c, const char *group, void (*f)(const kd_option *o, void *arg), void *arg);

/* Removes the progress line from the terminal, if one is shown. */
void kd__progress_clear(void);
/* Prints text on stderr as one line, with control characters replaced. */
void kd__cli_line(const char *text);

/* SIGINT, SIGTERM and SIGUSR1 set kd_stop_requested; SIGPIPE is ignored; guards are heard. quiet: no word on
 * SIGINT. name: of the tool. */
void kd__signals_install(const char *name, bool quiet);

#endif
