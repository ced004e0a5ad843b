"""The test workers in C (worker.c, forker.c), and the tally that they leave behind however they end.

A frame must be stored if its worker was told that it is durable, or if the kernel had it by the time its record() returned. It
may be stored if it was in the worker's ring, for a datagram may have gone out just before the end. Those are looked up.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import oracle
import proc
from cluster import Database

SLOTS, ENTRIES = 1024, 1 << 20  # this and the next: tally.h
HEADER = struct.Struct("<4I")
SLOT = struct.Struct("<16sII8Q")
ENTRY = struct.Struct("<4I16sq5Q2I")
CLAIMED, RECORDED, REFUSED = 1, 2, 3
LIVE, FLUSHED, TIMED_OUT, DYING, RAW = 1, 2, 3, 4, 5
TYPES = {1: "session_start", 2: "llm", 3: "transcript", 4: "session_end"}


@dataclass
class Slot:
    """One handle's stream."""

    stream: bytes
    pid: int
    state: int
    sent: int
    acked: int
    recorded: int
    refused: int
    gaps: int
    resent: int
    blocked: int
    reconnects: int


@dataclass
class Entry:
    """One frame."""

    index: int
    state: int
    slot: int
    type: int
    text_bytes: int
    session: bytes
    at_us: int
    seq: int
    began_ns: int
    took_ns: int
    acked_ns: int
    bare_ns: int
    input: int
    output: int

    def record(self) -> oracle.Record:
        made: oracle.Record = {"type": TYPES[self.type], "session_id": str(uuid.UUID(bytes=self.session)), "occurred_at": self.at_us}
        if made["type"] == "session_start":
            made["metadata"] = {"user_id": str(self.index)}
        elif made["type"] == "llm":
            made.update(request_id=str(self.index), input_tokens=self.input, output_tokens=self.output)
        elif made["type"] == "transcript":
            made.update(role="user", text=str(self.index).ljust(self.text_bytes, "x"))
        return made


class Tally:
    """What the workers have written so far. Several may share one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("wb") as made:
            made.truncate(HEADER.size + SLOTS * SLOT.size + ENTRIES * ENTRY.size)
        with path.open("r+b") as opened:
            self.map = mmap.mmap(opened.fileno(), 0)

    def close(self) -> None:
        self.map.close()

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _header(self) -> tuple[int, ...]:
        return HEADER.unpack_from(self.map, 0)

    @property
    def forks(self) -> tuple[int, int]:
        """How many, and how many of them while frames were outstanding."""
        return self._header()[2], self._header()[3]

    def slots(self) -> list[Slot]:
        return [Slot(*SLOT.unpack_from(self.map, HEADER.size + at * SLOT.size)) for at in range(self._header()[0])]

    def entries(self) -> list[Entry]:
        """All frames so far. One that is being claimed at this moment is left out."""
        begin, count = HEADER.size + SLOTS * SLOT.size, self._header()[1]
        data = self.map[begin:begin + count * ENTRY.size]
        return [Entry(at, *each) for at, each in enumerate(ENTRY.iter_unpack(data)) if each[0]]

    def count(self) -> int:
        """How many entries there are."""
        return self._header()[1]

    def recorded(self) -> int:
        """Frames that record() took, by all handles."""
        return sum(each.recorded for each in self.slots())

    def acknowledged(self) -> dict[bytes, int]:
        """For fault.judge()."""
        return {each.stream: each.acked for each in self.slots() if each.state != RAW}

    def judged(self, database: Database) -> Judged:
        """What must be in the database, and may. The workers have ended."""
        slots, stored, made = self.slots(), Stored(database), Judged([], [], [])
        for entry in self.entries():
            slot = slots[entry.slot]
            kept = entry.state == RECORDED and (slot.state in (FLUSHED, RAW) or 0 < entry.seq <= max(slot.sent, slot.acked))
            if kept:
                made.must.append(entry.record())
            elif entry.state != REFUSED:
                (made.found if stored.has(entry) else made.missing).append(entry)
        return made


@dataclass
class Judged:
    """Frames by what the guarantee says of them."""

    must: list[oracle.Record]
    found: list[Entry]    # were in a ring when the worker died, and are stored
    missing: list[Entry]  # were in a ring when the worker died, and are not

    @property
    def records(self) -> list[oracle.Record]:
        """For fault.judge(): everything that must be there once, and what is there by luck, which must not be there twice."""
        return self.must + [each.record() for each in self.found]


class Stored:
    """Looks single frames up in the database, without judging whether their rows are right."""

    def __init__(self, database: Database) -> None:
        self.requests = set(database.query("SELECT session_id::text, request_id FROM billing_events"))
        self.texts = set(database.query("SELECT session_id::text, text FROM session_transcripts"))
        self.started = {row[0] for row in database.query("SELECT session_id::text FROM billing_sessions WHERE NOT start_missing")}
        self.ended = {row[0] for row in database.query("SELECT session_id::text FROM billing_sessions WHERE finish_reason = 'end'")}

    def has(self, entry: Entry) -> bool:
        record = entry.record()
        session, type_ = record["session_id"], record["type"]
        if type_ == "llm":
            return (session, record["request_id"]) in self.requests
        if type_ == "transcript":
            return (session, record["text"]) in self.texts
        return session in (self.started if type_ == "session_start" else self.ended)


class Worker:
    """A running worker.c, or forker.c, with what it writes."""

    def __init__(self, tally: Tally, socket: Path, *words: str | int, forker: bool = False) -> None:
        program = proc.BUILD / "tests/support" / ("forker" if forker else "worker")
        where = [socket, tally.path] if forker else ["--socket", socket, "--tally", tally.path]
        self.tally = tally
        self.process = subprocess.Popen([str(program), *map(str, where), *map(str, words)], stdin=subprocess.DEVNULL, start_new_session=True)

    def stop(self, seconds: float = 60) -> None:
        """Asks it to end as a worker does that is not needed any more: it flushes."""
        self.process.terminate()
        assert self.wait(seconds) == 0

    def wait(self, seconds: float = 60) -> int:
        return self.process.wait(seconds * proc.SLOWNESS)

    def kill(self) -> None:
        """SIGKILL for it and for what it has forked."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
