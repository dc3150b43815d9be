"""A Docker Engine for the tests: the one that answers, or a private one for as long as a command runs.

As a command::

    python -m support.engine run [--private] -- CMD...

An engine that answers (``DOCKER_HOST``, else the default socket) is used as it is. When none does, root on Debian or Ubuntu gets
the distribution's engine installed, and a ``dockerd`` with directories and a socket of its own is started, CMD finds it in
``DOCKER_HOST``, and all of it is removed when CMD ends. An engine that runs already is never touched, not even its iptables rules
or its bridge. Where no engine can be had, CMD runs all the same and finds the reason in ``VKPROVIDER_ENGINE_MISSING``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from support.cache import cache_dir, file_lock
from support.child import dies_with_parent, is_alive, stop_group

MISSING_VARIABLE = "VKPROVIDER_ENGINE_MISSING"
_DEFAULT_HOST = "unix:///var/run/docker.sock"
_API_VERSION = "1.41"  # said, so that no question is asked when a client is made
_PREFIX = "vkprovider-engine-"
_ALIVE = "alive.lock"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_PACKAGES = ("docker.io", "iptables", "iproute2")


class EngineUnavailableError(Exception):
    """No engine answers and none can be started; the text says what failed and what to do."""


def find_engine() -> str | None:
    """Why no engine answers at ``DOCKER_HOST``, or at the default socket; None when one does."""
    import docker  # an import of half a second, which most runs do not need
    from docker.utils import kwargs_from_env

    host = os.environ.get("DOCKER_HOST") or _DEFAULT_HOST
    try:
        if host.startswith("unix://"):  # the SDK leaves a socket open that cannot be connected
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(host.removeprefix("unix://"))
        with contextlib.closing(docker.APIClient(**kwargs_from_env(), version=_API_VERSION, timeout=10)) as client:
            client.ping()
    except (docker.errors.DockerException, OSError) as error:
        return f"{host}: {_first_line(error)}"
    return None


@contextlib.contextmanager
def engine(*, private: bool = False) -> Iterator[dict[str, str]]:
    """An engine for as long as the context lasts; gives the environment variables by which clients find it.

    Args:
        private: Start one even if another answers.

    Raises:
        EngineUnavailableError: There is none and none can be started.
    """
    if not private:
        reason = find_engine()
        if reason is None:
            yield {}
            return
        if host := os.environ.get("DOCKER_HOST"):
            raise EngineUnavailableError(
                f"the engine of DOCKER_HOST does not answer ({reason}); start that engine, or unset the variable to have the tests "
                "start one of their own"
            )
        if os.geteuid() != 0:
            raise EngineUnavailableError(
                f"no Docker Engine answers ({reason}), and only root can start one: start an engine and set DOCKER_HOST, or "
                "run this as root"
            )
    if shutil.which("dockerd") is None:
        _install()
        if not private and Path("/run/systemd/system").exists() and _answers_within(15.0):
            yield {}  # systemd has started it
            return
    with _private_engine() as host:
        yield {"DOCKER_HOST": host}


def is_debian(os_release: str) -> bool:
    """Whether an ``os-release`` file tells of Debian or one of its children."""
    values = {}
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        values[key.strip()] = value.strip().strip("\"'")
    return bool({values.get("ID", ""), *values.get("ID_LIKE", "").split()} & {"debian", "ubuntu"})


def install_debian_packages(packages: Sequence[str]) -> None:
    """Install packages by apt-get, as root, without questions and recommendations.

    Raises:
        EngineUnavailableError: It failed; the text has apt-get's complaint.
    """
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
    install = [*apt, "install", "-y", "--no-install-recommends", *packages]
    with file_lock(cache_dir() / "apt.lock"):
        try:
            # The lists of packages may be missing or old: the second try has new ones.
            if _try_to_run(install, environment) is None:
                return
            complaint = _try_to_run([*apt, "update"], environment) or _try_to_run(install, environment)
        except OSError as error:
            complaint = f"cannot run apt-get: {error}"
    if complaint is not None:
        raise EngineUnavailableError(complaint)


def _try_to_run(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Run a command; why it failed, or None."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return None
    return f"'{' '.join(command)}' failed: " + " | ".join(done.stderr.strip().splitlines()[-4:])


def _install() -> None:
    with contextlib.suppress(OSError):
        if is_debian(Path("/etc/os-release").read_text()):
            _say("installing the Docker Engine of the distribution (docker.io)")
            install_debian_packages(_PACKAGES)
            if shutil.which("dockerd") is None:
                raise EngineUnavailableError("apt-get installed docker.io, yet there is no dockerd in PATH")
            return
    raise EngineUnavailableError(
        "no Docker Engine answers, none is installed, and only Debian's and Ubuntu's is installed by itself: install a Docker "
        "Engine, start it, and set DOCKER_HOST if it does not listen on /var/run/docker.sock"
    )


@contextlib.contextmanager
def _private_engine() -> Iterator[str]:
    """Run a dockerd with everything of its own; gives its address.

    Raises:
        EngineUnavailableError: It did not start; the text has the end of its log.
    """
    sweep_left_over(Path(tempfile.gettempdir()))
    work = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = (work / "new.lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (work / "new.lock").rename(work / _ALIVE)  # never seen unlocked while in use
    bridge: str | None = None
    process: subprocess.Popen[bytes] | None = None
    try:
        flags = []
        if _another_dockerd_runs():
            # Two engines on one bridge give out the same addresses, and a second one rewrites the rules of the first.
            bridge = _make_bridge()
            (work / "bridge").write_text(bridge)
            flags = [f"--bridge={bridge}", "--iptables=false", "--ip-masq=false"]
        elif subprocess.run(["iptables", "-w", "-t", "nat", "-nL"], capture_output=True).returncode != 0:
            _say("iptables does not work here: the engine's containers reach this host only")
            flags = ["--iptables=false", "--ip-masq=false"]
        if bridge is None and not Path("/sys/class/net/docker0").exists():
            (work / "bridge").write_text("docker0")  # dockerd makes it and leaves it
        host = f"unix://{work}/docker.sock"
        with (work / "dockerd.log").open("ab") as log:
            process = subprocess.Popen(
                dies_with_parent(
                    [
                        "dockerd",
                        f"--data-root={work}/data",
                        f"--exec-root={work}/exec",
                        f"--pidfile={work}/dockerd.pid",
                        f"--host={host}",
                        "--config-file=" + str(_write_config(work)),
                        *flags,
                    ],
                    by=signal.SIGTERM,  # it ends containers, containerd and mounts then
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _wait_until_up(process, host, work / "dockerd.log")
        yield host
    finally:
        if process is not None:
            stop_group(process, grace_s=_STOP_TIMEOUT_S)
        _remove(work)
        lock.close()


def _write_config(work: Path) -> Path:
    """A configuration of our own: the one in /etc may name hosts, which conflict with the flag."""
    path = work / "daemon.json"
    path.write_text("{}")
    return path


def _wait_until_up(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    import docker

    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise EngineUnavailableError(f"dockerd ended with {process.returncode}: {_tail(log)}")
        client = docker.APIClient(base_url=host, version=_API_VERSION, timeout=10)
        try:
            client.ping()
            version = client.version()["Version"]
        except (docker.errors.DockerException, OSError):
            if time.monotonic() > deadline:
                raise EngineUnavailableError(
                    f"dockerd did not answer within {_START_TIMEOUT_S:.0f} s: {_tail(log)}"
                ) from None
            time.sleep(0.1)
        else:
            _say(f"started a private engine {version} at {host}")
            return
        finally:
            client.close()


def _another_dockerd_runs() -> bool:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == "dockerd":
                return True
    return False


def _make_bridge() -> str:
    """Make a bridge with a network that no route covers.

    Raises:
        EngineUnavailableError: There is no way to.
    """
    name = f"vkt{secrets.token_hex(4)}"
    complaint = ""
    try:
        routes = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=True).stdout
        for third in range(200, 250):
            network = f"172.31.{third}"
            if f"{network}." in routes:
                continue
            for command in (
                ["ip", "link", "add", "name", name, "type", "bridge"],
                ["ip", "addr", "add", f"{network}.1/24", "dev", name],
                ["ip", "link", "set", name, "up"],
            ):
                subprocess.run(command, capture_output=True, text=True, check=True)
            return name
        complaint = "172.31.200.0 to 172.31.249.0 are all taken"
    except (OSError, subprocess.CalledProcessError) as error:
        subprocess.run(["ip", "link", "delete", name], capture_output=True)
        complaint = f"{error} {(getattr(error, 'stderr', '') or '').strip()}".strip()
    raise EngineUnavailableError(f"another engine runs, and a bridge for a second one cannot be made: {complaint}")


def sweep_left_over(directory: Path) -> None:
    """Remove what engines left that were killed: their dockerd ended by itself, the files stayed."""
    for work in directory.glob(_PREFIX + "*"):
        try:
            with (work / _ALIVE).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_stopping(work):
                    _remove(work)
        except OSError:  # in use, being made, or another user's
            continue


def _is_stopping(work: Path) -> bool:
    try:
        return is_alive(int((work / "dockerd.pid").read_text()))
    except (OSError, ValueError):
        return False


def _remove(work: Path) -> None:
    with contextlib.suppress(OSError):
        subprocess.run(["ip", "link", "delete", (work / "bridge").read_text()], capture_output=True)
    remove_tree(work)


def remove_tree(work: Path) -> None:
    """Remove a directory with whatever is still mounted in it."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(work):
            mounts.append(point)
    for point in sorted(mounts, key=len, reverse=True):
        subprocess.run(["umount", "-l", point], capture_output=True)
    shutil.rmtree(work, ignore_errors=True)
    if work.exists():
        _say(f"cannot remove {work}")


def _answers_within(timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while find_engine() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-6:]) or "its log is empty"


def _say(text: str) -> None:
    print(f"engine: {text}", file=sys.stderr, flush=True)


def _run(command: Sequence[str], variables: dict[str, str]) -> int:
    """Run the command to its end; signals to this process go to it."""
    guarded = dies_with_parent(command, by=signal.SIGTERM)
    with subprocess.Popen(guarded, env={**os.environ, **variables}) as child:

        def forward(number: int, frame: FrameType | None) -> None:
            # A terminal has sent Ctrl-C to the whole group already.
            if number != signal.SIGINT:
                child.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, forward)
        code = child.wait()
    return 128 - code if code < 0 else code


def main(arguments: Sequence[str]) -> int:
    """The command; see the module's docstring."""
    rest = list(arguments)
    private = rest[:2] == ["run", "--private"]
    rest = rest[2:] if private else rest[1:] if rest[:1] == ["run"] else []
    if rest[:1] != ["--"] or len(rest) < 2:
        print("usage: python -m support.engine run [--private] -- COMMAND...", file=sys.stderr)
        return 2
    # SIGTERM before or after the command's life is to clean up as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        try:
            variables = stack.enter_context(engine(private=private))
        except EngineUnavailableError as error:
            _say(f"not available: {error}")
            variables = {MISSING_VARIABLE: str(error)}
        return _run(rest[1:], variables)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
