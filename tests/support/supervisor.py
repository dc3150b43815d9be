"""A process that runs a group of programs for as long as anybody uses them.

Users hold a shared lock on a file; when none is left, because they let go or died in whatever way, the supervisor ends the
programs and itself. If the supervisor is killed, the kernel kills the programs. So nothing outlives the tests.

A program that ends is started again, as a node's manager would do. While a file ``hold-<program>`` lies in the directory the
program is kept down.

Run as ``python -m support.supervisor DIRECTORY`` by ``support.controlplane``. Files in the directory: ``plan.json`` (what to
run), ``state.json`` (how it goes), ``<program>.pid``, ``log/<program>.log``.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from support.child import dies_with_parent, stop_group

GATE_TIMEOUT_S = 120.0
STOP_GRACE_S = 1.5  # nothing of it is needed again
MAX_RESTARTS = 5
RESTART_WINDOW_S = 60.0
_TICK_S = 0.1


@dataclass(frozen=True)
class Check:
    """An address that answers 200 when something is ready.

    Attributes:
        url: ``https://`` or ``http://``.
        ca: File of the CA; empty for no look at the server's certificate.
        cert: File of the client's certificate; empty for none.
        key: File of its key.
    """

    url: str
    ca: str = ""
    cert: str = ""
    key: str = ""

    def passes(self) -> bool:
        """Whether it answers 200 now."""
        try:
            return self.get()[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """The answer's status and body.

        Raises:
            OSError, http.client.HTTPException: There was no answer.
        """
        url = urllib.parse.urlsplit(self.url)
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca or None)
            if not self.ca:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
            connection = http.client.HTTPSConnection(url.netloc, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(url.netloc, timeout=timeout_s)
        try:
            connection.request("GET", urllib.parse.urlunsplit(("", "", url.path, url.query, "")))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@dataclass(frozen=True)
class Program:
    """One program.

    Attributes:
        name: Of its log and pid file.
        command: The command.
        after: What must answer before it is started.
    """

    name: str
    command: Sequence[str]
    after: Check | None = None


def write_plan(directory: Path, programs: Sequence[Program], users_lock: Path) -> None:
    """Write what a supervisor in this directory is to run, and the lock that its users hold."""
    plan = {"users_lock": str(users_lock), "programs": [asdict(program) for program in programs]}
    (directory / "plan.json").write_text(json.dumps(plan, indent=1))


def read_state(directory: Path) -> dict[str, Any]:
    """``state`` (starting, running, failed, stopping, stopped), ``pid`` and ``message``; empty before the start."""
    try:
        state: dict[str, Any] = json.loads((directory / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return state


class _Failed(Exception):
    pass


class Supervisor:
    """Runs the plan of a directory; see the module's docstring."""

    def __init__(self, directory: Path) -> None:
        plan = json.loads((directory / "plan.json").read_text())
        self._directory = directory
        self._programs = [
            Program(p["name"], p["command"], Check(**p["after"]) if p["after"] else None) for p in plan["programs"]
        ]
        self._users = Path(plan["users_lock"]).open("a")  # noqa: SIM115 - until this process ends
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: dict[str, list[float]] = {}
        self._told_to_stop = False

    def run(self) -> None:
        """Start the programs, keep them up until nobody uses them or one keeps failing, end them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        (self._directory / "log").mkdir(exist_ok=True)
        self._write_state("starting")
        end, message = "stopped", ""
        try:
            for program in self._programs:
                if not self._wait_for_gate(program):
                    break
                self._start(program)
            else:
                self._write_state("running")
                while not self._is_done():
                    self._keep_up()
                    time.sleep(_TICK_S)
        except _Failed as error:
            end, message = "failed", str(error)
        finally:
            if not message:
                self._write_state("stopping")
            self._stop_all()
            self._write_state(end, message)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop = True

    def _is_done(self) -> bool:
        if self._told_to_stop:
            return True
        try:
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends
        except BlockingIOError:
            return False
        return True

    def _wait_for_gate(self, program: Program) -> bool:
        """Wait for what a program needs; false if it is time to stop.

        Raises:
            _Failed: It did not come, or a program it may need ended.
        """
        if program.after is None:
            return not self._is_done()
        deadline = time.monotonic() + GATE_TIMEOUT_S
        while not program.after.passes():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise _Failed(f"{name} ended with {process.returncode} during the start: {self._log_tail(name)}")
            if time.monotonic() > deadline:
                last = next(reversed(self._running), program.name)
                raise _Failed(
                    f"{program.after.url}, which {program.name} waits for, did not answer 200 within "
                    f"{GATE_TIMEOUT_S:.0f} s; {last}'s log: {self._log_tail(last)}"
                )
            if self._is_done():
                return False
            time.sleep(_TICK_S)
        return True

    def _start(self, program: Program) -> None:
        with (self._directory / "log" / f"{program.name}.log").open("ab") as log:
            try:
                process = subprocess.Popen(
                    dies_with_parent(program.command),
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise _Failed(f"cannot start {program.name}: {error}") from error
        self._running[program.name] = process
        _write_atomically(self._directory / f"{program.name}.pid", str(process.pid))

    def _keep_up(self) -> None:
        for program in self._programs:
            held = (self._directory / f"hold-{program.name}").exists()
            process = self._running.get(program.name)
            if held:
                if process is not None:
                    stop_group(process, grace_s=STOP_GRACE_S)
                    self._forget(program.name)
            elif process is None:
                self._start(program)
            elif process.poll() is not None:
                now = time.monotonic()
                recent = [at for at in self._restarts.get(program.name, []) if now - at < RESTART_WINDOW_S]
                if len(recent) >= MAX_RESTARTS:
                    raise _Failed(
                        f"{program.name} ended {len(recent) + 1} times within {RESTART_WINDOW_S:.0f} s, at last with "
                        f"{process.returncode}: {self._log_tail(program.name)}"
                    )
                self._restarts[program.name] = [*recent, now]
                self._forget(program.name)
                self._start(program)

    def _forget(self, name: str) -> None:
        (self._directory / f"{name}.pid").unlink(missing_ok=True)
        self._running.pop(name, None)

    def _stop_all(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)  # one that a test paused would not hear the rest
                process.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        for name, process in reversed(list(self._running.items())):
            stop_group(process, grace_s=max(0.0, deadline - time.monotonic()))
            self._forget(name)

    def _log_tail(self, name: str) -> str:
        text = (self._directory / "log" / f"{name}.log").read_text(errors="replace")
        return " | ".join(text.strip().splitlines()[-6:]) or "its log is empty"

    def _write_state(self, state: str, message: str = "") -> None:
        _write_atomically(
            self._directory / "state.json", json.dumps({"state": state, "pid": os.getpid(), "message": message})
        )


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.rename(path)


if __name__ == "__main__":
    Supervisor(Path(sys.argv[1])).run()
