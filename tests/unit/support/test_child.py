from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from support.child import dies_with_parent, is_alive, stop_group, wait_gone

# A parent that starts a child as told, prints the child's pid, and sleeps.
PARENT = """
import subprocess, sys, time
from support.child import dies_with_parent
child = subprocess.Popen(dies_with_parent([sys.executable, "-c", "import time; time.sleep(60)"]))
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_dies_when_its_parent_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment()) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    assert wait_gone(child, timeout_s=10)


def test_the_command_keeps_the_pid_and_its_exit_code():
    script = "import os, sys; print(os.getpid()); sys.exit(7)"
    with subprocess.Popen(dies_with_parent([sys.executable, "-c", script]), stdout=subprocess.PIPE) as process:
        out, _ = process.communicate()
    assert int(out) == process.pid
    assert process.returncode == 7


def test_a_command_that_does_not_exist_is_named():
    done = subprocess.run(dies_with_parent(["no-such-program"]), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "cannot run no-such-program: No such file or directory"


def test_stopping_a_group_ends_also_what_ignores_the_signal():
    script = "trap '' TERM; sleep 60 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        begun = time.monotonic()
        stop_group(process, grace_s=0.3)
        assert time.monotonic() - begun < 10
        assert process.returncode == -signal.SIGKILL
        assert wait_gone(grandchild, timeout_s=10)
        stop_group(process, grace_s=0.3)  # again, to no effect


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
