"""Connections that live for days, over tables that were empty when their statements were planned: each row is looked up by its key all the same.

PostgreSQL keeps a plan until one of its tables is analyzed. Of a table found empty it takes any way for a good one: through all of it for each row of a
batch, say. So a daemon has everything planned while there is nothing, then tables fill up behind its back, and what it reads from then on is counted.
"""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any, Callable, Iterator

import frames
from harness import Daemon, Database, StreamSender, wait_until

OLD = 10_000  # rows of each table that no batch has to do with
CALLS = 60    # of each scheme, in a batch or two
SCHEMES = ("usage", "minutes", "prepaid_minutes", "plan")

UNWATCHED = """
DO $$ DECLARE name regclass; BEGIN
    FOR name IN SELECT c.oid FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace IN ('toll'::regnamespace, 'public'::regnamespace) LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$"""
EXPLAINED = ("session_preload_libraries = 'auto_explain'", "auto_explain.log_min_duration = 0", "auto_explain.log_analyze = on", "auto_explain.log_timing = off",
             "auto_explain.log_nested_statements = on", "auto_explain.log_format = 'json'")
# What there is of other calls, accounts and workers. Without triggers: rows as they would have come one by one.
FILLED = """
SET session_replication_role = replica;
CREATE TEMPORARY TABLE old AS SELECT n, gen_random_uuid() AS id, 'old ' || n AS account FROM generate_series(1, %(old)s) AS n;
INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id) SELECT account, 'basic', 'USD', 'UTC', 'minutes', '*' FROM old;
INSERT INTO customer_balance (user_id, currency, balance) SELECT account, 'USD', 100 FROM old;
INSERT INTO toll.wallet_credit (user_id, currency, state, check_at) SELECT account, 'USD', 'ok', now() + interval '1 day' FROM old;
INSERT INTO credit_holds (user_id, currency, amount, expires_at, session_id) SELECT account, 'USD', 1, now() + interval '1 day', id FROM old;
INSERT INTO toll.streams (uid, stream_id, writer, writers, seen, first_seen_at, last_seen_at) SELECT 0, id, 0, 1, '{[1,9)}', now(), now() FROM old;
INSERT INTO billing_sessions (session_id, started_at, owner_journal, owner_writer) SELECT id, now(), id, 0 FROM old;
INSERT INTO toll.open_sessions (session_id, sender_uid, sender_stream) SELECT id, 0, id FROM old;
INSERT INTO toll.rated_sessions (session_id, account_id, charge_by, plan_id, tariff_id, currency, channel, started_at, voice, hold_id)
    SELECT id, account, 'minutes', 'basic', '*', 'USD', 'voice', now(), true, id FROM old;
INSERT INTO billing_charges (event_id, occurred_at, session_id, account_id, component, quantities, cost, charge, currency, kind, booked_at, batch)
    SELECT -n, now(), id, account, 'meter', '{}', 1, 1, 'USD', 'usage', now(), 1 FROM old;
INSERT INTO toll.unrated (event_id, side, occurred_at, session_id, component, missing) SELECT -n, 'cost', now(), id, 'llm', 'llm: no price' FROM old;
INSERT INTO billing_events (id, session_id, event_type, occurred_at, batch_id) SELECT -n, id, 'llm', now(), -n FROM old;
INSERT INTO toll.usage_rollup (account_id, quarter, business_id, component, provider, model, currency, events, sessions, input_tokens, cached_input_tokens,
        output_tokens, characters, audio_us, quantity, cost, charge, waived, unrated_cost, unrated_charge)
    SELECT account, date_bin('15 minutes', now(), '2000-01-01 00:00+00'), '', 'llm', '', '', 'USD', 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0 FROM old;
INSERT INTO toll.plan_usage (account_id, period_start, event_type, quantity) SELECT account, date_trunc('month', now()), 'api_call', 1 FROM old;
INSERT INTO pricing_config (scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side, price, unit_quantity, currency, valid)
    SELECT 'account', account, 'llm', '%(model)s', '%(model)s', '*', 'input', 0, 'charge', 1, 1, 'USD', tstzrange('2020-01-01', NULL) FROM old;
INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events, transcripts, committed_at)
    SELECT -n, journal_id, writer, -n, -n + 1, 0, 0, 0, 0, 0, 0, now() - interval '1 hour' FROM old, toll.journals;
"""
OLD_TABLES = ("accounts", "customer_balance", "toll.wallet_credit", "credit_holds", "toll.streams", "billing_sessions", "toll.open_sessions", "toll.rated_sessions",
              "toll.unrated", "billing_events", "toll.usage_rollup", "toll.plan_usage", "toll.batches", "toll.journals")
# Pages, and nothing in them: what a table has whose rows came and went. (Of one that never had any the planner takes nothing for granted.)
EMPTIED = "SET session_replication_role = replica;" + "".join(f"DELETE FROM {table};" for table in OLD_TABLES)


def plans(text: str, database: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement that tolld ran, and how, by the server's log."""
    for part in text.split(f" {database} tolld")[1:]:
        head, *lines = part.splitlines()
        if head.endswith(" plan:"):
            found = json.loads("".join(itertools.takewhile(lambda line: line.startswith("\t"), lines)))
            yield found["Query Text"], found["Plan"]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


def looked_at(node: dict[str, Any]) -> int:
    """Rows that this step of a plan returned or dropped, in all its loops."""
    return node["Actual Loops"] * (node["Actual Rows"] + sum(rows for key, rows in node.items() if key.startswith("Rows Removed by")))


def set_prices(db: Database) -> None:
    for component, dimension in (("llm", "input"), ("llm", "output"), ("stt", "minutes"), ("tts", "characters")):
        for side in ("cost", "charge"):
            db.execute("SELECT set_price(%s, '*', %s, %s, %s, 1, 1000, 'USD', '2020-01-01')", component, "gpt-4o" if component == "llm" else "*", dimension, side)
    db.execute("SELECT set_price('tariff', '*', '*', 'minutes', 'charge', 1, 1, 'USD', '2020-01-01')")


def play(daemon: Daemon, db: Database, calls: int) -> None:
    """Calls of all schemes begin, are used, and end, each with a wallet, a hold and a worker of its own; some have no name at first, each some use without a
    price, and some after its end."""
    names = [f"{scheme} {number}" for scheme in SCHEMES for number in range(calls)]
    holds = dict(db.query(
        "SET session_replication_role = replica;"
        " WITH a AS (INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id)"
        "           SELECT n, 'basic', 'USD', 'UTC', split_part(n, ' ', 1), '*' FROM unnest(%s) AS n ON CONFLICT (account_id) DO UPDATE SET name = ''"
        "           RETURNING account_id, CASE charge_by WHEN 'prepaid_minutes' THEN 'minutes' ELSE 'USD' END AS currency),"
        " b AS (INSERT INTO customer_balance (user_id, currency) SELECT * FROM a ON CONFLICT DO NOTHING)"
        " INSERT INTO credit_holds (user_id, currency, amount, expires_at) SELECT a.*, 1, now() + interval '1 day' FROM a RETURNING user_id, hold_id::text", names))
    made = [(uuid.uuid4(), {"user_id": name, "hold_id": holds[name]}, StreamSender(daemon.socket)) for name in names]
    events = db.value("SELECT coalesce(sum(events), 0) FROM toll.rating_progress")

    def wait_rated(each: int) -> None:
        nonlocal events
        events += each * len(made)
        wait_until(lambda: db.value("SELECT coalesce(sum(events), 0) FROM toll.rating_progress") >= events, 30, f"{events} events to be rated")

    for number, (session, named, worker) in enumerate(made):
        worker.send(frames.session_start(session, metadata={} if number % 4 == 0 else named), frames.llm(session), frames.stt(session),
                    frames.llm(session, model="unpriced"))
    wait_rated(3)
    for session, named, worker in made:
        worker.send(frames.session_start(session, metadata=named), frames.tts(session), frames.transcript(session))
    wait_rated(1)
    for session, _, worker in made:
        worker.send(frames.llm(session), frames.session_end(session))
    wait_rated(1)
    for session, _, worker in made:
        worker.send(frames.llm(session))
    wait_rated(1)
    for _, _, worker in made:
        worker.close()


def test_plans_from_when_there_was_nothing_look_rows_up_by_their_keys(db: Database, daemon_factory: Callable[..., Daemon]) -> None:
    db.execute(UNWATCHED)
    for setting in EXPLAINED:
        db.execute(f"ALTER DATABASE {db.name} SET {setting}")
    set_prices(db)
    db.execute("INSERT INTO toll.journals (journal_id, writer, lsn) VALUES (gen_random_uuid(), 0, 0)")
    db.execute(FILLED % {"old": 400, "model": "gone"})
    db.execute(EMPTIED)
    db.execute("VACUUM (ANALYZE, TRUNCATE off)")
    assert db.query("SELECT count(*) FROM pg_class WHERE oid = ANY (%s::regclass[]) AND relpages > 0 AND reltuples = 0", list(OLD_TABLES)) == [(len(OLD_TABLES) - 1,)]
    daemon = daemon_factory(db.dsn, config={"batch.age": "1s"}).start()
    play(daemon, db, 1)
    db.execute(FILLED % {"old": OLD, "model": "other"})
    begun = db.cluster.log.stat().st_size
    play(daemon, db, CALLS)
    with db.cluster.log.open(errors="replace") as log:
        log.seek(begun)
        ran = list(plans(log.read(), db.name))
    many = sorted((looked_at(node), node["Node Type"], node.get("Index Name"), " ".join(query.split())[:200]) for query, plan in ran for node in nodes(plan))
    print(f"{len(ran)} statements; the most rows that a step of one looked at: {many[-1]}")
    for statement in ("UPDATE toll.streams", "toll.settle_sessions", "toll.rate_next", "INSERT INTO public.credit_transactions", "INSERT INTO toll.session_credit"):
        assert any(statement in query for query, _ in ran), statement
    assert [each for each in many if each[0] >= OLD // 2] == []
