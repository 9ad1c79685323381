/* kd-store - looks into a store, verifies it, drops a segment. */
#include "kd-store/store_cmd.h"

#include <stdlib.h>
#include <string.h>

static const kd_example examples[] = {{"kd-store stat fashion.kd", "rows, columns, teachers and bytes"},
                                      {"kd-store stat fashion.kd --json | jq .root", "the same for programs"},
                                      {"kd-store verify fashion.kd",
                                       "read and check every byte; exit code 3 names what is damaged"},
                                      {"kd-store drop fashion.kd big", "remove what the teacher 'big' added"},
                                      {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-store",
    .summary = "look into a store, verify it, drop a teacher",
    .synopsis = "[options] stat|verify STORE | drop STORE SEGMENT",
    .description =
        "stat prints what a store holds: rows per split; per column its role, type, shape, "
        "encoding and size; teachers with "
        "their fingerprints; the root hash. It opens the store as every tool does, which checks "
        "the manifest, file sizes "
        "and the page tree.\n"
        "verify walks the pages of every file, then reads and decodes every record and compares "
        "the hashes with the "
        "manifest. What is damaged is named by column, chunk and rows.\n"
        "drop takes a segment (the columns that one teacher's pass added) out of the store; the rows "
        "and other teachers "
        "are not touched.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-train(1), kd-eval(1)",
};

static const kd_option rows[] = {
    {"Output", NULL, "out", "STORE", 'o', KD_OPTION_STRING, offsetof(store_opts, out), NULL, 0, 0, NULL,
     "store or file to write"},
    {"Slice", NULL, "part", "I/N", 0, KD_OPTION_STRING, offsetof(store_opts, part), NULL, 0, 0, NULL,
     "which part of how many, counted from 1"},
    {"Slice", NULL, "base-only", NULL, 0, KD_OPTION_BOOL, offsetof(store_opts, base_only), "off", 0, 0, NULL,
     "the rows without what teachers added"},
    {"Output", NULL, "resume", NULL, 0, KD_OPTION_BOOL, offsetof(store_opts, resume), "off", 0, 0, NULL,
     "go on with an unfinished run of the same input, if there is one"},
    {"Output", NULL, "force", NULL, 0, KD_OPTION_BOOL, offsetof(store_opts, force), "off", 0, 0, NULL,
     "replace what is there"},
};

typedef struct verb {
    const char *name, *operands; /* as in the synopsis */
    int least, most;             /* operands; most 0: any number */
    kd_status (*run)(kd_cli *c, const store_opts *o, kd_err *err);
} verb;

static const verb verbs[] = {{"stat", "STORE", 1, 1, store_stat},
                             {"verify", "STORE", 1, 1, store_verify},
                             {"drop", "STORE SEGMENT", 2, 2, store_drop},
                             {"slice", "STORE --part I/N -o OUT.kd", 1, 1, store_slice}};

static kd_status run(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *names[KD_COUNT(verbs)], *name = c->nargs ? c->args[0] : "";
    for (size_t i = 0; i < KD_COUNT(verbs); i++) {
        const verb *v = &verbs[i];
        names[i] = v->name;
        if (strcmp(name, v->name)) continue;
        if (c->nargs - 1 < v->least || (v->most && c->nargs - 1 > v->most))
            return kd_fail(err, KD_EUSAGE, "%d operands; needed is: kd-store %s %s", c->nargs - 1, v->name,
                           v->operands);
        return v->run(c, o, err);
    }
    const char *near = kd_nearest(name, names, KD_COUNT(names));
    if (near) return kd_fail(err, KD_EUSAGE, "unknown command '%.80s' (did you mean '%s'?)", name, near);
    return kd_fail(err, KD_EUSAGE, "unknown command '%.80s'; kd-store --help lists them", name);
}

int main(int argc, char **argv)
{
    kd_cli c;
    store_opts o = {0};
    kd_err err = {0};
    kd_cli_init(&c, &tool, argc, argv);
    kd_cli_table(&c, rows, KD_COUNT(rows), &o);
    if (!kd_cli_parse(&c, &err)) run(&c, &o, &err);
    return kd_cli_finish(&c, &err);
}
