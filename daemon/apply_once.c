/* See apply_internal.h. Which pieces are new: a frame's number is stored once, however often it was sent. */
#include "daemon/apply_internal.h"

#include "daemon/share.h"
#include "proto/utf8.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

int apply_refuse(struct apply *apply, struct piece *piece, const char *reason)
{
    struct sink_refused *list =
        apply_grow(apply->refused, &apply->refused_capacity, apply->refused_count, sizeof(*list));
    char clean[TOLL_REASON_MAX];

    if (!list)
        return -ENOMEM;
    apply->refused = list;
    toll_utf8_copy(reason, strlen(reason), clean, sizeof(clean)); /* a server's message may be in any encoding */
    apply_origin(apply, piece, &list[apply->refused_count].origin);
    list[apply->refused_count].reason = strdup(clean);
    if (!list[apply->refused_count].reason)
        return -ENOMEM;
    apply->refused_count++;
    piece->dropped = true;
    apply->tally.counts.quarantined++;
    return 0;
}

static void drop_duplicate(struct apply *apply, struct piece *piece)
{
    piece->dropped = true;
    apply->tally.counts.duplicates++;
}

static bool is_unknown(const struct known_stream *stream)
{
    return stream->stream.revision == 0;
}

static bool is_changed(const struct known_stream *stream)
{
    return stream->changed;
}

/* Fills stream_list with those that `wanted` picks. */
static int list_streams(struct apply *apply, bool (*wanted)(const struct known_stream *stream), size_t *ret_count)
{
    size_t count = 0;

    for (struct known_stream *stream = apply->streams; stream; stream = stream->hh.next) {
        struct sink_stream **list;

        if (!wanted(stream))
            continue;
        list = apply_grow(apply->stream_list, &apply->stream_capacity, count, sizeof(struct sink_stream *));
        if (!list)
            return -ENOMEM;
        apply->stream_list = list;
        list[count++] = &stream->stream;
    }
    *ret_count = count;
    return 0;
}

int apply_load_streams(struct apply *apply)
{
    size_t count;
    int r = list_streams(apply, is_unknown, &count);

    return r < 0 ? r : apply->sink->ops->load_streams(apply->sink, apply->stream_list, count);
}

int apply_list_changed(struct apply *apply, size_t *ret_count)
{
    return list_streams(apply, is_changed, ret_count);
}

/* A number is stored if it is marked by the writer whose frame it was, in this row or in one that was kept when the writers were another number. */
static bool is_stored(const struct apply *apply, const struct sink_stream *stream, const struct piece *piece)
{
    uint64_t missing = piece->seq, before;

    do {
        before = missing;
        missing = rangeset_first_missing(&stream->seen, missing);
        for (size_t i = 0; i < stream->other_count && missing < piece->seq_end; i++) {
            const struct sink_stream_other *other = &stream->others[i];
            unsigned owner = piece->broken ? 0 : share_of_frame(apply_bytes(apply, piece), piece->size, other->writers);

            if (owner == other->writer)
                missing = rangeset_first_missing(&other->seen, missing);
        }
    } while (missing != before && missing < piece->seq_end);
    return missing >= piece->seq_end;
}

/* A piece with numbers: stored only if one of them is new, which makes its datagram new. */
static int mark_numbers(struct apply *apply, struct piece *piece, bool *datagram_is_new)
{
    struct known_stream *stream = apply_source(apply, piece)->stream;
    bool was_seen, duplicate;
    int r;

    assert(stream); /* only an envelope gives numbers */
    was_seen = rangeset_first_missing(&stream->stream.seen, piece->seq) >= piece->seq_end;
    duplicate = !piece->others && (was_seen || is_stored(apply, &stream->stream, piece));
    if (duplicate)
        drop_duplicate(apply, piece);
    if (was_seen)
        return 0;
    r = rangeset_add(&stream->stream.seen, piece->seq, piece->seq_end);
    if (r == -E2BIG && piece->dropped)
        return 0;
    if (r == -E2BIG)
        return apply_refuse(apply, piece, "stream: its numbers have more than 1024 holes");
    if (r < 0)
        return r;
    stream->changed = true;
    if (duplicate)
        return 0;
    *datagram_is_new = true;
    return piece->broken && !piece->others ? apply_refuse(apply, piece, piece->broken) : 0;
}

/* Nearly always all frames of a datagram are new: then their numbers are marked at once. Returns how many pieces from the index-th on these are; 0: they are to
 * be looked at one by one; or -ENOMEM. */
static ssize_t mark_new_ones(struct apply *apply, size_t index)
{
    const struct piece *first = &apply->got.pieces[index], *end = apply->got.pieces + apply->got.piece_count, *piece;
    struct known_stream *stream = apply_source(apply, first)->stream;
    uint64_t next = first->seq;
    int r;

    if (!stream || first->seq == 0 || stream->stream.other_count > 0)
        return 0;
    for (piece = first; piece < end && piece->source == first->source; piece++) {
        if (piece->seq != next || piece->others || piece->broken)
            break;
        next = piece->seq_end;
    }
    if (piece == first || rangeset_overlaps(&stream->stream.seen, first->seq, next))
        return 0;
    r = rangeset_add(&stream->stream.seen, first->seq, next);
    if (r < 0)
        return r == -E2BIG ? 0 : r;
    stream->changed = true;
    return piece - first;
}

int apply_drop_stored(struct apply *apply)
{
    bool datagram_is_new = true;
    uint64_t lsn = UINT64_MAX;
    uint32_t mixed = UINT32_MAX; /* the source of which not all are new: looking at all of it once is enough */
    int r = 0;

    for (size_t i = 0; r == 0 && i < apply->got.piece_count; i++) {
        struct piece *piece = &apply->got.pieces[i];
        const struct source *source = apply_source(apply, piece);
        ssize_t marked = 0;

        if (source->lsn != lsn) { /* the next datagram; one without numbers is always new */
            lsn = source->lsn;
            datagram_is_new = !source->stream || piece->seq == 0;
        }
        if (piece->source != mixed)
            marked = mark_new_ones(apply, i);
        if (marked < 0)
            return (int)marked;
        if (marked == 0)
            mixed = piece->source;
        if (marked > 0) {
            datagram_is_new = true;
            i += (size_t)marked - 1;
        } else if (piece->seq) {
            r = mark_numbers(apply, piece, &datagram_is_new);
        } else if (piece->broken) {
            /* Bytes after the frames that an envelope counts: they come again when the datagram is sent again. */
            if (datagram_is_new)
                r = apply_refuse(apply, piece, piece->broken);
            else
                drop_duplicate(apply, piece);
        }
    }
    return r;
}
