"""The daemon's backend is terminated, or its statement cancelled, again and again, in the middle of its batches: COPY, COMMIT and all else."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Any, Callable
from uuid import UUID

import pytest

import fault
import oracle
from harness import SLOWNESS, Cluster, Daemon, Database, Sim, make_dir, migrate, remove_dir

TIMES = fault.choose(25, 600)
RATE = int(fault.choose(6000, 2500) / SLOWNESS)  # frames per second of all workers
PLACES = ["", "COPY public.billing_events%", "COPY public.session_transcripts%", "COPY %", "COMMIT", "UPDATE toll.journals%", "%toll.streams%",
          "%sessions%"]


@pytest.fixture
def db(own_cluster: Cluster) -> Database:
    """On a server that syncs: else no commit lasts long enough to be hit."""
    made = own_cluster.create_database()
    migrate(made.dsn)
    return made


class Terminator:
    """Ends what the daemon's backend is doing, in one statement that also says what that was."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self.connection: Any = database.connect()
        self.database = database
        self.chance = chance
        self.hits: Counter[str] = Counter()
        self.cancelled = 0

    def strike(self, place: str) -> tuple[str, str] | None:
        """place: a pattern for the statement that must be running; "": any moment. None: the backend was not there, or elsewhere."""
        cancel = self.chance.random() < 0.2
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT a.state, a.query, CASE WHEN %(cancel)s THEN pg_cancel_backend(a.pid) ELSE pg_terminate_backend(a.pid) END"
                " FROM pg_stat_activity AS a WHERE a.datname = %(database)s AND a.application_name = 'tolld'"
                " AND (%(place)s = '' OR a.state = 'active' AND a.query LIKE %(place)s)",
                {"cancel": cancel, "database": self.database.name, "place": place})
            found = cursor.fetchone()
        if found is None:
            return None
        self.cancelled += cancel
        return found[0], found[1]

    def one(self) -> None:
        """At the place chosen, if the backend comes past it soon; else at any moment."""
        time.sleep(self.chance.uniform(0, 0.12))
        place, deadline = self.chance.choice(PLACES), time.monotonic() + 0.25
        found = None
        while found is None:
            found = self.strike(place if time.monotonic() < deadline else "")
        self.hits[name_of(*found)] += 1

    def close(self) -> None:
        self.connection.close()


def name_of(state: str, query: str) -> str:
    if state == "idle":
        return "between_batches"
    words = query.split() or ["connecting"]
    what = words[0] + ("_" + words[1] if words[0] in ("COPY", "UPDATE") else "")
    return what if state == "active" else f"after_{words[0]}"


@pytest.mark.limit(90 + TIMES)
@pytest.mark.writers(1, 4)
def test_backend_terminated(daemon_factory: Callable[..., Daemon], db: Database) -> None:
    chance = fault.rng("backend terminated")
    daemon = daemon_factory(db.dsn, config={"database.retry_max": "100ms", "batch.age": "20ms", "batch.rows": 4000}).start()
    terminator, directory = Terminator(db, chance), make_dir("k")
    try:
        with Sim(daemon.socket, "--workers", 2, "--rate", RATE, "--calls", 10**9, "--concurrent", 16, "--seed", chance.randrange(2**31),
                 "--ring", 8 << 20, "--flush-ms", int(30000 * SLOWNESS), "--record", directory / "record") as sim:
            daemon.wait_log("storing sink=")
            for _ in range(TIMES):
                assert sim.process.poll() is None, "the workers ended by themselves"
                terminator.one()
            sim.process.send_signal(signal.SIGTERM)
            report = sim.wait(90)
        fault.settle(daemon, seconds=120)
        records, summaries = oracle.read_records(directory / "record")
    finally:
        terminator.close()
        remove_dir(directory)
    status = daemon.status()
    in_batch = sum(count for place, count in terminator.hits.items() if place != "between_batches")
    in_copy = sum(count for place, count in terminator.hits.items() if place.startswith("COPY"))
    outcome = fault.judge(db, records, [daemon], acknowledged={UUID(each["stream_id"]).bytes: each["acked"] for each in summaries})
    fault.report("backend_terminated", outcome, times=TIMES, cancelled=terminator.cancelled, in_a_batch=in_batch, in_copy=in_copy,
                 frames=outcome.frames, batches=status["batches_committed"], retried=status["batches_retried"],
                 where=dict(terminator.hits.most_common()))
    assert report["outstanding"] == 0 and report["refused"] == 0
    assert in_batch > TIMES // 3 and in_copy > 0 and status["batches_retried"] > TIMES // 4, "too few hits prove too little"
    assert db.value("SELECT count(*) FROM toll.quarantine") == 0
