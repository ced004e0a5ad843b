/* The writers of a journal, as one: sessions are shared out by hash over several of them (share.h), each with its own thread, sink and watermark.
 *
 * What concerns all of them is decided here: they begin to store when all have compared notes with the sink; a journal that was taken back or is used
 * twice is renewed from what the last of them needs; and where their number was changed, those of old bring all to one LSN first. All functions are for
 * the main thread. */
#ifndef TOLL_DAEMON_WRITERS_H
#define TOLL_DAEMON_WRITERS_H

#include "daemon/apply.h"
#include "daemon/journal.h"
#include "daemon/metrics.h"
#include "daemon/sink.h"
#include "daemon/writer.h"

#include <stdbool.h>
#include <stdint.h>

struct writers_options {
    struct writer_options writer; /* progress() may come from any of their threads */
    unsigned count;               /* 1 … SHARE_WRITERS_MAX */
    /* Makes a sink for one of them, before its thread begins. NULL: out of memory. */
    struct sink *(*sink)(void *context);
    void *sink_context;
};

struct writers; /* opaque */

/* Starts them. Borrows journal and metrics until writers_free(). 0, -ENOMEM or another -errno. */
int writers_new(struct writers **ret, const struct writers_options *options, struct journal *journal,
                struct metrics *metrics) __attribute__((warn_unused_result));
/* Waits for the threads to end: call it in state WRITER_DONE, or it waits for the sink. Frees the sinks. Takes NULL. */
void writers_free(struct writers *writers);

/* All of them: the worst state and its reason, the lowest watermark. */
void writers_get_status(struct writers *writers, struct writer_status *ret);
/* After progress(): gives the next orders. */
void writers_look(struct writers *writers);

/* In state WRITER_RENEW, once the journal is quiet: renews it. 0; -EAGAIN: not in that state; or journal_renew()'s results. */
int writers_renew(struct writers *writers) __attribute__((warn_unused_result));

void writers_set_options(struct writers *writers, const struct writer_options *options);
void writers_wake(struct writers *writers);
void writers_hurry(struct writers *writers, uint64_t lsn);
void writers_stop(struct writers *writers);

/* How many there are now, and one of them. */
unsigned writers_count(const struct writers *writers);
void writers_get_one(struct writers *writers, unsigned writer, struct writer_status *ret);

const char *writers_sink_name(const struct writers *writers);

/* Live sessions: see apply.h. Thread-safe. */
void writers_sessions(struct writers *writers, bool (*visit)(void *context, const struct session *session),
                      void *context); /* writer by writer, the latest of each first; false ends that writer's */
bool writers_session(struct writers *writers, const uint8_t id[static 16], struct session *ret);
size_t writers_session_count(struct writers *writers);

#endif
