"""PostgreSQL stands still while frames arrive: one backend, wherever it was, or the whole server. Receiving and acknowledging go on as before, the
daemon's memory does not grow with what waits, a daemon told to end does so by its deadline, and after the thaw everything is stored."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Callable

import pytest

import fault
import frozen
from caller import Caller
from harness import SLOWNESS, Cluster, Daemon, Database, make_dir, migrate, remove_dir, rss_bytes, wait_until
from worker import Tally, Worker

Factory = Callable[..., Daemon]
MIB = 1 << 20
LIMIT = 64 * MIB
RATE = int(1500 / min(SLOWNESS, 4))   # frames per second
SECONDS = fault.choose(0.7, 8.0)      # of each freeze, before the bulk
FREEZES = fault.choose(3, 10)         # of one backend
BULK = int(fault.choose(12, 64) * MIB / SLOWNESS)  # that arrives in each freeze beside the worker's frames


class Resident:
    """The largest resident size of whatever process the daemon is, sampled."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.ceiling = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            try:
                self.ceiling = max(self.ceiling, rss_bytes(self.daemon.pid))
            except (OSError, ProcessLookupError):  # between two lives
                pass

    def __enter__(self) -> Resident:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Traffic:
    """A worker at a steady rate through libtoll, and one that sends in bulk; and what they saw."""

    def __init__(self, daemon: Daemon, chance: random.Random) -> None:
        self.daemon = daemon
        self.directory = make_dir("f")
        self.tally = Tally(self.directory / "tally")
        self.worker = Worker(self.tally, daemon.socket, "--rate", RATE, "--text", 2000, "--ring", 16 * MIB, "--seed", chance.randrange(2**32))
        self.caller = Caller(daemon.socket)
        self.times: list[tuple[int, int]] = []
        wait_until(lambda: self.tally.recorded() > RATE, 20, "the worker to be at work")
        self.before = (0, time.monotonic_ns())

    def while_frozen(self) -> None:
        """What must go on while the database stands still, and does not end if it does not."""
        began, first = time.monotonic_ns(), self.tally.count()
        time.sleep(SECONDS)
        wait_until(lambda: self.tally.count() > first + RATE // 2, 20, "the worker to go on recording")
        last = self.tally.count()
        self.times.append((began, time.monotonic_ns()))
        wait_until(lambda: all(each.acked_ns for each in self.tally.entries()[first:last]), 30, "acknowledgements while the database is frozen",
                   every=0.2)
        self.caller.bulk(BULK)

    def stop(self) -> None:
        self.caller.hang_up()
        self.worker.stop()

    def ack_ms(self, times: list[tuple[int, int]]) -> dict[str, float]:
        took = [(each.acked_ns - each.began_ns) / 1e6 for each in self.tally.entries()
                if each.acked_ns and any(begin <= each.began_ns < end for begin, end in times)]
        return fault.percentiles(took, 50, 99)

    def judge_and_report(self, name: str, database: Database, resident: Resident, **figures: object) -> None:
        judged = self.tally.judged(database)
        outcome = fault.judge(database, judged.records + self.caller.records, [self.daemon],
                              acknowledged=self.tally.acknowledged() | self.caller.acknowledged)
        fault.report(name, outcome, **figures, frames=outcome.frames, bulk_mib=BULK // MIB, rss_ceiling_mib=resident.ceiling / MIB,
                     ack_ms_before=self.ack_ms([self.before]), ack_ms_frozen=self.ack_ms(self.times))
        assert not judged.missing and not judged.found, "the worker flushed: all must be known"
        assert sum(each.refused for each in self.tally.slots()) == 0, "its ring was large enough"
        if SLOWNESS == 1:  # a sanitizer's memory is its own
            assert resident.ceiling < LIMIT, "memory grows with what waits"

    def close(self) -> None:
        self.worker.kill()
        self.caller.close()
        self.tally.close()
        remove_dir(self.directory)

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def freeze_backend(database: Database, chance: random.Random, seconds: float = 10) -> str:
    """At any moment, or in the middle of a batch if one comes soon."""
    cluster, in_batch = database.cluster, chance.random() < 0.7
    time.sleep(chance.uniform(0, 0.3))
    deadline = time.monotonic() + seconds
    while True:
        pid = wait_until(lambda: cluster.backends(database.name, "tolld"), what="the daemon's backend")[-1]
        where = frozen.freeze(database, pid)
        if where is not None:
            if not in_batch or where != "idle" or time.monotonic() > deadline:
                return where
            cluster.thaw(pid)


@pytest.mark.writers(*fault.choose((2,), (1, 2, 4)))
@pytest.mark.limit(120 + FREEZES * (SECONDS + 30))
def test_backend_frozen(daemon_factory: Factory, db: Database) -> None:
    chance = fault.rng("backend frozen")
    daemon = daemon_factory(db.dsn).start()
    places: Counter[str] = Counter()
    with Traffic(daemon, chance) as traffic, Resident(daemon) as resident:
        for _ in range(FREEZES):
            places[freeze_backend(db, chance)] += 1
            stored = daemon.status()["committed_lsn"]
            traffic.while_frozen()
            status = daemon.status()
            assert status["backlog_bytes"] >= BULK, "it was not frozen"
            assert status["committed_lsn"] == stored or Daemon.writers > 1, "it was not frozen"  # the lowest may have been another's
            db.cluster.thaw_all()  # the next freeze may come while this backlog is being stored
        traffic.stop()
        fault.settle(daemon, seconds=180)
        traffic.judge_and_report("backend_frozen", db, resident, times=FREEZES, places=places)


def server_processes(cluster: Cluster) -> list[int]:
    """The postmaster, then its children."""
    postmaster = int((cluster.data / "postmaster.pid").read_text().split()[0])

    def parent(pid: str) -> int:
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            return 0
    return [postmaster, *(int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) == postmaster)]


@pytest.mark.limit(180 + 2 * SECONDS)
@pytest.mark.parametrize("how", ["lives_on", "killed"])
def test_server_frozen(own_cluster: Cluster, daemon_factory: Factory, how: str) -> None:
    """All of its processes. A daemon that is killed and started meanwhile is ready without a database that answers."""
    chance = fault.rng(f"server frozen {how}")
    database = own_cluster.create_database()
    migrate(database.dsn)
    daemon = daemon_factory(database.dsn, activated=True, config={"database.connect_timeout": "2s"}).start()
    with Traffic(daemon, chance) as traffic, Resident(daemon) as resident:
        time.sleep(chance.uniform(0, 0.3))
        for pid in server_processes(own_cluster):
            own_cluster.freeze(pid)
        if how == "killed":
            daemon.kill()
            daemon.start()
        traffic.while_frozen()
        own_cluster.thaw_all()
        traffic.stop()
        fault.settle(daemon)
        traffic.judge_and_report(f"server_frozen_daemon_{how}", database, resident)


@pytest.mark.writers(1, 2)
@pytest.mark.limit(120)
def test_ends_by_its_deadline(daemon_factory: Factory, db: Database) -> None:
    """SIGTERM while the backend is frozen: what was acknowledged is in the journal when it ends, and is stored after the next start."""
    chance = fault.rng("ends by its deadline")
    daemon = daemon_factory(db.dsn, activated=True, config={"daemon.shutdown_deadline": "500ms"}).start()
    took, left = [], []
    with Caller(daemon.socket) as caller:
        for _ in range(fault.choose(2, 20)):
            caller.feed(10)
            where = freeze_backend(db, chance, 0.5)
            caller.feed(chance.randrange(1, 40))
            began = time.monotonic()
            assert daemon.stop(seconds=20) == 0
            took.append(time.monotonic() - began)
            if chance.random() < 0.5:  # the next life meets the old backend, or not
                db.cluster.thaw_all()
            daemon.start()
            left.append(daemon.status()["backlog_bytes"])
            caller.feed(2)
            db.cluster.thaw_all()
            print(f"frozen {where}: left {left[-1]} bytes in the journal")
        caller.hang_up()
        fault.settle(daemon)
        daemon.wait_log("the rest is in the journal")
        outcome = fault.judge(db, caller.records, [daemon], acknowledged=caller.acknowledged)
        fault.report("sigterm_while_frozen", outcome, frames=outcome.frames, ended_after_seconds=fault.percentiles(took, 50))
