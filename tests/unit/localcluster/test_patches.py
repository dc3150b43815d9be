"""Merge, JSON and strategic merge patches."""

from __future__ import annotations

import copy

import pytest

from vkprovider.localcluster.patches import apply_json_patch, apply_merge, apply_strategic
from vkprovider.localcluster.schema import get_message
from vkprovider.localcluster.status import APIStatusError

POD = get_message("core.Pod")
DEPLOYMENT = get_message("apps.Deployment")


def strategic(original, patch, message=POD):
    before = copy.deepcopy(original), copy.deepcopy(patch)
    result = apply_strategic(original, patch, message)
    assert (original, patch) == before, "a patch must not change its input"
    return result


def test_merge_patch_follows_rfc_7386():
    original = {"a": "b", "c": {"d": "e", "f": "g"}, "l": [1, 2]}
    assert apply_merge(original, {"a": "z", "c": {"f": None}, "l": [3], "n": {"x": {"y": None}}}) == {
        "a": "z",
        "c": {"d": "e"},
        "l": [3],
        "n": {"x": {}},
    }
    assert apply_merge({"a": 1}, [1]) == [1]
    assert original["c"] == {"d": "e", "f": "g"}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ([{"op": "add", "path": "/l/1", "value": 9}], {"l": [1, 9, 2], "m": {"a/b": 1, "c~d": 2}}),
        ([{"op": "add", "path": "/l/-", "value": 9}], {"l": [1, 2, 9], "m": {"a/b": 1, "c~d": 2}}),
        ([{"op": "remove", "path": "/m/a~1b"}], {"l": [1, 2], "m": {"c~d": 2}}),
        ([{"op": "replace", "path": "/m/c~0d", "value": 3}], {"l": [1, 2], "m": {"a/b": 1, "c~d": 3}}),
        ([{"op": "move", "from": "/l/0", "path": "/x"}], {"l": [2], "m": {"a/b": 1, "c~d": 2}, "x": 1}),
        ([{"op": "copy", "from": "/l", "path": "/m/l"}], {"l": [1, 2], "m": {"a/b": 1, "c~d": 2, "l": [1, 2]}}),
        ([{"op": "test", "path": "/l/0", "value": 1}], {"l": [1, 2], "m": {"a/b": 1, "c~d": 2}}),
    ],
)
def test_json_patch_operations(patch, expected):
    document = {"l": [1, 2], "m": {"a/b": 1, "c~d": 2}}
    assert apply_json_patch(document, patch) == expected
    assert document == {"l": [1, 2], "m": {"a/b": 1, "c~d": 2}}


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ({"op": "add"}, 400),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "remove", "path": "/b"}], 422),
        ([{"op": "replace", "path": "/b", "value": 1}], 422),
        ([{"op": "add", "path": "/l/7", "value": 1}], 422),
        ([{"op": "add", "path": "/a/x/y", "value": 1}], 422),
        ([{"op": "add", "path": "nope", "value": 1}], 422),
        ([{"op": "add", "path": "/a"}], 422),
        ([{"op": "frobnicate", "path": "/a"}], 422),
    ],
)
def test_json_patch_that_does_not_apply(patch, code):
    with pytest.raises(APIStatusError) as caught:
        apply_json_patch({"a": 1, "l": []}, patch)
    assert caught.value.code == code


def test_strategic_merges_lists_by_their_key():
    original = {"spec": {"containers": [{"name": "a", "image": "1", "args": ["x", "y"]}, {"name": "b", "image": "1"}]}}
    result = strategic(original, {"spec": {"containers": [{"name": "b", "image": "2"}]}})
    assert result["spec"]["containers"] == [
        {"name": "a", "image": "1", "args": ["x", "y"]},
        {"name": "b", "image": "2"},
    ]


def test_strategic_puts_new_items_before_those_it_does_not_name():
    original = {
        "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}
    }
    patch = {"spec": {"containers": [{"name": "c", "env": [{"name": "C", "value": "3"}]}]}}
    env = strategic(original, patch)["spec"]["containers"][0]["env"]
    assert [item["name"] for item in env] == ["C", "A", "B"]


def test_strategic_replaces_lists_without_a_merge_strategy():
    original = {"spec": {"containers": [{"name": "c", "args": ["1", "2"]}], "tolerations": [{"key": "a"}]}}
    patch = {"spec": {"containers": [{"name": "c", "args": ["3"]}], "tolerations": [{"key": "b"}]}}
    result = strategic(original, patch)
    assert result["spec"]["containers"][0]["args"] == ["3"]
    assert result["spec"]["tolerations"] == [{"key": "b"}]


def test_strategic_deletes_and_replaces_by_directive():
    original = {"spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1", "y": "2"}}}
    gone = strategic(original, {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})
    assert gone["spec"]["containers"] == [{"name": "b"}]
    other = strategic(original, {"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}})
    assert other["spec"]["containers"] == [{"name": "z"}]
    selector = strategic(original, {"spec": {"nodeSelector": {"$patch": "replace", "z": "3"}}})
    assert selector["spec"]["nodeSelector"] == {"z": "3"}
    without = strategic(original, {"spec": {"nodeSelector": {"$patch": "delete"}}})
    assert "nodeSelector" not in without["spec"]


def test_strategic_null_removes_a_field_and_an_item_field():
    original = {"spec": {"hostname": "h", "containers": [{"name": "c", "image": "i", "workingDir": "/w"}]}}
    result = strategic(original, {"spec": {"hostname": None, "containers": [{"name": "c", "workingDir": None}]}})
    assert result == {"spec": {"containers": [{"name": "c", "image": "i"}]}}


def test_strategic_set_element_order_sorts_and_keeps_unknown_items():
    original = {"spec": {"containers": [{"name": "a"}, {"name": "injected"}, {"name": "b"}]}}
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new", "image": "n"}],
        }
    }
    names = [c["name"] for c in strategic(original, patch)["spec"]["containers"]]
    assert [name for name in names if name != "injected"] == ["b", "new", "a"]
    assert "injected" in names


def test_strategic_set_element_order_alone_reorders():
    original = {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}
    result = strategic(original, {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}})
    assert [c["name"] for c in result["spec"]["containers"]] == ["b", "a"]


def test_strategic_merges_and_deletes_primitive_lists():
    original = {"metadata": {"finalizers": ["a", "b"]}}
    added = strategic(original, {"metadata": {"finalizers": ["c"]}})["metadata"]["finalizers"]
    assert sorted(added) == ["a", "b", "c"]
    removed = strategic(original, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})
    assert removed["metadata"]["finalizers"] == ["b"]


def test_strategic_retain_keys_drops_the_other_members_of_a_union():
    original = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic(original, patch, DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}
    volume = {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}
    swap = {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}
    assert strategic(volume, swap)["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_strategic_ports_merge_by_container_port():
    original = {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "name": "web"}]}]}}
    patch = {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}}
    ports = strategic(original, patch)["spec"]["containers"][0]["ports"]
    assert ports == [{"containerPort": 80, "name": "web", "hostPort": 8080}]


def test_strategic_conditions_merge_by_type():
    original = {
        "status": {"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]}
    }
    patch = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    conditions = {c["type"]: c["status"] for c in strategic(original, patch)["status"]["conditions"]}
    assert conditions == {"PodScheduled": "True", "Ready": "True"}


def test_strategic_item_without_its_merge_key_is_an_error():
    with pytest.raises(APIStatusError, match="does not contain declared merge key: name"):
        strategic({"spec": {}}, {"spec": {"containers": [{"image": "x"}]}})


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"name": {"a": 1}}]}},
        {"spec": {"containers": ["x"]}},
        {"metadata": {"finalizers": [{"a": 1}]}},
    ],
)
def test_strategic_odd_shapes_are_400(patch):
    with pytest.raises(APIStatusError) as caught:
        apply_strategic({"spec": {"containers": [{"name": "c"}]}, "metadata": {"finalizers": ["f"]}}, patch, POD)
    assert caught.value.code == 400


def test_strategic_unknown_directive_is_an_error():
    with pytest.raises(APIStatusError, match="Unknown patch type"):
        strategic({}, {"$patch": "frob"})


def test_strategic_shares_what_it_does_not_touch():
    original = {"spec": {"containers": [{"name": "c"}]}, "status": {}}
    assert strategic(original, {"status": {"phase": "Running"}})["spec"] is original["spec"]
