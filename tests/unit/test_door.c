/* Tests of daemon/door: how much can get on its way to the quarantine before its limit is known to be reached, and that good frames pass. */
#include "daemon/door.h"

#include "tests/unit/datagrams.h"

#include <errno.h>

enum { LIMIT = 10000, EACH = 100 };

static struct metrics metrics;
static struct door *door;
static struct bytes bytes;

static void setup(void)
{
    metrics = (struct metrics){.frames_received = 0};
    door = door_new(&metrics);
    ck_assert_ptr_nonnull(door);
    door_set_limit(door, LIMIT);
    bytes.size = 0;
}

static void teardown(void)
{
    door_free(door);
}

static void good_frames(unsigned count)
{
    bytes.size = 0;
    for (unsigned i = 0; i < count; i++)
        add_start(&bytes, i, 1);
}

/* The smallest there are: each is an integer, where a map is wanted. */
static void bad_frames(unsigned count)
{
    static const uint8_t bad[EACH] = {0};

    ck_assert_uint_le(count, sizeof(bad));
    bytes.size = 0;
    add_bytes(&bytes, bad, count);
}

/* True: the datagram is taken, and counted as the receive loop does. */
static bool pass(unsigned frames)
{
    struct datagram datagram = {.data = bytes.data, .size = bytes.size};
    struct datagram_parts parts;
    int r;

    datagram_open(&parts, bytes.data, bytes.size, false);
    r = door_pass(door, &datagram, &parts, NULL, frames);
    ck_assert(r == 0 || r == -EINVAL);
    metrics_add(&metrics.frames_received, r == 0 ? frames : 0);
    return r == 0;
}

START_TEST(masses_of_invalid_frames_are_noticed_before_they_are_stored)
{
    unsigned taken = 0;

    bad_frames(EACH);
    while (taken < 10 * LIMIT && pass(EACH))
        taken += EACH;
    ck_assert_uint_ge(taken, LIMIT);
    ck_assert_uint_le(taken, LIMIT + LIMIT / 2);
    good_frames(EACH);
    ck_assert_msg(pass(EACH), "good frames pass, however full it is");
}
END_TEST

START_TEST(frames_that_were_stored_make_room_for_others)
{
    bad_frames(EACH);
    while (pass(EACH))
        ;
    /* All of it is stored, and somebody empties the table. */
    metrics_set(&metrics.frames_quarantined, metrics_get(&metrics.frames_received));
    metrics_set(&metrics.quarantine_rows, metrics_get(&metrics.frames_received));
    ck_assert(!pass(EACH));
    metrics_set(&metrics.quarantine_rows, 0);
    ck_assert(pass(EACH));
}
END_TEST

START_TEST(quarantine_of_before_does_not_hide_what_is_coming)
{
    unsigned taken = 0;

    metrics_set(&metrics.frames_quarantined, UINT64_C(100) * LIMIT); /* and deleted since */
    metrics_set(&metrics.frames_received, UINT64_C(100) * LIMIT);
    bad_frames(EACH);
    while (taken < 10 * LIMIT && pass(EACH))
        taken += EACH;
    ck_assert_uint_le(taken, LIMIT + LIMIT / 2);
}
END_TEST

START_TEST(backlog_of_good_frames_closes_nothing)
{
    good_frames(EACH);
    for (unsigned taken = 0; taken < 10 * LIMIT; taken += EACH)
        ck_assert(pass(EACH));
    bad_frames(EACH);
    ck_assert_msg(pass(EACH), "the quarantine is empty");
}
END_TEST

START_TEST(full_quarantine_refuses_an_invalid_frame_of_a_small_datagram)
{
    metrics_set(&metrics.quarantine_rows, LIMIT);
    bad_frames(1);
    ck_assert(!pass(1));
    good_frames(1);
    ck_assert(pass(1));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("door");
    TCase *tests = tcase_create("door");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, masses_of_invalid_frames_are_noticed_before_they_are_stored);
    tcase_add_test(tests, frames_that_were_stored_make_room_for_others);
    tcase_add_test(tests, quarantine_of_before_does_not_hide_what_is_coming);
    tcase_add_test(tests, backlog_of_good_frames_closes_nothing);
    tcase_add_test(tests, full_quarantine_refuses_an_invalid_frame_of_a_small_datagram);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
