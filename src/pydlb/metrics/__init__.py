"""A balancer's figures for others: Prometheus, OpenTelemetry, probes, and ``pydlb top``.

``metrics_port=`` of a :class:`pydlb.Balancer` or :func:`pydlb.start_server` starts a :class:`MetricsServer` that lives
as long as the balancer. Applications that have a registry or a meter of their own use
:class:`pydlb.metrics.prometheus.BalancerCollector` or :func:`pydlb.metrics.opentelemetry.instrument`.
"""

from __future__ import annotations

from .families import Family, Sample, families
from .server import MetricsServer, Source, local_address

__all__ = ["Family", "MetricsServer", "Sample", "Source", "families", "local_address"]
