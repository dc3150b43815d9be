"""The rules of ``ContainerRuntime`` and ``ImageService``: sandboxes, containers, images."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vkprovider.api import labels
from vkprovider.errors import ConflictError, NotFoundError, PodSyncError
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import HostInfo
from vkprovider.testing.conformance.checks import NotOffered, eventually, expect, expect_equal, expect_error
from vkprovider.testing.conformance.runtime import RUNTIME_CHECKS, RuntimeUnderTest, shell

_UNKNOWN = "0" * 64
_QUICK_S = 5.0
"""What happens at once may take this long on a busy machine."""


def _is_recent(subject: RuntimeUnderTest, moment: datetime, earliest: datetime) -> bool:
    return moment.tzinfo is not None and moment.astimezone(UTC) >= earliest - timedelta(seconds=subject.clock_skew_s)


async def _now(subject: RuntimeUnderTest) -> datetime:
    """The runtime's time, as a sandbox made now tells it: it may run on another clock than ours."""
    async with subject.pod() as pod:
        return (await subject.runtime.pod_sandbox_status(pod.sandbox_id)).created_at


# -- The runtime.


@RUNTIME_CHECKS.add
async def runtime_says_that_it_is_ready(subject: RuntimeUnderTest) -> None:
    """A healthy runtime has the conditions RuntimeReady and NetworkReady, both true."""
    conditions = {item.type: item.status for item in (await subject.runtime.status()).conditions}
    expect_equal(conditions.get("RuntimeReady"), True, "condition RuntimeReady")
    expect_equal(conditions.get("NetworkReady"), True, "condition NetworkReady")


@RUNTIME_CHECKS.add
async def runtime_names_itself(subject: RuntimeUnderTest) -> None:
    """A runtime has a name and a version, and a scheme for ids in statuses."""
    version = await subject.runtime.version()
    expect(version.runtime_name, "runtime_name is empty")
    expect(version.runtime_version, "runtime_version is empty")
    expect(subject.runtime.name.isidentifier(), f"name must be a plain word, not {subject.runtime.name!r}")


@RUNTIME_CHECKS.add
async def host_has_cores_and_memory(subject: RuntimeUnderTest) -> None:
    """A runtime that knows its host says how many cores and bytes of memory it has."""
    host = await subject.need(HostInfo).host_resources()
    expect(host.cpu_cores >= 1, f"cpu_cores must be at least 1, not {host.cpu_cores}")
    expect(host.memory_bytes > 0, f"memory_bytes must be positive, not {host.memory_bytes}")


# -- Sandboxes.


@RUNTIME_CHECKS.add
async def sandbox_is_ready_when_run_returns(subject: RuntimeUnderTest) -> None:
    """run_pod_sandbox returns once the sandbox is ready; its status is complete."""
    before = await _now(subject)
    async with subject.pod() as pod:
        status = await subject.runtime.pod_sandbox_status(pod.sandbox_id)
        expect_equal(status.id, pod.sandbox_id, "id")
        expect_equal(status.state, cri.SandboxState.READY, "state")
        expect_equal(status.metadata, pod.config.metadata, "metadata")
        expect(status.ip, "a ready sandbox with a network of its own must have an ip")
        expect(_is_recent(subject, status.created_at, before), f"created_at must be now, not {status.created_at}")


@RUNTIME_CHECKS.add
async def sandboxes_have_addresses_of_their_own(subject: RuntimeUnderTest) -> None:
    """Two sandboxes that are ready at the same time have different addresses."""
    async with subject.pod() as one, subject.pod() as other:
        first = await subject.runtime.pod_sandbox_status(one.sandbox_id)
        second = await subject.runtime.pod_sandbox_status(other.sandbox_id)
        expect(first.ip != second.ip, f"both have {first.ip}")


@RUNTIME_CHECKS.add
async def sandbox_of_the_host_network_has_no_address(subject: RuntimeUnderTest) -> None:
    """A sandbox of the host's network reports no address of its own."""
    namespaces = cri.NamespaceOption(network=cri.NamespaceMode.NODE)
    context = cri.LinuxSandboxSecurityContext(namespaces=namespaces)
    async with subject.pod(linux=cri.LinuxPodSandboxConfig(security_context=context), hostname="") as pod:
        status = await subject.runtime.pod_sandbox_status(pod.sandbox_id)
        expect_equal(status.ip, "", "ip")
        expect_equal(status.namespaces.network, cri.NamespaceMode.NODE, "namespaces.network")


@RUNTIME_CHECKS.add
async def sandbox_creation_is_idempotent_by_metadata(subject: RuntimeUnderTest) -> None:
    """Running a sandbox of the same pod UID and attempt again gives the same one, not a second."""
    async with subject.pod() as pod:
        again = await subject.runtime.run_pod_sandbox(pod.config)
        expect_equal(again, pod.sandbox_id, "id of the second call")
        selector = {labels.POD_UID: pod.uid}
        found = await subject.runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=selector))
        expect_equal(len(found), 1, "number of sandboxes")


@RUNTIME_CHECKS.add
async def another_attempt_is_another_sandbox(subject: RuntimeUnderTest) -> None:
    """A sandbox of the same pod with the next attempt is a new one, and both tell their attempt."""
    async with subject.pod() as pod:
        await subject.runtime.stop_pod_sandbox(pod.sandbox_id)
        config = replace(pod.config, metadata=replace(pod.config.metadata, attempt=1))
        second = await subject.runtime.run_pod_sandbox(config)
        expect(second != pod.sandbox_id, "the second attempt has the id of the first")
        selector = {labels.POD_UID: pod.uid}
        found = await subject.runtime.list_pod_sandboxes(cri.PodSandboxFilter(label_selector=selector))
        attempts = sorted(item.metadata.attempt for item in found)
        expect_equal(attempts, [0, 1], "attempts listed")


@RUNTIME_CHECKS.add
async def labels_and_annotations_of_sandboxes_come_back_unchanged(subject: RuntimeUnderTest) -> None:
    """Labels and annotations of a sandbox are returned exactly as given, in its status and in lists."""
    async with subject.pod() as pod:
        status = await subject.runtime.pod_sandbox_status(pod.sandbox_id)
        (listed,) = await subject.runtime.list_pod_sandboxes(cri.PodSandboxFilter(id=pod.sandbox_id))
        for where, item in (("status", status), ("list", listed)):
            expect_equal(dict(item.labels), dict(pod.config.labels), f"labels in the {where}")
            expect_equal(dict(item.annotations), dict(pod.config.annotations), f"annotations in the {where}")


@RUNTIME_CHECKS.add
async def sandbox_list_is_filtered(subject: RuntimeUnderTest) -> None:
    """list_pod_sandboxes honours id, state and labels, all of them together."""
    async with subject.pod() as pod, subject.pod() as other:
        await subject.runtime.stop_pod_sandbox(other.sandbox_id)

        async def ids(**parts: object) -> set[str]:
            found = await subject.runtime.list_pod_sandboxes(cri.PodSandboxFilter(**parts))  # type: ignore[arg-type]
            return {item.id for item in found}

        own = {labels.POD_UID: pod.uid}
        ready, not_ready = cri.SandboxState.READY, cri.SandboxState.NOT_READY
        expect_equal(await ids(id=pod.sandbox_id), {pod.sandbox_id}, "sandboxes of this id")
        expect_equal(await ids(label_selector=own), {pod.sandbox_id}, "sandboxes of these labels")
        expect_equal(await ids(label_selector=own, state=not_ready), set(), "stopped sandboxes of these labels")
        expect_equal(await ids(label_selector={**own, "no": "such"}), set(), "sandboxes of other labels")
        expect(other.sandbox_id not in await ids(state=ready), "a stopped sandbox is listed as ready")
        expect(other.sandbox_id in await ids(state=not_ready), "a stopped sandbox is not listed as stopped")
        everything = {item.id for item in await subject.runtime.list_pod_sandboxes()}
        expect({pod.sandbox_id, other.sandbox_id} <= everything, "a list without filter leaves sandboxes out")


@RUNTIME_CHECKS.add
async def stopping_a_sandbox_kills_its_containers(subject: RuntimeUnderTest) -> None:
    """stop_pod_sandbox ends all containers in the sandbox; all keep their records."""
    async with subject.pod() as pod:
        container_id = await pod.run(subject.stubborn)
        await subject.runtime.stop_pod_sandbox(pod.sandbox_id)
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.state, cri.ContainerState.EXITED, "state of the container")
        sandbox = await subject.runtime.pod_sandbox_status(pod.sandbox_id)
        expect_equal(sandbox.state, cri.SandboxState.NOT_READY, "state of the sandbox")
        expect_equal(sandbox.ip, "", "ip of the stopped sandbox")


@RUNTIME_CHECKS.add
async def stopping_a_sandbox_may_be_repeated(subject: RuntimeUnderTest) -> None:
    """Stopping a stopped or unknown sandbox, and removing an unknown one, is success."""
    async with subject.pod() as pod:
        await subject.runtime.stop_pod_sandbox(pod.sandbox_id)
        await subject.runtime.stop_pod_sandbox(pod.sandbox_id)
    await subject.runtime.stop_pod_sandbox(cri.SandboxID(_UNKNOWN))
    await subject.runtime.remove_pod_sandbox(cri.SandboxID(_UNKNOWN))


@RUNTIME_CHECKS.add
async def stopped_sandbox_starts_again_for_the_same_metadata(subject: RuntimeUnderTest) -> None:
    """Running a stopped sandbox of the same metadata again makes that one ready."""
    async with subject.pod() as pod:
        await subject.runtime.stop_pod_sandbox(pod.sandbox_id)
        again = await subject.runtime.run_pod_sandbox(pod.config)
        expect_equal(again, pod.sandbox_id, "id")
        status = await subject.runtime.pod_sandbox_status(again)
        expect_equal(status.state, cri.SandboxState.READY, "state")
        expect(status.ip, "the sandbox has no ip after its second start")


@RUNTIME_CHECKS.add
async def removing_a_sandbox_removes_its_containers(subject: RuntimeUnderTest) -> None:
    """remove_pod_sandbox kills what runs and leaves no record of sandbox or containers."""
    async with subject.pod() as pod:
        running = await pod.run(subject.stubborn)
        created = await pod.create(name="other")
        await subject.runtime.remove_pod_sandbox(pod.sandbox_id)
        expect(await pod.is_gone(running), "the container that ran is still known")
        expect(await pod.is_gone(created), "the container that was not started is still known")
        expect_equal(list(await pod.list_ids()), [], "containers listed")
        await expect_error(
            NotFoundError, subject.runtime.pod_sandbox_status(pod.sandbox_id), "status of the removed sandbox"
        )


@RUNTIME_CHECKS.add
async def unknown_sandbox_is_not_found(subject: RuntimeUnderTest) -> None:
    """Status of, and containers in, a sandbox that does not exist raise NotFoundError."""
    unknown = cri.SandboxID(_UNKNOWN)
    await expect_error(NotFoundError, subject.runtime.pod_sandbox_status(unknown), "pod_sandbox_status")
    async with subject.pod() as pod:
        config = pod.make_container_config()
        await expect_error(
            NotFoundError, subject.runtime.create_container(unknown, config, pod.config), "create_container"
        )


# -- Containers.


@RUNTIME_CHECKS.add
async def created_container_does_not_run(subject: RuntimeUnderTest) -> None:
    """create_container makes a container without starting it; its status is complete."""
    before = await _now(subject)
    async with subject.pod() as pod:
        config = pod.make_container_config()
        container_id = await pod.create()
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.id, container_id, "id")
        expect_equal(status.state, cri.ContainerState.CREATED, "state")
        expect_equal(status.metadata, config.metadata, "metadata")
        expect(status.image.image, "image is empty")
        expect(status.image_ref, "image_ref is empty")
        expect(_is_recent(subject, status.created_at, before), f"created_at must be now, not {status.created_at}")
        expect_equal(status.started_at, None, "started_at")
        expect_equal(status.finished_at, None, "finished_at")


@RUNTIME_CHECKS.add
async def container_creation_is_idempotent_by_metadata(subject: RuntimeUnderTest) -> None:
    """Creating a container of the same sandbox, name and attempt again gives the same one."""
    async with subject.pod() as pod:
        first = await pod.create()
        expect_equal(await pod.create(), first, "id of the second call")
        await subject.runtime.start_container(first)
        expect_equal(await pod.create(), first, "id of a call when it runs")
        expect_equal(len(await pod.list_ids()), 1, "number of containers")


@RUNTIME_CHECKS.add
async def creation_at_the_same_time_makes_one_container(subject: RuntimeUnderTest) -> None:
    """Two calls at once for the same container end with one container."""
    async with subject.pod() as pod:
        ids = await asyncio.gather(pod.create(), pod.create())
        expect_equal(len(set(ids)), 1, "number of different ids")
        expect_equal(len(await pod.list_ids()), 1, "number of containers")


@RUNTIME_CHECKS.add
async def another_attempt_is_another_container(subject: RuntimeUnderTest) -> None:
    """A container of the same name with the next attempt is a new one; lists show both with their attempts."""
    async with subject.pod() as pod:
        first = await pod.run(shell("exit 1"))
        await pod.wait_exited(first)
        second = await pod.run(attempt=1)
        expect(second != first, "the second attempt has the id of the first")
        found = await subject.runtime.list_containers(cri.ContainerFilter(pod_sandbox_id=pod.sandbox_id))
        attempts = {item.metadata.attempt: item.state for item in found}
        wanted = {0: cri.ContainerState.EXITED, 1: cri.ContainerState.RUNNING}
        expect_equal(attempts, wanted, "attempts listed")
        listed = {item.metadata.attempt: item.created_at for item in found}
        expect(listed[0] <= listed[1], "the list says that the second attempt was created before the first")
        # A list may know whole seconds only; the status tells exactly.
        times = [(await subject.runtime.container_status(container_id)).created_at for container_id in (first, second)]
        expect(times[0] < times[1], f"the second attempt must be created later than the first, not at {times[1]}")


@RUNTIME_CHECKS.add
async def container_needs_its_image(subject: RuntimeUnderTest) -> None:
    """Creating a container whose image is not present raises NotFoundError and leaves nothing behind."""
    async with subject.pod() as pod:
        image = cri.ImageSpec(f"localhost/no-such-image-{uuid.uuid4().hex}:1")
        config = pod.make_container_config(image=image)
        work = subject.runtime.create_container(pod.sandbox_id, config, pod.config)
        await expect_error(NotFoundError, work, "create_container")
        expect_equal(list(await pod.list_ids()), [], "containers listed")


@RUNTIME_CHECKS.add
async def started_container_runs(subject: RuntimeUnderTest) -> None:
    """start_container makes a container run; starting it again is success and changes nothing."""
    async with subject.pod() as pod:
        container_id = await pod.run()
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.state, cri.ContainerState.RUNNING, "state")
        expect(status.started_at is not None, "started_at is not set")
        expect(status.started_at is None or status.started_at >= status.created_at, "started_at is before created_at")
        expect_equal(status.finished_at, None, "finished_at")
        await subject.runtime.start_container(container_id)
        again = await subject.runtime.container_status(container_id)
        expect_equal(again.started_at, status.started_at, "started_at after a second start")


@RUNTIME_CHECKS.add
async def unknown_container_is_not_found(subject: RuntimeUnderTest) -> None:
    """Start, status and exec of a container that does not exist raise NotFoundError."""
    unknown = cri.ContainerID(_UNKNOWN)
    await expect_error(NotFoundError, subject.runtime.start_container(unknown), "start_container")
    await expect_error(NotFoundError, subject.runtime.container_status(unknown), "container_status")
    await expect_error(NotFoundError, subject.runtime.exec_sync(unknown, ["true"]), "exec_sync")


@RUNTIME_CHECKS.add
async def exit_codes_are_reported(subject: RuntimeUnderTest) -> None:
    """An ended container has its exit code, both times, and reason Completed for 0 and Error for any other."""
    async with subject.pod() as pod:
        for code, reason in ((0, "Completed"), (3, "Error"), (255, "Error")):
            container_id = await pod.run(shell(f"exit {code}"), name=f"exit-{code}")
            status = await pod.wait_exited(container_id)
            expect_equal(status.exit_code, code, "exit_code")
            expect_equal(status.reason, reason, f"reason for exit code {code}")
            expect(status.started_at is not None and status.finished_at is not None, "a time is missing")
            if status.started_at is not None and status.finished_at is not None:
                order = f"finished_at {status.finished_at} is before started_at {status.started_at}"
                expect(status.started_at <= status.finished_at, order)


@RUNTIME_CHECKS.add
async def container_that_cannot_start_is_kept(subject: RuntimeUnderTest) -> None:
    """A start that fails raises PodSyncError; the container stays, exited, with a reason and a code other than 0."""
    if subject.unstartable is None:
        raise NotOffered("every container can be started")
    async with subject.pod() as pod:
        container_id = await pod.create(subject.unstartable)
        await expect_error(PodSyncError, subject.runtime.start_container(container_id), "start_container")
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.state, cri.ContainerState.EXITED, "state")
        expect(status.exit_code != 0, "exit_code is 0")
        expect(status.reason in ("ContainerCannotRun", "StartError"), f"reason is {status.reason!r}")
        expect(status.message, "message is empty")


@RUNTIME_CHECKS.add
async def exited_container_does_not_start_again(subject: RuntimeUnderTest) -> None:
    """The record of an ended container stays as it is: exit code and times do not change by looking again."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("exit 4"))
        first = await pod.wait_exited(container_id)
        await asyncio.sleep(0.3)
        second = await subject.runtime.container_status(container_id)
        expect_equal((second.state, second.exit_code), (first.state, 4), "state and exit code later")
        expect_equal(second.finished_at, first.finished_at, "finished_at later")


@RUNTIME_CHECKS.add
async def labels_and_annotations_of_containers_come_back_unchanged(subject: RuntimeUnderTest) -> None:
    """Labels and annotations of a container are returned exactly as given, in its status and in lists."""
    async with subject.pod() as pod:
        config = pod.make_container_config()
        container_id = await pod.run()
        status = await subject.runtime.container_status(container_id)
        (listed,) = await subject.runtime.list_containers(cri.ContainerFilter(id=container_id))
        expect_equal(listed.pod_sandbox_id, pod.sandbox_id, "pod_sandbox_id in the list")
        expect_equal(listed.metadata, config.metadata, "metadata in the list")
        expect_equal(listed.image_ref, status.image_ref, "image_ref in the list")
        for where, labels_, annotations in (
            ("status", status.labels, status.annotations),
            ("list", listed.labels, listed.annotations),
        ):
            expect_equal(dict(labels_), dict(config.labels), f"labels in the {where}")
            expect_equal(dict(annotations), dict(config.annotations), f"annotations in the {where}")


@RUNTIME_CHECKS.add
async def container_list_is_filtered(subject: RuntimeUnderTest) -> None:
    """list_containers honours id, sandbox, state and labels, all of them together; sandboxes are not containers."""
    async with subject.pod() as pod, subject.pod() as other:
        running = await pod.run()
        exited = await pod.run(shell("exit 0"), name="exited")
        created = await pod.create(name="created")
        foreign = await other.run()
        await pod.wait_exited(exited)

        async def ids(**parts: object) -> set[str]:
            found = await subject.runtime.list_containers(cri.ContainerFilter(**parts))  # type: ignore[arg-type]
            return {item.id for item in found}

        own = {labels.POD_UID: pod.uid}
        state = cri.ContainerState
        expect_equal(await ids(id=exited), {exited}, "containers of this id")
        expect_equal(await ids(pod_sandbox_id=pod.sandbox_id), {running, exited, created}, "containers of this sandbox")
        expect_equal(await ids(label_selector=own), {running, exited, created}, "containers of these labels")
        expect_equal(await ids(label_selector=own, state=state.RUNNING), {running}, "running containers of the pod")
        expect_equal(await ids(label_selector=own, state=state.EXITED), {exited}, "exited containers of the pod")
        expect_equal(await ids(label_selector=own, state=state.CREATED), {created}, "created containers of the pod")
        named = {**own, labels.CONTAINER_NAME: "exited"}
        expect_equal(await ids(label_selector=named), {exited}, "containers of two labels")
        mixed = await ids(pod_sandbox_id=other.sandbox_id, label_selector=own)
        expect_equal(mixed, set(), "containers of one pod's labels in another's sandbox")
        everything = {item.id for item in await subject.runtime.list_containers()}
        expect({running, exited, created, foreign} <= everything, "a list without filter leaves containers out")
        expect(not {pod.sandbox_id, other.sandbox_id} & everything, "a sandbox is listed as a container")


@RUNTIME_CHECKS.add
async def configuration_reaches_the_process(subject: RuntimeUnderTest) -> None:
    """Command, arguments, environment, working directory and host name are those of the configuration."""
    async with subject.pod() as pod:
        script = 'echo "$GREETING|$EMPTY|$1|$(pwd)|$(hostname)"'
        work = replace(shell(script), args=("zero", "one two"))
        envs = {"GREETING": "good  morning = x", "EMPTY": ""}
        container_id = await pod.run(work, envs=envs, working_dir="/tmp")  # noqa: S108 - inside the container
        await pod.wait_exited(container_id)
        wanted = f"good  morning = x||one two|/tmp|{pod.config.hostname}\n".encode()
        expect_equal(await pod.read_log(container_id), wanted, "what the process saw")


# -- Stopping and removing.


@RUNTIME_CHECKS.add
async def stop_asks_before_it_kills(subject: RuntimeUnderTest) -> None:
    """stop_container sends the stop signal and returns as soon as the container has ended by itself."""
    async with subject.pod() as pod:
        container_id = await pod.run()
        await asyncio.sleep(0.5)  # let the shell set its trap
        started = asyncio.get_running_loop().time()
        await subject.runtime.stop_container(container_id, grace_period_s=30)
        took_s = asyncio.get_running_loop().time() - started
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.state, cri.ContainerState.EXITED, "state when stop returns")
        expect_equal(status.exit_code, 7, "exit code of its own")
        expect(took_s < 30 - _QUICK_S, f"the stop took {took_s:.1f} s though the container ended at once")


@RUNTIME_CHECKS.add
async def stop_kills_when_the_grace_period_has_run_out(subject: RuntimeUnderTest) -> None:
    """A container that ignores the stop signal is killed after the grace period, with exit code 137."""
    async with subject.pod() as pod:
        container_id = await pod.run(subject.stubborn)
        await asyncio.sleep(0.5)
        started = asyncio.get_running_loop().time()
        await subject.runtime.stop_container(container_id, grace_period_s=2)
        took_s = asyncio.get_running_loop().time() - started
        status = await subject.runtime.container_status(container_id)
        expect_equal((status.state, status.exit_code), (cri.ContainerState.EXITED, 137), "state and exit code")
        expect(took_s > 1.5, f"it was killed after {took_s:.1f} s of 2 s")
        expect(took_s < 2 + _QUICK_S, f"it was killed only after {took_s:.1f} s of 2 s")


@RUNTIME_CHECKS.add
async def stop_without_grace_kills_at_once(subject: RuntimeUnderTest) -> None:
    """A grace period of 0 kills at once."""
    async with subject.pod() as pod:
        container_id = await pod.run(subject.stubborn)
        started = asyncio.get_running_loop().time()
        await subject.runtime.stop_container(container_id, grace_period_s=0)
        took_s = asyncio.get_running_loop().time() - started
        status = await subject.runtime.container_status(container_id)
        expect_equal((status.state, status.exit_code), (cri.ContainerState.EXITED, 137), "state and exit code")
        expect(took_s < _QUICK_S, f"it took {took_s:.1f} s")


@RUNTIME_CHECKS.add
async def stopping_may_be_repeated(subject: RuntimeUnderTest) -> None:
    """Stopping an exited, a never started or an unknown container is success."""
    async with subject.pod() as pod:
        container_id = await pod.run(shell("exit 5"))
        await pod.wait_exited(container_id)
        await subject.runtime.stop_container(container_id, grace_period_s=5)
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.exit_code, 5, "exit code after a stop that came too late")
        created = await pod.create(name="created")
        await subject.runtime.stop_container(created, grace_period_s=5)
    await subject.runtime.stop_container(cri.ContainerID(_UNKNOWN), grace_period_s=5)


@RUNTIME_CHECKS.add
async def cancelled_stop_is_hurried_by_less_grace(subject: RuntimeUnderTest) -> None:
    """After a stop was cancelled, another one with less grace kills when that has run out."""
    async with subject.pod() as pod:
        container_id = await pod.run(subject.stubborn)
        await asyncio.sleep(0.5)
        try:
            async with asyncio.timeout(1):
                await subject.runtime.stop_container(container_id, grace_period_s=60)
        except TimeoutError:
            pass
        status = await subject.runtime.container_status(container_id)
        expect_equal(status.state, cri.ContainerState.RUNNING, "state after the cancelled stop")
        started = asyncio.get_running_loop().time()
        await subject.runtime.stop_container(container_id, grace_period_s=1)
        took_s = asyncio.get_running_loop().time() - started
        status = await subject.runtime.container_status(container_id)
        expect_equal((status.state, status.exit_code), (cri.ContainerState.EXITED, 137), "state and exit code")
        expect(took_s < 1 + _QUICK_S, f"the second stop took {took_s:.1f} s of 1 s")


@RUNTIME_CHECKS.add
async def stops_at_the_same_time_all_return(subject: RuntimeUnderTest) -> None:
    """Several callers may stop one container; the shortest grace period counts and all return."""
    async with subject.pod() as pod:
        container_id = await pod.run(subject.stubborn)
        await asyncio.sleep(0.5)
        started = asyncio.get_running_loop().time()
        await asyncio.gather(
            *(subject.runtime.stop_container(container_id, grace_period_s=grace_s) for grace_s in (60, 1, 60))
        )
        took_s = asyncio.get_running_loop().time() - started
        expect(took_s < 1 + _QUICK_S, f"they took {took_s:.1f} s")


@RUNTIME_CHECKS.add
async def removing_a_container_kills_it(subject: RuntimeUnderTest) -> None:
    """remove_container ends a running container and leaves no record; repeating it, or an unknown one, is success."""
    async with subject.pod() as pod:
        container_id = await pod.run(subject.stubborn)
        await subject.runtime.remove_container(container_id)
        expect(await pod.is_gone(container_id), "the container is still known")
        expect_equal(list(await pod.list_ids()), [], "containers listed")
        await subject.runtime.remove_container(container_id)
    await subject.runtime.remove_container(cri.ContainerID(_UNKNOWN))


@RUNTIME_CHECKS.add
async def resources_change_in_place(subject: RuntimeUnderTest) -> None:
    """update_container_resources changes what the status reports, without a restart."""
    async with subject.pod() as pod:
        resources = cri.LinuxContainerResources(memory_limit_bytes=64 * 1024**2, cpu_shares=256)
        container_id = await pod.run(resources=resources)
        before = await subject.runtime.container_status(container_id)
        change = cri.LinuxContainerResources(cpu_shares=512)
        await subject.runtime.update_container_resources(container_id, change)
        after = await subject.runtime.container_status(container_id)
        expect_equal(after.started_at, before.started_at, "started_at")
        if after.resources is not None:
            expect_equal(after.resources.cpu_shares, 512, "cpu_shares")
            expect_equal(after.resources.memory_limit_bytes, 64 * 1024**2, "memory_limit_bytes, which was not given")


# -- Images.


@RUNTIME_CHECKS.add
async def present_image_is_found(subject: RuntimeUnderTest) -> None:
    """An image that is present is found by its reference and by its id, and listed."""
    await subject.ensure_image(subject.image)
    image = await subject.runtime.images.find_image(cri.ImageSpec(subject.image))
    expect(image is not None, f"{subject.image} is not found")
    if image is not None:
        expect(image.id, "id is empty")
        expect(image.repo_tags or image.repo_digests, "it has neither tag nor digest")
        by_id = await subject.runtime.images.find_image(cri.ImageSpec(image.id))
        expect_equal(by_id.id if by_id else None, image.id, "id of the image found by its id")
        listed = {item.id for item in await subject.runtime.images.list_images()}
        expect(image.id in listed, "the image is not listed")


@RUNTIME_CHECKS.add
async def absent_image_is_none(subject: RuntimeUnderTest) -> None:
    """An absent image is None, and removing it is success."""
    spec = cri.ImageSpec(f"localhost/no-such-image-{uuid.uuid4().hex}:1")
    expect_equal(await subject.runtime.images.find_image(spec), None, "find_image")
    await subject.runtime.images.remove_image(spec)


@RUNTIME_CHECKS.add
async def used_image_is_not_removed(subject: RuntimeUnderTest) -> None:
    """Removing an image that a container uses raises ConflictError."""
    async with subject.pod() as pod:
        await pod.run()
        image = await subject.runtime.images.find_image(cri.ImageSpec(subject.image))
        expect(image is not None, f"{subject.image} is not found")
        if image is not None:
            work = subject.runtime.images.remove_image(cri.ImageSpec(image.id))
            await expect_error(ConflictError, work, "remove_image")
        expect(await subject.runtime.images.find_image(cri.ImageSpec(subject.image)), "the image is gone all the same")


async def _exited(subject: RuntimeUnderTest, container_id: cri.ContainerID) -> bool:
    return (await subject.runtime.container_status(container_id)).state is cri.ContainerState.EXITED


@RUNTIME_CHECKS.add
async def containers_of_a_pod_live_apart(subject: RuntimeUnderTest) -> None:
    """One container's end leaves the sandbox and the other containers of the pod alone."""
    async with subject.pod() as pod:
        survivor = await pod.run(name="survivor")
        ended = await pod.run(shell("exit 1"), name="ended")
        await eventually(lambda: _exited(subject, ended), within_s=subject.patience_s, what="the other has exited")
        status = await subject.runtime.container_status(survivor)
        expect_equal(status.state, cri.ContainerState.RUNNING, "state of the other container")
        sandbox = await subject.runtime.pod_sandbox_status(pod.sandbox_id)
        expect_equal(sandbox.state, cri.SandboxState.READY, "state of the sandbox")
