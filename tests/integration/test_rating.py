"""Rating, driven by the daemon: what is stored is rated, whoever stored it, and a worker learns from its ack page when its account runs dry."""

from __future__ import annotations

import time
from typing import Callable, Iterator

import proc
import pytest
from cluster import Cluster, Database
from daemon import Daemon, migrate
from payer import EXHAUSTED, LOW, OK, Payer, prepaid, price_unit, top_up, wait_rated

Make = Callable[..., Daemon]
READ_SECONDS = 10  # the list of who is short of credit is read again after that, whether or not somebody said that it changed (READ_US)
CHANGES = 5


@pytest.fixture
def payer() -> Iterator[Callable[[Daemon], Payer]]:
    """Makes workers, which end with the test."""
    made: list[Payer] = []

    def make(daemon: Daemon) -> Payer:
        made.append(Payer(daemon.socket))
        return made[-1]
    yield make
    for each in made:
        each.close()


def balance(db: Database, account: str) -> float:
    return float(db.value("SELECT balance FROM customer_balance WHERE user_id = %s", account))


def wait_rating(daemon: Daemon, state: str, seconds: float = 20) -> None:
    proc.wait_until(lambda: daemon.status()["rating"] == state, seconds, f"rating to be {state}")


def alarms(daemon: Daemon) -> list[str]:
    return [each["alarm"] for each in daemon.status()["alarms"]]


def test_account_that_runs_dry_is_cut_off_until_it_is_topped_up(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 10, low_at=4)
    prepaid(db, "other", 10)
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.start("b", "acme")
    worker.start("c", "other")
    worker.use("a", 5)
    wait_rated(db, 1)
    assert [worker.credit(name) for name in "abc"] == [OK, OK, OK]
    worker.use("a", 1)
    worker.wait_credit("a", LOW)
    worker.wait_credit("b", LOW)  # the account's, though it has used nothing
    worker.use("b", 4.5)
    worker.wait_credit("a", EXHAUSTED)
    worker.wait_credit("b", EXHAUSTED)
    assert worker.credit("c") == OK
    assert balance(db, "acme") == -0.5
    top_up(db, "acme", 3)
    worker.wait_credit("a", LOW)
    top_up(db, "acme", 30)
    worker.wait_credit("a", OK)
    worker.wait_credit("b", OK)
    status = daemon.status()
    assert status["rating"] == "ok" and status["events_rated"] == 3 and status["rating_failures"] == 0 and status["alarms"] == []
    assert status["rated_lsn"] <= status["committed_lsn"]


def test_call_that_ended_leaves_the_table(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 1)
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.start("b", "acme")
    worker.use("a", 2)
    worker.wait_credit("a", EXHAUSTED)
    worker.end("a")
    worker.wait_credit("a", OK)
    assert worker.credit("b") == EXHAUSTED
    assert daemon.status()["credit_exhausted"] == 1


def test_new_call_of_an_account_without_credit(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 1)
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.use("a", 1)
    worker.wait_credit("a", EXHAUSTED)
    worker.end("a")
    worker.start("b", "acme")
    worker.wait_credit("b", EXHAUSTED)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_daemon_restarted_meanwhile(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer], how: str) -> None:
    price_unit(db)
    prepaid(db, "acme", 1)
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.start("silent", "acme")
    worker.use("a", 2)
    worker.wait_credit("a", EXHAUSTED)
    if how == "stopped":
        assert daemon.stop() == 0
    else:
        daemon.kill()
    assert worker.credit("a") == EXHAUSTED  # what was said last stands
    daemon.start()
    worker.use("a", 1)
    worker.wait_credit("a", EXHAUSTED)
    wait_rated(db, 2)
    worker.use("silent", 1)
    worker.wait_credit("silent", EXHAUSTED)
    wait_rated(db, 3)
    top_up(db, "acme", 10)
    worker.wait_credit("a", OK)
    worker.wait_credit("silent", OK)
    assert balance(db, "acme") == 7


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_silent_call_learns_after_a_restart(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer], when: str) -> None:
    """Not a frame comes of it: its worker attaches its page again, and the database knows whose it is."""
    spend = "SELECT adjust_credits('acme', -200, 'spent elsewhere', 'spent')"
    prepaid(db, "acme", 1)
    prepaid(db, "other", 1)
    worker = payer(daemon)
    worker.start("silent", "acme")
    worker.start("paid", "other")
    worker.flush()
    daemon.wait_stored()
    proc.wait_until(lambda: db.value("SELECT count(*) FROM toll.rated_sessions") == 2, 10, "the calls to be known")
    if when == "before":
        db.value(spend)
        worker.wait_credit("silent", EXHAUSTED)
    daemon.kill()
    if when == "meanwhile":
        db.value(spend)
    daemon.start()
    # Its page is new when it says something at all.
    proc.wait_until(lambda: daemon.status()["ack_pages"] == 1, 20, "the worker to attach its page")
    if when == "after":
        began = time.monotonic()
        for number in range(CHANGES):
            db.value("SELECT adjust_credits('acme', %s, 'there and back', %s)", 1000 if number % 2 else -1000, f"change {number}")
            worker.wait_credit("silent", OK if number % 2 else EXHAUSTED)
        assert time.monotonic() - began < (CHANGES - 1) * READ_SECONDS, "each was told, and not seen when the list was read again"
    worker.wait_credit("silent", EXHAUSTED)
    assert worker.credit("paid") == OK
    top_up(db, "acme", 10)
    worker.wait_credit("silent", OK)
    assert daemon.status()["frames_received"] == 0


def test_two_daemons_host_calls_of_one_account(db: Database, daemon_factory: Make, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 10)
    daemons = [daemon_factory(db.dsn).start() for _ in range(2)]
    workers = [payer(each) for each in daemons]
    for worker in workers:
        worker.start("a", "acme")
    for turn in range(12):
        workers[turn % 2].use("a", 1)
    for worker in workers:
        worker.wait_credit("a", EXHAUSTED)
    wait_rated(db, 12)
    assert balance(db, "acme") == -2
    top_up(db, "acme", 100)
    for worker in workers:
        worker.wait_credit("a", OK)
    assert sum(each.status()["events_rated"] for each in daemons) == 12
    assert db.value("SELECT count(*) FROM billing_charges WHERE event_id IS NOT NULL") == 12


def test_what_a_daemon_left_behind_is_rated_by_another(db: Database, daemon_factory: Make, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 10)
    gone = daemon_factory(db.dsn, config={"rating.enabled": "no"}).start()
    worker = payer(gone)
    worker.start("a", "acme")
    worker.use("a", 3)
    worker.flush()
    gone.wait_stored()
    assert gone.status()["rating"] == "off"
    assert gone.stop() == 0
    assert db.value("SELECT count(*) FROM billing_charges") == 0
    daemon_factory(db.dsn).start()
    wait_rated(db, 1)
    proc.wait_until(lambda: balance(db, "acme") == 7, 10, "the debit")


def test_rating_switched_off(db: Database, daemon_factory: Make, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 1)
    daemon = daemon_factory(db.dsn, config={"rating.enabled": "no"}).start()
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.use("a", 2)
    worker.flush()
    daemon.wait_stored()
    assert worker.credit("a") == OK
    assert balance(db, "acme") == 1
    assert db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tolld%'") == 1
    assert daemon.stop() == 0


def test_database_gone_and_back(own_cluster: Cluster, daemon_factory: Make, payer: Callable[[Daemon], Payer]) -> None:
    db = own_cluster.create_database()
    migrate(db.dsn)
    price_unit(db)
    prepaid(db, "acme", 10)
    daemon = daemon_factory(db.dsn, config={"database.retry_max": "500ms"}).start()
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.use("a", 4)
    wait_rated(db, 1)
    own_cluster.stop("immediate")
    worker.use("a", 7)
    worker.flush()
    assert worker.credit("a") == OK
    wait_rating(daemon, "retrying")
    proc.wait_until(lambda: "storing_retrying" in alarms(daemon), 20, "the alarm")
    assert "rating_retrying" not in alarms(daemon)  # one trouble, one alarm
    own_cluster.start()
    worker.wait_credit("a", EXHAUSTED, 30)
    wait_rating(daemon, "ok")
    assert balance(db, "acme") == -1
    top_up(db, "acme", 10)
    worker.wait_credit("a", OK)


def test_connection_lost(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 10)
    worker = payer(daemon)
    worker.start("a", "acme")
    for turn in range(5):
        worker.use("a", 3)
        if turn % 2:
            db.terminate_backends()
    worker.wait_credit("a", EXHAUSTED)
    wait_rated(db, 5)
    assert balance(db, "acme") == -5


def test_top_up_is_seen_while_rating_is_at_work(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 1)
    prepaid(db, "other", 10)
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.start("b", "other")
    worker.use("a", 2)
    worker.wait_credit("a", EXHAUSTED)
    with db.connect() as other, other.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM customer_balance WHERE user_id = 'other' FOR UPDATE")
        worker.use("b", 1)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tolld-rating' AND wait_event_type = 'Lock'"
        proc.wait_until(lambda: db.value(waiting) == 1, 20, "rating to wait for the lock")
        top_up(db, "acme", 5)
        worker.wait_credit("a", OK)
        assert db.value(waiting) == 1
        # Without the connection that listens, the other one goes on; then both are made anew.
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tolld-credit'")
    other.close()
    wait_rated(db, 2)
    worker.use("a", 5)
    worker.wait_credit("a", EXHAUSTED)
    assert balance(db, "acme") == -1 and balance(db, "other") == 9


def test_error_in_sql_stops_rating_and_nothing_else(daemon: Daemon, db: Database, payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 1)
    db.execute("ALTER FUNCTION toll.write_lines RENAME TO write_lines_away")
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.use("a", 2)
    worker.flush()
    wait_rating(daemon, "stopped")
    proc.wait_until(lambda: alarms(daemon) == ["rating_stopped"], 10, "the alarm")
    assert "write_lines" in daemon.status()["rating_error"]
    daemon.wait_stored()
    assert daemon.status()["sink_state"] == "ok"
    assert worker.credit("a") == OK
    db.execute("ALTER FUNCTION toll.write_lines_away RENAME TO write_lines")
    worker.wait_credit("a", EXHAUSTED)
    proc.wait_until(lambda: alarms(daemon) == [], 10, "the alarm to be over")
    assert daemon.stop() == 0


def test_lock_that_somebody_holds_does_not_keep_the_daemon_from_stopping(db: Database, daemon_factory: Make,
                                                                         payer: Callable[[Daemon], Payer]) -> None:
    price_unit(db)
    prepaid(db, "acme", 10)
    daemon = daemon_factory(db.dsn, config={"daemon.shutdown_deadline": "4s"}).start()
    worker = payer(daemon)
    worker.start("a", "acme")
    worker.use("a", 1)
    wait_rated(db, 1)
    with db.connect() as other, other.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM customer_balance WHERE user_id = 'acme' FOR UPDATE")
        worker.use("a", 1)
        worker.flush()
        daemon.wait_stored()
        assert daemon.stop() == 0  # the call was cancelled: the backend does not wait on
        backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tolld%'"
        proc.wait_until(lambda: db.value(backends) == 0, 5, "the backends to be gone")
    other.close()
    assert "not everything could be stored" not in daemon.log_text()
    daemon.start()
    wait_rated(db, 2)
    assert balance(db, "acme") == 8
