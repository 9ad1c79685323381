/* kd/search.h - finding texts: exact nearest vectors, BM25, and how good a ranking is.
 *
 * An index holds the vectors of n documents, as f32 or as int8 with a scale for each (a quarter of the
 * memory; kd's int8 step: largest / 127). Searching is exact: scores are inner products of all pairs, made
 * as matrix products a tile at a time, so there is no recall that would have to be proven.
 *
 *     if (kd_index_create(&index, vectors, n, dims, KD_F32, &err)) ...
 *     if (kd_index_search(index, queries, nq, 10, threads, hits, &err)) ...   // hits: (nq, 10)
 *     kd_ranking_judge(&r, hits, 10, nq, relevant, offset);
 *
 * Hits are in falling order of score, of equals the smaller document first; where there are fewer documents
 * than asked for the rest is KD_NO_HIT. Same bits for any number of threads.
 */
#ifndef KD_SEARCH_H
#define KD_SEARCH_H

#include "kd/config.h"
#include "kd/model.h"
#include "kd/text.h"

#define KD_NO_HIT UINT32_MAX
#define KD_HITS   1000 /* most of a query */
typedef struct kd_hit {
    uint32_t doc;
    float score;
} kd_hit;

/* ---- vectors ------------------------------------------------------------------------------ */

typedef struct kd_index kd_index;
/* rows: (n, dims), copied. dtype: KD_F32 or KD_I8. KD_ENUMERIC (a number is not finite: names the document),
 * KD_EUSAGE (no documents, another dtype), KD_ENOMEM. */
kd_status kd_index_create(kd_index **out, const float *rows, size_t n, size_t dims, kd_dtype dtype,
                          kd_err *err);
void kd_index_free(kd_index *x);
size_t kd_index_docs(const kd_index *x);
size_t kd_index_bytes(const kd_index *x); /* of its vectors */
/* queries: (nq, dims); hits: (nq, k), k up to KD_HITS. */
kd_status kd_index_search(const kd_index *x, const float *queries, size_t nq, size_t k, int threads,
                          kd_hit *hits, kd_err *err);
float kd_index_score(const kd_index *x, const float *query, uint32_t doc); /* one inner product */

/* ---- texts -------------------------------------------------------------------------------- */

/* A model folder with its tokenizer, ready to embed texts. */
typedef struct kd_embedder kd_embedder;
/* KD_EUNSUPPORTED: a model that reads no tokens, or gives no vector a text; and what kd_model_load and
 * kd_tokenizer_open refuse. */
kd_status kd_embedder_open(kd_embedder **out, const char *folder, int threads, kd_err *err);
void kd_embedder_close(kd_embedder *e); /* NULL-safe */
size_t kd_embedder_dims(const kd_embedder *e);
const kd_model *kd_embedder_model(const kd_embedder *e);
/* out: (n, dims), each vector scaled to length 1 where unit is set. Texts that are too long are cut. progress
 * (may be NULL) is told how many are done. */
kd_status kd_embed(kd_embedder *e, const kd_text *texts, size_t n, bool unit, float *out,
                   void (*progress)(void *arg, uint64_t done), void *arg, kd_err *err);

/* Lines of a file without their ends; an empty last one does not count. "-": standard input. */
typedef struct kd_lines {
    kd_text *v;
    size_t n;
    char *bytes; /* each line ends with NUL */
} kd_lines;
/* KD_ENOTFOUND, KD_EIO, KD_ELIMIT (over 4 GiB), KD_ENOMEM. */
kd_status kd_lines_read(kd_lines *out, const char *path, kd_err *err);
void kd_lines_release(kd_lines *l);

/* ---- words -------------------------------------------------------------------------------- */

/* Okapi BM25 (Robertson and Zaragoza 2009, section 3.4) with idf = log(1 + (n - df + 0.5) / (df + 0.5)).
 * Words are runs of letters and digits, ASCII in lower case; bytes from 128 on count as letters. */
typedef struct kd_bm25 kd_bm25;
kd_status kd_bm25_create(kd_bm25 **out, const char *const *texts, size_t n, double k1, double b, kd_err *err);
void kd_bm25_free(kd_bm25 *x);
/* hits: (k) of documents that share a word with the text. Serial. KD_ENOMEM. */
kd_status kd_bm25_search(const kd_bm25 *x, const char *text, size_t k, kd_hit *hits, kd_err *err);

/* ---- how good a ranking is ----------------------------------------------------------------- */

/* Means over queries. A query's relevant documents are relevant[offset[q]] up to offset[q + 1], rising; one
 * with none does not count. */
typedef struct kd_ranking {
    uint64_t queries;
    double mrr10;                        /* 1 / place of the first relevant one, 0 behind 10 */
    double recall1, recall10, recall100; /* share of the relevant ones among the first k */
    double found1, found10, found100;    /* whether any is among them */
    double *reciprocal;                  /* caller's (queries) or NULL: each query's part of mrr10 */
} kd_ranking;
/* hits: (nq, k). Measures of more than k places are those of k. */
void kd_ranking_judge(kd_ranking *r, const kd_hit *hits, size_t k, size_t nq, const uint32_t *relevant,
                      const uint64_t *offset);

/* Questions whose answers are known: a TSV file with the columns query and answers, the latter documents
 * separated by '|', and a file of documents, a line each. */
typedef struct kd_quiz {
    kd_lines docs, file;
    kd_text *query; /* (n) */
    size_t n;
    uint32_t *relevant;
    uint64_t *offset; /* (n + 1) */
} kd_quiz;
/* KD_ECORRUPT names file and line: no such document, a column is missing. */
kd_status kd_quiz_read(kd_quiz *q, const char *documents, const char *questions, kd_err *err);
void kd_quiz_release(kd_quiz *q);

/* How like a teacher's ranking another is, means over queries. */
typedef struct kd_agreement {
    double overlap10; /* share of the teacher's first ten that are in the other's */
    double tau;       /* Kendall's tau-b of both models' scores of the teacher's hits; NAN: nowhere defined */
} kd_agreement;
/* teacher, hits: (nq, k) of each; scores: (nq, k) what the other says of the teacher's hits. */
void kd_ranking_agree(kd_agreement *a, const kd_hit *teacher, const kd_hit *hits, const float *scores,
                      size_t k, size_t nq);
/* Of n pairs; NAN where one side is all equal. */
double kd_kendall(const float *a, const float *b, size_t n);

#endif
