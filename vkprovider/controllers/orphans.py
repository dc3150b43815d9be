"""Removes pods that the backend still has and the API server no longer knows.

Such pods are left by force deletions while this process was down. One is removed only when two full lists of the API server, some seconds
apart, do not have it, and the backend says that it is ours; a list that failed proves nothing.

Source: pkg/kubelet/kubelet_pods.go, HandlePodCleanups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from vkprovider.api import v1
from vkprovider.api.pods import get_uid
from vkprovider.controllers.pod_workers import PodWorkers
from vkprovider.errors import VkproviderError
from vkprovider.kube.pods import PodList
from vkprovider.provider.pod_provider import PodProvider, ProviderPod

logger = logging.getLogger(__name__)


class OrphanCollector:
    """Looks for orphans until cancelled.

    Args:
        provider: What runs the pods; it lists only those of this node and cluster.
        workers: Who knows the pods and stops the orphans.
        list_api_pods: Reads a full list of this node's pods from the API server.
        period_s: Seconds between looks while nothing is suspect.
        delay_s: Seconds between seeing a suspect and looking again.
    """

    def __init__(
        self,
        provider: PodProvider,
        workers: PodWorkers,
        list_api_pods: Callable[[], Awaitable[PodList]],
        *,
        period_s: float = 60.0,
        delay_s: float = 5.0,
    ) -> None:
        self._provider = provider
        self._workers = workers
        self._list_api_pods = list_api_pods
        self._period_s = period_s
        self._delay_s = delay_s
        self._suspects: frozenset[v1.PodUID] = frozenset()

    async def run(self) -> None:
        """Look again and again; start it once the pods have been listed for the first time."""
        while True:
            await self.look()
            await asyncio.sleep(self._delay_s if self._suspects else self._period_s)

    async def look(self) -> None:
        """Compare once; what was suspect before and still is gets stopped and removed."""
        try:
            unknown = await self._list_unknown()
            if not unknown:
                self._suspects = frozenset()
                return
            known = {get_uid(pod) for pod in (await self._list_api_pods()).items}
        except VkproviderError as error:
            logger.warning("Orphans cannot be looked for", extra={"error": str(error)})
            return
        except Exception:
            # A provider that cannot list must not end the node.
            logger.exception("Orphans cannot be looked for")
            return
        orphans = {uid: pod for uid, pod in unknown.items() if uid not in known}
        for uid in self._suspects & orphans.keys():
            self._workers.terminate_orphan(orphans.pop(uid))
        self._suspects = frozenset(orphans)

    async def _list_unknown(self) -> dict[v1.PodUID, ProviderPod]:
        pods = await self._provider.list_pods()
        return {get_uid(p.pod): p for p in pods if not self._workers.is_known(get_uid(p.pod))}
