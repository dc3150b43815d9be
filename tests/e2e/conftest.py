"""End-to-end tests: a real control plane, real kubectl, vkprovider as a process of its own.

Every test here needs the control plane; those that run containers are marked ``docker`` as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from support.agent import VkproviderAgent
from support.controlplane import ControlPlane
from support.images import load_test_images
from support.kubectl import Kubectl, KubectlError
from support.pytest_cluster import running_agents
from support.waiting import wait_for

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this directory."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.controlplane)


@pytest.fixture(scope="session")
def test_images() -> None:
    """The engine has the images that pods of these tests run."""
    client = docker.from_env(version="auto").api
    with contextlib.closing(client):
        load_test_images(client)


@pytest.fixture(autouse=True)
def _images_for_docker_tests(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("docker") is not None:
        request.getfixturevalue("test_images")


@pytest.fixture
def namespace(
    request: pytest.FixtureRequest,
    namespace: str,
    kubectl: Kubectl,
    control_plane: ControlPlane,
    make_agent: Callable[..., VkproviderAgent],  # so that the nodes still run when the namespace goes
) -> Iterator[str]:
    """A namespace of the shared control plane in which pods can be made.

    After the test it is deleted; while a node of the test runs its pods have to go away, which is awaited.
    """
    kubectl.run("create", "namespace", namespace)
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    wait_for(lambda: control_plane.get(account)["items"], f"the service account of namespace {namespace}", timeout_s=30)
    yield namespace
    scoped = kubectl.in_namespace(namespace)
    # The namespace first: from then on nothing makes new pods in it.
    for command in (
        ("delete", "namespace", namespace, "--wait=false"),
        ("delete", "pods", "--all", "--grace-period=1", "--wait=false"),
    ):
        with contextlib.suppress(KubectlError):  # the test may have deleted it
            scoped.run(*command)
    if running_agents(request.node):
        nodes = {agent.node_name for agent in running_agents(request.node)}
        pods = f"/api/v1/namespaces/{namespace}/pods"

        def left() -> list[str]:
            found = control_plane.get(pods)["items"]
            return [pod["metadata"]["name"] for pod in found if pod["spec"].get("nodeName") in nodes]

        wait_for(lambda: not left(), f"the pods of namespace {namespace} to go away from {nodes}", timeout_s=60)
