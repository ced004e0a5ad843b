"""Several writers: their number is changed up and down between runs, with a backlog, with and without envelopes, with kills while it changes; a session
that somebody holds on to stops its own writer only. Everything is stored once, numbers stay one range, and every total is right."""

from __future__ import annotations

import random
import time
from typing import Any, Callable
from uuid import UUID

import pytest

import fault
import oracle
from harness import Daemon, Database, Sender, StreamSender, frames, wait_until
from outage import Outage

Factory = Callable[..., Daemon]
CONFIG = {"batch.age": "5ms", "batch.rows": 40, "database.retry_max": "100ms", "journal.segment_bytes": 131072, "journal.min_free_bytes": 0}
MARK_BYTES = 44  # a record without payload; a frame's is longer than two of them


def configure(daemon: Daemon, writers: int) -> None:
    daemon.write_config(CONFIG | {"database.writers": writers})


def watermarks(db: Database) -> list[int]:
    return [lsn for (lsn,) in db.query("SELECT lsn FROM toll.journals ORDER BY writer")]


def ranges(db: Database) -> list[tuple[int, int]]:
    """How many ranges of numbers each stream has over all its rows, and the first number that nobody has seen."""
    return db.query("SELECT (SELECT count(*) FROM unnest(range_agg(seen))), upper(range_agg(seen)) FROM toll.streams GROUP BY uid, stream_id")


class Traffic:
    """Calls of some sessions that go on and on, through workers with and without envelopes."""

    def __init__(self, daemon: Daemon, chance: random.Random) -> None:
        self.chance = chance
        self.ledger = oracle.Ledger()
        self.workers = [StreamSender(daemon.socket, 0.5) for _ in range(2)]
        self.plain = Sender(daemon.socket)
        self.live: list[UUID] = []
        self.unsure = False  # what has no envelope may not be on the disk yet

    def some(self) -> None:
        """A few whole calls, and parts of long ones."""
        made: list[frames.Frame] = []
        for _ in range(self.chance.randrange(1, 4)):
            made += frames.call(frames.new_session())
        if len(self.live) < 6:
            self.live.append(frames.new_session())
            made.append(frames.session_start(self.live[-1]))
        for session in self.chance.sample(self.live, min(3, len(self.live))):
            made += [frames.llm(session, self.chance.randrange(1000)), frames.transcript(session, "user", "well")]
        if self.chance.random() < 0.3 and self.live:
            made.append(frames.session_end(self.live.pop()))
        plain = self.chance.random() < 0.5
        self.unsure = self.unsure or plain
        for sender in (self.plain, *self.workers) if plain else self.workers:
            count = self.chance.randrange(len(made) + 1)
            cut, made = made[:count], made[count:]
            if cut:
                sender.send(*self.ledger.of(*cut))
        if made:
            self.workers[0].send(*self.ledger.of(*made))

    def secure(self) -> None:
        """Before the daemon is killed: what was read after it is durable."""
        if self.unsure:
            self.workers[0].send(*self.ledger.of(frames.usage("sms", 1, account="a")))
            self.workers[0].wait_acked()
            self.unsure = False

    def end(self) -> None:
        for session in self.live:
            self.workers[0].send(*self.ledger.of(frames.session_end(session)))
        self.live.clear()
        for worker in self.workers:
            worker.wait_acked()

    def acknowledged(self) -> dict[bytes, int]:
        return {worker.stream: worker.acked for worker in self.workers}

    def close(self) -> None:
        for each in (*self.workers, self.plain):
            each.close()


@pytest.mark.limit(150 + 3 * fault.choose(8, 150))
def test_number_changes_between_runs(daemon_factory: Factory, db: Database, outage: Outage) -> None:
    chance = fault.rng("number of writers")
    daemon = daemon_factory(db.dsn, activated=True)
    changes = kills = 0
    configure(daemon, 1)
    daemon.start()
    traffic = Traffic(daemon, chance)
    writers = 1
    try:
        for _ in range(fault.choose(8, 150)):
            for _ in range(chance.randrange(1, 6)):
                traffic.some()
            if chance.random() < 0.5:
                outage.begin()
                for _ in range(chance.randrange(1, 6)):
                    traffic.some()
            if chance.random() < 0.5:
                traffic.secure()
                daemon.kill()
            else:
                assert daemon.stop(seconds=20) == 0
            outage.end()
            before, writers = writers, chance.choice([1, 2, 3, 4])
            changes += before != writers
            configure(daemon, writers)
            # Killed while it changes; but what has no envelope and was left in the socket may be lost then, as it is being read.
            while not traffic.unsure and chance.random() < 0.4:
                daemon.start(ready_seconds=0)
                time.sleep(chance.uniform(0, 0.3))
                daemon.kill()
                kills += 1
            daemon.start()
        traffic.some()
        traffic.end()
        fault.settle(daemon)
        wait_until(lambda: len(watermarks(db)) == writers, 10, "the number to have changed")
        assert [each["writer"] for each in daemon.status()["writers"]] == list(range(writers))
        outcome = fault.judge(db, traffic.ledger.records, [daemon], acknowledged=traffic.acknowledged())
    finally:
        traffic.close()
    assert daemon.stop() == 0
    # A mark alone is not worth a transaction: the last ones may lie between them, but no frame.
    reached = watermarks(db)
    assert max(reached) - min(reached) in (0, MARK_BYTES, 2 * MARK_BYTES), "those for whom nothing was left to store have come as far as the others"
    assert all(count == 1 for count, _ in ranges(db)), "numbers are one range"
    assert db.value("SELECT count(*) FROM billing_sessions WHERE ended_at IS NULL") == 0
    fault.report("writers_changed", outcome, changes=changes, kills=kills,
                 shares=db.value("SELECT count(*) FROM toll.journal_shares"))


def test_locked_session_stops_its_own_writer_only(daemon_factory: Factory, db: Database) -> None:
    daemon = daemon_factory(db.dsn, config=CONFIG | {"database.writers": 2}).start()
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket) as worker:
        sessions = [frames.new_session() for _ in range(20)]
        worker.send(*ledger.of(*(frames.session_start(session) for session in sessions)))
        fault.settle(daemon)
        owners = dict(db.query("SELECT session_id, owner_writer FROM billing_sessions"))
        mine = [session for session in sessions if owners[str(session)] == 1]
        others = [session for session in sessions if owners[str(session)] == 0]
        assert mine and others
        holder: Any = db.connect()
        try:
            with holder.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute("SELECT FROM billing_sessions WHERE session_id = %s FOR UPDATE", (str(mine[0]),))
                stuck = watermarks(db)[1]
                worker.send(*ledger.of(frames.llm(mine[0], 1)))
                time.sleep(0.2)
                for session in others:
                    worker.send(*ledger.of(frames.llm(session, 2)))
                wait_until(lambda: db.value("SELECT count(*) FROM billing_events") == len(others), 10, "the other writer to go on")
                assert watermarks(db)[1] == stuck < watermarks(db)[0]
                assert daemon.status()["backlog_bytes"] > 0
                cursor.execute("COMMIT")
        finally:
            holder.close()
        fault.settle(daemon)
        assert db.value("SELECT count(*) FROM billing_events") == len(others) + 1
        assert db.query("SELECT DISTINCT (SELECT count(*) FROM unnest(seen)) FROM toll.streams") == [(1,)], "others' numbers are noted too"
        worker.wait_acked()
        fault.judge(db, ledger.records, [daemon], acknowledged={worker.stream: worker.acked})


def test_idle_writer_makes_no_transaction_for_each_batch_of_another(daemon_factory: Factory, db: Database) -> None:
    daemon = daemon_factory(db.dsn, config={"batch.age": "1ms", "database.writers": 4}).start()
    session = frames.new_session()
    with StreamSender(daemon.socket) as worker:
        for n in range(100):
            worker.send(frames.llm(session, n))
            worker.wait_acked()
        fault.settle(daemon)
    batches = dict(db.query("SELECT writer, count(*) FROM toll.batches GROUP BY writer"))
    busy = max(batches.values())
    took = db.value("SELECT extract(epoch FROM max(committed_at) - min(committed_at))::float8 FROM toll.batches")
    assert busy > 10 and all(count == busy or count <= took + 2 for count in batches.values()), batches


@pytest.mark.writers(2)
def test_acknowledged_on_commit_by_all(writers: int, daemon_factory: Factory, db: Database) -> None:
    """ack = commit waits for every writer, and so also for those that have nothing to store."""
    daemon = daemon_factory(db.dsn, config={"journal.ack": "commit", "batch.age": "5ms"}).start()
    with StreamSender(daemon.socket) as worker:
        took = []
        for n in range(20):
            worker.send(frames.llm(frames.new_session(), n))
            began = time.monotonic()
            worker.wait_acked()
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < 0.5, "an acknowledgement did not wait for the idle writer's second"
