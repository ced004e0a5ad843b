"""What is odd and yet a frame, with real bytes against the real daemon: it is kept, as it was sent; and every golden vector.

One daemon on one database takes everything in this file; the last test asks for the sum of it all.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgpack

import oracle
from bed import Bed, Row
from harness import ROOT, Sender, frames

COUNT_MAX = 2**31 - 1
DURATION_MAX_MS = 2251799813685.247


# --- kept although they are odd ---

def stored_event(bed: Bed, session: uuid.UUID, *columns: str) -> Row:
    return bed.query(f"SELECT {', '.join(columns)} FROM billing_events WHERE session_id = %s", str(session))[0]


def test_counts_at_their_limits(bed: Bed) -> None:
    session = frames.new_session()
    columns = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "audio_input_tokens", "cached_audio_tokens",
               "audio_output_tokens", "reasoning_tokens")
    with Sender(bed.daemon.socket) as sender:
        sender.send(frames.session_start(session),
                    frames.frame("llm", session, provider="", model="", **dict.fromkeys(columns, COUNT_MAX) | {"cache_write_tokens": 0}),
                    frames.frame("llm", session, provider="p", model="m", **dict.fromkeys(columns, 0)),
                    frames.llm(session, COUNT_MAX, COUNT_MAX), frames.tts(session, COUNT_MAX), frames.tts(session, COUNT_MAX), frames.tts(session, 0))
        sender.send(frames.session_end(session))
    bed.expect(stored=8)
    rows = bed.query(f"SELECT {', '.join(columns)} FROM billing_events WHERE session_id = %s AND event_type = 'llm' ORDER BY id", str(session))
    assert rows[:2] == [(COUNT_MAX, COUNT_MAX, COUNT_MAX, 0, COUNT_MAX, COUNT_MAX, COUNT_MAX, COUNT_MAX), (0,) * 8]
    assert bed.query("SELECT llm_input_tokens, llm_output_tokens, tts_chars, tts_calls FROM billing_sessions WHERE session_id = %s",
                        str(session)) == [(2 * COUNT_MAX, 2 * COUNT_MAX, 2 * COUNT_MAX, 3)]


def test_durations_at_their_limits(bed: Bed) -> None:
    session = frames.new_session()
    given = [0, -0.0, 0.0004, 0.0005, 1e-300, DURATION_MAX_MS, 2**31]
    with Sender(bed.daemon.socket) as sender:
        sender.send(*(frames.stt(session, each, ttfb_ms=each, duration_ms=each) for each in given))
    bed.expect(stored=len(given))
    rows = bed.query("SELECT audio_duration_ms, ttfb_ms, duration_ms FROM billing_events WHERE session_id = %s ORDER BY id", str(session))
    assert rows == [(each,) * 3 for each in (0, 0, 0, 0.001, 0, DURATION_MAX_MS, 2**31)]


def test_quantities_at_their_limits(bed: Bed) -> None:
    """Integers are exact, floats as short as they read back."""
    session = frames.new_session()
    given = [0, 1, 2**53 + 1, 2**64 - 1, 0.1, 5e-324, 1.7976931348623157e308, -0.0]
    with Sender(bed.daemon.socket) as sender:
        sender.send(*(frames.usage("m", each, session) for each in given))
    bed.expect(stored=len(given))
    rows = bed.query("SELECT quantity FROM billing_events WHERE session_id = %s ORDER BY id", str(session))
    assert [row[0] for row in rows] == [Decimal(repr(each) if isinstance(each, float) else each) for each in given]


def test_names_at_their_limit(bed: Bed) -> None:
    session = frames.new_session()
    columns = ("provider", "model", "agent", "request_id")
    with Sender(bed.daemon.socket) as sender:
        sender.send(frames.llm(session, 1, 1) | dict.fromkeys(columns, "é" * 128))
    bed.expect(stored=1)
    assert stored_event(bed, session, *columns) == ("é" * 128,) * 4


def test_strings_are_mended_and_kept(bed: Bed) -> None:
    """NUL and invalid UTF-8 become U+FFFD wherever they stand, as Python would replace them; it is counted."""
    session = frames.new_session()
    texts = [b"a\x00b", b"\xff", b"caf\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"ok \xe2\x82", b"\xf0\x9f\x98\x80", bytes(256)]
    mended = [each.decode("utf-8", "replace").replace("\0", "\ufffd") for each in texts]
    before = bed.daemon.status()["strings_replaced"]
    with Sender(bed.daemon.socket) as sender:
        for each in texts:
            text = msgpack.packb(each, use_bin_type=False)  # bytes as they are, called a string
            sender.send(b"\x84" + frames.pack("type", "transcript", "session_id", str(session), "role", "user", "text", text))
        sender.send(b"\x85" + frames.pack("type", "tts", "session_id", str(session), "char_count", 1, "provider", b"\xa3p\x00\xff")
                    + b"\xa2k\x00" + b"\xa2\xfev")
    bed.expect(stored=len(texts) + 1)
    assert [row[0] for row in bed.query("SELECT text FROM session_transcripts WHERE session_id = %s ORDER BY id", str(session))] == mended
    assert stored_event(bed, session, "provider", "raw_json") == ("p\ufffd\ufffd", {"k\ufffd": "\ufffdv"})
    assert bed.daemon.status()["strings_replaced"] - before == len(texts) - 1 + 3


def test_unknown_keys_are_kept(bed: Bed) -> None:
    session = frames.new_session()
    with Sender(bed.daemon.socket) as sender:
        sender.send(frames.session_start(session, metadata={"user_id": "u_42"}, plan="gold"),
                    frames.tts(session, 1, mood="calm", raw={"id": 7, "mood": "theirs"}),
                    frames.transcript(session, "user", "hello", confidence=0.5, raw={"a": None}))
    bed.expect(stored=3)
    assert stored_event(bed, session, "raw_json") == ({"id": 7, "mood": "theirs", "frame.mood": "calm"},)
    assert bed.query("SELECT metadata, raw_json FROM billing_sessions WHERE session_id = %s", str(session)) == [
        ({"user_id": "u_42"}, {"plan": "gold"})]
    assert bed.value("SELECT raw_json FROM session_transcripts WHERE session_id = %s", str(session)) == {"confidence": 0.5, "raw": {"a": None}}


def test_a_map_as_deep_and_as_wide_as_allowed(bed: Bed) -> None:
    session = frames.new_session()
    deep: Any = 1
    for _ in range(6):
        deep = [deep]
    wide = {f"key {number}": number for number in range(4000)}
    with Sender(bed.daemon.socket) as sender:
        sender.send(frames.session_start(session, metadata={"deep": deep, **wide}))
    bed.expect(stored=1)
    assert bed.value("SELECT metadata FROM billing_sessions WHERE session_id = %s", str(session)) == {"deep": deep, **wide}


def test_durations_that_no_float_can_add_up(bed: Bed) -> None:
    """Five times 71 years of audio in one call: the sum is above 2⁵³ µs. Nobody's call lasts so long, but a broken worker may say so, and
    its session must neither stop the others nor make verify cry for ever."""
    session = frames.new_session()
    with Sender(bed.daemon.socket) as sender:
        sender.send(frames.session_start(session), *(frames.stt(session, DURATION_MAX_MS) for _ in range(5)), frames.session_end(session))
        sender.send(frames.stt(session, 0.001))  # late: summed in the database
    bed.expect(stored=8)
    assert not oracle.faults(bed.db)


# --- the golden vectors ---

ID, TEXT_ID, STREAM_ID = bytes.fromhex("0190a1b2c3d44e5f8a6b7c8d9eafb0c1"), "0190a1b2-c3d4-4e5f-8a6b-7c8d9eafb0c1", bytes(range(16))
EVENT_COLUMNS = ("provider", "model", "voice", "language", "agent", "request_id", "meter", "account", "input_tokens", "output_tokens", "char_count",
                 "cached_input_tokens", "cache_write_tokens", "audio_input_tokens", "cached_audio_tokens", "audio_output_tokens", "reasoning_tokens")


def as_own(vector: dict[str, Any]) -> tuple[bytes, uuid.UUID]:
    """The vector's bytes with a session and a stream of its own, so that vectors do not meet in the database."""
    own = uuid.uuid4()
    data = bytes.fromhex(vector["hex"]).replace(ID, own.bytes).replace(STREAM_ID, os.urandom(16))
    for text in (TEXT_ID, TEXT_ID.upper()):
        data = data.replace(text.encode(), (str(own).upper() if text.isupper() else str(own)).encode())
    return data, own


def fates(vector: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the daemon must do with each piece: ("store", fields), or ("refuse", how the reason begins)."""
    made = [("store", each["frame"]) if "frame" in each else
            ("refuse", each["invalid"]) if "invalid" in each else ("refuse", "datagram: " + each["malformed"]) for each in vector["frames"]]
    if made and made[0][0] == "store" and made[0][1]["type"] == "stream":
        count = made.pop(0)[1]["count"]
        if count < len(made):
            made[count:] = [("refuse", "datagram: ")]
        elif count > len(made) and not (made and made[-1][1] == "datagram: malformed msgpack"):
            made.append(("refuse", "datagram: its envelope counts"))
    return [("refuse", "stream: an envelope must be") if what == "store" and fields["type"] == "stream" else (what, fields) for what, fields in made]


def readable(column: str) -> str:
    """A time, or a year that Python can read where it is beyond."""
    return f"CASE WHEN {column} > '2100-01-01' THEN '2100-01-01' WHEN {column} < '1800-01-01' THEN '1800-01-01' ELSE {column} END"


def check_time(name: str, given: int | None, stored: datetime, reported: datetime | None) -> None:
    if given is None:
        assert reported is None and abs(datetime.now(timezone.utc) - stored) < timedelta(minutes=5), name
    elif abs(given) < 2_500_000_000_000_000:  # within 1890 … 2049
        assert (reported or stored) == oracle.time_of(given), name
        assert reported is None or stored != reported, name


def check_stored(bed: Bed, name: str, session: uuid.UUID, fields: list[dict[str, Any]]) -> None:
    """The rows of one vector's session against its decoded fields."""
    def of(*types: str) -> list[dict[str, Any]]:
        return [each for each in fields if each["type"] in types and "session_id" in each]

    events = bed.query(
        f"SELECT event_type, turn_id::text, occurred_at, {readable('occurred_at_reported')}, raw_json, quantity, coalesce(estimated, false),"
        f" interrupted, round(audio_duration_ms * 1000)::bigint, round(ttfb_ms * 1000)::bigint, round(duration_ms * 1000)::bigint,"
        f" {', '.join(EVENT_COLUMNS)} FROM billing_events WHERE session_id = %s ORDER BY id", str(session))
    assert len(events) == len(of("llm", "tts", "stt", "usage")), name
    for row, each in zip(events, of("llm", "tts", "stt", "usage")):
        assert row[:2] == (each["type"], each.get("turn_id")), name
        check_time(name, each.get("time_us"), row[2], row[3])
        quantity = None if "quantity" not in each else Decimal(each["quantity"])
        assert row[4:8] == (each.get("raw_json"), quantity, each.get("estimated", False), each.get("interrupted")), name
        assert row[8:11] == tuple(each.get(key) for key in ("audio_duration_us", "ttfb_us", "duration_us")), name
        assert row[11:] == tuple(each.get(key) for key in EVENT_COLUMNS), name
    turns = bed.query("SELECT role, text, language, turn_id::text, interrupted, raw_json, occurred_at,"
                         f" {readable('occurred_at_reported')}"
                         " FROM session_transcripts WHERE session_id = %s ORDER BY id", str(session))
    assert len(turns) == len(of("transcript")), name
    for row, each in zip(turns, of("transcript")):
        assert row[:6] == (each["role"], each["text"], each.get("language"), each.get("turn_id"), each.get("interrupted", False),
                           each.get("raw_json")), name
        check_time(name, each.get("time_us"), *row[6:])
    for each in of("session_start", "session_end"):
        row = bed.query("SELECT metadata, raw_json, finish_reason, start_missing,"
                           f" started_at, {readable('started_at_reported')}, ended_at, {readable('ended_at_reported')}"
                           " FROM billing_sessions WHERE session_id = %s", str(session))[0]
        assert row[1] == each.get("raw_json"), name
        if each["type"] == "session_start":
            assert row[0] == each.get("metadata", {}) and not row[3], name
            check_time(name, each.get("time_us"), *row[4:6])
        else:
            assert row[2] == each["finish_reason"] and row[3], name
            check_time(name, each.get("time_us"), *row[6:])


def test_golden_vectors(bed: Bed) -> None:
    """Every vector, sent to the daemon: stored as its file says, or quarantined for the reason it gives."""
    vectors = [json.loads(line) for line in (ROOT / "proto/vectors/vectors.jsonl").read_text().splitlines()]
    before, gaps = bed.last_quarantined(), bed.value("SELECT count(*) FROM toll.gaps")
    refusals: list[tuple[str, str]] = []
    sessions: list[tuple[str, uuid.UUID, list[dict[str, Any]]]] = []
    with Sender(bed.daemon.socket) as sender:
        for vector in vectors:
            data, session = as_own(vector)
            sender.send_datagram(data)
            refusals += [(vector["name"], reason) for what, reason in fates(vector) if what == "refuse"]
            sessions.append((vector["name"], session, [fields for what, fields in fates(vector) if what == "store"]))
    stored = Counter(each["type"] for _, _, fields in sessions for each in fields)
    bed.expect(stored=stored.total(), quarantined=len(refusals))
    rows = bed.quarantine(before)
    assert len(rows) == len(refusals)
    for row, (name, reason) in zip(rows, refusals):
        assert row["reason"].startswith(reason), f"{name}: {row['reason']!r}, expected {reason!r}"
    for name, session, fields in sessions:
        if any(each.get("session_id") == TEXT_ID for each in fields):
            check_stored(bed, name, session, fields)
    assert bed.value("SELECT count(*) FROM toll.gaps") - gaps == stored["gap"]
    print(f"{len(vectors)} vectors: {stored.total()} frames stored, {len(refusals)} pieces in quarantine, {dict(stored)}")


# --- the sum of it all ---

def test_all_of_it_adds_up(bed: Bed) -> None:
    bed.add_up()
