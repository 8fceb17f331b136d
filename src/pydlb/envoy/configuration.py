"""A configuration of Envoy's, read."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from pydlb.errors import ConfigError

from .documents import listeners_in
from .errors import EnvoyConfigError, EnvoyWarning
from .reading import read_documents, read_source

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pydlb.adapters.streams import ClientConnected
    from pydlb.balancer import Balancer
    from pydlb.server import Server
    from pydlb.workers import Connection

    from .balance import Balance, FallbackPolicy
    from .listener import Listener

__all__ = ["Configuration", "load"]


@dataclasses.dataclass(frozen=True)
class Configuration(Sequence["Listener"]):
    """The listeners of a configuration, in its order; by number or by name.

    Where there is only one listener, what that says may be asked of the configuration itself.

    Attributes:
        listeners: The listeners.
        source: The file's name; None for text.
        warnings: What is strange in it, each with its place.
    """

    listeners: tuple[Listener, ...]
    source: str | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many listeners there are."""
        return len(self.listeners)

    @overload
    def __getitem__(self, key: int | str) -> Listener: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Listener, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Listener | tuple[Listener, ...]:
        """A listener by its number or name.

        Raises:
            KeyError: No listener has that name.
        """
        if not isinstance(key, str):
            return self.listeners[key]
        for listener in self.listeners:
            if listener.name == key:
                return listener
        raise KeyError(f"no listener is named {key!r}: there is {self._names()}")

    def _names(self) -> str:
        return ", ".join(listener.label for listener in self.listeners) or "none"

    @property
    def listener(self) -> Listener:
        """The listener, where there is only one.

        Raises:
            ConfigError: There are several.
        """
        if len(self.listeners) != 1:
            raise ConfigError(f"{len(self.listeners)} listeners are configured: say which one, of {self._names()}")
        return self.listeners[0]

    @property
    def balance(self) -> Balance:
        """How the only listener is balanced."""
        return self.listener.balance

    @property
    def id(self) -> int | None:
        """The only listener's preferred device; None if it has another balance."""
        return self.listener.id

    @property
    def max_retries(self) -> int | None:
        """The only listener's retries; None if it has another balance."""
        return self.listener.max_retries

    @property
    def fallback_policy(self) -> FallbackPolicy | None:
        """The only listener's fallback policy; None if it has another balance."""
        return self.listener.fallback_policy

    @property
    def exact_balance(self) -> bool:
        """Whether the only listener has `exact_balance`."""
        return self.listener.exact_balance

    def balancer_options(self, *, parity: bool = False) -> dict[str, Any]:
        """:meth:`Listener.balancer_options` of the only listener."""
        return self.listener.balancer_options(parity=parity)

    def make_balancer(
        self,
        workers: int | None = None,
        *,
        handler: Callable[[Connection], object] | None = None,
        parity: bool = False,
        **options: Any,  # noqa: ANN401 - those of another function
    ) -> Balancer:
        """As :meth:`Listener.make_balancer`, for all listeners: the same workers serve them, as Envoy's do.

        Their connections are balanced together, except with `parity`. `Connection.listener` counts the addresses, in
        the order of the configuration.

        Raises:
            ConfigError: The listeners are balanced differently: make a balancer for each.
        """
        from . import running

        return running.make_balancer(self.listeners, workers, handler=handler, parity=parity, options=options)

    async def start_server(
        self,
        client_connected_cb: ClientConnected,
        *,
        workers: int | None = None,
        parity: bool = False,
        **options: Any,  # noqa: ANN401 - those of another function
    ) -> Server:
        """As :meth:`Listener.start_server`, for all listeners, as :meth:`make_balancer`."""
        from . import running

        return await running.start_server(
            self.listeners, client_connected_cb, workers=workers, parity=parity, options=options
        )


def load(source: str | os.PathLike[str]) -> Configuration:
    """Read a configuration of Envoy's connection balance.

    It may be a listener, a bootstrap, what a file of listeners has (a discovery response), an Istio ``EnvoyFilter``, a
    Kubernetes ``List`` of these, or just the `connection_balance_config` or the typed extension in it. YAML, also with
    several documents, needs PyYAML (``pip install 'pydlb[envoy]'``); JSON does not. Fields have either of their names,
    `max_retries` or `maxRetries`.

    Args:
        source: A path, or the text itself.

    Returns:
        The listeners, whose `make_balancer` and `start_server` do what is said.

    Raises:
        OSError: The file cannot be read.
        EnvoyConfigError: It is no configuration, or one that Envoy would not have taken; with the field and its line.

    **Error handling**: what is understood and yet strange is in `warnings`, and told as :class:`EnvoyWarning`.
    """
    configuration = read(*read_source(source))
    for text in configuration.warnings:
        warnings.warn(text, EnvoyWarning, stacklevel=2)
    return configuration


def read(text: str, source: str | None) -> Configuration:
    """The same from a text, silently."""
    documents = read_documents(text, source)
    listeners = tuple(listener for document in documents for listener in listeners_in(document))
    if not listeners:
        raise EnvoyConfigError(_nothing(text), source=source)
    found = tuple(dict.fromkeys(warning for document in documents for warning in document.warnings))
    return Configuration(listeners, source, found)


def _nothing(text: str) -> str:
    if "dynamic_resources" in text or "dynamicResources" in text:
        return "it has no listener of its own: they come from dynamic_resources; give the file with the listeners"
    return "there is no listener in it, and no EnvoyFilter that patches one"
