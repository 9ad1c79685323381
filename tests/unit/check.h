/* check.h - calls that must succeed, and calls that must be refused with a status and a sentence. Each
 * call takes an `err` that these macros declare. */
#ifndef CHECK_H
#define CHECK_H

#include "kd/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define OK(call)                                                                                             \
    do {                                                                                                     \
        kd_err e_ = {0}, *err = &e_;                                                                         \
        if (call || e_.code) fail_msg("%s: %s", #call, e_.msg);                                              \
    } while (0)
/* The call fails with this status and its sentence holds this text. */
#define FAILS(call, status, text)                                                                            \
    do {                                                                                                     \
        kd_err e_ = {0}, *err = &e_;                                                                         \
        int st_ = call;                                                                                      \
        if (st_ != (status) || e_.code != (status) || !strstr(e_.msg, text))                                 \
            fail_msg("%s: status %d (%s), wanted %d (%s) and '%s'", #call, st_, e_.msg, (int)(status),       \
                     kd_strstatus(status), text);                                                            \
    } while (0)

#endif
