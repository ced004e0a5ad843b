"""A way to PostgreSQL that can be cut: the client's end of each connection breaks while the server's stays, as when a host or a network dies.

The server then knows nothing of it: its backend goes on with what it was doing, a COMMIT say.
"""

from __future__ import annotations

import socket
import threading

import proc
from cluster import Database

SOCKET_NAME = ".s.PGSQL.5432"


class Proxy:
    """Passes connections on to the database's server. `dsn` goes through it."""

    def __init__(self, database: Database) -> None:
        self.dir = proc.make_dir("x")
        self.dsn = f"host={self.dir} user=postgres dbname={database.name}"
        self._server = database.cluster.dir / SOCKET_NAME
        self._clients: list[socket.socket] = []
        self._servers: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.dir / SOCKET_NAME))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Breaks every connection for the clients. New ones are passed on as before."""
        for each in self._clients:
            each.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    def close(self) -> None:
        for each in (self._listener, *self._clients, *self._servers):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()
        proc.remove_dir(self.dir)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server))
            except OSError:
                client.close()
                continue
            self._clients.append(client)
            self._servers.append(server)
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, to: socket.socket) -> None:
        """Until either end breaks. An end of the client's is not passed on."""
        try:
            while data := source.recv(65536):
                to.sendall(data)
        except OSError:
            pass
