"""A balancer is put together here: each part is made after those that it needs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import TYPE_CHECKING

from pydlb import _native
from pydlb.steering import Steering
from pydlb.workers import NOBODY, Accepting

from .account import Account
from .backends import begin, fallback_policy
from .crew import Crew
from .engines import Engines
from .guard import Guard
from .listeners import Listeners

if TYPE_CHECKING:
    from pydlb.limits import Limits
    from pydlb.policies import Policy
    from pydlb.processes.methods import StartMethod
    from pydlb.processes.pool import ProcessPool

    from .backends import Backend, Begun, Fallback
    from .engine import Engine, Needs

__all__ = ["Parts", "Wishes", "put_together"]

logger = logging.getLogger("pydlb")


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """What a balancer was asked for that its engine need not know; the names are those of its arguments."""

    policy: Policy
    backend: Backend
    fallback: Fallback | None
    limits: Limits | None
    batch: int
    max_retries: int
    receive_batch: int | None
    start_method: StartMethod | None
    patience: float
    name: str
    blocking: bool

    @property
    def picks(self) -> bool:
        """Whether workers are picked: by the policy, or since each may have only so many connections."""
        return self.policy.picks or (self.limits is not None and self.limits.per_worker is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What a balancer consists of; `pool` where workers are processes, `guard` where a device may fail or come back."""

    acceptor: _native.Acceptor
    steering: Steering
    engines: Engines
    crew: Crew
    listeners: Listeners
    account: Account
    pool: ProcessPool | None
    guard: Guard | None


def put_together(wishes: Wishes, needs: Needs) -> Parts:
    """Make the parts, from the engine upwards.

    Raises:
        DLBError: What was asked for cannot be had, and there is nothing to fall back on.
    """
    begun = begin(wishes.backend, needs, wishes.fallback)
    policy = fallback_policy(wishes.fallback, wishes.policy) if begun.fell_back else wishes.policy
    _tell_fallback(begun, policy)
    with contextlib.ExitStack() as undo:
        undo.callback(begun.engine.close)
        pool = _make_pool(wishes, needs.max_workers) if needs.shared else None
        acceptor = _make_acceptor(begun.engine, pool, wishes, needs)
        undo.callback(acceptor.end)
        steering = Steering(acceptor, begun.engine, needs.grace, policy, local=needs.lanes)
        engines, crew = _staff(begun, acceptor, steering, pool, wishes, needs)
        undo.callback(engines.serve, None)
        listeners = Listeners(acceptor, pool)
        account = Account(acceptor, crew, listeners, engines, pool)
        if pool is not None:
            pool.begin(crew)
            undo.callback(pool.close)
        guard = Guard(engines, acceptor) if engines.movable or engines.on_device else None
        undo.pop_all()
    return Parts(acceptor, steering, engines, crew, listeners, account, pool, guard)


def _staff(
    begun: Begun,
    acceptor: _native.Acceptor,
    steering: Steering,
    pool: ProcessPool | None,
    wishes: Wishes,
    needs: Needs,
) -> tuple[Engines, Crew]:
    """Who stays when the engine is replaced by another."""
    wanted = None if steering.policy is wishes.policy else wishes.policy
    engines = Engines(begun, needs, wishes.fallback, acceptor, steering, wanted)
    crew = Crew(
        acceptor,
        engines,
        steering,
        blocking=wishes.blocking,
        prefix=wishes.name,
        pool=pool,
        patience=wishes.patience,
        accepting=Accepting(acceptor, wishes.max_retries) if needs.lanes else None,
        batch=wishes.receive_batch,
    )
    engines.serve(crew)
    if wishes.limits is not None:
        engines.set_limits(wishes.limits)
    return engines, crew


def _tell_fallback(begun: Begun, policy: Policy) -> None:
    if begun.fell_back and begun.reopen is not None:
        logger.info("%s; connections go through the software engine, by policy %s, until then", begun.reason, policy)


def _make_pool(wishes: Wishes, seats: int) -> ProcessPool:
    """Processes are loaded where they are wanted."""
    from pydlb.processes.pool import ProcessPool

    return ProcessPool(seats, wishes.start_method, blocking=wishes.blocking)


def _make_acceptor(engine: Engine, pool: ProcessPool | None, wishes: Wishes, needs: Needs) -> _native.Acceptor:
    return _native.Acceptor(
        engine.domain._native,
        engine.sender._native,
        queue=NOBODY if engine.shared_queue is None else engine.shared_queue,
        slots=needs.max_waiting,
        batch=wishes.batch,
        blocking=wishes.blocking,
        board=None if pool is None else pool.seats.board,
        directed=engine.directed,
        holds=engine.prelinks,
        by_workers=needs.lanes,
    )
