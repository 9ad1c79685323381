/* peak.c - the limits of this machine, measured in the same run as the figures compared with them.
 *
 * A data sheet's peak is not what a virtual machine gives, and it changes with clock and neighbours;
 * so "% of peak" is always against this file's loops. Arithmetic: each thread keeps 12 vector
 * accumulators in registers (latency 4 x 2 units = 8 needed) and issues one fused multiply-add on each,
 * again and again; nothing touches memory. Factors keep the numbers near 1: no denormals, no
 * infinities, whose speed may differ. bf16 counts vdpbf16ps, 32 multiply-adds each. Memory: arrays of
 * four times the last-level cache, each thread its own half, summed in 64-byte steps or copied by memcpy.
 *
 * Each figure is the best of several short runs: a disturbance can only make a run slower.
 */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "bench.h"

#define RUNS         7
#define RUN_SECONDS  0.08
#define ACCUMULATORS 12
#define FACTOR       0.9999999f
#define SUMMAND      1e-7f

static volatile double sink; /* takes what the loops compute, so that they are not removed */

/* One loop: `rounds` times ACCUMULATORS vector operations; returns a number that depends on all. */
typedef float (*peak_loop)(long rounds);

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float loop_avx512(long rounds)
{
    __m512 acc[ACCUMULATORS], a = _mm512_set1_ps(FACTOR), b = _mm512_set1_ps(SUMMAND);
    for (int i = 0; i < ACCUMULATORS; i++) acc[i] = _mm512_set1_ps(1.0f + (float)i);
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
    }
    for (int i = 1; i < ACCUMULATORS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    return _mm512_reduce_add_ps(acc[0]);
}

__attribute__((target("avx2,fma"))) static float loop_avx2(long rounds)
{
    __m256 acc[ACCUMULATORS], a = _mm256_set1_ps(FACTOR), b = _mm256_set1_ps(SUMMAND);
    for (int i = 0; i < ACCUMULATORS; i++) acc[i] = _mm256_set1_ps(1.0f + (float)i);
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
    }
    for (int i = 1; i < ACCUMULATORS; i++) acc[0] = _mm256_add_ps(acc[0], acc[i]);
    float lane[8];
    _mm256_storeu_ps(lane, acc[0]);
    return lane[0] + lane[1] + lane[2] + lane[3] + lane[4] + lane[5] + lane[6] + lane[7];
}

__attribute__((target("avx512f,avx512bf16"))) static float loop_bf16(long rounds)
{
    __m512 acc[ACCUMULATORS];
    __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(1e-3f));
    __m512bh b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(-1e-3f));
    for (int i = 0; i < ACCUMULATORS; i++) acc[i] = _mm512_set1_ps(1.0f + (float)i);
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) acc[i] = _mm512_dpbf16_ps(acc[i], a, b);
    }
    for (int i = 1; i < ACCUMULATORS; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    return _mm512_reduce_add_ps(acc[0]);
}
#endif

/* Whatever the compiler makes of plain C for the base instruction set: multiply and add on four lanes. */
typedef float v4 __attribute__((vector_size(16)));
static float loop_plain(long rounds)
{
    v4 acc[ACCUMULATORS], a = {FACTOR, FACTOR, FACTOR, FACTOR}, b = {SUMMAND, SUMMAND, SUMMAND, SUMMAND};
    for (int i = 0; i < ACCUMULATORS; i++) acc[i] = a + (float)i;
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < ACCUMULATORS; i++) acc[i] = acc[i] * a + b;
    }
    for (int i = 1; i < ACCUMULATORS; i++) acc[0] += acc[i];
    return acc[0][0] + acc[0][1] + acc[0][2] + acc[0][3];
}

/* Seconds that all threads need for `rounds` of the loop, from the common start to the last end. */
static double loop_seconds(peak_loop loop, long rounds, int threads)
{
    double start = 0, end = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp barrier
#pragma omp master
        start = kd_now();
        float v = loop(rounds);
#pragma omp barrier
#pragma omp master
        end = kd_now();
#pragma omp critical
        sink += (double)v;
    }
    return end - start;
}

/* GFLOP/s of the loop whose vector operation does `flops` floating-point operations. */
static double loop_gflops(peak_loop loop, double flops, int threads)
{
    long rounds = 1 << 14;
    while (loop_seconds(loop, rounds, threads) < RUN_SECONDS && rounds < (1L << 40)) rounds *= 2;
    double best = 1e300;
    for (int i = 0; i < RUNS; i++) {
        double t = loop_seconds(loop, rounds, threads);
        best = t < best ? t : best;
    }
    return flops * ACCUMULATORS * (double)rounds * threads / best / 1e9;
}

typedef uint64_t u64x8 __attribute__((vector_size(64)));

static uint64_t read_all(const u64x8 *x, size_t n) /* n vectors, a multiple of 4 */
{
    u64x8 s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    for (size_t i = 0; i < n; i += 4) {
        s0 += x[i];
        s1 += x[i + 1];
        s2 += x[i + 2];
        s3 += x[i + 3];
    }
    s0 += s1 + s2 + s3;
    return s0[0] ^ s0[1] ^ s0[2] ^ s0[3] ^ s0[4] ^ s0[5] ^ s0[6] ^ s0[7];
}

/* GB/s of each thread reading its piece of a, or copying it to b (NULL: read). */
static double memory_gbs(const char *a, char *b, size_t bytes, int threads)
{
    size_t piece = bytes / (size_t)threads & ~(size_t)4095;
    double best = 1e300;
    for (int i = 0; i < RUNS + 1; i++) { /* the first run touches the pages of b */
        double start = 0, end = 0;
#pragma omp parallel num_threads(threads)
        {
            size_t at = piece * (size_t)omp_get_thread_num();
            uint64_t v = 0;
#pragma omp barrier
#pragma omp master
            start = kd_now();
            if (b)
                memcpy(b + at, a + at, piece);
            else
                v = read_all((const u64x8 *)(const void *)(a + at), piece / sizeof(u64x8));
#pragma omp barrier
#pragma omp master
            end = kd_now();
#pragma omp critical
            sink += (double)v;
        }
        if (i > 0 && end - start < best) best = end - start;
    }
    return (double)(piece * (size_t)threads) / best / 1e9;
}

/* Bytes of the last-level cache: as the kernel shows it, since glibc's figure can be ten times too large on
 * virtual AMD machines; at least 16 MiB. */
static size_t cache_bytes(void)
{
    long kib = 0;
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    if (f) {
        if (fscanf(f, "%ldK", &kib) != 1) kib = 0;
        fclose(f);
    }
    return (size_t)(kib > 16 << 10 ? kib : 16 << 10) << 10;
}

static size_t array_bytes(void)
{
    long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES);
    size_t want = 4 * cache_bytes();
    size_t most =
        pages > 0 ? (size_t)pages * (size_t)page / 16 : want; /* two arrays: an eighth of the memory */
    return (want < most ? want : most) & ~(size_t)4095;
}

kd_status bench_peak_measure(bench_peak *p, int threads, kd_err *err)
{
    *p = (bench_peak){.isa = KD_ISA_SCALAR, .array_bytes = array_bytes()};
    char *a = kd_alloc_aligned(p->array_bytes, 1), *b = kd_alloc_aligned(p->array_bytes, 1);
    if (!a || !b) {
        free(a);
        free(b);
        return kd_fail(err, KD_ENOMEM, "peak: no memory for two arrays of %zu bytes", p->array_bytes);
    }
    memset(a, 1, p->array_bytes);
    peak_loop loop = loop_plain;
    double lanes = 4;
#if defined(__x86_64__)
    kd_isa isa = kd_cpu_isa();
    if (isa >= KD_ISA_AVX512)
        loop = loop_avx512, lanes = 16, p->isa = KD_ISA_AVX512;
    else if (isa >= KD_ISA_AVX2)
        loop = loop_avx2, lanes = 8, p->isa = KD_ISA_AVX2;
    if (isa >= KD_ISA_AVX512BF16) p->bf16_gflops = loop_gflops(loop_bf16, 64, threads);
#endif
    p->f32_gflops = loop_gflops(loop, 2 * lanes, threads);
    p->read_gbs = memory_gbs(a, NULL, p->array_bytes, threads);
    p->copy_gbs = memory_gbs(a, b, p->array_bytes, threads);
    free(a);
    free(b);
    return KD_OK;
}
