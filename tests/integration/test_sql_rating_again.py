"""Rating once more, at once and interrupted: rate_unrated, rerate, explain_event, concurrent and repeated rate_next."""

from __future__ import annotations

import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database, wait_until  # noqa: E402
from rating import NOON, OTHER, Book, D, hours, quota  # noqa: E402
from schema import JOURNAL  # noqa: E402

DAY = (NOON - hours(12), NOON + hours(12))
RATE = "SELECT * FROM toll.rate_next(%s, 0, 1000)"


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


def rerate(book: Book, dry_run: bool = False) -> list[tuple[Any, ...]]:
    return book.db.query("SELECT * FROM toll.rerate(%s, %s, %s)", *DAY, dry_run)


def waiting(book: Book, whom: Any = None) -> int:
    """How many wait for this connection's locks, or for anybody's."""
    blocked = f"{whom.info.backend_pid} = ANY (pg_blocking_pids(pid))" if whom else "pg_blocking_pids(pid) <> '{}'"
    return book.db.value(f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {blocked}")


def begin(book: Book, statement: str, *args: Any) -> Any:
    """A connection that has done this and not committed it."""
    connection = book.db.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute(statement, args)
    return connection


def hold(book: Book, session: str) -> Any:
    return begin(book, "SELECT FROM toll.rated_sessions WHERE session_id = %s FOR UPDATE", session)


def end(connection: Any) -> None:
    connection.commit()
    connection.close()


def summed(book: Book, event: int) -> tuple[Any, ...]:
    return book.db.query("SELECT sum(cost), sum(charge), sum(waived) FROM billing_charges WHERE event_id = %s", event)[0]


# --- what had no price ---

def test_unrated_side_gets_a_line_once_there_is_a_price(book: Book) -> None:
    book.price("stt", "minutes", "1", unit=1)
    book.account("a")
    book.wallet("a", 1000)
    s = book.session(account_id="a")
    event = book.batch((s, "stt", {"audio_duration_ms": 60000}))[0]
    never = book.batch((s, "tts", {"char_count": 1}))[0]
    book.rate()
    assert book.db.query("SELECT sum(unrated_cost), sum(unrated_charge) FROM toll.usage_rollup") == [(1, 2)]
    assert book.db.value("SELECT toll.rate_unrated()") == 0
    number = book.price("stt", "minutes", "3", unit=1, side="charge")
    assert book.db.value("SELECT toll.rate_unrated()") == 1
    assert book.db.value("SELECT toll.rate_unrated()") == 0
    first, second = book.lines("event_id = %s", event)
    assert (first["cost"], first["charge"]) == (1, None)
    assert (second["cost"], second["charge"], second["charge_price_ids"], second["kind"], second["quantities"]) == (None, 3, [number], "usage", {})
    assert set(book.unrated()) == {(never, "cost"), (never, "charge")}
    assert book.balance("a") == 7
    assert book.db.query("SELECT sum(unrated_cost), sum(unrated_charge), sum(events) FROM toll.usage_rollup") == [(1, 1, 2)]
    book.check_rollup()


def test_both_sides_come_in_one_line_and_in_steps(book: Book) -> None:
    s = book.session(account_id="a")
    events = book.batch(*((s, "llm", {"input_tokens": n, "output_tokens": 0}) for n in range(1, 8)))
    book.rate()
    book.price("llm", "input", "1", unit=1, side="both")
    assert book.db.value("SELECT toll.rate_unrated()") == 7
    assert [len(book.lines("event_id = %s", event)) for event in events] == [2] * 7
    assert [summed(book, event)[:2] for event in events] == [(n, n) for n in range(1, 8)]
    assert book.unrated() == {}
    book.check_rollup()


def test_what_is_missing_is_told_anew(book: Book) -> None:
    event = book.batch((book.session(account_id="a"), "tts", {"char_count": 9}))[0]
    book.rate()
    book.price("tts", "audio_minutes", "1", unit=1)
    book.db.value("SELECT toll.rate_unrated()")
    assert book.unrated()[event, "cost"] == "tts: no audio_duration_ms"


def test_late_price_is_waived_on_trial(book: Book) -> None:
    book.account("a", trial_ends_at=NOON + hours(1), trial_allowance=D("5"))
    book.batch((book.session(account_id="a"), "llm", {"input_tokens": 8, "output_tokens": 0}))
    book.rate()
    book.price("llm", "input", "1", unit=1, side="both")
    book.db.value("SELECT toll.rate_unrated()")
    assert [(x["charge"], x["waived"]) for x in book.lines()] == [(None, 0), (8, 5)]


def test_late_price_found_in_rating_anew_is_waived_on_trial(book: Book) -> None:
    book.price("llm", "input", "1", unit=1)
    book.account("a", trial_ends_at=NOON + hours(1), trial_allowance=D("5"))
    book.wallet("a", 10_000)
    event = book.llm(book.session(account_id="a"), input_tokens=8, output_tokens=0)
    book.rate()
    book.price("llm", "input", "1", unit=1, side="charge")
    rerate(book)
    assert summed(book, event) == (8, 8, 5)
    assert book.balance("a") == 100 - 3
    assert rerate(book) == []
    assert book.db.value("SELECT trial_used FROM accounts") == 5
    book.check_rollup()


# --- what had a wrong one ---

def test_replaced_price_makes_adjusting_lines_once(book: Book) -> None:
    wrong = book.price("llm", "input", "2", unit=1, side="both")
    book.price("llm", "output", "1", unit=1, side="both")
    book.account("a")
    book.wallet("a", 100_000)
    s = book.session(account_id="a")
    changed, same = book.batch((s, "llm", {"provider": "p", "model": "m", "input_tokens": 10, "output_tokens": 1}),
                               (s, "llm", {"provider": "p", "model": "m", "input_tokens": 0, "output_tokens": 1}))
    book.rate()
    assert rerate(book) == []
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", wrong)
    # Without another price what was charged stays.
    assert rerate(book) == []
    right = book.price("llm", "input", "3", unit=1, side="charge", since=NOON - hours(1))
    shown = [("a", "llm", "p", "m", "USD", 1, 22, 22, 0, 22, 32, 10)]
    assert rerate(book, dry_run=True) == shown
    assert len(book.lines()) == 2
    assert rerate(book) == shown
    assert rerate(book) == []
    first, adjusting = book.lines("event_id = %s", changed)
    assert (adjusting["charge"], adjusting["cost"], adjusting["kind"], adjusting["reason"]) == (10, None, "adjustment", "rated anew")
    assert right in adjusting["charge_price_ids"]
    assert len(book.lines("event_id = %s", same)) == 1
    assert book.balance("a") == 1000 - 32
    book.check_rollup()
    # And down again: the wallet gets it back.
    book.db.execute("SELECT withdraw_price(%s, 'wrong again')", right)
    book.price("llm", "input", "0.5", unit=1, side="charge")
    rerate(book)
    assert summed(book, changed)[1] == 6
    assert book.balance("a") == 1000 - 7
    assert rerate(book) == []
    book.check_rollup()


def test_rerating_covers_what_occurred_in_its_time(book: Book) -> None:
    number = book.price("meter", "sms", "1", unit=1, side="charge")
    times = [DAY[0] - timedelta(microseconds=1), DAY[0], DAY[1] - timedelta(microseconds=1), DAY[1]]
    events = book.batch(*((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1"), "at": at}) for at in times))
    book.rate()
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("meter", "sms", "2", unit=1, side="charge")
    rerate(book)
    assert [summed(book, event)[1] for event in events] == [1, 2, 2, 1]
    with pytest.raises(psycopg2.Error, match="is not before"):
        book.db.query("SELECT toll.rerate(%s, %s, true)", DAY[1], DAY[0])


def test_rerating_rates_what_was_unrated(book: Book) -> None:
    event = book.llm(book.session(account_id="a"), input_tokens=5, output_tokens=0)
    book.rate()
    book.price("llm", "input", "0", unit=1, side="both")
    rerate(book)
    assert summed(book, event)[:2] == (0, 0)
    assert book.unrated() == {}
    assert book.db.query("SELECT sum(unrated_cost), sum(unrated_charge) FROM toll.usage_rollup") == [(0, 0)]
    assert rerate(book) == []
    book.check_rollup()


def test_price_in_another_currency_takes_back_the_first(book: Book) -> None:
    number = book.price("stt", "minutes", "2", unit=1)
    book.rate_of("EUR", "USD", "1.5")
    event = book.batch((book.session(account_id="a"), "stt", {"audio_duration_ms": 60000}))[0]
    book.rate()
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("stt", "minutes", "4", unit=1, currency="EUR")
    rerate(book)
    assert book.db.query("SELECT cost_currency, sum(cost_original), sum(cost) FROM billing_charges WHERE event_id = %s AND cost IS NOT NULL"
                         " GROUP BY 1 ORDER BY 1", event) == [("EUR", 4, 6), ("USD", 0, 0)]
    assert rerate(book) == []
    book.check_rollup()


def test_corrected_prices_are_waived_within_the_allowance(book: Book) -> None:
    book.account("a", trial_ends_at=NOON + hours(1), trial_allowance=D("14"))
    number = book.price("llm", "input", "1", unit=1, side="charge")
    s = book.session(account_id="a")
    whole, split, unwaived = book.batch(*((s, "llm", {"input_tokens": 10, "output_tokens": 0}) for _ in range(3)))
    book.rate()
    for price, expected, used in (("3", [(30, 10), (30, 4), (30, 0)], 14), ("0.3", [(3, 3), (3, 3), (3, 0)], 6)):
        book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
        number = book.price("llm", "input", price, unit=1, side="charge")
        rerate(book)
        assert [summed(book, event)[1:] for event in (whole, split, unwaived)] == expected
        assert rerate(book) == []
        assert book.db.value("SELECT trial_used FROM accounts") == used
    # What was given back is for what is rated from now on.
    later = book.llm(s, input_tokens=30, output_tokens=0)
    book.rate()
    assert summed(book, later)[1:] == (9, 8)


def test_tariff_is_rated_anew(book: Book) -> None:
    number = book.price("tariff", "minutes", "5", unit=1, side="charge")
    for name, scheme in (("m", "minutes"), ("p", "prepaid_minutes")):
        book.account(name, charge_by=scheme)
        s = book.session(account_id=name)
        book.batch((s, "stt", {"audio_duration_ms": 5}))
        book.change(s, ended=NOON + timedelta(seconds=61))
    book.wallet("m", 10_000)
    book.wallet("p", 10, "minutes")
    book.rate()
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("tariff", "minutes", "4", unit=1, side="charge")
    assert [row[-1] for row in rerate(book)] == [-2, -2]
    assert rerate(book) == []
    assert (book.balance("m"), book.balance("p", "minutes")) == (100 - 8, 10 - 2)
    assert book.db.query("SELECT billed_amount FROM toll.rated_sessions") == [(8,), (8,)]
    book.check_rollup()


def test_tariff_is_rated_anew_while_a_call_is_corrected(book: Book) -> None:
    number = book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("a", charge_by="minutes")
    book.wallet("a", 10_000)
    s = book.session(account_id="a")
    book.batch((s, "stt", {"audio_duration_ms": 1}))
    book.change(s, ended=NOON + timedelta(minutes=2))
    book.rate()
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("tariff", "minutes", "4", unit=1, side="charge")
    book.change(s, ended=NOON + timedelta(minutes=3))
    correcting = begin(book, RATE, str(JOURNAL))
    thread = threading.Thread(target=rerate, args=(book,))
    thread.start()
    wait_until(lambda: waiting(book, correcting) == 1, 20, "rating anew to wait for the correction")
    end(correcting)
    thread.join()
    assert book.db.query("SELECT billed_minutes, billed_amount FROM toll.rated_sessions") == [(3, 12)]
    assert book.db.value("SELECT sum(charge) FROM billing_charges WHERE component = 'tariff'") == 12
    assert book.balance("a") == 100 - 12
    book.check_rollup()


def test_call_whose_end_moves_into_the_time_is_left_to_its_correction(book: Book) -> None:
    """It was not there to be locked: what it was billed before would be made up for twice, by rating anew and by its next correction."""
    number = book.price("tariff", "minutes", "5", unit=1, side="charge")
    book.account("a", charge_by="minutes")
    book.wallet("a", 10_000)
    within = book.session(account_id="a")
    moving = book.session(DAY[1] - timedelta(minutes=5), account_id="a")
    book.batch(*((s, "stt", {"audio_duration_ms": 1}) for s in (within, moving)))
    book.change(within, ended=NOON + timedelta(minutes=1))
    book.change(moving, ended=DAY[1] + timedelta(minutes=1))
    book.rate()
    book.change(moving, ended=DAY[1] - timedelta(minutes=1))
    first = begin(book, RATE, str(JOURNAL))  # by the old price
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("tariff", "minutes", "4", unit=1, side="charge")
    held = hold(book, within)
    thread = threading.Thread(target=rerate, args=(book,))
    thread.start()
    wait_until(lambda: waiting(book, held) == 1, 20, "rating anew to lock the calls that it found")
    end(first)
    book.change(moving, ended=DAY[1] - timedelta(minutes=2))
    second = begin(book, RATE, str(JOURNAL))
    end(held)
    wait_until(lambda: waiting(book, second) == 1 or not thread.is_alive(), 20, "rating anew to have computed")
    end(second)
    thread.join()
    assert dict(book.db.query("SELECT session_id::text, billed_amount FROM toll.rated_sessions")) == {within: 4, moving: 12}
    assert dict(book.db.query("SELECT session_id::text, sum(charge) FROM billing_charges WHERE component = 'tariff' GROUP BY 1")) == {within: 4, moving: 12}
    assert book.balance("a") == 100 - 16
    assert rerate(book) == []
    book.check_rollup()


def test_dry_run_holds_nobody_up(book: Book) -> None:
    number = book.price("llm", "input", "1", unit=1)
    nameless = book.session()
    book.llm(nameless, input_tokens=5, output_tokens=0)
    book.rate()
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("llm", "input", "3", unit=1)
    dry = begin(book, "SELECT * FROM toll.rerate(%s, %s, true)", *DAY)
    assert book.db.query("SELECT DISTINCT locktype, mode FROM pg_locks WHERE pid = %s AND locktype <> 'virtualxid'", dry.info.backend_pid) == [
        ("relation", "AccessShareLock")]
    book.change(nameless, account_id="a")
    assert book.db.query("SET lock_timeout = '10s'; SELECT 1 FROM toll.rated_sessions WHERE session_id = %s FOR UPDATE", nameless) == [(1,)]
    book.rate()
    assert book.db.query("SELECT sum(cost) FROM billing_charges WHERE account_id = 'a'") == [(15,)]  # it is found, at the price of now
    end(dry)
    assert rerate(book, dry_run=True) == []


def test_account_is_found_while_usage_is_rated_anew(book: Book) -> None:
    """Of calls that began after the time, by their clocks, or were first seen when it had begun: what changes is never left without an account."""
    number = book.price("llm", "input", "1", unit=1)
    book.price("tariff", "minutes", "1", unit=1, side="charge")
    book.account("m", charge_by="minutes")
    ended, nameless, after = book.session(account_id="m"), book.session(), book.session(DAY[1])
    book.batch((ended, "stt", {"audio_duration_ms": 1}))
    book.change(ended, ended=NOON + timedelta(minutes=1))
    events = [book.llm(after, input_tokens=10, output_tokens=0)]
    book.rate()
    held = hold(book, nameless)
    again = threading.Thread(target=rerate, args=(book,))
    again.start()
    wait_until(lambda: waiting(book, held) == 1, 20, "rating anew to lock the calls without an account")
    new = book.session()
    events.append(book.llm(new, input_tokens=100, output_tokens=0))
    book.rate()
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("llm", "input", "3", unit=1)
    last = hold(book, ended)
    end(held)
    wait_until(lambda: waiting(book, last) == 1, 20, "rating anew to have computed what usage costs")
    for s in (after, new):
        book.change(s, account_id="a")
    naming = threading.Thread(target=book.rate)
    naming.start()
    wait_until(lambda: waiting(book) == 2 or not naming.is_alive(), 20, "accounts to be found, or to wait for rating anew")
    end(last)
    for thread in (again, naming):
        thread.join()
    for event, cost in zip(events, (30, 300)):
        assert book.db.query("SELECT coalesce(account_id, ''), sum(cost) FROM billing_charges WHERE event_id = %s GROUP BY 1 ORDER BY 1", event) == [
            ("", 0), ("a", cost)]
    assert rerate(book) == []
    book.check_rollup()


def test_adjustment_of_a_closed_month_is_booked_after_it(book: Book) -> None:
    number = book.price("meter", "sms", "1", unit=1, side="charge")
    event = book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}))[0]
    book.rate()
    book.db.execute("UPDATE accounts SET closed_until = %s", NOON + hours(1))
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", number)
    book.price("meter", "sms", "2", unit=1, side="charge")
    rerate(book)
    first, second = book.lines("event_id = %s", event)
    assert first["booked_at"] == second["occurred_at"] == NOON
    assert second["booked_at"] >= NOON + hours(1)


# --- explain ---

def test_explanation_names_prices_sums_and_lines(book: Book) -> None:
    far = book.price("llm", "input", "7")
    near = book.price("llm", "input", "2.5", provider="openai")
    book.price("llm", "output", "10")
    event = book.llm(book.session(account_id="a"), input_tokens=1000, cached_input_tokens=200, output_tokens=3)
    book.rate()
    text = [row[0] for row in book.db.query("SELECT toll.explain_event(%s)", event)]
    assert any(line.startswith(f"price {near}: cost of input, default openai/*/*") and line.endswith(": applies") for line in text)
    assert any(line.startswith(f"price {far}:") and line.endswith("another is nearer") for line in text)
    assert ("cost: 800 input * 0.0000025 + 200 cached_input * 0.0000025 + 3 output * 0.00001 = 0.002530000 USD, rounded once, half to even, to"
            " nine decimals") in text
    assert "charge: unrated: llm: no price" in text
    assert any(line.startswith("line ") and "cost 0.002530000, charge none" in line for line in text)
    assert any(line.startswith("unrated: charge") for line in text)
    with pytest.raises(psycopg2.Error, match="there is no event 999999"):
        book.db.query("SELECT toll.explain_event(999999)")


# --- at once, and interrupted ---

def test_two_journals_are_rated_at_once(book: Book) -> None:
    book.price("llm", "input", "1", unit=1, side="both")
    book.account("t", trial_ends_at=NOON + hours(1), trial_allowance=D("50"))
    book.account("w")
    book.wallet("w", 1_000_000)
    sessions = [book.session(account_id=name) for name in ("t", "w")] + [book.session()]
    for journal in (JOURNAL, OTHER):
        for _ in range(12):
            book.batch(*((s, "llm", {"input_tokens": 1, "output_tokens": 0}) for s in sessions * 3), journal=journal)
    retried: list[str] = []

    def work(journal: uuid.UUID) -> None:
        connection = book.db.connect()
        while True:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT more FROM toll.rate_next(%s, 0, 5)", (str(journal),))
                    if not cursor.fetchone()[0]:
                        break
            except (psycopg2.errors.DeadlockDetected, psycopg2.errors.SerializationFailure) as error:
                retried.append(str(error))
        connection.close()

    threads = [threading.Thread(target=work, args=(journal,)) for journal in (JOURNAL, OTHER) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert len(book.lines()) == 2 * 12 * 9
    assert book.db.query("SELECT count(*), count(DISTINCT event_id) FROM billing_charges") == [(216, 216)]
    assert book.db.query("SELECT sum(charge), sum(waived) FROM billing_charges WHERE account_id = 't'") == [(72, 50)]
    assert book.balance("w") == 10_000 - 72
    assert book.db.query("SELECT sum(events) FROM toll.rating_progress") == [(216,)]
    # The one without an account is resolved while both write for it.
    book.change(sessions[2], account_id="w")
    book.rate()
    assert book.balance("w") == 10_000 - 144
    book.check_rollup()


def test_account_is_found_while_another_writes_for_the_session(book: Book) -> None:
    """The other journal's events either are moved, or are written with the account: none stays behind."""
    book.price("llm", "input", "1", unit=1, side="both")
    s = book.session()
    book.rate()
    slow = book.db.connect()
    slow.autocommit = False
    book.batch((s, "llm", {"input_tokens": 5, "output_tokens": 0}), journal=OTHER)
    with slow.cursor() as cursor:
        cursor.execute("SELECT * FROM toll.rate_next(%s, 0, 100)", (str(OTHER),))
    book.change(s, account_id="a")
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(book.rate()))
    thread.start()
    thread.join(0.5)
    assert not done  # it waits for the session
    slow.commit()
    thread.join(60)
    slow.close()
    assert book.db.query("SELECT coalesce(account_id, ''), sum(cost), sum(charge) FROM billing_charges GROUP BY 1 ORDER BY 1") == [
        ("", 0, None), ("a", 5, 5)]
    book.check_rollup()


def test_first_reports_of_a_meter_are_noted_without_deadlock(book: Book) -> None:
    """Of the accounts that both note, one has lines of its plan in the first transaction and none in the second."""
    quota(book, "api_call", "0", "1")
    for name in "ab":
        book.account(name, charge_by="plan")
    s = book.session(account_id="b")
    book.batch((s, "llm", {"input_tokens": 1, "output_tokens": 0}))
    book.rate()
    for name in "ab":
        book.db.execute("SELECT set_scheme(%s, 'usage')", name)
    reports = [(None, "usage", {"account": name, "meter": "api_call", "quantity": D("1")}) for name in "ab"]
    book.batch((s, "usage", {"meter": "api_call", "quantity": D("1")}), reports[0])
    book.batch(*reports, journal=OTHER)
    held = begin(book, "SELECT FROM toll.plan_usage WHERE account_id = 'b' FOR UPDATE")
    failed: list[Exception] = []

    def rate(journal: uuid.UUID) -> None:
        try:
            book.rate(journal)
        except psycopg2.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=rate, args=(journal,)) for journal in (JOURNAL, OTHER)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda: waiting(book) == number, 20, "rating to wait")
    end(held)
    for thread in threads:
        thread.join()
    assert failed == []
    assert book.db.query("SELECT reported_meters FROM accounts ORDER BY account_id") == [(["api_call"],), (["api_call"],)]
    assert book.db.query("SELECT count(*) FROM billing_charges WHERE component = 'meter' AND kind = 'usage'") == [(4,)]
    book.check_rollup()


def test_interrupted_rating_leaves_nothing_and_is_repeated(book: Book) -> None:
    book.price("llm", "input", "1", unit=1, side="both")
    book.account("a")
    book.wallet("a", 10_000)
    s = book.session(account_id="a")
    for n in range(4):
        book.batch((s, "llm", {"input_tokens": 1, "output_tokens": 0}))
        connection = book.db.connect()
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM toll.rate_next(%s, 0, 100)", (str(JOURNAL),))
        if n % 2:
            connection.rollback()
            connection.close()
        else:
            book.db.terminate_backends()
        assert book.lines() == [] if n == 0 else len(book.lines()) == n
        book.rate()
        assert len(book.lines()) == n + 1
        assert book.balance("a") == 100 - n - 1
    book.check_rollup()


def test_rating_waits_for_nobody_elses_period_but_its_closing(book: Book) -> None:
    """A month is closed only when what is being rated is done."""
    book.account("a")
    rating = book.db.connect()
    rating.autocommit = False
    month = book.db.value("SELECT (date_trunc('month', now()) - interval '2 months')::date")
    book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}),
               at=book.db.value("SELECT date_trunc('month', now()) - interval '40 days'"))
    with rating.cursor() as cursor:
        cursor.execute("SELECT * FROM toll.rate_next(%s, 0, 100)", (str(JOURNAL),))
    closing = threading.Thread(target=book.db.value, args=("SELECT toll.close_period('a', %s)", month))
    closing.start()
    closing.join(0.5)
    assert closing.is_alive()
    rating.commit()
    closing.join(60)
    rating.close()
    assert [x["booked_at"] == x["occurred_at"] for x in book.lines()] == [True]


def test_rating_refuses_a_snapshot_from_before_its_locks(book: Book) -> None:
    connection = book.db.connect()
    connection.autocommit = False
    connection.set_session(isolation_level="REPEATABLE READ")
    with connection.cursor() as cursor, pytest.raises(psycopg2.Error, match="needs READ COMMITTED"):
        cursor.execute("SELECT * FROM toll.rate_next(%s, 0, 100)", (str(JOURNAL),))
    connection.close()


def test_rating_needs_no_more_than_its_role(book: Book) -> None:
    book.price("llm", "input", "1", unit=1, side="both")
    book.account("a", charge_by="usage", trial_ends_at=NOON + hours(1), trial_allowance=D("2"))
    book.wallet("a", 1000)
    s = book.session(account_id="a")
    book.llm(s, input_tokens=3, output_tokens=0)
    book.change(s, ended=NOON + hours(1))
    name = f"rater_{uuid.uuid4().hex[:8]}"
    book.db.execute(f"CREATE ROLE {name} LOGIN IN ROLE toll_rating")
    try:
        connection = book.db.connect(name)
        with connection.cursor() as cursor:
            cursor.execute("SELECT lines FROM toll.rate_next(%s, 0, 100)", (str(JOURNAL),))
            assert cursor.fetchone() == (2,)
            for refused in ("SELECT toll.rate_unrated()", "SELECT toll.rerate(now(), now() + '1 day', true)", "DELETE FROM billing_charges",
                            "SELECT toll.book_lines('{}', '{}')", "SELECT * FROM accounts"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(refused)
        connection.close()
    finally:
        book.db.execute(f"DROP ROLE {name}")
    assert book.balance("a") == 9
