"""End-to-end tests: a real control plane, real kubectl, vkprovider as a process of its own.

Every test here needs the control plane; those that run containers are marked ``docker`` as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.controlplane import ControlPlane
from support.kubectl import Kubectl, KubectlError
from support.waiting import wait_for

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this directory."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.controlplane)


@pytest.fixture
def namespace(namespace: str, kubectl: Kubectl, control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the shared control plane in which pods can be made; it is deleted after the test, without waiting."""
    kubectl.run("create", "namespace", namespace)
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    wait_for(lambda: control_plane.get(account)["items"], f"the service account of namespace {namespace}", timeout_s=30)
    yield namespace
    with contextlib.suppress(KubectlError):  # it may be gone, or the test broke the cluster
        kubectl.run("delete", "namespace", namespace, "--wait=false")
