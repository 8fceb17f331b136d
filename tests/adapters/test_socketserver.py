"""The standard library's servers on a balancer's workers."""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import socket
import socketserver
import ssl
import threading
from typing import Any

import pytest

import pydlb
from pydlb.adapters.socketserver import BalancedMixIn, PoolMixIn

from .clients import names_of


class NameWorker(socketserver.StreamRequestHandler):
    """Answers each line with the worker's name."""

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"fail\n":
                raise ValueError("as asked")
            self.wfile.write(self.server.worker.name.encode() + b"\n")  # type: ignore[attr-defined]


class Page(http.server.BaseHTTPRequestHandler):
    """One page for all."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.server.worker.name} {self.server.server_port}".encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Threading(BalancedMixIn, socketserver.ThreadingTCPServer):
    daemon_threads = True


class Pool(BalancedMixIn, PoolMixIn, socketserver.TCPServer):
    pool_size = 4


class Web(BalancedMixIn, http.server.ThreadingHTTPServer):
    pass


@pytest.mark.parametrize("server_class", [Threading, Pool])
def test_spreads_held_connections(server_class: Any) -> None:
    with pydlb.Balancer(workers=0) as balancer:
        servers = [server_class(balancer.worker(), NameWorker) for _ in range(3)]
        for server in servers:
            server.start()
        listener = balancer.listen()
        with contextlib.ExitStack() as stack:
            names = names_of(stack, balancer.address(listener), 12)
            assert names == {server.worker.name: 4 for server in servers}
            assert [len(server.active) for server in servers] == [4, 4, 4]
            assert servers[0].drain(timeout=0) == 4
        assert [server.drain(timeout=60) for server in servers] == [0, 0, 0]
        for server in servers:
            server.stop()
        stats = balancer.stats()
    assert (stats.accepted, stats.served, stats.aborted) == (12, 12, 0)


def test_http_server(client: Any) -> None:
    with pydlb.Balancer(workers=0) as balancer:
        listener = balancer.listen()
        address = balancer.address(listener)
        servers = [Web(balancer.worker(), Page, address) for _ in range(2)]
        threads = [threading.Thread(target=server.serve_forever) for server in servers]
        for thread in threads:
            thread.start()
        web = client(address)
        answers = [web.get().text.split() for _ in range(6)]
        assert collections.Counter(name for name, _ in answers) == {server.worker.name: 3 for server in servers}
        assert {int(port) for _, port in answers} == {address[1]}
        web.close()
        assert balancer.drain(timeout=60) == 0
        balancer.close()  # which ends serve_forever
        for thread, server in zip(threads, servers, strict=True):
            thread.join(60)
            assert not thread.is_alive()
            server.server_close()


def test_failures_and_the_end_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pydlb.Balancer(workers=0) as balancer, contextlib.ExitStack() as stack:
        server = Threading(balancer.worker(), NameWorker)
        server.start()
        address = balancer.address(balancer.listen())
        failing = stack.enter_context(socket.create_connection(address, timeout=60))
        failing.sendall(b"fail\n")
        assert failing.recv(10) == b""
        names_of(stack, address, 2)
        server.stop()
        stats = balancer.stats()
        assert (stats.accepted, stats.served + stats.aborted) == (3, 3)
        assert stats.aborted == 3
    assert "ValueError: as asked" in capsys.readouterr().err


def test_a_pool_takes_no_more_than_it_has_threads() -> None:
    """What is beyond that waits for whichever worker is free first."""

    class Small(BalancedMixIn, PoolMixIn, socketserver.TCPServer):
        pool_size = 2

    with pydlb.Balancer(workers=0) as balancer, contextlib.ExitStack() as stack:
        servers = [Small(balancer.worker(), NameWorker) for _ in range(2)]
        for server in servers:
            server.start()
        address = balancer.address(balancer.listen())
        held = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(4)]
        names = [ask(client) for client in held]
        assert collections.Counter(names) == {server.worker.name: 2 for server in servers}
        one_more = stack.enter_context(socket.create_connection(address, timeout=60))
        one_more.sendall(b"?\n")
        while balancer.stats().accepted < 5:
            pass
        assert balancer.stats().waiting == 1
        free = names[-1]
        held[-1].close()
        assert one_more.recv(100).decode().strip() == free
        one_more.close()
        for client in held:
            client.close()
        for server in servers:
            assert server.drain(timeout=60) == 0
            server.stop()


def ask(client: socket.socket) -> str:
    client.sendall(b"?\n")
    return client.recv(100).decode().strip()


def test_tls(certificate: Any, client_context: ssl.SSLContext, capsys: pytest.CaptureFixture[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with pydlb.Balancer(workers=0) as balancer:
        listener = balancer.listen()
        server = Web(balancer.worker(), Page, balancer.address(listener), ssl=context)
        server.start()
        port = balancer.address(listener)[1]
        with contextlib.closing(
            http.client.HTTPSConnection("localhost", port, timeout=60, context=client_context)
        ) as web:
            for _ in range(3):
                web.request("GET", "/")
                assert web.getresponse().read().split()[1] == str(port).encode()
        with client_context.wrap_socket(
            socket.create_connection(("localhost", port)), server_hostname="localhost"
        ) as old:
            old.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            while old.recv(1000):
                pass
            old.unwrap().close()  # it was told the end in TLS's own way
        with socket.create_connection(("localhost", port), timeout=60) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while plain.recv(1000):
                    pass
        assert server.drain(60) == 0
        server.stop()
        stats = balancer.stats()
    assert (stats.accepted, stats.served, stats.aborted) == (3, 2, 1)
    assert "SSLError" in capsys.readouterr().err


def test_a_server_that_never_served_can_be_closed() -> None:
    with pydlb.Balancer(workers=0) as balancer:
        server = Threading(balancer.worker(), NameWorker)
        balancer.close(0)
        server.shutdown()
        server.server_close()


def test_connections_can_be_submitted() -> None:
    """By whoever has taken them from the worker."""
    with pydlb.Balancer(workers=0) as balancer, contextlib.ExitStack() as stack:
        address = balancer.address(balancer.listen())
        worker = balancer.worker()
        server = Threading(worker, NameWorker)

        def take() -> None:
            connection = worker.accept_blocking(timeout=60)
            assert connection is not None
            server.submit(connection)

        taker = threading.Thread(target=take)
        taker.start()
        assert names_of(stack, address, 1) == {worker.name: 1}
        taker.join()
        server.server_close()
