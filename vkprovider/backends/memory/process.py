"""What a simulated program is: a generator that yields effects, run by whoever owns the process.

A program never blocks and never awaits: it yields what it wants to happen and is resumed when that has happened. So the first
process of a container needs no task of its own (timers of the event loop drive it), and an exec'd one runs in its caller.
"""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vkprovider.provider import cri

MAX_FILE_BYTES = 1024 * 1024
"""Most that a simulated program reads from, or leaves in, one file."""

FOREVER_S = math.inf


@dataclass(frozen=True, slots=True)
class Write:
    """Write bytes to an output of the process."""

    data: bytes
    stderr: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for some seconds; ``math.inf`` waits for a signal, 0 lets others run."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """Read from standard input; the generator is resumed with the bytes, empty at the end of the input."""

    max_bytes: int = 65536


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the first process of the container."""

    number: int


Effect = Write | Sleep | Read | Signal
Run = Generator[Effect, "bytes | None", int]
"""A running program: yields effects, returns its exit code."""
Program = Callable[["Process"], Run]
"""A program: called once per process."""


class Files:
    """The files that a simulated container sees: its own, in memory, and those mounted from the agent's directory.

    Mounts lead to real files only inside ``host_root`` (links followed), so that a simulated container can read its config maps
    and write its termination message, but never touches the rest of the machine. These files are small and on local disk:
    they are read and written in place, at most ``MAX_FILE_BYTES``.

    Args:
        mounts: Mounts of the container.
        host_root: Directory inside which host paths are real; None for none.
    """

    __slots__ = ("_data", "_host_root", "_mounts")

    def __init__(self, mounts: Sequence[cri.Mount] = (), host_root: Path | None = None) -> None:
        self._data: dict[str, bytes] = {}
        self._mounts = sorted(mounts, key=lambda mount: len(mount.container_path), reverse=True)
        self._host_root = os.path.realpath(host_root) if host_root is not None else None

    def read(self, path: str) -> bytes:
        """Contents of a file, cut at ``MAX_FILE_BYTES``.

        Raises:
            OSError: No such file, or it cannot be read.
        """
        host = self._host_path(path)
        if host is None:
            if (data := self._data.get(path)) is not None:
                return data
            if path == "/dev/null":
                return b""
            raise FileNotFoundError(2, "No such file or directory", path)
        with open(host, "rb") as file:
            return file.read(MAX_FILE_BYTES)

    def write(self, path: str, data: bytes, *, append: bool = False) -> None:
        """Replace or extend a file; what goes beyond ``MAX_FILE_BYTES`` is lost.

        Raises:
            OSError: The file lies on a read-only mount or cannot be written.
        """
        if path == "/dev/null":
            return
        mount = self._find_mount(path)
        if mount is not None and mount.readonly:
            raise OSError(30, "Read-only file system", path)
        host = self._host_path(path)
        if host is None:
            self._data[path] = ((self._data.get(path, b"") if append else b"") + data)[:MAX_FILE_BYTES]
            return
        with open(host, "ab" if append else "wb") as file:
            file.write(data[: max(0, MAX_FILE_BYTES - file.tell())])

    def remove(self, path: str) -> None:
        """Remove a file.

        Raises:
            OSError: No such file, or it lies on a read-only mount.
        """
        mount = self._find_mount(path)
        if mount is not None and mount.readonly:
            raise OSError(30, "Read-only file system", path)
        host = self._host_path(path)
        if host is not None:
            os.unlink(host)
        elif self._data.pop(path, None) is None:
            raise FileNotFoundError(2, "No such file or directory", path)

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this path."""
        return self.is_file(path) or self.is_dir(path)

    def is_file(self, path: str) -> bool:
        """Whether there is a file of this path."""
        host = self._host_path(path)
        return os.path.isfile(host) if host is not None else path in self._data

    def is_dir(self, path: str) -> bool:
        """Whether there is a directory of this path; one above a file or mount, and ``/tmp``, always is."""
        host = self._host_path(path)
        if host is not None:
            return os.path.isdir(host)
        prefix = path.rstrip("/") + "/"
        return (
            path in ("/", "/tmp")  # noqa: S108 - a path of the simulated container
            or any(name.startswith(prefix) for name in self._data)
            or any(mount.container_path.startswith(prefix) for mount in self._mounts)
        )

    def list_dir(self, path: str) -> list[str]:
        """Names in a directory, sorted.

        Raises:
            OSError: No such directory.
        """
        host = self._host_path(path)
        if host is not None:
            return sorted(os.listdir(host))
        if not self.is_dir(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        prefix = path.rstrip("/") + "/"
        paths = [*self._data, *(mount.container_path for mount in self._mounts)]
        return sorted({name[len(prefix) :].split("/", 1)[0] for name in paths if name.startswith(prefix)})

    def _find_mount(self, path: str) -> cri.Mount | None:
        for mount in self._mounts:
            if path == mount.container_path or path.startswith(mount.container_path.rstrip("/") + "/"):
                return mount
        return None

    def _host_path(self, path: str) -> str | None:
        mount = self._find_mount(path)
        if mount is None or self._host_root is None or not mount.host_path:
            return None
        real = os.path.realpath(mount.host_path + path[len(mount.container_path.rstrip("/")) :])
        inside = real == self._host_root or real.startswith(self._host_root + os.sep)
        return real if inside else None


@dataclass(slots=True)
class Process:
    """One simulated process: what its program may look at and change.

    Attributes:
        argv: Program and arguments.
        env: Environment; the process's own copy.
        files: Files of the container.
        programs: Programs it can start, by name.
        hostname: Host name of the sandbox.
        cwd: Current directory.
        tty: Whether its streams are a terminal.
        main: Whether it is the first process of a container; programs nobody knows then run until stopped.
        traps: Signal number to what the program does on it: a program, or None to ignore the signal.
        now: Wall time.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    programs: Mapping[str, Program] = field(default_factory=dict)
    hostname: str = "localhost"
    cwd: str = "/"
    tty: bool = False
    main: bool = False
    traps: dict[int, Program | None] = field(default_factory=dict)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def child(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """A process started by this one: same files, copied environment."""
        return Process(
            argv=tuple(argv),
            env=dict(self.env if env is None else env),
            files=self.files,
            programs=self.programs,
            hostname=self.hostname,
            cwd=self.cwd,
            tty=self.tty,
            main=self.main,
            traps=self.traps,
            now=self.now,
        )

    def resolve(self, path: str) -> str:
        """Absolute, normalized path."""
        return posixpath.normpath(posixpath.join(self.cwd, path))

    def find_program(self, name: str) -> Program | None:
        """The program of this name or path, or None."""
        return self.programs.get(posixpath.basename(name))


def fixed_program(exit_code: int = 0, *, stdout: bytes = b"", stderr: bytes = b"", delay_s: float = 0.0) -> Program:
    """A program that waits, writes and exits, always the same.

    Args:
        exit_code: Its exit code.
        stdout: What it writes to standard output.
        stderr: What it writes to standard error.
        delay_s: Seconds it takes first.
    """

    def run(process: Process) -> Run:
        if delay_s > 0:
            yield Sleep(delay_s)
        if stdout:
            yield Write(stdout)
        if stderr:
            yield Write(stderr, stderr=True)
        return exit_code

    return run


def run_until_stopped(process: Process) -> Run:
    """The program of a server: runs until a signal ends it."""
    yield Sleep(FOREVER_S)
    return 0
