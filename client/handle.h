/* What a toll handle is. Private to libtoll and its tests. */
#ifndef TOLL_CLIENT_HANDLE_H
#define TOLL_CLIENT_HANDLE_H

#include "client/forkguard.h"
#include "client/sender.h"
#include "client/ticker.h"
#include "client/toll.h"
#include "client/totals.h"

/* One mapping holds a page for the guard, then this, then the sessions' table, then the ring. */
struct toll {
    struct toll_forkguard guard;
    struct toll_totals totals; /* under the sender's lock, as are the buffers below */
    struct toll_sender sender; /* begins with what every record() uses */
    struct toll_ticker ticker;
    uint8_t frame[TOLL_DATAGRAM_MAX]; /* being encoded */
    uint8_t map[TOLL_DATAGRAM_MAX];   /* its metadata or raw */
    void *memory;
    size_t memory_bytes;
};

/* What every function does first. In the first use by a forked child it makes the handle the child's own: see
 * toll.h on forking. Otherwise it costs one load. */
void toll_enter(struct toll *toll);

#endif
