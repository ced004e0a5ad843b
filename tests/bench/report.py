"""The table for people, and the JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from frame import Bench, Line
from measure import fsync_us
from through_toll import OWN_QUEUE, QUEUE

SETTINGS = ("fsync", "synchronous_commit", "wal_level", "full_page_writes", "shared_buffers", "max_wal_size", "checkpoint_timeout", "wal_buffers",
            "wal_sync_method", "autovacuum", "autovacuum_naptime", "effective_io_concurrency", "max_connections", "jit")


def machine(bench: Bench) -> dict[str, Any]:
    """What the figures were measured on."""
    cpus = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    db = bench.stage.db
    return {
        "cpu": cpus[0] if cpus else platform.machine(), "cores": os.cpu_count(), "memory_mib": memory // 1024, "kernel": platform.release(),
        "postgresql": db.value("SHOW server_version"), "settings": {name: db.value(f"SHOW {name}") for name in SETTINGS},
        "fsync_us": fsync_us(bench.stage.dir, 200).as_json() | {"rounds": []},
        "max_dgram_qlen": QUEUE if OWN_QUEUE else int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()),
        "load_average_before": os.getloadavg(),
    }


def number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def row(line: Line) -> list[str]:
    spread = f"{number(line.figure.low)} … {number(line.figure.high)}" if len(line.figure.values) > 1 else ""
    ratio = "" if line.ratio is None else f"{line.ratio:.2f} ×"
    target = "" if line.target is None else f"{'≤' if line.at_most else '≥'} {number(line.target)}"
    reached = {True: "yes", False: "NO", None: ""}[line.reached]
    return [line.what, number(line.figure.median), line.unit, spread, ratio, line.reference, target, reached, line.note]


HEADINGS = ["", "median", "", "min … max", "ratio", "of", "to reach", "reached", ""]
RIGHT = {1, 3, 4, 6}


def table(lines: list[Line]) -> str:
    rows = [(line.group, row(line)) for line in lines]
    widths = [max(len(heading), *(len(cells[i]) for _, cells in rows)) for i, heading in enumerate(HEADINGS)]

    def text(cells: list[str]) -> str:
        return "  ".join(cell.rjust(width) if i in RIGHT else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths))).rstrip()
    out = [text(HEADINGS)]
    group = ""
    for name, cells in rows:
        if name != group:
            out += ["", f"— {name} —"]
            group = name
        out.append(text(cells))
    return "\n".join(out)


def as_json(bench: Bench, about: dict[str, Any], seconds: float) -> str:
    return json.dumps({
        "machine": about, "seconds": seconds, "left_out": bench.absent, "wrong": bench.wrong,
        "table": [{"group": line.group, "what": line.what, "figure": line.figure.as_json(), "unit": line.unit, "reference": line.reference,
                   "ratio": line.ratio, "target": line.target, "at_most": line.at_most, "reached": line.reached, "note": line.note}
                  for line in bench.lines],
        "series": {name: series.as_json() for name, series in bench.series.items()},
        "results": bench.results,
    }, indent=1, ensure_ascii=False)
