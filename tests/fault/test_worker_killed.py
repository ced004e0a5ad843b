"""A worker killed right after record() returned: what the kernel or the daemon had by then is stored, once. Only what had never left
its ring is lost, which is exactly what the worker's own notes say (tests/support/tally.h)."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

import fault
import worker
from harness import Daemon, Database, make_dir, remove_dir
from worker import Tally, Worker

ROUNDS = fault.choose(4, 60)  # of each kind


@pytest.fixture
def tally() -> Iterator[Tally]:
    directory = make_dir("t")
    with Tally(Path(directory) / "tally") as made:
        yield made
    remove_dir(directory)


class Killing:
    """Workers that die in seeded ways at one daemon."""

    def __init__(self, daemon: Daemon, tally: Tally, chance: random.Random) -> None:
        self.daemon = daemon
        self.tally = tally
        self.chance = chance

    def worker(self, *words: str | int) -> Worker:
        return Worker(self.tally, self.daemon.socket, "--seed", self.chance.randrange(2**32), "--text", self.chance.choice([0, 50, 2000]),
                      "--tick-ms", 20, *words)

    def dies(self, *words: str | int) -> Worker:
        return self.worker("--die", *words)

    @staticmethod
    def await_deaths(workers: list[Worker]) -> None:
        for each in workers:
            assert each.wait() == -signal.SIGKILL

    def without_backlog(self) -> None:
        """The daemon takes everything as it comes."""
        self.await_deaths([self.dies("--frames", self.chance.randint(1, 60), "--rate", 2000)
                           for _ in range(self.chance.randint(1, 3))])

    def in_a_burst(self) -> None:
        """As fast as it can: the socket is full now and then."""
        self.await_deaths([self.dies("--frames", self.chance.randint(1, 1500), "--rate", 0) for _ in range(self.chance.randint(1, 3))])

    def with_backlog(self) -> None:
        """The daemon stands still: the kernel's queue fills, then the rings. It reads what the dead have left in the queue."""
        self.daemon.freeze()
        self.await_deaths([self.dies("--frames", self.chance.randint(1, 400), "--rate", self.chance.choice([0, 3000]))
                           for _ in range(self.chance.randint(1, 4))])
        self.daemon.thaw()

    def while_resending(self) -> None:
        """Frozen for so long that a worker sends again what is in the queue already: it is not full, and has it twice then."""
        self.daemon.freeze()
        died = self.dies("--frames", self.chance.randint(7, 9), "--rate", 15)
        time.sleep(self.chance.uniform(0.3, 0.6))
        self.daemon.thaw()
        self.await_deaths([died])

    def from_outside(self) -> None:
        """At any moment, inside record() too, with libtoll's thread or without."""
        more = ["--tick-thread", 3] if self.chance.random() < 0.5 else []
        killed = self.worker("--rate", self.chance.choice([0, 1000, 5000]), *more)
        time.sleep(self.chance.uniform(0.01, 0.08))
        killed.kill()


KINDS = [Killing.without_backlog, Killing.in_a_burst, Killing.with_backlog, Killing.while_resending, Killing.from_outside]


@pytest.mark.limit(60 + 10 * ROUNDS)
def test_worker_killed(daemon_factory: Callable[..., Daemon], db: Database, tally: Tally) -> None:
    chance = fault.rng("worker killed")
    daemon = daemon_factory(db.dsn).start()
    killing = Killing(daemon, tally, chance)
    kinds = KINDS * ROUNDS
    chance.shuffle(kinds)
    made_by: list[str] = []  # the kind of each slot
    for kind in kinds:
        kind(killing)
        made_by += [kind.__name__] * (len(tally.slots()) - len(made_by))
    fault.settle(daemon)

    judged = tally.judged(db)
    outcome = fault.judge(db, judged.records, [daemon], acknowledged=tally.acknowledged())
    slots = tally.slots()
    certain = [each for each in judged.found if slots[each.slot].state == worker.DYING]  # it said itself how far it had sent
    lost = {kind.__name__: sum(made_by[each.slot] == kind.__name__ for each in judged.missing) for kind in KINDS}
    fault.report("worker_killed", outcome, kills=len(slots), recorded=tally.recorded(), handed_over=len(judged.must),
                 lost_in_ring=len(judged.missing), of_these=lost, stored_by_luck=len(judged.found))
    assert not certain, f"stored although the worker says that it never left its ring: {certain[:3]}"
    assert lost["with_backlog"] > 0, "without frames in a ring this test proves little"
    assert sum(each.resent for each in slots) > 0, "nothing was sent twice"
