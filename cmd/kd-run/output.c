/* output.c - what kd-run prints: lines for people and pipes, objects for programs, and --bench. */
#include "run_cmd.h"

#include "kd/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Names come from strangers' files and folders: what a terminal would obey, or a table would split at,
 * becomes '?'. */
static void print_clean(const char *s)
{
    for (; *s; s++) putchar((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
}

static const char *class_name(const runner *r, size_t c)
{
    return json_string_value(json_array_get(r->model->labels, c));
}

/* The largest class below (z, c), in the order of kd-eval: ties go to the smaller index. */
static size_t next_class(const float *z, size_t n, size_t before, bool first)
{
    size_t best = n;
    for (size_t c = 0; c < n; c++) {
        if (!first && (z[c] > z[before] || (z[c] == z[before] && c <= before))) continue;
        if (best == n || z[c] > z[best]) best = c;
    }
    return best;
}

static double log_sum_exp(const float *z, size_t n, float top)
{
    double sum = 0;
    for (size_t c = 0; c < n; c++) sum += exp((double)z[c] - top);
    return top + log(sum);
}

/* Takes the reference. */
static kd_status print_line(json_t *o, kd_err *err)
{
    char *text = o ? kd_json_text(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!text) return kd_fail(err, KD_ENOMEM, "no memory for a line of JSON");
    puts(text);
    free(text);
    return KD_OK;
}

/* A path need not be UTF-8, JSON must be. */
static json_t *text_json(const char *s)
{
    json_t *o = json_string(s);
    return o ? o : json_string("(a name that is not UTF-8)");
}

static kd_status print_json(const runner *r, const run_row *row, const float *z, size_t top, double lse,
                            kd_err *err)
{
    json_t *list = json_array(), *o = json_object();
    size_t c = 0;
    json_object_set_new(o, "file", text_json(row->name));
    if (row->row >= 0) json_object_set_new(o, "row", json_integer(row->row));
    if (row->height)
        json_object_set_new(o, "resampled_from",
                            json_pack("[I, I]", (json_int_t)row->height, (json_int_t)row->width));
    if (row->transparent) json_object_set_new(o, "transparent", json_true());
    for (size_t k = 0; k < top; k++) {
        c = next_class(z, r->classes, c, k == 0);
        json_t *e = json_pack("{s:I}", "class", (json_int_t)c);
        if (class_name(r, c)) json_object_set_new(e, "name", json_string(class_name(r, c)));
        json_object_set_new(e, "p", json_real(exp(z[c] - lse)));
        json_array_append_new(list, e);
    }
    json_object_set_new(o, "top", list);
    return print_line(o, err);
}

kd_status run_print(const runner *r, const run_row *row, const float *z, kd_err *err)
{
    const size_t top = kd_min_size((size_t)r->o->top, r->classes);
    const double lse = log_sum_exp(z, r->classes, z[next_class(z, r->classes, 0, true)]);
    size_t c = 0;
    if (r->cli->common.json) return print_json(r, row, z, top, lse, err);
    print_clean(row->name);
    if (row->row >= 0) printf("#%lld", (long long)row->row);
    for (size_t k = 0; k < top; k++) {
        c = next_class(z, r->classes, c, k == 0);
        putchar('\t');
        if (class_name(r, c))
            print_clean(class_name(r, c));
        else
            printf("%zu", c);
        printf("\t%.4f", exp(z[c] - lse));
    }
    putchar('\n');
    return KD_OK;
}

kd_status run_print_refused(const runner *r, const char *name, const char *why, kd_err *err)
{
    fflush(stdout);
    kd_cli_warn(r->cli, "%s", why);
    return r->cli->common.json
               ? print_line(json_pack("{s:o, s:o}", "file", text_json(name), "error", text_json(why)), err)
               : KD_OK;
}

/* ---- speed --------------------------------------------------------------------------------------- */

/* Rows a second, in batches of --batch with --threads, over at least half a second. */
static kd_status throughput(const runner *r, double *rows_s, kd_err *err)
{
    const double least = 0.5;
    kd_status st = KD_OK;
    double start = 0;
    int64_t done = 0;
    for (int64_t i = -2; !st && (i < 2 || kd_now() - start < least); i++, done += r->o->batch) {
        if (i <= 0) start = kd_now(), done = 0; // two batches to warm up
        st = kd_teacher_run(r->teacher, r->in, KD_F32, r->o->batch, r->logits, err);
    }
    *rows_s = (double)done / (kd_now() - start);
    return st;
}

kd_status run_bench(const runner *r, const char *folder, kd_err *err)
{
    kd_model *m = NULL;
    kd_cost cost = {0};
    double rows_s;
    const int64_t threads = r->cli->common.threads;
    kd_status st = kd_model_load(&m, folder, err);
    if (!st) st = kd_cost_latency(&cost, m, err);
    if (!st) st = throughput(r, &rows_s, err);
    kd_model_free(m);
    if (st) return st;
    if (r->cli->common.json)
        return print_line(json_pack("{s:s, s:f, s:f, s:f, s:I, s:I}", "name", r->model->name, "latency_us",
                                    cost.latency_us, "latency_p99_us", cost.latency_p99_us,
                                    "throughput_rows_s", rows_s, "throughput_batch", (json_int_t)r->o->batch,
                                    "throughput_threads", (json_int_t)threads),
                          err);
    printf("one row, 1 thread\t%.1f us\t(99th percentile %.1f us)\n", cost.latency_us, cost.latency_p99_us);
    printf("batches of %lld, %lld thread%s\t%.0f rows/s\n", (long long)r->o->batch, (long long)threads,
           threads == 1 ? "" : "s", rows_s);
    return KD_OK;
}
