"""What the sections of the benchmark share: sizes, progress, alternating rounds, and the lines of the table."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Sequence

from measure import Series, Spread
from stage import Absent, Contender, Stage, WrongRows


@dataclass(frozen=True)
class Size:
    """How much is measured. long: what issue-size figures need; short: what fits into ten minutes."""
    rounds: int
    frames: int                     # of a run under load
    most_frames: int                # of a run of what is quickest, \copy and toll coalesced: beginning and end shall count for little
    least_s: float                  # such a run takes that long, else it is made longer, and the other runs under load with it
    aside_frames: int               # of a run of other numbers of workers
    event_workers: tuple[int, ...]  # toll, events only
    insert_rows: dict[str, int]     # of a run of a slower way, by way
    rival_rows: int                 # of a run of the quickest of the other collectors
    idle_s: float                   # of each round
    record_s: float                 # of each phase
    live_sessions: tuple[int, ...]
    backlog: int
    stored: tuple[int, ...]         # events in the table
    concurrent: tuple[int, ...]     # sessions
    growth_rounds: int


INSERT_ROWS = {"row": 600, "row_transaction": 2000, "upsert": 400, "upsert_transaction": 1000, "multi": 10_000, "unnest": 20_000}
SIZES = {
    "tiny": Size(1, 10_000, 10_000, 0, 10_000, (4,), {way: min(rows, 2000) for way, rows in INSERT_ROWS.items()}, 2000, 1, 0.5, (1000, 2000), 20_000, (20_000, 40_000), (200, 1000), 1),
    "short": Size(5, 160_000, 320_000, 2, 40_000, (4,), INSERT_ROWS, 7000, 3, 1.5, (10_000, 100_000, 1_000_000), 500_000, (300_000, 1_200_000), (1000, 100_000), 1),
    "long": Size(7, 300_000, 1_000_000, 2, 300_000, (1, 4, 16), {way: 5 * rows for way, rows in INSERT_ROWS.items()}, 50_000, 15, 10, (10_000, 100_000, 1_000_000), 10_000_000,
                 (1_000_000, 10_000_000, 50_000_000), (1000, 100_000), 5),
}


@dataclass
class Line:
    """A line of the table. Where there is a reference the target is for the ratio, else for the figure."""
    group: str
    what: str
    figure: Spread
    unit: str
    reference: str = ""
    ratio: float | None = None
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        found = self.figure.median if self.ratio is None else self.ratio
        return found <= self.target if self.at_most else found >= self.target


class Bench:
    """One run of the benchmark. Sections add lines, series and results to it."""

    def __init__(self, stage: Stage, size: Size, estimates: dict[str, float], only: str = "") -> None:
        self.stage, self.size, self.only = stage, size, only
        self.lines: list[Line] = []
        self.series: dict[str, Series] = {}
        self.results: dict[str, Any] = {}
        self.absent: list[str] = []
        self.wrong: list[str] = []
        self._left = dict(estimates)  # seconds that each section yet to come may take
        self._section = ""
        self._began = self._section_began = time.monotonic()

    # --- progress ---

    def begin(self, section: str) -> None:
        self._section, self._section_began = section, time.monotonic()
        self._expected = self._left.pop(section)

    def progress(self, text: str, done: float | None = None) -> None:
        """A line about what was just done; done: the part of the section that is behind, where that is known."""
        spent = time.monotonic() - self._section_began
        rest = max(0.0, self._expected - spent) if done is None or done < 0.05 else spent / done - spent
        left = rest + sum(self._left.values())
        print(f"[{clock(time.monotonic() - self._began)}, {clock(left)} left] {self._section}: {text}", flush=True)

    # --- rounds ---

    def alternate(self, contenders: Sequence[Contender], rounds: int | None = None) -> None:
        """Every contender once a round, each round beginning with another one; adds the series, by name. One that stores wrong rows
        gets none, and is noted."""
        rounds = rounds or self.size.rounds
        playing = [each for each in contenders if re.search(self.only, each.name)]
        done = 0
        for number in range(rounds):
            first = number * 5 % len(playing) if playing else 0
            for each in playing[first:] + playing[:first]:
                try:
                    each.start()
                    self.stage.fresh() if getattr(each, "wants_sessions", True) else self.stage.empty()
                    sample = each.run()
                except (Absent, WrongRows) as reason:
                    playing.remove(each)
                    self.series.pop(each.name, None)
                    (self.absent if isinstance(reason, Absent) else self.wrong).append(f"{each.name}: {reason}")
                    self.progress(f"{each.name} is left out: {reason}")
                    continue
                finally:
                    each.close()
                self.series.setdefault(each.name, Series()).samples.append(sample)
                done += 1
                self.progress(f"round {number + 1} of {rounds}, {each.name}: {sample.rate:,.0f} rows/s", done / (rounds * len(playing)))

    # --- lines ---

    def rate(self, group: str, name: str, reference: str = "", target: float | None = None, note: str = "") -> None:
        """A line about a series' rows a second, beside another's; nothing where one of them is missing."""
        if name not in self.series or (reference and reference not in self.series):
            return
        rate = self.series[name].rate
        ratio = rate.median / self.series[reference].rate.median if reference else None
        self.lines.append(Line(group, name, rate, "rows/s", reference, ratio, target, note=note))

    def cpu(self, group: str, what: str, name: str, who: str, target: float | None = None, note: str = "") -> None:
        """A line about the CPU that a row of a series costs somebody."""
        if name in self.series:
            self.lines.append(Line(group, what, self.series[name].cpu_us(who), "us CPU/row", target=target, at_most=True, note=note))

    def add(self, group: str, what: str, values: Sequence[float], unit: str, **more: Any) -> None:
        if values:
            self.lines.append(Line(group, what, Spread(list(values)), unit, **more))


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
