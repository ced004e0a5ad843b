/* See world.h. */
#include "tests/fault/memory_daemon/world.h"

#include "daemon/clock.h"
#include "daemon/sink_log.h"
#include "tests/fault/memory_daemon/scenarios.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, TURNS = 20000, WAIT_US = 20 };

/* --- the daemon, up and down --------------------------------------------------------------------------------------------------- */

static atomic_bool no_more_writes; /* the daemon is being killed */

static ssize_t write_or_die(void *context, int fd, const void *buf, size_t size, off_t offset)
{
    return no_more_writes ? -EIO : journal_io_system.pwrite(context, fd, buf, size, offset);
}

static void on_durable(void *context)
{
    (void)context;
}

static void on_broken(void *context, int error)
{
    struct world *w = context;

    if (!no_more_writes)
        complain(w->outcome, "the journal was given up: %s", strerror(-error));
}

static void on_report(void *context, const struct writer_status *status)
{
    struct world *w = context;

    w->status = *status;
    if (status->state == WRITER_STOPPED && !w->fake.db->poison)
        complain(w->outcome, "the writer asks for help: %s", status->error);
}

static int save_watermark(void *context, const void *data, size_t size)
{
    return journal_state_write(((struct world *)context)->journal, "log_watermark", data, size);
}

static long load_watermark(void *context, void *data, size_t cap)
{
    return journal_state_read(((struct world *)context)->journal, "log_watermark", data, cap);
}

static struct writer_time now_of(const struct world *w)
{
    return (struct writer_time){clock_monotonic_us() + w->ahead_us, clock_realtime_us() + w->ahead_us};
}

/* Tries until there is memory: the real one exits with a message, and is started again. */
#define START(w, what, call)                                                                                           \
    do {                                                                                                               \
        int r_ = -ENOMEM;                                                                                              \
                                                                                                                       \
        for (int tries_ = 0; (r_ == -ENOMEM || r_ == -EAGAIN) && tries_ < TRIES; tries_++)                             \
            r_ = (call);                                                                                               \
        if (r_ < 0) {                                                                                                  \
            complain((w)->outcome, what ": %s", strerror(-r_));                                                        \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static int start_log(struct world *w)
{
    const struct sink_log_options options = {
        .fd = w->log_fd, .save = save_watermark, .load = load_watermark, .context = w};

    w->log = sink_log_new(&options);
    return w->log ? 0 : -ENOMEM;
}

static int start_writer(struct world *w)
{
    struct sink *sink = w->log_fd >= 0 ? w->log : &w->fake.sink;

    w->writer_options.counted_lsn = journal_end_lsn(w->journal);
    w->writer = writer_core_new(&w->writer_options, w->journal, sink, &w->metrics, now_of(w), on_report, w);
    return w->writer ? 0 : -ENOMEM;
}

void world_start(struct world *w)
{
    const struct intake_options options = {
        .streams = w->streams_options, .durable = on_durable, .broken = on_broken, .context = w};

    START(w, "opening the journal", journal_open(&w->journal, &w->journal_options, NULL));
    quiet_sink_init(&w->fake, &w->db);
    if (w->log_fd >= 0)
        START(w, "making the log sink", start_log(w));
    if (uv_loop_init(&w->loop) < 0)
        abort();
    START(w, "starting the receive loop",
          intake_new(&w->intake, &options, &w->loop, w->sockets[0], w->journal, &w->metrics));
    START(w, "starting the writer", start_writer(w));
    w->wishes = (struct writer_wishes){.stopping = false};
    one_writer_muster(&w->wishes);
    w->up = true;
}

static void close_handle(uv_handle_t *handle, void *context)
{
    (void)context;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void on_stopped(void *context)
{
    ((struct world *)context)->up = false;
}

void world_die(struct world *w)
{
    no_more_writes = true;
    intake_stop(w->intake, on_stopped);
    while (w->up)
        uv_run(&w->loop, UV_RUN_NOWAIT);
    uv_walk(&w->loop, close_handle, NULL);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&w->loop) < 0)
        complain(w->outcome, "a handle is left open");
    writer_core_free(w->writer);
    intake_free(w->intake);
    if (w->log)
        w->log->ops->free(w->log);
    quiet_abort(&w->fake.sink);
    journal_close(w->journal);
    w->log = NULL;
    no_more_writes = false;
}

/* --- turning ------------------------------------------------------------------------------------------------------------------- */

void world_turn(struct world *w)
{
    enum writer_next next;
    int64_t until_us;

    intake_sync(w->intake);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    next = writer_look(w->writer, &w->wishes, now_of(w).monotonic_us, &until_us);
    if (next != WRITER_WAIT)
        writer_do(w->writer, next, now_of(w));
    else if (until_us > now_of(w).monotonic_us && w->ahead_us < 1000 * HOUR_US)
        w->ahead_us += until_us - now_of(w).monotonic_us;
    if (one_writer_renews(&w->wishes, &w->status))
        complain(w->outcome, "the journal is to be renewed");
    if (w->status.state == WRITER_OK)
        intake_set_committed(w->intake, w->status.committed_lsn);
}

static bool is_settled(const struct world *w)
{
    uint64_t durable = journal_durable_lsn(w->journal);

    return listener_peek(w->sockets[0]) < 0 && !intake_paused(w->intake) && durable == journal_end_lsn(w->journal) &&
           w->status.state == WRITER_OK && w->status.applied_lsn == durable;
}

void world_settle(struct world *w)
{
    for (int turns = 0; turns < TURNS; turns++) {
        world_turn(w);
        if (is_settled(w))
            return;
        usleep(WAIT_US); /* the sync is another thread's */
    }
    complain(w->outcome, "it never settles: %s", w->status.error);
}

/* --- the workers --------------------------------------------------------------------------------------------------------------- */

static void make_page(struct world *w, unsigned stream)
{
    int fd = memfd_create("page", MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, PAGE_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        abort();
    w->page_fds[stream] = fd;
    failing_quiet++;
    w->pages[stream] = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    failing_quiet--;
    if (w->pages[stream] == MAP_FAILED)
        abort();
}

static uint64_t acked(const struct world *w, unsigned stream)
{
    const struct {
        uint32_t magic, version;
        uint64_t epoch, acked;
    } *page = (const void *)w->pages[stream];

    return page->magic == 0x4C4C4F54 ? page->acked : 0;
}

static void send_bytes(struct world *w, const void *data, size_t size, int attach_fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (attach_fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.bytes);
        control.header =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &attach_fd, sizeof(attach_fd));
    }
    for (int tries = 0; tries < TURNS; tries++) {
        if (sendmsg(w->sockets[1], &message, MSG_DONTWAIT) == (ssize_t)size)
            return;
        world_turn(w);
    }
    complain(w->outcome, "the socket stays full");
}

void world_send(struct world *w, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        const struct sent *sent = &w->load.sent[i];
        bool first = sent->stream < STREAMS_MAX && !w->pages[sent->stream];

        if (first)
            make_page(w, sent->stream);
        send_bytes(w, sent->data, sent->size, first ? w->page_fds[sent->stream] : -1);
        if (i % 3 == 2)
            world_turn(w);
    }
}

void world_await_acks(struct world *w)
{
    static struct bytes bytes;

    for (unsigned stream = 0; stream < w->load.streams; stream++) {
        for (int tries = 0; acked(w, stream) < w->load.last[stream] && tries < TRIES; tries++) {
            bytes.size = 0;
            add_envelope(&bytes, stream, w->load.last[stream] + 1, 1, 0);
            send_bytes(w, bytes.data, bytes.size, w->page_fds[stream]);
            for (unsigned i = 0; tries > 1 && i < w->load.count; i++)
                if (w->load.sent[i].stream == stream)
                    send_bytes(w, w->load.sent[i].data, w->load.sent[i].size, -1);
            world_settle(w);
        }
        if (acked(w, stream) != w->load.last[stream]) {
            complain(w->outcome, "stream %u is acknowledged up to %u of %u", stream, (unsigned)acked(w, stream),
                     w->load.last[stream]);
        }
    }
}

/* --- its beginning and end ----------------------------------------------------------------------------------------------------- */

static const char *refuse_bad(const struct sink_row *row)
{
    const struct toll_str *tag = &row->frame->request_id;

    return tag->len == 3 && memcmp(tag->ptr, "bad", 3) == 0 ? "22P02" : NULL;
}

struct world *world_new(struct outcome *outcome, unsigned streams, unsigned sessions, bool poison)
{
    struct world *w;
    int64_t now_us = clock_realtime_us();

    failing_quiet++;
    w = calloc(1, sizeof(*w));
    if (!w || socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, w->sockets) < 0 || listener_prepare(w->sockets[0]) < 0)
        abort();
    w->outcome = outcome;
    w->directory = directory_make();
    w->io = directory_io();
    w->io.pwrite = write_or_die;
    w->log_fd = -1;
    w->journal_options = (struct journal_options){
        .state_dir = w->directory.path, .segment_bytes = 65536, .retention_us = 24 * HOUR_US, .io = &w->io};
    w->streams_options = (struct streams_options){
        .max = 1000, .max_per_uid = 1000, .pages_max = 100, .pages_max_per_uid = 100, .epoch = 1};
    w->writer_options = (struct writer_options){.apply = {.batch_rows = 40,
                                                          .batch_bytes = 65536,
                                                          .idle_timeout_us = HOUR_US,
                                                          .future_tolerance_us = 24 * HOUR_US,
                                                          .past_tolerance_us = 10000 * HOUR_US,
                                                          .sessions_max = 1000,
                                                          .streams_max = 1000,
                                                          .quarantine_rows = 1000},
                                                .batch_age_us = 1000,
                                                .retry_max_us = 1000000,
                                                .host = "test"};
    w->load = (struct workload){.streams = streams, .sessions = sessions, .poison = poison, .resends = true};
    workload_begin(&w->load, now_us);
    workload_fill(&w->load, 45, now_us + 1000);
    workload_scatter(&w->load, 0, 20, now_us + 2000);
    workload_end(&w->load, now_us + 3000);
    if (poison)
        w->db.poison = refuse_bad;
    failing_quiet--;
    return w;
}

void world_free(struct world *w)
{
    world_die(w);
    failing_quiet++;
    for (unsigned stream = 0; stream < STREAMS_MAX; stream++)
        if (w->pages[stream]) {
            munmap(w->pages[stream], PAGE_BYTES);
            close(w->page_fds[stream]);
        }
    close(w->sockets[0]);
    close(w->sockets[1]);
    directory_remove(&w->directory);
    workload_done(&w->load);
    fake_db_done(&w->db);
    free(w);
    failing_quiet--;
}
