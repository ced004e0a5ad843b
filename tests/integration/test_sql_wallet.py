"""Wallets as applications see them: top-ups, refunds, adjustments, minutes, balances and history; and what every ledger refuses."""

from __future__ import annotations

import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Iterator

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from wallets import Wallets  # noqa: E402


@pytest.fixture
def wallets(db: Database) -> Iterator[Wallets]:
    with closing(Wallets(db)) as made:
        yield made
        assert made.wrong() == []


def test_top_up_opens_a_wallet(wallets: Wallets) -> None:
    wallets.account("a", currency="EUR")
    assert wallets.data("add_credits('a', 1999, 'card', 't1')") == {
        "transaction_id": "t1", "user_id": "a", "currency": "EUR", "amount": Decimal("19.99"), "amount_cents": 1999,
        "balance": Decimal("19.99"), "balance_cents": 1999, "repeated": False}
    assert wallets.query("SELECT transaction_id, user_id, currency, amount, amount_cents, balance_after, transaction_type, reference_id,"
                         " payment_method FROM credit_transactions") == [
        ("t1", "a", "EUR", Decimal("19.99"), 1999, Decimal("19.99"), "purchase", None, "card")]


def test_refunds_and_adjustments_are_rows(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    assert wallets.data("refund_credits('a', 250, 'call 7', 'r1')")["balance_cents"] == 1250
    assert wallets.data("adjust_credits('a', -2000, 'typing error', 'j1')")["balance_cents"] == -750
    assert wallets.query("SELECT amount, transaction_type, reference_id FROM credit_transactions WHERE transaction_id IN ('r1', 'j1')"
                         " ORDER BY created_at") == [
        (Decimal("2.5"), "refund", "call 7"), (Decimal(-20), "adjustment", "typing error")]


def test_minutes_have_a_ledger_of_their_own(wallets: Wallets) -> None:
    wallets.account("p", "prepaid_minutes")
    assert wallets.data("add_minutes('p', 90.5, 'invoice', 'm1')") == {
        "transaction_id": "m1", "user_id": "p", "currency": "minutes", "amount": Decimal("90.5"), "amount_cents": None,
        "balance": Decimal("90.5"), "balance_cents": 9050, "repeated": False}
    assert wallets.data("adjust_minutes('p', -0.25, 'rounding', 'm2')")["balance"] == Decimal("90.25")
    session = wallets.call("p")
    wallets.debit(("p", session, "minutes", 3))
    assert wallets.query("SELECT minutes_delta, type, reference_id FROM wallet_transactions ORDER BY created_at") == [
        (Decimal("90.5"), "purchase", None), (Decimal("-0.25"), "adjustment", "rounding"), (Decimal(-3), "usage", session)]
    assert wallets.query("SELECT FROM credit_transactions") == []


def test_same_transaction_again_changes_nothing(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.account("b", cents=1000)
    wallets.account("p", "prepaid_minutes")
    wallets.data("add_credits('a', 500, 'card', 't')")
    wallets.data("add_minutes('p', 5, 'card', 'm')")
    before = wallets.query("SELECT * FROM customer_balance ORDER BY 1"), wallets.query("SELECT * FROM credit_transactions ORDER BY 1")
    again = wallets.data("add_credits('a', 500, 'another card', 't')")
    assert again["repeated"] is True and again["balance_cents"] == 1500 and again["amount_cents"] == 500
    assert wallets.data("add_minutes('p', 5, 'card', 'm')")["repeated"] is True
    for call in ("add_credits('a', 501, 'card', 't')", "add_credits('b', 500, 'card', 't')", "refund_credits('a', 500, NULL, 't')",
                 "adjust_credits('a', 500, NULL, 't')", "add_minutes('a', 5, 'card', 't')", "add_minutes('p', 6, 'card', 'm')",
                 "add_credits('p', 500, 'card', 'm')", "adjust_minutes('p', 5, NULL, 'm')"):
        assert "was booked before" in wallets.error(call), call
    assert before == (wallets.query("SELECT * FROM customer_balance ORDER BY 1"),
                      wallets.query("SELECT * FROM credit_transactions ORDER BY 1"))


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "0", "-1", "0.5", "99.999999", "1000000000001", "1e40", None])
def test_absurd_top_ups_are_refused(wallets: Wallets, amount: str | None) -> None:
    wallets.account("a", cents=1000)
    assert "amount_cents must be" in wallets.error("add_credits('a', %s::numeric, 'card', 't')", amount)
    assert "amount_cents must be" in wallets.error("refund_credits('a', %s::numeric, 'r', 't')", amount)
    if amount != "-1":
        assert "amount_cents must be" in wallets.error("adjust_credits('a', %s::numeric, 'r', 't')", amount)
    if amount not in ("0.5", "99.999999", "1000000000001"):
        assert "minutes must" in wallets.error("add_minutes('a', %s::numeric, 'card', 't')", amount)
    assert "cents must be" in wallets.error("reserve('a', %s::numeric)", amount)
    if amount not in ("0", "0.5", "99.999999"):
        with pytest.raises(psycopg2.errors.InvalidParameterValue):
            wallets.value("SELECT has_sufficient_balance('a', %s::numeric)", amount)
    assert wallets.balance("a") == 10 and wallets.value("SELECT count(*) FROM credit_transactions") == 1


def test_minutes_beyond_nine_decimals_are_refused(wallets: Wallets) -> None:
    wallets.account("p", "prepaid_minutes")
    assert "nine decimals" in wallets.error("add_minutes('p', 1.0000000001, 'card', 't')")
    assert wallets.query("SELECT FROM customer_balance") == []


def test_balance_beyond_its_column_is_refused(wallets: Wallets) -> None:
    wallets.account("a", cents=10**12)
    for number in range(8):
        wallets.data("add_credits('a', 1000000000000, 'card', %s)", f"t{number}")
    assert "the balance would be" in wallets.error("add_credits('a', 1000000000000, 'card', 'one too many')")
    assert wallets.balance("a") == 90_000_000_000


@pytest.mark.parametrize("transaction", [None, "", "toll:1:a", "x" * 257])
def test_bad_transaction_ids_are_refused(wallets: Wallets, transaction: str | None) -> None:
    wallets.account("a")
    assert "transaction_id" in wallets.error("add_credits('a', 100, 'card', %s)", transaction)
    assert wallets.query("SELECT FROM customer_balance") == []


def test_unknown_users_are_errors(wallets: Wallets) -> None:
    for call in ("add_credits('x', 100, 'card', 't')", "refund_credits('x', 100, 'r', 't')", "adjust_credits('x', 100, 'r', 't')",
                 "add_minutes('x', 1, 'card', 't')", "adjust_minutes('x', 1, 'r', 't')", "get_balance('x')", "credit_history('x')",
                 "create_wallet('x')", "set_low_balance('x', 100)", "reserve('x', 100)"):
        assert wallets.error(call) == "unknown user x", call
        assert "missing" in wallets.error(call.replace("'x'", "NULL")), call
    assert "unknown hold" in wallets.error("release(gen_random_uuid())")
    assert wallets.value("SELECT has_sufficient_balance('x', 1)") is None


def test_account_without_a_wallet_is_postpaid(wallets: Wallets) -> None:
    wallets.account("a")
    session = wallets.call("a")
    wallets.debit(("a", session, "USD", 5), ("nobody", None, "USD", 5))
    assert wallets.data("get_balance('a')") == {
        "user_id": "a", "currency": "USD", "charge_by": "usage", "balance": None, "balance_cents": None, "minutes": None}
    assert wallets.value("SELECT has_sufficient_balance('a', 1000000)") is True
    assert wallets.state(session) == "ok"
    assert wallets.query("SELECT FROM credit_transactions") == [] and wallets.value("SELECT sum(debited) FROM toll.rated_sessions") == 0
    for call in ("refund_credits('a', 1, 'r', 't')", "adjust_credits('a', 1, 'r', 't')", "set_low_balance('a', 1)", "reserve('a', 1)",
                 "adjust_minutes('a', 1, 'r', 't')"):
        assert "wallet" in wallets.error(call), call
    assert wallets.data("credit_history('a')") == []


def test_wallet_is_opened_once(wallets: Wallets) -> None:
    wallets.account("a")
    wallets.account("p", "prepaid_minutes")
    assert wallets.data("create_wallet('a')") == {"user_id": "a", "currency": "USD", "created": True}
    assert wallets.data("create_wallet('a')") == {"user_id": "a", "currency": "USD", "created": False}
    assert wallets.data("create_wallet('p')")["currency"] == "minutes"
    assert wallets.data("create_wallet('a', 'minutes')")["created"] is True
    assert "would never be debited" in wallets.error("create_wallet('a', 'EUR')")
    assert wallets.data("get_balance('a')")["balance_cents"] == 0
    assert wallets.value("SELECT has_sufficient_balance('a', 0)") is False
    assert wallets.query("SELECT FROM low_balance_alerts") == []


def test_debits_are_one_row_per_session_and_batch(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.account("b", "prepaid_minutes", cents=1000)
    first, second, third = wallets.call("a"), wallets.call("a", hold=wallets.data("reserve('a', 100)")["hold_id"]), wallets.call("b")
    batch = wallets.debit(("a", first, "USD", "1.000000001"), ("a", second, "USD", 2), ("a", first, "USD", "0.5"), ("a", None, "USD", "-0.1"),
                          ("b", third, "minutes", 4), ("a", None, "USD", "0.05"), ("b", third, "USD", 7))
    assert wallets.query("SELECT transaction_id, amount, transaction_type, reference_id FROM credit_transactions"
                         " WHERE transaction_id LIKE 'toll:%%' ORDER BY amount") == [
        (f"toll:{batch}:{second}", Decimal(-2), "deduction", second), (f"toll:{batch}:{first}", Decimal("-1.500000001"), "deduction", first),
        (f"toll:{batch}:a", Decimal("0.05"), "adjustment", None)]
    assert wallets.query("SELECT transaction_id, minutes_delta FROM wallet_transactions WHERE type = 'usage'") == [
        (f"toll:{batch}:{third}", Decimal(-4))]
    assert wallets.balance("a") == Decimal("6.549999999") and wallets.balance("b", "minutes") == 6
    assert dict(wallets.query("SELECT session_id, debited FROM toll.rated_sessions")) == {first: 0, second: 2, third: 0}  # where it has a hold
    with pytest.raises(psycopg2.errors.UniqueViolation):
        wallets.query("SELECT toll.debit(%s, ARRAY[('a', %s, 'USD', 1)::toll.session_debit])", batch, first)


def test_debits_that_cancel_out_leave_no_row(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.debit(("a", None, "USD", 3), ("a", None, "USD", -3))
    assert wallets.value("SELECT count(*) FROM credit_transactions") == 1


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "0.0000000001", None])
def test_debit_takes_no_absurd_amount(wallets: Wallets, amount: str | None) -> None:
    wallets.account("a", cents=1000)
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        wallets.debit(("a", None, "USD", amount))


def test_balance_may_go_below_zero_and_is_shown(wallets: Wallets) -> None:
    wallets.account("a", cents=100)
    wallets.debit(("a", None, "USD", "1.000000001"))
    data = wallets.data("get_balance('a')")
    assert (data["balance"], data["balance_cents"], data["available_cents"], data["state"]) == (Decimal("-1e-9"), -1, -1, "exhausted")


def test_history_is_latest_first_and_can_be_paged(wallets: Wallets) -> None:
    wallets.account("a")
    for number in range(7):
        wallets.data("add_credits('a', %s, 'card', %s)", 100 + number, f"t{number}")
    wallets.data("add_minutes('a', 1.5, 'card', 'm')")
    rows = wallets.data("credit_history('a')")
    assert [row["transaction_id"] for row in rows] == ["m", *(f"t{number}" for number in reversed(range(7)))]
    assert rows[0] == {"transaction_id": "m", "currency": "minutes", "amount": Decimal("1.5"), "amount_cents": None, "balance_after": Decimal("1.5"),
                       "transaction_type": "purchase", "reference_id": None, "payment_method": "card", "created_at": rows[0]["created_at"]}
    page = wallets.data("credit_history('a', 3)")
    assert page == rows[:3]
    assert wallets.data("credit_history('a', 3, %s)", page[-1]["created_at"]) == rows[3:6]
    for most in (0, -1, 10001, None):
        assert "most must be" in wallets.error("credit_history('a', %s)", most)


LEDGERS = ["credit_transactions", "wallet_transactions"]


@pytest.mark.parametrize("role", ["postgres", "toll_owner", "toll_wallet"])
@pytest.mark.parametrize("mode", ["origin", "replica"])
def test_ledgers_are_append_only_for_everybody(wallets: Wallets, role: str, mode: str) -> None:
    wallets.account("a", cents=100)
    wallets.account("p", "prepaid_minutes", cents=100)
    wallets.query(f"SET session_replication_role = {mode}")
    wallets.query(f"SET ROLE {role}")
    for table in LEDGERS:
        for sql in (f"UPDATE {table} SET payment_method = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table}", f"TRUNCATE {table} CASCADE"):
            with pytest.raises(psycopg2.errors.RestrictViolation, match="append-only"):
                wallets.query(sql)
    wallets.query("RESET ROLE")
    wallets.query("SET session_replication_role = origin")


@pytest.mark.parametrize("role", ["postgres", "toll_owner"])
def test_only_functions_write_ledgers_and_balances(wallets: Wallets, role: str) -> None:
    wallets.account("a", cents=100)
    wallets.query(f"SET ROLE {role}")
    for sql in ("INSERT INTO credit_transactions SELECT * FROM credit_transactions", "UPDATE customer_balance SET balance = 7",
                "INSERT INTO wallet_transactions (transaction_id, user_id, minutes_delta, balance_after, type) VALUES ('x', 'a', 1, 1, 'purchase')",
                "DELETE FROM customer_balance", "TRUNCATE customer_balance CASCADE",
                "INSERT INTO customer_balance (user_id, currency) VALUES ('a', 'EUR')"):
        with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.RestrictViolation)):
            wallets.query(sql)
    wallets.query("RESET ROLE")
