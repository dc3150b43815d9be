"""Start a program that does not outlive the process that started it.

Run as a script (``python child.py PARENT_PID SIGNAL COMMAND...``) it asks the kernel to send it the signal when its parent
dies, then becomes the command: the pid stays the same. A ``preexec_fn`` would do this too, but may deadlock in a process
with threads, and pytest has some.

The kernel watches the *thread* that started the child: start children from the main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def dies_with_parent(command: Sequence[str], *, by: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command to run instead of ``command`` so that it gets a signal when this process ends."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(by)), *command]


def stop_group(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End a process that leads its own group: SIGTERM, and SIGKILL to the whole group when the grace is over.

    Safe to repeat, and to call for one that has ended.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_gone(pid: int, *, timeout_s: float) -> bool:
    """Whether a process, of whatever parent, ended within some seconds."""
    deadline = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _become(parent: int, number: int, command: list[str]) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the kernel was told
        sys.exit(f"the parent process {parent} has ended")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
