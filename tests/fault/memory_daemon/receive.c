/* Datagrams from a socket to a sink, through the daemon's own receive loop, journal and writer, each turned by hand. What has no memory is
 * tried again as the daemon does it: the loop reads again, the writer pauses (time is passed in), a worker attaches its page again. */
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/clock.h"
#include "daemon/intake.h"
#include "daemon/sink_log.h"
#include "tests/support/onewriter.h"
#include "tests/fault/memory_daemon/directory.h"
#include "tests/fault/memory_daemon/quiet_sink.h"
#include "tests/fault/memory_daemon/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOUR_US (INT64_C(3600) * 1000000)

enum { PAGE_BYTES = 4096, TURNS = 20000, WAIT_US = 20 };

struct world {
    struct outcome *outcome;
    struct workload load;
    struct directory directory;
    struct journal_io io;
    struct journal_options journal_options;
    struct streams_options streams_options;
    struct writer_options writer_options;
    int sockets[2]; /* the daemon's and the workers' */
    uint8_t *pages[STREAMS_MAX];
    int page_fds[STREAMS_MAX];
    struct fake_db db;
    int64_t ahead_us; /* of the real clock */

    /* The daemon. */
    bool up;
    uv_loop_t loop;
    struct journal *journal;
    struct fake_sink fake;
    struct sink *log;
    int log_fd; /* -1: the fake sink */
    struct metrics metrics;
    struct intake *intake;
    struct writer_core *writer;
    struct writer_wishes wishes;
    struct writer_status status;
};

static const char *refuse_bad(const struct sink_row *row)
{
    const struct toll_str *tag = &row->frame->request_id;

    return tag->len == 3 && memcmp(tag->ptr, "bad", 3) == 0 ? "22P02" : NULL;
}

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

static void start(struct world *w)
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

/* Without a word, as SIGKILL does: what was not given to the kernel is gone. */
static void die(struct world *w)
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

/* One turn of everything. With nothing to do the clocks go on to where there is. */
static void turn(struct world *w)
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

static void settle(struct world *w)
{
    for (int turns = 0; turns < TURNS; turns++) {
        turn(w);
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
        turn(w);
    }
    complain(w->outcome, "the socket stays full");
}

static void send_range(struct world *w, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        const struct sent *sent = &w->load.sent[i];
        bool first = sent->stream < STREAMS_MAX && !w->pages[sent->stream];

        if (first)
            make_page(w, sent->stream);
        send_bytes(w, sent->data, sent->size, first ? w->page_fds[sent->stream] : -1);
        if (i % 3 == 2)
            turn(w);
    }
}

/* A page that shows no progress is attached again, and then what it does not acknowledge is sent again. */
static void await_acks(struct world *w)
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
            settle(w);
        }
        if (acked(w, stream) != w->load.last[stream]) {
            complain(w->outcome, "stream %u is acknowledged up to %u of %u", stream, (unsigned)acked(w, stream),
                     w->load.last[stream]);
        }
    }
}

/* --- the oracle ---------------------------------------------------------------------------------------------------------------- */

/* How often a number is in the database as a row or in quarantine. */
static unsigned found(const struct world *w, unsigned stream, uint64_t seq, enum fate fate)
{
    unsigned count = 0;
    uint8_t id[16];

    id_of(id, stream);
    for (size_t i = 0; fate == ROW && i < w->db.now.row_count; i++)
        count += w->db.rows[i].seq == seq && memcmp(w->db.rows[i].stream_id, id, 16) == 0;
    for (size_t i = 0; fate == REFUSED && i < w->db.now.refused_count; i++)
        count += w->db.refused[i].seq == seq && memcmp(w->db.refused[i].stream_id, id, 16) == 0;
    return count;
}

static void expect(struct world *w, uint64_t is, uint64_t should, const char *what, unsigned number)
{
    if (is == should)
        return;
    fprintf(stderr, "  %s %u: %u instead of %u\n", what, number, (unsigned)is, (unsigned)should);
    w->outcome->lost += is < should;
    w->outcome->duplicated += is > should;
}

static void check_numbers(struct world *w)
{
    const struct workload *load = &w->load;
    size_t rows = load->plain, refused = 0;

    for (unsigned stream = 0; stream < load->streams; stream++)
        for (unsigned seq = 1; seq <= load->last[stream]; seq++) {
            enum fate fate = load->fate[stream][seq];

            rows += fate == ROW;
            refused += fate == REFUSED;
            expect(w, found(w, stream, seq, ROW), fate == ROW, "rows of a number", seq);
            expect(w, found(w, stream, seq, REFUSED), fate == REFUSED, "refusals of a number", seq);
        }
    expect(w, w->db.now.row_count, rows, "rows of", 0);
    expect(w, w->db.now.refused_count, refused, "refused of", 0);
}

static void check_sessions(struct world *w)
{
    const char *wrong = fake_db_check(&w->db);

    if (*wrong) {
        fprintf(stderr, "  %s\n", wrong);
        w->outcome->wrong_totals++;
    }
    for (unsigned n = 0; n < w->load.sessions; n++) {
        const struct fake_session *session;
        uint8_t id[16];

        id_of(id, n);
        session = fake_db_session(&w->db, id);
        expect(w, session ? session->starts : 0, w->load.starts[n], "starts of session", n);
        expect(w, session ? session->ends : 0, w->load.ends[n], "ends of session", n);
        if (!session || !session->ended || strcmp(session->finish_reason, w->load.ends[n] ? "stop" : "orphaned") != 0)
            complain(w->outcome, "session %u ended as \"%s\"", n, session ? session->finish_reason : "nothing");
    }
}

static void check_streams(struct world *w)
{
    for (unsigned n = 0; n < w->load.streams; n++) {
        const struct fake_stream *stream;
        uint8_t id[16];

        id_of(id, n);
        stream = fake_db_stream(&w->db, getuid(), id, 0);
        if (!stream || !stream->seen.count || rangeset_first_missing(&stream->seen, 1) != w->load.last[n] + 1)
            complain(w->outcome, "what is seen of stream %u is not what was sent", n);
    }
}

/* Idle for hours, as time is passed in. */
static void await_orphans(struct world *w)
{
    for (int hours = 0; hours < TRIES; hours++) {
        size_t live = 0;

        for (size_t i = 0; i < w->db.now.session_count; i++)
            live += !w->db.now.sessions[i].ended;
        if (live == 0)
            return;
        for (int turns = 0; turns < 4; turns++)
            turn(w);
        w->ahead_us += HOUR_US / 2;
    }
    complain(w->outcome, "sessions that are idle never end");
}

/* --- the stories --------------------------------------------------------------------------------------------------------------- */

static struct world *world_new(struct outcome *outcome, unsigned streams, unsigned sessions, bool poison)
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

static void world_free(struct world *w)
{
    die(w);
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

/* All was sent: then all must be there. */
static void finish(struct world *w)
{
    settle(w);
    await_acks(w);
    await_orphans(w);
    failing_quiet++;
    check_numbers(w);
    check_sessions(w);
    check_streams(w);
    failing_quiet--;
    world_free(w);
}

void stored_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, false);

    start(w);
    send_range(w, 0, w->load.count);
    finish(w);
}

void refused_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, true);

    start(w);
    send_range(w, 0, w->load.count);
    finish(w);
}

void evicted_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, STREAMS_MAX, 40, false);

    w->streams_options.max_per_uid = 5;
    w->streams_options.pages_max = 3;
    w->writer_options.apply.sessions_max = 6;
    w->writer_options.apply.streams_max = 4;
    start(w);
    send_range(w, 0, w->load.count);
    finish(w);
}

void taken_back_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, false);
    struct fake_state older;

    start(w);
    send_range(w, 0, w->load.count / 3);
    settle(w);
    failing_quiet++;
    older = fake_state_copy(&w->db.now);
    failing_quiet--;
    send_range(w, w->load.count / 3, 2 * w->load.count / 3);
    settle(w);
    failing_quiet++;
    fake_db_restore(&w->db, &older);
    failing_quiet--;
    send_range(w, 2 * w->load.count / 3, w->load.count);
    finish(w);
}

/* Workers send again what is not acknowledged; frames without an envelope are theirs to lose, so this one has none. */
void killed_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, false);
    unsigned next = 0, count = 0;

    for (unsigned i = 0; i < w->load.count; i++)
        if (w->load.sent[i].stream < STREAMS_MAX)
            w->load.sent[count++] = w->load.sent[i];
        else
            free(w->load.sent[i].data);
    w->load.count = count;
    w->load.plain = 0;
    start(w);
    while (next < count && failing.failed == 0) {
        send_range(w, next, next + 1);
        next++;
    }
    die(w);
    w->streams_options.epoch++;
    start(w);
    send_range(w, 0, count);
    finish(w);
}

static unsigned occurrences(const char *text, const char *of)
{
    unsigned count = 0;

    for (const char *at = text; (at = strstr(at, of)); at++)
        count++;
    return count;
}

/* The log sink keeps nothing of streams, so nothing is sent twice; nor of sessions, whose totals are those of the rows since it last forgot. */
void logged_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, false);
    char path[64], *text = NULL, tag[64];
    unsigned rows = 0, refused = 0;
    struct stat status;

    failing_quiet++;
    workload_done(&w->load);
    w->load = (struct workload){.streams = 3, .sessions = 8};
    workload_begin(&w->load, clock_realtime_us());
    workload_fill(&w->load, 45, clock_realtime_us());
    snprintf(path, sizeof(path), "%s/log", w->directory.path);
    w->log_fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    failing_quiet--;
    start(w);
    send_range(w, 0, w->load.count);
    settle(w);
    await_acks(w);
    failing_quiet++;
    if (fstat(w->log_fd, &status) < 0 || !(text = calloc(1, (size_t)status.st_size + 1)) ||
        pread(w->log_fd, text, (size_t)status.st_size, 0) != status.st_size)
        abort();
    for (unsigned stream = 0; stream < w->load.streams; stream++)
        for (unsigned seq = 1; seq <= w->load.last[stream]; seq++) {
            rows += w->load.fate[stream][seq] == ROW;
            refused += w->load.fate[stream][seq] == REFUSED;
            snprintf(tag, sizeof(tag), "\"%u-%u\"", stream, seq);
            if (occurrences(text, tag) > 1)
                expect(w, occurrences(text, tag), 1, "lines of a number", seq);
        }
    for (unsigned n = 0; n < w->load.plain; n++) {
        snprintf(tag, sizeof(tag), "\"request_id\":\"plain%u\"", n);
        expect(w, occurrences(text, tag), 1, "lines of a frame without a number", n);
    }
    expect(w, occurrences(text, "\"type\":\"quarantine\""), refused, "lines of quarantine", 0);
    expect(w, occurrences(text, "\"type\":\"session_start\""), w->load.sessions, "lines of starts", 0);
    expect(w, occurrences(text, "\n"), rows + w->load.plain + refused + w->load.sessions, "lines", 0);
    free(text);
    failing_quiet--;
    close(w->log_fd);
    world_free(w);
}
