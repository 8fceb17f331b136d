"""Configurations as people have them."""

from __future__ import annotations

DLB = "type.googleapis.com/envoy.extensions.network.connection_balance.dlb.v3alpha.Dlb"
OLDER_DLB = "type.googleapis.com/envoy.extensions.dlb.v3alpha.Dlb"

# An ingress gateway's, as Istio's users were told to apply it.
ENVOY_FILTER = f"""\
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: ingressgateway-dlb
  namespace: istio-system
spec:
  workloadSelector:
    labels:
      istio: ingressgateway
  configPatches:
  - applyTo: LISTENER
    match:
      context: GATEWAY
    patch:
      operation: MERGE
      value:
        connection_balance_config:
          extend_balance:
            name: envoy.network.connection_balance.dlb
            typed_config:
              "@type": {DLB}
"""

# What kubectl describe prints of it.
DESCRIBED = f"""\
Name:         ingressgateway-dlb
Namespace:    istio-system
API Version:  networking.istio.io/v1alpha3
Kind:         EnvoyFilter
Spec:
  Config Patches:
    Apply To:  LISTENER
    Patch:
      Operation:  MERGE
      Value:
        connection_balance_config:
          extend_balance:
            Name:  envoy.network.connection_balance.dlb
            typed_config:
              "@type":  {DLB}
"""

# After the example in Envoy's documentation: a TCP proxy on two workers.
BOOTSTRAP = f"""\
static_resources:
  listeners:
  - name: listener_0  # the only one
    address:
      socket_address: {{address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: cluster_0
    connection_balance_config:
      # even load
      extend_balance:
        name: envoy.network.connection_balance.dlb
        typed_config:
          "@type": {DLB}
  clusters:
  - name: cluster_0
    connect_timeout: 0.25s
    load_assignment:
      cluster_name: cluster_0
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {{address: 127.0.0.1, port_value: 12000}}
"""


def bootstrap(fields: str = "", address: str = "{socket_address: {address: 127.0.0.1, port_value: 0}}") -> str:
    """A bootstrap with one listener that echoes; `fields` are lines of more fields of the listener, not indented."""
    more = "".join(f"    {line}\n" for line in fields.splitlines())
    return f"""\
static_resources:
  listeners:
  - name: echo
    address: {address}
    filter_chains:
    - filters:
      - name: envoy.filters.network.echo
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}
{more}"""


def dlb(fields: str = "", type_url: str = DLB) -> str:
    """A listener's DLB balancer in one line; `fields` are those of the extension, with commas between them."""
    return (
        "connection_balance_config: {extend_balance: {name: envoy.network.connection_balance.dlb, "
        f'typed_config: {{"@type": {type_url}{", " if fields else ""}{fields}}}}}}}'
    )
