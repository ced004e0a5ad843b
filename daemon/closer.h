/* Closes descriptors that workers should not have sent, on a thread of its own: closing may block, and neither the receive loop nor
 * libuv's pool may wait for that.
 *
 * A socket with SO_LINGER and unsent data blocks close() for as long as its sender likes, and so does one that waits in the queue of another
 * socket (both measured). That wait ends with a signal, so while there is something to close, the thread sends itself some 20,000 a second.
 * What it can't end: a file whose close() waits for a file system that has stopped answering (FUSE, NFS). Then closer_stuck() tells. */
#ifndef TOLL_DAEMON_CLOSER_H
#define TOLL_DAEMON_CLOSER_H

#include <stdbool.h>
#include <stddef.h>

struct closer; /* opaque */

int closer_new(struct closer **ret) __attribute__((warn_unused_result)); /* 0 or -errno */
/* Leaves what is still being closed to the process's end. Takes NULL. */
void closer_free(struct closer *closer);
/* Takes the descriptors over. They are closed here and now only if there is no memory to remember them. */
void closer_close(struct closer *closer, const int *fds, size_t count);
size_t closer_waiting(struct closer *closer); /* not closed yet */
/* Whether one close() has taken seconds. */
bool closer_stuck(struct closer *closer);

#endif
