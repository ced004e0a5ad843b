"""tollctl prices: lists in both formats, all or nothing, exact, and what it says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import BUILD, ROOT, SLOWNESS, Database  # noqa: E402
from rating import NOON, Book, hours  # noqa: E402

HEADER = "component,provider,model,dimension,side,price,unit_quantity,currency,valid_from"
GOOD = f"""# prices of a test
{HEADER}
llm,openai,gpt-4o,input,cost,2.50,1000000,USD,2026-01-01
llm,openai,gpt-4o,output,cost,10.00,1000000,USD,2026-01-01

tts,openai,"tts-1",characters,cost,15,1000000,USD,2026-01-01
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctl(db: Database) -> Run:
    """tollctl on the test's database; text: what is on standard input."""
    def run(*words: str | Path, status: int = 0, text: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run([BUILD / "tollctl", *words], input=text, env=os.environ | {"DATABASE_URL": db.dsn}, capture_output=True, text=True,
                              timeout=60 * SLOWNESS)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done
    return run


def book(database: Database, columns: str = "component, provider, model, dimension, tier_above, side, price, unit_quantity::int") -> Any:
    return database.query(f"SELECT {columns} FROM pricing_config ORDER BY component, provider, model, dimension, tier_above, side, valid")


def price_list(**models: dict[str, Any]) -> str:
    """Numbers are given as text, to be written as they are."""
    body = {name: {key: f"<{value}>" if isinstance(value, str) and key not in ("litellm_provider", "mode") else value
                   for key, value in model.items()} for name, model in models.items()}
    return json.dumps(body).replace('"<', "").replace('>"', "")


# --- a table ---

def test_import_twice_changes_nothing(db: Database, ctl: Run) -> None:
    first = ctl("prices", "import", "-", text=GOOD)
    assert first.stdout.splitlines()[0] == ("new      cost of llm openai gpt-4o, input: 2.50 USD per 1000000, for everybody,"
                                            " from 2026-01-01 00:00:00+00 on")
    assert first.stdout.splitlines()[-1] == "3 new, 0 changed, of which the predecessor ends, 0 unchanged"
    before = db.query("SELECT * FROM pricing_config")
    assert len(before) == 3
    assert ctl("prices", "import", "-", text=GOOD).stdout == "0 new, 0 changed, of which the predecessor ends, 3 unchanged\n"
    assert db.query("SELECT * FROM pricing_config") == before


def test_dry_run_shows_and_changes_nothing(db: Database, ctl: Run) -> None:
    wet, dry = (ctl("prices", "import", "-", *words, text=GOOD).stdout for words in ([], ["--dry-run"]))
    assert dry == "0 new, 0 changed, of which the predecessor ends, 3 unchanged. A dry run: nothing was changed\n" != wet
    before = db.query("SELECT * FROM pricing_config")
    changed = GOOD.replace("2.50", "2.40").replace("2026-01-01", "2026-02-01")
    shown = ctl("prices", "import", "-", "--dry-run", text=changed).stdout
    assert "changed  cost of llm openai gpt-4o, input: 2.40" in shown and "; ends price 1\n" in shown and "0 new, 1 changed" in shown
    assert db.query("SELECT * FROM pricing_config") == before
    ctl("prices", "import", "-", text=changed)
    assert book(db, "price, upper(valid)::date::text") == [
        (Decimal("2.5"), "2026-02-01"), (Decimal("2.4"), None), (Decimal(10), None), (Decimal(15), None)]


def test_one_bad_row_changes_nothing_and_is_named(db: Database, ctl: Run) -> None:
    good = "llm,openai,gpt-4o,input,cost,2.5,1,USD,2026-01-01\n"
    for row, said in [("llm,openai,gpt-4o,output,cost,two,1,USD,2026-01-01", 'line 3: price: invalid input syntax for type numeric: "two"'),
                      ("llm,openai,gpt-4o,output,cost,-2,1,USD,2026-01-01", "line 3: price -2 is negative"),
                      ("llm,openai,gpt-4o,output,cost,NaN,1,USD,2026-01-01", "line 3: price NaN is no number"),
                      ("llm,openai,gpt-4o,output,cost,,1,USD,2026-01-01", "line 3: price is missing"),
                      ("llm,openai,gpt-4o,output,cost,1e12,1,USD,2026-01-01", "line 3: price is 1000000000000 or more"),
                      ("llm,openai,gpt-4o,output,cost,1,1,USD,yesterday-ish", "line 3: valid: invalid input syntax"),
                      ("llm,openai,gpt-4o,output,cost,1,1,,2026-01-01", "line 3: currency is missing"),
                      ("llm,openai,gpt-4o,input,cost,9,1,USD,2026-01-01", "line 3: this price would overlap price"),
                      ("llm,openai,gpt-4o,output,cost,1,1,USD", "line 3: fewer cells than columns"),
                      ("llm,openai,gpt-4o,output,cost,1,1,USD,2026-01-01,x", "line 3: more cells than columns"),
                      ('llm,openai,"gpt-4o,output,cost,1,1,USD,2026-01-01', "line 3: a cell's closing quotation mark is missing"),
                      ('llm,openai,"gpt"-4o,output,cost,1,1,USD,2026-01-01', "line 3: something follows"),
                      ('llm,openai,gpt"4o,output,cost,1,1,USD,2026-01-01', "line 3: a quotation mark within a cell")]:
        done = ctl("prices", "import", "-", text=f"{HEADER}\n{good}{row}\n", status=1)
        assert said in done.stderr, (row, done.stderr)
        assert done.stdout == "" and book(db) == []
    done = ctl("prices", "import", "-", text=f"{HEADER}\n{good}\n# more\nllm,openai,a,b,cost,1,1,USD,2026-01-01\n" + good.replace("2.5", "3"), status=1)
    assert "2 of 3 prices are refused, so nothing was changed" in done.stderr
    assert "line 5: dimension 'b'" in done.stderr and "line 6: this price would overlap" in done.stderr
    assert "the new one: cost of llm openai gpt-4o, input: 3 USD" in done.stderr and "input: 2.5 USD" in done.stderr


@pytest.mark.parametrize("text, said", [
    ("", "no header"), ("# nothing\n\n", "no header"), ("component,provider,component\n", "line 1: two columns have the same name"),
    ("component,model\n", "there is no row below the header; nothing was changed"), ("42", "no row below the header"),
    ("component;model\nllm;m\n", "cells are separated by commas"), ("component,model\rllm,m\r", "line 1: a carriage return without a line feed"),
    ("\ufeff[1]", "a price list is an object"), ("component,,model\n", "line 1: a column's name is empty"), ("pirce,component\n3,llm\n", "a price has no 'pirce'"),
    ("[1, 2]", "a price list is an object"), ("{", "invalid input syntax for type json"), ('{"a": NaN}', "JSON data, line 1"),
])
def test_bad_file_is_refused(ctl: Run, text: str, said: str) -> None:
    assert said in ctl("prices", "import", "-", text=text, status=1).stderr


def test_file_is_missing_or_no_text(db: Database, ctl: Run, scratch: Path) -> None:
    assert "No such file" in ctl("prices", "import", scratch / "none", status=1).stderr
    (scratch / "bytes").write_bytes(b"component,price\nllm,\0\n")
    assert "neither CSV nor JSON" in ctl("prices", "import", scratch / "bytes", status=1).stderr
    (scratch / "latin").write_bytes(b"component,price\nllm\xe9,1\n")
    assert "UTF-8" in ctl("prices", "import", scratch / "latin", status=1).stderr
    assert book(db) == []


def test_table_of_all_columns(db: Database, ctl: Run) -> None:
    """Also with CR LF, a byte order mark, quotation marks, line breaks in cells, and a history in any order."""
    ctl("prices", "import", "-", text="\ufeffcomponent,model,scope_kind,scope_id,variant,dimension,tier_above,side,price,unit_quantity,currency,minimum_seconds,"
        "increment_seconds,valid_from,valid_until,source,source_date\r\n"
        "telephony,*,account,u_42,,telephony_inbound,,charge,0.0085,1,USD,60,6,2026-02-01,,,\r\n"
        'telephony,*,account,u_42,,telephony_inbound,0,charge,0.008,1,USD,60,60,2026-01-01T00:00:00+01:00,,"a ""long""\nname",2025-12-31\r\n'
        "llm,m,,,voice,input,128000,cost,1e-7,1,USD,,,2026-01-01,2026-03-01,,\r\n")
    assert book(db, "provider, model, scope_kind || ':' || scope_id, variant, tier_above, price::text, minimum_seconds, increment_seconds,"
                " valid::text, source, source_date::text") == [
        ("*", "m", "default:*", "voice", 128000, "0.0000001", 0, 0, '["2026-01-01 00:00:00+00","2026-03-01 00:00:00+00")', None, None),
        ("*", "*", "account:u_42", "*", 0, "0.008", 60, 60, '["2025-12-31 23:00:00+00","2026-02-01 00:00:00+00")', 'a "long"\nname', "2025-12-31"),
        ("*", "*", "account:u_42", "*", 0, "0.0085", 60, 6, '["2026-02-01 00:00:00+00",)', None, None)]


def test_dump_of_the_book_is_a_list(cluster: Any, db: Database, ctl: Run) -> None:
    """What COPY makes of the table goes into an empty one: the same prices, without those that were withdrawn."""
    ctl("prices", "import", "-", text=GOOD)
    ctl("prices", "set", "llm", "openai", "gpt-4o", "input", "2.4", "--per", "1000000", "--from", "2026-05-01")
    ctl("prices", "withdraw", "3", "--reason", "wrong")
    dump = cluster.psql("COPY (SELECT * FROM pricing_config ORDER BY price_id DESC) TO STDOUT WITH (FORMAT csv, HEADER)", db.name)
    before = book(db, "provider, model, dimension, price, valid")
    db.execute("ALTER TABLE pricing_config DISABLE TRIGGER USER; TRUNCATE pricing_config; ALTER TABLE pricing_config ENABLE ALWAYS TRIGGER guard")
    assert "3 new, 0 changed, of which the predecessor ends, 0 unchanged, 1 passed over, as they were withdrawn" in ctl(
        "prices", "import", "-", text=dump + "\n").stdout
    assert book(db, "provider, model, dimension, price, valid") == [row for row in before if row[1] != "tts-1"]


def test_options_of_import(db: Database, ctl: Run) -> None:
    ctl("prices", "import", "-", "--from", "2025-06-01", "--side", "charge", text=GOOD)
    assert book(db, "side, lower(valid)::date::text") == [("charge", "2025-06-01")] * 3
    assert "its currency is USD, and not EUR" in ctl("prices", "import", "-", "--currency", "EUR", text=GOOD, status=1).stderr
    bare = "component,model,dimension,price,unit_quantity\nllm,m,input,1,1\n"
    ctl("prices", "import", "-", "--currency", "EUR", text=bare)
    assert db.query("SELECT currency, side, provider, now() - lower(valid) < interval '5 minutes' FROM pricing_config WHERE model = 'm'") == [
        ("EUR", "cost", "*", True)]
    for words, said in [(["--side", "both"], "side 'both'"), (["--markup", "NaN"], "a markup is from"),
                        (["--markup", "-101"], "a markup is from"), (["--markup", "5", "--side", "cost"], "not cost"),
                        (["--currency", "dollars"], "currency 'dollars'"), ([], "line 2: currency is missing")]:
        assert said in ctl("prices", "import", "-", *words, text=bare if not words or "--currency" in words else GOOD, status=1).stderr
    assert "--from: neither a time" in ctl("prices", "import", "-", "--from", "soon", text=bare, status=2).stderr


def test_markup_is_exact(db: Database, ctl: Run) -> None:
    prices = ["0.1", "2.50", "0.000000123456789012", "99999999999", "0", "0.07"]
    table = f"{HEADER}\n" + "".join(f"llm,p,m{n},input,cost,{price},1,USD,DAY\n" for n, price in enumerate(prices))
    for day, markup in enumerate(("12.5", "0", "33.333333333", "-100", "0.000000001"), 1):
        ctl("prices", "import", "-", "--markup", markup, text=table.replace("DAY", f"2026-01-{day:02}"))
        assert db.query("SELECT side, price FROM pricing_config WHERE upper_inf(valid) ORDER BY model") == [
            ("charge", Decimal(price) * (100 + Decimal(markup)) / 100) for price in prices], markup


# --- the shared JSON list ---

GPT_4O = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "2.5e-06", "output_cost_per_token": "1e-05",
          "cache_read_input_token_cost": "1.25e-06"}


def test_list_is_mapped(db: Database, ctl: Run) -> None:
    text = price_list(
        sample_spec={"litellm_provider": "one of", "mode": "chat", "input_cost_per_token": "0.5"},
        **{"gpt-4o": GPT_4O | {"max_tokens": 16384, "supports_vision": True, "input_cost_per_token_batches": "1.25e-06",
                               "output_cost_per_token_priority": "1.7e-05"},
           "gemini/flash": {"litellm_provider": "gemini", "mode": "chat", "input_cost_per_token": "7.5e-08", "output_cost_per_token": "3e-07",
                            "input_cost_per_token_above_128k_tokens": "1.5e-07", "output_cost_per_token_above_200k_tokens": "6e-07",
                            "cache_read_input_token_cost_above_272k_tokens": "1e-08", "input_cost_per_audio_token": "1e-06",
                            "output_cost_per_audio_token": "2e-06", "cache_creation_input_token_cost": "1.1e-07",
                            "cache_read_input_audio_token_cost": "3e-07", "output_cost_per_reasoning_token": "3e-07"},
           "vertex_ai/flash": {"litellm_provider": "vertex_ai-language-models", "mode": "chat", "input_cost_per_token": "1e-06"},
           "deepgram/nova-2": {"litellm_provider": "deepgram", "mode": "audio_transcription", "input_cost_per_second": "7.167e-05",
                               "output_cost_per_second": "0.0"},
           "whisper-1": {"litellm_provider": "openai", "mode": "audio_transcription", "input_cost_per_second": "0.0001",
                         "output_cost_per_second": "0.0001"},
           "tts-1": {"litellm_provider": "openai", "mode": "audio_speech", "input_cost_per_character": "1.5e-05"},
           "spoken": {"litellm_provider": "x", "mode": "audio_speech", "output_cost_per_second": "0.00025"},
           "embed": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": "1e-07", "output_cost_per_token": "0.0"},
           "rerank": {"litellm_provider": "cohere", "mode": "rerank", "input_cost_per_query": "0.002", "input_cost_per_token": "0.0"},
           "free": {"litellm_provider": "ollama", "mode": "completion", "input_cost_per_token": "0.0", "output_cost_per_token": "0"},
           "resp": {"litellm_provider": "openai", "mode": "responses", "input_cost_per_token": "0.00000013999999999999998"},
           "dall-e-3": {"litellm_provider": "openai", "mode": "image_generation", "output_cost_per_image": "0.04"}})
    said = ctl("prices", "import", "-", "--from", "2026-01-01", text=text).stdout
    expected = [
        ("llm", "cohere", "rerank", "request", 0, "0.002"), ("llm", "gemini", "flash", "audio_input", 0, "0.000001"),
        ("llm", "gemini", "flash", "audio_output", 0, "0.000002"), ("llm", "gemini", "flash", "cache_write", 0, "0.00000011"),
        ("llm", "gemini", "flash", "cached_audio_input", 0, "0.0000003"), ("llm", "gemini", "flash", "cached_input", 272000, "0.00000001"),
        ("llm", "gemini", "flash", "input", 0, "0.000000075"), ("llm", "gemini", "flash", "input", 128000, "0.00000015"),
        ("llm", "gemini", "flash", "output", 0, "0.0000003"), ("llm", "gemini", "flash", "output", 200000, "0.0000006"),
        ("llm", "ollama", "free", "input", 0, "0.0"), ("llm", "ollama", "free", "output", 0, "0"),
        ("llm", "openai", "embed", "input", 0, "0.0000001"), ("llm", "openai", "gpt-4o", "cached_input", 0, "0.00000125"),
        ("llm", "openai", "gpt-4o", "input", 0, "0.0000025"), ("llm", "openai", "gpt-4o", "output", 0, "0.00001"),
        ("llm", "openai", "resp", "input", 0, "0.00000013999999999999998"),
        ("llm", "vertex_ai-language-models", "vertex_ai/flash", "input", 0, "0.000001"),
        ("stt", "deepgram", "nova-2", "seconds", 0, "0.00007167"), ("stt", "openai", "whisper-1", "seconds", 0, "0.0001"),
        ("tts", "openai", "tts-1", "characters", 0, "0.000015"), ("tts", "x", "spoken", "audio_minutes", 0, "0.015")]
    assert book(db, "component, provider, model, dimension, tier_above, price::text") == expected
    assert set(book(db, "side, unit_quantity::int, currency")) == {("cost", 1, "USD")}
    assert "input_cost_per_token_batches 1, output_cost_per_image 1, output_cost_per_token_priority 1\n" in said
    assert "max_tokens 1, supports_vision 1\n" in said
    again = json.loads(ctl("--json", "prices", "import", "-", "--from", "2026-02-01", text=text).stdout)
    assert {row["action"] for row in again["prices"]} == {"unchanged"} and len(again["prices"]) == len(expected)
    fates = {row["key"]: (row["fate"], row["models"]) for row in again["keys"]}
    assert fates["output_cost_per_reasoning_token"] == ("output", 1) and fates["output_cost_per_second"] == ("zero", 1)


def test_list_is_counted_where_it_is_ambiguous(db: Database, ctl: Run) -> None:
    """Two units, two prices of one unit, one model at two prices: none is taken, all are counted."""
    text = price_list(**{
        "gpt-4o-mini-tts": {"litellm_provider": "openai", "mode": "audio_speech", "input_cost_per_token": "2.5e-06", "output_cost_per_second": "0.00025"},
        "transcribe": {"litellm_provider": "openai", "mode": "audio_transcription", "input_cost_per_token": "2.5e-06", "output_cost_per_token": "1e-05"},
        "deepseek/chat": {"litellm_provider": "deepseek", "mode": "chat", "input_cost_per_token": "1e-07"},
        "chat": {"litellm_provider": "deepseek", "mode": "chat", "input_cost_per_token": "2e-07"},
        "same": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "2e-07"},
        "openai/same": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": "0.0000002"},
        "thinker": {"litellm_provider": "x", "mode": "chat", "output_cost_per_token": "1e-06", "output_cost_per_reasoning_token": "3e-06"},
        "timed": {"litellm_provider": "x", "mode": "chat", "input_cost_per_token": "0.0", "input_cost_per_second": "0.01"}})
    answer = json.loads(ctl("--json", "prices", "import", "-", text=text).stdout)
    assert book(db) == [("llm", "openai", "same", "input", 0, "cost", Decimal("0.0000002"), 1),
                        ("llm", "x", "thinker", "output", 0, "cost", Decimal("0.000001"), 1)]
    assert {(row["key"], row["fate"], row["models"]) for row in answer["keys"]} == {
        ("input_cost_per_token", "several units", 2), ("output_cost_per_second", "several units", 1), ("output_cost_per_token", "several units", 1),
        ("input_cost_per_token", "several prices", 2), ("output_cost_per_reasoning_token", "not mapped", 1),
        ("input_cost_per_second", "not mapped", 1), ("input_cost_per_token", "zero", 1)}


@pytest.mark.parametrize("bad, said", [
    ('"bad": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": -1e-6}', "bad: input_cost_per_token: price -0.000001 is negative"),
    ('"bad": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": "1e-6"}', "bad: input_cost_per_token: 1e-6 is no number"),
    ('"bad": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1e-999999}', "is no number for a price"),
    ('"bad": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1e12}', "bad: input_cost_per_token: price is 1000000000000 or more"),
    ('"bad": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": {}}', "bad: input_cost_per_token: {} is no number"),
    ('"bad": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1, "input_cost_per_token": 2}', "input_cost_per_token: this key stands there twice"),
    ('"bad": {"mode": "chat", "input_cost_per_token": 1}', "bad: input_cost_per_token: the model has no litellm_provider"),
    ('"bad": 7', "bad: not an object"), ('"bad": {}, "bad": {}', "bad: this model stands there twice"),
    ('"' + "m" * 300 + '": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1}', "longer than 256 bytes"),
])
def test_bad_list_changes_nothing_and_is_named(db: Database, ctl: Run, bad: str, said: str) -> None:
    good = '"good": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1e-6}'
    done = ctl("prices", "import", "-", text="{%s, %s}" % (good, bad), status=1)
    assert said in done.stderr and "so nothing was changed" in done.stderr
    assert done.stdout == "" and book(db) == []


SPEECH = {"whisper-1": {"litellm_provider": "openai", "mode": "audio_transcription", "input_cost_per_second": "0.0001"},
          "nova-3": {"litellm_provider": "deepgram", "mode": "audio_transcription", "input_cost_per_second": "0.0002"},
          "gpt-4o": GPT_4O}
BY_THE_MINUTE = """component,provider,model,variant,dimension,side,scope_kind,scope_id,price,unit_quantity,currency,valid_from
stt,openai,whisper-1,,minutes,cost,,,0.36,60,USD,2025-06-01
stt,deepgram,nova-3,,minutes,cost,,,0.0077,1,USD,2025-06-01
stt,deepgram,nova-3,multi,minutes,cost,,,0.0092,1,USD,2025-06-01
"""


def test_list_by_another_unit_is_refused_with_the_way_out(db: Database, ctl: Run) -> None:
    ctl("prices", "import", "-", text=BY_THE_MINUTE)
    done = ctl("prices", "import", "-", "--from", "2026-01-01", text=price_list(**SPEECH), status=1)
    assert "nova-3: input_cost_per_second: stt deepgram nova-3 is billed by minutes already" in done.stderr
    assert "--other-units keep" in done.stderr and "--other-units replace" in done.stderr
    assert "whisper-1" not in done.stderr, "0.36 per hour is 0.0001 per second"
    assert len(book(db)) == 3
    assert "prices by another unit: 'drop' is neither" in ctl("prices", "import", "-", "--other-units", "drop", text=price_list(**SPEECH), status=1).stderr


def test_other_units_of_the_book_are_kept(db: Database, ctl: Run) -> None:
    ctl("prices", "import", "-", text=BY_THE_MINUTE)
    said = ctl("prices", "import", "-", "--from", "2026-01-01", "--other-units", "keep", text=price_list(**SPEECH)).stdout
    assert "kept     cost of stt deepgram nova-3, minutes: 0.0077 USD per 1" in said
    assert "3 new, 0 changed, of which the predecessor ends, 1 unchanged, 1 passed over, as the book counts by another unit\n" in said
    assert book(db, "component, model, dimension, upper(valid)::date::text")[3:] == [
        ("stt", "nova-3", "minutes", None), ("stt", "nova-3", "minutes", None), ("stt", "whisper-1", "minutes", None)]


def test_other_units_of_the_book_are_replaced(db: Database, ctl: Run) -> None:
    ctl("prices", "import", "-", text=BY_THE_MINUTE)
    words = "prices", "import", "-", "--from", "2026-01-01", "--other-units", "replace"
    assert "A dry run" in ctl(*words, "--dry-run", text=price_list(**SPEECH)).stdout
    assert len(book(db)) == 3
    said = ctl(*words, text=price_list(**SPEECH)).stdout
    assert "ended    cost of stt deepgram nova-3, minutes" in said and "ended    cost of stt deepgram nova-3 multi, minutes" in said
    assert "4 new, 0 changed, of which the predecessor ends, 1 unchanged, 2 ended, as the list counts by another unit\n" in said
    assert sorted(book(db, "model, dimension, variant, lower(valid)::date::text, upper(valid)::date::text")[3:6]) == [
        ("nova-3", "minutes", "*", "2025-06-01", "2026-01-01"), ("nova-3", "minutes", "multi", "2025-06-01", "2026-01-01"),
        ("nova-3", "seconds", "*", "2026-01-01", None)]
    assert "0 new, 0 changed, of which the predecessor ends, 5 unchanged\n" in ctl(*words, text=price_list(**SPEECH)).stdout
    # What begins before the book's cannot end it.
    early = ctl("prices", "import", "-", "--from", "2025-01-01", "--other-units", "replace", text=price_list(**SPEECH), status=1)
    assert "is billed by minutes already" in early.stderr and "so nothing was changed" in early.stderr


def test_list_as_charges(db: Database, ctl: Run) -> None:
    ctl("prices", "import", "-", "--markup", "30", "--currency", "EUR", "--source", "a list", text=price_list(m=GPT_4O))
    assert book(db, "dimension, side, price, currency, source") == [
        ("cached_input", "charge", Decimal("0.000001625"), "EUR", "a list"), ("input", "charge", Decimal("0.00000325"), "EUR", "a list"),
        ("output", "charge", Decimal("0.000013"), "EUR", "a list")]


# --- single prices ---

def test_set_list_end_withdraw(db: Database, ctl: Run) -> None:
    said = ctl("prices", "set", "telephony", "twilio", "*", "telephony_inbound", "0.0085", "--minimum", "60", "--increment", "6", "--from", "2026-01-01Z",
               "--source", "the contract", "--source-date", "2025-12-01").stdout
    assert said.startswith("set price 1: cost of telephony twilio *, telephony_inbound: 0.0085 USD per 1 (at least 60 s, in steps of 6 s)")
    assert "tollctl rerate --dry-run" in said
    assert ctl("prices", "set", "tariff", "*", "*", "minutes", "5", "--currency", "RUB", "--variant", "std", "--dry-run").stdout.startswith("it could")
    ctl("prices", "set", "tariff", "*", "*", "minutes", "5", "--currency", "RUB", "--variant", "std", "--scope", "account:u_42", "--until", "30d")
    shown = ctl("prices", "list").stdout.splitlines()
    assert shown[0].split() == ["ID", "SIDE", "SCOPE", "COMPONENT", "PROVIDER", "MODEL", "VARIANT", "DIMENSION", "PRICE", "/", "UNITS", "FROM", "(UTC)", "TO",
                                "SOURCE", "READ"]
    assert "0.0085 USD / 1 (60/6 s)" in shown[2]
    rows = json.loads(ctl("--json", "prices", "list", "--scope", "account:u_42", "--component", "tariff").stdout)
    assert [(row["variant"], row["price"], row["side"], row["scope_id"]) for row in rows] == [("std", 5, "charge", "u_42")]
    assert "ended price 1: " in ctl("prices", "end", "1", "--until", "2026-02-01Z").stdout
    assert "no such prices" in ctl("prices", "list", "--provider", "twilio").stdout
    assert len(json.loads(ctl("--json", "prices", "list", "--provider", "twilio", "--at", "2026-01-15").stdout)) == 1
    assert "withdrew price 1" in ctl("prices", "withdraw", "1", "--reason", "never so").stdout
    assert "withdrawn" in ctl("prices", "list", "--all").stdout
    for words, said in [(["end", "77"], "there is no price 77"), (["withdraw", "1", "--reason", "x"], "already"), (["withdraw", "1", "--reason", ""], "say why"),
                        (["set", "llm", "a", "b", "input", "-1"], "price -1 is negative"), (["set", "llm", "a", "b", "input", "NaN"], "NaN is no number")]:
        assert said in ctl("prices", *words, status=1).stderr
    assert "say why" in ctl("prices", "withdraw", "1", status=2).stderr
    assert ctl("prices", "set", "llm", "a", "b", "input", status=2).stderr.startswith("tollctl: too few")
    assert "unknown command" in ctl("prices", "guess", status=2).stderr


def test_unrated_says_what_is_missing(db: Database, ctl: Run) -> None:
    assert ctl("prices", "unrated").stdout == "nothing is unrated\n"
    db.execute("INSERT INTO toll.unrated (event_id, side, occurred_at, component, provider, model, variant, missing)"
               " SELECT n, 'cost', '2026-01-01', 'llm', 'openai', 'gpt-9', 'voice', 'llm: no price' FROM generate_series(1, 3) n")
    assert ctl("prices", "unrated").stdout.splitlines()[1].split()[:8] == ["cost", "llm", "openai", "gpt-9", "voice", "llm:", "no", "price"]
    assert json.loads(ctl("--json", "prices", "unrated").stdout)[0]["events"] == 3


def test_unrated_tariffs_are_listed_and_rated_too(db: Database, ctl: Run) -> None:
    usage = Book(db)
    usage.account("m", charge_by="minutes", tariff_id="gold")
    session = usage.session(account_id="m")
    usage.price("stt", "minutes", "1", unit=1)
    usage.batch((session, "stt", {"audio_duration_ms": 1000.0}))
    usage.change(session, ended=NOON + hours(1))
    usage.rate()
    listed = json.loads(ctl("--json", "prices", "unrated").stdout)
    assert [(row["component"], row["variant"], row["side"], row["missing"], row["events"]) for row in listed] == [
        ("tariff", "gold", "charge", "tariff: no price that comes to USD", 1)]
    assert ctl("prices", "unrated", "--rate").stdout.splitlines()[1].split() == ["0", "1"]
    ctl("prices", "set", "tariff", "*", "*", "minutes", "0.05", "--variant", "gold", "--side", "charge", "--from", "2020-01-01")
    assert ctl("prices", "unrated", "--rate").stdout.splitlines()[1].split() == ["1", "0"]
    assert db.query("SELECT billed_amount, duration_sec::text FROM usage_sessions") == [(Decimal(3), "3600.000")]


# --- the seeds ---

def test_seeds_come_in_clean(db: Database, ctl: Run) -> None:
    for seed in sorted((ROOT / "sql/seed").glob("*.csv")):
        assert " 0 changed" in ctl("prices", "import", seed).stdout
        assert "0 new, 0 changed" in ctl("prices", "import", seed).stdout
    assert {row[0] for row in db.query("SELECT provider FROM pricing_config WHERE side = 'cost'")} == {
        "anthropic", "assemblyai", "cartesia", "deepgram", "elevenlabs", "openai", "playht", "twilio"}
    assert db.query("SELECT count(*) FROM pricing_config WHERE source IS NULL OR source_date IS NULL") == [(0,)]
    assert db.query("SELECT price, unit_quantity, currency, dimension FROM pricing_config WHERE component = 'tariff'") == [
        (Decimal(5), Decimal(1), "RUB", "minutes")]


def test_usage_of_each_provider_is_rated_by_the_seeds(db: Database, ctl: Run) -> None:
    for words in ([], ["--markup", "20"]):
        ctl("prices", "import", ROOT / "sql/seed/providers.csv", *words)
    usage = Book(db)
    session = usage.session(account_id="u_42")
    used = [("stt", {"provider": "deepgram", "model": "nova-2", "audio_duration_ms": 90000}, "0.0087"),
            ("stt", {"provider": "deepgram", "model": "nova-3", "audio_duration_ms": 60000}, "0.0077"),
            ("stt", {"provider": "assemblyai", "model": "universal-streaming", "audio_duration_ms": 60000}, "0.0025"),
            ("stt", {"provider": "openai", "model": "whisper-1", "audio_duration_ms": 1000}, "0.0001"),
            ("llm", {"provider": "openai", "model": "gpt-4o", "input_tokens": 1000, "cached_input_tokens": 400, "output_tokens": 100}, "0.003"),
            ("llm", {"provider": "openai", "model": "gpt-4o-mini", "input_tokens": 1000, "output_tokens": 100}, "0.00021"),
            ("llm", {"provider": "anthropic", "model": "claude-3-5-haiku-latest", "input_tokens": 1000, "output_tokens": 100}, "0.0012"),
            ("tts", {"provider": "openai", "model": "tts-1", "char_count": 100}, "0.0015"),
            ("tts", {"provider": "cartesia", "model": "sonic-2", "char_count": 100}, "0.00392"),
            ("tts", {"provider": "elevenlabs", "model": "eleven_flash_v2_5", "char_count": 100}, "0.012"),
            ("tts", {"provider": "playht", "model": "Play3.0-mini", "char_count": 100}, "0.0156"),
            ("usage", {"provider": "twilio", "meter": "telephony_inbound", "quantity": Decimal("1.01")}, "0.017"),
            ("usage", {"provider": "twilio", "meter": "sms", "quantity": 2}, "0.0166")]
    events = usage.batch(*((session, kind, columns) for kind, columns, _ in used))
    usage.rate()
    assert [(line["cost"], line["charge"]) for line in map(usage.line, events)] == [
        (Decimal(cost), Decimal(cost) * Decimal("1.2")) for _, _, cost in used]
    assert ctl("prices", "unrated").stdout == "nothing is unrated\n"
    assert "cost: " in ctl("prices", "explain", str(events[4])).stdout
    assert "there is no event 999999" in ctl("prices", "explain", "999999", status=1).stderr


def test_a_missing_price_and_a_wrong_one(db: Database, ctl: Run) -> None:
    """Unrated until it is there; then rated; then rated again by another, shown before and done once."""
    usage = Book(db)
    event = usage.llm(usage.session(account_id="u_42"), input_tokens=1000, output_tokens=0)
    usage.rate()
    assert json.loads(ctl("--json", "prices", "unrated").stdout)[0]["model"] == "gpt-4o"
    for side, price in (("cost", "2.5"), ("charge", "5")):
        ctl("prices", "set", "llm", "openai", "gpt-4o", "input", price, "--per", "1000000", "--side", side, "--from", "2020-01-01")
    assert ctl("prices", "unrated", "--rate").stdout.splitlines()[1].split() == ["1", "0"]
    assert ctl("prices", "unrated").stdout == "nothing is unrated\n"
    ctl("prices", "withdraw", "1", "--reason", "wrong")
    ctl("prices", "set", "llm", "openai", "gpt-4o", "input", "3", "--per", "1000000", "--from", "2020-01-01")
    dry = json.loads(ctl("--json", "rerate", "--dry-run", "--from", "2020-01-01").stdout)
    lines = db.value("SELECT count(*) FROM billing_charges")
    assert [(row["model"], row["changed"], row["cost_difference"]) for row in dry] == [("gpt-4o", 1, 0.0005)]
    assert json.loads(ctl("--json", "rerate", "--from", "2020-01-01").stdout) == dry
    assert db.query("SELECT count(*), sum(cost) FROM billing_charges WHERE event_id = %s", event) == [(lines + 1, Decimal("0.003"))]
    assert ctl("rerate", "--from", "2020-01-01").stdout == "nothing changes\n"
