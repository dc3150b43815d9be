"""The library's kubelet over the memory runtime keeps every rule of ``PodProvider``, in virtual time."""

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import MemoryRuntime
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.settings import PodSettings
from vkprovider.testing import make_node_context
from vkprovider.testing.conformance import ProviderUnderTest
from vkprovider.testing.pytest_plugin import provider_conformance

pytestmark = pytest.mark.looptime


@provider_conformance
async def test_kubelet_over_memory(conformance_check, tmp_path):
    clock = LoopClock()
    node = make_node_context(clock=clock)
    runtime = MemoryRuntime(clock=clock)

    def make():
        return RuntimePodProvider(runtime, PodSettings(), root_dir=tmp_path)

    async def restart():
        again = make()
        await again.start(node)
        return again

    provider = make()
    await provider.start(node)
    try:
        await conformance_check(ProviderUnderTest(provider=provider, node=node, restart=restart))
        assert await runtime.list_pod_sandboxes() == []
    finally:
        await provider.stop()
