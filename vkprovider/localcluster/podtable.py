"""The row of a pod, as ``kubectl get pods`` shows it.

Source: pkg/printers/internalversion/printers.go, printPod.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

Object = dict[str, Any]
POD_COLUMNS: Final = (
    "Name",
    "Ready",
    "Status",
    "Restarts",
    "Age",
    "+IP",
    "+Node",
    "+Nominated Node",
    "+Readiness Gates",
)
_NONE: Final = "<none>"


class _Summary:
    """What a pod's containers add up to."""

    def __init__(self, pod: Object) -> None:
        self.spec: Object = pod.get("spec") or {}
        self.status: Object = pod.get("status") or {}
        self.conditions = {c["type"]: c for c in self.status.get("conditions") or ()}
        init = self.spec.get("initContainers") or ()
        self.sidecars = {c["name"] for c in init if c.get("restartPolicy") == "Always"}
        self.total = len(self.spec.get("containers") or ()) + len(self.sidecars)
        self.ready = 0
        self.restarts = 0
        self.restarted_at = ""
        self.reason = self.status.get("reason") or self.status.get("phase", "")
        if self.conditions.get("PodScheduled", {}).get("reason") == "SchedulingGated":
            self.reason = "SchedulingGated"
        initializing = self._init_containers()
        if not initializing or self._is_true("Initialized"):
            self._containers()

    def _is_true(self, condition: str) -> bool:
        return bool(self.conditions.get(condition, {}).get("status") == "True")

    def _count(self, state: Object) -> None:
        self.restarts += state.get("restartCount", 0)
        finished = ((state.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        self.restarted_at = max(self.restarted_at, finished)

    def _init_containers(self) -> bool:
        """Count init containers; whether one of them still has to end."""
        total = len(self.spec.get("initContainers") or ())
        for index, state in enumerate(self.status.get("initContainerStatuses") or ()):
            self._count(state)
            now = state.get("state") or {}
            ended, waiting = now.get("terminated"), now.get("waiting") or {}
            if ended is not None and ended.get("exitCode") == 0:
                continue
            if state.get("name") in self.sidecars and state.get("started"):
                self.ready += bool(state.get("ready"))
                continue
            if ended is not None:
                self.reason = "Init:" + (ended.get("reason") or _exit_text(ended))
            elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
                self.reason = "Init:" + waiting["reason"]
            else:
                self.reason = f"Init:{index}/{total}"
            return True
        return False

    def _containers(self) -> None:
        self.restarts, self.restarted_at = 0, ""
        for state in self.status.get("initContainerStatuses") or ():
            if state.get("name") in self.sidecars:
                self._count(state)
        running = False
        for state in reversed(self.status.get("containerStatuses") or ()):
            self._count(state)
            now = state.get("state") or {}
            ended, waiting = now.get("terminated"), now.get("waiting") or {}
            if waiting.get("reason"):
                self.reason = waiting["reason"]
            elif ended is not None:
                self.reason = ended.get("reason") or _exit_text(ended)
            elif state.get("ready") and now.get("running") is not None:
                running = True
                self.ready += 1
        if self.reason == "Completed" and running:
            self.reason = "Running" if self._is_true("Ready") else "NotReady"


def _exit_text(ended: Object) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def pod_row(pod: Object, since: Callable[[str | None], str]) -> list[Any]:
    """Cells of a pod; ``since`` makes an age of a time stamp."""
    summary = _Summary(pod)
    spec, status = summary.spec, summary.status
    reason = summary.reason
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif status.get("phase") not in ("Succeeded", "Failed"):
            reason = "Terminating"
    restarts: Any = str(summary.restarts)
    if summary.restarts and summary.restarted_at:
        restarts = f"{summary.restarts} ({since(summary.restarted_at)} ago)"
    gates = spec.get("readinessGates") or ()
    passed = sum(summary.conditions.get(gate["conditionType"], {}).get("status") == "True" for gate in gates)
    addresses = status.get("podIPs") or ()
    return [
        pod["metadata"]["name"],
        f"{summary.ready}/{summary.total}",
        reason,
        restarts,
        since(pod["metadata"].get("creationTimestamp")),
        status.get("podIP") or (addresses[0].get("ip") if addresses else None) or _NONE,
        spec.get("nodeName") or _NONE,
        status.get("nominatedNodeName") or _NONE,
        f"{passed}/{len(gates)}" if gates else _NONE,
    ]
