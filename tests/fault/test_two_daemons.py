"""Sessions whose events arrive at two daemons on one database at once: their totals are the sum of their events, as with one daemon. And
streams that move between the two: each number is stored once, whichever of them has it."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import Counter
from typing import Any, Callable

import pytest

import fault
import money
import oracle
from harness import SLOWNESS, Daemon, Database, Sender, StreamSender, frames, migrate, wait_until
from senders import AckPage

Factory = Callable[..., Daemon]
Story = list[frames.Frame]
Hand = list[list[frames.Frame]]  # datagrams of one sender

SESSIONS = int(fault.choose(60, 300) / SLOWNESS)  # shared ones, where nobody is killed
SENDERS = 4
BEGAN = frames.now_us() - 3_600_000_000
KEY = 4711  # of an advisory lock
CONFIG = {"batch.age": "5ms", "batch.rows": 50, "database.retry_max": "100ms"}  # many small batches: many chances to collide


def new_sessions(chance: random.Random, count: int) -> list[uuid.UUID]:
    return [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(count)]


ACCOUNTS = [f"payer {number}" for number in range(12)]


def story(session: uuid.UUID, chance: random.Random) -> Story:
    """A call with its start twice, its end twice, and events on both sides of the end; equal facts in any order of arrival."""
    began = BEGAN + chance.randrange(10**9)
    made = [frames.session_start(session, started_at=began, metadata={"a": 1}),
            frames.session_start(session, started_at=began + 5, metadata={"b": 2, "user_id": chance.choice(ACCOUNTS)})]
    for turn in range(chance.randrange(2, 12)):
        at = began + turn * 1_000_000
        made += [frames.llm(session, chance.randrange(2000), chance.randrange(300), occurred_at=at),
                 frames.stt(session, chance.randrange(10**7) / 1000, occurred_at=at),
                 frames.tts(session, chance.randrange(500), occurred_at=at),
                 frames.transcript(session, chance.choice(["user", "assistant"]), f"turn {turn}", occurred_at=at)]
    end = frames.session_end(session, ended_at=began + 60_000_000, finish_reason="stop")
    for _ in range(2):
        made.insert(chance.randrange(len(made) // 2, len(made) + 1), dict(end))
    return oracle.identified(*made)


def records_of(stories: list[Story]) -> list[oracle.Record]:
    return [oracle.record_of(frame) for each in stories for frame in each]


def dealt(stories: list[Story], chance: random.Random, hands: int) -> list[Hand]:
    """The frames of all sessions mixed, each session's roughly in order, in small datagrams for so many senders."""
    keyed = [(index / len(each) + chance.gauss(0, 0.08) + number / len(stories), frame)
             for number, each in enumerate(stories) for index, frame in enumerate(each)]
    senders: list[Hand] = [[] for _ in range(hands)]
    for _, frame in sorted(keyed, key=lambda pair: pair[0]):
        mine = chance.choice(senders)
        if mine and len(mine[-1]) < chance.randrange(1, 25):
            mine[-1].append(frame)
        else:
            mine.append([frame])
    return senders


class Work:
    """What one worker does, in a thread of its own."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # told in wait(): a thread's failure is nobody's otherwise
            self.error = error

    def wait(self) -> None:
        self.thread.join()
        if self.error is not None:
            raise self.error


def stored_by(daemons: list[Daemon], hands: list[Hand]) -> list[dict[str, Any]]:
    """Sends everything at once, each hand to its daemon; returns the daemons' status when all is stored."""
    def send(daemon: Daemon, datagrams: Hand) -> None:
        with StreamSender(daemon.socket) as sender:
            for each in datagrams:
                sender.send(*each)
            sender.wait_acked(seconds=60)
    works = [Work(lambda daemon=daemon, hand=hand: send(daemon, hand)) for daemon, hand in zip(daemons, hands)]  # type: ignore[misc]
    for each in works:
        each.wait()
    return [daemon.wait_stored(seconds=60) for daemon in daemons]


def shared_sessions(database: Database) -> int:
    return database.value("SELECT count(*) FROM billing_sessions WHERE shared")


# --- killed at random ---

class Mover(StreamSender):
    """One stream that changes its daemon now and then. It takes all that is not acknowledged along, and may send it to the first one again.

    Its page stays behind, so that two daemons never write to one.
    """

    def __init__(self, daemons: list[Daemon], chance: random.Random) -> None:
        self.daemons, self.chance = daemons, chance
        self.at = chance.randrange(len(daemons))
        self.told = 0  # acknowledged, by whomever
        self.moves = 0
        super().__init__(daemons[self.at].socket, seconds=0.5)

    def move(self) -> None:
        self.told = max(self.told, self.acked)
        self._forget()
        self.disconnect()
        self.page.close()
        self.page, self._attached = AckPage(), False
        self.at = (self.at + 1) % len(self.daemons)
        self.path = str(self.daemons[self.at].socket)
        self.moves += 1

    def send_again(self) -> None:
        try:
            self.resend()
        except OSError:  # nobody there, or no room
            self.disconnect()

    def play(self, datagrams: Hand) -> None:
        for each in datagrams:
            self.send(*each)
            if self.chance.random() < 0.08:
                self.move()
            if self.chance.random() < 0.1:
                self.send_again()
            time.sleep(self.chance.uniform(0, 0.06))
        self.settle()

    def settle(self) -> None:
        """Until everything is acknowledged: at the other daemon if this one is away for long."""
        while True:
            try:
                self.told = max(self.told, self.wait_acked(seconds=3))
                return
            except TimeoutError:
                self.move()


class Trouble:
    """What happens to the daemons and to their connections while the senders play."""

    def __init__(self, daemons: list[Daemon], database: Database, chance: random.Random) -> None:
        self.daemons, self.database, self.chance = daemons, database, chance
        self.counts: Counter[str] = Counter()

    def pause(self, longest: float) -> None:
        time.sleep(self.chance.uniform(0, longest))

    def one(self) -> None:
        self.pause(0.4)
        self.chance.choices([self.kill, self.kill_both, self.freeze_backend, self.terminate], [50, 10, 25, 15])[0]()

    def kill(self) -> None:
        self._kill([self.chance.choice(self.daemons)])

    def kill_both(self) -> None:
        self._kill(self.daemons)

    def _kill(self, some: list[Daemon]) -> None:
        for each in some:
            each.kill()
        self.pause(0.5)
        for each in some:
            each.start()
        self.counts["kills"] += len(some)

    def backends(self, daemon: Daemon) -> list[int]:
        return self.database.cluster.backends(self.database.name, name_of(self.daemons.index(daemon)))

    def freeze_backend(self) -> None:
        """One daemon acknowledges and does not store, perhaps through its death, while its workers may have moved on."""
        daemon = self.chance.choice(self.daemons)
        for pid in self.backends(daemon):
            self.database.cluster.freeze(pid)
        self.counts["frozen"] += 1
        self.pause(0.8)
        if self.chance.random() < 0.5:
            self._kill([daemon])
        self.database.cluster.thaw_all()

    def terminate(self) -> None:
        self.counts["terminated"] += self.database.terminate_backends()


def name_of(number: int) -> str:
    """A daemon's application_name, to tell their backends apart."""
    return f"tolld_{number}"


@pytest.mark.limit(300)
def test_two_daemons_killed_at_random(daemon_factory: Factory, db: Database) -> None:
    """Events, duplicate ends and late events of the same sessions at both; streams that move from one to the other."""
    money.open_books(db)
    money.fund(db, ACCOUNTS)
    chance = fault.rng("two daemons")
    stories = [story(session, chance) for session in new_sessions(chance, int(fault.choose(60, 1500) / SLOWNESS))]
    hands = dealt(stories, chance, SENDERS)
    daemons = [daemon_factory(f"{db.dsn} application_name={name_of(number)}", config=CONFIG, activated=chance.random() < 0.7).start()
               for number in range(2)]
    movers = [Mover(daemons, random.Random(chance.random())) for _ in range(SENDERS)]
    trouble = Trouble(daemons, db, chance)
    works = [Work(lambda mover=mover, hand=hand: mover.play(hand)) for mover, hand in zip(movers, hands)]  # type: ignore[misc]
    try:
        while any(each.thread.is_alive() for each in works):
            trouble.one()
    finally:
        db.cluster.thaw_all()
        for each in works:
            each.wait()
    fault.settle(daemons)
    for mover in movers:
        mover.close()
    outcome = fault.judge(db, records_of(stories), daemons, acknowledged={each.stream: each.told for each in movers})
    print(" ".join(f"{name} {count}" for name, count in money.check(db).items()))
    shared = shared_sessions(db)
    fault.report("two_daemons", outcome, frames=outcome.frames, sessions=len(stories), shared=shared,
                 streams_moved=sum(each.moves for each in movers), sessions_corrected=db.value("SELECT count(*) FROM billing_sessions WHERE revision > 0"), **trouble.counts)
    assert shared > len(stories) // 2, "the test means something only if sessions are shared"
    assert trouble.counts["kills"] > 0
    assert db.value("SELECT count(*) FROM toll.quarantine") == 0


# --- nobody killed: what exactly comes out ---

@pytest.mark.parametrize("count", fault.choose([2], [2, 3]))
def test_many_sessions_at_daemons_at_once(daemon_factory: Factory, db: Database, count: int) -> None:
    """The same as if one daemon had had it all."""
    chance = fault.rng(f"{count} daemons at once")
    ids = new_sessions(chance, SESSIONS)
    stories = [story(session, chance) for session in ids]
    daemons = [daemon_factory(db.dsn, config=CONFIG).start() for _ in range(count)]
    statuses = stored_by(daemons, dealt(stories, chance, count))
    for each in daemons:
        assert each.stop() == 0
    outcome = fault.judge(db, records_of(stories), daemons)
    shared = shared_sessions(db)
    fault.report(f"{count}_daemons_at_once", outcome, frames=outcome.frames, sessions=len(ids), shared=shared,
                 batches=sum(each["batches_committed"] for each in statuses), retried=sum(each["batches_retried"] for each in statuses))
    assert shared > len(ids) // 2, "the test means something only if sessions are shared"
    assert sum(each["frames_quarantined"] for each in statuses) == 0
    together = {session: oracle.session_facts(db, session) for session in ids}

    other = db.cluster.create_database()
    try:
        migrate(other.dsn)
        single = daemon_factory(other.dsn).start()
        stored_by([single], dealt(stories, chance, 1))
        single.kill()
        alone = {session: oracle.session_facts(other, session) for session in ids}
    finally:
        other.drop()
    # A start that comes after a session's first event was missing at first, and then is no duplicate: that depends on the order.
    for facts in (*together.values(), *alone.values()):
        facts.pop("duplicate_starts")
    assert together == alone


HOLD_COMMITS = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') = '{name_of(1)}' THEN
        PERFORM pg_advisory_xact_lock_shared({KEY});
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON toll.batches DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
"""


@pytest.mark.parametrize("known", [False, True], ids=["new_to_it", "known_to_it"])
def test_end_while_an_event_is_held_in_commit(daemon_factory: Factory, db: Database, known: bool) -> None:
    """The second daemon has copied an event's row and has not committed; the session ends at the first, which must wait with its sum."""
    daemons = [daemon_factory(f"{db.dsn} application_name={name_of(number)}", config=CONFIG).start() for number in range(2)]
    session, ledger = frames.new_session(), oracle.Ledger()
    db.execute(HOLD_COMMITS)
    with StreamSender(daemons[0].socket) as one, StreamSender(daemons[1].socket) as two:
        def send(sender: StreamSender, *each: frames.Frame) -> None:
            sender.send(*ledger.of(*each))
            sender.wait_acked()
        send(one, frames.session_start(session), frames.llm(session, 1, 1))
        fault.settle(daemons[0])
        if known:
            send(two, frames.llm(session, 10, 1))
            fault.settle(daemons[1])
        holder = db.connect()
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (KEY,))
        send(two, frames.llm(session, 100, 1))
        wait_until(lambda: waiting(db, 1, "wait_event = 'advisory'"), what="the second daemon's batch to be held in COMMIT")
        send(one, frames.session_end(session))
        wait_until(lambda: waiting(db, 0, "wait_event_type = 'Lock'") or daemons[0].status()["frames_pending"] == 0,
                   what="the first daemon to wait, or to go on without")
        holder.close()
        fault.settle(daemons)
        fault.report("event_held_in_commit", fault.judge(db, ledger.records, daemons), frames=len(ledger.records))


def waiting(database: Database, number: int, what: str) -> bool:
    """Whether a daemon's backend waits for something."""
    return bool(database.query(f"SELECT 1 FROM pg_stat_activity WHERE datname = %s AND application_name = %s AND {what}", database.name,
                               name_of(number)))


def test_ends_at_one_while_events_come_to_the_other(daemon_factory: Factory, db: Database) -> None:
    """Batches of events alone, which share their sessions' rows, beside batches that write totals: no sum is lost between them."""
    chance, ledger = fault.rng("ends and events"), oracle.Ledger()
    ids = new_sessions(chance, SESSIONS * 2)
    daemons = [daemon_factory(db.dsn, config=CONFIG).start() for _ in range(2)]
    stored_by(daemons, [[ledger.of(frames.llm(session, 1, 1)) for session in ids] for _ in daemons])
    with StreamSender(daemons[0].socket) as one, StreamSender(daemons[1].socket) as two:
        for session in ids:  # a later event would mend what went wrong here
            steps = [(one, frames.session_end(session)), *[(two, frames.llm(session, chance.randrange(1000), 1)) for _ in range(3)]]
            chance.shuffle(steps)
            for sender, frame in steps:
                sender.send(*ledger.of(frame))
                time.sleep(chance.uniform(0, 0.004))
        for sender in (one, two):
            sender.wait_acked()
    fault.settle(daemons)
    fault.report("ends_and_events", fault.judge(db, ledger.records, daemons), frames=len(ledger.records), sessions=len(ids),
                 sessions_corrected=db.value("SELECT count(*) FROM billing_sessions WHERE revision > 0"))


@pytest.mark.parametrize("first_end", [0, 1])
def test_one_session_step_by_step(daemon_factory: Factory, db: Database, first_end: int) -> None:
    """Start at one, events at both, the end at either, late events at both."""
    daemons = [daemon_factory(db.dsn).start() for _ in range(2)]
    session, now = frames.new_session(), frames.now_us()
    ledger = oracle.Ledger()
    with StreamSender(daemons[0].socket) as one, StreamSender(daemons[1].socket) as two:
        senders = (one, two)

        def send(which: int, *each: frames.Frame) -> None:
            senders[which].send(*ledger.of(*each))
            senders[which].wait_acked()
            daemons[which].wait_stored()

        send(0, frames.session_start(session, started_at=now, metadata={"user_id": "u_42"}))
        send(0, frames.llm(session, 100, 1))
        send(1, frames.llm(session, 200, 2), frames.stt(session, 0.001))
        send(0, frames.tts(session, 7))
        send(first_end, frames.session_end(session, ended_at=now + 9_000_000, finish_reason="stop"))
        assert db.query("SELECT llm_input_tokens, tts_chars, revision, shared FROM billing_sessions") == [(300, 7, 0, True)]
        send(1 - first_end, frames.llm(session, 400, 4))
        send(first_end, frames.stt(session, 0.002))
        send(1 - first_end, frames.session_end(session, ended_at=now + 1, finish_reason="cancel"))
    columns = "llm_input_tokens, llm_output_tokens, llm_calls, stt_audio_ms, tts_chars, finish_reason, duration_secs, revision, duplicate_ends"
    assert db.query(f"SELECT {columns} FROM billing_sessions") == [(700, 7, 3, 0.003, 7, "stop", 9, 2, 1)]
    fault.report("one_session_at_two", fault.judge(db, ledger.records, daemons), frames=len(ledger.records))


@pytest.mark.parametrize("at_once", [False, True], ids=["one_after_the_other", "at_once"])
def test_same_stream_at_two_daemons(daemon_factory: Factory, db: Database, at_once: bool) -> None:
    """A worker that moved to another daemon, not knowing what the first had stored, sends everything again: once in the tables."""
    daemons = [daemon_factory(db.dsn, config=CONFIG).start() for _ in range(2)]
    ledger, stream, seq = oracle.Ledger(), os.urandom(16), 1
    datagrams = []
    for _ in range(60):
        call = ledger.of(*frames.call(frames.new_session()))
        datagrams.append(frames.pack(frames.envelope(stream, seq, 1, len(call)), *call))
        seq += len(call)

    def send_all(daemon: Daemon) -> None:
        with Sender(daemon.socket) as sender:
            for each in datagrams:
                sender.send_datagram(each)
    works = []
    for daemon in daemons:
        works.append(Work(lambda daemon=daemon: send_all(daemon)))  # type: ignore[misc]
        if not at_once:
            works[-1].wait()
            daemon.wait_stored(len(ledger.records))
    for each in works:
        each.wait()
    statuses = [daemon.wait_stored(len(ledger.records)) for daemon in daemons]
    fault.report("same_stream_at_two", fault.judge(db, ledger.records, daemons, acknowledged={stream: seq - 1}), frames=len(ledger.records),
                 stored_by_each=[each["frames_stored"] for each in statuses], retried=[each["batches_retried"] for each in statuses])
    assert sum(each["frames_stored"] for each in statuses) == sum(each["frames_duplicate"] for each in statuses) == len(ledger.records)


def test_stream_moves_before_its_first_daemon_has_stored(daemon_factory: Factory, db: Database) -> None:
    """What the first daemon acknowledged lies below the base that the second one sees, and reaches the database after it."""
    daemons = [daemon_factory(db.dsn, config=CONFIG).start() for _ in range(2)]
    ledger, stream = oracle.Ledger(), os.urandom(16)
    first, second = [ledger.of(*frames.call(frames.new_session())) for _ in range(2)]
    holder = db.connect()
    holder.autocommit = False
    with holder.cursor() as cursor:
        wait_until(lambda: daemons[0].status()["sink_state"] == "ok", what="the first daemon to be connected")
        cursor.execute("SELECT 1 FROM toll.journals WHERE journal_id = %s FOR UPDATE", (daemons[0].status()["journal_id"],))
    for daemon, base, call in ((daemons[0], 1, first), (daemons[1], len(first) + 1, second)):
        with Sender(daemon.socket) as sender:
            sender.send_datagram(frames.pack(frames.envelope(stream, base, base, len(call)), *call))
    fault.settle(daemons[1], len(second))
    assert not oracle.faults(db), "what the first daemon has yet to store is no hole"
    holder.close()
    fault.settle(daemons[0], len(first))
    fault.report("stream_moved", fault.judge(db, ledger.records, daemons, acknowledged={stream: len(ledger.records)}), frames=len(ledger.records))


@pytest.mark.parametrize("goes_on_at", fault.choose([1], [0, 1]))
def test_session_busy_at_one_daemon_is_no_orphan(daemon_factory: Factory, db: Database, goes_on_at: int) -> None:
    """One frame came to the other daemon, which has heard nothing of the session since: that is no reason to close it. (0 owns it.)"""
    daemons = [daemon_factory(db.dsn, config={"sessions.idle_timeout": "1s"}).start() for _ in range(2)]
    session, ledger = frames.new_session(), oracle.Ledger()
    with StreamSender(daemons[0].socket) as one, StreamSender(daemons[1].socket) as two:
        for sender in (one, two):
            sender.send(*ledger.of(frames.llm(session, 1, 1)))
            sender.wait_acked()
            fault.settle(daemons)
        sender = (one, two)[goes_on_at]
        longest, last, until = 0.0, time.monotonic(), time.monotonic() + 3
        while time.monotonic() < until:
            sender.send(*ledger.of(frames.llm(session, 1, 1)))
            sender.wait_acked()
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            time.sleep(0.1)
        fault.settle(daemons)
        if longest < 0.7:  # else this machine was so slow that the session was indeed silent
            assert db.query("SELECT finish_reason, revision FROM billing_sessions") == [(None, 0)]
        sender.send(*ledger.of(frames.session_end(session)))
        sender.wait_acked()
    fault.settle(daemons)
    fault.report("busy_at_one", fault.judge(db, ledger.records, daemons), frames=len(ledger.records), longest_silence_seconds=longest)
