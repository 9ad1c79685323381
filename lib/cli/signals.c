/* signals.c - requests to stop, and ends that are not ours.
 *
 * Stopping: the handlers only set a flag that the work looks at between batches, so that what was
 * done is saved. Only a second Ctrl-C ends the process where it stands.
 *
 * Ends that are not ours: inside a guard (base.h) SIGBUS, SIGSEGV and SIGABRT become one line and an exit
 * code. Outside of one they go where they went before. oneDNN is C++ and lets std::bad_alloc out of its C
 * functions, which ends the process with an abort; the C++ library calls a "new handler" before it throws,
 * and ours says what happened. All that is allowed there is to print and to leave, which is enough: every
 * file of kd is safe against a kill.
 */
#include "cli_private.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- stop requests ------------------------------------------------------------------------- */

volatile sig_atomic_t kd_stop_requested;
static volatile sig_atomic_t interrupts;
static char farewell[160];
static size_t farewell_len;

static void on_stop(int sig)
{
    int saved = errno;
    kd_stop_requested = 1;
    if (sig == SIGINT) {
        if (interrupts) _exit(130);
        interrupts = 1;
        if (farewell_len) { /* nothing can be done about a failure here */
            ssize_t ignored = write(STDERR_FILENO, farewell, farewell_len);
            (void)ignored;
        }
    }
    errno = saved;
}

static void install_stop(const char *name, bool quiet)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGUSR1};
    struct sigaction a = {.sa_handler = on_stop, .sa_flags = SA_RESTART}, old;
    farewell_len = 0;
    if (!quiet && isatty(STDERR_FILENO)) {
        snprintf(farewell, sizeof farewell,
                 "\r\033[K%.60s: stopping when this piece of work is saved; "
                 "Ctrl-C again stops at once\n",
                 name);
        farewell_len = strlen(farewell);
    }
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < KD_COUNT(signals); i++) {
        /* nohup and shells that put a job into the background have their reasons to ignore it */
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;
        sigaction(signals[i], &a, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

/* ---- ends that are not ours --------------------------------------------------------------- */

static const int fatal[] = {SIGBUS, SIGSEGV, SIGABRT};
static struct sigaction before[KD_COUNT(fatal)];
static char tool[64];

/* "TOOL: SENTENCE\n", by calls that a signal handler may make. */
static _Noreturn void say_and_leave(const char *sentence, kd_status status)
{
    static atomic_flag said = ATOMIC_FLAG_INIT; // several threads may end at once
    const char *const part[] = {tool, ": ", sentence, "\n"};
    char line[1280];
    size_t n = 0;
    for (size_t i = 0; i < KD_COUNT(part); i++)
        for (const char *p = part[i]; *p && n < sizeof line; p++) line[n++] = *p;
    line[n - 1] = '\n';
    while (atomic_flag_test_and_set(&said)) pause();
    ssize_t ignored = write(STDERR_FILENO, line, n);
    (void)ignored;
    _exit(kd_exit_code(status));
}

static void on_fatal(int sig)
{
    const kd_guard *g = kd_guard_current();
    if (g) say_and_leave(g->sentence, g->status);
    for (size_t i = 0; i < KD_COUNT(fatal); i++)
        if (fatal[i] == sig) sigaction(sig, &before[i], NULL);
    raise(sig); // the instruction would be met again anyhow; abort() raises a second time by itself
}

static void no_memory(void) { say_and_leave("out of memory", KD_ENOMEM); }

static void install_fatal(void)
{
    struct sigaction a = {.sa_handler = on_fatal, .sa_flags = SA_NODEFER};
    void (*(*set_new_handler)(void (*)(void)))(void);
    sigemptyset(&a.sa_mask);
    for (size_t i = 0; i < KD_COUNT(fatal); i++) sigaction(fatal[i], &a, &before[i]);
    *(void **)&set_new_handler = dlsym(RTLD_DEFAULT, "_ZSt15set_new_handlerPFvvE");
    if (set_new_handler) set_new_handler(no_memory);
}

void kd__signals_install(const char *name, bool quiet)
{
    snprintf(tool, sizeof tool, "%.60s", name);
    install_stop(name, quiet);
    install_fatal();
}
