"""Columns of billing_events that no event had a value for are left out of what is sent to PostgreSQL, until an event has one: nothing of it is ever missing."""

from __future__ import annotations

import re
import uuid
from typing import Callable

import pytest

from harness import Daemon, Database, StreamSender, frames

LEARNED = 10_000  # events
OF_TTS = {"session_id", "event_type", "provider", "char_count", "occurred_at", "batch_id"}
TRIGGER = """
CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER own BEFORE INSERT ON billing_events FOR EACH ROW EXECUTE FUNCTION own();
GRANT EXECUTE ON FUNCTION own() TO PUBLIC"""


class Copies:
    """The columns of each COPY of events, by the server's log."""

    def __init__(self, db: Database) -> None:
        db.execute(f"ALTER DATABASE {db.name} SET log_statement = 'all'")
        self.db, self.begun = db, 0

    def new(self) -> list[set[str]]:
        with self.db.cluster.log.open(errors="replace") as log:
            log.seek(self.begun)
            text = log.read()
            self.begun = log.tell()
        return [set(columns.split(", "))
                for columns in re.findall(rf"{self.db.name} tolld.* statement: COPY public\.billing_events \(([a-z_, ]+)\)", text)]


def speak(sender: StreamSender, session: uuid.UUID, count: int) -> None:
    for _ in range(count // 250):
        sender.send(*[frames.tts(session, 1) for _ in range(250)])
    sender.wait_acked()


# With a user's trigger rows wait for their sessions, and are sent all at once.
@pytest.mark.parametrize("own", ["", TRIGGER], ids=["alone", "beside_a_trigger"])
def test_columns_are_left_out_until_an_event_needs_them(db: Database, daemon_factory: Callable[..., Daemon], own: str) -> None:
    if own:
        db.execute(own)
    copies = Copies(db)
    daemon = daemon_factory(db.dsn).start()
    session = frames.new_session()
    with StreamSender(daemon.socket) as sender:
        speak(sender, session, LEARNED)
        daemon.wait_stored()
        every = copies.new()[0]
        assert OF_TTS < every and len(every) == 30

        speak(sender, session, 250)
        daemon.wait_stored()
        assert copies.new() == [OF_TTS]

        # In one batch, for they are one datagram.
        asked = frames.llm(session, 3, 4, agent="triage", odd_key=[1, {"a": None}])
        sender.send(frames.tts(session, 2), asked, frames.tts(session, 5), frames.stt(session, 1.5, language="ru", occurred_at=1), frames.usage("sms", 0.25, session))
        sender.wait_acked()
        daemon.wait_stored()
        assert copies.new() == [OF_TTS, every]
        assert db.query("SELECT event_type, char_count, input_tokens, output_tokens, agent, language, raw_json, audio_duration_ms,"
                        " occurred_at_reported = to_timestamp(0.000001), meter, quantity::float8"
                        " FROM billing_events WHERE batch_id = (SELECT max(batch_id) FROM toll.batches) ORDER BY id") == [
            ("tts", 2, None, None, None, None, None, None, None, None, None),
            ("llm", None, 3, 4, "triage", None, {"odd_key": [1, {"a": None}]}, None, None, None, None),
            ("tts", 5, None, None, None, None, None, None, None, None, None),
            ("stt", None, None, None, None, "ru", None, 1.5, True, None, None),
            ("usage", None, None, None, None, None, None, None, None, "sms", 0.25)]

        # Nothing is left out before as many have come without.
        speak(sender, session, LEARNED)
        daemon.wait_stored()
        assert set(map(frozenset, copies.new())) == {frozenset(every)}
        speak(sender, session, 250)
        daemon.wait_stored()
        assert OF_TTS < copies.new()[0] < every
    assert db.query("SELECT count(*), sum(char_count) FROM billing_events") == [(2 * LEARNED + 505, 2 * LEARNED + 507)]
    assert db.query("SELECT event_type, provider, occurred_at IS NOT NULL, count(*) FROM billing_events WHERE event_type = 'tts' GROUP BY 1, 2, 3") == [
        ("tts", "cartesia", True, 2 * LEARNED + 502)]
