"""The rules of ``PodProvider`` and of its optional abilities."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from vkprovider.api import v1
from vkprovider.errors import NotFoundError
from vkprovider.provider.capabilities import (
    ExecCapability,
    LogOptions,
    LogsCapability,
    NodeStatusCapability,
    StatsCapability,
)
from vkprovider.provider.streams import CappedBuffer, ProcessStreams
from vkprovider.testing.conformance.checks import (
    ConformanceFailure,
    NotOffered,
    eventually,
    expect,
    expect_equal,
    expect_error,
)
from vkprovider.testing.conformance.provider import PROVIDER_CHECKS, PodDriver, ProviderUnderTest, exits
from vkprovider.testing.conformance.runtime import shell

_STATES = ("waiting", "running", "terminated")


def _check_states(statuses: Sequence[v1.ContainerStatus]) -> None:
    for status in statuses:
        given = [key for key in _STATES if key in (status.get("state") or {})]
        expect_equal(len(given), 1, f"number of states of container {status.get('name')!r}")


def _identity(driver: PodDriver) -> tuple[object, object, object]:
    """What changes when a container is restarted."""
    running = driver.state.get("running") or {}
    return driver.container.get("containerID"), running.get("startedAt"), driver.container.get("restartCount")


# -- Running.


@PROVIDER_CHECKS.add
async def sync_makes_a_pod_run(subject: ProviderUnderTest) -> None:
    """Syncing a pod makes it run: phase Running, its container running and started, with a start time and an id."""
    async with subject.pod() as driver:
        status = await driver.run()
        expect_equal(driver.status.get("phase"), "Running", "phase")
        expect(driver.state["running"].get("startedAt"), "state.running.startedAt is empty")
        expect(
            "://" in status.get("containerID", ""),
            f"containerID must be <scheme>://<id>, not {status.get('containerID')!r}",
        )
        expect_equal(status.get("restartCount"), 0, "restartCount")


@PROVIDER_CHECKS.add
async def every_container_has_a_status(subject: ProviderUnderTest) -> None:
    """The status names every container of the spec exactly once, each in exactly one state, with image and counts."""
    async with subject.pod() as driver:
        template = driver.pod["spec"]["containers"][0]
        second: v1.Container = {**template, "name": "second"}
        driver.pod["spec"]["containers"].append(second)

        def all_run(_: object) -> bool:
            statuses = driver.status.get("containerStatuses") or []
            return len(statuses) == 2 and all("running" in (item.get("state") or {}) for item in statuses)

        await driver.sync_until(all_run, "both containers run")
        statuses = driver.status["containerStatuses"]
        expect_equal(sorted(item["name"] for item in statuses), ["main", "second"], "names of the statuses")
        _check_states(statuses)
        for item in statuses:
            expect(item.get("image"), f"image of {item['name']} is empty")
            expect(isinstance(item.get("ready"), bool), f"ready of {item['name']} is missing")


@PROVIDER_CHECKS.add
async def syncing_again_changes_nothing(subject: ProviderUnderTest) -> None:
    """Syncing a pod that runs as it should leaves its containers alone."""
    async with subject.pod() as driver:
        await driver.run()
        before = _identity(driver)
        for _ in range(3):
            await driver.sync()
            expect_equal(_identity(driver), before, "container id, start time and restart count")


@PROVIDER_CHECKS.add
async def pods_run_side_by_side(subject: ProviderUnderTest) -> None:
    """Calls for different pods may overlap; one pod's termination leaves another alone."""
    async with subject.pod() as one, subject.pod() as other:
        await asyncio.gather(one.run(), other.run())
        before = _identity(other)
        await one.terminate()
        await other.sync()
        expect("running" in other.state, f"the other pod no longer runs: {other.state!r}")
        expect_equal(_identity(other), before, "container id, start time and restart count of the other")


@PROVIDER_CHECKS.add
async def same_name_with_another_uid_is_another_pod(subject: ProviderUnderTest) -> None:
    """A pod created again under a name is a new pod, whatever is left of the old one."""
    async with subject.pod() as old:
        await old.run()
        await old.terminate()
        async with subject.pod(name=old.pod["metadata"]["name"]) as new:
            await new.run()
            expect(new.container.get("containerID") != old.container.get("containerID"), "both have the same container")
            listed = await new.find_listed()
            expect(listed is not None and listed.running, "the new pod is not listed as running")
            await subject.provider.cleanup_pod(old.uid)
            await new.sync()
            expect("running" in new.state, "cleaning up the old pod ended the new one")


@PROVIDER_CHECKS.add
async def environment_reaches_the_container(subject: ProviderUnderTest) -> None:
    """Values of env reach the container, references such as $(NAME) expanded."""
    logs = subject.need(LogsCapability)  # type: ignore[type-abstract]
    async with subject.pod(shell('echo "$GREETING $NAME"'), restart_policy="Never") as driver:
        driver.pod["spec"]["containers"][0]["env"] = [
            {"name": "NAME", "value": "world"},
            {"name": "GREETING", "value": "hello $(NAME),"},
        ]
        await driver.sync_until(lambda result: result.terminal, "the pod has ended")
        found = await _read_log(logs, driver)
        expect_equal(found, b"hello world, world\n", "what the container saw")


# -- Ending.


@PROVIDER_CHECKS.add
async def pod_that_ends_well_succeeds(subject: ProviderUnderTest) -> None:
    """A pod that is not restarted and exits with 0 is terminal with phase Succeeded and reason Completed."""
    async with subject.pod(exits(0), restart_policy="Never") as driver:
        await driver.sync_until(lambda result: result.terminal, "the result is terminal")
        expect_equal(driver.status.get("phase"), "Succeeded", "phase")
        terminated = driver.state.get("terminated") or {}
        expect_equal(terminated.get("exitCode"), 0, "exitCode")
        expect_equal(terminated.get("reason"), "Completed", "reason")


@PROVIDER_CHECKS.add
async def pod_that_ends_badly_fails(subject: ProviderUnderTest) -> None:
    """A pod that is not restarted and exits with another code is terminal with phase Failed and that code."""
    async with subject.pod(exits(3), restart_policy="Never") as driver:
        await driver.sync_until(lambda result: result.terminal, "the result is terminal")
        expect_equal(driver.status.get("phase"), "Failed", "phase")
        terminated = driver.state.get("terminated") or {}
        expect_equal(terminated.get("exitCode"), 3, "exitCode")
        expect_equal(terminated.get("reason"), "Error", "reason")
        expect(terminated.get("finishedAt"), "finishedAt is empty")


@PROVIDER_CHECKS.add
async def ended_pod_is_not_started_again(subject: ProviderUnderTest) -> None:
    """Syncing a pod that has ended for good stays terminal and starts nothing."""
    async with subject.pod(exits(0), restart_policy="Never") as driver:
        await driver.sync_until(lambda result: result.terminal, "the result is terminal")
        before = (driver.container.get("containerID"), driver.state.get("terminated"))
        result = await driver.sync()
        expect(result.terminal, "the next result is not terminal")
        expect_equal((driver.container.get("containerID"), driver.state.get("terminated")), before, "id and state")


@PROVIDER_CHECKS.add
async def container_that_ends_is_restarted(subject: ProviderUnderTest) -> None:
    """With restartPolicy Always an ended container runs again: the restart count grows, lastState tells of the end."""
    if not subject.restarts_containers:
        raise NotOffered("it does not restart containers")
    async with subject.pod(shell("sleep 1; exit 3")) as driver:
        await driver.sync_until(
            lambda _: driver.container.get("restartCount", 0) >= 1 and driver.container.get("lastState"),
            "restartCount is 1 and lastState is set",
        )
        last = driver.container["lastState"].get("terminated") or {}
        expect_equal(last.get("exitCode"), 3, "exitCode of lastState")


@PROVIDER_CHECKS.add
async def changes_are_told(subject: ProviderUnderTest) -> None:
    """pod_changes names a pod that changed by itself."""
    async with subject.pod(shell("sleep 1; exit 0"), restart_policy="Never") as driver:
        told = asyncio.Event()

        async def listen() -> None:
            async for uid in subject.provider.pod_changes():
                if uid == driver.uid:
                    told.set()

        listener = asyncio.create_task(listen(), name="conformance-changes")
        try:
            await driver.run()
            told.clear()

            async def probe() -> bool:
                if listener.done():
                    listener.result()
                    raise ConformanceFailure("pod_changes ended by itself")
                return told.is_set()

            await eventually(probe, within_s=subject.patience_s, what="pod_changes names the pod that ended")
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)


# -- Termination and cleanup.


@PROVIDER_CHECKS.add
async def termination_ends_everything(subject: ProviderUnderTest) -> None:
    """terminate_pod returns once nothing runs, with the true exit code in the status."""
    async with subject.pod() as driver:
        await driver.run()
        await asyncio.sleep(0.5)
        await driver.terminate()
        terminated = driver.state.get("terminated")
        expect(terminated is not None, f"the container is not terminated: {driver.state!r}")
        expect_equal((terminated or {}).get("exitCode"), 7, "exitCode")
        listed = await driver.find_listed()
        expect(listed is None or not listed.running, "the pod is listed as running")


@PROVIDER_CHECKS.add
async def termination_kills_in_the_end(subject: ProviderUnderTest) -> None:
    """A pod that ignores the request to stop is killed after the grace period, with exit code 137."""
    if subject.stubborn is None:
        raise NotOffered("no workload that ignores a stop was given")
    async with subject.pod(subject.stubborn) as driver:
        await driver.run()
        await asyncio.sleep(0.5)
        started = asyncio.get_running_loop().time()
        await driver.terminate(2)
        took_s = asyncio.get_running_loop().time() - started
        expect_equal((driver.state.get("terminated") or {}).get("exitCode"), 137, "exitCode")
        expect(took_s > 1, f"it was killed after {took_s:.1f} s of 2 s")


@PROVIDER_CHECKS.add
async def termination_is_hurried_by_less_grace(subject: ProviderUnderTest) -> None:
    """A termination that was cancelled and called again with less grace ends sooner."""
    if subject.stubborn is None:
        raise NotOffered("no workload that ignores a stop was given")
    async with subject.pod(subject.stubborn) as driver:
        await driver.run()
        await asyncio.sleep(0.5)
        try:
            async with asyncio.timeout(1):
                await driver.terminate(120)
        except TimeoutError:
            pass
        else:
            raise ConformanceFailure("the first termination returned though the container ignores it")
        started = asyncio.get_running_loop().time()
        await driver.terminate(1)
        took_s = asyncio.get_running_loop().time() - started
        expect(took_s < subject.patience_s, f"the second termination took {took_s:.1f} s")
        expect_equal((driver.state.get("terminated") or {}).get("exitCode"), 137, "exitCode")


@PROVIDER_CHECKS.add
async def termination_may_be_repeated(subject: ProviderUnderTest) -> None:
    """Terminating a stopped pod again is success and keeps the exit code."""
    async with subject.pod(exits(3), restart_policy="Never") as driver:
        await driver.sync_until(lambda result: result.terminal, "the result is terminal")
        await driver.terminate()
        await driver.terminate()
        expect_equal((driver.state.get("terminated") or {}).get("exitCode"), 3, "exitCode")


@PROVIDER_CHECKS.add
async def unknown_pod_is_terminated_and_cleaned_up(subject: ProviderUnderTest) -> None:
    """Terminating and cleaning up a pod that the provider never saw is success."""
    async with subject.pod() as driver:
        await driver.terminate()
        await subject.provider.cleanup_pod(driver.uid)
        expect_equal(await driver.find_listed(), None, "the pod in the list")


@PROVIDER_CHECKS.add
async def cleaned_up_pod_is_forgotten(subject: ProviderUnderTest) -> None:
    """After cleanup the provider neither lists the pod nor has a status of it; cleaning up again is success."""
    async with subject.pod() as driver:
        await driver.run()
        await driver.terminate()
        await subject.provider.cleanup_pod(driver.uid)
        expect_equal(await driver.find_listed(), None, "the pod in the list")
        expect_equal(await driver.get_status(), None, "status of the pod")
        await subject.provider.cleanup_pod(driver.uid)


@PROVIDER_CHECKS.add
async def orphan_is_terminated_by_what_the_list_told(subject: ProviderUnderTest) -> None:
    """A pod is terminated given only what list_pods told of it, as when the API server forgot it."""
    async with subject.pod() as driver:
        await driver.run()
        listed = await driver.find_listed()
        if listed is None:
            raise ConformanceFailure("the running pod is not listed")
        driver.pod, driver.status = listed.pod, {}
        await driver.terminate()
        again = await driver.find_listed()
        expect(again is None or not again.running, "the pod is still listed as running")


# -- Looking.


@PROVIDER_CHECKS.add
async def running_pod_is_listed(subject: ProviderUnderTest) -> None:
    """list_pods names a running pod with its name, namespace and UID."""
    async with subject.pod() as driver:
        await driver.run()
        listed = await driver.find_listed()
        if listed is None:
            raise ConformanceFailure("the running pod is not listed")
        expect(listed.running, "the pod is not listed as running")
        for key in ("name", "namespace", "uid"):
            expect_equal(listed.pod["metadata"].get(key), driver.pod["metadata"].get(key), f"metadata.{key}")


@PROVIDER_CHECKS.add
async def status_of_an_unknown_pod_is_none(subject: ProviderUnderTest) -> None:
    """get_pod_status of a pod that the provider never saw is None, and does not make it known."""
    async with subject.pod() as driver:
        expect_equal(await driver.get_status(), None, "status")
        expect_equal(await driver.find_listed(), None, "the pod in the list")


@PROVIDER_CHECKS.add
async def status_is_what_the_backend_sees(subject: ProviderUnderTest) -> None:
    """get_pod_status of a running pod agrees with the result of its sync."""
    async with subject.pod() as driver:
        await driver.run()
        status = await driver.get_status()
        if status is None:
            raise ConformanceFailure("a running pod has no status")
        _check_states(status.get("containerStatuses") or [])
        ids = [item.get("containerID") for item in status.get("containerStatuses") or []]
        expect_equal(ids, [driver.container.get("containerID")], "containerIDs")


@PROVIDER_CHECKS.add
async def pods_outlive_a_restart_of_the_node(subject: ProviderUnderTest) -> None:
    """Another provider object for the same backend lists the pod and goes on with the same container."""
    if subject.restart is None:
        raise NotOffered("the backend does not outlive the process")
    async with subject.pod() as driver:
        await driver.run()
        before = _identity(driver)
        driver.provider = await subject.restart()
        try:
            expect(await driver.find_listed(), "the pod is not listed after the restart")
            await driver.sync()
            expect_equal(_identity(driver), before, "container id, start time and restart count")
        finally:
            await driver.provider.stop()
            driver.provider = subject.provider


# -- Abilities.


async def _read_log(logs: LogsCapability, driver: PodDriver, container: str = "main") -> bytes:
    return b"".join([chunk async for chunk in logs.container_logs(driver.pod, container, LogOptions())])


@PROVIDER_CHECKS.add
async def log_is_shown(subject: ProviderUnderTest) -> None:
    """The log of a container holds what it wrote; that of an unknown container raises NotFoundError."""
    logs = subject.need(LogsCapability)  # type: ignore[type-abstract]
    async with subject.pod(shell("echo one; echo two"), restart_policy="Never") as driver:
        await driver.sync_until(lambda result: result.terminal, "the result is terminal")

        async def probe() -> bool:
            return await _read_log(logs, driver) == b"one\ntwo\n"

        await eventually(probe, within_s=subject.patience_s, what="the log holds both lines")
        await expect_error(NotFoundError, _read_log(logs, driver, "nobody"), "the log of an unknown container")


@PROVIDER_CHECKS.add
async def command_runs_in_a_container(subject: ProviderUnderTest) -> None:
    """Exec runs a command with its output and exit code; in an unknown container it raises NotFoundError."""
    ability = subject.need(ExecCapability)  # type: ignore[type-abstract]
    async with subject.pod() as driver:
        await driver.run()
        stdout = CappedBuffer(1024)
        command = ["sh", "-c", "echo inside; exit 4"]
        code = await ability.exec_in_container(driver.pod, "main", command, ProcessStreams(stdout=stdout))
        expect_equal((code, stdout.getvalue()), (4, b"inside\n"), "code and output")
        work = ability.exec_in_container(driver.pod, "nobody", command, ProcessStreams())
        await expect_error(NotFoundError, work, "exec in an unknown container")
        code, output = await ability.exec_probe(driver.pod, "main", ["sh", "-c", "echo well"], timeout_s=10)
        expect_equal((code, output), (0, b"well\n"), "code and output of a probe")


@PROVIDER_CHECKS.add
async def figures_name_running_pods(subject: ProviderUnderTest) -> None:
    """pod_usages has an entry for a running pod and its containers."""
    stats = subject.need(StatsCapability)  # type: ignore[type-abstract]
    async with subject.pod() as driver:
        await driver.run()

        async def probe() -> bool:
            usages = {usage.pod_uid: usage for usage in await stats.pod_usages()}
            return driver.uid in usages and "main" in usages[driver.uid].containers

        await eventually(probe, within_s=subject.patience_s, what="figures of the pod and its container")


@PROVIDER_CHECKS.add
async def node_is_described(subject: ProviderUnderTest) -> None:
    """A healthy provider answers pings and says how much cpu, memory and how many pods its node takes, if it says so at all."""
    ability = subject.need(NodeStatusCapability)  # type: ignore[type-abstract]
    await ability.ping()
    description = await ability.describe_node()
    for name, amount in description.capacity.items():
        expect(isinstance(amount, str) and amount, f"capacity of {name} must be a quantity, not {amount!r}")
