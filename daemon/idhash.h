/* uthash, keyed: workers choose stream and session ids, so the hash must not be one that they can foresee. Include this, not <uthash.h>. */
#ifndef TOLL_DAEMON_IDHASH_H
#define TOLL_DAEMON_IDHASH_H

#include <stddef.h>
#include <stdint.h>

/* 32 bits of a hash over size bytes, with a secret drawn at the process's first use. Thread-safe. */
uint32_t idhash(const void *data, size_t size);

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = idhash((keyptr), (keylen)))
#include <uthash.h>

#endif
