"""What recording costs the worker: record.c times record(), a bare send() of the same bytes and a bare clock loop side by side."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

from frame import Bench
from stage import clean_env, program

SECONDS = {"tiny": 15, "short": 35, "long": 160}
PHASES = {  # of record.c, and how the table calls them
    "paced_60": "at human pace, 60 a second", "paced_1000": "1,000 a second, worker sleeps between",
    "busy_1000": "1,000 a second, worker computes between", "full": "at full speed", "full_4_threads": "at full speed, 4 threads",
    "frozen_paced_60": "daemon frozen, 60 a second", "frozen": "daemon frozen, at full speed", "frozen_4_threads": "daemon frozen, at full speed, 4 threads",
    "frozen_ring_full": "daemon frozen, ring full", "absent_paced_60": "no daemon, 60 a second", "absent": "no daemon, at full speed",
}
NO_BACKLOG = ("paced_60", "paced_1000", "busy_1000", "full")


def run(bench: Bench) -> None:
    done = subprocess.run([program("record"), "--seconds", f"{bench.size.record_s:g}"], env=clean_env(), capture_output=True, text=True, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"record ended with {done.returncode}\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    bench.results["record"] = report
    bench.progress(f"{len(report['phases'])} phases, a frame of {report['frame_bytes']} bytes", 1.0)
    for phase in report["phases"]:
        if phase["phase"] in PHASES:
            add_phase(bench, phase)
    for phase in report["phases"]:
        if phase["phase"] == "flood":
            group = "record(), workers that flood (daemon without a database)"
            bench.add(group, f"{phase['workers']} workers", [phase["events_per_s"]], "events/s", note=f"{phase['frames_per_datagram']:.0f} frames a datagram")
            bench.add(group, "  a worker's CPU", [phase["cpu_us_per_event"]], "us CPU/event")


def add_phase(bench: Bench, phase: dict[str, Any]) -> None:
    name, record, send, copy, clock = phase["phase"], phase["record"], phase.get("send"), phase.get("copy"), phase["clock"]
    group = f"record(), {PHASES[name]}"
    for key, what in (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")):
        beside: dict[str, Any] = {"reference": "bare send()", "ratio": record[key] / send[key]} if send else {}
        if copy:
            beside = {"note": f"{record[key] / copy[key]:.1f} times a bare copy of the bytes; {record[key] / clock[key]:.0f} times the clock loop, which is warm"}
        if send and name in NO_BACKLOG and key != "p999_us":
            beside |= {"target": 1.3, "at_most": True}
        elif name.startswith("frozen") and key == "p99_us":
            beside |= {"target": 2.0, "at_most": True}
        bench.add(group, what, [record[key]], "us", **beside)
    beside = {"reference": "bare clock loop", "ratio": record["max_us"] / clock["max_us"]} if phase["rate_per_s"] == 0 else {}  # both ran as long
    bench.add(group, "max", [record["max_us"]], "us", **beside)
    if name.startswith("frozen") and phase["rate_per_s"] == 0:
        # As many as the clock loop had in as long a time, and what chance may add to that (three standard deviations).
        expected = clock["over_100us"] * record["in_ms"] / max(clock["in_ms"], 0.001)
        bench.add(group, "calls of more than 100 us", [float(record["over_100us"])], "calls", target=round(expected + 3 * math.sqrt(expected + 1)),
                  at_most=True, note=f"the clock loop had {expected:.0f} in as long a time")
