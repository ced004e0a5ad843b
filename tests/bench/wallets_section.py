"""Wallets with many live calls and a long ledger: what a debit costs, and how long balances, top-ups and the tick of a second take."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any, Callable

from frame import Bench
from harness import migrate
from measure import percentile

SECONDS = {"tiny": 10, "short": 25, "long": 430}
SESSIONS = {"tiny": 2000, "short": 20_000, "long": 100_000}  # live, charged by the minute, ten for each account
BATCHES = {"tiny": 4, "short": 40, "long": 1000}
BATCH = 5000  # debits in each
ASKED = 300
TARGET_MS = 20.0


def cpu_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10_000


def prepare(run: Callable[..., Any], sessions: int) -> None:
    accounts = sessions // 10
    run("SELECT set_price('tariff', '*', '*', 'minutes', 'charge', 0.05, 1, 'USD', '2020-01-01')")
    run("INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id)"
        " SELECT 'w' || n, 'basic', 'USD', 'UTC', 'minutes', '*' FROM generate_series(1, %s) AS n", accounts)
    run("SELECT count(add_credits('w' || n, 100000000, 'card', 'first ' || n)) FROM generate_series(1, %s) AS n", accounts)
    run("INSERT INTO toll.rated_sessions (session_id, account_id, charge_by, plan_id, tariff_id, currency, channel, started_at, voice)"
        " SELECT md5('w' || n)::uuid, 'w' || 1 + n %% %s, 'minutes', 'basic', '*', 'USD', 'voice', clock_timestamp() - random() * interval '10 min',"
        " true FROM generate_series(1, %s) AS n", accounts, sessions)
    run("SELECT count(reserve('w' || n, 100, '1 hour')) FROM generate_series(1, %s, 10) AS n", accounts)


def timed_ms(run: Callable[..., Any], sql: str, accounts: int) -> list[float]:
    found = []
    for number in random.Random(1).choices(range(1, accounts + 1), k=ASKED):
        began = time.perf_counter()
        run(sql, f"w{number}")
        found.append((time.perf_counter() - began) * 1e3)
    return sorted(found)


def run(bench: Bench) -> None:
    kind = "tiny" if bench.size.rounds == 1 else "long" if bench.size.rounds > 5 else "short"
    sessions, batches = SESSIONS[kind], BATCHES[kind]
    accounts = sessions // 10
    db = bench.stage.cluster.create_database()
    migrate(db.dsn)
    connection = db.connect()
    cursor = connection.cursor()

    def ask(sql: str, *args: Any) -> Any:
        cursor.execute(sql, args or None)
        return cursor.fetchone()[0] if cursor.description else None
    try:
        prepare(ask, sessions)
        ask("SELECT toll.refresh_credit(ARRAY(SELECT account_id FROM accounts))")
        bench.progress(f"{sessions:,} live calls of {accounts:,} accounts", 0.3)
        # Each account's turn comes: a batch touches many of them, as rating does.
        ask("CREATE TEMPORARY TABLE debits AS SELECT b, array_agg(ROW('w' || 1 + n %% %s, md5('w' || n)::uuid, 'USD', 0.001234567)"
            "::toll.session_debit) AS rows FROM generate_series(1, 20) AS b, generate_series(b * %s, b * %s + %s - 1) AS n GROUP BY b",
            accounts, BATCH, BATCH, BATCH)
        before = cpu_us(connection.info.backend_pid)
        for number in range(batches):
            ask("SELECT toll.debit(%s, rows) FROM debits WHERE b = %s", number, 1 + number % 20)
            if number % 100 == 99:
                bench.progress(f"{(number + 1) * BATCH:,} debits", 0.3 + 0.5 * number / batches)
        debit_us = (cpu_us(connection.info.backend_pid) - before) / (batches * BATCH)
        ask("VACUUM ANALYZE")
        bench.progress(f"{batches * BATCH:,} debits: {debit_us:.1f} us", 0.8)
        times = {what: timed_ms(ask, sql, accounts) for what, sql in (
            ("get_balance()", "SELECT get_balance(%s)"), ("has_sufficient_balance()", "SELECT has_sufficient_balance(%s, 100)"),
            ("add_credits()", "SELECT add_credits(%s, 100, 'card', gen_random_uuid()::text)"), ("credit_history()", "SELECT credit_history(%s)"))}
        ticks: list[float] = []
        for _ in range(10):
            ask("UPDATE toll.wallet_credit SET check_at = CASE WHEN random() < 1 / 60.0 THEN now() ELSE now() + interval '1 hour' END")
            began = time.perf_counter()
            ask("SELECT toll.check_credit()")
            ticks.append((time.perf_counter() - began) * 1e3)
        wrong = ask("SELECT count(*) FROM customer_balance AS b WHERE balance <> (SELECT sum(amount) FROM credit_transactions AS t"
                    " WHERE t.user_id = b.user_id)")
        if wrong:
            bench.wrong.append(f"wallets: {wrong} balances are not the sum of their ledger")
    finally:
        connection.close()
        db.drop()
    group = f"wallets, {sessions:,} live calls charged by the minute, {batches * BATCH:,} debits stored"
    bench.add(group, "a debit", [debit_us], "us CPU")
    for what, found in times.items():
        target = TARGET_MS if what in ("get_balance()", "has_sufficient_balance()") else None
        bench.add(group, f"{what}, p50", [percentile(found, 0.5)], "ms")
        bench.add(group, f"{what}, p99", [percentile(found, 0.99)], "ms", target=target, at_most=True)
    bench.add(group, "check_credit() where a sixtieth of the accounts is due", ticks, "ms")
    bench.results["wallets"] = {"debit us": debit_us, **{what: percentile(found, 0.99) for what, found in times.items()}}
