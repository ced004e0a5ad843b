"""The worker that asks for its calls' credit (payer.c), and accounts that pay for them in advance."""

from __future__ import annotations

import subprocess
from pathlib import Path

import proc
from cluster import Database

OK, LOW, EXHAUSTED = 0, 1, 2
SECONDS = 20


class Payer:
    """One worker process; its calls have names."""

    def __init__(self, socket: Path) -> None:
        self.process = subprocess.Popen([str(proc.BUILD / "tests/support/payer"), str(socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, start_new_session=True)

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer and not answer.startswith("failed"), f"{line}: {answer}"
        return answer

    def start(self, name: str, account: str) -> str:
        """A call begins; returns its session_id."""
        return self.tell(f"start {name} {account}").split()[1]

    def use(self, name: str, quantity: float) -> None:
        """It uses so many units: see prepaid()."""
        self.tell(f"use {name} {quantity}")

    def end(self, name: str) -> None:
        self.tell(f"end {name}")

    def credit(self, name: str) -> int:
        return int(self.tell(f"credit {name}"))

    def mark(self) -> None:
        self.tell("mark")

    def flush(self) -> None:
        assert self.tell("flush") == "ok", "not all was acknowledged"

    def wait_credit(self, name: str, state: int, seconds: float = SECONDS) -> float:
        """Waits until the call's credit is that; returns how many seconds that was after the last use() or mark()."""
        answer, figure = self.tell(f"await {name} {state} {int(seconds * proc.SLOWNESS * 1000)}").split()
        assert answer == "yes", f"the credit of {name} is {figure} still"
        return int(figure) / 1e6

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Payer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def price_unit(db: Database) -> None:
    """A unit of meter "unit" costs the customer 1 USD."""
    db.execute("SELECT set_price('meter', '*', '*', 'unit', 'charge', 1, 1, 'USD', '2020-01-01')")


def prepaid(db: Database, account: str, dollars: float, low_at: float = 0) -> None:
    """An account with so much in its wallet; its credit is low at low_at."""
    db.execute("SELECT create_account(%s, charge_by => 'usage', currency => 'USD')", account)
    top_up(db, account, dollars)
    if low_at:
        db.execute("SELECT set_low_balance(%s, %s)", account, int(low_at * 100))


def top_up(db: Database, account: str, dollars: float) -> None:
    answer = db.value("SELECT add_credits(%s, %s, 'card', gen_random_uuid()::text)", account, int(dollars * 100))
    assert answer["success"], answer


def wait_rated(db: Database, events: int, seconds: float = SECONDS) -> None:
    """Waits until so many events have lines."""
    proc.wait_until(lambda: db.value("SELECT count(DISTINCT event_id) FROM billing_charges WHERE event_id IS NOT NULL") >= events, seconds,
                    f"{events} events to be rated")
