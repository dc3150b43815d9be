"""Images of the engine."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp

from vkprovider.api.reasons import ERR_IMAGE_PULL
from vkprovider.backends.docker import convert
from vkprovider.backends.docker.client import EngineClient
from vkprovider.backends.docker.errors import EngineRefusal, engine_errors
from vkprovider.errors import ConflictError, NotFoundError, PodSyncError
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ImageService

logger = logging.getLogger(__name__)

PULL_STALL_S = 60.0
"""A pull that shows no progress for so long is given up. Source: cri-dockerd --image-pull-progress-deadline."""
_PROGRESS_EVERY_S = 1.0
_INSPECTION_TTL_S = 300.0
_USAGE_TTL_S = 30.0


class DockerImages(ImageService):
    """The image service.

    Args:
        client: Connections to the engine.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        # Inspections by image id, for statuses: what they tell changes only with pulls, tags and removals.
        self._inspections: dict[str, tuple[float, dict[str, Any]]] = {}
        self._usage: tuple[float, Sequence[cri.FilesystemUsage]] | None = None

    async def find_image(self, image: cri.ImageSpec) -> cri.Image | None:
        """The image if the engine has it, else None.

        Raises:
            TransientError: The engine did not answer.
        """
        document = await self._find(image.image)
        return None if document is None else convert.to_image(document)

    async def list_images(self) -> Sequence[cri.Image]:
        """All tagged or pulled images of the engine.

        Raises:
            TransientError: The engine did not answer.
        """
        entries = await self._client.call(lambda sdk: sdk.images(), doing="list images")
        return [convert.to_image(entry) for entry in entries]

    async def pull_image(
        self,
        image: cri.ImageSpec,
        *,
        auth: cri.AuthConfig | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> cri.ImageRef:
        """Fetch an image from its registry.

        Raises:
            PodSyncError: The registry or the engine refused, or nothing moved for a minute.
            TransientError: The engine did not answer.
        """
        name, tag = split_reference(image.image)
        headers = {} if auth is None else {"X-Registry-Auth": encode_auth(auth)}
        doing = f"pull image {image.image!r}"
        with engine_errors(doing):
            try:
                async with self._client.stream(
                    "POST", "/images/create", params={"fromImage": name, "tag": tag}, headers=headers
                ) as response:
                    await _follow_pull(response, image.image, progress)
            except EngineRefusal as error:
                raise PodSyncError(f"Error response from daemon: {error.message}", reason=ERR_IMAGE_PULL) from error
        self._inspections.clear()
        document = await self._find(image.image)
        if document is None:
            raise PodSyncError(f"image {image.image!r} is gone right after it was pulled", reason=ERR_IMAGE_PULL)
        return find_reference(image.image, document)

    async def remove_image(self, image: cri.ImageSpec) -> None:
        """Remove an image with all its tags; an absent one is success.

        Raises:
            ConflictError: A container still uses it.
            TransientError: The engine did not answer.
        """
        document = await self._find(image.image)
        if document is None:
            return
        users = await self._client.call(
            lambda sdk: sdk.containers(all=True, filters={"ancestor": document["Id"]}), doing="list containers"
        )
        if users:
            names = ", ".join(sorted(str(name).lstrip("/") for user in users for name in user.get("Names") or ()))
            raise ConflictError(f"failed to remove image {image.image!r}: used by {names}")
        self._inspections.clear()
        # The engine removes an image of several tags only tag by tag, unless forced, which would untag it under
        # containers that use it. Source: cri-dockerd core/image.go, RemoveImage.
        tags = document.get("RepoTags") or document.get("RepoDigests") or []
        for name in tags if len(tags) > 1 else [document["Id"]]:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        try:
            await self._client.call(lambda sdk: sdk.remove_image(name), doing=f"remove image {name!r}")
        except NotFoundError:
            return
        except PodSyncError as error:
            raise ConflictError(error.message) from error

    async def image_fs_info(self) -> Sequence[cri.FilesystemUsage]:
        """Bytes that the layers of all images take, counted at most twice a minute, since the engine counts slowly."""
        now = time.monotonic()
        if self._usage is not None and now - self._usage[0] < _USAGE_TTL_S:
            return self._usage[1]
        usage, info = await asyncio.gather(
            self._client.call(lambda sdk: sdk.df(), doing="ask for disk usage"),
            self._client.call(lambda sdk: sdk.info(), doing="ask for the engine's directory"),
        )
        root = info.get("DockerRootDir", "")
        result = [cri.FilesystemUsage(mountpoint=root, used_bytes=int(usage.get("LayersSize") or 0))] if root else []
        self._usage = (now, result)
        return result

    async def find_inspection(self, image_id: str) -> dict[str, Any] | None:
        """The engine's inspection of an image by id, maybe some minutes old; None when it is gone.

        Raises:
            TransientError: The engine did not answer.
        """
        now = time.monotonic()
        known = self._inspections.get(image_id)
        if known is not None and now - known[0] < _INSPECTION_TTL_S:
            return known[1]
        document = await self._find(image_id)
        if document is None:
            self._inspections.pop(image_id, None)
            return None
        if len(self._inspections) > 1000:
            self._inspections.clear()
        self._inspections[image_id] = (now, document)
        return document

    def forget(self) -> None:
        """Images changed on the engine: look again when asked."""
        self._inspections.clear()

    async def get_architecture(self) -> str:
        """Architecture of the engine's host as images name it.

        Raises:
            TransientError: The engine did not answer.
        """
        document = await self._client.call(lambda sdk: sdk.version(), doing="ask for the engine's architecture")
        return str(document.get("Arch") or "")

    async def load(self, archive: bytes, *, doing: str) -> None:
        """Import an image from a docker archive.

        Raises:
            PodSyncError: The engine refused.
            TransientError: The engine did not answer.
        """
        messages = await self._client.call(
            lambda sdk: list(sdk.load_image(archive)),  # type: ignore[no-untyped-call]
            doing=doing,
        )
        for message in messages:
            if isinstance(message, dict) and message.get("error"):
                raise PodSyncError(f"failed to {doing}: {message['error']}")
        self._inspections.clear()

    async def _find(self, name: str) -> dict[str, Any] | None:
        try:
            return await self._client.call(
                lambda sdk: sdk.inspect_image(name),  # type: ignore[no-untyped-call]
                doing=f"inspect image {name!r}",
            )
        except NotFoundError:
            return None


def split_reference(reference: str) -> tuple[str, str]:
    """Name and tag, or name and digest, of a reference; ``latest`` when it has neither."""
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return name, "latest"


def find_reference(pulled: str, document: dict[str, Any]) -> cri.ImageRef:
    """Reference of the image just pulled: its digest in that repository if there is one, else its id."""
    name = split_reference(pulled)[0]
    for digest in document.get("RepoDigests") or ():
        if digest.startswith(f"{name}@"):
            return cri.ImageRef(digest)
    return cri.ImageRef(document["Id"])


def encode_auth(auth: cri.AuthConfig) -> str:
    """Value of the ``X-Registry-Auth`` header. Source: Engine API, section Authentication."""
    username, password = auth.username, auth.password
    if auth.auth and not username:
        decoded = base64.b64decode(auth.auth).decode(errors="replace")
        username, _, password = decoded.partition(":")
        password = password.rstrip("\0")
    document = {
        "username": username,
        "password": password,
        "serveraddress": auth.server_address,
        "identitytoken": auth.identity_token,
        "registrytoken": auth.registry_token,
    }
    text = json.dumps({key: value for key, value in document.items() if value})
    return base64.urlsafe_b64encode(text.encode()).decode()


async def _follow_pull(response: aiohttp.ClientResponse, image: str, progress: Callable[[str], None] | None) -> None:
    loop = asyncio.get_running_loop()
    reported_at = -_PROGRESS_EVERY_S
    report = _PullReport()
    async for message in _messages(response, image):
        if error := message.get("errorDetail") or message.get("error"):
            text = error.get("message") if isinstance(error, dict) else error
            raise PodSyncError(str(text), reason=ERR_IMAGE_PULL)
        report.add(message)
        if progress is not None and loop.time() - reported_at >= _PROGRESS_EVERY_S:
            reported_at = loop.time()
            progress(report.line())
    if progress is not None:
        progress(report.line())


async def _messages(response: aiohttp.ClientResponse, image: str) -> AsyncIterator[dict[str, Any]]:
    pending = b""
    while True:
        try:
            async with asyncio.timeout(PULL_STALL_S):
                chunk = await response.content.readany()
        except TimeoutError as error:
            raise PodSyncError(
                f"pull of image {image!r} was cancelled: no progress for {PULL_STALL_S:g} s", reason=ERR_IMAGE_PULL
            ) from error
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines if chunk else [*lines, pending]:
            if line.strip():
                yield json.loads(line)
        if not chunk:
            return


class _PullReport:
    """Sums up the engine's messages of all layers in one line."""

    def __init__(self) -> None:
        self._layers: dict[str, str] = {}
        self._bytes: dict[str, tuple[int, int]] = {}
        self._status = ""

    def add(self, message: dict[str, Any]) -> None:
        layer, status = str(message.get("id") or ""), str(message.get("status") or "")
        if not layer or status.startswith("Pulling from"):
            self._status = status
            return
        self._layers[layer] = status
        detail = message.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._bytes[layer] = (int(detail.get("current") or 0), int(detail["total"]))
        elif layer in self._bytes and status != "Downloading":
            self._bytes[layer] = (self._bytes[layer][1], self._bytes[layer][1])

    def line(self) -> str:
        if not self._layers:
            return self._status
        done = sum(status in ("Pull complete", "Already exists") for status in self._layers.values())
        current, total = (sum(pair[side] for pair in self._bytes.values()) for side in (0, 1))
        size = f", {current / 1e6:.1f} of {total / 1e6:.1f} MB downloaded" if total else ""
        return f"{done} of {len(self._layers)} layers complete{size}"
