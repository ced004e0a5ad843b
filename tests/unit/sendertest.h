/* What the tests of client/sender share: a worker on a fake daemon, with a fake clock. */
#ifndef TOLL_TESTS_SENDERTEST_H
#define TOLL_TESTS_SENDERTEST_H

#include <stdio.h>

#include "tests/unit/fake_daemon.h"

static struct fake_daemon daemon_;
static struct fake_daemon *d = &daemon_;
static struct toll *t;

/* A ring that still has room when the socket is full: where the kernel's queue is longer, a larger one. */
static inline uint32_t ring_beyond_the_queue(void)
{
    FILE *file = fopen("/proc/sys/net/unix/max_dgram_qlen", "re");
    unsigned length = 0;
    uint32_t bytes = 16384;

    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fscanf(file, "%u", &length), 1);
    (void)fclose(file);
    while (bytes < 256 * length && bytes < 1 << 24)
        bytes *= 2;
    return bytes;
}

static inline void setup(void)
{
    fake_daemon_start(d);
    t = fake_open(d, &(struct toll_options){.client = "tester", .ring_bytes = ring_beyond_the_queue()});
}

static inline void teardown(void)
{
    toll_close(t, 0);
    fake_daemon_stop(d);
}

static inline void read_one(uint32_t frames)
{
    ck_assert(fake_daemon_read(d));
    ck_assert_uint_eq(d->frames, frames);
}

static inline void read_none(void)
{
    ck_assert(!fake_daemon_read(d));
}

/* Records until the socket is full; returns how many frames were recorded. */
static inline uint32_t fill_socket(void)
{
    uint32_t n = 0;
    while (fake_stats(t).blocked == 0 && n < 100000) {
        ck_assert_int_eq(fake_record(t, NULL), 0);
        n++;
    }
    ck_assert_uint_lt(n, 100000);
    return n;
}

/* Fills the socket of a daemon that is alive; the last frame recorded was not sent. Returns the number of frames before it. */
static inline uint64_t fill_socket_of_the_living(void)
{
    fake_record(t, NULL);
    read_one(1);
    fake_ack(d, 7, 1);
    fake_heartbeat(d, t);
    return fill_socket();
}

/* Records until the ring refuses one; returns how many it took. */
static inline uint32_t fill_ring(void)
{
    uint32_t n = 0;
    while (fake_record(t, NULL) == 0 && n < 100000)
        n++;
    ck_assert_uint_lt(n, 100000);
    return n;
}

#endif
