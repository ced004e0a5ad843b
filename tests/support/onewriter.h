/* For tests that turn a writer's core by hand: the orders that daemon/writers.c gives to a group of one. */
#ifndef TOLL_TESTS_ONEWRITER_H
#define TOLL_TESTS_ONEWRITER_H

#include "daemon/writer_core.h"

/* At first, and after the journal was renewed from some LSN. */
static inline void one_writer_muster(struct writer_wishes *wishes)
{
    wishes->order.number++;
    wishes->order.what = WRITER_MUSTER;
    if (wishes->order.writers == 0)
        wishes->order.writers = 1;
}

static inline void one_writer_renewed(struct writer_wishes *wishes, uint64_t from)
{
    wishes->order.renewals++;
    wishes->order.renewed_from = from;
    one_writer_muster(wishes);
}

/* After every turn. True: the journal is to be renewed from status->notes.stored_lsn. */
static inline bool one_writer_renews(struct writer_wishes *wishes, const struct writer_status *status)
{
    if (status->notes.order != wishes->order.number || wishes->order.number == 0)
        return false;
    if (status->notes.diverted)
        return true;
    if (wishes->order.what == WRITER_GO) { /* it has come upon something that it does not decide alone */
        one_writer_muster(wishes);
        return false;
    }
    wishes->order.number++;
    wishes->order.what = WRITER_GO;
    wishes->order.limit = UINT64_MAX;
    return false;
}

#endif
