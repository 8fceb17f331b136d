"""Which figures a balancer's statistics hold, with names, kinds and units: the one place that knows their fields."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydlb.stats import BalancerStats

__all__ = ["Family", "Histogram", "Sample", "families"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """How many observations were less than each bound, the last without one.

    Attributes:
        bounds: Upper bounds, in order, without infinity.
        counts: Observations up to each bound, all lower ones included; one more than `bounds`: all of them.
        total: The sum of the observations, at most: each is taken for its bound.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One figure.

    Attributes:
        value: The figure; of a histogram, all of its figures.
        labels: What it is of.
    """

    value: float | Histogram
    labels: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """Figures of one name.

    Attributes:
        name: As Prometheus writes it, without ``_total``.
        kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
        help: What it is, in a sentence.
        unit: ``"seconds"``, or empty for numbers.
        samples: The figures.
    """

    name: str
    kind: Kind
    help: str
    unit: str
    samples: Sequence[Sample]


# Of the whole balancer: the field of BalancerStats, then name, kind and help.
_TOTALS: Final[Sequence[tuple[str, str, Kind, str]]] = (
    ("accepted", "connections_accepted", "counter", "Connections taken from the listeners' backlogs."),
    ("waiting", "connections_waiting", "gauge", "Accepted connections on their way to a worker."),
    ("open", "connections_open", "gauge", "Connections open on workers."),
    ("served", "connections_served", "counter", "Connections closed in the ordinary way."),
    ("refused", "connections_refused", "counter", "Connections closed without having been given to a worker."),
    ("aborted", "connections_aborted", "counter", "Connections ended by an error or by the balancer's closing."),
    ("gone", "connections_gone", "counter", "Connections that clients gave up before they could be accepted."),
    ("taken_back", "connections_taken_back", "counter", "Times that a connection was offered to another worker."),
    ("held_up", "accept_held_up", "counter", "Times that connections had to stay in the backlog."),
    ("refused_at_limit", "connections_refused_at_limit", "counter", "Connections turned away at a limit."),
    ("limited", "limits_reached", "counter", "Times that a limit was reached."),
    ("overflowed", "connections_overflowed", "counter", "Connections given to a worker beyond its limit."),
    ("retries", "handoff_retries", "counter", "Times that what the engine had refused was sent again."),
    ("kept", "connections_kept", "counter", "Connections that stayed with the worker that accepted them."),
    ("resent", "connections_resent", "counter", "Connections sent again after the engine was replaced."),
    ("fallbacks", "device_fallbacks", "counter", "Times that the device failed and was done without."),
    ("probes", "device_probes", "counter", "Times that a device that had failed was tried."),
    ("recoveries", "device_recoveries", "counter", "Times that the device could be used again."),
    ("released_early", "connections_released_early", "counter", "Connections that the device had no room to count on."),
    ("backoffs", "accept_backoffs", "counter", "Times that accepting stopped for want of descriptors or memory."),
    ("imbalance", "imbalance_ratio", "gauge", "Open connections of the fullest worker over their mean; 1 is even."),
)
# Of each worker, by the fields of WorkerStats.
_OF_WORKERS: Final[Sequence[tuple[str, str, Kind, str]]] = (
    ("accepted", "worker_connections_accepted", "counter", "Connections that the worker was given."),
    ("open", "worker_connections_open", "gauge", "Connections open on the worker."),
    ("served", "worker_connections_served", "counter", "Connections that the worker closed in the ordinary way."),
    ("aborted", "worker_connections_aborted", "counter", "The worker's connections that were ended by an error."),
    ("waiting", "worker_connections_waiting", "gauge", "Connections that the worker was picked for and did not take."),
    ("stalled", "worker_stalled", "gauge", "1 if the worker was due for a connection and did not come for it in time."),
)
# Of each listener, by the fields of ListenerStats.
_OF_LISTENERS: Final[Sequence[tuple[str, str, Kind, str]]] = (
    ("accepted", "listener_connections_accepted", "counter", "The listener's connections that workers were given."),
    ("open", "listener_connections_open", "gauge", "The listener's connections that are open."),
)
# From 8 microseconds to 17 seconds.
_HANDOFF_BOUNDS: Final = tuple((1 << n) * 1e-6 for n in range(3, 25))
# Under the names that Envoy's own Prometheus endpoint gives the same figures.
_ENVOY: Final[Sequence[tuple[str, str, Kind]]] = (
    ("accepted", "downstream_cx", "counter"),
    ("open", "downstream_cx_active", "gauge"),
    ("refused_at_limit", "downstream_cx_overflow", "counter"),
)


def families(stats: BalancerStats, *, envoy_names: bool = False) -> Iterator[Family]:
    """What the statistics of a balancer hold.

    Args:
        stats: A balancer's.
        envoy_names: Also give the figures that Envoy has under Envoy's names.
    """
    for field, name, kind, text in _TOTALS:
        yield Family(f"pydlb_{name}", kind, text, "", [Sample(float(getattr(stats, field)), {})])
    for field, name, kind, text in _OF_WORKERS:
        samples = [Sample(float(getattr(worker, field)), {"worker": worker.name}) for worker in stats.workers]
        yield Family(f"pydlb_{name}", kind, text, "", samples)
    yield from _of_listeners(stats)
    causes = [Sample(float(count), {"cause": cause}) for cause, count in stats.refused_by.items()]
    text = "Connections closed without having been given to a worker, by cause."
    yield Family("pydlb_connections_refused_by_cause", "counter", text, "", causes)
    lags = [Sample(lag, {"worker": worker.name}) for worker in stats.workers if (lag := worker.loop_lag) is not None]
    text = "Time that the worker's event loop took to come to what it was asked to do."
    yield Family("pydlb_worker_loop_lag_seconds", "gauge", text, "seconds", lags)
    yield Family("pydlb_fairness_ratio", "gauge", "Jain's index of open connections.", "", [Sample(stats.fairness, {})])
    text = "Time from accept to the worker."
    yield Family("pydlb_handoff_seconds", "histogram", text, "seconds", [Sample(_handoff(stats), {})])
    if envoy_names:
        yield from _envoy(stats)


def _of_listeners(stats: BalancerStats) -> Iterator[Family]:
    for field, name, kind, text in _OF_LISTENERS:
        samples = [
            Sample(float(getattr(listener, field)), {"listener": listener.address or str(listener.number)})
            for listener in stats.listeners
        ]
        yield Family(f"pydlb_{name}", kind, text, "", samples)


def _handoff(stats: BalancerStats) -> Histogram:
    """With the same bounds always: figures of one time can then be taken from those of another."""
    counts = [sum(count for below, count in stats.handoff_seconds if below <= bound) for bound in _HANDOFF_BOUNDS]
    everything = sum(count for _, count in stats.handoff_seconds)
    total = sum(below * count for below, count in stats.handoff_seconds)
    return Histogram(_HANDOFF_BOUNDS, [*counts, everything], total)


def _envoy(stats: BalancerStats) -> Iterator[Family]:
    for field, name, kind in _ENVOY:
        whole = [Sample(float(getattr(stats, field)), {})]
        yield Family(f"envoy_listener_{name}", kind, f"As Envoy's {name}.", "", whole)
        if name == "downstream_cx_overflow":
            continue  # Envoy has it of listeners only
        each = [
            Sample(float(getattr(worker, field)), {"envoy_worker_id": worker.name.replace("-", "_")})
            for worker in stats.workers
        ]
        yield Family(f"envoy_listener_worker_{name}", kind, f"As Envoy's worker_N.{name}.", "", each)
