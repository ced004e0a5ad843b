/* The journal: the daemon's one log. Appends datagrams to segment files, makes them durable in groups, and
 * lets readers read them back.
 *
 * It knows nothing of frames, sessions or PostgreSQL. One thread appends and writes; any one thread at a time
 * syncs; readers may run on other threads and never see anything above the durable LSN. An LSN is a byte
 * offset in the log of records, segment headers not counted; it never goes back and never repeats under one
 * UUID. */
#ifndef TOLL_DAEMON_JOURNAL_H
#define TOLL_DAEMON_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum journal_kind {
    JOURNAL_DATAGRAM = 1, /* payload: a datagram as it was received */
    JOURNAL_MARK = 2,     /* no payload: carries the durable LSN for an idle log */
    JOURNAL_HOLE = 3,     /* payload: damaged bytes, set aside by journal_repair() */
};
/* Record flags. */
enum {
    JOURNAL_TRUNCATED = 1, /* the datagram was longer than TOLL_DATAGRAM_MAX and lost its end (MSG_TRUNC) */
    JOURNAL_INDEXED = 2,   /* behind the datagram stands an index of its frames, see datagram.h */
};

enum { JOURNAL_RECORD_HEADER = 44 };        /* bytes before a record's payload */
enum { JOURNAL_PAYLOAD_MAX = 1024 * 1024 }; /* no longer payload is appended, or believed when it is read */
enum { JOURNAL_SEGMENT_MIN = 1024 };        /* bytes; a smaller segment_bytes is -EINVAL */

struct journal_record {
    uint64_t lsn, end_lsn; /* [lsn, end_lsn) */
    int64_t received_us;   /* µs since the epoch */
    uint32_t uid, pid;     /* the sender, as the kernel gave them */
    uint8_t kind, flags;
    const void *payload; /* valid until the reader's next call */
    size_t size;
};

/* Every system call the journal makes, so that tests can fail them. Functions return what the call returns,
 * or -errno. Paths are relative to dirfd, except that the state directory itself is opened with AT_FDCWD. */
struct journal_io {
    void *context;
    int (*open)(void *context, int dirfd, const char *path, int flags, mode_t mode);
    int (*close)(void *context, int fd);
    ssize_t (*pread)(void *context, int fd, void *buf, size_t size, off_t offset);
    ssize_t (*pwrite)(void *context, int fd, const void *buf, size_t size, off_t offset);
    int (*fdatasync)(void *context, int fd);
    int (*fsync)(void *context, int fd);
    int (*fallocate)(void *context, int fd, off_t size);
    int (*rename)(void *context, int dirfd, const char *from, const char *to);
    int (*unlink)(void *context, int dirfd, const char *path);
    int (*free_bytes)(void *context, int dirfd, uint64_t *ret_bytes);
    int (*mkdir)(void *context, int dirfd, const char *path, mode_t mode);
    int (*rmdir)(void *context, int dirfd, const char *path);
    int (*list)(void *context, int dirfd, void (*entry)(void *arg, const char *name), void *arg); /* without . and .. */
    int64_t (*size)(void *context, int fd);               /* of a file, in bytes */
    int (*lock)(void *context, int fd);                   /* exclusive, until closed; does not wait: -EBUSY */
    int (*random)(void *context, void *buf, size_t size); /* fills buf; 0 or -errno */
};
extern const struct journal_io journal_io_system;

struct journal_options {
    const char *state_dir;  /* exists, writable; the journal lives in its subdirectory "journal" */
    uint64_t segment_bytes; /* size of a segment file; a record must fit into one */
    uint64_t max_bytes; /* no segment is made that would take more on disk, once retention has yielded; 0: no limit */
    uint64_t min_free_bytes;     /* the same, when the file system would have less free than this */
    int64_t retention_us;        /* committed segments are kept this long after their last record */
    uint8_t machine_id[16];      /* of this machine; all zero: not checked */
    bool adopt;                  /* take over a journal that another machine id wrote */
    const struct journal_io *io; /* NULL: journal_io_system */
};

/* What opening found, for the log. */
struct journal_report {
    bool created;                           /* no journal was there, or it was another machine's and was set aside */
    bool foreign;                           /* … the latter; foreign_path says where it is now */
    uint64_t torn_bytes;                    /* unacknowledged bytes cut from the tail and kept aside in torn_path */
    char torn_path[256], foreign_path[256]; /* torn_path is empty if there was no space to keep the bytes */
    uint64_t damaged_from, damaged_to;      /* the first acknowledged bytes that do not read back (equal: none) */
    char damaged_path[256];                 /* the file they are in; with -EBADMSG, the file that can't be used */
};

struct journal; /* opaque */

/* Opens or creates the journal, locks its directory, recovers the tail and syncs it. Returns 0, or
 *   -EBUSY    another process holds the directory
 *   -EBADMSG  a segment's header, the identity or the unconfirmed file is damaged: ret_report->damaged_path says
 *             which, journal_repair() mends it
 *   -ENOTSUP  another version of toll wrote it
 *   -EINVAL   segment_bytes is out of range
 *   another -errno of the file system.
 * ret_report may be NULL; it is filled in on failure too. Damage below the durable LSN is reported, not repaired, and
 * does not fail the call: readers stop in front of it. Damage further down than what a start has to look at is found
 * by readers. */
int journal_open(struct journal **ret, const struct journal_options *options, struct journal_report *ret_report)
    __attribute__((warn_unused_result));
void journal_close(struct journal *journal); /* takes NULL; syncs nothing */

/* New limits, from a reloaded configuration. Same thread as journal_append(). */
void journal_set_limits(struct journal *journal, uint64_t max_bytes, uint64_t min_free_bytes, int64_t retention_us);

const uint8_t *journal_uuid(const struct journal *journal); /* 16 bytes; changes only in journal_renew() */

/* Appends one record to the group in memory. Returns 0 and the LSN after it; or nothing was appended and
 *   -EAGAIN    too much is not durable yet: stop reading until a sync has moved the durable LSN, or journal_rewrite()
 *              has mended a failure; or no descriptor or memory is to be had just now, or a segment could not be made: the
 *              second time in a row that is an error
 *   -ENOSPC    the journal is full: stop reading; journal_collect() finds room again, and until then this costs no
 *              system call
 *   -EMSGSIZE  size is above JOURNAL_PAYLOAD_MAX or does not fit a segment
 *   -EINVAL    kind is 0
 *   another -errno: the error that closed the journal for good. */
int journal_append(struct journal *journal, uint8_t kind, uint8_t flags, uint32_t uid, uint32_t pid,
                   int64_t received_us, const void *payload, size_t size, uint64_t *ret_end_lsn)
    __attribute__((warn_unused_result));

/* Whether `count` records with payloads of up to that size could be appended now: what journal_append() would return, but nothing is
 * appended. `cheap`: a look only, -EAGAIN if it takes more (a new segment); else count is 1. Appending thread. */
int journal_room(struct journal *journal, size_t size, unsigned count, bool cheap) __attribute__((warn_unused_result));

/* Gives what was appended to the kernel. Cheap; call it once per drained batch of datagrams. -EIO: as for
 * journal_sync(), the caller must call journal_rewrite(). Another -errno: the journal is closed for good. */
int journal_write(struct journal *journal) __attribute__((warn_unused_result));

/* Makes all that was written before the call durable and moves the durable LSN. May run on another thread
 * than append and write, one call at a time. Any error of fdatasync is final for that descriptor: returns
 * -EIO and the caller must call journal_rewrite() on the appending thread. */
int journal_sync(struct journal *journal) __attribute__((warn_unused_result));

/* After a failed write or sync: writes everything above the durable LSN into a new segment that supersedes the old one,
 * and syncs it. 0, or -errno: the journal is closed for good and acknowledging must stop. */
int journal_rewrite(struct journal *journal) __attribute__((warn_unused_result));

/* True if the last sync is not yet covered by a record that carries it: an idle daemon then appends, writes and syncs
 * one JOURNAL_MARK. Appending thread. */
bool journal_wants_mark(const struct journal *journal);

/* Positions, thread-safe: oldest ≤ durable ≤ written ≤ end. */
uint64_t journal_oldest_lsn(const struct journal *journal);
uint64_t journal_durable_lsn(const struct journal *journal);
uint64_t journal_written_lsn(const struct journal *journal);
uint64_t journal_end_lsn(const struct journal *journal);
bool journal_is_full(const struct journal *journal);        /* the last try for a segment found no space; thread-safe */
uint64_t journal_disk_bytes(const struct journal *journal); /* of all segments */

/* Deletes segments wholly below committed_lsn that are older than the retention time at now_us, or any that
 * are committed when space is short. Also prepares (preallocates and zeroes) the next segment when it is due:
 * slow, so call it off the receive loop, about once a second; safe beside all other calls. An error (-ENOSPC
 * for "no room for the next segment") leaves the journal as usable as it was. */
int journal_collect(struct journal *journal, uint64_t committed_lsn, int64_t now_us)
    __attribute__((warn_unused_result));

/* The wall clock was stepped by so much, and now_us with it: what is in the log stays as old as it was, and is kept as long as it would
 * have been. Appending thread, with no journal_collect() under way. */
void journal_clock_stepped(struct journal *journal, int64_t step_us);

/* Nothing from the lowest holder's lsn on is deleted, whatever journal_collect() is told, until that calls this again: the database has
 * gone back, so what was committed is needed again. holder < JOURNAL_HOLDERS. UINT64_MAX, as at first: no such limit. When it returns, a deletion
 * that was under way is over, and journal_oldest_lsn() stays below or at lsn if it is now. Thread-safe. */
enum { JOURNAL_HOLDERS = 64 };
void journal_hold(struct journal *journal, unsigned holder, uint64_t lsn);
uint64_t journal_held(struct journal *journal, unsigned holder); /* the lsn it gave last */

/* The unconfirmed LSN: where the log stood when a run began that has not yet compared notes with the
 * database; UINT64_MAX: confirmed. Kept in a file, so it survives runs. A database watermark above it means
 * that log was taken back, see journal_renew(). 0: this log has never been confirmed, so the database may not
 * know it. Both are thread-safe. */
uint64_t journal_unconfirmed_lsn(const struct journal *journal);
int journal_confirm(struct journal *journal) __attribute__((warn_unused_result));

/* Starts a journal of that UUID in place of this one and appends all records from `from` (of the old) to it
 * again, so that what stood at an LSN stands at LSN - `from`; the old one is set aside until the new one is durable, then deleted. Appending thread, with no sync
 * under way and no reader open. Space limits do not apply. -ERANGE: `from` is not in the log; -EBADMSG:
 * damage at or above it (journal_repair() first); these and -ENOSPC leave the old one as it was; -EIO: call
 * journal_rewrite(), then try again. Records keep all that is in them; only their LSNs are new. */
int journal_renew(struct journal *journal, uint64_t from, const uint8_t uuid[static 16])
    __attribute__((warn_unused_result));
/* A UUID for it. 0 or -errno. */
int journal_draw_uuid(struct journal *journal, uint8_t ret[static 16]) __attribute__((warn_unused_result));

/* Small facts that the daemon keeps beside the log, durable when the call returns: `name` is a plain file
 * name in the state directory, not one of the journal's own. The file carries a checksum: -EBADMSG when it is
 * damaged, -EMSGSIZE when cap is too small. At most 64 KiB. Thread-safe for different names. */
int journal_state_write(struct journal *journal, const char *name, const void *data, size_t size)
    __attribute__((warn_unused_result));
ssize_t journal_state_read(struct journal *journal, const char *name, void *buf, size_t cap); /* size, -ENOENT … */

/* Reading. A reader belongs to one thread. */
struct journal_reader;
int journal_reader_new(struct journal_reader **ret, struct journal *journal) __attribute__((warn_unused_result));
void journal_reader_free(struct journal_reader *reader);
/* The next read begins at lsn. -ERANGE: below the oldest LSN kept, or above the durable one. */
int journal_reader_seek(struct journal_reader *reader, uint64_t lsn) __attribute__((warn_unused_result));
uint64_t journal_reader_lsn(const struct journal_reader *reader);
/* The next record that is durable; within a hole, the rest of it. 0; -EAGAIN at the durable LSN; -EBADMSG: damage at
 * journal_reader_lsn(), of data that was acknowledged; other -errno. The record's payload stays valid until the next call
 * of a reader function. */
int journal_reader_next(struct journal_reader *reader, struct journal_record *ret) __attribute__((warn_unused_result));

/* With the daemon stopped (-EBUSY if it isn't): finds damage below the durable LSN, copies the damaged bytes
 * aside (to `path` in the state directory) and writes JOURNAL_HOLE records in their place, so that all
 * records after them can be read again. Also makes a damaged segment header, identity or unconfirmed file
 * anew; then from == to and path is that file. Calls found() (may be NULL) for each. Returns how many there
 * were, or -errno. May be run again after a failure. */
int journal_repair(const struct journal_options *options,
                   void (*found)(void *context, uint64_t from, uint64_t to, const char *path), void *context)
    __attribute__((warn_unused_result));

/* For the fuzzer and the recovery scan: checks the record at the start of data against the log's identity and
 * the LSN it should have. 0 and *ret, -EAGAIN when data ends within it, -EBADMSG otherwise. */
int journal_record_parse(const uint8_t uuid[16], uint64_t lsn, const void *data, size_t size,
                         struct journal_record *ret, uint64_t *ret_durable) __attribute__((warn_unused_result));

#endif
