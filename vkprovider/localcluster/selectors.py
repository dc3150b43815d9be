"""Label and field selectors.

Source: staging/src/k8s.io/apimachinery/pkg/labels/selector.go, pkg/fields/selector.go; the field sets of the strategies
below pkg/registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vkprovider.localcluster import status

Labels = Mapping[str, str]
_IN = re.compile(r"^([^\s!=<>(),]+)\s+(in|notin)\s*\(([^)]*)\)$")
_COMPARE = re.compile(r"^([^\s!=<>(),]+)\s*(==|=|!=|>|<)\s*([^\s=<>(),]*)$")
_EXISTS = re.compile(r"^(!?)\s*([^\s!=<>(),]+)$")
_KEY = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: ``operator`` is in, notin, exists, absent, gt or lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        """Whether the labels satisfy the term."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None:
            return False
        try:
            left, right = int(value), int(next(iter(self.values)))
        except ValueError:
            return False
        return left > right if self.operator == "gt" else left < right


class LabelSelector:
    """All terms must hold; no terms match everything."""

    __slots__ = ("requirements",)

    def __init__(self, requirements: tuple[Requirement, ...] = ()) -> None:
        self.requirements = requirements

    def matches(self, labels: Labels | None) -> bool:
        """Whether the labels satisfy every term."""
        given = labels or {}
        return all(requirement.matches(given) for requirement in self.requirements)


def _split(text: str) -> list[str]:
    """Split at commas outside of parentheses."""
    return [part for part in (piece.strip() for piece in re.split(r",(?![^(]*\))", text)) if part]


def parse_label_selector(text: str) -> LabelSelector:
    """Selector of a ``labelSelector`` parameter.

    Raises:
        APIStatusError: 400, the text is malformed.
    """
    found = []
    for part in _split(text):
        if match := _IN.match(part):
            key, operator, body = match.groups()
            requirement = Requirement(key, operator, frozenset(value.strip() for value in body.split(",")))
        elif match := _COMPARE.match(part):
            key, sign, value = match.groups()
            operator = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}[sign]
            requirement = Requirement(key, operator, frozenset({value}))
        elif match := _EXISTS.match(part):
            requirement = Requirement(match.group(2), "absent" if match.group(1) else "exists")
        else:
            raise status.bad_request(f"unable to parse requirement: found {part!r}, expected: a label requirement")
        if not _KEY.match(requirement.key):
            raise status.bad_request(f"unable to parse requirement: <nil>: Invalid value: {requirement.key!r}")
        found.append(requirement)
    return LabelSelector(tuple(found))


def selector_from_object(selector: Mapping[str, Any] | None) -> LabelSelector | None:
    """Selector of a ``metav1.LabelSelector``; None selects nothing."""
    if selector is None:
        return None
    terms = [Requirement(key, "in", frozenset({value})) for key, value in (selector.get("matchLabels") or {}).items()]
    names = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent", "Gt": "gt", "Lt": "lt"}
    terms += [
        Requirement(item["key"], names[item["operator"]], frozenset(item.get("values") or ()))
        for item in selector.get("matchExpressions") or ()
    ]
    return LabelSelector(tuple(terms))


def _path(*keys: str, default: str = "") -> Callable[[dict[str, Any]], str]:
    def read(obj: dict[str, Any]) -> str:
        value: Any = obj
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
            if value is None:
                return default
        return ("true" if value else "false") if isinstance(value, bool) else str(value)

    return read


_COMMON = {"metadata.name": _path("metadata", "name"), "metadata.namespace": _path("metadata", "namespace")}
_FIELDS: dict[str, dict[str, Callable[[dict[str, Any]], str]]] = {
    "pods": {
        "spec.nodeName": _path("spec", "nodeName"),
        "spec.restartPolicy": _path("spec", "restartPolicy"),
        "spec.schedulerName": _path("spec", "schedulerName"),
        "spec.serviceAccountName": _path("spec", "serviceAccountName"),
        "spec.hostNetwork": _path("spec", "hostNetwork", default="false"),
        "status.phase": _path("status", "phase"),
        "status.podIP": _path("status", "podIP"),
        "status.nominatedNodeName": _path("status", "nominatedNodeName"),
    },
    "events": {
        **{
            f"involvedObject.{key}": _path("involvedObject", key)
            for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        **{
            f"regarding.{key}": _path("involvedObject", key)
            for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        "reason": _path("reason"),
        "reportingComponent": _path("reportingComponent"),
        "reportingController": _path("reportingComponent"),
        "source": lambda obj: (obj.get("source") or {}).get("component") or obj.get("reportingComponent") or "",
        "type": _path("type"),
    },
    "nodes": {"spec.unschedulable": _path("spec", "unschedulable", default="false")},
    "namespaces": {"status.phase": _path("status", "phase")},
    "secrets": {"type": _path("type")},
    "services": {"spec.clusterIP": _path("spec", "clusterIP"), "spec.type": _path("spec", "type")},
    "replicasets.apps": {"status.replicas": _path("status", "replicas", default="0")},
    "replicationcontrollers": {"status.replicas": _path("status", "replicas", default="0")},
    "jobs.batch": {"status.successful": _path("status", "succeeded", default="0")},
    "certificatesigningrequests.certificates.k8s.io": {"spec.signerName": _path("spec", "signerName")},
    "persistentvolumes": {"name": _path("metadata", "name")},
    "persistentvolumeclaims": {"name": _path("metadata", "name")},
}


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Equality terms over the fields of one kind: (key, equal, value, getter)."""

    terms: tuple[tuple[str, bool, str, Callable[[dict[str, Any]], str]], ...] = ()

    def matches(self, obj: dict[str, Any]) -> bool:
        """Whether the object satisfies every term."""
        return all((getter(obj) == value) is equal for _, equal, value, getter in self.terms)


def parse_field_selector(text: str, storage: str) -> FieldSelector:
    """Selector of a ``fieldSelector`` parameter for the objects of one collection.

    Raises:
        APIStatusError: 400, malformed or a field that this kind does not offer.
    """
    known = {**_COMMON, **_FIELDS.get(storage, {})}
    terms = []
    for part in re.split(r"(?<!\\),", text):
        if not part:
            continue
        match = re.match(r"^([^=!]+?)(==|!=|=)(.*)$", part)
        if match is None:
            raise status.bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
        key, sign, value = match.groups()
        getter = known.get(key)
        if getter is None:
            raise status.bad_request(f"field label not supported: {key}")
        terms.append((key, sign != "!=", re.sub(r"\\(.)", r"\1", value), getter))
    return FieldSelector(tuple(terms))
