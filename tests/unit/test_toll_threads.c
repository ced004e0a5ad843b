/* Tests of libtoll used by several threads at once, against a daemon thread that acknowledges, pauses and
 * restarts. Most telling under ThreadSanitizer. */
#include "tests/unit/fake_daemon.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { THREADS = 4, RECORDS = 3000 };

static struct fake_daemon daemon_;
static struct fake_daemon *d = &daemon_;
static struct toll *t;
static atomic_bool stop;
static uint64_t seen_once[THREADS * RECORDS + 8], highest;
static uint64_t times_told; /* frames the gap frames tell of */

/* Notes each number's first arrival, acknowledges, and now and then does what real daemons do. check's asserts are
 * not for threads, so what is wrong shows in the sums. */
static void *daemon_main(void *arg)
{
    (void)arg;
    uint64_t epoch = 1;
    for (unsigned reads = 1; !atomic_load(&stop); reads++) {
        if (!fake_daemon_read(d)) {
            sched_yield();
            continue;
        }
        if (reads % 61 == 0)
            continue; /* lost: read, and never made durable */
        for (uint32_t i = 0; i < d->frames; i++) {
            uint64_t seq = d->frame[i].seq;
            if (seq < sizeof seen_once / sizeof seen_once[0] && seen_once[seq]++ == 0 &&
                d->frame[i].type == TOLL_FRAME_GAP)
                times_told += d->frame[i].gap_count;
        }
        while (highest + 1 < sizeof seen_once / sizeof seen_once[0] && seen_once[highest + 1])
            highest++;
        if (reads % 500 == 0)
            epoch++;
        fake_ack(d, epoch, highest);
        fake_store64(d, 48, 0);
        fake_state(d, reads % 100 < 5 ? 1 : 0);
    }
    return NULL;
}

static void *recorder_main(void *arg)
{
    uint64_t *accepted = arg;
    unsigned char call[16];
    char text[1800];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    if (toll_id_random(call) < 0)
        return NULL;
    int r = toll_session_start(t, call, NULL);
    *accepted += r == 0;
    for (int i = 0; i < RECORDS - 1; i++) {
        struct toll_snapshot snapshot;
        if (i % 50 == 7) /* too large for the stack: encoded in a buffer that all share */
            r = toll_transcript(t, call, &(struct toll_turn){.role = "user", .text = text});
        else
            r = toll_llm(t, call, &(struct toll_llm_usage){.provider = "p", .model = "m", .output_tokens = 1});
        *accepted += r == 0;
        if (i % 64 == 0)
            (void)!toll_snapshot(t, call, &snapshot);
        if (i % 100 == 0)
            toll_tick(t);
        if (i % 1000 == 999)
            (void)!toll_flush(t, 1);
    }
    return NULL;
}

static void run(size_t ring_bytes)
{
    pthread_t daemon, recorder[THREADS];
    uint64_t accepted[THREADS] = {0}, sum = 0;
    fake_daemon_start(d);
    ck_assert_int_eq(toll_open(&(struct toll_options){.socket = d->path, .ring_bytes = ring_bytes}, &t), 0);
    ck_assert_int_eq(pthread_create(&daemon, NULL, daemon_main, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&recorder[i], NULL, recorder_main, &accepted[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(recorder[i], NULL);
        sum += accepted[i];
    }
    ck_assert_int_eq(toll_flush(t, 20000), 0);
    atomic_store(&stop, true);
    pthread_join(daemon, NULL);

    struct toll_stats stats = fake_stats(t);
    ck_assert_uint_eq(stats.recorded, sum);
    ck_assert_uint_eq(stats.acked, sum);
    ck_assert_uint_eq(stats.recorded + stats.refused_full, (uint64_t)THREADS * RECORDS);
    ck_assert_uint_eq(stats.outstanding, 0);
    ck_assert_uint_eq(highest, stats.recorded + stats.gaps); /* every number arrived, none beyond */
    ck_assert_uint_eq(times_told, stats.refused_full);       /* and every refusal was told of */
    ck_assert_int_eq(toll_close(t, 0), 0);
    fake_daemon_stop(d);
}

START_TEST(threads_lose_nothing)
{
    run(4 << 20);
    ck_assert_uint_eq(times_told, 0);
}
END_TEST

START_TEST(threads_with_a_small_ring_account_for_everything)
{
    run(4096);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("toll_threads");
    TCase *tcase = tcase_create("threads");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, threads_lose_nothing);
    tcase_add_test(tcase, threads_with_a_small_ring_account_for_everything);
    suite_add_tcase(suite, tcase);
    return fake_run(suite);
}
