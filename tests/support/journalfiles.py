"""Reads a journal's segments as DESIGN.md and journal_segment.c lay them out: a second opinion on the daemon's own reader.

Goes by lengths and LSNs and leaves checksums alone. Give it the state directory of a daemon that has ended, or is idle.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator
from uuid import UUID

import msgpack

SEGMENT_HEADER = 64
RECORD = struct.Struct("<IIQQqIIBBH")  # length, CRC, LSN, durable LSN, received, uid, pid, kind, flags, zero
DATAGRAM = 1
Stream = tuple[int, str]  # uid, id


@dataclass
class Record:
    lsn: int
    received_us: int
    uid: int
    pid: int
    kind: int
    payload: bytes


@dataclass
class Segment:
    number: int
    base: int
    path: Path


def segments(state: Path) -> list[Segment]:
    """Those that are there; a daemon that runs may delete one at any moment."""
    made = []
    for path in (state / "journal").glob("*.seg"):
        try:
            with path.open("rb") as file:
                header = file.read(SEGMENT_HEADER)
        except FileNotFoundError:
            continue
        if header[:8] == b"TOLLJRNL":  # else: prepared, not begun
            made.append(Segment(struct.unpack_from("<I", header, 12)[0], struct.unpack_from("<Q", header, 32)[0], path))
    return sorted(made, key=lambda each: each.number)


def records(state: Path) -> Iterator[Record]:
    """All of the log that is there, in order. A segment ends where a later one begins."""
    found = segments(state)
    for at, segment in enumerate(found):
        end = min((later.base for later in found[at + 1:]), default=2**64)
        data, offset, lsn = segment.path.read_bytes(), SEGMENT_HEADER, segment.base
        while lsn < end and offset + RECORD.size <= len(data):
            size, _, stored_lsn, _, received, uid, pid, kind, _, _ = RECORD.unpack_from(data, offset)
            if kind == 0 or stored_lsn != lsn:
                break
            offset += RECORD.size
            yield Record(lsn, received, uid, pid, kind, data[offset:offset + size])
            offset += size
            lsn += RECORD.size + size


def is_whole(state: Path) -> bool:
    """Nothing of the log has been deleted yet."""
    return any(each.base == 0 for each in segments(state))


def numbers(*states: Path) -> dict[Stream, set[int]]:
    """The numbers of all frames with an envelope, by stream, in the journals of one or more daemons."""
    seen: dict[Stream, set[int]] = defaultdict(set)
    for state in states:
        for record in records(state):
            if record.kind != DATAGRAM:
                continue
            unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False)
            unpacker.feed(record.payload)
            try:
                first = next(unpacker)
            except Exception:  # what a hostile worker sent: no envelope
                continue
            if isinstance(first, dict) and first.get("type") == "stream" and len(first.get("id", b"")) == 16:
                seen[record.uid, str(UUID(bytes=first["id"]))].update(range(first["seq"], first["seq"] + first["count"]))
    return seen
