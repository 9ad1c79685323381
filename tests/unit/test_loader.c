/* What streams deliver: each row once an epoch, in an order that only seed, epoch and step decide. */
#include "data_fixture.h"

#include <fcntl.h>

enum { ROWS = 1000, CHUNK = 32, MAX_STREAMS = 4 };

static kd_store *store;
static int columns[3];      // image, label, source
static uint8_t *all_images; // (rows, 6) of the whole store, read by a cursor
static uint64_t *all_sources;
static uint64_t train_rows;

static int make_store(void **state)
{
    kd_config c;
    kd_data_spec s;
    kd_cursor *cursor;
    if (fx_setup(state)) return -1;
    fx_images("l", ROWS, 3, 0);
    fx_image_spec(&c, &s, "l", NULL, "  chunk_rows: 32\n  valid_fraction: 0\n");
    OK(kd_pack(&s, fx_path("l.kd"), NULL, NULL, NULL, NULL, NULL, NULL, &fx_err));
    kd_config_release(&c);
    OK(kd_store_open(&store, fx_path("l.kd"), &fx_err));
    columns[0] = kd_store_find(store, "image");
    columns[1] = kd_store_find(store, "label");
    columns[2] = kd_store_find(store, "source");
    all_images = malloc(ROWS * 6);
    all_sources = malloc(ROWS * 8);
    OK(kd_cursor_open(&cursor, store, &fx_err));
    for (uint32_t i = 0; i < kd_store_chunks(store); i++) {
        const kd_chunk_info *info = kd_store_chunk(store, i);
        OK(kd_cursor_read(cursor, columns[0], i, all_images + 6 * info->first, info->rows * 6, &fx_err));
        OK(kd_cursor_read(cursor, columns[2], i, all_sources + info->first, info->rows * 8, &fx_err));
    }
    kd_cursor_close(cursor);
    train_rows = kd_store_split_rows(store, KD_TRAIN);
    return 0;
}

static int drop_store(void **state)
{
    kd_store_close(store);
    free(all_images);
    free(all_sources);
    return fx_teardown(state);
}

/* ---- the naive twin ----------------------------------------------------------------------- */

/* The rows of an epoch by the documented rule, written as plainly as possible: chunks permuted by
 * (seed, epoch), cut into windows of as many chunks, each window's rows permuted by (stream seed, epoch,
 * window). */
static uint64_t expected(uint64_t *out, const kd_loader_params *p, uint64_t stream_seed, uint32_t epoch)
{
    uint32_t chunk[ROWS], use[ROWS], n = 0, window = 0, largest = 0;
    uint64_t limit = p->rows ? p->rows : kd_store_split_rows(store, p->split), taken = 0, total = 0,
             whole = 0;
    for (uint32_t i = 0; i < kd_store_chunks(store) && taken < limit; i++) {
        const kd_chunk_info *info = kd_store_chunk(store, i);
        if (info->split != p->split) continue;
        chunk[n] = i;
        use[n] = info->rows < limit - taken ? info->rows : (uint32_t)(limit - taken);
        taken += use[n++];
        whole += info->rows;
        if (info->rows > largest) largest = info->rows;
    }
    uint64_t slots = whole <= p->window_rows ? n : p->window_rows > largest ? p->window_rows / largest : 1;
    kd_permutation order;
    kd_permutation_init(&order, n, p->seed, KD_RNG_CHUNKS, epoch);
    for (uint64_t first = 0; first < n; first += slots, window++) {
        uint64_t rows[ROWS], m = 0;
        for (uint64_t k = first; k < first + slots && k < n; k++) {
            uint64_t i = p->shuffle ? kd_permutation_at(&order, k) : k;
            for (uint32_t r = 0; r < use[i]; r++) {
                const uint64_t row = kd_store_chunk(store, chunk[i])->first + r;
                if (!p->drop || !kd_row_marked(p->drop, row)) rows[m++] = row;
            }
        }
        uint32_t perm[ROWS];
        kd_rng rng;
        kd_rng_init(&rng, stream_seed, KD_RNG_ROWS, epoch, window);
        kd_rng_permute(&rng, perm, m);
        for (uint64_t k = 0; k < m; k++) out[total++] = rows[p->shuffle ? perm[k] : k];
    }
    return total;
}

/* ---- running ------------------------------------------------------------------------------ */

typedef struct player {
    uint64_t seed;
    uint32_t batch;
    bool drop_last;
    uint64_t skip;
    kd_stream *s;
    uint64_t row[ROWS], n, steps, waits;
} player;

/* A batch's columns belong to its row numbers. */
static void check_batch(const kd_batch *b)
{
    for (uint32_t i = 0; i < b->rows; i++) {
        const uint8_t *image = (const uint8_t *)b->column[0] + 6 * i;
        assert_memory_equal(image, all_images + 6 * b->row[i], 6);
        assert_int_equal(((const int32_t *)b->column[1])[i], image[0] % 5);
        assert_int_equal(((const uint64_t *)b->column[2])[i], all_sources[b->row[i]]);
    }
}

/* Plays one epoch in rounds and notes what each stream got. */
static void play(kd_loader *l, player *p, int n, uint64_t epoch)
{
    int over = 0, idle = 0;
    OK(kd_loader_epoch(l, epoch, &fx_err));
    for (int i = 0; i < n; i++) {
        p[i].n = p[i].steps = p[i].waits = 0;
        OK(kd_stream_skip(p[i].s, p[i].skip, &fx_err));
    }
    for (bool done[MAX_STREAMS] = {0}; over < n;) {
        uint64_t before = 0, after = 0;
        for (int i = 0; i < n; i++) before += p[i].n + done[i];
        for (int i = 0; i < n; i++) {
            kd_batch b;
            const bool ready = kd_stream_ready(p[i].s);
            OK(kd_stream_next(p[i].s, &b, &fx_err));
            assert_true(!ready || b.rows == p[i].batch);
            if (!b.rows) {
                p[i].waits += b.wait;
                if (!b.wait && !done[i]) done[i] = true, over++;
                continue;
            }
            assert_false(b.wait);
            check_batch(&b);
            memcpy(p[i].row + p[i].n, b.row, b.rows * sizeof(*b.row));
            p[i].n += b.rows;
            p[i].steps++;
        }
        for (int i = 0; i < n; i++) after += p[i].n + done[i];
        idle = after > before ? 0 : idle + 1;
        assert_true(idle <= 1); // and then only where a window is smaller than a batch
    }
}

static kd_loader *open_loader(const kd_loader_params *p, player *players, int n)
{
    kd_loader *l;
    OK(kd_loader_open(&l, store, columns, 3, p, &fx_err));
    for (int i = 0; i < n; i++)
        OK(kd_stream_open(&players[i].s, l, players[i].seed, players[i].batch, players[i].drop_last,
                          &fx_err));
    return l;
}

/* What player p got is what the twin says from its skip on. */
static void as_expected(const player *p, const kd_loader_params *params, uint32_t epoch)
{
    uint64_t want[ROWS], total = expected(want, params, p->seed, epoch), skipped = p->skip * p->batch;
    uint64_t end = p->drop_last ? total / p->batch * p->batch : total;
    if (skipped > end) skipped = end;
    assert_int_equal(p->n, end - skipped);
    assert_memory_equal(p->row, want + skipped, p->n * sizeof(*want));
    assert_int_equal(p->steps + p->skip, kd_stream_steps(p->s));
}

static void one_setting(uint64_t window, uint64_t rows, bool shuffle, int threads, bool ahead)
{
    kd_loader_params lp = kd_loader_default_params();
    player p[3] = {{.seed = 7, .batch = 10, .drop_last = true},
                   {.seed = 8, .batch = 33},
                   {.seed = 7, .batch = 128, .drop_last = true}};
    lp.window_rows = window, lp.rows = rows, lp.shuffle = shuffle, lp.threads = threads, lp.seed = 5;
    lp.ahead = ahead;
    kd_loader *l = open_loader(&lp, p, 3);
    for (uint32_t epoch = 0; epoch < 3; epoch++) {
        play(l, p, 3, epoch);
        for (int i = 0; i < 3; i++) as_expected(&p[i], &lp, epoch);
    }
    kd_loader_close(l);
}

/* ---- order -------------------------------------------------------------------------------- */

static void streams_follow_the_documented_order_for_any_window_and_limit(void **state)
{
    (void)state;
    static const uint64_t windows[] = {1, 32, 50, 64, 100, 333, 65536}, limits[] = {0, 128, 129, 160, 500};
    for (size_t w = 0; w < KD_COUNT(windows); w++)
        for (size_t r = 0; r < KD_COUNT(limits); r++) one_setting(windows[w], limits[r], true, 1, false);
    one_setting(100, 0, false, 1, false);
    one_setting(65536, 130, false, 1, false);
}

/* Every third row, all of one chunk, and all but one row of another. */
static void mark_some(uint8_t *drop)
{
    for (uint64_t row = 0; row < ROWS; row++)
        if (row % 3 == 0 || row / CHUNK == 4 || (row / CHUNK == 7 && row % CHUNK)) kd_row_mark(drop, row);
}

static void rows_that_are_dropped_never_come_and_the_others_keep_the_order(void **state)
{
    (void)state;
    static const uint64_t windows[] = {1, 32, 100, 333, 65536}, limits[] = {0, 160, 500};
    uint8_t drop[ROWS / 8 + 1] = {0};
    mark_some(drop);
    for (size_t w = 0; w < KD_COUNT(windows); w++)
        for (size_t r = 0; r < KD_COUNT(limits); r++)
            for (int i = 0; i < 3; i++) {
                kd_loader_params lp = kd_loader_default_params();
                player p[2] = {{.seed = 7, .batch = 10, .drop_last = true, .skip = (uint64_t)i},
                               {.seed = 8, .batch = 33}};
                lp.window_rows = windows[w], lp.rows = limits[r], lp.drop = drop, lp.seed = 5;
                lp.shuffle = i > 0, lp.threads = 1 + i, lp.ahead = i == 2;
                kd_loader *l = open_loader(&lp, p, 2);
                for (uint32_t epoch = 0; epoch < 2; epoch++) {
                    play(l, p, 2, epoch);
                    as_expected(&p[0], &lp, epoch);
                    as_expected(&p[1], &lp, epoch);
                }
                kd_loader_close(l);
            }
}

static void dropping_every_row_is_refused(void **state)
{
    (void)state;
    uint8_t drop[ROWS / 8 + 1];
    kd_loader *l;
    kd_loader_params lp = kd_loader_default_params();
    memset(drop, 0xFF, sizeof(drop));
    lp.drop = drop;
    FAILS(kd_loader_open(&l, store, columns, 3, &lp, &fx_err), KD_EUSAGE,
          "every row of split train is dropped");
}

/* ---- lists of rows ------------------------------------------------------------------------ */

static void note_row(void *arg, uint64_t row, kd_buf *text)
{
    (void)arg;
    kd_buf_printf(text, "because of %llu", (unsigned long long)row);
}

static void a_list_of_rows_is_read_as_it_was_written(void **state)
{
    (void)state;
    uint8_t marks[ROWS / 8 + 1] = {0}, again[ROWS / 8 + 1] = {0};
    mark_some(marks);
    for (int reasons = 0; reasons < 2; reasons++) {
        OK(kd_rowlist_write(fx_path("rows.txt"), store, marks, reasons ? note_row : NULL, NULL, &fx_err));
        memset(again, 0, sizeof(again));
        OK(kd_rowlist_read(again, store, fx_path("rows.txt"), &fx_err));
        assert_memory_equal(again, marks, sizeof(marks));
    }
}

static void lists_that_do_not_fit_are_refused_by_line(void **state)
{
    (void)state;
    uint8_t marks[ROWS / 8 + 1] = {0};
    char head[64], text[300], id[33];
    kd_id first;
    kd_cursor *cursor;
    kd_id *ids = malloc(kd_store_chunk(store, 0)->rows * sizeof(*ids));
    OK(kd_cursor_open(&cursor, store, &fx_err));
    OK(kd_cursor_read(cursor, kd_store_find(store, "id"), 0, ids,
                      kd_store_chunk(store, 0)->rows * sizeof(*ids), &fx_err));
    first = ids[0];
    kd_cursor_close(cursor);
    free(ids);
    kd_id_hex(first, id);
    snprintf(head, sizeof(head), "kd-rows 1 %s\n", kd_store_base_root(store));
#define LIST(...) fx_write("l.txt", text, (size_t)snprintf(text, sizeof(text), __VA_ARGS__))
    OK(kd_rowlist_read(marks, store, LIST("%s\n# by hand\n0 %s\r\n", head, id), &fx_err));
    assert_int_equal(marks[0], 1);
    FAILS(kd_rowlist_read(marks, store, fx_path("none.txt"), &fx_err), KD_ENOTFOUND, "none.txt");
    FAILS(kd_rowlist_read(marks, store, LIST("%s", ""), &fx_err), KD_ECORRUPT, ":1: no list of rows");
    FAILS(kd_rowlist_read(marks, store, LIST("id\n%s\n", id), &fx_err), KD_ECORRUPT, ":1: no list of rows");
    FAILS(kd_rowlist_read(marks, store, LIST("kd-rows 1 %s\n", id), &fx_err), KD_EMISMATCH, "another store");
    FAILS(kd_rowlist_read(marks, store, LIST("%s0 %s\n1 %s\n", head, id, id), &fx_err), KD_EMISMATCH,
          ":3: unknown id");
    FAILS(kd_rowlist_read(marks, store, LIST("%s1000 %s\n", head, id), &fx_err), KD_EMISMATCH, "row 1000");
    FAILS(kd_rowlist_read(marks, store, LIST("%s-1 %s\n", head, id), &fx_err), KD_ECORRUPT, ":2: expected");
    FAILS(kd_rowlist_read(marks, store, LIST("%s99999999999999999999 %s\n", head, id), &fx_err), KD_ECORRUPT,
          ":2: expected");
    FAILS(kd_rowlist_read(marks, store, LIST("%s0 %sa\n", head, id), &fx_err), KD_ECORRUPT, ":2: expected");
    FAILS(kd_rowlist_read(marks, store, LIST("%s0 %.31s\n", head, id), &fx_err), KD_ECORRUPT, ":2: expected");
    char *line = malloc(5000);
    memset(line, 'a', 5000);
    FAILS(kd_rowlist_read(marks, store, fx_write("l.txt", line, 5000), &fx_err), KD_ELIMIT,
          ":1: a line over");
    free(line);
}

static void neither_threads_nor_decoding_ahead_change_anything(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    for (size_t i = 0; i < 2 * KD_COUNT(threads); i++) {
        one_setting(100, 0, true, threads[i / 2], i % 2);
        one_setting(33, 500, true, threads[i / 2], i % 2);
        one_setting(65536, 300, true, threads[i / 2], i % 2);
    }
}

static void every_row_comes_exactly_once_an_epoch(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.window_rows = 90;
    player p[2] = {{.seed = 1, .batch = 7}, {.seed = 2, .batch = 64}};
    kd_loader *l = open_loader(&lp, p, 2);
    uint64_t first[ROWS];
    assert_int_equal(kd_loader_rows(l), train_rows);
    for (uint32_t epoch = 0; epoch < 3; epoch++) {
        play(l, p, 2, epoch);
        for (int i = 0; i < 2; i++) {
            uint8_t seen[ROWS] = {0};
            assert_int_equal(p[i].n, train_rows);
            for (uint64_t k = 0; k < p[i].n; k++) {
                assert_true(p[i].row[k] < train_rows && !seen[p[i].row[k]]);
                seen[p[i].row[k]] = 1;
            }
        }
        assert_memory_not_equal(p[0].row, p[1].row, sizeof(first) / 2); // another seed, another order
        if (epoch) assert_memory_not_equal(p[0].row, first, train_rows * 8);
        memcpy(first, p[0].row, train_rows * 8);
    }
    kd_loader_close(l);
}

static void without_shuffle_rows_come_in_store_order(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.shuffle = false, lp.split = KD_TEST, lp.window_rows = 40;
    player p = {.batch = 17};
    kd_loader *l = open_loader(&lp, &p, 1);
    play(l, &p, 1, 0);
    assert_int_equal(p.n, kd_store_split_rows(store, KD_TEST));
    for (uint64_t k = 0; k < p.n; k++) assert_int_equal(p.row[k], train_rows + k);
    kd_loader_close(l);
}

/* The order is part of what a resume relies on: it must not change from version to version. */
static void the_order_is_the_one_of_the_first_release(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.window_rows = 100, lp.seed = 1, lp.rows = 500;
    player p = {.seed = 2, .batch = 50};
    kd_loader *l = open_loader(&lp, &p, 1);
    static const uint64_t want[8] = {239, 321, 322, 333, 250, 276, 343, 233};
    play(l, &p, 1, 3);
    for (int i = 0; i < 8; i++) assert_int_equal(p.row[i], want[i]);
    kd_loader_close(l);
}

/* ---- resuming ----------------------------------------------------------------------------- */

static void skipping_gives_what_an_uninterrupted_run_would(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.window_rows = 100;
    for (uint64_t skip = 0; skip <= 20; skip++) {
        player p[3] = {{.seed = 1, .batch = 40, .drop_last = true},
                       {.seed = 2, .batch = 17},
                       {.seed = 3, .batch = 128, .drop_last = true}};
        kd_loader *l = open_loader(&lp, p, 3);
        p[0].skip = skip < kd_stream_steps(p[0].s) ? skip : kd_stream_steps(p[0].s);
        p[1].skip = 2 * skip;
        p[2].skip = skip / 4;
        play(l, p, 3, 4); // a later epoch, straight away
        for (int i = 0; i < 3; i++) as_expected(&p[i], &lp, 4);
        for (int i = 0; i < 3; i++) p[i].skip = 0;
        play(l, p, 3, 5); // and the next from its beginning
        for (int i = 0; i < 3; i++) as_expected(&p[i], &lp, 5);
        kd_loader_close(l);
    }
}

static void skipped_windows_are_not_decoded(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.window_rows = 2 * CHUNK, lp.ahead = true;
    player p[2] = {{.seed = 1, .batch = 32, .drop_last = true}, {.seed = 2, .batch = 32, .drop_last = true}};
    kd_loader *l = open_loader(&lp, p, 2);
    p[0].skip = kd_stream_steps(p[0].s) - 1;
    p[1].skip = kd_stream_steps(p[1].s); // has finished this epoch
    play(l, p, 2, 0);
    assert_int_equal(p[0].steps, 1);
    assert_int_equal(p[1].steps, 0);
    assert_true(kd_loader_decoded(l) <= 4 * 3); // two windows of two chunks, three columns
    kd_loader_close(l);
}

static void an_epoch_may_be_left_half_way(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    kd_batch b;
    lp.window_rows = 100, lp.ahead = true;
    player p[2] = {{.seed = 1, .batch = 64}, {.seed = 2, .batch = 90}};
    kd_loader *l = open_loader(&lp, p, 2);
    OK(kd_loader_epoch(l, 0, &fx_err));
    for (int i = 0; i < 3; i++) OK(kd_stream_next(p[i % 2].s, &b, &fx_err)); // leaves a batch half filled
    play(l, p, 2, 1);
    as_expected(&p[0], &lp, 1);
    as_expected(&p[1], &lp, 1);
    kd_loader_close(l);
}

/* ---- counters ----------------------------------------------------------------------------- */

static void decoded_once(bool ahead)
{
    kd_loader_params lp = kd_loader_default_params();
    lp.window_rows = 128, lp.ahead = ahead;
    player p[4] = {{.seed = 1, .batch = 16},
                   {.seed = 2, .batch = 48},
                   {.seed = 3, .batch = 200},
                   {.seed = 4, .batch = 1}};
    kd_loader *l = open_loader(&lp, p, 4);
    uint64_t before = kd_store_reads(store, columns[0]), chunks = (train_rows + CHUNK - 1) / CHUNK;
    assert_int_equal(kd_loader_blocks(l), chunks * 3);
    assert_false(kd_loader_resident(l));
    for (uint32_t epoch = 0; epoch < 2; epoch++) {
        play(l, p, 4, epoch);
        assert_int_equal(kd_store_reads(store, columns[0]) - before, (epoch + 1) * chunks);
        assert_int_equal(kd_loader_decoded(l), (epoch + 1) * chunks * 3);
    }
    assert_true(p[2].waits + p[3].waits > 0); // they do not march in step
    assert_true(kd_loader_seconds(l) > 0);
    kd_loader_close(l);
}

static void each_block_is_decoded_once_an_epoch_for_all_streams(void **state)
{
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) decoded_once(ahead);
}

static void a_window_that_holds_everything_is_decoded_once_a_run(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.rows = 70; // three chunks, the last one cut
    player p = {.seed = 1, .batch = 16};
    kd_loader *l = open_loader(&lp, &p, 1);
    assert_true(kd_loader_resident(l));
    for (uint32_t epoch = 0; epoch < 3; epoch++) play(l, &p, 1, epoch);
    assert_int_equal(kd_loader_decoded(l), 3 * 3);
    kd_loader_close(l);
}

static void memory_held_is_counted(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    lp.window_rows = 128;
    kd_loader *l = open_loader(&lp, NULL, 0);
    kd_stream *s;
    size_t before = kd_loader_bytes(l);
    assert_true(before >= 128 * (6 + 4 + 8) && before < 128 * 100);
    OK(kd_stream_open(&s, l, 1, 64, false, &fx_err));
    assert_true(kd_loader_bytes(l) >= before + 64 * (6 + 4 + 8 + 8) + 128 * 4);
    kd_stream_close(s);
    assert_int_equal(kd_loader_bytes(l), before);
    kd_loader_close(l);
}

/* ---- taking streams out, refusals --------------------------------------------------------- */

static void nobody_waits_for_a_stream_that_was_closed(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    kd_batch b;
    lp.window_rows = 64;
    player p[2] = {{.seed = 1, .batch = 64}, {.seed = 2, .batch = 8}};
    kd_loader *l = open_loader(&lp, p, 2);
    OK(kd_loader_epoch(l, 0, &fx_err));
    OK(kd_stream_next(p[0].s, &b, &fx_err));
    OK(kd_stream_next(p[0].s, &b, &fx_err));
    assert_int_equal(b.rows, 0);
    assert_true(b.wait);
    kd_stream_close(p[1].s);
    OK(kd_stream_next(p[0].s, &b, &fx_err));
    assert_int_equal(b.rows, 64);
    kd_loader_close(l);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    kd_loader_params lp = kd_loader_default_params();
    kd_loader *l;
    kd_stream *s;
    kd_batch b;
    lp.split = KD_VALID;
    FAILS(kd_loader_open(&l, store, columns, 3, &lp, &fx_err), KD_EUSAGE, "split valid has no rows");
    assert_null(l);
    lp.split = KD_TRAIN, lp.rows = train_rows + 1;
    FAILS(kd_loader_open(&l, store, columns, 3, &lp, &fx_err), KD_EUSAGE,
          "rows of split train asked for, it has");
    lp.rows = 100;
    FAILS(kd_loader_open(&l, store, columns, 0, &lp, &fx_err), KD_EUSAGE, "0 columns");
    const int many[KD_LOADER_COLUMNS + 1] = {0};
    FAILS(kd_loader_open(&l, store, many, KD_LOADER_COLUMNS + 1, &lp, &fx_err), KD_EUSAGE, "17 columns");
    FAILS(kd_loader_open(&l, store, (int[]){-1}, 1, &lp, &fx_err), KD_EUSAGE, "no column -1");
    FAILS(kd_loader_open(&l, store, (int[]){99}, 1, &lp, &fx_err), KD_EUSAGE, "no column 99");
    OK(kd_loader_open(&l, store, columns, 3, &lp, &fx_err));
    FAILS(kd_stream_open(&s, l, 1, 0, true, &fx_err), KD_EUSAGE, "batch of 0");
    FAILS(kd_stream_open(&s, l, 1, 101, true, &fx_err), KD_EUSAGE,
          "100 rows of split train do not fill one batch of 101");
    assert_null(s);
    OK(kd_stream_open(&s, l, 1, 50, true, &fx_err));
    FAILS(kd_stream_next(s, &b, &fx_err), KD_EUSAGE, "before an epoch");
    FAILS(kd_stream_skip(s, 1, &fx_err), KD_EUSAGE, "beginning of an epoch");
    FAILS(kd_loader_epoch(l, 1ull << 32, &fx_err), KD_EUSAGE, "the limit is");
    OK(kd_loader_epoch(l, 0, &fx_err));
    FAILS(kd_stream_skip(s, 3, &fx_err), KD_EUSAGE, "3 batches to skip, an epoch has 2");
    OK(kd_stream_next(s, &b, &fx_err));
    FAILS(kd_stream_skip(s, 1, &fx_err), KD_EUSAGE, "beginning of an epoch");
    FAILS(kd_stream_open(&s, l, 1, 50, true, &fx_err), KD_EUSAGE, "after the loader's first epoch");
    kd_loader_close(l);
}

/* Reads the whole split of a store; what is delivered must be right. */
static kd_status read_through(const char *path, int threads, bool ahead, uint64_t *rows)
{
    kd_loader_params lp = kd_loader_default_params();
    kd_store *s;
    kd_loader *l = NULL;
    kd_stream *stream;
    kd_batch b = {0};
    *rows = 0;
    kd_status st = kd_store_open(&s, path, &fx_err);
    if (st) return st;
    lp.threads = threads, lp.ahead = ahead, lp.window_rows = 3 * CHUNK;
    if (!(st = kd_loader_open(&l, s, columns, 3, &lp, &fx_err)) &&
        !(st = kd_stream_open(&stream, l, 1, 100, false, &fx_err)) && !(st = kd_loader_epoch(l, 0, &fx_err)))
        for (; !(st = kd_stream_next(stream, &b, &fx_err)) && b.rows; *rows += b.rows) check_batch(&b);
    if (st) assert_int_equal(b.rows, 0);
    kd_loader_close(l);
    kd_store_close(s);
    return st;
}

static void damage_is_named_or_harmless(void **state)
{
    (void)state;
    int named = 0, middle = 0;
    uint64_t whole;
    char *cp = kd_sprintf("cp -r %s %s && chmod u+w %s/base.mdb", fx_path("l.kd"), fx_path("bad.kd"),
                          fx_path("bad.kd"));
    assert_int_equal(system(cp), 0);
    free(cp);
    int fd = open(fx_path("bad.kd/base.mdb"), O_RDWR);
    off_t size = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < size; at += 211) {
        uint8_t was, is;
        assert_int_equal(pread(fd, &was, 1, at), 1);
        is = was ^ 0x10;
        assert_int_equal(pwrite(fd, &is, 1, at), 1);
        fx_err = (kd_err){0};
        uint64_t rows, again;
        kd_status st = read_through(fx_path("bad.kd"), 1 + (int)(at % 3), at % 2, &rows);
        kd_err first = fx_err;
        if (st) assert_int_equal(st, fx_err.code);
        if (st && rows) { // in the middle of an epoch: the same sentence at the same row, whoever decodes
            const char *name = strstr(first.msg, ": column ");
            assert_true(name && strstr(name, ", chunk ") && !strstr(name + 1, ": column "));
            for (int way = 0; way < 4; way++) {
                assert_int_equal(read_through(fx_path("bad.kd"), 1 + way / 2, way % 2, &again), st);
                assert_string_equal(fx_err.msg, first.msg);
                assert_int_equal(again, rows);
            }
            middle++;
        }
        named += st == KD_ECORRUPT && strstr(first.msg, "column image, chunk ");
        assert_int_equal(pwrite(fd, &was, 1, at), 1);
    }
    close(fd);
    assert_true(named > 10 && middle > 5);
    assert_int_equal(read_through(fx_path("bad.kd"), 2, true, &whole), KD_OK);
    assert_int_equal(whole, train_rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_follow_the_documented_order_for_any_window_and_limit),
        cmocka_unit_test(rows_that_are_dropped_never_come_and_the_others_keep_the_order),
        cmocka_unit_test(dropping_every_row_is_refused),
        cmocka_unit_test(a_list_of_rows_is_read_as_it_was_written),
        cmocka_unit_test(lists_that_do_not_fit_are_refused_by_line),
        cmocka_unit_test(neither_threads_nor_decoding_ahead_change_anything),
        cmocka_unit_test(every_row_comes_exactly_once_an_epoch),
        cmocka_unit_test(without_shuffle_rows_come_in_store_order),
        cmocka_unit_test(the_order_is_the_one_of_the_first_release),
        cmocka_unit_test(skipping_gives_what_an_uninterrupted_run_would),
        cmocka_unit_test(skipped_windows_are_not_decoded),
        cmocka_unit_test(an_epoch_may_be_left_half_way),
        cmocka_unit_test(each_block_is_decoded_once_an_epoch_for_all_streams),
        cmocka_unit_test(a_window_that_holds_everything_is_decoded_once_a_run),
        cmocka_unit_test(memory_held_is_counted),
        cmocka_unit_test(nobody_waits_for_a_stream_that_was_closed),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(damage_is_named_or_harmless),
    };
    return cmocka_run_group_tests(tests, make_store, drop_store);
}
