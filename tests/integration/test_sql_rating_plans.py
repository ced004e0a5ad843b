"""Plans, their quotas, and periods that are closed (sql/functions/rating_schemes.sql, rating_periods.sql)."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, UTC, Book, D, priced, quota, seconds  # noqa: E402
from schema import this_month  # noqa: E402


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


def used(book: Book) -> dict[tuple[str, str], object]:
    return {(str(month), meter): quantity for month, meter, quantity in
            book.db.query("SELECT period_start, event_type, quantity FROM toll.plan_usage")}


def test_plan_charges_only_what_goes_beyond(book: Book) -> None:
    priced(book)
    quota(book, "ai_query", "10", "5")
    quota(book, "api_call", "2", "0.00000015")
    book.account("a", charge_by="plan")
    book.wallet("a", 10_000)
    s = book.session(account_id="a")
    queries = book.batch(*((s, "usage", {"meter": "ai_query", "quantity": D(q)}) for q in ("8", "3.5", "0.25")))
    book.batch(*((s, "llm", {"input_tokens": 1, "output_tokens": 0}) for _ in range(3)))
    book.rate()
    month = f"{NOON:%Y-%m-01}"
    assert used(book) == {(month, "ai_query"): D("11.75"), (month, "api_call"): 3}
    usage = book.lines("kind = 'usage'")
    assert {(x["charge"], x["reason"]) for x in usage} == {(0, "plan")} and len(usage) == 6
    over = book.lines("kind = 'overage'")
    assert [(x["event_id"], x["quantities"], x["charge"], x["cost"], x["component"], x["model"]) for x in over[:2]] == [
        (queries[1], {"quantity": 3.5, "overage": 1.5}, D("0.075"), None, "meter", "ai_query"),
        (queries[2], {"quantity": 0.25, "overage": 0.25}, D("0.0125"), None, "meter", "ai_query")]
    assert over[2]["charge"] == D("0.000000002")  # 0.0000000015, half to even
    assert book.balance("a") == 100 - D("0.087500002")
    book.check_rollup()


def test_reported_meters_are_no_longer_derived(book: Book) -> None:
    priced(book)
    quota(book, "api_call", "0", "100")
    book.account("a", charge_by="plan")
    s = book.session(account_id="a")
    call = (s, "llm", {"input_tokens": 1, "output_tokens": 0})
    book.batch(call, call, (s, "usage", {"meter": "api_call", "quantity": D("10")}), call)
    book.rate()
    book.batch(call)
    book.rate()
    assert sum(x["charge"] for x in book.lines("kind = 'overage'")) == 12
    assert book.db.value("SELECT reported_meters FROM accounts") == ["api_call"]
    book.batch((s, "usage", {"meter": "api_call", "quantity": D("1")}))
    book.rate()
    assert sum(x["charge"] for x in book.lines("kind = 'overage'")) == 13


def test_voice_minutes_count_at_the_end_unrounded_and_follow_corrections(book: Book) -> None:
    quota(book, "voice_minute", "1", "100")
    book.account("a", charge_by="plan")
    s = book.session(account_id="a")
    book.batch((s, "stt", {"audio_duration_ms": 1}))
    book.change(s, ended=NOON + seconds(100))
    book.rate()
    month = f"{NOON:%Y-%m-01}"
    assert used(book) == {(month, "voice_minute"): D("1.666666667")}
    assert [x["charge"] for x in book.lines("kind = 'overage'")] == [D("0.666666667")]
    book.change(s, ended=NOON + seconds(180))
    book.rate()
    book.change(s, ended=NOON + seconds(30))
    book.rate()
    assert used(book) == {(month, "voice_minute"): D("0.5")}
    lines = book.lines("kind = 'overage'")
    assert [(x["charge"], x["reason"], x["event_id"]) for x in lines] == [
        (D("0.666666667"), None, None), (D("1.333333333"), "duration corrected", None), (-2, "duration corrected", None)]
    assert book.db.query("SELECT sessions, quantity FROM toll.usage_rollup WHERE component = 'session'") == [(1, D("0.5"))]
    book.check_rollup()


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "Europe/Berlin", "Asia/Kathmandu", "Pacific/Chatham"])
def test_month_is_the_accounts(book: Book, zone: str) -> None:
    book.account("a", charge_by="plan", time_zone=zone)
    edges = []
    for year, month in ((2026, 3), (2026, 11), (2027, 1)):  # between these, summer time begins and ends in both hemispheres
        edge = book.db.value("SELECT (make_date(%s, %s, 1)::timestamp AT TIME ZONE %s)", year, month, zone)
        edges.append(edge)
        book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1"), "at": edge - timedelta(microseconds=1)}),
                   (None, "usage", {"account": "a", "meter": "sms", "quantity": D("10"), "at": edge}))
    book.rate()
    assert used(book) == {("2026-02-01", "sms"): 1, ("2026-03-01", "sms"): 10, ("2026-10-01", "sms"): 1, ("2026-11-01", "sms"): 10,
                          ("2026-12-01", "sms"): 1, ("2027-01-01", "sms"): 10}


def test_quota_limit_alerts_once_a_month(book: Book) -> None:
    quota(book, "sms", "1", "0", "2")
    book.account("a", charge_by="plan")
    for _ in range(4):
        book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}))
        book.rate()
    assert book.db.query("SELECT account_id, event_type, quantity, quota_limit FROM toll.quota_alerts") == [("a", "sms", 3, 2)]


# --- periods ---

@pytest.mark.parametrize("scheme", ["usage", "minutes", "prepaid_minutes"])
def test_quota_limit_alerts_whatever_the_scheme(book: Book, scheme: str) -> None:
    book.db.execute("SELECT set_quota('basic', 'sms', 1, 1, 3), set_quota('basic', 'api_call', 1, 1, 1)")
    book.account("a", charge_by=scheme)
    connection = book.db.connect()
    connection.cursor().execute("LISTEN toll_quota")
    alerts = "SELECT event_type, quantity, quota_limit, period_start FROM toll.quota_alerts WHERE account_id = 'a' ORDER BY alert_id"
    month = NOON.date().replace(day=1)
    for quantity, expected in ((3, []), (D("0.5"), [("sms", D("3.5"), 3, month)]), (9, [("sms", D("3.5"), 3, month)])):
        book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D(quantity)}))
        book.rate()
        assert book.db.query(alerts) == expected
    s = book.session(account_id="a")
    for _ in range(3):
        book.llm(s, input_tokens=1, output_tokens=0)
        book.rate()
    assert book.db.query(alerts)[1:] == [("api_call", 2, 1, month)]
    connection.poll()
    assert [notify.payload for notify in connection.notifies] == ["a", "a"]
    connection.close()


def test_late_usage_of_a_closed_month_is_booked_after_it(book: Book) -> None:
    priced(book)
    zone = "Asia/Kolkata"
    book.account("a", time_zone=zone)
    last = this_month(-2)
    edge = book.db.value("SELECT date_trunc('month', %s::timestamptz AT TIME ZONE %s) AT TIME ZONE %s", this_month(-1), zone, zone)
    s = book.session(last, account_id="a")
    book.llm(s, input_tokens=1, output_tokens=0, at=edge - timedelta(microseconds=1))
    book.rate()
    assert book.db.value("SELECT toll.close_period('a', %s)", last.date().replace(day=1)) == edge
    book.batch((s, "llm", {"input_tokens": 2, "output_tokens": 0, "at": edge - timedelta(microseconds=1)}),
               (s, "llm", {"input_tokens": 3, "output_tokens": 0, "at": edge}))
    book.rate()
    first, late, next_month = book.lines()
    assert first["booked_at"] == first["occurred_at"] == late["occurred_at"] == edge - timedelta(microseconds=1)
    assert late["booked_at"] > datetime.now(UTC) - timedelta(minutes=5)
    assert next_month["booked_at"] == edge


def test_period_closes_in_order_and_not_before_its_time(book: Book) -> None:
    book.account("a")
    with pytest.raises(Exception, match="there is no account b"):
        book.db.value("SELECT toll.close_period('b', '2026-01-01')")
    with pytest.raises(Exception, match="not the first day of a month"):
        book.db.value("SELECT toll.close_period('a', '2026-01-02')")
    with pytest.raises(Exception, match="may be closed from"):
        book.db.value("SELECT toll.close_period('a', %s)", this_month().date().replace(day=1))
    book.batch((None, "usage", {"account": "a", "meter": "sms", "quantity": D("1")}), at=this_month(-3))
    book.rate()
    with pytest.raises(Exception, match="has an earlier month that is not closed"):
        book.db.value("SELECT toll.close_period('a', %s)", this_month(-2).date().replace(day=1))
    for back in (-3, -2):
        book.db.value("SELECT toll.close_period('a', %s)", this_month(back).date().replace(day=1))
    with pytest.raises(Exception, match="is closed already"):
        book.db.value("SELECT toll.close_period('a', %s)", this_month(-2).date().replace(day=1))
    assert book.db.query("SELECT period FROM toll.closed_periods ORDER BY 1") == [(this_month(b).date().replace(day=1),) for b in (-3, -2)]
