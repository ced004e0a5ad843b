/* What a sink is: the place where batches of frames end. PostgreSQL (sink_postgres) and the log (sink_log) ship.
 *
 * The writer drives it, on one thread, in this order:
 *   open · { begin · load_streams · { attempt · { add … · push } … · store · settle } … · finish · commit } …
 * and may call abort at any point, which forgets all since begin. Calls may block for as long as the sink's server does.
 *
 * Results are 0 or one of
 *   -EAGAIN          the sink's server is away or short of something: abort, open again, and repeat the batch later
 *   -ESTALE          what the writer believes about the watermark, or a stream, is no longer true: abort, open, go on from what open says
 *   -EINVAL          the data is refused: abort or settle(false); some frame since attempt is at fault, or all are
 *   -ENOTRECOVERABLE schema, privileges or configuration are wrong: abort, raise an alarm, try again at leisure
 *   -ENOMEM          as -EAGAIN
 * and sink_error() says in words what happened, with what to do where there is something to do. */
#ifndef TOLL_DAEMON_SINK_H
#define TOLL_DAEMON_SINK_H

#include "daemon/rangeset.h"
#include "daemon/session.h"
#include "daemon/share.h"
#include "proto/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Which log this is: the key of its watermark. */
struct sink_journal {
    uint8_t uuid[16];
    int writer, writers; /* sessions are shared out: this one, from 0, of so many */
    const char *host;
    bool registered;               /* it had a watermark before: a missing one is then an error, not a first time */
    const uint64_t *register_lsns; /* where a first time begins, for each of the writers */
    uint8_t last_run
        [16]; /* what the sink called the last run on this journal, see struct sink_claim; all zero: not known */
};

/* Who moves a journal's watermark: one run of one daemon. A journal that was copied is used by two. */
struct sink_claim {
    uint8_t run[16]; /* the sink's name for this run: to be kept, durably, and given as last_run by the next one */
    bool
        contested; /* another run has moved the watermark since the last one of ours: this log must become a new journal … */
    uint64_t own_lsn; /* … with all from here on, which is how far ours had come */
    int writers; /* how many the sink knows of this journal. Another number than was said: nothing was claimed … */
    bool found;  /* … but whether the watermark was found, or how far the last run of ours had come */
    uint64_t lsns
        [SHARE_WRITERS_MAX]; /* all their watermarks, as of now or younger than the call, where they are as many as was said */
};

/* What a writer noted of a stream when the writers were another number, or at a daemon that has another number: of the numbers in it, those whose frames
 * were that writer's share (daemon/share.h) are stored. */
struct sink_stream_other {
    unsigned writer, writers;
    struct rangeset seen;
};

/* A stream's numbers that went by, as the writer caches them: those of its own frames are stored. */
struct sink_stream {
    uint32_t uid, pid;
    uint8_t id[16];
    uint64_t base; /* the lowest that an envelope named; below it a missing number is no hole */
    struct rangeset seen;
    int64_t revision; /* of the stored row; 0: there is none yet */
    char client[48];
    struct sink_stream_other *others; /* allocated; NULL: none, as nearly always */
    size_t other_count;
};

static inline void sink_stream_forget_others(struct sink_stream *stream)
{
    for (size_t i = 0; i < stream->other_count; i++)
        rangeset_done(&stream->others[i].seen);
    free(stream->others);
    stream->others = NULL;
    stream->other_count = 0;
}

/* Where a frame came from; what quarantine needs to know of it. */
struct sink_origin {
    const void *data; /* its bytes */
    size_t size;
    uint64_t lsn;   /* of its datagram */
    uint32_t index; /* its place there, from 0 */
    uint32_t uid, pid;
    int64_t received_us;
    bool sequenced;
    uint8_t stream_id[16];
    uint64_t seq; /* 0: none */
};

/* A frame to store: any type but session_start, session_end and stream. */
struct sink_row {
    const struct toll_frame *frame;
    const struct sink_origin *origin;
    int64_t occurred_us; /* to store */
    int64_t reported_us; /* the sender's own where that was clamped, or TOLL_TIME_MISSING */
};

struct sink_refused {
    struct sink_origin origin;
    char *reason; /* one line */
};

struct sink_counts {
    uint32_t received, stored, quarantined, duplicates; /* frames: received is the sum of the others */
    uint32_t events, transcripts, gaps;                 /* rows */
    int64_t first_received_us, last_received_us;
};

/* What goes with the frames in the same transaction. */
struct sink_batch {
    uint64_t from, to; /* the range of the journal; equal: no frames, orphans are closed */
    struct sink_counts counts;
    struct sink_stream *const *streams; /* whose `seen` changed */
    size_t stream_count;
    const struct sink_refused *refused;
    size_t refused_count;
};

struct sink; /* one of each kind's own */

struct sink_ops {
    const char *name;
    /* Connects if need be and reads the watermark: every frame below *ret_lsn that is this writer's is stored. -ENOENT: a registered journal's
     * watermark is gone. */
    int (*open)(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn);
    /* What the last open() that returned 0 found out; valid until the next. NULL: nobody else can use this sink's watermark. */
    const struct sink_claim *(*claim)(const struct sink *sink);
    /* Between batches, writer 0's: from now on the journal has so many writers. All of them stand at lsn, and nobody works. -ESTALE: they do not. NULL:
     * this sink has one writer. */
    int (*share)(struct sink *sink, uint64_t lsn, int writers);
    /* Starts the batch [from, to) by moving the watermark. -ESTALE if it does not stand at `from`. */
    int (*begin)(struct sink *sink, uint64_t from, uint64_t to);
    /* Replaces seen, revision and others of the streams among these that the sink knows. They come with revision 0 and nothing seen. */
    int (*load_streams)(struct sink *sink, struct sink_stream *const *streams, size_t count);
    /* Begins an attempt at some frames; careful: one that may fail without losing the batch. */
    int (*attempt)(struct sink *sink, bool careful);
    int (*add)(struct sink *sink, const struct sink_row *row);
    /* Now and then between adds: the rows so far may go on their way, so that the server works while the next ones are built. Unlike add it may
     * block. NULL: this sink has nothing to gain from it. */
    int (*push)(struct sink *sink);
    /* Stores the attempt's sessions and rows, sessions in order of their id; sets what the sink sets in each change. */
    int (*store)(struct sink *sink, struct session_change *const *changes, size_t count);
    /* Ends a careful attempt: keeps or undoes it. */
    int (*settle)(struct sink *sink, bool keep);
    /* Stores the rest of the batch; raises the revision of every stream it writes. */
    int (*finish)(struct sink *sink, const struct sink_batch *batch);
    int (*commit)(struct sink *sink);
    void (*abort)(struct sink *sink);
    /* Live sessions, at most max, of this journal or of one that has long been silent, of which nothing was received since idle_before_us:
     * those that memory does not know are orphans. Between batches. */
    int (*open_sessions)(struct sink *sink, int64_t idle_before_us, size_t max,
                         void (*found)(void *context, const uint8_t id[16]), void *context);
    /* Housekeeping between batches, every minute or so: partitions, heartbeat. */
    int (*tend)(struct sink *sink);
    /* How many rows are in quarantine, of everybody: exact where that is at least `limit`, else it may be too high. Cheap, but not for every batch;
     * between batches. NULL: this sink has no such place. */
    int (*quarantined)(struct sink *sink, uint64_t limit, uint64_t *ret_rows);
    const char *(*error)(const struct sink *sink);
    const char *(*error_class)(
        const struct sink *sink); /* of the last -EINVAL: an SQLSTATE, to tell failures that are alike */
    void (*free)(struct sink *sink);
};

struct sink {
    const struct sink_ops *ops;
};

#endif
