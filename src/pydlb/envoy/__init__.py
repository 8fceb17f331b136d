"""Envoy's configuration of connection balance, as it is: read, explained, run, and brought up to date.

::

    import pydlb.envoy

    config = pydlb.envoy.load("envoy-filter-dlb.yaml")
    config.id, config.max_retries, config.fallback_policy
    server = await config.start_server(handle, host="0.0.0.0", port=8080, workers=4)

``pydlb envoy explain FILE`` says what a configuration did in Envoy and does here, and shows the same in Python;
``pydlb envoy migrate FILE`` writes it for Envoys that have no DLB balancer any more.
"""

from .balance import Balance, Dlb, ExactBalance, FallbackPolicy, NopBalance
from .configuration import Configuration, load
from .devices import find_device
from .errors import EnvoyConfigError, EnvoyWarning
from .listener import Address, Listener, Origin

__all__ = [
    "Address",
    "Balance",
    "Configuration",
    "Dlb",
    "EnvoyConfigError",
    "EnvoyWarning",
    "ExactBalance",
    "FallbackPolicy",
    "Listener",
    "NopBalance",
    "Origin",
    "find_device",
    "load",
]
