"""Label and field selectors."""

from __future__ import annotations

import pytest

from vkprovider.localcluster.selectors import parse_field_selector, parse_label_selector, selector_from_object
from vkprovider.localcluster.status import APIStatusError

LABELS = {"app": "web", "tier": "front", "n": "5"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=web,tier=back", False),
        ("app!=web", False),
        ("missing!=x", True),
        ("app in (web, db)", True),
        ("app notin (web,db)", False),
        ("missing notin (x)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("n>4", True),
        ("n<5", False),
        ("missing>1", False),
        ("app in (web),!missing,tier", True),
    ],
)
def test_label_selector(text, expected):
    assert parse_label_selector(text).matches(LABELS) is expected


@pytest.mark.parametrize("text", ["a = (", "a in web", "=x", "a b", "a in (x"])
def test_malformed_label_selector_is_400(text):
    with pytest.raises(APIStatusError) as caught:
        parse_label_selector(text)
    assert caught.value.code == 400


def test_no_labels_at_all():
    assert parse_label_selector("!x").matches(None)
    assert not parse_label_selector("x").matches(None)


def test_selector_objects():
    selector = selector_from_object(
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]}
    )
    assert selector is not None
    assert selector.matches(LABELS)
    assert selector_from_object(None) is None
    empty = selector_from_object({})
    assert empty is not None
    assert empty.matches({})


POD = {
    "metadata": {"name": "p", "namespace": "ns"},
    "spec": {"nodeName": "n1", "restartPolicy": "Always"},
    "status": {"phase": "Running"},
}
EVENT = {
    "metadata": {"name": "e", "namespace": "ns"},
    "involvedObject": {"kind": "Pod", "name": "p", "uid": "u"},
    "reason": "Started",
    "type": "Normal",
    "source": {"component": "kubelet"},
}


@pytest.mark.parametrize(
    ("obj", "storage", "text", "expected"),
    [
        (POD, "pods", "spec.nodeName=n1", True),
        (POD, "pods", "spec.nodeName=n1,status.phase!=Failed", True),
        (POD, "pods", "spec.nodeName!=n1", False),
        (POD, "pods", "metadata.name=p,metadata.namespace=ns", True),
        (POD, "pods", "spec.hostNetwork=false", True),
        (POD, "pods", "status.podIP=", True),
        (EVENT, "events", "involvedObject.name=p,involvedObject.kind=Pod,involvedObject.uid=u", True),
        (EVENT, "events", "reason=Started,type=Warning", False),
        (EVENT, "events", "source=kubelet", True),
        ({"metadata": {"name": "s"}, "type": "Opaque"}, "secrets", "type=Opaque", True),
        ({"metadata": {"name": "n"}, "spec": {"unschedulable": True}}, "nodes", "spec.unschedulable=true", True),
        ({"metadata": {"name": "n"}}, "nodes", "spec.unschedulable=true", False),
    ],
)
def test_field_selector(obj, storage, text, expected):
    assert parse_field_selector(text, storage).matches(obj) is expected


def test_unknown_field_is_400():
    with pytest.raises(APIStatusError, match=r"field label not supported: spec.foo"):
        parse_field_selector("spec.foo=x", "pods")
    with pytest.raises(APIStatusError, match="invalid selector"):
        parse_field_selector("spec.nodeName", "pods")
