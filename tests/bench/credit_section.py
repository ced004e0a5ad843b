"""Rating beside a load: how long it takes from usage that exhausts an account until its worker sees that, and from a top-up until it sees that."""

from __future__ import annotations

import threading
import time

from frame import Bench
from harness import Daemon, Database, migrate, wait_until
from measure import percentile
from payer import EXHAUSTED, OK, Payer, prepaid, price_unit
from through_toll import Load, make_daemon, words

SECONDS = {"tiny": 20, "short": 60, "long": 40}
RATE = 10_000  # events/s of all the other calls
LIVE = 1000
TRIALS = {"tiny": 40, "short": 200, "long": 1000}
PAYERS = 8
TARGET_MS = 1000.0


def prepare(db: Database) -> None:
    """Everything has a price, and every user of the simulated calls a wallet: each event becomes a line, and is debited."""
    price_unit(db)
    db.execute("SELECT set_price(p.component, '*', '*', p.dimension, s.side, 0.01, p.quantity, 'USD', '2020-01-01')"
               " FROM (VALUES ('llm', 'input', 1000000), ('llm', 'output', 1000000), ('tts', 'characters', 1000), ('stt', 'minutes', 1),"
               " ('telephony', 'telephony_inbound', 1), ('meter', 'api_call', 1), ('meter', 'storage_mb', 1))"
               " AS p (component, dimension, quantity), (VALUES ('cost'), ('charge')) AS s (side)")
    db.execute("SELECT create_account('u_' || n, charge_by => 'usage', currency => 'USD') FROM generate_series(1, 60) AS n")
    db.execute("SELECT add_credits('u_' || n, 100000000, 'card', 'bench ' || n) FROM generate_series(1, 60) AS n")


class Trials:
    """One worker whose account runs dry and is topped up again and again."""

    def __init__(self, daemon: Daemon, db: Database, account: str, number: int) -> None:
        self.db, self.account, self.number = db, account, number
        self.dry: list[float] = []
        self.back: list[float] = []
        self.error: BaseException | None = None
        prepaid(db, account, 1)
        self.payer = Payer(daemon.socket)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = self.db.connect()
        try:
            cursor = connection.cursor()
            self.payer.start("call", self.account)
            for i in range(self.number):
                time.sleep(0.037 * (1 + i % 7))  # not in step with batches or ticks
                self.payer.use("call", 1)
                self.dry.append(self.payer.wait_credit("call", EXHAUSTED, 60) * 1e3)
                self.payer.mark()
                cursor.execute("SELECT add_credits(%s, 100, 'card', %s)", (self.account, f"{self.account} {i}"))
                self.back.append(self.payer.wait_credit("call", OK, 60) * 1e3)
        except BaseException as error:  # told by who waits for the thread
            self.error = error
        finally:
            connection.close()


def one(bench: Bench, trials: int) -> dict[str, float]:
    db = bench.stage.cluster.create_database()
    migrate(db.dsn)
    prepare(db)
    daemon = make_daemon(db, {"rating.enabled": "yes"})
    load = None
    try:
        daemon.start()
        load = Load(daemon, *words(workers=2, rate=RATE, frames=RATE * 600, sessions=LIVE))
        load.tell()
        wait_until(lambda: daemon.status()["events_rated"] > 2 * RATE, 60, "calls to be rated", every=0.1)
        before, began = daemon.status()["events_rated"], time.monotonic()
        made = [Trials(daemon, db, f"trial_{i}", trials // PAYERS + 1) for i in range(PAYERS)]
        for each in made:
            each.thread.start()
        for each in made:
            each.thread.join()
        seconds, status = time.monotonic() - began, daemon.status()
        for each in made:
            each.payer.close()
            if each.error is not None:
                raise each.error
    finally:
        if load is not None:
            load.close()
        daemon.close()
        db.drop()
    dry = sorted(ms for each in made for ms in each.dry)
    back = sorted(ms for each in made for ms in each.back)
    return {"dry p50": percentile(dry, 0.5), "dry p99": percentile(dry, 0.99), "dry max": dry[-1], "back p50": percentile(back, 0.5),
            "back p99": percentile(back, 0.99), "back max": back[-1], "rated": (status["events_rated"] - before) / seconds,
            "lag": status["rating_lag_ms"], "waiting": status["rating_waiting"], "trials": len(dry)}


def run(bench: Bench) -> None:
    trials = TRIALS["tiny" if bench.size.rounds == 1 else "long" if bench.size.rounds > 5 else "short"]
    found = one(bench, trials)
    bench.results["credit"] = found
    group = f"credit, beside {RATE:,} events/s of {LIVE:,} live calls, all rated and debited"
    bench.progress(f"{found['trials']:.0f} times dry: p99 {found['dry p99']:.0f} ms", 1)
    for what, key in (("usage recorded to cut-off seen by the worker", "dry"), ("top-up begun to ok seen by the worker", "back")):
        bench.add(group, f"{what}, p50", [found[f"{key} p50"]], "ms")
        bench.add(group, f"{what}, p99", [found[f"{key} p99"]], "ms", target=TARGET_MS, at_most=True)
        bench.add(group, f"{what}, max", [found[f"{key} max"]], "ms")
    bench.add(group, "events rated meanwhile", [found["rated"]], "events/s")
    bench.add(group, "rating's lag at the end", [found["lag"]], "ms")
