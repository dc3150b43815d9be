"""vkprovider as a process of its own: started, killed, stopped, started again, as an operator would."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from support.child import dies_with_parent
from support.ports import free_port, host_ip
from support.supervisor import Check

STOP_TIMEOUT_S = 30.0


class AgentError(Exception):
    """The agent did not do what it was told; the text has the end of its log."""


class VkproviderAgent:
    """One ``vkprovider run``. After a stop or a kill, ``start`` starts it again with the same files.

    Start it from the main thread: it is killed when the thread that started it ends.

    Args:
        kubeconfig: How it reaches the cluster, and how readiness is looked up; with certificate files, as
            ``support.controlplane`` writes them.
        node_name: Name of its node.
        directory: Its root directory, and its log; made if absent.
        provider: Name of the provider.
        provider_config: Contents of the provider's configuration file.
        config: Contents of the KubeletConfiguration file.
        default_taint: Whether the node keeps other pods away.
        arguments: Further arguments.
        environment: Further environment variables.
    """

    def __init__(
        self,
        kubeconfig: Path,
        node_name: str,
        *,
        directory: Path,
        provider: str = "docker",
        provider_config: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        default_taint: bool = False,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.kubeconfig = kubeconfig
        self.node_name = node_name
        self.directory = directory.absolute()
        self.port = free_port(host="0.0.0.0")
        self.healthz_port = free_port()
        self.log_path = self.directory / "vkprovider.log"
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.directory.mkdir(parents=True, exist_ok=True)
        self._command = [
            # -P: the package that is installed, not one that happens to lie in the working directory.
            *(sys.executable, "-P", "-m", "vkprovider", "run"),
            f"--kubeconfig={kubeconfig}",
            f"--node-name={node_name}",
            f"--provider={provider}",
            f"--root-dir={self.directory / 'root'}",
            f"--listen=0.0.0.0:{self.port}",
            f"--healthz-listen=127.0.0.1:{self.healthz_port}",
            f"--node-ip={host_ip()}",
            "--verbosity=4",
        ]
        if not default_taint:
            self._command.append("--no-default-taint")
        for flag, content in (("--provider-config", provider_config), ("--config", config)):
            if content is not None:
                path = self.directory / f"{flag.strip('-')}.yaml"
                path.write_text(yaml.safe_dump({**_HEADS.get(flag, {}), **content}))
                self._command.append(f"{flag}={path}")
        self._command += arguments

    def start(self) -> None:
        """Start the process; returns at once. Its log is added to that of earlier runs.

        Raises:
            AgentError: It runs already.
        """
        if self.is_running:
            raise AgentError(f"the agent of node {self.node_name} runs already, as process {self.pid}")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                dies_with_parent(self._command),
                cwd=self.directory,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        if self._process is None:
            raise AgentError(f"the agent of node {self.node_name} was never started")
        return self._process.pid

    def kill9(self) -> None:
        """SIGKILL, and wait for the end. What it started goes on: that is the point."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """SIGTERM, and wait for the end. Safe to repeat.

        Args:
            timeout_s: Seconds it may take; then it is killed.

        Returns:
            The exit code, negative for a signal; None if it was never started.

        Raises:
            AgentError: It had to be killed.
        """
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                self.kill9()
                raise AgentError(
                    f"the agent of node {self.node_name} did not end within {timeout_s:g} s of SIGTERM: {self._tail()}"
                ) from None
        return self._process.returncode

    def wait_exit(self, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait until it ends by itself and return the exit code.

        Raises:
            AgentError: It goes on.
        """
        if self._process is None:
            raise AgentError(f"the agent of node {self.node_name} was never started")
        try:
            return self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise AgentError(f"the agent of node {self.node_name} still runs after {timeout_s:g} s") from None

    def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        """Wait until the API server says that the node is Ready, by a report since this start.

        Raises:
            AgentError: The process ended, or the node is not Ready in time.
        """
        deadline = time.monotonic() + timeout_s
        check = self._node_check()
        while (seen := self._look_ready(check)) is not None:
            self._check_running(seen)
            if time.monotonic() > deadline:
                raise AgentError(f"node {self.node_name} is not Ready after {timeout_s:g} s: {seen}; {self._tail()}")
            time.sleep(0.1)

    async def ready(self, *, timeout_s: float = 60.0) -> None:
        """``wait_ready`` for async tests."""
        await asyncio.to_thread(self.wait_ready, timeout_s=timeout_s)

    def log(self) -> str:
        """What it wrote, over all starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def healthz(self) -> int:
        """Status code of the unauthenticated health endpoint.

        Raises:
            OSError: No answer.
        """
        return Check(f"http://127.0.0.1:{self.healthz_port}/healthz").get()[0]

    def cpu_s(self) -> float:
        """Seconds of CPU that the running process has used."""
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Memory that the running process holds."""
        with open(f"/proc/{self.pid}/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _node_check(self) -> Check:
        content = yaml.safe_load(self.kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        url = f"{cluster['server']}/api/v1/nodes/{self.node_name}"
        return Check(url, cluster["certificate-authority"], user["client-certificate"], user["client-key"])

    def _look_ready(self, check: Check) -> str | None:
        """None when the node is Ready; else what is seen instead."""
        try:
            status, body = check.get()
        except (OSError, http.client.HTTPException) as error:
            return f"the API server does not answer ({error})"
        if status != 200:
            return f"GET of the node is answered {status}"
        conditions = {c["type"]: c for c in json.loads(body).get("status", {}).get("conditions") or ()}
        ready = conditions.get("Ready")
        if ready is None:
            return "it has no condition Ready"
        if ready["status"] != "True":
            return f"Ready is {ready['status']}: {ready.get('reason')}: {ready.get('message')}"
        return None

    def _check_running(self, seen: str) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise AgentError(
                f"the agent of node {self.node_name} ended with {self._process.returncode} before its node was Ready "
                f"({seen}): {self._tail()}"
            )

    def _tail(self) -> str:
        return "its log ends: " + (" | ".join(self.log().strip().splitlines()[-8:]) or "(empty)")


_HEADS: dict[str, dict[str, str]] = {
    "--config": {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
}
