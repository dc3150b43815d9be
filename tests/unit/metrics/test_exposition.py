"""The text format."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from support.exposition import parse_exposition
from vkprovider.metrics import Family, render_families, render_registry

AT = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)


def test_a_family_stands_under_its_head_with_times_in_milliseconds():
    family = Family("container_cpu_usage_seconds_total", "counter", "CPU time", ("container", "pod"))
    family.add(("c", "p"), 1.5, AT)
    family.add(("d", "p"), 2)
    assert family.render() == (
        "# HELP container_cpu_usage_seconds_total CPU time\n"
        "# TYPE container_cpu_usage_seconds_total counter\n"
        'container_cpu_usage_seconds_total{container="c",pod="p"} 1.5 1767323045678\n'
        'container_cpu_usage_seconds_total{container="d",pod="p"} 2\n'
    )


def test_families_come_by_name_and_empty_ones_not_at_all():
    first, second, empty = (Family(name, "gauge", "h") for name in ("b", "a", "c"))
    first.add((), 1)
    second.add((), 2)
    assert [series.name for series in parse_exposition(render_families([first, second, empty])).series] == ["a", "b"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from('\n"\\')), st.floats())
def test_any_label_and_value_can_be_read_back(label: str, value: float) -> None:
    family = Family("x", "gauge", 'a "help"\nof \\ two lines', ("l",))
    family.add((label,), value)
    [line] = [line for line in family.render().split("\n") if line.startswith("x{")]
    text, _, number = line.removeprefix('x{l="').rpartition('"} ')
    assert float(number) == value or value != value
    unescaped = text.replace("\\\\", "\0").replace("\\n", "\n").replace('\\"', '"').replace("\0", "\\")
    assert unescaped == label


def test_a_registry_is_shown_as_upstream_shows_its_own():
    registry = CollectorRegistry()
    Counter("b_total", "Things", ("kind",), registry=registry).labels('a"b').inc(3)
    Histogram("a_seconds", "Time", registry=registry, buckets=(0.5, 1)).observe(0.7)
    text = render_registry(registry)
    assert text == (
        "# HELP a_seconds Time\n# TYPE a_seconds histogram\n"
        'a_seconds_bucket{le="0.5"} 0\na_seconds_bucket{le="1"} 1\na_seconds_bucket{le="+Inf"} 1\n'
        "a_seconds_count 1\na_seconds_sum 0.7\n"
        "# HELP b_total Things\n# TYPE b_total counter\n"
        'b_total{kind="a\\"b"} 3\n'
    )
    parse_exposition(text)
