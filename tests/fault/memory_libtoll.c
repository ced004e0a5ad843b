/* Memory exhausted, in a worker: libtoll takes memory when it is opened and in a forked child, and the kernel takes some for its descriptors and
 * datagrams. Each of these calls fails in turn, once and for a while: opening then returns an error and leaves nothing behind; recording
 * works all the same, and what it took arrives once. libtoll must never call malloc.
 *
 * The other end is a daemon's receive loop in small: the daemon's own listener, ack pages and decoder.
 *
 *     TOLL_SEED=7 memory_libtoll                 repeats a run's sample
 *     TOLL_RUN='plain 5 8' memory_libtoll        repeats one run, in this process: the 5th call and the 7 after it fail */
#include "tests/fault/memory/runs.h"

#include "client/handle.h"
#include "daemon/ackpage.h"
#include "daemon/datagram.h"
#include "daemon/listener.h"
#include "proto/frame.h"

#include <dirent.h>
#include <errno.h>
#include <sys/socket.h>
#include <time.h>

/* --- what fails: tests/fault/memory_libtoll.ldflags ------------------------------------------------------------------------- */

struct failing failing;
__thread int failing_quiet;
static _Atomic uint64_t mallocs; /* by libtoll */

static void count_mapping(void)
{
    failing.live++;
}

static void count_malloc(void)
{
    mallocs += !failing_quiet;
}

/* NOLINTBEGIN(bugprone-reserved-identifier): the linker's names */
#define WRAP(type, name, parameters, arguments, error, failure)                                                        \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        if (failing_now()) {                                                                                           \
            errno = error;                                                                                             \
            return failure;                                                                                            \
        }                                                                                                              \
        return MADE(__real_##name arguments);                                                                          \
    }

#define MADE(call) call
WRAP(int, madvise, (void *at, size_t size, int advice), (at, size, advice), EAGAIN, -1)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), ENOMEM, -1)
WRAP(int, socket, (int family, int type, int protocol), (family, type, protocol), ENFILE, -1)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), ENOBUFS, -1)
WRAP(ssize_t, send, (int fd, const void *bytes, size_t size, int flags), (fd, bytes, size, flags), ENOBUFS, -1)
WRAP(int, pthread_create, (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *), void *argument),
     (thread, attr, run, argument), 0, EAGAIN)
#undef MADE
#define MADE(call) (count_mapping(), call)
WRAP(void *, mmap, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset), ENOMEM, MAP_FAILED)
#undef MADE
#define MADE(call) (count_malloc(), call)
WRAP(void *, malloc, (size_t size), (size), ENOMEM, NULL)
WRAP(void *, calloc, (size_t n, size_t size), (n, size), ENOMEM, NULL)
WRAP(void *, realloc, (void *old, size_t size), (old, size), ENOMEM, NULL)
WRAP(char *, strdup, (const char *text), (text), ENOMEM, NULL)
#undef MADE

int __real_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size);
int __wrap_munmap(void *at, size_t size)
{
    failing.live--;
    return __real_munmap(at, size);
}
/* NOLINTEND(bugprone-reserved-identifier) */

/* --- the other end ------------------------------------------------------------------------------------------------------------ */

enum { PEERS = 4, NUMBERS = 2048, TRIES = 400, PATIENCE_US = 20 * 1000000 };

/* A sender's stream. */
struct peer {
    uint8_t id[16];
    bool seen[NUMBERS];
    uint64_t acked, gap_frames;
    char tags[NUMBERS][16];
};

struct received {
    struct peer peers[PEERS];
    int count;
};

static struct {
    struct outcome *outcome;
    char directory[32], path[64];
    int fd;
    struct toll_decoder *decoder;
    struct ackpage *pages[PEERS];
    unsigned drop;          /* so many datagrams are lost on the way */
    struct received *known; /* shared with a forked child: either of the two receives */
} end;

static _Atomic uint64_t ahead_us; /* of libtoll's clock */

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t clock_us(void)
{
    return now_us() + ahead_us;
}

static struct peer *find_peer(const uint8_t id[16])
{
    struct received *known = end.known;

    for (int i = 0; i < known->count; i++)
        if (memcmp(known->peers[i].id, id, 16) == 0)
            return &known->peers[i];
    if (known->count == PEERS)
        abort();
    memcpy(known->peers[known->count].id, id, 16);
    return &known->peers[known->count++];
}

static void take_page(const struct peer *peer, struct ackpage **page, int fd)
{
    ackpage_unmap(*page);
    *page = NULL;
    if (ackpage_map(page, fd) < 0)
        complain(end.outcome, "an ack page that is none");
    else
        ackpage_begin(*page, 1, peer->acked, ACKPAGE_OK, clock_us() / 1000);
    close(fd);
}

static void take_frame(struct peer *peer, const struct datagram_piece *piece)
{
    char reason[TOLL_REASON_MAX];
    struct toll_frame frame;

    if (piece->broken || piece->seq == 0 || piece->seq >= NUMBERS ||
        toll_frame_decode(end.decoder, piece->data, piece->size, &frame, reason) < 0) {
        complain(end.outcome, "a frame that is none");
        return;
    }
    if (!peer->seen[piece->seq] && frame.type == TOLL_FRAME_GAP)
        peer->gap_frames += frame.gap_count;
    if (frame.request_id.ptr)
        snprintf(peer->tags[piece->seq], sizeof(peer->tags[0]), "%.*s", (int)frame.request_id.len,
                 frame.request_id.ptr);
    peer->seen[piece->seq] = true;
}

/* Reads what there is and acknowledges it. */
static void receive(void)
{
    static char buffer[TOLL_DATAGRAM_MAX];
    struct datagram datagram;
    struct datagram_parts parts;
    struct datagram_piece piece;

    failing_quiet++;
    while (listener_receive(end.fd, buffer, sizeof(buffer), 0, 1, &datagram) == 1) {
        struct ackpage **page;
        struct peer *peer;

        datagram_open(&parts, datagram.data, datagram.size, datagram.truncated);
        if (!parts.sequenced)
            abort();
        peer = find_peer(parts.envelope.stream_id);
        page = &end.pages[peer - end.known->peers];
        if (datagram.fd_count == 1)
            take_page(peer, page, datagram.fds[0]);
        if (end.drop > 0) {
            end.drop--;
            continue;
        }
        while (datagram_next(&parts, &piece))
            take_frame(peer, &piece);
        while (peer->acked + 1 < NUMBERS && peer->seen[peer->acked + 1])
            peer->acked++;
        if (*page) {
            ackpage_set_acked(*page, peer->acked);
            ackpage_set_heartbeat(*page, clock_us() / 1000);
        }
    }
    failing_quiet--;
}

static void open_end(struct outcome *outcome)
{
    failing_quiet++;
    memset(&end, 0, sizeof(end));
    end.outcome = outcome;
    strcpy(end.directory, "/tmp/toll-test-memory.XXXXXX");
    if (!mkdtemp(end.directory))
        abort();
    snprintf(end.path, sizeof(end.path), "%s/toll.sock", end.directory);
    end.fd = listener_bind(end.path, 0600);
    end.decoder = toll_decoder_new();
    end.known = mmap(NULL, sizeof(*end.known), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (end.known == MAP_FAILED || end.fd < 0 || listener_prepare(end.fd) < 0 || !end.decoder)
        abort();
    failing_quiet--;
}

static void close_end(void)
{
    failing_quiet++;
    for (int i = 0; i < PEERS; i++)
        ackpage_unmap(end.pages[i]);
    munmap(end.known, sizeof(*end.known));
    toll_decoder_free(end.decoder);
    close(end.fd);
    unlink(end.path);
    rmdir(end.directory);
    failing_quiet--;
}

/* --- the worker --------------------------------------------------------------------------------------------------------------- */

static const unsigned char session[16] = {1, 2, 3};

/* What record() took, by tag. */
struct taken {
    char tags[NUMBERS][16];
    unsigned count;
    uint64_t refused, input_tokens;
};

static int open_descriptors(void)
{
    DIR *directory;
    int count = 0;

    failing_quiet++;
    directory = opendir("/proc/self/fd");
    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    failing_quiet--;
    return count;
}

static struct toll *open_handle(uint32_t tick_ms)
{
    const struct toll_options options = {
        .socket = end.path, .client = "test", .ring_bytes = 4096, .thread_tick_ms = tick_ms};
    struct toll *toll = NULL;
    int r = -ENOMEM;

    for (int tries = 0; r < 0 && tries < TRIES; tries++) {
        int descriptors = open_descriptors();
        long live = failing.live;

        r = toll_open(&options, &toll);
        if (r < 0 && r != -ENOMEM && r != -ENFILE && r != -EAGAIN)
            complain(end.outcome, "opening: %s", strerror(-r));
        if (r < 0 && (open_descriptors() != descriptors || failing.live != live))
            end.outcome->leaks++;
    }
    if (r < 0 || !toll)
        abort();
    pthread_mutex_lock(&toll->sender.lock); /* its thread may run already */
    toll->sender.clock_us = clock_us;
    pthread_mutex_unlock(&toll->sender.lock);
    return toll;
}

/* Records one frame; recording knows no lack of memory. */
static void record(struct toll *toll, struct taken *taken, const char *name, bool may_be_full)
{
    char tag[16];
    int r;

    snprintf(tag, sizeof(tag), "%s%u", name, taken->count);
    r = toll_llm(
        toll, session,
        &(struct toll_llm_usage){
            .provider = "openai", .model = "gpt-4o", .input_tokens = 7, .output_tokens = 2, .request_id = tag});
    if (r == 0) {
        memcpy(taken->tags[taken->count++], tag, sizeof(tag));
        taken->input_tokens += 7;
    } else if (r == -ENOBUFS && may_be_full) {
        taken->refused++;
    } else {
        complain(end.outcome, "recording: %s", strerror(-r));
    }
}

/* Turns both ends until all is acknowledged. */
static void flush(struct toll *toll)
{
    uint64_t until = now_us() + PATIENCE_US;
    struct toll_stats stats;

    do {
        toll_tick(toll);
        receive();
        ahead_us += 50000; /* so that what is lost is soon sent again */
        if (toll_stats(toll, &stats) < 0 || now_us() > until) {
            complain(end.outcome, "not all is acknowledged");
            return;
        }
    } while (stats.outstanding > 0 || stats.gap_pending > 0);
}

/* What was taken has arrived, each frame under one number. */
static void check(const uint8_t stream[16], const struct taken *taken)
{
    const struct peer *peer = find_peer(stream);

    for (unsigned i = 0; i < taken->count; i++) {
        unsigned count = 0;

        for (unsigned seq = 1; seq < NUMBERS; seq++)
            count += strcmp(peer->tags[seq], taken->tags[i]) == 0;
        end.outcome->lost += count == 0;
        end.outcome->duplicated += count > 1;
    }
    if (peer->gap_frames != taken->refused)
        complain(end.outcome, "%u frames were refused, the gaps say %u", (unsigned)taken->refused,
                 (unsigned)peer->gap_frames);
}

static void check_snapshot(struct toll *toll, const struct taken *taken)
{
    struct toll_snapshot snapshot;

    if (toll_snapshot(toll, session, &snapshot) < 0 || snapshot.llm_calls != taken->count ||
        snapshot.llm_input_tokens != taken->input_tokens)
        end.outcome->wrong_totals++;
}

static void use_other_kinds(struct toll *toll)
{
    int r[] = {
        toll_tts(toll, session, &(struct toll_tts_usage){.provider = "cartesia", .char_count = 10}),
        toll_stt(toll, session, &(struct toll_stt_usage){.provider = "deepgram", .audio_duration_us = 1000}),
        toll_usage(toll, session, &(struct toll_meter_usage){.meter = "sms", .quantity = 1}),
        toll_transcript(toll, session, &(struct toll_turn){.role = "user", .text = "hello"}),
        toll_session_end(toll, session, NULL),
    };

    for (size_t i = 0; i < sizeof(r) / sizeof(*r); i++)
        if (r[i] < 0)
            complain(end.outcome, "recording another kind: %s", strerror(-r[i]));
}

/* Some frames that get through at once, a ring that fills, datagrams that are lost and sent again. */
static void work(struct toll *toll, struct taken *taken, const char *name)
{
    end.drop = 0;
    for (int i = 0; i < 4; i++)
        record(toll, taken, name, false);
    flush(toll);
    for (int i = 0; i < 60; i++)
        record(toll, taken, name, true);
    end.drop = 3;
    flush(toll);
    for (int i = 0; i < 4; i++)
        record(toll, taken, name, false);
    flush(toll);
    check_snapshot(toll, taken);
}

static void story(struct outcome *outcome, uint32_t tick_ms)
{
    static struct taken taken;
    struct toll_stats stats;
    struct toll *toll;
    int descriptors;

    memset(&taken, 0, sizeof(taken));
    open_end(outcome);
    descriptors = open_descriptors();
    toll = open_handle(tick_ms);
    if (toll_session_start(toll, session, NULL) < 0)
        complain(outcome, "recording the start");
    work(toll, &taken, "a");
    use_other_kinds(toll);
    flush(toll);
    if (toll_stats(toll, &stats) < 0)
        complain(outcome, "no statistics");
    check(stats.stream_id, &taken);
    if (toll_close(toll, 1000) < 0)
        complain(outcome, "closing: not all is acknowledged");
    if (open_descriptors() != descriptors)
        outcome->leaks++;
    close_end();
    if (mallocs)
        complain(outcome, "libtoll called malloc");
}

static void plain_story(struct outcome *outcome)
{
    story(outcome, 0);
}

static void threaded_story(struct outcome *outcome)
{
    story(outcome, 1);
}

/* The child finds its memory gone too. It inherits frames that are the parent's to send, and has the parent's end of the socket to itself. */
static void forked_story(struct outcome *outcome)
{
    static struct taken taken, childs;
    struct toll_stats stats;
    struct toll *toll;
    int status;
    pid_t pid;

    memset(&taken, 0, sizeof(taken));
    memset(&childs, 0, sizeof(childs));
    open_end(outcome);
    toll = open_handle(1);
    if (toll_session_start(toll, session, NULL) < 0)
        complain(outcome, "recording the start");
    for (int i = 0; i < 4; i++)
        record(toll, &taken, "a", false);
    toll_ticker_stop(
        &toll->ticker); /* the child starts its own. (Forking beside a thread deadlocks AddressSanitizer's allocator.) */
    pid = fork();
    if (pid == 0) {
        if (toll_session_start(toll, session, NULL) < 0)
            complain(outcome, "recording the start in the child");
        work(toll, &childs, "b");
        if (toll_stats(toll, &stats) < 0)
            complain(outcome, "no statistics in the child");
        check(stats.stream_id, &childs);
        for (unsigned seq = 1; seq < NUMBERS; seq++)
            outcome->duplicated += find_peer(stats.stream_id)->tags[seq][0] == 'a';
        if (toll_close(toll, 1000) < 0)
            complain(outcome, "closing in the child: not all is acknowledged");
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        complain(outcome, "the child ended with status %d", status);
    work(toll, &taken, "a");
    if (toll_stats(toll, &stats) < 0)
        complain(outcome, "no statistics");
    check(stats.stream_id, &taken);
    if (toll_close(toll, 1000) < 0)
        complain(outcome, "closing: not all is acknowledged");
    close_end();
    if (mallocs)
        complain(outcome, "libtoll called malloc");
}

int main(void)
{
    static const struct scenario scenarios[] = {
        {"plain", plain_story}, {"threaded", threaded_story}, {"forked", forked_story}};

    return run_all("memory_libtoll", scenarios, sizeof(scenarios) / sizeof(*scenarios), 40);
}
