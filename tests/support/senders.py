"""Workers written in Python: a plain sender, and one with the envelope and an ack page. Not libtoll: a second opinion on it."""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket
import struct
import time
from pathlib import Path

import frames
import proc

F_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
F_SEAL_SHRINK, F_SEAL_GROW = 2, 4
PAGE_BYTES = 4096


class AckPage:
    """The page of shared memory in which the daemon says what is durable."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("toll-ack", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, PAGE_BYTES)
        fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
        self.memory = mmap.mmap(self.fd, PAGE_BYTES)

    def _number(self, format_: str, offset: int) -> int:
        return struct.unpack_from(format_, self.memory, offset)[0]

    magic = property(lambda self: self._number("<I", 0))
    version = property(lambda self: self._number("<I", 4))
    epoch = property(lambda self: self._number("<Q", 8))
    acked = property(lambda self: self._number("<Q", 16))
    state = property(lambda self: self._number("<I", 24))
    heartbeat = property(lambda self: self._number("<Q", 48))

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


class Sender:
    """Any msgpack language's worker: a socket and send(). Waits at most `seconds` where the daemon's queue is full."""

    def __init__(self, path: str | Path, seconds: float = 10) -> None:
        self.path = str(path)
        self.seconds = seconds * proc.SLOWNESS
        self.socket: socket.socket | None = None

    def send(self, *each: frames.Frame | bytes) -> None:
        """One datagram of these frames."""
        self.send_datagram(frames.pack(*each))

    def send_datagram(self, data: bytes, descriptors: list[int] | None = None) -> None:
        """Raises OSError where nobody listens (after one attempt to connect again) and TimeoutError where the queue stays full."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        for attempt in (1, 2):
            try:
                if self.socket is None:
                    self.socket = self._connect()
                self.socket.sendmsg([data], ancillary)
                return
            except (ConnectionRefusedError, ConnectionResetError, FileNotFoundError, BrokenPipeError):
                self.disconnect()
                if attempt == 2:
                    raise

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(self.seconds)
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        return made

    def disconnect(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def close(self) -> None:
        self.disconnect()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class StreamSender(Sender):
    """Sends with the envelope, keeps what is not acknowledged, and resends it. One stream."""

    def __init__(self, path: str | Path, seconds: float = 10, client: str = "python-test") -> None:
        super().__init__(path, seconds)
        self.stream = os.urandom(16)
        self.client = client
        self.page = AckPage()
        self.next = 1
        self.outstanding: dict[int, tuple[int, bytes]] = {}  # first number of a datagram: how many frames, their bytes
        self._attached = False

    @property
    def acked(self) -> int:
        """Every number up to this is durable (0: none yet)."""
        return self.page.acked

    @property
    def base(self) -> int:
        self._forget()
        return min(self.outstanding, default=self.next)

    def send(self, *each: frames.Frame | bytes) -> None:
        """One datagram. Kept until acknowledged; where it can't be sent now (nobody listens, queue full) resend() does it later."""
        seq, count = self.next, len(each)
        self.next += count
        self.outstanding[seq] = (count, frames.pack(*each))
        try:
            self._transmit(seq)
        except OSError:
            self.disconnect()
            self._attached = False

    def resend(self) -> None:
        """Everything not acknowledged again, in order, with the page attached."""
        self._forget()
        self._attached = False
        for seq in sorted(self.outstanding):
            if seq in self.outstanding:  # acknowledged meanwhile?
                self._transmit(seq)

    def wait_acked(self, number: int | None = None, seconds: float = 20, resend_after: float = 0.2) -> int:
        """Waits until every number up to this one (default: all sent so far) is durable, resending when nothing moves."""
        wanted = self.next - 1 if number is None else number
        moved, last = time.monotonic(), self.acked

        def durable() -> bool:
            nonlocal moved, last
            if self.acked >= wanted:
                return True
            if self.acked != last:
                moved, last = time.monotonic(), self.acked
            elif time.monotonic() - moved > resend_after * proc.SLOWNESS:
                try:
                    self.resend()
                except OSError:
                    self.disconnect()
                moved = time.monotonic()
            return False
        proc.wait_until(durable, seconds, f"acknowledgement of {wanted}", every=0.005)
        self._forget()
        return self.acked

    def close(self) -> None:
        super().close()
        self.page.close()

    def __enter__(self) -> StreamSender:
        return self

    def _forget(self) -> None:
        acked = self.acked
        for seq in [seq for seq, (count, _) in self.outstanding.items() if seq + count - 1 <= acked]:
            del self.outstanding[seq]

    def _transmit(self, seq: int) -> None:
        count, data = self.outstanding[seq]
        head = frames.pack(frames.envelope(self.stream, seq, min(self.base, seq), count, client=self.client))
        self.send_datagram(head + data, None if self._attached else [self.page.fd])
        self._attached = True
