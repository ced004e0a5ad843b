/* What the journal makes of bytes that changed behind its back: torn tails, stale tails, bit rot, and their repair. Every byte of
 * every file in turn, down to the database, is tests/fault/bit_rot.c. */
#include "tests/support/fakedisk_damage.h"
#include "tests/support/journaltest.h"

#include <stdlib.h>

enum { ACKED = 26, ALL = 31 };

static struct world w;
static uint64_t lsns[ALL + 1]; /* where record n begins */

/* Three segments; records below ACKED were synced, and the first above says so; the rest was written only, and reached
 * the disk by luck. */
static void setup(void)
{
    world_init(&w);
    w.options.segment_bytes = 1024;
    ck_assert_int_eq(world_open(&w), 0);
    for (unsigned n = 0; n < ALL; n++) {
        if (n == ACKED || n % 5 == 0)
            ck_assert_int_eq(flush(w.journal), 0);
        lsns[n] = journal_end_lsn(w.journal);
        append_range(w.journal, n, n + 1);
    }
    lsns[ALL] = journal_end_lsn(w.journal);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), lsns[30]); /* 30 % 5 == 0 */
    ck_assert_int_eq(journal_write(w.journal), 0);
    world_crash(&w, FAKEDISK_KEEP, 0);
}

static void teardown(void)
{
    world_done(&w);
}

struct segment_at {
    uint64_t lsn;
    uint8_t *bytes; /* of that LSN */
    size_t left;    /* to the end of the file */
};

static void locate(void *arg, const char *path)
{
    struct segment_at *at = arg;
    unsigned number;
    unsigned long base;
    size_t size = 0;

    if (sscanf(path, "journal/%8u-%16lx.seg", &number, &base) != 2 || base > at->lsn)
        return;
    uint8_t *bytes = fakedisk_bytes(w.disk, path, &size);
    if (at->lsn - base >= size - 64)
        return;
    /* Segments overlap in numbers, not in use: the one that begins last has it. */
    if (!at->bytes || size - 64 - (at->lsn - base) > at->left) {
        at->bytes = bytes + 64 + (at->lsn - base);
        at->left = size - 64 - (at->lsn - base);
    }
}

static struct segment_at at_lsn(uint64_t lsn)
{
    struct segment_at at = {.lsn = lsn};
    fakedisk_each(w.disk, locate, &at);
    ck_assert_ptr_nonnull(at.bytes);
    return at;
}

START_TEST(tail_torn_at_any_byte_is_cut_there)
{
    struct fakedisk *whole = w.disk;
    uint64_t end;

    for (uint64_t cut = lsns[30]; cut < lsns[31]; cut++)
        for (int garbage = 0; garbage < 2; garbage++) {
            w.disk = fakedisk_clone(whole);
            world_on(&w, w.disk);
            w.options.segment_bytes = 1024;
            struct segment_at at = at_lsn(cut);
            memset(at.bytes, 0, at.left);
            if (garbage)
                for (size_t i = 0; i < at.left && i < 60; i++)
                    at.bytes[i] = (uint8_t)rand();
            ck_assert_int_eq(world_open(&w), 0);
            struct found found = read_all(w.journal);
            ck_assert_int_eq(found.result, -EAGAIN);
            ck_assert_uint_eq(found.end, 30);
            ck_assert_uint_eq(journal_end_lsn(w.journal), lsns[30]);
            ck_assert_uint_eq(w.report.damaged_from, w.report.damaged_to);
            if (garbage || cut > lsns[30]) {
                ck_assert_uint_gt(w.report.torn_bytes, 0);
                size_t size;
                uint8_t *kept = fakedisk_bytes(w.disk, w.report.torn_path + strlen("state/"), &size);
                ck_assert_ptr_nonnull(kept);
                ck_assert_uint_eq(size, w.report.torn_bytes);
            } else {
                ck_assert_uint_eq(w.report.torn_bytes, 0);
                ck_assert_str_eq(w.report.torn_path, "");
            }
            ck_assert_int_eq(nth_append(w.journal, 30, &end), 0);
            ck_assert_int_eq(flush(w.journal), 0);
            ck_assert_uint_eq(read_all(w.journal).end, 31);
            world_close(&w);
            ck_assert_int_eq(world_open(&w), 0);
            ck_assert_uint_eq(w.report.torn_bytes, 0);
            ck_assert_uint_eq(read_all(w.journal).end, 31);
            world_done(&w);
        }
    world_on(&w, whole);
}
END_TEST

START_TEST(tail_that_was_cut_never_comes_alive)
{
    uint64_t end, durable;
    struct journal_reader *reader;
    struct journal_record record;

    /* Three records written and not synced; the first of them does not survive. */
    ck_assert_int_eq(world_open(&w), 0);
    append_range(w.journal, 31, 33);
    ck_assert_int_eq(flush(w.journal), 0);
    durable = journal_durable_lsn(w.journal);
    append_range(w.journal, 120, 123); /* sizes of 0, 37, 74 */
    ck_assert_int_eq(journal_write(w.journal), 0);
    world_crash(&w, FAKEDISK_KEEP, 0);
    at_lsn(durable).bytes[20] ^= 1;
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), durable);
    ck_assert_uint_eq(w.report.torn_bytes, 3 * 44 + 37 + 74);
    ck_assert_int_eq(nth_append(w.journal, 240, &end),
                     0); /* as long as the one that was cut: the stale ones would follow it exactly */
    ck_assert_int_eq(journal_write(w.journal), 0);
    world_crash(&w, FAKEDISK_KEEP, 0);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), end);
    ck_assert_int_eq(journal_reader_new(&reader, w.journal), 0);
    ck_assert_int_eq(journal_reader_seek(reader, durable), 0);
    ck_assert_int_eq(journal_reader_next(reader, &record), 0);
    ck_assert_uint_eq(record.uid, 240);
    ck_assert_int_eq(journal_reader_next(reader, &record), -EAGAIN);
    journal_reader_free(reader);
}
END_TEST

static int repaired_count;
static uint64_t repaired_from, repaired_to;
static char repaired_path[300];

static void repaired(void *context, uint64_t from, uint64_t to, const char *path)
{
    (void)context;
    repaired_count++;
    repaired_from = from;
    repaired_to = to;
    snprintf(repaired_path, sizeof repaired_path, "%s", path);
}

START_TEST(damage_stops_the_reader_there_and_repair_gives_the_rest)
{
    uint64_t end;

    at_lsn(lsns[12]).bytes[50] ^= 1;
    ck_assert_int_eq(world_open(&w), 0); /* so far below that opening does not look */
    struct found found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EBADMSG);
    ck_assert_uint_eq(found.end, 12);
    ck_assert_uint_eq(found.lsn, lsns[12]);
    ck_assert_int_eq(nth_append(w.journal, 31, &end), 0); /* appending goes on */
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_gt(end, lsns[31]);
    world_close(&w);

    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 1);
    ck_assert_int_eq(repaired_count, 1);
    ck_assert_uint_eq(repaired_from, lsns[12]);
    ck_assert_uint_eq(repaired_to, lsns[13]);
    size_t size;
    ck_assert_ptr_nonnull(fakedisk_bytes(w.disk, repaired_path + strlen("state/"), &size));
    ck_assert_uint_eq(size, lsns[13] - lsns[12]);
    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 0);

    ck_assert_int_eq(world_open(&w), 0);
    found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EAGAIN);
    ck_assert_uint_eq(found.holes, 1);
    ck_assert_uint_eq(found.missing, 1);
    ck_assert_uint_eq(found.end, 32);
}
END_TEST

START_TEST(damage_near_the_tail_is_reported_at_opening)
{
    at_lsn(lsns[29]).bytes[8] ^= 1;
    at_lsn(lsns[30]).bytes[8] ^= 0; /* sound: it vouches for what is below it */
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(w.report.damaged_from, lsns[29]);
    ck_assert_uint_eq(w.report.damaged_to, lsns[30]);
    ck_assert(strstr(w.report.damaged_path, ".seg") != NULL);
    ck_assert_uint_eq(w.report.torn_bytes, 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), lsns[31]);
    struct found found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EBADMSG);
    ck_assert_uint_eq(found.lsn, lsns[29]);
}
END_TEST

START_TEST(damage_over_several_records_is_one_hole)
{
    struct segment_at at = at_lsn(lsns[13]);
    memset(at.bytes, 0xEE, lsns[15] - lsns[13]);
    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 1);
    ck_assert_int_eq(world_open(&w), 0);
    struct found found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EAGAIN);
    ck_assert_uint_eq(found.missing, 2);
    ck_assert_uint_eq(found.holes, 1);
}
END_TEST

START_TEST(segment_file_that_vanished_is_a_hole_after_repair)
{
    char path[64] = "";
    unsigned long base = 0;

    /* The second segment's base is where the first one's records end. */
    for (unsigned n = 1; n < ALL && !path[0]; n++) {
        snprintf(path, sizeof path, "journal/%08u-%016lx.seg", 2U, (unsigned long)lsns[n]);
        base = lsns[n];
        if (!fakedisk_bytes(w.disk, path, NULL))
            path[0] = 0;
    }
    ck_assert(path[0]);
    int dir = w.io.open(w.disk, w.io.open(w.disk, AT_FDCWD, "state", O_DIRECTORY, 0), "journal", O_DIRECTORY, 0);
    ck_assert_int_eq(w.io.unlink(w.disk, dir, strchr(path, '/') + 1), 0);
    fakedisk_crash(w.disk, FAKEDISK_KEEP, 0);
    ck_assert_int_eq(world_open(&w), 0);
    struct found found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EBADMSG);
    ck_assert_uint_eq(found.lsn, base);
    world_close(&w);
    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 1);
    ck_assert_uint_eq(repaired_from, base);
    ck_assert_int_eq(world_open(&w), 0);
    found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EAGAIN);
    ck_assert_uint_eq(found.end, ALL);
    ck_assert_uint_gt(found.missing, 3);
}
END_TEST

/* The database may know the log up to somewhere in what is a hole now. */
START_TEST(watermark_within_a_hole_reads_the_rest_of_it)
{
    struct journal_reader *reader;
    struct journal_record record;

    memset(at_lsn(lsns[13]).bytes, 0xEE, lsns[15] - lsns[13]);
    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 1);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_int_eq(journal_reader_new(&reader, w.journal), 0);
    for (uint64_t lsn = lsns[13]; lsn < lsns[15]; lsn++) {
        ck_assert_int_eq(journal_reader_seek(reader, lsn), 0);
        ck_assert_int_eq(journal_reader_next(reader, &record), 0);
        ck_assert_uint_eq(record.kind, JOURNAL_HOLE);
        ck_assert_uint_eq(record.lsn, lsn);
        ck_assert_uint_eq(record.end_lsn, lsns[15]);
        size_t left = (size_t)(lsns[15] - lsn), most = (size_t)(lsns[15] - lsns[13]) - 44;
        ck_assert_uint_eq(record.size, left < most ? left : most);
        for (size_t i = 0; i < record.size; i++)
            ck_assert_uint_eq(((const uint8_t *)record.payload)[i], 0xEE);
        ck_assert_int_eq(journal_reader_next(reader, &record), 0);
        ck_assert_uint_eq(record.uid, 15);
    }
    ck_assert_int_eq(journal_reader_seek(reader, lsns[15] + 1), 0); /* within a record is nowhere */
    ck_assert_int_eq(journal_reader_next(reader, &record), -EBADMSG);
    journal_reader_free(reader);
}
END_TEST

START_TEST(oldest_segment_without_header_is_repaired)
{
    static const uint8_t zeros[64];

    fakedisk_spoil(w.disk, "journal/00000001-0000000000000000.seg", 0, zeros, sizeof zeros);
    (void)!world_open(&w); /* whether the start looks so far down is its own business */
    world_close(&w);
    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 1);
    ck_assert_uint_eq(repaired_from, repaired_to);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(read_all(w.journal).end, ALL);
}
END_TEST

/* It may have to be appended again, under a new UUID. */
START_TEST(hole_that_renewal_copies_fits_a_segment)
{
    char path[64] = "";

    for (unsigned n = 1; n < ALL && !path[0]; n++) {
        snprintf(path, sizeof path, "journal/%08u-%016lx.seg", 2U, (unsigned long)lsns[n]);
        if (!fakedisk_bytes(w.disk, path, NULL))
            path[0] = 0;
    }
    fakedisk_lose(w.disk, path);
    ck_assert_int_eq(journal_repair(&w.options, repaired, NULL), 1);
    ck_assert_int_eq(world_open(&w), 0);
    struct found before = read_all(w.journal);
    ck_assert_int_eq(before.result, -EAGAIN);
    ck_assert_int_eq(journal_renew(w.journal, 0, NEW_UUID), 0);
    struct found after = read_all(w.journal);
    ck_assert_int_eq(after.result, -EAGAIN);
    ck_assert_uint_eq(after.end, before.end);
    ck_assert_uint_eq(after.missing, before.missing);
}
END_TEST

START_TEST(log_that_ends_below_the_unconfirmed_lsn_brings_it_down)
{
    ck_assert_int_eq(world_open(&w), 0); /* the unconfirmed LSN of the first run is 0 */
    ck_assert_int_eq(journal_confirm(w.journal), 0);
    world_close(&w);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), lsns[31]);
    world_close(&w);
    struct segment_at at = at_lsn(lsns[30]);
    memset(at.bytes, 0, at.left);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), lsns[30]);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), lsns[30]);
    append_range(w.journal, 30, 40);
    ck_assert_int_eq(flush(w.journal), 0);
    world_close(&w);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), lsns[30]);
}
END_TEST

static char last_two[2][64]; /* segments, the last one second */

static void note_segment(void *arg, const char *path)
{
    (void)arg;
    if (!strstr(path, ".seg"))
        return;
    if (strcmp(path, last_two[1]) > 0) {
        memcpy(last_two[0], last_two[1], sizeof last_two[0]);
        snprintf(last_two[1], sizeof last_two[1], "%s", path);
    } else if (strcmp(path, last_two[0]) > 0) {
        snprintf(last_two[0], sizeof last_two[0], "%s", path);
    }
}

/* On a lying disk, say. What the next header vouches for is the readers' business. */
START_TEST(segment_that_lost_all_its_bytes_does_not_keep_it_shut)
{
    ck_assert_int_eq(world_open(&w), 0);
    uint64_t bytes = journal_disk_bytes(w.journal);
    for (unsigned n = ALL; journal_disk_bytes(w.journal) == bytes; n++) {
        append_range(w.journal, n, n + 1); /* in the end it begins a segment, with all before it durable */
        ck_assert_int_eq(flush(w.journal), 0);
    }
    world_close(&w);
    fakedisk_each(w.disk, note_segment, NULL);
    fakedisk_shorten(w.disk, last_two[0], 0);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_int_eq(read_all(w.journal).result, -EBADMSG);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal_damage");
    TCase *tcase = tcase_create("journal_damage");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 180);
    tcase_add_test(tcase, tail_torn_at_any_byte_is_cut_there);
    tcase_add_test(tcase, tail_that_was_cut_never_comes_alive);
    tcase_add_test(tcase, damage_stops_the_reader_there_and_repair_gives_the_rest);
    tcase_add_test(tcase, damage_near_the_tail_is_reported_at_opening);
    tcase_add_test(tcase, damage_over_several_records_is_one_hole);
    tcase_add_test(tcase, segment_file_that_vanished_is_a_hole_after_repair);
    tcase_add_test(tcase, watermark_within_a_hole_reads_the_rest_of_it);
    tcase_add_test(tcase, oldest_segment_without_header_is_repaired);
    tcase_add_test(tcase, hole_that_renewal_copies_fits_a_segment);
    tcase_add_test(tcase, log_that_ends_below_the_unconfirmed_lsn_brings_it_down);
    tcase_add_test(tcase, segment_that_lost_all_its_bytes_does_not_keep_it_shut);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
