"""Disk full: the journal's file system has no space left, whoever took it. Acks stop, rings fill, what must be refused is counted and told as a
gap; when space returns intake goes on by itself, and nothing that was accepted is lost.

The journal's own limits (journal.max_bytes, journal.min_free_bytes) are test_backpressure.py's; a disk is full for everybody on it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import fault
import oracle
from harness import Daemon, Database, Sim, StreamSender, frames, wait_until
from outage import Outage
from smalldisk import SmallDisk

SEGMENT, PAGE = 262144, 4096
CONFIG = {"journal.segment_bytes": SEGMENT, "journal.min_free_bytes": 0, "database.retry_max": "200ms", "batch.age": "10ms"}
EXIT_JOURNAL = 74

Factory = Callable[..., Daemon]
MakeDisk = Callable[[str], SmallDisk]


@pytest.fixture
def make_disk(needs_root: None) -> Iterator[MakeDisk]:
    made: list[SmallDisk] = []

    def make(size: str) -> SmallDisk:
        made.append(SmallDisk(size))
        return made[-1]
    yield make
    for each in made:
        each.close()


@pytest.fixture
def disk(make_disk: MakeDisk) -> SmallDisk:
    return make_disk("16m")


def on_disk(daemon_factory: Factory, db: Database, disk: SmallDisk, name: str = "state", **more: Any) -> Daemon:
    daemon = daemon_factory(db.dsn, config=CONFIG, **more)
    daemon.state = disk.path / name
    return daemon


def paused(daemon: Daemon) -> bool:
    return daemon.status()["intake"] == "paused"


def play(daemon: Daemon, records: Path, rate: int, seconds: float) -> Sim:
    return Sim(daemon.socket, "--workers", 3, "--rate", rate, "--duration", seconds, "--ring", 65536, "--seed", fault.SEED,
               "--flush-ms", 60000, "--record", records)


class Watch:
    """Times the life of a full disk: when acks stopped, when intake went on."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.began = time.monotonic()
        self.returned = 0.0
        self.figures: dict[str, Any] = {}

    def until_acks_stop(self) -> None:
        wait_until(lambda: paused(self.daemon), 60, "the disk to be full")
        status = self.daemon.status()
        assert any("receiving is paused" in alarm["text"] for alarm in status["alarms"]), status["alarms"]
        self.figures.setdefault("frames_until_full", status["frames_received"])
        self.figures.setdefault("s_until_full", time.monotonic() - self.began)

    def space_returns(self) -> None:
        self.returned = time.monotonic()

    def until_intake_resumes(self) -> None:
        wait_until(lambda: not paused(self.daemon), 60, "intake to go on by itself")
        self.figures.setdefault("s_until_intake", time.monotonic() - self.returned)


def conclude(name: str, db: Database, daemon: Daemon, report: dict[str, Any], records: Path, **figures: Any) -> None:
    """All that libtoll accepted is acknowledged and stored; all that it refused is in toll.gaps, frame for frame."""
    fault.settle(daemon)
    sent, summaries = oracle.read_records(records)
    assert report["accepted"] == report["acked"] == len(sent), report
    refused = sum(each["refused"] for each in summaries)
    assert db.value("SELECT coalesce(sum(count), 0)::int FROM toll.gaps") == refused
    wait_until(lambda: not daemon.status()["alarms"], 10, "the alarm to end")
    fault.report(name, fault.judge(db, sent, [daemon]), frames=len(sent), **figures, gaps=refused)


def test_until_the_database_is_back(daemon_factory: Factory, db: Database, outage: Outage, disk: SmallDisk, records: Path) -> None:
    """PostgreSQL is away from before the first start, and the journal takes the disk, all but what the small files then need."""
    outage.begin()
    random = fault.rng("disk full")
    daemon = on_disk(daemon_factory, db, disk).start()
    disk.fill(leave=fault.choose(random.randrange(8, 16), 58) * SEGMENT + random.randrange(3) * PAGE)
    with play(daemon, records, 20000, fault.choose(3, 20)) as sim:
        watch = Watch(daemon)
        watch.until_acks_stop()
        assert disk.free < 2 * SEGMENT
        wait_until(lambda: time.monotonic() > watch.began + fault.choose(2, 12), 20, "rings to be full for a while")
        watch.space_returns()
        outage.end()
        watch.until_intake_resumes()
        conclude("disk_full", db, daemon, sim.wait(90), records, **watch.figures)


def test_until_somebody_deletes_a_file(daemon_factory: Factory, db: Database, outage: Outage, disk: SmallDisk, records: Path) -> None:
    """Somebody else's file was what filled it. Intake goes on though PostgreSQL is still away."""
    outage.begin()
    random = fault.rng("ballast")
    daemon = on_disk(daemon_factory, db, disk).start()
    with play(daemon, records, 4000, fault.choose(3, 8)) as sim:
        watch = Watch(daemon)
        for _ in range(fault.choose(2, 6)):
            disk.fill(leave=random.randrange(4) * PAGE)
            watch.until_acks_stop()
            time.sleep(random.uniform(0, 0.5))
            watch.space_returns()
            disk.relieve()
            watch.until_intake_resumes()
        assert "storing sink=postgres" not in daemon.log_text(), "nobody but the worker's frames took space"
        report = sim.wait(60)
        outage.end()
        conclude("disk_filled_by_others", db, daemon, report, records, **watch.figures)


def test_killed_while_full(daemon_factory: Factory, db: Database, outage: Outage, disk: SmallDisk, records: Path) -> None:
    """And started again on the full disk, which leaves it no room for a file of its own."""
    outage.begin()
    random = fault.rng("killed while full")
    daemon = on_disk(daemon_factory, db, disk, activated=True).start()
    kills = fault.choose(3, 25)
    with play(daemon, records, 10000, fault.choose(4, 20)) as sim:
        watch = Watch(daemon)
        disk.fill(leave=random.randrange(1, 4) * SEGMENT)
        watch.until_acks_stop()
        for _ in range(kills):
            disk.fill()
            daemon.kill()
            daemon.start()
            time.sleep(random.uniform(0, 0.3))
        wait_until(lambda: paused(daemon), 20, "the disk to be full still")
        watch.space_returns()
        if random.random() < 0.5:
            disk.relieve()
            watch.until_intake_resumes()
            outage.end()
        else:  # the database may need the note that it knows this journal, for which there is no room
            outage.end()
            disk.relieve()
            watch.until_intake_resumes()
        conclude("killed_while_full", db, daemon, sim.wait(90), records, kills=kills, **watch.figures)


def test_full_from_the_very_first_start(daemon_factory: Factory, db: Database, disk: SmallDisk, records: Path) -> None:
    """No journal can be made: the daemon says so and ends, and the service manager tries again until there is room."""
    fault.rng("full from the start")
    daemon = on_disk(daemon_factory, db, disk, activated=True)
    daemon.state.mkdir()
    refusals = 0
    for leave in range(0, 4 * SEGMENT, SEGMENT // fault.choose(2, 16)):
        disk.fill(leave)
        daemon.start(ready_seconds=0)
        if wait_until(lambda: daemon.running and "READY=1" in daemon.notifications() or not daemon.running, 20) and daemon.running:
            break
        assert daemon.wait() == EXIT_JOURNAL
        assert "No space left on device" in daemon.log_text() and str(daemon.state) in daemon.log_text()
        refusals += 1
        disk.relieve()
    assert refusals and daemon.running
    disk.relieve()
    with play(daemon, records, 2000, 1) as sim:
        conclude("full_from_the_start", db, daemon, sim.wait(90), records, refusals=refusals)


def test_no_room_for_the_small_files(daemon_factory: Factory, db: Database, outage: Outage, disk: SmallDisk) -> None:
    """The disk is full to the page just when tolld wants to note something: that the database knows the journal, that a run has begun."""
    outage.begin()
    random = fault.rng("small files")
    ledger, acknowledged, daemons = oracle.Ledger(), {}, []
    rounds = 0
    for leave in range(0, fault.choose(4, 12) * PAGE, PAGE):
        for again in range(fault.choose(1, 4)):
            daemon = on_disk(daemon_factory, db, disk, f"state{leave}.{again}")
            daemon.state.mkdir()
            daemon.start()
            daemons.append(daemon)
            rounds += 1
            with StreamSender(daemon.socket) as worker:
                worker.send(*ledger.of(*frames.call(frames.new_session())))
                worker.wait_acked()
                disk.fill(leave)
                outage.end()  # the first time that it meets the database
                time.sleep(random.uniform(0, 0.3))
                if random.random() < 0.7:
                    daemon.kill()
                    daemon.start()
                worker.send(*ledger.of(*frames.call(frames.new_session())))
                worker.wait_acked()  # there is room in the segment
                disk.relieve()
                worker.send(*ledger.of(*frames.call(frames.new_session())))
                worker.wait_acked()
                acknowledged[worker.stream] = worker.acked
                fault.settle(daemon)
            assert daemon.status()["alarms"] == []
            assert daemon.stop() == 0
            outage.begin()
    outage.end()
    fault.report("no_room_for_small_files", fault.judge(db, ledger.records, daemons, acknowledged=acknowledged), rounds=rounds)
