"""The daemon stands still for seconds while workers record. record() goes on as if nothing had happened; a ring that is large enough keeps
everything, and one that is not refuses, counts, and says so in gap frames. What was recorded is stored, and nothing else."""

from __future__ import annotations

import time
from typing import Callable, Sequence

import pytest

import fault
import worker
from harness import SLOWNESS, Daemon, Database, make_dir, remove_dir, wait_until
from worker import Entry, Slot, Tally, Worker

FROZEN_SECONDS = fault.choose(3.0, 10.0)
FREEZES = fault.choose(1, 3)
RATE = int(1000 / min(SLOWNESS, 4))  # frames per second of each worker
LARGE, SMALL = 16 << 20, 16 << 10  # rings


def microseconds(samples: Sequence[int]) -> dict[str, float]:
    return {name: ns / 1000 for name, ns in fault.percentiles(samples, 50, 99, 99.9).items()}


def during(entries: list[Entry], times: list[tuple[int, int]]) -> list[Entry]:
    return [each for each in entries if any(begin <= each.began_ns < end for begin, end in times)]


def slot_of(tally: Tally, each: Worker) -> Slot:
    return next(slot for slot in tally.slots() if slot.pid == each.process.pid)


@pytest.mark.limit(120 + 2 * FREEZES * FROZEN_SECONDS)
def test_daemon_frozen(daemon_factory: Callable[..., Daemon], db: Database) -> None:
    fault.rng("daemon frozen")
    daemon = daemon_factory(db.dsn).start()
    directory = make_dir("t")
    frozen: list[tuple[int, int]] = []
    try:
        with Tally(directory / "tally") as tally:
            words = ["--rate", RATE, "--text", 300, "--bare"]
            with Worker(tally, daemon.socket, "--ring", LARGE, *words) as large, Worker(tally, daemon.socket, "--ring", SMALL, *words) as small:
                wait_until(lambda: tally.recorded() > RATE, 20, "the workers to be at work")
                for _ in range(FREEZES):
                    freeze(daemon, tally, frozen)
                large.stop()
                small.stop()
                slots = slot_of(tally, large), slot_of(tally, small)
            fault.settle(daemon)
            check(daemon, db, tally, slots, frozen)
    finally:
        remove_dir(directory)


def freeze(daemon: Daemon, tally: Tally, frozen: list[tuple[int, int]]) -> None:
    """A worker that waits for the daemon would not get on."""
    daemon.freeze()
    before, began = len(tally.entries()), time.monotonic_ns()
    time.sleep(FROZEN_SECONDS)
    wait_until(lambda: len(tally.entries()) > before + RATE, 20, "the workers to go on recording")
    frozen.append((began, time.monotonic_ns()))
    daemon.thaw()
    wanted = [each.recorded for each in tally.slots()]
    wait_until(lambda: all(each.acked >= number for each, number in zip(tally.slots(), wanted)), 30, "all of it to be acknowledged")


def check(daemon: Daemon, db: Database, tally: Tally, slots: tuple[Slot, Slot], frozen: list[tuple[int, int]]) -> None:
    large, small = slots
    judged, entries = tally.judged(db), tally.entries()
    outcome = fault.judge(db, judged.records, [daemon], acknowledged=tally.acknowledged())
    then = during(entries, frozen)
    other = during(entries, [(0, frozen[0][0])])
    told = dict(db.query("SELECT stream_id::text, sum(count)::bigint FROM toll.gaps GROUP BY 1"))
    fault.report("daemon_frozen", outcome, seconds=FROZEN_SECONDS, times=FREEZES, frames=len(judged.records),
                 record_us_while_frozen=microseconds([each.took_ns for each in then]),
                 record_us_before=microseconds([each.took_ns for each in other]),
                 empty_wait_of_5_us=microseconds([each.bare_ns for each in entries]),
                 large_ring_refused=large.refused, small_ring_refused=small.refused, gap_frames=small.gaps, told_of=sum(told.values()))
    assert not judged.missing and not judged.found, "the workers flushed: all must be known"
    assert {each.state for each in tally.slots()} == {worker.FLUSHED}
    assert large.refused == large.gaps == 0
    assert small.refused > 0 and list(told.values()) == [small.refused], "refused = told of in gap frames"
    refused = sum(each.state == worker.REFUSED for each in entries)
    assert refused <= small.refused, "an END that was refused is tried again"
