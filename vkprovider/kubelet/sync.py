"""Carries out the plan for a pod: sandbox, then containers, each from its image to its postStart hook.

Source: pkg/kubelet/kuberuntime/kuberuntime_manager.go, SyncPod; kuberuntime_container.go, startContainer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vkprovider.aio.tasks import TaskPool
from vkprovider.api import reasons, v1
from vkprovider.api.pods import ContainerKind, format_pod
from vkprovider.api.quantity import int_value
from vkprovider.errors import (
    BackoffError,
    InvalidPodError,
    NotFoundError,
    PodSyncError,
    TransientError,
    VkproviderError,
)
from vkprovider.kubelet.actions import PodActions
from vkprovider.kubelet.container_config import ContainerInputs, make_container_config
from vkprovider.kubelet.container_status import StartFailure
from vkprovider.kubelet.credentials import Credential, Keyring, read_pull_secret
from vkprovider.kubelet.dns import make_pod_dns, read_node_dns
from vkprovider.kubelet.gc import compute_garbage
from vkprovider.kubelet.images import ImageManager, PulledImage
from vkprovider.kubelet.pleg import PodLifecycleEventGenerator
from vkprovider.kubelet.pod_cache import PodCache
from vkprovider.kubelet.pod_facts import ContainerFacts, PodFacts
from vkprovider.kubelet.pod_files import PodFiles
from vkprovider.kubelet.pod_state import PodState
from vkprovider.kubelet.restart_backoff import RestartBackoff
from vkprovider.kubelet.runtime_state import ContainerRecord, RuntimePod, sandbox_ips, sort_ips
from vkprovider.kubelet.sandbox_config import CREATE_POD_SANDBOX_ERROR, make_sandbox_config
from vkprovider.kubelet.termination import ContainerKiller, HookRunner
from vkprovider.kubelet.volume_gate import VolumeManager
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.provider.pod_provider import NodeContext, PodContext
from vkprovider.resolve.env import EnvFile, EnvSources, make_environment
from vkprovider.settings import PodSettings

logger = logging.getLogger(__name__)

_METRIC_KINDS: Final = {
    ContainerKind.INIT: "init_container",
    ContainerKind.SIDECAR: "init_container",
    ContainerKind.APP: "container",
    ContainerKind.EPHEMERAL: "ephemeral_container",
}
"""Source: pkg/kubelet/metrics/metrics.go, Container, InitContainer, EphemeralContainer."""


@dataclass(slots=True)
class SyncOutcome:
    """How carrying out a plan went.

    Attributes:
        retry_after_s: Seconds until it is worth trying again what failed; None if nothing did.
        progressed: Whether a sandbox or a container was started, so that more may be possible now.
    """

    retry_after_s: float | None = None
    progressed: bool = False

    def retry(self, seconds: float) -> None:
        """Try again after so many seconds, or sooner if something else wants that."""
        self.retry_after_s = seconds if self.retry_after_s is None else min(self.retry_after_s, seconds)


@dataclass(slots=True)
class _Run:
    """One pass over one pod."""

    pod: v1.Pod
    facts: PodFacts
    state: PodState
    context: PodContext
    restart_counts: Mapping[str, int]
    sandbox_id: cri.SandboxID
    sandbox_config: cri.PodSandboxConfig
    pod_ips: tuple[str, ...]
    runtime_handler: str = ""
    keyring: Keyring = field(default_factory=Keyring)
    present: Mapping[str, cri.Image] = field(default_factory=dict)

    def record(self, container: ContainerFacts, kind: str, reason: str, message: str) -> None:
        """Record an event on one container."""
        self.context.record_event(kind, reason, message, container=container.name)


@dataclass(frozen=True, slots=True)
class Engine:
    """The parts that carrying out a plan needs."""

    runtime: ContainerRuntime
    cache: PodCache
    pleg: PodLifecycleEventGenerator
    images: ImageManager
    killer: ContainerKiller
    hooks: HookRunner | None
    volumes: VolumeManager
    files: PodFiles
    backoff: RestartBackoff
    settings: PodSettings
    node: NodeContext
    owner: Mapping[str, str]
    seccomp_root: Path
    node_credentials: Callable[[], Sequence[Credential]]
    pool: TaskPool


class PodSyncer:
    """Carries out plans.

    Args:
        engine: The parts it works with.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._node_dns: tuple[int, cri.DNSConfig] | None = None

    async def carry_out(
        self,
        pod: v1.Pod,
        facts: PodFacts,
        actions: PodActions,
        state: PodState,
        context: PodContext,
        *,
        status: v1.PodStatus,
        on_sandbox_ready: Callable[[], None],
    ) -> SyncOutcome:
        """Do what the plan says, as far as can be done now. Cancellable at every step, safe to repeat.

        Args:
            pod: The pod.
            facts: Facts of its spec.
            actions: The plan.
            state: What is remembered of the pod; failed starts are noted there.
            context: Tools.
            status: The pod's status before; tells restart counts of containers without a record.
            on_sandbox_ready: Called when the pod has got a sandbox.

        Raises:
            InvalidPodError: The runtime says that the pod can never run.
            TransientError: Something could not be stopped.
        """
        engine, outcome = self._engine, SyncOutcome()
        runtime_pod = engine.cache.get(state.uid)
        if actions.create_sandbox and actions.sandbox_id is not None:
            context.record_event(
                reasons.NORMAL,
                reasons.EVENT_SANDBOX_CHANGED,
                "Pod sandbox changed, it will be killed and re-created.",
            )
        if actions.kill_pod and runtime_pod.is_known:
            await engine.killer.kill_pod(pod, runtime_pod, context.record_event)
            if actions.create_sandbox:
                await self._remove_containers(
                    record.id for container in facts.init for record in runtime_pod.instances(container.name)
                )
        else:
            await self._kill_and_reset(pod, actions, runtime_pod, context)
        if actions.kill_pod and not actions.create_sandbox:
            return outcome
        to_start = (*actions.ephemeral_to_start, *actions.init_to_start, *actions.apps_to_start)
        if not to_start and not actions.create_sandbox:
            return outcome
        try:
            run = await self._prepare(pod, facts, actions, state, context, to_start, status)
        except InvalidPodError:
            raise
        except VkproviderError as error:
            context.record_event(
                reasons.WARNING, reasons.EVENT_FAILED_SANDBOX, f"Failed to create pod sandbox: {error}"
            )
            outcome.retry(_retry_after_s(error, engine.settings.backoff_period_s))
            return outcome
        if actions.create_sandbox:
            outcome.progressed = True
            on_sandbox_ready()
        await self._start_all(run, actions, outcome)
        self._collect_garbage(state.uid)
        return outcome

    async def _kill_and_reset(
        self, pod: v1.Pod, actions: PodActions, runtime_pod: RuntimePod, context: PodContext
    ) -> None:
        killer = self._engine.killer
        for kill in actions.to_kill:
            await killer.kill_container(
                pod,
                kill.record,
                context.record_event,
                message=kill.message,
                reason=kill.reason,
                pod_ips=runtime_pod.ips,
            )
        for reset in actions.to_reset:
            if reset.kill:
                await killer.kill_container(
                    pod,
                    reset.record,
                    context.record_event,
                    message="killing",
                    grace_period_s=0,
                    pod_ips=runtime_pod.ips,
                )
            await self._remove_containers([reset.record.id])

    async def _remove_containers(self, ids: Iterable[cri.ContainerID]) -> None:
        engine = self._engine
        for container_id in list(ids):
            with engine.pleg.acting_on(container_id):
                await engine.runtime.remove_container(container_id)
                engine.cache.drop(container_id)

    # -- Sandbox.

    async def _prepare(
        self,
        pod: v1.Pod,
        facts: PodFacts,
        actions: PodActions,
        state: PodState,
        context: PodContext,
        to_start: Sequence[ContainerFacts],
        status: v1.PodStatus,
    ) -> _Run:
        """A sandbox to start containers in; what can be looked up meanwhile is."""
        engine, spec = self._engine, pod.get("spec", {})
        handler = await self._find_runtime_handler(pod) if spec.get("runtimeClassName") else ""
        config = await self._make_sandbox_config(pod, facts, actions, context)
        counts = {
            entry["name"]: entry.get("restartCount", 0)
            for group in (
                status.get("initContainerStatuses"),
                status.get("containerStatuses"),
                status.get("ephemeralContainerStatuses"),
            )
            for entry in group or ()
        }
        if actions.create_sandbox:
            task = state.begin(self._create_sandbox(config, handler), name="sandbox")
            keyring = await self._make_keyring(pod, context)
            present = await self._look_ahead(to_start, handler)
            sandbox = await state.finish(task)
        else:
            keyring, present = await self._make_keyring(pod, context), {}
            active = engine.cache.get(state.uid).active_sandbox
            if active is None:
                raise TransientError("the sandbox is gone", retry_after_s=0.0)
            sandbox = active
        pod_ips = sort_ips(sandbox_ips(sandbox), engine.node.host_ips)
        if spec.get("hostNetwork"):
            pod_ips = engine.node.host_ips[:2]
        return _Run(
            pod, facts, state, context, counts, sandbox.id, config, pod_ips, handler, keyring=keyring, present=present
        )

    async def _make_sandbox_config(
        self, pod: v1.Pod, facts: PodFacts, actions: PodActions, context: PodContext
    ) -> cri.PodSandboxConfig:
        engine = self._engine
        settings = engine.settings
        try:
            node_dns = self._read_node_dns(settings.resolv_conf)
        except OSError as error:
            raise PodSyncError(
                f"open {settings.resolv_conf}: {error.strerror or error}", reason=CREATE_POD_SANDBOX_ERROR
            ) from error
        dns = make_pod_dns(
            pod, node_dns=node_dns, cluster_dns=settings.cluster_dns, cluster_domain=settings.cluster_domain
        )
        if actions.create_sandbox:
            for reason, message in dns.warnings:
                context.record_event(reasons.WARNING, reason, message)
        return make_sandbox_config(
            pod,
            facts,
            attempt=actions.attempt,
            owner=engine.owner,
            dns=dns.config,
            cluster_domain=settings.cluster_domain,
        )

    def _read_node_dns(self, path: str) -> cri.DNSConfig:
        """The node's settings, read again only when the file has changed."""
        version = os.stat(path).st_mtime_ns if path else 0
        if self._node_dns is None or self._node_dns[0] != version:
            self._node_dns = (version, read_node_dns(path))
        return self._node_dns[1]

    async def _find_runtime_handler(self, pod: v1.Pod) -> str:
        name = pod.get("spec", {}).get("runtimeClassName") or ""
        try:
            runtime_class = await self._engine.node.objects.get_object("node.k8s.io/v1", "runtimeclasses", None, name)
        except NotFoundError:
            raise PodSyncError(
                f'runtimeclass.node.k8s.io "{name}" not found', reason=CREATE_POD_SANDBOX_ERROR
            ) from None
        handler: str = runtime_class.get("handler") or ""
        return handler

    async def _create_sandbox(self, config: cri.PodSandboxConfig, handler: str) -> cri.PodSandboxStatus:
        engine = self._engine
        engine.node.metrics.started_pods.inc()
        try:
            with engine.pleg.creating_sandbox_of(config.metadata.uid):
                sandbox_id = await engine.runtime.run_pod_sandbox(config, runtime_handler=handler)
                with engine.pleg.acting_on(sandbox_id):
                    return await engine.pleg.fetch_sandbox(sandbox_id)
        except VkproviderError:
            engine.node.metrics.started_pods_errors.inc()
            raise

    async def _look_ahead(self, containers: Sequence[ContainerFacts], handler: str) -> dict[str, cri.Image]:
        """Which images are here already; only for those that may be used without a pull."""
        names = {
            c.spec.get("image", "") for c in containers if c.spec.get("imagePullPolicy") in ("IfNotPresent", "Never")
        }
        found: dict[str, cri.Image] = {}
        for name in names:
            image = await self._engine.images.find_present(name, runtime_handler=handler)
            if image is not None:
                found[name] = image
        return found

    async def _make_keyring(self, pod: v1.Pod, context: PodContext) -> Keyring:
        """Credentials of the pod's pull secrets, then the node's; missing secrets are told and left out."""
        namespace = pod["metadata"].get("namespace", "default")
        credentials: list[Credential] = []
        missing: list[str] = []
        for reference in pod.get("spec", {}).get("imagePullSecrets") or ():
            if not reference.get("name"):
                continue
            try:
                credentials += read_pull_secret(await context.objects.get_secret(namespace, reference["name"]))
            except (VkproviderError, ValueError) as error:
                logger.info("Cannot use a pull secret", extra={"pod": format_pod(pod), "error": str(error)})
                missing.append(reference["name"])
        if missing:
            context.record_event(
                reasons.WARNING,
                "FailedToRetrieveImagePullSecret",
                f"Unable to retrieve some image pull secrets ({', '.join(missing)}); attempting to pull the image may "
                "not succeed.",
            )
        return Keyring([*credentials, *self._engine.node_credentials()])

    # -- Containers.

    async def _start_all(self, run: _Run, actions: PodActions, outcome: SyncOutcome) -> None:
        for container in actions.ephemeral_to_start:
            await self._try_start(run, container, outcome)
        for container in actions.init_to_start:
            if not await self._try_start(run, container, outcome) and not container.is_sidecar:
                return
        for container in actions.apps_to_start:
            await self._try_start(run, container, outcome)

    async def _try_start(self, run: _Run, container: ContainerFacts, outcome: SyncOutcome) -> bool:
        """Start one container; a failure is noted as its waiting reason."""
        try:
            await self._start(run, container)
        except InvalidPodError:
            raise
        except VkproviderError as error:
            if not isinstance(error, BackoffError):
                self._engine.node.metrics.started_containers_errors.labels(
                    _METRIC_KINDS[container.kind], error.reason
                ).inc()
            run.state.failures[container.name] = StartFailure(error.reason, error.message)
            outcome.retry(_retry_after_s(error, self._engine.settings.backoff_period_s))
            return False
        run.state.failures.pop(container.name, None)
        outcome.progressed = True
        return True

    async def _start(self, run: _Run, container: ContainerFacts) -> None:
        engine = self._engine
        runtime_pod = engine.cache.get(run.state.uid)
        try:
            restart_backoff_s = engine.backoff.check(run.pod, container, runtime_pod)
        except BackoffError:
            run.record(
                container,
                reasons.WARNING,
                reasons.EVENT_BACK_OFF,
                f"Back-off restarting failed container {container.name} in pod {format_pod(run.pod)}",
            )
            raise
        engine.node.metrics.started_containers.labels(_METRIC_KINDS[container.kind]).inc()
        image = await self._ensure_image(run, container)
        config = await self._make_config(run, container, runtime_pod, image, restart_backoff_s)
        container_id = await run.state.finish(
            run.state.begin(self._create_and_start(run, container, config), name=container.name)
        )
        post_start = (container.spec.get("lifecycle") or {}).get("postStart")
        if post_start and engine.hooks is not None:
            await self._run_post_start(run, container, container_id, post_start)

    async def _ensure_image(self, run: _Run, container: ContainerFacts) -> PulledImage:
        try:
            return await self._engine.images.ensure_image(
                run.pod,
                container.spec,
                lambda kind, reason, message: run.record(container, kind, reason, message),
                keyring=run.keyring,
                runtime_handler=run.runtime_handler,
                known=run.present.get(container.spec.get("image", "")),
            )
        except VkproviderError as error:
            run.record(container, reasons.WARNING, reasons.EVENT_FAILED, f"Error: {error.reason}")
            raise

    async def _make_config(
        self,
        run: _Run,
        container: ContainerFacts,
        runtime_pod: RuntimePod,
        image: PulledImage,
        restart_backoff_s: float,
    ) -> cri.ContainerConfig:
        engine = self._engine
        newest = runtime_pod.find(container.name)
        try:
            target_id = self._find_target(container, runtime_pod)
            environment = await make_environment(run.pod, container.spec, context=self._make_env_sources(run))
            volumes = await engine.volumes.make_mounts(run.pod, container.spec, environment)
            try:
                files = await engine.files.make_mounts(run.pod, container.spec, pod_ips=run.pod_ips)
            except OSError as error:
                raise PodSyncError(f"cannot write the files of the pod: {error}") from error
            return make_container_config(
                run.pod,
                container,
                ContainerInputs(
                    restart_count=newest.restart_count + 1 if newest else run.restart_counts.get(container.name, 0),
                    image=image.spec,
                    image_status=image.image,
                    environment=environment,
                    mounts=(*volumes.mounts, *files),
                    owner=engine.owner,
                    restart_backoff_s=restart_backoff_s,
                    memory_capacity_bytes=int_value(engine.node.get_capacity().get("memory", "0")),
                    seccomp_root=engine.seccomp_root,
                    target_id=target_id,
                    extra_groups=volumes.supplemental_groups,
                    devices=volumes.devices,
                ),
                engine.settings,
            )
        except VkproviderError as error:
            raise self._fail(run, container, error, reasons.CREATE_CONTAINER_CONFIG_ERROR) from error

    def _make_env_sources(self, run: _Run) -> EnvSources:
        node, volumes = self._engine.node, self._engine.volumes

        async def read_env_file(volume: str, path: str) -> EnvFile:
            return await volumes.read_env_file(run.pod, volume, path)

        return EnvSources(
            objects=run.context.objects,
            host_ips=node.host_ips,
            pod_ips=run.pod_ips,
            allocatable=node.get_allocatable(),
            read_env_file=read_env_file,
        )

    def _find_target(self, container: ContainerFacts, runtime_pod: RuntimePod) -> cri.ContainerID | None:
        name = container.spec.get("targetContainerName")
        if container.kind is not ContainerKind.EPHEMERAL or not name:
            return None
        target = runtime_pod.find(name)
        if target is None:
            raise PodSyncError(f"unable to find target container {name}", reason=reasons.CREATE_CONTAINER_CONFIG_ERROR)
        return target.id

    async def _create_and_start(
        self, run: _Run, container: ContainerFacts, config: cri.ContainerConfig
    ) -> cri.ContainerID:
        """Make an instance, start it and read it back; not to be abandoned half-way."""
        container_id = await self._create(run, container, config)
        if run.state.abandoned:
            self._remember_created(run, container, config, container_id)
            raise TransientError("interrupted before the start", reason=reasons.RUN_CONTAINER_ERROR)
        engine = self._engine
        with engine.pleg.acting_on(container_id):
            try:
                await engine.runtime.start_container(container_id)
            except VkproviderError as error:
                # What it became is what backoff and status go by.
                try:
                    await engine.pleg.fetch_container(container_id, run.sandbox_id)
                except VkproviderError:
                    self._remember_created(run, container, config, container_id)
                if isinstance(error, InvalidPodError):
                    raise
                raise self._fail(run, container, error, reasons.RUN_CONTAINER_ERROR) from error
            run.record(container, reasons.NORMAL, reasons.EVENT_STARTED, "Container started")
            await engine.pleg.fetch_container(container_id, run.sandbox_id)
        return container_id

    async def _create(self, run: _Run, container: ContainerFacts, config: cri.ContainerConfig) -> cri.ContainerID:
        try:
            container_id = await self._engine.runtime.create_container(run.sandbox_id, config, run.sandbox_config)
        except InvalidPodError:
            raise
        except VkproviderError as error:
            if isinstance(error, NotFoundError):
                # The sandbox or the image went away underneath.
                run.state.outcome_unknown = True
            raise self._fail(run, container, error, reasons.CREATE_CONTAINER_ERROR) from error
        run.record(container, reasons.NORMAL, reasons.EVENT_CREATED, "Container created")
        return container_id

    def _remember_created(
        self, run: _Run, container: ContainerFacts, config: cri.ContainerConfig, container_id: cri.ContainerID
    ) -> None:
        """Note an instance that was made and of which nothing more could be read."""
        self._engine.cache.put_container(
            ContainerRecord(
                id=container_id,
                name=container.name,
                sandbox_id=run.sandbox_id,
                state=cri.ContainerState.CREATED,
                restart_count=config.metadata.attempt,
                spec_hash=container.spec_hash,
                created_at=run.context.clock.now(),
                image=config.image.image,
                annotations=config.annotations,
            ),
            config.labels,
        )
        run.state.outcome_unknown = True

    async def _run_post_start(
        self, run: _Run, container: ContainerFacts, container_id: cri.ContainerID, handler: Mapping[str, object]
    ) -> None:
        engine = self._engine
        assert engine.hooks is not None
        try:
            await engine.hooks.run_hook(
                run.pod,
                container.spec,
                container_id,
                handler,
                pod_ips=run.pod_ips,
                record_event=run.context.record_event,
            )
        except VkproviderError as error:
            # The event does not tell why, so that it cannot tell a secret.
            run.record(container, reasons.WARNING, reasons.EVENT_FAILED_POST_START_HOOK, "PostStartHook failed")
            record = engine.cache.find_container(container_id)
            if record is not None and record.is_running:
                await engine.killer.kill_container(
                    run.pod,
                    record,
                    run.context.record_event,
                    message=reasons.EVENT_FAILED_POST_START_HOOK,
                    pod_ips=run.pod_ips,
                )
            raise PodSyncError(error.message, reason=reasons.POST_START_HOOK_ERROR) from error

    def _fail(self, run: _Run, container: ContainerFacts, error: VkproviderError, reason: str) -> VkproviderError:
        """The error of one step with the kubelet's reason, told as an event."""
        run.record(container, reasons.WARNING, reasons.EVENT_FAILED, f"Error: {error}")
        if error.reason == reasons.CREATE_CONTAINER_CONFIG_ERROR:
            reason = error.reason
        if isinstance(error, TransientError):
            return TransientError(error.message, reason=reason, retry_after_s=error.retry_after_s)
        return PodSyncError(error.message, reason=reason)

    # -- Afterwards.

    def _collect_garbage(self, uid: v1.PodUID) -> None:
        garbage = compute_garbage(self._engine.cache.get(uid))
        if garbage:
            self._engine.pool.spawn(self.remove_garbage(uid), name=f"garbage-{uid}")

    async def remove_garbage(self, uid: v1.PodUID) -> None:
        """Remove records of the pod that nobody needs any more; what cannot be removed is left for the next time."""
        engine = self._engine
        garbage = compute_garbage(engine.cache.get(uid))
        try:
            await self._remove_containers(garbage.containers)
            for sandbox_id in garbage.sandboxes:
                with engine.pleg.acting_on(sandbox_id):
                    await engine.runtime.remove_pod_sandbox(sandbox_id)
                    engine.cache.drop(sandbox_id)
        except VkproviderError as error:
            logger.warning("Cannot remove dead containers", extra={"uid": uid, "error": str(error)})


def _retry_after_s(error: VkproviderError, default_s: float) -> float:
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        return error.retry_after_s
    return default_s
