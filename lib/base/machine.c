/* machine.c - what this machine is, and how long things took.
 *
 * The instruction set level is asked of the CPU and of the operating system (registers that the
 * kernel does not save cannot be used), once, then capped by the environment variable KD_ISA so that
 * one machine can test every level. A level is a promise of several features at once: avx2 means
 * AVX2 + FMA + F16C, avx512 adds F, BW, DQ and VL, avx512bf16 adds the bf16 dot product, amx adds
 * tiles with bf16.
 */
#include "kd/base.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

static const char *const isa_names[] = {"scalar", "avx2", "avx512", "avx512bf16", "amx"};

const char *kd_isa_name(kd_isa isa)
{
    return (size_t)isa < sizeof isa_names / sizeof *isa_names ? isa_names[isa] : "unknown";
}

bool kd_isa_parse(const char *name, kd_isa *out)
{
    for (size_t i = 0; name && i < sizeof isa_names / sizeof *isa_names; i++)
        if (!strcmp(name, isa_names[i])) {
            *out = (kd_isa)i;
            return true;
        }
    return false;
}

#if defined(__x86_64__)
static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

/* Linux gives tile registers only to those who ask: ARCH_REQ_XCOMP_PERM for XTILEDATA. */
static bool tiles_granted(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static kd_isa detect_isa(void)
{
    uint32_t a, b, c, d, a7, b7, c7, d7, a71 = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27)) // OSXSAVE
        return KD_ISA_SCALAR;
    uint64_t xcr0 = read_xcr0();
    bool fma = c & 1u << 12, avx = c & 1u << 28, f16c = c & 1u << 29;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7) || (xcr0 & 0x6) != 0x6) return KD_ISA_SCALAR;
    if (!(fma && avx && f16c && (b7 & 1u << 5))) return KD_ISA_SCALAR;
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((b7 & f_dq_bw_vl) != f_dq_bw_vl || (xcr0 & 0xE6) != 0xE6) return KD_ISA_AVX2;
    if (a7 >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    if (!(a71 & 1u << 5)) // AVX512_BF16
        return KD_ISA_AVX512;
    const uint32_t bf16_tile = 1u << 22 | 1u << 24;
    if ((d7 & bf16_tile) != bf16_tile || (xcr0 & 0x60000) != 0x60000 || !tiles_granted())
        return KD_ISA_AVX512BF16;
    return KD_ISA_AMX;
}
#else
static kd_isa detect_isa(void) { return KD_ISA_SCALAR; }
#endif

static kd_isa the_isa;
static char the_cpu[128];
static pthread_once_t isa_once = PTHREAD_ONCE_INIT, cpu_once = PTHREAD_ONCE_INIT;

static void init_isa(void)
{
    kd_isa cap;
    the_isa = detect_isa();
    if (kd_isa_parse(getenv("KD_ISA"), &cap) && cap < the_isa) the_isa = cap;
}

kd_isa kd_cpu_isa(void)
{
    pthread_once(&isa_once, init_isa);
    return the_isa;
}

static void init_cpu(void)
{
    snprintf(the_cpu, sizeof the_cpu, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        char *name = colon + 1 + strspn(colon + 1, " \t");
        name[strcspn(name, "\n")] = '\0';
        if (*name) snprintf(the_cpu, sizeof the_cpu, "%.127s", name);
        break;
    }
    fclose(f);
}

const char *kd_cpu_name(void)
{
    pthread_once(&cpu_once, init_cpu);
    return the_cpu;
}

int kd_cpu_count(void)
{
    int n = 0;
    for (int cpus = 1024; n == 0 && cpus <= 1 << 20; cpus *= 4) { // too small a set is EINVAL
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (!set) break;
        size_t size = CPU_ALLOC_SIZE((size_t)cpus);
        CPU_ZERO_S(size, set);
        if (sched_getaffinity(0, size, set) == 0) n = CPU_COUNT_S(size, set);
        CPU_FREE(set);
    }
    return n > 0 ? n : 1;
}

void kd_cpu_flush_denormals(void)
{
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040u); /* flush results to zero, read denormals as zero */
#endif
}

double kd_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds_of(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec * 1e-6; }

double kd_cpu_seconds(void)
{
    struct rusage self, children;
    if (getrusage(RUSAGE_SELF, &self) || getrusage(RUSAGE_CHILDREN, &children)) return 0;
    return seconds_of(self.ru_utime) + seconds_of(self.ru_stime) + seconds_of(children.ru_utime) +
           seconds_of(children.ru_stime);
}

/* VmHWM, because ru_maxrss survives exec on Linux: a small tool started by a large program would
 * report the large one's peak. */
size_t kd_peak_rss(void)
{
    struct rusage r;
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    if (f) {
        char line[256];
        while (fgets(line, sizeof line, f))
            if (!strncmp(line, "VmHWM:", 6)) {
                kib = strtoull(line + 6, NULL, 10);
                break;
            }
        fclose(f);
    }
    if (kib == 0 && getrusage(RUSAGE_SELF, &r) == 0) kib = (unsigned long long)r.ru_maxrss;
    return (size_t)kib * 1024;
}

#ifndef KD_MODE
#define KD_MODE "unknown mode"
#endif
#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)
#if defined(__clang__)
#define COMPILER "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) "." TEXT(__clang_patchlevel__)
#else
#define COMPILER "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) "." TEXT(__GNUC_PATCHLEVEL__)
#endif
#ifdef _OPENMP
#define OPENMP "OpenMP " TEXT(_OPENMP)
#else
#define OPENMP "no OpenMP"
#endif

const char *kd_build_info(void) { return COMPILER ", " KD_MODE ", " OPENMP; }
