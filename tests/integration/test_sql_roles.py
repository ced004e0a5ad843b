"""Least privilege: the daemon's role does what a batch needs and nothing else, readers read."""

from __future__ import annotations

import io
import sys
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Cluster, Database  # noqa: E402
from schema import JOURNAL, add_call  # noqa: E402

DENIED = psycopg2.errors.InsufficientPrivilege


@pytest.fixture
def calls(db: Database) -> Database:
    add_call(db)
    add_call(db, live=True)
    db.execute("INSERT INTO toll.quarantine (reason, bytes) VALUES ('bad', 'secret')")
    return db


@pytest.fixture
def login(cluster: Cluster, calls: Database) -> Iterator[Callable[[str], Any]]:
    """Connects as a fresh user who has been granted a role, and nothing else."""
    users, connections = [], []

    def connect(role: str) -> Any:
        users.append(f"user_of_{role}")
        cluster.psql(f"CREATE ROLE {users[-1]} LOGIN; GRANT {role} TO {users[-1]}")
        connections.append(calls.connect(users[-1]))
        return connections[-1].cursor()
    yield connect
    for connection in connections:
        connection.close()
    for user in users:
        cluster.psql(f"DROP ROLE {user}")


def test_ingest_stores_a_batch(calls: Database, login: Callable[[str], Any]) -> None:
    """What tolld does, statement by statement."""
    cursor = login("toll_ingest")
    cursor.connection.autocommit = False
    session, stream = str(uuid.uuid4()), str(uuid.uuid4())
    cursor.execute("SELECT name, checksum FROM toll.migrations")
    cursor.execute("SELECT value FROM toll.meta WHERE key = 'database_uuid'")
    cursor.execute("INSERT INTO toll.journals (journal_id, writer, lsn) VALUES (%s, 1, 0) ON CONFLICT DO NOTHING", (str(JOURNAL),))
    cursor.execute("UPDATE toll.journals SET lsn = 10 WHERE journal_id = %s AND writer = 1 AND lsn = 0 RETURNING"
                   " nextval('toll.batch_id_seq')", (str(JOURNAL),))
    (batch,) = cursor.fetchone()
    cursor.execute("INSERT INTO toll.streams (uid, stream_id, writer, seen) VALUES (0, %s, 1, '{[1,2)}') ON CONFLICT DO NOTHING", (stream,))
    cursor.execute("UPDATE toll.streams SET seen = '{[1,3)}', revision = revision + 1 WHERE uid = 0 AND stream_id = %s", (stream,))
    cursor.execute("CREATE TEMPORARY TABLE incoming (session_id uuid) ON COMMIT DELETE ROWS")
    cursor.execute("INSERT INTO incoming VALUES (%s)", (session,))
    cursor.execute("INSERT INTO billing_sessions (session_id, started_at) SELECT session_id, now() FROM incoming"
                   " ON CONFLICT (session_id) DO NOTHING RETURNING session_id")
    cursor.execute("SELECT session_id FROM billing_sessions WHERE session_id = %s FOR SHARE", (session,))
    cursor.execute("SELECT session_id FROM billing_sessions WHERE session_id = %s FOR UPDATE", (session,))
    cursor.execute("LOCK TABLE public.billing_events, public.session_transcripts IN ROW EXCLUSIVE MODE")
    cursor.execute("SET LOCAL session_replication_role = replica")
    for sql in ("COPY billing_events (session_id, event_type, occurred_at, batch_id) FROM STDIN",
                "COPY session_transcripts (session_id, text, occurred_at, batch_id) FROM STDIN"):
        cursor.copy_expert(sql, io.StringIO(f"{session}\tllm\tnow\t{batch}\n"))
    cursor.execute("SET LOCAL session_replication_role = origin")
    cursor.execute("INSERT INTO toll.gaps (batch_id, count) VALUES (%s, 1)", (batch,))
    cursor.execute("INSERT INTO toll.quarantine (batch_id, reason, bytes) VALUES (%s, 'bad', '')", (batch,))
    cursor.execute("SELECT max(occurred_at) FROM session_transcripts WHERE session_id = %s", (session,))
    cursor.execute("UPDATE billing_sessions SET ended_at = now(), finish_reason = 'end' WHERE session_id = %s", (session,))
    cursor.execute("SELECT llm_calls FROM toll.recompute_totals(ARRAY[%s]::uuid[])", (session,))
    assert cursor.fetchone() == (1,)
    cursor.execute("INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates,"
                   " events, transcripts) VALUES (%s, %s, 1, 0, 10, 6, 5, 1, 0, 1, 1)", (batch, str(JOURNAL)))
    cursor.connection.commit()
    cursor.connection.autocommit = True
    cursor.execute("DELETE FROM toll.streams WHERE stream_id = %s", (stream,))
    cursor.execute("SELECT result FROM toll.make_partitions(3)")
    assert [row[0] for row in cursor.fetchall()] == ["exists"] * 6 + ["created"] * 2
    cursor.execute("SELECT check_name, wrong FROM toll.verify() WHERE wrong > 0")
    assert cursor.fetchall() == []
    cursor.execute("SELECT reason, bytes FROM toll.quarantine")


CHANGES = [
    "UPDATE billing_events SET input_tokens = 0", "DELETE FROM billing_events", "TRUNCATE billing_events CASCADE",
    "UPDATE session_transcripts SET text = ''", "DELETE FROM session_transcripts", "DELETE FROM billing_sessions",
    "DELETE FROM toll.journals", "UPDATE toll.batches SET stored = 0", "DELETE FROM toll.batches", "UPDATE toll.quarantine SET reason = ''",
    "DELETE FROM toll.quarantine", "DELETE FROM toll.gaps", "UPDATE toll.meta SET value = ''", "DELETE FROM toll.migrations",
    "INSERT INTO toll.removed_rows (batch_id) VALUES (1)", "SELECT setval('toll.batch_id_seq', 1)", "CREATE TABLE toll.mine ()",
    "CREATE TABLE public.mine ()", "ALTER TABLE billing_events DISABLE TRIGGER ALL",
    "SELECT toll.drop_partitions('billing_events', '2000-01-01')", "SELECT toll.drop_quarantine(now())", "SELECT toll.erase_user('u_42')",
    "SELECT toll.erase_session(gen_random_uuid())", "SELECT toll.erase_sessions('{}')", "SET ROLE toll_owner", "DROP SCHEMA toll CASCADE",
]
INSERTS = [
    "INSERT INTO billing_sessions (started_at) VALUES (now())", "UPDATE billing_sessions SET finish_reason = ''",
    "INSERT INTO billing_events (account, event_type, occurred_at) VALUES ('a', 'usage', now())",
    "INSERT INTO session_transcripts (session_id, occurred_at) VALUES (gen_random_uuid(), now())",
    "INSERT INTO toll.journals VALUES (gen_random_uuid(), 0, 0)", "UPDATE toll.streams SET seen = '{}'",
    "INSERT INTO toll.quarantine (reason, bytes) VALUES ('', '')", "INSERT INTO toll.gaps (count) VALUES (1)",
    "SELECT nextval('toll.batch_id_seq')", "SELECT toll.recompute_totals('{}')", "SELECT toll.make_partitions(1)",
    "SELECT toll.make_partition('2000-01-01')", "SET session_replication_role = replica",
]
TEXT = ["SELECT text FROM session_transcripts", "SELECT * FROM session_transcripts", "SELECT raw_json FROM session_transcripts",
        "COPY session_transcripts TO STDOUT"]
READS = [
    "SELECT * FROM billing_sessions", "SELECT * FROM billing_events", "SELECT role, occurred_at FROM session_transcripts",
    "SELECT * FROM session_totals", "SELECT * FROM live_sessions", "SELECT * FROM model_usage", "SELECT * FROM model_usage_daily",
    "SELECT * FROM toll.stream_holes", "SELECT * FROM toll.journal_status", "SELECT * FROM toll.quarantine_summary",
    "SELECT * FROM toll.partitions", "SELECT * FROM toll.session_sums", "SELECT id, reason FROM toll.quarantine", "SELECT * FROM toll.gaps",
    "SELECT * FROM toll.verify()", "SELECT * FROM toll.batches",
]


def refused(cursor: Any, statements: list[str]) -> list[str]:
    """The statements that were not refused: should be none."""
    allowed = []
    for sql in statements:
        try:
            cursor.execute(sql)
            allowed.append(sql)
        except DENIED:
            pass
    return allowed


def test_ingest_does_nothing_else(login: Callable[[str], Any]) -> None:
    assert refused(login("toll_ingest"), CHANGES + TEXT) == []


def test_reader_reads_and_writes_nothing(login: Callable[[str], Any]) -> None:
    cursor = login("toll_reader")
    for sql in READS:
        cursor.execute(sql)
    assert refused(cursor, CHANGES + INSERTS + TEXT + ["SELECT bytes FROM toll.quarantine", "SELECT * FROM toll.quarantine"]) == []


def test_transcripts_reader_reads_what_was_said(login: Callable[[str], Any]) -> None:
    cursor = login("toll_transcripts")
    for sql in READS:
        cursor.execute(sql)
    cursor.execute("SELECT role, text, language, interrupted, occurred_at FROM session_transcripts ORDER BY occurred_at")
    assert cursor.fetchone()[1] == "guten Tag"
    assert refused(cursor, CHANGES + INSERTS + ["SELECT bytes FROM toll.quarantine"]) == []


def test_owner_keeps_house(calls: Database, login: Callable[[str], Any]) -> None:
    cursor = login("toll_owner")
    cursor.execute("SELECT sessions FROM toll.erase_user('u_42')")
    assert cursor.fetchone() == (2,)
    cursor.execute("SELECT toll.drop_partitions('billing_events', '2000-01-01', dry_run => false)")


def test_public_has_nothing(calls: Database, cluster: Cluster) -> None:
    cluster.psql("CREATE ROLE nobody_in_particular LOGIN")
    try:
        connection = calls.connect("nobody_in_particular")
        assert refused(connection.cursor(), CHANGES + INSERTS + TEXT + READS) == []
        connection.close()
    finally:
        cluster.psql("DROP ROLE nobody_in_particular")
    assert calls.query("SELECT proname FROM pg_proc WHERE pronamespace = 'toll'::regnamespace"
                       # Expressions with a name, which read nothing: views need them.
                       " AND has_function_privilege('pg_monitor', oid, 'EXECUTE') AND prosqlbody IS NULL") == []


def test_functions_pin_their_search_path(calls: Database) -> None:
    """And only those that must are SECURITY DEFINER."""
    # Not those whose names were looked up when they were made, or that have no body.
    assert calls.query("SELECT proname FROM pg_proc WHERE pronamespace = 'toll'::regnamespace AND prosqlbody IS NULL AND prokind <> 'a' AND NOT"
                       " coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)") == []
    assert calls.query("SELECT proname::text FROM pg_proc WHERE pronamespace = 'toll'::regnamespace AND prosecdef ORDER BY 1") == [
        (name,) for name in (
            "check_credit", "close_period", "debit", "explain_event", "import_prices", "keep_meter_months", "link_holds", "lock_wallets",
            "make_partition", "make_partitions", "move_meter_months", "prune_batches", "rate_free", "rate_next", "rate_unrated", "rating_backlog",
            "refresh_credit", "release_holds", "rerate", "resolve_sessions", "settle_wallets", "share_journal", "sum_usage")]
