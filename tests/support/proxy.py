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
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []  # client's end, server's end
        self._half_open: list[socket.socket] = []                    # server's ends of connections that were cut
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.dir / SOCKET_NAME))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Breaks every connection for the clients. New ones are passed on as before."""
        with self._lock:
            for client, server in self._pairs:
                shut(client)
                self._half_open.append(server)
            self._pairs.clear()

    def tell_server(self) -> None:
        """The server learns that the connections that were cut are gone."""
        with self._lock:
            for each in self._half_open:
                shut(each)
            self._half_open.clear()

    def close(self) -> None:
        shut(self._listener)
        self._listener.close()
        self.cut()
        self.tell_server()
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
                server.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._from_client, args=(client, server), daemon=True).start()
            threading.Thread(target=self._from_server, args=(client, server), daemon=True).start()

    @staticmethod
    def _from_client(client: socket.socket, server: socket.socket) -> None:
        """Until either end breaks. The end of a client is not passed on: its host died with it."""
        pass_on(client, server)

    def _from_server(self, client: socket.socket, server: socket.socket) -> None:
        """The end of a server is: its host lives on."""
        pass_on(server, client)
        with self._lock:
            if (client, server) in self._pairs:
                self._pairs.remove((client, server))
                shut(client)


def pass_on(source: socket.socket, to: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            to.sendall(data)
    except OSError:
        pass


def shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was quicker
        pass
