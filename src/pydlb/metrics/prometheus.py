"""A collector for prometheus-client; extra ``pydlb[metrics]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from .families import Family, Histogram, families

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from pydlb.balancer import Balancer

    from .snapshot import Remote

__all__ = ["BalancerCollector"]


class BalancerCollector(Collector):
    """Tells Prometheus of a balancer, whenever it is asked.

    Args:
        balancer: Whose statistics to tell.
        labels: Further labels of every figure, such as ``{"balancer": "public"}`` to tell several in one registry.
        envoy_names: Also tell the figures that Envoy has under Envoy's names.

    **Synchronization**: any thread; reading statistics does not hold up connections.

    **Resource handling**: the collector keeps the balancer; unregister it when the balancer is closed.
    """

    def __init__(
        self, balancer: Balancer | Remote, *, labels: Mapping[str, str] | None = None, envoy_names: bool = False
    ) -> None:
        self._balancer: Final[Balancer | Remote] = balancer
        self._labels: Final = dict(labels or {})
        self._envoy_names: Final = envoy_names

    def describe(self) -> list[Metric]:
        """Nothing beforehand, so that the balancer is not asked when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All figures, as of now."""
        about = {"backend": self._balancer.backend, "policy": str(self._balancer.policy)}
        info = InfoMetricFamily("pydlb_balancer", "The balancer's backend and policy.", labels=list(self._labels))
        info.add_metric(list(self._labels.values()), about)
        yield info
        for family in families(self._balancer.stats(), envoy_names=self._envoy_names):
            yield self._metric(family)

    def _metric(self, family: Family) -> Metric:
        names = [*self._labels, *dict.fromkeys(name for sample in family.samples for name in sample.labels)]
        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        metric: Any = kinds[family.kind](family.name, family.help, labels=names)
        for sample in family.samples:
            values = [*self._labels.values(), *sample.labels.values()]
            if isinstance(sample.value, Histogram):
                bounds = [*(f"{bound:.6g}" for bound in sample.value.bounds), "+Inf"]
                buckets = list(zip(bounds, sample.value.counts, strict=True))
                metric.add_metric(values, buckets, sample.value.total)
            else:
                metric.add_metric(values, sample.value)
        told: Metric = metric
        return told
