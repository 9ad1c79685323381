/* kd-store - looks into stores, verifies, cuts, merges and compacts them; imports and exports columns. */
#include "kd-store/store_cmd.h"

#include <stdlib.h>
#include <string.h>

static const kd_example examples[] = {
    {"kd-store stat fashion.kd", "rows, columns, teachers and bytes"},
    {"kd-store stat fashion.kd --json | jq .root", "the same for programs"},
    {"kd-store verify fashion.kd", "read and check every byte; exit code 3 names what is damaged"},
    {"kd-store verify fashion.kd --structure", "the pages alone, without reading the values"},
    {"kd-store slice fashion.kd --part 1/4 --base-only -o part1.kd",
     "what the first of four machines works on"},
    {"kd-store merge all.kd part1.kd part2.kd part3.kd part4.kd", "their stores put together again"},
    {"kd-store import fashion.kd big.jsonl --name big",
     "outputs of a teacher that ran elsewhere, matched by row id"},
    {"kd-store import fashion.kd big.npy --name big2 --order source", "rows in the order of the data files"},
    {"kd-store import wiki.kld -o wiki.kd --name llama", "a store from llama.cpp's --kl-divergence-base"},
    {"kd-store export fashion.kd label big/logits -o test.safetensors --split test",
     "columns for other programs"},
    {"kd-store export fashion.kd label -o - --format csv --rows 10", "the first rows, to look at"},
    {"kd-store compact fashion.kd --level 19", "smaller, once nothing more is to be added"},
    {"kd-store drop fashion.kd big", "remove what the teacher 'big' added"},
    {NULL, NULL}};

static const char *const words[] = {"stat",   "verify",  "slice", "merge", "import",
                                    "export", "compact", "drop",  NULL};

static const kd_tool tool = {
    .name = "kd-store",
    .summary = "look into stores, verify, cut, merge and compact them; import and export columns",
    .synopsis = "[options] stat|verify|slice|merge|import|export|compact|drop STORE ...",
    .description =
        "stat STORE prints what a store holds: rows per split; per column its role, type, shape, encoding "
        "and size; "
        "teachers with their fingerprints; the root hash. It opens the store as every tool does, which "
        "checks the "
        "manifest, file sizes and the page tree.\n"
        "verify STORE walks the pages of every file, then reads and decodes every record and compares the "
        "hashes with "
        "the manifest. What is damaged is named by column, chunk and rows. With --structure it stops after "
        "the "
        "pages: that finds what would lead a reader astray, not a changed byte within a record.\n"
        "slice STORE --part I/N -o OUT.kd writes part I of N (chunks stay whole, each split is cut on its "
        "own) as a "
        "store of its own: what one of N machines works on.\n"
        "merge OUT.kd STORE... writes one store of the rows of several. Columns, encodings, codebooks, "
        "teachers' "
        "fingerprints and contracts must be equal; a row whose id an earlier store has is refused, or left "
        "out with "
        "--skip-duplicates. Parts of one store, in their order, give the store that one machine would have "
        "written, "
        "root hash for root hash. Memory does not grow with the rows, but for the ids (32 bytes a row) where "
        "the "
        "stores are not parts of one.\n"
        "import STORE FILE... --name NAME adds the outputs of a teacher that ran elsewhere: .npy, "
        "safetensors or JSON "
        "lines (dense, or top-k log-probabilities as inference servers print them). Rows are matched by id, "
        "or by the "
        "order that --order declares; missing, foreign and double rows are named before anything is written. "
        "import FILE.kld -o OUT.kd --name NAME makes a new store of llama.cpp's --kl-divergence-base file.\n"
        "export STORE COLUMN... -o FILE writes columns as .npy, safetensors, JSON lines or CSV, by the end "
        "of the "
        "file's name or --format.\n"
        "compact STORE writes every segment anew, with another zstd level if --level asks for one, into a "
        "folder that "
        "takes the old one's place; readers that have the store open are not disturbed.\n"
        "drop STORE SEGMENT takes a segment (the columns that one teacher's pass added) out of the store; "
        "the rows "
        "and other teachers are not touched.\n"
        "slice, merge and import go on after a kill with --resume; compact does so by itself.",
    .examples = examples,
    .see_also = "kd-dump(1), kd-train(1), kd-eval(1)",
    .words = words,
};

#define STRING(g, f, flag, m, h)                                                                             \
    {                                                                                                        \
        g, NULL, flag, m, 0, KD_OPTION_STRING, offsetof(store_opts, f), NULL, 0, 0, NULL, h                  \
    }
#define TRUTH(g, f, flag, h)                                                                                 \
    {                                                                                                        \
        g, NULL, flag, NULL, 0, KD_OPTION_BOOL, offsetof(store_opts, f), "off", 0, 0, NULL, h                \
    }
#define CHOICE(g, f, flag, c, h)                                                                             \
    {                                                                                                        \
        g, NULL, flag, NULL, 0, KD_OPTION_CHOICE, offsetof(store_opts, f), NULL, 0, 0, c, h                  \
    }
#define NUMBER(g, f, flag, most, h)                                                                          \
    {                                                                                                        \
        g, NULL, flag, "N", 0, KD_OPTION_INT, offsetof(store_opts, f), "0", 0, most, NULL, h                 \
    }

static const kd_option rows[] = {
    {"Output", NULL, "out", "PATH", 'o', KD_OPTION_STRING, offsetof(store_opts, out), NULL, 0, 0, NULL,
     "slice, export, import of .kld: store or file to write; export: - is standard output"},
    TRUTH("Output", resume, "resume", "go on with an unfinished run of the same input, if there is one"),
    TRUTH("Output", force, "force", "replace what is there"),
    NUMBER("Output", level, "level", 19, "compact: zstd level of all columns, 0 leaves them; import: 0 is 3"),
    CHOICE("Output", split, "split", "train|valid|test",
           "export: this split alone; import of .kld: of all rows"),
    TRUTH("Verify", structure, "structure", "the pages alone, not the records in them"),
    STRING("Slice", part, "part", "I/N", "which part of how many, counted from 1"),
    TRUTH("Slice", base_only, "base-only", "the rows without what teachers added"),
    TRUTH("Merge", skip_duplicates, "skip-duplicates", "leave out rows whose id came before"),
    STRING("Import", name, "name", "NAME", "what the store calls the teacher"),
    STRING("Import", encoding, "encoding", "CODEC",
           "of logits and scores, as topk:k=64; else dense, topk for top-k"),
    STRING("Import", feature_encoding, "feature-encoding", "CODEC", "of features; else dense"),
    CHOICE("Import", dtype, "dtype", "f16|bf16|f32|f64", "of dense columns; else the file's, f32 for f64"),
    STRING("Import", ids, "ids", "FILE",
           "row ids: .npy (rows, 16) of u8, CSV or text with hex ids; or a tensor's name"),
    CHOICE("Import", order, "order", "store|source",
           "rows are in the store's order, or in that of its column source"),
    STRING("Import", field, "field", "NAME", "member of the JSON lines, or tensor, if its name says nothing"),
    CHOICE("Import", role, "role", "logits|score|feature", "what an .npy or a --field holds; else logits"),
    STRING("Import", tap, "tap", "NODE", "layer that a feature was taken from, if its name does not say it"),
    NUMBER("Import", classes, "classes", 1 << 24, "classes of top-k input, where the store does not say"),
    STRING("Import", fingerprint, "fingerprint", "TEXT",
           "of the teacher; a file that states another is refused"),
    STRING("Import", segment, "segment", "NAME", "file name of the segment; else the teacher's name"),
    CHOICE("Export", format, "format", "npy|safetensors|jsonl|csv", "else by the end of the file's name"),
    NUMBER("Export", rows, "rows", 1e15, "the first so many rows; 0: all"),
};

typedef struct verb {
    const char *name, *operands; /* as in the synopsis */
    int least, most;             /* operands; most 0: any number */
    kd_status (*run)(kd_cli *c, const store_opts *o, kd_err *err);
} verb;

static const verb verbs[] = {{"stat", "STORE", 1, 1, store_stat},
                             {"verify", "STORE", 1, 1, store_verify},
                             {"slice", "STORE --part I/N -o OUT.kd", 1, 1, store_slice},
                             {"merge", "OUT.kd STORE...", 2, 0, store_merge},
                             {"import", "STORE FILE... --name NAME", 1, 0, store_import},
                             {"export", "STORE COLUMN... -o FILE", 2, 0, store_export},
                             {"compact", "STORE", 1, 1, store_compact},
                             {"drop", "STORE SEGMENT", 2, 2, store_drop}};

static kd_status run(kd_cli *c, const store_opts *o, kd_err *err)
{
    const char *names[KD_COUNT(verbs)], *name = c->nargs ? c->args[0] : "";
    for (size_t i = 0; i < KD_COUNT(verbs); i++) {
        const verb *v = &verbs[i];
        names[i] = v->name;
        if (strcmp(name, v->name)) continue;
        if (c->nargs - 1 < v->least || (v->most && c->nargs - 1 > v->most))
            return kd_fail(err, KD_EUSAGE, "%s: %d operands; needed is: kd-store %s %s", name, c->nargs - 1,
                           name, v->operands);
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
