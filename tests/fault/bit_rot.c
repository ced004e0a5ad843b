/* Bit rot. Of a small journal every byte is changed in turn (in the long run every bit), every sector is zeroed, swapped
 * with another or replaced by another, every file cut short and deleted; records stand in the place of others, or of
 * another journal's. The judge is the daemon's own way: start, read
 * all there is; where one of the two complains, `tolld --repair-journal`, start, store everything in the database, and
 * life goes on. The database has either nothing yet or half of the log.
 *
 * A changed record must never be stored, an acknowledged one never skipped without a report. What is lost is exactly what
 * was changed, it was reported, and its bytes are in quarantine. One limit is the format's and is counted as `unvouched`: that
 * a record was acknowledged is known from what was written after it. Where one damaged sector holds the last of
 * the acknowledged records and all that vouches for them, they look like the torn tail of a power cut.
 *
 *     TOLL_SEED=7 bit_rot                   repeats a run
 *     TOLL_SEED=7 TOLL_ROT=12345 bit_rot    looks at one state, by the number that a complaint names */
#include "tests/fault/storage/story.h"
#include "tests/support/fakedisk_damage.h"

enum {
    SEGMENT_BYTES = 4096,
    SEGMENT_HEADER_BYTES = 64,
    RECORDS_MAX = 400,
    FILES_MAX = 32,
    PATH = 320,
    REPORTS_MAX = 16
};

/* A record of the log before the damage. */
struct record {
    uint64_t lsn, end;
    uint64_t durable; /* that it carries */
    const char *path;
    size_t offset; /* in the file */
};

/* The damage: bytes of files; SIZE_MAX: to the end. */
struct damage {
    const char *path;
    size_t from, to;
};

/* The journal before the damage, and what the world knew. */
static struct {
    struct fakedisk *disk;
    struct fake_db db;
    struct fake_state nothing, half; /* stored */
    struct ledger ledger;
    int record_of[FRAMES_MAX]; /* index, or -1 */
    struct record records[RECORDS_MAX];
    int count;
    char paths[FILES_MAX][PATH];
    int files;
} whole;

/* What repair set aside; or what the writer said is missing and an operator gave up. */
static struct {
    uint64_t from, to;
    bool given_up;
} reports[REPORTS_MAX];
static int report_count;

static uint64_t seed, only = UINT64_MAX;
static bool is_long;
static struct outcome outcome;
static uint64_t flips, damages, tried, silent, set_aside, unvouched;

/* Making the journal. */

static void note_file(void *context, const char *path)
{
    (void)context;
    assert(whole.files < FILES_MAX);
    snprintf(whole.paths[whole.files++], PATH, "%s", path);
}

static void locate(struct record *record)
{
    unsigned best = 0;

    for (int i = 0; i < whole.files; i++) {
        unsigned number;
        unsigned long base;
        if (sscanf(whole.paths[i], "journal/%8u-%16lx.seg", &number, &base) != 2 || base > record->lsn || number < best)
            continue;
        best = number;
        record->path = whole.paths[i];
        record->offset = SEGMENT_HEADER_BYTES + (record->lsn - base);
    }
    assert(best > 0);
}

static void note_frame(void *context, int n)
{
    assert(n >= 0 && n < whole.ledger.count);
    whole.record_of[n] = *(int *)context;
}

static void note_records(struct journal *journal)
{
    struct journal_reader *reader;
    struct journal_record record;
    struct journal_record again;
    int r = journal_reader_new(&reader, journal);

    assert(r == 0);
    while ((r = journal_reader_next(reader, &record)) == 0) {
        assert(whole.count < RECORDS_MAX);
        struct record *to = &whole.records[whole.count];
        to->lsn = record.lsn;
        to->end = record.end_lsn;
        locate(to);
        const uint8_t *bytes = fakedisk_bytes(whole.disk, to->path, NULL);
        r = journal_record_parse(journal_uuid(journal), to->lsn, bytes + to->offset, to->end - to->lsn, &again,
                                 &to->durable);
        assert(r == 0);
        host_each_frame(&record, note_frame, &whole.count);
        whole.count++;
    }
    assert(r == -EAGAIN);
    journal_reader_free(reader);
}

/* Several segments; half of it stored; a run that has not reached the database since; a tail that is not synced. */
static void make_journal(void)
{
    struct host host;
    uint64_t random = seed;

    whole.disk = fakedisk_new();
    whole.disk->random = seed;
    host_init(&host, whole.disk, &whole.db, &whole.ledger);
    host.options.segment_bytes = SEGMENT_BYTES;
    host.options.retention_us = INT64_MAX / 2;
    if (!story_up(&host) || !host_store(&host))
        abort();
    whole.nothing = fake_state_copy(&whole.db.now);
    for (int i = 0; i < 14; i++) {
        if (i == 8) {
            (void)host_store(&host);
            whole.half = fake_state_copy(&whole.db.now);
            if (journal_state_write(host.journal, "epoch", &seed, sizeof seed) < 0)
                abort();
            host_stop(&host);
        }
        story_send(&host, &random, story_number(&random, 1, 4));
        host_sync(&host);
        host_mark(&host);
    }
    story_send(&host, &random, 2);
    host_write(&host);
    host_gone(&host);
    fakedisk_crash(whole.disk, FAKEDISK_KEEP, 0);
    fakedisk_each(whole.disk, note_file, NULL);

    struct fakedisk *look = fakedisk_clone(whole.disk);
    host.disk = look;
    memset(whole.record_of, -1, sizeof whole.record_of);
    if (host_start(&host) < 0)
        abort();
    note_records(host.journal);
    host_gone(&host);
    fakedisk_free(look);
}

/* What may be missing. */

static bool touches(const struct damage *damage, const char *path, uint64_t from, uint64_t to)
{
    return damage->path && strcmp(damage->path, path) == 0 && from < damage->to && damage->from < to;
}

static bool is_damaged(const struct damage damage[2], const struct record *record)
{
    uint64_t end = record->offset + (record->end - record->lsn);

    return touches(&damage[0], record->path, record->offset, end) ||
           touches(&damage[1], record->path, record->offset, end);
}

static bool is_header_damaged(const struct damage damage[2], const char *path)
{
    return touches(&damage[0], path, 0, SEGMENT_HEADER_BYTES) || touches(&damage[1], path, 0, SEGMENT_HEADER_BYTES);
}

/* Whether a sound record or header says that all below `lsn` is durable. */
static bool is_vouched(const struct damage damage[2], uint64_t lsn)
{
    for (int i = 0; i < whole.count; i++) {
        const struct record *record = &whole.records[i];
        if (record->durable >= lsn && !is_damaged(damage, record))
            return true;
    }
    for (int i = 0; i < whole.files; i++) {
        unsigned long base;
        const uint8_t *bytes = fakedisk_bytes(whole.disk, whole.paths[i], NULL);
        uint64_t durable = 0;
        if (sscanf(whole.paths[i], "journal/%*8u-%16lx.seg", &base) != 1 || is_header_damaged(damage, whole.paths[i]))
            continue;
        for (int byte = 0; byte < 8; byte++) /* where journal_segment.c puts it */
            durable |= (uint64_t)bytes[40 + byte] << 8 * byte;
        if (durable >= lsn)
            return true;
    }
    return false;
}

struct excuse {
    const struct damage *damage;
    const struct fake_db *db;
    bool flip; /* nothing but one byte: then the limit does not count */
};

static bool is_in_quarantine(const struct fake_db *db, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < db->now.refused_count; i++)
        if (db->refused[i].lsn >= from && db->refused[i].lsn < to &&
            strncmp(db->refused[i].reason, "journal: ", 9) == 0)
            return true;
    return false;
}

/* Frame n was acknowledged and is not stored. */
static bool excused(void *context, int n)
{
    const struct excuse *excuse = context;
    const struct record *record = whole.record_of[n] < 0 ? NULL : &whole.records[whole.record_of[n]];

    if (!record)
        return false;
    for (int i = 0; i < report_count; i++)
        if (is_damaged(excuse->damage, record) && reports[i].from <= record->lsn && record->end <= reports[i].to &&
            (reports[i].given_up || is_in_quarantine(excuse->db, reports[i].from, reports[i].to)))
            return true;
    if (!excuse->flip && !is_vouched(excuse->damage, record->end)) {
        unvouched++;
        return true;
    }
    silent++;
    return false;
}

/* Judging one disk. */

static void report(uint64_t from, uint64_t to, bool given_up)
{
    assert(report_count < REPORTS_MAX);
    reports[report_count].from = from;
    reports[report_count].to = to;
    reports[report_count].given_up = given_up;
    report_count++;
}

static void found(void *context, uint64_t from, uint64_t to, const char *path)
{
    (void)context;
    (void)path;
    if (from < to)
        report(from, to, false);
}

static bool store(struct host *host)
{
    uint64_t from, to;
    bool stored = story_store(host, &from, &to);

    if (from < to)
        report(from, to, true);
    return stored;
}

/* Start, read; repair where that is refused. False: it can't be brought up, which was complained of. */
static bool bring_up(struct host *host, bool *ret_noticed)
{
    int r = host_start(host);

    *ret_noticed = r < 0 || host->report.damaged_from != host->report.damaged_to;
    if (r == 0 && store(host))
        return true;
    *ret_noticed = true;
    if (r < 0 ? r != -EBADMSG : !strstr(host->status.error, "tolld --repair-journal")) {
        complain(&outcome, &outcome.violations, "start: %s; storing: %s", strerror(-r), host->status.error);
        return false;
    }
    host_gone(host);
    r = journal_repair(&host->options, found, NULL);
    if (r < 1) {
        complain(&outcome, &outcome.violations, "repair: %d", r);
        return false;
    }
    r = journal_repair(&host->options, NULL, NULL);
    if (r != 0)
        complain(&outcome, &outcome.violations, "repair again: %d", r);
    r = host_start(host);
    if (r == 0 && store(host))
        return true;
    complain(&outcome, &outcome.violations, "after repair: start: %s; storing: %s", strerror(-r), host->status.error);
    return false;
}

static void judge(struct fakedisk *disk, const struct damage damage[2], const struct fake_state *stored, bool flip)
{
    static struct ledger ledger;
    struct excuse excuse = {.damage = damage, .flip = flip};
    struct fake_db db = host_copy_db(&whole.db, stored);
    struct host host;
    bool noticed;
    /* Where it is unknown what was compared with the database, all there is is stored again; numbers keep that
     * harmless, and a sender without numbers has none. */
    bool once = !touches(&damage[0], "journal/unconfirmed", 0, SIZE_MAX) &&
                !touches(&damage[1], "journal/unconfirmed", 0, SIZE_MAX);

    ledger = whole.ledger;
    excuse.db = &db;
    report_count = 0;
    host_init(&host, disk, &db, &ledger);
    host.options.segment_bytes = SEGMENT_BYTES;
    host.options.retention_us = INT64_MAX / 2;
    host.moment = NEVER - 1000;
    if (bring_up(&host, &noticed)) {
        uint64_t wrong = outcome.violations;
        ledger_judge(&ledger, &db, host.moment, once, excused, &excuse, &outcome);
        silent += !noticed && outcome.violations > wrong;
        set_aside += report_count > 0;
        for (int n = 0; n < ledger.count; n++) /* counted once */
            if (ledger.frames[n].acked_at != NEVER)
                ledger.frames[n].acked_at = INT_MAX - 1;
        story_go_on(&host, &outcome);
        ledger_judge(&ledger, &db, host.moment, once, NULL, NULL, &outcome);
    }
    host_gone(&host);
    fakedisk_free(disk);
    fake_db_done(&db);
}

/* Both databases; `spoil` has done its damage to the disk. Takes the disk. */
static void judge_both(struct fakedisk *disk, const struct damage damage[2], bool flip, const char *what)
{
    const struct fake_state *stored[] = {&whole.nothing, &whole.half};

    for (int i = 0; i < 2; i++) {
        uint64_t number = tried++;
        if (only != UINT64_MAX && only != number)
            continue;
        snprintf(outcome.state, sizeof outcome.state, "TOLL_SEED=%llu TOLL_ROT=%llu (%s %s at %zu, database has %s)",
                 (unsigned long long)seed, (unsigned long long)number, what, damage[0].path, damage[0].from,
                 i ? "half" : "nothing");
        judge(fakedisk_clone(disk), damage, stored[i], flip);
    }
    fakedisk_free(disk);
}

/* Kinds of damage. */

static void flip_byte(const char *path, size_t at, uint8_t mask)
{
    struct damage damage[2] = {{path, at, at + 1}};
    struct fakedisk *disk = fakedisk_clone(whole.disk);

    uint8_t byte = fakedisk_bytes(disk, path, NULL)[at] ^ mask;

    fakedisk_spoil(disk, path, at, &byte, 1);
    flips++;
    judge_both(disk, damage, true, "flip");
}

static void flip_all(const char *path, size_t size)
{
    for (size_t at = 0; at < size; at += STORY_STRIDE) {
        if (is_long)
            for (int bit = 0; bit < 8; bit++)
                flip_byte(path, at, (uint8_t)(1 << bit));
        flip_byte(path, at, at % 3 == seed % 3 ? 0xff : (uint8_t)(1 << (at + seed) % 8));
    }
}

/* A sector is replaced by bytes, and perhaps another one by what was there. */
static void replace_sector(const char *path, size_t at, const char *other, size_t other_at, bool both, const char *what)
{
    static const uint8_t zeros[FAKEDISK_SECTOR];
    struct fakedisk *disk = fakedisk_clone(whole.disk);
    struct damage damage[2] = {{path, at, at + FAKEDISK_SECTOR}};

    damages++;
    fakedisk_spoil(disk, path, at, other ? fakedisk_bytes(whole.disk, other, NULL) + other_at : zeros, FAKEDISK_SECTOR);
    if (both) {
        fakedisk_spoil(disk, other, other_at, fakedisk_bytes(whole.disk, path, NULL) + at, FAKEDISK_SECTOR);
        damage[1] = (struct damage){other, other_at, other_at + FAKEDISK_SECTOR};
    }
    judge_both(disk, damage, false, what);
}

static void spoil_sectors(const char *path, size_t size, uint64_t *random)
{
    for (size_t at = 0; at + FAKEDISK_SECTOR <= size; at += FAKEDISK_SECTOR) {
        replace_sector(path, at, NULL, 0, false, "zeros in");
        for (int i = 0; i < whole.files; i++) {
            size_t other_size;
            if (!fakedisk_bytes(whole.disk, whole.paths[i], &other_size) || other_size < FAKEDISK_SECTOR)
                continue;
            size_t other = FAKEDISK_SECTOR * (fakedisk_next(random) % (other_size / FAKEDISK_SECTOR));
            replace_sector(path, at, whole.paths[i], other, true, "swap into");
            replace_sector(path, at, whole.paths[i], other, false, "copy into");
        }
    }
}

/* A record stands where another one of its length was, as after a write that went astray. */
static void misplace_records(uint64_t *random)
{
    for (int i = 0; i < whole.count; i++) {
        const struct record *to = &whole.records[i], *from = NULL;
        size_t size = to->end - to->lsn;
        unsigned alike = 0;
        for (int j = 0; j < whole.count; j++)
            if (j != i && whole.records[j].end - whole.records[j].lsn == size && fakedisk_next(random) % ++alike == 0)
                from = &whole.records[j];
        if (!from)
            continue;
        struct damage damage[2] = {{to->path, to->offset, to->offset + size}};
        struct fakedisk *disk = fakedisk_clone(whole.disk);
        damages++;
        fakedisk_spoil(disk, to->path, to->offset, fakedisk_bytes(whole.disk, from->path, NULL) + from->offset, size);
        judge_both(disk, damage, false, "other record in");
    }
}

/* Behind the header of the first segment are the records of another journal, as in blocks that were written long ago. */
static void mix_journals(void)
{
    static struct ledger ledger;
    struct fake_db db = {0};
    struct host host;
    const char *path = "journal/00000001-0000000000000000.seg";
    uint64_t random = seed + 1;

    host_init(&host, fakedisk_new(), &db, &ledger);
    host.disk->random = seed + 1;
    host.options.segment_bytes = SEGMENT_BYTES;
    story_send(&host, &random, 8);
    host_sync(&host);
    host_gone(&host);
    fakedisk_crash(host.disk, FAKEDISK_KEEP, 0);
    const uint8_t *other = fakedisk_bytes(host.disk, path, NULL);
    struct damage damage[2] = {{path, SEGMENT_HEADER_BYTES, SIZE_MAX}};
    struct fakedisk *disk = fakedisk_clone(whole.disk);
    fakedisk_spoil(disk, path, SEGMENT_HEADER_BYTES, other + SEGMENT_HEADER_BYTES,
                   SEGMENT_BYTES - SEGMENT_HEADER_BYTES);
    damages++;
    judge_both(disk, damage, false, "another journal's records in");
    fakedisk_free(host.disk);
    fake_db_done(&db);
}

static void cut_file(const char *path, size_t to)
{
    struct damage damage[2] = {{path, to, SIZE_MAX}};
    struct fakedisk *disk = fakedisk_clone(whole.disk);

    damages++;
    fakedisk_shorten(disk, path, to);
    judge_both(disk, damage, false, "cut of");
}

static void delete_file(const char *path)
{
    struct damage damage[2] = {{path, 0, SIZE_MAX}};
    struct fakedisk *disk = fakedisk_clone(whole.disk);

    damages++;
    fakedisk_lose(disk, path);
    judge_both(disk, damage, false, "loss of");
}

int main(void)
{
    const char *one = getenv("TOLL_ROT");

    seed = story_seed();
    is_long = story_long();
    if (one)
        only = strtoull(one, NULL, 10);
    make_journal();
    uint64_t random = seed;
    for (int i = 0; i < whole.files; i++) {
        const char *path = whole.paths[i];
        size_t size = 0;
        if (!fakedisk_bytes(whole.disk, path, &size))
            size = 0;
        flip_all(path, size);
        for (int round = 0; round < (is_long ? 8 : 1); round++)
            spoil_sectors(path, size, &random);
        for (size_t to = 0; to < size; to += is_long ? 64 : 256)
            cut_file(path, to);
        delete_file(path);
        if (is_long)
            fprintf(stderr, "%s: flips so far %llu states %llu\n", path, (unsigned long long)flips,
                    (unsigned long long)tried);
    }
    misplace_records(&random);
    mix_journals();
    outcome_print(&outcome, "bit_rot");
    printf(" flips %llu silent %llu set_aside %llu sectors_and_files %llu unvouched %llu violations %llu seed %llu\n",
           (unsigned long long)flips, (unsigned long long)silent, (unsigned long long)set_aside,
           (unsigned long long)damages, (unsigned long long)unvouched, (unsigned long long)outcome.violations,
           (unsigned long long)seed);
    fake_state_done(&whole.nothing);
    fake_state_done(&whole.half);
    fake_db_done(&whole.db);
    fakedisk_free(whole.disk);
    return outcome_good(&outcome) && silent == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
