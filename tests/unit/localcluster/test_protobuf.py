"""Protobuf bodies, written out by hand with the numbers of the published .proto files."""

from __future__ import annotations

import base64

import pytest

from vkprovider.localcluster.decoding import conform
from vkprovider.localcluster.protobuf import MAGIC, decode_envelope
from vkprovider.localcluster.schema import get_message, list_messages
from vkprovider.localcluster.status import APIStatusError


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, *parts):
    data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return varint(field << 3 | 2) + varint(len(data)) + data


def envelope(api_version, kind, raw):
    return MAGIC + text(1, text(1, api_version), text(2, kind)) + text(2, raw)


def metadata(name, *more):
    return text(1, text(1, name), *more)


def test_namespace_as_kubectl_sends_it():
    raw = metadata("foo", text(2, ""), text(8)) + text(2) + text(3, text(1, ""))
    assert decode_envelope(envelope("v1", "Namespace", raw)) == {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": "foo"},
    }


def test_configmap_and_secret_maps():
    raw = metadata("c") + text(2, text(1, "k"), text(2, "v")) + text(2, text(1, "e"), text(2, "")) + number(4, 0)
    found = decode_envelope(envelope("v1", "ConfigMap", raw))
    assert found["data"] == {"k": "v", "e": ""}
    assert found["immutable"] is False
    secret = decode_envelope(envelope("v1", "Secret", metadata("s") + text(2, text(1, "k"), text(2, b"\x00\xff"))))
    assert base64.b64decode(secret["data"]["k"]) == b"\x00\xff"


def test_pod_with_inline_sources_quantities_and_ports():
    probe = text(1, text(2, text(1, "/h"), text(2, number(1, 1), number(2, 0), text(3, "web")))) + number(2, 5)
    container = (
        text(1, "c")
        + text(2, "busybox")
        + text(3, "sleep")
        + text(3, "")
        + text(6, text(1, ""), number(2, 0), number(3, 80), text(4, "TCP"))
        + text(7, text(1, "A"), text(2, ""))
        + text(7, text(1, "N"), text(3, text(1, text(1, "v1"), text(2, "metadata.name"))))
        + text(8, text(1, text(1, "cpu"), text(2, text(1, "500m"))))
        + text(10, probe)
        + number(16, 1)
    )
    volumes = text(1, text(1, "e"), text(2, text(2))) + text(1, text(1, "h"), text(2, text(1, text(1, "/x"))))
    spec = volumes + text(2, container) + text(3, "Never") + number(4, 0) + text(7, text(1, "a"), text(2, "b"))
    found = decode_envelope(envelope("v1", "Pod", metadata("p") + text(2, spec) + text(3)))
    assert found["spec"] == {
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x"}}],
        "containers": [
            {
                "name": "c",
                "image": "busybox",
                "command": ["sleep", ""],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [
                    {"name": "A"},
                    {"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                ],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/h", "port": "web"}, "initialDelaySeconds": 5},
                "stdin": True,
            }
        ],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {"a": "b"},
    }
    assert conform(found, "core.Pod")["spec"]["containers"][0]["image"] == "busybox"


def test_time_and_negative_numbers():
    raw = metadata("l") + text(2, text(1, "me"), number(2, 40), text(4, number(1, 1767225600), number(2, 5000)))
    lease = decode_envelope(envelope("coordination.k8s.io/v1", "Lease", raw))
    assert lease["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 40,
        "renewTime": "2026-01-01T00:00:00.000005Z",
    }
    options = decode_envelope(envelope("v1", "DeleteOptions", number(1, -1) + text(2, text(1, "uid"))))
    assert options["gracePeriodSeconds"] == -1
    assert options["preconditions"] == {"uid": "uid"}


def test_eviction_and_delete_options_of_any_group():
    raw = metadata("p") + text(2, number(1, 0), text(5, "All"))
    assert decode_envelope(envelope("policy/v1", "Eviction", raw))["deleteOptions"] == {
        "gracePeriodSeconds": 0,
        "dryRun": ["All"],
    }
    assert decode_envelope(envelope("policy/v1", "DeleteOptions", number(1, 3)))["gracePeriodSeconds"] == 3


def test_map_of_lists_goes_through_its_wrapper():
    extra = text(4, text(1, "k"), text(2, text(1, "a"), text(1, "b")))
    status = text(2, text(1, text(1, "u"), extra))
    found = decode_envelope(envelope("authentication.k8s.io/v1", "SelfSubjectReview", status))
    assert found["status"]["userInfo"] == {"username": "u", "extra": {"k": ["a", "b"]}}


def test_unknown_fields_are_skipped():
    raw = metadata("c") + text(2000, "future") + number(2001, 7)
    assert decode_envelope(envelope("v1", "ConfigMap", raw))["metadata"] == {"name": "c"}


@pytest.mark.parametrize(
    "data",
    [
        MAGIC + b"\x0a\x7f",
        MAGIC + b"\xff" * 12,
        envelope("v1", "ConfigMap", b"\x0a\x05ab"),
        envelope("v1", "ConfigMap", b"\x0b"),
        b"nope",
    ],
)
def test_damaged_bodies_are_400(data):
    with pytest.raises(APIStatusError) as caught:
        decode_envelope(data)
    assert caught.value.code == 400


def test_unknown_kind_is_415():
    with pytest.raises(APIStatusError) as caught:
        decode_envelope(envelope("example.com/v1", "Foo", b""))
    assert caught.value.code == 415


def test_every_message_of_the_table_can_be_read():
    for name in list_messages():
        message = get_message(name)
        numbers = list(message.by_number)
        assert len(numbers) == len(set(numbers))
        for field in message.by_number.values():
            assert not field.is_message or get_message(field.type)
