"""Several daemons, each with its own journal and workers, into one PostgreSQL."""

from __future__ import annotations

from frame import Bench
from through_toll import ThroughToll

SECONDS = {"tiny": 6, "short": 17, "long": 22}
DAEMONS = (1, 2, 4)


def name(daemons: int) -> str:
    return f"{daemons} daemon{'s' if daemons > 1 else ''}, one database"


def run(bench: Bench) -> None:
    """The same number of events and workers in all, whatever the number of daemons."""
    bench.alternate([ThroughToll(bench.stage, name(n), daemons=n, workers=4 // n, send="coalesced", frames=bench.size.frames // n,
                                 sessions=1000 // n) for n in DAEMONS], bench.size.rounds // 2 + 1)
    for n in DAEMONS:
        group = "several daemons (events, 4 workers in all, coalesced)"
        bench.rate(group, name(n), name(1) if n > 1 else "")
        bench.cpu(group, "  PostgreSQL backends", name(n), "backend")
        bench.cpu(group, "  daemons", name(n), "daemon")
