"""Volumes of kind ``downwardAPI``.

Source: pkg/volume/downwardapi.
"""

from __future__ import annotations

from typing import ClassVar

from vkprovider.kubelet.volumes.payload import PayloadPlugin


class DownwardAPIPlugin(PayloadPlugin):
    """Fields of the pod as files; on a tmpfs."""

    kind: ClassVar[str] = "downwardAPI"
    word: ClassVar[str] = "downward-api"
