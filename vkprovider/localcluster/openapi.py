"""An OpenAPI v3 document made from the schema: enough for kubectl to validate on the server and to explain fields.

Field descriptions are upstream's text and are not carried here.

Source: staging/src/k8s.io/apiserver/pkg/server/routes/openapi.go; kubectl pkg/util/openapi.
"""

from __future__ import annotations

from typing import Any, Final

from vkprovider.localcluster.registry import Registry, Resource
from vkprovider.localcluster.schema import Field, find_message
from vkprovider.localcluster.store import dumps

Object = dict[str, Any]
_SCALARS: Final[dict[str, Object]] = {
    "s": {"type": "string"},
    "i": {"type": "integer", "format": "int64"},
    "b": {"type": "boolean"},
    "d": {"type": "number", "format": "double"},
    "y": {"type": "string", "format": "byte"},
    "q": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "o": {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"},
    "t": {"type": "string", "format": "date-time"},
    "u": {"type": "string", "format": "date-time"},
    "D": {"type": "string"},
    "r": {"type": "object"},
    "f": {"type": "object"},
}
_TITLE: Final = "vkprovider local cluster"
V2_PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_PARAMETERS: Final = ("pretty", "dryRun", "fieldManager", "fieldValidation", "force")


def _reference(name: str) -> str:
    group, _, kind = name.partition(".")
    prefix = "io.k8s.apimachinery.pkg.apis.meta.v1" if group == "meta" else f"io.k8s.api.{group}.v1"
    return f"{prefix}.{kind}"


def make_index(registry: Registry) -> Object:
    """Answer of ``/openapi/v3``: where the document of each group and version is."""
    paths = {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1"}}
    for resource in registry.resources:
        if resource.group:
            path = f"apis/{resource.api_version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}"}
    return {"paths": paths}


def make_v2(*, protobuf: bool) -> bytes:
    """Answer of ``/openapi/v2``: a document without definitions.

    kubectl asks for it, in protobuf only, to validate what the server cannot (a ``List``); kinds that it does not
    find there are not validated.
    """
    if protobuf:
        # message Document { string swagger = 1; Info info = 2; }, message Info { string title = 1; string version = 2; }
        title = b"\x0a" + bytes([len(_TITLE)]) + _TITLE.encode() + b"\x12\x02v1"
        return b"\x0a\x032.0\x12" + bytes([len(title)]) + title
    info = {"title": _TITLE, "version": "v1"}
    return dumps({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}).encode()


def make_document(registry: Registry, group: str, version: str) -> Object:
    """The OpenAPI document of one group and version."""
    schemas: dict[str, Object] = {}
    paths: dict[str, Object] = {}
    for resource in registry.list_in(group, version):
        if resource.message:
            _add_schema(resource.message, schemas, resource)
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        middle = "/namespaces/{namespace}" if resource.namespaced else ""
        gvk = {"group": group, "version": version, "kind": resource.kind}
        collection = f"{base}{middle}/{resource.plural}"
        if "create" in resource.verbs:
            paths.setdefault(collection, {})["post"] = _operation(resource, gvk, "post")
        if "get" in resource.verbs:
            item = paths.setdefault(f"{collection}/{{name}}", {})
            for method in ("get", "put", "patch"):
                item[method] = _operation(resource, gvk, method)
    return {
        "openapi": "3.0.0",
        "info": {"title": _TITLE, "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(resource: Resource, gvk: Object, method: str) -> Object:
    operation: Object = {
        "operationId": f"{method}{resource.kind}",
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": method,
        "x-kubernetes-group-version-kind": gvk,
    }
    if method != "get":
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}} for name in _PARAMETERS
        ]
    return operation


def _add_schema(name: str, schemas: dict[str, Object], resource: Resource | None = None) -> None:
    reference = _reference(name)
    if reference in schemas:
        return
    schema = schemas[reference] = {"type": "object", "properties": {}}
    properties: Object = schema["properties"]
    if resource is not None:
        properties["apiVersion"] = {"type": "string"}
        properties["kind"] = {"type": "string"}
        schema["x-kubernetes-group-version-kind"] = [
            {"group": resource.group, "version": resource.version, "kind": resource.kind}
        ]
    message = find_message(name)
    for key, field in (message.fields if message else {}).items():
        properties[key] = _property(field, field.shape, schemas)


def _property(field: Field, shape: str, schemas: dict[str, Object]) -> Object:
    if shape.startswith("[]"):
        return {"type": "array", "items": _property(field, shape[2:], schemas), **_list_rules(field)}
    if shape.startswith("{}"):
        return {"type": "object", "additionalProperties": _property(field, shape[2:], schemas)}
    if not field.is_message:
        return dict(_SCALARS[field.type])
    _add_schema(field.type, schemas)
    return {"allOf": [{"$ref": f"#/components/schemas/{_reference(field.type)}"}]}


def _list_rules(field: Field) -> Object:
    rules: Object = {}
    if field.merge_key is not None:
        rules["x-kubernetes-patch-strategy"] = "merge,retainKeys" if field.retain_keys else "merge"
        if field.merge_key:
            rules["x-kubernetes-patch-merge-key"] = field.merge_key
    if field.list_keys == ("",):
        rules["x-kubernetes-list-type"] = "set"
    elif field.list_keys:
        rules["x-kubernetes-list-type"] = "map"
        rules["x-kubernetes-list-map-keys"] = list(field.list_keys)
    return rules
