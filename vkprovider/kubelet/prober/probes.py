"""One attempt of a probe, of any kind.

All kinds but ``exec`` are made from the node to the pod's address.

Source: pkg/kubelet/prober/prober.go, runProbe; pkg/probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from vkprovider.api import v1
from vkprovider.api.durations import format_duration
from vkprovider.api.pods import format_pod
from vkprovider.kubelet.prober.grpc import check_health
from vkprovider.kubelet.prober.http import HTTPFailureError, HTTPRequest, get, make_request, resolve_port
from vkprovider.kubelet.prober.transport import ConnectionFailedError, dial, join_host_port
from vkprovider.resolve.expansion import expand_all, static_environment

PROBE_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
"""Kinds of handler, as keys of a probe."""


class ProbeOutcome(StrEnum):
    """How an attempt went. Source: pkg/probe/probe.go, Result."""

    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ProbeAttempt:
    """Outcome of one attempt.

    Attributes:
        outcome: How it went; with an error, the state it resulted in.
        output: What the probe said; shown in events.
        error: Why the attempt itself failed, or None; it is then tried again.
    """

    outcome: ProbeOutcome
    output: str = ""
    error: str | None = None


class ExecProbe(Protocol):
    """Runs a probe's command in a container, as ``ExecCapability.exec_probe`` does."""

    async def __call__(
        self, pod: v1.Pod, container: str, command: Sequence[str], *, timeout_s: float
    ) -> tuple[int, bytes]:
        """Exit code and first 10 KiB of output.

        Raises:
            TimeoutError: The command took longer than ``timeout_s`` seconds and was killed.
            Exception: It could not be run.
        """
        ...


def find_handler(probe: dict[str, Any]) -> str | None:
    """Kind of handler of a probe, or None if it has none."""
    return next((kind for kind in PROBE_HANDLERS if probe.get(kind) is not None), None)


class Prober:
    """Makes attempts of one probe of one container; keeps what does not change between them.

    Args:
        probe: The probe.
        container: The container it belongs to.
        exec_probe: Runs commands; None where the provider cannot.
    """

    def __init__(self, probe: dict[str, Any], container: v1.Container, *, exec_probe: ExecProbe | None) -> None:
        self._probe = probe
        self._container = container
        self._exec_probe = exec_probe
        self._handler = find_handler(probe)
        self._timeout_s = float(probe.get("timeoutSeconds") or 1)
        self._request: tuple[str, HTTPRequest] | None = None

    @property
    def handler(self) -> str | None:
        """Kind of its handler."""
        return self._handler

    @property
    def needs_pod_ip(self) -> bool:
        """Whether it cannot do without the pod's address."""
        if self._handler in (None, "exec"):
            return False
        return not self._probe[str(self._handler)].get("host")

    async def attempt(self, pod: v1.Pod, *, pod_ip: str) -> ProbeAttempt:
        """Make one attempt.

        Args:
            pod: The pod.
            pod_ip: Address of the pod, or of the host for a pod in the host's network.

        Source: pkg/kubelet/prober/prober.go, runProbe.
        """
        match self._handler:
            case "exec":
                return await _run_exec(self._probe["exec"], pod, self._container, self._timeout_s, self._exec_probe)
            case "httpGet":
                try:
                    request = self._make_request(pod_ip)
                except ValueError as error:
                    return _errored(str(error))
                return await _run_http(request, self._timeout_s)
            case "tcpSocket":
                return await _run_tcp(self._probe["tcpSocket"], self._container, pod_ip, self._timeout_s)
            case "grpc":
                return await _run_grpc(self._probe["grpc"], pod_ip, self._timeout_s)
            case _:
                return _errored(f"missing probe handler for {format_pod(pod)}:{self._container['name']}")

    def _make_request(self, pod_ip: str) -> HTTPRequest:
        if self._request is None or self._request[0] != pod_ip:
            request = make_request(self._probe["httpGet"], self._container, pod_ip, purpose="probe")
            self._request = (pod_ip, request)
        return self._request[1]


def _failed(output: str) -> ProbeAttempt:
    return ProbeAttempt(ProbeOutcome.FAILURE, output)


def _errored(error: str) -> ProbeAttempt:
    return ProbeAttempt(ProbeOutcome.UNKNOWN, error=error)


async def _run_exec(
    action: dict[str, Any], pod: v1.Pod, container: v1.Container, timeout_s: float, exec_probe: ExecProbe | None
) -> ProbeAttempt:
    if exec_probe is None:
        return _errored("exec probes are not supported by this node's provider")
    command = expand_all(action.get("command"), static_environment(container))
    try:
        code, output = await exec_probe(pod, container["name"], command, timeout_s=timeout_s)
    except TimeoutError:
        return _failed(f'command timed out: "{" ".join(command)}" timed out after {format_duration(timeout_s)}')
    except Exception as error:
        return _errored(str(error) or type(error).__name__)
    text = output.decode("utf-8", "replace")
    return ProbeAttempt(ProbeOutcome.FAILURE if code else ProbeOutcome.SUCCESS, text)


async def _run_http(request: HTTPRequest, timeout_s: float) -> ProbeAttempt:
    try:
        answer = await get(request, timeout_s=timeout_s)
    except HTTPFailureError as error:
        return _failed(str(error))
    if answer.body_error is not None:
        return ProbeAttempt(ProbeOutcome.FAILURE, error=answer.body_error)
    if not 200 <= answer.status < 400:
        # The body stays out of it: the text is shown to users who may not see it.
        return _failed(f"HTTP probe failed with statuscode: {answer.status}")
    body = answer.body.decode("utf-8", "replace")
    if answer.status >= 300:
        return ProbeAttempt(ProbeOutcome.WARNING, f"Probe terminated redirects, Response body: {body}")
    return ProbeAttempt(ProbeOutcome.SUCCESS, body)


async def _run_tcp(action: dict[str, Any], container: v1.Container, pod_ip: str, timeout_s: float) -> ProbeAttempt:
    try:
        port = resolve_port(action.get("port", 0), container)
    except ValueError as error:
        return _errored(str(error))
    host = action.get("host") or pod_ip
    try:
        async with asyncio.timeout(timeout_s):
            sock, _ = await dial(host, port)
    except TimeoutError:
        return _failed(f"dial tcp {join_host_port(host, port)}: i/o timeout")
    except ConnectionFailedError as error:
        return _failed(str(error))
    sock.close()
    return ProbeAttempt(ProbeOutcome.SUCCESS)


async def _run_grpc(action: dict[str, Any], pod_ip: str, timeout_s: float) -> ProbeAttempt:
    failure = await check_health(pod_ip, action["port"], action.get("service") or "", timeout_s=timeout_s)
    return ProbeAttempt(ProbeOutcome.SUCCESS) if failure is None else _failed(failure)
