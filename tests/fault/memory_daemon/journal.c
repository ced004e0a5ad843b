/* The journal's life: opened, filled, read, collected, closed, opened again, renewed, repaired. The disk is the real one, but for the waits. */
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/journal.h"
#include "tests/fault/memory_daemon/directory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORDS = 120, SEGMENT_BYTES = 4096 };

static struct journal *open_again(const struct journal_options *options, struct outcome *outcome)
{
    struct journal *journal = NULL;
    int r = -ENOMEM;

    for (int tries = 0; r == -ENOMEM && tries < TRIES; tries++)
        r = journal_open(&journal, options, NULL);
    if (r < 0)
        complain(outcome, "opening the journal: %s", strerror(-r));
    return r < 0 ? NULL : journal;
}

/* A failure that memory explains; what else fails is a complaint. */
static bool is_short(int r, const char *doing, struct outcome *outcome)
{
    if (r == -ENOMEM || r == -EAGAIN)
        return true;
    if (r < 0)
        complain(outcome, "%s: %s", doing, strerror(-r));
    return false;
}

static void sync_all(struct journal *journal, struct outcome *outcome)
{
    int r = journal_write(journal);

    if (r == 0)
        r = journal_sync(journal);
    if (r < 0)
        complain(outcome, "writing and syncing: %s", strerror(-r));
}

/* Record n holds its number, again and again. */
static void fill(struct journal *journal, unsigned from, unsigned to, struct outcome *outcome)
{
    uint8_t payload[512];
    uint64_t end;

    for (unsigned n = from; n < to; n++) {
        int r = -EAGAIN;

        memset(payload, (int)n, sizeof(payload));
        for (int tries = 0; r == -EAGAIN && tries < TRIES; tries++) {
            (void)!journal_room(journal, n * 7 % 512, 1, false);
            r = journal_append(journal, JOURNAL_DATAGRAM, 0, n, 0, 1000 + n, payload, n * 7 % 512, &end);
            if (r == -EAGAIN)
                sync_all(journal, outcome);
        }
        if (r < 0)
            complain(outcome, "appending record %u: %s", n, strerror(-r));
        if (n % 16 == 15) {
            sync_all(journal, outcome);
            (void)is_short(journal_collect(journal, 0, 0), "collecting", outcome);
        }
    }
    sync_all(journal, outcome);
}

/* Every record from `first` on, once and in order. */
static void read_back(struct journal *journal, unsigned first, unsigned end, struct outcome *outcome)
{
    struct journal_reader *reader = NULL;
    struct journal_record record;
    unsigned next = first;
    int r = -ENOMEM, tries = 0;

    while (r == -ENOMEM && tries++ < TRIES)
        r = journal_reader_new(&reader, journal);
    while (r == 0 || (r == -ENOMEM && tries++ < TRIES)) {
        r = journal_reader_next(reader, &record);
        if (r < 0 || record.kind != JOURNAL_DATAGRAM)
            continue;
        outcome->duplicated += record.uid < next;
        outcome->lost += record.uid > next;
        next = record.uid + 1;
        if (record.size != record.uid * 7 % 512 ||
            (record.size && *(const uint8_t *)record.payload != (uint8_t)record.uid))
            complain(outcome, "record %u is not what was appended", record.uid);
    }
    if (r != -EAGAIN)
        complain(outcome, "reading: %s", strerror(-r));
    outcome->lost += next != end;
    journal_reader_free(reader);
}

static void keep_fact(struct journal *journal, struct outcome *outcome)
{
    static const char fact[] = "a fact";
    char back[32];
    ssize_t n = -ENOMEM;
    int r = -ENOMEM;

    for (int tries = 0; r == -ENOMEM && tries < TRIES; tries++)
        r = journal_state_write(journal, "fact", fact, sizeof(fact));
    for (int tries = 0; n == -ENOMEM && tries < TRIES; tries++)
        n = journal_state_read(journal, "fact", back, sizeof(back));
    if (r < 0 || n != (ssize_t)sizeof(fact) || memcmp(back, fact, sizeof(fact)) != 0)
        complain(outcome, "a small file: %d %zd", r, n);
}

static void renew(struct journal *journal, struct outcome *outcome)
{
    static const uint8_t uuid[16] = "a new journal's";
    int r = -ENOMEM;

    for (int tries = 0; r == -ENOMEM && tries < TRIES; tries++)
        r = journal_renew(journal, journal_oldest_lsn(journal), uuid);
    if (r < 0)
        complain(outcome, "renewing: %s", strerror(-r));
}

static void repair(const struct journal_options *options, struct outcome *outcome)
{
    int r = -ENOMEM;

    for (int tries = 0; r == -ENOMEM && tries < TRIES; tries++)
        r = journal_repair(options, NULL, NULL);
    if (r != 0)
        complain(outcome, "repairing: %d", r);
}

void journal_story(struct outcome *outcome)
{
    struct directory directory = directory_make();
    const struct journal_io io = directory_io();
    const struct journal_options options = {.state_dir = directory.path, .segment_bytes = SEGMENT_BYTES, .io = &io};
    struct journal *journal = open_again(&options, outcome);

    if (journal) {
        fill(journal, 0, RECORDS, outcome);
        read_back(journal, 0, RECORDS, outcome);
        journal_close(journal);
        journal = open_again(&options, outcome);
    }
    if (journal) {
        uint64_t half = journal_end_lsn(journal) / 2;

        read_back(journal, 0, RECORDS, outcome);
        keep_fact(journal, outcome);
        renew(journal, outcome);
        fill(journal, RECORDS, 2 * RECORDS, outcome);
        read_back(journal, 0, 2 * RECORDS, outcome);
        while (journal_collect(journal, half, INT64_MAX) == -ENOMEM)
            ;
        journal_close(journal);
        repair(&options, outcome);
        journal = open_again(&options, outcome);
    }
    journal_close(journal);
    directory_remove(&directory);
}
