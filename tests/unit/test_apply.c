/* Tests of daemon/apply: a real journal in a directory of its own, and a sink in memory that fails at every call in turn. What the sink holds in
 * the end is compared with what was sent, whatever happened in between. */
#include "daemon/apply.h"

#include "tests/unit/datagrams.h"
#include "tests/unit/fake_sink.h"

#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
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

static void world_open(void)
{
    fake_sink_init(&sink, &db);
    metrics = (struct metrics){0};
    counted_lsn = 0;
    apply = apply_new(&options, &sink.sink, &metrics);
    ck_assert_ptr_nonnull(apply);
}

static void world_close(void)
{
    apply_free(apply);
    sink.sink.ops->free(&sink.sink);
    fake_db_done(&db);
}

static void setup(void)
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

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

static void teardown(void)
{
    world_close();
    journal_reader_free(reader);
    journal_close(journal);
    ck_assert_int_eq(nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* --- the worker's and the receive loop's part -------------------------------------------------------------------------------- */

static void journal_raw(uint32_t uid, uint8_t flags, int64_t received_us, const void *data, size_t size)
{
    uint64_t end_lsn;

    ck_assert_int_eq(journal_append(journal, JOURNAL_DATAGRAM, flags, uid, 77, received_us, data, size, &end_lsn), 0);
}

static void make_durable(void)
{
    ck_assert_int_eq(journal_write(journal), 0);
    ck_assert_int_eq(journal_sync(journal), 0);
}

/* Sends what was built, and begins anew. */
static void send_at(int64_t received_us)
{
    journal_raw(WORKER, 0, received_us, datagram.data, datagram.size);
    datagram.size = 0;
    make_durable();
}

static void send_now(void)
{
    send_at(NOW);
}

/* --- the writer's part --------------------------------------------------------------------------------------------------------- */

static int reopen(void)
{
    struct sink_journal identity = {.host = "test", .register_lsn = journal_oldest_lsn(journal)};
    uint64_t watermark;
    int r;

    memcpy(identity.uuid, journal_uuid(journal), sizeof(identity.uuid));
    r = sink.sink.ops->open(&sink.sink, &identity, &watermark);
    return r < 0 ? r : apply_start(apply, reader, watermark, counted_lsn, NOW);
}

/* Applies all there is, opening the sink again as often as it takes. Returns how often that was. */
static unsigned drive(void)
{
    unsigned opened = 0;

    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        int r;

        if (!sink.is_open) {
            opened++;
            if (reopen() < 0)
                continue;
        }
        r = apply_step(apply, NOW);
        if (r == 0)
            return opened;
    }
    ck_abort_msg("no end after %d tries: %s", TRIES_MAX, sink.error);
}

static void check_db(void)
{
    ck_assert_str_eq(fake_db_check(&db), "");
}

static size_t rows_tagged(const char *tag)
{
    size_t count = 0;

    for (size_t i = 0; i < db.now.row_count; i++)
        count += strcmp(db.rows[i].tag, tag) == 0;
    return count;
}

static struct fake_session *session(unsigned n)
{
    uint8_t id[16];

    id_of(id, n);
    return fake_db_session(&db, id);
}

static void check_seen(unsigned stream, const char *expected)
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

/* received = stored + quarantined + duplicates, in the metrics as in the batches; all that was journaled is replayed here. */
static void check_counts(uint64_t received)
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

/* --- a call, as most tests use it ------------------------------------------------------------------------------------------------ */

static const uint8_t NOT_A_FRAME[] = {0x81, 0xa4, 't', 'y', 'p', 'e', 0xa3, 'f', 'a', 'x'};
static const uint8_t MALFORMED[] = {0xdd, 0xff, 0xff, 0xff, 0xff};

/* Two sequenced workers, one without numbers, bad frames between good ones, and a datagram sent twice: 22 frames, of which 3 are bad and 3 are
 * duplicates. */
enum { CALL_FRAMES = 22, CALL_BAD = 3, CALL_DUPLICATES = 3, CALL_ROWS = 12 };

static void send_call(void)
{
    struct bytes twice;

    add_envelope(&datagram, 1, 1, 1, 3);
    add_start(&datagram, 1, NOW - HOUR);
    add_llm(&datagram, 1, NOW - 50 * MINUTE, 100, 10, "one");
    add_transcript(&datagram, 1, NOW - 49 * MINUTE, "hello");
    twice = datagram;
    send_now();
    add_envelope(&datagram, 1, 4, 4, 4); /* acknowledged meanwhile: its base is above what is not stored yet */
    add_tts(&datagram, 1, NOW - 48 * MINUTE, 55);
    add_bytes(&datagram, NOT_A_FRAME, sizeof(NOT_A_FRAME));
    add_stt(&datagram, 1, NOW - 47 * MINUTE, 1234567);
    add_llm(&datagram, 2, NOW - 46 * MINUTE, 7, 3, "two"); /* of a session without a start */
    send_now();
    datagram = twice;
    send_now();
    add_llm(&datagram, 3, NOW, 5, 5, "plain");
    add_gap(&datagram, 9);
    add_usage(&datagram, "acme", 0.5);
    add_bytes(&datagram, MALFORMED, sizeof(MALFORMED));
    send_now();
    add_envelope(&datagram, 1, 8, 8, 2);
    add_end(&datagram, 1, NOW - 40 * MINUTE, "stop");
    add_llm(&datagram, 1, NOW - 41 * MINUTE, 1000, 1, "late");
    send_now();
    add_envelope(&datagram, 2, 1, 1, 4);
    add_start(&datagram, 4, NOW);
    add_llm(&datagram, 4, NOW, 1, 1, "four");
    add_bytes(&datagram, MALFORMED, sizeof(MALFORMED)); /* uses up numbers 3 and 4 */
    send_now();
    add_llm(&datagram, 4, NOW, 2, 2, "four b");
    add_end(&datagram, 4, NOW, "end");
    add_end(&datagram, 4, NOW, "again");
    send_now();
}

static void check_call(void)
{
    static const char *const tags[] = {"one", "hello", "two", "plain", "late", "four", "four b"};

    check_db();
    ck_assert_uint_eq(db.now.row_count, CALL_ROWS - 1);
    for (size_t i = 0; i < sizeof(tags) / sizeof(*tags); i++)
        ck_assert_msg(rows_tagged(tags[i]) == 1, "%s: stored %zu times", tags[i], rows_tagged(tags[i]));
    ck_assert_uint_eq(db.now.refused_count, CALL_BAD);
    check_seen(1, "{[1,10)}");
    check_seen(2, "{[1,5)}");
    ck_assert_uint_eq(db.now.session_count, 4);
    ck_assert(session(1)->ended && session(4)->ended && !session(2)->ended && !session(3)->ended);
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 1100);
    ck_assert_int_eq(session(1)->totals.llm_calls, 2);
    ck_assert_int_eq(session(1)->totals.stt_audio_us, 1234567);
    ck_assert_int_eq(session(1)->totals.tts_chars, 55);
    ck_assert_int_eq(session(1)->started_us, NOW - HOUR);
    ck_assert_int_eq(session(1)->ended_us, NOW - 40 * MINUTE);
    ck_assert_str_eq(session(1)->finish_reason, "stop");
    ck_assert_uint_eq(session(1)->starts, 1);
    ck_assert_int_eq(session(4)->totals.llm_input_tokens, 3);
    ck_assert_uint_eq(session(4)->ends, 2);
    ck_assert_str_eq(session(4)->finish_reason, "end");
    ck_assert(session(2)->start_missing && !session(1)->start_missing);
}

START_TEST(call_is_stored_once)
{
    send_call();
    ck_assert_uint_eq(drive(), 1);
    check_call();
    ck_assert_uint_eq(apply_lsn(apply), journal_durable_lsn(journal));
}
END_TEST

/* --- once -------------------------------------------------------------------------------------------------------------------- */

/* One run with a failure at call n; false when the run ended before. */
static bool run_with_failure(unsigned n, int with, bool late)
{
    world_close();
    world_open();
    sink.fail_at = n;
    sink.fail_with = with;
    sink.late = late;
    drive();
    check_call();
    check_counts(metrics_get(&metrics.frames_stored) + CALL_BAD + metrics_get(&metrics.frames_duplicate));
    return sink.failures > 0;
}

static void run_every_failure(size_t batch_rows)
{
    static const int results[] = {-EAGAIN, -ESTALE, -EINVAL, -ENOTRECOVERABLE, -ENOMEM};

    options.batch_rows = batch_rows;
    send_call();
    for (size_t i = 0; i < sizeof(results) / sizeof(*results); i++)
        for (unsigned n = 1; run_with_failure(n, results[i], false); n++)
            ck_assert_uint_lt(n, 1000);
    for (unsigned n = 1; run_with_failure(n, -EAGAIN, true); n++)
        ck_assert_uint_lt(n, 1000);
}

START_TEST(call_is_stored_once_whatever_call_fails_in_one_batch)
{
    run_every_failure(1000);
}
END_TEST

START_TEST(call_is_stored_once_whatever_call_fails_in_many_batches)
{
    run_every_failure(1);
}
END_TEST

/* A commit that was done though it failed is counted like any other. */
START_TEST(commit_of_unknown_outcome_is_counted)
{
    send_call();
    for (unsigned late = 0; late < 2; late++) {
        world_close();
        world_open();
        counted_lsn = journal_durable_lsn(journal);
        sink.fail_op = FAKE_COMMIT;
        sink.fail_at = 1;
        sink.late = late;
        drive();
        check_call();
        check_counts(CALL_FRAMES);
        ck_assert_uint_eq(metrics_get(&metrics.batches_committed), 1);
        ck_assert_uint_eq(metrics_get(&metrics.frames_replayed), CALL_FRAMES);
        ck_assert_uint_eq(metrics_get(&metrics.gap_frames), 9);
    }
}
END_TEST

START_TEST(frames_are_once_in_any_order_of_resends)
{
    enum { FRAMES = 40, SENDS = 200 };
    unsigned seed = (unsigned)getpid();
    char tag[16];

    printf("seed %u\n", seed);
    srand(seed);
    options.batch_rows = 7;
    for (unsigned i = 0; i < SENDS + FRAMES; i++) {
        unsigned seq = i < SENDS ? (unsigned)rand() % FRAMES + 1 : i - SENDS + 1; /* in the end all of them */
        unsigned count = 1 + (unsigned)rand() % 3;

        if (seq + count > FRAMES + 1)
            count = FRAMES + 1 - seq;
        add_envelope(&datagram, 1, seq, 1, count);
        for (unsigned n = seq; n < seq + count; n++) {
            snprintf(tag, sizeof(tag), "n%u", n);
            add_llm(&datagram, 1, NOW, (int32_t)n, 0, tag);
        }
        send_now();
        if (rand() % 8 == 0)
            drive();
        if (rand() % 20 == 0)
            sink.is_open = false; /* begin from the watermark, with nothing in memory */
    }
    drive();
    check_db();
    ck_assert_uint_eq(db.now.row_count, FRAMES);
    check_seen(1, "{[1,41)}");
}
END_TEST

/* One failure after another, of any kind at any call, and restarts in between. */
START_TEST(any_row_of_failures_loses_and_doubles_nothing)
{
    static const int results[] = {-EAGAIN, -EAGAIN, -ESTALE, -EINVAL, -ENOTRECOVERABLE, -ENOMEM};
    unsigned seed = (unsigned)getpid(), failures = 0;

    printf("seed %u\n", seed);
    srand(seed);
    send_call();
    for (unsigned round = 0; round < 150; round++) {
        world_close();
        options.batch_rows = 1 + (size_t)rand() % 12;
        world_open();
        counted_lsn = journal_durable_lsn(journal);
        for (unsigned tries = 0; tries < 12; tries++) {
            unsigned before = sink.failures;

            sink.fail_at = 1 + (unsigned)rand() % 40;
            sink.fail_with = results[(size_t)rand() % (sizeof(results) / sizeof(*results))];
            sink.late = rand() % 2;
            while (sink.failures == before && (sink.is_open || reopen() == 0) && apply_step(apply, NOW) != 0)
                ;
            check_db();
        }
        failures += sink.failures;
        sink.fail_at = 0;
        drive();
        check_call();
        check_counts(CALL_FRAMES);
        ck_assert_uint_eq(metrics_get(&metrics.frames_received), CALL_FRAMES);
    }
    ck_assert_uint_gt(failures, 100);
}
END_TEST

/* Numbers below the base of a later datagram are not stored yet when both are in one batch. */
START_TEST(base_of_a_later_datagram_says_nothing_about_earlier_ones)
{
    add_envelope(&datagram, 1, 1, 1, 2);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    add_envelope(&datagram, 1, 3, 3, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "c");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 3);
    check_seen(1, "{[1,4)}");
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 0);
}
END_TEST

START_TEST(base_of_an_unknown_stream_counts_as_stored)
{
    add_envelope(&datagram, 1, 12, 10, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    drive();
    check_seen(1, "{[1,10),[12,13)}");     /* 10 and 11 are a hole, below 10 is not */
    add_envelope(&datagram, 1, 13, 13, 1); /* known by now: a hole stays a visible loss */
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    check_seen(1, "{[1,10),[12,14)}");
    sink.is_open = false;
    add_envelope(&datagram, 1, 5, 5, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "old");
    send_now();
    drive();
    ck_assert_uint_eq(rows_tagged("old"), 0);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 1);
}
END_TEST

START_TEST(streams_of_two_uids_are_two_streams)
{
    for (uint32_t uid = 1; uid <= 2; uid++) {
        add_envelope(&datagram, 1, 1, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "x");
        journal_raw(uid, 0, NOW, datagram.data, datagram.size);
        datagram.size = 0;
    }
    make_durable();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    check_db();
}
END_TEST

START_TEST(streams_forgotten_for_want_of_memory_are_known_again)
{
    options.streams_max = 2;
    world_close();
    world_open();
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned n = 1; n <= 5; n++) {
            add_envelope(&datagram, n, 1, 1, 1);
            add_llm(&datagram, 1, NOW, 1, 1, "x");
            send_now();
            drive();
        }
    }
    ck_assert_uint_eq(db.now.row_count, 5);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 5);
}
END_TEST

/* 1,024 holes are kept, the next one is refused with a reason. */
START_TEST(stream_with_too_many_holes_loses_the_frame_not_the_batch)
{
    options.batch_rows = 5000;
    world_close();
    world_open();
    for (unsigned i = 0; i < RANGESET_MAX + 2; i++) {
        add_envelope(&datagram, 1, 1 + 2 * (uint64_t)i, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "x");
        journal_raw(WORKER, 0, NOW, datagram.data, datagram.size);
        datagram.size = 0;
    }
    add_llm(&datagram, 1, NOW, 1, 1, "neighbour");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, RANGESET_MAX + 1);
    ck_assert_uint_eq(db.now.refused_count, 2);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "1024 holes"));
}
END_TEST

START_TEST(database_restored_from_an_older_copy_gets_all_again_once)
{
    struct fake_state copy;

    add_envelope(&datagram, 1, 1, 1, 2);
    add_start(&datagram, 1, NOW);
    add_llm(&datagram, 1, NOW, 1, 1, "before");
    send_now();
    drive();
    copy = fake_state_copy(&db.now);
    add_envelope(&datagram, 1, 3, 3, 1);
    add_llm(&datagram, 1, NOW, 2, 2, "after");
    send_now();
    drive();
    fake_db_restore(&db, &copy);
    ck_assert_uint_eq(rows_tagged("after"), 0);
    add_envelope(&datagram, 1, 4, 4, 1);
    add_end(&datagram, 1, NOW, "end");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW), -ESTALE);
    drive();
    check_db();
    ck_assert_uint_eq(rows_tagged("before"), 1);
    ck_assert_uint_eq(rows_tagged("after"), 1);
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 3);
}
END_TEST

/* --- bad frames ---------------------------------------------------------------------------------------------------------------- */

START_TEST(bad_frames_go_alone_and_keep_their_reason)
{
    send_call();
    drive();
    /* What is no frame is known before anything is decoded, so the two malformed rests come first. */
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "malformed"));
    ck_assert_uint_eq(db.refused[0].seq, 0);
    ck_assert_ptr_nonnull(strstr(db.refused[1].reason, "malformed"));
    ck_assert_uint_eq(db.refused[1].seq, 3);
    ck_assert_ptr_nonnull(strstr(db.refused[2].reason, "fax"));
    ck_assert_uint_eq(db.refused[2].seq, 5);
    ck_assert_uint_eq(db.refused[2].size, sizeof(NOT_A_FRAME));
    check_counts(CALL_FRAMES);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), CALL_DUPLICATES);
    ck_assert_uint_eq(metrics_get(&metrics.frames_received), 0); /* intake counted them */
}
END_TEST

START_TEST(envelope_that_is_not_first_is_refused_alone)
{
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_envelope(&datagram, 1, 1, 1, 1);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(db.refused[0].index, 1);
    ck_assert_uint_eq(db.now.stream_count, 0);
}
END_TEST

/* Bytes after the frames that an envelope counts have no number: sent again they are a duplicate all the same. */
START_TEST(trailing_bytes_of_a_resent_datagram_are_quarantined_once)
{
    for (unsigned i = 0; i < 3; i++) {
        add_envelope(&datagram, 1, 1, 1, 1);
        add_llm(&datagram, 1, NOW, 1, 1, "a");
        add_llm(&datagram, 1, NOW, 1, 1, "uncounted");
        send_now();
        drive();
    }
    ck_assert_uint_eq(db.now.row_count, 1);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "after the 1 frames"));
    check_counts(6);
    ck_assert_uint_eq(metrics_get(&metrics.frames_duplicate), 4);
}
END_TEST

START_TEST(truncated_datagram_keeps_what_came_through)
{
    add_envelope(&datagram, 1, 1, 1, 3);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    journal_raw(WORKER, JOURNAL_TRUNCATED, NOW, datagram.data, datagram.size - 5);
    datagram.size = 0;
    add_llm(&datagram, 1, NOW, 1, 1, "next");
    send_now();
    drive();
    ck_assert_uint_eq(rows_tagged("a") + rows_tagged("next"), 2);
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    check_seen(1, "{[1,4)}");
}
END_TEST

START_TEST(hole_in_the_journal_is_recorded)
{
    uint64_t end_lsn;

    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    ck_assert_int_eq(journal_append(journal, JOURNAL_HOLE, 0, 0, 0, NOW, "damaged", 7, &end_lsn), 0);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(db.refused[0].size, 7);
    check_counts(3);
}
END_TEST

/* A sender's name is text of its own choice; what is stored must be text that a database takes. */
START_TEST(name_of_a_client_is_made_clean)
{
    struct toll_frame frame;
    char name[64];
    uint8_t id[16];

    memset(name, 'x', sizeof(name));
    memcpy(name + 46, "\xC3\xA4", 2); /* ends beyond what is kept */
    name[3] = '\xFF';
    toll_frame_init(&frame, TOLL_FRAME_STREAM);
    id_of(frame.stream_id, 1);
    frame.stream_seq = frame.stream_base = frame.stream_count = 1;
    frame.client = (struct toll_str){name, sizeof(name)};
    add_frame(&datagram, &frame);
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    drive();
    id_of(id, 1);
    ck_assert_mem_eq(fake_db_stream(&db, WORKER, id, 0)->client, "xxx\xEF\xBF\xBDxxx", 9);
    ck_assert_uint_eq(strlen(fake_db_stream(&db, WORKER, id, 0)->client), 47);
}
END_TEST

/* --- rows that the database refuses ---------------------------------------------------------------------------------------------- */

static const char *refuse_tag_bad(const struct sink_row *row)
{
    const struct toll_str *tag = &row->frame->request_id;

    if (tag->len < 3 || memcmp(tag->ptr, "bad", 3) != 0)
        return NULL;
    return tag->len > 3 ? "22003" : "P0001";
}

static void send_tagged(unsigned count, const char *bad, unsigned bad_at)
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

START_TEST(refused_row_among_many_goes_alone)
{
    enum { COUNT = 100 };

    db.poison = refuse_tag_bad;
    for (unsigned at = 0; at < COUNT; at += 33) {
        send_tagged(COUNT, "bad", at);
        drive();
    }
    check_db();
    ck_assert_uint_eq(db.now.row_count, 4 * COUNT - 4);
    ck_assert_uint_eq(rows_tagged("bad"), 0);
    ck_assert_uint_eq(db.now.refused_count, 4);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "P0001"));
    check_counts(4 * COUNT);
}
END_TEST

START_TEST(two_refused_rows_of_different_classes_go_alone)
{
    db.poison = refuse_tag_bad;
    add_llm(&datagram, 1, NOW, 1, 1, "bad");
    add_llm(&datagram, 1, NOW, 1, 1, "bad number");
    send_now();
    drive(); /* nothing succeeds, but not alike */
    ck_assert_uint_eq(db.now.row_count, 0);
    ck_assert_uint_eq(db.now.refused_count, 2);
    ck_assert_ptr_nonnull(strstr(db.refused[0].reason, "P0001"));
    ck_assert_ptr_nonnull(strstr(db.refused[1].reason, "22003"));
}
END_TEST

START_TEST(rows_all_refused_alike_are_not_at_fault)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 9; i++)
        add_llm(&datagram, i, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW), 1); /* will look closer */
    for (unsigned i = 0; i < 3; i++)
        ck_assert_int_eq(apply_step(apply, NOW), -EINVAL);
    ck_assert_uint_eq(db.now.row_count + db.now.refused_count + db.now.session_count, 0);
    ck_assert_uint_eq(apply_lsn(apply), 0);
    add_llm(&datagram, 1, NOW, 1, 1, "fine"); /* what has come since shows that it is the rows after all */
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW), 1);
    check_db();
    ck_assert_uint_eq(db.now.row_count, 1);
    ck_assert_uint_eq(db.now.refused_count, 9);
    check_counts(10);
}
END_TEST

START_TEST(table_mended_takes_what_it_had_refused)
{
    db.poison = refuse_tag_bad;
    ck_assert_int_eq(reopen(), 0);
    for (unsigned i = 0; i < 3; i++)
        add_llm(&datagram, 1, NOW, 1, 1, "bad");
    send_now();
    ck_assert_int_eq(apply_step(apply, NOW), 1);
    ck_assert_int_eq(apply_step(apply, NOW), -EINVAL);
    db.poison = NULL;
    drive();
    ck_assert_uint_eq(db.now.row_count, 3);
    ck_assert_uint_eq(db.now.refused_count, 0);
    check_counts(3);
}
END_TEST

static const char *refuse_session_two(const struct session_change *change)
{
    return change->session->id[1] == 2 && change->starts ? "P0001" : NULL;
}

START_TEST(refused_session_start_leaves_its_events)
{
    db.poison_session = refuse_session_two;
    add_start(&datagram, 1, NOW);
    add_start(&datagram, 2, NOW);
    add_llm(&datagram, 2, NOW, 3, 1, "a");
    add_end(&datagram, 2, NOW, "end");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    check_db();
    ck_assert_uint_eq(db.now.refused_count, 1);
    ck_assert_uint_eq(db.refused[0].index, 1);
    ck_assert(session(2)->start_missing && session(2)->ended);
    ck_assert_int_eq(session(2)->totals.llm_input_tokens, 3);
    check_counts(5);
}
END_TEST

/* Bisecting itself fails at every call, too. */
START_TEST(bisecting_survives_every_failure)
{
    static const int results[] = {-EAGAIN, -ESTALE, -ENOMEM};

    send_tagged(12, "bad", 5);
    add_bytes(&datagram, NOT_A_FRAME, sizeof(NOT_A_FRAME));
    send_now();
    for (size_t i = 0; i < sizeof(results) / sizeof(*results); i++) {
        bool failed = true;

        for (unsigned n = 1; failed; n++) {
            world_close();
            world_open();
            db.poison = refuse_tag_bad;
            sink.fail_at = n;
            sink.fail_with = results[i];
            drive();
            check_db();
            ck_assert_uint_eq(db.now.row_count, 11);
            ck_assert_uint_eq(db.now.refused_count, 2);
            check_counts(13);
            failed = sink.failures > 0;
        }
    }
}
END_TEST

START_TEST(reason_of_a_server_is_made_clean)
{
    db.poison = refuse_tag_bad;
    send_tagged(4, "bad", 1);
    drive();
    for (size_t i = 0; i < db.now.refused_count; i++)
        ck_assert_uint_lt(strlen(db.refused[i].reason), TOLL_REASON_MAX);
}
END_TEST

/* --- times ------------------------------------------------------------------------------------------------------------------------ */

START_TEST(times_out_of_bounds_are_clamped_and_kept)
{
    const int64_t latest = NOW + options.future_tolerance_us, earliest = NOW - options.past_tolerance_us;

    add_llm(&datagram, 1, latest, 1, 1, "last");
    add_llm(&datagram, 1, latest + 1, 1, 1, "future");
    add_llm(&datagram, 1, earliest, 1, 1, "first");
    add_llm(&datagram, 1, earliest - 1, 1, 1, "past");
    add_llm(&datagram, 1, TOLL_TIME_MISSING, 1, 1, "none");
    add_start(&datagram, 1, INT64_MAX);
    send_now();
    drive();
    ck_assert_uint_eq(db.now.row_count, 5);
    ck_assert_int_eq(db.rows[0].occurred_us, latest);
    ck_assert_int_eq(db.rows[0].reported_us, TOLL_TIME_MISSING);
    ck_assert_int_eq(db.rows[1].occurred_us, latest);
    ck_assert_int_eq(db.rows[1].reported_us, latest + 1);
    ck_assert_int_eq(db.rows[2].occurred_us, earliest);
    ck_assert_int_eq(db.rows[2].reported_us, TOLL_TIME_MISSING);
    ck_assert_int_eq(db.rows[3].occurred_us, earliest);
    ck_assert_int_eq(db.rows[3].reported_us, earliest - 1);
    ck_assert_int_eq(db.rows[4].occurred_us, NOW);
    ck_assert_int_eq(db.rows[4].reported_us, TOLL_TIME_MISSING);
    ck_assert_int_eq(session(1)->started_us, latest);
    ck_assert_int_eq(session(1)->started_reported_us, INT64_MAX);
}
END_TEST

START_TEST(end_before_the_start_gives_no_negative_duration)
{
    add_start(&datagram, 1, NOW);
    add_end(&datagram, 1, NOW - HOUR, "end");
    send_now();
    drive();
    check_db();
    ck_assert_int_eq(session(1)->ended_us, NOW);
}
END_TEST

/* --- orphans ------------------------------------------------------------------------------------------------------------------------ */

START_TEST(idle_session_is_closed_at_its_last_activity)
{
    add_start(&datagram, 1, NOW - 5 * HOUR);
    add_llm(&datagram, 1, NOW - 4 * HOUR, 4, 2, "a");
    send_now();
    drive();
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR), 0); /* not longer than the time-out */
    ck_assert(!session(1)->ended);
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR + 1), 1);
    check_db();
    ck_assert(session(1)->ended);
    ck_assert_str_eq(session(1)->finish_reason, "orphaned");
    ck_assert_int_eq(session(1)->ended_us, NOW - 4 * HOUR);
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 4);
    ck_assert_uint_eq(metrics_get(&metrics.sessions_orphaned), 1);
    ck_assert_uint_eq(apply_lsn(apply), journal_durable_lsn(journal));
    add_end(&datagram, 1, NOW, "end"); /* a real end supersedes it */
    send_now();
    drive();
    ck_assert_str_eq(session(1)->finish_reason, "end");
    ck_assert_int_eq(session(1)->ended_us, NOW);
    check_db();
}
END_TEST

START_TEST(session_with_frames_is_not_idle)
{
    add_start(&datagram, 1, NOW);
    send_now();
    drive();
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_at(NOW + HOUR);
    drive();
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR + MINUTE), 0);
    ck_assert(!session(1)->ended);
}
END_TEST

START_TEST(session_of_before_a_restart_is_closed_when_it_stays_idle)
{
    add_start(&datagram, 1, NOW - HOUR);
    add_llm(&datagram, 1, NOW - MINUTE, 6, 2, "a");
    send_now();
    drive();
    ck_assert_int_eq(reopen(), 0); /* memory knows nothing of it now */
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR - 1), 0);
    ck_assert_int_eq(apply_orphans(apply, NOW + HOUR), 1);
    ck_assert_str_eq(session(1)->finish_reason, "orphaned");
    check_db();
}
END_TEST

START_TEST(session_counts_as_active_after_a_step_of_the_clock)
{
    add_start(&datagram, 1, NOW);
    send_now();
    drive();
    apply_idle_from(apply, NOW + 100 * DAY);
    ck_assert_int_eq(apply_orphans(apply, NOW + 100 * DAY + HOUR - 1), 0);
    ck_assert(!session(1)->ended);
    ck_assert_int_eq(apply_orphans(apply, NOW + 100 * DAY + HOUR), 1);
    ck_assert(session(1)->ended);
}
END_TEST

START_TEST(orphans_are_closed_once_whatever_call_fails)
{
    bool failed = true;

    for (unsigned n = 1; failed; n++) {
        world_close();
        world_open();
        if (n == 1) {
            add_start(&datagram, 1, NOW);
            add_llm(&datagram, 1, NOW, 6, 2, "a");
            add_start(&datagram, 2, NOW);
            send_now();
        }
        drive();
        sink.fail_at = n;
        sink.late = n % 2;
        for (unsigned tries = 0; tries < 5; tries++) {
            if (!sink.is_open)
                ck_assert(reopen() == 0 || sink.failures);
            (void)!apply_orphans(apply, NOW + (2 + tries * 2) * HOUR);
        }
        check_db();
        ck_assert(session(1)->ended && session(2)->ended);
        ck_assert_int_eq(session(1)->totals.llm_input_tokens, 6);
        failed = sink.failures > 0;
        ck_assert_uint_lt(n, 100);
    }
}
END_TEST

/* --- sessions that memory does not know whole ------------------------------------------------------------------------------------------ */

START_TEST(session_across_a_restart_has_whole_totals)
{
    add_start(&datagram, 1, NOW);
    add_llm(&datagram, 1, NOW, 100, 1, "a");
    send_now();
    drive();
    ck_assert_int_eq(reopen(), 0);
    add_llm(&datagram, 1, NOW, 10, 1, "b");
    send_now();
    drive();
    add_llm(&datagram, 1, NOW, 1, 1, "c");
    add_end(&datagram, 1, NOW, "end");
    send_now();
    drive();
    check_db();
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 111);
}
END_TEST

START_TEST(session_evicted_from_memory_has_whole_totals)
{
    options.sessions_max = 2;
    world_close();
    world_open();
    for (unsigned round = 0; round < 3; round++)
        for (unsigned n = 1; n <= 5; n++) {
            add_llm(&datagram, n, NOW, 1 << round, 1, "x");
            send_now();
            drive();
            ck_assert_uint_le(apply_session_count(apply), 2);
        }
    for (unsigned n = 1; n <= 5; n++)
        add_end(&datagram, n, NOW, "end");
    send_now();
    drive();
    check_db();
    for (unsigned n = 1; n <= 5; n++)
        ck_assert_int_eq(session(n)->totals.llm_input_tokens, 7);
}
END_TEST

START_TEST(event_after_the_end_corrects_the_totals)
{
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_end(&datagram, 1, NOW, "end");
    send_now();
    drive();
    add_llm(&datagram, 1, NOW, 2, 1, "late");
    send_now();
    drive();
    check_db();
    ck_assert_int_eq(session(1)->totals.llm_input_tokens, 3);
    ck_assert_uint_eq(session(1)->revision, 1);
    ck_assert_uint_eq(apply_session_count(apply), 0);
}
END_TEST

START_TEST(live_sessions_can_be_looked_at)
{
    struct session found;
    uint8_t id[16];

    add_start(&datagram, 1, NOW);
    add_llm(&datagram, 1, NOW, 12, 3, "a");
    send_now();
    drive();
    id_of(id, 1);
    ck_assert(apply_session(apply, id, &found));
    ck_assert_int_eq(found.totals.llm_input_tokens, 12);
    ck_assert_uint_eq(apply_session_count(apply), 1);
    id_of(id, 2);
    ck_assert(!apply_session(apply, id, &found));
}
END_TEST

static atomic_bool looking;

static bool add_input(void *context, const struct session *found)
{
    *(int64_t *)context += found->totals.llm_input_tokens;
    return true;
}

static void *look_at_sessions(void *argument)
{
    struct session found;
    uint8_t id[16];
    int64_t sum;

    (void)argument;
    id_of(id, 1);
    while (looking) {
        sum = 0;
        apply_sessions(apply, add_input, &sum);
        if (apply_session(apply, id, &found))
            sum += found.totals.llm_calls;
        (void)apply_session_count(apply);
        sched_yield();
    }
    return NULL;
}

/* Meant for ThreadSanitizer: tollctl looks while the writer works. */
START_TEST(live_sessions_can_be_looked_at_from_another_thread)
{
    pthread_t thread;

    db.poison = refuse_tag_bad;
    looking = true;
    ck_assert_int_eq(pthread_create(&thread, NULL, look_at_sessions, NULL), 0);
    for (unsigned round = 0; round < 100; round++) {
        add_llm(&datagram, 1 + round % 7, NOW, 1, 1, round % 10 == 3 ? "bad" : "x");
        add_llm(&datagram, 1, NOW, 1, 1, "y");
        if (round % 5 == 4)
            add_end(&datagram, 1 + round % 7, NOW, "end");
        send_now();
        if (round % 9 == 0) {
            sink.fail_at = 1 + round % 8;
            sink.fail_with = -EAGAIN;
        }
        drive();
        (void)!apply_orphans(apply, NOW + round * HOUR);
    }
    looking = false;
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    check_db();
}
END_TEST

/* --- batches and positions ---------------------------------------------------------------------------------------------------------- */

START_TEST(batch_closes_at_rows)
{
    options.batch_rows = 10;
    world_close();
    world_open();
    send_tagged(100, "", 1000); /* 25 datagrams of 4 frames */
    drive();
    ck_assert_uint_eq(db.now.batch_count, 9); /* 12 frames are the first number of whole datagrams at or above 10 */
    ck_assert_uint_eq(db.batches[0].counts.received, 12);
    ck_assert_uint_eq(db.now.row_count, 100);
    for (size_t i = 1; i < db.now.batch_count; i++)
        ck_assert_uint_eq(db.batches[i].from, db.batches[i - 1].to);
}
END_TEST

START_TEST(batch_closes_at_bytes)
{
    char text[1000];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    options.batch_bytes = 10000;
    world_close();
    world_open();
    for (unsigned i = 0; i < 100; i++) {
        add_transcript(&datagram, 1, NOW, text);
        send_now();
    }
    drive();
    ck_assert_uint_ge(db.now.batch_count, 10);
    ck_assert_uint_le(db.now.batch_count, 12);
    ck_assert_uint_eq(db.now.row_count, 100);
}
END_TEST

START_TEST(nothing_above_the_durable_lsn_is_applied)
{
    uint64_t durable;

    add_llm(&datagram, 1, NOW, 1, 1, "durable");
    send_now();
    durable = journal_durable_lsn(journal);
    add_llm(&datagram, 1, NOW, 1, 1, "not yet");
    journal_raw(WORKER, 0, NOW, datagram.data, datagram.size);
    datagram.size = 0;
    ck_assert_int_eq(journal_write(journal), 0);
    drive();
    ck_assert_uint_eq(db.now.row_count, 1);
    ck_assert_uint_eq(apply_lsn(apply), durable);
    ck_assert_int_eq(journal_sync(journal), 0);
    drive();
    ck_assert_uint_eq(db.now.row_count, 2);
}
END_TEST

START_TEST(marks_are_passed_without_a_batch)
{
    uint64_t end_lsn;

    add_llm(&datagram, 1, NOW, 1, 1, "a");
    send_now();
    drive();
    ck_assert_int_eq(journal_append(journal, JOURNAL_MARK, 0, 0, 0, NOW, NULL, 0, &end_lsn), 0);
    make_durable();
    drive();
    ck_assert_uint_eq(db.now.batch_count, 1);
    ck_assert_uint_eq(apply_passed(apply), end_lsn);
    ck_assert_uint_lt(apply_lsn(apply), end_lsn);
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    drive();
    ck_assert_uint_eq(db.now.batch_count, 2);
    ck_assert_uint_eq(db.batches[1].from, db.batches[0].to);
    ck_assert_uint_eq(db.now.row_count, 2);
}
END_TEST

/* Frames that another run had counted as received are counted again in this one, once, when they are applied. */
START_TEST(frames_of_an_earlier_run_are_counted_when_replayed)
{
    add_llm(&datagram, 1, NOW, 1, 1, "a");
    add_llm(&datagram, 1, NOW, 1, 1, "b");
    send_now();
    counted_lsn = journal_durable_lsn(journal);
    add_llm(&datagram, 1, NOW, 1, 1, "c");
    send_now();
    sink.fail_op = FAKE_COMMIT;
    sink.fail_at = 1;
    drive();
    ck_assert_uint_eq(metrics_get(&metrics.frames_replayed), 2);
    ck_assert_uint_eq(metrics_get(&metrics.frames_received), 2);
    ck_assert_uint_eq(metrics_get(&metrics.frames_stored), 3);
    drive();
    ck_assert_uint_eq(metrics_get(&metrics.frames_replayed), 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("apply");
    TCase *tests = tcase_create("apply");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, call_is_stored_once);
    tcase_add_test(tests, call_is_stored_once_whatever_call_fails_in_one_batch);
    tcase_add_test(tests, call_is_stored_once_whatever_call_fails_in_many_batches);
    tcase_add_test(tests, commit_of_unknown_outcome_is_counted);
    tcase_add_test(tests, frames_are_once_in_any_order_of_resends);
    tcase_add_test(tests, any_row_of_failures_loses_and_doubles_nothing);
    tcase_add_test(tests, base_of_a_later_datagram_says_nothing_about_earlier_ones);
    tcase_add_test(tests, base_of_an_unknown_stream_counts_as_stored);
    tcase_add_test(tests, streams_of_two_uids_are_two_streams);
    tcase_add_test(tests, streams_forgotten_for_want_of_memory_are_known_again);
    tcase_add_test(tests, stream_with_too_many_holes_loses_the_frame_not_the_batch);
    tcase_add_test(tests, database_restored_from_an_older_copy_gets_all_again_once);
    tcase_add_test(tests, bad_frames_go_alone_and_keep_their_reason);
    tcase_add_test(tests, envelope_that_is_not_first_is_refused_alone);
    tcase_add_test(tests, trailing_bytes_of_a_resent_datagram_are_quarantined_once);
    tcase_add_test(tests, truncated_datagram_keeps_what_came_through);
    tcase_add_test(tests, hole_in_the_journal_is_recorded);
    tcase_add_test(tests, name_of_a_client_is_made_clean);
    tcase_add_test(tests, refused_row_among_many_goes_alone);
    tcase_add_test(tests, two_refused_rows_of_different_classes_go_alone);
    tcase_add_test(tests, rows_all_refused_alike_are_not_at_fault);
    tcase_add_test(tests, table_mended_takes_what_it_had_refused);
    tcase_add_test(tests, refused_session_start_leaves_its_events);
    tcase_add_test(tests, bisecting_survives_every_failure);
    tcase_add_test(tests, reason_of_a_server_is_made_clean);
    tcase_add_test(tests, times_out_of_bounds_are_clamped_and_kept);
    tcase_add_test(tests, end_before_the_start_gives_no_negative_duration);
    tcase_add_test(tests, idle_session_is_closed_at_its_last_activity);
    tcase_add_test(tests, session_with_frames_is_not_idle);
    tcase_add_test(tests, session_of_before_a_restart_is_closed_when_it_stays_idle);
    tcase_add_test(tests, session_counts_as_active_after_a_step_of_the_clock);
    tcase_add_test(tests, orphans_are_closed_once_whatever_call_fails);
    tcase_add_test(tests, session_across_a_restart_has_whole_totals);
    tcase_add_test(tests, session_evicted_from_memory_has_whole_totals);
    tcase_add_test(tests, event_after_the_end_corrects_the_totals);
    tcase_add_test(tests, live_sessions_can_be_looked_at);
    tcase_add_test(tests, live_sessions_can_be_looked_at_from_another_thread);
    tcase_add_test(tests, batch_closes_at_rows);
    tcase_add_test(tests, batch_closes_at_bytes);
    tcase_add_test(tests, nothing_above_the_durable_lsn_is_applied);
    tcase_add_test(tests, marks_are_passed_without_a_batch);
    tcase_add_test(tests, frames_of_an_earlier_run_are_counted_when_replayed);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
