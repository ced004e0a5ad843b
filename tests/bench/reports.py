"""How long reports take on a database in use: medians and maxima of each as psycopg2 sees them, and the backend's CPU time, which neighbours on the
machine disturb less. Without parallel workers.

Run: python3 tests/bench/reports.py [--events N] [--lines N] [--days N] [--accounts N] [--asked N] [--unsummed]. Sessions, events, lines and roll-ups are
made by INSERT ... SELECT as rating writes them: calls of 40 events over so many days, by accounts of which the first has a tenth of all. --lines: only so
many of the events get rows in billing_events and billing_charges, spread over all calls; the rest are in the roll-ups alone, which saves most of the time
and space. Older usage is summed up as tolld's housekeeping does it; --unsummed: it is not. The default of 400,000 events takes half a minute; ten million,
with all lines, 8 GB and some ten minutes. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/sql")]

from cluster import Cluster, Database  # noqa: E402
from schema import migrated  # noqa: E402

EVENTS_A_CALL = 40
CHUNK = 25_000  # calls, in a transaction

ACCOUNTS = """INSERT INTO accounts (account_id, name, plan_id, currency, time_zone, charge_by, tariff_id)
    SELECT 'acc_' || n, 'Account ' || n, 'basic', 'USD', CASE n %% 3 WHEN 0 THEN 'UTC' WHEN 1 THEN 'Europe/Berlin' ELSE 'Asia/Kolkata' END,
           CASE n %% 2 WHEN 0 THEN 'usage' ELSE 'minutes' END, '*' FROM generate_series(0, %(accounts)s - 1) AS n"""
CALLS = (
    """CREATE UNLOGGED TABLE bench_calls AS
       SELECT n, gen_random_uuid() AS session_id, 'acc_' || CASE n %% 10 WHEN 0 THEN 0 ELSE (hashint4(n) & 1048575) %% %(accounts)s END AS account_id,
              date_trunc('day', now()) - %(days)s * interval '1 day' + %(days)s * interval '1 day' * (n / %(calls)s::float8) AS began
       FROM generate_series(%(first)s::integer, %(last)s::integer) AS n""",
    """INSERT INTO billing_sessions (session_id, started_at, ended_at, duration_secs, finish_reason, llm_input_tokens, llm_output_tokens, llm_calls,
           tts_chars, tts_calls, stt_audio_ms, stt_calls, metadata)
       SELECT session_id, began, began + interval '3 min', 180, 'end', 20000, 800, 14, 1900, 13, 52000, 13, jsonb_build_object('account_id', account_id)
       FROM bench_calls""",
    """INSERT INTO toll.rated_sessions (session_id, account_id, charge_by, plan_id, tariff_id, currency, channel, business_id, enterprise_id,
           workflow_name, call_id, started_at, ended_at, duration_ms, voice, billed_minutes, billed_amount, voice_minutes)
       SELECT b.session_id, b.account_id, a.charge_by, 'basic', '*', 'USD', 'voice', b.account_id, 'ent_' || b.n / 200 / 5, 'flow_' || b.n / 200 %% 5,
              'CA' || b.n, b.began, b.began + interval '3 min', 180000, true, CASE a.charge_by WHEN 'minutes' THEN 3 END,
              CASE a.charge_by WHEN 'minutes' THEN 0.18 END, 3
       FROM bench_calls b JOIN accounts a USING (account_id)""",
    """CREATE UNLOGGED TABLE bench_events AS
       SELECT nextval('billing_events_id_seq') AS id, b.session_id, b.account_id, k.kind, b.began + i * interval '4.5 s' AS occurred_at, i
       FROM bench_calls b, generate_series(0, %(events_a_call)s - 1) AS i,
            (VALUES (0, 'stt'), (1, 'llm'), (2, 'tts')) AS k (k, kind) WHERE k.k = i %% 3 AND b.n / 200 %% %(stride)s = 0 ORDER BY b.n, i""",
    """INSERT INTO billing_events (id, session_id, event_type, provider, model, input_tokens, output_tokens, char_count, audio_duration_ms, occurred_at,
           turn_id, agent, ttfb_ms, duration_ms)
       SELECT id, session_id, kind, CASE kind WHEN 'stt' THEN 'deepgram' WHEN 'llm' THEN 'openai' ELSE 'cartesia' END,
              CASE kind WHEN 'stt' THEN 'nova-3' WHEN 'llm' THEN 'gpt-4o' ELSE 'sonic-2' END, CASE kind WHEN 'llm' THEN 1400 + i END,
              CASE kind WHEN 'llm' THEN 57 END, CASE kind WHEN 'tts' THEN 148 END, CASE WHEN kind <> 'llm' THEN 4012.345 + i END, occurred_at,
              md5(session_id || '-' || i / 3)::uuid, CASE kind WHEN 'llm' THEN 'agent_' || i %% 4 END, 412.7 + i, 1012.3 + i
       FROM bench_events""",
    """INSERT INTO billing_charges (event_id, occurred_at, session_id, account_id, component, provider, model, quantities, cost_original, cost_currency,
           cost, charge, currency, cost_price_ids, charge_price_ids, kind, booked_at, batch)
       SELECT id, occurred_at, session_id, account_id, kind, CASE kind WHEN 'stt' THEN 'deepgram' WHEN 'llm' THEN 'openai' ELSE 'cartesia' END,
              CASE kind WHEN 'stt' THEN 'nova-3' WHEN 'llm' THEN 'gpt-4o' ELSE 'sonic-2' END,
              CASE kind WHEN 'stt' THEN jsonb_build_object('audio_ms', 4012.345 + i) WHEN 'llm' THEN jsonb_build_object('input', 1400 + i, 'output', 57)
                        ELSE jsonb_build_object('characters', 148) END,
              0.004070000, 'USD', 0.004070000, 0.006000000, 'USD', '{1,2}', '{3,4}', 'usage', occurred_at, 1
       FROM bench_events""",
    """INSERT INTO billing_charges (occurred_at, session_id, account_id, component, quantities, charge, currency, charge_price_ids, kind, booked_at, batch)
       SELECT ended_at, r.session_id, r.account_id, 'tariff', '{"minutes": 3}', billed_amount, 'USD', '{9}', 'tariff', ended_at, 1
       FROM toll.rated_sessions r JOIN bench_calls USING (session_id) WHERE billed_minutes IS NOT NULL""",
    """INSERT INTO toll.usage_rollup AS r
       SELECT account_id, date_bin('15 min', began, '2000-01-01Z'), account_id, kind, 'provider', 'model', 'USD', 13 * count(*), 0,
              18200 * count(*), 0, 741 * count(*), 1924 * count(*), 52160485 * count(*), 0, 0.05291 * count(*), 0.078 * count(*), 0, 0, 0
       FROM bench_calls CROSS JOIN unnest(ARRAY['llm', 'stt', 'tts']) AS kind GROUP BY account_id, date_bin('15 min', began, '2000-01-01Z'), kind
       ON CONFLICT (account_id, quarter, business_id, component, provider, model, currency)
           DO UPDATE SET events = r.events + excluded.events, cost = r.cost + excluded.cost, charge = r.charge + excluded.charge""",
    """INSERT INTO toll.usage_rollup AS r
       SELECT s.account_id, date_bin('15 min', ended_at, '2000-01-01Z'), s.account_id, c, '', '', 'USD', 0, count(*), 0, 0, 0, 0, 0, 3 * count(*), 0,
              CASE c WHEN 'tariff' THEN 0.18 ELSE 0 END * count(*), 0, 0, 0
       FROM toll.rated_sessions s JOIN bench_calls USING (session_id) CROSS JOIN unnest(ARRAY['session', 'tariff']) AS c
       WHERE c = 'session' OR billed_minutes IS NOT NULL GROUP BY s.account_id, date_bin('15 min', ended_at, '2000-01-01Z'), c
       ON CONFLICT (account_id, quarter, business_id, component, provider, model, currency)
           DO UPDATE SET sessions = r.sessions + excluded.sessions, quantity = r.quantity + excluded.quantity, charge = r.charge + excluded.charge""",
    "DROP TABLE bench_calls, bench_events",
)

LATENCIES = """INSERT INTO toll.latency_rollup
    SELECT now - n * interval '15 min', component, provider, 'model', metric, bucket, 1 + bucket %% 7
    FROM date_bin('15 min', now(), '2000-01-01Z') AS now, generate_series(0, 60 * 96) AS n, unnest(ARRAY['llm', 'stt', 'tts']) AS component,
         unnest(ARRAY['one', 'other']) AS provider, unnest(ARRAY['ttfb', 'duration']) AS metric, generate_series(50, 62) AS bucket"""

# What is asked, and how its arguments are found: one of the session, call, account, workflow or day at random.
REPORTS = {
    "call_costs(session)": "SELECT call_costs('{session}')",
    "call_costs(call_id)": "SELECT call_costs('CA{call}')",
    "call_cost_breakdown of a call": "SELECT * FROM call_cost_breakdown WHERE call_log_id = 'CA{call}'",
    "billing_analytics, 30 days": "SELECT billing_analytics('acc_{account}', 'day', 30)",
    "billing_analytics, 365 days": "SELECT billing_analytics('acc_{account}', 'month', 365)",
    "the same of the largest account": "SELECT billing_analytics('acc_0', 'month', 365)",
    "the same by the day": "SELECT billing_analytics('acc_0', 'day', 365)",
    "revenue_minutes, a day by the hour": "SELECT revenue_minutes('{day}', '{day}'::date + 1, 'hour')",
    "revenue_minutes, 30 days by the day": "SELECT revenue_minutes('{day}', '{day}'::date + 30, 'day')",
    "revenue_minutes, 365 days by the day": "SELECT revenue_minutes(current_date - 365, current_date, 'day')",
    "revenue_minutes, 365 days by the hour": "SELECT revenue_minutes(current_date - 365, current_date, 'hour')",
    "billing_overview, all businesses": "SELECT * FROM billing_overview",
    "usage_aggregation, a business": "SELECT * FROM usage_aggregation WHERE business_id = 'acc_{account}'",
    "usage_aggregation, all": "SELECT * FROM usage_aggregation",
    "quota_status, an account": "SELECT * FROM quota_status WHERE account_id = 'acc_{account}'",
    "quota_status, this month": "SELECT * FROM quota_status WHERE period_start = date_trunc('month', now())::date",
    "quota_status, all months": "SELECT * FROM quota_status",
    "workflow_rollup, 200 sessions": "SELECT workflow_rollup('ent_{enterprise}', 'flow_{flow}')",
    "usage_events, a session": "SELECT * FROM usage_events WHERE session_id = '{session}'",
    "usage_events, a business's hour":
        "SELECT * FROM usage_events WHERE business_id = 'acc_{account}' AND created_at >= '{day}' AND created_at < '{day}'::timestamptz + interval '1 h'",
    "usage_sessions, a day": "SELECT * FROM usage_sessions WHERE created_at >= '{day}' AND created_at < '{day}'::timestamptz + interval '1 day'",
    "stage_latency, the last week": "SELECT * FROM stage_latency",
    "stage_latency, the last 30 days": "SELECT * FROM stage_latency(now() - interval '30 days', now())",
    "unrated_events and the like": "SELECT (SELECT count(*) FROM unrated_events), (SELECT count(*) FROM unrated_sessions), (SELECT count(*) FROM unresolved_sessions)",
}


def fill(database: Database, events: int, lines: int, days: int, accounts: int, summed: bool) -> None:
    connection = database.connect()
    connection.autocommit = False
    calls, began = events // EVENTS_A_CALL, time.monotonic()
    with connection, connection.cursor() as cursor:
        cursor.execute(ACCOUNTS, {"accounts": accounts})
        cursor.execute(LATENCIES, {})
    for first in range(0, calls, CHUNK):
        with connection, connection.cursor() as cursor:
            for statement in CALLS:
                # Without foreign keys row by row, but with the triggers that keep roll-ups.
                cursor.execute(f"SET LOCAL session_replication_role = {'origin' if 'usage_rollup' in statement else 'replica'}")
                cursor.execute(statement, {"first": first, "last": min(first + CHUNK, calls) - 1, "calls": calls, "days": days, "accounts": accounts,
                                           "events_a_call": EVENTS_A_CALL, "stride": max(1, events // lines)})
        print(f"  {min(first + CHUNK, calls) * EVENTS_A_CALL:,} events, {time.monotonic() - began:.0f} s", flush=True)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        steps = []
        while summed and (not steps or cursor.fetchone() != (0,)):
            began = time.monotonic()
            cursor.execute("SELECT toll.sum_usage('6 hours')")
            steps.append((time.monotonic() - began) * 1000)
        if steps:
            print(f"  summed up in {len(steps)} steps of {statistics.median(steps):.0f} ms, at most {max(steps):.0f}", flush=True)
        cursor.execute("VACUUM ANALYZE")
    connection.close()


def ask(database: Database, events: int, lines: int, days: int, accounts: int, asked: int) -> None:
    rng = random.Random(8)
    calls, stride = events // EVENTS_A_CALL, max(1, events // lines)
    connection = database.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_id FROM billing_charges TABLESAMPLE SYSTEM (1) LIMIT 1000")
        sessions = [row[0] for row in cursor.fetchall()]
        cursor.execute("SET max_parallel_workers_per_gather = 0")
        schedstat = Path(f"/proc/{connection.info.backend_pid}/schedstat")
        print(f"{'milliseconds':40} {'median':>8} {'max':>8} {'CPU':>8} {'rows':>6}")
        for name, sql in REPORTS.items():
            times, cpu, rows = [], [], 0
            for _ in range(asked):
                call = rng.randrange(calls) // (200 * stride) * 200 * stride + rng.randrange(200)
                cursor.execute("SELECT current_date - %s", (rng.randrange(31, max(days, 32)),))
                values: dict[str, Any] = {"session": rng.choice(sessions), "call": call, "account": rng.randrange(accounts), "day": cursor.fetchone()[0],
                                          "enterprise": call // 1000, "flow": call // 200 % 5}
                began, began_cpu = time.monotonic(), int(schedstat.read_text().split()[0])
                cursor.execute(sql.format(**values))
                rows = len(cursor.fetchall())
                times.append((time.monotonic() - began) * 1000)
                cpu.append((int(schedstat.read_text().split()[0]) - began_cpu) / 1e6)
            print(f"{name:40} {statistics.median(times):8.1f} {max(times):8.1f} {statistics.median(cpu):8.1f} {rows:6}", flush=True)
    connection.close()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--lines", type=int)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--accounts", type=int, default=500)
    parser.add_argument("--asked", type=int, default=15)
    parser.add_argument("--unsummed", action="store_true")
    options = parser.parse_args(arguments)
    cluster = Cluster().init()
    with (cluster.data / "postgresql.conf").open("a") as conf:
        conf.write("max_wal_size = 8GB\nfsync = off\nshared_buffers = 512MB\nmaintenance_work_mem = 256MB\n")
    try:
        database = migrated(cluster.start().create_database())
        fill(database, options.events, options.lines or options.events, options.days, options.accounts, not options.unsummed)
        ask(database, options.events, options.lines or options.events, options.days, options.accounts, options.asked)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(sys.argv[1:])
