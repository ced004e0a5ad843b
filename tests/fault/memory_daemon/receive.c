/* Datagrams from a socket to a sink, through the daemon's own receive loop, journal and writer (world.h): all is stored once, whatever had no memory. */
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/clock.h"
#include "tests/fault/memory_daemon/world.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
            world_turn(w);
        w->ahead_us += HOUR_US / 2;
    }
    complain(w->outcome, "sessions that are idle never end");
}

/* --- the stories --------------------------------------------------------------------------------------------------------------- */

/* All was sent: then all must be there. */
static void finish(struct world *w)
{
    world_settle(w);
    world_await_acks(w);
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

    world_start(w);
    world_send(w, 0, w->load.count);
    finish(w);
}

void refused_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, true);

    world_start(w);
    world_send(w, 0, w->load.count);
    finish(w);
}

void evicted_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, STREAMS_MAX, 40, false);

    w->streams_options.max_per_uid = 5;
    w->streams_options.pages_max = 3;
    w->writer_options.apply.sessions_max = 6;
    w->writer_options.apply.streams_max = 4;
    world_start(w);
    world_send(w, 0, w->load.count);
    finish(w);
}

void taken_back_story(struct outcome *outcome)
{
    struct world *w = world_new(outcome, 3, 8, false);
    struct fake_state older;

    world_start(w);
    world_send(w, 0, w->load.count / 3);
    world_settle(w);
    failing_quiet++;
    older = fake_state_copy(&w->db.now);
    failing_quiet--;
    world_send(w, w->load.count / 3, 2 * w->load.count / 3);
    world_settle(w);
    failing_quiet++;
    fake_db_restore(&w->db, &older);
    failing_quiet--;
    world_send(w, 2 * w->load.count / 3, w->load.count);
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
    world_start(w);
    while (next < count && failing.failed == 0) {
        world_send(w, next, next + 1);
        next++;
    }
    world_die(w);
    w->streams_options.epoch++;
    world_start(w);
    world_send(w, 0, count);
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
    world_start(w);
    world_send(w, 0, w->load.count);
    world_settle(w);
    world_await_acks(w);
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
