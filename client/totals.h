/* The running totals of the sessions a worker has open: a fixed hash table.
 *
 * Pure bookkeeping over memory the caller owns: no lock, no allocation. The caller serialises all calls. */
#ifndef TOLL_CLIENT_TOTALS_H
#define TOLL_CLIENT_TOTALS_H

#include "client/toll.h"

struct toll_totals_slot {
    unsigned char id[16];
    bool used;
    struct toll_snapshot sums;
};

struct toll_totals {
    struct toll_totals_slot *slots;
    uint32_t mask; /* slots - 1; their number is a power of two */
    uint32_t sessions, max_sessions;
    bool overflown; /* a session was refused and may be going on */
};

/* How many slots a table for max_sessions needs. */
uint32_t toll_totals_slots(uint32_t max_sessions);

/* slots: memory for toll_totals_slots(max_sessions) slots; cleared here. */
void toll_totals_init(struct toll_totals *totals, struct toll_totals_slot *slots, uint32_t max_sessions);

/* The session's sums, to add to; NULL: not in the table. Valid until the next _add or _remove. */
struct toll_snapshot *toll_totals_find(struct toll_totals *totals, const unsigned char id[16]);

/* A hint: toll_totals_find() comes soon. Needs no serialising. */
void toll_totals_fetch(const struct toll_totals *totals, const unsigned char id[16]);

/* Begins a session; one that is there already goes on as it was. A full table takes no more and remembers
 * that. */
void toll_totals_add(struct toll_totals *totals, const unsigned char id[16], int64_t started_at_us);

/* Forgets a session; one that is not there is fine. */
void toll_totals_remove(struct toll_totals *totals, const unsigned char id[16]);

#endif
