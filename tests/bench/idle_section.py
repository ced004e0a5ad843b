"""At an idle rate: how long a frame takes from record() until everybody sees its row, and what the daemon costs there."""

from __future__ import annotations

import time

from frame import Bench
from measure import CpuWatch, percentile
from through_toll import Load, Stored, check, finish, make_daemon, measure, words

SECONDS = {"tiny": 10, "short": 40, "long": 220}
RATE = 2000
WORKERS = 4
POLL_S = 0.0005
VARIANTS = {"default batch age": ({}, 150.0), "batch.age = 5ms": ({"batch.age": "5ms"}, 20.0)}


class Seen:
    """When each batch was first visible to another connection. Asked about every millisecond: that is the precision, and never
    too early, for the time is taken when the answer is here."""

    def __init__(self, stored: Stored) -> None:
        self.cursor = stored.cursor
        self.at: dict[int, float] = {}
        self.polls = 0

    def look(self) -> None:
        after = max(self.at, default=0) - 64  # several writers may commit out of order
        self.cursor.execute("SELECT batch_id FROM toll.batches WHERE batch_id > %s", (after,))
        found = self.cursor.fetchall()
        now = time.time()
        self.polls += 1
        for (batch,) in found:
            self.at.setdefault(batch, now)


def one(bench: Bench, config: dict[str, str]) -> dict[str, float]:
    stage = bench.stage
    stage.empty()
    stored = Stored(stage.db)
    daemon = make_daemon(stage.db, config)
    load = None
    try:
        daemon.start()
        load = Load(daemon, *words(workers=WORKERS, frames=int(RATE * bench.size.idle_s), sessions=200, rate=RATE))
        stored.wait(load.ready["frames"])
        seen = Seen(stored)
        watch = CpuWatch(stage.postmaster, {"daemon": daemon.pid}, but=(stored.backend,))
        flow = measure([load], watch, stored, POLL_S, seen.look)
        seen.look()  # what came in between the last look and the end
        over, _ = finish([daemon], [load], stored)
    finally:
        stored.close()
        if load is not None:
            load.close()
        daemon.close()
    check(stage, over)
    rows = stage.db.query("SELECT batch_id, extract(epoch FROM occurred_at)::float8 FROM billing_events")
    took = sorted((seen.at[batch] - at) * 1e3 for batch, at in rows if batch in seen.at)
    events = flow.sent["frames"] - load.ready["frames"]
    if len(took) < events:
        raise RuntimeError(f"{events - len(took)} rows were in no batch that was seen")
    figures = {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "max": took[-1], "poll": flow.seconds / seen.polls * 1e3,
               "daemon": flow.cpu["daemon"] / events * 1e6, "backend": flow.cpu["backend"] / events * 1e6, "worker": flow.cpu["worker"] / events * 1e6,
               "share": flow.cpu["daemon"] / flow.seconds * 100, "datagrams": events / max(1, flow.sent["datagrams"] - load.ready["datagrams"])}
    return figures | {f"thread {name}": used / events * 1e6 for name, used in flow.threads.items()}


def run(bench: Bench) -> None:
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number in range(bench.size.rounds):
        for i, (name, (config, _)) in enumerate(VARIANTS.items()):
            rounds[name].append(one(bench, config))
            bench.progress(f"round {number + 1} of {bench.size.rounds}, {name}: p99 {rounds[name][-1]['p99']:.1f} ms",
                           (number * len(VARIANTS) + i + 1) / bench.size.rounds / len(VARIANTS))
    bench.results["idle"] = rounds
    for name, (_, target) in VARIANTS.items():
        group = f"{RATE:,} events/s, {name}"
        found = rounds[name]

        def add(what: str, key: str, unit: str, target: float | None = None) -> None:
            bench.add(group, what, [each[key] for each in found if key in each], unit, target=target, at_most=True)
        add("record to visible row, p50", "p50", "ms")
        add("record to visible row, p99", "p99", "ms", target)
        add("record to visible row, max", "max", "ms")
        add("  precision: asked every", "poll", "ms")
        add("daemon", "daemon", "us CPU/event")
        for key in sorted({key for each in found for key in each if key.startswith("thread ")}):
            add(f"  of it, {key}", key, "us CPU/event")
        add("daemon, of one core", "share", "%")
        add("PostgreSQL backend", "backend", "us CPU/event")
        add("workers, libtoll included", "worker", "us CPU/event")
