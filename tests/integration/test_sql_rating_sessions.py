"""Who pays and by which scheme: accounts, late metadata, minute tariffs (sql/functions/rating_*.sql)."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, Book, D, priced, seconds  # noqa: E402


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


def rated_session(book: Book, session: str, *columns: str) -> tuple[object, ...]:
    return book.db.query(f"SELECT {', '.join(columns)} FROM toll.rated_sessions WHERE session_id = %s", session)[0]


# --- accounts ---

def test_account_is_the_first_key_that_metadata_have(book: Book) -> None:
    cases = [({"user_id": "u", "account_id": "a"}, "a"), ({"business_id": "b", "tenant_id": "t"}, "t"), ({"account_id": "", "user_id": 7}, "7"),
             ({"account_id": None, "user_id": ["u"], "tenant_id": True, "business_id": "b"}, "b"), ({"account_id": "x" * 257, "user_id": "u"}, "u"),
             ({}, None), ({"phone_number": "+49"}, None)]
    sessions = [book.session(**metadata) for metadata, _ in cases]
    book.rate()
    assert [rated_session(book, s, "account_id")[0] for s in sessions] == [account for _, account in cases]
    assert book.db.query("SELECT plan_id, currency, time_zone, charge_by, tariff_id, trial_ends_at FROM accounts WHERE account_id = 'a'") == [
        ("basic", "USD", "UTC", "usage", "*", None)]


def test_account_on_first_sight_has_the_configured_defaults(book: Book) -> None:
    book.db.execute("INSERT INTO plans (plan_id, name) VALUES ('gold', 'Gold')")
    book.db.execute("UPDATE toll.rating_settings SET default_plan_id = 'gold', default_currency = 'RUB', default_time_zone = 'Asia/Kathmandu',"
                    " default_charge_by = 'minutes', default_tariff_id = 't1', trial_days = 14, trial_allowance = 100")
    book.session(user_id="u")
    book.batch((None, "usage", {"account": "other", "meter": "storage_mb", "quantity": D("1")}))
    book.rate()
    assert book.db.query("SELECT account_id, plan_id, currency, time_zone, charge_by, tariff_id, trial_ends_at - created_at, trial_allowance"
                         " FROM accounts ORDER BY 1") == [
        (name, "gold", "RUB", "Asia/Kathmandu", "minutes", "t1", timedelta(days=14), 100) for name in ("other", "u")]


def test_usage_without_a_session_is_its_accounts(book: Book) -> None:
    book.price("meter", "storage_mb", "0.5", unit=1, side="both")
    good, empty, long = book.batch(*((None, "usage", {"account": a, "meter": "storage_mb", "quantity": D("3")}) for a in ("acme", "", "x" * 300)))
    book.rate()
    assert (book.line(good)["account_id"], book.line(good)["charge"]) == ("acme", D("1.5"))
    assert (book.line(empty)["account_id"], book.line(empty)["cost"], book.line(empty)["charge"]) == (None, D("1.5"), None)
    assert book.line(long)["account_id"] is None
    assert book.db.query("SELECT business_id FROM toll.usage_rollup WHERE account_id = 'acme'") == [("acme",)]
    book.check_rollup()


def test_late_metadata_charge_what_was_used_before(book: Book) -> None:
    priced(book)
    book.account("a", currency="USD", charge_by="usage")
    book.wallet("a", 10_000)
    s = book.session(channel="text")
    first = book.llm(s, input_tokens=3, output_tokens=0, cached_input_tokens=1)
    unpriced = book.batch((s, "tts", {"char_count": 5}))[0]
    book.rate()
    assert (book.line(first)["account_id"], book.line(first)["cost"], book.line(first)["charge"]) == (None, 3, None)
    assert book.unrated() == {(unpriced, "cost"): "tts: no price"}
    book.check_rollup()

    book.change(s, account_id="a", business_id="shop", channel="voice")
    second = book.llm(s, input_tokens=4, output_tokens=0)
    book.rate()
    lines = book.lines("event_id = %s", first)
    assert [(x["account_id"], x["cost"], x["charge"], x["kind"], x["reason"]) for x in lines] == [
        (None, 3, None, "usage", None), (None, -3, None, "adjustment", "account resolved"), ("a", 3, 3, "usage", None)]
    assert book.line(second)["charge"] == 4
    assert book.balance("a") == 100 - 7
    assert set(book.unrated()) == {(unpriced, "cost"), (unpriced, "charge")}
    assert rated_session(book, s, "account_id", "business_id", "channel") == ("a", "shop", "voice")
    assert book.db.query("SELECT account_id, business_id, sum(events), sum(input_tokens), sum(cached_input_tokens), sum(cost)"
                         " FROM toll.usage_rollup WHERE component = 'llm' GROUP BY 1, 2 ORDER BY 1") == [
        ("", "", 0, 0, 0, 0), ("a", "shop", 2, 7, 1, 7)]
    book.check_rollup()
    # Once fixed, it stays.
    book.change(s, user_id="b", account_id="c")
    book.llm(s, input_tokens=5, output_tokens=0)
    book.rate()
    assert {x["account_id"] for x in book.lines("kind = 'usage' AND charge = 5")} == {"a"}


def test_late_account_of_an_ended_call_moves_its_end_and_bills_it(book: Book) -> None:
    book.account("m", charge_by="minutes")
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    s = book.session()
    book.batch((s, "stt", {"audio_duration_ms": 1000}))
    book.change(s, ended=NOON + seconds(61))
    book.rate()
    assert book.lines("kind = 'tariff'") == []
    assert book.db.query("SELECT account_id, sessions FROM toll.usage_rollup WHERE component = 'session'") == [("", 1)]
    book.change(s, user_id="m")
    book.rate()
    assert [(x["charge"], x["account_id"]) for x in book.lines("kind = 'tariff'")] == [(10, "m")]
    assert book.db.query("SELECT account_id, sessions, quantity FROM toll.usage_rollup WHERE component = 'session' ORDER BY 1") == [
        ("", 0, 0), ("m", 1, D("1.016666667"))]
    book.check_rollup()


def test_changed_keys_resolve_sessions_on_demand(book: Book) -> None:
    priced(book)
    s = book.session(customer="c")
    book.llm(s, input_tokens=2, output_tokens=0)
    book.rate()
    assert book.db.value("SELECT toll.resolve_sessions(ARRAY[%s]::uuid[])", s) == 0
    book.db.execute("UPDATE toll.rating_settings SET account_keys = '{customer}'")
    assert book.db.value("SELECT toll.resolve_sessions(ARRAY[%s]::uuid[])", s) == 1
    assert book.db.value("SELECT toll.resolve_sessions(ARRAY[%s]::uuid[])", s) == 0
    assert book.lines("account_id = 'c'")[0]["charge"] == 2
    book.check_rollup()


# --- the minute tariff ---

def test_started_minutes_are_billed_at_the_end(book: Book) -> None:
    book.account("m", charge_by="minutes", currency="RUB")
    number = book.price("tariff", "minutes", "5", unit=1, side="charge", currency="RUB")
    priced(book)
    book.wallet("m", 100_000)
    lengths = {0.0: 1, 0.001: 1, 60.0: 1, 60.000999: 1, 60.001: 2, 119.999: 2, 120.0: 2, 3600.5: 61}
    sessions = {}
    for length in lengths:
        s = sessions[length] = book.session(user_id="m")
        book.batch((s, "stt", {"audio_duration_ms": 1000}))
        book.change(s, ended=NOON + seconds(length))
    silent = book.session(user_id="m")
    book.llm(silent, input_tokens=1, output_tokens=0)
    book.change(silent, ended=NOON + seconds(600))
    live = book.session(user_id="m")
    book.batch((live, "stt", {"audio_duration_ms": 1000}))
    book.rate()
    for length, minutes in lengths.items():
        line = book.lines("session_id = %s AND kind = 'tariff'", sessions[length])
        assert [(x["quantities"], x["charge"], x["cost"], x["charge_price_ids"], x["event_id"], x["occurred_at"]) for x in line] == [
            ({"minutes": minutes}, 5 * minutes, None, [number], None, NOON + seconds(length))], length
        billed, amount, snapshot = rated_session(book, sessions[length], "billed_minutes", "billed_amount", "tariff_snapshot")
        assert (billed, amount) == (minutes, 5 * minutes)
        assert (snapshot["price"], snapshot["currency"], snapshot["price_id"], snapshot["unit_quantity"]) == (5, "RUB", number, 1)
    assert book.lines("kind = 'tariff' AND session_id = ANY (ARRAY[%s, %s]::uuid[])", silent, live) == []
    # Events charge nothing beside, and say why; their cost needs a rate.
    assert {(x["charge"], x["reason"]) for x in book.lines("kind = 'usage'")} == {(0, "minutes")}
    assert {side for _, side in book.unrated()} == {"cost"}
    assert book.balance("m", "RUB") == 1000 - 5 * sum(lengths.values())
    book.check_rollup()


def test_tariff_is_the_accounts_at_the_end_of_the_call(book: Book) -> None:
    book.account("m", charge_by="minutes", tariff_id="night")
    turn = NOON + seconds(30)
    book.price("tariff", "minutes", "9", unit=1, side="charge")
    book.price("tariff", "minutes", "1", unit=1, side="charge", variant="night", until=turn)
    book.price("tariff", "minutes", "2", unit=1, side="charge", variant="night", since=turn)
    sessions = [book.session(user_id="m") for _ in range(2)]
    book.rate()
    book.db.execute("UPDATE accounts SET tariff_id = '*', charge_by = 'usage'")  # sessions keep what they began with
    for s, end in zip(sessions, (turn - seconds(1), turn)):
        book.batch((s, "usage", {"meter": "telephony_inbound", "quantity": D("1")}))
        book.change(s, ended=end)
    book.rate()
    assert [book.lines("session_id = %s AND kind = 'tariff'", s)[0]["charge"] for s in sessions] == [1, 2]


def test_corrected_duration_adds_a_difference(book: Book) -> None:
    book.account("m", charge_by="minutes")
    book.account("p", charge_by="prepaid_minutes")
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.wallet("m", 10_000)
    book.wallet("p", 100, "minutes")
    sessions = {name: book.session(user_id=name) for name in ("m", "p")}
    for s in sessions.values():
        book.batch((s, "tts", {"char_count": 1}))
        book.change(s, ended=NOON + seconds(90))
    book.rate()
    assert (book.balance("m"), book.balance("p", "minutes")) == (90, 98)
    for end, minutes in ((301, 6), (30, 1), (31, 1)):
        for s in sessions.values():
            book.change(s, ended=NOON + seconds(end))
        book.rate()
        assert (book.balance("m"), book.balance("p", "minutes")) == (100 - 5 * minutes, 100 - minutes)
        for s in sessions.values():
            assert rated_session(book, s, "billed_minutes", "billed_amount", "duration_ms") == (minutes, 5 * minutes, end * 1000)
    assert [(x["charge"], x["kind"], x["reason"]) for x in book.lines("account_id = 'm' AND event_id IS NULL")] == [
        (10, "tariff", None), (20, "tariff", "duration corrected"), (-25, "tariff", "duration corrected")]
    assert book.db.query("SELECT sessions, quantity, charge FROM toll.usage_rollup WHERE component = 'tariff' AND account_id = 'm'") == [(1, 1, 5)]
    book.check_rollup()


def test_voice_use_after_the_end_bills_the_call_then(book: Book) -> None:
    book.account("m", charge_by="minutes")
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    s = book.session(user_id="m")
    book.change(s, ended=NOON + seconds(90))
    book.rate()
    assert book.lines() == []
    book.batch((s, "stt", {"audio_duration_ms": 5}), at=NOON + seconds(200))
    book.rate()
    assert [(x["charge"], x["occurred_at"]) for x in book.lines("kind = 'tariff'")] == [(10, NOON + seconds(90))]
    book.batch((s, "stt", {"audio_duration_ms": 5}), at=NOON + seconds(201))
    book.rate()
    assert len(book.lines("kind = 'tariff'")) == 1


def test_tariff_without_a_price_keeps_the_minutes_until_there_is_one(book: Book) -> None:
    book.account("m", charge_by="minutes")
    book.wallet("m", 10_000)
    s = book.session(user_id="m")
    book.batch((s, "tts", {"char_count": 1}))
    book.change(s, ended=NOON + seconds(90))
    book.rate()
    assert rated_session(book, s, "billed_minutes", "billed_amount", "tariff_snapshot") == (2, None, None)
    assert [(x["charge"], x["quantities"]) for x in book.lines("kind = 'tariff'")] == [(None, {"minutes": 2})]
    assert book.db.query("SELECT unrated_charge, quantity FROM toll.usage_rollup WHERE component = 'tariff'") == [(1, 2)]
    assert book.db.value("SELECT toll.rate_unrated()") == 0
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    assert book.db.value("SELECT toll.rate_unrated()") == 1
    assert book.db.value("SELECT toll.rate_unrated()") == 0
    assert rated_session(book, s, "billed_minutes", "billed_amount") == (2, 10)
    assert book.db.query("SELECT unrated_charge, quantity, charge FROM toll.usage_rollup WHERE component = 'tariff'") == [(0, 2, 10)]
    assert book.balance("m") == 90
