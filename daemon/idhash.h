/* uthash, keyed: workers choose stream and session ids, so the hash must not be one that they can foresee; and one that survives a lack of
 * memory, for which uthash would end the process. Include this, not <uthash.h>, and add with idhash_add() only. */
#ifndef TOLL_DAEMON_IDHASH_H
#define TOLL_DAEMON_IDHASH_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

/* 32 bits of a hash over size bytes, with a secret drawn at the process's first use. Thread-safe. */
uint32_t idhash(const void *data, size_t size);

/* The hash of a stream's key as a number of 28 bits, never 0: by it, threads speak of a sender without sharing tables. Two senders may have the same. */
static inline uint32_t idhash_host(uint32_t hash)
{
    hash &= 0x0FFFFFFF;
    return hash ? hash : 1;
}

/* A stream: the id that its process took, and the uid of who sends. No padding: hashed as bytes. */
struct stream_key {
    uint8_t id[16];
    uint32_t uid;
};

static inline uint32_t idhash_stream_host(const struct stream_key *key)
{
    return idhash_host(idhash(key, sizeof(*key)));
}

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = idhash((keyptr), (keylen)))
#define HASH_NONFATAL_OOM                    1
#include <uthash.h>

/* Adds an entry (with a handle named hh, and its key, of no other size, in `field`) to a table that does not have the key.
 * 0; -ENOMEM: the table is as it was, the entry the caller's still. */
#define idhash_add(table, field, entry)                                                                                \
    ({                                                                                                                 \
        HASH_ADD(hh, (table), field, sizeof((entry)->field), (entry));                                                 \
        (entry)->hh.tbl ? 0 : -ENOMEM;                                                                                 \
    })

#endif
