/* The log of what happened to a fake disk, and disks made again from any prefix of it.
 *
 *     struct fakedisk_log log = {0};
 *     fakedisk_log_attach(&log, disk);          from here on changes and syncs are recorded
 *     struct fakedisk *again = fakedisk_new();
 *     fakedisk_replay(again, &log, 0, 17, 17);  the first 17 entries
 *     fakedisk_cut(again, FAKEDISK_DROP, 0);    … and the power goes
 *
 * Recording begins with an empty disk. A disk that is replayed to has nothing open and shows nothing until the power is
 * cut; it goes forward only. A sync that failed and kept parts (fail_keeps) can't be recorded. */
#ifndef TOLL_TESTS_FAKEDISK_LOG_H
#define TOLL_TESTS_FAKEDISK_LOG_H

#include "tests/support/fakedisk.h"

struct fakedisk_entry {
    enum fakedisk_event event;
    unsigned inode, target; /* numbers: whose change it is; what its name leads to */
    bool directory, target_directory;
    struct fakedisk_change change; /* with data of its own */
};

struct fakedisk_log {
    struct fakedisk_entry *entries;
    size_t count, capacity;
};

static inline void fakedisk_log_record(void *context, enum fakedisk_event event, const struct fakedisk_inode *inode,
                                       const struct fakedisk_change *change)
{
    struct fakedisk_log *log = context;

    if (log->count == log->capacity) {
        log->capacity = log->capacity ? log->capacity * 2 : 256;
        log->entries = realloc(log->entries, log->capacity * sizeof *log->entries);
        assert(log->entries);
    }
    struct fakedisk_entry *entry = &log->entries[log->count++];
    *entry = (struct fakedisk_entry){.event = event, .inode = inode->number, .directory = inode->directory};
    if (!change)
        return;
    entry->change = *change;
    entry->change.next = NULL;
    if (change->data) {
        entry->change.data = fakedisk_alloc(change->size + 1);
        memcpy(entry->change.data, change->data, change->size);
    }
    if (change->inode) {
        entry->target = change->inode->number;
        entry->target_directory = change->inode->directory;
    }
    entry->change.inode = NULL;
}

static inline void fakedisk_log_attach(struct fakedisk_log *log, struct fakedisk *disk)
{
    assert(disk->inodes_made == 1);
    disk->record = fakedisk_log_record;
    disk->record_context = log;
}

static inline void fakedisk_log_done(struct fakedisk_log *log)
{
    for (size_t i = 0; i < log->count; i++)
        free(log->entries[i].change.data);
    free(log->entries);
    *log = (struct fakedisk_log){0};
}

static inline struct fakedisk_inode *fakedisk_numbered(struct fakedisk *disk, unsigned number, bool directory)
{
    for (struct fakedisk_inode *inode = disk->inodes; inode; inode = inode->next)
        if (inode->number == number)
            return inode;
    if (disk->inodes_made <= number)
        disk->inodes_made = number + 1;
    return fakedisk_inode_new(&disk->inodes, number, directory);
}

/* Replays entries [from, to). Syncs from entry `lying` on say that they did it and do nothing. */
static inline void fakedisk_replay(struct fakedisk *disk, const struct fakedisk_log *log, size_t from, size_t to,
                                   size_t lying)
{
    struct fakedisk_choice all = fakedisk_choose(FAKEDISK_KEEP, 0);

    assert(to <= log->count);
    for (size_t i = from; i < to; i++) {
        const struct fakedisk_entry *entry = &log->entries[i];
        struct fakedisk_inode *inode = fakedisk_numbered(disk, entry->inode, entry->directory);

        if (entry->event == FAKEDISK_CHANGED) {
            struct fakedisk_change *change = fakedisk_change_copy(&entry->change);
            if (inode->directory)
                change->inode = fakedisk_numbered(disk, entry->target, entry->target_directory);
            fakedisk_change_link(inode, change);
        } else if (i < lying) {
            if (entry->event == FAKEDISK_SYNCED)
                fakedisk_apply(inode, inode, &all);
            fakedisk_changes_drop(inode);
        }
    }
}

/* An entry in words. */
static inline void fakedisk_log_print(FILE *out, const struct fakedisk_log *log, size_t i)
{
    const struct fakedisk_entry *entry = &log->entries[i];
    const struct fakedisk_change *change = &entry->change;

    if (entry->event != FAKEDISK_CHANGED)
        fprintf(out, "%zu: %s inode %u", i, entry->event == FAKEDISK_SYNCED ? "sync" : "failed sync", entry->inode);
    else if (entry->directory)
        fprintf(out, "%zu: in directory %u %s%s%s -> inode %u", i, entry->inode,
                !change->from[0] ? "make "
                : change->to[0]  ? change->from
                                 : "delete ",
                change->from[0] && change->to[0] ? " to be " : "", change->to[0] ? change->to : change->from,
                entry->target);
    else
        fprintf(out, "%zu: inode %u %s %zu bytes at %zu", i, entry->inode,
                change->truncated ? "truncate"
                : change->data    ? "write"
                                  : "grow",
                change->size, change->offset);
}

#endif
