"""Creating, changing and deleting objects: what the API server's registry does between a body and the store.

All methods are synchronous: one call is one step on the event loop, so that no other request comes between the check
of a precondition and the write.

Source: staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go, pkg/registry/rest/{create,update,delete}.go.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from vkprovider.api.timestamps import format_time
from vkprovider.localcluster import status
from vkprovider.localcluster.admission import random_suffix
from vkprovider.localcluster.decoding import conform
from vkprovider.localcluster.deletion import Deletion, should_vanish
from vkprovider.localcluster.registry import Registry, Resource
from vkprovider.localcluster.store import Store, Stored
from vkprovider.localcluster.strategies import Strategies
from vkprovider.localcluster.users import CLUSTER, User
from vkprovider.localcluster.validation import validate_metadata, validate_metadata_update

Object = dict[str, Any]
_MAX_GENERATED: Final = 63 - 5


@dataclass(slots=True)
class WriteOptions:
    """How a write is done.

    Attributes:
        user: Who asks.
        dry_run: Whether everything happens but the storing.
        strict: Whether an unknown field is an error.
        unknown: Takes the unknown fields that were dropped, for warnings.
    """

    user: User = CLUSTER
    dry_run: bool = False
    strict: bool = False
    unknown: list[str] = field(default_factory=list)


class ObjectService:
    """The verbs on stored objects.

    Args:
        store: Where objects live.
        registry: The resources.
        strategies: What is special about each kind.
    """

    def __init__(self, store: Store, registry: Registry, strategies: Strategies) -> None:
        self.store: Final = store
        self.registry: Final = registry
        self.strategies: Final = strategies
        self.deletion: Final = Deletion(store, registry)

    def get(self, resource: Resource, namespace: str, name: str) -> Stored:
        """The current version.

        Raises:
            APIStatusError: 404, there is none.
        """
        found = self.store.collection(resource.key).find(namespace, name)
        if found is None:
            raise status.not_found(resource.plural, resource.group, name)
        return found

    def create(self, resource: Resource, namespace: str, body: Object, options: WriteOptions) -> Stored:
        """Create an object.

        Args:
            resource: What it is.
            namespace: Namespace of the request; empty for cluster-wide resources.
            body: The object as sent; not changed.
            options: User, dry run, strictness.

        Raises:
            APIStatusError: It is malformed or invalid, exists already, or its namespace is not there.
        """
        obj = self._decode(resource, body, options)
        metadata = obj["metadata"] = dict(obj.get("metadata") or {})
        self._check_namespace(resource, namespace, metadata)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._generate_name(resource, namespace, metadata["generateName"])
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "managedFields"):
            metadata.pop(key, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = format_time(datetime.now(UTC))
        if resource.generation:
            metadata["generation"] = 1
        else:
            metadata.pop("generation", None)
        self.strategies.prepare_create(resource, obj, options.user)
        errors = validate_metadata(obj, resource) + self.strategies.validate_create(resource, obj)
        if errors:
            raise status.invalid_object(resource.kind, resource.group, metadata.get("name", ""), errors)
        collection = self.store.collection(resource.key)
        if collection.find(namespace, metadata["name"]) is not None:
            raise status.already_exists(resource.plural, resource.group, metadata["name"])
        if options.dry_run:
            return Stored(obj, self.store.version)
        stored = collection.put(obj)
        self.strategies.after_create(resource, stored)
        return stored

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        options: WriteOptions,
        *,
        subresource: str = "",
        is_patch: bool = False,
    ) -> Stored:
        """Change an object through ``change``, a function from the current object to the wanted one.

        Args:
            resource: What it is.
            namespace: Its namespace; empty for cluster-wide resources.
            name: Its name.
            change: Makes the wanted object; must not alter its argument.
            options: User, dry run, strictness.
            subresource: Which part of the object the request may touch.
            is_patch: Whether a missing resourceVersion is fine for every kind.

        Returns:
            The stored version; the old one when nothing changed.

        Raises:
            APIStatusError: It is not there, was changed meanwhile, or the result is malformed or invalid.
        """
        current = self.get(resource, namespace, name)
        old = current.obj
        wanted = change(old)
        self._check_preconditions(resource, wanted, current, is_patch=is_patch)
        try:
            obj = self._decode(resource, self._touched(wanted, subresource), options)
        except status.APIStatusError as error:
            if not is_patch or error.code != 400 or options.strict:
                raise
            raise status.invalid_object("", "", "", [status.invalid("patch", name, error.message)]) from None
        self._complete_metadata(obj, old, namespace, name)
        self.strategies.prepare_update(resource, obj, old, subresource, options.user)
        errors = validate_metadata_update(obj, old) + validate_metadata(obj, resource)
        errors += self.strategies.validate_update(resource, obj, old, subresource)
        if errors:
            raise status.invalid_object(resource.kind, resource.group, name, errors)
        if resource.generation and self._generation_counts(obj, old):
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if obj == old:
            return current
        if options.dry_run:
            return Stored(obj, current.version)
        collection = self.store.collection(resource.key)
        if should_vanish(obj):
            return collection.remove(current, obj)
        stored = collection.put(obj)
        return self.strategies.after_update(resource, stored, subresource)

    def rewrite(self, resource: Resource, current: Stored, obj: Object) -> Stored:
        """Store a new version made by the cluster itself, without validation; ends the object if that was awaited."""
        collection = self.store.collection(resource.key)
        fresh = {**obj, "metadata": dict(obj["metadata"])}
        return collection.remove(current, fresh) if should_vanish(fresh) else collection.put(fresh)

    @staticmethod
    def _touched(wanted: Object, subresource: str) -> Object:
        """What a request can change; the rest is taken over from the old object anyway and needs no decoding."""
        if subresource != "status":
            return wanted
        return {key: wanted[key] for key in ("kind", "apiVersion", "metadata", "status") if key in wanted}

    def _decode(self, resource: Resource, body: Object, options: WriteOptions) -> Object:
        kind, api_version = body.get("kind"), body.get("apiVersion")
        if (kind and kind != resource.kind) or (api_version and api_version != resource.api_version):
            internal = resource.group.partition(".")[0] or "core"
            raise status.bad_request(
                f'{kind} in version "{(api_version or "").rpartition("/")[2]}" cannot be handled as a {resource.kind}: '
                f"converting ({api_version}.{kind}) to ({internal}.{resource.kind}): unknown conversion"
            )
        unknown: list[str] = []
        typed = {"kind": resource.kind, "apiVersion": resource.api_version}
        obj = conform(
            typed | {key: value for key, value in body.items() if key not in typed}, resource.message, unknown
        )
        if unknown and options.strict:
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise status.bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"strict decoding error: {listed}"
            )
        options.unknown.extend(unknown)
        return obj

    def _check_namespace(self, resource: Resource, namespace: str, metadata: Object) -> None:
        given = metadata.get("namespace")
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return
        if given and given != namespace:
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        metadata["namespace"] = namespace
        found = self.store.collection("namespaces").find("", namespace)
        if found is None:
            raise status.not_found("namespaces", "", namespace)
        if found.obj["metadata"].get("deletionTimestamp"):
            name = metadata.get("name", "")
            detail = f"unable to create new content in namespace {namespace} because it is being terminated"
            causes = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise status.forbidden(resource.plural, resource.group, name, detail, causes)

    def _generate_name(self, resource: Resource, namespace: str, prefix: str) -> str:
        collection = self.store.collection(resource.key)
        while True:
            name = prefix[:_MAX_GENERATED] + random_suffix()
            if collection.find(namespace, name) is None:
                return name

    def _check_preconditions(self, resource: Resource, wanted: Object, current: Stored, *, is_patch: bool) -> None:
        metadata, before = wanted.get("metadata") or {}, current.obj["metadata"]
        name = before["name"]
        if metadata.get("name") and metadata["name"] != name:
            raise status.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        if resource.namespaced and metadata.get("namespace") and metadata["namespace"] != before.get("namespace"):
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        uid = metadata.get("uid")
        if uid and uid != before["uid"] and is_patch:
            error = status.invalid("metadata.uid", uid, "field is immutable")
            raise status.invalid_object(resource.kind, resource.group, name, [error])
        if uid and uid != before["uid"]:
            raise status.conflict(
                resource.plural,
                resource.group,
                name,
                f"StorageError: invalid object, Code: 4, Key: /registry/{resource.plural}/{before.get('namespace', '')}/{name}, "
                "ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: "
                f"{uid}, UID in object meta: {before['uid']}",
            )
        version = metadata.get("resourceVersion")
        if version and version != "0" and str(version) != str(current.version):
            raise status.conflict(resource.plural, resource.group, name, status.OPTIMISTIC_LOCK)
        if not version and not is_patch and not resource.unconditional_update:
            error = status.invalid("metadata.resourceVersion", 0, "must be specified for an update")
            raise status.invalid_object(resource.plural, resource.group, name, [error])

    @staticmethod
    def _complete_metadata(obj: Object, old: Object, namespace: str, name: str) -> None:
        """Take over what the server owns; leave the rest as wanted."""
        before = old["metadata"]
        metadata = obj["metadata"] = dict(obj.get("metadata") or {})
        metadata["name"] = name
        if namespace:
            metadata["namespace"] = namespace
        for key in (
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "generateName",
            "selfLink",
        ):
            if key in before:
                metadata[key] = before[key]
            else:
                metadata.pop(key, None)
        if "managedFields" not in metadata and "managedFields" in before:
            metadata["managedFields"] = before["managedFields"]

    @staticmethod
    def _generation_counts(obj: Object, old: Object) -> bool:
        skipped = ("metadata", "status", "kind", "apiVersion")
        keys = {key for key in (*obj, *old) if key not in skipped}
        return any(obj.get(key) != old.get(key) for key in keys)
