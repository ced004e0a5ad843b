/* What the journal makes of bytes that changed behind its back: torn tails, stale tails, bit rot, and their repair. */
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

/* Every byte of every file. */

static struct {
    unsigned flips, refused, damaged, cut, harmless, repaired;
} tally;

static void flip_one(struct fakedisk *whole, const char *path, size_t at, uint8_t mask)
{
    struct world v;
    world_on(&v, fakedisk_clone(whole));
    v.options.segment_bytes = 1024;
    fakedisk_bytes(v.disk, path, NULL)[at] ^= mask;
    tally.flips++;
    int r = world_open(&v);
    if (r < 0) {
        ck_assert_int_eq(r, -EBADMSG); /* headers and small files */
        ck_assert(strstr(v.report.damaged_path, path + strlen("journal/")) != NULL);
        tally.refused++;
        v.options.io = &v.io;
        ck_assert_int_ge(journal_repair(&v.options, repaired, NULL), 1);
        ck_assert_int_eq(world_open(&v), 0);
        struct found found = read_all(v.journal);
        ck_assert_int_eq(found.result, -EAGAIN);
        ck_assert_uint_eq(found.end, ALL);
        tally.repaired++;
        world_done(&v);
        return;
    }
    struct found found = read_all(v.journal);
    ck_assert_uint_eq(found.first, 0);
    if (found.result == -EBADMSG) {
        tally.damaged++;
        ck_assert_uint_lt(found.end, ALL - 1);
        ck_assert_uint_eq(found.lsn, lsns[found.end]);
        world_close(&v);
        ck_assert_int_eq(journal_repair(&v.options, repaired, NULL), 1);
        ck_assert_uint_eq(repaired_from, found.lsn);
        ck_assert_int_eq(world_open(&v), 0);
        struct found again = read_all(v.journal);
        ck_assert_int_eq(again.result, -EAGAIN);
        ck_assert_uint_eq(again.end, ALL);
        ck_assert_uint_eq(again.first + again.missing, 1);
        tally.repaired++;
    } else {
        ck_assert_int_eq(found.result, -EAGAIN);
        ck_assert_uint_ge(found.end, ALL - 1); /* of what was acknowledged nothing is missing … */
        if (found.end < ALL || v.report.torn_bytes > 0) {
            ck_assert_uint_gt(v.report.torn_bytes, 0); /* … and what was cut is kept */
            tally.cut++;
        } else {
            tally.harmless++;
        }
    }
    world_done(&v);
}

struct each {
    struct fakedisk *whole;
};

static void flip_each(void *arg, const char *path)
{
    struct each *each = arg;
    size_t size;

    if (strncmp(path, "journal/", 8) != 0 || !fakedisk_bytes(each->whole, path, &size))
        return;
    for (size_t at = 0; at < size; at++)
        flip_one(each->whole, path, at, at & 1 ? 0xff : (uint8_t)(1 << at % 8));
}

START_TEST(every_byte_that_flips_is_noticed)
{
    struct each each = {w.disk};

    fakedisk_each(w.disk, flip_each, &each);
    ck_assert_uint_gt(tally.flips, 4096);
    ck_assert_uint_eq(tally.flips, tally.refused + tally.damaged + tally.cut + tally.harmless);
    ck_assert_uint_eq(tally.repaired, tally.refused + tally.damaged);
    /* Harmless: behind the end of a segment that another one follows. */
    ck_assert_uint_gt(tally.damaged, tally.harmless);
    ck_assert_uint_gt(tally.refused, 255);
    ck_assert_uint_gt(tally.cut, 0);
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
    tcase_add_test(tcase, every_byte_that_flips_is_noticed);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
