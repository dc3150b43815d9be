"""An API server in memory at the seam of ``KubeClient``: for unit tests in virtual time.

It knows just what controllers do: create, get, list by node, patch (merge and strategic), put, delete, with UIDs, resource versions,
preconditions and the isolation of the status subresource. Faults can be asked for.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vkprovider.errors import KubeAPIError, TransientError
from vkprovider.kube.client import JSON, STRATEGIC_MERGE_PATCH
from vkprovider.localcluster.patches import apply_merge, apply_strategic
from vkprovider.localcluster.schema import find_message

_KINDS = {"pods": "Pod", "nodes": "Node", "leases": "Lease", "events": "Event"}


@dataclass
class Request:
    """One request that came in."""

    method: str
    path: str
    body: Any
    at: float


@dataclass
class _Fault:
    method: str
    part: str
    error: Exception
    times: int


@dataclass
class FakeKube:
    """Objects by path; use ``request`` where a ``KubeClient`` is expected.

    Attributes:
        objects: Path of each object to the object.
        requests: What was asked, in order.
        down: No request is answered while it is set.
        delay_s: Seconds each answer takes.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    down: bool = False
    delay_s: float = 0.0
    most_at_once: int = 0
    _faults: list[_Fault] = field(default_factory=list)
    _versions: Any = field(default_factory=lambda: itertools.count(1000))
    _at_once: int = 0

    def fail(self, method: str, part: str, error: Exception, *, times: int = 1) -> None:
        """Let the next requests of this method whose path contains ``part`` fail."""
        self._faults.append(_Fault(method, part, error, times))

    def put(self, path: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        """Place an object as it is, with a new resource version and, if it has none, a UID."""
        stored = copy.deepcopy(dict(obj))
        metadata = stored.setdefault("metadata", {})
        metadata.setdefault("uid", f"uid-{path}-{len(self.objects)}")
        metadata["resourceVersion"] = str(next(self._versions))
        self.objects[path] = stored
        return stored

    def put_pod(self, pod: Mapping[str, Any]) -> dict[str, Any]:
        """Place a pod."""
        metadata = pod["metadata"]
        return self.put(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", pod)

    def made(self, method: str, part: str = "") -> list[Request]:
        """Requests of a method whose path contains ``part``."""
        return [request for request in self.requests if request.method == method and part in request.path]

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        timeout_s: float | None = None,
        decode: bool = True,
    ) -> dict[str, Any]:
        """As ``KubeClient.request``."""
        self.requests.append(Request(method, path, copy.deepcopy(body), asyncio.get_running_loop().time()))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.down:
                raise TransientError("the API server is down")
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.part in path:
                    fault.times -= 1
                    raise fault.error
            return copy.deepcopy(self._answer(method, path, params or {}, body, content_type))
        finally:
            self._at_once -= 1

    def _answer(
        self, method: str, path: str, params: Mapping[str, str], body: Mapping[str, Any] | None, content_type: str
    ) -> dict[str, Any]:
        if method == "POST":
            assert body is not None
            target = f"{path}/{body['metadata']['name']}"
            if target in self.objects:
                raise KubeAPIError(f"{target} already exists", status=409, kube_reason="AlreadyExists")
            return self.put(target, body)
        if method == "GET" and path == "/api/v1/pods":
            node = params["fieldSelector"].removeprefix("spec.nodeName=")
            items = [
                obj for key, obj in self.objects.items() if "/pods/" in key and obj["spec"].get("nodeName") == node
            ]
            return {"items": items, "metadata": {"resourceVersion": str(next(self._versions))}}
        subresource = path.endswith("/status")
        target = path.removesuffix("/status")
        if target not in self.objects:
            raise KubeAPIError(f"{target} not found", status=404, kube_reason="NotFound")
        current = self.objects[target]
        if method == "GET":
            return current
        assert body is not None
        self._check(current, body)
        if method == "DELETE":
            self._check(current, {"metadata": body.get("preconditions") or {}})
            return self.objects.pop(target)
        if method == "PUT":
            return self.put(target, {**body, "metadata": {**body["metadata"], "uid": current["metadata"]["uid"]}})
        if content_type == STRATEGIC_MERGE_PATCH:
            kind = _KINDS[target.split("/")[-2]]
            patched = apply_strategic(current, dict(body), find_message(f"core.{kind}"))
        else:
            patched = apply_merge(current, dict(body))
        if subresource:
            patched = {**current, "status": patched.get("status", {}), "metadata": patched["metadata"]}
        return self.put(target, patched)

    def _check(self, current: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        metadata = body.get("metadata") or {}
        for key in ("uid", "resourceVersion"):
            wanted = metadata.get(key)
            if wanted is not None and wanted != current["metadata"].get(key):
                raise KubeAPIError(f"precondition {key} failed", status=409, kube_reason="Conflict")
