/* Session totals in the worker: open addressing with linear probing, at most half full, so that a lookup is
 * short and removal can close the hole by moving entries back (no tombstones: a worker that runs for months
 * stays as fast). */
#include "client/totals.h"

#include <string.h>

#include "proto/hot.h"

uint32_t toll_totals_slots(uint32_t max_sessions)
{
    uint32_t slots = 2;
    while (slots < 2 * max_sessions)
        slots *= 2;
    return slots;
}

void toll_totals_init(struct toll_totals *totals, struct toll_totals_slot *slots, uint32_t max_sessions)
{
    uint32_t count = toll_totals_slots(max_sessions);
    *totals = (struct toll_totals){.slots = slots, .mask = count - 1, .max_sessions = max_sessions};
    for (uint32_t i = 0; i < count; i++) /* writes only where needed: untouched pages stay unallocated */
        if (slots[i].used)
            slots[i].used = false;
}

TOLL_HOT static uint32_t home_of(const struct toll_totals *totals, const unsigned char id[16])
{
    uint64_t half[2];
    memcpy(half, id, sizeof half);
    /* ids need not be random (a counter is a valid UUID), so they are mixed: Fibonacci hashing */
    return (uint32_t)(((half[0] ^ half[1]) * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & totals->mask;
}

TOLL_HOT void toll_totals_fetch(const struct toll_totals *totals, const unsigned char id[16])
{
    __builtin_prefetch(&totals->slots[home_of(totals, id)], 1);
}

/* The slot that has the id, or the free one where it belongs. */
TOLL_HOT static uint32_t slot_of(const struct toll_totals *totals, const unsigned char id[16])
{
    uint32_t i = home_of(totals, id);
    while (totals->slots[i].used && memcmp(totals->slots[i].id, id, 16) != 0)
        i = (i + 1) & totals->mask;
    return i;
}

TOLL_HOT struct toll_snapshot *toll_totals_find(struct toll_totals *totals, const unsigned char id[16])
{
    struct toll_totals_slot *slot = &totals->slots[slot_of(totals, id)];
    return slot->used ? &slot->sums : NULL;
}

void toll_totals_add(struct toll_totals *totals, const unsigned char id[16], int64_t started_at_us)
{
    struct toll_totals_slot *slot = &totals->slots[slot_of(totals, id)];
    if (slot->used)
        return;
    if (totals->sessions == totals->max_sessions) {
        totals->overflown = true;
        return;
    }
    *slot = (struct toll_totals_slot){.used = true, .sums = {.started_at_us = started_at_us}};
    memcpy(slot->id, id, sizeof slot->id);
    totals->sessions++;
}

void toll_totals_remove(struct toll_totals *totals, const unsigned char id[16])
{
    uint32_t hole = slot_of(totals, id);
    if (!totals->slots[hole].used)
        return;
    totals->sessions--;
    if (totals->sessions == 0)
        totals->overflown = false;
    for (uint32_t i = (hole + 1) & totals->mask; totals->slots[i].used; i = (i + 1) & totals->mask) {
        /* an entry may move back into the hole unless its home lies behind it */
        uint32_t home = home_of(totals, totals->slots[i].id);
        if (((i - home) & totals->mask) >= ((i - hole) & totals->mask)) {
            totals->slots[hole] = totals->slots[i];
            hole = i;
        }
    }
    totals->slots[hole].used = false;
}
