/* kd - the front command: `kd dump ...` runs kd-dump, `kd help` lists the tools.
 *
 * It holds no logic. A tool is looked for beside this program first, so that a build folder or a
 * prefix that is not on PATH works as a whole, then on PATH; so anybody's kd-something is a
 * sub-command too.
 */
#include "kd/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name, *summary;
} tools[] = {
    {"dump", "pack data into a store; add a teacher's outputs to it"},
    {"train", "train one or many students from a store in one pass"},
    {"eval", "measure students against labels and the cached teacher"},
    {"store", "look into a store, verify it, keep it in order"},
    {"export", "write a student in the formats people run"},
    {"run", "use a student or a teacher on new input"},
    {"audit", "find dirty data with the teacher's help"},
    {"report", "one page of tables and plots about students"},
};

static const kd_example examples[] = {{"kd help", "list the tools"},
                                      {"kd help train", "the options of kd-train"},
                                      {"kd train -s fashion.kd student.yaml",
                                       "the same as kd-train -s fashion.kd student.yaml"},
                                      {NULL, NULL}};

/* The file of tool kd-NAME: beside this program or on PATH; free() it; NULL if there is none. */
static char *find_tool(const char *name)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = '\0';
        char *path = kd_sprintf("%.*skd-%s", (int)(kd_path_base(self) - self), self, name);
        if (path && access(path, X_OK) == 0) return path;
        free(path);
    }
    const char *dirs = getenv("PATH");
    for (size_t len; dirs && *dirs; dirs += len + (dirs[len] == ':')) {
        len = strcspn(dirs, ":");
        char *path = len ? kd_sprintf("%.*s/kd-%s", (int)len, dirs, name) : NULL;
        if (path && access(path, X_OK) == 0) return path;
        free(path);
    }
    return NULL;
}

/* "  dump     pack data ..." for each tool that is installed. */
static void list_tools(kd_buf *b)
{
    kd_buf_puts(b, "Tools (kd help TOOL shows one's options):\n");
    for (size_t i = 0; i < KD_COUNT(tools); i++) {
        char *path = find_tool(tools[i].name);
        if (path) kd_buf_printf(b, "  %-8s %s\n", tools[i].name, tools[i].summary);
        free(path);
    }
}

static kd_status unknown_tool(const char *name, kd_err *err)
{
    const char *names[KD_COUNT(tools) + 1];
    size_t n = 0;
    for (size_t i = 0; i < KD_COUNT(tools); i++) {
        char *path = find_tool(tools[i].name);
        if (path) names[n++] = tools[i].name;
        free(path);
    }
    names[n++] = "help";
    const char *near = kd_nearest(name, names, n);
    if (near) return kd_fail(err, KD_EUSAGE, "unknown tool '%.80s' (did you mean 'kd %s'?)", name, near);
    return kd_fail(err, KD_EUSAGE, "unknown tool '%.80s' (kd help lists the tools)", name);
}

/* Becomes kd-NAME with args (NULL-terminated, args[0] to be replaced); returns only on failure. */
static kd_status run_tool(const char *name, char **args, kd_err *err)
{
    char *path = strchr(name, '/') || !*name ? NULL : find_tool(name), *title = kd_sprintf("kd-%s", name);
    kd_status st = path ? KD_OK : unknown_tool(name, err);
    if (!st && !title) st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st) {
        args[0] = title;
        execv(path, args);
        st = kd_fail_errno(err, errno, "%s: cannot run", path);
    }
    free(path);
    free(title);
    return st;
}

int main(int argc, char **argv)
{
    kd_err err = {0};
    kd_cli cli;
    kd_buf list = {0};
    const char *words[KD_COUNT(tools) + 2] = {"help"};
    for (size_t i = 0; i < KD_COUNT(tools); i++) words[i + 1] = tools[i].name;
    list_tools(&list);
    const kd_tool tool = {
        .name = "kd",
        .summary = "distil large models into small ones, offline",
        .synopsis = "TOOL [arguments] | help [TOOL]",
        .description = list.failed ? NULL : list.text,
        .examples = examples,
        .see_also = "kd-dump(1), kd-train(1), kd-eval(1), kd-audit(1), kd-export(1), kd-store(1)",
        .words = words,
    };
    kd_cli_init(&cli, &tool, argc, argv);
    kd_status st = KD_OK;
    if (argc > 1 && !strcmp(argv[1], "help")) {
        char *help[] = {NULL, "--help", NULL};
        if (argc > 2) {
            st = run_tool(argv[2], help, &err);
        } else {
            fputs(list.text ? list.text : "kd: out of memory\n", stdout);
            cli.done = true;
        }
    } else if (argc > 1 && argv[1][0] != '-') {
        st = run_tool(argv[1], argv + 1, &err);
    } else {
        st = kd_cli_parse(&cli, &err);
        if (!st) kd_fail(&err, KD_EUSAGE, "no tool named (kd help lists the tools)");
    }
    (void)st;
    int code = kd_cli_finish(&cli, &err);
    kd_buf_release(&list);
    return code;
}
