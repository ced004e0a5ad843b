/* The quarantine's door: which datagrams are refused because the quarantine is full. The one place before the journal that looks into frames,
 * and only while there is reason to.
 *
 * While the quarantine has `limit` rows (the metric quarantine_rows, and what is known to be on its way there), a datagram with a frame that does
 * not decode is refused whole, unless all of its numbers have been journaled before. For the loop's thread. */
#ifndef TOLL_DAEMON_DOOR_H
#define TOLL_DAEMON_DOOR_H

#include "daemon/datagram.h"
#include "daemon/listener.h"
#include "daemon/metrics.h"
#include "daemon/streams.h"

#include <stdint.h>

struct door; /* opaque */

/* Borrows the metrics. No limit yet. NULL: out of memory. */
struct door *door_new(const struct metrics *metrics);
void door_free(struct door *door); /* takes NULL */
void door_set_limit(struct door *door, uint64_t rows);

/* parts: of the datagram, opened. stream: NULL without an envelope. frames: how many it holds. 0: let it in. -EINVAL: it is refused, and the
 * stream knows; -EAGAIN: out of memory. */
int door_pass(struct door *door, const struct datagram *datagram, const struct datagram_parts *parts,
              struct stream *stream, uint64_t frames) __attribute__((warn_unused_result));

#endif
