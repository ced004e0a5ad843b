#!/usr/bin/python3
"""Writes vectors.jsonl: golden datagrams, and what a reader of the wire format must make of each.

The bytes come from Python's msgpack, or are written out by hand where msgpack has no such value: never from toll's own
encoder, which is tested against them. README.md describes the format of the lines.
"""

import json
import struct
import sys
from pathlib import Path

import msgpack

SESSION = bytes.fromhex("0190a1b2c3d44e5f8a6b7c8d9eafb0c1")
SESSION_TEXT = "0190a1b2-c3d4-4e5f-8a6b-7c8d9eafb0c1"
TURN = bytes.fromhex("11112222333344445555666677778888")
TURN_TEXT = "11112222-3333-4444-5555-666677778888"
STREAM = bytes(range(16))
STREAM_TEXT = "00010203-0405-0607-0809-0a0b0c0d0e0f"
TIME = 1_700_000_000_123_456  # 2023-11-14 22:13:20.123456 UTC

MALFORMED = "malformed msgpack"

vectors: list[dict] = []


def pack(value) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


def pairs(*items: tuple) -> bytes:
    """A map of pairs as they are given, repeated keys included; bytes-like Raw values go in unpacked."""
    size = len(items)
    head = bytes([0x80 | size]) if size < 16 else b"\xde" + struct.pack(">H", size)
    return head + b"".join(raw(key) + raw(value) for key, value in items)


class Raw(bytes):
    """Bytes that are msgpack already."""


def raw(value) -> bytes:
    return bytes(value) if isinstance(value, Raw) else pack(value)


def add(name: str, about: str, data: bytes, *frames: dict, encode: bool = False) -> None:
    vector = {"name": name, "about": about, "hex": data.hex(), "frames": list(frames)}
    if encode:
        vector["encode"] = True
    vectors.append(vector)


def ok(**fields) -> dict:
    return {"frame": fields}


def bad(reason: str) -> dict:
    return {"invalid": reason}


def rest() -> dict:
    return {"malformed": MALFORMED}


# --- every type, as an encoder writes it: only what is required, and everything there is -----------------------

LLM = {"type": "llm", "session_id": SESSION, "provider": "openai", "model": "gpt-4o", "input_tokens": 10, "output_tokens": 5}
LLM_OK = {"type": "llm", "session_id": SESSION_TEXT, "provider": "openai", "model": "gpt-4o", "input_tokens": 10, "output_tokens": 5}
TTS = {"type": "tts", "session_id": SESSION, "provider": "cartesia", "char_count": 42}
TTS_OK = {"type": "tts", "session_id": SESSION_TEXT, "provider": "cartesia", "char_count": 42}
STT = {"type": "stt", "session_id": SESSION, "provider": "deepgram", "audio_duration_ms": 1500}
STT_OK = {"type": "stt", "session_id": SESSION_TEXT, "provider": "deepgram", "audio_duration_us": 1_500_000}
USAGE = {"type": "usage", "session_id": SESSION, "meter": "sms", "quantity": 1}
USAGE_OK = {"type": "usage", "session_id": SESSION_TEXT, "meter": "sms", "quantity": "1"}
SPEECH = {"type": "transcript", "session_id": SESSION, "role": "user", "text": "Hello"}
SPEECH_OK = {"type": "transcript", "session_id": SESSION_TEXT, "role": "user", "text": "Hello"}
START = {"type": "session_start", "session_id": SESSION}
START_OK = {"type": "session_start", "session_id": SESSION_TEXT}
END = {"type": "session_end", "session_id": SESSION}
END_OK = {"type": "session_end", "session_id": SESSION_TEXT, "finish_reason": "end"}
ENVELOPE = {"type": "stream", "id": STREAM, "seq": 7, "base": 3, "count": 0}
ENVELOPE_OK = {"type": "stream", "id": STREAM_TEXT, "seq": 7, "base": 3, "count": 0}


def types() -> None:
    add("session_start", "the least", pack(START), ok(**START_OK), encode=True)
    add("session_start_full", "with a time and metadata",
        pack({**START, "started_at": TIME, "metadata": {"user_id": "u_42", "tier": 2, "vip": True}}),
        ok(**START_OK, time_us=TIME, metadata={"user_id": "u_42", "tier": 2, "vip": True}), encode=True)
    add("session_end", "the reason's default is end; an encoder leaves it out", pack(END), ok(**END_OK))
    add("session_end_full", "with a time and a reason",
        pack({**END, "ended_at": TIME, "finish_reason": "cancel"}),
        ok(**{**END_OK, "time_us": TIME, "finish_reason": "cancel"}), encode=True)
    add("llm", "the least", pack(LLM), ok(**LLM_OK), encode=True)
    add("llm_full", "every key; durations that are no whole milliseconds are floats",
        pack({"type": "llm", "session_id": SESSION, "occurred_at": TIME, "provider": "openai", "model": "gpt-4o",
              "input_tokens": 2000, "output_tokens": 300, "estimated": True, "cached_input_tokens": 1024,
              "cache_write_tokens": 100, "audio_input_tokens": 500, "cached_audio_tokens": 200,
              "audio_output_tokens": 250, "reasoning_tokens": 64, "turn_id": TURN, "agent": "triage",
              "request_id": "req_1", "ttfb_ms": 312.5, "duration_ms": 1250, "interrupted": False,
              "raw": {"id": "chatcmpl-1", "logprobs": None}}),
        ok(type="llm", session_id=SESSION_TEXT, time_us=TIME, provider="openai", model="gpt-4o", input_tokens=2000,
           output_tokens=300, estimated=True, cached_input_tokens=1024, cache_write_tokens=100,
           audio_input_tokens=500, cached_audio_tokens=200, audio_output_tokens=250, reasoning_tokens=64,
           turn_id=TURN_TEXT, agent="triage", request_id="req_1", ttfb_us=312_500, duration_us=1_250_000,
           interrupted=False, raw_json={"id": "chatcmpl-1", "logprobs": None}), encode=True)
    add("tts", "the least", pack(TTS), ok(**TTS_OK), encode=True)
    add("tts_full", "every key",
        pack({"type": "tts", "session_id": SESSION, "occurred_at": TIME, "provider": "elevenlabs",
              "model": "turbo-2.5", "voice": "Алиса", "char_count": 420, "audio_duration_ms": 2500.125,
              "input_tokens": 80, "output_tokens": 900, "turn_id": TURN, "agent": "triage", "request_id": "req_2",
              "ttfb_ms": 90, "duration_ms": 700, "interrupted": True, "raw": {"fmt": "pcm16"}}),
        ok(type="tts", session_id=SESSION_TEXT, time_us=TIME, provider="elevenlabs", model="turbo-2.5", voice="Алиса",
           char_count=420, audio_duration_us=2_500_125, input_tokens=80, output_tokens=900, turn_id=TURN_TEXT,
           agent="triage", request_id="req_2", ttfb_us=90_000, duration_us=700_000, interrupted=True,
           raw_json={"fmt": "pcm16"}), encode=True)
    add("stt", "the least", pack(STT), ok(**STT_OK), encode=True)
    add("stt_full", "every key",
        pack({"type": "stt", "session_id": SESSION, "occurred_at": TIME, "provider": "deepgram", "model": "nova-3",
              "audio_duration_ms": 3200.001, "input_tokens": 32, "output_tokens": 12, "turn_id": TURN,
              "language": "ru", "request_id": "req_3", "ttfb_ms": 150, "duration_ms": 3300, "raw": {"words": [1, 2]}}),
        ok(type="stt", session_id=SESSION_TEXT, time_us=TIME, provider="deepgram", model="nova-3",
           audio_duration_us=3_200_001, input_tokens=32, output_tokens=12, turn_id=TURN_TEXT, language="ru",
           request_id="req_3", ttfb_us=150_000, duration_us=3_300_000, raw_json={"words": [1, 2]}), encode=True)
    add("usage", "the least, of a session", pack(USAGE), ok(**USAGE_OK), encode=True)
    add("usage_account", "of an account instead", pack({"type": "usage", "meter": "storage_mb", "quantity": 512.5, "account": "acme"}),
        ok(type="usage", meter="storage_mb", quantity="512.5", account="acme"), encode=True)
    add("usage_full", "every key",
        pack({"type": "usage", "session_id": SESSION, "occurred_at": TIME, "meter": "telephony_inbound_minutes",
              "quantity": 0.1, "account": "acme", "provider": "twilio", "model": "local", "turn_id": TURN,
              "agent": "triage", "request_id": "CA1", "duration_ms": 6000, "raw": {"from": "+1"}}),
        ok(type="usage", session_id=SESSION_TEXT, time_us=TIME, meter="telephony_inbound_minutes", quantity="0.1",
           account="acme", provider="twilio", model="local", turn_id=TURN_TEXT, agent="triage", request_id="CA1",
           duration_us=6_000_000, raw_json={"from": "+1"}), encode=True)
    add("transcript", "the least", pack(SPEECH), ok(**SPEECH_OK), encode=True)
    add("transcript_full", "every key",
        pack({"type": "transcript", "session_id": SESSION, "occurred_at": TIME, "role": "assistant",
              "text": "Здравствуйте! 您好 👋", "turn_id": TURN, "language": "ru", "interrupted": True}),
        ok(type="transcript", session_id=SESSION_TEXT, time_us=TIME, role="assistant", text="Здравствуйте! 您好 👋",
           turn_id=TURN_TEXT, language="ru", interrupted=True), encode=True)
    add("gap", "the least", pack({"type": "gap", "count": 3}), ok(type="gap", count=3), encode=True)
    add("gap_full", "every key",
        pack({"type": "gap", "session_id": SESSION, "count": 3, "since": TIME, "until": TIME + 1}),
        ok(type="gap", session_id=SESSION_TEXT, count=3, since_us=TIME, until_us=TIME + 1), encode=True)
    add("stream", "the least; an envelope may come alone", pack(ENVELOPE), ok(**ENVELOPE_OK), encode=True)
    add("stream_full", "every key, and the frame it is for",
        pack({**ENVELOPE, "count": 1, "client": "libtoll/0.1.0"}) + pack(TTS),
        ok(**{**ENVELOPE_OK, "count": 1, "client": "libtoll/0.1.0"}), ok(**TTS_OK))


# --- ids, times, numbers, flags ---------------------------------------------------------------------------------

def ids() -> None:
    add("uuid_text", "an id as text", pack({**TTS, "session_id": SESSION_TEXT}), ok(**TTS_OK))
    add("uuid_text_upper", "in upper case", pack({**TTS, "session_id": SESSION_TEXT.upper()}), ok(**TTS_OK))
    add("uuid_nil", "the nil UUID is a UUID", pack({**TTS, "session_id": bytes(16)}),
        ok(**{**TTS_OK, "session_id": "00000000-0000-0000-0000-000000000000"}), encode=True)
    add("uuid_bin_15", "", pack({**TTS, "session_id": SESSION[:15]}), bad("tts: session_id: expected 16 bytes, got 15"))
    add("uuid_bin_17", "", pack({**TTS, "session_id": SESSION + b"\0"}), bad("tts: session_id: expected 16 bytes, got 17"))
    for name, text in {"short": SESSION_TEXT[:35], "long": SESSION_TEXT + "0", "bare": SESSION.hex(), "dashes": SESSION_TEXT.replace("-", "_"),
                       "digit": "g" + SESSION_TEXT[1:], "empty": "", "moved_dash": "0190a1b-2c3d4-4e5f-8a6b-7c8d9eafb0c1"}.items():
        add(f"uuid_text_{name}", "", pack({**TTS, "session_id": text}), bad("tts: session_id: not a UUID"))
    add("uuid_integer", "", pack({**TTS, "session_id": 5}), bad("tts: session_id: expected a UUID"))
    add("uuid_turn", "the same for turn_id", pack({**TTS, "turn_id": [1]}), bad("tts: turn_id: expected a UUID (16 bytes of binary data, or a string), got an array"))
    add("stream_id_text", "a stream's id is binary only", pack({**ENVELOPE, "id": STREAM_TEXT}),
        bad("stream: id: expected 16 bytes of binary data, got a string"))


def stamp(payload: bytes, kind: int = -1) -> Raw:
    sizes = {1: 0xd4, 2: 0xd5, 4: 0xd6, 8: 0xd7, 16: 0xd8}
    head = bytes([sizes[len(payload)]]) if len(payload) in sizes else b"\xc7" + bytes([len(payload)])
    return Raw(head + struct.pack("b", kind) + payload)


def times() -> None:
    def at(value) -> bytes:
        items = list(TTS.items())
        return pairs(*items[:2], ("occurred_at", value), *items[2:])  # where the encoder puts it

    good = {
        "int": (TIME, TIME, "integers are µs"),
        "zero": (0, 0, "the epoch"),
        "negative": (-1, -1, "before the epoch"),
        "int_max": (2**63 - 1, 2**63 - 1, ""),
        "int_beyond": (2**63, 2**63 - 1, "saturates"),
        "int_min": (-(2**63), -(2**63) + 1, "saturates: the least integer means no time"),
        "float": (1700000000.5, 1_700_000_000_500_000, "floats are seconds"),
        "float_negative": (-0.25, -250_000, ""),
        "float_rounds": (0.0000015, 2, "to whole µs, half away from zero"),
        "float32": (Raw(b"\xca" + struct.pack(">f", 1.5)), 1_500_000, ""),
        "float_huge": (1e300, 2**63 - 1, "saturates"),
        "float_huge_negative": (-1e300, -(2**63) + 1, "saturates"),
        "timestamp32": (stamp(struct.pack(">I", 1_700_000_000)), 1_700_000_000_000_000, ""),
        "timestamp64": (stamp(struct.pack(">Q", 123_456_789 << 34 | 1_700_000_000)), TIME, "nanoseconds are cut off"),
        "timestamp96": (stamp(struct.pack(">Iq", 999_999_999, -1)), -1, "1 ns before the epoch"),
        "timestamp96_huge": (stamp(struct.pack(">Iq", 0, 2**63 - 1)), 2**63 - 1, "saturates"),
        "timestamp96_huge_negative": (stamp(struct.pack(">Iq", 0, -(2**63))), -(2**63) + 1, "saturates"),
    }
    for name, (value, us, about) in good.items():
        add(f"time_{name}", about, at(value), ok(**TTS_OK, time_us=us), encode=name in ("zero", "negative", "int_max"))
    wrong = {
        "nan": (float("nan"), "tts: occurred_at: not a finite number"),
        "infinity": (float("inf"), "tts: occurred_at: not a finite number"),
        "minus_infinity": (float("-inf"), "tts: occurred_at: not a finite number"),
        "text": ("2023-11-14T22:13:20Z", "tts: occurred_at: expected a time (integer, float or timestamp), got a string"),
        "bool": (True, "tts: occurred_at: expected a time (integer, float or timestamp), got a boolean"),
        "other_ext": (stamp(bytes(4), kind=5), "tts: occurred_at: expected a time (integer, float or timestamp), got an extension"),
        "timestamp_size": (stamp(bytes(5)), "tts: occurred_at: expected a time (integer, float or timestamp), got an extension"),
        "timestamp64_nanoseconds": (stamp(struct.pack(">Q", 1_000_000_000 << 34)), "tts: occurred_at: a timestamp of 1000000000 nanoseconds"),
        "timestamp96_nanoseconds": (stamp(struct.pack(">Iq", 2**32 - 1, 0)), "tts: occurred_at: a timestamp of 4294967295 nanoseconds"),
    }
    for name, (value, reason) in wrong.items():
        add(f"time_{name}", "", at(value), bad(reason))
    add("time_nil", "nil is as good as absent: the receive time", at(None), ok(**TTS_OK))
    add("time_of_another_type", "started_at means nothing to tts, so it is an unknown key", pairs(*TTS.items(), ("started_at", 5)),
        ok(**TTS_OK, raw_json={"started_at": 5}))


def numbers() -> None:
    def count(value) -> bytes:
        return pairs(*list(TTS.items())[:-1], ("char_count", value))

    add("count_zero", "", count(0), ok(**{**TTS_OK, "char_count": 0}), encode=True)
    add("count_max", "", count(2**31 - 1), ok(**{**TTS_OK, "char_count": 2**31 - 1}), encode=True)
    add("count_signed_form", "a positive number may stand in a signed form", count(Raw(b"\xd3" + struct.pack(">q", 7))), ok(**{**TTS_OK, "char_count": 7}))
    add("count_above", "", count(2**31), bad("tts: char_count: 2147483648 is above 2147483647"))
    add("count_uint64_max", "", count(2**64 - 1), bad("tts: char_count: 18446744073709551615 is above 2147483647"))
    add("count_below", "", count(-1), bad("tts: char_count: -1 is below 0"))
    add("count_int64_min", "", count(-(2**63)), bad("tts: char_count: -9223372036854775808 is below 0"))
    add("count_float", "not even an integral one", count(5.0), bad("tts: char_count: expected an integer, got a float"))
    add("count_text", "", count("5"), bad("tts: char_count: expected an integer, got a string"))
    add("count_bool", "", count(True), bad("tts: char_count: expected an integer, got a boolean"))
    add("count_nil", "nil is as good as absent, and this key is required", count(None), bad("tts: char_count is missing"))
    add("llm_tokens_above", "", pack({**LLM, "input_tokens": 2**31}), bad("llm: input_tokens: 2147483648 is above 2147483647"))

    def ms(value) -> bytes:
        return pairs(*list(STT.items())[:-1], ("audio_duration_ms", value))

    def us(value: int) -> dict:
        return ok(**{**STT_OK, "audio_duration_us": value})

    limit = 2**51 - 1
    add("duration_zero", "", ms(0), us(0), encode=True)
    add("duration_float", "", ms(0.5), us(500), encode=True)
    add("duration_one_us", "", ms(0.001), us(1), encode=True)
    add("duration_float_whole", "a float that is whole is as good as the integer", ms(1500.0), us(1_500_000))
    add("duration_rounds_up", "to whole µs, half away from zero", ms(0.0005), us(1))
    add("duration_rounds_down", "", ms(0.00049), us(0))
    add("duration_float32", "", ms(Raw(b"\xca" + struct.pack(">f", 2.5))), us(2500))
    add("duration_minus_zero", "", ms(-0.0), us(0))
    add("duration_max", "2^51 - 1 µs", ms(limit / 1000), us(limit), encode=True)
    add("duration_above", "", ms((limit + 1) / 1000), bad("stt: audio_duration_ms: 2251799813685.248 is above 2251799813685.247"))
    add("duration_int_above", "", ms(2**63), bad("stt: audio_duration_ms: 9.2233720368547758e+18 is above 2251799813685.247"))
    add("duration_below", "", ms(-1), bad("stt: audio_duration_ms: -1 is below 0"))
    add("duration_float_below", "", ms(-0.5), bad("stt: audio_duration_ms: -0.5 is below 0"))
    add("duration_nan", "", ms(float("nan")), bad("stt: audio_duration_ms: not a finite number"))
    add("duration_infinity", "", ms(float("inf")), bad("stt: audio_duration_ms: not a finite number"))
    add("duration_text", "", ms("1500"), bad("stt: audio_duration_ms: expected a number, got a string"))
    add("duration_ttfb", "every duration has the same rules", pack({**LLM, "ttfb_ms": -2}), bad("llm: ttfb_ms: -2 is below 0"))

    def quantity(value) -> bytes:
        return pairs(*list(USAGE.items())[:-1], ("quantity", value))

    def is_(text: str) -> dict:
        return ok(**{**USAGE_OK, "quantity": text})

    for name, value, text in (("zero", 0, "0"), ("fraction", 0.1, "0.1"), ("third", 1 / 3, "0.3333333333333333"),
                              ("huge", 1e21, "1e+21"), ("tiny", 5e-324, "5e-324"), ("float_max", sys.float_info.max, "1.7976931348623157e+308"),
                              ("exact", 2**53, "9007199254740992")):
        add(f"quantity_{name}", "", quantity(value), is_(text), encode=True)
    add("quantity_uint64_max", "integers stay exact", quantity(2**64 - 1), is_("18446744073709551615"))
    add("quantity_float_whole", "", quantity(3.0), is_("3"))
    add("quantity_minus_zero", "", quantity(-0.0), is_("0"))
    add("quantity_below", "", quantity(-1), bad("usage: quantity: -1 is below 0"))
    add("quantity_nan", "", quantity(float("nan")), bad("usage: quantity: not a finite number"))
    add("quantity_infinity", "", quantity(float("inf")), bad("usage: quantity: not a finite number"))
    add("quantity_text", "", quantity("3"), bad("usage: quantity: expected a number, got a string"))

    add("bool_integer", "1 is not true", pack({**LLM, "estimated": 1}), bad("llm: estimated: expected a boolean, got an integer"))
    add("bool_false", "the default, said aloud", pack({**LLM, "estimated": False}), ok(**LLM_OK))
    add("interrupted_false", "llm and tts tell false from nothing said", pack({**TTS, "interrupted": False}), ok(**TTS_OK, interrupted=False), encode=True)
    add("interrupted_transcript_false", "a transcript does not", pack({**SPEECH, "interrupted": False}), ok(**SPEECH_OK))
    add("gap_count_max", "2^63 - 1", pack({"type": "gap", "count": 2**63 - 1}), ok(type="gap", count=2**63 - 1), encode=True)
    add("gap_count_above", "", pack({"type": "gap", "count": 2**63}), bad("gap: count: 9223372036854775808 is above 9223372036854775807"))


# --- strings ----------------------------------------------------------------------------------------------------

def text_of(data: bytes) -> Raw:
    head = bytes([0xa0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)]) if len(data) < 256 else b"\xda" + struct.pack(">H", len(data))
    return Raw(head + data)


def strings() -> None:
    def say(data: bytes) -> bytes:
        return pairs(*list(SPEECH.items())[:-1], ("text", text_of(data)))

    for name, data, mended in (("nul", b"a\0b", "a\ufffdb"), ("lone_byte", b"a\xffb", "a\ufffdb"),
                               ("continuation", b"\x80\x80", "\ufffd\ufffd"),
                               ("overlong", b"\xc0\xaf", "\ufffd\ufffd"), ("overlong_3", b"\xe0\x80\xaf", "\ufffd\ufffd\ufffd"),
                               ("surrogate", b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
                               ("beyond", b"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"), ("cut", b"x\xe2\x82", "x\ufffd"),
                               ("cut_in_front", b"\xf0\x9f\x91x", "\ufffdx"), ("last_plane", b"\xf4\x8f\xbf\xbf", "\U0010ffff")):
        counted = {} if "\ufffd" not in mended else {"replaced": 1}
        add(f"text_{name}", "mended and kept" if counted else "", say(data), ok(**{**SPEECH_OK, "text": mended}, **counted))
    add("text_empty", "", say(b""), ok(**{**SPEECH_OK, "text": ""}), encode=True)
    add("text_long", "a text may be longer than a name", say(b"x" * 300), ok(**{**SPEECH_OK, "text": "x" * 300}), encode=True)
    add("text_binary", "", pack({**SPEECH, "text": b"Hello"}), bad("transcript: text: expected a string, got binary data"))
    add("text_twice_mended", "two strings of one frame", pairs(*list(SPEECH.items())[:-1], ("text", text_of(b"\xff")), ("language", text_of(b"r\0"))),
        ok(**{**SPEECH_OK, "text": "\ufffd", "language": "r\ufffd"}, replaced=2))
    add("name_max", "256 bytes", pack({**TTS, "voice": "v" * 256}), ok(**TTS_OK, voice="v" * 256))
    add("name_above", "257 bytes", pack({**TTS, "voice": "v" * 257}), bad("tts: voice: 257 bytes are more than 256"))
    add("name_bytes", "bytes count, not characters", pack({**TTS, "voice": "ж" * 129}), bad("tts: voice: 258 bytes are more than 256"))
    add("name_integer", "", pack({**LLM, "provider": 5}), bad("llm: provider: expected a string, got an integer"))
    add("name_mended", "", pairs(*TTS.items(), ("voice", text_of(b"v\xff"))), ok(**TTS_OK, voice="v\ufffd", replaced=1))
    add("name_empty", "", pack({**TTS, "provider": ""}), ok(**{**TTS_OK, "provider": ""}), encode=True)
    for role in ("User", "system", ""):
        add(f"role_{role or 'empty'}", "", pack({**SPEECH, "role": role}), bad('transcript: role: must be "user" or "assistant"'))
    add("account_above", "", pack({"type": "usage", "meter": "sms", "quantity": 1, "account": "a" * 257}), bad("usage: account: 257 bytes are more than 256"))


# --- rules that tie keys together, and keys themselves -----------------------------------------------------------

def rules() -> None:
    for frame in (START, END, LLM, TTS, STT, SPEECH, {"type": "gap", "count": 1}, ENVELOPE):
        for key in frame:
            if key != "type":
                add(f"{frame['type']}_without_{key}", "", pack({k: v for k, v in frame.items() if k != key}), bad(f"{frame['type']}: {key} is missing"))
    for key in ("meter", "quantity"):
        add(f"usage_without_{key}", "", pack({k: v for k, v in USAGE.items() if k != key}), bad(f"usage: {key} is missing"))
    add("usage_of_nobody", "", pack({"type": "usage", "meter": "sms", "quantity": 1}), bad("usage: session_id or account is missing"))
    add("usage_nil_account", "", pack({"type": "usage", "meter": "sms", "quantity": 1, "account": None}), bad("usage: session_id or account is missing"))

    def llm(**tokens) -> bytes:
        return pack({**LLM, "input_tokens": 100, "output_tokens": 50, **tokens})

    def tokens_ok(**tokens) -> dict:
        return ok(**{**LLM_OK, "input_tokens": 100, "output_tokens": 50, **tokens})

    for name, tokens in (("all_cached", {"cached_input_tokens": 100}), ("all_audio_cached", {"cached_input_tokens": 100, "audio_input_tokens": 100, "cached_audio_tokens": 100}),
                         ("just_fit", {"cached_input_tokens": 60, "cache_write_tokens": 10, "audio_input_tokens": 50, "cached_audio_tokens": 20}),
                         ("all_output", {"audio_output_tokens": 50, "reasoning_tokens": 50})):
        add(f"subsets_{name}", "", llm(**tokens), tokens_ok(**tokens), encode=True)
    for name, tokens, reason in (
            ("cached", {"cached_input_tokens": 101}, "llm: cached + cache_write + audio_input - cached_audio tokens: 101 is above input_tokens, which is 100"),
            ("sum", {"cached_input_tokens": 60, "cache_write_tokens": 11, "audio_input_tokens": 50, "cached_audio_tokens": 20}, "llm: cached + cache_write + audio_input - cached_audio tokens: 101 is above input_tokens, which is 100"),
            ("sum_huge", {"cached_input_tokens": 2**31 - 1, "cache_write_tokens": 2**31 - 1, "audio_input_tokens": 2**31 - 1}, "llm: cached + cache_write + audio_input - cached_audio tokens: 6442450941 is above"),
            ("cached_audio_of_cached", {"cached_input_tokens": 1, "audio_input_tokens": 9, "cached_audio_tokens": 2}, "llm: cached_audio_tokens: 2 is above cached_input_tokens, which is 1"),
            ("cached_audio_of_audio", {"cached_input_tokens": 9, "audio_input_tokens": 1, "cached_audio_tokens": 2}, "llm: cached_audio_tokens: 2 is above audio_input_tokens, which is 1"),
            ("cached_audio_alone", {"cached_audio_tokens": 1}, "llm: cached_audio_tokens: 1 is above cached_input_tokens, which is 0"),
            ("audio_output", {"audio_output_tokens": 51}, "llm: audio_output_tokens: 51 is above output_tokens, which is 50"),
            ("reasoning", {"reasoning_tokens": 51}, "llm: reasoning_tokens: 51 is above output_tokens, which is 50")):
        add(f"subsets_{name}_above", "", llm(**tokens), bad(reason))

    top = 2**62 - 1
    def envelope(**numbers) -> bytes:
        return pack({**ENVELOPE, **numbers})

    def envelope_ok(seq: int, base: int, count: int) -> dict:
        return ok(type="stream", id=STREAM_TEXT, seq=seq, base=base, count=count)

    for name, n in (("first", (1, 1, 1)), ("last", (top, 1, 1)), ("end", (top, top, 0)), ("many", (1, 1, 65536))):
        add(f"stream_{name}", "", envelope(seq=n[0], base=n[1], count=n[2]), envelope_ok(*n), encode=True)
    for name, n, reason in (("base_zero", (1, 0, 1), "stream: base: 0 is below 1"), ("seq_zero", (0, 0, 1), "stream: base: 0 is below 1"),
                            ("base_above_seq", (6, 7, 1), "stream: base: 7 is above seq, which is 6"),
                            ("seq_above", (top + 1, 1, 0), "stream: seq: 4611686018427387904 is above 4611686018427387903"),
                            ("seq_uint64_max", (2**64 - 1, 1, 0), "stream: seq: 18446744073709551615 is above"),
                            ("sum_above", (top, 1, 2), "stream: seq + count: 4611686018427387905 is above 4611686018427387904"),
                            ("count_above", (1, 1, 65537), "stream: count: 65537 is above 65536")):
        add(f"stream_{name}", "", envelope(seq=n[0], base=n[1], count=n[2]), bad(reason))
    add("stream_float", "", envelope(seq=7.0), bad("stream: seq: expected an integer, got a float"))
    add("stream_negative", "", envelope(count=-1), bad("stream: count: -1 is below 0"))
    add("stream_unknown_key", "is passed over", envelope(later={"a": [1, 2]}), ok(**ENVELOPE_OK))
    add("stream_repeated_unknown_key", "", pairs(*ENVELOPE.items(), ("x", 1), ("y", 1), ("x", 2)), bad('stream: repeated key "x"'))
    add("stream_many_unknown_keys", "seventeen", envelope(**{f"k{i}": i for i in range(17)}), bad("stream: more than 16 unknown keys"))
    add("stream_not_first", "invalid, though each frame is well-formed and the decoder takes both: the reader of the datagram refuses the second",
        pack(TTS) + pack(ENVELOPE), ok(**TTS_OK), ok(**ENVELOPE_OK))


def keys() -> None:
    add("keys_any_order", "", pack(dict(reversed(LLM.items()))), ok(**LLM_OK))
    add("key_unknown", "is kept", pack({**LLM, "mood": {"a": [1, None, 2.5]}}), ok(**LLM_OK, raw_json={"mood": {"a": [1, None, 2.5]}}))
    add("key_unknown_nil", "is kept too", pack({**TTS, "mood": None}), ok(**TTS_OK, raw_json={"mood": None}))
    add("key_unknown_beside_raw", "", pack({**LLM, "raw": {"a": 1}, "b": 2}), ok(**LLM_OK, raw_json={"a": 1, "b": 2}))
    add("key_unknown_in_raw_too", "the frame's own key is renamed", pack({**LLM, "raw": {"a": 1}, "a": 2}), ok(**LLM_OK, raw_json={"a": 1, "frame.a": 2}))
    add("key_renamed_taken", "and the new name has to be free", pack({**LLM, "raw": {"a": 1, "frame.a": 2}, "a": 3}), bad('llm: repeated key "frame.a"'))
    add("key_of_another_type", "raw means nothing to a transcript", pack({**SPEECH, "raw": {"a": 1}}), ok(**SPEECH_OK, raw_json={"raw": {"a": 1}}))
    add("key_unknown_session_start", "metadata and unknown keys stay apart", pack({**START, "metadata": {"a": 1}, "b": 2}), ok(**START_OK, metadata={"a": 1}, raw_json={"b": 2}))
    add("key_unknown_mended", "", pairs(*TTS.items(), (text_of(b"k\xff"), text_of(b"\0"))), ok(**TTS_OK, raw_json={"k\ufffd": "\ufffd"}, replaced=2))
    add("map_empty", "nothing to keep", pack({**START, "metadata": {}}), ok(**START_OK))
    add("map_nil", "", pack({**START, "metadata": None}), ok(**START_OK))
    add("map_array", "", pack({**START, "metadata": [1]}), bad("session_start: metadata: expected a map, got an array"))
    add("raw_text", "", pack({**LLM, "raw": "{}"}), bad("llm: raw: expected a map, got a string"))
    add("json_forms", "binary data, timestamps, other extensions, NaN and infinities, keys that are no strings",
        pairs(*START.items(), ("metadata", Raw(pairs(("bin", b"\x00\xff"), ("time", stamp(struct.pack(">Iq", 500_000_000, -1))), ("ext", stamp(b"\x01", kind=5)),
              ("nan", float("nan")), ("inf", float("inf")), ("minf", float("-inf")), (1, "int"), (True, "bool"), (None, "nil"), (1.5, "float"), (b"\x01", "bin"))))),
        ok(**START_OK, metadata={"bin": "AP8=", "time": -0.5, "ext": {"ext": 5, "data": "AQ=="}, "nan": "NaN", "inf": "Infinity", "minf": "-Infinity",
                                 "1": "int", "true": "bool", "null": "nil", "1.5": "float", "AQ==": "bin"}))
    add("repeated_key", "", pairs(*TTS.items(), ("char_count", 42)), bad('tts: repeated key "char_count"'))
    add("repeated_key_nil", "even where one is nil", pairs(("voice", None), *TTS.items(), ("voice", "v")), bad('tts: repeated key "voice"'))
    add("repeated_type", "", pairs(*TTS.items(), ("type", "tts")), bad('tts: repeated key "type"'))
    add("repeated_type_stream", "", pairs(*ENVELOPE.items(), ("type", "tts")), bad('stream: repeated key "type"'))
    add("repeated_unknown_key", "", pairs(*TTS.items(), ("x", 1), ("y", 2), ("x", 1)), bad('tts: repeated key "x"'))
    add("repeated_key_mended", "the same once mended", pairs(*TTS.items(), (text_of(b"\xff"), 1), (text_of(b"\xfe"), 1)), bad("tts: repeated key"))
    add("repeated_metadata_key", "", pairs(*START.items(), ("metadata", Raw(pairs(("a", 1), ("b", 2), ("a", 3))))), bad('session_start: metadata: repeated key "a"'))
    add("repeated_nested_key", "", pairs(*START.items(), ("metadata", Raw(pairs(("a", Raw(b"\x91" + pairs(("b", 1), ("b", 1)))))))), bad('session_start: metadata: repeated key "b"'))
    add("repeated_raw_key", "", pairs(*LLM.items(), ("raw", Raw(pairs(("a", 1), ("a", 1))))), bad('llm: raw: repeated key "a"'))
    add("repeated_key_as_json", "1 and \"1\" are one key in JSON", pairs(*START.items(), ("metadata", Raw(pairs((1, 1), ("1", 1))))), bad('session_start: metadata: repeated key "1"'))
    add("key_integer", "", pairs(*TTS.items(), (5, 1)), bad("tts: a key is an integer, not a string"))
    add("key_binary", "", pairs((b"type", 1), *TTS.items()), bad("tts: a key is binary data, not a string"))
    add("key_map", "in metadata", pairs(*START.items(), ("metadata", Raw(pairs((Raw(b"\x80"), 1))))), bad("session_start: metadata: a key is a map or an array"))
    add("type_unknown", "", pack({"type": "fax", "pages": 3}), bad('unknown type "fax"'))
    add("type_unprintable", "", pairs(("type", text_of(b'a"\n\xff'))), bad('unknown type "a\\x22\\x0a\\xff"'))
    add("type_with_nul", "a NUL is a character like others", pack({**ENVELOPE, "type": "stream\0"}), bad('unknown type "stream\\x00"'))
    add("type_of_nuls", "", pack({**TTS, "type": "tts\0\0"}), bad('unknown type "tts\\x00\\x00"'))
    add("type_empty", "", pack({"type": ""}), bad('unknown type ""'))
    add("type_missing", "", pack({k: v for k, v in TTS.items() if k != "type"}), bad("type is missing"))
    add("type_nil", "", pack({**TTS, "type": None}), bad("type is missing"))
    add("type_integer", "", pack({**TTS, "type": 3}), bad("type: expected a string, got an integer"))
    add("map_without_pairs", "", b"\x80", bad("type is missing"))


# --- datagrams ---------------------------------------------------------------------------------------------------

def datagrams() -> None:
    tts = pack(TTS)
    for name, value, kind in (("array", [1], "an array"), ("integer", 5, "an integer"), ("negative", -5, "an integer"), ("nil", None, "nil"), ("text", "llm", "a string"),
                              ("float", 1.5, "a float"), ("bool", False, "a boolean"), ("binary", b"", "binary data")):
        add(f"top_{name}", "a value that is no map is a bad frame; its neighbours are kept", tts + pack(value) + tts, ok(**TTS_OK), bad(f"expected a map, got {kind}"), ok(**TTS_OK))
    add("empty", "a datagram of no bytes holds no frames", b"")
    add("two_frames", "", tts + pack(LLM), ok(**TTS_OK), ok(**LLM_OK))
    add("bad_between_good", "", tts + pack({"type": "fax"}) + tts, ok(**TTS_OK), bad('unknown type "fax"'), ok(**TTS_OK))
    add("map16", "longer forms than needed are well-formed", b"\xde\x00\x04" + tts[1:], ok(**TTS_OK))
    add("map32", "", b"\xdf\x00\x00\x00\x04" + tts[1:], ok(**TTS_OK))
    add("str32", "", pairs(*list(TTS.items())[:2], ("provider", Raw(b"\xdb\x00\x00\x00\x08cartesia")), ("char_count", Raw(b"\xcf" + struct.pack(">Q", 42)))), ok(**TTS_OK))
    add("bin32", "", pairs(("type", "tts"), ("session_id", Raw(b"\xc6\x00\x00\x00\x10" + SESSION)), *list(TTS.items())[2:]), ok(**TTS_OK))
    add("reserved_byte", "0xc1", tts + b"\xc1" + tts, ok(**TTS_OK), rest())
    add("trailing_garbage", "a head without its body", tts + b"\xda\xff\xff!", ok(**TTS_OK), rest())
    add("truncated", "", tts + tts[:-1], ok(**TTS_OK), rest())
    add("bomb_array32", "", tts + bytes.fromhex("ddffffffff"), ok(**TTS_OK), rest())
    add("bomb_map32", "", tts + bytes.fromhex("dfffffffff"), ok(**TTS_OK), rest())
    add("bomb_array16", "", bytes.fromhex("dcffff") + bytes(100), rest())
    add("bomb_map_half", "a map of n pairs needs 2n bytes", bytes.fromhex("de0003") + bytes(5), rest())
    add("bomb_str32", "", bytes.fromhex("dbffffffff") + b"x" * 50, rest())
    add("bomb_bin32", "", bytes.fromhex("c6ffffffff") + b"x" * 50, rest())
    add("bomb_ext32", "", bytes.fromhex("c9ffffffff05") + b"x" * 50, rest())
    add("bomb_inside", "", pairs(*TTS.items(), ("x", Raw(bytes.fromhex("dd7fffffff")))), rest())
    add("nested_arrays_4000", "well-formed, so it ends somewhere, and its neighbours are kept", tts + b"\x91" * 4000 + b"\xc0" + tts,
        ok(**TTS_OK), bad("nested deeper than 8"), ok(**TTS_OK))
    add("nested_arrays_4000_open", "the innermost is missing", tts + b"\x91" * 4000, ok(**TTS_OK), rest())

    def nested(levels: int) -> bytes:
        return pairs(*TTS.items(), ("x", Raw(b"\x91" * (levels - 2) + b"\x90")))

    deepest = []
    for _ in range(6):
        deepest = [deepest]
    add("nested_8", "the frame's map counts", nested(8), ok(**TTS_OK, raw_json={"x": deepest}))
    add("nested_9", "", nested(9) + tts, bad("nested deeper than 8"), ok(**TTS_OK))
    add("nested_9_stream", "", pairs(*ENVELOPE.items(), ("x", Raw(b"\x91" * 7 + b"\x90"))), bad("nested deeper than 8"))


def main() -> None:
    for part in (types, ids, times, numbers, strings, rules, keys, datagrams):
        part()
    names = [vector["name"] for vector in vectors]
    assert len(names) == len(set(names)), "names repeat"
    lines = (json.dumps(vector, ensure_ascii=True) for vector in vectors)
    Path(__file__).with_name("vectors.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
