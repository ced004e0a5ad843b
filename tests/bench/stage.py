"""Where everything is measured: a PostgreSQL server of its own as Debian configures it, one database with toll's schema, and
the rows that everybody stores. It empties the tables before each run and checks what is in them after it."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import cluster as support  # noqa: E402
from harness import BUILD, Database, make_dir, migrate, remove_dir  # noqa: E402
from measure import Sample  # noqa: E402

# What initdb and pg_createcluster leave as it is stays: shared_buffers 128 MB, max_wal_size 1 GB, fsync and synchronous_commit on.
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{socket_dir}'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d %a '
"""

SUMS = ("count(*)", "coalesce(sum(input_tokens), 0)", "coalesce(sum(output_tokens), 0)", "coalesce(sum(char_count), 0)",
        "coalesce(sum(round(audio_duration_ms * 1000)::bigint) FILTER (WHERE event_type = 'stt'), 0)")


class Absent(Exception):
    """Something that is compared with isn't on this machine."""


class WrongRows(Exception):
    """The tables don't hold what was stored: no figure of that run may be believed."""


class Contender(Protocol):
    """A way to store rows. In each round: start(), which is not timed and may raise Absent; run(), which finds empty tables (but for the
    rows' sessions, unless wants_sessions is there and false), stores, checks, and tells how long storing took; close(), whatever happened."""
    name: str

    def start(self) -> None: ...
    def run(self) -> Sample: ...
    def close(self) -> None: ...


class Stage:
    """close() ends the server and removes it."""

    def __init__(self) -> None:
        self.dir = make_dir("bench")
        support.SETTINGS = SETTINGS
        self.cluster = support.Cluster()
        self.db: Database
        self.columns: list[str] = []
        self.types: list[str] = []
        self.rows = 0
        self._sums: dict[int, tuple[int, ...]] = {}

    def open(self) -> Stage:
        self.cluster.start()
        self.db = self.new_database()
        return self

    def close(self) -> None:
        try:
            self.cluster.close()
        finally:
            remove_dir(self.dir)

    @property
    def postmaster(self) -> int:
        return int((self.cluster.data / "postmaster.pid").read_text().splitlines()[0])

    def new_database(self) -> Database:
        """One with toll's schema and this month's partitions."""
        made = self.cluster.create_database()
        migrate(made.dsn)
        made.execute("SELECT toll.make_partitions(1)")
        return made

    # --- before a run ---

    def empty(self, db: Database | None = None) -> None:
        """Nothing stored, nothing remembered; a checkpoint now, so that none is due because of what was done before."""
        db = db or self.db
        tables = db.value("SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables"
                          " WHERE (schemaname = 'toll' AND tablename NOT IN ('meta', 'migrations'))"
                          " OR (schemaname = 'public' AND tablename IN ('billing_sessions', 'billing_events', 'session_transcripts'))")
        db.execute(f"TRUNCATE {tables}")
        db.execute("CHECKPOINT")

    def fresh(self) -> None:
        """Empty tables, and the sessions that the rows belong to."""
        self.empty()
        connection = self.db.connect()
        with connection.cursor() as cursor, self.sessions_file.open("rb") as sessions:
            cursor.copy_expert(f"COPY billing_sessions ({self.session_columns}) FROM STDIN (FORMAT binary)", sessions)
        connection.close()

    # --- the rows ---

    @property
    def sessions_file(self) -> Path:
        return self.dir / "sessions.bin"

    @property
    def text_file(self) -> Path:
        """The rows as COPY … TO writes them as text, in the order they were recorded in."""
        return self.dir / "events.txt"

    def binary_file(self, part: int = 0, of: int = 1) -> Path:
        """The rows for COPY … FROM (FORMAT binary), or of several connections' parts one: each has its own sessions."""
        return self.dir / f"events.{part}.{of}.bin"

    def keep_rows(self) -> None:
        """Takes the rows that toll has just stored for everybody's: all columns that carry something but the id, which the table's
        default assigns to who brings none."""
        connection = self.db.connect()
        with connection.cursor() as cursor:
            cursor.execute("SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                           " WHERE attrelid = 'billing_events'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'id' ORDER BY attnum")
            all_columns = cursor.fetchall()
            cursor.execute("SELECT " + ", ".join(f"bool_or({name} IS NOT NULL)" for name, _ in all_columns) + " FROM billing_events")
            carries = cursor.fetchone()
            used = [each for each, carried in zip(all_columns, carries) if carried]
            self.columns, self.types = [name for name, _ in used], [kind for _, kind in used]
            cursor.execute("SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute"
                           " WHERE attrelid = 'billing_sessions'::regclass AND attnum > 0 AND NOT attisdropped")
            self.session_columns = cursor.fetchone()[0]
            cursor.execute("SELECT count(*) FROM billing_events")
            self.rows = cursor.fetchone()[0]
            names = ", ".join(self.columns)
            self._dump(cursor, f"SELECT {self.session_columns} FROM billing_sessions", self.sessions_file, binary=True)
            self._dump(cursor, f"SELECT {names} FROM billing_events ORDER BY occurred_at, request_id", self.text_file, binary=False)
            for of in (1, 2):
                for part in range(of):
                    self._dump(cursor, f"SELECT {names} FROM billing_events WHERE hashtext(session_id::text) & {of - 1} = {part}"
                                       " ORDER BY occurred_at, request_id", self.binary_file(part, of), binary=True)
        connection.close()
        self._sums[self.rows] = self.sums()

    @staticmethod
    def _dump(cursor: Any, query: str, path: Path, *, binary: bool) -> None:
        with path.open("wb") as out:
            cursor.copy_expert(f"COPY ({query}) TO STDOUT" + (" (FORMAT binary)" if binary else ""), out)

    # --- after a run ---

    def sums(self, db: Database | None = None) -> tuple[int, ...]:
        return tuple(int(each) for each in (db or self.db).query(f"SELECT {', '.join(SUMS)} FROM billing_events")[0])

    def expected_sums(self, rows: int) -> tuple[int, ...]:
        """Of the first so many rows of the text file."""
        if rows not in self._sums:
            at = {name: i for i, name in enumerate(self.columns)}
            total = [0, 0, 0, 0, 0]
            with self.text_file.open() as lines:
                for line in itertools.islice(lines, rows):
                    fields = line.rstrip("\n").split("\t")
                    total[0] += 1
                    for i, name in enumerate(("input_tokens", "output_tokens", "char_count"), start=1):
                        total[i] += int(fields[at[name]]) if fields[at[name]] != "\\N" else 0
                    if fields[at["event_type"]] == "stt":
                        total[4] += round(float(fields[at["audio_duration_ms"]]) * 1000)
            self._sums[rows] = tuple(total)
        return self._sums[rows]

    def check_events(self, rows: int) -> None:
        found, expected = self.sums(), self.expected_sums(rows)
        if found != expected:
            raise WrongRows(f"billing_events holds {found} (count and sums), it should be {expected}")


def program(name: str) -> str:
    """A C program of the benchmark."""
    return str(BUILD / "tests" / "bench" / name)


def clean_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE_URL", "TOLL_SOCKET"))}
