"""What stored usage must have been charged, for tests of other things: a small price book, wallets, and the proof that lines, balances and billed
minutes are what the oracle says of the rows as they are."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

from harness import Database, wait_until
from rating_oracle import Account, Event, Oracle, Price, Rate, Session, is_voice

DIMENSIONS = {"llm": ("input", "cached_input", "output"), "tts": ("characters",), "stt": ("minutes",), "telephony": ("telephony_inbound",)}
EVENT_COLUMNS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "audio_input_tokens", "cached_audio_tokens",
                 "audio_output_tokens", "char_count", "audio_us", "voice", "language", "meter", "quantity")
WALLET_CENTS = 500_000


def open_books(database: Database) -> None:
    """Prices of everything simulated calls use, on both sides, and a minute tariff."""
    rows = [(component, dimension, side, f"0.0{number + 1}7{3 if side == 'cost' else 9}", 1000 if component == "llm" else 1)
            for component, dimensions in DIMENSIONS.items() for number, dimension in enumerate(dimensions) for side in ("cost", "charge")]
    rows.append(("tariff", "minutes", "charge", "5", 1))
    for component, dimension, side, price, unit in rows:
        database.execute(
            "INSERT INTO pricing_config (scope_kind, component, dimension, side, price, unit_quantity, currency, valid)"
            " VALUES ('default', %s, %s, %s, %s, %s, 'USD', '[2020-01-01,)')", component, dimension, side, price, unit)


def fund(database: Database, accounts: list[str]) -> None:
    """Accounts with a wallet each, charged in three ways."""
    for number, account in enumerate(accounts):
        scheme = ("usage", "minutes", "prepaid_minutes", "usage")[number % 4]
        database.execute("INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id)"
                         " VALUES (%s, 'basic', 'USD', 'UTC', %s, '*')", account, scheme)
        if scheme == "prepaid_minutes":
            database.value("SELECT add_minutes(%s, %s, 'card', %s)", account, WALLET_CENTS / 100, f"test {account}")
        else:
            database.value("SELECT add_credits(%s, %s, 'card', %s)", account, WALLET_CENTS, f"test {account}")


def settle(database: Database, seconds: float = 60) -> None:
    """Waits until everything stored is rated: the daemon does that by itself."""
    wait_until(lambda: not database.query("SELECT 1 FROM toll.rating_backlog() WHERE waits"), seconds, "everything stored to be rated", every=0.05)


def read(database: Database) -> tuple[Oracle, list[Event], list[Session]]:
    prices = [Price(*row[:10], Fraction(row[10]), int(row[11]), *row[12:]) for row in database.query(
        "SELECT price_id, scope_kind, scope_id, component, provider, model, variant, dimension, tier_above, side, price, unit_quantity, currency,"
        " lower(valid), upper(valid), minimum_seconds, increment_seconds FROM pricing_config WHERE withdrawn_at IS NULL")]
    rates = [Rate(one, other, Fraction(rate), start, end) for one, other, rate, start, end in database.query(
        "SELECT from_currency, to_currency, rate, lower(valid), upper(valid) FROM fx_rates")]
    accounts = {row[0]: Account(*row) for row in database.query("SELECT account_id, plan_id, currency, charge_by, tariff_id FROM accounts")}
    sessions = {}
    for session_id, metadata, started_at, ended_at in database.query(
            "SELECT session_id::text, metadata, started_at, ended_at FROM billing_sessions"):
        name = next((metadata[key] for key in ("account_id", "user_id", "tenant_id", "business_id") if metadata.get(key)), None)
        sessions[session_id] = Session(session_id, accounts[name] if name else None, metadata.get("channel", "voice"), started_at, ended_at)
    events = []
    for event_id, session_id, account, event_type, provider, model, occurred_at, *rest in database.query(
            f"SELECT id, session_id::text, account, event_type, provider, model, occurred_at, {', '.join(EVENT_COLUMNS)}"
            " FROM (SELECT *, round(audio_duration_ms * 1000)::bigint AS audio_us FROM billing_events) AS e"):
        columns = dict(zip(EVENT_COLUMNS, rest))
        columns["quantity"] = None if columns["quantity"] is None else Fraction(columns["quantity"])
        events.append(Event(event_id, sessions.get(session_id), accounts[account] if account and not session_id else None, event_type, provider,
                            model, occurred_at, **columns))
    return Oracle("USD", prices, rates), events, list(sessions.values())


def check(database: Database) -> dict[str, int]:
    """Every event rated once, every balance the sum of what its account used. Returns what there was, for printing."""
    settle(database)
    oracle, events, sessions = read(database)
    due: dict[str, Fraction] = defaultdict(Fraction)
    wanted, voice = {}, set()
    for event in events:
        rated, account = oracle.rated(event), event.session.account if event.session else event.account
        wanted[event.event_id] = (rated.cost, rated.charge)
        if account:
            due[account.account_id] += rated.charge or 0
        if event.session and is_voice(event):
            voice.add(event.session.session_id)
    found = {event: (None if cost is None else Fraction(cost), None if charge is None else Fraction(charge))
             for event, cost, charge in database.query(
                 "SELECT event_id, sum(cost), sum(charge) FROM billing_charges WHERE event_id IS NOT NULL AND kind <> 'overage' GROUP BY 1")}
    assert found == wanted, [(event, found.get(event), wanted.get(event)) for event in {*found, *wanted} if found.get(event) != wanted.get(event)][:5]
    billed = {}
    for session in sessions:
        account = session.account
        if not account or not session.ended_at or account.charge_by not in ("minutes", "prepaid_minutes") or session.session_id not in voice:
            continue
        minutes, amount = billed[session.session_id] = oracle.tariff(session)
        due[account.account_id] += minutes if account.charge_by == "prepaid_minutes" else amount or 0
    assert billed == {session: (minutes, None if amount is None else Fraction(amount)) for session, minutes, amount in database.query(
        "SELECT session_id::text, billed_minutes, billed_amount FROM toll.rated_sessions WHERE billed_minutes IS NOT NULL")}
    balances = {account: Fraction(balance) for account, balance in database.query("SELECT user_id, balance FROM customer_balance")}
    assert balances == {account: Fraction(WALLET_CENTS, 100) - due[account] for account in balances}
    assert database.query("SELECT 1 FROM customer_balance AS b WHERE balance <> (SELECT coalesce(sum(amount), 0) FROM credit_transactions AS t"
                          " WHERE t.user_id = b.user_id AND t.currency = b.currency) + (SELECT coalesce(sum(minutes_delta), 0)"
                          " FROM wallet_transactions AS t WHERE t.user_id = b.user_id AND t.currency = b.currency)") == []
    return {"rated_events": len(events), "billed_sessions": len(billed), "wallets": len(balances)}
