"""sql/README.md, pasted into a shell as a reader would."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import page
import pytest
from harness import BUILD, ROOT, SLOWNESS, Daemon, Database


@pytest.mark.limit(120)
def test_page_of_prices_and_wallets(daemon_factory: Callable[..., Daemon], db: Database, scratch: Path) -> None:
    daemon = daemon_factory(db.dsn, config={"batch.age": "10s"}).start()  # a call's frames are stored together, however slow the machine
    env = {"DATABASE_URL": db.dsn, "TOLL_SOCKET": str(daemon.socket), "TOLL_CONTROL": str(daemon.control), "SEED": str(ROOT / "sql/seed"),
           "PATH": f"{BUILD}:/usr/lib/postgresql/15/bin:/usr/bin:/bin", "PSQLRC": "/dev/null", "PGTZ": "UTC", "PAGER": ""}
    blocks = page.run(ROOT / "sql/README.md", env, scratch, 100 * SLOWNESS)
    print(f"{len(blocks)} blocks, {sum(len(block.commands.splitlines()) for block in blocks)} lines")
    assert not page.differences(blocks)
