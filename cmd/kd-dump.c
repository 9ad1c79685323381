/* kd-dump - packs a data set into a store, and adds a teacher's outputs to it. */
#include "kd-dump/dump_cmd.h"

#include <string.h>

#define O dump_opts
static const kd_option rows[] = {
    {"Output", NULL, "out", "STORE", 'o', KD_OPTION_STRING, offsetof(O, out), NULL, 0, 0, NULL,
     "store to make, a folder; conventionally NAME.kd"},
    {"Output", NULL, "resume", NULL, 0, KD_OPTION_BOOL, offsetof(O, resume), "off", 0, 0, NULL,
     "go on with an unfinished run of the same data and options, if there is one"},
    {"Output", NULL, "force", NULL, 0, KD_OPTION_BOOL, offsetof(O, force), "off", 0, 0, NULL,
     "replace a finished store; drop an unfinished run that cannot be gone on with"},
    {"Output", NULL, "commit", "MIB", 0, KD_OPTION_REAL, offsetof(O, commit), "32", 0.001, 4096, NULL,
     "what is made durable at a time, in uncompressed MiB: the most that a kill can cost"},
    {"Output", NULL, "dry-run", NULL, 'n', KD_OPTION_BOOL, offsetof(O, dry_run), "off", 0, 0, NULL,
     "read and check the data, say what would be written, write nothing"},
    {"Teacher", NULL, "teacher", "FOLDER", 0, KD_OPTION_STRING, offsetof(O, teacher), NULL, 0, 0, NULL,
     "model folder to run over all rows of a store; its outputs become columns"},
    {"Teacher", NULL, "into", "STORE", 0, KD_OPTION_STRING, offsetof(O, into), NULL, 0, 0, NULL,
     "finished store that the teacher reads and is added to"},
    {"Teacher", NULL, "name", "NAME", 0, KD_OPTION_STRING, offsetof(O, name), NULL, 0, 0, NULL,
     "what the store calls the teacher; without it the name in its config.json, other letters than a-z, 0-9, "
     "_ . - as dashes"},
    {"Teacher", NULL, "logits", NULL, 0, KD_OPTION_BOOL, offsetof(O, logits), "on", 0, 0, NULL,
     "the column NAME/logits; off: only taps and views, in a segment of their own"},
    {"Teacher", NULL, "encoding", "ENC", 0, KD_OPTION_STRING, offsetof(O, encoding), NULL, 0, 0, NULL,
     "of logits, for example int8 or NAME:key=value,key=value (--list-encodings); without it dense"},
    {"Teacher", NULL, "dtype", NULL, 0, KD_OPTION_CHOICE, offsetof(O, dtype), "f32", 0, 0, "f32|f16|bf16",
     "type of dense columns; f16 takes half the room and rounds to 3 digits, bf16 to 2"},
    {"Teacher", NULL, "tap", "NODE[:mean|max|flat|attention[=HxW]]", 0, KD_OPTION_STRINGS, offsetof(O, tap),
     NULL, 0, 0, NULL,
     "values of an inner node as the column NAME/feat.NODE (--list-taps); may be given several times. Maps "
     "are "
     "averaged over their pixels unless the form says otherwise; attention is where they are large, pooled "
     "to HxW"},
    {"Teacher", NULL, "feature-encoding", "ENC", 0, KD_OPTION_STRING, offsetof(O, feature_encoding), NULL, 0,
     0, NULL, "of taps; without it dense"},
    {"Teacher", NULL, "segment", "NAME", 0, KD_OPTION_STRING, offsetof(O, segment), NULL, 0, 0, NULL,
     "name of the new segment; without it the teacher's, without logits NAME.feat.NODE or NAME.views"},
    {"Teacher", NULL, "batch", "N", 0, KD_OPTION_INT, offsetof(O, batch), "256", 1, 65536, NULL,
     "rows a forward pass"},
    {"Teacher", NULL, "precision", NULL, 0, KD_OPTION_CHOICE, offsetof(O, precision), "f32", 0, 0, "f32|bf16",
     "operands of the teacher's products; bf16 needs avx512_bf16"},
    {"Teacher", NULL, "shard", "I/N", 0, KD_OPTION_STRING, offsetof(O, shard), NULL, 0, 0, NULL,
     "cut part I of N (from 1) out of the store, as the store -o, and work on that; kd-store merge puts the "
     "parts "
     "together"},
    {"Teacher", NULL, "mine", "N", 0, KD_OPTION_INT, offsetof(O, mine), "0", 0, KD_MINE_MOST, NULL,
     "of a store of pairs that has a teacher's embeddings: N hard negatives for each query, the answers of "
     "other rows that the teacher takes for the nearest, as one more segment; 0: off"},
    {"Answers", NULL, "generate", NULL, 0, KD_OPTION_BOOL, offsetof(O, generate), "off", 0, 0, NULL,
     "of a language model: the rows of --into are prompts; the answers that it writes to them, with their "
     "logits, become the new store -o. A conversation's prompt is what stands before its last answer"},
    {"Answers", NULL, "answer-tokens", "N", 0, KD_OPTION_INT, offsetof(O, answer_tokens), "256", 1, 1 << 20,
     NULL, "tokens of an answer at most"},
    {"Answers", NULL, "prompt-tokens", "N", 0, KD_OPTION_INT, offsetof(O, prompt_tokens), "0", 0, 1 << 20,
     NULL, "of rows that are plain texts: so many tokens are the prompt; 0: all of the row"},
    {"Answers", NULL, "temperature", "T", 0, KD_OPTION_REAL, offsetof(O, temperature), "0.7", 0, 100, NULL,
     "of the draws; 0: always the likeliest token"},
    {"Answers", NULL, "top-p", "P", 0, KD_OPTION_REAL, offsetof(O, top_p), "0.95", 1e-6, 1, NULL,
     "draw from the likeliest tokens that together have this share"},
    {"Answers", NULL, "draw-seed", "N", 0, KD_OPTION_INT, offsetof(O, draw_seed), "0", 0, 1LL << 53, NULL,
     "seed of the draws: another one gives other answers, which kd-store merge puts beside these"},
    {"Before and after", NULL, "plan", NULL, 0, KD_OPTION_BOOL, offsetof(O, plan), "off", 0, 0, NULL,
     "run the teacher on a sample and show what each encoding (or --encoding) would cost and lose"},
    {"Before and after", NULL, "plan-rows", "N", 0, KD_OPTION_INT, offsetof(O, plan_rows), "1024", 1, 1e7,
     NULL, "rows of that sample, in whole chunks; of language models predicted positions"},
    {"Before and after", NULL, "plan-epochs", "N", 0, KD_OPTION_INT, offsetof(O, plan_epochs), "10", 1, 1e6,
     NULL, "epochs of each student, for the break-even"},
    {"Before and after", NULL, "check", NULL, 0, KD_OPTION_BOOL, offsetof(O, check), "off", 0, 0, NULL,
     "run the teacher on a sample again and compare with its columns; exit 3 when they differ"},
    {"Before and after", NULL, "check-rows", "N", 0, KD_OPTION_INT, offsetof(O, check_rows), "1024", 1, 1e7,
     NULL, "rows of that sample, in whole chunks; of language models predicted positions"},
    {"Before and after", NULL, "list-encodings", NULL, 0, KD_OPTION_BOOL, offsetof(O, list_encodings), "off",
     0, 0, NULL, "show the encodings, their parameters and what they serve"},
    {"Before and after", NULL, "list-taps", NULL, 0, KD_OPTION_BOOL, offsetof(O, list_taps), "off", 0, 0,
     NULL, "show the nodes of --teacher that can be tapped"},
};
#undef O

static const kd_example examples[] = {
    {"kd-dump data.yaml -o fashion.kd", "pack the files that data.yaml names"},
    {"kd-dump data.yaml -o fashion.kd --resume", "go on after an interruption"},
    {"kd-dump --train-input x.npy --train-label y.npy -o my.kd", "without a YAML file"},
    {"kd-dump --train-input texts.jsonl --text-columns text --label-column topic --tokenizer minilm -o my.kd",
     "texts, as the tokens of a model"},
    {"kd-dump data.yaml --dry-run --json | jq .splits", "only look"},
    {"kd-dump --teacher runs/teacher --into fashion.kd --plan",
     "what would the encodings cost, what would they lose?"},
    {"kd-dump --teacher runs/teacher --into fashion.kd",
     "run a teacher once; students then train from the store alone"},
    {"kd-dump --teacher runs/big --into fashion.kd --name big --encoding int8",
     "a second teacher beside it, smaller"},
    {"kd-dump --teacher runs/big --into fashion.kd --name big --no-logits --tap relu1 --tap relu2:max",
     "later: features of two layers"},
    {"kd-dump --teacher runs/big --into fashion.kd --name big --no-logits --views 4 --view-shift 2 "
     "--view-flip",
     "later: logits of augmented views"},
    {"kd-dump --into search.kd --mine 4",
     "later: four hard negatives a query, where the teacher embedded pairs"},
    {"kd-dump --teacher SmolLM2.gguf --into chats.kd --generate --temperature 1 -o answers.kd",
     "what a language model answers itself, and its logits"},
    {"kd-dump --teacher runs/big --into fashion.kd --name big --shard 2/8 -o part-2.kd",
     "one machine of eight"},
    {"kd-dump --teacher runs/big --into fashion.kd --name big --check",
     "is that still what the teacher says?"},
    {NULL, NULL}};

static const kd_tool tool = {
    .name = "kd-dump",
    .summary = "pack a data set into a store; add a teacher's outputs to it",
    .synopsis = "[options] [DATA.yaml] -o STORE | --teacher FOLDER --into STORE",
    .description =
        "DATA.yaml holds the options of the groups Data, Texts, Splits and Store under the key `data`; flags "
        "override it. File names are relative to the current folder.\n"
        "Rows are assigned to splits by a hash of their content, so equal rows land in one split, and stored "
        "in an order shuffled by the seed. The column `source` keeps their place in the files: test files "
        "count "
        "after training files.\n"
        "A row of the training files that is also in the test files is kept, counted and reported as a "
        "leak.\n"
        "With --teacher a model folder is run over all rows of a finished store, which gets a new segment; "
        "what was "
        "there is not touched. The teacher must have been trained on rows of the same shape, centring and "
        "classes. "
        "With --resume and --force together an unfinished pass that fits is gone on with, anything else is "
        "replaced.\n"
        "Views are a function of the row and the seed: whoever asks for the same views of a row gets the "
        "same "
        "pixels, in a dump and in training.\n"
        "One name never stands for two teachers: a store refuses a teacher whose fingerprint (a hash of its "
        "weights, architecture and preprocessing) is not the one it knows by that name.\n"
        "With --shard each of N machines cuts its own part out of a copy of the store and runs the teacher "
        "over it. "
        "The parts, merged in order, are the store that one machine would have made, to the bit.\n"
        "With --generate a language model answers the prompts of a store; tokens, a mask of the answer and "
        "the "
        "logits that each token was drawn from become a store of their own, with the prompts' splits. A draw "
        "is "
        "a function of seed, prompt and place, and rows that are answered side by side (--batch, at most 64) "
        "do not see each other: the same seed gives the same store on any number of threads, in parts, or "
        "gone "
        "on with after an interruption.\n"
        "--plan measures, on a sample: bytes a row as packed; the mean divergence (KL, nats) of the decoded "
        "from the "
        "teacher's softmax at two temperatures; rows whose top class is kept; probability of the classes "
        "that are "
        "not kept; for sampled encodings the variance of the estimate; and from how many students on a dump "
        "is "
        "cheaper than running the teacher beside each of them. A dash: not served.",
    .examples = examples,
    .see_also = "kd-train(1), kd-eval(1), kd-store(1)",
};

static kd_status run(kd_cli *c, const dump_opts *o, const kd_data_spec *spec, kd_err *err)
{
    if (o->generate) return dump_generate(c, o, err);
    const int modes = o->plan + o->check + o->list_taps + o->list_encodings;
    if (modes > 1)
        return kd_fail(err, KD_EUSAGE, "--plan, --check, --list-taps and --list-encodings: one at a time");
    if (o->list_encodings) return dump_list_encodings(c, err);
    if (o->list_taps) return dump_list_taps(c, o, err);
    if (o->plan) return dump_plan(c, o, err);
    if (o->check) return dump_check(c, o, err);
    if (o->mine) return dump_mine(c, o, err);
    return o->teacher || o->into ? dump_teacher(c, o, err) : dump_pack(c, o, spec, err);
}

int main(int argc, char **argv)
{
    dump_opts o = {0};
    kd_data_spec spec;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    kd_cli_table(&cli, kd_data_options, kd_data_options_n, &spec);
    kd_cli_table(&cli, kd_view_options, kd_view_options_n, &o.views);
    if (!kd_cli_parse(&cli, &err)) {
        o.level = spec.level; // of a teacher's columns too
        run(&cli, &o, &spec, &err);
    }
    return kd_cli_finish(&cli, &err);
}
