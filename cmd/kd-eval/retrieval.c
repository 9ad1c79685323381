/* retrieval.c - students of texts, judged by what they find: --documents and --questions in place of a store.
 *
 * Every run embeds all documents and questions; the teacher does so once, and what each student finds is
 * compared with the answers and with what the teacher finds. BM25 is the line that needs no model.
 */
#include "eval_cmd.h"

#include "kd/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES = 100 };

/* One line of the table. */
typedef struct judged {
    const char *name, *role, *folder;
    uint64_t seed;
    size_t params;
    uint64_t bytes;
    kd_ranking r;
    kd_agreement a; /* with the teacher; NAN without one */
} judged;

typedef struct retrieval {
    const kd_cli *c;
    const eval_opts *o;
    kd_quiz quiz;
    kd_hit *teacher; /* (questions, PLACES) or NULL */
    json_t *models;
    kd_table *table;
} retrieval;

static double percent(double share) { return 100 * share; }

static void put_share(kd_table *t, double share)
{
    if (isnan(share))
        kd_table_cell(t, "-");
    else
        kd_table_cell(t, "%.2f", percent(share));
}

static void put_heading(kd_table *t)
{
    static const char *const head[] = {"model",        "role",       "seed",        "params",
                                       "MRR@10 %",     "recall@1 %", "recall@10 %", "recall@100 %",
                                       "overlap@10 %", "tau"};
    for (size_t i = 0; i < KD_COUNT(head); i++) kd_table_cell(t, "%s", head[i]);
    kd_table_row(t);
}

static json_t *real_or_null(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static kd_status put(retrieval *x, const judged *j, kd_err *err)
{
    json_t *m =
        json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "name",
                  j->name, "role", j->role, "seed", (json_int_t)j->seed, "folder", j->folder, "params",
                  (json_int_t)j->params, "file_bytes", (json_int_t)j->bytes, "mrr10", j->r.mrr10, "recall1",
                  j->r.recall1, "recall10", j->r.recall10, "recall100", j->r.recall100, "found1", j->r.found1,
                  "found10", j->r.found10, "found100", j->r.found100, "overlap10",
                  real_or_null(j->a.overlap10), "tau", real_or_null(j->a.tau));
    if (!m || json_array_append_new(x->models, m)) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_table_cell(x->table, "%s", j->name);
    kd_table_cell(x->table, "%s", j->role);
    kd_table_cell(x->table, "%llu", (unsigned long long)j->seed);
    kd_table_cell(x->table, "%zu", j->params);
    put_share(x->table, j->r.mrr10);
    put_share(x->table, j->r.recall1);
    put_share(x->table, j->r.recall10);
    put_share(x->table, j->r.recall100);
    put_share(x->table, j->a.overlap10);
    if (isnan(j->a.tau))
        kd_table_cell(x->table, "-");
    else
        kd_table_cell(x->table, "%.3f", j->a.tau);
    kd_table_row(x->table);
    return KD_OK;
}

/* ---- one model ---------------------------------------------------------------------------- */

static void show(void *arg, uint64_t done) { kd_progress_set(arg, done, NULL); }

static kd_status agree(const retrieval *x, const kd_index *index, const float *queries, size_t dims,
                       const kd_hit *hits, judged *j, kd_err *err)
{
    const size_t n = x->quiz.n * PLACES;
    float *scores = malloc(n * sizeof(*scores));
    if (!scores) return kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        scores[i] = x->teacher[i].doc == KD_NO_HIT
                        ? 0
                        : kd_index_score(index, queries + i / PLACES * dims, x->teacher[i].doc);
    kd_ranking_agree(&j->a, x->teacher, hits, scores, PLACES, x->quiz.n);
    free(scores);
    return KD_OK;
}

/* Embeds all texts: docs (docs, dims), queries (questions, dims). */
static kd_status embed(const retrieval *x, kd_embedder *e, const char *name, float *docs, float *queries,
                       kd_err *err)
{
    kd_progress pr;
    kd_progress_begin(&pr, x->c, name, "texts", x->quiz.docs.n);
    kd_status st = kd_embed(e, x->quiz.docs.v, x->quiz.docs.n, true, docs, show, &pr, err);
    kd_progress_end(&pr);
    return st ? st : kd_embed(e, x->quiz.query, x->quiz.n, true, queries, NULL, NULL, err);
}

static kd_status judge_model(retrieval *x, judged *j, bool is_teacher, kd_err *err)
{
    const int threads = (int)x->c->common.threads;
    kd_embedder *e;
    kd_index *index = NULL;
    kd_status st = kd_embedder_open(&e, j->folder, threads, err);
    if (st) return st;
    const size_t dims = kd_embedder_dims(e);
    float *docs = malloc((x->quiz.docs.n + 1) * dims * sizeof(*docs)),
          *queries = malloc(x->quiz.n * dims * sizeof(*queries));
    kd_hit *hits = malloc(x->quiz.n * PLACES * sizeof(*hits));
    j->params = kd_model_param_count(kd_embedder_model(e));
    j->bytes = kd_model_file_bytes(j->folder);
    j->a = (kd_agreement){NAN, NAN};
    if (!docs || !queries || !hits) st = kd_fail(err, KD_ENOMEM, "no memory for %zu vectors", x->quiz.docs.n);
    if (!st) st = embed(x, e, j->name, docs, queries, err);
    if (!st) st = kd_index_create(&index, docs, x->quiz.docs.n, dims, x->o->int8 ? KD_I8 : KD_F32, err);
    if (!st) st = kd_index_search(index, queries, x->quiz.n, PLACES, threads, hits, err);
    if (!st) kd_ranking_judge(&j->r, hits, PLACES, x->quiz.n, x->quiz.relevant, x->quiz.offset);
    if (!st && x->teacher) st = agree(x, index, queries, dims, hits, j, err);
    if (!st) st = put(x, j, err);
    if (!st && is_teacher) {
        x->teacher = hits;
        hits = NULL;
    }
    kd_index_free(index);
    kd_embedder_close(e);
    free(docs);
    free(queries);
    free(hits);
    return st;
}

static kd_status judge_bm25(retrieval *x, kd_err *err)
{
    const char **texts = malloc((x->quiz.docs.n + 1) * sizeof(*texts));
    kd_hit *hits = malloc(x->quiz.n * PLACES * sizeof(*hits));
    kd_bm25 *b = NULL;
    judged j = {.name = "BM25 (k1 1.2, b 0.75)", .role = "baseline", .folder = "", .a = {NAN, NAN}};
    kd_status st = texts && hits ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (size_t i = 0; i < x->quiz.docs.n && !st; i++) texts[i] = x->quiz.docs.v[i].bytes;
    if (!st) st = kd_bm25_create(&b, texts, x->quiz.docs.n, 1.2, 0.75, err);
    for (size_t i = 0; i < x->quiz.n && !st; i++) {
        char *text = kd_sprintf("%.*s", (int)x->quiz.query[i].len, x->quiz.query[i].bytes);
        st = text ? kd_bm25_search(b, text, PLACES, hits + i * PLACES, err)
                  : kd_fail(err, KD_ENOMEM, "out of memory");
        free(text);
    }
    if (!st) {
        kd_ranking_judge(&j.r, hits, PLACES, x->quiz.n, x->quiz.relevant, x->quiz.offset);
        st = put(x, &j, err);
    }
    kd_bm25_free(b);
    free(texts);
    free(hits);
    return st;
}

/* ---- all of them -------------------------------------------------------------------------- */

static kd_status judge_all(retrieval *x, const kd_runs *runs, kd_err *err)
{
    kd_status st = judge_bm25(x, err);
    if (!st && x->o->teacher) {
        judged j = {.name = kd_path_base(x->o->teacher), .role = "teacher", .folder = x->o->teacher};
        st = judge_model(x, &j, true, err);
    }
    for (size_t i = 0; i < runs->n && !st; i++) {
        const kd_run *r = &runs->v[i];
        judged j = {.name = r->name, .role = r->role, .folder = r->folder, .seed = r->seed};
        st = kd_stop_requested ? kd_fail(err, KD_ESTOPPED, "stopped on request")
                               : judge_model(x, &j, false, err);
    }
    return st;
}

/* The runs below a folder; one of a model that nobody trained here is what students are compared with. */
static kd_status find(kd_runs *runs, const char *folder, bool selected, kd_err *err)
{
    char *config = kd_path_join(folder, "config.json"), *provenance = kd_path_join(folder, "provenance.json");
    kd_status st = config && provenance ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && kd_exists(config) && !kd_exists(provenance))
        st = kd_fail(err, KD_EUSAGE, "%s: a model folder, but no run of kd-train; give it as --teacher %s",
                     folder, folder);
    free(config);
    free(provenance);
    return st ? st : kd_runs_find(runs, folder, selected, err);
}

kd_status eval_retrieval(kd_cli *c, const eval_opts *o, kd_err *err)
{
    retrieval x = {.c = c, .o = o, .models = json_array(), .table = kd_table_create()};
    kd_runs runs = {0};
    kd_status st = x.models && x.table ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (int i = 0; i < c->nargs && !st; i++) st = find(&runs, c->args[i], o->selection, err);
    if (!st) st = kd_quiz_read(&x.quiz, o->documents, o->questions, err);
    if (!st) put_heading(x.table);
    if (!st) st = judge_all(&x, &runs, err);
    json_t *results = json_pack("{s:i, s:s, s:s, s:I, s:I, s:O}", "schema", 1, "kind", "retrieval",
                                "pipeline", o->pipeline, "documents", (json_int_t)x.quiz.docs.n, "questions",
                                (json_int_t)x.quiz.n, "models", x.models);
    if (!st && !results) st = kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && o->results && !(st = kd_json_save(o->results, results, err))) kd_cli_note(c, "%s", o->results);
    if (!st && c->common.json)
        st = kd_cli_print_json(json_incref(results), err);
    else if (!st)
        kd_table_print(x.table, stdout, o->markdown);
    json_decref(results);
    json_decref(x.models);
    kd_table_free(x.table);
    kd_runs_release(&runs);
    kd_quiz_release(&x.quiz);
    free(x.teacher);
    return st;
}
