"""Patches as pure functions: merge (RFC 7386), JSON (RFC 6902) and Kubernetes' strategic merge.

None of them changes its input; unchanged parts are shared with the result.

Source: staging/src/k8s.io/apimachinery/pkg/util/strategicpatch/patch.go, pkg/util/jsonmergepatch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vkprovider.localcluster import status
from vkprovider.localcluster.schema import Field, Message, find_message

logger = logging.getLogger(__name__)
Object = dict[str, Any]
_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVE = "$deleteFromPrimitiveList/"


def apply_merge(original: Any, patch: Any) -> Any:
    """Result of a JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = apply_merge(result.get(key), value)
        else:
            result[key] = value
    return result


def _unescape(token: str) -> str:
    return token.replace("~1", "/").replace("~0", "~")


def _index(items: Sequence[Any], token: str, *, extra: int = 0) -> int:
    if not token.lstrip("-").isdigit() or not -len(items) <= int(token) < len(items) + extra:
        raise _unprocessable(f"index {token!r} is out of bounds")
    return int(token)


def _unprocessable(detail: str) -> status.APIStatusError:
    """422 in the API server's words, which do not say more; ``detail`` goes to the log."""
    logger.debug("JSON patch does not apply", extra={"detail": detail})
    return status.APIStatusError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise _unprocessable(f"{text!r} is not a JSON pointer")
    return [_unescape(token) for token in text.split("/")[1:]]


def _read(document: Any, tokens: Sequence[str]) -> Any:
    for token in tokens:
        if isinstance(document, list):
            document = document[_index(document, token)]
        elif isinstance(document, dict) and token in document:
            document = document[token]
        else:
            raise _unprocessable(f"missing path {'/' + '/'.join(tokens)!r}")
    return document


def _write(document: Any, tokens: Sequence[str], operation: str, value: Any) -> Any:
    """Copy of the document with one place added, replaced or removed."""
    if not tokens:
        if operation == "remove":
            raise _unprocessable("the whole document cannot be removed")
        return value
    token, rest = tokens[0], tokens[1:]
    if isinstance(document, list):
        items = list(document)
        if rest:
            position = _index(items, token)
            items[position] = _write(items[position], rest, operation, value)
        elif operation == "add":
            items.insert(len(items) if token == "-" else _index(items, token, extra=1), value)  # noqa: S105
        elif operation == "replace":
            items[_index(items, token)] = value
        else:
            del items[_index(items, token)]
        return items
    if not isinstance(document, dict):
        raise _unprocessable(f"{token!r} is not inside of an object or a list")
    if token not in document and (rest or operation != "add"):
        raise _unprocessable(f"missing key {token!r}")
    result = dict(document)
    if rest:
        result[token] = _write(result[token], rest, operation, value)
    elif operation == "remove":
        del result[token]
    else:
        result[token] = value
    return result


def apply_json_patch(document: Any, patch: Any) -> Any:
    """Result of a JSON patch.

    Raises:
        APIStatusError: 400 when the patch is not one, 422 when an operation does not apply.
    """
    if not isinstance(patch, list):
        raise status.bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    for step in patch:
        operation = step.get("op") if isinstance(step, dict) else None
        path = _pointer(step.get("path")) if operation else []
        if operation in ("add", "replace"):
            if "value" not in step:
                raise _unprocessable(f"operation {operation} misses its value")
            document = _write(document, path, operation, step["value"])
        elif operation == "remove":
            document = _write(document, path, "remove", None)
        elif operation in ("move", "copy"):
            source = _pointer(step.get("from"))
            value = _read(document, source)
            if operation == "move":
                document = _write(document, source, "remove", None)
            document = _write(document, path, "add", value)
        elif operation == "test":
            try:
                found = _read(document, path)
            except status.APIStatusError:
                found = None
            if found != step.get("value"):
                raise _unprocessable(f"testing value {step.get('path')} failed")
        else:
            raise _unprocessable(f"Unexpected kind: {operation}")
    return document


def apply_strategic(original: Object, patch: Object, message: Message | None) -> Object:
    """Result of a strategic merge patch on an object of the given message.

    Raises:
        APIStatusError: 400, the patch uses a directive wrongly or a list item lacks its merge key.
    """
    result = _merge_map(original, patch, message)
    if result is None:
        raise status.bad_request("$patch: delete is not allowed on a whole object")
    return result


def _field(message: Message | None, key: str) -> Field | None:
    return message.fields.get(key) if message else None


def _inner(field: Field | None, shape: str) -> Field | None:
    """The field's type one level in: the item of a list or the value of a map."""
    if field is None or not field.shape.startswith(shape):
        return None
    return replace(field, shape=field.shape[2:])


def _merge_map(original: Mapping[str, Any], patch: Object, message: Message | None) -> Object | None:
    """Merged map, or None when the patch deletes it."""
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return None
    if directive not in (None, "merge"):
        raise status.bad_request(f"Unknown patch type: {directive}")
    result = dict(original)
    retain = patch.get(_RETAIN)
    if retain is not None:
        result = {key: value for key, value in result.items() if key in retain}
    orders: dict[str, list[Any]] = {}
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVE):
            name = key[len(_DELETE_PRIMITIVE) :]
            if isinstance(result.get(name), list):
                result[name] = [item for item in result[name] if item not in value]
        elif key.startswith(_ORDER):
            orders[key[len(_ORDER) :]] = value
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        field = _field(message, key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            before = result.get(key)
            merged = _merge_value(before if isinstance(before, dict) else {}, value, field)
            if merged is None:
                result.pop(key, None)
            else:
                result[key] = merged
        elif isinstance(value, list):
            before = result.get(key)
            result[key] = _merge_list(before if isinstance(before, list) else [], value, field, orders.pop(key, None))
        else:
            result[key] = value
    for key, order in orders.items():
        if isinstance(result.get(key), list):
            result[key] = _merge_list(result[key], [], _field(message, key), order)
    return result


def _merge_value(original: Object, patch: Object, field: Field | None) -> Object | None:
    """Merged value of one field that holds a message or a map."""
    if field is None:
        return _merge_map(original, patch, None)
    if field.shape.startswith("{}"):
        inner = _inner(field, "{}")
        if inner is not None and not inner.shape and inner.is_message:
            holder = Message("", {}, dict.fromkeys(patch, inner))
            return _merge_map(original, patch, holder)
        return _merge_map(original, patch, None)
    if field.type == "r":
        return apply_merge(original, patch)  # type: ignore[no-any-return]
    return _merge_map(original, patch, find_message(field.type) if field.is_message else None)


def _merge_list(original: list[Any], patch: list[Any], field: Field | None, order: list[Any] | None) -> list[Any]:
    if field is None or field.merge_key is None or not field.shape.startswith("[]"):
        return [_strip(item) for item in patch] if patch or order is None else original
    if not field.merge_key:
        if not all(isinstance(item, str | int | float) for item in patch):
            raise status.bad_request(f"expected a list of scalars in {field.name}")
        merged = original + [item for item in dict.fromkeys(patch) if item not in original]
        merged = _reorder(merged, original, patch, None)
        return _reorder(merged, original, order, None) if order is not None else merged
    key = field.merge_key
    message = find_message(field.type)
    odd = next((item for item in patch if not isinstance(item, dict)), None)
    if odd is not None:
        raise status.bad_request(f"expected a list of maps in {field.name}, found {odd!r}")
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [_strip(item) for item in patch if item.get(_DIRECTIVE) != "replace" or len(item) > 1]
    result: list[Any] = list(original)
    for item in patch:
        if key not in item:
            shown = " ".join(f"{name}:{value}" for name, value in item.items())
            raise status.APIStatusError(500, "", f"map: map[{shown}] does not contain declared merge key: {key}")
        if not isinstance(item[key], str | int | float):
            raise status.bad_request(f"merge key {key} in {field.name} is no scalar: {item[key]!r}")
        matches = [i for i, present in enumerate(result) if isinstance(present, dict) and present.get(key) == item[key]]
        if item.get(_DIRECTIVE) == "delete":
            result = [present for i, present in enumerate(result) if i not in matches]
        elif matches:
            merged_item = _merge_map(result[matches[0]], item, message)
            result[matches[0]] = merged_item
        else:
            result.append(_merge_map({}, item, message))
    # What the patch names comes first as far as the old order does not speak against it, even without an order given.
    result = _reorder(result, original, patch, key)
    return _reorder(result, original, order, key) if order is not None else result


def _strip(value: Any) -> Any:
    """A patch value taken as it is: directives go, nulls are kept out of maps."""
    if isinstance(value, dict):
        return {key: _strip(item) for key, item in value.items() if not key.startswith("$") and item is not None}
    if isinstance(value, list):
        return [_strip(item) for item in value]
    return value


def _reorder(merged: list[Any], server: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """Order of ``$setElementOrder``; items the patch does not know keep their place relative to the others."""

    def identity(item: Any) -> Any:
        found = item.get(key) if key is not None and isinstance(item, dict) else item
        return found if isinstance(found, str | int | float) else None

    wanted = {identity(item): index for index, item in enumerate(order)}
    positions = {identity(item): index for index, item in enumerate(server)}
    named = [(identity(item), item) for item in merged]
    right = sorted((pair for pair in named if pair[0] in wanted), key=lambda pair: wanted[pair[0]])
    left = [pair for pair in named if pair[0] not in wanted]
    result: list[Any] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = positions.get(left[i][0]), positions.get(right[j][0])
        if a is not None and b is not None and a < b:
            result.append(left[i][1])
            i += 1
        else:
            result.append(right[j][1])
            j += 1
    return result + [item for _, item in left[i:]] + [item for _, item in right[j:]]
