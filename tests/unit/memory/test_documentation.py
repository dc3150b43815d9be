"""The page about the memory provider names what there is."""

import re
from dataclasses import fields
from pathlib import Path

from vkprovider.backends.memory.behaviour import Behaviour, SandboxBehaviour, find_image_behaviour
from vkprovider.backends.memory.config import _READERS
from vkprovider.backends.memory.programs import STANDARD_PROGRAMS

TEXT = (Path(__file__).parents[3] / "docs" / "memory-provider.md").read_text()


def names(pattern):
    return set(re.findall(pattern, TEXT))


def test_every_field_and_key_is_documented():
    wanted = {field.name for kind in (Behaviour, SandboxBehaviour) for field in fields(kind)} | set(_READERS)
    assert wanted <= names(r"`(\w+)`")


def test_every_program_is_documented():
    documented = {text.split()[0] for text in re.findall(r"`([^`\n]+)`", TEXT)}
    assert set(STANDARD_PROGRAMS) - {"[", "ash", "bash"} <= documented


def test_images_behave_as_documented():
    found = re.findall(r"`memory\.local/([\w-]+)(?::([\d.]+))?`", TEXT)
    refused = {"denied", "unreachable", "anything-else"}
    assert {name for name, _ in found} >= refused
    for name, tag in found:
        assert (find_image_behaviour(name, tag) is None) == (name in refused)
