/* kd_bench.c - what the machine can do, and what kd does with it.
 *
 *     kd_bench peak                            one JSON line: GFLOP/s and GB/s (peak.c)
 *     kd_bench kernels                         one JSON line a kernel: GFLOP/s, share of peak (kernels.c)
 *     kd_bench promise MODEL BATCH             fixed grids beside free order, one JSON line (promise.c)
 *     kd_bench train MODEL BATCH [--data FILE] training steps on demand (train.c)
 *     kd_bench pack LOGITS STORE ENCODING      bytes and errors of an encoding (pack.c)
 *     kd_bench read STORE COLUMN,...           rows of a store on demand, and what bounds them (read.c)
 *     kd_bench teacher FOLDER STORE            a teacher's forward passes over a store's rows (teacher.c)
 *     kd_bench encoder FOLDER DATA forward|train  an encoder's passes or training steps on demand (encoder.c)
 *     kd_bench language new FOLDER | train FOLDER DATA  a language model's training steps (language.c)
 *     kd_bench logits MODEL IDS OUT LENGTH     a decoder's logits into a file (logits.c)
 *     kd_bench many STORE STUDENT.yaml FOLDER  kd-train's trainer with N students on demand (many.c)
 *     kd_bench parity STORE STUDENT.yaml FOLDER STEPS  a run's first losses and what repeats them (parity.c)
 *     kd_bench tokenize TOKENIZER TEXTS        ids and MB/s of a tokenizer on demand (tokenize.c)
 *
 * The drivers (run.py, many.py, store_*.py, peers/torch_parity.py) call them; each can be run by hand:
 *
 *     echo go 5 | build/release/bench/kd_bench train cnn-16-32-64 128 | jq .
 *
 * Exit codes as the tools: 0, 1, 2 usage, 3 input.
 */
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static const char usage[] =
    "usage: kd_bench peak [--threads N]\n"
    "       kd_bench kernels [--threads N]\n"
    "       kd_bench promise MODEL BATCH [--threads N] [--models FILE]\n"
    "       kd_bench train MODEL BATCH [--precision f32|bf16] [--threads N] [--models FILE] [--data FILE]\n"
    "       kd_bench pack LOGITS.npy STORE ENCODING [--classes N] [--rows N] [--chunk-rows N] [--judge N]\n"
    "                     [--redraws N] [--threads N]\n"
    "       kd_bench read STORE COLUMN,... [--window N]\n"
    "       kd_bench teacher FOLDER STORE [--threads N]\n"
    "       kd_bench encoder FOLDER DATA forward|train [--precision f32|bf16] [--threads N]\n"
    "       kd_bench language new FOLDER | train FOLDER DATA [--precision f32|bf16] [--threads N]\n"
    "       kd_bench logits MODEL IDS OUT LENGTH [--threads N]\n"
    "       kd_bench many STORE STUDENT.yaml FOLDER [--students N] [--window N] [--threads N]\n"
    "       kd_bench parity STORE STUDENT.yaml FOLDER STEPS\n"
    "       kd_bench tokenize TOKENIZER TEXTS [--threads N]\n"
    "\n"
    "  --precision P  of the products: f32 or bf16 [f32]\n"
    "  --threads N    threads of the measured team [2]\n"
    "  --models FILE  JSON object: name -> model specification [bench/models.json]\n"
    "  --data FILE    safetensors with x, labels, teacher and param.* [random numbers]\n"
    "  --classes N    the first N classes of the logits [all]\n"
    "  --rows N       the first N rows of the logits [all]\n"
    "  --chunk-rows N rows of a chunk [1024]\n"
    "  --judge N      positions whose errors are measured [4096]\n"
    "  --redraws N    draws of sampled targets with other seeds, for their variance [8]\n"
    "  --students N   students, of seeds 0 to N-1 [8]\n"
    "  --window N     rows of the loader's window [8192]\n"
    "\n"
    "train reads lines \"go SECONDS\" and answers each with one JSON line, for example\n"
    "  echo go 5 | kd_bench train mlp-784-512-256-10 128\n"
    "and read likewise lines \"go decode|values|batches|resident|zstd|memcpy sequential|random SECONDS\".\n";

void bench_print(json_t *line)
{
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    fflush(stdout);
    json_decref(line);
}

static kd_status peak(int threads, kd_err *err)
{
    bench_peak p;
    kd_status st = bench_peak_measure(&p, threads, err);
    if (st) return st;
    bench_print(json_pack("{s:f, s:o, s:f, s:f, s:I, s:s, s:i, s:s, s:i}", "f32_gflops", p.f32_gflops,
                          "bf16_gflops", p.bf16_gflops > 0 ? json_real(p.bf16_gflops) : json_null(),
                          "read_gbs", p.read_gbs, "copy_gbs", p.copy_gbs, "array_bytes",
                          (json_int_t)p.array_bytes, "isa", kd_isa_name(p.isa), "threads", threads, "cpu",
                          kd_cpu_name(), "cpus", kd_cpu_count()));
    return KD_OK;
}

/* A whole number from 1 to most, or 0. */
static long count(const char *text, long most)
{
    char *end;
    long n = strtol(text, &end, 10);
    return *text && !*end && n >= 1 && n <= most ? n : 0;
}

static int fail_usage(const char *what)
{
    if (what) fprintf(stderr, "kd_bench: %s\n", what);
    fputs(usage, stderr);
    return 2;
}

int main(int argc, char **argv)
{
    bench_train_params p = {.models = "bench/models.json", .threads = 2};
    bench_pack_params k = {.chunk_rows = 1024, .judge = 4096, .redraws = 8, .threads = 2};
    static const struct option options[] = {{"threads", required_argument, NULL, 't'},
                                            {"models", required_argument, NULL, 'm'},
                                            {"data", required_argument, NULL, 'd'},
                                            {"classes", required_argument, NULL, 'c'},
                                            {"rows", required_argument, NULL, 'r'},
                                            {"chunk-rows", required_argument, NULL, 'k'},
                                            {"judge", required_argument, NULL, 'j'},
                                            {"redraws", required_argument, NULL, 'w'},
                                            {"window", required_argument, NULL, 'n'},
                                            {"students", required_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"precision", required_argument, NULL, 'p'},
                                            {0}};
    bench_many_params y = {.students = 8};
    int64_t window = 8192;
    const struct {
        int c;
        int64_t *value;
    } numbers[] = {{'c', &k.classes}, {'r', &k.rows},    {'k', &k.chunk_rows}, {'j', &k.judge},
                   {'w', &k.redraws}, {'t', &k.threads}, {'n', &window},       {'s', &y.students}};
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'm')
            p.models = optarg;
        else if (c == 'd')
            p.data = optarg;
        else if (c == 'p' && !kd_precision_parse(optarg, &p.precision))
            return fail_usage("--precision takes f32 or bf16");
        else if (c == 'h')
            return fputs(usage, stdout) < 0;
        else if (c == '?')
            return fail_usage(NULL);
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (numbers[i].c == c && !(*numbers[i].value = count(optarg, c == 't' ? 1024 : INT_MAX)))
                return fail_usage(c == 't' ? "--threads takes 1 to 1024" : "a number is a whole one from 1");
    }
    p.threads = (int)k.threads;
    int n = argc - optind;
    char **arg = argv + optind;
    kd_err err = {0};
    kd_status st;
    if (n == 1 && strcmp(arg[0], "peak") == 0) {
        st = peak(p.threads, &err);
    } else if (n == 1 && strcmp(arg[0], "kernels") == 0) {
        st = bench_kernels(p.threads, &err);
    } else if (n == 3 && strcmp(arg[0], "promise") == 0) {
        if (!(p.batch = count(arg[2], INT_MAX))) return fail_usage("BATCH takes a whole number from 1");
        st = bench_promise(p.models, arg[1], p.batch, p.threads, &err);
    } else if (n == 3 && strcmp(arg[0], "train") == 0) {
        p.model = arg[1];
        if (!(p.batch = count(arg[2], INT_MAX))) return fail_usage("BATCH takes a whole number from 1");
        st = bench_train(&p, &err);
    } else if (n == 4 && strcmp(arg[0], "pack") == 0) {
        k.logits = arg[1], k.store = arg[2], k.encoding = arg[3];
        st = bench_pack(&k, &err);
    } else if (n == 3 && strcmp(arg[0], "read") == 0) {
        st = bench_read(arg[1], arg[2], (uint64_t)window, &err);
    } else if (n == 3 && strcmp(arg[0], "teacher") == 0) {
        st = bench_teacher(arg[1], arg[2], (int)k.threads, &err);
    } else if (n == 3 && strcmp(arg[0], "tokenize") == 0) {
        st = bench_tokenize(arg[1], arg[2], p.threads, &err);
    } else if (n == 4 && strcmp(arg[0], "encoder") == 0) {
        const bench_encoder_params e = {.folder = arg[1],
                                        .data = arg[2],
                                        .train = !strcmp(arg[3], "train"),
                                        .precision = p.precision,
                                        .threads = p.threads};
        if (!e.train && strcmp(arg[3], "forward")) return fail_usage("encoder takes forward or train");
        st = bench_encoder(&e, &err);
    } else if (n == (n > 1 && !strcmp(arg[1], "train") ? 4 : 3) && strcmp(arg[0], "language") == 0) {
        const bench_encoder_params e = {.folder = arg[2],
                                        .data = n == 4 ? arg[3] : NULL,
                                        .precision = p.precision,
                                        .threads = p.threads};
        if (n == 3 && strcmp(arg[1], "new")) return fail_usage("language takes new or train");
        st = bench_language(&e, &err);
    } else if (n == 5 && strcmp(arg[0], "logits") == 0) {
        const long length = count(arg[4], 1 << 20);
        if (!length) return fail_usage("LENGTH takes a whole number from 1");
        st = bench_logits(arg[1], arg[2], arg[3], length, p.threads, &err);
    } else if (n == 4 && strcmp(arg[0], "many") == 0) {
        y.store = arg[1], y.student = arg[2], y.folder = arg[3];
        y.window = window, y.threads = p.threads;
        st = bench_many(&y, &err);
    } else if (n == 5 && strcmp(arg[0], "parity") == 0) {
        long steps = count(arg[4], INT_MAX);
        if (!steps) return fail_usage("STEPS takes a whole number from 1");
        st = bench_parity(arg[1], arg[2], arg[3], steps, &err);
    } else {
        return fail_usage(n ? "no such command, or not its number of operands" : NULL);
    }
    if (st) fprintf(stderr, "kd_bench: %s\n", err.msg);
    return kd_exit_code(st);
}
