/* test_search.c - exact search, BM25 and measures of rankings, against what sentence-transformers, scipy and
 * the formulas written out in Python come to (tests/golden/search.json). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kd/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *golden(void)
{
    json_t *root;
    kd_err err = {0};
    if (kd_json_load("tests/golden/search.json", 1 << 20, &root, &err)) fail_msg("%s", err.msg);
    return root;
}

static float *floats(const json_t *root, const char *key, size_t *n)
{
    const json_t *list = json_object_get(root, key);
    *n = json_array_size(list);
    float *v = malloc((*n + 1) * sizeof *v);
    for (size_t i = 0; i < *n; i++) v[i] = (float)json_number_value(json_array_get(list, i));
    return v;
}

static double number(const json_t *root, const char *key, int i)
{
    const json_t *v = json_object_get(root, key);
    return json_number_value(i < 0 ? v : json_array_get(v, (size_t)i));
}

/* ---- golden ------------------------------------------------------------------------------- */

typedef struct found {
    json_t *root;
    kd_index *index;
    float *queries, *student;
    size_t nq, k;
    kd_hit *hits;
} found;

static found search(kd_dtype dtype)
{
    found f = {.root = golden()};
    size_t n, dims = (size_t)number(f.root, "dims", -1);
    kd_err err = {0};
    float *docs = floats(f.root, "docs", &n);
    f.k = (size_t)number(f.root, "k", -1);
    f.queries = floats(f.root, "queries", &f.nq);
    f.student = floats(f.root, "student", &f.nq);
    f.nq /= dims;
    f.hits = malloc(f.nq * f.k * sizeof *f.hits);
    if (kd_index_create(&f.index, docs, n / dims, dims, dtype, &err) ||
        kd_index_search(f.index, f.queries, f.nq, f.k, 2, f.hits, &err))
        fail_msg("%s", err.msg);
    free(docs);
    return f;
}

static void release(found *f)
{
    kd_index_free(f->index);
    free(f->queries);
    free(f->student);
    free(f->hits);
    json_decref(f->root);
}

static void hits_and_their_order_are_those_of_a_stable_sort(void **state)
{
    (void)state;
    found f = search(KD_F32);
    for (size_t q = 0; q < f.nq; q++)
        for (size_t i = 0; i < f.k; i++) {
            const json_t *row = json_array_get(json_object_get(f.root, "order"), q);
            assert_int_equal(f.hits[q * f.k + i].doc, json_integer_value(json_array_get(row, i)));
            assert_true(kd_index_score(f.index, f.queries + q * 8, f.hits[q * f.k + i].doc) ==
                        f.hits[q * f.k + i].score);
        }
    release(&f);
}

static void mrr_recall_and_agreement_are_what_others_compute(void **state)
{
    (void)state;
    found f = search(KD_F32);
    const json_t *lists = json_object_get(f.root, "relevant");
    uint32_t relevant[64];
    uint64_t offset[32] = {0};
    for (size_t q = 0, n = 0; q < f.nq; q++) {
        const json_t *list = json_array_get(lists, q);
        for (size_t i = 0; i < json_array_size(list); i++)
            relevant[n++] = (uint32_t)json_integer_value(json_array_get(list, i));
        offset[q + 1] = n;
    }
    double each[32], sum = 0;
    kd_ranking r = {.reciprocal = each};
    kd_ranking_judge(&r, f.hits, f.k, f.nq, relevant, offset);
    const double got[] = {r.recall1, r.recall10, r.recall100}, any[] = {r.found1, r.found10, r.found100};
    assert_int_equal(r.queries, f.nq);
    assert_true(fabs(r.mrr10 - number(f.root, "mrr10", -1)) < 1e-12 && r.mrr10 > 0.1 && r.mrr10 < 0.9);
    for (int p = 0; p < 3; p++) {
        assert_true(fabs(got[p] - number(f.root, "recall", p)) < 1e-12);
        assert_true(fabs(any[p] - number(f.root, "found", p)) < 1e-12);
    }
    for (size_t q = 0; q < f.nq; q++) sum += each[q];
    assert_true(fabs(sum / (double)f.nq - r.mrr10) < 1e-12);

    kd_err err = {0};
    kd_hit *theirs = malloc(f.nq * f.k * sizeof *theirs);
    float *scores = malloc(f.nq * f.k * sizeof *scores);
    assert_int_equal(kd_index_search(f.index, f.student, f.nq, f.k, 1, theirs, &err), KD_OK);
    for (size_t i = 0; i < f.nq * f.k; i++)
        scores[i] = kd_index_score(f.index, f.student + i / f.k * 8, f.hits[i].doc);
    kd_agreement a;
    kd_ranking_agree(&a, f.hits, theirs, scores, f.k, f.nq);
    assert_true(fabs(a.overlap10 - number(f.root, "overlap10", -1)) < 1e-12);
    assert_true(fabs(a.tau - number(f.root, "tau", -1)) < 1e-12);
    for (size_t i = 0; i < f.nq * f.k; i++) scores[i] = f.hits[i].score;
    kd_ranking_agree(&a, f.hits, f.hits, scores, f.k, f.nq);
    assert_true(a.overlap10 == 1 && fabs(a.tau - 1) < 1e-12);
    free(theirs);
    free(scores);
    release(&f);
}

static void bm25_is_its_formula(void **state)
{
    (void)state;
    json_t *root = golden(), *g = json_object_get(root, "bm25");
    const json_t *texts = json_object_get(g, "texts"), *asked = json_object_get(g, "queries");
    const char *text[16];
    const size_t n = json_array_size(texts);
    kd_err err = {0};
    kd_bm25 *x;
    for (size_t i = 0; i < n; i++) text[i] = json_string_value(json_array_get(texts, i));
    assert_int_equal(kd_bm25_create(&x, text, n, number(g, "k1", -1), number(g, "b", -1), &err), KD_OK);
    for (size_t q = 0; q < json_array_size(asked); q++) {
        const json_t *want = json_array_get(json_object_get(g, "scores"), q);
        kd_hit hits[16];
        size_t positive = 0, got = 0;
        assert_int_equal(kd_bm25_search(x, json_string_value(json_array_get(asked, q)), 16, hits, &err),
                         KD_OK);
        for (size_t d = 0; d < n; d++) positive += json_number_value(json_array_get(want, d)) > 0;
        for (; got < 16 && hits[got].doc != KD_NO_HIT; got++) {
            const double w = json_number_value(json_array_get(want, hits[got].doc));
            assert_true(fabs(hits[got].score - w) <= 1e-6 * w);
            assert_true(!got || hits[got - 1].score > hits[got].score ||
                        (hits[got - 1].score == hits[got].score && hits[got - 1].doc < hits[got].doc));
        }
        assert_int_equal(got, positive);
    }
    kd_bm25_free(x);
    json_decref(root);
}

/* ---- sizes, threads, int8 ----------------------------------------------------------------- */

static float *random_rows(size_t n, size_t dims, uint32_t seed)
{
    kd_rng r;
    float *v = malloc(n * dims * sizeof *v);
    kd_rng_init(&r, seed, KD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n * dims; i++) v[i] = kd_rng_normal(&r);
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (size_t k = 0; k < dims; k++) sum += v[i * dims + k] * v[i * dims + k];
        for (size_t k = 0; k < dims; k++) v[i * dims + k] /= sqrtf(sum);
    }
    return v;
}

static void hits_do_not_depend_on_the_number_of_threads(void **state)
{
    (void)state;
    enum { N = 5000, Q = 300, D = 48, K = 20 };
    float *docs = random_rows(N, D, 1), *queries = random_rows(Q, D, 2);
    kd_hit *one = malloc(Q * K * sizeof *one), *many = malloc(Q * K * sizeof *many);
    for (int type = 0; type < 2; type++) {
        kd_index *x;
        kd_err err = {0};
        assert_int_equal(kd_index_create(&x, docs, N, D, type ? KD_I8 : KD_F32, &err), KD_OK);
        assert_int_equal(kd_index_search(x, queries, Q, K, 1, one, &err), KD_OK);
        for (int threads = 2; threads <= 8; threads = threads == 3 ? 8 : threads + 1) {
            assert_int_equal(kd_index_search(x, queries, Q, K, threads, many, &err), KD_OK);
            assert_memory_equal(one, many, Q * K * sizeof *one);
        }
        kd_index_free(x);
    }
    free(docs);
    free(queries);
    free(one);
    free(many);
}

static void int8_takes_a_quarter_and_finds_nearly_the_same(void **state)
{
    (void)state;
    enum { N = 3000, Q = 50, D = 64, K = 10 };
    float *docs = random_rows(N, D, 3), *queries = random_rows(Q, D, 4);
    kd_index *x, *y;
    kd_err err = {0};
    kd_hit a[Q * K], b[Q * K];
    assert_int_equal(kd_index_create(&x, docs, N, D, KD_F32, &err), KD_OK);
    assert_int_equal(kd_index_create(&y, docs, N, D, KD_I8, &err), KD_OK);
    assert_true(kd_index_bytes(x) == N * D * 4 && kd_index_bytes(y) == N * (D + 4));
    assert_int_equal(kd_index_search(x, queries, Q, K, 2, a, &err), KD_OK);
    assert_int_equal(kd_index_search(y, queries, Q, K, 2, b, &err), KD_OK);
    float scores[Q * K];
    for (int i = 0; i < Q * K; i++) scores[i] = kd_index_score(y, queries + i / K * D, a[i].doc);
    kd_agreement g;
    kd_ranking_agree(&g, a, b, scores, K, Q);
    assert_true(g.overlap10 > 0.93 && g.overlap10 < 1);
    for (int i = 0; i < Q * K; i++) assert_true(fabsf(scores[i] - a[i].score) < 0.02f);
    kd_index_free(x);
    kd_index_free(y);
    free(docs);
    free(queries);
}

static void fewer_documents_than_hits_and_equal_ones_are_in_order(void **state)
{
    (void)state;
    const float docs[] = {1, 0, 0, 1, 1, 0}, query[] = {2, 1};
    kd_hit hits[5];
    kd_index *x;
    kd_err err = {0};
    assert_int_equal(kd_index_create(&x, docs, 3, 2, KD_F32, &err), KD_OK);
    assert_int_equal(kd_index_search(x, query, 1, 5, 2, hits, &err), KD_OK);
    assert_true(hits[0].doc == 0 && hits[1].doc == 2 && hits[2].doc == 1);
    assert_true(hits[0].score == 2 && hits[2].score == 1);
    assert_true(hits[3].doc == KD_NO_HIT && hits[4].doc == KD_NO_HIT);
    const uint32_t relevant[] = {1};
    const uint64_t offset[] = {0, 1};
    kd_ranking r = {0};
    kd_ranking_judge(&r, hits, 5, 1, relevant, offset);
    assert_true(fabs(r.mrr10 - 1 / 3.0) < 1e-12 && r.recall1 == 0 && r.recall10 == 1 && r.found100 == 1);
    kd_index_free(x);
}

static void what_cannot_be_searched_is_refused(void **state)
{
    (void)state;
    const float good[] = {1, 2}, bad[] = {1, NAN};
    kd_index *x;
    kd_err err = {0};
    assert_int_equal(kd_index_create(&x, bad, 1, 2, KD_F32, &err), KD_ENUMERIC);
    assert_non_null(strstr(err.msg, "document 0"));
    assert_int_equal(kd_index_create(&x, good, 0, 2, KD_F32, &err), KD_EUSAGE);
    assert_int_equal(kd_index_create(&x, good, 1, 2, KD_F16, &err), KD_EUSAGE);
    assert_int_equal(kd_index_create(&x, good, 1, 2, KD_F32, &err), KD_OK);
    kd_hit hit;
    assert_int_equal(kd_index_search(x, good, 1, KD_HITS + 1, 1, &hit, &err), KD_EUSAGE);
    kd_index_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hits_and_their_order_are_those_of_a_stable_sort),
        cmocka_unit_test(mrr_recall_and_agreement_are_what_others_compute),
        cmocka_unit_test(bm25_is_its_formula),
        cmocka_unit_test(hits_do_not_depend_on_the_number_of_threads),
        cmocka_unit_test(int8_takes_a_quarter_and_finds_nearly_the_same),
        cmocka_unit_test(fewer_documents_than_hits_and_equal_ones_are_in_order),
        cmocka_unit_test(what_cannot_be_searched_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
