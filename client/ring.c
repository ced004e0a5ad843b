/* The ring of unacknowledged frames: a 4-byte header (size, and whose frame it is) and the frame, back to
 * back. Both may lie across the seam, so no byte is wasted there and free space is one subtraction. */
#include "client/ring.h"

#include <assert.h>
#include <string.h>

#include "proto/hot.h"

#define OWN_FRAME UINT32_C(0x80000000)

void toll_ring_init(struct toll_ring *ring, void *data, size_t size)
{
    assert(size > 0 && (size & (size - 1)) == 0);
    *ring = (struct toll_ring){.data = data, .size = size, .head_seq = 1, .cursor_seq = 1, .tail_seq = 1};
}

static size_t index_of(const struct toll_ring *ring, uint64_t pos)
{
    return (size_t)(pos & (ring->size - 1));
}

static size_t until_seam(const struct toll_ring *ring, uint64_t pos)
{
    return (size_t)ring->size - index_of(ring, pos);
}

TOLL_HOT static void copy_in(struct toll_ring *ring, uint64_t pos, const void *bytes, size_t size)
{
    size_t first = until_seam(ring, pos);
    if (first > size)
        first = size;
    memcpy(ring->data + index_of(ring, pos), bytes, first);
    memcpy(ring->data, (const uint8_t *)bytes + first, size - first);
}

TOLL_HOT static uint32_t header_at(const struct toll_ring *ring, uint64_t pos)
{
    uint8_t bytes[TOLL_RING_HEADER];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = ring->data[index_of(ring, pos + i)];
    uint32_t header;
    memcpy(&header, bytes, sizeof header);
    return header;
}

TOLL_HOT void toll_ring_put(struct toll_ring *ring, const void *frame, size_t size, bool own)
{
    assert(size < OWN_FRAME && size + TOLL_RING_HEADER <= toll_ring_free_bytes(ring));
    if (ring->head == ring->tail) /* from the front again: where nothing waits, the same few lines of cache do */
        ring->head = ring->cursor = ring->tail = (ring->tail + ring->size - 1) & ~(ring->size - 1);
    uint32_t header = (uint32_t)size | (own ? OWN_FRAME : 0);
    copy_in(ring, ring->tail, &header, sizeof header);
    copy_in(ring, ring->tail + sizeof header, frame, size);
    ring->tail += sizeof header + size;
    ring->tail_seq++;
}

TOLL_HOT uint32_t toll_ring_take(struct toll_ring *ring, struct iovec *iov, int iovs, size_t bytes, int *ret_iovs)
{
    assert(!ring->pinned);
    uint32_t frames = 0;
    int used = 0;
    for (uint64_t pos = ring->cursor; pos < ring->tail && used + 2 <= iovs; frames++) {
        size_t size = header_at(ring, pos) & ~OWN_FRAME;
        if (size > bytes)
            break;
        bytes -= size;
        pos += TOLL_RING_HEADER;
        size_t first = until_seam(ring, pos);
        if (first > size)
            first = size;
        iov[used++] = (struct iovec){ring->data + index_of(ring, pos), first};
        if (first < size)
            iov[used++] = (struct iovec){ring->data, size - first};
        pos += size;
    }
    ring->pinned = frames > 0;
    *ret_iovs = used;
    return frames;
}

TOLL_HOT static void skip(const struct toll_ring *ring, uint64_t *pos, uint64_t *seq)
{
    *pos += TOLL_RING_HEADER + (header_at(ring, *pos) & ~OWN_FRAME);
    *seq += 1;
}

TOLL_HOT uint32_t toll_ring_settle(struct toll_ring *ring, uint32_t count)
{
    uint32_t again = 0;
    ring->pinned = false;
    for (uint32_t i = 0; i < count; i++) {
        if (ring->cursor_seq <= ring->sent_seq)
            again++;
        else
            ring->sent_seq = ring->cursor_seq;
        skip(ring, &ring->cursor, &ring->cursor_seq);
    }
    return again;
}

TOLL_HOT uint64_t toll_ring_ack(struct toll_ring *ring, uint64_t acked, uint64_t *own)
{
    uint64_t freed = 0;
    if (acked > ring->sent_seq)
        return 0;
    if (ring->pinned && acked >= ring->cursor_seq)
        acked = ring->cursor_seq - 1;
    for (; ring->head_seq <= acked; freed++) {
        if (header_at(ring, ring->head) & OWN_FRAME)
            *own += 1;
        skip(ring, &ring->head, &ring->head_seq);
    }
    if (ring->cursor_seq < ring->head_seq) {
        ring->cursor = ring->head;
        ring->cursor_seq = ring->head_seq;
    }
    return freed;
}

void toll_ring_rewind(struct toll_ring *ring)
{
    assert(!ring->pinned);
    ring->cursor = ring->head;
    ring->cursor_seq = ring->head_seq;
}
