/* What apply's files share; nobody else includes it.
 *
 * apply.c        a batch as a transaction, and what comes before and after it
 * apply_read.c   records ▶ pieces
 * apply_once.c   pieces ▶ pieces that were not stored before
 * apply_order.c  in which order
 * apply_store.c  pieces ▶ sessions and rows, carefully where some are refused */
#ifndef TOLL_DAEMON_APPLY_INTERNAL_H
#define TOLL_DAEMON_APPLY_INTERNAL_H

#include "daemon/apply.h"
#include "daemon/idhash.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { APPLY_DATAGRAM_ROOM = 1 << 20 /* no record is larger */ };

/* A stream in the cache. */
struct known_stream {
    struct stream_key key;
    struct sink_stream stream;
    UT_hash_handle hh;
    bool changed;                /* in this batch */
    uint64_t run_from, run_to;   /* numbers of other writers' frames that have no piece yet; equal: none */
    uint64_t run_split, run_lsn; /* from there on they are of the datagram there */
    struct rangeset gathered;    /* in a careful batch: the numbers it has, so that copies take no room */
};

/* A datagram of the batch, or a hole of the journal, or other writers' numbers: what its pieces have in common. */
struct source {
    struct known_stream *stream; /* NULL: without an envelope */
    uint64_t lsn;
    int64_t received_us;
    uint32_t uid, pid;
};

/* A frame of the batch, or bytes for quarantine; or a run of numbers that are other writers', which are marked only. There are tens of thousands, looked at in
 * two orders: so they are small. */
struct piece {
    uint64_t session;      /* the first bytes of its id; 0: none, or not a frame */
    uint64_t seq, seq_end; /* its numbers; seq 0: none */
    char *broken;          /* why it is no frame; NULL: it may be one */
    uint32_t source;
    uint32_t at, size;   /* its bytes in the arena */
    uint32_t index : 30; /* its place in the datagram */
    bool others : 1;
    bool dropped : 1; /* a duplicate, or in quarantine, or others': nothing to store */
};
_Static_assert(sizeof(struct piece) <= 48, "see daemon/DESIGN.md: what a batch takes");

/* Where a frame's row goes. */
enum target { TARGET_SESSIONS, TARGET_EVENTS, TARGET_TRANSCRIPTS, TARGET_GAPS, TARGETS };

/* What became of the frames for one table in a careful batch, or in a row of them. */
struct verdicts {
    size_t refused, taken;
    char class[8]; /* of the refusals, as long as they are alike */
    bool differ;
};

/* What was read of the journal for one batch: [from, to), taken apart. */
struct gathered {
    uint64_t from, to;
    char *arena; /* bytes of its datagrams */
    size_t arena_used;
    struct piece *pieces;
    size_t piece_count, piece_capacity;
    struct source *sources;
    size_t source_count, source_capacity;
    bool any_broken;
    size_t own_count;       /* … that are not others' */
    size_t new_streams;     /* that the cache did not know */
    uint64_t scanned_bytes; /* of the journal's datagrams, whosever they are */
    uint64_t replayed;      /* frames that nobody counted as received yet */
    int64_t first_received_us, last_received_us;
};

/* What a batch adds to the metrics when it is committed. */
struct tally {
    struct sink_counts counts;
    uint64_t strings_replaced, gap_frames, replayed;
};

struct apply {
    struct apply_options options;
    struct sink *sink;
    struct metrics *metrics;
    struct journal_reader *reader;
    struct toll_decoder *decoder;

    pthread_mutex_t lock; /* of sessions */
    struct session_table *sessions;
    struct session_table *scratch; /* of one careful attempt */
    struct known_stream *streams;

    uint64_t lsn, passed, counted_lsn;
    const struct apply_counted *counted;
    unsigned small; /* the next batch has a 2^small-th part of the most: 0 after some that were committed */
    size_t most_rows, most_bytes; /* … which is this */
    int64_t idle_since_us;        /* nobody was idle before: memory knows nothing of it */
    int64_t sweep_due_us;         /* when to look for live sessions that memory does not know */
    bool last, alone;             /* nothing can come after what is durable; and the batch has all of that */
    bool careful;                 /* the last try was refused: find out which frames are at fault */
    int64_t quarantine_due_us;    /* monotonic: when to ask how full it is; 0: now */

    /* The batch being built, and of the next what was read meanwhile. */
    struct gathered got, ahead;
    size_t arena_size;
    struct apply_place *places; /* memory for sorting: twice the capacity */
    size_t place_capacity;
    struct apply_place *order; /* within it: the pieces in the order in which they are built; NULL: as they came */
    struct sink_refused *refused;
    size_t refused_count, refused_capacity;
    struct sink_stream **stream_list;
    size_t stream_capacity;
    struct tally tally;
    uint64_t limit;                    /* no batch goes beyond */
    struct verdicts verdicts[TARGETS]; /* of a careful batch */
    struct verdicts streak[TARGETS];   /* of the batches since the table last took something */

    /* A batch whose commit failed: the server may have done it all the same, which the next watermark tells. */
    struct tally unsure;
    uint64_t unsure_to; /* 0: none */
};

/* The array, with room for one more element of `size` bytes after `count`; NULL: out of memory, and it is as it was. */
static inline void *apply_grow(void *array, size_t *capacity, size_t count, size_t size)
{
    size_t wanted = *capacity ? *capacity * 2 : 1024;
    void *grown;

    if (count < *capacity)
        return array;
    grown = realloc(array, wanted * size);
    if (grown)
        *capacity = wanted;
    return grown;
}

static inline const struct source *apply_source(const struct apply *apply, const struct piece *piece)
{
    return &apply->got.sources[piece->source];
}

static inline const char *apply_bytes(const struct apply *apply, const struct piece *piece)
{
    return apply->got.arena + piece->at;
}

/* apply_read.c */
/* What the sink needs to know of it. */
void apply_origin(const struct apply *apply, const struct piece *piece, struct sink_origin *ret);
void apply_clear_batch(struct apply *apply);
void apply_forget_streams(struct apply *apply);
/* Reads on, after what was read ahead, until the batch is full or nothing durable is left. 1: it is full; 0: nothing is left; or a negative errno
 * of the reader. */
int apply_gather(struct apply *apply) __attribute__((warn_unused_result));
/* Reads some of the next batch while the server is busy with this one. 0 or -ENOMEM; other errors come up again in apply_gather(). */
int apply_read_ahead(struct apply *apply) __attribute__((warn_unused_result));
void apply_drop_ahead(struct apply *apply); /* it will be read again */

/* apply_once.c */
int apply_load_streams(struct apply *apply) __attribute__((warn_unused_result));
/* Marks the pieces' numbers as seen; drops duplicates, and puts what is no frame into quarantine. */
int apply_drop_stored(struct apply *apply) __attribute__((warn_unused_result));
/* Puts a piece into quarantine. The reason is copied, and made clean. */
int apply_refuse(struct apply *apply, struct piece *piece, const char *reason) __attribute__((warn_unused_result));
/* Fills stream_list with the streams whose numbers changed in this batch. */
int apply_list_changed(struct apply *apply, size_t *ret_count) __attribute__((warn_unused_result));

/* apply_order.c: what frames are ordered by. */
uint64_t apply_session_key(const uint8_t id[static 16]);
/* Puts the frames of a session together, where that pays; for the next attempt that is not careful. */
void apply_order(struct apply *apply);
/* The index-th piece in that order. */
struct piece *apply_piece(const struct apply *apply, size_t index);
/* Its bytes: without a look at the piece, which may be far. */
size_t apply_piece_size(const struct apply *apply, size_t index);
/* The index-th is at work: those that follow are wanted soon. */
void apply_fetch_piece(const struct apply *apply, size_t index);

/* apply_store.c: gives what is new to the sink. -EINVAL: the data is refused. */
int apply_store_pieces(struct apply *apply) __attribute__((warn_unused_result));
/* The batch is committed: what it has shown of the tables. */
void apply_note_verdicts(struct apply *apply);

#endif
