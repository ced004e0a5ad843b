"""For tests of wallets: accounts, sessions as rating knows them, debits, and what must hold of every ledger."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

from harness import Database

# Wallets of which something is wrong: the balance, the cents, or what the last row says of the balance.
WRONG = """
    SELECT b.user_id, b.currency, b.balance, l.amount, b.balance_cents, l.cents
    FROM customer_balance b
    LEFT JOIN (
        SELECT user_id, currency, sum(amount) AS amount, sum(amount_cents) AS cents FROM credit_transactions GROUP BY 1, 2
        UNION ALL
        SELECT user_id, currency, sum(minutes_delta), floor(sum(minutes_delta) * 100) FROM wallet_transactions GROUP BY 1, 2
    ) l USING (user_id, currency)
    WHERE b.balance <> coalesce(l.amount, 0) OR b.balance_cents <> coalesce(l.cents, 0)
    UNION ALL
    SELECT user_id, currency, NULL, NULL, NULL, NULL
    FROM (SELECT user_id, currency FROM credit_transactions UNION SELECT user_id, currency FROM wallet_transactions) t
    WHERE (user_id, currency) NOT IN (SELECT user_id, currency FROM customer_balance)"""


class Wallets:
    """One migrated database; each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.db = database
        self.connection = database.connect()
        self.batches = 0

    def close(self) -> None:
        self.connection.close()

    def query(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, args or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *args: Any) -> Any:
        return self.query(sql, *args)[0][0]

    def account(self, name: str, charge_by: str = "usage", currency: str = "USD", cents: int = 0) -> str:
        """With a wallet that holds so much; 0: without one."""
        self.query("INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id)"
                   " VALUES (%s, 'basic', %s, 'UTC', %s, '*')", name, currency, charge_by)
        if cents and charge_by == "prepaid_minutes":
            assert self.data("add_minutes(%s, %s, 'card', %s)", name, Decimal(cents) / 100, f"first {name}")["balance_cents"] == cents
        elif cents:
            assert self.data("add_credits(%s, %s, 'card', %s)", name, cents, f"first {name}")["balance_cents"] == cents
        return name

    def call(self, account: str, *, age: str = "10 s", voice: bool = True, hold: str | None = None) -> str:
        """A live session."""
        session = str(uuid.uuid4())
        self.query("INSERT INTO toll.rated_sessions (session_id, account_id, charge_by, plan_id, tariff_id, currency, channel, started_at,"
                   " voice, hold_id) SELECT %s, account_id, charge_by, plan_id, tariff_id, currency, 'voice',"
                   " clock_timestamp() - %s::interval, %s, %s FROM accounts WHERE account_id = %s", session, age, voice, hold, account)
        if hold:
            self.query("SELECT toll.link_holds(ARRAY[%s]::uuid[])", session)
        self.refresh(account)
        return session

    def end(self, session: str) -> None:
        self.query("UPDATE toll.rated_sessions SET ended_at = clock_timestamp() WHERE session_id = %s", session)
        self.query("SELECT toll.release_holds(ARRAY[%s]::uuid[])", session)
        self.refresh(self.value("SELECT account_id FROM toll.rated_sessions WHERE session_id = %s", session))

    def refresh(self, account: str) -> int:
        return self.value("SELECT toll.refresh_credit(ARRAY[%s])", account)

    def debit(self, *debits: tuple[str, str | None, str, str | int]) -> int:
        """(account, session, currency, amount) ...; returns the batch."""
        self.batches += 1
        rows = ", ".join(["(%s, %s, %s, %s)::toll.session_debit"] * len(debits))
        self.query(f"SELECT toll.debit(%s, ARRAY[{rows}])", self.batches, *[value for debit in debits for value in debit])
        return self.batches

    def answer(self, call: str, *args: Any) -> dict[str, Any]:
        """What a function that returns JSON says, numbers exact."""
        return json.loads(self.value(f"SELECT ({call})::text", *args), parse_float=Decimal)

    def data(self, call: str, *args: Any) -> Any:
        answer = self.answer(call, *args)
        assert answer["success"] is True, answer
        return answer["data"]

    def error(self, call: str, *args: Any) -> str:
        answer = self.answer(call, *args)
        assert answer["success"] is False and list(answer) == ["error", "success"], answer
        return answer["error"]

    def balance(self, account: str, currency: str = "USD") -> Decimal:
        return self.value("SELECT balance FROM customer_balance WHERE user_id = %s AND currency = %s", account, currency)

    def available(self, account: str) -> Decimal:
        data = self.data("get_balance(%s)", account)
        return Decimal((data["minutes"] if data["charge_by"] == "prepaid_minutes" else data)["available"])

    def state(self, session: str) -> str:
        found = self.query("SELECT state FROM toll.session_credit WHERE session_id = %s", session)
        return found[0][0] if found else "ok"

    def wrong(self) -> list[tuple[Any, ...]]:
        return self.query(WRONG)

    def notified(self) -> list[tuple[str, str]]:
        """Channels and payloads since the last look; the connection listens."""
        self.connection.poll()
        found = [(each.channel, each.payload) for each in self.connection.notifies]
        self.connection.notifies.clear()
        return found
