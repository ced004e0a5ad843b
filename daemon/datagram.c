/* See datagram.h. */
#include "daemon/datagram.h"

#include "proto/walk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void datagram_open(struct datagram_parts *ret, const void *data, size_t size, bool truncated)
{
    size_t envelope_size;
    int r;

    ret->sequenced = false;
    ret->data = data;
    ret->size = size;
    ret->pos = 0;
    ret->truncated = truncated;
    ret->ended = false;
    ret->next = ret->end = 0;
    ret->index_left = 0;
    ret->refused = NULL;
    r = toll_envelope_find(data, size, &ret->envelope, &envelope_size, ret->reason);
    if (r == -ENOENT)
        return;
    ret->pos = envelope_size;
    if (r < 0) {
        ret->refused = data;
        ret->refused_size = envelope_size;
        return;
    }
    ret->sequenced = true;
    ret->next = ret->envelope.stream_seq;
    ret->end = ret->envelope.stream_seq + ret->envelope.stream_count;
}

static void store16(uint8_t *at, size_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static size_t load16(const uint8_t *at)
{
    return at[0] | (size_t)at[1] << 8;
}

void datagram_index_add(struct datagram_index *index, const struct datagram_piece *piece)
{
    index->ended = index->ended || piece->broken || piece->size > UINT16_MAX || index->count == DATAGRAM_INDEX_FRAMES;
    if (!index->ended)
        store16(index->bytes + (size_t)2 * index->count++, piece->size);
}

size_t datagram_index_write(struct datagram_index *index, void *data, size_t size)
{
    size_t bytes = (size_t)2 * index->count;

    store16(index->bytes + bytes, index->count);
    memcpy((uint8_t *)data + size, index->bytes, bytes + 2);
    return size + bytes + 2;
}

/* The journal's bytes are checked, and its own; should they not be an index all the same, what they say of sizes leads to pieces that are no frames. */
void datagram_open_indexed(struct datagram_parts *ret, const void *data, size_t size, bool truncated)
{
    const uint8_t *end = (const uint8_t *)data + size;
    size_t count = size < 2 ? 0 : load16(end - 2), bytes = 2 * count + 2;

    if (bytes > size)
        count = bytes = 0;
    datagram_open(ret, data, size - bytes, truncated);
    ret->index = end - bytes;
    ret->index_left = (unsigned)count;
}

/* A frame whose size the index has. False: it has none that could be. */
static bool indexed(struct datagram_parts *parts, size_t rest, size_t *ret_size)
{
    size_t size;

    if (parts->index_left == 0)
        return false;
    size = load16(parts->index);
    if (size == 0 || size > rest) {
        parts->index_left = 0;
        return false;
    }
    parts->index += 2;
    parts->index_left--;
    parts->pos += size;
    *ret_size = size;
    return true;
}

/* A piece for quarantine that uses up all numbers left. */
static bool broken(struct datagram_parts *parts, struct datagram_piece *ret, const void *data, size_t size,
                   const char *reason)
{
    *ret = (struct datagram_piece){.data = data, .size = size, .broken = reason};
    if (parts->next < parts->end) {
        ret->seq = parts->next;
        ret->seq_end = parts->end;
        parts->next = parts->end;
    }
    parts->ended = true;
    return true;
}

bool datagram_next(struct datagram_parts *parts, struct datagram_piece *ret)
{
    const uint8_t *rest = parts->data + parts->pos;
    size_t rest_size = parts->size - parts->pos, frame_size;
    const void *frame = rest;
    int r;

    if (parts->refused) {
        *ret = (struct datagram_piece){.data = parts->refused, .size = parts->refused_size, .broken = parts->reason};
        parts->refused = NULL;
        return true;
    }
    if (parts->ended)
        return false;
    if (parts->sequenced && parts->next == parts->end && rest_size > 0) {
        snprintf(parts->reason, sizeof(parts->reason),
                 "datagram: %zu bytes after the %" PRIu64 " frames that its envelope counts", rest_size,
                 parts->envelope.stream_count);
        return broken(parts, ret, rest, rest_size, parts->reason);
    }
    r = indexed(parts, rest_size, &frame_size)
            ? 1
            : toll_walk_next(parts->data, parts->size, &parts->pos, &frame, &frame_size);
    if (r < 0) {
        snprintf(parts->reason, sizeof(parts->reason), "datagram: %s%s", toll_walk_strerror(r),
                 parts->truncated ? ": it was longer than 65536 bytes and lost its end" : "");
        return broken(parts, ret, frame, frame_size, parts->reason);
    }
    if (r > 0) {
        *ret = (struct datagram_piece){.data = frame, .size = frame_size};
        if (parts->next < parts->end) {
            ret->seq = parts->next++;
            ret->seq_end = parts->next;
        }
        return true;
    }
    parts->ended = true;
    if (parts->next < parts->end) {
        snprintf(parts->reason, sizeof(parts->reason),
                 "datagram: its envelope counts %" PRIu64 " frames, the last %" PRIu64 " are not there",
                 parts->envelope.stream_count, parts->end - parts->next);
        return broken(parts, ret, parts->data, parts->size, parts->reason);
    }
    if (parts->truncated) /* cut exactly between two frames, without an envelope that would tell */
        return broken(parts, ret, rest, 0, "datagram: it was longer than 65536 bytes and lost its end");
    return false;
}
