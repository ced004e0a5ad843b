/* What the files of the table of streams share; nobody else includes it.
 *
 * streams.c       the table: what was journaled, what may be acknowledged, and the pages
 * streams_view.c  what an operator is told of it */
#ifndef TOLL_DAEMON_STREAMS_INTERNAL_H
#define TOLL_DAEMON_STREAMS_INTERNAL_H

#include "daemon/idhash.h"
#include "daemon/streams.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLIENT_NAME_MAX = 48 };

/* Frames up to number `upto` may be acknowledged when the journal is safe up to `lsn`. */
struct promise {
    uint64_t lsn, upto;
};

struct stream {
    struct stream_key key;
    uint32_t pid;
    UT_hash_handle hh;
    struct peer *peer;
    struct stream *older, *newer; /* in the peer's list, longest idle first */
    struct stream *prev_due, *next_due;
    bool due; /* in the list of streams with a promise */
    struct rangeset journaled;
    uint64_t acked;
    struct promise first, last; /* lsn 0: none. The first is kept until it is due, later ones overwrite the last */
    struct ackpage *page;
    int pidfd;
    int64_t last_seen_us;
    uint32_t holes;        /* as counted for the peer */
    int64_t hole_since_us; /* if there are holes: since when the first missing number has been this one */
    uint64_t hole_at;
    uint64_t refused;        /* datagrams */
    bool poisoned, shut_out; /* why the last one was refused, if it was */
    char client[CLIENT_NAME_MAX];
};

/* All streams of one uid. */
struct peer {
    uint32_t uid;
    size_t count, pages, holes;
    struct stream *streams;
    UT_hash_handle hh;
};

struct streams {
    struct streams_options options;
    struct stream *table;
    struct peer *peers;
    struct stream *due;
    size_t pages, holes;
    enum ackpage_state state;
};

/* Every number ≤ this was journaled. */
static inline uint64_t received_upto(const struct stream *stream)
{
    return rangeset_first_missing(&stream->journaled, 0) - 1;
}

/* Gaps in the numbers above. */
static inline uint32_t count_holes(const struct stream *stream)
{
    return stream->journaled.count ? stream->journaled.count - 1 : 0;
}

#endif
