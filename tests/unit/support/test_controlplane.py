from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from support.child import is_alive
from support.controlplane import ControlPlane, ControlPlaneError
from support.controlplane_build import PROGRAMS
from support.waiting import wait_for


@pytest.fixture
def binaries(tmp_path) -> Path:
    """Programs that fail as one does whose port is taken."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_text("#!/bin/sh\necho listen tcp 127.0.0.1: bind: address already in use\nexit 1\n")
        (directory / name).chmod(stat.S_IRWXU)
    return directory


def test_a_start_that_finds_ports_taken_tries_others_then_tells_the_reason(tmp_path, binaries):
    plane = ControlPlane(tmp_path / "cp", binaries=binaries)
    with pytest.raises(ControlPlaneError, match=r"did not start: .*address already in use"):
        plane.start()
    runs = sorted((tmp_path / "cp").glob("run-*"))
    assert len(runs) == 3
    assert len({(run / "info.json").read_text() for run in runs}) == 3
    plane.stop()


def test_other_failures_are_not_tried_again(tmp_path, binaries):
    for name in PROGRAMS:
        (binaries / name).write_text("#!/bin/sh\nexec sleep 60\n")
    (binaries / "etcd").write_text("#!/bin/sh\necho disk on fire\nexit 1\n")
    plane = ControlPlane(tmp_path / "cp", binaries=binaries)
    with pytest.raises(ControlPlaneError, match=r"etcd ended with 1 during the start: disk on fire"):
        plane.start()
    assert len(list((tmp_path / "cp").glob("run-*"))) == 1


def test_a_start_that_takes_too_long_leaves_no_process(tmp_path, binaries):
    for name in PROGRAMS:
        (binaries / name).write_text("#!/bin/sh\nexec sleep 60\n")
    plane = ControlPlane(tmp_path / "cp", binaries=binaries)
    pids = []
    original = plane._wait_ready

    def wait_ready(run, supervisor, deadline):
        files = [run / "etcd.pid", run / "kube-apiserver.pid"]  # the others wait for the API server
        wait_for(lambda: all(path.exists() for path in files), "the programs", timeout_s=60)
        pids.extend(int(path.read_text()) for path in files)
        original(run, supervisor, time.monotonic())

    plane._wait_ready = wait_ready
    with pytest.raises(ControlPlaneError, match="not ready in time"):
        plane.start()
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


def test_what_needs_a_start_says_so(tmp_path):
    plane = ControlPlane(tmp_path / "cp", binaries=tmp_path)
    with pytest.raises(ControlPlaneError, match="is not started"):
        os.fspath(plane.kubeconfig)
    plane.stop()
