"""An engine that stops and comes back, and containers that run on without our process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from support.child import dies_with_parent
from support.engine import _make_bridge as make_bridge
from support.engine import remove_tree
from support.images import BUSYBOX_IMAGE, load_test_images
from support.waiting import wait_for
from vkprovider.backends.docker.config import DockerConfig
from vkprovider.backends.docker.runtime import DockerRuntime
from vkprovider.errors import TransientError
from vkprovider.provider import LogOptions, cri

pytestmark = [
    pytest.mark.docker,
    # Of the SDK, which leaves a socket to the collector when the engine does not answer.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(
        shutil.which("dockerd") is None or os.geteuid() != 0, reason="needs root and a dockerd of its own"
    ),
]


class OwnEngine:
    """A dockerd that a test may stop and start."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.host = f"unix://{work}/docker.sock"
        self.bridge = make_bridge()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.work / "daemon.json").write_text("{}")
        with (self.work / "log").open("ab") as log:
            self._process = subprocess.Popen(
                dies_with_parent(
                    [
                        "dockerd",
                        f"--data-root={self.work}/data",
                        f"--exec-root={self.work}/exec",
                        f"--pidfile={self.work}/pid",
                        f"--host={self.host}",
                        f"--config-file={self.work}/daemon.json",
                        # A bridge of its own: with none, dockerd would remove the bridge of the engine that runs already.
                        f"--bridge={self.bridge}",
                        "--iptables=false",
                        "--ip-masq=false",
                    ],
                    by=signal.SIGTERM,
                ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self.work / "log").read_text()[-2000:]
            try:
                with socket.socket(socket.AF_UNIX) as probe:  # the SDK leaves a socket open that cannot be connected
                    probe.connect(self.host.removeprefix("unix://"))
                with contextlib.closing(docker.APIClient(base_url=self.host, version="1.41", timeout=5)) as client:
                    return bool(client.ping())
            except (docker.errors.DockerException, OSError):
                return False

        wait_for(answers, "the engine to answer", timeout_s=60)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None


@pytest.fixture
def own_engine() -> Iterator[OwnEngine]:
    work = Path(tempfile.mkdtemp(prefix="vkt-engine-"))  # short: paths of sockets may have 107 bytes
    engine = OwnEngine(work)
    try:
        engine.start()
        with contextlib.closing(docker.APIClient(base_url=engine.host, version="1.41")) as client:
            load_test_images(client)
        yield engine
    finally:
        engine.stop()
        gc.collect()  # while the warnings of the SDK's sockets are expected
        subprocess.run(["ip", "link", "delete", engine.bridge], capture_output=True)
        remove_tree(work)


@pytest.mark.timeout(180)
async def test_runtime_comes_back_with_the_engine(own_engine):
    runtime = DockerRuntime(DockerConfig(host=own_engine.host), sandbox_image="127.0.0.1:1/pause:1")
    await runtime.connect()
    events = runtime.container_events({})
    waiting = asyncio.create_task(anext(events))
    try:
        assert await runtime.list_pod_sandboxes() == []
        config = cri.PodSandboxConfig(
            cri.PodSandboxMetadata("p", "uid", "default"),
            linux=cri.LinuxPodSandboxConfig(
                security_context=cri.LinuxSandboxSecurityContext(
                    namespaces=cri.NamespaceOption(network=cri.NamespaceMode.NODE)
                )
            ),
        )
        sandbox_id = await runtime.run_pod_sandbox(config)
        container = cri.ContainerConfig(
            cri.ContainerMetadata("c"), cri.ImageSpec(BUSYBOX_IMAGE), command=("sleep", "1000")
        )
        container_id = await runtime.create_container(sandbox_id, container, config)
        await runtime.start_container(container_id)
        await waiting
        waiting = asyncio.create_task(_drain(events))
        follower = asyncio.create_task(_drain(runtime.container_logs(container_id, LogOptions(follow=True))))
        stopper = asyncio.create_task(runtime.stop_container(container_id, grace_period_s=100))
        await asyncio.sleep(0.5)

        await asyncio.to_thread(own_engine.stop)
        for task in (waiting, follower, stopper):
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            assert outcome is None or isinstance(outcome, TransientError), outcome
        assert isinstance(waiting.exception(), TransientError)
        with pytest.raises(TransientError, match="failed to list containers: no answer from the engine"):
            await runtime.list_containers()
        with pytest.raises(TransientError):
            await runtime.status()

        await asyncio.to_thread(own_engine.start)
        (sandbox,) = await runtime.list_pod_sandboxes()
        assert (sandbox.id, sandbox.state) == (sandbox_id, cri.SandboxState.NOT_READY)
        status = await runtime.container_status(container_id)
        assert status.state is cri.ContainerState.EXITED
        await runtime.remove_pod_sandbox(sandbox_id)
        assert await runtime.list_containers() == []
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
        await runtime.aclose()


async def _drain(stream) -> None:
    async for _ in stream:
        pass
