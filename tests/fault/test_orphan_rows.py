"""No event and no transcript turn without its session, though the daemon does without the foreign keys' triggers: whoever deletes sessions, at whatever
moment of a batch; and what users put on the tables fires for every row or for none of a batch."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Callable, Iterator
from uuid import UUID

import psycopg2
import pytest

import fault
import oracle
from harness import SLOWNESS, Daemon, Database, StreamSender, frames, wait_until

Factory = Callable[..., Daemon]

SECONDS = fault.choose(6, 60)
SENDERS, DELETERS = 2, 3
NAME = "tolld-orphans"
WAITS = "SELECT query FROM pg_stat_activity WHERE application_name = %s AND datname = %s AND wait_event_type = 'Lock'"
ORPHANS = """SELECT count(*) FROM (SELECT session_id FROM billing_events UNION ALL SELECT session_id FROM session_transcripts) AS r
             WHERE session_id IS NOT NULL AND NOT EXISTS (SELECT FROM billing_sessions AS s WHERE s.session_id = r.session_id)"""
NOTHING = "CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
ON_SESSIONS = f"{NOTHING}; CREATE TRIGGER nothing AFTER INSERT OR UPDATE ON billing_sessions FOR EACH ROW EXECUTE FUNCTION nothing()"
NOTE = """CREATE TABLE seen (batch_id bigint, table_name text);
          CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.batch_id, TG_ARGV[0]); RETURN NULL; END $$"""

# How the daemon stores: without triggers altogether, around the rows only, row by row because of a user's trigger, row by row for want of a privilege.
MODES = ["all", "rows", "none", "role"]


@pytest.fixture(params=MODES)
def daemon(request: Any, daemon_factory: Factory, db: Database) -> Iterator[Daemon]:
    """One in each of these modes."""
    role = "postgres"
    if request.param == "rows":
        db.execute(ON_SESSIONS)
    elif request.param == "none":
        db.execute(ON_SESSIONS.replace("billing_sessions", "session_transcripts"))
    elif request.param == "role":
        role = f"orphans_{db.name}"
        db.execute(f"CREATE ROLE {role} LOGIN; GRANT toll_ingest TO {role}; REVOKE SET ON PARAMETER session_replication_role FROM toll_ingest")
    try:
        made = daemon_factory(f"{db.cluster.dsn(db.name, role)} application_name={NAME}", config={"batch.age": "2ms", "database.retry_max": "100ms"})
        yield made.start()
        made.kill()
    finally:
        if request.param == "role":
            db.execute(f"GRANT SET ON PARAMETER session_replication_role TO toll_ingest; DROP OWNED BY {role}; DROP ROLE {role}")


def orphans(db: Database) -> int:
    """Looks at all partitions, and so may get into a deadlock with who changes a trigger on them."""
    while True:
        try:
            return db.value(ORPHANS)
        except psycopg2.extensions.TransactionRollbackError:
            pass


def holding(db: Database, sql: str, *args: Any) -> tuple[Any, Any]:
    """A connection and a cursor with a transaction that has run this."""
    connection = db.connect()
    connection.autocommit = False
    cursor = connection.cursor()
    cursor.execute(sql, args)
    return connection, cursor


def wait_held(db: Database, what: str) -> None:
    wait_until(lambda: any(what in query for (query,) in db.query(WAITS, NAME, db.name)), what=f"the daemon to wait in {what}")


def live_session(daemon: Daemon, sender: StreamSender, ledger: oracle.Ledger) -> UUID:
    """A session that is stored and has no rows yet: nothing keeps anybody from deleting it."""
    session = frames.new_session()
    sender.send(*ledger.of(frames.session_start(session)))
    sender.wait_acked()
    daemon.wait_stored()
    return session


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
@pytest.mark.parametrize("point", ["before", "while it is claimed"])
def test_session_deleted_before_it_is_claimed(daemon: Daemon, db: Database, point: str, outcome: str) -> None:
    """The row goes while the batch waits for its watermark, or for that very row with its events copied already: the session is made anew."""
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket) as sender:
        session = live_session(daemon, sender, ledger)
        watermark, _ = holding(db, "SELECT FROM toll.journals FOR UPDATE")
        sender.send(*ledger.of(frames.llm(session), frames.transcript(session), frames.llm(session)))
        wait_held(db, "toll.journals")
        deleter, _ = holding(db, "DELETE FROM billing_sessions WHERE session_id = %s", str(session))
        if point == "before":
            getattr(deleter, outcome)()
        watermark.rollback()
        if point != "before":
            wait_held(db, "billing_sessions")
            getattr(deleter, outcome)()
        sender.wait_acked()
        daemon.wait_stored()
    assert db.value(ORPHANS) == 0
    assert db.query("SELECT start_missing FROM billing_sessions") == [(outcome == "commit",)]
    assert db.value("SELECT count(*) FROM billing_events") == 2 and db.value("SELECT count(*) FROM session_transcripts") == 1
    assert oracle.faults(db) == {}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_session_deleted_after_it_is_claimed(daemon: Daemon, db: Database, isolation: str) -> None:
    """The batch has its rows and waits on its way to the commit: who deletes must wait, and is told of the rows then."""
    ledger = oracle.Ledger()
    with StreamSender(daemon.socket) as sender:
        session = live_session(daemon, sender, ledger)
        streams, _ = holding(db, "SELECT FROM toll.streams FOR UPDATE")
        sender.send(*ledger.of(frames.llm(session), frames.transcript(session)))
        wait_held(db, "toll.streams")
        deleter, cursor = holding(db, f"SET TRANSACTION ISOLATION LEVEL {isolation}; SET LOCAL lock_timeout = '200ms'")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            cursor.execute("DELETE FROM billing_sessions WHERE session_id = %s", (str(session),))
        deleter.rollback()
        errors: list[Exception] = []

        def delete() -> None:
            connection, other = holding(db, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
            try:
                other.execute("DELETE FROM billing_sessions WHERE session_id = %s", (str(session),))
                connection.commit()
            except psycopg2.Error as error:
                errors.append(error)
            connection.close()
        thread = threading.Thread(target=delete)
        thread.start()
        wait_until(lambda: db.query("SELECT 1 FROM pg_stat_activity WHERE datname = %s AND query LIKE 'DELETE%%' AND wait_event_type = 'Lock'", db.name),
                   what="the other one to wait for the row")
        streams.rollback()
        thread.join(30 * SLOWNESS)
        daemon.wait_stored()
    assert [type(error) for error in errors] == [psycopg2.errors.ForeignKeyViolation]
    print(f"frames {len(ledger.records)} {ledger.check(db).figures}")
    assert db.value(ORPHANS) == 0


class Tormentor(threading.Thread):
    """Deletes sessions, alone or with their rows, erases some, and puts triggers on the tables and takes them off again."""

    def __init__(self, db: Database, ids: list[UUID], chance: random.Random, triggers: bool) -> None:
        super().__init__()
        self.db, self.ids, self.chance, self.triggers = db, ids, chance, triggers
        self.stopping = threading.Event()
        self.deleted = self.refused = self.changed = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                (self.change if self.triggers else self.delete)()
        except Exception as error:  # noqa: BLE001: shown by the test
            self.failure = error

    def delete(self) -> None:
        connection, cursor = holding(self.db, self.chance.choice(["", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; "]) + "SELECT 1")
        session = str(self.chance.choice(self.ids))
        try:
            kind = self.chance.randrange(4)
            if kind == 0:
                for table in ("billing_events", "session_transcripts"):
                    cursor.execute(f"DELETE FROM {table} WHERE session_id = %s", (session,))
            elif kind == 1:
                cursor.execute("SELECT * FROM toll.erase_session(%s)", (session,))
            cursor.execute("DELETE FROM billing_sessions WHERE session_id = %s", (session,))
            self.deleted += cursor.rowcount
            time.sleep(self.chance.choice([0, 0, 0.002, 0.02]))
            connection.commit()
        except (psycopg2.errors.ForeignKeyViolation, psycopg2.extensions.TransactionRollbackError):
            self.refused += 1
        connection.close()

    def change(self) -> None:
        table = self.chance.choice(["billing_events", "session_transcripts", "billing_sessions", "toll.batches", self.partition()])
        told = {"session_transcripts": "t", "billing_events": "e"}.get(table, "p" if table.startswith("toll.billing") else "-")
        body = f"note('{told}')" if told != "-" else "nothing()"
        self.insist(f"CREATE TRIGGER tried AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {body}")
        time.sleep(self.chance.choice([0.01, 0.1]))
        self.insist(f"DROP TRIGGER tried ON {table}")
        self.changed += 1
        time.sleep(0.02)

    def insist(self, sql: str) -> None:
        """Changes of a table get into deadlocks with who reads or deletes through its partitions."""
        while True:
            try:
                self.db.execute(f"SET lock_timeout = '500ms'; {sql}")
                return
            except (psycopg2.errors.LockNotAvailable, psycopg2.extensions.TransactionRollbackError):
                pass

    def partition(self) -> str:
        return "toll." + self.db.value("SELECT partition FROM toll.partitions WHERE parent = 'billing_events' AND month ="
                                       " date_trunc('month', now() AT TIME ZONE 'UTC')::date")


@pytest.mark.limit(300)
def test_sessions_deleted_at_random(daemon: Daemon, db: Database) -> None:
    """Sessions are deleted, erased and sent again as fast as it goes, triggers come and go: no row is without its session, ever, and a trigger
    has seen all rows of a batch or none."""
    chance = fault.rng("orphans")
    db.execute(f"{NOTHING}; {NOTE}; GRANT ALL ON seen TO PUBLIC")
    ids = [frames.new_session() for _ in range(12)]
    tormentors = [Tormentor(db, ids, random.Random(chance.random()), number == DELETERS) for number in range(DELETERS + 1)]
    senders = [StreamSender(daemon.socket) for _ in range(SENDERS)]
    looks = sent = 0
    for each in tormentors:
        each.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for sender in senders:
                session = chance.choice(ids)
                made = chance.choice([[frames.session_start(session)], [frames.session_end(session)],
                                      [frames.llm(session) for _ in range(chance.randint(1, 5))] + [frames.transcript(session)]])
                sender.send(*oracle.identified(*made))
                sent += len(made)
            if chance.random() < 0.1:
                looks += 1
                assert orphans(db) == 0
            time.sleep(0.002)
    finally:
        for each in tormentors:
            each.stopping.set()
        for each in tormentors:
            each.join(30 * SLOWNESS)
    for sender in senders:
        sender.wait_acked(seconds=60)
    status = daemon.wait_stored(seconds=60)
    for sender in senders:
        sender.close()
    for each in tormentors:
        assert each.failure is None, each.failure
    deleted, refused = sum(each.deleted for each in tormentors), sum(each.refused for each in tormentors)
    assert db.value(ORPHANS) == 0
    assert status["frames_quarantined"] == 0 and status["frames_stored"] == sent, (status, sent)
    for table, counter in (("e", "events"), ("t", "transcripts")):
        halves = db.query(f"SELECT b.batch_id, b.{counter}, count(*) FROM seen JOIN toll.batches b USING (batch_id) WHERE table_name = %s"
                          f" GROUP BY b.batch_id, b.{counter} HAVING count(*) <> b.{counter}", table)
        assert halves == []
    seen = db.value("SELECT count(*) FROM seen")
    assert deleted > 0 and refused > 0 and seen > 0, (deleted, refused, seen)
    print(f"frames {sent} looks {looks} deleted {deleted} refused {refused} triggers {tormentors[-1].changed} rows seen by them {seen}"
          f" batches tried again {status['batches_retried']}")
