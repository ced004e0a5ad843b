"""For tests of the schema alone: migrating without the daemon, and rows as tolld would store them."""

from __future__ import annotations

import subprocess
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

from harness import BUILD, SLOWNESS, Database

UTC = timezone.utc
JOURNAL = uuid.UUID(int=1)
PARENTS = ("billing_events", "session_transcripts")
TOTALS = ("llm_input_tokens", "llm_output_tokens", "llm_calls", "tts_chars", "tts_calls", "stt_audio_ms", "stt_calls")


def start_migrate(what: str, dsn: str) -> subprocess.Popen[str]:
    """tests/sql/migrate.c, which is built with address and undefined-behaviour sanitizers."""
    return subprocess.Popen([BUILD / "tests/sql/migrate", what, dsn], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)


def migrate(what: str, dsn: str) -> tuple[int, str]:
    """Runs migrate_run ("run") or migrate_check ("check"); returns the exit status and everything it printed."""
    process = start_migrate(what, dsn)
    output, _ = process.communicate(timeout=60 * SLOWNESS)
    return process.returncode, output


def migrated(database: Database) -> Database:
    status, output = migrate("run", database.dsn)
    assert status == 0, output
    return database


def this_month(offset: int = 0, day: int = 1) -> datetime:
    """Noon of a day of the current month (UTC), or of one that many months from it."""
    now = datetime.now(UTC)
    months = now.year * 12 + now.month - 1 + offset
    return datetime(months // 12, months % 12 + 1, day, 12, tzinfo=UTC)


def partition_of(parent: str, at: datetime) -> str:
    return f"{parent}_{at:%Y_%m}"


def rows_in(database: Database, table: str) -> int:
    return database.value(f"SELECT count(*) FROM toll.{table}")


def add_batch(database: Database, events: int, transcripts: int, *, others: int = 0, quarantined: int = 0) -> int:
    """A batch that follows the one before, with the watermark moved to its end; returns its number."""
    stored = events + transcripts + others
    return database.value(
        "WITH moved AS (INSERT INTO toll.journals AS j (journal_id, writer, lsn) VALUES (%s, 0, 100)"
        " ON CONFLICT (journal_id, writer) DO UPDATE SET lsn = j.lsn + 100 RETURNING lsn)"
        " INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates,"
        " events, transcripts, first_received_at, last_received_at)"
        " SELECT nextval('toll.batch_id_seq'), %s, 0, lsn - 100, lsn, %s, %s, %s, 0, %s, %s, now(), now() FROM moved"
        " RETURNING batch_id",
        str(JOURNAL), str(JOURNAL), stored + quarantined, stored, quarantined, events, transcripts)


def add_call(database: Database, started: datetime | None = None, *, live: bool = False, user: str = "u_42", turns: int = 2) -> str:
    """A call of one batch: per turn an stt, an llm, a tts event and two transcripts. Ended calls get their totals."""
    session = str(uuid.uuid4())
    started = started or this_month(day=2)
    batch = add_batch(database, 3 * turns, 2 * turns, others=1 if live else 2)
    database.execute("INSERT INTO billing_sessions (session_id, started_at, metadata, owner_journal, owner_writer)"
                     " VALUES (%s, %s, jsonb_build_object('user_id', %s::text, 'phone_number', '+4930123'), %s, 0)",
                     session, started, user, str(JOURNAL))
    if live:
        database.execute("INSERT INTO toll.open_sessions VALUES (%s)", session)
    database.execute(
        "INSERT INTO billing_events (session_id, event_type, provider, model, input_tokens, output_tokens, char_count,"
        " audio_duration_ms, occurred_at, batch_id)"
        " SELECT %s, used.*, %s::timestamptz + turn * interval '1 s', %s FROM generate_series(0, %s) AS turn, (VALUES"
        " ('stt', 'deepgram', 'nova-3', NULL::integer, NULL::integer, NULL::integer, 1000.1::float8),"
        " ('llm', 'openai', 'gpt-4o', 120, 30, NULL, NULL),"
        " ('tts', 'cartesia', 'sonic', 9, 9, 80, 2500.25)) AS used", session, started, batch, turns - 1)
    database.execute(
        "INSERT INTO session_transcripts (session_id, role, text, language, interrupted, occurred_at, batch_id)"
        " SELECT %s, said.role, said.text, said.language, said.interrupted, %s::timestamptz + turn * interval '1 s' + said.later, %s"
        " FROM generate_series(0, %s) AS turn, (VALUES"
        " ('user', 'guten Tag', 'de', false, interval '0'),"
        " ('assistant', 'good morn', NULL, true, interval '1 ms')) AS said (role, text, language, interrupted, later)",
        session, started, batch, turns - 1)
    if not live:
        end_call(database, session, started + timedelta(seconds=turns))
    return session


def end_call(database: Database, session: str, at: datetime, reason: str = "end") -> None:
    """As a batch does that can't take the totals from memory: lock, write the end, recompute."""
    connection = database.connect()
    connection.autocommit = False
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM billing_sessions WHERE session_id = %s FOR UPDATE", (session,))
        cursor.execute("UPDATE billing_sessions SET ended_at = %s, finish_reason = %s WHERE session_id = %s", (at, reason, session))
        cursor.execute("DELETE FROM toll.open_sessions WHERE session_id = %s", (session,))
        cursor.execute("SELECT toll.recompute_totals(ARRAY[%s]::uuid[])", (session,))
    connection.close()


def totals(database: Database, session: str, table: str = "billing_sessions") -> dict[str, Any]:
    row = database.query(f"SELECT {', '.join(TOTALS)} FROM {table} WHERE session_id = %s", session)[0]
    return dict(zip(TOTALS, row))


def verify(database: Database, since: datetime | None = None) -> dict[str, tuple[int, int, str]]:
    """toll.verify() by check: checked, wrong, detail."""
    return {name: (checked, wrong, detail) for name, checked, wrong, detail in
            database.query("SELECT * FROM toll.verify(%s)", since)}


def faults(database: Database, since: datetime | None = None) -> dict[str, int]:
    """The checks of toll.verify() that found something wrong, with how much."""
    return {name: wrong for name, (_, wrong, _) in verify(database, since).items() if wrong}
