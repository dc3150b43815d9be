"""The suite itself: every rule is caught when a runtime breaks it, and reports say what happened."""

import asyncio
from dataclasses import replace

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import MemoryRuntime
from vkprovider.errors import PodSyncError, TransientError
from vkprovider.provider import cri
from vkprovider.provider.container_runtime import StreamingRuntime
from vkprovider.testing.conformance import (
    PROVIDER_CHECKS,
    RUNTIME_CHECKS,
    CheckSuite,
    ConformanceFailure,
    NotOffered,
    Outcome,
    RuntimeUnderTest,
    Workload,
    run_checks,
    run_conformance,
)
from vkprovider.testing.conformance.checks import eventually, expect_error

pytestmark = pytest.mark.looptime
UNSTARTABLE = Workload(image="memory.local/start-error:1")


def make(kind=MemoryRuntime, **fields):
    return RuntimeUnderTest(runtime=kind(clock=LoopClock()), image="busybox:1", unstartable=UNSTARTABLE, **fields)


class TwoSandboxes(MemoryRuntime):
    async def run_pod_sandbox(self, config, *, runtime_handler=""):
        self._sandbox_keys.clear()
        return await super().run_pod_sandbox(config)


class TwoContainers(MemoryRuntime):
    async def create_container(self, sandbox_id, config, sandbox_config):
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is not None:
            sandbox.containers = {}
        return await super().create_container(sandbox_id, config, sandbox_config)


class UnfilteredLists(MemoryRuntime):
    async def list_containers(self, filter=None):
        return await super().list_containers(None)

    async def list_pod_sandboxes(self, filter=None):
        return await super().list_pod_sandboxes(None)


class LostLabels(MemoryRuntime):
    async def pod_sandbox_status(self, sandbox_id):
        return replace(await super().pod_sandbox_status(sandbox_id), labels={})

    async def container_status(self, container_id):
        status = await super().container_status(container_id)
        return replace(status, annotations={key.lower(): value for key, value in status.annotations.items()})


class WrongCodes(MemoryRuntime):
    async def container_status(self, container_id):
        return replace(await super().container_status(container_id), exit_code=1)


class KillsAtOnce(MemoryRuntime):
    async def stop_container(self, container_id, *, grace_period_s):
        await super().stop_container(container_id, grace_period_s=0)


class ForgetsShorterGrace(MemoryRuntime):
    async def stop_container(self, container_id, *, grace_period_s):
        record = self._containers.get(container_id)
        if record is not None and record._kill_timer is not None:
            await record.wait_exited()
            return
        await super().stop_container(container_id, grace_period_s=grace_period_s)


class RefusesUnknown(MemoryRuntime):
    async def stop_container(self, container_id, *, grace_period_s):
        await self.container_status(container_id)
        await super().stop_container(container_id, grace_period_s=grace_period_s)

    async def remove_container(self, container_id):
        await self.container_status(container_id)
        await super().remove_container(container_id)

    async def stop_pod_sandbox(self, sandbox_id):
        await self.pod_sandbox_status(sandbox_id)
        await super().stop_pod_sandbox(sandbox_id)


class LeavesContainersOfSandboxes(MemoryRuntime):
    async def stop_pod_sandbox(self, sandbox_id):
        record = self._sandboxes[sandbox_id]
        containers, record.containers = record.containers, {}
        await super().stop_pod_sandbox(sandbox_id)
        record.containers = containers


class SilentLog(MemoryRuntime):
    async def container_logs(self, container_id, options):
        return
        yield b""


class IgnoresLogOptions(MemoryRuntime):
    async def container_logs(self, container_id, options):
        async for chunk in super().container_logs(container_id, type(options)(follow=options.follow)):
            yield chunk


class NoTimeouts(MemoryRuntime):
    async def exec_sync(self, container_id, command, *, timeout_s=None):
        return await super().exec_sync(container_id, command)


class AnyProgram(MemoryRuntime):
    async def exec_sync(self, container_id, command, *, timeout_s=None):
        try:
            return await super().exec_sync(container_id, command, timeout_s=timeout_s)
        except PodSyncError:
            return cri.ExecResult(0)


class NoEvents(MemoryRuntime):
    def publish(self, record, kind):
        pass


class EventsForAll(MemoryRuntime):
    def container_events(self, label_selector):
        return super().container_events({})


class Unready(MemoryRuntime):
    async def status(self):
        return cri.RuntimeStatus()


class StartsAnything(MemoryRuntime):
    async def start_container(self, container_id):
        try:
            await super().start_container(container_id)
        except PodSyncError:
            pass


class RestartsExited(MemoryRuntime):
    async def container_status(self, container_id):
        status = await super().container_status(container_id)
        return replace(status, finished_at=self.clock.now()) if status.finished_at else status


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (TwoSandboxes, "sandbox_creation_is_idempotent_by_metadata"),
        (TwoContainers, "container_creation_is_idempotent_by_metadata"),
        (TwoContainers, "creation_at_the_same_time_makes_one_container"),
        (UnfilteredLists, "container_list_is_filtered"),
        (UnfilteredLists, "sandbox_list_is_filtered"),
        (LostLabels, "labels_and_annotations_of_sandboxes_come_back_unchanged"),
        (LostLabels, "labels_and_annotations_of_containers_come_back_unchanged"),
        (WrongCodes, "exit_codes_are_reported"),
        (KillsAtOnce, "stop_asks_before_it_kills"),
        (KillsAtOnce, "stop_kills_when_the_grace_period_has_run_out"),
        (ForgetsShorterGrace, "cancelled_stop_is_hurried_by_less_grace"),
        (ForgetsShorterGrace, "stops_at_the_same_time_all_return"),
        (RefusesUnknown, "stopping_may_be_repeated"),
        (RefusesUnknown, "stopping_a_sandbox_may_be_repeated"),
        (RefusesUnknown, "removing_a_container_kills_it"),
        (LeavesContainersOfSandboxes, "stopping_a_sandbox_kills_its_containers"),
        (SilentLog, "log_holds_what_was_written"),
        (SilentLog, "log_of_an_unknown_container_is_not_found"),
        (IgnoresLogOptions, "log_tail_counts_lines"),
        (IgnoresLogOptions, "log_limit_counts_bytes"),
        (IgnoresLogOptions, "log_timestamps_have_nine_digits"),
        (IgnoresLogOptions, "log_since_leaves_older_lines_out"),
        (IgnoresLogOptions, "log_keeps_both_streams"),
        (IgnoresLogOptions, "following_from_the_end_shows_only_new_lines"),
        (NoTimeouts, "exec_sync_kills_at_the_timeout"),
        (AnyProgram, "exec_sync_of_an_unknown_program_fails"),
        (NoEvents, "events_tell_of_start_and_end"),
        (EventsForAll, "events_tell_of_start_and_end"),
        (Unready, "runtime_says_that_it_is_ready"),
        (StartsAnything, "container_that_cannot_start_is_kept"),
        (RestartsExited, "exited_container_does_not_start_again"),
    ],
)
async def test_broken_rule_is_caught(kind, caught):
    subject = make(kind)
    good = await run_conformance(make(), names=[caught])
    assert good.passed, good.render()
    report = await run_conformance(subject, names=[caught], timeout_s=1000)
    assert [failure.name for failure in report.failures] == [caught], report.render()
    await subject.runtime.aclose()


async def test_checks_clean_up_after_a_failure():
    subject = make(WrongCodes)
    assert not (await run_conformance(subject, names=["exit_codes_are_reported"])).passed
    assert await subject.runtime.list_containers() == []
    assert await subject.runtime.list_pod_sandboxes() == []


async def test_missing_ability_is_no_failure():
    subject = make()
    with pytest.raises(NotOffered):
        replace(subject, runtime=object()).need(StreamingRuntime)
    report = await run_conformance(subject, names=["port_forward_reaches_a_listener"])
    assert report.passed
    assert report.count(Outcome.NOT_OFFERED) == 1
    assert "no workload that listens was given" in report.render()


async def test_report_tells_all():
    suite = CheckSuite()

    @suite.add
    async def good_rule(subject):
        """Something holds."""

    @suite.add
    async def bad_rule(subject):
        """Something
        does not hold."""
        raise ConformanceFailure("it does not")

    @suite.add
    async def endless_rule(subject):
        """Something ends."""
        await asyncio.sleep(1e9)

    @suite.add
    async def broken_rule(subject):
        """Something works."""
        raise TransientError("gone")

    report = await run_checks(None, suite, timeout_s=5, name="Thing")
    assert not report.passed
    assert [result.outcome for result in report.results] == [Outcome.PASSED, *[Outcome.FAILED] * 3]
    text = report.render()
    for part in (
        "Conformance of Thing",
        "ok   good_rule",
        "FAIL bad_rule",
        "bad_rule: Something does not hold.",
        "ConformanceFailure: it does not",
        "endless_rule (0.00 s): not done after 5 s",
        "1 passed, 3 failed, 0 not offered",
    ):
        assert part in text
    with pytest.raises(ValueError, match="already"):
        suite.add(good_rule.run)
    with pytest.raises(ValueError, match="there is no check 'x'; known are good_rule"):
        suite.select(["x"])


async def test_cancelling_a_run_ends_it():
    work = asyncio.create_task(run_conformance(make()))
    await asyncio.sleep(0.2)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def test_helpers_say_what_was_expected():
    async def answer():
        return 5

    async def fail():
        raise KeyError("x")

    with pytest.raises(ConformanceFailure, match="must raise ValueError, but answered 5"):
        await expect_error(ValueError, answer(), "it")
    with pytest.raises(ConformanceFailure, match="must raise ValueError, not KeyError"):
        await expect_error(ValueError, fail(), "it")
    with pytest.raises(ConformanceFailure, match="it is so: not within 3 s"):
        await eventually(lambda: asyncio.sleep(0, None), within_s=3, what="it is so")


def test_every_check_names_its_rule():
    for suite in (RUNTIME_CHECKS, PROVIDER_CHECKS):
        assert len(suite) > 20
        for check in suite:
            assert check.rule.endswith(".")
            assert check.name == check.name.lower()
