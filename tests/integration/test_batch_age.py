"""Frames wait for company no longer than batch.age, and not that long once there is enough of it."""

from __future__ import annotations

from typing import Callable

from harness import Daemon, Database, StreamSender, frames, wait_until


def test_enough_company_wakes_a_writer_that_waits_for_it(db: Database, daemon_factory: Callable[..., Daemon]) -> None:
    daemon = daemon_factory(db.dsn, config={"batch.age": "1m", "batch.bytes": "64K"}).start()
    session = frames.new_session()
    with StreamSender(daemon.socket) as sender:
        sender.send(frames.tts(session))
        sender.wait_acked()  # so it is durable, and its writer waits
        assert db.value("SELECT count(*) FROM billing_events") == 0
        for _ in range(3):
            sender.send(*[frames.tts(session) for _ in range(200)])
        wait_until(lambda: db.value("SELECT count(*) FROM billing_events") > 0, 5, "a quarter of a batch to be stored")
