"""tollctl account and period: accounts, money by hand, statements."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from decimal import Decimal
from typing import Any, Callable

import pytest

from harness import BUILD, SLOWNESS, Database

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctl(db: Database) -> Run:
    def run(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([BUILD / "tollctl", *words], stdin=subprocess.DEVNULL, env=os.environ | {"DATABASE_URL": db.dsn}, capture_output=True,
                              text=True, timeout=60 * SLOWNESS)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done
    return run


def fields(text: str) -> dict[str, str]:
    return dict(line.split(None, 1) for line in text.splitlines())


def statement(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def add_line(database: Database, **columns: Any) -> None:
    row = {"account_id": "u_1", "component": "llm", "provider": "openai", "model": "gpt-4o", "quantities": '{"input": 100}', "charge": Decimal("0.5"),
           "cost": Decimal("0.4"), "currency": "USD", "kind": "usage", "batch": 1} | columns
    row.setdefault("booked_at", row["occurred_at"])
    database.execute(f"INSERT INTO billing_charges ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})", *row.values())


def test_account_from_first_to_last(db: Database, ctl: Run) -> None:
    made = fields(ctl("account", "create", "u_1", "--name", "Ada", "--currency", "EUR", "--time-zone", "Europe/Berlin", "--markup", "12.5").stdout)
    assert made["account_id"] == "u_1" and made["currency"] == "EUR" and made["charge_by"] == "usage" and made["markup_percent"] == "12.5"
    db.execute("SELECT create_plan('pro')")
    assert fields(ctl("account", "plan", "u_1", "pro").stdout)["plan_id"] == "pro"
    scheme = json.loads(ctl("--json", "account", "scheme", "u_1", "minutes", "--tariff", "std").stdout)
    assert (scheme["charge_by"], scheme["tariff_id"], scheme["name"]) == ("minutes", "std", "Ada")
    ctl("account", "trial", "u_1", "--until", "14d", "--allowance", "5.25")
    assert db.query("SELECT trial_allowance, trial_ends_at BETWEEN now() + interval '13 days 23 hours' AND now() + interval '14 days' FROM accounts") == [
        (Decimal("5.25"), True)]


def test_command_that_met_another_in_a_deadlock_is_done_again(db: Database, ctl: Run) -> None:
    """The other one is a trigger here; numbers of a sequence stay used when a transaction is taken back."""
    db.execute("CREATE SEQUENCE met; GRANT ALL ON SEQUENCE met TO PUBLIC; CREATE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS"
               " 'BEGIN IF nextval(''public.met'') % 4 <> 0 THEN RAISE deadlock_detected; END IF; RETURN NEW; END';"
               "CREATE TRIGGER meet BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION meet()")
    ctl("account", "create", "u_1", "--currency", "EUR")
    assert db.query("SELECT account_id, currency FROM accounts") == [("u_1", "EUR")] and db.value("SELECT last_value FROM met") == 4

    # Not for ever.
    db.execute("ALTER SEQUENCE met INCREMENT 4")
    db.value("SELECT setval('met', 5)")
    assert "tollctl: deadlock_detected" in ctl("account", "create", "u_2", status=4).stderr
    assert db.value("SELECT count(*) FROM accounts") == 1


@pytest.mark.parametrize("words, said", [
    (["create", "u_1"], "there is an account 'u_1' already"), (["create", "u_2", "--currency", "euro"], "currency 'euro'"),
    (["create", "u_2", "--time-zone", "Mars"], "time zone"), (["create", "u_2", "--charge-by", "luck"], "charge_by"),
    (["create", "u_2", "--markup", "NaN"], "markup"), (["plan", "u_1", "nix"], "there is no plan 'nix'"), (["plan", "u_9", "basic"], "no account 'u_9'"),
    (["scheme", "u_1", "luck"], "charge_by 'luck'"), (["trial", "u_1", "--until", "1d", "--allowance", "-1"], "allowance"),
    (["top-up", "u_9", "5"], "u_9"), (["top-up", "u_1", "0.001"], "whole"), (["top-up", "u_1", "-5"], "amount"), (["top-up", "u_1", "NaN"], "amount"),
    (["top-up", "u_1", "1e30"], "a hundred times the AMOUNT 1e30"),
    (["adjust", "u_1", "0", "--reason", "x"], "other than 0"), (["top-up", "u_1", "0", "--minutes"], "above 0, up to 10000000000, not 0"), (["statement", "u_9", "--period", "2026-01"], "there is no account u_9"),
])
def test_what_is_wrong_is_said_and_changes_nothing(db: Database, ctl: Run, words: list[str], said: str) -> None:
    ctl("account", "create", "u_1")
    before = db.query("SELECT * FROM accounts")
    done = ctl("account", *words, status=1)
    assert said in done.stderr and done.stderr.startswith("tollctl: ") and done.stdout == ""
    assert db.query("SELECT * FROM accounts") == before and db.query("SELECT * FROM credit_transactions") == []


@pytest.mark.parametrize("words", [
    ["account"], ["account", "create"], ["account", "plan", "u_1"], ["account", "top-up", "u_1"], ["account", "top-up", "u_1", "1", "2"],
    ["account", "statement", "u_1"], ["account", "statement", "u_1", "--period", "2026-13"], ["account", "statement", "u_1", "--period", "January"],
    ["account", "statement", "u_1", "--period", "2026-01", "--from", "1d"], ["account", "plan", "u_1", "basic", "--limit", "3"],
    ["period", "close"], ["period", "close", "u_1"], ["period", "close", "u_1", "--all", "--period", "2026-01"], ["rerate", "now"],
    ["rerate", "--dry-run"], ["account", "adjust", "u_1", "1"], ["account", "adjust", "u_1", "1", "--reason", ""], ["account", "trial", "u_1"],
    ["account", "statement", "u_1", "--period", "0000-01"], ["account", "statement", "u_1", "--from", "2026-02-30"]])
def test_usage(ctl: Run, words: list[str]) -> None:
    assert ctl(*words, status=2).stderr.startswith("tollctl: ")


@pytest.mark.parametrize("number", ["", " ", "five", "1,50", "1.2.3", "0x10", "1e", "--", "1 000", "e5", "."])
def test_what_is_no_number_is_named(ctl: Run, number: str) -> None:
    for words, name in ((["account", "top-up", "u_1", number], "AMOUNT"), (["account", "adjust", "u_1", number, "--reason", "x"], "AMOUNT"),
                        (["account", "trial", "u_1", "--until", "1d", "--allowance", number], "--allowance"),
                        (["account", "create", "u_1", "--markup", number], "--markup"), (["prices", "set", "llm", "a", "b", "input", number], "PRICE"),
                        (["prices", "set", "llm", "a", "b", "input", "1", "--per", number], "--per")):
        if number != "--":  # which ends the options
            assert f"tollctl: {name}: not a number such as 12.5" in ctl(*words, status=2).stderr


@pytest.mark.parametrize("number", ["", "one", "-1", "1.5", "99999999999999999999"])
def test_what_is_no_id_is_named(ctl: Run, number: str) -> None:
    for words in (["prices", "end", number], ["prices", "withdraw", number, "--reason", "x"], ["prices", "explain", number]):
        assert "not a number such as 42" in ctl(*words, status=2).stderr


@pytest.mark.parametrize("number", ["+5", "5.", ".5", "5e2", "5E-1", "0005"])
def test_amounts_are_what_the_database_takes_for_numbers(ctl: Run, number: str) -> None:
    ctl("account", "create", "u_1")
    assert Decimal(fields(ctl("account", "top-up", "u_1", number).stdout)["amount"]) == Decimal(number)


def test_month_that_is_closed_may_be_closed_again(db: Database, ctl: Run) -> None:
    """And so may one before it, of all accounts too: another month was the first that some of them closed."""
    ctl("account", "create", "u_1")
    assert "2026-02" in ctl("period", "close", "u_1", "--period", "2026-02").stdout
    ctl("account", "create", "u_2")
    for period in ("2026-02", "2026-01"):
        assert ctl("period", "close", "u_1", "--period", period).stdout == "it is closed already\n"
    assert "u_2" in ctl("period", "close", "--all", "--period", "2026-01").stdout
    assert db.query("SELECT account_id, period::text FROM toll.closed_periods ORDER BY 1") == [("u_1", "2026-02-01"), ("u_2", "2026-01-01")]
    assert "there is no account u_9" in ctl("period", "close", "u_9", "--period", "2026-01", status=1).stderr


def test_money_by_hand(db: Database, ctl: Run) -> None:
    ctl("account", "create", "u_1")
    first = fields(ctl("account", "top-up", "u_1", "25.50", "--method", "card", "--transaction", "pay_1").stdout)
    assert first == {"transaction_id": "pay_1", "user_id": "u_1", "amount": "25.5", "currency": "USD", "balance": "25.5", "repeated": "no"}
    assert fields(ctl("account", "top-up", "u_1", "25.50", "--method", "card", "--transaction", "pay_1").stdout)["repeated"] == "yes"
    assert "pay_1" in ctl("account", "top-up", "u_1", "26", "--transaction", "pay_1", status=1).stderr
    ctl("account", "refund", "u_1", "1.25", "--reference", "pay_1")
    ctl("account", "adjust", "u_1", "-.75", "--reason", "a mistake")
    ctl("account", "top-up", "u_1", "100.5", "--minutes")
    ctl("account", "adjust", "u_1", "-0.5", "--minutes", "--reason", "a mistake")
    assert db.query("SELECT currency, balance FROM customer_balance ORDER BY currency") == [("USD", Decimal("26")), ("minutes", Decimal(100))]
    assert db.query("SELECT transaction_type, amount, reference_id, payment_method, transaction_id LIKE 'tollctl:%%' FROM credit_transactions"
                    " ORDER BY created_at")[:2] == [("purchase", Decimal("25.5"), None, "card", False), ("refund", Decimal("1.25"), "pay_1", None, True)]
    assert json.loads(ctl("--json", "account", "top-up", "u_1", "1").stdout)["success"] is True


def test_statement(db: Database, ctl: Run) -> None:
    """A month in the account's time zone, by when things were booked: lines without cost, money, minutes."""
    ctl("account", "create", "u_1", "--time-zone", "Asia/Kolkata")
    ctl("account", "create", "u_2")
    add_line(db, occurred_at="2026-01-31 18:29:59.999999Z")
    add_line(db, occurred_at="2026-01-31 18:30:00Z", event_id=7, waived=Decimal("0.2"))
    add_line(db, occurred_at="2026-01-05 00:00:00Z", booked_at="2026-02-28 18:29:59Z", kind="adjustment", reason='a "late", one', charge=Decimal("-0.1"))
    add_line(db, occurred_at="2026-02-28 18:30:00Z")
    add_line(db, occurred_at="2026-02-10 12:00:00Z", account_id="u_2")
    add_line(db, occurred_at="2026-02-10 12:00:00Z", charge=None, cost=None)
    rows = statement(ctl("account", "statement", "u_1", "--period", "2026-02").stdout)
    assert [(row["at"], row["kind"], row["charge"], row["waived"], row["due"], row["event_id"], row["note"]) for row in rows] == [
        ("2026-01-31T18:30:00.000000Z", "usage", "0.500000000", "0.200000000", "0.300000000", "7", ""),
        ("2026-02-10T12:00:00.000000Z", "usage", "", "0.000000000", "", "", ""),
        ("2026-02-28T18:29:59.000000Z", "adjustment", "-0.100000000", "0.000000000", "-0.100000000", "", 'a "late", one')]
    assert "cost" not in rows[0] and rows[0]["quantities"] == '{"input": 100}' and rows[2]["occurred_at"] == "2026-01-05T00:00:00.000000Z"
    ctl("account", "top-up", "u_1", "3", "--transaction", "t1")
    ctl("account", "top-up", "u_1", "60", "--minutes", "--transaction", "t2")
    ctl("account", "top-up", "u_2", "9")
    assert [(row["record"], row["id"], row["amount"], row["balance_after"], row["currency"]) for row in
            statement(ctl("account", "statement", "u_1", "--from", "1h").stdout)] == [
        ("money", "t1", "3.000000000", "3.000000000", "USD"), ("minutes", "t2", "60.000000000", "60.000000000", "minutes")]
    assert statement(ctl("account", "statement", "u_1", "--from", "2026-03-05", "--to", "2026-03-06").stdout) == []
    done = ctl("account", "statement", "u_1", "--from", "2026-03-06", "--to", "2026-03-05", status=1)
    assert done.stderr == "tollctl: from 2026-03-06 00:00:00+00 is after to 2026-03-05 00:00:00+00\n" and done.stdout == ""


def test_statement_of_a_hostile_name(db: Database, ctl: Run) -> None:
    name = "o'brien\\'; DROP TABLE accounts; --"
    db.execute("SELECT create_account(%s)", name)
    add_line(db, occurred_at="2026-02-10 12:00:00Z", account_id=name)
    assert len(statement(ctl("account", "statement", name, "--period", "2026-02").stdout)) == 1


def test_what_providers_should_invoice(db: Database) -> None:
    """By month of UTC and provider; a correction changes the cost and counts its event once."""
    for columns in ({"event_id": 1, "occurred_at": "2026-01-31 23:59:59Z", "cost_original": Decimal("0.25"), "cost_currency": "USD"},
                    {"event_id": 1, "occurred_at": "2026-01-31 23:59:59Z", "cost_original": Decimal("0.05"), "cost_currency": "USD", "kind": "adjustment"},
                    {"event_id": 2, "occurred_at": "2026-02-01 00:00:00Z", "cost_original": Decimal("0.25"), "cost_currency": "USD"},
                    {"event_id": 3, "occurred_at": "2026-02-01 00:00:01Z", "cost_original": None, "cost": None},
                    {"event_id": None, "occurred_at": "2026-02-01 00:00:01Z", "kind": "tariff", "component": "tariff", "provider": None, "model": None},
                    {"event_id": 4, "occurred_at": "2026-02-02 00:00:00Z", "component": "stt", "provider": "deepgram", "model": "nova-3",
                     "quantities": '{"audio_ms": 60000.5}', "cost_original": Decimal("0.0077"), "cost_currency": "USD"}):
        add_line(db, **columns)
    assert db.query("SELECT month::text, component, provider, model, currency, cost, events, unrated_events, input_tokens, audio_ms"
                    " FROM provider_reconciliation ORDER BY 1, 2, 5 NULLS LAST") == [
        ("2026-01-01", "llm", "openai", "gpt-4o", "USD", Decimal("0.30"), 1, 0, 100, 0),
        ("2026-02-01", "llm", "openai", "gpt-4o", "USD", Decimal("0.25"), 1, 0, 100, 0),
        ("2026-02-01", "llm", "openai", "gpt-4o", None, None, 1, 1, 100, 0),
        ("2026-02-01", "stt", "deepgram", "nova-3", "USD", Decimal("0.0077"), 1, 0, 0, Decimal("60000.5"))]
