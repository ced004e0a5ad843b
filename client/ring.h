/* A fixed ring of frames that were recorded and are not acknowledged yet, numbered 1, 2, 3 … as the stream
 * numbers them.
 *
 * Pure bookkeeping over memory the caller owns: no I/O, no lock, no allocation. The caller serialises all
 * calls. */
#ifndef TOLL_CLIENT_RING_H
#define TOLL_CLIENT_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { TOLL_RING_HEADER = 4 }; /* bytes a frame takes beyond its own */

/* Positions only grow; a position modulo the size is an index into data. head ≤ cursor ≤ tail, and so with
 * the numbers. */
struct toll_ring {
    uint8_t *data;
    uint64_t size;               /* a power of two */
    uint64_t head, cursor, tail; /* oldest frame kept; next to send; where the next frame is put */
    uint64_t head_seq, cursor_seq, tail_seq;
    uint64_t sent_seq; /* the highest number ever sent */
    bool pinned;       /* the frames from cursor on are being sent */
};

void toll_ring_init(struct toll_ring *ring, void *data, size_t size);

static inline size_t toll_ring_free_bytes(const struct toll_ring *ring)
{
    return (size_t)(ring->size - (ring->tail - ring->head));
}

/* Frames in the ring. */
static inline uint64_t toll_ring_count(const struct toll_ring *ring)
{
    return ring->tail_seq - ring->head_seq;
}

/* Bytes that wait to be sent, headers included. */
static inline uint64_t toll_ring_queued_bytes(const struct toll_ring *ring)
{
    return ring->tail - ring->cursor;
}

/* Appends a frame; `own` marks one the library made itself (a gap). The caller has checked that size +
 * TOLL_RING_HEADER bytes are free. */
void toll_ring_put(struct toll_ring *ring, const void *frame, size_t size, bool own);

/* Fills iov with the next frames to send, at most `bytes` of them in all, and pins them until
 * toll_ring_settle(). Returns how many frames; *ret_iovs entries were used (a frame at the ring's seam takes
 * two). Always takes one frame if there is any and it fits. */
uint32_t toll_ring_take(struct toll_ring *ring, struct iovec *iov, int iovs, size_t bytes, int *ret_iovs);

/* Unpins. `count` frames from the cursor were sent (0: none were). Returns how many of them had been sent
 * before. */
uint32_t toll_ring_settle(struct toll_ring *ring, uint32_t count);

/* Frees every frame numbered up to acked. Numbers that were never sent are nobody's to acknowledge: then
 * nothing happens. Frames that are pinned stay for the next call. Returns how many frames left the ring, and
 * adds to *own how many of them were the library's. */
uint64_t toll_ring_ack(struct toll_ring *ring, uint64_t acked, uint64_t *own);

/* All that is in the ring is to be sent again. Not while frames are pinned. */
void toll_ring_rewind(struct toll_ring *ring);

#endif
