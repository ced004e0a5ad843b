"""toll.claim_journal(): who moves a journal's watermark, and how two copies of a journal find out about each other."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from schema import migrated  # noqa: E402

JOURNAL = str(uuid.uuid4())
A, B, C = (str(uuid.uuid4()) for _ in range(3))


@pytest.fixture
def journals(empty_db: Database) -> Database:
    migrated(empty_db).execute("INSERT INTO toll.journals (journal_id, writer, lsn) VALUES (%s, 0, 100)", JOURNAL)
    return empty_db


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
