"""Rows through toll: a fresh daemon, workers of load.c, and a clock that stops when PostgreSQL has committed the last row."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from stage import SUMS, Stage, WrongRows, clean_env, program
from harness import Daemon, Database, tolld, wait_until
from measure import CpuWatch, Sample

POLL_S = 0.010
# The socket's queue as long as toll's sysctl drop-in makes it where it is installed. Only root can have that without changing the machine:
# a network namespace has its own.
QUEUE = 512
OWN_QUEUE = ["unshare", "-n", "sh", "-c", f'echo {QUEUE} > /proc/sys/net/unix/max_dgram_qlen; exec "$@"', "sh"] if os.geteuid() == 0 else []
LIMIT_S = 600


class Load:
    """The program load.c, which waits for word between its phases."""

    def __init__(self, daemon: Daemon, *words: str | int) -> None:
        self.process = subprocess.Popen([program("load"), "--socket", str(daemon.socket), *map(str, words)], env=clean_env(),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ready = self.line()

    def tell(self) -> None:
        """On to the next phase."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def has_line(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not self.has_line(LIMIT_S):
            raise TimeoutError("load says nothing")
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"load ended with {self.process.wait()}")
        return json.loads(said)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Stored:
    """Watches how many frames batches have committed, from a connection of its own; of batches after a certain one."""

    def __init__(self, db: Database, after_batch: int = 0) -> None:
        self.after = after_batch
        self.connection = db.connect()
        self.cursor = self.connection.cursor()
        self.backend = self.connection.info.backend_pid

    def frames(self) -> int:
        self.cursor.execute("SELECT coalesce(sum(stored), 0) FROM toll.batches WHERE batch_id > %s", (self.after,))
        return int(self.cursor.fetchone()[0])

    def wait(self, frames: int, seconds: float = LIMIT_S) -> None:
        wait_until(lambda: self.frames() >= frames, seconds, f"{frames} frames to be stored", every=POLL_S)

    def close(self) -> None:
        self.connection.close()


def measure(loads: list[Load], watch: CpuWatch, stored: Stored, nap_s: float = POLL_S,
            look: Callable[[], object] | None = None) -> Flow:
    """Lets the loads go, and watches until all that they sent is committed. look is called at each poll."""
    waiting = list(loads)
    sent: list[dict[str, Any]] = []
    began = time.perf_counter()
    for load in loads:
        load.tell()
    while True:
        for load in [each for each in waiting if each.has_line(0)]:
            sent.append(load.line())
            waiting.remove(load)
        if look is not None:
            look()
        frames = stored.frames()
        seconds = time.perf_counter() - began
        if not waiting and frames >= sum(each["frames"] for each in sent):
            cpu = watch.read() | {"worker": sum(each["cpu_s"] for each in sent)}
            return Flow(add_up(sent), seconds, cpu, watch.threads("daemon"))
        if seconds > LIMIT_S:
            raise WrongRows(f"{frames} frames stored after {LIMIT_S} s")
        time.sleep(nap_s)


@dataclass
class Flow:
    """What was sent, the seconds until it was committed, and the CPU seconds used until then: by process, and by thread of the
    (first) daemon."""
    sent: dict[str, Any]
    seconds: float
    cpu: dict[str, float]
    threads: dict[str, float]


def add_up(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several loads one report; the time is the longest."""
    total = {name: sum(each[name] for each in reports) for name in reports[0] if name != "phase"}
    return total | {"seconds": max(each["seconds"] for each in reports)}


def finish(daemons: list[Daemon], loads: list[Load], stored: Stored) -> tuple[dict[str, Any], int]:
    """Ends the sessions, waits until that is stored too, and stops the daemons. Returns what was sent in all, and how long the
    journals are."""
    for load in loads:
        load.tell()
    over = add_up([load.line() for load in loads])
    stored.wait(over["frames"])
    journal = sum(daemon.status()["journal_lsn"] for daemon in daemons)
    for daemon in daemons:
        if daemon.stop() != 0:
            raise WrongRows(f"tolld did not end well\n{daemon.log_text()[-2000:]}")
    return over, journal


def check(stage: Stage, over: Mapping[str, Any], db: Database | None = None, after_batch: int | None = None,
          after_time: object = "-infinity") -> None:
    """Every row that the load recorded is there, in every table, and totals are its sums. Where other rows were there before: only
    those of batches and sessions after these."""
    db = db or stage.db
    if over["refused"] or over["failed"] or over["gaps"]:
        raise WrongRows(f"the workers were refused frames: {dict(over)}")
    batch = "TRUE" if after_batch is None else f"batch_id > {after_batch}"
    sums = (over["input_tokens"], over["output_tokens"], over["tts_chars"], over["stt_audio_us"])
    events = over["stt"] + over["llm"] + over["tts"] + over["usage"]

    def compare(what: str, query: str, expected: tuple[int, ...], *args: object) -> None:
        found = tuple(int(each or 0) for each in db.query(query, *args)[0])
        if found != expected:
            raise WrongRows(f"{what}: the database has {found}, it should be {expected}")
    compare("billing_events, count and sums", f"SELECT {', '.join(SUMS)} FROM billing_events WHERE {batch}", (events, *sums))
    compare("billing_sessions, ended and totals",
            "SELECT count(*) FILTER (WHERE ended_at IS NOT NULL), sum(llm_input_tokens), sum(llm_output_tokens), sum(tts_chars),"
            " sum(round(stt_audio_ms * 1000)::bigint) FROM billing_sessions WHERE created_at > %s", (over["session_end"], *sums), after_time)
    compare("session_transcripts, count and bytes", f"SELECT count(*), sum(octet_length(text)) FROM session_transcripts WHERE {batch}",
            (over["transcript"], over["text_bytes"]))
    compare("toll.quarantine", "SELECT count(*) FROM toll.quarantine", (0,))


def words(*, workers: int = 4, send: str = "free", calls: bool = False, frames: int = 100_000, sessions: int = 1000, rate: float = 0,
          bare: bool = False, seed: int = 1) -> list[str | int]:
    """load's command line."""
    return ["--workers", workers, "--send", send, "--frames", frames, "--sessions", sessions, "--rate", f"{rate:g}", "--seed", seed,
            *(["--calls"] if calls else []), *(["--bare"] if bare else [])]


def make_daemon(db: Database, config: Mapping[str, Any] | None = None) -> Daemon:
    """It does not rate unless config says so: what storing costs is measured by itself."""
    return Daemon(db.dsn, config={"rating.enabled": "no", **(config or {})}, wrapper=OWN_QUEUE)


def has_option(stage: Stage, name: str, value: object) -> bool:
    """Whether this tolld knows a configuration option."""
    section, option = name.split(".")
    conf = stage.dir / "try.conf"
    conf.write_text(f"[{section}]\n{option} = {value}\n")
    return tolld("--config", str(conf), "--check-config").returncode == 0


class ThroughToll:
    """toll as it comes, but for `config`; load: the arguments of words(). keep: these rows become the stage's."""

    wants_sessions = False

    def __init__(self, stage: Stage, name: str, *, config: Mapping[str, Any] | None = None, daemons: int = 1, keep: bool = False,
                 **load: Any) -> None:
        self.stage, self.name, self.config, self.daemons, self.keep, self.load = stage, name, config, daemons, keep, load
        self.calls = bool(load.get("calls"))

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _session_writes(self) -> tuple[int, int]:
        return self.stage.db.query("SELECT n_tup_ins, n_tup_upd FROM pg_stat_user_tables WHERE relid = 'billing_sessions'::regclass")[0]

    def run(self) -> Sample:
        stage = self.stage
        inserted, updated = self._session_writes()
        stored = Stored(stage.db)
        daemons = [make_daemon(stage.db, self.config) for _ in range(self.daemons)]
        loads: list[Load] = []
        try:
            for seed, daemon in enumerate(daemons, start=1):
                daemon.start()
                loads.append(Load(daemon, *words(**self.load, seed=seed)))
            before = add_up([each.ready for each in loads])
            stored.wait(before["frames"])
            watch = CpuWatch(stage.postmaster, {"daemon" if i == 0 else f"daemon{i}": each.pid for i, each in enumerate(daemons)},
                             but=(stored.backend,))
            flow = measure(loads, watch, stored)
            over, journal = finish(daemons, loads, stored)
        finally:
            stored.close()
            for each in (*loads, *daemons):
                each.close()
        check(stage, over)
        if self.keep:
            stage.keep_rows()
        return self._sample(flow, before, over, journal, inserted, updated)

    def _sample(self, flow: Flow, before: dict[str, Any], over: dict[str, Any], journal: int, inserted: int, updated: int) -> Sample:
        sent = flow.sent
        rows = frames = sent["frames"] - before["frames"]
        if self.calls:  # as PostgreSQL counted them: a call that is short enough is one INSERT, without an UPDATE
            wait_until(lambda: self._session_writes()[0] - inserted >= over["session_start"], 5, "PostgreSQL's statistics")
            now = self._session_writes()
            rows += now[0] - inserted - over["session_start"] + min(now[1] - updated, over["session_end"]) - over["session_end"]
        cpu = dict(flow.cpu)
        cpu["daemon"] = sum(cpu.pop(name) for name in list(cpu) if name.startswith("daemon"))
        return Sample(rows, flow.seconds, cpu, {
            "frames": frames, "frames_per_datagram": frames / max(1, sent["datagrams"] - before["datagrams"]), "acked_s": sent["seconds"],
            "journal_bytes_per_frame": journal / over["frames"], "blocked": sent["blocked"], "resent": sent["resent"],
            "threads_us": {name: used / rows * 1e6 for name, used in flow.threads.items()}})
