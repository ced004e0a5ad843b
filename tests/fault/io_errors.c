/* Errors of the disk. The story (storage/story.h) is told again and again, each time with the n-th call of the journal's
 * I/O table failing, once or from then on, until a run sees no failure; as EIO and as ENOSPC, with transfers that move less
 * than was asked for, and with syncs that fail when part of the data is already there. The daemon does what intake does:
 * rewrite once, else break down and be started again.
 *
 * At each acknowledgement the bytes must be on the medium: on a copy of the disk as a power cut would leave it right then,
 * everything acknowledged is found and stored. At the end of each run the fault goes away, the daemon starts again (over
 * the same page cache or after a power cut) and everything must be stored, once.
 *
 *     TOLL_SEED=7 io_errors                  repeats a run
 *     TOLL_SEED=7 TOLL_CALL=3/120 io_errors  looks at one: how it fails (modes[] below), and which call */
#include "tests/fault/storage/story.h"

static const struct mode {
    const char *name;
    int error;
    bool forever, short_transfers, keeps, beside;
} modes[] = {
    {.name = "EIO once", .error = EIO},
    {.name = "EIO for good", .error = EIO, .forever = true},
    {.name = "ENOSPC once", .error = ENOSPC},
    {.name = "ENOSPC for good", .error = ENOSPC, .forever = true},
    {.name = "EIO once, short transfers", .error = EIO, .short_transfers = true},
    {.name = "ENOSPC for good, short transfers", .error = ENOSPC, .forever = true, .short_transfers = true},
    {.name = "EIO once, a failed sync keeps parts", .error = EIO, .keeps = true},
    {.name = "EIO once, collecting while rewriting", .error = EIO, .beside = true},
};
enum { MODES = sizeof modes / sizeof *modes, CHECKS = 3 };

static uint64_t seed;
static bool is_long;
static struct outcome outcome;
static uint64_t calls, runs, false_acks, acks_checked;
static int checks_left; /* how many acknowledgements after the fault are looked at */

/* The power goes right after an acknowledgement. */
static void check_ack(struct host *host)
{
    static struct ledger ledger;
    struct outcome found = {.complaints = outcome.complaints};
    struct fake_db db;
    struct host other;

    if (host->disk->fail_at && (!host->disk->failed || checks_left == 0))
        return; /* so far all was as in the run without failure */
    checks_left--;
    acks_checked++;
    snprintf(found.state, sizeof found.state, "%.200s, power cut after moment %d", outcome.state, host->moment);
    db = host_copy_db(host->db, &host->db->now);
    ledger = *host->ledger;
    host_init(&other, fakedisk_cut(host->disk, FAKEDISK_DROP, 0), &db, &ledger);
    other.moment = host->moment;
    if (story_recover(&other, &found))
        story_judge(&other, &found);
    host_gone(&other);
    fakedisk_free(other.disk);
    fake_db_done(&db);
    false_acks += found.lost;
    outcome.duplicated += found.duplicated;
    outcome.wrong_totals += found.wrong_totals;
    outcome.violations += found.violations;
    outcome.complaints = found.complaints;
}

/* The pool's other thread collects segments at any time: here when journal_rewrite() has begun one and not synced it. Then the
 * power goes. */
static void collect_beside(void *context, enum fakedisk_event event, const struct fakedisk_inode *inode,
                           const struct fakedisk_change *change)
{
    struct host *host = context;
    static bool inside;

    if (!host->rewriting || inside || event != FAKEDISK_CHANGED || !inode->directory || !strstr(change->to, ".seg"))
        return;
    inside = true;
    host_collect(host);
    check_ack(host);
    inside = false;
}

static void recover(struct host *host, uint64_t end)
{
    host_gone(host);
    host->happened = NULL;
    host->disk->record = NULL;
    host->disk->short_transfers = false;
    if (end % 3 > 0)
        fakedisk_crash(host->disk, end % 3 == 1 ? FAKEDISK_DROP : FAKEDISK_TEAR, end);
    fakedisk_heal(host->disk);
    if (!story_recover(host, &outcome))
        return;
    story_judge(host, &outcome);
    story_go_on(host, &outcome);
    story_judge(host, &outcome);
    host_gone(host);
    fakedisk_crash(host->disk, FAKEDISK_DROP, 0);
    if (story_recover(host, &outcome))
        story_judge(host, &outcome);
}

/* Tells the story with the call failing. False: there were not so many. */
static bool run(int mode, uint64_t call, uint64_t end)
{
    static struct ledger ledger;
    struct fake_db db = {0};
    struct host host;

    runs++;
    snprintf(outcome.state, sizeof outcome.state, "TOLL_SEED=%llu TOLL_CALL=%d/%llu (%s)", (unsigned long long)seed,
             mode, (unsigned long long)call, modes[mode].name);
    ledger = (struct ledger){.count = 0};
    host_init(&host, fakedisk_new(), &db, &ledger);
    host.happened = check_ack;
    host.disk->random = seed;
    host.disk->fail_at = call;
    host.disk->fail_errno = modes[mode].error;
    host.disk->fail_forever = modes[mode].forever;
    host.disk->fail_keeps = modes[mode].keeps ? seed + 1 : 0;
    host.disk->short_transfers = modes[mode].short_transfers;
    host.disk->record = modes[mode].beside ? collect_beside : NULL;
    host.disk->record_context = &host;
    checks_left = is_long ? INT_MAX : CHECKS;
    story_tell(&host, seed);
    bool failed = host.disk->failed;
    if (!failed) {
        calls += call == 0 ? host.disk->calls : 0;
        if (!host.journal || host.renewals != 1)
            complain(&outcome, &outcome.violations, "the story was not told to the end");
    }
    recover(&host, end);
    host_gone(&host);
    fakedisk_free(host.disk);
    fake_db_done(&db);
    return failed;
}

int main(void)
{
    const char *one = getenv("TOLL_CALL");
    int mode = 0;
    unsigned long long call = 0;

    seed = story_seed();
    is_long = story_long();
    if (one && (sscanf(one, "%d/%llu", &mode, &call) != 2 || mode < 0 || mode >= MODES)) {
        fprintf(stderr, "TOLL_CALL is mode/call\n");
        return EXIT_FAILURE;
    }
    for (uint64_t end = 0; one && end < 3; end++)
        (void)run(mode, call, end);
    for (mode = 0; !one && mode < MODES; mode++) {
        (void)run(mode, 0, 0); /* without failure every acknowledgement is looked at */
        for (uint64_t end = 0; end < (is_long ? 3 : 1); end++) {
            call = 1;
            while (run(mode, call, call + end))
                call += STORY_STRIDE;
        }
        if (is_long)
            fprintf(stderr, "%s: calls %llu runs so far %llu\n", modes[mode].name, call - 1, (unsigned long long)runs);
    }
    outcome_print(&outcome, "io_errors");
    printf(" calls %llu runs %llu acks_checked %llu false_acks %llu violations %llu seed %llu\n",
           (unsigned long long)calls, (unsigned long long)runs, (unsigned long long)acks_checked,
           (unsigned long long)false_acks, (unsigned long long)outcome.violations, (unsigned long long)seed);
    return outcome_good(&outcome) && false_acks == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
