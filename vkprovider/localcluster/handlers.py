"""The verbs on resources, from a parsed request to an answer.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/{create,update,patch,delete,get}.go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from vkprovider.localcluster import content, status
from vkprovider.localcluster.apply import apply_configuration
from vkprovider.localcluster.deletion import parse_delete_options
from vkprovider.localcluster.objects import ObjectService, WriteOptions
from vkprovider.localcluster.patches import apply_json_patch, apply_merge, apply_strategic
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.requests import ResourceRequest
from vkprovider.localcluster.schema import find_message
from vkprovider.localcluster.store import ChangeQueue, Stored, dumps
from vkprovider.localcluster.tables import make_table, partial_metadata
from vkprovider.localcluster.users import User
from vkprovider.localcluster.views import View
from vkprovider.localcluster.watching import Lister, Watcher, list_response, parse_list_options

Object = dict[str, Any]


@dataclass(slots=True)
class Call:
    """One request on its way.

    Attributes:
        http: The HTTP request.
        target: What it is about.
        user: Who asks.
        query: Query parameters.
    """

    http: web.BaseRequest
    target: ResourceRequest
    user: User
    query: Mapping[str, str]


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class ResourceHandlers:
    """Answers requests on stored objects.

    Args:
        objects: The objects.
    """

    def __init__(self, objects: ObjectService) -> None:
        self._objects = objects
        self._lister = Lister(objects.store)
        self._views: dict[Resource, View] = {}
        self._core_events: Final = objects.registry.get("events")
        self.open_watches: Final[set[ChangeQueue]] = set()
        self._verbs: Final[dict[str, Handler]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def handle(self, call: Call) -> web.StreamResponse:
        """Answer a request on a resource or on its ``status``-like subresources.

        Raises:
            APIStatusError: The request fails.
        """
        return await self._verbs[call.target.verb](call)

    def close(self) -> None:
        """End all watches."""
        for queue in tuple(self.open_watches):
            queue.close()

    def view(self, resource: Resource) -> View:
        """How the objects of a resource are shown."""
        found = self._views.get(resource)
        if found is None:
            found = self._views[resource] = View(resource)
        return found

    def stored_resource(self, resource: Resource) -> Resource:
        """The resource in whose form the objects are kept."""
        return self._core_events if resource.group == "events.k8s.io" else resource

    def respond(self, call: Call, stored: Stored, code: int = 200, options: WriteOptions | None = None) -> web.Response:
        """One object as the client wants it."""
        view = self.view(call.target.resource)
        form = content.parse_accept(call.http.headers.get("Accept", "")).form
        headers = None
        if options is not None and options.unknown and call.query.get("fieldValidation") != "Ignore":
            headers = {"Warning": ", ".join(f'299 - "unknown field \\"{path}\\""' for path in options.unknown)}
        if form == "table":
            include = call.query.get("includeObject", "Metadata")
            metadata = {"resourceVersion": str(stored.version)}
            table = make_table(call.target.resource.key, (stored.obj,), metadata=metadata, include=include)
            return content.json_response(dumps(table).encode(), code, headers)
        if form == "partial":
            return content.json_response(dumps(partial_metadata(stored.obj)).encode(), code, headers)
        return content.json_response(view.encode(stored), code, headers)

    def write_options(self, call: Call) -> WriteOptions:
        """How a write is done, from the query.

        Raises:
            APIStatusError: 422, dryRun is something else than All.
        """
        dry_run = call.query.get("dryRun", "")
        if dry_run not in ("", "All"):
            error = status.not_supported("dryRun", dry_run, ["All"])
            raise status.invalid_object("PatchOptions", "meta.k8s.io", "", [error])
        return WriteOptions(call.user, bool(dry_run), call.query.get("fieldValidation") == "Strict")

    async def read_object(self, call: Call) -> Object:
        """The object of the body.

        Raises:
            APIStatusError: There is none, or it is malformed.
        """
        data = await content.read_body(call.http)
        kind = call.target.resource.kind
        body = content.decode_body(data, call.http.content_type, kind)
        if body is None:
            raise status.bad_request(
                f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: unexpected end of "
                "JSON input (<empty>)"
            )
        return body

    async def _get(self, call: Call) -> web.StreamResponse:
        target = call.target
        return self.respond(call, self._objects.get(target.resource, target.namespace, target.name))

    async def _list(self, call: Call) -> web.StreamResponse:
        resource = call.target.resource
        options = parse_list_options(resource, call.target.namespace, call.target.name, call.query)
        form = content.parse_accept(call.http.headers.get("Accept", "")).form
        items, metadata = self._lister.list(resource, options)
        return list_response(resource, self.view(resource), form, items, metadata, options)

    async def _watch(self, call: Call) -> web.StreamResponse:
        resource = call.target.resource
        options = parse_list_options(resource, call.target.namespace, call.target.name, call.query)
        form = content.parse_accept(call.http.headers.get("Accept", "")).form
        watcher = Watcher(self._objects.store, resource, self.view(resource), form, options)
        return await watcher.serve(call.http, self.open_watches)

    async def _create(self, call: Call) -> web.StreamResponse:
        target = call.target
        if target.resource.namespaced and not target.namespace:
            raise status.method_not_allowed()
        body = self.view(target.resource).read(await self.read_object(call))
        options = self.write_options(call)
        resource = self.stored_resource(target.resource)
        return self.respond(call, self._objects.create(resource, target.namespace, body, options), 201, options)

    async def _update(self, call: Call) -> web.StreamResponse:
        target = call.target
        body = self.view(target.resource).read(await self.read_object(call))
        options = self.write_options(call)
        resource = self.stored_resource(target.resource)
        if resource.create_on_update and not target.subresource:
            collection = self._objects.store.collection(resource.key)
            if collection.find(target.namespace, target.name) is None:
                if (body.get("metadata") or {}).get("name") != target.name:
                    raise status.bad_request("the name of the object does not match the name on the URL")
                return self.respond(call, self._objects.create(resource, target.namespace, body, options), 201, options)
        stored = self._objects.update(
            resource,
            target.namespace,
            target.name,
            lambda _old: body,
            options,
            subresource=target.subresource,
        )
        return self.respond(call, stored, 200, options)

    async def _patch(self, call: Call) -> web.StreamResponse:
        target = call.target
        kind = call.http.content_type
        if kind not in content.PATCH_TYPES:
            raise status.APIStatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        data = await content.read_body(call.http)
        options = self.write_options(call)
        resource = self.stored_resource(target.resource)
        if kind == content.APPLY_PATCH:
            return self._apply(call, resource, content.parse_yaml(data), options)
        patch = content.parse_json(data)
        if kind != content.JSON_PATCH and not isinstance(patch, dict):
            raise status.bad_request(
                "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
            )
        stored = self._objects.update(
            resource,
            target.namespace,
            target.name,
            lambda old: self._patched(target.resource, old, patch, kind),
            options,
            subresource=target.subresource,
            is_patch=True,
        )
        return self.respond(call, stored, 200, options)

    def _patched(self, resource: Resource, old: Object, patch: Any, kind: str) -> Object:
        view = self.view(resource)
        shown = view.show(old)
        if kind == content.JSON_PATCH:
            result = apply_json_patch(shown, patch)
        elif kind == content.MERGE_PATCH:
            result = apply_merge(shown, patch)
        elif not resource.message:
            raise status.APIStatusError(
                415, "UnsupportedMediaType", "strategic merge patches are not supported for custom resources"
            )
        else:
            result = apply_strategic(shown, patch, find_message(resource.message))
        if not isinstance(result, dict) or not isinstance(result.get("metadata") or {}, dict):
            raise status.bad_request("the patched document is not an object")
        return view.read(result)

    def _apply(self, call: Call, resource: Resource, patch: Any, options: WriteOptions) -> web.StreamResponse:
        target = call.target
        manager = call.query.get("fieldManager", "")
        if not manager:
            error = status.required("fieldManager", "is required for apply patch")
            raise status.invalid_object("PatchOptions", "meta.k8s.io", "", [error])
        if not isinstance(patch, dict):
            raise status.bad_request("error decoding YAML: the patch is not an object")
        configuration = self.view(target.resource).read(patch)
        force = call.query.get("force") in ("true", "1")
        current = self._objects.store.collection(resource.key).find(target.namespace, target.name)
        if current is None:
            if target.subresource:
                raise status.not_found(resource.plural, resource.group, target.name)
            metadata = {**(configuration.get("metadata") or {}), "name": target.name}
            created = self._objects.create(resource, target.namespace, {**configuration, "metadata": metadata}, options)
            if not options.dry_run:
                created = self._objects.update(
                    resource,
                    target.namespace,
                    target.name,
                    lambda old: apply_configuration(old, configuration, resource, manager=manager, force=force),
                    options,
                    is_patch=True,
                )
            return self.respond(call, created, 201, options)
        stored = self._objects.update(
            resource,
            target.namespace,
            target.name,
            lambda old: apply_configuration(
                old, configuration, resource, manager=manager, force=force, subresource=target.subresource
            ),
            options,
            subresource=target.subresource,
            is_patch=True,
        )
        return self.respond(call, stored, 200, options)

    async def _delete(self, call: Call) -> web.StreamResponse:
        target = call.target
        resource = self.stored_resource(target.resource)
        data = await content.read_body(call.http)
        body = content.decode_body(data, call.http.content_type) if data else None
        options = parse_delete_options(body, call.query)
        current = self._objects.get(resource, target.namespace, target.name)
        deleted = self._objects.deletion.delete(resource, current, options)
        if resource.key == "pods" or not deleted.gone:
            return self.respond(call, deleted.stored)
        details = {
            "name": target.name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": deleted.stored.obj["metadata"]["uid"],
        }
        answer = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {key: value for key, value in details.items() if value},
        }
        return content.json_response(dumps(answer).encode())

    async def _delete_collection(self, call: Call) -> web.StreamResponse:
        target = call.target
        resource = self.stored_resource(target.resource)
        data = await content.read_body(call.http)
        body = content.decode_body(data, call.http.content_type) if data else None
        options = parse_delete_options(body, call.query)
        list_options = parse_list_options(resource, target.namespace, "", call.query)
        items, metadata = self._lister.list(resource, list_options)
        deleted = [self._objects.deletion.delete(resource, item, options).stored for item in items]
        return list_response(resource, self.view(target.resource), "object", deleted, metadata, list_options)
