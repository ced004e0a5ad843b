"""For tests of rating: a migrated database, a price book in a few words, usage as tolld would store it, and what rating made of it."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from harness import Database
from schema import JOURNAL

UTC = timezone.utc
NOON = datetime.now(UTC).replace(day=2, hour=12, minute=0, second=0, microsecond=0)  # of this month, which has its partition
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
OTHER = uuid.UUID(int=2)
EVENT = ("provider", "model", "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "audio_input_tokens",
         "cached_audio_tokens", "audio_output_tokens", "char_count", "voice", "language", "audio_duration_ms", "meter", "quantity", "account",
         "turn_id", "ttfb_ms", "duration_ms")


def D(text: str) -> Decimal:  # noqa: N802
    return Decimal(text)


class Book:
    """Prices, usage and rating in one database. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.db = database

    # --- what it goes by ---

    def price(self, component: str, dimension: str, price: str, *, side: str = "cost", unit: int = 1_000_000, provider: str = "*", model: str = "*",
              variant: str = "*", account: str | None = None, plan: str | None = None, tier: int = 0, currency: str = "USD",
              since: datetime = LONG_AGO, until: datetime | None = None, minimum: int = 0, increment: int = 0) -> int:
        """side "both": the same cost and charge; the number is the charge's."""
        kind, scope = ("account", account) if account else ("plan", plan) if plan else ("default", "*")
        number = 0
        for one in ("cost", "charge") if side == "both" else (side,):
            number = self.db.value(
                "INSERT INTO pricing_config (scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side, price,"
                " unit_quantity, currency, minimum_seconds, increment_seconds, valid)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, tstzrange(%s, %s)) RETURNING price_id",
                kind, scope, component, provider, model, variant, dimension, tier, one, D(price), unit, currency, minimum, increment,
                since, until)
        return number

    def rate_of(self, start: str, to: str, rate: str, since: datetime = LONG_AGO, until: datetime | None = None) -> None:
        self.db.execute("INSERT INTO fx_rates (from_currency, to_currency, rate, valid) VALUES (%s, %s, %s, tstzrange(%s, %s))",
                        start, to, D(rate), since, until)

    def account(self, account: str, **columns: Any) -> str:
        """An account with the defaults, but for these columns."""
        row = {"plan_id": "basic", "currency": "USD", "time_zone": "UTC", "charge_by": "usage", "tariff_id": "*"} | columns
        self.db.execute(f"INSERT INTO accounts (account_id, {', '.join(row)}) VALUES (%s{', %s' * len(row)})", account, *row.values())
        return account

    def wallet(self, account: str, amount_cents: int, currency: str | None = None) -> None:
        self.db.value("SELECT create_wallet(%s, %s)", account, currency)
        if currency == "minutes":
            self.db.value("SELECT add_minutes(%s, %s, 'test', %s)", account, Decimal(amount_cents), f"w-{account}")
        elif amount_cents:
            self.db.value("SELECT add_credits(%s, %s, 'test', %s)", account, amount_cents, f"w-{account}")

    def balance(self, account: str, currency: str = "USD") -> Decimal:
        return self.db.value("SELECT balance FROM customer_balance WHERE user_id = %s AND currency = %s", account, currency)

    # --- what happens ---

    def session(self, started: datetime = NOON, **metadata: Any) -> str:
        """A session that began, as a batch tells rating."""
        session = str(uuid.uuid4())
        self.db.execute(
            "WITH s AS (INSERT INTO billing_sessions (session_id, started_at, metadata, owner_journal, owner_writer)"
            " VALUES (%s, %s, %s, %s, 0) RETURNING session_id)"
            " INSERT INTO toll.session_queue SELECT %s, 0, session_id FROM s", session, started, json.dumps(metadata), str(JOURNAL), str(JOURNAL))
        return session

    def change(self, session: str, *, ended: datetime | None = None, started: datetime | None = None, **metadata: Any) -> None:
        """It ends, another end or start is found, its metadata are completed."""
        self.db.execute(
            "WITH s AS (UPDATE billing_sessions SET ended_at = coalesce(%s, ended_at), started_at = coalesce(%s, started_at),"
            " metadata = metadata || %s, finish_reason = 'end' WHERE session_id = %s RETURNING session_id)"
            " INSERT INTO toll.session_queue SELECT %s, 0, session_id FROM s", ended, started, json.dumps(metadata), session, str(JOURNAL))

    def batch(self, *events: tuple[str | None, str, dict[str, Any]], at: datetime = NOON, journal: uuid.UUID = JOURNAL,
              known: bool = True) -> list[int]:
        """One stored batch of (session, type, columns); "at" among the columns is occurred_at. Returns the events' numbers.
        known: the batch says in which numbers its events are."""
        with self.db.connect() as connection, connection.cursor() as cursor:
            connection.autocommit = False
            cursor.execute("SELECT nextval('toll.batch_id_seq')")
            batch = cursor.fetchone()[0]
            numbers = []
            for session, kind, columns in events:
                given = dict(columns)
                when = given.pop("at", at)
                assert set(given) <= set(EVENT), given
                cursor.execute(
                    f"INSERT INTO billing_events (session_id, event_type, occurred_at, batch_id{''.join(', ' + c for c in given)})"
                    f" VALUES (%s, %s, %s, %s{', %s' * len(given)}) RETURNING id", (session, kind, when, batch, *given.values()))
                numbers.append(cursor.fetchone()[0])
            cursor.execute(
                "WITH moved AS (INSERT INTO toll.journals AS j (journal_id, writer, lsn) VALUES (%s, 0, 100)"
                " ON CONFLICT (journal_id, writer) DO UPDATE SET lsn = j.lsn + 100 RETURNING lsn)"
                " INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates,"
                " events, transcripts, first_event_id, last_event_id)"
                " SELECT %s, %s, 0, lsn - 100, lsn, %s, %s, 0, 0, %s, 0, %s, %s FROM moved",
                (str(journal), batch, str(journal), len(events), len(events), len(events),
                 *((numbers[0], numbers[-1]) if known and numbers else (None, None))))
        connection.close()
        return numbers

    def llm(self, session: str, **columns: Any) -> int:
        return self.batch((session, "llm", {"provider": "openai", "model": "gpt-4o"} | columns))[0]

    def rate(self, journal: uuid.UUID = JOURNAL, most: int = 1000) -> int:
        """Rates all there is, in steps; returns how many lines were written."""
        lines = 0
        for _ in range(1000):
            _, more_lines, _, _, more = self.db.query("SELECT * FROM toll.rate_next(%s, 0, %s)", str(journal), most)[0]
            lines += more_lines
            if not more:
                return lines
        raise AssertionError("rating never ends")

    # --- what came of it ---

    def lines(self, where: str = "true", *args: Any) -> list[dict[str, Any]]:
        columns = ("event_id", "session_id", "account_id", "component", "provider", "model", "quantities", "cost_original", "cost_currency", "cost",
                   "charge", "waived", "currency", "cost_price_ids", "charge_price_ids", "kind", "reason", "occurred_at", "booked_at", "batch")
        return [dict(zip(columns, row)) for row in self.db.query(
            f"SELECT {', '.join(columns)} FROM billing_charges WHERE {where} ORDER BY batch, line_id", *args)]

    def line(self, event: int) -> dict[str, Any]:
        found = self.lines("event_id = %s", event)
        assert len(found) == 1, found
        return found[0]

    def unrated(self) -> dict[tuple[int, str], str]:
        return {(event, side): missing for event, side, missing in self.db.query("SELECT event_id, side, missing FROM toll.unrated")}

    def check_rollup(self) -> None:
        """Every sum of the roll-up is that of the lines, and what no line says is that of the events."""
        wrong = self.db.query(
            "WITH r AS (SELECT account_id, quarter, component, provider, model, currency, sum(cost) AS cost, sum(charge) AS charge, sum(waived) AS waived"
            "           FROM toll.usage_rollup WHERE component <> 'session' GROUP BY 1, 2, 3, 4, 5, 6),"
            " l AS (SELECT coalesce(account_id, '') AS account_id, date_bin('15 min', occurred_at, '2000-01-01 00:00+00') AS quarter, component,"
            "       coalesce(provider, '') AS provider, coalesce(model, '') AS model, currency, coalesce(sum(cost), 0) AS cost,"
            "       coalesce(sum(charge), 0) AS charge, sum(waived) AS waived FROM billing_charges GROUP BY 1, 2, 3, 4, 5, 6)"
            " SELECT * FROM r FULL JOIN l USING (account_id, quarter, component, provider, model, currency, cost, charge, waived)"
            " WHERE l.account_id IS NULL OR r.account_id IS NULL")
        # A row whose sums are all zero may be left of what was moved.
        assert [row for row in wrong if any(row[6:9])] == []
        events = self.db.query(
            "SELECT coalesce(sum(events), 0), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(characters), 0),"
            " coalesce(sum(audio_us), 0) FROM toll.usage_rollup")
        assert events == self.db.query(
            "SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(char_count), 0),"
            " coalesce(sum(round(audio_duration_ms * 1000)::bigint), 0)"
            " FROM billing_events e WHERE EXISTS (SELECT FROM billing_charges c WHERE c.event_id = e.id)")


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def priced(book: Book, price: str = "1") -> None:
    """A token and a minute of speech cost that much, and so does a meter's unit."""
    for dimension in ("input", "output"):
        book.price("llm", dimension, price, unit=1, side="both")
    book.price("stt", "minutes", price, unit=1, side="both")


def quota(book: Book, meter: str, included: str, cents: str, limit: str | None = None) -> None:
    book.db.execute("INSERT INTO usage_quotas VALUES ('basic', %s, %s, %s, %s) ON CONFLICT (plan_id, event_type) DO UPDATE SET"
                    " included_quantity = excluded.included_quantity, overage_price_cents = excluded.overage_price_cents,"
                    " quota_limit = excluded.quota_limit", meter, D(included), D(limit) if limit else None, D(cents))
