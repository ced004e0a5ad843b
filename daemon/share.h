/* Which of several writers stores a frame. Sessions are shared out by a hash of their id, so that each is one writer's own; what names no session (usage of
 * an account, bytes that are no frame) is writer 0's. Pure.
 *
 * The rule is kept for ever: numbers of a stream that are marked as seen in the database are understood by it (toll.streams). */
#ifndef TOLL_DAEMON_SHARE_H
#define TOLL_DAEMON_SHARE_H

#include <stddef.h>
#include <stdint.h>

enum { SHARE_WRITERS_MAX = 64 };

/* The writer, below `writers`, of one frame as datagram_next() gave it (not a broken one: that is writer 0's). Depends on its bytes alone. */
unsigned share_of_frame(const void *data, size_t size, unsigned writers);
unsigned share_of_session(const uint8_t id[static 16], unsigned writers);

#endif
