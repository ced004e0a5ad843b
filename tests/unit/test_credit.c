/* Tests of daemon/credit: which sessions stand on which host's page, and of libtoll's toll_ackpage_credit(), which reads them there, also while they
 * change. */
#include "daemon/credit.h"

#include "client/ackpage.h"
#include "client/toll.h"
#include "tests/unit/datagrams.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static struct credit *credit;
static struct toll_ackpage worker; /* the same page, from both sides */
static struct ackpage *page;

static void setup(void)
{
    credit = credit_new();
    ck_assert_ptr_nonnull(credit);
    worker = (struct toll_ackpage){.fd = -1};
    ck_assert_int_eq(toll_ackpage_make(&worker), 0);
    ck_assert_int_eq(ackpage_map(&page, worker.fd), 0);
    ackpage_begin(page, 1000, 0, ACKPAGE_OK, 0);
}

static void teardown(void)
{
    credit_free(credit);
    ackpage_unmap(page);
    toll_ackpage_done(&worker);
}

/* Sessions first … first + count - 1, all of that state and host. */
static struct credit_session *list_of(unsigned first, unsigned count, uint32_t state, uint32_t host)
{
    struct credit_session *list = calloc(count + 1, sizeof(*list));

    ck_assert_ptr_nonnull(list);
    for (unsigned i = 0; i < count; i++) {
        id_of(list[i].id, first + count - 1 - i); /* in no order */
        list[i].state = state;
        list[i].hosts[0] = host;
    }
    return list;
}

static void replace(unsigned first, unsigned count, uint32_t state, uint32_t host)
{
    ck_assert_int_eq(credit_replace(credit, list_of(first, count, state, host), count), 0);
}

static uint32_t seen(unsigned n)
{
    uint8_t id[16];

    id_of(id, n);
    return toll_ackpage_credit(&worker, id);
}

START_TEST(page_has_its_own_hosts_sessions_only)
{
    struct credit_session *list = list_of(1, 4, CREDIT_LOW, 7);

    list[0].hosts[0] = 8;             /* session 4 */
    list[1].state = CREDIT_EXHAUSTED; /* session 3 */
    ck_assert(credit_none(credit));
    ck_assert_int_eq(credit_replace(credit, list, 4), 0);
    ck_assert(!credit_none(credit) && credit_changed(credit));
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_LOW);
    ck_assert_uint_eq(seen(2), TOLL_CREDIT_LOW);
    ck_assert_uint_eq(seen(3), TOLL_CREDIT_EXHAUSTED);
    ck_assert_uint_eq(seen(4), TOLL_CREDIT_OK);
    ck_assert_uint_eq(seen(5), TOLL_CREDIT_OK);
    credit_show(credit, 8, page);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_OK);
    ck_assert_uint_eq(seen(4), TOLL_CREDIT_LOW);
    credit_show(credit, 9, page);
    ck_assert_uint_eq(seen(4), TOLL_CREDIT_OK);
    credit_shown(credit);
    ck_assert(!credit_changed(credit));
}
END_TEST

START_TEST(session_that_is_ok_again_is_cleared)
{
    replace(1, 2, CREDIT_EXHAUSTED, 7);
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(2), TOLL_CREDIT_EXHAUSTED);
    replace(1, 1, CREDIT_LOW, 7);
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_LOW);
    ck_assert_uint_eq(seen(2), TOLL_CREDIT_OK);
    replace(0, 0, 0, 0);
    ck_assert(credit_none(credit) && credit_changed(credit));
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_OK);
}
END_TEST

/* Whom memory does not know, after a restart say, is found by the frames that pass by, and stays known. */
START_TEST(host_is_learnt_from_frames_that_pass_by)
{
    uint8_t id[16];

    replace(1, 3, CREDIT_EXHAUSTED, 0);
    credit_shown(credit);
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(2), TOLL_CREDIT_OK);
    id_of(id, 2);
    credit_note(credit, id, 7);
    ck_assert(credit_changed(credit));
    credit_show(credit, 7, page);
    credit_shown(credit);
    ck_assert_uint_eq(seen(2), TOLL_CREDIT_EXHAUSTED);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_OK);
    credit_note(credit, id, 7); /* nothing new */
    id_of(id, 9);
    credit_note(credit, id, 7); /* not short */
    ck_assert(!credit_changed(credit));
    replace(1, 3, CREDIT_LOW, 0);
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(2), TOLL_CREDIT_LOW);
}
END_TEST

/* A call that goes on in another process, or in two: the last two are told. */
START_TEST(last_two_hosts_are_told)
{
    uint8_t id[16];

    replace(1, 1, CREDIT_EXHAUSTED, 7);
    id_of(id, 1);
    credit_note(credit, id, 8);
    for (uint32_t host = 7; host <= 8; host++) {
        credit_show(credit, host, page);
        ck_assert_uint_eq(seen(1), TOLL_CREDIT_EXHAUSTED);
    }
    credit_note(credit, id, 9);
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_OK);
    credit_show(credit, 9, page);
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_EXHAUSTED);
}
END_TEST

static void check_hosts(uint32_t first, uint32_t second, uint32_t none)
{
    const uint32_t hosts[] = {first, second, none};

    for (unsigned i = 0; i < 3; i++) {
        credit_show(credit, hosts[i], page);
        ck_assert_uint_eq(seen(1), i < 2 ? TOLL_CREDIT_EXHAUSTED : TOLL_CREDIT_OK);
    }
}

static void replace_begun(uint32_t host, uint32_t began)
{
    struct credit_session *list = list_of(1, 1, CREDIT_EXHAUSTED, host);

    list->began = began;
    ck_assert_int_eq(credit_replace(credit, list, 1), 0);
}

/* As the database knows it, until two others are known. */
START_TEST(where_it_began_will_do_for_a_host)
{
    uint8_t id[16];

    id_of(id, 1);
    replace_begun(0, 5);
    check_hosts(5, 5, 7);
    credit_note(credit, id, 7);
    replace_begun(0, 5);
    check_hosts(7, 5, 8);
    credit_note(credit, id, 8);
    replace_begun(0, 5);
    check_hosts(8, 7, 5);
    replace(0, 0, 0, 0);
    replace_begun(9, 5);
    check_hosts(9, 5, 8);
    replace(0, 0, 0, 0);
    replace_begun(5, 5);
    check_hosts(5, 5, 8);
}
END_TEST

START_TEST(exhausted_ones_come_first_where_not_all_fit)
{
    struct credit_session *list = list_of(0, 300, CREDIT_LOW, 7);
    unsigned exhausted = 0, low = 0;

    for (unsigned i = 100; i < 200; i++)
        list[i].state = CREDIT_EXHAUSTED;
    ck_assert_int_eq(credit_replace(credit, list, 300), 0);
    credit_show(credit, 7, page);
    for (unsigned i = 0; i < 300; i++) {
        exhausted += seen(i) == TOLL_CREDIT_EXHAUSTED;
        low += seen(i) == TOLL_CREDIT_LOW;
    }
    ck_assert_uint_eq(exhausted, 100);
    ck_assert_uint_eq(low, 200);                    /* those of which it is not known too */
    ck_assert_uint_eq(seen(1000), TOLL_CREDIT_LOW); /* as little */
    replace(0, 168, CREDIT_LOW, 7);
    credit_show(credit, 7, page);
    ck_assert_uint_eq(seen(167), TOLL_CREDIT_LOW);
    ck_assert_uint_eq(seen(168), TOLL_CREDIT_OK);
}
END_TEST

/* Nothing that a page may hold makes the reader loop, or read beyond it. */
START_TEST(any_page_can_be_read)
{
    uint8_t *map, id[16] = {0};

    ck_assert_uint_eq(toll_ackpage_credit(&(struct toll_ackpage){.fd = -1}, id), 0);
    map = (uint8_t *)(void *)*(void **)(void *)page; /* the daemon's mapping, which may be written */
    memset(map + 64, 0xFF, 4032);
    memset(map + 32, 0xFF, 8); /* odd for ever */
    memset(map + 40, 0xFF, 4);
    memset(id, 0xFF, sizeof(id));
    ck_assert_uint_eq(toll_ackpage_credit(&worker, id), 0); /* no state that there is */
    replace(1, 1, CREDIT_EXHAUSTED, 7);
    credit_show(credit, 7, page);
    map[32] |= 1; /* the daemon ended while it wrote: what it said stands */
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_EXHAUSTED);
    map[4] = 2; /* another version's table may be anything */
    ck_assert_uint_eq(seen(1), TOLL_CREDIT_OK);
}
END_TEST

/* --- both sides at once ------------------------------------------------------------------------------------------------------ */

enum { LOOKS = 5000 /* that find the table unchanged */ };

static atomic_bool over;

/* Sessions 1 and 2 are always there, in tables of changing length and order; 3 never is. */
static void *write_tables(void *unused)
{
    struct ackpage_credit entries[ACKPAGE_CREDITS];

    (void)unused;
    for (unsigned round = 0; !atomic_load(&over); round++) {
        unsigned count = 2 + round * 7 % (ACKPAGE_CREDITS - 2);

        for (unsigned i = 0; i < count; i++) {
            unsigned n = (i + round) % count;

            id_of(entries[i].session, n < 2 ? 1 + n : 10 + n);
            entries[i].state = n == 0 ? CREDIT_LOW : n == 1 ? CREDIT_EXHAUSTED : 1 + (round & 1);
        }
        ackpage_set_credit(page, entries, count, false);
    }
    return NULL;
}

START_TEST(worker_never_sees_half_a_table)
{
    static const uint32_t expected[] = {0, TOLL_CREDIT_LOW, TOLL_CREDIT_EXHAUSTED, TOLL_CREDIT_OK};
    unsigned reads = 0, stills = 0, wrong = 0;
    uint32_t state;
    uint8_t ids[4][16];
    struct ackpage_credit both[] = {{.state = CREDIT_LOW}, {.state = CREDIT_EXHAUSTED}};
    pthread_t writer;

    for (unsigned i = 0; i < 4; i++)
        id_of(ids[i], i);
    memcpy(both[0].session, ids[1], sizeof(ids[1]));
    memcpy(both[1].session, ids[2], sizeof(ids[2]));
    atomic_store(&over, false);
    ackpage_set_credit(page, both, 2, false);
    ck_assert_int_eq(pthread_create(&writer, NULL, write_tables, NULL), 0);
    while (stills < LOOKS) {
        for (unsigned n = 1; n <= 3; n++) {
            bool still = toll_ackpage_look(&worker, ids[n], &state);

            wrong += still && state != expected[n];
            stills += still;
            reads++;
        }
        ck_assert_uint_le(toll_ackpage_credit(&worker, ids[1]), TOLL_CREDIT_EXHAUSTED); /* ends */
    }
    atomic_store(&over, true);
    pthread_join(writer, NULL);
    printf("credit tables being written looked at %u times, %u of them unchanged\n", reads, stills);
    ck_assert_uint_eq(wrong, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("credit");
    TCase *tests = tcase_create("credit");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 30);
    tcase_add_test(tests, page_has_its_own_hosts_sessions_only);
    tcase_add_test(tests, session_that_is_ok_again_is_cleared);
    tcase_add_test(tests, host_is_learnt_from_frames_that_pass_by);
    tcase_add_test(tests, last_two_hosts_are_told);
    tcase_add_test(tests, where_it_began_will_do_for_a_host);
    tcase_add_test(tests, exhausted_ones_come_first_where_not_all_fit);
    tcase_add_test(tests, any_page_can_be_read);
    tcase_add_test(tests, worker_never_sees_half_a_table);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
