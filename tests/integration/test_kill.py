"""tolld killed at random moments, its database stopped, its connections cut, itself frozen, while four workers send: everything they
were told is durable is stored exactly once, and every total is right.

    TOLL_SEED=7 TOLL_KILLS=200 make check T=killed    repeats a run, or makes a long one
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Callable

import pytest

import oracle
from harness import SLOWNESS, Cluster, Daemon, Database, Sim, make_dir, migrate, remove_dir

SEED = int(os.environ.get("TOLL_SEED") or random.SystemRandom().randrange(2**31))
KILLS = int(os.environ.get("TOLL_KILLS") or 20)
RATE = int(os.environ.get("TOLL_RATE") or 1600 / SLOWNESS)  # frames per second of all workers
WORKERS = 4
LIFE = 0.8  # seconds that the daemon lives at most


class Trouble:
    """One seeded run of it."""

    def __init__(self, daemon: Daemon, database: Database) -> None:
        self.random = random.Random(SEED)
        self.daemon = daemon
        self.database = database
        self.counts: Counter[str] = Counter()

    def sleep(self, longest: float) -> None:
        time.sleep(self.random.uniform(0, longest))

    def kill(self) -> None:
        self.daemon.kill()
        self.counts["kills"] += 1

    def round(self) -> None:
        """From a running daemon to a running daemon, with one kill of it in between, or more."""
        self.sleep(LIFE)
        self.random.choices([self.nothing, self.stop_database, self.cut_connections, self.freeze_daemon], [40, 15, 25, 20])[0]()
        if self.random.random() < 0.25:
            self.sleep(0.3)
        if self.random.random() < 0.2:
            self.daemon.use_activation(not self.daemon.activated)
            self.counts["activation_switched"] += 1
        self.counts["starts_activated" if self.daemon.activated else "starts_bound"] += 1
        self.daemon.start()

    def nothing(self) -> None:
        self.kill()

    def cut_connections(self) -> None:
        self.counts["connections_cut"] += self.database.terminate_backends()
        self.sleep(0.03)
        self.kill()

    def freeze_daemon(self) -> None:
        self.daemon.freeze()
        self.counts["daemon_frozen"] += 1
        self.sleep(0.4)
        if self.random.random() < 0.5:
            self.daemon.thaw()
            self.sleep(0.05)
        self.kill()

    def stop_database(self) -> None:
        """As in a crash of the server; the daemon is killed at some moment of its end, its recovery, or after."""
        self.counts["database_stopped"] += 1
        down = threading.Thread(target=self.database.cluster.restart, args=("immediate",))
        down.start()
        self.sleep(1.5)
        self.kill()
        if self.random.random() < 0.5:  # a life without a database, shorter than it takes to be ready
            self.daemon.start(ready_seconds=0)
            self.sleep(0.1)
            self.kill()
        down.join()


@pytest.mark.limit(90 + 3 * KILLS)
def test_killed_at_random_moments(own_cluster: Cluster, daemon_factory: Callable[..., Daemon]) -> None:
    print(f"seed {SEED} (TOLL_SEED={SEED} repeats the order of troubles)")
    database = own_cluster.create_database()
    migrate(database.dsn)
    daemon = daemon_factory(database.dsn, config={"database.retry_max": "500ms", "journal.segment_bytes": "2M"}).start()
    directory = make_dir("k")
    trouble = Trouble(daemon, database)
    began = time.monotonic()
    try:
        with Sim(daemon.socket, "--workers", WORKERS, "--rate", RATE, "--calls", 10**9, "--concurrent", 8, "--seed", SEED,
                 "--record", directory / "record", "--flush-ms", int(30000 * SLOWNESS)) as sim:
            while trouble.counts["kills"] < KILLS:
                assert sim.process.poll() is None, "the workers ended by themselves"
                trouble.round()
            sim.process.send_signal(signal.SIGTERM)
            report = sim.wait(60)
        took = time.monotonic() - began
        daemon.wait_stored(seconds=60)
        records, summaries = oracle.read_records(directory / "record")
    finally:
        remove_dir(directory)

    outcome = oracle.compare(database, records)
    streams, frames_seen = database.query("SELECT count(*), sum(upper(seen) - 1) FROM toll.streams")[0]
    print(f"frames {outcome.frames} sessions {report['sessions_started']} workers {WORKERS} seconds {took:.1f}")
    print(" ".join(f"{name} {count}" for name, count in sorted(trouble.counts.items())))
    print(f"resent {report['resent']} reconnects {report['reconnects']} gaps {report['gaps']} recording_max_us {report['record_max_us']}")
    print(f"frames {outcome.frames} kills {trouble.counts['kills']} {outcome.figures}")
    assert report["outstanding"] == 0 and report["refused"] == 0 and report["snapshots_wrong"] == 0
    assert len(summaries) == WORKERS == streams
    assert sum(each["recorded"] for each in summaries) == outcome.frames == frames_seen
    outcome.check()
    assert oracle.faults(database) == {}
    assert database.value("SELECT count(*) FROM toll.quarantine") == 0
