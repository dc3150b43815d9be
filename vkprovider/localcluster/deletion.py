"""Deletion: grace periods, finalizers, preconditions and propagation.

Source: staging/src/k8s.io/apiserver/pkg/registry/rest/delete.go (BeforeDelete), pkg/registry/generic/registry/store.go
(Delete, deletionFinalizersForGarbageCollection), pkg/registry/core/pod/strategy.go (CheckGracefulDelete).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vkprovider.api.timestamps import format_time, parse_time
from vkprovider.localcluster import status
from vkprovider.localcluster.registry import Registry, Resource
from vkprovider.localcluster.store import Store, Stored

Object = dict[str, Any]
FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
_POLICIES: Final = ("Foreground", "Background", "Orphan")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a delete request asks for.

    Attributes:
        grace_period_s: Seconds of grace; None takes the object's own.
        uid: The object must have this UID.
        resource_version: The object must be at this version.
        propagation: ``Background``, ``Foreground`` or ``Orphan``; empty takes the default.
        dry_run: Whether everything happens but the deleting.
    """

    grace_period_s: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    propagation: str = ""
    dry_run: bool = False


def parse_delete_options(body: Mapping[str, Any] | None, query: Mapping[str, str]) -> DeleteOptions:
    """Options of a request: the body's, else the query's.

    Raises:
        APIStatusError: 400 or 422, a value is malformed.
    """
    given = body or {}
    preconditions = given.get("preconditions") or {}
    grace: Any = given.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    if grace is not None:
        try:
            grace = int(grace)
        except (TypeError, ValueError):
            raise status.bad_request(f"gracePeriodSeconds must be an integer, not {grace!r}") from None
    propagation = given.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = given.get("orphanDependents", query.get("orphanDependents"))
    if not propagation and orphan is not None:
        propagation = "Orphan" if orphan in (True, "true", "1") else "Background"
    if propagation and propagation not in _POLICIES:
        error = status.not_supported("propagationPolicy", propagation, [*_POLICIES, "nil"])
        raise status.invalid_object("DeleteOptions", "meta.k8s.io", "", [error])
    return DeleteOptions(
        grace_period_s=grace,
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
        propagation=propagation,
        dry_run=bool(given.get("dryRun") or query.get("dryRun")),
    )


def should_vanish(obj: Object) -> bool:
    """Whether an object whose deletion was requested has nothing left to wait for."""
    metadata = obj["metadata"]
    return (
        bool(metadata.get("deletionTimestamp"))
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not (obj.get("kind") == "Namespace" and (obj.get("spec") or {}).get("finalizers"))
    )


@dataclass(frozen=True, slots=True)
class Deleted:
    """Outcome of a deletion.

    Attributes:
        stored: The object as it is now, or its last state.
        gone: Whether it is no more.
    """

    stored: Stored
    gone: bool


class Deletion:
    """Deletes objects.

    Args:
        store: Where objects live.
        registry: The resources.
    """

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def delete(self, resource: Resource, current: Stored, options: DeleteOptions) -> Deleted:
        """Delete an object, or begin to.

        Raises:
            APIStatusError: 409, a precondition does not hold.
        """
        self._check_preconditions(resource, current, options)
        obj = current.obj
        metadata = dict(obj["metadata"])
        now = datetime.now(UTC).replace(microsecond=0)
        if metadata.get("deletionTimestamp"):
            pending = self._shorten(metadata, now, options)
        else:
            grace = self._grace_period(resource, obj, options)
            metadata["deletionTimestamp"] = format_time(now + timedelta(seconds=grace))
            metadata["deletionGracePeriodSeconds"] = grace
            if metadata.get("generation"):
                metadata["generation"] += 1
            pending = grace > 0
        if resource.key == "namespaces":
            metadata.pop("deletionGracePeriodSeconds", None)
        elif not pending:
            metadata["deletionGracePeriodSeconds"] = 0
        finalizers = self._finalizers(metadata.get("finalizers") or [], options)
        if finalizers:
            metadata["finalizers"] = finalizers
        else:
            metadata.pop("finalizers", None)
        updated = {**obj, "metadata": metadata}
        if resource.key == "namespaces":
            updated["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        if options.dry_run:
            return Deleted(Stored(updated, current.version), should_vanish(updated))
        collection = self._store.collection(resource.key)
        if should_vanish(updated):
            return Deleted(collection.remove(current, updated), True)
        if updated == obj:
            return Deleted(current, False)
        return Deleted(collection.put(updated), False)

    def _check_preconditions(self, resource: Resource, current: Stored, options: DeleteOptions) -> None:
        metadata = current.obj["metadata"]
        if options.uid is not None and options.uid != metadata["uid"]:
            raise status.conflict(
                resource.kind,
                resource.group,
                metadata["name"],
                f"the UID in the precondition ({options.uid}) does not match the UID in record ({metadata['uid']}). "
                "The object might have been deleted and then recreated",
            )
        if options.resource_version is not None and options.resource_version != str(current.version):
            raise status.conflict(
                resource.kind,
                resource.group,
                metadata["name"],
                f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
                f"ResourceVersion in record ({current.version}). The object might have been modified",
            )

    @staticmethod
    def _grace_period(resource: Resource, obj: Object, options: DeleteOptions) -> int:
        """Grace in seconds that this deletion gives; only pods bound to a node have any."""
        if resource.key != "pods":
            return 0
        spec = obj.get("spec") or {}
        if not spec.get("nodeName") or (obj.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
            return 0
        grace = options.grace_period_s
        if grace is None:
            grace = spec.get("terminationGracePeriodSeconds", 30)
        return 1 if grace < 0 else int(grace)

    @staticmethod
    def _shorten(metadata: Object, now: datetime, options: DeleteOptions) -> bool:
        """Adjust a deletion under way: grace only ever shrinks. Returns whether there is still something to wait for."""
        running = metadata.get("deletionGracePeriodSeconds")
        if not running:
            return False
        if options.grace_period_s is None:
            return True
        wanted = 1 if options.grace_period_s < 0 else options.grace_period_s
        if wanted >= running:
            return True
        moment = parse_time(metadata["deletionTimestamp"]) - timedelta(seconds=running) + timedelta(seconds=wanted)
        if moment < now:
            moment = now
            wanted = 1 if wanted else 0
        metadata["deletionTimestamp"] = format_time(moment)
        metadata["deletionGracePeriodSeconds"] = wanted
        return wanted > 0

    @staticmethod
    def _finalizers(finalizers: list[str], options: DeleteOptions) -> list[str]:
        kept = list(finalizers)
        if options.propagation:
            kept = [name for name in kept if name not in (FOREGROUND, ORPHAN)]
            if options.propagation == "Foreground":
                kept.append(FOREGROUND)
            elif options.propagation == "Orphan":
                kept.append(ORPHAN)
        return kept
