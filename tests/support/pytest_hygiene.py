"""pytest plugin: tests leave nothing behind, neither tasks in the event loop nor containers in the engine.

Names that tests give to nodes begin with a prefix of the session (``session_prefix``), by which the containers of a run are
known, whatever else the engine runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

_OWNER_NODE = "vkprovider.io/node"  # vkprovider.api.labels.OWNER_NODE; written out, so that a rename is noticed
_SETTLE_TURNS = 5
_ENGINE_USED = ("engine", "used")

_PREFIX = pytest.StashKey[str]()


def session_prefix_of(config: pytest.Config) -> str:
    """The prefix of this run, the same in every worker."""
    return config.stash[_PREFIX]


def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's prefix, or take the controller's."""
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    config.stash[_PREFIX] = workerinput["vkprovider_prefix"] if workerinput else f"vkt-{secrets.token_hex(3)}"
    if workerinput is None:
        config.pluginmanager.register(ContainerWatch(config), "vkprovider-containers")
    # Python 3.11's get_event_loop makes a loop when nobody set one; pytest-asyncio asks it before each async test and never closes
    # that loop, which fails the run at its end as an unclosed resource. Told that there is none, it makes none.
    asyncio.set_event_loop(None)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the prefix to a worker."""
    node.workerinput["vkprovider_prefix"] = node.config.stash[_PREFIX]


# Tasks


@pytest.fixture(autouse=True)
def _no_tasks_left(request: pytest.FixtureRequest) -> None:
    """Fail an async test after which tasks of it still run; the first fixture set up, so the last torn down."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_tasks_watched")


@pytest.fixture
async def _tasks_watched() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left: list[asyncio.Task[Any]] = []
    for _ in range(_SETTLE_TURNS):  # a task that was cancelled needs a turn of the loop to end
        left = [task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()]
        if not left:
            return
        await asyncio.sleep(0)
    names = ", ".join(sorted(f"{task.get_name()} ({_where(task)})" for task in left))
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    pytest.fail(f"the test left {len(left)} task(s) behind: {names}", pytrace=False)


def _where(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    stack = task.get_stack(limit=1)
    return f"{name} at {stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else name


# Containers


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note in the report of a test that it uses the engine; its keywords would not do, as directories are among them."""
    if item.get_closest_marker("docker") is not None:
        item.user_properties.append(_ENGINE_USED)


class ContainerWatch:
    """In the process that reports: after all tests, fails a run of which containers are left, and removes them."""

    def __init__(self, config: pytest.Config) -> None:
        self._prefix = session_prefix_of(config)
        self._engine_used = False
        self._left: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember whether a test used the engine."""
        if report.when == "call" and _ENGINE_USED in report.user_properties:
            self._engine_used = True

    @pytest.hookimpl(trylast=True)  # after xdist has ended the workers
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look for containers of this run."""
        if not self._engine_used:
            return
        import docker

        try:
            client = docker.from_env(version="auto").api
            with contextlib.closing(client):
                self._left = remove_containers(client, self._prefix)
        except (docker.errors.DockerException, OSError) as error:
            self._left = [f"unknown: the engine cannot be asked ({error})"]
        if self._left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the containers that were left."""
        if self._left:
            terminalreporter.section("containers left behind", red=True, bold=True)
            for line in self._left:
                terminalreporter.write_line(line)


def remove_containers(client: Any, prefix: str) -> list[str]:
    """Remove all containers of nodes whose name begins with a prefix.

    Args:
        client: A ``docker.APIClient``.
        prefix: Of the node's name.

    Returns:
        What each removed one was.
    """
    found = []
    for container in client.containers(all=True, filters={"label": _OWNER_NODE}):
        node = container["Labels"].get(_OWNER_NODE, "")
        if node.startswith(prefix):
            found.append(f"{', '.join(container['Names'] or ())} of node {node} ({container['Status']})")
            client.remove_container(container["Id"], force=True, v=True)
    return found


# Names


@pytest.fixture(scope="session")
def session_prefix(request: pytest.FixtureRequest) -> str:
    """What the names of this run's nodes begin with."""
    return session_prefix_of(request.config)


@pytest.fixture
def node_name(session_prefix: str) -> str:
    """A node's name that nothing else has, now or later."""
    return f"{session_prefix}-{secrets.token_hex(4)}"


@pytest.fixture
def namespace(session_prefix: str) -> str:
    """A namespace's name that nothing else has; the namespace is not made."""
    return f"{session_prefix}-{secrets.token_hex(4)}"
