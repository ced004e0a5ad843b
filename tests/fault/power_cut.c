/* Power cuts. A story (storage/story.h) is told once on a disk that records; then the power goes after every single
 * change, sync, acknowledgement and commit of it, and what was not synced is dropped, kept, torn at sectors, or reordered:
 * each change alone kept, each alone dropped, any subset by seed. Every disk that comes of that is opened by the
 * production journal and stored in the database as it stood at that moment; then life goes on there. For some, the power
 * goes again while they recover.
 *
 *     TOLL_SEED=7 power_cut                        repeats a run
 *     TOLL_SEED=7 TOLL_CUT=0/35/240/3/2 power_cut  looks at one state, as it is named where a complaint is printed:
 *                                                  story, moment, entries of the disk's log, kind of crash, its argument */
#include "tests/support/fakedisk_log.h"
#include "tests/fault/storage/story.h"

struct cut {
    int story, moment;
    size_t at;
    enum fakedisk_crash kind;
    uint64_t argument;
};

static const char *const kind_names[] = {
    [FAKEDISK_DROP] = "unsynced dropped",         [FAKEDISK_KEEP] = "unsynced kept",
    [FAKEDISK_TEAR] = "unsynced torn at sectors", [FAKEDISK_REORDER] = "unsynced reordered",
    [FAKEDISK_ONLY] = "one unsynced change kept", [FAKEDISK_WITHOUT] = "one unsynced change dropped",
};

static uint64_t seed;
static bool is_long;
static struct outcome outcome;
static uint64_t states, second_cuts;

static void name_state(const struct cut *cut)
{
    snprintf(outcome.state, sizeof outcome.state, "TOLL_SEED=%llu TOLL_CUT=%d/%d/%zu/%d/%llu (%s)",
             (unsigned long long)seed, cut->story, cut->moment, cut->at, (int)cut->kind,
             (unsigned long long)cut->argument, kind_names[cut->kind]);
}

/* One more power cut without luck, and another start: what was acknowledged is there. */
static void check_again(struct host *host)
{
    if (host->journal)
        host_gone(host);
    fakedisk_crash(host->disk, FAKEDISK_DROP, 0);
    if (story_recover(host, &outcome))
        story_judge(host, &outcome);
}

/* Recovers while the power goes at one of its calls, at which by chance; then for good. */
static void cut_while_recovering(struct host *host, uint64_t random)
{
    host->disk->fail_at = 1 + fakedisk_next(&random) % 80;
    host->disk->off_at_fail = true;
    if (host_start(host) == 0)
        (void)host_store(host);
    host_gone(host);
    if (host->disk->failed)
        second_cuts++;
    fakedisk_crash(host->disk, FAKEDISK_TEAR, random);
}

static void check_state(const struct tape *tape, const struct fakedisk *disk, const struct cut *cut)
{
    static struct ledger ledger;
    struct fake_db db;
    struct host host;

    if (states++ % STORY_STRIDE && !getenv("TOLL_CUT"))
        return;
    name_state(cut);
    tape_recall(tape, cut->moment, &db, &ledger);
    host_init(&host, fakedisk_cut(disk, cut->kind, cut->argument), &db, &ledger);
    host.moment = cut->moment;
    if (states / STORY_STRIDE % 4 == 0)
        cut_while_recovering(&host, seed + states);
    if (story_recover(&host, &outcome)) {
        story_judge(&host, &outcome);
        story_go_on(&host, &outcome);
        story_judge(&host, &outcome);
        if (states / STORY_STRIDE % 4 == 1)
            check_again(&host);
    }
    host_gone(&host);
    fakedisk_free(host.disk);
    fake_db_done(&db);
}

static void check_kinds(const struct tape *tape, const struct fakedisk *disk, struct cut cut, unsigned seeds)
{
    size_t pending = fakedisk_pending(disk);

    cut.kind = FAKEDISK_DROP;
    check_state(tape, disk, &cut);
    if (pending == 0)
        return;
    cut.kind = FAKEDISK_KEEP;
    check_state(tape, disk, &cut);
    for (unsigned i = 0; i < seeds; i++) {
        cut.argument = seed * 1000 + i;
        cut.kind = FAKEDISK_TEAR;
        check_state(tape, disk, &cut);
        cut.kind = FAKEDISK_REORDER;
        if (pending > 2)
            check_state(tape, disk, &cut);
    }
    for (cut.argument = 0; pending > 1 && cut.argument < pending; cut.argument++) {
        cut.kind = FAKEDISK_ONLY;
        check_state(tape, disk, &cut);
        cut.kind = FAKEDISK_WITHOUT;
        if (pending > 2)
            check_state(tape, disk, &cut);
    }
}

struct telling {
    int story;
    unsigned seeds;
};

static void check_prefix(const struct tape *tape, struct fakedisk *disk, int moment, size_t at, void *context)
{
    const struct telling *telling = context;

    check_kinds(tape, disk, (struct cut){.story = telling->story, .moment = moment, .at = at}, telling->seeds);
}

static void check_story(const struct tape *tape, int story, unsigned seeds)
{
    struct telling telling = {.story = story, .seeds = seeds};

    tape_walk(tape, check_prefix, &telling);
}

static void check_one(const struct tape *tape, const struct cut *cut)
{
    struct fakedisk *disk = fakedisk_new();

    fakedisk_replay(disk, tape->log, 0, cut->at, SIZE_MAX);
    for (size_t i = cut->at > 12 ? cut->at - 12 : 0; i < cut->at; i++) {
        fakedisk_log_print(stderr, tape->log, i);
        fputc('\n', stderr);
    }
    check_state(tape, disk, cut);
    fakedisk_free(disk);
}

int main(void)
{
    static struct tape tape;
    const char *one = getenv("TOLL_CUT");
    struct cut cut = {0};
    int kind;
    unsigned long long argument;

    seed = story_seed();
    is_long = story_long();
    if (one && sscanf(one, "%d/%d/%zu/%d/%llu", &cut.story, &cut.moment, &cut.at, &kind, &argument) != 5) {
        fprintf(stderr, "TOLL_CUT is story/moment/entries/kind/argument\n");
        return EXIT_FAILURE;
    }
    for (int story = 0; story < (is_long ? 32 : 6); story++) {
        struct fakedisk_log log = {0};
        if (one && story != cut.story)
            continue;
        if (!tape_make(&tape, &log, seed + (uint64_t)story, true))
            outcome.violations++;
        if (one) {
            cut.kind = (enum fakedisk_crash)kind;
            cut.argument = argument;
            check_one(&tape, &cut);
        } else {
            check_story(&tape, story, is_long ? 40 : 16);
        }
        if (is_long || !outcome_good(&outcome))
            fprintf(stderr, "story %d of seed %llu: entries %zu moments %d frames %d states so far %llu\n", story,
                    (unsigned long long)seed, log.count, tape.count, tape.ledger.count, (unsigned long long)states);
        tape_done(&tape);
    }
    outcome_print(&outcome, "power_cut");
    printf(" states %llu second_cuts %llu violations %llu seed %llu\n", (unsigned long long)states / STORY_STRIDE,
           (unsigned long long)second_cuts, (unsigned long long)outcome.violations, (unsigned long long)seed);
    return outcome_good(&outcome) ? EXIT_SUCCESS : EXIT_FAILURE;
}
