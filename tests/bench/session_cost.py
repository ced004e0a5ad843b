"""What a session costs PostgreSQL, begun and ended by a batch's functions: the backend's CPU time and WAL, and how many updates were HOT.

Run: python3 tests/bench/session_cost.py [--live N] [--batch N] [--rounds N]. So many sessions are live; every batch begins and ends some of them, in
random order. "index of live sessions" is how they were found before there was toll.open_sessions. CPU time is that of the backend alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import uuid
from pathlib import Path
from typing import Any, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/sql")]

from cluster import Cluster, Database  # noqa: E402
from schema import JOURNAL, migrated  # noqa: E402

CHANGES = ("(SELECT array_agg(ROW(id, true, NULL, %s, %s, 1, now() - interval '1 min', NULL, now(), {ended}, NULL, {reason}, {metadata}, NULL,"
           " 1000, 200, 4, 900, 4, 8000.5, 4, 1000, id)::toll.session_change ORDER BY id) FROM unnest(%s::uuid[]) WITH ORDINALITY AS u (id, n))")
START = CHANGES.format(ended="NULL", reason="NULL", metadata="jsonb_build_object('user_id', 'u_' || mod(n, 5000), 'tenant_id', 't_1', 'region', 'eu-central-1',"
                       " 'phone_number', '+1555' || n)")
END = CHANGES.format(ended="now()", reason="'end'", metadata="NULL")
VARIANTS = {
    "as it is": "",
    "index of live sessions": "CREATE INDEX ON billing_sessions (owner_journal, owner_writer) WHERE ended_at IS NULL",
}


class Run:
    """One variant: a database, a connection, and who is live there."""

    def __init__(self, database: Database, sql: str, live: int, batch: int) -> None:
        self.database, self.batch, self.rng = database, batch, random.Random(4)
        if sql:
            database.execute(sql)
        self.connection: Any = database.connect()
        self.connection.autocommit = False
        self.schedstat = Path(f"/proc/{self.connection.info.backend_pid}/schedstat")
        self.live: list[str] = []
        self.figures: dict[str, list[float]] = {"begin": [], "end": [], "WAL of an end": []}
        with self.connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off; SET session_replication_role = replica")
            cursor.execute("PREPARE begin_them (toll.session_change[]) AS SELECT toll.insert_sessions(%s, 0, $1)", (str(JOURNAL),))
            cursor.execute("PREPARE end_them (toll.session_change[]) AS SELECT toll.settle_sessions(%s, 0, $1)", (str(JOURNAL),))
        self.connection.commit()
        for _ in range(live // batch):
            self.begin()

    def call(self, statement: str, changes: str, starts: int, ends: int, ids: list[str]) -> tuple[float, float]:
        """The backend's CPU time in us and bytes of WAL, per session, of the function alone."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT {changes}::text", (starts, ends, ids))
            (array,) = cursor.fetchone()
            cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
            wal, cpu = cursor.fetchone()[0], int(self.schedstat.read_text().split()[0])
            cursor.execute(f"EXECUTE {statement} (%s)", (array,))
            cpu = int(self.schedstat.read_text().split()[0]) - cpu
            cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
            wal = float(cursor.fetchone()[0] - wal)
        self.connection.commit()
        return cpu / 1000 / len(ids), wal / len(ids)

    def begin(self) -> float:
        ids = [str(uuid.UUID(bytes=self.rng.randbytes(16))) for _ in range(self.batch)]
        self.live += ids
        return self.call("begin_them", START, 1, 0, ids)[0]

    def round(self, batches: int) -> None:
        begin, end = [], []
        for _ in range(batches):
            begin.append(self.begin())
            self.rng.shuffle(self.live)
            end.append(self.call("end_them", END, 0, 1, [self.live.pop() for _ in range(self.batch)]))
        self.figures["begin"].append(statistics.mean(begin))
        self.figures["end"].append(statistics.mean(cpu for cpu, _ in end))
        self.figures["WAL of an end"].append(statistics.mean(wal for _, wal in end))

    def report(self, name: str) -> None:
        self.connection.close()
        updated, hot, inserted, dead = self.database.query(
            "SELECT n_tup_upd, n_tup_hot_upd, n_tup_ins, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'billing_sessions'")[0]
        listed = self.database.value("SELECT pg_total_relation_size('toll.open_sessions')") if "as it" in name else 0
        print(f"  {name:25}", *(f"{figure} {statistics.median(values):.1f}" for figure, values in self.figures.items()),
              f"HOT {100 * hot / max(updated, 1):.0f} % of {updated}, {inserted} begun, {dead} dead; open_sessions {listed >> 20} MB", flush=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--live", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    cluster = Cluster().init()
    with (cluster.data / "postgresql.conf").open("a") as conf:
        conf.write("max_wal_size = 8GB\ncheckpoint_timeout = 1h\n")
    try:
        cluster.start()
        template = migrated(cluster.create_database())
        runs = {name: Run(cluster.create_database(template), sql, options.live, options.batch) for name, sql in VARIANTS.items()}
        for _ in range(options.rounds):
            for run in runs.values():
                run.round(options.batches)
        print(f"us of the backend's CPU and bytes of WAL a session: {options.live} live, {options.batch} begun and ended a batch")
        for name, run in runs.items():
            run.report(name)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(sys.argv[1:])
