"""Subresources that are more than a part of the object: scale, binding, eviction, tokens, finalize.

Source: pkg/registry/apps/deployment/storage (scale), pkg/registry/core/pod/storage (binding, eviction),
pkg/registry/core/serviceaccount/storage/token.go, pkg/registry/core/namespace/storage.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from vkprovider.api.timestamps import format_time
from vkprovider.localcluster import content, status
from vkprovider.localcluster.decoding import conform
from vkprovider.localcluster.deletion import parse_delete_options
from vkprovider.localcluster.handlers import Call, ResourceHandlers
from vkprovider.localcluster.objects import ObjectService, WriteOptions
from vkprovider.localcluster.patches import apply_json_patch, apply_merge
from vkprovider.localcluster.printers import format_labels, format_selector
from vkprovider.localcluster.selectors import selector_from_object
from vkprovider.localcluster.store import Stored, dumps
from vkprovider.localcluster.tokens import TokenIssuer

Object = dict[str, Any]
MIN_TOKEN_S: Final = 600
MAX_TOKEN_S: Final = 1 << 32
DEFAULT_TOKEN_S: Final = 3600


def _success(code: int = 201) -> web.Response:
    answer = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}
    return content.json_response(dumps(answer).encode(), code)


class Subresources:
    """Answers requests on these subresources.

    Args:
        objects: The objects.
        handlers: For what needs the plain verbs.
        tokens: Issues service account tokens.
    """

    def __init__(self, objects: ObjectService, handlers: ResourceHandlers, tokens: TokenIssuer) -> None:
        self._objects = objects
        self._handlers = handlers
        self._tokens = tokens
        self._routes = {
            ("pods", "binding"): self._bind,
            ("pods", "eviction"): self._evict,
            ("serviceaccounts", "token"): self._token,
            ("namespaces", "finalize"): self._finalize,
            ("bindings", ""): self._bind,
        }

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a request on a subresource; a plain part of the object goes to the resource handlers.

        Raises:
            APIStatusError: The request fails.
        """
        target = call.target
        if target.subresource == "scale":
            return await self._scale(call)
        route = self._routes.get((target.resource.plural, target.subresource))
        return await (route or self._handlers.handle)(call)

    async def _scale(self, call: Call) -> web.StreamResponse:
        target = call.target
        stored = self._objects.get(target.resource, target.namespace, target.name)
        if target.verb == "get":
            return content.json_response(dumps(make_scale(stored.obj)).encode())
        if target.verb == "patch":
            data = content.parse_json(await content.read_body(call.http))
            shown = make_scale(self._objects.get(target.resource, target.namespace, target.name).obj)
            is_json_patch = call.http.content_type == content.JSON_PATCH
            scale = apply_json_patch(shown, data) if is_json_patch else apply_merge(shown, data)
        else:
            scale = await self._handlers.read_object(call)
        scale = conform({"kind": "Scale", "apiVersion": "autoscaling/v1", **scale}, "autoscaling.Scale")
        replicas = (scale.get("spec") or {}).get("replicas", 0)
        if replicas < 0:
            error = status.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
            raise status.invalid_object("Scale", "autoscaling", target.name, [error])
        version = (scale.get("metadata") or {}).get("resourceVersion")

        def change(old: Object) -> Object:
            metadata = {**old["metadata"]}
            if version:
                metadata["resourceVersion"] = version
            return {**old, "metadata": metadata, "spec": {**old["spec"], "replicas": replicas}}

        updated = self._objects.update(
            target.resource, target.namespace, target.name, change, self._handlers.write_options(call), is_patch=True
        )
        return content.json_response(dumps(make_scale(updated.obj)).encode())

    async def _bind(self, call: Call) -> web.StreamResponse:
        body = await self._handlers.read_object(call)
        name = call.target.name or (body.get("metadata") or {}).get("name", "")
        node = (body.get("target") or {}).get("name", "")
        if not node:
            error = status.required("target.name")
            raise status.invalid_object("Binding", "", name, [error])
        annotations = (body.get("metadata") or {}).get("annotations") or {}
        pods = self._objects.registry.get("pods")
        current = self._objects.get(pods, call.target.namespace, name)
        uid = (body.get("metadata") or {}).get("uid")
        if uid and uid != current.obj["metadata"]["uid"]:
            raise status.conflict(
                "pods/binding",
                "",
                name,
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {current.obj['metadata']['uid']}",
            )
        if not self._handlers.write_options(call).dry_run:
            bind_pod(self._objects, current, node, annotations)
        return _success()

    async def _evict(self, call: Call) -> web.StreamResponse:
        body = await self._handlers.read_object(call)
        pods = self._objects.registry.get("pods")
        target = call.target
        current = self._objects.get(pods, target.namespace, target.name)
        options = parse_delete_options(body.get("deleteOptions"), {})
        if self._handlers.write_options(call).dry_run or options.dry_run:
            return _success()
        phase = (current.obj.get("status") or {}).get("phase")
        deleting = bool(current.obj["metadata"].get("deletionTimestamp"))
        if phase not in ("Succeeded", "Failed", "Pending") and not deleting:
            self._spend_budget(current)
            current = self._objects.get(pods, target.namespace, target.name)
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }
        if not deleting:
            current = self._objects.rewrite(pods, current, with_condition(current.obj, condition))
        self._objects.deletion.delete(pods, current, options)
        return _success()

    def _spend_budget(self, pod: Stored) -> None:
        """Take one allowed disruption from the pod's budget."""
        budgets = self._objects.registry.get("poddisruptionbudgets", "policy")
        metadata = pod.obj["metadata"]
        matching = []
        for item in self._objects.store.collection(budgets.key).iterate(metadata["namespace"]):
            selector = selector_from_object((item.obj.get("spec") or {}).get("selector"))
            if selector is not None and selector.matches(metadata.get("labels")):
                matching.append(item)
        if len(matching) > 1:
            raise status.internal_error(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            )
        for budget in matching:
            state = budget.obj.get("status") or {}
            name = budget.obj["metadata"]["name"]
            allowed = state.get("disruptionsAllowed", 0)
            if allowed <= 0:
                cause = {
                    "reason": "DisruptionBudget",
                    "message": f"The disruption budget {name} needs {state.get('desiredHealthy', 0)} healthy pods and has "
                    f"{state.get('currentHealthy', 0)} currently",
                }
                raise status.too_many_requests(
                    "Cannot evict pod as it would violate the pod's disruption budget.", 0, [cause]
                )
            spent = {**state, "disruptionsAllowed": allowed - 1}
            self._objects.rewrite(budgets, budget, {**budget.obj, "status": spent})

    async def _token(self, call: Call) -> web.StreamResponse:
        target = call.target
        body = await self._handlers.read_object(call)
        account = self._objects.get(target.resource, target.namespace, target.name).obj
        typed = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
        request = conform(typed | {k: v for k, v in body.items() if k not in typed}, "authentication.TokenRequest")
        spec = request.setdefault("spec", {})
        lifetime_s = spec.get("expirationSeconds") or DEFAULT_TOKEN_S
        if not MIN_TOKEN_S <= lifetime_s <= MAX_TOKEN_S:
            detail = (
                "may not specify a duration less than 10 minutes"
                if lifetime_s < MIN_TOKEN_S
                else "may not specify a duration larger than 2^32 seconds"
            )
            error = status.invalid("spec.expirationSeconds", lifetime_s, detail)
            raise status.invalid_object("TokenRequest", "authentication.k8s.io", "", [error])
        bound, node = self._bound_object(target.namespace, target.name, spec.get("boundObjectRef"))
        audiences = spec.get("audiences") or [self._tokens.issuer]
        token, expires_at = self._tokens.issue(
            account, audiences=audiences, lifetime_s=lifetime_s, bound=bound, node=node
        )
        spec["audiences"] = audiences
        spec["expirationSeconds"] = lifetime_s
        request["metadata"] = {
            "name": target.name,
            "namespace": target.namespace,
            "creationTimestamp": format_time(datetime.now(UTC)),
        }
        request["status"] = {
            "token": token,
            "expirationTimestamp": format_time(datetime.fromtimestamp(expires_at, UTC)),
        }
        return content.json_response(dumps(request).encode(), 201)

    def _bound_object(
        self, namespace: str, account: str, reference: Object | None
    ) -> tuple[Object | None, Object | None]:
        """The object a token is bound to, and a bound pod's node."""
        if not reference:
            return None, None
        plural = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}.get(reference.get("kind", ""))
        if plural is None:
            raise status.bad_request(
                f"cannot bind token to object of type {reference.get('apiVersion', '')}, Kind={reference.get('kind', '')}"
            )
        resource = self._objects.registry.get(plural)
        name = reference.get("name", "")
        obj = self._objects.get(resource, "" if plural == "nodes" else namespace, name).obj
        uid = reference.get("uid")
        if uid and uid != obj["metadata"]["uid"]:
            raise status.conflict(
                plural,
                "",
                name,
                f"the UID in the bound object reference ({uid}) does not match the UID in record. "
                "The object might have been deleted and then recreated",
            )
        node: Object | None = None
        if plural == "pods":
            if obj["spec"].get("serviceAccountName") != account:
                raise status.bad_request(
                    f'cannot bind token for serviceaccount "{account}" to pod running with different serviceaccount name.'
                )
            found = self._objects.store.collection("nodes").find("", obj["spec"].get("nodeName", ""))
            node = found.obj if found is not None else None
        return obj, node

    async def _finalize(self, call: Call) -> web.StreamResponse:
        body = await self._handlers.read_object(call)
        target = call.target
        finalizers = (body.get("spec") or {}).get("finalizers") or []

        def change(old: Object) -> Object:
            metadata = {**old["metadata"], "resourceVersion": (body.get("metadata") or {}).get("resourceVersion")}
            return {**old, "metadata": metadata, "spec": {**(old.get("spec") or {}), "finalizers": finalizers}}

        stored = self._objects.update(
            target.resource, "", target.name, change, WriteOptions(call.user), subresource="finalize", is_patch=True
        )
        return self._handlers.respond(call, stored)


def make_scale(obj: Object) -> Object:
    """The Scale of a workload."""
    metadata = obj["metadata"]
    selector = obj["spec"].get("selector")
    text = format_labels(selector) if obj.get("kind") == "ReplicationController" else format_selector(selector)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": obj["spec"]["replicas"]} if obj["spec"].get("replicas") else {},
        "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": text},
    }


def with_condition(pod: Object, condition: Object) -> Object:
    """The pod with one condition set; its transition time is now when its status changes."""
    state = pod.get("status") or {}
    before = next((c for c in state.get("conditions") or () if c["type"] == condition["type"]), None)
    moment = format_time(datetime.now(UTC))
    if before is not None and before.get("status") == condition["status"]:
        moment = before.get("lastTransitionTime", moment)
    full = {**condition, "lastProbeTime": None, "lastTransitionTime": moment}
    conditions = [c for c in state.get("conditions") or () if c["type"] != condition["type"]]
    return {**pod, "status": {**state, "conditions": [*conditions, full]}}


def bind_pod(objects: ObjectService, current: Stored, node: str, annotations: Object | None = None) -> Stored:
    """Put a pod on a node.

    Raises:
        APIStatusError: 409, it is on a node already or is being deleted.
    """
    pod = current.obj
    name = pod["metadata"]["name"]
    if pod["metadata"].get("deletionTimestamp"):
        raise status.conflict("pods/binding", "", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod["spec"].get("nodeName"):
        raise status.conflict(
            "pods/binding", "", name, f'pod {name} is already assigned to node "{pod["spec"]["nodeName"]}"'
        )
    if pod["spec"].get("schedulingGates"):
        raise status.conflict("pods/binding", "", name, f"pod {name} has non-empty .spec.schedulingGates")
    bound = with_condition(pod, {"type": "PodScheduled", "status": "True"})
    bound["spec"] = {**pod["spec"], "nodeName": node}
    if annotations:
        metadata = pod["metadata"]
        bound["metadata"] = {**metadata, "annotations": {**(metadata.get("annotations") or {}), **annotations}}
    return objects.rewrite(objects.registry.get("pods"), current, bound)
