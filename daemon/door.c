/* See door.h. */
#include "daemon/door.h"

#include <errno.h>
#include <stdlib.h>

enum { FRAMES_MANY = 64 }; /* from so many on a datagram may have to be looked at before the quarantine is full */

struct door {
    const struct metrics *metrics;
    struct toll_decoder *decoder;
    uint64_t limit;  /* rows */
    uint64_t coming; /* invalid frames that were seen and taken, and are not in quarantine yet */
    uint64_t done;   /* frames in quarantine when that was last reckoned */
};

struct door *door_new(const struct metrics *metrics)
{
    struct door *door = calloc(1, sizeof(*door));

    if (!door)
        return NULL;
    door->metrics = metrics;
    door->limit = UINT64_MAX;
    door->decoder = toll_decoder_new();
    if (door->decoder)
        return door;
    free(door);
    return NULL;
}

void door_free(struct door *door)
{
    if (!door)
        return;
    toll_decoder_free(door->decoder);
    free(door);
}

void door_set_limit(struct door *door, uint64_t rows)
{
    door->limit = rows;
}

/* How many of its frames can't be decoded; -ENOMEM. */
static int count_invalid(struct door *door, const struct datagram *datagram)
{
    char reason[TOLL_REASON_MAX];
    struct datagram_parts parts;
    struct datagram_piece piece;
    struct toll_frame frame;
    int count = 0;

    datagram_open(&parts, datagram->data, datagram->size, datagram->truncated);
    while (datagram_next(&parts, &piece)) {
        int r = piece.broken ? -EINVAL : toll_frame_decode(door->decoder, piece.data, piece.size, &frame, reason);

        if (r == -ENOMEM)
            return r;
        count += r < 0 || frame.type == TOLL_FRAME_STREAM;
    }
    return count;
}

static bool is_full(struct door *door)
{
    uint64_t done = metrics_get(&door->metrics->frames_quarantined), arrived = done - door->done;

    door->coming -= arrived < door->coming ? arrived : door->coming;
    door->done = done;
    return metrics_get(&door->metrics->quarantine_rows) + door->coming >= door->limit;
}

/* A datagram can hold 65,536 frames of a byte each. Taken unseen, all that waits to be stored may be invalid: before that could fill half of the
 * quarantine, such are looked at when they come, not when they are in the table already. */
static bool may_fill(const struct door *door, uint64_t frames)
{
    const struct metrics *m = door->metrics;
    uint64_t done = metrics_get(&m->frames_stored) + metrics_get(&m->frames_duplicate) + door->done;
    uint64_t received = metrics_get(&m->frames_received), waiting = received > done ? received - done : 0;

    return frames >= FRAMES_MANY && metrics_get(&m->quarantine_rows) + waiting + frames >= door->limit / 2;
}

int door_pass(struct door *door, const struct datagram *datagram, const struct datagram_parts *parts,
              struct stream *stream, uint64_t frames)
{
    const struct toll_frame *envelope = &parts->envelope;
    bool full = is_full(door);
    int invalid;

    if (!full && !may_fill(door, frames))
        return 0;
    if (stream && stream_has(stream, envelope->stream_seq, envelope->stream_seq + envelope->stream_count))
        return 0; /* a duplicate adds nothing, and its sender must learn that it is one */
    invalid = count_invalid(door, datagram);
    if (invalid < 0)
        return -EAGAIN;
    if (!full || invalid == 0) {
        door->coming += (uint64_t)invalid;
        return 0;
    }
    if (stream)
        stream_refuse(stream);
    return -EINVAL;
}
