"""What calls, messages and workflows cost: exact figures, exact JSON, and nothing where a part is not known."""

from __future__ import annotations

import json
import sys
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from books import Books  # noqa: E402
from harness import Database  # noqa: E402
from rating import Book  # noqa: E402

START = datetime(2026, 3, 10, 12, 0, tzinfo=timezone.utc)
ZERO = Decimal(0)


@pytest.fixture
def books(db: Database) -> Iterator[Books]:
    made = Books(db)
    made.account("acme", title="Acme Ltd")
    made.account("rub", currency="RUB", charge_by="minutes")
    yield made
    made.close()


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def full_call(books: Books, **about: Any) -> str:
    """A call of 90 s with each component once."""
    session = books.session("acme", START, 90, business="acme", **about)
    books.event(session, later(1), "stt", "deepgram", "nova-3", {"audio_ms": 4310.25}, cost="0.000308901", charge="0.0005")
    books.event(session, later(2), "llm", "openai", "gpt-4o", {"input": 300, "cached_input": 512, "output": 95}, cost="0.00234", charge="0.004",
                agent="triad", duration_ms=1500)
    books.event(session, later(3), "tts", "cartesia", "sonic-2", {"characters": 143}, cost="0.005", charge="0.01")
    books.event(session, later(4), "telephony", "twilio", "telephony_inbound", {"quantity": 1.5, "billed_seconds": 120}, cost="0.0085", charge="0.02")
    books.event(session, later(5), "meter", None, "ai_query", {"quantity": 2}, cost="0.0001", charge="0.0002")
    return session


def costs(books: Books, call: str | None) -> Any:
    return books.value("SELECT call_costs(%s)", call)


def breakdown(books: Books, session: str) -> dict[str, Any]:
    [row] = books.rows("SELECT * FROM call_cost_breakdown WHERE session_id = %s", session)
    return row


# --- call_costs ---

def test_call_costs_has_this_shape(books: Books) -> None:
    session = full_call(books)
    assert costs(books, session) == {"success": True, "data": {
        "total": 0.016248901,
        "breakdown": {"stt_cost": 0.000308901, "llm_cost": 0.00234, "tts_cost": 0.005, "telephony_cost": 0.0085, "other_cost": 0.0001},
        "provider_usage": {"stt_minutes": 0.0718375, "llm_input_tokens": 812, "llm_output_tokens": 95, "tts_characters": 143}}}
    assert books.value("SELECT call_costs(%s) #>> '{data,total}'", session) == "0.016248901"


def test_call_costs_of_an_empty_call_are_zero(books: Books) -> None:
    data = costs(books, books.session("acme", START, 10))["data"]
    assert data["total"] == 0 and set(data["breakdown"].values()) == {0} and set(data["provider_usage"].values()) == {0}


def test_call_costs_adds_the_sessions_of_a_call(books: Books) -> None:
    first, _ = full_call(books, call_id="CA7"), full_call(books, call_id="CA7")
    assert costs(books, "CA7")["data"]["total"] == 0.032497802
    assert costs(books, first)["data"]["total"] == 0.016248901


def test_call_costs_prefers_a_session_to_a_call_of_that_name(books: Books) -> None:
    session = full_call(books)
    full_call(books, call_id=session)
    assert costs(books, session)["data"]["total"] == 0.016248901


@pytest.mark.parametrize("call", ["CA1", "", "'; DROP TABLE accounts; --", str(uuid.UUID(int=5)), "00000000-0000-0000-0000-00000000000x"])
def test_call_costs_of_an_unknown_call_is_an_error(books: Books, call: str) -> None:
    full_call(books)
    assert costs(books, call) == {"success": False, "error": f"no such call: {call}"}


def test_call_costs_of_null_is_an_error(books: Books) -> None:
    assert costs(books, None)["success"] is False


def test_call_costs_before_rating_is_an_error(books: Books) -> None:
    session = books.session("acme", START, rated=False)
    assert costs(books, session) == {"success": False, "error": f"call {session} is not rated yet"}


def stored_only(books: Books, session: str | None, **about: Any) -> str:
    """A batch that rating has not come to: a session that metadata describe, or else an event more."""
    if session is None:
        session = books.session("acme", START, rated=False)
        books.run("UPDATE billing_sessions SET metadata = %s WHERE session_id = %s", json.dumps(about), session)
        books.run("INSERT INTO toll.session_queue VALUES (gen_random_uuid(), 0, %s)", session)
    books.run("INSERT INTO billing_events (session_id, event_type, provider, char_count, occurred_at) VALUES (%s, 'tts', 'cartesia', 9, %s)",
              session, later(8))
    return session


def test_call_costs_by_call_id_before_rating_is_an_error(books: Books) -> None:
    full_call(books)
    stored_only(books, None, call_id="CA7")
    stored_only(books, None, call_id="CA8")
    assert costs(books, "CA7") == {"success": False, "error": "call CA7 is not rated yet: 1 of its 1 events wait for rating"}
    assert costs(books, "CA9") == {"success": False, "error": "no such call: CA9"}
    full_call(books, call_id="CA7")  # a second session of the call does not speak for the first
    assert costs(books, "CA7") == {"success": False, "error": "call CA7 is not rated yet: 1 of its 6 events wait for rating"}


def test_call_costs_by_call_id_are_refused_where_too_many_sessions_wait_for_rating(books: Books) -> None:
    session = full_call(books, call_id="CA7")
    books.run("INSERT INTO toll.session_queue SELECT gen_random_uuid(), 0, gen_random_uuid() FROM generate_series(1, 2000)")
    assert costs(books, "CA7")["data"]["total"] > 0
    books.run("INSERT INTO toll.session_queue VALUES (gen_random_uuid(), 0, gen_random_uuid())")
    for call in "CA7", "CA9":
        assert f"more than 2000 sessions wait for rating, and any of them may be of call {call}" in costs(books, call)["error"]
    assert costs(books, session)["data"]["total"] > 0, "by its session id it is found without looking"


def test_call_costs_of_an_ended_call_wait_for_its_last_event(books: Books) -> None:
    session = stored_only(books, full_call(books))
    assert costs(books, session) == {"success": False, "error": f"call {session} is not rated yet: 1 of its 6 events wait for rating"}


def test_call_costs_of_a_live_call_are_so_far_but_never_a_zero_for_what_is_not_known(books: Books) -> None:
    session = books.session("acme", START)
    assert costs(books, session)["data"]["total"] == 0
    stored_only(books, session)
    assert costs(books, session) == {"success": False, "error": f"call {session} is not rated yet: 1 of its 1 events wait for rating"}
    books.event(session, later(1), "stt", "deepgram", "nova-3", {"audio_ms": 60000}, cost="0.0043")
    assert costs(books, session)["data"]["total"] == 0.0043


def test_call_costs_by_a_call_id_that_came_after_the_account(db: Database) -> None:
    book = Book(db)
    book.price("llm", "input", "2", unit=1)
    book.price("llm", "output", "2", unit=1)
    session = book.session(user_id="a")
    book.llm(session, input_tokens=3, output_tokens=0)
    book.rate()
    assert db.value("SELECT call_costs('CA7')")["error"] == "no such call: CA7"
    book.change(session, call_id="CA7")
    assert db.value("SELECT call_costs('CA7')")["data"]["total"] == 6, "found while it waits for rating"
    book.rate()
    assert db.value("SELECT call_costs('CA7')")["data"]["total"] == 6
    book.change(session, call_id="CA8")  # the first that it was called by stays
    book.rate()
    assert [db.value("SELECT call_costs(%s)", name)["success"] for name in ("CA7", "CA8", session)] == [True, False, True]


def test_reader_asks_for_costs_of_a_call(books: Books) -> None:
    stored_only(books, None, call_id="CA7")
    books.run("SET ROLE toll_reader")
    assert "not rated yet" in costs(books, "CA7")["error"]
    books.run("RESET ROLE")


def test_call_costs_in_two_currencies_is_an_error(books: Books) -> None:
    full_call(books, call_id="CA7")
    roubles = books.session("rub", START, 60, call_id="CA7")
    books.event(roubles, later(1), "stt", "deepgram", "nova-3", {"audio_ms": 1}, cost="1")
    assert "RUB and USD" in costs(books, "CA7")["error"]


def test_call_costs_is_null_where_a_price_is_missing(books: Books) -> None:
    session = full_call(books)
    books.event(session, later(6), "tts", "playht", "new", {"characters": 10}, cost=None, charge="0.01")
    data = costs(books, session)["data"]
    assert data["total"] is None and data["breakdown"]["tts_cost"] is None
    assert data["breakdown"]["llm_cost"] == 0.00234 and data["provider_usage"]["tts_characters"] == 153


def test_call_costs_counts_an_event_after_the_end(books: Books) -> None:
    session = full_call(books)
    books.event(session, later(4000), "tts", "cartesia", "sonic-2", {"characters": 7}, cost="0.001")
    assert costs(books, session)["data"]["total"] == 0.017248901


# --- call_cost_breakdown ---

def test_breakdown_names_providers_and_margin(books: Books) -> None:
    row = breakdown(books, full_call(books, call_id="CA7"))
    assert row["call_log_id"] == "CA7" and row["currency"] == "USD" and row["account_id"] == "acme"
    assert [row[f"{each}_provider"] for each in ("stt", "llm", "tts", "telephony")] == ["deepgram", "openai", "cartesia", "twilio"]
    assert row["total_cost"] == Decimal("0.016248901") and row["user_charged_cost"] == Decimal("0.0347")
    assert row["profit_margin"] == row["user_charged_cost"] - row["total_cost"]
    assert (row["telephony_inbound_minutes"], row["telephony_inbound_cost"]) == (Decimal("1.5"), Decimal("0.0085"))
    assert (row["telephony_outbound_minutes"], row["telephony_outbound_cost"]) == (ZERO, ZERO)
    assert (row["unrated_costs"], row["unrated_charges"], row["waived"]) == (0, 0, ZERO)


def test_breakdown_is_found_by_either_name(books: Books) -> None:
    session = full_call(books)
    assert books.run("SELECT session_id FROM call_cost_breakdown WHERE call_log_id = %s", session) == [(session,)]


def test_breakdown_adds_corrections_but_not_their_quantities(books: Books) -> None:
    session = full_call(books)
    books.line(1, session, later(2), "llm", "openai", "gpt-4o", {"input": 300, "output": 95}, "-0.001", "0.001", kind="adjustment")
    row = breakdown(books, session)
    assert (row["llm_cost"], row["user_charged_cost"]) == (Decimal("0.00134"), Decimal("0.0357"))
    assert (row["llm_input_tokens"], row["llm_output_tokens"]) == (812, 95)


def test_breakdown_leaves_out_what_was_reversed_when_the_account_was_found(books: Books) -> None:
    session = full_call(books)
    for cost, kind in (("0.00234", "usage"), ("-0.00234", "adjustment")):
        books.line(2, session, later(2), "llm", "openai", "gpt-4o", {"input": 812, "output": 95}, cost, None, kind=kind, nobody=True)
    row = breakdown(books, session)
    assert (row["llm_cost"], row["llm_input_tokens"], row["user_charged_cost"]) == (Decimal("0.00234"), 812, Decimal("0.0347"))


def test_breakdown_charges_nobody_without_an_account(books: Books) -> None:
    session = books.session(None, START, 60)
    books.event(session, later(1), "stt", "deepgram", "nova-3", {"audio_ms": 60000}, cost="0.0043")
    row = breakdown(books, session)
    assert (row["total_cost"], row["user_charged_cost"], row["profit_margin"]) == (Decimal("0.0043"), None, None)
    assert books.run("SELECT session_id, lines, cost FROM unresolved_sessions") == [(session, 1, Decimal("0.0043"))]


def test_breakdown_of_a_call_by_the_minute(books: Books) -> None:
    live = books.session("rub", START, charge_by="minutes")
    over = books.session("rub", START, 61, charge_by="minutes", billed=2, amount="10", waived="4")
    unpriced = books.session("rub", START, 61, charge_by="minutes", billed=2)
    assert [breakdown(books, each)["user_charged_cost"] for each in (live, over, unpriced)] == [None, Decimal("6"), None]
    assert breakdown(books, over)["waived"] == 4
    assert books.run("SELECT session_id, billed_minutes FROM unrated_sessions") == [(unpriced, 2)]
    [row] = books.rows("SELECT * FROM usage_sessions WHERE session_id = %s", over)
    assert row == {"session_id": over, "user_account_id": "rub", "duration_sec": Decimal(61), "billed_minutes": 2, "billed_amount": Decimal(10),
                   "currency": "RUB", "created_at": later(61), "tariff_snapshot": {"price": 5}, "billed_amount_rub": Decimal(10)}


def test_unrated_events_say_what_is_missing(books: Books) -> None:
    session = books.session("acme", START)
    number = books.event(session, later(1), "tts", "playht", "new", {"characters": 10}, cost=None, charge=None)
    assert books.run("SELECT event_id, side, component, provider, model, missing FROM unrated_events ORDER BY side") == [
        (number, "charge", "tts", "playht", "new", "no price"), (number, "cost", "tts", "playht", "new", "no price")]
    row = breakdown(books, session)
    assert (row["unrated_costs"], row["unrated_charges"], row["total_cost"], row["user_charged_cost"]) == (1, 1, None, None)


# --- message_cost_breakdown ---

def message_row(books: Books, number: int) -> dict[str, Any]:
    [row] = books.rows("SELECT * FROM message_cost_breakdown WHERE message_id = %s", number)
    return row


def test_messages_of_a_turn_share_its_tokens_once(books: Books) -> None:
    session, turn = books.session("acme", START, 60), str(uuid.uuid4())
    for seconds in (1, 2):
        books.event(session, later(seconds), "llm", "openai", "gpt-4o", {"input": 100, "output": 10}, cost="0.002", charge="0.003", turn=turn)
    books.event(session, later(3), "llm", "openai", "gpt-4o", {"input": 100, "output": 10}, cost="5", turn=str(uuid.uuid4()))
    first = books.event(session, later(4), "meter", "whatsapp", "message", {"quantity": 1}, cost="0.01", charge="0.02", turn=turn)
    second = books.event(session, later(5), "meter", "whatsapp", "message", {"quantity": 1}, cost="0.01", charge="0.02", turn=turn)
    row = message_row(books, first)
    assert (row["total_cost"], row["user_charged_cost"], row["profit_margin"]) == (Decimal("0.014"), Decimal("0.026"), Decimal("0.012"))
    assert (row["llm_input_tokens"], row["llm_output_tokens"], row["llm_provider"], row["provider"]) == (200, 20, "openai", "whatsapp")
    row = message_row(books, second)
    assert (row["total_cost"], row["llm_cost"], row["llm_input_tokens"]) == (Decimal("0.01"), ZERO, 0)


def test_message_without_session_or_turn(books: Books) -> None:
    outside = books.event(None, START, "meter", None, "message", {"quantity": 3}, cost="0.03", charge="0.06", account="acme")
    session = books.session("acme", START, 60)
    books.event(session, later(1), "llm", "openai", "gpt-4o", {"input": 100, "output": 10}, cost="0.002")
    inside = books.event(session, later(2), "meter", None, "message", {"quantity": 1}, cost="0.01")
    assert [(row["business_id"], row["messages"], row["total_cost"]) for row in map(lambda n: message_row(books, n), (outside, inside))] == [
        ("acme", 3, Decimal("0.03")), ("acme", 1, Decimal("0.01"))]


def test_message_costs_are_null_where_a_price_is_missing(books: Books) -> None:
    session, turn = books.session("acme", START, 60), str(uuid.uuid4())
    books.event(session, later(1), "llm", "openai", "new", {"input": 100, "output": 10}, cost=None, charge="0.1", turn=turn)
    row = message_row(books, books.event(session, later(2), "meter", None, "message", {"quantity": 1}, cost="0.01", charge="0.1", turn=turn))
    assert (row["llm_cost"], row["total_cost"], row["message_cost"], row["user_charged_cost"]) == (None, None, Decimal("0.01"), Decimal("0.2"))


# --- workflow_rollup ---

def rollup(books: Books, enterprise: str | None = "app_456", workflow: str | None = "support_triad") -> Any:
    return books.value("SELECT workflow_rollup(%s, %s)", enterprise, workflow)


def test_workflow_rollup_has_this_shape(books: Books) -> None:
    about = {"enterprise": "app_456", "workflow": "support_triad"}
    first = full_call(books, **about)
    live = books.session("acme", START, **about)
    books.event(live, later(30), "llm", "openai", "gpt-4o-mini", {"input": 200, "output": 40}, cost="0.001", agent="triad", duration_ms=500)
    books.event(live, later(40), "llm", "anthropic", "claude", {"input": 50, "output": 5}, cost="0.002", agent="closer")
    books.event(live, later(45), "llm", "openai", "gpt-4o", {"input": 10, "output": 1}, cost="0.003")
    books.run("UPDATE billing_sessions SET llm_input_tokens = 812, llm_output_tokens = 95, llm_calls = 1 WHERE session_id = %s", first)
    books.session("acme", START, 5, enterprise="app_456", workflow="other")
    answer = rollup(books)
    assert set(answer) == {"_id", "enterprise_id", "workflow_name", "overall_avg", "chat_sessions", "agents"}
    assert (answer["_id"], answer["enterprise_id"], answer["workflow_name"]) == ("mon_app_456_support_triad", "app_456", "support_triad")
    assert answer["overall_avg"] == {"duration_sec": 67.5, "prompt_tokens": 536, "completion_tokens": 70.5, "total_tokens": 606.5,
                                     "cost": 0.011124451, "turns": 2}
    assert set(answer["chat_sessions"]) == {first, live}
    assert answer["chat_sessions"][first] == {"started_at": "2026-03-10T12:00:00+00:00", "duration_sec": 90, "tokens": 907, "cost": 0.016248901,
                                              "status": "end"}
    assert answer["chat_sessions"][live] == {"started_at": "2026-03-10T12:00:00+00:00", "duration_sec": 45, "tokens": 306, "cost": 0.006,
                                             "status": "live"}
    assert answer["agents"] == {
        "triad": {"turns": 2, "prompt_tokens": 1012, "completion_tokens": 135, "cost": 0.00334, "avg_duration_sec": 1,
                  "models": ["gpt-4o", "gpt-4o-mini"]},
        "closer": {"turns": 1, "prompt_tokens": 50, "completion_tokens": 5, "cost": 0.002, "avg_duration_sec": None, "models": ["claude"]}}


def test_workflow_rollup_of_an_empty_session(books: Books) -> None:
    session = books.session("acme", START, 5, enterprise="app_456", workflow="support_triad", finish="cancel")
    answer = rollup(books)
    assert answer["agents"] == {} and answer["overall_avg"]["cost"] == 0 and answer["overall_avg"]["turns"] == 0
    assert answer["chat_sessions"][session]["status"] == "cancel"


def test_workflow_rollup_is_null_where_a_price_is_missing(books: Books) -> None:
    session = full_call(books, enterprise="app_456", workflow="support_triad")
    books.event(session, later(6), "llm", "openai", "new", {"input": 1, "output": 1}, cost=None, agent="triad")
    answer = rollup(books)
    assert answer["agents"]["triad"]["cost"] is None and answer["chat_sessions"][session]["cost"] is None and answer["overall_avg"]["cost"] is None
    assert answer["agents"]["triad"]["turns"] == 2


@pytest.mark.parametrize("enterprise, workflow", [("app_456", "none"), ("none", "support_triad"), (None, "support_triad"), ("app_456", None), ("", "")])
def test_workflow_rollup_of_nothing_is_an_error(books: Books, enterprise: str | None, workflow: str | None) -> None:
    full_call(books, enterprise="app_456", workflow="support_triad")
    answer = rollup(books, enterprise, workflow)
    assert answer["success"] is False and "no sessions" in answer["error"]
