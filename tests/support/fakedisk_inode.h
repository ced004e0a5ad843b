/* What a fake disk (fakedisk.h) is made of: inodes, their names, and the changes that are not on the disk yet. The
 * system calls are fakedisk.h's, recording and replaying them fakedisk_log.h's. */
#ifndef TOLL_TESTS_FAKEDISK_INODE_H
#define TOLL_TESTS_FAKEDISK_INODE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAKEDISK_SECTOR = 512, FAKEDISK_NAME = 80 };

/* What a power cut leaves of the changes that were not synced. */
enum fakedisk_crash {
    FAKEDISK_DROP,    /* none */
    FAKEDISK_KEEP,    /* all */
    FAKEDISK_TEAR,    /* by seed: any sectors of each write, any of the other changes */
    FAKEDISK_REORDER, /* by seed: any of the changes, each as a whole */
    FAKEDISK_ONLY,    /* the one whose number `seed` is, counted from 0 */
    FAKEDISK_WITHOUT, /* all but that one */
};

struct fakedisk_inode;

struct fakedisk_name {
    char name[FAKEDISK_NAME];
    struct fakedisk_inode *inode;
};

struct fakedisk_names {
    struct fakedisk_name *names;
    size_t count, capacity;
};

/* One change: of bytes (data; NULL: the file has grown to offset + size) or of names. */
struct fakedisk_change {
    struct fakedisk_change *next;
    size_t offset, size;
    uint8_t *data;                               /* its own */
    bool truncated;                              /* to nothing */
    char from[FAKEDISK_NAME], to[FAKEDISK_NAME]; /* "" → to: made; from → "": deleted; from → to: renamed */
    struct fakedisk_inode *inode;                /* that the name leads to */
};

struct fakedisk_inode {
    struct fakedisk_inode *next;
    struct fakedisk_inode *twin; /* on the disk that is being copied to */
    unsigned number;
    bool directory, reached;
    int fds, lock_fd;
    uint8_t *seen, *disk; /* a file's bytes */
    size_t seen_size, disk_size;
    struct fakedisk_names seen_names, disk_names; /* a directory's */
    struct fakedisk_change *changes, **changes_end;
};

static inline uint64_t fakedisk_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u); /* splitmix64 */
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline void *fakedisk_alloc(size_t size)
{
    void *memory = calloc(1, size);
    assert(memory);
    return memory;
}

static inline struct fakedisk_inode *fakedisk_inode_new(struct fakedisk_inode **list, unsigned number, bool directory)
{
    struct fakedisk_inode *inode = fakedisk_alloc(sizeof *inode);
    inode->number = number;
    inode->directory = directory;
    inode->lock_fd = -1;
    inode->changes_end = &inode->changes;
    inode->next = *list;
    *list = inode;
    return inode;
}

static inline void fakedisk_change_free(struct fakedisk_change *change)
{
    free(change->data);
    free(change);
}

static inline void fakedisk_changes_drop(struct fakedisk_inode *inode)
{
    for (struct fakedisk_change *change = inode->changes, *next; change; change = next) {
        next = change->next;
        fakedisk_change_free(change);
    }
    inode->changes = NULL;
    inode->changes_end = &inode->changes;
}

static inline void fakedisk_inode_free(struct fakedisk_inode *inode)
{
    fakedisk_changes_drop(inode);
    free(inode->seen);
    free(inode->disk);
    free(inode->seen_names.names);
    free(inode->disk_names.names);
    free(inode);
}

static inline struct fakedisk_change *fakedisk_change_copy(const struct fakedisk_change *change)
{
    struct fakedisk_change *copy = fakedisk_alloc(sizeof *copy);
    *copy = *change;
    copy->next = NULL;
    if (change->data) {
        copy->data = fakedisk_alloc(change->size + 1);
        memcpy(copy->data, change->data, change->size);
    }
    return copy;
}

/* Takes the change over. */
static inline void fakedisk_change_link(struct fakedisk_inode *inode, struct fakedisk_change *change)
{
    assert(inode);
    *inode->changes_end = change;
    inode->changes_end = &change->next;
}

/* Names. */

static inline struct fakedisk_inode *fakedisk_find(const struct fakedisk_names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i].name, name) == 0)
            return names->names[i].inode;
    return NULL;
}

static inline void fakedisk_names_reserve(struct fakedisk_names *names, size_t count)
{
    if (count <= names->capacity)
        return;
    names->capacity = count * 2;
    names->names = realloc(names->names, names->capacity * sizeof *names->names);
    assert(names->names);
}

/* inode NULL: takes the name away. */
static inline void fakedisk_names_set(struct fakedisk_names *names, const char *name, struct fakedisk_inode *inode)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i].name, name) == 0) {
            if (inode)
                names->names[i].inode = inode;
            else
                names->names[i] = names->names[--names->count];
            return;
        }
    if (!inode)
        return;
    fakedisk_names_reserve(names, names->count + 1);
    snprintf(names->names[names->count].name, FAKEDISK_NAME, "%s", name);
    names->names[names->count++].inode = inode;
}

static inline void fakedisk_names_change(struct fakedisk_names *names, const struct fakedisk_change *change,
                                         struct fakedisk_inode *inode)
{
    if (change->from[0] && fakedisk_find(names, change->from) == inode)
        fakedisk_names_set(names, change->from, NULL);
    if (change->to[0])
        fakedisk_names_set(names, change->to, inode);
}

static inline void fakedisk_names_copy(struct fakedisk_names *to, const struct fakedisk_names *from)
{
    fakedisk_names_reserve(to, from->count);
    if (from->count > 0)
        memcpy(to->names, from->names, from->count * sizeof *to->names);
    to->count = from->count;
}

/* Bytes. */

static inline void fakedisk_put(uint8_t **bytes, size_t *bytes_size, size_t offset, const uint8_t *data, size_t size)
{
    if (offset + size > *bytes_size) {
        *bytes = realloc(*bytes, offset + size);
        assert(*bytes);
        memset(*bytes + *bytes_size, 0, offset + size - *bytes_size);
        *bytes_size = offset + size;
    }
    if (data && size > 0) {
        assert(*bytes);
        memcpy(*bytes + offset, data, size);
    }
}

/* Which changes are chosen. */
struct fakedisk_choice {
    enum fakedisk_crash kind;
    uint64_t seed, counter;
    unsigned odds; /* of 8 */
};

static inline struct fakedisk_choice fakedisk_choose(enum fakedisk_crash kind, uint64_t seed)
{
    static const unsigned odds[] = {4, 1, 7, 4}; /* also nearly none and nearly all */
    struct fakedisk_choice choice = {.kind = kind, .seed = seed};

    if (kind == FAKEDISK_TEAR || kind == FAKEDISK_REORDER)
        choice.odds = odds[fakedisk_next(&choice.seed) % 4];
    return choice;
}

static inline bool fakedisk_coin(struct fakedisk_choice *choice)
{
    return (fakedisk_next(&choice->seed) >> 40 & 7) < choice->odds;
}

static inline bool fakedisk_chosen(struct fakedisk_choice *choice)
{
    switch (choice->kind) {
    case FAKEDISK_DROP:
        return false;
    case FAKEDISK_KEEP:
        return true;
    case FAKEDISK_TEAR:
    case FAKEDISK_REORDER:
        return fakedisk_coin(choice);
    case FAKEDISK_ONLY:
        return choice->counter++ == choice->seed;
    case FAKEDISK_WITHOUT:
        return choice->counter++ != choice->seed;
    }
    return false;
}

/* Brings the chosen changes of an inode to `to`, which is it or its twin. */
static inline void fakedisk_apply(const struct fakedisk_inode *inode, struct fakedisk_inode *to,
                                  struct fakedisk_choice *choice)
{
    for (const struct fakedisk_change *change = inode->changes; change; change = change->next) {
        if (choice->kind == FAKEDISK_TEAR && change->data) {
            for (size_t at = 0, part; at < change->size; at += part) {
                part = FAKEDISK_SECTOR - (change->offset + at) % FAKEDISK_SECTOR;
                if (part > change->size - at)
                    part = change->size - at;
                if (fakedisk_coin(choice))
                    fakedisk_put(&to->disk, &to->disk_size, change->offset + at, change->data + at, part);
            }
        } else if (fakedisk_chosen(choice)) {
            if (inode->directory)
                fakedisk_names_change(&to->disk_names, change, to == inode ? change->inode : change->inode->twin);
            else if (change->truncated)
                to->disk_size = 0;
            else
                fakedisk_put(&to->disk, &to->disk_size, change->offset, change->data, change->size);
        }
    }
}

/* What is on the disk is what is seen. */
static inline void fakedisk_look(struct fakedisk_inode *inode)
{
    fakedisk_names_copy(&inode->seen_names, &inode->disk_names);
    inode->seen_size = 0;
    fakedisk_put(&inode->seen, &inode->seen_size, 0, inode->disk, inode->disk_size);
}

static inline void fakedisk_reach(struct fakedisk_inode *inode)
{
    if (inode->reached)
        return;
    inode->reached = true;
    const struct fakedisk_names *both[2] = {&inode->seen_names, &inode->disk_names};
    for (int b = 0; b < 2; b++)
        for (size_t i = 0; i < both[b]->count; i++)
            fakedisk_reach(both[b]->names[i].inode);
    for (struct fakedisk_change *change = inode->changes; change; change = change->next)
        if (change->inode)
            fakedisk_reach(change->inode);
}

#endif
