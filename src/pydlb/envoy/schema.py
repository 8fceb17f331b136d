"""The messages that listeners stand in, by the names of their fields in Envoy 1.40; nothing was ever taken away."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADDITIONAL_ADDRESS",
    "ADDRESS",
    "BOOTSTRAP",
    "CONFIG_PATCH",
    "CONNECTION_BALANCE",
    "DISCOVERY_RESPONSE",
    "DLB",
    "ENVOY_FILTER",
    "INTERNAL_ADDRESS",
    "LISTENER",
    "PATCH",
    "PIPE",
    "SOCKET_ADDRESS",
    "STATIC_RESOURCES",
    "TYPED_EXTENSION",
    "TYPED_STRUCT",
]

LISTENER: Final = (
    "name",
    "address",
    "additional_addresses",
    "stat_prefix",
    "stats_matcher",
    "filter_chains",
    "fcds_config",
    "filter_chain_matcher",
    "use_original_dst",
    "default_filter_chain",
    "per_connection_buffer_limit_bytes",
    "per_connection_buffer_high_watermark_timeout",
    "metadata",
    "deprecated_v1",
    "drain_type",
    "listener_filters",
    "listener_filters_timeout",
    "continue_on_listener_filters_timeout",
    "transparent",
    "freebind",
    "socket_options",
    "tcp_fast_open_queue_length",
    "traffic_direction",
    "udp_listener_config",
    "api_listener",
    "connection_balance_config",
    "reuse_port",
    "enable_reuse_port",
    "access_log",
    "tcp_backlog_size",
    "max_connections_to_accept_per_socket_event",
    "bind_to_port",
    "internal_listener",
    "enable_mptcp",
    "ignore_global_conn_limit",
    "bypass_overload_manager",
    "tcp_keepalive",
)
ADDITIONAL_ADDRESS: Final = ("address", "socket_options", "tcp_keepalive")
CONNECTION_BALANCE: Final = ("exact_balance", "extend_balance", "cpu_locality_balance")
TYPED_EXTENSION: Final = ("name", "typed_config")
TYPED_STRUCT: Final = ("type_url", "value")
DLB: Final = ("id", "max_retries", "fallback_policy")

ADDRESS: Final = ("socket_address", "pipe", "envoy_internal_address")
SOCKET_ADDRESS: Final = (
    "protocol",
    "address",
    "port_value",
    "named_port",
    "resolver_name",
    "ipv4_compat",
    "network_namespace_filepath",
)
PIPE: Final = ("path", "mode")
INTERNAL_ADDRESS: Final = ("server_listener_name", "endpoint_id")

BOOTSTRAP: Final = (
    "node",
    "node_context_params",
    "static_resources",
    "dynamic_resources",
    "cluster_manager",
    "hds_config",
    "flags_path",
    "stats_sinks",
    "deferred_stat_options",
    "stats_config",
    "stats_flush_interval",
    "stats_flush_on_admin",
    "stats_eviction_interval",
    "watchdog",
    "watchdogs",
    "tracing",
    "layered_runtime",
    "admin",
    "overload_manager",
    "enable_dispatcher_stats",
    "header_prefix",
    "stats_server_version_override",
    "use_tcp_for_dns_lookups",
    "dns_resolution_config",
    "typed_dns_resolver_config",
    "bootstrap_extensions",
    "fatal_actions",
    "config_sources",
    "default_config_source",
    "default_socket_interface",
    "certificate_provider_instances",
    "inline_headers",
    "perf_tracing_file_path",
    "default_regex_engine",
    "xds_delegate_extension",
    "xds_config_tracker_extension",
    "listener_manager",
    "application_log_config",
    "grpc_async_client_manager_config",
    "memory_allocator_manager",
    "enable_worker_cpu_affinity",
)
STATIC_RESOURCES: Final = ("listeners", "clusters", "secrets")
DISCOVERY_RESPONSE: Final = (
    "version_info",
    "resources",
    "canary",
    "type_url",
    "nonce",
    "control_plane",
    "resource_errors",
)

ENVOY_FILTER: Final = ("workload_selector", "target_refs", "config_patches", "priority")
CONFIG_PATCH: Final = ("apply_to", "match", "patch")
PATCH: Final = ("operation", "value", "filter_class")
