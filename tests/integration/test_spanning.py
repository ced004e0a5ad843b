"""One call, whatever happens in the middle of it, ends with the same row; and R3's rules for sessions, on the real database."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any, Callable

import pytest

import oracle
from harness import Cluster, Daemon, Database, StreamSender, frames, wait_until

Factory = Callable[..., Daemon]
MINUTE = 60_000_000


def sent(daemon: Daemon, *batches: list[frames.Frame]) -> dict[str, Any]:
    """Each list in a batch of its own, stored; returns the status."""
    with StreamSender(daemon.socket) as sender:
        for batch in batches:
            sender.send(*batch)
            sender.wait_acked()
            status = daemon.wait_stored()
    return status


def row(db: Database, session: uuid.UUID, columns: str) -> tuple[Any, ...]:
    return db.query(f"SELECT {columns} FROM billing_sessions WHERE session_id = %s", str(session))[0]


# --- one call, undisturbed and not ---

BEGAN = frames.now_us() - 10 * MINUTE


def the_call(session: uuid.UUID) -> list[list[frames.Frame]]:
    """The same call each time but for its id, in four parts between which something happens."""
    def at(second: float) -> int:
        return BEGAN + int(second * 1_000_000)
    return [
        [frames.session_start(session, started_at=at(0), metadata={"user_id": "u_42", "tags": ["a", {"b": None}], "n": 1.5}, source="sip"),
         frames.stt(session, 1234.567, occurred_at=at(2), language="de"),
         frames.transcript(session, "user", "Grüße", occurred_at=at(2))],
        [frames.llm(session, 1000, 50, occurred_at=at(3.25), cached_input_tokens=512),
         frames.tts(session, 180, occurred_at=at(4)),
         frames.transcript(session, "assistant", "Guten Tag", interrupted=True, occurred_at=at(5.000001)),
         frames.stt(session, 0.001, occurred_at=at(6))],
        [frames.llm(session, 2**31 - 1, 2**31 - 1, occurred_at=at(7)),
         frames.llm(session, 2**31 - 1, 0, occurred_at=at(7)),
         frames.usage("telephony_inbound", 1.25, session, occurred_at=at(9))],
        [frames.stt(session, 99.9995, occurred_at=at(11)),
         frames.tts(session, 2**31 - 1, occurred_at=at(12)),
         frames.session_end(session, ended_at=at(12.345678), finish_reason="stop")],
    ]


def others(count: int = 3) -> list[frames.Frame]:
    """Other live sessions, so that a session that is not used falls out of a memory of one."""
    return [frame for _ in range(count) for frame in frames.call(frames.new_session(), turns=1, end=False)]


class Disturbance:
    """What happens between the parts of a call; counts what it did."""

    config: dict[str, Any] = {}

    def __init__(self, daemon: Daemon, cluster: Cluster) -> None:
        self.daemon, self.cluster = daemon, cluster

    def before(self, part: int) -> None:
        """With everything sent so far acknowledged."""


class Nothing(Disturbance):
    pass


class StopAndStart(Disturbance):
    def before(self, part: int) -> None:
        self.daemon.restart()


class KillAndStart(Disturbance):
    def before(self, part: int) -> None:
        self.daemon.kill()
        self.daemon.start()


class Eviction(Disturbance):
    config = {"sessions.max_in_memory": 1}

    def before(self, part: int) -> None:
        sent(self.daemon, others(3 * self.daemon.writers ** 2))  # some of each writer
        assert self.daemon.status()["sessions_live"] <= self.daemon.writers


class DatabaseOutage(Disturbance):
    """Each part is sent while the database is away; it comes back between the parts."""

    config = {"database.retry_max": "100ms"}

    def before(self, part: int) -> None:
        if part % 2 and self.cluster.running:
            self.cluster.stop("immediate")
        elif not self.cluster.running:
            self.cluster.start()


class DatabaseGoneUntilTheEnd(Disturbance):
    """And the daemon is killed meanwhile: all of the call waits in the journal."""

    config = {"database.retry_max": "100ms"}

    def before(self, part: int) -> None:
        if part == 1:
            self.cluster.stop("immediate")
        self.daemon.kill()
        self.daemon.start()


class ConnectionsCut(Disturbance):
    config = {"database.retry_max": "100ms"}

    def before(self, part: int) -> None:
        self.cluster.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                          " AND pid <> pg_backend_pid()")


def played(daemon_factory: Factory, database: Database, kind: type[Disturbance], one_batch_each: bool) -> dict[str, Any]:
    """Plays the call to a new daemon with this disturbance; returns the row it left."""
    cluster = database.cluster
    daemon = daemon_factory(database.dsn, config=kind.config).start()
    disturbance = kind(daemon, cluster)
    session = frames.new_session()
    with StreamSender(daemon.socket) as sender:
        for part, batch in enumerate(the_call(session)):
            if part:
                disturbance.before(part)
            sender.send(*batch)
            sender.wait_acked()
            if one_batch_each and cluster.running:
                daemon.wait_stored(seconds=40)
        if not cluster.running:
            cluster.start()
        daemon.wait_stored(seconds=40)
        facts = oracle.session_facts(database, session)
    daemon.kill()
    return facts


@pytest.mark.writers(1, 2)
def test_call_ends_the_same_whatever_happens(daemon_factory: Factory, db: Database) -> None:
    plain = played(daemon_factory, db, Nothing, one_batch_each=False)
    assert plain["llm_input_tokens"] == 1000 + 2 * (2**31 - 1) and plain["llm_output_tokens"] == 50 + 2**31 - 1
    assert plain["tts_chars"] == 180 + 2**31 - 1 and plain["stt_audio_ms"] == (1234567 + 1 + 100000) / 1000
    assert plain["duration_secs"] == 12.345678 and plain["finish_reason"] == "stop"
    assert plain["metadata"] == {"user_id": "u_42", "tags": ["a", {"b": None}], "n": 1.5} and plain["raw_json"] == {"source": "sip"}
    assert plain["started_at"] == oracle.time_of(BEGAN) and plain["ended_at"] == oracle.time_of(BEGAN + 12_345_678)
    disturbed = [(Nothing, True), (StopAndStart, True), (KillAndStart, True), (KillAndStart, False), (Eviction, True), (DatabaseOutage, True),
               (DatabaseGoneUntilTheEnd, False), (ConnectionsCut, False)]
    for kind, one_batch_each in disturbed:
        assert played(daemon_factory, db, kind, one_batch_each) == plain, (kind.__name__, one_batch_each)
    assert oracle.faults(db) == {}
    print(f"one undisturbed and {len(disturbed)} disturbed calls, all with one and the same row: {' '.join(kind.__name__ for kind, _ in disturbed)}")


# --- starts and ends ---

@pytest.mark.parametrize("together", [True, False], ids=["one_batch", "batch_each"])
@pytest.mark.parametrize("live", [True, False], ids=["live", "ended"])
def test_duplicate_start_keeps_the_earliest_and_merges(daemon: Daemon, db: Database, together: bool, live: bool) -> None:
    session, now = frames.new_session(), frames.now_us()
    batches = [
        [frames.session_start(session, started_at=now - MINUTE, metadata={"user_id": "u_1", "region": "eu", "empty": None})],
        [frames.llm(session, occurred_at=now)],
        [frames.session_start(session, started_at=now - 2 * MINUTE, metadata={"user_id": "u_2", "phone_number": "+1555"})],
        [frames.session_start(session, started_at=now, metadata={"region": "us", "more": 7})],
    ]
    batches.insert(len(batches) if live else 2, [frames.session_end(session, ended_at=now)])
    sent(daemon, *([sum(batches, [])] if together else batches))
    started, metadata, duplicates, missing, duration = row(
        db, session, "started_at, metadata, duplicate_starts, start_missing, duration_secs")
    assert started == oracle.time_of(now - 2 * MINUTE)
    assert metadata == {"user_id": "u_1", "region": "eu", "empty": None, "phone_number": "+1555", "more": 7}, "nothing is erased"
    assert (duplicates, missing, duration) == (2, False, 120)
    assert oracle.faults(db) == {}


@pytest.mark.parametrize("together", [True, False], ids=["one_batch", "batch_each"])
def test_duplicate_end_changes_nothing_and_is_counted(daemon: Daemon, db: Database, together: bool) -> None:
    session, now = frames.new_session(), frames.now_us()
    batches = [frames.call(session, turns=1, end=False),
               [frames.session_end(session, ended_at=now + 1_000_000, finish_reason="stop")],
               [frames.session_end(session, ended_at=now + 9_000_000, finish_reason="cancel")],
               [frames.session_end(session)]]
    sent(daemon, *([sum(batches, [])] if together else batches))
    assert row(db, session, "ended_at, finish_reason, duplicate_ends, revision, llm_calls") == (
        oracle.time_of(now + 1_000_000), "stop", 2, 0, 1)
    assert oracle.faults(db) == {}


def test_missing_start_is_synthesised_and_replaced(daemon: Daemon, db: Database) -> None:
    session, now = frames.new_session(), frames.now_us()
    sent(daemon, [frames.llm(session, occurred_at=now - 1000), frames.llm(session, occurred_at=now)])
    assert row(db, session, "start_missing, started_at, metadata") == (True, oracle.time_of(now - 1000), {})
    sent(daemon, [frames.session_start(session, started_at=now, metadata={"user_id": "late"})])
    assert row(db, session, "start_missing, started_at, metadata, duplicate_starts") == (False, oracle.time_of(now), {"user_id": "late"}, 0)
    sent(daemon, [frames.session_end(session, ended_at=now + 5_000_000)])
    assert row(db, session, "duration_secs, llm_calls") == (5, 2)
    end_only = frames.new_session()
    sent(daemon, [frames.session_end(end_only, ended_at=now)])
    assert row(db, end_only, "start_missing, duration_secs, finish_reason") == (True, 0, "end")
    assert oracle.faults(db) == {}


def test_orphan_ends_at_its_last_activity(daemon_factory: Factory, db: Database) -> None:
    """Also one that the daemon knows only from the table; a real end supersedes it, a late event moves it."""
    daemon = daemon_factory(db.dsn, config={"sessions.idle_timeout": "2s"}).start()
    now = frames.now_us()
    known, unknown, only_started = (frames.new_session() for _ in range(3))

    def call(session: uuid.UUID) -> list[frames.Frame]:
        return [frames.session_start(session, started_at=now - MINUTE), frames.llm(session, 10, 1, occurred_at=now - MINUTE // 2),
                frames.transcript(session, text="still there?", occurred_at=now - MINUTE // 3)]
    sent(daemon, call(unknown))
    daemon.kill()
    daemon.start()
    sent(daemon, call(known), [frames.session_start(only_started, started_at=now)])
    began = time.monotonic()
    for session in (known, unknown, only_started):
        wait_until(lambda: row(db, session, "ended_at")[0], 15, "the orphan to be closed")
    print(f"all orphans closed {time.monotonic() - began:.1f} s after their last frame, at an idle time-out of 2 s")
    for session in (known, unknown):
        assert row(db, session, "ended_at, finish_reason, duration_secs, llm_input_tokens, revision") == (
            oracle.time_of(now - MINUTE // 3), "orphaned", 40, 10, 0)
    assert row(db, only_started, "ended_at, finish_reason, duration_secs") == (oracle.time_of(now), "orphaned", 0)
    sent(daemon, [frames.llm(known, 5, 1, occurred_at=now)])
    assert row(db, known, "ended_at, finish_reason, llm_input_tokens, duration_secs") == (oracle.time_of(now), "orphaned", 15, 60)
    sent(daemon, [frames.session_end(known, ended_at=now + 1_000_000), frames.llm(unknown, 7, 0)],
         [frames.session_end(unknown, ended_at=now + 2_000_000, finish_reason="stop")])
    assert row(db, known, "ended_at, finish_reason, duration_secs, llm_input_tokens, duplicate_ends") == (
        oracle.time_of(now + 1_000_000), "end", 61, 15, 0)
    assert row(db, unknown, "ended_at, finish_reason, llm_input_tokens, duplicate_ends") == (
        oracle.time_of(now + 2_000_000), "stop", 17, 0)
    assert oracle.faults(db) == {}


def test_busy_session_is_no_orphan(daemon_factory: Factory, db: Database) -> None:
    """Not even when memory has room for one session only, and so forgets it between two of its frames."""
    daemon = daemon_factory(db.dsn, config={"sessions.idle_timeout": "2s", "sessions.max_in_memory": 1}).start()
    sessions = [frames.new_session() for _ in range(2)]
    with StreamSender(daemon.socket) as sender:
        until = time.monotonic() + 4.5
        while time.monotonic() < until:
            for session in sessions:
                sender.send(frames.llm(session))
                sender.wait_acked()
                time.sleep(0.15)
        daemon.wait_stored()
    assert [row(db, session, "finish_reason")[0] for session in sessions] == [None, None]


@pytest.mark.parametrize("across", ["memory", "restart"])
def test_late_event_corrects_the_totals(daemon_factory: Factory, db: Database, across: str) -> None:
    daemon = daemon_factory(db.dsn).start()
    session, now = frames.new_session(), frames.now_us()
    sent(daemon, [frames.session_start(session, started_at=now - MINUTE), frames.stt(session, 10.25), frames.session_end(session, ended_at=now)])
    if across == "restart":
        daemon.restart()
    sent(daemon, [frames.stt(session, 0.5), frames.llm(session, 7, 3)])
    assert row(db, session, "stt_audio_ms, stt_calls, llm_input_tokens, revision, finish_reason, ended_at, duration_secs") == (
        10.75, 2, 7, 1, "end", oracle.time_of(now), 60)
    sent(daemon, [frames.transcript(session)], [frames.tts(session, 9)])
    assert row(db, session, "tts_chars, revision, duration_secs") == (9, 3, 60)
    assert oracle.faults(db) == {}


# --- clocks ---

@pytest.mark.parametrize("together", [True, False], ids=["one_batch", "batch_each"])
def test_clock_skew_makes_no_negative_duration(daemon: Daemon, db: Database, together: bool) -> None:
    session, now = frames.new_session(), frames.now_us()
    batches = [[frames.session_start(session, started_at=now)], [frames.session_end(session, ended_at=now - 3_000_000)]]
    sent(daemon, *([sum(batches, [])] if together else batches))
    assert row(db, session, "duration_secs, ended_at, ended_at_reported") == (0, oracle.time_of(now), oracle.time_of(now - 3_000_000))
    assert oracle.faults(db) == {}


def test_far_times_are_clamped_and_kept(daemon_factory: Factory, db: Database) -> None:
    daemon = daemon_factory(db.dsn, config={"sessions.future_tolerance": "1m", "sessions.past_tolerance": "10m"}).start()
    session, now = frames.new_session(), frames.now_us()
    far, old = now + 60 * MINUTE, now - 60 * MINUTE
    sent(daemon, [frames.session_start(session, started_at=old), frames.llm(session, occurred_at=far), frames.tts(session, occurred_at=old),
                  frames.transcript(session, occurred_at=far), frames.stt(session, occurred_at=now), frames.session_end(session, ended_at=far)])
    started, ended, started_reported, ended_reported, duration = row(
        db, session, "started_at, ended_at, started_at_reported, ended_at_reported, duration_secs")
    assert (started_reported, ended_reported) == (oracle.time_of(old), oracle.time_of(far))
    assert timedelta(0) <= started - oracle.time_of(now - 10 * MINUTE) < timedelta(seconds=30), "the receive time less 10 minutes"
    assert timedelta(0) <= ended - oracle.time_of(now + MINUTE) < timedelta(seconds=30)
    assert duration == pytest.approx(11 * 60, abs=0.001)
    assert dict(db.query("SELECT event_type, occurred_at_reported FROM billing_events")) == {
        "llm": oracle.time_of(far), "tts": oracle.time_of(old), "stt": None}
    assert db.value("SELECT occurred_at_reported FROM session_transcripts") == oracle.time_of(far)
    assert db.value("SELECT max(occurred_at) FROM billing_events") == ended
    assert oracle.faults(db) == {}


def test_times_without_partition_of_their_own(daemon: Daemon, db: Database) -> None:
    """A year ago, within the tolerance, has no partition: the default one takes it."""
    session, now = frames.new_session(), frames.now_us()
    sent(daemon, [frames.llm(session, occurred_at=now - 390 * 24 * 60 * MINUTE), frames.session_end(session, ended_at=now)])
    assert row(db, session, "llm_calls")[0] == 1
    assert oracle.faults(db) == {}


# --- without a session ---

def test_usage_without_a_session(daemon: Daemon, db: Database) -> None:
    status = sent(daemon, [frames.usage("storage_mb", 12.5, account="acme", raw={"bucket": "b"}), frames.usage("api_calls", 3)])
    assert db.query("SELECT session_id, account, meter, quantity::float8, raw_json FROM billing_events") == [
        (None, "acme", "storage_mb", 12.5, {"bucket": "b"})]
    assert status["frames_quarantined"] == 1, "usage of nobody is no usage"
    assert db.value("SELECT count(*) FROM billing_sessions") == 0
    assert oracle.faults(db) == {}


# --- what a user does to the tables ---

def test_poison_row_alone_is_quarantined(daemon: Daemon, db: Database) -> None:
    """A constraint of the user's that a few frames of many violate."""
    db.execute("ALTER TABLE billing_events ADD CONSTRAINT no_13 CHECK (input_tokens <> 13)")
    ledger = oracle.Ledger()
    poison = []
    with StreamSender(daemon.socket) as sender:
        for number in range(100):
            session = frames.new_session()
            call = frames.call(session, turns=2)
            if number in (0, 1, 50, 99):
                bad = frames.llm(session, 13, 1, occurred_at=frames.now_us())
                poison.append(frames.pack(bad))
                sender.send(*ledger.of(*call[:5]))
                sender.send(*ledger.of(call[5]), bad, *ledger.of(*call[6:]))
            else:
                sender.send(*ledger.of(*call))
        sender.wait_acked()
        status = daemon.wait_stored()
    assert status["frames_quarantined"] == 4 and status["frames_stored"] == len(ledger.records) == 1200
    assert {bytes(each) for each, in db.query("SELECT bytes FROM toll.quarantine")} == set(poison)
    reasons = [each for each, in db.query("SELECT reason FROM toll.quarantine")]
    assert all("no_13" in each for each in reasons), reasons
    assert db.value("SELECT sum(received) FROM toll.batches") == 1204 and status["sink_state"] == "ok"
    print(f"frames 1204 quarantined 4 stored 1200 {ledger.check(db).figures}")


def test_all_rows_refused_alike_raises_an_alarm(daemon_factory: Factory, db: Database) -> None:
    """Then the table is at fault: nothing is quarantined, receiving goes on, and storing does when the table is mended."""
    daemon = daemon_factory(db.dsn, config={"database.retry_max": "200ms"}).start()
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket) as sender:
        sender.send(*ledger.of(*frames.call(frames.new_session())))
        sender.wait_acked()
        daemon.wait_stored()
        db.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'closed for today'; END $$")
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON billing_events FOR EACH ROW EXECUTE FUNCTION refuse()")
        for _ in range(20):
            session = frames.new_session()
            sender.send(*ledger.of(*[frames.llm(session) for _ in range(5)]))
            sender.wait_acked()
        status = wait_until(lambda: next((now for now in [daemon.status()] if now["sink_state"] == "stopped"), None), what="the alarm")
        assert "closed for today" in status["sink_error"] and any("closed for today" in each["text"] for each in status["alarms"])
        assert status["frames_quarantined"] == 0 and status["intake"] == "reading" and status["frames_pending"] == 100
        sender.send(*ledger.of(frames.llm(session)))
        sender.wait_acked(seconds=5)
        db.execute("DROP TRIGGER refuse ON billing_events")
        status = daemon.wait_stored()
    assert status["sink_state"] == "ok" and status["alarms"] == [] and status["frames_quarantined"] == 0
    assert db.value("SELECT count(*) FROM toll.quarantine") == 0
    print(f"frames {len(ledger.records)} {ledger.check(db).figures}")


@pytest.mark.parametrize("where", ["partition", "parent"])
def test_users_trigger_fires_for_each_row(daemon: Daemon, db: Database, where: str) -> None:
    """The daemon may skip the foreign keys' triggers, but not a user's, which it must see even on one partition."""
    assert db.value("SELECT has_parameter_privilege('postgres', 'session_replication_role', 'SET')")
    table = db.value("SELECT partition FROM toll.partitions WHERE parent = 'billing_events' AND month = date_trunc('month', now() AT TIME ZONE"
                     " 'UTC')::date") if where == "partition" else None
    sent(daemon, frames.call(frames.new_session()))
    db.execute("CREATE TABLE seen (id bigint)")
    db.execute("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END $$")
    db.execute(f"CREATE TRIGGER note AFTER INSERT ON {'toll.' + table if table else 'billing_events'} FOR EACH ROW EXECUTE FUNCTION note()")
    sent(daemon, frames.call(frames.new_session(), turns=4), frames.call(frames.new_session(), turns=4))
    assert db.value("SELECT count(*) FROM seen") == 24
    assert db.value("SELECT count(*) FROM billing_events WHERE id IN (SELECT id FROM seen)") == 24
    assert oracle.faults(db) == {}


def test_role_without_the_parameter_falls_back(daemon_factory: Factory, db: Database) -> None:
    """A role that may not set session_replication_role stores the same, more slowly, says so once; foreign keys hold either way."""
    role = f"metering_{db.name}"
    db.execute(f"CREATE ROLE {role} LOGIN; GRANT toll_ingest TO {role}")
    db.execute("REVOKE SET ON PARAMETER session_replication_role FROM toll_ingest")
    try:
        assert not db.value("SELECT has_parameter_privilege(%s, 'session_replication_role', 'SET')", role)
        daemon = daemon_factory(db.cluster.dsn(db.name, role), config={"database.auto_migrate": "false"}).start()
        ledger = oracle.Ledger()
        for _ in range(3):
            sent(daemon, ledger.of(*frames.call(frames.new_session())))
            db.terminate_backends()  # so that it connects, and looks, again
        assert daemon.log_text().count("foreign keys are checked row by row") == 1
        with pytest.raises(Exception, match="foreign key"):
            db.execute("INSERT INTO billing_events (session_id, event_type, occurred_at) VALUES (gen_random_uuid(), 'llm', now())")
        print(f"frames {len(ledger.records)} {ledger.check(db).figures}")
        daemon.kill()
    finally:
        db.execute("GRANT SET ON PARAMETER session_replication_role TO toll_ingest")
        db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
