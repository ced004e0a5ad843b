"""Who pays and by which scheme: accounts, late metadata, minute tariffs, trials, plans, wallets (sql/functions/rating_*.sql)."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, UTC, Book, D  # noqa: E402
from schema import this_month  # noqa: E402


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def priced(book: Book, price: str = "1") -> None:
    """A token and a minute of speech cost that much, and so does a meter's unit."""
    for dimension in ("input", "output"):
        book.price("llm", dimension, price, unit=1, side="both")
    book.price("stt", "minutes", price, unit=1, side="both")


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


# --- trials ---

def test_trial_waives_in_order_and_splits_the_last(book: Book) -> None:
    priced(book)
    book.account("a", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("10"))
    book.wallet("a", 10_000)
    s = book.session(account_id="a")
    book.batch(*((s, "llm", {"input_tokens": n, "output_tokens": 0}) for n in (4, 0, 5)))
    book.rate()
    book.batch(*((s, "llm", {"input_tokens": n, "output_tokens": 0}) for n in (3, 2)))
    book.rate()
    assert [(x["charge"], x["waived"]) for x in book.lines()] == [(4, 4), (0, 0), (5, 5), (3, 1), (2, 0)]
    assert book.db.value("SELECT trial_used FROM accounts WHERE account_id = 'a'") == 10
    assert book.balance("a") == 100 - 4
    book.check_rollup()


def test_trial_ends_at_its_time_and_may_be_unlimited(book: Book) -> None:
    priced(book)
    book.account("a", trial_ends_at=NOON)
    s = book.session(account_id="a")
    book.batch((s, "llm", {"input_tokens": 4, "output_tokens": 0, "at": NOON - timedelta(microseconds=1)}),
               (s, "llm", {"input_tokens": 4, "output_tokens": 0, "at": NOON}))
    book.rate()
    assert [(x["charge"], x["waived"]) for x in book.lines()] == [(4, 4), (4, 0)]


def test_trial_covers_the_tariff_and_gets_back_what_a_correction_takes(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("a", charge_by="minutes", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("20"))
    whole, split = book.session(user_id="a"), book.session(user_id="a")
    for s, end in ((whole, 60), (split, 300)):
        book.batch((s, "tts", {"char_count": 1}))
        book.change(s, ended=NOON + seconds(end))
        book.rate()
    for s, end in ((split, 60), (whole, 120)):
        book.change(s, ended=NOON + seconds(end))
        book.rate()
    assert [(x["charge"], x["waived"]) for x in book.lines("session_id = %s AND kind = 'tariff'", whole)] == [(5, 5), (5, 5)]
    assert [(x["charge"], x["waived"]) for x in book.lines("session_id = %s AND kind = 'tariff'", split)] == [(25, 15), (-20, -10)]
    assert book.db.value("SELECT trial_used FROM accounts") == 15


def test_trial_waives_again_what_it_got_back(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("a", charge_by="minutes", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("20"))
    book.wallet("a", 10_000)
    corrected, before, after = (book.session(user_id="a") for _ in range(3))
    for s, end, due, used in ((corrected, 240, 0, 20), (before, 60, 5, 20),  # 20 of 20, 0 of 5 are waived
                              (corrected, 120, 5, 10),  # 10 of 10: 10 are left; what was charged before stays charged
                              (after, 180, 10, 20),  # 10 of 15
                              (corrected, 300, 25, 20),  # 10 of 25: nothing is left for the rest
                              (corrected, 60, 10, 15), (after, 240, 10, 20), (before, 120, 15, 20)):  # 5 of 5, 15 of 20, 0 of 10
        book.batch((s, "tts", {"char_count": 1}))
        book.change(s, ended=NOON + seconds(end))
        book.rate()
        assert (book.balance("a"), book.db.value("SELECT trial_used FROM accounts")) == (100 - due, used), (end, due)
        assert book.db.value("SELECT sum(waived) FROM billing_charges") == used
    book.check_rollup()
    # What an earlier trial waived is nothing that this one could get back.
    book.db.query("SELECT start_trial('a', %s, 20)", NOON + timedelta(days=1))
    book.change(after, ended=NOON + seconds(60))
    book.rate()
    assert book.db.value("SELECT trial_used FROM accounts") == 0


@pytest.mark.parametrize("scheme", ["minutes", "prepaid_minutes"])
def test_trial_does_not_cover_a_call_whose_corrected_end_is_after_it(book: Book, scheme: str) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("a", charge_by=scheme, trial_ends_at=NOON + seconds(120), trial_allowance=D("20"))
    if scheme == "minutes":
        book.wallet("a", 100_000)
    else:
        book.wallet("a", 1000, "minutes")
    first, second = book.session(user_id="a"), book.session(user_id="a")
    # 120 s are not before 120 s.
    for s, end, due, used in ((first, 60, 0, 5), (second, 119, 0, 15), (first, 120, 10, 10), (second, 180, 25, 0), (second, 121, 25, 0), (first, 61, 15, 10),
                              (second, 60, 0, 15)):
        book.batch((s, "tts", {"char_count": 1}))
        book.change(s, ended=NOON + seconds(end))
        book.rate()
        assert book.db.query("SELECT trial_used, (SELECT sum(waived) FROM billing_charges) FROM accounts") == [(used, used)]
        assert (book.balance("a") if scheme == "minutes" else book.balance("a", "minutes") * 5) == (1000 if scheme == "minutes" else 5000) - due, (end, due)
    assert book.db.query("SELECT sum(sessions), sum(quantity) FROM toll.usage_rollup WHERE component = 'tariff'") == [(2, 3)]
    book.check_rollup()


def test_trial_waives_minutes_of_a_wallet_alike(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("p", charge_by="prepaid_minutes", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("20"))
    book.wallet("p", 100, "minutes")
    whole, split, after = (book.session(user_id="p") for _ in range(3))
    for s, end, left in ((whole, 60, 100), (split, 300, 98), (after, 120, 96)):  # 5 of 5, 15 of 25, 0 of 10 are waived
        book.batch((s, "tts", {"char_count": 1}))
        book.change(s, ended=NOON + seconds(end))
        book.rate()
        assert book.balance("p", "minutes") == left
    for s, end, left in ((whole, 120, 95), (split, 60, 97), (split, 420, 93), (after, 60, 94)):  # 5 of 10, 5 of 5, 15 of 35, 0 of 5
        book.change(s, ended=NOON + seconds(end))
        book.rate()
        assert book.balance("p", "minutes") == left, (end, left)
    assert book.db.query("SELECT sum(waived), (SELECT trial_used FROM accounts) FROM billing_charges") == [(20, 20)]


@pytest.mark.parametrize("how", ["SELECT toll.rate_unrated()", "SELECT count(*) FROM toll.rerate('2020-01-01', '2100-01-01', false)"])
def test_late_price_of_a_tariff_gives_the_trials_minutes_back(book: Book, how: str) -> None:
    book.account("p", charge_by="prepaid_minutes", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("20"))
    book.wallet("p", 100, "minutes")
    for end in (60, 300, 120):
        s = book.session(user_id="p")
        book.batch((s, "tts", {"char_count": 1}))
        book.change(s, ended=NOON + seconds(end))
        book.rate()
    book.change(s, ended=NOON + seconds(180))  # corrected before there was a price
    book.rate()
    assert book.balance("p", "minutes") == 91
    book.price("tariff", "minutes", "2", unit=1, side="charge")
    book.db.value(how)
    # All of 2 and 10, or of 10 and 6, and in any case 20 of 18: all but nothing; in which order they are rated does not matter.
    assert book.db.value("SELECT sum(waived) FROM billing_charges") == 18
    assert book.balance("p", "minutes") == 100
    assert book.db.query("SELECT type, sum(minutes_delta) FROM wallet_transactions WHERE type <> 'purchase' GROUP BY 1 ORDER BY 1") == [
        ("adjustment", 9), ("usage", -9)]
    assert book.db.value(how) in (None, 0)
    assert book.balance("p", "minutes") == 100
    book.check_rollup()


def test_late_price_of_a_tariff_gives_back_what_the_allowance_covers(book: Book) -> None:
    book.account("p", charge_by="prepaid_minutes", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("15"))
    book.wallet("p", 100, "minutes")
    s = book.session(user_id="p")
    book.batch((s, "tts", {"char_count": 1}))
    book.change(s, ended=NOON + seconds(300))
    book.rate()
    assert book.balance("p", "minutes") == 95
    number = book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.db.value("SELECT toll.rate_unrated()")
    assert book.balance("p", "minutes") == 98  # 15 of 25 are waived, and so three minutes of five
    # Another price, and its part is another; then a correction rests on that.
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("tariff", "minutes", "4", unit=1, side="charge")
    book.db.value("SELECT count(*) FROM toll.rerate('2020-01-01', '2100-01-01', false)")
    assert book.balance("p", "minutes") == D("98.75")  # 15 of 20
    book.change(s, ended=NOON + seconds(60))
    book.rate()
    assert book.balance("p", "minutes") == 100  # 4 of 4
    book.check_rollup()


# --- plans ---

def quota(book: Book, meter: str, included: str, cents: str, limit: str | None = None) -> None:
    book.db.execute("INSERT INTO usage_quotas VALUES ('basic', %s, %s, %s, %s) ON CONFLICT (plan_id, event_type) DO UPDATE SET"
                    " included_quantity = excluded.included_quantity, overage_price_cents = excluded.overage_price_cents,"
                    " quota_limit = excluded.quota_limit", meter, D(included), D(limit) if limit else None, D(cents))


def used(book: Book) -> dict[tuple[str, str], object]:
    return {(str(month), meter): quantity for month, meter, quantity in
            book.db.query("SELECT period_start, event_type, quantity FROM toll.plan_usage")}


def test_plan_charges_only_what_goes_beyond(book: Book) -> None:
    priced(book)
    quota(book, "ai_query", "10", "5")
    quota(book, "api_call", "2", "0.00000015")
    book.account("a", charge_by="plan")
    book.wallet("a", 10_000)
    s = book.session(account_id="a")
    queries = book.batch(*((s, "usage", {"meter": "ai_query", "quantity": D(q)}) for q in ("8", "3.5", "0.25")))
    book.batch(*((s, "llm", {"input_tokens": 1, "output_tokens": 0}) for _ in range(3)))
    book.rate()
    month = f"{NOON:%Y-%m-01}"
    assert used(book) == {(month, "ai_query"): D("11.75"), (month, "api_call"): 3}
    usage = book.lines("kind = 'usage'")
    assert {(x["charge"], x["reason"]) for x in usage} == {(0, "plan")} and len(usage) == 6
    over = book.lines("kind = 'overage'")
    assert [(x["event_id"], x["quantities"], x["charge"], x["cost"], x["component"], x["model"]) for x in over[:2]] == [
        (queries[1], {"quantity": 3.5, "overage": 1.5}, D("0.075"), None, "meter", "ai_query"),
        (queries[2], {"quantity": 0.25, "overage": 0.25}, D("0.0125"), None, "meter", "ai_query")]
    assert over[2]["charge"] == D("0.000000002")  # 0.0000000015, half to even
    assert book.balance("a") == 100 - D("0.087500002")
    book.check_rollup()


def test_reported_meters_are_no_longer_derived(book: Book) -> None:
    priced(book)
    quota(book, "api_call", "0", "100")
    book.account("a", charge_by="plan")
    s = book.session(account_id="a")
    call = (s, "llm", {"input_tokens": 1, "output_tokens": 0})
    book.batch(call, call, (s, "usage", {"meter": "api_call", "quantity": D("10")}), call)
    book.rate()
    book.batch(call)
    book.rate()
    assert sum(x["charge"] for x in book.lines("kind = 'overage'")) == 12
    assert book.db.value("SELECT reported_meters FROM accounts") == ["api_call"]
    book.batch((s, "usage", {"meter": "api_call", "quantity": D("1")}))
    book.rate()
    assert sum(x["charge"] for x in book.lines("kind = 'overage'")) == 13


def test_voice_minutes_count_at_the_end_unrounded_and_follow_corrections(book: Book) -> None:
    quota(book, "voice_minute", "1", "100")
    book.account("a", charge_by="plan")
    s = book.session(account_id="a")
    book.batch((s, "stt", {"audio_duration_ms": 1}))
    book.change(s, ended=NOON + seconds(100))
    book.rate()
    month = f"{NOON:%Y-%m-01}"
    assert used(book) == {(month, "voice_minute"): D("1.666666667")}
    assert [x["charge"] for x in book.lines("kind = 'overage'")] == [D("0.666666667")]
    book.change(s, ended=NOON + seconds(180))
    book.rate()
    book.change(s, ended=NOON + seconds(30))
    book.rate()
    assert used(book) == {(month, "voice_minute"): D("0.5")}
    lines = book.lines("kind = 'overage'")
    assert [(x["charge"], x["reason"], x["event_id"]) for x in lines] == [
        (D("0.666666667"), None, None), (D("1.333333333"), "duration corrected", None), (-2, "duration corrected", None)]
    assert book.db.query("SELECT sessions, quantity FROM toll.usage_rollup WHERE component = 'session'") == [(1, D("0.5"))]
    book.check_rollup()


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Chatham"])
def test_month_is_the_accounts(book: Book, zone: str) -> None:
    book.account("a", charge_by="plan", time_zone=zone)
    edges = []
    for year, month in ((2026, 3), (2026, 11), (2027, 1)):  # between these, summer time begins and ends in both hemispheres
        edge = book.db.value("SELECT (make_date(%s, %s, 1)::timestamp AT TIME ZONE %s)", year, month, zone)
        edges.append(edge)
        book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1"), "at": edge - timedelta(microseconds=1)}),
                   (None, "usage", {"account": "a", "meter": "sms", "quantity": D("10"), "at": edge}))
    book.rate()
    assert used(book) == {("2026-02-01", "sms"): 1, ("2026-03-01", "sms"): 10, ("2026-10-01", "sms"): 1, ("2026-11-01", "sms"): 10,
                          ("2026-12-01", "sms"): 1, ("2027-01-01", "sms"): 10}


def test_overage_is_waived_on_trial(book: Book) -> None:
    quota(book, "sms", "0", "100")
    book.account("a", charge_by="plan", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("1.5"))
    book.batch(*((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}) for _ in range(3)))
    book.rate()
    assert [(x["charge"], x["waived"]) for x in book.lines("kind = 'overage'")] == [(1, 1), (1, D("0.5")), (1, 0)]


def test_quota_limit_alerts_once_a_month(book: Book) -> None:
    quota(book, "sms", "1", "0", "2")
    book.account("a", charge_by="plan")
    for _ in range(4):
        book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}))
        book.rate()
    assert book.db.query("SELECT account_id, event_type, quantity, quota_limit FROM toll.quota_alerts") == [("a", "sms", 3, 2)]


# --- periods ---

@pytest.mark.parametrize("scheme", ["usage", "minutes", "prepaid_minutes"])
def test_quota_limit_alerts_whatever_the_scheme(book: Book, scheme: str) -> None:
    book.db.execute("SELECT set_quota('basic', 'sms', 1, 1, 3), set_quota('basic', 'api_call', 1, 1, 1)")
    book.account("a", charge_by=scheme)
    connection = book.db.connect()
    connection.cursor().execute("LISTEN toll_quota")
    alerts = "SELECT event_type, quantity, quota_limit, period_start FROM toll.quota_alerts WHERE account_id = 'a' ORDER BY alert_id"
    month = NOON.date().replace(day=1)
    for quantity, expected in ((3, []), (D("0.5"), [("sms", D("3.5"), 3, month)]), (9, [("sms", D("3.5"), 3, month)])):
        book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D(quantity)}))
        book.rate()
        assert book.db.query(alerts) == expected
    s = book.session(account_id="a")
    for _ in range(3):
        book.llm(s, input_tokens=1, output_tokens=0)
        book.rate()
    assert book.db.query(alerts)[1:] == [("api_call", 2, 1, month)]
    connection.poll()
    assert [notify.payload for notify in connection.notifies] == ["a", "a"]
    connection.close()


def test_late_usage_of_a_closed_month_is_booked_after_it(book: Book) -> None:
    priced(book)
    zone = "Asia/Kolkata"
    book.account("a", time_zone=zone)
    last = this_month(-2)
    edge = book.db.value("SELECT date_trunc('month', %s::timestamptz AT TIME ZONE %s) AT TIME ZONE %s", this_month(-1), zone, zone)
    s = book.session(last, account_id="a")
    book.llm(s, input_tokens=1, output_tokens=0, at=edge - timedelta(microseconds=1))
    book.rate()
    assert book.db.value("SELECT toll.close_period('a', %s)", last.date().replace(day=1)) == edge
    book.batch((s, "llm", {"input_tokens": 2, "output_tokens": 0, "at": edge - timedelta(microseconds=1)}),
               (s, "llm", {"input_tokens": 3, "output_tokens": 0, "at": edge}))
    book.rate()
    first, late, next_month = book.lines()
    assert first["booked_at"] == first["occurred_at"] == late["occurred_at"] == edge - timedelta(microseconds=1)
    assert late["booked_at"] > datetime.now(UTC) - timedelta(minutes=5)
    assert next_month["booked_at"] == edge


def test_period_closes_in_order_and_not_before_its_time(book: Book) -> None:
    book.account("a")
    with pytest.raises(Exception, match="there is no account b"):
        book.db.value("SELECT toll.close_period('b', '2026-01-01')")
    with pytest.raises(Exception, match="not the first day of a month"):
        book.db.value("SELECT toll.close_period('a', '2026-01-02')")
    with pytest.raises(Exception, match="may be closed from"):
        book.db.value("SELECT toll.close_period('a', %s)", this_month().date().replace(day=1))
    book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}), at=this_month(-3))
    book.rate()
    with pytest.raises(Exception, match="has an earlier month that is not closed"):
        book.db.value("SELECT toll.close_period('a', %s)", this_month(-2).date().replace(day=1))
    for back in (-3, -2):
        book.db.value("SELECT toll.close_period('a', %s)", this_month(back).date().replace(day=1))
    with pytest.raises(Exception, match="is closed already"):
        book.db.value("SELECT toll.close_period('a', %s)", this_month(-2).date().replace(day=1))
    assert book.db.query("SELECT period FROM toll.closed_periods ORDER BY 1") == [(this_month(b).date().replace(day=1),) for b in (-3, -2)]
