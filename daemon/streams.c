/* See streams.h. */
#include "daemon/streams.h"

#include "daemon/streams_internal.h"
#include "proto/utf8.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utlist.h>

enum { REAP_AT_ONCE = 64, HOLES_MAX = 131072 /* of all streams: some MiB */ };

struct streams *streams_new(const struct streams_options *options)
{
    struct streams *streams = calloc(1, sizeof(*streams));

    if (streams)
        streams->options = *options;
    return streams;
}

static void drop_page(struct streams *streams, struct stream *stream)
{
    if (!stream->page)
        return;
    ackpage_unmap(stream->page);
    stream->page = NULL;
    if (stream->pidfd >= 0)
        close(stream->pidfd);
    stream->pidfd = -1;
    stream->peer->pages--;
    streams->pages--;
}

static void set_due(struct streams *streams, struct stream *stream, bool due)
{
    if (due && !stream->due)
        DL_APPEND2(streams->due, stream, prev_due, next_due);
    else if (!due && stream->due)
        DL_DELETE2(streams->due, stream, prev_due, next_due);
    stream->due = due;
}

static void account_holes(struct streams *streams, struct stream *stream, uint32_t holes)
{
    streams->holes = streams->holes - stream->holes + holes;
    stream->peer->holes = stream->peer->holes - stream->holes + holes;
    stream->holes = holes;
}

static void free_if_empty(struct streams *streams, struct peer *peer)
{
    if (!peer || peer->count > 0)
        return;
    HASH_DEL(streams->peers, peer);
    free(peer);
}

static void forget(struct streams *streams, struct stream *stream)
{
    struct peer *peer = stream->peer;

    account_holes(streams, stream, 0);
    drop_page(streams, stream);
    set_due(streams, stream, false);
    DL_DELETE2(peer->streams, stream, older, newer);
    HASH_DEL(streams->table, stream);
    rangeset_done(&stream->journaled);
    free(stream);
    peer->count--;
    free_if_empty(streams, peer);
}

void streams_free(struct streams *streams)
{
    struct stream *stream, *next;

    if (!streams)
        return;
    HASH_ITER (hh, streams->table, stream, next)
        forget(streams, stream);
    free(streams);
}

/* The uid that has the most of what count_of() counts. */
static struct peer *largest_peer(struct streams *streams, size_t (*count_of)(const struct peer *))
{
    struct peer *largest = NULL;

    for (struct peer *peer = streams->peers; peer; peer = peer->hh.next)
        if (!largest || count_of(peer) > count_of(largest))
            largest = peer;
    return largest;
}

static size_t count_streams(const struct peer *peer)
{
    return peer->count;
}

static size_t count_pages(const struct peer *peer)
{
    return peer->pages;
}

static size_t count_peer_holes(const struct peer *peer)
{
    return peer->holes;
}

static void make_room(struct streams *streams, uint32_t uid)
{
    struct peer *peer;

    HASH_FIND(hh, streams->peers, &uid, sizeof(uid), peer);
    if (peer && peer->count >= streams->options.max_per_uid)
        forget(streams, peer->streams);
    else if (HASH_COUNT(streams->table) >= streams->options.max)
        forget(streams, largest_peer(streams, count_streams)->streams);
}

static struct peer *get_peer(struct streams *streams, uint32_t uid)
{
    struct peer *peer;

    HASH_FIND(hh, streams->peers, &uid, sizeof(uid), peer);
    if (peer)
        return peer;
    peer = calloc(1, sizeof(*peer));
    if (!peer)
        return NULL;
    peer->uid = uid;
    if (idhash_add(streams->peers, uid, peer) < 0) {
        free(peer);
        return NULL;
    }
    return peer;
}

static struct stream *add_stream(struct streams *streams, const struct stream_key *key)
{
    struct stream *stream = calloc(1, sizeof(*stream));
    struct peer *peer;

    if (!stream)
        return NULL;
    make_room(streams, key->uid);
    peer = get_peer(streams, key->uid);
    stream->key = *key;
    stream->peer = peer;
    stream->pidfd = -1;
    rangeset_init(&stream->journaled);
    if (!peer || idhash_add(streams->table, key, stream) < 0) {
        free_if_empty(streams, peer);
        free(stream);
        return NULL;
    }
    DL_APPEND2(peer->streams, stream, older, newer);
    peer->count++;
    return stream;
}

/* A hole is as old as the first missing number has been what it is. */
static void note_holes(struct stream *stream)
{
    uint64_t missing = received_upto(stream) + 1;

    if (count_holes(stream) && stream->hole_at == missing)
        return;
    stream->hole_at = count_holes(stream) ? missing : 0;
    stream->hole_since_us = stream->last_seen_us;
}

struct stream *streams_get(struct streams *streams, uint32_t uid, const uint8_t id[static 16], uint64_t base,
                           int64_t now_us)
{
    struct stream_key key = {.uid = uid};
    struct stream *stream;

    memcpy(key.id, id, sizeof(key.id));
    HASH_FIND(hh, streams->table, &key, sizeof(key), stream);
    if (stream) {
        DL_DELETE2(stream->peer->streams, stream, older, newer);
        DL_APPEND2(stream->peer->streams, stream, older, newer);
    } else {
        stream = add_stream(streams, &key);
        if (!stream)
            return NULL;
    }
    stream->last_seen_us = now_us;
    /* The sender says that it has an acknowledgement for all below base: perhaps of an earlier run of the daemon, so count them as journaled, or a hole
     * there would hold back its acks for ever. Filling from 0 never adds a range beyond the limit. */
    if (rangeset_add(&stream->journaled, 0, base) < 0) {
        forget(streams, stream);
        return NULL;
    }
    if (stream->acked < base - 1)
        stream->acked = base - 1;
    note_holes(stream);
    return stream;
}

int stream_attach(struct streams *streams, struct stream *stream, struct ackpage *page, uint32_t pid,
                  uint64_t now_boottime_ms)
{
    struct peer *peer = stream->peer;
    struct stream *other;
    int pidfd;

    drop_page(streams, stream);
    if (peer->pages >= streams->options.pages_max_per_uid || streams->pages >= streams->options.pages_max) {
        if (peer->pages < streams->options.pages_max_per_uid)
            peer = largest_peer(streams, count_pages);
        DL_FOREACH2(peer->streams, other, newer)
        if (other->page)
            break;
        if (!other)
            return -ENOSPC; /* the limit is zero */
        drop_page(streams, other);
    }
    /* A worker in another PID namespace is not visible (pid 0): its page goes when it is the longest idle. */
    pidfd = pid ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;
    if (pidfd < 0 && pid && errno == ESRCH)
        return -ESRCH; /* it is gone already */
    stream->page = page;
    stream->pid = pid;
    stream->pidfd = pidfd;
    stream->peer->pages++;
    streams->pages++;
    ackpage_begin(page, streams->options.epoch, stream->acked, streams->state, now_boottime_ms);
    if (streams->options.attached)
        streams->options.attached(streams->options.context, stream_host(stream), page);
    return 0;
}

uint32_t stream_host(const struct stream *stream)
{
    return idhash_host(stream->hh.hashv);
}

void stream_set_client(struct stream *stream, const char *name, size_t size)
{
    toll_utf8_copy(name, size, stream->client, sizeof(stream->client));
}

void stream_set_pid(struct stream *stream, uint32_t pid)
{
    stream->pid = pid;
}

int stream_note(struct stream *stream, uint64_t seq, uint64_t end)
{
    int r = rangeset_add(&stream->journaled, seq, end);

    stream->poisoned = r == -E2BIG;
    stream->refused += stream->poisoned;
    stream->shut_out = false;
    note_holes(stream);
    return r;
}

bool stream_has(const struct stream *stream, uint64_t seq, uint64_t end)
{
    return rangeset_first_missing(&stream->journaled, seq) >= end;
}

void stream_refuse(struct stream *stream)
{
    stream->poisoned = false;
    stream->shut_out = true;
    stream->refused++;
}

/* Keeps the memory that holes take within bounds: the uid with most of them pays, its longest idle stream with some first. */
static void limit_holes(struct streams *streams, const struct stream *spared)
{
    while (streams->holes > HOLES_MAX) {
        struct stream *stream = largest_peer(streams, count_peer_holes)->streams;

        while (stream && (stream->holes == 0 || stream == spared))
            stream = stream->newer;
        if (!stream)
            return;
        forget(streams, stream);
    }
}

void stream_journaled(struct streams *streams, struct stream *stream, uint64_t end_lsn)
{
    struct promise promise = {.lsn = end_lsn, .upto = received_upto(stream)};

    if (stream->first.lsn == 0)
        stream->first = promise;
    else
        stream->last = promise;
    set_due(streams, stream, true);
    account_holes(streams, stream, count_holes(stream));
    limit_holes(streams, stream);
}

static void keep_promise(struct stream *stream, uint64_t ack_lsn)
{
    uint64_t acked = stream->acked;

    if (stream->last.lsn && stream->last.lsn <= ack_lsn) {
        acked = stream->last.upto;
        stream->first = stream->last = (struct promise){0};
    } else if (stream->first.lsn <= ack_lsn) {
        acked = stream->first.upto;
        stream->first = stream->last;
        stream->last = (struct promise){0};
    }
    if (acked <= stream->acked)
        return;
    stream->acked = acked;
    if (stream->page)
        ackpage_set_acked(stream->page, acked);
}

void streams_publish(struct streams *streams, uint64_t ack_lsn)
{
    struct stream *stream, *next;

    DL_FOREACH_SAFE2(streams->due, stream, next, next_due)
    {
        keep_promise(stream, ack_lsn);
        if (stream->first.lsn == 0)
            set_due(streams, stream, false);
    }
}

/* Drops the pages of those among `count` streams whose worker has ended: a pidfd is readable then. */
static void reap(struct streams *streams, struct stream *const *candidates, struct pollfd *fds, size_t count)
{
    if (poll(fds, (nfds_t)count, 0) <= 0)
        return;
    for (size_t i = 0; i < count; i++)
        if (fds[i].revents & POLLIN)
            drop_page(streams, candidates[i]);
}

void streams_tend(struct streams *streams, enum ackpage_state state, uint64_t now_boottime_ms)
{
    struct stream *candidates[REAP_AT_ONCE], *stream, *next;
    struct pollfd fds[REAP_AT_ONCE];
    size_t count = 0;

    streams->state = state;
    HASH_ITER (hh, streams->table, stream, next) {
        if (!stream->page)
            continue;
        ackpage_set_state(stream->page, state);
        ackpage_set_heartbeat(stream->page, now_boottime_ms);
        if (stream->pidfd < 0)
            continue;
        candidates[count] = stream;
        fds[count++] = (struct pollfd){.fd = stream->pidfd, .events = POLLIN};
        if (count == REAP_AT_ONCE) {
            reap(streams, candidates, fds, count);
            count = 0;
        }
    }
    reap(streams, candidates, fds, count);
}

void streams_foreach_page(const struct streams *streams,
                          void (*visit)(void *context, uint32_t host, struct ackpage *page), void *context)
{
    for (const struct stream *stream = streams->table; stream; stream = stream->hh.next)
        if (stream->page)
            visit(context, stream_host(stream), stream->page);
}
