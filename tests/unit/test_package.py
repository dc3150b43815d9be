"""What is installed is a whole package."""

from __future__ import annotations

import re
from importlib import metadata, resources

import vkprovider

# PEP 440, appendix B, without local versions.
VERSION = r"(\d+!)?\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?"


def test_the_version_is_the_installed_one_and_well_formed():
    assert vkprovider.__version__ == metadata.version("vkprovider")
    assert re.fullmatch(VERSION, vkprovider.__version__)


def test_the_package_says_that_it_is_typed():
    assert resources.files("vkprovider").joinpath("py.typed").is_file()


def test_the_program_and_the_providers_are_entry_points():
    distribution = metadata.distribution("vkprovider")
    found = {(point.group, point.name) for point in distribution.entry_points}
    assert ("console_scripts", "vkprovider") in found
    assert {("vkprovider.providers", "docker"), ("vkprovider.providers", "memory")} <= found
