"""The wall clock is stepped under the daemon, under its workers, under both: forward and back, by an hour or a day, with calls going on.

libfaketime moves CLOCK_REALTIME and leaves the other clocks alone, as an administrator or a virtual machine's host does. PostgreSQL keeps its own.
The pure parts (the journal's retention, idle sessions) are tested with an injected clock in tests/unit/.
"""

from __future__ import annotations

import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, Callable, Iterator

import pytest

import fault
import journalfiles
import oracle
from harness import BUILD, Daemon, Database, Sim, StreamSender, frames, run, wait_until
from outage import Outage

HOUR, DAY = 3600, 86400
# No time is clamped here, so that the oracle can compare every frame's time with its row's.
CONFIG = {"sessions.future_tolerance": "365d", "sessions.past_tolerance": "400d", "batch.age": "20ms", "database.retry_max": "200ms"}

SANITIZED = any(each in (BUILD / "tolld").read_bytes() for each in (b"__asan_init", b"__tsan_init"))

Factory = Callable[..., Daemon]


class WallClock:
    """A wall clock for the processes that get its `env`."""

    def __init__(self, path: Path) -> None:
        listed = run(["dpkg", "-L", "libfaketime"]).stdout.splitlines()
        self.path = path
        self.offset = 0.0
        self.set(0)
        self.env = {"LD_PRELOAD": next(each for each in listed if each.endswith("/libfaketime.so.1")), "FAKETIME_NO_CACHE": "1",
                    "FAKETIME_TIMESTAMP_FILE": str(path), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}

    def set(self, offset: float) -> None:
        """Seconds ahead of the true time. Seen at once, whole or not at all."""
        beside = self.path.with_suffix(".new")
        beside.write_text(f"{offset:+.6f}\n")
        beside.rename(self.path)
        self.offset = offset

    def step(self, seconds: float) -> None:
        self.set(self.offset + seconds)

    def now_us(self) -> int:
        return frames.now_us() + round(self.offset * 1e6)


@pytest.fixture
def make_clock(scratch: Path) -> Iterator[Callable[[str], WallClock]]:
    yield lambda name: WallClock(scratch / name)
    for each in Path("/dev/shm").glob("*faketime_*"):  # libfaketime's, which a process that is killed leaves behind
        pid = each.name.rsplit("_", 1)[-1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            each.unlink(missing_ok=True)


MakeClock = Callable[[str], WallClock]


def negative_durations(db: Database) -> int:
    return db.value("SELECT count(*) FROM billing_sessions WHERE duration_secs < 0 OR ended_at < started_at")


def conclude(name: str, db: Database, daemon: Daemon, sent: list[oracle.Record], **figures: Any) -> None:
    negative = negative_durations(db)
    sessions = db.value("SELECT count(*) FROM billing_sessions")
    fault.report(name, fault.judge(db, sent, [daemon]), **figures, sessions=sessions, negative_durations=negative)
    assert negative == 0


def orphaned(daemon: Daemon) -> int:
    return daemon.status()["sessions_orphaned"]


def some_step(random: Random) -> float:
    return random.choice((-DAY, -HOUR, HOUR, DAY)) * random.uniform(0.9, 1.1)


@pytest.mark.parametrize("stepped", ["daemon", "worker", "both"])
def test_steps_mid_call(daemon_factory: Factory, db: Database, outage: Outage, make_clock: MakeClock, records: Path, stepped: str) -> None:
    """Calls go on while their clock, the daemon's, or both jump; now and then PostgreSQL is away. No live session counts as orphaned."""
    random = fault.rng(f"clock {stepped}")
    here, there = make_clock("daemon"), make_clock("worker")
    daemon = daemon_factory(db.dsn, config=CONFIG, env=here.env).start()
    clocks = {"daemon": [here], "worker": [there], "both": [here, there]}[stepped]
    steps = fault.choose(3, 60)
    with Sim(daemon.socket, "--workers", 2, "--concurrent", 8, "--pace", 40, "--duration", int(steps * 0.4) + 1, "--seed", fault.SEED,
             "--record", records, env=there.env) as sim, StreamSender(daemon.socket) as quiet:
        ledger, session = oracle.Ledger(), frames.new_session()
        quiet.send(*ledger.of(frames.session_start(session, started_at=there.now_us())))
        for at in range(steps):
            if at % 3 == 1:
                outage.begin()
            step = some_step(random)
            for each in clocks:
                each.step(step)
            beat = quiet.page.heartbeat
            quiet.send(*ledger.of(frames.llm(session, occurred_at=there.now_us()), frames.usage("step", 1, account="clock")))
            quiet.wait_acked()
            wait_until(lambda: quiet.page.heartbeat > beat, 10, "the heartbeat to go on")
            time.sleep(random.uniform(0, 0.3))
            outage.end()
            if at % 3 == 2:  # a call that ends before it began, as its clock has it, half the time
                quiet.send(*ledger.of(frames.session_end(session, ended_at=there.now_us())))
                session = frames.new_session()
                quiet.send(*ledger.of(frames.session_start(session, started_at=there.now_us())))
        report = sim.wait(60)
        quiet.wait_acked()
        fault.settle(daemon)
    sent, _ = oracle.read_records(records)
    assert report["accepted"] == report["acked"] == len(sent)
    assert orphaned(daemon) == 0
    conclude(f"clock_{stepped}", db, daemon, sent + ledger.records, steps=steps)


def test_idle_sessions(daemon_factory: Factory, db: Database, make_clock: MakeClock) -> None:
    """Steps neither close a session that lives nor keep one open that is idle: each counts its idle time by what really passed."""
    random = fault.rng("clock idle")
    clock, ledger = make_clock("daemon"), oracle.Ledger()
    daemon = daemon_factory(db.dsn, config=CONFIG | {"sessions.idle_timeout": "4s"}, env=clock.env).start()
    live, idle = frames.new_session(), [frames.new_session() for _ in range(3)]
    steps = fault.choose(3, 16)
    with StreamSender(daemon.socket) as worker:
        def goes_on(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                worker.send(*ledger.of(frames.llm(live)))
                worker.wait_acked()
                time.sleep(0.2)
        worker.send(*ledger.of(frames.session_start(live), *(frames.session_start(each) for each in idle)))
        goes_on(1)
        for _ in range(steps):
            clock.step(some_step(random))
            goes_on(random.uniform(1.1, 2))
        assert db.value("SELECT count(*) FROM billing_sessions WHERE session_id = %s AND ended_at IS NOT NULL", str(live)) == 0
        began = time.monotonic()

        def all_closed() -> bool:
            goes_on(0.5)
            return db.value("SELECT count(*) FROM billing_sessions WHERE finish_reason = 'orphaned'") >= len(idle)

        wait_until(all_closed, 40, "idle sessions to be closed")
        closed = time.monotonic() - began
        worker.send(*ledger.of(frames.session_end(live, ended_at=frames.now_us())))
        worker.wait_acked()
        fault.settle(daemon)
    assert orphaned(daemon) == len(idle)
    conclude("clock_idle", db, daemon, ledger.records, steps=steps, s_until_closed=closed)


def test_retention(daemon_factory: Factory, db: Database, make_clock: MakeClock) -> None:
    """What the database has is kept for so long by what really passed: a step forward deletes nothing, a step back keeps nothing."""
    fault.rng("clock retention")
    clock, ledger = make_clock("daemon"), oracle.Ledger()
    config = CONFIG | {"journal.segment_bytes": 131072, "journal.min_free_bytes": 0, "journal.retention": "30m"}
    daemon = daemon_factory(db.dsn, config=config, env=clock.env).start()
    with StreamSender(daemon.socket) as worker:
        def fill_segments() -> None:
            session = frames.new_session()
            for _ in range(12):
                worker.send(*ledger.of(*(frames.llm(session, raw={"x": "y" * 10000}) for _ in range(4))))
                worker.wait_acked()
            fault.settle(daemon)
        fill_segments()
        assert len(journalfiles.segments(daemon.state)) > 3
        for step in (HOUR, DAY, -DAY, -HOUR, HOUR, -2 * HOUR, 3 * HOUR):
            clock.step(step)
            deadline = time.monotonic() + fault.choose(0.6, 3)  # the journal looks four times a second
            while time.monotonic() < deadline:
                assert journalfiles.is_whole(daemon.state), f"deleted after a step of {step} s"
                time.sleep(0.05)
        clock.step(-HOUR)
        daemon.write_config(config | {"journal.retention": "2s"})
        daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: not journalfiles.is_whole(daemon.state), 20, "segments to go when their time is over")
        fill_segments()
    conclude("clock_retention", db, daemon, ledger.records, steps=8)


def test_month_end(daemon_factory: Factory, db: Database, make_clock: MakeClock, records: Path) -> None:
    """Back and forth over the end of this month, the next and the one after: from one partition to another, and where none is made yet."""
    random = fault.rng("clock month")
    clock = make_clock("both")
    daemon = daemon_factory(db.dsn, config=CONFIG, env=clock.env).start()
    ends, first = [], datetime.now(timezone.utc).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(4):
        first = (first + timedelta(days=32)).replace(day=1)
        ends.append((first - datetime.now(timezone.utc)).total_seconds())
    steps = fault.choose(5, 60)
    with Sim(daemon.socket, "--workers", 2, "--concurrent", 8, "--pace", 40, "--duration", int(steps * 0.3) + 1, "--seed", fault.SEED,
             "--record", records, env=clock.env) as sim:
        for _ in range(steps):
            clock.set(random.choice(ends) - random.uniform(-1, 2))
            time.sleep(0.3)
        report = sim.wait(60)
        fault.settle(daemon)
    sent, _ = oracle.read_records(records)
    assert report["accepted"] == report["acked"] == len(sent)
    months = db.value("SELECT count(DISTINCT date_trunc('month', occurred_at)) FROM billing_events")
    assert months > 1
    assert orphaned(daemon) == 0
    conclude("clock_month_end", db, daemon, sent, steps=steps, months=months)


def test_clamped_times(daemon_factory: Factory, db: Database, make_clock: MakeClock, records: Path) -> None:
    """With the tolerances as they are shipped, times from a clock far ahead are clamped; totals and durations hold all the same."""
    random = fault.rng("clock clamped")
    here, there = make_clock("daemon"), make_clock("worker")
    daemon = daemon_factory(db.dsn, config={"batch.age": "20ms"}, env=here.env).start()
    steps = fault.choose(4, 40)
    with Sim(daemon.socket, "--workers", 2, "--concurrent", 8, "--pace", 40, "--duration", int(steps * 0.4) + 1, "--seed", fault.SEED,
             "--record", records, env=there.env) as sim:
        for _ in range(steps):
            random.choice((here, there)).set(random.choice((-DAY, -HOUR, 0, HOUR, DAY)))
            time.sleep(0.4)
        report = sim.wait(60)
        fault.settle(daemon)
    sent, _ = oracle.read_records(records)
    assert report["accepted"] == report["acked"] == len(sent)
    outcome = oracle.Outcome(frames=len(sent))
    stored = db.query(oracle.EVENTS.replace("occurred_at)", "coalesce(occurred_at_reported, occurred_at))"))
    oracle.compare_rows(outcome, [oracle.event_key(each) for each in sent if each["type"] in oracle.ROW_TYPES], stored)
    by_session: dict[str, list[oracle.Record]] = {}
    for each in sent:
        by_session.setdefault(each.get("session_id", ""), []).append(each)
    for session, *totals in db.query("SELECT session_id::text, llm_input_tokens, llm_output_tokens, llm_calls, tts_chars, tts_calls,"
                                     " round(stt_audio_ms * 1000)::bigint, stt_calls FROM billing_sessions WHERE ended_at IS NOT NULL"):
        outcome.wrong_totals += [int(each) for each in totals] != list(oracle.totals_of(by_session[session]).values())
    negative, faults = negative_durations(db), oracle.faults(db)
    fault.report("clock_clamped", outcome, frames=len(sent), steps=steps, sessions=len(by_session), negative_durations=negative)
    assert negative == 0 and not faults, faults


if SANITIZED:  # A sanitizer's runtime and libfaketime both want to be the first library; tests/unit/ have the injected clock.
    for each in [name for name in globals() if name.startswith("test_")]:
        del globals()[each]
