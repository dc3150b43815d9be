"""Which kinds of volumes there are: those of the library, and those that installed packages add."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from vkprovider.kubelet.volumes.config_map import ConfigMapPlugin
from vkprovider.kubelet.volumes.contracts import VolumePlugin
from vkprovider.kubelet.volumes.downward_api import DownwardAPIPlugin
from vkprovider.kubelet.volumes.empty_dir import EmptyDirPlugin
from vkprovider.kubelet.volumes.ephemeral import EphemeralPlugin
from vkprovider.kubelet.volumes.host_path import HostPathPlugin
from vkprovider.kubelet.volumes.persistent_volume_claim import PersistentVolumeClaimPlugin
from vkprovider.kubelet.volumes.projected import ProjectedPlugin
from vkprovider.kubelet.volumes.secret import SecretPlugin

logger = logging.getLogger(__name__)

GROUP: Final = "vkprovider.volumes"
BUILT_IN: Final = (
    EmptyDirPlugin,
    HostPathPlugin,
    ConfigMapPlugin,
    SecretPlugin,
    DownwardAPIPlugin,
    ProjectedPlugin,
    PersistentVolumeClaimPlugin,
    EphemeralPlugin,
)


def load_plugins() -> Mapping[str, VolumePlugin]:
    """Plug-ins by the key in ``spec.volumes[]``.

    Those of other packages come after ours and replace none of them; one that cannot be loaded is logged and left out.
    """
    plugins: dict[str, VolumePlugin] = {kind.kind: kind() for kind in BUILT_IN}
    for entry_point in entry_points(group=GROUP):
        if entry_point.name in plugins:
            logger.warning(
                "A volume plug-in has the name of another one and is left out",
                extra={"kind": entry_point.name, "plugin": entry_point.value},
            )
            continue
        try:
            plugin = entry_point.load()()
            if not isinstance(plugin, VolumePlugin):
                raise TypeError(f"{entry_point.value} is not a VolumePlugin")
        except Exception:
            logger.exception(
                "A volume plug-in cannot be loaded and is left out",
                extra={"kind": entry_point.name, "plugin": entry_point.value},
            )
            continue
        plugins[entry_point.name] = plugin
    return plugins
