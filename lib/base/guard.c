/* guard.c - what to say if the next lines die of a signal.
 *
 * kd reads files by pread, where a failing disk is an error code. Two libraries leave no such choice: LMDB
 * reads the file it writes through a map, so a file that is cut, or a disk that fails, is a SIGBUS (and a
 * page that somebody else overwrote an assertion or worse), and oneDNN does not check the memory for its
 * machine code. Around calls of these a thread says what is at stake. The library only keeps the sentence;
 * whether signals are turned into it is the program's choice (lib/cli/signals.c).
 *
 * Outside of a guard a signal stays what it is: a bug of ours, with its core dump.
 */
#include "kd/base.h"

static _Thread_local const kd_guard *current;

void kd_guard_enter(kd_guard *g, const char *sentence, kd_status status)
{
    *g = (kd_guard){.sentence = sentence, .status = status, .outer = current};
    current = g;
}

void kd_guard_leave(const kd_guard *g) { current = g->outer; }

const kd_guard *kd_guard_current(void) { return current; }
