"""Who may do what with wallets: billing and rating by functions, readers read, nobody writes a ledger."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator

import psycopg2
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import Cluster, Database  # noqa: E402
from schema import migrate  # noqa: E402
from wallets import Wallets  # noqa: E402

DENIED = psycopg2.errors.InsufficientPrivilege

WRITES = [f"{verb} {table}" for table in ("credit_transactions", "wallet_transactions", "customer_balance", "credit_holds", "low_balance_alerts",
                                          "toll.wallet_credit", "toll.session_credit")
          for verb in ("DELETE FROM", "TRUNCATE")] + [
    "INSERT INTO credit_transactions (transaction_id, user_id, currency, amount, amount_cents, balance_after, transaction_type)"
    " VALUES ('x', 'a', 'USD', 1, 100, 1, 'purchase')",
    "INSERT INTO wallet_transactions (transaction_id, user_id, minutes_delta, balance_after, type) VALUES ('x', 'a', 1, 1, 'purchase')",
    "UPDATE customer_balance SET balance = 1000000", "UPDATE customer_balance SET low_balance_threshold = 1",
    "UPDATE credit_holds SET released_at = now()", "UPDATE toll.session_credit SET state = 'low'",
    "ALTER TABLE credit_transactions DISABLE TRIGGER append_only", "SET ROLE toll_wallet",
    "SELECT toll.book_credit('a', false, 1, 'purchase', NULL, NULL, 'x')", "SELECT toll.open_wallet('a', 'USD')",
    "SELECT toll.available_credit('{a}', now())", "SELECT toll.tell_crossings('{a}')",
]
BILLING = ["SELECT add_credits('a', 100, 'card', 't1')", "SELECT refund_credits('a', 100, 'r', 't2')", "SELECT adjust_credits('a', -1, 'r', 't3')",
           "SELECT add_minutes('p', 1, 'card', 't4')", "SELECT adjust_minutes('p', 1, 'r', 't5')", "SELECT create_wallet('a')",
           "SELECT set_low_balance('a', 100)", "SELECT reserve('a', 1)", "SELECT release(gen_random_uuid())"]
READING = ["SELECT get_balance('a')", "SELECT has_sufficient_balance('a', 1)", "SELECT credit_history('a')"]
SELECTS = ["SELECT * FROM customer_balance", "SELECT * FROM credit_transactions", "SELECT * FROM wallet_transactions", "SELECT * FROM credit_holds",
           "SELECT * FROM low_balance_alerts"]
RATING = ["SELECT toll.lock_wallets('{a}')", "SELECT toll.debit(1, ARRAY[('a', NULL, 'USD', 1)::toll.session_debit])",
          "SELECT toll.refresh_credit('{a}')", "SELECT toll.check_credit()", "SELECT toll.link_holds('{}')", "SELECT toll.release_holds('{}')",
          "SELECT * FROM toll.session_credit"]


@pytest.fixture
def wallets(db: Database) -> Iterator[Wallets]:
    with closing(Wallets(db)) as made:
        made.account("a", cents=1000)
        made.account("p", "prepaid_minutes", cents=1000)
        yield made


@pytest.fixture
def login(cluster: Cluster, wallets: Wallets) -> Iterator[Callable[[str | None], Any]]:
    """Connects as a fresh user who has been granted this role, and nothing else."""
    users, connections = [], []

    def connect(role: str | None) -> Any:
        users.append(f"wallet_user_of_{role}".lower())
        cluster.psql(f"CREATE ROLE {users[-1]} LOGIN" + (f"; GRANT {role} TO {users[-1]}" if role else ""))
        connections.append(wallets.db.connect(users[-1]))
        return connections[-1].cursor()
    yield connect
    for connection in connections:
        connection.close()
    for user in users:
        cluster.psql(f"DROP ROLE {user}")


def refused(cursor: Any, statements: list[str]) -> list[str]:
    """The statements that were not refused: should be none."""
    allowed = []
    for sql in statements:
        try:
            cursor.execute(sql)
            allowed.append(sql)
        except DENIED:
            pass
    return allowed


def run(cursor: Any, statements: list[str]) -> None:
    for sql in statements:
        cursor.execute(sql)


def test_billing_books_by_functions_only(login: Callable[[str | None], Any], wallets: Wallets) -> None:
    cursor = login("toll_billing")
    run(cursor, BILLING + READING + SELECTS)
    assert refused(cursor, WRITES + RATING[:-1] + ["UPDATE toll.rated_sessions SET debited = 0"]) == []
    assert wallets.wrong() == []


def test_reader_reads(login: Callable[[str | None], Any]) -> None:
    cursor = login("toll_reader")
    run(cursor, READING + SELECTS)
    assert refused(cursor, WRITES + BILLING + RATING[:-1]) == []


@pytest.mark.parametrize("role", ["toll_ingest", "toll_rating"])
def test_rating_debits(login: Callable[[str | None], Any], wallets: Wallets, role: str) -> None:
    cursor = login(role)
    run(cursor, RATING)
    assert refused(cursor, WRITES + BILLING) == []
    assert wallets.balance("a") == 9 and wallets.wrong() == []


def test_rating_in_replica_mode_writes_no_ledger(login: Callable[[str | None], Any]) -> None:
    cursor = login("toll_ingest")
    cursor.execute("SET session_replication_role = replica")
    assert refused(cursor, WRITES + BILLING) == []


def test_public_has_no_wallet(login: Callable[[str | None], Any]) -> None:
    assert refused(login(None), WRITES + BILLING + READING + SELECTS + RATING) == []


def test_wallets_role_may_do_nothing_else(wallets: Wallets) -> None:
    assert wallets.query("SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'toll_wallet'") == [
        (False, False, False, False)]
    wallets.query("SET ROLE toll_wallet")
    with wallets.connection.cursor() as cursor:
        assert refused(cursor, ["SELECT FROM billing_events", "SELECT FROM session_transcripts", "SELECT FROM billing_charges",
                                "UPDATE accounts SET name = ''", "UPDATE toll.rated_sessions SET ended_at = now()",
                                "INSERT INTO pricing_config DEFAULT VALUES", "CREATE TABLE public.mine ()", "CREATE TABLE toll.mine ()"]) == []
    wallets.query("RESET ROLE")
    assert wallets.query("SELECT pg_get_userbyid(member)::text FROM pg_auth_members WHERE roleid = 'toll_wallet'::regrole"
                         " AND member <> 'postgres'::regrole") == [("toll_owner",)]


def test_functions_run_as_the_wallets_role(wallets: Wallets) -> None:
    """Every function with its rights pins its search path, and is not for everybody."""
    assert wallets.query("SELECT p.oid::regprocedure::text FROM pg_proc p WHERE proowner = 'toll_wallet'::regrole AND NOT ("
                         " 'search_path=pg_catalog, pg_temp' = ANY (proconfig)"
                         " AND NOT EXISTS (SELECT FROM aclexplode(proacl) a WHERE a.grantee = 0))") == []
    assert wallets.query("SELECT prosecdef, count(*) FROM pg_proc WHERE proowner = 'toll_wallet'::regrole AND pronamespace ="
                         " 'public'::regnamespace GROUP BY 1") == [(True, 12)]
    assert wallets.query("SELECT c.relname::text FROM pg_class c WHERE relowner = 'toll_wallet'::regrole AND relkind = 'r' ORDER BY 1") == [
        (name,) for name in ("credit_holds", "credit_transactions", "customer_balance", "low_balance_alerts", "session_credit", "wallet_credit",
                             "wallet_transactions")]


def test_without_roles_the_owner_runs_everything(own_cluster: Cluster) -> None:
    """Where no role can be made: what the schema's owner makes works for him, and ledgers stay append-only."""
    own_cluster.psql("CREATE ROLE alice LOGIN")
    own_cluster.psql("CREATE DATABASE calls OWNER alice")
    database = Database(own_cluster, "calls")
    status, output = migrate("run", own_cluster.dsn("calls", "alice"))
    assert status == 0, output
    connection = database.connect("alice")
    cursor = connection.cursor()
    cursor.execute("INSERT INTO accounts (account_id, plan_id, currency, time_zone, charge_by, tariff_id) VALUES ('a', 'basic', 'USD', 'UTC', 'usage', '*')")
    run(cursor, ["SELECT add_credits('a', 1000, 'card', 't1')", *RATING, *READING])
    for sql in ("DELETE FROM credit_transactions", "UPDATE credit_transactions SET amount = 1", "TRUNCATE credit_transactions"):
        with pytest.raises(psycopg2.errors.RestrictViolation):
            cursor.execute(sql)
    connection.close()
    superuser = Wallets(database)
    assert superuser.balance("a") == 9 and superuser.wrong() == []
    superuser.close()
