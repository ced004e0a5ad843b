/* The journal in its daily life: records, segments, readers, identity. Room, faults and damage have files of their own. */
#include "daemon/crc32c.h"
#include "tests/support/journaltest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

static struct world w;

static void setup(void)
{
    world_init(&w);
    ck_assert_int_eq(world_open(&w), 0);
}

static void teardown(void)
{
    world_done(&w);
}

START_TEST(record_comes_back_as_it_was)
{
    struct journal_reader *reader;
    struct journal_record record;
    uint64_t end;
    uint8_t byte = 0xAB;

    ck_assert(w.report.created);
    ck_assert_int_eq(journal_reader_new(&reader, w.journal), 0);
    ck_assert_int_eq(journal_reader_next(reader, &record), -EAGAIN);
    ck_assert_int_eq(
        journal_append(w.journal, JOURNAL_DATAGRAM, JOURNAL_TRUNCATED, 4294967295u, 77, -5, &byte, 1, &end), 0);
    ck_assert_uint_eq(end, 45);
    ck_assert_uint_eq(journal_end_lsn(w.journal), 45);
    ck_assert_int_eq(journal_write(w.journal), 0);
    ck_assert_uint_eq(journal_written_lsn(w.journal), 45);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), 0);
    ck_assert_int_eq(journal_reader_next(reader, &record), -EAGAIN);
    ck_assert_int_eq(journal_sync(w.journal), 0);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), 45);
    ck_assert_int_eq(journal_reader_next(reader, &record), 0);
    ck_assert_uint_eq(record.lsn, 0);
    ck_assert_uint_eq(record.end_lsn, 45);
    ck_assert_uint_eq(record.uid, 4294967295u);
    ck_assert_uint_eq(record.pid, 77);
    ck_assert_int_eq(record.received_us, -5);
    ck_assert_uint_eq(record.flags, JOURNAL_TRUNCATED);
    ck_assert_uint_eq(record.size, 1);
    ck_assert_uint_eq(*(const uint8_t *)record.payload, 0xAB);
    ck_assert_int_eq(journal_reader_next(reader, &record), -EAGAIN);
    ck_assert_int_eq(journal_reader_seek(reader, 46), -ERANGE);
    ck_assert_int_eq(journal_reader_seek(reader, 0), 0);
    ck_assert_int_eq(journal_reader_next(reader, &record), 0);
    journal_reader_free(reader);
}
END_TEST

START_TEST(record_parse_knows_short_and_wrong_bytes)
{
    struct journal_record record;
    uint64_t durable, end;
    uint8_t bytes[200], other[16] = {1};
    size_t size;

    ck_assert_int_eq(nth_append(w.journal, 3, &end), 0);
    ck_assert_int_eq(journal_write(w.journal), 0);
    uint8_t *file = fakedisk_bytes(w.disk, "journal/00000001-0000000000000000.seg", &size);
    memcpy(bytes, file + 64, sizeof bytes);
    const uint8_t *uuid = journal_uuid(w.journal);
    ck_assert_int_eq(journal_record_parse(uuid, 0, bytes, sizeof bytes, &record, &durable), 0);
    nth_check(&record);
    ck_assert_uint_eq(durable, 0);
    for (size_t n = 0; n < end; n++)
        ck_assert_int_eq(journal_record_parse(uuid, 0, bytes, n, &record, &durable), -EAGAIN);
    ck_assert_int_eq(journal_record_parse(uuid, 1, bytes, sizeof bytes, &record, &durable), -EBADMSG);
    ck_assert_int_eq(journal_record_parse(other, 0, bytes, sizeof bytes, &record, &durable), -EBADMSG);
    for (size_t n = 0; n < end; n++) {
        bytes[n] ^= 0x10;
        int r = journal_record_parse(uuid, 0, bytes, sizeof bytes, &record, &durable);
        ck_assert(r == -EBADMSG || (r == -EAGAIN && n < 4));
        bytes[n] ^= 0x10;
    }
}
END_TEST

START_TEST(segment_follows_segment_and_all_is_read_again)
{
    uint64_t end = 0;

    for (unsigned n = 0; n < 200; n += 5) {
        end = append_range(w.journal, n, n + 5);
        ck_assert_int_eq(flush(w.journal), 0);
        if (n % 20 == 0)
            ck_assert_int_eq(journal_collect(w.journal, 0, 0), 0);
    }
    struct found found = read_all(w.journal);
    ck_assert_int_eq(found.result, -EAGAIN);
    ck_assert_uint_eq(found.end, 200);
    world_reopen(&w);
    ck_assert(!w.report.created);
    ck_assert_uint_eq(w.report.torn_bytes, 0);
    ck_assert_str_eq(w.report.torn_path, "");
    ck_assert_uint_eq(journal_end_lsn(w.journal), end);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), end);
    found = read_all(w.journal);
    ck_assert_uint_eq(found.first, 0);
    ck_assert_uint_eq(found.end, 200);
    append_range(w.journal, 200, 210);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(read_all(w.journal).end, 210);
}
END_TEST

START_TEST(segments_several_in_one_group_become_durable_together)
{
    uint64_t end = append_range(w.journal, 0, 100);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), end);
    world_crash(&w, FAKEDISK_DROP, 0);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(read_all(w.journal).end, 100);
}
END_TEST

START_TEST(record_too_long_is_refused_alone)
{
    static uint8_t payload[JOURNAL_PAYLOAD_MAX + 1];
    uint64_t end;

    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, sizeof payload, &end), -EMSGSIZE);
    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, 2048 - 64 - 44 + 1, &end), -EMSGSIZE);
    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, 2048 - 64 - 44, &end), 0);
    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, 2048 - 64 - 44, &end), 0);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), 2 * (UINT64_C(2048) - 64));
    world_close(&w);
    w.options.segment_bytes = 4 * UINT64_C(1024) * 1024;
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, JOURNAL_PAYLOAD_MAX, &end), 0);
    ck_assert_int_eq(flush(w.journal), 0);
    struct journal_reader *reader;
    struct journal_record record;
    ck_assert_int_eq(journal_reader_new(&reader, w.journal), 0);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(journal_reader_next(reader, &record), 0);
    ck_assert_uint_eq(record.size, JOURNAL_PAYLOAD_MAX);
    ck_assert_int_eq(journal_reader_next(reader, &record), -EAGAIN);
    journal_reader_free(reader);
}
END_TEST

START_TEST(group_is_bounded_and_goes_on_after_a_sync)
{
    static uint8_t payload[65536];
    uint64_t end;
    unsigned count = 0;
    int r;

    world_close(&w);
    w.options.segment_bytes = 8 * UINT64_C(1024) * 1024;
    ck_assert_int_eq(world_open(&w), 0);
    while ((r = journal_append(w.journal, 1, 0, 0, 0, 0, payload, sizeof payload, &end)) == 0)
        count++;
    ck_assert_int_eq(r, -EAGAIN);
    ck_assert_uint_gt(count, 300);
    ck_assert_uint_lt(count, 600);
    ck_assert_uint_eq(journal_end_lsn(w.journal), end);
    ck_assert_int_eq(journal_write(w.journal), 0);
    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, sizeof payload, &end), -EAGAIN);
    ck_assert_int_eq(journal_sync(w.journal), 0);
    ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, sizeof payload, &end), 0);
}
END_TEST

/* Whoever was told that there is room for so many may take as many out of the socket. */
START_TEST(room_for_several_is_room_for_each)
{
    enum { SEVERAL = 16, MOST = 65536 };
    static uint8_t payload[MOST];
    uint64_t end;
    unsigned seed = 7, rooms = 0;

    world_close(&w);
    w.options.segment_bytes = 4 * UINT64_C(1024) * 1024;
    ck_assert_int_eq(world_open(&w), 0);
    for (int round = 0; round < 400; round++) {
        size_t most = round % 3 ? MOST : (size_t)rand_r(&seed) % 2000;
        int r = journal_room(w.journal, most, SEVERAL, true);

        if (r == 0) {
            rooms++;
            for (int i = 0; i < SEVERAL; i++)
                ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload,
                                                round % 2 ? most : (size_t)rand_r(&seed) % (most + 1), &end),
                                 0);
        } else {
            ck_assert_int_eq(r, -EAGAIN);
            r = journal_room(w.journal, MOST, 1, false);
            if (r == 0)
                ck_assert_int_eq(journal_append(w.journal, 1, 0, 0, 0, 0, payload, MOST, &end), 0);
            else
                ck_assert_int_eq(flush(w.journal), 0);
        }
        if (rand_r(&seed) % 8 == 0)
            ck_assert_int_eq(flush(w.journal), 0);
    }
    ck_assert_uint_gt(rooms, 100);
}
END_TEST

START_TEST(short_transfers_change_nothing)
{
    w.disk->short_transfers = true;
    append_range(w.journal, 0, 60);
    ck_assert_int_eq(flush(w.journal), 0);
    world_reopen(&w);
    ck_assert_uint_eq(read_all(w.journal).end, 60);
}
END_TEST

START_TEST(mark_covers_the_last_group_once)
{
    uint64_t end;

    ck_assert(!journal_wants_mark(w.journal));
    append_range(w.journal, 0, 3);
    ck_assert(!journal_wants_mark(w.journal));
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert(journal_wants_mark(w.journal));
    ck_assert_int_eq(journal_append(w.journal, JOURNAL_MARK, 0, 0, 0, 5, NULL, 0, &end), 0);
    ck_assert(!journal_wants_mark(w.journal));
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert(!journal_wants_mark(w.journal));
    world_reopen(&w);
    ck_assert(!journal_wants_mark(w.journal));
    append_range(w.journal, 3, 4);
    ck_assert_int_eq(flush(w.journal), 0);
    world_reopen(&w);
    ck_assert(journal_wants_mark(w.journal));
}
END_TEST

START_TEST(second_opener_is_refused)
{
    struct world other;

    world_on(&other, w.disk);
    ck_assert_int_eq(world_open(&other), -EBUSY);
    other.options.io = &other.io;
    ck_assert_int_eq(journal_repair(&other.options, NULL, NULL), -EBUSY);
    world_close(&w);
    ck_assert_int_eq(world_open(&other), 0);
    world_close(&other);
}
END_TEST

START_TEST(options_out_of_range_are_refused)
{
    world_close(&w);
    w.options.segment_bytes = JOURNAL_SEGMENT_MIN - 1;
    ck_assert_int_eq(world_open(&w), -EINVAL);
}
END_TEST

START_TEST(foreign_machine_gets_its_own_journal)
{
    uint8_t first[16], second[16];

    memcpy(first, journal_uuid(w.journal), 16);
    append_range(w.journal, 0, 5);
    ck_assert_int_eq(flush(w.journal), 0);
    world_close(&w);

    memset(w.options.machine_id, 1, 16); /* none was known before: it is ours from now on */
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert(memcmp(first, journal_uuid(w.journal), 16) == 0);
    world_close(&w);

    memset(w.options.machine_id, 2, 16);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert(w.report.foreign && w.report.created);
    ck_assert(strstr(w.report.foreign_path, "state/journal-") == w.report.foreign_path);
    memcpy(second, journal_uuid(w.journal), 16);
    ck_assert(memcmp(first, second, 16) != 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), 0);
    char path[700];
    snprintf(path, sizeof path, "%s/00000001-0000000000000000.seg", w.report.foreign_path + strlen("state/"));
    ck_assert_ptr_nonnull(fakedisk_bytes(w.disk, path, NULL));
    world_close(&w);

    memset(w.options.machine_id, 3, 16);
    w.options.adopt = true;
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert(!w.report.foreign);
    ck_assert(memcmp(second, journal_uuid(w.journal), 16) == 0);
    world_close(&w);
    w.options.adopt = false;
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert(!w.report.foreign);
}
END_TEST

START_TEST(unconfirmed_lsn_is_the_oldest_since_it_was_confirmed)
{
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), 0);
    ck_assert_int_eq(journal_confirm(w.journal), 0);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), UINT64_MAX);
    uint64_t end = append_range(w.journal, 0, 5);
    ck_assert_int_eq(flush(w.journal), 0);
    world_reopen(&w);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), end);
    append_range(w.journal, 5, 10);
    ck_assert_int_eq(flush(w.journal), 0);
    world_reopen(&w);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), end);
    ck_assert_int_eq(journal_confirm(w.journal), 0);
    ck_assert_int_eq(journal_confirm(w.journal), 0);
    world_reopen(&w);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), journal_end_lsn(w.journal));
}
END_TEST

START_TEST(unconfirmed_lsn_waits_for_space_and_appending_for_it)
{
    uint64_t end;

    append_range(w.journal, 0, 5);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_int_eq(journal_confirm(w.journal), 0);
    world_close(&w);
    w.disk->capacity = fakedisk_used(w.disk);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(read_all(w.journal).end, 5);
    ck_assert_int_eq(nth_append(w.journal, 5, &end), -ENOSPC);
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), -ENOSPC);
    w.disk->capacity = 0;
    ck_assert_int_eq(journal_collect(w.journal, 0, 0), 0);
    ck_assert_int_eq(nth_append(w.journal, 5, &end), 0);
    ck_assert_int_eq(flush(w.journal), 0);
}
END_TEST

START_TEST(state_files_keep_what_they_were_given)
{
    uint8_t bytes[16];

    ck_assert_int_eq(journal_state_read(w.journal, "epoch", bytes, sizeof bytes), -ENOENT);
    ck_assert_int_eq(journal_state_write(w.journal, "epoch", "12345678", 8), 0);
    ck_assert_int_eq(journal_state_write(w.journal, "epoch", "abcdef", 6), 0);
    ck_assert_int_eq(journal_state_write(w.journal, "empty", NULL, 0), 0);
    world_crash(&w, FAKEDISK_DROP, 0);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_int_eq(journal_state_read(w.journal, "epoch", bytes, sizeof bytes), 6);
    ck_assert(memcmp(bytes, "abcdef", 6) == 0);
    ck_assert_int_eq(journal_state_read(w.journal, "epoch", bytes, 5), -EMSGSIZE);
    ck_assert_int_eq(journal_state_read(w.journal, "empty", bytes, 0), 0);
    fakedisk_bytes(w.disk, "epoch", NULL)[21] ^= 1;
    ck_assert_int_eq(journal_state_read(w.journal, "epoch", bytes, sizeof bytes), -EBADMSG);
    static const char *const refused[] = {"", ".x", "a/b", "lock", "journal", "journal.new", "a.tmp", "torn-1"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        ck_assert_int_eq(journal_state_write(w.journal, refused[i], "x", 1), -EINVAL);
}
END_TEST

START_TEST(renew_takes_the_tail_into_a_new_journal)
{
    uint8_t old[16];
    uint64_t from = append_range(w.journal, 0, 70), end;
    append_range(w.journal, 70, 99);
    ck_assert_int_eq(flush(w.journal), 0);
    append_range(w.journal, 99, 100); /* not even written */
    memcpy(old, journal_uuid(w.journal), 16);
    ck_assert_int_eq(journal_renew(w.journal, journal_end_lsn(w.journal) + 1, NEW_UUID), -ERANGE);
    ck_assert_int_eq(journal_renew(w.journal, from, NEW_UUID), 0);
    ck_assert(memcmp(old, journal_uuid(w.journal), 16) != 0);
    ck_assert_uint_eq(journal_oldest_lsn(w.journal), 0);
    ck_assert_uint_eq(journal_unconfirmed_lsn(w.journal), 0);
    struct found found = read_all(w.journal);
    ck_assert_uint_eq(found.first, 70);
    ck_assert_uint_eq(found.end, 100);
    ck_assert_ptr_null(fakedisk_bytes(w.disk, "journal.old/identity", NULL));
    ck_assert_ptr_null(fakedisk_bytes(w.disk, "journal.new/identity", NULL));
    append_range(w.journal, 100, 150);
    ck_assert_int_eq(flush(w.journal), 0);
    ck_assert_int_eq(journal_renew(w.journal, journal_end_lsn(w.journal), NEW_UUID), 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), 0);
    ck_assert_int_eq(nth_append(w.journal, 7, &end), 0);
    ck_assert_int_eq(flush(w.journal), 0);
    world_reopen(&w);
    ck_assert_uint_eq(read_all(w.journal).first, 7);
}
END_TEST

START_TEST(renew_takes_more_than_memory_holds)
{
    static uint8_t payload[65536];
    uint64_t end;

    world_close(&w);
    w.options.segment_bytes = UINT64_C(1024) * 1024;
    ck_assert_int_eq(world_open(&w), 0);
    for (unsigned n = 0; n < 700; n++) {
        ck_assert_int_eq(journal_append(w.journal, 1, 0, n, 0, 0, payload, sizeof payload, &end), 0);
        if (n % 100 == 99)
            ck_assert_int_eq(flush(w.journal), 0);
    }
    ck_assert_int_eq(journal_renew(w.journal, 0, NEW_UUID), 0);
    ck_assert_uint_eq(journal_durable_lsn(w.journal), 700 * (UINT64_C(65536) + 44));
}
END_TEST

static void set_version(uint8_t version)
{
    uint8_t *header = fakedisk_bytes(w.disk, "journal/00000001-0000000000000000.seg", NULL);

    header[8] = version;
    uint32_t crc = crc32c(0, header, 60); /* the version is checked after the checksum, so make that fit too */
    for (int i = 0; i < 4; i++)
        header[60 + i] = (uint8_t)(crc >> 8 * i);
}

START_TEST(newer_version_is_left_alone)
{
    append_range(w.journal, 0, 5);
    ck_assert_int_eq(flush(w.journal), 0);
    world_close(&w);
    set_version(3);
    ck_assert_int_eq(world_open(&w), -ENOTSUP);
}
END_TEST

/* Else a program of that version would read records that it does not understand. */
START_TEST(older_version_is_read_and_goes_on_in_a_new_segment)
{
    uint64_t end = append_range(w.journal, 0, 5);
    char name[64];

    ck_assert_int_eq(flush(w.journal), 0);
    world_close(&w);
    set_version(1);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(journal_end_lsn(w.journal), end);
    ck_assert_int_eq(journal_room(w.journal, 10, 1, true), -EAGAIN);
    append_range(w.journal, 5, 10);
    ck_assert_int_eq(flush(w.journal), 0);
    snprintf(name, sizeof(name), "journal/00000002-%016" PRIx64 ".seg", end);
    ck_assert_uint_eq(fakedisk_bytes(w.disk, name, NULL)[8], 2);
    ck_assert_uint_eq(read_all(w.journal).end, 10);
    world_close(&w);
    ck_assert_int_eq(world_open(&w), 0);
    ck_assert_uint_eq(read_all(w.journal).end, 10);
}
END_TEST

START_TEST(real_files_work_the_same)
{
    char dir[] = "/tmp/toll-journal-XXXXXX", command[80];
    struct journal_options options = {.state_dir = mkdtemp(dir), .segment_bytes = 65536};
    struct journal *journal, *other;
    struct journal_report report;

    ck_assert_ptr_nonnull(options.state_dir);
    ck_assert_int_eq(journal_open(&journal, &options, &report), 0);
    ck_assert(report.created);
    ck_assert_int_eq(journal_open(&other, &options, NULL), -EBUSY);
    for (unsigned n = 0; n < 3000; n += 500) {
        uint64_t end = append_range(journal, n, n + 500);
        ck_assert_int_eq(flush(journal), 0);
        ck_assert_int_eq(journal_collect(journal, n < 1000 ? end : 0, 5000000), 0);
    }
    unsigned first = read_all(journal).first;
    ck_assert_uint_gt(first, 0);
    ck_assert_int_eq(journal_renew(journal, journal_oldest_lsn(journal), NEW_UUID), 0);
    ck_assert_uint_eq(read_all(journal).first, first);
    ck_assert_uint_eq(read_all(journal).end, 3000);
    ck_assert_int_eq(journal_state_write(journal, "epoch", "x", 1), 0);
    journal_close(journal);
    ck_assert_int_eq(journal_open(&journal, &options, &report), 0);
    ck_assert_uint_eq(read_all(journal).end, 3000);
    journal_close(journal);
    ck_assert_int_eq(journal_repair(&options, NULL, NULL), 0);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("journal");
    TCase *tcase = tcase_create("journal");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, record_comes_back_as_it_was);
    tcase_add_test(tcase, record_parse_knows_short_and_wrong_bytes);
    tcase_add_test(tcase, segment_follows_segment_and_all_is_read_again);
    tcase_add_test(tcase, segments_several_in_one_group_become_durable_together);
    tcase_add_test(tcase, record_too_long_is_refused_alone);
    tcase_add_test(tcase, group_is_bounded_and_goes_on_after_a_sync);
    tcase_add_test(tcase, room_for_several_is_room_for_each);
    tcase_add_test(tcase, short_transfers_change_nothing);
    tcase_add_test(tcase, mark_covers_the_last_group_once);
    tcase_add_test(tcase, second_opener_is_refused);
    tcase_add_test(tcase, options_out_of_range_are_refused);
    tcase_add_test(tcase, foreign_machine_gets_its_own_journal);
    tcase_add_test(tcase, unconfirmed_lsn_is_the_oldest_since_it_was_confirmed);
    tcase_add_test(tcase, unconfirmed_lsn_waits_for_space_and_appending_for_it);
    tcase_add_test(tcase, state_files_keep_what_they_were_given);
    tcase_add_test(tcase, renew_takes_the_tail_into_a_new_journal);
    tcase_add_test(tcase, renew_takes_more_than_memory_holds);
    tcase_add_test(tcase, newer_version_is_left_alone);
    tcase_add_test(tcase, older_version_is_read_and_goes_on_in_a_new_segment);
    tcase_add_test(tcase, real_files_work_the_same);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
