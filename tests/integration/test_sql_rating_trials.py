"""What a trial waives: of usage, tariffs, minutes and overage, and what it gets back (sql/functions/rating_schemes.sql)."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, Book, D, priced, quota, seconds  # noqa: E402


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


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


def test_overage_is_waived_on_trial(book: Book) -> None:
    quota(book, "sms", "0", "100")
    book.account("a", charge_by="plan", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("1.5"))
    book.batch(*((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}) for _ in range(3)))
    book.rate()
    assert [(x["charge"], x["waived"]) for x in book.lines("kind = 'overage'")] == [(1, 1), (1, D("0.5")), (1, 0)]


def test_overage_of_a_call_whose_corrected_end_is_after_the_trial_is_charged(book: Book) -> None:
    quota(book, "voice_minute", "1", "100")
    book.account("a", charge_by="plan", trial_ends_at=NOON + seconds(240), trial_allowance=D("5"))
    book.wallet("a", 10_000)
    first, second = book.session(account_id="a"), book.session(account_id="a")
    # 240 s are not before 240 s. The first minute is included; calls last two minutes at first.
    for s, start, end, due, used in ((first, 0, 120, 0, 1), (second, 60, 180, 0, 3), (second, 120, 240, 2, 1), (first, 130, 250, 3, 0), (second, 0, 120, 1, 2),
                                     (second, 0, 180, 1, 3), (second, 120, 420, 6, 0), (first, 0, 60, 5, 0), (second, 0, 180, 0, 3)):
        book.batch((s, "stt", {"audio_duration_ms": 1}))
        book.change(s, started=NOON + seconds(start), ended=NOON + seconds(end))
        book.rate()
        assert book.db.query("SELECT trial_used, (SELECT sum(waived) FROM billing_charges) FROM accounts") == [(used, used)], (start, end)
        assert book.balance("a") == 100 - due, (start, end)
    assert book.db.value("SELECT sum(charge) FROM billing_charges WHERE kind = 'overage'") == 3
    moved = book.lines("kind = 'overage' AND session_id = %s", second)[1:3]
    assert [(x["quantities"], x["charge"], x["waived"], x["reason"]) for x in moved] == [
        ({"quantity": -2, "overage": -2}, -2, -2, "duration corrected"), ({"quantity": 2, "overage": 2}, 2, 0, "duration corrected")]
    assert [x["occurred_at"] for x in moved] == [NOON + seconds(180), NOON + seconds(240)]
    book.check_rollup()
