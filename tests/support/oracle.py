"""What the database must hold, worked out from what workers sent: frame by frame, and each session's totals.

Shares no code with toll. Sent frames come from tollsim's records (--record FILE) or from Python frames; both become the same
small records, and compare() counts what is lost, what is there twice, and which totals are wrong.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterable

import frames
from cluster import Database

Record = dict[str, Any]
TOTALS = ("llm_input_tokens", "llm_output_tokens", "llm_calls", "tts_chars", "tts_calls", "stt_audio_us", "stt_calls")
ROW_TYPES = ("llm", "tts", "stt", "usage")


def time_of(us: int) -> datetime:
    """Exactly, unlike datetime.fromtimestamp(us / 1e6)."""
    return datetime.fromtimestamp(us // 1_000_000, timezone.utc).replace(microsecond=us % 1_000_000)


# --- what was sent ---

def read_records(prefix: Path) -> tuple[list[Record], list[dict[str, Any]]]:
    """Everything that tollsim's workers wrote: the frames that libtoll accepted, and each worker's summary."""
    records, summaries = [], []
    for path in sorted(prefix.parent.glob(f"{prefix.name}.*")):
        for line in path.read_text().splitlines():
            made = json.loads(line)
            if "summary" in made:
                summaries.append(made["summary"])
            else:
                records.append(made)
    return records, summaries


def identified(*each: frames.Frame) -> list[frames.Frame]:
    """The frames with all that tells one from another: a time, and a request_id or turn_id, where they have none."""
    made = []
    for one in each:
        one = dict(one)
        if one["type"] in ROW_TYPES:
            one.setdefault("request_id", uuid.uuid4().hex)
        elif one["type"] == "transcript":
            one.setdefault("turn_id", uuid.uuid4().bytes)
        one.setdefault({"session_start": "started_at", "session_end": "ended_at"}.get(one["type"], "occurred_at"), frames.now_us())
        made.append(one)
    return made


def record_of(frame: frames.Frame) -> Record:
    """A Python frame that identified() has been over, as tollsim would have written it."""
    made = {key: str(uuid.UUID(bytes=value)) if isinstance(value, bytes) else value for key, value in frame.items()}
    for key in ("started_at", "ended_at"):
        if key in made:
            made["occurred_at"] = made.pop(key)
    if "char_count" in made:
        made["chars"] = made["char_count"]
    if "audio_duration_ms" in made:
        made["audio_us"] = round(made["audio_duration_ms"] * 1000)
    return made


# --- what must be stored ---

def event_key(record: Record) -> tuple[Any, ...]:
    return (record["request_id"], record.get("session_id"), record["type"], record["occurred_at"], record.get("input_tokens"),
            record.get("output_tokens"), record.get("chars"), record.get("audio_us"), record.get("meter"), record.get("account"))


def transcript_key(record: Record) -> tuple[Any, ...]:
    return (record["session_id"], record.get("turn_id"), record["role"], record["occurred_at"], record["text"],
            bool(record.get("interrupted")))


EVENTS = """SELECT request_id, session_id::text, event_type, (extract(epoch FROM occurred_at) * 1000000)::bigint, input_tokens,
    output_tokens, char_count, round(audio_duration_ms * 1000)::bigint, meter, account FROM billing_events"""
TRANSCRIPTS = """SELECT session_id::text, turn_id::text, role, (extract(epoch FROM occurred_at) * 1000000)::bigint, text, interrupted
    FROM session_transcripts"""
SESSIONS = """SELECT session_id::text, start_missing, ended_at IS NOT NULL AND finish_reason <> 'orphaned',
    finish_reason, (extract(epoch FROM started_at) * 1000000)::bigint, metadata, duplicate_starts, duplicate_ends, llm_input_tokens,
    llm_output_tokens, llm_calls, tts_chars, tts_calls, round(stt_audio_ms * 1000)::bigint, stt_calls, ended_at IS NOT NULL
    FROM billing_sessions"""


def totals_of(records: Iterable[Record]) -> dict[str, int]:
    """What one session's frames add up to."""
    sums = dict.fromkeys(TOTALS, 0)
    for each in records:
        if each["type"] == "llm":
            sums["llm_input_tokens"] += each["input_tokens"]
            sums["llm_output_tokens"] += each["output_tokens"]
            sums["llm_calls"] += 1
        elif each["type"] == "tts":
            sums["tts_chars"] += each["chars"]
            sums["tts_calls"] += 1
        elif each["type"] == "stt":
            sums["stt_audio_us"] += each["audio_us"]
            sums["stt_calls"] += 1
    return sums


@dataclass
class Outcome:
    """What compare() found. Details name a few of the faults."""

    frames: int = 0
    lost: int = 0        # frames without their row, or whose row says something else
    duplicated: int = 0  # rows that no frame accounts for
    wrong_totals: int = 0
    details: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if len(self.details) < 10:
            self.details.append(text)

    @property
    def figures(self) -> str:
        return f"lost {self.lost} duplicated {self.duplicated} wrong_totals {self.wrong_totals}"

    def check(self) -> None:
        assert (self.lost, self.duplicated, self.wrong_totals) == (0, 0, 0), f"{self.figures}\n" + "\n".join(self.details)


def compare(database: Database, records: list[Record]) -> Outcome:
    """Everything in the database against everything that was sent. Sent is a list, so a frame that a worker records twice counts twice."""
    outcome = Outcome(frames=len(records))
    compare_rows(outcome, [event_key(each) for each in records if each["type"] in ROW_TYPES], database.query(EVENTS))
    compare_rows(outcome, [transcript_key(each) for each in records if each["type"] == "transcript"], database.query(TRANSCRIPTS))
    compare_sessions(outcome, records, database.query(SESSIONS))
    return outcome


def compare_rows(outcome: Outcome, sent: list[tuple[Any, ...]], stored: list[tuple[Any, ...]]) -> None:
    lost, surplus = Counter(sent), Counter(stored)
    lost.subtract(stored)
    surplus.subtract(sent)
    for key, count in (+lost).items():
        outcome.lost += count
        outcome.note(f"lost: {key}")
    for key, count in (+surplus).items():
        outcome.duplicated += count
        outcome.note(f"surplus: {key}")


def compare_sessions(outcome: Outcome, records: list[Record], stored: list[tuple[Any, ...]]) -> None:
    sent: dict[str, list[Record]] = defaultdict(list)
    for each in records:
        if each.get("session_id"):
            sent[each["session_id"]].append(each)
    rows = {row[0]: row[1:] for row in stored}
    for session in rows.keys() - sent.keys():
        outcome.duplicated += 1
        outcome.note(f"session {session}: nobody sent anything of it")
    for session, mine in sent.items():
        if session not in rows:
            outcome.lost += 1
            outcome.wrong_totals += 1
            outcome.note(f"session {session}: no row")
        else:
            compare_session(outcome, session, mine, rows[session])


def compare_session(outcome: Outcome, session: str, sent: list[Record], row: tuple[Any, ...]) -> None:
    start_missing, really_ended, reason, started, metadata, more_starts, more_ends, *totals, ended = row
    starts = [each for each in sent if each["type"] == "session_start"]
    ends = [each for each in sent if each["type"] == "session_end"]
    faults = []
    if start_missing != (not starts) or (starts and started != min(each["occurred_at"] for each in starts)):
        faults.append(f"its start: {len(starts)} sent, start_missing {start_missing}, started_at {started}")
    if any(metadata.get(key) is None for each in starts for key in each.get("metadata") or {}):
        faults.append(f"its metadata: {metadata}")
    if really_ended != bool(ends) or (ends and reason not in {each.get("finish_reason", "end") for each in ends}):
        faults.append(f"its end: {len(ends)} sent, finish_reason {reason}")
    if faults:
        outcome.lost += 1
        outcome.note(f"session {session}: {'; '.join(faults)}")
    surplus = more_starts - max(len(starts) - 1, 0) + more_ends - max(len(ends) - 1, 0)
    if surplus > 0:
        outcome.duplicated += surplus
        outcome.note(f"session {session}: {surplus} starts or ends nobody sent")
    expected = list((totals_of(sent) if ended else dict.fromkeys(TOTALS, 0)).values())
    if [int(each) for each in totals] != expected:
        outcome.wrong_totals += 1
        outcome.note(f"session {session}: totals {totals}, its frames add up to {expected}")


# --- what the database says of itself ---

def faults(database: Database) -> dict[str, str]:
    """The checks of toll.verify() that found something wrong, with its words. Stream holes are one of them."""
    return {name: f"{wrong} of {checked}: {detail}" for name, checked, wrong, detail in database.query("SELECT * FROM toll.verify()") if wrong}


def session_facts(database: Database, session: uuid.UUID) -> dict[str, Any]:
    """All of a session's row that does not depend on when or by whom it was stored."""
    columns = ("started_at", "ended_at", "duration_secs", "finish_reason", "llm_input_tokens", "llm_output_tokens", "llm_calls", "tts_chars",
               "tts_calls", "stt_audio_ms", "stt_calls", "metadata", "start_missing", "started_at_reported", "ended_at_reported",
               "duplicate_starts", "duplicate_ends", "raw_json")
    row = database.query(f"SELECT {', '.join(columns)} FROM billing_sessions WHERE session_id = %s", str(session))
    return dict(zip(columns, row[0])) if row else {}


class Ledger:
    """Keeps what Python workers have sent. `ledger.of(frames…)` completes frames and notes them; then send what it returns."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def of(self, *each: frames.Frame) -> list[frames.Frame]:
        made = identified(*each)
        self.records += map(record_of, made)
        return made

    def check(self, database: Database) -> Outcome:
        """Compares, and asks the database too; fails with details."""
        outcome = compare(database, self.records)
        outcome.check()
        wrong = faults(database)
        assert not wrong, wrong
        return outcome
