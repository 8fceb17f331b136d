"""The server is asyncio's, to those who use it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_has_all_that_asyncio_servers_have() -> None:
    theirs = {name for name in dir(asyncio.Server) if not name.startswith("_")}
    assert theirs <= set(dir(pydlb.Server))
    assert issubclass(pydlb.Server, asyncio.AbstractServer)


def test_handlers_run_on_the_workers_loops(run: Callable[..., Any], loop_factory: Any, connecting: Any) -> None:
    seen: set[tuple[str, int]] = set()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        seen.add((threading.current_thread().name, id(asyncio.get_running_loop())))
        assert isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop) is (loop_factory is None)
        writer.write(b"done\n")
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, workers=3, loop_factory=loop_factory)
        async with server, connecting(server) as clients:
            assert server.get_loop() is asyncio.get_running_loop()
            while len(seen) < 3:  # one that is busy when it is its turn may be passed over
                assert await clients.ask() == "done"
            assert not {loop for _, loop in seen} & {id(asyncio.get_running_loop())}
            assert threading.current_thread().name not in {name for name, _ in seen}

    run(main())


def test_plain_functions_are_handlers_too(run: Callable[..., Any], connecting: Any) -> None:
    def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0)
        async with server, connecting(server) as clients:
            assert await clients.ask() == "hello"

    run(main())


def test_signal_handlers_are_left_alone(run: Callable[..., Any], handler: Any) -> None:
    async def main() -> None:
        async with await pydlb.start_server(handler, "127.0.0.1", 0):
            during.extend(signal.getsignal(number) for number in range(1, 32))

    during: list[Any] = []
    # asyncio.run has its own handler for SIGINT while it runs.
    before = [signal.getsignal(number) for number in range(1, 32)]
    run(main())
    assert [now for now, number in zip(during, range(1, 32), strict=True) if number != signal.SIGINT] == [
        was for was, number in zip(before, range(1, 32), strict=True) if number != signal.SIGINT
    ]


# ---- its life ------------------------------------------------------------------------------------------------------


def test_serves_from_the_start_or_later(run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        address = server.sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        async with connecting(server) as clients:
            assert await clients.ask()
        server.close()
        assert not server.is_serving()
        assert server.sockets == ()
        await server.wait_closed()
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with pytest.raises(RuntimeError, match="closed"):
            await server.start_serving()
        with pytest.raises(RuntimeError, match="closed"):
            await server.serve_forever()

    run(main())


def test_a_server_that_never_served_is_closed(run: Callable[..., Any], handler: Any) -> None:
    async def main() -> None:
        async with await pydlb.start_server(handler, "127.0.0.1", 0, start_serving=False):
            pass

    run(main())


def test_serves_until_cancelled(run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, start_serving=False)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already"):
            await server.serve_forever()
        async with connecting(server) as clients:
            assert await clients.ask()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        assert server.balancer.closed

    run(main())


def test_closing_ends_serve_forever(run: Callable[..., Any], handler: Any) -> None:
    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0)
        asyncio.get_running_loop().call_later(0.01, server.close)
        with pytest.raises(asyncio.CancelledError):
            await server.serve_forever()

    run(main())


def test_open_connections_are_served_to_their_end(run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0)
        async with connecting(server) as clients:
            await clients.ask()
            server.close()
            closed = asyncio.create_task(server.wait_closed())
            reader, writer = clients.open[0]
            for _ in range(3):
                writer.write(b"?\n")
                assert await reader.readline()
            assert not closed.done()
            writer.close()
            await closed
            stats = server.balancer.stats()
            assert (stats.accepted, stats.served, stats.aborted) == (1, 1, 0)

    run(main())


def test_a_wait_for_the_end_can_be_given_up(run: Callable[..., Any], connecting: Any, handler: Any) -> None:
    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0)
        async with connecting(server) as clients:
            await clients.ask()
            server.close()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 0.05)
            server.abort_clients()
            await server.wait_closed()
            assert server.balancer.stats().aborted == 1
            assert await clients.open[0][0].read() == b""

    run(main())


def test_close_clients_sends_what_was_written(run: Callable[..., Any], loop_factory: Any, connecting: Any) -> None:
    size = 4_000_000

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"x" * size + b"\n")
        await reader.read()

    async def main() -> None:
        server = await pydlb.start_server(handler, "127.0.0.1", 0, loop_factory=loop_factory)
        async with server, connecting(server) as clients:
            reader, writer = await clients.connect()
            writer.write(b"?\n")
            assert await reader.readexactly(1) == b"x"
            server.close_clients()
            assert len(await reader.read()) == size
        assert server.balancer.stats().served == 1

    run(main())


def test_runs_on_a_loop_in_any_thread_and_of_the_old_manner(handler: Any) -> None:
    """``loop.run_until_complete`` for each step, and nothing running in between."""
    answers: list[bytes] = []

    def serve() -> None:
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(pydlb.start_server(handler, "127.0.0.1", 0))
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(b"?\n")
            answers.append(client.recv(100))
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(60)
    assert answers
    assert answers[0].startswith(b"worker_")


def test_a_server_that_is_forgotten_warns_and_ends(run: Callable[..., Any], handler: Any) -> None:
    async def main() -> Any:
        server = await pydlb.start_server(handler, "127.0.0.1", 0)
        return server.sockets[0].getsockname()

    with pytest.warns(ResourceWarning, match="unclosed <pydlb.Balancer"):
        address = run(main())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


# ---- where it listens ----------------------------------------------------------------------------------------------


def test_several_addresses(run: Callable[..., Any], handler: Any) -> None:
    async def main() -> None:
        async with await pydlb.start_server(handler, ["127.0.0.1", "::1"], 0) as server:
            assert {sock.family for sock in server.sockets} == {socket.AF_INET, socket.AF_INET6}
            for sock in server.sockets:
                reader, writer = await asyncio.open_connection(*sock.getsockname()[:2])
                writer.write(b"?\n")
                assert await reader.readline()
                writer.close()
                await writer.wait_closed()

    run(main())


def test_a_bound_socket_is_enough(run: Callable[..., Any], connecting: Any, handler: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, str(path))):
            sock = socket.socket(family)
            sock.bind(address)
            async with await pydlb.start_server(handler, sock=sock) as server, connecting(server) as clients:
                assert await clients.ask()
            assert sock.fileno() == -1
        assert not path.exists()

    run(main())


def test_addresses_in_use_are_named(run: Callable[..., Any], handler: Any) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(OSError, match=f"cannot listen on .*{port}.*in use"):
                await pydlb.start_server(handler, ["127.0.0.1", "::1"], port)
        with pytest.raises(socket.gaierror):
            await pydlb.start_server(handler, "name.invalid", 0)

    run(main())


# ---- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"client_connected_cb": None}, "client_connected_cb is None"),
        ({"workers": 0}, "workers is 0: it is a whole number from 1"),
        ({"workers": 1.5}, "workers is 1.5"),
        ({"worker_class": "fiber"}, "worker_class is 'fiber'"),
        ({"ssl": True}, "ssl is True: it is an ssl.SSLContext or None"),
        ({"ssl_handshake_timeout": 1.0}, "need ssl"),
        ({"policy": None}, "policy is None"),
        ({"backlog": "many"}, "backlog is 'many'"),
        ({"port": 70000}, "port is 70000: it is a whole number from 0 to 65535"),
        ({"grace": -1.0}, "grace is -1.0"),
        ({"host": None, "port": None}, "to say where to listen"),
        ({"sock": socket.socket}, "not both"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str, run: Callable[..., Any], handler: Any) -> None:
    async def main() -> None:
        given = {"client_connected_cb": handler, "host": "127.0.0.1", "port": 0, **arguments}
        with pytest.raises(pydlb.ConfigError) as caught:
            await pydlb.start_server(**given)
        assert words in str(caught.value)

    run(main())


def test_a_loop_factory_that_fails_leaves_nothing(run: Callable[..., Any], handler: Any) -> None:
    made = []

    def second_fails() -> asyncio.AbstractEventLoop:
        if made:
            raise LookupError("no more loops")
        made.append(asyncio.new_event_loop())
        return made[0]

    async def main() -> None:
        with pytest.raises(LookupError, match="no more loops"):
            await pydlb.start_server(handler, "127.0.0.1", 0, workers=3, loop_factory=second_fails)

    run(main())
    assert made[0].is_closed()
