/* See intake.h. What becomes of one datagram; and who is told whose credit is short. */
#include "daemon/intake_internal.h"

#include "daemon/clock.h"
#include "daemon/datagram.h"
#include "daemon/log.h"
#include "proto/peek.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static void refuse_descriptors(struct intake *intake, const int *fds, int count, const struct datagram *datagram)
{
    static struct log_limit limit = LOG_LIMIT(5, 60 * 1000000);

    if (count <= 0)
        return;
    metrics_add(&intake->metrics->descriptors_refused, (uint64_t)count);
    log_limited(
        &limit, LOG_LEVEL_WARNING,
        "descriptors refused: no ack page was due, or it was no sealed memfd of 4096 bytes count=%d uid=%u pid=%u",
        count, datagram->uid, datagram->pid);
    closer_close(intake->closer, fds, (size_t)count);
}

/* The first descriptor may be an ack page; whatever else came is refused. */
static void take_descriptors(struct intake *intake, const struct datagram *datagram, struct stream *stream)
{
    struct ackpage *page;
    int taken = 0;

    if (datagram->fd_count == 0)
        return;
    if (stream && ackpage_map(&page, datagram->fds[0]) == 0) {
        close(datagram->fds[0]); /* a memfd: does not block */
        taken = 1;
        if (stream_attach(intake->streams, stream, page, datagram->pid, (uint64_t)clock_boottime_ms()) < 0)
            ackpage_unmap(page);
    }
    refuse_descriptors(intake, datagram->fds + taken, datagram->fd_count - taken, datagram);
}

static struct stream *find_stream(struct intake *intake, const struct datagram *datagram,
                                  const struct toll_frame *envelope, int64_t now_us)
{
    struct stream *stream =
        streams_get(intake->streams, datagram->uid, envelope->stream_id, envelope->stream_base, now_us);

    if (!stream)
        return NULL;
    stream_set_pid(stream, datagram->pid);
    if (envelope->client.ptr)
        stream_set_client(stream, envelope->client.ptr, envelope->client.len);
    return stream;
}

/* Somebody's credit is short: whose frame is this? */
static void note_session(struct intake *intake, const struct stream *stream, const struct datagram_piece *piece)
{
    uint8_t id[16];

    if (stream && !piece->broken && toll_peek_session(piece->data, piece->size, id))
        credit_note(intake->credit, id, stream_host(stream));
}

static int append(struct intake *intake, const struct datagram *datagram, struct datagram_index *index, int64_t now_us,
                  uint64_t *ret_end_lsn)
{
    uint8_t flags = datagram->truncated ? JOURNAL_TRUNCATED : 0;
    size_t size = datagram->size;

    if (index->count > 0) {
        flags |= JOURNAL_INDEXED;
        size = datagram_index_write(index, datagram->data, size);
    }
    return journal_append(intake->journal, JOURNAL_DATAGRAM, flags, datagram->uid, datagram->pid, now_us,
                          datagram->data, size, ret_end_lsn);
}

int intake_datagram(struct intake *intake, const struct datagram *datagram, int64_t now_us)
{
    struct stream *stream = NULL;
    struct datagram_parts parts;
    struct datagram_piece piece;
    struct datagram_index index;
    uint64_t frames = 0, end_lsn;
    int r;

    datagram_index_begin(&index);
    datagram_open(&parts, datagram->data, datagram->size, datagram->truncated);
    if (parts.sequenced) {
        stream = find_stream(intake, datagram, &parts.envelope, now_us);
        if (!stream)
            return -EAGAIN; /* out of memory: the same again later */
    }
    while (datagram_next(&parts, &piece)) {
        frames++;
        datagram_index_add(&index, &piece);
        if (!credit_none(intake->credit))
            note_session(intake, stream, &piece);
    }
    r = door_pass(intake->door, datagram, &parts, stream, frames);
    if (r == 0 && stream)
        r = stream_note(stream, parts.envelope.stream_seq, parts.envelope.stream_seq + parts.envelope.stream_count);
    if (r == -EINVAL || r == -E2BIG) { /* watch.c tells of it */
        metrics_add(&intake->metrics->datagrams_refused, 1);
        take_descriptors(intake, datagram, r == -EINVAL ? stream : NULL);
        return 0;
    }
    if (r < 0)
        return -EAGAIN;
    if (frames > 0) { /* an envelope alone only attaches */
        r = append(intake, datagram, &index, now_us, &end_lsn);
        if (r < 0)
            return r;
        if (stream)
            stream_journaled(intake->streams, stream, end_lsn);
    }
    take_descriptors(intake, datagram, stream);
    metrics_add(&intake->metrics->frames_received, frames);
    metrics_add(&intake->metrics->datagrams_received, 1);
    metrics_add(&intake->metrics->bytes_received, datagram->size);
    if (datagram->truncated)
        metrics_add(&intake->metrics->datagrams_truncated, 1);
    return 0;
}

/* --- credit ----------------------------------------------------------------------------------------------------------------- */

void intake_show_on_page(void *context, uint32_t host, struct ackpage *page)
{
    struct intake *intake = context;

    credit_show(intake->credit, host, page);
}

void intake_show_credit(struct intake *intake)
{
    if (!credit_changed(intake->credit))
        return;
    streams_foreach_page(intake->streams, intake_show_on_page, intake);
    credit_shown(intake->credit);
}

void intake_set_credit(struct intake *intake, struct credit_session *list, size_t count)
{
    static struct log_limit limit = LOG_LIMIT(2, 60 * 1000000);

    if (credit_replace(intake->credit, list, count) < 0) { /* it is read again every few seconds */
        log_limited(&limit, LOG_LEVEL_WARNING, "workers are not told whose credit is short: out of memory");
        free(list);
    }
    intake_show_credit(intake);
}
