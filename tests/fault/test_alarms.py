"""What needs somebody's attention is in `tollctl status` and in the log, once, with what to do, and gone when it is over: poisoned, dead and stalled
streams, a full quarantine, a batch that does not get through, and a journal without space."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import Any, Callable, Iterator
from uuid import UUID

import pytest

import fault
import oracle
from harness import Daemon, Database, StreamSender, frames, wait_until

Factory = Callable[..., Daemon]
Alarm = dict[str, Any]

SHORT = {"batch.age": "10ms", "database.retry_max": "200ms", "limits.stream_stall": "300ms"}


def alarm(daemon: Daemon, name: str) -> Alarm | None:
    return next((each for each in daemon.status()["alarms"] if each["alarm"] == name), None)


def figure(raised: Alarm, name: str) -> str:
    return dict(each.split("=", 1) for each in raised["figures"].split())[name]


class Told:
    """One alarm of one daemon: that it is raised, told once, and over."""

    def __init__(self, daemon: Daemon, name: str, *advice: str) -> None:
        self.daemon = daemon
        self.name = name
        self.advice = advice
        self.before = len(self.lines())
        assert not alarm(daemon, name)

    def lines(self) -> list[str]:
        return re.findall(rf"^.* alarm={self.name} .*$", self.daemon.log_text(), re.M)

    def raised(self, seconds: float = 20) -> Alarm:
        found = wait_until(lambda: alarm(self.daemon, self.name), seconds, f"alarm {self.name}")
        text = self.daemon.ctl("status").stdout
        assert re.search(rf"^needs attention:\n(  .*\n)*  {self.name} since ", text, re.M), text
        assert all(each in found["text"] and each in text for each in self.advice), found["text"]
        for _ in range(3):  # each of them looks again
            self.daemon.status()
        (line,) = self.lines()[self.before:]
        assert found["text"] in line
        return found

    def over(self, seconds: float = 20) -> None:
        """Said once more, and gone."""
        wait_until(lambda: not alarm(self.daemon, self.name), seconds, f"alarm {self.name} to be over")
        assert f"\n  {self.name} since " not in self.daemon.ctl("status").stdout
        told, over = self.lines()[self.before:]
        assert " after_s=" in over and " after_s=" not in told


def stream_state(daemon: Daemon, stream: bytes) -> dict[str, Any]:
    rows = daemon.ctl_json("streams", "--limit", "10000")["streams"]
    return next(row for row in rows if row["stream_id"] == str(UUID(bytes=stream)))


def send_alone(sender: StreamSender, ledger: oracle.Ledger, seq: int, base: int = 1) -> None:
    """One frame with this number, whatever else is missing."""
    sender.send_datagram(frames.pack(frames.envelope(sender.stream, seq, base, 1, client="holey"), *ledger.of(frames.tts(frames.new_session()))),
                         [sender.page.fd])


@pytest.fixture
def ledger() -> Iterator[oracle.Ledger]:
    fault.rng("alarms")
    yield oracle.Ledger()


def done(name: str, db: Database, daemon: Daemon, ledger: oracle.Ledger, **figures: Any) -> None:
    daemon.wait_stored(seconds=60)
    fault.report(name, fault.judge(db, ledger.records, [daemon]), **figures)


# --- streams, and a batch that does not get through ---

def poisoned_stream(daemon: Daemon, ledger: oracle.Ledger) -> None:
    """Shown with who it is; its refused datagrams are not acknowledged; over when its numbers are mended."""
    told = Told(daemon, "streams_poisoned", "1024 holes", "end it", "tollctl streams")
    with StreamSender(daemon.socket) as sender:
        for seq in range(2, 2048, 2):
            send_alone(sender, ledger, seq)
        refused = oracle.Ledger()
        send_alone(sender, refused, 4000)
        send_alone(sender, refused, 4002)
        raised = told.raised()
        assert (figure(raised, "uid"), figure(raised, "pid"), figure(raised, "client")) == (str(os.getuid()), str(os.getpid()), "holey")
        assert figure(raised, "stream") == str(UUID(bytes=sender.stream)) and figure(raised, "refused") == "2"
        row = stream_state(daemon, sender.stream)
        assert (row["state"], row["refused"], row["acked"]) == ("poisoned", 2, 0)
        assert daemon.ctl_json("streams", "--limit", "1")["streams"][0]["state"] == "poisoned", "those in trouble come first"
        for seq in range(1, 2048, 2):  # it sends what was missing after all
            send_alone(sender, ledger, seq)
        told.over()
        assert stream_state(daemon, sender.stream)["state"] == "ok"
        wait_until(lambda: sender.acked == 2047, 10, "the acknowledgement")
    assert daemon.status()["datagrams_refused"] == 2


def stalled_stream(daemon: Daemon, ledger: oracle.Ledger) -> None:
    """A sender that sends all again but what is missing."""
    told = Told(daemon, "streams_stalled", "numbers are missing", "restart it", "tollctl streams")
    with StreamSender(daemon.socket) as sender:
        send_alone(sender, ledger, 1)
        send_alone(sender, ledger, 3)
        raised = told.raised()
        for _ in range(5):
            send_alone(sender, oracle.Ledger(), 3)
        assert figure(raised, "received") == "1" and stream_state(daemon, sender.stream)["state"] == "stalled"
        assert sender.acked == 1
        send_alone(sender, ledger, 2)
        told.over()
        wait_until(lambda: sender.acked == 3, 10, "the acknowledgement")


DYING = """
import sys; sys.path.insert(0, sys.argv[1])
import frames, senders
sender = senders.StreamSender(sys.argv[2], client="dying")
sender.stream = bytes.fromhex(sys.argv[3])
for seq in (1, 4):
    sender.send_datagram(frames.pack(frames.envelope(sender.stream, seq, 1, 1, client="dying"), frames.gap(1)), [sender.page.fd])
"""


def dead_stream(daemon: Daemon, ledger: oracle.Ledger) -> None:
    """Its worker has ended, and two numbers below what it sent never came. Over when they do: another process has them, say."""
    told = Told(daemon, "streams_dead", "worker is gone", "are lost", "tollctl streams", "shown for an hour")
    stream = os.urandom(16)
    subprocess.run(["/usr/bin/python3", "-c", DYING, os.path.dirname(oracle.__file__), daemon.socket, stream.hex()], check=True, timeout=60)
    raised = told.raised()
    assert (figure(raised, "client"), figure(raised, "received"), figure(raised, "holes")) == ("dying", "1", "1")
    assert stream_state(daemon, stream)["state"] == "dead" and "dead" in daemon.ctl("streams").stdout
    with StreamSender(daemon.socket) as sender:
        sender.stream = stream
        for seq in (2, 3):
            send_alone(sender, ledger, seq)
        told.over()


def test_streams_in_trouble_while_a_batch_is_stuck(daemon_factory: Factory, db: Database, ledger: oracle.Ledger) -> None:
    """Somebody holds a lock: no error, no progress. Receiving goes on meanwhile, in all its troubles."""
    daemon = daemon_factory(db.dsn, config=SHORT).start()
    with StreamSender(daemon.socket) as sender:
        sender.send(*ledger.of(*frames.call(frames.new_session())))
        sender.wait_acked()
        daemon.wait_stored()
        stuck = Told(daemon, "batch_stuck", "does not get through", "pg_blocking_pids", "pg_stat_activity")
        blocker = db.connect()
        blocker.autocommit = False
        with blocker.cursor() as cursor:
            cursor.execute("LOCK TABLE billing_events IN ACCESS EXCLUSIVE MODE")
        sender.send(*ledger.of(*frames.call(frames.new_session())))
        sender.wait_acked(seconds=10)
        for trouble in fault.rng("troubles").sample([poisoned_stream, stalled_stream, dead_stream], 3):
            trouble(daemon, ledger)
        raised = stuck.raised(seconds=40)
        status = daemon.status()
        assert int(figure(raised, "from_lsn")) == status["committed_lsn"] and int(figure(raised, "backlog_bytes")) > 0
        assert status["backlog_age_s"] >= 5 and int(figure(raised, "backlog_age_s")) >= 5
        blocker.rollback()
        blocker.close()
        stuck.over()
    done("stuck_batch", db, daemon, ledger, troubles=3)


# --- the quarantine ---

def test_full_quarantine(daemon_factory: Factory, db: Database, ledger: oracle.Ledger) -> None:
    """The door is shut for datagrams with invalid frames: not acknowledged, so not lost. Good ones pass, and what had been acknowledged before is
    kept. It opens when the quarantine is emptied, across a kill too, and what was refused comes in when it is sent again."""
    daemon = daemon_factory(db.dsn, activated=True, config=SHORT | {"limits.quarantine_rows": 50}).start()
    with StreamSender(daemon.socket) as good, StreamSender(daemon.socket, client="broken") as bad:
        used, full = Told(daemon, "quarantined", "tollctl quarantine"), Told(daemon, "quarantine_full", "toll.drop_quarantine", "limits.quarantine_rows")
        bad.send({"type": "fax"})
        bad.wait_acked()
        used.raised()
        assert not alarm(daemon, "quarantine_full")
        bad.send(*[{"type": "fax"}] * 100)  # one datagram goes in whole, above the limit
        assert bad.wait_acked() == 101
        raised = full.raised()
        assert (figure(raised, "rows"), figure(raised, "limit")) == ("101", "50")
        text = daemon.ctl("quarantine").stdout
        assert "101 in quarantine; it is full at 50 (limits.quarantine_rows)" in text and "SELECT toll.drop_quarantine(" in text

        bad.send({"type": "fax"}, *ledger.of(frames.tts(frames.new_session())))
        good.send(*ledger.of(*frames.call(frames.new_session())))
        good.wait_acked()
        wait_until(lambda: stream_state(daemon, bad.stream)["state"] == "refused", 10, "the refusal to be shown")
        daemon.kill()
        daemon.start()
        full.before += 1
        full.raised()
        bad.disconnect()
        bad.resend()
        good.disconnect()
        good.send(*ledger.of(*frames.call(frames.new_session())))
        good.wait_acked()
        assert bad.acked == 101, "what was refused must not be acknowledged"
        assert db.value("SELECT count(*) FROM toll.quarantine") == 101

        assert db.value("SELECT toll.drop_quarantine(now())") == 101
        full.over()
        assert bad.wait_acked(seconds=30) == 103, "sent again, and taken"
    daemon.wait_stored()
    wait_until(lambda: db.value("SELECT count(*) FROM toll.quarantine") == 1, 20, "the refused frame")
    done("full_quarantine", db, daemon, ledger, limit=50, rows_at_most=101)


def test_full_quarantine_is_raised_by_a_reload(daemon_factory: Factory, db: Database, ledger: oracle.Ledger) -> None:
    """limits.quarantine_rows is taken over at once."""
    daemon = daemon_factory(db.dsn, config=SHORT | {"limits.quarantine_rows": 5}).start()
    full = Told(daemon, "quarantine_full")
    with StreamSender(daemon.socket) as sender:
        sender.send(*[{"type": "fax"}] * 6)
        sender.wait_acked()
        full.raised()
        daemon.write_config(SHORT | {"limits.quarantine_rows": 500})
        daemon.send_signal(signal.SIGHUP)
        full.over()
        sender.send({"type": "fax"})
        assert sender.wait_acked() == 7
    done("quarantine_reload", db, daemon, ledger)


# --- storing ---

def test_batch_that_fails_again_and_again(daemon_factory: Factory, db: Database, ledger: oracle.Ledger) -> None:
    """A table that lacks a column: told since when, from where, how often tried, and the error; a second trouble is told with its own words."""
    daemon = daemon_factory(db.dsn, config=SHORT).start()
    with StreamSender(daemon.socket) as sender:
        told = Told(daemon, "storing_stopped", "storing has stopped, receiving goes on", "voice", "goes on by itself once that is mended")
        db.execute("ALTER TABLE billing_events RENAME COLUMN voice TO timbre")
        sender.send(*ledger.of(*frames.call(frames.new_session())))
        sender.wait_acked()
        raised = told.raised()
        tries = int(figure(raised, "tries"))
        wait_until(lambda: int(figure(alarm(daemon, "storing_stopped") or raised, "tries")) > tries + 2, 20, "more tries")
        assert alarm(daemon, "storing_stopped")["since_us"] == raised["since_us"]  # type: ignore[index]
        db.execute("ALTER TABLE billing_events RENAME COLUMN timbre TO voice")
        told.over()
    done("failing_batch", db, daemon, ledger)


def test_database_away_and_journal_full(daemon_factory: Factory, db: Database, ledger: oracle.Ledger) -> None:
    """Two at once: the worst first, each told once."""
    small = {"journal.segment_bytes": 131072, "journal.max_bytes": 8 * 131072, "journal.min_free_bytes": 0}
    daemon = daemon_factory(db.dsn, config=SHORT | small).start()
    daemon.wait_stored()
    away = Told(daemon, "storing_retrying", "receiving goes on", "database server up")
    paused = Told(daemon, "intake_paused", "journal is full", "journal.max_bytes")
    db.cluster.stop()
    with StreamSender(daemon.socket, seconds=0.1) as sender:
        while daemon.status()["intake"] == "reading":
            for _ in range(20):
                sender.send(*ledger.of(*frames.call(frames.new_session(), turns=10)))
        paused.raised()
        wait_until(lambda: alarm(daemon, "storing_retrying"), 10, "the other alarm")
        assert [each["alarm"] for each in daemon.status()["alarms"]] == ["storing_retrying", "intake_paused"]
        assert daemon.status()["intake"] == "paused"
        db.cluster.start()
        sender.seconds = 10
        sender.disconnect()
        sender.wait_acked(seconds=60)
        paused.over()
    assert wait_until(lambda: not alarm(daemon, "storing_retrying"), 20, "the database to be back")
    assert any("after_s=" in line for line in away.lines())
    done("full_journal", db, daemon, ledger)
