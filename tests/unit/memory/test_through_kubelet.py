"""What people at kubectl can say about simulated containers reaches the runtime through the library's kubelet."""

import asyncio
import json

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import BEHAVIOUR_ANNOTATION, MemoryRuntime
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.settings import PodSettings
from vkprovider.testing import make_container, make_node_context, make_pod
from vkprovider.testing.conformance import PodDriver, ProviderUnderTest

pytestmark = pytest.mark.looptime


@pytest.fixture
def drive(tmp_path):
    """Runs a pod on a fresh node until its container is as wanted; gives the driver to a function."""

    async def run(pod, use):
        clock = LoopClock()
        node = make_node_context(clock=clock)
        provider = RuntimePodProvider(MemoryRuntime(clock=clock, files_root=tmp_path), PodSettings(), root_dir=tmp_path)
        await provider.start(node)
        driver = PodDriver(ProviderUnderTest(provider=provider, node=node), pod)
        try:
            return await use(driver)
        finally:
            await driver.dispose()
            await provider.stop()

    return run


async def ended(driver):
    await driver.sync_until(lambda result: result.terminal, "the pod has ended")
    return driver.state["terminated"]


async def test_annotation_of_the_pod_says_how_its_containers_behave(drive):
    behaviour = {"containers": {"main": {"run_s": 3, "exit_code": 4, "termination_message": "enough"}}}
    pod = make_pod(annotations={BEHAVIOUR_ANNOTATION: json.dumps(behaviour)}, restart_policy="Never")
    end = await drive(pod, ended)
    assert (end["exitCode"], end["reason"], end["message"]) == (4, "Error", "enough")


async def test_image_says_how_the_container_behaves(drive):
    pod = make_pod(containers=[make_container(image="memory.local/oom:1")], restart_policy="Never")
    end = await drive(pod, ended)
    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


async def test_command_leaves_its_termination_message(drive):
    command = ["sh", "-c", "echo $WHO > /dev/termination-log; exit 2"]
    container = make_container(command=command, env={"WHO": "me"})
    end = await drive(make_pod(containers=[container], restart_policy="Never"), ended)
    assert (end["exitCode"], end["message"]) == (2, "me\n")


async def test_image_that_cannot_be_pulled_waits(drive):
    async def use(driver):
        await driver.sync_until(lambda _: driver.state.get("waiting", {}).get("reason") == "ErrImagePull", "pull fails")
        return driver.state["waiting"]["message"]

    pod = make_pod(containers=[make_container(image="memory.local/unreachable:1")])
    assert "i/o timeout" in await drive(pod, use)


async def test_mistake_in_the_annotation_is_shown_on_the_pod(drive):
    async def use(driver):
        for _ in range(20):
            await driver.sync()
            await asyncio.sleep(0.2)
        return [event.message for event in driver.recording.events]

    pod = make_pod(annotations={BEHAVIOUR_ANNOTATION: '{"containers": {"main": {"exitcode": 1}}}'})
    assert any("unknown key 'exitcode'; known are" in message for message in await drive(pod, use))
