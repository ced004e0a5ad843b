"""What rating costs PostgreSQL: the backend's CPU time per event for batches of several sizes, per price key, and to debit an account that is short.

Run: python3 tests/bench/rating_cost.py [--sizes N ...] [--rounds N] [--against CHECKOUT] [--profile N] [--live N]. Calls of 40 events, a thousand of them
live at a time, of 100 accounts, most with a wallet, over a book of 900 prices. --against: another checkout, whose SQL rates the same usage in a database of
its own, taking turns. Storing is not counted. CPU time is that of the backend alone (/proc/PID/schedstat). --profile: which statements take how long
for batches of that size, instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/sql")]

from cluster import Cluster, Database  # noqa: E402
from schema import JOURNAL, this_month  # noqa: E402

LIVE, CALL, ACCOUNTS = 1000, 40, 100
SETTINGS = "-c jit=off -c plan_cache_mode=force_generic_plan -c enable_seqscan=off"  # tolld's connections have them
MIGRATE = "import sys; from schema import migrate; status, output = migrate('run', sys.argv[1]); sys.exit(status and output)"
RATE = "SELECT events, lines FROM toll.rate_next(%s, 0, %s)"
BOOK = """
INSERT INTO pricing_config (scope_kind, component, provider, model, dimension, side, price, unit_quantity, currency, valid)
SELECT 'default', p.component, p.provider, p.model, p.dimension, s.side, p.price, p.units, 'USD', '[2020-01-01,)'
FROM (SELECT 'llm', m.provider, m.model, d.dimension, 0.15 * length(d.dimension), 1000000
      FROM (VALUES ('openai', 'gpt-4o'), ('openai', 'gpt-4o-mini'), ('anthropic', 'claude')) AS m (provider, model),
           (VALUES ('input'), ('cached_input'), ('output')) AS d (dimension)
      UNION ALL SELECT 'llm', 'p' || p, 'm' || m, d.dimension, 1, 1000000
      FROM generate_series(1, 14) AS p, generate_series(1, 10) AS m, (VALUES ('input'), ('cached_input'), ('output')) AS d (dimension)
      UNION ALL VALUES ('tts', 'cartesia', '*', 'characters', 0.03, 1000), ('stt', 'deepgram', 'nova-2', 'minutes', 0.0059, 1),
                       ('stt', 'deepgram', 'nova-3', 'minutes', 0.0077, 1), ('telephony', 'twilio', '*', 'telephony_inbound', 0.0085, 1))
     AS p (component, provider, model, dimension, price, units)
CROSS JOIN (VALUES ('cost'), ('charge')) AS s (side);
SELECT set_price('tariff', '*', '*', 'minutes', 'charge', 0.05, 1, 'USD', '2020-01-01');
INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id)
SELECT 'u' || n, 'basic', 'USD', 'UTC', CASE WHEN n %% 5 = 0 THEN 'minutes' ELSE 'usage' END, '*' FROM generate_series(0, {accounts} - 1) AS n;
SELECT count(add_credits('u' || n, 100000000, 'card', 'first ' || n)) FROM generate_series(0, {accounts} - 1) AS n WHERE n %% 10 <> 9;
SELECT toll.make_partitions(2);
INSERT INTO toll.journals (journal_id, writer, lsn) VALUES ('{journal}', 0, 0);
"""
# Event n is of one of the calls n / 40 to n / 40 + 999: each begins and ends while others go on.
STORE = """
WITH calls AS (
    INSERT INTO billing_sessions (session_id, started_at, metadata, owner_journal, owner_writer)
    SELECT md5('s' || s)::uuid, timestamptz '{begin}' + {first} * interval '1 ms',
           jsonb_build_object('user_id', 'u' || s %% {accounts}, 'phone_number', '+4930123'), '{journal}', 0
    FROM generate_series({first} / {call} + CASE WHEN {first} = 0 THEN 0 ELSE {live} END, ({first} + {count}) / {call} + {live} - 1) AS s
    RETURNING session_id
), ended AS (
    UPDATE billing_sessions SET ended_at = timestamptz '{begin}' + ({first} + {count}) * interval '1 ms', finish_reason = 'end'
    WHERE session_id = ANY (ARRAY(SELECT md5('s' || s)::uuid FROM generate_series(({first} - {count}) / {call}, {first} / {call} - 1) AS s))
      AND ended_at IS NULL
    RETURNING session_id
)
INSERT INTO toll.session_queue SELECT uuid '{journal}', 0, session_id FROM calls UNION ALL SELECT uuid '{journal}', 0, session_id FROM ended;
WITH stored AS (
    INSERT INTO billing_events (session_id, event_type, provider, model, input_tokens, output_tokens, cached_input_tokens, char_count, voice, language,
                                audio_duration_ms, meter, quantity, occurred_at, batch_id, ttfb_ms, duration_ms)
    SELECT md5('s' || (n / {call} + h %% {live}))::uuid, k.type,
           CASE k.type WHEN 'llm' THEN (ARRAY['openai', 'openai', 'anthropic'])[1 + n %% 3] WHEN 'tts' THEN 'cartesia' WHEN 'stt' THEN 'deepgram' ELSE 'twilio' END,
           CASE k.type WHEN 'llm' THEN (ARRAY['gpt-4o', 'gpt-4o-mini', 'claude'])[1 + n %% 3] WHEN 'tts' THEN 'sonic'
                       WHEN 'stt' THEN (ARRAY['nova-2', 'nova-3'])[1 + n %% 2] END,
           CASE k.type WHEN 'llm' THEN 1000 + h %% 5000 END, CASE k.type WHEN 'llm' THEN 1 + h %% 300 END,
           CASE WHEN k.type = 'llm' AND n %% 2 = 0 THEN 1 + h %% 900 END, CASE k.type WHEN 'tts' THEN 1 + h %% 500 END,
           CASE k.type WHEN 'tts' THEN 'voice ' || n %% 5 END, CASE k.type WHEN 'stt' THEN (ARRAY['de', 'en', 'fr'])[1 + n %% 3] END,
           CASE WHEN k.type IN ('tts', 'stt') THEN h %% 9000 + 0.125 END, CASE k.type WHEN 'usage' THEN 'telephony_inbound' END,
           CASE k.type WHEN 'usage' THEN 1 + h %% 7 END, timestamptz '{begin}' + n * interval '1 ms', {batch},
           CASE WHEN k.type IN ('llm', 'tts') THEN 200 + h %% 100 END, CASE k.type WHEN 'llm' THEN 900 + h %% 1000 END
    FROM generate_series({first}, {first} + {count} - 1) AS n
    CROSS JOIN LATERAL (SELECT hashint4(n) & 2147483647 AS h) AS r
    CROSS JOIN LATERAL (SELECT CASE WHEN h %% 100 < 2 THEN 'usage' ELSE (ARRAY['stt', 'llm', 'tts'])[1 + h %% 3] END AS type) AS k
    RETURNING id
), moved AS (
    UPDATE toll.journals SET lsn = lsn + 100 RETURNING lsn
)
INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events, transcripts,
                          first_event_id, last_event_id)
SELECT {batch}, uuid '{journal}', 0, lsn - 100, lsn, {count}, {count}, 0, 0, {count}, 0, (SELECT min(id) FROM stored), (SELECT max(id) FROM stored) FROM moved;
"""
KEYS = ("SELECT array_agg(ROW(n, now(), NULL, 'u1', '', 'usage', NULL, 'llm', 'p' || 1 + n / 10, 'm' || 1 + n %% 10, 'voice', '', '', 'basic', 'USD', NULL, 33,"
        " 100, 0, 0, 0, 0, 10, 0, 100, 0, 10, 0, 0, NULL)::toll.rating_input) FROM generate_series(1, %s) AS n")
SHORT = """
INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id)
VALUES ('short m', 'basic', 'USD', 'UTC', 'minutes', '*'), ('short u', 'basic', 'USD', 'UTC', 'usage', '*');
SELECT create_wallet('short m'), create_wallet('short u');
INSERT INTO toll.rated_sessions (session_id, account_id, charge_by, plan_id, tariff_id, currency, channel, started_at, voice)
SELECT md5(a.id || n)::uuid, a.id, CASE a.id WHEN 'short m' THEN 'minutes' ELSE 'usage' END, 'basic', '*', 'USD', 'voice',
       clock_timestamp() - random() * interval '10 min', true
FROM generate_series(1, {live}) AS n, (VALUES ('short m'), ('short u')) AS a (id);
"""


class Side:
    """One version of the SQL: its database, and the connection that rates."""

    def __init__(self, name: str, checkout: Path, cluster: Cluster) -> None:
        self.name = name
        self.database: Database = cluster.create_database()
        paths = os.pathsep.join(str(checkout / part) for part in ("tests/support", "tests/sql"))
        subprocess.run([sys.executable, "-c", MIGRATE, self.database.dsn], cwd=checkout, env={**os.environ, "PYTHONPATH": paths}, check=True, stdout=subprocess.DEVNULL)
        self.store_connection = self.database.connect()
        self.run(self.store_connection, BOOK.format(accounts=ACCOUNTS, journal=JOURNAL))
        self.events = self.batches = 0
        self.connect()
        self.store(LIVE)
        self.rate(LIVE)

    def connect(self) -> None:
        os.environ["PGOPTIONS"] = SETTINGS
        self.connection = self.database.connect()
        del os.environ["PGOPTIONS"]
        self.schedstat = Path(f"/proc/{self.connection.info.backend_pid}/schedstat")

    @staticmethod
    def run(connection: Any, sql: str, *args: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql, args)
            return cursor.fetchone() if cursor.description else None

    def cpu_ms(self, sql: str, *args: Any) -> float:
        with self.connection.cursor() as cursor:
            before = int(self.schedstat.read_text().split()[0])
            cursor.execute(sql, args)
            return (int(self.schedstat.read_text().split()[0]) - before) / 1e6

    def store(self, count: int) -> None:
        self.batches += 1
        self.run(self.store_connection, STORE.format(first=self.events, count=count, batch=self.batches, begin=this_month(), journal=JOURNAL, call=CALL,
                                                     live=LIVE, accounts=ACCOUNTS))
        self.events += count

    def rate(self, size: int) -> float:
        return self.cpu_ms(RATE, str(JOURNAL), size)

    def step(self, size: int) -> float:
        """The CPU time, in ms, of one call for one batch of that size."""
        self.store(size)
        return self.rate(size)

    def sums(self) -> Any:
        return self.run(self.connection, "SELECT count(*), sum(cost), sum(charge), sum(waived), (SELECT sum(balance) FROM customer_balance),"
                        " (SELECT sum(events * 7 + input_tokens + quantity) FROM toll.usage_rollup), (SELECT sum(events) FROM toll.latency_rollup)"
                        " FROM billing_charges")


def show(name: str, figures: list[float], unit: str) -> None:
    print(f"    {name:10} {statistics.median(figures):9.2f} {unit} ({min(figures):.2f} to {max(figures):.2f})", flush=True)


def cost(sides: list[Side], sizes: list[int], rounds: int) -> None:
    for size in sizes:
        found: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds + 1):
            for side in sides:
                calls = [side.step(size) for _ in range(max(1, 400 // size))]
                if number > 0:  # the first fills the backend's caches
                    found[side.name].append(statistics.mean(calls))
        print(f"batches of {size}", flush=True)
        for side in sides:
            show(side.name, found[side.name], "ms a call")
            show("", [ms * 1000 / size for ms in found[side.name]], "us an event")
    if len({side.sums() for side in sides}) > 1:
        sys.exit("they differ: " + "; ".join(f"{side.name}: {side.sums()}" for side in sides))


def keys(sides: list[Side]) -> None:
    print("toll.price_cards(), a key more, of 900 prices")
    for side in sides:
        arrays = {count: side.run(side.connection, KEYS.replace("array_agg", "(array_agg").replace("input)", "input))::text", 1), count)[0] for count in (1, 121)}
        found = [[side.cpu_ms("SELECT count(*) FROM toll.price_cards(%s)", arrays[count]) for count in (1, 121)] for _ in range(9)]
        show(side.name, [(many - one) / 120 * 1000 for one, many in found[2:]], "us")
        show("", [one * 1000 for one, _ in found[2:]], "us for the first")


def short(sides: list[Side], live: int) -> None:
    for side in sides:
        side.run(side.store_connection, SHORT.format(live=live))
        side.run(side.store_connection, "VACUUM ANALYZE toll.rated_sessions")
        print(f"{side.name}: a debit of an exhausted account with {live} live calls")
        for account, charged in (("short u", "by usage"), ("short m", "by the minute")):
            first = side.cpu_ms("SELECT toll.refresh_credit(ARRAY[%s])", account)
            show(charged, [side.cpu_ms("SELECT toll.debit(%s, ARRAY[(%s, NULL, 'USD', 0.001)::toll.session_debit])", -number, account) for number in range(1, 6)],
                 f"ms, after {first:.0f} when it became so")


def profile(side: Side, size: int) -> None:
    side.database.execute("CREATE EXTENSION pg_stat_statements")
    calls = max(4, 400 // size)
    for _ in range(calls):
        side.step(size)
    total = 0.0
    side.database.execute("SELECT pg_stat_statements_reset()")
    side.database.execute("ALTER SYSTEM SET pg_stat_statements.track = 'all'")
    side.database.execute("SELECT pg_reload_conf()")
    for _ in range(calls):
        side.store(size)
        total += side.rate(size)
    print(f"{side.name}: batches of {size}: {total / calls:.2f} ms of CPU a call; ms on the clock at least, and in the mean, statements within statements counted in both")
    for least, mean, times, text in side.database.query(
            "SELECT min_exec_time, mean_exec_time, calls, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements"
            " WHERE query !~ 'FROM ONLY' ORDER BY min_exec_time * calls DESC LIMIT 45"):
        print(f"    {least:8.3f} {mean:8.3f} {times / calls:6.1f} x  {text[:120]}")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="*", default=[20, 200, 2000, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--profile", type=int)
    parser.add_argument("--live", type=int, default=0)
    options = parser.parse_args(arguments)
    cluster = Cluster().init()
    with (cluster.data / "postgresql.conf").open("a") as conf:
        conf.write("max_wal_size = 8GB\ncheckpoint_timeout = 1h\nsynchronous_commit = off\n")
        if options.profile:
            conf.write("shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track_planning = on\npg_stat_statements.max = 10000\n")
    try:
        cluster.start()
        sides = [Side("before", options.against.resolve(), cluster)] if options.against else []
        sides.append(Side("as it is", ROOT, cluster))
        if options.profile:
            for side in sides:
                profile(side, options.profile)
            return
        cost(sides, options.sizes, options.rounds)
        keys(sides)
        if options.live:
            short(sides, options.live)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(sys.argv[1:])
