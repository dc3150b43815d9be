"""Registers the Node object, keeps its status true, and takes leave of it.

Ready follows the provider's ping; the lease is another part's business and goes on meanwhile. The Node object is registered again when
somebody deletes it. Two loops run side by side: one pings every few seconds, one computes the status every ten; a change of readiness
wakes the second at once.

Source: pkg/kubelet/kubelet_node_status.go, pkg/kubelet/nodestatus.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from vkprovider.aio.clock import Clock
from vkprovider.api import labels as keys
from vkprovider.api import v1
from vkprovider.api.durations import format_duration
from vkprovider.api.reasons import NORMAL, WARNING
from vkprovider.api.timestamps import format_time
from vkprovider.controllers.events import EventRecorder
from vkprovider.controllers.machine import Machine, find_default_ip
from vkprovider.controllers.node_status import (
    NodeFacts,
    has_changed,
    list_transition_events,
    make_allocatable,
    make_capacity,
    make_labels,
    make_node,
    make_status,
    make_status_patch,
    make_stopped_condition,
)
from vkprovider.errors import KubeAPIError, NodeNameTakenError, TransientError, VkproviderError
from vkprovider.kube.nodes import NodeClient
from vkprovider.provider.capabilities import NodeDescription, NodeStatusCapability
from vkprovider.provider.pod_provider import PodProvider
from vkprovider.settings import NodeSettings

logger = logging.getLogger(__name__)

NOT_CHECKED = "container runtime status check may not have completed yet"
_PING_PERIOD_S = 5.0
_FIRST_PING_PERIOD_S = 0.1
_FIRST_PINGS_FOR_S = 120.0
_JITTER = 0.04
_FIRST_REGISTER_BACKOFF_S = 0.1
_MAX_REGISTER_BACKOFF_S = 7.0
_MAX_UPDATE_TRIES = 5
_STATUS_TIMEOUT_S = 10.0


class NodeController:
    """The Node object of this node; a ``NodeSink`` for the pod source.

    Args:
        nodes: Client for nodes.
        settings: How the node is configured.
        provider: What runs the pods.
        events: Where events go.
        clock: Time.
        machine: The machine, for what the provider does not tell.
        instance_id: Our id among processes of this node name.
        get_kubelet_port: Port of the kubelet API.
        declared_features: Features of 1.36 that this node really has.
        on_registered: Called each time the Node object exists (anew).
    """

    def __init__(
        self,
        nodes: NodeClient,
        *,
        settings: NodeSettings,
        provider: PodProvider,
        events: EventRecorder,
        clock: Clock,
        machine: Machine,
        instance_id: str,
        get_kubelet_port: Callable[[], int],
        declared_features: tuple[str, ...] = (),
        on_registered: Callable[[], None] | None = None,
    ) -> None:
        self._nodes = nodes
        self._settings = settings
        self._provider = provider
        self._events = events
        self._clock = clock
        self._machine = machine
        self._instance_id = instance_id
        self._get_kubelet_port = get_kubelet_port
        self._declared_features = declared_features
        self._on_registered = on_registered
        self._default_ips: tuple[str, ...] = ()
        self._description = NodeDescription()
        self._provider_started = False
        self._runtime_error: str | None = NOT_CHECKED
        self._node: v1.Node | None = None
        self._sent: v1.NodeStatus = {}
        self._report_at = 0.0
        self._update_now = asyncio.Event()
        self._gone = False
        self._watched = False
        self._taken_by: str | None = None
        self._unschedulable: bool | None = None
        self._stopping = False
        self.registered = asyncio.Event()
        """Set once the Node object exists."""
        self.became_ready = asyncio.Event()
        """Set once the API server has been told that the node is ready."""

    # What others ask.

    @property
    def is_ready(self) -> bool:
        """Whether the provider is well, as far as is known."""
        return self._runtime_error is None

    def get_node(self) -> v1.Node | None:
        """The Node object as last seen, with our newest status; None until it is registered."""
        return self._node

    def get_node_uid(self) -> str | None:
        """UID of the Node object; None while there is none."""
        return None if self._node is None or self._gone else self._node["metadata"].get("uid")

    def get_host_ips(self) -> tuple[str, ...]:
        """InternalIPs of the node, primary first, at most one of each family."""
        if self._settings.ips:
            return self._settings.ips
        given = [a["address"] for a in self._description.addresses if a.get("type") == "InternalIP"]
        if given:
            return tuple(given)
        if not self._default_ips:
            self._default_ips = (find_default_ip(),)
        return self._default_ips

    def get_capacity(self) -> v1.ResourceList:
        """Current capacity."""
        return make_capacity(self._make_facts())

    def get_allocatable(self) -> v1.ResourceList:
        """Current allocatable resources."""
        facts = self._make_facts()
        return make_allocatable(facts, make_capacity(facts))

    def set_provider_started(self) -> None:
        """The provider has started; from now on it is pinged."""
        self._provider_started = True

    def set_provider_failed(self, message: str) -> None:
        """The provider could not be started (yet); the message becomes that of the Ready condition."""
        self._set_runtime_error(f"container runtime is down: {message}")

    # What the pod source tells (NodeSink).

    def handle_node(self, node: v1.Node) -> None:
        """The Node object looks like this now."""
        other = (node["metadata"].get("annotations") or {}).get(keys.INSTANCE_ANNOTATION)
        if self.registered.is_set() and other is not None and other != self._instance_id:
            self._taken_by = other
            self._update_now.set()
            return
        if self._node is not None:
            if node["metadata"].get("uid") != self._node["metadata"].get("uid"):
                # Deleted and made anew by somebody, between two events.
                self._lose()
                return
            self._watched = True
            self._node = node
            self._note_schedulable(node)

    def handle_node_deleted(self, node: v1.Node) -> None:
        """The Node object was deleted by somebody."""
        if self._node is not None and node["metadata"].get("uid") == self._node["metadata"].get("uid"):
            self._lose()

    def _lose(self) -> None:
        if not self._gone and not self._stopping:
            logger.warning("The Node object was deleted; it is registered again", extra={"node": self._settings.name})
            self._gone = True
            self._update_now.set()

    def _note_schedulable(self, node: v1.Node) -> None:
        unschedulable = bool(node.get("spec", {}).get("unschedulable"))
        if self._unschedulable is not None and unschedulable != self._unschedulable:
            self._record_status_event("NodeNotSchedulable" if unschedulable else "NodeSchedulable")
        self._unschedulable = unschedulable

    # Lifetime.

    async def run(self) -> None:
        """Register, then keep the status true until cancelled.

        Raises:
            NodeNameTakenError: Another process has taken over the Node object.
        """
        self._events.record_node_event(NORMAL, "Starting", "Starting kubelet.")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ping_forever(), name="node:ping")
            group.create_task(self._update_forever(), name="node:status")

    async def shutdown(self) -> None:
        """Take leave: delete the Node object if so configured, else report NotReady. Call it after ``run`` was cancelled.

        Never raises; what goes wrong is logged.
        """
        self._stopping = True
        name = self._settings.name
        if self._node is None or self._gone or self._taken_by is not None:
            return
        try:
            if self._settings.delete_on_exit:
                await self._nodes.delete(name, uid=self._node["metadata"].get("uid"))
                logger.info("Node deleted", extra={"node": name})
                return
            now = format_time(self._clock.now())
            condition = make_stopped_condition(self._sent, now=now)
            # Without the id the next process need not find out whether this one is alive.
            metadata = {"annotations": {keys.INSTANCE_ANNOTATION: None}}
            patch = {"metadata": metadata, "status": {"conditions": [condition]}}
            await self._nodes.patch_status(name, patch, timeout_s=_STATUS_TIMEOUT_S)
            self._record_status_event("NodeNotReady")
        except VkproviderError as error:
            logger.warning("Node could not take leave", extra={"node": name, "error": str(error)})

    async def _ping_forever(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        while True:
            error = await self._ping()
            if error is not None and self._runtime_error is None:
                # One lost answer is no reason to have the scheduler turn away.
                await asyncio.sleep(1.0)
                error = await self._ping()
            if self._provider_started or error is None:
                self._set_runtime_error(error)
            quick = self._runtime_error is not None and loop.time() - started_at < _FIRST_PINGS_FOR_S
            await asyncio.sleep(_FIRST_PING_PERIOD_S if quick and not self.became_ready.is_set() else _PING_PERIOD_S)

    async def _ping(self) -> str | None:
        if not self._provider_started:
            return NOT_CHECKED
        status = self._provider.find_capability(NodeStatusCapability)  # type: ignore[type-abstract]
        if status is None:
            return None
        timeout_s = self._settings.ping_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await status.ping()
        except TimeoutError:
            return f"container runtime is down: no answer to a ping within {format_duration(timeout_s)}"
        except VkproviderError as error:
            return f"container runtime is down: {error}"
        except Exception as error:
            logger.exception("Ping of the provider failed")
            return f"container runtime is down: {type(error).__name__}: {error}"
        return None

    def _set_runtime_error(self, error: str | None) -> None:
        if error == self._runtime_error:
            return
        flipped = (error is None) != (self._runtime_error is None)
        if flipped:
            logger.log(
                logging.INFO if error is None else logging.WARNING,
                "Node is ready" if error is None else "Node is not ready",
                extra={"node": self._settings.name, **({} if error is None else {"error": error})},
            )
        self._runtime_error = error
        self._update_now.set()

    async def _update_forever(self) -> None:
        await self._describe()
        await self._register()
        while True:
            await self._update()
            if self.is_ready and not self._gone:
                self.became_ready.set()
            try:
                async with asyncio.timeout(
                    self._settings.status_update_period_s * random.uniform(1.0, 1.0 + _JITTER)  # noqa: S311
                ):
                    await self._update_now.wait()
            except TimeoutError:
                pass
            self._update_now.clear()
            if self._taken_by is not None:
                raise NodeNameTakenError(
                    f"node {self._settings.name} has been taken over by another process (instance {self._taken_by})"
                )
            await self._describe()
            if self._gone:
                await self._register()

    async def _describe(self) -> None:
        status = self._provider.find_capability(NodeStatusCapability)  # type: ignore[type-abstract]
        if status is None or not self._provider_started or self._runtime_error not in (None, NOT_CHECKED):
            return
        try:
            async with asyncio.timeout(self._settings.ping_timeout_s):
                self._description = await status.describe_node()
        except (VkproviderError, TimeoutError) as error:
            logger.debug("Provider does not describe its node", extra={"error": str(error)})
        except Exception:
            logger.exception("Provider could not describe its node")

    def _make_facts(self) -> NodeFacts:
        return NodeFacts(
            settings=self._settings,
            machine=self._machine,
            description=self._description,
            provider_name=self._provider.name,
            kubelet_port=self._get_kubelet_port(),
            host_ips=self.get_host_ips(),
            errors=() if self._runtime_error is None else (self._runtime_error,),
            declared_features=self._declared_features,
        )

    async def _register(self) -> None:
        """Create the Node object, or come to terms with the one that exists; tries for ever."""
        backoff_s = _FIRST_REGISTER_BACKOFF_S
        while True:
            try:
                node = await self._try_register()
            except (KubeAPIError, TransientError) as error:
                logger.warning(
                    "Node could not be registered, trying again",
                    extra={"node": self._settings.name, "error": str(error), "retry_after_s": backoff_s},
                )
                node = None
            if node is not None:
                break
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _MAX_REGISTER_BACKOFF_S)
        self._node = node
        self._gone = False
        self._watched = False
        self._note_schedulable(node)
        self.registered.set()
        if self._on_registered is not None:
            self._on_registered()

    async def _try_register(self) -> v1.Node | None:
        name = self._settings.name
        facts = self._make_facts()
        if self._settings.register:
            node = make_node(facts, instance_id=self._instance_id, now=format_time(self._clock.now()))
            try:
                created = await self._nodes.create(node)
            except KubeAPIError as error:
                if not (error.is_already_exists or error.status == 403):
                    raise
                refusal = error
            else:
                logger.info("Node registered", extra={"node": name})
                self._sent = created.get("status", {})
                self._plan_report(first=True)
                return created
        existing = await self._nodes.find(name)
        if existing is None:
            if self._settings.register:
                raise refusal
            raise TransientError(f"node {name} does not exist yet, and registering is switched off")
        return await self._reconcile(existing, facts)

    async def _reconcile(self, existing: v1.Node, facts: NodeFacts) -> v1.Node:
        metadata = existing["metadata"]
        other = (metadata.get("annotations") or {}).get(keys.INSTANCE_ANNOTATION)
        if other is not None and other != self._instance_id and self.registered.is_set():
            # While we were without a Node object another process made one: it is theirs.
            self._taken_by = other
            self._update_now.set()
            return existing
        self._sent = existing.get("status", {})
        self._report_at = 0.0
        changes: dict[str, Any] = {}
        present = metadata.get("labels") or {}
        labels = {key: value for key, value in make_labels(facts).items() if present.get(key) != value}
        if labels:
            changes["labels"] = labels
        wanted = {
            keys.ATTACH_DETACH_ANNOTATION: "true",
            keys.INSTANCE_ANNOTATION: self._instance_id,
            **facts.description.annotations,
        }
        have = metadata.get("annotations") or {}
        annotations = {key: value for key, value in wanted.items() if have.get(key) != value}
        if annotations:
            changes["annotations"] = annotations
        old_boot_id = (existing.get("status", {}).get("nodeInfo") or {}).get("bootID")
        boot_id = facts.description.node_info.get("bootID", self._machine.boot_id)
        if old_boot_id and boot_id and old_boot_id != boot_id:
            message = f"Node {self._settings.name} has been rebooted, boot id: {boot_id}"
            self._events.record_node_event(WARNING, "Rebooted", message)
        if not changes:
            return existing
        return await self._nodes.patch_status(self._settings.name, {"metadata": changes})

    async def _update(self) -> None:
        """Send the status if it is due."""
        if self._node is None or self._gone or self._taken_by is not None:
            return
        loop = asyncio.get_running_loop()
        for attempt in range(_MAX_UPDATE_TRIES):
            try:
                if attempt > 0:
                    fresh = await self._nodes.find(self._settings.name)
                    if fresh is None:
                        self._lose()
                        return
                    self._sent = fresh.get("status", {})
                status = make_status(self._make_facts(), self._sent, now=format_time(self._clock.now()))
                changed = has_changed(self._sent, status)
                if not changed and loop.time() < self._report_at:
                    # Until the watch has shown the node, nobody would tell of its deletion.
                    if not self._watched and await self._nodes.find(self._settings.name) is None:
                        self._lose()
                    return
                await self._send(status, changed=changed)
                return
            except KubeAPIError as error:
                if error.is_not_found:
                    self._lose()
                    return
                self._log_update(error, attempt)
            except TransientError as error:
                self._log_update(error, attempt)
            await asyncio.sleep(0.1 * 2**attempt)

    async def _send(self, status: v1.NodeStatus, *, changed: bool) -> None:
        assert self._node is not None
        patch: dict[str, Any] = {"status": make_status_patch(self._sent, status) or {}}
        if labels := self._wrong_platform_labels():
            patch["metadata"] = {"labels": labels}
        answer = await self._nodes.patch_status(self._settings.name, patch, timeout_s=_STATUS_TIMEOUT_S)
        for reason in list_transition_events(self._sent, status):
            self._record_status_event(reason)
        self._sent = answer.get("status", status)
        self._node = answer
        self._plan_report(first=changed)

    def _wrong_platform_labels(self) -> Mapping[str, str]:
        assert self._node is not None
        present = self._node["metadata"].get("labels") or {}
        wanted = make_labels(self._make_facts())
        return {key: wanted[key] for key in (keys.OS, keys.ARCH) if present.get(key) != wanted[key]}

    def _plan_report(self, *, first: bool) -> None:
        """When an unchanged status is sent next; after a change at a random moment, so that nodes do not march in step.

        Source: kubelet_node_status.go, calculateDelay.
        """
        period_s = self._settings.status_report_period_s
        delay_s = period_s * random.uniform(0.5, 1.5) if first else period_s  # noqa: S311
        self._report_at = asyncio.get_running_loop().time() + delay_s

    def _record_status_event(self, reason: str) -> None:
        self._events.record_node_event(NORMAL, reason, f"Node {self._settings.name} status is now: {reason}")

    def _log_update(self, error: Exception, attempt: int) -> None:
        level = logging.WARNING if attempt in (0, _MAX_UPDATE_TRIES - 1) else logging.DEBUG
        logger.log(level, "Node status could not be sent", extra={"node": self._settings.name, "error": str(error)})
