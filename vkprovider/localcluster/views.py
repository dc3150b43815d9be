"""How stored objects look to the clients of one resource: the same collection may be served in two versions.

Events are kept in their core/v1 form; ``events.k8s.io`` shows them with its own names.

Source: pkg/apis/events/v1/conversion.go.
"""

from __future__ import annotations

from typing import Any, Final

from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.store import Stored, dumps
from vkprovider.localcluster.tables import partial_metadata

Object = dict[str, Any]
_TO_NEW: Final = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_TO_CORE: Final = {new: core for core, new in _TO_NEW.items()}


def event_to_new(obj: Object) -> Object:
    """A core/v1 Event as ``events.k8s.io/v1``."""
    renamed = {_TO_NEW.get(key, key): value for key, value in obj.items()}
    for key in ("reportingController", "reportingInstance"):
        if not renamed.get(key):
            renamed.pop(key, None)
    return {**renamed, "kind": "Event", "apiVersion": "events.k8s.io/v1"}


def event_to_core(obj: Object) -> Object:
    """An ``events.k8s.io/v1`` Event as core/v1."""
    renamed = {_TO_CORE.get(key, key): value for key, value in obj.items()}
    return {**renamed, "kind": "Event", "apiVersion": "v1"}


class View:
    """The form of a resource.

    Args:
        resource: Which resource.
    """

    def __init__(self, resource: Resource) -> None:
        self.resource: Final = resource
        self._head = len(dumps({"kind": resource.kind, "apiVersion": resource.api_version}))
        self._converted: Final = resource.group == "events.k8s.io"

    def encode(self, stored: Stored) -> bytes:
        """JSON of the object."""
        return stored.encode("events.k8s.io", event_to_new) if self._converted else stored.json

    def encode_item(self, stored: Stored) -> bytes:
        """JSON of the object inside of a list, which carries no kind and apiVersion, as upstream."""
        data = self.encode(stored)
        return b"{" + data[self._head :]

    def encode_partial(self, stored: Stored) -> bytes:
        """JSON of the object's metadata only."""
        return stored.encode("partial", partial_metadata)

    def show(self, obj: Object) -> Object:
        """The object as the client knows it."""
        return event_to_new(obj) if self._converted else obj

    def read(self, obj: Object) -> Object:
        """The object as it is kept."""
        return event_to_core(obj) if self._converted else obj
