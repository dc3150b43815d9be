"""The kubelet HTTPS API: authentication, logs, pods, health, exec, attach and port-forward, over any provider."""

from __future__ import annotations

from vkprovider.server.app import KubeletServer, RequestObserver
from vkprovider.server.configz import effective_configuration
from vkprovider.server.health import HealthCheck, HealthChecks, HealthzServer
from vkprovider.server.pods import PodLookup
from vkprovider.server.zpages import effective_flags

__all__ = [
    "HealthCheck",
    "HealthChecks",
    "HealthzServer",
    "KubeletServer",
    "PodLookup",
    "RequestObserver",
    "effective_configuration",
    "effective_flags",
]
