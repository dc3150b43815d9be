"""Questions about a node that its object alone can answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

_FIELDS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "metadata.name": lambda node: node["metadata"]["name"]
}


def matches_node_selector(selector: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether a node fits one of the terms of a ``NodeSelector``; an empty term fits none.

    Args:
        selector: ``nodeSelectorTerms``, as in required node affinity and in persistent volumes.
        node: The node.

    Source: component-helpers scheduling/corev1/nodeaffinity, NodeSelector.Match.
    """
    labels = node["metadata"].get("labels") or {}
    return any(_matches_term(term, labels, node) for term in selector.get("nodeSelectorTerms") or ())


def _matches_term(term: Mapping[str, Any], labels: Mapping[str, str], node: Mapping[str, Any]) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_matches_requirement(r, labels.get(r["key"])) for r in expressions) and all(
        _matches_requirement(r, _FIELDS[r["key"]](node) if r["key"] in _FIELDS else None) for r in fields
    )


def _matches_requirement(requirement: Mapping[str, Any], value: str | None) -> bool:
    operator = requirement.get("operator")
    values: Sequence[str] = requirement.get("values") or ()
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    try:
        left, right = int(cast(str, value)), int(values[0])
    except (TypeError, ValueError, IndexError):
        return False
    return left > right if operator == "Gt" else left < right if operator == "Lt" else False
