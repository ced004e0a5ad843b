/* See apply_internal.h. From a batch's pieces to what the sink stores. */
#include "daemon/apply_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { REFUSED_IN_A_ROW = 20 };

/* What is built at a time: the lock is held so long, and so much goes to the sink at once. */
enum { PUSH_FRAMES = 256, PUSH_BYTES = 128 * 1024 };

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
    const struct known_stream *stream = apply_source(apply, piece)->stream;
    struct sink_origin origin; /* made where it lies: a copy of it right away took 4 % of the writer's time */
    struct sink_row row = {.frame = frame, .origin = &origin};
    bool session_frame = frame->type == TOLL_FRAME_SESSION_START || frame->type == TOLL_FRAME_SESSION_END;
    int r = 0;

    apply_origin(apply, piece, &origin);
    row.occurred_us = clamp_time(apply, frame->time_us, origin.received_us, &row.reported_us);
    if (frame->has_session_id && frame->type != TOLL_FRAME_GAP)
        r = session_apply(sessions, frame, row.occurred_us, row.reported_us, origin.received_us,
                          stream ? idhash_host(stream->hh.hashv) : 0, stream ? &stream->key : NULL);
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
        struct piece *piece = apply_piece(apply, i);

        apply_fetch_piece(apply, i);
        if (piece->dropped)
            continue;
        r = toll_frame_decode(apply->decoder, apply_bytes(apply, piece), piece->size, &frame, reason);
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

/* Where the next push ends. */
static size_t push_end(const struct apply *apply, size_t first, size_t end)
{
    size_t bytes = 0, i = first;

    while (i < end && i - first < PUSH_FRAMES && bytes < PUSH_BYTES)
        bytes += apply_piece_size(apply, i++);
    return i;
}

static int try_pieces(struct apply *apply, struct session_table *sessions, size_t first, size_t end, bool careful)
{
    const struct sink_ops *ops = apply->sink->ops;
    struct session_change *const *changes;
    size_t count, next;
    int r = ops->attempt(apply->sink, careful);

    for (; r == 0 && first < end; first = next) {
        next = push_end(apply, first, end);
        pthread_mutex_lock(&apply->lock);
        r = build(apply, sessions, first, next);
        pthread_mutex_unlock(&apply->lock);
        if (r == 0 && ops->push)
            r = ops->push(apply->sink);
        if (r == 0 && ops->push && !careful)
            r = apply_read_ahead(apply);
    }
    if (r < 0)
        return r;
    changes = session_changes(sessions, &count);
    return ops->store(apply->sink, changes, count);
}

static size_t count_new(const struct apply *apply, size_t first, size_t end)
{
    size_t count = 0;

    for (size_t i = first; i < end; i++)
        count += !apply->got.pieces[i].dropped;
    return count;
}

/* --- careful batches ------------------------------------------------------------------------------------------------------ */

static void add_verdict(struct verdicts *verdicts, size_t refused, const char *class)
{
    if (verdicts->refused > 0 && strcmp(verdicts->class, class) != 0)
        verdicts->differ = true;
    verdicts->refused += refused;
    snprintf(verdicts->class, sizeof(verdicts->class), "%s", class);
}

/* How many of the frames tried since `before`, count in all, were for which table. */
static void count_targets(const struct tally *before, const struct tally *after, size_t count, size_t ret[TARGETS])
{
    ret[TARGET_EVENTS] = after->counts.events - before->counts.events;
    ret[TARGET_TRANSCRIPTS] = after->counts.transcripts - before->counts.transcripts;
    ret[TARGET_GAPS] = after->counts.gaps - before->counts.gaps;
    ret[TARGET_SESSIONS] = count - ret[TARGET_EVENTS] - ret[TARGET_TRANSCRIPTS] - ret[TARGET_GAPS];
}

static int note_failure(struct apply *apply, size_t index, const size_t targets[TARGETS])
{
    const char *class = apply->sink->ops->error_class(apply->sink);
    char reason[TOLL_REASON_MAX];

    for (size_t i = 0; i < TARGETS; i++)
        if (targets[i])
            add_verdict(&apply->verdicts[i], 1, class);
    snprintf(reason, sizeof(reason), "%s", apply->sink->ops->error(apply->sink));
    return apply_refuse(apply, &apply->got.pieces[index], reason);
}

/* Halves [first, end) until the frames that are refused stand alone; the others are kept. Sessions are looked at anew in each
 * attempt, and their totals summed from what is stored. */
static int try_carefully(struct apply *apply, size_t first, size_t end)
{
    const struct tally before = apply->tally;
    size_t middle = first + (end - first) / 2, targets[TARGETS];
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
    count_targets(&before, &apply->tally, count_new(apply, first, end), targets);
    if (r == 0) {
        for (size_t i = 0; i < TARGETS; i++)
            apply->verdicts[i].taken += targets[i];
        return 0;
    }
    apply->tally.counts.events = before.counts.events;
    apply->tally.counts.transcripts = before.counts.transcripts;
    apply->tally.counts.gaps = before.counts.gaps;
    apply->tally.strings_replaced = before.strings_replaced;
    apply->tally.gap_frames = before.gap_frames;
    if (end - first == 1)
        return note_failure(apply, first, targets);
    r = try_carefully(apply, first, middle);
    return r < 0 ? r : try_carefully(apply, middle, end);
}

/* Where all that there is fails alike, the table is at fault, not the rows. Likewise where a table takes nothing though others do: but of a few
 * rows one can't tell, so it must have refused some, also in batches before. That much goes for all that there is as well where nothing more can come. */
static bool table_at_fault(const struct apply *apply)
{
    struct verdicts all = {.refused = 0};
    bool at_fault = false;

    for (size_t i = 0; i < TARGETS; i++) {
        const struct verdicts *now = &apply->verdicts[i];
        struct verdicts streak = apply->streak[i];

        all.taken += now->taken;
        if (now->refused == 0)
            continue;
        all.differ = all.differ || now->differ;
        add_verdict(&all, now->refused, now->class);
        add_verdict(&streak, now->refused, now->class);
        if (now->taken == 0 && !now->differ && !streak.differ && streak.refused >= REFUSED_IN_A_ROW)
            at_fault = true;
    }
    return at_fault || (all.refused > 0 && all.taken == 0 && !all.differ && !apply->alone);
}

int apply_store_pieces(struct apply *apply)
{
    const struct tally nothing = {.replayed = 0};
    size_t taken[TARGETS];
    int r;

    memset(apply->verdicts, 0, sizeof(apply->verdicts));
    apply->order = NULL;
    if (!apply->careful) {
        apply_order(apply);
        r = try_pieces(apply, apply->sessions, 0, apply->got.piece_count, false);
        count_targets(&nothing, &apply->tally, count_new(apply, 0, apply->got.piece_count), taken);
        for (size_t i = 0; i < TARGETS; i++)
            apply->verdicts[i].taken = taken[i];
        return r;
    }
    r = try_carefully(apply, 0, apply->got.piece_count);
    return r == 0 && table_at_fault(apply) ? -EINVAL : r;
}

void apply_note_verdicts(struct apply *apply)
{
    for (size_t i = 0; i < TARGETS; i++) {
        const struct verdicts *now = &apply->verdicts[i];
        struct verdicts *streak = &apply->streak[i];

        if (now->taken)
            *streak = (struct verdicts){.refused = 0};
        else if (now->refused) {
            add_verdict(streak, now->refused, now->class);
            streak->differ = streak->differ || now->differ;
        }
    }
}
