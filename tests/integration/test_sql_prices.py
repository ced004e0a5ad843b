"""The price book and accounts in SQL: what set_price() and its kin do, and everything they refuse."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Iterator

import psycopg2
import pytest

from harness import Cluster, Database

GPT = dict(component="llm", provider="openai", model="gpt-4o", dimension="input", side="cost", price="2.5", unit_quantity="1000000",
           currency="USD", valid_from="2026-01-01")
TTS = GPT | dict(component="tts", model="tts-1", dimension="characters", price="15")


@pytest.fixture(scope="module")
def shared(cluster: Cluster, migrated: Database) -> Iterator[Database]:
    """For what is refused and so changes nothing: one price, one account."""
    made = cluster.create_database(migrated)
    set_price(made)
    call(made, "create_account", account_id="u_1")
    yield made
    made.drop()


def call(database: Database, function: str, **arguments: Any) -> Any:
    words = ", ".join(f"{name} => {'%s'}" for name in arguments)
    return database.value(f"SELECT {function}({words})", *arguments.values())


def set_price(database: Database, like: dict[str, Any] = GPT, **changes: Any) -> int:
    given = like | changes
    given["price"] = Decimal(given["price"]) if given["price"] is not None else None
    return call(database, "set_price", **given)


def book(database: Database) -> list[tuple[Any, ...]]:
    return database.query("SELECT price_id, price, lower(valid)::date::text, upper(valid)::date::text FROM pricing_config ORDER BY price_id")


def test_price_ends_its_open_predecessor(db: Database) -> None:
    first, second = set_price(db), set_price(db, price="2.4", valid_from="2026-02-01")
    assert book(db) == [(first, Decimal("2.5"), "2026-01-01", "2026-02-01"), (second, Decimal("2.4"), "2026-02-01", None)]
    third = set_price(db, price="1", valid_from="2026-03-01", valid_until="2026-04-01")
    assert book(db)[1:] == [(second, Decimal("2.4"), "2026-02-01", "2026-03-01"), (third, Decimal(1), "2026-03-01", "2026-04-01")]


def test_price_keeps_its_digits_and_its_unit(db: Database) -> None:
    set_price(db, price="0.000000123456789012345678901234", unit_quantity="1")
    set_price(db, price="2.50", dimension="output")
    assert [row[0] for row in db.query("SELECT price || ' ' || unit_quantity FROM pricing_config ORDER BY price_id")] == [
        "0.000000123456789012345678901234 1", "2.50 1000000"]


@pytest.mark.parametrize("start, end", [("2026-01-15", None), ("2026-01-01", None), ("2025-12-01", None), ("2025-12-01", "2026-01-02"),
                                        ("2026-02-01", None), ("2025-01-01", "2027-01-01")])
def test_overlap_is_refused_with_both_rows(db: Database, start: str, end: str | None) -> None:
    set_price(db)
    set_price(db, price="2.4", valid_from="2026-02-01")
    with pytest.raises(psycopg2.errors.ExclusionViolation) as refused:
        set_price(db, price="9.9", valid_from=start, valid_until=end)
    assert "would overlap price" in str(refused.value) and "withdraw_price(" in str(refused.value)
    assert "the new one: cost of llm openai gpt-4o, input: 9.9 USD per 1000000" in str(refused.value)
    assert "cost of llm openai gpt-4o, input: 2." in str(refused.value).split("the new one")[0]
    assert len(book(db)) == 2


def test_prices_side_by_side(db: Database) -> None:
    """What differs in any part of the key is another price."""
    call(db, "create_plan", plan_id="pro")
    for number, change in enumerate([{}, {"side": "charge"}, {"provider": "azure"}, {"model": "*"}, {"variant": "voice"}, {"dimension": "output"},
                                     {"tier_above": 128000}, {"scope_kind": "account", "scope_id": "u_42"},
                                     {"scope_kind": "plan", "scope_id": "pro"}], 1):
        set_price(db, **change)
        assert len(book(db)) == number
    set_price(db, valid_from="2025-01-01", valid_until="2026-01-01")  # half-open: they touch


def test_withdrawn_price_makes_room(db: Database) -> None:
    wrong = set_price(db)
    db.execute("SELECT withdraw_price(%s, 'a slip of the pen')", wrong)
    set_price(db, price="2.6")
    assert db.query("SELECT withdrawn_reason, withdrawn_by = session_user, withdrawn_at IS NOT NULL FROM pricing_config WHERE price_id = %s",
                    wrong) == [("a slip of the pen", True, True)]
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="already"):
        db.execute("SELECT withdraw_price(%s, 'again')", wrong)
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="say why"):
        db.execute("SELECT withdraw_price(%s, ' ')", wrong)
    with pytest.raises(psycopg2.errors.NoDataFound, match="there is no price 999"):
        db.execute("SELECT withdraw_price(999, 'why')")


def test_end_price(db: Database) -> None:
    price = set_price(db)
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="must be after"):
        db.execute("SELECT end_price(%s, '2026-01-01')", price)
    db.execute("SELECT end_price(%s, '2026-05-01')", price)
    assert book(db) == [(price, Decimal("2.5"), "2026-01-01", "2026-05-01")]
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="has an end already"):
        db.execute("SELECT end_price(%s, '2026-06-01')", price)
    with pytest.raises(psycopg2.errors.NoDataFound):
        db.execute("SELECT end_price(999, '2026-06-01')")


@pytest.mark.parametrize("change, message", [
    ({"price": "NaN"}, "price NaN is no number"), ({"price": "Infinity"}, "is no number"), ({"price": "-0.01"}, "price -0.01 is negative"),
    ({"price": "1e12"}, "1000000000000 or more"), ({"price": "1e-31"}, "more than 30 decimals"), ({"price": None}, "price is missing"),
    ({"unit_quantity": "0"}, "unit_quantity 0 is not"), ({"unit_quantity": "-1"}, "unit_quantity -1"), ({"unit_quantity": "0.5"}, "unit_quantity 0.5"),
    ({"unit_quantity": "NaN"}, "unit_quantity NaN"), ({"unit_quantity": "1e13"}, "unit_quantity"), ({"unit_quantity": None}, "is missing"),
    ({"currency": "usd"}, "currency 'usd'"), ({"currency": "US"}, "currency"), ({"currency": ""}, "currency is missing"),
    ({"component": "gpu"}, "component 'gpu' is none of"), ({"component": None}, "component is missing"), ({"side": "both"}, "side 'both'"),
    ({"dimension": "characters"}, "dimension 'characters' is none of"), ({"dimension": ""}, "dimension is missing"),
    ({"provider": ""}, "provider is missing"), ({"model": None}, "model is missing"), ({"model": "m" * 257}, "longer than 256 bytes"),
    ({"variant": "nova"}, "neither voice nor text"), ({"tier_above": -1}, "tier_above -1"), ({"tier_above": None}, "tier_above"),
    ({"minimum_seconds": 60}, "only telephony"), ({"scope_kind": "team"}, "scope_kind 'team'"), ({"scope_id": "u_42"}, "for everybody"),
    ({"scope_kind": "account"}, "must name the account"), ({"scope_kind": "plan", "scope_id": "nix"}, "there is no plan 'nix'"),
    ({"valid_from": None}, "valid_from is missing"), ({"valid_from": "-infinity"}, "valid_from is missing"),
    ({"valid_until": "2026-01-01"}, "is not after"), ({"valid_until": "2025-01-01"}, "is not after"),
    ({"component": "tts", "dimension": "characters", "tier_above": 1}, "only llm prices"),
    ({"component": "telephony", "dimension": "telephony_inbound", "increment_seconds": 86401}, "from 0 to 86400"),
    ({"component": "tariff", "dimension": "minutes"}, "its side is charge"),
    ({"component": "tariff", "dimension": "minutes", "side": "charge"}, "provider and model are"),
    ({"component": "meter", "dimension": "telephony_inbound"}, "component telephony"),
])
def test_bad_price_is_refused(shared: Database, change: dict[str, Any], message: str) -> None:
    before = book(shared)
    with pytest.raises(psycopg2.errors.InvalidParameterValue) as refused:
        set_price(shared, **change)
    assert message in str(refused.value)
    assert book(shared) == before


def test_price_of_zero_is_a_price(db: Database) -> None:
    set_price(db, price="0")
    assert book(db)[0][1] == 0


def test_two_units_of_one_synthesis_are_refused(db: Database) -> None:
    by_characters = set_price(db, TTS)
    for changes in ({"dimension": "audio_minutes"}, {"dimension": "tokens", "valid_from": "2027-01-01"}, {"dimension": "tokens", "variant": "alloy"},
                    {"dimension": "audio_minutes", "scope_kind": "account", "scope_id": "u_42"}):
        with pytest.raises(psycopg2.errors.ExclusionViolation) as refused:
            set_price(db, TTS, **changes)
        assert f"billed by characters already (price {by_characters})" in str(refused.value) and "the new one: cost of tts" in str(refused.value)
    set_price(db, TTS, dimension="audio_minutes", side="charge")  # bought by the character, sold by the minute
    set_price(db, TTS, dimension="audio_minutes", model="tts-2")
    db.execute("SELECT end_price(%s, '2026-07-01')", by_characters)
    set_price(db, TTS, dimension="audio_minutes", valid_from="2026-07-01")


def test_two_units_of_one_transcription_are_refused(db: Database) -> None:
    set_price(db, component="stt", dimension="minutes")
    with pytest.raises(psycopg2.errors.ExclusionViolation, match="by seconds as well"):
        set_price(db, component="stt", dimension="seconds")


@pytest.mark.parametrize("sql", [
    "UPDATE pricing_config SET price = 3", "UPDATE pricing_config SET price = 2.50", "UPDATE pricing_config SET valid = tstzrange('2025-01-01', NULL)",
    "UPDATE pricing_config SET valid = tstzrange('2025-01-01', '2027-01-01')", "UPDATE pricing_config SET withdrawn_at = now(), price = 3",
    "UPDATE pricing_config SET source = 'x'", "DELETE FROM pricing_config", "TRUNCATE pricing_config", "TRUNCATE pricing_config CASCADE",
])
@pytest.mark.parametrize("role", ["origin", "replica"])
def test_prices_stay_as_they_are(shared: Database, sql: str, role: str) -> None:
    with pytest.raises(psycopg2.errors.RestrictViolation, match="prices stay as they are"):
        shared.execute(f"SET session_replication_role = {role}; {sql}")
    assert book(shared) == [(1, Decimal("2.5"), "2026-01-01", None)]


def test_ended_and_withdrawn_prices_stay_so(db: Database) -> None:
    first = set_price(db)
    second = set_price(db, price="2", valid_from="2026-02-01")
    db.execute("SELECT withdraw_price(%s, 'why')", second)
    for sql in (f"UPDATE pricing_config SET valid = tstzrange('2026-01-01', NULL) WHERE price_id = {first}",
                f"UPDATE pricing_config SET valid = tstzrange('2026-01-01', '2026-01-05') WHERE price_id = {first}",
                f"UPDATE pricing_config SET withdrawn_at = NULL, withdrawn_by = NULL, withdrawn_reason = NULL WHERE price_id = {second}",
                f"UPDATE pricing_config SET withdrawn_reason = 'another' WHERE price_id = {second}",
                f"UPDATE pricing_config SET valid = tstzrange('2026-02-01', '2026-03-01') WHERE price_id = {second}"):
        with pytest.raises(psycopg2.errors.RestrictViolation):
            db.execute(sql)


def test_fx_rates(db: Database) -> None:
    first = call(db, "set_fx_rate", from_currency="USD", to_currency="RUB", rate=Decimal("90.5"), valid_from="2026-01-01")
    call(db, "set_fx_rate", from_currency="RUB", to_currency="USD", rate=Decimal("0.011"), valid_from="2026-01-01", source="a bank")
    call(db, "set_fx_rate", from_currency="USD", to_currency="RUB", rate=Decimal("91"), valid_from="2026-02-01")
    assert db.query("SELECT rate, upper(valid)::date::text FROM fx_rates ORDER BY fx_rate_id") == [
        (Decimal("90.5"), "2026-02-01"), (Decimal("0.011"), None), (Decimal(91), None)]
    with pytest.raises(psycopg2.errors.ExclusionViolation, match=f"would overlap rate {first}"):
        call(db, "set_fx_rate", from_currency="USD", to_currency="RUB", rate=Decimal(1), valid_from="2026-01-15")
    for change in ({"rate": Decimal(0)}, {"rate": Decimal(-1)}, {"rate": Decimal("NaN")}, {"rate": None}, {"to_currency": "USD"}, {"to_currency": "eu"},
                   {"from_currency": None}, {"valid_from": None}, {"valid_from": "infinity"}):
        with pytest.raises(psycopg2.errors.InvalidParameterValue):
            call(db, "set_fx_rate", **({"from_currency": "USD", "to_currency": "EUR", "rate": Decimal(1), "valid_from": "2026-01-01"} | change))


# --- accounts ---

def account(database: Database, name: str, columns: str) -> tuple[Any, ...]:
    return database.query(f"SELECT {columns} FROM accounts WHERE account_id = %s", name)[0]


def test_account_has_the_defaults(db: Database) -> None:
    db.execute("UPDATE toll.rating_settings SET default_currency = 'RUB', default_time_zone = 'Asia/Kolkata', default_charge_by = 'minutes',"
               " default_tariff_id = 'std', trial_days = 14, trial_allowance = 100")
    assert call(db, "create_account", account_id="u_1") == "u_1"
    assert account(db, "u_1", "plan_id, currency, time_zone, charge_by, tariff_id, trial_allowance, trial_ends_at - created_at = interval '14 days',"
                   " trial_used, markup_percent") == ("basic", "RUB", "Asia/Kolkata", "minutes", "std", 100, True, 0, None)
    call(db, "create_account", account_id="u_2", name="Ada", currency="EUR", time_zone="Europe/Berlin", charge_by="usage", tariff_id="gold",
         markup_percent=Decimal("12.5"))
    assert account(db, "u_2", "name, currency, time_zone, charge_by, tariff_id, markup_percent") == (
        "Ada", "EUR", "Europe/Berlin", "usage", "gold", Decimal("12.5"))


@pytest.mark.parametrize("given, message", [
    ({"account_id": ""}, "an account's id"), ({"account_id": None}, "an account's id"), ({"account_id": "x" * 257}, "an account's id"),
    ({"plan_id": "nix"}, "there is no plan 'nix'"), ({"currency": "euro"}, "currency 'euro'"), ({"time_zone": "Mars/Olympus"}, "time zone"),
    ({"charge_by": "luck"}, "charge_by 'luck'"), ({"tariff_id": ""}, "tariff"), ({"markup_percent": Decimal("NaN")}, "a markup"),
    ({"markup_percent": Decimal(-101)}, "a markup"), ({"markup_percent": Decimal(1000001)}, "a markup"),
])
def test_bad_account_is_refused(shared: Database, given: dict[str, Any], message: str) -> None:
    with pytest.raises(psycopg2.errors.InvalidParameterValue) as refused:
        call(shared, "create_account", **({"account_id": "u_2"} | given))
    assert message in str(refused.value)
    assert shared.value("SELECT count(*) FROM accounts") == 1


def test_account_is_made_once(db: Database) -> None:
    call(db, "create_account", account_id="u_1", name="first")
    with pytest.raises(psycopg2.errors.UniqueViolation, match="there is an account 'u_1' already"):
        call(db, "create_account", account_id="u_1", name="second")
    assert account(db, "u_1", "name") == ("first",)


def test_account_changes(db: Database) -> None:
    call(db, "create_account", account_id="u_1")
    call(db, "create_plan", plan_id="pro", name="Professional")
    call(db, "set_plan", account_id="u_1", plan_id="pro")
    call(db, "set_scheme", account_id="u_1", charge_by="prepaid_minutes", tariff_id="std")
    call(db, "set_scheme", account_id="u_1", charge_by="plan")
    call(db, "set_markup", account_id="u_1", markup_percent=Decimal("7.5"))
    db.execute("UPDATE accounts SET trial_used = 3")
    call(db, "start_trial", account_id="u_1", ends_at="2030-01-01", allowance=Decimal("5.000000001"))
    assert account(db, "u_1", "plan_id, charge_by, tariff_id, markup_percent, trial_ends_at::date::text, trial_allowance, trial_used") == (
        "pro", "plan", "std", Decimal("7.5"), "2030-01-01", Decimal("5.000000001"), 0)


@pytest.mark.parametrize("function, given", [
    ("set_plan", {"plan_id": "nix"}), ("set_plan", {"plan_id": None}), ("set_scheme", {"charge_by": "luck"}), ("set_scheme", {"charge_by": None}),
    ("start_trial", {"ends_at": None}), ("start_trial", {"ends_at": "infinity"}), ("start_trial", {"ends_at": "2030-01-01", "allowance": Decimal(-1)}),
    ("start_trial", {"ends_at": "2030-01-01", "allowance": Decimal("NaN")}), ("start_trial", {"ends_at": "2030-01-01", "allowance": Decimal("1e30")}),
    ("start_trial", {"ends_at": "2030-01-01", "allowance": Decimal("1e-10")}), ("set_markup", {"markup_percent": Decimal("NaN")}),
    ("set_markup", {"markup_percent": Decimal("1e9")}),
])
def test_bad_change_is_refused(shared: Database, function: str, given: dict[str, Any]) -> None:
    before = shared.query("SELECT * FROM accounts")
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="toll: "):
        call(shared, function, account_id="u_1", **given)
    assert shared.query("SELECT * FROM accounts") == before


@pytest.mark.parametrize("sql", ["set_plan('nobody', 'basic')", "set_scheme('nobody', 'usage')", "start_trial('nobody', '2030-01-01')",
                                 "set_markup('nobody', 1)", "set_quota('nothing', 'sms', 1, 1)", "set_plan(NULL, 'basic')"])
def test_what_is_not_there_is_named(shared: Database, sql: str) -> None:
    with pytest.raises(psycopg2.errors.NoDataFound, match="toll: there is no (account|plan) ('nobody'|'nothing'|NULL)"):
        shared.execute(f"SELECT {sql}")


def test_quotas(db: Database) -> None:
    call(db, "create_plan", plan_id="pro")
    db.execute("SELECT set_quota('pro', 'sms', 100, 0.75), set_quota('pro', 'api_call', 5, 1, 10)")
    db.execute("SELECT set_quota('pro', 'sms', 200, 0.5, 1000)")
    assert db.query("SELECT event_type, included_quantity, overage_price_cents, quota_limit FROM usage_quotas WHERE plan_id = 'pro' ORDER BY 1") == [
        ("api_call", 5, 1, 10), ("sms", 200, Decimal("0.5"), 1000)]
    for arguments in ("'pro', '', 1, 1", "'pro', 'sms', -1, 1", "'pro', 'sms', 1, 'NaN'", "'pro', 'sms', 1, 1, -1", "'pro', 'sms', NULL, 1"):
        with pytest.raises(psycopg2.errors.InvalidParameterValue):
            db.execute(f"SELECT set_quota({arguments})")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        db.execute("SELECT create_plan('pro')")


def test_billing_role_uses_functions_only(db: Database) -> None:
    """toll_billing sets prices and makes accounts by the functions, and can't write the tables."""
    connection = db.connect()
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE toll_billing")
        cursor.execute("SELECT set_price('llm', 'a', 'b', 'input', 'cost', 1, 1, 'USD', '2026-01-01'), create_account('u_1'),"
                       " set_fx_rate('USD', 'EUR', 0.9, '2026-01-01'), (SELECT count(*) FROM toll.import_price_list('{}'))")
        for sql in ("INSERT INTO accounts SELECT * FROM accounts", "UPDATE pricing_config SET price = 1", "DELETE FROM fx_rates",
                    "SELECT withdraw_price(1, 'x') FROM pricing_config FOR UPDATE"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(sql)
    connection.close()
