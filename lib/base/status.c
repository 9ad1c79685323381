/* status.c - statuses and the one sentence that goes with them.
 *
 * A kd_err is a value on the caller's stack: no allocation, so it works when memory is what ran
 * out. A message is written once, by the code that knows what happened; layers above may put where
 * it happened before it (kd_fail_in), never a second story behind it. The text is formatted into a
 * local buffer first, so that arguments may point into the err that is being written.
 *
 * A message that does not fit is cut and ends with "...": paths come from users and may be of any
 * length.
 */
#include "kd/base.h"

#include <errno.h>
#include <string.h>

const char *kd_strstatus(kd_status s)
{
    switch (s) {
    case KD_OK: return "ok";
#define X(name, text, code)                                                                                  \
    case KD_E##name: return text;
        KD_STATUS_MAP(X)
#undef X
    case KD__STATUS_BASE: break;
    }
    return "unknown status";
}

int kd_exit_code(kd_status s)
{
    switch (s) {
    case KD_OK: return 0;
#define X(name, text, code)                                                                                  \
    case KD_E##name: return code;
        KD_STATUS_MAP(X)
#undef X
    case KD__STATUS_BASE: break;
    }
    return 1;
}

/* What files say of themselves is quoted in sentences, and a terminal obeys escape sequences. */
static void disarm(char *text)
{
    for (; *text; text++)
        if (((unsigned char)*text < ' ' && *text != '\n') || *text == 0x7F) *text = '?';
}

/* Appends to text at position *pos; marks the end with "..." when it does not fit. */
static void put(char *text, size_t size, size_t *pos, const char *fmt, va_list ap)
    __attribute__((format(printf, 4, 0)));

static void put(char *text, size_t size, size_t *pos, const char *fmt, va_list ap)
{
    if (*pos + 1 >= size) return;
    int n = vsnprintf(text + *pos, size - *pos, fmt, ap);
    if (n < 0) {
        text[*pos] = '\0';
        return;
    }
    disarm(text + *pos);
    if ((size_t)n < size - *pos) {
        *pos += (size_t)n;
        return;
    }
    size_t end = size - 1;
    /* Do not leave half a UTF-8 character before the dots. */
    size_t cut = end - 3;
    while (cut > *pos && ((unsigned char)text[cut] & 0xC0) == 0x80) cut--;
    memcpy(text + cut, "...", 4);
    *pos = end;
}

static void put_text(char *text, size_t size, size_t *pos, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void put_text(char *text, size_t size, size_t *pos, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(text, size, pos, fmt, ap);
    va_end(ap);
}

kd_status kd_fail(kd_err *err, kd_status code, const char *fmt, ...)
{
    if (!err) return code;
    char text[sizeof err->msg];
    size_t pos = 0;
    va_list ap;
    va_start(ap, fmt);
    text[0] = '\0';
    put(text, sizeof text, &pos, fmt, ap);
    va_end(ap);
    err->code = code;
    memcpy(err->msg, text, sizeof text);
    return code;
}

static kd_status status_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT: return KD_EFULL;
    case ENOENT: return KD_ENOTFOUND;
    case ENOMEM: return KD_ENOMEM;
    case EEXIST: return KD_EEXISTS;
    default: return KD_EIO;
    }
}

kd_status kd_fail_errno(kd_err *err, int errnum, const char *fmt, ...)
{
    kd_status code = status_of_errno(errnum);
    if (!err) return code;
    char text[sizeof err->msg], why[128];
    size_t pos = 0;
    va_list ap;
    va_start(ap, fmt);
    text[0] = '\0';
    put(text, sizeof text, &pos, fmt, ap);
    va_end(ap);
    put_text(text, sizeof text, &pos, ": %s", strerror_r(errnum, why, sizeof why));
    err->code = code;
    memcpy(err->msg, text, sizeof text);
    return code;
}

kd_status kd_fail_in(kd_err *err, kd_status code, const char *fmt, ...)
{
    if (!err) return code;
    char text[sizeof err->msg];
    size_t pos = 0;
    va_list ap;
    va_start(ap, fmt);
    text[0] = '\0';
    put(text, sizeof text, &pos, fmt, ap);
    va_end(ap);
    put_text(text, sizeof text, &pos, ": %s", err->code ? err->msg : kd_strstatus(code));
    if (!err->code) err->code = code;
    memcpy(err->msg, text, sizeof text);
    return err->code;
}
