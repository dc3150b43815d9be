"""Volumes of kind ``projected``.

Source: pkg/volume/projected.
"""

from __future__ import annotations

from typing import ClassVar

from vkprovider.kubelet.volumes.payload import PayloadPlugin


class ProjectedPlugin(PayloadPlugin):
    """Secrets, config maps, fields of the pod and tokens in one tree; on a tmpfs."""

    kind: ClassVar[str] = "projected"
    word: ClassVar[str] = "projected"
