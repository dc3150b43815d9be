"""Contents of ``/etc/resolv.conf`` of a pod. Pure, but for reading the node's own file.

Source: pkg/kubelet/network/dns/dns.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.pods import format_pod
from vkprovider.provider import cri

MAX_NAMESERVERS: Final = 3
MAX_SEARCH_PATHS: Final = 32
MAX_SEARCH_CHARS: Final = 2048
MAX_SEARCH_PATH_CHARS: Final = 253
MAX_RESOLV_CONF_BYTES: Final = 10 * 1024 * 1024
CLUSTER_OPTIONS: Final = ("ndots:5",)


@dataclass(frozen=True, slots=True)
class PodDNS:
    """DNS settings of a pod, and what its author should know: reason and message of Warning events."""

    config: cri.DNSConfig
    warnings: tuple[tuple[str, str], ...] = ()


def parse_resolv_conf(text: str) -> cri.DNSConfig:
    """Settings of a ``resolv.conf``: nameservers add up, the last search line wins, options merge by name."""
    servers: list[str] = []
    searches: list[str] = []
    options: dict[str, str] = {}
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if fields[0] == "nameserver" and len(fields) > 1:
            servers.append(fields[1])
        elif fields[0] == "search":
            searches = [name.removesuffix(".") for name in fields[1:] if name != "."]
        elif fields[0] == "options":
            options.update({option.partition(":")[0]: option for option in fields[1:]})
    return cri.DNSConfig(tuple(servers), tuple(searches), tuple(options.values()))


def read_node_dns(path: str) -> cri.DNSConfig:
    """The node's own settings; ``127.0.0.1`` alone if the path is empty, so that lookups end on the node.

    Raises:
        OSError: The file cannot be read.
    """
    if not path:
        return cri.DNSConfig(("127.0.0.1",), (".",))
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        return parse_resolv_conf(file.read(MAX_RESOLV_CONF_BYTES))


def make_pod_dns(pod: v1.Pod, *, node_dns: cri.DNSConfig, cluster_dns: Sequence[str], cluster_domain: str) -> PodDNS:
    """DNS settings of the pod by its ``dnsPolicy`` and ``dnsConfig``, cut to what resolvers take.

    Args:
        pod: The pod.
        node_dns: The node's own settings.
        cluster_dns: Servers of the cluster.
        cluster_domain: Domain of the cluster's services.
    """
    spec = pod.get("spec", {})
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    warnings: list[tuple[str, str]] = []
    servers, searches, options = list(node_dns.servers), list(node_dns.searches), list(node_dns.options)
    if policy == "None":
        servers, searches, options = [], [], []
    elif policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.get("hostNetwork")):
        if cluster_dns:
            if cluster_domain:
                namespace = pod["metadata"].get("namespace", "default")
                searches = [f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain, *searches]
            servers, options = list(cluster_dns), list(CLUSTER_OPTIONS)
            searches = _unique(searches)
        else:
            warnings.append(
                (
                    "MissingClusterDNS",
                    f'pod: "{format_pod(pod)}". kubelet does not have ClusterDNS IP configured and cannot create Pod '
                    'using "ClusterFirst" policy. Falling back to "Default" policy.',
                )
            )
    extra: dict[str, Any] = spec.get("dnsConfig") or {}
    if extra:
        servers = _unique([*servers, *(extra.get("nameservers") or ())])
        searches = _unique([*searches, *(extra.get("searches") or ())])
        options = _merge_options(options, extra.get("options") or ())
    if len(servers) > MAX_NAMESERVERS:
        servers = servers[:MAX_NAMESERVERS]
        warnings.append(
            (
                "DNSConfigForming",
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
                + " ".join(servers),
            )
        )
    fitting = _fit_searches(searches)
    if fitting != searches:
        warnings.append(
            (
                "DNSConfigForming",
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
                + " ".join(fitting),
            )
        )
    return PodDNS(cri.DNSConfig(tuple(servers), tuple(fitting), tuple(options)), tuple(warnings))


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _merge_options(options: Iterable[str], extra: Iterable[dict[str, str]]) -> list[str]:
    values = {name: value for name, _, value in (option.partition(":") for option in options)}
    values.update({option["name"]: option.get("value") or "" for option in extra})
    return [f"{name}:{value}" if value else name for name, value in values.items()]


def _fit_searches(searches: Sequence[str]) -> list[str]:
    fitting = [name for name in searches[:MAX_SEARCH_PATHS] if len(name) <= MAX_SEARCH_PATH_CHARS]
    while len(" ".join(fitting)) > MAX_SEARCH_CHARS:
        fitting.pop()
    return fitting
