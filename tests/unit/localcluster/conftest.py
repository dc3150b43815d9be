"""An ``ObjectService`` without HTTP, and small objects for it."""

from __future__ import annotations

from typing import Any

import pytest

from vkprovider.localcluster.bootstrap import Bootstrap
from vkprovider.localcluster.lifecycle import LifecycleController
from vkprovider.localcluster.objects import ObjectService, WriteOptions
from vkprovider.localcluster.registry import Registry
from vkprovider.localcluster.store import Change, Store, Stored
from vkprovider.localcluster.strategies import Strategies


class World:
    """Store, objects and lifecycle controller, with the four namespaces."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Change]] = []
        self.store = Store(self._changed)
        self.lifecycle: LifecycleController | None = None
        registry = Registry()
        strategies = Strategies(self.store)
        self.objects = ObjectService(self.store, registry, strategies)
        self.registry = registry
        self.strategies = strategies
        bootstrap = Bootstrap(self.objects, "PEM")
        strategies.on_write("namespaces", bootstrap.on_namespace)
        self.lifecycle = LifecycleController(self.objects)
        bootstrap.run("127.0.0.1:6443")

    def _changed(self, name: str, change: Change) -> None:
        self.changes.append((name, change))
        if self.lifecycle is not None:
            self.lifecycle.changed(name, change)

    def create(self, plural: str, body: dict[str, Any], group: str = "", namespace: str = "default") -> Stored:
        """Create an object."""
        resource = self.registry.get(plural, group)
        return self.objects.create(resource, namespace if resource.namespaced else "", body, WriteOptions())

    def update(self, plural: str, name: str, change: Any, *, group: str = "", subresource: str = "") -> Stored:
        """Patch an object of the namespace default by a function."""
        resource = self.registry.get(plural, group)
        namespace = "default" if resource.namespaced else ""
        return self.objects.update(
            resource, namespace, name, change, WriteOptions(), subresource=subresource, is_patch=True
        )

    def find(self, plural: str, name: str, group: str = "", namespace: str = "default") -> dict[str, Any] | None:
        """The object, or None."""
        resource = self.registry.get(plural, group)
        found = self.store.collection(resource.key).find(namespace if resource.namespaced else "", name)
        return found.obj if found is not None else None


def _make_pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    """A pod of one container."""
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec}}


def _make_node(name: str = "n", *, ready: bool = True, **more: Any) -> dict[str, Any]:
    """A node of two CPUs and ten pods."""
    allocatable = {"cpu": "2", "memory": "4Gi", "pods": "10"}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **more.get("labels", {})}},
        "spec": more.get("spec", {}),
        "status": {"allocatable": {**allocatable, **more.get("allocatable", {})}, "conditions": conditions},
    }


@pytest.fixture
def world() -> World:
    """Objects without HTTP."""
    return World()


@pytest.fixture
def make_pod() -> Any:
    """``make_pod(name, **spec)``: a pod of one container."""
    return _make_pod


@pytest.fixture
def make_node() -> Any:
    """``make_node(name, ready=True, labels=..., spec=..., allocatable=...)``: a node."""
    return _make_node
