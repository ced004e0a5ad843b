"""What a batch does to sessions, by the functions it calls: how ends are written, and how live sessions are found again."""

from __future__ import annotations

import re
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import ROOT, Database  # noqa: E402
from schema import JOURNAL  # noqa: E402

IDLE = "SELECT * FROM toll.idle_sessions(%s, %s, 86400, (extract(epoch FROM now()) * 1e6)::bigint - 3600000000, 1000)"
CHANGES = ("SELECT array_agg(ROW(id, true, NULL, %s, %s, 1, now() - interval '1 min', NULL, now(), {ended}, NULL, {reason}, {metadata}, NULL,"
           " 10, 20, 1, 0, 0, 0, 0, 1000, id)::toll.session_change ORDER BY id) FROM unnest(%s::uuid[]) AS id")
START = CHANGES.format(ended="NULL", reason="NULL", metadata="jsonb_build_object('user_id', 'u_1', 'note', repeat('x', {note}))")
END = CHANGES.format(ended="now()", reason="'end'", metadata="NULL")


@pytest.fixture
def sessions(db: Database) -> Database:
    return db


def ids(number: int) -> list[str]:
    return sorted(str(uuid.uuid4()) for _ in range(number))


def begin(database: Database, which: list[str], note: int = 10, writer: int = 0) -> None:
    rows = database.query(f"SELECT toll.insert_sessions(%s, %s, ({START.format(note=note)}))", str(JOURNAL), writer, 1, 0, which)
    assert sorted(row[0] for row in rows) == which


def end(database: Database, which: list[str]) -> None:
    rows = database.query(f"SELECT * FROM toll.settle_sessions(%s, 0, ({END}))", str(JOURNAL), 0, 1, which)
    assert sorted(rows) == [(session, True, False) for session in which]


def listed(database: Database) -> list[str]:
    return [row[0] for row in database.query("SELECT session_id FROM toll.open_sessions ORDER BY 1")]


def test_live_session_is_listed_with_its_sender(sessions: Database) -> None:
    which = ids(3)
    begin(sessions, which)
    assert sessions.query("SELECT sender_uid, sender_stream FROM toll.open_sessions ORDER BY session_id") == [(1000, each) for each in which]


def test_a_plan_from_when_nothing_was_live_looks_each_session_up(sessions: Database) -> None:
    """Kept plans outlive what the planner knew: of a table found empty it would go through all of one side for each row of the other."""
    gone, which = ids(400), ids(400)
    begin(sessions, gone)
    end(sessions, gone)
    sessions.execute("DELETE FROM billing_sessions")
    for table in ("billing_sessions", "toll.open_sessions"):
        sessions.execute(f"VACUUM (ANALYZE, TRUNCATE off) {table}")  # pages, and nothing in them
        assert sessions.value("SELECT relpages > 0 AND reltuples = 0 FROM pg_class WHERE oid = %s::regclass", table)
    connection = sessions.connect()
    with connection.cursor() as cursor:
        cursor.execute("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; SET auto_explain.log_timing = off;"
                       "SET auto_explain.log_nested_statements = on; SET client_min_messages = log; SET plan_cache_mode = force_generic_plan;"
                       "SET enable_seqscan = off")  # as the daemon has it
        for some in (which[:1], which[1:]):  # the first has the statements planned
            cursor.execute(f"SELECT toll.insert_sessions(%s, 0, ({START.format(note=10)}))", (str(JOURNAL), 1, 0, some))
            connection.notices.clear()
            cursor.execute(f"SELECT * FROM toll.settle_sessions(%s, 0, ({END}))", (str(JOURNAL), 0, 1, some))
            assert len(cursor.fetchall()) == len(some)
            cursor.execute("SELECT toll.recompute_totals(%s::uuid[])", (some,))
            assert len(cursor.fetchall()) == len(some)
        plans = "\n".join(connection.notices)
    connection.close()
    assert "Update on billing_sessions" in plans and "Delete on open_sessions" in plans
    # A scan's rows, of all its loops: about as many as there are changes (an index has dead versions, too), and not their square.
    for scan, rows, loops in re.findall(r"->  ([^\n]* [Ss]can [^\n]*?)  \([^\n]*\(actual rows=(\d+) loops=(\d+)\)", plans):
        assert int(rows) * int(loops) <= 5 * len(which), f"{scan}: {rows} rows {loops} times\n{plans}"
    assert listed(sessions) == []


@pytest.mark.parametrize("note", [10, 1000, 30_000])
def test_ends_are_hot_updates(note: int, sessions: Database) -> None:
    """Whatever the metadata's size: no index gets a new entry."""
    which = ids(2)  # there is room for both on their page
    begin(sessions, which, note)
    connection = sessions.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM toll.settle_sessions(%s, 0, ({END}))", (str(JOURNAL), 0, 1, which))
        cursor.execute("SELECT pg_stat_get_xact_tuples_updated(c), pg_stat_get_xact_tuples_hot_updated(c)"
                       " FROM (SELECT 'billing_sessions'::regclass) AS t (c)")
        assert cursor.fetchone() == (2, 2)
    connection.rollback()
    connection.close()


def test_no_index_holds_what_an_end_writes(sessions: Database) -> None:
    """Else ends are never HOT: neither in a column, nor an expression, nor a predicate."""
    used = sessions.query("SELECT DISTINCT a.attname FROM pg_index AS i JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass"
                          " AND d.objid = i.indexrelid AND d.refobjid = i.indrelid JOIN pg_attribute AS a ON a.attrelid = d.refobjid"
                          " AND a.attnum = d.refobjsubid WHERE i.indrelid = 'billing_sessions'::regclass ORDER BY 1")
    used += sessions.query("SELECT a.attname FROM pg_constraint AS c JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)"
                           " WHERE c.conrelid = 'billing_sessions'::regclass AND c.contype IN ('p', 'u', 'x')")
    assert {row[0] for row in used} == {"session_id", "metadata", "started_at"}


def test_live_sessions_are_listed(sessions: Database) -> None:
    first, second = ids(3), ids(2)
    begin(sessions, first)
    begin(sessions, second)
    assert listed(sessions) == sorted(first + second)
    assert sessions.value("SELECT count(*) FROM live_sessions") == 5
    end(sessions, second)
    assert listed(sessions) == first
    assert [row[0] for row in sessions.query("SELECT session_id FROM live_sessions ORDER BY 1")] == first
    sessions.execute("DELETE FROM billing_sessions WHERE session_id = %s", first[0])
    assert listed(sessions) == first[1:]
    assert sessions.value("SELECT wrong FROM toll.verify() WHERE check_name = 'live_sessions'") == 0


def test_call_of_one_batch_is_never_listed(sessions: Database) -> None:
    which = ids(2)
    both: list[Any] = [str(JOURNAL), 1, 1, which]
    assert len(sessions.query(f"SELECT toll.insert_sessions(%s, 0, ({END}))", *both)) == 2
    assert listed(sessions) == []


def test_orphans_days_old_are_found(sessions: Database) -> None:
    mine, others, busy, gone = ids(2), ids(2), ids(1), ids(1)
    for which in (mine, busy, gone):
        begin(sessions, which)
    begin(sessions, others, writer=1)
    sessions.execute("INSERT INTO toll.journals (journal_id, writer, lsn) VALUES (%s, 0, 0), (%s, 1, 0)", str(JOURNAL), str(JOURNAL))
    sessions.execute("UPDATE billing_sessions SET created_at = now() - interval '9 days', updated_at = now() - interval '9 days'"
                     " WHERE session_id <> %s", busy[0])
    end(sessions, gone)
    assert sorted(row[0] for row in sessions.query(IDLE, str(JOURNAL), 0)) == mine
    sessions.execute("UPDATE toll.journals SET seen_at = now() - interval '2 days' WHERE writer = 1")
    assert sorted(row[0] for row in sessions.query(IDLE, str(JOURNAL), 0)) == sorted(mine + others)


def test_list_of_live_sessions_is_made_of_what_is_there(sessions: Database) -> None:
    """As migration 007 finds a database that is in use."""
    which = ids(4)
    begin(sessions, which)
    end(sessions, which[:2])
    sessions.execute("DROP TABLE toll.open_sessions, toll.batch_rollups CASCADE; CREATE INDEX billing_sessions_live_owner_idx"
                     " ON billing_sessions (owner_journal, owner_writer) WHERE ended_at IS NULL")
    sessions.execute((ROOT / "sql/migrations/007_upkeep.sql").read_text())
    assert listed(sessions) == which[2:]
    assert sessions.value("SELECT to_regclass('billing_sessions_live_owner_idx') IS NULL")
