"""Rating beside storing: what storing at full speed loses to it, and how many events a second it rates, beside the load and alone."""

from __future__ import annotations

import time

from credit_section import prepare
from frame import Bench
from harness import migrate, wait_until
from measure import CpuWatch
from through_toll import Load, Stored, finish, make_daemon, measure, words

SECONDS = {"tiny": 15, "short": 45, "long": 400}
OFF, ON = "storing alone", "storing, with rating on"


def one(bench: Bench, rating: bool) -> dict[str, float]:
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
    rounds: dict[str, list[dict[str, float]]] = {OFF: [], ON: []}
    count = max(1, bench.size.rounds // 2 + 1)
    for number in range(count):
        for i, name in enumerate(rounds):
            rounds[name].append(one(bench, name == ON))
            bench.progress(f"round {number + 1} of {count}, {name}: {rounds[name][-1]['stored']:,.0f} frames/s",
                           (2 * number + i + 1) / count / 2)
    bench.results["rating"] = rounds
    group = "rating keeps up"
    off = sorted(each["stored"] for each in rounds[OFF])[len(rounds[OFF]) // 2]
    on = sorted(each["stored"] for each in rounds[ON])[len(rounds[ON]) // 2]
    bench.add(group, OFF, [each["stored"] for each in rounds[OFF]], "frames/s")
    bench.add(group, ON, [each["stored"] for each in rounds[ON]], "frames/s", reference=OFF, ratio=on / off, target=0.9,
              note="where a core is free for it")
    bench.add(group, "rated beside storing", [each["beside"] for each in rounds[ON]], "events/s")
    bench.add(group, "rated afterwards", [each["alone"] for each in rounds[ON] if "alone" in each], "events/s")
    bench.add(group, "from the first frame to the last line", [each["rated"] for each in rounds[ON]], "events/s")
