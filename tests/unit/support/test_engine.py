from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from support import engine
from support.waiting import wait_for

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
RUN = [sys.executable, "-m", "support.engine", "run", "--"]


@pytest.mark.parametrize(
    ("os_release", "expected"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n', True),
        ("ID=ubuntu\nID_LIKE=debian\n", True),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', True),
        ('ID="fedora"\nVARIANT="debian remix"\n', False),
        ("", False),
    ],
)
def test_debian_and_its_children_are_told_from_others(os_release, expected):
    assert engine.is_debian(os_release) is expected


def test_what_a_killed_engine_left_is_removed_and_one_in_use_is_not(tmp_path):
    left, used, unfinished = (tmp_path / f"vkprovider-engine-{name}" for name in ("left", "used", "unfinished"))
    for work in (left, used, unfinished):
        (work / "data").mkdir(parents=True)
    (left / "alive.lock").touch()
    with (used / "alive.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine.sweep_left_over(tmp_path)
    assert not left.exists()
    assert used.exists()
    assert unfinished.exists()


def test_an_engine_that_is_named_and_does_not_answer_is_an_error_that_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    expected = pytest.raises(
        engine.EngineUnavailableError, match=r"DOCKER_HOST does not answer \(unix://.*none.sock: .*No such file"
    )
    with expected, engine.engine():
        pass


def test_the_command_runs_without_an_engine_and_knows_why(tmp_path):
    environment = {**ENVIRONMENT, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    command = [*RUN, "sh", "-c", 'echo "$VKPROVIDER_ENGINE_MISSING"; exit 5']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 5
    assert "does not answer" in done.stdout


def test_a_signal_goes_to_the_command_and_its_end_is_awaited(tmp_path):
    environment = {**ENVIRONMENT, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    script = "trap 'echo ended; exit 9' TERM; touch started; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [*RUN, "sh", "-c", script], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        wait_for((tmp_path / "started").exists, "the command", timeout_s=30)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == b"ended\n"
    assert process.returncode == 9


@pytest.fixture
def apt_get(tmp_path, monkeypatch):
    """An apt-get that notes what it is told, and finds packages only after an update."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    script = tmp_path / "bin" / "apt-get"
    script.parent.mkdir()
    script.write_text(APT_GET.format(root=tmp_path))
    script.chmod(0o755)
    return tmp_path


APT_GET = """#!/bin/sh
echo "$DEBIAN_FRONTEND $@" >> {root}/told
case "$*" in
*update*) [ -e {root}/offline ] && {{ echo "E: no mirror answers" >&2; exit 100; }}; touch {root}/updated;;
*install*) [ -e {root}/updated ] || {{ echo "E: Unable to locate package docker.io" >&2; exit 100; }};;
esac
"""


def test_packages_are_installed_at_once_when_the_lists_are_there(apt_get):
    (apt_get / "updated").touch()
    engine.install_debian_packages(["docker.io", "iptables"])
    (told,) = (apt_get / "told").read_text().splitlines()
    assert told.startswith("noninteractive ")
    assert told.endswith(" install -y --no-install-recommends docker.io iptables")


def test_the_lists_of_packages_are_fetched_when_a_package_is_not_found(apt_get):
    engine.install_debian_packages(["docker.io"])
    told = (apt_get / "told").read_text().splitlines()
    assert ["install" in line for line in told] == [True, False, True]


def test_the_complaint_of_apt_get_is_passed_on(apt_get):
    (apt_get / "offline").touch()
    with pytest.raises(engine.EngineUnavailableError, match=r"update' failed: E: no mirror answers"):
        engine.install_debian_packages(["docker.io"])
