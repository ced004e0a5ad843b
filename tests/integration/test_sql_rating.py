"""What an event costs and is charged: the price book's rules (sql/functions/rating_prices.sql), rounding, lines, roll-ups."""

from __future__ import annotations

import random
import sys
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Database  # noqa: E402
from rating import NOON, Book, D, hours  # noqa: E402
from schema import JOURNAL  # noqa: E402


@pytest.fixture
def book(db: Database) -> Book:
    return Book(db)


def test_rounding_takes_ties_to_the_even_digit(book: Book) -> None:
    source = random.Random(5)
    cases = [(D("0.5"), D("1"), 0), (D("1.5"), D("1"), 0), (D("2.5"), D("1"), 0), (D("-2.5"), D("1"), 0), (D("-3.5"), D("1"), 0),
             (D("0.0000000005"), D("1"), 9), (D("0.0000000015"), D("1"), 9), (D("0.00000000150001"), D("1"), 9), (D("1"), D("3"), 9),
             (D("0"), D("7"), 9), (D("1"), D("-16"), 3), (D("99999999.9999999995"), D("1"), 9)]
    for _ in range(2000):
        cases.append((D(source.randint(-10**6, 10**6)).scaleb(-source.randint(0, 14)),
                      D(source.choice([1, 2, 3, 4, 6, 8, 60, 1000, 1024, 60_000_000]) * source.choice([1, -1])), source.randint(0, 9)))
    got = book.db.query("SELECT toll.divide_half_even(n, d, k), toll.round_half_even(n, k), k FROM unnest(%s::numeric[], %s::numeric[], %s::int[])"
                        " AS c (n, d, k)", *map(list, zip(*cases)))
    for (n, d, digits), (divided, rounded, _) in zip(cases, got):
        exact = Fraction(n) / Fraction(d) * 10**digits
        assert divided == Decimal(round(exact)).scaleb(-digits), (n, d, digits)  # Python's round() of a Fraction is half even
        assert rounded == n.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN), (n, digits)
        assert -rounded.as_tuple().exponent == -divided.as_tuple().exponent == digits


def test_subsets_are_disjoint_and_priced_on_their_own(book: Book) -> None:
    prices = {d: book.price("llm", d, p, side="charge") for d, p in (
        ("input", "2.50"), ("cached_input", "1.25"), ("cache_write", "3.75"), ("audio_input", "40"), ("cached_audio_input", "2.5"),
        ("output", "10"), ("audio_output", "80"))}
    s = book.session(account_id="a")
    event = book.llm(s, input_tokens=1000, cached_input_tokens=300, cache_write_tokens=100, audio_input_tokens=200, cached_audio_tokens=50,
                     output_tokens=70, audio_output_tokens=30)
    book.rate()
    line = book.line(event)
    assert line["quantities"] == {"input": 450, "cached_input": 250, "cache_write": 100, "audio_input": 150, "cached_audio_input": 50,
                                  "output": 40, "audio_output": 30}
    assert line["charge"] == (450 * D("2.5") + 250 * D("1.25") + 100 * D("3.75") + 150 * D("40") + 50 * D("2.5") + 40 * D("10")
                              + 30 * D("80")) / 1_000_000
    assert line["charge_price_ids"] == sorted(prices.values())
    assert line["cost"] is None and line["cost_price_ids"] is None
    assert book.unrated() == {(event, "cost"): "llm: no price"}
    book.check_rollup()


def test_missing_subset_price_is_the_gross_price(book: Book) -> None:
    gross = book.price("llm", "input", "2")
    out = book.price("llm", "output", "8")
    s = book.session(account_id="a")
    event = book.llm(s, input_tokens=1000, cached_input_tokens=900, audio_input_tokens=50, cached_audio_tokens=10, output_tokens=100,
                     audio_output_tokens=100)
    book.rate()
    assert book.line(event)["cost"] == D("0.0028")
    assert book.line(event)["cost_price_ids"] == sorted([gross, out])


def test_missing_gross_price_leaves_the_side_unrated(book: Book) -> None:
    book.price("llm", "cached_input", "1")
    book.price("llm", "output", "8")
    s = book.session(account_id="a")
    both = book.llm(s, input_tokens=1000, cached_input_tokens=900, output_tokens=10)
    only_cached = book.llm(s, input_tokens=900, cached_input_tokens=900, output_tokens=0)
    nothing = book.llm(s, input_tokens=0, output_tokens=0)
    book.rate()
    assert book.line(both)["cost"] is None
    assert book.line(only_cached)["cost"] == D("0.0009")
    assert book.line(nothing)["cost"] == 0
    assert book.line(nothing)["charge"] is None
    missing = book.unrated()
    assert missing[both, "cost"] == "llm: no price of input"
    assert {(only_cached, "cost"), (nothing, "cost")} & set(missing) == set()
    assert missing[nothing, "charge"] == "llm: no price"


def test_price_of_zero_is_zero(book: Book) -> None:
    book.price("llm", "input", "0", side="both")
    book.price("llm", "output", "0", side="both")
    event = book.llm(book.session(account_id="a"), input_tokens=5, output_tokens=5)
    book.rate()
    assert (book.line(event)["cost"], book.line(event)["charge"]) == (0, 0)
    assert book.unrated() == {}


def test_request_price_is_added_once(book: Book) -> None:
    book.price("llm", "input", "1")
    book.price("llm", "output", "1")
    book.price("llm", "request", "0.035", unit=1)
    event = book.llm(book.session(account_id="a"), input_tokens=10, output_tokens=10)
    book.rate()
    assert book.line(event)["cost"] == D("0.03502")


LOOKUP = [  # from the weakest to the strongest: each wins over all above it
    {}, {"variant": "voice"}, {"model": "gpt-4o"}, {"model": "gpt-4o", "variant": "voice"}, {"provider": "openai"},
    {"provider": "openai", "variant": "voice"}, {"provider": "openai", "model": "gpt-4o"},
    {"provider": "openai", "model": "gpt-4o", "variant": "voice"}, {"plan": "basic"}, {"plan": "basic", "provider": "openai", "model": "gpt-4o"},
    {"account": "a"}, {"account": "a", "variant": "voice"}, {"account": "a", "provider": "openai", "model": "gpt-4o", "variant": "voice"}]


def test_nearest_price_wins(book: Book) -> None:
    for output in ("cost", "charge"):
        book.price("llm", "output", "0", side=output)
    s = book.session(account_id="a")
    for order, key in enumerate(LOOKUP, 1):
        # What does not fit is there as well: another's, another model's, another time's.
        for other in ({"account": "b"}, {"plan": "gold"}, {"provider": "azure"}, {"model": "gpt-4"}, {"variant": "text"}):
            if key.keys() & other.keys():
                book.price("llm", "input", "999", side="both", **(key | other))
        number = book.price("llm", "input", str(order), side="both", **key)
        event = book.llm(s, input_tokens=1_000_000, output_tokens=0)
        book.rate()
        assert book.line(event)["charge"] == order, key
        assert book.line(event)["charge_price_ids"] == [number]


def test_sides_are_looked_up_separately(book: Book) -> None:
    book.price("llm", "input", "1", side="cost", provider="openai")
    book.price("llm", "input", "5", side="charge", account="a")
    book.price("llm", "output", "1", side="both")
    event = book.llm(book.session(account_id="a"), input_tokens=1_000_000, output_tokens=0)
    book.rate()
    assert (book.line(event)["cost"], book.line(event)["charge"]) == (1, 5)


def test_unnamed_provider_matches_any_only(book: Book) -> None:
    book.price("stt", "minutes", "1", unit=1, side="both", provider="deepgram")
    s = book.session(account_id="a")
    event = book.batch((s, "stt", {"audio_duration_ms": 60000}))[0]
    book.rate()
    assert book.line(event)["cost"] is None
    book.price("stt", "minutes", "2", unit=1, side="both")
    event = book.batch((s, "stt", {"audio_duration_ms": 60000}))[0]
    book.rate()
    assert book.line(event)["cost"] == 2


def test_price_applies_from_its_start_up_to_its_end(book: Book) -> None:
    turn = NOON + timedelta(minutes=1)
    book.price("llm", "input", "1", side="both", until=turn)
    book.price("llm", "input", "2", side="both", since=turn, until=turn + hours(1))
    book.price("llm", "output", "0", side="both")
    s = book.session(account_id="a")
    times = [turn - timedelta(microseconds=1), turn, turn + hours(1) - timedelta(microseconds=1), turn + hours(1)]
    events = book.batch(*((s, "llm", {"input_tokens": 1_000_000, "output_tokens": 0, "at": at}) for at in times))
    book.rate()
    assert [book.line(event)["charge"] for event in events] == [1, 2, 2, None]
    assert book.unrated()[events[3], "charge"] == "llm: no price of input"


def test_tier_applies_to_the_whole_event(book: Book) -> None:
    book.price("llm", "input", "1", side="both")
    book.price("llm", "input", "2", side="both", tier=128_000)
    book.price("llm", "input", "3", side="both", tier=200_000)
    book.price("llm", "output", "10", side="both")
    book.price("llm", "output", "20", side="both", tier=200_000)
    s = book.session(account_id="a")
    tokens = [128_000, 128_001, 200_000, 200_001]
    events = book.batch(*((s, "llm", {"input_tokens": n, "output_tokens": 1000}) for n in tokens))
    book.rate()
    expected = [n * i + 1000 * o for n, i, o in zip(tokens, (1, 2, 2, 3), (10, 10, 10, 20))]
    assert [book.line(event)["charge"] * 1_000_000 for event in events] == expected


def test_tier_of_a_nearer_price_does_not_hide_a_farther_one_below_it(book: Book) -> None:
    book.price("llm", "input", "1", side="both")
    book.price("llm", "input", "9", side="both", account="a", tier=1000)
    book.price("llm", "output", "0", side="both")
    s = book.session(account_id="a")
    events = book.batch(*((s, "llm", {"input_tokens": n, "output_tokens": 0}) for n in (1000, 1001)))
    book.rate()
    assert [book.line(event)["charge"] * 1_000_000 for event in events] == [1000, 9009]


def test_units_are_kept_as_given(book: Book) -> None:
    book.price("tts", "characters", "0.015", unit=1000, side="both", provider="eleven")
    book.price("tts", "audio_minutes", "0.60", unit=1, side="both", provider="cartesia")
    book.price("tts", "tokens", "12", side="both", provider="openai")
    book.price("stt", "seconds", "0.0001", unit=1, side="both", provider="assembly")
    book.price("stt", "minutes", "0.0043", unit=1, side="both", provider="deepgram")
    book.price("stt", "tokens", "6", side="both", provider="openai")
    book.price("meter", "did_month", "1.15", unit=1, side="both")
    book.price("meter", "sms", "7.9", unit=1000, side="both")
    s = book.session(account_id="a")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("tts", {"provider": "eleven", "char_count": 123, "audio_duration_ms": 1}, "0.001845"),
        ("tts", {"provider": "cartesia", "char_count": 9, "audio_duration_ms": 1000}, "0.01"),
        ("tts", {"provider": "openai", "char_count": 9, "input_tokens": 100, "output_tokens": 900}, "0.012"),
        ("stt", {"provider": "assembly", "audio_duration_ms": 1234.567}, "0.000123457"),
        ("stt", {"provider": "deepgram", "audio_duration_ms": 500.125}, "0.000035842"),
        ("stt", {"provider": "openai", "audio_duration_ms": 1, "input_tokens": 7}, "0.000042"),
        ("usage", {"meter": "did_month", "quantity": D("3")}, "3.45"),
        ("usage", {"meter": "sms", "quantity": D("1")}, "0.0079")]
    events = book.batch(*((s, kind, columns) for kind, columns, _ in cases))
    book.rate()
    for event, (_, columns, amount) in zip(events, cases):
        assert (book.line(event)["cost"], book.line(event)["charge"]) == (D(amount), D(amount)), columns
    assert book.line(events[6])["component"] == "meter" and book.line(events[6])["model"] == "did_month"
    book.check_rollup()


def test_quantity_that_the_price_wants_must_be_known(book: Book) -> None:
    book.price("tts", "audio_minutes", "1", unit=1, side="both")
    book.price("stt", "tokens", "1", unit=1, side="both")
    s = book.session(account_id="a")
    speech, text = book.batch((s, "tts", {"provider": "x", "char_count": 9}), (s, "stt", {"provider": "x", "audio_duration_ms": 1}))
    book.rate()
    assert book.unrated() == {(speech, "cost"): "tts: no audio_duration_ms", (speech, "charge"): "tts: no audio_duration_ms",
                              (text, "cost"): "stt: no tokens", (text, "charge"): "stt: no tokens"}
    assert book.line(speech)["cost"] is None


def test_telephony_counts_whole_increments_and_a_minimum(book: Book) -> None:
    book.price("telephony", "telephony_inbound", "0.60", unit=1, provider="carrier", minimum=60, increment=6)
    book.price("telephony", "telephony_inbound", "0.60", unit=1, side="charge", increment=60)
    book.price("telephony", "telephony_outbound", "0.60", unit=1, side="both")
    s = book.session(account_id="a")
    minutes = ["0", "0.1", "1", "1.0001", "1.1", "1.10000000000000000001", "2.05"]
    events = book.batch(*((s, "usage", {"provider": "carrier", "meter": "telephony_inbound", "quantity": D(m)}) for m in minutes))
    exact = book.batch((s, "usage", {"provider": "carrier", "meter": "telephony_outbound", "quantity": D("0.123456789")}))[0]
    book.rate()
    assert [book.line(event)["cost"] * 100 for event in events] == [0, 60, 60, 66, 66, 72, 126]
    assert [book.line(event)["charge"] * 100 for event in events] == [0, 60, 60, 120, 120, 120, 180]
    assert book.line(events[4])["quantities"] == {"quantity": 1.1, "billed_seconds": 120, "cost_billed_seconds": 66}
    assert (book.line(events[0])["component"], book.line(events[0])["model"]) == ("telephony", "telephony_inbound")
    assert book.line(exact)["cost"] == D("0.074074073")  # 0.0740740734
    book.check_rollup()


def test_cost_is_converted_by_the_rate_of_its_time(book: Book) -> None:
    turn = NOON + timedelta(minutes=1)
    book.rate_of("USD", "RUB", "90.123456789", until=turn)
    book.rate_of("USD", "RUB", "100", since=turn, until=turn + hours(1))
    book.account("a", currency="RUB")
    book.price("llm", "input", "2.5")
    book.price("llm", "output", "10")
    book.price("llm", "input", "3", side="charge", currency="RUB")
    book.price("llm", "output", "3", side="charge", currency="RUB")
    s = book.session(account_id="a")
    events = book.batch(*((s, "llm", {"input_tokens": 1, "output_tokens": 0, "at": at}) for at in (NOON, turn, turn + hours(2))))
    book.rate()
    first, second, third = map(book.line, events)
    assert (first["cost_original"], first["cost_currency"], first["cost"], first["currency"]) == (D("0.0000025"), "USD", D("0.000225309"), "RUB")
    assert second["cost"] == D("0.00025")
    assert (third["cost"], third["cost_original"], third["charge"]) == (None, None, D("0.000003"))
    assert book.unrated() == {(events[2], "cost"): "llm: no rate of USD to RUB"}


def test_prices_of_one_side_have_one_currency(book: Book) -> None:
    book.price("llm", "input", "1", currency="EUR")
    book.price("llm", "output", "1")
    s = book.session(account_id="a")
    mixed = book.llm(s, input_tokens=1, output_tokens=1)
    single = book.llm(s, input_tokens=0, output_tokens=1)
    book.rate()
    assert book.unrated()[mixed, "cost"] == "llm: prices in several currencies: EUR, USD"
    assert book.line(single)["cost"] == D("0.000001")


def test_markup_applies_where_nothing_is_charged_by_price(book: Book) -> None:
    book.account("a", markup_percent=D("12.5"))
    book.price("stt", "minutes", "0.0077", unit=1)
    book.price("llm", "input", "1")
    book.price("llm", "output", "1")
    book.price("llm", "output", "1", side="charge")
    s = book.session(account_id="a")
    marked, charged, unknown = book.batch(
        (s, "stt", {"audio_duration_ms": 500.125}), (s, "llm", {"input_tokens": 5, "output_tokens": 5}),
        (s, "tts", {"char_count": 3}))
    book.rate()
    assert book.line(marked)["cost"] == D("0.000064183")
    # From the exact cost, 0.0000641827083..., not from the rounded one.
    assert book.line(marked)["charge"] == D("0.000072206")
    assert book.line(marked)["charge_price_ids"] == []
    assert book.unrated() == {(charged, "charge"): "llm: no price of input", (unknown, "cost"): "tts: no price",
                              (unknown, "charge"): "tts: no price, and no cost to mark up"}


def test_withdrawn_price_does_not_apply(book: Book) -> None:
    near = book.price("llm", "input", "5", side="both", provider="openai")
    book.price("llm", "input", "1", side="both")
    book.price("llm", "output", "1", side="both")
    book.db.execute("SELECT withdraw_price(%s, 'wrong')", near)
    event = book.llm(book.session(account_id="a"), input_tokens=1_000_000, output_tokens=0)
    book.rate()
    assert (book.line(event)["cost"], book.line(event)["charge"]) == (5, 1)


def test_batch_whose_numbers_are_not_known_is_found_all_the_same(book: Book) -> None:
    book.price("llm", "input", "1", side="both")
    book.price("llm", "output", "1", side="both")
    s = book.session(account_id="a")
    events = book.batch(*((s, "llm", {"input_tokens": n, "output_tokens": 0}) for n in (1, 2, 3)), known=False)
    # One whose numbers lie far apart, for its connection rested among them.
    book.db.execute("SELECT setval('billing_events_id_seq', 10000000)")
    book.db.execute("UPDATE toll.batches SET first_event_id = %s, last_event_id = 10000000", events[0])
    assert book.rate() == 3
    assert len(book.lines()) == 3


def test_what_was_rated_is_not_rated_again(book: Book) -> None:
    book.price("llm", "input", "1", side="both")
    book.price("llm", "output", "1", side="both")
    s = book.session(account_id="a")
    for _ in range(5):
        book.batch(*((s, "llm", {"input_tokens": 1, "output_tokens": 0}) for _ in range(4)))
    assert book.db.query("SELECT events, lines, more FROM toll.rate_next(%s, 0, 5)", str(JOURNAL)) == [(8, 8, True)]
    assert book.rate(most=1) == 12
    assert book.rate() == 0
    assert book.db.query("SELECT lsn, events FROM toll.rating_progress") == [(500, 20)]
    assert len(book.lines()) == 20
    book.check_rollup()


def test_the_daemons_rating_does_not_wait_for_the_disk(book: Book) -> None:
    """Else each cut-off would: see toll.rate_free()."""
    book.batch((book.session(account_id="a"), "llm", {"input_tokens": 1, "output_tokens": 0}))
    connection = book.db.connect()
    try:
        with connection.cursor() as cursor:
            seen = []
            for statement in ("SHOW synchronous_commit", "BEGIN", f"SELECT events FROM toll.rate_free('{JOURNAL}', 0, 5)", "SHOW synchronous_commit",
                              "COMMIT", "SHOW synchronous_commit"):
                cursor.execute(statement)
                seen += [row[0] for row in cursor.fetchall()] if cursor.description else []
        assert seen == ["on", 1, "off", "on"]
    finally:
        connection.close()
