/* Workers: a model of what proto/PROTOCOL.md asks of a sender. Numbers its frames, keeps them in a ring until they are acknowledged, sends
 * again from its base when nothing moves, goes on from `acked` when the epoch changes, and owns up to what its ring refused. */
#include "tests/fault/simulation/sim.h"

#include "daemon/clock.h"
#include "proto/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct worker workers[WORKERS];
unsigned worker_count;
static unsigned sessions_made;

struct worker *worker_new(struct host *host)
{
    struct worker *worker = &workers[worker_count];

    assert(worker_count < WORKERS);
    *worker = (struct worker){
        .index = worker_count,
        .alive = true,
        .sequenced = sim_chance(9, 10),
        .host = host,
        .uid = 1000 + (uint32_t)sim_below(3),
        .ring = 4 + sim_below(RING_MAX - 4),
        .next = 1,
        .base = 1,
        .sent = 1,
        .attach = true,
        .most = 1 + (unsigned)sim_below(12),
        .resend_us = 200 * MS,
        .tick_us = sim.now_us,
        .progress_us = sim.now_us,
        .heartbeat_us = sim.now_us,
    };
    worker->stream[0] = (uint8_t)worker_count;
    for (size_t i = 1; i < 16; i++)
        worker->stream[i] = (uint8_t)sim_random();
    worker_count++;
    return worker;
}

void workers_done(void)
{
    for (unsigned i = 0; i < worker_count; i++)
        free(workers[i].frames);
    worker_count = sessions_made = 0;
}

/* --- what it records -------------------------------------------------------------------------------------------------------- */

static void remember(struct worker *worker, uint32_t index)
{
    if (worker->next - 1 == worker->frame_capacity) {
        worker->frame_capacity = worker->frame_capacity ? worker->frame_capacity * 2 : 64;
        worker->frames = realloc(worker->frames, worker->frame_capacity * sizeof(*worker->frames));
        assert(worker->frames);
    }
    worker->frames[worker->next - 1] = index;
    worker->next++;
}

static bool has_room(const struct worker *worker)
{
    return worker->next - worker->base < worker->ring;
}

static void record(struct worker *worker, struct toll_frame *frame, unsigned session, bool poison)
{
    uint8_t buffer[1024];
    uint32_t index;

    if (worker->sequenced && !has_room(worker)) {
        worker->refused++;
        return;
    }
    index = ledger_frame(worker, frame, session, poison);
    if (worker->sequenced)
        remember(worker, index);
    else
        (void)queue_push(worker->host, buffer, ledger_encode(index, buffer, sizeof(buffer)), worker->uid, -1, false);
}

/* A session: one of its own calls, a new one, or anybody's. */
static unsigned choose_session(struct worker *worker, enum toll_frame_type *type)
{
    unsigned slot = (unsigned)sim_below(3), session = worker->sessions[slot];

    if (session == 0 || (*type == TOLL_FRAME_SESSION_START && sim_chance(3, 4))) {
        session = worker->sessions[slot] = ++sessions_made;
        if (sim_chance(9, 10))
            *type = TOLL_FRAME_SESSION_START;
    } else if (sim_chance(1, 12)) {
        session = 1 + (unsigned)sim_below(sessions_made);
    }
    if (*type == TOLL_FRAME_SESSION_END && session == worker->sessions[slot])
        worker->sessions[slot] = 0;
    return session;
}

void worker_record(struct worker *worker)
{
    static const enum toll_frame_type types[] = {
        TOLL_FRAME_SESSION_START, TOLL_FRAME_SESSION_END, TOLL_FRAME_LLM,        TOLL_FRAME_LLM,
        TOLL_FRAME_TTS,           TOLL_FRAME_STT,         TOLL_FRAME_TRANSCRIPT, TOLL_FRAME_USAGE,
    };
    enum toll_frame_type type = types[sim_below(sizeof(types) / sizeof(*types))];
    unsigned session = choose_session(worker, &type);
    struct toll_frame frame;
    bool poison = false;

    toll_frame_init(&frame, type);
    frame.has_session_id = true;
    session_id(session, frame.session_id);
    if (sim_chance(1, 2))
        frame.time_us = clock_realtime_us() + (int64_t)sim_below(20) * SECOND - 15 * SECOND;
    if (worker->sequenced && sim_chance(1, 150))
        frame.type = TOLL_FRAME_STREAM; /* which has no place there: the ledger makes it a frame that is none */
    if (type != TOLL_FRAME_SESSION_START && type != TOLL_FRAME_SESSION_END && frame.type != TOLL_FRAME_STREAM &&
        worker->sequenced && sim_chance(1, 120))
        poison = true;
    record(worker, &frame, session, poison);
}

void worker_record_good(struct worker *worker)
{
    struct toll_frame frame;

    toll_frame_init(&frame, TOLL_FRAME_LLM);
    frame.has_session_id = true;
    session_id(++sessions_made, frame.session_id); /* any writer's */
    record(worker, &frame, sessions_made, false);
}

static void own_up(struct worker *worker)
{
    struct toll_frame frame;

    if (worker->refused == 0 || !has_room(worker))
        return;
    toll_frame_init(&frame, TOLL_FRAME_GAP);
    frame.gap_count = worker->refused;
    worker->refused = 0;
    record(worker, &frame, 0, false);
}

/* --- sending ---------------------------------------------------------------------------------------------------------------- */

static void read_page(struct worker *worker)
{
    const struct page *page = &worker->page;

    if (page->epoch == 0)
        return;
    if (page->heartbeat_ms * MS > worker->heartbeat_us)
        worker->heartbeat_us = page->heartbeat_ms * MS;
    if (page->acked + 1 > worker->base) {
        worker->base = page->acked + 1;
        worker->progress_us = sim.now_us;
        worker->resend_us = 200 * MS;
    }
    if (page->epoch != worker->epoch) { /* the daemon was started again */
        worker->epoch = page->epoch;
        worker->sent = worker->base;
    }
    if (worker->sent < worker->base)
        worker->sent = worker->base;
}

static size_t build(struct worker *worker, uint64_t first, uint64_t end, uint8_t *buffer, size_t cap)
{
    struct toll_frame envelope;
    int size;

    toll_frame_init(&envelope, TOLL_FRAME_STREAM);
    memcpy(envelope.stream_id, worker->stream, 16);
    envelope.stream_seq = first;
    envelope.stream_base = worker->base;
    envelope.stream_count = end - first;
    size = toll_frame_encode(&envelope, buffer, cap);
    assert(size > 0);
    for (uint64_t n = first; n < end; n++)
        size += (int)ledger_encode(worker->frames[n - 1], buffer + size, cap - (size_t)size);
    return (size_t)size;
}

static bool send_some(struct worker *worker, uint64_t end)
{
    uint8_t buffer[8192];
    size_t size = build(worker, worker->sent, end, buffer, sizeof(buffer));

    if (!queue_push(worker->host, buffer, size, worker->uid, worker->attach ? (int)worker->index : -1,
                    sim_chance(1, 200)))
        return false;
    sim_note("send", worker->index, worker->sent << 20 | end);
    worker->sent = end;
    worker->attach = false;
    return true;
}

bool worker_idle(const struct worker *worker)
{
    return !worker->alive || worker->base == worker->next;
}

void worker_tick(struct worker *worker)
{
    bool taken = true;

    worker->tick_us = sim.now_us + 2 * MS + (int64_t)sim_below(60) * MS;
    if (!worker->sequenced)
        return;
    read_page(worker);
    own_up(worker);
    if (worker->base < worker->next && worker->base < worker->sent &&
        sim.now_us - worker->progress_us > worker->resend_us) {
        worker->sent = worker->base;
        worker->attach = true;
        worker->progress_us = sim.now_us;
        worker->resend_us = worker->resend_us < SECOND ? worker->resend_us * 2 : worker->resend_us;
    }
    if (sim.now_us - worker->heartbeat_us > 3 * SECOND) {
        worker->attach = true;
        worker->heartbeat_us = sim.now_us;
        if (worker->sent == worker->next)
            taken = send_some(worker, worker->sent); /* an envelope alone attaches */
    }
    while (taken && worker->sent < worker->next) {
        uint64_t end = worker->sent + 1 + sim_below(worker->most);

        taken = send_some(worker, end < worker->next ? end : worker->next);
    }
}

void worker_die(struct worker *worker)
{
    worker->alive = false;
    sim.troubles.worker_deaths++;
    sim_note("worker dies", worker->index, worker->next - worker->base);
}
