"""Sessions whose events arrive at two daemons on one database at once: their totals are the sum of their events, as with one daemon."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from typing import Any, Callable

import pytest

import oracle
from harness import SLOWNESS, Daemon, Database, Sender, StreamSender, frames, migrate

Factory = Callable[..., Daemon]
SEED = int(os.environ.get("TOLL_SEED") or random.SystemRandom().randrange(2**31))
SESSIONS = int(os.environ.get("TOLL_SESSIONS") or 100 / SLOWNESS)
BEGAN = frames.now_us() - 3_600_000_000


class Feed:
    """What one worker sends, from a thread of its own: datagrams in order, all acknowledged at the end."""

    def __init__(self, daemon: Daemon, datagrams: list[list[frames.Frame]]) -> None:
        self.daemon, self.datagrams = daemon, datagrams
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            with StreamSender(self.daemon.socket) as sender:
                for each in self.datagrams:
                    sender.send(*each)
                sender.wait_acked(seconds=60)
        except BaseException as error:  # told in wait(): a thread's failure is nobody's otherwise
            self.error = error

    def wait(self) -> None:
        self.thread.join()
        if self.error is not None:
            raise self.error


def story(session: uuid.UUID, chance: random.Random) -> list[frames.Frame]:
    """A call with its start twice, its end twice, and events on both sides of the end; equal facts in any order of arrival."""
    began = BEGAN + chance.randrange(10**9)
    made = [frames.session_start(session, started_at=began, metadata={"a": 1}),
            frames.session_start(session, started_at=began + 5, metadata={"b": 2})]
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


def dealt(stories: list[list[frames.Frame]], chance: random.Random, hands: int) -> list[list[list[frames.Frame]]]:
    """The frames of all sessions mixed, each session's roughly in order, in small datagrams for so many senders."""
    keyed = [(index / len(each) + chance.gauss(0, 0.08) + number / len(stories), frame)
             for number, each in enumerate(stories) for index, frame in enumerate(each)]
    senders: list[list[list[frames.Frame]]] = [[] for _ in range(hands)]
    for _, frame in sorted(keyed, key=lambda pair: pair[0]):
        mine = chance.choice(senders)
        if mine and len(mine[-1]) < chance.randrange(1, 25):
            mine[-1].append(frame)
        else:
            mine.append([frame])
    return senders


def stored_by(daemons: list[Daemon], hands: list[list[list[frames.Frame]]]) -> list[dict[str, Any]]:
    """Sends everything at once, each hand to its daemon; returns the daemons' status when all is stored."""
    feeds = [Feed(daemon, hand) for daemon, hand in zip(daemons, hands)]
    for each in feeds:
        each.wait()
    return [daemon.wait_stored(seconds=60) for daemon in daemons]


CONFIG = {"batch.age": "5ms", "batch.rows": 50, "database.retry_max": "100ms"}  # many small batches: many chances to collide


@pytest.mark.parametrize("count", [2, 3])
def test_many_sessions_at_daemons_at_once(daemon_factory: Factory, db: Database, count: int) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    ids = [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(SESSIONS)]
    stories = [story(session, chance) for session in ids]
    records = [oracle.record_of(frame) for each in stories for frame in each]

    daemons = [daemon_factory(db.dsn, config=CONFIG).start() for _ in range(count)]
    statuses = stored_by(daemons, dealt(stories, chance, count))
    for each in daemons:
        assert each.stop() == 0
    outcome = oracle.compare(db, records)
    shared = db.value("SELECT count(*) FROM billing_sessions WHERE shared")
    print(f"frames {outcome.frames} sessions {len(ids)} shared {shared} daemons {count} batches {[each['batches_committed'] for each in statuses]}"
          f" retried {[each['batches_retried'] for each in statuses]} {outcome.figures}")
    outcome.check()
    assert oracle.faults(db) == {}
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


def test_ends_at_one_while_events_come_to_the_other(daemon_factory: Factory, db: Database) -> None:
    """Batches of events alone, which share their sessions' rows, beside batches that write totals: no sum is lost between them."""
    print(f"seed {SEED}")
    chance, ledger = random.Random(SEED), oracle.Ledger()
    ids = [uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(SESSIONS * 2)]
    daemons = [daemon_factory(db.dsn, config=CONFIG).start() for _ in range(2)]
    both = [Feed(daemon, [ledger.of(*[frames.llm(session, 1, 1) for session in ids])]) for daemon in daemons]
    for each in both:
        each.wait()
    for daemon in daemons:
        daemon.wait_stored()
    with StreamSender(daemons[0].socket) as one, StreamSender(daemons[1].socket) as two:
        for session in ids:  # a later event would mend what went wrong here
            steps = [(one, frames.session_end(session)), *[(two, frames.llm(session, chance.randrange(1000), 1)) for _ in range(3)]]
            chance.shuffle(steps)
            for sender, frame in steps:
                sender.send(*ledger.of(frame))
                time.sleep(chance.uniform(0, 0.004))
        for sender in (one, two):
            sender.wait_acked()
    statuses = [daemon.wait_stored() for daemon in daemons]
    late = db.value("SELECT count(*) FROM billing_sessions WHERE revision > 0")
    print(f"frames {len(ledger.records)} sessions {len(ids)} batches {[each['batches_committed'] for each in statuses]} sessions corrected after"
          f" their end {late} {ledger.check(db).figures}")


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
    print(f"frames {len(ledger.records)} {ledger.check(db).figures}")


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
    threads = [threading.Thread(target=send_all, args=(daemon,)) for daemon in daemons]
    for thread, daemon in zip(threads, daemons):
        thread.start()
        if not at_once:
            thread.join()
            daemon.wait_stored(len(ledger.records))
    for thread in threads:
        thread.join()
    statuses = [daemon.wait_stored(len(ledger.records)) for daemon in daemons]
    print(f"frames {len(ledger.records)} sent to both; stored by each {[each['frames_stored'] for each in statuses]}, retried batches"
          f" {[each['batches_retried'] for each in statuses]}, {ledger.check(db).figures}")
    assert sum(each["frames_stored"] for each in statuses) == sum(each["frames_duplicate"] for each in statuses) == len(ledger.records)


@pytest.mark.parametrize("goes_on_at", [0, 1], ids=["at_its_owner", "at_the_other"])
def test_session_busy_at_one_daemon_is_no_orphan(daemon_factory: Factory, db: Database, goes_on_at: int) -> None:
    """One frame came to the other daemon, which has heard nothing of the session since: that is no reason to close it."""
    daemons = [daemon_factory(db.dsn, config={"sessions.idle_timeout": "2s"}).start() for _ in range(2)]
    session, ledger = frames.new_session(), oracle.Ledger()
    with StreamSender(daemons[0].socket) as one, StreamSender(daemons[1].socket) as two:
        for sender in (one, two):
            sender.send(*ledger.of(frames.llm(session, 1, 1)))
            sender.wait_acked()
            [daemon.wait_stored() for daemon in daemons]
        sender = (one, two)[goes_on_at]
        until = time.monotonic() + 4.5
        while time.monotonic() < until:
            sender.send(*ledger.of(frames.llm(session, 1, 1)))
            sender.wait_acked()
            time.sleep(0.2)
        [daemon.wait_stored() for daemon in daemons]
        assert db.query("SELECT finish_reason, revision FROM billing_sessions") == [(None, 0)]
        sender.send(*ledger.of(frames.session_end(session)))
        sender.wait_acked()
    [daemon.wait_stored() for daemon in daemons]
    print(f"frames {len(ledger.records)} {ledger.check(db).figures}")
