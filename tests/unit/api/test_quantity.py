from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkprovider.api.quantity import (
    Quantity,
    QuantityFormat,
    format_cpu,
    format_memory,
    format_memory_ki,
    format_quantity,
    int_value,
    milli_value,
    parse_quantity,
    parse_threshold,
    sum_quantities,
)


# Values as Go's ParseQuantity and CanonicalizeBytes give them (quantity_test.go, TestQuantityParse, TestQuantityString).
@pytest.mark.parametrize(
    ("text", "canonical", "value", "milli"),
    [
        ("0", "0", 0, 0),
        ("0n", "0", 0, 0),
        ("0Ki", "0", 0, 0),
        ("00.000", "0", 0, 0),
        ("1", "1", 1, 1000),
        ("+7", "7", 7, 7000),
        ("-1", "-1", -1, -1000),
        ("1n", "1n", 1, 1),
        ("0.1n", "1n", 1, 1),
        ("1u", "1u", 1, 1),
        ("100u", "100u", 1, 1),
        ("1001u", "1001u", 1, 2),
        ("1m", "1m", 1, 1),
        ("250m", "250m", 1, 250),
        ("1500m", "1500m", 2, 1500),
        ("2000m", "2", 2, 2000),
        (".5", "500m", 1, 500),
        ("1.", "1", 1, 1000),
        ("1.5", "1500m", 2, 1500),
        ("0.0005", "500u", 1, 1),
        ("100k", "100k", 100_000, 100_000_000),
        ("1000k", "1M", 10**6, 10**9),
        ("1G", "1G", 10**9, 10**12),
        ("1.25T", "1250G", 125 * 10**10, 125 * 10**13),
        ("3P", "3P", 3 * 10**15, 3 * 10**18),
        ("9E", "9E", 9 * 10**18, 9 * 10**21),
        ("1Ki", "1Ki", 1024, 1024_000),
        ("1024Ki", "1Mi", 2**20, 2**20 * 1000),
        ("0.5Ki", "512", 512, 512_000),
        ("1.5Gi", "1536Mi", 1536 * 2**20, 1536 * 2**20 * 1000),
        ("0.0001Ki", "102400u", 1, 103),
        ("7Ei", "7Ei", 7 * 2**60, 7 * 2**60 * 1000),
        ("9Ei", "9223372036854775807", 2**63 - 1, (2**63 - 1) * 1000),
        ("1025Mi", "1025Mi", 1025 * 2**20, 1025 * 2**20 * 1000),
        ("12e6", "12e6", 12_000_000, 12_000_000_000),
        ("1e3", "1e3", 1000, 10**6),
        ("1E3", "1e3", 1000, 10**6),
        ("1e+3", "1e3", 1000, 10**6),
        ("100e4", "1e6", 10**6, 10**9),
        ("1e-3", "1e-3", 1, 1),
        ("1.1e1", "11", 11, 11_000),
        ("1e-20", "1e-9", 1, 1),
        ("12E", "12E", 12 * 10**18, 12 * 10**21),
    ],
)
def test_parsing_gives_what_go_gives(text: str, canonical: str, value: int, milli: int) -> None:
    quantity = parse_quantity(text)
    assert str(quantity) == canonical
    assert quantity.value() == int_value(text) == value
    assert quantity.milli_value() == milli_value(text) == milli
    assert parse_quantity(canonical) == quantity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        ".",
        "+",
        "1i",
        "1ki",
        "1KI",
        "1 Gi",
        " 1",
        "1b",
        "1mm",
        "1e",
        "1e1.5",
        "--1",
        "1.2.3",
        "0x10",
        "1Zi",
        "inf",
        "nan",
        "1,5",
        "1e2147483647",
        "١",
    ],
)
def test_what_is_no_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is not a quantity")):
        parse_quantity(text)


def test_negative_amounts_round_away_from_zero() -> None:
    assert int_value("-1500m") == -2
    assert milli_value("-1u") == -1
    assert str(parse_quantity("-1.5Gi")) == "-1536Mi"


def test_sums_keep_the_first_format_that_is_not_zero() -> None:
    assert str(parse_quantity("0") + parse_quantity("64Mi")) == "64Mi"
    assert str(parse_quantity("64Mi") + parse_quantity("1M")) == "68108864"
    assert str(parse_quantity("1M") + parse_quantity("64Ki")) == "1065536"
    assert str(sum_quantities([])) == "0"
    assert str(sum_quantities(map(parse_quantity, ("100m", "0.9", "1")))) == "2"
    assert str(parse_quantity("1Gi") - parse_quantity("100Mi")) == "924Mi"
    assert str(-parse_quantity("5") * 3) == "-15"


def test_comparison_and_hash_go_by_amount_alone() -> None:
    assert parse_quantity("1Ki") == parse_quantity("1024") == parse_quantity("1.024k")
    assert len({parse_quantity("1Ki"), parse_quantity("1024"), parse_quantity("1")}) == 2
    assert parse_quantity("999m") < parse_quantity("1") <= parse_quantity("1000m")
    assert max(parse_quantity("1G"), parse_quantity("1Gi")) == parse_quantity("1Gi")
    assert not parse_quantity("0")
    assert parse_quantity("1n")
    assert parse_quantity("1") != "1"


def test_formats_of_numbers() -> None:
    assert format_quantity(1024**3, QuantityFormat.BINARY_SI) == "1Gi"
    assert format_quantity(1000) == "1k"
    assert format_quantity(1024**3) == "1073741824"
    assert format_quantity(parse_quantity("1Gi"), QuantityFormat.DECIMAL_SI) == "1073741824"
    assert format_quantity(parse_quantity("1Gi")) == "1Gi"
    assert format_quantity(Quantity.from_milli(1500), QuantityFormat.BINARY_SI) == "1500m"
    assert format_cpu(250) == "250m"
    assert format_cpu(2000) == "2"
    assert format_memory(64 * 2**20) == "64Mi"
    assert format_memory(1000) == "1k"
    assert format_memory_ki(16_694_710_272) == "16303428Ki"
    assert format_memory_ki(16 * 2**30 + 1023) == "16777216Ki"


def test_amounts_beyond_the_largest_suffix_stay_true() -> None:
    assert str(parse_quantity("1000E")) == "1000E"
    assert str(parse_quantity("4Ei") * 1024) == "4096Ei"


def test_percentages_resolve_in_single_precision_like_the_kubelets() -> None:
    assert parse_threshold("10%").resolve(Quantity.from_int(10**12)).value() == 100_000_001_490
    assert parse_threshold("100%").resolve(parse_quantity("8Gi")) == parse_quantity("8Gi")
    assert parse_threshold("0%").resolve(parse_quantity("8Gi")) == parse_quantity("0")
    assert parse_threshold("100Mi").resolve(parse_quantity("1")) == parse_quantity("100Mi")


@pytest.mark.parametrize("text", ["-1%", "101%", "ten%", "%", "-5Mi", "5 Mi", "nan%"])
def test_bad_thresholds_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_threshold(text)


@given(st.integers(min_value=-(10**30), max_value=10**30), st.sampled_from(list(QuantityFormat)))
def test_canonical_text_reads_back_as_the_same_amount(nanos: int, format: QuantityFormat) -> None:
    quantity = Quantity(nanos, format)
    if format is QuantityFormat.BINARY_SI and abs(nanos) > (2**63 - 1) * 10**9:
        return
    assert parse_quantity(str(quantity)) == quantity
