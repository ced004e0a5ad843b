"""How many rows a second, under load: toll, PostgreSQL's own COPY and INSERT, and other collectors, all into the same tables."""

from __future__ import annotations

import math

import rivals
from contenders import Copy, Insert
from frame import Bench
from stage import Absent, Contender
from through_toll import ThroughToll, has_option

SECONDS = {"tiny": 40, "short": 330, "long": 600}
COPY = {1: r"\copy", 2: r"\copy, 2 connections"}
CEILING = {1: r"\copy, trigger off", 2: r"\copy, trigger off, 2 connections"}
CALL_WORKERS = (1, 4, 16)
SENDS = {"coalesced": "coalesced", "single": "one frame a datagram"}
INSERTS = {  # way: name, mode of insert.c, rows in a transaction
    "row": ("INSERT a row, prepared, each by itself", "row", 0),
    "row_transaction": ("INSERT a row, prepared, 1,000 a transaction", "row", 1000),
    "upsert": ("upsert and INSERT, each by itself", "upsert", 0),
    "upsert_transaction": ("upsert and INSERT, 1,000 a transaction", "upsert", 1000),
    "multi": ("INSERT of 100 rows, prepared", "multi", 0),
    "unnest": ("INSERT … unnest of 1,000", "unnest", 0),
}


def toll(calls: bool, workers: int, send: str, writers: int = 1) -> str:
    """The name of a contender."""
    return (f"toll, {'call mix' if calls else 'events'}, {workers} worker{'s' if workers > 1 else ''}, {SENDS[send]}"
            + (f", {writers} writers" if writers > 1 else ""))


def make_rows(bench: Bench, times: int = 1) -> int:
    """Makes the rows that everybody stores. Returns how many times as many as the size says, so that a run takes long enough."""
    size = bench.size
    bench.stage.empty()
    seconds = ThroughToll(bench.stage, "", workers=4, send="coalesced", frames=times * size.most_frames, sessions=min(1000, size.frames // 10),
                          keep=True).run().seconds
    bench.progress(f"made the rows: {bench.stage.rows:,} events with {len(bench.stage.columns)} columns")
    return make_rows(bench, min(8, math.ceil(size.least_s / seconds))) if times == 1 and seconds < size.least_s else times


def run(bench: Bench) -> None:
    stage, size = bench.stage, bench.size
    times = make_rows(bench)
    contenders: list[Contender] = [Copy(stage, COPY[n], connections=n) for n in COPY]
    contenders += [Copy(stage, CEILING[n], connections=n, trigger=False) for n in CEILING]
    writers = [1] + ([2] if has_option(stage, "database.writers", 2) else [])
    for calls in (False, True):
        for send in SENDS:
            for workers in CALL_WORKERS if calls else size.event_workers:
                for n in writers if workers == 4 and (send == "coalesced" or len(size.event_workers) > 1) else [1]:
                    contenders.append(ThroughToll(stage, toll(calls, workers, send, n), workers=workers, send=send, calls=calls,
                                                  frames=times * (size.aside_frames if workers != 4 else size.frames if send == "single"
                                                                  else size.most_frames),
                                                  sessions=min(1000, size.frames // 10),
                                                  config={"database.writers": n} if n > 1 else {}))
    for way, (name, mode, transaction) in INSERTS.items():
        contenders.append(Insert(stage, name, mode, size.insert_rows[way], transaction))
    try:
        others = rivals.contenders(stage, size.rival_rows)
    except Absent as reason:
        bench.absent.append(str(reason))
        others = []
    bench.results["rivals"] = [each.name for each in others]
    contenders += others
    bench.alternate(contenders)
    lines(bench)


def lines(bench: Bench) -> None:
    group = "rows stored, of events"
    for n in (1, 2):
        bench.rate(group, COPY[n], note="the rows as they are, foreign key's trigger on")
        bench.rate(group, CEILING[n], COPY[n], note="the ceiling")
    for send in SENDS:
        for workers in bench.size.event_workers:
            bench.rate(group, toll(False, workers, send), COPY[1], 2.0)
    for send in SENDS:
        bench.rate(group, toll(False, 4, send, 2), COPY[2], 2.0)
    for send in SENDS:
        bench.rate("toll and the ceiling", toll(False, 4, send), CEILING[1], 0.95)
        bench.rate("toll and the ceiling", toll(False, 4, send, 2), CEILING[2], 0.95)
    for send in SENDS:
        bench.rate("toll and the ceiling", toll(True, 4, send), CEILING[1], 0.85)
        bench.rate("toll and the ceiling", toll(True, 4, send, 2), CEILING[2], 0.85)
    for send in SENDS:
        for workers in CALL_WORKERS:
            bench.rate("rows stored, of whole calls", toll(True, workers, send), COPY[1], 1.6)
        bench.rate("rows stored, of whole calls", toll(True, 4, send, 2), COPY[2], 1.6)
    for calls in (False, True):
        for send in SENDS:
            bench.rate("two writers and one", toll(calls, 4, send, 2), toll(calls, 4, send), 1.35)

    best = toll(False, 4, "coalesced")
    targets = {"row_transaction": 15.0, "upsert_transaction": 30.0, "unnest": 2.0}
    group = "toll (events, 4 workers, coalesced) and others"
    for way, (name, _, _) in INSERTS.items():
        versus(bench, group, best, name, targets.get(way))
    for name in bench.results.get("rivals", []):
        target = 10.0 if "syslog-ng" in name else 8.0 if "4 workers" in name else 15.0
        versus(bench, group, best, name, target)

    for send, target in (("coalesced", 0.8), ("single", 1.8)):
        for calls in (False, True):
            name = toll(calls, 4, send)
            group = f"CPU of a row, {'whole calls' if calls else 'events'}, {SENDS[send]}"
            bench.cpu(group, "daemon", name, "daemon", target)
            if name in bench.series:
                threads = sorted({each for sample in bench.series[name].samples for each in sample.extra["threads_us"]})
                for thread in threads:
                    bench.add(group, f"  of it, thread {thread}", [sample.extra["threads_us"].get(thread, 0.0) for sample in bench.series[name].samples],
                              "us CPU/row")
            bench.cpu(group, "PostgreSQL backend", name, "backend")
            bench.cpu(group, "PostgreSQL, other processes", name, "server")
            bench.cpu(group, "workers, libtoll included", name, "worker")
            if name in bench.series:
                bench.add(group, "journal, bytes a frame", bench.series[name].extra("journal_bytes_per_frame").values, "bytes")
                bench.add(group, "frames a datagram", bench.series[name].extra("frames_per_datagram").values, "frames")
    for name in (COPY[1], CEILING[1], INSERTS["unnest"][0], INSERTS["row_transaction"][0]):
        bench.cpu("CPU of a row, others: PostgreSQL backend", name, name, "backend")


def versus(bench: Bench, group: str, toll_name: str, name: str, target: float | None) -> None:
    """A line about another's rate, and how many times as fast toll is."""
    if name in bench.series and toll_name in bench.series:
        rate = bench.series[name].rate
        bench.add(group, name, rate.values, "rows/s", reference="toll is so many times as fast",
                  ratio=bench.series[toll_name].rate.median / rate.median, target=target)
