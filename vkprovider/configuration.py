"""Configuration files turned into settings: upstream's KubeletConfiguration, and a provider's own file.

Fields of the KubeletConfiguration that apply here are honoured; those that are known but have no effect, and those that
are unknown, are named for one warning; a malformed value of a field that applies is an error before anything starts.

Source: staging/src/k8s.io/kubelet/config/v1beta1/types.go; pkg/kubelet/apis/config/validation/validation.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from vkprovider.api import v1
from vkprovider.api.durations import parse_duration
from vkprovider.api.quantity import int_value, parse_quantity
from vkprovider.errors import ConfigurationError
from vkprovider.settings import NodeSettings, Settings

API_VERSION = "kubelet.config.k8s.io/v1beta1"
KIND = "KubeletConfiguration"
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
EVICTION_SIGNALS = (
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
)

_KNOWN_WITHOUT_EFFECT = frozenset(
    """enableServer staticPodPath podLogsDir fileCheckFrequency httpCheckFrequency staticPodURL staticPodURLHeader
    readOnlyPort tlsCipherSuites tlsCurvePreferences tlsMinVersion rotateCertificates serverTLSBootstrap
    imagePullCredentialsVerificationPolicy preloadedImagesVerificationAllowlist enableContentionProfiling oomScoreAdj
    imageMinimumGCAge imageMaximumGCAge imageGCHighThresholdPercent imageGCLowThresholdPercent volumeStatsAggPeriod
    kubeletCgroups systemCgroups cgroupRoot cgroupsPerQOS cgroupDriver cpuManagerPolicy singleProcessOOMKill
    cpuManagerPolicyOptions cpuManagerReconcilePeriod memoryManagerPolicy topologyManagerPolicy topologyManagerScope
    topologyManagerPolicyOptions qosReserved runtimeRequestTimeout hairpinMode podCIDR runOnce maxOpenFiles contentType
    evictionSoft evictionSoftGracePeriod evictionPressureTransitionPeriod evictionMaxPodGracePeriod
    evictionMinimumReclaim enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains
    iptablesMasqueradeBit iptablesDropBit featureGates failSwapOn memorySwap containerLogMaxWorkers
    containerLogMonitorInterval configMapAndSecretChangeDetectionStrategy reservedSystemCPUs
    showHiddenMetricsForVersion systemReservedCgroup kubeReservedCgroup enforceNodeAllocatable volumePluginDir
    kernelMemcgNotification logging enableSystemLogHandler enableSystemLogQuery shutdownGracePeriod
    shutdownGracePeriodCriticalPods shutdownGracePeriodByPodPriority reservedMemory enableProfilingHandler
    enableDebugFlagsHandler memoryThrottlingFactor memoryReservationPolicy tracing localStorageCapacityIsolation
    containerRuntimeEndpoint imageServiceEndpoint userNamespaces""".split()
)


@dataclass(slots=True)
class _Target:
    """Where values of the file go, group by group."""

    node: dict[str, Any] = field(default_factory=dict)
    pods: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    cluster: dict[str, Any] = field(default_factory=dict)
    merge_default_evictions: bool = False


@dataclass(frozen=True, slots=True)
class KubeletConfigurationFile:
    """A KubeletConfiguration as read.

    Attributes:
        raw: The file's contents.
        ignored: Known fields that have no effect here, sorted.
        unknown: Fields that the kubelet does not know either, sorted.
    """

    raw: Mapping[str, Any]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]
    _target: _Target

    def apply(self, settings: Settings) -> Settings:
        """Settings with the file's values in place of those there."""
        return replace(
            settings,
            node=replace(settings.node, **self._target.node),
            pods=replace(settings.pods, **self._target.pods),
            server=replace(settings.server, **self._target.server),
            cluster=replace(settings.cluster, **self._target.cluster),
            kubelet_configuration=self.raw,
        )

    def describe_ignored(self) -> str:
        """One sentence that names the fields without effect; empty when there are none."""
        parts = []
        if self.ignored:
            parts.append("fields without effect on this node: " + ", ".join(self.ignored))
        if self.unknown:
            parts.append("unknown fields: " + ", ".join(self.unknown))
        return "; ".join(parts)


def read_yaml_mapping(path: Path, *, what: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON file; an empty file is an empty mapping.

    Raises:
        ConfigurationError: The file cannot be read or parsed, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{what} {path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{what} {path} must hold a mapping of keys to values, not {_name(content)}")
    return content


def read_kubelet_configuration(path: Path) -> KubeletConfigurationFile:
    """Read a file in the form of upstream's ``KubeletConfiguration``.

    Args:
        path: The file, YAML or JSON.

    Raises:
        ConfigurationError: It is not such a file, or a field has a value it cannot have; names the field.
    """
    raw = read_yaml_mapping(path, what="kubelet configuration")
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if raw.get(key) != expected:
            raise ConfigurationError(
                f"kubelet configuration {path}: {key} must be {expected!r}, found {raw.get(key)!r}"
            )
    target = _Target()
    ignored: list[str] = []
    unknown: list[str] = []
    for key, value in raw.items():
        if key in ("apiVersion", "kind") or value is None:
            continue
        if (setter := _FIELDS.get(key)) is not None:
            try:
                setter(target, value)
            except ValueError as error:
                raise ConfigurationError(f"kubelet configuration {path}: {key}: {error}") from error
        else:
            (ignored if key in _KNOWN_WITHOUT_EFFECT else unknown).append(str(key))
    if target.merge_default_evictions and "eviction_hard" in target.node:
        defaults = NodeSettings(name="").eviction_hard
        target.node["eviction_hard"] = {**defaults, **target.node["eviction_hard"]}
    return KubeletConfigurationFile(raw, tuple(sorted(ignored)), tuple(sorted(unknown)), target)


def parse_taint(text: str) -> v1.Taint:
    """A taint in kubectl's form ``key[=value]:effect``.

    Raises:
        ValueError: The text is not a taint.
    """
    head, separator, effect = text.rpartition(":")
    if not separator or effect not in TAINT_EFFECTS or not head:
        raise ValueError(
            f"{text!r} is not a taint; write key=value:effect with effect one of {', '.join(TAINT_EFFECTS)}"
        )
    key, _, value = head.partition("=")
    if not key:
        raise ValueError(f"{text!r} has no key; write key=value:effect")
    taint: v1.Taint = {"key": key, "effect": effect}
    if value:
        taint["value"] = value
    return taint


def parse_label(text: str) -> tuple[str, str]:
    """A label in the form ``key=value``.

    Raises:
        ValueError: The text is not a label.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"{text!r} is not a label; write key=value")
    return key, value


def parse_listen_address(text: str) -> tuple[str, int]:
    """Address and port of ``A:P``, ``[A6]:P`` or ``:P``.

    Raises:
        ValueError: The text is not an address with a port.
    """
    host, separator, port_text = text.rpartition(":")
    if not separator or not port_text.isdecimal() or int(port_text) > 65535:
        raise ValueError(f"{text!r} is not an address with a port; write 0.0.0.0:10250 or [::]:10250")
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"
    return parse_ip(host), int(port_text)


def parse_ip(text: str) -> str:
    """An IP address in its canonical form.

    Raises:
        ValueError: The text is not an IP address.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None


# Checks of single values. Each returns the value in our units or raises ValueError.


def _name(value: object) -> str:
    return {bool: "true or false", str: "text", dict: "a mapping", list: "a list"}.get(type(value), repr(value))


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, found {value!r}")
    return value


def _integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise ValueError(f"must be a whole number {bounds}, found {value!r}")
        return value

    return check


def _duration(low_s: float = 0.0) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if not isinstance(value, str):
            raise ValueError(f"must be a duration such as 10s, found {value!r}")
        seconds = parse_duration(value)
        if seconds < low_s:
            raise ValueError(f"must be at least {low_s:g}s, found {value}")
        return seconds

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, found {value!r}")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of texts, found {value!r}")
    return tuple(_text(item) for item in value)


def _ips(value: Any) -> tuple[str, ...]:
    return tuple(parse_ip(item) for item in _texts(value))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping, found {value!r}")
    return value


def _quantity_bytes(value: Any) -> int:
    return int_value(_text(value))


def _reserved(value: Any) -> dict[str, str]:
    allowed = ("cpu", "memory", "ephemeral-storage", "pid")
    for key, amount in _mapping(value).items():
        if key not in allowed:
            raise ValueError(f"{key!r} cannot be reserved, only {', '.join(allowed)}")
        parse_quantity(_text(amount))
    return dict(value)


def _eviction(value: Any) -> dict[str, str]:
    for key, amount in _mapping(value).items():
        if key not in EVICTION_SIGNALS:
            raise ValueError(f"unknown eviction signal {key!r}; known are {', '.join(EVICTION_SIGNALS)}")
        text = _text(amount)
        if text.endswith("%"):
            try:
                percent = float(text[:-1])
            except ValueError:
                raise ValueError(f"{key}: {text!r} is not a percentage") from None
            if not 0 <= percent < 100:
                raise ValueError(f"{key}: {text!r} must be at least 0% and less than 100%")
        else:
            parse_quantity(text)
    return dict(value)


def _taints(value: Any) -> tuple[v1.Taint, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of taints, found {value!r}")
    taints: list[v1.Taint] = []
    for item in value:
        entry = _mapping(item)
        if not entry.get("key") or entry.get("effect") not in TAINT_EFFECTS:
            raise ValueError(f"{item!r} needs a key and an effect of {', '.join(TAINT_EFFECTS)}")
        taint: v1.Taint = {"key": _text(entry["key"]), "effect": entry["effect"]}
        if entry.get("value"):
            taint["value"] = _text(entry["value"])
        taints.append(taint)
    return tuple(taints)


def _put(group: str, name: str, check: Callable[[Any], Any]) -> Callable[[_Target, Any], None]:
    def setter(target: _Target, value: Any) -> None:
        getattr(target, group)[name] = check(value)

    return setter


def _authentication(target: _Target, value: Any) -> None:
    entry = _mapping(value)
    if (anonymous := entry.get("anonymous")) is not None and _mapping(anonymous).get("enabled") is not None:
        target.server["anonymous"] = _boolean(anonymous["enabled"])
    if (webhook := entry.get("webhook")) is not None:
        if _mapping(webhook).get("enabled") is not None:
            target.server["webhook_authentication"] = _boolean(webhook["enabled"])
        if webhook.get("cacheTTL") is not None:
            target.server["authentication_cache_ttl_s"] = _duration()(webhook["cacheTTL"])
    if (x509 := entry.get("x509")) is not None and _mapping(x509).get("clientCAFile"):
        target.server["client_ca_file"] = _path(x509["clientCAFile"])


def _authorization(target: _Target, value: Any) -> None:
    entry = _mapping(value)
    if (mode := entry.get("mode")) is not None:
        if mode not in ("Webhook", "AlwaysAllow"):
            raise ValueError(f"mode must be Webhook or AlwaysAllow, found {mode!r}")
        target.server["authorization_mode"] = mode
    webhook = _mapping(entry.get("webhook") or {})
    for key, name in (
        ("cacheAuthorizedTTL", "authorized_cache_ttl_s"),
        ("cacheUnauthorizedTTL", "unauthorized_cache_ttl_s"),
    ):
        if webhook.get(key) is not None:
            target.server[name] = _duration()(webhook[key])


def _crash_loop(target: _Target, value: Any) -> None:
    if (longest := _mapping(value).get("maxContainerRestartPeriod")) is not None:
        seconds = _duration(1.0)(longest)
        if seconds > 300:
            raise ValueError(f"maxContainerRestartPeriod must be at most 300s, found {longest}")
        target.pods["max_container_restart_period_s"] = seconds


def _status_update_frequency(target: _Target, value: Any) -> None:
    target.node["status_update_period_s"] = _duration(0.1)(value)
    # Upstream's rule: the report period follows the update period when only the latter is set.
    target.node.setdefault("status_report_period_s", target.node["status_update_period_s"])


def _merge_default_evictions(target: _Target, value: Any) -> None:
    target.merge_default_evictions = _boolean(value)


_FIELDS: Mapping[str, Callable[[_Target, Any], None]] = {
    "address": _put("server", "address", lambda value: parse_ip(_text(value))),
    "port": _put("server", "port", _integer(0, 65535)),
    "healthzPort": _put("server", "healthz_port", _integer(0, 65535)),
    "healthzBindAddress": _put("server", "healthz_address", lambda value: parse_ip(_text(value))),
    "tlsCertFile": _put("server", "tls_cert_file", _path),
    "tlsPrivateKeyFile": _put("server", "tls_private_key_file", _path),
    "authentication": _authentication,
    "authorization": _authorization,
    "enableDebuggingHandlers": _put("server", "enable_debugging_handlers", _boolean),
    "streamingConnectionIdleTimeout": _put("server", "streaming_idle_timeout_s", _duration()),
    "syncFrequency": _put("pods", "sync_period_s", _duration(1.0)),
    "registryPullQPS": _put("pods", "registry_pull_qps", _integer(0)),
    "registryBurst": _put("pods", "registry_burst", _integer(0)),
    "serializeImagePulls": _put("pods", "serialize_image_pulls", _boolean),
    "maxParallelImagePulls": _put("pods", "max_parallel_image_pulls", _integer(1)),
    "eventRecordQPS": _put("pods", "event_qps", _integer(0)),
    "eventBurst": _put("pods", "event_burst", _integer(1)),
    "clusterDomain": _put("pods", "cluster_domain", _text),
    "clusterDNS": _put("pods", "cluster_dns", _ips),
    "resolvConf": _put("pods", "resolv_conf", _text),
    "cpuCFSQuota": _put("pods", "cpu_cfs_quota", _boolean),
    "cpuCFSQuotaPeriod": _put("pods", "cpu_cfs_quota_period_s", _duration(0.001)),
    "podPidsLimit": _put("pods", "pids_limit", _integer(-1)),
    "seccompDefault": _put("pods", "seccomp_default", _boolean),
    "allowedUnsafeSysctls": _put("pods", "allowed_unsafe_sysctls", _texts),
    "containerLogMaxSize": _put("pods", "container_log_max_bytes", _quantity_bytes),
    "containerLogMaxFiles": _put("pods", "container_log_max_files", _integer(2)),
    "crashLoopBackOff": _crash_loop,
    "nodeStatusUpdateFrequency": _status_update_frequency,
    "nodeStatusReportFrequency": _put("node", "status_report_period_s", _duration(0.1)),
    "nodeLeaseDurationSeconds": _put("node", "lease_duration_s", _integer(1)),
    "nodeStatusMaxImages": _put("node", "max_images", _integer(-1)),
    "maxPods": _put("node", "max_pods", _integer(0)),
    "podsPerCore": _put("node", "pods_per_core", _integer(0)),
    "systemReserved": _put("node", "system_reserved", _reserved),
    "kubeReserved": _put("node", "kube_reserved", _reserved),
    "evictionHard": _put("node", "eviction_hard", _eviction),
    "mergeDefaultEvictionSettings": _merge_default_evictions,
    "registerNode": _put("node", "register", _boolean),
    "registerWithTaints": _put("node", "taints", _taints),
    "providerID": _put("node", "provider_id", _text),
    "kubeAPIQPS": _put("cluster", "qps", _integer(-1)),
    "kubeAPIBurst": _put("cluster", "burst", _integer(0)),
    "failCgroupV1": _put("node", "fail_cgroup_v1", _boolean),
}
