"""Migrations: once each, side by side, and refused where they would do harm."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sql"))

from harness import ROOT, SLOWNESS, Cluster, Database, run, tolld, wait_until  # noqa: E402
from schema import add_call, faults, migrate, migrated, start_migrate  # noqa: E402

RECORDED = "SELECT name, checksum, applied_at FROM toll.migrations ORDER BY name"


def test_sql_files_are_plain_ascii() -> None:
    """So that a client encoding can't spoil them, nor awk or sed of any locale."""
    for file in [*(ROOT / "sql").glob("*/*.sql"), ROOT / "sql/roles.sql"]:
        assert file.read_bytes().isascii(), file


def test_migrations_that_went_out_stay_as_they_are() -> None:
    """A database that has one refuses another text of it. A new one is listed when it is finished: sha256sum in sql/migrations."""
    listed = dict(line.split()[::-1] for line in (ROOT / "tests/sql/migrations.sha256").read_text().splitlines())
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (ROOT / "sql/migrations").iterdir()} == listed


def test_embedding_refuses_other_files() -> None:
    assert run(["sh", ROOT / "sql/embed.sh"], check=False).returncode != 0
    assert run(["sh", ROOT / "sql/embed.sh", "sql/other/x.sql"], check=False).returncode != 0


def test_migrating_twice_changes_nothing(empty_db: Database) -> None:
    status, output = migrate("check", empty_db.dsn)
    assert status == 1 and output.startswith("ENOENT: ") and "--migrate" in output
    status, output = migrate("run", empty_db.dsn)
    assert status == 0 and "applied migrations/001_core" in output
    applied = empty_db.query(RECORDED)
    assert len(applied) == output.count("applied ")
    assert migrate("check", empty_db.dsn) == (0, "")
    assert migrate("run", empty_db.dsn) == (0, "the schema is up to date\n")
    assert empty_db.query(RECORDED) == applied
    assert empty_db.value("SELECT count(*) FROM toll.meta WHERE key = 'database_uuid' AND value::uuid IS NOT NULL") == 1


def test_concurrent_migrators_wait_for_each_other(empty_db: Database) -> None:
    processes = [start_migrate("run", empty_db.dsn) for _ in range(6)]
    outputs = [process.communicate(timeout=60 * SLOWNESS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, outputs
    assert sum("applied migrations/001_core" in output for output in outputs) == 1
    assert migrate("check", empty_db.dsn) == (0, "")


def test_migrator_waits_for_the_lock(empty_db: Database) -> None:
    holder = empty_db.connect()
    holder.cursor().execute("SELECT pg_advisory_lock(hashtextextended('toll.migrate', 0))")
    process = start_migrate("run", empty_db.dsn)
    wait_until(lambda: empty_db.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 30)
    assert empty_db.value("SELECT to_regnamespace('toll') IS NULL")
    holder.close()
    output, _ = process.communicate(timeout=60 * SLOWNESS)
    assert process.returncode == 0 and output.startswith("waiting for another migration\n")


def test_changed_migration_is_refused(empty_db: Database) -> None:
    migrated(empty_db).execute("UPDATE toll.migrations SET checksum = 'other' WHERE name = 'migrations/001_core'")
    applied = empty_db.query(RECORDED)
    for what in ("run", "check"):
        status, output = migrate(what, empty_db.dsn)
        assert status == 1 and output.startswith("EBADMSG: migrations/001_core has changed")
    assert empty_db.query(RECORDED) == applied


def test_newer_database_is_refused(empty_db: Database) -> None:
    migrated(empty_db).execute("INSERT INTO toll.migrations VALUES ('migrations/999_later', 'x')")
    for what in ("run", "check"):
        status, output = migrate(what, empty_db.dsn)
        assert status == 1 and output.startswith("EPROTO: ") and "migrations/999_later" in output


@pytest.mark.parametrize("name", ["functions/verify", "views/sessions", "roles"])
def test_changed_functions_and_views_are_applied_again(empty_db: Database, name: str) -> None:
    """What depends on them, and who was granted them, survives."""
    migrated(empty_db)
    empty_db.execute("CREATE VIEW public.mine AS SELECT session_id, live FROM public.session_totals")
    empty_db.execute("GRANT SELECT ON public.session_totals TO pg_monitor; GRANT EXECUTE ON FUNCTION toll.verify TO pg_monitor")
    empty_db.execute("UPDATE toll.migrations SET checksum = 'older' WHERE name = %s", name)
    status, output = migrate("check", empty_db.dsn)
    assert status == 1 and output.startswith(f"ESTALE: {name} differs")
    status, output = migrate("run", empty_db.dsn)
    assert status == 0 and output.splitlines() == list(dict.fromkeys([f"applied {name}", "applied roles"]))
    assert empty_db.query("SELECT * FROM public.mine") == []
    assert empty_db.value("SELECT has_table_privilege('pg_monitor', 'public.session_totals', 'SELECT')"
                          " AND has_function_privilege('pg_monitor', 'toll.verify(timestamptz)', 'EXECUTE')"
                          " AND has_table_privilege('toll_reader', 'public.session_totals', 'SELECT')")


def test_missing_migration_is_stale(empty_db: Database) -> None:
    migrated(empty_db).execute("DELETE FROM toll.migrations WHERE name = 'migrations/002_bookkeeping'")
    status, output = migrate("check", empty_db.dsn)
    assert status == 1 and output.startswith("ESTALE: migrations/002_bookkeeping has not been applied")


def test_failing_file_leaves_nothing_of_itself(empty_db: Database) -> None:
    """Something of the same name is in the way: the file's transaction is rolled back, and later runs go on from there."""
    empty_db.execute("CREATE TABLE public.session_transcripts ()")
    status, output = migrate("run", empty_db.dsn)
    assert status == 1 and output.startswith("EIO: migrations/001_core: ") and "session_transcripts" in output
    assert empty_db.value("SELECT to_regclass('public.billing_sessions') IS NULL")
    empty_db.execute("DROP TABLE public.session_transcripts")
    migrated(empty_db)
    assert faults(empty_db) == {}


def test_database_of_another_encoding_is_refused(cluster: Cluster, empty_db: Database) -> None:
    name = f"{empty_db.name}_latin1"
    cluster.psql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        status, output = migrate("run", cluster.dsn(name))
        assert status == 1 and output.startswith("EOPNOTSUPP: ") and "LATIN1" in output
    finally:
        cluster.psql(f"DROP DATABASE {name}")


def test_lost_connection_is_told_apart(empty_db: Database) -> None:
    status, output = migrate("run", empty_db.dsn + "_that_is_not_there")
    assert status == 1 and output.startswith("ENOTCONN: ")


# --- an owner who is no superuser; a cluster of its own, because roles are the cluster's ---

def test_ordinary_owner_migrates_and_a_superuser_adds_the_roles(own_cluster: Cluster) -> None:
    own_cluster.psql("CREATE ROLE alice LOGIN")
    own_cluster.psql("CREATE DATABASE calls OWNER alice")
    calls, dsn = Database(own_cluster, "calls"), own_cluster.dsn("calls", "alice")

    done = tolld("--migrate", env={"DATABASE_URL": dsn})
    assert done.returncode == 0, done.stderr
    assert "alice may not create role toll_owner" in done.stdout and "roles.sql" in done.stdout and "skipping" not in done.stdout
    assert migrate("check", dsn) == (0, "")
    add_call(calls)
    assert faults(calls) == {}
    assert calls.value("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'toll%'") == 0

    # By hand, twice: nothing depends on how often.
    for _ in range(2):
        run([own_cluster.bin / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", calls.dsn, "-f", ROOT / "sql/roles.sql"])
    assert calls.query("SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'toll'::regnamespace"
                       " OR oid IN ('public.billing_events'::regclass, 'public.session_totals'::regclass,"
                       " 'public.billing_events_id_seq'::regclass) ORDER BY 1") == [("toll_owner",), ("toll_wallet",)]
    assert calls.query("SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'toll'::regnamespace ORDER BY 1") == [
        ("toll_owner",), ("toll_wallet",)]
    assert calls.value("SELECT has_table_privilege('toll_ingest', 'public.billing_events', 'INSERT')")

    # alice is a member now: she still migrates, and what she makes is toll_owner's.
    calls.execute("UPDATE toll.migrations SET checksum = 'older' WHERE name IN ('views/usage', 'functions/partitions',"
                  " 'functions/wallet_credit', 'functions/wallet_ledger')")
    calls.execute("DROP VIEW public.model_usage_daily")
    status, output = migrate("run", dsn)
    assert status == 0 and "applied views/usage" in output, output
    assert calls.value("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'public.model_usage_daily'::regclass") == "toll_owner"
    assert calls.value("SELECT has_table_privilege('toll_reader', 'public.model_usage_daily', 'SELECT')")


def test_user_without_rights_is_refused(own_cluster: Cluster) -> None:
    own_cluster.psql("CREATE ROLE bob LOGIN")
    database = own_cluster.create_database()
    status, output = migrate("run", own_cluster.dsn(database.name, "bob"))
    assert status == 1 and output.startswith("EACCES: creating schema toll: ")
    migrated(database)
    for what in ("run", "check"):
        status, output = migrate(what, own_cluster.dsn(database.name, "bob"))
        assert status == 1 and output.startswith("EACCES: "), output
