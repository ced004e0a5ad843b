"""The database goes back in time under a running daemon, or the daemon's own directory does: what the journal keeps is there again, once. What
it does not keep is refused clearly; nothing is deleted or skipped until an operator has accepted the loss, which is then exactly that."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any, Callable

import fault
import journalfiles
import oracle
from caller import Caller
from harness import Cluster, Daemon, Database, migrate, run, wait_until

Factory = Callable[..., Daemon]
QUICK = {"database.retry_max": "200ms"}
SCALE = fault.choose(1, 25)
RETENTION_SECONDS = 2  # in the test of what lies beyond


def feed(caller: Caller, calls: int = 20) -> None:
    """With frames that have no envelope: what is stored again must not be there twice even without numbers."""
    caller.feed(calls * SCALE, plain=5)


def stored(database: Database) -> int:
    return database.value("SELECT (SELECT count(*) FROM billing_events) + (SELECT count(*) FROM session_transcripts)")


def report(name: str, database: Database, daemon: Daemon, caller: Caller, **figures: Any) -> None:
    outcome = fault.judge(database, caller.records, [daemon], acknowledged=caller.acknowledged)
    fault.report(name, outcome, frames=outcome.frames, **figures)


def wait_stopped(daemon: Daemon, why: str, seconds: float = 20) -> dict[str, Any]:
    return wait_until(lambda: next((now for now in [daemon.status()] if now["sink_state"] == "stopped" and why in now["sink_error"]), None),
                      seconds, f"storing to be stopped because of: {why}")


def new_database(cluster: Cluster) -> Database:
    database = cluster.create_database()
    migrate(database.dsn)
    return database


def advice(daemon: Daemon, status: dict[str, Any], start: str) -> str:
    """The statement that a refusal tells the operator to run, in tollctl's status and in the log."""
    assert status["intake"] == "reading"
    assert status["sink_error"] in json.dumps(status["alarms"], ensure_ascii=False), status["alarms"]
    found = re.search(rf"{start}.*?(?= stores all|$)", status["sink_error"])
    assert found, status["sink_error"]
    daemon.wait_log(found.group())
    return found.group()


# --- a dump, as operators have it ---

class Dump:
    """pg_dump's archive of a database as it is now."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.file = directory / "dump"
        run([database.cluster.bin / "pg_dump", "-d", database.dsn, "-Fc", "-f", self.file])

    def empty(self) -> None:
        """The database goes, and one of its name comes that has nothing in it."""
        self.database.cluster.psql(f"DROP DATABASE {self.database.name} WITH (FORCE)")
        self.database.cluster.psql(f"CREATE DATABASE {self.database.name}")

    def restore(self) -> None:
        """In one transaction, so that the daemon sees all of it or nothing."""
        run([self.database.cluster.bin / "pg_restore", "-d", self.database.dsn, "--single-transaction", self.file])


def test_restored_from_a_dump(daemon_factory: Factory, db: Database) -> None:
    """Last night's dump replaces the database while the daemon runs. It keeps its hands off the empty one, and goes on by itself."""
    chance = fault.rng("restored from a dump")
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        for _ in range(fault.choose(1, 4)):
            feed(caller)
            if chance.random() < 0.5:
                daemon.wait_stored()
            dump = Dump(db, daemon.dir)  # calls are live in it, batches perhaps on their way
            feed(caller, 30)
            daemon.wait_stored()
            before = stored(db)
            dump.empty()
            feed(caller, 5)
            if chance.random() < 0.5:
                daemon.kill()
                daemon.start()
            wait_stopped(daemon, "no tables of toll's")
            feed(caller, 5)
            assert not db.query("SELECT 1 FROM pg_namespace WHERE nspname = 'toll'"), "an empty database that is to be restored was filled"
            dump.restore()
            daemon.wait_stored(seconds=40)
            after = stored(db)
            assert after > before
        feed(caller, 5)
        caller.hang_up()
        status = daemon.wait_stored()
        assert status["alarms"] == []
        report("restored_from_a_dump", db, daemon, caller, rows_before=before, rows_after=after, replayed=status["frames_replayed"])


def test_recreated_empty(daemon_factory: Factory, db: Database) -> None:
    """No dump at all: the operator makes the tables anew, and then says where to go on. Everything that the journal has is stored."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        feed(caller)
        daemon.wait_stored()
        Dump(db, daemon.dir).empty()
        feed(caller, 5)
        status = wait_stopped(daemon, "no tables of toll's")
        assert advice(daemon, status, "tolld --migrate") == "tolld --migrate"
        feed(caller, 5)
        migrate(db.dsn)
        hint = advice(daemon, wait_stopped(daemon, "no watermark"), "INSERT INTO toll.journals")
        feed(caller, 5)
        assert stored(db) == 0
        db.execute(hint)
        caller.hang_up()
        assert daemon.wait_stored()["alarms"] == []
        report("recreated_empty", db, daemon, caller)


def test_without_the_watermark(daemon_factory: Factory, db: Database) -> None:
    """Another database, or one restored from before the daemon: it stops storing and says what to run, after a restart too."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        feed(caller)
        daemon.wait_stored()
        db.execute("TRUNCATE billing_sessions, billing_events, session_transcripts, toll.journals, toll.streams, toll.batches CASCADE")
        feed(caller, 10)
        status = wait_stopped(daemon, "no watermark")
        hint = advice(daemon, status, "INSERT INTO toll.journals")
        assert status["frames_quarantined"] == 0 and stored(db) == 0
        feed(caller, 10)
        daemon.kill()
        daemon.start()
        assert advice(daemon, wait_stopped(daemon, "no watermark"), "INSERT INTO toll.journals") == hint, "it registered anew"
        feed(caller, 5)
        db.execute(hint)
        caller.hang_up()
        assert daemon.wait_stored()["alarms"] == []
        report("without_the_watermark", db, daemon, caller)


# --- beyond what the journal keeps ---

def beyond(database: Database, daemon: Daemon, caller: Caller, dump: Dump, chance: random.Random) -> None:
    """What is neither in the dump nor in the journal is lost, to the frame; all else is there once."""
    known = fault.stored_numbers(database)
    dump.empty()
    caller.feed(10)
    oldest = wait_stopped(daemon, "no tables of toll's")["oldest_lsn"]
    dump.restore()
    hint = advice(daemon, wait_stopped(daemon, "journal.retention"), "UPDATE toll.journals")
    left = stored(database)
    time.sleep(RETENTION_SECONDS + 0.2)  # what would be deleted if it counted as committed is old enough now
    caller.feed(10)
    if chance.random() < 0.5:
        daemon.kill()
        daemon.start()
        wait_stopped(daemon, "journal.retention")
    now = daemon.status()
    assert now["oldest_lsn"] == oldest and stored(database) == left, "something was deleted, or skipped"
    assert advice(daemon, now, "UPDATE toll.journals") == hint
    kept, dumped = journalfiles.numbers(daemon.state), fault.stored_numbers(database)
    assert len(known) == len(kept) == 1
    stream = next(iter(kept))
    wanted = kept[stream] | dumped[stream]
    database.execute(hint)
    caller.hang_up()
    assert daemon.wait_stored()["alarms"] == []
    wanted |= set(range(max(wanted) + 1, caller.sender.next))  # the ends of the live calls

    lost = len(caller.records) - len(wanted)
    outcome = oracle.compare(database, caller.with_numbers(wanted))
    wrong = oracle.faults(database)
    fault.report("older_than_the_journal", outcome, frames=len(caller.records), beyond_retention=lost, told=database.value(
        "SELECT sum(missing) FROM toll.stream_holes"), kept_by_the_journal=len(kept[stream]))
    assert fault.stored_numbers(database)[stream] == wanted
    assert lost == database.value("SELECT sum(missing) FROM toll.stream_holes") > 0
    assert set(wrong) == {"stream_holes", "batch_ranges"}, wrong


def test_older_than_the_journal_keeps(daemon_factory: Factory, db: Database) -> None:
    """It stops storing, says what is missing and what to do, and keeps what there is, however long that takes."""
    chance = fault.rng("older than the journal keeps")
    daemon = daemon_factory(db.dsn, config={**QUICK, "journal.retention": f"{RETENTION_SECONDS}s", "journal.segment_bytes": "128K"}).start()
    with Caller(daemon.socket) as caller:
        caller.feed(20)
        daemon.wait_stored()
        old, dump = db.value("SELECT lsn FROM toll.journals"), Dump(db, daemon.dir)
        caller.feed(100 * SCALE)
        caller.feed(100 * SCALE)
        daemon.wait_stored()
        wait_until(lambda: daemon.status()["oldest_lsn"] > old, what="segments to be deleted")
        caller.feed(80)
        daemon.wait_stored()
        beyond(db, daemon, caller, dump, chance)


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


def test_replay_is_not_overtaken_by_retention(daemon_factory: Factory, db: Database) -> None:
    """What is stored again is kept until it is, though it was committed once and is old enough to go."""
    daemon = daemon_factory(db.dsn, config={**QUICK, "journal.retention": "3s", "journal.segment_bytes": "128K"}).start()
    with Caller(daemon.socket) as caller:
        feed(caller)
        daemon.wait_stored()
        old, seen = db.value("SELECT lsn FROM toll.journals"), db.value("SELECT seen::text FROM toll.streams")
        for _ in range(4):
            caller.feed(80)
        daemon.wait_stored()
        locker = db.connect()
        locker.autocommit = False
        with locker.cursor() as cursor:  # the database goes back, and storing again is slow
            go_back(db, old, seen)
            cursor.execute("LOCK TABLE toll.batches IN EXCLUSIVE MODE")
            caller.feed(10)
            time.sleep(4)
        locker.rollback()
        locker.close()
        feed(caller, 10)
        caller.hang_up()
        daemon.wait_stored()
        wait_until(lambda: daemon.status()["oldest_lsn"] > old, what="what is stored again to be deleted after all")
        report("replay_and_retention", db, daemon, caller)


# --- a copy of the whole server ---

def test_older_copy_of_the_server(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """An operator puts last night's base backup back. What came since then is stored again from the journal, then the rest goes on."""
    database = new_database(own_cluster)
    daemon = daemon_factory(database.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        feed(caller)
        daemon.wait_stored()
        copy = own_cluster.copy_data()
        feed(caller, 30)
        feed(caller, 10)
        daemon.wait_stored()
        before = stored(database)
        own_cluster.stop("immediate")
        feed(caller, 5)  # into the journal
        daemon.freeze()  # so that what the copy holds can be seen
        own_cluster.restore(copy)
        restored = stored(database)
        assert restored < before
        daemon.thaw()
        daemon.wait_stored()
        feed(caller, 5)
        caller.hang_up()
        status = daemon.wait_stored()
        daemon.wait_log("watermark went back")
        report("older_copy", database, daemon, caller, rows_before=before, rows_in_copy=restored, rows_after=stored(database),
               replayed=status["frames_replayed"])


def test_older_copy_under_a_daemon_that_was_restarted(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """The daemon remembers nothing of the batches that the copy lacks; the journal does."""
    database = new_database(own_cluster)
    daemon = daemon_factory(database.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        feed(caller)
        daemon.wait_stored()
        copy = own_cluster.copy_data()
        feed(caller, 30)
        daemon.wait_stored()
        own_cluster.restore(copy)
        daemon.kill()
        daemon.start()
        feed(caller, 5)
        caller.hang_up()
        status = daemon.wait_stored()
        report("older_copy_and_restart", database, daemon, caller, replayed=status["frames_replayed"])
        assert status["frames_replayed"] > 0


def test_lagging_standby_is_promoted(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """A standby that lacks the last batches takes over; the daemon finds it by its connection string, and fills in what it lacks."""
    database = new_database(own_cluster)
    standby = own_cluster.standby()
    try:
        daemon = daemon_factory(own_cluster.dsn_with(standby, database.name), config=QUICK).start()
        with Caller(daemon.socket) as caller:
            feed(caller)
            daemon.wait_stored()
            there = Database(standby, database.name)
            wait_until(lambda: stored(there) == stored(database), what="the standby to follow")
            standby.psql("ALTER SYSTEM SET primary_conninfo = ''")
            standby.psql("SELECT pg_reload_conf()")
            wait_until(lambda: not own_cluster.psql("SELECT pid FROM pg_stat_replication"), what="replication to stop")
            feed(caller, 30)
            feed(caller, 10)
            daemon.wait_stored()
            before, lagging = stored(database), stored(there)
            assert lagging < before
            own_cluster.stop("immediate")
            feed(caller, 5)
            standby.promote()
            feed(caller, 5)
            caller.hang_up()
            daemon.wait_stored(seconds=40)
            daemon.wait_log("watermark went back")
            report("standby_promoted", there, daemon, caller, rows_on_primary=before, rows_on_standby=lagging, rows_after=stored(there))
        daemon.kill()
    finally:
        standby.close()


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


def report_without_journals(name: str, database: Database, caller: Caller, **figures: Any) -> None:
    """For a journal that was put back: it lacks frames that are stored."""
    outcome = fault.judge(database, caller.records, acknowledged=caller.acknowledged)
    fault.report(name, outcome, frames=outcome.frames, journals=database.value("SELECT count(*) FROM toll.journals"), **figures)


def test_older_copy_of_the_state_directory(daemon_factory: Factory, db: Database) -> None:
    """The watermark is above the log's end. A new journal begins, and what comes lands in no range that counts as stored."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        feed(caller)
        daemon.wait_stored()
        assert daemon.stop() == 0
        copy = copy_state(daemon)
        daemon.start()
        feed(caller, 40)
        journal = daemon.wait_stored()["journal_id"]
        assert daemon.stop() == 0
        restore_state(daemon, copy)
        daemon.start()
        feed(caller, 10)
        caller.hang_up()
        assert daemon.wait_stored()["journal_id"] != journal
        assert db.value("SELECT count(DISTINCT journal_id) FROM toll.journals") == 2
        report_without_journals("older_state", db, caller)


def test_older_state_directory_and_runs_that_never_reached_the_database(daemon_factory: Factory, db: Database) -> None:
    """Their frames lie below the old watermark, though they were never stored. They are not taken for stored."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        feed(caller, 5)
        daemon.wait_stored()
        assert daemon.stop() == 0
        copy = copy_state(daemon)
        daemon.start()
        feed(caller, 20)
        daemon.wait_stored()
        watermark = db.value("SELECT lsn FROM toll.journals")
        assert daemon.stop() == 0
        restore_state(daemon, copy)
        db.cluster.stop("immediate")
        daemon.start()
        feed(caller, 10)
        daemon.kill()
        daemon.start()
        feed(caller, 30)
        assert daemon.status()["durable_lsn"] > watermark, "or the test shows nothing: the log must have grown past the old watermark"
        daemon.kill()
        daemon.start()
        feed(caller, 5)
        db.cluster.start()
        caller.hang_up()
        daemon.wait_stored()
        report_without_journals("older_state_without_database", db, caller)
