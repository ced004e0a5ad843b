"""For tests of reports: accounts, sessions, events, lines and roll-ups written by hand, as rating writes them, so that every figure is known."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from harness import Database

Money = str | Decimal | None


class Books:
    """Rows of one database. Amounts are decimal strings; None where rating does not know one."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.connection = db.connect()
        self.accounts: dict[str, str] = {}
        self.sessions: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        self.connection.close()

    def run(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *args: Any) -> Any:
        return self.run(sql, *args)[0][0]

    def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return [dict(zip((column.name for column in cursor.description), row)) for row in cursor.fetchall()]

    def sum_up(self) -> None:
        """Sums all usage up that there is, as tolld does with what is some hours old."""
        while self.value("SELECT toll.sum_usage('-1 day')"):
            pass

    def account(self, name: str, *, currency: str = "USD", zone: str = "UTC", charge_by: str = "usage", title: str | None = None,
                plan: str = "basic") -> str:
        self.run("INSERT INTO accounts (account_id, name, plan_id, currency, time_zone, charge_by, tariff_id) VALUES (%s, %s, %s, %s, %s, %s, '*')",
                 name, title, plan, currency, zone, charge_by)
        self.accounts[name] = currency
        return name

    def session(self, account: str | None, started: datetime, seconds: float | None = None, *, business: str | None = None,
                enterprise: str | None = None, workflow: str | None = None, call_id: str | None = None, billed: int | None = None,
                amount: Money = None, waived: Money = "0", charge_by: str = "usage", rated: bool = True, finish: str = "end") -> str:
        """seconds: its length, None while it is live. billed: minutes by a tariff, for amount. A voice session; metadata are not filled in."""
        session = str(uuid.uuid4())
        currency = self.accounts.get(account or "", "USD")
        ended = None if seconds is None else started + timedelta(seconds=seconds)
        self.sessions[session] = {"account": account, "business": business or "", "currency": currency}
        self.run("INSERT INTO billing_sessions (session_id, started_at, ended_at, duration_secs, finish_reason) VALUES (%s, %s, %s, %s, %s)",
                 session, started, ended, seconds, finish if ended else None)
        if not rated:
            return session
        minutes = None if seconds is None else round(Decimal(str(seconds)) / 60, 9)
        self.run("INSERT INTO toll.rated_sessions (session_id, account_id, charge_by, plan_id, currency, channel, business_id, enterprise_id,"
                 " workflow_name, call_id, started_at, ended_at, duration_ms, voice, billed_minutes, billed_amount, voice_minutes, tariff_snapshot)"
                 " VALUES (%s, %s, %s, 'basic', %s, 'voice', %s, %s, %s, %s, %s, %s, %s, true, %s, %s, %s, %s)",
                 session, account, charge_by, currency if account else None, business, enterprise, workflow, call_id, started, ended,
                 None if seconds is None else int(seconds * 1000), billed, amount, minutes, None if billed is None else '{"price": 5}')
        if ended:
            self.roll_up(session, ended, "session", sessions=1, quantity=minutes)
        if ended and billed is not None:
            if amount is not None:
                self.line(None, session, ended, "tariff", None, None, {"minutes": billed}, None, amount, waived, "tariff")
            self.roll_up(session, ended, "tariff", sessions=1, quantity=billed, charge=amount, waived=waived, unrated_charge=int(amount is None))
        return session

    def event(self, session: str | None, at: datetime, kind: str, provider: str | None, model: str | None, quantities: dict[str, Any], *,
              cost: Money = "0", charge: Money = "0", waived: Money = "0", account: str | None = None, agent: str | None = None,
              turn: str | None = None, duration_ms: float | None = None) -> int:
        """kind: llm, tts, stt, telephony or meter, of which model is the meter. Without a session: of an account."""
        usage = kind in ("meter", "telephony")
        tokens = "input" in quantities
        number = self.value(
            "INSERT INTO billing_events (session_id, event_type, provider, model, input_tokens, output_tokens, occurred_at, agent, turn_id,"
            " duration_ms, meter, quantity, account) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            session, "usage" if usage else kind, provider, None if usage else model,
            sum(v for k, v in quantities.items() if "input" in k or k == "cache_write") if tokens else None,
            quantities.get("output") if tokens else None, at, agent, turn, duration_ms, model if usage else None, quantities.get("quantity"), account)
        owner = self.owner(session, account)
        self.line(number, session, at, kind, provider, model, quantities, cost, None if owner is None else charge, waived, account=account)
        for side, amount in (("cost", cost), ("charge", charge)):
            if amount is None:
                self.run("INSERT INTO toll.unrated (event_id, side, occurred_at, session_id, account_id, component, provider, model, missing)"
                         " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'no price')", number, side, at, session, owner, kind, provider, model)
        self.roll_up(session, at, kind, provider, model, account=account, events=1, quantity=quantities.get("quantity", 0), cost=cost,
                     charge=charge, waived=waived, unrated_cost=int(cost is None), unrated_charge=int(charge is None))
        return number

    def owner(self, session: str | None, account: str | None) -> str | None:
        return self.sessions[session]["account"] if session else account

    def currency(self, session: str | None, account: str | None) -> str:
        return self.sessions[session]["currency"] if session else self.accounts[account or ""]

    def line(self, event: int | None, session: str | None, at: datetime, component: str, provider: str | None, model: str | None,
             quantities: dict[str, Any], cost: Money, charge: Money, waived: Money = "0", kind: str = "usage", *, account: str | None = None,
             nobody: bool = False) -> None:
        """nobody: a line from before the session's account was known."""
        self.run("INSERT INTO billing_charges (event_id, occurred_at, session_id, account_id, component, provider, model, quantities, cost, charge,"
                 " waived, currency, kind, booked_at, batch) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1)",
                 event, at, session, None if nobody else self.owner(session, account), component, provider, model, json.dumps(quantities), cost,
                 charge, waived, self.currency(session, account), kind, at)

    def roll_up(self, session: str | None, at: datetime, component: str, provider: str | None = None, model: str | None = None, *,
                account: str | None = None, events: int = 0, sessions: int = 0, quantity: Any = 0, cost: Money = "0", charge: Money = "0",
                waived: Money = "0", unrated_cost: int = 0, unrated_charge: int = 0) -> None:
        business = self.sessions[session]["business"] if session else account
        self.run("INSERT INTO toll.usage_rollup AS r VALUES (%s, date_bin('15 min', %s, '2000-01-01Z'), %s, %s, %s, %s, %s, %s, %s, 0, 0, 0, 0, 0,"
                 " %s, %s, %s, %s, %s, %s) ON CONFLICT (account_id, quarter, business_id, component, provider, model, currency) DO UPDATE SET"
                 " events = r.events + excluded.events, sessions = r.sessions + excluded.sessions, quantity = r.quantity + excluded.quantity,"
                 " cost = r.cost + excluded.cost, charge = r.charge + excluded.charge, waived = r.waived + excluded.waived,"
                 " unrated_cost = r.unrated_cost + excluded.unrated_cost, unrated_charge = r.unrated_charge + excluded.unrated_charge",
                 self.owner(session, account) or "", at, business, component, provider or "", model or "", self.currency(session, account),
                 events, sessions, quantity, cost or "0", charge or "0", waived, unrated_cost, unrated_charge)
