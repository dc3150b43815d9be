"""What a conformance check is, how checks are registered and run, and the report of a run."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from vkprovider.errors import UnsupportedError

S = TypeVar("S")


class ConformanceFailure(AssertionError):
    """The subject breaks a rule; the message says which and how."""


class NotOffered(Exception):
    """The subject does not have the ability that a check is about, which is no failure."""


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_OFFERED = "not offered"


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One rule and how it is checked.

    Attributes:
        name: The rule in a few words, as an identifier.
        rule: The rule in a sentence.
        run: Checks a subject: returns if it keeps the rule.
    """

    name: str
    rule: str
    run: Callable[[S], Awaitable[None]]

    async def __call__(self, subject: S) -> None:
        """Check a subject.

        Raises:
            ConformanceFailure: It breaks the rule; any other error from it is a failure as well.
            NotOffered: It does not have this ability.
        """
        try:
            await self.run(subject)
        except UnsupportedError as error:
            raise NotOffered(str(error)) from error


class CheckSuite(Generic[S]):
    """The checks for one kind of subject, in the order of their definition."""

    def __init__(self) -> None:
        self._checks: dict[str, Check[S]] = {}

    def add(self, function: Callable[[S], Awaitable[None]]) -> Check[S]:
        """Register a check; a decorator. Its name and docstring become those of the rule.

        Raises:
            ValueError: There is one of this name already, or it has no docstring.
        """
        name = function.__name__
        if name in self._checks:
            raise ValueError(f"there is a check {name!r} already")
        if not function.__doc__:
            raise ValueError(f"check {name!r} has no docstring that says its rule")
        check: Check[S] = Check(name=name, rule=" ".join(function.__doc__.split()), run=function)
        self._checks[name] = check
        return check

    def __iter__(self) -> Any:
        return iter(self._checks.values())

    def __len__(self) -> int:
        return len(self._checks)

    def select(self, names: Iterable[str]) -> Sequence[Check[S]]:
        """The checks of these names.

        Raises:
            ValueError: There is none of a name.
        """
        chosen = []
        for name in names:
            if name not in self._checks:
                raise ValueError(f"there is no check {name!r}; known are {', '.join(self._checks)}")
            chosen.append(self._checks[name])
        return chosen


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check ended.

    Attributes:
        name: The check's name.
        rule: Its rule.
        outcome: How it ended.
        message: What went wrong, or is not offered.
        details: Traceback of a failure.
        duration_s: How long it took, in seconds of wall time.
    """

    name: str
    rule: str
    outcome: Outcome
    message: str = ""
    details: str = ""
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """How a subject did."""

    subject: str
    results: Sequence[CheckResult] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.outcome is Outcome.FAILED]

    def count(self, outcome: Outcome) -> int:
        """How many checks ended so."""
        return sum(1 for result in self.results if result.outcome is outcome)

    def render(self) -> str:
        """The report as text: one line a check, then the failures in full, then the sums."""
        marks = {Outcome.PASSED: "ok  ", Outcome.FAILED: "FAIL", Outcome.NOT_OFFERED: "-   "}
        lines = [f"Conformance of {self.subject}"]
        for result in self.results:
            tail = f": {result.message}" if result.message else ""
            lines.append(f"  {marks[result.outcome]} {result.name} ({result.duration_s:.2f} s){tail}")
        for result in self.failures:
            lines += ["", f"{result.name}: {result.rule}", result.details.rstrip()]
        sums = ", ".join(f"{self.count(outcome)} {outcome.value}" for outcome in Outcome)
        return "\n".join([*lines, "", sums])


async def run_checks(subject: S, checks: Iterable[Check[S]], *, timeout_s: float, name: str) -> Report:
    """Run checks one after another; each cleans up after itself, whatever its end.

    Args:
        subject: What is checked.
        checks: The checks.
        timeout_s: Seconds of loop time that one check may take.
        name: Name of the subject for the report.
    """
    results = []
    for check in checks:
        started = time.perf_counter()
        outcome, message, details = Outcome.PASSED, "", ""
        try:
            async with asyncio.timeout(timeout_s) as scope:
                await check(subject)
        except NotOffered as error:
            outcome, message = Outcome.NOT_OFFERED, str(error)
        except Exception as error:
            outcome, details = Outcome.FAILED, traceback.format_exc()
            message = str(error) or type(error).__name__
            if isinstance(error, TimeoutError) and scope.expired():
                message = f"not done after {timeout_s:g} s"
        results.append(CheckResult(check.name, check.rule, outcome, message, details, time.perf_counter() - started))
    return Report(name, tuple(results))


def expect(condition: object, message: str) -> None:
    """Fail the check unless the condition holds.

    Raises:
        ConformanceFailure: It does not.
    """
    if not condition:
        raise ConformanceFailure(message)


def expect_equal(found: object, wanted: object, what: str) -> None:
    """Fail the check unless both are equal.

    Raises:
        ConformanceFailure: They differ.
    """
    if found != wanted:
        raise ConformanceFailure(f"{what} must be {wanted!r}, not {found!r}")


async def expect_error(
    kind: type[BaseException] | tuple[type[BaseException], ...], work: Awaitable[Any], what: str
) -> None:
    """Fail the check unless the work raises an error of this kind.

    Raises:
        ConformanceFailure: It raised another error or none.
    """
    names = kind.__name__ if isinstance(kind, type) else " or ".join(item.__name__ for item in kind)
    try:
        answer = await work
    except kind:
        return
    except (ConformanceFailure, NotOffered, UnsupportedError):
        raise
    except Exception as error:
        raise ConformanceFailure(f"{what} must raise {names}, not {type(error).__name__}: {error}") from error
    raise ConformanceFailure(f"{what} must raise {names}, but answered {answer!r}")


async def eventually(probe: Callable[[], Awaitable[Any]], *, within_s: float, what: str, every_s: float = 0.05) -> Any:
    """The first true answer of a probe.

    Raises:
        ConformanceFailure: There was none in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        answer = await probe()
        if answer:
            return answer
        if loop.time() >= deadline:
            raise ConformanceFailure(f"{what}: not within {within_s:g} s")
        await asyncio.sleep(every_s)
