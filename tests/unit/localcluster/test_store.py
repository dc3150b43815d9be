"""Versions, history, snapshots and encodings of the store."""

from __future__ import annotations

import asyncio
import json

import pytest

from vkprovider.localcluster import store as store_module
from vkprovider.localcluster.status import APIStatusError
from vkprovider.localcluster.store import ChangeQueue, Store


def make(name, namespace="ns", **more):
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace}, **more}


def test_versions_grow_over_all_collections():
    store = Store()
    first = store.collection("pods").put(make("a"))
    second = store.collection("nodes").put(make("n", ""))
    third = store.collection("pods").put(make("a"))
    assert first.version < second.version < third.version == store.version
    assert third.obj["metadata"]["resourceVersion"] == str(third.version)


def test_lists_are_sorted_and_kept_by_namespace():
    pods = Store().collection("pods")
    for name, namespace in (("b", "y"), ("a", "y"), ("z", "x")):
        pods.put(make(name, namespace))
    assert [s.key for s in pods.list_sorted()] == [("x", "z"), ("y", "a"), ("y", "b")]
    assert [s.key for s in pods.list_sorted("y")] == [("y", "a"), ("y", "b")]
    assert pods.find("x", "a") is None


def test_history_is_replayed_after_a_version():
    store = Store()
    pods = store.collection("pods")
    created = pods.put(make("a"))
    changed = pods.put(make("a", status={}))
    gone = pods.remove(changed)
    changes = pods.since(created.version)
    assert [(c.version, c.removed) for c in changes] == [(changed.version, False), (gone.version, True)]
    assert changes[0].previous is created
    assert pods.since(store.version) == []


def test_history_that_was_dropped_is_410(monkeypatch):
    monkeypatch.setattr(store_module, "HISTORY_EVENTS", 3)
    store = Store()
    pods = store.collection("pods")
    first = pods.put(make("a"))
    for _ in range(5):
        pods.put(make("a"))
    with pytest.raises(APIStatusError, match="too old resource version") as caught:
        pods.since(first.version)
    assert caught.value.code == 410
    assert len(pods.since(store.version - 1)) == 1


def test_a_version_of_the_future_or_of_before_a_restart_is_410():
    store = Store()
    with pytest.raises(APIStatusError):
        store.collection("pods").since(store.version + 5)
    store.start_after(1000)
    with pytest.raises(APIStatusError):
        store.collection("pods").since(999)
    assert store.collection("pods").since(1000) == []


def test_encodings_are_made_once_and_are_the_object():
    pods = Store().collection("pods")
    first = pods.put(make("ä", spec={"nodeName": "n", "containers": [{"name": "c"}]}, status={"phase": "Pending"}))
    assert first.json is first.json
    assert json.loads(first.json) == first.obj
    calls = []
    assert first.encode("x", lambda obj: calls.append(1) or {"n": 1}) is first.encode("x", lambda obj: {})
    assert calls == [1]


def test_a_version_that_shares_the_spec_encodes_it_right():
    pods = Store().collection("pods")
    first = pods.put(make("a", spec={"nodeName": "n"}, status={"phase": "Pending"}))
    assert b'"nodeName":"n"' in first.json
    second = pods.put({**first.obj, "metadata": dict(first.obj["metadata"]), "status": {"phase": "Running"}})
    assert json.loads(second.json) == second.obj
    third = pods.put({**second.obj, "metadata": dict(second.obj["metadata"]), "spec": {"nodeName": "m"}})
    assert json.loads(third.json)["spec"] == {"nodeName": "m"}


def test_snapshots_are_limited(monkeypatch):
    monkeypatch.setattr(store_module, "SNAPSHOTS", 2)
    pods = Store().collection("pods")
    for version in (1, 2, 3):
        pods.keep_snapshot(version, "", ())
    assert pods.snapshot(1, "") is None
    assert pods.snapshot(3, "") == ()


async def test_a_reader_too_far_behind_is_cut_off():
    pods = Store().collection("pods")
    queue = ChangeQueue(pods, limit=2)
    for name in "abc":
        pods.put(make(name))
    assert queue.closed
    assert [c.stored.key[1] for c in await queue.take()] == ["a", "b"]
    assert await queue.take() == []


def test_encodings_of_old_versions_are_given_back(monkeypatch):
    monkeypatch.setattr(store_module, "ENCODED_EVENTS", 2)
    pods = Store().collection("pods")
    current = pods.put(make("stays"))
    old = pods.put(make("a"))
    assert old.json
    assert current.json
    for _ in range(4):
        pods.put(make("a"))
    assert old.encoded == {}
    assert current.encoded
    assert json.loads(old.json) == old.obj


async def test_a_queue_delivers_in_order_and_ends_when_closed():
    pods = Store().collection("pods")
    queue = ChangeQueue(pods)
    pods.put(make("a"))
    pods.put(make("b"))
    assert [c.stored.key[1] for c in await queue.take()] == ["a", "b"]
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.close()
    assert await waiting == []
    pods.put(make("c"))
    assert await queue.take() == []
