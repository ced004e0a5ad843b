"""tollctl as people and programs use it, against a real daemon and a real database: what it prints, and its exit status."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import uuid
from typing import Any, Callable

import pytest

from harness import BUILD, Daemon, Database, Sender, StreamSender, frames, tolld, wait_until

DONE, BAD, USAGE, NO_DAEMON, NO_DATABASE = range(5)
COMMANDS = ("status", "sessions", "session", "streams", "verify", "quarantine", "flush")

Factory = Callable[..., Daemon]


def ask(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return daemon.ctl(*words, check=False)


def ask_json(daemon: Daemon, *words: str, status: int = DONE) -> Any:
    done = ask(daemon, "--json", *words)
    assert done.returncode == status, done.stderr
    assert done.stdout.endswith("\n")
    return json.loads(done.stdout)


def send(daemon: Daemon, *each: frames.Frame | bytes) -> None:
    """Sent, and committed."""
    with Sender(daemon.socket) as sender:
        sender.send(*each)
    daemon.ctl("flush")


@pytest.fixture
def no_daemon(daemon_factory: Factory, db: Database) -> Daemon:
    """A database whose daemon is not running."""
    return daemon_factory(db.dsn)


@pytest.fixture
def bare(daemon_factory: Factory) -> Daemon:
    """Neither a daemon nor a database."""
    return daemon_factory()


# --- the command line ---

def test_help(bare: Daemon) -> None:
    done = ask(bare, "--help")
    assert done.returncode == DONE and not done.stderr
    for word in (*COMMANDS, "--json", "--control", "--database", "--config", "--limit", "--timeout", "--since", "--bytes", "--version",
                 "Exit status"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 130


def test_version_is_the_daemons(bare: Daemon) -> None:
    assert ask(bare, "--version").stdout.split()[1] == tolld("--version").stdout.split()[1]


@pytest.mark.parametrize(("words", "told"), [
    ((), "Usage"), (("frobnicate",), "frobnicate"), (("status", "now"), "usage: status"), (("--frobnicate",), "frobnicate"),
    (("session",), "session UUID"), (("session", "not-a-uuid"), "not-a-uuid"), (("session", "a" * 36), "not a UUID"),
    (("session", str(uuid.uuid4()), "more"), "session UUID"), (("sessions", "--limit", "0"), "--limit"), (("sessions", "--limit", "-1"), "-1"),
    (("sessions", "--limit", "many"), "many"), (("sessions", "--limit", "10001"), "10001"), (("flush", "--timeout", "1h"), "1h"),
    (("flush", "--timeout"), "timeout"), (("verify", "--since", "whenever"), "whenever"), (("status", "--bytes"), "does not take"),
    (("flush", "--limit", "5"), "does not take"),
])
def test_wrong_words_are_explained(bare: Daemon, words: tuple[str, ...], told: str) -> None:
    done = ask(bare, *words)
    assert done.returncode == USAGE and told in done.stderr and not done.stdout
    assert "--help" in done.stderr or "Usage" in done.stderr


def test_options_stand_anywhere(daemon: Daemon) -> None:
    for words in (("--json", "status"), ("status", "--json")):
        assert json.loads(ask(daemon, *words).stdout)["pid"] == daemon.pid


def test_finds_the_daemon_by_option_file_and_environment(daemon: Daemon) -> None:
    """In this order: option, environment, configuration file."""
    bare = {"PATH": "/usr/bin:/bin"}

    def status(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BUILD / "tollctl", "--json", *words, "status"], env=bare | env, capture_output=True, text=True, timeout=30)

    conf = daemon.dir / "other.conf"
    conf.write_text(f"[daemon]\ncontrol = {daemon.control}\n[database]\nurl = {daemon.dsn}\n")
    assert json.loads(status({}, "--control", str(daemon.control)).stdout)["pid"] == daemon.pid
    assert json.loads(status({"TOLL_CONTROL": str(daemon.control)}).stdout)["pid"] == daemon.pid
    assert json.loads(status({}, "--config", str(conf)).stdout)["pid"] == daemon.pid
    assert json.loads(status({"TOLL_CONTROL": "/nowhere"}, "--control", str(daemon.control)).stdout)["pid"] == daemon.pid
    assert status({"TOLL_CONTROL": "/nowhere"}, "--config", str(conf)).returncode == NO_DAEMON
    verified = subprocess.run([BUILD / "tollctl", "--config", conf, "verify"], env=bare, capture_output=True, text=True, timeout=30)
    assert verified.returncode == DONE and verified.stdout.splitlines()[-1].startswith("OK")


def test_a_missing_or_bad_file_is_named(daemon: Daemon) -> None:
    missing = ask(daemon, "--config", "/nowhere/tolld.conf", "status")
    assert missing.returncode == USAGE and "/nowhere/tolld.conf" in missing.stderr
    conf = daemon.dir / "bad.conf"
    conf.write_text("[daemon]\nno_such_option = 1\n")
    bad = ask(daemon, "--config", str(conf), "status")
    assert bad.returncode == USAGE and f"{conf}:2" in bad.stderr


def test_a_full_standard_output_is_an_error(daemon: Daemon) -> None:
    """A script that redirects to a full disk must not go on with half an answer."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([BUILD / "tollctl", "--json", "status"], env=daemon.environment(), stdout=full, stderr=subprocess.PIPE, text=True,
                              timeout=30)
    assert done.returncode == BAD and "standard output" in done.stderr


# --- nobody there ---

@pytest.mark.parametrize("command", ["status", "sessions", "flush"])
def test_daemon_down(bare: Daemon, command: str) -> None:
    done = ask(bare, command)
    assert done.returncode == NO_DAEMON and not done.stdout
    assert str(bare.control) in done.stderr and "systemctl status tolld" in done.stderr


def test_daemon_down_but_the_database_answers(no_daemon: Daemon) -> None:
    """What can be told without the daemon is told, and that it is down is said too."""
    verified = ask(no_daemon, "verify")
    assert verified.returncode == DONE and "OK" in verified.stdout and "not flushed" in verified.stderr
    assert ask_json(no_daemon, "verify")["flushed"] is False
    assert ask(no_daemon, "quarantine").stdout == "nothing is in quarantine\n"
    streams = ask(no_daemon, "streams")
    assert streams.returncode == NO_DAEMON and "no holes" in streams.stdout
    assert ask_json(no_daemon, "streams", status=NO_DAEMON) == {"streams": None, "holes": []}
    unknown = ask(no_daemon, "session", str(uuid.uuid4()))
    assert unknown.returncode == BAD and "can't reach tolld" in unknown.stderr and "no session" in unknown.stderr


def test_something_else_at_the_control_socket(bare: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bare.control))
        listener.listen()
        with subprocess.Popen([BUILD / "tollctl", "status"], env=bare.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as asking:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"\xa5hello")
            out, err = asking.communicate(timeout=30)
    assert asking.returncode == NO_DAEMON and "not tolld" in err and not out


@pytest.mark.parametrize("command", ["verify", "quarantine"])
def test_database_down(daemon_factory: Factory, command: str) -> None:
    daemon = daemon_factory("host=/nowhere dbname=toll password=verysecret").start()
    done = ask(daemon, command)
    assert done.returncode == NO_DATABASE and "/nowhere" in done.stderr and not done.stdout
    assert "verysecret" not in done.stderr + done.stdout


def test_database_down_but_the_daemon_answers(daemon_factory: Factory) -> None:
    """Its own memory is all that the daemon needs for a live session and for its streams."""
    daemon = daemon_factory("host=/nowhere dbname=toll").start()
    with StreamSender(daemon.socket) as sender:
        sender.send(frames.session_start(frames.new_session()))
        sender.wait_acked()
        status = ask(daemon, "status")
        assert status.returncode == DONE and re.search(r"sink_state +retrying", status.stdout) and "/nowhere" in status.stdout
        streams = ask(daemon, "--json", "streams")
        assert streams.returncode == NO_DATABASE and "/nowhere" in streams.stderr
        assert json.loads(streams.stdout)["streams"][0]["acked"] == 1
    assert ask(daemon, "session", str(uuid.uuid4())).returncode == NO_DATABASE
    began = time.monotonic()
    flush = daemon.ctl("flush", "--timeout", "1", check=False, seconds=30)  # a limit that fails it where it never gives up
    assert flush.returncode == BAD and "not everything was committed in time" in flush.stderr and "/nowhere" in flush.stderr
    assert time.monotonic() - began > 0.9


def test_no_database_at_all(daemon_factory: Factory) -> None:
    """The log sink: what lives in the database is refused with a word on how to name one."""
    daemon = daemon_factory().start()
    for command in ("verify", "quarantine"):
        done = ask(daemon, command)
        assert done.returncode == NO_DATABASE and "DATABASE_URL" in done.stderr
    session = frames.new_session()
    send(daemon, frames.session_start(session), frames.llm(session))
    assert ask(daemon, "status").returncode == ask(daemon, "sessions").returncode == ask(daemon, "streams").returncode == DONE
    assert ask_json(daemon, "session", str(session))["session"]["llm_calls"] == 1


def test_database_without_the_schema(daemon_factory: Factory, empty_db: Database) -> None:
    daemon = daemon_factory(empty_db.dsn)
    done = ask(daemon, "verify")
    assert done.returncode == NO_DATABASE and "tolld --migrate" in done.stderr


# --- status ---

def test_status(daemon: Daemon) -> None:
    """What programs rely on, and the same for people."""
    assert ask(daemon, "status").stdout.endswith("\nnothing needs attention\n")
    send(daemon, *frames.call(frames.new_session(), end=False), {"type": "fax"})
    wait_until(lambda: ask_json(daemon, "status")["quarantine_rows"], 10, "the quarantine to be looked at")
    status = ask_json(daemon, "status")
    assert {"version", "pid", "uptime_s", "intake", "ack", "sink", "sink_state", "sink_error", "frames_received", "frames_stored", "frames_duplicate",
            "frames_quarantined", "frames_pending", "journal_id", "journal_lsn", "durable_lsn", "committed_lsn", "oldest_lsn", "backlog_bytes",
            "journal_bytes", "sessions_live", "streams", "ack_pages", "alarms"} <= status.keys()
    assert (status["pid"], status["intake"], status["ack"], status["sink"], status["sink_state"]) == (daemon.pid, "reading", "sync", "postgres", "ok")
    assert status["frames_received"] == 17 and status["frames_stored"] == 16 and status["frames_quarantined"] == 1 and status["sessions_live"] == 1
    (alarm,) = status["alarms"]
    assert alarm["alarm"] == "quarantined" and "tollctl quarantine" in alarm["text"] and alarm["figures"].startswith("rows=1 ")
    assert abs(alarm["since_us"] / 1e6 - time.time()) < 60
    assert status["committed_lsn"] == status["durable_lsn"] == status["journal_lsn"] or status["backlog_bytes"] <= 256
    text = ask(daemon, "status").stdout
    for name, value in (("frames_received", "17"), ("sink_state", "ok"), ("intake", "reading")):
        assert re.search(rf"^{name} +{value}$", text, re.M), text
    assert re.search(r"^needs attention:\n  quarantined since .*: rows=1 .*\n      frames are in quarantine.*tollctl quarantine", text, re.M), text


# --- sessions ---

def test_sessions(daemon: Daemon) -> None:
    """Only the live ones, the latest active first."""
    assert ask(daemon, "sessions").stdout == "no live sessions\n" and ask_json(daemon, "sessions") == []
    live = [frames.new_session() for _ in range(5)]
    for each in live:
        send(daemon, frames.session_start(each), frames.llm(each, 10, 5))
    send(daemon, *frames.call(frames.new_session()), frames.tts(live[1], 30))
    rows = ask_json(daemon, "sessions")
    assert [row["session_id"] for row in rows] == [str(live[number]) for number in (1, 4, 3, 2, 0)]
    assert (rows[0]["llm_calls"], rows[0]["llm_input_tokens"], rows[0]["tts_chars"], rows[0]["complete"]) == (1, 10, 30, True)
    assert [row["session_id"] for row in ask_json(daemon, "sessions", "--limit", "2")] == [str(live[1]), str(live[4])]
    text = ask(daemon, "sessions", "--limit", "2").stdout
    assert text.splitlines()[0].split()[0] == "SESSION" and str(live[1]) in text and str(live[3]) not in text and "--limit" in text


TOTALS = {"llm_calls": 3, "llm_input_tokens": 303, "llm_output_tokens": 63, "tts_calls": 3, "tts_chars": 123, "stt_calls": 3,
          "stt_audio_us": 3004500}


def totals(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: answer["session"][key] for key in TOTALS}


def test_session_live_ended_and_after_a_restart(daemon: Daemon, db: Database) -> None:
    """Its totals are the same wherever they come from: memory, the database while it lives, the row it left."""
    session = frames.new_session()
    send(daemon, *frames.call(session, end=False, metadata={"user_id": "u_42"}))
    live = ask_json(daemon, "session", str(session))
    assert live["source"] == "daemon" and live["session"]["complete"] is True and totals(live) == TOTALS
    assert db.value("SELECT llm_calls FROM billing_sessions WHERE session_id = %s", str(session)) == 0, "not written before the end"
    text = ask(daemon, "session", str(session).upper())
    assert text.returncode == DONE and text.stdout.startswith("live, from the daemon's memory\n")
    assert re.search(r"^llm_input_tokens +303$", text.stdout, re.M)

    daemon.restart()
    send(daemon, frames.usage("sms", 1, session))  # so that memory has heard of it again, but not of all of it
    restarted = ask_json(daemon, "session", str(session))
    assert restarted["source"] == "database" and restarted["session"]["live"] is True and totals(restarted) == TOTALS
    assert restarted["session"]["metadata"] == {"user_id": "u_42"} and restarted["session"]["ended_at_us"] is None
    assert ask(daemon, "session", str(session)).stdout.startswith("from the database\n")

    send(daemon, frames.session_end(session, finish_reason="stop"))
    ended = ask_json(daemon, "session", str(session))
    assert ended["source"] == "database" and ended["session"]["live"] is False and totals(ended) == TOTALS
    assert ended["session"]["finish_reason"] == "stop" and ended["session"]["duration_us"] >= 0
    text = ask(daemon, "session", str(session)).stdout
    assert re.search(r"^finish_reason +stop$", text, re.M) and "u_42" in text


def test_session_incomplete_and_the_database_away(daemon: Daemon, db: Database) -> None:
    """After a restart memory has only a part of it: shown, and said to be a part."""
    session = frames.new_session()
    send(daemon, *frames.call(session, end=False))
    daemon.restart()
    send(daemon, frames.llm(session))
    db.cluster.stop()
    done = ask(daemon, "--json", "session", str(session))
    assert done.returncode == NO_DATABASE and "not complete" in done.stderr
    assert json.loads(done.stdout)["session"]["complete"] is False


def test_session_that_nobody_knows(daemon: Daemon) -> None:
    unknown = str(uuid.uuid4())
    for words in (("session", unknown), ("--json", "session", unknown)):
        done = ask(daemon, *words)
        assert done.returncode == BAD and f"there is no session {unknown}" in done.stderr and not done.stdout


# --- streams ---

def test_streams_and_holes(daemon: Daemon) -> None:
    assert ask(daemon, "streams").stdout == "no streams in memory\n\nno holes in the database: no numbered frame is missing\n"
    with StreamSender(daemon.socket, client="one\x1b[31m") as one, StreamSender(daemon.socket, client="two") as two:
        one.send(*frames.call(frames.new_session()))
        one.wait_acked()
        two.next = 5
        two.send(frames.tts(frames.new_session()))  # its base is 5: those below are somebody's acknowledged ones
        two.wait_acked()
        two.send_datagram(frames.pack(frames.envelope(two.stream, 9, 5, 1), frames.tts(frames.new_session())))
        daemon.ctl("flush")
        answer = ask_json(daemon, "streams")
        streams = {row["stream_id"]: row for row in answer["streams"]}
        first, second = streams[str(uuid.UUID(bytes=one.stream))], streams[str(uuid.UUID(bytes=two.stream))]
        assert (first["received"], first["acked"], first["holes"], first["page"], first["client"]) == (17, 17, 0, True, "one\x1b[31m")
        assert (second["received"], second["acked"], second["holes"]) == (5, 5, 1)
        (hole,) = answer["holes"]
        assert (hole["stream_id"], hole["from_seq"], hole["to_seq"], hole["missing"]) == (str(uuid.UUID(bytes=two.stream)), 6, 8, 3)
        text = ask(daemon, "streams").stdout
    assert str(uuid.UUID(bytes=two.stream)) in text and "never came" in text
    assert "\x1b" not in text, "a worker's name for itself must not move an operator's cursor"


# --- verify ---

def test_verify_proves(daemon: Daemon) -> None:
    """It waits for what is on its way, so it can be run at any time."""
    with StreamSender(daemon.socket) as sender:
        for _ in range(20):
            sender.send(*frames.call(frames.new_session()))
    answer = ask_json(daemon, "verify")
    assert (answer["ok"], answer["wrong"], answer["flushed"], answer["flush_error"]) == (True, 0, True, None)
    checks = {row["check_name"]: row for row in answer["checks"]}
    assert checks["session_totals"]["checked"] == 20 and not any(row["wrong"] for row in checks.values())
    text = ask(daemon, "verify")
    assert text.returncode == DONE and text.stdout.splitlines()[-1] == f"OK: {len(checks)} checks, nothing is wrong"
    assert text.stdout.splitlines()[0].split() == ["CHECK", "CHECKED", "WRONG", "DETAIL"]


DAMAGE = [
    ("session_totals", "UPDATE billing_sessions SET llm_input_tokens = llm_input_tokens + 1 WHERE metadata->>'n' = '0'"),
    ("session_totals", "UPDATE billing_sessions SET stt_audio_ms = stt_audio_ms - 0.001 WHERE metadata->>'n' = '1'"),
    ("session_durations", "UPDATE billing_sessions SET duration_secs = duration_secs + 1 WHERE metadata->>'n' = '0'"),
    ("live_sessions", "UPDATE billing_sessions SET tts_chars = 1 WHERE ended_at IS NULL"),
    ("batch_events", "DELETE FROM billing_events WHERE event_type = 'usage'"),
    ("batch_transcripts", "DELETE FROM session_transcripts WHERE id = (SELECT min(id) FROM session_transcripts)"),
    ("batch_ranges", "UPDATE toll.batches SET to_lsn = to_lsn + 1"),
    ("batch_frames", "ALTER TABLE toll.batches DROP CONSTRAINT batches_frames_check; UPDATE toll.batches SET received = received + 1"),
    ("batch_quarantine", "DELETE FROM toll.quarantine"),
    ("stream_holes", "UPDATE toll.streams SET seen = seen - '{[3,4)}'::int8multirange"),
]


def test_verify_finds_what_somebody_changed(daemon: Daemon, db: Database) -> None:
    """One damage after the other: each is one fault more, exit status 1, and a line that says what is wrong with which."""
    with StreamSender(daemon.socket) as sender:
        for number in range(2):
            sender.send(*frames.call(frames.new_session(), metadata={"n": str(number)}))
        sender.send(frames.session_start(frames.new_session()), frames.usage("sms", 1, account="acme"), {"type": "fax"})
        sender.wait_acked()
    assert ask(daemon, "verify").returncode == DONE
    before: dict[str, int] = {}
    for check, damage in DAMAGE:
        db.execute(damage)
        answer = ask_json(daemon, "verify", status=BAD)
        wrong = {row["check_name"]: row for row in answer["checks"] if row["wrong"]}
        assert wrong[check]["wrong"] > before.get(check, 0) and wrong[check]["detail"], damage
        assert not answer["ok"] and answer["wrong"] == sum(row["wrong"] for row in wrong.values())
        before = {name: row["wrong"] for name, row in wrong.items()}
    session = db.value("SELECT session_id FROM billing_sessions WHERE metadata->>'n' = '1'")
    done = ask(daemon, "verify")
    assert done.returncode == BAD and done.stdout.splitlines()[-1].startswith("WRONG: ") and session in done.stdout


def test_verify_since(daemon: Daemon, db: Database) -> None:
    """Looks only at what was stored since; old faults are then not its business."""
    send(daemon, *frames.call(frames.new_session()))
    db.execute("UPDATE billing_sessions SET llm_calls = 7, ended_at = ended_at - interval '3 hours', started_at = started_at - interval '3 hours',"
               " updated_at = updated_at - interval '3 hours'")
    db.execute("UPDATE toll.batches SET committed_at = committed_at - interval '3 hours'")
    send(daemon, *frames.call(frames.new_session()))
    assert ask(daemon, "verify").returncode == BAD
    assert ask(daemon, "verify", "--since", "4h").returncode == BAD
    for since in ("1h", "30m"):
        assert ask(daemon, "verify", "--since", since).returncode == DONE


# --- quarantine ---

def test_quarantine(daemon: Daemon) -> None:
    """Newest first; the bytes only when asked for, since they may hold what callers said."""
    assert ask(daemon, "quarantine").stdout == "nothing is in quarantine\n" and ask_json(daemon, "quarantine") == []
    with StreamSender(daemon.socket) as sender:
        for number in range(3):
            sender.send({"type": f"fax{number}"})
        sender.wait_acked()
    daemon.ctl("flush")
    rows = ask_json(daemon, "quarantine")
    assert [row["reason"] for row in rows] == ['unknown type "fax2"', 'unknown type "fax1"', 'unknown type "fax0"']
    assert [row["seq"] for row in rows] == [3, 2, 1] and "bytes" not in rows[0]
    assert ask_json(daemon, "quarantine", "--limit", "1")[0]["seq"] == 3
    assert [bytes.fromhex(row["bytes"]) for row in ask_json(daemon, "quarantine", "--bytes")] == [
        frames.pack({"type": f"fax{number}"}) for number in (2, 1, 0)]
    text = ask(daemon, "quarantine").stdout
    assert text.splitlines()[0].split()[:2] == ["ID", "RECEIVED"] and 'unknown type "fax0"' in text
    assert "\n3 in quarantine; it is full at 1000000 (limits.quarantine_rows)." in text and "toll.drop_quarantine" in text
    assert frames.pack({"type": "fax1"}).hex() in ask(daemon, "quarantine", "--bytes").stdout


# --- flush ---

def test_flush_waits_until_it_is_committed(daemon_factory: Factory, db: Database) -> None:
    """Also when batches are in no hurry: it makes them close."""
    daemon = daemon_factory(db.dsn, config={"batch.age": "1m"}).start()
    with Sender(daemon.socket) as sender:
        for _ in range(200):
            sender.send(*frames.call(frames.new_session()))
        answer = ask_json(daemon, "flush", "--timeout", "30")  # half of what the batch might wait
    assert db.value("SELECT count(*) FROM billing_sessions WHERE ended_at IS NOT NULL") == 200
    assert answer["committed_lsn"] <= daemon.status()["committed_lsn"]
    assert ask(daemon, "flush").stdout.startswith("everything received so far is committed")


def test_flush_gives_up_in_time_and_works_later(daemon: Daemon, db: Database) -> None:
    send(daemon, frames.session_start(frames.new_session()))
    for pid in db.cluster.backends(db.name):
        db.cluster.freeze(pid)
    with Sender(daemon.socket) as sender:
        sender.send(*frames.call(frames.new_session()))
    done = ask(daemon, "flush", "--timeout", "1")
    assert done.returncode == BAD and "not everything was committed in time" in done.stderr and not done.stdout
    assert ask(daemon, "status").returncode == DONE, "a frozen server stalls nobody but the writer"
    db.cluster.thaw_all()
    assert ask(daemon, "flush", "--timeout", "20").returncode == DONE
    assert daemon.status()["frames_stored"] == 18


def test_flush_ends_with_the_daemon(daemon: Daemon, db: Database) -> None:
    """Somebody who waits for a daemon that is being stopped is told so at once."""
    send(daemon, frames.session_start(frames.new_session()))
    for pid in db.cluster.backends(db.name):
        db.cluster.freeze(pid)
    with Sender(daemon.socket) as sender:
        sender.send(*frames.call(frames.new_session()))
    with subprocess.Popen([BUILD / "tollctl", "flush", "--timeout", "60"], env=daemon.environment(), stderr=subprocess.PIPE, text=True) as waiting:
        wait_until(lambda: daemon.status()["frames_received"] == 18, 5)
        time.sleep(0.1)
        daemon.kill()
        _, err = waiting.communicate(timeout=20)
    db.cluster.thaw_all()
    assert waiting.returncode == NO_DAEMON and "closed the connection" in err
