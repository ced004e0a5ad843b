"""tolld killed at random moments, its database stopped, its connections cut, itself frozen, while workers send: everything they were
told is durable is stored exactly once, and every total is right. Its socket is held by the parent, as systemd does; or bound by itself, so
that what waits in it dies too; or now this, now that.

    TOLL_SEED=7 TOLL_KILLS=200 TOLL_RATE=400 make check T=killed    repeats a run, or makes a long one
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path
from typing import Callable

import pytest

import fault
import money
import oracle
from harness import SLOWNESS, Daemon, Database, Sim, StreamSender, frames, make_dir, remove_dir, wait_until
from worker import Tally, Worker

KILLS = {"held": fault.choose(8, 1000), "bound": fault.choose(6, 200), "switched": fault.choose(6, 100)}
RATE = int(os.environ.get("TOLL_RATE") or fault.choose(1600, 400) / SLOWNESS)  # frames per second of all simulated workers
WORKERS = 4
LIFE = 0.8  # seconds that the daemon lives at most, mostly
TROUBLES = {"nothing": 55, "cut_connections": 20, "freeze_daemon": 15, "stop_database": 10}


class Probe:
    """A new worker, with one frame that it tries to send from its making on."""

    def __init__(self, path: Path, ledger: oracle.Ledger, session: uuid.UUID) -> None:
        self.sender = StreamSender(path, seconds=0.002, client="probe")
        self.tried = time.monotonic()
        self.sender.send(*ledger.of(frames.llm(session)))

    def acked(self) -> bool:
        if self.sender.socket is None or time.monotonic() - self.tried > 0.1 * SLOWNESS:
            self.tried = time.monotonic()
            try:
                self.sender.resend()
            except OSError:  # nobody listens, or the queue is full
                self.sender.disconnect()
        return self.sender.acked > 0


class Killing:
    """One seeded run of it."""

    def __init__(self, how: str, daemon: Daemon, database: Database, tally: Tally) -> None:
        self.how = how
        self.random = fault.rng(f"daemon killed, {how}")
        self.daemon = daemon
        self.database = database
        self.tally = tally
        self.probes: dict[bytes, int] = {}  # acknowledgements by stream
        self.ledger = oracle.Ledger()
        self.session = frames.new_session()
        self.counts: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = defaultdict(list)  # that something took, from the start on

    def sleep(self, longest: float) -> None:
        time.sleep(self.random.uniform(0, longest))

    def kill(self) -> None:
        self.daemon.kill()
        self.counts["kills"] += 1

    def round(self) -> None:
        """From a running daemon to a running daemon, with one kill of it in between, or more."""
        self.sleep(LIFE)
        getattr(self, self.random.choices(list(TROUBLES), list(TROUBLES.values()))[0])()
        if self.random.random() < 0.25:
            self.sleep(0.3)
        while self.random.random() < 0.2:  # killed again while it starts
            self.daemon.start(ready_seconds=0)
            self.sleep(0.1)
            self.kill()
            self.counts["killed_while_starting"] += 1
        if self.how == "switched" and self.random.random() < 0.5:
            self.daemon.use_activation(not self.daemon.activated)
            self.counts["activation_switched"] += 1
        self.start()

    def start(self) -> None:
        before, began = self.tally.slots()[0], time.monotonic()

        def note(what: str) -> None:
            self.seconds[what].append(time.monotonic() - began)
        self.daemon.start(ready_seconds=0)
        probe = Probe(self.daemon.socket, self.ledger, self.session)
        waiting = {"ready": lambda: "READY=1" in self.daemon.notifications(), "first_ack": probe.acked}

        def all_there() -> bool:
            assert self.daemon.running
            for what in [what for what, there in waiting.items() if there()]:
                note(what)
                del waiting[what]
            return not waiting
        wait_until(all_there, 30, "tolld to be ready and to acknowledge", every=0.001)
        self.probes[probe.sender.stream] = probe.sender.acked
        probe.sender.close()
        if self.how == "bound" or self.random.random() < 0.2:  # bound: what was in its socket is gone
            wait_until(lambda: self.tally.slots()[0].acked >= before.recorded, 30, "the worker's resend to be acknowledged", every=0.001)
            note("resend_acked")
        if self.how == "bound":
            wait_until(lambda: self.stored(before.stream) >= before.recorded, 30, "the worker's resend to be stored", every=0.005)
            note("resend_stored")

    def stored(self, stream: bytes) -> int:
        return self.database.value("SELECT coalesce(max(upper(seen)), 1) - 1 FROM toll.streams WHERE stream_id::text = %s",
                                   str(uuid.UUID(bytes=stream)))

    # --- troubles, each with a kill ---

    def nothing(self) -> None:
        self.kill()

    def cut_connections(self) -> None:
        self.counts["connections_cut"] += self.database.terminate_backends()
        self.sleep(0.03)
        self.kill()

    def freeze_daemon(self) -> None:
        self.daemon.freeze()
        self.counts["daemon_frozen"] += 1
        self.sleep(0.4)
        if self.random.random() < 0.5:
            self.daemon.thaw()
            self.sleep(0.05)
        self.kill()

    def stop_database(self) -> None:
        """As in a crash of the server; the daemon is killed at some moment of its end, its recovery, or after."""
        self.counts["database_stopped"] += 1
        down = threading.Thread(target=self.database.cluster.restart, args=("immediate",))
        down.start()
        self.sleep(1.5)
        self.kill()
        if self.random.random() < 0.5:  # a life without a database, shorter than it takes to be ready
            self.daemon.start(ready_seconds=0)
            self.sleep(0.1)
            self.kill()
        down.join()


@pytest.mark.limit(120 + 3 * max(KILLS.values()) + 3 * int(os.environ.get("TOLL_KILLS") or 0))
@pytest.mark.parametrize("how, writers", [("held", 1), ("held", 4), ("bound", 2), ("switched", 1)], indirect=["writers"])
def test_killed_at_random_moments(how: str, writers: int, db: Database, daemon_factory: Callable[..., Daemon]) -> None:
    kills = int(os.environ.get("TOLL_KILLS") or KILLS[how])
    money.open_books(db)
    money.fund(db, [f"u_{number}" for number in range(1, 41)])
    config = {"database.retry_max": "500ms", "journal.segment_bytes": "2M"}
    daemon = daemon_factory(db.dsn, config=config, activated=how != "bound").start()
    directory = make_dir("k")
    began = time.monotonic()
    try:
        with Tally(directory / "tally") as tally, \
             Worker(tally, daemon.socket, "--rate", 50, "--tick-ms", 20) as steady, \
             Sim(daemon.socket, "--workers", WORKERS, "--rate", RATE, "--calls", 10**9, "--concurrent", 8, "--seed", fault.SEED,
                 "--record", directory / "record", "--flush-ms", int(30000 * SLOWNESS)) as sim:
            wait_until(lambda: tally.recorded() > 0, 10, "the worker to begin")
            killing = Killing(how, daemon, db, tally)
            while killing.counts["kills"] < kills:
                assert sim.process.poll() is None, "the workers ended by themselves"
                killing.round()
            sim.process.send_signal(signal.SIGTERM)
            report = sim.wait(60)
            steady.stop()
            took = time.monotonic() - began
            fault.settle(daemon)
            print(" ".join(f"{name} {count}" for name, count in money.check(db).items()))
            records, summaries = oracle.read_records(directory / "record")
            check(killing, report, summaries, records, took)
    finally:
        remove_dir(directory)


def check(killing: Killing, report: dict[str, int], summaries: list[dict[str, int]], records: list[oracle.Record], took: float) -> None:
    database, tally = killing.database, killing.tally
    others = tally.judged(database)
    outcome = fault.judge(database, records + others.records + killing.ledger.records, [killing.daemon],
                          acknowledged=tally.acknowledged() | killing.probes)
    print(f"sessions {report['sessions_started']} workers {WORKERS} seconds {took:.1f} resent {report['resent']}",
          f"reconnects {report['reconnects']} recording_max_us {report['record_max_us']}",
          " ".join(f"{name} {count}" for name, count in sorted(killing.counts.items())))
    fault.report(f"daemon_killed_{killing.how}", outcome, kills=killing.counts["kills"], frames=outcome.frames,
                 **{f"start_to_{what}_ms": {name: 1000 * each for name, each in fault.percentiles(seconds).items()}
                    for what, seconds in killing.seconds.items()})
    assert report["outstanding"] == 0 and report["refused"] == 0 and report["snapshots_wrong"] == 0
    assert not others.missing and not others.found and tally.slots()[0].gaps == 0
    streams, frames_seen = database.query("SELECT count(*), sum(last) FROM (SELECT max(upper(seen)) - 1 AS last FROM toll.streams"
                                          " GROUP BY uid, stream_id) AS s")[0]
    assert len(summaries) == WORKERS and streams == WORKERS + 1 + len(killing.probes)
    assert sum(each["recorded"] for each in summaries) + tally.recorded() + len(killing.probes) == outcome.frames == frames_seen
    assert database.value("SELECT count(*) FROM toll.quarantine") == 0
