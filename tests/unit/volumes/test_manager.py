"""Volumes are set up, waited for, kept up to date, mounted and taken away as a kubelet does it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vkprovider.api.pods import get_uid
from vkprovider.errors import ConfigurationError, NotFoundError, PodSyncError, TransientError
from vkprovider.kubelet.volumes import PodVolumes
from vkprovider.kubelet.volumes.mounts import is_in_memory, list_mounts, mount_tmpfs, unmount
from vkprovider.kubelet.volumes.storage import find_memory_dir
from vkprovider.provider import cri
from vkprovider.testing import make_container, make_node_context, make_pod

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


CONFIG = {"name": "v", "configMap": {"name": "c", "defaultMode": 0o640}}
SECRET = {"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}


# -- Contents.


async def test_config_map_on_disk(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("c", {"a": "1"}, binary_data={"b": b"\0\xff"})
    pod = pod_with(CONFIG)
    path = await volumes.path(pod)
    assert path == host.root_dir / "pods" / get_uid(pod) / "volumes/kubernetes.io~configmap/v"
    assert (path / "a").read_text() == "1"
    assert (path / "b").read_bytes() == b"\0\xff"
    assert mode(path / "a") == 0o640
    (mount,) = (await volumes.mounts(pod)).mounts
    assert mount == cri.Mount("/v", str(path), readonly=True)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ({"secret": {"secretName": "s"}}, "secret"),
        ({"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}, "downward-api"),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}, "projected"),
    ],
)
async def test_secrets_tokens_and_fields_stay_off_the_disk(
    host: Any, make_volumes: Any, pod_with: Any, source: dict[str, Any], word: str
) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_secret("s", {"k": "v"})
    pod = pod_with({"name": "v", **source})
    path = await volumes.path(pod)
    assert path == host.memory_dir / "pods" / get_uid(pod) / f"volumes/kubernetes.io~{word}/v"
    assert [entry.name for entry in path.iterdir() if not entry.name.startswith("..")]
    assert not (host.root_dir / "pods").exists()


async def test_without_a_tmpfs_secrets_are_refused(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(replace(host, memory_dir=None, memory_problem="no tmpfs here: mount one"))
    volumes.objects.add_secret("s", {"k": "v"})
    assert await volumes.fail(pod_with(SECRET)) == 'MountVolume.SetUp failed for volume "v" : no tmpfs here: mount one'


async def test_the_token_volume_that_admission_adds(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("kube-root-ca.crt", {"ca.crt": "CA"})
    token = {"expirationSeconds": 3607, "path": "token"}
    sources = [
        {"serviceAccountToken": token},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    pod = pod_with({"name": "kube-api-access-x", "projected": {"defaultMode": 0o644, "sources": sources}})
    path = await volumes.path(pod)
    assert (path / "token").read_text() == "token-default-default-1"
    assert (path / "ca.crt").read_text() == "CA"
    assert (path / "namespace").read_text() == "default"
    ((_, account, request),) = volumes.objects.token_requests
    assert (account, request["expirationSeconds"]) == ("default", 3607)
    assert request["boundObjectRef"]["uid"] == get_uid(pod)
    assert mode(path / "token") == 0o644


async def test_a_token_is_rotated_when_most_of_its_life_is_over(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    token = {"path": "token", "expirationSeconds": 1000}
    pod = pod_with({"name": "v", "projected": {"sources": [{"serviceAccountToken": token}]}})
    path = await volumes.path(pod)
    volumes.clock.advance(780)
    await volumes.refresh(pod)
    assert (path / "token").read_text() == "token-default-default-1"
    volumes.clock.advance(31)
    await volumes.refresh(pod)
    assert (path / "token").read_text() == "token-default-default-2"


async def test_unknown_kind(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    message = await volumes.fail(pod_with({"name": "v", "csi": {"driver": "d"}}))
    assert message == 'MountVolume.SetUp failed for volume "v" : volume kind csi is not supported by this node yet'


async def test_a_pod_without_volumes_costs_nothing(host: Any, make_volumes: Any) -> None:
    volumes = await make_volumes(host)
    pod = make_pod()
    await volumes.prepare(pod)
    await volumes.refresh(pod)
    await volumes.manager.cleanup_pod(get_uid(pod))
    assert volumes.objects.reads == []
    assert not host.root_dir.exists()


# -- Waiting.


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (CONFIG, 'configmap "c" not found'),
        (SECRET, 'secret "s" not found'),
        ({"name": "v", "configMap": {"name": "there", "items": [{"key": "k", "path": "p"}]}},
         "configmap references non-existent config key: k"),
        ({"name": "v", "secret": {"secretName": "there", "items": [{"key": "k", "path": "p"}]}},
         "references non-existent secret key: k"),
    ],
)  # fmt: skip
async def test_messages_for_what_is_missing(
    host: Any, make_volumes: Any, pod_with: Any, volume: dict[str, Any], message: str
) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("there", {})
    volumes.objects.add_secret("there", {})
    assert await volumes.fail(pod_with(volume)) == f'MountVolume.SetUp failed for volume "v" : {message}'


async def test_pauses_between_attempts_double_and_the_pod_starts_when_the_object_appears(
    host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(host)
    pod = pod_with(CONFIG)
    for pause_s in (0.5, 1, 2, 4, 8, 16, 32, 64, 122, 122):
        events = len(volumes.recording.events)
        await volumes.fail(pod)
        assert len(volumes.recording.events) == events + 1
        volumes.clock.advance(pause_s - 0.1)
        await volumes.fail(pod)
        assert len(volumes.recording.events) == events + 1, "told again before the pause was over"
        volumes.clock.advance(0.1)
    volumes.objects.add_config_map("c", {"a": "1"})
    assert (await volumes.path(pod) / "a").read_text() == "1"
    events = len(volumes.recording.events)
    await volumes.prepare(pod)
    assert len(volumes.recording.events) == events


async def test_one_missing_volume_does_not_hold_up_the_others(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("d", {"a": "1"})
    pod = pod_with(CONFIG, {"name": "w", "configMap": {"name": "d"}})
    message = await volumes.fail(pod)
    assert '"v"' in message
    assert len(volumes.recording.events) == 1
    assert [path.name for path in volumes.pod_files(pod) if path.parent.name == "volumes"] == [
        "kubernetes.io~configmap"
    ]


async def test_optional_objects_may_come_later(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    pod = pod_with({"name": "v", "configMap": {"name": "c", "optional": True}})
    path = await volumes.path(pod)
    assert [entry.name for entry in path.iterdir() if not entry.name.startswith("..")] == []
    volumes.objects.add_config_map("c", {"a": "1"})
    volumes.clock.advance(30)
    await volumes.refresh(pod)
    assert (path / "a").read_text() == "1"
    volumes.objects.remove("configmap", "c")
    volumes.clock.advance(30)
    await volumes.refresh(pod)
    assert not (path / "a").exists()


# -- Updates.


async def test_changes_appear_at_the_next_refresh_and_not_before_it_is_due(
    host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(host, refresh_period_s=30)
    volumes.objects.add_config_map("c", {"a": "1"})
    pod = pod_with(CONFIG)
    path = await volumes.path(pod)
    volumes.objects.add_config_map("c", {"a": "2"})
    volumes.clock.advance(29)
    reads = len(volumes.objects.reads)
    await volumes.refresh(pod)
    assert len(volumes.objects.reads) == reads
    volumes.clock.advance(1)
    await volumes.refresh(pod)
    assert (path / "a").read_text() == "2"
    before = os.readlink(path / "..data")
    volumes.clock.advance(60)
    await volumes.refresh(pod)
    assert os.readlink(path / "..data") == before


async def test_changed_labels_appear_at_once(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    pod = pod_with({"name": "v", "downwardAPI": {"items": items}}, labels={"a": "1"})
    path = await volumes.path(pod)
    assert (path / "labels").read_text() == 'a="1"'
    changed = {**pod, "metadata": {**pod["metadata"], "labels": {"a": "2"}}}
    await volumes.refresh(changed)
    assert (path / "labels").read_text() == 'a="2"'


async def test_an_object_deleted_later_leaves_the_contents_and_tells(
    host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("c", {"a": "1"})
    pod = pod_with(CONFIG)
    path = await volumes.path(pod)
    volumes.objects.remove("configmap", "c")
    volumes.clock.advance(30)
    await volumes.refresh(pod)
    assert volumes.recording.events[-1].message.endswith('"v" : configmap "c" not found')
    assert (path / "a").read_text() == "1"
    again = await volumes.restart()
    assert await again.path(pod) == path
    assert again.recording.reasons == ["FailedMount"]


async def test_nothing_is_rewritten_after_a_restart(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_secret("s", {"a": "1"})
    pod = pod_with(SECRET)
    path = await volumes.path(pod)
    before = os.readlink(path / "..data")
    again = await volumes.restart()
    await again.path(pod)
    assert os.readlink(path / "..data") == before


# -- emptyDir and ownership.


async def test_empty_dir_is_open_to_all_and_keeps_its_contents(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    pod = pod_with({"name": "v", "emptyDir": {}})
    before = os.umask(0o077)
    try:
        path = await volumes.path(pod)
    finally:
        os.umask(before)
    assert mode(path) == 0o777
    (path / "f").write_text("x")
    path.chmod(0o700)
    await (await volumes.restart()).prepare(pod)
    assert (path / "f").read_text() == "x"
    assert mode(path) == 0o700
    assert mode(path.parent.parent.parent) & 0o027 == 0


async def test_memory_needs_a_mount(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    message = await volumes.fail(pod_with({"name": "v", "emptyDir": {"medium": "Memory"}}))
    assert "emptyDir with medium Memory needs a tmpfs" in message
    message = await volumes.fail(pod_with({"name": "v", "emptyDir": {"medium": "HugePages"}}))
    assert "medium HugePages is not supported" in message


async def test_memory_is_a_tmpfs_of_the_right_size_and_goes_away(
    mounting_host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(mounting_host)
    pod = pod_with(
        {"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, securityContext={"fsGroup": 3000}
    )
    path = await volumes.path(pod)
    assert is_in_memory(path)
    assert os.path.ismount(path)
    found = os.statvfs(path)
    assert found.f_blocks * found.f_frsize == 1024 * 1024
    assert (mode(path), path.stat().st_gid) == (0o3777, 3000)
    (path / "f").write_text("x")
    again = await volumes.restart()
    await again.prepare(pod)
    assert len(list_mounts(path)) == 1
    assert (path / "f").read_text() == "x"
    await again.manager.cleanup_pod(get_uid(pod))
    assert not path.exists()


@root_only
async def test_fs_group_owns_the_volumes(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("c", {"a": "1"})
    token = {"name": "t", "projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": {"path": "token"}}]}}
    pod = pod_with({"name": "e", "emptyDir": {}}, CONFIG, token, securityContext={"fsGroup": 3000, "runAsUser": 1000})
    await volumes.prepare(pod)
    empty, config, projected = (Path(mount.host_path) for mount in (await volumes.mounts(pod)).mounts)
    assert (mode(empty), empty.stat().st_gid) == (0o2777, 3000)
    assert (mode(config / "a"), (config / "a").stat().st_gid) == (0o640, 3000)
    assert config.stat().st_gid == 3000
    assert mode(config / "..data/") == 0o2755
    found = (projected / "token").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1000, 3000)


# -- Mounts.


async def test_outer_mounts_come_before_inner_ones(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("c", {"a": "1"})
    mounts = [
        {"name": "e", "mountPath": "/a/b/c"},
        {"name": "v", "mountPath": "/a/b"},
        {"name": "e", "mountPath": "a", "readOnly": True, "mountPropagation": "HostToContainer"},
    ]
    pod = pod_with({"name": "e", "emptyDir": {}}, CONFIG, mounts=mounts)
    await volumes.prepare(pod)
    made = (await volumes.mounts(pod)).mounts
    assert [mount.container_path for mount in made] == ["/a", "/a/b", "/a/b/c"]
    assert [mount.readonly for mount in made] == [True, True, False]
    assert made[0].propagation is cri.MountPropagation.HOST_TO_CONTAINER
    # The config map is read-only: the place for what is mounted inside has to be there before.
    assert (Path(made[1].host_path) / "c").is_dir()


async def test_recursive_read_only(host: Any, make_volumes: Any, pod_with: Any) -> None:
    supported = False
    volumes = await make_volumes(host, supports_recursive_read_only=lambda: supported)
    wanted = {"name": "e", "mountPath": "/e", "readOnly": True, "recursiveReadOnly": "IfPossible"}
    pod = pod_with({"name": "e", "emptyDir": {}}, mounts=[wanted])
    (mount,) = pod["spec"]["containers"][0]["volumeMounts"]
    await volumes.prepare(pod)
    assert not (await volumes.mounts(pod)).mounts[0].recursive_read_only
    mount["recursiveReadOnly"] = "Enabled"
    with pytest.raises(PodSyncError, match='volume "e" requested recursive read-only mode') as caught:
        await volumes.mounts(pod)
    assert caught.value.reason == "CreateContainerConfigError"
    supported = True
    assert (await volumes.mounts(pod)).mounts[0].recursive_read_only


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"subPath": "/abs"}, "error SubPath `/abs` must not be an absolute path"),
        ({"subPath": "a/../b"}, "unable to provision SubPath `a/../b`: must not contain '..'"),
        ({"subPathExpr": "$(NONE)"}, "missing value for NONE"),
        ({"subPath": "evil"}, 'failed to prepare subPath for volumeMount "e" of container "main"'),
        ({"subPathExpr": "$(EVIL)/x"}, 'failed to prepare subPath for volumeMount "e" of container "main"'),
    ],
)
@pytest.mark.parametrize("which", ["host", "mounting_host"])
async def test_sub_paths_that_lead_out_are_refused(
    request: Any, which: str, make_volumes: Any, pod_with: Any, mount: dict[str, str], message: str
) -> None:
    volumes = await make_volumes(request.getfixturevalue(which))
    pod = pod_with({"name": "e", "emptyDir": {}}, mounts=[{"name": "e", "mountPath": "/e"}])
    path = await volumes.path(pod)
    os.symlink("../../../../..", path / "evil")
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "e", "mountPath": "/e", **mount}]
    with pytest.raises(PodSyncError) as caught:
        await volumes.mounts(pod, {"EVIL": "evil"})
    assert caught.value.message.startswith(message)
    assert caught.value.reason == "CreateContainerConfigError"


async def test_sub_path_is_mounted_where_nobody_can_swap_it(
    mounting_host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(mounting_host)
    volumes.objects.add_config_map("c", {"a": "1"})
    mounts = [
        {"name": "e", "mountPath": "/e", "subPathExpr": "$(NAME)/data"},
        {"name": "v", "mountPath": "/etc/a", "subPath": "a"},
    ]
    pod = pod_with({"name": "e", "emptyDir": {}}, CONFIG, mounts=mounts)
    await volumes.prepare(pod)
    for _ in range(2):
        first, second = (await volumes.mounts(pod, {"NAME": "web"})).mounts
    directory = mounting_host.pod_dir(get_uid(pod)) / "volume-subpaths"
    assert first.host_path == str(directory / "e/main/0")
    assert second.host_path == str(directory / "v/main/1")
    assert second.readonly
    assert Path(second.host_path).read_text() == "1"
    (Path(first.host_path) / "f").write_text("x")
    volume = mounting_host.pod_dir(get_uid(pod)) / "volumes/kubernetes.io~empty-dir/e"
    assert (volume / "web/data/f").read_text() == "x"
    assert mode(volume / "web") == 0o777
    await volumes.manager.cleanup_pod(get_uid(pod))
    assert volumes.pod_files(pod) == []


async def test_without_mounts_links_are_followed_only_where_containers_cannot_write(
    host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("c", {"a": "1"})
    pod = pod_with(CONFIG, mounts=[{"name": "v", "mountPath": "/etc/a", "subPath": "a"}])
    await volumes.prepare(pod)
    (mount,) = (await volumes.mounts(pod)).mounts
    assert Path(mount.host_path).read_text() == "1"


# -- Host paths, environment files.


async def test_host_path_is_checked_and_never_removed(
    host: Any, make_volumes: Any, pod_with: Any, tmp_path: Path
) -> None:
    volumes = await make_volumes(host)
    target = tmp_path / "made"
    pod = pod_with({"name": "v", "hostPath": {"path": str(target), "type": "DirectoryOrCreate"}})
    assert await volumes.path(pod) == target
    (target / "f").write_text("x")
    await volumes.manager.cleanup_pod(get_uid(pod))
    assert (target / "f").read_text() == "x"
    pod = pod_with({"name": "v", "hostPath": {"path": str(target), "type": "File"}})
    message = await volumes.fail(pod)
    assert message == (f'MountVolume.SetUp failed for volume "v" : hostPath type check failed: {target} is not a file')


async def test_environment_files_are_read_inside_the_volume_only(
    host: Any, make_volumes: Any, pod_with: Any, tmp_path: Path
) -> None:
    volumes = await make_volumes(host)
    pod = pod_with({"name": "e", "emptyDir": {}})
    path = await volumes.path(pod)
    (path / "env").write_text("A=1\n")
    (tmp_path / "secret").write_text("A=2\n")
    os.symlink(tmp_path / "secret", path / "evil")
    assert (await volumes.manager.read_env_file(pod, "e", "env")).text == "A=1\n"
    for name in ("evil", "../x", "/etc/passwd", "none"):
        with pytest.raises(OSError, match=r"leads out|No such file"):
            await volumes.manager.read_env_file(pod, "e", name)
    with pytest.raises(NotFoundError):
        await volumes.manager.read_env_file(pod, "other", "env")


# -- Claims.


def add_claim(volumes: Any, spec: dict[str, Any], *, owner: str | None = None, name: str = "claim") -> None:
    owners = [{"controller": True, "uid": owner}] if owner else []
    volumes.objects.add_object("v1", "persistentvolumeclaims", "default", {
        "metadata": {"name": name, "uid": "claim-uid", "ownerReferences": owners},
        "spec": {"volumeName": "pv"},
        "status": {"phase": "Bound"},
    })  # fmt: skip
    volumes.objects.add_object("v1", "persistentvolumes", None, {
        "metadata": {"name": "pv", "annotations": {"pv.beta.kubernetes.io/gid": "4000"}},
        "spec": {"claimRef": {"uid": "claim-uid"}, "accessModes": [], **spec},
    })  # fmt: skip


CLAIM = {"name": "v", "persistentVolumeClaim": {"claimName": "claim", "readOnly": True}}


async def test_claims_that_cannot_be_mounted_yet(host: Any, make_volumes: Any, pod_with: Any, tmp_path: Path) -> None:
    volumes = await make_volumes(host)
    prefix = 'MountVolume.SetUp failed for volume "v" : '
    message = await volumes.fail(pod_with(CLAIM))
    assert message == (
        f"{prefix}error processing PVC default/claim: failed to fetch PVC from API server: "
        'persistentvolumeclaims "claim" not found'
    )
    volumes.objects.add_object("v1", "persistentvolumeclaims", "default", {"metadata": {"name": "claim", "uid": "u"}})
    assert await volumes.fail(pod_with(CLAIM)) == f"{prefix}error processing PVC default/claim: PVC is not bound"
    add_claim(volumes, {"claimRef": {"uid": "other"}, "local": {"path": "/x"}})
    assert "does not point to claim.UID claim-uid" in await volumes.fail(pod_with(CLAIM))
    add_claim(volumes, {"nfs": {"server": "s", "path": "/"}})
    assert (
        await volumes.fail(pod_with(CLAIM)) == f"{prefix}persistent volumes of kind nfs are not supported by this node"
    )
    add_claim(volumes, {"local": {"path": str(tmp_path / "none")}})
    assert "No such file or directory" in await volumes.fail(pod_with(CLAIM))


async def test_bound_claim_is_mounted(host: Any, make_volumes: Any, pod_with: Any, tmp_path: Path) -> None:
    volumes = await make_volumes(host)
    (tmp_path / "disk").mkdir()
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}]}
    affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}
    add_claim(volumes, {"local": {"path": str(tmp_path / "disk")}, **affinity})
    node = {"metadata": {"name": "node", "labels": {"kubernetes.io/hostname": "other"}}}
    volumes.objects.add_object("v1", "nodes", None, node)
    assert "no matching NodeSelectorTerms" in await volumes.fail(pod_with(CLAIM))
    node["metadata"]["labels"] = {"kubernetes.io/hostname": "node"}  # type: ignore[index]
    pod = pod_with(CLAIM)
    assert await volumes.path(pod) == tmp_path / "disk"
    made = await volumes.mounts(pod)
    assert made.mounts[0].readonly
    assert made.supplemental_groups == (4000,)
    await volumes.manager.cleanup_pod(get_uid(pod))
    assert (tmp_path / "disk").is_dir()


async def test_ephemeral_claim_must_belong_to_the_pod(
    host: Any, make_volumes: Any, pod_with: Any, tmp_path: Path
) -> None:
    volumes = await make_volumes(host)
    pod = pod_with({"name": "v", "ephemeral": {"volumeClaimTemplate": {}}})
    add_claim(volumes, {"hostPath": {"path": str(tmp_path)}}, name="pod-v", owner="other")
    message = await volumes.fail(pod)
    assert message.endswith("PVC default/pod-v was not created for pod default/pod (pod is not owner)")
    volumes.clock.advance(1)
    add_claim(volumes, {"hostPath": {"path": str(tmp_path)}}, name="pod-v", owner=get_uid(pod))
    assert await volumes.path(pod) == tmp_path


# -- The end.


async def test_everything_of_a_pod_goes_away_and_only_that(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    volumes.objects.add_secret("s", {"a": "1"})
    volumes.objects.add_config_map("c", {"a": "1"})
    first, second = (pod_with({"name": "e", "emptyDir": {}}, CONFIG, {**SECRET, "name": "s"}) for _ in range(2))
    for pod in (first, second):
        await volumes.prepare(pod)
    await volumes.manager.cleanup_pod(get_uid(first))
    await volumes.manager.cleanup_pod(get_uid(first))
    assert volumes.pod_files(first) == []
    assert len(volumes.pod_files(second)) == 3
    assert not (host.memory_dir / "pods" / get_uid(first)).exists()


async def test_what_a_dead_process_left_is_listed_and_removed(
    mounting_host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(mounting_host)
    volumes.objects.add_secret("s", {"a": "1"})
    pod = pod_with({"name": "m", "emptyDir": {"medium": "Memory"}}, SECRET)
    await volumes.prepare(pod)
    again = await volumes.restart()
    assert list(again.manager.list_leftovers()) == [get_uid(pod)]
    await again.manager.cleanup_pod(get_uid(pod))
    assert list(again.manager.list_leftovers()) == []
    assert again.pod_files(pod) == []
    assert list_mounts(mounting_host.root_dir) == []


async def test_nothing_is_removed_while_it_is_in_use(mounting_host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(mounting_host)
    pod = pod_with({"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "e", "emptyDir": {}})
    path = await volumes.path(pod)
    with (path / "f").open("w"):
        with pytest.raises(TransientError, match="cannot remove the volumes"):
            await volumes.manager.cleanup_pod(get_uid(pod))
        assert (path / "f").exists()
    await volumes.manager.cleanup_pod(get_uid(pod))
    assert volumes.pod_files(pod) == []


async def test_names_that_are_no_directories_are_refused(host: Any, make_volumes: Any, pod_with: Any) -> None:
    volumes = await make_volumes(host)
    for name in ("..", "a/b", ""):
        pod = pod_with({"name": name, "emptyDir": {}})
        assert "cannot be the name of a directory" in await volumes.fail(pod)
    pod = pod_with({"name": "e", "emptyDir": {}})
    pod["metadata"]["uid"] = "../../x"
    assert "cannot be the name of a directory" in await volumes.fail(pod)


async def test_simulated_containers_get_no_files_but_wait_all_the_same(
    host: Any, make_volumes: Any, pod_with: Any
) -> None:
    volumes = await make_volumes(replace(host, simulated=True))
    token = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    pod = pod_with(CONFIG, token)
    assert await volumes.fail(pod) == 'MountVolume.SetUp failed for volume "v" : configmap "c" not found'
    assert volumes.objects.token_requests == []
    volumes.clock.advance(1)
    volumes.objects.add_config_map("c", {"a": "1"})
    path = await volumes.path(pod)
    assert path.name == "v"
    assert not host.root_dir.exists()
    await volumes.manager.cleanup_pod(get_uid(pod))


async def test_sidecar_mounts_count_too(host: Any, make_volumes: Any) -> None:
    volumes = await make_volumes(host)
    init = make_container("init", volumeMounts=[{"name": "v", "mountPath": "/v"}])
    pod = make_pod(init_containers=[init], volumes=[CONFIG, {"name": "unused", "configMap": {"name": "none"}}])
    await volumes.fail(pod)
    assert len(volumes.recording.events) == 1


@root_only
def test_memory_directory_is_on_a_tmpfs_private_and_each_node_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vkprovider.kubelet.volumes import storage

    base = tmp_path / "base"
    base.mkdir()
    monkeypatch.setattr(storage, "MEMORY_BASE", base)
    monkeypatch.setattr(storage, "SHARED_MEMORY", base)
    found, problem = find_memory_dir("n", tmp_path / "root", sees_host=True)
    assert found is None
    assert "is not on a tmpfs" in problem
    assert "mount a tmpfs" in problem
    mount_tmpfs(base, "size=1m,mode=0700")
    try:
        first, _ = find_memory_dir("n", tmp_path / "root", sees_host=True)
        other, _ = find_memory_dir("n", tmp_path / "other", sees_host=False)
        assert first is not None
        assert first.parent == base
        assert mode(first) == 0o700
        assert other not in (None, first)
        first.chmod(0o777)
        monkeypatch.setattr(storage, "SHARED_MEMORY", tmp_path)
        assert find_memory_dir("n", tmp_path / "root", sees_host=True)[0] is None
    finally:
        unmount(base)


async def test_work_of_an_interrupted_sync_and_the_cleanup_do_not_meet(
    host: Any, make_volumes: Any, pod_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: what it still writes must not come after the removal."""
    from vkprovider.kubelet.volumes import payload

    started, go_on = threading.Event(), threading.Event()
    true_write = payload.write_payload

    def slow_write(*args: Any, **kwargs: Any) -> bool:
        started.set()
        assert go_on.wait(10)
        return true_write(*args, **kwargs)

    monkeypatch.setattr(payload, "write_payload", slow_write)
    volumes = await make_volumes(host)
    volumes.objects.add_config_map("c", {"a": "1"})
    pod = pod_with(CONFIG)
    sync = asyncio.create_task(volumes.prepare(pod))
    await asyncio.to_thread(started.wait, 10)
    sync.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sync
    cleanup = asyncio.create_task(volumes.manager.cleanup_pod(get_uid(pod)))
    await asyncio.sleep(0.05)
    assert not cleanup.done()
    go_on.set()
    await cleanup
    assert volumes.pod_files(pod) == []


async def test_a_full_disk_keeps_the_old_files_and_is_told(
    host: Any, make_volumes: Any, pod_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vkprovider.kubelet.volumes import atomic

    volumes = await make_volumes(host)
    volumes.objects.add_secret("s", {"a": "old"})
    pod = pod_with(SECRET)
    path = await volumes.path(pod)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path / "a"))

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "_write_file", fail)
        volumes.objects.add_secret("s", {"a": "n3w"})
        volumes.clock.advance(30)
        await volumes.refresh(pod)
    message = volumes.recording.events[-1].message
    assert message == f'MountVolume.SetUp failed for volume "v" : {path}/a: No space left on device'
    assert (path / "a").read_text() == "old"
    volumes.clock.advance(30)
    await volumes.refresh(pod)
    assert (path / "a").read_text() == "n3w"


async def test_a_root_directory_that_cannot_be_read_is_said_so(make_volumes: Any, tmp_path: Path) -> None:
    def find() -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    manager = PodVolumes(make_node_context(), find, {})
    with pytest.raises(ConfigurationError, match=r"Permission denied; the node agent must own its root directory"):
        await manager.start()


async def test_no_event_and_no_log_tells_a_secret(
    host: Any, make_volumes: Any, pod_with: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    volumes = await make_volumes(host)
    volumes.objects.add_secret("s", {"k": "s3cret"})
    pod = pod_with(
        {"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "../x"}]}},
        {"name": "w", "secret": {"secretName": "s"}},
    )
    await volumes.fail(pod)
    for text in (caplog.text, *(event.message for event in volumes.recording.events)):
        assert "s3cret" not in text
        assert "czNjcmV0" not in text
