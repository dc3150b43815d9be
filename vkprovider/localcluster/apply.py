"""Server-side apply: merging an applied configuration and keeping account of who applied what.

Only appliers are tracked: a field that was written by create, update or another patch has no owner and is taken over
without a conflict. A field that a manager applied before and leaves out now is removed, unless another applier has it.

Source: sigs.k8s.io/structured-merge-diff; staging/src/k8s.io/apimachinery/pkg/util/managedfields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.timestamps import format_time
from vkprovider.localcluster import status
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.schema import Field, Message, find_message

Object = dict[str, Any]
Path = tuple[str, ...]
"""Steps in the ``fieldsV1`` notation: ``f:name``, ``k:{"name":"c"}``, ``v:"value"``."""

_IGNORED: Final = frozenset(
    {
        ("f:kind",),
        ("f:apiVersion",),
        ("f:metadata", "f:name"),
        ("f:metadata", "f:namespace"),
        ("f:metadata", "f:uid"),
        ("f:metadata", "f:resourceVersion"),
        ("f:metadata", "f:creationTimestamp"),
        ("f:metadata", "f:managedFields"),
        ("f:metadata", "f:generation"),
    }
)


def _key_step(item: Object, keys: tuple[str, ...]) -> str:
    values = {key: item.get(key, "TCP" if key == "protocol" else None) for key in keys}
    return "k:" + json.dumps(values, separators=(",", ":"), sort_keys=True)


def _child(field: Field | None, message: Message | None, key: str) -> tuple[Field | None, Message | None]:
    """Field and message of one key of a map or message."""
    if field is not None and field.shape.startswith("{}"):
        inner = replace(field, shape=field.shape[2:])
        return inner, find_message(inner.type) if inner.is_message and not inner.shape else None
    found = message.fields.get(key) if message else None
    return found, find_message(found.type) if found and found.is_message and not found.shape else None


def _item_message(field: Field) -> Message | None:
    return find_message(field.type) if field.is_message else None


def iter_paths(
    value: Any, field: Field | None, message: Message | None, prefix: Path = ()
) -> Iterator[tuple[Path, Any]]:
    """Leaves of a configuration as (path, value)."""
    if isinstance(value, dict) and value and not (field is not None and field.atomic):
        for key, item in value.items():
            yield from iter_paths(item, *_child(field, message, key), (*prefix, f"f:{key}"))
    elif isinstance(value, list) and field is not None and field.list_keys and field.shape.startswith("[]"):
        if field.list_keys == ("",):
            for item in value:
                yield (*prefix, "v:" + json.dumps(item)), item
        else:
            inner = _item_message(field)
            for item in value:
                step = (*prefix, _key_step(item, field.list_keys))
                yield step, None
                yield from iter_paths(item, None, inner, step)
    else:
        yield prefix, value


def _to_fields(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        if path[-1].startswith("k:"):
            node.setdefault(".", {})
    return tree


def _from_fields(tree: Object, prefix: Path = ()) -> set[Path]:
    found: set[Path] = set()
    for step, below in tree.items():
        if step == ".":
            found.add(prefix)
        elif below:
            found |= _from_fields(below, (*prefix, step))
        else:
            found.add((*prefix, step))
    return found


def apply_configuration(
    old: Object, configuration: Object, resource: Resource, *, manager: str, force: bool, subresource: str = ""
) -> Object:
    """The object with a configuration applied.

    Args:
        old: The current object; not changed.
        configuration: What the manager wants.
        resource: What it is.
        manager: Name of the field manager.
        force: Whether to take fields over from other appliers.
        subresource: Subresource of the request.

    Raises:
        APIStatusError: 409, another manager applied a field with another value.
    """
    message = find_message(resource.message) if resource.message else None
    wanted = {path: value for path, value in iter_paths(configuration, None, message) if path and path not in _IGNORED}
    paths = set(wanted)
    entries = [entry for entry in old["metadata"].get("managedFields") or () if entry.get("operation") == "Apply"]
    mine: set[Path] = set()
    others: list[tuple[Object, set[Path]]] = []
    for entry in entries:
        owned = _from_fields(entry.get("fieldsV1") or {})
        if entry.get("manager") == manager and entry.get("subresource", "") == subresource:
            mine = owned
        else:
            others.append((entry, owned))
    present = dict(iter_paths(old, None, message))
    _check_conflicts(wanted, present, others, force=force)
    result: Object = _merge(old, configuration, None, message)
    kept_by_others = set().union(*(owned for _, owned in others)) if others else set()
    for path in sorted(mine - paths - kept_by_others, key=len, reverse=True):
        result = _remove(result, path)
    managed = []
    for entry, owned in others:
        left = owned - {path for path in owned & paths if present.get(path) != wanted[path]}
        if left:
            managed.append({**entry, "fieldsV1": _to_fields(left)})
    mark = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": resource.api_version,
        "time": format_time(datetime.now(UTC)),
        "fieldsType": "FieldsV1",
        "fieldsV1": _to_fields(paths),
        **({"subresource": subresource} if subresource else {}),
    }
    unchanged = next(
        (e for e in entries if e.get("manager") == manager and e.get("fieldsV1") == mark["fieldsV1"]), None
    )
    managed.append(unchanged or mark)
    result["metadata"] = {**result["metadata"], "managedFields": managed}
    return result


def _check_conflicts(
    wanted: dict[Path, Any],
    present: dict[Path, Any],
    others: list[tuple[Object, set[Path]]],
    *,
    force: bool,
) -> None:
    if force:
        return
    causes = []
    for entry, owned in others:
        for path in sorted(owned & set(wanted)):
            if path in present and present[path] != wanted[path]:
                text = "".join(f".{step[2:]}" if step.startswith("f:") else f"[{step[2:]}]" for step in path)
                causes.append(
                    {
                        "reason": "FieldManagerConflict",
                        "message": f'conflict with "{entry.get("manager", "")}"',
                        "field": text,
                    }
                )
    if causes:
        managers = dict.fromkeys(cause["message"][14:] for cause in causes)
        parts = []
        for manager in managers:
            fields = [cause["field"] for cause in causes if cause["message"][14:] == manager]
            listed = f" {fields[0]}" if len(fields) == 1 else "\n" + "\n".join(f"- {name}" for name in fields)
            parts.append(f"conflict{'s' if len(fields) > 1 else ''} with {manager}:{listed}")
        plural = "s" if len(causes) > 1 else ""
        raise status.APIStatusError(
            409,
            "Conflict",
            f"Apply failed with {len(causes)} conflict{plural}: " + "\n".join(parts),
            {"causes": causes},
        )


def _merge(old: Any, new: Any, field: Field | None, message: Message | None) -> Any:
    if isinstance(new, dict) and isinstance(old, dict) and not (field is not None and field.atomic):
        result = dict(old)
        for key, item in new.items():
            if (
                key in ("managedFields", "creationTimestamp")
                and message is not None
                and message.name == "meta.ObjectMeta"
            ):
                continue
            below = _child(field, message, key)
            result[key] = _merge(old[key], item, *below) if key in old else item
        return result
    if isinstance(new, list) and isinstance(old, list) and field is not None and field.list_keys:
        if field.list_keys == ("",):
            return old + [item for item in new if item not in old]
        inner = _item_message(field)
        items = {_key_step(item, field.list_keys): item for item in old}
        for item in new:
            step = _key_step(item, field.list_keys)
            items[step] = _merge(items[step], item, None, inner) if step in items else item
        return list(items.values())
    return new


def _remove(value: Any, path: Path) -> Any:
    """Copy of the value without what the path leads to."""
    step, rest = path[0], path[1:]
    if isinstance(value, dict) and step.startswith("f:"):
        key = step[2:]
        if key not in value:
            return value
        result = dict(value)
        if rest:
            result[key] = _remove(value[key], rest)
            if result[key] in ({}, []) and value[key] not in ({}, []):
                del result[key]
        else:
            del result[key]
        return result
    if isinstance(value, list) and step.startswith("v:"):
        return [item for item in value if item != json.loads(step[2:])]
    if isinstance(value, list) and step.startswith("k:"):
        keys: Object = json.loads(step[2:])

        def is_it(item: Any) -> bool:
            return isinstance(item, dict) and _key_step(item, tuple(keys)) == step

        if not rest:
            return [item for item in value if not is_it(item)]
        return [_remove(item, rest) if is_it(item) else item for item in value]
    return value
