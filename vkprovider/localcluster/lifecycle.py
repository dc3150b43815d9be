"""Background work on deletions: emptying namespaces, collecting what lost its owner, forgetting old events.

Everything is driven by changes; only the expiry of events is a timer.

Source: pkg/controller/namespace/deletion, pkg/controller/garbagecollector; ``--event-ttl`` of kube-apiserver.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.timestamps import format_time, parse_time
from vkprovider.localcluster import status
from vkprovider.localcluster.deletion import FOREGROUND, ORPHAN, DeleteOptions
from vkprovider.localcluster.objects import ObjectService
from vkprovider.localcluster.registry import Resource
from vkprovider.localcluster.store import Change, Stored

logger = logging.getLogger(__name__)
Object = dict[str, Any]
EVENT_TTL_S: Final = 3600.0
EVENT_SWEEP_S: Final = 60.0
_Item = tuple[str, str, str]
"""Collection, namespace and name."""


class LifecycleController:
    """Carries deletions through.

    Args:
        objects: The objects.
    """

    def __init__(self, objects: ObjectService) -> None:
        self._objects = objects
        self._resources: dict[str, Resource] = {r.key: r for r in objects.registry.list_stored()}
        self._by_kind = {(r.group, r.kind): r for r in objects.registry.list_stored()}
        self._dependents: dict[str, dict[_Item, None]] = {}
        self._namespaces: dict[str, None] = {}
        self._gone: dict[str, None] = {}
        self._finalizing: dict[_Item, None] = {}
        self._wakeup = asyncio.Event()

    def adopt(self) -> None:
        """Take stock of objects that were loaded from a state file."""
        for collection in self._objects.store.collections():
            for stored in collection.iterate():
                self._index(collection.name, stored.obj)
                if stored.obj["metadata"].get("deletionTimestamp"):
                    self._note_deleting(collection.name, stored.obj)

    def changed(self, collection: str, change: Change) -> None:
        """Take note of a change; called by the store for every one."""
        obj = change.stored.obj
        metadata = obj["metadata"]
        before = change.previous.obj["metadata"].get("ownerReferences") if change.previous is not None else None
        after = None if change.removed else metadata.get("ownerReferences")
        if before is not after and (before or after):
            if change.previous is not None:
                self._unindex(collection, change.previous.obj)
            if not change.removed:
                self._index(collection, obj)
        if change.removed:
            if metadata["uid"] in self._dependents:
                self._gone[metadata["uid"]] = None
                self._wakeup.set()
            for reference in metadata.get("ownerReferences") or ():
                if reference.get("blockOwnerDeletion"):
                    self._note_owner(reference, metadata.get("namespace", ""))
            namespace = metadata.get("namespace", "")
            if namespace and self._is_terminating(namespace):
                self._namespaces[namespace] = None
                self._wakeup.set()
        elif metadata.get("deletionTimestamp"):
            self._note_deleting(collection, obj)

    def _note_deleting(self, collection: str, obj: Object) -> None:
        metadata = obj["metadata"]
        if collection == "namespaces":
            self._namespaces[metadata["name"]] = None
            self._wakeup.set()
        if any(name in (FOREGROUND, ORPHAN) for name in metadata.get("finalizers") or ()):
            self._finalizing[(collection, metadata.get("namespace", ""), metadata["name"])] = None
            self._wakeup.set()

    def _note_owner(self, reference: Object, namespace: str) -> None:
        resource = self._by_kind.get((_group(reference.get("apiVersion", "")), reference.get("kind", "")))
        if resource is not None:
            self._finalizing[(resource.key, namespace if resource.namespaced else "", reference["name"])] = None
            self._wakeup.set()

    def _is_terminating(self, namespace: str) -> bool:
        found = self._objects.store.collection("namespaces").find("", namespace)
        return found is not None and bool(found.obj["metadata"].get("deletionTimestamp"))

    def _index(self, collection: str, obj: Object) -> None:
        metadata = obj["metadata"]
        item = (collection, metadata.get("namespace", ""), metadata["name"])
        for reference in metadata.get("ownerReferences") or ():
            self._dependents.setdefault(reference.get("uid", ""), {})[item] = None

    def _unindex(self, collection: str, obj: Object) -> None:
        metadata = obj["metadata"]
        item = (collection, metadata.get("namespace", ""), metadata["name"])
        for reference in metadata.get("ownerReferences") or ():
            items = self._dependents.get(reference.get("uid", ""))
            if items is not None:
                items.pop(item, None)
                if not items:
                    del self._dependents[reference.get("uid", "")]

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(), name="local-cluster-lifecycle")
            group.create_task(self._expire_events(), name="local-cluster-event-ttl")

    async def _work(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            for pending, step in (
                (self._gone, self._collect),
                (self._finalizing, self._finalize),
                (self._namespaces, self._empty_namespace),
            ):
                while pending:
                    item: Any = next(iter(pending))
                    del pending[item]
                    try:
                        step(item)
                    except status.APIStatusError as error:
                        logger.debug("Deletion step failed", extra={"item": item, "error": str(error)})
                    except Exception:
                        # One odd object must not end the deletion of all others.
                        logger.exception("Deletion step failed", extra={"item": item})
                    # Long rows of deletions must not keep requests waiting.
                    await asyncio.sleep(0)

    def _find(self, item: _Item) -> tuple[Resource, Stored] | None:
        resource = self._resources.get(item[0])
        stored = self._objects.store.collection(item[0]).find(item[1], item[2])
        return (resource, stored) if resource is not None and stored is not None else None

    def _collect(self, owner_uid: str) -> None:
        """Delete what the gone owner owned, unless another owner is still there."""
        for item in tuple(self._dependents.get(owner_uid, ())):
            found = self._find(item)
            if found is None:
                continue
            resource, stored = found
            references = stored.obj["metadata"].get("ownerReferences") or ()
            others = [r for r in references if r.get("uid") != owner_uid and self._owner_lives(r, item[1])]
            if others:
                metadata = {**stored.obj["metadata"], "ownerReferences": others}
                self._objects.rewrite(resource, stored, {**stored.obj, "metadata": metadata})
            elif not stored.obj["metadata"].get("deletionTimestamp"):
                uid = stored.obj["metadata"]["uid"]
                self._objects.deletion.delete(resource, stored, DeleteOptions(uid=uid, propagation="Background"))

    def _owner_lives(self, reference: Object, namespace: str) -> bool:
        resource = self._by_kind.get((_group(reference.get("apiVersion", "")), reference.get("kind", "")))
        if resource is None:
            return True
        collection = self._objects.store.collection(resource.key)
        found = collection.find(namespace if resource.namespaced else "", reference.get("name", ""))
        return found is not None and found.obj["metadata"]["uid"] == reference.get("uid")

    def _finalize(self, item: _Item) -> None:
        """Go on with a foreground or orphaning deletion."""
        found = self._find(item)
        if found is None or not found[1].obj["metadata"].get("deletionTimestamp"):
            return
        _resource, stored = found
        metadata = stored.obj["metadata"]
        finalizers = metadata.get("finalizers") or ()
        dependents = tuple(self._dependents.get(metadata["uid"], ()))
        if ORPHAN in finalizers:
            self._orphan(metadata["uid"], dependents)
            self._drop_finalizer(item, ORPHAN)
        elif FOREGROUND in finalizers:
            blocking = False
            for dependent in dependents:
                other = self._find(dependent)
                if other is None:
                    continue
                kind, child = other
                blocking = blocking or any(
                    r.get("uid") == metadata["uid"] and r.get("blockOwnerDeletion")
                    for r in child.obj["metadata"].get("ownerReferences") or ()
                )
                if not child.obj["metadata"].get("deletionTimestamp"):
                    self._objects.deletion.delete(kind, child, DeleteOptions(propagation="Foreground"))
            if not blocking or not self._dependents.get(metadata["uid"]):
                self._drop_finalizer(item, FOREGROUND)

    def _orphan(self, uid: str, dependents: tuple[_Item, ...]) -> None:
        for dependent in dependents:
            other = self._find(dependent)
            if other is not None:
                kind, child = other
                metadata = dict(child.obj["metadata"])
                left = [r for r in metadata.get("ownerReferences") or () if r.get("uid") != uid]
                metadata["ownerReferences"] = left
                if not left:
                    del metadata["ownerReferences"]
                self._objects.rewrite(kind, child, {**child.obj, "metadata": metadata})

    def _drop_finalizer(self, item: _Item, name: str) -> None:
        found = self._find(item)
        if found is None:
            return
        resource, stored = found
        metadata = dict(stored.obj["metadata"])
        metadata["finalizers"] = [f for f in metadata.get("finalizers") or () if f != name]
        if not metadata["finalizers"]:
            del metadata["finalizers"]
        self._objects.rewrite(resource, stored, {**stored.obj, "metadata": metadata})

    def _empty_namespace(self, name: str) -> None:
        """Delete what a terminating namespace holds; when nothing is left, let it go."""
        namespaces = self._resources["namespaces"]
        stored = self._objects.store.collection("namespaces").find("", name)
        if stored is None or not stored.obj["metadata"].get("deletionTimestamp"):
            return
        left: dict[str, int] = {}
        for collection in self._objects.store.collections():
            resource = self._resources.get(collection.name)
            if resource is None or not resource.namespaced:
                continue
            for item in tuple(collection.iterate(name)):
                if not item.obj["metadata"].get("deletionTimestamp"):
                    self._objects.deletion.delete(resource, item, DeleteOptions(propagation="Background"))
                if collection.find(name, item.obj["metadata"]["name"]) is not None:
                    left[collection.name] = left.get(collection.name, 0) + 1
        stored = self._objects.store.collection("namespaces").find("", name)
        if stored is None:
            return
        if left:
            self._report_remaining(namespaces, stored, left)
        elif "kubernetes" in (stored.obj.get("spec") or {}).get("finalizers", ()):
            kept = [f for f in stored.obj["spec"]["finalizers"] if f != "kubernetes"]
            spec = {key: value for key, value in stored.obj["spec"].items() if key != "finalizers"}
            self._objects.rewrite(
                namespaces, stored, {**stored.obj, "spec": {**spec, **({"finalizers": kept} if kept else {})}}
            )

    def _report_remaining(self, resource: Resource, stored: Stored, left: dict[str, int]) -> None:
        listed = ", ".join(
            f"{key.partition('.')[0]}. has {count} resource instances" for key, count in sorted(left.items())
        )
        condition = {
            "type": "NamespaceContentRemaining",
            "status": "True",
            "lastTransitionTime": format_time(datetime.now(UTC)),
            "reason": "SomeResourcesRemain",
            "message": f"Some resources are remaining: {listed}",
        }
        state = stored.obj.get("status") or {}
        before = state.get("conditions") or []
        if any(c.get("message") == condition["message"] for c in before):
            return
        changed = {**state, "phase": "Terminating", "conditions": [condition]}
        self._objects.rewrite(resource, stored, {**stored.obj, "status": changed})

    async def _expire_events(self) -> None:
        events = self._objects.store.collection("events")
        while True:
            await asyncio.sleep(EVENT_SWEEP_S)
            horizon = datetime.now(UTC).timestamp() - EVENT_TTL_S
            for stored in tuple(events.iterate()):
                obj = stored.obj
                last = obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"]["creationTimestamp"]
                if parse_time(last).timestamp() < horizon and events.find(*stored.key) is stored:
                    events.remove(stored)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
