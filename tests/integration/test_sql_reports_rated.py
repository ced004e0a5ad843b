"""Reports over what rating itself has written, against figures worked out from the events."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from books import Books  # noqa: E402
from harness import Database  # noqa: E402
from schema import JOURNAL, add_batch, add_call, this_month  # noqa: E402

# A turn of add_call(): 1000.1 ms of stt, 120 + 30 tokens, 80 characters.
STT, LLM, TTS = Decimal("0.000071674"), Decimal("0.0006"), Decimal("0.0024")
START = this_month(day=2)
PRICES = (("stt", "deepgram", "nova-3", "minutes", "0.0043", 1), ("llm", "openai", "gpt-4o", "input", "2.50", 1000000),
          ("llm", "openai", "gpt-4o", "output", "10.00", 1000000), ("tts", "cartesia", "sonic", "characters", "30", 1000000))


@pytest.fixture
def books(db: Database) -> Iterator[Books]:
    made = Books(db)
    for component, provider, model, dimension, price, unit in PRICES:
        for side, factor in (("cost", 1), ("charge", 2)):
            made.run("SELECT set_price(%s, %s, %s, %s, %s, %s * %s::numeric, %s, 'USD', '2020-01-01')", component, provider, model, dimension,
                     side, factor, price, unit)
    yield made
    made.close()


def rate(books: Books) -> None:
    """All that is stored."""
    while books.value("SELECT more FROM toll.rate_next(%s, 0, 1000000)", str(JOURNAL)):
        pass


def call(books: Books, started: datetime = START, turns: int = 2, live: bool = False, **metadata: str) -> str:
    session = add_call(books.db, started, turns=turns, live=live)
    books.run("UPDATE billing_sessions SET metadata = %s::jsonb WHERE session_id = %s", _json(metadata), session)
    books.run("INSERT INTO toll.session_queue VALUES (%s, 0, %s)", str(JOURNAL), session)
    return session


def _json(values: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in values.items()) + "}"


def usage(books: Books, meter: str, quantity: Any, at: datetime, *, session: str | None = None, account: str | None = None) -> None:
    batch = add_batch(books.db, 1, 0)
    books.run("INSERT INTO billing_events (session_id, event_type, meter, quantity, account, occurred_at, batch_id)"
              " VALUES (%s, 'usage', %s, %s, %s, %s, %s)", session, meter, quantity, account, at, batch)


def test_call_costs_are_those_of_its_events(books: Books) -> None:
    session = call(books, turns=3, user_id="u_42", call_id="CA7", enterprise_id="e", workflow_name="w")
    rate(books)
    data = books.value("SELECT call_costs('CA7')")["data"]
    assert data["breakdown"] == {"stt_cost": float(3 * STT), "llm_cost": float(3 * LLM), "tts_cost": float(3 * TTS), "telephony_cost": 0, "other_cost": 0}
    assert Decimal(str(data["total"])) == 3 * (STT + LLM + TTS)
    assert data["provider_usage"] == {"stt_minutes": 0.050005, "llm_input_tokens": 360, "llm_output_tokens": 90, "tts_characters": 240}
    [row] = books.rows("SELECT * FROM call_cost_breakdown WHERE session_id = %s", session)
    assert (row["account_id"], row["unrated_costs"], row["unrated_charges"]) == ("u_42", 0, 0)
    assert row["llm_cost"] == 3 * LLM and row["user_charged_cost"] == books.value("SELECT sum(charge) FROM billing_charges")
    assert books.value("SELECT workflow_rollup('e', 'w') #>> '{overall_avg,cost}'") == str(3 * (STT + LLM + TTS))


def test_a_missing_price_is_never_zero(books: Books) -> None:
    session = call(books, user_id="u_42")
    usage(books, "sms", 2, START, session=session)
    rate(books)
    data = books.value("SELECT call_costs(%s)", session)["data"]
    assert (data["total"], data["breakdown"]["other_cost"]) == (None, None) and data["breakdown"]["llm_cost"] == float(2 * LLM)
    assert books.run("SELECT component, model, side FROM unrated_events ORDER BY side") == [("meter", "sms", "charge"), ("meter", "sms", "cost")]


def test_a_call_of_nobody_is_charged_to_nobody(books: Books) -> None:
    session = call(books)
    rate(books)
    [row] = books.rows("SELECT * FROM call_cost_breakdown WHERE session_id = %s", session)
    assert (row["total_cost"], row["user_charged_cost"]) == (2 * (STT + LLM + TTS), None)
    assert books.run("SELECT session_id, cost FROM unresolved_sessions") == [(session, 2 * (STT + LLM + TTS))]


def test_months_and_events_add_up_to_what_was_stored(books: Books) -> None:
    for number in range(4):
        call(books, START + timedelta(hours=number), turns=number, user_id=f"u_{number % 2}", tenant_id="acme")
    usage(books, "api_call", 70, START, account="direct")
    usage(books, "storage_mb", "12.5", START, account="acme")
    rate(books)
    assert books.run("SELECT business_id, api_calls, storage_mb FROM billing_overview ORDER BY 1") == [("acme", 6, Decimal("12.5")), ("direct", 70, 0)]
    assert books.run("SELECT business_id, event_type, sum(quantity) FROM usage_events WHERE event_type <> 'voice_minute' GROUP BY 1, 2 ORDER BY 1, 2") == [
        ("acme", "api_call", 6), ("acme", "storage_mb", Decimal("12.5")), ("direct", "api_call", 70)]
    assert books.value("SELECT billing_analytics('acme', 'month', 62) #>> '{data,billingUsage,breakdown,apiCalls,count}'") == "6"


def test_readers_read_every_report(books: Books) -> None:
    call(books, user_id="u_42", call_id="CA7", enterprise_id="e", workflow_name="w")
    rate(books)
    role = f"reader_of_{books.db.name}"
    books.run(f"CREATE ROLE {role} LOGIN; GRANT toll_reader TO {role}")
    reader = books.db.connect(role)
    try:
        with reader.cursor() as cursor:
            for what in ("call_cost_breakdown", "message_cost_breakdown", "unrated_events", "unrated_sessions", "unresolved_sessions", "usage_sessions",
                         "usage_events", "usage_aggregation", "billing_overview", "quota_status", "stage_latency",
                         "stage_latency('2026-01-01', '2026-02-01')"):
                cursor.execute(f"SELECT * FROM {what}")
            for what in ("call_costs('CA7')", "workflow_rollup('e', 'w')", "billing_analytics('u_42', 'day', 30)",
                         "revenue_minutes('2026-01-01', '2026-02-01', 'day')"):
                cursor.execute(f"SELECT {what}")
                assert "error" not in cursor.fetchone()[0]
    finally:
        reader.close()
        books.run(f"DROP ROLE {role}")
