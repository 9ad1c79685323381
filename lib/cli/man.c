/* man.c - the man page and the bash completion, from the same tables as --help.
 *
 * The page is plain man(7): no macros that only one formatter knows. What troff reads as markup is
 * escaped: backslash, a dot or quote at the start of a line, and '-', which would become a hyphen
 * that cannot be copied into a shell.
 */
#include "cli_private.h"

#include <ctype.h>
#include <string.h>

/* Appends text with troff's own characters escaped; a newline begins a new paragraph, unless spaces
 * follow: man keeps such a line as it is. */
static void put_text(kd_buf *b, const char *text)
{
    bool start = true;
    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\'')) kd_buf_puts(b, "\\&");
        start = *text == '\n';
        if (*text == '\\')
            kd_buf_puts(b, "\\e");
        else if (*text == '-')
            kd_buf_puts(b, "\\-");
        else if (*text == '\n')
            kd_buf_puts(b, text[1] == ' ' || !text[1] ? "\n" : "\n.PP\n");
        else
            kd_buf_append(b, text, 1);
    }
}

static void put_option(const kd_option *o, void *arg)
{
    kd_buf *b = arg, names = {0}, about = {0};
    kd__option_names(o, &names);
    kd_buf_puts(&about, o->help);
    kd__option_facts(o, &about);
    kd_buf_puts(b, ".TP\n\\fB");
    if (names.text) put_text(b, names.text);
    kd_buf_puts(b, "\\fR\n");
    if (about.text) put_text(b, about.text);
    if (o->key) {
        kd_buf_puts(b, "\nIn YAML: ");
        put_text(b, o->key);
        kd_buf_puts(b, ".");
    }
    kd_buf_puts(b, "\n");
    b->failed = b->failed || names.failed || about.failed;
    kd_buf_release(&names);
    kd_buf_release(&about);
}

static void put_head(const kd_tool *t, kd_buf *b)
{
    char title[64];
    snprintf(title, sizeof title, "%s", t->name);
    for (char *p = title; *p; p++) *p = (char)toupper((unsigned char)*p);
    kd_buf_printf(b, ".TH %s 1 \"\" \"kd %s\" \"kd manual\"\n.SH NAME\n", title, KD_VERSION);
    put_text(b, t->name);
    kd_buf_puts(b, " \\- ");
    put_text(b, t->summary);
    kd_buf_puts(b, "\n.SH SYNOPSIS\n\\fB");
    put_text(b, t->name);
    kd_buf_puts(b, "\\fR ");
    put_text(b, t->synopsis);
    kd_buf_puts(b, "\n.SH DESCRIPTION\n");
    put_text(b, t->description ? t->description : t->summary);
    kd_buf_puts(b, "\n");
}

static void put_tail(const kd_tool *t, kd_buf *b)
{
    kd_buf_puts(b, ".SH EXIT STATUS\n");
    for (size_t i = 0; i < kd__exit_code_count; i++)
        kd_buf_printf(b, ".TP\n\\fB%d\\fR\n%s\n", kd__exit_codes[i].code, kd__exit_codes[i].meaning);
    kd_buf_puts(b, ".SH ENVIRONMENT\n.TP\n\\fBKD_ISA\\fR\n"
                   "Highest instruction set to use: scalar, avx2, avx512, avx512bf16 or amx. "
                   "Without it, the best that the CPU has.\n");
    if (t->see_also) {
        kd_buf_puts(b, ".SH SEE ALSO\n");
        put_text(b, t->see_also);
        kd_buf_puts(b, "\n");
    }
}

void kd__cli_man(const kd_cli *c, kd_buf *b)
{
    const kd_tool *t = c->tool;
    put_head(t, b);
    if (t->examples && t->examples[0].command) kd_buf_puts(b, ".SH EXAMPLES\n");
    for (const kd_example *e = t->examples; e && e->command; e++) {
        kd_buf_puts(b, ".TP\n\\fB");
        put_text(b, e->command);
        kd_buf_puts(b, "\\fR\n");
        put_text(b, e->what);
        kd_buf_puts(b, "\n");
    }
    kd_buf_puts(b, ".SH OPTIONS\n");
    for (size_t k = 1; k <= c->config.tables; k++) {
        size_t table = k % c->config.tables;
        for (size_t i = 0; i < c->config.table[table].n; i++) {
            const char *group = c->config.table[table].rows[i].group;
            if (!kd__option_first(c, table, i)) continue;
            kd_buf_puts(b, ".SS ");
            put_text(b, group);
            kd_buf_puts(b, "\n");
            kd__option_each(c, group, put_option, b);
        }
    }
    put_tail(t, b);
}

/* ---- completion ---------------------------------------------------------------------------- */

static void put_flag(const kd_option *o, kd_buf *b)
{
    char flag[64];
    if (o->letter) kd_buf_printf(b, " -%c", o->letter);
    if (!*kd_option_flag(o, flag, sizeof flag)) return;
    kd_buf_printf(b, " --%s", flag);
    if (o->type == KD_OPTION_BOOL && o->value) kd_buf_printf(b, " --no-%s", flag);
}

/* One line of the case over the word before: what may follow an option. Names of files (metavars in
 * capitals that are no number) are completed by the shell, numbers by nobody. */
static void put_case(const kd_option *o, kd_buf *b)
{
    char flag[64];
    if (o->type == KD_OPTION_BOOL || !*kd_option_flag(o, flag, sizeof flag)) return;
    kd_buf_puts(b, "    ");
    if (o->letter) kd_buf_printf(b, "-%c|", o->letter);
    kd_buf_printf(b, "--%s) ", flag);
    if (o->type == KD_OPTION_CHOICE) {
        kd_buf_puts(b, "COMPREPLY=($(compgen -W \"");
        for (const char *p = o->choices; *p; p++) kd_buf_append(b, *p == '|' ? " " : p, 1);
        kd_buf_puts(b, "\" -- \"$cur\"))");
    } else if (o->type == KD_OPTION_STRING || o->type == KD_OPTION_STRINGS) {
        kd_buf_puts(b, "COMPREPLY=($(compgen -f -- \"$cur\"))");
    } else {
        kd_buf_puts(b, "COMPREPLY=()");
    }
    kd_buf_puts(b, "; return ;;\n");
}

static void each_row(const kd_cli *c, kd_buf *b, void (*f)(const kd_option *o, kd_buf *b))
{
    for (size_t t = 0; t < c->config.tables; t++)
        for (size_t i = 0; i < c->config.table[t].n; i++)
            if (kd__option_listed(&c->config.table[t].rows[i])) f(&c->config.table[t].rows[i], b);
}

void kd__cli_completion(const kd_cli *c, kd_buf *b)
{
    char function[64];
    snprintf(function, sizeof function, "_%s", c->tool->name);
    for (char *p = function; *p; p++)
        if (*p == '-') *p = '_';
    kd_buf_printf(b,
                  "# bash completion for %s: source this, or install it as\n"
                  "# /usr/share/bash-completion/completions/%s\n%s()\n{\n",
                  c->tool->name, c->tool->name, function);
    kd_buf_puts(b,
                "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n  case $prev in\n");
    each_row(c, b, put_case);
    kd_buf_puts(b, "  esac\n  if [[ $cur == -* ]]; then\n    COMPREPLY=($(compgen -W \"");
    each_row(c, b, put_flag);
    kd_buf_puts(b, "\" -- \"$cur\"))\n");
    if (c->tool->words) {
        kd_buf_puts(b, "  elif ((COMP_CWORD == 1)); then\n    COMPREPLY=($(compgen -W \"");
        for (const char *const *w = c->tool->words; *w; w++) kd_buf_printf(b, " %s", *w);
        kd_buf_puts(b, "\" -- \"$cur\"))\n");
    }
    kd_buf_printf(b,
                  "  else\n    COMPREPLY=($(compgen -f -- \"$cur\"))\n  fi\n}\n"
                  "complete -o filenames -F %s %s\n",
                  function, c->tool->name);
}
