"""postStart and preStop handlers of containers.

They are run once, to their end; who runs them bounds their time, and records ``FailedPostStartHook`` or ``FailedPreStopHook``. A hook
that is cancelled is given up: what it has begun in the container may go on.

Source: pkg/kubelet/lifecycle/handlers.go.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vkprovider.api import v1
from vkprovider.api.pods import format_pod, get_uid
from vkprovider.api.reasons import WARNING
from vkprovider.errors import PodSyncError, VkproviderError
from vkprovider.kubelet.prober.http import HTTPFailureError, get, make_request
from vkprovider.kubelet.prober.transport import SERVER_GAVE_HTTP, join_host_port
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import PodEventRecorder
from vkprovider.resolve.downward import quote

logger = logging.getLogger(__name__)

EVENT_HTTP_FALLBACK = "LifecycleHTTPFallback"


class ExecSync(Protocol):
    """Runs a command in a running container, as ``ContainerRuntime.exec_sync`` does."""

    async def __call__(
        self, container_id: cri.ContainerID, command: Sequence[str], *, timeout_s: float | None = None
    ) -> cri.ExecResult:
        """Exit code and output.

        Raises:
            VkproviderError: It could not be run.
        """
        ...


class LifecycleHooks:
    """Runs hooks of containers.

    Args:
        exec_sync: Runs commands in containers, e.g. the runtime's own ``exec_sync``.
    """

    def __init__(self, exec_sync: ExecSync) -> None:
        self._exec_sync = exec_sync

    async def run_hook(
        self,
        pod: v1.Pod,
        container: v1.Container,
        container_id: cri.ContainerID,
        handler: Mapping[str, object],
        *,
        pod_ips: Sequence[str],
        record_event: PodEventRecorder,
    ) -> None:
        """Run one hook to its end, however long it takes.

        Args:
            pod: The pod.
            container: The container.
            container_id: Its running instance.
            handler: The ``postStart`` or ``preStop`` handler.
            pod_ips: Addresses of the pod, primary first.
            record_event: Records the fallback from HTTPS to HTTP, if it comes to that.

        Raises:
            PodSyncError: It failed; the message is the kubelet's.

        Source: handlers.go, Run.
        """
        parts: Mapping[str, Any] = handler
        where = f'for Container "{container["name"]}" in Pod "{format_pod(pod)}" failed'
        if (action := parts.get("exec")) is not None:
            await self._run_exec(action.get("command") or (), container_id, where)
        elif (action := parts.get("httpGet")) is not None:
            try:
                await _run_http(action, pod, container, pod_ips, record_event)
            except (HTTPFailureError, ValueError) as error:
                raise PodSyncError(
                    f"HTTP lifecycle hook ({action.get('path') or ''}) {where} - error: {error}"
                ) from error
        elif (action := parts.get("sleep")) is not None:
            await asyncio.sleep(action.get("seconds") or 0)
        else:
            raise PodSyncError(f"Cannot run handler: invalid handler: {json.dumps(handler, sort_keys=True)}")
        logger.debug("Lifecycle hook ended", extra={"uid": get_uid(pod), "container": container["name"]})

    async def _run_exec(self, command: Sequence[str], container_id: cri.ContainerID, where: str) -> None:
        """Run the command as written; nothing in it is expanded."""
        title = f"Exec lifecycle hook ([{' '.join(command)}]) {where} - error: "
        try:
            result = await self._exec_sync(container_id, command)
        except (VkproviderError, TimeoutError) as error:
            raise PodSyncError(f'{title}{error}, message: ""') from error
        if result.exit_code:
            stderr = result.stderr.decode("utf-8", "replace")
            output = result.stdout.decode("utf-8", "replace") + stderr
            words = " ".join(command)
            raise PodSyncError(
                f"{title}command '{words}' exited with {result.exit_code}: {stderr}, message: {quote(output)}"
            )


async def _run_http(
    action: Mapping[str, Any],
    pod: v1.Pod,
    container: v1.Container,
    pod_ips: Sequence[str],
    record_event: PodEventRecorder,
) -> None:
    """Send the request; any answer will do. A plain HTTP answer to HTTPS is asked for again in plain.

    Raises:
        HTTPFailureError: No answer.
        ValueError: The request cannot be made.

    Source: handlers.go, runHTTPHandler.
    """
    if not action.get("host") and not pod_ips:
        raise ValueError(f"failed to find networking container: pod {format_pod(pod)} has no IP address")
    request = make_request(action, container, pod_ips[0] if pod_ips else "", purpose="lifecycle")
    try:
        await get(request, timeout_s=None, read_body=False)
    except HTTPFailureError as error:
        if error.cause != SERVER_GAVE_HTTP:
            raise
        headers = tuple(pair for pair in request.headers if pair[0] != "Authorization")
        try:
            await get(dataclasses.replace(request, scheme="http", headers=headers), timeout_s=None, read_body=False)
        except HTTPFailureError:
            raise error from None
        host = join_host_port(request.host, request.port)
        record_event(
            WARNING,
            EVENT_HTTP_FALLBACK,
            f"request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded",
        )
