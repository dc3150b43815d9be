"""The engine over the memory runtime keeps every rule of the provider contract, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest

from vkprovider.aio.clock import LoopClock
from vkprovider.backends.memory import MemoryConfig, MemoryRuntime
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.settings import PodSettings
from vkprovider.testing import make_node_context
from vkprovider.testing.conformance import ProviderUnderTest
from vkprovider.testing.pytest_plugin import provider_conformance

pytestmark = pytest.mark.looptime


@provider_conformance
async def test_engine_on_the_memory_runtime(conformance_check, tmp_path: Path) -> None:
    clock = LoopClock()
    runtime = MemoryRuntime(MemoryConfig(images=("busybox:1.36",)), clock=clock)
    node = make_node_context(clock=clock)
    settings = PodSettings(cluster_dns=("10.96.0.10",))
    provider = RuntimePodProvider(runtime, settings, root_dir=tmp_path)
    providers = [provider]

    async def restart() -> RuntimePodProvider:
        other = RuntimePodProvider(runtime, settings, root_dir=tmp_path)
        providers.append(other)
        await other.start(node)
        return other

    await provider.start(node)
    try:
        await conformance_check(ProviderUnderTest(provider=provider, node=node, restart=restart))
    finally:
        for item in providers:
            await item.stop()
