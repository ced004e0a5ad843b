"""One import for integration tests: everything that starts, feeds, troubles and asks a real daemon on a real PostgreSQL.

    from harness import Daemon, StreamSender, frames, wait_until

Fixtures (cluster, db, daemon_factory …) are in tests/conftest.py.
"""

from __future__ import annotations

import frames
from cluster import Cluster, Database
from daemon import Daemon, Sim, migrate, tolld
from proc import BUILD, ROOT, SLOWNESS, make_dir, remove_dir, rss_bytes, run, tail, wait_until
from senders import AckPage, Sender, StreamSender

__all__ = [
    "AckPage", "BUILD", "Cluster", "Daemon", "Database", "ROOT", "SLOWNESS", "Sender", "Sim", "StreamSender", "frames",
    "make_dir", "migrate", "remove_dir", "rss_bytes", "run", "tail", "tolld", "wait_until",
]
