"""Clients that come one after the other: a program of its own, so that no worker is forked with its sockets.

Argument: the port. Says "answered N" now and then, and when it is told a line what it met with, as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import threading

CLIENTS = 8
PATIENCE = 20.0


class Load:
    """One that had sent its request may lose its answer with the worker that had its connection. No other may."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.answered = self.lost = 0
        self.wrong: list[str] = []
        self.over = threading.Event()
        self._lock = threading.Lock()

    def come(self) -> None:
        while not self.over.is_set():
            try:
                client = socket.create_connection(self.address, timeout=PATIENCE)
            except OSError as error:
                self.wrong.append(f"connect: {error!r}")
                return
            with client:
                self._ask(client)

    def _ask(self, client: socket.socket) -> None:
        try:
            client.sendall(b"?\n")
            answer = client.recv(100)
        except TimeoutError:
            self.wrong.append(f"an answer took {PATIENCE} s")
            return
        except OSError:
            answer = b""
        with self._lock:
            if answer:
                self.answered += 1
                if self.answered % 20 == 0:
                    print(f"answered {self.answered}", flush=True)
            else:
                self.lost += 1


def main() -> None:
    load = Load(int(sys.argv[1]))
    threads = [threading.Thread(target=load.come) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    load.over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"answered": load.answered, "lost": load.lost, "wrong": load.wrong}), flush=True)


if __name__ == "__main__":
    main()
