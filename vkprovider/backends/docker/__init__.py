"""Docker Engine: pods as containers joined to a sandbox container.

Only the factory lives here; the rest is imported when a provider is built, so that listing providers stays cheap.
"""

from __future__ import annotations

from vkprovider.provider.container_runtime import ContainerRuntime
from vkprovider.provider.registry import ProviderFactory, ProviderOptions

__all__ = ["DockerProviderFactory"]


class DockerProviderFactory(ProviderFactory):
    """Builds a ``DockerRuntime``; the entry point ``docker`` of the group ``vkprovider.providers``."""

    description = "Docker Engine (also Podman's Docker API): pods as containers on this or a remote engine"

    def create(self, options: ProviderOptions) -> ContainerRuntime:
        """Build the runtime, without any I/O.

        Raises:
            ConfigurationError: A key of the provider's configuration is unknown or wrong.
        """
        from vkprovider.backends.docker.config import DockerConfig
        from vkprovider.backends.docker.runtime import DockerRuntime

        return DockerRuntime(DockerConfig.from_mapping(options.config), sandbox_image=options.pod_infra_container_image)
