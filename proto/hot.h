/* What every record() goes through stands in one section, so that it lies in few pages. In a process that records at human pace
 * those are cold, and walking the processor's tables to one more page of code costs about as much as running what it holds. */
#ifndef TOLL_PROTO_HOT_H
#define TOLL_PROTO_HOT_H

#define TOLL_HOT  __attribute__((section("toll_hot")))
#define TOLL_COLD __attribute__((cold, noinline))

#endif
