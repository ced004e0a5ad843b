"""How the cost of a row grows with what is stored, and whether the queries that users rely on stay quick."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from frame import Bench
from harness import Database
from measure import CpuWatch, Sample, Series, percentile
from through_toll import Load, Stored, check, finish, make_daemon, measure, words

SECONDS = {"tiny": 25, "short": 45, "long": 400}
EVENTS_A_CALL = 40
TRANSCRIPTS_A_CALL = 10
CALLS_A_USER = 20
CHUNK = 25_000  # calls, in a transaction
FILLERS = 2     # connections
ASKED = 300     # times each query is asked
QUERY_LIMIT_MS = 5.0

# History as toll would have stored it: whole calls of this month, begun one after the other, all of them over, the rows of each together. Everything is
# in one partition, which is the worst case: a database in use spreads 50 million events over its months. A pattern of CHUNK calls is made once, and then
# played again and again with other ids and times. Its users are none of load's, who are few and make thousands of calls each.
PATTERN = (
    """CREATE UNLOGGED TABLE public.bench_events AS
       SELECT call, i * interval '4.5 s' AS after, kind AS event_type, provider, model, CASE k WHEN 1 THEN 1400 + i END AS input_tokens,
           CASE k WHEN 1 THEN 57 END AS output_tokens, CASE k WHEN 1 THEN false END AS estimated, CASE k WHEN 2 THEN 148 END AS char_count,
           CASE k WHEN 2 THEN 'Newsman' END AS voice, CASE WHEN k <> 1 THEN (4012.345 + i)::float8 END AS audio_duration_ms, gen_random_uuid() AS turn_id,
           CASE WHEN k <> 0 THEN 'support' END AS agent, call || '-' || i AS request_id, CASE k WHEN 1 THEN 1280 END AS cached_input_tokens,
           (412.7 + i)::float8 AS ttfb_ms, (5012.3 + i)::float8 AS duration_ms, CASE WHEN k <> 0 THEN false END AS interrupted
       FROM generate_series(0, %(chunk)s - 1) AS call, generate_series(0, %(events)s - 1) AS i,
           (VALUES (0, 'stt', 'deepgram', 'nova-3'), (1, 'llm', 'openai', 'gpt-4o'), (2, 'tts', 'cartesia', 'sonic-2')) AS kinds (k, kind, provider, model)
       WHERE k = i %% 3 ORDER BY call, i""",
    """CREATE UNLOGGED TABLE public.bench_transcripts AS
       SELECT call, i * interval '18 s' AS after, gen_random_uuid() AS turn_id, CASE i %% 2 WHEN 0 THEN 'assistant' ELSE 'user' END AS role,
           repeat('so it was said ', 5) AS text, CASE i %% 2 WHEN 1 THEN 'en' END AS language, i %% 8 = 0 AS interrupted
       FROM generate_series(0, %(chunk)s - 1) AS call, generate_series(0, %(transcripts)s - 1) AS i ORDER BY call, i""",
    "ANALYZE public.bench_events, public.bench_transcripts",
)
HISTORY = (
    """CREATE TEMPORARY TABLE bench_calls ON COMMIT DROP AS
       SELECT n, gen_random_uuid() AS session_id, date_trunc('month', now()) + (now() - date_trunc('month', now())) * (n / %(calls)s::float8) AS began
       FROM generate_series(%(first)s::integer, %(last)s::integer) AS n""",
    """INSERT INTO public.billing_sessions (session_id, started_at, ended_at, duration_secs, finish_reason, llm_input_tokens, llm_output_tokens,
           llm_calls, tts_chars, tts_calls, stt_audio_ms, stt_calls, metadata)
       SELECT session_id, began, began + interval '3 min', 180, 'end', 20000, 800, 14, 1900, 13, 52000, 13,
           jsonb_build_object('user_id', 'past_' || n / %(calls_a_user)s, 'tenant_id', 't_' || n %% 8, 'phone_number', '+1555' || lpad(n::text, 7, '0'),
               'region', 'eu-central', 'call_id', 'CA' || md5(n::text), 'direction', 'inbound')
       FROM bench_calls""",
    """INSERT INTO {billing_events} (session_id, occurred_at, {event_columns})
       SELECT session_id, began + after, {event_columns} FROM public.bench_events JOIN bench_calls ON n - %(first)s = call""",
    """INSERT INTO {session_transcripts} (session_id, occurred_at, {transcript_columns})
       SELECT session_id, began + after, {transcript_columns} FROM public.bench_transcripts JOIN bench_calls ON n - %(first)s = call""",
)
# While history is made: no index is kept up, and no checkpoint is due every gigabyte.
FILL_SETTINGS = {"max_wal_size": "16GB", "checkpoint_timeout": "1h", "maintenance_work_mem": "1GB", "work_mem": "256MB", "autovacuum": "off"}
QUERIES = {
    "transcript of a session": "SELECT role, text, language, interrupted, occurred_at FROM session_transcripts WHERE session_id = %s ORDER BY occurred_at",
    "interrupted answers of a session":
        "SELECT text, occurred_at FROM session_transcripts WHERE session_id = %s AND role = 'assistant' AND interrupted = TRUE",
    "sessions of a user":
        "SELECT session_id, duration_secs, llm_input_tokens FROM billing_sessions WHERE metadata->>'user_id' = %s ORDER BY started_at DESC",
    "events of a session": "SELECT * FROM billing_events WHERE session_id = %s ORDER BY occurred_at",
}


class Partition:
    """This month's partition of a table, taken out of it and rid of its indexes, to be filled; then put back as it was."""

    def __init__(self, db: Database, parent: str) -> None:
        self.db, self.parent = db, parent
        name = str(db.value(f"SELECT '{parent}_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')"))
        self.name = f"toll.{name}"
        self.bounds = str(db.value("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", self.name))
        self.condition = str(db.value("SELECT pg_get_partition_constraintdef(%s::regclass)", self.name))
        self.indexes = [str(each) for (each,) in db.query("SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass AND NOT indisprimary", self.name)]
        self.key = str(db.value("SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'", self.name))
        db.execute(f"ALTER TABLE public.{parent} DETACH PARTITION {self.name}")
        db.execute(f"ALTER TABLE {self.name} ADD CONSTRAINT bench_month CHECK ({self.condition})")  # or all of it is read to put it back
        db.execute(f"ALTER TABLE {self.name} DROP CONSTRAINT {self.key}")
        for definition in self.indexes:
            db.execute(f"DROP INDEX toll.{definition.split(' INDEX ')[1].split(' ON ')[0]}")

    def put_back(self) -> None:
        for definition in self.indexes:
            self.db.execute(definition)  # the one over random ids has a fillfactor of 70, which is what it would have grown to
        self.db.execute(f"ALTER TABLE {self.name} ADD CONSTRAINT {self.key} PRIMARY KEY (id, occurred_at)")
        self.db.execute(f"ALTER TABLE public.{self.parent} ATTACH PARTITION {self.name} {self.bounds}")
        self.db.execute(f"ALTER TABLE {self.name} DROP CONSTRAINT bench_month")


def settings(db: Database, words: dict[str, str]) -> None:
    """Of the server, for a while; none: back to what they were."""
    for name, value in words.items():
        db.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    if not words:
        db.execute("ALTER SYSTEM RESET ALL")
    db.execute("SELECT pg_reload_conf()")


def fill(bench: Bench, db: Database, have: int, want: int, total: int) -> None:
    """Adds calls until the table holds so many events: without indexes, which are made afterwards."""
    began = time.monotonic()
    settings(db, FILL_SETTINGS)
    parts = {parent: Partition(db, parent) for parent in ("billing_events", "session_transcripts")}
    calls = total // EVENTS_A_CALL
    numbers = {"chunk": CHUNK, "calls": calls, "calls_a_user": CALLS_A_USER, "events": EVENTS_A_CALL, "transcripts": TRANSCRIPTS_A_CALL}
    if have == 0:
        connection = db.connect()
        with connection.cursor() as cursor:
            for statement in PATTERN:
                cursor.execute(statement, numbers)
        connection.close()
    names = {parent: part.name for parent, part in parts.items()}
    for what, table in (("event_columns", "bench_events"), ("transcript_columns", "bench_transcripts")):
        names[what] = str(db.value("SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 2",
                                   f"public.{table}"))
    starts = range(have // EVENTS_A_CALL, want // EVENTS_A_CALL, CHUNK)
    done = 0

    def chunk(start: int) -> None:
        nonlocal done
        last = min(start + CHUNK, want // EVENTS_A_CALL) - 1
        connection = db.connect()
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = off")
            for statement in HISTORY:
                cursor.execute(statement.format(**names), numbers | {"first": start, "last": last})
        connection.commit()
        connection.close()
        done += (last + 1 - start) * EVENTS_A_CALL
        bench.progress(f"history: {have + done:,} events ({done / (time.monotonic() - began):,.0f} a second)", (have + done) / total * 0.75)
    with ThreadPoolExecutor(FILLERS) as fillers:
        for each in [fillers.submit(chunk, start) for start in starts]:
            each.result()
    for part in parts.values():
        part.put_back()
    bench.progress(f"history: {want:,} events with their indexes ({(want - have) / (time.monotonic() - began):,.0f} a second)", want / total * 0.75)
    settings(db, {})
    db.execute("VACUUM (ANALYZE) public.billing_sessions, public.billing_events, public.session_transcripts")
    db.execute("CHECKPOINT")


def one(bench: Bench, db: Database, sessions: int) -> Sample:
    """Events of so many live sessions on top of what is stored."""
    stage = bench.stage
    batch, moment = db.query("SELECT coalesce(max(batch_id), 0), clock_timestamp() FROM toll.batches")[0]
    db.execute("CHECKPOINT")
    stored = Stored(db, batch)
    daemon = make_daemon(db)
    load = None
    try:
        daemon.start()
        load = Load(daemon, *words(send="coalesced", frames=bench.size.frames, sessions=sessions, seed=int(time.time() * 1e3) % 10**9))
        stored.wait(load.ready["frames"])
        watch = CpuWatch(stage.postmaster, {"daemon": daemon.pid}, but=(stored.backend,))
        flow = measure([load], watch, stored)
        over, _ = finish([daemon], [load], stored)
    finally:
        stored.close()
        if load is not None:
            load.close()
        daemon.close()
    check(stage, over, db, batch, moment)
    return Sample(flow.sent["frames"] - load.ready["frames"], flow.seconds, flow.cpu)


def ask(db: Database, calls: int) -> dict[str, dict[str, float]]:
    """How long each query takes for sessions and users at random, in milliseconds, the round trip included."""
    connection = db.connect()
    found: dict[str, dict[str, float]] = {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_id::text, metadata->>'user_id' FROM billing_sessions TABLESAMPLE BERNOULLI (%s)"
                       " WHERE owner_journal IS NULL ORDER BY random() LIMIT %s", (min(100.0, ASKED * 400.0 / calls), ASKED))
        keys = cursor.fetchall()
        for what, query in QUERIES.items():
            took = []
            for session, user in keys:
                began = time.perf_counter()
                cursor.execute(query, (user if "user_id" in query else session,))
                rows = len(cursor.fetchall())
                took.append((time.perf_counter() - began) * 1e3)
                if rows == 0 and "interrupted = TRUE" not in query:
                    raise RuntimeError(f"no rows: {query} {session} {user}")
            took.sort()
            found[what] = {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "max": took[-1]}
    connection.close()
    return found


def run(bench: Bench) -> None:
    size, db = bench.size, bench.stage.new_database()
    results: list[dict[str, Any]] = []
    try:
        have = 0
        for stored in size.stored:
            fill(bench, db, have, stored, size.stored[-1])
            have = stored
            queries = ask(db, stored // EVENTS_A_CALL)
            series = {sessions: Series() for sessions in size.concurrent}
            for number in range(size.growth_rounds):
                for sessions in size.concurrent:
                    series[sessions].samples.append(one(bench, db, sessions))
                    bench.progress(f"{stored:,} stored, {sessions:,} sessions, round {number + 1} of {size.growth_rounds}:"
                                   f" {series[sessions].samples[-1].rate:,.0f} rows/s")
            disk = {name: value for name, value in db.query(
                "SELECT i.relname, sum(pg_relation_size(i.oid))::bigint FROM pg_class i WHERE i.relname ~ '^(billing_events|billing_sessions|session_trans)'"
                " AND i.relkind IN ('r', 'i') GROUP BY 1")}
            results.append({"stored": stored, "queries": queries, "disk": {name: int(value) for name, value in disk.items()}})
            for sessions, found in series.items():
                bench.series[f"{stored:,} stored, {sessions:,} sessions"] = found
        bench.results["growth"] = results
    finally:
        db.drop()
    lines(bench, results)


def lines(bench: Bench, results: list[dict[str, Any]]) -> None:
    size = bench.size
    for sessions in size.concurrent:
        group = f"growth: events/s with {sessions:,} live sessions, 4 workers, coalesced"
        names = [f"{stored:,} stored, {sessions:,} sessions" for stored in size.stored]
        for name in names:
            bench.rate(group, name, names[0] if name != names[0] else "")
            bench.cpu(group, "  PostgreSQL backend", name, "backend")
            bench.cpu(group, "  daemon", name, "daemon")
    for result in results:
        group = f"queries with {result['stored']:,} events stored (asked {ASKED} times each)"
        for what, took in result["queries"].items():
            bench.add(group, f"{what}, p99", [took["p99"]], "ms", target=QUERY_LIMIT_MS, at_most=True, note=f"p50 {took['p50']:.2f}, max {took['max']:.2f} ms")
