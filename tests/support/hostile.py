"""A hostile worker: everything a process that may write to the socket can try, in an order that a seed decides. A program of its own, so that what
it leaves behind is what a dead worker leaves behind.

    hostile.py SOCKET SEED ACTS UID [neighbour's stream id]

Says what it sent, and stays until standard input ends: what lingers, lingers on. Its own valid frames are all of type `gap`, so that they never look
like a neighbour's rows. Descriptor 3 may be the daemon's own socket.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
from collections import Counter
from typing import Any, Callable

import frames
from senders import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, PAGE_BYTES

F_SEAL_SEAL, F_SEAL_WRITE = 1, 8
DATAGRAM_MAX, FDS_MAX = 65536, 253
NUMBER_MAX = 2**62


class Hostile:
    def __init__(self, path: str, seed: str, neighbour: bytes | None) -> None:
        self.chance = random.Random(seed)
        self.path = path
        self.neighbour = neighbour
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.connect(path)
        self.socket.settimeout(20)
        self.sent: Counter[str] = Counter()
        self.peers: list[Any] = []  # other ends, that stay open

    # --- sending ---

    def send(self, data: bytes, descriptors: list[int] | None = None) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self.socket.sendmsg([data], ancillary)
            self.sent["datagrams"] += 1
            self.sent["descriptors"] += len(descriptors or [])
        except OSError:  # too long for a datagram, or too many descriptors in flight
            self.sent["unsendable"] += 1

    def gap(self) -> bytes:
        return frames.pack(frames.gap(self.chance.randrange(100)))

    def envelope(self, stream: bytes, seq: int, base: int, count: int) -> bytes:
        return frames.pack(frames.envelope(stream, seq, base, count, client="hostile"))

    def any_datagram(self) -> bytes:
        return self.chance.choice([
            lambda: b"", lambda: self.gap(), lambda: self.chance.randbytes(self.chance.randrange(200)),
            lambda: self.envelope(os.urandom(16), 1, 1, 1) + self.gap(),
            lambda: self.envelope(os.urandom(16), 1, 1, 0)])()

    # --- descriptors ---

    def close(self, descriptors: list[int]) -> None:
        """At once, so that the daemon's copy is the last, which is the one that has to wait. Where it is not, a signal ends the wait."""
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for each in descriptors:
            os.close(each)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def lingering(self) -> int:
        """A TCP socket with unsent data that close() waits for, an hour."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            made = socket.create_connection(listener.getsockname())
            self.peers.append(listener.accept()[0])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        made.setblocking(False)
        try:
            while True:
                made.send(bytes(1 << 20))
        except BlockingIOError:
            return made.detach()

    def nested(self) -> int:
        """The same, in the queue of another socket: nobody can get at it."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        inner = self.lingering()
        socket.send_fds(one, [b"x"], [inner])
        os.close(inner)
        self.peers.append(one)
        return other.detach()

    def pipe(self) -> int:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, bytes(65536))
        except BlockingIOError:
            os.close(reading)
        return writing

    def polled(self) -> int:
        made = select.epoll()
        made.register(self.socket, select.EPOLLIN)
        return os.dup(made.fileno())

    def file(self) -> int:
        with tempfile.TemporaryFile() as made:
            made.write(bytes(100000))
            return os.dup(made.fileno())

    def own_socket(self) -> int:
        return os.dup(3) if os.environ.get("HOSTILE_HAS_SOCKET") else os.dup(self.socket.fileno())

    def descriptor(self) -> int:
        return self.chance.choice([
            self.lingering, self.nested, self.pipe, self.polled, self.file, self.own_socket,
            lambda: os.eventfd(1), lambda: os.open("/dev/null", os.O_RDWR), lambda: os.open("/", os.O_PATH), lambda: os.open("/proc/self/status", os.O_RDONLY),
            lambda: os.pidfd_open(os.getpid()), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
            lambda: self.memfd(PAGE_BYTES, 0)])()

    def send_descriptors(self) -> None:
        count = self.chance.choice([1, 2, 20, FDS_MAX])
        kinds = [self.descriptor() for _ in range(min(count, 12))]
        self.send(self.any_datagram(), [self.chance.choice(kinds) for _ in range(count)])
        self.close(kinds)

    def send_lingering(self) -> None:
        """Many at once, each of its own."""
        made = [self.chance.choice([self.lingering, self.nested])() for _ in range(20)]
        self.send(self.any_datagram(), made)
        self.close(made)

    # --- pages ---

    def memfd(self, size: int, seals: int) -> int:
        made = os.memfd_create("page", os.MFD_ALLOW_SEALING)
        os.ftruncate(made, size)
        fcntl.fcntl(made, F_ADD_SEALS, seals)
        return made

    def wrong_page(self) -> None:
        """… that would kill the daemon if it were mapped, or that it could not write to. Cut short once it was sent."""
        both = F_SEAL_SHRINK | F_SEAL_GROW
        for size, seals in ((PAGE_BYTES, 0), (PAGE_BYTES, F_SEAL_SHRINK), (PAGE_BYTES, F_SEAL_GROW), (100, both), (0, both), (2 * PAGE_BYTES, both),
                            (PAGE_BYTES, both | F_SEAL_WRITE)):
            page, stream = self.memfd(size, seals), os.urandom(16)
            for seq in range(1, 4):
                self.send(self.envelope(stream, seq, 1, 1) + self.gap(), [page] * self.chance.choice([1, 1, 3]))
                try:
                    os.ftruncate(page, 0)
                except PermissionError:
                    pass
            os.close(page)

    def shared_page(self) -> None:
        """One good page for several streams, written to meanwhile."""
        page = self.memfd(PAGE_BYTES, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
        for _ in range(5):
            self.send(self.envelope(os.urandom(16), 1, 1, 1) + self.gap(), [page])
            os.pwrite(page, self.chance.randbytes(PAGE_BYTES), 0)
        os.close(page)

    def many_pages(self) -> None:
        for _ in range(self.chance.choice([10, 300])):
            page = self.memfd(PAGE_BYTES, F_SEAL_SHRINK | F_SEAL_GROW)
            self.send(self.envelope(os.urandom(16), 1, 1, 0), [page])
            os.close(page)

    def page_on_neighbour(self) -> None:
        """Its page in place of the neighbour's, if it knows the neighbour's id; nothing else of the stream."""
        if self.neighbour:
            page = self.memfd(PAGE_BYTES, F_SEAL_SHRINK | F_SEAL_GROW)
            self.send(self.envelope(self.neighbour, 1, 1, 0), [page])
            os.close(page)

    # --- numbers ---

    def holes(self) -> None:
        """Every other number: 1,024 are allowed."""
        stream = os.urandom(16)
        for seq in range(1, 2 * self.chance.choice([10, 1100]), 2):
            self.send(self.envelope(stream, seq + 1, 1, 1) + self.gap())

    def many_streams(self) -> None:
        for _ in range(self.chance.choice([100, 1000])):
            stream = os.urandom(16)
            for seq in self.chance.choice([(1,), (5, 3, 9)]):
                self.send(self.envelope(stream, seq, 1, 1) + self.gap())

    def jumps(self) -> None:
        stream, seq = os.urandom(16), 1
        for _ in range(20):
            seq = self.chance.choice([1, 2, 3, min(seq + 1, 2**64 - 1), 2**31, 2**32, 2**53, NUMBER_MAX - 70000, NUMBER_MAX - 1, NUMBER_MAX, 2**63, 2**64 - 1])
            base = self.chance.choice([0, 1, seq, max(seq - 1, 0), min(seq + 1, 2**64 - 1)])
            self.send(self.envelope(stream, seq, base, self.chance.choice([0, 1, 1, 65536, 2**32])) + self.gap())

    def lying_counts(self) -> None:
        stream = os.urandom(16)
        for seq in (1, 100, 70000):
            self.send(self.envelope(stream, seq, 1, self.chance.choice([0, 1, 5, 65536])) + b"".join(self.gap() for _ in range(self.chance.randrange(8))))

    def neighbours_numbers(self) -> None:
        """Only where the uid is another: then it is another stream."""
        if self.neighbour and os.environ.get("HOSTILE_OTHER_UID"):
            for seq in range(1, 200):
                self.send(self.envelope(self.neighbour, seq, seq, 1) + self.gap())
            self.send(self.envelope(self.neighbour, 2**40, 2**40, 1) + self.gap())

    # --- bytes ---

    def header(self) -> bytes:
        """The beginning of something with a length that is a lie, most often."""
        kind, width = self.chance.choice([(0xC4, 1), (0xC5, 2), (0xC6, 4), (0xC7, 1), (0xC9, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4), (0xDC, 2), (0xDD, 4),
                                          (0xDE, 2), (0xDF, 4)])
        return bytes([kind]) + self.chance.choice([0, 1, 3, 255, 65535, 2**31, 2**32 - 1]).to_bytes(8, "big")[-width:]

    def bombs(self) -> None:
        for _ in range(20):
            deep = self.chance.choice([b"", b"\x91" * self.chance.randrange(60000), b"\x81\xa1a" * self.chance.randrange(20000)])
            tail = b"".join(self.chance.choice([self.header, self.gap])() for _ in range(self.chance.randrange(8)))
            self.send((self.chance.choice([b"", self.gap(), self.envelope(os.urandom(16), 1, 1, 3)]) + deep + tail)[:DATAGRAM_MAX])

    def garbage(self) -> None:
        for _ in range(30):
            self.send(self.chance.randbytes(self.chance.choice([1, 10, 100, 3000, 60000])))

    def oversized(self) -> None:
        for _ in range(5):
            self.send(b"".join(self.gap() for _ in range(50)) + bytes(self.chance.choice([DATAGRAM_MAX, 100000, 180000])))

    def tiny(self) -> None:
        """Sixty thousand frames of a byte each."""
        self.send(b"\xc0" * self.chance.choice([100, 1000, 1000, 65000]))

    def bent(self) -> None:
        whole = self.envelope(os.urandom(16), 1, 1, 3) + self.gap() + self.gap() + self.gap()
        for _ in range(50):
            made = bytearray(whole)
            for _ in range(self.chance.randint(1, 3)):
                made[self.chance.randrange(len(made))] = self.chance.randrange(256)
            self.send(bytes(made[:self.chance.randint(1, len(made))]))

    ACTS: tuple[Callable[[Hostile], None], ...] = (
        send_descriptors, send_lingering, wrong_page, shared_page, many_pages, page_on_neighbour, holes, many_streams, jumps,
        lying_counts, neighbours_numbers, bombs, garbage, oversized, tiny, bent)


def main() -> None:
    path, seed, acts, uid, *neighbour = sys.argv[1:]
    signal.signal(signal.SIGALRM, lambda *_: None)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if int(uid) != os.getuid():
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    hostile = Hostile(path, seed, bytes.fromhex(neighbour[0]) if neighbour else None)
    order: list[Callable[[Hostile], None]] = []
    for _ in range(int(acts)):
        order = order or hostile.chance.sample(Hostile.ACTS, len(Hostile.ACTS))
        act = order.pop()
        hostile.sent[act.__name__] += 1
        act(hostile)
    print(json.dumps(hostile.sent), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
