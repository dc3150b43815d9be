"""The memory runtime keeps every rule of the contract, in virtual time."""

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import MemoryRuntime
from vkprovider.testing.conformance import RuntimeUnderTest, Workload
from vkprovider.testing.faults import FaultyRuntime
from vkprovider.testing.pytest_plugin import runtime_conformance

UNSTARTABLE = Workload(image="memory.local/start-error:1")
LISTENER = Workload(annotations={"memory.vkprovider.io/behaviour": '{"listen": {"8080": "http"}}'})

pytestmark = pytest.mark.looptime


@pytest.fixture
async def runtime():
    runtime = MemoryRuntime(clock=LoopClock())
    await runtime.connect()
    yield runtime
    await runtime.aclose()


@runtime_conformance
async def test_memory_runtime(conformance_check, runtime):
    subject = RuntimeUnderTest(runtime=runtime, image="busybox:1.36", unstartable=UNSTARTABLE, listener=LISTENER)
    await conformance_check(subject)
    assert await runtime.list_pod_sandboxes() == []
    assert await runtime.list_containers() == []


@runtime_conformance
async def test_faulty_runtime_without_faults(conformance_check, runtime):
    subject = RuntimeUnderTest(
        runtime=FaultyRuntime(runtime), image="busybox:1.36", unstartable=UNSTARTABLE, listener=LISTENER
    )
    await conformance_check(subject)
