/* What workers send in the stories of receive.c, and what must come of it: datagrams of every kind of frame, good and bad, in and out of
 * order, some twice. Nothing in it depends on chance. */
#ifndef TOLL_TESTS_MEMORY_WORKLOAD_H
#define TOLL_TESTS_MEMORY_WORKLOAD_H

#include "tests/unit/datagrams.h"

#include <msgpack.h>
#include <stdlib.h>

enum { STREAMS_MAX = 12, NUMBERS_MAX = 128, DATAGRAMS_MAX = 256, SESSIONS_MAX = 48, PLAIN_MAX = 32 };

/* What becomes of a number. */
enum fate { NOTHING, ROW, REFUSED, START, END };

struct sent {
    uint8_t *data;
    size_t size;
    unsigned stream; /* STREAMS_MAX: without an envelope */
};

struct workload {
    unsigned streams, sessions;
    bool poison;  /* some rows are tagged "bad": the sink refuses them */
    bool resends; /* some datagrams come twice */
    struct sent sent[DATAGRAMS_MAX];
    unsigned count;
    enum fate fate[STREAMS_MAX][NUMBERS_MAX]; /* by number, from 1 */
    unsigned last[STREAMS_MAX];               /* number */
    unsigned plain;                           /* frames without an envelope: "plain0" … */
    unsigned starts[SESSIONS_MAX], ends[SESSIONS_MAX];
};

static inline void workload_send(struct workload *w, struct bytes *bytes, unsigned stream)
{
    struct sent *sent = &w->sent[w->count++];

    assert(w->count <= DATAGRAMS_MAX);
    *sent = (struct sent){.data = malloc(bytes->size), .size = bytes->size, .stream = stream};
    assert(sent->data);
    memcpy(sent->data, bytes->data, bytes->size);
    bytes->size = 0;
}

static inline void workload_done(struct workload *w)
{
    for (unsigned i = 0; i < w->count; i++)
        free(w->sent[i].data);
}

/* An llm frame with a string to mend, a `raw` of its own and keys that nobody knows: all that decoding allocates for. */
static inline void add_odd(struct bytes *to, unsigned session)
{
    msgpack_sbuffer bytes;
    msgpack_packer p;
    uint8_t id[16];

    id_of(id, session);
    msgpack_sbuffer_init(&bytes);
    msgpack_packer_init(&p, &bytes, msgpack_sbuffer_write);
#define TEXT(text, size) msgpack_pack_str(&p, size), msgpack_pack_str_body(&p, text, size)
    msgpack_pack_map(&p, 9);
    TEXT("type", 4), TEXT("llm", 3);
    TEXT("session_id", 10), msgpack_pack_bin(&p, 16), msgpack_pack_bin_body(&p, id, 16);
    TEXT("provider", 8), TEXT("open\xff", 5);
    TEXT("model", 5), TEXT("m", 1);
    TEXT("input_tokens", 12), msgpack_pack_int(&p, 3);
    TEXT("output_tokens", 13), msgpack_pack_int(&p, 4);
    TEXT("raw", 3), msgpack_pack_map(&p, 70); /* more keys than are sorted in the first piece of memory */
    for (int i = 0; i < 70; i++) {
        char key[100];

        snprintf(key, sizeof(key), "key%095d", i);
        TEXT(key, strlen(key)), msgpack_pack_array(&p, 2), msgpack_pack_int(&p, i), TEXT("\x01\x02\x03", 3);
    }
    TEXT("key", 3), msgpack_pack_map(&p, 1), msgpack_pack_int(&p, 7), msgpack_pack_nil(&p);
    TEXT("more", 4), msgpack_pack_map(&p, 1), msgpack_pack_bin(&p, 90);
    msgpack_pack_bin_body(
        &p, "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890", 90);
    msgpack_pack_true(&p);
#undef TEXT
    add_bytes(to, bytes.data, bytes.size);
    msgpack_sbuffer_destroy(&bytes);
}

/* One frame with that number; what must come of it. */
static inline enum fate add_kind(struct workload *w, struct bytes *to, unsigned kind, unsigned session, int64_t time_us,
                                 const char *tag)
{
    static const char nonsense[] = "\x81\xa4type\xa4nope";

    switch (kind % 10) {
    case 0:
        add_tts(to, session, time_us, 100);
        return ROW;
    case 1:
        add_stt(to, session, time_us, 123456);
        return ROW;
    case 2:
        add_transcript(to, session, time_us, tag);
        return ROW;
    case 3:
        add_usage(to, "account", 1.5);
        return ROW;
    case 4:
        add_gap(to, 3);
        return ROW;
    case 5:
        add_bytes(to, nonsense, sizeof(nonsense) - 1);
        return REFUSED;
    case 6:
        add_odd(to, session);
        return ROW;
    case 7:
        add_llm(to, session, time_us, 7, 3, w->poison ? "bad" : tag);
        return w->poison ? REFUSED : ROW;
    default:
        add_llm(to, session, time_us, 10, 20, tag);
        return ROW;
    }
}

static inline void workload_begin(struct workload *w, int64_t time_us)
{
    struct bytes bytes = {.size = 0};

    for (unsigned session = 0; session < w->sessions; session++) {
        unsigned stream = session % w->streams, seq = ++w->last[stream];
        struct toll_frame frame = frame_of(TOLL_FRAME_SESSION_START, session, time_us);
        static const char metadata[] = "\x81\xa7user_id\xa4u_42";

        frame.metadata = (struct toll_str){metadata, sizeof(metadata) - 1};
        add_envelope(&bytes, stream, seq, 1, 1);
        add_frame(&bytes, &frame);
        w->fate[stream][seq] = START;
        w->starts[session]++;
        workload_send(w, &bytes, stream);
    }
}

static inline void workload_fill(struct workload *w, unsigned rounds, int64_t time_us)
{
    struct bytes bytes = {.size = 0}, again = {.size = 0};
    char tag[32];

    for (unsigned round = 0; round < rounds; round++) {
        unsigned stream = round % w->streams, frames = 1 + round % 4, first = w->last[stream] + 1;
        bool cut = round % 13 == 12;

        add_envelope(&bytes, stream, first, 1, frames + 2 * cut);
        for (unsigned i = 0; i < frames; i++) {
            snprintf(tag, sizeof(tag), "%u-%u", stream, first + i);
            w->fate[stream][first + i] =
                add_kind(w, &bytes, round + i * 3, (round * 5 + i) % w->sessions, time_us + round, tag);
        }
        w->last[stream] += frames;
        if (cut) { /* two numbers are used up by what is no frame */
            add_bytes(&bytes, "\xc1", 1);
            w->fate[stream][w->last[stream] + 1] = REFUSED;
            w->last[stream] += 2;
        }
        workload_send(w, &bytes, stream);
        if (w->resends && round % 5 == 4 && w->sent[w->count / 2].stream < STREAMS_MAX) {
            add_bytes(&again, w->sent[w->count / 2].data, w->sent[w->count / 2].size);
            workload_send(w, &again, w->sent[w->count / 2].stream);
        }
        if (round % 7 == 6) {
            snprintf(tag, sizeof(tag), "plain%u", w->plain++);
            add_llm(&bytes, round % w->sessions, time_us, 1, 1, tag);
            workload_send(w, &bytes, STREAMS_MAX);
        }
    }
}

/* Numbers that come in such an order that each is a range of its own for a while. */
static inline void workload_scatter(struct workload *w, unsigned stream, unsigned count, int64_t time_us)
{
    struct bytes bytes = {.size = 0};
    unsigned first = w->last[stream] + 1;
    char tag[32];

    for (unsigned half = 0; half < 2; half++)
        for (unsigned seq = first + half; seq < first + count; seq += 2) {
            snprintf(tag, sizeof(tag), "%u-%u", stream, seq);
            add_envelope(&bytes, stream, seq, 1, 1);
            add_llm(&bytes, seq % w->sessions, time_us, 5, 5, tag);
            w->fate[stream][seq] = ROW;
            workload_send(w, &bytes, stream);
        }
    w->last[stream] = first + count - 1;
}

/* Every other session gets its end; the others become orphans. */
static inline void workload_end(struct workload *w, int64_t time_us)
{
    struct bytes bytes = {.size = 0};

    for (unsigned session = 0; session < w->sessions; session += 2) {
        unsigned stream = session % w->streams, seq = ++w->last[stream];

        add_envelope(&bytes, stream, seq, 1, 1);
        add_end(&bytes, session, time_us, "stop");
        w->fate[stream][seq] = END;
        w->ends[session]++;
        workload_send(w, &bytes, stream);
    }
}

#endif
