"""Fixtures of the integration and fault tests, and how their run is reported.

- What a passing test prints is shown below its name: tests print figures.
- A failing test shows the end of every daemon's log.
- Each test has a time limit (default 120 s, `@pytest.mark.limit(seconds)`), multiplied under a sanitizer.
- Counts go to the file TOLL_COUNTS names, for tests/run.sh. Where it runs several processes, each takes the next test that has no file in
  the directory TOLL_CLAIMS names.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from bed import Bed  # noqa: E402
from harness import SLOWNESS, Cluster, Daemon, Database, make_dir, migrate, remove_dir, tail  # noqa: E402
from outage import Outage  # noqa: E402

LIMIT_SECONDS = 120


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server for the whole run. A test that stops or replaces it starts it again; see also own_cluster."""
    made = Cluster(quick=True)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A server for one test alone, set up as a user's is."""
    made = Cluster()
    try:
        yield made.start()
    finally:
        made.close()


def database(cluster: Cluster, template: Database | None = None) -> Iterator[Database]:
    if not cluster.running:
        cluster.start()
    made = cluster.create_database(template)
    yield made
    if not cluster.running:
        cluster.start()
    made.drop()


@pytest.fixture
def empty_db(cluster: Cluster) -> Iterator[Database]:
    """A database with nothing in it."""
    yield from database(cluster)


@pytest.fixture(scope="session")
def migrated(cluster: Cluster) -> Database:
    """What every `db` is a copy of: copying is quicker than migrating."""
    made = cluster.create_database()
    migrate(made.dsn)
    return made


@pytest.fixture
def db(cluster: Cluster, migrated: Database) -> Iterator[Database]:
    """A fresh database, migrated."""
    yield from database(cluster, migrated)


@pytest.fixture
def daemon_factory() -> Iterator[Callable[..., Daemon]]:
    """Makes daemons (see Daemon's arguments), not yet started; ends them all afterwards."""
    made: list[Daemon] = []

    def make(*args: Any, **kwargs: Any) -> Daemon:
        made.append(Daemon(*args, **kwargs))
        return made[-1]
    yield make
    for each in made:
        each.close()


@pytest.fixture
def daemon(daemon_factory: Callable[..., Daemon], db: Database) -> Daemon:
    """The usual case: one started daemon on a fresh database."""
    return daemon_factory(db.dsn).start()


@pytest.fixture(scope="module")
def bed(cluster: Cluster, migrated: Database) -> Iterator[Bed]:
    """The one daemon of a test file that sends it all kinds of things."""
    database = cluster.create_database(migrated)
    made = Bed(database)
    yield made
    made.close()
    database.drop()


@pytest.fixture
def writers(request: pytest.FixtureRequest) -> Iterator[int]:
    """Of every daemon that stores in a database: see the mark of the same name."""
    before, Daemon.writers = Daemon.writers, request.param
    yield request.param
    Daemon.writers = before


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that goes away again."""
    made = make_dir("s")
    yield made
    remove_dir(made)


@pytest.fixture
def records(scratch: Path) -> Path:
    """For Sim's --record and oracle.read_records()."""
    return scratch / "sent"


@pytest.fixture
def outage(db: Database) -> Iterator[Outage]:
    """To begin and end as the test likes."""
    made = Outage(db)
    yield made
    made.end()


@pytest.fixture
def needs_root() -> None:
    """For the few tests that only root can do. tests/run.sh lists them as not run; it takes no other skip."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


# --- reporting ---

def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "limit(seconds): this test's time limit")
    config.addinivalue_line("markers", "writers(1, 2, 4): run with so many writers (database.writers), each in turn")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("writers")
    if marker:
        if "writers" not in metafunc.fixturenames:
            metafunc.fixturenames.insert(0, "writers")
        metafunc.parametrize("writers", marker.args, indirect=True, ids=lambda count: f"writers{count}")


def untaken(items: list[pytest.Item], claims: Path) -> Iterator[pytest.Item]:
    """Those that no other process has taken; they are taken with this."""
    for item in items:
        try:
            (claims / hashlib.sha1(item.nodeid.encode()).hexdigest()).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield item


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    claims = os.environ.get("TOLL_CLAIMS")
    if not claims or session.testsfailed:
        return None
    mine = untaken(session.items, Path(claims))
    item = next(mine, None)
    while item is not None:
        following = next(mine, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        item = following
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("limit")
    seconds = (marker.args[0] if marker else LIMIT_SECONDS) * SLOWNESS

    def expired(*_: object) -> None:
        raise TimeoutError(f"{item.name} has taken longer than {seconds:g} s")
    signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    terminal = item.config.pluginmanager.get_plugin("terminalreporter")
    for line in getattr(item, "figures", []):
        terminal.write_line(line)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for each in Daemon.live:
            report.sections.append((f"log of tolld in {each.dir}", tail(each.log)))
    elif report.when == "call" and report.capstdout.strip():
        item.figures = [f"    {line}" for line in report.capstdout.rstrip().splitlines()]


def pytest_sessionfinish() -> None:
    for each in list(Daemon.live):
        each.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    path = os.environ.get("TOLL_COUNTS")
    if not path:
        return
    stats = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "xfailed", "xpassed")}
    skips = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    refused = [reason for reason in skips if "needs root" not in reason]
    bad = stats["failed"] + stats["error"] + stats["xfailed"] + stats["xpassed"] + len(refused)
    for reason in refused:
        terminalreporter.write_line(f"counted as failed: a test was skipped ({reason})")
    Path(path).write_text(f"{stats['passed']} {bad} {len(skips) - len(refused)}\n")
