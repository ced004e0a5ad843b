/* What test workers do, written where their death can't take it: a file that they map shared.
 *
 * A frame's entry is claimed before it is recorded and completed when record() has returned, so that whoever
 * reads the file knows what was recorded, and what libtoll had given to the kernel by then. A handle's slot says how
 * it stands with its stream. Entries and slots are taken by counting up, by any thread of any process that
 * shares the mapping. tests/support/worker.py reads it and knows this layout.
 *
 * Every frame can be told from every other: events by their request id, transcripts by their text. */
#ifndef TOLL_TESTS_TALLY_H
#define TOLL_TESTS_TALLY_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "client/handle.h"

enum { TALLY_SLOTS = 1024, TALLY_ENTRIES = 1 << 20, TALLY_TEXT_MAX = 8192 };

enum tally_type { TALLY_START = 1, TALLY_LLM, TALLY_TRANSCRIPT, TALLY_END };
enum tally_entry_state { TALLY_CLAIMED = 1, TALLY_RECORDED, TALLY_REFUSED };
enum tally_slot_state {
    TALLY_LIVE = 1,
    TALLY_FLUSHED,   /* all is acknowledged, and the handle closed */
    TALLY_TIMED_OUT, /* closed, and not all was */
    TALLY_DYING,     /* about to kill itself */
    TALLY_RAW,       /* no handle: a plain sender */
};

struct tally_slot {
    uint8_t stream[16];
    uint32_t pid;
    _Atomic uint32_t state;
    _Atomic uint64_t sent; /* every number up to this was given to the kernel */
    _Atomic uint64_t acked, recorded, refused, gaps, resent, blocked, reconnects;
};

struct tally_entry {
    _Atomic uint32_t state;
    uint32_t slot, type, text_bytes;
    uint8_t session[16];
    int64_t at_us;
    uint64_t seq; /* its number, or a higher one; 0: not known, as others record through the same handle */
    uint64_t began_ns, took_ns; /* CLOCK_MONOTONIC; of the call */
    uint64_t acked_ns;          /* when it was seen to be durable; 0: not seen */
    uint64_t bare_ns;           /* an empty wait of TALLY_BARE_NS just before took so long */
    uint32_t input, output;
};

struct tally {
    _Atomic uint32_t slots, entries;
    _Atomic uint32_t forks, forks_outstanding; /* of these: with frames outstanding in the parent */
    struct tally_slot slot[TALLY_SLOTS];
    struct tally_entry entry[TALLY_ENTRIES];
};

enum { TALLY_BARE_NS = 5000 };

static inline uint64_t tally_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline int64_t tally_real_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static inline void tally_sleep_us(uint64_t us)
{
    nanosleep(&(struct timespec){.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000}, NULL);
}

/* What tally_random() begins with. */
static inline uint64_t tally_seed(uint64_t seed)
{
    return (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) | 1;
}

/* xorshift64, as in client/link.c. Up to, but without, `below`. */
static inline uint64_t tally_random(uint64_t *random, uint64_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random % below;
}

static inline void tally_fail(const char *what, int error)
{
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(EXIT_FAILURE);
}

static inline struct tally *tally_map(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, sizeof(struct tally)) < 0)
        tally_fail(path, errno);
    void *map = mmap(NULL, sizeof(struct tally), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        tally_fail(path, errno);
    close(fd);
    return map;
}

static inline uint32_t tally_claim_slot(struct tally *tally)
{
    uint32_t index = tally->slots++;
    if (index >= TALLY_SLOTS)
        tally_fail("slots", ENOSPC);
    tally->slot[index].pid = (uint32_t)getpid();
    tally->slot[index].state = TALLY_LIVE;
    return index;
}

/* NULL: the file is full. */
static inline struct tally_entry *tally_claim(struct tally *tally, uint32_t slot, enum tally_type type,
                                              const uint8_t session[16])
{
    uint32_t index = tally->entries++;
    if (index >= TALLY_ENTRIES) {
        tally->entries = TALLY_ENTRIES;
        return NULL;
    }
    struct tally_entry *e = &tally->entry[index];
    e->slot = slot;
    e->type = type;
    memcpy(e->session, session, sizeof e->session);
    e->at_us = tally_real_us();
    e->input = index % 1000;
    e->output = index % 77;
    return e;
}

static inline uint32_t tally_index(const struct tally *tally, const struct tally_entry *e)
{
    return (uint32_t)(e - tally->entry);
}

/* The frame of an entry. The text of a transcript is the entry's index, filled up with x to text_bytes. */
static inline int tally_send(struct tally *tally, struct toll *toll, const struct tally_entry *e)
{
    char name[TALLY_TEXT_MAX + 1];
    int size = snprintf(name, sizeof name, "%u", tally_index(tally, e));
    switch (e->type) {
    case TALLY_START: {
        const struct toll_pair pair = {"user_id", name};
        return toll_session_start(
            toll, e->session,
            &(struct toll_session_info){.started_at_us = e->at_us, .metadata = {.pairs = &pair, .count = 1}});
    }
    case TALLY_LLM:
        return toll_llm(toll, e->session,
                        &(struct toll_llm_usage){.provider = "openai",
                                                 .model = "gpt-4o",
                                                 .request_id = name,
                                                 .input_tokens = e->input,
                                                 .output_tokens = e->output,
                                                 .occurred_at_us = e->at_us});
    case TALLY_TRANSCRIPT:
        if ((uint32_t)size < e->text_bytes)
            memset(name + size, 'x', e->text_bytes - (uint32_t)size);
        name[(uint32_t)size < e->text_bytes ? e->text_bytes : (uint32_t)size] = '\0';
        return toll_transcript(toll, e->session,
                               &(struct toll_turn){.role = "user", .text = name, .occurred_at_us = e->at_us});
    default:
        return toll_session_end(toll, e->session, &(struct toll_session_result){.ended_at_us = e->at_us});
    }
}

/* Writes down how the handle stands. Returns the number of the last frame that was put into its ring. */
static inline uint64_t tally_note(struct tally_slot *slot, struct toll *toll)
{
    static const uint8_t nobody[sizeof slot->stream];
    struct toll_stats stats;
    (void)toll_stats(toll, &stats);
    pthread_mutex_lock(&toll->sender.lock);
    uint64_t sent = toll->sender.ring.sent_seq, last = toll->sender.ring.tail_seq - 1;
    uint64_t acked = toll->sender.ring.head_seq - 1;
    pthread_mutex_unlock(&toll->sender.lock);
    if (memcmp(slot->stream, nobody, sizeof nobody) == 0) /* before any other thread is there */
        memcpy(slot->stream, stats.stream_id, sizeof slot->stream);
    slot->sent = sent;
    slot->acked = acked;
    slot->recorded = stats.recorded;
    slot->refused = stats.refused_full;
    slot->gaps = stats.gaps;
    slot->resent = stats.resent;
    slot->blocked = stats.blocked;
    slot->reconnects = stats.reconnects;
    return last;
}

/* Records a claimed frame and completes its entry. `alone`: no other thread puts frames into this handle's ring.
 * Returns what the library did. */
static inline int tally_record(struct tally *tally, struct toll *toll, struct tally_entry *e, bool alone)
{
    atomic_store(&e->state, TALLY_CLAIMED);
    e->began_ns = tally_now_ns();
    int r = tally_send(tally, toll, e);
    e->took_ns = tally_now_ns() - e->began_ns;
    uint64_t last = tally_note(&tally->slot[e->slot], toll);
    if (r == 0 && alone)
        e->seq = last;
    atomic_store(&e->state, r == 0 ? TALLY_RECORDED : TALLY_REFUSED);
    return r;
}

/* Flushes, closes, and says in the slot what came of it. */
static inline void tally_close(struct tally_slot *slot, struct toll *toll, uint32_t flush_ms)
{
    int r = toll_flush(toll, flush_ms);
    tally_note(slot, toll);
    (void)toll_close(toll, 0);
    slot->state = r == 0 ? TALLY_FLUSHED : TALLY_TIMED_OUT;
}

#endif
