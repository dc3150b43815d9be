"""The node's heartbeat: a lease renewed every ten seconds, whatever the provider does.

The lease says that the agent is alive; whether the node can run pods is the Ready condition's business. The controller has its own
short time limits, so that one hanging connection does not cost the node its life.

Source: component-helpers apimachinery/lease/controller.go; pkg/kubelet/kubelet.go, setupNodeLease.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from vkprovider.aio.clock import Clock
from vkprovider.api import v1
from vkprovider.api.timestamps import format_micro_time
from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.leases import NAMESPACE, LeaseClient

logger = logging.getLogger(__name__)

_RENEW_FRACTION = 0.25
_JITTER = 0.04
_MAX_UPDATE_TRIES = 5
_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 7.0


class LeaseController:
    """Creates the lease and renews it until cancelled.

    Args:
        leases: Client for leases, with a short time limit.
        node_name: Name of the node and of the lease.
        duration_s: Seconds the lease is valid.
        get_node_uid: UID of the Node object, which owns the lease; None while it does not exist.
        clock: Time.
    """

    def __init__(
        self,
        leases: LeaseClient,
        *,
        node_name: str,
        duration_s: int,
        get_node_uid: Callable[[], str | None],
        clock: Clock,
    ) -> None:
        self._leases = leases
        self._node_name = node_name
        self._duration_s = duration_s
        self._get_node_uid = get_node_uid
        self._clock = clock
        self._lease: v1.Lease | None = None
        self._wakeup = asyncio.Event()
        self.renewed = asyncio.Event()
        """Set once the lease has been written for the first time."""

    @property
    def renew_interval_s(self) -> float:
        """Seconds between renewals."""
        return self._duration_s * _RENEW_FRACTION

    def wake(self) -> None:
        """Renew now: the Node object has just been made, perhaps anew."""
        self._wakeup.set()

    async def run(self) -> None:
        """Keep the lease until cancelled."""
        while True:
            await self.renew()
            pause_s = self.renew_interval_s * random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311
            try:
                async with asyncio.timeout(pause_s if self.renewed.is_set() else min(pause_s, 1.0)):
                    await self._wakeup.wait()
            except TimeoutError:
                pass
            self._wakeup.clear()

    async def renew(self) -> bool:
        """Write the lease once, with the upstream number of tries; whether it was written."""
        if self._lease is not None and self._owner_matches(self._lease):
            for attempt in range(_MAX_UPDATE_TRIES):
                try:
                    self._take_over(await self._leases.replace(self._make(self._lease)))
                    return True
                except KubeAPIError as error:
                    if error.is_not_found or error.is_conflict:
                        # Somebody else wrote or deleted it: begin with what there is.
                        break
                    self._log(error, first=attempt == 0)
                except TransientError as error:
                    self._log(error, first=attempt == 0)
        return await self._ensure()

    async def _ensure(self) -> bool:
        backoff_s = _FIRST_BACKOFF_S
        for attempt in range(_MAX_UPDATE_TRIES):
            uid = self._get_node_uid()
            try:
                existing = await self._leases.find(self._node_name)
                if existing is not None:
                    self._take_over(await self._leases.replace(self._make(existing)))
                    return True
                if uid is None:
                    # A lease without owner would outlive the node.
                    return False
                self._take_over(await self._leases.create(self._make(None)))
                return True
            except KubeAPIError as error:
                if not (error.is_conflict or error.is_already_exists or error.is_not_found):
                    self._log(error, first=attempt == 0)
            except TransientError as error:
                self._log(error, first=attempt == 0)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
        return False

    def _take_over(self, lease: v1.Lease) -> None:
        self._lease = lease
        self.renewed.set()

    def _owner_matches(self, lease: v1.Lease) -> bool:
        uid = self._get_node_uid()
        owners = lease["metadata"].get("ownerReferences") or []
        return uid is None or any(owner.get("uid") == uid for owner in owners)

    def _make(self, base: v1.Lease | None) -> v1.Lease:
        if base is None:
            lease: v1.Lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._node_name, "namespace": NAMESPACE},
                "spec": {"holderIdentity": self._node_name, "leaseDurationSeconds": self._duration_s},
            }
        else:
            lease = {
                **base,
                "metadata": {**base["metadata"]},
                "spec": {
                    **base.get("spec", {}),
                    "holderIdentity": self._node_name,
                    "leaseDurationSeconds": self._duration_s,
                },
            }
        lease["spec"]["renewTime"] = format_micro_time(self._clock.now())
        if (uid := self._get_node_uid()) is not None and not self._owner_matches(lease):
            lease["metadata"]["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "Node", "name": self._node_name, "uid": uid}
            ]
        return lease

    def _log(self, error: Exception, *, first: bool) -> None:
        level = logging.WARNING if first else logging.DEBUG
        logger.log(level, "Lease could not be renewed", extra={"node": self._node_name, "error": str(error)})
