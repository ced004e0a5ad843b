"""A commit whose answer never came: the backend is frozen inside COMMIT, the daemon killed, the backend thawed, the daemon restarted.

Whether the server had committed or not: one copy of every row. The backend is held inside COMMIT at two places, without chance:
- before the commit record: a deferred trigger on toll.batches waits for an advisory lock that the test holds;
- after it: COMMIT waits for a synchronous standby that does not exist, its record on disk, its rows not visible yet.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import random
import time
from collections import Counter
from typing import Any, Callable, Iterator

import pytest

import fault
import frozen
from caller import Caller
from harness import Daemon, Database, wait_until
from proxy import Proxy

Factory = Callable[..., Daemon]
QUICK = {"database.retry_max": "200ms"}
KEY = 4711  # of the advisory lock
ROUNDS = fault.choose(4, 60)

HOLD_COMMITS = f"""
CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared({KEY}); RETURN NULL; END $$;
DROP TRIGGER IF EXISTS hold ON toll.batches;
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
        wait_until(lambda: commit_waits(database), what="commits to wait for the standby")

    def release(self) -> None:
        self._set("''")

    def _set(self, value: str) -> None:
        self.cluster.psql(f"ALTER SYSTEM SET synchronous_standby_names = {value}")
        self.cluster.psql("SELECT pg_reload_conf()")


def commit_waits(database: Database) -> bool:
    """Whether a commit waits for the standby: it is the checkpointer that tells all backends to, some time after they can read the setting."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool, contextlib.closing(database.connect()) as connection, connection.cursor() as cursor:
        commit = pool.submit(cursor.execute, "SELECT pg_logical_emit_message(true, 'probe', '')")

        def let_go() -> bool:
            return bool(database.query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'",
                                       connection.info.backend_pid))
        outcome = wait_until(lambda: "went on" if commit.done() else "waited" if let_go() else "", what="a commit to wait or to end")
        commit.result()
    return outcome == "waited"


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
    """The daemon's backend, once it waits inside a batch's COMMIT."""
    cancelled = set()

    def found() -> list[tuple[int]]:
        waiting = database.query("SELECT pid, query, query_start FROM pg_stat_activity WHERE datname = %s AND state = 'active'"
                                 " AND wait_event = %s ORDER BY backend_start DESC", database.name, wait_event)
        for pid, query, start in waiting:
            # its heartbeat, say, which waits for a standby too, and need not; once, for what comes late would hit the COMMIT after it
            if query != "COMMIT" and (pid, start) not in cancelled:
                cancelled.add((pid, start))
                database.query("SELECT pg_cancel_backend(%s)", pid)
        return [(pid,) for pid, query, _ in waiting if query == "COMMIT"]
    return wait_until(found, what=f"a backend in COMMIT waiting for {wait_event}")[0][0]


def end_others(database: Database, backends: list[int]) -> None:
    """Of backends that were cut off, those that are in the middle of something else, as keepalives would: other writers'."""
    database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY (%s) AND NOT (state = 'active' AND query = 'COMMIT')",
                   backends)


def waits_behind(database: Database, zombie: int) -> bool:
    """Whether another backend of the daemon's waits: for a lock that the zombie holds, or for the same standby."""
    return bool(database.query("SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> %s AND (%s = ANY (pg_blocking_pids(pid))"
                               " OR wait_event = 'SyncRep')", database.name, zombie, zombie))


def stored_batches(database: Database) -> int:
    return database.value("SELECT count(*) FROM toll.batches")


def judge(database: Database, daemon: Daemon, caller: Caller) -> Any:
    return fault.judge(database, caller.records, [daemon], acknowledged=caller.acknowledged)


CASES = list(itertools.product([(BeforeTheRecord, "commits"), (BeforeTheRecord, "aborts"), (AfterTheRecord, "commits")], [False, True]))


@pytest.mark.writers(1, 2)
@pytest.mark.parametrize("case, restart_first", fault.choose(CASES[1:5], CASES), ids=lambda value: {
    True: "restarted_then_thawed", False: "thawed_then_restarted"}[value] if isinstance(value, bool) else f"{value[0].__name__}_{value[1]}")
def test_backend_frozen_in_commit(daemon_factory: Factory, db: Database, case: tuple[type, str], restart_first: bool) -> None:
    place, ending = case
    daemon = daemon_factory(db.dsn).start()
    with Caller(daemon.socket) as caller:
        caller.feed(3)
        daemon.wait_stored()
        before = stored_batches(db)
        with commits_held(place, db) as held:
            caller.feed(5)
            zombie = backend_in_commit(db, held.wait_event)
            db.cluster.freeze(zombie)
            daemon.kill()
            if restart_first:
                daemon.start()
                caller.feed(2)
                wait_until(lambda: waits_behind(db, zombie), what="the new daemon's batch to wait for the zombie")
            assert stored_batches(db) == before, "nothing of a commit that has not ended is visible"
            if ending == "aborts":
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
        caller.sender.resend()  # what the workers can't know is durable
        caller.feed(2)
        caller.hang_up()
        status = daemon.wait_stored()
        outcome = judge(db, daemon, caller)
    fault.report("frozen_in_commit", outcome, frames=outcome.frames, batches=stored_batches(db), retried=status["batches_retried"])


@pytest.mark.parametrize("place, survives", [(BeforeTheRecord, False), (AfterTheRecord, True)], ids=["before_record", "after_record"])
def test_server_crashes_in_commit(daemon_factory: Factory, db: Database, place: type, survives: bool) -> None:
    """The same, ended by a crash of the server; the daemon lives on and finds out which of the two it was."""
    daemon = daemon_factory(db.dsn, config=QUICK).start()
    with Caller(daemon.socket) as caller:
        caller.feed(3)
        daemon.wait_stored()
        before = stored_batches(db)
        with commits_held(place, db) as held:
            caller.feed(5)
            backend_in_commit(db, held.wait_event)
            daemon.freeze()  # so that what the crash left can be seen before the daemon goes on
            db.cluster.stop("immediate")
            db.cluster.start()
            assert (stored_batches(db) > before) == survives
            held.let_go()
        daemon.thaw()
        caller.feed(2)
        caller.hang_up()
        status = daemon.wait_stored()
        outcome = judge(db, daemon, caller)
    fault.report("server_crash_in_commit", outcome, frames=outcome.frames, batches=stored_batches(db))
    assert status["frames_received"] == status["frames_stored"] == outcome.frames, "a commit found out later is counted as stored"


@pytest.mark.writers(1, 2)
@pytest.mark.parametrize("ending", ["commits", "aborts"])
def test_connection_lost_in_commit(daemon_factory: Factory, db: Database, ending: str) -> None:
    """The daemon lives, its connection breaks, the server notices nothing: the next try waits for the old backend, and learns from it."""
    with Proxy(db) as proxy:
        daemon = daemon_factory(proxy.dsn, config=QUICK).start()
        with Caller(daemon.socket) as caller:
            caller.feed(3)
            daemon.wait_stored()
            before = stored_batches(db)
            with commits_held(BeforeTheRecord, db) as held:
                caller.feed(5)
                zombie = backend_in_commit(db, held.wait_event)
                old = db.cluster.backends(db.name, "tolld")
                proxy.cut()
                end_others(db, old)
                caller.feed(2)
                wait_until(lambda: waits_behind(db, zombie), what="the next try to wait for the zombie")
                assert stored_batches(db) == before
                if ending == "aborts":
                    db.query("SELECT pg_terminate_backend(%s)", zombie)
                held.let_go()
            caller.feed(2)
            caller.hang_up()
            status = daemon.wait_stored()
            outcome = judge(db, daemon, caller)
        daemon.kill()
    fault.report("connection_lost_in_commit", outcome, frames=outcome.frames, batches=stored_batches(db), retried=status["batches_retried"])
    assert status["frames_received"] == status["frames_stored"] == outcome.frames, "a commit found out later is counted as stored"


# --- any combination, in any order ---

class Anywhere:
    """Commits are not held: the backend is frozen wherever it is."""

    wait_event = ""

    def __init__(self, database: Database) -> None:
        pass

    def release(self) -> None:
        pass


class Round:
    """A backend held and frozen, and what happens before it goes on, after, and meanwhile."""

    def __init__(self, daemon: Daemon, database: Database, proxy: Proxy, caller: Caller, chance: random.Random, counts: Counter[str]) -> None:
        self.daemon, self.database, self.proxy, self.caller, self.chance, self.counts = daemon, database, proxy, caller, chance, counts
        self.held: Any = None
        self.zombie = 0

    def pause(self) -> None:
        time.sleep(self.chance.choice([0, self.chance.uniform(0, 0.3)]))

    def play(self) -> None:
        place = self.chance.choice([BeforeTheRecord, AfterTheRecord, Anywhere])
        steps = [self.go_on, *self.chance.sample([self.kill, self.cut, self.crash, self.terminate, self.feed], self.chance.randrange(1, 4))]
        self.chance.shuffle(steps)
        self.counts[place.__name__] += 1
        with commits_held(place, self.database) as self.held:
            self.caller.feed(self.chance.randrange(1, 8))
            if place is Anywhere:
                self.pause()
            self.zombie = self.find()
            if self.zombie and self.chance.random() < 0.8:
                self.counts["frozen"] += frozen.freeze(self.database, self.zombie) is not None
            for step in steps:
                step()
                self.pause()
        self.proxy.tell_server()
        if not self.daemon.running:
            self.daemon.start()
        self.caller.feed(1)
        fault.settle(self.daemon)  # the next round needs a daemon that gets as far as COMMIT

    def find(self) -> int:
        if self.held.wait_event:
            return backend_in_commit(self.database, self.held.wait_event)
        return next(iter(self.database.cluster.backends(self.database.name, "tolld")), 0)

    def go_on(self) -> None:
        first, second = self.chance.sample([self.held.let_go, lambda: self.database.cluster.thaw(self.zombie)], 2)
        first()
        self.pause()
        second()

    def kill(self) -> None:
        self.counts["daemon_killed"] += 1
        self.daemon.kill()
        if self.chance.random() < 0.5:
            self.proxy.tell_server()
        if self.chance.random() < 0.7:
            self.pause()
            self.daemon.start()
            self.caller.sender.resend()

    def cut(self) -> None:
        self.counts["connection_cut"] += 1
        self.proxy.cut()
        if self.chance.random() < 0.3:
            self.pause()
            self.proxy.tell_server()

    def crash(self) -> None:
        self.counts["server_crashed"] += 1
        self.database.cluster.stop("immediate")
        self.pause()
        self.database.cluster.start()

    def terminate(self) -> None:
        self.counts["backend_terminated"] += 1
        if self.database.cluster.running:
            self.database.query("SELECT pg_terminate_backend(%s)", self.zombie)

    def feed(self) -> None:
        if self.daemon.running:
            self.caller.feed(self.chance.randrange(1, 5))


@pytest.mark.writers(1, 4)
@pytest.mark.limit(120 + 8 * ROUNDS)
def test_commits_end_in_any_way(daemon_factory: Factory, db: Database) -> None:
    chance, counts = fault.rng("ambiguous commit"), Counter[str]()
    db.execute(HOLD_COMMITS)
    with Proxy(db) as proxy:
        daemon = daemon_factory(proxy.dsn, config=QUICK, activated=True).start()
        with Caller(daemon.socket) as caller:
            for _ in range(ROUNDS):
                Round(daemon, db, proxy, caller, chance, counts).play()
            caller.hang_up()
            fault.settle(daemon)
            outcome = judge(db, daemon, caller)
        daemon.kill()
    fault.report("ambiguous_commit", outcome, rounds=ROUNDS, frames=outcome.frames, batches=stored_batches(db),
                 **dict(sorted(counts.items())))
    assert db.value("SELECT count(*) FROM toll.quarantine") == 0
