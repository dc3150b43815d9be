"""The entry point ``memory`` of the group ``vkprovider.providers``."""

from __future__ import annotations

from vkprovider.backends.memory.config import MemoryConfig
from vkprovider.backends.memory.runtime import MemoryRuntime
from vkprovider.provider.registry import ProviderFactory, ProviderOptions


class MemoryProviderFactory(ProviderFactory):
    """Builds the memory runtime; the node's root directory bounds the real files that containers see."""

    description = "simulated containers inside this process: for trying out, tests and scale runs"

    def create(self, options: ProviderOptions) -> MemoryRuntime:
        """Build it.

        Raises:
            ConfigurationError: The configuration is wrong: which key, and what it may be.
        """
        config = MemoryConfig.from_mapping(options.config)
        return MemoryRuntime(config, files_root=options.root_dir if config.files else None, hostname=options.node_name)
