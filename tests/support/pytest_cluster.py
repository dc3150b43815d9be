"""pytest plugin: a control plane shared by the whole run, kubectl for it, and nodes whose log shows when a test fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import controlplane_build
from support.agent import VkproviderAgent
from support.controlplane import ControlPlane
from support.kubectl import Kubectl

_AGENTS = pytest.StashKey[list[VkproviderAgent]]()
_SHOWN_LOG_LINES = 150


@pytest.fixture(scope="session")
def kubectl_binary() -> Path:
    """The kubectl of the control plane's version; for tests marked ``controlplane``."""
    return controlplane_build.ensure_binaries() / "kubectl"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with an audit log, one for all workers; for tests marked ``controlplane``.

    Keep to your own namespaces and node names in it, and do not stop its components: for that take a ``ControlPlane`` of your
    own.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with ControlPlane(shared / "control-plane", audit=True) as plane:
        yield plane


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl as admin of the shared control plane."""
    return Kubectl(control_plane.kubeconfig, control_plane.binaries / "kubectl")


def running_agents(item: pytest.Item) -> list[VkproviderAgent]:
    """The nodes that a test has made and that run now."""
    return [agent for agent in item.stash.get(_AGENTS, []) if agent.is_running]


@pytest.fixture
def make_agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., VkproviderAgent]]:
    """Make a ``VkproviderAgent`` with the given arguments; not started. All are ended after the test.

    When the test fails the report has the end of their logs.
    """
    made: list[VkproviderAgent] = []
    request.node.stash[_AGENTS] = made

    def make(kubeconfig: Path, node_name: str, **options: Any) -> VkproviderAgent:
        options.setdefault("directory", tmp_path / f"agent-{node_name}-{len(made)}")
        agent = VkproviderAgent(kubeconfig, node_name, **options)
        made.append(agent)
        return agent

    yield make
    errors = []
    for agent in reversed(made):
        try:
            agent.stop()
        except Exception as error:  # the others have to be ended too
            errors.append(str(error))
    if errors:
        pytest.fail("; ".join(errors), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the agents' logs to the report of a failure."""
    report = yield
    if report.failed:
        for agent in item.stash.get(_AGENTS, []):
            text = "\n".join(agent.log().splitlines()[-_SHOWN_LOG_LINES:])
            report.sections.append((f"log of node {agent.node_name} ({agent.log_path})", text))
    return report
