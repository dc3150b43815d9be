"""Contexts for providers under test, which remember what the provider reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vkprovider.aio.clock import Clock, SystemClock
from vkprovider.api import v1
from vkprovider.provider.pod_provider import NodeContext, PodContext
from vkprovider.resolve.objects import ObjectStore
from vkprovider.testing.objects import FakeObjectStore

DEFAULT_ALLOCATABLE: Mapping[str, str] = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "200Gi", "pods": "110"}


class RecordedEvent(NamedTuple):
    """An event that a provider recorded on a pod."""

    kind: str
    reason: str
    message: str
    container: str | None


@dataclass(slots=True)
class Recording:
    """What a provider reported about a pod.

    Attributes:
        events: Events, oldest first.
        statuses: Intermediate statuses, oldest first.
    """

    events: list[RecordedEvent] = field(default_factory=list)
    statuses: list[v1.PodStatus] = field(default_factory=list)

    def record_event(self, kind: str, reason: str, message: str, *, container: str | None = None) -> None:
        """Remember an event."""
        self.events.append(RecordedEvent(kind, reason, message, container))

    def publish_status(self, status: v1.PodStatus) -> None:
        """Remember a status."""
        self.statuses.append(status)

    @property
    def reasons(self) -> list[str]:
        """Reasons of the events, oldest first."""
        return [event.reason for event in self.events]


def make_node_context(
    *,
    node_name: str = "node",
    cluster_uid: str = "cluster",
    objects: ObjectStore | None = None,
    host_ips: tuple[str, ...] = ("192.0.2.1",),
    allocatable: Mapping[str, str] = DEFAULT_ALLOCATABLE,
    clock: Clock | None = None,
) -> NodeContext:
    """The node a provider under test serves.

    Args:
        node_name: Name of the node.
        cluster_uid: Identity of the cluster.
        objects: Objects of the cluster; an empty store when left out.
        host_ips: Addresses of the node.
        allocatable: What the node offers, also its capacity.
        clock: Time; the system's when left out. Pass ``LoopClock()`` under virtual time.
    """
    used = clock or SystemClock()
    return NodeContext(
        node_name=node_name,
        cluster_uid=cluster_uid,
        objects=objects if objects is not None else FakeObjectStore(clock=used),
        host_ips=host_ips,
        get_allocatable=lambda: allocatable,
        get_capacity=lambda: allocatable,
        clock=used,
    )


def make_pod_context(
    node: NodeContext | None = None,
    *,
    previous_status: v1.PodStatus | None = None,
    recording: Recording | None = None,
    clock: Clock | None = None,
) -> tuple[PodContext, Recording]:
    """A context for one call of a provider, and what it will report through it.

    Args:
        node: The node; a fresh one when left out.
        previous_status: Newest status known; empty when left out.
        recording: Where to collect; give the one of the call before to go on collecting.
        clock: Time of a fresh node.
    """
    collected = recording if recording is not None else Recording()
    context = PodContext(
        node=node if node is not None else make_node_context(clock=clock),
        record_event=collected.record_event,
        publish_status=collected.publish_status,
        previous_status=previous_status if previous_status is not None else {},
    )
    return context, collected
