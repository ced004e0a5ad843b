"""What the daemon's memory does not depend on: the backlog. And what it depends on: live sessions, by less than 256 bytes each.

    TOLL_BACKLOG_MIB=1024 make check T=memory    for the long version

Under a sanitizer the figures are its own; then nothing is asserted of them.
"""

from __future__ import annotations

import os
import random
import re
import time
import uuid
from pathlib import Path
from typing import Callable

import pytest

from harness import SLOWNESS, Cluster, Daemon, Database, Sender, StreamSender, frames, migrate, rss_bytes, wait_until

Factory = Callable[..., Daemon]
MIB = 1 << 20
LIMIT = 64 * MIB
BACKLOG = int(os.environ.get("TOLL_BACKLOG_MIB") or 200 / SLOWNESS) * MIB
SESSIONS = int(os.environ.get("TOLL_LIVE_SESSIONS") or 100_000 / SLOWNESS) // 400 * 400  # start_sessions() goes in steps of 200
BYTES_PER_SESSION = 256


def reset_peak(pid: int) -> None:
    """proc(5), clear_refs: 5 sets the peak to what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Template:
    """A datagram near the largest size, of whole calls; each copy has sessions of its own."""

    def __init__(self, number: int, chance: random.Random) -> None:
        words = "".join(chance.choice("abcdefghij klmnop") for _ in range(20000))
        each: list[frames.Frame] = []
        sessions: list[bytes] = []
        size = 0
        while size < 55000:
            session = uuid.UUID(int=chance.getrandbits(128), version=4)
            call = frames.call(session, turns=2, end=chance.random() < 0.99, metadata={"user_id": f"u_{number}"})
            if number % 4:  # else as many frames as there is room for
                at = chance.randrange(15000)
                call.insert(2, frames.transcript(session, text=words[at:at + 4000]))
                call.insert(2, frames.llm(session, raw={"words": words[at:at + 1000].split()}))
            size += len(frames.pack(*call))
            each += call
            sessions.append(session.bytes)
        self.frames = len(each)
        self._data = bytearray(frames.pack(*each))
        self._places = [match.start() for session in sessions for match in re.finditer(re.escape(session), self._data)]

    def copy(self, serial: int) -> bytes:
        mark = serial.to_bytes(4, "big")
        for place in self._places:
            self._data[place:place + 4] = mark
        return bytes(self._data)


@pytest.mark.limit(120 + BACKLOG // MIB)
def test_backlog_does_not_cost_memory(own_cluster: Cluster, daemon_factory: Factory) -> None:
    """The database is away while the journal fills; then everything is read back and stored."""
    database = own_cluster.create_database()
    migrate(database.dsn)
    daemon = daemon_factory(database.dsn, config={"database.retry_max": "200ms"}).start()
    chance = random.Random(1)
    templates = [Template(number, chance) for number in range(20)]
    with Sender(daemon.socket) as sender:
        sender.send_datagram(templates[0].copy(0))
    total = first = templates[0].frames
    daemon.wait_stored(total)
    resting = rss_bytes(daemon.pid)
    own_cluster.stop("immediate")

    began = time.monotonic()
    sent = size = 0
    with Sender(daemon.socket) as sender:
        while size < BACKLOG:
            sent += 1
            template = templates[sent % len(templates)]
            data = template.copy(sent)
            sender.send_datagram(data)
            size += len(data)
            total += template.frames
    status = wait_until(lambda: next((now for now in [daemon.status()] if now["frames_received"] == total), None), 60, "everything to be received")
    assert status["backlog_bytes"] >= BACKLOG and status["frames_pending"] == total - first
    filled = time.monotonic() - began
    peak_filling = peak_bytes(daemon.pid)

    reset_peak(daemon.pid)
    began = time.monotonic()
    own_cluster.start()
    status = daemon.wait_stored(total, seconds=90 + BACKLOG / MIB)
    drained = time.monotonic() - began
    peak_draining = peak_bytes(daemon.pid)
    print(f"backlog {status['journal_lsn'] / MIB:.0f} MiB, frames {total}, sessions {status['sessions_started']}, filled in {filled:.1f} s,"
          f" drained in {drained:.1f} s ({total / drained:.0f} frames/s, {size / drained / MIB:.1f} MiB/s)")
    print(f"resident: at rest {resting / MIB:.1f} MiB, peak while filling {peak_filling / MIB:.1f} MiB,"
          f" while draining {peak_draining / MIB:.1f} MiB, limit {LIMIT // MIB} MiB")
    assert status["frames_stored"] == total
    rows = database.value("SELECT (SELECT count(*) FROM billing_events) + (SELECT count(*) FROM session_transcripts)")
    assert rows == status["rows_events"] + status["rows_transcripts"]
    if SLOWNESS == 1:
        assert max(peak_filling, peak_draining) < LIMIT


@pytest.mark.limit(240)
def test_live_sessions_cost_little(db: Database, daemon_factory: Factory) -> None:
    """Measured between two numbers of live sessions, so that what batches of any content need at their largest is not counted. They are small, and so all
    are full: how many rows are in a batch of the default size follows from how busy the machine is."""
    daemon = daemon_factory(db.dsn, config={"batch.rows": 2000}).start()

    def start_sessions(sender: StreamSender, count: int) -> None:
        for _ in range(0, count, 200):
            each = []
            for _ in range(200):
                session = frames.new_session()
                each += [frames.session_start(session, metadata={"user_id": "u_42", "region": "eu"}), frames.llm(session)]
            sender.send(*each)
        sender.wait_acked(seconds=60)
        daemon.wait_stored(seconds=60)

    empty = rss_bytes(daemon.pid)
    warm_up = SESSIONS // 2
    with StreamSender(daemon.socket) as sender:
        start_sessions(sender, warm_up)
        before, sessions_before = rss_bytes(daemon.pid), daemon.status()["sessions_live"]
        start_sessions(sender, SESSIONS)
        after, sessions_after = rss_bytes(daemon.pid), daemon.status()["sessions_live"]
    live = sessions_after - sessions_before
    each = (after - before) / live
    print(f"live sessions {sessions_after}: {each:.0f} bytes each, measured over the last {live}; resident {empty / MIB:.1f} MiB without any,"
          f" {before / MIB:.1f} MiB with {sessions_before}, {after / MIB:.1f} MiB with {sessions_after}")
    assert live == SESSIONS
    if SLOWNESS == 1:
        assert each < BYTES_PER_SESSION
