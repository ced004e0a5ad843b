"""Monthly partitions: made ahead, filled from the default partition, dropped by retention, always beside ingest."""

from __future__ import annotations

import sys
import threading
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from schema import (  # noqa: E402
    JOURNAL, PARENTS, add_batch, add_call, end_call, faults, migrated, partition_of, rows_in, this_month, totals, verify)

LATER = this_month(5)  # no partition yet
EARLIER = this_month(-3)


def make(database: Database, month: datetime) -> list[tuple[str, str, int]]:
    return database.query("SELECT partition, result, moved_rows FROM toll.make_partition(%s::date)", month)


def make_past(database: Database) -> list[datetime]:
    """The partitions of three months before this one."""
    months = [this_month(offset) for offset in (-3, -2, -1)]
    for month in months:
        assert [result for _, result, _ in make(database, month)] == ["created", "created"]
    return months


def drop(database: Database, target: str, before: datetime, **options: bool) -> list[tuple[str, str, int]]:
    words = "".join(f", {name} => {value}" for name, value in options.items())
    return database.query(f"SELECT * FROM toll.drop_partitions(%s, %s::date{words})", target, before)


def test_migration_makes_three_months(empty_db: Database) -> None:
    migrated(empty_db)
    for parent in PARENTS:
        assert empty_db.query("SELECT partition, month FROM toll.partitions WHERE parent = %s ORDER BY month NULLS LAST", parent) == [
            *((partition_of(parent, this_month(n)), this_month(n).date().replace(day=1)) for n in range(3)), (f"{parent}_default", None)]


def test_months_ahead(empty_db: Database) -> None:
    migrated(empty_db)
    results = empty_db.query("SELECT partition, result FROM toll.make_partitions(4)")
    assert results == [(partition_of(parent, this_month(n)), "exists" if n < 3 else "created") for n in range(5) for parent in PARENTS]


def test_boundaries_are_those_of_utc(empty_db: Database) -> None:
    migrated(empty_db).execute(f"ALTER DATABASE {empty_db.name} SET timezone = 'Asia/Kathmandu'")
    make(empty_db, LATER)
    first = LATER.replace(day=1, hour=0)
    add_call(empty_db, first, turns=1)
    assert rows_in(empty_db, partition_of("billing_events", LATER)) == 3
    add_call(empty_db, first - timedelta(microseconds=1), turns=1)
    assert rows_in(empty_db, partition_of("billing_events", LATER)) == 3
    assert rows_in(empty_db, "billing_events_default") == 3


def test_rows_move_out_of_the_default_partition(empty_db: Database) -> None:
    session = add_call(migrated(empty_db), LATER)
    add_call(empty_db, this_month(7))
    assert rows_in(empty_db, "billing_events_default") == 12 and rows_in(empty_db, "session_transcripts_default") == 8
    before = empty_db.query("SELECT * FROM billing_events ORDER BY id"), empty_db.query("SELECT * FROM session_transcripts ORDER BY id")
    assert make(empty_db, LATER) == [(partition_of("billing_events", LATER), "created", 6),
                                     (partition_of("session_transcripts", LATER), "created", 4)]
    assert rows_in(empty_db, "billing_events_default") == 6 and rows_in(empty_db, partition_of("billing_events", LATER)) == 6
    after = empty_db.query("SELECT * FROM billing_events ORDER BY id"), empty_db.query("SELECT * FROM session_transcripts ORDER BY id")
    assert before == after and faults(empty_db) == {}
    assert [result for _, result, _ in make(empty_db, LATER)] == ["exists", "exists"]
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        empty_db.execute("DELETE FROM billing_sessions WHERE session_id = %s", session)


def test_partitions_are_tidy(empty_db: Database) -> None:
    """Each is like those made at first: the same constraints and indexes, under names that follow the table's."""
    migrated(empty_db)
    make(empty_db, LATER)
    shapes = {}
    for month in (this_month(), LATER):
        name = partition_of("billing_events", month)
        shapes[month] = empty_db.query(
            "SELECT replace(n, %s, '') FROM (SELECT conname::text FROM pg_constraint WHERE conrelid = ('toll.' || %s)::regclass"
            " UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = ('toll.' || %s)::regclass) AS names (n)"
            " ORDER BY 1", name, name, name)
    assert shapes[this_month()] == shapes[LATER]
    assert len(shapes[LATER]) == 6, shapes


def test_busy_table_is_left_alone(empty_db: Database) -> None:
    """A reader that keeps the default partition: no error, nothing changed, and it works when the reader is gone."""
    reader = migrated(empty_db).connect()
    reader.autocommit = False
    reader.cursor().execute("SELECT count(*) FROM billing_events")
    assert make(empty_db, LATER) == [(partition_of("billing_events", LATER), "busy", 0),
                                     (partition_of("session_transcripts", LATER), "created", 0)]
    assert empty_db.value("SELECT to_regclass('toll.' || %s) IS NULL", partition_of("billing_events", LATER))
    reader.close()
    assert [result for _, result, _ in make(empty_db, LATER)] == ["created", "exists"]


def test_two_makers_at_once(empty_db: Database) -> None:
    first = migrated(empty_db).connect()
    first.autocommit = False
    first.cursor().execute("SELECT * FROM toll.make_partition(%s::date)", (LATER,))
    assert [result for _, result, _ in make(empty_db, LATER)] == ["busy", "busy"]
    first.commit()
    first.close()
    assert [result for _, result, _ in make(empty_db, LATER)] == ["exists", "exists"]


@pytest.mark.parametrize("order", ["sessions first", "either first"])
def test_partitions_appear_beside_ingest(empty_db: Database, order: str) -> None:
    """Three writers store without a pause while their months get partitions: no batch fails (so none met a deadlock), no row is lost.
    Writers that lock billing_sessions first, as they should, don't even keep the partitions waiting for a quiet moment."""
    migrated(empty_db)
    months = [this_month(n) for n in range(5, 8)]
    stop, stored, errors = threading.Event(), [], []

    def ingest(events_first: bool) -> None:
        connection = empty_db.connect()
        connection.autocommit = False
        cursor = connection.cursor()
        count = 0
        try:
            while not stop.is_set():
                session = str(uuid.uuid4())
                if events_first:
                    cursor.execute("LOCK TABLE public.billing_events, public.session_transcripts IN ROW EXCLUSIVE MODE")
                cursor.execute("INSERT INTO billing_sessions (session_id, started_at) VALUES (%s, now())", (session,))
                for month in months:
                    cursor.execute("INSERT INTO billing_events (session_id, event_type, occurred_at) VALUES (%s, 'llm', %s)",
                                   (session, month))
                connection.commit()
                count += len(months)
        except psycopg2.Error as error:
            errors.append(error)
        stored.append(count)
        connection.close()

    threads = [threading.Thread(target=ingest, args=(order == "either first" and number == 0,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        results = [(result, moved) for month in months for _, result, moved in make(empty_db, month)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    made = [result for result, _ in results].count("created")
    print(f"{sum(stored)} rows stored meanwhile, {made} of {len(results)} partitions made, {sum(moved for _, moved in results)} rows moved")
    assert errors == []
    if order == "sessions first":
        assert made == len(results), results
    for month in months:
        assert "busy" not in [result for _, result, _ in make(empty_db, month)]
    assert empty_db.value("SELECT count(*) FROM billing_events") == sum(stored)
    assert rows_in(empty_db, "billing_events_default") == 0


# --- retention ---

def test_dry_run_changes_nothing(empty_db: Database) -> None:
    months = make_past(migrated(empty_db))
    add_call(empty_db, months[0])
    assert drop(empty_db, "billing_events", months[2]) == [
        (partition_of("billing_events", months[0]), "would drop", 6), (partition_of("billing_events", months[1]), "would drop", 0),
        ("billing_events_default", "would delete rows", 0)]
    assert empty_db.value("SELECT count(*) FROM billing_events") == 6
    assert empty_db.value("SELECT count(*) FROM billing_sessions WHERE sealed") == 0


def test_events_that_are_not_rated_stay(empty_db: Database) -> None:
    months = make_past(migrated(empty_db))
    add_call(empty_db, months[0])

    def refused(dry_run: bool) -> bool:
        try:
            empty_db.query("SELECT * FROM toll.drop_partitions('billing_events', %s::date, %s)", months[2], dry_run)
        except psycopg2.Error as error:
            assert "are not rated yet" in str(error)
            return True
        return False
    assert not refused(True)  # nobody has ever rated here
    empty_db.query("SELECT * FROM toll.rate_next(%s, 0, 1000)", str(JOURNAL))
    add_call(empty_db, months[0])
    assert refused(True) and refused(False)
    empty_db.query("SELECT * FROM toll.drop_partitions('session_transcripts', %s::date, false)", months[2])
    empty_db.query("SELECT * FROM toll.rate_next(%s, 0, 1000)", str(JOURNAL))
    assert not refused(True) and not refused(False)
    assert empty_db.value("SELECT count(*) FROM billing_events") == 0 and empty_db.value("SELECT count(*) FROM billing_charges") == 12


def test_dropping_events_seals_their_sessions(empty_db: Database) -> None:
    months = make_past(migrated(empty_db))
    old, kept = add_call(empty_db, months[0]), add_call(empty_db, months[2])
    # Began in the month that stays, with an event before it: its clock was a little off.
    skewed = add_call(empty_db, months[2])
    empty_db.execute("UPDATE billing_events SET occurred_at = %s WHERE id = (SELECT min(id) FROM billing_events WHERE session_id = %s)",
                     months[1], skewed)
    ancient = add_call(empty_db, this_month(-30))
    before = {session: totals(empty_db, session) for session in (old, kept, skewed, ancient)}
    assert drop(empty_db, "billing_events", months[2], dry_run=False) == [
        (partition_of("billing_events", months[0]), "dropped", 6), (partition_of("billing_events", months[1]), "dropped", 1),
        ("billing_events_default", "rows deleted", 6)]
    assert {session: totals(empty_db, session) for session in before} == before
    assert {row[0] for row in empty_db.query("SELECT session_id FROM billing_sessions WHERE sealed")} == {old, skewed, ancient}
    assert empty_db.value("SELECT count(*) FROM session_transcripts") == 16
    checks = verify(empty_db)
    assert [name for name, (_, wrong, _) in checks.items() if wrong] == []
    assert checks["sealed_sessions"][0] == 3 and checks["session_totals"][0] == 1
    assert [row[1] for row in drop(empty_db, "billing_events", months[2], dry_run=False)] == ["rows deleted"]
    assert faults(empty_db) == {}


def test_transcripts_have_their_own_retention(empty_db: Database) -> None:
    months = make_past(migrated(empty_db))
    session = add_call(empty_db, months[0])
    drop(empty_db, "session_transcripts", this_month(), dry_run=False)
    assert empty_db.value("SELECT count(*) FROM session_transcripts") == 0
    assert empty_db.value("SELECT count(*) FROM billing_events") == 6
    assert not empty_db.value("SELECT sealed FROM billing_sessions WHERE session_id = %s", session)
    assert faults(empty_db) == {}


def test_live_sessions_stop_retention_unless_told(empty_db: Database) -> None:
    months = make_past(migrated(empty_db))
    live = add_call(empty_db, months[0], live=True)
    for dry_run in (True, False):
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState, match="1 live sessions"):
            drop(empty_db, "billing_events", months[1], dry_run=dry_run)
    assert empty_db.value("SELECT count(*) FROM billing_events") == 6
    drop(empty_db, "billing_events", months[1], dry_run=False, live_too=True)
    assert empty_db.query("SELECT sealed, ended_at, llm_calls FROM billing_sessions WHERE session_id = %s", live) == [(True, None, 2)]
    assert totals(empty_db, live, "session_totals")["llm_input_tokens"] == 240
    assert faults(empty_db) == {}
    end_call(empty_db, live, this_month())
    assert totals(empty_db, live)["llm_input_tokens"] == 240


def test_rows_that_are_missing_are_still_found_after_retention(empty_db: Database) -> None:
    months = make_past(migrated(empty_db))
    batch = add_batch(empty_db, 2, 0)
    empty_db.execute("INSERT INTO billing_events (account, event_type, occurred_at, batch_id) VALUES ('a', 'usage', %s, %s),"
                     " ('a', 'usage', %s, %s)", months[0], batch, months[2], batch)
    drop(empty_db, "billing_events", months[1], dry_run=False)
    assert faults(empty_db) == {}
    empty_db.execute("DELETE FROM billing_events")
    assert faults(empty_db) == {"batch_events": 1}


@pytest.mark.parametrize("target, before", [("billing_sessions", EARLIER), ("billing_events", this_month(1))])
def test_retention_refuses_nonsense(empty_db: Database, target: str, before: datetime) -> None:
    migrated(empty_db)
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        drop(empty_db, target, before)


def test_dropping_quarantine_is_accounted_for(empty_db: Database) -> None:
    batch = add_batch(migrated(empty_db), 0, 0, quarantined=2)
    empty_db.execute("INSERT INTO toll.quarantine (batch_id, received_at, reason, bytes) VALUES (%s, now() - interval '1 year', 'a', ''),"
                     " (%s, now(), 'b', '')", batch, batch)
    assert empty_db.value("SELECT toll.drop_quarantine(now() - interval '1 month')") == 1
    assert faults(empty_db) == {}
    empty_db.execute("DELETE FROM toll.quarantine")
    assert faults(empty_db) == {"batch_quarantine": 1}
