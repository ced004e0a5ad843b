"""tolld and the programs around it: start, stop, kill, freeze, ask, and play calls with tollsim.

A Daemon lives in a directory of its own with its state, its sockets and its log. Starting it again goes on from that state.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import proc

# What systemd does for a socket-activated service: the socket as descriptor 3, LISTEN_PID the very process.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="toll.sock")
os.execv(sys.argv[2], sys.argv[2:])
"""

Config = Mapping[str, Any]


class Daemon:
    """One tolld. dsn None: the log sink. activated: the harness holds the datagram socket, as systemd would.

    config: the configuration file's options, as {"section.option": value}. env: more environment. wrapper: words before tolld.
    """

    live: list[Daemon] = []  # every daemon not yet closed, for reports on failure
    writers = int(os.environ.get("TOLL_WRITERS") or 1)  # of those that store in a database, where their config says nothing else

    def __init__(self, dsn: str | None = None, *, config: Config | None = None, activated: bool = False,
                 env: Mapping[str, str] | None = None, args: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
        self.dir = proc.make_dir("d")
        self.state = self.dir / "state"
        self.state.mkdir()
        self.socket = self.dir / "toll.sock"
        self.control = self.dir / "control.sock"
        self.log = self.dir / "log"       # stderr, of every start
        self.output = self.dir / "output"  # stdout: what the log sink writes
        self.conf = self.dir / "tolld.conf"
        self.dsn = dsn
        self.args = list(args)
        self.wrapper = list(wrapper)
        self.extra_env = dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._listener = self._listen() if activated else None
        self._notify: socket.socket | None = None
        self._notified: list[str] = []
        self.write_config(config or {})
        Daemon.live.append(self)

    # --- life ---

    def start(self, ready_seconds: float = 10) -> Daemon:
        """Starts tolld and waits for READY=1; ready_seconds 0 does not wait."""
        assert not self.running, "it runs already"
        self._open_notify_socket()
        command = [*self.wrapper, str(proc.BUILD / "tolld"), "--config", str(self.conf), *self.args]
        descriptors: tuple[int, ...] = ()
        if self._listener is not None:
            descriptors = (self._listener.fileno(),)
            command = ["/usr/bin/python3", "-SEc", ACTIVATE, str(descriptors[0]), *command]
        with self.log.open("ab") as log, self.output.open("ab") as output:
            self.process = subprocess.Popen(command, cwd=self.dir, env=self.environment(notify=True), stdin=subprocess.DEVNULL,
                                            stdout=output, stderr=log, pass_fds=descriptors, start_new_session=True)
        if ready_seconds:
            self.wait_ready(ready_seconds)
        return self

    def wait_ready(self, seconds: float = 10) -> None:
        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"tolld ended with {self.process and self.process.returncode} before READY\n{proc.tail(self.log)}")
            return "READY=1" in self.notifications()
        proc.wait_until(ready, seconds, "tolld to say READY=1")

    def notifications(self) -> list[str]:
        """Every line that this start has told the service manager so far."""
        assert self._notify is not None
        while True:
            try:
                data, ancillary, _, _ = self._notify.recvmsg(4096, socket.CMSG_SPACE(64))
            except BlockingIOError:
                return self._notified
            self._notified += data.decode().splitlines()
            for level, kind, payload in ancillary:  # a barrier waits until its descriptor is closed
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    for fd in array.array("i", payload[:len(payload) // 4 * 4]):
                        os.close(fd)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send_signal(signal.SIGCONT)

    def wait(self, seconds: float = 15) -> int:
        """Waits for the end; returns the exit status, or minus the signal that ended it."""
        assert self.process is not None
        return self.process.wait(seconds * proc.SLOWNESS)

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self, number: int = signal.SIGTERM, seconds: float = 15) -> int:
        """Asks it to end and returns its exit status."""
        self.send_signal(number)
        return self.wait(seconds)

    def restart(self) -> Daemon:
        status = self.stop()
        assert status == 0, f"tolld ended with {status}"
        return self.start()

    def close(self) -> None:
        """Ends it if need be, and removes everything."""
        if self in Daemon.live:
            Daemon.live.remove(self)
        if self.running:
            self.kill()
        for each in (self._listener, self._notify):
            if each is not None:
                each.close()
        proc.remove_dir(self.dir)

    # --- socket activation ---

    @property
    def activated(self) -> bool:
        return self._listener is not None

    def use_activation(self, on: bool) -> None:
        """From the next start on the harness holds the socket, or tolld binds it. What waits in a socket that is given up is lost."""
        assert not self.running
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.socket.unlink(missing_ok=True)
        if on:
            self._listener = self._listen()

    # --- asking ---

    def ctl(self, *words: str, check: bool = True, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs tollctl against this daemon."""
        return proc.run([proc.BUILD / "tollctl", *words], env=self.environment(), check=check, seconds=seconds)

    def ctl_json(self, *words: str) -> Any:
        return json.loads(self.ctl("--json", *words).stdout)

    def status(self) -> dict[str, Any]:
        return self.ctl_json("status")

    def wait_stored(self, frames: int | None = None, seconds: float = 20) -> dict[str, Any]:
        """Waits until nothing received is pending (and at least so many frames were received); returns the status."""
        def settled() -> dict[str, Any] | None:
            now = self.status()
            enough = frames is None or now["frames_received"] >= frames
            return now if enough and now["frames_pending"] == 0 and now["backlog_bytes"] == 0 else None
        return proc.wait_until(settled, seconds, "everything received to be stored", every=0.05)  # type: ignore[return-value]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_log(self, text: str, seconds: float = 10) -> str:
        """Waits for a text in the log; returns the line that has it."""
        def line() -> str | None:
            return next((each for each in self.log_text().splitlines() if text in each), None)
        return proc.wait_until(line, seconds, f"{text!r} in the log")  # type: ignore[return-value]

    # --- set-up ---

    def write_config(self, config: Config) -> None:
        """Replaces the configuration file; a running daemon reads it at its next SIGHUP."""
        sections: dict[str, list[str]] = {}
        if self.dsn is not None and Daemon.writers != 1:
            config = {"database.writers": Daemon.writers, **config}
        for key, value in config.items():
            section, option = key.split(".")
            sections.setdefault(section, []).append(f"{option} = {value}\n")
        self.conf.write_text("".join(f"[{section}]\n" + "".join(lines) for section, lines in sections.items()))

    def environment(self, notify: bool = False) -> dict[str, str]:
        """The environment of tolld, and of any program that shall find it."""
        left_out = ("DATABASE_URL", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "PG", "TOLL_SOCKET", "TOLL_STATE_DIR", "TOLL_CONTROL")
        env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        env.update(TOLL_SOCKET=str(self.socket), TOLL_STATE_DIR=str(self.state), TOLL_CONTROL=str(self.control))
        if self.dsn is not None:
            env["DATABASE_URL"] = self.dsn
        if notify:
            env["NOTIFY_SOCKET"] = str(self.dir / f"notify.{self.starts}")
        return env | self.extra_env

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(str(self.socket))
        self.socket.chmod(0o666)
        return listener

    def _open_notify_socket(self) -> None:
        """A new one for each start, so that nobody mistakes an earlier start's READY for this one's."""
        if self._notify is not None:
            self._notify.close()
        self.starts += 1
        self._notified = []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._notify.bind(str(self.dir / f"notify.{self.starts}"))


def tolld(*args: str, env: Mapping[str, str] | None = None, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    """Runs tolld for an answer (--version, --check-config, --migrate …) or a refusal, to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_URL", "NOTIFY_SOCKET", "TOLL_S", "TOLL_C"))}
    return proc.run([proc.BUILD / "tolld", *args], env=clean | dict(env or {}), check=False, seconds=seconds)


def migrate(dsn: str) -> None:
    done = tolld("--migrate", env={"DATABASE_URL": dsn})
    if done.returncode != 0:
        raise RuntimeError(f"tolld --migrate ended with {done.returncode}\n{done.stdout}{done.stderr}")


class Sim:
    """tollsim: simulated voice workers, linked with libtoll, in processes of their own. env: more environment."""

    def __init__(self, socket_path: str | Path, *words: str | int, env: Mapping[str, str] | None = None) -> None:
        command = [str(proc.BUILD / "tollsim"), "--socket", str(socket_path), "--json", "--flush-ms", str(int(10000 * proc.SLOWNESS)),
                   *map(str, words)]
        self.process = subprocess.Popen(command, env=os.environ | dict(env or {}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True)

    def wait(self, seconds: float = 60) -> dict[str, Any]:
        """Waits for its end; returns its report (the last line it printed)."""
        out, err = self.process.communicate(timeout=seconds * proc.SLOWNESS)
        if self.process.returncode != 0:
            raise RuntimeError(f"tollsim ended with {self.process.returncode}\n{out}{err}")
        print(err, end="", file=sys.stderr)
        return json.loads(out.strip().splitlines()[-1])

    def kill(self) -> None:
        """SIGKILL for it and for its workers, which share its process group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()

    def __enter__(self) -> Sim:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
