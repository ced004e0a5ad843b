/* The one table of options. README.md and systemd/tolld.conf.sample repeat it for people; `make lint`
 * compares them.
 *
 * To add an option: a field in struct config, a row here, a line in each of those two. */
#include "daemon/config_options.h"

#include "daemon/config.h"

static const char *const ack_names[] = {"sync", "write", "commit", NULL};
static const char *const level_names[] = {"error", "warning", "info", "debug", NULL};

/* A field's offset, provided that it has the type the row says. */
#define AT(ctype, field)                                                                                               \
    (offsetof(struct config, field) +                                                                                  \
     0 * sizeof(char[__builtin_types_compatible_p(ctype, __typeof__(((struct config *)0)->field)) ? 1 : -1]))
#define STRING(field)           .type = CONFIG_STRING, .offset = AT(char *, field), .max = 4000
#define PATH(field, length)     .type = CONFIG_PATH, .offset = AT(char *, field), .min = 1, .max = (length)
#define INT(field, lo, hi)      .type = CONFIG_INT, .offset = AT(int64_t, field), .min = (lo), .max = (hi)
#define BYTES(field, lo, hi)    .type = CONFIG_BYTES, .offset = AT(int64_t, field), .min = (lo), .max = (hi)
#define DURATION(field, lo, hi) .type = CONFIG_DURATION, .offset = AT(int64_t, field), .min = (lo), .max = (hi)
#define MODE(field)             .type = CONFIG_MODE, .offset = AT(int, field), .max = 0777
#define BOOL(field)             .type = CONFIG_BOOL, .offset = AT(bool, field)
#define ENUM(field, list)       .type = CONFIG_ENUM, .offset = AT(int, field), .names = (list)
#define RELOADABLE              .reloadable = true

#define KB  INT64_C(1024)
#define MB  (1024 * KB)
#define GB  (1024 * MB)
#define TB  (1024 * GB)
#define MS  INT64_C(1000)
#define SEC (1000 * MS)
#define MIN (60 * SEC)
#define HR  (60 * MIN)
#define DAY (24 * HR)

enum { SOCKET_PATH_MAX = 107, FILE_PATH_MAX = 4000 }; /* unix(7): sun_path and its NUL */

const struct config_option config_options[] = {
    {"daemon", "socket", "/run/toll/toll.sock", PATH(daemon.socket, SOCKET_PATH_MAX), .env = "TOLL_SOCKET",
     .doc = "where workers send; unused when systemd passes the socket"},
    {"daemon", "socket_mode", "0660", MODE(daemon.socket_mode),
     .doc = "permissions of that socket, octal: who may write to it may record"},
    {"daemon", "control", "/run/toll/control.sock", PATH(daemon.control, SOCKET_PATH_MAX), .env = "TOLL_CONTROL",
     .doc = "where tollctl asks"},
    {"daemon", "control_mode", "0660", MODE(daemon.control_mode), .doc = "permissions of that socket, octal"},
    {"daemon", "state_dir", "/var/lib/toll", PATH(daemon.state_dir, FILE_PATH_MAX), .env = "TOLL_STATE_DIR",
     .doc = "the journal's directory; must survive restarts"},
    {"daemon", "adopt_journal", "false", BOOL(daemon.adopt_journal),
     .doc = "go on with a journal that another machine wrote"},
    {"daemon", "log_level", "info", ENUM(daemon.log_level, level_names), RELOADABLE, .doc = "what is logged"},
    {"daemon", "shutdown_deadline", "10s", DURATION(daemon.shutdown_deadline_us, 0, 1 * HR), RELOADABLE,
     .doc = "how long SIGTERM waits for the database; the rest stays in the journal"},

    {"database", "url", "", STRING(database.url), .env = "DATABASE_URL", .secret = true,
     .doc = "libpq connection string or URI; not set: events go to standard output"},
    {"database", "auto_migrate", "true", BOOL(database.auto_migrate),
     .doc = "bring the schema up to date when connecting"},
    {"database", "connect_timeout", "5s", DURATION(database.connect_timeout_us, 2 * SEC, 10 * MIN),
     .doc = "give up connecting after this, whole seconds"},
    {"database", "tcp_user_timeout", "15s", DURATION(database.tcp_user_timeout_us, 1 * SEC, 1 * HR),
     .doc = "drop a connection whose peer is silent this long"},
    {"database", "retry_max", "5s", DURATION(database.retry_max_us, 100 * MS, 1 * HR), RELOADABLE,
     .doc = "longest pause between tries while the database is away"},
    {"database", "writers", "1", INT(database.writers, 1, 64),
     .doc = "connections that store, each a share of the calls: one per core that PostgreSQL has to spare"},

    {"journal", "ack", "sync", ENUM(journal.ack, ack_names),
     .doc = "when a frame counts as durable: synced to disk, given to the kernel, or committed"},
    {"journal", "segment_bytes", "64M", BYTES(journal.segment_bytes, 128 * KB, 1 * GB),
     .doc = "size of a journal file"},
    {"journal", "max_bytes", "16G", BYTES(journal.max_bytes, 128 * KB, 1024 * TB), RELOADABLE,
     .doc = "the daemon stops reading above this size of the journal"},
    {"journal", "min_free_bytes", "256M", BYTES(journal.min_free_bytes, 0, 1024 * TB), RELOADABLE,
     .doc = "... or with less free than this on its file system"},
    {"journal", "retention", "24h", DURATION(journal.retention_us, 0, 3650 * DAY), RELOADABLE,
     .doc = "how long committed data is kept, for a database restored from an older copy"},

    {"batch", "rows", "50000", INT(batch.rows, 1, 1000000), RELOADABLE, .doc = "frames in one transaction at most"},
    {"batch", "bytes", "8M", BYTES(batch.bytes, 64 * KB, 256 * MB),
     .doc = "bytes in one transaction at most; bounds the writer's memory, which holds twice that"},
    {"batch", "age", "100ms", DURATION(batch.age_us, 0, 1 * MIN), RELOADABLE,
     .doc = "how long a frame may wait for company"},

    {"sessions", "idle_timeout", "1h", DURATION(sessions.idle_timeout_us, 1 * SEC, 365 * DAY), RELOADABLE,
     .doc = "a session silent for so long is closed as orphaned"},
    {"sessions", "takeover_after", "24h", DURATION(sessions.takeover_after_us, 1 * MIN, 365 * DAY),
     .doc = "close the idle sessions of a daemon silent for so long"},
    {"sessions", "max_in_memory", "1000000", INT(sessions.max_in_memory, 1, 100000000), RELOADABLE,
     .doc = "live sessions kept in memory; more cost a query at their end"},
    {"sessions", "future_tolerance", "5m", DURATION(sessions.future_tolerance_us, 0, 365 * DAY), RELOADABLE,
     .doc = "times further ahead of the receive time are clamped"},
    {"sessions", "past_tolerance", "400d", DURATION(sessions.past_tolerance_us, 1 * MIN, 36500 * DAY), RELOADABLE,
     .doc = "times further behind the receive time are clamped"},

    {"limits", "streams", "65536", INT(limits.streams, 1, 16777216), .doc = "senders' streams kept in memory"},
    {"limits", "streams_per_uid", "16384", INT(limits.streams_per_uid, 1, 16777216), .doc = "... of one user"},
    {"limits", "pages", "4096", INT(limits.pages, 1, 1048576), .doc = "ack pages mapped"},
    {"limits", "pages_per_uid", "1024", INT(limits.pages_per_uid, 1, 1048576), .doc = "... of one user"},
    {"limits", "quarantine_rows", "1000000", INT(limits.quarantine_rows, 1, INT64_C(1000000000000)), RELOADABLE,
     .doc = "with so many rows in toll.quarantine, datagrams with invalid frames are refused"},
    {"limits", "stream_stall", "30s", DURATION(limits.stream_stall_us, 1 * MS, 1 * DAY),
     .doc = "an alarm is raised when numbers of a stream are missing for so long"},

    {"rating", "enabled", "true", BOOL(rating.enabled),
     .doc =
         "rate what is stored: prices, wallets, cut-offs; needs a database. Off for good: see toll.rating_settings.unrated_kept"},
    {"rating", "batch_events", "5000", INT(rating.batch_events, 1, 1000000), RELOADABLE,
     .doc = "events rated in one transaction, at most about"},
    {"rating", "poll", "1s", DURATION(rating.poll_us, 50 * MS, 1 * HR), RELOADABLE,
     .doc = "how often to look for what no batch of this daemon's told of: that of other daemons"},
};

const size_t config_options_count = sizeof(config_options) / sizeof(config_options[0]);
