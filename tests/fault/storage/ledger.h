/* What the senders know: which frames they sent, which of them they were told are durable; and the oracle, which compares
 * that with what the database holds. Everything about frame n follows from n and its place in the ledger, so a row that
 * is not as it was sent is noticed.
 *
 * Times are moments: numbers of what can be seen from outside (an acknowledgement, a commit), in order. */
#ifndef TOLL_TESTS_STORAGE_LEDGER_H
#define TOLL_TESTS_STORAGE_LEDGER_H

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/frame.h"
#include "tests/unit/fake_db.h"

enum { FRAMES_MAX = 1024, SENDERS = 4, SESSION_FRAMES = 7, GROUP_FRAMES_MAX = 3 };
enum { NO_ENVELOPE = 0 }; /* the sender that uses none: never told anything, so never sends again */
enum { NEVER = INT_MAX }; /* a moment */
#define LEDGER_EPOCH INT64_C(1800000000000000) /* µs; 2027 */

struct sent {
    int sender, session;
    enum toll_frame_type type;
    uint64_t seq;
    int sent_at, acked_at; /* moments */
    uint64_t end_lsn;      /* in this run of the daemon its record ends there; 0: the run has not seen it */
};

struct ledger {
    struct sent frames[FRAMES_MAX];
    int count;
    int of[SENDERS][FRAMES_MAX]; /* each sender's frames, by number - 1 */
    int sent[SENDERS];           /* how many that are */
};

/* Figures, and complaints with the state they are about. */
struct outcome {
    uint64_t lost, duplicated, wrong_totals, violations;
    unsigned complaints;
    char state[256]; /* set by the program: how to see this state again */
};

__attribute__((format(printf, 3, 4))) static inline void complain(struct outcome *outcome, uint64_t *figure,
                                                                  const char *format, ...)
{
    va_list arguments;

    ++*figure;
    if (++outcome->complaints > 20)
        return;
    fprintf(stderr, "%s: ", outcome->state);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static inline bool outcome_good(const struct outcome *outcome)
{
    return outcome->lost + outcome->duplicated + outcome->wrong_totals + outcome->violations == 0;
}

static inline void outcome_print(const struct outcome *outcome, const char *fault)
{
    printf("%s lost %llu duplicated %llu wrong_totals %llu", fault, (unsigned long long)outcome->lost,
           (unsigned long long)outcome->duplicated, (unsigned long long)outcome->wrong_totals);
}

/* Frames. */

static inline uint32_t sender_uid(int sender)
{
    return 1000 + (uint32_t)sender / 2;
}

static inline void ledger_id(uint8_t id[16], uint8_t kind, int number)
{
    memset(id, kind, 16);
    memcpy(id + 1, &number, sizeof number);
}

static inline int ledger_number(const uint8_t id[16])
{
    int number;
    memcpy(&number, id + 1, sizeof number);
    return number;
}

/* Notes the sender's next frame and returns its n. Seven make a session: start, five that count, end. */
static inline int ledger_new(struct ledger *ledger, int sender, int moment)
{
    static const enum toll_frame_type types[] = {TOLL_FRAME_LLM, TOLL_FRAME_TTS, TOLL_FRAME_STT, TOLL_FRAME_TRANSCRIPT};
    int n = ledger->count++, at = ledger->sent[sender]++;
    int session = at / SESSION_FRAMES, part = at % SESSION_FRAMES;

    assert(n < FRAMES_MAX);
    ledger->of[sender][at] = n;
    struct sent *frame = &ledger->frames[n];
    *frame = (struct sent){.sender = sender, .seq = (uint64_t)at + 1, .sent_at = moment, .acked_at = NEVER};
    frame->type = part == 0                    ? TOLL_FRAME_SESSION_START
                  : part == SESSION_FRAMES - 1 ? TOLL_FRAME_SESSION_END
                                               : types[n % 4];
    if (session > 0 && part == 3 && session % 2) /* a late one: totals that were final change */
        session--;
    frame->session = session * SENDERS + sender;
    return n;
}

static inline struct session_totals ledger_adds(const struct ledger *ledger, int n)
{
    struct session_totals adds = {0};

    switch (ledger->frames[n].type) {
    case TOLL_FRAME_LLM:
        adds.llm_input_tokens = 1 + n % 89;
        adds.llm_output_tokens = n % 31;
        adds.llm_calls = 1;
        break;
    case TOLL_FRAME_TTS:
        adds.tts_chars = 5 + n % 70;
        adds.tts_calls = 1;
        break;
    case TOLL_FRAME_STT:
        adds.stt_audio_us = 1000 * (1 + n % 90);
        adds.stt_calls = 1;
        break;
    default:
        break;
    }
    return adds;
}

static inline size_t ledger_put(const struct toll_frame *frame, uint8_t *out, size_t cap)
{
    int size = toll_frame_encode(frame, out, cap);
    assert(size > 0);
    return (size_t)size;
}

static inline struct toll_str ledger_text(const char *text)
{
    return (struct toll_str){text, (uint32_t)strlen(text)};
}

static inline size_t ledger_encode(const struct ledger *ledger, int n, uint8_t *out, size_t cap)
{
    const struct sent *sent = &ledger->frames[n];
    const struct session_totals adds = ledger_adds(ledger, n);
    struct toll_frame frame;
    char tag[16];

    snprintf(tag, sizeof tag, "f%d", n);
    toll_frame_init(&frame, sent->type);
    frame.has_session_id = true;
    ledger_id(frame.session_id, 0x5e, sent->session);
    frame.time_us = LEDGER_EPOCH + n;
    if (sent->type == TOLL_FRAME_TRANSCRIPT) {
        frame.role = ledger_text("user");
        frame.text = ledger_text(tag);
    } else if (sent->type != TOLL_FRAME_SESSION_START && sent->type != TOLL_FRAME_SESSION_END) {
        frame.provider = ledger_text("p");
        frame.model = ledger_text("m");
        frame.request_id = ledger_text(tag);
        frame.input_tokens = (int32_t)adds.llm_input_tokens;
        frame.output_tokens = (int32_t)adds.llm_output_tokens;
        frame.char_count = (int32_t)adds.tts_chars;
        frame.audio_duration_us = adds.stt_audio_us;
        if (sent->type != TOLL_FRAME_LLM)
            frame.input_tokens = frame.output_tokens = TOLL_ABSENT;
    }
    return ledger_put(&frame, out, cap);
}

/* The datagram of the sender's frames with the numbers [seq, seq + count). */
static inline size_t ledger_datagram(const struct ledger *ledger, int sender, uint64_t seq, int count, uint8_t *out,
                                     size_t cap)
{
    const int *mine = ledger->of[sender];
    size_t size = 0;

    if (sender != NO_ENVELOPE) {
        struct toll_frame envelope;
        int base = 0;
        while (base < ledger->sent[sender] && ledger->frames[mine[base]].acked_at != NEVER)
            base++;
        toll_frame_init(&envelope, TOLL_FRAME_STREAM);
        ledger_id(envelope.stream_id, 0x77, sender);
        envelope.stream_seq = seq;
        envelope.stream_base = (uint64_t)base + 1 < seq ? (uint64_t)base + 1 : seq;
        envelope.stream_count = (uint64_t)count;
        size = ledger_put(&envelope, out, cap);
    }
    for (int i = 0; i < count; i++)
        size += ledger_encode(ledger, mine[seq - 1 + (uint64_t)i], out + size, cap - size);
    return size;
}

/* The oracle. */

/* Counts how often each frame is stored, and complains of rows that were never sent like that. */
static inline void ledger_count(const struct ledger *ledger, const struct fake_db *db, int times[FRAMES_MAX],
                                struct outcome *outcome)
{
    memset(times, 0, FRAMES_MAX * sizeof *times);
    for (size_t i = 0; i < db->now.row_count; i++) {
        const struct fake_row *row = &db->rows[i];
        int n = row->tag[0] == 'f' ? atoi(row->tag + 1) : -1;
        if (n < 0 || n >= ledger->count) {
            complain(outcome, &outcome->violations, "row %zu was never sent", i);
            continue;
        }
        const struct sent *sent = &ledger->frames[n];
        struct session_totals adds = ledger_adds(ledger, n);
        times[n]++;
        if (row->type != sent->type || row->uid != sender_uid(sent->sender) ||
            (sent->sender != NO_ENVELOPE && row->seq != sent->seq) || ledger_number(row->session_id) != sent->session ||
            !fake_totals_equal(&row->adds, &adds))
            complain(outcome, &outcome->violations, "frame %d is stored otherwise than it was sent", n);
    }
    for (int n = 0; n < ledger->count; n++) {
        const struct sent *sent = &ledger->frames[n];
        uint8_t id[16];
        if (sent->type != TOLL_FRAME_SESSION_START && sent->type != TOLL_FRAME_SESSION_END)
            continue;
        ledger_id(id, 0x5e, sent->session);
        for (size_t i = 0; i < db->now.session_count; i++)
            if (memcmp(db->now.sessions[i].id, id, 16) == 0)
                times[n] = (int)(sent->type == TOLL_FRAME_SESSION_START ? db->now.sessions[i].starts
                                                                        : db->now.sessions[i].ends);
    }
}

static inline void ledger_check_totals(const struct fake_db *db, struct outcome *outcome)
{
    static struct session_totals sums[FRAMES_MAX]; /* by number */
    static const struct session_totals none;

    memset(sums, 0, sizeof sums);
    for (size_t i = 0; i < db->now.row_count; i++) {
        int session = ledger_number(db->rows[i].session_id);
        if (session >= 0 && session < FRAMES_MAX)
            fake_totals_add(&sums[session], &db->rows[i].adds);
    }
    for (size_t i = 0; i < db->now.session_count; i++) {
        const struct fake_session *session = &db->now.sessions[i];
        int number = ledger_number(session->id);
        if (number < 0 || number >= FRAMES_MAX)
            complain(outcome, &outcome->violations, "session %zu was never sent", i);
        else if (!fake_totals_equal(&session->totals, session->ended ? &sums[number] : &none))
            complain(outcome, &outcome->wrong_totals, "session %d: totals are not the sum of its rows", number);
    }
}

/* Compares the database with what the senders knew at a moment: what was acknowledged is there once, nothing is there twice,
 * nothing that was not sent by then. `excused` (may be NULL) says which frames may be missing. `once`: what no envelope
 * numbers is there at most once, too. */
static inline void ledger_judge(const struct ledger *ledger, const struct fake_db *db, int moment, bool once,
                                bool (*excused)(void *context, int n), void *context, struct outcome *outcome)
{
    int times[FRAMES_MAX];

    ledger_count(ledger, db, times, outcome);
    for (int n = 0; n < ledger->count; n++) {
        const struct sent *sent = &ledger->frames[n];
        if (times[n] > 0 && sent->sent_at > moment)
            complain(outcome, &outcome->violations, "frame %d is stored before it was sent", n);
        if (times[n] > 1 && (once || sent->sender != NO_ENVELOPE))
            complain(outcome, &outcome->duplicated, "frame %d (sender %d, number %llu) is stored %d times", n,
                     sent->sender, (unsigned long long)sent->seq, times[n]);
        if (times[n] == 0 && sent->acked_at <= moment && !(excused && excused(context, n)))
            complain(outcome, &outcome->lost, "frame %d (sender %d, number %llu) was acknowledged and is not stored", n,
                     sent->sender, (unsigned long long)sent->seq);
    }
    ledger_check_totals(db, outcome);
}

#endif
