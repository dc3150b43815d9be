"""The library's kubelet over the Docker runtime keeps every rule of ``PodProvider`` on a real engine."""

import pytest

from support.images import BUSYBOX_IMAGE
from vkprovider.backends.docker.runtime import DockerRuntime
from vkprovider.kubelet.provider import RuntimePodProvider
from vkprovider.settings import PodSettings
from vkprovider.testing import make_node_context
from vkprovider.testing.conformance import ProviderUnderTest
from vkprovider.testing.pytest_plugin import provider_conformance

pytestmark = pytest.mark.docker


@provider_conformance
async def test_kubelet_over_docker(conformance_check, test_images, node_name, tmp_path):
    node = make_node_context(node_name=node_name, cluster_uid="conformance")

    async def start():
        provider = RuntimePodProvider(DockerRuntime(), PodSettings(), root_dir=tmp_path)
        await provider.start(node)
        return provider

    provider = await start()
    try:
        subject = ProviderUnderTest(provider=provider, image=BUSYBOX_IMAGE, node=node, restart=start, patience_s=30)
        await conformance_check(subject)
    finally:
        await provider.stop()
