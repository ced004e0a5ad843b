"""A commit whose answer never came: the backend is frozen inside COMMIT, the daemon killed, the backend thawed, the daemon restarted.

Whether the server had committed or not: one copy of every row. The backend is held inside COMMIT at two places, without chance:
- before the commit record: a deferred trigger on toll.batches waits for an advisory lock that the test holds;
- after it: COMMIT waits for a synchronous standby that does not exist, its record on disk, its rows not visible yet.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

import pytest

import oracle
from harness import Daemon, Database, StreamSender, frames, wait_until
from proxy import Proxy

Factory = Callable[..., Daemon]
KEY = 4711  # of the advisory lock

HOLD_COMMITS = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared({KEY}); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON toll.batches DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
GRANT EXECUTE ON FUNCTION hold() TO PUBLIC;
"""


class BeforeTheRecord:
    """COMMIT runs the deferred trigger and waits there."""

    wait_event = "advisory"

    def __init__(self, database: Database) -> None:
        self.database = database
        database.execute(HOLD_COMMITS)
        self.holder: Any = database.connect()
        with self.holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (KEY,))

    def release(self) -> None:
        self.holder.close()


class AfterTheRecord:
    """COMMIT has written its record and waits for a standby to have it too."""

    wait_event = "SyncRep"

    def __init__(self, database: Database) -> None:
        self.cluster = database.cluster
        self._set("'a_standby_that_never_comes'")
        wait_until(lambda: database.value("SHOW synchronous_standby_names") != "", what="the setting")

    def release(self) -> None:
        self._set("''")

    def _set(self, value: str) -> None:
        self.cluster.psql(f"ALTER SYSTEM SET synchronous_standby_names = {value}")
        self.cluster.psql("SELECT pg_reload_conf()")


@contextlib.contextmanager
def commits_held(place: type, database: Database) -> Iterator[Any]:
    held = place(database)
    released = False

    def release() -> None:
        nonlocal released
        if not released:
            held.release()
        released = True
    held.let_go = release
    try:
        yield held
    finally:
        database.cluster.thaw_all()
        if not database.cluster.running:
            database.cluster.start()
        release()


def backend_in_commit(database: Database, wait_event: str) -> int:
    """The daemon's backend, once it waits inside COMMIT."""
    found = wait_until(lambda: database.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND query = 'COMMIT' AND state = 'active' AND wait_event = %s",
        database.name, wait_event), what=f"a backend in COMMIT waiting for {wait_event}")
    return found[0][0]


def waits_behind(database: Database, zombie: int) -> bool:
    """Whether another backend of the daemon's waits: for a lock that the zombie holds, or for the same standby."""
    return bool(database.query("SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> %s AND (%s = ANY (pg_blocking_pids(pid))"
                               " OR wait_event = 'SyncRep')", database.name, zombie, zombie))


def stored_batches(database: Database) -> int:
    return database.value("SELECT count(*) FROM toll.batches")


def feed(daemon: Daemon, ledger: oracle.Ledger, sender: StreamSender, sessions: int) -> None:
    """One datagram for each call, all acknowledged."""
    for _ in range(sessions):
        sender.send(*ledger.of(*frames.call(frames.new_session(), turns=2, metadata={"user_id": "u_42"})))
    sender.wait_acked()


@pytest.mark.parametrize("restart_first", [False, True], ids=["thawed_then_restarted", "restarted_then_thawed"])
@pytest.mark.parametrize("place, outcome", [
    (BeforeTheRecord, "commits"), (BeforeTheRecord, "aborts"), (AfterTheRecord, "commits")],
    ids=["before_record_commits", "before_record_aborts", "after_record_commits"])
def test_backend_frozen_in_commit(daemon_factory: Factory, db: Database, place: type, outcome: str, restart_first: bool) -> None:
    ledger = oracle.Ledger()
    daemon = daemon_factory(db.dsn).start()
    with StreamSender(daemon.socket) as sender:
        feed(daemon, ledger, sender, 3)
        daemon.wait_stored()
        before = stored_batches(db)
        with commits_held(place, db) as held:
            feed(daemon, ledger, sender, 5)
            zombie = backend_in_commit(db, held.wait_event)
            db.cluster.freeze(zombie)
            daemon.kill()
            if restart_first:
                daemon.start()
                feed(daemon, ledger, sender, 2)
                wait_until(lambda: waits_behind(db, zombie), what="the new daemon's batch to wait for the zombie")
            assert stored_batches(db) == before, "nothing of a commit that has not ended is visible"
            if outcome == "aborts":
                db.query("SELECT pg_terminate_backend(%s)", zombie)  # heard when it is thawed
                db.cluster.thaw(zombie)
                wait_until(lambda: not db.query("SELECT pid FROM pg_stat_activity WHERE pid = %s", zombie), what="the zombie to end")
                held.let_go()
            else:
                held.let_go()
                db.cluster.thaw(zombie)
                wait_until(lambda: stored_batches(db) > before, what="the zombie's commit")
        if not restart_first:
            daemon.start()
        sender.resend()  # what the workers can't know is durable
        feed(daemon, ledger, sender, 2)
        status = daemon.wait_stored()
    found = ledger.check(db)
    print(f"frames {found.frames} batches {stored_batches(db)} stale_batches {status['batches_retried']} {found.figures}")


@pytest.mark.parametrize("place, survives", [(BeforeTheRecord, False), (AfterTheRecord, True)], ids=["before_record", "after_record"])
def test_server_crashes_in_commit(daemon_factory: Factory, db: Database, place: type, survives: bool) -> None:
    """The same, ended by a crash of the server; the daemon lives on and finds out which of the two it was."""
    ledger = oracle.Ledger()
    daemon = daemon_factory(db.dsn, config={"database.retry_max": "200ms"}).start()
    with StreamSender(daemon.socket) as sender:
        feed(daemon, ledger, sender, 3)
        daemon.wait_stored()
        before = stored_batches(db)
        with commits_held(place, db) as held:
            feed(daemon, ledger, sender, 5)
            backend_in_commit(db, held.wait_event)
            daemon.freeze()  # so that what the crash left can be seen before the daemon goes on
            db.cluster.stop("immediate")
            db.cluster.start()
            assert (stored_batches(db) > before) == survives
            held.let_go()
        daemon.thaw()
        feed(daemon, ledger, sender, 2)
        status = daemon.wait_stored()
    found = ledger.check(db)
    assert status["frames_received"] == status["frames_stored"] == found.frames, "a commit found out later is counted as stored"
    print(f"frames {found.frames} batches {stored_batches(db)} {found.figures}")


@pytest.mark.parametrize("outcome", ["commits", "aborts"])
def test_connection_lost_in_commit(daemon_factory: Factory, db: Database, outcome: str) -> None:
    """The daemon lives, its connection breaks, the server notices nothing: the next try waits for the old backend, and learns from it."""
    ledger = oracle.Ledger()
    with Proxy(db) as proxy:
        daemon = daemon_factory(proxy.dsn, config={"database.retry_max": "200ms"}).start()
        with StreamSender(daemon.socket) as sender:
            feed(daemon, ledger, sender, 3)
            daemon.wait_stored()
            before = stored_batches(db)
            with commits_held(BeforeTheRecord, db) as held:
                feed(daemon, ledger, sender, 5)
                zombie = backend_in_commit(db, held.wait_event)
                proxy.cut()
                feed(daemon, ledger, sender, 2)
                wait_until(lambda: waits_behind(db, zombie), what="the next try to wait for the zombie")
                assert stored_batches(db) == before
                if outcome == "aborts":
                    db.query("SELECT pg_terminate_backend(%s)", zombie)
                held.let_go()
            feed(daemon, ledger, sender, 2)
            status = daemon.wait_stored()
        daemon.kill()
    found = ledger.check(db)
    assert status["frames_received"] == status["frames_stored"] == found.frames, "a commit found out later is counted as stored"
    print(f"frames {found.frames} batches {stored_batches(db)} {found.figures}")
