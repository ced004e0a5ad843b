"""Forks in a worker while frames are outstanding, while its threads record, while libtoll's thread ticks; forks of forks. All go on
recording, some are killed, parents too. No number of a stream is used for two frames, and nobody's frames are sent by another."""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable

import msgpack
import pytest

import fault
import journalfiles
import worker
from harness import Daemon, Database, make_dir, remove_dir
from worker import Tally, Worker

TREES = fault.choose(6, 80)  # of processes
# A child of a process with threads: ThreadSanitizer can't follow its threads, and AddressSanitizer may leave it a locked allocator.
PLAIN = "TSAN_OPTIONS" in os.environ or "ASAN_OPTIONS" in os.environ


def plant(daemon: Daemon, tally: Tally, chance: random.Random) -> None:
    """One tree of processes, to its end. The daemon stands still now and then, so that frames are outstanding."""
    children, depth, frames = chance.randint(2, 5), 3, chance.choice([20, 60, 150])
    threads, tick_thread_ms = chance.choice([(0, 0)] if PLAIN else [(0, 0), (0, 2), (3, 0), (3, 2)])
    with Worker(tally, daemon.socket, chance.randrange(2**32), children, depth, frames, threads, tick_thread_ms, forker=True) as tree:
        while tree.process.poll() is None:
            daemon.freeze()
            time.sleep(chance.uniform(0.0, 0.35))
            daemon.thaw()
            time.sleep(chance.uniform(0.0, 0.2))
        assert tree.wait() == 0


class Numbering:
    """What the journal says of numbers: each (stream, seq) stands for the same bytes whenever it was sent, from one process."""

    def __init__(self, state: Path) -> None:
        self.frames: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
        self.senders: dict[bytes, set[int]] = defaultdict(set)
        self.again = 0
        for record in journalfiles.records(state):
            if record.kind == journalfiles.DATAGRAM:
                self.add(record)

    def add(self, record: journalfiles.Record) -> None:
        unpacker = msgpack.Unpacker(raw=False)
        unpacker.feed(record.payload)
        envelope = unpacker.unpack()
        self.senders[envelope["id"]].add(record.pid)
        begin = unpacker.tell()
        for number in range(envelope["seq"], envelope["seq"] + envelope["count"]):
            unpacker.skip()
            frames = self.frames[envelope["id"], number]
            self.again += len(frames) > 0
            frames.add(record.payload[begin:unpacker.tell()])
            begin = unpacker.tell()

    @property
    def used_twice(self) -> int:
        return sum(len(each) > 1 for each in self.frames.values())

    @property
    def sent_by_others(self) -> int:
        return sum(len(each) > 1 for each in self.senders.values())


@pytest.mark.limit(180 + 10 * TREES)
def test_fork_while_frames_are_outstanding(daemon_factory: Callable[..., Daemon], db: Database) -> None:
    chance = fault.rng("fork")
    daemon = daemon_factory(db.dsn).start()
    directory = make_dir("t")
    try:
        with Tally(directory / "tally") as tally:
            for _ in range(TREES):
                plant(daemon, tally, chance)
            fault.settle(daemon, seconds=120)
            check(daemon, db, tally)
    finally:
        remove_dir(directory)


def check(daemon: Daemon, db: Database, tally: Tally) -> None:
    judged, slots = tally.judged(db), tally.slots()
    outcome = fault.judge(db, judged.records, [daemon], acknowledged=tally.acknowledged())
    numbering = Numbering(daemon.state)
    forks, outstanding = tally.forks
    killed = sum(each.state == worker.DYING for each in slots)
    fault.report("fork", outcome, processes=len(slots), killed=killed, forks=forks, with_frames_outstanding=outstanding,
                 frames=len(judged.records), duplicates_of_stream_and_seq=numbering.used_twice, streams_of_two_processes=numbering.sent_by_others,
                 sent_again=numbering.again, lost_in_ring=len(judged.missing))
    assert numbering.used_twice == numbering.sent_by_others == 0
    assert len({each.stream for each in slots}) == len(slots), "two processes think that they have one stream"
    assert {each.state for each in slots} <= {worker.FLUSHED, worker.DYING}, "not all was acknowledged in the end"
    assert not [each for each in judged.missing if slots[each.slot].state == worker.FLUSHED]
    assert outstanding > forks / 2 and killed > 0 and numbering.again > 0, "or this test proves little"
