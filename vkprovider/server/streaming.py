"""exec, attach, port-forward and run: finding the pod and the ability, before any stream is opened.

Source: kubelet pkg/kubelet/server/server.go, getExec, getAttach, getPortForward and getRun.
"""

from __future__ import annotations

from aiohttp import web

from vkprovider.api import v1
from vkprovider.api.pods import find_container, get_uid
from vkprovider.errors import NotFoundError, UnsupportedError, VkproviderError
from vkprovider.provider.capabilities import ExecCapability
from vkprovider.provider.pod_provider import PodProvider
from vkprovider.provider.streams import CappedBuffer, ProcessStreams
from vkprovider.server.pods import PodLookup

MAX_RUN_OUTPUT_BYTES = 16 * 1024 * 1024
"""Output of ``/run`` beyond this is thrown away. Source: CRI, ExecSync."""


class StreamHandlers:
    """Answers ``/exec``, ``/attach``, ``/portForward`` and ``/run``.

    Args:
        pods: The node's pods.
        provider: Has the abilities, or not.
    """

    def __init__(self, pods: PodLookup, provider: PodProvider) -> None:
        self._pods = pods
        self._provider = provider

    async def handle_exec(self, request: web.Request) -> web.StreamResponse:
        """Run a command with streams."""
        raise UnsupportedError("exec is not supported yet by this node")

    async def handle_attach(self, request: web.Request) -> web.StreamResponse:
        """Connect to the first process of a container."""
        raise UnsupportedError("attach is not supported yet by this node")

    async def handle_port_forward(self, request: web.Request) -> web.StreamResponse:
        """Connect to ports of a pod."""
        raise UnsupportedError("port-forward is not supported yet by this node")

    async def handle_run(self, request: web.Request) -> web.Response:
        """Run a command without input and answer with all its output."""
        pod = self._get_pod(request)
        container = self._get_container(request, pod)
        runner = self._provider.find_capability(ExecCapability)  # type: ignore[type-abstract]
        if runner is None:
            raise UnsupportedError(f"provider {self._provider.name!r} does not run commands in containers")
        command = request.query.get("cmd", "").split(" ")
        output = CappedBuffer(MAX_RUN_OUTPUT_BYTES)
        code = await runner.exec_in_container(pod, container, command, ProcessStreams(stdout=output, stderr=output))
        if code != 0:
            text = output.getvalue().decode(errors="replace")
            raise VkproviderError(f"command '{' '.join(command)}' exited with {code}: {text}")
        return web.Response(body=output.getvalue(), content_type="application/json")

    def _get_pod(self, request: web.Request) -> v1.Pod:
        pod = self._pods.find_pod(request.match_info["namespace"], request.match_info["pod"])
        if pod is None:
            raise NotFoundError("pod does not exist")
        return pod

    def _get_container(self, request: web.Request, pod: v1.Pod) -> str:
        container, uid = request.match_info["container"], request.match_info.get("uid")
        if (uid and uid != get_uid(pod)) or find_container(pod, container) is None:
            raise VkproviderError(f'container not found ("{container}")')
        return container
