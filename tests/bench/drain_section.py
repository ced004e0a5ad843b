"""PostgreSQL away while events arrive, then the daemon killed: how fast the journal takes them, how soon a new daemon stores
again, and how fast it drains the backlog, beside the live rate."""

from __future__ import annotations

import statistics
import time

from frame import Bench
from load_section import SENDS, toll
from measure import CpuWatch, Series
from through_toll import Load, Stored, ThroughToll, check, finish, make_daemon, words

SECONDS = {"tiny": 20, "short": 40, "long": 120}


def backlog(bench: Bench, frames: int, writers: int = 1) -> dict[str, float]:
    stage, cluster = bench.stage, bench.stage.cluster
    stage.empty()
    stored = Stored(stage.db)
    daemon = make_daemon(stage.db, {"database.retry_max": "1s", "database.writers": writers})
    load = None
    try:
        daemon.start()
        load = Load(daemon, *words(send="coalesced", frames=frames))
        before = load.ready["frames"]
        stored.wait(before)
        stored.close()
        lsn = daemon.status()["durable_lsn"]
        cluster.stop()
        load.tell()
        sent = load.line()
        journal = daemon.status()["durable_lsn"] - lsn
        daemon.kill()
        cluster.start()
        stored = Stored(stage.db)
        bench.progress(f"{frames:,} events are in the journal: {frames / sent['seconds']:,.0f} a second", 0.4)

        began = time.perf_counter()
        daemon.start(ready_seconds=600)
        ready = time.perf_counter() - began
        watch = CpuWatch(stage.postmaster, {"daemon": daemon.pid}, but=(stored.backend,))
        first = None
        while (now := stored.frames()) < sent["frames"]:
            if first is None and now > before:
                first = time.perf_counter(), now
            elif first is None and time.perf_counter() - began > 120:
                raise TimeoutError("nothing of the backlog was stored in two minutes")
            time.sleep(0.005)
        ended = time.perf_counter()
        cpu = watch.read()
        assert first is not None
        over, _ = finish([daemon], [load], stored)
    finally:
        if not cluster.running:
            cluster.start()
        stored.close()
        if load is not None:
            load.close()
        daemon.close()
    check(stage, over)
    return {"journaled": frames / sent["seconds"], "journal_bytes": journal / frames, "ready_s": ready, "first_s": first[0] - began,
            "rate": (sent["frames"] - first[1]) / (ended - first[0]), "daemon": cpu["daemon"] / frames * 1e6, "worker": sent["cpu_s"] / frames * 1e6}


def run(bench: Bench) -> None:
    frames = bench.size.backlog
    live = ThroughToll(bench.stage, toll(False, 4, "coalesced") + f", {min(frames, 1_000_000):,} events", send="coalesced", frames=min(frames, 1_000_000))
    rounds = 1 if frames > 1_000_000 else max(1, bench.size.rounds // 2)
    found, by_two = [], []
    for number in range(rounds):
        bench.stage.empty()
        bench.series.setdefault(live.name, Series()).samples.append(live.run())
        found.append(backlog(bench, frames))
        by_two.append(backlog(bench, frames, 2))
        bench.progress(f"round {number + 1} of {rounds}: drained at {found[-1]['rate']:,.0f} rows/s, by two writers at {by_two[-1]['rate']:,.0f},"
                       f" live {bench.series[live.name].samples[-1].rate:,.0f}", (number + 1) / rounds)
    bench.results["drain"] = found
    bench.results["drain, two writers"] = by_two
    rate = bench.series[live.name].rate
    group = f"an outage: {frames:,} events wait, {SENDS['coalesced']}"
    bench.add(group, "live, events/s", rate.values, "rows/s")
    bench.add(group, "taken into the journal meanwhile", [each["journaled"] for each in found], "frames/s", note="acknowledged, on disk")
    bench.add(group, "daemon killed, started again: ready after", [each["ready_s"] * 1e3 for each in found], "ms")
    bench.add(group, "  first rows of the backlog visible after", [each["first_s"] * 1e3 for each in found], "ms")
    drained = [each["rate"] for each in found]
    bench.add(group, "drained", drained, "rows/s", reference="live", ratio=statistics.median(drained) / rate.median, target=0.9)
    halves = [each["rate"] for each in by_two]  # no worker is at work meanwhile: cores are free
    bench.add(group, "drained by two writers", halves, "rows/s", reference="one writer", ratio=statistics.median(halves) / statistics.median(drained),
              target=1.35)
    bench.add(group, "daemon while draining", [each["daemon"] for each in found], "us CPU/row")
    bench.add(group, "journal", [each["journal_bytes"] for each in found], "bytes/event")
