"""pytest plugin: parts of the suite that need something of the machine.

A test marked ``docker`` needs an engine, one marked ``controlplane`` the programs of a control plane. If it is missing the test is
skipped with the reason, and the end of the run names every part that did not run. In CI (``CI`` is
set), or with ``VKPROVIDER_TEST_STRICT=1``, such a test fails instead: nothing is left out silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from support import controlplane_build, engine

STRICT_VARIABLE = "VKPROVIDER_TEST_STRICT"
_PROPERTY = "vkprovider-missing-part"


def is_strict() -> bool:
    """Whether a missing part is a failure: the variable says, or that this is CI."""
    return os.environ.get(STRICT_VARIABLE, os.environ.get("CI", "")).lower() not in ("", "0", "false")


def give_up(item: pytest.Item, part: str, reason: str) -> NoReturn:
    """End a test that lacks something of the machine: skipped, or failed in a strict run; the summary names the part.

    Args:
        item: The test; ``request.node`` in a fixture.
        part: What is missing, such as "docker".
        reason: Why, and what to do.
    """
    item.user_properties.append((_PROPERTY, [part, reason]))
    text = f"{part} is missing: {reason}"
    if is_strict():
        pytest.fail(f"{text} (in CI, and with {STRICT_VARIABLE}=1, nothing may be missing)", pytrace=False)
    pytest.skip(text)


def _missing_engine() -> str | None:
    return os.environ.get(engine.MISSING_VARIABLE) or engine.find_engine()


def _missing_control_plane() -> str | None:
    if reason := os.environ.get(controlplane_build.MISSING_VARIABLE):
        return reason
    try:
        controlplane_build.ensure_binaries()
    except controlplane_build.ControlPlaneUnavailableError as error:
        return str(error)
    return None


_LOOKS: dict[str, Callable[[], str | None]] = {"docker": _missing_engine, "controlplane": _missing_control_plane}


class Parts:
    """What was found of the parts, once in a process."""

    def __init__(self) -> None:
        self._found: dict[str, str | None] = {}

    def why_missing(self, part: str) -> str | None:
        """Why a part is missing; None when it is there."""
        if part not in self._found:
            self._found[part] = _LOOKS[part]()
        return self._found[part]


_PARTS = pytest.StashKey[Parts]()


def pytest_configure(config: pytest.Config) -> None:
    """Give the session its parts."""
    config.stash[_PARTS] = Parts()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look for what the selected tests need now: a build of the control plane must not count as time of a test."""
    if session.config.option.collectonly:
        return
    for part in _LOOKS:
        if any(item.get_closest_marker(part) is not None for item in session.items):
            session.config.stash[_PARTS].why_missing(part)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """End a test here that lacks a part."""
    for part in _LOOKS:
        if item.get_closest_marker(part) is not None and (reason := item.config.stash[_PARTS].why_missing(part)):
            give_up(item, part, reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the parts that did not run."""
    missing: dict[tuple[str, str], set[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == _PROPERTY:
                    missing.setdefault((value[0], value[1]), set()).add(report.nodeid)
    if missing:
        terminalreporter.section("parts that could not run", red=True, bold=True)
        for (part, reason), tests in sorted(missing.items()):
            terminalreporter.write_line(f"{part}: {len(tests)} test(s) did not run: {reason}")
