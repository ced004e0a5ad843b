"""Random usage, rated by SQL and by a plain oracle: no line, session, balance or roll-up differs."""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import fault
import pytest
from harness import Database
from rating_oracle import Account, Event, Oracle, Rated, component_of, is_voice, rounded
from rating_world import METERS, World

WORLDS = 5
EVENTS = int(os.environ.get("TOLL_EVENTS") or fault.choose(8_000, 20_000))  # of each world
SEED = fault.SEED


def exact(value: Any) -> Fraction | None:
    return None if value is None else Fraction(value)


def rate_all(database: Database, world: World) -> None:
    """Rates what there is, writer by writer in any order and in pieces of any size."""
    writers = [(str(journal), writer) for journal, writer in database.query(
        "SELECT journal_id, writer FROM toll.journals UNION SELECT journal_id, writer FROM toll.session_queue ORDER BY 1, 2")]
    while writers:
        journal, writer = world.random.choice(writers)
        most = world.random.choice((1, 50, 3000, 100_000))
        if not database.value("SELECT more FROM toll.rate_next(%s, %s, %s)", journal, writer, most):
            writers.remove((journal, writer))


def fill_wallets(database: Database, world: World) -> None:
    for account in world.accounts:
        filled = world.wallets.get(account.account_id)
        if filled is None:
            continue
        if account.charge_by == "prepaid_minutes":
            database.value("SELECT add_minutes(%s, %s, 'card', %s)", account.account_id, str(float(filled)), f"m {account.account_id}")
        elif filled:
            database.value("SELECT add_credits(%s, %s, 'card', %s)", account.account_id, int(filled * 100), f"c {account.account_id}")
        else:
            database.value("SELECT create_wallet(%s)", account.account_id)


def same(found: dict[Any, Any], wanted: dict[Any, Any]) -> None:
    """Shows a few of the differences, not both worlds."""
    wrong = [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)]
    assert not wrong, f"{len(wrong)} differ: " + "; ".join(f"{key}: found {show(found.get(key))}, not {show(wanted.get(key))}" for key in wrong[:3])


def show(value: Any) -> str:
    return "[" + ", ".join(map(show, value)) + "]" if isinstance(value, (list, tuple)) else str(float(value) if isinstance(value, Fraction) else value)


def account_of(event: Event) -> Account | None:
    return event.session.account if event.session else event.account


class Expected:
    """All that the oracle says of a world."""

    def __init__(self, world: World, before: Expected | None = None) -> None:
        """before: what a book with mistakes came to; what the new one can't tell stays as it was."""
        oracle: Oracle = world.oracle()
        self.world = world
        self.events: dict[int, Rated] = {event.event_id: oracle.rated(event) for event in world.events}
        for event_id, old in before.events.items() if before else ():
            new = self.events[event_id]
            if new.cost is None:
                new.cost_original, new.cost_currency, new.cost = old.cost_original, old.cost_currency, old.cost
            if new.charge is None:
                new.charge = old.charge
        voice = {event.session.session_id for event in world.events if event.session and is_voice(event)}
        self.voice = [session for session in world.sessions if session.ended_at and session.session_id in voice]
        self.tariffs = {session.session_id: oracle.tariff(session) for session in self.voice
                        if session.account and session.account.charge_by in ("minutes", "prepaid_minutes")}
        for session_id, old_tariff in before.tariffs.items() if before else ():
            if self.tariffs[session_id][1] is None:
                self.tariffs[session_id] = old_tariff

    def unrated(self) -> set[tuple[int, str]]:
        missing = {(event_id, "cost") for event_id, rated in self.events.items() if rated.cost is None}
        return missing | {(event.event_id, "charge") for event in self.world.events
                          if self.events[event.event_id].charge is None and account_of(event)}


def check_events(database: Database, expected: Expected) -> None:
    found: dict[int, dict[str | None, tuple[Any, ...]]] = defaultdict(dict)
    for event_id, account, *sums in database.query(
            "SELECT event_id, account_id, sum(cost_original), sum(cost), sum(charge), min(component), min(currency)"
            " FROM billing_charges WHERE event_id IS NOT NULL AND kind <> 'overage' GROUP BY 1, 2"):
        found[event_id][account] = tuple(sums)
    assert set(found) == set(expected.events)
    for event in expected.world.events:
        want, account = expected.events[event.event_id], account_of(event)
        lines = found[event.event_id]
        original, cost, charge, component, currency = lines.pop(account.account_id if account else None)
        assert (exact(original), exact(cost), exact(charge), component, currency) == \
            (want.cost_original, want.cost, want.charge, want.component, want.currency), (event, want, cost, charge)
        # What was written before the account was known has been taken back.
        assert all(not any(exact(value) for value in sums[:3]) for sums in lines.values()), (event, lines)
    same({event: (currency, Fraction(original)) for event, currency, original in database.query(
        "SELECT event_id, cost_currency, sum(cost_original) FROM billing_charges WHERE event_id IS NOT NULL GROUP BY 1, 2 HAVING sum(cost_original) <> 0")},
         {event: (want.cost_currency, want.cost_original) for event, want in expected.events.items() if want.cost_original})


def check_unrated(database: Database, expected: Expected) -> None:
    assert set(database.query("SELECT event_id, side FROM toll.unrated")) == expected.unrated()


def check_sessions(database: Database, expected: Expected) -> None:
    found = {session: (minutes, exact(amount)) for session, minutes, amount in database.query(
        "SELECT session_id::text, billed_minutes, billed_amount FROM toll.rated_sessions WHERE billed_minutes IS NOT NULL")}
    same(found, expected.tariffs)
    lines = {session: exact(charge) for session, charge in database.query(
        "SELECT session_id::text, sum(charge) FROM billing_charges WHERE component = 'tariff' AND charge IS NOT NULL GROUP BY 1")}
    assert lines == {session: amount for session, (_, amount) in expected.tariffs.items() if amount is not None}


def on_trial(account: Account | None, at: datetime | None) -> bool:
    return bool(account and at and account.trial_ends_at and at < account.trial_ends_at)


def check_trials(database: Database, expected: Expected) -> dict[str, Fraction]:
    """Returns what is waived, by account."""
    eligible: dict[str, Fraction] = defaultdict(Fraction)
    for event in expected.world.events:
        account, charge = account_of(event), expected.events[event.event_id].charge
        if charge and on_trial(account, event.occurred_at):
            eligible[account.account_id] += charge
    for session in expected.voice:
        account, (_, amount) = session.account, expected.tariffs.get(session.session_id, (0, None))
        if amount and on_trial(account, session.ended_at):
            eligible[account.account_id] += amount
    waived = {}
    allowances = {account.account_id: account.trial_allowance for account in expected.world.accounts}
    for account in expected.world.accounts:
        total = eligible[account.account_id]
        waived[account.account_id] = total if account.trial_allowance is None else min(total, account.trial_allowance)
    found: dict[str, Fraction] = {account: Fraction(0) for account in waived}
    returned: dict[str, Fraction] = defaultdict(Fraction)
    # What a batch's corrections give back is allowance again, for its other lines and later ones, not for those before: so what is waived in all can be less.
    for account_id, back, charge, more in database.query(
            "SELECT c.account_id, -coalesce(sum(c.waived) FILTER (WHERE c.waived < 0), 0),"
            " coalesce(sum(c.charge) FILTER (WHERE c.charge > 0 AND c.occurred_at < a.trial_ends_at), 0), coalesce(sum(c.waived) FILTER (WHERE c.waived > 0), 0)"
            " FROM billing_charges AS c JOIN accounts AS a USING (account_id) GROUP BY c.account_id, c.batch ORDER BY c.batch"):
        allowance = allowances[account_id]
        found[account_id] -= Fraction(back)
        returned[account_id] += Fraction(back)
        left = Fraction(charge) if allowance is None else min(Fraction(charge), allowance - found[account_id])
        assert left == Fraction(more), (account_id, charge, allowance, found[account_id], more)
        found[account_id] += Fraction(more)
    same({account: Fraction(used) for account, used in database.query("SELECT account_id, trial_used FROM accounts")}, found)
    for account_id, total in found.items():
        assert waived[account_id] - returned[account_id] <= total <= waived[account_id], account_id
        assert total == waived[account_id] or returned[account_id] and allowances[account_id], account_id
    # A correction takes back, so a session's lines count together.
    over = database.query("SELECT min(line_id) FROM billing_charges GROUP BY kind, coalesce(event_id::text, session_id::text)"
                          " HAVING sum(waived) <> 0 AND (sum(waived) < 0 OR sum(waived) > sum(charge))")
    assert over == []
    return found


def check_overage(database: Database, expected: Expected) -> dict[str, Fraction]:
    """Returns what is charged for it, by account."""
    world = expected.world
    used: dict[tuple[str, datetime, str], Fraction] = defaultdict(Fraction)

    def use(account: Account | None, at: datetime, meter: str, quantity: Fraction) -> None:
        if account and account.charge_by == "plan":
            local = at.astimezone(ZoneInfo(world.zones[account.account_id]))
            used[account.account_id, local.replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=None), meter] += quantity

    for event in world.events:
        if event.event_type == "llm":
            use(account_of(event), event.occurred_at, "api_call", Fraction(1))
        elif event.event_type == "usage":
            assert event.meter and event.quantity is not None
            use(account_of(event), event.occurred_at, event.meter, event.quantity)
    for session in expected.voice:
        assert session.ended_at
        use(session.account, session.ended_at, "voice_minute", Fraction((session.ended_at - session.started_at) // timedelta(milliseconds=1), 60_000))
    quotas = {(plan, meter): (Fraction(included), Fraction(price) / 100) for plan, meter, included, price in database.query(
        "SELECT plan_id, event_type, included_quantity, overage_price_cents FROM usage_quotas")}
    plans = {account.account_id: account.plan_id for account in world.accounts}
    beyond: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for (account_id, _, meter), quantity in used.items():
        included, price = quotas.get((plans[account_id], meter), (quantity, Fraction(0)))
        if quantity > included:
            beyond[account_id, meter] += (quantity - included) * price
    charged: dict[str, Fraction] = defaultdict(Fraction)
    found: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for account_id, meter, quantity, charge in database.query(
            "SELECT account_id, model, quantities ->> 'overage', charge FROM billing_charges WHERE kind = 'overage'"):
        _, price = quotas[plans[account_id], meter]
        assert abs(rounded(Fraction(quantity) * price) - Fraction(charge)) <= Fraction(1, 10**9), (account_id, meter, quantity, charge)
        charged[account_id] += Fraction(charge)
        found[account_id, meter] += Fraction(charge)
    for key in set(beyond) | set(found):
        # Each line is rounded once.
        lines = database.value("SELECT count(*) FROM billing_charges WHERE kind = 'overage' AND account_id = %s", key[0])
        assert abs(beyond[key] - found[key]) <= Fraction(lines, 10**9), key
    return charged


def check_balances(database: Database, expected: Expected, waived: dict[str, Fraction], overage: dict[str, Fraction]) -> None:
    world = expected.world
    due: dict[str, Fraction] = defaultdict(Fraction)
    for event in world.events:
        account = account_of(event)
        if account:
            due[account.account_id] += expected.events[event.event_id].charge or 0
    for session in expected.voice:
        if session.session_id in expected.tariffs and session.account:
            minutes, amount = expected.tariffs[session.session_id]
            if session.account.charge_by != "prepaid_minutes":
                due[session.account.account_id] += amount or 0
            elif not (amount and on_trial(session.account, session.ended_at) and session.account.trial_allowance is None):
                due[session.account.account_id] += minutes
    minutes_only = {account.account_id for account in world.accounts if account.charge_by == "prepaid_minutes"}
    wanted = {}
    for account_id, filled in world.wallets.items():
        wanted[account_id] = filled - due[account_id] + (0 if account_id in minutes_only else waived[account_id]) - overage.get(account_id, 0)
    found = {account: Fraction(balance) for account, balance in database.query("SELECT user_id, balance FROM customer_balance")}
    same(found, wanted)
    assert database.query(
        "SELECT b.user_id FROM customer_balance AS b LEFT JOIN (SELECT user_id, currency, sum(amount) AS total, sum(amount_cents) AS cents"
        " FROM credit_transactions GROUP BY 1, 2 UNION ALL SELECT user_id, currency, sum(minutes_delta), NULL FROM wallet_transactions"
        " GROUP BY 1, 2) AS l USING (user_id, currency)"
        " WHERE b.balance <> coalesce(l.total, 0) OR b.balance_cents <> coalesce(l.cents, b.balance_cents)") == []


def check_statements(database: Database, expected: Expected) -> None:
    """What statements say is due, in each currency or in minutes, is what wallets were debited."""
    found = {(account, currency): Fraction(due) for account, currency, due in database.query(
        "SELECT b.user_id, b.currency, coalesce(sum(s.due), 0) FROM customer_balance AS b"
        " CROSS JOIN LATERAL account_statement(b.user_id, '2020-01-01', '2100-01-01') AS s WHERE s.record = 'line' AND s.currency = b.currency GROUP BY 1, 2")}
    debited = {(account, currency): Fraction(amount) for account, currency, amount in database.query(
        "SELECT user_id, currency, -sum(amount) FROM (SELECT user_id, currency, amount, transaction_id FROM credit_transactions UNION ALL"
        " SELECT user_id, currency, minutes_delta, transaction_id FROM wallet_transactions) AS t WHERE transaction_id LIKE 'toll:%%' GROUP BY 1, 2")}
    assert debited and {currency for _, currency in debited} > {"minutes"}
    for key in set(found) | set(debited):
        assert found.get(key, 0) == debited.get(key, 0), key


def check_rollup(database: Database, expected: Expected) -> None:
    wanted: dict[tuple[Any, ...], list[Fraction]] = defaultdict(lambda: [Fraction(0)] * 9)
    for event in expected.world.events:
        rated, account = expected.events[event.event_id], account_of(event)
        at = event.occurred_at
        key = (account.account_id if account else "", at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0),
               component_of(event), event.provider or "")
        adds = (1, event.input_tokens or 0, event.output_tokens or 0, event.char_count or 0, event.audio_us or 0, event.quantity or 0,
                rated.cost or 0, rated.charge or 0, rated.cost is None)
        wanted[key] = [total + more for total, more in zip(wanted[key], adds)]
    found = {}
    for account, quarter, component, provider, *sums in database.query(
            "SELECT account_id, quarter, component, provider, sum(events), sum(input_tokens), sum(output_tokens), sum(characters), sum(audio_us),"
            " sum(quantity), sum(cost), sum(charge), sum(unrated_cost) FROM toll.usage_rollup WHERE component NOT IN ('tariff', 'session')"
            " GROUP BY 1, 2, 3, 4"):
        values = [Fraction(value) for value in sums]
        if any(values): # else it was all taken back
            found[account, quarter, component, provider] = values
    overage = {}
    for account, quarter, component, provider, charge in database.query(
            "SELECT coalesce(account_id, ''), date_bin('15 min', occurred_at, 'epoch'), component, coalesce(provider, ''), sum(charge)"
            " FROM billing_charges WHERE kind = 'overage' GROUP BY 1, 2, 3, 4"):
        overage[account, quarter, component, provider] = Fraction(charge)
    for key, charge in overage.items():
        if charge:
            wanted[key][7] += charge
    same(found, wanted)
    tariffs = {account: (minutes, Fraction(charge)) for account, minutes, charge in database.query(
        "SELECT account_id, sum(quantity), sum(charge) FROM toll.usage_rollup WHERE component = 'tariff' GROUP BY 1")}
    billed: dict[str, tuple[int, Fraction]] = {}
    for session in expected.voice:
        if session.session_id in expected.tariffs and session.account:
            minutes, amount = expected.tariffs[session.session_id]
            before = billed.get(session.account.account_id, (0, Fraction(0)))
            billed[session.account.account_id] = (before[0] + minutes, before[1] + (amount or 0))
    same(tariffs, billed)


def check_all(database: Database, expected: Expected) -> None:
    check_events(database, expected)
    check_unrated(database, expected)
    check_sessions(database, expected)
    waived, overage = check_trials(database, expected), check_overage(database, expected)
    check_balances(database, expected, waived, overage)
    check_statements(database, expected)
    check_rollup(database, expected)


@pytest.mark.limit(240)
@pytest.mark.parametrize("number", range(WORLDS))
def test_random_usage_is_rated_as_by_hand(db: Database, number: int) -> None:
    world = World(SEED + number, EVENTS)
    print(f"TOLL_SEED={SEED + number}")
    world.store_book(db)
    fill_wallets(db, world)
    world.store_sessions(db)
    middle = len(world.batches) // 2
    world.store_batches(db, world.batches[:middle])
    rate_all(db, world)
    world.store_ends(db, off=timedelta(seconds=world.random.randrange(-100, 100)), part=0.3)
    rate_all(db, world)
    world.store_batches(db, world.batches[middle:])
    world.store_names(db)
    rate_all(db, world)
    world.store_ends(db)
    rate_all(db, world)
    expected = Expected(world)
    check_all(db, expected)
    again = db.value("SELECT count(*) FROM billing_charges")
    rate_all(db, world)
    assert db.value("SELECT count(*) FROM billing_charges") == again
    rated = sum(event.cost is not None for event in expected.events.values())
    charged = sum(bool(event.charge) for event in expected.events.values())
    print(f"{len(world.events)} events, {rated} with cost, {charged} charged, {len(expected.tariffs)} tariffs, {len(world.prices)} prices, "
          f"{db.value('SELECT count(*) FROM credit_transactions')} ledger rows: 0 differences")
    assert rated > EVENTS / 4 and charged > EVENTS / 10 and set(METERS) <= {event.meter for event in world.events}


@pytest.mark.limit(240)
def test_corrected_prices_are_rated_again(db: Database) -> None:
    """Wrong prices withdrawn and replaced, missing ones added: after rerate() and rate_unrated() all is as if they had always stood."""
    world = World(SEED + WORLDS, EVENTS // 4)
    print(f"TOLL_SEED={SEED + WORLDS}")
    for account in world.accounts: # what a trial waives is not done again
        account.trial_ends_at = account.trial_allowance = None
    missing = [price for price in world.prices if world.random.random() < 0.2]
    world.store_book(db, without=missing)
    fill_wallets(db, world)
    world.store_sessions(db)
    world.store_batches(db, world.batches)
    world.store_ends(db)
    world.store_names(db)
    rate_all(db, world)
    right = world.prices
    world.prices = [price for price in right if price not in missing]
    before = Expected(world)
    check_all(db, before)
    world.prices = right
    world.store_prices(db, missing)
    wrong = world.random.sample([price for price in world.prices if price not in missing], len(world.prices) // 10)
    db.execute("SELECT withdraw_price(price_id, 'wrong') FROM unnest(%s) AS price_id", [price.price_id for price in wrong])
    world.store_prices(db, world.replace_prices(wrong))
    db.value("SELECT count(*) FROM toll.rerate('2026-01-01', '2027-01-01', false)")
    db.query("SELECT toll.rate_unrated(1000000)")
    check_all(db, Expected(world, before))
    lines = db.value("SELECT count(*) FROM billing_charges")
    db.value("SELECT count(*) FROM toll.rerate('2026-01-01', '2027-01-01', false)")
    assert db.value("SELECT count(*) FROM billing_charges") == lines


@pytest.mark.limit(240)
@pytest.mark.parametrize("how", ["SELECT toll.rate_unrated(1000000)", "SELECT count(*) FROM toll.rerate('2026-01-01', '2027-01-01', false)"])
def test_late_prices_are_waived_as_if_they_had_always_stood(db: Database, how: str) -> None:
    """Trials go on, but tariffs and speech have no price until all calls are over: then wallets, of minutes too, get back what is waived."""
    world = World(SEED + WORLDS + 1, EVENTS // 4)
    print(f"TOLL_SEED={SEED + WORLDS + 1}")
    for account in world.accounts:
        if account.charge_by == "prepaid_minutes":
            account.trial_ends_at, account.trial_allowance = world.moment(), world.random.choice((None, None, Fraction(0)))
            world.wallets[account.account_id] = Fraction(world.random.randrange(100_000), 100)
    missing = [price for price in world.prices if price.component in ("tariff", "stt", "tts")]
    world.store_book(db, without=missing)
    fill_wallets(db, world)
    world.store_sessions(db)
    world.store_batches(db, world.batches)
    world.store_ends(db, off=timedelta(seconds=world.random.randrange(-100, 100)), part=0.3)
    rate_all(db, world)
    world.store_ends(db)
    world.store_names(db)
    rate_all(db, world)
    waived = "SELECT count(*) FROM billing_charges AS c JOIN accounts AS a USING (account_id)" \
             " WHERE c.component = 'tariff' AND a.charge_by = 'prepaid_minutes' AND c.waived > 0"
    assert db.value(waived) == 0
    world.store_prices(db, missing)
    db.value(how)
    assert db.value(waived) > 0
    check_all(db, Expected(world))
