"""Image manager: sees to it that a container's image is on the node before the container is made.

Pulls of one image wanted by several pods at once are one pull. A pull outlives the pod that asked for it as long as another waits;
when nobody waits any more it is cancelled.

Source: pkg/kubelet/images/image_manager.go, puller.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from vkprovider.aio.backoff import BackoffTable
from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import v1
from vkprovider.api.durations import format_duration
from vkprovider.api.reasons import (
    ERR_IMAGE_NEVER_PULL,
    ERR_IMAGE_PULL,
    EVENT_BACK_OFF,
    EVENT_FAILED,
    EVENT_INSPECT_FAILED,
    EVENT_PULLED,
    EVENT_PULLING,
    IMAGE_INSPECT_ERROR,
    IMAGE_PULL_BACK_OFF,
    INVALID_IMAGE_NAME,
    NORMAL,
    WARNING,
)
from vkprovider.errors import BackoffError, PodSyncError, VkproviderError
from vkprovider.kubelet.credentials import Credential, Keyring
from vkprovider.kubelet.image_names import apply_default_tag, parse_image_name
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ImageService

logger = logging.getLogger(__name__)

_SPECIAL_FAILURES: Final = {
    "RegistryUnavailable": "the registry is unavailable",
    "SignatureValidationFailed": "the signature validation failed",
}
"""Words that a runtime's error may begin with. Source: k8s.io/cri-api/pkg/errors."""


_PullKey = tuple[str, str, frozenset[cri.AuthConfig]]


class ContainerEvents(Protocol):
    """Records an event on the container that wants the image."""

    def __call__(self, kind: str, reason: str, message: str) -> None:
        """Record it."""
        ...


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image that is on the node: how to name it to the runtime, and what is known of it."""

    spec: cri.ImageSpec
    image: cri.Image


@dataclass(slots=True)
class _Pull:
    """One pull in progress and who waits for it."""

    task: asyncio.Task[tuple[cri.Image, float] | VkproviderError]
    waiters: int = 0


class ImageManager:
    """Makes images available.

    Args:
        service: Images of the runtime.
        clock: Time.
        serialize: One pull at a time.
        max_parallel: Bound on parallel pulls; None for no bound.
        qps: Pulls that may begin a second; 0 for no limit.
        burst: Pulls that may begin at once above the rate.
        observe_pull: Told of every pull that succeeded, with the image's size in bytes and the seconds it took.
    """

    def __init__(
        self,
        service: ImageService,
        clock: Clock,
        *,
        serialize: bool = True,
        max_parallel: int | None = None,
        qps: float = 5,
        burst: int = 10,
        observe_pull: Callable[[int, float], None] | None = None,
    ) -> None:
        self._service = service
        self._observe_pull = observe_pull
        self._clock = clock
        slots = 1 if serialize and (max_parallel or 1) == 1 else max_parallel
        self._slots = asyncio.Semaphore(slots) if slots else None
        self._limiter = _RateLimiter(clock, qps=qps, burst=burst) if qps > 0 else None
        self._backoff = BackoffTable(clock)
        self._last_errors: dict[tuple[v1.PodUID, str], str] = {}
        self._pod_keys: dict[v1.PodUID, set[tuple[v1.PodUID, str]]] = {}
        self._pulls: dict[_PullKey, _Pull] = {}
        self._pool = TaskPool("images")

    async def aclose(self) -> None:
        """Cancel pulls in progress. Safe to repeat."""
        await self._pool.aclose()

    async def find_present(self, image: str, *, runtime_handler: str = "") -> cri.Image | None:
        """The image if its name is valid and it is present now; for looking ahead, so failures are None as well."""
        try:
            return await self._service.find_image(_make_spec(image, apply_default_tag(image), {}, runtime_handler))
        except (ValueError, VkproviderError):
            return None

    async def ensure_image(
        self,
        pod: v1.Pod,
        container: v1.Container,
        record_event: ContainerEvents,
        *,
        keyring: Keyring,
        runtime_handler: str = "",
        known: cri.Image | None = None,
    ) -> PulledImage:
        """See to it that the container's image is present, pulling it if its policy says so.

        Args:
            pod: The pod.
            container: One of its containers.
            record_event: Records an event on the container.
            keyring: Credentials of the pod and the node.
            runtime_handler: Handler of the pod's RuntimeClass.
            known: The image, if it was seen to be present a moment ago.

        Raises:
            PodSyncError: It cannot be had; reason and message are those of the waiting state.
            BackoffError: A pull failed a while ago and is not tried again yet (reason ``ImagePullBackOff``).
        """
        requested = container.get("image", "")
        try:
            name = apply_default_tag(requested)
        except ValueError as error:
            message = f'Failed to apply default image tag "{requested}": {error}'
            record_event(WARNING, EVENT_INSPECT_FAILED, message)
            raise PodSyncError(message, reason=INVALID_IMAGE_NAME) from None
        spec = _make_spec(requested, name, pod["metadata"].get("annotations") or {}, runtime_handler)
        policy = container.get("imagePullPolicy") or ("Always" if name.endswith(":latest") else "IfNotPresent")
        if policy != "Always":
            image = known
            if image is None:
                try:
                    image = await self._service.find_image(spec)
                except VkproviderError as error:
                    message = f'Failed to inspect image "{requested}": {error}'
                    record_event(WARNING, EVENT_INSPECT_FAILED, message)
                    raise PodSyncError(message, reason=IMAGE_INSPECT_ERROR) from error
            if image is not None:
                record_event(
                    NORMAL,
                    EVENT_PULLED,
                    f'Container image "{requested}" already present on machine and can be accessed by the pod',
                )
                return PulledImage(spec, image)
            if policy == "Never":
                message = f'Container image "{requested}" is not present with pull policy of Never'
                record_event(WARNING, ERR_IMAGE_NEVER_PULL, message)
                raise PodSyncError(message, reason=ERR_IMAGE_NEVER_PULL)
        return PulledImage(spec, await self._pull(pod, requested, spec, record_event, keyring))

    def forget_pod(self, uid: v1.PodUID) -> None:
        """Forget backoffs of a pod that is gone."""
        for key in self._pod_keys.pop(uid, ()):
            self._backoff.reset(key)
            self._last_errors.pop(key, None)

    async def _pull(
        self, pod: v1.Pod, requested: str, spec: cri.ImageSpec, record_event: ContainerEvents, keyring: Keyring
    ) -> cri.Image:
        uid = v1.PodUID(pod["metadata"].get("uid", ""))
        key = (uid, requested)
        if (remaining_s := self._backoff.remaining_since_update_s(key)) > 0:
            message = f'Back-off pulling image "{requested}"'
            record_event(NORMAL, EVENT_BACK_OFF, message)
            if key in self._last_errors:
                message = f"{message}: {self._last_errors[key]}"
            raise BackoffError(message, reason=IMAGE_PULL_BACK_OFF, retry_after_s=remaining_s)
        self._last_errors.pop(key, None)
        record_event(NORMAL, EVENT_PULLING, f'Pulling image "{requested}"')
        began = self._clock.monotonic()
        try:
            image, pull_s = await self._share_pull(spec, keyring.lookup(parse_image_name(spec.image).repository))
        except VkproviderError as error:
            record_event(WARNING, EVENT_FAILED, f'Failed to pull image "{requested}": {error}')
            self._pod_keys.setdefault(uid, set()).add(key)
            self._backoff.step(key, self._clock.now())
            reason, message = describe_pull_failure(requested, str(error))
            self._last_errors[key] = f"{reason}: {message}"
            raise PodSyncError(message, reason=reason) from error
        total_s = self._clock.monotonic() - began
        if self._observe_pull is not None:
            self._observe_pull(image.size_bytes, total_s)
        record_event(
            NORMAL,
            EVENT_PULLED,
            f'Successfully pulled image "{requested}" in {_format_ms(pull_s)} ({_format_ms(total_s)} including waiting). '
            f"Image size: {image.size_bytes} bytes.",
        )
        self._backoff.collect()
        return image

    async def _share_pull(self, spec: cri.ImageSpec, credentials: Sequence[Credential]) -> tuple[cri.Image, float]:
        """Join the pull of this image with these credentials, or begin it; the last one to leave ends it."""
        key = (spec.image, spec.runtime_handler, frozenset(credential.auth for credential in credentials))
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = _Pull(self._pool.spawn(self._try_pull(spec, credentials), name=spec.image))
            pull.task.add_done_callback(lambda task: self._forget_pull(key, task))
        pull.waiters += 1
        try:
            outcome = await asyncio.shield(pull.task)
        finally:
            pull.waiters -= 1
            if not pull.waiters and not pull.task.done():
                if self._pulls.get(key) is pull:
                    del self._pulls[key]
                pull.task.cancel()
        if isinstance(outcome, VkproviderError):
            raise outcome
        return outcome

    def _forget_pull(self, key: _PullKey, task: asyncio.Task[tuple[cri.Image, float] | VkproviderError]) -> None:
        if key in self._pulls and self._pulls[key].task is task:
            del self._pulls[key]

    async def _try_pull(
        self, spec: cri.ImageSpec, credentials: Sequence[Credential]
    ) -> tuple[cri.Image, float] | VkproviderError:
        """The outcome as a value: a failure belongs to those who wait, not to the task."""
        try:
            return await self._pull_now(spec, credentials)
        except VkproviderError as error:
            return error

    async def _pull_now(self, spec: cri.ImageSpec, credentials: Sequence[Credential]) -> tuple[cri.Image, float]:
        if self._limiter is not None and not self._limiter.try_take():
            raise PodSyncError("pull QPS exceeded", reason=ERR_IMAGE_PULL)
        async with self._slot():
            began = self._clock.monotonic()
            errors: list[VkproviderError] = []
            candidates: list[cri.AuthConfig | None] = [credential.auth for credential in credentials]
            for auth in candidates or [None]:
                try:
                    await self._service.pull_image(spec, auth=auth)
                    break
                except VkproviderError as error:
                    errors.append(error)
            else:
                if len(errors) == 1:
                    raise errors[0]
                texts = ", ".join(dict.fromkeys(str(error) for error in errors))
                raise PodSyncError(f"[{texts}]" if ", " in texts else texts, reason=ERR_IMAGE_PULL)
            pull_s = self._clock.monotonic() - began
        image = await self._service.find_image(spec)
        if image is None:
            raise PodSyncError(f'image "{spec.image}" is gone right after its pull', reason=ERR_IMAGE_PULL)
        return image, pull_s

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._slots is None:
            yield
            return
        async with self._slots:
            yield


def describe_pull_failure(image: str, error: str) -> tuple[str, str]:
    """Waiting reason and message for a pull's error.

    Source: image_manager.go, evalCRIPullErr.
    """
    for word, meaning in _SPECIAL_FAILURES.items():
        if error.startswith(word):
            return word, f"image pull failed for {image} because {meaning}{error.removeprefix(word)}"
    return ERR_IMAGE_PULL, error


def _make_spec(requested: str, name: str, annotations: Mapping[str, str], runtime_handler: str) -> cri.ImageSpec:
    return cri.ImageSpec(
        image=name, annotations=annotations, user_specified_image=requested, runtime_handler=runtime_handler
    )


def _format_ms(seconds: float) -> str:
    return format_duration(int(seconds * 1000) / 1000)


class _RateLimiter:
    """Token bucket that says no instead of waiting, as the kubelet's does.

    Source: pkg/kubelet/images/helpers.go, throttledImageService.
    """

    def __init__(self, clock: Clock, *, qps: float, burst: int) -> None:
        self._clock = clock
        self._qps = qps
        self._burst = float(max(1, burst))
        self._tokens = self._burst
        self._at: float | None = None

    def try_take(self) -> bool:
        now = self._clock.monotonic()
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._qps)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
