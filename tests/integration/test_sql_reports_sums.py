"""Sums of older usage (toll.sum_usage): always those of the roll-ups, whatever comes late, and reports that say the same as without them."""

from __future__ import annotations

import random
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Iterator

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from books import Books  # noqa: E402
from harness import SLOWNESS, Daemon, Database, wait_until  # noqa: E402

UTC = timezone.utc
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/Havana", "Asia/Kathmandu")
WRONG = """
    WITH until AS (SELECT until AS at FROM toll.usage_summed),
    days AS (SELECT * FROM toll.usage_days WHERE events <> 0 OR quantity <> 0),
    days_again AS (
        SELECT z.business_id, (q.quarter AT TIME ZONE z.time_zone)::date, q.account_id, q.meter, q.derived, sum(q.events)::bigint, sum(q.quantity)
        FROM toll.quarter_meters q
        LEFT JOIN toll.business_zones z ON z.business_id = CASE q.business_id WHEN '' THEN q.account_id ELSE q.business_id END
        WHERE q.quarter < (SELECT at FROM until) AND q.business_id || q.account_id <> ''
        GROUP BY 1, 2, 3, 4, 5 HAVING sum(q.events) <> 0 OR sum(q.quantity) <> 0),
    tariffs AS (SELECT * FROM toll.tariff_quarters WHERE sessions <> 0 OR quantity <> 0 OR charge <> 0),
    tariffs_again AS (
        SELECT u.quarter, u.currency, sum(u.sessions)::bigint, sum(u.quantity), sum(u.charge), sum(u.waived), sum(u.unrated_charge)::bigint
        FROM toll.usage_rollup u WHERE u.component = 'tariff' AND u.quarter < (SELECT at FROM until) GROUP BY 1, 2
        HAVING sum(u.sessions) <> 0 OR sum(u.quantity) <> 0 OR sum(u.charge) <> 0),
    latencies AS (SELECT * FROM toll.latency_days WHERE events <> 0),
    latencies_again AS (
        SELECT (l.quarter AT TIME ZONE 'UTC')::date, l.component, l.provider, l.model, l.metric, l.bucket, sum(l.events)::bigint
        FROM toll.latency_rollup l WHERE l.quarter < (SELECT at FROM until) GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(l.events) <> 0)
    SELECT (SELECT count(*) FROM (TABLE days EXCEPT TABLE days_again) AS x), (SELECT count(*) FROM (TABLE days_again EXCEPT TABLE days) AS x),
           (SELECT count(*) FROM (TABLE tariffs EXCEPT TABLE tariffs_again) AS x), (SELECT count(*) FROM (TABLE tariffs_again EXCEPT TABLE tariffs) AS x),
           (SELECT count(*) FROM (TABLE latencies EXCEPT TABLE latencies_again) AS x), (SELECT count(*) FROM (TABLE latencies_again EXCEPT TABLE latencies) AS x)"""


@pytest.fixture
def books(db: Database) -> Iterator[Books]:
    made = Books(db)
    yield made
    made.close()


def check(books: Books) -> None:
    assert books.run(WRONG) == [(0,) * 6]


def write(books: Books, at: datetime, account: str = "acme", business: str = "", component: str = "llm", model: str = "m", number: int = 1) -> None:
    """As rating does: one statement, which inserts or updates."""
    books.run("INSERT INTO toll.usage_rollup AS r VALUES (%s, date_bin('15 min', %s, '2000-01-01Z'), %s, %s, 'p', %s, 'USD', %s, %s, 0, 0, 0, 0, 0, %s, 0,"
              " %s, 0, 0, 0) ON CONFLICT (account_id, quarter, business_id, component, provider, model, currency) DO UPDATE SET events = r.events +"
              " excluded.events, sessions = r.sessions + excluded.sessions, quantity = r.quantity + excluded.quantity, charge = r.charge + excluded.charge",
              account, at, business, component, model, number, number, number, number)
    if number > 0:
        books.run("SELECT toll.count_latencies(ARRAY[ROW(date_bin('15 min', %s, '2000-01-01Z'), %s, 'p', %s, 'ttfb', 60, %s)::toll.latency_rollup])",
                  at, component, model, number)


def write_random(books: Books, rng: random.Random, since: datetime, days: float) -> None:
    component = rng.choice(("llm", "session", "tariff", "meter", "telephony", "tts"))
    write(books, since + timedelta(days=rng.uniform(0, days)), rng.choice(("", "a0", "a1", "a2")), rng.choice(("", "", "a1", "b0", "b1")), component,
          rng.choice(("ai_query", "storage_mb", "api_call")) if component == "meter" else "m", rng.choice((1, 2, 3, -1)))


def answers(books: Books, zones: dict[str, str]) -> list[Any]:
    """What reports say of ten days, and of parts of them."""
    asked = [books.value("SELECT toll.business_usage(%s, %s, %s, %s, %s)", business, unit, zone, first, last)
             for business, zone in zones.items() for unit in ("day", "month") for first, last in (("2026-03-24", "2026-04-06"), ("2026-03-29", "2026-03-29"))]
    asked += [books.value("SELECT revenue_minutes(%s, %s, %s)", first, last, group)
              for group in ("day", "hour") for first, last in (("2026-03-24", "2026-04-06"), ("2026-03-28 10:15", "2026-03-29 18:45"))]
    return asked + books.run("SELECT * FROM stage_latency('2026-03-24 07:15Z', '2026-04-06 19:30Z')")


@pytest.mark.parametrize("zone", ZONES)
def test_reports_say_the_same_at_every_step(books: Books, zone: str) -> None:
    """Ten days around changes to daylight saving, in steps of a day, with late lines in between, and a business whose time zone changes twice."""
    rng, since = random.Random(ZONES.index(zone)), datetime(2026, 3, 25, tzinfo=UTC)
    books.run("UPDATE toll.rating_settings SET default_time_zone = %s", zone)
    for number in range(3):
        books.account(f"a{number}", zone=rng.choice(ZONES))
    zones = {"a0": books.value("SELECT time_zone FROM accounts WHERE account_id = 'a0'"), "a1": "UTC", "b0": zone, "b1": zone}
    for _ in range(150):
        write_random(books, rng, since, 10)
    for step in range(15):
        before = answers(books, zones)
        assert books.value("SELECT toll.sum_usage(now() - %s)", since + timedelta(hours=20 * step + 7)) >= 0
        assert answers(books, zones) == before
        check(books)
        for _ in range(8):
            write_random(books, rng, since, 10)
        check(books)
        if step in (4, 9):
            books.run("UPDATE accounts SET time_zone = %s WHERE account_id = 'a0'", zones["a0"])
            zones["a0"] = rng.choice(ZONES)
            books.run("UPDATE accounts SET time_zone = %s WHERE account_id = 'a0'", zones["a0"])
        elif step == 11:
            zones["b0"] = rng.choice(ZONES)
            books.account("b0", zone=zones["b0"])
        elif step == 12:
            zones["b1"] = rng.choice(ZONES)
            books.run("UPDATE toll.rating_settings SET default_time_zone = %s", zones["b1"])
    assert books.value("SELECT count(*) FROM toll.usage_days") > 20 and books.value("SELECT count(*) FROM toll.tariff_quarters") > 5
    assert dict(books.run("SELECT * FROM toll.business_zones")).items() >= {k: v for k, v in zones.items() if k != "a1"}.items()


def test_days_are_cut_anew_with_another_time_zone(books: Books) -> None:
    books.account("acme")
    write(books, datetime(2026, 3, 31, 22, 30, tzinfo=UTC))
    books.sum_up()
    ask = "SELECT toll.business_usage('acme', 'day', 'Europe/Berlin', '2026-04-01', '2026-04-01') #>> '{billingUsage,apiCalls}'"
    assert books.run("SELECT day::text, events FROM toll.usage_days") == [("2026-03-31", 1)]
    books.run("UPDATE accounts SET time_zone = 'Europe/Berlin'")
    assert books.value(ask) == "1"
    books.sum_up()
    assert books.run("SELECT day::text, events FROM toll.usage_days") == [("2026-04-01", 1)] and books.value(ask) == "1"
    check(books)


def test_what_was_summed_is_not_read_again(books: Books) -> None:
    """Else reports would be right, and slow."""
    books.account("acme", charge_by="minutes")
    for component in ("llm", "tariff"):
        write(books, NOON, component=component)
    books.sum_up()
    books.run("SET session_replication_role = replica")  # no trigger
    books.run("UPDATE toll.usage_rollup SET events = 77, quantity = 77; UPDATE toll.latency_rollup SET events = 77")
    assert books.value("SELECT toll.business_usage('acme', 'month', 'UTC', '2026-03-01', '2026-03-31') #>> '{billingUsage,apiCalls}'") == "1"
    assert books.value("SELECT revenue_minutes('2026-03-01', '2026-04-01', 'day') #>> '{totals,total_minutes}'") == "1"
    assert books.run("SELECT events FROM stage_latency('2026-03-01', '2026-04-01')") == [(1,), (1,)]


def test_only_what_is_old_enough_is_summed(books: Books) -> None:
    books.account("acme")
    now = books.value("SELECT date_bin('15 min', now(), '2000-01-01Z')")
    for age in (5, 6, 7):
        write(books, now - timedelta(hours=age, minutes=15))
    assert books.value("SELECT toll.sum_usage('6 hours')") == 2
    assert now - books.value("SELECT until FROM toll.usage_summed") <= timedelta(hours=6)
    assert books.value("SELECT sum(events) FROM toll.usage_days") == 2
    check(books)


def test_steps_are_whole_quarters_and_at_most_a_day(books: Books) -> None:
    books.account("acme")
    books.run("INSERT INTO toll.usage_rollup SELECT 'acme', %s::timestamptz + q * interval '15 min', '', 'llm', 'p', 'm' || n, 'USD', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,"
              " 0, 0, 0 FROM (VALUES (0, 20001), (1, 12000), (2, 8000), (3, 1), (300, 5)) AS v (q, many), generate_series(1, many) AS n", NOON)
    steps = [books.value("SELECT toll.sum_usage('6 hours')") for _ in range(5)]
    assert steps == [20001, 20000, 1, 5, 0]
    check(books)


def test_rating_and_summing_do_not_wait_for_long(books: Books) -> None:
    """Who sums goes away while rating is at it, and what was not committed then is not lost."""
    books.account("acme")
    write(books, NOON)
    other = Books(books.db)
    other.connection.autocommit = False
    write(other, NOON + timedelta(days=1))
    assert books.value("SELECT toll.sum_usage('6 hours')") == 0
    assert books.value("SELECT until = '-infinity' FROM toll.usage_summed")
    other.connection.commit()
    other.close()
    books.sum_up()
    assert books.value("SELECT sum(events) FROM toll.usage_days") == 2
    check(books)


def test_tolld_sums_up(books: Books, daemon_factory: Callable[..., Daemon]) -> None:
    books.account("acme")
    write(books, NOON)
    daemon_factory(books.db.dsn).start()
    wait_until(lambda: books.value("SELECT count(*) FROM toll.usage_days") == 1, 30)
    check(books)


def test_summing_wants_read_committed(books: Books) -> None:
    books.run("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(psycopg2.errors.InvalidTransactionState):
        books.value("SELECT toll.sum_usage('6 hours')")


def test_sums_stay_exact_beside_writers(books: Books) -> None:
    """Four connections write anything, late and not, while one sums up further and further."""
    for number in range(3):
        books.account(f"a{number}", zone=ZONES[number])
    since = datetime(2026, 3, 25, tzinfo=UTC)
    failures: list[BaseException] = []

    def writer(seed: int) -> None:
        rng, mine = random.Random(seed), Books(books.db)
        try:
            for number in range(150):
                for _ in range(50):
                    try:
                        write_random(mine, random.Random(f"{seed} {number}"), since, 4)
                        break
                    except psycopg2.errors.DeadlockDetected:  # they take rows in any order here
                        pass
                if rng.random() < 0.05:
                    mine.run("UPDATE accounts SET time_zone = %s WHERE account_id = 'a0'", rng.choice(ZONES))
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)
        finally:
            mine.close()

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    summed = 0
    for step in range(1, 49):
        wait_until(lambda: books.value("SELECT toll.sum_usage(now() - %s)", since + timedelta(hours=2 * step)) > 0
                   or books.value("SELECT until >= date_bin('15 min', %s, '2000-01-01Z') FROM toll.usage_summed", since + timedelta(hours=2 * step)), 60)
        summed += 1
    for thread in threads:
        thread.join(120 * SLOWNESS)
    assert failures == [] and summed == 48
    check(books)
    books.sum_up()
    check(books)
    assert books.value("SELECT count(*) FROM toll.usage_rollup") > 100
