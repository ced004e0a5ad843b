/* The receive loop's table of streams: which numbers of each were journaled, what may be acknowledged when, and the ack pages.
 *
 * It is a cache: a stream that was forgotten is known again with its next datagram, from the base that it names. The truth about what
 * was stored is PostgreSQL's. Belongs to one thread; time is passed in. */
#ifndef TOLL_DAEMON_STREAMS_H
#define TOLL_DAEMON_STREAMS_H

#include "daemon/ackpage.h"
#include "daemon/rangeset.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct streams_options {
    size_t max, max_per_uid;             /* streams; the longest idle goes first */
    size_t pages_max, pages_max_per_uid; /* ack pages */
    uint64_t epoch;                      /* of this run */
    int64_t stall_us;                    /* a hole that has stood for so long is reported */
    /* A page has just got its first contents. host: as stream_host(). May be NULL. */
    void (*attached)(void *context, uint32_t host, struct ackpage *page);
    void *context;
};

/* What is wrong with a stream, the worst first. Reported for an hour, or until it is over. */
enum stream_state {
    STREAM_POISONED, /* its numbers have too many holes: its datagrams are refused */
    STREAM_REFUSED,  /* its datagrams are refused for another reason: see stream_refuse() */
    STREAM_DEAD,     /* its worker is gone, and numbers are missing below others: those frames are lost */
    STREAM_STALLED,  /* numbers have been missing for long, so the later ones can't be acknowledged */
    STREAM_OK,
};

/* What tollctl shows of a stream. */
struct stream_view {
    uint32_t uid, pid;
    uint8_t id[16];
    const char *client; /* the name it gave itself, may be "" */
    uint64_t received;  /* every number ≤ this was journaled */
    uint64_t acked;
    uint32_t holes;   /* gaps in the numbers above */
    uint64_t refused; /* datagrams */
    int64_t last_seen_us;
    bool page;
    enum stream_state state;
};

/* How many streams are in which state, and for each state but STREAM_OK the one seen last. */
struct streams_trouble {
    size_t count[STREAM_OK + 1];
    struct stream_view example[STREAM_OK];
};

struct streams; /* opaque */
struct stream;

struct streams *streams_new(const struct streams_options *options); /* NULL: out of memory */
void streams_free(struct streams *streams);                         /* takes NULL */

/* Finds a stream or makes it known; numbers below base count as durable. May forget another stream of the same uid, or of
 * the uid that has most, to stay within the limits. The result lives until the next call. NULL: out of memory. */
struct stream *streams_get(struct streams *streams, uint32_t uid, const uint8_t id[static 16], uint64_t base,
                           int64_t now_us);

/* Gives the stream its ack page, in place of an older one. The page then belongs to the table. Takes a pidfd of pid to notice
 * the worker's end. 0 or -errno: then the page is the caller's still. */
int stream_attach(struct streams *streams, struct stream *stream, struct ackpage *page, uint32_t pid,
                  uint64_t now_boottime_ms) __attribute__((warn_unused_result));
void stream_set_client(struct stream *stream, const char *name, size_t size); /* cut to what fits */
void stream_set_pid(struct stream *stream, uint32_t pid); /* of its latest datagram; 0: not visible */

/* What threads call the stream: idhash_host() of its key, the uid and the id. */
uint32_t stream_host(const struct stream *stream);

/* Notes that a datagram with numbers [seq, end) is about to be journaled. -E2BIG: its numbers have too many holes, refuse it; -ENOMEM.
 * Then, when it is in the journal up to end_lsn, stream_journaled(). That may forget another stream with holes: all streams together have room
 * for 131,072. */
int stream_note(struct stream *stream, uint64_t seq, uint64_t end) __attribute__((warn_unused_result));
void stream_journaled(struct streams *streams, struct stream *stream, uint64_t end_lsn);
/* Whether all of [seq, end) has been journaled. */
bool stream_has(const struct stream *stream, uint64_t seq, uint64_t end);
/* Notes that a datagram was refused, for a reason that the stream's numbers do not know. */
void stream_refuse(struct stream *stream);

/* Acknowledges all that lies below ack_lsn in the journal. */
void streams_publish(struct streams *streams, uint64_t ack_lsn);

/* Once in a while: heartbeat and state into every page; pages of dead workers are dropped. */
void streams_tend(struct streams *streams, enum ackpage_state state, uint64_t now_boottime_ms);

void streams_foreach_page(const struct streams *streams,
                          void (*visit)(void *context, uint32_t host, struct ackpage *page), void *context);

size_t streams_count(const struct streams *streams);
size_t streams_pages(const struct streams *streams);
void streams_foreach(const struct streams *streams, int64_t now_us,
                     void (*visit)(void *context, const struct stream_view *view), void *context);
/* The views' client lives as long as its stream. */
void streams_look(const struct streams *streams, int64_t now_us, struct streams_trouble *ret);
const char *stream_state_name(enum stream_state state); /* "ok", "poisoned" … */

#endif
