/* The sink without a database: every frame as a line of JSON on a descriptor, and a line with totals when a session ends.
 *
 * Exactly once as long as the process lives and memory lasts; after a crash the last batch may be written again. */
#ifndef TOLL_DAEMON_SINK_LOG_H
#define TOLL_DAEMON_SINK_LOG_H

#include "daemon/sink.h"

struct sink_log_options {
    int fd;
    /* Where the watermark is kept between runs: 0 or -errno, and the size or -errno. */
    int (*save)(void *context, const void *data, size_t size);
    long (*load)(void *context, void *data, size_t cap);
    void *context;
};

struct sink *sink_log_new(const struct sink_log_options *options); /* NULL: out of memory */

#endif
