"""Programs that end with everything open end quietly."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAMS = {
    "threads": """
import pydlb, socket
balancer = pydlb.Balancer(4, handler=lambda connection: connection.socket.recv(1))
client = socket.create_connection(balancer.address(balancer.listen()))
while not balancer.stats().open:
    pass
""",
    "a connection that waits": """
import pydlb, socket
balancer = pydlb.Balancer(0)
client = socket.create_connection(balancer.address(balancer.listen()))
while not balancer.stats().waiting:
    pass
""",
    "an iteration in a daemon thread": """
import pydlb, threading
balancer = pydlb.Balancer(0)
threading.Thread(target=lambda: list(balancer.connections()), daemon=True).start()
while not balancer.stats().workers:
    pass
""",
    "a server": """
import asyncio, pydlb
async def handler(reader, writer):
    await reader.read()
async def main():
    global server
    server = await pydlb.start_server(handler, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    while not server.balancer.stats().open:
        await asyncio.sleep(0)
asyncio.run(main())
""",
    "a blocked handler": """
import pydlb, socket, threading
blocked = threading.Event()
def handler(connection):
    blocked.set()
    threading.Event().wait()
balancer = pydlb.Balancer(1, handler=handler)
client = socket.create_connection(balancer.address(balancer.listen()))
blocked.wait()
""",
    "a blocked loop": """
import asyncio, pydlb, socket, threading
blocked = threading.Event()
async def handler(reader, writer):
    blocked.set()
    threading.Event().wait()
async def main():
    global server, client
    server = await pydlb.start_server(handler, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    await asyncio.to_thread(blocked.wait)
asyncio.run(main())
""",
    "an exception": """
import pydlb
balancer = pydlb.Balancer(2, handler=print)
balancer.listen()
raise SystemExit(0)
""",
    "a forked child": """
import os, pydlb, socket
balancer = pydlb.Balancer(1, handler=lambda connection: connection.socket.sendall(b"parent"))
address = balancer.address(balancer.listen())
child = os.fork()
if not child:
    try:
        balancer.worker()
    except pydlb.ClosedError:
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert socket.create_connection(address).recv(10) == b"parent"
balancer.close()
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_ends_quietly(name: str) -> None:
    command = [sys.executable, "-W", "ignore:This process", "-c", PROGRAMS[name]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = "worker_0 does not return from its handler; its thread is left behind\n" if "blocked" in name else ""
    assert (result.returncode, result.stdout, result.stderr) == (0, "", said)
