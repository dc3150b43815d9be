"""What containers on a real engine see of their volumes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from support.images import BUSYBOX_IMAGE
from vkprovider.api.pods import get_uid
from vkprovider.testing import make_container, make_pod

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting and giving away files need root"),
]


def container(name: str = "main", **fields: Any) -> Any:
    return make_container(
        name, image=BUSYBOX_IMAGE, imagePullPolicy="IfNotPresent", command=["sleep", "3600"], **fields
    )


def pod_with(*volumes: dict[str, Any], mounts: list[dict[str, Any]] | None = None, **spec: Any) -> Any:
    if mounts is None:
        mounts = [{"name": volume["name"], "mountPath": f"/{volume['name']}"} for volume in volumes]
    return make_pod(containers=[container(volumeMounts=mounts)], volumes=volumes, **spec)


PROJECTED = {
    "name": "all",
    "projected": {
        "defaultMode": 0o640,
        "sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "deep/down", "mode": 0o600}]}},
            {"configMap": {"name": "c"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ],
    },
}


def add_objects(node: Any) -> None:
    node.objects.add_config_map("c", {"colour": "blue"})
    node.objects.add_secret("s", {"k": "s3cret"})


async def test_a_user_of_the_fs_group_reads_and_writes_where_it_may(docker_node: Any) -> None:
    add_objects(docker_node)
    pod = pod_with(
        PROJECTED,
        {"name": "config", "configMap": {"name": "c", "defaultMode": 0o600}},
        {"name": "empty", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        labels={"app": "x"},
        securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 3000},
    )
    await docker_node.run(pod)

    async def sh(command: str) -> str:
        return await docker_node.execute(pod, command)

    assert await sh("id -u; cat /all/token /all/deep/down /all/colour /all/labels") == (
        '1000\ntoken-default-default-1s3cretblueapp="x"'
    )
    assert (await sh("ls -lnL /all/token /all/deep/down | awk '{print $1, $3, $4}'")).splitlines() == [
        "-rw-r----- 0 3000",
        "-rw-r----- 1000 3000",
    ]
    assert await sh("cat /config/colour") == "blue"
    assert "Read-only file system" in await sh("touch /config/new")
    assert await sh("echo x > /empty/f && echo y > /memory/f && ls -ln /empty/f | awk '{print $4}'") == "3000\n"
    assert "tmpfs" in await sh("grep ' /memory ' /proc/mounts")
    assert "tmpfs" in await sh("grep ' /all ' /proc/mounts")
    assert "No space left" in await sh("dd if=/dev/zero of=/memory/big bs=1M count=2")
    secret = docker_node.root_dir
    assert not [path for path in secret.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


async def test_updates_appear_in_the_running_container(docker_node: Any) -> None:
    add_objects(docker_node)
    pod = pod_with(PROJECTED, mounts=[
        {"name": "all", "mountPath": "/all"},
        {"name": "all", "mountPath": "/one", "subPath": "colour"},
    ], labels={"app": "x"})  # fmt: skip
    await docker_node.run(pod)
    docker_node.objects.add_config_map("c", {"colour": "red", "size": "9"})
    pod["metadata"]["labels"] = {"app": "y"}
    await docker_node.sync(pod)
    assert await docker_node.execute(pod, "cat /all/colour /all/size /all/labels /all/deep/down /one") == (
        'red9app="y"s3cretblue'
    )


async def test_a_pod_waits_for_its_volumes_and_starts_when_they_are_there(docker_node: Any) -> None:
    pod = pod_with({"name": "config", "configMap": {"name": "c"}})
    status = await docker_node.sync(pod)
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    assert [e.message for e in docker_node.recording.events if e.reason == "FailedMount"] == [
        'MountVolume.SetUp failed for volume "config" : configmap "c" not found'
    ]
    add_objects(docker_node)
    await docker_node.run(pod)
    assert await docker_node.execute(pod, "cat /config/colour") == "blue"


async def test_contents_outlive_a_container_and_a_restart_of_the_agent(docker_node: Any) -> None:
    pod = pod_with({"name": "empty", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}})
    await docker_node.run(pod)
    await docker_node.execute(pod, "echo kept > /empty/f; echo kept > /memory/f")
    await docker_node.restart()
    await docker_node.run(pod)
    before = docker_node.statuses[get_uid(pod)]["containerStatuses"][0]["containerID"]
    await docker_node.execute(pod, "kill 1; kill -9 -1")
    await docker_node.provider.runtime.stop_container(before.partition("://")[2], grace_period_s=0)
    while docker_node.statuses[get_uid(pod)]["containerStatuses"][0].get("containerID") in (before, None):
        await asyncio.sleep(0.1)
        await docker_node.run(pod)
    assert await docker_node.execute(pod, "cat /empty/f /memory/f") == "kept\nkept\n"


async def test_volumes_inside_volumes(docker_node: Any) -> None:
    add_objects(docker_node)
    pod = pod_with(
        {"name": "config", "configMap": {"name": "c"}},
        {"name": "empty", "emptyDir": {}},
        mounts=[
            {"name": "empty", "mountPath": "/a/b/c"},
            {"name": "config", "mountPath": "/a/b"},
            {"name": "empty", "mountPath": "/a", "subPath": "outer"},
        ],
    )
    await docker_node.run(pod)
    assert await docker_node.execute(pod, "cat /a/b/colour; touch /a/b/c/x && touch /a/y && ls /a/b/c") == (
        "blueouter\nx\n"
    )


async def test_a_container_cannot_lead_a_sub_path_out_of_the_volume(docker_node: Any, tmp_path: Path) -> None:
    """One container turns a directory into a link to the host's root; the other, restarted, must not get there."""
    pod = make_pod(
        containers=[
            container("main", volumeMounts=[{"name": "e", "mountPath": "/e"}]),
            container("victim", volumeMounts=[{"name": "e", "mountPath": "/sub", "subPath": "d"}]),
        ],
        volumes=[{"name": "e", "emptyDir": {}}],
        restart_policy="Always",
    )
    await docker_node.run(pod)
    assert await docker_node.execute(pod, "touch /e/d/mine; ls /e/d") == "mine\n"
    assert await docker_node.execute(pod, "ls /sub", container="victim") == "mine\n"
    await docker_node.execute(pod, "mv /e/d /e/old; ln -s / /e/d")
    victim = docker_node.statuses[get_uid(pod)]["containerStatuses"][1]["containerID"].partition("://")[2]
    await docker_node.provider.runtime.stop_container(victim, grace_period_s=0)
    for _ in range(200):
        await asyncio.sleep(0.1)
        status = await docker_node.sync(pod)
        waiting = status["containerStatuses"][1]["state"].get("waiting", {})
        if waiting.get("reason") == "CreateContainerConfigError":
            break
    assert waiting["message"] == 'failed to prepare subPath for volumeMount "e" of container "victim"'


async def test_host_paths(docker_node: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    pod = pod_with(
        {"name": "file", "hostPath": {"path": str(tmp_path / "file"), "type": "File"}},
        {"name": "made", "hostPath": {"path": str(tmp_path / "made"), "type": "DirectoryOrCreate"}},
    )
    await docker_node.run(pod)
    assert await docker_node.execute(pod, "cat /file; echo out > /made/f") == "from the host"
    assert (tmp_path / "made" / "f").read_text() == "out\n"


async def test_what_a_pod_left_is_found_after_a_crash(docker_node: Any) -> None:
    add_objects(docker_node)
    pod = pod_with(PROJECTED, {"name": "memory", "emptyDir": {"medium": "Memory"}})
    await docker_node.run(pod)
    uid = get_uid(pod)
    for container_status in docker_node.statuses[uid]["containerStatuses"]:
        await docker_node.provider.runtime.stop_container(
            container_status["containerID"].partition("://")[2], grace_period_s=0
        )
    sandboxes = await docker_node.provider.runtime.list_pod_sandboxes()
    for sandbox in sandboxes:
        if sandbox.metadata.uid == uid:
            await docker_node.provider.runtime.stop_pod_sandbox(sandbox.id)
            await docker_node.provider.runtime.remove_pod_sandbox(sandbox.id)
    await docker_node.restart()
    (found,) = await docker_node.provider.list_pods()
    assert found.pod["metadata"]["uid"] == uid
    assert not found.running
    await docker_node.provider.cleanup_pod(uid)
    assert await docker_node.provider.list_pods() == []
    docker_node.pods.clear()
