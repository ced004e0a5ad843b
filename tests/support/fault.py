"""What every fault test shares: its seed and length, the one oracle at its end, and the line it prints.

    TOLL_SEED=7 make check T=outage     repeats a run           make fault      the long version of all

The oracle: what senders sent and were told is durable = what the journals hold = rows, once each, and totals = sum of events.
"""

from __future__ import annotations

import math
import os
import random
from typing import Any, Iterable, Mapping, Sequence, TypeVar
from uuid import UUID

import journalfiles
import oracle
from cluster import Database
from daemon import Daemon

LONG = os.environ.get("TOLL_LONG") == "1"
# A commit is judged by the same faults each time; the long version looks for new ones.
SEED = int(os.environ.get("TOLL_SEED") or (random.SystemRandom().randrange(2**31) if LONG else 1))

T = TypeVar("T")


def choose(short: T, long: T) -> T:
    """How much of it: the short version belongs to `make test`, the long one to `make fault`."""
    return long if LONG else short


def rng(name: str) -> random.Random:
    """A test's own source of chance. Prints the seed, so that a failure can be repeated."""
    print(f"seed {SEED} (TOLL_SEED={SEED} repeats it)")
    return random.Random(f"{SEED} {name}")


def percentiles(samples: Sequence[float], *which: float) -> dict[str, float]:
    """Nearest-rank percentiles, as {"p50": …, "max": …}; the largest is always among them."""
    ordered = sorted(samples)
    made = {f"p{each:g}": ordered[max(0, math.ceil(each / 100 * len(ordered)) - 1)] for each in which or (50, 99)}
    return made | {"max": ordered[-1]}


def shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {shown(each)}" for key, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report(name: str, outcome: oracle.Outcome, **figures: Any) -> None:
    """Prints the fault's line, and fails unless nothing is lost, twice or wrong. A figure may be a mapping (percentiles)."""
    words = [name, outcome.figures, *(f"{figure} {shown(value)}" for figure, value in figures.items())]
    print(" ".join(words))
    outcome.check()


def judge(database: Database, records: list[oracle.Record], daemons: Iterable[Daemon] = (), *,
          acknowledged: Mapping[bytes, int] | None = None, holes: bool = False) -> oracle.Outcome:
    """The oracle, once everything received is stored. `records`: all that must be stored, from a Ledger or read_records().

    acknowledged: by stream id, the number up to which a sender was told that its frames are durable. daemons: all that took
    part; their journals must hold the numbers that the database says are stored, as far as the logs reach. holes: streams may
    have some, for a worker died with frames that nobody had taken.
    """
    outcome = oracle.compare(database, records)
    stored = stored_numbers(database)
    for stream, number in (acknowledged or {}).items():
        mine = next((seen for (_, id_), seen in stored.items() if id_ == str(UUID(bytes=stream))), set())
        missing = set(range(1, number + 1)) - mine
        if missing:
            outcome.lost += len(missing)
            outcome.note(f"acknowledged and not stored: {sorted(missing)[:5]} … of stream {stream.hex()}")
    compare_journals(outcome, list(daemons), stored)
    faults = oracle.faults(database)
    if holes:
        faults.pop("stream_holes", None)
    assert not faults, faults
    return outcome


def stored_numbers(database: Database) -> dict[journalfiles.Stream, set[int]]:
    """What toll.streams says is stored, by stream."""
    made: dict[journalfiles.Stream, set[int]] = {}
    for uid, stream, first, end in database.query(
            "SELECT uid, stream_id::text, lower(r), upper(r) FROM toll.streams, unnest(seen) AS r"):
        made.setdefault((uid, stream), set()).update(range(first, end))
    return made


def compare_journals(outcome: oracle.Outcome, daemons: list[Daemon], stored: dict[journalfiles.Stream, set[int]]) -> None:
    states = [each.state for each in daemons]
    if not states:
        return
    journaled = journalfiles.numbers(*states)
    for stream, mine in journaled.items():
        missing = mine - stored.get(stream, set())
        outcome.lost += len(missing)
        if missing:
            outcome.note(f"journaled and not stored: {sorted(missing)[:5]} … of stream {stream}")
    if all(map(journalfiles.is_whole, states)):
        for stream, mine in stored.items():
            surplus = mine - journaled.get(stream, set())
            outcome.duplicated += len(surplus)
            if surplus:
                outcome.note(f"stored and never journaled: {sorted(surplus)[:5]} … of stream {stream}")


def settle(daemons: Daemon | Sequence[Daemon], frames: int | None = None, seconds: float = 60) -> None:
    """Waits until everything the daemons have received is stored."""
    for each in [daemons] if isinstance(daemons, Daemon) else daemons:
        each.wait_stored(frames, seconds)


__all__ = ["LONG", "SEED", "choose", "judge", "percentiles", "report", "rng", "settle"]
