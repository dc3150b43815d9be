"""``vkprovider check``: could a node run here? Each answer is printed as it comes, with what to do about a bad one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rich.console import Console
from rich.markup import escape

from vkprovider.errors import KubeAPIError, TransientError, VkproviderError
from vkprovider.kube.client import KubeClient
from vkprovider.kube.cluster import get_server_version
from vkprovider.kube.credentials import load_credentials
from vkprovider.kube.reviews import REQUIRED_ACCESS, ResourceAttributes, ReviewClient
from vkprovider.provider.container_runtime import (
    ContainerRuntime,
    HostInfo,
    RuntimeEvents,
    RuntimeStats,
    StreamingRuntime,
)
from vkprovider.provider.registry import ProviderOptions, load_factory
from vkprovider.settings import Settings

TIMEOUT_S = 20.0

_ABILITIES: tuple[tuple[type[object], str], ...] = (
    (RuntimeEvents, "events"),
    (StreamingRuntime, "exec, attach and port-forward"),
    (RuntimeStats, "stats"),
)


async def run_check(settings: Settings, console: Console | None = None) -> bool:
    """Check the cluster and the provider, printing what is found.

    Args:
        settings: Of the node that would run.
        console: Where to print; standard output by default.

    Returns:
        Whether a node could run: the cluster answers, nothing needed is forbidden, and the provider is well.
    """
    out = console or Console(highlight=False)
    report = _Report(out)
    await report.section("Cluster", lambda: _check_cluster(settings, report))
    await report.section(f"Provider {settings.provider}", lambda: _check_provider(settings, report))
    out.print("[green]A node can run here.[/]" if report.ok else "[red]A node cannot run here yet.[/]")
    return report.ok


class _Report:
    def __init__(self, console: Console) -> None:
        self._console = console
        self.ok = True

    def good(self, text: str) -> None:
        self._console.print(f"  [green]ok[/]    {escape(text)}", soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(f"  [yellow]note[/]  {escape(text)}", soft_wrap=True)

    def bad(self, text: str) -> None:
        self.ok = False
        self._console.print(f"  [red]FAIL[/]  {escape(text)}", soft_wrap=True)

    async def section(self, title: str, check: Callable[[], Awaitable[None]]) -> None:
        self._console.print(f"[bold]{escape(title)}[/]")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await check()
        except VkproviderError as error:
            self.bad(str(error))
        except TimeoutError:
            self.bad(f"no answer within {TIMEOUT_S:g} s")


async def _check_cluster(settings: Settings, report: _Report) -> None:
    credentials = await load_credentials(settings.cluster.kubeconfig, settings.cluster.context)
    async with KubeClient(credentials, settings.cluster) as client:
        report.good(f"API server {credentials.server} answers, version {await get_server_version(client)}")
        reviews = ReviewClient(client)
        try:
            answers = await asyncio.gather(*(reviews.review_own_access(access) for access in REQUIRED_ACCESS))
        except (KubeAPIError, TransientError) as error:
            report.bad(f"permissions cannot be asked for: {error}")
            return
        missing = [access for access, (allowed, _) in zip(REQUIRED_ACCESS, answers, strict=True) if not allowed]
        for access in missing:
            report.bad(f"not allowed: {_describe_access(access)}")
        report.good(f"{len(REQUIRED_ACCESS) - len(missing)} of {len(REQUIRED_ACCESS)} permissions are there")


def _describe_access(access: ResourceAttributes) -> str:
    resource = f"{access.resource}/{access.subresource}" if access.subresource else access.resource
    group = f".{access.group}" if access.group else ""
    where = f" in namespace {access.namespace}" if access.namespace else ""
    return f"{access.verb} {resource}{group}{where}"


async def _check_provider(settings: Settings, report: _Report) -> None:
    provider = load_factory(settings.provider).create(
        ProviderOptions(
            node_name=settings.node.name,
            root_dir=settings.root_dir,
            config=settings.provider_config,
            pod_infra_container_image=settings.pod_infra_container_image,
        )
    )
    if not isinstance(provider, ContainerRuntime):
        report.note("runs whole pods; it is asked nothing before a node starts")
        return
    await provider.connect()
    try:
        await _check_runtime(provider, report)
    finally:
        await provider.aclose()


async def _check_runtime(runtime: ContainerRuntime, report: _Report) -> None:
    version = await runtime.version()
    report.good(f"{version.runtime_name} {version.runtime_version} answers, API {version.runtime_api_version}")
    for condition in (await runtime.status()).conditions:
        text = f"{condition.type}{': ' + condition.message if condition.message else ''}"
        (report.good if condition.status else report.bad)(text)
    if isinstance(runtime, HostInfo):
        host = await runtime.host_resources()
        report.good(
            f"{host.cpu_cores} cores, {host.memory_bytes // 2**20} MiB memory, {host.operating_system}/{host.architecture},"
            f" {host.os_image or 'unknown system'}, kernel {host.kernel_version or 'unknown'}"
        )
    for kind, what in _ABILITIES:
        if isinstance(runtime, kind):
            report.good(f"offers {what}")
        else:
            report.note(f"does not offer {what}")
