"""Old batches are rolled up: bookkeeping stays small, and every row can still be accounted for."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from schema import JOURNAL, add_batch, add_call, faults, this_month, verify  # noqa: E402

TOGETHER = 20_000
OLD = "now() - interval '9 days'"


def add_old(database: Database, number: int, *, gap_after: int = -1, committed: str = OLD) -> None:
    """Batches of the journal, one after the other, each with an event in its counts."""
    database.execute(
        "WITH moved AS (INSERT INTO toll.journals AS j (journal_id, writer, lsn) VALUES (%s, 0, %s) ON CONFLICT (journal_id, writer)"
        " DO UPDATE SET lsn = j.lsn + %s RETURNING lsn - %s AS lsn)"
        " INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events, transcripts,"
        f" first_received_at, last_received_at, committed_at) SELECT nextval('toll.batch_id_seq'), %s, 0, lsn + 10 * n - 10 + CASE WHEN n = %s THEN 1 ELSE 0 END,"
        f" lsn + 10 * n, 2, 1, 0, 1, 1, 0, {committed}, {committed}, {committed} FROM moved, generate_series(1, %s) AS n ORDER BY n",
        str(JOURNAL), number * 10, number * 10, number * 10, str(JOURNAL), gap_after + 1, number)


def add_their_events(database: Database, session: str) -> None:
    database.execute("INSERT INTO billing_events (session_id, event_type, input_tokens, occurred_at, batch_id) SELECT %s, 'usage', 1, %s, batch_id"
                     " FROM toll.batches WHERE duplicates = 1", session, this_month(day=2))


def prune(database: Database, older_than: str = "1 day") -> int:
    return database.value("SELECT toll.prune_batches(%s::interval)", older_than)


@pytest.fixture
def old(db: Database) -> Database:
    """So many old batches with an event each, in a database where nobody rates any more, and a call of today."""
    db.execute("UPDATE toll.rating_settings SET unrated_kept = '7 days'")
    add_old(db, TOGETHER)
    add_their_events(db, add_call(db))
    assert faults(db) == {}
    return db


def test_every_row_is_accounted_for(old: Database) -> None:
    assert prune(old) == TOGETHER and prune(old) == 0
    assert old.value("SELECT count(*) FROM toll.batches") == 1
    assert old.query("SELECT batches, from_lsn, to_lsn, received, stored, duplicates, events, last_batch_id - first_batch_id + 1"
                     " FROM toll.batch_rollups") == [(TOGETHER, 0, TOGETHER * 10, TOGETHER * 2, TOGETHER, TOGETHER, TOGETHER, TOGETHER)]
    assert faults(old) == {} and verify(old)["batch_events"][0] == 2
    connection = old.connect()
    connection.autocommit = False
    for sql, expected in (("DELETE FROM billing_events WHERE batch_id = 77", {"batch_events": 1}),
                          ("UPDATE billing_events SET batch_id = 78 WHERE batch_id = 77", {}),
                          ("DELETE FROM toll.batch_rollups", {"batch_events": TOGETHER}),
                          ("UPDATE toll.batch_rollups SET to_lsn = to_lsn + 10", {"batch_ranges": 1})):
        with connection.cursor() as cursor:
            cursor.execute(sql)
            cursor.execute("SELECT check_name, wrong FROM toll.verify() WHERE wrong > 0")
            assert dict(cursor.fetchall()) == expected
        connection.rollback()
    connection.close()


def test_next_ones_follow(old: Database) -> None:
    assert prune(old) == TOGETHER
    add_old(old, TOGETHER - 2, committed="now() - interval '8 days'")
    assert prune(old) == 0, "too few"
    add_old(old, 1, committed="now() - interval '8 days'")
    old.execute("UPDATE toll.batches SET committed_at = now() - interval '8 days'")
    old.execute("UPDATE toll.batches SET events = 0 WHERE duplicates = 1")
    assert faults(old) == {}
    assert prune(old) == TOGETHER
    assert old.query("SELECT first_batch_id, last_batch_id FROM toll.batch_rollups ORDER BY 1") == [(1, TOGETHER), (TOGETHER + 1, 2 * TOGETHER)]
    assert faults(old) == {}
    assert prune(old) == 0


def test_young_ones_stay(old: Database) -> None:
    assert prune(old, "10 days") == 0
    old.execute("UPDATE toll.batches SET committed_at = now() - interval '2 days' WHERE batch_id = 5000")
    assert prune(old) == 0, "nothing was rated, so they stay for a week"
    assert old.value("SELECT count(*) FROM toll.batch_rollups") == 0


def test_what_is_not_rated_stays(old: Database) -> None:
    old.execute("UPDATE toll.rating_settings SET unrated_kept = NULL")
    old.execute("UPDATE toll.batches SET committed_at = now() - interval '10 years'")
    assert prune(old) == 0, "rating has not begun, and may tomorrow"
    old.execute("INSERT INTO toll.rating_progress (journal_id, writer, lsn) VALUES (%s, 0, 10)", str(uuid.uuid4()))
    assert prune(old) == 0, "rating has not begun with this journal"
    old.execute("INSERT INTO toll.rating_progress (journal_id, writer, lsn) VALUES (%s, 0, %s)", str(JOURNAL), TOGETHER * 10 - 1)
    assert prune(old) == 0, "one batch is missing"
    old.execute("UPDATE toll.rating_progress SET lsn = lsn + 1 WHERE journal_id = %s", str(JOURNAL))
    assert prune(old) == TOGETHER


def test_gaps_stay_visible(db: Database) -> None:
    add_old(db, TOGETHER, gap_after=500)
    db.execute("UPDATE toll.batches SET events = 0")
    assert faults(db) == {"batch_ranges": 1}
    assert prune(db) == TOGETHER
    assert db.query("SELECT batches, from_lsn, to_lsn FROM toll.batch_rollups ORDER BY 2") == [(500, 0, 5000), (TOGETHER - 500, 5001, TOGETHER * 10)]
    assert faults(db) == {"batch_ranges": 1}


@pytest.mark.parametrize("before", [True, False])
def test_retention_is_counted_with_them(old: Database, before: bool) -> None:
    def drop() -> None:
        old.query("SELECT * FROM toll.drop_partitions('billing_events', now()::date, false)")
    old.execute("SELECT toll.make_partition(%s::date)", this_month(-1))
    old.execute("UPDATE billing_events SET occurred_at = %s WHERE batch_id <= 700", this_month(-1, day=2))
    if before:
        drop()
    assert prune(old) == TOGETHER
    if not before:
        drop()
    assert old.query("SELECT batch_id, events FROM toll.removed_rows") == [(TOGETHER, 700)]
    assert faults(old) == {}


def test_sessions_heard_of_in_them_are_known(old: Database) -> None:
    session = old.value("SELECT session_id FROM billing_events WHERE batch_id = 5")
    silent = old.value("INSERT INTO billing_sessions (started_at) VALUES (now()) RETURNING session_id")
    old.execute("DELETE FROM toll.batches WHERE batch_id > %s", TOGETHER)
    assert prune(old) == TOGETHER
    heard = "SELECT toll.heard_since(%s, now() - interval %s)"
    assert old.value(heard, session, "10 days") and not old.value(heard, session, "8 days")
    assert not old.value(heard, silent, "10 days")


def test_batches_of_a_time_are_verified_whole(old: Database) -> None:
    add_batch(old, 1, 0)
    assert prune(old) == TOGETHER
    assert faults(old, this_month(-1)) == {"batch_events": 1}
