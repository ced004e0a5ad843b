/* A daemon for libtoll's tests, inside the test's own process: binds a socket, reads datagrams when told to,
 * decodes them with the daemon's decoder, and writes the ack page as the test wishes. It promises nothing by
 * itself. */
#ifndef TOLL_TESTS_FAKE_DAEMON_H
#define TOLL_TESTS_FAKE_DAEMON_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client/handle.h"
#include "client/toll.h"
#include "proto/frame.h"
#include "proto/walk.h"

enum { FAKE_FRAMES_MAX = 1024 };

/* One frame as it arrived; strings are cut to fit. */
struct fake_frame {
    enum toll_frame_type type;
    uint64_t seq, gap_count;
    int64_t time_us;
    uint8_t session_id[16];
    char request_id[64], text[64];
};

struct fake_daemon {
    char dir[64], path[96];
    int fd;
    struct toll_decoder *decoder;
    uint8_t *page; /* the ack page attached last */
    int pages;     /* how often one was attached */
    int page_seals;
    off_t page_bytes;

    /* the datagram read last */
    struct toll_frame envelope;
    uint8_t stream_id[16];
    char client[64];
    bool attached;
    size_t bytes;
    uint32_t frames;
    struct fake_frame frame[FAKE_FRAMES_MAX];
};

/* Time as the library sees it, where a test sets handle->sender.clock_us to fake_clock. */
static uint64_t fake_now_us;

static inline uint64_t fake_clock(void)
{
    return __atomic_load_n(&fake_now_us, __ATOMIC_RELAXED);
}

static inline void fake_advance_ms(uint64_t ms)
{
    __atomic_fetch_add(&fake_now_us, ms * 1000, __ATOMIC_RELAXED);
}

static inline void fake_daemon_bind(struct fake_daemon *d)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ck_assert_uint_lt(strlen(d->path), sizeof address.sun_path);
    memcpy(address.sun_path, d->path, strlen(d->path));
    d->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ck_assert_int_ge(d->fd, 0);
    ck_assert_int_eq(bind(d->fd, (struct sockaddr *)&address, sizeof address), 0);
}

/* Only the directory and the path: no socket is there yet. */
static inline void fake_daemon_init(struct fake_daemon *d)
{
    memset(d, 0, sizeof *d);
    d->fd = -1;
    strcpy(d->dir, "/tmp/toll-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(d->dir));
    strcat(strcpy(d->path, d->dir), "/toll.sock");
    d->decoder = toll_decoder_new();
    ck_assert_ptr_nonnull(d->decoder);
}

static inline void fake_daemon_start(struct fake_daemon *d)
{
    fake_daemon_init(d);
    fake_daemon_bind(d);
}

/* The socket goes away, file and all, as when a daemon without socket activation stops. */
static inline void fake_daemon_unbind(struct fake_daemon *d)
{
    close(d->fd);
    d->fd = -1;
    unlink(d->path);
}

static inline void fake_daemon_stop(struct fake_daemon *d)
{
    if (d->fd >= 0)
        fake_daemon_unbind(d);
    if (d->page)
        munmap(d->page, 4096);
    toll_decoder_free(d->decoder);
    rmdir(d->dir);
}

static inline void fake_take_page(struct fake_daemon *d, struct msghdr *msg)
{
    d->attached = false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        ck_assert_int_eq(c->cmsg_level, SOL_SOCKET);
        ck_assert_int_eq(c->cmsg_type, SCM_RIGHTS);
        ck_assert_uint_eq(c->cmsg_len, CMSG_LEN(sizeof(int)));
        int fd;
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
        struct stat st;
        ck_assert_int_eq(fstat(fd, &st), 0);
        d->page_bytes = st.st_size;
        d->page_seals = fcntl(fd, F_GET_SEALS);
        if (d->page)
            munmap(d->page, 4096);
        d->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        ck_assert_ptr_ne(d->page, MAP_FAILED);
        close(fd);
        d->pages++;
        d->attached = true;
    }
}

static inline void fake_copy(char *out, size_t cap, struct toll_str string)
{
    size_t size = string.len < cap ? string.len : cap - 1;
    if (string.ptr)
        memcpy(out, string.ptr, size);
    out[string.ptr ? size : 0] = '\0';
}

/* Reads one datagram and checks that a real daemon would accept every byte of it. False: none is there. */
static inline bool fake_daemon_read(struct fake_daemon *d)
{
    static uint8_t buf[TOLL_DATAGRAM_MAX + 1];
    union {
        struct cmsghdr header;
        char bytes[256];
    } control;
    struct iovec iov = {buf, sizeof buf};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(d->fd, &msg, MSG_CMSG_CLOEXEC);
    if (n < 0) {
        ck_assert_int_eq(errno, EAGAIN);
        return false;
    }
    ck_assert_int_eq(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC), 0);
    ck_assert_int_le(n, TOLL_DATAGRAM_MAX);
    fake_take_page(d, &msg);

    const void *bytes;
    size_t pos = 0, size;
    char reason[TOLL_REASON_MAX] = "";
    ck_assert_int_eq(toll_walk_next(buf, (size_t)n, &pos, &bytes, &size), 1);
    ck_assert_msg(toll_envelope_decode(bytes, size, &d->envelope, reason) == 0, "%s", reason);
    memcpy(d->stream_id, d->envelope.stream_id, 16);
    fake_copy(d->client, sizeof d->client, d->envelope.client);
    d->envelope.client.ptr = NULL;
    d->bytes = (size_t)n;
    d->frames = 0;
    while (pos < (size_t)n) {
        struct toll_frame f;
        ck_assert_uint_lt(d->frames, FAKE_FRAMES_MAX);
        ck_assert_int_eq(toll_walk_next(buf, (size_t)n, &pos, &bytes, &size), 1);
        ck_assert_msg(toll_frame_decode(d->decoder, bytes, size, &f, reason) == 0, "%s", reason);
        struct fake_frame *out = &d->frame[d->frames];
        *out = (struct fake_frame){
            .type = f.type, .seq = d->envelope.stream_seq + d->frames, .gap_count = f.gap_count, .time_us = f.time_us};
        memcpy(out->session_id, f.session_id, 16);
        fake_copy(out->request_id, sizeof out->request_id, f.request_id);
        fake_copy(out->text, sizeof out->text, f.text);
        d->frames++;
    }
    ck_assert_uint_eq(d->frames, d->envelope.stream_count);
    return true;
}

static inline void fake_store32(struct fake_daemon *d, size_t at, uint32_t value)
{
    ck_assert_ptr_nonnull(d->page);
    __atomic_store_n((uint32_t *)(void *)(d->page + at), value, __ATOMIC_RELEASE);
}

static inline void fake_store64(struct fake_daemon *d, size_t at, uint64_t value)
{
    ck_assert_ptr_nonnull(d->page);
    __atomic_store_n((uint64_t *)(void *)(d->page + at), value, __ATOMIC_RELEASE);
}

static inline void fake_state(struct fake_daemon *d, uint32_t state)
{
    fake_store32(d, 24, state);
}

/* The heartbeat in the library's own time: the fake clock's or the real one's. */
static inline void fake_heartbeat(struct fake_daemon *d, const struct toll *t)
{
    fake_store64(d, 48, t->sender.clock_us() / 1000);
}

static inline void fake_ack(struct fake_daemon *d, uint64_t epoch, uint64_t acked)
{
    fake_store32(d, 0, 0x4C4C4F54);
    fake_store32(d, 4, 1);
    fake_store64(d, 16, acked);
    fake_store64(d, 8, epoch);
}

/* Reads until nothing is left; returns how many frames came, and checks that each number is at most one above the
 * highest seen. */
static inline uint64_t fake_daemon_drain(struct fake_daemon *d, uint64_t *highest)
{
    uint64_t frames = 0;
    while (fake_daemon_read(d)) {
        for (uint32_t i = 0; i < d->frames; i++) {
            ck_assert_uint_le(d->frame[i].seq, *highest + 1);
            if (d->frame[i].seq > *highest)
                *highest = d->frame[i].seq;
        }
        frames += d->frames;
    }
    return frames;
}

static inline struct toll *fake_open(struct fake_daemon *d, const struct toll_options *options)
{
    struct toll_options o = options ? *options : (struct toll_options){0};
    struct toll *t;
    o.socket = d->path;
    ck_assert_int_eq(toll_open(&o, &t), 0);
    if (fake_now_us == 0)
        fake_now_us = t->sender.clock_us(); /* by which opening has set its timers */
    t->sender.clock_us = fake_clock;
    return t;
}

static const unsigned char fake_call[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

/* Records one llm frame of about 150 bytes. */
static inline int fake_record(struct toll *t, const char *request_id)
{
    return toll_llm(
        t, fake_call,
        &(struct toll_llm_usage){
            .provider = "openai", .model = "gpt-4o", .input_tokens = 10, .output_tokens = 2, .request_id = request_id});
}

static inline struct toll_stats fake_stats(struct toll *t)
{
    struct toll_stats stats;
    ck_assert_int_eq(toll_stats(t, &stats), 0);
    return stats;
}

static inline int fake_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
