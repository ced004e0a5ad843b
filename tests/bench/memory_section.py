"""The daemon's memory with many live sessions, each with a call's metadata.

A batch has buffers of its own, which grow with its rows and stay. So that a session's share is not that of larger batches, all sizes are measured with
small batches, which are full at each size; what the default batches add is a line of its own."""

from __future__ import annotations

from pathlib import Path

from frame import Bench
from through_toll import Load, Stored, make_daemon, words

SECONDS = {"tiny": 5, "short": 40, "long": 35}
TARGET = 256
BATCH_ROWS = 2000


def resident(pid: int) -> int:
    """Anonymous resident memory: what the process has of its own, the page cache and its program left out."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def one(bench: Bench, sessions: int, batch_rows: int | None = BATCH_ROWS) -> dict[str, float]:
    """A fresh daemon with so many live sessions, all of them in the table. Killed in the end, for it has nothing to end well."""
    stage = bench.stage
    stage.empty()
    stored = Stored(stage.db)
    daemon = make_daemon(stage.db, {"batch.rows": batch_rows} if batch_rows else None)
    load = None
    try:
        daemon.start()
        idle = resident(daemon.pid)
        load = Load(daemon, *words(sessions=sessions, frames=0))
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
    runs: list[tuple[int, int | None]] = [(sessions, BATCH_ROWS) for sessions in sizes] + [(sizes[1], None)]
    found: dict[tuple[int, int | None], dict[str, float]] = {}
    for i, (sessions, rows) in enumerate(runs):
        found[sessions, rows] = one(bench, sessions, rows)
        bench.progress(f"{sessions:,} live sessions, batches of {rows or 'the default size'}: {found[sessions, rows]['resident'] / 2**20:.1f} MiB",
                       sum(each for each, _ in runs[:i + 1]) / sum(each for each, _ in runs))
    bench.results["memory"] = list(found.values())
    group = "memory of live sessions"
    metadata = found[sizes[0], BATCH_ROWS]["metadata"]
    for sessions in sizes:
        bench.add(group, f"{sessions:,} sessions: anonymous resident memory", [found[sessions, BATCH_ROWS]["resident"] / 2**20], "MiB",
                  note=f"batches of {BATCH_ROWS:,} rows")
    for low, high in zip(sizes, sizes[1:]):
        # what one more session takes, so that what the daemon has anyway is left out
        each = (found[high, BATCH_ROWS]["resident"] - found[low, BATCH_ROWS]["resident"]) / (high - low)
        bench.add(group, f"a session, from {low:,} to {high:,}", [each], "bytes", target=TARGET + metadata, at_most=True,
                  note=f"its metadata: {metadata:.0f} bytes as JSON")
    bench.add(group, "batches of the default size take, once", [(found[sizes[1], None]["resident"] - found[sizes[1], BATCH_ROWS]["resident"]) / 2**20], "MiB")
