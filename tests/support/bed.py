"""One daemon on one database that takes everything a test file sends, however odd, and what became of it."""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import frames
import oracle
from cluster import Database
from daemon import Daemon
from proc import SLOWNESS, rss_bytes
from senders import Sender, StreamSender

GROWTH_MAX = 40 << 20  # bytes that the daemon's resident memory may grow by, all tests of a file together
MANY_YEARS = "36500d"  # a tolerance, so that the vectors' times are stored as they are

Row = tuple[Any, ...]


class Bed:
    """The daemon, its database, and what was sent to it so far."""

    def __init__(self, database: Database) -> None:
        self.db = database
        self.connection = database.connect()
        self.daemon = Daemon(database.dsn, config={"batch.age": "5ms", "sessions.past_tolerance": MANY_YEARS,
                                                   "sessions.idle_timeout": "1d"}).start()
        self.settle()
        with Sender(self.daemon.socket) as sender:  # warm, so that growth is not start-up
            sender.send(*frames.call(frames.new_session()))
        self.expect(stored=17)
        self.rss = rss_bytes(self.daemon.pid)

    def close(self) -> None:
        self.connection.close()
        self.daemon.close()

    def query(self, sql: str, *args: Any) -> list[Row]:
        """Database.query() on one connection: this file asks some thousand times."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall()

    def value(self, sql: str, *args: Any) -> Any:
        return self.query(sql, *args)[0][0]

    def expect(self, stored: int = 0, quarantined: int = 0, duplicate: int = 0) -> None:
        """So many frames more than before were received, and that is what became of them."""
        before, wanted = self.counts, {"stored": stored, "quarantined": quarantined, "duplicate": duplicate, "pending": 0}
        self.settle()
        assert {name: self.counts[name] - before[name] for name in self.counts} == {"received": sum(wanted.values()), **wanted}

    def settle(self) -> None:
        """Waits until all that was sent is committed, and counts."""
        self.daemon.ctl("flush", "--timeout", "30", seconds=60)
        now = self.daemon.status()
        self.counts = {name: now[f"frames_{name}"] for name in ("received", "stored", "quarantined", "duplicate", "pending")}

    def last_quarantined(self) -> int:
        return self.value("SELECT coalesce(max(id), 0) FROM toll.quarantine")

    def quarantine(self, after: int) -> list[dict[str, Any]]:
        """What went there since, in the order it was sent in. Each row names its sender and when it came."""
        columns = ("reason", "bytes", "stream_id", "seq", "uid", "pid", "received_at")
        rows = [dict(zip(columns, row)) for row in self.query(
            "SELECT reason, bytes, stream_id::text, seq, uid, pid, received_at FROM toll.quarantine WHERE id > %s"
            " ORDER BY lsn, frame_index", after)]
        for row in rows:
            row["bytes"] = bytes(row["bytes"])
            assert (row["uid"], row["pid"]) == (os.getuid(), os.getpid())
            assert abs(datetime.now(timezone.utc) - row["received_at"]) < timedelta(minutes=5)
            assert row["reason"] and "\n" not in row["reason"]
        return rows

    def requests(self, session: uuid.UUID) -> list[str]:
        """The request_ids of a session's rows, in the order they were stored in."""
        return [row[0] for row in self.query("SELECT request_id FROM billing_events WHERE session_id = %s ORDER BY id", str(session))]

    def add_up(self) -> None:
        """After everything else: the daemon lives, answers at once, has not grown, and everything is accounted for."""
        session = frames.new_session()
        with StreamSender(self.daemon.socket) as sender:
            sender.send(*frames.call(session))
            assert sender.wait_acked(seconds=5) == 17
        self.expect(stored=17)
        grown = rss_bytes(self.daemon.pid) - self.rss
        counts = self.counts
        assert self.query("SELECT sum(received), sum(stored), sum(quarantined), sum(duplicates) FROM toll.batches") == [
            (counts["received"], counts["stored"], counts["quarantined"], counts["duplicate"])]
        assert self.value("SELECT count(*) FROM toll.quarantine") == counts["quarantined"]
        faults = oracle.faults(self.db)
        faults.pop("stream_holes", None)  # some of the vectors' streams begin in the middle
        assert not faults
        log = self.daemon.log_text()
        print(f"{counts['received']} frames: {counts['stored']} stored, {counts['quarantined']} quarantined, {counts['duplicate']} duplicate; "
              f"resident memory grew by {grown >> 10} KiB; {len(log.splitlines())} lines of log")
        assert grown < GROWTH_MAX or SLOWNESS > 1, "a sanitizer keeps memory of its own"
        assert len(log.splitlines()) < 60, "a worker must not be able to flood the log"
        assert self.daemon.stop() == 0
