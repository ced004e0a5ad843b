"""Workers that send everything they should not (tests/support/hostile.py), next to good ones: the daemon stays up, leaks no descriptor, stays
small, and what the good ones send is acknowledged and stored as if they were alone."""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Callable
from uuid import UUID

import pytest

import fault
import oracle
from harness import ROOT, SLOWNESS, Daemon, Database, StreamSender, frames, rss_bytes, wait_until

Factory = Callable[..., Daemon]

ROUNDS = fault.choose(1, 8)
ACTS = fault.choose(16, 48)  # of each of two hostile workers in a round: each of the acts once, or three times
NOBODY = 65534
QUARANTINE = 20000  # rows
GROWTH_MAX = 64 << 20  # bytes of resident memory: limits of pages, streams, holes, and a batch


class Neighbour(threading.Thread):
    """A good worker at a human pace: sends calls, waits for each to be acknowledged, and notes how long that took."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.sender = StreamSender(daemon.socket, seconds=30)
        self.ledger = oracle.Ledger()
        self.waits: list[float] = []
        self.stopping = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopping.wait(0.02):
                self.sender.send(*self.ledger.of(*frames.call(frames.new_session(), turns=1)))
                began = time.monotonic()
                self.sender.wait_acked(seconds=30)
                self.waits.append(1000 * (time.monotonic() - began))
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self.stopping.set()
        self.join()
        if self.error:
            raise self.error


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def hostile(daemon: Daemon, seed: str, uid: int, neighbour: Neighbour) -> subprocess.Popen[str]:
    listener = daemon._listener
    assert listener is not None
    other = {"HOSTILE_OTHER_UID": "1"} if uid != os.getuid() else {}

    def as_third() -> None:
        os.dup2(listener.fileno(), 3)
    return subprocess.Popen(["/usr/bin/python3", ROOT / "tests/support/hostile.py", str(daemon.socket), seed, str(ACTS), str(uid),
                             neighbour.sender.stream.hex()],
                            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "HOSTILE_HAS_SOCKET": "1", **other}, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, pass_fds=(3, listener.fileno()), preexec_fn=as_third)


def numbers_stored(db: Database, sender: StreamSender) -> bool:
    """All that this sender was told is durable."""
    return bool(db.query("SELECT 1 FROM toll.streams WHERE uid = %s AND stream_id = %s AND seen @> int8range(1, %s)",
                         os.getuid(), str(UUID(bytes=sender.stream)), sender.acked + 1))


@pytest.mark.limit(900)
def test_hostile_workers_harm_nobody(daemon_factory: Factory, db: Database) -> None:
    chance = fault.rng("hostile")
    daemon = daemon_factory(db.dsn, activated=True, config={"batch.age": "20ms", "sessions.idle_timeout": "1d", "limits.quarantine_rows": QUARANTINE}).start()
    neighbours = [Neighbour(daemon) for _ in range(2)]
    for each in neighbours:
        each.start()
    wait_until(lambda: all(len(each.waits) > 20 for each in neighbours), 30, "the neighbours to be under way")
    before, rss, quiet = descriptors(daemon), rss_bytes(daemon.pid), [wait for each in neighbours for wait in each.waits]
    most, largest, sent, started = before, rss, Counter[str](), len(quiet)
    for _ in range(ROUNDS):
        uids = [os.getuid(), NOBODY if os.getuid() == 0 else os.getuid()]
        running = [hostile(daemon, f"{chance.random()}", uid, chance.choice(neighbours)) for uid in uids]
        while not all(select.select([each.stdout], [], [], 0.02)[0] for each in running):
            most, largest = max(most, descriptors(daemon)), max(largest, rss_bytes(daemon.pid))
            assert daemon.running, daemon.log_text()[-2000:]
        # While they live, and hold the other ends: all is closed but a descriptor (of a process) for each page.
        wait_until(lambda: descriptors(daemon) <= before + daemon.status()["ack_pages"], 20, "descriptors of the living to be closed")
        for each in running:
            out, _ = each.communicate()
            assert each.returncode == 0, "it must not die of what it does itself"
            sent.update(json.loads(out))
    for each in neighbours:
        each.stop()
    waits = [wait for each in neighbours for wait in each.waits][started:]
    # What is left of the dead: nothing. A quarter of a second until they are missed, some more until closing is done.
    wait_until(lambda: descriptors(daemon) <= before, 20, f"descriptors to be closed: {before} before, now more")
    status = daemon.wait_stored(seconds=120)
    largest = max(largest, rss_bytes(daemon.pid))
    outcome = oracle.compare(db, [record for each in neighbours for record in each.ledger.records])
    assert all(numbers_stored(db, each.sender) for each in neighbours)
    faults = oracle.faults(db)
    faults.pop("stream_holes", None)  # the hostile ones' own
    assert not faults, faults
    assert status["sink_state"] == "ok" and status["intake"] == "reading"
    # The rest of a datagram of 65,536 goes in above the limit, and what small ones bring until the daemon looks again.
    assert status["frames_quarantined"] < QUARANTINE + 65536 + 20000, "the quarantine's limit does not hold"
    assert largest - rss < GROWTH_MAX or SLOWNESS > 1, f"grew by {largest - rss >> 20} MiB"
    lines = len(Path(daemon.log).read_text().splitlines())
    assert lines < 100 + 20 * ROUNDS, "the log can be flooded"
    for each in neighbours:
        each.sender.close()
    fault.report("hostile_worker", outcome, crashes=0, leaked=descriptors(daemon) - before, datagrams=sent["datagrams"],
                 descriptors=sent["descriptors"], refused=status["datagrams_refused"], quarantined=status["frames_quarantined"],
                 open_most=most, rss_mib=largest / 2**20, rss_growth_mib=(largest - rss) / 2**20,
                 neighbour_ack_ms_quiet=fault.percentiles(quiet, 50, 99), neighbour_ack_ms=fault.percentiles(waits, 50, 99, 99.9), log_lines=lines)
    assert daemon.stop() == 0
