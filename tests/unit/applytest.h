/* What the tests of daemon/apply share: a real journal in a directory of its own, a sink in memory, what a
 * worker sends and what a writer does. */
#ifndef TOLL_TESTS_APPLYTEST_H
#define TOLL_TESTS_APPLYTEST_H

#include "daemon/apply.h"
#include "tests/unit/datagrams.h"
#include "tests/unit/fake_sink.h"

#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

#define NOW    INT64_C(1800000000000000) /* 2027 */
#define MINUTE INT64_C(60000000)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)

enum { WORKER = 1001, TRIES_MAX = 2000 };

static char dir[64];
static struct journal *journal;
static struct journal_reader *reader;
static struct fake_db db;
static struct fake_sink sink;
static struct metrics metrics;
static struct apply *apply;
static uint64_t counted_lsn; /* what intake would have counted */
static struct apply_options options;
static struct bytes datagram;

static inline void world_open(void)
{
    fake_sink_init(&sink, &db);
    metrics = (struct metrics){0};
    counted_lsn = 0;
    apply = apply_new(&options, &sink.sink, &metrics);
    ck_assert_ptr_nonnull(apply);
}

static inline void world_close(void)
{
    apply_free(apply);
    sink.sink.ops->free(&sink.sink);
    fake_db_done(&db);
}

static inline void setup(void)
{
    struct journal_options journal_options = {.state_dir = dir, .segment_bytes = 4 << 20};

    snprintf(dir, sizeof(dir), "/tmp/toll-test-apply.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(journal_open(&journal, &journal_options, NULL), 0);
    ck_assert_int_eq(journal_reader_new(&reader, journal), 0);
    options = (struct apply_options){
        .batch_rows = 1000,
        .batch_bytes = 1 << 20,
        .idle_timeout_us = HOUR,
        .future_tolerance_us = 10 * MINUTE,
        .past_tolerance_us = 400 * DAY,
        .sessions_max = 1000,
        .streams_max = 1000,
    };
    datagram.size = 0;
    world_open();
}

static inline int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

static inline void teardown(void)
{
    world_close();
    journal_reader_free(reader);
    journal_close(journal);
    ck_assert_int_eq(nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* --- the worker's and the receive loop's part ---------------------------------------------------------- */

static inline void journal_raw(uint32_t uid, uint8_t flags, int64_t received_us, const void *data, size_t size)
{
    uint64_t end_lsn;

    ck_assert_int_eq(journal_append(journal, JOURNAL_DATAGRAM, flags, uid, 77, received_us, data, size, &end_lsn), 0);
}

static inline void make_durable(void)
{
    ck_assert_int_eq(journal_write(journal), 0);
    ck_assert_int_eq(journal_sync(journal), 0);
}

/* Sends what was built, and begins anew. */
static inline void send_at(int64_t received_us)
{
    journal_raw(WORKER, 0, received_us, datagram.data, datagram.size);
    datagram.size = 0;
    make_durable();
}

static inline void send_now(void)
{
    send_at(NOW);
}

/* Sends so many llm frames in datagrams of four; their tags are ok0, ok1 …, and one is `bad`. */
static inline void send_tagged(unsigned count, const char *bad, unsigned bad_at)
{
    char tag[16];

    for (unsigned i = 0; i < count; i++) {
        snprintf(tag, sizeof(tag), "ok%u", i);
        add_llm(&datagram, i % 5, NOW, 1, 1, i == bad_at ? bad : tag);
        if (i % 4 == 3)
            send_now();
    }
    if (datagram.size)
        send_now();
}

/* --- the writer's part --------------------------------------------------------------------------------- */

static inline int reopen(void)
{
    const uint64_t oldest = journal_oldest_lsn(journal);
    struct sink_journal identity = {.host = "test", .writers = 1, .register_lsns = &oldest};
    uint64_t watermark;
    int r;

    memcpy(identity.uuid, journal_uuid(journal), sizeof(identity.uuid));
    r = sink.sink.ops->open(&sink.sink, &identity, &watermark);
    return r < 0 ? r : apply_start(apply, reader, watermark, counted_lsn, NOW);
}

/* Applies all there is, opening the sink again as often as it takes. Returns how often that was. */
static inline unsigned drive(void)
{
    unsigned opened = 0;

    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        int r;

        if (!sink.is_open) {
            opened++;
            if (reopen() < 0)
                continue;
        }
        r = apply_step(apply, NOW, false);
        if (r == 0)
            return opened;
    }
    ck_abort_msg("no end after %d tries: %s", TRIES_MAX, sink.error);
}

static inline void check_db(void)
{
    ck_assert_str_eq(fake_db_check(&db), "");
}

static inline size_t rows_tagged(const char *tag)
{
    size_t count = 0;

    for (size_t i = 0; i < db.now.row_count; i++)
        count += strcmp(db.rows[i].tag, tag) == 0;
    return count;
}

static inline struct fake_session *session(unsigned n)
{
    uint8_t id[16];

    id_of(id, n);
    return fake_db_session(&db, id);
}

static inline void check_seen(unsigned stream, const char *expected)
{
    struct fake_stream *row;
    uint8_t id[16];
    char text[512];

    id_of(id, stream);
    row = fake_db_stream(&db, WORKER, id, 0);
    ck_assert_ptr_nonnull(row);
    rangeset_format(&row->seen, text, sizeof(text));
    ck_assert_str_eq(text, expected);
}

/* received = stored + quarantined + duplicates, in the metrics as in the batches; all that was journaled is
 * replayed here. */
static inline void check_counts(uint64_t received)
{
    struct sink_counts sum = {0};

    for (size_t i = 0; i < db.now.batch_count; i++) {
        sum.received += db.batches[i].counts.received;
        sum.stored += db.batches[i].counts.stored;
        sum.quarantined += db.batches[i].counts.quarantined;
        sum.duplicates += db.batches[i].counts.duplicates;
        sum.events += db.batches[i].counts.events;
        sum.transcripts += db.batches[i].counts.transcripts;
    }
    ck_assert_uint_eq(sum.received, received);
    ck_assert_uint_eq(sum.stored + sum.quarantined + sum.duplicates, received);
    ck_assert_uint_eq(sum.quarantined, db.now.refused_count);
    ck_assert_uint_eq(metrics_get(&metrics.frames_stored), sum.stored);
    ck_assert_uint_eq(metrics_get(&metrics.frames_quarantined), sum.quarantined);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), sum.duplicates);
    ck_assert_uint_eq(metrics_get(&metrics.rows_events), sum.events);
    ck_assert_uint_eq(metrics_get(&metrics.rows_transcripts), sum.transcripts);
}

#endif
