"""Simulated images: what is present on the node, and registries that always answer, except as configured."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from vkprovider.backends.memory.behaviour import (
    DEFAULT_BEHAVIOUR,
    LOCAL_REGISTRY,
    Behaviour,
    find_image_behaviour,
)
from vkprovider.backends.memory.config import MemoryConfig
from vkprovider.errors import ConflictError, PodSyncError
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ImageService

_HELLO_WORLD = "docker.io/library/hello-world"
IMAGE_FS_MOUNTPOINT = "/memory"


class ImageName(NamedTuple):
    """An image reference in full: ``docker.io/library/busybox``, ``1.36``, and a digest if it is given."""

    repository: str
    tag: str
    digest: str

    @property
    def full(self) -> str:
        """The reference as the runtime reports it."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def parse_image_name(reference: str) -> ImageName:
    """Full name of a reference: registry ``docker.io``, path ``library/`` and tag ``latest`` are filled in.

    Source: github.com/distribution/reference, ParseNormalizedNamed.
    """
    rest, _, digest = reference.partition("@")
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        path, tag = rest, ""
    first, slash, remainder = path.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        path = f"docker.io/{path if slash else 'library/' + path}"
    elif first == "index.docker.io":
        path = f"docker.io/{remainder}"
    return ImageName(path, tag or ("" if digest else "latest"), digest)


def _get_credentials(auth: cri.AuthConfig) -> tuple[str, str]:
    if auth.auth and not auth.username:
        username, _, password = base64.b64decode(auth.auth).decode(errors="replace").partition(":")
        return username, password
    return auth.username, auth.password


class MemoryImageService(ImageService):
    """Images of a ``MemoryRuntime``.

    Args:
        config: Which images are there, which cannot be pulled, how long a pull takes.
        in_use: Tells whether a container uses an image, by the image's id.
    """

    def __init__(self, config: MemoryConfig, *, in_use: Callable[[str], bool] = lambda image_id: False) -> None:
        self._config = config
        self._in_use = in_use
        self._images: dict[str, cri.Image] = {}
        self._names: dict[str, str] = {}  # any reference that was looked up to the image's id
        for reference in config.images:
            self.add_image(reference)

    def add_image(self, reference: str) -> cri.Image:
        """Make an image present, as if it had been pulled; for tests and for images of the configuration."""
        name = parse_image_name(reference)
        content = hashlib.sha256(name.full.encode()).hexdigest()
        digest = name.digest or f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        image_id = f"sha256:{content}"
        image = cri.Image(
            id=image_id,
            repo_tags=(f"{name.repository}:{name.tag}",) if name.tag else (),
            repo_digests=(f"{name.repository}@{digest}",),
            size_bytes=1_000_000 + int(content[:6], 16),
            uid=0,
        )
        self._images[image_id] = image
        for alias in (reference, name.full, image_id, *image.repo_tags, *image.repo_digests):
            self._names[alias] = image_id
        return image

    def lookup(self, reference: str) -> cri.Image | None:
        """The image of this reference or id if it is present."""
        image_id = self._names.get(reference)
        if image_id is None:
            image_id = self._names.get(parse_image_name(reference).full)
        return self._images.get(image_id) if image_id is not None else None

    def get_behaviour(self, reference: str) -> Behaviour:
        """What containers of an image do when nobody says otherwise."""
        name = parse_image_name(reference)
        for pattern, behaviour in self._config.behaviours:
            if fnmatchcase(name.full, pattern) or fnmatchcase(reference, pattern):
                return behaviour
        if name.repository.startswith(f"{LOCAL_REGISTRY}/"):
            return find_image_behaviour(name.repository.partition("/")[2], name.tag) or DEFAULT_BEHAVIOUR
        return DEFAULT_BEHAVIOUR

    def get_command(self, reference: str) -> tuple[str, ...]:
        """Command of the image itself; empty for one that runs until stopped."""
        if parse_image_name(reference).repository == _HELLO_WORLD:
            return ("echo", "\nHello from a simulated container!\n")
        return ()

    async def find_image(self, image: cri.ImageSpec) -> cri.Image | None:
        """The image if it is present."""
        return self.lookup(image.image)

    async def list_images(self) -> Sequence[cri.Image]:
        """All images."""
        return list(self._images.values())

    async def pull_image(
        self,
        image: cri.ImageSpec,
        *,
        auth: cri.AuthConfig | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> cri.ImageRef:
        """Make the image present after the configured delay.

        Raises:
            PodSyncError: The image is one that cannot be pulled.
        """
        reference = image.image
        name = parse_image_name(reference)
        delay_s = self._config.pull_delay_s
        if name.repository == f"{LOCAL_REGISTRY}/slow":
            delay_s += float(name.tag) if name.tag.replace(".", "", 1).isdigit() else 0.0
        if delay_s > 0:
            if progress is not None:
                progress(f"{name.full}: pulling fs layer")
            await asyncio.sleep(delay_s)
        message = self._find_refusal(reference, name, auth)
        if message:
            raise PodSyncError(f'failed to pull and unpack image "{name.full}": {message}', reason="ErrImagePull")
        pulled = self.lookup(reference) or self.add_image(reference)
        if progress is not None:
            progress(f"{name.full}: pull complete")
        return cri.ImageRef(pulled.repo_digests[0])

    async def remove_image(self, image: cri.ImageSpec) -> None:
        """Remove an image.

        Raises:
            ConflictError: A container uses it.
        """
        found = self.lookup(image.image)
        if found is None:
            return
        if self._in_use(found.id):
            raise ConflictError(f"image {image.image} is used by a container; remove the container first")
        del self._images[found.id]
        self._names = {name: image_id for name, image_id in self._names.items() if image_id != found.id}

    async def image_fs_info(self) -> Sequence[cri.FilesystemUsage]:
        """One filesystem that holds all images."""
        used = sum(image.size_bytes for image in self._images.values())
        return [cri.FilesystemUsage(mountpoint=IMAGE_FS_MOUNTPOINT, used_bytes=used, inodes_used=len(self._images))]

    def _find_refusal(self, reference: str, name: ImageName, auth: cri.AuthConfig | None) -> str:
        """Why the image cannot be pulled; empty if it can."""
        for pattern, message in self._config.pull_errors:
            if fnmatchcase(name.full, pattern) or fnmatchcase(reference, pattern):
                return message
        for private in self._config.private_images:
            if fnmatchcase(name.full, private.pattern) or fnmatchcase(reference, private.pattern):
                if auth is None or _get_credentials(auth) != (private.username, private.password):
                    return "pull access denied, repository does not exist or may require authorization: authorization failed"
                return ""
        if name.repository.startswith(f"{LOCAL_REGISTRY}/"):
            path = name.repository.partition("/")[2]
            if path == "denied":
                return (
                    "pull access denied, repository does not exist or may require authorization: authorization failed"
                )
            if path == "unreachable":
                return f"failed to do request: dial tcp: lookup {LOCAL_REGISTRY}: i/o timeout"
            if find_image_behaviour(path, name.tag) is None:
                return f"{name.full}: not found"
        if not self._config.pull_unknown and self.lookup(reference) is None:
            return f"{name.full}: not found"
        return ""
