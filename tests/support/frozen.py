"""Freezes one backend of a server that must go on for everybody else."""

from __future__ import annotations

import subprocess

import proc
from cluster import Database


def freeze(database: Database, pid: int) -> str | None:
    """SIGSTOP, and where the backend was: "idle", "COPY public.billing_events", "after COMMIT" …

    None, and it is not frozen: it ended, or it held one of the server's own locks, without which nobody else gets on.
    """
    try:
        database.cluster.freeze(pid)
        answer = proc.run([database.cluster.bin / "psql", "-X", "-At", "-F", "|", "-d", database.dsn, "-c",
                           f"SELECT state, translate(query, E'\\n', ' ') FROM pg_stat_activity WHERE pid = {pid}"], seconds=3).stdout.strip()
    except (ProcessLookupError, RuntimeError, subprocess.TimeoutExpired):
        answer = ""
    if not answer:
        database.cluster.thaw(pid)
        return None
    state, _, query = answer.partition("|")
    words = query.split() or ["connecting"]
    return "idle" if state == "idle" else " ".join(words[:2]) if state == "active" else f"after {words[0]}"
