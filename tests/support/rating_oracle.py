"""What rating should come to: plain, slow, with exact fractions, and written from the rules (sql/README.md), not from the SQL.

It rates one event at a time by looking through the price book, and knows nothing of batches, watermarks or roll-ups. What depends on the order in
which events were rated (trials, overage) is left to who compares: it is told as totals, which do not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Iterator

DECIMALS = 10**9
EXACT_FIRST = list(itertools.product((True, False), repeat=3))
INPUT_SIDE = ("input", "cached_input", "cache_write", "audio_input", "cached_audio_input")
OUTPUT_SIDE = ("output", "audio_output")
UNITS = {"tts": ("characters", "audio_minutes", "tokens"), "stt": ("minutes", "seconds", "tokens")}


def rounded(exact: Fraction) -> Fraction:
    """To nine decimals, half to even, as Python rounds fractions."""
    return Fraction(round(exact * DECIMALS), DECIMALS)


@dataclass(frozen=True)
class Price:
    price_id: int
    scope_kind: str
    scope_id: str
    component: str
    provider: str
    model: str
    variant: str
    dimension: str
    tier_above: int
    side: str
    price: Fraction
    unit: int
    currency: str
    start: datetime
    end: datetime | None
    minimum_seconds: int = 0
    increment_seconds: int = 0


@dataclass(frozen=True)
class Rate:
    from_currency: str
    to_currency: str
    rate: Fraction
    start: datetime
    end: datetime | None


@dataclass
class Account:
    account_id: str
    plan_id: str
    currency: str
    charge_by: str
    tariff_id: str = "*"
    markup_percent: Fraction | None = None
    trial_ends_at: datetime | None = None
    trial_allowance: Fraction | None = None


@dataclass
class Session:
    session_id: str
    account: Account | None
    channel: str
    started_at: datetime
    ended_at: datetime | None = None


@dataclass
class Event:
    event_id: int
    session: Session | None
    account: Account | None
    event_type: str
    provider: str | None
    model: str | None
    occurred_at: datetime
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_input_tokens: int | None = None
    cached_audio_tokens: int | None = None
    audio_output_tokens: int | None = None
    char_count: int | None = None
    audio_us: int | None = None
    voice: str | None = None
    language: str | None = None
    meter: str | None = None
    quantity: Fraction | None = None


@dataclass
class Rated:
    """What all lines of an event add up to. None: not known."""
    cost_original: Fraction | None
    cost_currency: str | None
    cost: Fraction | None
    charge: Fraction | None
    currency: str
    component: str


class Unrated(Exception):
    """There is no price, no rate, or no quantity."""


class NoPrice(Unrated):
    """No row of the price book matches at all."""


@dataclass
class Oracle:
    default_currency: str
    prices: list[Price]
    rates: list[Rate]
    book: dict[tuple[str, ...], list[Price]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for price in self.prices:
            key = (price.side, price.component, price.dimension, price.scope_kind, price.scope_id, price.provider, price.model, price.variant)
            self.book.setdefault(key, []).append(price)

    # --- looking up -------------------------------------------------------------------------------------------------------

    def ranked(self, side: str, component: str, dimension: str, names: tuple[str | None, str | None, str | None], account: Account | None,
               at: datetime, tokens: int) -> Iterator[tuple[tuple[int, ...], Price]]:
        """The prices of one dimension, the best first, each with its rank. Of a group only the highest tier."""
        scopes = [("default", "*")]
        if account:
            scopes = [("account", account.account_id), ("plan", account.plan_id), *scopes]
        for nearness, (kind, scope_id) in enumerate(scopes):
            for order, exact in enumerate(EXACT_FIRST):
                if any(wanted and name is None for wanted, name in zip(exact, names)):
                    continue
                found = [price for price in self.book.get((side, component, dimension, kind, scope_id,
                                                           *(name if wanted and name else "*" for wanted, name in zip(exact, names))), ())
                         if price.start <= at and (price.end is None or at < price.end)
                         and (price.tier_above == 0 or tokens > price.tier_above)]
                if found:
                    yield (nearness - len(scopes), order), max(found, key=lambda price: price.tier_above)

    def price(self, *key: object) -> Price | None:
        return next((price for _, price in self.ranked(*key)), None)  # type: ignore[arg-type]

    def rate(self, from_currency: str, to_currency: str, at: datetime) -> Fraction:
        if from_currency == to_currency:
            return Fraction(1)
        for rate in self.rates:
            if (rate.from_currency, rate.to_currency) == (from_currency, to_currency) and rate.start <= at and (rate.end is None or at < rate.end):
                return rate.rate
        raise Unrated(f"no rate from {from_currency} to {to_currency}")

    # --- quantities x prices -----------------------------------------------------------------------------------------------

    @staticmethod
    def added(parts: list[tuple[Fraction, Price]]) -> tuple[Fraction, str]:
        currencies = {price.currency for _, price in parts}
        if len(currencies) != 1:
            raise Unrated("prices of several currencies")
        return sum((quantity * price.price / price.unit for quantity, price in parts), Fraction(0)), currencies.pop()

    def llm(self, side: str, event: Event, account: Account | None) -> tuple[Fraction, str]:
        assert event.input_tokens is not None and event.output_tokens is not None
        cached, write = event.cached_input_tokens or 0, event.cache_write_tokens or 0
        audio_in, cached_audio = event.audio_input_tokens or 0, event.cached_audio_tokens or 0
        audio_out = event.audio_output_tokens or 0
        quantities = {
            "input": event.input_tokens - cached - write - audio_in + cached_audio,
            "cached_input": cached - cached_audio,
            "cache_write": write,
            "audio_input": audio_in - cached_audio,
            "cached_audio_input": cached_audio,
            "output": event.output_tokens - audio_out,
            "audio_output": audio_out,
        }
        names = (event.provider, event.model, event.session.channel if event.session else None)
        found = {dimension: self.price(side, "llm", dimension, names, account, event.occurred_at, event.input_tokens)
                 for dimension in (*quantities, "request")}
        if not any(found.values()):
            raise NoPrice("no price of this model")
        parts = []
        for dimension, quantity in quantities.items():
            price = found[dimension] or found["input" if dimension in INPUT_SIDE else "output"]
            if quantity and not price:
                raise Unrated(f"no price of {dimension}")
            if quantity and price:
                parts.append((Fraction(quantity), price))
        if found["request"]:
            parts.append((Fraction(1), found["request"]))
        return self.added(parts) if parts else (Fraction(0), next(price.currency for price in found.values() if price))

    def by_unit(self, side: str, event: Event, account: Account | None) -> tuple[Fraction, str]:
        component = event.event_type
        tokens = None if event.input_tokens is None and event.output_tokens is None else (event.input_tokens or 0) + (event.output_tokens or 0)
        audio = None if event.audio_us is None else Fraction(event.audio_us, 10**6)
        quantities = {"characters": event.char_count, "tokens": tokens, "audio_minutes": audio and audio / 60, "minutes": audio and audio / 60,
                      "seconds": audio}
        if audio == 0:
            quantities |= {"audio_minutes": 0, "minutes": 0}
        names = (event.provider, event.model, event.voice if component == "tts" else event.language)
        best = [ranked for unit in UNITS[component]
                for ranked in itertools.islice(self.ranked(side, component, unit, names, account, event.occurred_at, 0), 1)]
        if not best:
            raise NoPrice("no price of this model")
        _, price = min(best, key=lambda ranked: ranked[0])
        quantity = quantities[price.dimension]
        if quantity is None:
            raise Unrated(f"no quantity for {price.dimension}")
        return self.added([(Fraction(quantity), price)])

    def usage(self, side: str, event: Event, account: Account | None) -> tuple[Fraction, str]:
        assert event.meter is not None and event.quantity is not None
        component = component_of(event)
        price = self.price(side, component, event.meter, (event.provider, event.model, None), account, event.occurred_at, 0)
        if not price:
            raise NoPrice("no price of this meter")
        quantity = event.quantity
        if component == "telephony" and quantity > 0:
            seconds = quantity * 60
            if price.increment_seconds:
                seconds = Fraction(-(-seconds // price.increment_seconds) * price.increment_seconds)
            quantity = max(seconds, Fraction(price.minimum_seconds)) / 60
        return self.added([(quantity, price)])

    def exact(self, side: str, event: Event, account: Account | None) -> tuple[Fraction, str]:
        return {"llm": self.llm, "tts": self.by_unit, "stt": self.by_unit, "usage": self.usage}[event.event_type](side, event, account)

    # --- an event, a session -----------------------------------------------------------------------------------------------

    def rated(self, event: Event) -> Rated:
        account = event.session.account if event.session else event.account
        currency = account.currency if account else self.default_currency
        result = Rated(None, None, None, None, currency, component_of(event))
        cost: Fraction | None = None
        try:
            original, cost_currency = self.exact("cost", event, account)
            cost = original * self.rate(cost_currency, currency, event.occurred_at)
            result.cost_original, result.cost_currency, result.cost = rounded(original), cost_currency, rounded(cost)
        except Unrated:
            pass
        if not account:
            return result
        # Usage outside a session belongs to no session's scheme: minutes are of sessions.
        if account.charge_by != "usage":
            result.charge = Fraction(0)
            return result
        try:
            charge, charge_currency = self.exact("charge", event, account)
            result.charge = rounded(charge * self.rate(charge_currency, currency, event.occurred_at))
        except NoPrice:
            if account.markup_percent is not None and cost is not None:
                result.charge = rounded(cost * (1 + account.markup_percent / 100))
        except Unrated:
            pass
        return result

    def tariff(self, session: Session) -> tuple[int, Fraction | None]:
        """Billed minutes of a voice session that has ended, and what they cost."""
        assert session.account and session.ended_at
        milliseconds = max(0, (session.ended_at - session.started_at).days * 86_400_000
                           + (session.ended_at - session.started_at).seconds * 1000
                           + (session.ended_at - session.started_at).microseconds // 1000)
        minutes = max(1, (milliseconds + 59_999) // 60_000)
        price = self.price("charge", "tariff", "minutes", (None, None, session.account.tariff_id), session.account, session.ended_at, 0)
        if not price:
            return minutes, None
        try:
            rate = self.rate(price.currency, session.account.currency, session.ended_at)
        except Unrated:
            return minutes, None
        return minutes, rounded(minutes * price.price / price.unit * rate)


def component_of(event: Event) -> str:
    if event.event_type != "usage":
        return event.event_type
    return "telephony" if event.meter in ("telephony_inbound", "telephony_outbound") else "meter"


def is_voice(event: Event) -> bool:
    return component_of(event) in ("stt", "tts", "telephony")
