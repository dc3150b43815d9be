"""Bodies and media types: what a client sent, and what it wants back.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/negotiation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import yaml
from aiohttp import web

from vkprovider.localcluster import status
from vkprovider.localcluster.protobuf import MAGIC, decode_envelope

Object = dict[str, Any]
JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
MAX_BODY_BYTES: Final = 3 * 1024 * 1024
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
PATCH_TYPES: Final = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


@dataclass(frozen=True, slots=True)
class Accept:
    """What the client wants back.

    Attributes:
        form: ``object``, ``table``, ``partial`` or ``aggregated`` (discovery).
    """

    form: str = "object"


@lru_cache(maxsize=256)
def parse_accept(header: str) -> Accept:
    """The first of the offered types that can be served.

    Raises:
        APIStatusError: 406, none can.
    """
    for offer in header.split(",") if header else (JSON,):
        media, *parameters = (part.strip() for part in offer.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media not in (JSON, "*/*", "application/*", "text/*", "text/plain", "text/html"):
            continue
        shape = values.get("as", "")
        if not shape:
            return Accept()
        if shape == "Table" and values.get("v") == "v1":
            return Accept("table")
        if shape in ("PartialObjectMetadata", "PartialObjectMetadataList") and values.get("v") == "v1":
            return Accept("partial")
        if shape == "APIGroupDiscoveryList" and values.get("v") == "v2":
            return Accept("aggregated")
    raise status.APIStatusError(406, "NotAcceptable", f"406: Not Acceptable\n\nAvailable representations: {JSON}", {})


async def read_body(request: web.BaseRequest) -> bytes:
    """The body, at most 3 MiB.

    Raises:
        APIStatusError: 413, it is larger.
    """
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise status.APIStatusError(
            413, "RequestEntityTooLarge", f"Request entity too large: limit is {MAX_BODY_BYTES}"
        ) from None


def decode_body(data: bytes, content_type: str, kind: str = "") -> Object | None:
    """The object of a body in JSON, YAML or protobuf; None when the body is empty.

    Args:
        data: The body.
        content_type: Its media type.
        kind: What is expected, for complaints.

    Raises:
        APIStatusError: 400 malformed, 415 of a type that is not known.
    """
    if not data:
        return None
    if content_type == PROTOBUF or data.startswith(MAGIC):
        return decode_envelope(data)
    if content_type in (JSON, "", "application/octet-stream", "text/plain"):
        value = parse_json(data, kind)
    elif content_type in (YAML, "text/yaml", "application/x-yaml"):
        value = parse_yaml(data)
    else:
        raise status.unsupported_media_type((JSON, YAML, PROTOBUF))
    if not isinstance(value, dict):
        raise status.bad_request("couldn't get version/kind; json parse error: the body is not an object")
    return value


def parse_json(data: bytes, kind: str = "") -> Any:
    """Decoded JSON; ``kind`` is what is expected, for the complaint.

    Raises:
        APIStatusError: 400, it is malformed.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise status.bad_request(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {error}"
        ) from None


def parse_yaml(data: bytes) -> Any:
    """Decoded YAML.

    Raises:
        APIStatusError: 400, it is malformed.
    """
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise status.bad_request(f"error decoding YAML: {error}") from None


def json_response(data: bytes, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=data, status=code, content_type=JSON, headers=headers)
