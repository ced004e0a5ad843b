/* See pg_bypass.h. */
#include "daemon/pg_bypass.h"

/* Sessions before events, the order in which attaching a partition takes its locks. */
static const char LOCK_TABLES[] =
    "LOCK TABLE public.billing_sessions, public.billing_events, public.session_transcripts, toll.open_sessions, toll.journals, "
    "toll.streams, toll.batches, toll.quarantine, toll.gaps IN ROW EXCLUSIVE MODE";

#define WRITTEN                                                                                                        \
    "'{public.billing_sessions,toll.open_sessions,toll.journals,toll.streams,toll.batches,toll.quarantine,toll.gaps}'::regclass[]"

/* Triggers, rules, foreign keys and deferrable constraints that are not ours. The foreign keys that claiming sessions makes up for are those of session_id. (Partitions are listed
 * only where one of any table has something of its own: listing them takes longer than all the rest.) */
static const char FIND_OTHERS[] =
    "SELECT coalesce(bool_or(copied), false), count(*) > 0 FROM (SELECT relid = ANY (" WRITTEN ") AS written, "
    "relid IN ('public.billing_events'::regclass, 'public.session_transcripts'::regclass) OR "
    "(SELECT relispartition FROM pg_class WHERE oid = relid) AND "
    "relid IN (SELECT relid FROM pg_partition_tree('public.billing_events') UNION ALL "
    "SELECT relid FROM pg_partition_tree('public.session_transcripts')) AS copied FROM ("
    "SELECT tgrelid FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('O', 'R') "
    "UNION ALL SELECT conrelid FROM pg_constraint AS c WHERE contype IN ('p', 'u', 'x') AND condeferrable OR "
    "contype = 'f' AND conparentid = 0 AND NOT (confrelid = 'public.billing_sessions'::regclass AND conkey = ARRAY("
    "SELECT attnum FROM pg_attribute WHERE attrelid = c.conrelid AND attname = 'session_id')) "
    "UNION ALL SELECT oid FROM pg_class WHERE oid = ANY (" WRITTEN ") AND relhasrules"
    ") AS others (relid) OFFSET 0) AS found WHERE written OR copied"; /* OFFSET 0: each is computed once */

int pg_bypass_lock(struct pg *pg)
{
    return pg_run(pg, NULL, LOCK_TABLES, 0, NULL);
}

static int set_replica(struct pg *pg, bool replica)
{
    enum pg_role role = replica ? PG_ROLE_REPLICA : PG_ROLE_ORIGIN;
    int r;

    if (pg->role == role)
        return 0;
    r = pg_exec(pg, replica ? "SET session_replication_role = replica" : "SET session_replication_role = origin");
    pg->role = r == 0 ? role : PG_ROLE_UNKNOWN;
    return r;
}

int pg_bypass_choose(struct pg *pg, enum pg_bypass *ret)
{
    bool copied, any;
    PGresult *result;
    int r = pg_query(pg, &result, FIND_OTHERS, 0, NULL);

    if (r < 0)
        return r;
    copied = PQgetvalue(result, 0, 0)[0] == 't';
    any = PQgetvalue(result, 0, 1)[0] == 't';
    PQclear(result);
    r = set_replica(pg, !any);
    if (r == 0)
        *ret = copied ? PG_BYPASS_NONE : any ? PG_BYPASS_ROWS : PG_BYPASS_ALL;
    return r;
}

int pg_bypass_end(struct pg *pg)
{
    return pg->role == PG_ROLE_REPLICA ? set_replica(pg, false) : 0;
}
