from __future__ import annotations

import pytest

from vkprovider.errors import PodSyncError
from vkprovider.resolve.expansion import expand, expand_all, expand_sub_path, static_environment

VALUES = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}


# Rows of third_party/forked/golang/expansion/expand_test.go.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(VAR_A)", "A"),
        ("___$(VAR_B)___", "___B___"),
        ("___$(VAR_C)", "___C"),
        ("$(VAR_A)-1", "A-1"),
        ("$(VAR_A)_$(VAR_B)_$(VAR_C)", "A_B_C"),
        ("$(VAR_REF)", "$(VAR_A)"),
        ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
        ("foo$(VAR_EMPTY)bar", "foobar"),
        ("foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
        ("f00__(VAR_A)__", "f00__(VAR_A)__"),
        ("$?_boo_$!", "$?_boo_$!"),
        ("$VAR_A", "$VAR_A"),
        ("$(VAR_DNE)", "$(VAR_DNE)"),
        ("$$$$$$(BIG_MONEY)", "$$$(BIG_MONEY)"),
        ("$$$$$$(VAR_A)", "$$$(VAR_A)"),
        ("$$$$$$$(GOOD_ODDS)", "$$$$(GOOD_ODDS)"),
        ("$$$$$$$(VAR_A)", "$$$A"),
        ("$VAR_A)", "$VAR_A)"),
        ("${VAR_A}", "${VAR_A}"),
        ("$(VAR_B)_______$(A", "B_______$(A"),
        ("$(VAR_C)_______$(", "C_______$("),
        ("$(VAR_A)foobarzab$", "Afoobarzab$"),
        ("foo-\\$(VAR_A)", "foo-\\A"),
        ("--$($($($($--", "--$($($($($--"),
        ("$($($($($--foo$(", "$($($($($--foo$("),
        ("foo0--$($($($(", "foo0--$($($($("),
        ("$(foo$$var)", "$(foo$$var)"),
        ("$(open $$", "$(open $"),
        ("$()", "$()"),
        ("", ""),
    ],
)
def test_references_are_replaced_once(text: str, expected: str) -> None:
    assert expand(text, VALUES) == expected


def test_first_mapping_that_knows_a_name_wins() -> None:
    assert expand("$(A) $(B)", {"A": "1"}, {"A": "2", "B": "3"}) == "1 3"


def test_commands_are_expanded_word_by_word() -> None:
    assert expand_all(["a", "$(VAR_A)"], VALUES) == ("a", "A")
    assert expand_all(None, VALUES) == ()


def test_static_environment_holds_values_as_written() -> None:
    container = {"env": [{"name": "A", "value": "$(B)"}, {"name": "C", "valueFrom": {"fieldRef": {}}}]}
    assert static_environment(container) == {"A": "$(B)", "C": ""}  # type: ignore[arg-type]


def test_sub_path_needs_every_value() -> None:
    assert expand_sub_path("logs/$(VAR_A)", VALUES) == "logs/A"
    assert expand_sub_path("$$(VAR_A)", {}) == "$(VAR_A)"
    with pytest.raises(PodSyncError, match=r"^missing value for NOPE, VAR_EMPTY$") as caught:
        expand_sub_path("$(VAR_EMPTY)/$(NOPE)/$(VAR_A)", VALUES)
    assert caught.value.reason == "CreateContainerConfigError"
