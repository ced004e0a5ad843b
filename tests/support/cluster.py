"""A private PostgreSQL cluster on a Unix socket in a temporary directory, and databases in it.

As root the server runs as user postgres, else as who runs the tests. Authentication is `trust`: the directory is the only
way in. Never touches a cluster of the system's.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg2

import proc

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{socket_dir}'
max_connections = 60
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %d %a '
max_wal_senders = 4
wal_keep_size = '64MB'
autovacuum_naptime = '5s'
"""

# What a process has written the kernel keeps, whoever kills it. Queries here are many and small: compiling one takes longer than
# it runs.
QUICK = """
fsync = off
jit = off
"""
MEMORY = Path("/dev/shm")
MEMORY_FREE = 4 << 30  # bytes, for several servers


def bindir() -> Path:
    """Where initdb and pg_ctl are: PG_BINDIR, else the newest version Debian has installed, else the PATH's."""
    if "PG_BINDIR" in os.environ:
        return Path(os.environ["PG_BINDIR"])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise FileNotFoundError("no initdb: install postgresql-15, or set PG_BINDIR")
    return Path(on_path).resolve().parent


def as_owner(*words: str | Path) -> list[str]:
    """A command of the server's user."""
    return [*(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []), *map(str, words)]


def owned_dir(name: str, in_memory: bool = False) -> Path:
    """A directory of the server's user; in memory, if there is room."""
    room = in_memory and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_FREE
    made = proc.make_dir(name, str(MEMORY)) if room else proc.make_dir(name)
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(made, owner.pw_uid, owner.pw_gid)
    return made


@functools.cache
def pristine() -> Path:
    """What initdb makes; copying it is quicker."""
    made = owned_dir("i")
    atexit.register(proc.remove_dir, made)
    proc.run(as_owner(bindir() / "initdb", "-D", made / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
             cwd=made)
    return made / "data"


class Cluster:
    """One server. `Cluster().start()`; `close()` ends it and removes its directory, whatever state it is in.

    quick: where nobody cuts the power there is nothing to write to a disk. A database is copied in a fifth of the time then.
    """

    def __init__(self, quick: bool = False) -> None:
        self.settings = SETTINGS + QUICK if quick else SETTINGS
        self.bin = bindir()
        self.dir = owned_dir("pg", in_memory=quick)
        self.data = self.dir / "data"
        self.log = self.dir / "log"
        self._databases = 0
        self._frozen: set[int] = set()

    # --- the server ---

    def init(self) -> Cluster:
        self._owned("cp", "-a", pristine(), self.data)
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(self.settings.format(socket_dir=self.dir))
        return self

    def start(self) -> Cluster:
        """Starts the server and waits until it accepts connections; makes the cluster first when there is none."""
        if not self.data.exists():
            self.init()
        self._run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "start")
        return self

    def stop(self, mode: str = "fast") -> None:
        """mode: fast, immediate (like a crash: recovers at the next start), smart."""
        self.thaw_all()
        self._run("pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    @property
    def running(self) -> bool:
        return self._run("pg_ctl", "-D", self.data, "status", check=False).returncode == 0

    def close(self) -> None:
        try:
            if self.data.exists() and self.running:
                self.stop("immediate")
        finally:
            proc.remove_dir(self.dir)

    # --- connecting ---

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"host={self.dir} user={user} dbname={database}"

    def connect(self, database: str = "postgres", user: str = "postgres") -> Any:
        """A psycopg2 connection that commits each statement by itself; set .autocommit = False for transactions."""
        connection = psycopg2.connect(self.dsn(database, user))
        connection.autocommit = True
        return connection

    def psql(self, sql: str, database: str = "postgres") -> str:
        """What psql prints for it, unaligned and without headings."""
        return proc.run([self.bin / "psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(database), "-c", sql]).stdout.strip()

    def create_database(self, template: Database | None = None) -> Database:
        """An empty one, or a copy of one that nobody is connected to."""
        self._databases += 1
        name = f"toll_{self._databases}"
        self.psql(f"CREATE DATABASE {name} TEMPLATE {template.name if template else 'template1'}")
        return Database(self, name)

    # --- trouble ---

    def backends(self, database: str | None = None, application: str | None = None) -> list[int]:
        """Process ids of client backends, this question's own left out."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                " AND (%(db)s::text IS NULL OR datname = %(db)s) AND (%(app)s::text IS NULL OR application_name LIKE %(app)s)"
                " ORDER BY backend_start", {"db": database, "app": application})
            pids = [row[0] for row in cursor.fetchall()]
        connection.close()
        return pids

    def terminate_backends(self, database: str) -> int:
        """Ends every client connection to the database (pg_terminate_backend); returns how many there were."""
        return int(self.psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                             f" WHERE datname = '{database}' AND backend_type = 'client backend'"))

    def freeze(self, pid: int) -> None:
        """SIGSTOP for one backend: to its client it is a server that no longer answers."""
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)

    def thaw(self, pid: int) -> None:
        self._frozen.discard(pid)
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def thaw_all(self) -> None:
        for pid in list(self._frozen):
            self.thaw(pid)

    def copy_data(self) -> Path:
        """A copy of the whole cluster as it is now, made while it runs, for restore()."""
        copy = self.dir / f"copy-{len(list(self.dir.glob('copy-*')))}"
        self._run("pg_basebackup", "-h", self.dir, "-U", "postgres", "-D", copy, "-c", "fast", "-X", "stream", "--no-sync")
        return copy

    def restore(self, copy: Path) -> None:
        """Replaces the cluster by the copy, as an operator restores a backup, and starts it."""
        if self.running:
            self.stop("immediate")
        proc.remove_dir(self.data)
        self._owned("cp", "-a", copy, self.data)
        self.start()

    def standby(self) -> Cluster:
        """A streaming standby, started. It follows until `SELECT pg_wal_replay_pause()` there, and serves after promote()."""
        other = Cluster()
        self._run("pg_basebackup", "-h", self.dir, "-U", "postgres", "-D", other.data, "-R", "-c", "fast", "-X", "stream", "--no-sync")
        conf = other.data / "postgresql.conf"
        conf.write_text(conf.read_text().replace(f"'{self.dir}'", f"'{other.dir}'"))
        return other.start()

    def promote(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "promote")

    def dsn_with(self, standby: Cluster, database: str) -> str:
        """A connection string that finds whichever of the two takes writes."""
        return f"host={self.dir},{standby.dir} user=postgres dbname={database} target_session_attrs=read-write"

    # --- how ---

    def _run(self, program: str, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._owned(self.bin / program, *words, check=check)

    def _owned(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program as the server's user. Its output goes to a file: a pipe would stay open in the server."""
        output = self.dir / "output"
        with output.open("w") as out:
            done = subprocess.run(as_owner(*words), cwd=self.dir, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.STDOUT, timeout=120, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, words))}\n{output.read_text()}\n{proc.tail(self.log)}")
        return done


class Database:
    """One database of a cluster."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.dsn = cluster.dsn(name)

    def connect(self, user: str = "postgres") -> Any:
        return self.cluster.connect(self.name, user)

    def query(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """Every row of a query, on a connection of its own, so that it works after any restart. %s takes args."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, args or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row."""
        return self.query(sql, *args)[0][0]

    def execute(self, sql: str, *args: Any) -> None:
        self.query(sql, *args)

    def terminate_backends(self) -> int:
        return self.cluster.terminate_backends(self.name)

    def drop(self) -> None:
        self.cluster.thaw_all()
        self.cluster.psql(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
