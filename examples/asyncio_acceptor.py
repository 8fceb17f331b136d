#!/usr/bin/env python3
"""An HTTP server whose connections are spread over worker threads, each with an asyncio event loop.

    python examples/asyncio_acceptor.py [--port 8080] [--workers 4] [--backend auto] [--loop asyncio|uvloop]

Every answer says which worker gave it. Ctrl-C or SIGTERM ends it: it serves what is in the backlog, lets open
connections finish, and prints the account. A second one does not wait for them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import html
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pydlb

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>pydlb</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; color: #1b2733 }}
  h1 {{ font-weight: 600 }}
  table {{ border-collapse: collapse; width: 100% }}
  th, td {{ text-align: right; padding: .3rem .8rem; border-bottom: 1px solid #dde3ea }}
  th:first-child, td:first-child {{ text-align: left }}
  tr.here {{ background: #e8f3ff; font-weight: 600 }}
  p.note {{ color: #5b6b7b }}
</style>
<h1>Served by {worker}</h1>
<table>
  <tr><th>worker</th><th>accepted</th><th>open</th><th>served</th></tr>
{rows}
</table>
<p class="note">{accepted} connections accepted, {waiting} waiting, {open} open. Backend: {backend}. Reload to see
another worker.</p>
</html>
"""


def page(balancer: pydlb.Balancer, worker: str) -> bytes:
    """The page that shows the balancer's account."""
    stats = balancer.stats()
    rows = "\n".join(
        f"  <tr{' class=here' if one.name == worker else ''}><td>{html.escape(one.name)}</td>"
        f"<td>{one.accepted}</td><td>{one.open}</td><td>{one.served}</td></tr>"
        for one in stats.workers
    )
    return PAGE.format(
        worker=html.escape(worker),
        rows=rows,
        accepted=stats.accepted,
        waiting=stats.waiting,
        open=stats.open,
        backend=balancer.backend,
    ).encode()


class Site:
    """Answers HTTP/1.1 requests: ``/`` with the page, anything else with the worker's name."""

    def __init__(self) -> None:
        self.balancer: pydlb.Balancer
        self.stopping = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests until the client goes, or asks to close."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                keep = self.answer(head, writer)
                await writer.drain()
                if not keep:
                    break
        writer.close()

    def answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        """Write one response; False if the connection is to be closed after it."""
        request, *_ = head.split(b"\r\n", 1)
        parts = request.split(b" ")
        worker = threading.current_thread().name
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        if parts[1] == b"/":
            kind, body = b"text/html; charset=utf-8", page(self.balancer, worker)
        else:
            kind, body = b"text/plain", worker.encode() + b"\n"
        keep = parts[2] == b"HTTP/1.1" and b"connection: close" not in head.lower() and not self.stopping
        connection = b"keep-alive" if keep else b"close"
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s"
            % (kind, len(body), connection, b"" if parts[0] == b"HEAD" else body)
        )
        return keep


def table(stats: pydlb.BalancerStats) -> list[str]:
    """The account as lines of text."""
    lines = [f"{'worker':<12}{'accepted':>10}{'open':>8}{'served':>10}{'aborted':>9}"]
    lines += [
        f"{one.name:<12}{one.accepted:>10}{one.open:>8}{one.served:>10}{one.aborted:>9}"
        + ("  busy" if one.stalled else "")
        for one in stats.workers
    ]
    if stats.accept_error:
        lines.append(f"accepting stopped {stats.backoffs} times for a moment: {stats.accept_error}")
    if stats.fallbacks:
        lines.append(
            f"the device failed {stats.fallbacks} times and came back {stats.recoveries} times; "
            f"{stats.resent} connections were sent again"
        )
    lines.append(
        f"{'all':<12}{stats.accepted:>10}{stats.open:>8}{stats.served:>10}{stats.aborted:>9}"
        f"   waiting {stats.waiting}, imbalance {stats.imbalance:.2f}"
    )
    return lines


async def show(balancer: pydlb.Balancer, interval: float) -> None:
    """Show the account for as long as it changes: in place on a terminal, else a line when it did."""
    last = None
    height = 0
    while True:
        stats = balancer.stats()
        if sys.stdout.isatty():
            lines = table(stats)
            print(f"\x1b[{height}F" if height else "", end="")
            print("\n".join(f"\x1b[2K{line}" for line in lines), flush=True)
            height = len(lines)
        elif (seen := (stats.accepted, stats.open)) != last:
            counts = " ".join(f"{one.name}={one.accepted}" for one in stats.workers)
            print(f"accepted {stats.accepted}, open {stats.open}: {counts}", flush=True)
            last = seen
        await asyncio.sleep(interval)


def summary(stats: pydlb.BalancerStats, seconds: float) -> str:
    """The last words: every connection accounted for."""
    adds_up = stats.accepted == stats.served + stats.refused + stats.aborted and not stats.open and not stats.waiting
    return (
        f"{stats.accepted} accepted = {stats.served} served + {stats.refused} refused + {stats.aborted} aborted, "
        f"{stats.open} open, in {seconds:.1f} s" + ("" if adds_up else "  (THIS DOES NOT ADD UP)")
    )


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the workers' loops."""
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        sys.exit("asyncio_acceptor: uvloop is not installed: pip install uvloop, or leave out --loop")
    return uvloop.new_event_loop


async def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes, then wind up."""
    site = Site()
    started = time.monotonic()
    try:
        server = await pydlb.start_server(
            site.serve,
            options.host,
            options.port,
            workers=options.workers,
            backend=options.backend,
            loop_factory=loop_factory(options.loop),
            backlog=options.backlog,
            start_serving=False,
            metrics_port=options.metrics_port,
            metrics_host=options.metrics_host,
        )
        site.balancer = server.balancer
        await server.start_serving()
    except (OSError, pydlb.DLBError) as error:
        print(f"asyncio_acceptor: {error}", file=sys.stderr)
        return 1
    signals = asyncio.Semaphore(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.release)
    greet(server, options)
    showing = asyncio.create_task(show(server.balancer, options.interval))
    await signals.acquire()
    showing.cancel()
    print("\nstopping: serving what is in the backlog and open (once more to stop at once)", flush=True)
    site.stopping = True
    await wind_up(server, signals, options.grace)
    stats = server.balancer.stats()
    print("\n".join(table(stats)))
    print(summary(stats, time.monotonic() - started), flush=True)
    return 0


def greet(server: pydlb.Server, options: argparse.Namespace) -> None:
    """Say what was chosen, and where to point a browser."""
    balancer = server.balancer
    host, port = server.sockets[0].getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    why = f" ({balancer.fallback_reason})" if balancer.fallback_reason else ""
    print(f"backend: {balancer.backend}{why}")
    print(f"serving with {options.workers} worker threads: open {url} or run")
    if balancer.metrics_address is not None:
        print("metrics and probes on http://{}:{}/metrics".format(*balancer.metrics_address))
    print(f"    curl {url}worker", flush=True)


async def wind_up(server: pydlb.Server, signals: asyncio.Semaphore, grace: float) -> None:
    """Close the server; its connections have the grace for one more answer, unless another signal comes."""
    server.close()
    closed = asyncio.create_task(server.wait_closed())
    again = asyncio.create_task(signals.acquire())
    for end_connections in (server.close_clients, server.abort_clients):
        await asyncio.wait({closed, again}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if closed.done() or again.done():
            break
        end_connections()
    again.cancel()
    # What does not end by itself now is cut off, and counted as aborted.
    await asyncio.to_thread(server.balancer.close, 0)
    await closed


def main() -> int:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="An HTTP server balanced over worker threads by pydlb.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="worker threads (default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="auto, software, /dev/dlbN ... (default: %(default)s)")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio", help="event loops to run")
    parser.add_argument("--backlog", type=int, default=4096, help="the kernel's backlog (default: %(default)s)")
    parser.add_argument("--metrics-port", type=int, help="a port for metrics and probes; needs pydlb[metrics]")
    parser.add_argument("--metrics-host", default="127.0.0.1", help="address for it (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between looks (default: %(default)s)")
    parser.add_argument(
        "--grace", type=float, default=1.0, help="seconds that open connections have at the end (default: %(default)s)"
    )
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
