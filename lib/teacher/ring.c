/* ring.c - places that one thread fills and the next one empties, in turn.
 *
 * What is waited for is always the other side: a free place or a filled one. The two ways to end differ: a
 * producer that ends leaves what it filled to be emptied; a consumer that stops leaves it where it is.
 */
#include "teacher_private.h"

void kd__ring_init(kd__ring *r, size_t n)
{
    *r = (kd__ring){.n = n};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->moved, NULL);
}

void kd__ring_release(kd__ring *r)
{
    pthread_cond_destroy(&r->moved);
    pthread_mutex_destroy(&r->lock);
}

size_t kd__ring_free(kd__ring *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->stopped && r->filled - r->emptied == r->n) pthread_cond_wait(&r->moved, &r->lock);
    const size_t place = r->stopped ? SIZE_MAX : r->filled % r->n;
    pthread_mutex_unlock(&r->lock);
    return place;
}

size_t kd__ring_take(kd__ring *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->ended && r->filled == r->emptied) pthread_cond_wait(&r->moved, &r->lock);
    const size_t place = r->filled == r->emptied ? SIZE_MAX : r->emptied % r->n;
    pthread_mutex_unlock(&r->lock);
    return place;
}

/* Changes what the other side may wait for. */
static void move(kd__ring *r, size_t filled, size_t emptied, bool ended, bool stopped)
{
    pthread_mutex_lock(&r->lock);
    r->filled += filled;
    r->emptied += emptied;
    r->ended |= ended;
    r->stopped |= stopped;
    pthread_cond_broadcast(&r->moved);
    pthread_mutex_unlock(&r->lock);
}

void kd__ring_filled(kd__ring *r) { move(r, 1, 0, false, false); }
void kd__ring_emptied(kd__ring *r) { move(r, 0, 1, false, false); }
void kd__ring_end(kd__ring *r) { move(r, 0, 0, true, false); }
void kd__ring_stop(kd__ring *r) { move(r, 0, 0, false, true); }
