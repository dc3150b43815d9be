"""Who runs this node: one process at a time, known by an instance id.

The id is kept in the root directory, held by a lock, and stands as an annotation on the Node object. A restart with the same directory
has the same id and goes on at once, also after ``kill -9``. Another process under the same node name (another directory, another machine)
has another id: it may take the node over only when the lease does not advance while it watches, for only then nobody is alive.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from vkprovider.aio.clock import Clock
from vkprovider.api import v1
from vkprovider.api.durations import format_duration
from vkprovider.api.labels import INSTANCE_ANNOTATION
from vkprovider.api.timestamps import parse_time
from vkprovider.errors import ConfigurationError, KubeAPIError, NodeNameTakenError, TransientError
from vkprovider.kube.leases import LeaseClient
from vkprovider.kube.nodes import NodeClient

logger = logging.getLogger(__name__)

_LOCK_FILE = "lock"
_INSTANCE_FILE = "instance-id"
_CLUSTER_FILE = "cluster-uid"
_LOOK_PERIOD_S = 1.0
_RENEW_FRACTION = 0.25
_WATCH_MARGIN_S = 3.0
_MAX_CLAIM_TRIES = 10


class InstanceIdentity:
    """The instance id of this process, and the lock on its root directory. Make one with ``acquire_identity``."""

    def __init__(self, root_dir: Path, instance_id: str, lock: int) -> None:
        self._root_dir = root_dir
        self._lock: int | None = lock
        self.instance_id = instance_id

    def release(self) -> None:
        """Give up the lock. Safe to repeat; the end of the process does it as well."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def remember_cluster_uid(self, uid: str) -> str:
        """Keep the cluster's identity of the first start, since another way to find it out could give another one.

        Args:
            uid: What was found out this time.

        Returns:
            The identity to use.
        """
        path = self._root_dir / _CLUSTER_FILE
        try:
            known = path.read_text().strip()
        except OSError:
            known = ""
        if known:
            return known
        _write_atomically(path, uid + "\n")
        return uid


async def acquire_identity(root_dir: Path, *, standby: bool = False) -> InstanceIdentity:
    """Take the root directory for this process and read, or make, its instance id.

    Args:
        root_dir: Directory of the node's files; made with mode 0750.
        standby: Wait while another process holds it.

    Raises:
        NodeNameTakenError: Another process holds the directory.
        ConfigurationError: The directory cannot be made or written.
    """
    try:
        lock = await asyncio.to_thread(_open_lock, root_dir)
    except OSError as error:
        raise ConfigurationError(
            f"root directory {root_dir} cannot be used ({error.strerror}); give another one with --root-dir"
        ) from error
    try:
        waiting = False
        while not _try_lock(lock):
            if not standby:
                raise NodeNameTakenError(
                    f"another process uses the root directory {root_dir}; stop it, give another --root-dir and --node-name, or "
                    "wait for its end with --standby"
                )
            if not waiting:
                logger.warning("Waiting for the process that holds the root directory", extra={"root_dir": root_dir})
                waiting = True
            await asyncio.sleep(_LOOK_PERIOD_S)
        try:
            instance_id = await asyncio.to_thread(_read_or_make_id, root_dir / _INSTANCE_FILE)
        except OSError as error:
            raise ConfigurationError(
                f"instance id cannot be kept in {root_dir} ({error.strerror}); give another one with --root-dir"
            ) from error
    except BaseException:
        os.close(lock)
        raise
    return InstanceIdentity(root_dir, instance_id, lock)


def _open_lock(root_dir: Path) -> int:
    root_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    return os.open(root_dir / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_or_make_id(path: Path) -> str:
    try:
        instance_id = path.read_text().strip()
    except FileNotFoundError:
        instance_id = ""
    if not instance_id:
        instance_id = str(uuid.uuid4())
        _write_atomically(path, instance_id + "\n")
    return instance_id


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


async def claim_node_name(
    nodes: NodeClient,
    leases: LeaseClient,
    *,
    node_name: str,
    instance_id: str,
    lease_duration_s: int,
    clock: Clock,
    standby: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Make sure that no other live process runs a node of this name, and put our id on the Node object if it exists.

    Args:
        nodes: Client for nodes.
        leases: Client for leases.
        node_name: Name of the node.
        instance_id: Our id.
        lease_duration_s: Seconds a lease is valid.
        clock: Time.
        standby: Wait for the end of the other process instead of giving up.
        sleep: How to wait.

    Raises:
        NodeNameTakenError: Another process is alive and ``standby`` is False.
        KubeAPIError: The server refused.
        TransientError: The server did not answer.
    """
    for _ in range(_MAX_CLAIM_TRIES):
        node = await nodes.find(node_name)
        if node is None:
            return
        other = (node["metadata"].get("annotations") or {}).get(INSTANCE_ANNOTATION)
        if other == instance_id:
            return
        if other is not None:
            waited = await _wait_while_alive(
                leases,
                node_name=node_name,
                other=other,
                lease_duration_s=lease_duration_s,
                clock=clock,
                standby=standby,
                sleep=sleep,
            )
            if waited:
                # Whoever else was waiting may have been quicker.
                node = await nodes.find(node_name)
                if node is None:
                    return
                if (node["metadata"].get("annotations") or {}).get(INSTANCE_ANNOTATION) != other:
                    continue
        try:
            await nodes.patch(
                node_name,
                {
                    "metadata": {
                        "resourceVersion": node["metadata"].get("resourceVersion"),
                        "annotations": {INSTANCE_ANNOTATION: instance_id},
                    }
                },
            )
        except KubeAPIError as error:
            if error.is_conflict or error.is_not_found:
                continue
            raise
        return
    raise TransientError(f"node {node_name} changes all the time and could not be claimed")


async def _wait_while_alive(
    leases: LeaseClient,
    *,
    node_name: str,
    other: str,
    lease_duration_s: int,
    clock: Clock,
    standby: bool,
    sleep: Callable[[float], Awaitable[None]],
) -> bool:
    """Return once the other process is certainly not alive; whether any time was spent on finding out."""
    renewed = _renew_time(await leases.find(node_name))
    if renewed is None or clock.now() - parse_time(renewed) > timedelta(seconds=lease_duration_s):
        return False
    logger.info(
        "Another process has run this node; watching whether it is alive", extra={"node": node_name, "instance": other}
    )
    announced = False
    quiet_s = 0.0
    # A live process renews each quarter of the duration; a standby also waits out the whole lease.
    needed_s = lease_duration_s if standby else lease_duration_s * _RENEW_FRACTION + _WATCH_MARGIN_S
    while quiet_s < needed_s:
        await sleep(_LOOK_PERIOD_S)
        quiet_s += _LOOK_PERIOD_S
        try:
            lease = await leases.find(node_name)
        except TransientError:
            quiet_s = 0.0
            continue
        newest = _renew_time(lease)
        if newest is None:
            return True
        if newest != renewed:
            if not standby:
                raise NodeNameTakenError(
                    f"node {node_name} is run by another live process (instance {other}, lease renewed at {newest}, renewed each "
                    f"{format_duration(lease_duration_s * _RENEW_FRACTION)}); stop it, give another --node-name, or wait for its "
                    "end with --standby"
                )
            if not announced:
                logger.warning("Standing by while another process runs this node", extra={"node": node_name})
                announced = True
            renewed, quiet_s = newest, 0.0
    return True


def _renew_time(lease: v1.Lease | None) -> str | None:
    value = (lease or {}).get("spec", {}).get("renewTime")
    return value if isinstance(value, str) else None
