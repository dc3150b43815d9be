"""The first example is short and keeps every rule of ``PodProvider``."""

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from vkprovider.errors import InvalidPodError
from vkprovider.provider import PodProvider, ProviderFactory, ProviderOptions
from vkprovider.testing import make_container, make_node_context, make_pod, make_pod_context
from vkprovider.testing.conformance import ProviderUnderTest
from vkprovider.testing.pytest_plugin import provider_conformance

DIRECTORY = Path(__file__).parents[3] / "examples" / "01-first-provider"
MAX_CODE_LINES = 90


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("first_provider", DIRECTORY / "first_provider.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["first_provider"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["first_provider"]


@pytest.fixture
async def subject(example, tmp_path):
    node = make_node_context()
    factory = example.LocalFactory()
    provider = factory.create(ProviderOptions(node_name="node", root_dir=tmp_path))
    await provider.start(node)
    yield ProviderUnderTest(provider=provider, node=node, restarts_containers=False)
    await provider.stop()


@provider_conformance
async def test_first_provider(conformance_check, subject, tmp_path):
    await conformance_check(subject)
    assert list((tmp_path / "logs").iterdir()) == [], "a pod left its log behind"


async def test_container_without_a_command_is_refused(subject):
    context, _ = make_pod_context(subject.node)
    with pytest.raises(InvalidPodError, match="container main needs a command"):
        await subject.provider.sync_pod(make_pod(containers=[make_container()]), context)


async def test_processes_end_with_the_provider(subject):
    async with subject.pod() as driver:
        await driver.run()
        await subject.provider.stop()
        assert driver.provider.pods
        assert (await driver.get_status())["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_it_is_short():
    source = (DIRECTORY / "first_provider.py").read_text()
    skipped = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            skipped.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [
        line
        for number, line in enumerate(source.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#") and number not in skipped
    ]
    assert len(lines) <= MAX_CODE_LINES
    assert max(map(len, source.splitlines())) <= 120


def test_entry_point_names_the_factory(example):
    project = tomllib.loads((DIRECTORY / "pyproject.toml").read_text())
    entry = project["project"]["entry-points"]["vkprovider.providers"]["local"]
    module, _, name = entry.partition(":")
    assert module in project["tool"]["setuptools"]["py-modules"]
    factory = getattr(sys.modules[module], name)
    assert issubclass(factory, ProviderFactory)
    assert issubclass(example.LocalProcesses, PodProvider)


def test_files_named_in_the_readme_exist():
    text = (DIRECTORY / "README.md").read_text()
    for name in re.findall(r"\]\((\w[\w.]*)\)", text) + re.findall(r"-f (\S+)", text):
        assert (DIRECTORY / name).is_file(), name


def test_check_of_the_readme_is_python():
    (code,) = re.findall(r"```python\n(.*?)```", (DIRECTORY / "README.md").read_text(), flags=re.S)
    ast.parse(code)
