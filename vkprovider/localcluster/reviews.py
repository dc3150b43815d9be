"""Reviews: who am I, may I, is this token good.

RBAC is not enforced by the local cluster: whoever has credentials may do everything, save that nodes are kept to their
own Node, lease and pods' status in the answers given here. A SubjectAccessReview for the kubelet's own API is answered
as kubeadm's bindings would: members of ``system:masters`` and the API server may, users bound to ClusterRoles by name
or group may as far as those rules go, everyone else may not.

Source: pkg/registry/authorization, pkg/registry/authentication; plugin/pkg/auth/authorizer/rbac.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from vkprovider.localcluster import content, status
from vkprovider.localcluster.decoding import conform
from vkprovider.localcluster.handlers import Call, ResourceHandlers
from vkprovider.localcluster.store import Store, dumps
from vkprovider.localcluster.tokens import TokenIssuer
from vkprovider.localcluster.users import MASTERS, NODES, User

Object = dict[str, Any]
RBAC: Final = "rbac.authorization.k8s.io"
_PUBLIC_PATHS: Final = ("/healthz", "/livez", "/readyz", "/version", "/version/")


class Authorizer:
    """Answers "may this user do that" from the stored roles and bindings.

    Args:
        store: Where roles and bindings live.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def review(self, user: User, attributes: Object, *, resource: bool) -> tuple[bool, str]:
        """Whether the user may, and why.

        Args:
            user: Whose rights.
            attributes: ``resourceAttributes`` or ``nonResourceAttributes``.
            resource: Which of the two it is.
        """
        if MASTERS in user.groups:
            return True, ""
        if not resource and attributes.get("path") in _PUBLIC_PATHS and attributes.get("verb") == "get":
            return True, ""
        if NODES in user.groups and resource and self._node_may(user, attributes):
            return True, ""
        namespace = attributes.get("namespace", "")
        for why, rules in self._rules(user, namespace if resource else ""):
            if any(_allows(rule, attributes, resource=resource) for rule in rules):
                return True, why
        return False, ""

    def rules(self, user: User, namespace: str) -> tuple[list[Object], list[Object]]:
        """Resource rules and non-resource rules of the user in a namespace."""
        if MASTERS in user.groups:
            return [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}], [
                {"verbs": ["*"], "nonResourceURLs": ["*"]}
            ]
        found = [rule for _, rules in self._rules(user, namespace) for rule in rules]
        return [r for r in found if "resources" in r], [r for r in found if "nonResourceURLs" in r]

    def _rules(self, user: User, namespace: str) -> Iterator[tuple[str, list[Object]]]:
        for item in self._store.collection(f"clusterrolebindings.{RBAC}").iterate():
            yield from self._bound(item.obj, user, "")
        if namespace:
            for item in self._store.collection(f"rolebindings.{RBAC}").iterate(namespace):
                yield from self._bound(item.obj, user, namespace)

    def _bound(self, binding: Object, user: User, namespace: str) -> Iterator[tuple[str, list[Object]]]:
        subject = next((s for s in binding.get("subjects") or () if _is_subject(s, user)), None)
        if subject is None:
            return
        reference = binding.get("roleRef") or {}
        kind, name = reference.get("kind"), reference.get("name", "")
        storage = "roles" if kind == "Role" else "clusterroles"
        role = self._store.collection(f"{storage}.{RBAC}").find(namespace if kind == "Role" else "", name)
        if role is not None:
            which = "RoleBinding" if namespace else "ClusterRoleBinding"
            metadata = binding["metadata"]
            full = f"{metadata['name']}/{namespace}" if namespace else metadata["name"]
            why = f'RBAC: allowed by {which} "{full}" of {kind} "{name}" to {subject["kind"]} "{subject["name"]}"'
            yield why, role.obj.get("rules") or []

    @staticmethod
    def _node_may(user: User, attributes: Object) -> bool:
        """Roughly what the Node authorizer grants."""
        name = user.name.removeprefix("system:node:")
        group, resource, verb = attributes.get("group", ""), attributes.get("resource", ""), attributes.get("verb", "")
        if (group, resource) == ("", "nodes"):
            return verb in ("get", "list", "watch", "create", "update", "patch") and attributes.get("name", name) in (
                "",
                name,
            )
        if (group, resource) == ("coordination.k8s.io", "leases"):
            return attributes.get("namespace") == "kube-node-lease" and attributes.get("name", name) in ("", name)
        reads = {
            ("", key) for key in ("pods", "services", "configmaps", "secrets", "persistentvolumes", "persistentvolumeclaims", "endpoints")
        } | {("node.k8s.io", "runtimeclasses"), ("storage.k8s.io", "csidrivers"), ("storage.k8s.io", "volumeattachments")}  # fmt: skip
        if (group, resource) in reads and verb in ("get", "list", "watch"):
            return True
        if (group, resource) == ("", "pods"):
            return verb in ("create", "delete", "update", "patch")
        return (group, resource) in (
            ("", "events"),
            ("events.k8s.io", "events"),
            ("certificates.k8s.io", "certificatesigningrequests"),
            ("authentication.k8s.io", "tokenreviews"),
            ("authorization.k8s.io", "subjectaccessreviews"),
            ("authorization.k8s.io", "localsubjectaccessreviews"),
        ) or ((group, resource, attributes.get("subresource")) == ("", "serviceaccounts", "token") and verb == "create")


def _is_subject(subject: Object, user: User) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject.get("name") == user.name)
        case "Group":
            return subject.get("name") in user.groups
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.get('namespace', '')}:{subject.get('name', '')}"
    return False


def _has(values: list[str] | None, wanted: str) -> bool:
    return bool(values) and ("*" in (values or ()) or wanted in (values or ()))


def _allows(rule: Object, attributes: Object, *, resource: bool) -> bool:
    if not _has(rule.get("verbs"), attributes.get("verb", "")):
        return False
    if not resource:
        path = attributes.get("path", "")
        urls = rule.get("nonResourceURLs") or ()
        return any(url in ("*", path) or (url.endswith("*") and path.startswith(url[:-1])) for url in urls)
    subresource = attributes.get("subresource", "")
    name = attributes.get("resource", "") + (f"/{subresource}" if subresource else "")
    resources = rule.get("resources") or []
    names = rule.get("resourceNames")
    return (
        _has(rule.get("apiGroups"), attributes.get("group", ""))
        and ("*" in resources or name in resources or bool(subresource and f"*/{subresource}" in resources))
        and (not names or attributes.get("name", "") in names)
    )


class Reviews:
    """Answers the virtual resources of ``authentication.k8s.io`` and ``authorization.k8s.io``.

    Args:
        handlers: Reads bodies.
        authorizer: Decides.
        tokens: Checks tokens.
    """

    def __init__(self, handlers: ResourceHandlers, authorizer: Authorizer, tokens: TokenIssuer) -> None:
        self._handlers = handlers
        self._authorizer = authorizer
        self._tokens = tokens
        self._routes = {
            "tokenreviews": self._token,
            "selfsubjectreviews": self._self,
            "subjectaccessreviews": self._access,
            "localsubjectaccessreviews": self._access,
            "selfsubjectaccessreviews": self._access,
            "selfsubjectrulesreviews": self._rules,
        }

    def serves(self, plural: str) -> bool:
        """Whether this resource is a review."""
        return plural in self._routes

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a review.

        Raises:
            APIStatusError: It is malformed.
        """
        resource = call.target.resource
        body = await self._handlers.read_object(call)
        typed = {"kind": resource.kind, "apiVersion": resource.api_version}
        review = conform(typed | {k: v for k, v in body.items() if k not in typed}, resource.message)
        review.setdefault("metadata", {})
        self._routes[resource.plural](call, review)
        return content.json_response(dumps(review).encode(), 201)

    def _token(self, call: Call, review: Object) -> None:
        del call
        spec = review.get("spec") or {}
        if not spec.get("token"):
            raise status.bad_request("token is required for TokenReview in authentication")
        found = self._tokens.authenticate(spec["token"], spec.get("audiences") or ())
        if found is None:
            review["status"] = {"user": {}, "error": "invalid bearer token"}
            return
        user, audiences = found
        review["status"] = {"authenticated": True, "user": user.to_object(), "audiences": audiences}

    def _self(self, call: Call, review: Object) -> None:
        review["status"] = {"userInfo": call.user.to_object()}

    def _access(self, call: Call, review: Object) -> None:
        spec = review.get("spec") or {}
        resource = call.target.resource
        by_resource, by_path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if (by_resource is None) == (by_path is None):
            error = status.invalid(
                "spec.resourceAttributes",
                by_resource,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )
            raise status.invalid_object(resource.kind, resource.group, "", [error])
        if resource.plural == "selfsubjectaccessreviews":
            user = call.user
        else:
            if not spec.get("user") and not spec.get("groups"):
                error = status.invalid("spec.user", "", "at least one of user or group must be specified")
                raise status.invalid_object(resource.kind, resource.group, "", [error])
            user = User(spec.get("user", ""), tuple(spec.get("groups") or ()))
        allowed, why = self._authorizer.review(user, by_resource or by_path or {}, resource=by_resource is not None)
        review["status"] = {"allowed": allowed, **({"reason": why} if why else {})}

    def _rules(self, call: Call, review: Object) -> None:
        namespace = (review.get("spec") or {}).get("namespace", "")
        if not namespace:
            raise status.bad_request("no namespace on request")
        by_resource, by_path = self._authorizer.rules(call.user, namespace)
        review["status"] = {"resourceRules": by_resource, "nonResourceRules": by_path, "incomplete": False}
