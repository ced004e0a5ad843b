"""A database in use is migrated: what is stored stays as it is, and tolld goes on storing.

tests/sql/at_004.sql is such a database, after migrations/004: pg_dump of what the tolld of that time had stored, roles and functions of that time
included. A call that has ended and got a late event after a restart (17 + 1 frames), one that is live (16), a frame that was refused, a gap, usage of
an account; all of one stream, numbers 1 to 37, sent by uid 0."""

from __future__ import annotations

import os
import uuid
from typing import Callable

import pytest

import oracle
from harness import ROOT, Daemon, Database, StreamSender, frames, migrate, run

ENDED, LIVE = uuid.uuid5(uuid.NAMESPACE_DNS, "ended"), uuid.uuid5(uuid.NAMESPACE_DNS, "live")
STREAM, LAST = bytes(range(16)), 37
STORED = ("SELECT to_jsonb(t) FROM public.billing_events AS t ORDER BY id", "SELECT to_jsonb(t) FROM public.session_transcripts AS t ORDER BY id",
          "SELECT to_jsonb(t) FROM public.billing_sessions AS t ORDER BY session_id", "SELECT to_jsonb(t) FROM toll.quarantine AS t",
          "SELECT to_jsonb(t) FROM toll.gaps AS t", "SELECT to_jsonb(t) FROM toll.journals AS t", "SELECT to_jsonb(t) FROM toll.streams AS t")


@pytest.fixture
def at_004(empty_db: Database) -> Database:
    for role in ("toll_owner", "toll_ingest", "toll_reader", "toll_transcripts"):
        empty_db.execute(f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    run([empty_db.cluster.bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", empty_db.dsn, "-f", ROOT / "tests/sql/at_004.sql"])
    empty_db.execute("UPDATE toll.streams SET uid = %s", os.getuid())
    return empty_db


def stored(database: Database) -> list[list[dict[str, object]]]:
    return [[row for row, in database.query(sql)] for sql in STORED]


@pytest.mark.writers(1, 2)
def test_database_in_use_is_migrated_and_stored_into(at_004: Database, daemon_factory: Callable[..., Daemon]) -> None:
    before = stored(at_004)
    assert [len(rows) for rows in before] == [20, 12, 2, 1, 1, 1, 1]
    migrate(at_004.dsn)
    for old, new in zip(before, stored(at_004)):  # columns may have been added
        assert [row | old[i] for i, row in enumerate(new)] == new and len(new) == len(old)
    assert oracle.faults(at_004) == {}

    daemon = daemon_factory(at_004.dsn).start()
    with StreamSender(daemon.socket) as sender:
        sender.stream = STREAM
        for seq, session in ((1, ENDED), (18, LIVE)):  # sent once more: their numbers are known
            sender.send_datagram(frames.pack(frames.envelope(STREAM, seq, 1, 16), *frames.call(session, end=False)))
        sender.next = LAST + 1
        sender.send(frames.llm(LIVE, 1000, 100), frames.llm(ENDED, 10000, 1000), frames.session_end(LIVE), *frames.call(frames.new_session()))
        sender.wait_acked()
    status = daemon.wait_stored(32 + 20)
    assert status["frames_duplicate"] == 32 and status["frames_quarantined"] == 0
    live, ended = (oracle.session_facts(at_004, session) for session in (LIVE, ENDED))
    assert (live["llm_calls"], live["llm_input_tokens"], live["tts_calls"], live["finish_reason"]) == (4, 1303, 3, "end")
    assert (ended["llm_calls"], ended["llm_input_tokens"], ended["tts_calls"], ended["finish_reason"]) == (5, 10310, 3, "end")
    assert at_004.value("SELECT range_agg(seen)::text FROM toll.streams") == f"{{[1,{LAST + 21})}}"
    assert oracle.faults(at_004) == {}
