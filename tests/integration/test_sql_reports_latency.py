"""Percentiles of how long providers take, from a histogram: never more than its stated error from the truth."""

from __future__ import annotations

import math
import random
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Iterator

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from books import Books  # noqa: E402
from harness import Database  # noqa: E402

QUARTER = datetime(2026, 3, 10, 12, 0, tzinfo=timezone.utc)
ERROR = 0.049


@pytest.fixture
def books(db: Database) -> Iterator[Books]:
    made = Books(db)
    yield made
    made.close()


def count(books: Books, times: list[float], quarter: datetime = QUARTER, model: str = "gpt-4o", metric: str = "ttfb") -> None:
    books.run("SELECT toll.count_latencies(ARRAY(SELECT ROW(%s::timestamptz, 'llm', 'openai', %s::text, %s::text, toll.latency_bucket(t), count(*))::toll.latency_rollup"
              " FROM unnest(%s::float8[]) AS t GROUP BY toll.latency_bucket(t)))", quarter, model, metric, times)


def latency(books: Books, since: Any, before: Any) -> list[dict[str, Any]]:
    """What it says, which is the same after all usage was summed up: what comes then comes late."""
    rows = books.rows("SELECT * FROM stage_latency(%s, %s)", since, before)
    books.sum_up()
    assert books.rows("SELECT * FROM stage_latency(%s, %s)", since, before) == rows
    return rows


def test_bucket_stands_for_its_times_within_the_stated_error(books: Books) -> None:
    rng = random.Random(6)
    times = [10 ** rng.uniform(-3, 9) for _ in range(20000)] + [1.1 ** n for n in range(-70, 200)]
    for time, stands_for in books.run("SELECT t, toll.latency_ms(toll.latency_bucket(t)) FROM unnest(%s::float8[]) AS t", times):
        assert abs(stands_for / time - 1) <= ERROR, time


def test_bucket_takes_any_time(books: Books) -> None:
    assert books.value("SELECT array_agg(toll.latency_bucket(t)) FROM unnest('{NaN,Infinity,-Infinity,-1,NULL}'::float8[]) AS t") == [None] * 5
    assert books.value("SELECT toll.latency_ms(toll.latency_bucket(0)) < 0.0011 AND toll.latency_bucket(1e-300) = toll.latency_bucket(0)"
                       " AND toll.latency_bucket(1.7e308) > 7000")


def test_percentiles_are_those_of_the_times(books: Books) -> None:
    rng = random.Random(7)
    for model, size in (("one", 1), ("two", 2), ("many", 5000)):
        times = sorted(rng.lognormvariate(6, 0.8) for _ in range(size))
        count(books, times, model=model)
        [row] = [each for each in latency(books, QUARTER, QUARTER + timedelta(hours=1)) if each["model"] == model]
        assert row["events"] == size
        for share in (50, 90, 95, 99):
            exact = times[math.ceil(share * size / 100) - 1]
            assert abs(row[f"p{share}_ms"] / exact - 1) <= ERROR, (model, share)


def test_range_is_half_open_and_adds_quarters(books: Books) -> None:
    for number in range(3):
        count(books, [100.0 * 10 ** number], QUARTER + timedelta(minutes=15 * number))
    [row] = latency(books, QUARTER, QUARTER + timedelta(minutes=30))
    assert row["events"] == 2 and row["p99_ms"] < 1100
    assert latency(books, QUARTER, QUARTER) == [] and latency(books, QUARTER + timedelta(hours=1), QUARTER + timedelta(hours=2)) == []


@pytest.mark.parametrize("first, last", [(0, 1), (0, 3), (-1, 300), (1, 192), (95, 97), (96, 192), (90, 290), (96, 96), (100, 100)])
def test_days_and_the_quarters_beside_them_add_up(books: Books, first: int, last: int) -> None:
    """From a midnight of UTC on, an event each quarter of an hour of three days; some come late."""
    midnight = QUARTER.replace(hour=0)
    for late in (False, True):
        for number in range(288):
            if (number % 7 == 0) is late:
                count(books, [100.0], midnight + timedelta(minutes=15 * number))
        if not late:
            books.sum_up()
    rows = latency(books, midnight + timedelta(minutes=15 * first), midnight + timedelta(minutes=15 * last))
    wanted = min(last, 288) - max(first, 0)
    assert [row["events"] for row in rows] == ([wanted] if wanted else [])


def test_metrics_and_models_are_kept_apart(books: Books) -> None:
    count(books, [100.0])
    count(books, [900.0], metric="duration")
    count(books, [50.0], model="mini")
    assert [(row["model"], row["metric"], row["events"]) for row in latency(books, QUARTER, QUARTER + timedelta(hours=1))] == [
        ("gpt-4o", "duration", 1), ("gpt-4o", "ttfb", 1), ("mini", "ttfb", 1)]


def test_view_shows_the_last_week(books: Books) -> None:
    now = books.value("SELECT date_bin('15 min', now(), '2000-01-01Z')")
    count(books, [100.0], now)
    count(books, [200.0], now - timedelta(days=8))
    assert [row["events"] for row in books.rows("SELECT * FROM stage_latency")] == [1]


@pytest.mark.parametrize("since, before", [(QUARTER, QUARTER - timedelta(seconds=1)), (None, QUARTER), (QUARTER, None)])
def test_a_range_that_is_none_is_refused(books: Books, since: Any, before: Any) -> None:
    with pytest.raises(psycopg2.Error, match="is after|two times"):
        latency(books, since, before)
