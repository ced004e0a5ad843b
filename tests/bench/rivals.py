"""What log daemons reach that users already have: rsyslog and syslog-ng, Debian's packages, the same rows into the same table.

Each runs from a directory of its own, in the foreground, with a configuration and sockets of its own; the machine's log
service is not touched. The rows are sent as JSON, one a datagram, as fast as the daemon takes them: a sender waits while
the socket is full. The clock runs from the first datagram until all rows are committed.

    /usr/bin/python3 tests/bench/rivals.py --rows 20000 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, Iterator

from measure import CpuWatch, Sample, Series
from stage import BUILD, Absent, Stage, WrongRows, make_dir, remove_dir

import proc

HERE = Path(__file__).resolve().parent / "rivals"
UNPACKED = BUILD / "bench" / "rivals"
LIBRARIES = UNPACKED / "usr/lib/x86_64-linux-gnu"
QUIET_SECONDS = 5.0  # no further row for so long: the others are lost
BARE = ("integer", "bigint", "numeric", "double precision", "boolean")  # types whose values JSON writes without quotes


class Rows:
    """The first rows of a stage, as they are sent and as SQL wants them."""

    def __init__(self, stage: Stage, count: int) -> None:
        self.datagrams: list[bytes] = []
        self.kinds: dict[str, dict[str, bool]] = {}  # event_type: its columns, and whether each of its rows has the column
        self.types = dict(zip(stage.columns, stage.types))
        head = f"<134>{time.strftime('%b %e %H:%M:%S')} worker: @cee: "
        with stage.text_file.open() as lines:
            for line in islice(lines, count):
                values = dict(self._values(stage.columns, line))
                known = self.kinds.setdefault(values["event_type"], dict.fromkeys(values, True))
                for column in stage.columns:
                    if (column in values) != known.get(column, False) and (column in values or column in known):
                        known[column] = False
                self.datagrams.append((head + json.dumps(values, separators=(",", ":"))).encode())
                self.last = values

    def _values(self, columns: list[str], line: str) -> Iterator[tuple[str, Any]]:
        for column, text in zip(columns, line.rstrip("\n").split("\t")):
            if text == "\\N":
                continue
            text = text.encode().decode("unicode_escape").encode("latin-1").decode() if "\\" in text else text
            if self.types[column] == "boolean":
                yield column, text == "t"
            elif self.types[column] in BARE:
                yield column, json.loads(text)
            else:
                yield column, text


class Rival:
    """One daemon. Subclasses say how it is configured and started."""

    def __init__(self, stage: Stage, name: str, rows: int) -> None:
        self.stage, self.name, self.rows = stage, name, rows
        self.process: subprocess.Popen[bytes] | None = None

    def configuration(self) -> str:
        raise NotImplementedError

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    @property
    def socket(self) -> Path:
        return self.dir / "log.sock"

    def start(self) -> None:
        self.data = Rows(self.stage, self.rows)
        self.dir = make_dir("rival")
        (self.dir / "conf").write_text(self.configuration())
        with (self.dir / "output").open("wb") as output:
            self.process = subprocess.Popen(self.command(), cwd=self.dir, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                            env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": f"{UNPACKED}/usr/lib/syslog-ng"})
        proc.wait_until(self._listens, 20, f"{self.name} to listen")

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}\n{self.complaint}")
        return self.socket.exists()

    @property
    def complaint(self) -> str:
        return proc.tail(self.dir / "output", 10)

    def close(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        remove_dir(self.dir)

    def run(self) -> Sample:
        assert self.process is not None
        connection = self.stage.db.connect()
        cursor = connection.cursor()
        watch = CpuWatch(self.stage.postmaster, {"daemon": self.process.pid}, but=(connection.info.backend_pid,))
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.settimeout(60)
        sender.connect(str(self.socket))
        began = time.monotonic()
        for datagram in self.data.datagrams:
            sender.send(datagram)
        sent = committed = time.monotonic()
        sender.close()
        stored, looked = 0, sent
        while stored < self.rows and committed + QUIET_SECONDS > time.monotonic():
            time.sleep(0.005)
            now = time.monotonic()
            # Its last row shows in an index that the end is near; only then, and once in a while, rows are counted.
            cursor.execute("SELECT EXISTS (SELECT FROM billing_events WHERE session_id = %s AND occurred_at = %s)",
                           (self.data.last["session_id"], self.data.last["occurred_at"]))
            if cursor.fetchone()[0] or now > looked + 1:
                looked = now
                cursor.execute("SELECT count(*) FROM billing_events")
                count = cursor.fetchone()[0]
                if count > stored:
                    stored, committed = count, time.monotonic()
        cpu = watch.read()
        connection.close()
        if stored != self.rows:
            raise WrongRows(f"{self.name} lost {self.rows - stored} of {self.rows} rows\n{self.complaint}")
        self.stage.check_events(self.rows)
        return Sample(self.rows, committed - began, cpu, {"sent_s": sent - began})


class Rsyslog(Rival):
    """imuxsock, mmjsonparse, ompgsql. Each worker has a connection for each kind of event."""

    def __init__(self, stage: Stage, workers: int, rows: int) -> None:
        super().__init__(stage, f"rsyslog, {workers} worker{'s' if workers > 1 else ''}", rows)
        self.workers = workers

    def configuration(self) -> str:
        templates, actions = [], []
        for kind, columns in self.data.kinds.items():
            values = ", ".join(f"'%$!{column}%'" if always else f"NULLIF('%$!{column}%', '')::{self.data.types[column]}"
                               for column, always in columns.items())
            templates.append(f'template(name="{kind}" type="string" option.stdsql="on"\n'
                             f'         string="INSERT INTO billing_events ({", ".join(columns)}) VALUES ({values})")')
            actions.append(f'if $!event_type == "{kind}" then action(type="ompgsql" template="{kind}" server="{self.stage.cluster.dir}"'
                           f' db="{self.stage.db.name}" user="postgres" pass="" action.resumeRetryCount="-1")')
        return fill("rsyslog.conf.in", "@", directory=str(self.dir), socket=str(self.socket), workers=str(self.workers),
                    templates="\n".join(templates), actions="\n".join(actions))

    def command(self) -> list[str | Path]:
        return [UNPACKED / "usr/sbin/rsyslogd", "-n", "-f", self.dir / "conf", "-i", self.dir / "pid", "-M", LIBRARIES / "rsyslog"]


class SyslogNg(Rival):
    """unix-dgram, json-parser, sql() through libdbi."""

    def configuration(self) -> str:
        destinations, paths = [], []
        for kind, columns in self.data.kinds.items():
            destinations.append(
                f'destination {kind} {{ sql(type(pgsql) host("{self.stage.cluster.dir}") database("{self.stage.db.name}") username("postgres")'
                f' password("") table("billing_events") persist-name("{kind}")\n'
                f'  columns({", ".join(json.dumps(column) for column in columns)})\n'
                f'  values({", ".join(f"""{chr(34)}${{.event.{column}}}{chr(34)}""" for column in columns)})\n'
                f'  null("") indexes() flags(explicit-commits, dont-create-tables) batch-lines(1000) batch-timeout(100)'
                f' log-fifo-size(100000)); }};')
            paths.append(f'  log {{ filter {{ "${{.event.event_type}}" eq "{kind}" }}; destination({kind}); flags(flow-control); }};')
        return fill("syslog-ng.conf.in", "%", socket=str(self.socket), destinations="\n".join(destinations), paths="\n".join(paths))

    def command(self) -> list[str | Path]:
        return [UNPACKED / "usr/sbin/syslog-ng", "-F", "--no-caps", "-f", self.dir / "conf", "--persist-file", self.dir / "persist",
                "--pidfile", self.dir / "pid", "--control", self.dir / "control", "--module-path", UNPACKED / "usr/lib/syslog-ng/3.38"]


def fill(file: str, mark: str, **values: str) -> str:
    """A file's text, each name between two marks replaced by its value."""
    text = (HERE / file).read_text()
    for name, value in values.items():
        text = text.replace(f"{mark}{name}{mark}", value)
    return text


def contenders(stage: Stage, rows: int = 20000) -> list[Rival]:
    """rows: for the fastest; the others get half. Fetches the packages first; Absent where that fails."""
    fetched = subprocess.run(["sh", HERE / "packages.sh", UNPACKED], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if fetched.returncode != 0:
        raise Absent(f"rsyslog and syslog-ng could not be fetched: {fetched.stderr.strip()}")
    return [Rsyslog(stage, 1, rows // 2), Rsyslog(stage, 4, rows), SyslogNg(stage, "syslog-ng", rows // 2)]


# --- on its own -------------------------------------------------------------------------------------------------------------

# A turn is an event of each kind; a thousand calls go on side by side.
SAMPLE_SESSIONS = """
INSERT INTO billing_sessions (session_id, started_at)
SELECT md5(s::text)::uuid, date_trunc('hour', now()) FROM generate_series(0, 999) AS s
"""
SAMPLE_EVENTS = """
INSERT INTO billing_events (session_id, event_type, provider, model, input_tokens, output_tokens, cached_input_tokens, estimated, char_count,
                            voice, audio_duration_ms, language, turn_id, agent, request_id, ttfb_ms, duration_ms, occurred_at)
SELECT md5((turn %% 1000)::text)::uuid, kind, provider, model, CASE kind WHEN 'llm' THEN turn %% 4000 + 900 END,
       CASE kind WHEN 'llm' THEN turn %% 90 + 20 END, CASE WHEN kind = 'llm' AND turn %% 5 > 0 THEN 512 END, CASE kind WHEN 'llm' THEN false END,
       CASE kind WHEN 'tts' THEN turn %% 200 + 40 END, CASE kind WHEN 'tts' THEN 'Newsman' END,
       CASE WHEN kind <> 'llm' THEN turn %% 900 + 1500.25 END, CASE kind WHEN 'stt' THEN 'en' END, md5('turn' || turn)::uuid,
       CASE WHEN kind <> 'stt' THEN 'support' END, 'r' || i, turn %% 300 + 90.5, turn %% 700 + 990.75,
       date_trunc('hour', now()) + i * interval '100 microseconds'
FROM generate_series(0, %s - 1) AS i CROSS JOIN LATERAL (SELECT i / 3 AS turn) AS t
     JOIN (VALUES (0, 'stt', 'deepgram', 'nova-3'), (1, 'llm', 'openai', 'gpt-4o'), (2, 'tts', 'cartesia', 'sonic-2'))
         AS k (step, kind, provider, model) ON step = i %% 3
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20000, help="for rsyslog with four workers; half for the others (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    stage = Stage().open()
    series: dict[str, Series] = {}
    try:
        stage.db.execute(SAMPLE_SESSIONS)
        stage.db.execute(SAMPLE_EVENTS, options.rows)
        stage.keep_rows()
        for rival in contenders(stage, options.rows):
            try:
                rival.start()
                one = series[rival.name] = Series()
                for _ in range(options.rounds):
                    stage.fresh()
                    one.samples.append(rival.run())
            finally:
                rival.close()
            if not options.json:
                print(f"{rival.name:20} {one.rate.median:8,.0f} rows/s ({one.rate.low:,.0f} - {one.rate.high:,.0f}), CPU us a row:"
                      f" daemon {one.cpu_us('daemon').median:.1f}, PostgreSQL's backends {one.cpu_us('backend').median:.1f}", flush=True)
    finally:
        stage.close()
    if options.json:
        json.dump({name: one.as_json() for name, one in series.items()}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
