/* The journal on a disk that fails: one story, told again with every call failing in turn, and with the power cut
 * after every call. What was acknowledged has to be there afterwards, as it was, and what is there has to be a run of
 * the records that were appended. TOLL_LONG=1 in the environment tries more ways for the power to go. */
#include "tests/support/journaltest.h"

#include <stdlib.h>

/* What must hold of the disk whatever happens next. */
struct story {
    struct world w;
    unsigned next;      /* records [0, next) were given to append */
    unsigned acked;     /* records [0, acked) were seen below the durable LSN */
    unsigned needed;    /* records below it may be gone: committed and collected, or left behind by a renewal */
    uint64_t ends[400]; /* LSN after record n, in the present journal */
    bool stopped;       /* an error that closed the journal, or the daemon would stop */
};

static void story_ack(struct story *s)
{
    uint64_t durable = journal_durable_lsn(s->w.journal);
    while (s->acked < s->next && s->ends[s->acked] <= durable)
        s->acked++;
}

/* As intake does: write, sync, and after a failure rewrite once. */
static void story_sync(struct story *s)
{
    if (s->stopped)
        return;
    int r = journal_write(s->w.journal);
    if (r == 0)
        r = journal_sync(s->w.journal);
    if (r == -EIO)
        r = journal_rewrite(s->w.journal);
    story_ack(s);
    s->stopped = r < 0;
}

static void story_append(struct story *s, unsigned count)
{
    for (unsigned i = 0; i < count && !s->stopped; i++) {
        int r = nth_append(s->w.journal, s->next, &s->ends[s->next]);
        if (r == -EAGAIN || r == -ENOSPC) {
            story_sync(s);
            if (!s->stopped)
                (void)!journal_collect(s->w.journal, 0, 0);
            if (!s->stopped)
                r = nth_append(s->w.journal, s->next, &s->ends[s->next]);
        }
        if (r == 0)
            s->next++;
        else
            s->stopped = true;
    }
}

static void story_collect(struct story *s, unsigned committed)
{
    if (s->stopped)
        return;
    if (committed > s->acked)
        committed = s->acked;
    if (committed > s->needed)
        s->needed = committed;
    (void)!journal_collect(s->w.journal, committed ? s->ends[committed - 1] : 0, 1000000);
}

static void story_renew(struct story *s, unsigned from)
{
    struct journal_reader *reader;
    struct journal_record record;

    if (s->stopped)
        return;
    s->needed = from; /* from here on the new journal is as good */
    int r = journal_renew(s->w.journal, s->ends[from - 1]);
    if (r == -EIO && journal_rewrite(s->w.journal) == 0)
        r = journal_renew(s->w.journal, s->ends[from - 1]);
    s->stopped = r < 0;
    if (s->stopped)
        return;
    s->acked = s->next;
    r = journal_reader_new(&reader, s->w.journal);
    for (unsigned n = from; r == 0; n++) {
        r = journal_reader_next(reader, &record);
        if (r == 0)
            s->ends[n] = record.end_lsn;
    }
    s->stopped = r != -EAGAIN;
    journal_reader_free(reader);
}

static void story_mark(struct story *s)
{
    uint64_t end;
    if (!s->stopped && journal_wants_mark(s->w.journal))
        s->stopped = journal_append(s->w.journal, JOURNAL_MARK, 0, 0, 0, 1, NULL, 0, &end) < 0;
}

static void story_tell(struct story *s)
{
    if (world_open(&s->w) < 0) {
        s->stopped = true;
        return;
    }
    story_append(s, 3);
    story_sync(s);
    s->stopped = s->stopped || journal_confirm(s->w.journal) < 0;
    story_append(s, 20); /* into a second segment */
    if (!s->stopped)
        (void)!journal_write(s->w.journal);
    story_append(s, 2);
    story_sync(s);
    story_collect(s, 0);
    story_append(s, 60); /* several segments in one group */
    story_sync(s);
    story_collect(s, 50);
    story_mark(s);
    story_sync(s);
    story_append(s, 10);
    story_sync(s);
    s->stopped = s->stopped || journal_state_write(s->w.journal, "epoch", "abc", 3) < 0;
    if (!s->stopped) {
        world_close(&s->w); /* killed, and started again */
        s->stopped = world_open(&s->w) < 0;
    }
    story_append(s, 10);
    story_sync(s);
    story_renew(s, 70);
    story_append(s, 20);
    story_sync(s);
    story_collect(s, 80);
    story_append(s, 5); /* not synced */
    if (!s->stopped)
        (void)!journal_write(s->w.journal);
}

static void story_begin(struct story *s)
{
    memset(s, 0, sizeof *s);
    world_init(&s->w);
}

/* Opens what is left, reads it and works with it. */
static void story_check(struct story *s, const char *what, uint64_t call)
{
    int r = world_open(&s->w);
    ck_assert_msg(r == 0, "%s at call %lu: open says %d (%s)", what, (unsigned long)call, r, s->w.report.damaged_path);
    ck_assert_msg(s->w.report.damaged_from == s->w.report.damaged_to, "%s at call %lu: damage", what,
                  (unsigned long)call);
    struct found found = read_all(s->w.journal);
    ck_assert_msg(found.result == -EAGAIN, "%s at call %lu: reading ends with %d", what, (unsigned long)call,
                  found.result);
    ck_assert_uint_eq(found.holes, 0);
    if (s->acked > s->needed) {
        ck_assert_msg(found.end >= s->acked && found.first <= s->needed,
                      "%s at call %lu: records %u to %u, want %u to %u", what, (unsigned long)call, found.first,
                      found.end, s->needed, s->acked);
    }
    ck_assert_uint_le(found.end, s->next + 1); /* an append that failed half-way may have come through */

    /* It goes on, and what it acknowledges now survives the next power cut without luck. */
    uint64_t end = 0;
    unsigned from = found.end;
    for (unsigned n = from; n < from + 30; n++)
        ck_assert_int_eq(nth_append(s->w.journal, n, &end), 0);
    ck_assert_int_eq(flush(s->w.journal), 0);
    ck_assert_uint_eq(journal_durable_lsn(s->w.journal), end);
    world_crash(&s->w, FAKEDISK_DROP, 0);
    r = world_open(&s->w);
    ck_assert_msg(r == 0, "%s at call %lu: second open says %d", what, (unsigned long)call, r);
    struct found again = read_all(s->w.journal);
    ck_assert_int_eq(again.result, -EAGAIN);
    ck_assert_msg(again.end == from + 30 && (again.first == found.first || found.end == 0),
                  "%s at call %lu: after the next power cut %u to %u", what, (unsigned long)call, again.first,
                  again.end);
    ck_assert_uint_eq(s->w.report.torn_bytes, 0);
    world_done(&s->w);
}

START_TEST(story_without_faults_is_told_to_the_end)
{
    struct story s;

    story_begin(&s);
    story_tell(&s);
    ck_assert(!s.stopped);
    ck_assert_uint_eq(s.next, 130);
    ck_assert_uint_eq(s.acked, 125);
    ck_assert_uint_eq(s.needed, 80);
    ck_assert_uint_gt(s.w.disk->calls, 200);
    world_close(&s.w);
    story_check(&s, "nothing", 0);
}
END_TEST

static void fail_everywhere(const char *what, bool forever, int error, bool crash, enum fakedisk_crash kind)
{
    bool failed = true;

    for (uint64_t call = 1; failed; call++) {
        struct story s;
        story_begin(&s);
        s.w.disk->fail_at = call;
        s.w.disk->fail_forever = forever;
        s.w.disk->fail_errno = error;
        story_tell(&s);
        failed = s.w.disk->failed;
        if (crash) {
            world_crash(&s.w, kind, call);
        } else { /* the daemon starts again over the same page cache */
            fakedisk_heal(s.w.disk);
            world_close(&s.w);
        }
        story_check(&s, what, call);
    }
}

START_TEST(call_failing_once_loses_nothing)
{
    fail_everywhere("EIO once, killed", false, EIO, false, 0);
    fail_everywhere("EIO once, power cut", false, EIO, true, FAKEDISK_DROP);
    fail_everywhere("ENOSPC once, power cut", false, ENOSPC, true, FAKEDISK_TEAR);
}
END_TEST

START_TEST(calls_failing_for_good_lose_nothing)
{
    fail_everywhere("EIO, killed", true, EIO, false, 0);
    fail_everywhere("EIO, power cut", true, EIO, true, FAKEDISK_DROP);
    fail_everywhere("ENOSPC, killed", true, ENOSPC, false, 0);
}
END_TEST

static void cut_everywhere(const char *what, enum fakedisk_crash kind, uint64_t seed)
{
    bool failed = true;

    for (uint64_t call = 1; failed; call++) {
        struct story s;
        story_begin(&s);
        s.w.disk->fail_at = call;
        s.w.disk->off_at_fail = true;
        story_tell(&s);
        failed = s.w.disk->failed;
        world_crash(&s.w, kind, seed + call);
        story_check(&s, what, call);
    }
}

START_TEST(power_cut_after_any_call_loses_nothing)
{
    unsigned seeds = getenv("TOLL_LONG") ? 50 : 3;

    cut_everywhere("power cut, unsynced dropped", FAKEDISK_DROP, 0);
    cut_everywhere("power cut, unsynced kept", FAKEDISK_KEEP, 0);
    for (unsigned seed = 0; seed < seeds; seed++)
        cut_everywhere("power cut, unsynced torn", FAKEDISK_TEAR, seed * UINT64_C(1000003));
}
END_TEST

START_TEST(power_cut_while_opening_after_a_power_cut_loses_nothing)
{
    for (uint64_t first = 40; first < 100000; first += 37) {
        struct story s;
        story_begin(&s);
        s.w.disk->fail_at = first;
        s.w.disk->off_at_fail = true;
        story_tell(&s);
        bool first_failed = s.w.disk->failed;
        world_crash(&s.w, FAKEDISK_TEAR, first);
        bool failed = true;
        for (uint64_t call = 1; failed; call++) {
            s.w.disk->fail_at = call;
            s.w.disk->off_at_fail = true;
            int r = world_open(&s.w);
            ck_assert_msg(r == 0 || s.w.disk->failed, "power cuts at calls %lu and %lu: open says %d",
                          (unsigned long)first, (unsigned long)call, r);
            failed = s.w.disk->failed;
            world_crash(&s.w, FAKEDISK_TEAR, call);
        }
        story_check(&s, "second power cut", first);
        if (!first_failed)
            break;
    }
}
END_TEST

START_TEST(failed_sync_is_rewritten_and_supersedes)
{
    struct story s;

    story_begin(&s);
    ck_assert_int_eq(world_open(&s.w), 0);
    story_append(&s, 10);
    story_sync(&s);
    story_append(&s, 60); /* over several segments */
    ck_assert_int_eq(journal_write(s.w.journal), 0);
    uint64_t durable = journal_durable_lsn(s.w.journal);
    s.w.disk->fail_at = s.w.disk->calls + 1;
    ck_assert_int_eq(journal_sync(s.w.journal), -EIO);
    ck_assert_int_eq(journal_sync(s.w.journal), -EIO); /* never again on that descriptor */
    ck_assert_int_eq(journal_write(s.w.journal), -EIO);
    ck_assert_uint_eq(journal_durable_lsn(s.w.journal), durable);
    ck_assert_int_eq(journal_rewrite(s.w.journal), 0);
    ck_assert_uint_eq(journal_durable_lsn(s.w.journal), journal_end_lsn(s.w.journal));
    ck_assert_uint_eq(read_all(s.w.journal).end, 70);
    story_append(&s, 5);
    story_sync(&s);
    uint64_t bytes = journal_disk_bytes(s.w.journal);
    ck_assert_int_eq(journal_collect(s.w.journal, 0, 0), 0); /* what was superseded goes at once */
    ck_assert_uint_lt(journal_disk_bytes(s.w.journal), bytes);
    ck_assert_uint_eq(read_all(s.w.journal).end, 75);
    world_crash(&s.w, FAKEDISK_DROP, 0);
    story_check(&s, "rewrite", 0);
}
END_TEST

START_TEST(failed_rewrite_closes_for_good)
{
    struct story s;
    uint64_t end;

    story_begin(&s);
    ck_assert_int_eq(world_open(&s.w), 0);
    story_append(&s, 10);
    ck_assert_int_eq(journal_write(s.w.journal), 0);
    s.w.disk->fail_at = s.w.disk->calls + 1;
    s.w.disk->fail_forever = true;
    ck_assert_int_eq(journal_sync(s.w.journal), -EIO);
    ck_assert_int_eq(journal_rewrite(s.w.journal), -EIO);
    fakedisk_heal(s.w.disk);
    ck_assert_int_eq(nth_append(s.w.journal, 10, &end), -EIO);
    ck_assert_int_eq(journal_write(s.w.journal), -EIO);
    ck_assert_int_eq(journal_sync(s.w.journal), -EIO);
    ck_assert_int_eq(journal_rewrite(s.w.journal), -EIO);
    ck_assert_int_eq(journal_collect(s.w.journal, 0, 0), -EIO);
    ck_assert_uint_eq(journal_durable_lsn(s.w.journal), 0);
    world_crash(&s.w, FAKEDISK_DROP, 0);
    story_check(&s, "closed", 0);
}
END_TEST

START_TEST(torn_bytes_on_a_full_disk_do_not_keep_it_shut)
{
    struct story s;

    story_begin(&s);
    ck_assert_int_eq(world_open(&s.w), 0);
    story_append(&s, 3);
    story_sync(&s);
    story_append(&s, 3);
    ck_assert_int_eq(journal_write(s.w.journal), 0);
    world_crash(&s.w, FAKEDISK_KEEP, 0);
    fakedisk_bytes(s.w.disk, "journal/00000001-0000000000000000.seg", NULL)[64 + s.ends[2] + 9] ^= 1;
    s.w.disk->capacity = fakedisk_used(s.w.disk);
    ck_assert_int_eq(world_open(&s.w), 0);
    ck_assert_uint_gt(s.w.report.torn_bytes, 0);
    ck_assert_str_eq(s.w.report.torn_path, "");
    ck_assert_uint_eq(read_all(s.w.journal).end, 3);
    world_done(&s.w);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal_faults");
    TCase *tcase = tcase_create("journal_faults");
    tcase_set_timeout(tcase, getenv("TOLL_LONG") ? 3600 : 240);
    tcase_add_test(tcase, story_without_faults_is_told_to_the_end);
    tcase_add_test(tcase, failed_sync_is_rewritten_and_supersedes);
    tcase_add_test(tcase, failed_rewrite_closes_for_good);
    tcase_add_test(tcase, torn_bytes_on_a_full_disk_do_not_keep_it_shut);
    tcase_add_test(tcase, call_failing_once_loses_nothing);
    tcase_add_test(tcase, calls_failing_for_good_lose_nothing);
    tcase_add_test(tcase, power_cut_after_any_call_loses_nothing);
    tcase_add_test(tcase, power_cut_while_opening_after_a_power_cut_loses_nothing);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
