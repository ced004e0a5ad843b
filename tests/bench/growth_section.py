"""How the cost of a row grows with what is stored, and whether the queries that users rely on stay quick."""

from __future__ import annotations

import time
from typing import Any

from frame import Bench
from harness import Database
from measure import CpuWatch, Sample, Series, percentile
from through_toll import Load, Stored, check, finish, make_daemon, measure, words

SECONDS = {"tiny": 25, "short": 45, "long": 2700}
EVENTS_A_CALL = 40
TRANSCRIPTS_A_CALL = 10
CALLS_A_USER = 20
CHUNK = 25_000  # calls, in a transaction
ASKED = 300     # times each query is asked
QUERY_LIMIT_MS = 5.0

# History as toll would have stored it: whole calls of this month, begun one after the other, all of them over. Everything is in one
# partition, which is the worst case: a database in use spreads 50 million events over its months. Its users are none of load's, who are few
# and make thousands of calls each.
HISTORY = (
    """CREATE UNLOGGED TABLE public.bench_calls AS
       SELECT n, gen_random_uuid() AS session_id, date_trunc('month', now()) + (now() - date_trunc('month', now())) * (n / %(calls)s::float8) AS began
       FROM generate_series(%(first)s::integer, %(last)s::integer) AS n""",
    """INSERT INTO public.billing_sessions (session_id, started_at, ended_at, duration_secs, finish_reason, llm_input_tokens, llm_output_tokens,
           llm_calls, tts_chars, tts_calls, stt_audio_ms, stt_calls, metadata)
       SELECT session_id, began, began + interval '3 min', 180, 'end', 20000, 800, 14, 1900, 13, 52000, 13,
           jsonb_build_object('user_id', 'past_' || n / %(calls_a_user)s, 'tenant_id', 't_' || n %% 8, 'phone_number', '+1555' || lpad(n::text, 7, '0'),
               'region', 'eu-central', 'call_id', 'CA' || md5(n::text), 'direction', 'inbound')
       FROM public.bench_calls""",
    """INSERT INTO public.billing_events (session_id, event_type, provider, model, input_tokens, output_tokens, estimated, char_count, voice,
           audio_duration_ms, occurred_at, turn_id, agent, request_id, cached_input_tokens, ttfb_ms, duration_ms, interrupted)
       SELECT session_id, kind, CASE kind WHEN 'stt' THEN 'deepgram' WHEN 'llm' THEN 'openai' ELSE 'cartesia' END,
           CASE kind WHEN 'stt' THEN 'nova-3' WHEN 'llm' THEN 'gpt-4o' ELSE 'sonic-2' END,
           CASE kind WHEN 'llm' THEN 1400 + i END, CASE kind WHEN 'llm' THEN 57 END, CASE kind WHEN 'llm' THEN false END,
           CASE kind WHEN 'tts' THEN 148 END, CASE kind WHEN 'tts' THEN 'Newsman' END, CASE WHEN kind <> 'llm' THEN 4012.345 + i END,
           began + i * interval '4.5 s', md5(n || '-' || i / 3)::uuid, CASE WHEN kind <> 'stt' THEN 'support' END, n || '-' || i,
           CASE kind WHEN 'llm' THEN 1280 END, 412.7 + i, 5012.3 + i, CASE WHEN kind <> 'stt' THEN false END
       FROM public.bench_calls, generate_series(0, %(events)s - 1) AS i, (VALUES (0, 'stt'), (1, 'llm'), (2, 'tts')) AS k (k, kind)
       WHERE k = i %% 3 ORDER BY n, i""",
    """INSERT INTO public.session_transcripts (session_id, turn_id, role, text, language, interrupted, occurred_at)
       SELECT session_id, md5(n || '-' || i)::uuid, CASE i %% 2 WHEN 0 THEN 'assistant' ELSE 'user' END, repeat('so it was said ', 5),
           CASE i %% 2 WHEN 1 THEN 'en' END, i %% 8 = 0, began + i * interval '18 s'
       FROM public.bench_calls, generate_series(0, %(transcripts)s - 1) AS i ORDER BY n, i""",
    "DROP TABLE public.bench_calls",
)

QUERIES = {
    "transcript of a session": "SELECT role, text, language, interrupted, occurred_at FROM session_transcripts WHERE session_id = %s ORDER BY occurred_at",
    "interrupted answers of a session":
        "SELECT text, occurred_at FROM session_transcripts WHERE session_id = %s AND role = 'assistant' AND interrupted = TRUE",
    "sessions of a user":
        "SELECT session_id, duration_secs, llm_input_tokens FROM billing_sessions WHERE metadata->>'user_id' = %s ORDER BY started_at DESC",
    "events of a session": "SELECT * FROM billing_events WHERE session_id = %s ORDER BY occurred_at",
}


def fill(bench: Bench, db: Database, have: int, want: int, total: int) -> None:
    """Adds calls until the table holds so many events, with the foreign key's trigger off."""
    connection = db.connect()
    connection.autocommit = False
    calls, began = want // EVENTS_A_CALL, time.monotonic()
    first = have // EVENTS_A_CALL
    for start in range(first, calls, CHUNK):
        last = min(start + CHUNK, calls) - 1
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            for statement in HISTORY:
                cursor.execute(statement, {"first": start, "last": last, "calls": total // EVENTS_A_CALL, "calls_a_user": CALLS_A_USER,
                                           "events": EVENTS_A_CALL, "transcripts": TRANSCRIPTS_A_CALL})
        connection.commit()
        rate = (last + 1 - first) * EVENTS_A_CALL / (time.monotonic() - began)
        bench.progress(f"history: {(last + 1) * EVENTS_A_CALL:,} events ({rate:,.0f} a second)", (last + 1) * EVENTS_A_CALL / total * 0.75)
    connection.close()
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
