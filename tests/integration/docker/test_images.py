"""Images of the real engine: pulls from a registry of the test's own, and pulls that fail."""

from __future__ import annotations

import asyncio
import secrets
import time

import docker.errors
import pytest

from support.images import BUSYBOX_IMAGE, NONROOT_IMAGE
from support.ports import free_port
from support.registry import digest
from vkprovider.backends.docker import images as images_module
from vkprovider.backends.docker.infra_image import GENERATED_LABEL, ensure_demo_image, ensure_infra_image
from vkprovider.errors import ConflictError, PodSyncError
from vkprovider.provider import cri

pytestmark = pytest.mark.docker


@pytest.fixture
def image_name(engine_api):
    """Name of an image that no registry has, on a port that nothing listens on; the image is removed."""
    name = f"127.0.0.1:{free_port()}/pause-{secrets.token_hex(4)}:3"
    yield name
    try:
        engine_api.remove_image(name, force=True)
    except docker.errors.ImageNotFound:
        pass


async def test_present_image_is_described(runtime):
    image = await runtime.images.find_image(cri.ImageSpec(BUSYBOX_IMAGE))
    assert image is not None
    assert image.id.startswith("sha256:")
    assert BUSYBOX_IMAGE in image.repo_tags
    assert image.size_bytes > 100_000
    assert (image.uid, image.username) == (None, "")
    nonroot = await runtime.images.find_image(cri.ImageSpec(NONROOT_IMAGE))
    assert nonroot is not None
    assert (nonroot.uid, nonroot.username) == (None, "app")
    assert await runtime.images.find_image(cri.ImageSpec(image.id)) == image
    assert image.id in {listed.id for listed in await runtime.images.list_images()}


async def test_absent_image_is_none_and_its_removal_success(runtime):
    assert await runtime.images.find_image(cri.ImageSpec("vkprovider-test/absent:1")) is None
    await runtime.images.remove_image(cri.ImageSpec("vkprovider-test/absent:1"))


async def test_image_in_use_cannot_be_removed(runtime, pods, image_name):
    await ensure_demo_image(runtime.engine_images, image_name)
    container_id = await pods.start(image=image_name)
    with pytest.raises(ConflictError, match="used by k8s_c_pod_default"):
        await runtime.images.remove_image(cri.ImageSpec(image_name))
    await runtime.remove_container(container_id)
    await runtime.images.remove_image(cri.ImageSpec(image_name))
    assert await runtime.images.find_image(cri.ImageSpec(image_name)) is None


async def test_pull_shows_progress_and_gives_the_digest(runtime, make_registry):
    registry = await make_registry()
    name = f"{registry.address}/a/{secrets.token_hex(4)}"
    lines: list[str] = []
    reference = await runtime.images.pull_image(cri.ImageSpec(f"{name}:1"), progress=lines.append)
    assert reference == f"{name}@{digest(registry.manifest)}"
    assert lines
    assert "1 of 1 layers complete" in lines[-1]
    image = await runtime.images.find_image(cri.ImageSpec(reference))
    assert image is not None
    assert (image.uid, image.repo_tags, image.repo_digests) == (1000, (f"{name}:1",), (reference,))
    by_digest = await runtime.images.pull_image(cri.ImageSpec(reference))
    assert by_digest == reference
    await runtime.images.remove_image(cri.ImageSpec(reference))
    assert await runtime.images.find_image(cri.ImageSpec(f"{name}:1")) is None


async def test_pulled_image_is_the_containers_image_id(runtime, pods, make_registry):
    registry = await make_registry()
    name = f"{registry.address}/{secrets.token_hex(4)}:1"
    reference = await runtime.images.pull_image(cri.ImageSpec(name))
    container_id = await pods.start(image=reference)
    status = await runtime.container_status(container_id)
    assert status.image_ref == reference
    assert status.image.image == name


async def test_pull_needs_the_registrys_credentials(runtime, make_registry):
    registry = await make_registry(("user", "secret?>"))
    image = cri.ImageSpec(f"{registry.address}/{secrets.token_hex(4)}:1")
    for wrong in (None, cri.AuthConfig(username="user", password="x")):
        with pytest.raises(PodSyncError) as caught:
            await runtime.images.pull_image(image, auth=wrong)
        assert caught.value.reason == "ErrImagePull"
        assert "unauthorized" in caught.value.message or "no basic auth credentials" in caught.value.message
    right = cri.AuthConfig(username="user", password="secret?>", server_address=registry.address)
    assert (await runtime.images.pull_image(image, auth=right)).endswith(digest(registry.manifest))


async def test_missing_tag_is_told_in_the_registrys_words(runtime, make_registry):
    registry = await make_registry()
    with pytest.raises(PodSyncError, match="manifest unknown") as caught:
        await runtime.images.pull_image(cri.ImageSpec(f"{registry.address}/x:no-such-tag"))
    assert caught.value.reason == "ErrImagePull"


async def test_unreachable_registry_is_told(runtime):
    with pytest.raises(PodSyncError, match="connection refused") as caught:
        await runtime.images.pull_image(cri.ImageSpec(f"127.0.0.1:{free_port()}/x:1"))
    assert caught.value.reason == "ErrImagePull"


async def test_malformed_name_is_told(runtime):
    with pytest.raises(PodSyncError, match="invalid reference format"):
        await runtime.images.pull_image(cri.ImageSpec("UPPER/Case:1"))


async def test_pull_that_does_not_move_is_given_up(runtime, make_registry, monkeypatch):
    monkeypatch.setattr(images_module, "PULL_STALL_S", 1.0)
    registry = await make_registry()
    registry.hanging = True
    begun = time.monotonic()
    with pytest.raises(PodSyncError, match="no progress for 1 s"):
        await runtime.images.pull_image(cri.ImageSpec(f"{registry.address}/{secrets.token_hex(4)}:1"))
    assert time.monotonic() - begun < 10


async def test_image_filesystem_usage(runtime, engine_api):
    (usage,) = await runtime.images.image_fs_info()
    assert usage.mountpoint == engine_api.info()["DockerRootDir"]
    assert usage.used_bytes > 100_000


async def test_sandbox_image_that_cannot_be_pulled_is_made(runtime, engine_api, image_name):
    assert await ensure_infra_image(runtime.engine_images, image_name)
    assert not await ensure_infra_image(runtime.engine_images, image_name), "the second time it is there"
    labels = engine_api.inspect_image(image_name)["Config"]["Labels"]
    assert "connection refused" in labels[GENERATED_LABEL]


async def test_made_sandbox_image_ends_at_once_and_reaps(engine_api, image_name, node_name):
    from vkprovider.api.labels import OWNER_NODE
    from vkprovider.backends.docker.runtime import DockerRuntime

    runtime = DockerRuntime(sandbox_image=image_name)
    await runtime.connect()
    labels = {OWNER_NODE: node_name}
    config = cri.PodSandboxConfig(cri.PodSandboxMetadata("p", "u" + secrets.token_hex(4), "default"), labels=labels)
    try:
        sandbox_id = await runtime.run_pod_sandbox(config)
        shared = cri.LinuxContainerSecurityContext(namespaces=cri.NamespaceOption(pid=cri.NamespaceMode.POD))
        container = cri.ContainerConfig(
            cri.ContainerMetadata("c"),
            cri.ImageSpec(BUSYBOX_IMAGE),
            command=("sleep", "100"),
            labels=labels,
            security_context=shared,
        )
        container_id = await runtime.create_container(sandbox_id, container, config)
        await runtime.start_container(container_id)
        assert (await runtime.exec_sync(container_id, ["cat", "/proc/1/cmdline"])).stdout == b"/pause\0"
        # A grandchild whose parent has gone is the sandbox's to reap.
        await runtime.exec_sync(container_id, ["sh", "-c", "(sleep 0.1 &) ; true"])
        await asyncio.sleep(0.7)
        states = (await runtime.exec_sync(container_id, ["sh", "-c", "cat /proc/[0-9]*/stat"])).stdout.decode()
        assert [line for line in states.splitlines() if " Z " in line] == []
        begun = time.monotonic()
        await asyncio.to_thread(engine_api.kill, sandbox_id, "SIGTERM")
        assert (await asyncio.to_thread(engine_api.wait, sandbox_id, 10))["StatusCode"] == 0
        assert time.monotonic() - begun < 2
    finally:
        await runtime.remove_pod_sandbox(sandbox_id)
        await runtime.aclose()


async def test_image_cannot_be_made_for_a_digest(runtime):
    with pytest.raises(PodSyncError, match="nor made for its digest"):
        await ensure_infra_image(runtime.engine_images, f"127.0.0.1:{free_port()}/x@sha256:{'0' * 64}")


async def test_demo_image_greets_and_ends_when_asked(runtime, pods, image_name):
    assert await ensure_demo_image(runtime.engine_images, image_name)
    container_id = await pods.start(image=image_name)
    await pods.log_shows(container_id, b"Hello from a pod on your vkprovider node!\n")
    begun = time.monotonic()
    await runtime.stop_container(container_id, grace_period_s=30)
    assert time.monotonic() - begun < 5
    status = await runtime.container_status(container_id)
    assert (status.exit_code, status.reason) == (0, "Completed")
