"""What a run of something costs: processors' time of processes, and figures over several rounds. Linux's /proc only."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def threads_cpu_s(pid: int) -> dict[str, float]:
    """Seconds of CPU that each thread of a process has used: main, and the others by name (those of one name added up)."""
    used: dict[str, float] = {}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                name = "main" if task.name == str(pid) else (task / "comm").read_text().strip()
                used[name] = used.get(name, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                continue
    except FileNotFoundError:
        pass
    return used


def cpu_s(pid: int) -> float:
    return sum(threads_cpu_s(pid).values())


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


class CpuWatch:
    """CPU seconds from now on: of named processes, and of a PostgreSQL server's processes, the client backends apart.

    Processes that are gone when it is read count for nothing, so read it before they end."""

    def __init__(self, postmaster: int, programs: dict[str, int] | None = None, but: tuple[int, ...] = ()) -> None:
        self.postmaster = postmaster
        self.programs = programs or {}
        self.but = but  # backends that only watch
        self.before = self._read()

    def _read(self) -> dict[tuple[str, str], float]:
        now: dict[tuple[str, str], float] = {}
        for name, pid in self.programs.items():
            for thread, seconds in threads_cpu_s(pid).items():
                now[name, thread] = seconds
        for pid in children(self.postmaster):
            if pid in self.but:
                continue
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            client = "[local]" in title
            now["backend" if client else "server", f"{pid}"] = cpu_s(pid)
        return now

    def read(self) -> dict[str, float]:
        """Seconds by process: the programs' names, backend (all client backends), server (the server's other processes)."""
        total: dict[str, float] = {}
        for (name, part), seconds in self._read().items():
            total[name] = total.get(name, 0.0) + seconds - self.before.get((name, part), 0.0)
        return total

    def threads(self, program: str) -> dict[str, float]:
        return {thread: seconds - self.before.get((name, thread), 0.0)
                for (name, thread), seconds in self._read().items() if name == program}


@dataclass
class Sample:
    """One run: so many rows, committed and checked, in so many seconds. cpu: seconds, by who used them."""
    rows: int
    seconds: float
    cpu: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    def cpu_us(self, who: str) -> float:
        """CPU microseconds a row."""
        return self.cpu.get(who, 0.0) / self.rows * 1e6


@dataclass
class Spread:
    """Several rounds of one figure."""
    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def as_json(self) -> dict[str, Any]:
        return {"median": self.median, "min": self.low, "max": self.high, "rounds": self.values}


class Series:
    """The rounds of one contender."""

    def __init__(self, samples: list[Sample] | None = None) -> None:
        self.samples: list[Sample] = samples or []

    @property
    def rate(self) -> Spread:
        return Spread([each.rate for each in self.samples])

    def cpu_us(self, who: str) -> Spread:
        return Spread([each.cpu_us(who) for each in self.samples])

    def extra(self, name: str) -> Spread:
        return Spread([float(each.extra[name]) for each in self.samples if name in each.extra])

    def as_json(self) -> dict[str, Any]:
        parts = sorted({who for each in self.samples for who in each.cpu})
        return {"rows": [each.rows for each in self.samples], "rows_per_s": self.rate.as_json(),
                "cpu_us_per_row": {who: self.cpu_us(who).as_json() for who in parts},
                "extra": [each.extra for each in self.samples]}


def percentile(ordered: list[float], share: float) -> float:
    """Of an ascending list."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def fsync_us(directory: Path, times: int = 60) -> Spread:
    """How long the disk takes to make 4 KiB durable, appended to a preallocated file, in microseconds."""
    os.sync()  # what others have written is no part of it
    path = directory / "fsync"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    took = []
    try:
        os.write(fd, bytes(4096 * times))
        os.fsync(fd)
        for i in range(times):
            os.pwrite(fd, os.urandom(4096), 4096 * i)
            began = time.perf_counter()
            os.fdatasync(fd)
            took.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(fd)
        path.unlink()
    return Spread(took)
