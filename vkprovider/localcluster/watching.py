"""Lists and watches.

Source: staging/src/k8s.io/apiserver/pkg/endpoints/handlers/{get,watch}.go, pkg/storage/cacher.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from vkprovider.localcluster import status
from vkprovider.localcluster.content import JSON, json_response
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.selectors import (
    FieldSelector,
    LabelSelector,
    parse_field_selector,
    parse_label_selector,
)
from vkprovider.localcluster.store import Change, ChangeQueue, Collection, Store, Stored, dumps
from vkprovider.localcluster.tables import make_table
from vkprovider.localcluster.views import View

Object = dict[str, Any]
MIN_TIMEOUT_S: Final = 1800
BOOKMARK_S: Final = 60.0
INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Parameters of a list or watch.

    Attributes:
        namespace: Namespace, or empty for all.
        labels: Label selector.
        fields: Field selector.
        name: Only this object; empty for all.
        resource_version: As given.
        match: ``resourceVersionMatch`` as given.
        limit: Most objects of one page; 0 for all.
        continuation: Token of the next page.
        timeout_s: When a watch ends; None for the server's choice.
        bookmarks: Whether a watch may send bookmarks.
        initial_events: ``sendInitialEvents``; None when not given.
        include: ``includeObject`` of tables.
    """

    namespace: str
    labels: LabelSelector
    fields: FieldSelector
    name: str
    resource_version: str
    match: str
    limit: int
    continuation: str
    timeout_s: float | None
    bookmarks: bool
    initial_events: bool | None
    include: str

    @property
    def selects(self) -> bool:
        """Whether there is anything to select by besides the namespace."""
        return bool(self.name or self.labels.requirements or self.fields.terms)

    def matches(self, obj: Object) -> bool:
        """Whether the object is asked for; the namespace included."""
        metadata = obj["metadata"]
        if self.namespace and metadata.get("namespace") != self.namespace:
            return False
        if self.name and metadata["name"] != self.name:
            return False
        return self.labels.matches(metadata.get("labels")) and self.fields.matches(obj)


_TRUE: Final = ("1", "true", "True", "t")


def _number(query: Mapping[str, str], key: str) -> int | None:
    text = query.get(key)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise status.bad_request(f'{key}: Invalid value: "{text}": must be an integer') from None


def parse_list_options(resource: Resource, namespace: str, name: str, query: Mapping[str, str]) -> ListOptions:
    """Options of a list, watch or deletecollection request.

    Raises:
        APIStatusError: 400, a parameter is malformed.
    """
    version = query.get("resourceVersion", "")
    if version and not version.isdigit():
        raise status.bad_request(
            f'invalid resource version: resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing '
            f'"{version}": invalid syntax'
        )
    fields = query.get("fieldSelector", "")
    labels = query.get("labelSelector", "")
    initial = query.get("sendInitialEvents")
    return ListOptions(
        namespace=namespace,
        labels=parse_label_selector(labels) if labels else LabelSelector(),
        fields=parse_field_selector(fields, resource.key) if fields else FieldSelector(),
        name=name,
        resource_version=version,
        match=query.get("resourceVersionMatch", ""),
        limit=_number(query, "limit") or 0,
        continuation=query.get("continue", ""),
        timeout_s=_number(query, "timeoutSeconds"),
        bookmarks=query.get("allowWatchBookmarks") in _TRUE,
        initial_events=None if initial is None else initial in _TRUE,
        include=query.get("includeObject", "Metadata"),
    )


def select(collection: Collection, options: ListOptions) -> list[Stored]:
    """The current objects that are asked for, sorted."""
    if options.name and options.namespace:
        found = collection.find(options.namespace, options.name)
        return [found] if found is not None and options.matches(found.obj) else []
    if not options.selects:
        return collection.list_sorted(options.namespace)
    return sorted(
        (item for item in collection.iterate(options.namespace) if options.matches(item.obj)), key=lambda item: item.key
    )


class Lister:
    """Answers lists.

    Args:
        store: Where objects live.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(self, resource: Resource, options: ListOptions) -> tuple[list[Stored], Object]:
        """Objects and list metadata of one page.

        Raises:
            APIStatusError: 410, the continue token or the exact version is too old.
        """
        collection = self._store.collection(resource.key)
        version = self._store.version
        start: tuple[str, str] | None = None
        if options.continuation:
            token = _read_token(options.continuation)
            version, start = token
            kept = collection.snapshot(version, options.namespace)
            if kept is None and version != self._store.version:
                raise status.expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a "
                    "new list without the continue parameter, or use the continue token in this response to retrieve "
                    "the remainder of the results."
                )
            source = kept if kept is not None else collection.list_sorted(options.namespace)
            items = [item for item in source if item.key > start and options.matches(item.obj)]
        else:
            wanted = int(options.resource_version or 0)
            if options.match == "Exact" and wanted != version:
                raise status.expired(f"The resourceVersion for the provided list is too old: {wanted} ({version})")
            if wanted > version:
                raise status.APIStatusError(
                    504,
                    "Timeout",
                    f"Timeout: Too large resource version: {wanted}, current: {version}",
                    {
                        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                        "retryAfterSeconds": 1,
                    },
                )
            items = select(collection, options)
        metadata: Object = {"resourceVersion": str(version)}
        if options.limit and len(items) > options.limit:
            if start is None:
                collection.keep_snapshot(version, options.namespace, tuple(collection.list_sorted(options.namespace)))
            page = items[: options.limit]
            metadata["continue"] = _make_token(version, page[-1].key)
            if not options.labels.requirements and not options.fields.terms:
                metadata["remainingItemCount"] = len(items) - len(page)
            items = page
        return items, metadata


def _make_token(version: int, key: tuple[str, str]) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": f"{key[0]}/{key[1]}"})
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _read_token(text: str) -> tuple[int, tuple[str, str]]:
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        namespace, _, name = value["start"].partition("/")
        return int(value["rv"]), (namespace, name)
    except (ValueError, KeyError, TypeError):
        raise status.bad_request("continue key is not valid") from None


def list_response(
    resource: Resource, view: View, form: str, items: list[Stored], metadata: Object, options: ListOptions
) -> web.Response:
    """The answer to a list: the kind's list, a table, or metadata only."""
    if form == "table":
        table = make_table(resource.key, (item.obj for item in items), metadata=metadata, include=options.include)
        return json_response(dumps(table).encode())
    if form == "partial":
        head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        encoded = [view.encode_partial(item) for item in items]
    else:
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        encoded = [view.encode_item(item) for item in items]
    body = b"".join((dumps(head)[:-1].encode(), b',"items":[', b",".join(encoded), b"]}"))
    return json_response(body)


class Watcher:
    """One watch: from changes of a collection to events on a response.

    Args:
        store: Where objects live.
        resource: What is watched.
        view: How objects are shown.
        form: ``object``, ``table`` or ``partial``.
        options: What is asked for.
    """

    def __init__(self, store: Store, resource: Resource, view: View, form: str, options: ListOptions) -> None:
        self._store = store
        self._resource = resource
        self._view = view
        self._form = form
        self._options = options
        self._headers = True
        self._encode: Callable[[Stored], bytes] = (
            self._encode_row if form == "table" else view.encode_partial if form == "partial" else view.encode
        )

    async def serve(self, request: web.BaseRequest, open_queues: set[ChangeQueue]) -> web.StreamResponse:
        """Answer the request until its time is up, the client leaves or the server stops.

        Args:
            request: The request.
            open_queues: Where the queue is listed while it is open, so that a stopping server can close it.

        Raises:
            APIStatusError: The options contradict each other.
        """
        collection = self._store.collection(self._resource.key)
        queue = ChangeQueue(collection)
        open_queues.add(queue)
        try:
            first = self._start(collection)
            response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(first)
            if not self._failed:
                await self._follow(response, queue)
            await response.write_eof()
            return response
        finally:
            queue.close()
            open_queues.discard(queue)

    _failed = False

    def _start(self, collection: Collection) -> bytes:
        """What is sent at once: the present state, or the changes missed since a version."""
        options = self._options
        if options.match and options.initial_events is None:
            raise self._invalid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        if options.initial_events is not None and options.match != "NotOlderThan":
            raise self._invalid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        version = int(options.resource_version or 0)
        show_all = options.initial_events if options.initial_events is not None else version == 0
        parts: list[bytes] = []
        if show_all:
            parts += [self._event(b"ADDED", item) for item in select(collection, options)]
            if options.initial_events and options.bookmarks:
                parts.append(self._bookmark(end_of_initial=True))
        elif version:
            try:
                changes = collection.since(version)
            except status.APIStatusError as error:
                self._failed = True
                return b'{"type":"ERROR","object":' + dumps(error.to_status()).encode() + b"}\n"
            parts += [event for event in map(self._translate, changes) if event]
        return b"".join(parts)

    def _invalid(self, detail: str) -> status.APIStatusError:
        error = status.field_forbidden("resourceVersionMatch", detail)
        return status.invalid_object("ListOptions", "meta.k8s.io", "", [error])

    async def _follow(self, response: web.StreamResponse, queue: ChangeQueue) -> None:
        loop = asyncio.get_running_loop()
        # Spread the ends of watches, as the API server does; not a matter of security.
        timeout_s = self._options.timeout_s or MIN_TIMEOUT_S * (1 + random.random())  # noqa: S311
        deadline = loop.time() + timeout_s
        while not queue.closed:
            remaining = deadline - loop.time()
            if remaining <= 0:
                if self._options.bookmarks:
                    await response.write(self._bookmark())
                return
            try:
                async with asyncio.timeout(min(remaining, BOOKMARK_S)):
                    changes = await queue.take()
            except TimeoutError:
                if self._options.bookmarks and remaining > BOOKMARK_S:
                    await response.write(self._bookmark())
                continue
            data = b"".join(event for event in map(self._translate, changes) if event)
            if data:
                await response.write(data)

    def _translate(self, change: Change) -> bytes | None:
        """The event of a change for this watch, or None when it does not concern it."""
        options = self._options
        stored, previous = change.stored, change.previous
        if not options.selects:
            if options.namespace and stored.obj["metadata"].get("namespace") != options.namespace:
                return None
            kind = b"DELETED" if change.removed else b"MODIFIED" if previous is not None else b"ADDED"
            return self._event(kind, stored)
        matched = previous is not None and options.matches(previous.obj)
        matches = not change.removed and options.matches(stored.obj)
        if matches:
            return self._event(b"MODIFIED" if matched else b"ADDED", stored)
        if not matched or previous is None:
            return None
        if change.removed:
            return self._event(b"DELETED", stored)
        # It stopped matching: the client sees its old state go, at the version of the change.
        metadata = {**previous.obj["metadata"], "resourceVersion": str(change.version)}
        return self._event(b"DELETED", Stored({**previous.obj, "metadata": metadata}, change.version))

    def _event(self, kind: bytes, stored: Stored) -> bytes:
        return b'{"type":"' + kind + b'","object":' + self._encode(stored) + b"}\n"

    def _encode_row(self, stored: Stored) -> bytes:
        metadata = {"resourceVersion": str(stored.version)}
        include = self._options.include
        table = make_table(self._resource.key, (stored.obj,), metadata=metadata, include=include, headers=self._headers)
        self._headers = False
        return dumps(table).encode()

    def _bookmark(self, *, end_of_initial: bool = False) -> bytes:
        metadata: Object = {"resourceVersion": str(self._store.version), "creationTimestamp": None}
        if end_of_initial:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        obj: Object
        if self._form == "table":
            row = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            obj = {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": metadata["resourceVersion"]},
                "columnDefinitions": [],
                "rows": [{"cells": [], "object": row}],
            }
        elif self._form == "partial":
            obj = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        else:
            obj = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": metadata}
        return b'{"type":"BOOKMARK","object":' + dumps(obj).encode() + b"}\n"
