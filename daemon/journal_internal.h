/* What the journal's files share among themselves; nobody else includes it (the fuzzer does).
 *
 * journal.c          append, write, sync, rewrite: the group in memory
 * journal_open.c     opening, creating, closing; whose journal it is
 * journal_recover.c  where the log ends after a crash
 * journal_segment.c  segment files: names, headers, making, naming, the list
 * journal_space.c    retention, limits, the segment prepared ahead
 * journal_renew.c    a new UUID for what is in the log
 * journal_repair.c   damage, with the daemon stopped
 * journal_reader.c   windows on a segment, and readers
 * journal_record.c   one record
 * journal_file.c     small files that change as a whole
 * journal_io.c       the system's calls, and loops around them
 *
 * Locks, in the order they are taken: space_lock (making and deleting segment files), sync_lock (a sync or a rewrite),
 * lock (the list and the flags beside it; never held during I/O, but for closing). What only the appending thread
 * touches has none. */
#ifndef TOLL_DAEMON_JOURNAL_INTERNAL_H
#define TOLL_DAEMON_JOURNAL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/journal.h"

#define MUST_CHECK __attribute__((warn_unused_result))

enum { JOURNAL_VERSION = 2, JOURNAL_VERSION_OLDEST = 1 }; /* of segments: see journal_segment.c */
enum { SEGMENT_HEADER = 64 };
enum { SEGMENT_NAME = 40 };
enum { WINDOW_BYTES = 256 * 1024 };
enum { RECORD_MAX = JOURNAL_RECORD_HEADER + JOURNAL_PAYLOAD_MAX };
#define LSN_MAX UINT64_MAX

/* Directories in the state directory. A log is built under NEW and renamed; while a renewed log takes the old
 * one's place that one is OLD. */
#define JOURNAL_DIR     "journal"
#define JOURNAL_DIR_NEW "journal.new"
#define JOURNAL_DIR_OLD "journal.old"

/* Little-endian. */
static inline void put_le(uint8_t *p, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

static inline uint64_t get_le(const uint8_t *p, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << 8 * i;
    return value;
}

/* journal_io.c: all return 0 or -errno, loop over short transfers and EINTR. */
int journal_io_open(const struct journal_io *io, int dirfd, const char *path, int flags) MUST_CHECK;
int journal_io_open_dir(const struct journal_io *io, int dirfd, const char *path) MUST_CHECK;
void journal_io_close(const struct journal_io *io, int *fd); /* sets *fd to -1; takes -1 */
ssize_t journal_io_read(const struct journal_io *io, int fd, void *buf, size_t size,
                        uint64_t offset) MUST_CHECK; /* short at the end only */
int journal_io_write(const struct journal_io *io, int fd, const void *buf, size_t size, uint64_t offset) MUST_CHECK;
int journal_io_zero(const struct journal_io *io, int fd, uint64_t offset, uint64_t size) MUST_CHECK;
int journal_io_unlink(const struct journal_io *io, int dirfd,
                      const char *path) MUST_CHECK; /* 0 if it is gone already */

/* The names in a directory, as an array that ends with NULL. */
int journal_io_list(const struct journal_io *io, int dirfd, char ***ret) MUST_CHECK;
void journal_io_list_free(char **names);
/* Deletes a directory and the files in it; 0 if it is not there. Not synced. */
int journal_io_remove_dir(const struct journal_io *io, int dirfd, const char *path) MUST_CHECK;

/* journal_file.c: a small file that changes as a whole, and carries a checksum over name and content. */
int journal_file_write(const struct journal_io *io, int dirfd, const char *name, const void *data,
                       size_t size) MUST_CHECK;
ssize_t journal_file_read(const struct journal_io *io, int dirfd, const char *name, void *buf, size_t cap) MUST_CHECK;

/* journal_record.c */
uint32_t journal_record_seed(const uint8_t uuid[16]);
/* Fills in the header in front of record->payload; durable is the durable LSN it carries. */
void journal_record_encode(uint32_t seed, const struct journal_record *record, uint64_t durable,
                           uint8_t header[JOURNAL_RECORD_HEADER]);
/* journal_record_parse() with the seed at hand. */
int journal_record_decode(uint32_t seed, uint64_t lsn, const uint8_t *p, size_t size, struct journal_record *ret,
                          uint64_t *ret_durable) MUST_CHECK;
/* Bytes of the record whose header stands at p; not checked. */
uint64_t journal_record_bytes(const uint8_t *p);

/* journal_segment.c */
struct segment {
    struct segment *next;         /* by number */
    struct segment *next_dirty;   /* in journal->dirty */
    struct segment *next_syncing; /* of the sync that is under way */
    uint64_t number;
    uint64_t base, end; /* its records: [base, end); LSN_MAX: it is the last. end <= base: superseded */
    uint64_t bytes;     /* of the file */
    uint64_t durable;   /* the durable LSN when it was begun: what is below was durable */
    int64_t last_us;    /* receive time of its last record; of the record before it while it has none */
    int fd;             /* open while it may be written or is not synced, else -1 */
    bool dirty;         /* in journal->dirty */
    bool older;         /* an older version wrote it: it is read, and nothing is added to it */
    bool blank;         /* its header is all zero: it was begun and never synced */
    char name[SEGMENT_NAME];
};

/* On disk: see journal_segment.c. */
struct segment_header {
    uint64_t number, base, durable;
    unsigned version;  /* ignored in encoding: that writes the newest */
    int64_t before_us; /* receive time of the record before base; 0: none */
};
void segment_header_encode(const uint8_t uuid[16], const struct segment_header *header, uint8_t out[SEGMENT_HEADER]);
/* 0; -ENODATA all zero; -ENOTSUP another version; -EBADMSG damaged or another journal's (uuid NULL: any, and
 * ret_uuid has it then). */
int segment_header_decode(const uint8_t *uuid, const uint8_t in[SEGMENT_HEADER], struct segment_header *ret,
                          uint8_t *ret_uuid) MUST_CHECK;
void segment_name(char out[SEGMENT_NAME], uint64_t number, uint64_t base);
bool segment_name_parse(const char *name, uint64_t *ret_number, uint64_t *ret_base);

static inline uint64_t segment_capacity_end(const struct segment *segment)
{
    return segment->bytes < SEGMENT_HEADER ? segment->base : segment->base + (segment->bytes - SEGMENT_HEADER);
}
/* Whether it may have records up to `end`. */
static inline bool segment_takes(const struct segment *segment, uint64_t end)
{
    return !segment->older && end <= segment_capacity_end(segment);
}
static inline bool segment_superseded(const struct segment *segment)
{
    return segment->end <= segment->base;
}
static inline uint64_t segment_offset(uint64_t base, uint64_t lsn)
{
    return SEGMENT_HEADER + (lsn - base);
}
void segment_free(const struct journal_io *io, struct segment *segment); /* closes it; takes NULL */

/* Links a segment behind the others and sets where those end now. Caller holds lock, or nobody else has the
 * journal. */
void segment_link(struct journal *journal, struct segment *segment);
void segment_unlink(struct journal *journal, struct segment *segment); /* out of the list; not freed */
void segment_mark_dirty(struct journal *journal, struct segment *segment);
/* The first that is not superseded. */
struct segment *segment_oldest(const struct journal *journal);
/* Reads the directory into the list (nobody else has the journal). -EBADMSG: *ret_bad names the file; with
 * ret_bad NULL a damaged header is taken as one that proves nothing. */
int segment_load(struct journal *journal, char ret_bad[SEGMENT_NAME]) MUST_CHECK;

/* Makes a zeroed, synced file that has no place in the log yet. Caller holds space_lock. */
int segment_make(struct journal *journal, struct segment **ret) MUST_CHECK;
/* Begins the next segment at base and makes it the last one: the spare, or one made here. limits: -ENOSPC
 * when there is no spare and the limits forbid another. Appending thread. */
int segment_begin(struct journal *journal, uint64_t base, bool limits) MUST_CHECK;

/* journal_space.c */
/* True if the limits allow one more segment. Caller holds space_lock. */
bool space_for_segment(struct journal *journal);

/* journal_reader.c */
/* A piece of a segment in memory. */
struct window {
    uint8_t *buf;
    size_t cap, size;
    uint64_t lsn; /* of buf[0] */
};
/* Sees to it that [lsn, lsn + need) of a segment is in memory, as far as it lies below limit and in the file.
 */
int window_fill(struct window *window, const struct journal_io *io, int fd, uint64_t base, uint64_t lsn, size_t need,
                uint64_t limit, const uint8_t **ret, size_t *ret_size) MUST_CHECK;
void window_done(struct window *window);
/* Reads the record at lsn through a window. -EBADMSG: there is none that is sound and ends by limit. */
int window_record(struct window *window, const struct journal_io *io, int fd, uint32_t seed, uint64_t base,
                  uint64_t lsn, uint64_t limit, struct journal_record *ret, uint64_t *ret_durable) MUST_CHECK;
/* Finds the first sound record at or above lsn. -ENOENT: none. */
int window_search(struct window *window, const struct journal_io *io, int fd, uint32_t seed, uint64_t base,
                  uint64_t lsn, uint64_t limit, struct journal_record *ret, uint64_t *ret_durable) MUST_CHECK;

/* journal_recover.c */
/* What a walk over the log found. */
struct journal_scan {
    uint64_t vouched;  /* the highest durable LSN that a record or header carries */
    uint64_t end;      /* where the log ends: the first bad place at or above it */
    uint64_t data_end; /* where the last record ends that is not a mark */
    int64_t last_us;
    struct segment *last; /* the segment that the end is in */
};
/* Walks the log from the segment `from`. damaged (may be NULL) is called for every range below `vouched` that
 * does not read; what it returns, other than 0, ends the walk. */
int journal_scan(struct journal *journal, struct segment *from,
                 int (*damaged)(void *context, struct segment *segment, uint64_t from, uint64_t to, int64_t before_us),
                 void *context, struct journal_scan *ret) MUST_CHECK;
int journal_recover(struct journal *journal, struct journal_report *report) MUST_CHECK;

/* journal_open.c */
/* A handle with nothing opened yet but the state directory and its lock. */
int journal_attach(struct journal **ret, const struct journal_options *options) MUST_CHECK;
/* Finishes or undoes what a crash left in the state directory: half a renewal, half a creation, temporary
 * files. */
int journal_settle(struct journal *journal, bool *ret_exists) MUST_CHECK;
/* Builds an empty log of that UUID under JOURNAL_DIR_NEW and makes it the handle's. */
int journal_build(struct journal *journal, const uint8_t uuid[16]) MUST_CHECK;
int journal_identity_write(struct journal *journal) MUST_CHECK;
int journal_identity_read(struct journal *journal, uint8_t ret_machine_id[16]) MUST_CHECK;
int journal_unconfirmed_write(struct journal *journal) MUST_CHECK;
#define UNCONFIRMED_FILE "unconfirmed"
#define IDENTITY_FILE    "identity"
/* Writes the bytes [from, to) of the log, as they stand in the files from `segment` on, to a new file
 * <kind>-<from>.bin in the state directory, durably; name gets its name. */
int journal_keep_aside(struct journal *journal, struct segment *segment, const char *kind, uint64_t from, uint64_t to,
                       char name[64]) MUST_CHECK;

/* journal.c. */
enum { CHUNK_BYTES = 256 * 1024, GROUP_BYTES_MAX = 32 * 1024 * 1024, IDLE_CHUNKS = 8 };

/* A run of records of one segment that are not known to be durable. */
struct chunk {
    struct chunk *next;
    struct segment *segment; /* valid while something is unwritten */
    uint64_t lsn;            /* of data[0] */
    size_t cap, used, written;
    uint8_t data[];
};

struct journal {
    const struct journal_io *io;
    struct journal_io io_copy;
    struct journal_options options;
    char *state_dir;
    int state_fd, lock_fd, dir_fd;
    uint8_t uuid[16];
    uint32_t seed;

    pthread_mutex_t space_lock, sync_lock, lock;

    struct segment *first,
        *last;             /* lock: the list; last is written by the appending thread, which may read it without */
    struct segment *dirty; /* lock: segments with bytes or a header that are not synced */
    bool dir_dirty;        /* lock: a segment's name is not synced */
    struct segment *spare; /* lock: made, but not begun */
    unsigned made;         /* space_lock: counts temporary names */
    uint64_t max_bytes, min_free_bytes; /* lock */
    int64_t retention_us;               /* lock */

    _Atomic uint64_t oldest, durable, written, end, unconfirmed, disk_bytes;
    uint64_t holds[JOURNAL_HOLDERS]; /* lock */
    _Atomic uint64_t hold;           /* the lowest: what is deleted is below; lowered under space_lock */
    _Atomic int failed;              /* closed for good: the error */
    atomic_bool broken;              /* a write or sync failed and journal_rewrite() has not been called */
    atomic_bool full;                /* the last try for a segment found no space */
    atomic_bool pending;             /* the unconfirmed file could not be written for lack of space: nothing may be
                            appended before it is */

    /* of the appending thread */
    struct chunk *head, *tail, *idle;
    unsigned idle_count;
    size_t buffered;   /* capacity of the chunks from head on */
    uint64_t tip;      /* where the next record goes: `end`, but in journal_rewrite() */
    uint64_t carried;  /* the highest durable LSN that a record carries */
    uint64_t data_end; /* where the last record ends that is not a mark */
    int64_t last_us;
    bool segment_missed; /* the last try to begin a segment failed, and not for lack of something */
};

void journal_chunks_free(struct journal *journal);
/* journal_sync() by one who holds sync_lock. */
int journal_sync_locked(struct journal *journal) MUST_CHECK;

#endif
