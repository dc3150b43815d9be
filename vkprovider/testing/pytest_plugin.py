"""Conformance checks as pytest tests: one test a rule.

::

    from vkprovider.testing.pytest_plugin import runtime_conformance

    @runtime_conformance
    async def test_my_runtime(conformance_check, my_runtime):
        await conformance_check(RuntimeUnderTest(runtime=my_runtime, image="busybox:1.36"))

A rule about an ability that the subject does not offer skips its test. The tests are coroutines: they need pytest-asyncio or its like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import pytest

from vkprovider.testing.conformance import PROVIDER_CHECKS, RUNTIME_CHECKS, Check, NotOffered

F = TypeVar("F", bound=Callable[..., Any])
ARGUMENT = "conformance_check"


async def run_check(check: Check[Any], subject: Any) -> None:
    """Run one check; the test is skipped when the subject does not offer what it is about."""
    try:
        await check(subject)
    except NotOffered as error:
        pytest.skip(f"not offered: {error}")


def _parametrize(checks: Iterable[Check[Any]]) -> Callable[[F], F]:
    params = [pytest.param(partial(run_check, check), id=check.name) for check in checks]

    def decorate(function: F) -> F:
        decorated: F = pytest.mark.parametrize(ARGUMENT, params)(function)
        return decorated

    return decorate


def runtime_conformance(function: F) -> F:
    """Run a test once for each rule of ``ContainerRuntime``; its argument ``conformance_check`` takes the subject."""
    return _parametrize(RUNTIME_CHECKS)(function)


def provider_conformance(function: F) -> F:
    """Run a test once for each rule of ``PodProvider``; its argument ``conformance_check`` takes the subject."""
    return _parametrize(PROVIDER_CHECKS)(function)
