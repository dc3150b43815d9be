from __future__ import annotations

from typing import Any

import pytest

from vkprovider.resolve.downward import (
    env_field_value,
    env_resource_value,
    format_map,
    metadata_field_value,
    quote,
    sort_pod_ips,
    volume_resource_value,
)

NODE = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "uid-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['zone/rack']", "r1"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['b']", "2"),
        ("metadata.labels", 'app="web"\nzone/rack="r1"'),
        ("spec.nodeName", "node-1"),
        ("spec.host", "node-1"),
        ("spec.serviceAccountName", "sa"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
        ("status.podIP", "10.0.0.5"),
        ("status.podIPs", "10.0.0.5,fd00::5"),
    ],
)
def test_fields_of_variables(pod: Any, path: str, value: str) -> None:
    got = env_field_value(
        {"fieldPath": path}, pod, pod_ips=("fd00::5", "10.0.0.5"), host_ips=("192.0.2.1", "2001:db8::1")
    )
    assert got == value


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({"fieldPath": "spec.foo"}, "field label not supported: spec.foo"),
        ({"fieldPath": "spec.restartPolicy"}, "unsupported fieldPath: spec.restartPolicy"),
        ({"fieldPath": "metadata.name['x']"}, "field label does not support subscript: metadata.name['x']"),
        ({"fieldPath": "metadata.name", "apiVersion": "v2"}, "unsupported pod version: v2"),
        ({"fieldPath": "status.hostIP"}, "host IP unknown; known addresses: []"),
    ],
)
def test_fields_that_do_not_exist_are_named(pod: Any, selector: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z]") as caught:
        env_field_value(selector, pod, pod_ips=(), host_ips=())
    assert str(caught.value) == message


def test_pod_address_is_empty_before_the_sandbox_has_one(pod: Any) -> None:
    assert env_field_value({"fieldPath": "status.podIP"}, pod, pod_ips=(), host_ips=("192.0.2.1",)) == ""


def test_pod_addresses_follow_the_family_of_the_node() -> None:
    ips = ("10.0.0.5", "fd00::5", "10.0.0.6", "junk")
    assert sort_pod_ips(ips, ("192.0.2.1",)) == ("10.0.0.5", "fd00::5")
    assert sort_pod_ips(ips, ("2001:db8::1", "192.0.2.1")) == ("fd00::5", "10.0.0.5")
    assert sort_pod_ips(("fd00::5",), ()) == ("fd00::5",)


def test_volume_fields_do_not_know_the_status(pod: Any) -> None:
    with pytest.raises(ValueError, match=r"unsupported fieldPath: status\.podIP"):
        metadata_field_value(pod, "status.podIP")
    with pytest.raises(ValueError, match=r'fieldPath "spec\.x\[\'a\'\]" does not support subscript'):
        metadata_field_value(pod, "spec.x['a']")


# Go: strconv.Quote of these.
@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('say "hi"\n', r'"say \"hi\"\n"'),
        ("tab\tcr\rbell\a\b\f\v\\", r'"tab\tcr\rbell\a\b\f\v\\"'),
        ("\x00\x1b\x7f", r'"\x00\x1b\x7f"'),
        ("ünï☺", '"ünï☺"'),
        ("\u00a0\u200b", r'"\u00a0\u200b"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_values_are_quoted_as_go_quotes(text: str, quoted: str) -> None:
    assert quote(text) == quoted


def test_maps_are_sorted_without_final_newline() -> None:
    assert format_map({"b": "2", "a": "x=\n"}) == 'a="x=\\n"\nb="2"'
    assert format_map({}) == ""


@pytest.mark.parametrize(
    ("resource", "container", "divisor", "value"),
    [
        ("requests.cpu", None, None, "1"),
        ("requests.cpu", None, "0", "1"),
        ("requests.cpu", None, "1m", "250"),
        ("requests.memory", None, "1Mi", "64"),
        ("requests.memory", None, "1M", "68"),
        ("requests.memory", None, None, "67108864"),
        ("requests.ephemeral-storage", None, "1Gi", "0"),
        ("limits.memory", None, "1k", "100000"),
        ("limits.hugepages-2Mi", None, "1Mi", "4"),
        ("requests.hugepages-1Gi", None, None, "0"),
        ("limits.cpu", None, None, "4"),
        ("limits.cpu", None, "1m", "4000"),
        ("limits.ephemeral-storage", None, "1Gi", "100"),
        ("limits.memory", "bare", "1Gi", "8"),
        ("requests.cpu", "setup", "1m", "1000"),
        ("limits.cpu", "setup", "1m", "0"),
    ],
)
def test_resources_of_variables(
    pod: Any, resource: str, container: str | None, divisor: str | None, value: str
) -> None:
    selector = {"resource": resource, "divisor": divisor, "containerName": container}
    own = pod["spec"]["containers"][0]
    assert env_resource_value(selector, pod, own, allocatable=NODE) == value


def test_own_limits_of_an_init_container_fall_back_too(pod: Any) -> None:
    setup = pod["spec"]["initContainers"][0]
    assert env_resource_value({"resource": "limits.cpu"}, pod, setup, allocatable=NODE) == "4"


def test_pod_level_limit_comes_before_the_nodes(pod: Any) -> None:
    pod["spec"]["resources"] = {"limits": {"cpu": "2", "ephemeral-storage": "1Gi"}}
    own = pod["spec"]["containers"][0]
    assert env_resource_value({"resource": "limits.cpu"}, pod, own, allocatable=NODE) == "2"
    storage = {"resource": "limits.ephemeral-storage", "divisor": "1Gi"}
    assert env_resource_value(storage, pod, own, allocatable=NODE) == "100"


def test_volumes_name_their_container(pod: Any) -> None:
    selector = {"resource": "limits.cpu", "containerName": "setup"}
    assert volume_resource_value(selector, pod, allocatable=NODE) == "4"
    with pytest.raises(ValueError, match=r"^container nope not found$"):
        volume_resource_value({"resource": "limits.cpu", "containerName": "nope"}, pod, allocatable=NODE)


@pytest.mark.parametrize("resource", ["limits.gpu", "cpu", "usage.cpu", ""])
def test_other_resources_are_refused(pod: Any, resource: str) -> None:
    with pytest.raises(ValueError, match=r"^unsupported container resource : "):
        env_resource_value({"resource": resource}, pod, pod["spec"]["containers"][0], allocatable=NODE)
