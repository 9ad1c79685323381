/* fuzz.h - what the harnesses share.
 *
 * A harness hands libFuzzer's bytes to one parser of things that strangers wrote and lets it finish. Whatever
 * the bytes are, the parser answers with a status: a crash, a finding of the address or undefined-behaviour
 * sanitizer, a leak, a hang, memory over the limits, or a broken promise (MUST) is a bug. `make fuzz` runs
 * them; tests/fuzz/corpus/NAME holds inputs to start from, and one for each bug that was found.
 *
 * Parsers read files, and files on a disk would be the slowest part: fz_file keeps them in memory. Where a
 * checksum guards what follows, a custom mutator repairs it behind every change.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "kd/base.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max); /* libFuzzer's own */

/* A promise that holds for all inputs. */
#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition);                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* The path of a file in memory with this content; one for each slot (0 or 1), valid until its next use. */
static inline const char *fz_file(int slot, const void *data, size_t size)
{
    static struct {
        int fd;
        char path[32];
    } file[2];
    if (!file[slot].fd) {
        MUST((file[slot].fd = memfd_create("fuzz", MFD_CLOEXEC)) > 0);
        snprintf(file[slot].path, sizeof(file[slot].path), "/proc/self/fd/%d", file[slot].fd);
    }
    MUST(!ftruncate(file[slot].fd, 0) && pwrite(file[slot].fd, data, size, 0) == (ssize_t)size);
    return file[slot].path;
}

/* FOLDER/name, the same file under a name that says what it is. FOLDER is in TMPDIR, made once. */
static inline const char *fz_named(int slot, const char *name)
{
    static char folder[200], path[2][256];
    const char *tmp = getenv("TMPDIR");
    if (!*folder) {
        snprintf(folder, sizeof(folder), "%.150s/kd-fuzz.XXXXXX", tmp ? tmp : "/tmp");
        MUST(mkdtemp(folder));
    }
    if (!*path[slot]) {
        snprintf(path[slot], sizeof(path[slot]), "%s/%s", folder, name);
        MUST(!symlink(fz_file(slot, "", 0), path[slot]));
    }
    return path[slot];
}

#endif
