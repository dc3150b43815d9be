"""The text format of Prometheus, for figures that are not kept in a registry because each request brings them anew.

prometheus-client's own writer is not used for those: they carry the time at which they were true, there are thousands of them,
and its series ``_created``, which no kubelet has, cannot be left out without changing the whole process.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from prometheus_client import CollectorRegistry

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Family:
    """Series of one name.

    Args:
        name: Name of the metric.
        kind: What its value means.
        help: One sentence for people.
        labels: Names of the labels, in the order in which ``add`` gets their values.
    """

    __slots__ = ("_head", "_labels", "_lines", "name")

    def __init__(self, name: str, kind: Literal["counter", "gauge"], help: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self._head = f"# HELP {name} {help.translate(_HELP_ESCAPES)}\n# TYPE {name} {kind}\n"
        self._labels = tuple(labels)
        self._lines: list[str] = []

    def add(self, values: Sequence[str], value: float, at: datetime | None = None) -> None:
        """Add one series.

        Args:
            values: Values of the labels.
            value: Its value.
            at: When it was true; None for the time of the request.
        """
        pairs = ",".join(
            f'{name}="{text.translate(_ESCAPES)}"' for name, text in zip(self._labels, values, strict=True)
        )
        stamp = "" if at is None else f" {_milliseconds(at)}"
        self._lines.append(
            f"{self.name}{{{pairs}}} {_format(value)}{stamp}\n" if pairs else f"{self.name} {_format(value)}{stamp}\n"
        )

    def __len__(self) -> int:
        return len(self._lines)

    def render(self) -> str:
        """Its text; empty if it has no series."""
        return self._head + "".join(self._lines) if self._lines else ""


def render_families(families: Iterable[Family]) -> str:
    """Text of some families, in the order of their names; those without series are left out."""
    return "".join(family.render() for family in sorted(families, key=lambda family: family.name))


def render_registry(registry: CollectorRegistry) -> str:
    """Text of everything in a registry, in the order of names, without the series that tell when a counter was made.

    Takes a lock per metric for a moment only, so it may run in a thread beside those that count.
    """
    texts: dict[str, str] = {}
    for metric in registry.collect():
        name = metric.name + "_total" if metric.type == "counter" else metric.name
        lines = [
            f"{sample.name}{_format_labels(sample.labels)} {_format(sample.value)}\n"
            for sample in metric.samples
            if not sample.name.endswith("_created")
        ]
        if lines:
            texts[name] = (
                f"# HELP {name} {metric.documentation.translate(_HELP_ESCAPES)}\n"
                f"# TYPE {name} {'gauge' if metric.type in ('info', 'stateset') else metric.type}\n" + "".join(lines)
            )
    return "".join(texts[name] for name in sorted(texts))


def _format_labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    if "le" in labels:
        # As Go writes the bounds of buckets: 1, not 1.0.
        labels = {**labels, "le": labels["le"].removesuffix(".0")}
    return "{" + ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in labels.items()) + "}"


def _format(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if value == float("inf"):
        return "+Inf"
    if value == float("-inf"):
        return "-Inf"
    if value != value:
        return "NaN"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _milliseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
