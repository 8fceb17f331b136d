"""A device and a scheduling domain by libdlb.

libdlb tells less than pydlb's interface does. What waits, what was done, and what is left of a domain's atomic storage
are counted here; they are right as long as no other process uses the domain.
"""

from __future__ import annotations

import collections
import errno
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from pydlb.errors import ConfigError, DLBError, ResourceExhausted, closed

from .library import Library, load
from .port import VendorPort

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VendorDevice", "VendorDomain", "open_device"]

_COMBINED_CREDITS: Final = 1 << 4  # a capability: DLB 2.5
_ANY_CLASS: Final = 4
_ATOMIC, _UNORDERED, _ORDERED, _DIRECTED = range(4)
_QUEUE_ATOMIC_INFLIGHTS: Final = 2048

# What a physical function has in all: libdlb tells only what is left.
_TOTAL: Final = {
    "domains": 32,
    "ldb_queues": 32,
    "ldb_ports": 64,
    "history_entries": 2048,
    "atomic_inflights": _QUEUE_ATOMIC_INFLIGHTS,
    "sequence_slots": (16, 16),
}
_TOTAL_OF_VERSION: Final = {
    2: {"dir_ports": 64, "ldb_credits": 8192, "dir_credits": 4096},
    3: {"dir_ports": 96, "ldb_credits": 16384, "dir_credits": 0},
}


def open_device(path: str | None, numbers: Sequence[int]) -> VendorDevice:
    """Open the first device that libdlb can open.

    Args:
        path: Of the library; None to have it found.
        numbers: Which devices to try, in order.

    Raises:
        BackendUnavailable: The library cannot be used.
        DeviceError: It opens none of the devices; for what reason the first.
    """
    library = load(path)
    handle = library.ffi.new("dlb_hdl_t *")
    first: DLBError | None = None
    for number in numbers or [0]:
        if library.attempt("open", number, handle) == 0:
            return VendorDevice(library, handle[0])
        first = first or library.failure("open", f"open /dev/dlb{number} by {library.path}")
    assert first is not None
    raise first


class _Shared:
    """What devices and domains have in common: one process, and an end that waits for the last child."""

    kind = ""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Final = os.getpid()
        self._children = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed or self._process != os.getpid()

    def check_open(self) -> None:
        if self.closed:
            raise closed(self.kind)

    def close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self._closed = True
            last = self._children == 0
        if last:
            self._end()

    def adopt(self) -> None:
        with self._lock:
            self.check_open()
            self._children += 1

    def let_go(self) -> None:
        with self._lock:
            self._children -= 1
            last = self._closed and self._children == 0
        if last:
            self._end()

    def _end(self) -> None:
        raise NotImplementedError


class VendorDevice(_Shared):
    """See :class:`pydlb._backend.BackendDevice`."""

    kind = "device"

    def __init__(self, library: Library, handle: Any) -> None:  # noqa: ANN401 - a pointer of cffi's
        super().__init__()
        self.library: Final = library
        self.handle: Final = handle
        self.atomic_inflights_taken = 0
        capabilities = library.ffi.new("dlb_dev_cap_t *")
        library.call("get_dev_capabilities", handle, capabilities, op="open")
        self._version = 3 if capabilities[0] & _COMBINED_CREDITS else 2

    @property
    def version(self) -> int:
        self.check_open()
        return self._version

    def resources(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self.check_open()
        amounts = self.library.ffi.new("dlb_resources_t *")
        self.library.call("get_num_resources", self.handle, amounts, op="resources")
        total = {**_TOTAL, **_TOTAL_OF_VERSION[self._version]}
        left = {
            **{name: getattr(amounts, name) for name in total if hasattr(amounts, name)},
            "sequence_slots": tuple(amounts.sequence_slots),
            "atomic_inflights": _QUEUE_ATOMIC_INFLIGHTS - self.atomic_inflights_taken,
        }
        if self._version == 3:  # libdlb leaves what follows as it was
            left["dir_credits"] = 0
        return total, left

    def create_domain(
        self,
        ldb_queues: int,
        ldb_ports: int,
        dir_ports: int,
        credits: int,
        history_entries: int,
        atomic_inflights: int,
        sequence_slots: tuple[int, int],
        shared: bool = False,
        class_ports: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> VendorDomain:
        if any(class_ports):
            raise ConfigError(f"create domain: class_ports is {class_ports}: open the device itself for that")
        if shared:
            raise ConfigError("create domain: shared is True: only software's domains can be used by other processes")
        left = self.resources()[1]
        amounts: dict[str, Any] = {
            "domains": 1,
            "ldb_queues": ldb_queues,
            "ldb_ports": ldb_ports,
            "dir_ports": dir_ports,
            "ldb_credits": credits,
            "history_entries": history_entries,
            "atomic_inflights": atomic_inflights,
        }
        if ldb_queues and not ldb_ports:
            raise ConfigError(
                f"create domain: ldb_queues is {ldb_queues} but ldb_ports is 0: load-balanced queues need a "
                "load-balanced port to serve them"
            )
        for name, amount in amounts.items():
            _check_left("create domain", name, amount, left[name], "the device")
        for group, slots in enumerate(sequence_slots):
            name = f"sequence_slots[{group}]"
            _check_left("create domain", name, slots, left["sequence_slots"][group], "the device")
        # On DLB 2.0 directed events need credits of their own: as many, as far as the device has them.
        amounts["dir_credits"] = min(credits, left["dir_credits"]) if dir_ports else 0
        amounts["sequence_slots"] = sequence_slots
        self.adopt()
        try:
            return VendorDomain(self, amounts)
        except BaseException:
            self.let_go()
            raise

    def _end(self) -> None:
        self.library.attempt("close", self.handle)


class VendorDomain(_Shared):
    """See :class:`pydlb._backend.BackendDomain`."""

    kind = "domain"

    def __init__(self, device: VendorDevice, amounts: dict[str, Any]) -> None:
        super().__init__()
        self.device: Final = device
        self.library: Final = device.library
        self._credits = amounts["ldb_credits"]
        self._atomic_inflights = amounts["atomic_inflights"]
        self._atomic_inflights_left = self._atomic_inflights
        self._history_left = amounts["history_entries"]
        self._left = {name: amounts[name] for name in ("ldb_queues", "ldb_ports", "dir_ports")}
        self._resting: dict[tuple[object, ...], list[int]] = {}
        self._queues_of_ports: dict[int, int] = {}
        self._unpaired_queues: set[int] = set()
        self._launched = False
        self.started = False
        self.gone = False
        self.ports: set[VendorPort] = set()
        # What may be sent: queue | scheduling type << 8.
        self.keys: frozenset[int] = frozenset()
        self._ldb_queues = 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._depths: collections.Counter[int] = collections.Counter()
        self._alert = self.library.ffi.callback("void (dlb_alert_t *, int, void *)", self._alerted)
        self._create(amounts)

    # ---- life ------------------------------------------------------------------------------------------------------

    def _create(self, amounts: dict[str, Any]) -> None:
        device, library = self.device, self.library
        combined = device.version == 3
        wanted = library.ffi.new("dlb_create_sched_domain_t *")
        for name in ("ldb_queues", "ldb_ports", "dir_ports", "history_entries", "sequence_slots", "ldb_credits"):
            setattr(wanted, name, amounts[name])
        wanted.dir_credits = 1 if combined else amounts["dir_credits"]  # with combined credits: the number of pools
        wanted.ldb_pools = wanted.dir_pools = 0 if combined else 1
        self._id = library.call("create_sched_domain", device.handle, wanted, op="create domain")
        self.handle = library.ffi.NULL
        try:
            self.handle = library.call("attach_sched_domain", device.handle, self._id, op="create domain")
            self._pools = self._create_pools(amounts, combined=combined)
        except BaseException:
            self._reset()
            raise
        with device._lock:
            device.atomic_inflights_taken += self._atomic_inflights

    def _create_pools(self, amounts: dict[str, Any], *, combined: bool) -> tuple[int, int]:
        names = ["credit"] if combined else ["ldb_credit", "dir_credit"]
        pools = [
            self.library.call(f"create_{name}_pool", self.handle, amounts[amount], op="create domain")
            for name, amount in zip(names, ("ldb_credits", "dir_credits"), strict=False)
        ]
        return pools[0], pools[-1]

    def _reset(self) -> None:
        if self.handle != self.library.ffi.NULL:
            self.library.attempt("detach_sched_domain", self.handle)
        self.library.attempt("reset_sched_domain", self.device.handle, self._id)

    def _end(self) -> None:
        self._reset()
        with self.device._lock:
            self.device.atomic_inflights_taken -= self._atomic_inflights
        self.device.let_go()

    def _alerted(self, alert: Any, _domain: int, _argument: Any) -> None:  # noqa: ANN401 - pointers of cffi's
        """On libdlb's own thread. What is no reset of the device comes with any number, this one's too."""
        if alert.id == 0:
            for port in list(self.ports):
                port.look_again()

    @property
    def id(self) -> int:
        self.check_open()
        return int(self._id)

    def start(self) -> None:
        with self._lock:
            self.check_open()
            if self.started:
                raise ConfigError("start domain: the domain is started already")
            if not self._launched:
                null = self.library.ffi.NULL
                self.library.call("launch_domain_alert_thread", self.handle, self._alert, null, op="start domain")
                self.library.call("start_sched_domain", self.handle, op="start domain")
                self._launched = True
            self.started = True

    @property
    def running(self) -> bool:
        """Whether libdlb has been told to start: it is never told to stop."""
        return self._launched

    def stop(self) -> None:
        with self._lock:
            self.check_open()
            if not self.started:
                raise ConfigError("stop domain: the domain is not started")
            self.started = False

    # ---- queues ----------------------------------------------------------------------------------------------------

    def create_ldb_queue(
        self, sequence_numbers: int, inflights: int, atomic_inflights: int, even: bool, grace_ns: int
    ) -> int:
        """As the device; `even` and `grace_ns` are for software."""
        op = "create load-balanced queue"
        if sequence_numbers not in (0, 64, 128, 256, 512, 1024):
            raise ConfigError(
                f"{op}: sequence_numbers is {sequence_numbers}: it is 0, or a power of two from 64 to 1024"
            )
        if inflights:
            raise ConfigError(f"{op}: inflights is {inflights}: libdlb knows no such limit, so it must be 0")
        with self._lock:
            self.check_open()
            self._check_more(op, "ldb_queues", "load-balanced queue")
            _check_left(op, "atomic_inflights", atomic_inflights, self._atomic_inflights_left, "the domain")
            wanted = self.library.ffi.new("dlb_create_ldb_queue_t *")
            wanted.sequence_numbers = sequence_numbers
            number = int(self.library.call("create_ldb_queue", self.handle, wanted, op=op))
            self._left["ldb_queues"] -= 1
            self._atomic_inflights_left -= atomic_inflights
            types = [_ORDERED if sequence_numbers else _UNORDERED, *([_ATOMIC] if atomic_inflights else [])]
            self._ldb_queues |= 1 << number
            self.keys |= {number | type_ << 8 for type_ in types}
        return number

    def create_dir_queue(self, port: int | None) -> int:
        op = "create directed queue"
        with self._lock:
            self.check_open()
            if port is None:
                self._check_more(op, "dir_ports", "directed pair")
            elif port in self._queues_of_ports:
                raise ConfigError(f"{op}: the port to pair with has its directed queue already")
            number = int(self.library.call("create_dir_queue", self.handle, -1 if port is None else port, op=op))
            if port is None:
                self._left["dir_ports"] -= 1
                self._unpaired_queues.add(number)
            else:
                self._queues_of_ports[port] = number
            self.keys |= {number | _DIRECTED << 8}
        return number

    def has_ldb_queue(self, number: int) -> bool:
        """Whether there is such a load-balanced queue."""
        return bool(self._ldb_queues >> number & 1)

    def queue_of_port(self, port: int) -> int | None:
        """The queue that a directed port is paired with."""
        return self._queues_of_ports.get(port)

    def queue_depth(self, queue: int, directed: bool) -> int:
        """What was sent to it and not received."""
        self.check_open()
        return self._depths[queue | _DIRECTED << 8 if directed else queue]

    def _check_more(self, op: str, name: str, what: str) -> None:
        if not self._left[name]:
            text = f"the domain has no {what} left; create it with more {name}"
            raise ResourceExhausted(errno.ENOSPC, text, op=op)

    # ---- ports -----------------------------------------------------------------------------------------------------

    def create_port(
        self,
        directed: bool,
        cq_depth: int,
        history_entries: int,
        release_on_recv: bool,
        queue: int | None,
        service_class: int = 0,
        watch_ns: int = 0,
        prefetch: int = 1,
    ) -> VendorPort:
        op = f"create {'directed' if directed else 'load-balanced'} port"
        if not 1 <= cq_depth <= 1024 or cq_depth & cq_depth - 1:
            raise ConfigError(
                f"{op}: cq_depth is {cq_depth}: a consumer queue holds a power of two from 1 to 1024 events"
            )
        if service_class:
            raise ConfigError(f"{op}: a class of service was asked for: open the device itself for that")
        history_entries = 0 if directed else history_entries or 2 * cq_depth
        shape = (directed, cq_depth, history_entries, queue)
        with self._lock:
            self.check_open()
            resting = self._resting.get(shape)
            number = resting.pop() if resting else self._create_port(op, *shape)
            self._children += 1
        try:
            port = VendorPort(self, number, shape, release_on_recv=release_on_recv)
        except BaseException:
            self.let_go()
            raise
        self.ports.add(port)
        return port

    def _create_port(self, op: str, directed: bool, cq_depth: int, history_entries: int, queue: int | None) -> int:
        wanted = self.library.ffi.new("dlb_create_port_t *")
        wanted.ldb_pool, wanted.dir_pool = self._pools
        wanted.cq_depth = cq_depth
        if not directed:
            self._check_more(op, "ldb_ports", "load-balanced port")
            _check_left(op, "history_entries", history_entries, self._history_left, "the domain")
            wanted.history_entries = history_entries
            wanted.class_of_service = _ANY_CLASS
            number = int(self.library.call("create_ldb_port", self.handle, wanted, op=op))
            self._left["ldb_ports"] -= 1
            self._history_left -= history_entries
            return number
        if queue is None:
            self._check_more(op, "dir_ports", "directed pair")
        elif queue not in self._unpaired_queues:
            raise ConfigError(f"{op}: the queue to pair with has its directed port already")
        number = int(self.library.call("create_dir_port", self.handle, wanted, -1 if queue is None else queue, op=op))
        if queue is None:
            self._left["dir_ports"] -= 1
        else:
            self._unpaired_queues.discard(queue)
            self._queues_of_ports[number] = queue
        return number

    def port_closed(self, port: VendorPort, number: int, shape: tuple[object, ...]) -> None:
        """Let a closed port rest until another of its shape is wanted: the driver takes none back."""
        self.ports.discard(port)
        with self._lock:
            self._resting.setdefault(shape, []).append(number)
        self.let_go()

    # ---- the account -----------------------------------------------------------------------------------------------

    def count(self, *, depths: collections.Counter[int] | None = None, **counts: int) -> None:
        """Add to the account; `depths` by queue, with bits 8 and 9 set for directed ones."""
        with self._lock:
            self._counts.update(counts)
            if depths:
                self._depths.update(depths)

    def stats(self) -> dict[str, int]:
        self.check_open()
        with self._lock:
            counts = self._counts
            queued = counts["enqueued"] - counts["scheduled"]
            return {
                "enqueued": counts["enqueued"],
                "scheduled": counts["scheduled"],
                "refused_no_credit": counts["refused_no_credit"],
                "wakes": counts["wakes"],
                "rewakes": 0,
                "credits_free": self._credits - queued,
                "queued": queued,
            }


def _check_left(op: str, name: str, amount: int, left: int, owner: str) -> None:
    if amount > left:
        text = f"{name} is {amount}, but {owner} has {left} left"
        raise ResourceExhausted(errno.ENOSPC, text, op=op)
