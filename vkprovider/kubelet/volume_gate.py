"""Volumes: what the engine needs of whoever provides them, and what it does while nobody does.

``VolumeGate`` is for runtimes that cannot mount our files: it keeps pods waiting that need a volume, in the kubelet's words, and leaves out
the one volume that every pod gets without asking: the service account token that admission adds. Elsewhere
``vkprovider.kubelet.volumes`` provides them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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

    async def start(self) -> None:
        """Find out what there is; called once before anything else.

        Raises:
            ConfigurationError: The node's directory cannot be read.
        """
        ...

    async def aclose(self) -> None:
        """The node stops; volumes stay."""
        ...

    async def prepare_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Make all volumes that containers of the pod mount, with fresh contents, before something is started.

        Raises:
            VolumesNotReadyError: Some is not there yet; ``retry_after_s`` says when to ask again.
            InvalidPodError: Some can never be.
        """
        ...

    async def refresh_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """Bring contents up to date when it is time; called with each sync of a pod that needs nothing else.

        Raises:
            VolumesNotReadyError: Some is not there.
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
        """Take away the volumes of a stopped pod. Safe to repeat; unknown is success.

        Raises:
            TransientError: Something is in use or cannot be removed.
        """
        ...

    def list_leftovers(self) -> Collection[v1.PodUID]:
        """UIDs of pods that had files here when the node started and were not cleaned up since."""
        ...


@dataclass(slots=True)
class _Wait:
    """When a volume is looked at again."""

    pause_s: float
    until: float


class MountBackoff:
    """Pauses between attempts to set up the volumes of one pod, each on its own: 500 ms, doubled up to about two minutes.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: dict[str, _Wait] = {}

    def is_waiting(self, volume: str) -> bool:
        """Whether it is too early for another attempt."""
        wait = self._waits.get(volume)
        # A sync may come a little early: the pause is over when less than a millisecond is left.
        return wait is not None and wait.until - self._clock.monotonic() > 0.001

    def fail(self, volume: str) -> None:
        """Note that an attempt has failed; the next pause is twice as long."""
        wait = self._waits.get(volume)
        pause_s = min(wait.pause_s * 2, MAX_RETRY_S) if wait is not None else FIRST_RETRY_S
        self._waits[volume] = _Wait(pause_s, self._clock.monotonic() + pause_s)

    def succeed(self, volume: str) -> None:
        """Forget earlier failures."""
        self._waits.pop(volume, None)

    def remaining_s(self, volumes: Sequence[str]) -> float:
        """Seconds until the first of these volumes may be tried again; 0 if one may be now."""
        now = self._clock.monotonic()
        return max(0.0, min((self._waits[v].until if v in self._waits else now) for v in volumes) - now)


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


def unsupported_kind_message(kind: str) -> str:
    """What is said of volumes that this node cannot provide."""
    return f"volume kind {kind} is not supported by this node yet"


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
        self._backoffs: dict[v1.PodUID, MountBackoff] = {}

    async def start(self) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""

    def list_leftovers(self) -> Collection[v1.PodUID]:
        """None."""
        return ()

    async def refresh_pod(self, pod: v1.Pod, context: PodContext) -> None:
        """As ``prepare_pod``."""
        await self.prepare_pod(pod, context)

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
        backoff = self._backoffs.setdefault(uid, MountBackoff(self._clock))
        for volume in missing:
            name = volume["name"]
            if backoff.is_waiting(name):
                continue
            context.record_event(
                WARNING,
                EVENT_FAILED_MOUNT,
                f'MountVolume.SetUp failed for volume "{name}" : {unsupported_kind_message(volume_kind(volume))}',
            )
            backoff.fail(name)
        names = [volume["name"] for volume in missing]
        return VolumesNotReadyError(
            f"waiting for volumes: {', '.join(names)}", retry_after_s=backoff.remaining_s(names)
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
        self._backoffs.pop(uid, None)
