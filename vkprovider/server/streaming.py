"""exec, attach, port-forward and run: finding the pod and the ability, then joining the client's streams to it.

Source: kubelet pkg/kubelet/server/server.go, getExec, getAttach, getPortForward and getRun; cri-streaming
pkg/streaming/remotecommand/exec.go and attach.go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from vkprovider.aio.tasks import cancel_and_wait
from vkprovider.api import v1
from vkprovider.api.pods import find_container, get_uid
from vkprovider.errors import NotFoundError, UnsupportedError, VkproviderError
from vkprovider.provider.capabilities import AttachCapability, ExecCapability, PortForwardCapability
from vkprovider.provider.pod_provider import PodProvider
from vkprovider.provider.streams import CappedBuffer, DuplexStream, ProcessStreams
from vkprovider.server.idle import wait_while_active
from vkprovider.server.pods import PodLookup
from vkprovider.server.portforward import (
    SPDY_PROTOCOLS,
    TUNNEL_PROTOCOL,
    WEBSOCKET_PROTOCOLS,
    SpdyPortForward,
    Target,
    forward_websocket,
    parse_ports,
)
from vkprovider.server.remotecommand import (
    CommandSession,
    CommandStatus,
    StreamOptions,
    negotiate_spdy,
    open_session,
    switch_to_spdy,
)
from vkprovider.server.spdy.connection import SpdyConnection
from vkprovider.server.upgrade import UpgradedResponse, is_upgrade_request, is_websocket_request
from vkprovider.server.websocket import WebSocketTunnel, choose_protocol, open_websocket

logger = logging.getLogger(__name__)
C = TypeVar("C")

MAX_RUN_OUTPUT_BYTES = 16 * 1024 * 1024
"""Output of ``/run`` beyond this is thrown away. Source: CRI, ExecSync."""


class StreamHandlers:
    """Answers ``/exec``, ``/attach``, ``/portForward`` and ``/run``.

    Args:
        pods: The node's pods.
        provider: Has the abilities, or not.
        idle_timeout_s: Seconds after which a stream on which nothing moves is closed; 0 for never.
    """

    def __init__(self, pods: PodLookup, provider: PodProvider, *, idle_timeout_s: float) -> None:
        self._pods = pods
        self._provider = provider
        self._idle_timeout_s = idle_timeout_s

    async def handle_exec(self, request: web.Request) -> web.StreamResponse:
        """Run a command with the client's streams; it is killed if the client leaves."""
        options = StreamOptions.parse(request.query)
        pod = self._get_pod(request)
        container = request.match_info["container"]
        if not _is_running(pod, container) or not _has_uid(pod, request):
            raise VkproviderError(f'container not found ("{container}")')
        runner = self._require(ExecCapability, "exec")  # type: ignore[type-abstract]
        command = request.query.getall("command", [])

        async def run(streams: ProcessStreams) -> CommandStatus:
            if not command:
                raise VkproviderError("no command was given")
            return CommandStatus.exited(await runner.exec_in_container(pod, container, command, streams))

        return await self._serve(request, options, run, "error executing command in container")

    async def handle_attach(self, request: web.Request) -> web.StreamResponse:
        """Connect the client's streams to the first process of a container."""
        options = StreamOptions.parse(request.query)
        pod = self._get_pod(request)
        container = request.match_info["container"]
        found = find_container(pod, container)
        if found is None or not _is_running(pod, container) or not _has_uid(pod, request):
            full_name = f"{pod['metadata'].get('name', '')}_{pod['metadata'].get('namespace', '')}"
            raise VkproviderError(f"container {container} not found in pod {full_name}")
        attacher = self._require(AttachCapability, "attach")  # type: ignore[type-abstract]
        _, spec = found

        async def run(streams: ProcessStreams) -> CommandStatus:
            # What the container was made with decides, not what the client says.
            streams.tty = bool(spec.get("tty"))
            if streams.tty:
                streams.stderr = None
            if not spec.get("stdin"):
                streams.stdin = None
            await attacher.attach_to_container(pod, container, streams)
            return CommandStatus.success()

        return await self._serve(request, options, run, "error attaching to container")

    async def handle_port_forward(self, request: web.Request) -> web.StreamResponse:
        """Connect to ports of a pod until the client leaves."""
        websocket = is_websocket_request(request)
        protocol = choose_protocol(request, (TUNNEL_PROTOCOL, *WEBSOCKET_PROTOCOLS)) if websocket else ""
        ports: list[int] = []
        if websocket and protocol != TUNNEL_PROTOCOL:
            ports = parse_ports(request.query.getall("port", []))
        pod = self._get_pod(request)
        if not _has_uid(pod, request):
            raise NotFoundError("pod not found")
        forwarder = self._require(PortForwardCapability, "port-forward")  # type: ignore[type-abstract]

        async def connect(port: int) -> DuplexStream:
            return await forwarder.port_forward(pod, port)

        target = Target(connect, pod["metadata"].get("name", ""), get_uid(pod))
        if not websocket:
            if not is_upgrade_request(request):
                raise web.HTTPInternalServerError(text="Upgrade request required")
            raw = switch_to_spdy(request, negotiate_spdy(request, SPDY_PROTOCOLS))
            server = SpdyPortForward(raw, target)
            raw.start(server.connection.receive, server.connection.lose)
            try:
                await self._wait_until_over(server.connection)
            finally:
                await server.aclose()
            return UpgradedResponse()
        socket = await open_websocket(request, protocol)
        if protocol == TUNNEL_PROTOCOL:
            await self._serve_tunnel(request, socket, target)
        else:
            await forward_websocket(request, socket, protocol, ports, target, idle_timeout_s=self._idle_timeout_s)
        return socket

    async def handle_run(self, request: web.Request) -> web.Response:
        """Run a command without input and answer with all its output."""
        pod = self._get_pod(request)
        container = request.match_info["container"]
        if not _is_running(pod, container) or not _has_uid(pod, request):
            raise VkproviderError(f'container not found ("{container}")')
        runner = self._require(ExecCapability, "exec")  # type: ignore[type-abstract]
        command = request.query.get("cmd", "").split(" ")
        output = CappedBuffer(MAX_RUN_OUTPUT_BYTES)
        code = await runner.exec_in_container(pod, container, command, ProcessStreams(stdout=output, stderr=output))
        if code != 0:
            text = output.getvalue().decode(errors="replace")
            raise VkproviderError(f"command '{' '.join(command)}' exited with {code}: {text}")
        return web.Response(body=output.getvalue(), content_type="application/json")

    async def _serve(
        self,
        request: web.Request,
        options: StreamOptions,
        run: Callable[[ProcessStreams], Awaitable[CommandStatus]],
        failure: str,
    ) -> web.StreamResponse:
        session = await open_session(request, options)
        if session is None:
            return UpgradedResponse()
        try:
            status = await self._run(session, run, failure)
            if status is not None:
                await session.finish(status)
        finally:
            await session.aclose()
        return session.response

    async def _run(
        self,
        session: CommandSession,
        run: Callable[[ProcessStreams], Awaitable[CommandStatus]],
        failure: str,
    ) -> CommandStatus | None:
        """Run to the end, or until the client leaves or nothing moves for too long (None)."""

        async def attempt() -> CommandStatus:
            try:
                return await run(session.streams)
            except (VkproviderError, OSError) as error:
                logger.info("A command failed", extra={"error": str(error)})
                return CommandStatus.failed(f"{failure}: {error}")
            except Exception as error:
                logger.exception("A command failed")
                return CommandStatus.failed(f"{failure}: {error}")

        command = asyncio.create_task(attempt(), name="remote-command")
        gone = asyncio.create_task(session.ended.wait(), name="remote-command:client")
        try:
            await wait_while_active(
                {command, gone}, lambda: session.last_activity_at, idle_timeout_s=self._idle_timeout_s
            )
            return command.result() if command.done() else None
        finally:
            await cancel_and_wait([task for task in (command, gone) if not task.done()])

    async def _wait_until_over(self, connection: SpdyConnection) -> None:
        gone = asyncio.create_task(connection.ended.wait(), name="port-forward:client")
        try:
            await wait_while_active({gone}, lambda: connection.last_activity_at, idle_timeout_s=self._idle_timeout_s)
        finally:
            await cancel_and_wait([gone])

    async def _serve_tunnel(self, request: web.Request, socket: web.WebSocketResponse, target: Target) -> None:
        tunnel = WebSocketTunnel(request, socket)
        server = SpdyPortForward(tunnel, target)
        carrier = asyncio.create_task(
            tunnel.run(server.connection.receive, server.connection.lose), name="port-forward:tunnel"
        )
        try:
            await self._wait_until_over(server.connection)
            await server.aclose()
            await carrier
        finally:
            await cancel_and_wait([carrier])
            await server.aclose()

    def _require(self, kind: type[C], what: str) -> C:
        capability = self._provider.find_capability(kind)
        if capability is None:
            raise UnsupportedError(f"{what} is not supported by provider {self._provider.name!r}")
        return capability

    def _get_pod(self, request: web.Request) -> v1.Pod:
        pod = self._pods.find_pod(request.match_info["namespace"], request.match_info["pod"])
        if pod is None:
            raise NotFoundError("pod does not exist")
        return pod


def _has_uid(pod: v1.Pod, request: web.Request) -> bool:
    uid = request.match_info.get("uid")
    return not uid or uid == get_uid(pod)


def _is_running(pod: v1.Pod, container: str) -> bool:
    """Whether a container is in the spec and not known to be stopped; without a status the provider will know."""
    if find_container(pod, container) is None:
        return False
    status = pod.get("status", {})
    for statuses in (
        status.get("containerStatuses"),
        status.get("initContainerStatuses"),
        status.get("ephemeralContainerStatuses"),
    ):
        for entry in statuses or ():
            if entry.get("name") == container:
                return bool("running" in entry.get("state", {}))
    return True
