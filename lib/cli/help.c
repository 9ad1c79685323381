/* help.c - --help, usage and --version, written from the tables.
 *
 * Order is by what people look for: what the tool is, how to call it, examples to copy, then options
 * in groups, then the longer description and the exit codes. Nothing is typed twice: defaults,
 * ranges and choices are those the parser uses.
 */
#include "cli_private.h"

#include <dnnl.h>
#include <lmdb.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>
#include <zstd.h>

#define WIDTH  100
#define COLUMN 28 /* where the explanation of an option begins */

const kd__exit_code kd__exit_codes[] = {
    {0, "done"},
    {1, "failed while running, or a gate failed"},
    {2, "wrong usage or configuration"},
    {3, "input missing, damaged or mismatched"},
    {4, "disk or map full"},
    {5, "stopped on request, the work is saved"},
    {130, "interrupted twice, stopped at once"},
};
const size_t kd__exit_code_count = sizeof kd__exit_codes / sizeof *kd__exit_codes;

bool kd__option_listed(const kd_option *o)
{
    char flag[64];
    return o->letter || *kd_option_flag(o, flag, sizeof flag);
}

bool kd__option_first(const kd_cli *c, size_t t, size_t i)
{
    const char *group = c->config.table[t].rows[i].group;
    for (size_t u = 0; u <= t; u++)
        for (size_t k = 0; k < (u == t ? i : c->config.table[u].n); k++) {
            const kd_option *o = &c->config.table[u].rows[k];
            if (kd__option_listed(o) && !strcmp(o->group, group)) return false;
        }
    return kd__option_listed(&c->config.table[t].rows[i]);
}

void kd__option_each(const kd_cli *c, const char *group, void (*f)(const kd_option *o, void *arg), void *arg)
{
    for (size_t t = 0; t < c->config.tables; t++)
        for (size_t i = 0; i < c->config.table[t].n; i++) {
            const kd_option *o = &c->config.table[t].rows[i];
            if (kd__option_listed(o) && !strcmp(o->group, group)) f(o, arg);
        }
}

static bool on_by_default(const kd_option *o)
{
    return o->type == KD_OPTION_BOOL && o->value && strchr("tToOyY", o->value[0]) &&
           strcasecmp(o->value, "off");
}

void kd__option_names(const kd_option *o, kd_buf *b)
{
    char flag[64];
    const char *value = o->metavar ? o->metavar : o->type == KD_OPTION_CHOICE ? "WHICH" : "VALUE";
    kd_option_flag(o, flag, sizeof flag);
    if (o->letter) kd_buf_printf(b, "-%c", o->letter);
    if (*flag) kd_buf_printf(b, "%s--%s%s", o->letter ? ", " : "", on_by_default(o) ? "[no-]" : "", flag);
    if (o->type != KD_OPTION_BOOL) kd_buf_printf(b, " %s", value);
}

void kd__option_facts(const kd_option *o, kd_buf *b)
{
    char text[512];
    kd_option_expects(o, text, sizeof text);
    const char *from = strstr(text, " from ");
    if (o->type == KD_OPTION_CHOICE)
        kd_buf_printf(b, " (%s)", text + strlen("one of "));
    else if (from)
        kd_buf_printf(b, " (%s)", from + strlen(" from "));
    if (o->type == KD_OPTION_BOOL ? on_by_default(o) : o->value && *o->value)
        kd_buf_printf(b, " [%s]", o->value);
}

/* Characters that text shows, if it is UTF-8. */
static size_t shown(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* Appends one line of text wrapped at WIDTH: its first part at column `at`, the others at `indent`. */
static void put_line(kd_buf *b, const char *text, size_t len, size_t at, size_t indent)
{
    bool first = true;
    for (size_t i = 0, word; i < len; i += word) {
        if (text[i] == ' ') {
            word = 1;
            continue;
        }
        for (word = 0; i + word < len && text[i + word] != ' '; word++) continue;
        size_t width = shown(text + i, word);
        if (!first && at + 1 + width > WIDTH) {
            kd_buf_printf(b, "\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        if (!first) kd_buf_puts(b, " ");
        kd_buf_append(b, text + i, word);
        at += width + !first;
        first = false;
    }
    kd_buf_puts(b, "\n");
}

/* Paragraphs are lines; a line that begins with a space is a list's and stays as it is. */
static void put_wrapped(kd_buf *b, const char *text, size_t at, size_t indent)
{
    while (*text) {
        size_t len = strcspn(text, "\n");
        if (*text == ' ')
            kd_buf_append(b, text, len), kd_buf_puts(b, "\n");
        else
            put_line(b, text, len, at, indent);
        at = indent;
        text += len + (text[len] == '\n');
        if (*text && indent) kd_buf_printf(b, "%*s", (int)indent, "");
    }
}

static void put_option(const kd_option *o, void *arg)
{
    kd_buf *b = arg, names = {0}, about = {0};
    kd_buf_puts(&names, o->letter ? "  " : "      ");
    kd__option_names(o, &names);
    kd_buf_puts(&about, o->help);
    kd__option_facts(o, &about);
    if (names.failed || about.failed) {
        b->failed = true;
    } else {
        kd_buf_puts(b, names.text);
        if (names.len + 2 > COLUMN)
            kd_buf_printf(b, "\n%*s", COLUMN, "");
        else
            kd_buf_printf(b, "%*s", (int)(COLUMN - names.len), "");
        put_wrapped(b, about.text, COLUMN, COLUMN);
    }
    kd_buf_release(&names);
    kd_buf_release(&about);
}

void kd__cli_usage(const kd_cli *c, kd_buf *b)
{
    const kd_tool *t = c->tool;
    kd_buf_printf(b, "%s: %s\nusage: %s %s\n", t->name, t->summary, t->name, t->synopsis);
    if (t->examples && t->examples[0].command) kd_buf_printf(b, "for example: %s\n", t->examples[0].command);
    kd_buf_printf(b, "%s --help lists all options\n", t->name);
}

void kd__cli_help(const kd_cli *c, kd_buf *b)
{
    const kd_tool *t = c->tool;
    kd_buf_printf(b, "%s - %s\n\nUsage: %s %s\n", t->name, t->summary, t->name, t->synopsis);
    for (const kd_example *e = t->examples; e && e->command; e++)
        kd_buf_printf(b, "%s  %s\n      %s\n", e == t->examples ? "\nExamples:\n" : "", e->command, e->what);
    /* The tool's own groups first, those of every tool last. */
    for (size_t k = 1; k <= c->config.tables; k++) {
        size_t table = k % c->config.tables;
        for (size_t i = 0; i < c->config.table[table].n; i++) {
            const char *group = c->config.table[table].rows[i].group;
            if (!kd__option_first(c, table, i)) continue;
            kd_buf_printf(b, "\n%s:\n", group);
            kd__option_each(c, group, put_option, b);
        }
    }
    if (t->description) {
        kd_buf_puts(b, "\n");
        put_wrapped(b, t->description, 0, 0);
    }
    kd_buf_puts(b, "\nExit status:\n");
    for (size_t i = 0; i < kd__exit_code_count; i++)
        kd_buf_printf(b, "  %3d  %s\n", kd__exit_codes[i].code, kd__exit_codes[i].meaning);
    if (t->see_also) kd_buf_printf(b, "\nSee also: %s\n", t->see_also);
}

void kd__cli_version(const kd_cli *c, kd_buf *b)
{
    int major, minor, patch, cpus = kd_cpu_count();
    const dnnl_version_t *dnnl = dnnl_version();
    unsigned xxh = XXH_versionNumber();
    kd_buf_printf(b, "%s %s\n", c->tool->name, KD_VERSION);
    kd_buf_printf(b, "built with %s\n", kd_build_info());
    kd_buf_printf(b, "running on %s, %d CPU%s, instruction set %s\n", kd_cpu_name(), cpus,
                  cpus == 1 ? "" : "s", kd_isa_name(kd_cpu_isa()));
    kd_buf_printf(b, "oneDNN %d.%d.%d\n", dnnl->major, dnnl->minor, dnnl->patch);
    mdb_version(&major, &minor, &patch);
    kd_buf_printf(b, "LMDB %d.%d.%d\n", major, minor, patch);
    kd_buf_printf(b, "zstd %s\n", ZSTD_versionString());
    yaml_get_version(&major, &minor, &patch);
    kd_buf_printf(b, "libyaml %d.%d.%d\n", major, minor, patch);
    kd_buf_printf(b, "jansson %s\n", jansson_version_str());
    kd_buf_printf(b, "xxhash %u.%u.%u\n", xxh / 10000, xxh / 100 % 100, xxh % 100);
    kd_buf_printf(b, "zlib %s\n", zlibVersion());
    kd_buf_printf(b, "libpng %s\n", png_get_libpng_ver(NULL));
    for (const char *const *l = c->tool->libraries; l && *l; l++) kd_buf_printf(b, "%s\n", *l);
}
