"""One worker floods, through libtoll or past it, while 100 quiet ones record as people talk. All of the quiet ones' frames are taken and
acknowledged while the flood lasts; the figure is how long that takes, with and without it.

Where it comes from: the daemon reads everything in the order it came, so a frame that is in the kernel's queue waits for milliseconds. But a
flood can keep that queue full if it is short (net.unix.max_dgram_qlen, 10 on a bare kernel). Then a quiet worker's frame waits in its
ring for the worker's next toll_tick(), here 100 ms, and perhaps for one more. One sender's unread datagrams are limited by its own socket's buffer
(net.core.wmem_default, about 270 small ones), so a queue of 512 always has room for others.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable

import pytest

import fault
import worker
from harness import SLOWNESS, Daemon, Database, make_dir, remove_dir, wait_until
from worker import Entry, Tally, Worker

QUIET = 100
RATE = 200  # frames per second of all the quiet ones together
FLOODS: dict[str, list[str | int]] = {"libtoll": ["--rate", 0, "--ring", 1 << 16], "raw": ["--raw"]}
SECONDS = fault.choose(0.8, 4.0)  # of each phase


class Phases:
    """The quiet workers' frames, by what went on beside them."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.times: dict[str, tuple[int, int]] = {}

    def during(self, name: str) -> list[Entry]:
        begin, end = self.times[name]
        return [each for each in self.tally.entries() if begin <= each.began_ns < end]

    def figures(self, name: str) -> dict[str, float]:
        took = [each.acked_ns - each.began_ns for each in self.during(name)]
        return {key: ns / 1e6 for key, ns in fault.percentiles(took, 50, 99).items()}

    def run(self, name: str) -> None:
        """One phase. What was recorded in it must be acknowledged while whatever went on goes on."""
        begin = time.monotonic_ns()
        time.sleep(SECONDS * min(SLOWNESS, 3))
        self.times[name] = begin, time.monotonic_ns()
        wait_until(lambda: all(each.acked_ns for each in self.during(name)), 30, f"the quiet workers' frames to be acknowledged, {name}", every=0.2)


# A queue of 512 is what tolld asks for in its log. It is tried in a network namespace of the daemon's own, which only root can make.
OWN_QUEUE = ["unshare", "-n", "sh", "-c", 'echo "$0" > /proc/sys/net/unix/max_dgram_qlen; exec "$@"']


@pytest.mark.limit(180 + 20 * SECONDS)
@pytest.mark.parametrize("queue", fault.choose(["default"], ["default", "512"]))
def test_noisy_worker(queue: str, request: pytest.FixtureRequest, daemon_factory: Callable[..., Daemon], db: Database) -> None:
    chance = fault.rng("noisy worker")
    if queue != "default":
        request.getfixturevalue("needs_root")
    daemon = daemon_factory(db.dsn, wrapper=[] if queue == "default" else [*OWN_QUEUE, queue]).start()
    directory = make_dir("t")
    try:
        with Tally(directory / "quiet") as tally, Tally(directory / "floods") as noise:
            floods: dict[str, float] = {}
            with Worker(tally, daemon.socket, "--handles", QUIET, "--rate", RATE, "--text", 200, "--seed", chance.randrange(2**32)) as quiet:
                wait_until(lambda: tally.recorded() > 2 * QUIET, 20, "every quiet worker to have said something")
                phases = Phases(tally)
                phases.run("alone")
                for name, words in FLOODS.items():
                    before, began = noise.count(), time.monotonic()
                    with Worker(noise, daemon.socket, *words) as flood:
                        phases.run(name)
                        assert noise.count() < worker.ENTRIES, "the flood ended before its time"
                        flood.stop(120)
                    floods[name] = (noise.count() - before) / (time.monotonic() - began)
                quiet.stop()
            fault.settle(daemon, seconds=180)
            print(f"net.unix.max_dgram_qlen {queue if queue != 'default' else Path('/proc/sys/net/unix/max_dgram_qlen').read_text().strip()}")
            check(daemon, db, tally, noise, phases, floods)
    finally:
        remove_dir(directory)


def check(daemon: Daemon, db: Database, tally: Tally, noise: Tally, phases: Phases, floods: dict[str, float]) -> None:
    both = [each.judged(db) for each in (tally, noise)]
    outcome = fault.judge(db, [record for each in both for record in each.records], [daemon],
                          acknowledged=tally.acknowledged() | noise.acknowledged())
    fault.report("noisy_worker", outcome, quiet=QUIET, frames=outcome.frames, **{f"ack_ms_{name}": phases.figures(name) for name in phases.times},
                 **{f"flood_{name}_frames_per_second": int(rate) for name, rate in floods.items()},
                 quiet_sends_that_found_the_socket_full=sum(each.blocked for each in tally.slots()))
    assert not any(each.missing or each.found for each in both), "all have flushed, or sent and were not lied to"
    assert sum(each.refused for each in tally.slots()) == 0, "a quiet worker's ring was full"
    assert min(floods.values()) > 10 * RATE, "that was no flood"
