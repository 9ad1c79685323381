/* What a user meets on the command line: the parser, the texts made from tables, the closing line,
 * progress, stop requests. Each test runs its tool in a child whose output goes to files. */
#include "kd/cli.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

typedef struct opts {
    int64_t epochs;
    double lr;
    char *store, *schedule;
    bool shuffle, dry;
    kd_strings inputs;
} opts;

static const kd_option rows[] = {
    {"Input", NULL, "store", "STORE", 's', KD_OPTION_STRING, offsetof(opts, store), NULL, 0, 0, NULL,
     "store to read"},
    {"Input", NULL, "input", "FILE", 'i', KD_OPTION_STRINGS, offsetof(opts, inputs), NULL, 0, 0, NULL,
     "more input"},
    KD_OPT_INT("Training", opts, epochs, "train.epochs", "N", 'e', "10", 1, 1000,
               "passes over the training rows"),
    KD_OPT_REAL("Training", opts, lr, "train.lr", "RATE", 0, "0.001", 1e-9, 10, "peak learning rate"),
    KD_OPT_CHOICE("Training", opts, schedule, "train.schedule", 0, "cosine", "constant|cosine",
                  "shape of the rate"),
    KD_OPT_BOOL("Training", opts, shuffle, "train.shuffle", 0, "on",
                "shuffle the rows of each epoch anew, by a generator that is keyed with the seed and the "
                "epoch alone"),
    KD_OPT_BOOL("Training", opts, dry, "train.dry_run", 'n', NULL, "show what would be done"),
};

static const kd_example examples[] = {{"kd-thing -s a.kd b.yaml", "the usual way"},
                                      {"kd-thing --json x", ".data"},
                                      {NULL, NULL}};
static const kd_tool tool = {
    .name = "kd-thing",
    .summary = "do a thing",
    .synopsis = "[options] -s STORE FILE ...",
    .description = "First \\ paragraph.\n  a list\nSecond.",
    .examples = examples,
    .see_also = "kd(1)",
};

typedef struct run {
    int code; /* exit code, or -signal */
    char out[16384], err[8192];
} run;

/* What main does in the child: parse, print what was understood, finish. */
static int thing(int argc, char **argv)
{
    opts o;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    if (kd_cli_parse(&cli, &err)) return kd_cli_finish(&cli, &err);
    printf("store=%s inputs=%zu epochs=%lld lr=%g schedule=%s shuffle=%d dry=%d json=%d quiet=%d args=",
           o.store ? o.store : "-", o.inputs.n, (long long)o.epochs, o.lr, o.schedule, o.shuffle, o.dry,
           cli.common.json, cli.common.quiet);
    for (int i = 0; i < cli.nargs; i++) printf("[%s]", cli.args[i]);
    printf("\n");
    if (o.dry) kd_fail(&err, KD_EMISMATCH, "a.kd: 10 classes, student has \033[31m100");
    kd_cli_detail(&cli, "detail %d", 1);
    kd_cli_say(&cli, "say %d", 2);
    kd_cli_warn(&cli, "warn %d", 3);
    kd_cli_note(&cli, "%d rows/s", 212);
    kd_cli_note(&cli, "runs/a");
    return kd_cli_finish(&cli, &err);
}

static void slurp(FILE *f, char *text, size_t size)
{
    rewind(f);
    size_t n = fread(text, 1, size - 1, f);
    text[n] = '\0';
    fclose(f);
}

/* Runs program in a child; out_path: where standard output goes, NULL: into r->out. */
static void run_child(run *r, int (*program)(int argc, char **argv), int argc, char **argv,
                      const char *out_path)
{
    FILE *out = tmpfile(), *err = tmpfile();
    assert_non_null(out);
    assert_non_null(err);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = out_path ? open(out_path, O_WRONLY) : fileno(out);
        if (dup2(fd, STDOUT_FILENO) < 0 || dup2(fileno(err), STDERR_FILENO) < 0) _exit(99);
        exit(program(argc, argv)); /* not _exit: a leak checker looks at the child too */
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    r->code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    slurp(out, r->out, sizeof r->out);
    slurp(err, r->err, sizeof r->err);
}

#define RUN(r, ...)                                                                                          \
    do {                                                                                                     \
        char *argv_[] = {"kd-thing", __VA_ARGS__};                                                           \
        run_child(r, thing, (int)KD_COUNT(argv_), argv_, NULL);                                              \
    } while (0)

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("'%s' is not in:\n%s", part, text);
}

static void refused(run *r, const char *message)
{
    assert_string_equal(r->err, message);
    assert_string_equal(r->out, "");
    assert_int_equal(r->code, 2);
}

static void arguments_are_understood_in_all_forms(void **state)
{
    (void)state;
    run r;
    RUN(&r, "-s", "a.kd", "one", "--epochs=3", "--lr", "0.5", "-ifirst", "--input", "second", "two", "-q");
    assert_string_equal(r.out, "store=a.kd inputs=2 epochs=3 lr=0.5 schedule=cosine shuffle=1 dry=0 json=0 "
                               "quiet=1 args=[one][two]\n");
    assert_int_equal(r.code, 0);
    RUN(&r, "--no-shuffle", "-e7", "--schedule=constant", "--json", "-", "--", "-e", "--lr");
    assert_string_equal(r.out, "store=- inputs=0 epochs=7 lr=0.001 schedule=constant shuffle=0 dry=0 json=1 "
                               "quiet=0 args=[-][-e][--lr]\n");
    RUN(&r, "--store=", "--shuffle=off", "--lr=1e-3", "-qv");
    assert_string_equal(
        r.out, "store= inputs=0 epochs=10 lr=0.001 schedule=cosine shuffle=0 dry=0 json=0 quiet=1 args=\n");
}

static void wrong_arguments_get_one_line(void **state)
{
    (void)state;
    run r;
    RUN(&r, "--epohcs", "3");
    refused(&r, "kd-thing: unknown option --epohcs (did you mean --epochs?)\n");
    RUN(&r, "--epochs", "0");
    refused(&r, "kd-thing: --epochs: '0' is out of range, expected a whole number from 1 to 1000\n");
    RUN(&r, "a", "--epochs");
    refused(&r, "kd-thing: --epochs needs a value (a whole number from 1 to 1000)\n");
    RUN(&r, "a", "-e");
    refused(&r, "kd-thing: -e (--epochs) needs a value (a whole number from 1 to 1000)\n");
    RUN(&r, "-x");
    refused(&r, "kd-thing: unknown option -x (--help lists them)\n");
    RUN(&r, "--schedule", "cosin");
    refused(&r, "kd-thing: --schedule: 'cosin' is unknown (did you mean 'cosine'?), expected one of "
                "constant, cosine\n");
    RUN(&r, "--json=perhaps");
    refused(&r, "kd-thing: --json: 'perhaps' is no truth value, expected true or false\n");
    RUN(&r, "--completion", "fish");
    refused(&r, "kd-thing: --completion: 'fish' is unknown, expected one of bash\n");
}

static void no_arguments_show_usage_and_an_example(void **state)
{
    (void)state;
    run r;
    char *argv[] = {"kd-thing"};
    run_child(&r, thing, 1, argv, NULL);
    refused(&r, "kd-thing: do a thing\nusage: kd-thing [options] -s STORE FILE ...\nfor example: kd-thing -s "
                "a.kd b.yaml\n"
                "kd-thing --help lists all options\n");
}

static void help_is_made_from_the_tables(void **state)
{
    (void)state;
    run r;
    RUN(&r, "x", "-e", "3", "--help", "--nonsense");
    assert_int_equal(r.code, 0);
    assert_string_equal(r.err, "");
    has(r.out, "kd-thing - do a thing\n\nUsage: kd-thing [options] -s STORE FILE ...\n\nExamples:\n  "
               "kd-thing -s a.kd b.yaml\n");
    has(r.out, "\nInput:\n  -s, --store STORE         store to read\n");
    has(r.out, "\nTraining:\n  -e, --epochs N            passes over the training rows (1 to 1000) [10]\n");
    has(r.out, "      --lr RATE             peak learning rate (1e-09 to 10) [0.001]\n");
    has(r.out, "      --schedule WHICH      shape of the rate (constant, cosine) [cosine]\n");
    has(r.out,
        "      --[no-]shuffle        shuffle the rows of each epoch anew, by a generator that is keyed with\n"
        "                            the seed and the epoch alone [on]\n");
    has(r.out, "  -n, --dry-run             show what would be done\n");
    has(r.out, "\nCommon:\n  -j, --threads N ");
    has(r.out, "First \\ paragraph.\n  a list\nSecond.\n");
    has(r.out, "    4  disk or map full\n");
    has(r.out, "See also: kd(1)\n");
    assert_true(strstr(r.out, "\nInput:") < strstr(r.out, "\nTraining:"));
    assert_true(strstr(r.out, "\nTraining:") < strstr(r.out, "\nCommon:"));
    for (const char *line = r.out; line; line = strchr(line + 1, '\n'))
        assert_true(strcspn(line + 1, "\n") <= 101);
}

static void version_tells_compiler_machine_and_libraries(void **state)
{
    (void)state;
    run r;
    RUN(&r, "-V");
    assert_int_equal(r.code, 0);
    has(r.out, "kd-thing " KD_VERSION "\nbuilt with ");
    has(r.out, KD_MODE);
    has(r.out, kd_cpu_name());
    has(r.out, kd_isa_name(kd_cpu_isa()));
    static const char *const libraries[] = {"\noneDNN ",  "\nLMDB 0.", "\nzstd ", "\nlibyaml ",
                                            "\njansson ", "\nxxhash ", "\nzlib "};
    for (size_t i = 0; i < KD_COUNT(libraries); i++) has(r.out, libraries[i]);
}

static void the_man_page_has_its_sections_and_escapes(void **state)
{
    (void)state;
    run r;
    RUN(&r, "--man");
    assert_int_equal(r.code, 0);
    static const char *const sections[] = {".TH KD-THING 1",       ".SH NAME\nkd\\-thing \\- do a thing\n",
                                           ".SH SYNOPSIS\n",       ".SH DESCRIPTION\n",
                                           ".SH EXAMPLES\n",       ".SH OPTIONS\n.SS Input\n",
                                           ".SS Training\n",       ".SS Common\n",
                                           ".SH EXIT STATUS\n",    ".SH ENVIRONMENT\n",
                                           ".SH SEE ALSO\nkd(1)\n"};
    const char *at = r.out;
    for (size_t i = 0; i < KD_COUNT(sections); i++) {
        has(at, sections[i]);
        at = strstr(at, sections[i]) + 1;
    }
    has(r.out, "First \\e paragraph.\n  a list\n.PP\nSecond.\n");
    has(r.out, "\\fBkd\\-thing \\-\\-json x\\fR\n\\&.data\n");
    has(r.out, ".TP\n\\fB\\-e, \\-\\-epochs N\\fR\npasses over the training rows (1 to 1000) [10]\nIn YAML: "
               "train.epochs.\n");
}

static void the_completion_script_completes(void **state)
{
    (void)state;
    run r;
    RUN(&r, "--completion", "bash");
    assert_int_equal(r.code, 0);
    has(r.out, "_kd_thing()\n{\n");
    has(r.out, "    --schedule) COMPREPLY=($(compgen -W \"constant cosine\" -- \"$cur\")); return ;;\n");
    has(r.out, " --shuffle --no-shuffle");
    has(r.out, "complete -o filenames -F _kd_thing kd-thing\n");
    if (access("/bin/bash", X_OK)) return;
    /* bash itself, asked what may follow "kd-thing --sch" and "kd-thing --schedule co". */
    char path[] = "/tmp/kd-test-cli-XXXXXX", command[512], got[256];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, r.out, strlen(r.out)), strlen(r.out));
    close(fd);
    snprintf(command, sizeof command,
             "/bin/bash -c '. %s; COMP_WORDS=(kd-thing --sch); COMP_CWORD=1; _kd_thing; echo ${COMPREPLY[*]};"
             " COMP_WORDS=(kd-thing --schedule co); COMP_CWORD=2; _kd_thing; echo ${COMPREPLY[*]}'",
             path);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    got[fread(got, 1, sizeof got - 1, f)] = '\0';
    assert_int_equal(pclose(f), 0);
    unlink(path);
    assert_string_equal(got, "--schedule\nconstant cosine\n");
}

static void the_closing_line_tells_cost_and_command(void **state)
{
    (void)state;
    run r;
    RUN(&r, "-s", "it's a.kd", "--json");
    assert_int_equal(r.code, 0);
    has(r.err, "say 2\nkd-thing: warning: warn 3\nkd-thing " KD_VERSION " | wall 0.0");
    has(r.err, " s CPU, ");
    has(r.err, " peak | 212 rows/s | runs/a | kd-thing -s 'it'\\''s a.kd' --json\n");
    assert_null(strstr(r.err, "detail"));
    RUN(&r, "-v");
    has(r.err, "detail 1\nsay 2\n");
    RUN(&r, "-q");
    assert_string_equal(r.err, "kd-thing: warning: warn 3\n");
    RUN(&r, "-j", "4096", "-q");
    has(r.err, "kd-thing: warning: --threads 4096 on ");
}

static void an_error_takes_the_place_of_the_closing_line(void **state)
{
    (void)state;
    run r;
    RUN(&r, "--dry-run");
    assert_int_equal(r.code, 3);
    assert_string_equal(
        r.err, "say 2\nkd-thing: warning: warn 3\nkd-thing: a.kd: 10 classes, student has ?[31m100\n");
}

static void a_full_output_is_an_error(void **state)
{
    (void)state;
    run r;
    char *help[] = {"kd-thing", "--help"}, *plain[] = {"kd-thing", "-q"};
    run_child(&r, thing, 2, help, "/dev/full");
    assert_string_equal(r.err, "kd-thing: cannot write to standard output: No space left on device\n");
    assert_int_equal(r.code, 4);
    run_child(&r, thing, 2, plain, "/dev/full");
    assert_int_equal(r.code, 4);
}

static void a_wrong_instruction_set_is_refused(void **state)
{
    (void)state;
    run r;
    setenv("KD_ISA", "avx22", 1);
    RUN(&r, "-q");
    unsetenv("KD_ISA");
    refused(
        &r,
        "kd-thing: environment: KD_ISA=avx22 is unknown (did you mean avx2?), expected scalar, avx2, avx512, "
        "avx512bf16 or amx\n");
}

static void options_of_one_name_are_our_bug(void **state)
{
    (void)state;
    static const kd_option clash[] = {KD_OPT_BOOL("G", opts, dry, NULL, 'q', NULL, "h")};
    static const kd_option name[] = {
        {"G", NULL, "epochs", NULL, 0, KD_OPTION_BOOL, offsetof(opts, dry), NULL, 0, 0, NULL, "h"}};
    char *argv[] = {"kd-thing", "x"};
    opts o, p;
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, 2, argv);
    kd_cli_table(&cli, clash, 1, &o);
    assert_int_equal(kd_cli_parse(&cli, &err), KD_EUSAGE);
    assert_string_equal(err.msg, "kd bug: two options are called -q");
    kd_config_release(&cli.config);
    kd_cli_init(&cli, &tool, 2, argv);
    kd_cli_table(&cli, rows, KD_COUNT(rows), &o);
    kd_cli_table(&cli, name, 1, &p);
    assert_int_equal(kd_cli_parse(&cli, &err), KD_EUSAGE);
    assert_string_equal(err.msg, "kd bug: two options are called --epochs");
    kd_config_release(&cli.config);
}

/* ---- stop requests ------------------------------------------------------------------------- */

static int stops(int argc, char **argv)
{
    kd_cli cli;
    kd_err err = {0};
    kd_cli_init(&cli, &tool, argc, argv);
    if (kd_cli_parse(&cli, &err)) return 99;
    raise(atoi(cli.args[0]));
    if (!kd_stop_requested) return 98;
    raise(SIGPIPE);
    if (cli.nargs > 1) raise(atoi(cli.args[1]));
    kd_fail(&err, KD_ESTOPPED, "stopped after epoch 3, go on with --resume");
    return kd_cli_finish(&cli, &err);
}

static void the_first_signal_asks_and_the_second_interrupt_ends(void **state)
{
    (void)state;
    static const struct {
        char *first, *second;
        int code;
    } cases[] = {{"2", NULL, 5},  {"15", NULL, 5}, {"10", NULL, 5},
                 {"2", "2", 130}, {"15", "15", 5}, {"10", "2", 5}};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        run r;
        char *argv[] = {"kd-thing", cases[i].first, cases[i].second};
        run_child(&r, stops, cases[i].second ? 3 : 2, argv, NULL);
        assert_int_equal(r.code, cases[i].code);
        if (r.code == 5) assert_string_equal(r.err, "kd-thing: stopped after epoch 3, go on with --resume\n");
    }
}

/* ---- progress ------------------------------------------------------------------------------ */

static int progresses(int argc, char **argv)
{
    kd_cli cli;
    kd_err err = {0};
    kd_progress p;
    kd_cli_init(&cli, &tool, argc, argv);
    if (kd_cli_parse(&cli, &err)) return 99;
    kd_progress_begin(&p, &cli, "train", "rows", 1000);
    if (cli.nargs) p.terminal = false;
    p.start -= 20; /* as if 20 seconds had passed */
    p.last -= 20;
    kd_progress_set(&p, 400, "loss 0.812");
    kd_progress_set(&p, 401, "too soon");
    kd_cli_say(&cli, "a message");
    kd_progress_end(&p);
    kd_cli_finish(&cli, &err);
    return 0;
}

static void progress_in_a_log_is_a_line_now_and_then(void **state)
{
    (void)state;
    run r;
    char *argv[] = {"kd-thing", "log"};
    run_child(&r, progresses, 2, argv, NULL);
    has(r.err, "train  400/1000 rows  40%  loss 0.812  20.0 rows/s  ETA 0:30\na message\nkd-thing ");
    assert_null(strstr(r.err, "too soon"));
    char *quiet[] = {"kd-thing", "log", "-q"}, *off[] = {"kd-thing", "log", "--no-progress"};
    run_child(&r, progresses, 3, quiet, NULL);
    assert_string_equal(r.err, "");
    run_child(&r, progresses, 3, off, NULL);
    assert_null(strstr(r.err, "train"));
}

static void progress_on_a_terminal_is_one_line_redrawn(void **state)
{
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) {
        if (master >= 0) close(master);
        skip();
    }
    char name[128], got[4096];
    snprintf(name, sizeof name, "%s", ptsname(master));
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) { /* a session of its own, with the terminal as its own: in the foreground */
        setsid();
        int fd = open(name, O_RDWR);
        setenv("TERM", "xterm", 1);
        if (fd < 0 || dup2(fd, STDERR_FILENO) < 0) _exit(99);
        char *argv[] = {"kd-thing", "-v"};
        exit(progresses(2, argv));
    }
    int status;
    size_t n = 0;
    ssize_t k;
    while (n < sizeof got - 1 && (k = read(master, got + n, sizeof got - 1 - n)) > 0) n += (size_t)k;
    got[n] = '\0';
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(master);
    assert_int_equal(status, 0);
    has(got, "\rtrain  400/1000 rows  40%  loss 0.812  20.0 rows/s  ETA 0:30\033[K\r\033[Ka message\r\n");
    assert_null(strstr(got, "too soon"));
}

/* ---- tables -------------------------------------------------------------------------------- */

static void print_table(const kd_table *t, bool markdown, char *text, size_t size)
{
    FILE *f = tmpfile();
    assert_non_null(f);
    kd_table_print(t, f, markdown);
    slurp(f, text, size);
}

static void tables_align(void **state)
{
    (void)state;
    static const char *const cells[][4] = {{"student", "size", "accuracy", "note"},
                                           {"mlp|a", "1.5 KiB", "92.1 ± 0.3", "x"},
                                           {"cnn", "20 B", "-", ""},
                                           {"3x3-net", "312 MiB", "9.25", "p < 0.05"}};
    char text[2048];
    kd_table *t = kd_table_create();
    print_table(t, false, text, sizeof text);
    assert_string_equal(text, "");
    for (size_t r = 0; r < 4; r++) {
        for (size_t k = 0; k < 4; k++) kd_table_cell(t, "%s", cells[r][k]);
        kd_table_row(t);
    }
    print_table(t, false, text, sizeof text);
    assert_string_equal(text, "student     size    accuracy  note\n"
                              "mlp|a    1.5 KiB  92.1 ± 0.3  x\n"
                              "cnn         20 B           -\n"
                              "3x3-net  312 MiB        9.25  p < 0.05\n");
    print_table(t, true, text, sizeof text);
    assert_string_equal(text, "| student |    size |   accuracy | note     |\n"
                              "| ------- | ------: | ---------: | -------- |\n"
                              "| mlp\\|a  | 1.5 KiB | 92.1 ± 0.3 | x        |\n"
                              "| cnn     |    20 B |          - |          |\n"
                              "| 3x3-net | 312 MiB |       9.25 | p < 0.05 |\n");
    kd_table_cell(t, "short row");
    kd_table_row(t);
    print_table(t, false, text, sizeof text);
    has(text, "\nshort row\n");
    kd_table_free(t);
    kd_table_free(NULL);
}

/* ---- the rest ------------------------------------------------------------------------------ */

static void commands_can_be_pasted_back(void **state)
{
    (void)state;
    char *argv[] = {"kd-thing", "a b", "", "it's", "x=1,2:3", "$HOME", "ä"};
    char *command = kd_cli_command((int)KD_COUNT(argv), argv), got[256], shell[300];
    assert_string_equal(command, "kd-thing 'a b' '' 'it'\\''s' x=1,2:3 '$HOME' 'ä'");
    snprintf(shell, sizeof shell, "printf '[%%s]' %s", command);
    FILE *f = popen(shell, "r");
    assert_non_null(f);
    got[fread(got, 1, sizeof got - 1, f)] = '\0';
    assert_int_equal(pclose(f), 0);
    assert_string_equal(got, "[kd-thing][a b][][it's][x=1,2:3][$HOME][ä]");
    free(command);
    command = kd_cli_command(0, NULL);
    assert_string_equal(command, "");
    free(command);
}

static int prints_json(int argc, char **argv)
{
    (void)argc, (void)argv;
    if (kd_cli_print_json(json_pack("{s:i}", "schema", 1), NULL)) return 1;
    kd_err err = {0};
    if (kd_cli_print_json(NULL, &err) != KD_ENOMEM) return 2;
    return fflush(stdout) ? 3 : 0;
}

static void json_goes_to_standard_output(void **state)
{
    (void)state;
    run r;
    run_child(&r, prints_json, 0, NULL, NULL);
    assert_int_equal(r.code, 0);
    assert_string_equal(r.out, "{\n  \"schema\": 1\n}\n");
}

int main(void)
{
    setenv("GOMP_SPINCOUNT", "20000", 0); /* a tool would start itself once more */
    unsetenv("KD_ISA");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arguments_are_understood_in_all_forms),
        cmocka_unit_test(wrong_arguments_get_one_line),
        cmocka_unit_test(no_arguments_show_usage_and_an_example),
        cmocka_unit_test(help_is_made_from_the_tables),
        cmocka_unit_test(version_tells_compiler_machine_and_libraries),
        cmocka_unit_test(the_man_page_has_its_sections_and_escapes),
        cmocka_unit_test(the_completion_script_completes),
        cmocka_unit_test(the_closing_line_tells_cost_and_command),
        cmocka_unit_test(an_error_takes_the_place_of_the_closing_line),
        cmocka_unit_test(a_full_output_is_an_error),
        cmocka_unit_test(a_wrong_instruction_set_is_refused),
        cmocka_unit_test(options_of_one_name_are_our_bug),
        cmocka_unit_test(the_first_signal_asks_and_the_second_interrupt_ends),
        cmocka_unit_test(progress_in_a_log_is_a_line_now_and_then),
        cmocka_unit_test(progress_on_a_terminal_is_one_line_redrawn),
        cmocka_unit_test(tables_align),
        cmocka_unit_test(commands_can_be_pasted_back),
        cmocka_unit_test(json_goes_to_standard_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
