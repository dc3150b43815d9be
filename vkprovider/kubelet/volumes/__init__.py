"""Volumes of pods as files and mounts of the host: a manager over plug-ins, one module a kind.

Packages add kinds by the entry-point group ``vkprovider.volumes``: the name is the key in ``spec.volumes[]``, the value a
``VolumePlugin`` class.
"""

from __future__ import annotations

from vkprovider.kubelet.volumes.contracts import PreparedVolume, VolumeHost, VolumePlugin, VolumeRequest, mount_error
from vkprovider.kubelet.volumes.manager import PodVolumes
from vkprovider.kubelet.volumes.registry import GROUP, load_plugins
from vkprovider.kubelet.volumes.storage import find_volume_host

__all__ = [
    "GROUP",
    "PodVolumes",
    "PreparedVolume",
    "VolumeHost",
    "VolumePlugin",
    "VolumeRequest",
    "find_volume_host",
    "load_plugins",
    "mount_error",
]
