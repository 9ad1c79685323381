/* many.c - rows x students a second of kd-train's trainer over a store, on demand.
 *
 * One trainer, N students of one file with seeds 0 to N-1, no validation and no checkpoints while it runs.
 * The measuring happens between rounds, in the callback that reports progress: there the program also waits
 * for its next turn (a line "go SECONDS"), so that a driver can let it measure by turns with another program.
 * The end of the input stops the trainer.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kd/train.h"
#include "bench.h"

#define WARM_SECONDS 2.0

typedef struct meter {
    const kd_trainer *t;
    json_t *ready; // printed and released when warm
    double start, seconds, cpu, stall;
    uint64_t rows;
    volatile int stop;
    bool bad_line;
} meter;

/* Waits for the next turn. */
static void wait_for_turn(meter *m, uint64_t rows)
{
    char line[256];
    if (!fgets(line, sizeof line, stdin)) {
        m->stop = 1;
        return;
    }
    m->bad_line = sscanf(line, "go %lf", &m->seconds) != 1 || !(m->seconds > 0 && m->seconds < 86400);
    m->stop = m->bad_line;
    m->rows = rows;
    m->cpu = kd_cpu_seconds();
    m->stall = kd_trainer_stall(m->t);
    m->start = kd_now();
}

static void on_round(void *arg, const kd_train_progress *p)
{
    meter *m = arg;
    double wall = kd_now() - m->start;
    if (wall < m->seconds || m->stop) return;
    if (m->ready)
        bench_print(m->ready);
    else
        bench_print(json_pack("{s:f, s:I, s:f, s:f, s:f, s:f, s:I}", "img_s",
                              (double)(p->rows - m->rows) / wall, "rows", (json_int_t)(p->rows - m->rows),
                              "seconds", wall, "cpu_s", kd_cpu_seconds() - m->cpu, "stall",
                              (kd_trainer_stall(m->t) - m->stall) / wall, "loss",
                              isfinite(p->loss) ? p->loss : -1.0, "peak_rss", (json_int_t)kd_peak_rss()));
    m->ready = NULL;
    wait_for_turn(m, p->rows);
}

static kd_status add_students(kd_trainer *t, const bench_many_params *p, kd_err *err)
{
    kd_student_spec spec;
    kd_strings endless = {.v = (char *[]){"train.epochs=1000000", "train.schedule=constant"}, .n = 2};
    kd_status st = kd_student_load(&spec, p->student, &endless, err);
    if (st) return st;
    for (int64_t i = 0; i < p->students && !st; i++) {
        bool skipped;
        char *folder = kd_sprintf("%s/%lld", p->folder, (long long)i);
        st = folder ? kd_trainer_add(t, &spec, (uint64_t)i, "distilled", folder, &skipped, err)
                    : kd_fail(err, KD_ENOMEM, "out of memory");
        free(folder);
    }
    kd_student_release(&spec);
    return st;
}

kd_status bench_many(const bench_many_params *p, kd_err *err)
{
    kd_store *s = NULL;
    kd_trainer *t = NULL;
    kd_trainer_params tp = kd_trainer_default_params();
    kd_err stopped = {0};
    tp.threads = p->threads;
    tp.window_rows = (uint64_t)p->window;
    tp.checkpoint_seconds = 86400;
    tp.force = true;
    kd_status st = kd_store_open(&s, p->store, err);
    if (st || (st = kd_trainer_create(&t, s, &tp, err)) || (st = add_students(t, p, err)) ||
        (st = kd_trainer_plan(t, err)))
        goto out;
    meter m = {.t = t, .seconds = WARM_SECONDS, .start = kd_now()};
    m.ready =
        json_pack("{s:b, s:I, s:I, s:I, s:I, s:s, s:s}", "ready", 1, "students", (json_int_t)p->students,
                  "window", (json_int_t)p->window, "planned_bytes", (json_int_t)kd_trainer_bytes(t),
                  "reader_bytes", (json_int_t)kd_trainer_reader_bytes(t), "backend", kd_nn_backend(), "build",
                  kd_build_info());
    st = kd_trainer_run(t, &m.stop, on_round, &m, &stopped);
    json_decref(m.ready);
    if (st != KD_ESTOPPED)
        st = kd_fail(err, st ? st : KD_EIO, "many: the trainer ended by itself: %s", stopped.msg);
    else
        st = m.bad_line ? kd_fail(err, KD_EUSAGE, "many: expected a line \"go SECONDS\"") : KD_OK;
out:
    kd_trainer_free(t);
    kd_store_close(s);
    kd_err cleaning = {0};
    kd_status gone = kd_remove_tree(p->folder, &cleaning);
    return st ? st : gone ? kd_fail(err, gone, "%s", cleaning.msg) : KD_OK;
}
