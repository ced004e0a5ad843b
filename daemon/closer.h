/* Closes descriptors that workers should not have sent, on a thread of its own: closing may block (a socket with SO_LINGER, a file on
 * a dead mount), and neither the receive loop nor libuv's pool may wait for that. */
#ifndef TOLL_DAEMON_CLOSER_H
#define TOLL_DAEMON_CLOSER_H

#include <stddef.h>

struct closer; /* opaque */

int closer_new(struct closer **ret) __attribute__((warn_unused_result)); /* 0 or -errno */
/* Leaves what is still being closed to the process's end. Takes NULL. */
void closer_free(struct closer *closer);
/* Takes the descriptors over. They are closed here and now only if there is no memory to remember them. */
void closer_close(struct closer *closer, const int *fds, size_t count);
size_t closer_waiting(struct closer *closer); /* not closed yet */

#endif
