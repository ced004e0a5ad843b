/* The journal with its threads: one appends, one syncs, one reads, one collects. Meant for ThreadSanitizer as well. */
#include "tests/support/journaltest.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sched.h>
#include <stdlib.h>

enum { RECORDS = 20000 };

static struct journal *journal;
static _Atomic uint64_t committed;
static atomic_bool done, sync_failed;
static _Atomic unsigned failures;

/* Fdatasync fails now and then, in the syncing thread: a rewrite that fails too would be the end. */
static struct journal_io flaky;
static _Thread_local bool is_syncer;
static int flaky_fdatasync(void *context, int fd)
{
    static _Atomic unsigned calls;
    if (is_syncer && ++calls % 50 == 0)
        return -EIO;
    return journal_io_system.fdatasync(context, fd);
}

static void *syncer(void *arg)
{
    (void)arg;
    is_syncer = true;
    while (!done) {
        if (sync_failed) {
            sched_yield();
            continue;
        }
        if (journal_sync(journal) < 0)
            sync_failed = true; /* the appending thread rewrites */
        uint64_t oldest = journal_oldest_lsn(journal), durable = journal_durable_lsn(journal);
        uint64_t written = journal_written_lsn(journal), end = journal_end_lsn(journal);
        if (oldest > durable || durable > end || written > end)
            failures++;
    }
    return NULL;
}

static void *collector(void *arg)
{
    (void)arg;
    while (!done) {
        int r = journal_collect(journal, committed, 0);
        if (r < 0 && r != -ENOSPC)
            failures++;
        sched_yield();
    }
    return NULL;
}

static void *reading(void *arg)
{
    struct journal_reader *reader;
    struct journal_record record;
    unsigned next = 0;

    (void)arg;
    if (journal_reader_new(&reader, journal) < 0) {
        failures++;
        return NULL;
    }
    while (next < RECORDS && failures == 0) {
        int r = journal_reader_next(reader, &record);
        if (r == -EAGAIN) {
            sched_yield();
            continue;
        }
        if (r < 0 || record.uid != next || record.end_lsn > journal_durable_lsn(journal)) {
            failures++;
            break;
        }
        uint8_t payload[120];
        size_t size = nth_payload(next, payload);
        if (record.size != size || memcmp(record.payload, payload, size) != 0)
            failures++;
        next++;
        committed = record.end_lsn;
    }
    journal_reader_free(reader);
    return NULL;
}

static void run(const struct journal_io *io)
{
    char dir[] = "/tmp/toll-journal-XXXXXX", command[80];
    struct journal_options options = {
        .state_dir = mkdtemp(dir), .segment_bytes = 32768, .max_bytes = 16 * UINT64_C(32768), .io = io};
    pthread_t threads[3];
    uint64_t end;

    ck_assert_ptr_nonnull(options.state_dir);
    struct journal *opened;
    ck_assert_int_eq(journal_open(&opened, &options, NULL), 0);
    journal = opened;
    committed = 0;
    done = sync_failed = false;
    failures = 0;
    ck_assert_int_eq(pthread_create(&threads[0], NULL, syncer, NULL), 0);
    ck_assert_int_eq(pthread_create(&threads[1], NULL, collector, NULL), 0);
    ck_assert_int_eq(pthread_create(&threads[2], NULL, reading, NULL), 0);
    for (unsigned n = 0; n < RECORDS && failures == 0;) {
        int r = nth_append(journal, n, &end);
        if (r == 0)
            n++;
        else if (r != -EAGAIN && r != -ENOSPC)
            failures++;
        else
            sched_yield();
        if (r < 0 || n % 16 == 0 || n == RECORDS) {
            r = journal_write(journal);
            if (r < 0 && r != -EIO)
                failures++;
        }
        if (sync_failed) {
            if (journal_rewrite(journal) < 0)
                failures++;
            sync_failed = false;
        }
    }
    while (journal_durable_lsn(journal) < journal_end_lsn(journal) && failures == 0) {
        if (sync_failed) {
            if (journal_rewrite(journal) < 0)
                failures++;
            sync_failed = false;
        }
        sched_yield();
    }
    pthread_join(threads[2], NULL);
    done = true;
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    journal = NULL;
    ck_assert_uint_eq(failures, 0);
    ck_assert_uint_gt(journal_oldest_lsn(opened), 0);
    journal_close(opened);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(threads_append_sync_read_and_collect)
{
    run(NULL);
}
END_TEST

START_TEST(threads_go_on_through_failing_syncs)
{
    flaky = journal_io_system;
    flaky.fdatasync = flaky_fdatasync;
    run(&flaky);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal_threads");
    TCase *tcase = tcase_create("journal_threads");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, threads_append_sync_read_and_collect);
    tcase_add_test(tcase, threads_go_on_through_failing_syncs);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
