"""Acknowledgement end to end: what a worker may attach, what the page tells it, and when."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import oracle
from harness import ROOT, AckPage, Daemon, Database, Sender, Sim, StreamSender, frames, make_dir, remove_dir, wait_until
from senders import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, PAGE_BYTES

F_SEAL_WRITE = 8
OK, BUSY, STOPPING = 0, 1, 2
MAGIC = 0x4C4C4F54

Factory = Callable[..., Daemon]


@pytest.fixture
def logger(daemon_factory: Factory) -> Daemon:
    """A daemon on the log sink: acknowledging needs no database."""
    return daemon_factory().start()


def descriptors(daemon: Daemon) -> list[str]:
    """What the daemon has open, sorted. Segments of its journal come and go, and so does what libc reads for itself, so they are left out."""
    found = []
    for each in Path(f"/proc/{daemon.pid}/fd").iterdir():
        try:
            target = os.readlink(each)
        except FileNotFoundError:
            continue
        if not target.startswith((str(daemon.state), "/usr/", "/etc/", "/proc/", "/sys/")):
            found.append(re.sub(r"\[\d+\]", "", target))
    return sorted(found)


def pages(daemon: Daemon) -> int:
    """How many ack pages are mapped into it."""
    return sum("memfd:" in line for line in Path(f"/proc/{daemon.pid}/maps").read_text().splitlines())


def turn() -> frames.Frame:
    return frames.tts(frames.new_session())


# --- the page ---

def test_page_of_a_good_worker(logger: Daemon) -> None:
    """Every field where the protocol says, everything else zero; the heartbeat is the machine's time since boot, and moves."""
    with StreamSender(logger.socket) as sender:
        sender.send(turn(), turn())
        assert sender.wait_acked() == 2
        data = bytes(sender.page.memory)
        magic, version, epoch, acked, state, zero, generation, entries, zero2, heartbeat = struct.unpack_from("<IIQQIIQIIQ", data)
        assert (magic, version, acked, state, entries, zero, zero2) == (MAGIC, 1, 2, OK, 0, 0, 0) and epoch
        assert generation % 2 == 0, "nobody is writing the credit table"
        assert not any(data[56:])
        assert abs(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000 - heartbeat) < 3000
        beats = {heartbeat}
        began = time.monotonic()
        wait_until(lambda: beats.add(sender.page.heartbeat) or len(beats) == 4, 5, "three more heartbeats")
        print(f"a heartbeat every {(time.monotonic() - began) * 1000 / 3:.0f} ms")
        assert logger.status()["ack_pages"] == pages(logger) == 1


def test_an_envelope_alone_attaches(logger: Daemon) -> None:
    """What a worker with nothing to say sends after a restart: it learns what is durable. All below its base is."""
    with StreamSender(logger.socket) as sender:
        sender.send_datagram(frames.pack(frames.envelope(sender.stream, 100, 100, 0)), [sender.page.fd])
        wait_until(lambda: sender.page.magic == MAGIC, 5, "the page to be taken")
        assert sender.acked == 99
        assert logger.status()["frames_received"] == 0


def test_acknowledged_up_to_the_first_hole(logger: Daemon) -> None:
    """Numbers may come in any order; `acked` stands still before a hole and jumps when it is filled."""
    with StreamSender(logger.socket) as sender:
        def send(seq: int) -> None:
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, seq, 1, 1), turn()), [sender.page.fd])
        for seq in (1, 3, 5, 4):
            send(seq)
        sender.wait_acked(1)
        logger.wait_stored(4)
        assert sender.acked == 1
        (stream,) = logger.ctl_json("streams")["streams"]
        assert (stream["received"], stream["acked"], stream["holes"]) == (1, 1, 1)
        send(2)
        sender.wait_acked(5)


def test_what_a_worker_writes_into_its_page_is_not_believed(logger: Daemon) -> None:
    with StreamSender(logger.socket) as sender:
        sender.send(turn())
        sender.wait_acked(1)
        sender.page.memory[:] = b"\xff" * PAGE_BYTES
        sender.outstanding.clear()
        sender.send_datagram(frames.pack(frames.envelope(sender.stream, 2, 1, 1), turn()))
        wait_until(lambda: sender.page.acked == 2, 5, "the true number")
        (stream,) = logger.ctl_json("streams")["streams"]
        assert stream["acked"] == 2


def test_a_page_is_replaced_by_attaching_another(logger: Daemon) -> None:
    with StreamSender(logger.socket) as sender:
        sender.send(turn())
        sender.wait_acked()
        old, sender.page, sender._attached = sender.page, AckPage(), False
        sender.send(turn())
        assert sender.wait_acked() == 2 and old.acked == 1
        beat = old.heartbeat
        wait_until(lambda: sender.page.heartbeat > beat + 400, 5, "heartbeats")
        assert old.heartbeat == beat and logger.status()["ack_pages"] == pages(logger) == 1
        old.close()


def test_one_page_for_two_streams_harms_nobody(logger: Daemon) -> None:
    with StreamSender(logger.socket) as one, StreamSender(logger.socket) as two, StreamSender(logger.socket) as other:
        two.page.close()
        two.page = one.page
        for sender in (one, two, other):
            sender.send(turn())
        assert other.wait_acked() == 1
        logger.wait_stored(3)
        two.page = AckPage()


def test_the_page_of_a_dead_worker_is_dropped(logger: Daemon) -> None:
    """Killed, so it says no good-bye."""
    worker = "import sys, time; sys.path.insert(0, sys.argv[1]); import frames, senders\n" \
             "sender = senders.StreamSender(sys.argv[2]); sender.send(frames.tts(frames.new_session())); sender.wait_acked()\n" \
             "print('acked', flush=True); time.sleep(60)"
    with StreamSender(logger.socket) as neighbour:
        neighbour.send(turn())
        neighbour.wait_acked()
        before = descriptors(logger)
        process = subprocess.Popen(["/usr/bin/python3", "-c", worker, ROOT / "tests/support", logger.socket], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout and process.stdout.readline() == "acked\n"
            assert logger.status()["ack_pages"] == pages(logger) == 2
        finally:
            process.kill()
            process.communicate()
        wait_until(lambda: logger.status()["ack_pages"] == 1, 5, "the page to be dropped")
        wait_until(lambda: pages(logger) == 1 and descriptors(logger) == before, 5, "nothing of it to be left")
        neighbour.send(turn())
        assert neighbour.wait_acked() == 2


def test_pages_beyond_the_limit_push_out_the_longest_idle(daemon_factory: Factory) -> None:
    """It notices by its heartbeat, and attaches again."""
    daemon = daemon_factory(config={"limits.pages_per_uid": 3}).start()
    senders = [StreamSender(daemon.socket) for _ in range(5)]
    try:
        for sender in senders:
            sender.send(turn())
            sender.wait_acked(1)
        wait_until(lambda: daemon.status()["ack_pages"] == 3, 5)
        assert pages(daemon) == 3
        beat = senders[0].page.heartbeat
        wait_until(lambda: senders[4].page.heartbeat > beat + 500, 5, "heartbeats of those that are left")
        assert senders[0].page.heartbeat == beat
        senders[0].send(turn())
        assert senders[0].wait_acked() == 2, "after attaching again"
        assert pages(daemon) == 3
    finally:
        for sender in senders:
            sender.close()


# --- what may not be attached ---

def memfd(size: int, seals: int) -> int:
    fd = os.memfd_create("toll-ack", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def read_only_page() -> int:
    fd = memfd(PAGE_BYTES, F_SEAL_SHRINK | F_SEAL_GROW)
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return again


def pipe_end(index: int) -> int:
    ends = os.pipe()
    os.close(ends[1 - index])
    return ends[index]


def socket_end(family: int, kind: int) -> int:
    return socket.socket(family, kind).detach()


def unix_pair() -> int:
    one, two = socket.socketpair()
    two.close()
    return one.detach()


NO_PAGES: dict[str, Callable[[], int]] = {
    "unsealed": lambda: memfd(PAGE_BYTES, 0),
    "may_shrink": lambda: memfd(PAGE_BYTES, F_SEAL_GROW),
    "may_grow": lambda: memfd(PAGE_BYTES, F_SEAL_SHRINK),
    "short": lambda: memfd(PAGE_BYTES // 2, F_SEAL_SHRINK | F_SEAL_GROW),
    "empty": lambda: memfd(0, F_SEAL_SHRINK | F_SEAL_GROW),
    "long": lambda: memfd(2 * PAGE_BYTES, F_SEAL_SHRINK | F_SEAL_GROW),
    "sealed_against_writing": lambda: memfd(PAGE_BYTES, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE),
    "read_only": read_only_page,
    "file": lambda: os.open(ROOT / "README.md", os.O_RDONLY | os.O_CLOEXEC),
    "directory": lambda: os.open("/", os.O_RDONLY | os.O_CLOEXEC),
    "path_only": lambda: os.open("/", os.O_PATH | os.O_CLOEXEC),
    "device": lambda: os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC),
    "pipe_reader": lambda: pipe_end(0),
    "pipe_writer": lambda: pipe_end(1),
    "tcp_socket": lambda: socket_end(socket.AF_INET, socket.SOCK_STREAM),
    "unix_socket": unix_pair,
    "pidfd": lambda: os.pidfd_open(os.getpid()),
}


def test_what_is_no_page_is_closed_and_counted(logger: Daemon) -> None:
    """The frames that it came with are kept, nothing stays open, nobody else notices; then a good page is taken from the same worker."""
    with StreamSender(logger.socket) as neighbour, StreamSender(logger.socket) as sender:
        for each in (neighbour, sender):
            each.send(turn())
            each.wait_acked()
        before = descriptors(logger)
        for count, (name, make) in enumerate(NO_PAGES.items(), 1):
            fd = make()
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, count + 1, 1, 1), turn()), [fd])
            os.close(fd)
            wait_until(lambda: logger.status()["descriptors_refused"] == count, 5, f"{name} to be refused")
            neighbour.send(turn())
            assert neighbour.wait_acked() == count + 1, name
            wait_until(lambda: descriptors(logger) == before, 5, f"{name} to be closed")
        sender.next = len(NO_PAGES) + 2
        sender.wait_acked(len(NO_PAGES) + 1)  # its first page was kept all the time
        logger.wait_stored(2 + 2 * len(NO_PAGES))
        assert pages(logger) == 2


def test_a_page_without_an_envelope_is_refused(logger: Daemon) -> None:
    page = AckPage()
    before = descriptors(logger)
    with Sender(logger.socket) as sender:
        sender.send_datagram(frames.pack(turn()), [page.fd])
        sender.send_datagram(b"", [page.fd])
        sender.send_datagram(b"\xc1", [page.fd])
    wait_until(lambda: logger.status()["descriptors_refused"] == 3, 5)
    wait_until(lambda: descriptors(logger) == before, 5, "them to be closed")
    assert page.magic == 0 and pages(logger) == 0
    page.close()


def test_many_descriptors(logger: Daemon) -> None:
    """As many as the kernel passes at once, again and again: the first may be a page, all others are closed."""
    with StreamSender(logger.socket) as neighbour, StreamSender(logger.socket) as sender:
        neighbour.send(turn())
        neighbour.wait_acked()
        before = descriptors(logger)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        for seq in range(1, 41):
            first = sender.page.fd if seq % 2 else null
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, seq, 1, 1), turn()), [first] + [null] * 252)
        sender.next = 41
        assert sender.wait_acked() == 40
        os.close(null)
        wait_until(lambda: logger.status()["descriptors_refused"] == 20 * 252 + 20 * 253, 5)
        wait_until(lambda: [each for each in descriptors(logger) if "null" in each] == [each for each in before if "null" in each], 5,
                   "all of them to be closed")
        assert pages(logger) == 2
        neighbour.send(turn())
        assert neighbour.wait_acked() == 2


@pytest.fixture
def lingering() -> Iterator[Callable[[int], int]]:
    """Makes a TCP socket whose close() waits for so many seconds: it has data that its peer does not take, and SO_LINGER."""
    listener = socket.create_server(("127.0.0.1", 0))
    theirs: list[socket.socket] = []

    def make(seconds: int) -> int:
        mine = socket.create_connection(listener.getsockname())
        theirs.append(listener.accept()[0])
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
        mine.setblocking(False)
        try:
            while True:
                mine.send(bytes(65536))
        except BlockingIOError:
            pass
        return mine.detach()
    yield make
    for each in theirs:
        each.close()
    listener.close()


def test_a_socket_that_lingers_delays_nobody(logger: Daemon, lingering: Callable[[int], int]) -> None:
    """Its last descriptor is the daemon's, so that close() blocks there, for five minutes. Others are acknowledged meanwhile, and SIGTERM
    is obeyed."""
    blocks = lingering(300)
    with StreamSender(logger.socket) as neighbour, Sender(logger.socket) as sender:
        neighbour.send(turn())
        neighbour.wait_acked()
        logger.freeze()  # until the socket's last descriptor is on its way
        sender.send_datagram(frames.pack(turn()), [blocks])
        os.close(blocks)
        logger.thaw()
        began = time.monotonic()
        for count in range(2, 22):
            neighbour.send(turn())
            assert neighbour.wait_acked() == count
        print(f"20 acknowledgements in {(time.monotonic() - began) * 1000:.0f} ms while a descriptor lingers")
        assert logger.stop() == 0


def test_flood_of_descriptors_delays_nobody(daemon_factory: Factory, lingering: Callable[[int], int]) -> None:
    """Whoever may send can send descriptors, as many as the kernel takes, some of which linger. Some are left over for what needs one more,
    a new journal file say."""
    daemon = daemon_factory(config={"journal.segment_bytes": "128K"}, wrapper=["prlimit", "--nofile=1024:1024"]).start()
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    over = threading.Event()
    floods = 0

    def flood() -> None:
        nonlocal floods
        with Sender(daemon.socket, seconds=30) as hostile:
            while not over.is_set():
                blocks = lingering(30)
                hostile.send_datagram(frames.pack(turn()), [null] * 126 + [blocks] + [null] * 126)
                os.close(blocks)
                floods += 1

    flooding = threading.Thread(target=flood)
    with StreamSender(daemon.socket) as worker:
        worker.send(turn())
        worker.wait_acked()
        flooding.start()
        try:
            wait_until(lambda: floods > 20, 20, "the flood")
            for _ in range(300):
                worker.send(frames.tts(frames.new_session(), raw={"x": "y" * 900}))
            assert worker.wait_acked(seconds=20) == 301
        finally:
            over.set()
            flooding.join()
        wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) < 50, 5, "them to be closed")
    os.close(null)
    print(f"datagrams with 253 descriptors each: {floods}")
    assert daemon.running and daemon.status()["intake"] == "reading"


# --- when ---

def seen(database: Database) -> list[str]:
    """Each stream's numbers, by uid: an idle writer's row may lag."""
    return [numbers for numbers, in database.query("SELECT range_agg(seen)::text FROM toll.streams GROUP BY uid, stream_id ORDER BY uid")]


@pytest.mark.writers(1, 2)
@pytest.mark.parametrize("ack", ["sync", "write", "commit"])
def test_acknowledged_when_it_is_durable(daemon_factory: Factory, db: Database, ack: str) -> None:
    """While PostgreSQL is down: on disk or with the kernel is enough for `sync` and `write`, never for `commit`."""
    db.cluster.stop()
    daemon = daemon_factory(db.dsn, config={"journal.ack": ack, "database.retry_max": "200ms"}).start()
    with StreamSender(daemon.socket) as sender:
        sender.send(*frames.call(frames.new_session()))
        if ack == "commit":
            wait_until(lambda: sender.page.magic == MAGIC and daemon.status()["durable_lsn"] > 0, 5, "the frames to be on disk")
            with pytest.raises(TimeoutError):
                sender.wait_acked(1, seconds=1)
            assert sender.acked == 0
        else:
            assert sender.wait_acked(seconds=5) == 17
        assert daemon.status()["frames_stored"] == 0
        db.cluster.start()
        assert sender.wait_acked(seconds=30) == 17
        if ack == "commit":
            assert db.value("SELECT count(*) FROM billing_events") == 9, "committed before it was acknowledged"
    daemon.wait_stored()
    assert db.value("SELECT count(*) FROM billing_events") == 9


@pytest.mark.writers(1, 2)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_restart_is_a_new_epoch(daemon_factory: Factory, db: Database, end: int) -> None:
    """The worker attaches again, resends what is above `acked`, and nothing is there twice. A SIGTERM is told on the page."""
    daemon = daemon_factory(db.dsn).start()
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket) as sender:
        sender.send(*ledger.of(*frames.call(frames.new_session())))
        sender.wait_acked()
        epoch = sender.page.epoch
        sender.send(*ledger.of(*frames.call(frames.new_session())))  # perhaps received, perhaps not
        assert daemon.stop(end) == (0 if end == signal.SIGTERM else -end)
        assert sender.page.state == (STOPPING if end == signal.SIGTERM else OK)
        assert sender.page.epoch == epoch
        for _ in range(3):
            sender.send(*ledger.of(*frames.call(frames.new_session())))  # nobody listens
        daemon.start()
        assert sender.wait_acked() == 5 * 17
        assert sender.page.epoch > epoch and sender.page.state == OK
        for seq in range(1, 5 * 17, 17):  # a worker that forgot all acknowledgements
            calls = ledger.records  # the frames differ from those sent, their numbers do not
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, seq, 1, 17), *frames.call(uuid.UUID(calls[seq - 1]["session_id"]))))
    daemon.ctl("flush")
    ledger.check(db)
    assert db.value("SELECT sum(duplicates) FROM toll.batches") >= 5 * 17
    assert seen(db) == ["{[1,86)}"]


def test_two_workers_with_one_stream_id(daemon_factory: Factory, db: Database) -> None:
    """A worker forked without a new stream, say: the second's numbers were used before. It shows in the counts, and harms nobody."""
    daemon = daemon_factory(db.dsn).start()
    with StreamSender(daemon.socket) as one, StreamSender(daemon.socket) as two:
        two.stream = one.stream
        one.send(*frames.call(frames.new_session(), turns=1))
        one.wait_acked()
        two.send(*frames.call(frames.new_session(), turns=1))
        two.wait_acked()
        status = daemon.wait_stored(14)
    assert (status["frames_stored"], status["frames_duplicate"], status["streams"]) == (7, 7, 1)


def test_a_stream_full_of_holes_is_refused(daemon_factory: Factory, db: Database) -> None:
    """Over 1,024 ranges: broken or hostile. What it goes on to send is neither journaled nor acknowledged, and reported; its neighbour stays well."""
    daemon = daemon_factory(db.dsn).start()
    with StreamSender(daemon.socket) as sender, StreamSender(daemon.socket) as neighbour:
        for number in range(1100):
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, 1 + 2 * number, 1, 1), turn()), None if number else [sender.page.fd])
        neighbour.send(turn())
        neighbour.wait_acked()
        status = daemon.wait_stored(1025)
        assert status["datagrams_refused"] == 1100 - 1024 and status["frames_stored"] == 1025 and sender.acked == 1
        assert "holes" in daemon.wait_log("refused")
        sender.next = 2 * 1023 + 2  # it fills its holes, and is well again
        for number in range(1, 1024):
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, 2 * number, 1, 1), turn()))
        assert sender.wait_acked(2 * 1023 + 1) == 2 * 1023 + 1
    daemon.ctl("flush")
    assert db.value("SELECT count(*) FROM billing_events") == 1025 + 1023
    assert not db.query("SELECT 1 FROM toll.stream_holes")


# --- whose ---

OTHER_WORKER = """
import sys; sys.path.insert(0, sys.argv[1])
import frames, senders
sender = senders.StreamSender(sys.argv[2])
sender.stream = bytes.fromhex(sys.argv[3])
sender.send(*frames.call(frames.new_session(), turns=1))
print(sender.wait_acked())
"""


@pytest.mark.writers(1, 2)
def test_another_users_stream_of_the_same_id_is_another(needs_root: None, daemon_factory: Factory, db: Database) -> None:
    """So nobody can use up another user's numbers, or read in whose page what is acknowledged."""
    daemon = daemon_factory(db.dsn, config={"daemon.socket_mode": "0666"}).start()
    support = make_dir("s")
    try:
        for path in (ROOT / "tests/support").glob("*.py"):  # that user may not be able to read the tree
            (support / path.name).write_text(path.read_text())
        with StreamSender(daemon.socket) as sender:
            sender.send(turn())
            sender.wait_acked()
            done = subprocess.run(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "/usr/bin/python3", "-c", OTHER_WORKER,
                                   support, str(daemon.socket), sender.stream.hex()], capture_output=True, text=True, timeout=60, cwd="/")
            assert done.stdout == "7\n", done.stderr
            assert sender.acked == 1
            sender.send(turn())
            assert sender.wait_acked() == 2
    finally:
        remove_dir(support)
    assert daemon.wait_stored(9)["frames_duplicate"] == 0
    assert seen(db) == ["{[1,3)}", "{[1,8)}"]
    assert len({row["uid"] for row in daemon.ctl_json("streams")["streams"]}) == 2


# --- libtoll ---

def test_tollsim_is_acknowledged_across_a_restart(daemon_factory: Factory, db: Database) -> None:
    """Real workers, linked with libtoll: everything they recorded is acknowledged, though the daemon was killed, and is stored once."""
    daemon = daemon_factory(db.dsn).start()
    records = make_dir("r")
    try:
        with Sim(daemon.socket, "--workers", 3, "--calls", 30, "--rate", 3000, "--seed", 11, "--record", records / "sent") as sim:
            wait_until(lambda: daemon.status()["frames_received"] > 600, 20, "the calls to be under way")
            assert daemon.status()["ack_pages"] == 3
            daemon.kill()
            daemon.start()
            report = sim.wait()
        sent, _ = oracle.read_records(records / "sent")
    finally:
        remove_dir(records)
    assert report["accepted"] == report["acked"] == len(sent)
    daemon.ctl("flush")
    outcome = oracle.compare(db, sent)
    outcome.check()
    wait_until(lambda: daemon.status()["ack_pages"] == 0, 5, "the workers' pages to be dropped")
    print(f"{len(sent)} frames accepted and acknowledged; {outcome.figures}")


def test_tollsim_sees_the_daemon_stop_and_come_back(daemon_factory: Factory, db: Database) -> None:
    """SIGTERM under load, as an upgrade does it: with socket activation nothing is refused and nothing is lost."""
    daemon = daemon_factory(db.dsn, activated=True).start()
    with Sim(daemon.socket, "--workers", 2, "--calls", 20, "--rate", 2000, "--seed", 12) as sim:
        wait_until(lambda: daemon.status()["frames_received"] > 400, 20, "the calls to be under way")
        daemon.restart()
        report: dict[str, Any] = sim.wait()
    assert report["accepted"] == report["acked"]
    daemon.ctl("flush")
    assert db.value("SELECT sum(stored) FROM toll.batches") == report["accepted"]
    assert not oracle.faults(db)
