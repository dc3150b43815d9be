"""Conformance checks: the rules of the contracts, for authors of runtimes and providers.

Plain async functions, with no test framework::

    report = await run_conformance(RuntimeUnderTest(runtime=my_runtime, image="busybox:1.36"))
    print(report.render())
    assert report.passed

Users of pytest get one test a rule with ``vkprovider.testing.pytest_plugin``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import overload

from vkprovider.testing.conformance import provider_checks as _provider_checks  # registers its checks
from vkprovider.testing.conformance import runtime_checks as _runtime_checks  # likewise
from vkprovider.testing.conformance import stream_checks as _stream_checks  # likewise
from vkprovider.testing.conformance.checks import (
    Check,
    CheckResult,
    CheckSuite,
    ConformanceFailure,
    NotOffered,
    Outcome,
    Report,
    run_checks,
)
from vkprovider.testing.conformance.provider import PROVIDER_CHECKS, PodDriver, ProviderUnderTest
from vkprovider.testing.conformance.runtime import RUNTIME_CHECKS, RuntimeUnderTest, Workload, shell

__all__ = [
    "PROVIDER_CHECKS",
    "RUNTIME_CHECKS",
    "Check",
    "CheckResult",
    "CheckSuite",
    "ConformanceFailure",
    "NotOffered",
    "Outcome",
    "PodDriver",
    "ProviderUnderTest",
    "Report",
    "RuntimeUnderTest",
    "Workload",
    "run_checks",
    "run_conformance",
    "shell",
]
_REGISTERED = (_runtime_checks, _stream_checks, _provider_checks)


@overload
async def run_conformance(
    subject: RuntimeUnderTest, *, names: Iterable[str] | None = None, timeout_s: float = 120.0
) -> Report: ...


@overload
async def run_conformance(
    subject: ProviderUnderTest, *, names: Iterable[str] | None = None, timeout_s: float = 120.0
) -> Report: ...


async def run_conformance(
    subject: RuntimeUnderTest | ProviderUnderTest, *, names: Iterable[str] | None = None, timeout_s: float = 120.0
) -> Report:
    """Check a runtime or a provider against the rules of its contract.

    Args:
        subject: What is checked.
        names: Names of the checks to run; all of them when left out.
        timeout_s: Seconds that one check may take.

    Raises:
        ValueError: There is no check of a name given.
    """
    if isinstance(subject, RuntimeUnderTest):
        chosen = RUNTIME_CHECKS.select(names) if names is not None else list(RUNTIME_CHECKS)
        return await run_checks(subject, chosen, timeout_s=timeout_s, name=type(subject.runtime).__name__)
    selected = PROVIDER_CHECKS.select(names) if names is not None else list(PROVIDER_CHECKS)
    return await run_checks(subject, selected, timeout_s=timeout_s, name=type(subject.provider).__name__)
