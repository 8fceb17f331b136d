"""Configurations that run: real sockets, where the listener says, spread as it says."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import pydlb
from pydlb import envoy, policies

from .inputs import BOOTSTRAP, ENVOY_FILTER, bootstrap, dlb

if TYPE_CHECKING:
    from pathlib import Path

EXACT = "connection_balance_config: {exact_balance: {}}"
ANY = "{socket_address: {address: 127.0.0.1, port_value: 0}}"


def greet(connection: pydlb.Connection) -> None:
    connection.socket.sendall(b"hello")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def visit(address: Any) -> bytes:
    reader, writer = await asyncio.open_connection(*address[:2])
    writer.write(b"ping")
    answer = await reader.read(100)
    writer.close()
    await writer.wait_closed()
    return answer


# ---- where it listens ------------------------------------------------------------------------------------------------


def test_the_documented_example_serves(connect: Any) -> None:
    config = envoy.load(BOOTSTRAP)
    with config.make_balancer(2, handler=greet, backend="software") as balancer:
        assert balancer.address()[0] == "127.0.0.1"
        assert [connect(balancer.address()).recv(10) for _ in range(4)] == [b"hello"] * 4
        assert str(balancer.policy) == "dlb"


def test_the_filter_of_a_gateway_serves_where_it_is_told_to() -> None:
    """A patch has no address."""
    config = envoy.load(ENVOY_FILTER)

    async def run() -> None:
        with pytest.raises(pydlb.ConfigError, match="ingressgateway-dlb' has no address to listen on: give host and"):
            await config.start_server(echo, backend="software")
        server = await config.start_server(echo, host="127.0.0.1", port=0, workers=2, backend="software")
        async with server:
            assert await visit(server.sockets[0].getsockname()) == b"ping"
            assert len(server.balancer.workers) == 2

    asyncio.run(run())


def test_every_address_is_listened_on(tmp_path: Path, connect: Any) -> None:
    path = tmp_path / "here.sock"
    fields = f"""\
additional_addresses:
- address: {{pipe: {{path: {path}, mode: 0600}}}}
- address: {{pipe: {{path: "@{tmp_path}"}}}}
- address: {{socket_address: {{address: "::", port_value: 0, ipv4_compat: true}}}}
- address: {{socket_address: {{address: "::1", port_value: 0}}}}
tcp_backlog_size: 7
{EXACT}
"""
    with envoy.load(bootstrap(fields)).make_balancer(2, handler=greet) as balancer:
        addresses = [balancer.address(number) for number in range(5)]
        assert addresses[1:3] == [str(path), b"\0" + str(tmp_path).encode()]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        both, six = addresses[3], addresses[4]
        for address in [*addresses, ("127.0.0.1", both[1])]:
            assert connect(address).recv(10) == b"hello", address
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", six[1]))
    assert not path.exists()


def test_a_server_listens_on_every_address_too(tmp_path: Path) -> None:
    fields = f"additional_addresses: [{{address: {ANY}}}]\nmax_connections_to_accept_per_socket_event: 1\n{EXACT}"

    async def run() -> None:
        async with await envoy.load(bootstrap(fields)).start_server(echo, workers=2) as server:
            for number in range(2):
                assert await visit(server.balancer.address(number)) == b"ping"

    asyncio.run(run())


def test_an_address_that_is_taken_lets_go_of_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as spare:
        first, second = spare.getsockname()[1], taken.getsockname()[1]
        spare.close()
        address = "{socket_address: {address: 127.0.0.1, port_value: %d}}"
        fields = f"additional_addresses: [{{address: {address % second}}}]\n{EXACT}"
        listener = envoy.load(bootstrap(fields, address % first)).listener
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{second}: Address already in use"):
            listener.make_balancer(1, handler=greet)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{second}"):
            asyncio.run(listener.start_server(echo))
        socket.create_server(("127.0.0.1", first)).close()


def test_ports_are_shared_where_it_says_so() -> None:
    config = envoy.load(bootstrap("enable_reuse_port: true\n" + EXACT))
    with config.make_balancer(1, handler=greet) as balancer:
        port = balancer.address()[1]
        again = envoy.load(bootstrap(f"enable_reuse_port: true\n{EXACT}", ANY.replace(": 0", f": {port}")))
        again.make_balancer(1, handler=greet).close()
        alone = envoy.load(bootstrap(EXACT, ANY.replace(": 0", f": {port}")))
        with pytest.raises(OSError, match="in use"):
            alone.make_balancer(1, handler=greet)


@pytest.mark.parametrize("address", ["{socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}", "null"])
def test_only_tcp_is_balanced(address: str) -> None:
    fields = "internal_listener: {}" if address == "null" else ""
    with pytest.raises(pydlb.ConfigError, match="there are no connections to balance"):
        envoy.load(bootstrap(fields, address)).make_balancer(1, handler=greet)


def test_a_listener_that_is_not_bound_does_not_listen() -> None:
    with envoy.load(bootstrap("bind_to_port: false")).make_balancer(1, handler=greet) as balancer:
        assert balancer.state == "idle"


# ---- how it balances -------------------------------------------------------------------------------------------------


def held(balancer: pydlb.Balancer, count: int, connect: Any) -> Counter[str]:
    """Who has what, of connections that are opened one by one and stay."""
    answers = []
    for _ in range(count):
        client = connect(balancer.address())
        answers.append(client.recv(20).decode())
    return Counter(answers)


@pytest.mark.parametrize(("fields", "parity"), [(EXACT, False), (EXACT, True), (dlb(), False)])
def test_held_connections_are_even(fields: str, parity: bool, connect: Any) -> None:
    names: dict[int, str] = {}

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(names.setdefault(threading.get_ident(), f"worker {len(names)}").encode())
        await asyncio.sleep(3600)

    async def run() -> Counter[str]:
        config = envoy.load(bootstrap(fields))
        server = await config.start_server(tell, workers=4, parity=parity, backend="software")
        spread = await asyncio.to_thread(held, server.balancer, 16, connect)
        server.abort_clients()
        server.close()
        await server.wait_closed()
        return spread

    assert sorted(asyncio.run(run()).values()) == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("fields", "parity", "policy"),
    [
        ("", False, policies.Nop),
        (EXACT, False, policies.Exact),
        (EXACT, True, policies.Exact),
        (dlb(), False, policies.DLB),
        (dlb(), True, policies.DLB),
        ("", True, policies.Nop),
    ],
)
def test_policies(fields: str, parity: bool, policy: type[policies.Policy]) -> None:
    config = envoy.load(bootstrap(fields))
    with config.make_balancer(1, handler=greet, parity=parity, backend="software") as balancer:
        assert type(balancer.policy) is policy
        if isinstance(balancer.policy, policies.Exact):
            assert balancer.policy == (policies.Exact("first", per_listener=True) if parity else policies.Exact())


def test_parity_is_envoys_way_of_handing_on(connect: Any) -> None:
    """Numbers and order as its source has them; what it lost is served."""
    config = envoy.load(bootstrap(dlb("max_retries: 12")))
    options = config.balancer_options(parity=True)
    assert {name: options[name] for name in options if name not in ("policy", "backend", "fallback")} == {
        "accept": "workers",
        "queue_depth": 8,
        "receive_batch": 32,
        "release": "receive",
        "max_retries": 12,
    }
    assert not {"accept", "release", "max_retries"} & {*config.balancer_options()}
    with config.make_balancer(2, handler=greet, parity=True, backend="software") as balancer:
        assert [connect(balancer.address()).recv(10) for _ in range(20)] == [b"hello"] * 20
        assert all(worker.port.releases_on_recv and worker.port.cq_depth == 8 for worker in balancer.workers)


def test_without_balance_a_connection_stays_where_it_was_accepted(connect: Any) -> None:
    with envoy.load(bootstrap("")).make_balancer(2, handler=greet, parity=True) as balancer:
        assert [connect(balancer.address()).recv(10) for _ in range(20)] == [b"hello"] * 20
        assert balancer.stats().kept == 20


def test_one_worker_for_each_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    config = envoy.load(bootstrap(EXACT))
    with config.make_balancer(handler=greet) as balancer:
        assert len(balancer.workers) == 3
    with config.make_balancer() as balancer:
        assert not balancer.workers


def two(first: str, second: str) -> str:
    """A bootstrap of two listeners, by their fields."""
    return bootstrap(first) + bootstrap(second).partition("  listeners:\n")[2].replace("echo\n", "echo2\n", 1)


def test_several_listeners_each_have_their_balancer(connect: Any) -> None:
    """Envoy's second DLB balancer in a process failed, or ended the process."""
    first, second = envoy.load(two(dlb(), dlb()))
    with (
        first.make_balancer(2, handler=greet, backend="software") as one,
        second.make_balancer(2, handler=greet, backend="software") as other,
    ):
        for balancer in (one, other):
            assert connect(balancer.address()).recv(10) == b"hello"


@pytest.mark.parametrize(("parity", "spread"), [(False, [3, 3, 3, 3]), (True, [4, 4, 2, 2])])
def test_several_listeners_have_their_workers_in_common(parity: bool, spread: list[int], connect: Any) -> None:
    """As in Envoy; but there each listener began with the first worker, so many with few connections burdened that."""
    config = envoy.load(two(EXACT, EXACT))
    names: list[str] = []

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names.append(threading.current_thread().name)
        writer.write(b"x")
        await asyncio.sleep(3600)

    async def run() -> None:
        server = await config.start_server(tell, workers=4, parity=parity)
        for number in range(2):
            for _ in range(6):
                client = connect(server.balancer.address(number))
                await asyncio.get_running_loop().run_in_executor(None, client.recv, 1)
        server.abort_clients()
        server.close()
        await server.wait_closed()

    asyncio.run(run())
    assert sorted(Counter(names).values(), reverse=True) == spread


def test_listeners_that_differ_need_a_balancer_each() -> None:
    config = envoy.load(two(EXACT, ""))
    with pytest.raises(pydlb.ConfigError, match="'echo' and listener 'echo2' are balanced differently"):
        config.make_balancer(1, handler=greet)


def test_what_is_not_tcp_is_left_out(connect: Any) -> None:
    udp = "{socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}"
    text = bootstrap(EXACT) + bootstrap(address=udp).partition("  listeners:\n")[2]
    with envoy.load(text).make_balancer(1, handler=greet) as balancer:
        assert connect(balancer.address()).recv(10) == b"hello"
