"""Frames of the wire format as Python maps, and their bytes. Written from proto/PROTOCOL.md alone, with Debian's msgpack.

Nothing here checks a rule: tests must be able to say anything.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgpack

Frame = dict[str, Any]


def now_us() -> int:
    return time.time_ns() // 1000


def new_session() -> uuid.UUID:
    return uuid.uuid4()


def frame(type_: str, session: uuid.UUID | None = None, **fields: Any) -> Frame:
    """Any frame; fields that are None are left out."""
    made: Frame = {"type": type_}
    if session is not None:
        made["session_id"] = session.bytes
    made.update((key, value.bytes if isinstance(value, uuid.UUID) else value) for key, value in fields.items() if value is not None)
    return made


def session_start(session: uuid.UUID, **fields: Any) -> Frame:
    return frame("session_start", session, **fields)


def session_end(session: uuid.UUID, **fields: Any) -> Frame:
    return frame("session_end", session, **fields)


def llm(session: uuid.UUID, input_tokens: int = 100, output_tokens: int = 20, *, provider: str = "openai", model: str = "gpt-4o",
        **fields: Any) -> Frame:
    return frame("llm", session, provider=provider, model=model, input_tokens=input_tokens, output_tokens=output_tokens, **fields)


def tts(session: uuid.UUID, char_count: int = 80, *, provider: str = "cartesia", **fields: Any) -> Frame:
    return frame("tts", session, provider=provider, char_count=char_count, **fields)


def stt(session: uuid.UUID, audio_duration_ms: float = 1500.0, *, provider: str = "deepgram", **fields: Any) -> Frame:
    return frame("stt", session, provider=provider, audio_duration_ms=audio_duration_ms, **fields)


def usage(meter: str, quantity: int | float, session: uuid.UUID | None = None, **fields: Any) -> Frame:
    return frame("usage", session, meter=meter, quantity=quantity, **fields)


def transcript(session: uuid.UUID, role: str = "user", text: str = "hello", **fields: Any) -> Frame:
    return frame("transcript", session, role=role, text=text, **fields)


def gap(count: int, **fields: Any) -> Frame:
    return frame("gap", count=count, **fields)


def envelope(stream: bytes, seq: int, base: int, count: int, **fields: Any) -> Frame:
    return frame("stream", id=stream, seq=seq, base=base, count=count, **fields)


def pack(*frames: Frame | bytes) -> bytes:
    """The frames back to back; bytes stand for themselves, so that a test can put anything between good frames."""
    return b"".join(each if isinstance(each, bytes) else msgpack.packb(each, use_bin_type=True) for each in frames)


def call(session: uuid.UUID, turns: int = 3, *, end: bool = True, **start: Any) -> list[Frame]:
    """A small call: its start, so many turns of (stt, transcript, llm, tts, transcript), its end. 5 * turns + 1 or 2 frames."""
    made = [session_start(session, started_at=now_us(), **start)]
    for turn in range(turns):
        heard, said = uuid.uuid4(), uuid.uuid4()
        made += [stt(session, 1000.5 + turn, turn_id=heard, model="nova-2", language="en"),
                 transcript(session, "user", f"question {turn}", turn_id=heard, language="en"),
                 llm(session, 100 + turn, 20 + turn, turn_id=said, cached_input_tokens=50),
                 tts(session, 40 + turn, turn_id=said, voice="alto"),
                 transcript(session, "assistant", f"answer {turn}", turn_id=said, interrupted=turn == 1)]
    if end:
        made.append(session_end(session, ended_at=now_us()))
    return made
