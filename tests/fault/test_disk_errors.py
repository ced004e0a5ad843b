"""Write and sync errors under the real tolld: strace makes the journal's system calls fail, the n-th one or all from the n-th on, or only late.

What a worker was told is durable must be in the database, after a restart on a sound disk. The same against the journal's I/O table, for every
call without exception, is io_errors.c; here it is the whole daemon, its threads, its words and its exit status.

strace counts calls for each thread by itself, so one thread does the pool's work; "once" may mean once in each of two threads.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Callable
from uuid import UUID

import pytest

import fault
import oracle
from harness import SLOWNESS, Daemon, Database, StreamSender, frames, wait_until

EXIT_JOURNAL = 74
CONFIG = {"journal.segment_bytes": 131072, "journal.min_free_bytes": 0, "journal.retention": "0s", "batch.age": "10ms",
          "database.retry_max": "200ms"}
DATAGRAMS, AT_ONCE = 12, 3  # of 40 KiB each: a few segments
# What journal_io.c calls and a disk can fail, with what it may say. (Not pread64, with which libraries are loaded.)
CALLS = {"fdatasync": ("EIO", "ENOSPC"), "pwrite64": ("EIO", "ENOSPC"), "fsync": ("EIO",), "fallocate": ("EIO", "ENOSPC"),
         "openat": ("EIO", "EMFILE"), "renameat": ("EIO",), "unlinkat": ("EIO", "EROFS"), "mkdirat": ("EIO",),
         "getdents64": ("EIO",)}
# A failure of these heals in place, once tolld is up; another may end it, and the service manager starts it again.
HEAL = ("fdatasync", "pwrite64", "fsync", "fallocate", "unlinkat")

Factory = Callable[..., Daemon]


class Disk:
    """A daemon whose system calls strace spoils, and then the same daemon without."""

    def __init__(self, daemon: Daemon, trace: Path) -> None:
        self.daemon = daemon
        self.trace = trace
        # The tracer is the grandchild, so that pid and exit status are tolld's. LeakSanitizer can't work in a process that is traced.
        daemon.extra_env["UV_THREADPOOL_SIZE"] = "1"
        daemon.extra_env["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"

    def spoil(self, *injections: str) -> None:
        self.daemon.wrapper = [shutil.which("strace") or "strace", "-D", "-f", "-qqq", "--seccomp-bpf", "-o", str(self.trace)]
        for each in injections:
            name = each.split(":")[0]
            if name == "openat":  # libraries are opened with it, too
                self.daemon.wrapper += [word for path in (".", "journal", "journal.new") for word in ("-P", str(self.daemon.state / path))]
                self.daemon.wrapper += ["-P", str(self.daemon.state)]
            self.daemon.wrapper += ["-e", f"trace={name}", "-e", f"inject={each}"]

    def mend(self) -> None:
        self.daemon.wrapper = []

    @property
    def injected(self) -> int:
        text = self.trace.read_text(errors="replace") if self.trace.exists() else ""
        return text.count("(INJECTED)") + text.count("(DELAYED)")


def start(daemon: Daemon) -> bool:
    """True: ready. False: it ended instead."""
    daemon.start(ready_seconds=0)
    wait_until(lambda: not daemon.running or "READY=1" in daemon.notifications(), 20, "READY or an end")
    return daemon.running


def waits_for_space(daemon: Daemon) -> bool:
    return daemon.status()["intake"] == "paused"


def deliver(daemon: Daemon, worker: StreamSender, seconds: float = 20) -> bool:
    """Waits until all is acknowledged, resending; False: the daemon ended before, or waits for space (or descriptors) that never comes."""
    resent = time.monotonic()
    looked = resent

    def over() -> bool:
        nonlocal resent, looked
        if worker.acked >= worker.next - 1 or not daemon.running:
            return True
        if time.monotonic() - looked > seconds / 4 * SLOWNESS:
            looked = time.monotonic()
            return waits_for_space(daemon)
        if time.monotonic() - resent > 0.2 * SLOWNESS:
            resent = time.monotonic()
            worker.seconds = 0.05
            try:
                worker.resend()
            except OSError:
                worker.disconnect()
        return False
    wait_until(over, seconds, "acknowledgement", every=0.005)
    return worker.acked >= worker.next - 1


def feed(daemon: Daemon, worker: StreamSender, ledger: oracle.Ledger) -> bool:
    """A call in large datagrams. Everything goes into the ledger whether it arrives or not: the worker resends it later."""
    session, alive = frames.new_session(), True
    worker.send(*ledger.of(frames.session_start(session)))
    for at in range(DATAGRAMS):
        worker.send(*ledger.of(*(frames.llm(session, raw={"x": "y" * 10000}) for _ in range(4))))
        if at % AT_ONCE == AT_ONCE - 1:
            alive = alive and deliver(daemon, worker)
    worker.send(*ledger.of(frames.session_end(session)))
    return alive and deliver(daemon, worker)


def false_acks(db: Database, stream: bytes, acked: int) -> int:
    """How many of the numbers up to acked are not stored. (More may be acknowledged by now: the socket outlives the daemon.)"""
    stored = {number for (_, id_), numbers in fault.stored_numbers(db).items() if id_ == str(UUID(bytes=stream)) for number in numbers}
    return len(set(range(1, acked + 1)) - stored)


class Sweep:
    """One database, many daemons, each with its own spoiled disk; the oracle over all of them at the end."""

    def __init__(self, daemon_factory: Factory, db: Database, traces: Path) -> None:
        self.factory, self.db, self.traces = daemon_factory, db, traces
        self.ledger = oracle.Ledger()
        self.daemons: list[Daemon] = []
        self.acknowledged: dict[bytes, int] = {}
        self.runs = self.injections = self.healed = self.waited = self.ended = self.refused = self.false_acks = 0

    def run(self, call: str, error: str, number: int, forever: bool) -> int:
        """One run; returns how many calls were made to fail."""
        what = f"{call}:error={error}:when={number}{'+' if forever else ''}"
        daemon = self.factory(self.db.dsn, config=CONFIG, activated=True)
        disk = Disk(daemon, self.traces / f"{self.runs}")
        disk.spoil(what)
        self.runs += 1
        self.daemons.append(daemon)
        with StreamSender(daemon.socket, seconds=0.05) as worker:
            up = start(daemon)
            whole = up and feed(daemon, worker, self.ledger)
            if not up:
                self.refused += 1
                assert daemon.wait() == EXIT_JOURNAL, what
                assert "can't be opened" in daemon.log_text(), what
            elif not whole and daemon.running:
                self.waited += 1
                assert forever and error in ("ENOSPC", "EMFILE"), what
                assert "receiving is paused" in daemon.log_text(), what
            elif not whole:
                self.ended += 1
                self.check_end(what, daemon)
            elif disk.injected:
                self.healed += 1
            if up and call in HEAL and not forever and disk.injected == 1:
                assert whole, f"{what}: one failure ended it"
            if daemon.running:
                assert daemon.stop() in (0, EXIT_JOURNAL), what
            told = worker.acked
            disk.mend()
            daemon.start()
            wait_until(lambda: daemon.status()["sink_state"] == "ok" and daemon.status()["backlog_bytes"] == 0, 20, "the journal to be stored")
            wrong = false_acks(self.db, worker.stream, told)
            self.false_acks += wrong
            assert not wrong, f"{what}: {wrong} frames were acknowledged and are not in the database"
            if not up:
                feed(daemon, worker, self.ledger)
            assert deliver(daemon, worker), what
            fault.settle(daemon)
            self.acknowledged[worker.stream] = worker.acked
        assert daemon.stop() == 0
        self.injections += disk.injected
        return disk.injected

    def check_end(self, what: str, daemon: Daemon) -> None:
        """A daemon that can't go on says why: in the log, to the service manager, and by its exit status."""
        status = daemon.wait()
        assert status == EXIT_JOURNAL, f"{what}: exit status {status}"
        assert "the journal can't be written any more, nothing more is acknowledged" in daemon.log_text() or "can't be renewed" in daemon.log_text()
        said = daemon.notifications()
        assert "STOPPING=1" in said and any(line.startswith("STATUS=the journal can't be written") for line in said), said

    def conclude(self, name: str) -> None:
        outcome = fault.judge(self.db, self.ledger.records, self.daemons, acknowledged=self.acknowledged)
        fault.report(name, outcome, runs=self.runs, injections=self.injections, healed=self.healed, waited=self.waited, ended=self.ended,
                     refused=self.refused, false_acks=self.false_acks)


@pytest.mark.limit(1200)
def test_errors(daemon_factory: Factory, db: Database, scratch: Path) -> None:
    """Short: a sample by the seed. Long: each call, once and for good, from the first until a run sees no failure."""
    random = fault.rng("disk errors")
    sweep = Sweep(daemon_factory, db, scratch)
    if fault.LONG:
        for call, errors in CALLS.items():
            for forever in (False, True):
                number = 1
                while sweep.run(call, random.choice(errors), number, forever):
                    number += 1
    else:
        for call, forever in (("fdatasync", False), ("pwrite64", True), (random.choice(sorted(CALLS)), random.random() < 0.5)):
            sweep.run(call, random.choice(CALLS[call]), random.randrange(1, 10), forever)
    sweep.conclude("disk_errors")


def test_slow_disk(daemon_factory: Factory, db: Database, scratch: Path) -> None:
    """Syncs and writes that take their time: acks come late, and nothing else changes."""
    random = fault.rng("slow disk")
    ledger, daemon = oracle.Ledger(), daemon_factory(db.dsn, config=CONFIG)
    disk, waits, delay_ms = Disk(daemon, scratch / "slow"), [], random.randrange(100, fault.choose(250, 600))
    disk.spoil(f"fdatasync:delay_enter={delay_ms}ms")
    daemon.start(ready_seconds=30)
    with StreamSender(daemon.socket) as worker:
        for _ in range(fault.choose(5, 60)):
            began = time.monotonic()
            worker.send(*ledger.of(*frames.call(frames.new_session(), turns=random.randrange(4))))
            deliver(daemon, worker)
            waits.append((time.monotonic() - began) * 1000)
        assert min(waits) >= delay_ms, "acknowledged before it was durable"
        fault.settle(daemon)
        outcome = fault.judge(db, ledger.records, [daemon], acknowledged={worker.stream: worker.acked})
    fault.report("slow_disk", outcome, delay_ms=delay_ms, ack_ms=fault.percentiles(waits), injections=disk.injected)
