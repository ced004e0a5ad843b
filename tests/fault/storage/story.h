/* The story that the storage faults are put into, and what has to come after each of them. Its order is fixed, its sizes
 * come from a seed. In it frames arrive and are synced in groups, within a segment and over several; marks and state
 * files are written; batches are committed, also between a write and its sync; segments are prepared, begun and
 * collected; the daemon is killed, stopped and started again, also before it has reached the database; and the database
 * turns out to know more of the log than the log does, so that the journal is renewed. */
#ifndef TOLL_TESTS_STORAGE_STORY_H
#define TOLL_TESTS_STORAGE_STORY_H

#include "daemon/log.h"
#include "tests/fault/storage/host.h"
#include "tests/support/fakedisk_log.h"

static inline unsigned story_number(uint64_t *random, unsigned from, unsigned to)
{
    return from + (unsigned)(fakedisk_next(random) % (to - from + 1));
}

/* Up, or down for good: what starts services tries a few times. */
static inline bool story_up(struct host *host)
{
    for (int tries = 0; !host->journal && tries < 3; tries++)
        if (host_start(host) == 0)
            host_resend(host);
    return host->journal != NULL;
}

static inline void story_send(struct host *host, uint64_t *random, unsigned datagrams)
{
    for (unsigned i = 0; i < datagrams && story_up(host); i++)
        host_send(host, (int)story_number(random, 0, SENDERS - 1), (int)story_number(random, 1, GROUP_FRAMES_MAX));
}

/* A round of ordinary life. */
static inline void story_round(struct host *host, uint64_t *random)
{
    if (!story_up(host))
        return;
    story_send(host, random, story_number(random, 1, 3));
    host_write(host);
    (void)host_store(host);                               /* the group is written and not durable */
    story_send(host, random, story_number(random, 0, 2)); /* while the sync is under way */
    host_sync_written(host);
    (void)host_store(host);
    host_sync(host);
    (void)host_store(host);
    host_mark(host);
    host_collect(host);
}

/* All is stored when the next datagram comes, which may begin a segment; then segments are collected. */
static inline void story_hand_over(struct host *host, uint64_t *random)
{
    for (int i = 0; i < 5 && story_up(host); i++) {
        story_send(host, random, 1);
        host_sync(host);
        (void)host_store(host);
        story_send(host, random, 1);
        host_write(host);
        host_collect(host);
    }
}

static inline void story_kill(struct host *host, uint64_t *random)
{
    story_send(host, random, 2);
    host_write(host);
    host_gone(host);
}

/* While the daemon is down: the database turns out to have more of the log than the log. */
static inline void story_take_back(struct host *host, uint64_t *random)
{
    struct fake_state *now = &host->db->now;

    if (host->journal || !host->stored_to || host->no_take_back)
        return;
    for (size_t i = 0; i < now->watermark_count; i++)
        if (memcmp(now->watermarks[i].journal, host->sink.fake.journal, 16) == 0)
            now->watermarks[i].lsn = host->stored_to + story_number(random, 1, 2000);
    host_moment(host);
}

static inline void story_tell(struct host *host, uint64_t seed)
{
    uint64_t random = seed;

    story_send(host, &random, 2); /* acknowledged before the database is reached */
    host_sync(host);
    (void)host_store(host);
    for (int i = 0; i < 2; i++)
        story_round(host, &random);

    story_send(host, &random, 9); /* several segments in one group */
    host_sync(host);
    (void)host_store_some(host, 1);
    host_collect(host);
    story_round(host, &random);
    if (story_up(host) && journal_state_write(host->journal, "epoch", &seed, sizeof seed) < 0)
        host_break_down(host);
    host_collect(host);

    story_kill(host, &random);
    story_round(host, &random);
    story_hand_over(host, &random);
    story_send(host, &random, 3);
    host_sync(host);
    host_stop(host);

    story_send(host, &random, 2); /* a run that never reaches the database */
    host_sync(host);
    story_kill(host, &random);
    story_round(host, &random);
    host_stop(host);

    story_take_back(host, &random);
    story_send(host, &random, 3);
    host_sync(host);
    (void)host_store(host);
    story_round(host, &random);
    host_collect(host);
    story_send(host, &random, 2);
    host_write(host); /* and never synced */
}

/* Stores all. Where the log begins above the watermark the writer stops and says what its operator may do: that is done, and
 * [*ret_from, *ret_to) of the log is what is given up. */
static inline bool story_store(struct host *host, uint64_t *ret_from, uint64_t *ret_to)
{
    *ret_from = *ret_to = 0;
    if (host_store(host))
        return true;
    if (!host->journal || !strstr(host->status.error, "UPDATE toll.journals SET lsn"))
        return false;
    struct fake_watermark *watermark = fake_db_watermark(host->db, journal_uuid(host->journal), 0);
    assert(watermark);
    *ret_from = watermark->lsn;
    *ret_to = watermark->lsn = journal_oldest_lsn(host->journal);
    return host_store(host);
}

/* After the fault: opens what is left and stores it. Damage, or refusing to go on, is a violation. */
static inline bool story_recover(struct host *host, struct outcome *outcome)
{
    int r = host_start(host);

    if (r < 0) {
        complain(outcome, &outcome->violations, "opening the journal: %s (%s)", strerror(-r),
                 host->report.damaged_path);
        return false;
    }
    if (host->report.damaged_from != host->report.damaged_to)
        complain(outcome, &outcome->violations, "damage was reported from %llu to %llu",
                 (unsigned long long)host->report.damaged_from, (unsigned long long)host->report.damaged_to);
    bool stored = host_store(host);
    if (!stored)
        complain(outcome, &outcome->violations, "storing what is left: %s", host->status.error);
    return stored;
}

/* Life goes on: senders send again what was not acknowledged, and more; all of it must be stored. */
static inline void story_go_on(struct host *host, struct outcome *outcome)
{
    host_resend(host);
    for (int sender = 0; sender < SENDERS; sender++)
        host_send(host, sender, GROUP_FRAMES_MAX);
    host_sync(host);
    if (!host_store(host))
        complain(outcome, &outcome->violations, "storing new frames: %s", host->status.error);
    host_collect(host);
    for (int n = 0; n < host->ledger->count; n++)
        if (host->ledger->frames[n].sender != NO_ENVELOPE && host->ledger->frames[n].acked_at == NEVER) {
            complain(outcome, &outcome->violations, "frame %d was sent again and not acknowledged", n);
            break;
        }
}

static inline void story_judge(struct host *host, struct outcome *outcome)
{
    ledger_judge(host->ledger, host->db, host->moment, true, NULL, NULL, outcome);
}

/* What can be seen from outside of a story that was told to the end, moment by moment, to begin again from there. */
struct tape_moment {
    size_t at; /* the count of the disk's log */
    struct fake_state state;
};

struct tape {
    struct fakedisk_log *log;
    struct host host;
    struct fake_db db;
    struct ledger ledger;
    struct tape_moment *moments;
    int count;
};

static inline void tape_moment(struct host *host)
{
    struct tape *tape = host->context;

    tape->moments = realloc(tape->moments, ((size_t)tape->count + 1) * sizeof *tape->moments);
    assert(tape->moments && tape->count == host->moment);
    tape->moments[tape->count++] =
        (struct tape_moment){.at = tape->log->count, .state = fake_state_copy(&tape->db.now)};
}

/* The database and the ledger as they stood at a moment; of the database the caller must dispose with fake_db_done(). */
static inline void tape_recall(const struct tape *tape, int moment, struct fake_db *db, struct ledger *ledger)
{
    *db = host_copy_db(&tape->db, &tape->moments[moment].state);
    /* What was sent in this moment may have come to the disk; what was sent later is not known yet. */
    *ledger = (struct ledger){.count = 0};
    for (int n = 0; n < tape->ledger.count && tape->ledger.frames[n].sent_at <= moment; n++) {
        struct sent *frame = &ledger->frames[ledger->count++];
        *frame = tape->ledger.frames[n];
        if (frame->acked_at > moment)
            frame->acked_at = NEVER;
        ledger->of[frame->sender][ledger->sent[frame->sender]++] = n;
    }
}

/* Tells the story on an empty disk and keeps the tape. False, with a word on stderr, if it did not tell all. */
static inline bool tape_make(struct tape *tape, struct fakedisk_log *log, uint64_t seed, bool take_back)
{
    *tape = (struct tape){.log = log};
    host_init(&tape->host, fakedisk_new(), &tape->db, &tape->ledger);
    fakedisk_log_attach(log, tape->host.disk);
    tape->host.disk->random = seed;
    tape->host.happened = tape_moment;
    tape->host.context = tape;
    tape->host.no_take_back = !take_back;
    tape_moment(&tape->host);
    story_tell(&tape->host, seed);
    bool whole = tape->host.journal && tape->host.renewals == take_back && tape->host.collected >= 3;
    if (!whole)
        fprintf(stderr, "the story was not told to the end: %s renewals %u collected %u\n",
                tape->host.journal ? "up" : "down", tape->host.renewals, tape->host.collected);
    return whole;
}

/* The moment that had come when the log had so many entries; where there were several, the last. */
static inline int tape_moment_at(const struct tape *tape, size_t at)
{
    int moment = tape->count - 1;

    while (moment > 0 && tape->moments[moment].at > at)
        moment--;
    return moment;
}

/* Calls `visit` for every prefix: of the disk's log, and of what had been seen outside by then. `disk` is what the prefix makes. */
static inline void tape_walk(const struct tape *tape,
                             void (*visit)(const struct tape *tape, struct fakedisk *disk, int moment, size_t at,
                                           void *context),
                             void *context)
{
    struct fakedisk *disk = fakedisk_new();
    size_t done = 0;

    for (int moment = 0; moment < tape->count; moment++) {
        size_t last = moment + 1 < tape->count ? tape->moments[moment + 1].at : tape->log->count;
        for (size_t at = tape->moments[moment].at; at <= last; at++) {
            fakedisk_replay(disk, tape->log, done, at, SIZE_MAX);
            done = at;
            visit(tape, disk, moment, at, context);
        }
    }
    fakedisk_free(disk);
}

static inline void tape_done(struct tape *tape)
{
    host_gone(&tape->host);
    fakedisk_free(tape->host.disk);
    fake_db_done(&tape->db);
    for (int i = 0; i < tape->count; i++)
        fake_state_done(&tape->moments[i].state);
    free(tape->moments);
    fakedisk_log_done(tape->log);
}

/* Under the sanitizers everything takes ten times as long: only every so many-th state is looked at. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STORY_STRIDE = 10 };
#else
enum { STORY_STRIDE = 1 };
#endif

/* What every program reads from its environment. */
static inline uint64_t story_seed(void)
{
    const char *text = getenv("TOLL_SEED");
    uint64_t seed = 0;

    log_level_set((enum log_level) - 1); /* thousands of daemons; what they report is looked at */
    if (text && *text)
        return strtoull(text, NULL, 10);
    journal_io_system.random(NULL, &seed, sizeof seed);
    return seed % 1000000000;
}

static inline bool story_long(void)
{
    const char *text = getenv("TOLL_LONG");
    return text && strcmp(text, "1") == 0;
}

#endif
