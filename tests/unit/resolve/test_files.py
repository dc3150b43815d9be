from __future__ import annotations

from typing import Any

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.errors import PodSyncError, TransientError
from vkprovider.resolve.files import FileSources, ProjectedFile, common_run_as_user, resolve_volume
from vkprovider.resolve.tokens import ServiceAccountTokens


@pytest.fixture
def sources(objects: Any) -> FileSources:
    objects.clock = LoopClock()
    return FileSources(objects, ServiceAccountTokens(objects, clock=objects.clock), {"cpu": "4", "memory": "8Gi"})


async def failure(volume: Any, pod: Any, sources: FileSources) -> str:
    with pytest.raises(PodSyncError) as caught:
        await resolve_volume({"name": "v", **volume}, pod, sources=sources)
    assert caught.value.reason == "FailedMount"
    return caught.value.message


async def test_config_map_gives_all_keys(pod: Any, objects: Any, sources: FileSources) -> None:
    objects.add_config_map("cm", {"a.txt": "ä", "b": ""}, binary={"bin": b"\x00\xff"})
    payload = await resolve_volume(
        {"name": "v", "configMap": {"name": "cm", "defaultMode": 0o600}}, pod, sources=sources
    )
    assert payload == {
        "a.txt": ProjectedFile("ä".encode(), 0o600),
        "b": ProjectedFile(b"", 0o600),
        "bin": ProjectedFile(b"\x00\xff", 0o600),
    }


async def test_items_choose_keys_paths_and_modes(pod: Any, objects: Any, sources: FileSources) -> None:
    objects.add_secret("s", {"a": b"1", "b": b"2"})
    items = [{"key": "a", "path": "dir/x", "mode": 0}, {"key": "a", "path": "y"}]
    payload = await resolve_volume({"name": "v", "secret": {"secretName": "s", "items": items}}, pod, sources=sources)
    assert payload == {"dir/x": ProjectedFile(b"1", 0), "y": ProjectedFile(b"1", 0o644)}


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "x"}}, 'configmap "x" not found'),
        ({"secret": {"secretName": "x"}}, 'secret "x" not found'),
        ({"configMap": {"name": "cm", "items": [{"key": "k", "path": "p"}]}},
         "configmap references non-existent config key: k"),
        ({"secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}}, "references non-existent secret key: k"),
        ({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}},
         "unsupported fieldPath: status.podIP"),
        ({"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "x"}},
                                    {"path": "b", "resourceFieldRef": {"resource": "limits.cpu", "containerName": "z"}}]}},
         "[unsupported fieldPath: x, container z not found]"),
        ({"projected": {"sources": [{"secret": {"name": "x"}}, {"configMap": {"name": "cm"}}, {"configMap": {"name": "y"}}]}},
         '[secret "x" not found, configmap "y" not found]'),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}},
         "projected volume source is not supported by this node: clusterTrustBundle"),
    ],
)  # fmt: skip
async def test_what_is_missing_is_named_as_the_kubelet_does(
    pod: Any, objects: Any, sources: FileSources, volume: Any, message: str
) -> None:
    objects.add_config_map("cm", {})
    objects.add_secret("s", {})
    assert await failure(volume, pod, sources) == message


async def test_optional_objects_and_keys_may_be_missing(pod: Any, objects: Any, sources: FileSources) -> None:
    items = [{"key": "k", "path": "p"}, {"key": "there", "path": "q"}]
    absent = {"name": "v", "configMap": {"name": "x", "optional": True, "items": items}}
    assert await resolve_volume(absent, pod, sources=sources) == {}
    objects.add_secret("s", {"there": b"1"})
    present = {"name": "v", "secret": {"secretName": "s", "optional": True, "items": items}}
    assert await resolve_volume(present, pod, sources=sources) == {"q": ProjectedFile(b"1")}


async def test_unanswered_read_is_told_apart_from_a_missing_object(
    pod: Any, objects: Any, sources: FileSources
) -> None:
    objects.broken = TransientError("timed out")
    volume = {"configMap": {"name": "x", "optional": True}}
    assert await failure(volume, pod, sources) == "failed to sync configmap cache: timed out"


async def test_downward_files(pod: Any, sources: FileSources) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "./a/../note", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.annotations['note']"}},
        {"path": "cpu", "resourceFieldRef": {"resource": "limits.cpu", "containerName": "app", "divisor": "1m"}},
    ]
    payload = await resolve_volume({"name": "v", "downwardAPI": {"items": items}}, pod, sources=sources)
    assert payload == {
        "labels": ProjectedFile(b'app="web"\nzone/rack="r1"'),
        "note": ProjectedFile(b'say "hi"\n', 0o400),
        "cpu": ProjectedFile(b"4000"),
    }


async def test_the_volume_of_every_service_account(pod: Any, objects: Any, sources: FileSources) -> None:
    objects.add_config_map("kube-root-ca.crt", {"ca.crt": "CERT", "other": "x"})
    volume = {
        "name": "kube-api-access-abcde",
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ],
        },
    }
    payload = await resolve_volume(volume, pod, sources=sources)
    assert payload == {
        "token": ProjectedFile(b"token-1"),
        "ca.crt": ProjectedFile(b"CERT"),
        "namespace": ProjectedFile(b"ns"),
    }
    assert objects.token_requests[0][2]["expirationSeconds"] == 3607


async def test_later_sources_win_on_equal_paths(pod: Any, objects: Any, sources: FileSources) -> None:
    objects.add_config_map("a", {"k": "a"})
    objects.add_secret("b", {"k": b"b"})
    parts = [{"configMap": {"name": "a"}}, {"secret": {"name": "b"}}]
    payload = await resolve_volume({"name": "v", "projected": {"sources": parts}}, pod, sources=sources)
    assert payload == {"k": ProjectedFile(b"b")}


async def test_token_is_private_when_its_reader_is_known(pod: Any, sources: FileSources) -> None:
    volume = {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
    pod["spec"]["securityContext"] = {"fsGroup": 0}
    assert (await resolve_volume(volume, pod, sources=sources))["t"] == ProjectedFile(b"token-1", 0o600)
    pod["spec"]["securityContext"] = {"runAsUser": 1000}
    assert (await resolve_volume(volume, pod, sources=sources))["t"] == ProjectedFile(b"token-1", 0o600, 1000)


def test_user_counts_only_when_all_containers_share_it(pod: Any) -> None:
    assert common_run_as_user(pod) is None
    pod["spec"]["securityContext"] = {"runAsUser": 1000}
    assert common_run_as_user(pod) == 1000
    pod["spec"]["containers"][0]["securityContext"] = {"runAsUser": 0}
    assert common_run_as_user(pod) is None
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        container["securityContext"] = {"runAsUser": 0}
    assert common_run_as_user(pod) == 0


async def test_other_kinds_are_not_for_this_module(pod: Any, sources: FileSources) -> None:
    with pytest.raises(ValueError, match=r"emptyDir"):
        await resolve_volume({"name": "v", "emptyDir": {}}, pod, sources=sources)
