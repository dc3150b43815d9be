"""The command line: arguments to settings, signals, exit codes.

Exit codes: 0 all went well; 1 something failed while running; 2 bad arguments or configuration, nothing was started;
3 another live process runs a node of this name.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from vkprovider._version import __version__
from vkprovider.configuration import (
    parse_ip,
    parse_label,
    parse_listen_address,
    parse_taint,
    read_kubelet_configuration,
    read_yaml_mapping,
)
from vkprovider.errors import ConfigurationError, NodeNameTakenError, VkproviderError
from vkprovider.logs import configure_logging
from vkprovider.settings import KUBELET_VERSION, NodeSettings, Settings

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NAME_TAKEN = 3

logger = logging.getLogger(__name__)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """A parameter read by a function that raises ValueError for bad text."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value, or a usage error that names the parameter."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_node_name(text: str) -> str:
    name = text.strip().lower()
    if len(name) > 253 or not _NODE_NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not a node name; use lower-case letters, digits, '-' and '.'")
    return name


NODE_NAME = _Parsed("name", _parse_node_name)
LISTEN = _Parsed("address:port", parse_listen_address)
IP = _Parsed("ip", parse_ip)
TAINT = _Parsed("key=value:effect", parse_taint)
LABEL = _Parsed("key=value", parse_label)
FILE = click.Path(dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)


def _cluster_options(command: F) -> F:
    for option in (
        click.option("--context", metavar="NAME", help="Context of the kubeconfig; its current one by default."),
        click.option(
            "--kubeconfig",
            type=FILE,
            envvar="KUBECONFIG",
            show_envvar=True,
            help="How to reach the cluster. Without it, the configuration of the pod this process runs in.",
        ),
    ):
        command = option(command)
    return command


def _provider_options(command: F) -> F:
    for option in (
        click.option(
            "--pod-infra-container-image",
            metavar="IMAGE",
            help="Image of the containers that hold a pod's namespaces. If it cannot be pulled a tiny one is made "
            "on the engine.",
        ),
        click.option("--docker-network", metavar="NETWORK", help="Network of the Docker Engine that pods join."),
        click.option("--provider-config", type=FILE, help="Configuration file of the provider (YAML)."),
        click.option(
            "--provider",
            default="docker",
            show_default=True,
            metavar="NAME",
            help="What runs the pods: docker, memory, or one that a package installed (see 'vkprovider providers').",
        ),
    ):
        command = option(command)
    return command


_VERBOSITY = click.option(
    "-v",
    "--verbosity",
    type=click.IntRange(0, 10),
    default=2,
    show_default=True,
    help="How much to log: 0 warnings, 2 what happens, 4 details, 6 everything.",
)
_LOG_FORMAT = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of log lines."
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Try it with nothing set up: vkprovider quickstart",
)
@click.version_option(__version__, prog_name="vkprovider", message="%(prog)s %(version)s")
def cli() -> None:
    """Turn anything able to run a container into a Kubernetes node."""


@cli.command()
@_cluster_options
@click.option("--node-name", type=NODE_NAME, help="Name of the node; this host's name by default.")
@_provider_options
@click.option(
    "--config", type=FILE, help=f"KubeletConfiguration (kubelet.config.k8s.io/v1beta1), as of {KUBELET_VERSION}."
)
@click.option(
    "--root-dir",
    type=DIRECTORY,
    help="Directory of this node's files. [default: /var/lib/vkprovider/<node> for root, "
    "~/.local/state/vkprovider/<node> for others]",
)
@click.option("--listen", type=LISTEN, help="Where the kubelet API listens. [default: 0.0.0.0:10250]")
@click.option("--healthz-listen", type=LISTEN, help="Where the health endpoint listens, plain HTTP; off by default.")
@click.option("--node-ip", "node_ips", type=IP, multiple=True, help="InternalIP of the node; once per family.")
@click.option("--node-label", "--node-labels", "labels", type=LABEL, multiple=True, help="Label to add; repeatable.")
@click.option("--register-with-taints", "taints", type=TAINT, multiple=True, help="Taint to register with; repeatable.")
@click.option(
    "--no-default-taint", is_flag=True, help="Leave out the taint virtual-kubelet.io/provider=<provider>:NoSchedule."
)
@click.option("--exclude-from-load-balancers", is_flag=True, help="Label the node so that load balancers leave it out.")
@click.option(
    "--client-ca-file", type=FILE, help="CA of client certificates; by default the cluster's own, followed live."
)
@click.option("--tls-cert-file", type=FILE, help="Serving certificate; self-signed and rotated by default.")
@click.option("--tls-private-key-file", type=FILE, help="Key of the serving certificate.")
@click.option("--delete-node-on-exit", is_flag=True, help="Delete the Node object on a clean exit.")
@click.option("--standby", is_flag=True, help="If another live process runs this node, wait for its end.")
@_VERBOSITY
@_LOG_FORMAT
def run(**options: Any) -> None:
    """Run a node of a cluster until told to stop.

    Pods keep running when this process ends; the next one of the same node name and root directory adopts them.

    \b
    Examples:
      vkprovider run --kubeconfig ~/.kube/config --node-name edge-1
      vkprovider run --kubeconfig f --node-name n1 --provider memory --no-default-taint
      vkprovider run --node-name n1 --config kubelet.yaml      (inside a pod)
    """
    settings = _checked(lambda: build_settings(options))
    configure_logging(options["verbosity"], options["log_format"])
    from vkprovider.app import run_node

    _execute(lambda stop: run_node(settings, stop))


@cli.command()
@click.option(
    "--provider",
    type=click.Choice(["auto", "docker", "memory"]),
    default="auto",
    show_default=True,
    help="What runs the pods; auto takes Docker when an engine answers.",
)
@click.option(
    "--once", is_flag=True, help="End by itself after the demo pod ran, its log was shown and all was removed."
)
@click.option("--data-dir", type=DIRECTORY, help="Keep the cluster's state here; a new start continues it.")
@click.option("--image", metavar="IMAGE", help="Image of the demo pod.")
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds until giving up."
)
@click.option(
    "-v", "--verbosity", type=click.IntRange(0, 10), default=0, show_default=True, help="How much to log on stderr."
)
def quickstart(**options: Any) -> None:
    """Start a local cluster, a node and a demo pod: nothing else is needed.

    The cluster is vkprovider's own small API server, made for development and trying out.
    """
    configure_logging(options.pop("verbosity"), "text")
    from vkprovider.quickstart import QuickstartOptions, run_quickstart

    quickstart_options = QuickstartOptions(
        provider=options["provider"],
        once=options["once"],
        data_dir=options["data_dir"],
        image=options["image"],
        timeout_s=options["timeout"],
    )
    _execute(lambda stop: run_quickstart(quickstart_options, stop))


@cli.command()
@_cluster_options
@click.option("--node-name", type=NODE_NAME, help="Name of the node; this host's name by default.")
@_provider_options
def check(**options: Any) -> None:
    """Say whether a node could run here: cluster reachable, permissions, engine and what it can do."""
    configure_logging(0, "text")
    settings = _checked(lambda: build_settings(options))
    from vkprovider.check import run_check

    if not asyncio.run(run_check(settings)):
        sys.exit(EXIT_FAILED)


@cli.command()
def providers() -> None:
    """List the providers that are installed."""
    from vkprovider.provider.registry import list_providers, load_factory

    for name, entry_point in list_providers().items():
        try:
            description = load_factory(name).description
        except VkproviderError as error:
            description = f"unusable: {error}"
        click.echo(f"{name:<12} {description}  ({entry_point.value})")


@cli.command()
def version() -> None:
    """Print the version, and the kubelet whose behaviour is reproduced."""
    click.echo(f"vkprovider {__version__} (kubelet {KUBELET_VERSION})")


def build_settings(options: dict[str, Any]) -> Settings:
    """Settings from command-line options: flags win over the file, the file over the defaults.

    Args:
        options: Values of the options of ``vkprovider run``; absent ones count as not given.

    Raises:
        ConfigurationError: A file or a combination of options is wrong.
    """
    name = options.get("node_name") or _parse_host_name()
    settings = Settings(node=NodeSettings(name=name), root_dir=options.get("root_dir") or default_root_dir(name))
    if (path := options.get("config")) is not None:
        file = read_kubelet_configuration(path)
        settings = file.apply(settings)
        if warning := file.describe_ignored():
            click.echo(f"Warning: {path}: {warning}", err=True)
    provider_config: dict[str, Any] = {}
    if (path := options.get("provider_config")) is not None:
        provider_config = read_yaml_mapping(path, what="provider configuration")
    if network := options.get("docker_network"):
        if options.get("provider") != "docker":
            raise ConfigurationError("--docker-network goes with --provider docker only")
        provider_config["network"] = network
    node = settings.node
    node = replace(
        node,
        ips=tuple(options.get("node_ips") or node.ips),
        labels={**node.labels, **dict(options.get("labels") or ())},
        taints=tuple(options.get("taints") or node.taints),
        default_taint=not options.get("no_default_taint"),
        exclude_from_load_balancers=bool(options.get("exclude_from_load_balancers")),
        delete_on_exit=bool(options.get("delete_node_on_exit")),
        standby=bool(options.get("standby")),
    )
    server = settings.server
    if listen := options.get("listen"):
        server = replace(server, address=listen[0], port=listen[1])
    if listen := options.get("healthz_listen"):
        server = replace(server, healthz_address=listen[0], healthz_port=listen[1])
    server = replace(
        server,
        client_ca_file=options.get("client_ca_file") or server.client_ca_file,
        tls_cert_file=options.get("tls_cert_file") or server.tls_cert_file,
        tls_private_key_file=options.get("tls_private_key_file") or server.tls_private_key_file,
    )
    if (server.tls_cert_file is None) != (server.tls_private_key_file is None):
        raise ConfigurationError("a serving certificate needs both --tls-cert-file and --tls-private-key-file")
    for path in (server.client_ca_file, server.tls_cert_file, server.tls_private_key_file):
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigurationError(f"file {path} does not exist or cannot be read")
    return replace(
        settings,
        node=node,
        server=server,
        cluster=replace(settings.cluster, kubeconfig=options.get("kubeconfig"), context=options.get("context")),
        provider=options.get("provider") or settings.provider,
        provider_config=provider_config,
        pod_infra_container_image=options.get("pod_infra_container_image") or settings.pod_infra_container_image,
    )


def default_root_dir(node_name: str) -> Path:
    """Directory of a node's files when none is given: below /var/lib for root, below the user's state directory else."""
    if os.geteuid() == 0:
        return Path("/var/lib/vkprovider") / node_name
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "vkprovider" / node_name


def _parse_host_name() -> str:
    try:
        return _parse_node_name(socket.gethostname())
    except ValueError as error:
        raise ConfigurationError(f"this host's name cannot be a node name ({error}); give --node-name") from error


def _checked(build: Callable[[], T]) -> T:
    try:
        return build()
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_USAGE)


def _execute(main: Callable[[asyncio.Event], Coroutine[Any, Any, int | None]]) -> None:
    """Run a coroutine with SIGINT and SIGTERM turned into its stop event, and errors into exit codes."""
    # Thousands of small long-lived objects make the default collector walk them again and again.
    gc.set_threshold(50_000, 20, 50)

    async def with_signals() -> int | None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    try:
        code = asyncio.run(with_signals())
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except NodeNameTakenError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EXIT_NAME_TAKEN)
    except VkproviderError as error:
        click.echo(f"Error: {error}", err=True)
        logger.debug("Cause", exc_info=error)
        sys.exit(EXIT_FAILED)
    sys.exit(code or 0)


def main() -> None:
    """Entry point of the ``vkprovider`` program."""
    cli()
