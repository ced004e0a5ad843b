"""The schema as its users meet it: R2's queries, totals and views, comments, erasure."""

from __future__ import annotations

import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from schema import JOURNAL, TOTALS, add_batch, add_call, end_call, faults, partition_of, this_month, totals  # noqa: E402

TWO_TURNS = {"llm_input_tokens": 240, "llm_output_tokens": 60, "llm_calls": 2, "tts_chars": 160, "tts_calls": 2,
             "stt_audio_ms": 2000.2, "stt_calls": 2}
NOTHING = dict.fromkeys(TOTALS, 0)


def index_names(plan: Any) -> set[str]:
    """Every index that an EXPLAIN (FORMAT json) names."""
    if isinstance(plan, list):
        return {name for part in plan for name in index_names(part)}
    if isinstance(plan, dict):
        own = {plan["Index Name"]} if "Index Name" in plan else set()
        return own | {name for part in plan.values() for name in index_names(part)}
    return set()


def explain(database: Database, sql: str) -> set[str]:
    return index_names(database.value(f"EXPLAIN (FORMAT json) {sql}"))


# --- R2's queries, verbatim ---

def test_transcript_query(db: Database) -> None:
    session = add_call(db)
    rows = db.query("SELECT role, text, language, interrupted, occurred_at FROM session_transcripts WHERE session_id ="
                    f" '{session}' ORDER BY occurred_at;")
    assert [row[:4] for row in rows] == [("user", "guten Tag", "de", False), ("assistant", "good morn", None, True)] * 2


def test_interrupted_query(db: Database) -> None:
    session = add_call(db)
    rows = db.query(f"SELECT text, occurred_at FROM session_transcripts WHERE session_id = '{session}' AND role = 'assistant'"
                    " AND interrupted = TRUE;")
    assert [row[0] for row in rows] == ["good morn"] * 2


def test_user_query_and_its_index(db: Database) -> None:
    sql = ("SELECT session_id, duration_secs, llm_input_tokens FROM billing_sessions WHERE metadata->>'user_id' = 'u_42' ORDER BY"
           " started_at DESC;")
    older, newer = add_call(db), add_call(db, this_month(day=3))
    add_call(db, user="u_43")
    assert db.query(sql) == [(newer, 2.0, 240), (older, 2.0, 240)]
    db.execute("INSERT INTO billing_sessions (started_at, metadata) SELECT now(), jsonb_build_object('user_id', 'v_' || n)"
               " FROM generate_series(1, 5000) n; ANALYZE billing_sessions")
    assert explain(db, sql) == {"billing_sessions_user_id_idx"}


def test_transcript_query_uses_its_index(db: Database) -> None:
    session = add_call(db)
    db.execute("INSERT INTO session_transcripts (session_id, role, occurred_at)"
               " SELECT %s, 'user', %s FROM generate_series(1, 10000)", session, this_month(day=2))
    db.execute("ANALYZE session_transcripts")
    used = explain(db, f"SELECT role FROM session_transcripts WHERE session_id = '{uuid.uuid4()}' ORDER BY occurred_at")
    assert partition_of("session_transcripts", this_month()) + "_session_id_idx" in used


# --- what the tables refuse ---

@pytest.mark.parametrize("sql, error", [
    ("INSERT INTO billing_events (event_type, occurred_at) VALUES ('usage', now())", psycopg2.errors.CheckViolation),
    ("INSERT INTO billing_events (session_id, event_type, occurred_at) VALUES (gen_random_uuid(), 'llm', now())",
     psycopg2.errors.ForeignKeyViolation),
    ("INSERT INTO session_transcripts (session_id, occurred_at) VALUES (gen_random_uuid(), now())",
     psycopg2.errors.ForeignKeyViolation),
    ("INSERT INTO session_transcripts (occurred_at) VALUES (now())", psycopg2.errors.NotNullViolation),
    ("INSERT INTO toll.batches VALUES (1, gen_random_uuid(), 0, 0, 10, 5, 3, 1, 0, 1, 0)", psycopg2.errors.CheckViolation),
    ("INSERT INTO toll.batches VALUES (1, gen_random_uuid(), 0, 10, 10, 0, 0, 0, 0, 0, 0)", psycopg2.errors.CheckViolation),
])
def test_tables_refuse(db: Database, sql: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        db.execute(sql)


def test_usage_without_a_session_names_an_account(db: Database) -> None:
    db.execute("INSERT INTO billing_events (event_type, meter, quantity, account, occurred_at)"
               " VALUES ('usage', 'storage_mb', 0.1, 'acme', now())")
    assert db.query("SELECT account, quantity::text, calls FROM billing_events JOIN model_usage USING (meter, quantity)") == [
        ("acme", "0.1", 1)]


# --- totals ---

def test_totals_of_ended_and_live_calls(db: Database) -> None:
    ended, live = add_call(db), add_call(db, live=True)
    assert totals(db, ended) == TWO_TURNS and totals(db, ended, "session_totals") == TWO_TURNS
    assert totals(db, live) == NOTHING and totals(db, live, "session_totals") == TWO_TURNS
    assert db.query("SELECT session_id, duration_secs, last_activity_at = started_at + interval '1.001 s' FROM live_sessions") == [
        (live, 1.001, True)]
    assert db.query("SELECT session_id, ended_at = last_activity_at FROM session_totals WHERE NOT live") == [(ended, True)]


def test_recompute_follows_a_late_event(db: Database) -> None:
    session = add_call(db)
    db.execute("INSERT INTO billing_events (session_id, event_type, input_tokens, output_tokens, occurred_at, batch_id)"
               " VALUES (%s, 'llm', 2147483647, 2147483647, %s, %s)", session, this_month(day=2), add_batch(db, 1, 0))
    assert faults(db) == {"session_totals": 1}
    rows = db.query("SELECT * FROM toll.recompute_totals(ARRAY[%s, %s, %s]::uuid[])", session, session, str(uuid.uuid4()))
    assert rows == [(session, 2.0, 2147483887, 2147483707, 3, 160, 2, 2000.2, 2)]
    assert totals(db, session)["llm_input_tokens"] == 2147483887
    assert db.value("SELECT revision FROM billing_sessions WHERE session_id = %s", session) == 0
    assert faults(db) == {}


def test_recompute_leaves_live_and_sealed_calls_alone(db: Database) -> None:
    live, sealed, empty = add_call(db, live=True), add_call(db), add_call(db, turns=0)
    db.execute("UPDATE billing_sessions SET sealed = true, tts_chars = 7 WHERE session_id = %s", sealed)
    db.execute("UPDATE billing_sessions SET tts_chars = 7 WHERE session_id = %s", empty)
    rows = db.query("SELECT session_id, tts_chars, duration_secs FROM toll.recompute_totals(ARRAY[%s, %s, %s]::uuid[])"
                    " ORDER BY tts_chars", live, sealed, empty)
    assert rows == [(empty, 0, 0.0), (live, 160, None)]
    assert totals(db, live) == NOTHING and totals(db, empty) == NOTHING
    assert totals(db, sealed)["tts_chars"] == 7


def test_recompute_refuses_an_old_snapshot(db: Database) -> None:
    connection = db.connect()
    connection.set_session(isolation_level="REPEATABLE READ", autocommit=False)
    with pytest.raises(psycopg2.errors.InvalidTransactionState):
        connection.cursor().execute("SELECT toll.recompute_totals('{}')")
    connection.close()


def test_durations_never_go_below_zero(db: Database) -> None:
    session = add_call(db, live=True)
    end_call(db, session, this_month(day=1))
    assert db.value("SELECT duration_secs FROM billing_sessions WHERE session_id = %s", session) == 0
    assert faults(db) == {"session_durations": 1}


def test_microseconds_add_up_exactly(db: Database) -> None:
    """0.001 ms ten thousand times is 10 ms, not 9.99999."""
    session = add_call(db, turns=0)
    db.execute("INSERT INTO billing_events (session_id, event_type, audio_duration_ms, occurred_at, batch_id)"
               " SELECT %s, 'stt', 0.001, %s, %s FROM generate_series(1, 10000)",
               session, this_month(day=2), add_batch(db, 10000, 0))
    assert db.value("SELECT stt_audio_ms FROM toll.recompute_totals(ARRAY[%s]::uuid[])", session) == 10.0
    assert db.value("SELECT audio_ms FROM model_usage WHERE event_type = 'stt'") == 10.0


# --- views ---

def test_usage_per_model_and_day(db: Database) -> None:
    add_call(db)
    add_call(db, this_month(day=3))
    assert db.query("SELECT event_type, provider, model, calls, input_tokens, output_tokens, chars, audio_ms, audio_minutes::float8"
                    " FROM model_usage ORDER BY 1") == [
        ("llm", "openai", "gpt-4o", 4, 480, 120, 0, 0.0, 0.0),
        ("stt", "deepgram", "nova-3", 4, 0, 0, 0, 4000.4, 0.067),
        ("tts", "cartesia", "sonic", 4, 36, 36, 320, 10001.0, 0.167)]
    assert db.query("SELECT day, calls FROM model_usage_daily WHERE event_type = 'llm' ORDER BY day") == [
        (this_month(day=2).date(), 2), (this_month(day=3).date(), 2)]


def test_stream_holes(db: Database) -> None:
    db.execute("INSERT INTO toll.streams (uid, stream_id, writer, seen) VALUES (1, gen_random_uuid(), 0, '{[1,9)}'),"
               " (2, gen_random_uuid(), 0, '{[3,5),[6,6],[9,12)}'), (3, gen_random_uuid(), 0, '{}')")
    db.execute("INSERT INTO toll.streams (uid, stream_id, writer, base, seen) VALUES (4, gen_random_uuid(), 0, 3, '{[3,5),[7,8)}'),"
               " (5, gen_random_uuid(), 0, 9, '{[3,5)}')")
    assert db.query("SELECT uid, from_seq, to_seq, missing FROM toll.stream_holes ORDER BY from_seq, uid") == [
        (2, 1, 2, 2), (2, 5, 5, 1), (4, 5, 6, 2), (2, 7, 8, 2)]


def test_journal_and_quarantine_views(db: Database) -> None:
    add_call(db, live=True)
    db.execute("INSERT INTO toll.quarantine (reason, bytes) VALUES ('llm: input_tokens: 5 is above 4', '\\x01'),"
               " ('llm: input_tokens: 7 is above 4', '\\x0203'), ('no session', '')")
    assert db.query("SELECT journal_id, writer, lsn, last_batch_id, live_sessions FROM toll.journal_status") == [
        (str(JOURNAL), 0, 100, 1, 1)]
    assert db.query("SELECT kind, frames, bytes FROM toll.quarantine_summary ORDER BY frames") == [
        ("no session", 1, 0), ("llm: input_tokens: # is above #", 2, 3)]


def test_everything_users_see_has_a_comment(db: Database) -> None:
    bare = db.query("""
        SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relnamespace IN ('public'::regnamespace, 'toll'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
          AND (NOT c.relispartition OR c.relname LIKE '%_default') AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL
        SELECT c.oid::regclass || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace IN ('public'::regnamespace, 'toll'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
          AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT p.oid::regprocedure::text FROM pg_proc p
        WHERE p.pronamespace IN ('public'::regnamespace, 'toll'::regnamespace) AND obj_description(p.oid, 'pg_proc') IS NULL
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')""")
    assert bare == []


# --- erasure ---

def test_erasing_a_session_keeps_its_usage(db: Database) -> None:
    session, other = add_call(db), add_call(db)
    raw = uuid.UUID(session).bytes
    db.execute("INSERT INTO toll.quarantine (reason, bytes) VALUES ('a', %s), ('b', %s), ('c', 'other')",
               b"\x81" + raw + b"secret", session.encode() + b"secret")
    db.execute("INSERT INTO toll.gaps (session_id, count, raw_json) VALUES (%s, 3, '{\"who\": \"me\"}')", session)
    usage = db.query("SELECT * FROM billing_events ORDER BY id")
    assert db.query("SELECT sessions, transcripts, gaps, quarantined, live::text[] FROM toll.erase_session(%s)", session) == [
        (1, 4, 1, 2, [])]
    assert db.query("SELECT * FROM billing_events ORDER BY id") == usage
    assert totals(db, session) == TWO_TURNS
    assert db.value("SELECT metadata FROM billing_sessions WHERE session_id = %s", session) == {}
    assert db.query("SELECT DISTINCT text, language, raw_json, role IS NULL FROM session_transcripts WHERE session_id = %s",
                    session) == [(None, None, None, False)]
    assert db.query("SELECT reason, length(bytes) FROM toll.quarantine ORDER BY id") == [("erased", 0), ("erased", 0), ("c", 5)]
    assert db.value("SELECT count(text) FROM session_transcripts WHERE session_id = %s", other) == 4
    db.execute("DELETE FROM toll.quarantine")
    assert faults(db) == {}


def test_erasing_a_user(db: Database) -> None:
    add_call(db)
    live, other = add_call(db, live=True), add_call(db, user="u_43")
    assert db.query("SELECT sessions, transcripts, gaps, quarantined, live::text[] FROM toll.erase_user('u_42')") == [
        (2, 8, 0, 0, [live])]
    assert db.query("SELECT sessions FROM toll.erase_user('u_42')") == [(0,)]
    assert db.query("SELECT session_id, metadata->>'user_id' FROM billing_sessions WHERE metadata <> '{}'") == [(other, "u_43")]
    assert db.value("SELECT count(*) FROM session_transcripts WHERE text IS NOT NULL") == 4
    assert faults(db) == {}


def test_sessions_start_after_they_end_is_reported_not_refused(db: Database) -> None:
    """A table constraint would quarantine a call for its worker's clock; tolld clamps it, verify watches."""
    session = add_call(db)
    db.execute("UPDATE billing_sessions SET started_at = ended_at + %s WHERE session_id = %s", timedelta(seconds=1), session)
    assert faults(db) == {"session_durations": 1}
