"""Readers of metrics: a strict one, and one by the rules of metrics-server v0.7.

Source: prometheus docs, text format 0.0.4; metrics-server pkg/scraper/client/resource/decode.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (\S+)(?: (-?\d+))?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
_SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass(frozen=True)
class Series:
    """One series with its value now; ``timestamp_ms`` is None if it has none."""

    name: str
    labels: dict[str, str]
    value: float
    timestamp_ms: int | None


@dataclass
class Exposition:
    """All series of an answer, and the kind of each family."""

    series: list[Series] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)

    def find(self, name: str, **labels: str) -> list[Series]:
        """Series of a name that have at least these labels."""
        return [s for s in self.series if s.name == name and labels.items() <= s.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """Value of the one series of a name that has these labels."""
        found = self.find(name, **labels)
        assert len(found) == 1, f"{len(found)} series {name} {labels}"
        return found[0].value

    def names(self) -> set[str]:
        """Names of all series."""
        return {series.name for series in self.series}


def parse_exposition(text: str) -> Exposition:
    """Read the text format and check its rules: a family has one HELP and one TYPE before its series, which stand together; no
    series comes twice; the last line has an end.

    Raises:
        AssertionError: A rule is broken.
    """
    assert not text or text.endswith("\n")
    exposition, helped, seen, current = Exposition(), set(), set(), ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helped, f"second HELP of {name}"
            helped.add(name)
            current = name
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current, f"TYPE of {name} does not follow its HELP"
            assert name not in exposition.kinds
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped")
            exposition.kinds[name] = kind
        else:
            match = _SERIES.fullmatch(line)
            assert match, f"not a series: {line!r}"
            name, _, labels, value, timestamp = match.groups()
            family = name
            if name not in exposition.kinds:
                family = next((name.removesuffix(s) for s in _SUFFIXES if name.endswith(s)), name)
            assert family == current, f"{name} does not stand with its family"
            parsed = _parse_labels(labels or "")
            key = (name, tuple(sorted(parsed.items())))
            assert key not in seen, f"series comes twice: {line!r}"
            seen.add(key)
            exposition.series.append(Series(name, parsed, float(value), int(timestamp) if timestamp else None))
    return exposition


def _parse_labels(text: str) -> dict[str, str]:
    labels, position = {}, 0
    while position < len(text):
        match = _LABEL.match(text, position)
        assert match, f"not labels: {text!r}"
        name, value, _ = match.groups()
        assert name not in labels
        labels[name] = value.replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\")
        position = match.end()
    return labels


@dataclass
class MetricsPoint:
    """What metrics-server keeps of a node or a container."""

    cpu_core_nanoseconds: int = 0
    memory_bytes: int = 0
    timestamp_ms: int = 0
    started_s: float = 0.0


@dataclass
class MetricsBatch:
    """What metrics-server takes from one scrape: the node if complete, containers by (namespace, pod) where all are complete."""

    node: MetricsPoint | None
    pods: dict[tuple[str, str], dict[str, MetricsPoint]]


def decode_as_metrics_server(text: str, *, now_ms: int) -> MetricsBatch:
    """Decode ``/metrics/resource`` as metrics-server v0.7 does.

    A node without a time stamp, CPU or memory is dropped; a pod of which one container lacks CPU or memory is dropped whole.

    Args:
        text: The answer.
        now_ms: Time of the request, which stands in for missing time stamps.
    """
    node = MetricsPoint()
    pods: dict[tuple[str, str], dict[str, MetricsPoint]] = {}
    for series in parse_exposition(text).series:
        timestamp_ms = series.timestamp_ms if series.timestamp_ms is not None else now_ms
        if series.name == "node_cpu_usage_seconds_total":
            node.cpu_core_nanoseconds, node.timestamp_ms = int(series.value * 1e9), timestamp_ms
        elif series.name == "node_memory_working_set_bytes":
            node.memory_bytes, node.timestamp_ms = int(series.value), timestamp_ms
        elif series.name in (
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_start_time_seconds",
        ):
            labels = series.labels
            containers = pods.setdefault((labels["namespace"], labels["pod"]), {})
            point = containers.setdefault(labels["container"], MetricsPoint())
            if series.name == "container_cpu_usage_seconds_total":
                point.cpu_core_nanoseconds, point.timestamp_ms = int(series.value * 1e9), timestamp_ms
            elif series.name == "container_memory_working_set_bytes":
                point.memory_bytes, point.timestamp_ms = int(series.value), timestamp_ms
            else:
                point.started_s = series.value
    complete = {
        key: containers
        for key, containers in pods.items()
        if all(point.cpu_core_nanoseconds and point.memory_bytes for point in containers.values())
    }
    has_node = node.timestamp_ms and node.cpu_core_nanoseconds and node.memory_bytes
    return MetricsBatch(node if has_node else None, complete)
