/* Which live sessions are short of credit, and which senders' ack pages are to say so.
 *
 * The list is read from the database by rating; a session that is not in it is ok. Whose page: the senders ("hosts") whose frames of the session came
 * last, as the writers' memory knows, or as the receive loop sees frames pass by. A host is a number of 28 bits made of a stream's identity: two streams
 * that have the same number are told of each other's sessions, which they never ask for. Belongs to one thread. */
#ifndef TOLL_DAEMON_CREDIT_H
#define TOLL_DAEMON_CREDIT_H

#include "daemon/ackpage.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum credit_state { CREDIT_LOW = 1, CREDIT_EXHAUSTED = 2 }; /* as in the ack page */

enum { CREDIT_HOSTS = 2 };

struct credit_session {
    uint8_t id[16];
    uint32_t state;               /* enum credit_state */
    uint32_t hosts[CREDIT_HOSTS]; /* the latest first; 0: none */
    uint32_t began; /* the host that it began at, as the database knows: for want of better; 0: not known */
};

struct credit; /* opaque */

struct credit *credit_new(void);         /* NULL: out of memory */
void credit_free(struct credit *credit); /* takes NULL */

/* Takes over a new list, and owns it from then on; what was noted of sessions that are in both stays. 0 or -ENOMEM: the old list stays, and the new one is
 * the caller's. */
int credit_replace(struct credit *credit, struct credit_session *list, size_t count)
    __attribute__((warn_unused_result));

/* No session is short: nothing needs noting. */
bool credit_none(const struct credit *credit);

/* A frame of that session has come from that host. */
void credit_note(struct credit *credit, const uint8_t id[static 16], uint32_t host);

/* Whether pages may have to say something else than at the last credit_shown(). */
bool credit_changed(const struct credit *credit);
void credit_shown(struct credit *credit);
/* Writes the table of a host's page: its sessions, the exhausted ones first. */
void credit_show(struct credit *credit, uint32_t host, struct ackpage *page);

#endif
