/* kd-run - classifies files with a student or a native teacher; embeds and searches texts; goes on with them.
 */
#include "kd-run/run_cmd.h"

#include <stdlib.h>
#include <string.h>

static const kd_option rows[] = {
    {"Output", NULL, "top", "K", 'k', KD_OPTION_INT, offsetof(run_opts, top), "1", 1, 1000, NULL,
     "classes a line, the most probable first; search: texts for each query"},
    {"Output", NULL, "out", "FILE", 'o', KD_OPTION_STRING, offsetof(run_opts, out), NULL, 0, 0, NULL,
     "embed: write the vectors as .npy (f32), not as lines of numbers"},
    {"Output", NULL, "bench", NULL, 0, KD_OPTION_BOOL, offsetof(run_opts, bench), "off", 0, 0, NULL,
     "measure instead: time of one row (median, 99th percentile), rows a second in batches"},
    {"Texts", NULL, "unit", NULL, 0, KD_OPTION_BOOL, offsetof(run_opts, unit), "off", 0, 0, NULL,
     "embed: scale each vector to length 1, as search does"},
    {"Texts", NULL, "int8", NULL, 0, KD_OPTION_BOOL, offsetof(run_opts, int8), "off", 0, 0, NULL,
     "search: keep the vectors as int8, a quarter of the memory"},
    {"Language", NULL, "tokens", "N", 'n', KD_OPTION_INT, offsetof(run_opts, tokens), "256", 1, 1 << 20, NULL,
     "complete, chat: tokens of an answer at most"},
    {"Language", NULL, "temperature", "T", 'T', KD_OPTION_REAL, offsetof(run_opts, temperature), "0.7", 0,
     100, NULL, "complete, chat: draw from logits divided by T; 0: always the likeliest token"},
    {"Language", NULL, "top-p", "P", 'P', KD_OPTION_REAL, offsetof(run_opts, top_p), "0.95", 1e-6, 1, NULL,
     "complete, chat: draw from the likeliest tokens that together have this share"},
    {"Language", NULL, "seed", "N", 's', KD_OPTION_INT, offsetof(run_opts, seed), "0", 0, 1LL << 53, NULL,
     "complete, chat: of the draws; the same seed, the same text"},
    {"Language", NULL, "context", "N", 0, KD_OPTION_INT, offsetof(run_opts, context), "2048", 2, 1 << 20,
     NULL, "tokens that are remembered at most, those of the answer included"},
    {"Language", NULL, "system", "TEXT", 0, KD_OPTION_STRING, offsetof(run_opts, system), NULL, 0, 0, NULL,
     "chat: a system message; without it that of the chat template"},
    {"Input", NULL, "white", "VALUE", 'w', KD_OPTION_REAL, offsetof(run_opts, white), "255", 1e-6, 1e6, NULL,
     "what a white pixel was in the student's training data: 255 of bytes, 1 of numbers from 0 to 1"},
    {"Input", NULL, "batch", "N", 'b', KD_OPTION_INT, offsetof(run_opts, batch), "64", 1, 4096, NULL,
     "rows a forward pass"},
};

static const kd_example examples[] = {
    {"kd-run runs/image/students/dscnn-5k/distilled/seed-0 shoe.png bag.jpg",
     "a line a picture: name, class, probability"},
    {"kd-run --top 3 --json STUDENT *.png | jq .top", "three classes each, an object a line"},
    {"kd-run STUDENT t10k-images-idx3-ubyte.gz#12", "row 12 of an IDX file; without #12 all rows"},
    {"kd-run STUDENT - <row.bytes", "pixels as bytes, or a picture, from standard input"},
    {"kd-run --bench STUDENT", "how fast it is here"},
    {"kd-run search STUDENT corpus.txt", "type queries, get the nearest lines"},
    {"kd-run search --top 10 --json STUDENT corpus.txt <queries.txt", "an object a query"},
    {"kd-run embed STUDENT texts.txt -o vectors.npy", "a vector a line"},
    {"kd-run chat SmolLM2.gguf", "type, get answers"},
    {"kd-run complete --temperature 0 MODEL 'The store keeps'", "the likeliest text behind this one"},
    {"kd-run score MODEL texts.txt", "a line each: -log p a token, tokens, text; perplexity of all"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-run",
    .summary = "classify files, embed texts and search among them, go on with texts, with a student or a "
               "native teacher",
    .synopsis =
        "[options] STUDENT FILE ... | embed STUDENT FILE | search STUDENT FILE | complete MODEL [PROMPT] | "
        "chat MODEL | score MODEL FILE",
    .description =
        "STUDENT is a model folder. FILE is a picture (PNG, JPEG), or rows (IDX, .npy, CSV; plain or "
        "gzipped); FILE#N "
        "is row N of the latter, counted from 0. What a file is, its content says. - is standard input: a "
        "picture, or "
        "rows of bytes of the student's shape.\n"
        "A picture becomes grey or RGB as the student takes it; one of another size is resampled (each new "
        "pixel is the "
        "mean of the area it covers; the picture is stretched where the aspect differs), and a note says so. "
        "Transparent pixels lie on white. Rows must have the student's shape and are taken as they are.\n"
        "A line is the name, then class and probability of the --top largest, separated by tabs; classes "
        "have the names that the model folder gives them, else numbers. With --json each line is an object: "
        "file, row, top "
        "(class, name, p), resampled_from (height, width) where it was; of a file that could not be used, "
        "file and error.\n"
        "embed and search are for students of texts. FILE has a text a line, - is standard input. embed "
        "prints "
        "the vector of each. search embeds all lines, then reads queries from standard input, a line each, "
        "and "
        "prints the --top nearest: place, cosine, text, and an empty line behind each query. It compares a "
        "query with "
        "all lines, so nothing is missed.\n"
        "complete, chat and score are for language models: a GGUF file or a folder with its tokenizer. "
        "complete "
        "prints what "
        "comes behind PROMPT, or behind standard input; chat answers line by line, each with all that was "
        "said "
        "before, in the "
        "model's own template, in which no text becomes a control token; score says how likely each line of "
        "FILE "
        "is (- is "
        "standard input).\n"
        "A file that cannot be used gets one line on standard error, the others are still classified, and "
        "the "
        "exit status is 3.",
    .examples = examples,
    .see_also = "kd-train(1), kd-eval(1), kd-report(1)",
};

/* What a model takes as a picture: (height, width) or (height, width, 1 or 3). */
static void take_shape(runner *r)
{
    const kd_ints *s = &r->model->spec.input;
    size_t at = 0;
    for (size_t i = 0; i < s->n && at < sizeof r->shape; i++)
        at += (size_t)snprintf(r->shape + at, sizeof r->shape - at, "%s%lld", i ? " x " : "",
                               (long long)s->v[i]);
    if (s->n != 2 && !(s->n == 3 && (s->v[2] == 1 || s->v[2] == 3))) return;
    r->height = s->v[0], r->width = s->v[1];
    r->channels = s->n == 3 ? s->v[2] : 1;
}

static kd_status open_runner(runner *r, const char *folder, kd_err *err)
{
    kd_status st = kd_teacher_open(&r->teacher, folder, r->o->batch, (int)r->cli->common.threads, err);
    if (st) return st;
    r->model = kd_teacher_model(r->teacher);
    r->values = kd_graph_node_size(r->model->graph, r->model->input);
    r->classes = kd_graph_node_size(r->model->graph, r->model->logits);
    take_shape(r);
    const size_t batch = (size_t)r->o->batch;
    r->in = kd_alloc_aligned(batch, r->values * sizeof *r->in);
    r->logits = kd_alloc_aligned(batch, r->classes * sizeof *r->logits);
    r->row = calloc(batch, sizeof *r->row);
    if (!r->in || !r->logits || !r->row) return kd_fail(err, KD_ENOMEM, "no memory for %zu rows", batch);
    return KD_OK;
}

static void close_runner(runner *r)
{
    for (int64_t i = 0; r->row && i < r->o->batch; i++) free(r->row[i].name);
    kd_teacher_close(r->teacher);
    free(r->in);
    free(r->logits);
    free(r->row);
}

kd_status run_place(runner *r, const char *name, float **values, kd_err *err)
{
    run_row *row = &r->row[r->waiting];
    free(row->name);
    row->name = kd_strdup(name);
    *values = r->in + (size_t)r->waiting * r->values;
    return row->name ? KD_OK : kd_fail(err, KD_ENOMEM, "no memory for a name");
}

kd_status run_add(runner *r, run_row about, kd_err *err)
{
    about.name = r->row[r->waiting].name;
    r->row[r->waiting++] = about;
    return r->waiting == r->o->batch ? run_flush(r, err) : KD_OK;
}

kd_status run_flush(runner *r, kd_err *err)
{
    kd_status st = KD_OK;
    if (!r->waiting) return st;
    st = kd_teacher_run(r->teacher, r->in, KD_F32, r->waiting, r->logits, err);
    for (int64_t i = 0; i < r->waiting && !st; i++)
        st = run_print(r, &r->row[i], r->logits + (size_t)i * r->classes, err);
    r->done += (uint64_t)r->waiting;
    r->waiting = 0;
    return st;
}

static kd_status classify(runner *r, kd_err *err)
{
    kd_status st = KD_OK;
    const double start = kd_now();
    for (int i = 1; i < r->cli->nargs && !st; i++) {
        if (kd_stop_requested) st = kd_fail(err, KD_ESTOPPED, "stopped on request");
        if (!st) st = run_operand(r, r->cli->args[i], err);
    }
    if (!st) st = run_flush(r, err);
    if (!st)
        kd_cli_note((kd_cli *)r->cli, "%llu rows, %.0f rows/s", (unsigned long long)r->done,
                    (double)r->done / (kd_now() - start));
    if (!st && r->refused)
        st =
            kd_fail(err, KD_ECORRUPT,
                    "%llu of the files could not be used, each has its line above; %llu rows were classified",
                    (unsigned long long)r->refused, (unsigned long long)r->done);
    return st;
}

/* Verbs of language models, their operands and functions. */
static const struct {
    const char *name;
    int least, most;
    const char *needed;
    kd_status (*run)(kd_cli *c, const run_opts *o, kd_err *err);
} verbs[] = {
    {"complete", 2, 3, "MODEL [PROMPT]", run_complete},
    {"chat", 2, 2, "MODEL", run_chat},
    {"score", 3, 3, "MODEL FILE", run_score},
};

static kd_status run(kd_cli *c, const run_opts *o, kd_err *err)
{
    runner r = {.cli = c, .o = o};
    for (size_t i = 0; c->nargs && i < KD_COUNT(verbs); i++) {
        if (strcmp(c->args[0], verbs[i].name)) continue;
        if (c->nargs < verbs[i].least || c->nargs > verbs[i].most)
            return kd_fail(err, KD_EUSAGE, "%s: %d operands; needed is: kd-run %s %s", verbs[i].name,
                           c->nargs - 1, verbs[i].name, verbs[i].needed);
        return verbs[i].run(c, o, err);
    }
    const bool embed = c->nargs && !strcmp(c->args[0], "embed"),
               search = c->nargs && !strcmp(c->args[0], "search");
    if ((embed || search) && c->nargs != 3)
        return kd_fail(err, KD_EUSAGE, "%s: %d operands; needed is: kd-run %s STUDENT FILE", c->args[0],
                       c->nargs - 1, c->args[0]);
    if (search && o->bench) return kd_fail(err, KD_EUSAGE, "--bench takes no texts");
    if (embed || search) return embed ? run_embed(c, o, err) : run_search(c, o, err);
    if (!c->nargs) return kd_fail(err, KD_EUSAGE, "no model folder given; name one, then the files");
    if (c->nargs < 2 && !o->bench)
        return kd_fail(err, KD_EUSAGE, "no file given; name some behind %.200s, - for standard input",
                       c->args[0]);
    if (c->nargs > 1 && o->bench)
        return kd_fail(err, KD_EUSAGE, "--bench takes no files: rows of zeros are as fast");
    kd_status st = open_runner(&r, c->args[0], err);
    if (!st) st = o->bench ? run_bench(&r, c->args[0], err) : classify(&r, err);
    close_runner(&r);
    return st;
}

int main(int argc, char **argv)
{
    run_opts o;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    if (!kd_cli_parse(&cli, &err)) run(&cli, &o, &err);
    return kd_cli_finish(&cli, &err);
}
