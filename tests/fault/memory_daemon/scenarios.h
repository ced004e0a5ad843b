/* What happens while memory runs out, one function for each scenario: they end with everything done and everything freed. */
#ifndef TOLL_TESTS_MEMORY_SCENARIOS_H
#define TOLL_TESTS_MEMORY_SCENARIOS_H

#include "tests/fault/memory/outcome.h"

/* How often something is tried until memory is back; the longest lack takes fewer. */
enum { TRIES = 400 };

/* journal.c: a log is opened, filled, read, collected, renewed, repaired. */
void journal_story(struct outcome *outcome);

/* receive.c: datagrams of all kinds through intake, journal, writer and a sink. */
void stored_story(struct outcome *outcome);     /* with sessions, streams, quarantine, resends, orphans */
void refused_story(struct outcome *outcome);    /* the sink refuses rows */
void evicted_story(struct outcome *outcome);    /* few sessions and streams fit into memory */
void taken_back_story(struct outcome *outcome); /* the sink goes back to an older copy of itself */
void killed_story(struct outcome *outcome);     /* the daemon dies when memory first runs out, and is started again */
void logged_story(struct outcome *outcome);     /* the sink is the log */

/* control.c: tollctl's commands. */
void control_story(struct outcome *outcome);

/* pieces.c: configuration, rows of a batch. */
void config_story(struct outcome *outcome);
void rows_story(struct outcome *outcome);

/* send.c: rows on their way to the server. */
void send_story(struct outcome *outcome);

#endif
