"""What a kind of volume has to do, and what it gets for it.

A plug-in looks things up (``prepare``, on the event loop) and hands back the file work to be done (``PreparedVolume.work``), which
the manager runs in a thread together with that of the pod's other volumes. Both may come again at any time.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.api.reasons import EVENT_FAILED_MOUNT
from vkprovider.errors import PodSyncError
from vkprovider.provider.pod_provider import NodeContext
from vkprovider.resolve.files import FileSources
from vkprovider.resolve.tokens import TokenSource

_SAFE_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?\Z")


def mount_error(message: str) -> PodSyncError:
    """The error of a volume that cannot be set up now; the message is shown in the event ``FailedMount``."""
    return PodSyncError(message, reason=EVENT_FAILED_MOUNT)


@dataclass(frozen=True, slots=True)
class VolumeHost:
    """What the machine offers to volumes.

    Attributes:
        root_dir: Directory of the node's files.
        memory_dir: Directory of the node on a tmpfs, for what must never reach a disk; None if there is none.
        memory_problem: Why there is none, and what to do.
        can_mount: Whether mounts that this process makes are seen by the runtime.
        sees_host: Whether any path of the host is the same path here.
        simulated: Whether containers are only pretended, so that no files are made.
    """

    root_dir: Path
    memory_dir: Path | None = None
    memory_problem: str = ""
    can_mount: bool = False
    sees_host: bool = False
    simulated: bool = False

    def pod_dir(self, uid: v1.PodUID) -> Path:
        """Directory of a pod.

        Raises:
            PodSyncError: The UID is no name for a directory.
        """
        return self.root_dir / "pods" / _checked(uid)

    def memory_pod_dir(self, uid: v1.PodUID) -> Path:
        """Directory of a pod on the tmpfs.

        Raises:
            PodSyncError: There is no tmpfs, or the UID is no name for a directory.
        """
        if self.memory_dir is None:
            raise mount_error(self.memory_problem or "this node has no tmpfs for volumes that must not reach a disk")
        return self.memory_dir / "pods" / _checked(uid)


@dataclass(frozen=True, slots=True)
class VolumeRequest:
    """One volume of one pod that is to be set up.

    Attributes:
        volume: Entry of ``spec.volumes``.
        pod: The pod.
        node: The node.
        host: What the machine offers.
        tokens: Tokens of service accounts.
    """

    volume: Mapping[str, Any]
    pod: v1.Pod
    node: NodeContext
    host: VolumeHost
    tokens: TokenSource

    @property
    def name(self) -> str:
        """Name of the volume."""
        name: str = self.volume["name"]
        return name

    @property
    def fs_group(self) -> int | None:
        """``fsGroup`` of the pod."""
        group: int | None = (self.pod.get("spec", {}).get("securityContext") or {}).get("fsGroup")
        return group

    @property
    def keeps_matching_ownership(self) -> bool:
        """Whether ``fsGroupChangePolicy`` is ``OnRootMismatch``."""
        context = self.pod.get("spec", {}).get("securityContext") or {}
        return context.get("fsGroupChangePolicy") == "OnRootMismatch"

    @property
    def sources(self) -> FileSources:
        """Where contents come from."""
        return FileSources(self.node.objects, self.tokens, self.node.get_allocatable())

    def directory(self, plugin: str, *, in_memory: bool = False) -> Path:
        """Where the volume's files belong: ``<base>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>``.

        Args:
            plugin: Word for the kind, as the kubelet writes it, e.g. ``empty-dir``.
            in_memory: On the tmpfs instead of the disk.

        Raises:
            PodSyncError: There is no tmpfs, or a name is none for a directory.
        """
        uid = get_uid(self.pod)
        base = self.host.memory_pod_dir(uid) if in_memory and not self.host.simulated else self.host.pod_dir(uid)
        return base / "volumes" / f"kubernetes.io~{plugin}" / _checked(self.name)


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A volume as far as it could be looked up.

    Attributes:
        path: Its root on the host.
        work: File work to be done before it is mounted; blocking, run in a thread. Raises OSError or PodSyncError.
        version: What the files are made of; the work is not done again while it stays the same. Empty with work that is done once.
        read_only: Whether containers may only read it.
        refreshes: Whether it is to be prepared again now and then.
        supplemental_groups: Groups that processes need to reach the files.
    """

    path: Path
    work: Callable[[], None] | None = None
    version: str = ""
    read_only: bool = False
    refreshes: bool = False
    supplemental_groups: tuple[int, ...] = ()


class VolumePlugin(ABC):
    """One kind of volume."""

    kind: ClassVar[str]
    """Key in ``spec.volumes[]``."""

    @abstractmethod
    async def prepare(self, request: VolumeRequest) -> PreparedVolume:
        """Look up all that the volume needs. Touches no files.

        Raises:
            PodSyncError: Something is missing; the message goes into the event, and it is tried again.
            TransientError: Something did not answer; likewise.
        """

    def find_existing(self, request: VolumeRequest) -> PreparedVolume | None:
        """The volume as an earlier process left it, complete, for when it cannot be prepared now. Blocking, run in a thread."""
        return None


def _checked(name: str) -> str:
    if len(name) > 255 or not _SAFE_NAME.match(name):
        raise mount_error(f"{name!r} cannot be the name of a directory")
    return name
