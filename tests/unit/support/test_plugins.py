"""The plugins on runs of their own, each in a process of its own."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.child import is_alive

PLUGINS = ("-p", "support.pytest_parts", "-p", "support.pytest_hygiene")
INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
markers =
    docker: engine
    controlplane: control plane
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run tests from source text; without an engine or a control plane, outside CI."""
    for name in ("CI", "VKPROVIDER_TEST_STRICT", "KUBEBUILDER_ASSETS", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VKPROVIDER_ENGINE_MISSING", "no engine on this machine")
    monkeypatch.setenv("VKPROVIDER_CONTROLPLANE_MISSING", "no Go on this machine")
    monkeypatch.setenv("PYTHONPATH", str(pytest.importorskip("support").__path__[0]).removesuffix("/support"))
    pytester.makefile(".ini", pytest=INI)

    def start(source: str, *arguments: str):
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess(*PLUGINS, *arguments)

    return start


NEEDS_PARTS = """
    import pytest

    @pytest.mark.docker
    def test_engine(): pass

    @pytest.mark.controlplane
    def test_plane(): pass

    @pytest.mark.docker
    @pytest.mark.controlplane
    def test_both(): pass

    def test_plain(): pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_test_that_lacks_a_part_is_skipped_and_the_part_named_at_the_end(run, workers):
    result = run(NEEDS_PARTS, "-n", workers)
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "*parts that could not run*",
            "controlplane: 1 test(s) did not run: no Go on this machine",
            "docker: 2 test(s) did not run: no engine on this machine",
        ]
    )
    assert result.ret == 0


@pytest.mark.parametrize("variable", ["VKPROVIDER_TEST_STRICT", "CI"])
def test_in_a_strict_run_a_missing_part_fails_the_test(run, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    result = run(NEEDS_PARTS)
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["*docker is missing: no engine on this machine (in CI*", "*parts that could not run*"])
    assert result.ret == 1


def test_a_run_that_lacks_nothing_names_nothing(run):
    result = run("def test_plain(): pass")
    result.stdout.no_fnmatch_line("*parts that could not run*")
    assert result.ret == 0


def test_a_test_that_leaves_a_task_fails_and_the_task_is_named(run):
    result = run(
        """
        import asyncio

        async def linger(): await asyncio.sleep(3600)

        async def test_leaves():
            asyncio.create_task(linger(), name="the-lingering-one").add_done_callback(print)

        async def test_awaits():
            await asyncio.create_task(asyncio.sleep(0))

        async def test_cancels():
            asyncio.create_task(linger()).cancel()

        def test_sync(): pass
        """
    )
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*the test left 1 task(s) behind: the-lingering-one (linger at *"])


def test_tasks_that_a_fixture_ends_are_not_left(run):
    result = run(
        """
        import asyncio, pytest

        @pytest.fixture
        async def server():
            task = asyncio.create_task(asyncio.sleep(3600))
            yield
            task.cancel()

        async def test_with_server(server): pass
        """
    )
    result.assert_outcomes(passed=1)


def test_containers_left_by_the_run_are_removed_and_fail_it(run, pytester):
    # An engine with one container of this run, one of another's, and one of nobody's.
    pytester.makeconftest(
        """
        import docker, pytest, types
        from support import pytest_hygiene, pytest_parts

        pytest_parts._LOOKS["docker"] = lambda: None
        removed = []

        class Client:
            def containers(self, all, filters):
                def of(name, node):
                    return {"Id": name, "Names": ["/" + name], "Status": "Up", "Labels": {"vkprovider.io/node": node}}
                return [of("mine", prefix + "-n1"), of("theirs", "vkt-other-n1")]
            def remove_container(self, name, force, v): removed.append(name)
            def close(self): print("REMOVED", removed)

        @pytest.hookimpl(trylast=True)
        def pytest_configure(config):
            global prefix
            prefix = pytest_hygiene.session_prefix_of(config)
            docker.from_env = lambda version: types.SimpleNamespace(api=Client())
        """
    )
    source = """
        import pytest
        @pytest.mark.docker
        def test_engine(): pass
    """
    for workers in ("0", "1"):
        result = run(source, "-n", workers)
        result.assert_outcomes(passed=1)
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*REMOVED ?'mine'?", "*containers left behind*", "/mine of node vkt-*-n1 (Up)"])


def test_names_are_unique_and_share_the_prefix_of_the_run_in_all_workers(run):
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("n", range(6))
        def test_name(n, node_name, namespace, session_prefix, record_property):
            assert node_name != namespace
            assert node_name.startswith(session_prefix) and namespace.startswith(session_prefix)
            open("names", "a").write(f"{session_prefix} {node_name} {namespace}\\n")
        """,
        "-n",
        "2",
    )
    result.assert_outcomes(passed=6)
    lines = [line.split() for line in (result_dir(result) / "names").read_text().splitlines()]
    assert len({line[0] for line in lines}) == 1
    assert len({name for line in lines for name in line[1:]}) == 12


def result_dir(result):
    line = next(line for line in result.outlines if line.startswith("rootdir: "))
    return Path(line.removeprefix("rootdir: "))


def test_the_log_of_a_node_is_in_the_report_of_a_failure_and_the_node_is_ended(run, pytester, monkeypatch):
    package = pytester.mkpydir("vkprovider")
    package.joinpath("__main__.py").write_text(
        "import time\nprint('the node says why', flush=True)\nwhile True: time.sleep(0.1)\n"
    )
    result = run(
        f"""
        from pathlib import Path
        from support.waiting import wait_for

        def test_fails(make_agent, tmp_path):
            agent = make_agent(tmp_path / "kubeconfig", "n1", environment={{"PYTHONPATH": {str(pytester.path)!r}}})
            agent.start()
            Path("pid").write_text(str(agent.pid))
            wait_for(lambda: "why" in agent.log(), "the log")
            assert not agent.is_running
        """,
        "-p",
        "support.pytest_cluster",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*log of node n1 (*vkprovider.log)*", "the node says why"])
    assert not is_alive(int((pytester.path / "pid").read_text()))


@pytest.mark.looptime
async def test_virtual_time_works():
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    assert loop.time() == 0
    await asyncio.sleep(300)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()
    assert loop.time() == 360
    assert time.monotonic() - began < 5
