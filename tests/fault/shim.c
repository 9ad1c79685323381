/* shim.c - makes one call fail: loaded by LD_PRELOAD into a tool that is under test.
 *
 *   KD_FAULT=KIND:N:HOW    the N-th call of that kind from the start of main on fails; N = 0: none
 *   KD_FAULT_LOG=FILE      three u64, live: calls of the kind, calls that failed, calls left alone
 *
 * KIND   read write sync rename open cut lock map meta close alloc thread
 * HOW    an error (EIO, ENOSPC, ENOMEM, ...), "short" (half of the bytes, for read and write), "kill"
 * (SIGKILL before the call), "killed" (SIGKILL behind it); with a "+" behind it all later calls fail, too
 *
 * What runs before main (constructors of libraries) is not the tool's; standard input, output and error are
 * not its files. Memory is taken from glibc's own entry points, so that nothing here allocates.
 *
 * Left alone and counted apart: allocations of libraries named in KD_FAULT_SKIP ("libdnnl.so,libstdc++.so"),
 * by the address that calls. tests/fault/faults.py says which and why.
 *
 * KD_FAULT_MALLOC=next   memory comes from the next malloc in line, valgrind's, which looks for leaks
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { NONE, READ, WRITE, SYNC, RENAME, OPEN, CUT, LOCK, MAP, META, CLOSE, ALLOC, THREAD };
static const char *const kinds[] = {"",     "read", "write", "sync",  "rename", "open",  "cut",
                                    "lock", "map",  "meta",  "close", "alloc",  "thread"};
enum how { FAIL, SHORT, KILL, KILLED };

typedef struct tally {
    _Atomic unsigned long long calls, failed, skipped;
} tally;

static struct {
    atomic_int armed;
    enum kind kind;
    enum how how;
    int error, forever;
    unsigned long long n;
    tally *log, none;
    struct {
        uintptr_t from, to;
    } skip[16];
    int skips;
} fault;

/* ---- the decision --------------------------------------------------------------------------- */

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); }

/* True if this call is the one. */
static int hit(enum kind k)
{
    if (!atomic_load_explicit(&fault.armed, memory_order_relaxed) || k != fault.kind) return 0;
    unsigned long long i = atomic_fetch_add(&fault.log->calls, 1) + 1;
    if (!fault.n || i < fault.n || (i > fault.n && !fault.forever)) return 0;
    atomic_fetch_add(&fault.log->failed, 1);
    if (fault.how == KILL) die();
    errno = fault.error;
    return 1;
}

static int skipped(const void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    for (int i = 0; i < fault.skips; i++)
        if (at >= fault.skip[i].from && at < fault.skip[i].to) {
            if (atomic_load_explicit(&fault.armed, memory_order_relaxed))
                atomic_fetch_add(&fault.log->skipped, 1);
            return 1;
        }
    return 0;
}

static int find_library(struct dl_phdr_info *info, size_t size, void *names)
{
    (void)size;
    const char *base = strrchr(info->dlpi_name, '/');
    base = base ? base + 1 : info->dlpi_name;
    for (const char *p = names; *p; p += strcspn(p, ","), p += *p == ',') {
        size_t len = strcspn(p, ",");
        if (!len || strncmp(base, p, len)) continue;
        for (int i = 0; i < info->dlpi_phnum && fault.skips < 16; i++) {
            const ElfW(Phdr) *h = &info->dlpi_phdr[i];
            if (h->p_type != PT_LOAD || !(h->p_flags & PF_X)) continue;
            fault.skip[fault.skips].from = info->dlpi_addr + h->p_vaddr;
            fault.skip[fault.skips++].to = info->dlpi_addr + h->p_vaddr + h->p_memsz;
        }
    }
    return 0;
}

static const struct {
    const char *name;
    int number;
} errors[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"ENOMEM", ENOMEM},
              {"EAGAIN", EAGAIN}, {"EMFILE", EMFILE}, {"EACCES", EACCES},
              {"ENOLCK", ENOLCK}, {"EINTR", EINTR},   {"EINVAL", EINVAL}};

static void arm(void)
{
    char text[64];
    const char *spec = getenv("KD_FAULT"), *log = getenv("KD_FAULT_LOG"), *skip = getenv("KD_FAULT_SKIP");
    if (!spec || strlen(spec) >= sizeof(text)) return;
    if (strncmp(program_invocation_short_name, "kd", 2)) return; // valgrind is started by a shell
    memcpy(text, spec, strlen(spec) + 1);
    char *n = strchr(text, ':'), *how = n ? strchr(n + 1, ':') : NULL;
    if (!how) return;
    *n++ = *how++ = '\0';
    for (size_t i = 1; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (!strcmp(text, kinds[i])) fault.kind = (enum kind)i;
    fault.n = strtoull(n, NULL, 10);
    size_t len = strlen(how);
    if (len && how[len - 1] == '+') fault.forever = 1, how[len - 1] = '\0';
    fault.error = EIO;
    if (!strcmp(how, "short")) fault.how = SHORT;
    if (!strcmp(how, "kill")) fault.how = KILL;
    if (!strcmp(how, "killed")) fault.how = KILLED;
    for (size_t i = 0; i < sizeof(errors) / sizeof(*errors); i++)
        if (!strcmp(how, errors[i].name)) fault.error = errors[i].number;
    fault.log = &fault.none;
    int fd = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_RDWR) : -1;
    if (fd >= 0) {
        long at = syscall(SYS_mmap, NULL, sizeof(tally), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at != -1) fault.log = (tally *)at;
        syscall(SYS_close, fd);
    }
    if (skip) dl_iterate_phdr(find_library, (void *)(uintptr_t)skip);
    atomic_store(&fault.armed, 1);
}

typedef int (*main_fn)(int, char **, char **);
static main_fn real_main;

static int armed_main(int argc, char **argv, char **env)
{
    arm();
    return real_main(argc, argv, env);
}

int __libc_start_main(main_fn m, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end);
int __libc_start_main(main_fn m, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end)
{
    int (*next)(main_fn, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
    *(void **)&next = dlsym(RTLD_NEXT, "__libc_start_main");
    real_main = m;
    return next(armed_main, argc, argv, init, fini, rtld_fini, stack_end);
}

/* ---- memory --------------------------------------------------------------------------------- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

static struct {
    void *(*malloc)(size_t), *(*calloc)(size_t, size_t), *(*realloc)(void *, size_t),
        *(*memalign)(size_t, size_t);
} memory = {__libc_malloc, __libc_calloc, __libc_realloc, __libc_memalign};

__attribute__((constructor(101))) static void choose_memory(void)
{
    const char *which = getenv("KD_FAULT_MALLOC");
    if (!which || strcmp(which, "next")) return;
    *(void **)&memory.malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&memory.calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&memory.realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&memory.memalign = dlsym(RTLD_NEXT, "memalign");
}

#define NO_MEMORY (hit_alloc(__builtin_return_address(0)))
static int hit_alloc(const void *caller)
{
    if (fault.kind != ALLOC || skipped(caller) || !hit(ALLOC)) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n) { return NO_MEMORY ? NULL : memory.malloc(n); }
void *calloc(size_t n, size_t size) { return NO_MEMORY ? NULL : memory.calloc(n, size); }
void *realloc(void *p, size_t n) { return NO_MEMORY ? NULL : memory.realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return NO_MEMORY ? NULL : memory.memalign(a, n); }
void *memalign(size_t a, size_t n);
void *memalign(size_t a, size_t n) { return NO_MEMORY ? NULL : memory.memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n)
{
    if (NO_MEMORY) return ENOMEM;
    void *q = memory.memalign(a, n);
    if (!q) return ENOMEM;
    *p = q;
    return 0;
}

/* ---- files ---------------------------------------------------------------------------------- */

/* The real function behind the one that is being replaced. */
#define NEXT(name)                                                                                           \
    static __typeof__(&name) next;                                                                           \
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, #name)
/* Fails, or kills behind the call. */
#define OR_KILLED(call)                                                                                      \
    do {                                                                                                     \
        __typeof__(call) r_ = (call);                                                                        \
        if (fault.how == KILLED) die();                                                                      \
        return r_;                                                                                           \
    } while (0)

#define IO(ret, name, KIND, args, pass, half)                                                                \
    ret name args;                                                                                           \
    ret name args                                                                                            \
    {                                                                                                        \
        NEXT(name);                                                                                          \
        if (fd <= 2 || !hit(KIND)) return next pass;                                                         \
        if (fault.how == KILLED) OR_KILLED(next pass);                                                       \
        if (fault.how == SHORT && n > 1) return next half;                                                   \
        return -1;                                                                                           \
    }

IO(ssize_t, read, READ, (int fd, void *b, size_t n), (fd, b, n), (fd, b, n / 2))
IO(ssize_t, pread, READ, (int fd, void *b, size_t n, off_t at), (fd, b, n, at), (fd, b, n / 2, at))
IO(ssize_t, pread64, READ, (int fd, void *b, size_t n, off64_t at), (fd, b, n, at), (fd, b, n / 2, at))
IO(ssize_t, write, WRITE, (int fd, const void *b, size_t n), (fd, b, n), (fd, b, n / 2))
IO(ssize_t, pwrite, WRITE, (int fd, const void *b, size_t n, off_t at), (fd, b, n, at), (fd, b, n / 2, at))
IO(ssize_t, pwrite64, WRITE, (int fd, const void *b, size_t n, off64_t at), (fd, b, n, at),
   (fd, b, n / 2, at))
IO(ssize_t, writev, WRITE, (int fd, const struct iovec *b, int n), (fd, b, n), (fd, b, n / 2))
IO(ssize_t, pwritev, WRITE, (int fd, const struct iovec *b, int n, off_t at), (fd, b, n, at),
   (fd, b, n / 2, at))
IO(ssize_t, pwritev64, WRITE, (int fd, const struct iovec *b, int n, off64_t at), (fd, b, n, at),
   (fd, b, n / 2, at))

#define CALL(ret, failure, name, KIND, args, pass)                                                           \
    ret name args;                                                                                           \
    ret name args                                                                                            \
    {                                                                                                        \
        NEXT(name);                                                                                          \
        if (!hit(KIND)) return next pass;                                                                    \
        if (fault.how == KILLED) OR_KILLED(next pass);                                                       \
        return failure;                                                                                      \
    }

CALL(int, -1, fsync, SYNC, (int fd), (fd))
CALL(int, -1, fdatasync, SYNC, (int fd), (fd))
CALL(int, -1, msync, SYNC, (void *p, size_t n, int flags), (p, n, flags))
CALL(int, -1, sync_file_range, SYNC, (int fd, off64_t at, off64_t n, unsigned flags), (fd, at, n, flags))
CALL(int, -1, rename, RENAME, (const char *a, const char *b), (a, b))
CALL(int, -1, renameat, RENAME, (int x, const char *a, int y, const char *b), (x, a, y, b))
CALL(int, -1, renameat2, RENAME, (int x, const char *a, int y, const char *b, unsigned f), (x, a, y, b, f))
CALL(int, -1, ftruncate, CUT, (int fd, off_t n), (fd, n))
CALL(int, -1, ftruncate64, CUT, (int fd, off64_t n), (fd, n))
CALL(int, -1, flock, LOCK, (int fd, int op), (fd, op))
CALL(int, -1, close, CLOSE, (int fd), (fd))
CALL(int, -1, mkdir, META, (const char *p, mode_t m), (p, m))
CALL(int, -1, rmdir, META, (const char *p), (p))
CALL(int, -1, unlink, META, (const char *p), (p))
CALL(int, -1, unlinkat, META, (int fd, const char *p, int f), (fd, p, f))
CALL(int, -1, chmod, META, (const char *p, mode_t m), (p, m))
CALL(int, -1, fchmod, META, (int fd, mode_t m), (fd, m))
CALL(int, -1, stat, META, (const char *p, struct stat *s), (p, s))
CALL(int, -1, fstat, META, (int fd, struct stat *s), (fd, s))
CALL(int, -1, stat64, META, (const char *p, struct stat64 *s), (p, s))
CALL(int, -1, fstat64, META, (int fd, struct stat64 *s), (fd, s))
CALL(off_t, -1, lseek, META, (int fd, off_t at, int w), (fd, at, w))
CALL(off64_t, -1, lseek64, META, (int fd, off64_t at, int w), (fd, at, w))
CALL(FILE *, NULL, fopen, OPEN, (const char *p, const char *m), (p, m))
CALL(FILE *, NULL, fopen64, OPEN, (const char *p, const char *m), (p, m))
CALL(FILE *, NULL, fdopen, OPEN, (int fd, const char *m), (fd, m))
CALL(DIR *, NULL, opendir, OPEN, (const char *p), (p))
CALL(DIR *, NULL, fdopendir, OPEN, (int fd), (fd))
CALL(void *, MAP_FAILED, mmap, MAP, (void *p, size_t n, int pr, int f, int fd, off_t at),
     (p, n, pr, f, fd, at))
CALL(void *, MAP_FAILED, mmap64, MAP, (void *p, size_t n, int pr, int f, int fd, off64_t at),
     (p, n, pr, f, fd, at))

#define OPENS(name, args, pass)                                                                              \
    int name args;                                                                                           \
    int name args                                                                                            \
    {                                                                                                        \
        NEXT(name);                                                                                          \
        va_list ap;                                                                                          \
        va_start(ap, flags);                                                                                 \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;                                \
        va_end(ap);                                                                                          \
        if (!hit(OPEN)) return next pass;                                                                    \
        if (fault.how == KILLED) OR_KILLED(next pass);                                                       \
        return -1;                                                                                           \
    }
OPENS(open, (const char *p, int flags, ...), (p, flags, mode))
OPENS(open64, (const char *p, int flags, ...), (p, flags, mode))
OPENS(openat, (int at, const char *p, int flags, ...), (at, p, flags, mode))
OPENS(openat64, (int at, const char *p, int flags, ...), (at, p, flags, mode))

int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg)
{
    NEXT(pthread_create);
    if (!hit(THREAD)) return next(t, a, f, arg);
    if (fault.how == KILLED) OR_KILLED(next(t, a, f, arg));
    return EAGAIN;
}
