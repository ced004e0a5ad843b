"""Reports over days, months and accounts: time zones, daylight saving, quotas, and sums that add up."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Iterator
from zoneinfo import ZoneInfo

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from books import Books  # noqa: E402
from harness import Database  # noqa: E402

UTC = timezone.utc
NOON = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
METERS = ("apiCalls", "voiceMinutes", "aiQueries", "storage")


@pytest.fixture
def books(db: Database) -> Iterator[Books]:
    made = Books(db)
    yield made
    made.close()


def number(value: Any) -> Decimal:
    return Decimal(str(value))


def the_same_summed(books: Books, sql: str, *args: Any) -> Any:
    """What a report answers, which is the same after all usage was summed up: what comes then comes late."""
    answer = books.value(sql, *args)
    books.sum_up()
    assert books.value(sql, *args) == answer
    return answer


# --- revenue_minutes ---

def revenue(books: Books, since: str | None, before: str | None, group: str | None = "day", *more: str) -> Any:
    return the_same_summed(books, f"SELECT revenue_minutes(%s, %s, %s{', %s' * len(more)})", since, before, group, *more)


def billed(books: Books, ended: datetime, minutes: int = 1, account: str = "rub", amount: str | None = "", **about: Any) -> str:
    return books.session(account, ended - timedelta(minutes=minutes), minutes * 60, billed=minutes, charge_by="minutes",
                         amount=str(5 * minutes) if amount == "" else amount, **about)


def use_zone(books: Books, zone: str) -> None:
    books.run("UPDATE toll.rating_settings SET default_time_zone = %s", zone)


def test_revenue_has_this_shape(books: Books) -> None:
    books.account("rub", currency="RUB", charge_by="minutes")
    billed(books, NOON, 3)
    billed(books, NOON + timedelta(hours=1), 4, waived="8")
    assert revenue(books, "2026-03-10", "2026-03-12") == {
        "grouping": "day",
        "buckets": [
            {"period_start": "2026-03-10T00:00:00+00:00", "total_minutes": 7, "total_revenue": 27, "sessions_count": 2},
            {"period_start": "2026-03-11T00:00:00+00:00", "total_minutes": 0, "total_revenue": 0, "sessions_count": 0}],
        "totals": {"total_minutes": 7, "total_revenue": 27, "sessions_count": 2}}


def test_revenue_ranges_are_half_open(books: Books) -> None:
    books.account("rub", currency="RUB", charge_by="minutes")
    for ended in (NOON - timedelta(microseconds=1), NOON, NOON + timedelta(hours=1)):
        billed(books, ended)
    assert revenue(books, "2026-03-10 12:00", "2026-03-10 13:00", "hour")["totals"]["sessions_count"] == 1
    assert revenue(books, "2026-03-10", "2026-03-10") == {"grouping": "day", "buckets": [], "totals": {
        "total_minutes": 0, "total_revenue": 0, "sessions_count": 0}}


@pytest.mark.parametrize("zone, day, hours", [("Europe/Berlin", "2026-03-29", 23), ("Europe/Berlin", "2026-10-25", 25), ("Asia/Kolkata", "2026-03-29", 24),
                                              ("Australia/Lord_Howe", "2026-04-05", 25), ("Australia/Lord_Howe", "2026-10-04", 24),
                                              # Midnight comes twice, or not at all.
                                              ("Atlantic/Azores", "2026-10-25", 25), ("America/Havana", "2026-11-01", 25),
                                              ("Africa/Cairo", "2026-04-24", 23), ("Africa/Cairo", "2026-10-29", 25)])
def test_revenue_of_a_day_is_that_of_its_hours(books: Books, zone: str, day: str, hours: int) -> None:
    """One session each quarter of an hour from the day before to the day after: every one is in one hour and in one day."""
    use_zone(books, zone)
    books.account("rub", currency="RUB", charge_by="minutes")
    # Where a time comes twice, Python takes the first.
    first, last = (datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC),
                   (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC))
    ended = first - timedelta(hours=3)
    while ended < last + timedelta(hours=3):
        billed(books, ended)
        ended += timedelta(minutes=15)
    end = str(books.value("SELECT %s::date + 1", day))
    by_day, by_hour = revenue(books, day, end), revenue(books, day, end, "hour")
    quarters = int((last - first) / timedelta(minutes=15))
    assert by_day["totals"] == by_hour["totals"] == {"total_minutes": quarters, "total_revenue": 5 * quarters, "sessions_count": quarters}
    assert [bucket["sessions_count"] for bucket in by_day["buckets"]] == [quarters]
    assert len(by_hour["buckets"]) == hours
    assert sum(bucket["sessions_count"] for bucket in by_hour["buckets"]) == quarters
    starts = [datetime.fromisoformat(bucket["period_start"]) for bucket in by_hour["buckets"]]
    assert starts == sorted(set(starts)) and starts[0] == first


def test_revenue_of_hours_keeps_the_repeated_one_apart(books: Books) -> None:
    use_zone(books, "Europe/Berlin")
    books.account("rub", currency="RUB", charge_by="minutes")
    billed(books, datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
    billed(books, datetime(2026, 10, 25, 1, 30, tzinfo=UTC), 2)
    counted = {bucket["period_start"]: bucket["total_minutes"] for bucket in revenue(books, "2026-10-25", "2026-10-26", "hour")["buckets"]}
    assert (counted["2026-10-25T02:00:00+02:00"], counted["2026-10-25T02:00:00+01:00"]) == (1, 2)


def test_revenue_does_not_depend_on_the_askers_time_zone(books: Books) -> None:
    use_zone(books, "Asia/Kolkata")
    books.account("rub", currency="RUB", charge_by="minutes")
    billed(books, datetime(2026, 3, 9, 18, 30, tzinfo=UTC))
    answer = revenue(books, "2026-03-10", "2026-03-11")
    books.run("SET TimeZone = 'America/New_York'")
    assert revenue(books, "2026-03-10", "2026-03-11") == answer
    assert books.value("SHOW TimeZone") == "America/New_York"
    assert answer["buckets"] == [{"period_start": "2026-03-10T00:00:00+05:30", "total_minutes": 1, "total_revenue": 5, "sessions_count": 1}]


def test_revenue_of_months_meets_at_their_ends(books: Books) -> None:
    books.account("rub", currency="RUB", charge_by="minutes")
    billed(books, datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC))
    billed(books, datetime(2028, 3, 1, tzinfo=UTC), 2)
    assert [revenue(books, *each)["totals"]["total_minutes"] for each in (("2028-02-01", "2028-03-01"), ("2028-03-01", "2028-04-01"),
                                                                         ("2028-02-01", "2028-04-01"))] == [1, 2, 3]


def test_revenue_is_null_where_a_tariff_has_no_price(books: Books) -> None:
    books.account("rub", currency="RUB", charge_by="minutes")
    billed(books, NOON, amount=None)
    billed(books, NOON + timedelta(days=1))
    answer = revenue(books, "2026-03-10", "2026-03-12")
    assert [bucket["total_revenue"] for bucket in answer["buckets"]] == [None, 5]
    assert answer["totals"] == {"total_minutes": 2, "total_revenue": None, "sessions_count": 2}


def test_revenue_in_two_currencies_wants_one_named(books: Books) -> None:
    books.account("rub", currency="RUB", charge_by="minutes")
    books.account("usd", charge_by="minutes")
    billed(books, NOON)
    billed(books, NOON, account="usd", amount="0.06")
    assert "RUB and USD" in revenue(books, "2026-03-10", "2026-03-11")["error"]
    assert revenue(books, "2026-03-10", "2026-03-11", "day", "USD")["totals"]["total_revenue"] == 0.06
    assert revenue(books, "2026-03-11", "2026-03-12")["totals"]["total_revenue"] == 0


def test_revenue_passes_over_a_currency_whose_sessions_were_taken_back(books: Books) -> None:
    books.account("rub", currency="RUB", charge_by="minutes")
    billed(books, NOON, 2)
    for sessions in (1, -1):
        books.run("INSERT INTO toll.usage_rollup AS r (account_id, quarter, business_id, component, provider, model, currency, events, sessions, input_tokens,"
                  " cached_input_tokens, output_tokens, characters, audio_us, quantity, cost, charge, waived, unrated_cost, unrated_charge)"
                  " VALUES ('rub', %s, '', 'tariff', '', '', 'AED', 0, %s, 0, 0, 0, 0, 0, %s, 0, %s, 0, 0, 0)"
                  " ON CONFLICT (account_id, quarter, business_id, component, provider, model, currency) DO UPDATE"
                  " SET sessions = 0, quantity = 0, charge = 0", NOON, sessions, sessions, sessions)
    assert revenue(books, "2026-03-10", "2026-03-11")["totals"] == {"total_minutes": 2, "total_revenue": 10, "sessions_count": 1}


def test_revenue_is_planned_for_the_time_asked_of(books: Books) -> None:
    """A kept plan knows starts of buckets as a parameter only, and copies all of them for each quarter of an hour: of a year by the hour half of its time."""
    books.run("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
              "SET client_min_messages = log; SET plan_cache_mode = force_generic_plan")
    answer = books.value("SELECT revenue_minutes('2026-03-10', '2026-03-12', 'day')")
    assert len(answer["buckets"]) == 2
    [key] = re.findall(r"Group Key: (.*width_bucket.*)", "\n".join(books.connection.notices))
    assert "2026-03-11" in key and "$" not in key


@pytest.mark.parametrize("since, before, group, says", [
    ("2026-03-11", "2026-03-10", "day", "is after"), ("2026-03-10", "2026-03-11", "week", "'hour' or 'day'"),
    ("2026-03-10", "2026-03-11", None, "'hour' or 'day'"), (None, "2026-03-11", "day", "must both be given"),
    ("2026-03-10", "infinity", "day", "must both be given"), ("2026-03-10 00:01", "2026-03-11", "day", "quarter of an hour"),
    ("0001-01-01", "9999-01-01", "day", "too long"), ("2020-01-01", "2026-01-01", "hour", "too long")])
def test_revenue_refuses(books: Books, since: str | None, before: str | None, group: str | None, says: str) -> None:
    answer = revenue(books, since, before, group)
    assert set(answer) == {"success", "error"} and answer["success"] is False and says in answer["error"]


# --- billing_analytics ---

def analytics(books: Books, business: str | None, period: str | None = "day", days: int | None = 30) -> Any:
    return the_same_summed(books, "SELECT billing_analytics(%s, %s, %s)", business, period, days)


def usage(books: Books, business: str, unit: str, zone: str, first: str, last: str) -> Any:
    """What billing_analytics() answers on the last of these days."""
    return the_same_summed(books, "SELECT toll.business_usage(%s, %s, %s, %s, %s)", business, unit, zone, first, last)


def llm(books: Books, session: str, at: datetime, times: int = 1) -> None:
    for _ in range(times):
        books.event(session, at, "llm", "openai", "gpt-4o", {"input": 100, "output": 10})


def test_analytics_has_this_shape(books: Books) -> None:
    books.account("acme")
    now = books.value("SELECT now()")
    session = books.session("acme", now, 90, business="acme")
    llm(books, session, now, 3)
    books.event(session, now, "meter", None, "ai_query", {"quantity": 2})
    books.event(None, now, "meter", None, "storage_mb", {"quantity": "0.5"}, account="acme")
    answer = analytics(books, "acme", days=2)
    assert answer["success"] is True and set(answer) == {"success", "data"}
    assert answer["data"]["billingUsage"] == {
        "apiCalls": 3, "minutesUsed": 1.5, "cost": 0.1605,
        "breakdown": {"apiCalls": {"count": 3, "cost": 0.03}, "voiceMinutes": {"count": 1.5, "cost": 0.03},
                      "aiQueries": {"count": 2, "cost": 0.1}, "storage": {"count": 0.5, "cost": 0.0005}}}
    yesterday, today = answer["data"]["trends"]
    assert yesterday == {"date": str(now.date() - timedelta(days=1)), "apiCalls": 0, "voiceMinutes": 0, "cost": 0}
    assert today == {"date": str(now.date()), "apiCalls": 3, "voiceMinutes": 1.5, "cost": 0.1605}


def test_analytics_of_an_empty_account_is_zero(books: Books) -> None:
    books.account("acme")
    data = analytics(books, "acme", "month", 1)["data"]
    assert data["billingUsage"] == {"apiCalls": 0, "minutesUsed": 0, "cost": 0, "breakdown": {each: {"count": 0, "cost": 0} for each in METERS}}
    assert [(each["apiCalls"], each["cost"]) for each in data["trends"]] == [(0, 0)]


@pytest.mark.parametrize("business, period, days, says", [
    ("nobody", "day", 30, "no such business"), (None, "day", 30, "no such business"), ("", "day", 30, "no such business"),
    ("acme", "year", 30, "'day', 'week' or 'month'"), ("acme", None, 30, "'day', 'week' or 'month'"), ("acme", "day", -1, "days is -1"),
    ("acme", "day", 0, "days is 0"), ("acme", "day", None, "days is NULL"), ("acme", "day", 2147483647, "from 1 to 4000")])
def test_analytics_refuses(books: Books, business: str | None, period: str | None, days: int | None, says: str) -> None:
    books.account("acme")
    books.session(None, NOON, 60)
    answer = analytics(books, business, period, days)
    assert set(answer) == {"success", "error"} and answer["success"] is False and says in answer["error"]


def test_analytics_prefers_what_the_business_reports(books: Books) -> None:
    books.account("acme")
    session = books.session("acme", NOON, 60, business="acme")
    llm(books, session, NOON, 5)
    books.event(None, NOON, "meter", None, "api_call", {"quantity": 40}, account="acme")
    breakdown = usage(books, "acme", "day", "UTC", "2026-03-10", "2026-03-10")["billingUsage"]["breakdown"]
    assert (breakdown["apiCalls"], breakdown["voiceMinutes"]) == ({"count": 40, "cost": 0.4}, {"count": 1, "cost": 0.02})
    llm(books, session, NOON + timedelta(days=1), 2)
    assert usage(books, "acme", "day", "UTC", "2026-03-11", "2026-03-11")["billingUsage"]["apiCalls"] == 2


def test_analytics_counts_a_session_of_no_business_as_its_accounts(books: Books) -> None:
    books.account("acme")
    books.account("user_7")
    llm(books, books.session("acme", NOON, 60), NOON, 1)
    llm(books, books.session("user_7", NOON, 60, business="acme"), NOON, 2)
    assert usage(books, "acme", "day", "UTC", "2026-03-10", "2026-03-10")["billingUsage"]["apiCalls"] == 3
    assert usage(books, "user_7", "day", "UTC", "2026-03-10", "2026-03-10")["billingUsage"]["apiCalls"] == 0


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Europe/Berlin", "America/New_York", "UTC"])
@pytest.mark.parametrize("first, last", [("2026-03-27", "2026-04-02"), ("2026-10-23", "2026-11-03")])
def test_analytics_trends_add_up_to_their_totals(books: Books, zone: str, first: str, last: str) -> None:
    books.account("acme", zone=zone)
    books.account("rub", currency="RUB")
    since, before = (books.value("SELECT (%s::date + %s)::timestamp AT TIME ZONE %s", day, add, zone) for day, add in ((first, 0), (last, 1)))
    expected: dict[str, int] = {}
    at = since - timedelta(hours=7)
    while at < before + timedelta(hours=7):
        llm(books, books.session("acme", at - timedelta(seconds=100), 100, business="acme"), at)
        if since <= at < before:
            day = str(books.value("SELECT (%s AT TIME ZONE %s)::date", at, zone))
            expected[day] = expected.get(day, 0) + 1
        at += timedelta(hours=3, minutes=15)
    days = usage(books, "acme", "day", zone, first, last)
    assert {each["date"]: each["apiCalls"] for each in days["trends"]} == expected
    for unit in ("day", "week", "month"):
        answer = usage(books, "acme", unit, zone, first, last)
        assert answer["billingUsage"] == days["billingUsage"]
        for key, total in (("apiCalls", "apiCalls"), ("voiceMinutes", "minutesUsed"), ("cost", "cost")):
            assert sum(number(each[key]) for each in answer["trends"]) == number(answer["billingUsage"][total])
    assert sum(number(each["cost"]) for each in days["billingUsage"]["breakdown"].values()) == number(days["billingUsage"]["cost"])
    assert len(usage(books, "acme", "month", zone, first, last)["trends"]) == 2


def test_analytics_is_null_where_a_price_is_missing(books: Books) -> None:
    books.run("INSERT INTO plans VALUES ('bare', 'Bare'); INSERT INTO usage_quotas VALUES ('bare', 'ai_query', 0, NULL, 1)")
    books.account("acme", plan="bare")
    session = books.session("acme", NOON, 60, business="acme")
    books.event(session, NOON, "meter", None, "ai_query", {"quantity": 2})
    answer = usage(books, "acme", "day", "UTC", "2026-03-10", "2026-03-11")
    assert answer["billingUsage"]["breakdown"] == {"apiCalls": {"count": 0, "cost": 0}, "voiceMinutes": {"count": 1, "cost": None},
                                                   "aiQueries": {"count": 2, "cost": 0.02}, "storage": {"count": 0, "cost": 0}}
    assert answer["billingUsage"]["cost"] is None and [each["cost"] for each in answer["trends"]] == [None, 0]


def test_analytics_does_not_add_currencies(books: Books) -> None:
    books.account("usd")
    books.account("rub", currency="RUB")
    for account in ("usd", "rub"):
        llm(books, books.session(account, NOON, 60, business="acme"), NOON)
    answer = usage(books, "acme", "day", "UTC", "2026-03-10", "2026-03-10")["billingUsage"]
    assert (answer["apiCalls"], answer["cost"]) == (2, None)
    assert books.run("SELECT api_calls, total_cost, currency FROM billing_overview WHERE business_id = 'acme'") == [(2, None, None)]


# --- months: aggregation, overview, quotas, events ---

def months(books: Books, business: str = "acme") -> dict[tuple[str, str], tuple[Decimal, Decimal | None]]:
    return {(str(period), meter): (quantity, cost) for period, meter, quantity, cost in books.run(
        "SELECT period, event_type, quantity, cost FROM usage_aggregation WHERE business_id = %s AND business = business_id", business)}


def used(books: Books, *times: datetime, **about: Any) -> None:
    for at in times:
        llm(books, books.session("acme", at - timedelta(seconds=60), 60, business="acme", **about), at)


def test_months_end_at_midnight_of_the_account(books: Books) -> None:
    books.account("acme", zone="Asia/Kolkata")
    used(books, datetime(2026, 3, 31, 18, 29, tzinfo=UTC), datetime(2026, 3, 31, 18, 30, tzinfo=UTC), datetime(2026, 4, 30, 18, 29, 59, tzinfo=UTC))
    assert months(books) == {("2026-03-01", "api_call"): (1, Decimal("0.01")), ("2026-03-01", "voice_minute"): (1, Decimal("0.02")),
                             ("2026-04-01", "api_call"): (2, Decimal("0.02")), ("2026-04-01", "voice_minute"): (2, Decimal("0.04"))}


def test_months_are_cut_anew_with_another_time_zone(books: Books) -> None:
    books.account("acme")
    books.account("other")
    used(books, datetime(2026, 3, 31, 22, 0, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    llm(books, books.session("other", NOON, 60), NOON)
    books.run("UPDATE accounts SET time_zone = 'Europe/Berlin' WHERE account_id = 'acme'")
    assert {key: quantity for key, (quantity, _) in months(books).items()} == {("2026-04-01", "api_call"): 2, ("2026-04-01", "voice_minute"): 2}
    assert months(books, "other")[("2026-03-01", "api_call")][0] == 1


def test_months_follow_every_change_of_the_roll_up(books: Books) -> None:
    books.account("acme")
    books.account("other")
    used(books, NOON, NOON, NOON + timedelta(days=40))
    llm(books, books.session(None, NOON, 60), NOON, 2)
    books.event(None, NOON, "meter", None, "sms", {"quantity": "2.5"}, account="other")
    check = """
        WITH kept AS (SELECT * FROM toll.meter_months WHERE events <> 0 OR quantity <> 0), summed AS (
            SELECT account_id, date_trunc('month', quarter)::date, business_id, meter, derived, sum(events)::bigint, sum(quantity)
            FROM toll.quarter_meters GROUP BY 1, 2, 3, 4, 5 HAVING sum(events) <> 0 OR sum(quantity) <> 0)
        SELECT (SELECT count(*) FROM (TABLE kept EXCEPT TABLE summed) AS more) + (SELECT count(*) FROM (TABLE summed EXCEPT TABLE kept) AS less)"""
    assert books.value(check) == 0
    books.run("UPDATE toll.usage_rollup SET events = events + 7, quantity = quantity * 2")
    assert books.value(check) == 0
    books.run("UPDATE toll.usage_rollup SET account_id = 'other', business_id = 'b' WHERE account_id = ''")
    assert books.value(check) == 0
    books.run("DELETE FROM toll.usage_rollup WHERE account_id = 'acme'")
    assert books.value(check) == 0 and months(books) == {}


def test_overview_adds_months_and_events_add_up_to_them(books: Books) -> None:
    books.account("acme", title="Acme Ltd")
    books.account("user_7")
    used(books, NOON, NOON + timedelta(days=1), NOON + timedelta(days=30))
    llm(books, books.session("user_7", NOON, 30, business="acme"), NOON, 2)
    books.event(None, NOON + timedelta(days=30), "meter", None, "api_call", {"quantity": 100}, account="acme")  # in April it reports them itself
    books.event(None, NOON, "meter", None, "storage_mb", {"quantity": 20}, account="acme")
    books.event(None, NOON, "meter", None, "sms", {"quantity": 3}, account="acme")
    assert months(books) == {
        ("2026-03-01", "api_call"): (4, Decimal("0.04")), ("2026-03-01", "voice_minute"): (Decimal("2.5"), Decimal("0.05")),
        ("2026-03-01", "storage_mb"): (20, Decimal("0.02")), ("2026-03-01", "sms"): (3, None),
        ("2026-04-01", "api_call"): (100, Decimal("1")), ("2026-04-01", "voice_minute"): (1, Decimal("0.02"))}
    assert books.rows("SELECT * FROM billing_overview WHERE business_id = 'acme'") == [{
        "business_id": "acme", "business_name": "Acme Ltd", "api_calls": 104, "voice_minutes": Decimal("3.5"), "ai_queries": 0, "storage_mb": 20,
        "total_cost": Decimal("1.13"), "currency": "USD"}]
    events = books.run("SELECT date_trunc('month', created_at)::date::text, event_type, sum(quantity), sum(total_cost_cents) / 100 FROM usage_events"
                       " WHERE business_id = 'acme' GROUP BY 1, 2")
    assert {(month, meter): (quantity, cost) for month, meter, quantity, cost in events} == months(books)
    assert books.value("SELECT count(*) - count(DISTINCT id) FROM usage_events") == 0


def test_usage_events_have_these_columns(books: Books) -> None:
    books.account("acme")
    session = books.session("acme", NOON, 60, business="acme", call_id="CA7")
    event = books.event(session, NOON, "meter", "twilio", "api_call", {"quantity": 4})
    [row] = books.rows("SELECT * FROM usage_events WHERE event_type = 'api_call'")
    assert row == {"id": str(event), "business_id": "acme", "event_type": "api_call", "quantity": 4, "unit_price_cents": 1, "total_cost_cents": 4,
                   "metadata": {"session_id": session, "call_id": "CA7", "account_id": "acme", "component": "meter", "provider": "twilio"},
                   "processed_at": NOON, "created_at": NOON, "account_id": "acme", "session_id": session}


def test_usage_of_nobody_is_shown_as_nobodys(books: Books) -> None:
    llm(books, books.session(None, NOON, 60), NOON, 2)
    assert books.run("SELECT business_id, business_name, api_calls, total_cost FROM billing_overview") == [(None, None, 2, None)]
    assert books.value("SELECT count(*) FROM usage_events WHERE business_id IS NULL AND total_cost_cents IS NULL") == 3


def test_quota_status_of_months(books: Books) -> None:
    books.run("UPDATE usage_quotas SET quota_limit = 2 WHERE plan_id = 'basic' AND event_type = 'api_call'")
    books.run("UPDATE usage_quotas SET included_quantity = 1 WHERE plan_id = 'basic' AND event_type = 'api_call'")
    books.account("acme")
    books.account("idle")
    used(books, NOON, NOON, NOON)
    [row] = books.rows("SELECT * FROM quota_status WHERE account_id = 'acme' AND period_start = '2026-03-01' AND event_type = 'api_call'")
    assert row == {"account_id": "acme", "period_start": row["period_start"], "event_type": "api_call", "used": 3, "included": 1, "remaining": 0,
                   "overage": 2, "quota_limit": 2, "over_limit": True, "overage_cost": Decimal("0.02"), "currency": "USD"}
    rows = books.rows("SELECT * FROM quota_status WHERE account_id = 'idle'")
    assert len(rows) == 4 and {row["used"] for row in rows} == {0} and {str(row["period_start"]) for row in rows} == {
        str(books.value("SELECT date_trunc('month', now())::date"))}


def test_quota_status_of_a_plan_is_what_was_counted_for_charging(books: Books) -> None:
    books.account("acme", charge_by="plan")
    used(books, NOON)
    books.run("INSERT INTO toll.plan_usage VALUES ('acme', '2026-03-01', 'api_call', 77, NULL)")
    assert books.value("SELECT used FROM quota_status WHERE account_id = 'acme' AND period_start = '2026-03-01' AND event_type = 'api_call'") == 77
