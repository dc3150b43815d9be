"""The downward API: fields of the pod and resources of its containers as text. Pure.

Messages are the kubelet's, raised as ``ValueError``; ``env`` and ``files`` turn them into the errors of their own step.

Source: pkg/fieldpath/fieldpath.go; pkg/api/v1/resource/helpers.go; pkg/kubelet/kubelet_resources.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vkprovider.api import v1
from vkprovider.api.quantity import Quantity, parse_quantity
from vkprovider.api.resources import (
    CPU,
    EPHEMERAL_STORAGE,
    HUGEPAGES_PREFIX,
    MEMORY,
    container_limits,
    container_requests,
    is_pod_level_resource,
)

_DEFAULTED: Final = (CPU, MEMORY, EPHEMERAL_STORAGE)
_SUBSCRIPTED: Final = ("metadata.annotations", "metadata.labels")
_FIELD_LABELS: Final = frozenset(
    {
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)
_QUOTED: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_ONE = parse_quantity("1")


def sort_pod_ips(pod_ips: Sequence[str], host_ips: Sequence[str]) -> tuple[str, ...]:
    """The first address of the node's own family, then the first of the other; unparsable ones are dropped.

    Args:
        pod_ips: Addresses of the pod's sandbox.
        host_ips: Addresses of the node; the first one decides the family, IPv4 if there is none.

    Source: pkg/kubelet/kubelet_pods.go, sortPodIPs.
    """
    by_family: dict[int, str] = {}
    for text in pod_ips:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        by_family.setdefault(address.version, str(address))
    first = 6 if host_ips and ":" in host_ips[0] else 4
    return tuple(by_family[version] for version in (first, 10 - first) if version in by_family)


def env_field_value(
    selector: Mapping[str, Any], pod: v1.Pod, *, pod_ips: Sequence[str], host_ips: Sequence[str]
) -> str:
    """Value of a ``fieldRef`` of an environment variable.

    Args:
        selector: The ``fieldRef``.
        pod: The pod.
        pod_ips: Addresses of the pod; may be empty, the value then is too.
        host_ips: Addresses of the node, primary first.

    Raises:
        ValueError: No such field, or the node has no address yet.

    Source: pkg/kubelet/kubelet_pods.go, podFieldSelectorRuntimeValue.
    """
    path = _convert_field_label(selector.get("apiVersion") or "v1", selector.get("fieldPath", ""))
    spec = pod.get("spec", {})
    match path:
        case "spec.nodeName":
            return spec.get("nodeName", "")
        case "spec.serviceAccountName":
            return spec.get("serviceAccountName", "")
        case "status.hostIP" | "status.hostIPs":
            if not host_ips:
                raise ValueError("host IP unknown; known addresses: []")
            return host_ips[0] if path == "status.hostIP" else ",".join(host_ips)
        case "status.podIP" | "status.podIPs":
            addresses = sort_pod_ips(pod_ips, host_ips)
            return ",".join(addresses[:1] if path == "status.podIP" else addresses)
        case _:
            return metadata_field_value(pod, path)


def _convert_field_label(version: str, label: str) -> str:
    """Check a field path of an environment variable.

    Source: pkg/apis/core/pods/helpers.go, ConvertDownwardAPIFieldLabel.
    """
    if version != "v1":
        raise ValueError(f"unsupported pod version: {version}")
    path, subscript = split_subscript(label)
    if subscript is not None:
        if path not in _SUBSCRIPTED:
            raise ValueError(f"field label does not support subscript: {label}")
        return label
    if label == "spec.host":
        return "spec.nodeName"
    if label not in _FIELD_LABELS:
        raise ValueError(f"field label not supported: {label}")
    return label


def split_subscript(path: str) -> tuple[str, str | None]:
    """Parts of ``metadata.labels['key']``; the second is None where there is no subscript.

    Source: fieldpath.go, SplitMaybeSubscriptedPath.
    """
    head, separator, tail = path.partition("['")
    if not path.endswith("']") or not separator or not head:
        return path, None
    return head, tail.removesuffix("']")


def metadata_field_value(pod: v1.Pod, path: str) -> str:
    """Value of a field of the pod's metadata; a label or annotation that is not there is empty.

    Raises:
        ValueError: No such field.

    Source: fieldpath.go, ExtractFieldPathAsString.
    """
    metadata = pod["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    head, subscript = split_subscript(path)
    if subscript is not None:
        if head == "metadata.annotations":
            return annotations.get(subscript, "")
        if head == "metadata.labels":
            return labels.get(subscript, "")
        raise ValueError(f'fieldPath "{path}" does not support subscript')
    match path:
        case "metadata.annotations":
            return format_map(annotations)
        case "metadata.labels":
            return format_map(labels)
        case "metadata.name":
            return metadata.get("name", "")
        case "metadata.namespace":
            return metadata.get("namespace", "")
        case "metadata.uid":
            return metadata.get("uid", "")
    raise ValueError(f"unsupported fieldPath: {path}")


def format_map(entries: Mapping[str, str]) -> str:
    """Lines ``key="value"`` sorted by key, values quoted as Go quotes them, without a final newline.

    Source: fieldpath.go, FormatMap.
    """
    return "\n".join(f"{key}={quote(entries[key])}" for key in sorted(entries))


def quote(text: str) -> str:
    r"""A Go string literal: ``a"b`` becomes ``"a\"b"``.

    Source: Go strconv.Quote.
    """
    return '"' + "".join(_quote_character(character) for character in text) + '"'


def _quote_character(character: str) -> str:
    if character in _QUOTED:
        return _QUOTED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def env_resource_value(
    selector: Mapping[str, Any], pod: v1.Pod, container: v1.Container, *, allocatable: v1.ResourceList
) -> str:
    """Value of a ``resourceFieldRef`` of an environment variable.

    Limits that are not set fall back to the pod-level limit, else to what the node has; only those of the container itself
    and of app containers do.

    Args:
        selector: The ``resourceFieldRef``.
        pod: The pod.
        container: The container that the variable belongs to, meant when the selector names none.
        allocatable: Allocatable resources of the node.

    Raises:
        ValueError: No such container or resource.

    Source: pkg/kubelet/kubelet_resources.go, defaultPodLimitsForDownwardAPI; kubelet_pods.go, containerResourceRuntimeValue.
    """
    fallback = dict(allocatable)
    pod_limits = (pod.get("spec", {}).get("resources") or {}).get("limits") or {}
    for name in _DEFAULTED:
        if name in fallback and is_pod_level_resource(name) and parse_quantity(pod_limits.get(name, "0")):
            fallback[name] = pod_limits[name]
    named = selector.get("containerName")
    if not named:
        return resource_value(selector, container, allocatable=fallback)
    found, is_app = _get_container(pod, named)
    return resource_value(selector, found, allocatable=fallback if is_app else {})


def volume_resource_value(selector: Mapping[str, Any], pod: v1.Pod, *, allocatable: v1.ResourceList) -> str:
    """Value of a ``resourceFieldRef`` of a volume, which always names a container.

    Raises:
        ValueError: No such container or resource.

    Source: pkg/api/v1/resource/helpers.go, ExtractResourceValueByContainerNameAndNodeAllocatable.
    """
    found, _ = _get_container(pod, selector.get("containerName", ""))
    return resource_value(selector, found, allocatable=allocatable)


def _get_container(pod: v1.Pod, name: str) -> tuple[v1.Container, bool]:
    spec = pod.get("spec", {})
    for container in spec.get("containers") or ():
        if container["name"] == name:
            return container, True
    for container in spec.get("initContainers") or ():
        if container["name"] == name:
            return container, False
    raise ValueError(f"container {name} not found")


def resource_value(selector: Mapping[str, Any], container: v1.Container, *, allocatable: v1.ResourceList) -> str:
    """A request or limit in units of the divisor, rounded up.

    Args:
        selector: The ``resourceFieldRef``; ``containerName`` is not looked at.
        container: The container meant.
        allocatable: What unset cpu, memory and ephemeral-storage limits fall back to.

    Raises:
        ValueError: No such resource.

    Source: pkg/api/v1/resource/helpers.go, ExtractContainerResourceValue, MergeContainerResourceLimits.
    """
    resource = selector.get("resource", "")
    kind, _, name = resource.partition(".")
    known = name in _DEFAULTED or name.startswith(HUGEPAGES_PREFIX)
    if kind not in ("limits", "requests") or not known:
        raise ValueError(f"unsupported container resource : {resource}")
    amounts = container_limits(container) if kind == "limits" else container_requests(container)
    amount = amounts.get(name, Quantity())
    if kind == "limits" and not amount and name in _DEFAULTED and name in allocatable:
        amount = parse_quantity(allocatable[name])
    divisor = parse_quantity(str(selector.get("divisor") or "0")) or _ONE
    if name == CPU:
        return str(-(-amount.milli_value() // divisor.milli_value()))
    return str(-(-amount.value() // divisor.value()))
