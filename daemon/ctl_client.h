/* The asking end of the control socket: one request, one reply, in a bounded time. */
#ifndef TOLL_DAEMON_CTL_CLIENT_H
#define TOLL_DAEMON_CTL_CLIENT_H

#include <msgpack.h>
#include <stdint.h>

enum { CTL_ERROR_MAX = 512 };

/* {"command": command} and at most one argument of each kind. */
struct ctl_request {
    const char *command;
    const char *number_key; /* NULL: none */
    uint64_t number;
    const char *text_key; /* NULL: none */
    const char *text;
};

struct ctl_reply {
    msgpack_unpacked unpacked;
    const msgpack_object *data;
    char *bytes; /* what data points into */
};

/* Returns 0 and a reply for ctl_reply_done(), or
 *   -EREMOTEIO  the daemon refused: its words are in error
 *   -ETIMEDOUT, -ECONNREFUSED …  it can't be asked: error says why and what to do */
int ctl_ask(const char *path, const struct ctl_request *request, int timeout_ms, struct ctl_reply *ret,
            char error[static CTL_ERROR_MAX]) __attribute__((warn_unused_result));
void ctl_reply_done(struct ctl_reply *reply);

#endif
