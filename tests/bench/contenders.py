"""What toll is compared with, PostgreSQL's own ways: psql's \\copy of ready-made rows, and INSERTs by a C program (insert.c).

The other collectors are in rivals.py."""

from __future__ import annotations

import json
import subprocess
import time

from measure import CpuWatch, Sample
from stage import Stage, WrongRows, clean_env, program


class Psql:
    """A psql that waits for commands."""

    def __init__(self, stage: Stage) -> None:
        self.process = subprocess.Popen([str(stage.cluster.bin / "psql"), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", stage.db.dsn],
                                        env=clean_env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.say("SELECT 1;")
        self.wait()

    def say(self, text: str) -> None:
        """Commands, answered by one line in the end."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n\\echo done\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "done\n":
                return
        raise WrongRows(f"psql ended with {self.process.wait()}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Copy:
    """\\copy … (FORMAT binary) from files that were made before, by one psql for each connection, each in one transaction."""

    def __init__(self, stage: Stage, name: str, *, connections: int = 1, trigger: bool = True) -> None:
        self.stage, self.name, self.connections, self.trigger = stage, name, connections, trigger

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self) -> Sample:
        stage = self.stage
        psqls: list[Psql] = []
        try:
            for _ in range(self.connections):
                psql = Psql(stage)
                psqls.append(psql)
                if not self.trigger:
                    psql.say("SET session_replication_role = replica;")
                    psql.wait()
            watch = CpuWatch(stage.postmaster, {f"client{i}": each.process.pid for i, each in enumerate(psqls)})
            began = time.perf_counter()
            for part, psql in enumerate(psqls):
                psql.say(f"\\copy billing_events ({', '.join(stage.columns)}) from '{stage.binary_file(part, self.connections)}' (format binary)")
            for psql in psqls:
                psql.wait()
            seconds = time.perf_counter() - began
            used = watch.read()
        finally:
            for psql in psqls:
                psql.close()
        stage.check_events(stage.rows)
        cpu = {"backend": used["backend"], "server": used["server"], "worker": sum(used[f"client{i}"] for i in range(len(psqls)))}
        return Sample(stage.rows, seconds, cpu)


class Insert:
    """insert.c over one connection. way: row, multi, unnest, upsert (see there). transaction: rows in one transaction."""

    def __init__(self, stage: Stage, name: str, way: str, rows: int, transaction: int = 0) -> None:
        self.stage, self.name, self.way, self.rows, self.transaction = stage, name, way, rows, transaction

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self) -> Sample:
        stage = self.stage
        columns = ",".join(f"{name}:{kind}" for name, kind in zip(stage.columns, stage.types))
        process = subprocess.Popen([program("insert"), stage.db.dsn, self.way, str(self.rows), str(self.transaction), str(stage.text_file), columns],
                                   env=clean_env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        try:
            if process.stdout.readline() != "ready\n":
                raise WrongRows(f"insert ended with {process.wait()}")
            watch = CpuWatch(stage.postmaster, {"worker": process.pid})
            began = time.perf_counter()
            process.stdin.write("go\n")
            process.stdin.flush()
            said = process.stdout.readline()
            seconds = time.perf_counter() - began
            cpu = watch.read()
        finally:
            process.kill()
            process.communicate()
        if not said or json.loads(said)["rows"] != self.rows:
            raise WrongRows(f"insert says {said!r}")
        stage.check_events(self.rows)
        return Sample(self.rows, seconds, cpu)
