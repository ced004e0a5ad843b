/* See apply_internal.h. From a batch's pieces to what the sink stores. */
#include "daemon/apply_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int64_t clamp_time(const struct apply *apply, int64_t given_us, int64_t received_us, int64_t *ret_reported_us)
{
    int64_t clamped = given_us;

    *ret_reported_us = TOLL_TIME_MISSING;
    if (given_us == TOLL_TIME_MISSING)
        return received_us;
    if (given_us > received_us + apply->options.future_tolerance_us)
        clamped = received_us + apply->options.future_tolerance_us;
    else if (given_us < received_us - apply->options.past_tolerance_us)
        clamped = received_us - apply->options.past_tolerance_us;
    if (clamped != given_us)
        *ret_reported_us = given_us;
    return clamped;
}

static int store_frame(struct apply *apply, struct session_table *sessions, const struct piece *piece,
                       const struct toll_frame *frame)
{
    struct sink_row row = {.frame = frame, .origin = &piece->origin};
    bool session_frame = frame->type == TOLL_FRAME_SESSION_START || frame->type == TOLL_FRAME_SESSION_END;
    int r = 0;

    row.occurred_us = clamp_time(apply, frame->time_us, piece->origin.received_us, &row.reported_us);
    if (frame->has_session_id && frame->type != TOLL_FRAME_GAP)
        r = session_apply(sessions, frame, row.occurred_us, row.reported_us, piece->origin.received_us);
    if (r == 0 && !session_frame)
        r = apply->sink->ops->add(apply->sink, &row);
    apply->tally.counts.transcripts += frame->type == TOLL_FRAME_TRANSCRIPT;
    apply->tally.counts.gaps += frame->type == TOLL_FRAME_GAP;
    apply->tally.counts.events +=
        !session_frame && frame->type != TOLL_FRAME_TRANSCRIPT && frame->type != TOLL_FRAME_GAP;
    apply->tally.strings_replaced += frame->replaced;
    apply->tally.gap_frames += frame->type == TOLL_FRAME_GAP ? frame->gap_count : 0;
    return r;
}

/* Decodes and hands on the pieces [first, end): what the sink is to try at once. */
static int build(struct apply *apply, struct session_table *sessions, size_t first, size_t end)
{
    char reason[TOLL_REASON_MAX];
    struct toll_frame frame;
    int r = 0;

    for (size_t i = first; r == 0 && i < end; i++) {
        struct piece *piece = &apply->pieces[i];

        if (piece->dropped)
            continue;
        r = toll_frame_decode(apply->decoder, piece->origin.data, piece->origin.size, &frame, reason);
        if (r == 0 && frame.type == TOLL_FRAME_STREAM) {
            snprintf(reason, sizeof(reason), "stream: an envelope must be the first frame of its datagram");
            r = -EINVAL;
        }
        if (r == -EINVAL || r == -EBADMSG)
            r = apply_refuse(apply, piece, reason);
        else if (r == 0)
            r = store_frame(apply, sessions, piece, &frame);
    }
    return r;
}

static int try_pieces(struct apply *apply, struct session_table *sessions, size_t first, size_t end, bool careful)
{
    struct session_change *const *changes;
    size_t count;
    int r = apply->sink->ops->attempt(apply->sink, careful);

    if (r < 0)
        return r;
    pthread_mutex_lock(&apply->lock);
    r = build(apply, sessions, first, end);
    pthread_mutex_unlock(&apply->lock);
    changes = session_changes(sessions, &count);
    return r < 0 ? r : apply->sink->ops->store(apply->sink, changes, count);
}

static size_t count_new(const struct apply *apply, size_t first, size_t end)
{
    size_t count = 0;

    for (size_t i = first; i < end; i++)
        count += !apply->pieces[i].dropped;
    return count;
}

static int note_failure(struct apply *apply, size_t index)
{
    const char *class = apply->sink->ops->error_class(apply->sink);
    char reason[TOLL_REASON_MAX];

    if (apply->attempt_failures++ == 0)
        snprintf(apply->first_class, sizeof(apply->first_class), "%s", class);
    else if (strcmp(apply->first_class, class) != 0)
        apply->classes_differ = true;
    snprintf(reason, sizeof(reason), "%s", apply->sink->ops->error(apply->sink));
    return apply_refuse(apply, &apply->pieces[index], reason);
}

/* Halves [first, end) until the frames that are refused stand alone; the others are kept. Sessions are looked at anew in each
 * attempt, and their totals summed from what is stored. */
static int try_carefully(struct apply *apply, size_t first, size_t end)
{
    const struct tally before = apply->tally;
    size_t middle = first + (end - first) / 2;
    int r, settled;

    if (count_new(apply, first, end) == 0)
        return 0;
    r = try_pieces(apply, apply->scratch, first, end, true);
    session_table_clear(apply->scratch);
    if (r < 0 && r != -EINVAL)
        return r;
    settled = apply->sink->ops->settle(apply->sink, r == 0);
    if (settled < 0)
        return settled;
    if (r == 0) {
        apply->attempt_successes += count_new(apply, first, end);
        return 0;
    }
    apply->tally.counts.events = before.counts.events;
    apply->tally.counts.transcripts = before.counts.transcripts;
    apply->tally.counts.gaps = before.counts.gaps;
    apply->tally.strings_replaced = before.strings_replaced;
    apply->tally.gap_frames = before.gap_frames;
    if (end - first == 1)
        return note_failure(apply, first);
    r = try_carefully(apply, first, middle);
    return r < 0 ? r : try_carefully(apply, middle, end);
}

int apply_store_pieces(struct apply *apply)
{
    int r;

    if (!apply->careful)
        return try_pieces(apply, apply->sessions, 0, apply->piece_count, false);
    apply->attempt_failures = apply->attempt_successes = 0;
    apply->classes_differ = false;
    r = try_carefully(apply, 0, apply->piece_count);
    /* Where all that there is fails alike, the table is at fault, not the rows. */
    if (r == 0 && apply->attempt_failures > 0 && apply->attempt_successes == 0 && !apply->classes_differ)
        return -EINVAL;
    return r;
}
