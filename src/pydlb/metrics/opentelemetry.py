"""Instruments for OpenTelemetry; extra ``pydlb[metrics]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import metrics

from pydlb import __version__

from .families import Family, Histogram, families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

    from pydlb.balancer import Balancer

__all__ = ["instrument"]

# OpenTelemetry has no histogram that is read: these quantiles of it are told.
_QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)


def instrument(
    balancer: Balancer, meter_provider: MeterProvider | None = None, *, attributes: Mapping[str, str] | None = None
) -> None:
    """Create instruments that observe a balancer whenever the provider's readers collect.

    Names are those of Prometheus with dots: ``pydlb.connections_open``, ``pydlb.worker_connections_open``. The time
    from accept to worker is told as ``pydlb.handoff_seconds`` with the attribute ``quantile``.

    Args:
        balancer: Whose statistics to tell.
        meter_provider: Where to create them; None for the global one.
        attributes: Further attributes of every figure.

    **Synchronization**: any thread; the readers' threads call the balancer's `stats`.

    **Resource handling**: OpenTelemetry takes no instrument back: they keep the balancer, closed or not.
    """
    meter = metrics.get_meter("pydlb", __version__, meter_provider)
    fixed = dict(attributes or {})
    for family in families(balancer.stats()):
        create = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        name = family.name.replace("pydlb_", "pydlb.", 1)
        unit = "s" if family.unit == "seconds" else "1"
        create(name, callbacks=[_observer(balancer, family.name, fixed)], unit=unit, description=family.help)


def _observer(
    balancer: Balancer, name: str, fixed: Mapping[str, str]
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(_: CallbackOptions) -> Iterator[Observation]:
        stats = balancer.stats()
        family: Family = next(family for family in families(stats) if family.name == name)
        for sample in family.samples:
            if isinstance(sample.value, Histogram):
                for quantile in _QUANTILES:
                    about = {**fixed, "quantile": str(quantile)}
                    yield metrics.Observation(stats.handoff_quantile(quantile), about)
            else:
                yield metrics.Observation(sample.value, {**fixed, **sample.labels})

    return observe
