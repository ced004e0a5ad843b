/* What the journal's unit tests share: a journal on a fake disk, numbered records whose content follows from their
 * number, and a check of what is read back. */
#ifndef TOLL_TESTS_JOURNALTEST_H
#define TOLL_TESTS_JOURNALTEST_H

#include <check.h>

#include "daemon/journal.h"
#include "tests/support/fakedisk.h"

#define NEW_UUID ((const uint8_t[16]){"a new journal's"})

struct world {
    struct fakedisk *disk;
    struct journal_io io;
    struct journal_options options;
    struct journal *journal;
    struct journal_report report;
};

static inline void world_on(struct world *w, struct fakedisk *disk)
{
    *w = (struct world){.disk = disk, .io = fakedisk_io(disk)};
    w->options = (struct journal_options){.state_dir = "state", .segment_bytes = 2048, .retention_us = 0};
}

static inline void world_init(struct world *w)
{
    world_on(w, fakedisk_new());
}

static inline int world_open(struct world *w)
{
    w->options.io = &w->io;
    return journal_open(&w->journal, &w->options, &w->report);
}

static inline void world_close(struct world *w)
{
    journal_close(w->journal);
    w->journal = NULL;
}

static inline void world_reopen(struct world *w)
{
    world_close(w);
    ck_assert_int_eq(world_open(w), 0);
}

static inline void world_done(struct world *w)
{
    world_close(w);
    ck_assert_int_eq(fakedisk_open_fds(w->disk), 0);
    fakedisk_free(w->disk);
}

/* A power cut under the open journal. */
static inline void world_crash(struct world *w, enum fakedisk_crash kind, uint64_t seed)
{
    w->disk->off = true;
    world_close(w);
    fakedisk_crash(w->disk, kind, seed);
}

/* Record n: 0 to 119 bytes of payload. */
static inline size_t nth_payload(unsigned n, uint8_t payload[120])
{
    size_t size = n * 37 % 120;
    for (size_t i = 0; i < size; i++)
        payload[i] = (uint8_t)(n * 31 + i * 7 + 1);
    return size;
}

static inline int nth_append(struct journal *journal, unsigned n, uint64_t *ret_end)
{
    uint8_t payload[120];
    size_t size = nth_payload(n, payload);
    return journal_append(journal, JOURNAL_DATAGRAM, n & 1, n, n * 2, 1000 + n, payload, size, ret_end);
}

static inline int flush(struct journal *journal)
{
    int r = journal_write(journal);
    return r < 0 ? r : journal_sync(journal);
}

/* Appends records [from, to) and returns the LSN after them. */
static inline uint64_t append_range(struct journal *journal, unsigned from, unsigned to)
{
    uint64_t end = journal_end_lsn(journal);
    for (unsigned n = from; n < to; n++)
        ck_assert_int_eq(nth_append(journal, n, &end), 0);
    return end;
}

static inline void nth_check(const struct journal_record *record)
{
    uint8_t payload[120];
    unsigned n = record->uid;
    size_t size = nth_payload(n, payload);
    ck_assert_uint_eq(record->kind, JOURNAL_DATAGRAM);
    ck_assert_uint_eq(record->flags, n & 1);
    ck_assert_uint_eq(record->pid, n * 2);
    ck_assert_int_eq(record->received_us, 1000 + (int64_t)n);
    ck_assert_uint_eq(record->size, size);
    ck_assert(size == 0 || memcmp(record->payload, payload, size) == 0);
}

/* What a reader finds from the oldest record on. */
struct found {
    unsigned first, end;     /* records [first, end) in order; first == end: none */
    int result;              /* what ended it */
    uint64_t lsn;            /* where */
    unsigned holes, missing; /* hole records; numbers that were skipped over by one */
};

static inline struct found read_all(struct journal *journal)
{
    struct found found = {0};
    struct journal_reader *reader;
    struct journal_record record;
    uint64_t lsn = journal_oldest_lsn(journal);
    bool any = false;

    ck_assert_int_eq(journal_reader_new(&reader, journal), 0);
    while ((found.result = journal_reader_next(reader, &record)) == 0) {
        ck_assert_uint_eq(record.lsn, lsn);
        ck_assert_uint_le(record.end_lsn, journal_durable_lsn(journal));
        lsn = record.end_lsn;
        found.holes += record.kind == JOURNAL_HOLE;
        if (record.kind != JOURNAL_DATAGRAM)
            continue;
        nth_check(&record);
        if (!any)
            found.first = found.end = record.uid;
        any = true;
        if (record.uid != found.end) {
            ck_assert_uint_gt(record.uid, found.end);
            ck_assert_uint_gt(found.holes, 0);
            found.missing += record.uid - found.end;
        }
        found.end = record.uid + 1;
    }
    found.lsn = journal_reader_lsn(reader);
    ck_assert_uint_eq(found.lsn, lsn);
    journal_reader_free(reader);
    return found;
}

static inline int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

#endif
