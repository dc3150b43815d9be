"""Images: pull policies, backoff, shared pulls, credentials; and the names and keyrings behind them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from vkprovider.api.durations import format_duration
from vkprovider.backends.memory import MemoryConfig
from vkprovider.backends.memory.config import PrivateImage
from vkprovider.kubelet.credentials import (
    Keyring,
    matches_location,
    normalize_location,
    parse_docker_config,
    read_node_credentials,
    read_pull_secret,
)
from vkprovider.kubelet.image_names import apply_default_tag, parse_image_name
from vkprovider.kubelet.images import describe_pull_failure
from vkprovider.testing import make_container, make_pod

virtual_time = pytest.mark.looptime
IMAGE = "busybox:1.36"
DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1.36", "busybox:1.36"),
        (f"busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1.36@{DIGEST}", f"busybox:1.36@{DIGEST}"),
        ("registry:5000/app", "registry:5000/app:latest"),
        ("registry:5000/app:v1", "registry:5000/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("a/b/c", "a/b/c:latest"),
    ],
)
def test_default_tag(text: str, expected: str) -> None:
    assert apply_default_tag(text) == expected


@pytest.mark.parametrize(
    "text", ["", "lib/UPPER", "busy box", "busybox:", "a//b", "-a", "b" * 300, "a" * 64, f"busybox@{DIGEST[:-40]}"]
)
def test_what_is_no_image_name(text: str) -> None:
    with pytest.raises(ValueError, match="couldn't parse image name"):
        apply_default_tag(text)


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("busybox", "docker.io/library/busybox", "latest"),
        ("user/app:1", "docker.io/user/app", "1"),
        ("index.docker.io/app", "docker.io/library/app", "latest"),
        ("quay.io/org/app:2", "quay.io/org/app", "2"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app", "latest"),
    ],
)
def test_repository_of_a_name(text: str, repository: str, tag: str) -> None:
    name = parse_image_name(text)
    assert (name.repository, name.tag) == (repository, tag)


@pytest.mark.parametrize(
    ("location", "repository", "fits"),
    [
        ("quay.io", "quay.io/org/app", True),
        ("quay.io/org", "quay.io/org/app", True),
        ("quay.io/other", "quay.io/org/app", False),
        ("*.example.com", "eu.example.com/app", True),
        ("*.example.com", "example.com/app", False),
        ("*.example.com", "a.b.example.com/app", False),
        ("registry.example.com:5000", "registry.example.com:5000/app", True),
        ("registry.example.com", "registry.example.com:5000/app", False),
    ],
)
def test_where_credentials_fit(location: str, repository: str, fits: bool) -> None:
    assert matches_location(location, repository) is fits


def test_the_most_specific_credentials_come_first_and_docker_hub_is_the_default() -> None:
    config = {
        "auths": {
            name: {"username": name, "password": "p"}
            for name in ("quay.io", "quay.io/org", "https://index.docker.io/v1/")
        }
    }
    keyring = Keyring(parse_docker_config(json.dumps(config).encode(), legacy=False))
    assert [c.auth.username for c in keyring.lookup("quay.io/org/app")] == ["quay.io/org", "quay.io"]
    assert [c.auth.username for c in keyring.lookup("docker.io/library/busybox")] == ["https://index.docker.io/v1/"]
    assert keyring.lookup("gcr.io/app") == []


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://index.docker.io/v1/", "index.docker.io/"),
        ("http://quay.io", "quay.io"),
        ("quay.io/", "quay.io"),
        ("https://gcr.io/v2/project", "gcr.io/project"),
    ],
)
def test_location_of_an_entry(location: str, expected: str) -> None:
    # The slash that is left of an old Docker Hub key matches nothing but Docker Hub's own fallback.
    assert normalize_location(location).rstrip("/") == expected.rstrip("/")


def test_both_forms_of_pull_secret() -> None:
    auth = base64.b64encode(b"user:pa:ss").decode()
    modern = json.dumps({"auths": {"quay.io": {"auth": auth}}}).encode()
    legacy = json.dumps({"quay.io": {"auth": auth}}).encode()
    for kind, key, data in (
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson", modern),
        ("kubernetes.io/dockercfg", ".dockercfg", legacy),
    ):
        secret: Any = {
            "metadata": {"name": "s", "namespace": "ns"},
            "type": kind,
            "data": {key: base64.b64encode(data).decode()},
        }
        (credential,) = read_pull_secret(secret)
        assert (credential.auth.username, credential.auth.password) == ("user", "pa:ss")
        assert credential.secret == "ns/s"
    assert read_pull_secret({"metadata": {"name": "s"}, "type": "Opaque", "data": {}}) == []


@pytest.mark.parametrize("data", [b"nonsense", b"[]", b'{"auths": {"x": {"auth": "bm8tY29sb24="}}}'])
def test_broken_docker_configuration_tells_nothing_of_its_contents(data: bytes) -> None:
    with pytest.raises(ValueError, match="not valid JSON of the expected form") as caught:
        parse_docker_config(data, legacy=False)
    assert caught.value.__cause__ is None


def test_configuration_of_the_node_is_read_from_the_root_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"quay.io": {"username": "node", "password": "p"}}}')
    assert [c.auth.username for c in read_node_credentials(tmp_path)] == ["node"]


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        ("not found", "ErrImagePull", "not found"),
        (
            "RegistryUnavailable: down",
            "RegistryUnavailable",
            "image pull failed for x because the registry is unavailable: down",
        ),
        (
            "SignatureValidationFailed",
            "SignatureValidationFailed",
            "image pull failed for x because the signature validation failed",
        ),
    ],
)
def test_reasons_of_failed_pulls(error: str, reason: str, message: str) -> None:
    assert describe_pull_failure("x", error) == (reason, message)


@virtual_time
async def test_absent_image_is_pulled_with_the_kubelets_events(open_bench: Any) -> None:
    async with open_bench(config=MemoryConfig(pull_delay_s=2.5)) as bench:
        pod = bench.drive(make_pod())
        await pod.run_for(5)
        size = (await bench.runtime.images.list_images())[0].size_bytes
        assert pod.recording.reasons == ["Pulling", "Pulled", "Created", "Started"]
        assert pod.messages("Pulling") == [f'Pulling image "{IMAGE}"']
        assert pod.messages("Pulled") == [
            f'Successfully pulled image "{IMAGE}" in 2.5s (2.5s including waiting). Image size: {size} bytes.'
        ]


@virtual_time
async def test_policy_always_pulls_a_present_image(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(containers=[make_container(imagePullPolicy="Always")]))
        await pod.run_for(1)
        assert "Pulling" in pod.recording.reasons


@virtual_time
async def test_policy_never_refuses_an_absent_image(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(containers=[make_container(image="absent:1", imagePullPolicy="Never")]))
        await pod.run_for(1)
        message = 'Container image "absent:1" is not present with pull policy of Never'
        assert pod.container()["state"]["waiting"] == {"reason": "ErrImageNeverPull", "message": message}
        assert pod.messages("ErrImageNeverPull") == [message]
        assert pod.messages("Failed") == ["Error: ErrImageNeverPull"]


@virtual_time
async def test_invalid_image_name(open_bench: Any) -> None:
    async with open_bench() as bench:
        pod = bench.drive(make_pod(containers=[make_container(image="UPPER CASE")]))
        await pod.run_for(1)
        assert pod.container()["state"]["waiting"]["reason"] == "InvalidImageName"
        (message,) = pod.messages("InspectFailed")
        assert message.startswith('Failed to apply default image tag "UPPER CASE": couldn\'t parse image name')
        assert pod.messages("Failed") == ["Error: InvalidImageName"]


@virtual_time
async def test_failed_pull_backs_off_10_20_40_to_300_seconds(open_bench: Any) -> None:
    config = MemoryConfig(pull_errors=(("*", "manifest unknown"),))
    error = f'failed to pull and unpack image "docker.io/library/{IMAGE}": manifest unknown'
    async with open_bench(config=config) as bench:
        pod = bench.drive(make_pod())
        await pod.sync()
        assert pod.container()["state"]["waiting"] == {"reason": "ErrImagePull", "message": error}
        assert pod.messages("Failed") == [f'Failed to pull image "{IMAGE}": {error}', "Error: ErrImagePull"]
        await pod.sync()
        assert pod.container()["state"]["waiting"] == {
            "reason": "ImagePullBackOff",
            "message": f'Back-off pulling image "{IMAGE}": ErrImagePull: {error}',
        }
        assert pod.messages("BackOff") == [f'Back-off pulling image "{IMAGE}"']
        assert pod.messages("Failed")[-1] == "Error: ImagePullBackOff"
        await pod.run_for(1300)
        times = pod.times("Pulling")
        gaps = [round(b - a) for a, b in itertools.pairwise(times)]
        assert gaps[:7] == [10, 20, 40, 80, 160, 300, 300]
        assert pod.status["phase"] == "Pending"
        assert format_duration(300) == "5m0s"


@virtual_time
async def test_pods_that_want_one_image_share_its_pull(open_bench: Any) -> None:
    async with open_bench(config=MemoryConfig(pull_delay_s=10)) as bench:
        pods = [bench.drive(make_pod(f"p{i}")) for i in range(5)]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(pod.sync() for pod in pods))
        assert asyncio.get_running_loop().time() - began == pytest.approx(10)
        assert all(pod.recording.reasons[:2] == ["Pulling", "Pulled"] for pod in pods)


@virtual_time
@pytest.mark.parametrize(
    ("settings", "took"),
    [
        ({}, 30),
        ({"serialize_image_pulls": False}, 10),
        ({"serialize_image_pulls": False, "max_parallel_image_pulls": 2}, 20),
    ],
)
async def test_pulls_of_several_images(open_bench: Any, settings: dict[str, Any], took: int) -> None:
    async with open_bench(config=MemoryConfig(pull_delay_s=10), **settings) as bench:
        pods = [bench.drive(make_pod(f"p{i}", containers=[make_container(image=f"app{i}:1")])) for i in range(3)]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(pod.sync() for pod in pods))
        assert asyncio.get_running_loop().time() - began == pytest.approx(took)
        assert all("running" in pod.container()["state"] for pod in pods)


@virtual_time
async def test_hanging_pull_of_one_pod_does_not_delay_another_with_its_image(open_bench: Any) -> None:
    config = MemoryConfig(images=(IMAGE,), pull_delay_s=3600)
    async with open_bench(config=config) as bench:
        stuck = bench.drive(make_pod("stuck", containers=[make_container(image="huge:1")]))
        task = asyncio.create_task(stuck.run_for(10))
        await asyncio.sleep(1)
        pod = bench.drive(make_pod())
        await pod.run_for(1)
        assert pod.status["phase"] == "Running"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@virtual_time
async def test_too_many_pulls_at_once_are_refused_as_the_kubelet_does(open_bench: Any) -> None:
    async with open_bench(config=MemoryConfig(), registry_pull_qps=1, registry_burst=1) as bench:
        pods = [bench.drive(make_pod(f"p{i}", containers=[make_container(image=f"app{i}:1")])) for i in range(2)]
        for pod in pods:
            await pod.sync()
        assert pods[1].container()["state"]["waiting"] == {"reason": "ErrImagePull", "message": "pull QPS exceeded"}


@virtual_time
async def test_pull_secret_opens_a_private_image(open_bench: Any) -> None:
    config = MemoryConfig(private_images=(PrivateImage("*private.example/*", "user", "secret"),))
    async with open_bench(config=config) as bench:
        container = make_container(image="private.example/app:1")
        refused = bench.drive(make_pod("refused", containers=[container]))
        await refused.run_for(1)
        assert refused.container()["state"]["waiting"]["reason"] in ("ErrImagePull", "ImagePullBackOff")
        data = json.dumps({"auths": {"private.example": {"username": "user", "password": "secret"}}}).encode()
        bench.objects.add_secret("pull", {".dockerconfigjson": data}, type="kubernetes.io/dockerconfigjson")
        pod = bench.drive(make_pod(containers=[container], imagePullSecrets=[{"name": "pull"}, {"name": "gone"}]))
        await pod.run_for(1)
        assert pod.status["phase"] == "Running"
        assert pod.messages("FailedToRetrieveImagePullSecret") == [
            "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed."
        ]
