"""Rating beside storing: what storing at full speed loses to it, and how many events a second it rates, beside the load and alone."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Iterator

from credit_section import prepare
from frame import Bench
from harness import Database, migrate, wait_until
from measure import CpuWatch
from through_toll import Load, Stored, finish, make_daemon, measure, words

SECONDS = {"tiny": 25, "short": 80, "long": 75}
OFF, ON = "storing alone", "storing, with rating on"
OFF_ONE, ON_OTHER = "storing alone, on one core", "storing on one core, rating on the other"
WAYS = {OFF: (False, False), ON: (True, False), OFF_ONE: (False, True), ON_OTHER: (True, True)}  # rating, apart
CORES = sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def on_one_core(bench: Bench) -> Iterator[None]:
    """What is started meanwhile runs on the first core: daemon, workers and PostgreSQL's backends."""
    pids = (0, bench.stage.postmaster)
    try:
        for pid in pids:
            os.sched_setaffinity(pid, CORES[:1])
        yield
    finally:
        for pid in pids:
            os.sched_setaffinity(pid, CORES)


def free_core_for_rating(db: Database) -> None:
    """For its backend alone."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tolld-rating'"
    wait_until(lambda: db.query(query), 30, "rating to be connected")
    os.sched_setaffinity(db.value(query), CORES[-1:])


def one(bench: Bench, rating: bool, apart: bool) -> dict[str, float]:
    db = bench.stage.cluster.create_database()
    migrate(db.dsn)
    prepare(db)
    stored = Stored(db)
    daemon = make_daemon(db, {"rating.enabled": "yes" if rating else "no"})
    load = None
    try:
        daemon.start()
        load = Load(daemon, *words(frames=bench.size.frames, calls=True))
        stored.wait(load.ready["frames"])
        if rating and apart:
            free_core_for_rating(db)
        watch = CpuWatch(bench.stage.postmaster, {"daemon": daemon.pid}, but=(stored.backend,))
        began = time.monotonic()
        flow = measure([load], watch, stored)
        frames = flow.sent["frames"] - load.ready["frames"]
        figures = {"stored": frames / flow.seconds}
        if rating:
            beside = daemon.status()["events_rated"]
            wait_until(lambda: not db.query("SELECT 1 FROM toll.rating_backlog() WHERE waits"), 300, "everything to be rated", every=0.02)
            status, seconds = daemon.status(), time.monotonic() - began
            alone = seconds - flow.seconds
            figures |= {"rated": status["events_rated"] / seconds, "beside": beside / flow.seconds}
            if alone > 0.2:
                figures["alone"] = (status["events_rated"] - beside) / alone
        finish([daemon], [load], stored)
    finally:
        stored.close()
        if load is not None:
            load.close()
        daemon.close()
        db.drop()
    return figures


def run(bench: Bench) -> None:
    ways = {name: way for name, way in WAYS.items() if len(CORES) > 1 or not way[1]}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    count = max(1, bench.size.rounds // 2 + 1)
    for number in range(count):
        for i, (name, (rating, apart)) in enumerate(ways.items()):
            with on_one_core(bench) if apart else contextlib.nullcontext():
                rounds[name].append(one(bench, rating, apart))
            bench.progress(f"round {number + 1} of {count}, {name}: {rounds[name][-1]['stored']:,.0f} frames/s",
                           (number * len(ways) + i + 1) / count / len(ways))
    bench.results["rating"] = rounds
    group = "rating keeps up"
    for off, on, target, note in ((OFF, ON, None, "all of it on the same cores"), (OFF_ONE, ON_OTHER, 0.9, "where a core is free for it")):
        if off not in rounds:
            continue
        alone, beside = ([each["stored"] for each in rounds[name]] for name in (off, on))
        bench.add(group, off, alone, "frames/s")
        bench.add(group, on, beside, "frames/s", reference=off, ratio=sorted(beside)[count // 2] / sorted(alone)[count // 2], target=target, note=note)
        bench.add(group, "  rated meanwhile", [each["beside"] for each in rounds[on]], "events/s")
    bench.add(group, "rated afterwards", [each["alone"] for name in (ON, ON_OTHER) for each in rounds.get(name, []) if "alone" in each], "events/s")
    bench.add(group, "from the first frame to the last line", [each["rated"] for each in rounds[ON]], "events/s")
