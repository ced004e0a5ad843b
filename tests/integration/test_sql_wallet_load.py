"""Wallets under load: many connections on few accounts, and a million debits. No update is lost, nothing deadlocks, cents add up."""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Iterator

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

import fault  # noqa: E402
from harness import Database  # noqa: E402
from wallets import Wallets  # noqa: E402

ACCOUNTS = ["a", "b", "c", "d"]
CONNECTIONS = 24
EACH = 40  # transactions of a connection
# Debit number n of a million: whose, and how much.
ACCOUNT_OF_N = "'a' || (hashint8(n) & 1023) % 50"
AMOUNT_OF_N = "(hashint8extended(n, 7) & 1073741823)::numeric / 1000000000"


@pytest.fixture
def wallets(db: Database) -> Iterator[Wallets]:
    with closing(Wallets(db)) as made:
        yield made


class Client:
    """One connection's work, and what it adds up to. Deadlocks and serialization failures are tried again, and counted."""

    def __init__(self, wallets: Wallets, number: int, sessions: dict[str, list[str]]) -> None:
        self.number = number
        self.sessions = sessions
        self.random = random.Random(number)
        self.connection = wallets.db.connect()
        self.connection.autocommit = False
        self.added: dict[str, Decimal] = dict.fromkeys(ACCOUNTS, Decimal(0))
        self.retried = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        try:
            for step in range(EACH):
                self.one(step)
        except BaseException as error:
            self.error = error
        finally:
            self.connection.close()

    def one(self, step: int) -> None:
        kind = self.random.choice([self.top_up, self.adjust, self.repeat, self.debit, self.debit, self.debit, self.hold, self.check, self.rate])
        state = self.random.getstate()
        while True:
            try:
                with self.connection, self.connection.cursor() as cursor:
                    added = kind(cursor, f"{self.number}.{step}")
                break
            except (psycopg2.errors.DeadlockDetected, psycopg2.errors.SerializationFailure):
                self.retried += 1
                self.random.setstate(state)
        for account, amount in added:
            self.added[account] += amount

    def top_up(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        account, cents = self.random.choice(ACCOUNTS), self.random.randrange(1, 10000)
        return self.booked(cursor, "add_credits(%s, %s, 'card', %s)", account, cents, name)

    def adjust(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        account, cents = self.random.choice(ACCOUNTS), self.random.choice([-1, 1]) * self.random.randrange(1, 10000)
        if cents > 0:
            return self.booked(cursor, "refund_credits(%s, %s, 'r', %s)", account, cents, name)
        return self.booked(cursor, "adjust_credits(%s, %s, 'r', %s)", account, cents, name)

    def repeat(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        """Everybody books the same payment: one succeeds, of others it is the same."""
        number = self.random.randrange(20)
        account = ACCOUNTS[number % len(ACCOUNTS)]
        return self.booked(cursor, "add_credits(%s, %s, 'card', %s)", account, 100 + number, f"shared {number}")

    def booked(self, cursor: Any, call: str, account: str, cents: int, name: str) -> list[tuple[str, Decimal]]:
        cursor.execute(f"SELECT {call}", (account, cents, name))
        answer = cursor.fetchone()[0]
        assert answer["success"], answer
        return [] if answer["data"]["repeated"] else [(account, Decimal(cents) / 100)]

    def debits(self) -> list[tuple[str, str | None, Decimal]]:
        """For several accounts, in no order."""
        made = []
        for _ in range(self.random.randrange(1, 30)):
            account = self.random.choice(ACCOUNTS)
            made.append((account, self.random.choice([None, *self.sessions[account]]), Decimal(self.random.randrange(-10**8, 10**9)) / 10**9))
        return made

    def debit(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        made = self.debits()
        cursor.execute("SELECT toll.debit(nextval('toll.rated_batch_seq'), ARRAY["
                       + ", ".join(["(%s, %s, 'USD', %s)::toll.session_debit"] * len(made)) + "])", [value for each in made for value in each])
        return [(account, -amount) for account, _, amount in made]

    def hold(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        cursor.execute("SELECT reserve(%s, %s, '10 min')", (self.random.choice(ACCOUNTS), self.random.randrange(1, 100)))
        answer = cursor.fetchone()[0]
        if answer["success"] and self.random.random() < 0.5:
            cursor.execute("SELECT release(%s)", (answer["data"]["hold_id"],))
        return []

    def check(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        cursor.execute("SELECT toll.check_credit()")
        return []

    def rate(self, cursor: Any, name: str) -> list[tuple[str, Decimal]]:
        """As rating does: everything that is touched is locked at once, then come holds, debits, ends."""
        concerned = self.random.sample(ACCOUNTS, 3)
        sessions = [self.random.choice(self.sessions[account]) for account in concerned]
        made = [each for each in self.debits() if each[0] in concerned]
        cursor.execute("SELECT FROM toll.rated_sessions WHERE session_id = ANY (%s::uuid[]) ORDER BY session_id FOR UPDATE",
                       (sorted({*sessions, *(session for _, session, _ in made if session)}),))
        cursor.execute("SELECT toll.lock_wallets(%s)", (concerned,))
        cursor.execute("SELECT toll.link_holds(%s::uuid[])", (sessions,))
        if made:
            cursor.execute("SELECT toll.debit(nextval('toll.rated_batch_seq'), ARRAY["
                           + ", ".join(["(%s, %s, 'USD', %s)::toll.session_debit"] * len(made)) + "])",
                           [value for each in made for value in each])
        cursor.execute("SELECT toll.release_holds(%s::uuid[])", (sessions[:1],))
        cursor.execute("SELECT toll.refresh_credit(%s)", (concerned[::-1],))
        return [(account, -amount) for account, _, amount in made]


@pytest.mark.limit(300)
def test_concurrent_bookings_all_count_once(wallets: Wallets) -> None:
    sessions = {}
    for account in ACCOUNTS:
        wallets.account(account, cents=10000)
        wallets.data("set_low_balance(%s, 5000)", account)
        sessions[account] = [wallets.call(account, hold=wallets.data("reserve(%s, 100)", account)["hold_id"]) for _ in range(3)]
    clients = [Client(wallets, number, sessions) for number in range(CONNECTIONS)]
    for client in clients:
        client.thread.start()
    for client in clients:
        client.thread.join(240)
    assert [client.error for client in clients if client.error] == []
    assert not any(client.thread.is_alive() for client in clients)
    for account in ACCOUNTS:
        assert wallets.balance(account) == 100 + sum(client.added[account] for client in clients), account
    assert wallets.wrong() == []
    assert sum(client.retried for client in clients) == 0
    # The last row of a ledger says what the balance is, and every session is in the state that its account is in.
    assert wallets.query("SELECT b.user_id FROM customer_balance b WHERE balance <> (SELECT balance_after FROM credit_transactions t"
                         " WHERE t.user_id = b.user_id ORDER BY created_at DESC LIMIT 1)") == []
    for account in ACCOUNTS:
        state = wallets.data("get_balance(%s)", account)["state"]
        assert [wallets.state(session) for session in sessions[account]] == [state] * 3
    assert wallets.value("SELECT count(*) FROM toll.rated_sessions s WHERE debited <> (SELECT coalesce(-sum(amount), 0)"
                         " FROM credit_transactions WHERE reference_id = s.session_id::text)") == 0
    print(f"{wallets.value('SELECT count(*) FROM credit_transactions')} ledger rows,"
          f" {wallets.value('SELECT count(*) FROM low_balance_alerts')} alerts, 0 deadlocks")


def test_same_payment_at_once_is_booked_once(wallets: Wallets) -> None:
    """By transactions that don't see each other, for one user and for two."""
    wallets.account("a")
    wallets.account("b")
    other = Wallets(wallets.db)
    wallets.query("BEGIN")
    assert wallets.data("add_credits('a', 100, 'card', 't')")["repeated"] is False
    answers: list[dict[str, Any]] = []
    waiting = [threading.Thread(target=lambda user=user: answers.append(each(user))) for user in ("a", "b")]

    def each(user: str) -> dict[str, Any]:
        mine = Wallets(wallets.db)
        try:
            return mine.answer("add_credits(%s, 100, 'card', 't')", user)
        finally:
            mine.close()
    for thread in waiting:
        thread.start()
    while other.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") < 2:
        time.sleep(0.02)
    wallets.query("COMMIT")
    for thread in waiting:
        thread.join(60)
    assert sorted((answer["success"], answer.get("data", {}).get("repeated")) for answer in answers if answer["success"]) == [(True, True)]
    assert ["was booked before" in answer["error"] for answer in answers if not answer["success"]] == [True]
    assert wallets.balance("a") == 1 and wallets.wrong() == []
    assert wallets.value("SELECT count(*) FROM credit_transactions") == 1
    other.close()


@pytest.mark.limit(400)
def test_cents_add_up_over_a_million_debits(wallets: Wallets) -> None:
    """Fractions of cents, batches of 5,000, on 50 accounts; the short version makes a quarter of a million."""
    batches = fault.choose(50, 200)
    for number in range(50):
        wallets.account(f"a{number}", cents=10_000_000)
    wallets.query("SET synchronous_commit = off")
    for batch in range(batches):
        wallets.query(f"SELECT toll.debit({batch}, ARRAY(SELECT ({ACCOUNT_OF_N}, md5(n::text)::uuid, 'USD', {AMOUNT_OF_N})::toll.session_debit"
                      f" FROM generate_series({batch * 5000}, {batch * 5000 + 4999}) AS n))")
    assert wallets.value("SELECT count(*) FROM credit_transactions WHERE transaction_type = 'deduction'") == batches * 5000
    expected = dict(wallets.query(f"SELECT {ACCOUNT_OF_N}, 100000 - sum({AMOUNT_OF_N}) FROM generate_series(0, {batches * 5000 - 1}) AS n GROUP BY 1"))
    assert dict(wallets.query("SELECT user_id, balance FROM customer_balance")) == expected
    assert wallets.wrong() == []
    # Each row's cents are those that its balance moved by.
    assert wallets.value("SELECT count(*) FROM credit_transactions"
                         " WHERE amount_cents <> floor(balance_after * 100) - floor((balance_after - amount) * 100)") == 0
