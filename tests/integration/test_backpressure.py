"""When space runs out: the daemon stops reading, the kernel's queue and the workers' rings fill, what must be refused is counted and told as a
gap; and when space returns everything goes on by itself, with nothing lost that was acknowledged or taken."""

from __future__ import annotations

import signal
import socket
import time
import uuid
from typing import Any, Callable, Iterator

import pytest

import oracle
from harness import Daemon, Database, Sim, StreamSender, frames, make_dir, remove_dir, rss_bytes, wait_until
from smalldisk import SmallDisk

SEGMENT = 131072  # the smallest
SMALL = {"journal.segment_bytes": SEGMENT, "journal.max_bytes": 8 * SEGMENT, "journal.min_free_bytes": 0, "database.retry_max": "200ms",
         "batch.age": "10ms"}
OK, BUSY = 0, 1

Factory = Callable[..., Daemon]


@pytest.fixture
def database(db: Database) -> Database:
    """A migrated database whose server is down, as if for the night."""
    db.cluster.stop()
    return db


def paused(daemon: Daemon) -> bool:
    return daemon.status()["intake"] == "paused"


def plain_sender(daemon: Daemon) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.connect(str(daemon.socket))
    return made


def fill(daemon: Daemon, sender: socket.socket, session: uuid.UUID, first: int = 0) -> int:
    """Sends numbered frames of a kilobyte until the daemon has stopped reading and the queue is full; returns the next number."""
    number = first

    def full() -> bool:
        nonlocal number
        stopped = paused(daemon)  # before sending: what it read since has left room in the queue
        try:
            while True:
                sender.send(frames.pack(frames.tts(session, 1, request_id=str(number), raw={"x": "y" * 900})))
                number += 1
        except BlockingIOError:
            return stopped and paused(daemon)
    wait_until(full, 20, "the daemon to stop reading", every=0.002)
    return number


def stored_numbers(database: Database, session: uuid.UUID) -> list[int]:
    return [row[0] for row in database.query("SELECT request_id::int FROM billing_events WHERE session_id = %s AND event_type = 'tts'"
                                          " ORDER BY 1", str(session))]


# --- the journal's own limit ---

def test_full_journal_pauses_and_goes_on_by_itself(daemon_factory: Factory, database: Database) -> None:
    """A worker is told on its page, an operator by tollctl; every frame the socket took is stored when PostgreSQL is back."""
    daemon = daemon_factory(database.dsn, config=SMALL).start()
    session, rss = frames.new_session(), rss_bytes(daemon.pid)
    with StreamSender(daemon.socket) as worker, plain_sender(daemon) as plain:
        worker.send(frames.session_start(session))
        assert worker.wait_acked() == 1 and worker.page.state == OK
        sent = fill(daemon, plain, session)
        assert 700 < sent < 1400  # a MiB of a kilobyte each, and what the queue holds
        wait_until(lambda: worker.page.state == BUSY, 5, "the worker to be told")
        status = daemon.status()
        assert status["journal_bytes"] <= 8 * SEGMENT and status["frames_stored"] == 0
        assert any("receiving is paused" in alarm["text"] for alarm in status["alarms"])
        text = daemon.ctl("status").stdout
        assert "paused" in text and "journal.max_bytes" in text
        assert "the journal is full" in daemon.log_text()
        beat = worker.page.heartbeat
        wait_until(lambda: worker.page.heartbeat > beat, 5, "the heartbeat to go on")
        with pytest.raises(BlockingIOError):
            plain.send(frames.pack(frames.tts(session)))
        with worker.socket:  # its next frames wait in its own memory
            worker.socket.settimeout(0.05)
            worker.send(frames.llm(session), frames.session_end(session))
        assert worker.acked == 1
        database.cluster.start()
        assert worker.wait_acked(seconds=40) == 3
        wait_until(lambda: not paused(daemon), 10, "reading to go on")
        daemon.wait_stored(sent + 3)
        assert worker.page.state == OK
    assert daemon.status()["alarms"] == []
    assert stored_numbers(database, session) == list(range(sent))
    assert database.value("SELECT tts_calls FROM billing_sessions WHERE session_id = %s AND ended_at IS NOT NULL", str(session)) == sent
    assert not oracle.faults(database)
    print(f"{sent} frames taken before the journal was full; resident memory grew by {rss_bytes(daemon.pid) - rss >> 10} KiB")


def test_full_again_and_again(daemon_factory: Factory, database: Database) -> None:
    """Three nights in a row: the space that stored frames took is used again."""
    daemon = daemon_factory(database.dsn, config=SMALL).start()
    session, sent = frames.new_session(), 0
    with plain_sender(daemon) as plain:
        for _ in range(3):
            sent = fill(daemon, plain, session, sent)
            database.cluster.start()
            wait_until(lambda: len(stored_numbers(database, session)) == sent, 30, "all to be stored")
            wait_until(lambda: not paused(daemon), 5, "reading to go on")
            database.cluster.stop()
    database.cluster.start()
    assert stored_numbers(database, session) == list(range(sent))
    print(f"{sent} plain frames in three rounds, none lost")


def test_a_kill_while_full_loses_nothing_acknowledged(daemon_factory: Factory, database: Database) -> None:
    daemon = daemon_factory(database.dsn, config=SMALL).start()
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket, seconds=0.02) as worker:
        while not paused(daemon):
            for _ in range(20):
                worker.send(*ledger.of(*frames.call(frames.new_session())))
        acked = worker.acked
        assert 0 < acked < worker.next - 1
        daemon.kill()
        daemon.start()
        database.cluster.start()
        worker.seconds = 10
        worker.disconnect()
        worker.wait_acked(seconds=40)
    daemon.ctl("flush")
    print(f"{acked} of {worker.next - 1} frames acknowledged when it was killed; {ledger.check(database).figures}")


def test_reload_raises_the_limit(daemon_factory: Factory, database: Database) -> None:
    """An operator gives it more space while PostgreSQL is still down: SIGHUP is enough."""
    daemon = daemon_factory(database.dsn, config=SMALL).start()
    session = frames.new_session()
    with plain_sender(daemon) as plain:
        sent = fill(daemon, plain, session)
        daemon.write_config(SMALL | {"journal.max_bytes": 64 * SEGMENT})
        daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: not paused(daemon), 10, "reading to go on")
        wait_until(lambda: daemon.status()["frames_received"] == sent, 10, "the queue to be read")
        plain.send(frames.pack(frames.tts(session, 1, request_id=str(sent))))
    database.cluster.start()
    daemon.wait_stored(sent + 1)
    assert stored_numbers(database, session) == list(range(sent + 1))


def test_sigterm_while_full_is_obeyed(daemon_factory: Factory, database: Database) -> None:
    daemon = daemon_factory(database.dsn, config=SMALL).start()
    with plain_sender(daemon) as plain:
        fill(daemon, plain, frames.new_session())
        began = time.monotonic()
        assert daemon.stop(seconds=8) == 0  # less than daemon.shutdown_deadline, after which it would end all the same
        print(f"ended {1000 * (time.monotonic() - began):.0f} ms after SIGTERM")


# --- libtoll ---

def test_rings_fill_and_gaps_are_told(daemon_factory: Factory, database: Database) -> None:
    """Workers go on recording into small rings: what they refuse with -ENOBUFS is what toll.gaps says, frame for frame."""
    daemon = daemon_factory(database.dsn, config=SMALL | {"journal.max_bytes": 16 * SEGMENT}).start()
    records, began = make_dir("r"), time.monotonic()
    try:
        with Sim(daemon.socket, "--workers", 2, "--rate", 10000, "--duration", 2, "--ring", 65536, "--seed", 21, "--flush-ms", 30000,
                 "--record", records / "sent") as sim:
            wait_until(lambda: paused(daemon), 20, "the journal to be full")
            wait_until(lambda: time.monotonic() > began + 2, 5, "rings to be full for a while")
            database.cluster.start()
            report = sim.wait(90)
        sent, summaries = oracle.read_records(records / "sent")
    finally:
        remove_dir(records)
    daemon.ctl("flush", "--timeout", "30")
    refused = sum(each["refused"] for each in summaries)
    assert refused > 0, report
    assert report["accepted"] == report["acked"] == len(sent)
    rows = database.query("SELECT count, since, until, stream_id, seq FROM toll.gaps ORDER BY id")
    assert sum(row[0] for row in rows) == refused
    assert all(row[1] <= row[2] and row[3] and row[4] for row in rows), rows
    compared = oracle.Outcome()
    oracle.compare_rows(compared, [oracle.event_key(each) for each in sent if each["type"] in oracle.ROW_TYPES], database.query(oracle.EVENTS))
    oracle.compare_rows(compared, [oracle.transcript_key(each) for each in sent if each["type"] == "transcript"], database.query(oracle.TRANSCRIPTS))
    compared.check()
    assert not oracle.faults(database), "a refused frame has no number: no hole"
    status = daemon.status()
    assert (status["gap_frames"], status["gaps_reported"]) == (refused, len(rows))
    print(f"{len(sent)} frames accepted, acknowledged and stored; {refused} refused with -ENOBUFS, told in {len(rows)} gap frames")


# --- the file system's limit ---

@pytest.fixture
def on_small_disk(needs_root: None, daemon_factory: Factory) -> Iterator[Callable[..., tuple[Daemon, SmallDisk]]]:
    disks: list[SmallDisk] = []

    def make(dsn: str | None, size: str, **config: Any) -> tuple[Daemon, SmallDisk]:
        daemon = daemon_factory(dsn, config={"journal.segment_bytes": SEGMENT, "journal.min_free_bytes": 0, "database.retry_max": "200ms",
                                             "batch.age": "10ms", **config})
        disks.append(SmallDisk(size))
        daemon.state = disks[-1].path / "state"
        return daemon.start(), disks[-1]
    yield make
    for each in disks:
        each.close()


def test_file_system_without_space(on_small_disk: Callable[..., tuple[Daemon, SmallDisk]], database: Database) -> None:
    """No limit is configured, the disk itself is full: the same."""
    daemon, disk = on_small_disk(database.dsn, "2m")
    session = frames.new_session()
    with StreamSender(daemon.socket) as worker, plain_sender(daemon) as plain:
        worker.send(frames.session_start(session))
        assert worker.wait_acked() == 1
        sent = fill(daemon, plain, session)
        assert sent > 500 and disk.free < SEGMENT
        wait_until(lambda: worker.page.state == BUSY, 5, "the worker to be told")
        database.cluster.start()
        worker.send(frames.session_end(session))
        assert worker.wait_acked(seconds=40) == 2
        daemon.wait_stored(sent + 2)
    assert stored_numbers(database, session) == list(range(sent))
    assert not oracle.faults(database)
    assert daemon.stop() == 0
    print(f"{sent} frames taken by a disk of 2 MiB")


def test_disk_filled_by_somebody_else(on_small_disk: Callable[..., tuple[Daemon, SmallDisk]], database: Database) -> None:
    """And emptied again: reading goes on though PostgreSQL is still down. A SIGKILL and a start on the full disk change nothing."""
    daemon, disk = on_small_disk(database.dsn, "4m")
    session = frames.new_session()
    with StreamSender(daemon.socket) as worker, plain_sender(daemon) as plain:
        worker.send(frames.session_start(session))
        worker.wait_acked()
        disk.fill()
        sent = fill(daemon, plain, session)
        taken = daemon.status()["frames_received"]
        disk.relieve()
        wait_until(lambda: not paused(daemon), 10, "reading to go on")
        wait_until(lambda: daemon.status()["frames_received"] == sent + 1, 10, "the queue to be read")
        disk.fill()
        sent = fill(daemon, plain, session, sent)
        received = daemon.status()["frames_received"]
        durable = daemon.status()["durable_lsn"]
    daemon.kill()
    daemon.start()
    assert daemon.status()["durable_lsn"] >= durable
    with StreamSender(daemon.socket) as worker:
        disk.relieve()
        worker.send(frames.session_end(session))
        assert worker.wait_acked(seconds=20) == 1, "acknowledging with PostgreSQL down"
    database.cluster.start()
    wait_until(lambda: database.query("SELECT 1 FROM billing_sessions WHERE ended_at IS NOT NULL"), 30, "the session's end")
    stored = stored_numbers(database, session)
    assert len(stored) >= received - 2 and stored == list(range(len(stored))), "what was received, and no hole in it"
    assert not oracle.faults(database)
    print(f"full after {taken} and after {received} frames; killed on the full disk; {len(stored)} stored")


def test_min_free_is_left_to_others(on_small_disk: Callable[..., tuple[Daemon, SmallDisk]], database: Database) -> None:
    daemon, disk = on_small_disk(database.dsn, "4m", **{"journal.min_free_bytes": 1 << 20})
    with plain_sender(daemon) as plain:
        fill(daemon, plain, frames.new_session())
    assert 1 << 20 <= disk.free < (1 << 20) + 3 * SEGMENT
    assert any("journal.min_free_bytes" in alarm["text"] for alarm in daemon.status()["alarms"])
