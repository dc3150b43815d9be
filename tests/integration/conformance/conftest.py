"""A Docker runtime whose containers are known as this run's."""

import docker
import pytest

from support.images import load_test_images
from vkprovider.api import labels


@pytest.fixture(scope="session")
def test_images():
    client = docker.from_env(version="auto").api
    try:
        load_test_images(client)
    finally:
        client.close()


@pytest.fixture
def owner_labels(node_name):
    return {labels.OWNER_NODE: node_name, labels.OWNER_CLUSTER: "conformance"}


@pytest.fixture
async def docker_runtime(test_images):
    from vkprovider.backends.docker.runtime import DockerRuntime

    runtime = DockerRuntime()
    await runtime.connect()
    yield runtime
    await runtime.aclose()
