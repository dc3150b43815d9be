"""Objects in memory: versions, indexes, history for watches, and the encodings that are sent.

A stored object is never changed; every write makes a new one that shares what stayed the same. All of it runs on one
event loop, and no method awaits, so that a read and the write that follows it are one step.

Source: staging/src/k8s.io/apiserver/pkg/storage/cacher, pkg/registry/generic/registry/store.go.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from vkprovider.localcluster import status

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for cluster-wide objects) and name."""

HISTORY_EVENTS: Final = 10_000
HISTORY_S: Final = 300.0
SNAPSHOTS: Final = 64
ENCODED_EVENTS: Final = 1_000
QUEUED_CHANGES: Final = 20_000
dumps: Final[Callable[[Any], str]] = json.JSONEncoder(
    separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode


class Stored:
    """One version of one object, with its encodings.

    Attributes:
        obj: The object; read only.
        version: ``metadata.resourceVersion`` as a number.
        encoded: Transform name to encoded bytes.
    """

    __slots__ = ("_spec", "encoded", "obj", "version")

    def __init__(self, obj: Object, version: int, previous: Stored | None = None) -> None:
        self.obj = obj
        self.version = version
        self.encoded: dict[str, bytes] = {}
        self._spec: str | None = None
        if previous is not None and "spec" in obj and obj["spec"] is previous.obj.get("spec"):
            # Most writes leave the spec alone; its text is half of the object's.
            self._spec = previous.encoded_spec

    @property
    def key(self) -> Key:
        """Namespace and name."""
        metadata = self.obj["metadata"]
        return metadata.get("namespace", ""), metadata["name"]

    @property
    def json(self) -> bytes:
        """The object as JSON."""
        data = self.encoded.get("")
        if data is None:
            parts = [
                f"{dumps(key)}:{self.encoded_spec if key == 'spec' else dumps(value)}"
                for key, value in self.obj.items()
            ]
            data = self.encoded[""] = f"{{{','.join(parts)}}}".encode()
        return data

    def forget_encodings(self) -> None:
        """Give the memory of the encodings back; they are made anew when they are asked for."""
        self.encoded.clear()
        self._spec = None

    @property
    def encoded_spec(self) -> str:
        """The object's spec as JSON."""
        if self._spec is None:
            self._spec = dumps(self.obj["spec"])
        return self._spec

    def encode(self, name: str, transform: Callable[[Object], Any]) -> bytes:
        """JSON of the transformed object, made once for each transform name."""
        data = self.encoded.get(name)
        if data is None:
            data = self.encoded[name] = dumps(transform(self.obj)).encode()
        return data


@dataclass(slots=True, eq=False)
class Change:
    """One entry of the history.

    Attributes:
        version: Resource version of the change.
        stored: The object after the change; for a removal its last state at the version of the removal.
        previous: The object before; None for a creation.
        removed: Whether the object is gone.
        at: Loop-independent monotonic time, in seconds.
    """

    version: int
    stored: Stored
    previous: Stored | None
    removed: bool
    at: float


class Listener(Protocol):
    """Receives changes as they happen; must not block and must not write to the store."""

    def notify(self, change: Change) -> None:
        """Take note of one change."""
        ...


class Collection:
    """All objects of one resource.

    Args:
        store: The store that it belongs to.
        name: Key of the resource, e.g. ``pods`` or ``deployments.apps``.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name: Final = name
        self._store = store
        self._namespaces: dict[str, dict[str, Stored]] = {}
        self._history: deque[Change] = deque()
        self._dropped_version = 0
        self._snapshots: dict[tuple[int, str], tuple[Stored, ...]] = {}
        self.listeners: dict[Listener, None] = {}

    def __len__(self) -> int:
        return sum(len(items) for items in self._namespaces.values())

    def find(self, namespace: str, name: str) -> Stored | None:
        """The current version, or None."""
        items = self._namespaces.get(namespace)
        return items.get(name) if items else None

    def iterate(self, namespace: str = "") -> Iterator[Stored]:
        """Current versions in one namespace, or all of them, in no particular order; do not write meanwhile."""
        if namespace:
            yield from self._namespaces.get(namespace, {}).values()
        else:
            for items in self._namespaces.values():
                yield from items.values()

    def list_sorted(self, namespace: str = "") -> list[Stored]:
        """Current versions sorted by namespace and name."""
        return sorted(self.iterate(namespace), key=lambda stored: stored.key)

    def snapshot(self, version: int, namespace: str) -> tuple[Stored, ...] | None:
        """The list kept for a continue token, or None when it was dropped."""
        return self._snapshots.get((version, namespace))

    def keep_snapshot(self, version: int, namespace: str, items: tuple[Stored, ...]) -> None:
        """Keep a list for the continue tokens that name it; only the newest ones stay."""
        self._snapshots[(version, namespace)] = items
        while len(self._snapshots) > SNAPSHOTS:
            self._snapshots.pop(next(iter(self._snapshots)))

    def put(self, obj: Object) -> Stored:
        """Store a new object or a new version; the resource version is set here.

        The object and its metadata must not be shared with other versions, as the version is written into them.
        """
        version = self._store.advance()
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(version)
        items = self._namespaces.setdefault(metadata.get("namespace", ""), {})
        previous = items.get(metadata["name"])
        stored = Stored(obj, version, previous)
        items[metadata["name"]] = stored
        self._record(Change(version, stored, previous, False, time.monotonic()))
        return stored

    def remove(self, stored: Stored, final: Object | None = None) -> Stored:
        """Take an object away.

        Args:
            stored: Its current version.
            final: Last state to show, when it differs from the current one.

        Returns:
            The last state, at the version of the removal.
        """
        namespace, name = stored.key
        items = self._namespaces[namespace]
        del items[name]
        if not items:
            del self._namespaces[namespace]
        version = self._store.advance()
        last = dict(final or stored.obj)
        last["metadata"] = {**last["metadata"], "resourceVersion": str(version)}
        gone = Stored(last, version, stored)
        self._record(Change(version, gone, stored, True, time.monotonic()))
        return gone

    def restore(self, obj: Object) -> None:
        """Put back an object from a state file, at its own version, without telling anyone."""
        metadata = obj["metadata"]
        stored = Stored(obj, int(metadata["resourceVersion"]))
        self._namespaces.setdefault(metadata.get("namespace", ""), {})[metadata["name"]] = stored

    def since(self, version: int) -> list[Change]:
        """Changes after a version, oldest first.

        Raises:
            APIStatusError: 410, the history does not reach back so far, or the version was never given out.
        """
        if version < self._dropped_version or version < self._store.first_version:
            oldest = max(self._dropped_version, self._store.first_version)
            raise status.expired(f"too old resource version: {version} ({oldest})")
        if version > self._store.version:
            raise status.expired(f"resource version in the future: {version} ({self._store.version})")
        found: list[Change] = []
        for change in reversed(self._history):
            if change.version <= version:
                break
            found.append(change)
        return found[::-1]

    def _record(self, change: Change) -> None:
        history = self._history
        history.append(change)
        horizon = change.at - HISTORY_S
        while len(history) > HISTORY_EVENTS or history[0].at < horizon:
            self._dropped_version = history.popleft().version
        if len(history) > ENCODED_EVENTS:
            old = history[-ENCODED_EVENTS].stored
            if self.find(*old.key) is not old:
                old.forget_encodings()
        self._store.changed(self.name, change)
        for listener in tuple(self.listeners):
            listener.notify(change)


class Store:
    """All collections and the one counter of resource versions.

    Args:
        on_change: Called with collection name and change, before the listeners; for a state file.
    """

    def __init__(self, on_change: Callable[[str, Change], None] | None = None) -> None:
        self.version = 1
        self.first_version = 0
        self._collections: dict[str, Collection] = {}
        self._on_change = on_change

    def collection(self, name: str) -> Collection:
        """The collection of this key; made when it does not exist."""
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = Collection(self, name)
        return found

    def collections(self) -> Iterable[Collection]:
        """All collections that hold or held something."""
        return tuple(self._collections.values())

    def advance(self) -> int:
        """The next resource version."""
        self.version += 1
        return self.version

    def changed(self, name: str, change: Change) -> None:
        """Pass a change on to the state file."""
        if self._on_change is not None:
            self._on_change(name, change)

    def start_after(self, version: int) -> None:
        """Go on after a restart: versions up to this one belong to the past and cannot be replayed."""
        self.version = self.first_version = version


class ChangeQueue:
    """A listener that one reader drains; the waiting part of watches and of the scheduler.

    Args:
        collection: What to listen to.
        limit: Most changes that may wait; with more the queue is closed. None for no limit.
    """

    def __init__(self, collection: Collection, *, limit: int | None = QUEUED_CHANGES) -> None:
        self._collection = collection
        self._limit = limit
        self._changes: list[Change] = []
        self._wakeup = asyncio.Event()
        self.closed = False
        collection.listeners[self] = None

    def notify(self, change: Change) -> None:
        """Queue a change; a reader that is too far behind is cut off, and lists again."""
        if self._limit is not None and len(self._changes) >= self._limit:
            self.close()
            return
        self._changes.append(change)
        self._wakeup.set()

    def close(self) -> None:
        """Stop listening and end the reader."""
        self.closed = True
        self._collection.listeners.pop(self, None)
        self._wakeup.set()

    async def take(self) -> list[Change]:
        """All queued changes, at least one; an empty list once closed."""
        while not self._changes and not self.closed:
            self._wakeup.clear()
            await self._wakeup.wait()
        changes, self._changes = self._changes, []
        return changes
