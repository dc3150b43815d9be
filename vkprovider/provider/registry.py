"""Finding providers by name, through the entry-point group ``vkprovider.providers``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from vkprovider.errors import ConfigurationError
from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.provider.pod_provider import PodProvider

GROUP = "vkprovider.providers"


@dataclass(frozen=True, slots=True)
class ProviderOptions:
    """What a factory gets to build a provider.

    Attributes:
        node_name: Name of the node.
        root_dir: Directory of this node's files.
        config: Contents of the provider's configuration file (``--provider-config``); empty when there is none.
        pod_infra_container_image: Image of PodSandbox containers.
    """

    node_name: str
    root_dir: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    pod_infra_container_image: str = "registry.k8s.io/pause:3.10.1"


class ProviderFactory(ABC):
    """Builds a provider; entry points of the group ``vkprovider.providers`` name such classes."""

    description: str = ""
    """One line for ``vkprovider providers``."""

    @abstractmethod
    def create(self, options: ProviderOptions) -> PodProvider | ContainerRuntime:
        """Build the provider, without any I/O. A ``ContainerRuntime`` gets kubelet behaviour from the library.

        Raises:
            ConfigurationError: The configuration is wrong: which key, and what it may be.
        """


def list_providers() -> dict[str, EntryPoint]:
    """All installed providers by name, sorted; of equal names the first found counts."""
    found: dict[str, EntryPoint] = {}
    for entry_point in entry_points(group=GROUP):
        found.setdefault(entry_point.name, entry_point)
    return dict(sorted(found.items()))


def load_factory(name: str) -> ProviderFactory:
    """The factory of the provider of this name.

    Raises:
        ConfigurationError: No such provider is installed, or it cannot be imported; lists those there are.
    """
    providers = list_providers()
    entry_point = providers.get(name)
    if entry_point is None:
        known = ", ".join(providers) or "none"
        raise ConfigurationError(
            f"no provider named {name!r} is installed (installed: {known}); a package adds one by the entry-point group {GROUP!r}"
        )
    try:
        loaded = entry_point.load()
    except Exception as error:
        raise ConfigurationError(f"provider {name!r} ({entry_point.value}) cannot be imported: {error}") from error
    factory = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(factory, ProviderFactory):
        raise ConfigurationError(f"provider {name!r}: {entry_point.value} is not a vkprovider ProviderFactory")
    return factory
