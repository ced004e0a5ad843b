"""The daemon as a process: how it starts, refuses to start, reloads and ends. What it does with frames is tested elsewhere."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Callable

import pytest

from harness import Cluster, Daemon, Database, Sender, StreamSender, frames, make_dir, remove_dir, tolld, wait_until

USAGE, CONFIGURATION = 2, 78

Factory = Callable[..., Daemon]


def log_sink_lines(daemon: Daemon) -> list[dict]:
    return [json.loads(line) for line in daemon.output.read_text().splitlines()]


# --- with and without a database ---

def test_log_sink_without_database(daemon_factory: Factory) -> None:
    """No DATABASE_URL: every frame is a line of JSON on standard output."""
    daemon = daemon_factory().start()
    session = frames.new_session()
    call = frames.call(session, turns=2)
    with Sender(daemon.socket) as sender:
        sender.send(*call)
    daemon.wait_stored(len(call))
    assert daemon.stop() == 0
    lines = log_sink_lines(daemon)
    mine = [line for line in lines if str(session) in json.dumps(line)]
    assert len(mine) >= len(call)
    assert "answer 1" in daemon.output.read_text()
    assert "answer 1" not in daemon.log_text(), "transcript text belongs into no log"


def test_ready_and_acknowledging_with_database_down(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """READY does not wait for PostgreSQL, nor do acknowledgements; everything arrives when it is back."""
    database = own_cluster.create_database()
    assert tolld("--migrate", env={"DATABASE_URL": database.dsn}).returncode == 0
    own_cluster.stop("immediate")
    daemon = daemon_factory(database.dsn).start()
    session = frames.new_session()
    call = frames.call(session)
    with StreamSender(daemon.socket) as sender:
        sender.send(*call)
        assert sender.wait_acked(seconds=5) == len(call)
        assert sender.page.magic == 0x4C4C4F54 and sender.page.version == 1 and sender.page.epoch != 0
    status = daemon.status()
    assert status["frames_pending"] == len(call) and status["frames_stored"] == 0
    own_cluster.start()
    status = daemon.wait_stored(len(call), seconds=40)
    assert status["frames_stored"] == len(call)
    assert database.value("SELECT count(*) FROM billing_events WHERE session_id = %s", str(session)) == 9
    assert database.value("SELECT llm_calls FROM billing_sessions WHERE session_id = %s", str(session)) == 3
    assert daemon.stop() == 0


def test_starts_by_itself_on_a_frame_of_another_life(daemon_factory: Factory, db: Database) -> None:
    """What was acknowledged before a SIGKILL is stored after the next start, though nobody sends it again."""
    daemon = daemon_factory(db.dsn).start()
    session = frames.new_session()
    with StreamSender(daemon.socket) as sender:
        db.cluster.stop("immediate")
        sender.send(*frames.call(session))
        sender.wait_acked(seconds=5)
        daemon.kill()
    db.cluster.start()
    daemon.start()
    wait_until(lambda: db.query("SELECT 1 FROM billing_sessions WHERE session_id = %s AND ended_at IS NOT NULL", str(session)), 40)


def test_socket_activation(daemon_factory: Factory, db: Database) -> None:
    """The socket outlives the daemon: what is sent between two lives waits in the kernel's queue."""
    daemon = daemon_factory(db.dsn, activated=True).start()
    session = frames.new_session()
    with Sender(daemon.socket) as sender:
        sender.send(frames.session_start(session))
        daemon.wait_stored(1)
        assert daemon.stop() == 0
        assert daemon.socket.exists(), "a socket that systemd made is not the daemon's to remove"
        sender.send(frames.llm(session))
        sender.send(frames.session_end(session))
        daemon.start()
        daemon.wait_stored(2)
    assert db.value("SELECT llm_calls FROM billing_sessions WHERE session_id = %s", str(session)) == 1


def test_own_socket_is_made_and_removed(daemon_factory: Factory) -> None:
    daemon = daemon_factory().start()
    assert daemon.socket.is_socket() and daemon.control.is_socket()
    assert daemon.stop() == 0
    assert not daemon.socket.exists() and not daemon.control.exists()


def test_stale_socket_of_a_killed_daemon_is_replaced(daemon_factory: Factory) -> None:
    daemon = daemon_factory().start()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    with Sender(daemon.socket) as sender:
        sender.send(frames.session_start(frames.new_session()))
    daemon.wait_stored(1)


# --- the end ---

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_drains_and_exits_0(daemon_factory: Factory, db: Database, number: int) -> None:
    """What was received before the signal is in PostgreSQL when the process is gone."""
    daemon = daemon_factory(db.dsn).start()
    sessions = [frames.new_session() for _ in range(20)]
    with StreamSender(daemon.socket) as sender:
        for session in sessions:
            sender.send(*frames.call(session))
        sender.wait_acked()
    assert daemon.stop(number) == 0
    assert any("STOPPING=1" == line for line in daemon.notifications())
    assert db.value("SELECT count(*) FROM billing_sessions WHERE ended_at IS NOT NULL") == len(sessions)
    assert db.value("SELECT count(*) FROM billing_events") == len(sessions) * 9


def test_second_sigterm_exits_at_once(daemon_factory: Factory, own_cluster: Cluster) -> None:
    """A frozen server keeps a draining daemon until its deadline, here ten minutes; a second signal does not wait for that."""
    database = own_cluster.create_database()
    assert tolld("--migrate", env={"DATABASE_URL": database.dsn}).returncode == 0
    daemon = daemon_factory(database.dsn, config={"daemon.shutdown_deadline": "10m"}).start()
    with StreamSender(daemon.socket) as sender:
        sender.send(frames.session_start(frames.new_session()))
        sender.wait_acked()
        daemon.wait_stored(1)
        for pid in own_cluster.backends(database.name):
            own_cluster.freeze(pid)
        sender.send(*frames.call(frames.new_session()))
        sender.wait_acked()
    daemon.send_signal(signal.SIGTERM)
    wait_until(lambda: "STOPPING=1" in daemon.notifications(), 5, "the first SIGTERM to be heard")
    assert daemon.running
    began = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(30)
    print(f"ended {1000 * (time.monotonic() - began):.0f} ms after the second SIGTERM")


# --- SIGHUP ---

def test_reload_takes_a_good_file(daemon_factory: Factory) -> None:
    daemon = daemon_factory(config={"batch.rows": 5}).start()
    daemon.write_config({"batch.rows": 7})
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.notifications().count("READY=1") >= 2, 5, "READY=1 after RELOADING=1")
    assert any(line.startswith("RELOADING=1") for line in daemon.notifications())
    assert "batch.rows" in daemon.wait_log("reloaded")


def test_reload_says_what_needs_a_restart(daemon_factory: Factory) -> None:
    daemon = daemon_factory().start()
    daemon.write_config({"journal.ack": "write"})
    daemon.send_signal(signal.SIGHUP)
    assert "restart_needed_for=journal.ack" in daemon.wait_log("reloaded")
    assert daemon.stop() == 0


def test_reload_takes_the_log_level(daemon_factory: Factory) -> None:
    """A reload changes behaviour, not only words."""
    daemon = daemon_factory(config={"daemon.log_level": "error"}).start()
    assert daemon.log_text() == ""
    daemon.write_config({"daemon.log_level": "info"})
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_log("configuration reloaded")
    assert daemon.stop() == 0


def test_reload_refuses_a_bad_file_and_goes_on(daemon_factory: Factory) -> None:
    daemon = daemon_factory().start()
    daemon.conf.write_text("[batch]\nno_such_option = 1\n")
    daemon.send_signal(signal.SIGHUP)
    line = daemon.wait_log("no_such_option")
    assert f"{daemon.conf}:2" in line
    with Sender(daemon.socket) as sender:
        sender.send(frames.session_start(frames.new_session()))
    daemon.wait_stored(1)
    assert daemon.stop() == 0


# --- refusals ---

def test_second_daemon_on_one_state_directory(daemon_factory: Factory) -> None:
    """The second says whose the directory is and leaves the first and its sockets alone."""
    first = daemon_factory().start()
    refused = tolld(env={**first.environment(), "TOLL_SOCKET": f"{first.dir}/two.sock", "TOLL_CONTROL": f"{first.dir}/two.ctl"})
    assert refused.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert str(first.state) in refused.stderr
    assert first.status()["frames_received"] == 0


def test_second_daemon_on_one_socket(daemon_factory: Factory) -> None:
    """Two daemons can't take turns at one socket: the second doesn't steal it from the first."""
    first = daemon_factory().start()
    second = daemon_factory()
    refused = tolld(env={**second.environment(), "TOLL_SOCKET": str(first.socket)})
    assert refused.returncode != 0 and str(first.socket) in refused.stderr
    with Sender(first.socket) as sender:
        sender.send(frames.session_start(frames.new_session()))
    first.wait_stored(1)


def test_socket_path_too_long(daemon_factory: Factory) -> None:
    daemon = daemon_factory()
    path = f"{daemon.dir}/{'x' * 110}.sock"
    refused = tolld(env={**daemon.environment(), "TOLL_SOCKET": path})
    assert refused.returncode == CONFIGURATION
    assert path in refused.stderr and "107" in refused.stderr


def test_unwritable_state_directory(daemon_factory: Factory) -> None:
    """A directory below a file is unwritable for root as well."""
    daemon = daemon_factory()
    (daemon.dir / "file").write_text("")
    path = f"{daemon.dir}/file/state"
    refused = tolld(env={**daemon.environment(), "TOLL_STATE_DIR": path})
    assert refused.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert path in refused.stderr


# --- the command line and the file ---

@pytest.fixture
def conf() -> Path:
    made = make_dir("c")
    yield made / "tolld.conf"
    remove_dir(made)


def test_version() -> None:
    done = tolld("--version")
    assert done.returncode == 0 and done.stdout.startswith("tolld 0.") and not done.stderr


def test_help() -> None:
    done = tolld("--help")
    assert done.returncode == 0 and not done.stderr
    for option in ("--config", "--check-config", "--migrate", "--version", "--help"):
        assert option in done.stdout


def test_unknown_option_is_a_usage_error() -> None:
    done = tolld("--no-such-option")
    assert done.returncode == USAGE and "no-such-option" in done.stderr and not done.stdout


def test_left_over_argument_is_a_usage_error() -> None:
    done = tolld("surplus")
    assert done.returncode == USAGE and "surplus" in done.stderr


def test_check_config_accepts_an_empty_file(conf: Path) -> None:
    conf.write_text("# nothing\n")
    assert tolld("--config", str(conf), "--check-config").returncode == 0


def test_check_config_names_file_and_line_of_an_unknown_key(conf: Path) -> None:
    conf.write_text("# a comment\n[daemon]\nno_such_option = 1\n")
    done = tolld("--config", str(conf), "--check-config")
    assert done.returncode == CONFIGURATION
    assert f"{conf}:3" in done.stderr and "no_such_option" in done.stderr


def test_check_config_names_file_and_line_of_a_bad_value(conf: Path) -> None:
    conf.write_text("[journal]\nack = perhaps\n")
    done = tolld("--config", str(conf), "--check-config")
    assert done.returncode == CONFIGURATION
    assert f"{conf}:2" in done.stderr and "perhaps" in done.stderr


def test_named_file_must_exist(conf: Path) -> None:
    done = tolld("--config", str(conf), "--check-config")
    assert done.returncode == CONFIGURATION and str(conf) in done.stderr


def test_bad_file_is_refused_at_start(daemon_factory: Factory) -> None:
    daemon = daemon_factory(config={"batch.no_such_option": 1})
    daemon.start(ready_seconds=0)
    assert daemon.wait() == CONFIGURATION
    assert f"{daemon.conf}:2" in daemon.log_text()
    assert not daemon.socket.exists()


def test_migrate_twice_changes_nothing(empty_db: Database) -> None:
    env = {"DATABASE_URL": empty_db.dsn}
    for _ in range(2):
        done = tolld("--migrate", env=env)
        assert done.returncode == 0, done.stderr
        applied = empty_db.query("SELECT name, checksum, applied_at FROM toll.migrations ORDER BY name")
        assert applied
    assert empty_db.query("SELECT name, checksum, applied_at FROM toll.migrations ORDER BY name") == applied


def test_migrate_without_database_says_what_is_missing() -> None:
    done = tolld("--migrate")
    assert done.returncode in (USAGE, CONFIGURATION) and "DATABASE_URL" in done.stderr


def test_no_secret_in_the_log(daemon_factory: Factory) -> None:
    """A password in DATABASE_URL is never written anywhere, least of all when the connection fails."""
    daemon = daemon_factory("postgresql://toll:verysecret@127.0.0.1:1/none").start()
    with Sender(daemon.socket) as sender:
        sender.send(frames.session_start(frames.new_session()))
    wait_until(lambda: daemon.status()["frames_received"] == 1, 5, "the frame to be received")
    wait_until(lambda: "127.0.0.1" in daemon.log_text() or "onnect" in daemon.log_text(), 10, "a word about the connection")
    assert "verysecret" not in daemon.log_text() and "verysecret" not in daemon.ctl("status").stdout
    assert os.path.getsize(daemon.output) == 0
