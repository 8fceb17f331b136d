"""The engine that a balancer has now: it may be replaced at any time, while connections wait and are open."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import TYPE_CHECKING

from pydlb.errors import ConfigError, DLBError
from pydlb.limits import Limits

from .backends import fallback_policy, open_software, reopens

if TYPE_CHECKING:
    from pydlb import _native
    from pydlb.policies import Policy
    from pydlb.steering import Steering
    from pydlb.workers import Station, Worker

    from .backends import Begun, Fallback
    from .crew import Crew
    from .engine import Engine, Needs

__all__ = ["Engines"]

logger = logging.getLogger("pydlb")


class Engines:
    """Moves a balancer from one engine to another.

    What is accepted waits with the acceptor, so an engine takes nothing along when it goes: what waits is sent again
    through the new one, and workers go on waiting at their new ports.

    Args:
        begun: The first one.
        needs: What any must have.
        fallback: What to do when a device fails.
        acceptor: Who sends.
        steering: Who links workers to queues.
        policy: To pick by once there is the device that could not be had at the start; None for the same.

    Attributes:
        gate: Held while workers are added, and while an engine is replaced.
        fallbacks: Times that a device failed, also at the start.
        probes: Times that a device was tried that had failed.
        recoveries: Times that it was usable again, and taken.

    **Synchronization**: any thread.
    """

    def __init__(
        self,
        begun: Begun,
        needs: Needs,
        fallback: Fallback | None,
        acceptor: _native.Acceptor,
        steering: Steering,
        policy: Policy | None = None,
    ) -> None:
        self._engine = begun.engine
        self._reason = begun.reason
        self._reopen = begun.reopen
        self._needs = needs
        self._fallback = fallback
        self._acceptor = acceptor
        self._steering = steering
        self.gate = threading.RLock()
        self._on_device = not begun.engine.device.is_software
        self.fallbacks = int(self._reopen is not None and not self._on_device)
        self.probes = 0
        self.recoveries = 0
        self._rewakes = 0
        self._stands_still = False  # there is nothing to fall back on
        self._paused = False
        self._policy = policy  # to go back to with the device
        self._crew: Crew | None = None
        self._closed = False

    def serve(self, crew: Crew | None) -> None:
        """Say who has to move along; None for nobody any more."""
        self._crew = crew

    def _workers(self) -> tuple[Worker, ...]:
        return () if self._crew is None else self._crew.workers

    # ---- how it is -------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """What does the work."""
        return self._engine.device.backend

    @property
    def reason(self) -> str | None:
        """Why it is not a device that was asked for."""
        return self._reason

    @property
    def movable(self) -> bool:
        """Whether it may be replaced."""
        return self._reopen is not None

    @property
    def on_device(self) -> bool:
        """Whether a device does the work."""
        return self._on_device

    @property
    def stands_still(self) -> bool:
        """Whether the device has failed, and there is nothing to fall back on."""
        return self._stands_still

    def rewakes(self) -> int:
        """Times that a second worker was woken for what a first one did not come for, by all engines."""
        return self._rewakes + self._engine.rewakes()

    def lost(self) -> int:
        """Events that the device has dropped."""
        return self._engine.lost()

    # ---- stations --------------------------------------------------------------------------------------------------

    def take_station(self) -> Station:
        """What one worker needs; under the gate."""
        return self._engine.take_station()

    def give_back(self, station: Station) -> None:
        """The worker has left."""
        with self.gate:
            self._engine.give_back(station)

    # ---- what is picked by -----------------------------------------------------------------------------------------

    def set_policy(self, policy: Policy) -> None:
        """Pick by another policy, on an engine that can.

        Raises:
            ResourceExhausted: The device has not enough left for that.
        """
        with self.gate:
            self._policy = None
            picks = self._steering.picks(policy)
            if self._engine.suits(picks=picks):
                self._steering.set_policy(policy)
            else:
                self._refit(picks, policy, must=picks)

    def set_weight(self, worker: Worker, weight: float) -> None:
        """Change a worker's share, on an engine that can.

        Raises:
            ResourceExhausted: The device has not enough left for that.
        """
        with self.gate:
            picks = self._steering.picks(weights={worker: weight})
            if picks and not self._engine.suits(picks=True):
                self._refit(picks, self._steering.policy, must=True)
            self._steering.set_weight(worker, weight)

    def set_limits(self, limits: Limits | None) -> None:
        """Change the limits, on an engine that can keep them.

        Raises:
            ResourceExhausted: The device has not enough left for that.
        """
        with self.gate:
            limited = limits is not None and limits.per_worker is not None
            picks = self._steering.picks(limited=limited)
            if picks and not self._engine.suits(picks=True):
                self._refit(picks, self._steering.policy, must=True)
            self._steering.set_limited(limited=limited)
            self._acceptor.set_limits(*(limits or Limits()).for_acceptor())

    def _refit(self, picks: bool, policy: Policy, *, must: bool) -> None:
        """Move to another engine on the same device; where that is not needed but only better, as far as it can."""
        if self._needs.shared:
            raise ConfigError(
                "on a device, worker processes keep their ports, which are fed by one queue for all, or by one for "
                "each: say by what workers are picked (policy, weights, limits per worker) when the balancer is made, "
                "or use threads"
            )
        assert self._reopen is not None
        needs = dataclasses.replace(self._needs, picks=picks, workers=len(self._workers()))
        try:
            engine = self._reopen(needs)
        except DLBError:
            if must:
                raise
            self._steering.set_policy(policy)
            return
        self._needs = needs
        self._move(engine, policy)

    # ---- away and back ---------------------------------------------------------------------------------------------

    def fall_back(self, reason: str) -> bool:
        """The device has failed: go on without; False if there was none, or there is nothing to go on with."""
        with self.gate:
            if not self._on_device or self._closed:
                return False
            self._on_device = False
            self._reason = f"{self.backend}: {reason}"
            if self._fallback is None or self._needs.shared:
                self._stands_still = True
                self._tell_pause()
                self.fallbacks += 1
                until = "until another balancer listens" if self._needs.shared else "until it can be used again"
                logger.warning("%s; connections wait %s", self._reason, until)
                return False
            before = self._steering.policy
            policy = fallback_policy(self._fallback, before)
            self._policy = before if policy is not before else None
            self._move(open_software(self._needs), policy)
            self.fallbacks += 1
            logger.warning("%s; connections go through the software engine, by policy %s", self._reason, policy)
            return True

    def recover(self) -> bool:
        """Go back to the device if it can be used again; False if it cannot."""
        with self.gate:
            if self._on_device or self._closed or self._reopen is None:
                return True
            policy = self._policy or self._steering.policy
            needs = dataclasses.replace(self._needs, picks=self._steering.picks(policy), workers=len(self._workers()))
            self.probes += 1
            try:
                engine = self._reopen(needs)
            except (DLBError, OSError) as error:
                logger.debug("the device cannot be used yet: %s", error)
                return False
            self._policy = None
            self._move(engine, policy)
            if engine.device.backend.startswith("/"):  # of several that were tried, it stays with this one
                self._reopen = reopens(engine)
            self._on_device, self._stands_still, self._reason = True, False, None
            self.recoveries += 1
            self._tell_pause()
            logger.warning("%s can be used again: connections go through it", self.backend)
            return True

    def _move(self, engine: Engine, policy: Policy) -> None:
        before = self._engine
        stations: dict[Worker, Station] = {}
        try:
            for worker in self._workers():
                stations[worker] = engine.take_station()
        except BaseException:
            engine.close()
            raise
        self._steering.move(engine, stations, policy)
        self._engine = engine
        self._acceptor.moved()
        before.close()
        self._rewakes += before.rewakes()

    def set_paused(self, paused: bool) -> None:
        """Leave connections in their backlogs, or accept them if there is an engine."""
        with self.gate:
            self._paused = paused
            self._tell_pause()

    def _tell_pause(self) -> None:
        self._acceptor.pause(self._paused or self._stands_still)

    def close(self) -> None:
        """Close the engine."""
        with self.gate:
            self._closed = True
            self._crew = None
            self._engine.close()
