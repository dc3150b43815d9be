"""The life of one probe of one container: when it runs, and what its results amount to.

An idle worker costs one timer: whether there is anything to probe is decided in the timer's callback, and a task is made only for
the attempt itself.

Source: pkg/kubelet/prober/worker.go, pkg/kubelet/prober/prober.go.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol

from vkprovider.aio.clock import Clock
from vkprovider.aio.tasks import TaskPool
from vkprovider.api import v1
from vkprovider.api.pods import TERMINAL_PHASES, get_key, get_uid, is_deleted, is_sidecar
from vkprovider.api.reasons import EVENT_PROBE_WARNING, EVENT_UNHEALTHY, WARNING
from vkprovider.api.timestamps import parse_time
from vkprovider.kubelet.pod_facts import RESTART_ALL_ACTION
from vkprovider.kubelet.probe_results import ProbeKind
from vkprovider.kubelet.prober.probes import ExecProbe, ProbeAttempt, ProbeOutcome, Prober
from vkprovider.kubelet.prober.results import Result, ResultStore
from vkprovider.kubelet.restart_policy import should_restart_after_exit
from vkprovider.provider import cri
from vkprovider.provider.pod_provider import PodEventRecorder

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 3
"""Attempts per tick when the attempt itself fails. Source: pkg/kubelet/prober/prober.go, maxProbeRetries."""
_BEAT_S: Final = 0.1
"""Probes run at multiples of this, so that many share one wake-up; triggered and first ones do not wait for it."""
RESTART_GRACE: Final = timedelta(seconds=10)
"""A container that started this long before us was there before us. Source: kubeletRestartGracePeriod."""

_INITIAL: Final = {
    ProbeKind.LIVENESS: Result.SUCCESS,
    ProbeKind.READINESS: Result.FAILURE,
    ProbeKind.STARTUP: Result.UNKNOWN,
}


def find_probe(container: v1.Container, kind: ProbeKind) -> dict[str, Any] | None:
    """The container's probe of this kind, or None."""
    match kind:
        case ProbeKind.LIVENESS:
            return container.get("livenessProbe")
        case ProbeKind.READINESS:
            return container.get("readinessProbe")
        case ProbeKind.STARTUP:
            return container.get("startupProbe")


class ProbeObserver(Protocol):
    """Told of every probe that came to a result; never raises, never blocks."""

    def __call__(self, pod: v1.Pod, container: str, kind: ProbeKind, *, success: bool, duration_s: float) -> None:
        """Take note of one probe."""
        ...


@dataclass(slots=True)
class ProbedPod:
    """What the workers of one pod share: its newest object and status.

    Attributes:
        pod: The pod as last given.
        record_event: Records events on it.
        status: Its newest status, which names container ids; empty until one was told.
    """

    pod: v1.Pod
    record_event: PodEventRecorder
    status: v1.PodStatus = field(default_factory=lambda: v1.PodStatus())


@dataclass(frozen=True, slots=True)
class WorkerTools:
    """What all workers share.

    Attributes:
        results: Where results are kept.
        tasks: Owner of the attempts.
        clock: Wall time.
        started_at: When the agent began to probe.
        exec_probe: Runs commands; None where the provider cannot.
        native_handlers: Kinds of handler that the provider probes itself.
        on_result: Called with the pod's UID when a result changed that bears on its status or containers.
        on_end: Called by a worker that has nothing to do any more.
        observe: Told of every probe.
    """

    results: ResultStore
    tasks: TaskPool
    clock: Clock
    started_at: datetime
    exec_probe: ExecProbe | None
    native_handlers: frozenset[str]
    on_result: Callable[[v1.PodUID], None]
    on_end: Callable[[ProbeWorker], None]
    observe: ProbeObserver | None = None


class _Decision(Enum):
    PROBE = "probe"
    SKIP = "skip"
    END = "end"


class ProbeWorker:
    """Probes one container in one way until it is stopped or its container has ended for good.

    Args:
        tools: What all workers share.
        state: What the workers of the pod share.
        container: The container.
        kind: What the probe is for; the container has such a probe.
    """

    def __init__(self, tools: WorkerTools, state: ProbedPod, container: v1.Container, kind: ProbeKind) -> None:
        probe = find_probe(container, kind)
        assert probe is not None
        self.kind = kind
        self.container = container
        self.state = state
        self._tools = tools
        self._probe = probe
        self._prober = Prober(probe, container, exec_probe=tools.exec_probe)
        self._is_native = self._prober.handler in tools.native_handlers
        self._needs_pod_ip = self._prober.needs_pod_ip
        self.period_s = float(probe.get("periodSeconds") or 10)
        self._timer: asyncio.Handle | None = None
        self._next_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._tick_waits = False
        self._status_wanted = False
        self._stopped = False
        self._container_id = cri.ContainerID("")
        self._last_result = Result.SUCCESS
        self._run_length = 0
        self._on_hold = False

    @property
    def uid(self) -> v1.PodUID:
        """UID of the pod."""
        return get_uid(self.state.pod)

    @property
    def container_id(self) -> cri.ContainerID:
        """The instance probed now; empty if there is none."""
        return self._container_id

    def start(self, *, delay_s: float) -> None:
        """Begin: the first run comes after the delay, then one every period."""
        loop = asyncio.get_running_loop()
        self._next_at = _align(loop.time() + delay_s) if delay_s else loop.time()
        self._timer = loop.call_at(self._next_at, self._on_tick) if delay_s else loop.call_soon(self._on_tick)

    def stop(self) -> None:
        """End at once; an attempt in progress is given up. Safe to repeat."""
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._container_id:
            self._tools.results.remove(self.kind, self._container_id)

    def trigger(self) -> None:
        """Run at once, out of turn; periods count from now."""
        if self._stopped:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        self._status_wanted = True
        self._next_at = loop.time()
        self._timer = loop.call_soon(self._on_tick)

    def on_status(self) -> None:
        """A newer status has come: a triggered run that found nothing to do looks again."""
        if self._status_wanted and not self._stopped and self._task is None:
            self._run()

    def report(self, *, success: bool) -> None:
        """Take over the result of a probe that the provider runs itself."""
        if not self._stopped and self._container_id:
            self._settle(Result.SUCCESS if success else Result.FAILURE)

    def _on_tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_at = _align(self._next_at + self.period_s)
        if self._next_at <= loop.time():
            # The loop was held up: like a ticker, leave out what was missed but keep the beat.
            self._next_at += self.period_s * ((loop.time() - self._next_at) // self.period_s + 1)
        self._timer = loop.call_at(self._next_at, self._on_tick)
        if self._task is not None:
            self._tick_waits = True
        else:
            self._run()

    def _run(self) -> None:
        decision = self._decide()
        if decision is _Decision.PROBE:
            self._status_wanted = False
            self._task = self._tools.tasks.spawn(self._attempt(), name=self.kind.value)
        elif decision is _Decision.END:
            self.stop()
            self._tools.on_end(self)

    def _decide(self) -> _Decision:
        """Whether there is something to probe now; keeps track of the container on the way.

        Source: pkg/kubelet/prober/worker.go, doProbe.
        """
        pod, status = self.state.pod, self.state.status
        if status.get("phase") in TERMINAL_PHASES:
            return _Decision.END
        found = _find_status(status, self.container["name"])
        if found is None:
            return _Decision.SKIP
        self._follow(found)
        if self._on_hold:
            return _Decision.SKIP
        running = (found.get("state") or {}).get("running")
        if running is None:
            self._tools.results.set(self.kind, self._container_id, Result.FAILURE)
            terminated = (found.get("state") or {}).get("terminated")
            if terminated is None or self._comes_back(terminated.get("exitCode", 0)):
                return _Decision.SKIP
            return _Decision.END
        if is_deleted(pod) and self.kind is not ProbeKind.READINESS:
            return _Decision.END
        delay_s = self._probe.get("initialDelaySeconds") or 0
        if delay_s and int((self._tools.clock.now() - _started_at(running)).total_seconds()) < delay_s:
            return _Decision.SKIP
        if bool(found.get("started")) is (self.kind is ProbeKind.STARTUP) or self._is_native:
            return _Decision.SKIP
        if self._needs_pod_ip and not status.get("podIP"):
            # An empty host would lead to the node itself.
            return _Decision.SKIP
        return _Decision.PROBE

    def _follow(self, found: v1.ContainerStatus) -> None:
        """Begin anew if the container is another instance than before."""
        container_id = cri.ContainerID(found["containerID"].rpartition("://")[2])
        if container_id == self._container_id:
            return
        results = self._tools.results
        if self._container_id:
            results.remove(self.kind, self._container_id)
        self._container_id = container_id
        self._on_hold = False
        if self.kind is ProbeKind.STARTUP and is_sidecar(self.container) and found.get("started"):
            results.set(self.kind, container_id, Result.SUCCESS)
        running = (found.get("state") or {}).get("running")
        if running is None or _started_at(running) >= self._tools.started_at - RESTART_GRACE:
            results.set(self.kind, container_id, _INITIAL[self.kind])
        # Else it ran before we did: it stays what it was until a probe decides.

    def _comes_back(self, exit_code: int) -> bool:
        if should_restart_after_exit(self.state.pod, self.container, exit_code):
            return True
        spec = self.state.pod.get("spec", {})
        return any(
            rule.get("action") == RESTART_ALL_ACTION
            for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
            for rule in container.get("restartPolicyRules") or ()
        )

    async def _attempt(self) -> None:
        try:
            result = await self._probe_once()
            if result is not None and not self._stopped:
                self._count(result)
        finally:
            self._task = None
        if self._tick_waits and not self._stopped:
            self._tick_waits = False
            self._run()

    async def _probe_once(self) -> Result | None:
        """Success or failure, told in an event where it is news; None if no attempt came to a result.

        Source: pkg/kubelet/prober/prober.go, probe.
        """
        state, tools = self.state, self._tools
        began = asyncio.get_running_loop().time()
        attempt = ProbeAttempt(ProbeOutcome.UNKNOWN)
        for _ in range(MAX_ATTEMPTS):
            attempt = await self._prober.attempt(state.pod, pod_ip=state.status.get("podIP", ""))
            if attempt.error is None:
                break
        if self._stopped:
            return None
        title = self.kind.value.capitalize()
        if attempt.error is not None:
            self._record(
                EVENT_UNHEALTHY, f"{title} probe errored and resulted in {attempt.outcome} state: {attempt.error}"
            )
            return None
        failed = attempt.outcome is ProbeOutcome.FAILURE
        if failed:
            self._record(EVENT_UNHEALTHY, f"{title} probe failed: {attempt.output}")
        elif attempt.outcome is ProbeOutcome.WARNING:
            self._record(EVENT_PROBE_WARNING, f"{title} probe warning: {attempt.output}")
        if tools.observe is not None:
            duration_s = asyncio.get_running_loop().time() - began
            tools.observe(state.pod, self.container["name"], self.kind, success=not failed, duration_s=duration_s)
        return Result.FAILURE if failed else Result.SUCCESS

    def _record(self, reason: str, message: str) -> None:
        self.state.record_event(WARNING, reason, message, container=self.container["name"])

    def _count(self, result: Result) -> None:
        if result is self._last_result:
            self._run_length += 1
        else:
            self._last_result, self._run_length = result, 1
        field_name, default = ("failureThreshold", 3) if result is Result.FAILURE else ("successThreshold", 1)
        if self._run_length >= (self._probe.get(field_name) or default):
            self._settle(result)

    def _settle(self, result: Result) -> None:
        changed = self._tools.results.set(self.kind, self._container_id, result)
        if self.kind is ProbeKind.STARTUP or (self.kind is ProbeKind.LIVENESS and result is Result.FAILURE):
            # Nothing more to learn of this instance; and a command run in a container that is being stopped may leave it
            # in a bad state (kubernetes issue 21751).
            self._on_hold = True
            self._run_length = 0
        if changed and (self.kind is not ProbeKind.LIVENESS or result is Result.FAILURE):
            logger.info(
                "Probe result changed",
                extra={
                    "pod": get_key(self.state.pod),
                    "uid": self.uid,
                    "container": self.container["name"],
                    "probe": self.kind.value,
                    "success": result is Result.SUCCESS,
                },
            )
            self._tools.on_result(self.uid)


def _align(deadline: float) -> float:
    """The next beat at or after a loop time.

    Waking up costs more than most probes do; workers that share beats share wake-ups.
    """
    return math.ceil(deadline / _BEAT_S - 1e-6) * _BEAT_S


def _find_status(status: v1.PodStatus, name: str) -> v1.ContainerStatus | None:
    """Status of a container that exists in the runtime, among app and init containers."""
    for group in (status.get("containerStatuses"), status.get("initContainerStatuses")):
        for entry in group or ():
            if entry.get("name") == name and entry.get("containerID"):
                return entry
    return None


def _started_at(running: v1.ContainerStateRunning) -> datetime:
    text = running.get("startedAt")
    return parse_time(text) if text else datetime.max.replace(tzinfo=UTC)
