"""Amounts that no line holds: one side of one event is unrated and says why, and rating goes on with the rest."""

from __future__ import annotations

import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, Book, D  # noqa: E402

TOO_MUCH = "the amount is 100000000000 or more: is the price right, and the quantity?"


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


def warned(book: Book, sql: str, *args: object) -> str:
    connection = book.db.connect()
    connection.cursor().execute(sql, args)
    said = "".join(connection.notices)
    connection.close()
    return said


def test_amount_that_no_line_holds_is_unrated(book: Book) -> None:
    book.price("meter", "gold", "1000", unit=1)
    charge = book.price("meter", "gold", "99999999999.9999999994", unit=1, side="charge")
    s = book.session(account_id="a")
    one, ten, most, huge = book.batch(*((s, "usage", {"meter": "gold", "quantity": D(q)}) for q in ("1", "10", "99999999", "1e300")))
    fine = book.llm(s, input_tokens=5, output_tokens=0)
    book.rate()
    assert (book.line(one)["cost"], book.line(one)["charge"]) == (1000, D("99999999999.999999999"))
    for event, cost in ((ten, 10000), (most, D("99999999000"))):
        line = book.line(event)
        assert (line["cost"], line["charge"], line["charge_price_ids"]) == (cost, None, None)
    assert (book.line(huge)["cost"], book.line(huge)["cost_currency"], book.line(huge)["charge"]) == (None, None, None)
    assert book.unrated() == {(fine, "cost"): "llm: no price", (fine, "charge"): "llm: no price", (huge, "cost"): f"meter: {TOO_MUCH}"} | {
        (event, "charge"): f"meter: {TOO_MUCH}" for event in (ten, most, huge)}
    book.check_rollup()
    assert "toll: 1 events cost or are charged 100000000000 or more" in warned(book, "SELECT toll.explain_event(%s)", ten)
    said = "\n".join(row[0] for row in book.db.query("SELECT toll.explain_event(%s)", ten))
    assert f"charge: unrated: meter: {TOO_MUCH}" in said
    # The right price, and it is charged.
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", charge)
    book.price("meter", "gold", "2", unit=1, side="charge")
    assert book.db.value("SELECT toll.rate_unrated()") == 2
    assert book.db.query("SELECT sum(charge) FROM billing_charges WHERE event_id = %s", ten) == [(20,)]


def test_rounding_and_exchange_decide_what_a_line_holds(book: Book) -> None:
    book.price("meter", "gold", "99999999999.9999999995", unit=1)
    book.price("meter", "silver", "1", unit=1, currency="EUR")
    book.rate_of("EUR", "USD", "1000")
    events = book.batch((None, "usage", {"account": "a", "meter": "gold", "quantity": D(1)}),
                        (None, "usage", {"account": "a", "meter": "silver", "quantity": D("99999999")}),
                        (None, "usage", {"account": "a", "meter": "silver", "quantity": D("100000000")}))
    book.rate()
    assert [book.line(event)["cost"] for event in events] == [None, D("99999999000"), None]
    assert book.line(events[2])["cost_original"] is None


def test_tariff_and_markup_too(book: Book) -> None:
    book.price("tariff", "minutes", "60000000000", unit=1, side="charge")
    book.price("meter", "sms", "60000000000", unit=1)
    book.account("m", charge_by="minutes")
    book.account("u", markup_percent=D(100))
    sessions = [book.session(account_id="m") for _ in range(2)]
    book.batch(*((s, "stt", {"audio_duration_ms": 1000.0}) for s in sessions))
    book.change(sessions[0], ended=NOON + timedelta(seconds=60))
    book.change(sessions[1], ended=NOON + timedelta(seconds=61))
    message = book.batch((None, "usage", {"account": "u", "meter": "sms", "quantity": D(1)}))[0]
    book.rate()
    assert dict(book.db.query("SELECT session_id::text, billed_amount FROM toll.rated_sessions")) == {sessions[0]: 60_000_000_000, sessions[1]: None}
    assert book.db.query("SELECT session_id::text, billed_minutes FROM unrated_sessions") == [(sessions[1], 2)]
    assert (book.line(message)["cost"], book.line(message)["charge"]) == (60_000_000_000, None)


def test_overage_that_no_line_holds_is_unrated(book: Book) -> None:
    book.price("meter", "api_call", "0", unit=1)
    book.account("p", charge_by="plan")
    absurd, after = book.batch(*((None, "usage", {"account": "p", "meter": "api_call", "quantity": D(q)}) for q in ("1e20", "1")))
    book.rate()
    assert book.unrated() == {(absurd, "charge"): f"overage: {TOO_MUCH}"}
    assert [(line["event_id"], line["charge"]) for line in book.lines("kind = 'overage'")] == [(absurd, None), (after, D("0.01"))]
    assert book.db.value("SELECT toll.rate_unrated()") == 0 and len(book.unrated()) == 1, "nothing was paid for it"
    book.check_rollup()


def test_charges_that_no_wallet_holds_are_unrated(book: Book) -> None:
    book.price("meter", "gold", "60000000000", unit=1, side="charge")
    book.price("tariff", "minutes", "60000000000", unit=1, side="charge")
    book.account("m", charge_by="minutes")
    for account in ("u", "m", "fine"):
        if account != "m":
            book.account(account)
        book.wallet(account, 100)

    def gold(account: str) -> int:
        return book.batch((None, "usage", {"account": account, "meter": "gold", "quantity": D(1)}))[0]
    first, second, third = gold("u"), gold("u"), gold("fine")
    sessions = [book.session(account_id="m") for _ in range(2)]
    book.batch(*((s, "stt", {"audio_duration_ms": 1000.0}) for s in sessions))
    for s in sessions:
        book.change(s, ended=NOON + timedelta(seconds=9))
    book.rate()
    reason = "with it the wallet would owe 100000000000 or more: is the price right, and the quantity?"
    assert {key: why for key, why in book.unrated().items() if key[1] == "charge" and "owe" in why} == {
        (event, "charge"): f"meter: {reason}" for event in (first, second)}
    assert book.balance("u") == 1 and book.balance("m") == 1 and book.balance("fine") == 1 - 60_000_000_000
    assert book.db.value("SELECT count(*) FROM unrated_sessions") == 2 and book.line(third)["charge"] == 60_000_000_000
    # Later ones too, once it owes as much as it can say.
    again = gold("fine")
    book.rate()
    assert "owe" in book.unrated()[again, "charge"] and book.balance("fine") == 1 - 60_000_000_000
    lines = book.db.value("SELECT count(*) FROM billing_charges")
    book.db.value("SELECT toll.rate_unrated()")
    assert book.db.value("SELECT count(*) FROM billing_charges") == lines and "owe" in book.unrated()[again, "charge"], "still in vain"
    book.check_rollup()
    book.db.execute("SELECT withdraw_price(price_id, 'wrong') FROM pricing_config WHERE dimension = 'gold' OR component = 'tariff'")
    book.price("meter", "gold", "6", unit=1, side="charge")
    book.price("tariff", "minutes", "0.5", unit=1, side="charge")
    assert book.db.value("SELECT toll.rate_unrated()") == 5
    assert book.balance("u") == -11 and book.balance("m") == 0 and book.balance("fine") == -5 - 60_000_000_000
    assert [key for key in book.unrated() if key[1] == "charge"] == []
    assert book.db.query("SELECT sum(unrated_charge) FROM toll.usage_rollup WHERE component <> 'stt'") == [(0,)]
    book.check_rollup()


def test_quantities_that_a_double_can_hold_do_not_stop_rating(book: Book) -> None:
    for meter in ("sms", "telephony_inbound"):
        book.price("telephony" if meter != "sms" else "meter", meter, "0.01", unit=1, side="both", **({"minimum": 60, "increment": 6} if meter != "sms" else {}))
    s = book.session(account_id="a")
    book.batch(*((s, "usage", {"meter": meter, "quantity": D(q)}) for meter in ("sms", "telephony_inbound") for q in ("1e308", "1e-300", "0")))
    book.batch((s, "stt", {"audio_duration_ms": 2.0**51 / 1000}), (s, "tts", {"char_count": 2**31 - 1}),
               (s, "llm", {"input_tokens": 2**31 - 1, "output_tokens": 2**31 - 1}))
    assert book.rate() > 0
    assert Decimal(book.db.value("SELECT sum(quantity) FROM toll.usage_rollup WHERE model = 'sms'")) > D("1e307")


def test_sums_beyond_a_bigint_are_kept(book: Book) -> None:
    """In one quarter of an hour: each event is one that a frame can say."""
    book.price("meter", "ai_query", "0", unit=1, side="both")
    longest, count = (2**51 - 1) / 1000, 4100
    s = book.session(account_id="a")
    book.batch(*[(s, "tts", {"audio_duration_ms": longest, "char_count": 2**31 - 1})] * count)
    for _ in range(2):
        book.batch(*[(s, "usage", {"meter": "ai_query", "quantity": D(str(2**63 - 1))})] * 2)
        book.rate(most=10_000)
    most = 4 * (2**63 - 1)
    assert book.db.query("SELECT audio_us, characters FROM toll.usage_rollup WHERE component = 'tts'") == [(count * (2**51 - 1), count * (2**31 - 1))]
    assert count * (2**51 - 1) > 2**63
    book.check_rollup()
    for asked in ("SELECT quantity FROM toll.meter_months WHERE meter = 'ai_query'", "SELECT ai_queries FROM billing_overview",
                  "SELECT quantity FROM usage_aggregation WHERE event_type = 'ai_query'", "SELECT used FROM quota_status WHERE event_type = 'ai_query' AND used > 0",
                  "SELECT sum(quantity) FROM usage_events WHERE event_type = 'ai_query'",
                  "SELECT (billing_analytics('a', 'day', 62) #>> '{data,billingUsage,breakdown,aiQueries,count}')::numeric"):
        assert book.db.value(asked) == most, asked
    assert book.db.value("SELECT round(tts_minutes, 6) FROM call_cost_breakdown") == round(Decimal(count * (2**51 - 1)) / 60_000_000, 6)
    # An account charged by plan counts as exactly.
    book.account("p", charge_by="plan")
    book.batch(*[(None, "usage", {"account": "p", "meter": "ai_query", "quantity": D(str(2**63 - 1))})] * 4)
    book.rate()
    assert book.db.value("SELECT used FROM quota_status WHERE account_id = 'p' AND event_type = 'ai_query'") == most
