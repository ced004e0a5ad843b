"""toll.verify() is silent on what is right and names every kind of fault."""

from __future__ import annotations

import sys
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Cluster, Database  # noqa: E402
from schema import JOURNAL, add_batch, add_call, faults, verify  # noqa: E402

CHECKS = ["session_totals", "session_durations", "live_sessions", "batch_ranges", "batch_frames", "batch_events", "batch_transcripts",
          "batch_quarantine", "event_sessions", "transcript_sessions", "stream_holes", "gaps", "quarantine", "sealed_sessions"]


def fill(database: Database) -> Database:
    """Three ended calls and a live one, a call without events, a complete stream, a gap and a frame in quarantine: all right."""
    for _ in range(3):
        add_call(database)
    add_call(database, live=True)
    add_call(database, turns=0)
    batch = add_batch(database, 1, 0, quarantined=1, others=1)
    database.execute("INSERT INTO toll.streams (uid, stream_id, writer, seen, last_seen_at)"
                     " VALUES (0, gen_random_uuid(), 0, '{[1,9)}', now())")
    database.execute("INSERT INTO toll.quarantine (batch_id, reason, bytes) VALUES (%s, 'bad', '')", batch)
    database.execute("INSERT INTO toll.gaps (batch_id, count) VALUES (%s, 17)", batch)
    database.execute("INSERT INTO billing_events (account, event_type, occurred_at, batch_id) VALUES ('a', 'usage', now(), %s)", batch)
    return database


@pytest.fixture
def calls(db: Database) -> Database:
    return fill(db)


@pytest.fixture(scope="module")
def rolled_back(cluster: Cluster, migrated: Database) -> Iterator[Database]:
    """The same, for tests that leave no trace."""
    if not cluster.running:
        cluster.start()
    made = cluster.create_database(migrated)
    yield fill(made)
    made.drop()


def test_empty_database_is_right(db: Database) -> None:
    checks = verify(db)
    assert list(checks) == CHECKS
    assert {(checked, wrong) for checked, wrong, _ in checks.values()} == {(0, 0)}


def test_right_rows_are_right(calls: Database) -> None:
    checks = verify(calls)
    assert {name: wrong for name, (_, wrong, _) in checks.items()} == dict.fromkeys(CHECKS, 0)
    assert {name: checked for name, (checked, _, _) in checks.items()} == {
        "session_totals": 4, "session_durations": 4, "live_sessions": 1, "batch_ranges": 6, "batch_frames": 6, "batch_events": 6,
        "batch_transcripts": 6, "batch_quarantine": 6, "event_sessions": 24, "transcript_sessions": 16, "stream_holes": 1, "gaps": 1,
        "quarantine": 1, "sealed_sessions": 0}
    assert checks["gaps"][2] == "17 frames refused by workers whose ring was full"


ENDED = "(SELECT session_id FROM billing_sessions WHERE llm_calls > 0 ORDER BY 1 LIMIT 1)"
LIVE = "(SELECT session_id FROM billing_sessions WHERE ended_at IS NULL)"
AN_LLM = f"(SELECT id FROM billing_events WHERE event_type = 'llm' AND session_id = {ENDED} LIMIT 1)"
EMPTY = "(SELECT session_id FROM billing_sessions WHERE ended_at IS NOT NULL AND llm_calls = 0)"
LAST = "(SELECT max(batch_id) FROM toll.batches)"

FAULTS = {
    "llm_input_tokens": (f"UPDATE billing_sessions SET llm_input_tokens = 241 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "llm_output_tokens": (f"UPDATE billing_sessions SET llm_output_tokens = 0 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "llm_calls": (f"UPDATE billing_sessions SET llm_calls = 1 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "tts_chars": (f"UPDATE billing_sessions SET tts_chars = 159 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "tts_calls": (f"UPDATE billing_sessions SET tts_calls = 3 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "one microsecond": (f"UPDATE billing_sessions SET stt_audio_ms = 2000.201 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "stt_calls": (f"UPDATE billing_sessions SET stt_calls = 3 WHERE session_id = {ENDED}", {"session_totals": 1}),
    "totals of nothing": (f"UPDATE billing_sessions SET tts_calls = 1 WHERE session_id = {EMPTY}", {"session_totals": 1}),
    "event changed": (f"UPDATE billing_events SET input_tokens = 121 WHERE id = {AN_LLM}", {"session_totals": 1}),
    "event missing": (f"DELETE FROM billing_events WHERE id = {AN_LLM}", {"session_totals": 1, "batch_events": 1}),
    "event twice": ("INSERT INTO billing_events (session_id, event_type, input_tokens, output_tokens, occurred_at, batch_id) SELECT"
                    f" session_id, event_type, input_tokens, output_tokens, occurred_at, batch_id FROM billing_events WHERE id = {AN_LLM}",
                    {"session_totals": 1, "batch_events": 1}),
    "transcript missing": (f"DELETE FROM session_transcripts WHERE session_id = {LIVE}", {"batch_transcripts": 1}),
    "rows of no batch": ("UPDATE session_transcripts SET batch_id = 999", {"batch_transcripts": 5}),
    "batch missing": (f"DELETE FROM toll.batches WHERE batch_id = {LAST}",
                      {"batch_events": 1, "batch_quarantine": 1, "batch_ranges": 1}),
    "batch in the middle missing": ("DELETE FROM toll.batches WHERE batch_id = 5", {"batch_ranges": 1}),
    "ranges apart": (f"UPDATE toll.batches SET from_lsn = from_lsn + 1 WHERE batch_id = {LAST}", {"batch_ranges": 1}),
    "ranges overlapping": (f"UPDATE toll.batches SET from_lsn = from_lsn - 1 WHERE batch_id = {LAST}", {"batch_ranges": 1}),
    "watermark ahead": ("UPDATE toll.journals SET lsn = lsn + 1", {"batch_ranges": 1}),
    "watermark gone": ("DELETE FROM toll.journals", {"batch_ranges": 1}),
    "more rows than frames": (f"UPDATE toll.batches SET stored = 0, duplicates = duplicates + stored WHERE batch_id = {LAST}",
                              {"batch_frames": 1}),
    "quarantine missing": ("DELETE FROM toll.quarantine", {"batch_quarantine": 1}),
    "orphans": (f"SET session_replication_role = replica; DELETE FROM billing_sessions WHERE session_id = {LIVE};"
                "RESET session_replication_role", {"event_sessions": 6, "live_sessions": 1, "transcript_sessions": 4}),
    "live with totals": (f"UPDATE billing_sessions SET llm_calls = 2 WHERE session_id = {LIVE}", {"live_sessions": 1}),
    "live with a reason": (f"UPDATE billing_sessions SET finish_reason = 'end' WHERE session_id = {LIVE}", {"live_sessions": 1}),
    "live and not listed": ("DELETE FROM toll.open_sessions", {"live_sessions": 1}),
    "listed and not live": (f"INSERT INTO toll.open_sessions VALUES ({ENDED})", {"live_sessions": 1}),
    "duration wrong": (f"UPDATE billing_sessions SET duration_secs = 2.000001 WHERE session_id = {ENDED}", {"session_durations": 1}),
    "duration missing": (f"UPDATE billing_sessions SET duration_secs = NULL WHERE session_id = {ENDED}", {"session_durations": 1}),
    "duration negative": (f"UPDATE billing_sessions SET ended_at = started_at - interval '2 s', duration_secs = -2"
                          f" WHERE session_id = {ENDED}", {"session_durations": 1}),
    "reason missing": (f"UPDATE billing_sessions SET finish_reason = NULL WHERE session_id = {ENDED}", {"session_durations": 1}),
    "stream with holes": ("UPDATE toll.streams SET seen = '{[1,3),[4,6),[7,9)}'", {"stream_holes": 2}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(rolled_back: Database, name: str) -> None:
    sql, expected = FAULTS[name]
    connection = rolled_back.connect()
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute(sql)
    cursor.execute("SELECT check_name, wrong, detail FROM toll.verify() WHERE wrong > 0")
    found = cursor.fetchall()
    connection.rollback()
    connection.close()
    assert {check: wrong for check, wrong, _ in found} == expected
    assert all(detail for *_, detail in found)


def test_detail_says_which_and_what(calls: Database) -> None:
    session = calls.value(f"UPDATE billing_sessions SET llm_input_tokens = 241 WHERE session_id = {ENDED} RETURNING session_id")
    assert verify(calls)["session_totals"][2] == (
        f"session {session}: stored {{241,60,2,160,2,2000200,2}}, its events add up to {{240,60,2,160,2,2000200,2}}"
        " (llm input, output, calls, tts chars, calls, stt us, calls)")
    calls.execute("UPDATE billing_sessions SET llm_calls = 99 WHERE ended_at IS NOT NULL")
    assert verify(calls)["session_totals"][2].count("session ") == 3, "the first three are enough"


def test_rows_that_toll_did_not_store_are_no_fault(calls: Database) -> None:
    """Somebody's own row belongs to no batch; its session's totals have to know of it all the same."""
    calls.execute(f"INSERT INTO billing_events (session_id, event_type, occurred_at) VALUES ({LIVE}, 'llm', now())")
    assert faults(calls) == {}


def test_since_bounds_the_work(calls: Database) -> None:
    """Old faults are left alone, new ones found, and what is right is right."""
    calls.execute("UPDATE toll.batches SET committed_at = now() - interval '1 day' WHERE batch_id <= 2")
    calls.execute("UPDATE billing_sessions SET ended_at = ended_at - interval '100 days', started_at = started_at - interval '100 days',"
                  f" updated_at = now() - interval '1 day' WHERE session_id = {ENDED}")
    hour_ago = datetime.now(timezone.utc) - timedelta(hours=1)
    assert faults(calls, hour_ago) == {}
    checked = {name: checked for name, (checked, _, _) in verify(calls, hour_ago).items()}
    assert checked["session_totals"] == 3 and checked["batch_events"] == 4 and checked["event_sessions"] == 12
    calls.execute(f"UPDATE billing_sessions SET llm_calls = 7 WHERE session_id = {ENDED}")
    calls.execute("DELETE FROM session_transcripts WHERE batch_id = 1")
    assert faults(calls, hour_ago) == {} and faults(calls) == {"session_totals": 1, "batch_transcripts": 1}
    calls.execute("UPDATE billing_sessions SET updated_at = now()")
    calls.execute("DELETE FROM session_transcripts WHERE batch_id = 3")
    assert faults(calls, hour_ago) == {"session_totals": 1, "batch_transcripts": 1}
    assert faults(calls, datetime.now(timezone.utc) + timedelta(hours=1)) == {}


def test_a_batch_that_commits_meanwhile_is_seen_whole_or_not_at_all(calls: Database) -> None:
    """One snapshot for all checks: a reader's first look decides."""
    reader = calls.connect()
    reader.set_session(isolation_level="REPEATABLE READ", autocommit=False)
    cursor = reader.cursor()
    cursor.execute("SELECT sum(wrong) FROM toll.verify()")
    assert cursor.fetchone() == (0,)
    add_call(calls)
    cursor.execute("SELECT sum(wrong), sum(checked) FILTER (WHERE check_name = 'batch_events') FROM toll.verify()")
    assert cursor.fetchone() == (0, 6)
    reader.close()
    assert calls.value("SELECT provolatile FROM pg_proc WHERE oid = 'toll.verify(timestamptz)'::regprocedure") == "s"


def test_journals_are_judged_apart(calls: Database) -> None:
    other = str(uuid.uuid4())
    assert other != str(JOURNAL)
    for writer in (0, 1):
        calls.execute("INSERT INTO toll.journals (journal_id, writer, lsn) VALUES (%s, %s, 7000)", other, writer)
        calls.execute("INSERT INTO toll.batches SELECT nextval('toll.batch_id_seq'), %s, %s, 5000, 7000, 0, 0, 0, 0, 0, 0", other, writer)
    assert faults(calls) == {}
