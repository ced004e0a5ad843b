/* The sink that stores in PostgreSQL: each batch in one transaction that begins with a compare-and-set of the journal's watermark. */
#ifndef TOLL_DAEMON_SINK_POSTGRES_H
#define TOLL_DAEMON_SINK_POSTGRES_H

#include "daemon/sink.h"

#include <stdbool.h>

struct sink_postgres_options {
    const char *url; /* copied */
    bool auto_migrate;
    int connect_timeout_s, tcp_user_timeout_ms;
    int takeover_s; /* live sessions of a journal silent for that long are anybody's to close */
};

struct sink *sink_postgres_new(const struct sink_postgres_options *options); /* NULL: out of memory; does not connect */

#endif
