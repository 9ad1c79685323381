/* memory.c - aligned blocks, arenas and the growing string.
 *
 * Large blocks ask for large pages: kernels walk through them in strides longer than a page of 4 KiB, and
 * those pages whose place a CPU remembers reach over a few MB.
 *
 * An arena is a list of blocks; allocation moves a cursor, release frees the list. That suits data
 * that lives as long as one object (a model, a manifest, a batch): one release, no leaks on error
 * paths. Pieces are 64-byte aligned so that vector code may use them. A piece larger than a block
 * gets its own block behind the head, so the room left in the head is not lost.
 *
 * A kd_buf remembers failure instead of returning it: text is built by many small appends, and one
 * check at the end is enough.
 */
#include "kd/base.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN       64u
#define LARGE_PAGE  ((size_t)2 << 20)
#define BLOCK_BYTES ((size_t)64 << 10)

static bool round_up(size_t n, size_t *out)
{
    if (!kd_add_size(n, ALIGN - 1, out)) return false;
    *out &= ~(size_t)(ALIGN - 1);
    return true;
}

void *kd_alloc_aligned(size_t count, size_t size)
{
    size_t bytes;
    if (!kd_mul_size(count, size, &bytes) || !round_up(bytes ? bytes : 1, &bytes)) return NULL;
    const bool large = bytes >= LARGE_PAGE;
    void *p;
    if (posix_memalign(&p, large ? LARGE_PAGE : ALIGN, bytes)) return NULL;
    if (large) madvise(p, bytes, MADV_HUGEPAGE); // a kernel without them says no: as well
    memset(p, 0, bytes);
    return p;
}

struct kd__arena_block {
    struct kd__arena_block *next;
    size_t used, cap; /* of the bytes behind this header */
    char pad[ALIGN - sizeof(void *) - 2 * sizeof(size_t)];
};

static char *block_data(struct kd__arena_block *b) { return (char *)b + sizeof *b; }

static struct kd__arena_block *block_create(size_t cap)
{
    size_t bytes;
    if (!kd_add_size(cap, sizeof(struct kd__arena_block), &bytes)) return NULL;
    struct kd__arena_block *b = kd_alloc_aligned(bytes, 1);
    if (b) b->cap = cap;
    return b;
}

void *kd_arena_alloc(kd_arena *a, size_t count, size_t size)
{
    size_t bytes;
    if (!kd_mul_size(count, size, &bytes) || !round_up(bytes ? bytes : 1, &bytes)) return NULL;
    struct kd__arena_block *b = a->head;
    if (!b || b->cap - b->used < bytes) {
        bool large = bytes > BLOCK_BYTES / 4;
        b = block_create(large ? bytes : BLOCK_BYTES);
        if (!b) return NULL;
        if (large && a->head) {
            b->next = a->head->next;
            a->head->next = b;
        } else {
            b->next = a->head;
            a->head = b;
        }
    }
    void *p = block_data(b) + b->used;
    b->used += bytes;
    a->used += bytes;
    return p;
}

char *kd_arena_strdup(kd_arena *a, const char *s)
{
    if (!s) return NULL;
    size_t len = strlen(s) + 1;
    char *p = kd_arena_alloc(a, len, 1);
    if (p) memcpy(p, s, len);
    return p;
}

void kd_arena_release(kd_arena *a)
{
    if (!a) return;
    for (struct kd__arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (kd_arena){0};
}

/* Makes room for `more` bytes and a NUL. */
static bool buf_reserve(kd_buf *b, size_t more)
{
    size_t need;
    if (b->failed || !kd_add_size(b->len, more, &need) || !kd_add_size(need, 1, &need)) {
        b->failed = true;
        return false;
    }
    if (need <= b->cap) return true;
    size_t cap = kd_max_size(need, kd_max_size(64, b->cap + b->cap / 2));
    char *text = realloc(b->text, cap);
    if (!text) {
        b->failed = true;
        return false;
    }
    b->text = text;
    b->cap = cap;
    return true;
}

void kd_buf_append(kd_buf *b, const void *data, size_t len)
{
    if (!buf_reserve(b, len)) return;
    if (len) memcpy(b->text + b->len, data, len);
    b->len += len;
    b->text[b->len] = '\0';
}

void kd_buf_puts(kd_buf *b, const char *s) { kd_buf_append(b, s, strlen(s)); }

void kd_buf_printf(kd_buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
        return;
    }
    if (!buf_reserve(b, (size_t)n)) return;
    va_start(ap, fmt);
    vsnprintf(b->text + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

void kd_buf_release(kd_buf *b)
{
    if (!b) return;
    free(b->text);
    *b = (kd_buf){0};
}
