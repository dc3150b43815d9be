"""What a request is about: group, version, namespace, resource, name, subresource and verb.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/request/requestinfo.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vkprovider.localcluster import status
from vkprovider.localcluster.registry import Registry, Resource

_VERBS: Final = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """A request on a resource.

    Attributes:
        resource: The resource.
        verb: get, list, watch, create, update, patch, delete or deletecollection.
        namespace: Namespace of the path; empty for all or none.
        name: Object's name; empty for a collection.
        subresource: e.g. ``status``; empty for the object itself.
        rest: What follows the subresource, e.g. the path of a proxy request.
    """

    resource: Resource
    verb: str
    namespace: str
    name: str
    subresource: str
    rest: str


def parse_path(registry: Registry, method: str, path: str, query: Mapping[str, str]) -> ResourceRequest | None:
    """The resource request of a path, or None when it is about something else (discovery, health).

    Raises:
        APIStatusError: 404 for a resource that is not served, 405 for a verb that it does not have.
    """
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    watch_prefix = rest[0] == "watch" and len(rest) > 1
    if watch_prefix:
        rest = rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group, version, rest[0])
    if resource is None:
        raise status.resource_not_found()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    verb = _VERBS.get(method, "")
    if not name:
        verb = {"get": "list", "delete": "deletecollection"}.get(verb, verb)
    watching = watch_prefix or query.get("watch", "").lower() in ("1", "true")
    if verb in ("list", "get") and watching and not subresource:
        verb = "watch"
    allowed = resource.verbs
    if subresource:
        found = dict(resource.subresources).get(subresource)
        if found is None:
            raise status.resource_not_found()
        allowed = found
    if verb not in allowed or (verb in ("update", "patch", "delete") and not name and not subresource):
        raise status.method_not_allowed()
    return ResourceRequest(resource, verb, namespace, name, subresource, "/".join(rest[3:]))
