"""A database that is away, quicker than by stopping its server: for a moment nobody finds its socket."""

from __future__ import annotations

from cluster import Database


class Outage:
    """Who is connected is thrown out, and nobody gets in until end(). Call end() in any case, or the cluster stays away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._path = database.cluster.dir / ".s.PGSQL.5432"
        self._away = database.cluster.dir / "away"

    def begin(self) -> None:
        connection = self._database.connect()
        self._path.rename(self._away)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                           " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'")
        connection.close()

    def end(self) -> None:
        if self._away.exists():
            self._away.rename(self._path)
