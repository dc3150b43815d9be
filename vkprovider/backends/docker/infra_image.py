"""Images made on the engine when they cannot be pulled: the sandbox's, and one for demonstrations.

Where no registry answers (air-gapped), a docker archive with one tiny static program is generated and imported under the
name that was asked for. A label says that, and why.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Mapping

from vkprovider._version import __version__
from vkprovider.api.reasons import ERR_IMAGE_PULL
from vkprovider.backends.docker import elf
from vkprovider.backends.docker.images import DockerImages
from vkprovider.errors import PodSyncError
from vkprovider.provider import cri

logger = logging.getLogger(__name__)

GENERATED_LABEL = "vkprovider.io/generated"
DEMO_IMAGE = f"vkprovider.io/demo:{__version__}"
DEMO_GREETING = "Hello from a pod on your vkprovider node!\n"
_CREATED = "1970-01-01T00:00:00Z"


class SandboxImage:
    """The image of sandbox containers, made sure of once.

    Args:
        images: Images of the engine.
        image: Its name.
    """

    def __init__(self, images: DockerImages, image: str) -> None:
        self._images = images
        self._image = image
        self._present = False
        self._lock = asyncio.Lock()

    async def ensure(self) -> str:
        """Its name, once the engine has it. Costs nothing from the second time on; safe to call concurrently.

        Raises:
            PodSyncError: It can neither be pulled nor made.
            TransientError: The engine did not answer.
        """
        if not self._present:
            async with self._lock:
                if not self._present:
                    await ensure_infra_image(self._images, self._image)
                    self._present = True
        return self._image

    def forget(self) -> None:
        """It may have been removed from the engine: look again."""
        self._present = False


async def ensure_infra_image(images: DockerImages, image: str) -> bool:
    """Make sure that the engine has the image of sandbox containers: pull it, else make it.

    Args:
        images: Images of the engine.
        image: Name of the image.

    Returns:
        Whether it had to be made.

    Raises:
        PodSyncError: It can neither be pulled nor made (another architecture, a name with a digest).
        TransientError: The engine did not answer.
    """
    return await _ensure(images, image, "/pause", elf.make_pause_program)


async def ensure_demo_image(images: DockerImages, image: str = DEMO_IMAGE, *, pull: bool = False) -> bool:
    """Make sure that the engine has an image whose program greets once and then waits to be stopped.

    Args:
        images: Images of the engine.
        image: Name of the image.
        pull: Whether to try a registry first.

    Returns:
        Whether it had to be made.

    Raises:
        PodSyncError: It cannot be made.
        TransientError: The engine did not answer.
    """
    greeting = DEMO_GREETING.encode()
    return await _ensure(
        images, image, "/hello", lambda architecture: elf.make_greeting_program(architecture, greeting), pull=pull
    )


async def _ensure(
    images: DockerImages, image: str, path: str, make_program: elf.ProgramMaker, *, pull: bool = True
) -> bool:
    if await images.find_image(cri.ImageSpec(image)) is not None:
        return False
    why = "not for pulling"
    if pull:
        try:
            await images.pull_image(cri.ImageSpec(image))
        except PodSyncError as error:
            why = error.message
        else:
            return False
    if "@" in image:
        raise PodSyncError(f"image {image} cannot be pulled, nor made for its digest: {why}", reason=ERR_IMAGE_PULL)
    architecture = await images.get_architecture()
    try:
        program = make_program(architecture)
    except KeyError:
        raise PodSyncError(
            f"image {image} cannot be pulled, nor made for architecture {architecture!r}: {why}", reason=ERR_IMAGE_PULL
        ) from None
    archive = make_archive(
        image, path, program, architecture=architecture, labels={GENERATED_LABEL: f"vkprovider {__version__}: {why}"}
    )
    await images.load(archive, doing=f"import the generated image {image!r}")
    if pull:
        logger.warning(
            "The image cannot be pulled; a minimal one of our own takes its place", extra={"image": image, "error": why}
        )
    return True


def make_archive(image: str, path: str, program: bytes, *, architecture: str, labels: Mapping[str, str]) -> bytes:
    """A docker archive with one image of one executable. Deterministic.

    Args:
        image: Name and tag of the image.
        path: Where the program lies in the image; also its entrypoint.
        program: The executable.
        architecture: As the engine names it.
        labels: Labels of the image.

    Source: moby image/spec/v1.2.md.
    """
    layer = _make_tar({path.lstrip("/"): program}, mode=0o755)
    configuration = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": _CREATED,
            "config": {"Entrypoint": [path], "Labels": dict(labels), "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created": _CREATED, "created_by": "vkprovider"}],
        },
        sort_keys=True,
    ).encode()
    configuration_name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    layer_name = f"{hashlib.sha256(layer).hexdigest()}/layer.tar"
    manifest = json.dumps([{"Config": configuration_name, "RepoTags": [image], "Layers": [layer_name]}]).encode()
    return _make_tar({configuration_name: configuration, layer_name: layer, "manifest.json": manifest}, mode=0o644)


def _make_tar(files: Mapping[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, contents in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(contents), mode
            archive.addfile(entry, io.BytesIO(contents))
    return buffer.getvalue()
