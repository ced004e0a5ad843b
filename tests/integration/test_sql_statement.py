"""account_statement: what is due is what wallets are debited, in money or in minutes, whatever scheme charges."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, UTC, Book, D  # noqa: E402
from schema import this_month  # noqa: E402


@pytest.fixture
def book(db: Database) -> Book:
    made = Book(db)
    for dimension in ("input", "output"):
        made.price("llm", dimension, "1", unit=1, side="both")
    made.price("tts", "characters", "1", unit=1, side="both")
    return made


def call(book: Book, account: str, seconds: float, started: datetime = NOON) -> str:
    session = book.session(started, user_id=account)
    book.batch((session, "tts", {"char_count": 1}), at=started)
    end(book, session, started + timedelta(seconds=seconds))
    return session


def end(book: Book, session: str, at: datetime) -> None:
    book.change(session, ended=at)
    book.rate()


def statement(book: Book, account: str, since: str = "2020-01-01", until: str = "2100-01-01") -> list[dict[str, Any]]:
    columns = ("record", "id", "at", "occurred_at", "session_id", "kind", "component", "charge", "waived", "due", "amount", "balance_after", "currency", "note")
    return [dict(zip(columns, row)) for row in book.db.query(
        f"SELECT {', '.join(columns)} FROM account_statement(%s, %s, %s)", account, since, until)]


def lines(book: Book, account: str, component: str = "tariff") -> list[tuple[Any, ...]]:
    """In the order in which they were written."""
    rows = sorted((row for row in statement(book, account) if row["component"] == component), key=lambda row: int(row["id"]))
    return [(row["charge"], row["waived"], row["due"], row["currency"], row["note"]) for row in rows]


def check_due(book: Book, account: str) -> None:
    """In each currency: what is due is what rating debited."""
    rows = statement(book, account)
    for currency in {row["currency"] for row in rows}:
        due = sum(row["due"] or 0 for row in rows if row["record"] == "line" and row["currency"] == currency)
        debited = -sum(row["amount"] for row in rows if row["record"] != "line" and row["currency"] == currency and row["kind"] != "purchase")
        assert due == debited, (currency, due, debited)


def test_usage_is_due_without_what_a_trial_waives(book: Book) -> None:
    book.account("a", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("0.4"))
    book.wallet("a", 1000)
    call(book, "a", 60)
    assert lines(book, "a", "tts") == [(1, D("0.4"), D("0.6"), "USD", None)]
    check_due(book, "a")


def test_minutes_by_tariff_are_due_in_money(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("m", charge_by="minutes")
    book.wallet("m", 10_000)
    session = call(book, "m", 90)
    end(book, session, NOON + timedelta(seconds=30))
    assert lines(book, "m") == [(10, 0, 10, "USD", None), (-5, 0, -5, "USD", "duration corrected")]
    assert lines(book, "m", "tts") == [(0, 0, 0, "USD", "minutes")]
    check_due(book, "m")


def test_overage_of_a_plan_is_due(book: Book) -> None:
    book.db.execute("SELECT set_quota('basic', 'api_call', 1, 100)")
    book.account("p", charge_by="plan")
    book.wallet("p", 10_000)
    session = book.session(user_id="p")
    for _ in range(2):
        book.llm(session, input_tokens=1, output_tokens=0)
    book.rate()
    assert sorted(lines(book, "p", "llm") + lines(book, "p", "meter")) == [(0, 0, 0, "USD", "plan")] * 2 + [(1, 0, 1, "USD", None)]
    check_due(book, "p")


def test_prepaid_minutes_are_due_in_minutes_and_no_money_is(book: Book) -> None:
    number = book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("p", charge_by="prepaid_minutes")
    book.wallet("p", 100, "minutes")
    session = call(book, "p", 90)
    end(book, session, NOON + timedelta(seconds=400))
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("tariff", "minutes", "4", unit=1, side="charge")
    book.db.value("SELECT count(*) FROM toll.rerate('2020-01-01', '2100-01-01', false)")
    end(book, session, NOON + timedelta(seconds=60))
    assert lines(book, "p") == [(2, 0, 2, "minutes", None), (5, 0, 5, "minutes", "duration corrected"), (0, 0, 0, "minutes", "rated anew"),
                                (-6, 0, -6, "minutes", "duration corrected")]
    rows = statement(book, "p")
    assert {row["due"] for row in rows if row["record"] == "line" and row["currency"] != "minutes"} == {0}
    assert [(row["kind"], row["amount"], row["balance_after"], row["currency"]) for row in rows if row["record"] == "minutes"] == [
        ("purchase", 100, 100, "minutes"), ("usage", -2, 98, "minutes"), ("usage", -5, 93, "minutes"), ("adjustment", 6, 99, "minutes")]
    assert [row for row in rows if row["record"] == "money"] == []
    check_due(book, "p")


def test_prepaid_minutes_without_a_wallet_are_still_minutes(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("p", charge_by="prepaid_minutes")
    call(book, "p", 90)
    assert lines(book, "p") == [(2, 0, 2, "minutes", None)]


def test_prepaid_minutes_are_waived_as_minutes(book: Book) -> None:
    """The line that uses up the allowance is split, before and after a correction; a price that comes late gives back."""
    number = book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("p", charge_by="prepaid_minutes", trial_ends_at=NOON + timedelta(days=1), trial_allowance=D("25"))
    book.wallet("p", 100, "minutes")
    whole = call(book, "p", 60)
    split = call(book, "p", 300)
    end(book, split, NOON + timedelta(seconds=360))
    assert lines(book, "p") == [(1, 1, 0, "minutes", None), (5, 4, 1, "minutes", None), (1, 0, 1, "minutes", "duration corrected")]
    end(book, whole, NOON + timedelta(seconds=120))
    assert lines(book, "p")[-1] == (1, 0, 1, "minutes", "duration corrected")  # the allowance is used up
    check_due(book, "p")
    book.db.execute("SELECT end_price(%s, %s)", number, NOON + timedelta(seconds=500))
    late = call(book, "p", 600)
    assert lines(book, "p")[-1] == (10, 0, 10, "minutes", None)
    book.db.execute("UPDATE accounts SET trial_allowance = trial_used + 7")
    book.price("tariff", "minutes", "2", unit=1, side="charge", since=NOON + timedelta(seconds=500))
    book.db.value("SELECT toll.rate_unrated()")
    assert lines(book, "p")[-1] == (0, D("3.5"), D("-3.5"), "minutes", None)  # 7 of 20
    end(book, late, NOON + timedelta(seconds=601))
    assert lines(book, "p")[-1] == (1, 0, 1, "minutes", "duration corrected")  # 7 of 22 are 3.5 of 11
    check_due(book, "p")


def test_late_minutes_of_a_closed_month_are_in_the_next_statement(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge", since=this_month(-3))
    book.account("p", charge_by="prepaid_minutes")
    book.wallet("p", 100, "minutes")
    month_end = this_month(-1).replace(hour=0)
    started = month_end - timedelta(hours=3)
    session = call(book, "p", 61, started)
    book.db.value("SELECT toll.close_period('p', %s)", this_month(-2).date())
    end(book, session, started + timedelta(seconds=200))
    month = this_month(-2).date().isoformat(), month_end.isoformat()
    later = month_end.isoformat(), (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert [(row["due"], row["occurred_at"]) for row in statement(book, "p", *month) if row["component"] == "tariff"] == [
        (2, started + timedelta(seconds=61))]
    assert [(row["due"], row["occurred_at"], row["currency"]) for row in statement(book, "p", *later) if row["component"] == "tariff"] == [
        (2, started + timedelta(seconds=200), "minutes")]
    check_due(book, "p")


def test_calls_keep_their_scheme_when_the_account_changes_it(book: Book) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("p", charge_by="prepaid_minutes")
    book.wallet("p", 100, "minutes")
    book.db.value("SELECT create_wallet('p', 'USD')")
    first = book.session(user_id="p")
    book.rate()
    book.db.execute("SELECT set_scheme('p', 'minutes')")
    call(book, "p", 60)
    book.batch((first, "tts", {"char_count": 1}))
    end(book, first, NOON + timedelta(seconds=60))
    assert sorted(lines(book, "p"), key=str) == [(1, 0, 1, "minutes", None), (5, 0, 5, "USD", None)]
    check_due(book, "p")


@pytest.mark.parametrize("arguments, said", [
    (("x", "2026-01-01", "2026-02-01"), "there is no account x"), ((None, "2026-01-01", "2026-02-01"), "there is no account NULL"),
    (("a", "2026-02-01", "2026-01-01"), "is after to"), (("a", None, "2026-01-01"), "say from when to when")])
def test_statement_says_what_is_wrong(book: Book, arguments: tuple[str | None, ...], said: str) -> None:
    book.account("a")
    with pytest.raises(psycopg2.Error, match=said):
        book.db.query("SELECT * FROM account_statement(%s, %s, %s)", *arguments)


@pytest.mark.parametrize("role", ["toll_reader", "toll_billing"])
def test_statement_is_for_who_reads_and_who_bills(book: Book, role: str) -> None:
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("p", charge_by="prepaid_minutes")
    call(book, "p", 60)
    connection = book.db.connect()
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {role}")
        cursor.execute("SELECT sum(due) FROM account_statement('p', '2020-01-01', '2100-01-01') WHERE currency = 'minutes'")
        assert cursor.fetchone() == (1,)
    connection.close()
