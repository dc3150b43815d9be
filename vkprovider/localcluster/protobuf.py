"""Decoder for Kubernetes' protobuf bodies, driven by the schema table.

kubectl sends protobuf for what it makes up itself (``create namespace``, ``run``, ``auth can-i``, drain's evictions)
and does not fall back to JSON. Zero values of fields that are no pointers are dropped, as ``omitempty`` does.

Source: staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf; the generated.proto files.
"""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.timestamps import format_micro_time, format_time
from vkprovider.localcluster import status
from vkprovider.localcluster.schema import Field, Message, find_message

Object = dict[str, Any]
MAGIC: Final = b"k8s\x00"
_GROUPS: Final = {
    "": "core",
    "apps": "apps",
    "batch": "batch",
    "autoscaling": "autoscaling",
    "policy": "policy",
    "authentication.k8s.io": "authentication",
    "authorization.k8s.io": "authorization",
    "certificates.k8s.io": "certificates",
    "coordination.k8s.io": "coordination",
    "discovery.k8s.io": "discovery",
    "events.k8s.io": "events",
    "networking.k8s.io": "networking",
    "node.k8s.io": "node",
    "rbac.authorization.k8s.io": "rbac",
    "scheduling.k8s.io": "scheduling",
    "storage.k8s.io": "storage",
    "meta.k8s.io": "meta",
}


def _malformed(detail: str) -> status.APIStatusError:
    return status.bad_request(f"unable to decode the protobuf body: {detail}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _malformed("truncated varint")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def iter_fields(data: memoryview) -> list[tuple[int, Any]]:
    """All (number, value) pairs of a message: int for varints, memoryview for the rest.

    Raises:
        APIStatusError: 400, the data are cut or have an unknown wire type.
    """
    found: list[tuple[int, Any]] = []
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            found.append((number, value))
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _malformed(f"wire type {wire}")
        if position + size > end:
            raise _malformed("truncated field")
        found.append((number, data[position : position + size]))
        position += size
    return found


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def decode_envelope(data: bytes) -> Object:
    """The object inside of a ``k8s\\0`` envelope (``runtime.Unknown``).

    Raises:
        APIStatusError: 400 malformed, 415 a kind that the schema does not know.
    """
    if not data.startswith(MAGIC):
        raise _malformed("the prefix k8s\\x00 is missing")
    api_version = kind = ""
    raw = memoryview(b"")
    for number, value in iter_fields(memoryview(data)[len(MAGIC) :]):
        if number == 1:
            for inner, text in iter_fields(value):
                if inner == 1:
                    api_version = bytes(text).decode()
                elif inner == 2:
                    kind = bytes(text).decode()
        elif number == 2:
            raw = value
    message = find_kind(api_version, kind)
    if message is None:
        raise status.APIStatusError(
            415, "UnsupportedMediaType", f"the protobuf form of {kind} in {api_version} is not known here; send JSON"
        )
    return {"kind": kind, "apiVersion": api_version, **decode_message(raw, message)}


def find_kind(api_version: str, kind: str) -> Message | None:
    """The message of an apiVersion and kind, or None."""
    group, _, version = api_version.rpartition("/")
    if kind == "DeleteOptions":
        return find_message("meta.DeleteOptions")
    if version != "v1":
        return None
    return find_message(f"{_GROUPS.get(group, '')}.{kind}")


def decode_message(data: memoryview, message: Message) -> Object:
    """A message as the JSON object that it stands for."""
    result: Object = {}
    for number, value in iter_fields(data):
        field = message.by_number.get(number)
        if field is None:
            continue
        if field.inline:
            inner = find_message(field.type)
            if inner is not None:
                result.update(decode_message(value, inner))
        elif field.shape.startswith("[]"):
            result.setdefault(field.name, []).extend(_elements(value, field))
        elif field.shape.startswith("{}"):
            key, item = _entry(value, field)
            result.setdefault(field.name, {})[key] = item
        else:
            item = _value(value, field)
            if item or field.pointer or (field.always and not field.is_message and field.type not in "tu"):
                result[field.name] = item
    return result


def _elements(value: Any, field: Field) -> list[Any]:
    """One element of a repeated field, or several when numbers are packed."""
    if field.type == "i" and isinstance(value, memoryview):
        numbers, position = [], 0
        while position < len(value):
            number, position = _varint(value, position)
            numbers.append(_signed(number))
        return numbers
    return [_value(value, field)]


def _entry(value: memoryview, field: Field) -> tuple[str, Any]:
    key, item = "", None
    for number, part in iter_fields(value):
        if number == 1:
            key = bytes(part).decode()
        elif number == 2:
            item = part
    if field.shape == "{}[]":
        # A map of lists goes through a wrapper message (ExtraValue) with the list as its field 1.
        parts = iter_fields(item) if item is not None else []
        return key, [bytes(part).decode() for number, part in parts if number == 1]
    return key, _value(item if item is not None else memoryview(b""), field)


def _value(value: Any, field: Field) -> Any:
    match field.type:
        case "s":
            return bytes(value).decode()
        case "i":
            return _signed(value)
        case "b":
            return bool(value)
        case "y":
            return base64.b64encode(bytes(value)).decode()
        case "q":
            return next((bytes(part).decode() for number, part in iter_fields(value) if number == 1), "0")
        case "o":
            return _int_or_string(value)
        case "t" | "u":
            return _time(value, micro=field.type == "u")
        case "D":
            nanos = next((_signed(part) for number, part in iter_fields(value) if number == 1), 0)
            return f"{nanos / 1e9:g}s"
        case "d":
            return struct.unpack("<d", bytes(value))[0]
        case "r" | "f":
            raw = next((bytes(part) for number, part in iter_fields(value) if number == 1), b"")
            return json.loads(raw) if raw else None
    message = find_message(field.type)
    return decode_message(value, message) if message is not None else {}


def _int_or_string(value: memoryview) -> int | str:
    parts = dict(iter_fields(value))
    if parts.get(1):
        return bytes(parts.get(3, b"")).decode()
    return _signed(parts.get(2, 0))


def _time(value: memoryview, *, micro: bool) -> str | None:
    parts = dict(iter_fields(value))
    if not parts:
        return None
    seconds, nanos = _signed(parts.get(1, 0)), parts.get(2, 0)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    return format_micro_time(moment) if micro else format_time(moment)
