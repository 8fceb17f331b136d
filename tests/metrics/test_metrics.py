"""What Prometheus and OpenTelemetry are told."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import pydlb
from pydlb.metrics import families
from pydlb.metrics.prometheus import BalancerCollector

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Served


def stats_with(**changes: object) -> pydlb.BalancerStats:
    with pydlb.Balancer(workers=0, backend="software") as balancer:
        return dataclasses.replace(balancer.stats(), **changes)


def told_by(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each figure by its name and the values of its labels."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_is_told_of_balancer_and_workers(served: Served, get: Callable[[str], tuple[int, str]]) -> None:
    with served.clients(2):
        status, text = get(f"{served.url}/metrics")
    assert status == 200
    told = told_by(text)
    assert told["pydlb_connections_accepted_total", ()] == 2
    assert told["pydlb_connections_open", ()] == 2
    assert told["pydlb_worker_connections_open", ("worker_0",)] == 1
    assert told["pydlb_worker_connections_open", ("worker_1",)] == 1
    assert told["pydlb_handoff_seconds_count", ()] == 2
    assert told["pydlb_imbalance_ratio", ()] == 1
    assert told["pydlb_balancer_info", ("software", "dlb")] == 1


def test_open_metrics_are_told_to_those_who_ask(served: Served) -> None:
    import urllib.request

    request = urllib.request.Request(f"{served.url}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert response.read().endswith(b"# EOF\n")


def test_the_sum_of_the_account_is_told(served: Served, get: Callable[[str], tuple[int, str]]) -> None:
    for _ in range(3):
        with served.clients(1):
            pass
    told = told_by(get(f"{served.url}/metrics")[1])
    parts = ("waiting", "open", "served_total", "refused_total", "aborted_total")
    assert told["pydlb_connections_accepted_total", ()] == sum(told[f"pydlb_connections_{part}", ()] for part in parts)


def test_handoff_times_keep_their_bounds() -> None:
    """Else figures of two times could not be compared."""

    def handoff(times: list[tuple[float, int]]) -> dict[str, float]:
        told = {family.name: family for family in families(stats_with(handoff_seconds=times))}
        histogram = told["pydlb_handoff_seconds"].samples[0].value
        return dict(zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True))

    none, some = handoff([]), handoff([(1e-6, 1), (64e-6, 5), (4096e-6, 2), (64.0, 1)])
    assert list(none) == list(some)
    assert set(none.values()) == {0}
    assert some["8e-06"] == 1
    assert some["6.4e-05"] == 6
    assert some["0.004096"] == 8
    assert some["+Inf"] == 9
    assert sorted(some.values()) == list(some.values())


def test_several_balancers_in_a_registry_of_the_application() -> None:
    registry = CollectorRegistry()
    with pydlb.Balancer(0, backend="software") as one, pydlb.Balancer(0, backend="software") as other:
        one.worker("only")
        registry.register(BalancerCollector(one, labels={"balancer": "one"}, envoy_names=True))
        registry.register(BalancerCollector(other, labels={"balancer": "other"}))
        assert registry.get_sample_value("pydlb_connections_open", {"balancer": "one"}) == 0
        assert registry.get_sample_value("pydlb_connections_open", {"balancer": "other"}) == 0
        labels = {"balancer": "one", "envoy_worker_id": "only"}
        assert registry.get_sample_value("envoy_listener_worker_downstream_cx_total", labels) == 0
        assert registry.get_sample_value("envoy_listener_downstream_cx_active", {"balancer": "one"}) == 0


def test_opentelemetry_observes_the_same(served: Served) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from pydlb.metrics.opentelemetry import instrument

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    instrument(served.balancer, provider, attributes={"balancer": "one"})
    with served.clients(2):
        told = reader.get_metrics_data()
    provider.shutdown()
    points = {
        (metric.name, point.attributes.get("worker", point.attributes.get("quantile"))): point
        for metric in told.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }
    assert points["pydlb.connections_open", None].value == 2
    assert points["pydlb.connections_open", None].attributes["balancer"] == "one"
    assert points["pydlb.worker_connections_open", "worker_1"].value == 1
    assert points["pydlb.handoff_seconds", "0.99"].value > 0


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(pydlb.ConfigError, match=r"pip install 'pydlb\[metrics\]'"):
        pydlb.Balancer(0, backend="software", metrics_port=0)
