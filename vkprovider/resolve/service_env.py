"""Environment variables that tell containers where services are.

Source: pkg/kubelet/envvars/envvars.go; pkg/kubelet/kubelet_pods.go, getServiceEnvVarMap.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vkprovider.api import v1
from vkprovider.resolve.objects import ObjectStore

MASTER_SERVICES: Final = frozenset({"kubernetes"})
"""Services of the namespace ``default`` that every container learns of."""


async def get_service_environment(
    objects: ObjectStore, namespace: str, *, enable_service_links: bool
) -> dict[str, str]:
    """Variables of the services that a pod of this namespace learns of.

    ``default/kubernetes`` always; with service links also all of the pod's own namespace, where one called ``kubernetes``
    takes the place of the default's.

    Raises:
        TransientError: The services were never read.
    """
    services = {
        service["metadata"]["name"]: service
        for service in await objects.list_services("default")
        if service["metadata"]["name"] in MASTER_SERVICES and has_cluster_ip(service)
    }
    if enable_service_links:
        for service in await objects.list_services(namespace):
            if has_cluster_ip(service):
                services[service["metadata"]["name"]] = service
    return make_service_environment(services.values())


def has_cluster_ip(service: v1.Service) -> bool:
    """Whether the service has an address of its own: neither headless nor an external name.

    Source: pkg/apis/core/v1/helper/helpers.go, IsServiceIPSet.
    """
    return service.get("spec", {}).get("clusterIP") not in (None, "", "None")


def make_service_environment(services: Iterable[v1.Service]) -> dict[str, str]:
    """Variables of these services, in the forms of Kubernetes and of Docker links.

    Args:
        services: Services; those without a cluster IP or a port are left out.

    Source: envvars.go, FromServices.
    """
    environment: dict[str, str] = {}
    for service in services:
        spec = service.get("spec", {})
        ports = spec.get("ports") or ()
        if not has_cluster_ip(service) or not ports:
            continue
        address: str = spec["clusterIP"]
        prefix = _variable_name(service["metadata"]["name"])
        environment[f"{prefix}_SERVICE_HOST"] = address
        environment[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        for port in ports:
            if port.get("name"):
                environment[f"{prefix}_SERVICE_PORT_{_variable_name(port['name'])}"] = str(port["port"])
        host = f"[{address}]" if ":" in address else address
        for index, port in enumerate(ports):
            number, protocol = port["port"], port.get("protocol") or "TCP"
            url = f"{protocol.lower()}://{host}:{number}"
            if index == 0:
                environment[f"{prefix}_PORT"] = url
            link = f"{prefix}_PORT_{number}_{protocol.upper()}"
            environment[link] = url
            environment[f"{link}_PROTO"] = protocol.lower()
            environment[f"{link}_PORT"] = str(number)
            environment[f"{link}_ADDR"] = address
    return environment


def _variable_name(name: str) -> str:
    return name.replace("-", "_").upper()
