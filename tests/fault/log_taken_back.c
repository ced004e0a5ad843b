/* A log that was taken back: it ends before what the database has stored of it. Frames that come to lie under the old
 * watermark must not be taken for stored ones.
 *
 * ahead    On a disk that keeps its word it can't happen: whenever the power goes, also between a write, the writer's look
 *          and the sync, the log is found to reach up to the database's watermark.
 * lying    It happens on a disk that says it has synced and has not: the syncs of the last k entries of the recorded story
 *          did nothing, for every k, at every entry; then the power goes.
 * copy     And to a state directory put back from a copy: of every entry of the story, with the database of later moments.
 * After either the daemon starts, receives and acknowledges frames before it reaches the database (few, or enough for the
 * log to grow past the old watermark; with a kill and a start in between), and then stores. Every frame acknowledged since
 * the start must be stored, and every frame found in the log, each once.
 *
 *     TOLL_SEED=7 log_taken_back                        repeats a run
 *     TOLL_SEED=7 TOLL_STATE=1200 log_taken_back        looks at one state, by the number that a complaint names */
#include "tests/fault/storage/story.h"

static uint64_t seed, only = UINT64_MAX;
static bool is_long;
static struct outcome outcome;
static uint64_t states, skipped, ahead, renewed, refused;

/* The next state's number; false if another one is looked at. */
static bool begin_state(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t number = states++;

    snprintf(outcome.state, sizeof outcome.state, "TOLL_SEED=%llu TOLL_STATE=%llu (%s %llu %llu %llu)",
             (unsigned long long)seed, (unsigned long long)number, what, (unsigned long long)a, (unsigned long long)b,
             (unsigned long long)c);
    return only == UINT64_MAX ? number % STORY_STRIDE == 0 : only == number;
}

/* An honest disk. */

static void check_ahead(const struct tape *tape, const struct fakedisk *disk, int moment, size_t at,
                        enum fakedisk_crash kind, uint64_t argument)
{
    static struct ledger ledger;
    struct fake_db db;
    struct host host;

    if (!begin_state("ahead: moment, entries, kind", (uint64_t)moment, at, kind))
        return;
    tape_recall(tape, moment, &db, &ledger);
    host_init(&host, fakedisk_cut(disk, kind, argument), &db, &ledger);
    int r = host_start(&host);
    if (r < 0) {
        complain(&outcome, &outcome.violations, "opening the journal: %s", strerror(-r));
    } else {
        const struct fake_watermark *watermark = fake_db_watermark(&db, journal_uuid(host.journal), 0);
        if (watermark && watermark->lsn > journal_end_lsn(host.journal))
            complain(&outcome, &ahead, "stored up to LSN %llu, but the log ends at %llu",
                     (unsigned long long)watermark->lsn, (unsigned long long)journal_end_lsn(host.journal));
    }
    host_gone(&host);
    fakedisk_free(host.disk);
    fake_db_done(&db);
}

static void check_ahead_in_all_kinds(const struct tape *tape, struct fakedisk *disk, int moment, size_t at,
                                     void *context)
{
    uint64_t *random = context;

    check_ahead(tape, disk, moment, at, FAKEDISK_DROP, 0);
    check_ahead(tape, disk, moment, at, FAKEDISK_TEAR, fakedisk_next(random));
    check_ahead(tape, disk, moment, at, FAKEDISK_REORDER, fakedisk_next(random));
}

static void tell_ahead(const struct tape *tape, uint64_t *random)
{
    tape_walk(tape, check_ahead_in_all_kinds, random);
}

/* The new run. */

/* Frames that must be stored in the end: n by n. */
struct wanted {
    bool wanted[FRAMES_MAX];
};

static void want(void *context, int n)
{
    struct wanted *wanted = context;

    if (n >= 0 && n < FRAMES_MAX)
        wanted->wanted[n] = true;
}

static bool unwanted(void *context, int n)
{
    return !((const struct wanted *)context)->wanted[n];
}

/* Reads the log from end to end. */
static int look(struct host *host, struct wanted *wanted)
{
    struct journal_reader *reader;
    struct journal_record record;
    int r = journal_reader_new(&reader, host->journal);

    while (r == 0) {
        r = journal_reader_next(reader, &record);
        if (r == 0)
            host_each_frame(&record, want, wanted);
    }
    journal_reader_free(reader);
    return r == -EAGAIN ? 0 : r;
}

/* Starts, with a repair where the start or reading asks for one. False: it refuses to. */
static bool bring_up(struct host *host, struct wanted *wanted)
{
    int r = host_start(host);

    if (r == 0)
        r = look(host, wanted);
    if (r == -EBADMSG) {
        host_gone(host);
        r = journal_repair(&host->options, NULL, NULL);
        if (r >= 0)
            r = host_start(host);
        if (r == 0)
            r = look(host, wanted);
    }
    if (r == 0)
        return true;
    refused++;
    if (r != -EBADMSG)
        complain(&outcome, &outcome.violations, "the journal can't be brought up: %s", strerror(-r));
    return false;
}

static void want_acknowledged(const struct ledger *ledger, int moment, struct wanted *wanted)
{
    for (int n = 0; n < ledger->count; n++) /* what no number protects may have been stored before */
        if (ledger->frames[n].acked_at > moment && ledger->frames[n].acked_at != NEVER)
            wanted->wanted[n] = true;
}

static void judge(struct host *host, struct wanted *wanted, int moment)
{
    uint64_t lost = outcome.lost;

    want_acknowledged(host->ledger, moment, wanted);
    for (int n = 0; n < host->ledger->count; n++) /* found in the log counts as acknowledged */
        if (wanted->wanted[n] && host->ledger->frames[n].acked_at == NEVER)
            host->ledger->frames[n].acked_at = host->moment;
    ledger_judge(host->ledger, host->db, host->moment, false, unwanted, wanted, &outcome);
    skipped += outcome.lost - lost;
}

/* A run on the disk, with the database as of the moment, and what becomes of it. Takes the disk. */
static void new_run(const struct tape *tape, struct fakedisk *disk, int moment, uint64_t random)
{
    static struct ledger ledger;
    struct wanted wanted = {.wanted = {false}};
    uint64_t given_up, to;
    struct fake_db db;
    struct host host;

    tape_recall(tape, moment, &db, &ledger);
    host_init(&host, disk, &db, &ledger);
    host.moment = moment;
    if (!bring_up(&host, &wanted))
        goto out;
    if (fakedisk_next(&random) % 3)
        host_resend(&host);
    for (unsigned runs = story_number(&random, 1, 3); runs > 0 && story_up(&host); runs--) {
        story_send(&host, &random, fakedisk_next(&random) % 4 == 0 ? 25 : story_number(&random, 0, 4));
        host_sync(&host);
        if (runs == 1)
            break;
        host_gone(&host);
        fakedisk_crash(host.disk, fakedisk_next(&random) % 2 ? FAKEDISK_DROP : FAKEDISK_TEAR, random);
    }
    if (story_up(&host) && !story_store(&host, &given_up, &to))
        complain(&outcome, &outcome.violations, "storing: %s", host.status.error);
    judge(&host, &wanted, moment);
    story_go_on(&host, &outcome);
    judge(&host, &wanted, moment);
    renewed += host.renewals > 0;
    host_gone(&host);
    fakedisk_crash(host.disk, FAKEDISK_DROP, 0);
    if (story_recover(&host, &outcome))
        judge(&host, &wanted, moment);
out:
    host_gone(&host);
    fakedisk_free(host.disk);
    fake_db_done(&db);
}

/* A disk that lies, from every entry on, until the power goes at every later one. */
static void tell_lying(const struct tape *tape, uint64_t *random, unsigned one_in)
{
    for (size_t from = 0; from < tape->log->count; from++) {
        struct fakedisk *disk = fakedisk_new();
        if (tape->log->entries[from].event == FAKEDISK_CHANGED)
            goto next; /* no other syncs lie than if it began with the next */
        fakedisk_replay(disk, tape->log, 0, from, SIZE_MAX);
        for (size_t at = from + 1; at <= tape->log->count; at++) {
            fakedisk_replay(disk, tape->log, at - 1, at, from);
            bool dropped = fakedisk_next(random) % 4 > 0;
            uint64_t argument = fakedisk_next(random);
            if (fakedisk_next(random) % one_in)
                continue;
            if (begin_state("lying: from, entries, dropped", from, at, dropped))
                new_run(tape, fakedisk_cut(disk, dropped ? FAKEDISK_DROP : FAKEDISK_TEAR, argument),
                        tape_moment_at(tape, at), argument);
        }
    next:
        fakedisk_free(disk);
    }
}

/* The state directory as it was copied at every entry, put back at every later moment. */
static void tell_copies(const struct tape *tape, uint64_t *random, unsigned one_in)
{
    struct fakedisk *disk = fakedisk_new();

    for (size_t at = 0; at <= tape->log->count; at++) {
        if (at > 0)
            fakedisk_replay(disk, tape->log, at - 1, at, SIZE_MAX);
        for (int moment = tape_moment_at(tape, at); moment < tape->count; moment++) {
            uint64_t argument = fakedisk_next(random);
            if (fakedisk_next(random) % one_in && moment + 1 < tape->count)
                continue;
            if (begin_state("copy: entries, moment", at, (uint64_t)moment, 0))
                new_run(tape, fakedisk_clone(disk), moment, argument);
        }
    }
    fakedisk_free(disk);
}

int main(void)
{
    static struct tape tape;
    const char *one = getenv("TOLL_STATE");

    seed = story_seed();
    is_long = story_long();
    if (one)
        only = strtoull(one, NULL, 10);
    for (int story = 0; story < (is_long ? 16 : 2); story++) {
        struct fakedisk_log log = {0};
        uint64_t random = seed + (uint64_t)story;
        if (!tape_make(&tape, &log, seed + (uint64_t)story, story % 2))
            outcome.violations++;
        if (story % 2 == 0) { /* with the log taken back already, a lie on top of it is beyond any guarantee */
            tell_ahead(&tape, &random);
            tell_lying(&tape, &random, is_long ? 1 : 2);
        }
        tell_copies(&tape, &random, is_long ? 1 : 2);
        if (is_long)
            fprintf(stderr, "story %d of seed %llu: states so far %llu\n", story, (unsigned long long)seed,
                    (unsigned long long)states);
        tape_done(&tape);
    }
    outcome_print(&outcome, "log_taken_back");
    printf(" states %llu skipped %llu ahead %llu renewed %llu refused %llu violations %llu seed %llu\n",
           (unsigned long long)states / STORY_STRIDE, (unsigned long long)skipped, (unsigned long long)ahead,
           (unsigned long long)renewed, (unsigned long long)refused, (unsigned long long)outcome.violations,
           (unsigned long long)seed);
    return outcome_good(&outcome) && skipped + ahead == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
