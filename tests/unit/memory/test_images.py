"""Simulated images: names, pulls that work, fail, need credentials or take long."""

import asyncio
import base64

import pytest

from vkprovider.backends.memory import Behaviour, MemoryConfig, MemoryImageService
from vkprovider.backends.memory.config import PrivateImage
from vkprovider.backends.memory.images import parse_image_name
from vkprovider.errors import ConflictError, PodSyncError
from vkprovider.provider import cri

DIGEST = "sha256:" + "a" * 64


def spec(reference):
    return cri.ImageSpec(reference)


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("team/app", "docker.io/team/app:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("registry.k8s.io/pause:3.10.1", "registry.k8s.io/pause:3.10.1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000/app:2", "localhost:5000/app:2"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
    ],
)
def test_names_are_completed(reference, full):
    assert parse_image_name(reference).full == full


async def test_pulled_image_is_found_by_every_name():
    images = MemoryImageService(MemoryConfig())
    assert await images.find_image(spec("busybox:1.36")) is None
    reference = await images.pull_image(spec("busybox:1.36"))
    image = await images.find_image(spec("docker.io/library/busybox:1.36"))
    assert image.repo_digests == (reference,)
    for name in ("busybox:1.36", "library/busybox:1.36", reference, image.id):
        assert (await images.find_image(spec(name))).id == image.id
    assert await images.find_image(spec("busybox:1.37")) is None
    assert [item.id for item in await images.list_images()] == [image.id]


async def test_image_pulled_by_digest_keeps_it():
    images = MemoryImageService(MemoryConfig())
    assert await images.pull_image(spec(f"app@{DIGEST}")) == f"docker.io/library/app@{DIGEST}"
    assert (await images.find_image(spec(f"app@{DIGEST}"))).repo_tags == ()


async def test_configured_images_are_present():
    images = MemoryImageService(MemoryConfig(images=("nginx:1.27",), pull_unknown=False))
    assert await images.find_image(spec("nginx:1.27"))
    await images.pull_image(spec("nginx:1.27"))
    with pytest.raises(PodSyncError, match=r"docker\.io/library/other:latest: not found") as caught:
        await images.pull_image(spec("other"))
    assert caught.value.reason == "ErrImagePull"


@pytest.mark.looptime
async def test_pull_takes_its_time_and_tells_progress():
    images = MemoryImageService(MemoryConfig(pull_delay_s=3))
    told = []
    await images.pull_image(spec("memory.local/slow:7"), progress=told.append)
    assert asyncio.get_running_loop().time() == 10
    assert told == ["memory.local/slow:7: pulling fs layer", "memory.local/slow:7: pull complete"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("memory.local/denied", "authorization failed"),
        ("memory.local/unreachable", "i/o timeout"),
        ("memory.local/nothing:1", "memory.local/nothing:1: not found"),
        ("reg.example.com/bad/app:1", "x509: certificate signed by unknown authority"),
    ],
)
async def test_some_images_cannot_be_pulled(reference, message):
    errors = (("reg.example.com/bad/*", "x509: certificate signed by unknown authority"),)
    images = MemoryImageService(MemoryConfig(pull_errors=errors))
    with pytest.raises(PodSyncError, match=message):
        await images.pull_image(spec(reference))
    assert await images.find_image(spec(reference)) is None


async def test_private_image_needs_its_credentials():
    images = MemoryImageService(MemoryConfig(private_images=(PrivateImage("reg.example.com/*", "me", "pw"),)))
    for auth in (None, cri.AuthConfig(username="me", password="wrong")):
        with pytest.raises(PodSyncError, match="authorization failed"):
            await images.pull_image(spec("reg.example.com/app"), auth=auth)
    await images.pull_image(spec("reg.example.com/app"), auth=cri.AuthConfig(username="me", password="pw"))
    encoded = base64.b64encode(b"me:pw").decode()
    await images.pull_image(spec("reg.example.com/app"), auth=cri.AuthConfig(auth=encoded))


async def test_used_image_stays():
    used = set()
    images = MemoryImageService(MemoryConfig(images=("a",)), in_use=used.__contains__)
    image = await images.find_image(spec("a"))
    used.add(image.id)
    with pytest.raises(ConflictError, match="used by a container"):
        await images.remove_image(spec("a"))
    used.clear()
    await images.remove_image(spec("a"))
    assert await images.find_image(spec("a")) is None
    assert await images.find_image(spec(image.id)) is None
    await images.remove_image(spec("a"))


async def test_filesystem_holds_what_the_images_weigh():
    images = MemoryImageService(MemoryConfig(images=("a", "b")))
    (usage,) = await images.image_fs_info()
    assert usage.used_bytes == sum(image.size_bytes for image in await images.list_images()) > 0


def test_configured_behaviour_comes_first():
    config = MemoryConfig(behaviours=(("memory.local/exit:*", Behaviour(run_s=9.0)), ("*", Behaviour(run_s=1.0))))
    images = MemoryImageService(config)
    assert images.get_behaviour("memory.local/exit:3").run_s == 9
    assert images.get_behaviour("busybox").run_s == 1
    assert MemoryImageService(MemoryConfig()).get_behaviour("memory.local/exit:3").exit_code == 3
