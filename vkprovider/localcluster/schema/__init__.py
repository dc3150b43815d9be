"""What the API's messages are made of: field names, protobuf numbers, types and merge rules, as data.

One table serves the protobuf decoder, the strategic merge patch, server-side apply, strict decoding and the OpenAPI
document. Notation of one field, as found in ``core`` and ``groups``::

    name=NUMBER[+][*][[]|{}]...TYPE[@mergeKey][!][~][%listType]

``+`` is always written in JSON, ``*`` is a pointer in Go (its zero value means something), ``[]`` a list, ``{}`` a map with string keys; a leading dot
marks a message whose fields stand in line in JSON. Types: ``s`` string, ``i`` integer, ``b`` bool, ``d`` double, ``y``
bytes, ``q`` Quantity, ``o`` IntOrString, ``t`` Time, ``u`` MicroTime, ``D`` Duration, ``r`` raw JSON, ``f`` FieldsV1,
else a message (of the same group, or ``group.Name``). ``@key`` is ``patchStrategy=merge`` with its key, ``!`` adds
``retainKeys``, ``~`` is ``replace``; ``%`` gives the list type: its map keys, ``set`` or ``atomic``.

Source: the struct tags of staging/src/k8s.io/api/*/types.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from vkprovider.localcluster.schema import core, groups

_FIELD = re.compile(
    r"^(?P<inline>\.?)(?P<name>[\w$-]+)=(?P<number>\d+)(?P<always>\+?)(?P<pointer>\*?)(?P<shape>(?:\[\]|\{\})*)(?P<type>[\w.]+)"
    r"(?P<merge>@\w*)?(?P<retain>!)?(?P<replace>~)?(?:%(?P<list>[\w,]+))?$"
)
_ENTRY = re.compile(r"^(\w+): ?(.*)$")
SCALARS: Final = frozenset("sibdyqotuDrf")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        name: Key in JSON.
        number: Field number in protobuf.
        type: One-letter scalar, or qualified message name such as ``core.PodSpec``.
        shape: ``[]`` and ``{}`` from the outside in; empty for a single value.
        pointer: Whether a zero value differs from an absent one.
        always: Whether a zero value is written.
        inline: Whether the message's fields stand in the parent's JSON object.
        merge_key: Strategic merge key; empty for a merged list of scalars; None when lists replace each other.
        retain_keys: Whether ``retainKeys`` applies.
        list_keys: Keys of a server-side-apply map list; ("",) for a set; None for an atomic list.
        atomic: Whether a map or message is applied as a whole.
        is_message: Whether the innermost type is a message.
    """

    name: str
    number: int
    type: str
    shape: str = ""
    pointer: bool = False
    always: bool = False
    inline: bool = False
    merge_key: str | None = None
    retain_keys: bool = False
    list_keys: tuple[str, ...] | None = None
    atomic: bool = False
    is_message: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message: ``fields`` by JSON key with the inline ones lifted, ``by_number`` as on the protobuf wire."""

    name: str
    by_number: dict[int, Field]
    fields: dict[str, Field] = field(default_factory=dict)


def _read_texts() -> dict[str, str]:
    texts: dict[str, str] = {}
    for module in (core, groups):
        for group, body in vars(module).items():
            if not group.isupper() or not isinstance(body, str):
                continue
            name = ""
            for line in body.strip().splitlines():
                if match := _ENTRY.match(line):
                    name = f"{group.lower()}.{match.group(1)}"
                    texts[name] = match.group(2)
                else:
                    texts[name] += " " + line.strip()
    return texts


_TEXTS: Final = _read_texts()


def _parse(group: str, text: str) -> Field:
    match = _FIELD.match(text)
    if match is None:
        raise ValueError(f"bad field in the schema of {group}: {text!r}")
    part = match.groupdict()
    kind = part["type"]
    if kind not in SCALARS and "." not in kind:
        kind = f"{group}.{kind}"
    marker = part["list"]
    atomic = marker == "atomic"
    list_keys = None if marker is None or atomic else ("",) if marker == "set" else tuple(marker.split(","))
    return Field(
        name=part["name"],
        number=int(part["number"]),
        type=kind,
        shape=part["shape"],
        pointer=bool(part["pointer"]),
        always=bool(part["always"]),
        inline=bool(part["inline"]),
        merge_key=part["merge"][1:] if part["merge"] else None,
        retain_keys=bool(part["retain"]),
        list_keys=list_keys,
        atomic=atomic,
        is_message=kind not in SCALARS,
    )


@cache
def find_message(name: str) -> Message | None:
    """The message of this qualified name (``core.Pod``), or None when the table does not have it."""
    text = _TEXTS.get(name)
    if text is None:
        return None
    group = name.partition(".")[0]
    message = Message(name, {f.number: f for f in (_parse(group, part) for part in text.split())})
    for item in message.by_number.values():
        if item.inline:
            inner = find_message(item.type)
            message.fields.update(inner.fields if inner else {})
        else:
            message.fields[item.name] = item
    return message


def get_message(name: str) -> Message:
    """The message of this qualified name.

    Raises:
        KeyError: The table does not have it.
    """
    message = find_message(name)
    if message is None:
        raise KeyError(name)
    return message


def list_messages() -> list[str]:
    """Qualified names of all messages."""
    return sorted(_TEXTS)
