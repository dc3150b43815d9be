"""A real control plane for benchmarks, until Ctrl-C: ``PYTHONPATH=tests python benchmarks/control_plane.py [DIRECTORY]``."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from support.controlplane import ControlPlane


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="vkprovider-bench-"))
    with ControlPlane(directory) as plane:
        print(plane.kubeconfig, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
