"""Rows that pass the decoder and that PostgreSQL refuses, because of what users have put on the tables: those rows go to quarantine, alone.
Where a table refuses all alike, the table is at fault: storing waits, nothing is quarantined, and all goes on by itself once it is mended."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Callable
from uuid import UUID

import pytest

import fault
import oracle
from harness import Daemon, Database, StreamSender, frames, wait_until

Factory = Callable[..., Daemon]

ROUNDS = fault.choose(6, 60)
CALLS = fault.choose(12, 40)  # in a round
SENDERS = 3

RAISE = """CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF {condition} THEN RAISE EXCEPTION 'refused by {name}'; END IF; RETURN NEW; END $$;"""

# What users put on the tables. Each refuses some frames; together they stand on one database.
WISHES = [
    RAISE.format(name="on_parent", condition="NEW.provider = 'poison'")
    + "CREATE TRIGGER on_parent BEFORE INSERT ON billing_events FOR EACH ROW EXECUTE FUNCTION on_parent()",
    RAISE.format(name="on_partition", condition="NEW.meter = 'poison'")
    + "CREATE TRIGGER on_partition AFTER INSERT ON toll.{partition} FOR EACH ROW EXECUTE FUNCTION on_partition()",
    RAISE.format(name="on_sessions", condition="NEW.metadata->>'tenant_id' = 'poison'")
    + "CREATE TRIGGER on_sessions BEFORE INSERT OR UPDATE ON billing_sessions FOR EACH ROW EXECUTE FUNCTION on_sessions()",
    RAISE.format(name="on_commit", condition="NEW.metadata->>'region' = 'poison'")
    + "CREATE CONSTRAINT TRIGGER on_commit AFTER INSERT OR UPDATE ON billing_sessions DEFERRABLE INITIALLY DEFERRED"
      " FOR EACH ROW EXECUTE FUNCTION on_commit()",
    "CREATE DOMAIN agent_name AS varchar(8) CHECK (VALUE <> 'poison'); ALTER TABLE billing_events ALTER COLUMN agent TYPE agent_name",
    "ALTER TABLE billing_events ADD CONSTRAINT no_666 CHECK (char_count <> 666)",
    "ALTER TABLE session_transcripts ALTER COLUMN language SET NOT NULL",
    "CREATE UNIQUE INDEX one_request ON billing_events (request_id, occurred_at)",
]


def doubled(good: frames.Frame) -> frames.Frame:
    return frames.llm(UUID(bytes=good["session_id"]), 9999, 9, request_id=good["request_id"], occurred_at=good["occurred_at"])


# A frame that one of them refuses, and what its reason says. `good` is an llm frame that was sent before.
POISONS: list[tuple[Callable[[UUID, frames.Frame], frames.Frame], str]] = [
    (lambda session, good: frames.llm(session, 7, 7, provider="poison"), "on_parent (SQLSTATE P0001)"),
    (lambda session, good: frames.usage("poison", 3, session), "on_partition (SQLSTATE P0001)"),
    (lambda session, good: frames.session_start(session, metadata={"tenant_id": "poison"}), "on_sessions (SQLSTATE P0001)"),
    (lambda session, good: frames.session_start(session, metadata={"region": "poison"}), "on_commit (SQLSTATE P0001)"),
    (lambda session, good: frames.llm(session, 70, 9, agent="poison"), "SQLSTATE 23514"),
    (lambda session, good: frames.tts(session, 666), "no_666"),
    (lambda session, good: frames.llm(session, 70, 7, agent="far too long"), "SQLSTATE 22001"),
    (lambda session, good: frames.transcript(session, "user", "poison"), "SQLSTATE 23502"),
    (lambda session, good: doubled(good), "SQLSTATE 23505"),
]


def good_call(chance: random.Random) -> list[frames.Frame]:
    """A call that none of them has anything against."""
    return [each | ({"language": "en"} if each["type"] == "transcript" else {})
            for each in frames.call(frames.new_session(), turns=chance.randint(1, 3), end=chance.random() < 0.8)]


@dataclass
class Worker:
    """Sends calls, with poison between their frames, in datagrams of any size."""

    sender: StreamSender
    ledger: oracle.Ledger
    chance: random.Random
    poison: list[tuple[bytes, str]] = field(default_factory=list)  # bytes, and what their reason says
    good: frames.Frame | None = None                               # the last llm frame

    def call(self, rate: float) -> None:
        waiting: list[frames.Frame] = []
        for each in good_call(self.chance):
            (made,) = self.ledger.of(each)
            waiting.append(made)
            if made["type"] == "llm":
                self.good = made
            if self.good and self.chance.random() < rate:
                make, reason = self.chance.choice(POISONS)
                (bad,) = oracle.identified(make(UUID(bytes=made["session_id"]), self.good))
                self.poison.append((frames.pack(bad), reason))
                waiting.append(bad)
            if self.chance.random() < 0.3:
                self.sender.send(*waiting)
                waiting = []
        if waiting:
            self.sender.send(*waiting)


def partition_of_now(db: Database) -> str:
    return db.value("SELECT partition FROM toll.partitions WHERE parent = 'billing_events' AND month = date_trunc('month', now() AT TIME ZONE"
                    " 'UTC')::date")


@pytest.mark.limit(600)
def test_only_poison_is_quarantined(daemon_factory: Factory, db: Database) -> None:
    """Poison and good frames in batches of any size, the daemon killed in between: every poisoned frame is in quarantine, once, with what is wrong
    with it, and everything else is stored."""
    chance = fault.rng("poison")
    for wish in WISHES:
        db.execute(wish.replace("{partition}", partition_of_now(db)))
    daemon = daemon_factory(db.dsn, activated=True)
    ledger, kills = oracle.Ledger(), 0
    workers = [Worker(StreamSender(daemon.socket), ledger, chance) for _ in range(SENDERS)]
    for number in range(ROUNDS):
        if not daemon.running:
            daemon.write_config({"batch.rows": chance.choice([1, 3, 20, 500, 20000]), "batch.age": chance.choice(["1ms", "50ms"]),
                                 "database.retry_max": "200ms"})
            daemon.start()
        for _ in range(CALLS):
            chance.choice(workers).call(chance.choice([0, 0.05, 0.3]))
        if chance.random() < 0.5 and number + 1 < ROUNDS:
            daemon.kill()
            kills += 1
    workers[0].call(0)  # company, should the last batch have been poison alone
    for worker in workers:
        worker.sender.wait_acked(seconds=60)
    status = daemon.wait_stored(seconds=120)
    expected = sorted(each for worker in workers for each, _ in worker.poison)
    reasons = dict(each for worker in workers for each in worker.poison)
    rows = [(bytes(each), reason) for each, reason in db.query("SELECT bytes, reason FROM toll.quarantine")]
    assert sorted(each for each, _ in rows) == expected
    assert all(reasons[each] in reason for each, reason in rows), [(reasons[each], reason) for each, reason in rows if reasons[each] not in reason]
    outcome = fault.judge(db, ledger.records, [daemon], acknowledged={each.sender.stream: each.sender.acked for each in workers})
    assert status["sink_state"] == "ok"
    for worker in workers:
        worker.sender.close()
    fault.report("poison_rows", outcome, frames=len(ledger.records), quarantined=len(rows), expected=len(expected), kills=kills,
                 batches=db.value("SELECT count(*) FROM toll.batches"))


NOBODY = RAISE.format(name="nobody", condition="true") + "CREATE TRIGGER nobody BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION nobody()"

# What makes a table refuse all alike, what mends it, and what the alarm says.
BREAKS: dict[str, tuple[str, str, str]] = {
    "trigger": (NOBODY.replace("{table}", "billing_events"), "DROP FUNCTION nobody CASCADE", "refused by nobody"),
    "partition_trigger": (NOBODY.replace("{table}", "toll.{partition}"), "DROP FUNCTION nobody CASCADE", "refused by nobody"),
    "transcript_trigger": (NOBODY.replace("{table}", "session_transcripts"), "DROP FUNCTION nobody CASCADE", "refused by nobody"),
    "check": ("ALTER TABLE billing_events ADD CONSTRAINT none CHECK (event_type = 'none') NOT VALID",
              "ALTER TABLE billing_events DROP CONSTRAINT none", "violates check constraint"),
    "not_null": ("ALTER TABLE billing_events ADD COLUMN wanted int; ALTER TABLE billing_events ADD CHECK (wanted IS NOT NULL) NOT VALID",
                 "ALTER TABLE billing_events DROP COLUMN wanted", "violates check constraint"),
    "dropped_type": ("CREATE DOMAIN moment AS timestamptz; ALTER TABLE billing_events ALTER COLUMN occurred_at_reported TYPE moment;"
                     " DROP DOMAIN moment CASCADE",
                     "ALTER TABLE billing_events ADD COLUMN occurred_at_reported timestamptz", "occurred_at_reported"),
    "narrow_type": ("ALTER TABLE billing_events ALTER COLUMN reasoning_tokens TYPE smallint",
                    "ALTER TABLE billing_events ALTER COLUMN reasoning_tokens TYPE integer", "reasoning_tokens"),
    "wide_type": ("ALTER TABLE billing_events ALTER COLUMN reasoning_tokens TYPE bigint",
                  "ALTER TABLE billing_events ALTER COLUMN reasoning_tokens TYPE integer", "reasoning_tokens"),
    "sessions_trigger": (NOBODY.replace("{table}", "billing_sessions"), "DROP FUNCTION nobody CASCADE", "refused by nobody"),
}


@pytest.mark.limit(600)
def test_a_table_that_refuses_all_alike_stops_storing(daemon_factory: Factory, db: Database) -> None:
    """One break after the other under whole calls: starts, ends and rows of the other table would pass. Acknowledging goes on, nothing is
    quarantined, and storing goes on when the table is mended, without anybody telling the daemon."""
    chance = fault.rng("alike")
    daemon = daemon_factory(db.dsn, config={"database.retry_max": "100ms", "batch.age": "5ms"}).start()
    ledger = oracle.Ledger()
    names = sorted(BREAKS)
    chance.shuffle(names)
    with StreamSender(daemon.socket) as sender:
        for name in names * fault.choose(1, 4):
            sender.send(*ledger.of(*frames.call(frames.new_session())))
            sender.wait_acked()
            daemon.wait_stored()
            broken, mended, told = BREAKS[name]
            db.execute(broken.replace("{partition}", partition_of_now(db)))
            for _ in range(chance.randint(1, 3)):  # many at once: a few alone may be at fault themselves
                sender.send(*ledger.of(*[each for _ in range(8) for each in frames.call(frames.new_session()) + [
                    frames.llm(frames.new_session(), 100, 50, reasoning_tokens=5)]]))
                sender.wait_acked(seconds=30)
            status = wait_until(lambda: stopped(daemon), 60, f"storing to stop: {name}")
            (alarm,) = status["alarms"]
            assert alarm["alarm"] == "storing_stopped" and told in alarm["text"], (name, alarm)
            assert status["frames_quarantined"] == 0 and status["intake"] == "reading", name
            sender.send(*ledger.of(*frames.call(frames.new_session())))
            sender.wait_acked(seconds=30)
            db.execute(mended)
            status = daemon.wait_stored(seconds=60)
            assert status["sink_state"] == "ok" and status["alarms"] == [] and status["frames_quarantined"] == 0, name
        outcome = fault.judge(db, ledger.records, [daemon], acknowledged={sender.stream: sender.acked})
    fault.report("alike_rows", outcome, breaks=len(names) * fault.choose(1, 4), quarantined=db.value("SELECT count(*) FROM toll.quarantine"))


def test_a_session_that_may_not_end_keeps_no_other_open(daemon_factory: Factory, db: Database) -> None:
    """Idle sessions are closed together. One that a user's trigger holds on to stays open, alone, and storing goes on."""
    fault.rng("orphans")
    db.execute(RAISE.format(name="no_end", condition="NEW.ended_at IS NOT NULL AND NEW.metadata->>'tenant_id' = 'stays'")
               + "CREATE TRIGGER no_end BEFORE UPDATE ON billing_sessions FOR EACH ROW EXECUTE FUNCTION no_end()")
    daemon = daemon_factory(db.dsn, config={"sessions.idle_timeout": "1s", "batch.age": "5ms"}).start()
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket) as sender:
        for number in range(20):
            tenant = "stays" if number % 7 == 3 else "goes"
            sender.send(*ledger.of(*frames.call(frames.new_session(), end=False, metadata={"tenant_id": tenant})))
        sender.wait_acked()
        open_left = "SELECT count(*) FROM billing_sessions WHERE ended_at IS NULL"
        wait_until(lambda: db.value(open_left) == 3, 30, "the others to be closed")
        sender.send(*ledger.of(*frames.call(frames.new_session())))
        sender.wait_acked()
        status = daemon.wait_stored()
        assert status["sink_state"] == "ok" and status["alarms"] == [], status
        db.execute("DROP FUNCTION no_end CASCADE")
        wait_until(lambda: db.value(open_left) == 0, 30, "the last ones to be closed")
        outcome = fault.judge(db, ledger.records, [daemon], acknowledged={sender.stream: sender.acked})
    assert "an idle session can't be closed" in daemon.log_text() and "refused by no_end" in daemon.log_text()
    fault.report("held_sessions", outcome, sessions=21, held=3)


def stopped(daemon: Daemon) -> dict[str, Any] | None:
    now = daemon.status()
    return now if now["sink_state"] == "stopped" else None
