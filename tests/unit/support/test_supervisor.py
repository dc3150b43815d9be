from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.child import is_alive, wait_gone
from support.supervisor import Check, Program, read_state, write_plan
from support.waiting import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


class Supervised:
    """A supervisor of some programs, with this process as its user."""

    def __init__(self, directory: Path, programs: list[Program]) -> None:
        self.directory = directory
        lock = directory / "users.lock"
        self.use = lock.open("a")
        fcntl.flock(self.use, fcntl.LOCK_SH)
        write_plan(directory, programs, lock)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.supervisor", str(directory)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    def state(self) -> str:
        return read_state(self.directory).get("state", "")

    def wait_state(self, *states: str) -> None:
        wait_for(lambda: self.state() in states, f"the state {states}", timeout_s=20, interval_s=0.02)

    def pid(self, name: str) -> int:
        def look() -> int:
            path = self.directory / f"{name}.pid"
            return int(path.read_text()) if path.exists() else 0

        return wait_for(look, f"the pid of {name}", timeout_s=20, interval_s=0.02)


@pytest.fixture
def supervise(tmp_path):
    made = []

    def make(*programs: Program) -> Supervised:
        made.append(Supervised(tmp_path, list(programs)))
        return made[-1]

    yield make
    for one in made:
        one.use.close()
        one.process.terminate()
        one.process.wait(timeout=20)


def test_it_ends_the_programs_when_the_last_user_lets_go(supervise):
    one = supervise(Program("a", SLEEP), Program("b", SLEEP))
    one.wait_state("running")
    pids = [one.pid("a"), one.pid("b")]
    with (one.directory / "users.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        one.use.close()
        time.sleep(0.5)
        assert one.process.poll() is None
        assert all(is_alive(pid) for pid in pids)
    assert one.process.wait(timeout=20) == 0
    assert one.state() == "stopped"
    assert not any(is_alive(pid) for pid in pids)


def test_killing_it_kills_the_programs(supervise):
    one = supervise(Program("a", SLEEP))
    one.wait_state("running")
    pid = one.pid("a")
    one.process.kill()
    assert wait_gone(pid, timeout_s=10)


def test_a_program_that_ends_is_started_again(supervise):
    one = supervise(Program("a", SLEEP))
    one.wait_state("running")
    first = one.pid("a")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: one.pid("a") != first, "another pid", timeout_s=20)
    assert one.state() == "running"


def test_a_program_on_hold_stays_down_until_released(supervise):
    one = supervise(Program("a", SLEEP), Program("b", SLEEP))
    one.wait_state("running")
    first, other = one.pid("a"), one.pid("b")
    hold = one.directory / "hold-a"
    hold.touch()
    assert wait_gone(first, timeout_s=20)
    time.sleep(0.4)
    assert not (one.directory / "a.pid").exists()
    hold.unlink()
    assert is_alive(one.pid("a"))
    assert one.pid("b") == other


def test_a_program_that_keeps_ending_fails_the_group_and_says_why(supervise):
    one = supervise(Program("good", SLEEP), Program("bad", ["sh", "-c", "echo no luck; exit 3"]))
    one.wait_state("failed")
    one.process.wait(timeout=20)
    assert "bad ended 6 times within 60 s, at last with 3: no luck" in read_state(one.directory)["message"]
    assert not (one.directory / "good.pid").exists()


def test_a_program_waits_for_what_it_needs(supervise, tmp_path):
    serve = [sys.executable, "-c", SERVER, str(tmp_path / "port")]
    first = Program("server", serve)
    # The port is known only once the server runs, so a plan with it is made for a second group.
    one = supervise(first)
    one.wait_state("running")
    port = int(wait_for(lambda: (tmp_path / "port").exists() and (tmp_path / "port").read_text(), "the port"))
    second = tmp_path / "second"
    second.mkdir()
    two = Supervised(second, [Program("client", SLEEP, after=Check(f"http://127.0.0.1:{port}/ready"))])
    try:
        two.wait_state("starting")
        time.sleep(0.4)
        assert two.state() == "starting"
        assert not (second / "client.pid").exists()
        (tmp_path / "ready").touch()
        two.wait_state("running")
        assert is_alive(two.pid("client"))
    finally:
        two.use.close()
        two.process.wait(timeout=20)


def test_a_need_whose_program_ends_fails_at_once(supervise):
    need = Check("http://127.0.0.1:1/ready")
    one = supervise(Program("server", ["sh", "-c", "echo port taken; exit 1"]), Program("client", SLEEP, after=need))
    one.wait_state("failed")
    assert "server ended with 1 during the start: port taken" in read_state(one.directory)["message"]


SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists("ready") else 503)
        self.end_headers()
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
open(sys.argv[1] + ".new", "w").write(str(server.server_port))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
"""
