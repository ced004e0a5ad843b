/* A machine: a disk, and on it the daemon's journal driven as intake drives it and read as the writer reads it, with the
 * senders that talk to it. The database is another machine: what it has committed stays.
 *
 * What fails brings the daemon down (`journal` is NULL then), as it does the real one; host_start() is what systemd does
 * next. Frames that no ack covers are sent again after every start. For one thread. */
#ifndef TOLL_TESTS_STORAGE_HOST_H
#define TOLL_TESTS_STORAGE_HOST_H

#include "daemon/datagram.h"
#include "daemon/journal.h"
#include "tests/support/onewriter.h"
#include "tests/fault/storage/ledger.h"
#include "tests/support/fakedisk.h"
#include "tests/unit/fake_sink.h"

#define DAY_US (INT64_C(24) * 3600 * 1000000)

struct host;

struct host_sink {
    struct fake_sink fake; /* first: the sink's calls get it as such */
    struct host *host;
};

struct host {
    struct fakedisk *disk;
    struct journal_io io;
    struct journal_options options;
    struct writer_options writer_options;
    struct fake_db *db;
    struct ledger *ledger;
    int moment;
    void (*happened)(struct host *host); /* a moment: something was acknowledged or committed. May be NULL */
    void *context;

    /* The daemon; all zero while it is down. */
    struct journal *journal;
    struct journal_report report;
    struct host_sink sink;
    struct metrics metrics;
    struct writer_core *writer;
    struct writer_wishes wishes;
    struct writer_status status;
    uint64_t committed_lsn; /* as intake knows it */
    int64_t now_us;         /* of both clocks; waiting takes no time */

    bool rewriting;     /* within journal_rewrite() */
    bool no_take_back;  /* leave that part of the story out */
    uint64_t stored_to; /* where the log ended when the daemon stopped with all of it stored; 0: not all was */
    unsigned renewals, collected; /* for the story to see that it told everything */
};

static inline void host_init(struct host *host, struct fakedisk *disk, struct fake_db *db, struct ledger *ledger)
{
    *host = (struct host){.disk = disk, .db = db, .ledger = ledger};
    host->options = (struct journal_options){.state_dir = "state", .segment_bytes = 1024, .machine_id = {1}};
    host->writer_options = (struct writer_options){.apply = {.batch_rows = 12,
                                                             .batch_bytes = 64 * 1024,
                                                             .idle_timeout_us = DAY_US,
                                                             .future_tolerance_us = DAY_US,
                                                             .past_tolerance_us = DAY_US,
                                                             .sessions_max = 100,
                                                             .streams_max = 100},
                                                   .retry_max_us = 1000000,
                                                   .host = "host"};
    host->now_us = LEDGER_EPOCH;
    for (int n = 0; n < ledger->count; n++)
        ledger->frames[n].end_lsn = 0;
}

static inline void host_moment(struct host *host)
{
    host->moment++;
    if (host->happened)
        host->happened(host);
}

/* The database is seen to change when a journal is registered there and when a batch is committed. */
static inline int host_sink_open(struct sink *sink, const struct sink_journal *journal, uint64_t *ret_lsn)
{
    struct host *host = ((struct host_sink *)(void *)sink)->host;
    size_t known = host->db->now.watermark_count;
    int r = fake_open(sink, journal, ret_lsn);

    if (host->db->now.watermark_count != known)
        host_moment(host);
    return r;
}

static inline int host_sink_commit(struct sink *sink)
{
    int r = fake_commit(sink);

    if (r == 0)
        host_moment(((struct host_sink *)(void *)sink)->host);
    return r;
}

/* A copy of a database, as it stands or as it was when `state` was copied. */
static inline struct fake_db host_copy_db(const struct fake_db *db, const struct fake_state *state)
{
    struct fake_db copy = {.now = fake_state_copy(state)};

    copy.row_capacity = copy.now.row_count;
    copy.rows = fake_copy(db->rows, copy.row_capacity, sizeof *db->rows);
    copy.refused_capacity = copy.now.refused_count;
    copy.refused = fake_copy(db->refused, copy.refused_capacity, sizeof *db->refused);
    copy.batch_capacity = copy.now.batch_count;
    copy.batches = fake_copy(db->batches, copy.batch_capacity, sizeof *db->batches);
    return copy;
}

/* The frames of a record, by n. */
static inline void host_each_frame(const struct journal_record *record, void (*each)(void *context, int n),
                                   void *context)
{
    struct datagram_parts parts;
    struct datagram_piece piece;
    struct toll_frame frame;
    struct toll_decoder *decoder = toll_decoder_new();
    char reason[TOLL_REASON_MAX];

    assert(decoder);
    if (record->kind == JOURNAL_DATAGRAM)
        datagram_open(&parts, record->payload, record->size, false);
    while (record->kind == JOURNAL_DATAGRAM && datagram_next(&parts, &piece))
        if (toll_frame_decode(decoder, piece.data, piece.size, &frame, reason) == 0)
            each(context, (int)(frame.time_us - LEDGER_EPOCH));
    toll_decoder_free(decoder);
}

/* Down and up. */

/* Frees what the daemon held, without a trace on the disk. */
static inline void host_gone(struct host *host)
{
    bool off = host->disk->off;

    host->disk->off = true;
    if (host->writer)
        fake_free(&host->sink.fake.sink);
    writer_core_free(host->writer);
    journal_close(host->journal);
    host->disk->off = off;
    host->writer = NULL;
    host->journal = NULL;
    for (int n = 0; n < host->ledger->count; n++)
        host->ledger->frames[n].end_lsn = 0;
}

static inline struct writer_time host_time(const struct host *host)
{
    return (struct writer_time){.monotonic_us = host->now_us, .realtime_us = host->now_us};
}

static inline void host_reported(void *context, const struct writer_status *status)
{
    struct host *host = context;

    host->status = *status;
    if (status->state == WRITER_OK)
        host->committed_lsn = status->committed_lsn;
}

static inline int host_start(struct host *host)
{
    static struct sink_ops ops;

    assert(!host->journal);
    host->options.io = &host->io;
    host->io = fakedisk_io(host->disk);
    host->metrics = (struct metrics){0};
    host->wishes = (struct writer_wishes){0};
    host->status = (struct writer_status){0};
    host->committed_lsn = 0;
    int r = journal_open(&host->journal, &host->options, &host->report);
    if (r < 0) {
        host->journal = NULL;
        return r;
    }
    ops = fake_sink_ops;
    ops.open = host_sink_open;
    ops.commit = host_sink_commit;
    fake_sink_init(&host->sink.fake, host->db);
    host->sink.fake.sink.ops = &ops;
    host->sink.host = host;
    one_writer_muster(&host->wishes);
    host->writer_options.counted_lsn = journal_end_lsn(host->journal);
    host->writer = writer_core_new(&host->writer_options, host->journal, &host->sink.fake.sink, &host->metrics,
                                   host_time(host), host_reported, host);
    assert(host->writer);
    return 0;
}

/* Acknowledging: a pure look at what is durable. */
static inline void host_acknowledge(struct host *host)
{
    uint64_t durable = journal_durable_lsn(host->journal);
    bool any = false;

    for (int n = 0; n < host->ledger->count; n++) {
        struct sent *frame = &host->ledger->frames[n];
        if (frame->acked_at != NEVER || frame->end_lsn == 0 || frame->end_lsn > durable)
            continue;
        frame->acked_at = host->moment + 1;
        any = true;
    }
    if (any)
        host_moment(host);
}

/* The journal can't be written: what is durable was acknowledged and stays so, the daemon ends. */
static inline void host_break_down(struct host *host)
{
    host_acknowledge(host);
    host_gone(host);
}

/* Intake's part. */

static inline int host_rewrite(struct host *host)
{
    host->rewriting = true;
    int r = journal_rewrite(host->journal);
    host->rewriting = false;
    return r;
}

static inline void host_write(struct host *host)
{
    if (!host->journal)
        return;
    int r = journal_write(host->journal);
    if (r == -EIO)
        r = host_rewrite(host);
    if (r < 0)
        host_break_down(host);
}

/* The pool's thread and what comes after it: covers what was written, not what came since. */
static inline void host_sync_written(struct host *host)
{
    if (!host->journal)
        return;
    int r = journal_sync(host->journal);
    if (r < 0)
        r = host_rewrite(host);
    if (r < 0)
        host_break_down(host);
    else
        host_acknowledge(host);
}

static inline void host_sync(struct host *host)
{
    host_write(host);
    host_sync_written(host);
}

static inline void host_collect(struct host *host)
{
    if (!host->journal)
        return;
    uint64_t before = journal_oldest_lsn(host->journal);
    /* What fails here is logged and tried again a moment later. */
    (void)!journal_collect(host->journal, host->committed_lsn, host->now_us + DAY_US);
    host->collected += before != journal_oldest_lsn(host->journal);
}

static inline void host_mark(struct host *host)
{
    uint64_t end;

    if (!host->journal || !journal_wants_mark(host->journal) ||
        journal_append(host->journal, JOURNAL_MARK, 0, 0, 0, LEDGER_EPOCH, NULL, 0, &end) < 0)
        return;
    host_sync(host);
}

/* Takes one datagram; while the journal has no place for it the socket is not read, and timers run. False: the daemon went
 * down, or the place did not come; the sender keeps the frames. */
static inline bool host_receive(struct host *host, int sender, uint64_t seq, int count)
{
    uint8_t bytes[2048];
    size_t size = ledger_datagram(host->ledger, sender, seq, count, bytes, sizeof bytes);
    int64_t received_us = LEDGER_EPOCH + host->ledger->of[sender][seq - 1];
    uint64_t end_lsn;

    for (int tries = 0; host->journal && tries < 4; tries++) {
        int r = journal_room(host->journal, size, 1, true); /* while it is in the socket it outlives us */
        if (r < 0)
            r = journal_room(host->journal, size, 1, false);
        if (r == 0)
            r = journal_append(host->journal, JOURNAL_DATAGRAM, 0, sender_uid(sender), 7, received_us, bytes, size,
                               &end_lsn);
        if (r == 0) {
            for (int i = 0; i < count; i++) {
                struct sent *frame = &host->ledger->frames[host->ledger->of[sender][seq - 1 + (uint64_t)i]];
                if (frame->end_lsn == 0)
                    frame->end_lsn = end_lsn;
            }
            return true;
        }
        if (r != -EAGAIN && r != -ENOSPC) {
            host_break_down(host);
            return false;
        }
        host_sync(host);
        host_collect(host);
    }
    return false;
}

static inline void host_send(struct host *host, int sender, int count)
{
    uint64_t seq = (uint64_t)host->ledger->sent[sender] + 1;

    for (int i = 0; i < count; i++)
        (void)ledger_new(host->ledger, sender, host->moment);
    (void)host_receive(host, sender, seq, count);
}

/* Every sender but the one without numbers sends again what it has no ack for. */
static inline void host_resend(struct host *host)
{
    const struct ledger *ledger = host->ledger;

    for (int sender = 1; sender < SENDERS; sender++)
        for (int at = 0, count; at < ledger->sent[sender]; at += count) {
            count = 1;
            if (ledger->frames[ledger->of[sender][at]].acked_at != NEVER)
                continue;
            while (count < GROUP_FRAMES_MAX && at + count < ledger->sent[sender])
                count++;
            if (!host_receive(host, sender, (uint64_t)at + 1, count))
                return;
        }
}

/* The writer's part. */

static inline void host_renew(struct host *host)
{
    uint64_t from = host->status.notes.stored_lsn;
    uint8_t uuid[16];
    int r = journal_draw_uuid(host->journal, uuid);

    if (r == 0)
        r = journal_renew(host->journal, from, uuid);
    if (r < 0) {
        host_break_down(host);
        return;
    }
    host->renewals++;
    host->committed_lsn = 0;
    one_writer_renewed(&host->wishes, from);
    for (int n = 0; n < host->ledger->count; n++) /* what was in the log is durable in the new one */
        if (host->ledger->frames[n].end_lsn > 0)
            host->ledger->frames[n].end_lsn = 1;
    host_acknowledge(host);
}

/* One turn of the writer. Returns what it did. */
static inline enum writer_next host_turn(struct host *host)
{
    int64_t until_us;
    enum writer_next next = writer_look(host->writer, &host->wishes, host->now_us, &until_us);

    if (next == WRITER_WAIT && until_us != INT64_MAX)
        host->now_us = until_us;
    else if (next != WRITER_WAIT)
        writer_do(host->writer, next, host_time(host));
    if (one_writer_renews(&host->wishes, &host->status))
        host_renew(host);
    return next;
}

/* Turns of the writer until it has stored `batches`, or all that is durable, or fails again and again. True: there is nothing
 * left to store. */
static inline bool host_store_some(struct host *host, int batches)
{
    uint64_t failures = host->journal ? host->status.failures : 0;

    while (host->journal && host->status.failures < failures + 3) {
        bool ok = host->status.state == WRITER_OK;
        if (ok && host->status.applied_lsn >= journal_durable_lsn(host->journal))
            return true;
        if (ok && batches == 0)
            return false;
        if (host_turn(host) == WRITER_APPLY)
            batches--;
    }
    return false;
}

static inline bool host_store(struct host *host)
{
    return host_store_some(host, INT_MAX);
}

/* SIGTERM: writes, syncs, stores, closes. */
static inline void host_stop(struct host *host)
{
    host->stored_to = 0;
    host_sync(host);
    if (!host->journal)
        return;
    host->wishes.stopping = true;
    while (host->journal && host_turn(host) != WRITER_END)
        ;
    if (!host->journal)
        return;
    if (host->status.applied_lsn >= journal_durable_lsn(host->journal))
        host->stored_to = journal_end_lsn(host->journal);
    writer_core_free(host->writer);
    host->writer = NULL;
    fake_free(&host->sink.fake.sink);
    journal_close(host->journal);
    host->journal = NULL;
    host_gone(host);
}

#endif
