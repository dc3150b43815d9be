"""``/configz``: the configuration in force, in the kubelet's form.

Source: component-base configz; staging/src/k8s.io/kubelet/config/v1beta1/types.go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from vkprovider.api.durations import format_duration
from vkprovider.settings import Settings


def effective_configuration(settings: Settings) -> dict[str, Any]:
    """What the settings amount to, as a KubeletConfiguration: the file as given, with the values in force over it."""
    node, pods, server = settings.node, settings.pods, settings.server
    anonymous = {"enabled": server.anonymous}
    webhook = {
        "enabled": server.webhook_authentication,
        "cacheTTL": format_duration(server.authentication_cache_ttl_s),
    }
    x509 = {"clientCAFile": str(server.client_ca_file)} if server.client_ca_file else {}
    in_force: dict[str, Any] = {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": server.address,
        "port": server.port,
        "healthzBindAddress": server.healthz_address,
        "healthzPort": server.healthz_port,
        "authentication": {"x509": x509, "webhook": webhook, "anonymous": anonymous},
        "authorization": {
            "mode": server.authorization_mode,
            "webhook": {
                "cacheAuthorizedTTL": format_duration(server.authorized_cache_ttl_s),
                "cacheUnauthorizedTTL": format_duration(server.unauthorized_cache_ttl_s),
            },
        },
        "enableDebuggingHandlers": server.enable_debugging_handlers,
        "streamingConnectionIdleTimeout": format_duration(server.streaming_idle_timeout_s),
        "syncFrequency": format_duration(pods.sync_period_s),
        "nodeStatusUpdateFrequency": format_duration(node.status_update_period_s),
        "nodeStatusReportFrequency": format_duration(node.status_report_period_s),
        "nodeLeaseDurationSeconds": node.lease_duration_s,
        "nodeStatusMaxImages": node.max_images,
        "maxPods": node.max_pods,
        "podsPerCore": node.pods_per_core,
        "systemReserved": dict(node.system_reserved),
        "kubeReserved": dict(node.kube_reserved),
        "evictionHard": dict(node.eviction_hard),
        "registerNode": node.register,
        "providerID": node.provider_id,
        "clusterDNS": list(pods.cluster_dns),
        "clusterDomain": pods.cluster_domain,
        "resolvConf": pods.resolv_conf,
        "serializeImagePulls": pods.serialize_image_pulls,
        "maxParallelImagePulls": pods.max_parallel_image_pulls,
        "registryPullQPS": pods.registry_pull_qps,
        "registryBurst": pods.registry_burst,
        "cpuCFSQuota": pods.cpu_cfs_quota,
        "cpuCFSQuotaPeriod": format_duration(pods.cpu_cfs_quota_period_s),
        "podPidsLimit": pods.pids_limit,
        "seccompDefault": pods.seccomp_default,
        "allowedUnsafeSysctls": list(pods.allowed_unsafe_sysctls),
        "containerLogMaxSize": str(pods.container_log_max_bytes),
        "containerLogMaxFiles": pods.container_log_max_files,
        "crashLoopBackOff": {"maxContainerRestartPeriod": format_duration(pods.max_container_restart_period_s)},
        "eventRecordQPS": int(pods.event_qps),
        "eventBurst": pods.event_burst,
        "failCgroupV1": False,
    }
    if server.tls_cert_file:
        in_force["tlsCertFile"] = str(server.tls_cert_file)
        in_force["tlsPrivateKeyFile"] = str(server.tls_private_key_file)
    return _merge(settings.kubelet_configuration, in_force)


def make_configz_handler(configuration: Mapping[str, Any]) -> Any:
    """A handler that answers with a configuration.

    Args:
        configuration: A KubeletConfiguration.
    """
    body = json.dumps({"kubeletconfig": dict(configuration)}, default=str).encode()

    async def handle_configz(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return handle_configz


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        # Maps of quantities are replaced as a whole: a threshold taken out must not come back.
        merge_deeper = (
            isinstance(value, Mapping) and isinstance(below, Mapping) and key in ("authentication", "authorization")
        )
        merged[key] = _merge(below, value) if merge_deeper and isinstance(below, Mapping) else value
    return merged
