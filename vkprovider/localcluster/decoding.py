"""Bodies brought into the shape of the schema: types checked, unknown fields found, empty values dropped.

What Go's decoder and encoder do to a typed object by their nature: a field that the type does not have vanishes (or is
an error when the client asks for strict validation), null is absent, ``omitempty`` leaves zero values out, a quantity
comes back in its canonical form.

Source: staging/src/k8s.io/apimachinery/pkg/runtime/serializer/json/json.go, pkg/util/json.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, Final

from vkprovider.api.quantity import format_quantity, parse_quantity
from vkprovider.localcluster import status
from vkprovider.localcluster.schema import Field, Message, find_message, get_message

Object = dict[str, Any]
_GO_TYPES: Final = {"s": "string", "i": "int64", "b": "bool", "d": "float64", "y": "[]uint8", "t": "string"}


@lru_cache(maxsize=4096)
def canonical_quantity(text: str) -> str:
    """The form in which the API server gives a quantity back: ``0.5`` is ``500m``, ``1024Mi`` is ``1Gi``.

    Raises:
        ValueError: The text is not a quantity.
    """
    return format_quantity(parse_quantity(text))


_ZEROS: Final[dict[str, Any]] = {"s": "", "i": 0, "b": False, "d": 0, "q": "0", "o": 0, "D": "0s"}


# Scalars that are fine when they have just this type.
_EXACT: Final = {"s": str, "i": int, "b": bool, "t": str, "u": str, "y": str, "D": str}


class _Mismatch(Exception):
    """A value of a wrong type; the path is completed while unwinding."""

    def __init__(self, value: Any, expected: str) -> None:
        super().__init__()
        self.value = value
        self.expected = expected
        self.owner = ""
        self.path: list[str] = []


def conform(obj: Object, message_name: str, unknown: list[str] | None = None) -> Object:
    """The object as its Go type would hold it.

    Args:
        obj: Decoded JSON with kind and apiVersion; not changed.
        message_name: Schema message; an empty name returns the object without null values checked.
        unknown: Takes the paths of unknown fields.

    Raises:
        APIStatusError: 400, a value has a wrong type.
    """
    if not message_name:
        return obj
    message = get_message(message_name)
    found: list[str] = []
    body = {key: value for key, value in obj.items() if key not in ("kind", "apiVersion")}
    try:
        result = _message(body, message, found)
    except _Mismatch as error:
        raise _describe(error, obj) from None
    if unknown is not None:
        unknown.extend(found)
    return {"kind": obj.get("kind"), "apiVersion": obj.get("apiVersion"), **result}


def conform_value(value: Any, message_name: str) -> Any:
    """A nested value as its message would hold it; unknown fields vanish.

    Raises:
        APIStatusError: 400, a value has a wrong type.
    """
    try:
        return _message(value, get_message(message_name), [])
    except _Mismatch as error:
        raise _describe(error, {}) from None


def _describe(error: _Mismatch, obj: Object) -> status.APIStatusError:
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    kind, version = obj.get("kind", ""), obj.get("apiVersion", "")
    where = f"{error.owner.rpartition('.')[2]}.{'.'.join(reversed(error.path))}"
    if error.expected == "quantity":
        detail = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    else:
        detail = (
            f"json: cannot unmarshal {kinds.get(type(error.value), 'value')} into Go struct field {where} "
            f"of type {error.expected}"
        )
    return status.bad_request(
        f'{kind} in version "{version.rpartition("/")[2]}" cannot be handled as a {kind}: {detail}'
    )


def _message(obj: Any, message: Message, unknown: list[str]) -> Object:
    if type(obj) is not dict:
        raise _Mismatch(obj, f"v1.{message.name.rpartition('.')[2]}")
    result: Object = {}
    fields = message.fields
    for key, value in obj.items():
        if value is None:
            continue
        field = fields.get(key)
        if field is None:
            unknown.append(key)
            continue
        before = len(unknown)
        try:
            if field.shape:
                shaped = _shaped(value, field.shape, field, unknown)
            elif type(value) is _EXACT.get(field.type):
                shaped = value
            else:
                shaped = _single(value, field, unknown)
        except _Mismatch as error:
            error.path.append(key)
            error.owner = error.owner or message.name
            raise
        for index in range(before, len(unknown)) if len(unknown) > before else ():
            tail = unknown[index]
            unknown[index] = f"{key}{tail}" if tail.startswith("[") else f"{key}.{tail}"
        if not shaped and not field.pointer and not field.always and (field.shape or not field.is_message):
            continue
        result[key] = shaped
    for key, zero in _always(message.name):
        if key not in result:
            result[key] = _message({}, zero, unknown) if isinstance(zero, Message) else zero
    return result


@cache
def _always(name: str) -> tuple[tuple[str, Any], ...]:
    """Fields that JSON always has, with their zero value; for a message that is no pointer, the message itself."""
    found: list[tuple[str, Any]] = []
    for key, field in get_message(name).fields.items():
        if field.always:
            zero = _ZEROS.get(field.type) if not field.shape and not field.pointer else None
            if field.is_message and not field.shape and not field.pointer:
                zero = find_message(field.type)
            found.append((key, zero))
    return tuple(found)


def _shaped(value: Any, shape: str, field: Field, unknown: list[str]) -> Any:
    if not shape:
        return _single(value, field, unknown)
    inner = shape[2:]
    if shape.startswith("[]"):
        if type(value) is not list:
            raise _Mismatch(value, f"[]{_go_type(field)}")
        if not inner and not field.is_message:
            exact = _EXACT.get(field.type)
            return [item if type(item) is exact else _scalar(item, field.type) for item in value]
        items = []
        for index, item in enumerate(value):
            before = len(unknown)
            items.append(_shaped(item if item is not None else {}, inner, field, unknown))
            for position in range(before, len(unknown)):
                unknown[position] = f"[{index}].{unknown[position]}"
        return items
    if type(value) is not dict:
        raise _Mismatch(value, f"map[string]{_go_type(field)}")
    entries = {}
    for key, item in value.items():
        if item is None and field.type not in ("s", "y"):
            continue
        before = len(unknown)
        try:
            entries[key] = _shaped("" if item is None else item, inner, field, unknown)
        except _Mismatch as error:
            error.path.append(key)
            raise
        for position in range(before, len(unknown)):
            unknown[position] = f"{key}.{unknown[position]}"
    return entries


def _go_type(field: Field) -> str:
    return _GO_TYPES.get(field.type, f"v1.{field.type.rpartition('.')[2]}")


def _single(value: Any, field: Field, unknown: list[str]) -> Any:
    if field.is_message:
        message = find_message(field.type)
        if message is None:
            return value
        return _message(value, message, unknown)
    return _scalar(value, field.type)


def _scalar(value: Any, kind: str) -> Any:
    if kind == "s":
        if type(value) is not str:
            raise _Mismatch(value, "string")
    elif kind == "i":
        if type(value) is float and value.is_integer():
            return int(value)
        if type(value) is not int:
            raise _Mismatch(value, "int64")
    elif kind == "b":
        if type(value) is not bool:
            raise _Mismatch(value, "bool")
    elif kind == "q":
        if type(value) not in (str, int, float):
            raise _Mismatch(value, "quantity")
        try:
            return canonical_quantity(str(value))
        except ValueError:
            raise _Mismatch(value, "quantity") from None
    elif kind == "o":
        if type(value) not in (str, int):
            raise _Mismatch(value, "intstr.IntOrString")
    elif kind in "ytuD" and type(value) is not str:
        raise _Mismatch(value, "string")
    return value
