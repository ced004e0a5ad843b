/* The configuration: what can be set, what it is set to, and what changed.
 *
 * One table of options (config_options.c) serves reading, defaults, checking, `tolld --help` and the
 * documentation. Stages never see this struct: whoever starts them copies what they need into their own
 * options. Single-threaded. */
#ifndef TOLL_DAEMON_CONFIG_H
#define TOLL_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_DEFAULT_PATH "/etc/toll/tolld.conf"

enum config_ack { CONFIG_ACK_SYNC, CONFIG_ACK_WRITE, CONFIG_ACK_COMMIT };

/* Strings belong to the struct and are never NULL; "" is: not set. Durations are µs. */
struct config {
    struct {
        char *socket, *control, *state_dir;
        int socket_mode, control_mode;
        int log_level; /* enum log_level */
        int64_t shutdown_deadline_us;
        bool adopt_journal;
    } daemon;
    struct {
        char *url; /* secret: never printed; "" means the log sink */
        bool auto_migrate;
        int64_t connect_timeout_us, tcp_user_timeout_us, retry_max_us;
        int64_t writers;
    } database;
    struct {
        int ack; /* enum config_ack */
        int64_t segment_bytes, max_bytes, min_free_bytes;
        int64_t retention_us;
    } journal;
    struct {
        int64_t rows, bytes;
        int64_t age_us;
    } batch;
    struct {
        int64_t idle_timeout_us, takeover_after_us;
        int64_t max_in_memory;
        int64_t future_tolerance_us, past_tolerance_us;
    } sessions;
    struct {
        int64_t streams, streams_per_uid, pages, pages_per_uid;
        int64_t quarantine_rows;
        int64_t stream_stall_us;
    } limits;
    struct {
        bool enabled;
        int64_t batch_events;
        int64_t poll_us;
    } rating;
};

enum { CONFIG_ERROR_MAX = 512, CONFIG_NAMES_MAX = 1024 };

/* Defaults, then the file, then the environment (a variable that is empty counts as unset), then the checks
 * of one option against another. path NULL: CONFIG_DEFAULT_PATH, which may be absent. Returns 0 and a struct
 * for config_free(), or
 *   -ENOENT, -EACCES …  the file can't be read
 *   -EINVAL             something in it, or in the environment, is wrong
 *   -ENOMEM
 * with one line in `error` that says where and what: "/etc/toll/tolld.conf:12: batch.rows: "12x" is not a whole number". */
int config_load(struct config *ret, const char *path, char error[static CONFIG_ERROR_MAX])
    __attribute__((warn_unused_result));
void config_free(struct config *config); /* takes a zeroed struct */

/* Takes over from `fresh` what can change while the daemon runs, and frees the rest of it. ret_applied gets
 * the names of the options taken over ("batch.rows, daemon.log_level"; "": none), ret_restart those that
 * differ but wait for a restart. */
void config_reload(struct config *running, struct config *fresh, char ret_applied[static CONFIG_NAMES_MAX],
                   char ret_restart[static CONFIG_NAMES_MAX]);

void config_print_options(FILE *out); /* every option with default, range and meaning: for --help */
void config_print(const struct config *config, FILE *out); /* the values as a configuration file, secrets left out */

const char *config_ack_name(enum config_ack ack); /* "sync" … */

/* "250ms", "5s", "2h" … as in the file, without limits. 0 and µs, or -EINVAL. */
int config_parse_duration(const char *text, int64_t *ret_us) __attribute__((warn_unused_result));

#endif
