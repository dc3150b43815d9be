"""Deletion of pods and other objects: grace, finalizers, preconditions, propagation, namespaces."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api.timestamps import parse_time
from vkprovider.localcluster.deletion import DeleteOptions, parse_delete_options
from vkprovider.localcluster.status import APIStatusError


@pytest.fixture
def delete(world):
    def run(plural, name, group="", namespace="default", **options):
        resource = world.registry.get(plural, group)
        stored = world.objects.get(resource, namespace if resource.namespaced else "", name)
        return world.objects.deletion.delete(resource, stored, DeleteOptions(**options))

    return run


async def settle(world, check, turns=200):
    task = asyncio.create_task(world.lifecycle.run())
    try:
        for _ in range(turns):
            if check():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not settle")
    finally:
        await cancel_and_wait([task])


def test_unbound_pod_vanishes_at_once(world, make_pod, delete):
    world.create("pods", make_pod())
    result = delete("pods", "p")
    assert result.gone
    assert world.find("pods", "p") is None
    assert result.stored.obj["metadata"]["deletionGracePeriodSeconds"] == 0


def test_bound_pod_gets_its_grace_period(world, make_pod, delete):
    world.create("pods", make_pod(nodeName="n", terminationGracePeriodSeconds=20))
    before = datetime.now(UTC)
    result = delete("pods", "p")
    assert not result.gone
    metadata = world.find("pods", "p")["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == 20
    assert metadata["generation"] == 2
    at = parse_time(metadata["deletionTimestamp"])
    assert timedelta(seconds=18) <= at - before <= timedelta(seconds=21)


def test_a_second_delete_shortens_but_never_lengthens(world, make_pod, delete):
    world.create("pods", make_pod(nodeName="n"))
    first = delete("pods", "p").stored.obj["metadata"]
    longer = delete("pods", "p", grace_period_s=60)
    assert longer.stored.obj["metadata"] == first
    again = delete("pods", "p")
    assert again.stored.obj["metadata"] == first
    shorter = delete("pods", "p", grace_period_s=10).stored.obj["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 10
    moved = parse_time(first["deletionTimestamp"]) - parse_time(shorter["deletionTimestamp"])
    assert moved == timedelta(seconds=20)
    assert shorter["generation"] == first["generation"]
    assert delete("pods", "p", grace_period_s=0).gone


def test_negative_grace_means_one_second(world, make_pod, delete):
    world.create("pods", make_pod(nodeName="n"))
    assert delete("pods", "p", grace_period_s=-3).stored.obj["metadata"]["deletionGracePeriodSeconds"] == 1


def test_finished_pod_vanishes_at_once(world, make_pod, delete):
    world.create("pods", make_pod(nodeName="n"))
    world.update("pods", "p", lambda old: {**old, "status": {"phase": "Succeeded"}}, subresource="status")
    assert delete("pods", "p").gone


def test_pod_with_a_finalizer_stays_until_both_are_done(world, make_pod, delete):
    pod = make_pod(nodeName="n")
    pod["metadata"]["finalizers"] = ["example.com/x"]
    world.create("pods", pod)
    delete("pods", "p")
    assert not delete("pods", "p", grace_period_s=0).gone
    assert world.find("pods", "p")["metadata"]["deletionGracePeriodSeconds"] == 0

    def without(old):
        return {**old, "metadata": {**old["metadata"], "finalizers": []}}

    world.update("pods", "p", without)
    assert world.find("pods", "p") is None


def test_finalizers_cannot_be_added_while_deleting(world, delete):
    world.create("configmaps", {"metadata": {"name": "c", "finalizers": ["example.com/x"]}})
    delete("configmaps", "c")
    with pytest.raises(APIStatusError, match="no new finalizers can be added"):
        world.update(
            "configmaps",
            "c",
            lambda old: {**old, "metadata": {**old["metadata"], "finalizers": ["example.com/x", "example.com/y"]}},
        )


def test_preconditions(world, make_pod, delete):
    world.create("pods", make_pod())
    with pytest.raises(APIStatusError, match="the UID in the precondition"):
        delete("pods", "p", uid="other")
    with pytest.raises(APIStatusError, match="the ResourceVersion in the precondition"):
        delete("pods", "p", resource_version="1")
    uid = world.find("pods", "p")["metadata"]["uid"]
    assert delete("pods", "p", uid=uid).gone


def test_dry_run_deletes_nothing(world, make_pod, delete):
    world.create("pods", make_pod())
    delete("pods", "p", dry_run=True)
    assert world.find("pods", "p") is not None


def test_options_of_body_and_query():
    options = parse_delete_options({"gracePeriodSeconds": 5, "preconditions": {"uid": "u"}, "dryRun": ["All"]}, {})
    assert options == DeleteOptions(5, "u", None, "", True)
    assert parse_delete_options(None, {"gracePeriodSeconds": "7"}).grace_period_s == 7
    assert parse_delete_options({"orphanDependents": True}, {}).propagation == "Orphan"
    with pytest.raises(APIStatusError):
        parse_delete_options(None, {"gracePeriodSeconds": "x"})
    with pytest.raises(APIStatusError, match="propagationPolicy"):
        parse_delete_options({"propagationPolicy": "Sideways"}, {})


def owned(name, owner, *, block=True):
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": block,
    }
    return {"metadata": {"name": name, "ownerReferences": [reference]}}


async def test_dependents_go_after_their_owner(world, delete):
    owner = world.create("configmaps", {"metadata": {"name": "owner"}}).obj
    world.create("configmaps", owned("child", owner))
    delete("configmaps", "owner")
    await settle(world, lambda: world.find("configmaps", "child") is None)


async def test_a_dependent_with_another_living_owner_stays(world, delete):
    first = world.create("configmaps", {"metadata": {"name": "a"}}).obj
    second = world.create("configmaps", {"metadata": {"name": "b"}}).obj
    child = owned("child", first)
    child["metadata"]["ownerReferences"] += owned("x", second)["metadata"]["ownerReferences"]
    world.create("configmaps", child)
    delete("configmaps", "a")
    await settle(world, lambda: len(world.find("configmaps", "child")["metadata"]["ownerReferences"]) == 1)
    assert world.find("configmaps", "child")["metadata"]["ownerReferences"][0]["name"] == "b"


async def test_orphans_lose_their_reference_and_stay(world, delete):
    owner = world.create("configmaps", {"metadata": {"name": "owner"}}).obj
    world.create("configmaps", owned("child", owner))
    assert not delete("configmaps", "owner", propagation="Orphan").gone
    await settle(world, lambda: world.find("configmaps", "owner") is None)
    assert "ownerReferences" not in world.find("configmaps", "child")["metadata"]


async def test_foreground_waits_for_blocking_dependents(world, delete):
    owner = world.create("configmaps", {"metadata": {"name": "owner"}}).obj
    child = owned("child", owner)
    child["metadata"]["finalizers"] = ["example.com/x"]
    world.create("configmaps", child)
    assert not delete("configmaps", "owner", propagation="Foreground").gone
    await settle(world, lambda: "deletionTimestamp" in world.find("configmaps", "child")["metadata"])
    assert world.find("configmaps", "owner") is not None
    world.update("configmaps", "child", lambda old: {**old, "metadata": {**old["metadata"], "finalizers": []}})
    await settle(world, lambda: world.find("configmaps", "owner") is None)


async def test_a_namespace_goes_when_its_content_has_gone(world, make_pod, delete):
    world.create("namespaces", {"metadata": {"name": "team"}})
    world.create("configmaps", {"metadata": {"name": "c"}}, namespace="team")
    world.create("pods", make_pod(nodeName="n"), namespace="team")
    assert not delete("namespaces", "team").gone
    assert world.find("namespaces", "team")["status"]["phase"] == "Terminating"
    with pytest.raises(APIStatusError, match="because it is being terminated"):
        world.create("configmaps", {"metadata": {"name": "late"}}, namespace="team")
    await settle(world, lambda: world.find("configmaps", "c", namespace="team") is None)
    assert world.find("namespaces", "team") is not None
    assert world.find("pods", "p", namespace="team")["metadata"]["deletionGracePeriodSeconds"] == 30
    delete("pods", "p", namespace="team", grace_period_s=0)
    await settle(world, lambda: world.find("namespaces", "team") is None)
