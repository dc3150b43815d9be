"""``vkprovider quickstart``: a local cluster, a node and a demo pod on a machine with nothing set up.

Lifetime: everything it starts lives in this process and in one directory, and is taken away at the end; with a data
directory the cluster's state stays, and a new start continues it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vkprovider.aio.tasks import cancel_and_wait, innermost
from vkprovider.app import Node
from vkprovider.errors import KubeAPIError, TransientError, VkproviderError
from vkprovider.kube.client import KubeClient
from vkprovider.kube.credentials import load_credentials
from vkprovider.localcluster import LocalCluster
from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.provider.cri import ImageSpec
from vkprovider.provider.registry import ProviderOptions, load_factory
from vkprovider.settings import ClusterSettings, NodeSettings, ServerSettings, Settings

NODE_NAME = "quickstart"
NAMESPACE = "default"
POD_NAME = "hello"
PODS_PATH = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEMO_IMAGE = "busybox:1.37"
DEMO_SCRIPT = 'echo "Hello from $HOSTNAME, a pod on a vkprovider node"; exec sleep 86400'
PULL_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class QuickstartOptions:
    """What ``vkprovider quickstart`` was asked for.

    Attributes:
        provider: ``auto``, ``docker`` or ``memory``.
        once: End after the demo pod ran, its log was shown and all was removed.
        data_dir: Where the cluster's state is kept; None for a temporary directory.
        image: Image of the demo pod, which must bring its own program; None for the built-in demo.
        timeout_s: Seconds until giving up on the demo pod.
    """

    provider: str = "auto"
    once: bool = False
    data_dir: Path | None = None
    image: str | None = None
    timeout_s: float = 120.0


async def run_quickstart(options: QuickstartOptions, stop: asyncio.Event, console: Console | None = None) -> int:
    """Start everything, show the demo pod's log, wait for ``stop`` (or not, with ``once``), and clean up.

    Returns:
        0 when the demo pod ran, 1 when told to stop before.

    Raises:
        ConfigurationError: The provider asked for cannot work here.
        TransientError: The demo pod did not run in time.
    """
    out = _Progress(console or Console(highlight=False))
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(_directory(options.data_dir))
        provider, runtime = await _choose_provider(options, directory, out)
        out.say(f"provider: [bold]{provider}[/]")
        cluster = await stack.enter_async_context(
            LocalCluster(directory / "cluster", state_file=directory / "state.db" if options.data_dir else None)
        )
        out.say(f"API server on {cluster.url} (vkprovider's own, for development and trying out)")
        client = await stack.enter_async_context(KubeClient(await load_credentials(cluster.kubeconfig_path)))
        node = Node(_make_settings(cluster, directory, provider), runtime)
        await stack.enter_async_context(_running(node))
        if not await _until(node.ready.wait(), stop, options.timeout_s, "the node did not become ready"):
            return 1
        out.say(f"node [bold]{NODE_NAME}[/] is Ready")
        image, command = await _choose_image(options, provider, runtime, out)
        async with _demo_pod(client, image, command, keep=bool(options.data_dir) and not options.once):
            ran = await _until(_wait_running(client, out), stop, options.timeout_s, "the demo pod did not run")
            if ran:
                await _show_log(client, out)
            if ran and not options.once:
                _print_instructions(cluster.kubeconfig_path, options, out)
                await stop.wait()
                out.say("stopping")
        if not options.data_dir:
            await _delete_all_pods(client)
    out.say("all is removed" if not options.data_dir else f"state is kept in {directory}")
    return 0 if ran else 1


class _Progress:
    """Lines with the seconds since the start in front."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began_at = time.monotonic()

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self._began_at:5.1f}s[/] {text}", soft_wrap=True)


@contextlib.contextmanager
def _directory(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield data_dir.resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="vkprovider-quickstart-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _choose_provider(options: QuickstartOptions, directory: Path, out: _Progress) -> tuple[str, ContainerRuntime]:
    """The provider asked for; with ``auto`` Docker if an engine answers, else memory, saying why."""

    def create(name: str) -> ContainerRuntime:
        runtime = load_factory(name).create(ProviderOptions(node_name=NODE_NAME, root_dir=directory))
        if not isinstance(runtime, ContainerRuntime):
            raise TransientError(f"provider {name} is no container runtime")
        return runtime

    if options.provider != "auto":
        return options.provider, create(options.provider)
    probe = create("docker")
    try:
        async with asyncio.timeout(5.0):
            await probe.connect()
            version = await probe.version()
    except (VkproviderError, TimeoutError) as error:
        reason = str(error) or "it does not answer"
        out.say(f"no Docker Engine ({escape(reason)}): pods are simulated in memory")
        return "memory", create("memory")
    finally:
        await probe.aclose()
    out.say(f"Docker Engine {version.runtime_version} answers: pods are real containers")
    return "docker", create("docker")


def _make_settings(cluster: LocalCluster, directory: Path, provider: str) -> Settings:
    return Settings(
        node=NodeSettings(name=NODE_NAME, ips=("127.0.0.1",), default_taint=False),
        cluster=ClusterSettings(kubeconfig=cluster.kubeconfig_path),
        server=ServerSettings(address="127.0.0.1", port=0, client_ca_file=cluster.client_ca_path),
        provider=provider,
        root_dir=directory / "node",
    )


@contextlib.asynccontextmanager
async def _running(node: Node) -> AsyncIterator[None]:
    """Run a node in the background; if it fails, whatever waits inside is cancelled and the failure raised."""
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(node.run(stop), name="quickstart:node")
            try:
                yield
            finally:
                stop.set()
                await asyncio.wait({running})
    except BaseExceptionGroup as group_error:
        raise innermost(group_error) from group_error


async def _choose_image(
    options: QuickstartOptions, provider: str, runtime: ContainerRuntime, out: _Progress
) -> tuple[str, list[str] | None]:
    """Image and command of the demo pod: what was asked for, else busybox if it can be had, else one made here."""
    if options.image is not None:
        return options.image, None
    script = ["sh", "-c", DEMO_SCRIPT]
    if provider != "docker" or await runtime.images.find_image(ImageSpec(DEMO_IMAGE)) is not None:
        return DEMO_IMAGE, script
    out.say(f"pulling image {DEMO_IMAGE}")
    try:
        async with asyncio.timeout(PULL_TIMEOUT_S):
            await runtime.images.pull_image(ImageSpec(DEMO_IMAGE))
    except (VkproviderError, TimeoutError) as error:
        reason = str(error) or f"no answer within {PULL_TIMEOUT_S:g} s"
        # Imported here: only this path needs the Docker SDK.
        from vkprovider.backends.docker import infra_image
        from vkprovider.backends.docker.images import DockerImages

        if not isinstance(runtime.images, DockerImages):
            raise
        await infra_image.ensure_demo_image(runtime.images)
        out.say(f"it cannot be had ({escape(reason)}): a tiny image made on the engine takes its place")
        return infra_image.DEMO_IMAGE, None
    return DEMO_IMAGE, script


@contextlib.asynccontextmanager
async def _demo_pod(
    client: KubeClient, image: str, command: list[str] | None, *, keep: bool
) -> AsyncIterator[Mapping[str, Any]]:
    container: dict[str, Any] = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
    if command is not None:
        container["command"] = command
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD_NAME, "namespace": NAMESPACE, "labels": {"app": POD_NAME}},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
        },
    }
    try:
        created = await client.request("POST", PODS_PATH, body=pod)
    except KubeAPIError as error:
        if not error.is_already_exists:
            raise
        created = await client.request("GET", f"{PODS_PATH}/{POD_NAME}")
    try:
        yield created
    finally:
        if not keep:
            await _delete_pod(client, NAMESPACE, POD_NAME)


async def _wait_running(client: KubeClient, out: _Progress) -> None:
    said = ""
    while True:
        pod = await client.request("GET", f"{PODS_PATH}/{POD_NAME}")
        status = pod.get("status") or {}
        text = _describe_status(status)
        if text != said:
            out.say(f"pod [bold]{POD_NAME}[/]: {escape(text)}")
            said = text
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        if ready or status.get("phase") == "Succeeded":
            return
        if status.get("phase") == "Failed":
            raise TransientError(f"the demo pod failed: {status.get('message') or text}")
        await asyncio.sleep(0.1)


def _describe_status(status: Mapping[str, Any]) -> str:
    phase = status.get("phase", "Pending")
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason"):
            message = waiting.get("message")
            return f"{phase}, {waiting['reason']}{': ' + message if message else ''}"
    return str(phase)


async def _show_log(client: KubeClient, out: _Progress) -> None:
    """Print the pod's log, read through the API server and the node's kubelet API as kubectl does."""
    text = ""
    for _ in range(50):
        text = await client.request_text("GET", f"{PODS_PATH}/{POD_NAME}/log")
        if text:
            break
        await asyncio.sleep(0.1)
    out.say(f"log of pod [bold]{POD_NAME}[/]:")
    for line in text.splitlines():
        out.console.print(f"       [green]{escape(line)}[/]")


def _print_instructions(kubeconfig: Path, options: QuickstartOptions, out: _Progress) -> None:
    out.console.print(
        f"\nThe cluster is yours until Ctrl-C. In another terminal:\n\n"
        f"  export KUBECONFIG={kubeconfig}\n"
        f"  kubectl get nodes,pods -o wide\n"
        f"  kubectl run mine --image={options.image or DEMO_IMAGE} --restart=Never -- sleep 3600\n"
    )


async def _delete_all_pods(client: KubeClient) -> None:
    pods = await client.request("GET", "/api/v1/pods")
    await asyncio.gather(
        *(_delete_pod(client, pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods["items"])
    )


async def _delete_pod(client: KubeClient, namespace: str, name: str, *, timeout_s: float = 30.0) -> None:
    """Delete a pod with a short grace period and wait until it is gone, for ``timeout_s`` seconds at most."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    try:
        await client.request(
            "DELETE", path, body={"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 2}
        )
        async with asyncio.timeout(timeout_s):
            while True:
                await client.request("GET", path)
                await asyncio.sleep(0.05)
    except KubeAPIError as error:
        if not error.is_not_found:
            raise
    except TimeoutError as error:
        raise TransientError(f"pod {namespace}/{name} is still there after {timeout_s:g} s") from error


async def _until(waiting: Coroutine[Any, Any, Any], stop: asyncio.Event, timeout_s: float, failure: str) -> bool:
    """Wait for something; False if told to stop first.

    Raises:
        TransientError: It did not come in time.
    """
    tasks = [
        asyncio.create_task(waiting, name="quickstart:wait"),
        asyncio.create_task(stop.wait(), name="quickstart:stop"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise TransientError(f"{failure} within {timeout_s:g} s")
        if tasks[0] in done:
            tasks[0].result()
        return tasks[0] in done
    finally:
        await cancel_and_wait(tasks)
