"""What a bad frame gets, with real bytes against the real daemon: it is quarantined, and nothing and nobody else suffers.

One daemon on one database takes everything in this file, so each test also shows that what came before it did no harm; the last
one asks for the sum of it all.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import msgpack
import pytest

import fault
from bed import GROWTH_MAX, Bed
from harness import SLOWNESS, Sender, StreamSender, frames, rss_bytes, wait_until

DATAGRAM_MAX = 65536
COUNT_MAX = 2**31 - 1
def good(session: uuid.UUID, name: str) -> bytes:
    return frames.pack(frames.tts(session, 42, request_id=name))


def tts_with(**fields: Any) -> bytes:
    return frames.pack(frames.tts(frames.new_session(), 42) | fields)


def llm_with(**fields: Any) -> bytes:
    return frames.pack(frames.llm(frames.new_session(), 100, 50) | fields)


def map_of(*pairs: tuple[Any, Any]) -> bytes:
    """A map that may have a key twice, or one that is no string."""
    return bytes([0x80 | len(pairs)]) + b"".join(msgpack.packb(each, use_bin_type=True) for pair in pairs for each in pair)


def tts_pairs(*more: tuple[Any, Any]) -> bytes:
    return map_of(("type", "tts"), ("session_id", uuid.uuid4().bytes), ("provider", "cartesia"), ("char_count", 42), *more)


def start_with(metadata: bytes) -> bytes:
    """A session_start whose metadata are these bytes."""
    return b"\x83" + frames.pack("type", "session_start", "session_id", msgpack.packb(uuid.uuid4().bytes), "metadata", metadata)


# --- one bad thing between good neighbours ---

# Nobody can say where the next frame begins: the rest of the datagram goes as one piece.
MALFORMED = {
    "array32_bomb": b"\xdd\xff\xff\xff\xff",
    "map32_bomb": b"\xdf\xff\xff\xff\xff",
    "str32_bomb": b"\xdb\xff\xff\xff\xff",
    "bin32_bomb": b"\xc6\xff\xff\xff\xff",
    "ext32_bomb": b"\xc9\xff\xff\xff\xff\x05",
    "array16_bomb": b"\xdc\xff\xff",
    "map16_bomb": b"\xde\xff\xff",
    "str16_bomb": b"\xda\xff\xff",
    "bomb_in_a_frame": tts_with()[:-1] + b"\xdd\xff\xff\xff\xff",
    "bomb_in_metadata": start_with(b"\x81\xa1a\xdf\xff\xff\xff\xff"),
    "reserved_byte": b"\xc1",
    "reserved_byte_in_a_frame": tts_with()[:-1] + b"\xc1",
    "nested_arrays_4000_bomb": b"\x91" * 4000 + b"\xdd\xff\xff\xff\xff",
}

# Well-formed, but wrong: goes alone. The reason must begin like this.
INVALID = {
    "nested_arrays_4000": (b"\x91" * 3999 + b"\x90", "nested deeper than 8"),
    "nested_maps_9": (start_with(b"\x81\xa1a" * 7 + b"\x80"), "nested deeper than 8"),
    "number": (b"\x07", "expected a map, got an integer"),
    "nil": (b"\xc0", "expected a map, got nil"),
    "string": (b"\xa3abc", "expected a map, got a string"),
    "array": (b"\x93\x01\x02\x03", "expected a map, got an array"),
    "extension": (b"\xd4\x05\x00", "expected a map, got an extension"),
    "empty_map": (b"\x80", "type is missing"),
    "type_unknown": (frames.pack({"type": "fax", "pages": 3}), 'unknown type "fax"'),
    "type_with_a_control_character": (frames.pack({"type": "a\nb"}), 'unknown type "a\\x0ab"'),
    "type_invalid_utf8": (b"\x81\xa4type\xa2\xff\xfe", 'unknown type "\\xff\\xfe"'),
    "type_number": (frames.pack({"type": 7}), "type: expected a string, got an integer"),
    "repeated_key": (tts_pairs(("char_count", 43)), 'tts: repeated key "char_count"'),
    "repeated_type": (tts_pairs(("type", "llm")), 'tts: repeated key "type"'),
    "repeated_unknown_key": (tts_pairs(("mood", 1), ("mood", 2)), 'tts: repeated key "mood"'),
    "repeated_metadata_key": (start_with(map_of(("a", 1), ("a", 2))), 'session_start: metadata: repeated key "a"'),
    "repeated_key_deep_in_metadata": (start_with(b"\x81\xa1m" + map_of(("a", 1), ("a", 1))), 'session_start: metadata: repeated key "a"'),
    "key_number": (tts_pairs((1, 2)), "tts: a key is an integer, not a string"),
    "key_array": (start_with(b"\x81\x90\x01"), "session_start: metadata: a key is a map or an array"),
    "session_missing": (frames.pack({"type": "tts", "provider": "p", "char_count": 1}), "tts: session_id is missing"),
    "session_number": (tts_with(session_id=5), "tts: session_id: expected a UUID"),
    "session_short": (tts_with(session_id=b"123456789012345"), "tts: session_id: expected 16 bytes, got 15"),
    "provider_missing": (frames.pack(frames.tts(uuid.uuid4(), 1, provider=None)), "tts: provider is missing"),
    "usage_of_nobody": (frames.pack(frames.usage("sms", 1)), "usage: session_id or account is missing"),
    "duration_nan": (frames.pack(frames.stt(uuid.uuid4(), float("nan"))), "stt: audio_duration_ms: "),
    "duration_infinite": (frames.pack(frames.stt(uuid.uuid4(), float("inf"))), "stt: audio_duration_ms: "),
    "duration_minus_infinite": (frames.pack(frames.stt(uuid.uuid4(), float("-inf"))), "stt: audio_duration_ms: "),
    "duration_negative": (frames.pack(frames.stt(uuid.uuid4(), -0.001)), "stt: audio_duration_ms: "),
    "duration_above": (frames.pack(frames.stt(uuid.uuid4(), 2251799813685.248)), "stt: audio_duration_ms: "),
    "duration_string": (frames.pack(frames.stt(uuid.uuid4(), "1500")), "stt: audio_duration_ms: expected a number, got a string"),
    "ttfb_nan": (llm_with(ttfb_ms=float("nan")), "llm: ttfb_ms: "),
    "quantity_nan": (frames.pack(frames.usage("sms", float("nan"), uuid.uuid4())), "usage: quantity: "),
    "quantity_infinite": (frames.pack(frames.usage("sms", float("inf"), uuid.uuid4())), "usage: quantity: "),
    "quantity_negative": (frames.pack(frames.usage("sms", -1, uuid.uuid4())), "usage: quantity: "),
    "time_nan": (tts_with(occurred_at=float("nan")), "tts: occurred_at: "),
    "time_infinite": (tts_with(occurred_at=float("inf")), "tts: occurred_at: "),
    "time_string": (tts_with(occurred_at="now"), "tts: occurred_at: "),
    "count_negative": (llm_with(input_tokens=-1), "llm: input_tokens: -1 is below 0"),
    "count_above": (llm_with(input_tokens=COUNT_MAX + 1), "llm: input_tokens: 2147483648 is above 2147483647"),
    "count_int64_min": (llm_with(output_tokens=-2**63), "llm: output_tokens: -9223372036854775808 is below 0"),
    "count_uint64_max": (llm_with(output_tokens=2**64 - 1), "llm: output_tokens: 18446744073709551615 is above 2147483647"),
    "count_float": (tts_with(char_count=5.0), "tts: char_count: expected an integer, got a float"),
    "count_bool": (tts_with(char_count=True), "tts: char_count: expected an integer, got a boolean"),
    "count_string": (tts_with(char_count="5"), "tts: char_count: expected an integer, got a string"),
    "cached_above_input": (llm_with(cached_input_tokens=101), "llm: cached + cache_write + audio_input - cached_audio tokens: 101 is above"),
    "parts_above_input": (llm_with(cached_input_tokens=50, cache_write_tokens=30, audio_input_tokens=21),
                          "llm: cached + cache_write + audio_input - cached_audio tokens: 101 is above"),
    "cached_audio_above_cached": (llm_with(audio_input_tokens=9, cached_input_tokens=1, cached_audio_tokens=2),
                                  "llm: cached_audio_tokens: 2 is above"),
    "cached_audio_above_audio": (llm_with(audio_input_tokens=1, cached_input_tokens=9, cached_audio_tokens=2),
                                 "llm: cached_audio_tokens: 2 is above"),
    "audio_above_output": (llm_with(audio_output_tokens=51), "llm: audio_output_tokens: 51 is above output_tokens, which is 50"),
    "reasoning_above_output": (llm_with(reasoning_tokens=51), "llm: reasoning_tokens: 51 is above output_tokens, which is 50"),
    "name_257": (tts_with(voice="v" * 257), "tts: voice: 257 bytes are more than 256"),
    "name_258_in_129_characters": (tts_with(voice="é" * 129), "tts: voice: 258 bytes are more than 256"),
    "finish_reason_257": (frames.pack(frames.session_end(uuid.uuid4(), finish_reason="r" * 257)), "session_end: finish_reason: 257 bytes"),
    "role_system": (frames.pack(frames.transcript(uuid.uuid4(), "system")), 'transcript: role: must be "user" or "assistant"'),
    "flag_number": (llm_with(estimated=1), "llm: estimated: expected a boolean, got an integer"),
    "metadata_array": (start_with(b"\x90"), "session_start: metadata: expected a map, got an array"),
    "gap_negative": (frames.pack(frames.gap(-1)), "gap: count: -1 is below 0"),
    "envelope_not_first": (frames.pack(frames.envelope(b"s" * 16, 1, 1, 1)), "stream: an envelope must be the first frame of its datagram"),
}

# Names for parametrize, which shall not print 4,000 brackets.
CASES = ([pytest.param(bad, None, id=name) for name, bad in MALFORMED.items()]
         + [pytest.param(bad, reason, id=name) for name, (bad, reason) in INVALID.items()])


@pytest.mark.parametrize(("bad", "reason"), CASES)
def test_bad_between_good(bed: Bed, bad: bytes, reason: str | None) -> None:
    """Datagrams: a good one; good, bad, good; a good one. Without numbers, with them, and then sent again."""
    rest_is_lost = reason is None
    plain, numbered, before = frames.new_session(), frames.new_session(), bed.last_quarantined()

    def between(session: uuid.UUID) -> tuple[bytes, bytes, bytes]:
        return good(session, "before"), bad, good(session, "after")

    with Sender(bed.daemon.socket) as sender, StreamSender(bed.daemon.socket) as stream:
        for each, session in ((sender, plain), (stream, numbered)):
            each.send(good(session, "first"))
            each.send(*between(session))
            each.send(good(session, "last"))
        assert stream.wait_acked() == 5, "a bad frame uses up its number, a malformed rest all that were left"
        bed.expect(stored=6 if rest_is_lost else 8, quarantined=2)
        sender.send(frames.envelope(stream.stream, 2, 2, 3), *between(numbered))
        bed.expect(duplicate=2 if rest_is_lost else 3)
    rows = bed.quarantine(before)
    assert [(row["stream_id"], row["seq"]) for row in rows] == [(None, None), (str(uuid.UUID(bytes=stream.stream)), 3)]
    for session, row in zip((plain, numbered), rows):
        assert bed.requests(session) == (["first", "before", "last"] if rest_is_lost else ["first", "before", "after", "last"])
        assert row["bytes"] == (bad + good(session, "after") if rest_is_lost else bad)
        assert row["reason"].startswith(reason or "datagram: malformed msgpack"), row["reason"]
    assert not bed.query("SELECT 1 FROM toll.stream_holes")


def test_open_nesting_swallows_what_follows(bed: Bed) -> None:
    """4,000 arrays of one element, the last of them open: the good frame after it is that element, and goes with it. Its neighbours stay."""
    session, before = frames.new_session(), bed.last_quarantined()
    after = good(session, "after")
    with Sender(bed.daemon.socket) as sender:
        sender.send(good(session, "before"), b"\x91" * 4000, after, good(session, "last"))
    bed.expect(stored=2, quarantined=1)
    assert bed.requests(session) == ["before", "last"]
    (row,) = bed.quarantine(before)
    assert row["bytes"] == b"\x91" * 4000 + after and row["reason"] == "nested deeper than 8"


# --- truncation ---

@pytest.mark.parametrize("numbered", [False, True], ids=["plain", "numbered"])
def test_frame_cut_at_every_byte(bed: Bed, numbered: bool) -> None:
    """Each cut in a datagram of its own, after a good frame of a session of its own; all in one stream."""
    whole = frames.pack(frames.llm(frames.new_session(), 100, 20, occurred_at=frames.now_us(), turn_id=uuid.uuid4(), ttfb_ms=12.5,
                                   agent="triage", raw={"id": "x", "n": [1, 2]}))
    before, sessions = bed.last_quarantined(), [frames.new_session() for _ in whole]
    with (StreamSender if numbered else Sender)(bed.daemon.socket) as sender:
        for size, session in enumerate(sessions):
            sender.send(good(session, "before"), whole[:size])
        sender.send(good(sessions[0], "last"))
        if numbered:
            assert sender.wait_acked() == 2 * len(whole) + 1
    missing = 1 if numbered else 0  # a cut to nothing: only an envelope tells that something is missing
    bed.expect(stored=len(whole) + 1, quarantined=len(whole) - 1 + missing)
    rows = bed.quarantine(before)
    if numbered:
        assert "counts 2 frames, the last 1 are not there" in rows[0]["reason"]
        assert [row["seq"] for row in rows] == list(range(2, 2 * len(whole) + 1, 2))
    assert [row["bytes"] for row in rows[missing:]] == [whole[:size] for size in range(1, len(whole))]
    assert {row["reason"] for row in rows[missing:]} == {"datagram: malformed msgpack"}
    stored = bed.query("SELECT session_id::text, count(*) FROM billing_events WHERE session_id = ANY (%s::uuid[]) GROUP BY 1",
                          [str(each) for each in sessions])
    assert dict(stored) == {str(each): 1 for each in sessions[1:]} | {str(sessions[0]): 2}
    assert not bed.query("SELECT 1 FROM toll.stream_holes")
    print(f"{len(whole)} cuts, every neighbour stored, {len(rows)} pieces in quarantine")


def test_datagram_cut_at_every_byte(bed: Bed) -> None:
    """The envelope too: a stream each. Numbers that the cut consumed stay consumed when the whole datagram comes; the others are stored."""
    quarantined = stored = duplicate = 0
    sessions, wholes = [], []
    with Sender(bed.daemon.socket) as sender:
        size = len(frames.pack(frames.envelope(b"s" * 16, 1, 1, 2), good(frames.new_session(), "a"), good(frames.new_session(), "b")))
        head, tail = len(frames.pack(frames.envelope(b"s" * 16, 1, 1, 2))), len(good(frames.new_session(), "b"))
        for cut in range(size):
            session = frames.new_session()
            whole = frames.pack(frames.envelope(os.urandom(16), 1, 1, 2), good(session, "a"), good(session, "b"))
            sender.send(whole[:cut])
            sessions.append(session)
            wholes.append(whole)
            if 0 < cut < head:
                quarantined += 1
            elif cut >= head:
                quarantined += 1
                stored += cut >= size - tail
        for cut, whole in enumerate(wholes):
            sender.send(whole)
            stored += 2 if cut < head else 0
            duplicate += 0 if cut < head else 2
    bed.expect(stored=stored, quarantined=quarantined, duplicate=duplicate)
    for cut, session in enumerate(sessions):
        assert bed.requests(session) == (["a", "b"] if cut < head else ["a"] if cut >= size - tail else []), cut
    assert not bed.query("SELECT 1 FROM toll.stream_holes")


def padded(size: int, session: uuid.UUID, name: str) -> bytes:
    """A good frame of exactly so many bytes."""
    empty = frames.pack(frames.tts(session, 1, request_id=name, raw={"x": "y" * 60000}))
    made = frames.pack(frames.tts(session, 1, request_id=name, raw={"x": "y" * (60000 + size - len(empty))}))
    assert len(made) == size
    return made


def test_largest_datagram(bed: Bed) -> None:
    """65,536 bytes are taken whole."""
    session = frames.new_session()
    with Sender(bed.daemon.socket) as sender:
        sender.send(padded(DATAGRAM_MAX, session, "full"))
    bed.expect(stored=1)
    assert bed.requests(session) == ["full"]


@pytest.mark.parametrize("numbered", [False, True], ids=["plain", "numbered"])
def test_oversized_datagram_loses_only_its_end(bed: Bed, numbered: bool) -> None:
    """The kernel cuts it (MSG_TRUNC): frames before the cut are stored, the cut one is kept as far as it goes, numbers are used up."""
    session, before = frames.new_session(), bed.last_quarantined()
    many = [good(session, f"{number:04}") for number in range(900)]
    with (StreamSender if numbered else Sender)(bed.daemon.socket) as sender:
        sender.send(good(session, "first"))
        sender.send(*many)
        sender.send(good(session, "last"))
        if numbered:
            assert sender.wait_acked() == 902
    head = len(frames.pack(frames.envelope(sender.stream, 2, 1, 900, client="python-test"))) if numbered else 0
    assert head + sum(map(len, many)) > DATAGRAM_MAX
    whole = (DATAGRAM_MAX - head) // len(many[0])
    bed.expect(stored=whole + 2, quarantined=1)
    assert bed.requests(session) == ["first", *(f"{number:04}" for number in range(whole)), "last"]
    (row,) = bed.quarantine(before)
    assert row["bytes"] == b"".join(many)[:DATAGRAM_MAX - head][whole * len(many[0]):]
    assert "65536 bytes" in row["reason"]
    assert row["seq"] == (2 + whole if numbered else None)
    assert bed.daemon.status()["datagrams_truncated"] >= 1
    assert not bed.query("SELECT 1 FROM toll.stream_holes")


@pytest.mark.parametrize("more", [1, 100], ids=["one_byte", "a_frame"])
def test_oversized_by_a_little(bed: Bed, more: int) -> None:
    """A good frame fills the 65,536 bytes exactly, and the cut falls between it and the next: the loss is still told."""
    session, before = frames.new_session(), bed.last_quarantined()
    with Sender(bed.daemon.socket) as sender:
        sender.send(padded(DATAGRAM_MAX, session, "full"), b"\xc1" if more == 1 else good(session, "lost"))
    bed.expect(stored=1, quarantined=1)
    assert bed.requests(session) == ["full"]
    (row,) = bed.quarantine(before)
    assert row["bytes"] == b"" and "lost its end" in row["reason"]


def test_empty_datagram(bed: Bed) -> None:
    """Nothing in it, so nothing happens."""
    session = frames.new_session()
    with Sender(bed.daemon.socket) as sender:
        for _ in range(10):
            sender.send_datagram(b"")
        sender.send(good(session, "after"))
    bed.expect(stored=1)
    assert bed.requests(session) == ["after"]


@pytest.mark.parametrize("numbered", [False, True], ids=["plain", "numbered"])
def test_thousands_of_tiny_invalid_frames(bed: Bed, numbered: bool) -> None:
    """One byte each, as many as a datagram holds."""
    session, before = frames.new_session(), bed.last_quarantined()
    head = len(frames.pack(frames.envelope(b"s" * 16, 1, 1, 60000, client="python-test"))) if numbered else 0
    tiny = [b"\xc0"] * (DATAGRAM_MAX - head - 2 * len(good(session, "first")))
    with (StreamSender if numbered else Sender)(bed.daemon.socket) as sender:
        sender.send(good(session, "first"), *tiny, good(session, "later"))
        if numbered:
            sender.wait_acked(len(tiny) + 2)
    bed.expect(stored=2, quarantined=len(tiny))
    assert bed.requests(session) == ["first", "later"]
    assert bed.query("SELECT count(*), min(reason), max(reason), count(DISTINCT seq) FROM toll.quarantine WHERE id > %s", before) == [
        (len(tiny), "expected a map, got nil", "expected a map, got nil", len(tiny) if numbered else 0)]
    grown = rss_bytes(bed.daemon.pid) - bed.rss
    print(f"{len(tiny)} frames in one datagram; resident memory has grown by {grown >> 10} KiB since the start")
    assert grown < GROWTH_MAX or SLOWNESS > 1, "a sanitizer keeps memory of its own"


def test_random_bytes(bed: Bed) -> None:
    """Noise, and good frames with a byte changed. Good datagrams between them arrive."""
    chance = fault.rng("bytes changed")
    session, before = frames.new_session(), bed.counts["received"]
    template = frames.pack(*frames.call(frames.new_session(), turns=1))
    with Sender(bed.daemon.socket) as sender:
        for number in range(400):
            if number % 2:
                sender.send_datagram(chance.randbytes(chance.randrange(1, 300)))
            else:
                bent = bytearray(template)
                bent[chance.randrange(len(bent))] = chance.randrange(256)
                sender.send_datagram(bytes(bent))
            if number % 40 == 0:
                sender.send(good(session, f"{number:03}"))
    wait_until(lambda: len(bed.requests(session)) == 10, 20, "the good frames")
    bed.settle()
    assert bed.counts["pending"] == 0
    print(f"{bed.counts['received'] - before} frames counted in 410 datagrams")


# --- the envelope ---

WRONG_ENVELOPES = {
    "seq_0": (dict(seq=0, base=0, count=2), "stream: base: 0 is below 1"),
    "base_0": (dict(seq=1, base=0, count=2), "stream: base: 0 is below 1"),
    "base_above_seq": (dict(seq=6, base=7, count=2), "stream: base: 7 is above seq, which is 6"),
    "seq_above": (dict(seq=2**62, base=1, count=2), "stream: seq: 4611686018427387904 is above"),
    "seq_negative": (dict(seq=-1, base=1, count=2), "stream: seq: -1 is below"),
    "count_above": (dict(seq=1, base=1, count=65537), "stream: count: 65537 is above 65536"),
    "end_above": (dict(seq=2**62 - 1, base=1, count=2), "stream: seq + count: 4611686018427387905 is above"),
    "id_short": (dict(id=b"s" * 15, seq=1, base=1, count=2), "stream: id: expected 16 bytes, got 15"),
    "id_string": (dict(id="s" * 16, seq=1, base=1, count=2), "stream: id: expected 16 bytes of binary data, got a string"),
    "client_257": (dict(seq=1, base=1, count=2, client="c" * 257), "stream: client: 257 bytes are more than 256"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG_ENVELOPES.values(), ids=WRONG_ENVELOPES)
def test_wrong_envelope(bed: Bed, wrong: dict[str, Any], reason: str) -> None:
    """It is quarantined; the frames after it are kept, like those of a datagram without an envelope."""
    session, before = frames.new_session(), bed.last_quarantined()
    envelope = frames.pack({"type": "stream", "id": os.urandom(16), **wrong})
    with Sender(bed.daemon.socket) as sender:
        sender.send(envelope, good(session, "a"), good(session, "b"))
        sender.send(good(session, "c"))
    bed.expect(stored=3, quarantined=1)
    assert bed.requests(session) == ["a", "b", "c"]
    (row,) = bed.quarantine(before)
    assert row["bytes"] == envelope and row["reason"].startswith(reason), row["reason"]
    assert (row["stream_id"], row["seq"]) == (None, None)


def test_more_frames_than_the_envelope_counts(bed: Bed) -> None:
    """Frames beyond `count` have no number and go to quarantine as one piece, once, however often the datagram comes."""
    session, stream, before = frames.new_session(), os.urandom(16), bed.last_quarantined()
    surplus = good(session, "b") + good(session, "c")
    for attempt in range(3):
        with Sender(bed.daemon.socket) as sender:
            sender.send(frames.envelope(stream, 1, 1, 1), good(session, "a"), surplus)
        bed.expect(**({"duplicate": 2} if attempt else {"stored": 1, "quarantined": 1}))
    with Sender(bed.daemon.socket) as sender:
        sender.send(frames.envelope(stream, 2, 1, 1), good(session, "next"))
    bed.expect(stored=1)
    assert bed.requests(session) == ["a", "next"]
    (row,) = bed.quarantine(before)
    assert row["bytes"] == surplus and row["seq"] is None
    assert row["reason"] == f"datagram: {len(surplus)} bytes after the 1 frames that its envelope counts"


def test_fewer_frames_than_the_envelope_counts(bed: Bed) -> None:
    """Those that are missing have used up their numbers, so later ones are acknowledged; the quarantine tells of it once."""
    session, before = frames.new_session(), bed.last_quarantined()
    with StreamSender(bed.daemon.socket) as sender:
        for attempt in range(2):
            sender.send_datagram(frames.pack(frames.envelope(sender.stream, 1, 1, 3), good(session, "a")), [sender.page.fd])
            bed.expect(**({"duplicate": 2} if attempt else {"stored": 1, "quarantined": 1}))
        sender.next = 4
        sender.send(good(session, "next"))
        assert sender.wait_acked() == 4
    bed.expect(stored=1)
    assert bed.requests(session) == ["a", "next"]
    (row,) = bed.quarantine(before)
    assert row["seq"] == 2 and row["reason"] == "datagram: its envelope counts 3 frames, the last 2 are not there"
    assert not bed.query("SELECT 1 FROM toll.stream_holes")


# --- the sum of it all ---

def test_all_of_it_adds_up(bed: Bed) -> None:
    bed.add_up()
