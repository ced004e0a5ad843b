"""Live sessions and credit: thresholds, alerts, holds, started minutes, cut-off and its lifting."""

from __future__ import annotations

import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from wallets import Wallets  # noqa: E402


@pytest.fixture
def wallets(db: Database) -> Iterator[Wallets]:
    with closing(Wallets(db)) as made:
        made.query("LISTEN toll_credit; LISTEN toll_low_balance; LISTEN toll_auto_reload")
        yield made
        assert made.wrong() == []


def tariff(wallets: Wallets, price: str, *, scope: str = "default", scope_id: str = "*", variant: str = "*", currency: str = "USD") -> None:
    wallets.query("INSERT INTO pricing_config (scope_kind, scope_id, component, variant, dimension, side, price, unit_quantity, currency, valid)"
                  " VALUES (%s, %s, 'tariff', %s, 'minutes', 'charge', %s, 1, %s, '[2020-01-01,)')", scope, scope_id, variant, price, currency)


def check(wallets: Wallets, account: str) -> int:
    """check_credit() when this account is due."""
    wallets.query("SET ROLE toll_wallet; UPDATE toll.wallet_credit SET check_at = now() WHERE user_id = %s; RESET ROLE", account)
    return wallets.value("SELECT toll.check_credit()")


def age(wallets: Wallets, session: str, by: str) -> None:
    wallets.query("UPDATE toll.rated_sessions SET started_at = started_at - %s::interval WHERE session_id = %s", by, session)


# --- the threshold ---

def test_threshold_alerts_once_for_each_crossing(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.data("set_low_balance('a', 500)")
    assert wallets.notified() == []
    wallets.debit(("a", None, "USD", "4.99"))
    assert wallets.query("SELECT FROM low_balance_alerts") == []
    wallets.debit(("a", None, "USD", "0.01"))
    wallets.debit(("a", None, "USD", "1"))
    assert wallets.notified() == [("toll_low_balance", "a")]
    assert wallets.query("SELECT user_id, currency, balance, threshold, auto_reload FROM low_balance_alerts") == [("a", "USD", 5, 500, False)]
    wallets.data("add_credits('a', 101, 'card', 't1')")
    wallets.debit(("a", None, "USD", "0.5"))
    assert wallets.value("SELECT count(*) FROM low_balance_alerts") == 2


def test_auto_reload_has_its_own_notice(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.data("set_low_balance('a', 500, true)")
    wallets.debit(("a", None, "USD", 6))
    assert wallets.notified() == [("toll_low_balance", "a"), ("toll_auto_reload", "a")]
    assert wallets.value("SELECT auto_reload FROM low_balance_alerts") is True


def test_threshold_above_the_balance_alerts_at_once(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.data("set_low_balance('a', 1000)")
    wallets.data("set_low_balance('a', 1100)")
    assert wallets.notified() == [("toll_low_balance", "a")]
    wallets.data("set_low_balance('a', 1100, true)")
    assert wallets.notified() == [("toll_low_balance", "a"), ("toll_auto_reload", "a")]
    wallets.data("set_low_balance('a', 1100, true)")
    assert wallets.notified() == []


@pytest.mark.parametrize("threshold", ["NaN", "-1", "0.5", "Infinity", "1000000000001", None])
def test_bad_thresholds_are_refused(wallets: Wallets, threshold: str | None) -> None:
    wallets.account("a", cents=1000)
    assert "threshold_cents must be" in wallets.error("set_low_balance('a', %s::numeric)", threshold)


# --- cut-off ---

def test_sessions_follow_their_accounts_credit(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.account("b", cents=1000)
    wallets.data("set_low_balance('a', 300)")
    first, second, other = wallets.call("a"), wallets.call("a"), wallets.call("b")
    wallets.debit(("a", first, "USD", "6.99"))
    assert [wallets.state(each) for each in (first, second, other)] == ["ok"] * 3 and wallets.notified() == []
    wallets.debit(("a", first, "USD", "0.01"))
    assert [wallets.state(each) for each in (first, second, other)] == ["low", "low", "ok"]
    assert ("toll_credit", "") in wallets.notified()
    wallets.debit(("a", first, "USD", 3))
    assert [wallets.state(each) for each in (first, second, other)] == ["exhausted", "exhausted", "ok"]
    third = wallets.call("a")
    assert wallets.state(third) == "exhausted"
    wallets.notified()
    wallets.debit(("a", first, "USD", 1))
    assert wallets.notified() == []  # nothing changed
    wallets.data("add_credits('a', 101, 'card', 't1')")
    assert [wallets.state(each) for each in (first, second, third)] == ["low"] * 3
    wallets.data("add_credits('a', 1000, 'card', 't2')")
    assert [wallets.state(each) for each in (first, second, third)] == ["ok"] * 3
    assert ("toll_credit", "") in wallets.notified()
    assert wallets.query("SELECT FROM toll.session_credit") == []


def test_top_up_lifts_cut_off_in_its_own_transaction(wallets: Wallets) -> None:
    wallets.account("a", cents=100)
    session = wallets.call("a")
    wallets.debit(("a", session, "USD", 1))
    assert wallets.state(session) == "exhausted"
    wallets.query("BEGIN")
    wallets.data("add_credits('a', 1000, 'card', 't1')")
    assert wallets.state(session) == "ok"
    wallets.query("ROLLBACK")
    assert wallets.state(session) == "exhausted" and wallets.balance("a") == 0


def test_ended_sessions_leave_the_table(wallets: Wallets) -> None:
    wallets.account("a", cents=100)
    session = wallets.call("a")
    wallets.debit(("a", session, "USD", 1))
    wallets.end(session)
    assert wallets.query("SELECT FROM toll.session_credit") == []


def test_new_wallet_cuts_off_until_it_is_topped_up(wallets: Wallets) -> None:
    wallets.account("a")
    session = wallets.call("a")
    wallets.data("create_wallet('a')")
    assert wallets.state(session) == "exhausted"
    wallets.data("add_credits('a', 1, 'card', 't1')")
    assert wallets.state(session) == "ok"


# --- started minutes ---

def test_started_minutes_count_at_the_tariffs_price(wallets: Wallets) -> None:
    tariff(wallets, "0.5")
    tariff(wallets, "0.3", scope="account", scope_id="a")
    wallets.account("a", "minutes", cents=1000)
    wallets.account("b", "minutes", cents=1000)
    wallets.call("a", age="59 s")
    wallets.call("a", age="61 s")
    wallets.call("b", age="10 min 1 s")
    wallets.call("b", voice=False)
    assert wallets.available("a") == 10 - 3 * Decimal("0.3") and wallets.available("b") == 10 - 11 * Decimal("0.5")
    data = wallets.data("get_balance('b')")
    assert (data["balance"], data["started_minutes"], data["started"], data["unpriced_calls"]) == (10, 11, Decimal("5.5"), 0)
    assert wallets.value("SELECT has_sufficient_balance('b', 450)") is True
    assert wallets.value("SELECT has_sufficient_balance('b', 450.000001)") is False


def test_tariffs_of_other_currencies_are_converted(wallets: Wallets) -> None:
    tariff(wallets, "5", currency="RUB")
    wallets.account("a", "minutes", cents=1000)
    wallets.call("a")
    assert wallets.data("get_balance('a')")["unpriced_calls"] == 1 and wallets.available("a") == 10
    wallets.query("INSERT INTO fx_rates (from_currency, to_currency, rate, valid) VALUES ('RUB', 'USD', 0.0125, '[2020-01-01,)')")
    assert wallets.data("get_balance('a')")["unpriced_calls"] == 0 and wallets.available("a") == Decimal("9.9375")


def test_started_minutes_cut_off_as_they_begin(wallets: Wallets) -> None:
    tariff(wallets, "1")
    wallets.account("a", "minutes", cents=300)
    wallets.data("set_low_balance('a', 100)")
    session = wallets.call("a", age="59.9 s")
    assert wallets.state(session) == "ok"
    due = "SELECT extract(epoch FROM check_at - (SELECT started_at FROM toll.rated_sessions))::numeric(9, 3) FROM toll.wallet_credit"
    assert wallets.value(due) == Decimal("60.001")  # the next minute reaches the threshold
    assert wallets.value("SELECT toll.check_credit()") == 0
    age(wallets, session, "1 s")
    assert check(wallets, "a") == 1 and wallets.state(session) == "low"
    age(wallets, session, "60 s")
    assert check(wallets, "a") == 1 and wallets.state(session) == "exhausted"
    assert wallets.query("SELECT check_at FROM toll.wallet_credit") == [(None,)]  # time makes it no better
    assert wallets.value("SELECT count(*) FROM low_balance_alerts") == 0  # these tell of balances
    wallets.end(session)
    wallets.debit(("a", session, "USD", 3))
    assert wallets.value("SELECT count(*) FROM low_balance_alerts") == 1


def test_checks_wait_until_time_can_matter(wallets: Wallets) -> None:
    tariff(wallets, "1")
    wallets.account("a", "minutes", cents=400)
    for _ in range(2):
        wallets.call("a", age="30 s")
    # Two used, two left: both begin one more minute each before anything can change.
    assert wallets.value("SELECT extract(epoch FROM check_at - (SELECT min(started_at) FROM toll.rated_sessions))::numeric(9, 3)"
                         " FROM toll.wallet_credit") == Decimal("60.001")
    wallets.data("add_credits('a', 100, 'card', 't1')")
    assert wallets.value("SELECT extract(epoch FROM check_at - (SELECT min(started_at) FROM toll.rated_sessions))::numeric(9, 3)"
                         " FROM toll.wallet_credit") == Decimal("120.001")
    wallets.data("add_credits('a', 1000000, 'card', 't2')")
    assert wallets.value("SELECT check_at - now() BETWEEN '3 min' AND '7 min' FROM toll.wallet_credit")  # prices may change


def test_prepaid_minutes_run_out(wallets: Wallets) -> None:
    wallets.account("p", "prepaid_minutes", cents=300)
    session = wallets.call("p", age="61 s")
    assert wallets.available("p") == 1 and wallets.state(session) == "ok"
    assert wallets.value("SELECT has_sufficient_balance('p', 100)") is True
    assert wallets.value("SELECT has_sufficient_balance('p', 101)") is False
    age(wallets, session, "1 min")
    assert check(wallets, "p") == 1 and wallets.state(session) == "exhausted"
    wallets.data("add_minutes('p', 10, 'card', 't1')")
    assert wallets.state(session) == "ok"


def test_session_keeps_to_the_wallet_of_its_scheme(wallets: Wallets) -> None:
    wallets.account("p", "prepaid_minutes", cents=100)
    session = wallets.call("p")
    wallets.query("UPDATE accounts SET charge_by = 'usage' WHERE account_id = 'p'")
    wallets.data("add_credits('p', 1000, 'card', 't1')")
    other = wallets.call("p")
    assert (wallets.state(session), wallets.state(other)) == ("exhausted", "ok")
    wallets.debit(("p", other, "USD", 10))
    wallets.data("add_minutes('p', 10, 'card', 't2')")
    assert (wallets.state(session), wallets.state(other)) == ("ok", "exhausted")


# --- holds ---

def test_hold_is_not_available_to_others(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    hold = wallets.data("reserve('a', 600, '10 min')")
    assert (hold["cents"], hold["currency"]) == (600, "USD")
    assert wallets.available("a") == 4
    assert wallets.value("SELECT has_sufficient_balance('a', 400)") is True
    assert wallets.value("SELECT has_sufficient_balance('a', 401)") is False
    assert "insufficient credit: 400 of 401" in wallets.error("reserve('a', 401)")
    assert wallets.data("release(%s)", hold["hold_id"])["released"] is True
    assert wallets.data("release(%s)", hold["hold_id"])["released"] is False
    assert wallets.available("a") == 10


def test_hold_shrinks_by_what_its_session_is_debited(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    hold = wallets.data("reserve('a', 300)")["hold_id"]
    session, other = wallets.call("a", hold=hold), wallets.call("a")
    wallets.debit(("a", session, "USD", 1), ("a", other, "USD", 2))
    assert wallets.available("a") == 10 - 3 - 2
    wallets.debit(("a", session, "USD", "2.5"))
    assert wallets.available("a") == 10 - 3 - 2 - Decimal("0.5")
    wallets.debit(("a", session, "USD", -3))  # corrected: what was debited counts, not more than was held
    assert wallets.available("a") == 10 - Decimal("2.5") - Decimal("2.5")
    wallets.end(session)
    assert wallets.available("a") == wallets.balance("a") == Decimal("7.5")


def test_started_minutes_use_up_their_calls_hold(wallets: Wallets) -> None:
    wallets.account("p", "prepaid_minutes", cents=1000)
    hold = wallets.data("reserve('p', 300)")["hold_id"]
    session = wallets.call("p", age="61 s", hold=hold)
    assert wallets.available("p") == 10 - 3
    age(wallets, session, "3 min")
    assert wallets.available("p") == 10 - 5


def test_hold_lapses(wallets: Wallets) -> None:
    wallets.account("a", cents=100)
    session = wallets.call("a")
    hold = wallets.data("reserve('a', 100, '1 s')")["hold_id"]
    assert wallets.state(session) == "exhausted"
    wallets.query("SELECT pg_sleep(1.05)")
    assert wallets.available("a") == 1
    assert wallets.value("SELECT toll.check_credit()") == 1 and wallets.state(session) == "ok"
    assert wallets.query("SELECT released_at = expires_at FROM credit_holds") == [(True,)]
    assert wallets.data("release(%s)", hold)["released"] is False


def test_hold_belongs_to_one_session_of_its_account(wallets: Wallets) -> None:
    wallets.account("a", cents=1000)
    wallets.account("b", cents=1000)
    hold = wallets.data("reserve('a', 300)")["hold_id"]
    stranger = wallets.call("b", hold=hold)
    first, second = wallets.call("a", hold=hold), wallets.call("a", hold=hold)
    assert wallets.query("SELECT session_id FROM credit_holds") == [(first,)]
    for session in (stranger, second):
        wallets.end(session)
    assert wallets.available("a") == 7
    wallets.end(first)
    assert wallets.available("a") == 10
    late = wallets.call("a", hold=hold)
    assert wallets.query("SELECT session_id FROM credit_holds") == [(first,)] and wallets.state(late) == "ok"


@pytest.mark.parametrize("ttl", ["0", "-1 s", "32 days", None])
def test_bad_times_to_live_are_refused(wallets: Wallets, ttl: str | None) -> None:
    wallets.account("a", cents=1000)
    assert "ttl must be" in wallets.error("reserve('a', 100, %s::interval)", ttl)
