/* Tests of daemon/streams: what is acknowledged when, on real ack pages that a worker's side reads. */
#include "daemon/streams.h"

#include "tests/unit/datagrams.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

enum { EPOCH = 77, UID = 1000, STALL = 30 * 1000 * 1000 };

static struct streams *streams;
static struct streams_options options;
static uint64_t lsn; /* of the pretended journal's end */
static int64_t now_us;

/* The worker's side of a page. */
struct worker_page {
    int fd;
    const uint8_t *map;
};

static void remake(void)
{
    streams_free(streams);
    streams = streams_new(&options);
    ck_assert_ptr_nonnull(streams);
}

static void setup(void)
{
    options = (struct streams_options){
        .max = 100, .max_per_uid = 50, .pages_max = 20, .pages_max_per_uid = 10, .epoch = EPOCH, .stall_us = STALL};
    lsn = 0;
    now_us = 1000;
    remake();
}

static void teardown(void)
{
    streams_free(streams);
}

static struct stream *get(uint32_t uid, unsigned n, uint64_t base)
{
    uint8_t id[16];
    struct stream *stream;

    id_of(id, n);
    stream = streams_get(streams, uid, id, base, now_us);
    ck_assert_ptr_nonnull(stream);
    return stream;
}

/* A datagram with numbers [seq, end) is journaled; returns the LSN after it. */
static uint64_t journal_for(uint32_t uid, unsigned n, uint64_t base, uint64_t seq, uint64_t end)
{
    struct stream *stream = get(uid, n, base);

    ck_assert_int_eq(stream_note(stream, seq, end), 0);
    lsn += 100;
    stream_journaled(streams, stream, lsn);
    return lsn;
}

static uint64_t journal_datagram(uint64_t base, uint64_t seq, uint64_t end)
{
    return journal_for(UID, 1, base, seq, end);
}

static struct worker_page page_new(void)
{
    struct worker_page page = {.fd = memfd_create("page", MFD_CLOEXEC | MFD_ALLOW_SEALING)};

    ck_assert_int_ge(page.fd, 0);
    ck_assert_int_eq(ftruncate(page.fd, 4096), 0);
    ck_assert_int_eq(fcntl(page.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    page.map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, page.fd, 0);
    ck_assert_ptr_ne(page.map, MAP_FAILED);
    return page;
}

static void page_free(struct worker_page *page)
{
    munmap((void *)page->map, 4096);
    close(page->fd);
}

static uint64_t page_u64(const struct worker_page *page, size_t offset)
{
    uint64_t value = 0;

    for (size_t i = 8; i-- > 0;)
        value = value << 8 | page->map[offset + i];
    return value;
}

static uint64_t page_acked(const struct worker_page *page)
{
    return page_u64(page, 16);
}

static int attach_as(uint32_t uid, unsigned n, const struct worker_page *worker, uint32_t pid)
{
    struct ackpage *page;
    int r;

    ck_assert_int_eq(ackpage_map(&page, worker->fd), 0);
    r = stream_attach(streams, get(uid, n, 1), page, pid, 5000);
    if (r < 0)
        ackpage_unmap(page);
    return r;
}

static void attach(unsigned n, const struct worker_page *worker)
{
    ck_assert_int_eq(attach_as(UID, n, worker, (uint32_t)getpid()), 0);
}

struct viewed {
    uint8_t id[16];
    uint32_t uid;
    bool found;
    struct stream_view view;
};

static void pick(void *context, const struct stream_view *view)
{
    struct viewed *viewed = context;

    if (view->uid == viewed->uid && memcmp(view->id, viewed->id, 16) == 0) {
        viewed->found = true;
        viewed->view = *view;
    }
}

static struct viewed view_of(uint32_t uid, unsigned n)
{
    struct viewed viewed = {.uid = uid};

    id_of(viewed.id, n);
    streams_foreach(streams, now_us, pick, &viewed);
    return viewed;
}

static uint64_t acked(void)
{
    return view_of(UID, 1).view.acked;
}

START_TEST(numbers_are_acknowledged_when_the_journal_is_safe_up_to_them)
{
    struct worker_page page = page_new();

    attach(1, &page);
    uint64_t first = journal_datagram(1, 1, 4);
    uint64_t second = journal_datagram(1, 4, 6);
    ck_assert_uint_eq(page_acked(&page), 0);
    streams_publish(streams, first - 1);
    ck_assert_uint_eq(page_acked(&page), 0);
    streams_publish(streams, first);
    ck_assert_uint_eq(page_acked(&page), 3);
    streams_publish(streams, second - 1);
    ck_assert_uint_eq(page_acked(&page), 3);
    streams_publish(streams, second);
    ck_assert_uint_eq(page_acked(&page), 5);
    page_free(&page);
}
END_TEST

START_TEST(number_above_a_hole_waits_for_it)
{
    journal_datagram(1, 1, 3);
    journal_datagram(1, 5, 7);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 2);
    ck_assert_uint_eq(view_of(UID, 1).view.holes, 1);
    journal_datagram(1, 3, 5);
    ck_assert_uint_eq(acked(), 2); /* the hole's filling is not safe yet */
    streams_publish(streams, lsn - 1);
    ck_assert_uint_eq(acked(), 2);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 6);
    ck_assert_uint_eq(view_of(UID, 1).view.holes, 0);
}
END_TEST

/* The base tells what an earlier run acknowledged: numbers below it hold nothing back. */
START_TEST(base_closes_holes_below_it)
{
    journal_datagram(1, 1, 3);
    journal_datagram(1, 5, 7);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 2);
    journal_datagram(5, 7, 8);
    ck_assert_uint_eq(acked(), 4);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 7);
}
END_TEST

START_TEST(stream_first_seen_in_its_middle_is_acknowledged_from_its_base)
{
    struct worker_page page = page_new();

    journal_datagram(1000, 1002, 1003);
    attach(1, &page);
    ck_assert_uint_eq(page_acked(&page), 999);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 999); /* 1000 and 1001 did not come yet */
    journal_datagram(1000, 1000, 1002);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 1002);
    page_free(&page);
}
END_TEST

/* What was promised before the base rose is less than the base tells. */
START_TEST(promise_kept_late_takes_no_acknowledgement_back)
{
    struct worker_page page = page_new();

    uint64_t promised = journal_datagram(1, 1, 3);
    journal_datagram(6, 8, 9);
    attach(1, &page);
    ck_assert_uint_eq(page_acked(&page), 5);
    streams_publish(streams, promised);
    ck_assert_uint_eq(acked(), 5);
    ck_assert_uint_eq(page_acked(&page), 5);
    page_free(&page);
}
END_TEST

START_TEST(base_that_goes_back_takes_no_acknowledgement_back)
{
    struct worker_page page = page_new();

    attach(1, &page);
    journal_datagram(1, 1, 10);
    streams_publish(streams, lsn);
    journal_datagram(3, 3, 5);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 9);
    journal_datagram(1, 1, 2);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), 9);
    page_free(&page);
}
END_TEST

/* Against a model that remembers every datagram: acks never exceed what is journaled below the safe LSN,
 * never go down, and reach all in the end. */
START_TEST(acknowledgements_keep_to_the_model)
{
    enum { NUMBERS = 300, STEPS = 4000 };
    uint64_t journaled_at[NUMBERS + 1] = {0}, safe = 0, before = 0;
    struct worker_page page = page_new();
    unsigned seed = (unsigned)getpid();

    printf("seed %u\n", seed);
    srand(seed);
    attach(1, &page);
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t seq = before + 1 + (uint64_t)rand() % 12, end = seq + 1 + (uint64_t)rand() % 4, promised = 0;

        if (end > NUMBERS + 1)
            end = NUMBERS + 1;
        if (seq < end && rand() % 3) {
            journal_datagram(before + 1, seq, end);
            for (uint64_t n = seq; n < end; n++)
                if (!journaled_at[n])
                    journaled_at[n] = lsn;
        } else {
            safe += (lsn - safe) * (uint64_t)(rand() % 3) / 2;
            streams_publish(streams, safe);
        }
        while (promised < NUMBERS && journaled_at[promised + 1] && journaled_at[promised + 1] <= safe)
            promised++;
        ck_assert_uint_le(page_acked(&page), promised);
        ck_assert_uint_ge(page_acked(&page), before);
        before = page_acked(&page);
    }
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&page), NUMBERS);
    page_free(&page);
}
END_TEST

START_TEST(page_shows_everything_when_attached)
{
    struct worker_page page = page_new();

    journal_datagram(1, 1, 9);
    streams_publish(streams, lsn);
    streams_tend(streams, ACKPAGE_BUSY, 1);
    attach(1, &page);
    ck_assert_uint_eq(page_u64(&page, 0), 0x4C4C4F54u | UINT64_C(1) << 32);
    ck_assert_uint_eq(page_u64(&page, 8), EPOCH);
    ck_assert_uint_eq(page_acked(&page), 8);
    ck_assert_uint_eq(page_u64(&page, 24), ACKPAGE_BUSY);
    ck_assert_uint_eq(page_u64(&page, 48), 5000);
    streams_tend(streams, ACKPAGE_OK, 6000);
    ck_assert_uint_eq(page_u64(&page, 24), ACKPAGE_OK);
    ck_assert_uint_eq(page_u64(&page, 48), 6000);
    page_free(&page);
}
END_TEST

START_TEST(page_attached_again_replaces_the_old_one)
{
    struct worker_page first = page_new(), second = page_new();

    attach(1, &first);
    attach(1, &second);
    ck_assert_uint_eq(streams_pages(streams), 1);
    journal_datagram(1, 1, 2);
    streams_publish(streams, lsn);
    ck_assert_uint_eq(page_acked(&first), 0);
    ck_assert_uint_eq(page_acked(&second), 1);
    page_free(&first);
    page_free(&second);
}
END_TEST

START_TEST(pages_are_limited_per_uid)
{
    struct worker_page page = page_new();

    attach_as(UID + 1, 99, &page, 0);
    for (unsigned n = 1; n <= 15; n++)
        attach(n, &page);
    ck_assert_uint_eq(streams_pages(streams), 11);
    ck_assert(view_of(UID + 1, 99).view.page); /* another's page is not taken */
    ck_assert(!view_of(UID, 5).view.page);
    ck_assert(view_of(UID, 6).view.page);
    ck_assert_uint_eq(streams_count(streams), 16); /* the streams stay */
    page_free(&page);
}
END_TEST

START_TEST(pages_are_limited_in_total_at_the_cost_of_who_has_most)
{
    struct worker_page page = page_new();

    options.pages_max = 12;
    remake();
    for (unsigned n = 1; n <= 9; n++)
        attach(n, &page);
    for (unsigned n = 1; n <= 6; n++)
        ck_assert_int_eq(attach_as(UID + 1, n, &page, 0), 0);
    ck_assert_uint_eq(streams_pages(streams), 12);
    for (unsigned n = 1; n <= 6; n++)
        ck_assert(view_of(UID + 1, n).view.page);
    for (unsigned n = 1; n <= 3; n++)
        ck_assert(!view_of(UID, n).view.page);
    options.pages_max = 0;
    remake();
    ck_assert_int_eq(attach_as(UID, 1, &page, 0), -ENOSPC);
    options.pages_max = 5;
    options.pages_max_per_uid = 0;
    remake();
    ck_assert_int_eq(attach_as(UID, 1, &page, 0), -ENOSPC);
    page_free(&page);
}
END_TEST

static pid_t spawn(void)
{
    pid_t child = fork();

    ck_assert_int_ge(child, 0);
    if (child == 0) {
        pause();
        _exit(0);
    }
    return child;
}

static void finish(pid_t child)
{
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

START_TEST(pages_of_dead_workers_are_dropped)
{
    enum { WORKERS = 70 }; /* more than are looked at in one go */
    struct worker_page page = page_new();
    pid_t children[2] = {spawn(), spawn()};

    options.pages_max = options.pages_max_per_uid = options.max = options.max_per_uid = 100;
    remake();
    for (unsigned n = 0; n < WORKERS; n++)
        ck_assert_int_eq(attach_as(UID, n, &page, (uint32_t)children[n % 2]), 0);
    ck_assert_int_eq(attach_as(UID, WORKERS, &page, 0), 0); /* not visible from here: stays */
    streams_tend(streams, ACKPAGE_OK, 1);
    ck_assert_uint_eq(streams_pages(streams), WORKERS + 1);
    finish(children[0]);
    streams_tend(streams, ACKPAGE_OK, 2);
    ck_assert_uint_eq(streams_pages(streams), WORKERS / 2 + 1);
    ck_assert(!view_of(UID, 0).view.page && view_of(UID, 1).view.page);
    finish(children[1]);
    streams_tend(streams, ACKPAGE_OK, 3);
    ck_assert_uint_eq(streams_pages(streams), 1);
    ck_assert_uint_eq(streams_count(streams), WORKERS + 1);
    page_free(&page);
}
END_TEST

START_TEST(streams_of_a_uid_above_its_limit_are_forgotten_longest_idle_first)
{
    options.max_per_uid = 3;
    remake();
    get(UID + 1, 50, 1);
    for (unsigned n = 1; n <= 3; n++)
        get(UID, n, 1);
    get(UID, 1, 1); /* not idle any more */
    get(UID, 4, 1);
    ck_assert(!view_of(UID, 2).found);
    ck_assert(view_of(UID, 1).found && view_of(UID, 3).found && view_of(UID, 4).found && view_of(UID + 1, 50).found);
    ck_assert_uint_eq(streams_count(streams), 4);
}
END_TEST

START_TEST(streams_above_the_total_are_forgotten_where_most_are)
{
    options.max = 6;
    remake();
    for (unsigned n = 1; n <= 4; n++)
        get(UID, n, 1);
    get(UID + 1, 1, 1);
    get(UID + 2, 1, 1);
    get(UID + 3, 1, 1);
    ck_assert_uint_eq(streams_count(streams), 6);
    ck_assert(!view_of(UID, 1).found);
    ck_assert(view_of(UID + 1, 1).found && view_of(UID + 2, 1).found && view_of(UID + 3, 1).found);
    options.max_per_uid = 1;
    remake();
    for (unsigned n = 1; n <= 10; n++)
        get(UID, n, 1); /* each takes the only place of its uid */
    ck_assert_uint_eq(streams_count(streams), 1);
    ck_assert(view_of(UID, 10).found);
}
END_TEST

START_TEST(stream_forgotten_with_a_promise_is_known_again_and_acknowledged)
{
    options.max_per_uid = 1;
    remake();
    journal_datagram(1, 1, 5);
    journal_for(UID, 2, 1, 1, 2); /* the first is forgotten */
    streams_publish(streams, lsn);
    ck_assert_uint_eq(view_of(UID, 2).view.acked, 1);
    journal_datagram(1, 1, 5); /* sent again for want of an acknowledgement */
    streams_publish(streams, lsn);
    ck_assert_uint_eq(acked(), 4);
}
END_TEST

START_TEST(stream_with_more_holes_than_allowed_is_refused)
{
    struct stream *stream = get(UID, 1, 1);

    /* The numbers below the base are a range themselves. */
    for (uint64_t i = 1; i < RANGESET_MAX; i++)
        ck_assert_int_eq(stream_note(stream, 1 + 2 * i, 2 + 2 * i), 0);
    ck_assert_int_eq(stream_note(stream, 5000, 5001), -E2BIG);
    ck_assert_int_eq(stream_note(stream, 1, 3), 0); /* closes a hole: that helps */
    ck_assert_int_eq(stream_note(stream, 5000, 5001), 0);
    ck_assert_int_eq(stream_note(stream, 6000, 6001), -E2BIG);
    ck_assert_uint_eq(view_of(UID, 1).view.holes, RANGESET_MAX - 1);
    stream = get(UID, 1, 4000); /* a base above all holes mends the stream */
    ck_assert_int_eq(stream_note(stream, 6000, 6001), 0);
}
END_TEST

static enum stream_state state_of(unsigned n)
{
    return view_of(UID, n).view.state;
}

START_TEST(poisoned_stream_is_told_until_it_is_mended)
{
    struct stream *stream = get(UID, 1, 1);

    ck_assert_int_eq(state_of(1), STREAM_OK);
    for (uint64_t i = 1; i < RANGESET_MAX; i++)
        ck_assert_int_eq(stream_note(stream, 1 + 2 * i, 2 + 2 * i), 0);
    ck_assert_int_eq(state_of(1), STREAM_OK); /* its holes are young */
    ck_assert_int_eq(stream_note(stream, 5000, 5001), -E2BIG);
    ck_assert_int_eq(stream_note(stream, 5000, 5001), -E2BIG);
    ck_assert_int_eq(state_of(1), STREAM_POISONED);
    ck_assert_uint_eq(view_of(UID, 1).view.refused, 2);
    stream = get(UID, 1, 4000);
    ck_assert_int_eq(stream_note(stream, 5000, 5001), 0);
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

START_TEST(poisoned_stream_that_is_silent_for_hours_is_told_no_more)
{
    struct stream *stream = get(UID, 1, 1);

    for (uint64_t i = 1; i <= RANGESET_MAX; i++)
        if (stream_note(stream, 1 + 2 * i, 2 + 2 * i) == -E2BIG)
            break;
    ck_assert_int_eq(state_of(1), STREAM_POISONED);
    now_us += INT64_C(2) * 3600 * 1000 * 1000;
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

/* Who sends on and on, but never what is missing. */
START_TEST(stream_whose_hole_stays_is_stalled)
{
    struct streams_trouble trouble;

    journal_datagram(1, 1, 3);
    journal_datagram(1, 5, 6);
    now_us += STALL - 1;
    journal_datagram(1, 6, 7);
    ck_assert_int_eq(state_of(1), STREAM_OK);
    now_us++;
    ck_assert_int_eq(state_of(1), STREAM_STALLED);
    streams_look(streams, now_us, &trouble);
    ck_assert_uint_eq(trouble.count[STREAM_STALLED], 1);
    ck_assert_uint_eq(trouble.example[STREAM_STALLED].received, 2);
    journal_datagram(1, 3, 4); /* progress, but another is missing */
    ck_assert_int_eq(state_of(1), STREAM_OK);
    now_us += STALL;
    ck_assert_int_eq(state_of(1), STREAM_STALLED);
    journal_datagram(1, 4, 5);
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

START_TEST(stream_with_a_hole_is_dead_when_its_worker_is_gone)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    for (unsigned n = 1; n <= 3; n++) {
        journal_for(UID, n, 1, 1, 3);
        stream_set_pid(get(UID, n, 1), n == 3 ? (uint32_t)getpid() : (uint32_t)pid);
    }
    journal_for(UID, 2, 1, 5, 6);
    journal_for(UID, 3, 1, 5, 6);
    now_us += STALL;
    ck_assert_int_eq(state_of(1), STREAM_OK); /* all that it sent is there */
    ck_assert_int_eq(state_of(2), STREAM_DEAD);
    ck_assert_int_eq(state_of(3), STREAM_STALLED);
    journal_for(UID, 2, 1, 3, 5);
    ck_assert_int_eq(state_of(2), STREAM_OK);
}
END_TEST

START_TEST(stream_shut_out_is_told_until_it_gets_through)
{
    struct stream *stream = get(UID, 1, 1);

    ck_assert_int_eq(stream_note(stream, 1, 4), 0);
    ck_assert(stream_has(stream, 1, 4) && stream_has(stream, 2, 3) && !stream_has(stream, 1, 5));
    stream_refuse(stream);
    ck_assert_int_eq(state_of(1), STREAM_REFUSED);
    ck_assert_int_eq(stream_note(stream, 4, 5), 0);
    ck_assert_int_eq(state_of(1), STREAM_OK);
}
END_TEST

/* A thousand streams with a thousand holes each would be 16 MiB; nobody else's streams pay for it. */
START_TEST(holes_of_all_streams_are_bounded)
{
    enum { MANY = 400, KEPT = 131072 / (RANGESET_MAX - 1) };
    struct streams_trouble trouble;
    size_t holes = 0;

    options.max = options.max_per_uid = 1000;
    remake();
    journal_for(UID + 1, 1, 1, 1, 2);
    journal_for(UID + 1, 1, 1, 3, 4);
    for (unsigned n = 1; n <= MANY; n++)
        for (uint64_t i = 1; i < RANGESET_MAX; i++)
            journal_for(UID, n, 1, 1 + 2 * i, 2 + 2 * i);
    for (unsigned n = 1; n <= MANY; n++)
        if (view_of(UID, n).found)
            holes += view_of(UID, n).view.holes;
    ck_assert_uint_le(holes, 131072);
    ck_assert_uint_ge(holes, (KEPT - 1) * (uintmax_t)(RANGESET_MAX - 1));
    ck_assert(view_of(UID, MANY).found); /* the longest idle went first */
    ck_assert_uint_eq(view_of(UID + 1, 1).view.holes, 1);
    streams_look(streams, now_us, &trouble);
    ck_assert_uint_le(trouble.count[STREAM_OK], KEPT + 2);
}
END_TEST

START_TEST(client_names_are_cut_and_clean)
{
    char name[100];

    memset(name, 'n', sizeof(name));
    name[1] = '\xFF';
    name[46] = '\xC3'; /* half of a character where it is cut */
    name[47] = '\xA4';
    stream_set_client(get(UID, 1, 1), name, sizeof(name));
    ck_assert_uint_le(strlen(view_of(UID, 1).view.client), 47);
    ck_assert_mem_eq(view_of(UID, 1).view.client, "n\xEF\xBF\xBDn", 5);
    stream_set_client(get(UID, 1, 1), "", 0);
    ck_assert_str_eq(view_of(UID, 1).view.client, "");
}
END_TEST

START_TEST(view_tells_what_is_received_and_acknowledged)
{
    journal_datagram(1, 1, 4);
    ck_assert_uint_eq(view_of(UID, 1).view.received, 3);
    ck_assert_uint_eq(view_of(UID, 1).view.acked, 0);
    get(UID, 2, TOLL_SEQ_MAX);
    ck_assert_uint_eq(view_of(UID, 2).view.received, TOLL_SEQ_MAX - 1);
    ck_assert_uint_eq(view_of(UID, 2).view.acked, TOLL_SEQ_MAX - 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("streams");
    TCase *tests = tcase_create("streams");

    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, numbers_are_acknowledged_when_the_journal_is_safe_up_to_them);
    tcase_add_test(tests, number_above_a_hole_waits_for_it);
    tcase_add_test(tests, base_closes_holes_below_it);
    tcase_add_test(tests, stream_first_seen_in_its_middle_is_acknowledged_from_its_base);
    tcase_add_test(tests, promise_kept_late_takes_no_acknowledgement_back);
    tcase_add_test(tests, base_that_goes_back_takes_no_acknowledgement_back);
    tcase_add_test(tests, acknowledgements_keep_to_the_model);
    tcase_add_test(tests, page_shows_everything_when_attached);
    tcase_add_test(tests, page_attached_again_replaces_the_old_one);
    tcase_add_test(tests, pages_are_limited_per_uid);
    tcase_add_test(tests, pages_are_limited_in_total_at_the_cost_of_who_has_most);
    tcase_add_test(tests, pages_of_dead_workers_are_dropped);
    tcase_add_test(tests, streams_of_a_uid_above_its_limit_are_forgotten_longest_idle_first);
    tcase_add_test(tests, streams_above_the_total_are_forgotten_where_most_are);
    tcase_add_test(tests, stream_forgotten_with_a_promise_is_known_again_and_acknowledged);
    tcase_add_test(tests, stream_with_more_holes_than_allowed_is_refused);
    tcase_add_test(tests, poisoned_stream_is_told_until_it_is_mended);
    tcase_add_test(tests, poisoned_stream_that_is_silent_for_hours_is_told_no_more);
    tcase_add_test(tests, stream_whose_hole_stays_is_stalled);
    tcase_add_test(tests, stream_with_a_hole_is_dead_when_its_worker_is_gone);
    tcase_add_test(tests, stream_shut_out_is_told_until_it_gets_through);
    tcase_add_test(tests, holes_of_all_streams_are_bounded);
    tcase_add_test(tests, client_names_are_cut_and_clean);
    tcase_add_test(tests, view_tells_what_is_received_and_acknowledged);
    suite_add_tcase(suite, tests);
    return suite_run(suite);
}
