"""PostgreSQL is stopped as in a crash and stays away while hours' worth of frames arrive; calls begin, go on and end meanwhile, the daemon is
killed and started. Then the server is back, and everything is stored while more arrives."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable
from uuid import UUID

import pytest

import fault
import oracle
from caller import Caller
from harness import SLOWNESS, Cluster, Daemon, Database, Sim, frames, migrate, wait_until

Factory = Callable[..., Daemon]
LIVE_FRAMES = int(fault.choose(20_000, 200_000) / SLOWNESS)  # to measure the live rate
AWAY_FRAMES = int(fault.choose(20_000, 600_000) / SLOWNESS)  # during the outage, about
KILLS = fault.choose(2, 8)                                   # of the daemon, during the outage
FRAMES_PER_CALL = 40                                         # tollsim's, on average
RATE_WHILE_DRAINING = int(400 / SLOWNESS)
IDLE_SECONDS = 2                                             # sessions.idle_timeout


class Workers:
    """tollsim's, in several goes; all that any of them recorded."""

    def __init__(self, daemon: Daemon, chance: random.Random, directory: Path) -> None:
        self.daemon, self.chance, self.directory = daemon, chance, directory
        self.plays = 0

    def play(self, frames_: int, *words: str | int) -> Sim:
        """About so many frames; as fast as the daemon takes them, without further words."""
        self.plays += 1
        calls = max(1, frames_ // FRAMES_PER_CALL // 2)
        return Sim(self.daemon.socket, "--workers", 2, "--pace", 0, "--calls", calls, "--concurrent", 16, "--ring", 8 << 20,
                   "--seed", self.chance.randrange(2**31), "--flush-ms", int(60000 * SLOWNESS),
                   "--record", self.directory / f"play.{self.plays}", *words)

    @staticmethod
    def end(sim: Sim) -> dict[str, Any]:
        """When all is played and acknowledged."""
        report = sim.wait(120)
        assert report["outstanding"] == 0 and report["refused"] == 0, report
        return report


class Heart:
    """Calls that say something all the time, through everything: their silences are noted."""

    def __init__(self, path: Path) -> None:
        self.caller = Caller(path, live=20)
        self.caller.sender.wait_acked()
        self.longest = 0.0
        self.beats = 0
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()

    def _beat(self) -> None:
        last = time.monotonic()
        try:
            while not self._done.wait(0.2):
                self.caller.feed(0)
                self.beats += 1
                self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()
        except BaseException as error:  # told in stop()
            self._error = error

    def give_up(self) -> None:
        self._done.set()
        self._thread.join()

    def stop(self) -> None:
        self.give_up()
        if self._error is not None:
            raise self._error


class Abandoned:
    """Calls that begin before the outage and never end: their workers are gone."""

    def __init__(self, path: Path) -> None:
        self.sessions = [frames.new_session() for _ in range(20)]
        self.caller = Caller(path, live=0)
        self.last = frames.now_us()
        for session in self.sessions:
            self.caller.send(frames.session_start(session, started_at=self.last - 1000), frames.llm(session, 5, 1, occurred_at=self.last))
        self.caller.sender.wait_acked()

    def check(self, database: Database) -> None:
        """Closed as of their last event, not of the moment the database came back."""
        ends = database.query("SELECT finish_reason, ended_at, llm_input_tokens FROM billing_sessions WHERE session_id = ANY (%s::uuid[])",
                              [str(session) for session in self.sessions])
        assert set(ends) == {("orphaned", oracle.time_of(self.last), 5)} and len(ends) == len(self.sessions), ends[:3]


def check_heart(database: Database, heart: Heart) -> None:
    """Calls that went on all the time were never closed as idle, however late their events were stored."""
    closed = database.value("SELECT count(*) FROM billing_sessions WHERE (ended_at IS NOT NULL OR revision > 0) AND session_id = ANY (%s::uuid[])",
                            [str(each) for each in heart.caller.live])
    print(f"calls that lasted through it {len(heart.caller.live)}, turns {heart.beats}, longest silence {heart.longest:.2f} s,"
          f" closed as idle {closed}")
    if heart.longest < IDLE_SECONDS / 2:  # else they were silent indeed, on a slow machine
        assert closed == 0


def disk_bytes(daemon: Daemon) -> int:
    return sum(path.stat().st_blocks * 512 for path in (daemon.state / "journal").iterdir())


def live_rate(workers: Workers, daemon: Daemon) -> float:
    """Frames per second from worker to database, with more of them than it takes."""
    began, before = time.monotonic(), daemon.status()["frames_stored"]
    with workers.play(LIVE_FRAMES) as sim:
        Workers.end(sim)
    fault.settle(daemon, seconds=120)
    return (daemon.status()["frames_stored"] - before) / (time.monotonic() - began)


def drain_rate(daemon: Daemon) -> float:
    """Frames per second that reach the database while it is filled up from the journal, and more arrives."""
    wait_until(lambda: daemon.status()["sink_state"] == "ok", 60, "the daemon to find the database", every=0.005)
    before, began = daemon.status(), time.monotonic()
    wait_until(lambda: daemon.status()["backlog_bytes"] < before["backlog_bytes"] // 50, 300, "the backlog to be stored", every=0.01)
    return (daemon.status()["frames_stored"] - before["frames_stored"]) / (time.monotonic() - began)


def outage(workers: Workers, daemon: Daemon, chance: random.Random) -> dict[str, float]:
    """Fills the journal with AWAY_FRAMES, the daemon dying at random moments; returns what they cost."""
    before, disk_before, played = daemon.status(), disk_bytes(daemon), 0
    for life in range(KILLS + 1):
        with workers.play(AWAY_FRAMES // (KILLS + 1)) as sim:
            if life < KILLS:
                time.sleep(chance.uniform(0, 0.5))
                daemon.kill()
                time.sleep(chance.uniform(0, 0.3))
                daemon.start()
            played += Workers.end(sim)["accepted"]
    status = daemon.status()
    assert status["committed_lsn"] <= before["journal_lsn"] and status["intake"] == "reading"
    return {"frames_away": played, "journal_bytes_per_frame": (status["durable_lsn"] - before["durable_lsn"]) / played,
            "disk_bytes_per_frame": (disk_bytes(daemon) - disk_before) / played}


@pytest.mark.writers(1, 4)
@pytest.mark.limit(fault.choose(180, 900))
def test_outage(own_cluster: Cluster, daemon_factory: Factory, scratch: Path) -> None:
    chance = fault.rng("outage")
    database = own_cluster.create_database()
    migrate(database.dsn)
    config = {"database.retry_max": "200ms", "sessions.idle_timeout": f"{IDLE_SECONDS}s", "journal.segment_bytes": "4M"}
    daemon = daemon_factory(database.dsn, config=config, activated=True).start()
    workers, heart, abandoned = Workers(daemon, chance, scratch), Heart(daemon.socket), Abandoned(daemon.socket)
    try:
        live = live_rate(workers, daemon)
        with workers.play(2000) as sim:  # in whose middle it happens
            time.sleep(chance.uniform(0, 0.2))
            own_cluster.stop("immediate")
            Workers.end(sim)
        began = time.monotonic()
        costs = outage(workers, daemon, chance)
        time.sleep(max(0.0, began + IDLE_SECONDS + 0.5 - time.monotonic()))  # the calls before it are idle by now, or would be
        away = time.monotonic() - began
        with workers.play(10**6, "--rate", RATE_WHILE_DRAINING) as sim:
            own_cluster.start()
            drain = drain_rate(daemon)
            sim.process.send_signal(signal.SIGTERM)
            Workers.end(sim)
        wait_until(lambda: not database.query("SELECT 1 FROM billing_sessions WHERE ended_at IS NULL AND session_id = ANY (%s::uuid[])",
                                              [str(each) for each in abandoned.sessions]), 30, "the abandoned calls to be closed", every=0.2)
        check_heart(database, heart)
        heart.stop()
        heart.caller.hang_up()
        fault.settle(daemon)
    finally:
        heart.give_up()
    sent, summaries = oracle.read_records(scratch / "play")
    told = {UUID(each["stream_id"]).bytes: each["acked"] for each in summaries} | heart.caller.acknowledged | abandoned.caller.acknowledged
    everything = sent + heart.caller.records + abandoned.caller.records
    fault.report("outage", fault.judge(database, everything, [daemon], acknowledged=told), frames=len(everything), seconds_away=away, **costs,
                 kills=KILLS, live_frames_per_second=live, drain_frames_per_second=drain, drain_over_live=drain / live)
    abandoned.check(database)
