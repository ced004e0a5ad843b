"""What a stored row costs PostgreSQL: the backend's CPU time and WAL per event row, for the schema as it is and for variants of it.

Run: python3 tests/bench/row_cost.py [--rows N] [--rounds N] [--only WORD ...]. Every variant is a database of its own in one private
cluster; all get the same rows by binary COPY, in turns, round after round, into emptied tables. Printed are medians over the rounds.
CPU time is that of the backend alone (/proc/PID/schedstat), so neighbours on the machine matter little.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import struct
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "tests/sql")]

from cluster import Cluster, Database  # noqa: E402
from schema import migrated, this_month  # noqa: E402

COLUMNS = ("session_id event_type provider model input_tokens output_tokens estimated char_count voice audio_duration_ms occurred_at raw_json"
           " batch_id turn_id agent request_id language cached_input_tokens cache_write_tokens audio_input_tokens cached_audio_tokens"
           " audio_output_tokens reasoning_tokens ttfb_ms duration_ms interrupted meter quantity account occurred_at_reported").split()
HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
EPOCH = 946684800  # 2000-01-01 in Unix time: PostgreSQL's epoch
BATCH = 10_000
NULL = b"\xff\xff\xff\xff"


def text(value: str) -> bytes:
    return struct.pack("!i", len(value)) + value.encode()


def int4(value: int) -> bytes:
    return struct.pack("!ii", 4, value)


def int8(value: int) -> bytes:
    return struct.pack("!iq", 8, value)


def float8(value: float) -> bytes:
    return struct.pack("!id", 8, value)


def fields(session: bytes, kind: int, at_us: int, batch: int, turn: bytes) -> bytes:
    """An event as a voice worker reports it: a third each of llm, tts and stt."""
    values: dict[str, bytes] = {"session_id": b"\0\0\0\x10" + session, "occurred_at": int8(at_us), "batch_id": int8(batch),
                                "turn_id": b"\0\0\0\x10" + turn}
    if kind == 0:
        values |= {"event_type": text("llm"), "provider": text("openai"), "model": text("gpt-4o-mini"), "input_tokens": int4(812),
                   "output_tokens": int4(95), "estimated": b"\0\0\0\1\0", "ttfb_ms": float8(412.5), "duration_ms": float8(1730.25),
                   "cached_input_tokens": int4(512)}
    elif kind == 1:
        values |= {"event_type": text("tts"), "provider": text("cartesia"), "model": text("sonic-2"), "char_count": int4(143),
                   "voice": text("narrator"), "audio_duration_ms": float8(6120.5), "ttfb_ms": float8(90.5)}
    else:
        values |= {"event_type": text("stt"), "provider": text("deepgram"), "model": text("nova-3"), "audio_duration_ms": float8(4310.25),
                   "language": text("en-US")}
    return b"".join(values.get(column, NULL) for column in COLUMNS)


@dataclass
class Rows:
    """Ready-made batches; each row without its count of fields, so that an id can be put before it."""

    name: str
    sessions: list[bytes]
    batches: list[list[bytes]]

    def copy(self, number: int, first_id: int | None) -> bytes:
        rows = self.batches[number]
        if first_id is None:
            start = struct.pack("!h", len(COLUMNS))
            return HEADER + b"".join(start + row for row in rows) + TRAILER
        start = struct.pack("!h", len(COLUMNS) + 1)
        return HEADER + b"".join(start + int8(first_id + i) + row for i, row in enumerate(rows)) + TRAILER


def make_rows(count: int, sessions: int, order: str) -> Rows:
    """order: arrival (every row of a random live session) or adjacent (the same, sorted by session within each batch)."""
    rng = random.Random(4)
    ids = [rng.randbytes(16) for _ in range(sessions)]
    start = int((this_month().timestamp() - EPOCH) * 1e6)
    batches = []
    for batch in range(count // BATCH):
        rows = []
        for i in range(BATCH):
            number = batch * BATCH + i
            rows.append((rng.choice(ids), i % 3, start + number * 50, batch + 1, rng.randbytes(16)))
        if order == "adjacent":
            rows.sort(key=lambda row: row[0])
        batches.append([fields(*row) for row in rows])
    return Rows(f"{sessions} sessions, {order}", ids, batches)


@dataclass
class Variant:
    name: str
    sql: str = ""
    table: str = "public.billing_events"
    replica: bool = True
    given_ids: bool = False
    commit: str = ""
    cpu: list[float] = field(default_factory=list)
    wal: list[float] = field(default_factory=list)
    database: Any = None
    connection: Any = None

    def connect(self, template: Database, cluster: Cluster) -> None:
        self.database = cluster.create_database(template)
        if self.sql:
            self.database.execute(self.sql)
        self.connection = self.database.connect()
        self.connection.autocommit = False
        with self.connection.cursor() as cursor:
            cursor.execute(f"SET synchronous_commit = off; SET session_replication_role = {'replica' if self.replica else 'origin'}")
        self.connection.commit()

    def run(self, rows: Rows, prepare: Callable[[Any, str], None] | None) -> None:
        columns = ("id, " if self.given_ids else "") + ", ".join(COLUMNS)
        if prepare:
            prepare(self.database, self.table)
        if not self.replica:
            self.database.execute("INSERT INTO billing_sessions (session_id, started_at) SELECT id::uuid, now() FROM unnest(%s) AS id"
                                  " ON CONFLICT DO NOTHING", [str(uuid.UUID(bytes=session)) for session in rows.sessions])
        pid = self.connection.info.backend_pid
        schedstat = Path(f"/proc/{pid}/schedstat")
        total = wal = 0
        for number in range(len(rows.batches)):
            data = rows.copy(number, 1 + number * BATCH if self.given_ids else None)
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
                before_wal = cursor.fetchone()[0]
                before = int(schedstat.read_text().split()[0])
                cursor.copy_expert(f"COPY {self.table} ({columns}) FROM STDIN (FORMAT binary)", io.BytesIO(data), size=8192)
                self.connection.commit()
                total += int(schedstat.read_text().split()[0]) - before
                cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
                wal += int(cursor.fetchone()[0] - before_wal)
            self.connection.commit()
        count = len(rows.batches) * BATCH
        self.cpu.append(total / 1000 / count)
        self.wal.append(wal / count)


def partition() -> str:
    return f"toll.billing_events_{this_month():%Y_%m}"


NO_BATCH = "DROP INDEX billing_events_batch_id_idx;"
NO_SESSION = "DROP INDEX billing_events_session_id_idx;"
NO_PK = "ALTER TABLE billing_events DROP CONSTRAINT billing_events_pkey;"
NO_CHECK = "ALTER TABLE billing_events DROP CONSTRAINT billing_events_session_or_account_check;"
NO_DEFAULT = "ALTER TABLE billing_events ALTER id DROP DEFAULT, ALTER id DROP NOT NULL;"
CACHE = "ALTER SEQUENCE billing_events_id_seq CACHE 1000;"


def plain(after: str = "") -> str:
    """The same columns in a table that is not partitioned, without index."""
    return f"CREATE TABLE public.plain (LIKE public.billing_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS);{after}"


def variants() -> list[Variant]:
    leaner = NO_BATCH + NO_SESSION + CACHE
    return [
        Variant("as it is, trigger on", replica=False),
        Variant("as it is"),
        Variant("bare heap, plain, no ids", plain("ALTER TABLE plain ALTER id DROP DEFAULT, ALTER id DROP NOT NULL"), "public.plain"),
        Variant("bare heap, plain, no ids, no check", plain("ALTER TABLE plain ALTER id DROP DEFAULT, ALTER id DROP NOT NULL;"
                "ALTER TABLE plain DROP CONSTRAINT billing_events_session_or_account_check"), "public.plain"),
        Variant("bare heap, plain, nextval", plain(), "public.plain"),
        Variant("bare heap, plain, nextval cache 1000", CACHE + plain(), "public.plain"),
        Variant("bare heap, plain, ids given", plain(), "public.plain", given_ids=True),
        Variant("bare heap, partitioned, cache 1000", CACHE + NO_BATCH + NO_SESSION + NO_PK),
        Variant("bare heap, into partition, cache 1000", CACHE + NO_BATCH + NO_SESSION + NO_PK, partition()),
        Variant("pk only, nextval", NO_BATCH + NO_SESSION),
        Variant("pk only, cache 1000", CACHE + NO_BATCH + NO_SESSION),
        Variant("pk only, ids given", NO_BATCH + NO_SESSION, given_ids=True),
        Variant("pk only, ids given, into partition", NO_BATCH + NO_SESSION, partition(), given_ids=True),
        Variant("pk + brin batch_id, cache", CACHE + NO_SESSION),
        Variant("pk + (session_id, occurred_at), cache", CACHE + NO_BATCH),
        Variant("pk + (session_id), cache", leaner + "CREATE INDEX ON billing_events (session_id)"),
        Variant("pk + (session_id) where not null, cache", leaner + "CREATE INDEX ON billing_events (session_id) WHERE session_id IS NOT NULL"),
        Variant("pk + hash session_id, cache", leaner + "CREATE INDEX ON billing_events USING hash (session_id)"),
        Variant("pk + brin session_id, cache", leaner + "CREATE INDEX ON billing_events USING brin (session_id)"),
        Variant("pk + (session_id) + brin batch_id, cache", CACHE + NO_SESSION + "CREATE INDEX ON billing_events (session_id)"),
        Variant("all, cache", CACHE),
    ]


def empty(database: Database, table: str) -> None:
    database.execute(f"TRUNCATE {table}; CHECKPOINT")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args(arguments)
    cluster = Cluster().init()
    with (cluster.data / "postgresql.conf").open("a") as conf:
        conf.write("autovacuum = off\nmax_wal_size = 8GB\ncheckpoint_timeout = 1h\nautovacuum_naptime = 1d\n")
    try:
        cluster.start()
        template = migrated(cluster.create_database())
        chosen = [v for v in variants() if not options.only or any(word in v.name for word in options.only)]
        for variant in chosen:
            variant.connect(template, cluster)
        for sessions in options.sessions:
            for order in ("arrival", "adjacent"):
                rows = make_rows(options.rows, sessions, order)
                for variant in chosen:
                    variant.cpu, variant.wal = [], []
                for _ in range(options.rounds + 1):
                    for variant in chosen:
                        variant.run(rows, empty)
                print(f"\n{rows.name}: µs of the backend's CPU and bytes of WAL per row, median (min) of {options.rounds}")
                for variant in chosen:
                    cpu = variant.cpu[1:]  # the first fills the backend's caches
                    print(f"  {variant.name:45} {statistics.median(cpu):6.2f} ({min(cpu):.2f}) {statistics.median(variant.wal[1:]):7.0f}", flush=True)
    finally:
        cluster.close()


if __name__ == "__main__":
    main(sys.argv[1:])
