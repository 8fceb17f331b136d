"""Carries out a policy: links workers to queues, and tells the accepting thread whom it may pick."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from .errors import ConfigError, DeviceGone, ResourceExhausted
from .policies import DLB, Arrival, Exact, Nop
from .port import LDBPort, LDBQueue
from .workers import NOBODY, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from . import _native
    from .balancer.engine import Engine
    from .device import Domain
    from .policies import NativePick, Policy
    from .port import DirQueue, Port
    from .workers import Station

__all__ = ["Queues", "Steering"]

# What is sent to a worker's own queue waits for that worker: nobody else could be woken for it.
_OWN_QUEUE_GRACE: Final = 3600.0

_WEIGHT: Final = 1000
_MOST_WEIGHT: Final = 1000.0


class Queues:
    """The load-balanced queues of a balancer's domain.

    Args:
        shared: From which any worker takes its share.
        first_come: From which any worker takes what it asks for.
        new: Makes a queue for one worker.
    """

    def __init__(
        self,
        shared: LDBQueue,
        first_come: LDBQueue,
        *,
        new: Callable[[], LDBQueue] | None = None,
    ) -> None:
        self.shared: Final = shared
        self.first_come: Final = first_come
        self._new = new
        self._spare: list[LDBQueue] = []

    @classmethod
    def in_software(cls, domain: Domain, grace: float) -> Queues:
        """Queues that are made when they are needed."""
        shared = domain.create_ldb_queue(atomic_inflights=0, sharing="even", grace=grace)
        first_come = domain.create_ldb_queue(atomic_inflights=0, sharing="pull", grace=grace)

        def new() -> LDBQueue:
            return domain.create_ldb_queue(atomic_inflights=0, sharing="pull", grace=_OWN_QUEUE_GRACE)

        return cls(shared, first_come, new=new)

    @classmethod
    def on_device(cls, domain: Domain, grace: float) -> Queues:
        """One that all share: a device does not know how it should share, but gives only to those who come."""
        shared = domain.create_ldb_queue(atomic_inflights=0, sharing="even", grace=grace)
        return cls(shared, shared)

    def take(self) -> LDBQueue:
        """A queue for one worker."""
        if self._spare:
            return self._spare.pop()
        if self._new is None:
            raise ResourceExhausted(
                0,
                "there is no queue left for a worker of its own, which policies that pick need",
                op="set policy",
            )
        return self._new()

    def give_back(self, queue: LDBQueue) -> None:
        """The queue's worker has left. What it did not take is known to be stale by whoever takes it."""
        self._spare.append(queue)


class Steering:
    """Knows the workers and the policy.

    Args:
        acceptor: Who picks.
        queues: Where to.
        grace: Seconds that a connection waits for the worker whose turn it is.
        policy: The first policy.
        local: Whether workers accept by themselves, so that a connection can stay where it is.

    **Synchronization**: any thread.
    """

    def __init__(
        self, acceptor: _native.Acceptor, engine: Engine, grace: float, policy: Policy, *, local: bool = False
    ) -> None:
        self._local = local
        self._asking = threading.Lock()
        self._acceptor = acceptor
        self._engine = engine
        self._grace = grace
        self._limited = False  # whether there is a limit for each worker, which a shared queue does not keep
        self._levels = True  # whether the shared queue knows what workers have open
        self._lock = threading.Lock()
        self._policy = policy
        self._workers: dict[int, Worker] = {}
        self._own: dict[Worker, LDBQueue | DirQueue] = {}
        self._paused: set[Worker] = set()
        self._weights: dict[Worker, float] = {}
        self._tell()

    @property
    def policy(self) -> Policy:
        """The policy that is carried out."""
        return self._policy

    # ---- workers ---------------------------------------------------------------------------------------------------

    def register(self, worker: Worker) -> None:
        """The worker may be given connections from now on.

        Raises:
            ResourceExhausted: There is no queue left for it.
        """
        with self._lock:
            self._weights[worker] = 1.0
            try:
                if self._needs_own(self._policy):
                    self._equip(worker)
            except BaseException:
                del self._weights[worker]
                raise
            if worker.station.stays and not self._engine.prelinks:
                worker.port.enable()  # another process may have had it, and died
            self._workers[worker.number] = worker
            self._acceptor.set_weight(worker.number, _WEIGHT)
            self._acceptor.pause_worker(worker.number, False)  # a process may have died, and another one come
            self._policy.register(worker)
            self._link(worker)

    def unregister(self, worker: Worker) -> None:
        """The worker is given no more; what it was not given yet goes to others."""
        with self._lock:
            if self._workers.pop(worker.number, None) is None:
                return
            self._policy.unregister(worker)
            if self._may_share(worker):
                self._unlink(worker)
            self._paused.discard(worker)
            del self._weights[worker]
            self._acceptor.pause_worker(worker.number, True)
            self._tell()

    def forget(self, worker: Worker) -> None:
        """The worker's port is closed: others may have its queue."""
        with self._lock:
            queue = self._own.pop(worker, None)
            if isinstance(queue, LDBQueue) and self._engine.queues is not None:
                self._engine.queues.give_back(queue)

    def pause(self, worker: Worker) -> None:
        """Give the worker no more until `resume`; what waits for it goes to others."""
        with self._lock:
            self._check(worker)
            if worker in self._paused:
                return
            if self._may_share(worker):
                self._unlink(worker)
            self._paused.add(worker)
            self._acceptor.pause_worker(worker.number, True)

    def resume(self, worker: Worker) -> None:
        """Give the worker connections again."""
        with self._lock:
            self._check(worker)
            if worker not in self._paused:
                return
            self._paused.discard(worker)
            self._acceptor.pause_worker(worker.number, False)
            self._link(worker)

    def knows(self, worker: Worker) -> bool:
        """Whether the worker is one that may be given connections."""
        return self._workers.get(worker.number) is worker

    def is_paused(self, worker: Worker) -> bool:
        """Whether the worker is given nothing for now."""
        return worker in self._paused

    def weight(self, worker: Worker) -> float:
        """The worker's weight; 0 once it has left."""
        return self._weights.get(worker, 0.0)

    def set_weight(self, worker: Worker, weight: float) -> None:
        """Change a worker's share."""
        if not 0 <= weight <= _MOST_WEIGHT:
            raise ConfigError(f"weight is {weight}: it goes from 0, for no connections, to {_MOST_WEIGHT:g}")
        with self._lock:
            self._check(worker)
            shared, before = self._may_share(worker), self._weights[worker]
            self._weights[worker] = weight
            try:
                if self._weighs():
                    self._equip_all()
            except BaseException:
                self._weights[worker] = before
                raise
            if self._may_share(worker) and not shared:
                self._link(worker)
            elif shared and not self._may_share(worker):
                self._unlink(worker)
            self._acceptor.set_weight(worker.number, round(weight * _WEIGHT))
            self._tell()

    def _check(self, worker: Worker) -> None:
        if not isinstance(worker, Worker) or self._workers.get(worker.number) is not worker:
            raise ConfigError(f"{worker!r} is not a worker of this balancer")

    # ---- queues ----------------------------------------------------------------------------------------------------

    def _may_share(self, worker: Worker) -> bool:
        return worker not in self._paused and self._weights[worker] > 0

    def _link(self, worker: Worker) -> None:
        """All share what nobody was picked for, whatever the policy: it changes while connections wait."""
        if self._may_share(worker):
            self._admit(worker.port)

    def _admit(self, port: Port) -> None:
        if self._engine.prelinks:
            with contextlib.suppress(DeviceGone):
                port.enable()
            return
        for queue in self._common():
            _link(port, queue)

    def _unlink(self, worker: Worker) -> None:
        if self._engine.prelinks:
            with contextlib.suppress(DeviceGone):
                worker.port.disable()
            return
        for queue in self._common():
            _unlink(worker.port, queue)

    def _common(self) -> tuple[LDBQueue, ...]:
        queues = self._engine.queues
        return () if queues is None else tuple(dict.fromkeys((queues.shared, queues.first_come)))

    def _equip(self, worker: Worker) -> None:
        """Give the worker a queue of its own, for what it is picked for."""
        if worker not in self._own:
            self._own[worker] = queue = self._queue_for(worker, worker.station)
            self._acceptor.set_queue(worker.number, queue.id)

    def _queue_for(self, worker: Worker, station: Station) -> LDBQueue | DirQueue:
        if station.queue is not None:
            return station.queue
        assert self._engine.queues is not None
        queue = self._engine.queues.take()
        _link(station.port, queue)
        return queue

    def _equip_all(self) -> None:
        for worker in self._workers.values():
            self._equip(worker)

    # ---- the policy ------------------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """Pick by another policy from the next connection on.

        Raises:
            ResourceExhausted: It needs queues that the device does not have; nothing is changed then.
        """
        with self._lock:
            if policy.picks or self._compensates(policy):
                self._equip_all()
            before = self._policy
            self._replace(policy)
            self._tell()
            for worker in self._workers.values():
                before.unregister(worker)

    def _replace(self, policy: Policy) -> None:
        for worker in self._workers.values():
            policy.register(worker)
        self._policy = policy

    def _weighs(self) -> bool:
        return len(set(self._weights.values()) - {0.0}) > 1

    def set_limited(self, *, limited: bool) -> None:
        """Say whether there is a limit for each worker: then workers are picked, whatever the policy."""
        with self._lock:
            if limited:
                self._equip_all()
            self._limited = limited
            self._tell()

    def picks(
        self,
        policy: Policy | None = None,
        weights: dict[Worker, float] | None = None,
        *,
        limited: bool | None = None,
    ) -> bool:
        """Whether workers are picked, with this policy, these weights and limits in place of its own."""
        if self._limited if limited is None else limited:
            return True
        effective = {**self._weights, **(weights or {})}
        return (policy or self._policy).picks or len(set(effective.values()) - {0.0}) > 1

    # ---- another engine --------------------------------------------------------------------------------------------

    def move(self, engine: Engine, stations: dict[Worker, Station], policy: Policy) -> None:
        """Let everybody receive from another engine, and have what waits sent there again.

        Followed by the acceptor's `moved`.

        Args:
            engine: Where to.
            stations: What it has for each worker.
            policy: To pick by from now on.
        """
        with self._lock:
            self._engine, before = engine, self._policy
            self._levels = not any(worker.open for worker in stations)
            self._own.clear()
            for worker in self._workers.values():
                station = stations[worker]
                if self._needs_own(policy):
                    self._own[worker] = self._queue_for(worker, station)
                if self._may_share(worker):
                    self._admit(station.port)
            own = [(worker.number, queue.id) for worker, queue in self._own.items()]
            shared = NOBODY if engine.shared_queue is None else engine.shared_queue
            with contextlib.ExitStack() as still:
                for worker in stations:
                    still.enter_context(worker.accepts_nothing())
                self._acceptor.move(
                    engine.domain._native, engine.sender._native, shared, engine.directed, engine.prelinks, own
                )
                for worker, station in stations.items():
                    worker.move(station)
            if policy is not before:
                self._replace(policy)
                for worker in self._workers.values():
                    before.unregister(worker)
            self._tell()

    def _needs_own(self, policy: Policy) -> bool:
        """Whether workers need queues of their own."""
        return self._engine.directed or policy.picks or self._steers(policy)

    def _steers(self, policy: Policy) -> bool:
        """Whether who has fewest is picked, though the policy would leave it to the queue."""
        return self._weighs() or self._limited or self._compensates(policy)

    def _compensates(self, policy: Policy) -> bool:
        """Whether the queue would level only what came since the last switch: then who has fewest is picked instead."""
        return isinstance(policy, DLB) and self._engine.device.is_software and not self._levels

    def _tell(self) -> None:
        policy, queues = self._policy, self._engine.queues
        pick: NativePick = Exact().native() if not policy.picks and self._steers(policy) else policy.native()
        if self._local and isinstance(policy, Nop) and not self._steers(policy):
            pick = policy.stay()
        queue = None if queues is None else queues.first_come if isinstance(policy, Nop) else queues.shared
        self._acceptor.set_policy(
            pick.policy,
            NOBODY if queue is None else queue.id,
            pick.tie,
            pick.choices,
            pick.bound,
            pick.per_listener,
            pick.seed,
            max(1, round(self._grace * 1e9)),
            self._ask,
        )

    def _ask(self, listener: int, current: int, family: int, address: bytes) -> int:
        """Called on the thread that accepts, for policies in Python."""
        policy = self._policy
        try:
            with self._asking:
                worker = policy.pick(Arrival(listener, self._workers.get(current), family, address))
        except Exception:
            if self._policy is policy:
                raise
            worker = None  # it was replaced while it was asked, and knows no workers any more
        return NOBODY if worker is None else worker.number


def _link(port: Port, queue: LDBQueue) -> None:
    """What is gone need not be linked: the next engine's port is."""
    assert isinstance(port, LDBPort)
    with contextlib.suppress(DeviceGone):
        port.link(queue)


def _unlink(port: Port, queue: LDBQueue) -> None:
    assert isinstance(port, LDBPort)
    with contextlib.suppress(DeviceGone):
        port.unlink(queue)
