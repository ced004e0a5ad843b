/* See sender.h. send_all() tells the story: it asks what is due, connects, composes a
 * datagram, sends it, and accounts for what became of it, until nothing is due. */
#include "client/sender.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/hot.h"

TOLL_HOT static uint64_t clock_read_us(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

TOLL_HOT static uint64_t boot_us(void)
{
    return clock_read_us(CLOCK_BOOTTIME);
}

/* Everything that a new stream begins with. */
static void sender_begin(struct toll_sender *s)
{
    pthread_mutex_init(&s->lock, NULL);
    toll_ring_init(&s->ring, s->ring.data, s->ring.size);
    s->acks = (struct toll_acks){0};
    s->stats = (struct toll_stats){0};
    s->gap_count = 0;
    s->progress_us = s->ticked_us = s->attached_us = s->sent_us = s->blocked_us = s->blocked_wait_us = s->connections =
        0;
    s->resend_wait_us = TOLL_RESEND_WAIT_MIN_US;
    s->sending = s->rewind = false;
    s->attach = true;
    memcpy(&s->link.random, s->stream_id, sizeof s->link.random);
    s->link.random |= 1;
}

int toll_sender_init(struct toll_sender *s, const char *path, const char *client, void *ring, size_t ring_bytes)
{
    s->clock_us = boot_us;
    s->ring.data = ring;
    s->ring.size = ring_bytes;
    s->page = (struct toll_ackpage){.fd = -1};
    snprintf(s->client, sizeof s->client, "%s", client);

    int r = toll_id_random(s->stream_id);
    if (r < 0)
        return r;
    if ((r = toll_link_init(&s->link, path)) < 0 || (r = toll_link_datagram_max()) < 0)
        return r;
    s->frames_max = (size_t)r - TOLL_ENVELOPE_MAX;
    s->frame_max = ring_bytes - TOLL_GAP_RESERVE - TOLL_RING_HEADER;
    if (s->frame_max > s->frames_max)
        s->frame_max = s->frames_max;
    if ((r = toll_ackpage_make(&s->page)) < 0)
        return r;
    sender_begin(s);
    if (toll_link_connect(&s->link, s->clock_us()) == 0)
        s->connections = 1;
    return 0;
}

void toll_sender_reborn(struct toll_sender *s)
{
    toll_link_done(&s->link);
    toll_ackpage_done(&s->page); /* a new one is made with the first datagram */
    if (toll_id_random(s->stream_id) < 0) {
        /* a sandbox without getrandom(): at least never the parent's id, nor a sibling's */
        uint64_t id[2];
        memcpy(id, s->stream_id, sizeof id);
        id[0] ^= (uint64_t)getpid() << 32 ^ boot_us();
        id[1] ^= clock_read_us(CLOCK_REALTIME);
        memcpy(s->stream_id, id, sizeof id);
    }
    sender_begin(s);
}

void toll_sender_done(struct toll_sender *s)
{
    toll_link_done(&s->link);
    toll_ackpage_done(&s->page);
    pthread_mutex_destroy(&s->lock);
}

/* Takes in what the daemon has said. Any thread, under the lock: frames that are being sent are pinned in the
 * ring. */
TOLL_HOT static void collect_acks(struct toll_sender *s, uint64_t now)
{
    struct toll_acks acks;
    if (!toll_ackpage_read(&s->page, &acks))
        return;
    if (acks.epoch != s->acks.epoch && s->acks.epoch != 0)
        s->rewind = true;
    s->acks = acks;

    uint64_t own = 0, freed = toll_ring_ack(&s->ring, acks.acked, &own);
    if (freed == 0)
        return;
    s->stats.acked += freed - own;
    s->progress_us = now;
    s->resend_wait_us = TOLL_RESEND_WAIT_MIN_US;
    s->blocked_us = 0; /* it reads: a full socket may have room again */
}

TOLL_HOT static void append(struct toll_sender *s, const void *frame, size_t size, bool own, uint64_t now)
{
    if (toll_ring_count(&s->ring) == 0) {
        s->progress_us = now;
        s->resend_wait_us = TOLL_RESEND_WAIT_MIN_US;
    }
    toll_ring_put(&s->ring, frame, size, own);
}

/* Turns the refusals counted so far into a gap frame if there is room for it and, unless it is urgent, for
 * the next one too. */
TOLL_COLD static void write_gap(struct toll_sender *s, bool urgent, uint64_t now)
{
    if (toll_ring_free_bytes(&s->ring) < (size_t)(urgent ? 1 : 2) * TOLL_GAP_RESERVE)
        return;
    struct toll_frame gap;
    uint8_t bytes[TOLL_GAP_RESERVE - TOLL_RING_HEADER];
    toll_frame_init(&gap, TOLL_FRAME_GAP);
    gap.gap_count = s->gap_count;
    gap.gap_since_us = s->gap_since_us;
    gap.gap_until_us = s->gap_until_us;
    int size = toll_frame_encode(&gap, bytes, sizeof bytes);
    assert(size > 0);
    append(s, bytes, (size_t)size, true, now);
    s->gap_count = 0;
    s->stats.gaps++;
}

TOLL_HOT static void look(struct toll_sender *s, bool urgent, uint64_t now)
{
    collect_acks(s, now);
    if (s->gap_count > 0)
        write_gap(s, urgent, now);
}

TOLL_HOT void toll_sender_look(struct toll_sender *s, uint64_t now)
{
    look(s, false, now);
}

TOLL_HOT int toll_sender_put(struct toll_sender *s, const void *frame, size_t size, uint64_t now)
{
    if (size > s->frame_max) {
        s->stats.refused_too_large++;
        return -EMSGSIZE;
    }
    if (size + TOLL_RING_HEADER + TOLL_GAP_RESERVE > toll_ring_free_bytes(&s->ring)) {
        s->gap_until_us = (int64_t)clock_read_us(CLOCK_REALTIME);
        if (s->gap_count++ == 0)
            s->gap_since_us = s->gap_until_us;
        s->stats.refused_full++;
        return -ENOBUFS;
    }
    append(s, frame, size, false, now);
    s->stats.recorded++;
    return 0;
}

TOLL_HOT static bool heartbeat_stale(const struct toll_sender *s, uint64_t now)
{
    int64_t age_ms = (int64_t)(now / 1000 - s->acks.heartbeat_ms);
    return age_ms > TOLL_HEARTBEAT_STALE_US / 1000 || age_ms < -TOLL_HEARTBEAT_STALE_US / 1000;
}

/* Whether a datagram is due, which may be one that only attaches the page. Rewinds the ring where frames must
 * go out again. */
TOLL_HOT static bool send_due(struct toll_sender *s, bool urgent, uint64_t now)
{
    struct toll_ring *ring = &s->ring;
    bool kept = toll_ring_count(ring) > 0;

    if (s->rewind) { /* the daemon restarted: it may have read frames that it never made durable */
        toll_ring_rewind(ring);
        s->rewind = false;
    }
    if (urgent && s->resend_wait_us > TOLL_RESEND_WAIT_URGENT_US)
        s->resend_wait_us = TOLL_RESEND_WAIT_URGENT_US;
    if (kept && now - s->progress_us >= s->resend_wait_us) {
        toll_ring_rewind(ring);
        s->attach = true;
        s->progress_us = now;
        s->resend_wait_us = toll_backoff(s->resend_wait_us, TOLL_RESEND_WAIT_MAX_US, &s->link.random);
    }
    if (s->attached_us != 0 && now - s->attached_us >= TOLL_HEARTBEAT_STALE_US && heartbeat_stale(s, now))
        s->attach = true;

    if (now - s->blocked_us < (urgent ? TOLL_BLOCKED_WAIT_MIN_US : s->blocked_wait_us) && s->blocked_wait_us > 0)
        return false;
    if (s->attach)
        return kept || s->attached_us != 0;
    uint64_t queued = toll_ring_queued_bytes(ring);
    if (queued == 0 || s->acks.state == TOLL_DAEMON_STOPPING)
        return false; /* a daemon that stops does not say when its successor is up: the resend timer asks */
    return s->acks.state != TOLL_DAEMON_BUSY || urgent || queued >= TOLL_BUSY_BYTES ||
           now - s->sent_us >= TOLL_BUSY_WAIT_US;
}

/* Fills iov with an envelope and the frames from the cursor on, which stay pinned; returns how many frames. What is
 * small, as a frame that is sent alone, becomes one piece. */
TOLL_HOT static uint32_t compose(struct toll_sender *s, int *ret_iovs)
{
    uint32_t frames = toll_ring_take(&s->ring, s->iov + 1, TOLL_SEND_IOVS - 1, s->frames_max, ret_iovs);
    int size = toll_envelope_encode(s->stream_id, s->ring.cursor_seq, s->ring.head_seq, frames,
                                    s->attach ? s->client : NULL, s->head, TOLL_ENVELOPE_MAX);
    assert(size > 0);
    s->iov[0] = (struct iovec){s->head, (size_t)size};
    size_t bytes = (size_t)size;
    for (int i = 1; i <= *ret_iovs; i++)
        bytes += s->iov[i].iov_len;
    if (bytes <= sizeof s->head) {
        for (int i = 1; i <= *ret_iovs; s->iov[0].iov_len += s->iov[i++].iov_len)
            memcpy(s->head + s->iov[0].iov_len, s->iov[i].iov_base, s->iov[i].iov_len);
        *ret_iovs = 0;
    }
    *ret_iovs += 1;
    return frames;
}

TOLL_COLD static void note_blocked(struct toll_sender *s, uint64_t now)
{
    uint64_t max_us = heartbeat_stale(s, now) ? TOLL_BLOCKED_WAIT_STALE_US : TOLL_BLOCKED_WAIT_MAX_US;
    s->blocked_us = now;
    s->blocked_wait_us = s->blocked_wait_us > 0 ? s->blocked_wait_us * 2 : TOLL_BLOCKED_WAIT_MIN_US;
    if (s->blocked_wait_us > max_us)
        s->blocked_wait_us = max_us;
}

/* Accounts for a datagram of `frames` frames that sendmsg took, or did not. */
TOLL_HOT static void settle(struct toll_sender *s, int result, uint32_t frames, bool attached, uint64_t now)
{
    s->stats.resent += toll_ring_settle(&s->ring, result == 0 ? frames : 0);
    if (result == 0) {
        s->stats.datagrams++;
        s->sent_us = now;
        if (attached) {
            s->attach = false;
            s->attached_us = now;
        }
        s->blocked_wait_us = 0;
    } else if (result == -EAGAIN) {
        s->stats.blocked++;
        note_blocked(s, now);
    }
}

/* Makes sure that there are a page and a connected socket, with room again if it had none. Called without the lock by the
 * thread that is sending; takes it for what others read. 0; -EAGAIN or another -errno: not now. */
TOLL_COLD static int make_ready(struct toll_sender *s, uint64_t now)
{
    if (!s->page.map) {
        struct toll_ackpage page = {.fd = -1};
        int r = toll_ackpage_make(&page);
        if (r < 0)
            return r;
        pthread_mutex_lock(&s->lock);
        s->page.fd = page.fd;
        s->page.inode = page.inode;
        __atomic_store_n(&s->page.map, page.map, __ATOMIC_RELEASE); /* toll_sender_fetch(), toll_credit() */
        pthread_mutex_unlock(&s->lock);
    }
    if (s->link.fd >= 0)
        return s->blocked_wait_us > 0 ? toll_link_room(&s->link) : 0;
    int r = toll_link_connect(&s->link, now);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    /* what the old socket's queue held may be gone, and a new daemon knows nothing of us */
    toll_ring_rewind(&s->ring);
    s->attach = true;
    s->blocked_wait_us = 0;
    s->connections++;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* Sends until nothing is due, or `bytes` and no more than a datagram beyond have gone out. Called and left with the lock
 * held, which it gives up around system calls; the only one at it. */
TOLL_HOT static void send_all(struct toll_sender *s, bool urgent, uint64_t bytes, uint64_t now)
{
    uint64_t sent = 0;
    for (int budget = TOLL_SEND_BUDGET; budget > 0 && sent < bytes && send_due(s, urgent, now); budget--) {
        if (s->link.fd < 0 || !s->page.map || s->blocked_wait_us > 0) {
            pthread_mutex_unlock(&s->lock);
            int r = make_ready(s, now);
            pthread_mutex_lock(&s->lock);
            if (r == -EAGAIN && s->blocked_wait_us > 0)
                note_blocked(s, now);
            if (r < 0)
                return;
        }

        int iovs;
        uint64_t cursor = s->ring.cursor;
        uint32_t frames = compose(s, &iovs);
        bool attach = s->attach;
        pthread_mutex_unlock(&s->lock);
        int r = toll_link_send(&s->link, s->iov, iovs, attach ? s->page.fd : -1);
        pthread_mutex_lock(&s->lock);
        settle(s, r, frames, attach, now);
        sent += s->ring.cursor - cursor;
        if (r == -EAGAIN || (r == 0 && toll_ring_queued_bytes(&s->ring) == 0))
            return; /* the usual end: nothing more to find out */
        now = s->clock_us();
        look(s, urgent, now);
    }
}

/* Whether a record need not try to send: nothing is connected, or the socket has been full for a while and it will show when
 * the daemon reads again (it acknowledges what it has of ours) or is silent anyway; and somebody ticks, who tries. So a record
 * is a copy into the ring as long as the daemon stands still. */
TOLL_HOT static bool left_to_ticks(const struct toll_sender *s, uint64_t now)
{
    if (now - s->ticked_us >= TOLL_TICKS_US)
        return false;
    if (s->link.fd < 0)
        return true;
    return s->blocked_us != 0 && s->blocked_wait_us >= TOLL_BLOCKED_WAIT_MAX_US &&
           (s->ring.sent_seq >= s->ring.head_seq || heartbeat_stale(s, now));
}

TOLL_HOT static void push(struct toll_sender *s, bool ticks, bool urgent, uint64_t bytes, uint64_t now)
{
    int cancel_state;
    if (s->sending) /* that thread sees our frame: it stops only under the lock, with nothing due or enough sent */
        return;
    if (!ticks && left_to_ticks(s, now))
        return;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state); /* else a system call may never come back */
    s->sending = true;
    send_all(s, urgent, bytes, now);
    s->sending = false;
    pthread_setcancelstate(cancel_state, NULL);
}

TOLL_HOT void toll_sender_push(struct toll_sender *s, uint64_t now)
{
    push(s, false, false, TOLL_PUSH_BYTES, now);
}

void toll_sender_pump(struct toll_sender *s, bool urgent)
{
    pthread_mutex_lock(&s->lock);
    uint64_t now = s->clock_us();
    look(s, urgent, now);
    push(s, true, urgent, UINT64_MAX, now);
    s->ticked_us = now;
    pthread_mutex_unlock(&s->lock);
}

int toll_sender_flush(struct toll_sender *s, uint32_t timeout_ms)
{
    uint64_t deadline = clock_read_us(CLOCK_MONOTONIC) + (uint64_t)timeout_ms * 1000;
    uint64_t last = 0; /* the number to wait for */
    bool told = false; /* of the refusals before this call, by a gap frame */

    for (uint64_t pause = 50;; pause = pause < 500 ? pause * 2 : 1000) {
        toll_sender_pump(s, true);
        pthread_mutex_lock(&s->lock);
        if (!told) {
            last = s->ring.tail_seq - 1;
            told = s->gap_count == 0;
        }
        bool done = told && s->ring.head_seq > last;
        pthread_mutex_unlock(&s->lock);
        if (done)
            return 0;
        uint64_t now = clock_read_us(CLOCK_MONOTONIC);
        if (now >= deadline)
            return -ETIMEDOUT;
        if (pause > deadline - now)
            pause = deadline - now;
        nanosleep(&(struct timespec){.tv_nsec = (long)pause * 1000}, NULL);
    }
}

void toll_sender_stats(struct toll_sender *s, struct toll_stats *ret)
{
    collect_acks(s, s->clock_us());
    *ret = s->stats;
    ret->outstanding = toll_ring_count(&s->ring);
    ret->gap_pending = s->gap_count;
    ret->reconnects = s->connections > 1 ? s->connections - 1 : 0;
    ret->ring_bytes = s->ring.size;
    ret->ring_used = s->ring.tail - s->ring.head;
    ret->epoch = s->acks.epoch;
    memcpy(ret->stream_id, s->stream_id, sizeof ret->stream_id);
}
