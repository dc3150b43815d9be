"""What tests of whole nodes say again and again: pods, what became of them, and what the engine holds of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import docker

from support.images import BUSYBOX_IMAGE
from support.kubectl import Kubectl, KubectlError
from support.waiting import wait_for


def make_pod(name: str, node: str | None = None, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod with one container ``c`` that runs a command; ``sleep 3600`` by default, bound to a node if one is given."""
    container = {
        "name": "c",
        "image": BUSYBOX_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command) or ["sleep", "3600"],
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 2,
            **({"nodeName": node} if node else {}),
            **spec,
        },
    }


def wait_phase(kubectl: Kubectl, name: str, phase: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """Wait until a pod is in a phase, and return it."""

    def look() -> dict[str, Any] | None:
        pod: dict[str, Any] = kubectl.get("pod", name)
        return pod if pod["status"].get("phase") == phase else None

    try:
        return wait_for(look, f"pod {name} to be {phase}", timeout_s=timeout_s) or {}
    except AssertionError as error:
        raise AssertionError(f"{error}\n{kubectl.run('describe', 'pod', name)}") from None


def wait_ready(kubectl: Kubectl, name: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """Wait until a pod is Ready, and return it."""

    def look() -> dict[str, Any] | None:
        pod: dict[str, Any] = kubectl.get("pod", name)
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions") or ()}
        return pod if conditions.get("Ready") == "True" else None

    try:
        return wait_for(look, f"pod {name} to be Ready", timeout_s=timeout_s) or {}
    except AssertionError as error:
        raise AssertionError(f"{error}\n{kubectl.run('describe', 'pod', name)}") from None


def wait_gone(kubectl: Kubectl, *what: str, timeout_s: float = 60.0) -> None:
    """Wait until ``kubectl get`` of something finds nothing."""

    def look() -> bool:
        try:
            found = kubectl.get(*what)
        except KubectlError as error:
            return "not found" in error.stderr.lower()
        return found.get("kind") == "List" and not found["items"]

    wait_for(look, f"{' '.join(what)} to be gone", timeout_s=timeout_s)


def event_reasons(kubectl: Kubectl, name: str) -> Counter[str]:
    """How often each reason stands among the events of a pod."""
    events = kubectl.get("events", f"--field-selector=involvedObject.name={name}")["items"]
    return Counter(event["reason"] for event in events)


class Engine:
    """What a Docker Engine holds of one node."""

    def __init__(self, node_name: str) -> None:
        self._client = docker.from_env(version="auto").api
        self._filter = {"label": f"vkprovider.io/node={node_name}"}

    def containers(self) -> list[dict[str, Any]]:
        """All containers of the node, sandboxes too, running or not."""
        found: list[dict[str, Any]] = self._client.containers(all=True, filters=self._filter)
        return found

    def names(self) -> list[str]:
        """Their names, sorted."""
        return sorted(name.lstrip("/") for container in self.containers() for name in container["Names"])

    def ids(self, pod: str) -> set[str]:
        """Ids of all containers of a pod."""
        return {c["Id"] for c in self.containers() if c["Labels"].get("io.kubernetes.pod.name") == pod}

    def kill(self, container_id: str) -> None:
        """SIGKILL a container behind the node's back."""
        self._client.kill(container_id)

    def wait_empty(self, *, timeout_s: float = 30.0) -> None:
        """Wait until the node has no container left."""
        wait_for(lambda: not self.containers(), "the engine to hold nothing of the node", timeout_s=timeout_s)

    def close(self) -> None:
        """Let go of the engine."""
        self._client.close()


AgentMaker = Callable[..., Any]
