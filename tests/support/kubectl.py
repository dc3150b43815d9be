"""A real kubectl against some API server."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.child import dies_with_parent


class KubectlError(Exception):
    """kubectl ended with another code than 0, or did not end in time.

    Attributes:
        returncode: Its exit code; None when it was killed because the time was over.
        stdout: What it wrote.
        stderr: What it complained of.
    """

    def __init__(self, command: Sequence[str], returncode: int | None, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        how = "did not end in time" if returncode is None else f"ended with {returncode}"
        super().__init__(
            f"kubectl {shlex.join(command)} {how}: {stderr.strip() or stdout.strip() or 'it said nothing'}"
        )


class Kubectl:
    """kubectl with one kubeconfig. Nothing of the user's own configuration is read, and nothing written to it.

    Args:
        kubeconfig: The kubeconfig file; kubectl's caches go beside it.
        binary: The kubectl to run.
        namespace: Namespace of all commands that do not name one; None for the kubeconfig's.
    """

    def __init__(self, kubeconfig: Path, binary: Path, *, namespace: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.binary = binary
        self.namespace = namespace

    def in_namespace(self, namespace: str) -> Kubectl:
        """The same kubectl in another namespace."""
        return Kubectl(self.kubeconfig, self.binary, namespace=namespace)

    def run(self, *arguments: str, input: str | None = None, timeout: float = 60.0) -> str:
        """Run a command to its end and return what it wrote.

        Args:
            arguments: Arguments, such as ``"get", "pods"``.
            input: Text for its standard input.
            timeout: Seconds it may take.

        Raises:
            KubectlError: It failed or took too long; the text has its complaint.
        """
        try:
            done = subprocess.run(
                self.command(*arguments),
                env=self._environment(),
                input=input if input is not None else "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(arguments, None, _text(error.stdout), _text(error.stderr)) from None
        if done.returncode != 0:
            raise KubectlError(arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    async def arun(self, *arguments: str, input: str | None = None, timeout: float = 60.0) -> str:
        """``run`` for async tests; if cancelled, kubectl is killed."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate((input or "").encode())
        except TimeoutError:
            raise KubectlError(arguments, None, "", "") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise KubectlError(arguments, process.returncode, _text(out), _text(err))
        return _text(out)

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command that goes on, such as ``logs -f``; text pipes unless options say otherwise. Call it from the
        main thread; use it as a context manager, and kill it there.
        """
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **options,
        }
        return subprocess.Popen(dies_with_parent(self.command(*arguments)), env=self._environment(), **options)

    def get(self, *arguments: str, timeout: float = 60.0) -> Any:
        """``kubectl get ... -o json``, parsed."""
        return json.loads(self.run("get", *arguments, "-o", "json", timeout=timeout))

    async def aget(self, *arguments: str, timeout: float = 60.0) -> Any:
        """``get`` for async tests."""
        return json.loads(await self.arun("get", *arguments, "-o", "json", timeout=timeout))

    def apply(self, *objects: dict[str, Any]) -> str:
        """``kubectl apply`` of some objects."""
        return self.run("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    async def aapply(self, *objects: dict[str, Any]) -> str:
        """``apply`` for async tests."""
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        return await self.arun("apply", "-f", "-", input=json.dumps(items))

    def command(self, *arguments: str) -> list[str]:
        """The whole command line."""
        command = [
            str(self.binary),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.kubeconfig.parent / 'kubectl-cache'}",
        ]
        if self.namespace is not None:
            command.append(f"--namespace={self.namespace}")
        return [*command, *arguments]

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
        # Its own preferences file (~/.kube/kuberc) would change what commands do.
        return {**environment, "KUBERC": "off"}


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""
