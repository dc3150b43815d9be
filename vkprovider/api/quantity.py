"""Kubernetes quantities, exactly: ``250m``, ``1.5Gi``, ``12e6``.

A value is held as a whole number of nanos (10⁻⁹), the finest step the API knows, together with the family of suffixes it was
written with; nothing ever passes through a float. Texts come out in canonical form: no fraction, the largest suffix that loses
nothing.

Departures from the original: a text is always brought to canonical form (Go hands ``1.500`` back as it came, as long as nothing
was computed), sums are not bound to 64 bits, negative values round away from zero everywhere.

Source: staging/src/k8s.io/apimachinery/pkg/api/resource/quantity.go.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, total_ordering
from typing import Final

NANOS_PER_UNIT: Final = 10**9
_NANOS_PER_MILLI: Final = 10**6
_MAX_BINARY: Final = (2**63 - 1) * NANOS_PER_UNIT
_MAX_EXPONENT: Final = 1000

_SYNTAX = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
_TEXT = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?([eEinumkKMGTP]*[-+]?\d*)", re.ASCII)
_EXPONENT = re.compile(r"[eE]([+-]?\d+)", re.ASCII)

_DECIMAL_EXPONENTS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_EXPONENTS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_SUFFIXES = {exponent: suffix for suffix, exponent in _DECIMAL_EXPONENTS.items()}
_BINARY_SUFFIXES = {0: "", **{exponent // 10: suffix for suffix, exponent in _BINARY_EXPONENTS.items()}}


class QuantityFormat(StrEnum):
    """Family of suffixes a quantity is written with."""

    BINARY_SI = "BinarySI"
    DECIMAL_SI = "DecimalSI"
    DECIMAL_EXPONENT = "DecimalExponent"


def _ceil_away(numerator: int, denominator: int) -> int:
    """Quotient rounded away from zero; the denominator is positive."""
    return -(-numerator // denominator) if numerator >= 0 else numerator // denominator


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """An exact amount of a resource; immutable, comparable and hashable by amount alone.

    Attributes:
        nanos: The amount in units of 10⁻⁹.
        format: How it is written.
    """

    nanos: int = 0
    format: QuantityFormat = QuantityFormat.DECIMAL_SI

    @classmethod
    def from_int(cls, value: int, format: QuantityFormat = QuantityFormat.DECIMAL_SI) -> Quantity:
        """A whole amount, e.g. of bytes."""
        return cls(value * NANOS_PER_UNIT, format)

    @classmethod
    def from_milli(cls, value: int, format: QuantityFormat = QuantityFormat.DECIMAL_SI) -> Quantity:
        """An amount in thousandths, e.g. of cores."""
        return cls(value * _NANOS_PER_MILLI, format)

    def __eq__(self, other: object) -> bool:
        return self.nanos == other.nanos if isinstance(other, Quantity) else NotImplemented

    def __lt__(self, other: Quantity) -> bool:
        return self.nanos < other.nanos

    def __hash__(self) -> int:
        return hash(self.nanos)

    def __bool__(self) -> bool:
        return self.nanos != 0

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.nanos + other.nanos, self.format if self.nanos else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.nanos - other.nanos, self.format if self.nanos else other.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.nanos, self.format)

    def __mul__(self, factor: int) -> Quantity:
        return Quantity(self.nanos * factor, self.format)

    def __str__(self) -> str:
        """Canonical text.

        Source: quantity.go, CanonicalizeBytes.
        """
        return _canonical_text(self.nanos, self.format)

    def value(self) -> int:
        """The amount as a whole number, rounded up (away from zero).

        Source: quantity.go, Value.
        """
        return _ceil_away(self.nanos, NANOS_PER_UNIT)

    def milli_value(self) -> int:
        """The amount in thousandths, rounded up (away from zero).

        Source: quantity.go, MilliValue.
        """
        return _ceil_away(self.nanos, _NANOS_PER_MILLI)


@lru_cache(maxsize=4096)
def _canonical_text(nanos: int, format: QuantityFormat) -> str:
    if not nanos:
        return "0"
    whole = nanos % NANOS_PER_UNIT == 0
    # Small and fractional amounts would lose by a binary suffix, so they are written as decimals.
    if format is QuantityFormat.BINARY_SI and whole and abs(nanos) >= 1024 * NANOS_PER_UNIT:
        number, power = _strip_factors(nanos // NANOS_PER_UNIT, 1024, limit=6)
        return f"{number}{_BINARY_SUFFIXES[power]}"
    decimal = format is not QuantityFormat.DECIMAL_EXPONENT
    number, thousands = _strip_factors(nanos, 1000, limit=9 if decimal else None)
    exponent = 3 * thousands - 9
    if decimal:
        return f"{number}{_DECIMAL_SUFFIXES[exponent]}"
    return f"{number}e{exponent}" if exponent else str(number)


def _strip_factors(value: int, factor: int, *, limit: int | None) -> tuple[int, int]:
    """Divide by the factor as often as nothing is lost; the quotient and how often it was."""
    times = 0
    while value % factor == 0 and (limit is None or times < limit):
        value //= factor
        times += 1
    return value, times


@lru_cache(maxsize=4096)
def parse_quantity(text: str) -> Quantity:
    """Read a quantity; anything finer than a nano is rounded away from zero.

    Args:
        text: Number with an optional suffix: ``n u m k M G T P E``, ``Ki Mi Gi Ti Pi Ei`` or an exponent such as ``e3``.

    Raises:
        ValueError: The text is not a quantity; the message names it.

    Source: quantity.go, ParseQuantity.
    """
    match = _TEXT.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is not a quantity: quantities must match the regular expression '{_SYNTAX}'")
    sign, whole, fraction, suffix = match.groups(default="")
    if not whole and not fraction:
        raise ValueError(f"{text!r} is not a quantity: unable to parse numeric part of quantity")
    mantissa, scale = int(whole + fraction), -len(fraction)
    format = QuantityFormat.DECIMAL_SI
    if suffix in _DECIMAL_EXPONENTS:
        scale += _DECIMAL_EXPONENTS[suffix]
    elif suffix in _BINARY_EXPONENTS:
        format = QuantityFormat.BINARY_SI
        mantissa <<= _BINARY_EXPONENTS[suffix]
    elif (exponent := _EXPONENT.fullmatch(suffix)) is not None:
        format = QuantityFormat.DECIMAL_EXPONENT
        if abs(int(exponent.group(1))) > _MAX_EXPONENT:
            raise ValueError(f"{text!r} is not a quantity: the exponent is out of range")
        scale += int(exponent.group(1))
    else:
        raise ValueError(f"{text!r} is not a quantity: unable to parse quantity's suffix")
    scale += 9
    nanos = mantissa * 10**scale if scale >= 0 else _ceil_away(mantissa, 10**-scale)
    if format is QuantityFormat.BINARY_SI:
        nanos = min(nanos, _MAX_BINARY)
        if 0 < nanos < NANOS_PER_UNIT:
            format = QuantityFormat.DECIMAL_SI
    return Quantity(-nanos if sign == "-" else nanos, format)


def milli_value(text: str) -> int:
    """Thousandths of a quantity, rounded up: ``1500`` for ``1.5``, ``1`` for ``100u``.

    Raises:
        ValueError: The text is not a quantity.
    """
    return parse_quantity(text).milli_value()


def int_value(text: str) -> int:
    """A quantity as a whole number, rounded up: ``65536`` for ``64Ki``, ``1`` for ``250m``.

    Raises:
        ValueError: The text is not a quantity.
    """
    return parse_quantity(text).value()


def format_quantity(value: Quantity | int, format: QuantityFormat | None = None) -> str:
    """Canonical text of a quantity, or of a whole number.

    Args:
        value: The amount.
        format: Family of suffixes; None keeps the quantity's own (DecimalSI for a number).
    """
    if isinstance(value, int):
        return str(Quantity.from_int(value, format or QuantityFormat.DECIMAL_SI))
    return str(Quantity(value.nanos, format or value.format))


def format_cpu(millicpu: int) -> str:
    """Canonical text of an amount of CPU in thousandths of a core: ``250m``, ``2``."""
    return str(Quantity.from_milli(millicpu))


def format_memory(size_bytes: int) -> str:
    """Canonical text of a size in bytes with binary suffixes: ``64Mi``, ``1000Ki``."""
    return str(Quantity.from_int(size_bytes, QuantityFormat.BINARY_SI))


def format_memory_ki(size_bytes: int) -> str:
    """A size in whole KiB, rounded down, as nodes report their memory: ``16303428Ki``.

    Memory sizes of machines are whole pages; canonical form would show ``16Gi`` on round ones, which is the same amount.
    """
    return f"{size_bytes // 1024}Ki"


def sum_quantities(quantities: Iterable[Quantity]) -> Quantity:
    """Sum; zero of nothing. The format is that of the first that is not zero."""
    total = Quantity()
    for quantity in quantities:
        total += quantity
    return total


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound given as an amount or as a share of the capacity; exactly one of both is set.

    Attributes:
        quantity: The amount.
        percentage: The share as a single-precision fraction, 0.1 for ``10%``.

    Source: pkg/kubelet/eviction/api/types.go, ThresholdValue.
    """

    quantity: Quantity | None = None
    percentage: float = 0.0

    def resolve(self, capacity: Quantity) -> Quantity:
        """The amount it stands for.

        The share is single precision, as the kubelet's: 10 % of 1000000000000 is 100000001490 there as here.

        Source: pkg/kubelet/eviction/api/types.go, GetThresholdQuantity.
        """
        if self.quantity is not None:
            return self.quantity
        return Quantity.from_int(int(float(capacity.value()) * self.percentage), QuantityFormat.BINARY_SI)


def parse_threshold(text: str) -> Threshold:
    """Read ``10%`` or a quantity.

    Raises:
        ValueError: Neither a percentage from 0 to 100 nor a quantity of at least 0; the message names the text.

    Source: pkg/kubelet/eviction/helpers.go, parseThresholdStatement.
    """
    if text.endswith("%"):
        try:
            percent = float(text.rstrip("%"))
        except ValueError:
            raise ValueError(f"{text!r} is not a percentage; write it like 10% or 7.5%") from None
        if not 0.0 <= percent <= 100.0:
            raise ValueError(f"eviction percentage threshold must be >= 0% and <= 100%: {text!r}")
        return Threshold(percentage=_single(_single(percent) / 100.0))
    quantity = parse_quantity(text)
    if quantity.nanos < 0:
        raise ValueError(f"eviction threshold must not be negative: {text!r}")
    return Threshold(quantity=quantity)


def _single(value: float) -> float:
    result: float = struct.unpack("f", struct.pack("f", value))[0]
    return result
