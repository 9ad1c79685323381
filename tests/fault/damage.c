/* damage.c - damaged copies of a store: what kd makes of them, and what LMDB alone makes of the same files.
 *
 *     damage FOLDER [CASES]      CASES copies of each kind, 1000 if not given; one line of JSON
 *
 * The kinds: one bit anywhere; one byte among the first 96 of a page, where LMDB keeps its numbers; the file
 * cut at a page boundary; a page of zeros. Places are drawn from the counter generator: a run repeats.
 *
 * Each copy is read in a child process of its own, so that a crash is a count. kd opens the store, reads
 * every block and verifies. LMDB opens the file as any program would (read-only, without lock) and walks all
 * keys.
 *
 *     crashed   ended by a signal
 *     hung      not done in 20 s
 *     wrong     handed out something that was not written, or ended early without an error
 *     refused   an error, and nothing wrong before it
 *     right     everything as it was written: the damage hit bytes that nobody reads
 *     unseen    (kd) reading was refused, but verify called the store whole
 */
#include "kd/store.h"

#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 512, CHUNK = 32, PIXELS = 784, CLASSES = 10, PAGE = 4096, SECONDS = 20 };
enum { ID, SPLIT, LABEL, IMAGE, LOGITS, COLUMNS };
enum { RIGHT, REFUSED, WRONG, UNSEEN, CRASHED, HUNG, ENDS };
static const char *const ends[ENDS] = {"right", "refused", "wrong", "unseen", "crashed", "hung"};
enum { BIT, HEADER, CUT, ZERO, KINDS };
static const char *const kinds[KINDS] = {"one bit", "one byte in a page header", "truncated", "zeroed page"};

typedef struct blob {
    uint8_t *data;
    size_t size;
} blob;

static char *store, *file;                /* the copy that is damaged */
static blob whole;                        /* its file as it was written */
static blob block[ROWS / CHUNK][COLUMNS]; /* what kd must hand out */
static blob *value;                       /* what LMDB must hand out, in the order of keys */
static size_t values;

static void die(const char *what)
{
    fprintf(stderr, "damage: %s\n", what);
    exit(1);
}

static void must(kd_status st, const kd_err *err)
{
    if (st) die(err->msg);
}

static void *take(size_t n)
{
    void *p = malloc(n + 1);
    if (!p) die("out of memory");
    return p;
}

/* ---- the store ---------------------------------------------------------------------------- */

static void fill(uint32_t chunk)
{
    kd_rng g;
    kd_rng_init(&g, 1, KD_RNG_TEST, chunk, 0);
    const size_t bytes[COLUMNS] = {16, 1, 4, PIXELS, 4 * CLASSES};
    for (int c = 0; c < COLUMNS; c++) {
        blob *b = &block[chunk][c];
        *b = (blob){take(bytes[c] * CHUNK), bytes[c] * CHUNK};
        for (size_t i = 0; i < b->size; i++) // images compress, ids and logits do not
            b->data[i] = c == SPLIT   ? KD_TRAIN
                         : c == IMAGE ? (uint8_t)kd_rng_below(&g, 9)
                                      : (uint8_t)kd_rng_u32(&g);
        for (size_t i = 0; c == LOGITS && i < CHUNK * CLASSES; i++) {
            const float x = kd_rng_normal(&g);
            memcpy(b->data + 4 * i, &x, 4);
        }
    }
}

static void make_store(void)
{
    const kd_column c[COLUMNS] = {
        {.name = "id", .role = KD_ROLE_ID, .dtype = KD_U8, .ndims = 1, .dims = {16}},
        {.name = "split", .role = KD_ROLE_SPLIT, .dtype = KD_U8},
        {.name = "label", .role = KD_ROLE_LABEL, .dtype = KD_I32},
        {.name = "image", .role = KD_ROLE_INPUT, .dtype = KD_U8, .ndims = 1, .dims = {PIXELS}},
        {.name = "t/logits", .role = KD_ROLE_LOGITS, .dtype = KD_F32, .ndims = 1, .dims = {CLASSES}}};
    kd_writer_params p = kd_writer_default_params();
    kd_store_writer *w;
    kd_err err = {0};
    p.chunk_rows = CHUNK;
    p.commit_bytes = 100000; // several transactions, as a dump makes them
    p.force = true;
    must(kd_store_create(&w, store, c, COLUMNS, NULL, &p, &err), &err);
    for (uint32_t i = 0; i < ROWS / CHUNK; i++) {
        kd_block b[COLUMNS];
        fill(i);
        for (int k = 0; k < COLUMNS; k++)
            b[k] = (kd_block){.data = block[i][k].data, .bytes = block[i][k].size};
        must(kd_store_writer_append(w, KD_TRAIN, CHUNK, b, &err), &err);
    }
    must(kd_store_writer_seal(w, NULL, &err), &err);
}

/* ---- the two readers: each ends its process with what it found ------------------------------ */

static void read_kd(void)
{
    kd_store *s;
    kd_cursor *c = NULL;
    kd_verify_report r;
    bool refused = kd_store_open(&s, store, NULL) || kd_cursor_open(&c, s, NULL);
    uint8_t out[CHUNK * PIXELS];
    for (uint32_t i = 0; c && i < kd_store_chunks(s); i++)
        for (int k = 0; k < COLUMNS; k++) {
            const blob *b = &block[i][k];
            if (kd_cursor_read(c, k, i, out, b->size, NULL))
                refused = true;
            else if (memcmp(out, b->data, b->size) != 0)
                _exit(WRONG);
        }
    const bool seen = kd_store_verify(store, 1, &r, NULL, NULL, NULL) != KD_OK;
    _exit(!refused ? RIGHT : seen ? REFUSED : UNSEEN);
}

/* Walks all keys; collects them, or compares them with what was collected. */
static int walk(bool collect)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, v;
    size_t n = 0;
    int rc;
    if (mdb_env_create(&env) || mdb_env_open(env, file, MDB_NOSUBDIR | MDB_RDONLY | MDB_NOLOCK, 0644) ||
        mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) || mdb_dbi_open(txn, NULL, 0, &dbi) ||
        mdb_cursor_open(txn, dbi, &cursor))
        return REFUSED;
    for (; !(rc = mdb_cursor_get(cursor, &key, &v, MDB_NEXT)); n++) {
        if (collect) {
            if (!(value = realloc(value, (n + 1) * sizeof(*value)))) die("out of memory");
            value[n] = (blob){take(key.mv_size + v.mv_size), key.mv_size + v.mv_size};
            memcpy(value[n].data, key.mv_data, key.mv_size);
            memcpy(value[n].data + key.mv_size, v.mv_data, v.mv_size);
        } else if (n >= values || key.mv_size + v.mv_size != value[n].size ||
                   memcmp(value[n].data, key.mv_data, key.mv_size) != 0 ||
                   memcmp(value[n].data + key.mv_size, v.mv_data, v.mv_size) != 0) {
            return WRONG;
        }
    }
    if (collect) {
        values = n;
        mdb_cursor_close(cursor);
        mdb_txn_abort(txn);
        mdb_env_close(env);
    }
    return rc != MDB_NOTFOUND ? REFUSED : n < values ? WRONG : RIGHT;
}

static void read_lmdb(void) { _exit(walk(false)); }

/* How a reader ends in a process of its own. */
static int run(void (*reader)(void))
{
    int status;
    const pid_t child = fork();
    if (child < 0) die("cannot fork");
    if (!child) {
        const int null = open("/dev/null", O_WRONLY);
        if (null >= 0) dup2(null, 2); // LMDB's assertions
        alarm(SECONDS);
        reader();
    }
    if (waitpid(child, &status, 0) != child) die("lost a child");
    if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? HUNG : CRASHED;
    return WEXITSTATUS(status) < CRASHED ? WEXITSTATUS(status) : CRASHED;
}

/* ---- damage ------------------------------------------------------------------------------- */

/* Writes the copy number i of a kind. data: whole, changed and put back. */
static void damage(int kind, uint32_t i)
{
    const size_t pages = whole.size / PAGE;
    uint8_t page[PAGE], *data = whole.data;
    size_t size = whole.size;
    kd_rng g;
    kd_rng_init(&g, 2, KD_RNG_TEST, (uint32_t)kind, i);
    const uint64_t bit = kd_rng_below(&g, whole.size * 8);
    const size_t at = kind == BIT ? bit / 8 / PAGE * PAGE : (size_t)kd_rng_below(&g, pages) * PAGE;
    memcpy(page, data + at, PAGE);
    if (kind == BIT) data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    if (kind == HEADER) data[at + kd_rng_below(&g, 96)] ^= (uint8_t)(1 + kd_rng_below(&g, 255));
    if (kind == CUT) size = at;
    if (kind == ZERO) memset(data + at, 0, PAGE);
    const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size || close(fd)) die("cannot write the copy");
    memcpy(data + at, page, PAGE);
}

static json_t *counts(const uint32_t n[ENDS], bool kd)
{
    json_t *o = json_object();
    for (int e = 0; e < ENDS; e++)
        if (kd || e != UNSEEN) json_object_set_new(o, ends[e], json_integer((json_int_t)n[e]));
    return o;
}

int main(int argc, char **argv)
{
    const long cases = argc > 2 ? strtol(argv[2], NULL, 10) : 1000;
    uint32_t all[2][ENDS] = {{0}};
    kd_err err = {0};
    char *text;
    json_t *list = json_array();
    if (argc < 2 || cases < 1 || cases > 1000000) die("usage: damage FOLDER [CASES]");
    store = kd_sprintf("%s/victim.kd", argv[1]);
    file = kd_sprintf("%s/victim.kd/base.mdb", argv[1]);
    if (!store || !file) die("out of memory");
    make_store();
    must(kd_file_read(file, 1u << 30, &text, &whole.size, &err), &err);
    whole.data = (uint8_t *)text;
    if (walk(true) != RIGHT || run(read_kd) != RIGHT || run(read_lmdb) != RIGHT)
        die("the whole store is not read right");
    unlink(file); // it is read-only
    for (int kind = 0; kind < KINDS; kind++) {
        uint32_t n[2][ENDS] = {{0}};
        for (long i = 0; i < cases; i++) {
            damage(kind, (uint32_t)i);
            n[0][run(read_kd)]++;
            n[1][run(read_lmdb)]++;
        }
        for (int e = 0; e < ENDS; e++) all[0][e] += n[0][e], all[1][e] += n[1][e];
        json_array_append_new(list, json_pack("{s:s, s:I, s:o, s:o}", "kind", kinds[kind], "cases",
                                              (json_int_t)cases, "kd", counts(n[0], true), "lmdb",
                                              counts(n[1], false)));
    }
    int major, minor, patch;
    mdb_version(&major, &minor, &patch);
    json_t *line =
        json_pack("{s:I, s:I, s:o, s:o, s:o, s:s, s:s, s:o}", "cases", (json_int_t)cases * KINDS,
                  "file_bytes", (json_int_t)whole.size, "kd", counts(all[0], true), "lmdb",
                  counts(all[1], false), "kinds", list, "cpu", kd_cpu_name(), "isa",
                  kd_isa_name(kd_cpu_isa()), "lmdb_version", json_sprintf("%d.%d.%d", major, minor, patch));
    json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(line);
    return all[0][WRONG] || all[0][UNSEEN] || all[0][CRASHED] || all[0][HUNG];
}
