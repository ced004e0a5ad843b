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
    JOURNAL, PARENTS, add_batch, add_call, end_call, faults, partition_of, rows_in, this_month, totals, verify)

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


def test_migration_makes_three_months(db: Database) -> None:
    for parent in PARENTS:
        assert db.query("SELECT partition, month FROM toll.partitions WHERE parent = %s ORDER BY month NULLS LAST", parent) == [
            *((partition_of(parent, this_month(n)), this_month(n).date().replace(day=1)) for n in range(3)), (f"{parent}_default", None)]


def test_months_ahead(db: Database) -> None:
    results = db.query("SELECT partition, result FROM toll.make_partitions(4)")
    assert results == [(partition_of(parent, this_month(n)), "exists" if n < 3 else "created") for n in range(5) for parent in PARENTS]


def test_boundaries_are_those_of_utc(db: Database) -> None:
    db.execute(f"ALTER DATABASE {db.name} SET timezone = 'Asia/Kathmandu'")
    make(db, LATER)
    first = LATER.replace(day=1, hour=0)
    add_call(db, first, turns=1)
    assert rows_in(db, partition_of("billing_events", LATER)) == 3
    add_call(db, first - timedelta(microseconds=1), turns=1)
    assert rows_in(db, partition_of("billing_events", LATER)) == 3
    assert rows_in(db, "billing_events_default") == 3


def test_rows_move_out_of_the_default_partition(db: Database) -> None:
    session = add_call(db, LATER)
    add_call(db, this_month(7))
    assert rows_in(db, "billing_events_default") == 12 and rows_in(db, "session_transcripts_default") == 8
    before = db.query("SELECT * FROM billing_events ORDER BY id"), db.query("SELECT * FROM session_transcripts ORDER BY id")
    assert make(db, LATER) == [(partition_of("billing_events", LATER), "created", 6),
                               (partition_of("session_transcripts", LATER), "created", 4)]
    assert rows_in(db, "billing_events_default") == 6 and rows_in(db, partition_of("billing_events", LATER)) == 6
    after = db.query("SELECT * FROM billing_events ORDER BY id"), db.query("SELECT * FROM session_transcripts ORDER BY id")
    assert before == after and faults(db) == {}
    assert [result for _, result, _ in make(db, LATER)] == ["exists", "exists"]
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        db.execute("DELETE FROM billing_sessions WHERE session_id = %s", session)


def test_partitions_are_tidy(db: Database) -> None:
    """Each is like those made at first: the same constraints and indexes, under names that follow the table's."""
    make(db, LATER)
    shapes = {}
    for month in (this_month(), LATER):
        name = partition_of("billing_events", month)
        shapes[month] = db.query(
            "SELECT replace(n, %s, '') FROM (SELECT conname::text FROM pg_constraint WHERE conrelid = ('toll.' || %s)::regclass"
            " UNION ALL SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = ('toll.' || %s)::regclass) AS names (n)"
            " ORDER BY 1", name, name, name)
    assert shapes[this_month()] == shapes[LATER]
    assert len(shapes[LATER]) == 6, shapes


def test_busy_table_is_left_alone(db: Database) -> None:
    """A reader that keeps the default partition: no error, nothing changed, and it works when the reader is gone."""
    reader = db.connect()
    reader.autocommit = False
    reader.cursor().execute("SELECT count(*) FROM billing_events")
    assert make(db, LATER) == [(partition_of("billing_events", LATER), "busy", 0),
                               (partition_of("session_transcripts", LATER), "created", 0)]
    assert db.value("SELECT to_regclass('toll.' || %s) IS NULL", partition_of("billing_events", LATER))
    reader.close()
    assert [result for _, result, _ in make(db, LATER)] == ["created", "exists"]


def test_two_makers_at_once(db: Database) -> None:
    first = db.connect()
    first.autocommit = False
    first.cursor().execute("SELECT * FROM toll.make_partition(%s::date)", (LATER,))
    assert [result for _, result, _ in make(db, LATER)] == ["busy", "busy"]
    first.commit()
    first.close()
    assert [result for _, result, _ in make(db, LATER)] == ["exists", "exists"]


@pytest.mark.parametrize("order", ["sessions first", "either first"])
def test_partitions_appear_beside_ingest(db: Database, order: str) -> None:
    """Three writers store without a pause while their months get partitions: no batch fails (so none met a deadlock), no row is lost.
    Writers that lock billing_sessions first, as they should, don't even keep the partitions waiting for a quiet moment."""
    months = [this_month(n) for n in range(5, 8)]
    stop, stored, errors = threading.Event(), [], []

    def ingest(events_first: bool) -> None:
        connection = db.connect()
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
        results = [(result, moved) for month in months for _, result, moved in make(db, month)]
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
        assert "busy" not in [result for _, result, _ in make(db, month)]
    assert db.value("SELECT count(*) FROM billing_events") == sum(stored)
    assert rows_in(db, "billing_events_default") == 0


# --- retention ---

def test_dry_run_changes_nothing(db: Database) -> None:
    months = make_past(db)
    add_call(db, months[0])
    assert drop(db, "billing_events", months[2]) == [
        (partition_of("billing_events", months[0]), "would drop", 6), (partition_of("billing_events", months[1]), "would drop", 0),
        ("billing_events_default", "would delete rows", 0)]
    assert db.value("SELECT count(*) FROM billing_events") == 6
    assert db.value("SELECT count(*) FROM billing_sessions WHERE sealed") == 0


def test_events_that_are_not_rated_stay(db: Database) -> None:
    months = make_past(db)
    add_call(db, months[0])

    def refused(dry_run: bool) -> bool:
        try:
            db.query("SELECT * FROM toll.drop_partitions('billing_events', %s::date, %s)", months[2], dry_run)
        except psycopg2.Error as error:
            assert "are not rated yet" in str(error)
            return True
        return False
    assert not refused(True)  # nobody has ever rated here
    db.query("SELECT * FROM toll.rate_next(%s, 0, 1000)", str(JOURNAL))
    add_call(db, months[0])
    assert refused(True) and refused(False)
    db.query("SELECT * FROM toll.drop_partitions('session_transcripts', %s::date, false)", months[2])
    db.query("SELECT * FROM toll.rate_next(%s, 0, 1000)", str(JOURNAL))
    assert not refused(True) and not refused(False)
    assert db.value("SELECT count(*) FROM billing_events") == 0 and db.value("SELECT count(*) FROM billing_charges") == 12


def test_dropping_events_seals_their_sessions(db: Database) -> None:
    months = make_past(db)
    old, kept = add_call(db, months[0]), add_call(db, months[2])
    # Began in the month that stays, with an event before it: its clock was a little off.
    skewed = add_call(db, months[2])
    db.execute("UPDATE billing_events SET occurred_at = %s WHERE id = (SELECT min(id) FROM billing_events WHERE session_id = %s)",
               months[1], skewed)
    ancient = add_call(db, this_month(-30))
    before = {session: totals(db, session) for session in (old, kept, skewed, ancient)}
    assert drop(db, "billing_events", months[2], dry_run=False) == [
        (partition_of("billing_events", months[0]), "dropped", 6), (partition_of("billing_events", months[1]), "dropped", 1),
        ("billing_events_default", "rows deleted", 6)]
    assert {session: totals(db, session) for session in before} == before
    assert {row[0] for row in db.query("SELECT session_id FROM billing_sessions WHERE sealed")} == {old, skewed, ancient}
    assert db.value("SELECT count(*) FROM session_transcripts") == 16
    checks = verify(db)
    assert [name for name, (_, wrong, _) in checks.items() if wrong] == []
    assert checks["sealed_sessions"][0] == 3 and checks["session_totals"][0] == 1
    assert [row[1] for row in drop(db, "billing_events", months[2], dry_run=False)] == ["rows deleted"]
    assert faults(db) == {}


def test_transcripts_have_their_own_retention(db: Database) -> None:
    months = make_past(db)
    session = add_call(db, months[0])
    drop(db, "session_transcripts", this_month(), dry_run=False)
    assert db.value("SELECT count(*) FROM session_transcripts") == 0
    assert db.value("SELECT count(*) FROM billing_events") == 6
    assert not db.value("SELECT sealed FROM billing_sessions WHERE session_id = %s", session)
    assert faults(db) == {}


def test_live_sessions_stop_retention_unless_told(db: Database) -> None:
    months = make_past(db)
    live = add_call(db, months[0], live=True)
    for dry_run in (True, False):
        with pytest.raises(psycopg2.errors.ObjectNotInPrerequisiteState, match="1 live sessions"):
            drop(db, "billing_events", months[1], dry_run=dry_run)
    assert db.value("SELECT count(*) FROM billing_events") == 6
    drop(db, "billing_events", months[1], dry_run=False, live_too=True)
    assert db.query("SELECT sealed, ended_at, llm_calls FROM billing_sessions WHERE session_id = %s", live) == [(True, None, 2)]
    assert totals(db, live, "session_totals")["llm_input_tokens"] == 240
    assert faults(db) == {}
    end_call(db, live, this_month())
    assert totals(db, live)["llm_input_tokens"] == 240


def test_rows_that_are_missing_are_still_found_after_retention(db: Database) -> None:
    months = make_past(db)
    batch = add_batch(db, 2, 0)
    db.execute("INSERT INTO billing_events (account, event_type, occurred_at, batch_id) VALUES ('a', 'usage', %s, %s),"
               " ('a', 'usage', %s, %s)", months[0], batch, months[2], batch)
    drop(db, "billing_events", months[1], dry_run=False)
    assert faults(db) == {}
    db.execute("DELETE FROM billing_events")
    assert faults(db) == {"batch_events": 1}


@pytest.mark.parametrize("target, before", [("billing_sessions", EARLIER), ("billing_events", this_month(1))])
def test_retention_refuses_nonsense(db: Database, target: str, before: datetime) -> None:
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        drop(db, target, before)


def test_dropping_quarantine_is_accounted_for(db: Database) -> None:
    batch = add_batch(db, 0, 0, quarantined=2)
    db.execute("INSERT INTO toll.quarantine (batch_id, received_at, reason, bytes) VALUES (%s, now() - interval '1 year', 'a', ''),"
               " (%s, now(), 'b', '')", batch, batch)
    assert db.value("SELECT toll.drop_quarantine(now() - interval '1 month')") == 1
    assert faults(db) == {}
    db.execute("DELETE FROM toll.quarantine")
    assert faults(db) == {"batch_quarantine": 1}
