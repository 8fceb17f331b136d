"""What `pydlb serve` was asked for, in a form that goes from the supervisor to its serving processes."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from pydlb.proxied import ProxyProtocol

__all__ = ["Placement", "ServeOptions", "WorkerClass"]

WorkerClass = Literal["auto", "thread", "process"]
Placement = Literal["none", "cpu", "numa"]


@dataclasses.dataclass(slots=True, kw_only=True)
class ServeOptions:
    """The options of one server.

    Attributes:
        app: Where to import the application from, such as ``"module:app"``.
        uvicorn: As for :class:`uvicorn.Config`.
        app_dir: A directory to import from before all others.
        workers: Event loops to spread connections over.
        worker_class: What a worker is; ``"auto"``: a thread without an interpreter lock, else a process.
        policy: Which worker gets a connection, as for :class:`pydlb.Balancer`.
        backend: As `device` of :func:`pydlb.open`.
        graceful_timeout: Seconds that open connections have to end.
        stall_timeout: Seconds after which a worker whose loop does not turn is told of, and counts as not alive.
        proxy_protocol: Whether connections begin with a header of the PROXY protocol, as for :meth:`Balancer.listen`.
        pin: Keep each worker on one CPU, or on the CPUs of one NUMA node.
        health_port: A port for readiness and liveness; None for none.
        metrics_port: A port for metrics; None for none.
    """

    app: str
    uvicorn: dict[str, Any] = dataclasses.field(default_factory=dict)
    app_dir: str = ""
    workers: int = 1
    worker_class: WorkerClass = "auto"
    policy: str = "dlb"
    backend: str = "auto"
    graceful_timeout: float = 30.0
    stall_timeout: float = 10.0
    proxy_protocol: ProxyProtocol = False
    pin: Placement = "none"
    health_port: int | None = None
    metrics_port: int | None = None

    def to_json(self) -> str:
        """All of them as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Options from what `to_json` wrote."""
        return cls(**json.loads(text))
