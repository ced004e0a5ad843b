/* The daemon's counters and gauges, by name.
 *
 * Plain atomic numbers in a struct that its owner allocates (zeroed); how they are shown is somebody else's
 * matter. */
#ifndef TOLL_DAEMON_METRICS_H
#define TOLL_DAEMON_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* ONE table: name, kind, help. A counter only grows while the daemon runs; a gauge is set. */
#define METRICS_TABLE(X)                                                                                               \
    X(datagrams_received, COUNTER, "Datagrams read from the socket")                                                   \
    X(datagrams_truncated, COUNTER, "Datagrams longer than 65536 bytes, cut by the kernel")                            \
    X(datagrams_refused, COUNTER, "Datagrams not journaled: a broken stream, or invalid and the quarantine full")      \
    X(descriptors_refused, COUNTER, "Received descriptors that were no valid ack page")                                \
    X(bytes_received, COUNTER, "Bytes of datagrams read from the socket")                                              \
    X(frames_received, COUNTER, "Frames received, those replayed from the journal included")                           \
    X(frames_replayed, COUNTER, "Frames read again from the journal of an earlier run")                                \
    X(frames_stored, COUNTER, "Frames committed to the sink")                                                          \
    X(frames_duplicate, COUNTER, "Frames dropped because their number was applied before")                             \
    X(frames_quarantined, COUNTER, "Frames put into quarantine")                                                       \
    X(quarantine_rows, GAUGE, "Rows in quarantine, of everybody")                                                      \
    X(strings_replaced, COUNTER, "Strings in which NUL or invalid UTF-8 was replaced")                                 \
    X(streams, GAUGE, "Streams in memory")                                                                             \
    X(ack_pages, GAUGE, "Ack pages mapped")                                                                            \
    X(intake_paused, GAUGE, "1 while the daemon reads no datagrams because space ran out")                             \
    X(journal_syncs, COUNTER, "Syncs of the journal")                                                                  \
    X(journal_sync_us_total, COUNTER, "Microseconds spent in syncs of the journal")                                    \
    X(journal_bytes, GAUGE, "Bytes of the journal's segments on disk")                                                 \
    X(batches_committed, COUNTER, "Batches committed to the sink")                                                     \
    X(batches_retried, COUNTER, "Batches tried again after an error")                                                  \
    X(rows_events, COUNTER, "Rows written to billing_events")                                                          \
    X(rows_transcripts, COUNTER, "Rows written to session_transcripts")                                                \
    X(sessions_live, GAUGE, "Sessions in memory that have not ended")                                                  \
    X(sessions_started, COUNTER, "Sessions started")                                                                   \
    X(sessions_ended, COUNTER, "Sessions that ended with their session_end")                                           \
    X(sessions_orphaned, COUNTER, "Sessions closed because they went idle")                                            \
    X(sessions_recomputed, COUNTER, "Totals summed again from the stored events")                                      \
    X(gaps_reported, COUNTER, "gap frames received")                                                                   \
    X(gap_frames, COUNTER, "Frames that senders reported as refused in gap frames")                                    \
    X(events_rated, COUNTER, "Events that this daemon rated, whoever stored them")                                     \
    X(lines_written, COUNTER, "Lines that rating wrote to billing_charges")                                            \
    X(rating_waiting, GAUGE, "Events that are stored and not rated yet, of everybody")                                 \
    X(rating_lag_ms, GAUGE, "Milliseconds that the oldest stored batch has waited to be rated")                        \
    X(rating_failures, COUNTER, "Calls of rating that failed and were put off")                                        \
    X(rating_conflicts, COUNTER, "Transactions of rating that were repeated after a deadlock or conflict")             \
    X(credit_low, GAUGE, "Live sessions whose credit is low, of everybody")                                            \
    X(credit_exhausted, GAUGE, "Live sessions whose credit is exhausted, of everybody")                                \
    X(alarms, GAUGE, "Alarms that are raised: see tollctl status")

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE };

struct metrics {
#define METRICS_FIELD(name, kind, help) _Atomic uint64_t name;
    METRICS_TABLE(METRICS_FIELD)
#undef METRICS_FIELD
};

/* All thread-safe and without order between different metrics: a reader may see one of two related ones
 * first. */
static inline void metrics_add(_Atomic uint64_t *metric, uint64_t n)
{
    atomic_fetch_add_explicit(metric, n, memory_order_relaxed);
}

static inline void metrics_set(_Atomic uint64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

static inline uint64_t metrics_get(const _Atomic uint64_t *metric)
{
    return atomic_load_explicit(metric, memory_order_relaxed);
}

typedef void metrics_visit(void *context, const char *name, enum metric_kind kind, const char *help, uint64_t value);

/* Calls visit once for every metric, in the table's order. */
void metrics_foreach(const struct metrics *metrics, metrics_visit *visit, void *context);

#endif
