"""Volumes: what the engine needs of whoever provides them, and what it does while nobody does.

``VolumeGate`` keeps pods waiting that need a volume, in the kubelet's words, and leaves out the one volume that every pod gets without
asking: the service account token that admission adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from vkprovider.aio.clock import Clock
from vkprovider.api import v1
from vkprovider.api.pods import get_uid, iter_containers
from vkprovider.api.reasons import EVENT_FAILED_MOUNT, EVENT_UNSUPPORTED_FIELD, WARNING
from vkprovider.errors import NotFoundError, TransientError
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import PodContext
from vkprovider.resolve.env import EnvFile

FIRST_RETRY_S: Final = 0.5
MAX_RETRY_S: Final = 122.0
"""Source: pkg/util/goroutinemap/exponentialbackoff, initialDurationBeforeRetry, maxDurationBeforeRetry."""
TOKEN_VOLUME_PREFIX: Final = "kube-api-access-"  # noqa: S105 - a name, not a secret
"""Source: plugin/pkg/admission/serviceaccount, ServiceAccountVolumeName."""


class VolumesNotReadyError(TransientError):
    """A volume of the pod is not there yet; nothing of the pod is started before. Told in events already."""

    default_reason = "FailedMount"


@dataclass(frozen=True, slots=True)
class ContainerMounts:
    """What volumes bring to one container.

    Attributes:
        mounts: Mounts, outer ones before those inside them.
        devices: Block devices.
        supplemental_groups: Groups that its processes need to reach the files.
    """

    mounts: tuple[cri.Mount, ...] = ()
    devices: tuple[cri.Device, ...] = ()
    supplemental_groups: tuple[int, ...] = ()


class VolumeManager(Protocol):
    """Provides the volumes of pods."""

    async def prepare_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Make all volumes that containers of the pod mount; called with each sync, so it also refreshes contents.

        Raises:
            VolumesNotReadyError: Some is not there yet; ``retry_after_s`` says when to ask again.
            InvalidPodError: Some can never be.
        """
        ...

    async def make_mounts(
        self, pod: v1.Pod, container: v1.Container, environment: Mapping[str, str]
    ) -> ContainerMounts:
        """Mounts of one container, made at each of its starts.

        Args:
            pod: The pod, whose volumes are prepared.
            container: One of its containers.
            environment: Its variables, for ``subPathExpr``.

        Raises:
            PodSyncError: A mount cannot be made (reason ``CreateContainerConfigError``).
        """
        ...

    async def read_env_file(self, pod: v1.Pod, volume: str, path: str) -> EnvFile:
        """Read a file of a volume that holds variables.

        Raises:
            NotFoundError: No such volume here.
            OSError: The file cannot be read.
        """
        ...

    async def cleanup_pod(self, uid: v1.PodUID) -> None:
        """Take away the volumes of a stopped pod. Safe to repeat; unknown is success."""
        ...


@dataclass(slots=True)
class _Wait:
    """When a volume is looked at again."""

    pause_s: float
    until: float


def iter_mounted_volumes(pod: v1.Pod) -> Iterator[Mapping[str, Any]]:
    """Volumes that some container mounts; the others are ignored."""
    mounted = {
        mount["name"]
        for _, container in iter_containers(pod)
        for field in ("volumeMounts", "volumeDevices")
        for mount in container.get(field) or ()  # type: ignore[attr-defined]
    }
    for volume in pod.get("spec", {}).get("volumes") or ():
        if volume["name"] in mounted:
            yield volume


def volume_kind(volume: Mapping[str, Any]) -> str:
    """Key of the volume's source, e.g. ``configMap``."""
    return next((key for key in volume if key != "name"), "emptyDir")


def is_token_volume(volume: Mapping[str, Any]) -> bool:
    """Whether it is the volume that the ServiceAccount admission adds to every pod."""
    return volume["name"].startswith(TOKEN_VOLUME_PREFIX) and "projected" in volume


class VolumeGate:
    """Provides no volumes: lets pods without volumes pass and keeps the others waiting.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: set[v1.PodUID] = set()
        self._waits: dict[v1.PodUID, dict[str, _Wait]] = {}

    async def prepare_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Pass if the pod mounts nothing but its token; tell of what is left out once, of what is missing with each try.

        Raises:
            VolumesNotReadyError: It mounts something else.
        """
        if not pod.get("spec", {}).get("volumes"):
            return
        uid = get_uid(pod)
        missing: list[Mapping[str, Any]] = []
        for volume in iter_mounted_volumes(pod):
            if not is_token_volume(volume):
                missing.append(volume)
            elif uid not in self._told:
                self._told.add(uid)
                context.record_event(
                    WARNING,
                    EVENT_UNSUPPORTED_FIELD,
                    f'Volume "{volume["name"]}" with the service account token is left out: this node does not support '
                    "projected volumes yet",
                )
        if missing:
            raise self._wait(uid, missing, context)

    def _wait(self, uid: v1.PodUID, missing: Sequence[Mapping[str, Any]], context: PodContext) -> VolumesNotReadyError:
        now = self._clock.monotonic()
        waits = self._waits.setdefault(uid, {})
        for volume in missing:
            name = volume["name"]
            wait = waits.get(name)
            # A sync may come a little early: the pause is over when less than a millisecond is left.
            if wait is not None and wait.until - now > 0.001:
                continue
            context.record_event(
                WARNING,
                EVENT_FAILED_MOUNT,
                f'MountVolume.SetUp failed for volume "{name}" : volume kind {volume_kind(volume)} is not supported by '
                "this node yet",
            )
            pause_s = min(wait.pause_s * 2, MAX_RETRY_S) if wait is not None else FIRST_RETRY_S
            waits[name] = _Wait(pause_s, now + pause_s)
        names = ", ".join(volume["name"] for volume in missing)
        return VolumesNotReadyError(
            f"waiting for volumes: {names}", retry_after_s=min(waits[v["name"]].until for v in missing) - now
        )

    async def make_mounts(
        self, pod: v1.Pod, container: v1.Container, environment: Mapping[str, str]
    ) -> ContainerMounts:
        """None: a pod that got so far mounts only its token, which is left out."""
        return ContainerMounts()

    async def read_env_file(self, pod: v1.Pod, volume: str, path: str) -> EnvFile:
        """There is none.

        Raises:
            NotFoundError: Always.
        """
        raise NotFoundError(f'volume "{volume}" not found')

    async def cleanup_pod(self, uid: v1.PodUID) -> None:
        """Forget the pod."""
        self._told.discard(uid)
        self._waits.pop(uid, None)
