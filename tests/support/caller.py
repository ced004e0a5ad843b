"""A sequenced worker that plays whole calls and calls that go on all the time, and notes everything it sent: for tests that trouble the database."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Iterable

import frames
import oracle
from senders import Sender, StreamSender


class Caller:
    """live: calls that begin now and last until hang_up(), with a turn in every feed()."""

    def __init__(self, path: str | Path, live: int = 5) -> None:
        self.ledger = oracle.Ledger()
        self.numbers: list[int] = []  # of each record in the ledger; 0: sent without an envelope
        self.sender = StreamSender(path)
        self.live = [frames.new_session() for _ in range(live)]
        if live:
            self.send(*[frames.session_start(session, metadata={"user_id": "u_42"}) for session in self.live])

    @property
    def records(self) -> list[oracle.Record]:
        return self.ledger.records

    @property
    def acknowledged(self) -> dict[bytes, int]:
        """For fault.judge()."""
        return {self.sender.stream: self.sender.acked}

    def send(self, *each: frames.Frame) -> None:
        """One datagram."""
        self.numbers += range(self.sender.next, self.sender.next + len(each))
        self.sender.send(*self.ledger.of(*each))

    def send_plain(self, count: int) -> None:
        """Frames without an envelope. They are in the journal when one that is sent later is acknowledged, if the socket lived."""
        with Sender(self.sender.path) as plain:
            for _ in range(count):
                self.numbers.append(0)
                plain.send(*self.ledger.of(frames.usage("storage_mb", 1.5, account="acme")))

    def feed(self, calls: int = 20, turns: int = 3, plain: int = 0) -> None:
        """Whole calls, and a turn of each live one; acknowledged when this returns."""
        self.send_plain(plain)
        for _ in range(calls):
            self.send(*frames.call(frames.new_session(), turns, metadata={"user_id": "u_42"}))
        if self.live:
            self.send(*[frames.llm(session, 7, 3) for session in self.live])
        self.sender.wait_acked()

    def hang_up(self) -> None:
        """Ends the live calls; acknowledged when this returns."""
        if self.live:
            self.send(*[frames.session_end(session) for session in self.live])
        self.live = []
        self.sender.wait_acked()

    def with_numbers(self, wanted: Iterable[int]) -> list[oracle.Record]:
        """The records of these frames of the stream."""
        kept = set(wanted)
        return [record for record, number in zip(self.records, self.numbers) if number in kept]

    def bulk(self, size: int) -> uuid.UUID:
        """About so many bytes in the largest datagrams, all of one call; acknowledged when this returns."""
        session, sent = frames.new_session(), 0
        self.send(frames.session_start(session))
        while sent < size:
            text = f"{sent:012d} " + "what was said at length " * 250
            turns = [frames.transcript(session, text=text) for _ in range(9)]
            self.send(*turns)
            sent += 9 * len(text)
            if len(self.sender.outstanding) > 200:
                self.sender.wait_acked(self.sender.next - 900)
        self.send(frames.session_end(session))
        self.sender.wait_acked(seconds=60)
        return session

    def close(self) -> None:
        self.sender.close()

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
