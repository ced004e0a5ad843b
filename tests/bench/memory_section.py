"""The daemon's memory with many live sessions, each with a call's metadata, and without."""

from __future__ import annotations

from pathlib import Path

from frame import Bench
from through_toll import Load, Stored, make_daemon, words

SECONDS = {"tiny": 5, "short": 35, "long": 90}
TARGET = 256


def resident(pid: int) -> int:
    """Anonymous resident memory: what the process has of its own, the page cache and its program left out."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def one(bench: Bench, sessions: int, bare: bool) -> dict[str, float]:
    """A fresh daemon with so many live sessions, all of them in the table. Killed in the end, for it has nothing to end well."""
    stage = bench.stage
    stage.empty()
    stored = Stored(stage.db)
    daemon = make_daemon(stage.db)
    load = None
    try:
        daemon.start()
        idle = resident(daemon.pid)
        load = Load(daemon, *words(sessions=sessions, frames=0, bare=bare))
        stored.wait(sessions)
        if daemon.status()["sessions_live"] < sessions:
            raise RuntimeError("not all sessions are in memory")
        bytes_ = resident(daemon.pid)
        metadata = stage.db.value("SELECT avg(octet_length(metadata::text)) FROM (SELECT metadata FROM billing_sessions LIMIT 1000) AS live")
    finally:
        stored.close()
        if load is not None:
            load.close()
        daemon.close()
    return {"sessions": sessions, "idle": idle, "resident": bytes_, "metadata": float(metadata)}


def run(bench: Bench) -> None:
    sizes = bench.size.live_sessions
    runs = [(sessions, False) for sessions in sizes] + [(sizes[0], True), (sizes[1], True)]
    found: dict[tuple[int, bool], dict[str, float]] = {}
    for i, (sessions, bare) in enumerate(runs):
        found[sessions, bare] = one(bench, sessions, bare)
        bench.progress(f"{sessions:,} live sessions{' without metadata' if bare else ''}: {found[sessions, bare]['resident'] / 2**20:.1f} MiB",
                       sum(each for each, _ in runs[:i + 1]) / sum(each for each, _ in runs))
    bench.results["memory"] = list(found.values())
    group = "memory of live sessions"
    metadata = found[sizes[0], False]["metadata"]
    for sessions in sizes:
        bench.add(group, f"{sessions:,} sessions: anonymous resident memory", [found[sessions, False]["resident"] / 2**20], "MiB")

    def each(low: int, high: int, bare: bool) -> list[float]:
        """Bytes that one more session takes between two sizes, so that what the daemon has anyway is left out."""
        return [(found[high, bare]["resident"] - found[low, bare]["resident"]) / (high - low)]
    for low, high in zip(sizes, sizes[1:]):
        bench.add(group, f"a session, from {low:,} to {high:,}", each(low, high, False), "bytes", target=TARGET + metadata, at_most=True,
                  note=f"its metadata: {metadata:.0f} bytes as JSON")
    bench.add(group, f"a session without metadata, from {sizes[0]:,} to {sizes[1]:,}", each(sizes[0], sizes[1], True), "bytes",
              target=TARGET, at_most=True)
