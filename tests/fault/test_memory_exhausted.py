"""Memory exhausted, in the real tolld with a real PostgreSQL: allocations fail one by one, and for a while, from start-up on and in full swing; and
the process meets a hard limit with a backlog.

Allocations fail by tests/fault/preload/failmalloc.c. It stands in for malloc, as sanitizers do, so under a sanitizer nothing here can run, nor does
a limit on memory tell much, for they have plenty of their own: there memory_daemon and memory_libtoll, which fail allocations by the linker's
means and run in every build, are what is left of this row.
"""

from __future__ import annotations

import mmap
import re
import resource
import struct
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

import fault
import oracle
from harness import BUILD, SLOWNESS, Cluster, Daemon, Database, StreamSender, frames, wait_until

__test__ = SLOWNESS == 1  # see above: not collected under a sanitizer

CONFIG = {"journal.segment_bytes": "1M", "journal.min_free_bytes": 0, "batch.age": "10ms", "database.retry_max": "200ms"}
NEVER = 2**63
BULK = 30000  # bytes of a large frame
EXIT_STATUSES = (1, 74, 78)  # of a start that failed: options.h

Factory = Callable[..., Daemon]


class Memory:
    """What failmalloc.so is told, and what it tells."""

    CALLS, FROM, TO, FAILED, LIBRARIES = 0, 8, 16, 24, 32

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.env = {"LD_PRELOAD": str(BUILD / "tests/fault/failmalloc.so"), "FAILMALLOC": str(path)}

    def _get(self, offset: int) -> int:
        return struct.unpack_from("<Q", self.memory, offset)[0]

    def _set(self, offset: int, value: int) -> None:
        struct.pack_into("<Q", self.memory, offset, value)

    calls = property(lambda self: self._get(self.CALLS))
    failed = property(lambda self: self._get(self.FAILED))

    def begin(self, libraries: bool) -> None:
        """Counts from 1 again: for a new process."""
        self.back()
        self._set(self.CALLS, 0)
        struct.pack_into("<I", self.memory, self.LIBRARIES, libraries)

    def fail(self, number: int, count: int) -> None:
        """The number-th allocation fails, and so many in all."""
        self._set(self.TO, 0)
        self._set(self.FROM, number)
        self._set(self.TO, number + count)

    def back(self) -> None:
        self._set(self.TO, 0)

    def close(self) -> None:
        self.memory.close()


@pytest.fixture
def memory(scratch: Path) -> Iterator[Memory]:
    made = Memory(scratch / "failmalloc")
    yield made
    made.close()


def preload(daemon: Daemon, memory: Memory | None) -> None:
    for name in ("LD_PRELOAD", "FAILMALLOC"):
        daemon.extra_env.pop(name, None)
    daemon.extra_env |= memory.env if memory else {}


class Call:
    """A worker and one call of frames of every kind; all of it is in the ledger, for what is not acknowledged is sent again."""

    def __init__(self, daemon: Daemon, ledger: oracle.Ledger, bulk: int = 100) -> None:
        self.worker = StreamSender(daemon.socket, seconds=0.05)
        self.ledger, self.bulk = ledger, bulk
        self.session = frames.new_session()

    def begin(self) -> None:
        self.worker.send(*self.ledger.of(frames.session_start(self.session, metadata={"user_id": "u_42"})))

    def go_on(self, datagrams: int) -> None:
        for _ in range(datagrams):
            self.worker.send(*self.ledger.of(frames.llm(self.session, raw={"x": "y" * self.bulk}), frames.tts(self.session),
                                             frames.stt(self.session), frames.transcript(self.session)))

    def end(self) -> None:
        self.worker.send(*self.ledger.of(frames.session_end(self.session)))

    def deliver(self, daemon: Daemon, seconds: float = 30) -> None:
        """Until all is acknowledged. The daemon must live."""
        def durable() -> bool:
            assert daemon.running, f"tolld ended with {daemon.wait()}"
            try:
                self.worker.resend()
            except OSError:
                self.worker.disconnect()
            return self.worker.acked >= self.worker.next - 1
        wait_until(durable, seconds, "acknowledgement", every=0.1)


def start(daemon: Daemon) -> bool:
    """True: ready. False: it ended, with a status and a word; never by a signal."""
    before = len(daemon.log_text()) if daemon.log.exists() else 0
    daemon.start(ready_seconds=0)
    wait_until(lambda: not daemon.running or "READY=1" in daemon.notifications(), 20, "READY or an end")
    if daemon.running:
        return True
    status, said = daemon.wait(), daemon.log_text()[before:]
    assert status in EXIT_STATUSES, f"it ended with {status}: {said}"
    assert re.search(r"memory", said), f"it ended with {status} and said only: {said}"
    return False


def judge(name: str, db: Database, ledger: oracle.Ledger, daemon: Daemon, calls: list[Call], **figures: object) -> None:
    """After a restart without the library."""
    assert daemon.stop() == 0
    preload(daemon, None)
    daemon.start()
    fault.settle(daemon)
    outcome = fault.judge(db, ledger.records, [daemon], acknowledged={each.worker.stream: each.worker.acked for each in calls})
    for each in calls:
        each.worker.close()
    fault.report(name, outcome, **figures)


@pytest.mark.limit(900)
def test_start_up(daemon_factory: Factory, db: Database, memory: Memory) -> None:
    """The n-th allocation since the process began fails: tolld says so and ends, or goes on."""
    random = fault.rng("memory at start-up")
    daemon = daemon_factory(db.dsn, config=CONFIG, activated=True)
    ledger, calls = oracle.Ledger(), []
    ended = runs = 0
    step = fault.choose(25, 1)
    number = random.randrange(1, step + 1)
    while True:
        preload(daemon, memory)
        memory.begin(libraries=False)
        memory.fail(number, 1)
        failed = memory.failed
        call = Call(daemon, ledger)
        calls.append(call)
        call.begin()
        if start(daemon):
            call.go_on(2)
        else:
            ended += 1
            preload(daemon, None)
            daemon.start()
        call.end()
        call.deliver(daemon)
        runs += 1
        assert daemon.stop() == 0
        if memory.failed == failed:
            break
        number += random.randrange(1, 2 * step)
    memory.back()
    daemon.start()
    judge("memory_at_start", db, ledger, daemon, calls, allocations=number, runs=runs, ended=ended, crashes=0)


@pytest.mark.limit(900)
@pytest.mark.parametrize("libraries", (False, True), ids=("own", "libraries"))
def test_steady_state(libraries: bool, daemon_factory: Factory, db: Database, memory: Memory) -> None:
    """Some allocations ahead one fails, or the next hundred, or all for a while. tolld never ends; when memory is back all goes on by itself."""
    random = fault.rng("memory in full swing")
    daemon = daemon_factory(db.dsn, config=CONFIG, activated=True)
    preload(daemon, memory)
    memory.begin(libraries)
    daemon.start()
    ledger, calls, answers = oracle.Ledger(), [], {0: 0, 1: 0}
    runs = fault.choose(4, 240)
    for run in range(runs):
        call = Call(daemon, ledger)
        calls.append(call)
        call.begin()
        length = (1, 1, 100, NEVER)[run % 4]
        memory.fail(memory.calls + 1 + (run * 7 if fault.LONG else random.randrange(60)) % 120, length)
        call.go_on(random.randrange(1, 30))
        answers[min(1, daemon.ctl("status", check=False).returncode)] += 1
        if length == NEVER:
            time.sleep(0.3)
            memory.back()
        call.end()
        call.deliver(daemon)
        memory.back()
    fault.settle(daemon)
    assert memory.failed, "nothing failed"
    assert daemon.status()["sink_state"] == "ok"
    judge(f"memory_in_full_swing_{'libraries' if libraries else 'own'}", db, ledger, daemon, calls, allocations=memory.calls, failed=memory.failed,
          runs=runs, crashes=0, asked=answers[0], errors=answers[1])


def private_memory(daemon: Daemon) -> int:
    """What RLIMIT_DATA limits: pages that can be written and are nobody else's. (The address space has room within what threads reserve.)"""
    return int(re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())[1]) * 1024  # type: ignore[index]


@pytest.mark.limit(300)
def test_hard_limit(daemon_factory: Factory, cluster: Cluster, db: Database) -> None:
    """A backlog, and hardly a page left to work it off: tolld says what is wrong, acknowledges or makes wait, and once it has room goes on."""
    daemon = daemon_factory(db.dsn, config=CONFIG | {"batch.bytes": "64M"}, activated=True).start()
    # With a trigger of a user's the rows of a batch wait until their sessions are stored; else they leave as they are built, and need no memory.
    db.execute("CREATE TRIGGER mine BEFORE UPDATE ON billing_events FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()")
    ledger = oracle.Ledger()
    cluster.stop()
    call = Call(daemon, ledger, bulk=BULK)
    call.begin()
    for _ in range(fault.choose(6, 60)):
        call.go_on(20)
        call.deliver(daemon)
    limit = private_memory(daemon)
    resource.prlimit(daemon.pid, resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    cluster.start()
    line = daemon.wait_log("memory", 30)
    call.go_on(50)
    time.sleep(1)
    assert daemon.running, f"tolld ended with {daemon.wait()}"
    resource.prlimit(daemon.pid, resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    call.end()
    call.deliver(daemon)
    fault.settle(daemon)
    assert daemon.status()["sink_state"] == "ok"
    print(line[:160])
    judge("memory_limit", db, ledger, daemon, [call], backlog_bytes=len(ledger.records) * BULK // 4, crashes=0)
