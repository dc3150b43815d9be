"""Volumes of kind ``configMap``.

Source: pkg/volume/configmap.
"""

from __future__ import annotations

from typing import ClassVar

from vkprovider.kubelet.volumes.payload import PayloadPlugin


class ConfigMapPlugin(PayloadPlugin):
    """The files of a config map; on disk, as the kubelet keeps them."""

    kind: ClassVar[str] = "configMap"
    word: ClassVar[str] = "configmap"
    in_memory: ClassVar[bool] = False
