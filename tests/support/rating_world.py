"""A random world for rating: price book, accounts, sessions, events; in memory for the oracle, and as rows of a database."""

from __future__ import annotations

import io
import random
import uuid
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from typing import Collection

from harness import Database
from rating_oracle import Account, Event, Oracle, Price, Rate, Session

BEGIN = datetime(2026, 2, 20, tzinfo=timezone.utc)
END = datetime(2026, 4, 10, tzinfo=timezone.utc)
CURRENCIES = ("USD", "EUR", "RUB")
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns")
METERS = ("sms", "whatsapp", "message", "did_month", "telephony_inbound", "telephony_outbound", "ai_query", "storage_mb")
PROVIDERS = {"llm": ("openai", "anthropic"), "tts": ("cartesia", "openai"), "stt": ("deepgram", "whisper")}
MODELS = {"llm": ("large", "small", "realtime"), "tts": ("sonic", "tts-1"), "stt": ("nova-3", "nova-2")}
VARIANTS = {"llm": ("voice", "text"), "tts": ("alloy", "nova"), "stt": ("de", "en"), "meter": (), "telephony": (), "tariff": ("gold",)}
LLM_DIMENSIONS = ("input", "cached_input", "cache_write", "audio_input", "cached_audio_input", "output", "audio_output", "request")
UNITS = {"tts": ("characters", "audio_minutes", "tokens"), "stt": ("minutes", "seconds", "tokens")}


@dataclass
class Batch:
    journal: uuid.UUID
    writer: int
    events: list[Event]


@dataclass
class World:
    seed: int
    size: int
    random: random.Random = field(init=False)
    prices: list[Price] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    zones: dict[str, str] = field(default_factory=dict)
    wallets: dict[str, Fraction] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.make_accounts()
        self.make_sessions()
        while not self.events or not self.enough():
            self.make_rates()
            self.make_prices()
            self.events = [self.event_of(number + 1) for number in range(self.size)]
        self.make_batches()

    def oracle(self) -> Oracle:
        return Oracle("USD", self.prices, self.rates)

    def enough(self) -> bool:
        """Whether the book has prices and rates for so much that there is something to compare: more than a test asks for, of all events."""
        oracle, sample = self.oracle(), self.events[:1000]
        rated = [oracle.rated(event) for event in sample]
        return sum(each.cost is not None for each in rated) > 0.35 * len(sample) and sum(bool(each.charge) for each in rated) > 0.15 * len(sample)

    # --- making it ---------------------------------------------------------------------------------------------------------

    def moment(self) -> datetime:
        return BEGIN + timedelta(microseconds=self.random.randrange(int((END - BEGIN).total_seconds()) * 10**6))

    def windows(self) -> list[tuple[datetime, datetime | None]]:
        """Times that follow one another, some with a gap between."""
        cuts = sorted(self.moment() for _ in range(self.random.choice((0, 0, 1, 2, 4))))
        edges: list[datetime | None] = [BEGIN - timedelta(days=1), *cuts, None]
        return [(start, end) for start, end in zip(edges, edges[1:]) if start and self.random.random() < 0.85]

    def make_accounts(self) -> None:
        for number in range(40):
            account = Account(f"acct {number}", self.random.choice(("basic", "pro")), self.random.choice(CURRENCIES),
                              self.random.choice(("usage", "usage", "usage", "minutes", "prepaid_minutes", "plan")),
                              self.random.choice(("*", "gold")))
            if self.random.random() < 0.4:
                account.markup_percent = Fraction(self.random.choice((0, 20, 33, -10))) + Fraction(self.random.randrange(100), 100)
            if account.charge_by != "plan" and self.random.random() < 0.3:
                account.trial_ends_at = self.moment()
                # Whose minutes are waived in part depends on the order in which calls are rated.
                part = () if account.charge_by == "prepaid_minutes" else (Fraction(self.random.randrange(10**9), 10**9),)
                account.trial_allowance = self.random.choice((None, Fraction(0), *part))
            if self.random.random() < 0.6:
                self.wallets[account.account_id] = Fraction(self.random.randrange(100_000), 100)
            self.zones[account.account_id] = self.random.choice(ZONES)
            self.accounts.append(account)

    def make_rates(self) -> None:
        self.rates = []
        for one in CURRENCIES:
            for other in CURRENCIES:
                if one != other and self.random.random() < 0.8:
                    self.rates += [Rate(one, other, Fraction(self.random.randrange(1, 10**8), 10**6), start, end) for start, end in self.windows()]

    def scopes(self) -> list[tuple[str, str]]:
        scopes = [("default", "*")] * (self.random.random() < 0.8)
        scopes += [("plan", plan) for plan in ("basic", "pro") if self.random.random() < 0.3]
        return scopes + [("account", account.account_id) for account in self.accounts if self.random.random() < 0.002]

    def add_prices(self, component: str, provider: str, model: str, variant: str, dimension: str, tier: int, side: str, unit: int,
                   scope: tuple[str, str], currency: str) -> None:
        telephony = component == "telephony"
        for start, end in self.windows():
            price = Fraction(self.random.randrange(10**7), 10 ** self.random.choice((6, 7, 9)))
            self.prices.append(Price(
                len(self.prices) + 1, *scope, component, provider, model, variant, dimension, tier, side, price, unit, currency, start, end,
                self.random.choice((0, 30, 60)) * telephony, self.random.choice((0, 1, 6, 60)) * telephony))

    def make_prices(self) -> None:
        self.prices = []
        chance = self.random.random
        for side in ("cost", "charge"):
            for component in ("llm", "tts", "stt"):
                names = [(provider, model) for provider in (*PROVIDERS[component], "*") for model in (*MODELS[component], "*")]
                for provider, model in names:
                    for variant in ("*", *VARIANTS[component]):
                        for scope in self.scopes() if chance() < (0.6 if variant == "*" else 0.15) else []:
                            currency = self.random.choice(("USD", "USD", "EUR"))
                            unit = self.random.choice((1, 1000, 10**6))
                            if component != "llm":
                                dimension = self.random.choice(UNITS[component])
                                self.add_prices(component, provider, model, variant, dimension, 0, side, unit, scope, currency)
                                continue
                            for dimension in LLM_DIMENSIONS:
                                for tier in (0, 2000, 5000) if chance() < 0.2 else (0,):
                                    if chance() < (0.9 if dimension in ("input", "output") else 0.4):
                                        self.add_prices(component, provider, model, variant, dimension, tier, side,
                                                        self.random.choice((unit, unit, 1000)), scope,
                                                        currency if chance() < 0.99 else "RUB")
            for meter in METERS:
                component = "telephony" if meter.startswith("telephony") else "meter"
                for scope in self.scopes():
                    self.add_prices(component, self.random.choice(("*", "twilio")), "*", "*", meter, 0, side, self.random.choice((1, 1, 1000)),
                                    scope, self.random.choice(CURRENCIES))
        for tariff in ("*", "gold"):
            for scope in self.scopes():
                self.add_prices("tariff", "*", "*", tariff, "minutes", 0, "charge", 1, scope, self.random.choice(CURRENCIES))

    def make_sessions(self) -> None:
        for _ in range(max(1, self.size // 12)):
            account = self.random.choice(self.accounts) if self.random.random() < 0.97 else None
            started = self.moment()
            length = timedelta(milliseconds=self.random.choice((0, 1, 59_999, 60_000, 60_001, self.random.randrange(900_000))))
            session = Session(str(uuid.UUID(int=self.random.getrandbits(128))), account, self.random.choice(("voice", "voice", "text")), started,
                              started + length if self.random.random() < 0.9 else None)
            # Whose trial is used up depends on the order; so does what a late name is charged then.
            if account and self.random.random() < 0.05:
                self.late.add(session.session_id)
            self.sessions.append(session)

    def event_of(self, number: int) -> Event:
        chance, pick = self.random.random, self.random.choice
        kind = pick(("llm", "llm", "tts", "stt", "usage"))
        session = pick(self.sessions)
        at = session.started_at + timedelta(microseconds=self.random.randrange(900 * 10**6))
        if chance() < 0.05:
            at = pick(self.prices).start # exactly where a price begins
        event = Event(number, session, None, kind, None, None, max(at, BEGIN))
        if kind != "usage":
            event.provider = pick(PROVIDERS[kind]) if chance() < 0.95 else "unheard-of"
            event.model = pick(MODELS[kind]) if chance() < 0.95 or kind == "llm" else None
        tokens = self.random.randrange
        if kind == "llm":
            event.input_tokens, event.output_tokens = 1 + tokens(pick((1, 10, 3000, 20_000))), tokens(pick((1, 500)))
            if chance() < 0.5:
                cached = event.cached_input_tokens = tokens(event.input_tokens + 1)
                audio = event.audio_input_tokens = tokens(event.input_tokens + 1)
                both = event.cached_audio_tokens = tokens(max(0, cached + audio - event.input_tokens), min(cached, audio) + 1)
                event.cache_write_tokens = tokens(event.input_tokens - cached - audio + both + 1)
                event.audio_output_tokens = tokens(event.output_tokens + 1)
        elif kind == "tts":
            event.char_count = tokens(2000)
            event.voice = pick(("alloy", "nova", None))
            event.audio_us = tokens(10**8) if chance() < 0.8 else None
        elif kind == "stt":
            event.audio_us = tokens(10**8)
            event.language = pick(("de", "en", None))
        if kind in ("tts", "stt") and chance() < 0.5:
            event.input_tokens, event.output_tokens = tokens(900), tokens(900) if chance() < 0.8 else None
        if kind == "usage":
            event.meter = pick(METERS)
            event.provider = pick(("twilio", None))
            event.quantity = Fraction(pick((0, 1, 2, tokens(10**4))), pick((1, 1, 1000)))
            if chance() < 0.1:
                event.session, event.account, event.occurred_at = None, pick(self.accounts), self.moment()
        return event

    def make_batches(self) -> None:
        writers = [(uuid.UUID(int=number), writer) for number in (11, 12) for writer in (0, 1)]
        rest = list(self.events)
        while rest:
            count = self.random.choice((1, 7, 100, 1000))
            self.batches.append(Batch(*self.random.choice(writers), rest[:count]))
            rest = rest[count:]

    # --- as rows -----------------------------------------------------------------------------------------------------------

    def store_book(self, database: Database, without: Collection[Price] = ()) -> None:
        database.execute("INSERT INTO plans VALUES ('pro', 'Pro')")
        database.execute("INSERT INTO usage_quotas SELECT 'pro', event_type, included_quantity / 10, NULL, overage_price_cents * 1.7"
                         " FROM usage_quotas")
        store(database, "accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id, trial_ends_at, trial_allowance, markup_percent)",
              [(a.account_id, a.plan_id, a.currency, self.zones[a.account_id], a.charge_by, a.tariff_id, a.trial_ends_at,
                a.trial_allowance, a.markup_percent) for a in self.accounts])
        store(database, "fx_rates (from_currency, to_currency, rate, valid)",
              [(r.from_currency, r.to_currency, r.rate, span(r.start, r.end)) for r in self.rates])
        self.store_prices(database, [price for price in self.prices if price not in without])

    def store_prices(self, database: Database, prices: list[Price]) -> None:
        store(database, "pricing_config (price_id, scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side, price,"
              " unit_quantity, currency, minimum_seconds, increment_seconds, valid)",
              [(p.price_id, p.scope_kind, p.scope_id, p.component, p.provider, p.model, p.variant, p.dimension, p.tier_above, p.side, p.price, p.unit,
                p.currency, p.minimum_seconds, p.increment_seconds, span(p.start, p.end)) for p in prices])

    def store_sessions(self, database: Database) -> None:
        """All of them live, those that are late without the name of their account."""
        store(database, "billing_sessions (session_id, started_at, metadata, owner_journal, owner_writer)",
              [(s.session_id, s.started_at, self.metadata(s, s.session_id not in self.late), uuid.UUID(int=11), 0) for s in self.sessions])
        self.queue(database, self.sessions)

    @staticmethod
    def metadata(session: Session, named: bool) -> str:
        name = f'"user_id": "{session.account.account_id}", ' if session.account and named else ""
        return f'{{{name}"channel": "{session.channel}"}}'

    def queue(self, database: Database, sessions: list[Session]) -> None:
        store(database, "toll.session_queue (journal_id, writer, session_id)",
              [(uuid.UUID(int=self.random.choice((11, 12))), self.random.choice((0, 1)), s.session_id) for s in sessions])

    def store_names(self, database: Database) -> None:
        named = [s for s in self.sessions if s.session_id in self.late]
        for session in named:
            database.execute("UPDATE billing_sessions SET metadata = %s WHERE session_id = %s", self.metadata(session, True), session.session_id)
        self.queue(database, named)

    def store_ends(self, database: Database, off: timedelta = timedelta(0), part: float = 1) -> None:
        """Ends sessions; with `off`, a part of them later or earlier than in the end."""
        chosen = [s for s in self.sessions if s.ended_at and self.random.random() < part]
        connection = database.connect()
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE ends (session_id uuid, at timestamptz)")
            copy(cursor, "ends", [(s.session_id, max(s.started_at, s.ended_at + off) if s.ended_at else None) for s in chosen])
            cursor.execute("UPDATE billing_sessions AS s SET ended_at = e.at, finish_reason = 'end',"
                           " duration_secs = extract(epoch FROM e.at - s.started_at) FROM ends AS e WHERE s.session_id = e.session_id")
        connection.close()
        self.queue(database, chosen)

    def store_batches(self, database: Database, batches: list[Batch]) -> None:
        store(database, "billing_events (id, session_id, account, event_type, provider, model, input_tokens, output_tokens, char_count, voice,"
              " audio_duration_ms, occurred_at, batch_id, language, cached_input_tokens, cache_write_tokens, audio_input_tokens,"
              " cached_audio_tokens, audio_output_tokens, meter, quantity)",
              [(e.event_id, e.session.session_id if e.session else None, e.account.account_id if e.account else None, e.event_type, e.provider,
                e.model, e.input_tokens, e.output_tokens, e.char_count, e.voice, None if e.audio_us is None else e.audio_us / 1000, e.occurred_at,
                1 + self.batches.index(batch), e.language, e.cached_input_tokens, e.cache_write_tokens, e.audio_input_tokens,
                e.cached_audio_tokens, e.audio_output_tokens, e.meter, e.quantity) for batch in batches for e in batch.events])
        for batch in batches:
            known = self.random.random() < 0.8
            first, last = (batch.events[0].event_id, batch.events[-1].event_id) if known else (None, None)
            database.execute(
                "WITH moved AS (INSERT INTO toll.journals AS j (journal_id, writer, lsn) VALUES (%s, %s, 100)"
                " ON CONFLICT (journal_id, writer) DO UPDATE SET lsn = j.lsn + 100 RETURNING lsn)"
                " INSERT INTO toll.batches (batch_id, journal_id, writer, from_lsn, to_lsn, received, stored, quarantined, duplicates, events,"
                " transcripts, first_received_at, last_received_at, first_event_id, last_event_id)"
                " SELECT %s, %s, %s, lsn - 100, lsn, %s, %s, 0, 0, %s, 0, now(), now(), %s, %s FROM moved",
                str(batch.journal), batch.writer, 1 + self.batches.index(batch), str(batch.journal), batch.writer, len(batch.events),
                len(batch.events), len(batch.events), first, last)

    def replace_prices(self, wrong: list[Price]) -> list[Price]:
        """Puts others in their place, which it returns."""
        right = {price.price_id: replace(price, price_id=len(self.prices) + number + 1,
                                         price=price.price * Fraction(self.random.choice((0, 1, 3)), 2))
                 for number, price in enumerate(wrong)}
        self.prices = [right.get(price.price_id, price) for price in self.prices]
        return list(right.values())


def span(start: datetime, end: datetime | None) -> str:
    return f"[{start.isoformat()},{end.isoformat() if end else ''})"


def text_of(value: object) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, Fraction):
        units = value * 10**12
        assert units.denominator == 1, value
        sign, digits = "-" * (units < 0), str(abs(units.numerator)).rjust(13, "0")
        return f"{sign}{digits[:-12]}.{digits[-12:]}".rstrip("0").rstrip(".")
    return value.isoformat() if isinstance(value, datetime) else str(value)


def copy(cursor: object, table: str, rows: list[tuple[object, ...]]) -> None:
    text = "".join("\t".join(text_of(value) for value in row) + "\n" for row in rows)
    cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(text)) # type: ignore[attr-defined]


def store(database: Database, table: str, rows: list[tuple[object, ...]]) -> None:
    connection = database.connect()
    with connection, connection.cursor() as cursor:
        copy(cursor, table, rows)
    connection.close()
