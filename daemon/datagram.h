/* A datagram taken apart: its envelope, its frames, and what is broken in it. Pure.
 *
 * The receive loop counts pieces and the writer stores them; both go through here, so that they always agree on what a datagram holds and on
 * which of its stream's numbers it uses up. */
#ifndef TOLL_DAEMON_DATAGRAM_H
#define TOLL_DAEMON_DATAGRAM_H

#include "proto/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One piece: a well-formed frame, or bytes for quarantine. Both count as one frame. */
struct datagram_piece {
    const void *data;
    size_t size;
    const char *broken; /* NULL for a frame; else why it is none, valid until the next call */
    uint64_t seq;       /* its number; 0: it has none */
    uint64_t seq_end;   /* it uses up [seq, seq_end): one number, or all that were left for a broken rest */
};

struct datagram_parts {
    bool sequenced;             /* it has a valid envelope: */
    struct toll_frame envelope; /* stream_id, stream_seq, stream_base, stream_count, client */
    /* private */
    const uint8_t *data;
    size_t size, pos;
    bool truncated, ended;
    uint64_t next, end;
    const uint8_t *index; /* sizes of the next index_left frames; what comes after those is measured */
    unsigned index_left;
    const void *refused;
    size_t refused_size;
    char reason[TOLL_REASON_MAX];
};

/* Looks at the envelope. `truncated`: the kernel cut the datagram. data must live as long as *ret. */
void datagram_open(struct datagram_parts *ret, const void *data, size_t size, bool truncated);

/* An index: the sizes of a datagram's first frames, as far as these are well-formed, so that who reads it again, later, need not measure them. It
 * stands behind the datagram in the journal: for each frame u16, then u16 how many there are, little-endian. */
enum { DATAGRAM_INDEX_FRAMES = 255, DATAGRAM_INDEX_MAX = 2 * (DATAGRAM_INDEX_FRAMES + 1) /* bytes */ };

struct datagram_index {
    uint8_t bytes[DATAGRAM_INDEX_MAX];
    unsigned count;
    bool ended;
};

static inline void datagram_index_begin(struct datagram_index *index)
{
    index->count = 0;
    index->ended = false;
}

/* Adds a datagram's pieces, one after the other. */
void datagram_index_add(struct datagram_index *index, const struct datagram_piece *piece);
/* Writes it behind the datagram's `size` bytes, where there is room for DATAGRAM_INDEX_MAX. Returns what both take together. */
size_t datagram_index_write(struct datagram_index *index, void *data, size_t size);

/* datagram_open() of one with an index behind it; size is of both. */
void datagram_open_indexed(struct datagram_parts *ret, const void *data, size_t size, bool truncated);

/* The next piece; false at the end. The envelope itself is no piece, unless it is invalid: then it is quarantined and the frames after it go
 * without numbers. Bytes beyond the frames that the envelope counts are one broken piece without a number; frames that it counts and
 * that are not there are one broken piece with their numbers. */
bool datagram_next(struct datagram_parts *parts, struct datagram_piece *ret);

#endif
