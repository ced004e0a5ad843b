"""Calls of one account on trial, corrected by several connections at once, beside debits: what is waived is what the trial has used, and money adds up."""

from __future__ import annotations

import random
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database, wait_until  # noqa: E402
from rating import NOON, OTHER, Book, D, quota, seconds  # noqa: E402
from schema import JOURNAL  # noqa: E402

ALLOWANCE = 40
PLACES = [JOURNAL, OTHER, *(uuid.UUID(int=number) for number in range(10, 14))]
EACH = 15


@pytest.fixture
def book(db: Database) -> Book:
    """A minute costs 5, by tariff or as overage."""
    book = Book(db)
    book.price("tariff", "minutes", "5", unit=1, side="charge")
    quota(book, "voice_minute", "0", "500")
    return book


def begin(book: Book, scheme: str, count: int) -> list[str]:
    """Calls of an account with a wallet and a trial, voiced and met."""
    book.account("a", charge_by=scheme, trial_ends_at=NOON + timedelta(hours=1), trial_allowance=D(str(ALLOWANCE)))
    book.wallet("a", 100_000)
    calls = [book.session(user_id="a") for _ in range(count)]
    book.batch(*((call, "tts", {"char_count": 1}) for call in calls))
    book.rate()
    return calls


def end(cursor: Any, place: uuid.UUID, call: str, after: int) -> None:
    """It ends then, or is found to have; and this place's rating comes to it."""
    cursor.execute("UPDATE billing_sessions SET ended_at = %s, finish_reason = 'end' WHERE session_id = %s", (NOON + seconds(after), call))
    cursor.connection.commit()  # as a batch of its own
    cursor.execute("INSERT INTO toll.session_queue VALUES (%s, 0, %s)", (str(place), call))
    cursor.connection.commit()
    cursor.execute("SELECT lines FROM toll.rate_next(%s, 0, 1000)", (str(place),))


def debit(cursor: Any, _place: uuid.UUID, _call: str, amount: int) -> None:
    cursor.execute("SELECT toll.debit(nextval('toll.rated_batch_seq'), ARRAY[('a', NULL, 'USD', %s)::toll.session_debit])", (amount,))


def check(book: Book, debited: int = 0) -> None:
    waived, due = book.db.query("SELECT sum(waived), sum(charge - waived) FROM billing_charges")[0]
    assert book.db.value("SELECT trial_used FROM accounts") == waived <= ALLOWANCE
    assert book.balance("a") == 1000 - due - debited
    wrong = book.db.query(
        "SELECT r.session_id, r.duration_ms, b.ended_at, sum(c.charge), sum(c.waived) FROM toll.rated_sessions AS r"
        " JOIN billing_sessions AS b USING (session_id) JOIN billing_charges AS c USING (session_id) WHERE c.kind IN ('tariff', 'overage')"
        " GROUP BY 1, 2, 3 HAVING r.duration_ms <> extract(epoch FROM b.ended_at - min(b.started_at)) * 1000"
        " OR sum(c.charge) <> r.duration_ms / 60000 * 5 OR sum(c.waived) NOT BETWEEN 0 AND sum(c.charge)")
    assert wrong == []
    book.check_rollup()


def connect(book: Book) -> Any:
    connection = book.db.connect()
    connection.autocommit = False
    return connection


@pytest.mark.parametrize("scheme", ["minutes", "plan"])
@pytest.mark.parametrize("first, second", [((0, 60), (1, 60)), ((0, 60), (0, 120)), ((0, 60), (2, 300)), ((2, 300), (0, 60)), ((0, 60), None), (None, (0, 60))],
                         ids=["two give back", "one call twice", "back and more", "more and back", "back and debit", "debit and back"])
def test_two_at_once_take_turns(book: Book, scheme: str, first: tuple[int, int] | None, second: tuple[int, int] | None) -> None:
    calls = begin(book, scheme, 3)
    connections = [connect(book), connect(book)]
    cursors = [each.cursor() for each in connections]
    for call, after in ((0, 240), (1, 240), (2, 60)):  # 20 and 20 are waived, then nothing of 5
        end(cursors[0], JOURNAL, calls[call], after)
        connections[0].commit()
    check(book)
    todo: list[Callable[[], None]] = [
        lambda each=each, cursor=cursor, place=place: end(cursor, place, calls[each[0]], each[1]) if each else debit(cursor, place, "", 7)  # type: ignore[misc]
        for each, cursor, place in zip((first, second), cursors, (JOURNAL, OTHER))]
    todo[0]()  # and does not commit yet
    errors: list[BaseException] = []

    def other() -> None:
        try:
            todo[1]()
            connections[1].commit()
        except BaseException as error:
            errors.append(error)
    thread = threading.Thread(target=other)
    thread.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    wait_until(lambda: book.db.value(waiting) == 1, 20, "the second to wait for the first")
    connections[0].commit()
    thread.join()
    assert errors == []
    for each in connections:
        each.close()
    check(book, 7 if first is None or second is None else 0)


@pytest.mark.parametrize("scheme", ["minutes", "plan"])
def test_corrections_beside_debits_all_count_once(book: Book, scheme: str) -> None:
    calls = begin(book, scheme, 8)
    debited, errors = [0] * len(PLACES), []

    def work(number: int) -> None:
        dice = random.Random(number)
        connection = connect(book)
        try:
            for _ in range(EACH):
                call, minutes, what = dice.choice(calls), dice.randrange(1, 8), dice.choice((end, end, end, debit))
                with connection.cursor() as cursor:
                    what(cursor, PLACES[number], call, minutes if what is debit else minutes * 60)
                connection.commit()
                debited[number] += minutes * (what is debit)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(PLACES))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []  # deadlocks among them
    print(f"{len(PLACES) * EACH} corrections and debits, {book.db.value('SELECT sum(waived) FROM billing_charges')} waived")
    check(book, sum(debited))
