/* Memory exhausted, in the daemon: every allocation that its code makes fails in turn, once and for a while, and so do the calls into libraries that
 * allocate. Nobody may crash, nothing may leak; and when memory is back the same objects go on and nothing is lost, twice or wrong.
 *
 *     TOLL_SEED=7 memory_daemon                  repeats a run's sample
 *     TOLL_RUN='stored 57 8' memory_daemon       repeats one run, in this process: the 57th allocation and the 7 after it fail
 *
 * Not here: libpq's own allocations and sink_postgres, which tests/fault/test_memory_exhausted.py reaches with a real server. */
#include "tests/fault/memory/runs.h"
#include "tests/fault/memory_daemon/scenarios.h"

#include "daemon/log.h"

int main(void)
{
    static const struct scenario scenarios[] = {
        {"config", config_story},         {"rows", rows_story},       {"journal", journal_story},
        {"stored", stored_story},         {"refused", refused_story}, {"evicted", evicted_story},
        {"taken_back", taken_back_story}, {"killed", killed_story},   {"logged", logged_story},
        {"control", control_story},       {"send", send_story},
    };

    signal(SIGPIPE, SIG_IGN);
    log_open(STDERR_FILENO, LOG_LEVEL_ERROR);
    return run_all("memory_daemon", scenarios, sizeof(scenarios) / sizeof(*scenarios), 14);
}
