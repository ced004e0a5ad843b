/* A worker for fault tests: records numbered frames through libtoll, on one handle or many, at a rate or as fast as it
 * goes, and keeps a tally (tally.h) that survives its death. It may kill itself right after a record() returned, or leave
 * libtoll aside and send raw datagrams.
 *
 * It judges nothing: tests/support/worker.py reads the tally. A process that forks is forker.c. */
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "proto/frame.h"
#include "tests/support/tally.h"

enum { HANDLES_MAX = 512, POLL_US = 500 };

static const char usage[] =
    "worker --socket PATH --tally FILE [options]\n"
    "  --handles N      streams in this process, used in turn (1)\n"
    "  --frames N       ends after so many frames in all (0: at SIGTERM)\n"
    "  --rate R         frames per second in all (0: as fast as it goes, also while the ring is full)\n"
    "  --text BYTES     every fourth frame is a transcript of up to so many bytes (0: none)\n"
    "  --ring BYTES     of each handle\n"
    "  --tick-ms N      toll_tick() this often (100)\n"
    "  --tick-thread N  leave that to libtoll's own thread, every N ms\n"
    "  --flush-ms N     at the end (30000)\n"
    "  --seed N\n"
    "  --die            kill itself right after the last record()\n"
    "  --bare           time an empty wait beside every record()\n"
    "  --raw            no libtoll: datagrams without an envelope\n";

struct options {
    const char *socket, *tally;
    unsigned handles;
    uint32_t tick_ms, tick_thread_ms, flush_ms, text;
    uint64_t frames, rate, seed;
    size_t ring;
    int die, bare, raw;
};

struct handle {
    struct toll *toll;
    uint32_t slot, first, last; /* entries that are recorded and not seen to be durable, linked by `following` */
    bool waiting;
    uint64_t records, ticked_ns;
    uint8_t session[16];
};

static struct options o = {.socket = "", .tally = "", .handles = 1, .tick_ms = 100, .flush_ms = 30000, .seed = 1};
static struct tally *tally;
static struct handle handles[HANDLES_MAX];
static uint32_t following[TALLY_ENTRIES];
static uint64_t chance;
static volatile sig_atomic_t stopping;

static void on_signal(int number)
{
    (void)number;
    stopping = 1;
}

static void die(struct tally_slot *slot)
{
    slot->state = TALLY_DYING;
    (void)raise(SIGKILL);
}

/* --- through libtoll --- */

static void open_handle(struct handle *h)
{
    struct toll_options options = {.socket = o.socket,
                                   .client = "worker",
                                   .ring_bytes = o.ring,
                                   .thread_tick_ms = o.tick_thread_ms,
                                   .max_sessions = 4};
    int r = toll_open(&options, &h->toll);
    if (r < 0)
        tally_fail("toll_open", -r);
    h->slot = tally_claim_slot(tally);
    toll_id_random(h->session);
    tally_note(&tally->slot[h->slot], h->toll);
}

/* Notes when entries were seen to be durable. */
static void see_acks(struct handle *h)
{
    uint64_t acked = tally->slot[h->slot].acked, now = tally_now_ns();
    while (h->waiting && tally->entry[h->first].seq <= acked) {
        tally->entry[h->first].acked_ns = now;
        h->waiting = h->first != h->last;
        h->first = following[h->first];
    }
}

static void await_ack(struct handle *h, uint32_t index)
{
    if (h->waiting)
        following[h->last] = index;
    else
        h->first = index;
    h->last = index;
    h->waiting = true;
}

/* Does what a worker does beside recording, until a moment. */
static void idle_until(uint64_t due_ns)
{
    for (;;) {
        uint64_t now = tally_now_ns();
        for (struct handle *h = handles; h < handles + o.handles; h++) {
            if (o.tick_thread_ms == 0 && now - h->ticked_ns >= o.tick_ms * UINT64_C(1000000)) {
                h->ticked_ns = now;
                toll_tick(h->toll);
            }
            if (h->waiting) {
                tally_note(&tally->slot[h->slot], h->toll);
                see_acks(h);
            }
        }
        if (now >= due_ns || stopping)
            return;
        tally_sleep_us(due_ns - now < UINT64_C(1000) * POLL_US ? (due_ns - now) / 1000 + 1 : POLL_US);
    }
}

static uint64_t bare_wait(void)
{
    uint64_t began = tally_now_ns(), now = began;
    while (now - began < TALLY_BARE_NS)
        now = tally_now_ns();
    return now - began;
}

/* One frame, recorded or refused: false if there is no room for its entry. */
static bool record(struct handle *h, enum tally_type type)
{
    struct tally_entry *e = tally_claim(tally, h->slot, type, h->session);
    if (!e)
        return false;
    if (type == TALLY_TRANSCRIPT)
        e->text_bytes = (uint32_t)tally_random(&chance, o.text);
    if (o.bare)
        e->bare_ns = bare_wait();
    int r = tally_record(tally, h->toll, e, true);
    while (r == -ENOBUFS && o.rate == 0 && !stopping) /* a flood tries again at once, at the cost of its own gaps */
        r = tally_record(tally, h->toll, e, true);
    h->records++;
    if (r == 0)
        await_ack(h, tally_index(tally, e));
    see_acks(h);
    return true;
}

static enum tally_type next_type(const struct handle *h)
{
    if (h->records == 0)
        return TALLY_START;
    return o.text > 0 && h->records % 4 == 3 ? TALLY_TRANSCRIPT : TALLY_LLM;
}

/* Humans do not record in step: half to one and a half times the interval apart. */
static uint64_t interval_ns(void)
{
    uint64_t mean = 1000000000 / o.rate;
    return mean / 2 + tally_random(&chance, mean + 1);
}

static void record_all(void)
{
    uint64_t due = tally_now_ns();
    for (uint64_t n = 1; !stopping; n++) {
        struct handle *h = &handles[n % o.handles];
        if (o.rate > 0) {
            idle_until(due);
            due += interval_ns();
        }
        if (!record(h, next_type(h)))
            break;
        if (n == o.frames && o.die)
            die(&tally->slot[h->slot]);
        if (n == o.frames)
            break;
    }
}

/* The sessions end, as soon as there is room to say so. */
static void close_handle(struct handle *h)
{
    if (h->records > 0) {
        struct tally_entry *e = tally_claim(tally, h->slot, TALLY_END, h->session);
        for (int tries = 0; e && tally_record(tally, h->toll, e, true) == -ENOBUFS && tries < 30000; tries++)
            tally_sleep_us(1000);
    }
    tally_close(&tally->slot[h->slot], h->toll, o.flush_ms);
}

/* --- without it --- */

static int raw_socket(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", o.socket);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        tally_fail(o.socket, errno);
    return fd;
}

static int raw_encode(const struct tally_entry *e, uint8_t *to, size_t cap)
{
    char name[16];
    struct toll_frame frame;
    toll_frame_init(&frame, TOLL_FRAME_LLM);
    frame.has_session_id = true;
    memcpy(frame.session_id, e->session, sizeof frame.session_id);
    frame.time_us = e->at_us;
    frame.provider = (struct toll_str){"openai", 6};
    frame.model = (struct toll_str){"gpt-4o", 6};
    frame.request_id = (struct toll_str){name, (uint32_t)snprintf(name, sizeof name, "%u", tally_index(tally, e))};
    frame.input_tokens = (int32_t)e->input;
    frame.output_tokens = (int32_t)e->output;
    return toll_frame_encode(&frame, to, cap);
}

/* One frame after the other. Blocks in send() while the daemon's queue is full, as a plain sender does. */
static void send_raw(void)
{
    uint32_t slot = tally_claim_slot(tally);
    uint8_t session[16], frame[256];
    struct tally_entry *e;
    int fd = raw_socket();
    toll_id_random(session);
    tally->slot[slot].state = TALLY_RAW;
    for (uint64_t n = 0; !stopping && (o.frames == 0 || n < o.frames); n++) {
        e = tally_claim(tally, slot, TALLY_LLM, session);
        int size = e ? raw_encode(e, frame, sizeof frame) : -ENOSPC;
        if (size < 0)
            break;
        e->state = TALLY_CLAIMED;
        ssize_t sent = send(fd, frame, (size_t)size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            tally_fail("send", errno);
        e->state = sent < 0 ? TALLY_REFUSED : TALLY_RECORDED;
    }
    close(fd);
}

/* --- */

static uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno || end == text || *end)
        tally_fail(text, EINVAL);
    return value;
}

static void read_options(int argc, char **argv)
{
    const struct option names[] = {
        {"socket", required_argument, NULL, 's'},
        {"tally", required_argument, NULL, 't'},
        {"handles", required_argument, NULL, 'h'},
        {"frames", required_argument, NULL, 'f'},
        {"rate", required_argument, NULL, 'r'},
        {"text", required_argument, NULL, 'x'},
        {"ring", required_argument, NULL, 'R'},
        {"tick-ms", required_argument, NULL, 'k'},
        {"seed", required_argument, NULL, 'S'},
        {"tick-thread", required_argument, NULL, 'T'},
        {"die", no_argument, &o.die, 1},
        {"flush-ms", required_argument, NULL, 'F'},
        {"bare", no_argument, &o.bare, 1},
        {"raw", no_argument, &o.raw, 1},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (c) {
        case 's':
            o.socket = optarg;
            break;
        case 't':
            o.tally = optarg;
            break;
        case 'h':
            o.handles = (unsigned)number(optarg);
            break;
        case 'f':
            o.frames = number(optarg);
            break;
        case 'r':
            o.rate = number(optarg);
            break;
        case 'x':
            o.text = (uint32_t)number(optarg);
            break;
        case 'R':
            o.ring = number(optarg);
            break;
        case 'k':
            o.tick_ms = (uint32_t)number(optarg);
            break;
        case 'T':
            o.tick_thread_ms = (uint32_t)number(optarg);
            break;
        case 'F':
            o.flush_ms = (uint32_t)number(optarg);
            break;
        case 'S':
            o.seed = number(optarg);
            break;
        case 0:
            break;
        default:
            fputs(usage, stderr);
            exit(2);
        }
    }
    if (!*o.socket || !*o.tally || o.handles < 1 || o.handles > HANDLES_MAX || o.text > TALLY_TEXT_MAX) {
        fputs(usage, stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = on_signal};
    read_options(argc, argv);
    sigaction(SIGTERM, &action, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    chance = tally_seed(o.seed);
    tally = tally_map(o.tally);
    if (o.raw) {
        send_raw();
        return EXIT_SUCCESS;
    }
    for (unsigned i = 0; i < o.handles; i++)
        open_handle(&handles[i]);
    record_all();
    for (unsigned i = 0; i < o.handles; i++)
        close_handle(&handles[i]);
    return EXIT_SUCCESS;
}
