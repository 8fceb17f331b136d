"""The smallest set-up through which events can go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydlb


class Line:
    """One queue between a port that sends and ports that receive."""

    def __init__(self, domain: pydlb.Domain, ports: int = 1, **queue: int) -> None:
        self.domain = domain
        self.queue = domain.create_ldb_queue(**queue)
        self.sender = domain.create_dir_port()
        self.ports = [domain.create_ldb_port() for _ in range(ports)]
        for port in self.ports:
            port.link(self.queue)
        domain.start()

    @property
    def port(self) -> pydlb.LDBPort:
        return self.ports[0]

    def send(self, *data: int, **options: int) -> None:
        for number in data:
            assert self.sender.send_one(number, self.queue, **options)


def received(port: pydlb.Port, count: int = 32) -> list[int]:
    """The data of what there is."""
    numbers: list[int] = port.recv(count, timeout=0)["data"].tolist()
    return numbers
