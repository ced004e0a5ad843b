"""toll.claim_journal(): who moves a journal's watermark, and how two copies of a journal find out about each other."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402

JOURNAL = str(uuid.uuid4())
A, B, C = (str(uuid.uuid4()) for _ in range(3))


@pytest.fixture
def journals(db: Database) -> Database:
    db.execute("INSERT INTO toll.journals (journal_id, writer, lsn) VALUES (%s, 0, 100)", JOURNAL)
    return db


def claim(database: Database, last: str | None, this: str) -> tuple[int, int | None]:
    return database.query("SELECT lsn, taken_from FROM toll.claim_journal(%s, 0, 1, %s, %s)", JOURNAL, last, this)[0]


def move(database: Database, run: str, lsn: int) -> bool:
    return bool(database.query("UPDATE toll.journals SET lsn = %s WHERE journal_id = %s AND run = %s RETURNING 1", lsn, JOURNAL, run))


def test_runs_follow_each_other(journals: Database) -> None:
    assert claim(journals, None, A) == (100, None)
    assert move(journals, A, 200)
    assert claim(journals, A, A) == (200, None), "the same run, connected again"
    assert claim(journals, A, B) == (200, None)
    assert not move(journals, A, 300) and move(journals, B, 300)
    assert journals.query("SELECT run::text, lsn FROM toll.journal_runs") == [(A, 200)]


def test_run_that_was_overtaken_learns_how_far_it_had_come(journals: Database) -> None:
    claim(journals, None, A)
    move(journals, A, 150)
    claim(journals, A, B)
    assert claim(journals, A, A) == (150, None), "nothing has been stored since: it takes over again"
    assert claim(journals, B, B) == (150, None)
    move(journals, B, 170)
    assert claim(journals, A, C) == (170, 150)
    assert move(journals, B, 180), "the other goes on undisturbed"


def test_run_that_crashed_before_it_was_noted_counts_for_nothing(journals: Database) -> None:
    claim(journals, None, A)
    move(journals, A, 150)
    claim(journals, A, B)
    assert claim(journals, A, C) == (150, None)


def test_older_copy_of_the_database_is_no_other_user(journals: Database) -> None:
    """It knows an earlier run, or none, and a lower watermark: that is replayed."""
    claim(journals, None, A)
    assert claim(journals, B, C) == (100, None)
    journals.execute("UPDATE toll.journals SET run = NULL")
    assert claim(journals, C, C) == (100, None)


def test_no_row_is_no_claim(journals: Database) -> None:
    assert journals.query("SELECT * FROM toll.claim_journal(%s, 0, 1, NULL, %s)", str(uuid.uuid4()), A) == []


# --- several writers ---

def register(database: Database, *lsns: int) -> str:
    journal = str(uuid.uuid4())
    database.execute("SELECT toll.register_journal(%s, %s::bigint[], 'host', '1')", journal, list(lsns))
    return journal


def writers(database: Database, journal: str) -> list[tuple[int, int]]:
    return database.query("SELECT writer, lsn FROM toll.journals WHERE journal_id = %s ORDER BY writer", journal)


def share(database: Database, journal: str, run: str, lsn: int, old: int, new: int) -> bool:
    return bool(database.value("SELECT toll.share_journal(%s, %s, %s, %s, %s)", journal, run, lsn, old, new))


def test_all_writers_are_registered_once(journals: Database) -> None:
    journal = register(journals, 10, 20, 30)
    journals.execute("SELECT toll.register_journal(%s, '{1,2}', 'host', '1')", journal)
    assert writers(journals, journal) == [(0, 10), (1, 20), (2, 30)]


def test_another_number_of_writers_changes_nothing(journals: Database) -> None:
    journal = register(journals, 10, 20)
    ask = "SELECT * FROM toll.claim_journal(%s, %s, %s, NULL, %s)"
    assert journals.query(ask, journal, 1, 3, A) == [(20, None, 2)] and journals.query(ask, journal, 2, 3, A) == [(None, None, 2)]
    assert journals.query("SELECT run FROM toll.journals WHERE journal_id = %s AND run IS NOT NULL", journal) == []
    assert journals.query(ask, journal, 1, 2, A) == [(20, None, 2)]


@pytest.mark.parametrize("lsn, run, old", [(8, A, 2), (7, B, 2), (7, A, 1), (7, A, 3)])
def test_number_changes_only_where_all_stand(lsn: int, run: str, old: int, journals: Database) -> None:
    journal = register(journals, 7, 7)
    journals.query("SELECT * FROM toll.claim_journal(%s, 0, 2, NULL, %s)", journal, A)
    assert not share(journals, journal, run, lsn, old, 4) and writers(journals, journal) == [(0, 7), (1, 7)]
    assert share(journals, journal, A, 7, 2, 4) and writers(journals, journal) == [(n, 7) for n in range(4)]
    assert share(journals, journal, A, 7, 4, 1) and writers(journals, journal) == [(0, 7)]
    assert journals.query("SELECT writers, from_lsn FROM toll.journal_shares ORDER BY changed_at") == [(4, 7), (1, 7)]


def test_live_sessions_of_a_writer_that_goes_get_another_owner(journals: Database) -> None:
    journal = register(journals, 7, 7)
    journals.query("SELECT * FROM toll.claim_journal(%s, 0, 2, NULL, %s)", journal, A)
    journals.execute("INSERT INTO billing_sessions (started_at, owner_journal, owner_writer) VALUES (now(), %s, 0), (now(), %s, 1)",
                     journal, journal)
    journals.execute("INSERT INTO toll.open_sessions SELECT session_id FROM billing_sessions")
    assert share(journals, journal, A, 7, 2, 1)
    assert journals.query("SELECT owner_writer FROM billing_sessions") == [(0,), (0,)]


def test_batches_around_a_change_are_right(journals: Database) -> None:
    """A writer's ranges follow one another, but for the time when it was not there."""
    journal = register(journals, 0, 0)
    journals.query("SELECT * FROM toll.claim_journal(%s, 0, 2, NULL, %s)", journal, A)
    insert = ("INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events,"
              " transcripts) VALUES (nextval('toll.batch_id_seq'), %s, %s, %s, %s, 0, 0, 0, 0, 0, 0)")

    def batch(writer: int, first: int, end: int) -> None:
        journals.execute(insert, journal, writer, first, end)
        journals.execute("UPDATE toll.journals SET lsn = %s WHERE journal_id = %s AND writer = %s", end, journal, writer)

    def wrong() -> int:
        return journals.value("SELECT wrong FROM toll.verify() WHERE check_name = 'batch_ranges'")
    batch(0, 0, 7)
    batch(1, 0, 7)
    assert share(journals, journal, A, 7, 2, 1) and wrong() == 0
    batch(0, 7, 9)
    assert share(journals, journal, A, 9, 1, 2) and wrong() == 0
    batch(1, 9, 12)
    assert wrong() == 0
    journals.execute("UPDATE toll.batches SET from_lsn = 10 WHERE from_lsn = 9")
    assert wrong() == 1


def test_lag_of_a_writer_is_no_hole(journals: Database) -> None:
    stream = str(uuid.uuid4())
    journals.execute("INSERT INTO toll.streams (uid, stream_id, writer, writers, seen) VALUES (1, %s, 0, 2, '{[1,9)}'), (1, %s, 1, 2, '{[1,4),[5,7)}'),"
                     " (1, %s, 0, 1, '{[1,3)}')", stream, stream, stream)
    assert journals.query("SELECT * FROM toll.stream_holes") == []
    journals.execute("UPDATE toll.streams SET seen = '{[1,4),[5,9)}' WHERE writers = 2")
    assert journals.query("SELECT from_seq, to_seq, missing FROM toll.stream_holes") == [(4, 4, 1)]
