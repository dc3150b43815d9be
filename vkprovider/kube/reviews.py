"""Questions to the API server about who somebody is and what they may do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vkprovider.kube.client import KubeClient


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Who a request comes from.

    Source: staging/src/k8s.io/api/authentication/v1/types.go, UserInfo.
    """

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResourceAttributes:
    """One thing that somebody wants to do with a resource."""

    verb: str
    resource: str
    group: str = ""
    version: str = "v1"
    subresource: str = ""
    namespace: str = ""
    name: str = ""


def _attributes(attributes: ResourceAttributes) -> dict[str, str]:
    values = {
        "verb": attributes.verb,
        "group": attributes.group,
        "version": attributes.version,
        "resource": attributes.resource,
        "subresource": attributes.subresource,
        "namespace": attributes.namespace,
        "name": attributes.name,
    }
    return {key: value for key, value in values.items() if value}


class ReviewClient:
    """Token reviews and access reviews.

    Every method raises ``KubeAPIError`` for what the server refuses and ``TransientError`` when it does not answer.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def review_token(self, token: str, *, audiences: Sequence[str] = ()) -> UserInfo | None:
        """Who a bearer token belongs to; None when it is not valid."""
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._client.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        return UserInfo(
            name=user.get("username", ""),
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups") or ()),
            extra=user.get("extra") or {},
        )

    async def review_access(self, user: UserInfo, attributes: ResourceAttributes) -> tuple[bool, str]:
        """Whether a user may do something, and the authorizer's reason."""
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": dict(user.extra),
            "resourceAttributes": _attributes(attributes),
        }
        return await self._review("subjectaccessreviews", "SubjectAccessReview", spec)

    async def review_own_access(self, attributes: ResourceAttributes) -> tuple[bool, str]:
        """Whether this process may do something, and the authorizer's reason."""
        spec = {"resourceAttributes": _attributes(attributes)}
        return await self._review("selfsubjectaccessreviews", "SelfSubjectAccessReview", spec)

    async def _review(self, resource: str, kind: str, spec: Mapping[str, Any]) -> tuple[bool, str]:
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        answer = await self._client.request("POST", f"/apis/authorization.k8s.io/v1/{resource}", body=body)
        status = answer.get("status") or {}
        return bool(status.get("allowed")) and not status.get("denied"), status.get("reason") or ""


REQUIRED_ACCESS: tuple[ResourceAttributes, ...] = (
    ResourceAttributes("create", "nodes"),
    ResourceAttributes("get", "nodes"),
    ResourceAttributes("list", "nodes"),
    ResourceAttributes("watch", "nodes"),
    ResourceAttributes("patch", "nodes"),
    ResourceAttributes("patch", "nodes", subresource="status"),
    ResourceAttributes("get", "leases", group="coordination.k8s.io", namespace="kube-node-lease"),
    ResourceAttributes("create", "leases", group="coordination.k8s.io", namespace="kube-node-lease"),
    ResourceAttributes("update", "leases", group="coordination.k8s.io", namespace="kube-node-lease"),
    ResourceAttributes("list", "pods"),
    ResourceAttributes("watch", "pods"),
    ResourceAttributes("get", "pods"),
    ResourceAttributes("delete", "pods"),
    ResourceAttributes("patch", "pods", subresource="status"),
    ResourceAttributes("create", "events"),
    ResourceAttributes("patch", "events"),
    ResourceAttributes("get", "configmaps"),
    ResourceAttributes("get", "secrets"),
    ResourceAttributes("list", "services"),
    ResourceAttributes("create", "serviceaccounts", subresource="token"),
    ResourceAttributes("create", "tokenreviews", group="authentication.k8s.io"),
    ResourceAttributes("create", "subjectaccessreviews", group="authorization.k8s.io"),
)
"""What a node needs to be allowed; a node identity is judged per object, so it may be refused some of these and still do."""
