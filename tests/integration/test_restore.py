"""The database goes back in time under a running daemon, or the daemon's own directory does: what the journal keeps is there again, once."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Callable

import oracle
from harness import Cluster, Daemon, Database, Sender, StreamSender, frames, migrate, wait_until

Factory = Callable[..., Daemon]
QUICK = {"database.retry_max": "200ms"}


class Worker:
    """A sequenced worker with calls that go on from one feeding to the next, and everything it sent."""

    def __init__(self, daemon: Daemon) -> None:
        self.ledger = oracle.Ledger()
        self.sender = StreamSender(daemon.socket)
        self.live = [frames.new_session() for _ in range(5)]
        self._send(*[frames.session_start(session, metadata={"user_id": "u_42"}) for session in self.live])

    def feed(self, calls: int = 20) -> None:
        """Whole calls, and a turn of each live one; acknowledged. And frames without an envelope, received before that."""
        with Sender(self.sender.path) as plain:
            for _ in range(5):
                plain.send(*self.ledger.of(frames.usage("storage_mb", 1.5, account="acme")))
        for _ in range(calls):
            self._send(*frames.call(frames.new_session()))
        self._send(*[frames.llm(session, 7, 3) for session in self.live])
        self.sender.wait_acked()

    def hang_up(self) -> None:
        self._send(*[frames.session_end(session) for session in self.live])
        self.sender.wait_acked()
        self.sender.close()

    def _send(self, *each: frames.Frame) -> None:
        self.sender.send(*self.ledger.of(*each))

    @property
    def count(self) -> int:
        return len(self.ledger.records)


def stored(database: Database) -> int:
    return database.value("SELECT (SELECT count(*) FROM billing_events) + (SELECT count(*) FROM session_transcripts)")


def wait_state(daemon: Daemon, state: str, seconds: float = 20) -> dict[str, Any]:
    return wait_until(lambda: next((now for now in [daemon.status()] if now["sink_state"] == state), None), seconds,
                      f"the sink's state to be {state}")


def new_database(cluster: Cluster) -> Database:
    database = cluster.create_database()
    migrate(database.dsn)
    return database


def refused(status: dict[str, Any], start: str) -> str:
    """The statement that a refusal tells the operator to run."""
    assert status["intake"] == "reading" and status["sink_error"] in status["alarms"]
    found = re.search(rf"{start}.*?(?= stores all|$)", status["sink_error"])
    assert found, status["sink_error"]
    return found.group()


# --- the database ---

def test_older_copy_of_the_database(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """An operator puts last night's copy back. What came since then is stored again from the journal, then the rest goes on."""
    database = new_database(own_cluster)
    daemon = daemon_factory(database.dsn, config=QUICK).start()
    worker = Worker(daemon)
    worker.feed()
    daemon.wait_stored()
    copy = own_cluster.copy_data()
    worker.feed(30)
    worker.feed(10)
    daemon.wait_stored()
    before = stored(database)
    own_cluster.stop("immediate")
    worker.feed(5)  # into the journal
    daemon.freeze()  # so that what the copy holds can be seen
    own_cluster.restore(copy)
    restored = stored(database)
    assert restored < before
    daemon.thaw()
    daemon.wait_stored()
    worker.feed(5)
    worker.hang_up()
    status = daemon.wait_stored()
    daemon.wait_log("watermark went back")
    print(f"frames {worker.count} rows before {before} in the copy {restored} after {stored(database)} replayed {status['frames_replayed']}"
          f" {worker.ledger.check(database).figures}")


def test_older_copy_under_a_daemon_that_was_restarted(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """The daemon remembers nothing of the batches that the copy lacks; the journal does."""
    database = new_database(own_cluster)
    daemon = daemon_factory(database.dsn, config=QUICK).start()
    worker = Worker(daemon)
    worker.feed()
    daemon.wait_stored()
    copy = own_cluster.copy_data()
    worker.feed(30)
    daemon.wait_stored()
    own_cluster.restore(copy)
    daemon.kill()
    daemon.start()
    worker.feed(5)
    worker.hang_up()
    status = daemon.wait_stored()
    print(f"frames {worker.count} replayed {status['frames_replayed']} {worker.ledger.check(database).figures}")
    assert status["frames_replayed"] > 0


def test_lagging_standby_is_promoted(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """A standby that lacks the last batches takes over; the daemon finds it by its connection string, and fills in what it lacks."""
    database = new_database(own_cluster)
    standby = own_cluster.standby()
    try:
        daemon = daemon_factory(own_cluster.dsn_with(standby, database.name), config=QUICK).start()
        worker = Worker(daemon)
        worker.feed()
        daemon.wait_stored()
        there = Database(standby, database.name)
        wait_until(lambda: stored(there) == stored(database), what="the standby to follow")
        standby.psql("ALTER SYSTEM SET primary_conninfo = ''")
        standby.psql("SELECT pg_reload_conf()")
        wait_until(lambda: not own_cluster.psql("SELECT pid FROM pg_stat_replication"), what="replication to stop")
        worker.feed(30)
        worker.feed(10)
        daemon.wait_stored()
        before, lagging = stored(database), stored(there)
        assert lagging < before
        own_cluster.stop("immediate")
        worker.feed(5)
        standby.promote()
        worker.feed(5)
        worker.hang_up()
        daemon.wait_stored(seconds=40)
        daemon.wait_log("watermark went back")
        print(f"frames {worker.count} rows on the primary {before} on the standby {lagging} after {stored(there)}"
              f" {worker.ledger.check(there).figures}")
        daemon.kill()
    finally:
        standby.close()


def test_database_without_the_watermark(daemon_factory: Factory, db: Database) -> None:
    """Another database, or one restored from before the daemon: it stops storing and says what to run; receiving goes on."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    worker = Worker(daemon)
    worker.feed()
    daemon.wait_stored()
    db.execute("TRUNCATE billing_sessions, billing_events, session_transcripts, toll.journals, toll.streams, toll.batches CASCADE")
    worker.feed(10)
    status = wait_state(daemon, "stopped")
    hint = refused(status, "INSERT INTO toll.journals")
    assert status["frames_quarantined"] == 0 and stored(db) == 0
    worker.feed(10)
    daemon.kill()
    daemon.start()
    status = wait_state(daemon, "stopped")
    assert refused(status, "INSERT INTO toll.journals") == hint, "it does not register anew, nor after a restart"
    worker.feed(5)
    db.execute(hint)
    worker.hang_up()
    status = daemon.wait_stored()
    assert status["alarms"] == []
    print(f"frames {worker.count} {worker.ledger.check(db).figures}; {hint}")


def go_back(database: Database, lsn: int, seen: str) -> None:
    """As in a copy from when the watermark was there: neither the later batches, nor their rows, nor the numbers."""
    later = "batch_id IN (SELECT batch_id FROM toll.batches WHERE from_lsn >= %s)"
    database.execute(f"DELETE FROM billing_events WHERE {later}", lsn)
    database.execute(f"DELETE FROM session_transcripts WHERE {later}", lsn)
    database.execute("DELETE FROM toll.batches WHERE from_lsn >= %s", lsn)
    database.execute("DELETE FROM billing_sessions s WHERE ended_at IS NOT NULL AND NOT EXISTS"
                     " (SELECT 1 FROM billing_events e WHERE e.session_id = s.session_id)")
    database.execute("UPDATE toll.streams SET seen = %s::int8multirange, revision = revision + 1", seen)
    database.execute("UPDATE toll.journals SET lsn = %s", lsn)


def test_older_than_the_journal_keeps(daemon_factory: Factory, db: Database) -> None:
    """It stops storing, says what is missing, and keeps what there is, however long that takes; nothing is skipped until an operator
    accepts the loss, and then the loss is visible."""
    daemon = daemon_factory(db.dsn, config={**QUICK, "journal.retention": "2s", "journal.segment_bytes": "128K"}).start()
    worker = Worker(daemon)
    worker.feed()
    daemon.wait_stored()
    old, seen = db.value("SELECT lsn FROM toll.journals"), db.value("SELECT seen::text FROM toll.streams")
    worker.feed(100)
    worker.feed(100)
    daemon.wait_stored()
    wait_until(lambda: daemon.status()["oldest_lsn"] > old, what="segments to be deleted")
    for _ in range(4):
        worker.feed(80)
    daemon.wait_stored()
    go_back(db, old, seen)
    left = stored(db)
    worker.feed(10)
    status = wait_state(daemon, "stopped")
    hint = refused(status, "UPDATE toll.journals")
    assert "retention" in status["sink_error"] and stored(db) == left
    time.sleep(3)  # longer than the retention time: what would be deleted if it counted as committed is
    worker.feed(10)
    now = daemon.status()
    assert now["oldest_lsn"] == status["oldest_lsn"] and now["intake"] == "reading"
    assert refused(now, "UPDATE toll.journals") == hint
    db.execute(hint)
    worker.hang_up()
    status = daemon.wait_stored()
    assert status["alarms"] == []
    missing = db.value("SELECT sum(missing) FROM toll.stream_holes")
    outcome = oracle.compare(db, worker.ledger.records)
    print(f"frames {worker.count} beyond retention {missing} lost {outcome.lost} duplicated {outcome.duplicated}; {hint}")
    assert missing > 0 and outcome.duplicated == 0
    assert set(oracle.faults(db)) <= {"stream_holes", "batch_ranges"}, oracle.faults(db)


def test_replay_is_not_overtaken_by_retention(daemon_factory: Factory, db: Database) -> None:
    """What is stored again is kept until it is, though it was committed once and is old enough to go."""
    daemon = daemon_factory(db.dsn, config={**QUICK, "journal.retention": "3s", "journal.segment_bytes": "128K"}).start()
    worker = Worker(daemon)
    worker.feed()
    daemon.wait_stored()
    old, seen = db.value("SELECT lsn FROM toll.journals"), db.value("SELECT seen::text FROM toll.streams")
    for _ in range(4):
        worker.feed(80)
    daemon.wait_stored()
    locker = db.connect()
    locker.autocommit = False
    with locker.cursor() as cursor:  # the database goes back, and storing again is slow
        go_back(db, old, seen)
        cursor.execute("LOCK TABLE toll.batches IN EXCLUSIVE MODE")
        worker.feed(10)
        time.sleep(4)
    locker.rollback()
    locker.close()
    worker.feed(10)
    worker.hang_up()
    daemon.wait_stored()
    wait_until(lambda: daemon.status()["oldest_lsn"] > old, what="what is stored again to be deleted after all")
    print(f"frames {worker.count} {worker.ledger.check(db).figures}")


# --- the state directory ---

def copy_state(daemon: Daemon) -> Path:
    """The state directory as a backup would have it, the daemon down."""
    assert not daemon.running
    copy = daemon.dir / "state.copy"
    shutil.copytree(daemon.state, copy)
    return copy


def restore_state(daemon: Daemon, copy: Path) -> None:
    assert not daemon.running
    shutil.rmtree(daemon.state)
    os.rename(copy, daemon.state)


def test_older_copy_of_the_state_directory(daemon_factory: Factory, db: Database) -> None:
    """The watermark is above the log's end. A new journal begins, and what comes lands in no range that counts as stored."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    worker = Worker(daemon)
    worker.feed()
    daemon.wait_stored()
    assert daemon.stop() == 0
    copy = copy_state(daemon)
    daemon.start()
    worker.feed(40)
    status = daemon.wait_stored()
    journal = status["journal_id"]
    assert daemon.stop() == 0
    restore_state(daemon, copy)
    daemon.start()
    worker.feed(10)
    worker.hang_up()
    status = daemon.wait_stored()
    assert status["journal_id"] != journal
    assert db.value("SELECT count(*) FROM toll.journals") == 2
    print(f"frames {worker.count} journals 2 {worker.ledger.check(db).figures}")


def test_older_state_directory_and_runs_that_never_reached_the_database(daemon_factory: Factory, db: Database) -> None:
    """Their frames lie below the old watermark, though they were never stored. They are not taken for stored."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    worker = Worker(daemon)
    worker.feed(5)
    daemon.wait_stored()
    assert daemon.stop() == 0
    copy = copy_state(daemon)
    daemon.start()
    worker.feed(20)
    daemon.wait_stored()
    watermark = db.value("SELECT lsn FROM toll.journals")
    assert daemon.stop() == 0
    restore_state(daemon, copy)
    db.cluster.stop("immediate")
    daemon.start()
    worker.feed(10)
    daemon.kill()
    daemon.start()
    worker.feed(30)
    status = daemon.status()
    assert status["durable_lsn"] > watermark, "or the test shows nothing: the log must have grown past the old watermark"
    daemon.kill()
    daemon.start()
    worker.feed(5)
    db.cluster.start()
    worker.hang_up()
    status = daemon.wait_stored()
    print(f"frames {worker.count} journals {db.value('SELECT count(*) FROM toll.journals')} {worker.ledger.check(db).figures}")
